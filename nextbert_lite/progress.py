"""Which exercises of a learner's workspace pass: each lesson's exercise cells, run with their checks.

The learner's code runs in a process of its own, as in Jupyter, with the lesson's imports, the copy's functions and the
exercises before it; no other cell is run. The checks are the shipped lesson's, and nothing in the workspace is written.
"""

from __future__ import annotations

import ast
import faulthandler
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

from nextbert_lite import lessons

LIMIT = 30  # seconds for one exercise
SYMBOLS = {"passes": "✓", "blank": "○", "fails": "✗", "missing": "✗"}
NOTE = "NameError: only exercises, imports and functions were run. Set a value that one needs inside its own cell."
WORKER = (
    "import json, sys; job = json.load(sys.stdin); sys.path[:] = job['path']; "
    "from nextbert_lite.progress import work; work(job)"
)


def progress(folder: Path, limit: float = LIMIT) -> Iterator[dict]:
    """Yield for each shipped lesson its name, its file in the folder, trouble with that, and its exercises' statuses.

    A status is passes, blank, fails, missing or unreadable. Raises FileNotFoundError when no lesson is in the folder.
    """
    shipped = {path.name: lessons.read_notebook(path) for path in lessons.find_lessons()}
    files = {name: copy_of(name, exercises(notebook), folder, set(shipped)) for name, notebook in shipped.items()}
    if not any(files.values()):
        raise FileNotFoundError(f"'{folder}' holds no lessons; name your folder, or fill it: nextbert-lite start DIR")
    for name, file in files.items():
        wanted = exercises(shipped[name])
        row = {"lesson": name, "file": file and file.name, "trouble": None, "exercises": []}
        try:
            if file is None:
                row["trouble"] = "not in this folder"
            else:
                row["exercises"] = results(wanted, code_cells(shipped[name]), code_cells(read(file)), folder, limit)
        except (OSError, ValueError) as error:
            row["trouble"] = " ".join(str(error).split())
            row["exercises"] = [{"id": i, "status": "unreadable", "message": ""} for i in wanted]
        yield row


def read(file: Path) -> dict:
    """Return a notebook whose code cells have text and tags; ValueError when it is broken in any way."""
    notebook = lessons.read_notebook(file)
    try:
        for cell in code_cells(notebook):
            cell["metadata"]["tags"] = [str(tag) for tag in cell.setdefault("metadata", {}).get("tags", [])]
            lessons.lines_of(cell)
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{file} is not a notebook that can be read: one of its cells is damaged.") from None
    return notebook


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if isinstance(cell, dict) and cell.get("cell_type") == "code"]


def text(cell: dict) -> str:
    return "\n".join(lessons.lines_of(cell))


def exercises(notebook: dict) -> dict[str, tuple[str | None, str]]:
    """Return a shipped lesson's exercises: id -> (the id of its cell, the text of the check's cell behind it)."""
    cells = code_cells(notebook)
    return {
        tag.removeprefix("exercise-"): (cell.get("id"), text(check))
        for cell, check in zip(cells, cells[1:], strict=False)
        for tag in cell.get("metadata", {}).get("tags", [])
        if tag.startswith("exercise-")
    }


def own_cells(cells: list[dict], exercise: str, cell_id: str | None) -> list[dict]:
    """Return the cells with the exercise's tag (several when one was copied or split), else the one with its id."""
    tagged = [cell for cell in cells if f"exercise-{exercise}" in cell["metadata"]["tags"]]
    return tagged or [cell for cell in cells if cell_id is not None and cell.get("id") == cell_id]


def copy_of(name: str, wanted: dict, folder: Path, names: set[str]) -> Path | None:
    """Return the learner's file of a lesson: of the same name, else the first that holds one of its exercises."""
    if (folder / name).is_file():
        return folder / name
    for file in sorted(folder.glob("*.ipynb")):
        if file.name in names or re.search(r"\.new(-\d+)?\.ipynb$", file.name):  # another lesson, an offer
            continue
        try:
            cells = code_cells(read(file))
        except (OSError, ValueError):
            continue
        if any(own_cells(cells, i, cell_id) for i, (cell_id, _) in wanted.items()):
            return file
    return None


def results(wanted: dict, shipped: list[dict], cells: list[dict], folder: Path, limit: float) -> list[dict]:
    """Run a lesson's exercises; a process that hangs or dies costs one exercise, and the next one does the others."""
    mine = {i: own_cells(cells, i, cell_id) for i, (cell_id, _) in wanted.items()}
    missing = {"status": "missing", "message": "not found in your copy"}
    done = {i: {"id": i, **missing} for i, own in mine.items() if not own}
    used = [cell for own in mine.values() for cell in own]
    job = {
        "path": [*map(os.path.abspath, sys.path), str(folder.resolve())],
        "limit": limit,
        "imports": [text(cell) for cell in shipped],
        "context": [text(cell) for cell in cells if cell not in used],
    }
    lost: set[str] = set()
    while todo := [i for i in wanted if i not in done]:
        job["run"] = [
            (i, "\n\n".join(map(text, own)), wanted[i][1], i in done)
            for i, own in mine.items()
            if own and i not in lost
        ]
        env = {"NEXTBERT_GRADE": "1", "MPLBACKEND": "Agg", "TQDM_DISABLE": "1", "PYTHONIOENCODING": "utf-8"}
        with tempfile.TemporaryDirectory(
            ignore_cleanup_errors=True
        ) as away:  # what the learner's code writes goes here
            ended = subprocess.run(
                [sys.executable, "-B", "-c", WORKER],
                input=json.dumps(job),
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, **env},
                cwd=away,
            )
        for line in ended.stdout.splitlines():
            if line.startswith("{"):
                result = json.loads(line)
                done[result["id"]] = result
        unfinished = next((i for i in todo if i not in done), None)
        if unfinished:
            late = "Timeout (" in ended.stdout  # faulthandler's first words
            why = f"took longer than {limit:g} s" if late else f"Python itself ended (status {ended.returncode})"
            done[unfinished] = {"id": unfinished, "status": "fails", "message": why}
            lost.add(unfinished)
    return [done[i] for i in wanted]


