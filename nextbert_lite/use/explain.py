"""What a masked language model's guess rests on: one number for each word of the text."""

from __future__ import annotations

import torch
from torch import Tensor

from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.training.batches import pad
from nextbert_lite.training.loop import evaluating
from nextbert_lite.training.tokenizer import Tokenizer
from nextbert_lite.validate import check_gap_filler, check_tokenizer

METHODS = ("occlusion", "gradient", "attention")


def explain(
    model: MaskedLanguageModel, tokenizer: Tokenizer, text: str, method: str = "occlusion"
) -> list[tuple[str, float]]:
    """Return each word of a text with one [MASK], and how much the guess at the [MASK] rests on it; 0 for the [MASK].

    "occlusion": KL(before || after), in nats, of the guess when the word is hidden too; of the methods of lesson 22
    it came closest to the true influence, which hides words as well. "gradient": the length of the gradient of the
    likeliest token's log probability at the word's embeddings. "attention": the last layer's mean weight from the
    [MASK]. Words are what stands between spaces, so a full stop belongs to the word before it.
    Raises TypeError for another model, ValueError for a text without one [MASK] or too long for the model, for
    another method, and for a model that gives NaN or an infinite score.
    """
    check_tokenizer(tokenizer)
    check_gap_filler(model, "explain needs a MaskedLanguageModel, which fills gaps")
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; choose one of {', '.join(METHODS)}.")
    ids, mask = pad([tokenizer.encode(text, allow_specials=True)], tokenizer.pad_id)
    gaps = (ids[0] == tokenizer.mask_id).nonzero()[:, 0].tolist()
    if len(gaps) != 1:
        spelt = tokenizer.backend.id_to_token(tokenizer.mask_id)
        raise ValueError(f"the text has {len(gaps)} {spelt}; write one, where the guess is to be explained.")
    words, owner = text.split(), torch.tensor(_words_of(tokenizer, text))
    parts = (owner == torch.arange(len(words))[:, None]) & (owner != owner[gaps[0]])  # (words, T)
    device = model.head.bias.device
    with evaluating(model):
        scores = {"occlusion": _occlusion, "gradient": _gradient, "attention": _attention}[method](
            model, ids.to(device), mask.to(device), gaps[0], parts.to(device), tokenizer.mask_id
        )
    if not scores.isfinite().all():
        raise ValueError(
            "the model gives NaN or an infinite score: its weights hold NaN or an infinity, or hiding a word rules out "
            "a token that was possible before. Load it or train it anew."
        )
    return list(zip(words, scores.tolist(), strict=True))


def _words_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return for each token, [CLS] and [SEP] included, the number of its word between spaces; -1 for those two."""
    offsets = tokenizer.offsets(text, allow_specials=True)
    # counted at a token's end: a byte-level token may begin with the space before its word
    return [-1, *(len(text[:end].split()) - 1 for _, end in offsets), -1]


@torch.no_grad()
def _occlusion(model, ids: Tensor, mask: Tensor, gap: int, parts: Tensor, mask_id: int) -> Tensor:
    before = model(ids, mask)[0, gap].double().log_softmax(-1)
    found = []
    for some in parts.split(64):
        hidden = ids.masked_fill(some, mask_id)  # (words, T), each row without one word
        after = model(hidden, mask.expand_as(hidden))[:, gap].double().log_softmax(-1)
        parts_of_kl = before.exp() * (before - after)
        found.append(torch.where(before == -torch.inf, 0, parts_of_kl).sum(-1))  # an impossible token adds 0, not NaN
    return torch.cat(found).clamp(min=0)


def _gradient(model, ids: Tensor, mask: Tensor, gap: int, parts: Tensor, mask_id: int) -> Tensor:
    leaves = []
    leaf = model.encoder.tokens.register_forward_hook(
        lambda *call: leaves.append(call[2].detach().requires_grad_()) or leaves[0]
    )
    try:
        with torch.enable_grad():
            best = model(ids, mask)[0, gap].log_softmax(-1).max()
            (gradient,) = torch.autograd.grad(best, leaves)
    finally:
        leaf.remove()
    return (parts * gradient[0].square().sum(-1)).sum(-1).sqrt()


@torch.no_grad()
def _attention(model, ids: Tensor, mask: Tensor, gap: int, parts: Tensor, mask_id: int) -> Tensor:
    _, inside = model.encoder(ids, mask, return_inside=True)
    return (parts * inside.weights[-1][0, :, gap].mean(0)).sum(-1)
