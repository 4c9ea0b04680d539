"""The toy world: a language of some hundred words whose every probability can be computed.

A sentence is drawn in two steps: a frame z (template, topic, numbers, attractor, ending, front), then the word of each
slot independently, given z. So P(words) = Σ_z P(z) Π_t P(word_t | z, t), a finite mixture. The grammar is a text file,
data/toy_world.toml, made to be edited.

Shapes: B sentences, F frames, T words of the longest sentence, V words of the language (special tokens not counted).
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nextbert_lite.corpora import shortcuts
from nextbert_lite.corpora.grammar import GROUPS, NUMBERS, read_grammar
from nextbert_lite.files import share_dir
from nextbert_lite.training.tokenizer import CLS, PAD, SEP, SPECIALS, Tokenizer, word_level

COURSE_SENTENCE = "the cook near the ovens praises the waiters in the kitchen"
TOPICAL = ("who", "whom", "verb", "participle", "attractor", "place")  # the slots whose words the topic decides
FRONTS = ("none", "attractor", "place")
NO_WORD, UNKNOWN = -1, -2  # word indices: behind the end of a sentence, and of a word outside the language


class Frame(NamedTuple):
    """The latent choice z behind a sentence; a number is "singular" or "plural", the attractor's may be "none"."""

    template: str
    topic: str
    acting: str  # the group of people that acts on the other, "group_a" or "group_b"
    who_number: str
    whom_number: str
    attractor: str
    ending: str  # "place" or "pronoun"
    front: str  # what stands before the subject's clause: "none", "attractor", or "place", then with nothing at the end


class Meaning(NamedTuple):
    """Who does what to whom, in dictionary forms (cook, praise, waiter), and the numbers of the two."""

    who: str
    who_number: str
    action: str
    whom: str
    whom_number: str


@dataclass(frozen=True)
class Sentence:
    """One sentence and what lies behind it.

    slots names each word's slot: who, whom, verb, be, participle, attractor, place, pronoun, reason, or "" for a word
    that the template spells out. subject is the slot that the verb agrees with: who, or whom in a passive. attractor
    is what the attractor is: "none", "thing" or "person".
    """

    words: tuple[str, ...]
    frame: int  # index into ToyWorld.frames
    meaning: Meaning
    slots: tuple[str, ...]
    subject: str
    template: str
    attractor: str

    @property
    def text(self) -> str:
        """The words with spaces between."""
        return " ".join(self.words)

    @property
    def subject_number(self) -> str:
        """The number, singular or plural, that the verb must have."""
        return self.meaning.who_number if self.subject == "who" else self.meaning.whom_number

    @property
    def agreeing(self) -> str:
        """The slot whose form agrees with the subject: verb, or be in a passive."""
        return "verb" if "verb" in self.slots else "be"

    @property
    def construction(self) -> str:
        """The template's name, as "object cleft", with "fronted" before it where something stands in front."""
        name = self.template.replace("_", " ")
        ahead = self.slots[: self.slots.index(self.subject)]
        return f"fronted {name}" if {"attractor", "place"} & {*ahead} else name

    def position(self, slot: str) -> int | None:
        """Return where the slot's word stands, or None. Counted from 0 without [CLS]: one more in ids."""
        return self.slots.index(slot) if slot in self.slots else None


@dataclass(frozen=True)
class Question:
    """A gap with one right answer. misleading: another noun of the sentence suggests the wrong one."""

    sentence: Sentence  # with the right word in the gap
    position: int  # of the gap, counted as in Sentence.position
    right: str
    wrong: str
    misleading: bool


@dataclass(frozen=True)
class RoleSwap:
    """A sentence, a paraphrase of it, and that paraphrase with who and whom exchanged."""

    sentence: Sentence
    paraphrase: Sentence
    swapped: Sentence


