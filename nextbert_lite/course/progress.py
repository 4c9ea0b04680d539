"""Which exercises of a learner's workspace pass: each lesson's exercise cells, run with the shipped lesson's checks.

The learner's code runs in a process of its own, on the learner's machine as in Jupyter: imports, functions and, in
order, the exercises; no other cell. Nothing in the workspace is written.
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

from nextbert_lite.course import workspace

LIMIT = 30  # seconds for one exercise
SYMBOLS = {"passes": "✓", "blank": "○", "fails": "✗", "missing": "✗"}
NOTE = "NameError: only imports, functions and exercises were run here. A value that one needs belongs into its cell."
START = "import json, sys; job = json.load(sys.stdin); sys.path[:] = job['path']; "
WORK = "from nextbert_lite.course.progress import work; work(job)"
# a magic or a command of the shell, with or without a name for its result; help, with the ? before or behind
FOR_JUPYTER = r"^([ \t]*)(?:(?:\w+[ \t]*=[ \t]*)?[%!]|\?|[%\w*][\w.*\[\]]*\?\??[ \t]*$).*$"
QUIET = {"NEXTBERT_GRADE": "1", "MPLBACKEND": "Agg", "TQDM_DISABLE": "1", "PYTHONIOENCODING": "utf-8"}


def show(folder: Path, as_json: bool = False) -> int:
    """Print the table, lesson by lesson, or the same as JSON, and return the exit status: 0."""
    encoding, width = sys.stdout.encoding or "ascii", shutil.get_terminal_size((120, 24)).columns
    symbols = all(mark.encode(encoding, "ignore") for mark in SYMBOLS.values())
    rows = []
    for row in progress(folder):
        rows.append(row)
        for line in [] if as_json else table(row, width, symbols):
            print(line, flush=True)
    every = [one for row in rows for one in row["exercises"]]
    passed = sum(one["status"] == "passes" for one in every)
    built = parts({one["id"]: one["status"] for one in every})
    if as_json:
        told = {"passed": passed, "exercises": len(every), "lessons": rows, "my_bert": built}
        print(json.dumps(told, indent=1))
        return 0
    if any("NameError" in one["message"] for one in every):
        print(NOTE)
    print(f"{passed} of {len(every)} exercises pass")
    if built:
        yours = [name for name, status in built.items() if status == "passes"]
        print(f"my_bert: {len(yours)} of {len(built)} parts are yours{': ' if yours else ''}{', '.join(yours)}")
        others = [f"{name} ({status})" for name, status in built.items() if status != "passes"]
        if others:
            print(f"  the course's stand in for {', '.join(others)}")
        print("  nextbert-lite assemble writes them into a package that you can import")
    return 0


def parts(statuses: dict[str, str]) -> dict[str, str]:
    """Return for each build of the course its status in the learner's copies: name -> passes, blank, fails, missing."""
    cells = [cell for path in workspace.find_lessons() for cell in code_cells(path)]
    return {name: statuses.get(build, "missing") for build, (name, _) in continues(cells).items()}


def table(row: dict, width: int, symbols: bool) -> list[str]:
    """Return a lesson's lines; without symbols the words stand in their place."""
    if row["trouble"]:
        return [textwrap.shorten(f"{row['lesson']}: {row['trouble']}", width, placeholder=" ...")]
    lines = [row["lesson"] + ("" if row["file"] == row["lesson"] else f" (your {row['file']})")]
    for one in row["exercises"]:
        start = f"  {SYMBOLS[one['status']] if symbols else one['status'].ljust(7)} {one['id']}  "
        said = one["message"] or (one["status"] if symbols else "")
        lines.append((start + textwrap.shorten(said, max(width - len(start), 24), placeholder=" ...")).rstrip())
    return lines


def progress(folder: Path, limit: float = LIMIT, builds: bool = False) -> Iterator[dict]:
    """Yield for each shipped lesson its name, its file in the folder, trouble with that, and its exercises' statuses.

    A status is passes, blank, fails, missing or unreadable. builds: only of the lessons that have builds.
    Raises FileNotFoundError when the folder has no lesson.
    """
    shipped = {path.name: code_cells(path) for path in workspace.find_lessons()}
    shipped = {name: cells for name, cells in shipped.items() if not builds or continues(cells)}
    files = {name: copy_of(name, exercises(cells), folder, shipped) for name, cells in shipped.items()}
    if not any(files.values()):
        raise FileNotFoundError(f"'{folder}' holds no lessons; name your folder, or fill one: nextbert-lite start DIR")
    for name, file in files.items():
        trouble, found = None if file else "not in this folder", []
        try:
            if file:
                cells = code_cells(file)
                untouched = builds and all_blank(shipped[name], cells)
                found = each(shipped[name], "blank") if untouched else results(shipped[name], cells, folder, limit)
        except ValueError as error:
            trouble = " ".join(str(error).split()).removeprefix(f"{file} ")
            found = each(shipped[name], "unreadable")
        yield {"lesson": name, "file": file and file.name, "trouble": trouble, "exercises": found}


