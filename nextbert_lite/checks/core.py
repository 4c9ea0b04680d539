"""How a check works: compare with the right answer, then name the mistake.

An `Exercise` knows the right implementation and the usual wrong ones. Called with the learner's, it runs all of them on
the same seeded inputs. Equal to the right one: passed. Equal to a wrong one: it says which mistake that is and why it
matters. Else it says what differs, by how much and where. What gives the right result and is wrong all the same is
looked for after that: arguments that were changed in place, a limit that the text sets, sizes or names of the notebook
in place of the arguments. torch's random numbers are afterwards as if no check had run.
"""

from __future__ import annotations

import copy
import dis
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from nextbert_lite.course.workspace import solution as solution_code

SEEDS = (0, 1, 2)


class CheckFailed(AssertionError):
    """A wrong answer; in a notebook only its message is shown, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"CheckFailed: {self}"]


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that people give: the code (or value) that gives it, what to say, and where it was seen."""

    name: str
    wrong: Any
    message: str
    source: str


@dataclass(frozen=True)
class Exercise:
    """An exercise whose answer is a function. `check.name(f)` compares f with `right` on `inputs(generator)`."""

    id: str
    right: Callable
    inputs: Callable[[torch.Generator], tuple]
    mistakes: tuple[Mistake, ...]
    hints: tuple[str, ...]
    praise: str
    also: Callable[[torch.Generator], tuple] | None = None  # inputs of other sizes, which a right answer handles too
    limit: Callable[[Callable, tuple], str | None] | None = (
        None  # what else the text asks: a sentence if it is not kept
    )
    reads: Callable[[Any], Any] = lambda outcome: outcome  # what of the result is compared
    other_ways: tuple[Callable, ...] = ()  # other ways to write the right answer; the tests try each

    def __call__(self, answer: Callable) -> None:
        with torch.random.fork_rng(devices=[]):  # a lesson's numbers must not depend on which checks were run
            self.check(answer)

    def check(self, answer: Callable) -> None:
        """Compare the answer with the right one: print that it is right or still blank, or raise CheckFailed."""
        if not callable(answer):
            raise CheckFailed(f"{self.id} expects your function itself, without brackets; this is {describe(answer)}.")
        cases = [self.inputs(torch.Generator().manual_seed(seed)) for seed in SEEDS]
        outcomes = [self.run(answer, case) for case in cases]
        if is_blank(answer, outcomes):
            return blank(self.id)
        faults = [
            difference(outcome, self.run(self.right, case)) for outcome, case in zip(outcomes, cases, strict=True)
        ]
        if not any(faults):
            other = None if self.also is None else self.also(torch.Generator().manual_seed(SEEDS[0]))
            if other is not None:
                fault = difference(self.run(answer, other), self.run(self.right, other))
                if fault:
                    shown = ", ".join(describe(argument) for argument in other)
                    raise CheckFailed(
                        f"{self.id}: right on some inputs, but not for {shown}: {fault}{notebook_names(answer)}"
                    )
                cases.append(other)
            if self.limit is not None:
                broken = [sentence for case in cases if (sentence := self.limit(answer, copy.deepcopy(case)))]
                if broken:
                    raise CheckFailed(f"{self.id}: the result is right, but {broken[0]}")
            changed = [found for case in cases if (found := changed_input(answer, case)) is not None]
            if changed:
                number, value = changed[0]
                kind, new = IN_PLACE.get(type(value), IN_PLACE[Tensor])
                raise CheckFailed(
                    f"{self.id}: the result is right, but your function changes its argument number {number + 1} in "
                    f"place: whoever called it finds their {kind} changed. Work on a new {kind}: {new}"
                )
            print(f"✓ {self.id} is right. {self.praise}")
            return None
        for mistake in self.mistakes:
            if all(same(outcome, self.run(mistake.wrong, case)) for outcome, case in zip(outcomes, cases, strict=True)):
                raise CheckFailed(f"{self.id}: {mistake.message}")
        first = next(fault for fault in faults if fault)
        raise CheckFailed(f"{self.id}: {first} For a hint: check.hint('{self.id}').")

    def run(self, function: Callable, case: tuple) -> Any:
        """Return what is compared of the function's result on a copy of the inputs, or the exception it raised."""
        outcome = run(function, case)
        return outcome if outcome is None or isinstance(outcome, Exception) else run(lambda: self.reads(outcome), ())


