"""Ranks for test_distributed.py: a process of its own, which forks them, so that torch is imported once.

python tests/ranks.py FOLDER CASE … runs the cases, functions of this file without arguments, and writes what each
returns to FOLDER/CASE.pt.
"""

import copy
import functools
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}  # one thread, so that a forked process can compute

import torch
import torch._dynamo  # this and the next: what the ranks need later is imported once
import torch.distributed as dist
import torch.distributed.checkpoint
import torch.distributed.fsdp
import torch.distributed.tensor
from kills import Command, ended, forked
from oracles import config, perturbed, words
from torch import nn

from nextbert_lite.core.classify import TextClassifier, TokenClassifier
from nextbert_lite.core.contrastive import SentenceEncoder
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.course import pairs, pretraining
from nextbert_lite.course.cli import main
from nextbert_lite.course.runs import alone_in
from nextbert_lite.training import loop
from nextbert_lite.training.batches import MLMBatches, pair_batch
from nextbert_lite.training.distributed import Parallel, on_each
from nextbert_lite.training.loop import fit
from nextbert_lite.use.checkpoints import load

TOKENIZER, CPU, STEPS = words(35), torch.device("cpu"), 6
KILLS = 8  # of each command, each way
PATIENCE = 200  # seconds
FOLDER = Path(sys.argv[1]) if __name__ == "__main__" else None


def world(size, act, *given, kill=None):
    """Run `act` in so many ranks; return of each its exit status, what it returned and what it printed.

    The parent keeps their common store, as torchrun does. kill: (rank, seconds) until that one is killed.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    files = [FOLDER / f"rank {rank}" for rank in range(size)]
    children = []
    for rank, file in enumerate(files):
        file.unlink(missing_ok=True)
        children.append(os.fork())
        if not children[-1]:
            out = os.open(f"{file}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.environ |= told | {"WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank)}
            signal.alarm(PATIENCE)  # a rank that waits for ever for another one is an error, too
            code = 1
            try:
                found = act(*given)
                torch.save(found, file)
                code = found if isinstance(found, int) else 0
            except BaseException:  # noqa: BLE001 - it is told below
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
    if kill is not None:
        time.sleep(kill[1])
        os.kill(children[kill[0]], signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    found = [torch.load(file) if file.exists() else None for file in files]
    return codes, found, [Path(f"{file}.txt").read_text() for file in files]


def values(size, act, *given):
    """Return what the ranks return; an error of theirs is one here."""
    codes, found, printed = world(size, act, *given)
    assert not any(codes), "\n".join(printed)
    return found


# --- gradients --------------------------------------------------------------------------------------------------------


def texts(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = [3 + (5 * i) % 8 for i in range(rows)]
    return [(2, *torch.randint(5, 40, (n,), generator=generator).tolist(), 3) for n in lengths]


def some(rows, none_in=()):
    """Return a batch of MLM with a selected token in its first text; none is selected in the rows `none_in`."""
    batches = MLMBatches(texts(rows), TOKENIZER, batch_size=rows, rate=0.3)
    batches.rows_of(0)
    batch = batches.batch(list(range(rows)))
    batch["labels"][0, 1] = 7
    batch["labels"][list(none_in)] = -100
    return batch


def pairs_of(rows):
    a, b = texts(rows, 1), texts(rows, 2)
    b[1] = b[rows - 1]  # the same text twice: no negative
    batch = pair_batch(list(zip(a, b, strict=True)), 0)
    more = pair_batch(list(zip(texts(6, 3), texts(6, 4), strict=True)), 0)
    return batch | {"negative_ids": more["ids"], "negative_mask": more["mask"]}


def encoder():
    return Encoder(config(max_len=16))


def labelled(rows):
    batch = some(rows)
    return {"ids": batch["ids"], "mask": batch["mask"], "labels": torch.arange(rows) % 3}


def tagged(rows):
    batch = some(rows, none_in=range(4, 8))
    return batch | {"labels": batch["labels"].where(batch["labels"] == -100, batch["labels"] % 3)}


KINDS = {
    "mlm": (lambda: MaskedLanguageModel(encoder()), lambda: some(12)),
    "mlm, a rank without a selected token": (
        lambda: MaskedLanguageModel(encoder()),
        lambda: some(12, none_in=[0, 1, 2, 3, 4, 5, 9]),
    ),
    "mlm, no selected token at all": (lambda: MaskedLanguageModel(encoder()), lambda: some(12, none_in=range(12))),
    "mlm, fewer rows than ranks": (lambda: MaskedLanguageModel(encoder()), lambda: some(1)),
    "a text's label": (lambda: TextClassifier(encoder(), 3, dropout=0.0), lambda: labelled(12)),
    "a token's label": (lambda: TokenClassifier(encoder(), 3, dropout=0.0), lambda: tagged(12)),
    "pairs": (lambda: SentenceEncoder(encoder(), symmetric=True), lambda: pairs_of(12)),
    "pairs, cached": (lambda: SentenceEncoder(encoder(), "first-last", chunk=2, cache=True), lambda: pairs_of(12)),
}


def gradient(kind, size, accumulate=1, shard=False):
    """Return the loss and the gradients of a kind's batch; of one process, or of ranks."""
    make, batch = KINDS[kind]
    torch.manual_seed(0)
    model = perturbed(make()).train()
    if size == 1 and accumulate == 1:
        loss = model.loss(**batch())
        loss.backward()
        return loss.item(), {name: p.grad for name, p in model.named_parameters()}
    if size > 1 and dist.is_initialized() and dist.get_rank():
        nn.init.zeros_(model.encoder.tokens.weight)  # what counts is the first rank's model
    parallel = Parallel(model, CPU, accumulate, shard, seed=0)
    loss = parallel.backward(batch(), 0, False)
    found = {n: getattr(p.grad, "full_tensor", lambda p=p: p.grad)() for n, p in parallel.trained.named_parameters()}
    return parallel.agree(loss, torch.zeros(()), False, 0)[0], found


