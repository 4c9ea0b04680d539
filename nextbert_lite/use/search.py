"""Search: BM25, vectors and their fusion, what to measure them by, and an index of documents. See lesson 12."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache, partial
from textwrap import shorten
from typing import NamedTuple

import bm25s
import numpy as np
import torch
import torch.nn.functional as F
from bm25s.stopwords import STOPWORDS_EN
from scipy.stats import bootstrap, rankdata
from Stemmer import Stemmer
from torch import Tensor

from nextbert_lite.corpora.harvest import LIBRARIES, Document
from nextbert_lite.use.embedding import Model, embed
from nextbert_lite.validate import check_count, check_rows, check_texts, check_vectors

NO_WORDS = "none in common"
WORD = re.compile(r"\b\w\w+\b")
CUT = re.compile(r"_+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # get_item, getItem, HTTPError
STOP_WORDS = frozenset(STOPWORDS_EN)
PLAIN = {"stem": False, "split": False, "k1": 1.5, "b": 0.75}  # BM25 as in a textbook
WEIGHT = 0.5  # BM25's share in the fused score, chosen on validation among all documents (tools/search_settings.py)
SCORES = "(Q, N), a row for each query and a column for each text"
RESAMPLES = 10_000  # of the bootstrap
_STEMMER = Stemmer("english")
logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets DEBUG, and would write into other programs' logs


class Bm25:
    """BM25 over a list of texts, by the library bm25s: Lucene's variant, English stop words.

    A word is two or more letters or digits. stem: compare words without their English endings (Porter 2001, by the
    library PyStemmer). split: count the parts of an identifier too, cut at "_" and at capitals. k1, b: how soon more
    of a word adds nothing, how much long texts lose. All four were chosen on validation by tools/search_settings.py;
    `Bm25(texts, **PLAIN)` is the textbook's. Robertson and Zaragoza 2009; Kamphuis et al. 2020 compare the variants.
    """

    def __init__(self, texts: Sequence[str], *, stem: bool = True, split: bool = True, k1: float = 0.9, b: float = 0.9):
        if not (0 <= k1 < np.inf and 0 <= b <= 1):
            raise ValueError(f"k1 is {k1} and b {b}; k1 must be 0 or more, b between 0 and 1, both finite.")
        self._terms = lru_cache(None)(partial(terms, stem=stem, split=split))
        rows = self._rows(texts)
        if not any(rows):
            raise ValueError("the texts hold no word but stop words, so there is nothing to search for.")
        self._scorer = bm25s.BM25(k1=k1, b=b, method="lucene", backend="numpy")
        self._scorer.index(rows, create_empty_token=False, show_progress=False)

    def scores(self, queries: Sequence[str]) -> Tensor:
        """Return each text's score for each query, (Q, N); 0 where they share no word that counts."""
        return torch.stack([self._of(row) for row in self._rows(queries)])

    def words(self, query: str, i: int) -> dict[str, float]:
        """Return what each word of the query adds to text i's score, the largest first; the sum is the score."""
        parts: dict[str, float] = {}
        for word, found in self._words(query):
            parts[word.lower()] = parts.get(word.lower(), 0.0) + self._of(found)[i].item()
        return {word: part for word, part in sorted(parts.items(), key=lambda pair: -pair[1]) if part > 0}

    def _rows(self, texts: Sequence[str]) -> list[list[str]]:
        return [[t for _, found in self._words(text) for t in found] for text in check_texts(texts, blank=True)]

    def _words(self, text: str) -> list[tuple[str, tuple[str, ...]]]:
        return [(word, self._terms(word)) for word in WORD.findall(text)]

    def _of(self, found: Sequence[str]) -> Tensor:
        return torch.from_numpy(self._scorer.get_scores_from_ids(self._scorer.get_tokens_ids(list(found))))


def terms(word: str, stem: bool = True, split: bool = True) -> tuple[str, ...]:
    """Return what BM25 compares for a word of a text: `clip_grad` gives clip, grad and clip_grad; `the` nothing."""
    parts = [word, *(part for part in CUT.split(word) if 1 < len(part) < len(word))] if split else [word]
    kept = [part for part in map(str.lower, parts) if part not in STOP_WORDS]
    return tuple(_STEMMER.stemWords(kept) if stem else kept)


# --- measuring --------------------------------------------------------------------------------------------------------


def ranks(scores: Tensor, right: Tensor | None = None) -> Tensor:
    """Return the rank of each query's right text, (Q,) float, from 1; among ties it is the middle one.

    scores: (Q, N), higher is better. right: (Q,), the number of the right text; None: text i answers query i.
    For a median or a figure: the mean of 1 / rank is `mrr`'s to compute, as the mean of 1 / r is not 1 / the mean of r.
    """
    before, equal = _places(scores, right)
    return 1 + before + (equal - 1) / 2


def reciprocal_ranks(scores: Tensor, right: Tensor | None = None) -> Tensor:
    """Return 1 / rank of each query's right text, (Q,) float64. Arguments as in `ranks`.

    Texts with equal scores stand in every order equally often, here as in all measures that follow: a model that knows
    nothing gets what chance gets (McSherry and Najork 2008).
    """
    return _mean_over_ties(1 / _numbers(scores), *_places(scores, right))


