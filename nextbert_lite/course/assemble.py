"""`nextbert-lite assemble`: the learner's builds, collected from the saved notebooks into a package `my_bert`.

A build is an exercise whose cell has a tag `my-bert-FILE`. One that passes its check goes into my_bert/FILE.py as the
learner wrote it, with the imports, functions and constants of its notebook that it uses; of one that does not, the
course's solution stands there, marked. Builds find each other inside my_bert. Nothing here runs the learner's code but
the checks of `progress`, in a process of their own; a file that was edited afterwards is never overwritten.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import os
import re
import subprocess
import symtable
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nextbert_lite.course import progress, workspace
from nextbert_lite.files import make_folder, write_text

PACKAGE = "my_bert"
STAMP = re.compile(r"^# assembled: ([0-9a-f]{16})\n", re.M)  # a hash of the rest: another one means edited
MADE = ast.FunctionDef | ast.ClassDef
FUTURE = "from __future__ import annotations\n"


@dataclass
class Part:
    """A build: which file it goes into, whose version, and the text that defines it."""

    id: str
    file: str
    name: str
    status: str  # of the learner's version: passes, blank, fails, missing, unreadable
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> where from, and what
    made: dict[str, str] = field(default_factory=dict)  # name -> definition, helpers before what uses them
    uses: set[str] = field(default_factory=set)  # other builds

    @property
    def whose(self) -> str:
        """Return "yours", or "the course's" and why."""
        why = {"passes": "", "blank": "is blank", "missing": "is not in your copy", "unreadable": "cannot be read"}
        reason = why.get(self.status, "does not pass yet" if self.status == "fails" else self.status)
        return f"the course's, for {self.id} {reason}" if reason else "yours"


class Incomplete(ValueError):
    """A build uses a name that is no import, function or constant of its notebook."""


def assemble(folder: str | Path, limit: float = progress.LIMIT) -> Iterator[str]:
    """Write the package my_bert into the folder and yield one line for each file.

    Raises FileNotFoundError for a folder without lessons, and ValueError when what was written cannot be imported.
    """
    folder = Path(folder)
    found = list(parts(folder, limit))
    target = folder / PACKAGE
    make_folder(target)
    modules: dict[str, list[Part]] = {}
    for part in found:
        clash = any(
            other.made.get(name, text) != text
            for other in modules.get(part.file, [])
            for name, text in part.made.items()
        )
        part.file += f"_{part.id[:2]}" if clash else ""  # two helpers of one name that are not the same
        modules.setdefault(part.file, []).append(part)
    home = {part.name: part.file for part in found}
    for name, members in modules.items():
        yield place(target / f"{name}.py", module_text(name, members, home))
    yield place(target / "__init__.py", package_text(found, home))
    trial = subprocess.run(
        [
            sys.executable,
            "-B",
            "-c",
            f"import sys; sys.path.insert(0, sys.argv[1]); import {PACKAGE}",
            str(folder.resolve()),
        ],
        capture_output=True,
        timeout=10 * limit,
        env=os.environ | progress.QUIET,
    )
    if trial.returncode:
        why = (trial.stderr.decode(errors="replace").strip() or "no message").splitlines()[-1]
        raise ValueError(f"{target} cannot be imported: {why}. Delete the file that it names, and run this again.")


def parts(folder: Path, limit: float) -> Iterator[Part]:
    """Yield each build of the shipped lessons: the learner's version where it passes, else the course's."""
    rows = {row["lesson"]: row for row in progress.progress(folder, limit, builds=True)}
    shipped = {path.name: progress.code_cells(path) for path in workspace.find_lessons()}
    names = {name for cells in shipped.values() for _, _, name in builds(cells)}
    for lesson, cells in shipped.items():
        status = {one["id"]: one["status"] for one in rows[lesson]["exercises"]} if lesson in rows else {}
        theirs = progress.code_cells(folder / rows[lesson]["file"]) if status and rows[lesson]["file"] else []
        for build, file, name in builds(cells):
            part = Part(build, file, name, status.get(build, "missing"))
            wanted = progress.exercises(cells)
            if part.status == "passes":
                try:
                    collect(part, theirs, progress.learners(theirs, wanted)[build], names)
                    yield part
                    continue
                except Incomplete as error:
                    part = Part(build, file, name, str(error))
            collect(part, cells, progress.learners(cells, wanted)[build], names)
            yield part


def builds(cells: list[tuple]) -> list[tuple[str, str, str]]:
    """Return (id, file of my_bert, name) of each build of a shipped lesson."""
    found = []
    for _, _, tags in cells:
        files = [tag.removeprefix("my-bert-") for tag in tags if tag.startswith("my-bert-")]
        for tag in tags if files else []:
            if tag.startswith("exercise-"):
                build = tag.removeprefix("exercise-")
                found.append((build, files[0], progress.continues(cells)[build][0]))
    return found


def collect(part: Part, cells: list[tuple], own: list[tuple], builds_of_all: set[str]) -> None:
    """Fill in what defines a build: its own text, and from its notebook what it uses. Raises Incomplete."""
    context = [cell[0] for cell in cells if not any(cell is one for one in own)]
    defined, imported = definitions(context), imports(context)
    here = definitions(one[0] for one in own)
    imported |= imports(one[0] for one in own)
    seen: set[str] = set()

    def add(name: str) -> None:
        """Add what defines a name, and before it what that uses."""
        if name in seen:
            return
        seen.add(name)
        if name != part.name and name in builds_of_all and name not in here:
            part.uses.add(name)
        elif name in here or name in defined:
            text = here.get(name) or defined[name]
            for other in sorted(free_names(text)):
                add(other)
            part.made[name] = text
        elif name in imported:
            part.imports[name] = imported[name]
        elif name == part.name or not hasattr(builtins, name):
            raise Incomplete(f"uses `{name}`, which is no import, function or constant of its notebook")

    add(part.name)


def definitions(sources: Iterable[str]) -> dict[str, str]:
    """Return name -> text of the functions, classes and literal constants of cells; the last one of a name counts."""
    found = {}
    for source in sources:
        text = without_markers(source)
        for node in progress.statements(text):
            segment = segment_of(text, node)
            if isinstance(node, MADE):
                found[node.name] = segment
            elif isinstance(node, ast.Assign) and progress.constant(node):
                found |= {target.id: segment for target in node.targets if isinstance(target, ast.Name)}
    return found


def imports(sources: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return name -> where from ("" for `import …`) and what, of each import in cells; of a name the last."""
    found = {}
    for source in sources:
        for node in progress.statements(source):
            if isinstance(node, ast.Import | ast.ImportFrom):
                origin = "." * node.level + (node.module or "") if isinstance(node, ast.ImportFrom) else ""
                for alias in node.names:
                    name = alias.asname or (alias.name if origin else alias.name.split(".")[0])
                    found[name] = (origin, alias.name + (f" as {alias.asname}" if alias.asname else ""))
    return found


