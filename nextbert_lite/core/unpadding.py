"""Unpadding, as lesson 18 builds it: only the real tokens of a padded batch are computed, with the same result."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Padded tokens · C² that must be saved for each call of attention. Measured on a CPU at C = 64 to 256 and 12 to 100
# tokens a text: below 100,000 time is lost, from 300,000 on it is won.
A_CALL = 400_000


class Packed:
    """The real tokens of a padded batch behind one another, texts of the same length side by side.

    mask: (B, T), True = a real token. Whatever works on each token alone (linear layers, norms, dropout) takes them as
    one text of N tokens; attention, which must not go from text to text, is called once for each length.
    """

    def __init__(self, mask: Tensor):
        self.shape = mask.shape
        lengths, order = mask.sum(1).sort()
        row, place = mask[order].nonzero(as_tuple=True)
        self.index = order[row] * mask.shape[1] + place  # of each real token in the flattened batch, (N,)
        groups = torch.stack(lengths.unique_consecutive(return_counts=True), dim=1)
        self.groups = [(length, texts) for length, texts in groups.tolist() if length]

    @property
    def padded(self) -> int:
        """How many tokens of the batch are padding."""
        return self.shape.numel() - len(self.index)

    def pack(self, x: Tensor) -> Tensor:
        """x: (B, T, C) -> the real tokens, (1, N, C)."""
        return x.flatten(0, 1).index_select(0, self.index)[None]

    def unpack(self, x: Tensor) -> Tensor:
        """x: (1, N, C) -> (B, T, C), zero at the padding."""
        return x.new_zeros(self.shape.numel(), x.shape[-1]).index_copy(0, self.index, x[0]).view(*self.shape, -1)

    def attend(self, attention: Callable[..., Tensor], *parts: Tensor) -> Tensor:
        """Return attention(q, k, v), computed for the texts of each length. parts: (1, heads, N, D) -> (1, H, N, D).

        The function gets (texts, heads, T, D) of texts without padding, and needs no mask.
        """
        heads = []
        cuts = [part[0].split([length * texts for length, texts in self.groups], dim=1) for part in parts]
        for (length, texts), *some in zip(self.groups, *cuts, strict=True):
            one_length = (part.unflatten(1, (texts, length)).transpose(0, 1) for part in some)
            heads.append(attention(*one_length).transpose(1, 2).flatten(0, 1))  # (texts · T, H, D)
        return torch.cat(heads).transpose(0, 1)[None]


def packed_if_it_pays(ids: Tensor, mask: Tensor, pad_id: int, layers: torch.nn.ModuleList) -> Packed | None:
    """Return the batch without its padding where that saves time, else None.

    ids: (B, T), mask: as `Encoder.forward` has checked it. Padding stays where the mask hides more or less than the
    [PAD]s, on a GPU (which computes it faster than the lengths of texts come back to the CPU), where a hook of a layer
    would see other shapes, and where a layer has an attention that does not say `packs`.
    """
    if mask.ndim != 2 or ids.device.type != "cpu" or not torch.equal(mask, ids != pad_id):
        return None
    parts = [part for layer in layers for part in layer.modules()]
    if any(part._forward_hooks or part._forward_pre_hooks for part in parts):
        return None
    attentions = [getattr(layer, "attention", None) for layer in layers]
    if not attentions or not all("packs" in vars(type(attention)) for attention in attentions):  # itself, not its base
        return None
    packed = Packed(mask)
    C = attentions[0].out.weight.shape[0]
    return packed if packed.padded * C * C > A_CALL * len(packed.groups) else None
