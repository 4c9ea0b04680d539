"""The contrastive loss to be touched: cosines, shares, loss and gradient arrows that follow the temperature."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from nextbert_lite.validate import check_pairs
from nextbert_lite.views import plots
from nextbert_lite.views.view import View, script

MAX_PAIRS = 16
COOLEST, HOTTEST = 0.01, 1.0


class SimilarityMatrix(View):
    """Cosines of B anchors with B positives, the softmax of each row, the InfoNCE loss, and who is pulled and pushed.

    anchors, positives: (B, C), row i of one belongs to row i of the other; 2 to 16 pairs. labels: B names, or (names of
    the anchors, names of the positives). temperature: where the slider starts, 0.01 to 1.
    The arrows are -gradient of the mean loss at every vector, as seen in the plane drawn: for C = 2 the vectors' own,
    for more the two main axes of the 2B vectors. The longest arrow always has the same length.
    Raises ValueError as `info_nce_loss` does, and for more than 16 pairs.
    """

    _esm = script("similarity.js")
    labels = traitlets.List().tag(sync=True)  # of the anchors, then of the positives
    cosines = traitlets.List().tag(sync=True)  # (B, B)
    plane = traitlets.List().tag(sync=True)  # (2B, 2): the unit vectors of anchors, then positives, in the plane
    origin = traitlets.List().tag(sync=True)  # where the vectors' zero lies in the plane, subtracted when drawing
    share = traitlets.Float(1).tag(sync=True)  # of the vectors' variance that the plane shows
    temperature = traitlets.Float(0.05).tag(sync=True)
    row = traitlets.Int(-1).tag(sync=True)  # the chosen anchor, -1: all

    def __init__(
        self,
        anchors: Tensor,
        positives: Tensor,
        labels: Sequence[str] | tuple[Sequence[str], Sequence[str]],
        *,
        temperature: float = 0.05,
        title: str = "",
        row: int = -1,
    ):
        check_pairs(anchors, positives, temperature)
        B = len(anchors)
        if B > MAX_PAIRS:
            raise ValueError(f"there are {B} pairs; at most {MAX_PAIRS} can be drawn. Take some: anchors[:8].")
        if not COOLEST <= temperature <= HOTTEST:
            raise ValueError(f"temperature is {temperature}; the slider goes from {COOLEST} to {HOTTEST}.")
        if row not in range(-1, B) or isinstance(row, float):
            raise ValueError(f"row is {row}; it is an anchor's number, 0 to {B - 1}, or -1 for all.")
        two = len(labels) == 2 and not any(isinstance(part, str) for part in labels)
        names = [plots.strings_of(part, "the labels") for part in (labels if two else (labels, labels))]
        if [len(part) for part in names] != [B, B]:
            raise ValueError(f"there are {B} pairs and {len(names[0])} labels; give one for each.")
        a, p = (F.normalize(x.detach().cpu().double(), dim=-1) for x in (anchors, positives))
        vectors = torch.cat([a, p])
        axes, share = _axes(vectors)
        middle = (vectors.mean(0) if vectors.shape[1] > 2 else torch.zeros(vectors.shape[1]).double()) @ axes
        super().__init__(
            title=title,
            labels=[*names[0], *names[1]],
            cosines=_rounded(a @ p.T),
            plane=_rounded(vectors @ axes),
            origin=_rounded(middle),
            share=round(share, 4),
            temperature=float(temperature),
            row=row,
        )

    def figure(self) -> Figure:
        """Return the cosines and, beside them, the shares at the temperature."""
        cosines = np.array(self.cosines)
        B = len(cosines)
        scores = cosines / self.temperature
        shares = np.exp(scores - scores.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        fig, axes = plots.figure(1, 2, size=(8.0, 3.6))
        lowest = min(0.0, cosines.min())
        names = ("cosine", f"softmax probability at τ = {self.temperature:g}")
        for ax, matrix, name, low in zip(axes, (cosines, shares), names, (lowest, 0.0), strict=True):
            ax.imshow(matrix, vmin=low, vmax=1, cmap="Blues")
            for (i, j), value in np.ndenumerate(matrix):
                ink = "white" if (value - low) / (1 - low) > 0.55 else "#303030"
                ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=min(9, 60 / B), color=ink)
                if i == j:
                    box = {"fill": False, "color": plots.ORANGE, "linewidth": 2}
                    ax.add_patch(plots.plt.Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, **box))
            short = [plots.plain(label if len(label) <= 14 else label[:13] + "…") for label in self.labels]
            ax.set_xticks(range(B), short[B:], rotation=45, ha="right", fontsize=8)
            ax.set_yticks(range(B), short[:B], fontsize=8)
            ax.tick_params(length=0)
            ax.set_title(name, fontsize=10, weight="normal")
            ax.set(xlabel="positive", ylabel="anchor")
        loss = -np.log(np.diag(shares).clip(1e-300)).mean()
        fig.suptitle(
            plots.plain(self.title) or f"The loss at τ = {self.temperature:g} is {loss:.2f} nats", x=0.01, ha="left"
        )
        return fig


def _axes(vectors: Tensor) -> tuple[Tensor, float]:
    """Return two orthonormal axes (C, 2), and the proportion of the variance that they show."""
    C = vectors.shape[1]
    if C <= 2:
        return torch.eye(C, 2, dtype=torch.float64), 1.0
    centred = vectors - vectors.mean(0)
    _, sizes, directions = torch.linalg.svd(centred, full_matrices=False)
    axes = directions[:2]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # the same signs on every machine
    variance = sizes.square()
    return axes.T, float(variance[:2].sum() / variance.sum().clamp(min=1e-12))


def _rounded(tensor: Tensor) -> list:
    return (tensor * 1e6).round().div(1e6).tolist()
