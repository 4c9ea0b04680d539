"""How a check works: compare with the right answer, then name the mistake.

An `Exercise` knows the right implementation and the usual wrong ones. Called with the learner's, it runs all of them on
the same seeded inputs. Equal to the right one: passed. Equal to a wrong one: it says which mistake that is and why it
matters. Else it says what differs, by how much and where. What gives the right result and is wrong all the same is
looked for after that: arguments that were changed in place, a limit that the text sets, sizes or names of the notebook
in place of the arguments. torch's random numbers are afterwards as if no check had run.

A `Build` is an exercise of a class, a loop or a longer function. Its check goes in stages and says how far one is; what
passes is used in the rest of the lesson, by `mine`.
"""

from __future__ import annotations

import contextlib
import copy
import dis
import importlib
import inspect
import io
import numbers
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from nextbert_lite.course.workspace import solution as solution_code

SEEDS = (0, 1, 2)
OTHER_SIZES = "other sizes"  # the stage of a build in which a number of the notebook shows that should be an argument


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
    about: Callable[[Callable, tuple], str | None] | None = None  # a sentence on a wrong answer that has no name
    reads: Callable[[Any], Any] = lambda outcome: outcome  # what of the result is compared
    other_ways: tuple[Callable, ...] = ()  # other ways to write the right answer; the tests try each
    closed: bool = False  # it needs no value of the notebook: a wrong answer is told which ones it reads

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
                outcome = self.run(answer, other)
                fault = difference(outcome, self.run(self.right, other))
                if fault:
                    for mistake in self.mistakes:  # one that is right on the first inputs, as the answer is
                        if same(outcome, self.run(mistake.wrong, other)) and all(
                            same(self.run(mistake.wrong, case), self.run(self.right, case)) for case in cases
                        ):
                            raise CheckFailed(f"{self.id}: {mistake.message}")
                    shown = ", ".join(describe(argument) for argument in other)
                    why = "" if "the dtype is" in fault else notebook_names(answer)
                    raise CheckFailed(f"{self.id}: right on some inputs, but not for {shown}: {fault}{why}")
                cases.append(other)
            if self.limit is not None:
                broken = [sentence for case in cases if (sentence := self.limit(answer, copy.deepcopy(case)))]
                if broken:
                    raise CheckFailed(f"{self.id}: the result is right, but {broken[0]}")
            changed = [found for case in cases if (found := changed_input(answer, case)) is not None]
            if changed:
                number, value = changed[0]
                if isinstance(value, nn.Module):
                    raise CheckFailed(
                        f"{self.id}: the result is right, but your function changes the weights of its model. "
                        "Take no step of an optimizer and write to no parameter."
                    )
                kind, new = IN_PLACE.get(type(value), IN_PLACE[Tensor])
                raise CheckFailed(
                    f"{self.id}: the result is right, but your function changes {parameter(answer, number)} in "
                    f"place: whoever called it finds their {kind} changed. Work on a new {kind}: {new}"
                )
            print(f"✓ {self.id} is right. {self.praise}")
            return None
        for mistake in self.mistakes:
            if all(same(outcome, self.run(mistake.wrong, case)) for outcome, case in zip(outcomes, cases, strict=True)):
                raise CheckFailed(f"{self.id}: {mistake.message}")
        said = None if self.about is None else run(self.about, (answer, cases[0]))
        first = said if isinstance(said, str) else next(fault for fault in faults if fault)
        of_notebook = reads_of(answer) if self.closed else ""
        raise CheckFailed(f"{self.id}: {first}{of_notebook} For a hint: check.hint('{self.id}').")

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
    about: Callable[[Any], str | None] | None = None  # a sentence on a wrong guess that is of the right type

    def __call__(self, guess: Any) -> None:
        if guess is None or guess is ...:
            return blank(self.id)
        if isinstance(self.right, tuple) and (isinstance(guess, list) or hasattr(guess, "tolist")):
            guess = tuple(guess if isinstance(guess, list) else guess.reshape(-1).tolist())  # a tensor or an array
        if self.matches(guess, self.right):
            print(f"✓ {self.id} is right. {self.praise}")
            return None
        for mistake in self.mistakes:
            if self.matches(guess, mistake.wrong):
                raise CheckFailed(f"{self.id}: {mistake.message}")
        kind = type(self.right).__name__
        if not comparable(guess, self.right):
            said = f"The answer is of type {kind}, yours is {describe(guess)}."
        else:
            said = None if self.about is None else self.about(guess)
        more = f" {said}" if said else ""
        raise CheckFailed(f"{self.id}: {guess!r} is not it.{more} For a hint: check.hint('{self.id}').")

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
    if isinstance(value, int | float):  # also 2/33 as a Fraction, and NumPy's numbers
        return isinstance(guess, numbers.Real) or (isinstance(guess, Tensor) and guess.numel() == 1)
    return isinstance(guess, type(value))


