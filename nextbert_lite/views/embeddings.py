"""Embeddings as a map: zoom, point at a text, see its nearest neighbours in the vectors themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import shorten

import numpy as np
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from nextbert_lite.views import plots
from nextbert_lite.views.view import View, array_of, integers, packed, script

MAX_POINTS, MAX_LABELS, NEIGHBOURS, LONGEST = 10_000, 24, 5, 160
MARKERS = "os^Dv"  # as in embeddings.js: colour and shape together tell up to 24 labels apart
Points = Tensor | np.ndarray


class EmbeddingExplorer(View):
    """A map of texts; each point shows its text, its label and its nearest neighbours by cosine.

    points: (N, 2), where each text is drawn. labels: N names, at most 24 different. texts: N texts; what is longer than
    160 characters is cut.
    vectors: (N, C), from which the five nearest neighbours are computed, by cosine; `points` if not given.
    Two embeddings of the same texts: dicts {"before": ..., "after": ...} for points and vectors. The second map is
    turned or mirrored onto the first, which changes no distance, so that the movement shows what training moved.
    Positions and cosines are stored in 16 bits. A stored notebook should hold at most 1,000 points. Raises ValueError
    for other shapes, unequal lengths, NaN, vectors of zeros, and more than 10,000 points.
    """

    _esm = script("embeddings.js")
    names = traitlets.List().tag(sync=True)  # of the embeddings, one or two
    labels = traitlets.List().tag(sync=True)  # the different ones
    texts = traitlets.List().tag(sync=True)
    points = traitlets.Bytes().tag(sync=True)  # for each embedding (N, 2), 0 to 1, y upwards
    label_of = traitlets.Bytes().tag(sync=True)  # (N,), one byte each
    neighbours = traitlets.Bytes().tag(sync=True)  # for each embedding (N, k): which
    cosines = traitlets.Bytes().tag(sync=True)  # the same: (cosine + 1) / 2
    selected = traitlets.Int(-1).tag(sync=True)  # a text's number, or -1
    mix = traitlets.Float(0).tag(sync=True)  # 0: the first embedding, 1: the second

    def __init__(
        self,
        points: Points | Mapping[str, Points],
        labels: Sequence[str],
        texts: Sequence[str],
        *,
        vectors: Points | Mapping[str, Points] | None = None,
        title: str = "",
        selected: int = -1,
    ):
        texts, labels = plots.strings_of(texts, "the texts"), plots.strings_of(labels, "the labels")
        N = len(texts)
        if len(labels) != N or N == 0:
            raise ValueError(f"there are {N} texts and {len(labels)} labels; give as many, and at least one.")
        if N > MAX_POINTS:
            raise ValueError(
                f"there are {N:,} points; at most {MAX_POINTS:,} can be drawn. Draw a sample: "
                "`rows = torch.randperm(N)[:1000]`, then points[rows] and the same of the rest."
            )
        kinds = list(dict.fromkeys(labels))
        if len(kinds) > MAX_LABELS:
            raise ValueError(f"there are {len(kinds)} different labels; at most {MAX_LABELS} can be told apart.")
        if selected not in range(-1, N) or isinstance(selected, float):
            raise ValueError(f"selected is {selected}; it is a text's number, 0 to {N - 1}, or -1 for none.")
        maps = {name: _matrix(p, N, f"the points{name and ' ' + repr(name)}", 2) for name, p in _named(points).items()}
        if not 1 <= len(maps) <= 2:
            raise ValueError(f"there are {len(maps)} embeddings; one or two can be drawn.")
        given = _named(points if vectors is None else vectors)
        if set(given) != set(maps):
            raise ValueError(f"points are named {list(maps)}, vectors {list(given)}; give a dict for both, alike.")
        found = [nearest(_matrix(given[name], N, f"the vectors{name and ' ' + repr(name)}")) for name in maps]
        self._maps = _aligned(list(maps.values()))
        super().__init__(
            title=title,
            selected=selected,
            names=list(maps),
            labels=kinds,
            texts=[shorten(text, LONGEST, placeholder=" …") for text in texts],
            label_of=bytes(kinds.index(label) for label in labels),
            points=b"".join(packed(p) for p in self._maps),
            neighbours=b"".join(integers(which) for which, _ in found),
            cosines=b"".join(packed((cosines + 1) / 2) for _, cosines in found),
        )

    def figure(self) -> Figure:
        """Return the maps side by side, with the legend."""
        fig, axes = plots.figure(1, len(self._maps), size=(4.0 * len(self._maps) + 1.5, 3.8), squeeze=False)
        palette = [plots.BLUE, plots.ORANGE, plots.GREEN, plots.PINK, plots.SKY, plots.RED, plots.GREY]
        label_of = np.frombuffer(self.label_of, dtype=np.uint8)
        for ax, points, name in zip(axes[0], self._maps, self.names, strict=True):
            for number, label in enumerate(self.labels):
                style = {"color": palette[number % 7], "marker": MARKERS[number % 5], "s": 12, "linewidths": 0}
                ax.scatter(*points[label_of == number].T, label=plots.plain(label), **style)
            ax.set(xticks=[], yticks=[], aspect="equal", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
            ax.spines[:].set_visible(False)
            ax.set_title(plots.plain(name), fontsize=10, weight="normal")
        fig.legend(handles=axes[0, 0].collections, loc="outside right upper", fontsize=8)
        fig.suptitle(
            plots.plain(self.title) or f"A map of {len(self.texts):,} texts by label", x=0.01, ha="left", wrap=True
        )
        return fig


def nearest(vectors: np.ndarray, k: int = NEIGHBOURS) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest other rows by cosine, nearest first, (N, k), and their cosines; of few rows all others.

    In pieces, so that 10,000 vectors need no table of 10,000 x 10,000.
    """
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    N, k = len(unit), min(k, len(unit) - 1)
    which, cosines = np.zeros((N, k), dtype=int), np.zeros((N, k))
    for start in range(0, N, 1000):
        scores = unit[start : start + 1000] @ unit.T
        rows = np.arange(len(scores))[:, None]
        scores[rows[:, 0], start + rows[:, 0]] = -np.inf  # itself
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k] if k else which[start : start + 1000]
        order = np.argsort(-scores[rows, best], axis=1, kind="stable")
        which[start : start + 1000] = best[rows, order]
        cosines[start : start + 1000] = scores[rows, best[rows, order]]
    return which, cosines.clip(-1, 1)


