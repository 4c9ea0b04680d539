"""Unpadding, as lesson 18 builds it: only the real tokens of a padded batch are computed, with the same result.

The classes of lessons 03, 04 and 15 are as those lessons write them; what it needs is put around their `forward`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nextbert_lite.validate import check_ids, check_padding_mask

# Padded tokens · C² that must be saved for each call of attention. Measured on a CPU at C = 64 to 256 and 12 to 100
# tokens a text: below 100,000 time is lost, from 300,000 on it is won.
A_CALL = 400_000


class Packed:
    """The real tokens of a padded batch behind one another, texts of the same length side by side.

    mask: (B, T), True = a real token. Whatever works on each token alone (feed-forward network, norms, dropout) takes
    them as one text of N tokens; attention, which must not go from text to text, is called once for each length.
    """

    def __init__(self, mask: Tensor):
        self.shape = mask.shape
        lengths, order = mask.sum(1).sort()
        row, place = mask[order].nonzero(as_tuple=True)
        self.index = order[row] * mask.shape[1] + place  # of each real token in the flattened batch, (N,)
        groups = torch.stack(lengths.unique_consecutive(return_counts=True), dim=1)
        self.groups = [(length, texts) for length, texts in groups.tolist() if length]

    def pack(self, x: Tensor) -> Tensor:
        """x: (B, T, C) -> the real tokens, (1, N, C)."""
        return x.flatten(0, 1).index_select(0, self.index)[None]

    def unpack(self, x: Tensor) -> Tensor:
        """x: (1, N, C) -> (B, T, C), zero at the padding."""
        return x.new_zeros(self.shape.numel(), x.shape[-1]).index_copy(0, self.index, x[0]).view(*self.shape, -1)

    def attend(self, attention: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return attention(x), computed for the texts of each length, (texts, T, C). x: (1, N, C) -> (1, N, C)."""
        parts = x[0].split([length * texts for length, texts in self.groups])
        of_one_length = (part.unflatten(0, group[::-1]) for part, group in zip(parts, self.groups, strict=True))
        return torch.cat([attention(texts).flatten(0, 1) for texts in of_one_length])[None]


def takes_packed(forward: Callable, needs_mask: bool = False) -> Callable:
    """Return an attention's `forward` that also takes x without its padding, with `Packed` in the place of the mask.

    needs_mask: it takes no None for a mask that hides nothing.
    """

    @functools.wraps(forward)
    def either(self, x: Tensor, mask: Tensor | Packed | None = None, return_weights: bool = False):
        if not isinstance(mask, Packed):
            return forward(self, x, mask, return_weights)

        def attention(texts: Tensor) -> Tensor:
            everywhere = torch.ones(len(texts), 1, 1, texts.shape[1], dtype=torch.bool) if needs_mask else None
            return forward(self, texts, everywhere)[0]

        return mask.attend(attention, x), None

    either.packs = True
    return either


def skips_padding(forward: Callable, last: Callable[[nn.Module, Tensor], Tensor]) -> Callable:
    """Return an encoder's `forward` that leaves padding out where that saves time. last: what follows the layers."""

    @functools.wraps(forward)
    def either(self, ids: Tensor, mask: Tensor | None = None, token_types: Tensor | None = None, return_inside=False):
        packed = None if return_inside else packed_if_it_pays(ids, mask, self.config.pad_id, self.layers)
        if packed is None:
            return forward(self, ids, mask, token_types, return_inside)
        counted = getattr(self.config, "positions", "learned") == "learned"
        check_ids(ids, self.config.vocab_size, self.config.max_len if counted else None)
        check_padding_mask(ids != self.config.pad_id, ids, self.config.pad_id)
        x = packed.pack(self.embed(ids, token_types))
        for layer in self.layers:
            x, _ = layer(x, packed)
        return packed.unpack(last(self, x))

    return either


def packed_if_it_pays(ids: Tensor, mask: Tensor | None, pad_id: int, layers: nn.ModuleList) -> Packed | None:
    """Return the batch without its padding where that saves time, else None.

    Padding stays where the mask hides more or less than the [PAD]s, on a GPU (which computes it faster than the lengths
    of texts come back to the CPU), where a hook of a layer would see other shapes, and where a layer has another
    attention than the package's own.
    """
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.device.type != "cpu" or not ids.numel():
        return None
    real = ids != pad_id
    if mask is not None and not (isinstance(mask, Tensor) and mask.dtype == torch.bool and torch.equal(mask, real)):
        return None
    attentions = [getattr(layer, "attention", None) for layer in layers]
    forwards = [getattr(type(attention), "forward", None) for attention in attentions]
    if not forwards or not all(getattr(forward, "packs", False) for forward in forwards):
        return None
    saved = int((~real).sum()) * attentions[0].out.weight.shape[0] ** 2
    if saved <= A_CALL:  # not even one call is paid for: most batches end here
        return None
    if any(part._forward_hooks or part._forward_pre_hooks for layer in layers for part in layer.modules()):
        return None
    packed = Packed(real)
    return packed if saved > A_CALL * len(packed.groups) else None
