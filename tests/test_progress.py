"""`nextbert-lite progress`: what a learner's copies pass, whatever state they were saved in, and nothing is written."""

import io
import json
import subprocess
import sys
from unittest.mock import Mock

import pytest

from nextbert_lite.course import cli, progress
from nextbert_lite.course import workspace as lessons

CHECK = """class CheckFailed(AssertionError):
    pass

def add(answer):
    print("the checks talk, too ✓")
    if answer is None or answer(1, 2) is None:
        raise CheckFailed("02.1 is blank.")
    if answer(1, 2) != 3:
        raise CheckFailed("02.1: that subtracts. " + "Add them instead, both of them. " * 20)

def double(answer):
    assert answer(4) == 8, "twice four\\nis eight"
"""
ADD = "def add(a, b):\n    ### BEGIN SOLUTION\n    return a + b\n    ### END SOLUTION"
DOUBLE = "def double(a):\n    ### BEGIN SOLUTION\n    return math.floor(add(a, a))\n    ### END SOLUTION"


def code(source, *, tags=(), id="c"):
    return {"cell_type": "code", "id": id, "metadata": {"tags": list(tags)}, "outputs": [], "source": source}


def lesson(add=ADD, double=DOUBLE, *more):
    return [
        code("import math\nimport tiny_check as check\nnever_run = 1 / 0"),
        code(add, tags=["exercise-02.1"], id="a"),
        code("check.add(add)"),
        code(double, tags=["exercise-02.2"], id="b"),
        code("check.double(double)"),
        *more,
    ]


def save(path, cells):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The learner's copy, solved, of the only shipped lesson."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "tiny_check.py").write_text(CHECK, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setattr(lessons, "share_dir", lambda name: tmp_path / "shipped")
    save(tmp_path / "shipped" / "02_attention.ipynb", lesson())
    save(tmp_path / "ws" / "02_attention.ipynb", lesson())
    return tmp_path / "ws" / "02_attention.ipynb"


def of(path, limit=20):
    """Return (status, message) of each exercise of the one lesson."""
    (row,) = progress.progress(path.parent, limit)
    assert row["trouble"] is None and [one["id"] for one in row["exercises"]] == ["02.1", "02.2"]
    return [(one["status"], one["message"]) for one in row["exercises"]]


PASSES, MISSING = ("passes", ""), ("missing", "not found in your copy")


def test_solutions_pass_and_an_exercise_may_use_the_one_before_it(mine):
    assert of(mine) == [PASSES, PASSES]


@pytest.mark.parametrize("cell", ["def add(a, b):\n    pass  # your code here", "", "# later", "add = None"])
def test_a_blank_is_blank(mine, cell):
    save(mine, lesson(cell))
    assert of(mine)[0] == ("blank", "")


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("def add(a, b):\n    return a - b", "that subtracts. Add"),
        ("def add(a, b)\n    return a", "SyntaxError in line 1: expected ':'"),
        ("return 3", "SyntaxError in line 1: 'return' outside function"),
        ("def plus(a, b):\n    return a + b", "NameError: name 'add' is not defined"),
        ("def add(a, b):\n    return a.sum()", "AttributeError: 'int' object has no attribute 'sum'"),
        ("def add(a: Nowhere, b):\n    return a + b", "NameError: name 'Nowhere' is not defined"),
        ("add = input()", "EOFError"),
        ("raise SystemExit", "SystemExit"),
        ("import os\nos._exit(3)", "Python itself ended (status 3)"),
    ],
)
def test_a_failure_says_why_in_one_line_and_does_not_hide_the_next_exercise(mine, cell, says):
    save(mine, lesson(cell, "print('chatter')\nprint('{')\ndef double(a):\n    return 2 * a"))
    (status, message), second = of(mine)
    assert status == "fails" and message.startswith(says) and "\n" not in message
    assert second == PASSES


