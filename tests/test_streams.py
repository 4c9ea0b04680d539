"""Corpora larger than memory: every text is read once, the same batches come again, and memory does not grow."""

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from nextbert_lite import load
from nextbert_lite.core.masking import IGNORE
from nextbert_lite.corpora import shards, streams
from nextbert_lite.corpora.python_docs import text_hash
from nextbert_lite.corpora.shards import Files, PublicSet
from nextbert_lite.corpora.streams import StreamBatches, open_source, sample
from nextbert_lite.course import cli, pretraining
from nextbert_lite.course.pretraining import pretrain
from nextbert_lite.course.runs import PLACES, RUN
from nextbert_lite.training import loop
from nextbert_lite.training.batches import pieces
from nextbert_lite.training.tokenizer import train_bpe
from nextbert_lite.use import checkpoints

SMALL = {"width": 16, "layers": 1, "heads": 2, "ffn_width": 32, "max_len": 20}
WORDS = [f"{a}{b}" for a in ("ba", "ke", "li", "mo", "nu", "sa", "te", "vi") for b in ("rin", "dol", "mat", "sep")]


def text(number):
    """Return a text of its own for each number: 9 to 40 words."""
    draw = random.Random(number)
    return f"Text {number}: " + " ".join(draw.choices(WORDS, k=draw.randint(8, 38)))


TEXTS = [text(number) for number in range(600)]
TOKENIZER = train_bpe(TEXTS[:100], 400)


@pytest.fixture(autouse=True)
def small_spans(tmp_path_factory, monkeypatch):
    """Read a few kilobytes at a time, so that a small corpus has many spans and several windows."""
    monkeypatch.setenv("NEXTBERT_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(shards, "SPAN", 4_000)
    monkeypatch.setattr(shards, "SPANS", 5)


@pytest.fixture
def folder(tmp_path):
    """600 texts in three files: paragraphs, more paragraphs below, and lines of JSON."""
    place = tmp_path / "news"
    (place / "below").mkdir(parents=True)
    (place / "a.txt").write_text("\n\n".join(TEXTS[:200]), encoding="utf-8")
    (place / "below" / "b.TXT").write_text("\n\n".join(TEXTS[200:300]) + "\n", encoding="utf-8")
    rows = [json.dumps({"id": n, "text": one}) for n, one in enumerate(TEXTS[300:])]
    (place / "c.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return place


def opened(path, **options):
    source = Files(path, **options)
    source.scan()
    return source


def stream(source, **options):
    return StreamBatches(source, TOKENIZER, **{"max_len": 24, "batch_size": 8, "seed": 3, **options})


def epoch_of(batches, epoch=0):
    """Return the batches of one reading of the corpus, as they were before masking."""
    found, step = [], 0
    while True:
        batch = batches(step)
        ends = [first for _, first, place in batches.places if place and place[0] == epoch + 1]
        starts = [first for _, first, place in batches.places if (place or [0])[0] == epoch]
        if ends and step >= ends[0]:
            return found
        if starts and step >= starts[0]:
            found.append(torch.where(batch["labels"] == IGNORE, batch["ids"], batch["labels"]))
        step += 1


def rows_of(batches, epoch=0):
    return Counter(tuple(row[row != 0].tolist()) for batch in epoch_of(batches, epoch) for row in batch)


def for_training(texts, modulus=10):
    return [one for one in texts if int(text_hash(one), 16) % modulus > 1]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- every text once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parting", ["\n\n", "\n \n\n", "\r\n\r\n", "\n\t\n"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n \n"])