@dataclass(frozen=True)
class Prediction:
    """An exercise whose answer is a value that the learner predicts. `check.name(guess)` compares it with `right`."""

    id: str
    right: Any
    mistakes: tuple[Mistake, ...]
    hints: tuple[str, ...]
    praise: str
    tolerance: float = 0.0

    def __call__(self, guess: Any) -> None:
        if guess is None or guess is ...:
            return blank(self.id)
        if self.matches(guess, self.right):
            print(f"✓ {self.id} is right. {self.praise}")
            return None
        for mistake in self.mistakes:
            if self.matches(guess, mistake.wrong):
                raise CheckFailed(f"{self.id}: {mistake.message}")
        kind = type(self.right).__name__
        asked = "" if comparable(guess, self.right) else f" The answer is of type {kind}, yours is {describe(guess)}."
        raise CheckFailed(f"{self.id}: {guess!r} is not it.{asked} For a hint: check.hint('{self.id}').")

    def matches(self, guess: Any, value: Any) -> bool:
        """Whether the guess is the value: numbers within the tolerance, else equal."""
        if not comparable(guess, value):
            return False
        if isinstance(value, float):
            return abs(float(guess) - value) <= self.tolerance
        return guess == value


def comparable(guess: Any, value: Any) -> bool:
    if isinstance(value, bool) or isinstance(guess, bool):
        return isinstance(value, bool) and isinstance(guess, bool)
    numbers = int | float | Tensor
    if isinstance(value, int | float):
        return isinstance(guess, numbers) and (not isinstance(guess, Tensor) or guess.numel() == 1)
    return isinstance(guess, type(value))


# --- hints and solutions ----------------------------------------------------------------------------------------------

_hints_given: dict[str, int] = {}


def find(exercise_id: str) -> Exercise | Prediction:
    """Return the exercise "02.1"; ValueError, which lists those of the lesson, when there is none."""
    number = str(exercise_id).split(".")[0]
    try:
        lesson = importlib.import_module(f"nextbert_lite.checks.lesson_{number}")
    except ModuleNotFoundError:
        raise ValueError(f"there is no exercise {exercise_id!r}; they are named like '02.1'.") from None
    known = {e.id: e for e in vars(lesson).values() if isinstance(e, Exercise | Prediction)}
    if exercise_id not in known:
        raise ValueError(f"there is no exercise {exercise_id!r}; lesson {number} has {', '.join(sorted(known))}.")
    return known[exercise_id]


def hint(exercise_id: str, number: int | None = None) -> None:
    """Print the next hint of an exercise, or the one with this number (from 1)."""
    hints = find(exercise_id).hints
    if number is not None and not 1 <= number <= len(hints):
        raise ValueError(f"exercise {exercise_id} has the hints 1 to {len(hints)}, not {number}.")
    given = _hints_given.get(exercise_id, 0) if number is None else number - 1
    if given == len(hints):
        print(f"There is no further hint for {exercise_id}. The solution: check.solution('{exercise_id}').")
        return
    _hints_given[exercise_id] = given + 1
    print(f"Hint {given + 1} of {len(hints)}: {hints[given]}")


def solution(exercise_id: str) -> None:
    """Print the solution of an exercise."""
    find(exercise_id)
    print(solution_code(exercise_id))


def blank(exercise_id: str) -> None:
    """Say in a friendly way that nothing is written yet; when graded, fail."""
    if os.environ.get("NEXTBERT_GRADE") == "1":
        raise CheckFailed(f"{exercise_id} is blank.")
    print(
        f"○ {exercise_id} is still blank. Write it in the cell above, run that cell, then this one. "
        f"A hint: check.hint('{exercise_id}'). You can also go on; nothing below depends on it."
    )


# --- running and comparing --------------------------------------------------------------------------------------------


def run(function: Callable, case: tuple) -> Any:
    """Return the function's result on a copy of the inputs, or the exception that it raised."""
    try:
        return function(*copy.deepcopy(case))
    except Exception as error:  # noqa: BLE001 - a learner's code may raise anything; the check reports it
        return error


def is_blank(answer: Callable, outcomes: list) -> bool:
    """Whether nothing was written: it raises NotImplementedError, or its body is empty."""
    if all(isinstance(outcome, NotImplementedError) for outcome in outcomes):
        return True
    code = getattr(answer, "__code__", None)
    if code is None:
        return False
    idle = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE", "POP_TOP", "EXTENDED_ARG"}
    empty = all(instruction.opname in idle for instruction in dis.get_instructions(code))
    return empty and all(outcome is None for outcome in outcomes)


IN_PLACE = {
    Tensor: ("tensor", "`x.clone()` and `x = x + 1` make one, `x += 1` and `x.masked_fill_(...)` do not."),
    list: ("list", "`[*x, y]` and `x[1:]` make one, `x += [y]`, `x.append(y)`, `x.pop()` and `x[0] = y` do not."),
    dict: ("dict", "`dict(x)` makes one, `x[key] = y` and `x.pop(key)` do not."),
}


