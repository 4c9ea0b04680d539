"""`nextbert-lite pretrain`: from a corpus to a checkpoint, through interruptions, full disks and wrong arguments."""

import dataclasses
import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file

from nextbert_lite import files, load
from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.core.masking import IGNORE
from nextbert_lite.core.modern import ModernConfig
from nextbert_lite.corpora.bayes import compare
from nextbert_lite.corpora.python_docs import near_duplicates, text_hash
from nextbert_lite.course import cli, pretraining
from nextbert_lite.course.pretraining import held_out, pretrain
from nextbert_lite.course.runs import RUN, TRAINING
from nextbert_lite.training import loop
from nextbert_lite.training.batches import pieces
from nextbert_lite.training.tokenizer import Tokenizer, train_bpe
from nextbert_lite.use import checkpoints
from nextbert_lite.use.checkpoints import CARD, TOKENIZER, WEIGHTS, corpus_difference, read_card, unseen

SMALL = {"width": 16, "layers": 1, "heads": 2, "ffn_width": 32, "max_len": 20}
MODEL = (WEIGHTS, TOKENIZER, CARD)


@pytest.fixture(scope="module", autouse=True)
def little_to_measure(world):
    """One toy world for all, and its figures from fewer sentences, so that a run takes a third of a second."""
    toy_corpus = pretraining.toy_corpus
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "ToyWorld", lambda: world)
        patch.setattr(pretraining, "toy_corpus", lambda n: dataclasses.replace(toy_corpus(n), test_batches=4))
        patch.setattr(pretraining, "SAMPLE", 2)
        patch.setattr(pretraining, "compare", partial(compare, n=250))
        yield


