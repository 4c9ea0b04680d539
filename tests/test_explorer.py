"""The views' Python side: what they refuse, what their state holds and how large it is, and what `show` displays."""

import base64
import importlib.util
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import drawn

from nextbert_lite import (
    AttentionExplorer,
    EmbeddingExplorer,
    ExplanationMatrix,
    MaskingPlayground,
    SimilarityMatrix,
    WritingSteps,
    load,
    show,
    views,
)
from nextbert_lite.core.contrastive import info_nce_loss
from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.corpora.bayes import PerfectModel
from nextbert_lite.corpora.toy_world import COURSE_SENTENCE, ToyWorld
from nextbert_lite.use.filling import fill_mask, write
from nextbert_lite.views.embeddings import nearest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(views.__file__).parent
ALT = "A view of four words that look at each other."
TOKENS = ["the", "key", "is", "here"]


@pytest.fixture(autouse=True)
def no_open_figures():
    with plt.rc_context():
        yield
    plt.close("all")


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights(*shape, seed=0):
    return random(*shape, seed=seed).softmax(-1)


def numbers(buffer):
    return np.frombuffer(buffer, dtype="<u2")


@pytest.fixture(scope="module")
def toy():
    return *load("toy-small"), ToyWorld()


@pytest.fixture(scope="module")
def reader():
    """A model of real text."""
    return load("docs-small")


@pytest.fixture(scope="module")
def playground(toy):
    return MaskingPlayground(*toy)


VIEWS = {
    "attention": lambda: AttentionExplorer(TOKENS, weights(2, 3, 4, 4)),
    "two models": lambda: AttentionExplorer(TOKENS, {"before": weights(4, 4), "after": weights(4, 4)}),
    "embeddings": lambda: EmbeddingExplorer(random(6, 2), list("aabbcc"), list("uvwxyz")),
    "before and after": lambda: EmbeddingExplorer(
        {"before": random(3, 2), "after": random(3, 2)}, list("aab"), ["$x", "y_", "<z>"]
    ),
    "similarity": lambda: SimilarityMatrix(random(3, 8), random(3, 8, seed=1), ["a", "$b", "c_"]),
    "explanations": lambda: ExplanationMatrix(TOKENS, {"one": [0.0, 1.0, 0.0, 0.5], "two": [-2.0, 1.0, 0.0, 0.0]}),
}


HOSTILE = ["$x$", r"\$5", "half \ud800", "_a_{b}$"]
DRAWN = {"$x$", r"\$5", "half ?", "_a_{b}$"}
PRICE = "Both $x^2$ and _y_ cost $5"
TWO = {"$a$": 0, "_b$c$": 1}
WITH_DOLLARS = {
    "attention": lambda: AttentionExplorer(
        HOSTILE, {name: weights(4, 4, seed=seed) for name, seed in TWO.items()}, title=PRICE
    ),
    "embeddings": lambda: EmbeddingExplorer(
        {name: random(4, 2, seed=seed) for name, seed in TWO.items()}, HOSTILE, HOSTILE, title=PRICE
    ),
    "similarity": lambda: SimilarityMatrix(random(4, 8), random(4, 8, seed=1), HOSTILE, title=PRICE),
    "explanations": lambda: ExplanationMatrix(HOSTILE, {name: [0.0, 1.0, 2.0, 3.0] for name in TWO}, title=PRICE),
}


@pytest.mark.parametrize("kind", WITH_DOLLARS)
def test_tokens_labels_and_titles_are_drawn_and_stored_character_by_character(kind):
    view = WITH_DOLLARS[kind]()
    names = set() if kind == "similarity" else {*TWO}
    assert {*DRAWN, PRICE, *names} <= drawn(view.figure())
    stored = {key: value for key, value in view.get_state().items() if not isinstance(value, bytes)}
    json.dumps(stored, ensure_ascii=False).encode()  # as a notebook's file holds it


def test_the_playgrounds_words_and_title_are_drawn_character_by_character(reader):
    view = MaskingPlayground(*reader, sentences=["It costs $5 or $6."], title=PRICE)
    assert PRICE in drawn(view.figure())
    view.title = ""
    assert "It co st s  $ ____ or  $ 6 ." in drawn(view.figure())


# --- attention --------------------------------------------------------------------------------------------------------


