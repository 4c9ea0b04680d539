"""Search: BM25, ranks, fusion, the bootstrap, the index that is kept, the box and the command."""

import inspect
import io
import json
import math
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import pairwise, permutations
from statistics import mean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from nextbert_lite import embed, stored_table
from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.corpora.harvest import Document
from nextbert_lite.corpora.python_docs import DocsCorpus
from nextbert_lite.course import cli, documentation
from nextbert_lite.course.documentation import open_index
from nextbert_lite.training.tokenizer import train_bpe
from nextbert_lite.use import checkpoints, search
from nextbert_lite.use.search import (
    PLAIN,
    Bm25,
    SearchIndex,
    all_ranks,
    best_weight,
    fuse,
    mrr,
    ndcg_at,
    paired_bootstrap,
    ranks,
    recall_at,
    reciprocal_rank_fusion,
    reciprocal_ranks,
    terms,
    z_scores,
)
from nextbert_lite.views.search_box import hits_html, search_box

TEXTS = [
    "Sort a list of numbers, in place.",
    "Read a table of numbers from a file: numbers, numbers, numbers.",
    "…",
    "Draw a line between two points and sort the points.",
]


def random_scores(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- BM25 -------------------------------------------------------------------------------------------------------------


def words_of(text):
    stop = {"a", "of", "in", "the", "and"}  # those of the stop words that these texts have
    return [word for word in re.findall(r"\w\w+", text.lower()) if word not in stop]


def bm25_by_hand(query, texts, k1=1.5, b=0.75):
    """Lucene's formula, word by word."""
    bags = [Counter(words_of(text)) for text in texts]
    mean_length = sum(bag.total() for bag in bags) / len(bags)
    scores = []
    for bag in bags:
        score = 0
        for word in words_of(query):
            holding = sum(word in other for other in bags)
            idf = math.log(1 + (len(bags) - holding + 0.5) / (holding + 0.5))
            score += idf * bag[word] / (bag[word] + k1 * (1 - b + b * bag.total() / mean_length))
        scores.append(score)
    return scores


def test_bm25_gives_what_the_formula_gives(capfd, caplog):
    queries = ["sort numbers", "Numbers, numbers of a file", "points", "the list and the points"]
    found = Bm25(TEXTS, **PLAIN).scores(queries)
    assert found.shape == (4, 4) and found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([bm25_by_hand(q, TEXTS) for q in queries]), rtol=1e-5, atol=1e-6)
    other = Bm25(TEXTS, stem=False, split=False, k1=0.5, b=0.2).scores(queries)
    wanted = torch.tensor([bm25_by_hand(q, TEXTS, k1=0.5, b=0.2) for q in queries])
    torch.testing.assert_close(other, wanted, rtol=1e-5, atol=1e-6)
    assert capfd.readouterr() == ("", "") and not caplog.records  # no progress bars, no lines in a log


@pytest.mark.parametrize("query", ["", "the of and", "xylophone", "?!", "a xylophone of the"])
def test_a_query_of_unknown_words_and_stop_words_scores_zero_everywhere(query):
    bm25 = Bm25(TEXTS)
    assert torch.equal(bm25.scores([query, "sort"])[0], torch.zeros(4))
    assert bm25.words(query, 0) == {}


def test_the_words_contributions_sum_to_the_score_and_the_largest_comes_first():
    bm25, query = Bm25(TEXTS), "sort sort the numbers of a xylophone file"
    scores = bm25.scores([query])[0]
    for i in range(len(TEXTS)):
        words = bm25.words(query, i)
        assert sum(words.values()) == pytest.approx(scores[i].item(), rel=1e-5)
        assert list(words.values()) == sorted(words.values(), reverse=True)
        assert set(words) == {"sort", "numbers", "file"} & set(words_of(TEXTS[i]))