# --- builds -----------------------------------------------------------------------------------------------------------


class Fault(Exception):
    """A stage's own sentence on what is wrong, shown as it is."""


@dataclass(frozen=True)
class Stage:
    """A step of a build's check: what `run(answer, generator)` gives is compared for the learner's and the course's."""

    name: str  # a few words: "shapes", "a case by hand", "masks", "gradients"
    run: Callable[[Any, torch.Generator], Any]


@dataclass(frozen=True)
class Build:
    """An exercise whose answer is a class, a loop or a longer function, checked in stages."""

    id: str
    course: Any  # the course's own class or function: what the answer is compared with
    stages: tuple[Stage, ...]
    mistakes: tuple[Mistake, ...]  # wrong: a class or a function, as a learner would write it
    hints: tuple[str, ...]
    praise: str
    other_ways: tuple[Any, ...] = ()
    about: Callable[[Any, Stage], str | None] | None = None  # a sentence on a stage whose wrong answer has no name

    @property
    def name(self) -> str:
        """What the learner builds is called."""
        return self.course.__name__

    def __call__(self, answer: Any) -> None:
        status, message = self.verdict(answer)
        if status == "blank":
            return blank(self.id, "what comes next runs on the course's own.")
        if status == "fails":
            raise CheckFailed(f"{self.id}: {message}")
        print(message)
        return None

    def verdict(self, answer: Any) -> tuple[str, str]:
        """Return "passes", "blank" or "fails", and what to say of it."""
        if not callable(answer):
            return "fails" if answer is not None else "blank", f"expected {self.name}; this is {describe(answer)}."
        if nothing_written(answer):
            return "blank", ""
        for number, stage in enumerate(self.stages, 1):
            yours = [self.run(stage, answer, seed) for seed in SEEDS]
            right = [self.known(stage, self.course, seed) for seed in SEEDS]
            found = [(difference(*pair), *pair) for pair in zip(yours, right, strict=True)]
            fault = next((one for one in found if one[0]), None)
            if fault is None:
                continue
            if number == 1 and all(isinstance(one, NotImplementedError) for one in yours):
                return "blank", ""
            where = f"stage {number} of {len(self.stages)}, {stage.name}: "
            for alike in (same_results, same_fault):
                for mistake in self.mistakes:
                    wrong = (self.known(stage, mistake.wrong, seed) for seed in SEEDS)  # most differ at the first seed
                    if all(map(alike, yours, wrong, right)) and self.passes(mistake.wrong, number - 1):
                        return "fails", where + mistake.message  # one that shows earlier is another mistake
            said = None if self.about is None or isinstance(fault[1], Fault) else self.explained(answer, stage)
            if said:
                return "fails", f"{where}{said} For a hint: check.hint('{self.id}')."
            agree = agreement(*fault[1:])
            part = "" if agree in (None, 1.0) else f"{100 * agree:.2f} % of the values agree: "
            of_notebook = reads_of(answer) if stage.name == OTHER_SIZES else ""
            return "fails", f"{where}{part}{fault[0]}{of_notebook} For a hint: check.hint('{self.id}')."
        stages = ", ".join(stage.name for stage in self.stages)
        return "passes", f"✓ {self.id} is right in all {len(self.stages)} stages: {stages}. {self.praise}"

    def explained(self, answer: Any, stage: Stage) -> str | None:
        """Return what `about` says of a stage, or None where the answer raises an exception under its questions."""
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
            said = run(lambda: self.about(answer, stage), ())
        return str(said) if isinstance(said, str | Fault) else None

    def passes(self, answer: Any, stages: int) -> bool:
        """Whether an answer passes the first so many stages."""
        runs = [(stage, seed) for stage in self.stages[:stages] for seed in SEEDS]
        return all(
            difference(self.known(s, answer, seed), self.known(s, self.course, seed)) is None for s, seed in runs
        )

    def known(self, stage: Stage, answer: Any, seed: int) -> Any:
        """Return what `run` returns, computed once: for the course's version and the mistakes, which stay the same."""
        if (stage, answer, seed) not in _known:
            _known[stage, answer, seed] = self.run(stage, answer, seed)
        return _known[stage, answer, seed]

    def run(self, stage: Stage, answer: Any, seed: int) -> Any:
        """Return what a stage gives for an answer, or the exception that it raised.

        The stage's generator draws other numbers than torch's own: what an answer draws must not agree with its inputs.
        """
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
            torch.manual_seed(seed)
            return run(lambda: stage.run(answer, torch.Generator().manual_seed(1000 + seed)), ())