WAYS = [(accumulate, shard) for shard in (False, True) for accumulate in (1, 2)]


def ways(kind):
    """Pairs are not cut into parts; that shards accumulate is shown by one kind."""
    parts = ["mlm, a rank without a selected token"]
    return [(n, shard) for n, shard in WAYS if n == 1 or (kind in parts if shard else not kind.startswith("pairs"))]


def all_gradients(size):
    return {(kind, *way): gradient(kind, size, *way) for kind in KINDS for way in ways(kind)}


def gradients():
    """Return for each kind of loss, each way and each number of ranks, how far loss and gradients are from one's."""
    right = {kind: gradient(kind, 1) for kind in KINDS}
    assert max(float(g.norm()) for g in right["pairs"][1].values() if g is not None) > 0.1  # there is something to see
    found = {(1, kind, 2, False): gradient(kind, 1, 2) for kind in KINDS if not kind.startswith("pairs")}
    for size in (2, 3):
        for told in values(size, all_gradients, size):
            found |= {(size, *name): value for name, value in told.items()}
    off = {}
    for (size, kind, *way), (loss, grads) in found.items():
        expected, theirs = right[kind]
        assert grads.keys() == theirs.keys()
        of_each = [float((grads[n] - g).abs().max()) if g is not None else 0.0 for n, g in theirs.items()]
        off[size, kind, *way] = max(abs(loss - expected), *of_each)
    return off


# --- whole runs -------------------------------------------------------------------------------------------------------


def new_model(seed=0, dtype=torch.float32, **changes):
    torch.manual_seed(seed)
    return MaskedLanguageModel(Encoder(config(**changes))).to(dtype)


def new_batches():
    """The last batch of an epoch has 8 texts, the others 12."""
    chain = [[2, *(5 + (i + k) % 35 for k in range(4 + i % 5)), 3] for i in range(44)]
    return MLMBatches(chain, TOKENIZER, batch_size=12, rate=0.3)


