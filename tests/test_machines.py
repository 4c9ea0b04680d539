"""What a machine or a person's slip brings: consoles, rights, links, Ctrl-C, memory. Each ends in a plain sentence."""

import errno
import io
import json
import os
import stat
import sys
import types

import pytest
import torch
from oracles import config, words

from nextbert_lite import MaskedLanguageModel, files, fine_tune, load
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.corpora import grammar
from nextbert_lite.course import cli, pretraining, progress, runs, workspace
from nextbert_lite.course.pretraining import pretrain
from nextbert_lite.training.tokenizer import train_bpe
from nextbert_lite.use import checkpoints, pretrained

DEEP = "[" * 100_000 + "]" * 100_000


def told(capsys, *arguments):
    """Run a command in this process; return its status and what it said on stderr."""
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr().err


@pytest.fixture
def raising(monkeypatch):
    """Give a function after which `demo` raises an error."""

    def arrange(error):
        def run_demo(**options):
            raise error

        monkeypatch.setitem(sys.modules, "nextbert_lite.course.demo", types.SimpleNamespace(run_demo=run_demo))

    return arrange


@pytest.fixture
def tokenizer():
    return train_bpe(["a few words to learn from"], vocab_size=300)


# --- consoles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
@pytest.mark.parametrize("name", ["demo", "pretrain"])
def test_a_command_goes_on_where_the_console_lacks_a_character(name, encoding, tmp_path, monkeypatch):
    consoles = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", consoles[0])
    monkeypatch.setattr(sys, "stderr", consoles[1])

    def stop(*arguments, **options):
        raise ValueError("stopped …")

    monkeypatch.setattr("nextbert_lite.course.demo.load_docs", stop)
    monkeypatch.setattr("nextbert_lite.course.pretraining.load_docs", stop)
    options = ["--corpus", "docs", "--steps", "1"] if name == "pretrain" else []
    assert cli.main([name, *options, "--out", str(tmp_path / "out")]) == 2
    for console, begin in zip(consoles, (b"Reading the ", b"nextbert-lite: stopped ?\n"), strict=True):
        console.flush()
        assert console.buffer.getvalue().startswith(begin)
    assert consoles[0].buffer.getvalue().endswith(b" ?\n")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_in_python_too_no_training_is_lost_where_the_console_lacks_a_character(encoding, tmp_path, monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    monkeypatch.setattr(sys, "stdout", console)
    torch.manual_seed(0)
    start = MaskedLanguageModel(Encoder(config())), words(35)
    made = fine_tune([f"w{i % 2} w{i}" for i in range(20)], ["好", "坏"] * 10, start, epochs=1)
    assert made.labels == ("坏", "好")
    made.predict(["w1 " * 30])
    monkeypatch.setattr(checkpoints, "corpus_difference", lambda card: "numpy 1.0 → 2.0")
    load("toy-small")
    monkeypatch.setattr(pretraining, "held_out", lambda model, source: {"loss": 0.0})  # takes longer than all the rest
    pretrain("toy", tmp_path / "out", steps=1, batch=2)
    console.flush()
    said = console.buffer.getvalue()
    assert b"(always '?'" in said and b"numpy 1.0 ? 2.0" in said and b"Reading the corpus toy " in said


# --- files that others read, and places that are none -----------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_of_the_cache_may_be_read_by_whom_the_umask_says(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        files.write_safetensors(tmp_path / "index", {"a": torch.zeros(2)}, {})
        files.write_text(tmp_path / "docs", "{}")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("index", "docs")] == [mode, mode]


def test_a_tokenizer_is_not_saved_in_the_place_of_a_folder(tokenizer, tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder; name a file in it") as caught:
        tokenizer.save(tmp_path)
    assert str(tmp_path) in str(caught.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["a link to nowhere", "a file"])
@pytest.mark.parametrize(
    "command", [["start", "--no-open"], ["demo", "--out"], ["pretrain", "--corpus", "toy", "--steps", "1", "--out"]]
)
def test_a_folder_that_is_a_file_or_a_dangling_link_is_told_so(command, kind, tmp_path, capsys):
    place = tmp_path / "place"
    place.write_text("mine") if kind == "a file" else place.symlink_to(tmp_path / "gone")
    status, said = told(capsys, *command, place)
    assert status == 1 and said.startswith("nextbert-lite: ") and f"is {kind}; name a folder" in said
    assert str(place) in said and said.count("\n") == 1
    assert not (tmp_path / "gone").exists()


# --- help in a notebook -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", ["nn.Linear?", "nn.Linear??", "?nn.Linear", "??nn", "torch.*cat*?", "%time?", "%timeit x", "a = !ls"]
)
def test_a_line_for_jupyter_is_no_mistake(line):
    body = progress.parsed(f"y = 1\n{line}\nz = 2").body
    assert [node.targets[0].id for node in body if hasattr(node, "targets")] == ["y", "z"]