def work(job: dict) -> None:
    """Run one lesson's exercises in this process, and print a line of JSON for each; nothing else is printed."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    imports: dict = {"__name__": "__main__"}
    broken = define(job["imports"], (ast.Import, ast.ImportFrom), imports)  # torch may load slowly: no limit yet
    faulthandler.dump_traceback_later(job["limit"], exit=True, file=out)  # ends the process also inside C code
    names = dict(imports)
    define(job["context"], (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef), names)
    for i, cell, check, known in job["run"]:
        faulthandler.dump_traceback_later(job["limit"], exit=True, file=out)
        status, message = "passes", ""
        try:
            call = compile(check, f"<check {i}>", "exec", dont_inherit=True)
            names = {key: value for key, value in names.items() if key not in call.co_names} | imports
            code = compiled(cell, f"<exercise {i}>")
            if code.co_code == compile("", "", "exec").co_code:
                status = "blank"
            else:
                exec(code, names)
                if not known:
                    exec(call, names)
        except BaseException as error:  # noqa: BLE001 - the learner's code may raise anything, SystemExit too
            status, message = "fails", told(error, i)
            if message == f"{i} is blank.":
                status, message = "blank", ""
        if status == "fails" and broken:
            message = f"the lesson's imports fail: {broken}"
        if not known:
            print(json.dumps({"id": i, "status": status, "message": message}), file=out, flush=True)
    os._exit(0)  # threads that the learner left running do not keep it


def define(sources: list[str], kinds: tuple, names: dict) -> str:
    """Run the statements of these kinds, each by itself, and return what the first that failed raised."""
    trouble = ""
    for source in sources:
        try:
            body = ast.parse(source).body
        except (SyntaxError, ValueError):  # half-edited, or with magics
            continue
        for node in body:
            if isinstance(node, kinds):
                try:
                    exec(compile(ast.Module([node], []), "<lesson>", "exec", dont_inherit=True), names)
                except Exception as error:  # noqa: BLE001 - needs what another cell makes, or is not installed
                    trouble = trouble or told(error)
    return trouble


def compiled(source: str, name: str):
    """Compile a cell; where it is no Python, without its lines for Jupyter, such as `%%time` and `!pip`."""
    try:
        return compile(source, name, "exec", dont_inherit=True)
    except SyntaxError:
        plain = re.sub(r"^([ \t]*)[%!].*$", r"\1pass", source, flags=re.MULTILINE)
        if plain == source:
            raise
        return compile(plain, name, "exec", dont_inherit=True)


def told(error: BaseException, exercise: str = "") -> str:
    """Return an error as one line."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__} in line {error.lineno}: {error.msg}"
    words = " ".join(str(error).split())
    own = type(error).__name__ == "CheckFailed"  # by name: its module would import torch
    return words.removeprefix(f"{exercise}: ") if own else f"{type(error).__name__}: {words}".removesuffix(": ")


def lines(row: dict, width: int, symbols: bool) -> list[str]:
    """Return a lesson's lines of the table; without symbols the words stand in their place."""
    if row["trouble"]:
        return [f"{row['lesson']}: {row['trouble']}"]
    renamed = "" if row["file"] == row["lesson"] else f" (your {row['file']})"
    table = [row["lesson"] + renamed]
    for one in row["exercises"]:
        mark = SYMBOLS[one["status"]] if symbols else f"{one['status']:7}"
        start = f"  {mark} {one['id']}  "
        said = one["message"] or {"blank": "still blank"}.get(one["status"], "passes")
        table.append(start + textwrap.shorten(said, max(width - len(start), 24), placeholder=" ..."))
    return table


def show(folder: Path, as_json: bool = False) -> int:
    """Print the table, or the same as JSON, and return the exit status: 0."""
    encoding = sys.stdout.encoding or "ascii"
    symbols = all(mark.encode(encoding, "ignore") for mark in SYMBOLS.values())
    width = shutil.get_terminal_size((120, 24)).columns
    rows = []
    for row in progress(folder):
        rows.append(row)
        for line in [] if as_json else lines(row, width, symbols):
            print(line.encode(encoding, "replace").decode(encoding), flush=True)
    every = [one for row in rows for one in row["exercises"]]
    passed = sum(one["status"] == "passes" for one in every)
    if as_json:
        print(json.dumps({"passed": passed, "exercises": len(every), "lessons": rows}, indent=1))
        return 0
    if any("NameError" in one["message"] for one in every):
        print(NOTE)
    print(f"{passed} of {len(every)} exercises pass")
    return 0