def test_words_are_compared_by_their_stems_and_identifiers_by_their_parts_too():
    texts = ["Sorted numbers.", "clip_grad_norm_ of gradients", "class HTTPError", "norm", "a getItem"]
    found = {q: [i for i, s in enumerate(Bm25(texts).scores([q])[0]) if s > 0] for q in ["sorting", "norms", "Errors"]}
    assert found == {"sorting": [0], "norms": [1, 3], "Errors": [2]}
    assert Bm25(texts, **PLAIN).scores(["sorting norms Errors"]).count_nonzero() == 0
    scores = Bm25(texts).scores(["clip_grad_norm_", "norm"])
    assert scores[0].argmax() == 1 and scores[1].argmax() == 3  # the whole name counts as well


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("clip_grad_norm_", ("clip_grad_norm_", "clip", "grad", "norm")),
        ("BCEWithLogitsLoss", ("bcewithlogitsloss", "bce", "logit", "loss")),  # "with" is a stop word
        ("getItem", ("getitem", "get", "item")),
        ("float32", ("float32",)),
        ("__init__", ("__init__", "init")),
        ("x_axis", ("x_axi", "axi")),
        ("größenänderungen", ("größenänderungen",)),
        ("The", ()),
        ("__", ("__",)),
    ],
)
def test_a_word_is_compared_whole_and_in_the_parts_that_are_words(word, found):
    assert terms(word) == found
    assert terms(word, stem=False, split=False) == (() if word == "The" else (word.lower(),))


def test_a_hit_shows_the_words_as_they_were_asked_and_not_their_stems():
    bm25 = Bm25(["the matrices of clip_grad_norm_", "grad", "other"])
    query = "a matrix: Clipping clip_grad_value_ of matrices, Matrices"
    words, score = bm25.words(query, 0), bm25.scores([query])[0, 0].item()
    assert set(words) == {"matrices", "clipping", "clip_grad_value_"} and sum(words.values()) == pytest.approx(score)
    assert bm25.words(query, 1).keys() == {"clip_grad_value_"} and bm25.words(query, 2) == {}


def test_the_defaults_are_the_best_of_the_stored_tables():
    """The tables are made by tools/search_settings.py on validation questions."""
    best = max(stored_table("12_bm25"), key=lambda row: float(row["mrr_named"]))
    defaults = {name: p.default for name, p in inspect.signature(Bm25).parameters.items() if name != "texts"}
    assert defaults == {"stem": True, "split": True, "k1": float(best["k1"]), "b": float(best["b"])}
    assert best["words"] == "parts and whole, stems"
    assert search.WEIGHT == float(max(stored_table("12_weights"), key=lambda row: float(row["mrr_named"]))["weight"])


# --- ranks ------------------------------------------------------------------------------------------------------------


def test_the_rank_is_one_more_than_the_number_of_better_texts():
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.2, 0.1, 0.3]])
    assert ranks(scores).tolist() == [1, 3, 1]
    assert ranks(scores, torch.tensor([2, 0, 1])).tolist() == [2, 1, 3]
    assert mrr(scores) == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert [recall_at(scores, k) for k in (1, 2, 3)] == pytest.approx([2 / 3, 2 / 3, 1])
    assert recall_at(scores, 2, torch.tensor([2, 0, 1])) == pytest.approx(2 / 3)


def test_among_ties_the_rank_is_the_one_to_expect_when_they_are_ordered_by_chance():
    scores = [3.0, 1.0, 3.0, 3.0, 0.0]
    for own in range(5):
        orders = [order for order in permutations(range(5)) if sorted(order, key=lambda i: -scores[i]) == list(order)]
        expected = sum(order.index(own) + 1 for order in orders) / len(orders)
        assert ranks(torch.tensor([scores]), torch.tensor([own])).item() == expected


def every_order(scores):
    """Return each order of the texts, the best first, that equal scores allow."""
    return [o for o in permutations(range(len(scores))) if all(scores[i] >= scores[j] for i, j in pairwise(o))]


TIED = [[3.0, 1.0, 3.0, 3.0, 0.0, 1.0], [2.0] * 6, [5.0, 4.0, 3.0, 2.0, 1.0, 0.0], [0.0, 0.0, 7.0, 0.0, 0.0, 7.0]]


@pytest.mark.parametrize("scores", TIED)
def test_every_measure_is_its_mean_over_all_orders_of_the_ties(scores):
    orders, table = every_order(scores), torch.tensor([scores])
    for own in range(6):
        places, right = [order.index(own) + 1 for order in orders], torch.tensor([own])
        assert reciprocal_ranks(table, right).item() == pytest.approx(mean(1 / r for r in places), rel=1e-12)
        assert mrr(table, right) == reciprocal_ranks(table, right).item()
        for k in (1, 3, 6, 9):
            assert recall_at(table, k, right) == pytest.approx(mean(r <= k for r in places), rel=1e-12)
            gains = [1 / math.log2(1 + r) if r <= k else 0 for r in places]
            assert ndcg_at(table, k, right) == pytest.approx(mean(gains), rel=1e-12)
    grades = torch.tensor([[0.0, 3.0, 1.0, 0.0, 2.0, 0.0]])
    for k in (1, 3, 6):
        discount = [1 / math.log2(r + 1) if r <= k else 0 for r in range(1, 7)]
        ideal = sum(g * d for g, d in zip([3, 2, 1], discount, strict=False))
        gains = [sum(grades[0, i].item() * d for i, d in zip(order, discount, strict=True)) for order in orders]
        assert ndcg_at(table, k, grades=grades) == pytest.approx(mean(gains) / ideal, rel=1e-12)