def changed_input(function: Callable, case: tuple) -> tuple[int, Any] | None:
    """Return the number and the value of the first argument that the function changes in place, if any."""
    before = copy.deepcopy(case)
    function(*case)
    for i, (old, new) in enumerate(zip(before, case, strict=True)):
        if not unchanged(old, new):
            return i, new
    return None


def unchanged(old: Any, new: Any) -> bool:
    """Whether an argument still holds what its copy holds: tensors, also within lists, dicts and modules."""
    if isinstance(old, nn.Module):
        return unchanged(dict(old.state_dict()), dict(new.state_dict()))
    if isinstance(old, Tensor):
        return old.shape == new.shape and torch.equal(old.detach().nan_to_num(), new.detach().nan_to_num())
    if isinstance(old, list | tuple):
        return len(old) == len(new) and all(unchanged(a, b) for a, b in zip(old, new, strict=True))
    if isinstance(old, dict):
        return list(old) == list(new) and all(unchanged(old[key], new[key]) for key in old)
    return callable(old) or old == new


def notebook_names(answer: Callable) -> str:
    """Return a sentence on the notebook's own values that the answer reads, or on numbers in it; for a fault's end."""

    def names_of(code: CodeType) -> list[str]:
        inner = [name for part in code.co_consts if isinstance(part, CodeType) for name in names_of(part)]
        return [*code.co_names, *inner]

    code = getattr(answer, "__code__", None)
    known = {} if code is None else answer.__globals__
    values = {name: known[name] for name in names_of(code) if name in known} if code else {}
    values = {n: v for n, v in values.items() if not callable(v) and not isinstance(v, ModuleType)}
    if not values:
        return " Is there a number in your code that should come from the arguments?"
    shown = ", ".join(f"`{n}` ({v if isinstance(v, int | float) else describe(v)})" for n, v in values.items())
    return (
        f" Your function reads {shown} of the notebook. Another notebook, or another batch, has another value: take "
        "what you need from the arguments."
    )


def same(a: Any, b: Any) -> bool:
    """Whether two outcomes are the same: equal within rounding, or the same exception."""
    if isinstance(a, Exception) or isinstance(b, Exception):
        return type(a) is type(b) and str(a) == str(b)
    return difference(a, b) is None


def difference(yours: Any, right: Any) -> str | None:
    """Return a sentence on the first difference of shape, dtype, finiteness or value; None if there is none."""
    if isinstance(yours, Exception):
        return f"your function raised {type(yours).__name__}: {yours}."
    if yours is None:
        return "your function returns None: is a `return` missing at its end?"
    if isinstance(right, tuple):
        if not isinstance(yours, tuple | list) or len(yours) != len(right):
            return f"expected {len(right)} results, `return a, b`; yours is {describe(yours)}."
        for i, (y, r) in enumerate(zip(yours, right, strict=True)):
            fault = difference(y, r)
            if fault:
                return f"result {i + 1} of {len(right)}: {fault}"
        return None
    if not isinstance(right, Tensor):
        return None if yours == right else f"it gives {yours!r}; expected {right!r}."
    if right.ndim == 0 and isinstance(yours, int | float):
        yours = torch.tensor(yours, dtype=right.dtype)  # a plain number for a tensor of one number
    if not isinstance(yours, Tensor):
        return f"expected a tensor of shape {tuple(right.shape)}; yours is {describe(yours)}."
    if yours.shape != right.shape:
        return f"the shape is {tuple(yours.shape)}; expected {tuple(right.shape)}."
    if yours.dtype != right.dtype:
        return f"the dtype is {yours.dtype}; expected {right.dtype}."
    truths = right.dtype == torch.bool
    yours, right = yours.detach().double(), right.detach().double()
    if torch.allclose(yours, right, rtol=1e-4, atol=1e-5, equal_nan=True):
        return None
    bad = ~torch.isfinite(yours) & torch.isfinite(right)
    if bad.any():
        where = tuple(bad.nonzero()[0].tolist())
        return f"{int(bad.sum())} of {bad.numel()} values are not finite{f', the first at {where}' if where else ''}."
    if not right.ndim:
        return f"it gives {yours:.4f}; expected {right:.4f}."
    gap = (yours - right).abs().nan_to_num(0.0, posinf=torch.inf)
    where = tuple(torch.stack(torch.unravel_index(gap.argmax(), gap.shape)).tolist())
    if truths:
        return (
            f"{int(gap.sum())} of {gap.numel()} entries are wrong, the first at {where}: expected {bool(right[where])}."
        )
    return (
        f"the largest difference is {gap.max():.4g}, at {where}: yours is {yours[where]:.4f}, expected "
        f"{right[where]:.4f}."
    )


def describe(value: Any) -> str:
    """Return what a value is, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    if isinstance(value, tuple | list):
        return f"{'a tuple' if isinstance(value, tuple) else 'a list'} of {len(value)}"
    return f"{value!r} ({type(value).__name__})"
