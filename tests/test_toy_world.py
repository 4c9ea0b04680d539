"""The toy language: its probabilities, its sentences, its test sets, and what a wrong grammar is told."""

import itertools
import math
import re
import tomllib
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from nextbert_lite.corpora.grammar import MAX_WORDS
from nextbert_lite.corpora.toy_world import COURSE_SENTENCE, ToyWorld
from nextbert_lite.files import share_dir

WORLD = ToyWorld()
SHIPPED = (share_dir("data") / "toy_world.toml").read_text(encoding="utf-8")
RAW = tomllib.loads(SHIPPED)  # the grammar without the module under test
FALSE_ALARM = 1e-6  # of each statistical test; with fixed seeds they pass always or never


def forms(part, number):
    return {entry[number] for topic in RAW["topics"].values() for entry in topic[part]}


PEOPLE = {number: forms("group_a", number) | forms("group_b", number) for number in ("singular", "plural")}
VERBS = {number: forms("verbs", number) for number in ("singular", "plural")}


def number_of(word, table):
    return "singular" if word in table["singular"] else "plural" if word in table["plural"] else None


def with_word(sentence, position, word):
    return " ".join([*sentence.words[:position], word, *sentence.words[position + 1 :]])


def is_possible(text):
    return WORLD.log_probability([text]).item() > -math.inf


def chi_squared_passes(observed, expected):
    assert expected.min() > 5
    statistic = ((observed - expected) ** 2 / expected).sum()
    return chi2.sf(statistic, len(observed) - 1) > FALSE_ALARM


# The probabilities, against a language small enough to write out.

TINY = """
[probabilities]
number = { singular = 0.7, plural = 0.3 }
attractor = { none = 0.5, singular = 0.25, plural = 0.25 }
front = { attractor = 0.4, place = 0.25 }
ending = { place = 0.9, pronoun = 0.1 }
[templates.active]
probability = 0.4
text = "{front} the {who} {near} {verb} the {whom} {end}"
[templates.passive]
probability = 0.3
text = "the {whom} {near} {be} {participle} by the {who} {end}"
[templates.object_cleft]
probability = 0.2
text = "it is the {whom} that the {who} {verb} {end}"
[templates.late]
probability = 0.1
text = "{front} it is the {who} that {verb} the {whom} {end}"
[pieces]
near = "near the {attractor}"
place = "in the {place}"
pronoun = "because {pronoun} {reason}"
[words]
be = { singular = "is", plural = "are" }
pronoun = { singular = "he", plural = "they" }
reasons = ["sang", "sat"]
[topics.air]
group_a = [{ singular = "crow", plural = "crows" }, { singular = "owl", plural = "owls" }]
group_b = [{ singular = "bat", plural = "bats" }]
things = [{ singular = "cloud", plural = "clouds" }, { singular = "kite", plural = "kites" }]
verbs = [{ singular = "sees", plural = "see", participle = "seen" }]
places = ["sky"]
[topics.sea]
group_a = [{ singular = "seal", plural = "seals" }]
group_b = [{ singular = "whale", plural = "whales" }]
things = [{ singular = "wave", plural = "waves" }]
verbs = [
    { singular = "meets", plural = "meet", participle = "met" },
    { singular = "eats", plural = "eat", participle = "eaten" },
]
places = ["bay", "deep"]
"""


def written_out(grammar):
    """Every sentence of a grammar with the four templates above -> its probability, by loops and f-strings."""
    shares, words = grammar["probabilities"], grammar["words"]
    numbers = ("singular", "plural")
    language = Counter()
    for topic in grammar["topics"].values():
        p_topic = 1 / len(grammar["topics"]) / 2
        beings = [*topic["things"], *topic["group_a"], *topic["group_b"]]
        near = [("", shares["attractor"]["none"])]
        near += [(f"near the {x[c]}", shares["attractor"][c] / len(beings)) for c in numbers for x in beings]
        for who_group, whom_group in (("group_a", "group_b"), ("group_b", "group_a")):
            people = itertools.product(topic[who_group], numbers, topic[whom_group], numbers, topic["verbs"])
            for who, a, whom, b, verb in people:
                p = p_topic * shares["number"][a] * shares["number"][b]
                p /= len(topic[who_group]) * len(topic[whom_group]) * len(topic["verbs"])
                ends = [(f"in the {x}", shares["ending"]["place"] / len(topic["places"])) for x in topic["places"]]
                for x in words["reasons"]:
                    end = f"because {words['pronoun'][b]} {x}"
                    ends.append((end, shares["ending"]["pronoun"] / len(words["reasons"])))
                agent, patient, acts, is_ = who[a], whom[b], verb[a], words["be"][b]
                for end, p_end in ends:
                    place = shares["front"]["place"] if end.startswith("in the ") else 0.0
                    language[f"it is the {patient} that the {agent} {acts} {end}"] += 0.2 * p * p_end
                    for x, p_near in near:
                        q = p * p_end * p_near
                        behind = f"{x} " if x else ""
                        passive = f"the {patient} {behind}{is_} {verb['participle']} by the {agent} {end}"
                        language[passive] += 0.3 * q
                        ahead = shares["front"]["attractor"] if x else 0.0
                        if x:
                            language[f"{x} the {agent} {acts} the {patient} {end}"] += 0.4 * q * ahead
                            language[f"{x} it is the {agent} that {acts} the {patient} {end}"] += 0.1 * q
                        else:
                            cleft = f"it is the {agent} that {acts} the {patient}"
                            language[f"{cleft} {end}"] += 0.1 * q * (1 - place)
                            language[f"{end} {cleft}"] += 0.1 * q * place
                        active = f"the {agent} {behind}{acts} the {patient}"
                        language[f"{active} {end}"] += 0.4 * q * (1 - ahead) * (1 - place)
                        language[f"{end} {active}"] += 0.4 * q * (1 - ahead) * place
    return Counter({text: p for text, p in language.items() if p > 0})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("grammar") / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    with pytest.warns(UserWarning, match="finds the subject"):
        return ToyWorld(path)


