"""A learner's workspace: copies of the lessons with blanks in place of solutions, and JupyterLab opened on one.

What lies in the workspace belongs to the learner and is never overwritten. Each copy remembers, in its metadata, the
hash of the learner's version that it was made from; when the shipped lesson changes, the new one is laid beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from urllib.parse import quote

from nextbert_lite import lessons


def prepare(folder: str | Path) -> list[str]:
    """Copy each lesson that is not there yet into the folder and return one line for each file that was written.

    A lesson that differs from the one that the learner's copy was made from goes beside it, as `NAME.new.ipynb`, once.
    Raises OSError when the folder cannot be written and FileNotFoundError when the course has no lessons.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"'{folder}' is a file; name a folder, or move that file away.")
    found = lessons.find_lessons()
    if not found:
        raise FileNotFoundError(
            "the course's folder 'notebooks' holds no lessons. In a clone `make notebooks` builds them; "
            "else install the package again: pip install --force-reinstall --no-deps nextbert-lite"
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for lesson in found:
        notebook = lessons.learner_version(lessons.read_notebook(lesson))
        version = fingerprint(notebook)
        notebook.setdefault("metadata", {})["nextbert_lite"] = {"made_from": version}
        target = folder / lesson.name
        if not os.path.lexists(target):
            write(target, lessons.write_notebook(notebook))
            written.append(f"made     {target}")
        elif version not in [made_from(path) for path in (target, *offers(target))]:
            beside = next(path for path in offer_names(target) if not os.path.lexists(path))
            write(beside, lessons.write_notebook(notebook))
            reason = "the lesson has changed" if made_from(target) else "not made from this lesson, or unreadable"
            written.append(f"offered  {beside}  ({reason}; your {target.name} is kept as it is)")
    return written


def fingerprint(notebook: dict) -> str:
    """Return a short hash of a learner's version: equal as long as a learner would see the same lesson."""
    return hashlib.sha256(json.dumps(notebook, sort_keys=True).encode()).hexdigest()[:16]


def made_from(path: Path) -> str | None:
    """Return the fingerprint of the version that a copy was made from; None when the file does not tell."""
    try:
        return lessons.read_notebook(path)["metadata"]["nextbert_lite"]["made_from"]
    except (ValueError, KeyError, TypeError, OSError):  # broken, another's notebook, a folder
        return None


def offer_names(target: Path) -> Iterator[Path]:
    """Yield 02_attention.new.ipynb, 02_attention.new-2.ipynb, …: what a new version beside `target` may be called."""
    yield target.with_name(f"{target.stem}.new.ipynb")
    yield from (target.with_name(f"{target.stem}.new-{i}.ipynb") for i in count(2))


def offers(target: Path) -> list[Path]:
    """Return the new versions that lie beside `target` already."""
    return sorted(target.parent.glob(f"{target.stem}.new*.ipynb"))


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all: a full disk or a kill leaves no half lesson behind."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def lesson_in(folder: str | Path, number: str | None = None) -> Path:
    """Return the learner's copy of lesson `number` ("02"); without a number, of the first one.

    Raises ValueError, which lists the lessons there are, for another.
    """
    copies = {lessons.lesson_number(path): Path(folder) / path.name for path in lessons.find_lessons()}
    if number is None:
        return next(iter(copies.values()))
    if number.zfill(2) not in copies:
        raise ValueError(f"there is no lesson '{number}'; there are: {', '.join(copies)}.")
    return copies[number.zfill(2)]


def lab_arguments(notebook: Path, port: int | None = None, extra: Sequence[str] = ()) -> list[str]:
    """Return JupyterLab's arguments: the notebook to open, and no request to the network for news or updates."""
    where = f"--LabApp.default_url=/lab/tree/{quote(notebook.name)}"  # for those who copy the address it prints
    quiet = ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    return [str(notebook), *([f"--port={port}"] if port else []), where, *quiet, *extra]


def open_lab(arguments: list[str]) -> None:
    """Run JupyterLab in this process, with this Python as its kernel, until the learner stops it."""
    if hasattr(os, "geteuid") and os.geteuid() == 0 and "--allow-root" not in arguments:
        raise PermissionError(
            "JupyterLab does not run as root unless you say so. As another user, repeat the command; "
            'as root: nextbert-lite start DIR -- --allow-root, or make lab LAB="-- --allow-root"'
        )
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # this environment's kernel, before one of the user's own
    try:
        from jupyterlab.labapp import LabApp
    except ModuleNotFoundError as error:
        raise FileNotFoundError(
            f"JupyterLab is not installed with this Python ({error}). "
            "Install it (pip install jupyterlab), or prepare only, with --no-open."
        ) from None
    LabApp.launch_instance(arguments)