@pytest.mark.parametrize("source", ["y = 1 if x? else 2", "y = x ?", "def f(:\n    pass"])
def test_a_mistake_stays_one(source):
    with pytest.raises(SyntaxError):
        progress.parsed(source)


# --- what the command line says ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (RuntimeError("no such operator\nframe #0: in C++"), 1, "no such operator"),
        (MemoryError(), 1, "there is not enough memory: "),
        (RecursionError("maximum recursion depth exceeded"), 1, "something that was read is nested too deeply"),
        (OverflowError("int too large to convert"), 2, "int too large to convert"),
        (FloatingPointError("the loss is NaN"), 2, "the loss is NaN"),
    ],
)
def test_an_error_of_the_machine_is_one_line_and_no_traceback(error, status, words, raising, capsys):
    raising(error)
    got, said = told(capsys, "demo")
    assert got == status and said.startswith(f"nextbert-lite: {words}") and said.count("\n") == 1


def test_an_interrupt_before_the_training_is_told(raising, capsys):
    raising(KeyboardInterrupt())
    assert told(capsys, "demo") == (130, "nextbert-lite: stopped by Ctrl-C.\n")


@pytest.mark.parametrize("blank", ["", "  "])
@pytest.mark.parametrize(
    "arguments",
    [
        "start {}",
        "start x --no-open --lesson {}",
        "progress {}",
        "demo --out {}",
        "pretrain --corpus toy --steps 1 --out {}",
        "pretrain --corpus {} --steps 1 --out x",
        "pairs --data {} --steps 1 --out x",
        "pairs --data docs --steps 1 --out {}",
        "pairs --data docs --steps 1 --out x --start {}",
        "search array --model {}",
    ],
)
def test_an_empty_name_is_refused(arguments, blank, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, said = told(capsys, *[blank if part == "{}" else part for part in arguments.split(" ")])
    assert status == 2 and "it is empty; write a name" in said and not list(tmp_path.iterdir())


# --- what may not be read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("may_read", "words"), [(False, "may not be read by you"), (True, "may not be written by you")]
)
def test_a_file_without_the_right_to_read_is_told_from_one_without_the_right_to_write(
    may_read, words, raising, tmp_path, monkeypatch, capsys
):
    raising(PermissionError(errno.EACCES, "Permission denied", str(tmp_path)))
    monkeypatch.setattr(os, "access", lambda path, mode: may_read)
    status, said = told(capsys, "demo")
    assert status == 1 and words in said and str(tmp_path) in said


def test_files_that_may_not_be_read_are_not_said_to_be_missing_or_damaged(tokenizer, tmp_path, monkeypatch):
    tokenizer.save(tmp_path / "tokenizer.json")
    files.write_safetensors(tmp_path / "a", {"a": torch.zeros(2)}, {})
    readers = [
        (type(tokenizer).load, tmp_path / "tokenizer.json"),
        (files.read_safetensors, tmp_path / "a"),
        (pretrained.read_weights, tmp_path / "a"),
    ]

    def closed(file, *rest, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.setattr("builtins.open", closed)
    monkeypatch.setattr(io, "open", closed)
    for read, path in readers:
        with pytest.raises(PermissionError) as caught:
            read(path)
        assert caught.value.filename == str(path)


@pytest.mark.parametrize("name", ["notebook", "card", "run", "published", "tokenizer", "grammar"])
def test_json_that_is_nested_too_deeply_is_refused_in_a_sentence(name, tokenizer, tmp_path):
    place = {"card": checkpoints.CARD, "run": runs.RUN}.get(name, "file")
    path = tmp_path / place
    path.write_text(f"a = {DEEP}" if name == "grammar" else DEEP, encoding="utf-8")
    read = {
        "notebook": lambda: workspace.read_notebook(path),
        "card": lambda: checkpoints.read_card(tmp_path),
        "run": lambda: runs.unfinished(tmp_path, {}, False),
        "published": lambda: pretrained.read_json(path, list),
        "tokenizer": lambda: type(tokenizer).load(path),
        "grammar": lambda: grammar.read_grammar(path),
    }[name]
    with pytest.raises(ValueError) as caught:
        read()
    assert str(path) in str(caught.value) and len(str(caught.value)) < 400


def test_progress_of_a_notebook_that_is_nested_too_deeply_is_told(tmp_path, capsys):
    name = workspace.find_lessons()[2].name
    (tmp_path / name).write_text(DEEP, encoding="utf-8")
    assert cli.main(["progress", str(tmp_path), "--json"]) == 0
    lesson = json.loads(capsys.readouterr().out)["lessons"][2]
    assert "nested too deeply" in lesson["trouble"]
    assert {one["status"] for one in lesson["exercises"]} == {"unreadable"}
