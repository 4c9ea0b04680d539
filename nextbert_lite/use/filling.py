"""What a masked language model puts into a gap."""

from __future__ import annotations

import torch

from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.training.batches import pad
from nextbert_lite.training.loop import evaluating
from nextbert_lite.training.tokenizer import Tokenizer
from nextbert_lite.validate import check_count, check_tokenizer


@torch.no_grad()
def fill_mask(model: MaskedLanguageModel, tokenizer: Tokenizer, text: str, k: int = 5) -> list[list[tuple[str, float]]]:
    """Return, for each [MASK] in the text, the k likeliest tokens with their probabilities.

    A table that is larger than the vocabulary, as ModernBERT's, has rows for no token: these are not proposed.
    Raises ValueError when the text has no [MASK], or does not fit into the model.
    """
    check_tokenizer(tokenizer)
    check_count("k", k)
    if not hasattr(getattr(model, "head", None), "bias"):  # a learner's own class is welcome
        raise TypeError(f"the model is {type(model).__name__}; words are put into gaps by a MaskedLanguageModel.")
    ids, _ = pad([tokenizer.encode(text, allow_specials=True)], tokenizer.pad_id)
    gaps = ids[0] == tokenizer.mask_id
    if not gaps.any():
        gap = tokenizer.backend.id_to_token(tokenizer.mask_id)
        raise ValueError(f"there is no {gap} in the text {text!r}: write one where a word is to be guessed.")
    with evaluating(model):
        probabilities = model(ids.to(model.head.bias.device))[0, gaps].softmax(-1).cpu()[:, : tokenizer.vocab_size]
    if not probabilities.isfinite().all():
        raise ValueError("the model gives NaN: its weights hold NaN or an infinity. Load it or train it anew.")
    top = probabilities.topk(min(k, probabilities.shape[-1]))
    return [
        list(zip(tokenizer.tokens(ids), values.tolist(), strict=True))
        for ids, values in zip(top.indices, top.values, strict=True)
    ]
