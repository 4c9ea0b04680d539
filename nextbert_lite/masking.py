"""Masked-language-model corruption, as lesson 05 builds it (Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nextbert_lite.batching import length_buckets, pad, seeded
from nextbert_lite.tokenizer import Tokenizer

IGNORE = -100  # the label of a position that was not selected; torch's cross_entropy leaves it out


def mask_tokens(
    ids: Tensor,
    tokenizer: Tokenizer,
    rate: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Select tokens at random and corrupt them: 80 % become [MASK], 10 % a random word, 10 % stay.

    ids: (B, T) -> corrupted ids (B, T) and labels (B, T): the original id where selected, -100 elsewhere.
    Each ordinary token is selected by an independent draw with probability `rate`; special tokens never are, and a
    random word is never a special token (it may be the original, as in Google's code).
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate is {rate}; it must be greater than 0 and at most 1 (BERT and RoBERTa: 0.15).")
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


class MLMBatches:
    """The batches of masked-language-model training: call it with a step, get that step's batch.

    A batch is a function of the seed and the step alone, so that a run stopped at any step can go on exactly.
    copies: None masks the texts anew in every epoch (dynamic masking, RoBERTa, arXiv:1907.11692, section 4.1); a
    number n makes n masked copies once and goes round them (static masking; BERT had 10).
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[int]],
        tokenizer: Tokenizer,
        batch_size: int = 64,
        rate: float = 0.15,
        seed: int = 0,
        copies: int | None = None,
    ):
        if not sequences or min(map(len, sequences)) == 0:
            raise ValueError("there must be at least one sequence of token ids, and none may be empty.")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
        if copies is not None and copies < 1:
            raise ValueError(f"copies is {copies}; it must be at least 1, or None for dynamic masking.")
        self.lengths = [len(s) for s in sequences]
        self.stream = torch.tensor([i for s in sequences for i in s])  # all texts behind one another
        self.tokenizer, self.batch_size, self.rate, self.seed, self.copies = tokenizer, batch_size, rate, seed, copies
        self.epoch = -1

    def __len__(self) -> int:
        """Batches in one epoch."""
        return -(-len(self.lengths) // self.batch_size)

    def start_epoch(self, epoch: int) -> None:
        """Draw the order of the texts and their masks for one epoch."""
        version = epoch if self.copies is None else epoch % self.copies
        corrupted, labels = mask_tokens(self.stream, self.tokenizer, self.rate, seeded(self.seed, 0, version))
        self.corrupted, self.labels = corrupted.split(self.lengths), labels.split(self.lengths)
        self.order = length_buckets(self.lengths, self.batch_size, seeded(self.seed, 1, epoch))
        self.epoch = epoch

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Return ids, labels and mask of batch `step`, each (B, T)."""
        epoch, number = divmod(step, len(self))
        if epoch != self.epoch:
            self.start_epoch(epoch)
        rows = self.order[number]
        ids, mask = pad([self.corrupted[row] for row in rows], self.tokenizer.pad_id)
        labels, _ = pad([self.labels[row] for row in rows], IGNORE)
        return {"ids": ids, "labels": labels, "mask": mask}


def fresh_batches(
    sample: Callable[[int, int], tuple[Tensor, Tensor]],
    tokenizer: Tokenizer,
    batch_size: int = 64,
    rate: float = 0.15,
    seed: int = 0,
) -> Callable[[int], dict[str, Tensor]]:
    """Return batches of sentences that are never repeated: each step draws its own with `sample(n, seed)`.

    `ToyWorld.sample_ids` is such a function. A batch, as in `MLMBatches`, depends on the seed and the step alone.
    """

    def batch(step: int) -> dict[str, Tensor]:
        generator = seeded(seed, step)
        ids, mask = sample(batch_size, generator.initial_seed())
        corrupted, labels = mask_tokens(ids, tokenizer, rate, generator)
        return {"ids": corrupted, "labels": labels, "mask": mask}

    return batch
