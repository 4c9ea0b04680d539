"""Where the course's files lie, and how a file is written: whole or not at all."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = Path(__file__).resolve().parent
FIRST_EDITION = ({"settings", "history"}, {"format"})  # what its files say of themselves; they had no hash
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
ABOUT = "about"  # where a safetensors file says what it is
NEW = ".new"  # the ending of a file that waits for the others of its folder


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


def launched() -> bool:
    """Return whether torchrun, or what sets its variables, started this process as one of several, called ranks."""
    return "MASTER_ADDR" in os.environ and os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1")


def say(line: str, flush: bool = False) -> None:
    """Print a line, of several ranks the first alone; a console that lacks a character of it gets a question mark."""
    if launched() and os.environ.get("RANK") != "0":
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(line.encode(encoding, "replace").decode(encoding), flush=flush)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return sha256(path.read_bytes()).hexdigest()


def read_text(path: str | Path, encoding: str = "utf-8", newline: str | None = None, call: str = "") -> str:
    """Return what a text file holds, without a byte order mark; line ends become "\\n", or stay with newline="".

    call: the function that takes an encoding, for the advice. Raises ValueError as `decoded` does.
    """
    return io.StringIO(decoded(Path(path).read_bytes(), path, encoding, call), newline=newline).getvalue()


def decoded(content: bytes, path: str | Path, encoding: str = "utf-8", call: str = "", start: int = 0) -> str:
    """Return the text of a file's bytes, which begin at number `start`, without a byte order mark.

    Raises ValueError for an encoding that is not known, and for bytes that are not in it, with the place of the first.
    """
    try:
        if not start and content.startswith(UTF_16) and codecs.lookup(encoding).name == "utf-8":
            other = f', or read it with encoding="utf-16": {call}(path, encoding="utf-16")' if call else ""
            raise ValueError(f"{path} is written in UTF-16. Save it as UTF-8{other}.")
        text = content.decode(encoding).removeprefix("" if start else "\ufeff")
    except LookupError:
        raise ValueError(f"there is no encoding {encoding!r}; usual ones are utf-8, cp1252 and utf-16.") from None
    except UnicodeDecodeError as error:
        where = f"number {start + error.start} of the file, from 0"
        if not start:
            line = content[: error.start].count(b"\n") + 1
            where = f"in line {line} ({where})"
        other = (
            f' (in a spreadsheet: CSV UTF-8), or name its encoding, such as {call}(path, encoding="cp1252"), and look '
            "whether the letters are right"
        )
        raise ValueError(
            f"{path} is not {encoding}: byte 0x{content[error.start]:02x} {where}. Save the file as "
            f"UTF-8{other if call else ''}."
        ) from None
    if "\0" in text:  # UTF-16 without a mark is valid UTF-8
        raise ValueError(f"{path} holds the character NUL: it is no text, or in UTF-16 or UTF-32. Save it as UTF-8.")
    return text


def json_of(text: str) -> object:
    """Return what a JSON text holds; ValueError for what is none, and for one that is nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None


def make_folder(folder: str | Path) -> None:
    """Make a folder when it is not there; NotADirectoryError, which says what to do, when something else is."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        what = "a link to nowhere" if os.path.islink(error.filename) else "a file"
        raise NotADirectoryError(f"'{error.filename}' is {what}; name a folder, or move it away.") from None


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; put that file in the place of `path` when it is complete.

    After an error, a full disk or a kill an older file is as it was. The folder is made when it is not there.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder; name a file in it, such as {path / 'name'}.")
    make_folder(path.parent)
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


@contextmanager
def writing_folder(folder: str | Path, names: Sequence[str]) -> Iterator[dict[str, Path]]:
    """Give for each of a folder's files a name to write to; put all of them in their places together, or none.

    The last one is the seal: when it is complete, the new files count, and a kill while they are moved leaves what
    `settle` finishes. Before that, the older files are as they were.
    """
    folder = Path(folder)
    make_folder(folder)
    settle(folder, names[-1])
    parts = {name: folder / f"{name}{NEW}" for name in names}
    try:
        yield parts
    except BaseException:
        for part in parts.values():
            with suppress(OSError):
                part.unlink(missing_ok=True)
        raise
    settle(folder, names[-1])


def settle(folder: Path, seal: str) -> None:
    """Put new files in their places where a complete set of them was left by a kill."""
    if (folder / f"{seal}{NEW}").is_file():
        for part in sorted(folder.glob(f"*{NEW}"), key=lambda part: part.name == f"{seal}{NEW}"):  # the seal last
            os.replace(part, part.with_name(part.name.removesuffix(NEW)))


def check_readable(path: str | Path) -> None:
    """Raise the system's own error for a file that may not be read: safetensors says of it that it is not there."""
    with open(path, "rb"):
        pass


def write_safetensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all, with a hash of what it holds; OSError when that fails."""
    from safetensors import SafetensorError  # here: who starts JupyterLab need not wait for torch
    from safetensors.torch import save_file

    # clones: safetensors refuses tensors that share memory, as tied weights do
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        with writing(path) as part:
            part.touch()
            mode = part.stat().st_mode  # what others may do with a new file here; safetensors would let nobody read it
            told = json.dumps(metadata | {"sha256": content_hash(copies, metadata)}, sort_keys=True)
            save_file(copies, part, {ABOUT: told})  # one entry: several would be stored in an order that changes
            part.chmod(mode)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"could not write {path}: {error}. An older file of that name is as it was, and the model keeps its "
            "weights in memory. Free some space or choose another folder."
        ) from error


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file that `write_safetensors` wrote.

    Raises ValueError for a file that is damaged or of another kind; one of an older edition has no hash to compare.
    OSError when it is not there or may not be read.
    """
    from safetensors import SafetensorError, safe_open

    check_readable(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        older = set(metadata) in FIRST_EDITION
        metadata = json.loads(metadata[ABOUT]) if ABOUT in metadata else metadata
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or no whole safetensors file ({error}).") from None
    stored = metadata.pop("sha256", None)
    if not older and stored != content_hash(tensors, metadata):
        raise ValueError(f"{path} is damaged, or was not written by the course.")
    return tensors, metadata


def content_hash(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Return the SHA-256 of tensors with their names, kinds and shapes, and of metadata."""
    import torch

    digest = sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
