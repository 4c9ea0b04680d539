"""The shipped sentence encoder and the script that trains it."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nextbert_lite import checkpoints, load, load_docs
from nextbert_lite.checkpoints import read_card, unseen
from nextbert_lite.contrastive import SentenceEncoder
from nextbert_lite.search import mrr

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("train_contrastive", ROOT / "tools" / "train_contrastive.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


@pytest.fixture(scope="module")
def docs():
    return load_docs()


@pytest.fixture(scope="module")
def tokenizer():
    return load("docs-small").tokenizer


@pytest.fixture(scope="module")
def batches(docs, tokenizer):
    return tool.DocsPairs(docs, tokenizer, batch_size=40, max_len=48, cuts=0.3, names=0.1, seed=0)


def texts_of(ids, tokenizer):
    return [tokenizer.decode(row[(row > tokenizer.sep_id)].tolist()).strip() for row in ids]


def test_a_batch_is_a_function_of_the_seed_and_the_step(batches):
    first, again, other = batches(7), batches(7), batches(8)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["ids"].shape != other["ids"].shape or not torch.equal(first["ids"], other["ids"])


def test_a_batch_fits_into_the_length_and_every_text_keeps_its_specials(batches, tokenizer):
    batch = batches(0)
    for ids, mask in ((batch["ids"], batch["mask"]), (batch["positive_ids"], batch["positive_mask"])):
        assert len(ids) == 40 and ids.shape[1] <= 48
        assert (ids[:, 0] == tokenizer.cls_id).all()
        assert ((ids == tokenizer.sep_id).sum(1) == 1).all()
        assert (mask.sum(1) >= 3).all()


def test_the_three_kinds_of_pairs_are_drawn_from_the_training_texts_alone(batches, docs, tokenizer):
    batch = batches(1)
    anchors, positives = (texts_of(batch[name], tokenizer) for name in ("ids", "positive_ids"))
    bodies = " ".join(d.text for d in docs.train)
    plain = "".join(bodies.split())
    assert all("".join(text.split()) in plain for text in positives[:28])  # a part of a body, or of a text
    summaries = {d.summary.strip() for d in docs.train}
    assert sum(any(s.startswith(text[:20]) for s in summaries) for text in anchors[:24]) == 24
    assert {tool.spoken(d.name) for d in docs.train} >= set(anchors[24:28])
    assert all("".join(text.split()) in plain for text in anchors[28:])  # a span of a text


def test_a_span_is_cut_out_of_its_surroundings_two_times_in_three(batches):
    generator = torch.Generator().manual_seed(0)
    words, stays = list(range(10, 50)), 0
    for _ in range(600):
        span, around = batches.cut_out(words, generator)
        assert 6 <= len(span) <= 23 and span == list(range(span[0], span[0] + len(span)))
        stays += set(span) <= set(around)
        assert set(span) <= set(around) or not set(span) & set(around)
        assert set(around) | set(span) <= set(words)
    assert abs(stays / 600 - 1 / 3) < 4 * (2 / 9 / 600) ** 0.5  # false alarms: 1 in 16,000


def test_a_long_texts_span_and_what_surrounds_it_are_neighbours(batches):
    generator = torch.Generator().manual_seed(0)
    words = list(range(1000))
    for _ in range(200):
        span, around = batches.cut_out(words, generator)
        seen = around[: batches.max_len - 2]
        assert min(abs(x - y) for x in seen for y in (span[0], span[-1])) <= batches.max_len


def test_training_goes_down_and_a_pilot_writes_nothing(tmp_path, monkeypatch, capsys, docs):
    few = SimpleNamespace(
        pairs=lambda split: docs.pairs(split)[:40],
        train=docs.train[:60],
        fingerprint=docs.fingerprint,
        hashes=docs.hashes,
    )
    monkeypatch.setattr(tool, "load_docs", lambda: few)
    common = ["tool", "--steps", "6", "--batch", "16", "--max-len", "32", "--out", str(tmp_path / "model")]
    monkeypatch.setattr("sys.argv", [*common, "--pilot"])
    assert tool.main() == 0
    assert not (tmp_path / "model").exists()
    monkeypatch.setattr("sys.argv", common)
    assert tool.main() == 0
    assert "Wrote" in capsys.readouterr().out
    model = load(tmp_path / "model").model
    card = read_card(tmp_path / "model")
    assert isinstance(model, SentenceEncoder) and model.encoder.config.dropout == 0
    assert card["training"]["steps"] == 6 and card["held_out"]["pairs"] == 40
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted(
        [checkpoints.CARD, checkpoints.TOKENIZER, checkpoints.WEIGHTS]
    )


def test_the_shipped_encoders_figure_is_found_again_on_texts_it_never_saw(docs):
    model, tokenizer = load("docs-contrastive")
    card = read_card("docs-contrastive")
    same = docs.fingerprint == card["corpus"]["fingerprint"]
    if same:
        assert docs.hashes("train") == card["corpus"]["train_hashes"]
        pairs = docs.pairs("test")
    else:
        held_out = {d.summary for d in unseen(card, docs.test, docs)}
        pairs = [pair for pair in docs.pairs("test") if pair[0] in held_out]
    found = mrr(tool.scores(model, tokenizer, pairs[:100]))
    assert found == pytest.approx(card["held_out"]["sample_mrr"], abs=5e-3 if same else 0.15)
    masked = mrr(tool.scores(*load("docs-small"), pairs[:100]))
    assert found > 1.5 * masked