@pytest.mark.parametrize("N", [1, 2, 7, 100])
def test_a_model_that_gives_all_texts_the_same_score_gets_what_chance_gets(N):
    nothing = torch.zeros(N, N)
    assert ranks(nothing).tolist() == [(N + 1) / 2] * N
    assert mrr(nothing) == pytest.approx(sum(1 / r for r in range(1, N + 1)) / N)
    assert recall_at(nothing, 3) == pytest.approx(min(3, N) / N)
    assert ndcg_at(nothing, 3) == pytest.approx(sum(1 / math.log2(1 + r) for r in range(1, min(3, N) + 1)) / N)


tables = st.integers(1, 7).flatmap(lambda n: st.lists(st.integers(0, 3), min_size=n, max_size=n))


@given(tables, st.data())
def test_the_order_in_which_texts_stand_and_the_scores_scale_change_no_measure(row, data):
    right, moved = data.draw(st.integers(0, len(row) - 1)), data.draw(st.permutations(range(len(row))))
    scores, other = torch.tensor([row]).float(), torch.tensor([[2.0 * row[i] - 1 for i in moved]])
    for measure in (mrr, partial(recall_at, k=2), partial(ndcg_at, k=3)):
        value = measure(scores, right=torch.tensor([right]))
        assert value == measure(other, right=torch.tensor([moved.index(right)])) and 0 <= value <= 1


@given(tables, st.data())
def test_all_texts_together_share_what_the_ranks_are_worth_and_a_higher_score_is_never_worth_less(row, data):
    N, scores = len(row), torch.tensor([row]).float().expand(len(row), -1)
    each = reciprocal_ranks(scores)
    assert each.sum().item() == pytest.approx(sum(1 / r for r in range(1, N + 1)))
    assert all(each[i] > each[j] for i in range(N) for j in range(N) if row[i] > row[j])
    k = data.draw(st.integers(1, N))
    assert recall_at(scores, k) == pytest.approx(k / N) and recall_at(scores, N) == pytest.approx(1)


def test_graded_ndcg_is_that_of_scikit_learn_and_of_one_grade_that_of_the_right_text():
    scores = random_scores(6, 9).mul(2).round()  # with ties
    grades = random_scores(6, 9, seed=1).mul(2).round().clamp(min=0) + torch.eye(6, 9)
    for k in (1, 4, 9):
        assert ndcg_at(scores, k, grades=grades) == pytest.approx(ndcg_score(grades, scores, k=k), rel=1e-12)
        right = torch.arange(6)
        assert ndcg_at(scores, k, grades=torch.eye(6, 9)) == pytest.approx(ndcg_at(scores, k, right), rel=1e-12)


def test_the_ranks_of_all_texts_agree_with_the_rank_of_each():
    scores = random_scores(6, 9).mul(2).round()  # with ties
    each = torch.stack([ranks(scores, torch.full((6,), i)) for i in range(9)], dim=1)
    assert torch.equal(all_ranks(scores), each)
    assert torch.equal(all_ranks(scores.T.contiguous().T), each)


# --- fusion -----------------------------------------------------------------------------------------------------------


def test_z_scores_have_mean_0_and_deviation_1_for_each_query_and_a_constant_row_becomes_zeros():
    scores = random_scores(4, 50) * torch.tensor([[1.0], [100.0], [1e-4], [0.0]]) + 3
    found = z_scores(scores)
    assert found.mean(1).abs().max() < 1e-3
    torch.testing.assert_close(found[:3].std(1, correction=0), torch.ones(3), rtol=1e-3, atol=0)
    assert torch.equal(found[3], torch.zeros(50))
    assert torch.equal(z_scores(torch.full((1, 3), 0.1)), torch.zeros(1, 3))  # 0.1 has a rounding error


def test_the_fused_score_is_the_weighted_sum_and_does_not_depend_on_the_scale_of_either():
    a, b = random_scores(5, 8), random_scores(5, 8, seed=1)
    fused = fuse(a, b, 0.3)
    torch.testing.assert_close(fused, 0.3 * z_scores(a) + 0.7 * z_scores(b))
    torch.testing.assert_close(fuse(40 * a + 7, 0.1 * b - 2, 0.3), fused, rtol=1e-4, atol=1e-4)
    assert torch.equal(all_ranks(fuse(a, b, 1)), all_ranks(a)) and torch.equal(all_ranks(fuse(a, b, 0)), all_ranks(b))


