"""Explanations of one guess side by side: a row for each method, a column for each word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import traitlets
from matplotlib.figure import Figure

from nextbert_lite.views import plots
from nextbert_lite.views.view import View, array_of, script

MAX_WORDS, MAX_METHODS = 40, 12


class ExplanationMatrix(View):
    """What several explanations say of each word of a text; a word can be chosen to compare them.

    words: T words. scores: name -> T numbers, such as the scores that `explain` gives; the first row is what the
    others are compared with. Each row is shaded by the size of its numbers, as a proportion of its largest.
    word: which word is chosen at first, counted from 0; -1 for none. Raises ValueError for other numbers of scores
    than words, for one that is not finite, and for more than 40 words or 12 rows.
    """

    _esm = script("explanations.js")
    words = traitlets.List().tag(sync=True)
    names = traitlets.List().tag(sync=True)
    scores = traitlets.List().tag(sync=True)  # (names, words)
    word = traitlets.Int(-1).tag(sync=True)

    def __init__(self, words: Sequence[str], scores: Mapping[str, Sequence[float]], *, title: str = "", word: int = -1):
        words, names = plots.strings_of(words, "the words"), plots.strings_of(list(scores), "the names")
        if not 1 <= len(words) <= MAX_WORDS or not 1 <= len(names) <= MAX_METHODS:
            raise ValueError(
                f"there are {len(words)} words and {len(names)} rows of scores; give 1 to {MAX_WORDS} words and 1 to "
                f"{MAX_METHODS} rows."
            )
        rows = [array_of(row, f"the scores of {name!r}") for name, row in scores.items()]
        for name, row in zip(names, rows, strict=True):
            if row.shape != (len(words),):
                raise ValueError(
                    f"{name!r} has scores of the shape {row.shape}; expected one for each of {len(words)} words."
                )
        if word not in range(-1, len(words)) or isinstance(word, float):
            raise ValueError(f"word is {word}; it is a word's number, 0 to {len(words) - 1}, or -1 for none.")
        super().__init__(
            title=title,
            words=words,
            names=names,
            scores=[[float(f"{value:.4g}") for value in row] for row in rows],
            word=word,
        )

    def figure(self) -> Figure:
        """Return the table as a map."""
        sizes = np.abs(np.array(self.scores))
        most = sizes.max(1, keepdims=True)
        shades = sizes / np.where(most > 0, most, 1)
        fig, ax = plots.figure(size=(min(10.0, 2.6 + 0.55 * len(self.words)), 1.3 + 0.36 * len(self.names)))
        ax.imshow(shades, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        for (i, j), shade in np.ndenumerate(shades):
            ink = "white" if shade > 0.55 else "#303030"
            ax.text(j, i, f"{self.scores[i][j]:.2g}", ha="center", va="center", fontsize=8, color=ink)
        ax.set_xticks(range(len(self.words)), [plots.plain(word) for word in self.words], rotation=40, ha="right")
        ax.set_yticks(range(len(self.names)), [plots.plain(name) for name in self.names])
        ax.tick_params(length=0)
        ax.set(xlabel="word", ylabel="method")
        ax.set_title(plots.plain(self.title) or "What each explanation says of each word")
        return fig
