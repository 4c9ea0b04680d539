"""Real English without a download: the documentation inside Python, PyTorch, NumPy and Matplotlib.

`load_docs()` gives every distinct public docstring as a summary and a body, split so that no text is nearly the same as
one of another split. A child interpreter collects them once (`harvest`), and the result is cached.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from nextbert_lite.corpora import harvest
from nextbert_lite.corpora.harvest import LIBRARIES, SPLITS, Document, digest, installed_versions, near_pairs, tfidf
from nextbert_lite.files import cache_dir, file_hash, share_dir, write_text


@dataclass(frozen=True)
class DocsCorpus:
    """The documentation in three splits, and a fingerprint that tells one installation's texts from another's."""

    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    test: tuple[Document, ...]
    fingerprint: dict

    @property
    def documents(self) -> tuple[Document, ...]:
        """All documents, by name."""
        return tuple(sorted((*self.train, *self.validation, *self.test), key=lambda d: d.name))

    def split(self, name: str, library: str | None = None) -> tuple[Document, ...]:
        """Return the documents of "train", "validation" or "test", of one library if asked; else ValueError."""
        if name not in SPLITS:
            raise ValueError(f"there is no split {name!r}; choose one of {', '.join(SPLITS)}.")
        if library is not None and library not in LIBRARIES:
            raise ValueError(f"there is no library {library!r}; choose one of {', '.join(LIBRARIES)}, or None for all.")
        return tuple(d for d in getattr(self, name) if library in (None, d.library))

    def pairs(self, split: str, library: str | None = None) -> list[tuple[str, str]]:
        """Return (summary, body) of the documents that have both; each summary and each body comes once.

        A repeated summary ("Set multiple properties at once.") would be a query with many right answers.
        """
        summaries, bodies, pairs = set(), set(), []
        for d in self.split(split, library):
            if d.body and d.summary not in summaries and d.body not in bodies:
                summaries.add(d.summary)
                bodies.add(d.body)
                pairs.append((d.summary, d.body))
        return pairs

    def hashes(self, split: str) -> list[str]:
        """Return `text_hash` of each document, for a checkpoint to remember what it was trained on."""
        return [text_hash(d) for d in self.split(split)]


def text_hash(document: Document | str) -> str:
    """Return 16 hexadecimal digits that stand for a text: the same on every machine."""
    text = document if isinstance(document, str) else document.text
    return sha256(text.encode()).hexdigest()[:16]


def load_docs(more: bool = False) -> DocsCorpus:
    """Return the documentation of the installed packages, in splits of about 80, 10 and 10 %.

    more: the documentation of further packages instead (see data/documented.toml), all of it in the training split.

    Takes about ten seconds the first time; then a file in the folder NEXTBERT_CACHE (else XDG_CACHE_HOME/nextbert_lite,
    else ~/.cache/nextbert_lite) is read, and made again when it is damaged or the versions changed.
    Raises RuntimeError when the child interpreter fails.
    """
    modules = share_dir("data") / "documented.toml"
    listed = tuple(tomllib.loads(modules.read_text(encoding="utf-8"))["more"]) if more else LIBRARIES
    made_of = [installed_versions(listed), version("scikit-learn"), sys.platform, file_hash(Path(harvest.__file__))]
    key = sha256(json.dumps([*made_of, file_hash(modules)]).encode()).hexdigest()[:16]
    kept = f"{'more' if more else 'python'}_docs-{key}.json"
    try:
        return _read(cache_dir() / kept)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError):
        pass  # absent, unreadable or damaged: collect again
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "docs.json"
        run = subprocess.run(
            [sys.executable, "-P", harvest.__file__, str(modules), str(made), *(["more"] if more else [])],
            # -OO would remove the docstrings; some of the further ones are made at import, with sets in them
            env={**os.environ, "MPLBACKEND": "agg", "PYTHONOPTIMIZE": ""} | ({"PYTHONHASHSEED": "0"} if more else {}),
            capture_output=True,
            text=True,
            errors="replace",
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows: no console window
        )
        if run.returncode:
            reason = (run.stderr.strip() or "no message").splitlines()[-1]
            raise RuntimeError(f"the documentation could not be collected by {sys.executable}: {reason}")
        docs = _read(made)
        try:
            write_text(cache_dir() / kept, made.read_text(encoding="utf-8"))
        except (OSError, RuntimeError):
            pass  # a folder that cannot be written costs ten seconds each time, nothing else
    return docs


def _read(path: Path) -> DocsCorpus:
    """Read what the child wrote; ValueError when it is not whole."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    if digest(stored["splits"]) != stored["fingerprint"]["sha256"]:
        raise ValueError(f"{path} is damaged")
    splits = {name: tuple(Document(**row) for row in stored["splits"][name]) for name in SPLITS}
    return DocsCorpus(**splits, fingerprint=stored["fingerprint"])


def near_duplicates(texts_a: Sequence[str], texts_b: Sequence[str]) -> list[bool]:
    """Return for each text of a whether a text of b is nearer than 0.6, by TF-IDF cosine.

    Word weights (idf) come from both lists together, so give whole splits, not a handful of texts.
    """
    from nextbert_lite.validate import check_texts  # here: it imports torch, which a cached corpus does not need

    texts_a, texts_b = (check_texts(texts, blank=True, least=0) for texts in (texts_a, texts_b))
    near = [False] * len(texts_a)
    if any(re.search(r"\w\w", text) for text in texts_a) and texts_b:
        vectors = tfidf([*texts_a, *texts_b])
        for row, _ in near_pairs(vectors[: len(near)], vectors[len(near) :]):
            near[row] = True
    return near
