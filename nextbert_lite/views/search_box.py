"""A search box for notebooks: type a query, see the hits. Lesson 12 shows it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

import ipywidgets as widgets

from nextbert_lite.use.search import NO_WORDS, Hit, SearchIndex, terms
from nextbert_lite.views.plots import BLUE, ORANGE, whole


def search_box(index: SearchIndex):
    """Return a widget: type a query, press Enter, and see the hits, their two scores and the words behind them."""
    query = widgets.Text(placeholder="What do you look for?", continuous_update=False, layout={"width": "24em"})
    hits = widgets.BoundedIntText(5, min=1, max=50, description="hits", layout={"width": "10em"})
    answer = widgets.HTML("<p>Write what you look for and press Enter.</p>")

    def search(change) -> None:
        try:
            answer.value = hits_html(index.search(query.value, hits.value))
        except ValueError as error:
            answer.value = f"<p>{html.escape(str(error))}</p>"

    query.observe(search, "value")
    hits.observe(search, "value")
    return widgets.VBox([widgets.HBox([query, hits]), answer])


def hits_html(hits: Sequence[Hit]) -> str:
    """Return the hits as HTML: name, library, summary, a bar for BM25 and one for the cosine, the words in bold."""
    longest = max([hit.bm25 for hit in hits], default=0) or 1
    rows = []
    for hit in hits:
        d = hit.document
        words = ", ".join(f"<b>{html.escape(word)}</b> {part:.1f}" for word, part in hit.words.items())
        bars = _bar("BM25", hit.bm25, hit.bm25 / longest, BLUE) + _bar("cosine", hit.cosine, hit.cosine, ORANGE)
        rows.append(
            f"<li><code>{html.escape(d.name)}</code> ({html.escape(d.library)}), score {hit.score:.2f}<br>"
            f"{_in_bold(d.summary, hit.words)}<br>{bars}words: {words or NO_WORDS}</li>"
        )
    return whole(f"<ol>{''.join(rows)}</ol>")


def _bar(name: str, value: float, share: float, colour: str) -> str:
    width = round(100 * min(1, max(0, share)))
    bar = f'<span style="display:block; height:0.7em; width:{width}%; background:{colour}"></span>'
    track = "display:inline-block; width:7em; background:#8884"
    return f'<span style="{track}">{bar}</span> {name} {value:.2f} &nbsp; '


def _in_bold(text: str, words: Iterable[str]) -> str:
    """Return the text as HTML, with the words in bold wherever they stand, in any of their forms."""
    wanted = {term for word in words for term in terms(word)}
    parts = re.split(r"(\w+)", text)
    return "".join(f"<b>{html.escape(p)}</b>" if wanted & {*terms(p)} else html.escape(p) for p in parts)