def test_the_attention_view_holds_every_weight_to_a_65535th():
    models = {"before": [weights(2, 3, 4, 4), weights(2, 3, 2, 2)], "after": [weights(2, 3, 4, 4), weights(2, 3, 2, 2)]}
    view = AttentionExplorer([TOKENS, ["a", "b"]], models)
    expected = torch.cat([part.flatten() for of_model in models.values() for part in of_model])
    np.testing.assert_allclose(numbers(view.data) / 65535, expected, rtol=0, atol=0.5 / 65535 + 1e-9)
    assert view.models == ["before", "after"] and view.shape == [2, 3] and view.sentences == [TOKENS, ["a", "b"]]


@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4), (2, 3, 4, 4)])
def test_one_head_or_one_layer_may_be_given_alone(shape):
    view = AttentionExplorer(TOKENS, weights(*shape).requires_grad_())
    assert view.shape == list((1, 1, *shape[:-2])[-2:])


def test_a_view_of_12_layers_12_heads_and_128_tokens_can_be_made():
    view = AttentionExplorer(["w"] * 128, weights(12, 12, 128, 128))
    assert len(view.data) == 2 * 12 * 12 * 128 * 128


W = weights(4, 4)
ATTENTION = {
    "5 weights": (TOKENS, weights(2, 3, 5, 5), r"shape \(2, 3, 5, 5\), with 4 tokens; expected \(L, H, 4, 4\)"),
    "a batch": (TOKENS, weights(1, 2, 3, 4, 4), r"expected \(L, H, 4, 4\): of a batch choose one text"),
    "one row": (TOKENS, weights(4), r"shape \(4,\), with 4 tokens"),
    "no square": (TOKENS, weights(3, 4), r"shape \(3, 4\), with 4 tokens"),
    "NaN": (TOKENS, W * torch.nan, "hold NaN or an infinity"),
    "scores": (TOKENS, random(4, 4), "are no attention weights: a row sums to"),
    "twice the weights": (TOKENS, 2 * W, "a row sums to 2 or holds"),
    "13 layers": (TOKENS, weights(13, 1, 4, 4), r"13 layers and 1 heads; 1 to 12 layers .* weights\[:12, :12\]"),
    "no layer": (TOKENS, weights(0, 2, 4, 4), "0 layers and 2 heads"),
    "uneven rows": (TOKENS, [[0.5, 0.5], [1.0]], "no array of numbers, or its rows differ in length"),
    "129 tokens": (["w"] * 129, weights(129, 129), "sentence 0 has 129 tokens; 1 to 128 can be drawn"),
    "no tokens": ([], W, "there are no tokens"),
    "an empty sentence": ([TOKENS, []], [W] * 2, "sentence 1 has 0 tokens"),
    "two sentences": ([TOKENS, TOKENS], weights(2, 4, 4), "weights are for 1 sentences, the tokens for 2"),
    "two weights": (TOKENS, [W] * 2, "weights are for 2 sentences, the tokens for 1"),
    "other heads": (TOKENS, {"a": weights(1, 2, 4, 4), "b": weights(1, 3, 4, 4)}, r"differ in \(layers, heads\)"),
    "a model of 5": (TOKENS, {"a": W, "b": weights(5, 5)}, "weights of the model 'b' have the shape"),
    "three models": (TOKENS, dict.fromkeys("abc", W), "there are 3 models; one or two"),
    "no model": (TOKENS, {}, "there are 0 models"),
}


@pytest.mark.parametrize(("tokens", "given", "message"), ATTENTION.values(), ids=ATTENTION)
def test_weights_that_cannot_be_drawn_are_refused_with_what_to_do(tokens, given, message):
    with pytest.raises(ValueError, match=message):
        AttentionExplorer(tokens, given)


@pytest.mark.parametrize("tokens", ["the key", ["the", 3], [["the"], "key"]], ids=str)
def test_tokens_must_be_lists_of_str(tokens):
    with pytest.raises(TypeError, match=r"one str|list of str"):
        AttentionExplorer(tokens, weights(2, 2))


FIRST = [
    (name, value, "it is counted from 0") for name in ("layer", "head", "sentence", "token") for value in (-1, 9, 0.5)
]


