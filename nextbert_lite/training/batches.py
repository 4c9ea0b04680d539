"""From lists of token ids to padded batches: whose turn it is, and how a batch is made of its rows.

`Batches` is what all have in common. What a batch holds is said by `MLMBatches` (lessons 05 to 08), `PairBatches`
(09 to 12) and `LabelledBatches` (13).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nextbert_lite.core.masking import IGNORE, mask_tokens
from nextbert_lite.training.tokenizer import Tokenizer
from nextbert_lite.validate import check_count, check_lists, check_sequences, check_text_pairs, check_tokenizer

LEAST = 8  # tokens; shorter pieces have too little context to learn from
POOL = 50  # batches whose texts are sorted by length together


def seeded(*numbers: int) -> torch.Generator:
    """Return a random generator that depends on all the numbers, (seed, epoch), say: whole ones, not negative."""
    for number in numbers:
        check_count("a seed", number, least=0)
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1))


def pad(sequences: Sequence[Sequence[int] | Tensor], pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Return the sequences as one tensor (B, T), filled with pad_id on the right, and its mask (B, T).

    T is the longest length. The mask is True at the real tokens: *may be attended to*.
    Raises ValueError for an empty batch or an empty sequence.
    """
    rows = check_sequences(sequences)
    if not hasattr(pad_id, "__index__"):
        raise TypeError(f"pad_id is {type(pad_id).__name__}; it must be a token id: `tokenizer.pad_id`.")
    ids = pad_sequence(rows, batch_first=True, padding_value=pad_id)
    return ids, torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]


def length_buckets(
    lengths: Sequence[int], batch_size: int, generator: torch.Generator | None = None
) -> list[list[int]]:
    """Return one epoch of batches, each a list of indices of texts of about the same length, in random order.

    Texts are shuffled, sorted by length within pools of 50 batches, cut into batches, and the batches shuffled:
    padding nearly vanishes and the order stays random. Each index comes once; the last batch may be smaller.
    """
    check_count("batch_size", batch_size)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    batches = []
    for start in range(0, len(order), POOL * batch_size):
        chunk = sorted(order[start : start + POOL * batch_size], key=lengths.__getitem__)
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def by_length(
    sequences: Sequence[Sequence[int]],
    pad_id: int,
    call: Callable[[Tensor, Tensor], Tensor],
    batch_size: int = 64,
) -> Tensor:
    """Return one row of `call(ids, mask)` for each sequence, in the order of the sequences.

    Sequences of like length are padded together, ids and mask (B, T): little is computed for padding.
    """
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    rows = []
    for start in range(0, max(1, len(order)), batch_size):  # of no sequence `pad` says so
        rows.append(call(*pad([sequences[i] for i in order[start : start + batch_size]], pad_id)))
    return torch.cat(rows)[torch.tensor(order).argsort()]


class Batches:
    """The batches of n texts: call it with a step, get that step's batch.

    A batch is a function of the seed and the step alone, so that a run stopped at any step can go on exactly.
    whole: leave out the last texts of an epoch where they do not fill a batch.
    """

    def __init__(self, n: int, batch_size: int, seed: int, whole: bool = False):
        self.n, self.batch_size, self.seed, self.whole = n, check_count("batch_size", batch_size), seed, whole
        self.epoch = -1

    def __len__(self) -> int:
        """Batches in one epoch."""
        return self.n // self.batch_size if self.whole else -(-self.n // self.batch_size)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Return the batch of a step."""
        return self.batch(self.rows_of(step))

    def rows_of(self, step: int) -> list[int]:
        """Return the numbers of the texts in the batch of a step."""
        epoch, number = divmod(check_count("step", step, least=0), len(self))
        if epoch != self.epoch:
            self.rows = self.start_epoch(epoch)
            self.epoch = epoch
        return self.rows[number]

    def start_epoch(self, epoch: int) -> list[list[int]]:
        """Return the rows of each batch of an epoch: all texts in random order."""
        order = torch.randperm(self.n, generator=seeded(self.seed, epoch)).tolist()
        return [order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(len(self))]

    def batch(self, rows: list[int]) -> dict[str, Tensor]:
        """Return the batch of these texts; each kind of batches says what it holds."""
        raise NotImplementedError