def test_an_endless_loop_costs_its_own_exercise_only_in_python_and_in_c(mine, tmp_path):
    third = [code("import itertools\nany(itertools.repeat(0))", tags=["exercise-02.3"], id="d"), code("1")]
    save(tmp_path / "shipped" / "02_attention.ipynb", lesson(ADD, DOUBLE, *third))
    save(mine, lesson("def add(a, b):\n    while True: pass", "def double(a): return 2 * a", *third))
    (row,) = progress.progress(mine.parent, limit=1)
    late = ("fails", "took longer than 1 s")
    assert [(one["status"], one["message"]) for one in row["exercises"]] == [late, PASSES, late]


def test_the_exercises_before_one_that_died_still_serve_those_behind_it(mine, tmp_path):
    third = [code("four = add(2, 2)", tags=["exercise-02.3"], id="d"), code("assert four == 4")]
    save(tmp_path / "shipped" / "02_attention.ipynb", lesson(ADD, DOUBLE, *third))
    save(mine, lesson(ADD, "import os; os._exit(0)", *third))
    (row,) = progress.progress(mine.parent)
    assert [one["status"] for one in row["exercises"]] == ["passes", "fails", "passes"]


def test_the_learners_own_imports_functions_and_magics_are_there(mine):
    own = code("import operator\nbroken = nowhere\ndef helper(a, b):\n    return operator.add(a, b)", id="own")
    save(mine, [own, code("def half(", id="x"), *lesson("%%time\ndef add(a, b):\n    return helper(a, b)")])
    assert of(mine) == [PASSES, PASSES]


def test_a_function_of_the_same_name_in_another_cell_is_no_answer(mine):
    save(mine, lesson("x = 1", DOUBLE, code("def add(a, b):\n    return a + b", id="own")))
    assert of(mine)[0] == ("fails", "NameError: name 'add' is not defined")


def test_a_deleted_exercise_is_not_found_and_one_without_its_tag_is(mine):
    cells = lesson()
    cells[1]["metadata"], cells[3] = {}, code("", id="z")
    save(mine, cells)
    assert of(mine) == [PASSES, MISSING]
    cells[1]["id"] = "new"
    save(mine, cells)
    assert of(mine) == [MISSING, MISSING]


def test_a_deleted_or_changed_check_changes_nothing(mine):
    cells = lesson("def add(a, b): return a - b")
    cells[2] = code("pass")
    save(mine, cells[:4])
    assert [status for status, _ in of(mine)] == ["fails", "fails"]


def test_a_split_cell_is_read_whole(mine):
    save(mine, [*lesson("one = 1"), code("def add(a, b): return a + b * one", tags=["exercise-02.1"], id="split")])
    assert of(mine) == [PASSES, PASSES]


def test_a_renamed_lesson_is_found_and_an_offer_is_not_the_learners(mine, capsys):
    renamed = mine.rename(mine.with_name("a try.ipynb"))
    save(mine.with_name("02_attention.new.ipynb"), lesson("x = 1", "x = 1"))
    assert run(capsys, mine.parent)[1].startswith("02_attention.ipynb (your a try.ipynb)\n  ✓ 02.1  passes\n")
    renamed.unlink()
    with pytest.raises(FileNotFoundError, match="holds no lessons"):
        list(progress.progress(mine.parent))


def test_nothing_in_the_folder_is_written(mine, monkeypatch):
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    writes = "from pathlib import Path\nPath('left.txt').write_text('x')\nimport own_module\n"
    save(mine, lesson(writes + "def add(a, b): return a + b"))
    mine.with_name("own_module.py").write_text("x = 1")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in mine.parent.iterdir()}
    assert of(mine) == [PASSES, PASSES]
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in mine.parent.iterdir()} == before


# The command


