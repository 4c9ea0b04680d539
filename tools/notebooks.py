"""Build the lessons: notebooks/source/NN_name.py (jupytext py:percent) -> notebooks/NN_name.ipynb, executed.

    python tools/notebooks.py build [--only 02] [--times]
    python tools/notebooks.py table            renews the course table and the picture of README.md
    python tools/notebooks.py new 18 "Title"   makes a lesson that works, and its checks, to be filled with your own

A second build changes no byte, except in cells tagged `times`, which show how fast the machine is. `--times` also
measures each lesson and stores the seconds in notebooks/times.json. A changed header also builds lesson 00, whose
map of the course is drawn from the notebooks' headers.
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
CHECKS = ROOT / "nextbert_lite" / "checks"
TEMPLATES = ROOT / "tools" / "template"
TIMES = NOTEBOOKS / "times.json"
HEADER = ("title", "question", "minutes", "part")
CELL_TIMEOUT = 300  # seconds
SIZE_CAP = 1_000_000  # bytes a lesson
LANGUAGE = {  # what `jupyter nbconvert --to script` needs; no version, which differs between machines
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
}
FOLDED = "hide-input"  # the tag of a cell whose code JupyterLab and the book fold away
TIMED = "times"  # the tag of a cell that shows how fast this machine is: its output differs from run to run
PARAMETERS = "parameters"  # the tag of the cell of values that the tests and tables set
WIDGETS = "application/vnd.jupyter.widget-state+json"


def read_source(path):
    """Return a lesson's source as a notebook: cell ids that depend on the text alone, and plain metadata."""
    notebook = jupytext.read(path, fmt="py:percent")
    lesson = notebook.metadata.get("lesson")
    missing = [key for key in HEADER if not (lesson or {}).get(key)]
    if missing:
        raise SystemExit(f"{path.name}: the header's `lesson:` lacks {missing}; see another lesson's header.")
    seen = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = f"{digest}-{seen[digest]}"
        cell.metadata = nbformat.NotebookNode({k: v for k, v in cell.metadata.items() if k in ("tags",)})
        if FOLDED in cell.metadata.get("tags", []):
            cell.metadata["jupyter"] = nbformat.NotebookNode(source_hidden=True)
    notebook.metadata = nbformat.NotebookNode(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": LANGUAGE,
            "lesson": lesson,
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def with_parameters(notebook, **values):
    """Return the notebook with other values in its cell of parameters, such as `seed = 1`, where it has these names."""
    for cell in notebook.cells:
        if PARAMETERS in cell.metadata.get("tags", []):
            for name, value in values.items():
                cell.source = re.sub(rf"^{name} = [^#\n]*", f"{name} = {value!r}  ", cell.source, flags=re.M).rstrip()
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


def write(path, notebook):
    """Write the notebook of a lesson's source and return its size in bytes; exit when that is too large."""
    text = nbformat.writes(notebook) + "\n"
    size = len(text.encode())
    if size > SIZE_CAP:
        raise SystemExit(f"{size:,} bytes; at most {SIZE_CAP:,}. Draw fewer or smaller figures.")
    (NOTEBOOKS / f"{path.stem}.ipynb").write_text(text, encoding="utf-8", newline="\n")
    return size


def renew_headers(new):
    """Put each source's header into its notebook, and tell whether one has changed; a new lesson's is made for it."""
    changed = False
    for path in sorted(SOURCES.glob("*.py")):
        source, built = read_source(path), NOTEBOOKS / f"{path.stem}.ipynb"
        if built.exists():
            notebook = nbformat.read(built, as_version=4)
        elif path in new:
            notebook = source
        else:
            continue
        if notebook is source or notebook.metadata.get("lesson") != source.metadata["lesson"]:
            notebook.metadata["lesson"], changed = source.metadata["lesson"], True
            write(path, notebook)
    return changed


def build(paths, times):
    """Execute and write the lessons; exit with the first fault."""
    measured = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    if renew_headers(paths):
        paths = sorted({*paths, *SOURCES.glob("00_*.py")})
    for path in paths:
        print(f"{path.name} … ", end="", flush=True)
        start = time.perf_counter()
        try:
            notebook = execute(read_source(path))
        except (CellExecutionError, CellTimeoutError) as error:
            raise SystemExit(f"failed.\n{error}") from None
        seconds = time.perf_counter() - start
        size = write(path, notebook)
        if times:
            measured[path.stem] = round(seconds)
        print(f"{seconds:.0f} s, {size / 1000:.0f} KB")
    if times:
        TIMES.write_text(json.dumps(dict(sorted(measured.items())), indent=1) + "\n")


def course_table():
    """Return the README's table: a row for each lesson, from its header and the measured times."""
    measured = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    rows, minutes = ["| lesson | the question it answers | your time | machine |", "|---|---|---|---|"], 0
    for path in sorted(SOURCES.glob("*.py")):
        lesson = read_source(path).metadata["lesson"]
        number = path.stem.split("_")[0]
        seconds = f"{measured[path.stem]} s" if path.stem in measured else "not measured"
        link = f"[{number} {lesson['title']}](notebooks/{path.stem}.ipynb)"
        rows.append(f"| {link} | {lesson['question']} | {lesson['minutes']} min | {seconds} |")
        minutes += lesson["minutes"]
    rows.append(f"| all of it | | {minutes / 60:.0f} hours | {sum(measured.values()) / 60:.0f} min |")
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


def new(number, title):
    """Write a new lesson's source and checks from the templates, and say what to do next; exit when that cannot be."""
    title = " ".join(title.split())
    name = "_".join(re.findall(r"[a-z0-9]+", title.lower()))
    if not re.fullmatch(r"[0-9][0-9]", number):
        raise SystemExit(f"'{number}' is no lesson's number: those have two digits, such as 15.")
    if not name or re.search(r'["\\|]', title):
        raise SystemExit(
            f"'{title}' is no title: it needs a letter a to z or a digit, for the file's name, and no \" \\ |."
        )
    there = [*SOURCES.glob(f"{number}_*"), *NOTEBOOKS.glob(f"{number}_*"), *CHECKS.glob(f"lesson_{number}.*")]
    if there:
        raise SystemExit(f"there is a lesson {number} already, {there[0].relative_to(ROOT)}: take another number.")
    before = [path for path in sorted(SOURCES.glob("*.py")) if path.name < number]
    part = read_source(before[-1]).metadata["lesson"]["part"] if before else "REPLACE: the part's name"
    files = {"lesson.py": SOURCES / f"{number}_{name}.py", "checks.py": CHECKS / f"lesson_{number}.py"}
    for template, path in files.items():
        text = (TEMPLATES / template).read_text(encoding="utf-8")
        text = text.replace("NN", number).replace("PART", part).replace("TITLE", title)
        path.write_text(text, encoding="utf-8", newline="\n")
        print(f"made {path.relative_to(ROOT)}")
    print(
        f"It works as it is: make notebooks ONLY={number} TIMES=1, then make check LESSON={number}.\n"
        f"Put your own in place of what is marked REPLACE; the header says '{part}', as in the lesson before."
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build", help="execute the lessons and write their notebooks")
    command.add_argument("--only", default="", help="the start of a lesson's file name, such as 02")
    command.add_argument("--times", action="store_true", help="store the measured seconds too")
    commands.add_parser("table", help="renew the course table and the picture of README.md")
    command = commands.add_parser("new", help="make a lesson that works, and its checks, to be filled with your own")
    command.add_argument("number", help="two digits, such as 15")
    command.add_argument("title", help='in quotes, such as "Longer texts"')
    arguments = parser.parse_args()
    if arguments.command == "new":
        return new(arguments.number, arguments.title)
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