def test_the_probability_of_every_sentence_is_that_of_the_language_written_out(tiny):
    language = written_out(tomllib.loads(TINY))
    assert len(language) == 4352 and math.isclose(sum(language.values()), 1, abs_tol=1e-12)
    found = tiny.log_probability(list(language))
    expected = torch.tensor(list(language.values()), dtype=torch.float64).log()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_frames_can_say_exactly_the_sentences_of_the_language(tiny):
    said = set()
    for f, length in enumerate(tiny.lengths.tolist()):
        tables = [[tiny.words[v] for v in row.nonzero().flatten()] for row in tiny.emissions[f, :length]]
        said |= {" ".join(words) for words in itertools.product(*tables)}
    assert said == set(written_out(tomllib.loads(TINY)))


def test_samples_have_the_probabilities_of_the_language(tiny):
    language = {text: p for text, p in written_out(tomllib.loads(TINY)).items() if p > 1e-4}
    n = 60_000
    drawn = Counter(sentence.text for sentence in tiny.sample(n, seed=0))
    rest = n - sum(drawn[text] for text in language)
    observed = np.array([*(drawn[text] for text in language), rest])
    expected = n * np.array([*language.values(), 1 - sum(language.values())])
    assert len(language) > 500 and chi_squared_passes(observed, expected)


def test_a_text_outside_the_language_has_probability_zero():
    texts = ["", "the", "zebra", COURSE_SENTENCE + " in", COURSE_SENTENCE * 3, COURSE_SENTENCE.upper(), "[MASK]"]
    assert WORLD.log_probability(texts).tolist() == [-math.inf] * len(texts)
    assert WORLD.log_probability([]).shape == (0,)
    with pytest.raises(TypeError, match="put one text into a list"):
        WORLD.log_probability(COURSE_SENTENCE)


def test_probabilities_do_not_depend_on_the_batch():
    texts = [sentence.text for sentence in WORLD.sample(1500, seed=0)]  # more than one chunk
    assert torch.equal(WORLD.log_probability(texts)[-3:], WORLD.log_probability(texts[-3:]))


# The shipped language.


def test_the_course_sentence_is_in_the_language():
    sentence = WORLD.parse(COURSE_SENTENCE)
    assert is_possible(COURSE_SENTENCE) and sentence.text == COURSE_SENTENCE
    assert sentence.meaning == ("cook", "singular", "praise", "waiter", "plural")
    frame = WORLD.frames[sentence.frame]
    assert (frame.template, frame.topic, frame.attractor, frame.ending) == ("active", "kitchen", "plural", "place")
    slots = ("who", "attractor", "verb", "whom", "place")
    words = [sentence.words[sentence.position(slot)] for slot in slots]
    assert words == "cook ovens praises waiters kitchen".split()
    assert sentence.position("pronoun") is None


def test_the_language_has_the_size_that_the_lessons_rely_on():
    F, T, V = WORLD.emissions.shape
    assert (F, T, V) == (1824, MAX_WORDS, 191)
    assert len(RAW["topics"]) == 6 and len(WORLD.frames) == F == len(set(WORLD.frames))
    assert WORLD.tokenizer().vocab_size == V + 5


