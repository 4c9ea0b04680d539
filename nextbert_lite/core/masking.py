"""Masked-language-model corruption, as lesson 05 builds it (Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from nextbert_lite.validate import check_masking

IGNORE = -100  # the label of a position that was not selected; torch's cross_entropy leaves it out


def mask_tokens(
    ids: Tensor, tokenizer, rate: float = 0.15, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Select tokens at random and corrupt them: 80 % become [MASK], 10 % a random word, 10 % stay.

    ids: (B, T) -> corrupted ids (B, T) and labels (B, T): the original id where selected, -100 elsewhere.
    tokenizer: a `Tokenizer`; what is used of it is special_ids, mask_id and vocab_size.
    Each ordinary token is selected by an independent draw with probability `rate`; special tokens never are, and a
    random word is never a special token (it may be the original, as in Google's code).
    """
    check_masking(ids, tokenizer, rate)
    special = torch.tensor(tokenizer.special_ids)
    selected = (torch.rand(ids.shape, generator=generator) < rate) & ~torch.isin(ids, special)
    labels = ids.masked_fill(~selected, IGNORE)
    draw = torch.rand(ids.shape, generator=generator)  # one draw decides what happens: 0.8 / 0.1 / 0.1
    words = torch.randint(tokenizer.vocab_size - len(special), ids.shape, generator=generator)
    for i in tokenizer.special_ids:  # in ascending order: step over each special token
        words += words >= i
    corrupted = ids.masked_fill(selected & (draw < 0.8), tokenizer.mask_id)
    corrupted = torch.where(selected & (0.8 <= draw) & (draw < 0.9), words, corrupted)
    return corrupted, labels