def test_the_spans_of_a_file_give_its_paragraphs_or_its_lines(tmp_path, parting, start):
    draw = random.Random(0)
    texts = [re.sub(" ", lambda _: draw.choice([" ", "\n"]), one) for one in TEXTS[:150]]  # paragraphs of many lines
    file = tmp_path / "a.txt"
    file.write_bytes((start + parting.join(texts)).encode())
    whole = Files(file)
    assert len(whole.spans) > 5
    assert [one for n in range(len(whole.spans)) for one in whole.texts(n)] == texts
    lines = Files(file, lines=True)
    assert [one for n in range(len(lines.spans)) for one in lines.texts(n)] == "\n".join(texts).split("\n")


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_no_text_is_lost_or_cut_wherever_a_span_ends(tmp_path, monkeypatch, size):
    monkeypatch.setattr(shards, "SPAN", size)
    file = tmp_path / "a.txt"
    file.write_text("éa\nb\n\n\n  c  \n\nd\u2028e\n \nf" + "\n\ng" * 40 + "\n", encoding="utf-8")
    expected = ["éa\nb", "c", "d\u2028e", "f", *["g"] * 40]
    whole = Files(file)
    assert [one for n in range(len(whole.spans)) for one in whole.texts(n)] == expected
    rows = [json.dumps({"t": one}, ensure_ascii=False) for one in expected]
    (tmp_path / "a.jsonl").write_text("\n".join([*rows, json.dumps({"t": None}), ""]), encoding="utf-8")
    json_lines = Files(tmp_path / "a.jsonl", "t")
    assert [one for n in range(len(json_lines.spans)) for one in json_lines.texts(n)] == expected


def test_an_epoch_has_every_piece_of_every_training_text_once_and_no_held_out_one(folder):
    expected = Counter(tuple(piece) for piece in pieces(for_training(TEXTS), TOKENIZER, 24))
    batches = stream(opened(folder))
    assert rows_of(batches) == expected and rows_of(batches, epoch=1) == expected
    assert len(batches.places) > 6  # several windows


def test_packed_rows_are_full_and_hold_the_texts_one_after_another(folder):
    batches = stream(opened(folder), pack=True)
    epoch = epoch_of(batches)
    assert {tuple(batch.shape) for batch in epoch[:5]} == {(8, 24)}
    rows = torch.cat(epoch)
    assert (rows[:, 0] == TOKENIZER.cls_id).all() and not (rows == TOKENIZER.pad_id).any()
    assert batches(0)["mask"].all()
    texts = [tuple(ids[1:]) for ids in TOKENIZER.encode_batch(for_training(TEXTS))]  # words and [SEP]
    found, windows = rows[:, 1:].flatten().tolist(), len([p for _, _, p in batches.places if (p or [0])[0] == 0])
    assert 0 <= sum(map(len, texts)) - len(found) < windows * 23  # of each window less than a row
    whole, inside, start = Counter(texts), 0, 0
    for end in [n + 1 for n, i in enumerate(found) if i == TOKENIZER.sep_id]:
        inside += tuple(found[start:end]) in whole
        start = end
    assert inside >= len(texts) - 3 * windows  # and where two windows meet


def test_special_tokens_in_a_text_are_text_as_in_the_tokenizer(tmp_path):
    texts = [f"[MASK] and [SEP] of {one} [PAD]" for one in TEXTS[:100]]
    (tmp_path / "a.txt").write_text("\n\n".join(texts), encoding="utf-8")
    expected = Counter(map(tuple, pieces(for_training(texts), TOKENIZER, 24)))
    assert rows_of(stream(opened(tmp_path / "a.txt"))) == expected


