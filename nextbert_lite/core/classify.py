"""Heads for labels, one a text or one a token, as lesson 13 builds them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nextbert_lite.core.contrastive import pool
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.core.masking import IGNORE
from nextbert_lite.validate import check_classes, check_labels


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

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """ids: (B, T), mask: (B, T), True = may be attended to -> logits (B, K)."""
        mask = ids != self.encoder.config.pad_id if mask is None else mask
        return self.head(self.encoder(ids, mask), mask)

    def loss(self, ids: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the mean cross-entropy in nats. labels: (B,), 0 to K - 1; -100 is left out; 0 if all are.

        Raises ValueError for labels of another shape or out of range.
        """
        labels = check_labels(labels, ids.shape[:1], self.head.classes)
        total = F.cross_entropy(self(ids, mask), labels, ignore_index=IGNORE, reduction="sum")
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
