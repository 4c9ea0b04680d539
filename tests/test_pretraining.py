"""`nextbert-lite pretrain`: from a corpus to a checkpoint, through interruptions, full disks and wrong arguments."""

import errno
import json
import os
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from nextbert_lite import load
from nextbert_lite.core.encoder import EncoderConfig
from nextbert_lite.core.masking import IGNORE
from nextbert_lite.corpora.bayes import compare
from nextbert_lite.corpora.python_docs import load_docs, near_duplicates, text_hash
from nextbert_lite.course import cli, pretraining
from nextbert_lite.course.pretraining import held_out, pretrain, toy_corpus
from nextbert_lite.course.runs import RUN, TRAINING
from nextbert_lite.training import loop
from nextbert_lite.training.batches import pieces
from nextbert_lite.training.tokenizer import Tokenizer, train_bpe
from nextbert_lite.use import checkpoints
from nextbert_lite.use.checkpoints import CARD, TOKENIZER, WEIGHTS, corpus_difference, read_card, unseen

SMALL = {"width": 16, "layers": 1, "heads": 2, "ffn_width": 32, "max_len": 20}


@pytest.fixture(autouse=True)
def few_sentences(monkeypatch):
    """The gap on fewer sentences, so that a test takes a second."""
    monkeypatch.setattr(pretraining, "compare", partial(compare, n=250))