def digest(weights):
    return float(sum(t.double().abs().sum() for t in weights.values()))


def run(stop=None, path=None, shard=False, seed=0, **changes):
    """Train, or train on from `path`; stop: after so many steps. Return the weights and the history."""
    model, batches = new_model(seed, **changes), new_batches()

    def stopping(step):
        if stop is not None and step == stop - 1:
            signal.raise_signal(signal.SIGINT)
        return batches(step)

    options = dict(lr=3e-3, warmup=3, device="cpu", progress=False, shard=shard)
    history = fit(model, stopping, STEPS, checkpoint=path, checkpoint_every=100, **options)
    return model.state_dict(), history.loss, history.tokens, history.interrupted


def differ(some, others):
    return max(float((some[name] - others[name]).abs().max()) for name in others)


def training():
    """How far weights and losses are from those of one process, after a run in float64, for each way."""
    weights, loss, tokens, _ = run(dtype=torch.float64)
    found = {}
    for size, shard in ((2, False), (3, True)):
        for got in values(size, lambda shard=shard: run(dtype=torch.float64, shard=shard)):
            off = max(abs(a - b) for a, b in zip(got[1], loss, strict=True))
            found.setdefault((size, shard), []).append((differ(got[0], weights), off, got[2] == tokens))
    return found


