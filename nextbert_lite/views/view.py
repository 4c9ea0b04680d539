"""What the views share: the style, how numbers are stored, and how a view is shown."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from matplotlib.figure import Figure
from PIL import Image  # of pillow, which matplotlib needs

from nextbert_lite.views import plots

HERE = Path(__file__).parent
STEPS = 65535  # numbers from 0 to 1 are stored in 16 bits, rounded to 1/65535


def script(name: str) -> str:
    """Return a view's JavaScript, one module: the part that all share, then its own."""
    return "".join((HERE / part).read_text(encoding="utf-8") for part in ("common.js", name))


class View(anywidget.AnyWidget):
    """A view of the course. title: the line above it, also the title of its static figure."""

    _css = (HERE / "style.css").read_text(encoding="utf-8")
    title = traitlets.Unicode("").tag(sync=True)

    def __init__(self, **state):
        super().__init__(**{name: _whole(value) for name, value in state.items()})

    def figure(self) -> Figure:
        """Return what the view shows at first as a static figure."""
        raise NotImplementedError


def show(view: View, *, alt: str) -> None:
    """Show a view in a notebook, with a static figure for where widgets cannot run, and a sentence for the figure.

    alt: what the view shows, for someone who cannot see it; ValueError when it is missing, as in `plots.show`.
    """
    from IPython.display import display

    if not isinstance(view, View):
        raise TypeError(f"show takes a view of nextbert_lite.explorer, not {type(view).__name__}; see plots.show.")
    figure = view.figure()
    plots.check_figure(figure, alt)
    data = {
        "application/vnd.jupyter.widget-view+json": {
            "version_major": 2,
            "version_minor": 0,
            "model_id": view.model_id,
        },
        "image/png": base64.b64encode(_small(plots.png(figure))).decode(),
        "text/plain": alt,
    }
    plots.plt.close(figure)
    display(data, raw=True, metadata={"image/png": {"alt": alt}})


def _small(png: bytes) -> bytes:
    """Return the picture with 128 colours, a third of the bytes: a notebook holds it beside the view."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(128).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _whole(value):
    """Return a text, or the texts of a list, so that a notebook can store them."""
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return plots.whole(value) if isinstance(value, str) else value


def packed(values: np.ndarray) -> bytes:
    """Return numbers from 0 to 1 as 16-bit integers, little-endian."""
    return np.rint(np.asarray(values, dtype=float) * STEPS).astype("<u2").tobytes()


def integers(values: np.ndarray) -> bytes:
    """Return integers from 0 to 65535 as 16-bit integers, little-endian."""
    return np.asarray(values).astype("<u2").tobytes()


def array_of(values, what: str) -> np.ndarray:
    """Return a tensor, an array or a list of numbers as a NumPy array; ValueError unless all of it is finite."""
    array = plots.numbers_of(values, what)
    if not np.isfinite(array).all():
        raise ValueError(f"{what} hold NaN or an infinity; look where it comes from before you draw it.")
    return array
