"""tools/notebooks.py: a new lesson works as it is made, nothing is overwritten, and headers lead to the course map."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

from nextbert_lite.course import workspace
from nextbert_lite.views import plots

ROOT = Path(__file__).resolve().parent.parent


def tool_of(folder):
    spec = importlib.util.spec_from_file_location("notebooks_tool_itself", folder / "tools" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = tool_of(ROOT)

HEADER = """# ---
# jupyter:
#   lesson:
#     title: {title}
#     question: What is the map made from?
#     minutes: 1
#     part: "Part I: build"
# ---
"""
MAP = """
# %%
from nextbert_lite.course.workspace import lesson_headers

for header in lesson_headers():
    print(header["number"], header["title"], "|", header["part"])
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the project with two lessons: 00, which prints the map, and 02, built when it had another title."""
    folder = tmp_path_factory.mktemp("clone")
    unneeded = shutil.ignore_patterns("__pycache__", "_share", "browser")
    for name in ("nextbert_lite", "tools", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=unneeded)
    for name in ("pyproject.toml", "conftest.py", "README.md"):
        shutil.copy(ROOT / name, folder)
    (folder / "data").symlink_to(ROOT / "data")
    source = folder / "notebooks" / "source"
    source.mkdir(parents=True)
    (source / "00_map.py").write_text(HEADER.format(title="The map") + MAP, encoding="utf-8")
    ship(folder / "notebooks", "00_map.ipynb", lesson={"title": "The map without its part"})
    (source / "02_attention.py").write_text(HEADER.format(title="A new title"), encoding="utf-8")
    shutil.copy(ROOT / "notebooks" / "02_attention.ipynb", folder / "notebooks")
    return folder


def ship(folder, name, **metadata):
    notebook = {"cells": [], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    (folder / name).write_text(workspace.write_notebook(notebook), encoding="utf-8")


def run(clone, *command):
    settings = {"PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=clone, env={**os.environ, **settings}, capture_output=True, encoding="utf-8"
    )


def make(clone, *arguments):
    return run(clone, "tools/notebooks.py", *arguments)


@pytest.fixture(scope="module")
def made(clone):
    """What is printed when lesson 30 is made and built in the copy."""
    new = make(clone, "new", "30", "The mean of real tokens: why?")
    built = make(clone, "build", "--only", "30", "--times")
    assert (new.returncode, built.returncode) == (0, 0), new.stderr + built.stderr
    return new.stdout, built.stdout


def test_a_new_lesson_passes_the_tests_of_lessons_and_checks_as_it_is(clone, made):
    files = ["tests/test_lessons.py", "tests/test_checks.py"]
    tests = run(clone, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", "lesson30", *files)
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert int(re.search(r"(\d+) passed", tests.stdout)[1]) > 30, tests.stdout


def test_a_new_lesson_is_formatted_and_lint_finds_nothing_in_it(clone, made):
    files = ["notebooks/source/30_the_mean_of_real_tokens_why.py", "nextbert_lite/checks/lesson_30.py"]
    for command in (["check"], ["format", "--check"]):
        ruff = run(clone, "-m", "ruff", *command, "--no-cache", *files)
        assert ruff.returncode == 0, ruff.stdout + ruff.stderr


def test_a_new_lesson_says_what_to_replace_and_where_it_stands(clone, made):
    new, _ = made
    source = (clone / "notebooks" / "source" / "30_the_mean_of_real_tokens_why.py").read_text(encoding="utf-8")
    assert "# # 30 · The mean of real tokens: why?" in source
    assert source.count("REPLACE") > 15 and not re.search("NN|TITLE|PART", source)
    assert "make notebooks ONLY=30 TIMES=1" in new and "REPLACE" in new and "'Part I: build'" in new


def test_building_a_new_lesson_draws_the_map_of_lesson_00_from_todays_headers(clone, made):
    _, built = made
    assert re.findall(r"^(\S+\.py) …", built, re.MULTILINE) == ["00_map.py", "30_the_mean_of_real_tokens_why.py"]
    (cell,) = json.loads((clone / "notebooks" / "00_map.ipynb").read_text(encoding="utf-8"))["cells"]
    assert "".join(cell["outputs"][0]["text"]).splitlines() == [
        "00 The map | Part I: build",
        "02 A new title | Part I: build",
        "30 The mean of real tokens: why? | Part I: build",
    ]
    again = make(clone, "build", "--only", "30")
    assert re.findall(r"^(\S+\.py) …", again.stdout, re.MULTILINE) == ["30_the_mean_of_real_tokens_why.py"]


@pytest.mark.parametrize(
    "number, title, words",
    [
        ("30", "Another title", r"there is a lesson 30 already, notebooks/source/30_the_mean\S+\.py: take another"),
        ("31", "A title", r"there is a lesson 31 already, nextbert_lite/checks/lesson_31\.py: take another"),
        ("5", "A title", "'5' is no lesson's number: those have two digits"),
        ("105", "A title", "'105' is no lesson's number: those have two digits"),
        ("1x", "A title", "'1x' is no lesson's number: those have two digits"),
        ("32", "", "'' is no title: it needs a letter"),
        ("32", " \n", "'' is no title: it needs a letter"),
        ("32", "…", "'…' is no title: it needs a letter"),
        ("32", 'a "b"', r"""'a "b"' is no title: .* and no " \\ \|\."""),
    ],
    ids=["a source", "checks", "one digit", "three", "a letter", "no title", "blanks", "no letter", "a quote"],
)
def test_what_is_no_new_lesson_is_refused_in_a_sentence_and_nothing_is_written(number, title, words, clone, made):
    (clone / "nextbert_lite" / "checks" / "lesson_31.py").write_text("kept = True\n", encoding="utf-8")
    before = {path: path.read_bytes() for path in clone.rglob("*.py")}
    with pytest.raises(SystemExit, match=f"^{words}[^\n]*$"):
        tool_of(clone).new(number, title)
    assert {path: path.read_bytes() for path in clone.rglob("*.py")} == before


