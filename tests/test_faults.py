"""Nothing lost, nothing silent: kills at every step of a write, damage in every region of every stored file."""

import hashlib
import io
import json
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from oracles import config, words
from safetensors.torch import save_file

from nextbert_lite import Classifier, SentenceEncoder, TextClassifier, files, load
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.corpora.harvest import Document
from nextbert_lite.course import documentation, runs
from nextbert_lite.training.loop import fit
from nextbert_lite.use import checkpoints
from nextbert_lite.use.search import Hit
from nextbert_lite.views.search_box import hits_html

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is killed in a copy of itself (fork)")
TOKENIZER = words(35)


def model(seed, kind=MaskedLanguageModel):
    torch.manual_seed(seed)
    encoder = Encoder(config())
    return TextClassifier(encoder, 3) if kind is TextClassifier else kind(encoder)


def save_masked(folder, seed):
    checkpoints.save(folder, model(seed), TOKENIZER, {"name": f"seed {seed}"})


def save_sentences(folder, seed):
    checkpoints.save(folder, model(seed, SentenceEncoder), TOKENIZER, {"name": f"seed {seed}"})


def save_classifier(folder, seed):
    Classifier(model(seed, TextClassifier), TOKENIZER, ("a", "b", "c"), temperature=1.0 + seed).save(folder)


def digest(module):
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in module.state_dict().values())).hexdigest()


def read(folder):
    """Return what a user gets of a folder: weights, and what the card says of them."""
    card = checkpoints.read_card(folder)
    if "labels" in card:
        loaded = Classifier.load(folder)
        return digest(loaded.model), loaded.temperature
    return digest(load(folder).model), card["name"]


def killed(act, step):
    """Run `act` in a copy of this process that is killed at the given step of its writing; return whether it was."""
    child = os.fork()
    if child == 0:
        count = 0

        def counting(real):
            def call(*arguments, **keywords):
                nonlocal count
                count += 1
                if count == step:
                    os._exit(9)  # like kill -9: no `finally`, no flush
                return real(*arguments, **keywords)

            return call

        for name in ("replace", "fsync"):
            setattr(os, name, counting(getattr(os, name)))
        try:
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


SAVERS = [save_masked, save_sentences, save_classifier]


@needs_fork
@pytest.mark.parametrize("save", SAVERS, ids=lambda save: save.__name__)
def test_a_kill_at_any_step_of_a_save_leaves_the_old_model_or_the_new_one_whole(save, tmp_path, tally):
    for name, seed in (("old", 1), ("new", 2)):
        save(tmp_path / name, seed)
    old, new, found, step = read(tmp_path / "old"), read(tmp_path / "new"), [], 0
    while True:
        step += 1
        folder = tmp_path / f"killed at {step}"
        shutil.copytree(tmp_path / "old", folder)
        if not killed(lambda folder=folder: save(folder, 2), step):
            break
        found.append(read(folder))
        save(folder, 2)  # and the same call repairs whatever lies there
        assert read(folder) == new
        assert sorted(p.name for p in folder.iterdir() if p.suffix != ".part") == sorted(
            [checkpoints.CARD, checkpoints.TOKENIZER, checkpoints.WEIGHTS]
        )
    assert set(found) == {old, new} and len(found) == 9  # two steps a file, and three moves
    tally("a kill at each step of a save", len(found), sum(left in (old, new) for left in found))


@needs_fork
def test_a_first_save_that_is_killed_leaves_no_model_that_could_be_taken_for_one(tmp_path):
    step = 1
    while killed(lambda step=step: save_masked(tmp_path / str(step), 1), step):
        folder = tmp_path / str(step)
        if step <= 6:
            with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
                load(folder)
        else:
            assert read(folder)[1] == "seed 1"
        step += 1
    assert step == 10


# --- damage -----------------------------------------------------------------------------------------------------------


def flip(content, position):
    """Return the bytes with one bit turned."""
    return content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]


