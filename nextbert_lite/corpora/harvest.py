"""How the documentation is collected and split. A child interpreter runs this file; it needs nothing of the package.

What a notebook imported or patched before changes nothing here, and collecting changes nothing there.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

SPLITS = ("train", "validation", "test")
NEAR = 0.6  # TF-IDF cosine above which two texts are near-duplicates; at 0.5 the groups merge into a few huge ones
# A word is two or more letters or digits, in lower case; raw counts, smoothed idf, rows of length 1. Changing any of
# these changes the groups, and with them the splits.
TFIDF = {"lowercase": True, "token_pattern": r"(?u)\b\w\w+\b", "norm": "l2", "smooth_idf": True, "sublinear_tf": False}
LEAST_WORDS = 8  # shorter texts, such as "Alias for `set_color`", are pointers, not documentation

LIBRARIES = ("python", "torch", "numpy", "matplotlib")


@dataclass(frozen=True)
class Document:
    """One docstring: its shortest public name, library, module, summary sentence and body, which may be empty."""

    name: str
    library: str
    module: str
    summary: str
    body: str

    @property
    def text(self) -> str:
        """The summary and the body, as one text."""
        return f"{self.summary}\n\n{self.body}" if self.body else self.summary


def tfidf(texts: Sequence[str]):
    from sklearn.feature_extraction.text import TfidfVectorizer  # here, because a cached corpus does not need it

    return TfidfVectorizer(**TFIDF).fit_transform(texts)


def near_pairs(a, b) -> Iterator[tuple[int, int]]:
    """Yield (row of a, row of b) for each pair with a cosine above NEAR, 256 rows at a time: some 30 MB."""
    b = b.T.tocsr()
    for start in range(0, a.shape[0], 256):
        block = (a[start : start + 256] @ b).tocoo()
        keep = block.data > NEAR
        yield from zip((block.row[keep] + start).tolist(), block.col[keep].tolist(), strict=True)


def group(documents: Sequence[Document]) -> list[int]:
    """Return each document's group: those linked by a chain of near-duplicate texts or near-duplicate bodies.

    Bodies count by themselves too, because search compares a summary with bodies: with texts alone 6 % of the test
    bodies had a near-duplicate among the training bodies.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges: list[tuple[int, int]] = []
    for texts in ([d.text for d in documents], [d.body for d in documents]):
        if held := [i for i, text in enumerate(texts) if text]:
            vectors = tfidf([texts[i] for i in held])
            edges += [(held[i], held[j]) for i, j in near_pairs(vectors, vectors)]
    rows, columns = zip(*edges, strict=True)
    graph = coo_array(([True] * len(edges), (rows, columns)), shape=(len(documents),) * 2)
    return connected_components(graph, directed=False)[1].tolist()


def assign(documents: Sequence[Document]) -> list[str]:
    """Return each document's split: a hash of the smallest name of its group decides, so a group stays together."""
    groups, first = group(documents), {}
    for document, number in zip(documents, groups, strict=True):
        first[number] = min(document.name, first.get(number, document.name))
    shares = {number: int(sha256(name.encode()).hexdigest()[:8], 16) / 2**32 for number, name in first.items()}
    return [SPLITS[(shares[number] >= 0.8) + (shares[number] >= 0.9)] for number in groups]


def harvest(modules: dict[str, str]) -> list[Document]:
    """Collect the documents, by name. modules: library -> names of its modules; those installed here are imported."""
    names: dict[str, tuple] = {}
    for library in modules:
        for module_name in modules[library].split():
            try:
                module = importlib.import_module(module_name)
            except ImportError:
                continue  # this version or build lacks it
            for distance, name, docstring in _members(module, library):
                if isinstance(docstring, str) and docstring.strip():
                    name = name.removeprefix("builtins.")
                    found = (len(name), distance, name, library, module_name)
                    names[docstring] = min(found, names.get(docstring, found))
    documents: dict[str, Document] = {}
    for docstring, (_, _, name, library, module_name) in sorted(names.items(), key=lambda item: item[1]):
        document = Document(name, library, module_name, *parse(docstring))
        if document.summary and len(re.findall(r"[A-Za-z]{2,}", document.text)) >= LEAST_WORDS:
            documents.setdefault(document.text, document)
    return sorted(documents.values(), key=lambda d: d.name)


