"""The documentation corpus: what is in it, that its splits do not leak, and that making it disturbs nobody."""

import builtins
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from nextbert_lite.corpora import harvest, python_docs
from nextbert_lite.corpora.harvest import LIBRARIES, SPLITS, Document, assign, parse
from nextbert_lite.corpora.python_docs import load_docs, near_duplicates, text_hash
from nextbert_lite.files import share_dir

LISTED = tomllib.loads((share_dir("data") / "documented.toml").read_text(encoding="utf-8"))
MODULES = {library: modules for library, modules in LISTED.items() if library != "more"}
WATCHED = """
import runpy, sys, tomllib, matplotlib
state = lambda: {key: dict.__getitem__(matplotlib.rcParams, key) for key in dict.keys(matplotlib.rcParams)}
before = state()
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
after = state()
assert [key for key in before if before[key] is not after[key] and before[key] != after[key]] == []
assert matplotlib._pylab_helpers.Gcf.figs == {}
with open(sys.argv[1], "rb") as file:
    table = tomllib.load(file)
listed = " ".join(table[library] for library in ("python", "torch", "numpy", "matplotlib")).split()
assert [name for name in listed if name not in sys.modules] == []
"""


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """The corpus, collected anew into an empty cache with another order of sets; the child, watched; and the cache.

    In the child every warning is an error, and at its end it must have left Matplotlib as it was.
    """
    cache, real, done = tmp_path_factory.mktemp("cache"), subprocess.run, []

    def watched(command, **options):
        python, *rest = command
        script = rest.index(harvest.__file__)
        command = [python, "-W", "error", *rest[:script], "-c", WATCHED, *rest[script:]]
        done.append(real(command, **options))
        return done[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEXTBERT_CACHE", str(cache))
        patch.setenv("PYTHONHASHSEED", "1")
        patch.setattr(python_docs.subprocess, "run", watched)
        return load_docs(), *done, cache


@pytest.fixture
def cache(second, monkeypatch):
    """The folder of the cache that `second` filled, as this process's cache."""
    monkeypatch.setenv("NEXTBERT_CACHE", str(second[2]))
    return second[2]


@pytest.fixture
def no_child(monkeypatch, cache):
    """Replace the child interpreter by one that hands out the file of the cache; count how often it runs."""
    made, runs = next(cache.glob("*.json")).read_bytes(), []

    def run(command, **_):
        runs.append(command)
        Path(command[-1]).write_bytes(made)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(python_docs.subprocess, "run", run)
    return runs


# What is in it


def test_there_are_thousands_of_documents_of_each_library(docs):
    assert len(docs.documents) > 6000
    assert sum(len(d.text) for d in docs.documents) > 5_000_000
    assert Counter(d.library for d in docs.documents).keys() == set(LIBRARIES)
    assert min(Counter(d.library for d in docs.documents).values()) > 1000
    assert len(docs.pairs("train")) > 3800 and len(docs.pairs("test")) > 500


def test_documents_are_distinct(docs):
    assert len({d.text for d in docs.documents}) == len({d.name for d in docs.documents}) == len(docs.documents)


def test_only_public_names(docs):
    private = [d.name for d in docs.documents if any(part.startswith("_") for part in d.name.split("."))]
    assert private == []


def test_labels_are_the_library_of_the_name(docs):
    for d in docs.documents:
        root = d.name.partition(".")[0]
        assert d.module in MODULES[d.library].split()
        if d.library == "python":
            assert root in sys.stdlib_module_names or hasattr(builtins, root)
        else:
            assert root == d.library


def test_names_are_the_ones_people_use(docs):
    names = {d.name: d for d in docs.documents}
    for name in ("print", "dict.pop", "torch.nn.Linear", "torch.Tensor.view", "numpy.mean", "matplotlib.pyplot.plot"):
        assert name in names
    assert names["torch.add"].summary == "Adds `other`, scaled by `alpha`, to `input`."
    assert names["json"].body and names["numpy.mean"].summary == "Compute the arithmetic mean along the specified axis."


def test_summaries_are_one_line_of_prose(docs):
    for d in docs.documents:
        assert d.summary == " ".join(d.summary.split()) and len(re.findall("[A-Za-z]+", d.summary)) >= 2, d
        assert not d.summary.startswith((".. ", ">>>", "==", "--")), d
        assert not re.search(" at 0x[0-9a-f]", d.text)


@pytest.mark.parametrize(
    "docstring, summary, body",
    [
        ("Open the file.\n\n    More of it.", "Open the file.", "More of it."),
        ("Open a\n    file, e.g. Yours. Then more.", "Open a file, e.g. Yours.", "Then more."),
        ("add(a, b, *, out=None) -> Tensor\n\nAdds a and b.\n\nArgs:\n    a: x", "Adds a and b.", "Args:\n    a: x"),
        ("f(a,\n  b)\n--\n\nReturn the sum.", "Return the sum.", ""),
        ("D.pop(k[,d]) -> v, remove the key and return it.\n\nElse d.", "remove the key and return it.", "Else d."),
        (".. note::\n    Slow.\n\nSort the list.", "Sort the list.", ".. note::\n    Slow."),
        ("====\nName\n====\n\nTools for lists here.", "Tools for lists here.", "====\nName\n===="),
        ("See :class:`~torch.Tensor` and :ref:`this <there>` also.", "See `torch.Tensor` and `this` also.", ""),
        ("Pads with <object at 0x7f00> values.", "Pads with <object> values.", ""),
        ("f(x: int) -> None", "", ""),
    ],
)
def test_parse_finds_the_sentence_that_sums_up(docstring, summary, body):
    assert parse(docstring) == (summary, body)


def test_pairs_have_both_parts_and_repeat_neither(docs):
    for split in SPLITS:
        summaries, bodies = zip(*docs.pairs(split), strict=True)
        assert all(summaries) and all(bodies)
        assert len(set(summaries)) == len(set(bodies)) == len(summaries)


# Splits


def test_splits_are_disjoint_and_cover_all(docs):
    names = [d.name for split in SPLITS for d in docs.split(split)]
    assert len(names) == len(set(names)) == docs.fingerprint["documents"]
    shares = [len(docs.split(split)) / len(names) for split in SPLITS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)


@pytest.mark.parametrize("part", ["text", "body"])
def test_nothing_held_out_has_a_near_duplicate_in_another_split(docs, part):
    train, validation, test = ([getattr(d, part) for d in docs.split(s) if getattr(d, part)] for s in SPLITS)
    vectors = TfidfVectorizer(**harvest.TFIDF).fit_transform(train + validation + test)
    n, m = len(train), len(train) + len(validation)

    def largest_cosine(a, b):  # by dense products: another way than the package's sparse blocks
        return max((b @ a[i : i + 200].T.toarray()).max() for i in range(0, a.shape[0], 200))

    assert largest_cosine(vectors[n:], vectors[:n]) <= 0.6 + 1e-9
    assert largest_cosine(vectors[m:], vectors[n:m]) <= 0.6 + 1e-9
    assert not any(near_duplicates(validation + test, train))


def test_a_chain_of_near_duplicates_stays_in_one_split():
    words = [f"word{i}" for i in range(40)]
    chain = [" ".join(words[i : i + 20]) for i in range(0, 20, 2)]  # neighbours are near, the ends are not
    far = [" ".join(f"other{i}x{j}" for j in range(20)) for i in range(30)]
    documents = [Document(f"n{i}", "python", "m", text, "") for i, text in enumerate(chain + far)]
    assert near_duplicates(chain[:1], chain[-1:] + far) == [False]
    splits = assign(documents)
    assert len(set(splits[:10])) == 1 and set(splits) == set(SPLITS)


def test_a_split_may_be_narrowed_to_a_library(docs):
    assert {d.library for d in docs.split("test", library="numpy")} == {"numpy"}


def test_near_duplicates_finds_the_planted_copies(docs):
    texts = [d.body for d in docs.validation if len(d.body) > 300][:50]
    copies = [text + " Slightly changed." for text in texts[:10]]
    others = ["Quite another text about zebras, which no library documents."]
    assert near_duplicates(texts, others + copies)[:10] == [True] * 10
    assert near_duplicates(texts, others) == [False] * 50
    assert near_duplicates([], texts) == [] and near_duplicates(["a"], []) == near_duplicates(["!"], ["?"]) == [False]


def without_memory(docs):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nMemoryError: no room")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEXTBERT_CACHE", "nowhere")
        patch.setattr(python_docs.subprocess, "run", lambda *_, **__: failed)
        load_docs()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda docs: docs.pairs("dev"), ValueError, "no split 'dev'; choose one of train, validation, test"),
        (
            lambda docs: docs.split("train", library="scipy"),
            ValueError,
            "no library 'scipy'; choose one of python, torch",
        ),
        (lambda docs: near_duplicates("text", ["text"]), TypeError, "put a single text into a list"),
        (without_memory, RuntimeError, "could not be collected by .*: MemoryError: no room"),
    ],
)
def test_what_cannot_be_given_is_said(docs, call, error, words):
    with pytest.raises(error, match=words):
        call(docs)