def import_lines(wanted: Iterable[tuple[str, str]]) -> list[str]:
    """Return the statements of imports: one for each module that names are taken from."""
    plain = sorted({what for origin, what in wanted if not origin})
    origins = sorted({origin for origin, _ in wanted if origin})
    lines = [f"import {what}" for what in plain]
    return lines + [f"from {o} import {', '.join(sorted({w for origin, w in wanted if origin == o}))}" for o in origins]


def segment_of(source: str, node: ast.stmt) -> str:
    """Return a statement's own lines, decorators and the comment behind it included."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return "\n".join(source.split("\n")[first - 1 : node.end_lineno])


def without_markers(source: str) -> str:
    """Return a cell's text without the lines that mark a solution."""
    return "\n".join(line for line in source.split("\n") if line.strip() not in (workspace.BEGIN, workspace.END))


def free_names(text: str) -> set[str]:
    """Return the names that a definition takes from around it."""
    found: set[str] = set()
    tables = [symtable.symtable(FUTURE + text, "cell", "exec")]
    top = {symbol.get_name() for symbol in tables[0].get_symbols() if symbol.is_assigned()}
    while tables:
        table = tables.pop()
        tables += table.get_children()
        outer = table.get_type() == "module"
        found |= {s.get_name() for s in table.get_symbols() if (s.is_global() or outer) and s.is_referenced()}
    return found - top - {"__class__"}


def module_text(name: str, members: list[Part], home: dict[str, str]) -> str:
    """Return the text of one file of my_bert."""
    lessons = " and ".join(dict.fromkeys(part.id[:2] for part in members))
    heading = [
        f'"""{name}: from lesson {lessons}. `nextbert-lite assemble` made this file from the saved notebooks.',
        "",
    ]
    heading += [f"{part.name}: {part.whose}." for part in members]
    own = {part.name for part in members}
    used = [what for part in members for key, what in part.imports.items() if key not in own]
    near = [(f"{PACKAGE}.{home[use]}", use) for part in members for use in part.uses if home[use] != name]
    blocks, done = [], set()
    for part in members:
        for key, text in part.made.items():
            if key not in done:
                mark = "" if part.status == "passes" or key != part.name else f"# {part.whose}\n"
                blocks.append(mark + text)
                done.add(key)
    body = [
        "\n".join([*heading, '"""']),
        FUTURE.rstrip(),
        "\n".join(import_lines([*used, *near])),
        *("\n" + block for block in blocks),
    ]
    return "\n\n".join(part for part in body if part.strip()) + "\n"


def package_text(found: list[Part], home: dict[str, str]) -> str:
    """Return the text of my_bert/__init__.py."""
    yours = [part.name for part in found if part.status == "passes"]
    others = [f"{part.name}: {part.whose}" for part in found if part.status != "passes"]
    lines = [f'"""BERT, built by you: {len(yours)} of {len(found)} parts are your own.', ""]
    lines += [f"yours: {', '.join(yours) or 'none yet'}.", *(f"{line}." for line in others), '"""', ""]
    lines += [
        f"from {PACKAGE}.{home[part.name]} import {part.name}" for part in sorted(found, key=lambda p: (p.file, p.name))
    ]
    lines += ["", f"YOURS = {tuple(yours)!r}", f"__all__ = {sorted(home)!r}"]
    return "\n".join(lines) + "\n"


def place(path: Path, text: str) -> str:
    """Write a file unless the learner has edited it; then lay the new one beside it. Return a line that says so."""
    stamped = stamp(text)
    if os.path.lexists(path) and path.is_file() and path.read_bytes() == stamped.encode():
        return f"as it is {path}"
    if not os.path.lexists(path) or is_ours(path):
        write_text(path, stamped)
        return f"made     {path}"
    beside = path.with_suffix(".new.py")
    if os.path.lexists(beside) and not is_ours(beside):
        return f"kept     {path}  (you edited it, and {beside.name} too: remove one of them to get the new version)"
    write_text(beside, stamped)
    return f"offered  {beside}  (you edited {path.name}: it is kept as it is)"


def stamp(text: str) -> str:
    """Return the text with a first line that tells whether it was edited afterwards."""
    return f"# assembled: {digest(text)}\n{text}"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_ours(path: Path) -> bool:
    """Whether a file is as `assemble` wrote it."""
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return False
    found = STAMP.match(text)
    return bool(found) and digest(text[found.end() :]) == found[1]
