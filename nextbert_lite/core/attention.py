"""Attention, as lessons 02 and 03 build it."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from nextbert_lite.core.unpadding import takes_packed
from nextbert_lite.validate import check_attention, check_heads, check_mask


def scaled_dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return softmax(q kᵀ / √D) v and the attention weights (Vaswani et al. 2017, eq. 1).

    q: (..., T, D), k: (..., S, D), v: (..., S, Dv) -> (..., T, Dv) and (..., T, S); each row of weights sums to 1.
    mask: boolean, broadcastable to (..., T, S) with as many dimensions; True means *may be attended to*.
    A row that may attend to nothing gives zeros, in the output and in the weights, as torch's own function does.
    dropout: the share of weights set to zero before the values are mixed. Pass 0 outside training.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., T, S)
    mask = check_mask(mask, scores.shape)
    if mask is None:
        weights = scores.softmax(dim=-1)
    else:
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
        weights = weights.masked_fill(~mask, 0.0)  # a row without any True: zeros, not NaN
    return F.dropout(weights, dropout) @ v, weights


class MultiHeadAttention(nn.Module):
    """H attentions side by side, each in its own slice of D = C / H features (Vaswani et al. 2017, section 3.2.2).

    C: model width; H: heads, which must divide C; dropout: on the attention weights, in training.
    """

    def __init__(self, C: int, H: int, dropout: float = 0.0):
        super().__init__()
        check_heads(C, H)
        self.H = H
        self.dropout = dropout
        self.qkv = nn.Linear(C, 3 * C)  # queries, keys and values of all heads in one product
        self.out = nn.Linear(C, C)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, return_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """x: (B, T, C) -> (B, T, C) and, if asked for, the weights (B, H, T, T), else None.

        mask: boolean, 4 dimensions that broadcast to (B, H, T, T); True means *may be attended to*.
        Asked for the weights, it computes the formula openly; else torch's fused kernel gives the same output.
        """
        mask = check_attention(x, mask, self.H, self.qkv.weight)
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.H, C // self.H).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        dropout = self.dropout if self.training else 0.0
        if return_weights:
            heads, weights = scaled_dot_product_attention(q, k, v, mask, dropout)
        else:
            heads, weights = F.scaled_dot_product_attention(q, k, v, mask, dropout), None
        return self.out(heads.transpose(1, 2).reshape(B, T, C)), weights


MultiHeadAttention.forward = takes_packed(MultiHeadAttention.forward)  # lesson 18: of a batch without its padding