@pytest.mark.parametrize(("name", "value", "message"), [*FIRST, ("threshold", 2, "weights lie between")])
def test_what_is_shown_first_must_be_there(name, value, message):
    with pytest.raises(ValueError, match=f"{name} is {value}; {message}"):
        AttentionExplorer(TOKENS, weights(2, 2, 4, 4), **{name: value})


# --- embeddings -------------------------------------------------------------------------------------------------------


def test_the_neighbours_are_those_by_cosine_in_all_dimensions():
    vectors = random(1200, 16).numpy()  # more than one piece
    which, cosines = nearest(vectors)
    table = F.cosine_similarity(torch.tensor(vectors)[:, None], torch.tensor(vectors)[None], dim=-1)
    expected = table.fill_diagonal_(-torch.inf).topk(5)
    assert (which == expected.indices.numpy()).all()
    np.testing.assert_allclose(cosines, expected.values, atol=1e-6)


def test_the_state_holds_neighbours_of_the_vectors_and_not_of_the_picture():
    vectors = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.9, 0.1]])
    points = torch.tensor([[0.0, 0.0], [9.0, 9.0], [0.1, 0.0], [9.0, 9.1]])  # 0 lies beside 2, 1 beside 3
    view = EmbeddingExplorer(points, list("abab"), list("wxyz"), vectors=vectors)
    assert numbers(view.neighbours).reshape(4, 3)[:, 0].tolist() == [1, 0, 3, 2]
    first = numbers(view.cosines).reshape(4, 3)[0, 0] / 65535 * 2 - 1
    assert first == pytest.approx(F.cosine_similarity(vectors[0], vectors[1], dim=0).item(), abs=2e-5)
    assert list(view.label_of) == [0, 1, 0, 1] and view.labels == ["a", "b"]


def test_a_turned_and_mirrored_map_is_laid_onto_the_first():
    points = random(50, 2) * torch.tensor([3.0, 1.0])
    turned = points @ torch.tensor([[0.0, 1.0], [1.0, 0.0]]) * 7 + 3
    view = EmbeddingExplorer({"a": points, "b": turned}, ["x"] * 50, ["t"] * 50)
    first, second = numbers(view.points).reshape(2, 50, 2) / 65535
    np.testing.assert_allclose(first, second, atol=1e-4)
    distances = torch.cdist(torch.tensor(first), torch.tensor(first)) / torch.cdist(points, points).double()
    assert distances[~torch.eye(50, dtype=torch.bool)].std() < 1e-3  # the same scale along both axes


@pytest.mark.parametrize("N", [1, 2, 4])
def test_a_few_points_have_as_many_neighbours_as_there_are_others(N):
    view = EmbeddingExplorer(random(N, 2), ["a"] * N, ["t"] * N)
    assert len(numbers(view.neighbours)) == N * (N - 1)


def test_ten_thousand_points_can_be_drawn():
    EmbeddingExplorer(random(10_000, 2), ["a"] * 10_000, ["t"] * 10_000)


def test_a_thousand_points_take_at_most_130_kilobytes():
    texts = [f"text number {i} of some forty characters" for i in range(1000)]
    view = EmbeddingExplorer(random(1000, 2), ["a", "b"] * 500, texts, vectors=random(1000, 64))
    assert stored_bytes(view) < 130_000


def many(n, labels):
    """Arguments for n texts of so many labels."""
    return {"points": random(n, 2), "labels": [str(i % labels) for i in range(n)], "texts": ["t"] * n}


