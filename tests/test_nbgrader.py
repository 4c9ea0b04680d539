"""nbgrader's whole round, by the commands and the settings of book/teachers.md: release, points, feedback."""

import csv
import html
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nextbert_lite.checks.core import find
from nextbert_lite.course import workspace as lessons

ROOT = Path(__file__).resolve().parent.parent
SECTION = (ROOT / "book" / "teachers.md").read_text(encoding="utf-8").split("## Grading with nbgrader")[1]
COMMANDS = re.findall(r"`(nbgrader [^`]+)`", SECTION)
GRADED = ["02_attention", "03_many_heads", "09_the_contrastive_loss"]  # each with a build; they run in seconds


def source_of(name):
    """Return the copy for nbgrader that a lesson's page of the book offers."""
    spec = importlib.util.spec_from_file_location("book_tool", ROOT / "tools" / "book.py")
    book = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(book)
    lesson = book.read_lesson(ROOT / "notebooks" / f"{name}.ipynb", {})
    return book.nbgrader_copy(lessons.read_notebook(lesson.path), lesson)


def exercises(notebook):
    """Return (id, exercise cell, check cell) for each exercise of a copy for nbgrader."""
    marked = [cell for cell in notebook["cells"] if "nbgrader" in cell["metadata"]]
    names = [cell["metadata"]["nbgrader"]["grade_id"].removeprefix("exercise-") for cell in marked[::2]]
    return [(name.replace("-", "."), *pair) for name, *pair in zip(names, marked[::2], marked[1::2], strict=True)]


def right(cell, check, solved):
    """Return the solution, without its markers."""
    return [line for line in lessons.lines_of(solved) if line.strip() not in (lessons.BEGIN, lessons.END)]


def wrong(cell, check, solved):
    """Return the learner's blank and below it, under the name that is asked for, the first mistake that is known."""
    (name,) = re.findall(r"check\.\w+\((\w+)\)", "".join(check["source"]))
    exercise_id = check["metadata"]["nbgrader"]["grade_id"].removeprefix("check-").replace("-", ".")
    mistake = f"{name} = find('{exercise_id}').mistakes[0].wrong"
    return [*lessons.lines_of(cell), "from nextbert_lite.checks.core import find", mistake]


LEARNERS = {"blank": lambda cell, check, solved: lessons.lines_of(cell), "right": right, "wrong": wrong}


def run(command, folder):
    """Run a command of the page in the class's folder, with this environment active as the page says."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1", "JUPYTER_PREFER_ENV_PATH": "1", "PYTHONIOENCODING": "utf-8"}
    env |= {"JUPYTER_CONFIG_DIR": str(folder / "no-settings-of-the-user"), "PYTHONWARNINGS": "ignore", "PATH": path}
    clean = {name: value for name, value in os.environ.items() if name != "NEXTBERT_GRADE"}
    words = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(words, cwd=folder, env=clean | env, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_the_page_tells_the_round_in_its_order():
    assert [command.split()[1] for command in COMMANDS] == [
        "generate_assignment", "autograde", "generate_feedback", "export",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", GRADED)
def test_blanks_and_mistakes_get_no_point_solutions_get_all_and_the_feedback_names_the_mistake(name, tmp_path):
    pytest.importorskip("nbgrader", reason="this test needs the extra grade: make test-slow installs it")
    settings = re.search(r"```\n(.*?)```", SECTION, re.DOTALL)[1]
    (tmp_path / "nbgrader_config.py").write_text(re.sub(r"(?m)^   ", "", settings), encoding="utf-8")
    source = source_of(name)
    path = tmp_path / "source" / name / f"{name}.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(lessons.write_notebook(source), encoding="utf-8")
    commands = [command.replace("02_attention", name) for command in COMMANDS]

    run(commands[0], tmp_path)
    released = (tmp_path / "release" / name / path.name).read_text(encoding="utf-8")
    assert lessons.BEGIN not in released
    assert all(lessons.BLANK in "".join(cell["source"]) for _, cell, _ in exercises(json.loads(released)))
    for learner, fill in LEARNERS.items():
        notebook = json.loads(released)
        for (_, cell, check), (_, solved, _) in zip(exercises(notebook), exercises(source), strict=True):
            cell["source"] = "\n".join(fill(cell, check, solved))
        target = tmp_path / "submitted" / learner / name / path.name
        target.parent.mkdir(parents=True)
        target.write_text(lessons.write_notebook(notebook), encoding="utf-8")
    for command in commands[1:]:
        run(command, tmp_path)

    points = sum(check["metadata"]["nbgrader"]["points"] for _, _, check in exercises(source))
    with open(tmp_path / "grades.csv", encoding="utf-8", newline="") as file:
        grades = {row["student_id"]: (float(row["score"]), float(row["max_score"])) for row in csv.DictReader(file)}
    print(name, grades)
    assert grades == {"blank": (0, points), "wrong": (0, points), "right": (points, points)}

    for learner in LEARNERS:
        page = (tmp_path / "feedback" / learner / name / f"{name}.html").read_text(encoding="utf-8")
        text = " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())
        for exercise_id, _, _ in exercises(source):
            says = {
                "blank": f"CheckFailed: {exercise_id} is blank.",
                "wrong": " ".join(find(exercise_id).mistakes[0].message.split()),
                "right": f"✓ {exercise_id} is right",
            }
            assert [state for state, sentence in says.items() if sentence in text] == [learner], exercise_id
