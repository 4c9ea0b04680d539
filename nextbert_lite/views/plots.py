"""Static figures in one style, readable at notebook width and safe for colour-blind readers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

# Okabe and Ito's palette: told apart with every common form of colour blindness
BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#666666",
)
REFERENCE_LINES = (("--", RED), (":", GREY), ("-.", GREEN))
STYLE = {
    "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY]),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "font.size": 10,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "image.cmap": "Blues",
    "figure.dpi": 110,
}


def figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (7.0, 3.4), **options) -> tuple[Figure, Axes]:
    """Return a new figure and its axes, as `plt.subplots` does; turns the course's style on. size: inches."""
    plt.rcParams.update(STYLE)
    return plt.subplots(rows, columns, figsize=size, layout="constrained", **options)


def plain(text: str) -> str:
    """Return a text as a figure draws it character by character: a $ begins no formula, half a surrogate is a ?."""
    return whole(text).replace("$", r"\$")


def whole(text: str) -> str:
    """Return a text with a ? for each half of a surrogate, which no font, file or browser can take."""
    return text.encode("utf-8", "replace").decode("utf-8")


def png(fig: Figure) -> bytes:
    """Return the figure as a PNG file's bytes; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=STYLE["figure.dpi"], metadata={"Software": None})
    fig.set_layout_engine("none")  # each further drawing would move the axes a little
    return buffer.getvalue()


def show(fig: Figure, *, alt: str) -> None:
    """Show a figure in a notebook, with a sentence that says the same to someone who cannot see it.

    The figure needs a title that states its finding; ValueError when it is missing, cut off or over another one, or
    when the sentence is missing.
    """
    from IPython.display import display

    check_figure(fig, alt)
    image = base64.b64encode(png(fig)).decode()
    check_titles(fig)
    display({"image/png": image, "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt}})
    plt.close(fig)


def check_figure(fig: Figure, alt: str) -> None:
    """Raise ValueError unless the figure has a title of three words or more, and alt is a sentence."""
    if not isinstance(fig, Figure):
        raise TypeError(
            f"expected a figure, not {type(fig).__name__}: of axes give `ax.figure`; a view is shown by "
            "`nextbert_lite.show`."
        )
    titles = [fig.get_suptitle(), *(ax.get_title(loc) for ax in fig.axes for loc in ("left", "center", "right"))]
    if max(len(title.split()) for title in titles) < 3:
        raise ValueError("the figure needs a title that states what it shows, in three words or more.")
    if not isinstance(alt, str) or len(alt.split()) < 6:
        raise ValueError(f"alt is {alt!r}; write a sentence that tells the finding to someone who cannot see it.")


def check_titles(fig: Figure) -> None:
    """Raise ValueError when a title of a drawn figure reaches beyond its edge or into another title."""
    renderer, seen = fig.canvas.get_renderer(), []
    above = [fig._suptitle] if fig.get_suptitle() else []
    for text in [*above, *(text for ax in fig.axes for text in (ax.title, ax._left_title, ax._right_title))]:
        if not text.get_text() or not text.get_visible():
            continue
        box, shown = text.get_window_extent(renderer), f"the title {text.get_text()!r:.80}"
        if box.x0 < -1 or box.y0 < -1 or box.x1 > fig.bbox.x1 + 1 or box.y1 > fig.bbox.y1 + 1:
            raise ValueError(rf"{shown} is cut off: shorten it, put a \n into it, or make the figure larger.")
        other = next((name for name, place in seen if place.overlaps(box)), None)
        if other is not None:
            raise ValueError(rf"{shown} runs into {other}: shorten one, or put a \n into it.")
        seen.append((shown, box))


def attention_map(
    weights: Tensor,
    tokens: Sequence[str],
    keys: Sequence[str] | None = None,
    *,
    title: str = "",
    ax: Axes | None = None,
    numbers: bool | None = None,
) -> Figure:
    """Draw weights (T, S) as a map: a row for each token that looks, a column for each that it looks at.

    keys: the column labels, if not the same tokens. numbers: print each weight; default up to 12 columns.
    """
    weights = weights_of(weights, 2, "one head's weights (T, S)")
    tokens = strings_of(tokens, "the tokens")
    keys = tokens if keys is None else strings_of(keys, "the keys")
    if weights.shape != (len(tokens), len(keys)):
        raise ValueError(f"weights of shape {weights.shape} need {weights.shape} labels, not {len(tokens), len(keys)}.")
    if ax is None:
        side = min(8.0, 2.6 + 0.42 * len(keys))
        _, ax = figure(size=(side, 1.6 + (side - 1.6) * len(tokens) / len(keys) * 0.9))
    image = ax.imshow(weights, vmin=0.0, vmax=1.0, cmap="Blues", aspect="auto")
    ax.set_xticks(range(len(keys)), map(plain, keys), rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(tokens)), map(plain, tokens))
    ax.set(xlabel="looks at (key)", ylabel="looks from (query)")
    ax.set_title(plain(title))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xticks(np.arange(len(keys) + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(tokens) + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="minor", length=0)
    if len(keys) <= 12 if numbers is None else numbers:
        for (row, column), w in np.ndenumerate(weights):
            if w >= 0.005:
                ink = "white" if w > 0.55 else "#303030"
                ax.text(column, row, f"{w:.2f}", ha="center", va="center", fontsize=7.5, color=ink)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, pad=0.02)
    bar.set_label("attention weight")
    bar.outline.set_visible(False)
    return ax.figure


def attention_heads(weights: Tensor, tokens: Sequence[str], *, title: str = "", columns: int = 4) -> Figure:
    """Draw the maps of all heads (H, T, T), or of all layers and heads (L, H, T, T), side by side."""
    weights, tokens = weights_of(weights, None, "the weights of all heads"), strings_of(tokens, "the tokens")
    if weights.ndim == 3:
        weights = weights[None]
    if weights.ndim != 4 or weights.shape[-2:] != (len(tokens), len(tokens)):
        raise ValueError(
            f"weights of shape {weights.shape} with {len(tokens)} tokens; expected (H, T, T) for T tokens."
        )
    L, H = weights.shape[:2]
    maps = weights.reshape(L * H, *weights.shape[-2:])
    columns = H if L > 1 else min(columns, H)
    rows = -(-len(maps) // columns)
    fig, axes = figure(rows, columns, size=(8.0, 1.1 + 6.6 / columns * rows), squeeze=False, sharex=True, sharey=True)
    for i, ax in enumerate(axes.flat):
        if i >= len(maps):
            ax.set_axis_off()
            continue
        image = ax.imshow(maps[i], vmin=0.0, vmax=1.0, cmap="Blues")
        ax.set_title(f"layer {i // H + 1}, head {i % H + 1}" if L > 1 else f"head {i + 1}", fontsize=9, weight="normal")
        size = 8 if len(tokens) <= 12 else 6
        ax.set_xticks(range(len(tokens)), map(plain, tokens), rotation=90, fontsize=size)
        ax.set_yticks(range(len(tokens)), map(plain, tokens), fontsize=size)
        ax.tick_params(length=0)
    fig.supxlabel("looks at (key)", fontsize=10)
    fig.supylabel("looks from (query)", fontsize=10)
    fig.colorbar(image, ax=axes, shrink=0.6, pad=0.02).set_label("attention weight")
    fig.suptitle(plain(title), x=0.01, ha="left")
    return fig


def attention_from(weights: Tensor, tokens: Sequence[str], query: int, *, title: str = "") -> Figure:
    """Draw one token's weights (T,) as arcs from it to the tokens that it looks at.

    The larger the weight, the darker and thicker the arc; from 0.05 on its number stands on top.
    """
    weights, tokens = weights_of(weights, 1, "one token's weights (T,)"), strings_of(tokens, "the tokens")
    if len(weights) != len(tokens) or query not in range(len(tokens)):
        raise ValueError(f"{len(weights)} weights, {len(tokens)} tokens, query {query}: expected T, T and 0 to T - 1.")
    lengths = np.array([max(2, len(token)) for token in tokens]) + 1.5
    centres = np.cumsum(lengths) - lengths / 2  # in characters
    reach = max(abs(centres - centres[query]).max(), 1)
    fig, ax = figure(size=(8.0, 2.3))
    angle = np.linspace(0, np.pi, 60)
    for key, w in enumerate(weights):
        if key == query or w < 0.005:
            continue
        middle, radius = (centres[key] + centres[query]) / 2, abs(centres[key] - centres[query]) / 2
        height = 0.35 + radius / reach
        ax.plot(
            middle + radius * np.cos(angle),
            height * np.sin(angle),
            color=BLUE,
            alpha=0.15 + 0.85 * float(w),
            linewidth=0.8 + 3.5 * w,
            solid_capstyle="round",
        )
        if w >= 0.05:
            ax.text(middle, height + 0.04, f"{w:.2f}", ha="center", va="bottom", fontsize=9, color=BLUE)
    size = min(10.0, 1150 / lengths.sum())
    for i, token in enumerate(tokens):
        own = f"\n({weights[i]:.2f} on itself)" if i == query and weights[i] >= 0.05 else ""
        weight = "bold" if i == query or weights[i] >= 0.3 else "normal"
        ax.text(centres[i], -0.06, plain(token) + own, ha="center", va="top", fontsize=size, weight=weight)
    ax.set(xlim=(0, lengths.sum()), ylim=(-0.35, 1.15))
    ax.set_axis_off()
    ax.set_title(plain(title))
    return fig


def loss_curve(
    losses: Sequence[float], *, title: str, reference: dict[str, float] | None = None, smooth: int = 25
) -> Figure:
    """Draw the loss of each step and its running mean over `smooth` steps; references are horizontal lines (nats)."""
    if hasattr(losses, "loss"):
        raise TypeError("expected the losses of the steps, a list of numbers: of a history give `history.loss`.")
    losses = numbers_of(losses, "the losses")
    if losses.size == 0:
        raise ValueError("there is no loss to draw: the history has no step.")
    if losses.ndim != 1 or not np.isfinite(losses).all() or not isinstance(smooth, int) or smooth < 1:
        raise ValueError("expected one finite loss a step, and `smooth` of at least 1 step; look at where NaN begins.")
    window = min(smooth, len(losses))
    mean = np.convolve(losses, np.ones(window) / window, mode="valid")
    fig, ax = figure()
    ax.plot(np.arange(1, len(losses) + 1), losses, color=SKY, alpha=0.45, linewidth=1, label="each step")
    middle = np.arange(len(mean)) + (window + 1) / 2
    ax.plot(middle, mean, color=BLUE, label=f"mean of {window} steps")
    for (name, value), (dashes, colour) in zip((reference or {}).items(), cycle(REFERENCE_LINES), strict=False):
        ax.axhline(value, color=colour, linestyle=dashes, linewidth=1.4, label=plain(f"{name}: {value:.2f}"))
    ax.set(xlabel="training step", ylabel="loss (nats per token)")
    ax.set_title(plain(title))
    ax.legend(handles=ax.lines)  # given, for a name may begin with _
    return fig


def weights_of(values: Tensor, dimensions: int | None, what: str) -> np.ndarray:
    """Return attention weights as a finite array of so many dimensions (None: any); else say what is expected."""
    array = numbers_of(values, what)
    if array.ndim < 1 or dimensions not in (None, array.ndim):
        raise ValueError(f"the shape is {array.shape}; expected {what}. Choose a text and a head: weights[b, h].")
    if not np.isfinite(array).all():
        raise ValueError(f"there are values that are not finite among {what}; look where they come from.")
    if array.size and (array.min() < -1e-6 or array.sum(-1).max() > 1.01):  # less than 1: of a part of the keys
        raise ValueError(
            f"these are no attention weights: the least is {array.min():.3g}, a row sums to {array.sum(-1).max():.3g}; "
            "expected none below 0 and at most 1 a row. Give the weights after the softmax, without dropout."
        )
    return array


def numbers_of(values, what: str) -> np.ndarray:
    """Return a tensor, an array or a list of numbers as a NumPy array; ValueError for what is none."""
    values = values.detach().cpu().double() if hasattr(values, "detach") else values  # NumPy has no bfloat16
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{what} are no array of numbers, or its rows differ in length; give one tensor.") from None


def strings_of(values: Sequence[str], what: str) -> list[str]:
    """Return a list of texts; TypeError for one text alone and for what is no text."""
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{what} must be a list of str, one for each; put a single text into a list.")
    return list(values)