POINTS = {
    "three axes": ({"points": random(3, 3)}, ValueError, r"points have the shape \(3, 3\); expected \(3, 2\)"),
    "a point too many": ({"points": random(4, 2)}, ValueError, r"\(4, 2\); expected \(3, 2\), one row for each text"),
    "infinite points": ({"points": random(3, 2) / 0}, ValueError, "points hold NaN or an infinity"),
    "a vector too few": ({"vectors": random(2, 8)}, ValueError, r"vectors have the shape \(2, 8\); expected \(3, C\)"),
    "vectors of zeros": ({"vectors": torch.zeros(3, 8)}, ValueError, "row 0 of the vectors is all zeros, so it has no"),
    "named vectors": ({"vectors": {"a": random(3, 8)}}, ValueError, r"points are named \[''\], vectors \['a'\]"),
    "three maps": ({"points": dict.fromkeys("abc", random(3, 2))}, ValueError, "there are 3 embeddings; one or two"),
    "a label too few": ({"labels": ["a", "b"]}, ValueError, "there are 3 texts and 2 labels"),
    "no texts": ({"texts": [], "labels": []}, ValueError, "0 texts and 0 labels"),
    "half a text": ({"selected": 0.5}, ValueError, "selected is 0.5; it is a text's number"),
    "vectors of 1e200": ({"vectors": random(3, 8).double() * 1e200}, ValueError, "row 0 of the vectors is too long"),
    "no such text": ({"selected": 3}, ValueError, "selected is 3; it is a text's number, 0 to 2"),
    "25 labels": (many(25, 25), ValueError, "25 different labels; at most 24"),
    "10,001 points": (many(10_001, 1), ValueError, "10,001 points; at most 10,000 .* Draw a sample"),
    "numbers for labels": ({"labels": [0, 1, 2]}, TypeError, "the labels must be a list of str"),
    "one str for texts": ({"texts": "xyz"}, TypeError, "the texts must be a list of str"),
}


@pytest.mark.parametrize(("change", "error", "message"), POINTS.values(), ids=POINTS)
def test_points_that_cannot_be_drawn_are_refused_with_what_to_do(change, error, message):
    with pytest.raises(error, match=message):
        EmbeddingExplorer(**{"points": random(3, 2), "labels": list("aab"), "texts": list("xyz")} | change)


# --- masking ----------------------------------------------------------------------------------------------------------


def test_twenty_sentences_are_prepared_the_courses_first(playground, reader):
    assert len(playground.sentences) == 20 and playground.sentences[0] == COURSE_SENTENCE.split()
    assert len(MaskingPlayground(*reader).sentences) == 20


def test_the_prepared_guesses_are_the_models_and_the_perfect_predictors(playground, toy):
    model, tokenizer, world = toy
    K, place = playground.choices, 5
    assert playground.sentences[0][place] == "praises" and playground.token == place
    rows = slice(place * K, (place + 1) * K)
    words = [playground.words[i] for i in numbers(playground.guesses)[rows]]
    gap = COURSE_SENTENCE.replace("praises", "[MASK]")
    by_model = dict(fill_mask(model, tokenizer, gap, k=50)[0])
    by_rule = PerfectModel(world).gap(gap)
    for word, ours, best in zip(words, numbers(playground.model)[rows], numbers(playground.perfect)[rows], strict=True):
        assert ours / 65535 == pytest.approx(by_model[word], abs=2e-5)
        assert best / 65535 == pytest.approx(by_rule.get(word, 0.0), abs=2e-5)
    assert {"praises", "serves", "feeds"} <= set(words)  # a third each


def test_every_place_of_every_sentence_has_its_guesses(playground):
    places = sum(map(len, playground.sentences)) * playground.choices
    assert len(numbers(playground.guesses)) == len(numbers(playground.model)) == len(numbers(playground.perfect))
    assert len(numbers(playground.guesses)) == places
    assert not set(playground.words) & {"[MASK]", "[CLS]", "[SEP]", "[PAD]", "[UNK]"}
    assert not {word for word in playground.random_words if word.startswith("[")}


def test_without_a_world_there_is_no_perfect_predictor(reader):
    view = MaskingPlayground(*reader, sentences=["Return the sum."])
    assert view.perfect == b"" and view.sentences == [["Return", " the", " sum", "."]]
    assert view.words[numbers(view.guesses)[2 * view.choices]].startswith(" ")  # a piece with its space


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the dog praises the waiters", "'dog' is no word of the toy world. It has [0-9]+ words, for example [a-z]+, "),
        ("  ", "The sentence is empty: write one"),
        ("the " * 33, "The sentence has 33 tokens; at most"),
        ("the", "no sentence has its length"),
    ],
)
def test_a_sentence_that_cannot_be_read_gets_a_sentence_that_says_why(text, message, playground, toy):
    with pytest.raises(ValueError, match=message):
        playground.guess(text)
    with pytest.raises(ValueError, match=message):
        MaskingPlayground(*toy, sentences=[text])


