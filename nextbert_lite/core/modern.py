"""The encoder of 2024 to 2026, as lesson 15 builds it: one configuration covers ModernBERT's and EuroBERT's parts."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextbert_lite.core.attention import scaled_dot_product_attention
from nextbert_lite.core.encoder import EncoderConfig, Inside
from nextbert_lite.core.unpadding import skips_padding, takes_packed
from nextbert_lite.validate import check_count, check_ids, check_padding_mask, check_types

NORMS = {"layer": lambda C, eps: nn.LayerNorm(C, eps=eps, bias=False), "rms": lambda C, eps: nn.RMSNorm(C, eps=eps)}
GATES = {"gelu": nn.GELU(), "silu": nn.SiLU()}  # GeGLU and SwiGLU (Shazeer 2020, arXiv:2002.05202)
BLOCKS_PAY = 8  # windows a text: with fewer, one product of all tokens with all is faster on a CPU
MODERN_PRESETS = {
    "modern-tiny": {"width": 64, "layers": 2, "heads": 4, "ffn_width": 168, "max_len": 64, "window": 8},
    "modern-small": {"width": 192, "layers": 4, "heads": 4, "ffn_width": 512, "max_len": 128, "window": 32},
    "modern-base": {"width": 768, "layers": 22, "heads": 12, "ffn_width": 1152, "max_len": 8192, "window": 64}
    | {"theta": 160_000.0, "local_theta": 10_000.0},  # ModernBERT-base
}


@dataclass(frozen=True)
class ModernConfig:
    """The numbers that define a modern encoder. An impossible value is a ValueError that names the field.

    width is C, heads is H; kv_heads: heads of the keys and values, which divide heads; None for as many. norm: "layer",
    without bias, or "rms". gate: "gelu" for GeGLU, "silu" for SwiGLU. theta: the base of the rotation; local_theta: in
    local layers, None for the same. window: how many tokens a local layer sees to each side; None: all layers are
    global. global_every: layers 0, n, 2n, … are global. embedding_norm: the embeddings are normalised, and the first
    attention's input is not again, as in ModernBERT. init_std: as in EncoderConfig.
    """

    vocab_size: int
    width: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int | None = None
    ffn_width: int = 168
    max_len: int = 64
    dropout: float = 0.0
    norm: str = "layer"
    gate: str = "gelu"
    eps: float = 1e-5
    theta: float = 10_000.0
    local_theta: float | None = None
    window: int | None = None
    global_every: int = 3
    embedding_norm: bool = True
    pad_id: int = 0
    init_std: float | str = 0.02

    activation = "gelu"  # of the MLM head

    def __post_init__(self):
        shared = ("width", "layers", "heads", "max_len", "dropout", "eps", "pad_id", "init_std")
        EncoderConfig(self.vocab_size, **{field: getattr(self, field) for field in shared})
        for field in ("ffn_width", "global_every", "kv_heads", "window"):
            if getattr(self, field) is not None or field in ("ffn_width", "global_every"):
                check_count(field, getattr(self, field))
        for field, choices in {"norm": tuple(NORMS), "gate": tuple(GATES), "embedding_norm": (True, False)}.items():
            if getattr(self, field) not in choices:
                raise ValueError(f"{field} is {getattr(self, field)!r}; choose one of {choices}.")
        for field, value in {"theta": self.theta, "local_theta": self.local_theta or self.theta}.items():
            if not isinstance(value, int | float) or isinstance(value, bool) or not 1 < value < math.inf:
                raise ValueError(f"{field} is {value!r}; it must be a finite number greater than 1.")
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"kv_heads is {self.kv_heads}; it must divide heads, {self.heads}.")
        if self.width // self.heads % 2:
            features = self.width // self.heads
            raise ValueError(f"a head has {features} features, and a rotation turns them in pairs: make it even.")

    @classmethod
    def preset(cls, name: str, vocab_size: int, **changes) -> ModernConfig:
        """Return the preset "modern-tiny", "modern-small" or "modern-base", with any field changed."""
        if name not in MODERN_PRESETS:
            raise ValueError(f"there is no preset {name!r}; choose one of {tuple(MODERN_PRESETS)}.")
        return cls(vocab_size=vocab_size, **{**MODERN_PRESETS[name], **changes})

    def to_dict(self) -> dict:
        """Return the fields as a dict that JSON can hold; `ModernConfig(**d)` reads it."""
        return dataclasses.asdict(self)


def rotate(x: Tensor, theta: float = 10_000.0) -> Tensor:
    """Turn each pair of features by an angle that grows with the position (RoPE: Su et al. 2021, arXiv:2104.09864).

    x: (..., T, D) with an even D -> the same shape. Feature i and feature i + D/2 are a pair, which at position t is
    turned by t · theta^(-2i/D). The angles are computed in float32 at least, for positions are large numbers.
    """
    T, D = x.shape[-2:]
    exact = torch.promote_types(x.dtype, torch.float32)
    speed = theta ** -(torch.arange(0, D, 2, device=x.device, dtype=exact) / D)  # radians a position, (D/2,)
    angle = torch.arange(T, device=x.device, dtype=exact)[:, None] * speed  # (T, D/2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def near(T: int, window: int, device: torch.device | str = "cpu") -> Tensor:
    """Return (T, T), True where two tokens are at most `window` positions apart."""
    t = torch.arange(T, device=device)
    return (t[:, None] - t).abs() <= window


def local_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, window: int, dropout: float = 0.0) -> Tensor:
    """Attention to the `window` tokens on each side, without computing the scores of tokens far away.

    q, k, v: (B, H, T, D); mask: (B, 1, 1, T), True for a real token -> (B, H, T, D), equal to attention with the mask
    `near(T, window) & mask`. The queries are cut into blocks of `window`; a block sees itself and its two neighbours.
    """
    B, H, T, D = q.shape
    w, n = window, -(-T // window)  # n blocks
    extra = n * w - T
    q = F.pad(q, (0, 0, 0, extra)).view(B, H, n, w, D).transpose(1, 2).reshape(B * n, H, w, D)
    k, v = (F.pad(x, (0, 0, w, w + extra)).unfold(2, 3 * w, w) for x in (k, v))  # (B, H, n, D, 3w)
    k, v = (x.permute(0, 2, 1, 4, 3).reshape(B * n, H, 3 * w, D) for x in (k, v))
    there = F.pad(mask[:, 0, 0], (w, w + extra)).unfold(1, 3 * w, w)  # (B, n, 3w)
    i, j = torch.arange(w, device=q.device)[:, None], torch.arange(3 * w, device=q.device) - w
    seen = there[:, :, None] & ((i - j).abs() <= w)  # (B, n, w, 3w)
    out = F.scaled_dot_product_attention(q, k, v, seen.reshape(B * n, 1, w, 3 * w), dropout)
    return out.view(B, n, H, w, D).transpose(1, 2).reshape(B, H, n * w, D)[:, :, :T]


class RotaryAttention(nn.Module):
    """Multi-head attention without biases, with rotated queries and keys, grouped keys and values, and a window.

    Each of the kv_heads keys and values serves heads / kv_heads queries (Ainslie et al. 2023, arXiv:2305.13245).
    """

    def __init__(self, config: ModernConfig, is_global: bool = True):
        super().__init__()
        C, self.H, self.K = config.width, config.heads, config.kv_heads or config.heads
        self.D = C // self.H
        self.window = None if is_global else config.window
        self.theta = config.theta if is_global else config.local_theta or config.theta
        self.dropout = config.dropout
        self.qkv = nn.Linear(C, (self.H + 2 * self.K) * self.D, bias=False)
        self.out = nn.Linear(C, C, bias=False)

    def forward(self, x: Tensor, mask: Tensor, return_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """x: (B, T, C), mask: (B, 1, 1 or T, T), True = may be attended to -> (B, T, C), (B, H, T, T) or None."""
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, -1, self.D).transpose(1, 2).split([self.H, self.K, self.K], dim=1)
        q, k = rotate(q, self.theta), rotate(k, self.theta)
        k, v = (part.repeat_interleave(self.H // self.K, dim=1) for part in (k, v))  # each (B, H, T, D)
        dropout, weights = self.dropout if self.training else 0.0, None
        in_blocks = self.window is not None and mask.shape[2] == 1 and self.window * BLOCKS_PAY <= T
        if self.window is not None and (return_weights or not in_blocks):
            mask = mask & near(T, self.window, x.device)
        if return_weights:
            heads, weights = scaled_dot_product_attention(q, k, v, mask, dropout)
        elif in_blocks:
            heads = local_attention(q, k, v, mask, self.window, dropout)
        else:
            heads = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        return self.out(heads.transpose(1, 2).reshape(B, T, C)), weights


class GatedFeedForward(nn.Module):
    """Out(act(a) · g), where In x = [a, g]: one half decides how much of the other passes (Shazeer 2020)."""

    def __init__(self, config: ModernConfig):
        super().__init__()
        self.into = nn.Linear(config.width, 2 * config.ffn_width, bias=False)
        self.activation = GATES[config.gate]
        self.out = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., C) -> (..., C)."""
        a, g = self.into(x).chunk(2, dim=-1)
        return self.out(self.activation(a) * g)


