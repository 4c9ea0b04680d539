"""The stacked encoder, as lesson 04 builds it. One configuration covers BERT, RoBERTa and pre-norm encoders."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nextbert_lite.core.attention import MultiHeadAttention
from nextbert_lite.core.unpadding import skips_padding
from nextbert_lite.validate import check_count, check_heads, check_ids, check_padding_mask, check_types

ACTIVATIONS = {
    "gelu": nn.GELU(),  # exact: x Φ(x); RoBERTa, and Hugging Face's BERT
    "gelu_tanh": nn.GELU(approximate="tanh"),  # Google's BERT
    "relu": nn.ReLU(),
}
PRESETS = {
    "tiny": {"width": 64, "layers": 2, "heads": 4, "ffn_width": 256, "max_len": 64},
    "small": {"width": 192, "layers": 4, "heads": 4, "ffn_width": 768, "max_len": 128},
    "base": {"width": 768, "layers": 12, "heads": 12, "ffn_width": 3072, "max_len": 512, "dropout": 0.1},
}


@dataclass(frozen=True)
class EncoderConfig:
    """The numbers that define an encoder. An impossible value is a ValueError that names the field.

    width is C, heads is H. norm: "post" as in BERT and RoBERTa, or "pre". positions: "learned" or "none".
    position_offset: 0 as in BERT; RoBERTa counts real tokens from pad_id + 1, so 2 there.
    token_types: 2 in BERT (sentence A and B), 1 in RoBERTa, 0 for none. eps: of the layer norms, 1e-12 in BERT, 1e-5 in
    RoBERTa. init_std: the standard deviation of each weight at the start, 0.02 as in BERT; "fan_in" for 1/√(fan in),
    1/√C for embeddings.
    """

    vocab_size: int
    width: int = 64
    layers: int = 2
    heads: int = 4
    ffn_width: int = 256
    max_len: int = 64
    dropout: float = 0.0
    norm: str = "post"
    activation: str = "gelu"
    eps: float = 1e-5
    positions: str = "learned"
    position_offset: int = 0
    token_types: int = 0
    pad_id: int = 0
    init_std: float | str = 0.02

    def __post_init__(self):
        for field in ("vocab_size", "width", "heads", "max_len"):
            check_count(field, getattr(self, field))
        for field in ("layers", "ffn_width", "position_offset", "token_types", "pad_id"):
            check_count(field, getattr(self, field), least=0)
        choices_of = {"norm": ("post", "pre"), "activation": tuple(ACTIVATIONS), "positions": ("learned", "none")}
        for field, choices in choices_of.items():
            if getattr(self, field) not in choices:
                raise ValueError(f"{field} is {getattr(self, field)!r}; choose one of {choices}.")
        for field in ("dropout", "eps", *(() if self.init_std == "fan_in" else ("init_std",))):
            value = getattr(self, field)
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                raise ValueError(f"{field} is {value!r}; it must be a finite number.")
            if field != "dropout" and value <= 0:
                by_name = ', or "fan_in" for 1/√(fan in)' if field == "init_std" else ""
                raise ValueError(f"{field} is {value}; it must be greater than 0{by_name}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and less than 1.")
        if self.pad_id >= self.vocab_size:
            raise ValueError(f"pad_id is {self.pad_id}; it must be one of the {self.vocab_size} ids of the vocabulary.")
        try:
            check_heads(self.width, self.heads)
        except ValueError as error:
            raise ValueError(f"heads is {self.heads} at width {self.width}: {error}") from None

    @classmethod
    def preset(cls, name: str, vocab_size: int, **changes) -> EncoderConfig:
        """Return the preset "tiny", "small" or "base", with any field changed."""
        if name not in PRESETS:
            raise ValueError(f"there is no preset {name!r}; choose one of {tuple(PRESETS)}.")
        return cls(vocab_size=vocab_size, **{**PRESETS[name], **changes})

    def to_dict(self) -> dict:
        """Return the fields as a dict that JSON can hold; `EncoderConfig(**d)` reads it."""
        return dataclasses.asdict(self)


class EncoderLayer(nn.Module):
    """Attention, then a feed-forward network, each with a residual and a layer norm.

    post-norm: x = norm(x + f(x)), as in BERT. pre-norm: x = x + f(norm(x)) (Xiong et al. 2020, arXiv:2002.04745).
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        C = config.width
        self.pre = config.norm == "pre"
        self.attention = MultiHeadAttention(C, config.heads, config.dropout)
        self.norm1 = nn.LayerNorm(C, eps=config.eps)
        self.ffn_in = nn.Linear(C, config.ffn_width)
        self.activation = ACTIVATIONS[config.activation]
        self.ffn_out = nn.Linear(config.ffn_width, C)
        self.norm2 = nn.LayerNorm(C, eps=config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.ffn_out(self.activation(self.ffn_in(x)))

    def forward(
        self, x: Tensor, mask: Tensor | None = None, return_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """x: (B, T, C), mask: (B, 1 or H, 1 or T, T), True = may be attended to -> (B, T, C), weights or None."""
        if self.pre:
            attended, weights = self.attention(self.norm1(x), mask, return_weights)
            x = x + self.dropout(attended)
            x = x + self.dropout(self.feed_forward(self.norm2(x)))
        else:
            attended, weights = self.attention(x, mask, return_weights)
            x = self.norm1(x + self.dropout(attended))
            x = self.norm2(x + self.dropout(self.feed_forward(x)))
        return x, weights


class Inside(NamedTuple):
    """What an encoder computed on the way: `hidden` (layers + 1 of (B, T, C)), `weights` (layers of (B, H, T, T))."""

    hidden: list[Tensor]
    weights: list[Tensor]


class Encoder(nn.Module):
    """Token ids in, one vector a token out: embeddings, then `config.layers` encoder layers."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        C = config.width
        self.tokens = nn.Embedding(config.vocab_size, C)
        if config.positions == "learned":
            self.positions = nn.Embedding(config.max_len + config.position_offset, C)
        if config.token_types:
            self.types = nn.Embedding(config.token_types, C)
        self.norm = nn.LayerNorm(C, eps=config.eps)  # post-norm: of the embeddings; pre-norm: of the last layer
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.apply(self.initialise)

    def initialise(self, module: nn.Module) -> None:
        """Draw the weights of one part: normal with config.init_std, or 1/√(fan in); biases are zero."""
        if isinstance(module, nn.Linear | nn.Embedding):
            std, fan_in = self.config.init_std, module.weight.shape[-1]
            nn.init.normal_(module.weight, std=1 / math.sqrt(fan_in) if std == "fan_in" else std)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def position_ids(self, ids: Tensor) -> Tensor:
        """Return the row of the position table for each token, (B, T).

        BERT counts 0, 1, 2, … ; RoBERTa counts real tokens from its offset and leaves padding at pad_id.
        """
        B, T = ids.shape
        if not self.config.position_offset:
            return torch.arange(T, device=ids.device).expand(B, T)
        real = ids != self.config.pad_id
        return real.cumsum(1) * real + self.config.position_offset - 1

    def embed(self, ids: Tensor, token_types: Tensor | None = None) -> Tensor:
        """Return what goes into the first layer: token + position + type embeddings, (B, T, C)."""
        x = self.tokens(ids)
        if self.config.positions == "learned":
            x = x + self.positions(self.position_ids(ids))
        types = check_types(token_types, ids, self.config.token_types)
        if self.config.token_types:
            x = x + self.types(types)
        if self.config.norm == "post":
            x = self.norm(x)
        return self.dropout(x)

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        token_types: Tensor | None = None,
        return_inside: bool = False,
    ) -> Tensor | tuple[Tensor, Inside]:
        """ids: (B, T) -> hidden states (B, T, C); with return_inside also what happened in each layer.

        mask: boolean, True = may be attended to: (B, T) for padding, or (B, T, T) for who may look at whom.
        None stands for `ids != pad_id`. Raises ValueError for a text that is too long, an empty batch, ids out of
        range, and a mask that hides everything or is the wrong way round.
        """
        check_ids(ids, self.config.vocab_size, self.config.max_len if self.config.positions == "learned" else None)
        mask = check_padding_mask(ids != self.config.pad_id if mask is None else mask, ids, self.config.pad_id)
        mask = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
        x = self.embed(ids, token_types)
        inside = Inside([x], [])
        for layer in self.layers:
            x, weights = layer(x, mask, return_weights=return_inside)
            if return_inside:
                inside.hidden.append(x)
                inside.weights.append(weights)
        if self.config.norm == "pre":
            x = self.norm(x)
        return (x, inside) if return_inside else x


# lesson 18: where much of a batch is padding, it is not computed
Encoder.forward = skips_padding(Encoder.forward, last=lambda self, x: self.norm(x) if self.config.norm == "pre" else x)