@pytest.mark.parametrize(
    ("sentences", "options", "error", "message"),
    [
        ([], {}, ValueError, "there are no sentences"),
        ([COURSE_SENTENCE], {"token": 11}, ValueError, "token is 11; the first sentence has the tokens 0 to 10"),
        (COURSE_SENTENCE, {}, TypeError, "the sentences must be a list of str"),
    ],
    ids=["no sentence", "no such token", "one str"],
)
def test_sentences_that_cannot_be_played_with_are_refused(sentences, options, error, message, toy):
    with pytest.raises(error, match=message):
        MaskingPlayground(*toy, sentences=sentences, **options)


def test_a_typed_sentence_is_answered_by_the_kernel(playground, monkeypatch):
    sent = []
    monkeypatch.setattr(playground, "send", sent.append)
    for message in ({"ask": "hello"}, {"ask": "guess", "text": "The cook praises the waiters in the kitchen."}):
        playground._handle_custom_msg(message, [])
    hello, answer = sent
    assert hello == {"answer": "hello"}
    assert answer["tokens"] == "the cook praises the waiters in the kitchen".split()
    assert np.shape(answer["words"]) == np.shape(answer["model"]) == np.shape(answer["perfect"]) == (8, 5)
    assert json.dumps(answer)


def test_a_typed_sentence_that_cannot_be_read_is_answered_with_the_reason(playground, monkeypatch):
    sent = []
    monkeypatch.setattr(playground, "send", sent.append)
    playground._handle_custom_msg({"ask": "guess", "text": "the <script> runs"}, [])
    ((answer),) = sent
    assert answer["answer"] == "error" and answer["error"].startswith("'<script>' is no word of the toy world")


@pytest.fixture
def untrained(toy):
    """A model of which half drops out in training."""
    _, tokenizer, world = toy
    torch.manual_seed(0)
    config = EncoderConfig.preset("tiny", tokenizer.vocab_size, dropout=0.5)
    return MaskedLanguageModel(Encoder(config)), tokenizer, world


def test_a_model_without_numbers_offers_no_words(untrained):
    model, tokenizer, _ = untrained
    torch.nn.init.constant_(model.head.bias, float("nan"))
    with pytest.raises(ValueError, match="the model gives NaN: its weights hold NaN or an infinity"):
        MaskingPlayground(model, tokenizer, sentences=[COURSE_SENTENCE])
    with pytest.raises(ValueError, match="the model gives NaN: its weights hold NaN or an infinity"):
        fill_mask(model, tokenizer, "[MASK]")


def test_a_special_token_is_never_offered(untrained):
    model, tokenizer, _ = untrained
    with torch.no_grad():
        model.head.bias[:5] = 10  # the likeliest by far
    view = MaskingPlayground(model, tokenizer, sentences=[COURSE_SENTENCE, "they fear the judges"])
    assert not [word for word in view.words if word.startswith("[")]


def test_the_model_answers_without_dropout_and_its_mode_is_kept(untrained):
    model, tokenizer, world = untrained
    model.train()
    one = MaskingPlayground(model, tokenizer, world, [COURSE_SENTENCE]).model
    assert model.training
    model.eval()
    assert one == MaskingPlayground(model, tokenizer, world, [COURSE_SENTENCE]).model
    assert not model.training


# --- writing ----------------------------------------------------------------------------------------------------------

GAPS = "the cook [MASK] [MASK] ovens [MASK] the waiters"


@pytest.fixture(scope="module")
def writing(toy):
    model, tokenizer, _ = toy
    return WritingSteps(model, tokenizer, GAPS, orders=("left", "surest"), seeds=(0, 1))


def test_each_run_says_what_was_written_when_and_how_surely(writing, toy):
    model, tokenizer, _ = toy
    T, S, K = 8, writing.steps, writing.choices
    assert S == 3 and len(writing.names) == len(writing.tokens) == 4 and writing.names[0] == "left to right, draw 1"
    written = numbers(writing.written).reshape(4, T)
    assert written[0].tolist() == [0, 0, 1, 2, 0, 3, 0, 0] and sorted(written[3]) == [0] * 5 + [1, 2, 3]
    third = " ".join([*writing.tokens[0][:5], "[MASK]", "the", "waiters"])  # left to right: one gap is left
    by_model = {word: p for word, p in fill_mask(model, tokenizer, third, k=500)[0] if not word.startswith("[")}
    scale = sum(by_model.values())
    word, chance = writing.tokens[0][5], numbers(writing.chances).reshape(4, T)[0, 5] / 65535
    assert chance == pytest.approx(by_model[word] / scale, abs=2e-5)
    best = writing.words[numbers(writing.guesses).reshape(4, S, T, K)[0, 2, 5, 0]]
    assert best == max(by_model, key=by_model.get)
    assert numbers(writing.sureness).reshape(4, S, T, K)[0, 2, 5, 0] / 65535 == pytest.approx(
        by_model[best] / scale, abs=2e-5
    )