def resumed():
    """Runs that were stopped and went on: on as many ranks, with dropout; on other numbers, without it."""
    found = {}
    for size, shard in ((3, False), (2, True)):
        path = FOLDER / f"{size} {shard}.safetensors"
        whole = values(size, lambda shard=shard: run(shard=shard, dropout=0.2))[0]
        first = values(size, lambda path=path, shard=shard: run(4, path, shard, dropout=0.2))
        found["stopped", size, shard] = [(len(loss), interrupted) for _, loss, _, interrupted in first]
        again = values(size, lambda path=path, shard=shard: run(None, path, shard, seed=5, dropout=0.2))
        found["again", size, shard] = [differ(got[0], whole[0]) for got in again], again[0][1] == whole[1]
        found["files", size, shard] = sorted(file.name for file in FOLDER.glob(f"{path.name}*"))
    weights, path = run(dtype=torch.float64)[0], FOLDER / "moved.safetensors"
    for before, was in ((2, False), (2, True)):
        path.unlink(missing_ok=True)
        values(before, in_float64, 3, path, was)
        stored = path.read_bytes()
        for after, now in ((1, False), (3, not was)):
            path.write_bytes(stored)
            if was:
                shutil.copytree(FOLDER / f"{path.name}.shards-3", FOLDER / "kept")
            got = in_float64(None, path) if after == 1 else values(after, in_float64, None, path, now)[0]
            files = sorted(file.name for file in FOLDER.glob(f"{path.name}*"))
            found["moved", before, was, after, now] = differ(got[0], weights), files
            if was:
                (FOLDER / "kept").rename(FOLDER / f"{path.name}.shards-3")
    damaged = next((FOLDER / f"{path.name}.shards-3").glob("*.distcp"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    path.write_bytes(stored)
    found["damaged"] = refusal(new_batches(), checkpoint=path, lr=3e-3)
    return found


def in_float64(stop, path, shard=False):
    return run(stop, path, shard, seed=0 if stop else 5, dtype=torch.float64)


def bfloat16():
    """The losses in bfloat16, of one process and of two ranks, and the kinds of number that a layer gives."""
    return [in_bfloat16(False), *values(2, in_bfloat16, False), *values(2, in_bfloat16, True)]


def in_bfloat16(shard):
    seen, linear = set(), torch.nn.functional.linear

    def watched(*given):
        found = linear(*given)
        seen.add(found.dtype)
        return found

    torch.nn.functional.linear = watched
    options = dict(warmup=1, device="cpu", progress=False, mixed_precision=True, shard=shard)
    model = new_model()
    losses = fit(model, new_batches(), 4, **options).loss
    torch.nn.functional.linear = linear
    return losses, seen, {p.dtype for p in model.parameters()}


# --- what goes wrong --------------------------------------------------------------------------------------------------


def first():
    return int(os.environ["RANK"]) == 0


def refusal(batches, model=None, **more):
    """Return the error of a training and whether the weights stayed."""
    model = new_model() if model is None else model
    before = copy.deepcopy(model.state_dict())
    try:
        fit(model, batches, 3, device="cpu", progress=False, warmup=0, **more)
    except (ValueError, ArithmeticError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}", differ(model.state_dict(), before)


class Poisoned(MaskedLanguageModel):
    """A model whose loss is not a number in the text that begins with the word 39."""

    def loss(self, ids, labels, mask=None):
        return super().loss(ids, labels, mask) * (torch.nan if (ids[:, 1] == 39).any() else 1.0)


def with_a_spare():
    model = new_model()
    model.spare = nn.Linear(2, 2)
    return model


def poisoned(shard):
    torch.manual_seed(0)
    batch = some(12)
    batch["ids"][:, 1] = 38
    batch["ids"][7, 1] = 39  # of the second rank
    return refusal(lambda step: batch, Poisoned(encoder()), shard=shard)


def refusals():
    odd = MLMBatches([[2, 5, 6, 3]] * 9, TOKENIZER, batch_size=9)
    return {
        "a batch of 9": values(2, refusal, odd),
        "other batches": values(2, lambda: refusal(lambda step: some(8, none_in=[3] if first() else []))),
        "pairs in parts": values(
            2, lambda: refusal(lambda step: pairs_of(12), SentenceEncoder(encoder()), accumulate=2)
        ),
        "pairs for 2 of 11": values(2, lambda: refusal(lambda step: pairs_of(11), SentenceEncoder(encoder()))),
        "no part in the loss": values(2, lambda: refusal(new_batches(), with_a_spare())),
        "not finite": values(2, poisoned, False),
        "not finite, sharded": values(2, poisoned, True),
        "ended by torchrun": values(2, lambda: refusal(ending_batches())),
    }


def ending_batches():
    batches = new_batches()

    def ending(step):
        if not first():
            signal.raise_signal(signal.SIGTERM)
        return batches(step)

    return ending


def evaluated(shard):
    model = new_model()
    options = dict(device="cpu", progress=False, warmup=0, evaluate_every=2, shard=shard)
    told = fit(model, new_batches(), 4, evaluate=lambda: {"size": digest(model.state_dict())}, **options)
    return [entry["size"] for entry in told.evaluations]


def stopped():
    """One rank alone is asked to stop, and each evaluates while it trains."""
    model, batches = new_model(), new_batches()

    def stopping(step):
        if step == 2 and not first():
            signal.raise_signal(signal.SIGINT)
        return batches(step)

    history = fit(model, stopping, STEPS, device="cpu", progress=False, warmup=0)
    return history.steps, history.interrupted


def agreement():
    return {
        "stopped": values(2, stopped),
        "on each": [values(2, torn, [lambda: "a", lambda: "b"]), values(2, torn, [lambda: "a", lambda: int("x")])],
        "evaluated": [evaluated(False), *values(2, evaluated, False), *values(2, evaluated, True)],
    }


# --- commands ---------------------------------------------------------------------------------------------------------


def prepared(name):
    """Return a command of kills.py: `command.run(out)` runs it, with a checkpoint every 4 of its 12 steps."""
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    command = Command(name, folder)
    pairs.with_dropout = lambda encoder, dropout: encoder
    pretraining.SAMPLE = 1
    return command, folder


def dying_at(step, rank, act):
    """Run `act`; this rank is killed when this step begins."""
    real = loop.linear_schedule

    def schedule(now, *more):
        if now == step and os.environ["RANK"] == str(rank):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(now, *more)

    loop.linear_schedule = schedule
    return act()


def commands():
    """Return what each command does on two ranks: its exit status, what it prints, and how far its weights are off.

    Then what it does when a rank is killed, when another command is at work in its folder, and when a model is there.
    """
    found = {}
    for name in ("pretrain", "pairs"):
        command, folder = prepared(name)
        one, two, again = folder / "one", folder / "two", folder / "again"
        child = forked(lambda command=command, one=one: command.run(one))
        assert ended(child) == 0
        os.environ["TQDM_DISABLE"] = "0"
        codes, _, printed = world(2, command.run, two)
        os.environ["TQDM_DISABLE"] = "1"
        weights = [load(out).model.state_dict() for out in (one, two)]
        found[name] = codes, printed, differ(*weights), sorted(file.name for file in two.iterdir())
        for rank in [0] if name == "pretrain" else [1]:
            codes, _, printed = world(2, dying_at, 6, rank, lambda command=command, again=again: command.run(again))
            left = sorted(file.name for file in again.iterdir())
            ended_at_last = world(2, command.run, again)[0]
            same = command.left(again) == command.left(two)
            found[name, "killed", rank] = codes, printed, left, ended_at_last, same
            shutil.rmtree(again)
        with alone_in(one):
            found[name, "held"] = world(2, command.run, one)
        found[name, "there is a model"] = world(2, command.run, two)
    found["streamed"] = streamed()
    out = FOLDER / "minutes"
    command = ["pretrain", "--corpus", "toy", "--batch", "4", "--minutes", "0.002", "--out", str(out)]
    found["minutes"] = world(2, main, command)[0]
    return found


def streamed():
    """Return a streamed run's exit statuses on two ranks, and how far its weights are from those of one process."""
    text, outs = FOLDER / "text", [FOLDER / "streamed one", FOLDER / "streamed two"]
    text.mkdir()
    draw = random.Random(0)
    lines = (
        " ".join(draw.choices("a small red cat sat on the old mat and saw that dog run".split(), k=30))
        for _ in range(900)
    )
    (text / "a.txt").write_text("\n\n".join(f"{n} {line}" for n, line in enumerate(lines)), encoding="utf-8")
    how = "--stream --steps 8 --batch 4 --vocab 300 --workers 1 --set dropout=0".split()
    one, two = (["pretrain", "--corpus", str(text), *how, "--out", str(out)] for out in outs)
    child = forked(lambda: main(one))
    codes = [ended(child), *world(2, main, two)[0]]
    return codes, differ(*(load(out).model.state_dict() for out in outs))


def torn(act):
    """Return what on_each gives where the second rank has an error, or its message."""
    try:
        return on_each(lambda: act[int(os.environ["RANK"])]())
    except ValueError as error:
        return str(error)


def killings():
    """Kill a rank at random moments of a command; return how many kills were tried and how many survived."""
    rng, found = random.Random(0), {}
    for name in ("pretrain", "pairs"):
        for shard in (False, True):
            command, folder = prepared(name)
            command.run = functools.partial(sharded, command.run) if shard else command.run
            whole, began = folder / f"whole {shard}", time.perf_counter()
            assert world(2, command.run, whole)[0] == [0, 0]
            lasts, right, tried, survived = time.perf_counter() - began, command.left(whole), 0, 0
            while tried < KILLS:
                out = folder / f"{shard} {tried}"
                codes, _, _ = world(2, command.run, out, kill=(rng.randrange(2), rng.uniform(0, lasts)))
                if -signal.SIGKILL not in codes:
                    shutil.rmtree(out)  # it had ended
                    continue
                tried += 1
                done = (out / "card.json").exists() and not (out / "run.json").exists()
                survived += (done or world(2, command.run, out)[0] == [0, 0]) and command.left(out) == right
            found[name, shard] = tried, survived
    return found


def sharded(run, out):
    """Run a command with --shard."""
    for module in (pretraining, pairs):
        module.fit = functools.partial(module.fit, shard=True)
    return run(out)


if __name__ == "__main__":
    for case in sys.argv[2:]:
        torch.save(globals()[case](), FOLDER / f"{case}.pt")