class ModernLayer(nn.Module):
    """x = x + attention(norm(x)), then x = x + feed-forward(norm(x)): pre-norm, as in ModernBERT and NeoBERT."""

    def __init__(self, config: ModernConfig, index: int):
        super().__init__()
        norm = NORMS[config.norm]
        first = index == 0 and config.embedding_norm  # its input has just been normalised
        self.norm1 = nn.Identity() if first else norm(config.width, config.eps)
        self.attention = RotaryAttention(config, index % config.global_every == 0)
        self.norm2 = norm(config.width, config.eps)
        self.feed_forward = GatedFeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, return_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """As RotaryAttention.forward."""
        attended, weights = self.attention(self.norm1(x), mask, return_weights)
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.norm2(x))), weights


class ModernEncoder(nn.Module):
    """Token ids in, one vector a token out, as `Encoder`, but positions enter by rotation, in every layer."""

    def __init__(self, config: ModernConfig):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        norm = NORMS[config.norm]
        self.embedding_norm = norm(config.width, config.eps) if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(ModernLayer(config, index) for index in range(config.layers))
        self.norm = norm(config.width, config.eps)  # of the last layer
        self.apply(self.initialise)

    def initialise(self, module: nn.Module) -> None:
        """Draw the weights of one part: normal with config.init_std, or 1/√(fan in); a bias, of a head, is zero."""
        if isinstance(module, nn.Linear | nn.Embedding):
            std, fan_in = self.config.init_std, module.weight.shape[-1]
            nn.init.normal_(module.weight, std=1 / math.sqrt(fan_in) if std == "fan_in" else std)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)

    def embed(self, ids: Tensor, token_types: Tensor | None = None) -> Tensor:
        """Return what goes into the first layer, (B, T, C). A modern encoder has no token types."""
        check_types(token_types, ids, 0)
        return self.dropout(self.embedding_norm(self.tokens(ids)))

    def forward(
        self, ids: Tensor, mask: Tensor | None = None, token_types: Tensor | None = None, return_inside: bool = False
    ) -> Tensor | tuple[Tensor, Inside]:
        """ids: (B, T) -> hidden states (B, T, C); with return_inside also what happened in each layer.

        mask and errors: as `Encoder.forward`. The weights of a local layer are zero outside its window.
        """
        check_ids(ids, self.config.vocab_size, self.config.max_len)
        mask = check_padding_mask(ids != self.config.pad_id if mask is None else mask, ids, self.config.pad_id)
        mask = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
        x = self.embed(ids, token_types)
        inside = Inside([x], [])
        for layer in self.layers:
            x, weights = layer(x, mask, return_inside)
            if return_inside:
                inside.hidden.append(x)
                inside.weights.append(weights)
        return (self.norm(x), inside) if return_inside else self.norm(x)


# lesson 18: where much of a batch is padding, it is not computed
RotaryAttention.forward = takes_packed(RotaryAttention.forward, needs_mask=True)
ModernEncoder.forward = skips_padding(ModernEncoder.forward, last=lambda self, x: self.norm(x))
