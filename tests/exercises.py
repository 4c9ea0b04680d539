"""Every exercise of the course, by its number."""

import importlib
import pkgutil

import nextbert_lite.checks
from nextbert_lite.checks.core import Build, Exercise, Prediction

MODULES = [
    importlib.import_module(f"nextbert_lite.checks.{module.name}")
    for module in pkgutil.iter_modules(nextbert_lite.checks.__path__)
    if module.name.startswith("lesson_")
]
ALL = {e.id: e for m in MODULES for e in vars(m).values() if isinstance(e, Exercise | Prediction | Build)}
