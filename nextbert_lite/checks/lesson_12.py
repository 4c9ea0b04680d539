"""The checks of lesson 12, A search engine."""

import math

import torch

from nextbert_lite.checks.core import Exercise, Mistake, Prediction, hint, solution
from nextbert_lite.use.search import best_weight, fuse, mrr, ranks, reciprocal_ranks

__all__ = ["fused_mrr", "hint", "hits_at", "mean_reciprocal_ranks", "random_mrr", "solution", "word_scores"]

K1, B = 1.5, 0.75

# --- 12.1 BM25 of one word --------------------------------------------------------------------------------------------


def counts_and_lengths(generator):
    counts = torch.randint(0, 4, (9,), generator=generator).float()
    counts[:3] = torch.tensor([0.0, 1.0, 5.0])
    lengths = counts + torch.randint(3, 40, (9,), generator=generator).float()
    return counts, lengths


def in_every_text(generator):
    counts, lengths = counts_and_lengths(generator)
    return counts + 1, lengths + 1


def word_of_bm25(idf=None, saturate=None, number=None):
    """Return a `word_scores`; each part can be another than BM25's."""
    idf = idf or (lambda n, N: torch.log(1 + (N - n + 0.5) / (n + 0.5)))
    saturate = saturate or (lambda counts, relative: counts / (counts + K1 * (1 - B + B * relative)))
    number = number or (lambda counts: (counts > 0).sum())

    def scores(counts, lengths):
        return idf(number(counts), len(counts)) * saturate(counts, lengths / lengths.mean())

    return scores


word_scores = Exercise(
    id="12.1",
    right=word_of_bm25(),
    inputs=counts_and_lengths,
    mistakes=(
        Mistake(
            "no 1 + in the logarithm",
            word_of_bm25(idf=lambda n, N: torch.log((N - n + 0.5) / (n + 0.5))),
            "the 1 + inside the logarithm is missing: a word that stands in more than half of the texts gets a "
            "negative weight, and a text that has it ends up below one that has nothing.",
            "https://github.com/haifengl/smile/issues/682",
        ),
        Mistake(
            "the word's total",
            word_of_bm25(number=lambda counts: counts.sum()),
            "n is the number of *texts* that hold the word, not how often it stands in all of them together. A word "
            "ten times in one text is still a rare word.",
            "https://github.com/Michael-JB/bm25/pull/20",
        ),
        Mistake(
            "no weight for rarity",
            word_of_bm25(idf=lambda n, N: 1.0),
            "the factor for how rare the word is has been left out: a word of every text counts as much as one that "
            "stands in a single text.",
            "https://github.com/headroomlabs-ai/headroom/pull/646",
        ),
        Mistake(
            "no saturation",
            word_of_bm25(saturate=lambda counts, relative: counts),
            "this is count times rarity: five times the word, five times the score, in texts of any length. The "
            "fraction with k1 below the line is missing.",
            "plain TF-IDF, section 1",
        ),
        Mistake(
            "lengths ignored",
            word_of_bm25(saturate=lambda counts, relative: counts / (counts + K1)),
            "the lengths do nothing (b = 0): a long text holds more words by chance and wins. Multiply k1 by "
            "1 - b + b · length / mean length.",
            "b = 0 in Robertson and Zaragoza 2009, section 3.5",
        ),
        Mistake(
            "length the wrong way round",
            word_of_bm25(saturate=lambda counts, relative: counts / (counts + K1 * (1 - B + B / relative))),
            "the length goes in upside down: long texts gain by their length. It is the text's length divided by the "
            "mean length.",
            "the fraction turned over, section 1",
        ),
        Mistake(
            "times k1 + 1",
            word_of_bm25(saturate=lambda counts, relative: 2.5 * counts / (counts + K1 * (1 - B + B * relative))),
            "that is the older form, with (k1 + 1) above the line. Lucene dropped it: all scores shrink by the same "
            "factor, and no order changes. Leave it out here.",
            "https://issues.apache.org/jira/browse/LUCENE-8563",
        ),
    ),
    hints=(
        "How many texts hold the word: `n = (counts > 0).sum()`. How many there are: `N = len(counts)`.",
        "Rarity: `torch.log(1 + (N - n + 0.5) / (n + 0.5))`.",
        "Times `counts / (counts + 1.5 * (1 - 0.75 + 0.75 * lengths / lengths.mean()))`.",
    ),
    praise="Rare words weigh more, repetition pays less and less, and length is no merit.",
    also=in_every_text,
    other_ways=(
        lambda c, n: (
            math.log(1 + (len(c) - (k := int(c.count_nonzero())) + 0.5) / (k + 0.5))
            / (1 + (0.375 + 1.125 * n / n.mean()) / c)
        ),
        lambda c, n: torch.stack(
            [
                torch.log((len(c) + 1) / (sum(c > 0) + 0.5)) * x / (x + 1.5 * (0.25 + 0.75 * m * len(n) / n.sum()))
                for x, m in zip(c, n, strict=True)
            ]
        ),
    ),
)

