"""The module names of the first edition, so that a learner's older copy of a lesson still runs.

Each stands for the modules that hold its names today: `from nextbert_lite.batching import pad` works as it did.
"""

from __future__ import annotations

from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

TODAY = {
    "attention": "core.attention",
    "batching": "training.batches",
    "checkpoints": "use.checkpoints files",
    "contrastive": "core.contrastive training.batches",
    "device": "training.device",
    "embedding": "use.embedding",
    "encoder": "core.encoder",
    "explorer": "views.attention views.embeddings views.masking views.similarity views.view",
    "finetuning": "use.finetuning course.tables",
    "heads": "core.heads core.classify training.batches training.loop use.filling",
    "masking": "core.masking training.batches",
    "paths": "files",
    "plots": "views.plots",
    "pretrained": "use.pretrained course.minilm",
    "pretraining": "course.pretraining training.batches training.loop",
    "results": "course.results",
    "search": "use.search views.search_box course.documentation",
    "tokenizer": "training.tokenizer",
}


def find(name: str) -> ModuleSpec | None:
    """Return how to make a module of the first edition; None for a name that it did not have."""
    old = name.removeprefix("nextbert_lite.")
    return ModuleSpec(name, _Loader(TODAY[old].split())) if old in TODAY else None


class _Loader:
    """Makes a module whose names are looked up where they are today."""

    def __init__(self, modules: list[str]):
        self.modules = modules

    def create_module(self, spec: ModuleSpec) -> None:
        return None  # an ordinary one

    def exec_module(self, module: ModuleType) -> None:
        found = [import_module(f"nextbert_lite.{name}") for name in self.modules]

        def __getattr__(name: str):
            if name.startswith("__"):
                raise AttributeError(name)
            for today in found:
                if hasattr(today, name):
                    return getattr(today, name)
            raise ImportError(
                f"'{name}' is no longer in the course. `nextbert-lite start DIR` lays today's version of the lesson "
                "beside yours."
            )

        module.__getattr__ = __getattr__