def mrr(scores: Tensor, right: Tensor | None = None) -> float:
    """Return the mean reciprocal rank of the right texts: 1 is perfect. Arguments and ties as in `reciprocal_ranks`."""
    return reciprocal_ranks(scores, right).mean().item()


def recall_at(scores: Tensor, k: int, right: Tensor | None = None) -> float:
    """Return the probability that a query's right text is among the first k. As `mrr`."""
    return _mean_over_ties((_numbers(scores) <= check_count("k", k)).double(), *_places(scores, right)).mean().item()


def ndcg_at(scores: Tensor, k: int, right: Tensor | None = None, grades: Tensor | None = None) -> float:
    """Return nDCG@k, the gain of the first k texts, 1 / log2(1 + rank) each, over that of the best order. As `mrr`.

    grades: (Q, N), how relevant each text is, 0 or more, in place of `right`, where more than one text answers a query.
    """
    worth = (_numbers(scores) <= check_count("k", k)) / (1 + _numbers(scores)).log2()
    if grades is None:
        return _mean_over_ties(worth, *_places(scores, right)).mean().item()
    check_rows(scores, "the scores", SCORES)
    if grades.shape != scores.shape or (grades < 0).any() or not (grades.sum(1) > 0).all():
        raise ValueError("`grades` must have the scores' shape, no number below 0 and in each row one above 0.")
    first, last = (rankdata(-scores.cpu().numpy(), how, axis=1).astype(int) for how in ("min", "max"))
    each = _mean_over_ties(worth, torch.from_numpy(first - 1), torch.from_numpy(last - first + 1))  # (Q, N)
    ideal = grades.double().sort(descending=True).values @ worth
    return ((grades * each).sum(1) / ideal).mean().item()