def test_a_run_of_the_view_is_what_the_sampler_writes(writing, toy):
    model, tokenizer, _ = toy
    assert " ".join(writing.tokens[1]) == write(model, tokenizer, GAPS, order="left", seed=1)


def test_a_function_may_write_too_and_a_model_keeps_its_mode(toy, untrained):
    _, tokenizer, world = toy
    perfect = PerfectModel(world, 1e-6)
    view = WritingSteps(lambda ids: perfect(ids).log(), tokenizer, " ".join(["[MASK]"] * 11), orders=["random"])
    assert np.isfinite(world.log_probability([" ".join(view.tokens[0])]).item())
    model, tokenizer, _ = untrained
    model.train()
    one = WritingSteps(model, tokenizer, GAPS).chances
    assert model.training
    model.eval()
    assert WritingSteps(model, tokenizer, GAPS).chances == one


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("the cook", {}, "2 tokens and 0 gaps"),
        ("[MASK] " * 33, {}, "33 tokens and 33 gaps.* at most 32 tokens"),
        (GAPS, {"steps": 4}, "8 tokens and 3 gaps, to be written in 4 steps"),
        (GAPS, {"steps": 0}, "steps is 0; it must be a whole number"),
        (GAPS, {"orders": ["best"]}, "order is 'best'; choose one of random, left, surest, drawn"),
        (GAPS, {"step": 4}, "step is 4, of 3; it is counted from 0"),
    ],
    ids=["no gap", "too long", "more steps than gaps", "no steps", "no such order", "no such step"],
)
def test_a_text_that_cannot_be_written_is_refused(text, options, message, toy):
    model, tokenizer, _ = toy
    with pytest.raises(ValueError, match=message):
        WritingSteps(model, tokenizer, text, **options)


# --- similarity -------------------------------------------------------------------------------------------------------


def test_the_cosines_give_the_loss_of_the_package():
    anchors, positives = random(5, 16), random(5, 16, seed=1)
    view = SimilarityMatrix(anchors, positives, list("abcde"))
    scores = torch.tensor(view.cosines) / 0.05
    expected = info_nce_loss(anchors, positives, 0.05)
    assert F.cross_entropy(scores, torch.arange(5)).item() == pytest.approx(expected.item(), abs=1e-3)


def arrows_of(view):
    """What similarity.js computes: -gradient of the mean loss in the plane, anchors then positives."""
    cosines, plane = torch.tensor(view.cosines).double(), torch.tensor(view.plane).double()
    B = len(cosines)
    pull = -((cosines / view.temperature).softmax(1) - torch.eye(B)) / view.temperature / B
    a, p = plane[:B], plane[B:]
    on_anchors = pull @ p - (pull * cosines).sum(1, keepdim=True) * a
    return torch.cat([on_anchors, pull.T @ a - (pull * cosines).sum(0)[:, None] * p])


@pytest.mark.parametrize("C", [2, 3, 16])
def test_the_arrows_are_the_gradient_seen_in_the_plane(C):
    anchors, positives = (F.normalize(random(4, C, seed=s).double(), dim=-1).requires_grad_() for s in (0, 1))
    view = SimilarityMatrix(anchors, positives, list("abcd"), temperature=0.2)
    info_nce_loss(anchors, positives, 0.2).backward()
    gradient = -torch.cat([anchors.grad, positives.grad])
    vectors = torch.cat([anchors, positives]).detach()
    # the axes, from what the view drew: plane = vectors @ axes
    axes = torch.linalg.lstsq(vectors, torch.tensor(view.plane).double()).solution
    torch.testing.assert_close(arrows_of(view), gradient @ axes, atol=2e-5, rtol=0)


