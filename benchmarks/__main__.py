"""`make bench`: speed and memory beside Hugging Face, torch's own encoder and sentence-transformers; where time goes.

    python -m benchmarks            everything; the last line says how long it took
    python -m benchmarks --quick    fewer rounds: to see that it runs, not to quote

Writes benchmarks/results/cpu.md and cpu.json (cuda.* where there is an NVIDIA GPU). Close other programs first.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.arms import (
    HUGGINGFACE,
    MAKE,
    OURS,
    TORCH,
    Arm,
    Batch,
    check_same,
    configuration,
    documentation,
    encoded,
    make_arms,
    our_epoch,
    padded_batches,
    random_batch,
    trainer_epoch,
    training_step,
)
from benchmarks.gpu import training_rate
from benchmarks.measure import (
    alternate,
    goals,
    installed,
    machine,
    quartiles,
    ratios,
    spread,
    step_flops,
    table,
)
from benchmarks.sentences import (
    CHUNK,
    THEIRS,
    Pairs,
    SentenceArm,
    check_same_sentences,
    documentation_pairs,
    make_sentence_arms,
)
from nextbert_lite.core.encoder import EncoderConfig
from nextbert_lite.core.masking import IGNORE

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
C, LAYERS, V, T, B = 256, 4, 8000, 256, 16  # the first setting; of these the goals name C alone
POSITIONS = 2048  # tokens of a batch in the tables of growth


class Report:
    """The text, printed as it grows, and the numbers behind it."""

    def __init__(self):
        self.text: list[str] = []
        self.data: dict[str, object] = {}
        self.goals: dict[str, tuple[float, float]] = {}

    def say(self, *blocks: str) -> None:
        for block in blocks:
            print(block + "\n", flush=True)
            self.text.append(block)

    def goal(self, name: str, figure: float, least: float) -> None:
        self.goals[name] = (figure, least)


# --- (a) the same step, the same weights, the same batches ----------------------------------------------------------


def steps(report: Report, rounds: int, fewer: int) -> None:
    """Training step and inference of the four arms; the first setting with `rounds`, two others with `fewer`."""
    report.say(
        "## Training step and inference on the same padded batches",
        f"C = {C}, {LAYERS} layers, texts of the documentation cut at T = {T}, in random order, {B} a batch, padded to "
        "the longest. Same weights, same batches, fp32; forward, backward and the same fused AdamW. Before the clock "
        "starts all arms must give the same loss and the same logits, and without dropout the same loss at each timed "
        "step. *times ours*: the ratio to our time, round by round; median, quartiles in brackets.",
    )
    for v, dropout in ((V, 0.0), (4096, 0.0), (V, 0.1)):
        sequences, tokenizer = encoded(v, T, 4 * B)
        batches = padded_batches(sequences, tokenizer, B, 4)
        arms = make_arms(configuration(C, LAYERS, v, T, dropout))
        check_same(arms, batches[0])
        title = f"V = {v}, dropout {dropout:g}"
        step_times(report, title, arms, batches, rounds if (v, dropout) == (V, 0.0) else fewer)
        if (v, dropout) == (V, 0.0):
            inference_times(report, title, arms, batches, rounds)


def step_times(report: Report, title: str, arms: dict[str, Arm], batches: list[Batch], rounds: int) -> None:
    """The training steps of one setting."""
    losses: dict[str, list[float]] = {name: [] for name in arms}

    def training(name: str) -> Callable[[int], None]:
        step = training_step(arms[name])
        return lambda round_: losses[name].append(step(batches[round_ % len(batches)]))

    seconds = alternate({name: training(name) for name in arms}, rounds)
    config = arms[OURS].model.encoder.config
    if config.dropout == 0:
        for name in arms:
            torch.testing.assert_close(losses[name], losses[OURS], rtol=1e-3, atol=1e-3)
    rows = [[name, spread(quartiles(s), 0, 1e3), spread(ratios(s, seconds[OURS]))] for name, s in seconds.items()]
    positions = sum(b["ids"].numel() for b in batches)
    real = sum(int(b["mask"].sum()) for b in batches) / positions
    selected = sum(int((b["labels"] != IGNORE).sum()) for b in batches)
    lengths = [b["ids"].shape[1] for b in batches for _ in b["ids"]]
    everywhere, ours = (step_flops(C, LAYERS, config.vocab_size, lengths, n) for n in (positions, selected))
    report.say(
        f"### Training step, {title}",
        f"{real:.0%} of the positions are real tokens, {selected / positions:.0%} are selected. A head on all "
        f"positions means {everywhere / ours:.2f} times our operations; the rest of a ratio is how they are done.",
        table(["", "ms", "times ours"], rows),
    )
    report.data[f"training step, {title}"] = {"real": real, "seconds": seconds, "losses": losses}
    fastest = min(HUGGINGFACE, key=lambda name: quartiles(seconds[name])[1])
    for name, least in ((fastest, 2.0), (TORCH, 1.5)):
        report.goal(f"training step, {title}: {name} / ours", ratios(seconds[name], seconds[OURS])[1], least)


def inference_times(report: Report, title: str, arms: dict[str, Arm], batches: list[Batch], rounds: int) -> None:
    """Logits, and hidden vectors, of every position."""
    for what, shown in (("logits", "logits"), ("hidden", "hidden vectors")):

        def inference(arm: Arm, what: str = what) -> Callable[[int], None]:
            def run(round_: int) -> None:
                with torch.inference_mode():
                    getattr(arm, what)(batches[round_ % len(batches)])

            arm.model.eval()
            return run

        seconds = alternate({name: inference(arm) for name, arm in arms.items()}, rounds)
        rows = [[name, spread(quartiles(s), 0, 1e3), spread(ratios(s, seconds[OURS]))] for name, s in seconds.items()]
        report.say(f"### Inference, {shown} of every position, {title}", table(["", "ms", "times ours"], rows))
        report.data[f"inference, {what}, {title}"] = {"seconds": seconds}
        report.goal(f"inference, {shown}: {TORCH} / ours", ratios(seconds[TORCH], seconds[OURS])[1], 1.0)
    report.say(f"Ours and {TORCH} (by nested tensors) compute real tokens only; Hugging Face computes padding too.")


# --- (b) end to end -------------------------------------------------------------------------------------------------


def end_to_end(report: Report, rounds: int, fewer: int, batches: int) -> None:
    """One epoch over the same texts: MLMBatches and fit, and Hugging Face's Trainer; three settings, as in `steps`."""
    report.say(
        "## End to end: `MLMBatches` + `fit` and Hugging Face's `Trainer`",
        f"One epoch over the same {batches * B} texts of the documentation, {B} a batch, the same model (C = {C}, "
        f"{LAYERS} layers, dropout 0, fp32). Theirs: `DataCollatorForLanguageModeling` and Trainer's defaults (random "
        "order, padding to the longest of the batch, fused AdamW, sdpa), nothing logged or saved; ours: texts of about "
        "the same length in a batch. Padding is not counted in tokens a second.",
    )
    if installed("accelerate") is None:
        report.say("Left out: Trainer needs the package accelerate, of the extra `bench`.")
        return
    rows = []
    for v, t in ((V, T), (4096, T), (V, 128)):
        sequences, tokenizer = encoded(v, t, batches * B)
        ours = make_arms(configuration(C, LAYERS, v, t), [OURS])[OURS].model
        tokens = sum(map(len, sequences))
        epochs = {OURS: our_epoch, "Hugging Face Trainer": trainer_epoch}
        for epoch in epochs.values():  # the first pays for imports
            epoch(ours, sequences[:B], tokenizer, B)
        seconds: dict[str, list[float]] = {name: [] for name in epochs}
        for _ in range(rounds if (v, t) == (V, T) else fewer):
            for name, epoch in epochs.items():  # each times itself, without what its users do once
                seconds[name].append(epoch(ours, sequences, tokenizer, B))
        ratio = ratios(seconds["Hugging Face Trainer"], seconds[OURS])
        setting = f"V = {v}, T = {t}"
        rows += [
            [f"{setting}: {name}", spread(quartiles([tokens / x for x in s]), 0), times]
            for (name, s), times in zip(seconds.items(), (spread(ratio), ""), strict=True)
        ]
        report.data[f"end to end, {setting}"] = {"tokens": tokens, "seconds": seconds}
        report.goal(f"end to end, {setting}: ours / Trainer, real tokens a second", ratio[1], 3.0)
        if (v, t) == (V, T):
            flops = step_flops(C, LAYERS, v, [len(s) for s in sequences], 0.15 * (tokens - 2 * len(sequences)))
            report.data["end to end, operations a second"] = flops / quartiles(seconds[OURS])[1]
    report.say(table(["", "real tokens / s", "ours / theirs"], rows))


