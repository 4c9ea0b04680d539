"""Lesson 12: what its checks say of wrong answers that no named mistake fits, and further right answers."""

import re

import pytest
import torch
import torch.nn.functional as F
from exercises import ALL, edited

from nextbert_lite.checks import lesson_12
from nextbert_lite.checks.core import CheckFailed
from nextbert_lite.use.search import best_weight, fuse, mrr


def _bm25(old, new):
    return edited(lesson_12.BM25, (old, new))


def _bootstrap(old, new):
    return edited(lesson_12.paired_bootstrap, (old, new))


class _SharedIndex(lesson_12.BM25):
    shared = {}  # noqa: RUF012 - the mistake

    def __init__(self, *arguments):
        super().__init__(*arguments)
        for word, pair in self.postings.items():
            self.shared.setdefault(word, []).append(pair)

    def scores(self, queries):
        scores = torch.zeros(len(queries), self.N)
        for row, query in zip(scores, queries, strict=True):
            for where, adds in (pair for word in self.words_of(query) for pair in self.shared.get(word, [])):
                row[where[where < self.N]] += adds[where < self.N]
        return scores


class _LowerCaseQueries(lesson_12.BM25):
    def scores(self, queries):
        words_of, self.words_of = self.words_of, lambda text: text.lower().split()
        found, self.words_of = super().scores(queries), words_of
        return found


class _ByText(lesson_12.BM25):
    def __init__(self, texts, *arguments):
        super().__init__(texts, *arguments)
        self.texts = list(texts)

    def scores(self, queries):
        scores = super().scores(queries)
        scores[:, [i for i, text in enumerate(self.texts) if text in self.texts[i + 1 :]]] = 0
        return scores


def _leaves_out_empty(texts, words_of, k1=1.5, b=0.75):
    found = {text: words_of(text) for text in texts}
    index = lesson_12.BM25([text for text in texts if found[text]], found.get, k1, b)
    index.words_of = words_of
    return index


def _halves(scores, right):
    before, equal = (scores > lesson_12.own(scores, right)).sum(1), (scores == lesson_12.own(scores, right)).sum(1)
    return (1 / (before + 1) + 1 / (before + equal)) / 2


def _ranks_by(turn):
    return lambda scores, right: lesson_12.by_digamma(*turn(scores, right))


def _fused(choose=lambda found: max(found, key=found.get), steps=21):
    def fused_mrr(a_validation, b_validation, a_test, b_test):
        found = {i / 20: mrr(fuse(a_validation, b_validation, i / 20)) for i in range(steps)}
        return mrr(fuse(a_test, b_test, choose(found)))

    return fused_mrr