def each(shipped: list[tuple], status: str) -> list[dict]:
    """Return the same status, without a message, for each exercise of a lesson."""
    return [{"id": i, "status": status, "message": ""} for i in exercises(shipped)]


def code_cells(path: Path) -> list[tuple[str, str | None, list[str]]]:
    """Return the text, id and tags of a notebook's code cells; ValueError, which names the file, when it is broken."""
    try:
        code = [cell for cell in workspace.read_notebook(path)["cells"] if cell["cell_type"] == "code"]
        return [
            ("\n".join(workspace.lines_of(c)), c.get("id"), list(c.get("metadata", {}).get("tags", []))) for c in code
        ]
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read, or one of its cells is damaged: {error!r}") from None


def exercises(cells: list[tuple]) -> dict[str, tuple[str | None, str]]:
    """Return a shipped lesson's exercises: name -> (id of its cell, text of the check's cell behind it)."""
    pairs = [(tag, cell, check[0]) for cell, check in zip(cells, cells[1:], strict=False) for tag in cell[2]]
    return {
        tag.removeprefix("exercise-"): (cell[1], check) for tag, cell, check in pairs if tag.startswith("exercise-")
    }


def continues(cells: list[tuple]) -> dict[str, tuple[str, str]]:
    """Return of each build of a shipped lesson: id -> (name, text of the cell that takes the learner's version)."""
    found = [(re.match(r"(\w+) = check\.mine\(.(\d\d\.\d+).,", cell[0]), cell[0]) for cell in cells]
    return {match[2]: (match[1], text) for match, text in found if match}


def learners(cells: list[tuple], wanted: dict) -> dict[str, list[tuple]]:
    """Return for each exercise the cells with its tag (several when copied or split), else the one with its id."""
    tagged = {name: [cell for cell in cells if f"exercise-{name}" in cell[2]] for name in wanted}
    return {name: tagged[name] or [c for c in cells if c[1] and c[1] == wanted[name][0]] for name in wanted}


def all_blank(shipped: list[tuple], cells: list[tuple]) -> bool:
    """Whether each build of a learner's copy is as it was handed out: then nothing needs to be run to know it."""
    own, given = learners(cells, exercises(shipped)), learners(shipped, exercises(shipped))
    as_given = {build: [handed_out(cell) for cell in given[build]] for build in continues(shipped)}
    return all([cell[0].rstrip() for cell in own[build]] == texts for build, texts in as_given.items())


def handed_out(cell: tuple) -> str | None:
    """Return a shipped cell's text as learners get it, with a blank for its solution; None when it has no solution."""
    lines, solutions = workspace.split_solutions({"source": cell[0], "id": cell[1]}, 0)
    return "\n".join(lines).rstrip() if solutions else None


def copy_of(name: str, wanted: dict, folder: Path, names: dict) -> Path | None:
    """Return the learner's file of a lesson: of the same name, else the first that holds one of its exercises."""
    if (folder / name).exists():
        return folder / name
    for file in sorted(folder.glob("*.ipynb")):
        if file.name not in names and not re.search(r"\.new(-\d+)?\.ipynb$", file.name):  # no other lesson, no offer
            try:
                if any(learners(code_cells(file), wanted).values()):
                    return file
            except ValueError:
                continue
    return None


