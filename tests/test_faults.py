"""Nothing lost, nothing silent: kills at every step of a write, damage in every region of every stored file."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys

import pytest
import torch
from oracles import config, words
from safetensors.torch import save_file

from nextbert_lite import Classifier, SentenceEncoder, TextClassifier, files, load
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.course import documentation, runs
from nextbert_lite.training.loop import fit
from nextbert_lite.use import checkpoints

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
def test_a_kill_at_any_step_of_a_save_leaves_the_old_model_or_the_new_one_whole(save, tmp_path):
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
def test_damage_in_any_region_of_any_file_of_a_model_is_refused_with_its_path(save, tmp_path):
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


def test_damage_in_any_region_of_a_runs_checkpoint_is_refused_and_the_model_is_as_it_was(tmp_path):
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


def test_a_damaged_index_is_made_again_and_never_used(tmp_path, monkeypatch):
    monkeypatch.setenv("NEXTBERT_CACHE", str(tmp_path))
    folder = tmp_path / "model"
    place = documentation._place(folder)
    files.write_safetensors(place, {"vectors": torch.eye(3)}, {"format": "1"})
    content = place.read_bytes()
    assert torch.equal(documentation._stored(folder)[0], torch.eye(3))
    for damaged in regions(content, 40):
        place.write_bytes(damaged)
        assert documentation._stored(folder) is None


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


@pytest.mark.slow
def test_pretrain_killed_at_random_moments_always_ends_with_the_same_weights(tmp_path):
    """100 kills, each at a random moment of a short run; then the same command, until it ends."""
    command = [sys.executable, "-m", "nextbert_lite", "pretrain", "--corpus", "toy", "--steps", "120", "--batch", "8"]
    whole = tmp_path / "whole"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    subprocess.run([*command, "--out", str(whole)], check=True, env=environment, capture_output=True)
    right, rng, kills = digest(load(whole).model), random.Random(0), 0
    while kills < 100:
        out = tmp_path / f"run {kills}"
        while not (out / "card.json").exists() or (out / runs.RUN).exists():
            run = subprocess.Popen([*command, "--out", str(out)], env=environment, stderr=subprocess.PIPE)
            try:
                _, said = run.communicate(timeout=rng.uniform(1.5, 9))
                assert run.returncode == 0, said.decode()
                break
            except subprocess.TimeoutExpired:
                run.kill()
                run.communicate()
                kills += 1
        assert digest(load(out).model) == right
        shutil.rmtree(out)
    print(json.dumps({"kills": kills, "lost": 0}))


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
