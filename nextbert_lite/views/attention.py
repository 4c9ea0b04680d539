"""Attention to be touched: choose a head, point at a token, see where it looks and who looks at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from nextbert_lite.views import plots
from nextbert_lite.views.view import View, array_of, packed, script

MAX_TOKENS, MAX_LAYERS, MAX_HEADS = 128, 12, 12
Weights = Tensor | np.ndarray | Sequence[Tensor | np.ndarray]


class AttentionExplorer(View):
    """All heads of all layers in small, one of them large, and one token's weights as arcs.

    tokens: T of them; or a list of sentences, each a list of tokens.
    weights: (L, H, T, T), after the softmax: `torch.cat(inside.weights)` of a batch of one; (H, T, T) for one layer and
    (T, T) for one head will do. For several sentences a list, one tensor each. To set two models side by side, a dict:
    {"before training": weights, "after training": weights}.
    layer, head, sentence, token: what is shown first, counted from 0, as in weights[layer, head]; threshold: weights
    below it are not drawn. All can be read and set while the view is open.
    Stored to 1/65535. Raises ValueError for other shapes, NaN, rows that do not sum to 1, or more than 12 layers, 12
    heads or 128 tokens.
    """

    _esm = script("attention.js")
    sentences = traitlets.List().tag(sync=True)
    models = traitlets.List().tag(sync=True)
    shape = traitlets.List().tag(sync=True)  # [L, H]
    data = traitlets.Bytes().tag(sync=True)  # for each model, for each sentence: (L, H, T, T)
    layer = traitlets.Int(0).tag(sync=True)
    head = traitlets.Int(0).tag(sync=True)
    sentence = traitlets.Int(0).tag(sync=True)
    token = traitlets.Int(0).tag(sync=True)
    threshold = traitlets.Float(0.05).tag(sync=True)

    def __init__(
        self,
        tokens: Sequence[str] | Sequence[Sequence[str]],
        weights: Weights | Mapping[str, Weights],
        *,
        title: str = "",
        layer: int = 0,
        head: int = 0,
        sentence: int = 0,
        token: int = 0,
        threshold: float = 0.05,
    ):
        sentences = _sentences(tokens)
        models = dict(weights) if isinstance(weights, Mapping) else {"": weights}
        if not 1 <= len(models) <= 2:
            raise ValueError(f"there are {len(models)} models; one or two fit side by side.")
        arrays = {name: _arrays(given, sentences, name) for name, given in models.items()}
        shapes = {array.shape[:2] for of_model in arrays.values() for array in of_model}
        if len(shapes) > 1:
            raise ValueError(f"the weights differ in (layers, heads): {sorted(shapes)}; all must have the same.")
        ((L, H),) = shapes
        counts = {"layer": L, "head": H, "sentence": len(sentences), "token": None}
        first = {"layer": layer, "head": head, "sentence": sentence, "token": token}
        for name, value in first.items():
            count = counts[name] or len(sentences[sentence])
            if value not in range(count) or isinstance(value, float):
                raise ValueError(f"{name} is {value}; it is counted from 0, so choose one of 0 to {count - 1}.")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; weights lie between 0 and 1, so it must too.")
        self._arrays = arrays
        data = b"".join(packed(array) for of_model in arrays.values() for array in of_model)
        state = {"sentences": sentences, "models": list(models), "shape": [L, H], "data": data}
        super().__init__(title=title, threshold=threshold, **first, **state)

    def figure(self) -> Figure:
        """Return the chosen head on the chosen sentence: a map for each model."""
        tokens = [plots.plain(token) for token in self.sentences[self.sentence]]
        maps = [of_model[self.sentence][self.layer, self.head] for of_model in self._arrays.values()]
        side = 1.8 + min(0.25 * len(tokens), 4.0)
        fig, axes = plots.figure(1, len(maps), size=(side * len(maps) + 0.6, side), squeeze=False, sharey=True)
        size = 9 if len(tokens) <= 16 else max(2, 150 / len(tokens))
        for ax, weights, name in zip(axes[0], maps, self.models, strict=True):
            image = ax.imshow(weights, vmin=0, vmax=1)
            ax.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=size)
            ax.set_yticks(range(len(tokens)), tokens, fontsize=size)
            ax.tick_params(length=0)
            ax.set_xlabel("looks at (key)")
            ax.set_title(plots.plain(name), fontsize=10, weight="normal")
        axes[0, 0].set_ylabel("looks from (query)")
        fig.colorbar(image, ax=axes, shrink=0.7).set_label("attention weight")
        where = f"Layer {self.layer + 1}, head {self.head + 1}"
        fig.suptitle(plots.plain(self.title) or f"{where}: who looks at whom", x=0.01, ha="left", wrap=True)
        return fig


def _sentences(tokens: Sequence) -> list[list[str]]:
    if isinstance(tokens, str):
        raise TypeError("tokens is one str; give a list of tokens: `tokenizer.tokens(ids[0])` makes one.")
    tokens = list(tokens)
    if not tokens:
        raise ValueError("there are no tokens; give a list of at least one.")
    one = all(isinstance(token, str) for token in tokens)
    sentences = [tokens] if one else [plots.strings_of(sentence, "the tokens of a sentence") for sentence in tokens]
    for number, sentence in enumerate(sentences):
        if not 1 <= len(sentence) <= MAX_TOKENS:
            raise ValueError(f"sentence {number} has {len(sentence)} tokens; 1 to {MAX_TOKENS} can be drawn. Cut it.")
    return sentences


def _arrays(weights: Weights, sentences: list[list[str]], model: str) -> list[np.ndarray]:
    """Return the weights of each sentence, (L, H, T, T); else a ValueError."""
    of_model = f" of the model {model!r}" if model else ""
    several = isinstance(weights, list | tuple) and all(hasattr(one, "shape") for one in weights)
    weights = list(weights) if several else [weights]
    if len(weights) != len(sentences):
        raise ValueError(
            f"the weights{of_model} are for {len(weights)} sentences, the tokens for {len(sentences)}. For several "
            "sentences give a list of tensors, one for each."
        )
    arrays = []
    for number, (given, tokens) in enumerate(zip(weights, sentences, strict=True)):
        what = f"the weights{of_model}" + (f" of sentence {number}" if len(sentences) > 1 else "")
        array, T = array_of(given, what), len(tokens)
        if not 2 <= array.ndim <= 4 or array.shape[-2:] != (T, T):
            raise ValueError(
                f"{what} have the shape {array.shape}, with {T} tokens; expected (L, H, {T}, {T}): of a batch choose "
                "one text, `torch.cat([w[:1] for w in inside.weights])`."
            )
        array = array.reshape((1,) * (4 - array.ndim) + array.shape)
        L, H = array.shape[:2]
        if not (1 <= L <= MAX_LAYERS and 1 <= H <= MAX_HEADS):
            raise ValueError(
                f"{what} have {L} layers and {H} heads; 1 to {MAX_LAYERS} layers of 1 to {MAX_HEADS} heads can be "
                "drawn. Choose some: weights[:12, :12]."
            )
        if array.min() < -1e-6 or abs(array.sum(-1) - 1).max() > 0.01:
            raise ValueError(
                f"{what} are no attention weights: a row sums to {_worst(array):.3g} or holds a number below 0. Give "
                "the weights after the softmax, without dropout: `model.eval()` first."
            )
        arrays.append(array.clip(0, 1))
    return arrays


def _worst(array: np.ndarray) -> float:
    """Return the row sum that is furthest from 1."""
    sums = array.sum(-1).ravel()
    return float(sums[abs(sums - 1).argmax()])