def test_frame_probabilities_and_each_row_of_the_emissions_sum_to_one():
    one = torch.ones((), dtype=torch.float64)
    torch.testing.assert_close(WORLD.frame_probabilities.sum(), one, rtol=0, atol=1e-12)
    within = torch.arange(MAX_WORDS) < WORLD.lengths[:, None]
    torch.testing.assert_close(WORLD.emissions.sum(-1), within.double(), rtol=0, atol=1e-12)
    assert WORLD.emissions.dtype == torch.float64 and WORLD.lengths.max() == MAX_WORDS


def test_frames_are_drawn_with_their_probabilities():
    n = 100_000
    frames, _ = WORLD._draw(n, np.random.Generator(np.random.PCG64(0)))
    observed = np.bincount(frames, minlength=len(WORLD.frames))
    assert chi_squared_passes(observed, n * WORLD.frame_probabilities.numpy())


def test_given_the_frame_the_slots_are_independent():
    f = WORLD.parse(COURSE_SENTENCE).frame
    among = [g == f for g in range(len(WORLD.frames))]
    sentences = WORLD._sentences(*WORLD._draw(40_000, np.random.Generator(np.random.PCG64(0)), among))
    counts = np.array(list(Counter(sentence.words for sentence in sentences).values()))
    assert len(counts) == 3 * 9 * 3 * 3 * 2  # who, attractor, action, whom, place: each combination
    assert chi_squared_passes(counts, np.full(len(counts), 40_000 / len(counts)))


PINNED = [
    "it is the thieves near the juror that accuse the judges in the archive",
    "the waiter near the kettle is served by the butchers in the cellar",
    "the waiters near the table serve the butchers because they waited",
]


def test_a_seed_gives_the_same_sentences_on_every_machine():
    assert [sentence.text for sentence in WORLD.sample(3, seed=0)] == PINNED
    assert WORLD.sample(50, seed=1) == WORLD.sample(50, seed=1) != WORLD.sample(50, seed=2)


@given(n=st.integers(1, 40), seed=st.integers(0, 2**63))
@settings(max_examples=30, deadline=None)
def test_sample_and_sample_ids_give_the_same_sentences(n, seed):
    tokenizer = WORLD.tokenizer()
    ids, mask = WORLD.sample_ids(n, seed)
    assert ids.shape == mask.shape == (n, MAX_WORDS + 2) and (ids.dtype, mask.dtype) == (torch.int64, torch.bool)
    texts = [sentence.text for sentence in WORLD.sample(n, seed)]
    assert [row[real].tolist() for row, real in zip(ids, mask, strict=True)] == tokenizer.encode_batch(texts)
    assert (ids[~mask] == tokenizer.pad_id).all() and (ids[mask] != tokenizer.pad_id).all()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_parsing_a_sampled_sentence_gives_back_all_that_is_known_of_it(seed):
    for sentence in WORLD.sample(5, seed):
        assert WORLD.parse(sentence.text) == sentence and len(sentence.words) <= MAX_WORDS


def test_all_words_of_a_sentence_that_have_a_topic_have_the_same():
    topic_of = {}
    for name, topic in RAW["topics"].items():
        entries = itertools.chain(*(topic[part] for part in ("group_a", "group_b", "things", "verbs")))
        topic_of |= dict.fromkeys([*topic["places"], *(word for entry in entries for word in entry.values())], name)
    for sentence in WORLD.sample(2000, seed=0):
        assert len({topic_of[word] for word in sentence.words if word in topic_of}) == 1


def test_nobody_acts_on_themself():
    assert all(sentence.meaning.who != sentence.meaning.whom for sentence in WORLD.sample(2000, seed=0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the cook praise the waiters", "word 3: 'praise' does not fit after 'the cook'; expected: praises"),
        ("the cook near the ovens praise the waiters", "word 6: 'praise' does not fit"),
        ("the waiters is praised by the cook", "word 3: 'is' does not fit"),
        ("it is the cooks that praises the waiter", "word 6: 'praises' does not fit"),
        ("the cook praises the judge in the kitchen", "word 5: 'judge' does not fit after 'the cook praises the'"),
        ("the cook praises the waiters because she smiled", "word 7: 'she' does not fit .* expected: they"),
        ("the cook tickles the waiters", "word 3: 'tickles' does not fit .no word of this language."),
        ("the cook praises the waiters", "word 6: the sentence ends too early after .* expected: in, because"),
        (COURSE_SENTENCE + " today", "word 12: 'today' does not fit .* expected: the end"),
        ("", "word 1: the sentence ends too early"),
    ],
)
def test_a_sentence_outside_the_language_is_told_which_word_does_not_fit(text, message):
    with pytest.raises(ValueError, match=message):
        WORLD.parse(text)
    assert not is_possible(text)


# Agreement, pronouns, paraphrases, roles.


