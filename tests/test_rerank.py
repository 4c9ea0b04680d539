"""The second look: a cross-encoder's scores and order, the shipped one, and the command that uses it."""

import json

import pytest
import torch

from nextbert_lite import Encoder, embed, load, load_docs, mrr, seeded
from nextbert_lite.corpora.harvest import Document
from nextbert_lite.course.cli import main
from nextbert_lite.use import checkpoints, rerank
from nextbert_lite.use.rerank import CrossEncoder, Reranker, join, match_keys, reranked
from nextbert_lite.use.search import Bm25, SearchIndex, fuse

TEXTS = [
    "Return the inverse of a square matrix.",
    "Invert the x axis of the plot.",
    "Multiply a matrix by a matrix, or a matrix by a vector, or two vectors by one another.",
    "Draw a histogram of the values.",
]


@pytest.fixture(scope="module")
def shipped():
    return Reranker.load()


@pytest.fixture(scope="module")
def untrained(shipped):
    torch.manual_seed(0)
    return Reranker(CrossEncoder(Encoder(shipped.model.encoder.config)), shipped.tokenizer)


def test_scores_one_by_one_are_those_of_a_batch(shipped):
    model = CrossEncoder(Encoder(shipped.model.encoder.config))
    model.load_state_dict(shipped.model.state_dict())
    double = Reranker(model.double(), shipped.tokenizer)
    together = double.scores("invert a matrix", TEXTS)
    alone = torch.cat([double.scores("invert a matrix", [text]) for text in TEXTS])
    assert together.dtype == torch.float64
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)


def test_scores_do_not_depend_on_the_order_of_the_texts_nor_on_the_mode(shipped):
    scores = shipped.scores("invert a matrix", TEXTS)
    turned = shipped.scores("invert a matrix", TEXTS[::-1])
    torch.testing.assert_close(scores, turned.flip(0))
    shipped.model.train()
    torch.testing.assert_close(shipped.scores("invert a matrix", TEXTS), scores)
    assert shipped.model.training
    shipped.model.eval()


def test_among_equal_scores_the_first_order_stays(shipped):
    same = ["Draw a histogram of the values."] * 5
    assert shipped.order("draw a histogram", same, torch.zeros(5)) == [0, 1, 2, 3, 4]
    assert shipped.order("draw a histogram", TEXTS, torch.tensor([4.0, 3, 2, 1]), weight=1.0) == [0, 1, 2, 3]


def test_long_queries_and_texts_are_cut_to_what_the_encoder_reads(shipped):
    words = "matrix " * 500
    assert shipped.scores(words, [words, "matrix"]).isfinite().all()
    ids, types = join(*shipped.tokenizer.encode_batch([words, words]), shipped.keys, 128)
    assert len(ids) == len(types) == 128 and ids.count(shipped.tokenizer.sep_id) == 2


def test_keys_are_equal_for_capitals_and_the_space_before_a_word(shipped):
    keys, tokenizer = match_keys(shipped.tokenizer), shipped.tokenizer
    (a,), (b,) = (tokenizer.encode(text)[1:-1] for text in ("matrix", " matrix"))
    assert a != b and keys[a] == keys[b]


@pytest.fixture(scope="module")
def search():
    """Validation questions, their bodies, and a first search."""
    pairs = load_docs().pairs("validation")
    order = torch.randperm(len(pairs), generator=seeded(0, 33)).tolist()[:120]
    queries, bodies = map(list, zip(*[pairs[i] for i in order], strict=True))
    model = load("docs-contrastive")
    cosine = embed(queries[:40], model, long="cut") @ embed(bodies, model, long="cut").T
    return queries[:40], bodies, fuse(Bm25(bodies).scores(queries[:40]), cosine, 0.4)


def reciprocal(reranker, search, weight, depth=10):
    queries, bodies, first = search
    found = first - 1e3
    for i, query in enumerate(queries):
        top = first[i].topk(depth).indices
        order = reranker.order(query, [bodies[j] for j in top], first[i, top], weight)
        found[i, top[order]] = -torch.arange(float(depth))
    return mrr(found, torch.arange(len(queries)))