def test_reciprocal_rank_fusion_adds_the_reciprocals_of_rank_plus_60():
    a, b = torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[7.0, 9.0, 9.0]])
    right = [1 / 61 + 1 / 63, 1 / 62 + 1 / 61.5, 1 / 63 + 1 / 61.5]
    torch.testing.assert_close(reciprocal_rank_fusion(a, b)[0], torch.tensor(right))


def test_the_best_weight_trusts_whoever_is_right():
    right, noise = torch.eye(40) + 0.5 * random_scores(40, 40), random_scores(40, 40, seed=1)
    assert best_weight(torch.eye(40), torch.eye(40)) == (0.0, 1.0)
    assert best_weight(right, noise)[0] > 0.5 > best_weight(noise, right)[0]
    half = torch.eye(40) + 0.5 * random_scores(40, 40, seed=2)
    other = torch.eye(40) + 0.5 * random_scores(40, 40, seed=3)
    weight, value = best_weight(half, other)
    assert 0 < weight < 1 and value == mrr(fuse(half, other, weight)) > max(mrr(half), mrr(other))
    moved = torch.arange(40).roll(1)
    assert best_weight(half[:, moved], other[:, moved], moved.argsort()) == (weight, value)


# --- the bootstrap ----------------------------------------------------------------------------------------------------


def test_the_bootstrap_gives_the_difference_of_the_means_inside_its_interval():
    a, b = random_scores(200).abs(), random_scores(200, seed=1).abs()
    difference, low, high = paired_bootstrap(a, b)
    assert difference == pytest.approx((a.double().mean() - b.double().mean()).item()) and low < difference < high
    assert paired_bootstrap(a, b) == (difference, low, high)
    assert paired_bootstrap(b, a)[1] == pytest.approx(-high)
    spread = (a.double() - b.double()).std().item() / math.sqrt(200)  # the interval of a normal distribution is near
    assert (high - low) / spread == pytest.approx(2 * 1.96, rel=0.1)


def test_the_interval_is_that_of_the_pairs_and_not_of_two_samples():
    b = 10 * random_scores(50)
    difference, low, high = paired_bootstrap(b + 0.25, b)
    assert low == pytest.approx(difference) == pytest.approx(high)


def test_the_interval_of_95_percent_holds_the_true_difference_in_about_95_percent_of_experiments(monkeypatch):
    monkeypatch.setattr(search, "RESAMPLES", 500)
    held, truth = 0, 0.2
    for seed in range(300):
        b = random_scores(80, seed=2 * seed)
        a = b + truth + random_scores(80, seed=2 * seed + 1)
        _, low, high = paired_bootstrap(a, b)
        held += low <= truth <= high
    # at 80 queries the percentiles hold it in 94 %; P(fewer than 267 or more than 295 of 300) is about 1 in 1,500
    assert 267 <= held <= 295


# --- what these refuse ------------------------------------------------------------------------------------------------