# --- 12.2 ranks with ties ---------------------------------------------------------------------------------------------


def tied_scores(generator):
    scores = torch.randint(0, 5, (8, 12), generator=generator).float()
    scores[0] = 0  # a search that found nothing
    return scores, torch.randint(0, 12, (8,), generator=generator)


def no_ties(generator):
    return torch.randn(6, 7, generator=generator), torch.randint(0, 7, (6,), generator=generator)


def own(scores, right):
    return scores.gather(1, right[:, None])


def place_in_order(scores, right, descending=True):
    order = torch.argsort(scores, dim=1, descending=descending, stable=True)
    return 1 / (1 + (order == right[:, None]).float().argmax(1))


def over_the_places(scores, right):
    out = []
    for row, i in zip(scores.tolist(), right.tolist(), strict=True):
        places = [place for place, score in enumerate(sorted(row, reverse=True), 1) if score == row[i]]
        out.append(sum(1 / place for place in places) / len(places))
    return torch.tensor(out)


def worth_of_every_place(scores, right):
    in_order, same = scores.sort(1, descending=True).values, own(scores, right)
    worth = (in_order == same) / torch.arange(1, scores.shape[1] + 1)
    return worth.sum(1) / (in_order == same).sum(1)


mean_reciprocal_ranks = Exercise(
    id="12.2",
    right=lambda scores, right: reciprocal_ranks(scores, right).float(),
    inputs=tied_scores,
    mistakes=(
        Mistake(
            "one over the middle place",
            lambda scores, right: 1 / ranks(scores, right),
            "this is one over the *middle* of the tied places. The mean of 1/1 and 1/3 is 0.67, one over their middle "
            "is 0.5: a search that gives all texts the same score would get less than chance gets. Take the mean of "
            "the reciprocals.",
            "the first edition of this lesson; McSherry and Najork 2008",
        ),
        Mistake(
            "ties in one's favour",
            lambda scores, right: 1 / (1 + (scores > own(scores, right)).sum(1)),
            "you count ties in your favour: only texts with a *higher* score stand before the right one. A search that "
            "gives every text the same score would have a perfect MRR of 1.",
            "https://github.com/baharefatemi/SimplE/issues/4",
        ),
        Mistake(
            "ties against oneself",
            lambda scores, right: 1 / (scores >= own(scores, right)).sum(1),
            "you count every tie against the search: a text with the same score stands before the right one. In a "
            "random order the right one may have any of their places: take the mean of 1/rank over them.",
            "https://github.com/Accenture/AmpliGraph/issues/212",
        ),
        Mistake(
            "the order decides ties",
            place_in_order,
            "a sort puts equal scores in the order in which the texts happen to stand in your list. Turn the list "
            "around, and the figure changes. Take the mean of 1/rank over the places that equal scores share.",
            "https://github.com/embeddings-benchmark/mteb/issues/5092",
        ),
        Mistake(
            "the lowest score first",
            lambda scores, right: place_in_order(scores, right, descending=False),
            "the lowest score comes first in yours. Scores, unlike distances, are good when they are high.",
            "argsort's default is ascending",
        ),
        Mistake(
            "the rank itself",
            lambda scores, right: ranks(scores, right),
            "these are the ranks. The reciprocal, 1 / rank, is asked for.",
            "mean rank and mean reciprocal rank mixed up",
        ),
        Mistake(
            "ranks from zero",
            lambda scores, right: 1 / (ranks(scores, right) - 1),
            "your ranks start at 0, so the best place gives a division by zero. The first place is 1.",
            "an index taken for a rank: Python counts from 0",
        ),
    ),
    hints=(
        "The right text's own score, a column: `own = scores.gather(1, right[:, None])`.",
        "`before = (scores > own).sum(1)` texts are ahead of it. `equal = (scores == own).sum(1)` have its score, "
        "itself included. So its places are before + 1 to before + equal.",
        "A sum of 1/rank over neighbouring places is a difference of two running sums: "
        "`sums = F.pad((1 / torch.arange(1, scores.shape[1] + 1)).cumsum(0), (1, 0))`; return "
        "`(sums[before + equal] - sums[before]) / equal`.",
    ),
    praise="A search that knows nothing gets what chance gets.",
    also=no_ties,
    other_ways=(over_the_places, worth_of_every_place),
)

# --- 12.3 predict the result: order at random -------------------------------------------------------------------------

N = 500

