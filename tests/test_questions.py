"""The judged questions to the documentation corpus: enough of them, answerable here, and nobody else's."""

import ast
import tomllib
from collections import Counter

import pytest

from nextbert_lite.corpora.harvest import LIBRARIES
from nextbert_lite.corpora.python_docs import load_docs
from nextbert_lite.files import share_dir
from nextbert_lite.use.search import WORD, terms

KINDS = {"paraphrase", "how-to", "name", "error", "why", "vague", "short", "misspelt"}
QUESTIONS = tomllib.loads((share_dir("data") / "questions.toml").read_text(encoding="utf-8"))["question"]


@pytest.fixture(scope="module")
def documents():
    return load_docs().documents


@pytest.fixture(scope="module")
def typed():
    """The typed questions of lesson 14: the keys of the first `TYPED` in its source."""
    source = (share_dir("notebooks") / "source" / "14_real_weights.py").read_text(encoding="utf-8")
    found = [
        ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and node.targets[0].id == "TYPED"
    ]
    assert len(found) == 1 and len(found[0]) >= 20
    return list(found[0])


def words(text):
    """Return what counts in a text for BM25, in any order: two texts with the same words are the same question."""
    return frozenset(term for word in WORD.findall(text) for term in terms(word))


def test_there_are_enough_questions_of_each_kind():
    assert len(QUESTIONS) >= 60
    assert all(set(question) == {"text", "kind", "answers"} for question in QUESTIONS)
    kinds = Counter(question["kind"] for question in QUESTIONS)
    assert set(kinds) == KINDS and min(kinds.values()) >= 3
    assert len({words(question["text"]) for question in QUESTIONS}) == len(QUESTIONS)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question["text"])
def test_a_question_has_an_answer_and_grades_are_1_to_3(question):
    grades = question["answers"].values()
    assert all(type(grade) is int and 1 <= grade <= 3 for grade in grades) and max(grades) >= 2
    assert list(grades) == sorted(grades, reverse=True)


def test_the_best_answers_exist_on_this_python(documents):
    """Of each question at least one answer with its highest grade; and nearly all names, whatever the versions."""
    names, held, all_names = {d.name for d in documents}, 0, 0
    for question in QUESTIONS:
        answers = question["answers"]
        best = [name for name, grade in answers.items() if grade == max(answers.values())]
        assert any(name in names for name in best), question["text"]
        held, all_names = held + sum(name in names for name in answers), all_names + len(answers)
    assert held >= 0.9 * all_names


def test_most_answers_are_in_the_standard_library(documents):
    library = {d.name: d.library for d in documents}
    counts = Counter(library[name] for question in QUESTIONS for name in question["answers"] if name in library)
    assert set(counts) <= set(LIBRARIES) and counts["python"] >= 0.9 * counts.total()


def test_no_question_is_of_lesson_14(typed):
    assert {words(question["text"]) for question in QUESTIONS}.isdisjoint(map(words, typed))


def test_no_question_is_a_summary(documents):
    summaries = {" ".join(WORD.findall(d.summary.lower())) for d in documents}
    assert summaries.isdisjoint(" ".join(WORD.findall(question["text"].lower())) for question in QUESTIONS)