_known: dict[tuple, Any] = {}


def mine(exercise_id: str, answer: Any) -> Any:
    """Return the learner's own class or function if its check passes, else the course's; say which in one line."""
    build = find(exercise_id)
    if not isinstance(build, Build):
        raise ValueError(f"{exercise_id} is not a build: the lesson goes on with its own code there.")
    if answer is build.course:
        print(f"{build.name}: the course's. To use yours, run its cell again before this one.")
        return answer
    status, _ = build.verdict(answer)
    if status == "passes":
        print(f"{build.name}: yours, from here on.")
        return answer
    why = "yours is still blank" if status == "blank" else f"yours does not pass {exercise_id} yet"
    print(f"{build.name}: the course's, because {why}.")
    return build.course


def untouched(function: Callable, *arguments: Any, names: tuple[str, ...] = ()) -> Any:
    """Return function(*arguments); Fault if it changed one of them in place, by its name in `names` or its own."""
    before = copy.deepcopy(arguments)
    result = function(*arguments)
    changed = first_changed(before, arguments)
    if changed is not None:
        which = f"`{names[changed]}`" if names else parameter(function, changed)
        raise Fault(f"{which} is changed in place: whoever called it finds theirs changed.")
    return result


def with_weights(module: nn.Module, like: nn.Module, generator: torch.Generator) -> nn.Module:
    """Return the module with random weights, those of `like` by name and shape; Fault for another set of names."""
    wanted = {name: torch.randn(t.shape, generator=generator) * t.shape[-1] ** -0.5 for name, t in named(like).items()}
    given = named(module)
    missing, further = [n for n in wanted if n not in given], [n for n in given if n not in wanted]
    if missing and not further and all(n.endswith("bias") and f"{n[:-4]}weight" in given for n in missing):
        raise Fault(f"the module lacks {', '.join(missing)}. These layers have a bias: leave out `bias=False`.")
    if missing or further:
        lists = [f"{word} {', '.join(names)}" for word, names in (("lacks", missing), ("has also", further)) if names]
        raise Fault(f"the module {' and '.join(lists)}. Name its parts as the text does.")
    for name, value in wanted.items():
        if given[name].shape != value.shape:
            raise Fault(f"{name} has the shape {tuple(given[name].shape)}; expected {tuple(value.shape)}.")
        given[name].data.copy_(value)
    return module