def _places(scores: Tensor, right: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return how many texts score higher than the right one, and how many as high, itself among them: (Q,) each."""
    check_rows(scores, "the scores", SCORES)
    Q, N = scores.shape
    if right is None:
        if Q != N:
            raise ValueError(
                f"the scores have the shape {(Q, N)}: with `right` left out, text i answers query i, so "
                "there must be as many texts as queries. Give `right`, the number of each right text."
            )
        right = torch.arange(N)
    scores, right = scores.detach().cpu(), torch.as_tensor(right).cpu()
    whole = not right.is_floating_point() and right.dtype != torch.bool
    if right.shape != (Q,) or not whole or right.min() < 0 or right.max() >= N:
        raise ValueError(f"`right` must be {Q} numbers of texts, 0 to {N - 1}, one a query.")
    own = scores.gather(1, right[:, None])
    return (scores > own).sum(1), (scores == own).sum(1)


def _numbers(scores: Tensor) -> Tensor:
    return torch.arange(1, scores.shape[-1] + 1, dtype=torch.float64)


def _mean_over_ties(worth: Tensor, before: Tensor, equal: Tensor) -> Tensor:
    """Return the mean of what the ranks before + 1 to before + equal are worth; worth: (N,), rank 1 first."""
    total = F.pad(worth.cumsum(0), (1, 0))
    return (total[before + equal] - total[before]) / equal


def paired_bootstrap(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    """Return the mean of a - b and its interval: of 100 such, about 95 hold the mean over all possible queries.

    a, b: (Q,), what two systems get for the same queries, such as `reciprocal_ranks`. Queries are drawn anew 10,000
    times, each with both its values; the interval is that of the percentiles (Efron and Tibshirani 1993, chapter 13).
    """
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise ValueError(
            f"a and b have the shapes {tuple(a.shape)} and {tuple(b.shape)}; expected (Q,) for both, one "
            "value a query, the same queries in the same order, and at least two."
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("a value is not finite: look at that query's scores.")
    difference = (a - b).numpy()
    drawn = bootstrap((difference,), np.mean, n_resamples=RESAMPLES, batch=500, method="percentile", rng=0)
    low, high = drawn.confidence_interval
    return float(difference.mean()), float(low), float(high)


# --- fusing -----------------------------------------------------------------------------------------------------------


def z_scores(scores: Tensor) -> Tensor:
    """Return the scores (Q, N) with mean 0 and standard deviation 1 for each query; a constant row becomes zeros."""
    check_rows(scores, "the scores", SCORES)
    centred = scores - scores.mean(1, keepdim=True)
    flat = (scores == scores[:, :1]).all(1, keepdim=True)
    return (centred / scores.std(1, keepdim=True, correction=0)).masked_fill(flat, 0.0)


def fuse(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Return weight · z(a) + (1 - weight) · z(b), (Q, N). weight: between 0 and 1, chosen on validation queries."""
    _check_two(a, b)
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is {weight}; it must be between 0 (only b) and 1 (only a).")
    return weight * z_scores(a) + (1 - weight) * z_scores(b)


def reciprocal_rank_fusion(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 / (60 + rank by a) + 1 / (60 + rank by b), (Q, N): Cormack, Clarke and Buettcher 2009."""
    _check_two(a, b)
    return 1 / (60 + all_ranks(a)) + 1 / (60 + all_ranks(b))


def all_ranks(scores: Tensor) -> Tensor:
    """Return every text's rank for each query, (Q, N) float, from 1; ties share their middle rank."""
    check_rows(scores, "the scores", SCORES)
    return torch.from_numpy(rankdata(-scores.detach().cpu().numpy(), axis=1)).to(scores)


def best_weight(a: Tensor, b: Tensor, right: Tensor | None = None) -> tuple[float, float]:
    """Return the weight of `fuse` with the best MRR, among 0, 0.05, … 1, and that MRR; of equals the smallest.

    Choose it on validation queries, or it flatters the fusion, and among as many texts as will be searched: the best
    weight changes with them.
    """
    _check_two(a, b)
    za, zb = z_scores(a), z_scores(b)
    found = {w: mrr(w * za + (1 - w) * zb, right) for w in (i / 20 for i in range(21))}
    return max(found.items(), key=lambda pair: pair[1])


def _check_two(a: Tensor, b: Tensor) -> None:
    for scores in (a, b):
        check_rows(scores, "the scores", SCORES)
    if a.shape != b.shape:
        raise ValueError(f"a has the shape {tuple(a.shape)}, b {tuple(b.shape)}; both must be (Q, N), of one search.")


# --- the index --------------------------------------------------------------------------------------------------------


class Hit(NamedTuple):
    """One document that a search found: the fused score, its two parts, and what each word added to BM25."""

    document: Document
    score: float
    bm25: float
    cosine: float
    words: dict[str, float]


class SearchIndex:
    """Documents that can be searched, by their words and by their vectors.

    BM25 reads a document's name too, so that "argsort" finds it. model: as in `embed`. weight: BM25's share in the
    score, see `fuse`. vectors: (N, C), if they are known already.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        model: Model = "docs-contrastive",
        weight: float = WEIGHT,
        vectors: Tensor | None = None,
    ):
        self.documents, self.model, self.weight = tuple(documents), model, weight
        if not all(isinstance(d, Document) for d in self.documents):
            raise TypeError("expected a list of `Document`s, as `load_docs` has them; to rank plain texts, see `Bm25`.")
        texts = [d.text for d in self.documents]
        self.bm25 = Bm25([f"{d.name}\n{d.text}" for d in self.documents])
        vectors = embed(texts, model, long="windows") if vectors is None else check_vectors(vectors).float()
        self.vectors = F.normalize(vectors, dim=-1)  # a product with others would be no cosine
        if len(self.vectors) != len(texts):
            raise ValueError(f"there are {len(texts)} documents and {len(self.vectors)} vectors; each needs its own.")

    def search(self, query: str, k: int = 5, library: str | None = None) -> list[Hit]:
        """Return the k best documents, of one library if asked, the best first.

        Raises ValueError for an empty query, k below 1, and a library that there is not.
        """
        check_query(query, k, library)
        bm25 = self.bm25.scores([query])
        vector = embed([query], self.model, long="windows", device="cpu")
        if vector.shape[1] != self.vectors.shape[1]:
            raise ValueError(f"the vectors have the width {self.vectors.shape[1]}: its model makes {vector.shape[1]}.")
        cosine = vector @ self.vectors.T
        score = fuse(bm25, cosine, self.weight)[0]
        order = score.argsort(descending=True, stable=True).tolist()
        found = [i for i in order if library in (None, self.documents[i].library)][:k]
        return [
            Hit(self.documents[i], score[i].item(), bm25[0, i].item(), cosine[0, i].item(), self.bm25.words(query, i))
            for i in found
        ]


def check_query(query: str, k: int = 5, library: str | None = None) -> None:
    """Raise ValueError unless a search can be made of these."""
    if not isinstance(query, str):
        raise TypeError(f"the query is {type(query).__name__}; it must be one text, a str.")
    if not query.strip():
        raise ValueError('the query is empty: write what you look for, such as "invert a matrix".')
    check_count("k", k)
    if library is not None and library not in LIBRARIES:
        raise ValueError(f"there is no library {library!r}; choose one of {', '.join(LIBRARIES)}.")


def hits_text(hits: Sequence[Hit]) -> str:
    """Return the hits as plain lines: name, library, scores, summary, words."""
    blocks = []
    for number, hit in enumerate(hits, 1):
        words = ", ".join(f"{word} {part:.1f}" for word, part in hit.words.items())
        blocks.append(
            f"{number}. {_on_a_line(hit.document.name)}  ({_on_a_line(hit.document.library)})\n"
            f"   {shorten(_on_a_line(hit.document.summary), 100, placeholder=' …')}\n"
            f"   score {hit.score:.2f}  BM25 {hit.bm25:.1f}  cosine {hit.cosine:.2f}  words: {words or NO_WORDS}"
        )
    return "\n".join(blocks)


def _on_a_line(text: str) -> str:
    """Return a text as one line of plain characters: nothing in it moves a terminal's cursor or sets its colours."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
