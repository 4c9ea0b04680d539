"""Texts to unit vectors, in one call: `embed(texts)`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nextbert_lite.training.batches import by_length
from nextbert_lite.training.device import pick_device
from nextbert_lite.training.loop import evaluating
from nextbert_lite.training.tokenizer import cut, windows
from nextbert_lite.use import checkpoints
from nextbert_lite.use.parts import Model, Parts, is_published, read_parts
from nextbert_lite.validate import check_count, check_texts, check_vectors

LONG = ("error", "cut", "windows")
PRECISIONS = ("float32", "bfloat16")


@torch.no_grad()
def embed(
    texts: Sequence[str],
    model: Model = "docs-contrastive",
    *,
    long: str = "error",
    batch_size: int = 64,
    device: str | torch.device | None = None,
    precision: str = "float32",
) -> Tensor:
    """Return one vector of length 1 a text, (N, C), float32, on the CPU, in the order of the texts.

    model: a checkpoint's name, a folder (a published one too), what `load` or `load_pretrained` gives, or (model,
    tokenizer); an encoder and a masked language model are mean-pooled.
    long: what to do with a text of more than `max_len` tokens: "error", "cut" the rest off, or take the mean vector of
    its "windows", consecutive parts of about the same length. device: where to compute; by default where the model is,
    and for a checkpoint the fastest device there is. precision: "bfloat16" computes the matrix products with 8 bits of
    mantissa: faster on a GPU and on a CPU that has such products (AMX, AVX-512 BF16), on others slower; the vectors
    differ in the third digit (lesson 18 measures what that costs).
    Raises TypeError for what is no list of texts, ValueError for an empty list, an empty text, one that is too long,
    and vectors that are not finite.
    """
    check_count("batch_size", batch_size)
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}.")
    texts = check_texts(texts)
    encoder, tokenizer = _loaded(model) if isinstance(model, str | Path) else read_parts(model)
    home = next(encoder.parameters()).device
    device = pick_device(device) if device is not None or isinstance(model, str | Path) else home

    parts, owner = [], []  # the parts of all texts, and the number of the text that each is of
    for number, ids in enumerate(tokenizer.encode_batch(texts)):
        found = parts_of(ids, encoder.encoder.config.max_len, long, number)
        parts += found
        owner += [number] * len(found)

    with evaluating(encoder), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        try:
            encoder.to(device)
            vectors = by_length(
                parts,
                tokenizer.pad_id,
                lambda *batch: encoder(*(x.to(device) for x in batch)).float().cpu(),
                batch_size,
            )
        finally:
            encoder.to(home)
    unit = F.normalize(vectors, dim=-1)
    total = torch.zeros(len(texts), unit.shape[1]).index_add(0, torch.tensor(owner), unit)
    return F.normalize(check_vectors(total), dim=-1)


def parts_of(ids: list[int], max_len: int, long: str, number: int) -> list[list[int]]:
    """Return the text as it is, cut, or in windows, each with [CLS] and [SEP]; ValueError for one that is too long."""
    if long not in LONG:
        raise ValueError(f"long is {long!r}; choose one of {', '.join(LONG)}.")
    if len(ids) <= max_len:
        return [ids]
    if long == "error":
        raise ValueError(
            f'text {number} has {len(ids):,} tokens; this model reads {max_len}. Shorten it, or choose long="cut" '
            '(only its beginning counts) or long="windows" (the mean over its parts).'
        )
    return [cut(ids, max_len)] if long == "cut" else windows(ids, max_len)


def _loaded(name: str | Path) -> Parts:
    """Return a checkpoint's parts, read anew only when its files changed."""
    folder = Path(name) if is_published(name) else checkpoints.find(name)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stamps = tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in files)
    return _load(folder.resolve(), stamps)


@lru_cache(maxsize=4)
def _load(folder: Path, stamps: tuple) -> Parts:
    return read_parts(folder)