class MLMBatches(Batches):
    """The batches of masked-language-model training: ids, labels and mask, each (B, T).

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
        check_tokenizer(tokenizer)
        rows = check_sequences(sequences, tokenizer.vocab_size)
        check_count("copies (None for dynamic masking)", 1 if copies is None else copies)
        super().__init__(len(rows), batch_size, seed)
        self.lengths = [len(row) for row in rows]
        self.stream = torch.cat(rows)  # all texts behind one another
        self.tokenizer, self.rate, self.copies = tokenizer, rate, copies

    def start_epoch(self, epoch: int) -> list[list[int]]:
        """Mask the texts for one epoch and return the rows of its batches, texts of like length together."""
        version = epoch if self.copies is None else epoch % self.copies
        corrupted, labels = mask_tokens(self.stream, self.tokenizer, self.rate, seeded(self.seed, 0, version))
        self.corrupted, self.labels = corrupted.split(self.lengths), labels.split(self.lengths)
        return length_buckets(self.lengths, self.batch_size, seeded(self.seed, 1, epoch))

    def batch(self, rows: list[int]) -> dict[str, Tensor]:
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


class LabelledBatches(Batches):
    """The batches of fine-tuning: ids and mask, each (B, T), and labels, (B,) or (B, T).

    labels: one number a text, or for a `TokenClassifier` one list a text with a number for each of its ids; -100 is no
    label. Texts of like length are together. Raises ValueError where texts and labels do not fit.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[int]],
        labels: Sequence[int] | Sequence[Sequence[int]],
        tokenizer: Tokenizer,
        batch_size: int = 16,
        seed: int = 0,
    ):
        check_tokenizer(tokenizer)
        if len(sequences) == 0 or len(sequences) != len(labels):
            raise ValueError(
                f"there are {len(sequences)} texts and {len(labels)} labels; give as many, and at least one."
            )
        super().__init__(len(sequences), batch_size, seed)
        self.sequences, self.pad_id = check_sequences(sequences, tokenizer.vocab_size), tokenizer.pad_id
        try:
            self.labels = [torch.as_tensor(label) for label in labels]
        except (TypeError, ValueError, RuntimeError):
            self.labels = [torch.tensor(0.0)]
        if any(label.is_floating_point() for label in self.labels):
            raise TypeError("a label is a text or a float, or missing; give its class's number: `names.index(label)`.")
        self.labels = [label.long() for label in self.labels]
        if len({label.ndim for label in self.labels}) > 1:
            raise ValueError("some texts have one label and some a list; give one a text, or one an id of every text.")
        for number, (ids, label) in enumerate(zip(sequences, self.labels, strict=True)):
            if label.ndim and len(label) != len(ids):
                raise ValueError(f"text {number} has {len(ids)} ids and {len(label)} labels; give one label an id.")

    def start_epoch(self, epoch: int) -> list[list[int]]:
        """Return the rows of an epoch's batches, texts of like length together; the last one may be smaller."""
        return length_buckets([len(ids) for ids in self.sequences], self.batch_size, seeded(self.seed, epoch))

    def batch(self, rows: list[int]) -> dict[str, Tensor]:
        ids, mask = pad([self.sequences[row] for row in rows], self.pad_id)
        labels = [self.labels[row] for row in rows]
        return {"ids": ids, "mask": mask, "labels": pad(labels, IGNORE)[0] if labels[0].ndim else torch.stack(labels)}


class PairBatches(Batches):
    """The batches of contrastive training: what `pair_batch` makes of a batch of pairs.

    pairs: (anchor, positive), each a list of token ids. The last pairs of an epoch that do not fill a batch are left
    out: a smaller batch is an easier question.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
        tokenizer: Tokenizer,
        batch_size: int = 64,
        seed: int = 0,
    ):
        check_tokenizer(tokenizer)
        if batch_size < 2:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 2: the others are the negatives.")
        if len(pairs) < batch_size:
            raise ValueError(f"there are {len(pairs)} pairs, fewer than a batch of {batch_size}.")
        sides = check_text_pairs(pairs, tokenizer.vocab_size)
        super().__init__(len(pairs), batch_size, seed, whole=True)
        anchors, positives = ([tuple(ids.tolist()) for ids in side] for side in sides)
        self.pairs, self.pad_id = list(zip(anchors, positives, strict=True)), tokenizer.pad_id

    def batch(self, rows: list[int]) -> dict[str, Tensor]:
        return pair_batch([self.pairs[row] for row in rows], self.pad_id)


def pair_batch(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> dict[str, Tensor]:
    """Return pairs of texts, as tuples of token ids, as one batch for `SentenceEncoder.loss`.

    That is ids and mask of the anchors and of the positives, each (B, T), and `same`, (B, B).
    """
    anchors, positives = zip(*pairs, strict=True)
    (ids, mask), (positive_ids, positive_mask) = pad(anchors, pad_id), pad(positives, pad_id)
    return {
        "ids": ids,
        "mask": mask,
        "positive_ids": positive_ids,
        "positive_mask": positive_mask,
        "same": same_texts(anchors, positives),
    }


def same_texts(anchors: Sequence[Hashable], positives: Sequence[Hashable]) -> Tensor:
    """Return (B, B): True where pairs i and j share a text, so that neither holds a wrong answer for the other."""
    check_lists(anchors, positives)
    is_key = [isinstance(text, Hashable) and not isinstance(text, Tensor) for text in (*anchors, *positives)]
    keys = [t if k else tuple(map(int, t)) for t, k in zip((*anchors, *positives), is_key, strict=True)]
    number = {text: i for i, text in enumerate(dict.fromkeys(keys))}
    a, b = torch.tensor([number[key] for key in keys]).chunk(2)
    equal = (a[:, None] == a) | (b[:, None] == b) | (a[:, None] == b)
    return equal | equal.T


def join_pair(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """Return two encoded texts as BERT reads a pair: [CLS] a [SEP] and [CLS] b [SEP] -> [CLS] a [SEP] b [SEP]."""
    if len(a) < 2 or len(b) < 2 or a[0] != b[0] or a[-1] != b[-1]:
        raise ValueError("join_pair takes two texts that start with [CLS] and end with [SEP]: `tokenizer.encode` does.")
    return [*a, *b[1:]]


def pieces(texts: list[str], tokenizer: Tokenizer, max_len: int) -> list[list[int]]:
    """Return the texts as pieces of at most max_len ids, each between [CLS] and [SEP]; very short ones are left out."""
    return [piece for found in pieces_of_each(texts, tokenizer, max_len) for piece in found]


def pieces_of_each(texts: list[str], tokenizer: Tokenizer, max_len: int) -> list[list[list[int]]]:
    """Return the pieces of each text, as `pieces` makes them: none of a text that is too short."""
    found, room = [], check_count("max_len", max_len, least=LEAST + 2) - 2  # of a shorter one nothing would be left
    for ids in tokenizer.encode_batch(texts):
        words = ids[1:-1]
        parts = [words[i : i + room] for i in range(0, len(words), room)]
        found.append([[tokenizer.cls_id, *part, tokenizer.sep_id] for part in parts if len(part) >= LEAST])
    return found