def test_two_dimensions_are_drawn_as_they_are():
    anchors = F.normalize(random(3, 2), dim=-1)
    view = SimilarityMatrix(anchors, anchors, list("abc"))
    np.testing.assert_allclose(view.plane, torch.cat([anchors, anchors]), atol=1e-6)
    assert view.share == 1 and view.origin == [0, 0]


PAIRS = {
    "a positive too many": ({"positives": random(4, 8)}, "anchors have the shape .* they must agree"),
    "infinite anchors": ({"anchors": random(3, 8) / 0}, "anchors are not finite"),
    "a label too few": ({"labels": ["a", "b"]}, "there are 3 pairs and 2 labels"),
    "temperature 0": ({"temperature": 0}, "temperature is 0; it must be a number greater than 0"),
    "temperature 2": ({"temperature": 2.0}, "temperature is 2.0; the slider goes from 0.01 to 1.0"),
    "half a row": ({"row": 0.5}, "row is 0.5; it is an anchor's number"),
    "zeros": ({"anchors": torch.zeros(3, 8)}, "the anchors have a row without a direction: row 0"),
    "no such row": ({"row": 3}, "row is 3; it is an anchor's number, 0 to 2"),
    "17 pairs": ({"anchors": random(17, 8), "positives": random(17, 8)}, r"17 pairs; at most 16 .* anchors\[:8\]"),
    "one pair": ({"anchors": random(1, 8), "positives": random(1, 8)}, "a batch of one has no negatives"),
}


@pytest.mark.parametrize(("change", "message"), PAIRS.values(), ids=PAIRS)
def test_pairs_that_cannot_be_drawn_are_refused_with_what_to_do(change, message):
    with pytest.raises(ValueError, match=message):
        SimilarityMatrix(**{"anchors": random(3, 8), "positives": random(3, 8), "labels": list("abc")} | change)


def test_anchors_and_positives_may_have_names_of_their_own():
    view = SimilarityMatrix(random(2, 4), random(2, 4), (["A", "B"], ["a", "b"]))
    assert view.labels == ["A", "B", "a", "b"]
    assert SimilarityMatrix(random(2, 4), random(2, 4), ["A", "B"]).labels == ["A", "B", "A", "B"]


# --- explanations -----------------------------------------------------------------------------------------------------


def test_explanations_are_stored_to_four_digits_in_the_order_that_they_come():
    view = ExplanationMatrix(TOKENS, {"b": torch.tensor([0.123456, 0, -2.0, 1e-9]), "a": [1, 2, 3, 4]}, word=2)
    assert (view.words, view.names, view.word) == (TOKENS, ["b", "a"], 2)
    assert view.scores == [[0.1235, 0.0, -2.0, 1e-9], [1.0, 2.0, 3.0, 4.0]]


EXPLANATIONS = {
    "no word": ({"words": [], "scores": {"a": []}}, "there are 0 words and 1 rows of scores"),
    "no row": ({"scores": {}}, "there are 4 words and 0 rows of scores"),
    "41 words": ({"words": ["w"] * 41, "scores": {"a": [0.0] * 41}}, "41 words and 1 rows of scores; give 1 to 40"),
    "too few": ({"scores": {"a": [1.0]}}, r"'a' has scores of the shape \(1,\); expected one for each of 4 words"),
    "NaN": ({"scores": {"a": [1.0, float("nan"), 0, 0]}}, "the scores of 'a' hold NaN"),
    "no such word": ({"word": 4}, "word is 4; it is a word's number, 0 to 3, or -1"),
    "half a word": ({"word": 0.0}, "word is 0.0; it is a word's number"),
}


@pytest.mark.parametrize(("change", "message"), EXPLANATIONS.values(), ids=EXPLANATIONS)
def test_explanations_that_cannot_be_drawn_are_refused_with_what_to_do(change, message):
    with pytest.raises(ValueError, match=message):
        ExplanationMatrix(**{"words": TOKENS, "scores": {"a": [0.0, 1.0, 2.0, 3.0]}} | change)


# --- showing and storing ----------------------------------------------------------------------------------------------


