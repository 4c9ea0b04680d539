"""`nextbert-lite pairs`: from pairs of texts, one's own or the documentation's, to a sentence encoder that finds."""

import csv
import dataclasses
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from nextbert_lite import Bm25, SearchIndex, SentenceEncoder, embed, fine_tune, load, mrr
from nextbert_lite.corpora.harvest import Document
from nextbert_lite.corpora.python_docs import DocsCorpus, load_docs, text_hash
from nextbert_lite.course import pairs, runs
from nextbert_lite.course.cli import main
from nextbert_lite.course.pairs import DocsPairs, docs_pairs, groups_of, own_pairs, read_pairs, train_pairs
from nextbert_lite.training import loop
from nextbert_lite.training.tokenizer import train_bpe
from nextbert_lite.use import checkpoints
from nextbert_lite.use.checkpoints import read_card, unseen
from nextbert_lite.use.search import PLAIN

FOODS = "bread rice soup cake salad pasta cheese apple fish stew pie honey".split()
ACTS = "buy cook store freeze share taste".split()
THINGS = "dog cat bird cow pig goat hen duck frog bee ant fox run jump sing read draw walk".split()
OTHER = dict(zip([*FOODS, *ACTS], THINGS, strict=True))
MANY = [(f"how do I {a} {f} at home", f"{OTHER[a]} near the {OTHER[f]} first") for f in FOODS for a in ACTS]


@pytest.fixture(scope="module")
def tokenizer():
    return load("docs-small").tokenizer


@pytest.fixture(scope="module")
def batches(docs, tokenizer):
    return DocsPairs(docs, tokenizer, batch_size=40, max_len=48, seed=0)