random_mrr = Prediction(
    id="12.3",
    right=sum(1 / rank for rank in range(1, N + 1)) / N,
    tolerance=0.0004,
    mistakes=(
        Mistake(
            "1 / 500",
            1 / N,
            "1/500 is the chance of the first place. The second place has that chance too and is worth 1/2, the third "
            "1/3, and so on.",
            "the chance of a first place taken for the mean, section 3",
        ),
        Mistake(
            "one over the mean rank",
            2 / (N + 1),
            "that is one over the mean rank. The mean of reciprocals is another number, and a larger one: the few good "
            "places count most.",
            "mean reciprocal rank read as the reciprocal of the mean rank",
        ),
        Mistake(
            "a half",
            0.5,
            "the right text stands in the middle on average, but the middle is place 250, which is worth 1/250.",
            "chance taken for one half, as in a yes-or-no question",
        ),
        Mistake(
            "recall at 10",
            10 / N,
            "10/500 is the chance to be among the first ten: recall@10, not the MRR.",
            "recall@10 and MRR mixed up",
        ),
        Mistake(
            "the sum",
            sum(1 / rank for rank in range(1, N + 1)),
            "that is the sum of all reciprocals. Each place has a chance of 1/500.",
            "the division forgotten, section 3",
        ),
    ),
    hints=(
        "Each of the 500 places is equally likely. What is place r worth?",
        "The mean of 1, 1/2, 1/3, … 1/500.",
        "`sum(1 / r for r in range(1, 501)) / 500`",
    ),
    praise="This is the chance level of every table among 500.",
)

# --- 12.4 find the bug: the fusion that chose on the test -------------------------------------------------------------


def two_searches(generator):
    """Return BM25 and cosines on validation and on test; another of the two is better on each."""

    def scores(quality):
        noise = torch.randn(60, 60, generator=generator)
        scale = 1 + 9 * torch.rand(60, 1, generator=generator)
        shift = 10 * torch.rand(60, 1, generator=generator)
        return (noise + quality * torch.eye(60)) * scale + shift

    return scores(2.6), scores(1.6), scores(1.6), scores(2.2)


def whole(scores):
    return (scores - scores.mean()) / scores.std(correction=0)


def by_column(scores):
    return (scores - scores.mean(0)) / scores.std(0, correction=0)


def chosen_and_measured(choose_on, measure_on, z=None):
    """Return a `fused_mrr` that chooses the weight on one split and measures on another."""

    def mixed(a, b, w):
        return fuse(a, b, w) if z is None else w * z(a) + (1 - w) * z(b)

    def measured(a_validation, b_validation, a_test, b_test):
        splits = {"validation": (a_validation, b_validation), "test": (a_test, b_test)}
        found = {i / 20: mrr(mixed(*splits[choose_on], i / 20)) for i in range(21)}
        weight = max(found, key=found.get)
        return torch.tensor(mrr(mixed(*splits[measure_on], weight)))

    return measured


def the_other_way(a_validation, b_validation, a_test, b_test):
    weight, _ = best_weight(a_validation, b_validation)
    return torch.tensor(mrr(fuse(b_test, a_test, weight)))


def weight_by_loop(bm25_validation, cosine_validation, bm25_test, cosine_test):
    def z(s):
        return (s - s.mean(1, keepdim=True)) / s.std(1, keepdim=True)  # another deviation, the same order

    def score(a, b, w):
        mixed = w * z(a) + (1 - w) * z(b)
        return (1 / (1 + (mixed > mixed.diag()[:, None]).sum(1))).mean()

    best = max((i / 20 for i in range(21)), key=lambda w: score(bm25_validation, cosine_validation, w))
    return score(bm25_test, cosine_test, best)


