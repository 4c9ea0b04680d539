"""The lessons' two versions: the instructor's, with solutions, and the learner's, with blanks.

The instructor's is what `notebooks/` holds. In a code cell a solution stands between nbgrader's two markers, each on a
line of its own: `### BEGIN SOLUTION` and `### END SOLUTION`. A notebook here is the dict that its JSON file holds.
"""

from __future__ import annotations

import copy
import json
import re
import textwrap
from pathlib import Path

from nextbert_lite.paths import share_dir

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
BLANK = "pass  # your code here"  # not `...`: as a cell's last line that would print Ellipsis
LOOKS_LIKE_A_MARKER = re.compile(r"\s*#+\s*(BEGIN|END)\s*SOLUTION", re.IGNORECASE)


def read_notebook(path: Path) -> dict:
    """Return the notebook of a file; ValueError, which names the file, when it holds none."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
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


def blank_cells(notebook: dict) -> list[int]:
    """Return the positions of the code cells that hold a blank to fill in."""
    code = (pair for pair in enumerate(notebook["cells"]) if pair[1]["cell_type"] == "code")
    return [position for position, cell in code if any(line.strip() == BLANK for line in lines_of(cell))]


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
