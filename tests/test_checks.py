"""The checks: right answers pass however they are written, and each usual mistake is named, by its own message."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import nextbert_lite.checks
from nextbert_lite.checks import core
from nextbert_lite.checks.core import CheckFailed, Exercise, Mistake, Prediction

MODULES = [
    importlib.import_module(f"nextbert_lite.checks.{module.name}")
    for module in pkgutil.iter_modules(nextbert_lite.checks.__path__)
    if module.name.startswith("lesson_")
]
ALL = {e.id: e for m in MODULES for e in vars(m).values() if isinstance(e, Exercise | Prediction)}
SEEDS = [(0, 1, 2), (11, 12, 13), (101, 202, 303)]

# Each id begins with its lesson, so that `-k lesson02` selects the tests of lesson 02 and no others.
EACH = [pytest.param(e, id=f"lesson{e.id}") for e in ALL.values()]
EXERCISES = [param for param in EACH if isinstance(param.values[0], Exercise)]
PREDICTIONS = [param for param in EACH if isinstance(param.values[0], Prediction)]
MISTAKES = [pytest.param(e, m, id=f"lesson{e.id}-{m.name}") for e in ALL.values() for m in e.mistakes]


def test_an_id_begins_with_its_lesson(request):
    for test in request.session.items:
        if test.path == Path(__file__) and hasattr(test, "callspec"):
            assert re.match(r"lesson\d\d\.\d", test.callspec.id), test.name


@pytest.mark.parametrize("exercise", EXERCISES)
def test_the_right_answer_passes(exercise, capsys):
    exercise(exercise.right)
    assert f"✓ {exercise.id} is right" in capsys.readouterr().out


@pytest.mark.parametrize("exercise", EXERCISES)
def test_right_answers_written_differently_pass(exercise, capsys):
    assert exercise.other_ways, f"exercise {exercise.id} lacks `other_ways`: write its right answer in another way."
    for answer in exercise.other_ways:
        exercise(answer)
        assert "is right" in capsys.readouterr().out


@pytest.mark.parametrize("exercise, mistake", MISTAKES)
def test_each_mistake_gets_its_own_message(exercise, mistake, monkeypatch):
    for seeds in SEEDS:
        monkeypatch.setattr(core, "SEEDS", seeds)
        with pytest.raises(CheckFailed) as failure:
            exercise(mistake.wrong)
        assert str(failure.value) == f"{exercise.id}: {mistake.message}", f"with the seeds {seeds}"


@pytest.mark.parametrize("exercise", EACH)
def test_messages_differ_and_each_mistake_states_its_source(exercise):
    messages = [m.message for m in exercise.mistakes]
    assert len(set(messages)) == len(messages) >= 1
    assert all(len(m.source) > 10 and len(m.message) > 30 for m in exercise.mistakes)
    assert exercise.hints and exercise.praise


@pytest.mark.parametrize("exercise", EXERCISES)
def test_a_blank_is_told_so_and_fails_only_when_graded(exercise, capsys, monkeypatch):
    def empty(*arguments):
        """A docstring may stand here."""
        ...

    def not_implemented(*arguments):
        raise NotImplementedError

    for blank in (empty, not_implemented):
        monkeypatch.delenv("NEXTBERT_GRADE", raising=False)
        exercise(blank)
        assert f"○ {exercise.id} is still blank" in capsys.readouterr().out
        monkeypatch.setenv("NEXTBERT_GRADE", "1")
        with pytest.raises(CheckFailed, match="blank"):
            exercise(blank)


@pytest.mark.parametrize("exercise", PREDICTIONS)
def test_a_prediction_passes_is_named_wrong_or_is_blank(exercise, capsys, monkeypatch):
    exercise(exercise.right)
    assert "is right" in capsys.readouterr().out
    exercise(None)
    assert "still blank" in capsys.readouterr().out
    with pytest.raises(CheckFailed, match="is not it"):
        exercise((1, 2, 3, 4) if isinstance(exercise.right, tuple) else -7.5)
    with pytest.raises(CheckFailed, match="The answer is of type"):
        exercise("six")
    monkeypatch.setenv("NEXTBERT_GRADE", "1")
    with pytest.raises(CheckFailed, match="blank"):
        exercise(None)


# --- what is not a named mistake is described -------------------------------------------------------------------------

DOUBLE = Exercise(
    id="99.1",
    right=lambda x: 2 * x,
    inputs=lambda generator: (torch.randn(2, 3, generator=generator),),
    mistakes=(Mistake("half", lambda x: x / 2, "that is half of it", "made for this test"),),
    hints=("Multiply.",),
    praise="Twice.",
)


def add_in_place(x):
    x += x.clone()
    return x


@pytest.mark.parametrize(
    "answer, words",
    [
        pytest.param(lambda x: 2 * x[0], r"the shape is \(3,\); expected \(2, 3\)", id="lesson99.1-a row is lost"),
        pytest.param(
            lambda x: (2 * x).double(),
            "the dtype is torch.float64; expected torch.float32",
            id="lesson99.1-another dtype",
        ),
        pytest.param(
            lambda x: torch.full_like(x, torch.nan), "6 of 6 values are not finite", id="lesson99.1-not finite"
        ),
        pytest.param(
            lambda x: 2 * x + 0.5 * (torch.arange(3) == 1),
            r"the largest difference is 0.5, at \(\d, 1\)",
            id="lesson99.1-wrong in a column",
        ),
        pytest.param(lambda x: [2 * x, x], "yours is a list of 2", id="lesson99.1-a list"),
        pytest.param(lambda x: x.missing, "raised AttributeError", id="lesson99.1-an error"),
        pytest.param(lambda x: print(end=""), "is a `return` missing", id="lesson99.1-no return"),
        pytest.param(add_in_place, "changes its argument number 1 in place", id="lesson99.1-in place"),
        pytest.param(7, "expects your function itself", id="lesson99.1-no function"),
    ],
)
def test_other_wrong_answers_are_described(answer, words):
    with pytest.raises(CheckFailed, match=words):
        DOUBLE(answer)


def test_an_answer_right_on_some_inputs_only_is_wrong():
    calls = []

    def right_at_first(x):
        calls.append(1)
        return 2 * x if len(calls) == 1 else x

    with pytest.raises(CheckFailed, match="largest difference"):
        DOUBLE(right_at_first)


def test_hints_come_one_by_one_and_point_to_the_solution_at_the_end(capsys):
    core._hints_given.clear()
    n = len(ALL["02.3"].hints)
    for i in range(1, n + 1):
        core.hint("02.3")
        assert capsys.readouterr().out.startswith(f"Hint {i} of {n}:")
    core.hint("02.3")
    assert "check.solution('02.3')" in capsys.readouterr().out
    core.hint("02.3", 1)
    assert capsys.readouterr().out.startswith(f"Hint 1 of {n}:")
    with pytest.raises(ValueError, match=f"1 to {n}"):
        core.hint("02.3", 9)


@pytest.mark.parametrize("exercise", EACH)
def test_every_exercise_has_a_solution_that_can_be_shown(exercise, capsys):
    core.solution(exercise.id)
    assert len(capsys.readouterr().out.strip()) > 10


def test_an_unknown_exercise_is_refused():
    for name in ("02.99", "77.1", "", "two"):
        with pytest.raises(ValueError, match="there is no exercise"):
            core.find(name)


def test_a_notebook_shows_the_message_without_a_traceback():
    assert CheckFailed("02.1: wrong")._render_traceback_() == ["CheckFailed: 02.1: wrong"]
