"""What sits on top of an encoder. Lesson 05 builds the masked-language-model head, lesson 13 the two for labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextbert_lite.batching import pad, seeded
from nextbert_lite.contrastive import pool
from nextbert_lite.encoder import ACTIVATIONS, Encoder
from nextbert_lite.masking import IGNORE
from nextbert_lite.tokenizer import Tokenizer
from nextbert_lite.validate import check_classes, check_labels


class MLMHead(nn.Module):
    """Hidden states to a score for each word of the vocabulary: dense, activation, layer norm, tied embeddings.

    The output matrix is the token embedding itself (Press and Wolf 2017, arXiv:1608.05859), plus a bias.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        C = encoder.config.width
        self.dense = nn.Linear(C, C)
        self.activation = ACTIVATIONS[encoder.config.activation]
        self.norm = nn.LayerNorm(C, eps=encoder.config.eps)
        self.bias = nn.Parameter(torch.zeros(encoder.config.vocab_size))
        encoder.initialise(self.dense)

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """hidden: (..., C), embedding: (V, C) -> logits (..., V)."""
        return F.linear(self.norm(self.activation(self.dense(hidden))), embedding, self.bias)


class MaskedLanguageModel(nn.Module):
    """An encoder with an MLM head: what is pretrained (Devlin et al. 2019, section 3.1)."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder
        self.head = MLMHead(encoder)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """ids: (B, T), mask: (B, T), True = may be attended to -> logits of every position, (B, T, V)."""
        return self.head(self.encoder(ids, mask), self.encoder.tokens.weight)

    def loss(self, ids: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the mean cross-entropy over the selected tokens, in nats; 0 if none was selected.

        labels: (B, T), the original id where a token was selected, -100 elsewhere. The head runs on the selected
        positions only: the others' logits would get exactly zero gradient.
        """
        if labels.shape != ids.shape:
            raise ValueError(f"labels have the shape {tuple(labels.shape)}, ids {tuple(ids.shape)}; they must agree.")
        hidden = self.encoder(ids, mask)
        selected = labels != IGNORE
        logits = self.head(hidden[selected], self.encoder.tokens.weight)  # (selected tokens, V)
        total = F.cross_entropy(logits, labels[selected], reduction="sum")
        return total / max(1, len(logits))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode for a while; each of its parts gets its own mode back, also after an error."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def fill_mask(model: MaskedLanguageModel, tokenizer: Tokenizer, text: str, k: int = 5) -> list[list[tuple[str, float]]]:
    """Return, for each [MASK] in the text, the k likeliest tokens with their probabilities.

    Raises ValueError when the text has no [MASK], or does not fit into the model.
    """
    ids, _ = pad([tokenizer.encode(text, allow_specials=True)], tokenizer.pad_id)
    gaps = ids[0] == tokenizer.mask_id
    if not gaps.any():
        gap = tokenizer.backend.id_to_token(tokenizer.mask_id)
        raise ValueError(f"there is no {gap} in the text {text!r}: write one where a word is to be guessed.")
    with evaluating(model):
        probabilities = model(ids.to(model.head.bias.device))[0, gaps].softmax(-1).cpu()
    top = probabilities.topk(min(k, probabilities.shape[-1]))
    return [
        list(zip(tokenizer.tokens(ids), values.tolist(), strict=True))
        for ids, values in zip(top.indices, top.values, strict=True)
    ]


# --- labels -----------------------------------------------------------------------------------------------------------


class ClassificationHead(nn.Module):
    """Hidden states to a score for each class, one row a text: pooling, dropout, a linear layer (lesson 13).

    BERT takes the vector of [CLS] through a dense layer and tanh first (Devlin et al. 2019, section 4); we pool.
    """

    def __init__(self, encoder: Encoder, classes: int, pooling: str = "mean", dropout: float = 0.1):
        super().__init__()
        self.classes, self.pooling = check_classes(classes), pooling
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(encoder.config.width, classes)
        encoder.initialise(self.out)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """hidden: (B, T, C), mask: (B, T), True = a real token -> logits (B, K), K classes."""
        return self.out(self.dropout(pool(hidden, mask, self.pooling)))