def _named(values: Points | Mapping[str, Points]) -> dict[str, Points]:
    return dict(values) if isinstance(values, Mapping) else {"": values}


def _matrix(values: Points, N: int, what: str, width: int | None = None) -> np.ndarray:
    array = array_of(values, what)
    wanted = f"({N}, {width or 'C'})"
    if array.ndim != 2 or len(array) != N or array.shape[1] < 1 or (width and array.shape[1] != width):
        raise ValueError(f"{what} have the shape {array.shape}; expected {wanted}, one row for each text.")
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(array, axis=1)
    if width is None and (lengths == 0).any():
        raise ValueError(
            f"row {int((lengths == 0).argmax())} of {what} is all zeros, so it has no cosine; leave that text out."
        )
    if not np.isfinite(lengths).all():
        raise ValueError(f"row {int(np.isinf(lengths).argmax())} of {what} is too long to be measured; scale it down.")
    return array


def _aligned(maps: list[np.ndarray]) -> list[np.ndarray]:
    """Return each map within 0 to 1, its proportions kept; the second turned or mirrored onto the first."""
    centred = [points - points.mean(0) for points in maps]
    if len(centred) == 2:  # orthogonal Procrustes: the rotation or reflection that moves the points least
        u, _, vt = np.linalg.svd(centred[1].T @ centred[0])
        centred[1] = centred[1] @ (u @ vt)
    framed = []
    for points in centred:
        low, high = points.min(0), points.max(0)
        framed.append((points - (low + high) / 2) / max((high - low).max(), 1e-12) + 0.5)
    return [points.clip(0, 1) for points in framed]