S, WIDE = random_scores(3, 3), random_scores(3, 5)
A_LIST, SHAPES = "put a single text into a list", r"a has the shape \(3, 3\), b \(3, 5\)"
GRADES = "`grades` must have the scores' shape, no number below 0 and in each row one above 0"
RIGHT, PAIRED = "`right` must be 3 numbers of texts, 0 to 4", "the same queries in the same order"
REFUSED = {
    "Bm25: no text": (lambda: Bm25([]), ValueError, "the list of texts is empty"),
    "Bm25: stop words only": (lambda: Bm25(["the", "of a"]), ValueError, "no word but stop words"),
    "Bm25: one text": (lambda: Bm25("sort a list"), TypeError, A_LIST),
    "Bm25: one query": (lambda: Bm25(TEXTS).scores("sort a list"), TypeError, A_LIST),
    "Bm25: None": (lambda: Bm25(["sort", None]), TypeError, "text 1 is NoneType; each text must be a str"),
    "Bm25: k1 below 0": (lambda: Bm25(TEXTS, k1=-0.1), ValueError, "k1 is -0.1 and b 0.9; k1 must be 0 or more, b"),
    "Bm25: b of 1.1": (lambda: Bm25(TEXTS, b=1.1), ValueError, "k1 is 0.9 and b 1.1; k1 must be 0 or more, b between"),
    "ndcg: grades of others": (lambda: ndcg_at(S, 2, grades=WIDE.abs()), ValueError, GRADES),
    "ndcg: a grade below 0": (lambda: ndcg_at(S, 2, grades=torch.eye(3) - 0.1), ValueError, GRADES),
    "ndcg: a grade of NaN": (lambda: ndcg_at(S, 2, grades=torch.full((3, 3), math.nan)), ValueError, GRADES),
    "ndcg: nothing relevant": (lambda: ndcg_at(S, 2, grades=torch.eye(3)[[0, 1]].new_zeros(3, 3)), ValueError, GRADES),
    "ranks: which is right": (lambda: ranks(WIDE), ValueError, "Give `right`, the number of each right text"),
    "ranks: too few right": (lambda: ranks(WIDE, torch.tensor([0, 1])), ValueError, RIGHT),
    "ranks: right is 5": (lambda: ranks(WIDE, torch.tensor([0, 1, 5])), ValueError, RIGHT),
    "ranks: right is -1": (lambda: ranks(WIDE, torch.tensor([0, 1, -1])), ValueError, RIGHT),
    "ranks: right is a table": (lambda: ranks(WIDE, torch.tensor([[0, 1, 2]])), ValueError, RIGHT),
    "ranks: of one query": (lambda: ranks(S[0]), ValueError, r"the scores have the shape \(3,\); expected \(Q, N\)"),
    "fuse: other texts": (lambda: fuse(S, WIDE, 0.5), ValueError, SHAPES),
    "reciprocal ranks: other texts": (lambda: reciprocal_rank_fusion(S, WIDE), ValueError, SHAPES),
    "best weight: other texts": (lambda: best_weight(S, WIDE), ValueError, SHAPES),
    "weight -0.1": (lambda: fuse(S, S, -0.1), ValueError, "weight is -0.1; it must be between 0 .only b. and 1"),
    "weight 1.1": (lambda: fuse(S, S, 1.1), ValueError, "weight is 1.1; it must be between 0 .only b. and 1"),
    "weight NaN": (lambda: fuse(S, S, math.nan), ValueError, "weight is nan; it must be between 0 .only b. and 1"),
    "bootstrap: 3 and 2 queries": (lambda: paired_bootstrap(S[0], S[0, :2]), ValueError, PAIRED),
    "bootstrap: one query": (lambda: paired_bootstrap(S[0, :1], S[0, :1]), ValueError, PAIRED),
    "bootstrap: tables": (lambda: paired_bootstrap(S, S), ValueError, PAIRED),
    "bootstrap: NaN": (lambda: paired_bootstrap(S[0], S[0] / 0 * 0), ValueError, "not finite: look at that query"),
}
for bad in (math.nan, math.inf, -math.inf):
    spoilt = S.index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(bad))
    message = "the scores are not finite: row 1"
    for measure in (ranks, mrr, all_ranks, z_scores):
        REFUSED[f"{measure.__name__}: {bad}"] = partial(measure, spoilt), ValueError, message
    REFUSED[f"ndcg_at: {bad}"] = partial(ndcg_at, spoilt, 2, grades=torch.eye(3)), ValueError, message


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_ranked_fused_or_compared_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- the index --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(docs):
    """Sixty short documents: every library, and some that a test asks for."""
    documents = [d for d in docs.documents if 40 < len(d.text) < 300]
    wanted = [d for d in docs.documents if d.name in ("numpy.sort", "matplotlib.pyplot.hist")]
    documents = documents[:: len(documents) // 58][:58] + wanted
    return DocsCorpus(train=tuple(documents), validation=(), test=(), fingerprint={"sha256": "1" * 64})


@pytest.fixture(scope="module")
def model(corpus):
    """A small encoder with random weights: what it finds means nothing, how it is used can be tested."""
    tokenizer = train_bpe([d.text for d in corpus.documents], 600)
    torch.manual_seed(0)
    return MaskedLanguageModel(Encoder(EncoderConfig(600, width=16, heads=2, max_len=32))), tokenizer


@pytest.fixture(scope="module")
def index(corpus, model):
    return SearchIndex(corpus.documents, model)


def test_a_document_is_found_by_its_words_and_by_its_name(corpus, model):
    order = Document("numpy.argsort", "numpy", "numpy", "Return the indices that put the numbers in order.", "")
    index = SearchIndex([*corpus.documents, order], model, weight=1.0)
    asked = {"indices in order": {"indices", "order"}, "numpy.argsort": {"numpy", "argsort"}, "ordering": {"ordering"}}
    for query, words in asked.items():
        hit = index.search(query)[0]
        assert hit.document == order and set(hit.words) == words


def test_a_hit_holds_the_fused_score_and_where_it_comes_from(index):
    query = "return a sorted copy of an array"
    hits = index.search(query, k=len(index.documents))
    assert {hit.document for hit in hits} == set(index.documents)
    bm25, cosine = (torch.tensor([[getattr(hit, part) for hit in hits]]) for part in ("bm25", "cosine"))
    score = torch.tensor([[hit.score for hit in hits]])
    torch.testing.assert_close(score, fuse(bm25, cosine, index.weight), rtol=1e-4, atol=1e-4)
    assert torch.equal(score, score.sort(descending=True).values)
    vector = embed([query], index.model)[0]
    for hit in hits:
        own = embed([hit.document.text], index.model, long="windows")[0]
        assert hit.cosine == pytest.approx((vector @ own).item(), abs=1e-5)
        assert sum(hit.words.values()) == pytest.approx(hit.bm25, abs=1e-5)
    assert all(type(value) is float for value in (hits[0].score, hits[0].bm25, hits[0].cosine))


def test_a_document_is_found_by_a_part_of_its_name(corpus, model):
    clip = Document("torch.nn.utils.clip_grad_norm_", "torch", "torch", "Scale them.", "")
    [hit] = SearchIndex([*corpus.documents, clip], model, weight=1.0).search("clipping", k=1)
    assert hit.document == clip and set(hit.words) == {"clipping"}


def test_a_query_without_a_known_word_is_answered_by_the_vectors_alone(index):
    hits = index.search("xylophone")
    assert all(hit.bm25 == 0 and hit.words == {} for hit in hits)
    assert [hit.cosine for hit in hits] == sorted((hit.cosine for hit in hits), reverse=True)


def test_the_weight_decides_between_words_and_vectors(corpus, model, index):
    query = "return a sorted copy of an array"
    for weight, part in ((1.0, "bm25"), (0.0, "cosine")):
        hits = SearchIndex(corpus.documents, model, weight, index.vectors).search(query, k=60)
        values = [getattr(hit, part) for hit in hits]
        assert values == sorted(values, reverse=True)


def test_a_search_in_one_library_finds_that_librarys_documents_only(index):
    everything = index.search("array", k=60)
    some = index.search("array", k=60, library="numpy")
    assert some == [hit for hit in everything if hit.document.library == "numpy"] and 0 < len(some) < 60
    assert index.search("array", k=2, library="numpy") == some[:2]


def test_a_query_longer_than_the_model_reads_is_answered(index):
    assert len(index.search("return a sorted copy of an array " * 50)) == 5


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        ("", {}, "the query is empty: write what you look for"),
        ("  \n", {}, "the query is empty: write what you look for"),
        ("array", {"k": 0}, "k is 0; it must be a whole number of at least 1"),
        ("array", {"library": "scipy"}, "no library 'scipy'; choose one of python, torch, numpy, matplotlib"),
    ],
)
def test_a_query_that_cannot_be_answered_is_refused(query, options, message, index):
    with pytest.raises(ValueError, match=message):
        index.search(query, **options)