# Making it


def test_a_second_process_collects_the_same(docs, second):
    assert second[0] == docs


def test_collecting_finds_every_module_is_silent_and_leaves_matplotlib_alone(second):
    assert (second[1].returncode, second[1].stdout, second[1].stderr) == (0, "", "")


def test_loading_is_silent_and_imports_none_of_the_libraries(cache):
    code = """
import sys
from nextbert_lite.corpora.python_docs import load_docs
load_docs()
assert not {"torch", "matplotlib", "numpy", "sklearn"} & set(sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_a_whole_cache_is_read_without_a_child(docs, no_child):
    assert load_docs() == docs
    assert no_child == []


DAMAGES = {
    "truncated": lambda content: content[:1000],
    "empty": lambda content: b"",
    "list": lambda content: b"[]",
    "letter": lambda content: content.replace(b"Return", b"Ruturn", 1),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_made_again(docs, cache, no_child, damage):
    file = next(cache.glob("*.json"))
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert load_docs() == docs
    assert len(no_child) == 1 and file.read_bytes() == whole
    assert list(cache.iterdir()) == [file]  # no temporary file stays


def test_a_cache_folder_that_cannot_be_made_does_no_harm(docs, no_child, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEXTBERT_CACHE", str(tmp_path / "file" / "folder"))
    assert load_docs() == docs
    assert len(no_child) == 1


# Telling one corpus from another


def test_hashes_are_short_stable_and_distinct(docs):
    assert text_hash("text") == "982d9e3eb996f559"
    hashes = docs.hashes("train")
    assert hashes[0] == text_hash(docs.train[0]) and len(set(hashes)) == len(docs.train)
    assert not set(hashes) & set(docs.hashes("test"))
