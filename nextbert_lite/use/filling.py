"""What a masked language model puts into a gap: the likeliest tokens for each, or a text with all of them written."""

from __future__ import annotations

import torch
from torch import Tensor

from nextbert_lite.core.diffusion import fill_gaps
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.training.batches import pad, seeded
from nextbert_lite.training.loop import evaluating
from nextbert_lite.training.tokenizer import Tokenizer
from nextbert_lite.validate import check_count, check_gap_filler, check_logits, check_tokenizer


@torch.no_grad()
def fill_mask(model: MaskedLanguageModel, tokenizer: Tokenizer, text: str, k: int = 5) -> list[list[tuple[str, float]]]:
    """Return, for each [MASK] in the text, the k likeliest tokens with their probabilities.

    A table that is larger than the vocabulary, as ModernBERT's, has rows for no token: these are not proposed.
    Raises ValueError when the text has no [MASK], or does not fit into the model.
    """
    check_count("k", k)
    ids = gapped(model, tokenizer, text)
    gaps = ids[0] == tokenizer.mask_id
    with evaluating(model):
        probabilities = finite_logits(model, ids)[0, gaps].softmax(-1)[:, : tokenizer.vocab_size]
    top = probabilities.topk(min(k, probabilities.shape[-1]))
    return [
        list(zip(tokenizer.tokens(ids), values.tolist(), strict=True))
        for ids, values in zip(top.indices, top.values, strict=True)
    ]


def write(
    model: MaskedLanguageModel,
    tokenizer: Tokenizer,
    text: str,
    steps: int | None = None,
    order: str = "random",
    temperature: float = 1.0,
    seed: int = 0,
) -> str:
    """Return the text with a token drawn for each [MASK], never a special one; one gap a step unless steps is given.

    order: which gaps come first, "random", "left", "surest" or "drawn"; see `core.diffusion.fill_gaps`. The same seed
    gives the same text. Raises ValueError for a text without a [MASK], and for more steps than it has.
    """
    ids = gapped(model, tokenizer, text)
    gaps = int((ids == tokenizer.mask_id).sum())
    steps = gaps if steps is None else check_count("steps", steps)
    if steps > gaps:
        raise ValueError(f"steps is {steps}, and the text has {gaps} gaps: each step writes one at least.")
    with evaluating(model):
        whole = fill_gaps(
            lambda ids: finite_logits(model, ids)[..., : tokenizer.vocab_size],  # a larger table has rows for no token
            *(ids, tokenizer, steps, order, temperature, seeded(seed)),
        )
    return tokenizer.decode(whole[0])


def gapped(model: MaskedLanguageModel, tokenizer: Tokenizer, text: str) -> Tensor:
    """Return the ids of a text with gaps, (1, T); TypeError for no MaskedLanguageModel, ValueError without a gap."""
    check_tokenizer(tokenizer)
    check_gap_filler(model, "words are put into gaps by a MaskedLanguageModel")
    ids, _ = pad([tokenizer.encode(text, allow_specials=True)], tokenizer.pad_id)
    if not (ids == tokenizer.mask_id).any():
        gap = tokenizer.backend.id_to_token(tokenizer.mask_id)
        raise ValueError(f"there is no {gap} in the text {text!r}: write one where a word is to be guessed.")
    return ids


def finite_logits(model: MaskedLanguageModel, ids: Tensor) -> Tensor:
    """Return the model's logits on the CPU; ValueError for NaN or +inf; -inf forbids a token."""
    return check_logits(model(ids.to(model.head.bias.device)).cpu())
