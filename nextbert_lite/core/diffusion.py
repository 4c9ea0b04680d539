"""Masked diffusion, as lesson 17 builds it: the loss with a random masking rate, and the sampler that writes.

MDLM (Sahoo et al. 2024, arXiv:2406.07524) and LLaDA (Nie et al. 2025, arXiv:2502.09992): BERT's model, masked tokens
only, the masking rate drawn from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nextbert_lite.validate import check_hidden, check_writing

ORDERS = ("random", "left", "surest", "drawn")  # which gaps are written first


def hide_words(ids: Tensor, tokenizer, rates: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
    """Choose the words to be hidden: ids (B, T) -> boolean (B, T), True = hidden; never a special token.

    rates: (B,), each word of a text is hidden by a draw of its own with its text's rate. Without: k of the text's n
    words, k uniform in 1 … n and all choices of k words equally likely.
    """
    words = ~torch.isin(ids, torch.tensor(tokenizer.special_ids, device=ids.device))
    draws = torch.rand(ids.shape, generator=generator).to(ids.device)  # drawn on the CPU, by its generator
    if rates is not None:
        return words & (draws < rates[:, None])
    k = 1 + (torch.rand(len(ids), generator=generator).to(ids.device) * words.sum(1)).long()
    place_in_queue = draws.masked_fill(~words, torch.inf).argsort(1).argsort(1)
    return words & (place_in_queue < k[:, None])


def diffusion_loss(model: Callable, ids: Tensor, hidden: Tensor, tokenizer, rates: Tensor | None = None) -> Tensor:
    """Return the bound on -log P(texts | lengths) in nats a word: weighted losses of the hidden words, over all words.

    model: (B, T) -> logits (B, T, V). hidden: boolean (B, T), from `hide_words`. A text's losses are weighted by
    1 / its rate (arXiv:2502.09992, equation 3), or without rates by n / k, for k hidden of n words (arXiv:2110.02037).
    Raises ValueError for a batch without a word, and for `hidden` or rates that do not fit.
    """
    words = ~torch.isin(ids, torch.tensor(tokenizer.special_ids, device=ids.device))
    check_hidden(ids, hidden, words, rates)
    logits = model(ids.masked_fill(hidden, tokenizer.mask_id))
    losses = F.cross_entropy(logits[hidden], ids[hidden], reduction="none")  # (hidden words,)
    weights = words.sum(1) / hidden.sum(1) if rates is None else 1 / rates  # (B,)
    return (weights[:, None].expand(ids.shape)[hidden] * losses).sum() / words.sum()


def fill_gaps(
    model: Callable,
    ids: Tensor,
    tokenizer,
    steps: int,
    order: str = "random",
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Write a word into each [MASK] of ids (B, T), in so many steps, and return the whole texts.

    model: (B, T) -> logits (B, T, V), called once a step; what is written stays. Each step writes the number of gaps
    left divided by the number of steps left, rounded up, each word drawn from softmax(logits / temperature) without the
    special tokens. order: which gaps come first, "random", "left", "surest" (the largest probability that the position
    gives to any word), or "drawn" (the largest probability of the word that was drawn there; LLaDA's, if it draws).
    """
    check_writing(steps, order, temperature, ORDERS)
    training = getattr(model, "training", False)
    if training:
        model.eval()
    ids = ids.clone()
    try:
        for left in range(steps, 0, -1):
            gaps = ids == tokenizer.mask_id  # (B, T)
            if not gaps.any():
                break
            with torch.no_grad():
                logits = model(ids)[gaps].double()  # (G, V), G gaps of all texts
            logits[:, list(tokenizer.special_ids)] = -torch.inf
            p = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)  # at most 0 before the division
            drawn = torch.multinomial(p, 1, generator=generator)  # (G, 1)
            first = {
                "random": torch.rand(len(p), generator=generator, dtype=p.dtype),
                "left": -gaps.nonzero()[:, 1].to(p.dtype),
                "surest": p.amax(-1),
                "drawn": p.gather(1, drawn)[:, 0],
            }[order]
            scores = torch.full(ids.shape, -torch.inf, dtype=p.dtype).masked_scatter(gaps, first)
            queue = scores.argsort(dim=1, descending=True, stable=True).argsort(1)  # (B, T), 0 is first
            now = queue < gaps.sum(1, keepdim=True).add(left - 1).div(left, rounding_mode="floor")
            ids = torch.where(now, ids.masked_scatter(gaps, drawn[:, 0]), ids)
    finally:  # even if the model raises an error
        if training:
            model.train()
    return ids
