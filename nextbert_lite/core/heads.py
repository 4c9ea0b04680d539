"""The masked-language-model head and what is pretrained, as lesson 05 builds them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextbert_lite.core.encoder import ACTIVATIONS, Encoder
from nextbert_lite.core.masking import IGNORE
from nextbert_lite.validate import check_targets


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


class UntiedHead(nn.Linear):
    """Hidden states to a score for each word by a matrix of its own: EuroBERT's head, in the place of an MLMHead."""

    def __init__(self, encoder: Encoder):
        super().__init__(encoder.config.width, encoder.config.vocab_size)
        encoder.initialise(self)

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """hidden: (..., C) -> logits (..., V). embedding: (V, C), not used."""
        return super().forward(hidden)


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
        check_targets(labels, ids, self.encoder.config.vocab_size)
        hidden = self.encoder(ids, mask)
        selected = labels != IGNORE
        logits = self.head(hidden[selected], self.encoder.tokens.weight)  # (selected tokens, V)
        total = F.cross_entropy(logits, labels[selected], reduction="sum")
        return total / max(1, len(logits))