def read(words):
    """(subject, agreeing number, who, whom) of a sentence, found by its construction alone, as a person reads it."""
    people = [t for t, word in enumerate(words) if number_of(word, PEOPLE)]
    behind_near = [t for t in people if words[t - 2] == "near"]
    people = [t for t in people if t not in behind_near]
    one, two = (words[t] for t in people)
    if "by" in words:
        return one, number_of(words[words.index("by") - 2], {"singular": {"is"}, "plural": {"are"}}), two, one
    verb = next(number_of(word, VERBS) for word in words if number_of(word, VERBS))
    if words[:2] == ("it", "is") and words[4:6] == ("that", "the"):
        return two, verb, two, one
    return one, verb, one, two


def test_the_verb_agrees_with_its_subject_in_every_construction():
    crossed = Counter()
    for sentence in WORLD.sample(4000, seed=0):
        subject, agreeing, who, whom = read(sentence.words)
        assert agreeing == number_of(subject, PEOPLE) == sentence.subject_number
        assert (who, whom) == tuple(sentence.words[sentence.position(slot)] for slot in ("who", "whom"))
        frame = WORLD.frames[sentence.frame]
        crossed[sentence.construction] += frame.attractor not in ("none", number_of(subject, PEOPLE))
    assert set(crossed) == CONSTRUCTIONS and min(crossed.values()) > 50


CONSTRUCTIONS = {"active", "passive", "cleft", "object cleft", "fronted active", "fronted passive"}


def test_every_question_has_one_right_answer():
    for make in (WORLD.agreement_test, WORLD.pronoun_test, WORLD.topic_test):
        for question in make(300, seed=0):
            assert question.sentence.words[question.position] == question.right != question.wrong
            assert is_possible(with_word(question.sentence, question.position, question.right))
            assert not is_possible(with_word(question.sentence, question.position, question.wrong))


def test_right_and_wrong_of_an_agreement_question_are_two_forms_of_one_word():
    pairs = {frozenset((verb["singular"], verb["plural"])) for t in RAW["topics"].values() for verb in t["verbs"]}
    questions = WORLD.agreement_test(1000, seed=0)
    assert {frozenset((q.right, q.wrong)) for q in questions} == pairs | {frozenset(("is", "are"))}


def test_an_agreement_question_misleads_where_a_noun_before_the_gap_has_the_other_number():
    nouns = {number: PEOPLE[number] | forms("things", number) for number in ("singular", "plural")}
    nouns["singular"] |= {place for topic in RAW["topics"].values() for place in topic["places"]}
    questions = WORLD.agreement_test(1000, seed=0)
    for question in questions:
        before = question.sentence.words[: question.position]
        seen = {number_of(word, nouns) for word in before} - {None}
        assert question.misleading == (seen == {"singular", "plural"})
    share = np.mean([question.misleading for question in questions])
    assert 0.4 < share < 0.6
    kinds = Counter((q.sentence.construction, q.sentence.attractor) for q in questions if q.misleading)
    assert len(kinds) >= 11 and {construction for construction, _ in kinds} == CONSTRUCTIONS


@pytest.mark.parametrize(
    ("text", "construction", "attractor"),
    [
        (COURSE_SENTENCE, "active", "thing"),
        ("near the guests the cook is praised by the waiters because she lied", "fronted passive", "person"),
        ("in the kitchen the cook near the guests praises the waiters", "fronted active", "person"),
        ("it is the waiters that the cook near the oven praises in the kitchen", "object cleft", "thing"),
        ("it is the cook that praises the waiters in the kitchen", "cleft", "none"),
    ],
)
def test_a_sentence_tells_its_construction_and_its_attractor(text, construction, attractor):
    sentence = WORLD.parse(text)
    assert (sentence.construction, sentence.attractor) == (construction, attractor)


# No rule finds the subject without grammar.

WORDS_OF_A_NOUN = {word for number in PEOPLE for word in PEOPLE[number] | forms("things", number)} | {
    place for topic in RAW["topics"].values() for place in topic["places"]
}