fused_mrr = Exercise(
    id="12.4",
    right=chosen_and_measured("validation", "test"),
    inputs=two_searches,
    also=lambda generator: tuple(scores[:40, :40] for scores in two_searches(generator)),
    mistakes=(
        Mistake(
            "both bugs",
            chosen_and_measured("test", "test", whole),
            "both bugs are still there: the weight is the one that suits the test best, and the z-scores are taken "
            "over all queries at once.",
            "https://github.com/maxpumperla/hyperas/issues/193",
        ),
        Mistake(
            "chosen on the test",
            chosen_and_measured("test", "test"),
            "the z-scores are right now, but the weight is still chosen on the test queries and then reported on the "
            "same ones. The maximum of 21 numbers flatters. Choose on validation.",
            "https://github.com/okankop/Driver-Anomaly-Detection/issues/11",
        ),
        Mistake(
            "one mean for all queries",
            chosen_and_measured("validation", "test", whole),
            "chosen on validation, good. But the mean and the deviation are of the whole matrix: a query with large "
            "scores then leans on one search, a query with small ones on the other. Each query has its own: `mean(1, "
            "keepdim=True)`.",
            "https://github.com/ohdearquant/khive/issues/876",
        ),
        Mistake(
            "one mean a text",
            chosen_and_measured("validation", "test", by_column),
            "your mean goes down the columns, over the queries for one text. A query's scores stand in a row: "
            "`mean(1, keepdim=True)`.",
            "dim=0 in place of dim=1",
        ),
        Mistake(
            "validation reported",
            chosen_and_measured("validation", "validation"),
            "this is the MRR on validation, where the weight was chosen. Report the test, with that weight.",
            "https://github.com/keras-team/keras-tuner/issues/1018",
        ),
        Mistake(
            "the weight on the other search",
            the_other_way,
            "on the test your weight belongs to the other search: w goes to BM25 in both places.",
            "two arguments exchanged",
        ),
    ),
    hints=(
        "Which split does the buggy version look at when it takes the maximum? Over what does `scores.mean()` go?",
        "`best_weight(bm25_validation, cosine_validation)` gives the weight and its MRR; `fuse` takes z-scores per "
        "query.",
        "`weight, _ = best_weight(bm25_validation, cosine_validation)`, then `mrr(fuse(bm25_test, cosine_test, "
        "weight))`.",
    ),
    praise="Chosen on one set of queries, reported on another.",
    other_ways=(weight_by_loop,),
)

# --- 12.5 several right answers ---------------------------------------------------------------------------------------


def scores_and_relevant(generator):
    scores = torch.randn(12, 12, generator=generator)
    relevant = torch.rand(12, 12, generator=generator) < 0.25
    relevant[torch.arange(12), torch.randint(0, 12, (12,), generator=generator)] = True
    return scores, relevant, 3


def more_texts(generator):
    scores = torch.randn(5, 30, generator=generator)
    return scores, torch.rand(5, 30, generator=generator) < 0.1, 4


def found(scores, relevant, k, dim=1, largest=True):
    """Return which of the k first texts of each query are right, (Q, k)."""
    return relevant.gather(dim, scores.topk(k, dim=dim, largest=largest).indices)


hits_at = Exercise(
    id="12.5",
    right=lambda scores, relevant, k: found(scores, relevant, k).any(1).float().mean(),
    inputs=scores_and_relevant,
    mistakes=(
        Mistake(
            "the wrong axis",
            lambda scores, relevant, k: found(scores, relevant, k, dim=0).any(0).float().mean(),
            "you took the k best queries of each text. A query's scores stand in a row: the k best along dim 1.",
            "dim=0 in place of dim=1",
        ),
        Mistake(
            "precision",
            lambda scores, relevant, k: found(scores, relevant, k).float().mean(),
            "this is precision@k: which share of the k hits is right. Here a query counts as answered as soon as one "
            "of its k hits is right.",
            "https://github.com/erikbern/ann-benchmarks/issues/263",
        ),
        Mistake(
            "every right hit counted",
            lambda scores, relevant, k: found(scores, relevant, k).float().sum(1).mean(),
            "you count every right hit, so a query can count for more than 1. One right hit or three, it is answered: "
            "`any`, not `sum`.",
            "https://github.com/RUCAIBox/RecBole/issues/1107",
        ),
        Mistake(
            "the share of the right texts",
            lambda scores, relevant, k: (found(scores, relevant, k).float().sum(1) / relevant.sum(1)).mean(),
            "this is the share of all right texts that were found. Who asks how to invert a matrix needs one answer, "
            "not all of them.",
            "https://github.com/apple/axlearn/pull/195",
        ),
        Mistake(
            "the k worst",
            lambda scores, relevant, k: found(scores, relevant, k, largest=False).any(1).float().mean(),
            "these are the k lowest scores. Scores, unlike distances, are good when they are high.",
            "argsort's default is ascending",
        ),
        Mistake(
            "a count",
            lambda scores, relevant, k: found(scores, relevant, k).any(1).sum().float(),
            "this is the number of answered queries. Divide by how many there are.",
            "a sum in place of a mean",
        ),
    ),
    hints=(
        "The numbers of the k best texts of each query: `scores.topk(k, dim=1).indices`, (Q, k).",
        "`relevant.gather(1, indices)` says which of them are right, (Q, k).",
        "`.any(1).float().mean()`",
    ),
    praise="One right hit answers a query.",
    also=more_texts,
    other_ways=(
        lambda s, right, k: (
            torch.stack([t[row.argsort(descending=True)[:k]].any() for row, t in zip(s, right, strict=True)])
            .float()
            .mean()
        ),
        lambda s, right, k: sum(bool(t[row.topk(k).indices].sum()) for row, t in zip(s, right, strict=True)) / len(s),
    ),
)
