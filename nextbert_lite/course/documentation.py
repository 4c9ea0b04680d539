"""`nextbert-lite search`: the index of the documentation on this machine, made once and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from nextbert_lite.corpora.harvest import Document
from nextbert_lite.corpora.python_docs import load_docs
from nextbert_lite.files import cache_dir, file_hash, read_safetensors, write_safetensors
from nextbert_lite.use import checkpoints
from nextbert_lite.use.embedding import embed
from nextbert_lite.use.search import SearchIndex

FORMAT = 1  # of the stored index: a change of what is stored, or of how the vectors are made, is a new number


def open_index(
    model: str | Path = "docs-contrastive", rebuild: bool = False, report: Callable[[str], object] | None = None
) -> SearchIndex:
    """Return the index over all the documentation on this machine, by the model of a checkpoint.

    Making it takes a minute or two. It is kept in the folder that `load_docs` uses, and made again when the corpus, the
    checkpoint or the format changed, the file is damaged, or `rebuild` is true. report: gets a line now and then.
    Raises FileNotFoundError or ValueError for a checkpoint that cannot be loaded.
    """
    folder, report = checkpoints.find(model).resolve(), report or (lambda line: None)
    kept = None if rebuild else _stored(folder)
    if kept is None:
        report("Reading the documentation of Python, PyTorch, NumPy and Matplotlib on this machine …")
    docs = load_docs()
    checkpoint = file_hash(folder / checkpoints.CARD)
    made_of = {"format": str(FORMAT), "corpus": docs.fingerprint["sha256"], "checkpoint": checkpoint}
    if kept and kept[1] == made_of:
        return SearchIndex(docs.documents, folder, vectors=kept[0])
    vectors = _embed_all(docs.documents, folder, report)
    with suppress(OSError, RuntimeError):  # a folder that cannot be written costs the time again, nothing else
        write_safetensors(_place(folder), {"vectors": vectors}, made_of)
    return SearchIndex(docs.documents, folder, vectors=vectors)


def _embed_all(documents: Sequence[Document], model: Path, report: Callable[[str], object]) -> Tensor:
    report(f"Making the index of {len(documents):,} documents, once; it is kept for the next search.")
    vectors = []
    for start in range(0, len(documents), 1000):
        part = documents[start : start + 1000]
        vectors.append(embed([d.text for d in part], model, long="windows"))
        report(f"  {start + len(part):,} of {len(documents):,} documents")
    return torch.cat(vectors)


def _stored(folder: Path) -> tuple[Tensor, dict[str, str]] | None:
    """Return the stored vectors and what they were made of; None when there are none or the file is damaged."""
    try:
        tensors, made_of = read_safetensors(_place(folder))
        return tensors["vectors"], made_of
    except (OSError, RuntimeError, ValueError, KeyError):
        return None


def _place(folder: Path) -> Path:
    return cache_dir() / f"index-{sha256(str(folder).encode()).hexdigest()[:16]}.safetensors"
