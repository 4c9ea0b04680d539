"""A learner's workspace, and the lessons' two versions.

The instructor's version, with solutions, is what `notebooks/` holds; the learner's has blanks. In a code cell a
solution stands between nbgrader's two markers, each on a line of its own: `### BEGIN SOLUTION` and `### END SOLUTION`.
A notebook here is the dict that its JSON file holds.

What lies in the workspace belongs to the learner and is never overwritten. Each copy remembers, in its metadata, the
hash of the learner's version that it was made from; when the shipped lesson changes, the new one is laid beside it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from urllib.parse import quote

from nextbert_lite.files import json_of, make_folder, share_dir, write_text

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
BLANK = "pass  # your code here"  # not `...`: as a cell's last line that would print Ellipsis
LOOKS_LIKE_A_MARKER = re.compile(r"\s*#+\s*(BEGIN|END)\s*SOLUTION", re.IGNORECASE)


def prepare(folder: str | Path) -> list[str]:
    """Copy each lesson that is not there yet into the folder and return one line for each file that was written.

    A lesson that differs from the one that the learner's copy was made from goes beside it, as `NAME.new.ipynb`, once.
    Raises OSError when the folder cannot be written and FileNotFoundError when the course has no lessons.
    """
    folder = Path(folder)
    found = find_lessons()
    if not found:
        raise FileNotFoundError(
            "the course's folder 'notebooks' holds no lessons. In a clone `make notebooks` builds them; "
            "else install the package again: pip install --force-reinstall --no-deps nextbert-lite"
        )
    make_folder(folder)
    written = []
    for lesson in found:
        notebook = learner_version(read_notebook(lesson))
        version = fingerprint(notebook)
        notebook.setdefault("metadata", {})["nextbert_lite"] = {"made_from": version}
        target = folder / lesson.name
        if not os.path.lexists(target):
            write_text(target, write_notebook(notebook))
            written.append(f"made     {target}")
        elif version not in [made_from(path) for path in (target, *offers(target))]:
            beside = next(path for path in offer_names(target) if not os.path.lexists(path))
            write_text(beside, write_notebook(notebook))
            reason = "the lesson has changed" if made_from(target) else "not made from this lesson, or unreadable"
            written.append(f"offered  {beside}  ({reason}; your {target.name} is kept as it is)")
    return written


def fingerprint(notebook: dict) -> str:
    """Return a short hash of a learner's version: equal as long as a learner would see the same lesson."""
    return hashlib.sha256(json.dumps(notebook, sort_keys=True).encode()).hexdigest()[:16]


def made_from(path: Path) -> str | None:
    """Return the fingerprint of the version that a copy was made from; None when the file does not tell."""
    try:
        return read_notebook(path)["metadata"]["nextbert_lite"]["made_from"]
    except (ValueError, KeyError, TypeError, OSError):  # broken, another's notebook, a folder
        return None


def offer_names(target: Path) -> Iterator[Path]:
    """Yield 02_attention.new.ipynb, 02_attention.new-2.ipynb, …: what a new version beside `target` may be called."""
    yield target.with_name(f"{target.stem}.new.ipynb")
    yield from (target.with_name(f"{target.stem}.new-{i}.ipynb") for i in count(2))


def offers(target: Path) -> list[Path]:
    """Return the new versions that lie beside `target` already."""
    return sorted(target.parent.glob(f"{target.stem}.new*.ipynb"))


def lesson_in(folder: str | Path, number: str | None = None) -> Path:
    """Return the learner's copy of lesson `number` ("02"); without a number, of the first one.

    Raises ValueError, which lists the lessons there are, for another.
    """
    copies = {lesson_number(path): Path(folder) / path.name for path in find_lessons()}
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


# --- the two versions of a lesson -----------------------------------------------------------------------------------