def toy(out, steps=12, **options):
    return pretrain("toy", out, changes=SMALL, steps=steps, batch=8, device="cpu", **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished toy checkpoint."""
    out = tmp_path_factory.mktemp("made") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "compare", partial(compare, n=250))
        toy(out)
    return out


@pytest.fixture
def copy(made, tmp_path):
    """A copy of it that a test may damage."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in (WEIGHTS, TOKENIZER, CARD):
        (folder / name).write_bytes((made / name).read_bytes())
    return folder


def weights(folder):
    return load(folder).model.state_dict()


def interrupt_at(step, monkeypatch):
    """Let Ctrl-C arrive once, while this step is made."""
    original, done = loop.linear_schedule, []

    def schedule(now, *rest):
        if now == step and not done:
            done.append(now)
            signal.raise_signal(signal.SIGINT)
        return original(now, *rest)

    monkeypatch.setattr(loop, "linear_schedule", schedule)


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_the_folder_holds_three_files_and_load_gives_model_and_tokenizer(made):
    assert sorted(path.name for path in made.iterdir()) == sorted([CARD, WEIGHTS, TOKENIZER])
    model, tokenizer = load(made)
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    ids = torch.tensor([tokenizer.encode("the cook praises the waiter in the kitchen")])
    assert model(ids).shape == (1, 10, tokenizer.vocab_size)
    assert model.encoder.config == EncoderConfig(vocab_size=tokenizer.vocab_size, **SMALL)


def test_the_card_tells_how_the_model_was_made(made):
    card = read_card(made)
    assert card["corpus"]["name"] == "toy" and len(card["corpus"]["fingerprint"]["sha256"]) == 64
    said = card["training"]
    assert (said["steps"], said["batch"], said["seed"], said["rate"], said["preset"]) == (12, 8, 0, 0.3, "tiny")
    assert said["tokens_seen"] > 12 * 8 * 8 and said["curve"][-1]["step"] == 12
    assert set(card["versions"]) == {"nextbert-lite", "torch", "tokenizers"}
    assert card["parameters"] == sum(p.numel() for p in load(made).model.parameters())
    assert {"loss", "sample_loss", "gap_to_floor", "gap_standard_error", "masking_rate"} <= set(card["held_out"])


def test_the_cards_figures_are_those_of_the_stored_weights(made):
    again = held_out(load(made).model, toy_corpus(20))
    assert again == pytest.approx(read_card(made)["held_out"], abs=1e-9)


def test_the_card_is_measured_on_the_weights_as_they_are_stored(tmp_path, monkeypatch):
    real = pretraining.held_out

    def measured(model, source):
        assert all(torch.equal(p, p.half().float()) for p in model.parameters())  # float16 holds them exactly
        return real(model, source)

    monkeypatch.setattr(pretraining, "held_out", measured)
    toy(tmp_path / "model")


def test_the_same_seed_gives_the_same_weights_and_another_one_others(made, tmp_path):
    toy(tmp_path / "same")
    toy(tmp_path / "other", seed=1)
    for name, tensor in weights(made).items():
        torch.testing.assert_close(weights(tmp_path / "same")[name], tensor, rtol=0, atol=0)
    assert not torch.equal(weights(tmp_path / "other")["head.dense.weight"], weights(made)["head.dense.weight"])


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
    paragraphs = [
        f"Note {i}: the {'quick slow red old'.split()[i % 4]} fox number {i} jumps over dog {i * 7}."
        for i in range(200)
    ]
    (folder / "one.txt").write_text("\n\n".join(paragraphs[:120]), encoding="utf-8")
    (folder / "two.txt").write_text("\n\n".join(paragraphs[100:]), encoding="utf-8")  # twenty of them twice
    card = pretrain(str(folder), tmp_path / "out", changes=SMALL, steps=3, batch=8, vocab_size=300, device="cpu")
    assert card["corpus"]["name"] == "file"
    kept = set(card["corpus"]["train_hashes"])
    assert 120 < len(kept) < 190 and kept <= {text_hash(p) for p in paragraphs}
    model, tokenizer = load(tmp_path / "out")
    assert tokenizer.vocab_size == 300 and model.encoder.config.vocab_size == 300


# --- interruptions ----------------------------------------------------------------------------------------------------


def test_after_ctrl_c_the_same_command_ends_with_the_same_weights(made, tmp_path, monkeypatch, capsys):
    out = tmp_path / "model"
    interrupt_at(5, monkeypatch)
    assert toy(out) is None
    assert "Stopped at step 6 of 12" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == sorted([RUN, TRAINING])
    toy(out)
    assert "Going on with the unfinished run" in capsys.readouterr().out
    for name, tensor in weights(made).items():
        torch.testing.assert_close(weights(out)[name], tensor, rtol=0, atol=0)


def test_an_unfinished_run_with_other_settings_is_named_and_left_alone(tmp_path, monkeypatch):
    interrupt_at(5, monkeypatch)
    toy(tmp_path / "model")
    before = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}
    with pytest.raises(ValueError, match=r"seed was 0, is now 4\. Repeat its command"):
        toy(tmp_path / "model", seed=4)
    with pytest.raises(ValueError, match="steps was 12, is now 30"):
        toy(tmp_path / "model", steps=30)
    with pytest.raises(ValueError, match=r"changes was .*'layers': 1.*, is now .*'layers': 2"):
        pretrain("toy", tmp_path / "model", changes=SMALL | {"layers": 2}, steps=12, batch=8, device="cpu")
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before


def test_a_run_in_minutes_goes_on_with_the_steps_it_began_with(tmp_path, monkeypatch):
    out = tmp_path / "model"
    options = {"changes": SMALL, "minutes": 0.02, "batch": 8, "device": "cpu"}
    monkeypatch.setattr(pretraining, "steps_in", lambda *a: 9)
    interrupt_at(4, monkeypatch)
    assert pretrain("toy", out, **options) is None
    monkeypatch.setattr(pretraining, "steps_in", lambda *a: 999)
    assert pretrain("toy", out, **options)["training"]["steps"] == 9