def test_an_untrained_one_by_itself_destroys_the_order(search, untrained, shipped):
    before = mrr(search[2], torch.arange(40))
    assert reciprocal(untrained, search, 0.0) < before - 0.1
    assert reciprocal(shipped, search, 0.0) > reciprocal(untrained, search, 0.0) + 0.1
    assert reciprocal(shipped, search, 1.0) == pytest.approx(before)


# --- the index and the command ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index():
    documents = [Document(f"python.f{i}", "python", "python", text, "") for i, text in enumerate(TEXTS)]
    return SearchIndex(documents)


def test_reranked_hits_are_the_first_search_s_in_another_order(index, shipped):
    hits = reranked(index, "invert a matrix", k=3, reranker=shipped)
    known = {hit.document.name: hit for hit in index.search("invert a matrix", 4)}
    assert len(hits) == 3
    assert all(hit.score == known[hit.document.name].score for hit in hits)
    assert len(reranked(index, "invert a matrix", k=50, reranker=shipped)) == 4


@pytest.mark.parametrize("k", [0, -1, 1.5])
def test_k_below_one_is_refused(index, shipped, k):
    with pytest.raises((ValueError, TypeError), match="k "):
        reranked(index, "invert a matrix", k=k, reranker=shipped)


def test_an_empty_query_and_no_texts_are_refused(index, shipped):
    with pytest.raises(ValueError, match="the query is empty"):
        reranked(index, " ", reranker=shipped)
    with pytest.raises(ValueError):
        shipped.scores("a", [])


def test_another_kind_of_checkpoint_is_refused_in_both_directions():
    with pytest.raises(ValueError, match="docs-small is no reranker"):
        Reranker.load("docs-small")
    with pytest.raises(ValueError, match=r"holds a reranker: `Reranker.load\('docs-rerank'\)`"):
        load("docs-rerank")
    with pytest.raises(FileNotFoundError):
        Reranker.load("docs-nothing")


def test_the_command_reads_the_first_hits_again(index, shipped, monkeypatch, capsys):
    monkeypatch.setattr("nextbert_lite.course.documentation.open_index", lambda *a, **k: index)
    monkeypatch.setattr(
        rerank.Reranker, "order", lambda self, query, texts, first, weight=0: [3, 2, 1, 0][: len(texts)]
    )
    first = [hit.document.name for hit in index.search("invert a matrix", 4)]
    assert main(["search", "invert", "a", "matrix", "--rerank", "--json", "-k", "2"]) == 0
    found = [hit["name"] for hit in json.loads(capsys.readouterr().out)["hits"]]
    assert found == first[::-1][:2]


def test_the_command_says_in_a_sentence_that_there_is_no_reranker(index, monkeypatch, capsys):
    monkeypatch.setattr("nextbert_lite.course.documentation.open_index", lambda *a, **k: index)
    monkeypatch.setattr(checkpoints, "find", lambda name: (_ for _ in ()).throw(FileNotFoundError("there is none")))
    assert main(["search", "matrix", "--rerank"]) != 0
    assert "there is none" in capsys.readouterr().err


def test_the_command_refuses_k_of_zero(capsys):
    with pytest.raises(SystemExit):
        main(["search", "matrix", "--rerank", "-k", "0"])
    assert "-k" in capsys.readouterr().err


def test_white_space_and_pieces_of_characters_match_nothing_but_themselves(shipped):
    tokenizer = shipped.tokenizer
    tokens, keys = tokenizer.tokens(range(tokenizer.vocab_size)), match_keys(tokenizer)
    own = [i for i, token in enumerate(tokens) if not token.strip() or "\ufffd" in token]
    assert len(own) > 100 and all(keys.count(keys[i]) == 1 for i in own)
    assert len(set(keys)) < len(keys) - 1000  # and words share keys
