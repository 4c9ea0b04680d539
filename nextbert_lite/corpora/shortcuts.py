"""Rules that find the subject of a toy sentence without grammar, and how often each is right.

Where one is right too often, a head of attention that reads a place looks as if it read grammar.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

MOST = 0.75  # of the sentences: a grammar in which a rule is right more often is warned of


class Noun(NamedTuple):
    """Where a noun stands, and whether it is a person."""

    position: int
    person: bool


class Case(NamedTuple):
    """Sentences that are alike in all that the rules read, and their probability."""

    probability: float
    words: Sequence[str]  # a word that the template spells out, or "" for that of a slot
    nouns: Sequence[Noun]  # from left to right
    subject: int  # its position
    verb: int  # the position of the word that agrees with it


def people(case: Case) -> list[Noun]:
    return [noun for noun in case.nouns if noun.person]


def before(nouns: Sequence[Noun], verb: int) -> list[Noun]:
    return [noun for noun in nouns if noun.position < verb] or [*nouns]


def nearest(nouns: Sequence[Noun], verb: int) -> Noun:
    return min(nouns, key=lambda noun: abs(noun.position - verb))


RULES: dict[str, Callable[[Case], Noun]] = {
    "the first noun": lambda case: case.nouns[0],
    "the last noun before the verb": lambda case: before(case.nouns, case.verb)[-1],
    "the noun nearest to the verb": lambda case: nearest(case.nouns, case.verb),
    "the first person": lambda case: people(case)[0],
    "the last person before the verb": lambda case: before(people(case), case.verb)[-1],
    "the person nearest to the verb": lambda case: nearest(people(case), case.verb),
}
# The subject's commonest place among the sentences that share something: what a reader of places can learn.
PLACES: dict[str, Callable[[Case], object]] = {
    "always one place": lambda case: None,
    "the commonest place for the sentence's length": lambda case: len(case.words),
    "the commonest place for the first word": lambda case: case.words[0],
}


def shares(cases: Iterable[Case]) -> dict[str, float]:
    """Return for each rule the probability that it finds the subject."""
    found = dict.fromkeys((*RULES, *PLACES), 0.0)
    tally: dict[str, Counter] = {name: Counter() for name in PLACES}
    for case in cases:
        for name, rule in RULES.items():
            found[name] += case.probability * (rule(case).position == case.subject)
        for name, key in PLACES.items():
            tally[name][key(case), case.subject] += case.probability
    for name, counts in tally.items():
        best: dict[object, float] = {}
        for (key, _), p in counts.items():
            best[key] = max(best.get(key, 0.0), p)
        found[name] = sum(best.values())
    return found