def test_the_first_batches_come_from_all_over_the_corpus_and_texts_of_like_length_are_together(folder):
    source = opened(folder)
    batch = stream(source, batch_size=32)
    places = {tuple(piece): n for n, one in enumerate(TEXTS) for piece in pieces([one], TOKENIZER, 24)}
    found = sorted(places[tuple(row[row != 0].tolist())] for row in epoch_of(batch)[0])
    assert found[0] < 200 < found[-1] and len({n // 60 for n in found}) >= 4
    masks = [batch(step)["mask"] for step in range(8)]
    assert sum(int(mask.sum()) for mask in masks) > 0.9 * sum(mask.numel() for mask in masks)


def test_each_epoch_and_each_seed_has_an_order_of_its_own(folder):
    source = opened(folder)
    one, other = stream(source), stream(source, seed=4)
    first, again = epoch_of(one)[:5], epoch_of(one, 1)[:5]
    assert not any(a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(equal(one(step), other(step)) for step in range(5))
    spans = [source.tasks([epoch, 0], seed)[0] for epoch, seed in ((0, 3), (1, 3), (0, 4))]
    assert spans[0] != spans[1] != spans[2] != spans[0]


def test_tokens_are_selected_anew_in_every_batch_and_at_the_given_rate(folder):
    batches = stream(opened(folder), pack=True, rate=0.3)
    selected = [batches(step)["labels"] != IGNORE for step in range(40)]
    assert not any(torch.equal(one, other) for one, other in zip(selected, selected[1:], strict=False))
    assert 0.26 < torch.cat(selected).float().mean() < 0.31  # never the special tokens


# --- held out, repeated, sampled --------------------------------------------------------------------------------------


def test_what_is_held_out_is_the_hashs_business_and_no_part_sees_anothers_texts(folder):
    learn, validation, test = sample(opened(folder))
    assert set(validation) == {one for one in TEXTS if int(text_hash(one), 16) % 10 == 0}
    assert set(test) == {one for one in TEXTS if int(text_hash(one), 16) % 10 == 1}
    assert set(learn) == set(for_training(TEXTS)) and min(len(validation), len(test)) > 30


def test_of_many_texts_two_in_a_hundred_are_held_out(folder, monkeypatch):
    monkeypatch.setattr(shards, "FEW", 600)
    source = opened(folder)
    assert rows_of(stream(source)) == Counter(map(tuple, pieces(for_training(TEXTS, 100), TOKENIZER, 24)))
    assert set(sample(source)[2]) == {one for one in TEXTS if int(text_hash(one), 16) % 100 == 1}


def test_the_tokenizers_sample_comes_from_all_over_the_corpus_and_is_limited(folder, monkeypatch):
    monkeypatch.setattr(streams, "SAMPLE", 6_000)
    monkeypatch.setattr(streams, "HELD", 20)
    learn, validation, test = sample(opened(folder))
    numbers = sorted(TEXTS.index(one) for one in learn)
    assert 6_000 < sum(map(len, learn)) < 20_000 and numbers[0] < 50 and numbers[-1] > 550
    assert 10 < len(validation) <= 20 and 10 < len(test) <= 20
    assert all(max(map(TEXTS.index, part)) > 450 for part in (validation, test))  # not the first that come


def test_exact_repetitions_are_counted_and_all_but_the_first_can_be_dropped(tmp_path):
    again = TEXTS[50:110]
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS[:100]), encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n\n".join([*TEXTS[100:200], *again, *again]), encoding="utf-8")
    source = Files(tmp_path)
    found = source.scan()
    assert (found["texts"], found["repeated"]) == (320, 120)
    once, thrice = (Counter(map(tuple, pieces(for_training(t), TOKENIZER, 24))) for t in (TEXTS[:200], again))
    assert rows_of(stream(source, drop=True)) == once
    assert rows_of(stream(source)) == once + thrice + thrice
    assert Files(tmp_path).scan() == found  # as it was kept
    (tmp_path / "b.txt").write_text("\n\n".join(TEXTS[100:200]), encoding="utf-8")
    assert Files(tmp_path).scan() | {"sha256": 0} == {"texts": 200, "repeated": 0, "sha256": 0}


# --- a batch is a function of seed and step ---------------------------------------------------------------------------


def test_the_same_batches_come_in_any_order_of_steps_and_with_workers(folder):
    source = opened(folder)
    one, other = stream(source), stream(source, workers=1)
    last = len(epoch_of(one)) - 1
    try:
        for step in (0, last, 3, last + 1, last // 2, 0):
            assert equal(one(step), other(step)), step
    finally:
        other.close()


def test_a_stream_goes_on_at_a_step_without_reading_what_came_before(folder, tmp_path, monkeypatch):
    source = opened(folder)
    before = stream(source)
    before.keep(tmp_path / "places.json")
    expected = [before(step) for step in range(60)]
    assert len(before.places) > 3
    read, texts = [], Files.texts
    monkeypatch.setattr(Files, "texts", lambda self, number: read.append(number) or texts(self, number))
    after = stream(source)
    after.keep(tmp_path / "places.json")
    assert equal(after(59), expected[59]) and len(read) == shards.SPANS
    assert all(equal(after(step), batch) for step, batch in enumerate(expected))
    read.clear()
    assert equal(stream(source)(59), expected[59]) and len(read) > 2 * shards.SPANS  # without the file: slower, alike


def test_only_the_last_places_are_remembered_and_an_older_step_still_comes_right(folder, monkeypatch):
    monkeypatch.setattr(streams, "REMEMBERED", 3)
    source = opened(folder)
    batches = stream(source)
    early, late = batches(2), batches(400)
    assert len(batches.places) == 5 and batches.places[0] == (0, 0, None)
    assert equal(batches(2), early) and equal(batches(400), late)


class Ranks:
    """Threads in the place of ranks: `on_each` waits for all of them and gives what each one has."""

    def __init__(self, count):
        self.meet, self.told = threading.Barrier(count, timeout=20), [None] * count

    def on_each(self, rank):
        def tell(act):
            self.told[rank] = act()
            self.meet.wait()
            shares = list(self.told)
            self.meet.wait()
            return shares

        return tell

    def run(self, act):
        with ThreadPoolExecutor(len(self.told)) as threads:
            return list(threads.map(act, range(len(self.told))))


@pytest.mark.parametrize("pack", [False, True], ids=["pieces", "packed"])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_ranks_get_one_process_batches_and_each_tokenizes_its_own_part_of_the_corpus(folder, count, pack):
    def watched(**options):
        """Return a stream, and the list of the spans that it reads."""
        source, read = opened(folder), []
        training = source.training
        source.training = lambda number, drop: (read.append(number), training(number, drop))[1]
        return stream(source, pack=pack, **options), read

    steps, ranks = (*range(60), 3), Ranks(count)  # the last one goes back
    one, all_of_them = watched()
    expected = [one(step) for step in steps]

    def act(rank):
        batches, read = watched(rank=rank, ranks=count, on_each=ranks.on_each(rank))
        return [batches(step) for step in steps], read

    every = ranks.run(act)
    assert all(all(map(equal, found, expected)) for found, _ in every)
    assert Counter(number for _, read in every for number in read) == Counter(all_of_them)
    most = -(-shards.SPANS // count)  # of a window's spans, one rank's
    assert max(len(read) for _, read in every) <= most * -(-len(all_of_them) // shards.SPANS) + most


def test_a_window_with_fewer_parts_than_ranks_is_everybodys_too(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS[:300]), encoding="utf-8")
    expected, ranks = stream(opened(tmp_path / "a.txt"))(0), Ranks(40)
    every = ranks.run(
        lambda rank: stream(opened(tmp_path / "a.txt"), rank=rank, ranks=40, on_each=ranks.on_each(rank))(0)
    )
    assert all(equal(batch, expected) for batch in every)


def test_a_worker_that_is_killed_ends_the_run_with_a_sentence(folder):
    batches = stream(opened(folder), workers=1)
    batches(0)
    for process in batches.pool._processes.values():
        process.kill()
    with pytest.raises(RuntimeError, match=r"a worker process has ended\. Was there too little memory"):
        for step in range(100):
            batches(step)


def test_a_corpus_of_short_texts_is_refused_and_not_read_for_ever(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(f"a {n}" for n in range(300)), encoding="utf-8")
    with pytest.raises(ValueError, match="gave no batch: its texts are too short"):
        stream(opened(tmp_path / "a.txt"))(0)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [False, True])
def test_peak_memory_does_not_grow_with_the_corpus(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(streams, "SAMPLE", 20_000)
    monkeypatch.setattr(streams, "HELD", 20)
    peaks = []
    for copies in (1, 8):
        with open(tmp_path / "a.txt", "w", encoding="utf-8") as file:
            file.writelines(f"{one} {copy}\n\n" for copy in range(copies) for one in TEXTS)
        tracemalloc.start()
        source = opened(tmp_path / "a.txt")
        sample(source)
        batches = stream(source, pack=pack, drop=True)
        for step in range(0, 160, 20):
            batches(step)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    size = (tmp_path / "a.txt").stat().st_size
    assert peaks[1] < 1.25 * peaks[0] and peaks[1] < 0.8 * size


def test_a_worker_does_without_torch():
    program = "import sys, nextbert_lite.corpora.shards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, capsys):
    """Run `pretrain` on a corpus; return the exit code, what was printed, and what of it to stderr."""

    def run(corpus, *options, steps=6):
        sizes = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
        short = ["--steps", str(steps), "--batch", "8", "--vocab", "300", "--workers", "0", "--device", "cpu"]
        out = ["--out", str(tmp_path / "out")]
        code = cli.main(["pretrain", "--corpus", str(corpus), *short, *sizes, *out, *options])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.mark.parametrize("options", [["--stream"], ["--stream", "--pack", "--drop-repeated"]])
def test_the_command_trains_on_a_folder_and_its_card_says_on_what(folder, command, tmp_path, options):
    code, out, _ = command(folder, *options)
    assert code == 0 and "600 texts in 3 files, 0 repeated; 2 in 10 held out by hash" in out
    assert re.search(r"waited for data in \d+\.\d% of the time", out)
    card = checkpoints.read_card(tmp_path / "out")
    assert card["corpus"]["name"] == "stream" and card["corpus"]["fingerprint"]["texts"] == 600
    assert card["training"]["stream"] and card["training"].get("pack") == ("--pack" in options or None)
    assert not (tmp_path / "out" / PLACES).exists() and load(tmp_path / "out").model
    with pytest.raises(ValueError, match="out was trained on a stream"):
        checkpoints.unseen(card, [], None)


def test_a_pattern_and_jsonl_need_no_option_and_a_folder_of_text_stays_as_it_was(folder, command, monkeypatch):
    asked = []
    original = pretraining.stream_corpus
    monkeypatch.setattr(pretraining, "stream_corpus", lambda *a, **b: asked.append(a[0]) or original(*a, **b))
    for corpus in (folder / "**" / "*", folder / "c.jsonl"):
        assert command(corpus, "--replace")[0] == 0
    assert asked == [str(folder / "**" / "*"), str(folder / "c.jsonl")]
    code, out, _ = command(folder, "--replace")
    assert code == 0 and "read 300 paragraphs in 2 files" in out and len(asked) == 2
    assert not shards.is_stream(str(folder / "a.txt")) and not shards.is_stream(str(folder / "missing"))


def interrupted(run, monkeypatch, at):
    """Run with a Ctrl-C while step `at` is made."""
    import signal

    original, done = loop.linear_schedule, []

    def schedule(now, *rest):
        if now == at and not done:
            done.append(now)
            signal.raise_signal(signal.SIGINT)
        return original(now, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "linear_schedule", schedule)
        return run()


@pytest.mark.parametrize("pack, workers", [(False, 0), (True, 1)])
def test_a_run_that_was_stopped_goes_on_at_the_exact_place(folder, tmp_path, monkeypatch, pack, workers):
    options = dict(changes=SMALL, steps=70, batch=8, vocab_size=300, device="cpu", stream=True, pack=pack)
    options |= dict(workers=workers)
    pretrain(folder, tmp_path / "whole", **options)
    out = tmp_path / "stopped"
    assert interrupted(lambda: pretrain(folder, out, **options), monkeypatch, 45) is None
    assert json.loads((out / PLACES).read_text())[-1][1] > 20
    read, texts = [], Files.texts
    monkeypatch.setattr(Files, "texts", lambda self, number: read.append(number) or texts(self, number))
    monkeypatch.setattr(pretraining.streams, "sample", lambda source, s=sample: (s(source), read.clear())[0])
    pretrain(folder, out, **options)
    assert len(read) <= 3 * shards.SPANS  # the window of step 46, and the next ones
    ours, theirs = (load(tmp_path / name).model.state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_unfinished_run_refuses_other_ways_to_read_and_a_corpus_that_changed(folder, command, monkeypatch, tmp_path):
    assert interrupted(lambda: command(folder, "--stream"), monkeypatch, 3)[0] == 130
    code, _, err = command(folder, "--stream", "--pack")
    assert code == 2 and "other settings: pack was None, is now True" in err
    assert command(folder)[0] == 2
    (folder / "a.txt").write_text("\n\n".join(TEXTS[:199]), encoding="utf-8")
    code, _, err = command(folder, "--stream")
    assert code == 2 and "the corpus has changed" in err
    (folder / "a.txt").write_text("\n\n".join(TEXTS[:200]), encoding="utf-8")
    (tmp_path / "out" / PLACES).write_text("[[1, 2")
    code, _, err = command(folder, "--stream")
    assert code == 2 and "stream.json is damaged; delete it" in err
    (tmp_path / "out" / PLACES).unlink()
    assert command(folder, "--stream")[0] == 0 and not (tmp_path / "out" / RUN).exists()


def test_a_run_without_a_stream_is_told_nothing_of_streams(command, tmp_path, folder):
    assert command(folder / "a.txt")[0] == 0
    assert not {"stream", "column", "pack", "drop_repeated", "workers"} & set(
        checkpoints.read_card(tmp_path / "out")["training"]
    )
    for options in (["--pack"], ["--column", "body"], ["--drop-repeated"]):
        code, _, err = command(folder / "a.txt", "--replace", *options)
        assert code == 2 and "are for files that are streamed" in err
    assert command("toy", "--stream", "--replace")[0] == 2


def bad(folder, name, content):
    (folder / name).write_bytes(content)
    return name


BAD = {
    "an empty file": ("d.txt", b"", "d.txt is empty"),
    "only blank lines": ("d.txt", b"\n \n\n", "d.txt is empty"),
    "another encoding": ("d.txt", "é".encode("cp1252"), "d.txt is not utf-8: byte 0xe9 in line 1 (number 0"),
    "UTF-16": ("d.txt", "text".encode("utf-16"), "d.txt is written in UTF-16"),
    "a NUL": ("d.txt", b"a\0b", "d.txt holds the character NUL"),
    "no JSON": (
        "d.jsonl",
        b'{"text": "a"}\n{"text": \n',
        "d.jsonl, in the 3 KB from byte 0 on: '{\"text\": ' is no JSON",
    ),
    "a missing field": (
        "d.jsonl",
        b'{"body": "a", "id": 1}',
        "has no 'text'; it has: body, id. Name one with --column",
    ),
    "a list of texts": ("d.jsonl", b'["text"]', "has no 'text'; it has: no names"),
    "a field that is no text": ("d.jsonl", b'{"text": 5}', "its 'text' is int, no text"),
    "deep JSON": ("d.jsonl", b"[" * 100_000, "is no JSON"),
    "a damaged Parquet file": ("d.parquet", b"PAR1 and then nothing PAR1", "d.parquet"),
    "a packed file": ("d.txt.gz", b"\x1f\x8b", "d.txt.gz is compressed"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_among_good_is_one_sentence_and_exit_code_1_before_training(folder, command, tmp_path, name):
    file, content, sentence = BAD[name]
    (folder / file).write_bytes(content)
    code, _, err = command(folder / "**" / "*.*")
    assert code == 1 and sentence in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_an_empty_file_is_found_before_anything_is_read(folder, monkeypatch):
    monkeypatch.setattr(Files, "texts", lambda *_: pytest.fail("a text was read"))
    (folder / "d.txt").touch()
    with pytest.raises(OSError, match=r"d\.txt is empty: a download that failed\?"):
        Files(folder)


def test_a_text_that_does_not_fit_into_memory_is_refused_with_a_hint(folder, command, monkeypatch):
    monkeypatch.setattr(shards, "LONGEST", 10_000)
    (folder / "d.txt").write_text("\n".join(TEXTS[:100]), encoding="utf-8")
    code, _, err = command(folder, "--stream")
    assert code == 1 and "d.txt has a text of more than 0 MB, from byte 0 on. Is each line a text of its own?" in err
    assert command(folder, "--stream", "--lines")[0] == 0
    (folder / "e.jsonl").write_text(json.dumps({"text": "word " * 4_000}), encoding="utf-8")
    code, _, err = command(folder, "--stream", "--lines", "--replace")
    assert code == 1 and "e.jsonl has a text of more than" in err and "--lines" not in err


def test_a_shard_that_may_not_be_read_is_named(folder, command, monkeypatch):
    def refuse(path, *rest, real=open):
        if Path(path).name == "c.jsonl":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest)

    monkeypatch.setattr(shards, "open", refuse, raising=False)
    code, _, err = command(folder, "--stream")
    assert code == 1 and "c.jsonl" in err and err.count("\n") == 1


def test_nothing_to_read_and_too_little_to_hold_out_are_said(folder, command):
    code, _, err = command(folder / "*.none")
    assert code == 1 and "there is no file" in err
    (folder / "few.jsonl").write_text('{"text": "a text that is all alone"}\n')
    code, _, err = command(folder / "few.jsonl")
    assert code == 2 and "too few different texts" in err


@pytest.mark.parametrize("corpus, library", [("d.parquet", "pyarrow"), ("hub:owner/name", "datasets")])
def test_a_missing_library_is_told_with_what_to_install(folder, command, monkeypatch, corpus, library):
    for name in ("pyarrow", "pyarrow.parquet", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    (folder / "d.parquet").write_bytes(b"PAR1")
    code, _, err = command(corpus if ":" in corpus else folder / corpus)
    assert code == 1 and f"needs the package `{library}`: pip install 'nextbert-lite[stream]'." in err
    (folder / "d.parquet").unlink()
    assert command(folder, "--stream")[0] == 0


# --- Parquet and public data sets: with the extra `stream` ------------------------------------------------------------


def parquet(path, texts, **options):
    library = pytest.importorskip("pyarrow.parquet", reason="reads Parquet: pip install 'nextbert-lite[stream]'")
    table = sys.modules["pyarrow"].table(
        {"id": list(range(len(texts))), "text": texts, "other": [{"text": "no"}] * len(texts)}
    )
    library.write_table(table, path, **options)


@pytest.mark.parametrize("group", [70, 1000])
def test_parquet_is_read_a_few_rows_at_a_time_and_every_text_once(tmp_path, group):
    parquet(tmp_path / "a.parquet", [*TEXTS[:300], None], row_group_size=group)
    parquet(tmp_path / "b.parquet", TEXTS[300:], row_group_size=group)
    source = opened(tmp_path)
    assert len(source.spans) >= 6
    assert [one for n in range(len(source.spans)) for one in source.texts(n)] == TEXTS
    assert rows_of(stream(source)) == Counter(map(tuple, pieces(for_training(TEXTS), TOKENIZER, 24)))


def test_parquet_without_the_column_or_with_numbers_in_it_or_without_rows_is_refused(folder, command):
    parquet(folder / "d.parquet", TEXTS[:5])
    code, _, err = command(folder / "*.parquet", "--column", "body")
    assert code == 1 and "d.parquet has no column 'body'; it has: id, text, other. Name one with --column." in err
    code, _, err = command(folder / "*.parquet", "--column", "id")
    assert code == 1 and "its 'id' is int, no text" in err
    parquet(folder / "d.parquet", [])
    code, _, err = command(folder / "*.parquet")
    assert code == 1 and "d.parquet is empty" in err
    parquet(folder / "d.parquet", TEXTS, compression="none")
    whole = (folder / "d.parquet").read_bytes()
    (folder / "d.parquet").write_bytes(whole[:30_000] + b"\xff" * 4_000 + whole[34_000:])
    code, _, err = command(folder / "*.parquet")
    assert code == 1 and "d.parquet is damaged" in err and err.count("\n") == 1


@pytest.fixture
def public(tmp_path):
    """A data set of three shards as `datasets` opens it from a folder."""
    pytest.importorskip("datasets", reason="streams public data sets: pip install 'nextbert-lite[stream]'")
    place = tmp_path / "public"
    place.mkdir()
    for shard in range(3):
        parquet(
            place / f"train-{shard:05d}-of-00003.parquet", TEXTS[shard * 200 : (shard + 1) * 200], row_group_size=30
        )
    shards.open_set.cache_clear()
    return str(place)


def test_a_public_data_set_is_streamed_and_goes_on_at_the_exact_place(public, tmp_path):
    expected = Counter(map(tuple, pieces(for_training(TEXTS, 100), TOKENIZER, 24)))
    one = stream(open_source(f"hub:{public}"))
    one.keep(tmp_path / "places.json")
    assert rows_of(one) == expected and rows_of(one, epoch=1) == expected
    batches = [one(step) for step in range(100)]
    two = stream(open_source(f"hub:{public}"), workers=2)
    two.keep(tmp_path / "places.json")
    try:
        assert all(equal(two(step), batches[step]) for step in (99, 40, 41, 0))
    finally:
        two.close()
    ranks = Ranks(3)
    every = ranks.run(lambda rank: stream(PublicSet(public), rank=rank, ranks=3, on_each=ranks.on_each(rank))(40))
    assert all(equal(batch, batches[40]) for batch in every)


def test_the_command_trains_on_a_public_data_set(public, command):
    code, out, err = command(f"hub:{public}")
    assert (code, err) == (0, "") and "the data set " in out and "in 3 parts; 2 in 100 held out" in out
    code, _, err = command(f"hub:{public}", "--drop-repeated", "--replace")
    assert code == 2 and "its repetitions are not known" in err
    code, _, err = command(f"hub:{public}", "--column", "body", "--replace")
    assert code == 1 and "has no 'body'; it has: id, text, other. Name one with --column." in err


def test_a_public_data_set_without_the_network_is_one_sentence_and_exit_code_1(tmp_path):
    pytest.importorskip("datasets", reason="streams public data sets: pip install 'nextbert-lite[stream]'")
    command = ["pretrain", "--corpus", "hub:owner/name", "--steps", "2", "--out", str(tmp_path / "out")]
    run = subprocess.run(
        [sys.executable, "-m", "nextbert_lite", *command],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1 and "'owner/name' cannot be read; is there a network" in run.stderr
    assert run.stderr.count("\n") == 1


# --- the figures: slow ------------------------------------------------------------------------------------------------


def memory_of(process):
    """Return the memory of a process and those below it in MB, what they share divided among them."""
    total, todo = 0.0, [process]
    while todo:
        number = todo.pop()
        try:
            rollup = Path(f"/proc/{number}/smaps_rollup").read_text()
            todo += Path(f"/proc/{number}/task/{number}/children").read_text().split()
        except OSError:
            continue  # it has ended
        total += int(re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[1]) / 1024
    return total


def peak_of(tmp_path, corpus, *options, steps=120):
    """Run `pretrain` in a process of its own; return the peak of its memory in MB and what it printed."""
    command = [sys.executable, "-m", "nextbert_lite", "pretrain", "--corpus", str(corpus), "--steps", str(steps)]
    command += ["--out", str(tmp_path / "out"), "--replace", "--device", "cpu", *options]
    with open(tmp_path / "told", "w+") as told:
        run, peak = subprocess.Popen(command, stdout=told), 0.0
        while run.poll() is None:
            peak = max(peak, memory_of(run.pid))
            time.sleep(0.2)
        told.seek(0)
        assert run.returncode == 0
        return peak, told.read()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads Linux's /proc")
def test_a_gigabyte_takes_at_most_500_mb_more_than_the_model_and_no_more_than_ten(tmp_path):
    draw, peaks = random.Random(0), {}
    for size in (10, 100, 1000):
        with open(tmp_path / "corpus.txt", "w", encoding="utf-8") as file:
            while file.tell() < size << 20:
                file.writelines(" ".join(draw.choices(WORDS, k=80)) + f" {draw.random()}\n\n" for _ in range(100))
        peaks[size], told = peak_of(tmp_path, tmp_path / "corpus.txt", "--stream", "--drop-repeated")
        print(size, "MB of text:", round(peaks[size]), "MB of memory;", told.splitlines()[-2])
    model, _ = peak_of(tmp_path, "toy")
    print("the same model without a stream:", round(model), "MB")
    assert peaks[1000] < model + 500 and peaks[1000] < 1.2 * peaks[100]