def rule_by_rule(sentences):
    """The rules of `shortcuts`, written out once more on the words: rule -> how often it finds the subject."""
    everybody = PEOPLE["singular"] | PEOPLE["plural"]
    acts = VERBS["singular"] | VERBS["plural"]
    found, places = Counter(), {name: Counter() for name in ("one", "length", "first")}
    for sentence in sentences:
        words = sentence.words
        subject = sentence.position(sentence.subject)
        verb = words.index("by") - 2 if "by" in words else next(t for t, word in enumerate(words) if word in acts)
        nouns = [t for t, word in enumerate(words) if word in WORDS_OF_A_NOUN]
        people = [t for t in nouns if words[t] in everybody]
        found["the first noun"] += nouns[0] == subject
        found["the last noun before the verb"] += max(t for t in nouns if t < verb) == subject
        found["the noun nearest to the verb"] += min(nouns, key=lambda t: (abs(t - verb), t)) == subject
        found["the first person"] += people[0] == subject
        found["the last person before the verb"] += max(t for t in people if t < verb) == subject
        found["the person nearest to the verb"] += min(people, key=lambda t: (abs(t - verb), t)) == subject
        for name, key in (("one", None), ("length", len(words)), ("first", words[0])):
            places[name][key, subject] += 1
    for name, rule in (
        ("one", "always one place"),
        ("length", "the commonest place for the sentence's length"),
        ("first", "the commonest place for the first word"),
    ):
        best = Counter()
        for (key, _), count in places[name].items():
            best[key] = max(best[key], count)
        found[rule] = best.total()
    return {rule: count / len(sentences) for rule, count in found.items()}


def test_no_rule_without_grammar_finds_the_subject_in_more_than_three_quarters_of_the_sentences():
    shares = WORLD.shortcuts()
    assert len(shares) == 9 and max(shares.values()) <= 0.75
    counted = rule_by_rule(WORLD.sample(20_000, seed=5))
    assert counted.keys() == shares.keys()
    for rule, share in shares.items():  # 5 standard errors of 0.0035: false alarms 1 in 200,000
        assert abs(counted[rule] - share) < 0.018, rule


def test_a_grammar_with_a_shortcut_gets_a_warning_with_the_rules_name(tmp_path):
    changes = [('probability = 0.27\ntext = "it is the {whom}', 'probability = 0.0\ntext = "it is the {whom}')]
    changes.append(('probability = 0.27\ntext = "it is the {who} ', 'probability = 0.54\ntext = "it is the {who} '))
    with pytest.warns(UserWarning) as warned:
        world = ToyWorld(edited(tmp_path, *changes))
    said = [str(warning.message) for warning in warned]
    assert any(
        "mine.toml: the rule 'the commonest place for the first word' finds the subject in 1.00" in s for s in said
    )
    assert world.shortcuts()["the commonest place for the first word"] == pytest.approx(1)
    assert world.shortcuts()["the first noun"] > 0.75


# Constructions that the language never says.


def test_held_out_sentences_are_outside_the_language_and_have_its_words():
    held_out = ToyWorld(held_out=True)
    assert held_out.words == WORLD.words
    sentences = held_out.sample(500, seed=0)
    assert {s.construction for s in sentences} == {"fronted late cleft", "stranded passive"}
    assert not any(is_possible(sentence.text) for sentence in sentences)
    assert all(held_out.parse(s.text) == s for s in sentences)
    torch.testing.assert_close(held_out.frame_probabilities.sum().item(), 1.0)
    assert held_out.lengths.max() <= WORLD.lengths.max()


def test_held_out_questions_have_one_right_answer():
    held_out = ToyWorld(held_out=True)
    for question in held_out.agreement_test(300, seed=0):
        sentence, gap = question.sentence, question.position
        assert held_out.log_probability([with_word(sentence, gap, question.right)]).item() > -math.inf
        assert held_out.log_probability([with_word(sentence, gap, question.wrong)]).item() == -math.inf


def test_a_grammar_without_held_out_templates_says_so(tmp_path):
    text = SHIPPED[SHIPPED.index("[held_out.late_cleft]") : SHIPPED.index("[pieces]")]
    path = edited(tmp_path, (text, ""))
    assert ToyWorld(path).words == WORLD.words
    with pytest.raises(ValueError, match=r"no held-out template: write one under \[held_out.name\]"):
        ToyWorld(path, held_out=True)


def test_the_rest_of_the_sentence_leaves_only_one_pronoun():
    for question in WORLD.pronoun_test(100, seed=0):
        texts = [with_word(question.sentence, question.position, word) for word in WORLD.words]
        joint = WORLD.log_probability(texts)
        assert [WORLD.words[v] for v in (joint > -math.inf).nonzero().flatten()] == [question.right]


def test_the_pronoun_has_the_number_of_the_one_acted_upon():
    for question in WORLD.pronoun_test(500, seed=0):
        _, _, who, whom = read(question.sentence.words)
        assert question.right == {"singular": "she", "plural": "they"}[number_of(whom, PEOPLE)]
        assert question.misleading == (number_of(who, PEOPLE) != number_of(whom, PEOPLE))


def test_the_wrong_word_of_a_topic_question_would_be_right_in_another_topic():
    for question in WORLD.topic_test(300, seed=0):
        frame = WORLD.frames[question.sentence.frame]
        possible = [
            WORLD.emissions[f, question.position]
            for f, g in enumerate(WORLD.frames)
            if g[0] == frame[0] and g[2:] == frame[2:]
        ]
        assert sum(row[WORLD.words.index(question.wrong)] > 0 for row in possible) == 1