def write(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


# --- pairs of one's own -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A sentence encoder made by the command from a CSV file of questions and answers."""
    folder = tmp_path_factory.mktemp("pairs")
    file = write(folder / "mine.csv", [("question", "answer"), *MANY])
    out = folder / "encoder"
    assert main(["pairs", "--data", str(file), "--steps", "30", "--batch", "24", "--out", str(out)]) == 0
    return file, out, read_card(out)


def test_the_command_learns_from_a_file_of_two_columns_and_says_how_much(trained):
    _, out, card = trained
    figures = card["held_out"]
    assert figures["mrr"] > figures["mrr_before"] + 0.2
    assert figures["pairs"] >= 6 and 0 < figures["bm25_mrr"] <= 1
    assert figures["tuned_bm25_mrr"] > 0 and "trained_on" not in figures
    assert card["corpus"]["name"] == "pairs" and card["training"]["steps"] == 30
    assert sorted(p.name for p in out.iterdir()) == ["card.json", "model.safetensors", "tokenizer.json"]
    assert [entry["step"] for entry in card["training"]["curve"]] == [5, 10, 15, 20, 25, 30]


def test_what_it_made_serves_embed_search_and_fine_tune(trained, docs):
    _, out, _ = trained
    model, _ = load(out)
    assert isinstance(model, SentenceEncoder) and model.encoder.config.dropout == 0
    assert embed(["how do I cook rice"], out).shape == (1, 192)
    hits = SearchIndex(docs.test[:20], out).search(docs.test[0].summary, k=3)
    assert len(hits) == 3
    texts = [question for question, _ in MANY[:24]]
    classifier = fine_tune(texts, ["buy" if "buy" in t else "other" for t in texts], start=out, epochs=1, report=None)
    assert classifier.labels == ("buy", "other")


def test_a_stopped_run_goes_on_to_the_same_weights_and_refuses_other_settings(trained, tmp_path, monkeypatch, capsys):
    file, whole, _ = trained
    schedule, stops = loop.linear_schedule, [12]

    def stopping(step, *rest):
        if stops and step == stops[0]:
            stops.pop()
            raise KeyboardInterrupt
        return schedule(step, *rest)

    monkeypatch.setattr(loop, "linear_schedule", stopping)
    monkeypatch.setattr(pairs, "CHECKPOINT_EVERY", 5)
    command = ["pairs", "--data", str(file), "--steps", "30", "--batch", "24", "--out", str(tmp_path / "again")]
    assert main(command) == 130
    assert (tmp_path / "again" / runs.RUN).is_file() and not (tmp_path / "again" / "card.json").exists()
    assert main([*command[:-2], "--lr", "1e-3", *command[-2:]]) == 2
    assert "lr was 0.0006, is now 0.001" in capsys.readouterr().err
    assert main(command) == 0
    same = [(folder / "model.safetensors").read_bytes() for folder in (whole, tmp_path / "again")]
    assert same[0] == same[1]
    assert main(command) == 1  # a finished model is not overwritten
    assert "has a model already" in capsys.readouterr().err


def test_pairs_that_share_a_text_stay_on_one_side_and_every_pair_has_a_place(tokenizer):
    linked = [(f"question {i}", f"answer {i // 3}") for i in range(120)]
    corpus = own_pairs(linked, tokenizer)
    held = {text for pair in (*corpus.validation, *corpus.test) for text in pair}
    train = set(linked) - set(corpus.validation) - set(corpus.test)
    assert not held & {text for pair in train for text in pair}
    assert corpus.train == len(train) >= 90 and min(len(corpus.validation), len(corpus.test)) >= 12
    assert set(own_pairs(linked[::-1], tokenizer).test) == set(corpus.test)


def test_a_chain_of_shared_texts_is_one_group():
    assert groups_of([("a", "b"), ("c", "d"), ("b", "c"), ("e", "f")]) == ["a", "a", "a", "e"]


@pytest.mark.parametrize(
    "rows, words",
    [
        ([("question",), *[(a,) for a, _ in MANY]], r"has 1 columns \(question\); expected 2"),
        (
            [("question;answer",), *[(f"{a};{b}",) for a, b in MANY]],
            "by semicolons. Name the separator: .* in the command --separator .;",
        ),
        ([("a", "b", "c"), ("x", "y", "z")], r"has 3 columns \(a, b, c\); expected 2, or say which to take"),
        ([("a", "b"), ("x", "y"), ("x", " ")], "line 3: the b is empty. Fill it in, or delete the row"),
        ([("a", "b"), ("x", "NaN"), ("x", "y")], "the b of pair 0 is 'NaN', which programs write for a missing value"),
        ([("a", "b"), ("x", "y"), ("z", "w"), ("q", "r")], "there are 3 different pairs.* At least 20 pairs"),
        ([("a", "b"), *[(a, "the same") for a, _ in MANY]], "72 different pairs, of which 0 would be trained on"),
        ([("a", "b"), ("x", "y", "z")], "line 2: 3 fields, but the first line has 2"),
        ([("a", "b")], "has a first line and no texts below it"),
        ([], "is empty; expected a first line such as question,answer"),
    ],
)
def test_a_file_of_no_use_is_told_in_one_sentence_and_nothing_is_written(rows, words, tmp_path, capsys):
    file = write(tmp_path / "mine.csv", rows)
    command = ["pairs", "--data", str(file), "--steps", "3", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(words, said), said
    assert not (tmp_path / "out").exists()


def test_another_separator_can_be_named_and_the_command_takes_it(tmp_path, capsys):
    file = tmp_path / "mine.csv"
    file.write_text("question\tanswer\nreally, truly\tyes\n", encoding="utf-8")
    assert read_pairs(file, separator="\t") == [("really, truly", "yes")]
    command = ["pairs", "--data", str(file), "--steps", "3", "--out", str(tmp_path / "out")]
    assert main([*command, "--separator", r"\t"]) == 2
    assert "there are 1 different pairs" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--separator", ";;"])
    assert "is not one character" in capsys.readouterr().err


def test_two_columns_of_more_are_taken_by_their_names(tmp_path):
    file = write(tmp_path / "mine.csv", [("id", "answer", "question"), (1, "yes", "really"), (2, "no", "sure")])
    assert read_pairs(file, ("question", "answer")) == [("really", "yes"), ("sure", "no")]


@pytest.mark.parametrize(
    "given, error, words",
    [
        ([("a", "b", "c")] * 30, ValueError, "must be a list of"),
        (["ab"] * 30, ValueError, "must be a list of"),
        ([("a", float("nan"))] * 30, TypeError, "text 0 is float; each text must be a str"),
        ([], ValueError, "there are 0 different pairs"),
    ],
)
def test_a_list_that_holds_no_pairs_of_texts_is_refused(given, error, words, tmp_path):
    with pytest.raises(error, match=words):
        train_pairs(given, tmp_path / "out", steps=3)


def test_the_command_is_a_process_whose_help_names_the_file_and_what_takes_the_result():
    run = subprocess.run([sys.executable, "-m", "nextbert_lite", "pairs", "--help"], capture_output=True, text=True)
    assert run.returncode == 0
    assert all(words in run.stdout for words in ("CSV file of two columns", "embed(", "search", "fine_tune(", "Ctrl-C"))


@pytest.mark.parametrize("columns", [("a", "a"), ("a",), ("a", "b", "c"), "a"], ids=str)
def test_two_different_columns_are_needed(columns, tmp_path):
    file = write(tmp_path / "mine.csv", [("a", "b", "c"), *[(*pair, "x") for pair in MANY]])
    with pytest.raises(ValueError, match=r"the columns are named .*; name 2 different ones"):
        read_pairs(file, columns)


def test_what_is_left_out_cut_and_made_smaller_is_said(tmp_path, capsys):
    card = train_pairs([*MANY, *MANY[:7]], tmp_path / "out", steps=1, batch=500, max_len=8)
    said = capsys.readouterr().out
    assert "; 7 repeated ones are left out" in said and "; 7 repeated ones are left out" in card["corpus"]["about"]
    assert re.search(r"\d\d of 1\d\d training texts exceed 8 tokens: only their beginning is read", said)
    assert re.search(r"A batch has 5\d pairs, all that there are, and not 500\.", said)


def stopped_in(monkeypatch, out, **options):
    """Begin a run that is stopped before its first step."""
    with monkeypatch.context() as patch:
        patch.setattr(pairs, "fit", lambda *given, **more: loop.History(interrupted=True))
        assert train_pairs(MANY, out, steps=2, batch=8, **options) is None


def test_a_run_goes_on_from_the_start_that_it_began_with_and_from_no_other(tmp_path, monkeypatch):
    start, out = tmp_path / "start", tmp_path / "out"
    model, words = load("docs-small")
    checkpoints.save(start, model, words, {"name": "one"})
    stopped_in(monkeypatch, out, start=start)
    checkpoints.save(start, model, words, {"name": "another"})
    with pytest.raises(ValueError, match=r"start has changed since the run in .* began; delete .*run\.json to start"):
        train_pairs(MANY, out, steps=2, batch=8, start=start)
    checkpoints.save(start, model, words, {"name": "one"})
    assert train_pairs(MANY, out, steps=2, batch=8, start=start)
    with pytest.raises(ValueError, match="is the start, which a run that is stopped needs again: name another folder"):
        train_pairs(MANY, start, steps=2, batch=8, start=start, replace=True)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"steps": 2, "seed": -1}, "seed is -1; it must be a whole number of at least 0"),
        ({"steps": 2, "batch": 1}, "batch is 1; it must be a whole number of at least 2"),
        ({"steps": 2, "max_len": 8.5}, "max_len is 8.5; it must be a whole number"),
        ({"steps": 2, "lr": "1e-3"}, "lr is 1e-3; a learning rate is more than 0"),
        ({"minutes": -1}, "minutes is -1; a training time is more than 0 and finite"),
        ({"minutes": float("nan")}, "minutes is nan"),
        ({"minutes": "2"}, "minutes is '2'"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_nothing_is_written(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        train_pairs(MANY, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


# --- the documentation ------------------------------------------------------------------------------------------------


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


def test_the_two_kinds_of_pairs_are_drawn_from_the_training_texts_alone(batches, docs, tokenizer):
    batch = batches(1)
    anchors, positives = (texts_of(batch[name], tokenizer) for name in ("ids", "positive_ids"))
    bodies = " ".join(d.text for d in docs.train)
    plain = "".join(bodies.split())
    assert all("".join(text.split()) in plain for text in positives[:28])  # a part of a body, or of a text
    summaries = {d.summary.strip() for d in docs.train}
    assert all(any(s.startswith(text[:20]) for s in summaries) for text in anchors[:28])
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


MORE = DocsCorpus(
    (
        Document(
            "x.fold", "x", "x", "Fold a sheet of paper along its longer side.", "Then fold it once more, and so on."
        ),
    ),
    (),
    (),
    {"x": "1.0"},
)


def test_a_further_text_that_is_nearly_a_held_out_one_is_not_trained_on(docs, tokenizer):
    copied = dataclasses.replace(docs.test[0], summary=docs.test[0].summary + " So.")
    body = next(d for d in docs.test if len(d.body) > 300)
    body = dataclasses.replace(MORE.train[0], body=body.body + " And so on.")
    more = DocsCorpus((*MORE.train, copied, body), (), (), {})
    corpus = docs_pairs(docs, more, tokenizer)
    assert corpus.train_hashes == [*docs.hashes("train"), text_hash(MORE.train[0])]


def test_the_further_documentation_is_the_same_twice_and_all_for_training(tmp_path, monkeypatch):
    more = load_docs(more=True)
    assert {d.library for d in more.train} == {"scipy", "sklearn", "networkx", "sympy"} and len(more.train) > 5000
    assert not more.validation and not more.test
    monkeypatch.setenv("NEXTBERT_CACHE", str(tmp_path))  # so it is collected anew
    assert load_docs(more=True) == more


def test_the_documentation_is_a_corpus_of_pairs_too(tmp_path, monkeypatch, docs):
    few = SimpleNamespace(
        pairs=lambda split: docs.pairs(split)[:40],
        train=docs.train[:60],
        fingerprint=docs.fingerprint,
        validation=docs.validation[:40],
        test=docs.test[:40],
    )
    monkeypatch.setattr(pairs, "load_docs", lambda more=False: MORE if more else few)
    card = train_pairs("docs", tmp_path / "model", steps=3, batch=16, max_len=32)
    assert card["training"]["steps"] == 3 and card["held_out"]["pairs"] == 40
    hashes = card["corpus"]["train_hashes"]
    assert hashes[:60] == docs.hashes("train")[:60] and hashes[60:] == [text_hash(MORE.train[0])]
    assert card["corpus"]["fingerprint"] == docs.fingerprint and card["corpus"]["more"] == MORE.fingerprint
    assert "no names" in card["corpus"]["pairs"] and "1 of further packages" in card["corpus"]["about"]
    assert read_card(tmp_path / "model") == json.loads(json.dumps(card))


def test_the_shipped_encoders_figure_is_found_again_on_texts_it_never_saw(docs):
    model, tokenizer = load("docs-contrastive")
    card = read_card("docs-contrastive")
    same = docs.fingerprint == card["corpus"]["fingerprint"]
    if same:
        assert docs.hashes("train") == card["corpus"]["train_hashes"][: len(docs.train)]
        test = docs.pairs("test")
    else:
        held_out = {d.summary for d in unseen(card, docs.test, docs)}
        test = [pair for pair in docs.pairs("test") if pair[0] in held_out]
    found = pairs.reciprocal(model, tokenizer, test[:100])
    assert found == pytest.approx(card["held_out"]["sample_mrr"], abs=5e-3 if same else 0.15)
    masked = SentenceEncoder(load("docs-small").model.encoder)
    assert found > 1.5 * pairs.reciprocal(masked, tokenizer, test[:100])


def test_the_card_compares_with_bm25_as_in_a_textbook_and_with_a_better_one_on_the_same_texts(docs):
    test = docs.pairs("test")[:200]
    plain, tuned = pairs.lexical(test, **PLAIN), pairs.lexical(test)
    queries, texts = zip(*test, strict=True)
    assert plain == mrr(Bm25(texts, **PLAIN).scores(queries)) < tuned == mrr(Bm25(texts).scores(queries))
    assert pairs.lexical([("the", "of"), ("a", "an")]) == 0


def test_a_start_with_another_tokenizer_trains_on_its_own_words(tmp_path):
    bpe = train_bpe((text for pair in MANY for text in pair), 300)
    assert own_pairs(MANY, bpe).train >= 50
    with pytest.raises(FileNotFoundError, match="there is no checkpoint 'nowhere'"):
        train_pairs(MANY, tmp_path / "out", start="nowhere", steps=3)
    assert not (tmp_path / "out").exists() and checkpoints.find("docs-small")
