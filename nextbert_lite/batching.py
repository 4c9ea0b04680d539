"""From lists of token ids to padded tensors, with as little padding as possible."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def seeded(*numbers: int) -> torch.Generator:
    """Return a random generator that depends on all the numbers: (seed, epoch), say."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1))


def pad(sequences: Sequence[Sequence[int] | Tensor], pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Return the sequences as one tensor (B, T), filled with pad_id on the right, and its mask (B, T).

    T is the longest length. The mask is True at the real tokens: *may be attended to*.
    Raises ValueError for an empty batch or an empty sequence.
    """
    if len(sequences) == 0:
        raise ValueError("the batch is empty: give at least one sequence of token ids.")
    lengths = torch.tensor([len(s) for s in sequences])
    if (lengths == 0).any():
        raise ValueError(f"sequence {int(lengths.argmin())} of the batch is empty: leave it out, or encode its text.")
    rows = [s if isinstance(s, Tensor) else torch.tensor(s) for s in sequences]
    ids = pad_sequence(rows, batch_first=True, padding_value=pad_id)
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


def length_buckets(
    lengths: Sequence[int], batch_size: int, generator: torch.Generator | None = None, pool: int = 50
) -> list[list[int]]:
    """Return one epoch of batches, each a list of indices of texts of about the same length, in random order.

    Texts are shuffled, sorted by length within pools of `pool` batches, cut into batches, and the batches shuffled:
    padding nearly vanishes and the order stays random. Each index comes once; the last batch may be smaller.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
    order = torch.randperm(len(lengths), generator=generator).tolist()
    batches = []
    for start in range(0, len(order), pool * batch_size):
        chunk = sorted(order[start : start + pool * batch_size], key=lengths.__getitem__)
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