def stored_bytes(view):
    """What a view adds to a notebook: its state as JSON, bytes in base64."""
    state = view.get_state()
    text = {name: base64.b64encode(v).decode() if isinstance(v, bytes) else v for name, v in state.items()}
    return len(json.dumps(text | {"layout": ""}).encode())


@pytest.fixture
def shown(monkeypatch):
    calls = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: calls.append((data, options)))
    return calls


@pytest.mark.parametrize("kind", sorted(VIEWS))
def test_show_gives_the_view_a_static_figure_and_its_alternative_text(kind, shown):
    view = VIEWS[kind]()
    show(view, alt=ALT)
    ((data, options),) = shown
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == view.model_id
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"] == ALT and options["metadata"] == {"image/png": {"alt": ALT}}
    assert not plt.get_fignums()
    show(VIEWS[kind](), alt=ALT)
    assert shown[1][0]["image/png"] == data["image/png"]  # the same view gives the same bytes


def test_the_playground_has_a_static_figure_too(playground, shown):
    show(playground, alt=ALT)
    assert shown


def test_a_view_without_a_sentence_for_those_who_cannot_see_it_is_refused(shown):
    with pytest.raises(ValueError, match=r"alt is 'a view'; write a sentence"):
        show(VIEWS["attention"](), alt="a view")
    with pytest.raises(ValueError, match="title that states what it shows, in three words"):
        show(AttentionExplorer(TOKENS, weights(4, 4), title="Attention"), alt=ALT)
    with pytest.raises(TypeError, match=r"show takes a view .* not Figure; see plots.show"):
        show(plt.figure(), alt=ALT)
    assert not shown


def test_a_title_stands_above_the_view_and_its_figure():
    view = AttentionExplorer(TOKENS, weights(4, 4), title="Where does the key look?")
    assert view.title == view.figure().get_suptitle() == "Where does the key look?"


@pytest.fixture(scope="module")
def built():
    """Two builds of a notebook that shows a view of 4 layers, 4 heads and 16 tokens, and its source."""
    spec = importlib.util.spec_from_file_location("notebooks_tool", ROOT / "tools" / "notebooks.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    source = (
        "import torch\nfrom nextbert_lite import AttentionExplorer, show\n"
        "weights = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0)).softmax(-1)\n"
        "show(AttentionExplorer([f'token {i}' for i in range(16)], weights), alt='Four layers of four heads each.')"
    )
    cells = [[nbformat.v4.new_code_cell(source, id="only")] for _ in range(2)]
    return [tool.execute(nbformat.v4.new_notebook(cells=cell)) for cell in cells], source


def test_a_stored_view_of_4_layers_4_heads_and_16_tokens_adds_at_most_60_kilobytes(built):
    (notebook, _), source = built
    assert len(nbformat.writes(notebook).encode()) - len(source) < 60_000
    view, states = notebook.cells[0].outputs[-1].data, notebook.metadata.widgets
    stored = states["application/vnd.jupyter.widget-state+json"]["state"][
        view["application/vnd.jupyter.widget-view+json"]["model_id"]
    ]
    buffer = next(part["data"] for part in stored["buffers"] if part["path"] == ["data"])
    assert len(base64.b64decode(buffer)) == 2 * 4 * 4 * 16 * 16
    assert stored["state"]["_esm"] == AttentionExplorer._esm and view["text/plain"] == "Four layers of four heads each."


def test_a_second_build_of_a_notebook_with_a_view_changes_no_byte(built):
    (first, second), _ = built
    assert nbformat.writes(first) == nbformat.writes(second)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.js")), ids=lambda path: path.name)
def test_the_javascript_asks_for_nothing_and_writes_text_as_text(path):
    code = path.read_text(encoding="utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|fetch\(|import[ ({]", code
    )
    assert re.findall(r"https?://[^\"\s]+", code) in ([], ["http://www.w3.org/2000/svg"])
    assert len(code.encode()) < 16_000


def test_each_view_has_its_own_file_of_javascript_that_is_whole():
    for view in (AttentionExplorer, EmbeddingExplorer, ExplanationMatrix, MaskingPlayground, SimilarityMatrix):
        assert str(view._esm).startswith("// Shared by the views") and str(view._esm).endswith(
            "export default { render };\n"
        )
        assert len(str(view._esm).encode()) + len(str(view._css).encode()) < 30_000
