"""Build the lessons: notebooks/source/NN_name.py (jupytext py:percent) -> notebooks/NN_name.ipynb, executed.

    python tools/notebooks.py build [--only 02] [--times]
    python tools/notebooks.py table          renews the course table and the picture of README.md

A second build changes no byte. `--times` also measures each lesson and stores the seconds in notebooks/times.json.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
SOURCES = NOTEBOOKS / "source"
TIMES = NOTEBOOKS / "times.json"
CELL_TIMEOUT = 300  # seconds
SIZE_CAP = 1_000_000  # bytes a lesson
WIDGETS = "application/vnd.jupyter.widget-state+json"


def read_source(path):
    """Return a lesson's source as a notebook: cell ids that depend on the text alone, and plain metadata."""
    notebook = jupytext.read(path, fmt="py:percent")
    lesson = notebook.metadata.get("lesson")
    missing = {"title", "question", "minutes"} - set(lesson or {})
    if missing:
        raise SystemExit(f"{path.name}: the header's `lesson:` lacks {sorted(missing)}; see another lesson's header.")
    seen = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = f"{digest}-{seen[digest]}"
        cell.metadata = nbformat.NotebookNode({k: v for k, v in cell.metadata.items() if k in ("tags",)})
    notebook.metadata = nbformat.NotebookNode(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "lesson": lesson,
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def execute(notebook):
    """Run a notebook from the first cell to the last; keep outputs and counts, drop times and versions."""
    os.environ["TQDM_DISABLE"] = "1"  # a bar's state holds ids and times
    metadata = json.loads(json.dumps(notebook.metadata))
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOKS)}},
        record_timing=False,
        coalesce_streams=True,  # how printing is cut into pieces depends on timing
    )
    client.execute()
    widgets = notebook.metadata.get("widgets")
    notebook.metadata = nbformat.from_dict(metadata | ({"widgets": widgets} if widgets else {}))
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    return numbered_widgets(notebook)


def numbered_widgets(notebook):
    """Return the notebook with its widgets numbered in the order in which they were made: their own ids are random."""
    text = nbformat.writes(notebook)
    for number, model_id in enumerate(notebook.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {})):
        text = text.replace(model_id, f"{number:032x}")
    return nbformat.reads(text, as_version=4)


def build(paths, times):
    """Execute and write the lessons; exit with the first fault."""
    measured = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    for path in paths:
        print(f"{path.name} … ", end="", flush=True)
        start = time.perf_counter()
        try:
            notebook = execute(read_source(path))
        except (CellExecutionError, CellTimeoutError) as error:
            raise SystemExit(f"failed.\n{error}") from None
        seconds = time.perf_counter() - start
        text = nbformat.writes(notebook) + "\n"
        if len(text.encode()) > SIZE_CAP:
            raise SystemExit(f"{len(text.encode()):,} bytes; at most {SIZE_CAP:,}. Draw fewer or smaller figures.")
        (NOTEBOOKS / f"{path.stem}.ipynb").write_text(text, encoding="utf-8", newline="\n")
        if times:
            measured[path.stem] = round(seconds)
        print(f"{seconds:.0f} s, {len(text.encode()) / 1000:.0f} KB")
    if times:
        TIMES.write_text(json.dumps(dict(sorted(measured.items())), indent=1) + "\n")


def course_table():
    """Return the README's table: a row for each lesson, from its header and the measured times."""
    measured = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    rows = ["| lesson | the question it answers | your time | machine |", "|---|---|---|---|"]
    for path in sorted(SOURCES.glob("*.py")):
        lesson = read_source(path).metadata["lesson"]
        number = path.stem.split("_")[0]
        seconds = f"{measured[path.stem]} s" if path.stem in measured else "not measured"
        link = f"[{number} {lesson['title']}](notebooks/{path.stem}.ipynb)"
        rows.append(f"| {link} | {lesson['question']} | {lesson['minutes']} min | {seconds} |")
    return "\n".join(rows)


def with_table(readme):
    """Return the README's text with the course table between its two comments renewed."""
    begin, end = "<!-- course table: begin -->", "<!-- course table: end -->"
    if readme.count(begin) != 1 or readme.count(end) != 1:
        raise SystemExit(f"README.md needs the two lines {begin} and {end}, once each.")
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{course_table()}\n{end}", readme, flags=re.S)


def picture():
    """Return the README's picture, the last figure of lesson 02, as a PNG file's bytes."""
    cells = nbformat.read(NOTEBOOKS / "02_attention.ipynb", as_version=4).cells
    data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return base64.b64decode([d["image/png"] for d in data if "image/png" in d][-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["build", "table"])
    parser.add_argument("--only", default="", help="the start of a lesson's file name, such as 02")
    parser.add_argument("--times", action="store_true", help="store the measured seconds too")
    arguments = parser.parse_args()
    if arguments.command == "build":
        paths = sorted(SOURCES.glob(f"{arguments.only}*.py"))
        if not paths:
            raise SystemExit(f"no lesson in notebooks/source starts with '{arguments.only}'.")
        build(paths, arguments.times)
    readme = ROOT / "README.md"
    (ROOT / "docs" / "attention.png").write_bytes(picture())
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main())