class ToyWorld:
    """The language of a grammar file, the shipped one unless a path is given. No sentence has two frames.

    words: V words. frames: F frames. frame_probabilities: (F,), sums to 1. lengths: (F,), in words.
    emissions: (F, T, V), P(word | frame, position), float64; a row sums to 1 within the frame's length, to 0 behind it.
    held_out: the sentences of the grammar's held-out templates instead, which the language never says, with its words.
    Raises ValueError for a wrong grammar; it names the file, the key, what is wrong and what was expected. Warns where
    a rule that knows no grammar finds the subject in more than 0.75 of the sentences (see `shortcuts`).
    """

    def __init__(self, path: str | Path | None = None, held_out: bool = False):
        self.path = share_dir("data") / "toy_world.toml" if path is None else Path(path)
        self.grammar = read_grammar(self.path)
        self._lemma, self._other_number = self._forms()
        self._templates = self.grammar["held_out" if held_out else "templates"]
        if not self._templates:
            raise ValueError(f"{self.path} has no held-out template: write one under [held_out.name], with its text.")
        shares, topics = self.grammar["probabilities"], self.grammar["topics"]
        people = [person for topic in topics.values() for group in GROUPS for person in topic[group]]
        self._people = {form for person in people for form in person.values()}
        choices = (self._templates, topics, GROUPS, NUMBERS, NUMBERS, shares["attractor"], shares["ending"], FRONTS)
        frames = itertools.starmap(Frame, itertools.product(*choices))
        kept = {frame: p for frame in frames if (p := self._probability(frame)) > 0}
        said = ToyWorld(self.path) if held_out else None
        if said:  # without a front, a held-out template may say what another template says
            known = {said._pattern(frame) for frame in said.frames}
            kept = {frame: p for frame, p in kept.items() if self._pattern(frame) not in known}
            total = sum(kept.values())
            kept = {frame: p / total for frame, p in kept.items()}
        self.frames = tuple(kept)
        self._index = {frame: f for f, frame in enumerate(self.frames)}
        self.frame_probabilities = torch.tensor(list(kept.values()), dtype=torch.float64)

        layouts = [self._layout(frame) for frame in self.frames]
        self._slots = [tuple(slot for slot, _ in layout) for layout in layouts]
        self.lengths = torch.tensor([len(layout) for layout in layouts])
        used = dict.fromkeys(word for layout in layouts for _, table in layout for word in table)
        self.words = said.words if said else tuple(used)
        if new := [word for word in used if word not in self.words]:
            raise ValueError(f"{self.path}: a held-out template has '{new[0]}', which no sentence of the language has.")
        self._word_index = {word: v for v, word in enumerate(self.words)}

        # The words that may stand at (f, t), twice: as a list to draw from, and as probabilities.
        F, T, K = len(layouts), max(map(len, layouts)), max(len(table) for layout in layouts for _, table in layout)
        self._tables = np.full((F, T, K), NO_WORD, dtype=np.int64)
        self._table_sizes = np.ones((F, T), dtype=np.int64)
        emissions = np.zeros((F, T, len(self.words)))
        for f, layout in enumerate(layouts):
            for t, (_, table) in enumerate(layout):
                indices = [self._word_index[word] for word in table]
                self._tables[f, t] = np.resize(indices, K)  # repeats a short table; only its first entries are drawn
                self._table_sizes[f, t] = len(indices)
                emissions[f, t, indices] = 1 / len(indices)
        self.emissions = torch.from_numpy(emissions)
        self._refuse_ambiguity()
        for rule, share in {} if held_out else self.shortcuts().items():
            if share > shortcuts.MOST:
                warnings.warn(
                    f"{self.path.name}: the rule '{rule}' finds the subject in {share:.2f} of the sentences, more than "
                    f"{shortcuts.MOST}. A model may learn the rule and look as if it had learned grammar.",
                    stacklevel=2,
                )

    def _forms(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return form -> dictionary form (the singular, a verb's plural), and form -> the form of the other number."""
        words, lemma, other = self.grammar["words"], {}, {}
        topics = self.grammar["topics"].values()
        entries = [entry for topic in topics for part in (*GROUPS, "things", "verbs") for entry in topic[part]]
        for entry in (words["be"], words["pronoun"], *entries):
            lemma |= dict.fromkeys(entry.values(), entry["plural" if "participle" in entry else "singular"])
            other |= {entry["singular"]: entry["plural"], entry["plural"]: entry["singular"]}
        return lemma, other

    def _probability(self, frame: Frame) -> float:
        """Return P(frame); 0 where the template has no room for it."""
        shares, text = self.grammar["probabilities"], self._templates[frame.template]["text"]
        p = self._templates[frame.template]["probability"] / len(self.grammar["topics"]) / len(GROUPS)
        p *= shares["number"][frame.who_number] * shares["number"][frame.whom_number] * shares["ending"][frame.ending]
        near, front = "{near}" in text, "{front}" in text
        if near or front:
            p *= shares["attractor"][frame.attractor]
        ahead = (shares["front"]["attractor"] if near else 1.0) if front and frame.attractor != "none" else 0.0
        if frame.front == "attractor":
            return p * ahead
        p *= 1 - ahead if near or front else frame.attractor == "none"
        ahead = shares["front"]["place"] if front and frame.ending == "place" else 0.0
        return p * (ahead if frame.front == "place" else 1 - ahead)

    def _pattern(self, frame: Frame) -> tuple[str, ...]:
        """Return the frame's sentence as slots and words, such as ("the", "{who}", "{verb}", …)."""
        pieces = self.grammar["pieces"]
        near = [] if frame.attractor == "none" else pieces["near"]
        front = {"none": [], "attractor": near, "place": pieces["place"]}[frame.front]
        end = [] if frame.front == "place" else pieces[frame.ending]
        fillings = {"{front}": front, "{near}": [] if frame.front == "attractor" else near, "{end}": end}
        text = self._templates[frame.template]["text"]
        return tuple(itertools.chain(*(fillings.get(part, [part]) for part in text)))

    def _layout(self, frame: Frame) -> list[tuple[str, list[str]]]:
        """Return the frame's slots from left to right, each with the words that may stand there."""
        topic, words = self.grammar["topics"][frame.topic], self.grammar["words"]
        near = [entry for part in ("things", *GROUPS) for entry in topic[part]]
        tables = {
            "who": [person[frame.who_number] for person in topic[frame.acting]],
            "whom": [person[frame.whom_number] for person in topic[_other_group(frame.acting)]],
            "verb": [verb[frame.who_number] for verb in topic["verbs"]],
            "be": [words["be"][frame.whom_number]],
            "participle": [verb["participle"] for verb in topic["verbs"]],
            "attractor": [entry.get(frame.attractor) for entry in near],
            "place": topic["places"],
            "pronoun": [words["pronoun"][frame.whom_number]],
            "reason": words["reasons"],
        }
        parts = self._pattern(frame)
        return [(part[1:-1], tables[part[1:-1]]) if part[0] == "{" else ("", [part]) for part in parts]

    def _refuse_ambiguity(self) -> None:
        """Raise ValueError if two frames can say the same sentence: its meaning would not be certain."""
        # Topics share no word but the templates' own, so the frames of one topic show it.
        first = [f for f, frame in enumerate(self.frames) if frame.topic == self.frames[0].topic]
        possible = (self.emissions[first] > 0).float()
        ended = torch.from_numpy(self._tables[first, :, :1] == NO_WORD).float()
        possible = torch.cat([possible, ended], dim=-1).transpose(0, 1)  # (T, F', V + 1), F' frames of the topic
        both = (possible @ possible.mT > 0).all(dim=0).fill_diagonal_(False)  # (F', F')
        if both.any():
            one, two = (self.frames[first[i]].template for i in both.nonzero()[0].tolist())
            raise ValueError(
                f"{self.path}: `templates.{one}.text` and `templates.{two}.text` can give the same sentence with two "
                "meanings; change one of them so that every sentence has one."
            )

    def shortcuts(self) -> dict[str, float]:
        """Return for each rule that knows no grammar the probability that it finds the subject, exactly."""
        return shortcuts.shares(self._cases())

    def _cases(self) -> Iterator[shortcuts.Case]:
        nouns = ("who", "whom", "attractor", "place")
        for p, frame, slots in zip(self.frame_probabilities.tolist(), self.frames, self._slots, strict=True):
            topic = self.grammar["topics"][frame.topic]
            persons, things = sum(len(topic[group]) for group in GROUPS), len(topic["things"])
            words = ["" if slot else word for slot, word in zip(slots, self._pattern(frame), strict=True)]
            subject = slots.index(self._templates[frame.template]["subject"])
            verb = slots.index("verb" if "verb" in slots else "be")
            kinds = {"person": persons, "thing": things} if "attractor" in slots else {"none": 1}
            for kind, n in kinds.items():
                people = {"who", "whom", "attractor"} if kind == "person" else {"who", "whom"}
                found = [shortcuts.Noun(t, slot in people) for t, slot in enumerate(slots) if slot in nouns]
                yield shortcuts.Case(p * n / sum(kinds.values()), words, found, subject, verb)

    def tokenizer(self) -> Tokenizer:
        """Return the word-level tokenizer of this language: the five special tokens, then `words` in their order."""
        return word_level(self.words)

    def sample(self, n: int, seed: int) -> list[Sentence]:
        """Return n random sentences. A seed gives the same ones on every machine, and in `sample_ids`."""
        return self._sentences(*self._draw(n, _generator(n, seed)))

    def sample_ids(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return n random sentences as ids (n, T + 2), with [CLS], [SEP] and padding, and their mask (n, T + 2).

        The mask is True at the real tokens. Some 100,000 sentences a second: fresh ones for each training step.
        """
        frames, words = self._draw(n, _generator(n, seed))
        pad, cls, sep = map(SPECIALS.index, (PAD, CLS, SEP))
        ends = self.lengths.numpy()[frames] + 1
        ids = np.full((n, words.shape[1] + 2), pad, dtype=np.int64)
        ids[:, 1:-1] = np.where(words == NO_WORD, pad, words + len(SPECIALS))
        ids[:, 0] = cls
        ids[np.arange(n), ends] = sep
        return torch.from_numpy(ids), torch.from_numpy(np.arange(ids.shape[1]) <= ends[:, None])

    def _draw(self, n: int, rng: np.random.Generator, among: list[bool] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draw frames (n,) and word indices (n, T). among: (F,), the frames to keep to."""
        kept = np.arange(len(self.frames)) if among is None else np.flatnonzero(among)
        if len(kept) == 0:
            raise ValueError(f"{self.path} has no sentences of the kind that this test needs.")
        cumulative = np.cumsum(self.frame_probabilities.numpy()[kept])
        drawn = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
        frames = kept[np.minimum(drawn, len(kept) - 1)]  # rounding must not lead behind the last frame
        sizes = self._table_sizes[frames]
        entries = (rng.random(sizes.shape) * sizes).astype(np.int64)
        return frames, self._tables[frames[:, None], np.arange(sizes.shape[1]), entries]

    def _sentences(self, frames: np.ndarray, words: np.ndarray) -> list[Sentence]:
        rows = zip(frames.tolist(), words.tolist(), strict=True)
        return [self._sentence(f, [self.words[v] for v in row if v != NO_WORD]) for f, row in rows]

    def _sentence(self, f: int, words: list[str]) -> Sentence:
        frame, slots = self.frames[f], self._slots[f]
        lemma = {slot: self._lemma.get(word) for slot, word in zip(slots, words, strict=True)}
        action = lemma["verb"] if "verb" in lemma else lemma["participle"]
        meaning = Meaning(lemma["who"], frame.who_number, action, lemma["whom"], frame.whom_number)
        near = words[slots.index("attractor")] if "attractor" in slots else None
        attractor = "none" if near is None else "person" if near in self._people else "thing"
        subject = self._templates[frame.template]["subject"]
        return Sentence(tuple(words), f, meaning, slots, subject, frame.template, attractor)

    @cached_property
    def _log_emissions(self) -> Tensor:
        """The logarithms of the emissions as (T, V + 2, F). Row -1 is NO_WORD, row -2 UNKNOWN."""
        F, T, V = self.emissions.shape
        table = torch.zeros(T, V + 2, F, dtype=torch.float64)
        table[:, :V] = self.emissions.permute(1, 2, 0)
        table[:, NO_WORD] = (torch.arange(T)[:, None] >= self.lengths).double()
        return table.log()

    def _indices(self, text: str) -> list[int]:
        return [self._word_index.get(word, UNKNOWN) for word in text.split()]

    def log_probability(self, texts: list[str]) -> Tensor:
        """Return log Σ_z P(z) Π_t P(word_t | z, t) of each text, in nats: (B,), float64; -inf outside the language."""
        if isinstance(texts, str):
            raise TypeError("log_probability takes a list of texts; put one text into a list.")
        T = len(self._log_emissions)
        rows = [self._indices(text) for text in texts]
        rows = [row + [NO_WORD] * (T - len(row)) if len(row) <= T else [UNKNOWN] * T for row in rows]
        results = [torch.zeros(0, dtype=torch.float64)]
        for chunk in torch.tensor(rows, dtype=torch.int64).reshape(-1, T).split(1024):  # bounds the memory, (1024, F)
            joint = self.frame_probabilities.log().repeat(len(chunk), 1)
            for t in range(T):
                joint += self._log_emissions[t, chunk[:, t]]
            results.append(joint.logsumexp(dim=-1))
        return torch.cat(results)

    def parse(self, text: str) -> Sentence:
        """Return the sentence with its frame and meaning.

        Raises ValueError for a text outside the language; it names the first word that does not fit.
        """
        words = text.split()
        tables = np.pad(self._tables, ((0, 0), (0, 1), (0, 0)), constant_values=NO_WORD)  # nothing behind the longest
        alive = np.ones(len(self.frames), dtype=bool)  # the frames that can say the words so far
        for t, v in enumerate([*self._indices(text), NO_WORD]):
            fits = alive & (tables[:, t] == v).any(axis=-1)
            if not fits.any():
                expected = ["the end" if v == NO_WORD else self.words[v] for v in np.unique(tables[alive, t])]
                listed = ", ".join(expected[:12]) + ", …" * (len(expected) > 12)
                found = "the sentence ends too early" if t == len(words) else f"'{words[t]}' does not fit"
                unknown = " (no word of this language)" if v == UNKNOWN else ""
                place = f"after '{' '.join(words[:t])}'" if t else "as the first word"
                raise ValueError(f"word {t + 1}: {found}{unknown} {place}; expected: {listed}.")
            alive = fits
        return self._sentence(int(alive.argmax()), words)

    def _renderings(self, frame: Frame) -> list[Frame]:
        """Return the frames that say the same in the other templates."""
        found = []
        for name, template in self._templates.items():
            other, text = frame._replace(template=name), template["text"]
            if frame.front != "none" and "{front}" not in text:
                other = other._replace(
                    front="none", attractor="none" if frame.front == "attractor" else frame.attractor
                )
            if frame.front != "attractor" and template["subject"] != self._templates[frame.template]["subject"]:
                other = other._replace(attractor="none")
            found.append(other if self._probability(other) > 0 else other._replace(attractor="none"))
        return [other for other in found if other.template != frame.template and other in self._index]

    def _say(self, frame: Frame, sentence: Sentence, exchange: bool = False) -> Sentence:
        """Say a sentence in another frame of its topic. exchange: the one who acted is acted upon."""
        entry = {}  # slot -> which entry of its table the sentence has; the form follows from the frame
        for t, (slot, v) in enumerate(zip(sentence.slots, self._indices(sentence.text), strict=True)):
            entry[slot] = self._tables[sentence.frame, t].tolist().index(v)
        entry["verb"] = entry["participle"] = entry.get("verb", entry.get("participle"))
        if exchange:
            entry["who"], entry["whom"] = entry["whom"], entry["who"]
        f = self._index[frame]
        chosen = [self._tables[f, t, entry.get(slot, 0)] for t, slot in enumerate(self._slots[f])]
        return self._sentence(f, [self.words[v] for v in chosen])

    def paraphrases(self, sentence: Sentence) -> list[Sentence]:
        """Return the sentence in each other template: the same meaning, the same ending.

        An attractor behind the subject is said of it ("the cook near the ovens"). Where the other person is the subject
        it is left out: behind that person it would say something new. What stands in front is said of the whole; where
        a template has no room there, a place goes to the end and an attractor is left out.
        """
        return [self._say(frame, sentence) for frame in self._renderings(self.frames[sentence.frame])]

    def swap_roles(self, sentence: Sentence) -> Sentence:
        """Return the sentence with who and whom exchanged, numbers and all; verb and pronoun agree again.

        It is exactly as probable. An attractor stays behind the subject.
        """
        frame = self.frames[sentence.frame]
        frame = frame._replace(
            acting=_other_group(frame.acting), who_number=frame.whom_number, whom_number=frame.who_number
        )
        return self._say(frame, sentence, exchange=True)

    # The test sets. With the seed of a training batch they still have a random stream of their own.

    def agreement_test(self, n: int, seed: int) -> list[Question]:
        """Return n gaps at the verb, or at is/are in a passive: singular or plural?

        Misleading: a noun of the other number stands before the gap (Linzen et al. 2016, arXiv:1611.01368).
        """
        questions = []
        for sentence in self._sentences(*self._draw(n, _generator(n, seed, 1))):
            frame, gap = self.frames[sentence.frame], sentence.position(sentence.agreeing)
            numbers = dict(who=frame.who_number, whom=frame.whom_number, attractor=frame.attractor, place="singular")
            seen = {numbers[slot] for slot in sentence.slots[:gap] if slot in numbers}
            questions.append(self._number_question(sentence, sentence.agreeing, len(seen) > 1))
        return questions

    def pronoun_test(self, n: int, seed: int) -> list[Question]:
        """Return n gaps at the pronoun: one person or several? It stands for whom, in every template.

        Misleading: who has the other number.
        """
        among = [frame.ending == "pronoun" for frame in self.frames]
        sentences = self._sentences(*self._draw(n, _generator(n, seed, 2), among))
        return [self._number_question(s, "pronoun", s.meaning.who_number != s.meaning.whom_number) for s in sentences]

    def _number_question(self, sentence: Sentence, slot: str, misleading: bool) -> Question:
        right = sentence.words[sentence.position(slot)]
        return Question(sentence, sentence.position(slot), right, self._other_number[right], misleading)

    def topic_test(self, n: int, seed: int) -> list[Question]:
        """Return n gaps at a word that the topic decides; the wrong word fits the gap in another topic.

        None is misleading: every other word of a topic points the right way.
        """
        rng, questions = _generator(n, seed, 3), []
        for sentence in self._sentences(*self._draw(n, rng)):
            frame = self.frames[sentence.frame]
            t = _pick(rng, [t for t, slot in enumerate(sentence.slots) if slot in TOPICAL])
            topic = _pick(rng, [topic for topic in self.grammar["topics"] if topic != frame.topic])
            f = self._index[frame._replace(topic=topic)]
            wrong = self.words[_pick(rng, self._tables[f, t, : self._table_sizes[f, t]])]
            questions.append(Question(sentence, t, sentence.words[t], wrong, misleading=False))
        return questions

    def role_swap_test(self, n: int, seed: int) -> list[RoleSwap]:
        """Return n sentences with a paraphrase each, and that paraphrase with who and whom exchanged.

        Both people have the same number, so that the two paraphrases have the same words in another order: a bag of
        words cannot tell them apart.
        """
        rng, items = _generator(n, seed, 4), []
        among = [frame.who_number == frame.whom_number and bool(self._renderings(frame)) for frame in self.frames]
        for sentence in self._sentences(*self._draw(n, rng, among)):
            paraphrase = _pick(rng, self.paraphrases(sentence))
            items.append(RoleSwap(sentence, paraphrase, self.swap_roles(paraphrase)))
        return items


def _generator(n: int, seed: int, stream: int = 0) -> np.random.Generator:
    """Check n and the seed, and return the generator of the seed and stream (0: samples, else a test set)."""
    for name, value, least in (("n", n, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} must be a whole number, not {value!r}.")
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}.")
    return np.random.Generator(np.random.PCG64([stream, int(seed)]))


def _pick(rng: np.random.Generator, options: Any) -> Any:
    return options[int(rng.random() * len(options))]


def _other_group(group: str) -> str:
    return GROUPS[1 - GROUPS.index(group)]