def test_minutes_become_steps_by_a_trial_that_leaves_the_model_as_it_was(tmp_path):
    corpus = toy_corpus(20)
    torch.manual_seed(0)
    model = pretraining.MaskedLanguageModel(
        pretraining.Encoder(EncoderConfig(vocab_size=corpus.tokenizer.vocab_size, **SMALL))
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert pretraining.steps_in(model, corpus.training(8, 0.3, 0), 1e-9) == 10  # never less
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_disk_that_fills_up_in_training_leaves_the_last_checkpoint_and_the_run_goes_on(made, tmp_path, monkeypatch):
    out, real, writes = tmp_path / "model", loop.save_file, []

    def full_at_the_third(tensors, path, metadata=None):
        writes.append(path)
        if len(writes) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(tensors, path, metadata)

    monkeypatch.setattr(loop, "save_file", full_at_the_third)
    with pytest.raises(OSError, match=r"could not write .* An older file of that name is as it was"):
        toy(out, checkpoint_every=3)
    assert sorted(p.name for p in out.iterdir()) == sorted([RUN, TRAINING])
    toy(out, checkpoint_every=3)
    for name, tensor in weights(made).items():
        torch.testing.assert_close(weights(out)[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("failing", [WEIGHTS, TOKENIZER, CARD])
def test_a_disk_that_is_full_at_the_end_leaves_the_old_model_whole(copy, failing, monkeypatch):
    before = {name: (copy / name).read_bytes() for name in (WEIGHTS, TOKENIZER, CARD)}
    real_text, real_weights = checkpoints.write_text, checkpoints.write_safetensors

    def text(path, content):
        if path.name.startswith(failing):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real_text(path, content)

    def tensors(path, *rest):
        if path.name.startswith(failing):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real_weights(path, *rest)

    monkeypatch.setattr(checkpoints, "write_text", text)
    monkeypatch.setattr(checkpoints, "write_safetensors", tensors)
    with pytest.raises(OSError, match="No space left"):
        toy(copy, seed=3, replace=True)
    assert {name: (copy / name).read_bytes() for name in before} == before
    assert load(copy)
    monkeypatch.undo()
    toy(copy, seed=3, replace=True)  # the training was not lost: the same command only writes
    assert (copy / WEIGHTS).read_bytes() != before[WEIGHTS]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"corpus": "nowhere"}, FileNotFoundError, "there is no corpus 'nowhere': give toy, docs"),
        ({"preset": "huge"}, ValueError, "there is no preset 'huge'; choose one of tiny, small, base"),
        ({"minutes": 1.0}, ValueError, "either minutes or steps"),
        ({"steps": None}, ValueError, "either minutes or steps"),
        ({"changes": {"wings": 2}}, ValueError, "wings is no field"),
        ({"changes": {"vocab_size": 2}}, ValueError, "vocab_size is no field .* that can be set"),
        ({"changes": {"heads": 3}}, ValueError, "heads is 3 at width 64"),
        ({"changes": {"max_len": 5}}, ValueError, "max_len is 5; it must be at least 10"),
        ({"changes": {"max_len": 12}}, ValueError, "max_len is 12; the toy world's sentences have up to 16"),
        ({"rate": 0.0}, ValueError, "rate is 0.0"),
        ({"device": "abacus"}, ValueError, "there is no device 'abacus'"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_written(tmp_path, changes, error, words):
    options = {"corpus": "toy", "out": tmp_path / "model", "steps": 3, **changes}
    with pytest.raises(error, match=words):
        pretrain(**options)
    assert not (tmp_path / "model").exists() or not (tmp_path / "model" / CARD).exists()


def test_a_finished_model_is_not_overwritten_unless_asked(copy):
    before = (copy / WEIGHTS).read_bytes()
    with pytest.raises(FileExistsError, match=r"has a model already\. Name another folder, or say --replace"):
        toy(copy)
    assert (copy / WEIGHTS).read_bytes() == before


def test_a_folder_with_other_files_and_a_file_in_its_place_are_refused(tmp_path):
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"other files \(thesis.docx\)"):
        toy(tmp_path)
    with pytest.raises(FileExistsError, match="is a file"):
        toy(tmp_path / "thesis.docx")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the administrator may write everywhere")
def test_an_output_folder_that_cannot_be_written_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        toy(tmp_path / "model")


def test_a_text_corpus_that_is_too_small_or_not_text_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("One paragraph.\n\nAnd another.", encoding="utf-8")
    with pytest.raises(ValueError, match="has 2 different paragraphs"):
        pretrain(str(tmp_path / "a.txt"), tmp_path / "out", steps=2)
    (tmp_path / "b.txt").write_bytes(b"caf\xe9 " * 100)
    with pytest.raises(ValueError, match="is not text in UTF-8"):
        pretrain(str(tmp_path / "b.txt"), tmp_path / "out", steps=2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no \.txt file"):
        pretrain(str(tmp_path / "empty"), tmp_path / "out", steps=2)


# --- loading ----------------------------------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_shipped_checkpoints_and_an_unfinished_run_is_told(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 'gpt-9'.*Shipped: .*toy-small.*pretrain"):
        load("gpt-9")
    interrupt_at(2, monkeypatch)
    toy(tmp_path / "half")
    with pytest.raises(FileNotFoundError, match="There is an unfinished run: repeat its command"):
        load(tmp_path / "half")


@pytest.mark.parametrize("file", [WEIGHTS, TOKENIZER])
def test_a_truncated_a_missing_and_a_foreign_file_are_refused(copy, file):
    whole = (copy / file).read_bytes()
    for content in (whole[:-10], whole[:100], b""):
        (copy / file).write_bytes(content)
        with pytest.raises(ValueError, match=f"{file} is missing, damaged, or not the one"):
            load(copy)
    (copy / file).unlink()
    with pytest.raises(ValueError, match=f"{file} is missing, damaged"):
        load(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "new"}'])
def test_a_damaged_card_is_refused(copy, text):
    (copy / CARD).write_text(text)
    with pytest.raises(ValueError, match="is no card of a checkpoint"):
        load(copy)


def edited(folder, **changes):
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    (folder / CARD).write_text(json.dumps(card | changes), encoding="utf-8")
    return card


def test_a_card_of_a_newer_format_is_refused(copy):
    edited(copy, format=99)
    with pytest.raises(ValueError, match="has the format 99; this version reads up to 1"):
        load(copy)


def test_weights_of_another_architecture_are_refused(copy):
    card = read_card(copy)
    edited(copy, config=card["config"] | {"layers": 2})
    with pytest.raises(ValueError, match="does not fit the configuration"):
        load(copy)
    edited(copy, config=card["config"] | {"wings": 2})
    with pytest.raises(ValueError, match="does not fit the configuration"):
        load(copy)


def test_a_pickle_in_place_of_safetensors_is_refused_without_running_it(copy):
    torch.save({"a": torch.ones(1)}, copy / WEIGHTS)
    edited(copy, files=read_card(copy)["files"] | {WEIGHTS: checkpoints.file_hash(copy / WEIGHTS)})
    with pytest.raises(ValueError, match="does not fit"):
        load(copy)
    save_file({"a": torch.ones(1)}, copy / WEIGHTS)
    edited(copy, files=read_card(copy)["files"] | {WEIGHTS: checkpoints.file_hash(copy / WEIGHTS)})
    with pytest.raises(ValueError, match="does not fit"):
        load(copy)


def test_a_checkpoint_of_another_grammar_says_so_in_one_line(copy, capsys):
    card = read_card(copy)
    assert corpus_difference(card) is None
    edited(copy, corpus=card["corpus"] | {"fingerprint": {"sha256": "0" * 64}})
    load(copy)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and "another grammar" in printed


def test_a_checkpoint_of_other_package_versions_says_which_in_one_line(capsys):
    corpus = {"name": "docs", "fingerprint": checkpoints.installed_versions() | {"numpy": "0.9"}}
    line = corpus_difference({"name": "mine", "corpus": corpus})
    assert "\n" not in line and "numpy 0.9 → " in line and "torch" not in line
    assert (
        corpus_difference({"name": "mine", "corpus": corpus | {"fingerprint": checkpoints.installed_versions()}})
        is None
    )


def test_unseen_leaves_out_what_was_trained_on_and_what_is_nearly_the_same():
    docs = load_docs()
    trained = [d for d in docs.documents if d.library == "numpy"]
    card = {"corpus": {"train_hashes": [text_hash(d) for d in trained]}}
    kept = unseen(card, docs.test, docs)
    assert kept and {d.library for d in kept} < {"python", "torch", "numpy", "matplotlib"}
    assert not {text_hash(d) for d in kept} & set(card["corpus"]["train_hashes"])
    assert not any(near_duplicates([d.text for d in kept], [d.text for d in trained]))
    own = unseen({"corpus": {"train_hashes": docs.hashes("train")}}, docs.test, docs)
    assert 0.98 * len(docs.test) < len(own) <= len(docs.test)


# --- the command ------------------------------------------------------------------------------------------------------


def command(*arguments):
    run = [sys.executable, "-m", "nextbert_lite", "pretrain", *map(str, arguments)]
    return subprocess.run(run, capture_output=True, text=True, env={**os.environ, "TQDM_DISABLE": "1"})


def test_the_command_trains_and_says_where_the_model_is(tmp_path):
    sizes = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    run = command("--corpus", "toy", "--steps", 3, "--batch", 8, "--out", tmp_path / "model", *sizes)
    assert run.returncode == 0, run.stderr
    assert "Held-out loss" in run.stdout and str(tmp_path / "model" / CARD) in run.stdout
    again = command("--corpus", "toy", "--steps", 3, "--out", tmp_path / "model")
    assert again.returncode == 1 and again.stderr.count("\n") == 1 and "--replace" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "3", "--out", "x"], "--corpus"),
        (["--corpus", "toy", "--out", "x"], "--minutes --steps"),
        (["--corpus", "toy", "--steps", "0", "--out", "x"], "'0' is not a whole number from 1 on"),
        (["--corpus", "toy", "--steps", "3", "--rate", "1.5", "--out", "x"], "'1.5' is not a share"),
        (["--corpus", "toy", "--steps", "3", "--lr", "-1", "--out", "x"], "'-1' is not a learning rate"),
        (["--corpus", "toy", "--steps", "3", "--set", "norm", "--out", "x"], "'norm' is not FIELD=VALUE"),
        (["--corpus", "toy", "--minutes", "nan", "--out", "x"], "'nan' is not a time"),
    ],
)
def test_the_command_refuses_wrong_arguments(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["pretrain", *arguments])
    assert stop.value.code == 2 and words in capsys.readouterr().err


def test_settings_are_read_as_numbers_where_they_are_numbers():
    assert [cli.config_field(text) for text in ("max_len=64", "dropout=0.1", "norm=pre")] == [
        ("max_len", 64),
        ("dropout", 0.1),
        ("norm", "pre"),
    ]


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


def test_the_toy_checkpoints_figures_are_found_again():
    corpus, card = toy_corpus(load("toy-small").model.encoder.config.max_len), read_card("toy-small")
    model = load("toy-small").model
    assert loop.held_out_loss(model, corpus.test, 8) == pytest.approx(card["held_out"]["sample_loss"], abs=1e-3)
    gap = compare(model, pretraining.ToyWorld(), n=2500)
    assert abs(gap.gap - card["held_out"]["gap_to_floor"]) < 4 * gap.standard_error  # false alarms: 1 in 16,000
    assert card["held_out"]["gap_to_floor"] < 0.03


def test_the_documentation_checkpoints_loss_is_found_again_on_texts_it_never_saw():
    model, tokenizer = load("docs-small")
    card, docs = read_card("docs-small"), load_docs()
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