def test_a_paraphrase_says_the_same_in_another_template():
    cook = WORLD.parse("the cook praises the waiters in the kitchen")
    assert [other.text for other in WORLD.paraphrases(cook)] == [
        "the waiters are praised by the cook in the kitchen",
        "it is the cook that praises the waiters in the kitchen",
        "it is the waiters that the cook praises in the kitchen",
    ]
    assert WORLD.paraphrases(WORLD.parse("the cooks praise the waiter because she smiled"))[1].text == (
        "it is the cooks that praise the waiter because she smiled"
    )
    for sentence in WORLD.sample(500, seed=0):
        others = WORLD.paraphrases(sentence)
        assert len({WORLD.frames[other.frame].template for other in [sentence, *others]}) == 4
        assert {other.meaning for other in others} == {sentence.meaning}
        ends = [tuple(s.words[s.slots.index(slot)] for slot in ("place", "reason") if slot in s.slots) for s in others]
        slots = [slot for slot in ("place", "reason") if slot in sentence.slots]
        assert {*ends} == {tuple(sentence.words[sentence.slots.index(slot)] for slot in slots)}
        assert all(WORLD.parse(other.text) == other for other in others)


def test_an_attractor_stays_with_its_person():
    texts = [other.text for other in WORLD.paraphrases(WORLD.parse(COURSE_SENTENCE))]
    assert texts == [
        "the waiters are praised by the cook in the kitchen",
        "it is the cook near the ovens that praises the waiters in the kitchen",
        "it is the waiters that the cook near the ovens praises in the kitchen",
    ]


@pytest.mark.parametrize(
    ("text", "others"),
    [
        (
            "near the ovens the cook praises the waiters in the kitchen",
            [
                "near the ovens the waiters are praised by the cook in the kitchen",
                "it is the cook that praises the waiters in the kitchen",
                "it is the waiters that the cook praises in the kitchen",
            ],
        ),
        (
            "in the kitchen the waiters near the ovens are praised by the cook",
            [
                "in the kitchen the cook praises the waiters",
                "it is the cook that praises the waiters in the kitchen",
                "it is the waiters that the cook praises in the kitchen",
            ],
        ),
    ],
)
def test_what_stands_in_front_stays_there_or_goes_where_the_template_has_room(text, others):
    assert [other.text for other in WORLD.paraphrases(WORLD.parse(text))] == others


def test_swapping_roles_exchanges_who_and_whom_and_mends_agreement():
    for text, swapped in (
        (COURSE_SENTENCE, "the waiters near the ovens praise the cook in the kitchen"),
        ("the cook praises the waiters because they smiled", "the waiters praise the cook because she smiled"),
    ):
        assert WORLD.swap_roles(WORLD.parse(text)).text == swapped
    for sentence in WORLD.sample(500, seed=0):
        swapped = WORLD.swap_roles(sentence)
        before, after = sentence.meaning, swapped.meaning
        assert after == (before.whom, before.whom_number, before.action, before.who, before.who_number)
        assert WORLD.parse(swapped.text) == swapped and WORLD.swap_roles(swapped) == sentence


def test_swapping_roles_keeps_the_probability():
    sentences = WORLD.sample(500, seed=0)
    before = WORLD.log_probability([sentence.text for sentence in sentences])
    after = WORLD.log_probability([WORLD.swap_roles(sentence).text for sentence in sentences])
    torch.testing.assert_close(before, after, rtol=0, atol=1e-12)


def test_no_bag_of_words_can_answer_the_role_swap_test():
    templates = set()
    for item in WORLD.role_swap_test(500, seed=0):
        assert Counter(item.paraphrase.words) == Counter(item.swapped.words) and item.paraphrase != item.swapped
        assert item.paraphrase.meaning == item.sentence.meaning != item.swapped.meaning
        frames = [WORLD.frames[sentence.frame].template for sentence in (item.sentence, item.paraphrase, item.swapped)]
        assert frames[0] != frames[1] == frames[2]
        templates.add(tuple(frames))
    assert len(templates) == 12  # every pair of templates


MAKERS = ("sample", "sample_ids", "agreement_test", "pronoun_test", "topic_test", "role_swap_test")


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("n", "seed", "error", "message"),
    [
        (0, 0, ValueError, "n is 0; it must be at least 1"),
        (5, -1, ValueError, "seed is -1; it must be at least 0"),
        (2.5, 0, TypeError, "n must be a whole number, not 2.5"),
        (5, None, TypeError, "seed must be a whole number, not None"),
        (True, 0, TypeError, "n must be a whole number, not True"),
    ],
)
def test_a_senseless_number_or_seed_is_refused(name, n, seed, error, message):
    with pytest.raises(error, match=re.escape(message)):
        getattr(WORLD, name)(n, seed)