# --- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["title", "question", "minutes", "part"])
def test_a_source_without_a_part_of_its_header_is_refused(key, tmp_path):
    lines = HEADER.format(title="A title").splitlines(keepends=True)
    (tmp_path / "02_a.py").write_text("".join(line for line in lines if f" {key}:" not in line), encoding="utf-8")
    with pytest.raises(SystemExit, match=rf"02_a\.py: the header's `lesson:` lacks \['{key}'\]; see another lesson's"):
        tool.read_source(tmp_path / "02_a.py")


def test_headers_are_read_in_order_from_the_notebooks_that_are_here(tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "share_dir", lambda name: tmp_path)
    assert workspace.lesson_headers() == []
    ship(tmp_path, "13_b.ipynb", lesson={"title": "B", "part": "Part IV", "minutes": 5})
    ship(tmp_path, "02_a.ipynb", lesson={"title": "A", "part": "Part I", "minutes": 5})
    assert workspace.lesson_headers() == [
        {"number": "02", "title": "A", "part": "Part I"},
        {"number": "13", "title": "B", "part": "Part IV"},
    ]


@pytest.mark.parametrize(
    "metadata, lacks",
    [
        pytest.param({}, "no title and no part", id="no header"),
        pytest.param({"lesson": {"title": "A"}}, "no part", id="no part"),
        pytest.param({"lesson": {"part": "Part I", "title": ""}}, "no title", id="an empty title"),
    ],
)
def test_a_notebook_without_a_header_is_named_and_what_to_do_is_said(metadata, lacks, tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "share_dir", lambda name: tmp_path)
    ship(tmp_path, "02_a.ipynb", **metadata)
    with pytest.raises(ValueError, match=rf"^02_a\.ipynb has {lacks} in its metadata .*make notebooks ONLY=02"):
        workspace.lesson_headers()


def test_the_map_of_lesson_00_has_room_for_five_parts_and_ten_lessons_in_one(monkeypatch):
    headers = [tool.read_source(path).metadata["lesson"] for path in sorted(tool.SOURCES.glob("*.py"))]
    headers = [
        {"title": header["title"], "part": header["part"]} for header in headers if "Part V:" not in header["part"]
    ]
    headers += [{"title": f"What {name}BERT changed", "part": "Part V: the next generation"} for name in "ABCDEFGHIJ"]
    headers = [{"number": f"{number:02}", **header} for number, header in enumerate(headers)]
    monkeypatch.setattr(workspace, "lesson_headers", lambda: headers)
    drawn = []
    monkeypatch.setattr(plots, "show", lambda fig, alt: drawn.append(fig))
    cells = jupytext.read(ROOT / "notebooks" / "source" / "00_start_here.py", fmt="py:percent").cells
    exec(next(cell.source for cell in cells if cell.cell_type == "code"), {})
    (fig,) = drawn
    fig.canvas.draw()
    texts = fig.axes[0].texts
    boxes = [(text.get_bbox_patch() or text).get_window_extent() for text in texts]
    shown = " ".join(text.get_text() for text in texts).replace("\n", " ")
    assert all(header["title"] in shown and header["part"] in shown for header in headers)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(fig.bbox.x0 <= box.x0 and box.x1 <= fig.bbox.x1 and fig.bbox.y0 <= box.y0 for box in boxes)


def test_every_lesson_says_what_nbconvert_needs_to_write_it_as_a_script():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        told = json.loads(path.read_text(encoding="utf-8"))["metadata"]["language_info"]
        assert told == {
            "file_extension": ".py",
            "mimetype": "text/x-python",
            "name": "python",
            "nbconvert_exporter": "python",
        }
        assert tool.read_source(tool.SOURCES / f"{path.stem}.py").metadata["language_info"] == told


def test_nbconvert_writes_a_lesson_as_a_python_file():
    exporters = pytest.importorskip("nbconvert.exporters")
    text, resources = exporters.ScriptExporter().from_filename(str(ROOT / "notebooks" / "02_attention.ipynb"))
    assert resources["output_extension"] == ".py" and text.startswith("#!/usr/bin/env python")