WRONG_12 = {
    "zeros": ("12.1", _bm25("+= adds", "+= 0 * adds"), "all scores are 0: that is step 1"),
    "shared": ("12.1", _SharedIndex, "What an index keeps belongs to `self`"),
    "kept row": (
        "12.1",
        _bm25(
            "for row, query in zip(scores, queries, strict=True):",
            "for i, query in enumerate(queries):\n            scores[i] += scores[i - 1]\n            row = scores[i]",
        ),
        "a query's scores depend on the query before it",
    ),
    "f is 1": ("12.1", _bm25("append((i, f))", "append((i, 1))"), "1.00 times as much: see what becomes of f"),
    "brackets": ("12.1", _bm25("k1 * (1 - b + b *", "(k1 * (1 - b) + b *"), "the fraction and its brackets"),
    "log10": ("12.1", _bm25("torch.log(", "torch.log10("), "All are 0.43 times as large"),
    "rarity": ("12.1", _bm25("(n + 0.5))", "n + 0.5)"), "2.30, 1.30, 0.62 in yours; expected 1.90, 1.05, 0.29"),
    "whole lengths": (
        "12.1",
        _bm25("lengths[where] / lengths.mean()", "(lengths[where] // lengths.mean())"),
        "comes to 0.00 and 1.00 in yours",
    ),
    "no words": (
        "12.1",
        _bm25(
            "for word in self.words_of(query):", "for word in [*self.words_of(query), self.words_of(query)[0]][:-1]:"
        ),
        "A query without any word gets zeros",
    ),
    "stops": (
        "12.1",
        _bm25("row[where] += adds", "row[where] += adds\n                else:\n                    break"),
        "should be the sum over its words",
    ),
    "lower case": ("12.1", _LowerCaseQueries, "the query does not go through `words_of`"),
    "b fixed": ("12.1", _bm25("(1 - b + b *", "(0.25 + 0.75 *"), "`b` does nothing"),
    "one column": ("12.1", _leaves_out_empty, "A text without words keeps its own"),
    "equal texts": ("12.1", _ByText, "two texts with the same words get different scores"),
    "sorted": (
        "12.1",
        _bm25("scores = torch.zeros", "queries.sort()\n        scores = torch.zeros"),
        "`queries` is changed in place",
    ),
    "diagonal": ("12.2", _ranks_by(lambda s, r: (s, torch.arange(len(r)))), "`right` does nothing"),
    "lowest": ("12.2", _ranks_by(lambda s, r: (-s, r)), "the lowest score comes first"),
    "first and last": ("12.2", _halves, "Those between the first and the last count too"),
    "one more": (
        "12.2",
        _ranks_by(lambda s, r: (torch.cat([s, s.amax(1, keepdim=True) + 1], 1), r)),
        "of rank 1 gets 0.5000",
    ),
    "the mean": ("12.2", lambda s, r: lesson_12.by_digamma(s, r).mean(), "the shape is (); expected (6,)"),
    "over questions": (
        "12.2",
        lambda s, r: (s > lesson_12.own(s, r)).sum(0).float(),
        "the shape is (7,); expected (6,)",
    ),
    "a loop": (
        "12.2",
        lambda s, r: torch.cat([lesson_12.by_digamma(s[i : i + 1], r[i : i + 1]) for i in range(len(r))]),
        "it loops over the questions",
    ),
    "a loop of lists": (
        "12.2",
        lambda s, r: torch.tensor(
            [
                sum(1 / (n + 1) for n, x in enumerate(sorted(row, reverse=True)) if x == row[i]) / row.count(row[i])
                for row, i in zip(s.tolist(), r.tolist(), strict=True)
            ]
        ),
        "it loops over the questions",
    ),
    "negative": ("12.3", -2, "the number is above 1"),
    "thirteen": ("12.3", 13.4, "it is less than 10"),
    "eight": ("12.3", 8, "It does lie between 1 and 10"),
    "of single differences": (
        "12.4",
        _bootstrap("difference[drawn].mean(1)", "difference[drawn[0].repeat(9)]"),
        "the quantiles of the differences",
    ),
    "axis": ("12.4", _bootstrap("].mean(1)", "].mean(0)"), "see the axes of the draw"),
    "sums": ("12.4", _bootstrap("].mean(1)", "].sum(1)"), "the mean of each sample is asked for"),
    "extremes": ("12.4", _bootstrap("tail = (1 - level) / 2", "tail = 0.0"), "the smallest and the largest mean"),
    "half the level": (
        "12.4",
        _bootstrap("tail = (1 - level) / 2", "tail = level / 2"),
        "at level 0.95 your ends leave out about 47",
    ),
    "never drawn": ("12.4", _bootstrap("randint(Q, (", "randint(Q - 1, ("), "number 9 (from 0) is never drawn"),
    "distances": (
        "12.4",
        _bootstrap("low, high\n", "difference.mean().item() - low, high - difference.mean().item()\n"),
        "distances from the mean",
    ),
    "exchanged": ("12.4", _bootstrap("low, high\n", "high, low\n"), "the upper end comes before the lower"),
    "one sample": ("12.4", _bootstrap("difference[drawn].mean(1)", "difference[drawn[:1]].mean(1)"), "are all equal"),
    "tensors": ("12.4", _bootstrap("difference.mean().item()", "difference.mean()"), "returns (Tensor, float, float)"),
    "two ends": ("12.4", _bootstrap("difference.mean().item(), low", "low"), "yours returns (float, float)"),
    "sizes": ("12.4", _bootstrap("(a - b).double()", "(a - b).double().abs()"), "the first number is"),
    "below the line": ("12.5", lesson_12.bag_of(divide=lambda w: w.shape[1]), "add up to"),
    "exp of 0": (
        "12.5",
        lambda ids, mask, v, w: torch.einsum("bt,btc->bc", (w[ids] * (mask & (ids > 4))).softmax(1), v[ids]),
        "is special and has the weight",
    ),
    "mask turned": (
        "12.5",
        lesson_12.bag_of(counts=lambda ids, mask: ~mask & (ids > 20)),
        "`mask` is True at the tokens",
    ),
    "length 1": ("12.5", lambda *a: F.normalize(lesson_12.bag_of()(*a), dim=1), "made to length 1"),
    "no keepdim": ("12.5", lesson_12.bag_of(divide=lambda w: w.sum(1)), "`keepdim`"),
    "powers of 2": ("12.5", lesson_12.bag_of(weigh=torch.exp2), "e to the power of its entry"),
    "the weight": ("12.6", lambda a, b, c, d: best_weight(a, b)[0], "this is the weight"),
    "no scale": (
        "12.6",
        lesson_12.chosen_and_measured("validation", "test", lambda s: s),
        "divided by their standard deviation",
    ),
    "the second": ("12.6", _fused(lambda found: sorted(found, key=found.get)[-4]), "the best weight on validation is"),
    "twenty weights": ("12.6", _fused(steps=20), "the weight 1 alone is best"),
    "the largest": ("12.6", _fused(lambda found: max(found, key=lambda w: (found[w], w))), "do not take the smallest"),
    "the pair": ("12.6", lambda a, b, c, d: mrr(fuse(c, d, best_weight(a, b))), "`best_weight` returns two things"),
    "many weights": (
        "12.6",
        lambda a, b, c, d: sum(mrr(fuse(c, d, i / 20)) for i in range(21)) / 21,
        "no single weight",
    ),
}


@pytest.mark.parametrize(
    "number, answer, words", WRONG_12.values(), ids=[f"lesson{case[0]}-{name}" for name, case in WRONG_12.items()]
)
def test_lesson12_says_what_is_wrong_where_no_mistake_fits(number, answer, words):
    with pytest.raises(CheckFailed, match=re.escape(words)):
        ALL[number](answer)