def toy(out, steps=12, **options):
    return pretrain("toy", out, **{"changes": SMALL, "steps": steps, "batch": 8, "device": "cpu", **options})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished toy checkpoint, made by the command, and what that printed."""
    out, printed = tmp_path_factory.mktemp("made") / "model", StringIO()
    sizes = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    with redirect_stdout(printed):
        options = ["--steps", "12", "--batch", "8", "--device", "cpu", "--out", str(out)]
        assert cli.main(["pretrain", "--corpus", "toy", *options, *sizes]) == 0
    return out, printed.getvalue()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """An unfinished run, and what was printed: Ctrl-C arrived while step 5 was made."""
    out, printed, original, done = tmp_path_factory.mktemp("stopped") / "run", StringIO(), loop.linear_schedule, []

    def schedule(now, *rest):
        if now == 5 and not done:
            done.append(now)
            signal.raise_signal(signal.SIGINT)
        return original(now, *rest)

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(loop, "linear_schedule", schedule)
        assert toy(out) is None
    return out, printed.getvalue()


@pytest.fixture
def copy(made, tmp_path):
    """A copy of the checkpoint that a test may damage."""
    return shutil.copytree(made[0], tmp_path / "copy")


@pytest.fixture
def unfinished(stopped, tmp_path):
    """A copy of the unfinished run."""
    return shutil.copytree(stopped[0], tmp_path / "unfinished")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_weights(folder, other):
    ours, theirs = (load(each).model.state_dict() for each in (folder, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_the_command_says_where_the_model_is_and_load_gives_it_and_its_tokenizer(made):
    folder, printed = made
    assert "Held-out loss" in printed and str(folder / CARD) in printed
    assert sorted(path.name for path in folder.iterdir()) == sorted(MODEL)
    model, tokenizer = load(folder)
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    ids = torch.tensor([tokenizer.encode("the cook praises the waiter in the kitchen")])
    assert model(ids).shape == (1, 10, tokenizer.vocab_size)
    assert model.encoder.config == EncoderConfig(vocab_size=tokenizer.vocab_size, **SMALL)


def test_the_card_tells_how_the_model_was_made(made):
    card = read_card(made[0])
    assert card["corpus"]["name"] == "toy" and len(card["corpus"]["fingerprint"]["sha256"]) == 64
    said = card["training"]
    assert (said["steps"], said["batch"], said["seed"], said["rate"], said["preset"]) == (12, 8, 0, 0.3, "tiny")
    assert said["tokens_seen"] > 12 * 8 * 8 and said["curve"][-1]["step"] == 12
    assert set(card["versions"]) == {"nextbert-lite", "torch", "tokenizers"}
    assert card["parameters"] == sum(p.numel() for p in load(made[0]).model.parameters())
    assert {"loss", "sample_loss", "gap_to_floor", "gap_standard_error", "masking_rate"} <= set(card["held_out"])


def test_the_cards_figures_are_those_of_the_stored_weights(made):
    again = held_out(load(made[0]).model, pretraining.toy_corpus(20))
    told = read_card(made[0])["held_out"]
    assert again.pop("skills") == told.pop("skills") and again == pytest.approx(told, abs=1e-9)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(made, tmp_path, monkeypatch):
    real = pretraining.held_out

    def measured(model, source):  # the card is measured on the weights as they are stored, in float16
        assert all(torch.equal(p, p.half().float()) for p in model.parameters())
        return real(model, source)

    monkeypatch.setattr(pretraining, "held_out", measured)
    toy(tmp_path / "same")
    toy(tmp_path / "other", seed=1)
    assert same_weights(tmp_path / "same", made[0]) and not same_weights(tmp_path / "other", made[0])


def test_texts_are_cut_into_pieces_without_losing_a_token():
    texts = ["word " * n for n in (3, 50, 61)]
    tokenizer = train_bpe(texts, 270)
    whole = [ids[1:-1] for ids in tokenizer.encode_batch(texts)]
    found = pieces(texts, tokenizer, max_len=12)
    assert all(len(piece) <= 12 and piece[0] == 2 and piece[-1] == 3 for piece in found)
    kept = [i for piece in found for i in piece[1:-1]]
    lost = sum(map(len, whole)) - len(kept)
    assert 0 <= lost < len(texts) * pretraining.LEAST  # only ends that are too short


def test_text_files_are_a_corpus_and_no_paragraph_is_in_two_parts(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    colours = "quick slow red old".split()
    notes = [f"Note {i}: the {colours[i % 4]} fox number {i} jumps over dog {i * 7}." for i in range(200)]
    (folder / "one.txt").write_text("\n\n".join(notes[:120]), encoding="utf-8")
    (folder / "two.txt").write_text("\n\n".join(notes[100:]), encoding="utf-8")  # twenty of them twice
    card = pretrain(str(folder), tmp_path / "out", changes=SMALL, steps=3, batch=8, vocab_size=300, device="cpu")
    assert card["corpus"]["name"] == "file"
    kept = set(card["corpus"]["train_hashes"])
    assert 120 < len(kept) < 190 and kept <= {text_hash(note) for note in notes}
    model, tokenizer = load(tmp_path / "out")
    assert tokenizer.vocab_size == 300 and model.encoder.config.vocab_size == 300


def note(i):
    return f"Note {i}: the {'quick slow red old'.split()[i % 4]} fox number {i} jumps over dog {i * 7}."


def corpus_of(path, *texts, **options):
    for number, text in enumerate(texts):
        (path / f"{number}.txt").write_text(text, encoding="utf-8", newline="")
    return pretraining.file_corpus(path, 40, 300, **options)


NOTES = [note(i) for i in range(200)]
LONG = " ".join(NOTES[:8])


@pytest.mark.parametrize("parting", ["\n\n", "\n \n", "\n\t\n \n", "\r\n\r\n", "\r\n \r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff", " \n"])
def test_paragraphs_are_the_same_however_blank_lines_and_the_beginning_are_written(tmp_path, parting, start):
    corpus = corpus_of(tmp_path, start + parting.join(NOTES))
    hashes = {text_hash(text): text for text in NOTES}
    assert set(corpus.train_hashes) == {h for h in hashes if int(h, 16) % 10 > 1}
    assert corpus.about.startswith("read 200 paragraphs in 1 file; left out 0 repeated")


def test_each_line_is_a_text_when_told_and_what_was_left_out_is_said(tmp_path, capsys):
    lines = [*NOTES, *NOTES[:30], "too", "short"]
    text = "\r\n".join(lines) + "\r\n\r\n"
    corpus = corpus_of(tmp_path, text, LONG, lines=True)
    whole = {h: note for note in [*NOTES, LONG] if int(h := text_hash(note), 16) % 10 > 1}
    assert corpus.about.startswith(
        f"read 233 lines in 2 files; left out 30 repeated and 2 shorter than 8 tokens; cut the others into "
        f"{corpus.pieces} pieces: {len(whole)} texts, "
    )
    each = [corpus.tokenizer.encode_batch([text])[0][1:-1] for text in {*NOTES, LONG}]
    ends = [len(ids) % 38 for ids in each]
    assert corpus.pieces == sum(len(ids) // 38 for ids in each) + sum(end >= 8 for end in ends) > 201
    sizes = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    command = ["pretrain", "--corpus", str(tmp_path / "0.txt"), "--steps", "2", "--out", str(tmp_path / "out"), *sizes]
    assert cli.main(command) == 2 and "has 1 different paragraphs" in capsys.readouterr().err
    assert cli.main([*command, "--lines", "--vocab", "300"]) == 0
    assert "read 232 lines in 1 file; left out 30 repeated and 2 shorter" in capsys.readouterr().out
    assert read_card(tmp_path / "out")["corpus"]["about"].startswith("read 232 lines")


def test_text_files_count_whatever_the_case_of_their_ending(tmp_path):
    folder = tmp_path / "below" / "notes.txt"
    folder.mkdir(parents=True)
    for name in ("a.txt", "B.TXT", "c.Txt", "d.md"):
        (folder / name).write_text("text")
    assert [file.name for file in pretraining.text_files(tmp_path)] == ["B.TXT", "a.txt", "c.Txt"]


def test_text_files_behind_a_link_to_a_folder_count_once(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "notes" / "below").mkdir(parents=True)
    for file in ("elsewhere/a.txt", "notes/b.txt", "notes/below/c.txt"):
        (tmp_path / file).write_text("text")
    (tmp_path / "notes" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "notes" / "below" / "again").symlink_to(tmp_path / "notes")  # a circle
    found = [file.name for file in pretraining.text_files(tmp_path / "notes")]
    assert sorted(found) == ["a.txt", "b.txt", "c.txt"]


@pytest.mark.parametrize("minutes", [0, -2, math.inf, math.nan, "2"])
def test_a_time_that_is_none_is_refused_before_the_corpus_is_read(minutes, tmp_path, capsys):
    with pytest.raises(ValueError, match=f"minutes is {minutes!r}; a training time is more than 0 and finite"):
        pretrain("toy", tmp_path / "out", minutes=minutes)
    assert not (tmp_path / "out").exists() and capsys.readouterr().out == ""


def test_a_folder_and_a_file_that_may_not_be_read_are_errors_that_name_them(tmp_path, monkeypatch, capsys):
    """By a system that refuses: the administrator, who runs these tests in places, may read everything."""
    closed = tmp_path / "notes" / "closed"
    closed.mkdir(parents=True)
    (tmp_path / "notes" / "a.txt").write_text("\n\n".join(NOTES), encoding="utf-8")
    command = ["pretrain", "--corpus", str(tmp_path / "notes"), "--steps", "2", "--out", str(tmp_path / "out")]

    def refusing(function, refused):
        def call(path, *rest):
            if os.fspath(path) == os.fspath(refused):
                raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
            return function(path, *rest)

        return call

    for owner, name, refused in ((os, "scandir", closed), (Path, "read_bytes", tmp_path / "notes" / "a.txt")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refusing(getattr(owner, name), refused))
            patch.setattr(os, "access", lambda path, mode, r=refused: not (mode & os.R_OK and path == r))
            assert cli.main(command) == 1
            said = capsys.readouterr().err
            assert f"'{refused}': this may not be read by you" in said and "written" not in said


def test_what_may_not_be_read_and_what_may_not_be_written_are_told_apart(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    denied = partial(PermissionError, errno.EACCES, "Permission denied")
    assert "may not be written by you" in cli.sentence(denied(str(tmp_path / "file")))
    assert "may not be written by you" in cli.sentence(denied(str(tmp_path / "new" / "file")))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for path in ("file", "new/file"):  # the second lies in a folder that may not be entered
        assert "may not be read by you" in cli.sentence(denied(str(tmp_path / path)))


# --- interruptions ----------------------------------------------------------------------------------------------------


def test_after_ctrl_c_the_same_command_ends_with_the_same_weights(made, stopped, unfinished, capsys):
    assert "Stopped at step 6 of 12" in stopped[1]
    assert sorted(p.name for p in unfinished.iterdir()) == sorted([RUN, TRAINING])
    toy(unfinished)
    assert "Going on with the unfinished run" in capsys.readouterr().out
    assert same_weights(unfinished, made[0])


def test_a_run_in_minutes_goes_on_with_the_steps_it_began_with(made, tmp_path, monkeypatch):
    out, fit = tmp_path / "model", pretraining.fit
    monkeypatch.setattr(pretraining, "steps_in", lambda *a, **more: 12)
    monkeypatch.setattr(pretraining, "fit", partial(fit, stop_after=0.0))
    assert toy(out, steps=None, minutes=0.02) is None
    monkeypatch.setattr(pretraining, "steps_in", lambda *a, **more: 999)
    monkeypatch.setattr(pretraining, "fit", fit)
    assert toy(out, steps=None, minutes=0.02)["training"]["steps"] == 12
    assert same_weights(out, made[0])


def test_minutes_become_steps_by_a_trial_that_leaves_the_model_as_it_was():
    corpus = pretraining.toy_corpus(20)
    model = MaskedLanguageModel(Encoder(EncoderConfig(vocab_size=corpus.tokenizer.vocab_size, **SMALL)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert pretraining.steps_in(model, corpus.training(8, 0.3, 0), 1e-9) == 10  # never less
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_up_in_training_leaves_the_last_checkpoint_and_the_run_goes_on(made, tmp_path, monkeypatch):
    out, save, saved = tmp_path / "model", safetensors.torch.save_file, []

    def full_at_the_third(*arguments):
        saved.append(arguments)
        if len(saved) == 3:
            raise NO_SPACE
        save(*arguments)

    monkeypatch.setattr(safetensors.torch, "save_file", full_at_the_third)
    with pytest.raises(OSError, match=r"could not write .* An older file of that name is as it was"):
        toy(out, checkpoint_every=3)
    assert sorted(p.name for p in out.iterdir()) == sorted([RUN, TRAINING])
    toy(out, checkpoint_every=3)
    assert len(saved) == 3 + 3  # it went on from step 6: after 9, after 12, and the model
    assert same_weights(out, made[0])


def test_a_disk_that_is_full_at_the_end_leaves_the_old_model_whole_and_the_same_command_only_writes(copy, monkeypatch):
    before, writing = contents(copy), files.writing
    for name in MODEL:

        def full(path, name=name):
            if path.name.startswith(name):
                raise NO_SPACE
            return writing(path)

        with monkeypatch.context() as patch:
            patch.setattr(files, "writing", full)
            with pytest.raises(OSError, match="No space left"):
                toy(copy, seed=3, replace=True)
        assert before.items() < contents(copy).items()
        assert load(copy)
        monkeypatch.setattr(loop, "linear_schedule", lambda *_: pytest.fail("trained again"))
    toy(copy, seed=3, replace=True)
    assert contents(copy).keys() == before.keys() and contents(copy) != before


def test_what_a_killed_process_left_half_written_is_no_obstacle(made, unfinished, tmp_path):
    half = unfinished / f".{TRAINING}.123.part"
    half.write_bytes(b"half a checkpoint")
    toy(unfinished)
    assert sorted(path.name for path in unfinished.iterdir()) == sorted(MODEL)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / f".{RUN}.123.part").write_text("{")
    toy(tmp_path / "new")
    assert same_weights(unfinished, made[0]) and same_weights(tmp_path / "new", made[0])


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(copy, unfinished, monkeypatch):
    """A folder to work in: with a model, an unfinished run, and texts that are no corpus."""
    monkeypatch.chdir(copy.parent)
    (copy.parent / "two.txt").write_text("One paragraph.\n\nAnd another.", encoding="utf-8")
    (copy.parent / "latin.txt").write_bytes(b"caf\xe9 " * 100)
    (copy.parent / "empty").mkdir()
    (copy.parent / "thesis").mkdir()
    (copy.parent / "thesis" / "thesis.docx").write_text("years of work")
    return copy.parent


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"corpus": "nowhere"}, FileNotFoundError, "there is no corpus 'nowhere': give toy, docs"),
        (
            {"corpus": "two.txt"},
            ValueError,
            "has 2 different paragraphs .* each line is a text of its own, say --lines",
        ),
        ({"corpus": "two.txt", "lines": True}, ValueError, "has 2 different lines; a corpus needs some hundreds.$"),
        ({"lines": True}, ValueError, "lines is for text files of your own; the corpus toy has none"),
        ({"corpus": "latin.txt"}, ValueError, r"is not utf-8: byte 0xe9 in line 1 .* Save the file as UTF-8\.$"),
        ({"corpus": "empty"}, ValueError, r"has no \.txt file"),
        ({"preset": "huge"}, ValueError, "there is no preset 'huge'; choose one of tiny, small, base, modern-tiny"),
        ({"minutes": 1.0}, ValueError, "either minutes or steps"),
        ({"steps": None}, ValueError, "either minutes or steps"),
        ({"changes": {"wings": 2}}, ValueError, "wings is no field"),
        ({"changes": {"vocab_size": 2}}, ValueError, "vocab_size is no field .* that can be set"),
        ({"changes": {"heads": 3}}, ValueError, "heads is 3 at width 64"),
        ({"changes": {"max_len": 5}}, ValueError, "max_len is 5; it must be at least 10"),
        ({"changes": {"max_len": 12}}, ValueError, "max_len is 12; the toy world's sentences have up to 16"),
        ({"rate": 0.0}, ValueError, "rate is 0.0"),
        ({"lr": -1.0}, ValueError, "lr is -1.0; a learning rate is more than 0"),
        ({"steps": 0}, ValueError, "steps is 0; it must be a whole number of at least 1"),
        ({"device": "abacus"}, ValueError, "there is no device 'abacus'"),
        ({"out": "copy"}, FileExistsError, r"has a model already\. Name another folder, or say --replace"),
        ({"out": "thesis"}, FileExistsError, r"other files \(thesis.docx\)"),
        ({"out": "thesis/thesis.docx"}, FileExistsError, "is a file"),
        ({"out": "unfinished", "seed": 4}, ValueError, r"seed was 0, is now 4\. Repeat its command"),
        ({"out": "unfinished", "steps": 30}, ValueError, "steps was 12, is now 30"),
        (
            {"out": "unfinished", "changes": SMALL | {"layers": 2}},
            ValueError,
            "changes was .*'layers': 1.*, is now .*2",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_and_all_files_are_as_they_were(folder, options, error, words):
    before = contents(folder)
    with pytest.raises(error, match=words):
        pretrain(
            **{"corpus": "toy", "out": "new", "changes": SMALL, "steps": 12, "batch": 8, "device": "cpu", **options}
        )
    assert contents(folder) == before


def resealed(run, **changes):
    told = {name: value for name, value in run.items() if name != "sha256"} | changes
    return json.dumps(told | {"sha256": checkpoints.seal(told)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: "{", "is damaged; delete it to start anew"),
        (lambda run: "[]", "is damaged; delete it to start anew"),
        (lambda run: resealed(run, options=None), "is damaged; delete it to start anew"),
        (lambda run: resealed(run, more=1), "is damaged; delete it to start anew"),
        (lambda run: json.dumps(run | {"steps": 13}), "is damaged; delete it to start anew"),
        (
            lambda run: resealed(run, fingerprint={"sha256": "0"}),
            "the corpus has changed since the run .* began",
        ),
    ],
)
def test_an_unfinished_run_that_cannot_go_on_is_refused(unfinished, change, words):
    (unfinished / RUN).write_text(change(json.loads((unfinished / RUN).read_text())))
    with pytest.raises(ValueError, match=words):
        toy(unfinished)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the administrator may write everywhere")
def test_an_output_folder_that_cannot_be_written_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        toy(tmp_path / "model")


# --- loading ----------------------------------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_shipped_checkpoints_and_an_unfinished_run_is_told(stopped):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 'gpt-9'.*Shipped: .*toy-small.*pretrain"):
        load("gpt-9")
    with pytest.raises(FileNotFoundError, match="There is an unfinished run: repeat its command"):
        load(stopped[0])


def test_a_folder_here_is_not_taken_for_the_shipped_checkpoint_of_its_name(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load("toy-small")
    shutil.copytree(copy, "toy-small")
    with pytest.raises(
        ValueError, match=r"toy-small is a shipped checkpoint and a folder here: give \./toy-small for yours"
    ):
        load("toy-small")
    assert load("./toy-small") and load(Path("toy-small").resolve())


def test_a_published_model_is_never_overwritten(copy, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / WEIGHTS).write_bytes(b"published")
    with pytest.raises(FileExistsError, match="holds a published model, whose weights would be lost"):
        checkpoints.save(tmp_path, *load(copy), {"name": "mine"})
    assert (tmp_path / WEIGHTS).read_bytes() == b"published"


def edited(folder, **changes):
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    for name, value in changes.items():
        card[name] = card[name] | value if isinstance(value, dict) else value
    del card["sha256"]
    (folder / CARD).write_text(json.dumps(card | {"sha256": checkpoints.seal(card)}), encoding="utf-8")


def cut(name, end):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:end])


def card_text(text):
    return lambda folder: (folder / CARD).write_text(text)


def other_weights(write):
    """Weights of another kind under a card that says they are right."""

    def damage(folder):
        write({"a": torch.ones(1)}, folder / WEIGHTS)
        edited(folder, files={WEIGHTS: files.file_hash(folder / WEIGHTS)})

    return damage


MISSING = "is missing, damaged, or not the one that card.json describes"
NO_CARD = "is damaged, or no card of a checkpoint"
UNFIT = "do not fit the configuration in its card"
DAMAGES = {
    **{f"{name} to {n}": (cut(name, n), f"{name} {MISSING}") for name in (WEIGHTS, TOKENIZER) for n in (-10, 100, 0)},
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), f"{WEIGHTS} {MISSING}"),
    "no tokenizer": (lambda folder: (folder / TOKENIZER).unlink(), f"{TOKENIZER} {MISSING}"),
    **{f"{text!r} as card": (card_text(text), NO_CARD) for text in ("", "{", "[]", "{}", '{"format": "new"}')},
    "a newer format": (partial(edited, format=99), "has the format 99; this version reads up to 2"),
    "more layers": (partial(edited, config={"layers": 2}), UNFIT),
    "an unknown field": (partial(edited, config={"wings": 2}), UNFIT),
    "a pickle": (other_weights(torch.save), "is damaged, or no whole safetensors file"),
    "foreign weights": (other_weights(save_file), "is damaged, or was not written by the course"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_refused(copy, damage, words):
    damage(copy)
    with pytest.raises(ValueError, match=words):
        load(copy)


def test_a_checkpoint_of_another_grammar_says_so_in_one_line(copy, capsys):
    assert corpus_difference(read_card(copy)) is None
    edited(copy, corpus={"fingerprint": {"sha256": "0" * 64}})
    load(copy)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and "another grammar" in printed


def test_a_checkpoint_of_other_package_versions_says_which_in_one_line():
    def difference(**versions):
        fingerprint = checkpoints.installed_versions() | versions
        return corpus_difference({"name": "mine", "corpus": {"name": "docs", "fingerprint": fingerprint}})

    line = difference(numpy="0.9")
    assert "\n" not in line and "numpy 0.9 → " in line and "torch" not in line
    assert difference() is None


def test_unseen_leaves_out_what_was_trained_on_and_what_is_nearly_the_same(docs):
    trained = [d for d in docs.documents if d.library == "numpy"]
    card = {"corpus": {"train_hashes": [text_hash(d) for d in trained]}}
    kept = unseen(card, docs.test, docs)
    assert kept and {d.library for d in kept} < {"python", "torch", "numpy", "matplotlib"}
    assert not {text_hash(d) for d in kept} & set(card["corpus"]["train_hashes"])
    assert not any(near_duplicates([d.text for d in kept], [d.text for d in trained]))
    own = unseen({"corpus": {"train_hashes": docs.hashes("train")}}, docs.test, docs)
    assert 0.98 * len(docs.test) < len(own) <= len(docs.test)


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_process_of_its_own_says_in_one_line_that_there_is_a_model_already(made):
    command = [sys.executable, "-m", "nextbert_lite", "pretrain", "--corpus", "toy", "--steps", "3"]
    run = subprocess.run([*command, "--out", str(made[0])], capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.count("\n") == 1 and "--replace" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--steps 3", "--corpus"),
        ("--corpus toy", "--minutes --steps"),
        ("--corpus toy --steps 0", "'0' is not a whole number from 1 on"),
        (f"--corpus toy --steps 3 --seed {2**64}", "'184467440737095516…' is too large: a whole number of at most 18"),
        ("--corpus toy --steps 3 --rate 1.5", "'1.5' is not a share"),
        ("--corpus toy --steps 3 --lr -1", "'-1' is not a learning rate"),
        ("--corpus toy --steps 3 --set norm", "'norm' is not FIELD=VALUE"),
        ("--corpus toy --minutes nan", "'nan' is not a time"),
    ],
)
def test_the_command_refuses_wrong_arguments(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["pretrain", *arguments.split(), "--out", "x"])
    assert stop.value.code == 2 and words in capsys.readouterr().err


def test_settings_are_read_as_numbers_where_they_are_numbers():
    read = [cli.config_field(text) for text in ("max_len=64", "dropout=0.1", "norm=pre", "window=None", "gate=False")]
    assert read == [("max_len", 64), ("dropout", 0.1), ("norm", "pre"), ("window", None), ("gate", False)]


def test_a_modern_preset_is_pretrained_and_takes_the_fields_of_its_own_configuration(tmp_path, capsys):
    options = ["--steps", "4", "--batch", "8", "--device", "cpu", "--out", str(tmp_path / "model")]
    preset = ["--preset", "modern-tiny", "--set", "window=4", "--set", "width=16"]
    assert cli.main(["pretrain", "--corpus", "toy", *options, *preset]) == 0
    model, tokenizer = load(tmp_path / "model")
    assert model.encoder.config == ModernConfig.preset("modern-tiny", tokenizer.vocab_size, window=4, width=16)
    said = read_card(tmp_path / "model")["training"]
    assert (said["preset"], said["changes"], said["lr"]) == ("modern-tiny", {"window": 4, "width": 16}, 3e-3)
    assert cli.main(["pretrain", "--corpus", "toy", *options, *preset, "--replace", "--set", "positions=none"]) == 2
    assert "positions is no field of ModernConfig that can be set here" in capsys.readouterr().err


def test_a_run_that_diverges_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    def broken(*arguments, **options):
        raise FloatingPointError("training stopped at step 3: the loss is nan")

    monkeypatch.setattr(pretraining, "fit", broken)
    assert cli.main(["pretrain", "--corpus", "toy", "--steps", "3", "--out", str(tmp_path / "model")]) == 2
    assert capsys.readouterr().err.startswith("nextbert-lite: training stopped at step 3")


# --- the shipped checkpoints ------------------------------------------------------------------------------------------

SHIPPED = ["toy-small", "docs-small", "docs-contrastive"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_checkpoint_has_at_most_6_mb_and_its_files_are_whole(name, capsys):
    folder = checkpoints.find(name)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 6_000_000
    assert load(name).model.encoder.config.to_dict() == read_card(name)["config"]
    assert isinstance(load(name).tokenizer, Tokenizer)


def test_the_toy_checkpoints_figures_are_found_again(world):
    model, card = load("toy-small").model, read_card("toy-small")
    corpus = pretraining.toy_corpus(model.encoder.config.max_len)
    assert loop.held_out_loss(model, corpus.test, 8) == pytest.approx(card["held_out"]["sample_loss"], abs=1e-3)
    beside = compare(model, world, n=2500)
    assert (
        abs(beside.excess - card["held_out"]["gap_to_floor"]) < 4 * beside.standard_error
    )  # false alarms: 1 in 16,000
    assert card["held_out"]["gap_to_floor"] < 0.03


def test_the_documentation_checkpoints_loss_is_found_again_on_texts_it_never_saw(docs):
    model, tokenizer = load("docs-small")
    card = read_card("docs-small")
    same_texts = docs.fingerprint == card["corpus"]["fingerprint"]
    if same_texts:
        assert docs.hashes("train") == card["corpus"]["train_hashes"]
    texts = [d.text for d in (docs.test if same_texts else unseen(card, docs.test, docs))]
    parts = pieces(texts, tokenizer, model.encoder.config.max_len)
    batches = pretraining.MLMBatches(parts, tokenizer, 64, 0.15, pretraining.HELD_OUT_SEED, copies=1)
    found = loop.held_out_loss(model, batches, 8)
    slack = 2e-3 if same_texts else 0.3
    assert found == pytest.approx(card["held_out"]["sample_loss"], abs=slack)
    assert int((batches(0)["labels"] != IGNORE).sum()) > 100
    assert card["held_out"]["loss"] < 0.5 * card["held_out"]["ln_V"]