def results(shipped: list[tuple], cells: list[tuple], folder: Path, limit: float) -> list[dict]:
    """Run a lesson's exercises. A process that hangs or dies costs one exercise; the next one runs the others."""
    wanted, onward = exercises(shipped), continues(shipped)
    own = learners(cells, wanted)
    sources = {name: "\n\n".join(cell[0] for cell in parts) for name, parts in own.items() if parts}
    done = {i: {"id": i, "status": "missing", "message": "not found in your copy"} for i in wanted if i not in sources}
    others = [cell[0] for cell in cells if not any(cell in parts for parts in own.values())]
    job = {"path": [*map(os.path.abspath, sys.path), str(folder.resolve())], "limit": limit, "context": others}
    job["imports"] = [cell[0] for cell in shipped]
    while todo := [i for i in wanted if i not in done]:
        job["run"] = [
            (i, sources.get(i, ""), wanted[i][1], i in done, onward.get(i))
            for i in wanted
            if i in sources or i in onward
        ]
        with tempfile.TemporaryDirectory(
            ignore_cleanup_errors=True
        ) as away:  # what the learner's code writes goes here
            ended = subprocess.run(
                [sys.executable, "-B", "-c", START + WORK],
                input=json.dumps(job).encode(),
                capture_output=True,
                env=os.environ | QUIET,
                cwd=away,
            )
        lines = ended.stdout.decode(errors="replace").splitlines()
        done |= {one["id"]: one for one in (json.loads(line) for line in lines if line.startswith("{"))}
        if lost := next((i for i in todo if i not in done), None):
            late = any(line.startswith("Timeout (") for line in lines)  # faulthandler's first words
            why = f"took longer than {limit:g} s" if late else f"Python itself ended (status {ended.returncode})"
            done[lost] = {"id": lost, "status": "fails", "message": why}
            del sources[lost]
    return [done[i] for i in wanted]


def work(job: dict) -> None:
    """Run one lesson's exercises in this process, and print a line of JSON for each and nothing else."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    imports: dict = {"__name__": "__main__"}
    broken = define(job["imports"], (ast.Import, ast.ImportFrom), imports)  # torch may load slowly: no limit yet
    faulthandler.dump_traceback_later(job["limit"], exit=True, file=out)  # ends the process even inside C code
    names = dict(imports)
    define(job["context"], (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign), names)
    for name, source, check, known, onward in job["run"]:
        faulthandler.dump_traceback_later(job["limit"], exit=True, file=out)
        status, message = "passes", ""
        try:
            call = compile(check, "<check>", "exec", dont_inherit=True)
            names = {key: value for key, value in names.items() if key not in call.co_names} | imports
            tree = parsed(source)
            exec(compile(tree, "<exercise>", "exec", dont_inherit=True), names)
            status = "passes" if tree.body else "blank"
            if tree.body and not known:
                exec(call, names)
        except BaseException as error:  # noqa: BLE001 - the learner's code may raise anything, SystemExit too
            message = f"the lesson's imports fail: {broken}" if broken else told(error).removeprefix(f"{name}: ")
            status, message = ("blank", "") if message == f"{name} is blank." else ("fails", message)
        if not known:
            print(json.dumps({"id": name, "status": status, "message": message}), file=out, flush=True)
        if onward and (known or status != "passes"):  # what comes next uses the learner's version, or the course's
            faulthandler.dump_traceback_later(job["limit"], exit=True, file=out)
            names.setdefault(onward[0], None)
            exec(compile(onward[1], "<lesson>", "exec", dont_inherit=True), names)
    os._exit(0)  # also when the learner's code has left threads running


def define(sources: list[str], kinds: tuple, names: dict) -> str:
    """Run the statements of these kinds, each by itself, and return what the first that failed raised."""
    trouble = ""
    for source in sources:
        for node in (node for node in statements(source) if isinstance(node, kinds) and constant(node)):
            try:
                exec(compile(ast.Module([node], []), "<lesson>", "exec", dont_inherit=True), names)
            except Exception as error:  # noqa: BLE001 - it needs what another cell makes, or is not installed
                trouble = trouble or told(error)
    return trouble


def constant(node: ast.stmt) -> bool:
    """Whether a statement is no assignment, or one of a literal: `IGNORE = -100` is, a training run is not."""
    if not isinstance(node, ast.Assign):
        return True
    try:
        ast.literal_eval(node.value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def statements(source: str) -> list[ast.stmt]:
    """Return a cell's statements; none of one that is half-edited or nested too deeply."""
    try:
        return parsed(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def parsed(source: str) -> ast.Module:
    """Parse a cell; where it is not Python, without its lines for Jupyter: `%%time`, `!pip`, `nn.Linear?`, `?help`."""
    try:
        return ast.parse(source)
    except SyntaxError:
        plain = re.sub(FOR_JUPYTER, r"\1pass", source, flags=re.MULTILINE)
        if plain == source:
            raise
        return ast.parse(plain)


def told(error: BaseException) -> str:
    """Return an error as one line."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__} in line {error.lineno}: {error.msg}"
    words = " ".join(str(error).split())
    checked = type(error).__name__ == "CheckFailed"  # by its name: its module imports torch
    return words if checked else f"{type(error).__name__}: {words}".removesuffix(": ")