def test_numpys_whole_numbers_are_whole_numbers():
    for name in MAKERS:
        assert len(getattr(WORLD, name)(np.int64(2), np.int64(3))) == 2


def test_a_test_set_repeats_no_training_batch_of_its_seed():
    trained = [sentence.words for sentence in WORLD.sample(20, seed=7)]
    tested = [[q.sentence.words for q in make(20, seed=7)] for make in (WORLD.agreement_test, WORLD.topic_test)]
    assert trained not in tested and tested[0] != tested[1]


# A teacher's edits.


def edited(tmp_path, *changes):
    text = SHIPPED
    for old, new in changes:
        assert old in text, f"the shipped grammar no longer has {old!r}"
        text = text.replace(old, new, 1)
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


COOK = '{ singular = "cook", plural = "cooks" }'
PRAISE = '{ singular = "praises", plural = "praise", participle = "praised" }'
CLEFT = 'text = "it is the {who} {near} that {verb} the {whom} {end}"'


@pytest.mark.parametrize(
    ("old", "new", "key", "complaint"),
    [
        ("[words]", "[words", "", "not valid TOML"),
        ('be = { singular = "is", plural = "are" }', "", "words.be", "is missing; expected: be, pronoun, reasons"),
        ("[pieces]", 'colour = "red"\n[pieces]', "held_out.stranded_passive.colour", "is not a key of a"),
        (PRAISE, PRAISE.replace("participle", "participel"), "topics.kitchen.verbs[0].participle", "is missing"),
        (PRAISE, '"praises"', "topics.kitchen.verbs[0]", "must be a table with singular, plural, participle"),
        ('places = ["kitchen", "cellar"]', "places = []", "topics.kitchen.places", "list with at least one entry"),
        ('["kitchen", "cellar"]', '"kitchen"', "topics.kitchen.places", "must be a list with at least one entry"),
        ('"cellar"', '"wine cellar"', "topics.kitchen.places[1]", "a word, letters in lower case without a space"),
        ('"smiled"', '"Smiled"', "words.reasons[0]", "a word, letters in lower case without a space"),
        ('"smiled"', '"[MASK]"', "words.reasons[0]", "a word, letters in lower case without a space"),
        ('"smiled"', '""', "words.reasons[0]", "a word, letters in lower case without a space"),
        ('"smiled"', "7", "words.reasons[0]", "has 7; expected: a word"),
        (COOK, COOK.replace("cooks", "cook"), "topics.kitchen.group_a[0].plural", "group_a[0].singular` has already"),
        ('"praises"', '"cooks"', "topics.kitchen.verbs[0].singular", "`topics.kitchen.group_a[0].plural` has already"),
        ('"cellar"', '"near"', "pieces.near", "`topics.kitchen.places[1]` has already"),
        ('plural = "they"', 'plural = "she"', "words.pronoun.plural", "`words.pronoun.singular` has already"),
        ("none = 0.3,", "none = 0.4,", "probabilities.attractor.none", "must sum to 1; their sum is 1.1"),
        ("none = 0.3,", "none = -0.4,", "probabilities.attractor.none", "a number from 0 to 1, not -0.4"),
        ("none = 0.3,", "none = nan,", "probabilities.attractor.none", "a number from 0 to 1, not nan"),
        ("none = 0.3,", "none = true,", "probabilities.attractor.none", "a number from 0 to 1, not True"),
        ("none = 0.3,", 'none = "often",', "probabilities.attractor.none", "a number from 0 to 1, not 'often'"),
        ("probability = 0.26", "probability = 0.06", "templates.active.probability", "must sum to 1; their sum is 0.8"),
        (CLEFT, CLEFT.replace("{whom}", "{whome}"), "templates.cleft.text", "has the unknown slot {whome}"),
        (CLEFT, CLEFT.replace("{verb}", "{be}"), "templates.cleft.text", "each of these slots once"),
        (CLEFT, "text = 5", "templates.cleft.text", "must be a text with each of these slots once"),
        (CLEFT, CLEFT.replace("{end}", "{end}."), "templates.cleft.text", "each of these slots once"),
        (CLEFT, CLEFT.replace("{near} that", "that {near}"), "templates.cleft.text", "{near} right behind its subject"),
        (CLEFT, CLEFT.replace("it is", "it is often"), "templates.cleft.text", "up to 15 words; expected: at most 14"),
        (CLEFT, CLEFT.replace("it is the", "the cook"), "templates.cleft.text", "has already"),
        (CLEFT, CLEFT.replace("it is ", "").replace("that ", ""), "templates.cleft.text", "with two meanings"),
        ("front = { attractor = 0.5", "front = { attractor = 1.5", "probabilities.front.attractor", "not 1.5"),
        ("[held_out.late_cleft]", "[held_out.cleft]", "held_out.cleft", "has the name of a template"),
        ("{front} it is", "it {front} is", "held_out.late_cleft.text", "{front} first if it has one"),
        (CLEFT, CLEFT.replace("{end}", "{near} {end}"), "templates.cleft.text", "each of these slots once"),
        ('"in the {place}"', '"in the kitchen"', "pieces.place", "each of these slots once: {place}"),
    ],
)  # fmt: skip
def test_a_wrong_edit_is_told_the_file_the_key_and_what_is_wrong(tmp_path, old, new, key, complaint):
    path = edited(tmp_path, (old, new))
    with pytest.raises(ValueError) as caught:
        ToyWorld(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and complaint in message
    assert f"`{key}`" in message if key else "line" in message


@pytest.mark.parametrize(
    ("content", "error", "complaint"),
    [
        (SHIPPED[: SHIPPED.index("[topics.farm]")], ValueError, "`topics` has 1 topic; there must be at least 2"),
        (
            SHIPPED[: SHIPPED.index("[topics.kitchen]")] + "[topics]",
            ValueError,
            "`topics` must be a table with at least",
        ),
        (
            "[words]\nreasons = ['café']".encode("latin-1"),
            ValueError,
            "byte 0xe9 in line 2 (number 23 of the file, from 0). Save the file as UTF-8.",
        ),
        (None, FileNotFoundError, "there is no grammar file"),
    ],
)
def test_a_file_that_is_no_grammar_is_refused(tmp_path, content, error, complaint):
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error, match=re.escape(complaint)) as caught:
        ToyWorld(path)
    assert str(path) in str(caught.value)


