"""Every exercise of the course, by its number, and answers made of the course's own code with pieces exchanged."""

import importlib
import inspect
import pkgutil
import sys

import nextbert_lite.checks
from nextbert_lite.checks.core import Build, Exercise, Prediction

MODULES = [
    importlib.import_module(f"nextbert_lite.checks.{module.name}")
    for module in pkgutil.iter_modules(nextbert_lite.checks.__path__)
    if module.name.startswith("lesson_")
]
ALL = {e.id: e for m in MODULES for e in vars(m).values() if isinstance(e, Exercise | Prediction | Build)}


def replaced(code, *changes):
    """Return the code with each (old, new) exchanged; old stands in it once."""
    for old, new in changes:
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    return code


def edited(thing, *changes):
    """Return a function or class of a lesson's checks with pieces of its code exchanged."""
    names = dict(vars(sys.modules[thing.__module__]))
    exec(replaced(inspect.getsource(thing), *changes), names)
    return names[thing.__name__]