# --- (c) the contrastive step and embedding -------------------------------------------------------------------------

SENTENCES = {"C": 192, "layers": 4, "V": 4096, "T": 128}  # the size of the shipped checkpoints


def sentences(report: Report, rounds: int, fewer: int, batch_size: int = 64, texts: int = 512) -> None:
    """The contrastive training step and embedding, beside sentence-transformers."""
    report.say(
        "## Contrastive training and embedding: sentence-transformers",
        f"C = {SENTENCES['C']}, {SENTENCES['layers']} layers, V = {SENTENCES['V']}, mean pooling, fp32, texts cut at "
        f"T = {SENTENCES['T']}. Same weights, same tokenizer, same texts, and both start from the text: tokenising is "
        "timed. Before the clock starts both must give the same loss and the same vectors, and without dropout the "
        "same loss at each timed step.",
        f"A step: {batch_size} pairs (summary, body) of the documentation with in-batch negatives; forward, backward "
        f"and the same fused AdamW. Ours: chunks of {CHUNK} texts of like length. Theirs: "
        "`MultipleNegativesRankingLoss`, a forward for the summaries and one for the bodies. *gradient cache*: "
        f"activations are computed again in backward, {CHUNK} texts at a time (`cache=True`; "
        "`CachedMultipleNegativesRankingLoss`).",
    )
    pairs, tokenizer = documentation_pairs(), documentation(SENTENCES["V"])[1]
    batches = [pairs[i * batch_size : (i + 1) * batch_size] for i in range(4)]
    for dropout in (0.0, 0.1):
        arms = make_sentence_arms(configuration(**SENTENCES, dropout=dropout), tokenizer)
        check_same_sentences(arms, batches[0])
        contrastive_steps(report, f"dropout {dropout:g}", arms, batches, rounds if dropout == 0 else fewer)
    summaries, bodies = zip(*pairs, strict=True)
    mixed = [text for pair in zip(summaries, bodies, strict=True) for text in pair]
    plain = {name: arms[name] for name in (OURS, THEIRS)}
    kinds = {"bodies": bodies[: texts // 8], "summaries": summaries[: texts // 4]}
    kinds |= {f"of mixed length, {some}": mixed[:some] for some in (64, 128, 500, 2000) if some <= 4 * texts}
    embedding(report, plain, kinds, rounds)


def contrastive_steps(
    report: Report, title: str, arms: dict[str, SentenceArm], batches: list[Pairs], rounds: int
) -> None:
    """Forward, backward and the same fused AdamW on the same pairs."""
    losses: dict[str, list[float]] = {name: [] for name in arms}

    def training(name: str) -> Callable[[int], None]:
        step = training_step(arms[name])
        return lambda round_: losses[name].append(step(batches[round_ % len(batches)]))

    seconds = alternate({name: training(name) for name in arms}, rounds)
    if title == "dropout 0":
        for name in arms:
            torch.testing.assert_close(losses[name], losses[OURS], rtol=1e-3, atol=1e-3)
    rows = [[name, spread(quartiles(s), 0, 1e3), spread(ratios(s, seconds[OURS]))] for name, s in seconds.items()]
    report.say(f"### Contrastive training step, {title}", table(["", "ms", "times ours"], rows))
    report.data[f"contrastive step, {title}"] = {"seconds": seconds, "losses": losses}
    report.goal(f"contrastive step, {title}: {THEIRS} / ours", ratios(seconds[THEIRS], seconds[OURS])[1], 1.5)


def embedding(report: Report, arms: dict[str, SentenceArm], texts: dict[str, Sequence[str]], rounds: int) -> None:
    """Texts a second of `embed` and of `SentenceTransformer.encode`, for each kind of texts."""
    rows = []
    for arm in arms.values():
        arm.model.eval()
    for kind, some in texts.items():
        seconds = alternate({name: lambda _, a=arm, t=some: a.embed(t) for name, arm in arms.items()}, rounds)
        ratio = ratios(seconds[THEIRS], seconds[OURS])
        rows += [
            [f"{len(some)} {kind}: {name}", spread(quartiles([len(some) / x for x in s]), 0), times]
            for (name, s), times in zip(seconds.items(), (spread(ratio), ""), strict=True)
        ]
        report.data[f"embedding, {kind}"] = {"texts": len(some), "seconds": seconds}
        report.goal(f"embedding, {kind}: ours / {THEIRS}, texts a second", ratio[1], 1.5)
    report.say(
        "### Embedding",
        "`embed(texts)` and `SentenceTransformer.encode(texts)` with their defaults; both put texts of like length "
        "into a batch. *of mixed length*: summaries and bodies in turn.",
        table(["", "texts / s", "ours / theirs"], rows),
    )


# --- (d) the machine's matrix rate ----------------------------------------------------------------------------------


def products(positions: int, selected: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the matrix products of a training step: inputs for `F.linear`, by name."""
    shapes = {
        "queries, keys, values": (positions, C, 3 * C),
        "attention's output": (positions, C, C),
        "feed-forward, in": (positions, C, 4 * C),
        "feed-forward, out": (positions, 4 * C, C),
        "gradient of a weight": (4 * C, positions, C),
        "head": (selected, C, V),
    }
    return {name: (torch.randn(n, k), torch.randn(m, k)) for name, (n, k, m) in shapes.items()}


def matrix_rate(report: Report, rounds: int) -> None:
    """Operations a second of our step, by formula, beside the fastest matrix product of those in it."""
    batch = random_batch(V, B, T)
    selected = int((batch["labels"] != IGNORE).sum())
    pairs = products(B * T, selected)
    flops = {name: 2 * x.shape[0] * x.shape[1] * w.shape[0] for name, (x, w) in pairs.items()}
    best = dict.fromkeys(pairs, float("inf"))

    def product(name):
        def run(_):
            for _ in range(3):
                start = time.perf_counter()
                F.linear(*pairs[name])
                best[name] = min(best[name], time.perf_counter() - start)

        return run

    step = training_step(make_arms(configuration(C, LAYERS, V, T), [OURS])[OURS])
    step_arm = {OURS: lambda _: step(batch)}
    seconds = alternate(step_arm | {name: product(name) for name in pairs}, rounds)[OURS]
    rates = {name: flops[name] / best[name] for name in pairs}
    top = max(rates.values())
    work = step_flops(C, LAYERS, V, [T] * B, selected)
    share = quartiles([work / s / top for s in seconds])
    rows = [[name, f"{rate / 1e9:.0f}", f"{rate / top:.0%}"] for name, rate in rates.items()]
    rows.append(["**training step**", f"{work / quartiles(seconds)[1] / 1e9:.0f}", spread(share, 0, 100, " %")])
    end = report.data.get("end to end, operations a second")
    if end:
        rows.append(["**fit, end to end** (real tokens only)", f"{end / 1e9:.0f}", f"{end / top:.0%}"])
    report.say(
        "## Fraction of the machine's matrix rate",
        f"Each product of a training step at C = {C}, V = {V}, {B * T} positions, fp32, best of {3 * (rounds + 1)}; "
        "and our whole step, its operations by formula (24 C² + 4 T C a token and layer, the head on selected tokens, "
        "times three for backward), without padding. 100 % is the fastest of the products.",
        table(["", "GFLOP/s", "of the fastest"], rows),
    )
    report.goal(f"training step, share of the matrix rate at C = {C}", share[1], 0.65)
    report.data["matrix rate"] = {"products": rates, "step_flops": work, "seconds": seconds}


# --- (e) memory -----------------------------------------------------------------------------------------------------


def memory(report: Report) -> None:
    """The growth of memory in training, each arm in a process of its own."""
    rows, data = [], {}
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    for name in MAKE:
        command = [sys.executable, "-m", "benchmarks.memory", name, *map(str, (C, LAYERS, V, T, B))]
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        before, peak = done.stdout.split()
        if peak == "None":
            report.say("## Memory", "Left out: this system does not tell a process's peak.")
            return
        data[name] = int(peak) - int(before)
    rows = [[name, f"{grown / 2**20:,.0f}", f"{grown / data[OURS]:.2f}"] for name, grown in data.items()]
    report.say(
        "## Memory of a training step",
        f"Growth of the process from before the first step to its peak: activations, gradients, AdamW's moments. "
        f"{B} × {T} positions, 7 % of them selected, as in the padded batches; V = {V}.",
        table(["", "MiB", "times ours"], rows),
    )
    report.data["memory"] = data


# --- (f) how time grows ---------------------------------------------------------------------------------------------


def growth(report: Report, rounds: int) -> None:
    """Our training step while one of T, C and the layers grows."""
    report.say(
        "## How time grows",
        f"Our training step without padding, {POSITIONS} positions, V = {V}; but for what grows C = {C}, {LAYERS} "
        "layers, T = 128. *by formula*: operations relative to the first row. T beside the same number of positions: "
        "fewer, longer texts.",
    )
    for what, values in {"T": (64, 128, 256, 512, 1024), "C": (64, 128, 256, 512), "layers": (1, 2, 4, 8)}.items():
        runs, work = {}, {}
        for value in values:
            size = {"C": C, "layers": LAYERS, "T": 128} | {what: value}
            batch = random_batch(V, POSITIONS // size["T"], size["T"])
            step = training_step(make_arms(configuration(**size, V=V), [OURS])[OURS])
            runs[str(value)] = lambda _, step=step, batch=batch: step(batch)
            lengths = [size["T"]] * batch["ids"].shape[0]
            selected = int((batch["labels"] != IGNORE).sum())
            work[str(value)] = step_flops(size["C"], size["layers"], V, lengths, selected)
        seconds = alternate(runs, rounds)
        first = str(values[0])
        rows = [
            [
                name,
                spread(quartiles(s), 0, 1e3),
                spread(ratios(s, seconds[first])),
                f"{work[name] / work[first]:.2f}",
                f"{work[name] / quartiles(s)[1] / 1e9:.0f}",
            ]
            for name, s in seconds.items()
        ]
        report.say(table([what, "ms", "relative", "by formula", "GFLOP/s"], rows))
        report.data[f"growth with {what}"] = {"seconds": seconds, "flops": work}


# --- (g) where time goes --------------------------------------------------------------------------------------------

GROUPS = {  # the first group one of whose words is in an operation's name
    "optimizer": ("adam", "optimizer"),
    "attention": ("scaled_dot_product", "flash_attention"),
    "matrix products": ("addmm", "::mm", "bmm", "matmul", "linear"),
    "softmax and loss": ("softmax", "nll_loss", "cross_entropy"),
    "layer norm": ("layer_norm",),
    "activation": ("gelu",),
    "dropout": ("dropout", "bernoulli"),
    "embedding, selection": ("embedding", "index", "gather", "nonzero", "scatter"),
    "sums, copies, new tensors": ("add", "sum", "copy", "empty", "zero", "fill", "clone", "cat", "mul", "div"),
}


def group_of(operation: str) -> str:
    """Return the group of an operation's name, such as aten::addmm."""
    name = operation.lower()
    return next((group for group, words in GROUPS.items() if any(word in name for word in words)), "other operations")


def where_time_goes(report: Report, rounds: int) -> None:
    """A profile of our training step, by groups of operations, and its largest operations."""
    sequences, tokenizer = encoded(V, T, 4 * B)
    batches = padded_batches(sequences, tokenizer, B, 4)
    for dropout in (0.0, 0.1):
        step = training_step(make_arms(configuration(C, LAYERS, V, T, dropout), [OURS])[OURS])
        step(batches[0])
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            start = time.perf_counter()
            for round_ in range(rounds):
                step(batches[round_ % 4])
            wall = time.perf_counter() - start
        operations = {event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}
        groups: dict[str, float] = defaultdict(float)
        for name, seconds in operations.items():
            groups[group_of(name)] += seconds
        groups["Python, between operations"] = max(0.0, wall - sum(operations.values()))
        rows = []
        for group, seconds in sorted(groups.items(), key=lambda item: -item[1]):
            names = sorted((n for n in operations if group_of(n) == group), key=lambda n: -operations[n])[:2]
            shown = ", ".join(f"{n.removeprefix('aten::')} {operations[n] / wall:.1%}" for n in names)
            rows.append([group, f"{seconds / wall:.1%}", f"{1e3 * seconds / rounds:.1f}", shown])
        unfused = " With dropout torch has no fused attention on the CPU: its parts stand under their own names."
        report.say(
            f"## Where our training step spends its time, dropout {dropout:g}",
            f"torch.profiler over {rounds} steps on the padded batches, V = {V}; its own cost falls on Python."
            + (unfused if dropout else ""),
            table(["", "share", "ms a step", "largest"], rows),
        )
        report.data[f"profile, dropout {dropout:g}"] = {"wall": wall, "steps": rounds, "groups": dict(groups)}


# --- all of it ------------------------------------------------------------------------------------------------------


def run(quick: bool) -> Report:
    """Measure everything and return the report; its first lines say on which machine."""
    report = Report()
    report.data["machine"] = here = machine()
    versions = ", ".join(f"{name} {number}" for name, number in here["versions"].items() if number)
    report.say(
        f"# Benchmark{', quick: not to quote' if quick else ''}",
        f"{here['processor']} ({here['instructions']}), {here['threads']} of {here['cores']} cores, {here['system']}, "
        f"Python {here['python']}, {versions}; {datetime.date.today()}. Load when it began: {here['load']}. "
        "Medians, quartiles in brackets; arms in turn.",
    )
    if here["load"] is not None and here["load"] > 0.3 * here["cores"]:
        report.say("Other programs were running: read ratios, not times.")
    steps(report, rounds=2 if quick else 10, fewer=1 if quick else 6)
    end_to_end(report, rounds=1 if quick else 3, fewer=1 if quick else 2, batches=3 if quick else 20)
    sentences(report, rounds=2 if quick else 10, fewer=1 if quick else 6, texts=128 if quick else 500)
    matrix_rate(report, rounds=3 if quick else 12)
    memory(report)
    growth(report, rounds=1 if quick else 5)
    where_time_goes(report, rounds=2 if quick else 8)
    if torch.cuda.is_available():
        base = EncoderConfig.preset("base", 50_265)
        report.data["accelerator"] = training_rate(report.say, torch.device("cuda"), base, names=[OURS])
    else:
        report.say("## GPU", "Left out: there is no NVIDIA GPU here.")
    report.say("## Goals", goals(report.goals))
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds; writes nothing unless --out is given")
    parser.add_argument("--threads", type=int, help="threads of torch; without it, as many as torch takes")
    parser.add_argument(
        "--out", type=Path, help="the results' file without its ending (default benchmarks/results/cpu)"
    )
    options = parser.parse_args(arguments)
    if options.threads is not None:
        if options.threads < 1:
            parser.error(f"--threads is {options.threads}; it must be at least 1.")
        torch.set_num_threads(options.threads)
    start = time.perf_counter()
    report = run(options.quick)
    report.say(f"Took {(time.perf_counter() - start) / 60:.1f} minutes.")
    out = options.out or (None if options.quick else RESULTS / ("cuda" if torch.cuda.is_available() else "cpu"))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".md").write_text("\n\n".join(report.text) + "\n", encoding="utf-8", newline="\n")
        text = json.dumps({"goals": report.goals, **report.data})
        short = json.loads(text, parse_float=lambda digits: float(f"{float(digits):.6g}"))
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in short.items())
        out.with_suffix(".json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8", newline="\n")
        print(f"wrote {out.with_suffix('.md')} and {out.with_suffix('.json')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