def regions(content, n, seed=0):
    """Return n damaged copies: a bit turned in each of n parts of the file, and the file cut in the middle of one."""
    rng = random.Random(seed)
    size = len(content)
    yield content[: size // 2]
    for i in range(n):
        yield flip(content, rng.randrange(i * size // n, max(i * size // n + 1, (i + 1) * size // n)))


@pytest.mark.parametrize("save", SAVERS, ids=lambda save: save.__name__)
def test_damage_in_any_region_of_any_file_of_a_model_is_refused_with_its_path(save, tmp_path, tally):
    save(tmp_path / "whole", 1)
    right, tried, refused = read(tmp_path / "whole"), 0, 0
    for file in sorted((tmp_path / "whole").iterdir()):
        content = file.read_bytes()
        for damaged in regions(content, 24):
            file.write_bytes(damaged)
            tried += 1
            try:
                assert read(tmp_path / "whole") == right, "another model, in silence"
            except ValueError as error:
                refused += 1
                assert str(tmp_path / "whole") in str(error), error
        file.write_bytes(content)
    assert tried == 75 and refused >= 74  # white space of the card is no damage
    tally("damage in a model's files", tried, tried)  # each one above was refused, or changed nothing


def test_damage_in_any_region_of_a_runs_checkpoint_is_refused_and_the_model_is_as_it_was(tmp_path, tally):
    batch = {"ids": torch.full((2, 4), 7), "labels": torch.full((2, 4), 8), "mask": torch.ones(2, 4, dtype=torch.bool)}
    path, options = tmp_path / "run.safetensors", dict(steps=4, warmup=0, progress=False)
    fit(model(0), lambda step: batch, checkpoint=path, **options)
    content = path.read_bytes()
    for damaged in regions(content, 60):
        path.write_bytes(damaged)
        fresh = model(0)
        before = digest(fresh)
        with pytest.raises(ValueError, match=r"run\.safetensors.*(damaged|no checkpoint|other settings)"):
            fit(fresh, lambda step: batch, checkpoint=path, **options)
        assert digest(fresh) == before
    path.write_bytes(content)
    assert fit(model(0), lambda step: batch, checkpoint=path, **options).steps == 4
    tally("damage in a run's checkpoint", 61, 61)


def test_damage_in_any_region_of_a_runs_plan_is_refused_or_changes_nothing(tmp_path, tally):
    options = {"seed": 0, "lr": 0.001, "corpus": "toy"}
    runs.begin(tmp_path, {"options": options, "steps": 3, "fingerprint": {}})
    content, tried = (tmp_path / runs.RUN).read_bytes(), 0
    for damaged in regions(content, 40):
        (tmp_path / runs.RUN).write_bytes(damaged)
        tried += 1
        try:
            plan = runs.unfinished(
                tmp_path, options, replace=False
            )  # the steps are the plan's where minutes were given
            runs.check_corpus(tmp_path, plan, {})
        except ValueError as error:
            assert str(tmp_path) in str(error), error
        else:
            assert plan == {"options": options, "steps": 3, "fingerprint": {}}
    tally("damage in a run's plan", tried, tried)


def test_a_damaged_index_is_made_again_and_never_used(tmp_path, monkeypatch, tally):
    monkeypatch.setenv("NEXTBERT_CACHE", str(tmp_path))
    folder = tmp_path / "model"
    place = documentation._place(folder)
    files.write_safetensors(place, {"vectors": torch.eye(3)}, {"format": "1"})
    content = place.read_bytes()
    assert torch.equal(documentation._stored(folder)[0], torch.eye(3))
    for damaged in regions(content, 40):
        place.write_bytes(damaged)
        assert documentation._stored(folder) is None
    tally("damage in the index of the documentation", 41, 41)


class Hostile:
    """A pickle that, when it is read, makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def archive(content):
    """Return a zip archive that torch.save would write, with a pickle of ours in it, and one entry outside of it."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("../outside", b"x")
        file.writestr("archive/zeros", bytes(10**7))
    return held.getvalue()


@pytest.mark.parametrize("save", SAVERS, ids=lambda save: save.__name__)
def test_no_hostile_file_in_the_place_of_ours_runs_or_is_taken_for_it(save, tmp_path, tally):
    save(tmp_path / "model", 1)
    mark, tried = tmp_path / "it ran", 0
    pickled = pickle.dumps(Hostile(mark))
    deep = b"[" * 100_000
    for file in sorted((tmp_path / "model").iterdir()):
        content = file.read_bytes()
        for hostile in (pickled, archive(pickled), deep, deep.replace(b"[", b'{"a":'), b"", b"\x00" * 64, b"\xff" * 64):
            file.write_bytes(hostile)
            tried += 1
            with pytest.raises(ValueError, match=re.escape(str(tmp_path / "model"))):
                read(tmp_path / "model")
            assert not mark.exists() and not (tmp_path / "outside").exists()
        file.write_bytes(content)
    assert read(tmp_path / "model")
    tally("hostile files", tried, tried)


MARKUP = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "&lt;b&gt;",
    "'\"`${1}",
]


def test_markup_in_any_part_of_a_document_stays_text(tally):
    tried = 0
    for text in MARKUP:
        for part in ("name", "library", "summary", "body"):
            document = Document(
                **{"name": "n", "library": "torch", "module": "m", "summary": "s", "body": "b", part: text}
            )
            shown = hits_html([Hit(document, 1.0, 1.0, 1.0, {text: 1.0, "b": 1.0})])
            tried += 1
            assert not re.search(r"<(?!/?(ol|li|br|b|code|span)\b)", shown), shown
            assert not re.search(r"<[^>]*\bon\w+=", shown), shown
    tally("markup in a document", tried, tried)


@needs_fork
@pytest.mark.parametrize("save", SAVERS, ids=lambda save: save.__name__)
def test_a_disk_that_is_full_at_any_size_leaves_the_old_model_whole(save, tmp_path, tally):
    resource = pytest.importorskip("resource")
    save(tmp_path / "model", 1)
    old, sizes = read(tmp_path / "model"), [p.stat().st_size for p in (tmp_path / "model").iterdir()]
    limits = sorted({0, 1, 100, *(size // 2 for size in sizes), *(size - 1 for size in sizes)})
    for limit in limits:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                save(tmp_path / "model", 2)
            except OSError:
                code = 7
            finally:
                os._exit(code)
        told = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert told == 7 or limit == max(limits), limit  # the largest is one byte less than the largest file
        assert read(tmp_path / "model") == old
    tally("a disk that is full", len(limits), len(limits))


# --- a run that is killed ---------------------------------------------------------------------------------------------


@needs_fork
def test_a_run_killed_at_its_end_goes_on_or_is_finished_with_the_same_command(tmp_path):
    """The last steps of `pretrain` and `pairs`: the model is written, then the plan and the run's checkpoint go."""
    history = type("History", (), {"steps": 3, "tokens": [1], "seconds": 1.0, "evaluations": []})()

    def finish(out):
        corpus = {"name": "file", "about": "", "fingerprint": {}}
        runs.finish(out, model(1), TOKENIZER, corpus, {}, history, {})

    for step in range(1, 12):
        out = tmp_path / str(step)
        runs.begin(out, {"options": {"seed": 0}, "steps": 3, "fingerprint": {}})
        (out / runs.TRAINING).write_bytes(b"the run's checkpoint")
        was_killed = killed(lambda out=out: finish(out), step)
        plan = runs.unfinished(out, {"seed": 0}, replace=True)
        if plan is None:  # finished: the plan is gone, and so the model is there
            assert read(out)
        else:
            assert (out / runs.TRAINING).exists()
            finish(out)
        assert read(out)[1] == out.name
        if not was_killed:
            break
    assert sorted(p.name for p in out.iterdir()) == ["card.json", "model.safetensors", "tokenizer.json"]


def killing(name, folder, how, n):
    """Return how many kills of a command were tried and survived; see kills.py."""
    command = [sys.executable, str(Path(__file__).with_name("kills.py")), name, str(folder), how, str(n)]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1]).values()


@needs_fork
@pytest.mark.parametrize("name", ["pretrain", "pairs", "tune"])
def test_a_command_that_is_killed_while_it_writes_goes_on_to_the_same_weights(name, tmp_path, tally):
    tally(f"kills of {name} at moments of its writing", *killing(name, tmp_path, "moments", 6))


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("how, n", [("moments", 1), ("random", 50)])
@pytest.mark.parametrize("name", ["pretrain", "pairs", "tune"])
def test_a_command_that_is_killed_at_any_moment_goes_on_to_the_same_weights(name, how, n, tmp_path, tally):
    tally(f"kills of {name}, {how}", *killing(name, tmp_path, how, n))


# --- what the first edition wrote -------------------------------------------------------------------------------------


def test_a_classifier_of_the_first_edition_is_read(tmp_path):
    save_classifier(tmp_path, 1)
    right, card = read(tmp_path), json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    (tmp_path / "card.json").unlink()
    weights, _ = files.read_safetensors(tmp_path / "model.safetensors")
    save_file(weights, tmp_path / "model.safetensors", {"format": "1"})
    card |= {"format": 1, "files": {n: files.file_hash(tmp_path / n) for n in card["files"]}}
    del card["sha256"], card["name"]
    (tmp_path / "classifier.json").write_text(json.dumps(card), encoding="utf-8")
    loaded = Classifier.load(tmp_path)
    assert (digest(loaded.model), loaded.temperature) == right


def test_a_run_of_the_first_edition_goes_on(tmp_path):
    batch = {"ids": torch.full((2, 4), 7), "labels": torch.full((2, 4), 8), "mask": torch.ones(2, 4, dtype=torch.bool)}
    path, options = tmp_path / "run.safetensors", dict(steps=6, warmup=0, progress=False)
    whole = model(0)
    fit(whole, lambda step: batch, **options)
    fit(model(0), lambda step: batch, checkpoint=path, stop_after=0.0, **options)
    tensors, told = files.read_safetensors(path)
    settings = json.loads(told["settings"]) | {"weight_decay": 0.01, "betas": [0.9, 0.98], "clip": 1.0}
    save_file(tensors, path, told | {"settings": json.dumps(settings)})
    resumed = model(5)
    assert fit(resumed, lambda step: batch, checkpoint=path, **options).steps == 6
    assert digest(resumed) == digest(whole)