def named(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's parameters by name; of one that is shared, each name."""
    if not isinstance(module, nn.Module):
        raise Fault(f"expected an nn.Module; this is {describe(module)}.")
    return dict(module.named_parameters(remove_duplicate=False))


def agreement(yours: Any, right: Any) -> float | None:
    """Return the proportion of equal values, where both are tensors, or tuples of them, of the same shapes."""
    pairs = list(zip(flat(yours), flat(right), strict=False))
    tensors = all(isinstance(t, Tensor) for pair in pairs for t in pair)
    if not pairs or len(flat(yours)) != len(flat(right)) or not tensors or any(y.shape != r.shape for y, r in pairs):
        return None
    equal = [torch.isclose(y.double(), r.double(), rtol=1e-4, atol=1e-5, equal_nan=True).flatten() for y, r in pairs]
    return float(torch.cat(equal).double().mean()) if sum(map(len, equal)) else None


def same_results(yours: Any, wrong: Any, right: Any) -> bool:
    """Whether a stage gave all that it gives for a mistake."""
    return same(yours, wrong)


def same_fault(yours: Any, wrong: Any, right: Any) -> bool:
    """Whether the first wrong result of a stage is that of a mistake: further ones may come from a second mistake."""
    if all(isinstance(outcome, tuple | list) for outcome in (yours, wrong, right)) and len(yours) == len(right):
        both = zip(yours, wrong, right, strict=False)
        return next((same_fault(y, w, r) for y, w, r in both if difference(y, r) is not None), False)
    return same(yours, wrong) and difference(wrong, right) is not None


def flat(value: Any) -> list:
    """Return the leaves of nested tuples and lists."""
    return [leaf for part in value for leaf in flat(part)] if isinstance(value, tuple | list) else [value]


def nothing_written(answer: Any) -> bool:
    """Whether a function, or each method of a class, is still empty; `super().__init__()` alone is nothing either."""
    if not isinstance(answer, type):
        return idle(answer)
    methods = [f for f in vars(answer).values() if hasattr(f, "__code__")]
    return bool(methods) and all(idle(f) or f.__code__.co_names == ("super", "__init__") for f in methods)


def reads_of(answer: Any) -> str:
    """Return a sentence on the notebook's values that a build reads in place of its arguments, if there are any."""
    functions = [f for f in vars(answer).values() if hasattr(f, "__code__")] if isinstance(answer, type) else [answer]
    found = [notebook_names(f) for f in functions]
    return next((sentence for sentence in found if "of the notebook" in sentence), "")


# --- hints and solutions ----------------------------------------------------------------------------------------------

_hints_given: dict[str, int] = {}


def find(exercise_id: str) -> Exercise | Prediction | Build:
    """Return the exercise "02.1"; ValueError, which lists those of the lesson, when there is none."""
    number = str(exercise_id).split(".")[0]
    try:
        lesson = importlib.import_module(f"nextbert_lite.checks.lesson_{number}")
    except ModuleNotFoundError:
        raise ValueError(f"there is no exercise {exercise_id!r}; they are named like '02.1'.") from None
    known = {e.id: e for e in vars(lesson).values() if isinstance(e, Exercise | Prediction | Build)}
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


def blank(exercise_id: str, below: str = "nothing below depends on it.") -> None:
    """Say in a friendly way that nothing is written yet; when graded, fail."""
    if os.environ.get("NEXTBERT_GRADE") == "1":
        raise CheckFailed(f"{exercise_id} is blank.")
    print(
        f"○ {exercise_id} is still blank. Write it in the cell above, run that cell, then this one. "
        f"A hint: check.hint('{exercise_id}'). You can also go on; {below}"
    )


# --- running and comparing --------------------------------------------------------------------------------------------


def run(function: Callable, case: tuple) -> Any:
    """Return the function's result on a copy of the inputs, or the exception that it raised."""
    try:
        with torch.enable_grad():  # whatever the answer leaves switched off is on again for the next
            return function(*copy.deepcopy(case))
    except Exception as error:  # noqa: BLE001 - a learner's code may raise anything; the check reports it
        return error


def is_blank(answer: Callable, outcomes: list) -> bool:
    """Whether nothing was written: it raises NotImplementedError, or its body is empty."""
    if all(isinstance(outcome, NotImplementedError) for outcome in outcomes):
        return True
    return idle(answer)


def idle(function: Any) -> bool:
    """Whether a function's body does nothing: a docstring, `pass`, `...`."""
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    nothing = {"RESUME", "NOP", "RETURN_VALUE", "POP_TOP", "EXTENDED_ARG"}
    steps = [step for step in dis.get_instructions(code) if step.opname not in nothing]
    return all(step.opname in ("LOAD_CONST", "RETURN_CONST") and step.argval is None for step in steps)


IN_PLACE = {
    Tensor: ("tensor", "`x.clone()` and `x = x + 1` make one, `x += 1` and `x.masked_fill_(...)` do not."),
    list: ("list", "`[*x, y]` and `x[1:]` make one, `x += [y]`, `x.append(y)`, `x.pop()` and `x[0] = y` do not."),
    dict: ("dict", "`dict(x)` makes one, `x[key] = y` and `x.pop(key)` do not."),
}


def changed_input(function: Callable, case: tuple) -> tuple[int, Any] | None:
    """Return the number and the value of the first argument that the function changes in place, if any."""
    before = copy.deepcopy(case)
    function(*case)
    changed = first_changed(before, case)
    return None if changed is None else (changed, case[changed])


def first_changed(before: tuple, after: tuple) -> int | None:
    """Return the number of the first argument that no longer holds what its copy holds, from 0; None if all do."""
    pairs = enumerate(zip(before, after, strict=True))
    return next((number for number, (old, new) in pairs if not unchanged(old, new)), None)


def parameter(function: Callable, number: int) -> str:
    """Return what the function calls its argument of that number, from 0, in backticks; without a name, its number."""
    try:
        parameters = list(inspect.signature(getattr(function, "forward", function)).parameters.values())
    except (TypeError, ValueError):  # it has no signature
        parameters = []
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return f"`{named[number]}`" if number < len(named) else f"argument number {number + 1}"


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
    if hasattr(old, "tolist"):  # NumPy's arrays
        return old.tolist() == new.tolist()
    return callable(old) or old == new


def notebook_names(answer: Callable) -> str:
    """Return a sentence on the notebook's own values that the answer reads, or on numbers in it; for a fault's end."""

    def names_of(code: CodeType) -> list[str]:
        inner = [name for part in code.co_consts if isinstance(part, CodeType) for name in names_of(part)]
        read = [step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
        return [*dict.fromkeys(read), *inner]  # and not the attributes: `self.H` is no name of the notebook

    code = getattr(answer, "__code__", None)
    known = {} if code is None else answer.__globals__
    values = {name: known[name] for name in names_of(code) if name in known} if code else {}
    values = {n: v for n, v in values.items() if not callable(v) and not isinstance(v, ModuleType)}
    values = {n: v for n, v in values.items() if not n.startswith("__")}  # the body of a class reads `__name__`
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
    if isinstance(yours, Fault):
        return str(yours)
    if isinstance(yours, Exception):
        no_super = " Begin `__init__` with `super().__init__()`, before it sets any layer or parameter."
        more = no_super if "before Module.__init__()" in str(yours) else ""
        return f"your code raised {type(yours).__name__}: {str(yours).rstrip('.')}.{more}"
    if yours is None:
        return "your function returns None: is a `return` missing at its end?"
    if isinstance(right, tuple):
        if not isinstance(yours, tuple | list) or len(yours) != len(right):
            return f"expected {len(right)} results, `return a, b`; yours is {describe(yours)}."
        for i, (y, r) in enumerate(zip(yours, right, strict=True)):
            fault = difference(y, r)
            if fault:
                fields = getattr(right, "_fields", None)  # a named tuple says what its results are
                return f"{f'`{fields[i]}`' if fields else f'result {i + 1} of {len(right)}'}: {fault}"
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
    missed = right.isnan() & ~yours.isnan()
    if missed.any():
        where = tuple(missed.nonzero()[0].tolist())
        return f"{int(missed.sum())} of the values should be NaN, the first at {where}: yours is {yours[where]:.4f}."
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
    if isinstance(value, nn.Module):
        return f"a module {type(value).__name__}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"a NumPy {type(value).__name__} of shape {tuple(value.shape)} and {value.dtype}"
    return f"{value!r} ({type(value).__name__})"
