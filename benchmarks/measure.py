"""How the benchmark measures: arms in turn, medians with quartiles, ratios in pairs, tables in Markdown."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate", "tokenizers", "numpy")


def alternate(
    arms: dict[str, Callable[[int], object]],
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Run the arms in turn, A B C A B C …, and return each one's seconds, one number a round.

    An arm gets the round's number. The warm-up rounds come first and are not counted. In turn, because whatever else
    the machine does then slows all arms alike: ratios stay right where times do not.
    """
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for round_ in range(-warmup, rounds):
        for name, run in arms.items():
            start = clock()
            run(round_)
            if round_ >= 0:
                seconds[name].append(clock() - start)
    return seconds


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if not values:
        raise ValueError("there is no value to take quartiles of: give at least one round.")
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> tuple[float, float, float]:
    """Return the quartiles of theirs / ours, taken round by round."""
    return quartiles([a / b for a, b in zip(theirs, ours, strict=True)])


def spread(values: tuple[float, float, float], digits: int = 2, scale: float = 1.0, unit: str = "") -> str:
    """Return "1.75 (1.71-1.80)": the median, and the quartiles in brackets."""
    low, middle, high = (f"{scale * v:,.{digits}f}" for v in values)
    return f"{middle}{unit} ({low}-{high})"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    wrong = [row for row in rows if len(row) != len(header)]
    if wrong:
        raise ValueError(f"the row {wrong[0]} has {len(wrong[0])} cells; the header has {len(header)}.")
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def goals(reached: dict[str, tuple[float, float]]) -> str:
    """Return a table of {goal: (figure, least)}: what was asked for and what was measured."""
    rows = [[name, f"{least:g}", f"{v:.2f}", "yes" if v >= least else "no"] for name, (v, least) in reached.items()]
    return table(["goal", "at least", "measured", "reached"], rows)


# --- the machine ----------------------------------------------------------------------------------------------------


def machine() -> dict[str, object]:
    """Return what a figure depends on: processor, threads, versions, and how busy the machine was."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def processor() -> str:
    """Return the processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def installed(package: str) -> str | None:
    """Return the version of a package, None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# --- memory ---------------------------------------------------------------------------------------------------------


def peak_memory() -> int | None:
    """Return the most bytes that this process has held so far; None where the system does not say.

    Linux: VmHWM, since `getrusage` there counts the process that started this one too.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


# --- floating-point operations --------------------------------------------------------------------------------------


def step_flops(C: int, layers: int, V: int, lengths: Sequence[int], selected: float) -> float:
    """Return the operations of one training step, from the formula, for texts of these lengths.

    A token costs 24 C² + 4 T C in a layer forwards: 6 C² for queries, keys and values, 2 C² for the output, 16 C² for
    the feed-forward network of width 4 C, 4 T C for scores and mixing. A selected token costs 2 C² + 2 C V in the
    head. Backwards costs twice as much. Norms, softmax and the optimizer are left out.
    """
    body = sum(layers * T * (24 * C * C + 4 * T * C) for T in lengths)
    return 3.0 * (body + selected * (2 * C * C + 2 * C * V))
