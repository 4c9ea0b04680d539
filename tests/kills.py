"""Kill a command of the course again and again, and let the same command go on: a process of its own, which forks.

python tests/kills.py COMMAND FOLDER HOW N prints {"tried": …, "survived": …} as JSON. COMMAND: pretrain, pairs, or tune
(`fine_tune`, and `save` over an older classifier). HOW: "moments", every N-th of the steps of its writing (a flush, a
move, a removal), or "random", N moments drawn at random. Survived is a kill after which the same command ends with the
weights of a run that was never killed, or of a run that had ended, after which they are there; of tune, after which the
folder holds the older or the newer classifier, whole.
"""

import csv
import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}  # one thread, so that a forked process can compute

import torch

from nextbert_lite import Classifier, Encoder, EncoderConfig, MaskedLanguageModel, fine_tune, load, word_level
from nextbert_lite.course import pairs, pretraining, runs
from nextbert_lite.course.cli import main
from nextbert_lite.use import checkpoints

STEPS, EVERY = 12, 4  # of a run; checkpoints
WORDS = [f"w{i}" for i in range(40)]


def digest(module):
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in module.state_dict().values())).hexdigest()


class Command:
    """What is run, into which folder, and how to tell what it left there."""

    def __init__(self, name, folder):
        self.name, self.folder = name, Path(folder)
        fit = pretraining.fit
        pretraining.fit = lambda *given, **more: fit(*given, **more | {"checkpoint_every": EVERY})
        pairs.CHECKPOINT_EVERY = EVERY
        pretraining.held_out = lambda model, source: {"loss": 0.0}  # measuring takes longer than all the rest
        tokenizer = word_level(WORDS)
        torch.manual_seed(0)
        config = EncoderConfig(tokenizer.vocab_size, width=16, layers=1, heads=2, ffn_width=32, max_len=16)
        self.start = MaskedLanguageModel(Encoder(config)), tokenizer
        if name == "pairs":
            checkpoints.save(self.folder / "start", *self.start, {"name": "start"})
            with open(self.folder / "pairs.csv", "w", encoding="utf-8", newline="") as file:
                rows = [(f"w{i} w{j}", f"w{j} w{i} w{39 - j}") for i in range(12) for j in range(20, 30)]
                csv.writer(file).writerows([("question", "answer"), *rows])

    def run(self, out, seed=1):
        if self.name == "tune":
            texts = [f"w{i % 2} w{2 + i}" for i in range(30)]
            labels = ["ab"[i % 2] for i in range(30)]
            fine_tune(texts, labels, self.start, epochs=2, lr=1e-2, seed=seed, report=None).save(out)
            return 0
        options = ["--corpus", "toy", "--batch", "8"]
        if self.name == "pairs":
            options = ["--data", str(self.folder / "pairs.csv"), "--start", str(self.folder / "start"), "--batch", "16"]
        return main([self.name, *options, "--steps", str(STEPS), "--out", str(out)])

    def left(self, out):
        """Return the weights that a user gets of the folder; None while a run there is unfinished."""
        if self.name == "tune":
            return digest(Classifier.load(out).model)
        return digest(load(out).model)


def forked(act, step=None):
    """Run `act` in a copy of this process, which is killed at this step of its writing; return its id."""
    child = os.fork()
    if child:
        return child
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    count, code = 0, 1

    def counting(real):
        def call(*given, **more):
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **more)

        return call

    for name in ("fsync", "replace", "unlink"):
        setattr(os, name, counting(getattr(os, name)))
    try:
        code = act()
    finally:
        os._exit(code)


def ended(child):
    """Wait for a process and return its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def survives(command, out, right, old):
    """Whether nothing was lost: the older or newer classifier, or the right weights, of the run or its repetition."""
    if command.name == "tune":
        return command.left(out) in (right, old)
    if (out / checkpoints.CARD).exists() and not (out / runs.RUN).exists():
        return command.left(out) == right  # the run had ended: the same command would say that there is a model
    return ended(forked(lambda: command.run(out))) == 0 and command.left(out) == right


def main_of_kills(name, folder, how, n):
    command, folder = Command(name, folder), Path(folder)
    whole, older, n = folder / "whole", folder / "older", int(n)
    began = time.perf_counter()
    assert ended(forked(lambda: command.run(whole))) == 0
    lasts, right, old = time.perf_counter() - began, command.left(whole), None
    if name == "tune":
        assert ended(forked(lambda: command.run(older, seed=2))) == 0
        old = command.left(older)
    tried = survived = step = 0
    rng = random.Random(0)
    while how == "moments" or tried < n:
        out = folder / f"{how} {tried}"
        if name == "tune":
            assert ended(forked(lambda: command.run(out, seed=2))) == 0  # noqa: B023 - it is run at once
        step += n
        child = forked(lambda: command.run(out), step if how == "moments" else None)  # noqa: B023
        if how == "random":
            time.sleep(rng.uniform(0, lasts))
            os.kill(child, signal.SIGKILL)
        if ended(child) == 0:
            if how == "moments":
                break  # it has fewer steps
            continue  # it had ended: no kill
        tried += 1
        survived += survives(command, out, right, old)
    print(json.dumps({"tried": tried, "survived": survived}))


if __name__ == "__main__":
    main_of_kills(*sys.argv[1:])