class TokenClassificationHead(nn.Module):
    """Hidden states to a score for each class, one row a token: dropout, a linear layer (lesson 13)."""

    def __init__(self, encoder: Encoder, classes: int, dropout: float = 0.1):
        super().__init__()
        self.classes = check_classes(classes)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(encoder.config.width, classes)
        encoder.initialise(self.out)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: (..., C) -> logits (..., K), K classes."""
        return self.out(self.dropout(hidden))


class TextClassifier(nn.Module):
    """An encoder with a classification head: what is fine-tuned. One label a text, or a pair of texts.

    frozen: the encoder gets no gradient and stays in eval mode, whatever `train()` says: only the head learns.
    """

    def __init__(
        self, encoder: Encoder, classes: int, pooling: str = "mean", dropout: float = 0.1, frozen: bool = False
    ):
        super().__init__()
        self.encoder, self.frozen = encoder.requires_grad_(not frozen), frozen
        self.head = ClassificationHead(encoder, classes, pooling, dropout)

    def train(self, mode: bool = True) -> TextClassifier:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, ids: Tensor, mask: Tensor | None = None, token_types: Tensor | None = None) -> Tensor:
        """ids: (B, T), mask: (B, T), True = may be attended to -> logits (B, K). token_types: see `pair_types`."""
        mask = ids != self.encoder.config.pad_id if mask is None else mask
        return self.head(self.encoder(ids, mask, token_types), mask)

    def loss(
        self, ids: Tensor, labels: Tensor, mask: Tensor | None = None, token_types: Tensor | None = None
    ) -> Tensor:
        """Return the mean cross-entropy in nats. labels: (B,), 0 to K - 1; -100 is left out; 0 if all are.

        Raises ValueError for labels of another shape or out of range.
        """
        labels = check_labels(labels, ids.shape[:1], self.head.classes)
        total = F.cross_entropy(self(ids, mask, token_types), labels, ignore_index=IGNORE, reduction="sum")
        return total / (labels != IGNORE).sum().clamp(min=1)


class TokenClassifier(nn.Module):
    """An encoder with a token classification head: one label a token. frozen: as in `TextClassifier`."""

    def __init__(self, encoder: Encoder, classes: int, dropout: float = 0.1, frozen: bool = False):
        super().__init__()
        self.encoder, self.frozen = encoder.requires_grad_(not frozen), frozen
        self.head = TokenClassificationHead(encoder, classes, dropout)

    def train(self, mode: bool = True) -> TokenClassifier:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """ids: (B, T), mask: (B, T), True = may be attended to -> logits (B, T, K)."""
        return self.head(self.encoder(ids, mask))

    def loss(self, ids: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the mean cross-entropy over the labelled tokens, in nats; 0 if there are none.

        labels: (B, T), 0 to K - 1, and -100 for what has no label: [CLS], [SEP] and padding. Raises ValueError for
        labels of another shape or out of range.
        """
        labels = check_labels(labels, ids.shape, self.head.classes)
        labelled = labels != IGNORE
        logits = self.head(self.encoder(ids, mask)[labelled])  # (labelled tokens, K)
        return F.cross_entropy(logits, labels[labelled], reduction="sum") / labelled.sum().clamp(min=1)


def join_pair(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """Return two encoded texts as BERT reads a pair: [CLS] a [SEP] and [CLS] b [SEP] -> [CLS] a [SEP] b [SEP]."""
    if len(a) < 2 or len(b) < 2 or a[0] != b[0] or a[-1] != b[-1]:
        raise ValueError("join_pair takes two texts that start with [CLS] and end with [SEP]: `tokenizer.encode` does.")
    return [*a, *b[1:]]


def pair_types(ids: Tensor, sep_id: int) -> Tensor:
    """Return the token types of pairs (B, T): 0 up to the first [SEP], 1 behind it, 0 again behind the second."""
    ends = (ids == sep_id).long().cumsum(1) - (ids == sep_id).long()  # how many [SEP] stand before
    return (ends == 1).long()


class LabelledBatches:
    """The batches of fine-tuning: call it with a step, get that step's texts and labels.

    labels: one number a text, or for a `TokenClassifier` one list a text with a number for each of its ids; -100 is no
    label. As in `MLMBatches`, a batch depends on the seed and the step alone; the last one of an epoch may be smaller.
    Raises ValueError where texts and labels do not fit.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[int]],
        labels: Sequence[int] | Sequence[Sequence[int]],
        tokenizer: Tokenizer,
        batch_size: int = 16,
        seed: int = 0,
    ):
        if len(sequences) == 0 or len(sequences) != len(labels):
            raise ValueError(
                f"there are {len(sequences)} texts and {len(labels)} labels; give as many, and at least one."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
        self.labels = [torch.as_tensor(label) for label in labels]
        for number, (ids, label) in enumerate(zip(sequences, self.labels, strict=True)):
            if label.ndim and len(label) != len(ids):
                raise ValueError(f"text {number} has {len(ids)} ids and {len(label)} labels; give one label an id.")
        self.sequences, self.pad_id = [torch.as_tensor(ids) for ids in sequences], tokenizer.pad_id
        self.batch_size, self.seed = batch_size, seed

    def __len__(self) -> int:
        """Batches in one epoch."""
        return -(-len(self.sequences) // self.batch_size)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Return ids (B, T), mask (B, T), and labels, (B,) or (B, T)."""
        epoch, number = divmod(step, len(self))
        order = torch.randperm(len(self.sequences), generator=seeded(self.seed, epoch)).tolist()
        rows = order[number * self.batch_size : (number + 1) * self.batch_size]
        ids, mask = pad([self.sequences[row] for row in rows], self.pad_id)
        labels = [self.labels[row] for row in rows]
        return {"ids": ids, "mask": mask, "labels": pad(labels, IGNORE)[0] if labels[0].ndim else torch.stack(labels)}