def test_vectors_of_other_documents_are_refused(corpus, model, index):
    with pytest.raises(ValueError, match="there are 60 documents and 59 vectors"):
        SearchIndex(corpus.documents, model, vectors=index.vectors[:-1])


# --- the index that is kept -------------------------------------------------------------------------------------------


@pytest.fixture
def kept(corpus, model, tmp_path, monkeypatch):
    """A cache folder, a checkpoint, sixty documents in place of all, and a list of how often they were embedded."""
    monkeypatch.setenv("NEXTBERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(documentation, "load_docs", lambda: corpus)
    checkpoints.save(tmp_path / "model", *model, {"name": "mine", "corpus": {"name": "text"}})
    made, real = [], documentation._embed_all
    monkeypatch.setattr(documentation, "_embed_all", lambda *arguments: made.append(1) or real(*arguments))
    return tmp_path, made


def stored_file(folder):
    [path] = (folder / "cache").iterdir()
    return path


def test_the_index_is_made_once_and_then_read(kept):
    folder, made = kept
    lines = []
    first = open_index(folder / "model", report=lines.append)
    assert made == [1] and "60 documents" in lines[1] and lines[-1] == "  60 of 60 documents"
    second = open_index(str(folder / "model"), report=lines.append)
    assert made == [1] and len(lines) == 3  # nothing to wait for, nothing to say
    assert torch.equal(first.vectors, second.vectors) and first.search("array") == second.search("array")
    torch.testing.assert_close(
        first.vectors, embed([d.text for d in first.documents], folder / "model", long="windows")
    )
    assert first.weight == search.WEIGHT


def test_the_index_is_made_again_when_asked_for(kept):
    folder, made = kept
    open_index(folder / "model")
    open_index(folder / "model", rebuild=True)
    assert made == [1, 1] and stored_file(folder)


def test_the_index_is_made_again_when_the_corpus_changed(kept, corpus, monkeypatch):
    folder, made = kept
    open_index(folder / "model")
    changed = replace(corpus, train=corpus.train[1:], fingerprint={"sha256": "2" * 64})
    monkeypatch.setattr(documentation, "load_docs", lambda: changed)
    assert len(open_index(folder / "model").documents) == 59 and made == [1, 1]
    open_index(folder / "model")
    assert made == [1, 1] and stored_file(folder)  # the new one took the old one's place


def test_the_index_is_made_again_when_the_checkpoint_or_the_format_changed(kept, model, monkeypatch):
    folder, made = kept
    open_index(folder / "model")
    torch.manual_seed(1)
    other = MaskedLanguageModel(Encoder(model[0].encoder.config))
    checkpoints.save(folder / "model", other, model[1], {"name": "mine", "corpus": {"name": "text"}})
    open_index(folder / "model")
    assert made == [1, 1]
    monkeypatch.setattr(documentation, "FORMAT", documentation.FORMAT + 1)
    open_index(folder / "model")
    assert made == [1, 1, 1]


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text"])
def test_a_damaged_index_is_made_again(kept, damage):
    folder, made = kept
    right = open_index(folder / "model").vectors
    path = stored_file(folder)
    whole = path.read_bytes()
    flipped = whole[:-10] + bytes([whole[-10] ^ 1]) + whole[-9:]
    path.write_bytes({"cut": whole[:-100], "empty": b"", "flipped": flipped, "text": b"no tensors" * 9}[damage])
    assert torch.equal(open_index(folder / "model").vectors, right) and made == [1, 1]
    open_index(folder / "model")
    assert made == [1, 1]


def test_a_cache_folder_that_cannot_be_written_costs_time_only(kept, monkeypatch):
    folder, made = kept
    (folder / "file").write_text("no folder")
    monkeypatch.setenv("NEXTBERT_CACHE", str(folder / "file"))
    assert len(open_index(folder / "model").search("array")) == 5
    open_index(folder / "model")
    assert made == [1, 1]


def test_each_checkpoint_has_an_index_of_its_own(kept, model):
    folder, made = kept
    checkpoints.save(folder / "other", *model, {"name": "other", "corpus": {"name": "text"}})
    for name in ("model", "other", "model", "other"):
        open_index(folder / name)
    assert made == [1, 1] and len(list((folder / "cache").iterdir())) == 2


# --- the search box ---------------------------------------------------------------------------------------------------


def parts(box):
    line, answer = box.children
    return *line.children, answer


def test_typing_a_query_and_enter_shows_the_hits_and_another_number_shows_more(index):
    query, number, answer = parts(search_box(index))
    assert "press Enter" in answer.value
    assert query.continuous_update is False  # Enter, not each letter
    query.value = "compute and plot a histogram"
    assert answer.value.count("<li>") == 5
    assert "matplotlib.pyplot.hist" in answer.value and "<b>histogram</b>" in answer.value
    number.value = 2
    assert answer.value.count("<li>") == 2
    query.value = ""
    assert "the query is empty" in answer.value and "<li>" not in answer.value


def test_what_a_document_says_is_shown_and_never_run(model):
    hostile = Document("x.<img>", "<img src=x>", "x", "Return <script>alert(1)</script> & sort a list.", "")
    index = SearchIndex([hostile, replace(hostile, name="y", summary="Read a file.")], model)
    shown = hits_html(index.search("sort script <script>"))
    assert "<script>" not in shown and "<img" not in shown
    assert "x.&lt;img&gt;" in shown and "(&lt;img src=x&gt;)" in shown
    assert "&lt;<b>script</b>&gt;alert(1)" in shown and "&amp; <b>sort</b> a list" in shown


def test_the_words_of_the_query_are_bold_in_any_form_and_inside_of_names():
    document = Document("x", "python", "x", "Sorts a list by getItem, in a sorted_list.", "")
    shown = hits_html([search.Hit(document, 1.0, 1.0, 0.5, {"sorting": 1.0, "items": 0.5})])
    assert "<b>Sorts</b> a list by <b>getItem</b>, in a <b>sorted_list</b>." in shown


def test_what_a_document_says_sends_nothing_to_the_terminal(model):
    hostile = Document("x\x1b[2J\ny\ud800", "a\rb", "x", "Clear\x9b2J the\x07 screen.", "")
    index = SearchIndex([hostile, replace(hostile, name="y", summary="Read a file.")], model)
    lines = search.hits_text(index.search("screen", k=1)).splitlines()
    assert lines[:2] == ["1. x?[2J y?  (a b)", "   Clear?2J the? screen."] and len(lines) == 3


def test_the_bars_are_as_long_as_the_scores(index):
    hits = index.search("return the compute array of the plot", k=60)
    longest = max(hit.bm25 for hit in hits)
    assert any(0 < hit.bm25 < 0.9 * longest for hit in hits)
    widths = [int(width) for width in re.findall(r"width:(\d+)%", hits_html(hits))]
    assert widths[::2] == [round(100 * hit.bm25 / longest) for hit in hits]
    assert widths[1::2] == [round(100 * max(0, hit.cosine)) for hit in hits]
    assert "none in common" in hits_html(index.search("xylophone"))  # and no division by zero


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_the_hits_and_tells_on_stderr_that_it_makes_the_index(kept, capsys):
    folder, _ = kept
    arguments = ["search", "compute", "and plot a histogram", "--model", str(folder / "model"), "-k", "2"]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert "1. matplotlib.pyplot.hist  (matplotlib)\n   Compute and plot a histogram.\n" in out and "\n3. " not in out
    assert re.search(r"score \d+\.\d\d  BM25 \d+\.\d  cosine -?\d\.\d\d  words: \w+ \d", out)
    assert "Making the index of 60 documents" in err and "60 of 60" in err
    assert cli.main(arguments) == 0
    assert capsys.readouterr() == (out, "")
    assert cli.main([*arguments, "--rebuild"]) == 0
    assert "Making the index" in capsys.readouterr().err


def test_the_command_prints_json_and_nothing_else_on_stdout(kept, capsys, monkeypatch):
    folder, _ = kept
    monkeypatch.setattr(checkpoints, "corpus_difference", lambda card: "trained on another documentation")
    assert cli.main(["search", "array", "--json", "--library", "numpy", "--model", str(folder / "model")]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["query"] == "array" and {hit["library"] for hit in found["hits"]} == {"numpy"}
    assert set(found["hits"][0]) == {"name", "library", "module", "summary", "score", "bm25", "cosine", "words"}
    assert "trained on another documentation" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [([" "], "the query is empty"), (["array", "--library", "scipy"], "there is no library 'scipy'; choose one of")],
)
def test_the_command_refuses_a_wrong_query_before_it_makes_anything(arguments, words, capsys, monkeypatch):
    monkeypatch.setattr(documentation, "open_index", lambda *_: pytest.fail("the index was opened"))
    assert cli.main(["search", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and err.count("\n") == 1


def test_the_command_refuses_an_unknown_model_and_no_hits(capsys):
    assert cli.main(["search", "array", "--model", "gpt-9"]) == 1
    assert "there is no checkpoint 'gpt-9'" in capsys.readouterr().err
    for arguments in ([], ["array", "-k", "0"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(["search", *arguments])
        assert stop.value.code == 2


def test_a_console_that_lacks_a_character_gets_a_question_mark(kept, monkeypatch):
    folder, _ = kept
    monkeypatch.setattr(search, "hits_text", lambda hits: "a → b")
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    monkeypatch.setattr(sys, "stdout", console)
    assert cli.main(["search", "array", "--model", str(folder / "model")]) == 0
    console.flush()
    assert console.buffer.getvalue() == b"a ? b\n"


@pytest.mark.slow
def test_the_whole_documentation_is_indexed_once_and_then_searched_by_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("NEXTBERT_CACHE", str(tmp_path))
    run = [sys.executable, "-m", "nextbert_lite", "search", "--model", "docs-small", "--json", "-k", "10"]
    for query, wanted, says in [
        ("draw a histogram", "matplotlib.pyplot.hist", "documents, once"),
        ("sort an array in-place", "numpy.ndarray.sort", None),
        ("torch.argsort", "torch.argsort", None),
    ]:
        done = subprocess.run([*run, query], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert wanted in [hit["name"] for hit in json.loads(done.stdout)["hits"]]
        assert says in done.stderr if says else "Making" not in done.stderr