# :class:`~torch.Tensor` and :ref:`broadcasting <target>` read as `torch.Tensor` and `broadcasting`.
_ROLE = re.compile(r":[a-z]+(?::[a-z]+)*:`~?([^`<]+?)(?:\s*<[^`>]*>)?`")
_WORD = re.compile(r"[A-Za-z][a-z]+(?![\w(.])|[Aa]\b")
_NOT_PROSE = re.compile(r"\s|\.\.|>>>|::|[-*+|=#~]|:\w+|\d+[.)]\s|\w+( \w+)?::?$", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<!\.[A-Za-z])(?<!\bvs)[.!?](?=\s+[A-Z`'\"(\[*])")


def _is_public(qualified: str) -> bool:
    return not any(part.startswith("_") for part in qualified.split("."))


def _belongs(home: object, library: str, module: str, exported: bool) -> bool:
    """Whether an object whose `__module__` is `home` counts as `module`'s own: imported helpers do not."""
    if not isinstance(home, str):
        return True  # functions written in C often do not know their module
    root = home.partition(".")[0]
    if root not in (sys.stdlib_module_names if library == "python" else {library}):
        return False
    return exported or home == module or home.startswith(module + ".") or not _is_public(home)


def _members(module: ModuleType, library: str) -> Iterator[tuple[int, str, str]]:
    """Yield (distance, qualified name, docstring) of a module, its public functions and classes, and their members.

    Looks in dictionaries only: getattr would wake lazy and deprecated attributes, which warn. The distance is 0, or for
    a member how far up among private base classes it was written.
    """
    yield 0, module.__name__, module.__doc__
    exported = getattr(module, "__all__", None)
    for name, value in list(vars(module).items()):  # a list: looking at one may load another
        qualified = f"{module.__name__}.{name}"
        if not callable(value) or name.startswith("_") or (exported is not None and name not in exported):
            continue
        if not _belongs(getattr(value, "__module__", None), library, module.__name__, exported is not None):
            continue
        if not inspect.isclass(value):
            if value.__doc__ != type(value).__doc__:  # an instance without a docstring of its own shows its class's
                yield 0, qualified, value.__doc__
            continue
        yield 0, qualified, value.__doc__
        seen = set()
        for distance, base in enumerate(value.__mro__):
            if distance and _is_public(f"{base.__module__}.{base.__name__}"):
                continue  # what a public base class says stands under that class's name
            for key, member in list(vars(base).items()):
                if key.startswith("_") or key in seen or inspect.isclass(member):
                    continue
                seen.add(key)
                if member.__doc__ != type(member).__doc__:
                    yield distance, f"{qualified}.{key}", member.__doc__


def _skip_signatures(text: str) -> str:
    """Drop leading lines such as "add(input, other) -> Tensor", which functions written in C have for a signature."""
    while match := re.match(r"[A-Za-z_][\w.]*\(", text):
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += (text[end] in "([{") - (text[end] in ")]}")
            end += 1
        line, _, rest = text[end:].partition("\n")
        if depth or (line.strip() and not re.match(r"\s*(--?>|--|[:.,=])", line)):
            break  # prose that happens to start with a call
        rest = rest.removeprefix("--\n")
        remark = re.sub(r"^\s*(->\s*[^\s,.:]+\s*(,|\.\s|:|--)|--?>|--|[:.,])\s*", "", line).strip()
        enough = 3 if remark.endswith(".") else 5
        if len(_WORD.findall(remark)) >= enough and not remark.endswith(("]", ")")) and not re.match(r"\w+\(", rest):
            return f"{remark}\n{rest}".strip()  # "D.pop(k) -> v, remove the key and return its value."
        text = rest.strip()
    return text


def parse(docstring: str) -> tuple[str, str]:
    """Split a docstring into its summary, the first sentence of prose on one line, and its body, all the rest.

    Signature lines and the markup of cross-references are dropped. The summary is empty when there is no prose.
    """
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", inspect.cleandoc(docstring))  # addresses differ from process to process
    text = _skip_signatures(_ROLE.sub(r"`\1`", text))
    paragraphs = [p.strip("\n").rstrip() for p in re.split(r"\n[ \t]*\n", text) if p.strip()]
    for i, paragraph in enumerate(paragraphs):
        lines = paragraph.split("\n")
        prose = next((n for n, line in enumerate(lines) if _NOT_PROSE.match(line)), len(lines))
        lead = "\n".join(lines[:prose])
        underlined = prose < len(lines) and len(lines[prose]) > 2 and set(lines[prose]) <= set("=-~^")
        if underlined or len(_WORD.findall(lead)) < 2:
            continue  # a heading, a directive, an example, a list
        end = match.end() if (match := _SENTENCE_END.search(lead)) else len(lead)
        rest = paragraph[end:].strip("\n ")
        return " ".join(lead[:end].split()), "\n\n".join(p for p in [*paragraphs[:i], rest, *paragraphs[i + 1 :]] if p)
    return "", text


def installed_versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Return the versions of Python and the documented packages on this machine; "none" for what is not there."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in libraries:
        try:
            found |= {} if name == "python" else {name: version(name.replace("sklearn", "scikit-learn"))}
        except PackageNotFoundError:
            found[name] = "none"
    return found


def digest(splits: dict[str, list[dict]]) -> str:
    return sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest()


def _main(modules: str, path: str, more: str = "") -> None:
    """Run in the child: collect what the TOML file `modules` lists, split it and write one JSON file.

    more: "more" for the further packages instead of the corpus; all of them are for training.
    """
    listed = tomllib.loads(Path(modules).read_text(encoding="utf-8"))
    listed = listed["more"] if more else {name: listed[name] for name in LIBRARIES}
    documents = harvest(listed)
    if more:  # scipy draws numbers for some of its examples at every import
        documents = [d for d in documents if "# may vary" not in d.body]
    splits: dict[str, list[dict]] = {name: [] for name in SPLITS}
    for document, split in zip(documents, ["train"] * len(documents) if more else assign(documents), strict=True):
        splits[split].append(asdict(document))
    fingerprint = {**installed_versions(tuple(listed)), "documents": len(documents), "sha256": digest(splits)}
    Path(path).write_text(json.dumps({"fingerprint": fingerprint, "splits": splits}), encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