def read_notebook(path: Path) -> dict:
    """Return the notebook of a file; ValueError, which names the file, when it holds none."""
    try:
        notebook = json_of(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, not UTF-8
        raise ValueError(f"{path} is not a notebook that can be read: {error}") from None
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise ValueError(f"{path} is not a notebook that can be read: it has no list of cells.")
    return notebook


def write_notebook(notebook: dict) -> str:
    """Return the JSON text of a notebook, as Jupyter writes it: the same notebook gives the same text."""
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


def find_lessons() -> list[Path]:
    """Return the files of all lessons that are here, in order."""
    return sorted(share_dir("notebooks").glob("[0-9][0-9]_*.ipynb"))


def lesson_number(path: str | Path) -> str:
    """Return "02" for `02_attention.ipynb`; ValueError for a name without a number."""
    number = re.match(r"(\d\d)_", Path(path).name)
    if not number:
        raise ValueError(f"'{Path(path).name}' is not a lesson's name: those start with two digits, 02_attention.ipynb")
    return number[1]


def lesson_headers() -> list[dict]:
    """Return the number, title and part of each lesson that is here, in order, from its notebook's metadata.

    Raises ValueError, which names the notebook, when one of them is missing.
    """
    headers = []
    for path in find_lessons():
        header = read_notebook(path).get("metadata", {}).get("lesson", {})
        missing = [key for key in ("title", "part") if not header.get(key)]
        if missing:
            raise ValueError(
                f"{path.name} has no {' and no '.join(missing)} in its metadata `lesson`. In a clone "
                f"`make notebooks ONLY={lesson_number(path)}` builds it from its source, whose header has them; "
                "else install the package again: pip install --force-reinstall --no-deps nextbert-lite"
            )
        headers.append({"number": lesson_number(path), "title": header["title"], "part": header["part"]})
    return headers


def learner_version(notebook: dict) -> dict:
    """Return a copy of the notebook with a blank for each solution, without outputs, counts and widgets' states.

    All else is kept as it is: ids, tags, metadata, text. The same notebook always gives the same copy.
    Raises ValueError, which names the cell, when BEGIN and END do not pair up.
    """
    learner = copy.deepcopy(notebook)
    learner.get("metadata", {}).pop("widgets", None)  # what the outputs showed
    for position, cell in enumerate(learner["cells"]):
        if cell["cell_type"] != "code":
            continue
        cell["outputs"], cell["execution_count"] = [], None
        lines, solutions = split_solutions(cell, position)
        if solutions:
            text = "\n".join(lines)
            cell["source"] = text.splitlines(keepends=True) if isinstance(cell["source"], list) else text
    return learner


def solution(exercise_id: str) -> str:
    """Return the solution of an exercise such as "02.1": its cell, tagged `exercise-02.1`, as code to paste and run.

    Raises ValueError, which lists the exercises there are, for an unknown one.
    """
    found: dict[str, str] = {}
    for path in find_lessons():
        for position, cell in enumerate(read_notebook(path)["cells"]):
            tags = cell.get("metadata", {}).get("tags", [])
            for name in (tag.removeprefix("exercise-") for tag in tags if tag.startswith("exercise-")):
                if split_solutions(cell, position)[1]:
                    found[name] = "\n".join(line for line in lines_of(cell) if line.strip() not in (BEGIN, END))
    if exercise_id not in found:
        raise ValueError(
            f"there is no exercise '{exercise_id}' with a solution; there are: {', '.join(sorted(found)) or 'none'}."
        )
    return found[exercise_id]


def lines_of(cell: dict) -> list[str]:
    """Return a cell's lines; a notebook file holds its text as one string or as a list of lines."""
    source = cell["source"]
    return (source if isinstance(source, str) else "".join(source)).split("\n")


def split_solutions(cell: dict, position: int) -> tuple[list[str], list[str]]:
    """Return the cell's lines with one blank for each solution, and the solutions, moved to the left margin."""
    name = f"code cell {position + 1} (id {cell.get('id', 'none')})"
    kept: list[str] = []
    solutions: list[str] = []
    inside: list[str] | None = None
    for line in lines_of(cell):
        marker = line.strip()
        if marker == BEGIN and inside is None:
            inside = []
            kept.append(line[: len(line) - len(line.lstrip())] + BLANK)
        elif marker == END and inside is not None:
            solutions.append(textwrap.dedent("\n".join(inside)))
            inside = None
        elif LOOKS_LIKE_A_MARKER.match(line):  # else a mistyped marker would give the solution away
            raise ValueError(f"{name}: '{marker}' does not pair up. A solution stands between '{BEGIN}' and '{END}'.")
        elif inside is None:
            kept.append(line)
        else:
            inside.append(line)
    if inside is not None:
        raise ValueError(f"{name}: '{BEGIN}' has no '{END}'.")
    return kept, solutions
