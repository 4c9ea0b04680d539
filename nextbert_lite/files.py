"""Where the course's files lie, and how a file is written: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = Path(__file__).resolve().parent


def share_dir(name: str) -> Path:
    """Return the folder `data` or `notebooks`, from the wheel or from the clone.

    Raises FileNotFoundError, which says how to install, when neither has it.
    """
    for folder in (PACKAGE / "_share" / name, PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"the course's folder '{name}' is missing beside {PACKAGE}. "
        "Install the wheel (pip install nextbert-lite) or clone the project and run `pip install -e .` in it."
    )


def cache_dir() -> Path:
    """Return the folder of what is made once and kept: $NEXTBERT_CACHE, or one in the user's cache."""
    if folder := os.environ.get("NEXTBERT_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nextbert_lite"


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return sha256(path.read_bytes()).hexdigest()


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; put that file in the place of `path` when it is complete.

    After an error, a full disk or a kill an older file is as it was. The folder is made when it is not there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with writing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_safetensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all; OSError, which says what to do, when that fails."""
    from safetensors import SafetensorError  # here: who starts JupyterLab need not wait for torch
    from safetensors.torch import save_file

    # clones: safetensors refuses tensors that share memory, as tied weights do
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        with writing(path) as part:
            part.touch()
            mode = part.stat().st_mode  # what others may do with a new file here; safetensors would let nobody read it
            save_file(copies, part, metadata)
            part.chmod(mode)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"could not write {path}: {error}. An older file of that name is as it was, and the model keeps its "
            "weights in memory. Free some space or choose another folder."
        ) from error