HINDI = ["रसोई", "तहख़ाना", "अदालत-कक्ष", "می\u200cرود"]  # vowel signs, a dot below, a hyphen, an inner joiner


@pytest.mark.parametrize("word", [*HINDI, "cafe\u0301"])
def test_letters_with_marks_are_words(tmp_path, word):
    world = ToyWorld(edited(tmp_path, ('"cellar"', f'"{word}"')))
    found = [s for s in world.sample(3000, seed=0) if word in s.words]
    assert found and all(world.parse(s.text) == s for s in found)
    assert world.tokenizer().decode(world.tokenizer().encode(found[0].text)) == found[0].text


@pytest.mark.parametrize("word", ["\u0301e", "e-\u0301e", "a\u200c", "\u0301", "e\u0301 e", "1\u0301"])
def test_a_mark_without_its_letter_is_no_word(tmp_path, word):
    with pytest.raises(ValueError, match=r"topics\.kitchen\.places\[1\]` has .* expected: a word"):
        ToyWorld(edited(tmp_path, ('"cellar"', f'"{word}"')))


def test_a_byte_order_mark_before_the_grammar_is_dropped(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("\ufeff" + SHIPPED, encoding="utf-8")
    assert ToyWorld(path).words == WORLD.words


def test_a_held_out_template_with_a_word_of_its_own_is_refused(tmp_path):
    path = edited(tmp_path, ("{participle} by {end}", "{participle} often by {end}"))
    with pytest.raises(ValueError, match="a held-out template has 'often', which no sentence of the language has"):
        ToyWorld(path, held_out=True)


def test_a_word_of_any_alphabet_may_be_added(tmp_path):
    world = ToyWorld(edited(tmp_path, ('"smiled"', '"смеялась", "l\'été-là"')))
    assert world.parse("the cook praises the waiter because she смеялась").words[-1] == "смеялась"


def test_what_has_probability_zero_is_not_in_the_language(tmp_path):
    world = ToyWorld(edited(tmp_path, ("place = 0.55, pronoun = 0.45", "place = 1.0, pronoun = 0")))
    assert len(world.frames) == 1056 and "because" not in world.words
    with pytest.raises(ValueError, match="has no sentences of the kind that this test needs"):
        world.pronoun_test(1, seed=0)


def test_without_a_frame_that_drops_the_attractor_only_the_same_subject_is_a_paraphrase(tmp_path):
    changes = ("none = 0.3, singular = 0.35, plural = 0.35", "none = 0, singular = 0.5, plural = 0.5")
    world = ToyWorld(edited(tmp_path, changes))
    templates = [world.frames[other.frame].template for other in world.paraphrases(world.parse(COURSE_SENTENCE))]
    assert templates == ["cleft", "object_cleft"]
