"""On an NVIDIA GPU: `base` in bfloat16 beside Hugging Face; `fit` and resuming; `embed`; two lessons.

    python -m benchmarks.gpu                    everything, some minutes
    python -m benchmarks.gpu --lessons          without executing lessons; `--lessons 06` executes one
    python -m benchmarks.gpu --device cpu       a small model, to see that the script runs; its figures say nothing

Prints a report; `--out FILE` writes it too. Nothing is installed or downloaded. One failed check ends with exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.arms import HUGGINGFACE, OURS, check_same, configuration, make_arms, random_batch, training_step
from benchmarks.measure import alternate, machine, quartiles, ratios, spread, step_flops, table
from nextbert_lite import ToyWorld, embed, fit, load, load_docs
from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.core.masking import IGNORE
from nextbert_lite.training.batches import MLMBatches

ROOT = Path(__file__).resolve().parent.parent
Say = Callable[..., None]


def finished(device: torch.device) -> None:
    """Wait until the device has computed what it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def training_rate(
    say: Say,
    device: torch.device,
    config: EncoderConfig,
    batch_size: int = 32,
    rounds: int = 20,
    size: int = 8192,
    names: Sequence[str] = (OURS, *HUGGINGFACE),
) -> dict[str, object]:
    """Tokens a second of a training step in bfloat16, and its share of the measured rate of a large product."""
    batch = random_batch(config.vocab_size, batch_size, config.max_len, device=device)
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    arms = make_arms(config, names)
    check_same(arms, random_batch(config.vocab_size, 2, min(config.max_len, 32)))

    def training(name: str) -> Callable[[int], None]:
        arms[name].model.to(device).train()
        step = training_step(arms[name])

        def run(round_: int) -> None:
            with torch.autocast(device.type, torch.bfloat16):
                step(batch)
            finished(device)

        return run

    def product(_: int) -> None:
        for _ in range(5):
            a @ b
        finished(device)

    seconds = alternate({name: training(name) for name in names} | {"product": product}, rounds, warmup=3)
    peak = 5 * 2 * size**3 / min(seconds["product"])
    selected = int((batch["labels"] != IGNORE).sum())
    lengths = [config.max_len] * batch_size
    work = step_flops(config.width, config.layers, config.vocab_size, lengths, selected)
    rows = []
    for name in names:
        its = seconds[name]
        rows.append(
            [
                name,
                spread(quartiles([batch["ids"].numel() / s for s in its]), 0),
                spread(quartiles([work / s / 1e12 for s in its]), 1),
                spread(quartiles([work / s / peak for s in its]), 0, 100, " %"),
                spread(ratios(its, seconds[names[0]])),
            ]
        )
    say(
        f"## Training step, {device_name(device)}, bfloat16",
        f"C = {config.width}, {config.layers} layers, V = {config.vocab_size}, dropout {config.dropout:g}, "
        f"{batch_size} × {config.max_len} positions without padding; the same weights and batches, arms in turn. "
        f"A product of two matrices {size} × {size}: {peak / 1e12:.1f} TFLOP/s. Operations by the formula of "
        "`step_flops`, of our step, whose head reads the selected tokens alone: whoever computes more gets no more.",
        table(["", "tokens / s", "TFLOP/s", "of the product's rate", f"seconds, of {names[0]}'s"], rows),
    )
    return {"name": device_name(device), "seconds": seconds, "step_flops": work, "peak": peak}


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def resuming(say: Say, device: torch.device, config: EncoderConfig, steps: int = 40) -> None:
    """`fit` on the device, once through and once stopped half-way, gives the same weights to the bit."""
    world = ToyWorld()
    ids, mask = world.sample_ids(512, seed=1)
    tokenizer = world.tokenizer()
    texts = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
    torch.manual_seed(0)
    start = MaskedLanguageModel(Encoder(config))

    def trained(*stops: int, folder: Path) -> tuple[dict[str, Tensor], list[float]]:
        batches = MLMBatches(texts, tokenizer, 32, seed=1)
        for stop in stops:  # only the last one is the end
            model, halt = copy.deepcopy(start), Halting(batches, after=stop if stop < steps else None)
            how = dict(checkpoint=folder / "state", checkpoint_every=stop, device=device, progress=False)
            with contextlib.suppress(Halted):
                history = fit(model, halt, steps, **how)
        return {name: tensor.cpu() for name, tensor in model.state_dict().items()}, history.loss

    with tempfile.TemporaryDirectory() as folder:
        once, losses = trained(steps, folder=Path(folder, "once"))
        twice, _ = trained(steps // 2, steps, folder=Path(folder, "twice"))
    same = all(torch.equal(once[name], twice[name]) for name in once)
    say(
        f"## `fit` and resuming, {device_name(device)}",
        f"{steps} steps: loss {losses[0]:.2f} → {losses[-1]:.2f}. Broken off after {steps // 2} and gone on: "
        f"{'the same weights to the bit' if same else 'OTHER WEIGHTS'}.",
    )
    if not same or not losses[-1] < losses[0]:
        raise AssertionError("fit on the device does not resume to the same weights, or does not learn.")


class Halted(Exception):
    """Training is broken off, as by a power cut."""


class Halting:
    """Batches that break off after so many calls; None: never."""

    def __init__(self, batches: MLMBatches, after: int | None):
        self.batches, self.left = batches, after

    def __call__(self, step: int) -> dict[str, Tensor]:
        if self.left == 0:
            raise Halted
        self.left = None if self.left is None else self.left - 1
        return self.batches(step)


def embedding(say: Say, device: torch.device, texts: int = 2000) -> None:
    """`embed` on the device and on the CPU gives the same vectors; how many texts a second each computes."""
    bodies = [entry.text for entry in load_docs().test][:texts]
    saved = load("docs-contrastive")
    vectors, apart, rows = [], [], []
    for name, where, precision in (
        ("CPU, float32", "cpu", "float32"),
        (f"{device_name(device)}, float32", device, "float32"),
        (f"{device_name(device)}, bfloat16", device, "bfloat16"),
    ):
        embed(bodies[:64], saved, long="cut", device=where, precision=precision)  # the first call pays for start-up
        began = time.perf_counter()
        vectors.append(embed(bodies, saved, long="cut", device=where, precision=precision))
        rate = len(bodies) / (time.perf_counter() - began)
        apart.append((vectors[-1] - vectors[0]).abs().max().item())
        rows.append([name, f"{rate:,.0f}", f"{apart[-1]:.1e}"])
    say(
        "## `embed`",
        f"{len(bodies)} documentation entries, docs-contrastive.",
        table(["", "texts / s", "largest difference from the CPU's"], rows),
    )
    if apart[1] > 1e-3 or apart[2] > 0.03:
        raise AssertionError(f"the vectors of the device differ from the CPU's by {apart[1]:.1e} and {apart[2]:.1e}.")


def lessons(say: Say, numbers: Sequence[str]) -> None:
    """Execute lessons from a restarted kernel, with all their asserts; on a GPU they use it."""
    tool = runpy.run_path(str(ROOT / "tools" / "notebooks.py"))
    rows = []
    for number in numbers:
        found = sorted((ROOT / "notebooks" / "source").glob(f"{number}_*.py"))
        if len(found) != 1:
            raise SystemExit(f"there is no lesson {number!r}; give numbers such as 06.")
        began = time.perf_counter()
        tool["execute"](tool["read_source"](found[0]))
        rows.append([found[0].stem, f"{time.perf_counter() - began:.0f}"])
    say("## Lessons", "Executed whole; every assert held.", table(["lesson", "seconds"], rows))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--lessons", nargs="*", default=["06", "12"], metavar="NN", help="which to execute (06 12)")
    parser.add_argument("--rounds", type=int, default=20, help="training steps to measure (20)")
    parser.add_argument("--out", type=Path, help="a file for the report")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; it must be at least 1.")
    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no NVIDIA GPU here; `--device cpu` tries the script with a small model.", file=sys.stderr)
        return 1
    device = torch.device(options.device)
    report: list[str] = []

    def say(*parts: str) -> None:
        report.extend(parts)
        print("\n\n".join(parts), end="\n\n", flush=True)

    here = machine()
    say(f"# {device_name(device)}", f"torch {here['versions']['torch']}, Python {here['python']}, {here['processor']}.")
    gpu = device.type == "cuda"
    base = EncoderConfig.preset("base", 50_265, dropout=0.0, eps=1e-5, token_types=1, position_offset=1)
    small = configuration(C=16, layers=2, V=205, T=24)
    training_rate(say, device, base if gpu else small, 32 if gpu else 2, options.rounds, 8192 if gpu else 16)
    toy = EncoderConfig.preset("small" if gpu else "tiny", ToyWorld().tokenizer().vocab_size)
    resuming(say, device, toy, steps=200 if gpu else 8)
    embedding(say, device, 2000 if gpu else 64)
    if options.lessons:
        lessons(say, options.lessons)
    if options.out is not None:
        options.out.write_text("\n\n".join(report) + "\n", encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
