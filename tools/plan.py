"""The figures of book/plan.md, from the functions of cost of lesson 20 and the package's own preset."""

from __future__ import annotations

import contextlib
import functools
import io
from pathlib import Path

import torch

from nextbert_lite import Encoder, EncoderConfig, MaskedLanguageModel

ROOT = Path(__file__).resolve().parent.parent
VOCAB, ROWS, RATE = 32_000, 2_048, 0.3  # of the command: tokens of the vocabulary, texts a batch, masking rate
RANKS, ACCUMULATE = (8, 64), {8: 4, 64: 1}
BUDGETS = {  # name -> tokens
    "twenty tokens a parameter, as for a decoder (lesson 08)": None,
    "BERT, 2018": 1_000_000 * 256 * (0.9 * 128 + 0.1 * 512),
    "RoBERTa, 2019, its 500,000 steps": 500_000 * 8_192 * 512,
    "ModernBERT, 2024": 1.719e12,
}


@functools.cache
def lesson() -> dict:
    """Return what the two cells of lesson 20 define that hold the model of cost and the published runs."""
    (path,) = (ROOT / "notebooks" / "source").glob("20_*.py")
    cells = path.read_text(encoding="utf-8").split("\n# %%")
    found: dict = {}
    exec("from dataclasses import dataclass", found)
    for mark in ("class Machine:", "utilization = {}"):
        (cell,) = (cell for cell in cells if f"\n{mark}" in cell)
        with contextlib.redirect_stdout(io.StringIO()):
            exec(cell.partition("\n")[2], found)
    return found


@functools.cache
def size() -> tuple[int, EncoderConfig]:
    """Return the parameters of `base` with its head, and its configuration."""
    config = EncoderConfig.preset("base", VOCAB)
    with torch.device("meta"):
        model = MaskedLanguageModel(Encoder(config))
    return sum(parameter.numel() for parameter in model.parameters()), config


def amounts() -> dict[str, str]:
    """Return the single numbers of the page's text, by name."""
    cost, (N, config) = lesson(), size()
    tokens = ROWS * config.max_len
    return {
        "parameters": f"{N / 1e6:.0f} million",
        "tokens": f"{tokens:,}",
        "state": f"{16 * N / 1e9:.1f} GB",
        "checkpoint": f"{12 * N / 1e9:.1f} GB",
        "utilization": f"{cost['utilization']['ModernBERT-base, 2024']:.0%}",
    }


def memory(table) -> str:
    """Return the memory of one device, by formula."""
    cost, (N, config) = lesson(), size()
    rows = []
    for n in RANKS:
        part = ROWS // n // ACCUMULATE[n]
        tokens = part * config.max_len
        logits = 3 * 4 * RATE * tokens * VOCAB  # logits, log-softmax and gradient, float32, of the selected tokens
        for stage, name in ((0, "each device keeps everything (DDP)"), (3, "`--shard` (FSDP2)")):
            # the package's --shard keeps one plain copy of the weights besides
            plain = 4 * N if stage else 0
            found = cost["memory_bytes"](N, config.layers, config.width, tokens, n, stage) + plain
            rows.append((n, name, f"{part} × {config.max_len}", f"{found / 1e9:.1f} GB", f"{logits / 1e9:.1f} GB"))
    return table(("GPUs", "", "texts × tokens at a time", "state and layers", "head's logits"), *rows)


def time(table) -> str:
    """Return days and device hours for each budget, at a published run's utilization and at half of it."""
    cost, (N, config) = lesson(), size()
    usual = cost["utilization"]["ModernBERT-base, 2024"]
    rows = []
    for name, tokens in BUDGETS.items():
        tokens = 20 * N if tokens is None else tokens
        for n in RANKS:
            found = [cost["days"](N, tokens, ROWS * config.max_len, n, cost["H100"], u) for u in (usual, usual / 2)]
            steps = tokens / (ROWS * config.max_len)
            at = [f"{d:.1f}" if d >= 1 else f"{24 * d:.1f} h" if d >= 1 / 24 else f"{1440 * d:.0f} min" for d in found]
            rows.append((name, f"{tokens / 1e9:,.0f}", f"{steps:,.0f}", n, *at, f"{24 * n * found[0]:,.0f}"))
    head = ("text", "tokens (10⁹)", "steps", "GPUs", f"days at {usual:.0%}", f"at {usual / 2:.0%}", "GPU hours")
    return table(head, *rows)


def step(table) -> str:
    """Return what a step costs in computing and in sending, and what the disks and the tokenizer must deliver."""
    cost, (N, config) = lesson(), size()
    usual, machine, tokens = cost["utilization"]["ModernBERT-base, 2024"], cost["H100"], ROWS * config.max_len
    rows = []
    for n in RANKS:
        computing = cost["operations"](N, tokens) / (n * machine.peak * usual)
        sending = cost["sending_seconds"](4 * N, n, machine)
        whole = cost["step_seconds"](N, tokens, n, machine, usual)
        rate = tokens / whole
        rows.append((n, *(f"{1e3 * s:.0f} ms" for s in (computing, sending, whole)), f"{rate / 1e6:.1f} million"))
    return table(("GPUs", "computing", "gradients' all-reduce", "step", "tokens a second"), *rows)


def inserts(table) -> dict[str, str]:
    """Return what stands in place of the marks of book/plan.md. table: makes Markdown of rows."""
    return {f"plan_{make.__name__}": make(table) for make in (memory, time, step)} | {
        f"plan_{name}": text for name, text in amounts().items()
    }