def run(capsys, *arguments):
    status = cli.main(["progress", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_table_is_one_line_an_exercise_cut_at_the_terminals_width(mine, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    save(mine, lesson("def add(a, b):\n    return a - b"))
    status, out, err = run(capsys, mine.parent)
    assert (status, err) == (0, "") and all(len(line) <= 50 for line in out.splitlines())
    assert out.splitlines() == [
        "02_attention.ipynb",
        "  ✗ 02.1  that subtracts. Add them instead, ...",
        "  ✗ 02.2  AssertionError: twice four is eight",
        "0 of 2 exercises pass",
    ]


def test_json_says_the_same_with_whole_messages(mine, capsys):
    save(mine, lesson("def add(a, b):\n    return a - b", "def double(a): return a + a"))
    status, out, _ = run(capsys, mine.parent, "--json")
    told = json.loads(out)
    assert (status, told["passed"], told["exercises"], told["lessons"][0]["file"]) == (0, 1, 2, "02_attention.ipynb")
    first, second = told["lessons"][0]["exercises"]
    assert first["status"] == "fails" and first["message"].count("Add them") == 20
    assert second == {"id": "02.2", "status": "passes", "message": ""}


def test_a_terminal_without_the_symbols_gets_words(mine, monkeypatch):
    save(mine, lesson("# later", "raise ValueError('√2')"))
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", newline="\n")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert cli.main(["progress", str(mine.parent)]) == 0
    terminal.flush()
    lines = terminal.buffer.getvalue().decode("cp1252").splitlines()
    assert lines[1:3] == ["  blank   02.1", "  fails   02.2  ValueError: ?2"]


@pytest.mark.parametrize("content", [b"", b'{"cells": [', b"\xff\xfe", b"[]", b'{"cells": [1]}'])
def test_a_broken_notebook_is_one_line_and_the_other_lessons_are_shown(mine, tmp_path, capsys, content):
    save(tmp_path / "shipped" / "03_heads.ipynb", lesson())
    save(tmp_path / "shipped" / "04_more.ipynb", [code("1", tags=["exercise-04.1"], id="q"), code("2")])
    mine.with_name("03_heads.ipynb").write_bytes(content)
    status, out, _ = run(capsys, mine.parent)
    lines = out.splitlines()
    assert status == 0 and len(lines) == 6 and lines[3].startswith("03_heads.ipynb: ") and "read" in lines[3]
    assert lines[4:] == ["04_more.ipynb: not in this folder", "2 of 4 exercises pass"]


@pytest.mark.parametrize("name", ["modules", "nowhere"])
def test_a_folder_without_lessons_is_one_sentence(mine, tmp_path, capsys, name):
    status, out, err = run(capsys, tmp_path / name)
    assert (status, out, err.count("\n")) == (1, "", 1) and "holds no lessons" in err


def in_this_process(command, input, **_):
    """Do what the child interpreter would do: importing torch for each lesson would take a minute."""
    out, job, clock = io.StringIO(), json.loads(input), Mock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "os", Mock(**{"fdopen.return_value": out}))
        patch.setattr(progress, "faulthandler", clock)
        progress.work(job)
    passed = {one["id"] for one in map(json.loads, out.getvalue().splitlines()) if one["status"] == "passes"}
    courses = sum(bool(onward) and i not in passed for i, *_, onward in job["run"])  # of what was checked just now
    assert clock.dump_traceback_later.call_count == 1 + len(job["run"]) + courses  # the limit is each exercise's own
    return subprocess.CompletedProcess(command, 0, out.getvalue().encode(), b"")


@pytest.mark.parametrize("path", lessons.find_lessons(), ids=lessons.lesson_number)
def test_in_a_real_lesson_blanks_are_blank_and_solutions_between_them_pass(path, tmp_path, monkeypatch):
    monkeypatch.setenv("NEXTBERT_GRADE", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress.subprocess, "run", in_this_process)
    lesson = lessons.read_notebook(path)
    tagged = [c for c in lesson["cells"] if any(t.startswith("exercise-") for t in c["metadata"].get("tags", []))]
    solved = {c["id"]: c for c in tagged[::2]}  # the instructor's cell in every second exercise
    save(tmp_path / path.name, [solved.get(c["id"], c) for c in lessons.learner_version(lesson)["cells"]])
    (row,) = (row for row in progress.progress(tmp_path) if row["file"])
    assert [one["status"] for one in row["exercises"]] == (["passes", "blank"] * 9)[: len(tagged)] != [], row


@pytest.mark.slow
def test_a_blank_copy_is_all_blank_and_the_instructors_version_passes(tmp_path):
    lessons.prepare(tmp_path / "ws")
    for folder, expected in ((tmp_path / "ws", "blank"), (lessons.share_dir("notebooks"), "passes")):
        for row in progress.progress(folder):
            assert row["exercises"] and {one["status"] for one in row["exercises"]} == {expected}, row
