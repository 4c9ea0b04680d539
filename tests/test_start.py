"""The learner's workspace: solutions taken out, nothing else changed, nothing of the learner's ever lost."""

import copy
import errno
import json
import os
import shutil
import subprocess
import sys
import types

import pytest

from nextbert_lite.course import cli
from nextbert_lite.course import workspace as lessons


def code(source, *, tags=(), id="c1"):
    return {
        "cell_type": "code",
        "id": id,
        "metadata": {"tags": list(tags)},
        "execution_count": 3,
        "outputs": [{"output_type": "stream", "name": "stdout", "text": ["42\n"]}],
        "source": source.splitlines(keepends=True),
    }


def notebook(*cells, **metadata):
    text = {"cell_type": "markdown", "id": "m1", "metadata": {}, "source": ["# A lesson of ½ an hour\n", "Text."]}
    return {"cells": [text, *cells], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


SOLVED = """def add(a, b):
    \"\"\"Return the sum.\"\"\"
    ### BEGIN SOLUTION
    total = a + b
    return total
    ### END SOLUTION

print(add(1, 2))"""
BLANK = """def add(a, b):
    \"\"\"Return the sum.\"\"\"
    pass  # your code here

print(add(1, 2))"""


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """The course's folder of lessons, with two small ones."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(lessons, "share_dir", lambda name: folder)
    ship(folder / "00_start_here.ipynb", notebook(code("1 + 1")))
    ship(folder / "02_attention.ipynb", notebook(code(SOLVED, tags=["exercise-02.1"])))
    return folder


def ship(path, lesson):
    path.write_text(lessons.write_notebook(lesson), encoding="utf-8")


def source(path, cell=1):
    return "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][cell]["source"])


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# The learner's version


def test_a_solution_becomes_one_blank_at_its_indentation():
    learner = lessons.learner_version(notebook(code(SOLVED)))
    assert "".join(learner["cells"][1]["source"]) == BLANK


def test_nothing_but_solutions_outputs_counts_and_widgets_is_changed():
    original = notebook(code(SOLVED, tags=["exercise-02.1"]), code("x = 1", id="c2"), lesson={"title": "A"}, widgets={})
    before = copy.deepcopy(original)
    learner = lessons.learner_version(original)
    assert original == before
    for cell in learner["cells"][1:]:
        assert cell["outputs"] == [] and cell["execution_count"] is None
    for cell, old in zip(learner["cells"][1:], original["cells"][1:], strict=True):
        cell.update({key: old[key] for key in ("outputs", "execution_count")})
    learner["cells"][1]["source"] = original["cells"][1]["source"]
    assert "widgets" not in learner["metadata"]
    learner["metadata"]["widgets"] = {}
    assert learner == original


def test_two_solutions_in_one_cell_become_two_blanks():
    pair = "### BEGIN SOLUTION\na = 1\n### END SOLUTION"
    learner = lessons.learner_version(notebook(code(f"{pair}\nb = 2\n{pair}")))
    assert "".join(learner["cells"][1]["source"]) == f"{lessons.BLANK}\nb = 2\n{lessons.BLANK}"


def test_a_source_that_is_one_string_stays_one():
    cell = code("") | {"source": SOLVED}
    assert lessons.learner_version(notebook(cell))["cells"][1]["source"] == BLANK


def test_markers_in_text_are_left_alone():
    text = {"cell_type": "markdown", "id": "m2", "metadata": {}, "source": "### BEGIN SOLUTION"}
    assert lessons.learner_version(notebook(text)) == notebook(text)


def learner_of(source):
    return lambda: lessons.learner_version(notebook(code(source, id="broken")))


CELL = r"code cell 2 \(id broken\).*SOLUTION"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (learner_of("### BEGIN SOLUTION\na = 1"), CELL),
        (learner_of("a = 1\n### END SOLUTION"), CELL),
        (learner_of("### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION"), CELL),
        (learner_of("###BEGIN SOLUTION\na = 1\n###END SOLUTION"), CELL),
        (learner_of("### BEGIN SOLUTIONS\na = 1\n### END SOLUTIONS"), CELL),
        (learner_of("### begin solution\na = 1\n### end solution"), CELL),
        (lambda: lessons.solution("02.9"), r"no exercise '02.9'.*there are: 02.1\."),
        (lambda: lessons.lesson_number("notes.ipynb"), r"notes\.ipynb"),
    ],
)
def test_markers_that_do_not_pair_up_and_unknown_names_are_refused(shipped, call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_solution_is_found_by_its_exercise(shipped):
    shown = lessons.solution("02.1")  # code to paste: it runs as it is
    assert "SOLUTION" not in shown
    names = {}
    exec(shown, names)
    assert names["add"](2, 3) == 5


def test_lessons_are_found_in_order_and_by_number(shipped):
    (shipped / "notes.ipynb").write_text("{}")
    assert [lessons.lesson_number(path) for path in lessons.find_lessons()] == ["00", "02"]


# The workspace


def test_the_first_start_fills_the_workspace_and_the_second_does_nothing(shipped, tmp_path):
    workspace = tmp_path / "deep" / "workspace"
    assert [line.split()[0] for line in lessons.prepare(workspace)] == ["made", "made"]
    assert source(workspace / "02_attention.ipynb") == BLANK
    before = files(workspace)
    assert sorted(before) == ["00_start_here.ipynb", "02_attention.ipynb"]
    assert lessons.prepare(workspace) == []
    assert files(workspace) == before


def test_a_learners_file_is_never_overwritten_and_a_new_lesson_is_offered_once(shipped, tmp_path):
    workspace = tmp_path / "workspace"
    lessons.prepare(workspace)
    mine = workspace / "02_attention.ipynb"
    mine.write_bytes(mine.read_bytes().replace(b"pass  # your code here", b"return a + b  # mine, unsaved spaces  "))
    before = mine.read_bytes()
    assert lessons.prepare(workspace) == []  # the learner's own work is not a change of the lesson

    ship(shipped / "02_attention.ipynb", notebook(code(SOLVED), code("a_second_cell = True", id="c2")))
    (line,) = lessons.prepare(workspace)
    assert line.startswith("offered") and "02_attention.new.ipynb" in line
    assert source(workspace / "02_attention.new.ipynb", 2) == "a_second_cell = True"
    assert lessons.prepare(workspace) == []

    offered = (workspace / "02_attention.new.ipynb").read_bytes()
    ship(shipped / "02_attention.ipynb", notebook(code(SOLVED), code("a_third_version = True", id="c2")))
    (line,) = lessons.prepare(workspace)
    assert "02_attention.new-2.ipynb" in line
    assert lessons.prepare(workspace) == []
    assert mine.read_bytes() == before
    assert (workspace / "02_attention.new.ipynb").read_bytes() == offered


def test_a_new_lesson_taken_over_under_the_old_name_is_not_offered_again(shipped, tmp_path):
    lessons.prepare(tmp_path / "workspace")
    ship(shipped / "02_attention.ipynb", notebook(code("version = 2")))
    lessons.prepare(tmp_path / "workspace")
    os.replace(tmp_path / "workspace/02_attention.new.ipynb", tmp_path / "workspace/02_attention.ipynb")
    assert lessons.prepare(tmp_path / "workspace") == []


def test_what_a_learner_cannot_see_is_no_new_version(shipped, tmp_path):
    lessons.prepare(tmp_path / "workspace")
    solved_differently = code(SOLVED.replace("total", "result"), tags=["exercise-02.1"])
    solved_differently["outputs"], solved_differently["execution_count"] = [], 9
    ship(shipped / "02_attention.ipynb", notebook(solved_differently))
    assert lessons.prepare(tmp_path / "workspace") == []


@pytest.mark.parametrize("content", [b"", b'{"cells": [', b"\xff\xfe", b"[]", b'{"cells": [], "metadata": []}'])
def test_a_broken_file_is_kept_and_the_lesson_laid_beside_it(shipped, tmp_path, content):
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "02_attention.ipynb").write_bytes(content)
    assert [line.split()[0] for line in lessons.prepare(workspace)] == ["made", "offered"]
    assert (workspace / "02_attention.ipynb").read_bytes() == content
    assert lessons.prepare(workspace) == []


def test_a_file_of_another_program_that_has_the_offers_name_is_kept_too(shipped, tmp_path):
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for name in ("02_attention.ipynb", "02_attention.new.ipynb"):
        (workspace / name).write_text("mine")
    lessons.prepare(workspace)
    assert {(workspace / name).read_text() for name in ("02_attention.ipynb", "02_attention.new.ipynb")} == {"mine"}
    assert source(workspace / "02_attention.new-2.ipynb") == BLANK


KILLED = """
import os, sys
from pathlib import Path
from nextbert_lite.course import workspace
workspace.share_dir = lambda name: Path(sys.argv[1])
def half(path, text, **_):
    path.write_bytes(text.encode()[: len(text) // 2])
    os._exit(9)
Path.write_text = half
workspace.prepare(sys.argv[2])
"""


def test_a_start_that_is_killed_while_it_writes_leaves_no_half_lesson(shipped, tmp_path):
    workspace = tmp_path / "workspace"
    died = subprocess.run([sys.executable, "-c", KILLED, str(shipped), str(workspace)], check=False)
    assert died.returncode == 9
    assert list(workspace.iterdir()) and not list(workspace.glob("[0-9]*.ipynb"))
    lessons.prepare(workspace)
    assert source(workspace / "02_attention.ipynb") == BLANK


# The command


def run(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_start_without_opening_prints_a_line_for_each_file_and_then_nothing(shipped, tmp_path, capsys):
    status, out, err = run(capsys, "start", tmp_path / "workspace", "--no-open")
    assert (status, len(out.splitlines()), err) == (0, 2, "")
    assert run(capsys, "start", tmp_path / "workspace", "--no-open") == (0, "", "")


def test_start_opens_jupyterlab_on_lesson_00_or_on_the_named_one(shipped, tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr(lessons, "open_lab", opened.append)
    run(capsys, "start", tmp_path / "workspace")
    run(capsys, "start", tmp_path / "workspace", "--lesson", "2", "--port", "9000", "--", "--no-browser")
    assert opened[0][0] == str(tmp_path / "workspace" / "00_start_here.ipynb")
    assert opened[1][0] == str(tmp_path / "workspace" / "02_attention.ipynb")
    assert "--port=9000" in opened[1] and opened[1][-1] == "--no-browser"
    assert "--LabApp.news_url=None" in opened[0]  # nothing asks the network


def test_jupyterlabs_kernel_is_this_python_even_if_the_user_has_another(tmp_path, monkeypatch):
    rival = tmp_path / "kernels" / "python3"
    rival.mkdir(parents=True)
    (rival / "kernel.json").write_text(json.dumps({"argv": ["another-python"], "display_name": "x", "language": "x"}))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "")
    monkeypatch.delenv("JUPYTER_PREFER_ENV_PATH")
    from jupyter_client.manager import KernelManager
    from jupyterlab.labapp import LabApp

    seen = []
    launch = lambda arguments: seen.append(KernelManager(kernel_name="python3").format_kernel_cmd()[0])  # noqa: E731
    monkeypatch.setattr(LabApp, "launch_instance", launch)
    lessons.open_lab(["--allow-root"])
    assert seen == [sys.executable]


def refusing(number):
    def replace(*_):
        raise OSError(number, os.strerror(number))

    return lambda patch, shipped: patch.setattr(os, "replace", replace)


def broken(patch, shipped):
    (shipped / "02_attention.ipynb").write_text("{")


@pytest.mark.parametrize(
    ("arrange", "arguments", "status", "words"),
    [
        (None, "taken --no-open", 1, "name a"),
        (None, "taken/below --no-open", 1, "name a"),
        (None, "new --lesson 77 --no-open", 2, "there are: 00, 02"),
        (broken, "new --no-open", 2, "is not a notebook"),
        (lambda patch, shipped: shutil.rmtree(shipped), "new --no-open", 1, "make notebooks"),
        (lambda patch, shipped: patch.setattr(os, "geteuid", lambda: 0, raising=False), "new", 1, "-- --allow-root"),
        (refusing(errno.ENOSPC), "new --no-open", 1, "the disk is full"),
        (refusing(errno.EACCES), "new --no-open", 1, "name another folder"),
        (refusing(errno.EIO), "new --no-open", 1, os.strerror(errno.EIO)),
    ],
)
def test_expected_trouble_is_one_sentence(shipped, tmp_path, capsys, monkeypatch, arrange, arguments, status, words):
    (tmp_path / "taken").write_text("mine")
    monkeypatch.chdir(tmp_path)
    if arrange:
        arrange(monkeypatch, shipped)
    ended, _, err = run(capsys, "start", *arguments.split())
    assert (ended, err.count("\n")) == (status, 1) and err.startswith("nextbert-lite: ") and words in err
    assert (tmp_path / "taken").read_text() == "mine"
    assert {path.suffix for path in (tmp_path / "new").glob("*")} <= {".ipynb"}  # no part of a file


def test_the_demo_gets_its_options_and_ctrl_c_is_told_in_a_line(monkeypatch, capsys):
    def run_demo(out, minutes, seed, device):
        if seed == 7:
            raise KeyboardInterrupt
        print(out, minutes, seed, device)
        return 0

    monkeypatch.setitem(sys.modules, "nextbert_lite.course.demo", types.SimpleNamespace(run_demo=run_demo))
    assert run(capsys, "demo", "--minutes", "0.5", "--device", "cpu") == (0, "demo 0.5 0 cpu\n", "")
    assert run(capsys, "demo", "--seed", "7") == (130, "", "nextbert-lite: stopped by Ctrl-C.\n")


@pytest.mark.parametrize(
    "arguments", ["demo --minutes 0", "demo --minutes nan", "demo --seed -1", "demo -- x", "", "x"]
)
def test_a_wrong_argument_is_explained_without_a_traceback(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments.split())
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_the_module_is_the_command_and_its_help_does_not_wait_for_torch():
    script = (
        "import runpy, sys; sys.argv = ['nextbert-lite', '--version']\n"
        "try: runpy.run_module('nextbert_lite', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0].startswith("nextbert-lite 0.")
    assert done.stdout.split("\n")[1] == "0 False False"
    module = subprocess.run([sys.executable, "-m", "nextbert_lite", "--help"], capture_output=True, text=True)
    assert "examples:" in module.stdout and "start workspace" in module.stdout
