"""The checks: right answers pass however they are written, and each usual mistake is named, by its own message."""

import dataclasses
import re
import statistics
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from exercises import ALL

from nextbert_lite.checks import core, lesson_03, lesson_06, lesson_07, lesson_08, lesson_09, lesson_11
from nextbert_lite.checks.core import Build, CheckFailed, Exercise, Fault, Mistake, Prediction, Stage

OTHER_SEEDS, FURTHER_SEEDS = (11, 12, 13), (101, 202, 303)  # than those of the checks

# Each id begins with its lesson, so that `-k lesson02` selects the tests of lesson 02 and no others.
EACH = [pytest.param(e, id=f"lesson{e.id}") for e in ALL.values()]
EXERCISES = [param for param in EACH if isinstance(param.values[0], Exercise)]
BUILDS = [param for param in EACH if isinstance(param.values[0], Build)]
PREDICTIONS = [param for param in EACH if isinstance(param.values[0], Prediction)]
MISTAKES = [pytest.param(e, m, id=f"lesson{e.id}-{m.name}") for e in ALL.values() for m in e.mistakes]


def test_an_id_begins_with_its_lesson(request):
    for test in request.session.items:
        if test.path.name.startswith(Path(__file__).stem) and hasattr(test, "callspec"):
            assert re.match(r"lesson\d\d\.\d", test.callspec.id), test.name


@pytest.mark.parametrize("exercise", [*EXERCISES, *BUILDS])
def test_the_right_answer_passes(exercise, capsys):
    exercise(exercise.course if isinstance(exercise, Build) else exercise.right)
    assert f"✓ {exercise.id} is right" in capsys.readouterr().out


@pytest.mark.parametrize("exercise", [*EXERCISES, *BUILDS])
def test_right_answers_written_differently_pass(exercise, capsys):
    assert exercise.other_ways, f"exercise {exercise.id} lacks `other_ways`: write its right answer in another way."
    for answer in exercise.other_ways:
        exercise(answer)
        assert "is right" in capsys.readouterr().out


def named_by_its_message(exercise, mistake):
    with pytest.raises(CheckFailed) as failure:
        exercise(mistake.wrong)
    said = str(failure.value)
    if isinstance(exercise, Build):
        said = re.sub(rf"^({exercise.id}: )stage \d of \d+, [^:]+: ", r"\1", said)
    return said == f"{exercise.id}: {mistake.message}"


def run_once(run):
    """Return a `Build.run` that computes nothing twice: here the answer is one of the mistakes itself."""

    def kept(build, stage, answer, seed):
        if (stage, answer, seed) not in core._known:
            core._known[stage, answer, seed] = run(build, stage, answer, seed)
        return core._known[stage, answer, seed]

    return kept


@pytest.mark.parametrize("exercise, mistake", MISTAKES)
def test_each_mistake_gets_its_own_message(exercise, mistake, monkeypatch):
    assert named_by_its_message(exercise, mistake)
    monkeypatch.setattr(core, "SEEDS", OTHER_SEEDS)
    monkeypatch.setattr(Build, "run", run_once(Build.run))
    assert named_by_its_message(exercise, mistake), "only with the seeds of the check"


@pytest.mark.slow
@pytest.mark.parametrize("exercise, mistake", MISTAKES)
def test_each_mistake_gets_its_own_message_with_further_seeds(exercise, mistake, monkeypatch):
    monkeypatch.setattr(core, "SEEDS", FURTHER_SEEDS)
    assert named_by_its_message(exercise, mistake)


@pytest.mark.parametrize("exercise", EACH)
def test_messages_differ_and_each_mistake_states_its_source(exercise):
    messages = [m.message for m in exercise.mistakes]
    assert len(set(messages)) == len(messages) >= 1
    assert all(len(m.source) > 10 and len(m.message) > 30 for m in exercise.mistakes)
    assert exercise.hints and exercise.praise


@pytest.mark.parametrize("exercise", EXERCISES)
def test_a_blank_is_told_so_and_fails_only_when_graded(exercise, capsys, monkeypatch):
    def empty(*arguments):
        """A docstring may stand here."""
        ...

    def not_implemented(*arguments):
        raise NotImplementedError

    for blank in (empty, not_implemented):
        monkeypatch.delenv("NEXTBERT_GRADE", raising=False)
        exercise(blank)
        assert f"○ {exercise.id} is still blank" in capsys.readouterr().out
        monkeypatch.setenv("NEXTBERT_GRADE", "1")
        with pytest.raises(CheckFailed, match="blank"):
            exercise(blank)


@pytest.mark.parametrize("exercise", PREDICTIONS)
def test_a_prediction_passes_is_named_wrong_or_is_blank(exercise, capsys, monkeypatch):
    exercise(exercise.right)
    assert "is right" in capsys.readouterr().out
    exercise(None)
    assert "still blank" in capsys.readouterr().out
    with pytest.raises(CheckFailed, match="is not it"):
        exercise((1, 2, 3, 4) if isinstance(exercise.right, tuple) else -7.5)
    with pytest.raises(CheckFailed, match="The answer is of type"):
        exercise("six")
    monkeypatch.setenv("NEXTBERT_GRADE", "1")
    with pytest.raises(CheckFailed, match="blank"):
        exercise(None)


# --- what is not a named mistake is described -------------------------------------------------------------------------

DOUBLE = Exercise(
    id="99.1",
    right=lambda x: 2 * x,
    inputs=lambda generator: (torch.randn(2, 3, generator=generator),),
    mistakes=(Mistake("half", lambda x: x / 2, "that is half of it", "made for this test"),),
    hints=("Multiply.",),
    praise="Twice.",
)


def add_in_place(x):
    x += x.clone()
    return x


@pytest.mark.parametrize(
    "answer, words",
    [
        pytest.param(lambda x: 2 * x[0], r"the shape is \(3,\); expected \(2, 3\)", id="lesson99.1-a row is lost"),
        pytest.param(
            lambda x: (2 * x).double(),
            "the dtype is torch.float64; expected torch.float32",
            id="lesson99.1-another dtype",
        ),
        pytest.param(
            lambda x: torch.full_like(x, torch.nan), "6 of 6 values are not finite", id="lesson99.1-not finite"
        ),
        pytest.param(
            lambda x: 2 * x + 0.5 * (torch.arange(3) == 1),
            r"the largest difference is 0.5, at \(\d, 1\)",
            id="lesson99.1-wrong in a column",
        ),
        pytest.param(lambda x: [2 * x, x], "yours is a list of 2", id="lesson99.1-a list"),
        pytest.param(lambda x: x.missing, "raised AttributeError", id="lesson99.1-an error"),
        pytest.param(lambda x: print(end=""), "is a `return` missing", id="lesson99.1-no return"),
        pytest.param(add_in_place, "changes `x` in place", id="lesson99.1-in place"),
        pytest.param(7, "expects your function itself", id="lesson99.1-no function"),
    ],
)
def test_other_wrong_answers_are_described(answer, words):
    with pytest.raises(CheckFailed, match=words):
        DOUBLE(answer)


def test_an_answer_right_on_some_inputs_only_is_wrong():
    calls = []

    def right_at_first(x):
        calls.append(1)
        return 2 * x if len(calls) == 1 else x

    with pytest.raises(CheckFailed, match="largest difference"):
        DOUBLE(right_at_first)


# --- right results that are wrong all the same ------------------------------------------------------------------------


@pytest.mark.parametrize("exercise", EXERCISES)
def test_a_check_leaves_torchs_random_numbers_as_they_were(exercise, capsys):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    exercise(exercise.right)
    with pytest.raises(CheckFailed):
        exercise(lambda *arguments: torch.rand(2, 7))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("exercise", EXERCISES)
def test_the_right_answer_keeps_its_arguments_as_they_are(exercise):
    case = exercise.inputs(torch.Generator().manual_seed(0))
    assert core.changed_input(exercise.right, case) is None


# the others' sizes are drawn anew for each seed, or they have none
SIZES_DRAWN = {"02.4", "07.5", "08.1", "13.1"}


@pytest.mark.parametrize("exercise", EXERCISES)
def test_the_right_answer_is_tried_on_other_sizes_too(exercise):
    assert (exercise.also is None) == (exercise.id in SIZES_DRAWN)
    if exercise.also is not None:
        cases = [make(torch.Generator().manual_seed(0)) for make in (exercise.inputs, exercise.also)]
        assert repr(cases[0]) != repr(cases[1])


def pads_the_callers_lists(sequences, pad_id):
    lengths = torch.tensor([len(s) for s in sequences])
    for s in sequences:
        s += [pad_id] * (int(lengths.max()) - len(s))
    ids = torch.tensor(sequences)
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


def adds_the_type_to_the_callers_table(ids, tokens, positions, types, weight, bias):
    tokens += types[0]
    return ALL["14.3"].right(ids, tokens, positions, torch.zeros_like(types), weight, bias)


def cuts_the_callers_list(ids, start, n):
    del ids[start + 1 + n : -1], ids[1 : start + 1]
    return list(ids)


def zeroes_the_callers_features(joined, H, h, order):
    copies = ALL["06.5"].right(joined, H, h, order)
    joined.copy_(copies[0])
    return copies


def centres_the_callers_tensor(x, gain, bias, eps):
    x -= x.mean(-1, keepdim=True)
    return ALL["04.1"].right(x, gain, bias, eps)


@pytest.mark.parametrize(
    "id_, answer, words",
    [
        ("01.4", pads_the_callers_lists, "`sequences` in place: .* their list changed"),
        ("04.1", centres_the_callers_tensor, "`x` in place: .* their tensor changed"),
        ("06.5", zeroes_the_callers_features, r"`joined` in place: .* their tensor changed.*`x.clone\(\)`"),
        ("10.4", cuts_the_callers_list, "`ids` in place: .* their list changed"),
        ("14.3", adds_the_type_to_the_callers_table, "`tokens` in place: .* their tensor changed"),
    ],
    ids=lambda value: f"lesson{value}" if isinstance(value, str) and value[:2].isdigit() else "",
)
def test_an_argument_that_is_changed_in_place_is_named(id_, answer, words):
    with pytest.raises(CheckFailed, match=words):
        ALL[id_](answer)


FROM_THE_NOTEBOOK = {
    "02.3": "def f(q, k, v, m):\n    return (q @ k.mT / D**0.5).masked_fill(~m[:, None], -torch.inf).softmax(-1) @ v",
    "03.1": "def f(x, H):\n    return torch.stack([x[..., h * D : (h + 1) * D] for h in range(H)], 1)",
    "05.5": "def f(ids, draw, rate, most):\n    return right(ids, draw, share, most)",
    "09.4": "def f(S, temperature):\n    return right(S, temperature) * len(S) / D * 8 / 5",
    "10.4": "def f(ids, start, n):\n    return [2, *ids[1:-1][start : start + n5], 3]",
}


@pytest.mark.parametrize("id_, code", FROM_THE_NOTEBOOK.items(), ids=lambda value: f"lesson{value[:5]}")
def test_a_name_of_the_notebook_in_place_of_an_argument_is_named(id_, code):
    notebook = {"torch": torch, "D": 8, "C": 12, "share": 0.15, "n5": 5, "right": ALL[id_].right}
    exec(code, notebook)
    with pytest.raises(CheckFailed, match=r"Your function reads `(D|C|share|n5)` \(\d.*of the notebook.*the arguments"):
        ALL[id_](notebook["f"])


def test_a_number_that_fits_the_lessons_sizes_only_is_refused():
    with pytest.raises(
        CheckFailed, match=r"right on some inputs, but not for .*a number in your code that should come"
    ):
        ALL["02.3"](lambda q, k, v, m: (q @ k.mT / 8**0.5).masked_fill(~m[:, None], -torch.inf).softmax(-1) @ v)


def in_chunks(encode, order, size):
    vectors = torch.cat([encode(rows) for rows in order.split(size)])
    return vectors[order.argsort()]


def gumbel_draw(logits, seed, dtype, least=0.0):
    u = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).double()
    return (logits.double() - (-u.clamp(least, 1 - least).log()).log()).argmax(-1)


LIMITS = {
    "lesson07.4-a float": (
        "07.4",
        lambda *a: lesson_07.summed(*a).item(),
        r"\(float\), which has no gradient: return the tensor",
    ),
    "lesson07.4-detached": (
        "07.4",
        lambda w, y, p, n: lesson_07.summed(w.detach(), y, p, n),
        "no gradient reaches both heads",
    ),
    "lesson10.2-at once": (
        "10.2",
        lambda encode, lengths, size: encode(torch.arange(len(lengths))),
        "`encode` got 9 texts at once, where `size` is 4",
    ),
    "lesson10.2-one by one": (
        "10.2",
        lambda encode, lengths, size: in_chunks(encode, lengths.argsort(), 1),
        "`encode` was called 9 times; 9 texts, 4 at a time, are 3 chunks",
    ),
    "lesson10.2-not sorted": (
        "10.2",
        lambda encode, lengths, size: in_chunks(encode, torch.arange(len(lengths)), size),
        "not encoded in the order of their lengths",
    ),
    "lesson17.5-no generator": (
        "17.5",
        lambda logits, seed: torch.multinomial(logits.float().softmax(-1), 1)[:, 0],
        "the same seed gives other words each time",
    ),
    "lesson17.5-a seed of its own": (
        "17.5",
        lambda logits, seed: torch.multinomial(
            logits.float().softmax(-1), 1, generator=torch.Generator().manual_seed(7)
        )[:, 0],
        "another seed gives the same words",
    ),
    "lesson17.5-noise in float16": (
        "17.5",
        lambda logits, seed: gumbel_draw(logits, seed, torch.float16),
        "where 30,000 rare words share the half, word 0 comes in 100 %",
    ),
    "lesson17.5-noise cut off": (
        "17.5",
        lambda logits, seed: gumbel_draw(logits, seed, torch.float64, least=1e-3),
        "where 30,000 rare words share the half, word 0 comes in 100 %",
    ),
}


@pytest.mark.parametrize("id_, answer, words", LIMITS.values(), ids=LIMITS)
def test_a_limit_that_the_text_sets_is_looked_at(id_, answer, words):
    with pytest.raises(CheckFailed, match=f"^{id_}: the result is right, but .*{words}"):
        ALL[id_](answer)


# --- builds -----------------------------------------------------------------------------------------------------------


class Scaled(torch.nn.Module):
    """A build of this test: a linear layer, times a number."""

    def __init__(self, width, factor=2.0):
        super().__init__()
        self.factor, self.inner = factor, torch.nn.Linear(width, width)

    def forward(self, x):
        return self.factor * self.inner(x)


def scaled(answer, generator, width=3, **more):
    it = core.with_weights(answer(width, **more), Scaled(width), generator)
    return core.untouched(it, torch.randn(2, width, generator=generator))


def variant(**changes):
    return type("Scaled", (Scaled,), changes)


SCALED = Build(
    id="99.2",
    course=Scaled,
    stages=(
        Stage("values", scaled),
        Stage("another factor", lambda answer, generator: scaled(answer, generator, factor=3.0)),
        Stage(core.OTHER_SIZES, lambda answer, generator: scaled(answer, generator, width=5)),
    ),
    mistakes=(
        Mistake(
            "not scaled",
            variant(forward=lambda self, x: self.inner(x)),
            "the result is not multiplied by the factor.",
            "made for this test",
        ),
        Mistake(
            "twice",
            variant(forward=lambda self, x: 2 * self.inner(x)),
            "the factor is always two; it is an argument.",
            "made for this test",
        ),
    ),
    hints=("Multiply.",),
    praise="Scaled.",
)


def adds_to_its_argument(self, x):
    x += 1
    return self.factor * self.inner(x - 1)


def with_another_name(self, width, factor=2.0):
    torch.nn.Module.__init__(self)
    self.factor, self.linear = factor, torch.nn.Linear(width, width)


def with_another_shape(self, width, factor=2.0):
    torch.nn.Module.__init__(self)
    self.factor, self.inner = factor, torch.nn.Linear(width, width + 1)


NOT_QUITE = {
    "named": (variant(forward=lambda self, x: self.inner(x)), "stage 1 of 3, values: the result is not multiplied"),
    "named later": (
        variant(forward=lambda self, x: 2 * self.inner(x)),
        "stage 2 of 3, another factor: the factor is always two",
    ),
    "a column": (
        variant(forward=lambda self, x: self.factor * self.inner(x) + (torch.arange(x.shape[1]) == 1)),
        "stage 1 of 3, values: 66.67 % of the values agree: the largest difference is 1",
    ),
    "in place": (variant(forward=adds_to_its_argument), "values: `x` is changed in place"),
    "another name": (variant(__init__=with_another_name), "lacks inner.weight, inner.bias and has also linear.weight"),
    "another shape": (variant(__init__=with_another_shape), r"inner.weight has the shape \(4, 3\); expected \(3, 3\)"),
    "an error": (variant(forward=lambda self, x: self.gone(x)), "values: your code raised AttributeError"),
    "no super": (
        variant(__init__=lambda self, width, factor=2.0: setattr(self, "inner", torch.nn.Linear(width, width))),
        r"values: your code raised AttributeError: .*Begin `__init__` with `super\(\).__init__\(\)`, before",
    ),
    "no module": (lambda width, factor=2.0: 7, r"expected an nn.Module; this is 7 \(int\)"),
    "no class": (torch.zeros(3), "expected Scaled; this is a tensor of shape"),
}


@pytest.mark.parametrize("answer, words", NOT_QUITE.values(), ids=[f"lesson99.2-{name}" for name in NOT_QUITE])
def test_a_build_says_its_stage_and_how_much_agrees(answer, words):
    with pytest.raises(CheckFailed, match=f"^99.2: .*{words}"):
        SCALED(answer)


def test_a_build_that_reads_the_notebooks_numbers_is_told_which():
    notebook = {"torch": torch, "width": 3, "Scaled": Scaled}
    forward = "def forward(self, x):\n        return self.factor * self.inner(x) * (x.shape[1] / width)"
    exec(f"class Mine(Scaled):\n    {forward}", notebook)
    with pytest.raises(CheckFailed, match=r"other sizes: .*reads `width` \(3\) of the notebook"):
        SCALED(notebook["Mine"])


def sum_and_ranges(answer, generator):
    x = torch.randn(3, 4, generator=generator)
    return answer(x), (answer(x[:, :3]), answer(x[:, :2]))


def sums(x):
    return x.sum(-1)


TWICE_WRONG = Build(
    id="99.3",
    course=sums,
    stages=(Stage("sums", sum_and_ranges),),
    mistakes=(
        Mistake("means", lambda x: x.mean(-1), "you divide by the width.", "made for this test"),
        Mistake("sizes", lambda x: x.abs().sum(-1), "you add up the sizes.", "made for this test"),
        Mistake("never below", lambda x: x.sum(-1).clamp(min=0), "you cut off what is negative.", "made for this test"),
    ),
    hints=("Sum.",),
    praise="Summed.",
)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: x.mean(-1) if x.shape[1] == 4 else x[:, 0], "99.3: stage 1 of 1, sums: you divide"),
        (lambda x: x.prod(-1), "99.3: stage 1 of 1, sums: 0.00 % of the values agree"),
    ],
    ids=["lesson99.3-a second mistake behind the first", "lesson99.3-another mistake"],
)
def test_a_mistake_is_named_by_the_first_wrong_result_of_its_stage(answer, words):
    with pytest.raises(CheckFailed) as caught:
        TWICE_WRONG(answer)
    assert str(caught.value).startswith(words)


BLANKS = """
class OnlySuper(torch.nn.Module):
    def __init__(self, width, factor=2.0):
        super().__init__()
        pass  # your code here

    def forward(self, x):
        'x: (B, C) -> (B, C)'
        pass  # your code here

class ForwardAlone(torch.nn.Module):
    def forward(self, x):
        pass

def function(width, factor=2.0):
    pass  # your code here

def raises(width, factor=2.0):
    raise NotImplementedError
"""


@pytest.mark.parametrize(
    "name", ["OnlySuper", "ForwardAlone", "function", "raises"], ids=lambda name: f"lesson99.2-{name}"
)
def test_a_blank_build_is_told_so_and_fails_only_when_graded(name, capsys, monkeypatch):
    exec(BLANKS, names := {"torch": torch})
    SCALED(names[name])
    out = capsys.readouterr().out
    assert "○ 99.2 is still blank" in out and "what comes next runs on the course's own" in out
    monkeypatch.setenv("NEXTBERT_GRADE", "1")
    with pytest.raises(CheckFailed, match="blank"):
        SCALED(names[name])


def test_a_function_that_returns_a_constant_is_no_blank():
    assert not core.nothing_written(lambda: 3) and core.nothing_written(lambda: None)


def test_the_lesson_goes_on_with_the_learners_own_build_once_it_passes(capsys, monkeypatch):
    monkeypatch.setattr(core, "find", lambda name: SCALED)
    exec(BLANKS, names := {"torch": torch})
    right, wrong = variant(), variant(forward=lambda self, x: self.inner(x))
    for answer, gives, words in (
        (right, right, "Scaled: yours, from here on."),
        (wrong, Scaled, "Scaled: the course's, because yours does not pass 99.2 yet."),
        (names["OnlySuper"], Scaled, "Scaled: the course's, because yours is still blank."),
        (None, Scaled, "Scaled: the course's, because yours is still blank."),
        (7, Scaled, "Scaled: the course's, because yours does not pass 99.2 yet."),
        (Scaled, Scaled, "Scaled: the course's. To use yours, run its cell again before this one."),
    ):
        assert core.mine("99.2", answer) is gives
        assert capsys.readouterr().out == words + "\n"


def test_a_mistake_that_shows_at_an_earlier_stage_is_not_named_at_a_later_one():
    early = Mistake("early", variant(forward=lambda self, x: 0 * x), "all zeros from the start.", "made for this test")
    build = dataclasses.replace(SCALED, mistakes=(early, *SCALED.mistakes))
    later = variant(forward=lambda self, x: self.factor * self.inner(x) if self.factor == 2 else 0 * x)
    with pytest.raises(CheckFailed, match=r"another factor: 0\.00 % of the values agree"):
        build(later)


def test_an_attribute_is_no_name_of_the_notebook():
    notebook = {"torch": torch, "factor": 3, "Scaled": Scaled}
    exec(
        "class Mine(Scaled):\n    def forward(self, x):\n        return self.factor * self.inner(x) * 3 / len(x[0])",
        notebook,
    )
    with pytest.raises(CheckFailed, match="other sizes") as failure:
        SCALED(notebook["Mine"])
    assert "of the notebook" not in str(failure.value)


def test_what_is_no_build_has_no_version_of_ones_own():
    with pytest.raises(ValueError, match="is not a build"):
        core.mine("03.1", None)


def test_a_check_of_a_build_leaves_torchs_random_numbers_as_they_were(capsys):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    SCALED(Scaled)
    with pytest.raises(CheckFailed):
        SCALED(variant(forward=lambda self, x: torch.rand(7)))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("exercise", BUILDS)
def test_the_named_mistakes_of_a_build_show_at_three_stages_at_least(exercise):
    assert 4 <= len(exercise.stages) <= 9 and len({stage.name for stage in exercise.stages}) == len(exercise.stages)
    assert len(exercise.mistakes) >= 6
    found = set()
    for mistake in exercise.mistakes:
        found.add(next(n for n in range(len(exercise.stages)) if not exercise.passes(mistake.wrong, n + 1)))
        if len(found) == 3:
            return
    raise AssertionError(f"they show at {len(found)} stages")


@pytest.mark.parametrize("exercise", BUILDS)
def test_no_stage_of_a_build_fails_by_itself(exercise):
    for stage in exercise.stages:
        for seed in core.SEEDS:
            assert not isinstance(exercise.run(stage, exercise.course, seed), Exception | Fault), stage.name


# --- mistakes that a stage itself describes ---------------------------------------------------------------------------


def counting(**changes):
    return type("CountingModel", (lesson_08.CountingModel,), changes)


def made_for(V):
    return counting(fit=lambda self, texts: lesson_08.CountingModel.fit(vars(self).update(V=V) or self, texts))


def changed_after_fit(sums):
    """`frequencies` from the column sums by another formula."""

    def fit(self, texts):
        lesson_08.CountingModel.fit(self, texts)
        self.frequencies = sums(self.pairs)
        return self

    return counting(fit=fit)


def adds_to_the_pairs(self, before):
    self.pairs += self.k * self.frequencies
    return self.pairs[before] / self.pairs[before].sum(1, keepdim=True)


def scales_the_frequencies(self, before):
    self.frequencies *= self.k
    seen = self.pairs[before]
    return (seen + self.frequencies) / (seen.sum(1, keepdim=True) + self.k)


def stores_in_the_triples(self, before, after):
    found = lesson_08.CountingModel.probabilities(self, before, after)
    for key in zip(before.tolist(), after.tolist(), strict=True):
        self.triples[key][0] += 1
    return found


def changes_the_last_token(self, before):
    before.clamp_(max=self.V - 2)
    return lesson_08.CountingModel.left(self, before)


def one_dictionary(self, texts):
    lesson_08.CountingModel.fit(self, texts)
    self.triples = {(i, j, l): n for (i, l), counts in self.triples.items() for j, n in counts.items()}
    return self


def reads_the_first_token(self, texts):
    assert all(text[0] >= 0 for text in texts)
    return lesson_08.CountingModel.fit(self, texts)


def a_table_made_in_fit(self, texts):
    lesson_08.CountingModel.fit(self, texts)
    self.table = lesson_08.CountingModel.left(self, torch.arange(self.V))
    return self


def k3_by_another_name(self, V, k=100.0, k3=10.0):
    self.V, self.k, self.weight = V, k, k3


def with_that_weight(self, before, after):
    self.k3, now = self.weight, getattr(self, "k3", None)
    found = lesson_08.CountingModel.probabilities(self, before, after)
    self.k3 = now
    return found


def column_by_column(self, before):
    n = self.pairs[before].sum(1)
    columns = [(self.pairs[before, j] + self.k * self.frequencies[j]) / (n + self.k) for j in range(self.V)]
    return torch.stack(columns, 1)


def column_by_column_on_both_sides(self, before, after):
    product = self.left(before)
    for j in range(self.V):
        seen = self.pairs[j, after] + self.k * self.frequencies[after]
        product[:, j] = product[:, j] * seen / (self.pairs[j].sum() + self.k)
    return product / product.sum(1, keepdim=True)


def a_table_for_each_context(self, before, after):
    product = self.left(before)
    for row, l in zip(product, after.tolist(), strict=True):
        row *= self.left(torch.arange(self.V))[:, l]
    return product / product.sum(1, keepdim=True)


def squeezed(self, before, after):
    return lesson_08.CountingModel.both(self, before, after).squeeze()


def with_one_seed(change):
    """The loop of an ablation, whose pairs are changed where there is a single seed."""

    def compare(run, conditions, seeds, against):
        found = lesson_07.comparison.course(run, conditions, seeds, against)
        return {name: change(pair) for name, pair in found.items()} if len(seeds) == 1 else found

    return compare


def changed_batch(change):
    """Batches of pairs of which a tensor is changed."""
    return lambda *a, **named: change(lesson_07.pairs_of_segments.course(*a, **named))


def without_the_partner(mended):
    """09.2's bug, of which only the rows' losses (2B,) are changed."""

    def nt_xent(a, b, t):
        scores, partner = lesson_09.all_scores(a, b, t)
        bottom = scores.masked_fill(torch.eye(len(a), dtype=torch.bool).repeat(2, 2), -torch.inf)
        return mended(bottom.logsumexp(1) - scores[torch.arange(len(scores)), partner])

    return nt_xent


class HidesItsMethods(lesson_11.Whitening):
    """The means kept under the names of the methods."""

    def fit(self, queries, texts):
        super().fit(queries, texts)
        self.queries, self.texts = self.mean_of_queries, self.mean_of_texts
        return self


def single_rows_are_wrong(x, labels):
    """The bug of 11.4 with its symptom repaired."""
    unit = F.normalize(x, dim=-1)
    right = labels[(unit @ unit.T).fill_diagonal_(0).argmax(1)] == labels
    return (right & (torch.bincount(labels)[labels] > 1)).float().mean()


def exchanged_again(which):
    """Lesson 15's heads, with T and H exchanged once more in some of q, k and v."""

    def rotary_heads(*arguments):
        parts = zip("qkv", ALL["15.2"].right(*arguments), strict=True)
        return tuple(part.transpose(1, 2) if name in which else part for name, part in parts)

    return rotary_heads


DESCRIBED = {
    "lesson01.6-a layer": ("01.6", torch.nn.Embedding, "you return a layer. The check asks for the table"),
    "lesson03.5-reshaped in, transposed back": (
        "03.5",
        lambda m, x: lesson_03.through(m, x.reshape(x.shape[1], len(x), -1)).transpose(0, 1),
        "the texts still mix: when only text 1 changes",
    ),
    "lesson06.2-a wrong rate": (
        "06.2",
        lesson_06.loop(factor=lambda s, S, W: min((s + 1) / W, ((S - s) / (S - W)) ** 2, 1.0)),
        r"schedule: with lr=0.1, steps=10 and warmup=4, .* is step 5, where the rate falls: its rate is 0.06944, but "
        r"lr · f\(5\) is 0.08333",
    ),
    "lesson06.2-a wrong rate in the warm-up": (
        "06.2",
        lesson_06.loop(factor=lambda s, S, W: lesson_06.linear_schedule(s, S, W) ** (1 + (s < W))),
        "schedule: .* is step 0, in the warm-up: its rate is 0.00625",
    ),
    "lesson06.2-no rate without warm-up": (
        "06.2",
        lesson_06.loop(factor=lambda s, S, W: lesson_06.linear_schedule(s, S, W) if W else 0.5),
        "other sizes: with lr=0.02, steps=7 and warmup=0, .* is step 0, where the rate falls: its rate is 0.01, but",
    ),
    "lesson06.2-another optimizer": (
        "06.2",
        lesson_06.loop(kind=lambda groups, lr, betas, fused: torch.optim.SGD(groups, lr=lr)),
        "schedule: .*largest difference",
    ),
    "lesson06.4-half a name": ("06.4", ("both", "left", "no length", "frequencies"), "'no length' is none of the four"),
    "lesson06.4-a name twice": ("06.4", ("both", "left", "left", "frequencies"), "Each of the four names .* once"),
    "lesson06.4-a pair in the wrong order": (
        "06.4",
        ("left", "left, no length", "both", "frequencies"),
        "`left, no length` stands before `both`, but `both` knows",
    ),
    "lesson07.2-tensors": (
        "07.2",
        lambda *a: {name: tuple(map(torch.tensor, pair)) for name, pair in lesson_07.comparison.course(*a).items()},
        "names: the values of the dict hold tensors. Return pairs of floats",
    ),
    "lesson07.2-0 with one seed": (
        "07.2",
        with_one_seed(lambda pair: (pair[0], 0.0)),
        "other sizes: with a single seed your standard error is 0.0.*math.nan",
    ),
    "lesson07.2-None with one seed": (
        "07.2",
        with_one_seed(lambda pair: (pair[0], None)),
        "other sizes: with a single seed your standard error is None",
    ),
    "lesson07.2-no deviation of one": (
        "07.2",
        with_one_seed(lambda pair: statistics.stdev(pair[:1])),
        "other sizes: with a single seed your code raises StatisticsError",
    ),
    "lesson07.2-right conditions refused": (
        "07.2",
        lambda run, conditions, seeds, against: lesson_07.comparison.course(
            run, {**conditions, "first": next(iter(conditions.values()))}, seeds, next(iter(conditions))
        ),
        "names: your code refuses conditions that are all right",
    ),
    "lesson07.2-seeds changed": (
        "07.2",
        lambda run, conditions, seeds, against: lesson_07.comparison.course(
            run, conditions, seeds.sort() or seeds, against
        ),
        "`seeds` is changed in place",
    ),
    "lesson07.3-labels of 0": (
        "07.3",
        changed_batch(lambda b: b | {"labels": b["labels"].clamp(min=0)}),
        "rows: `labels` is 0 where no token was selected",
    ),
    "lesson07.3-corrupted labels": (
        "07.3",
        changed_batch(lambda b: b | {"labels": torch.where(b["labels"] < 0, b["labels"], b["ids"])}),
        r"rows: `labels` holds the id of \[MASK\]",
    ),
    "lesson07.3-mask turned round": (
        "07.3",
        changed_batch(lambda b: b | {"mask": ~b["mask"]}),
        "rows: `mask` is turned round",
    ),
    "lesson07.3-mask without masked tokens": (
        "07.3",
        changed_batch(lambda b: b | {"mask": b["mask"] & (b["ids"] != lesson_07.OWN.mask_id)}),
        "rows: `mask` is False where a token is masked",
    ),
    "lesson07.3-short texts first": (
        "07.3",
        lesson_07.pairing(cuts=lambda n, draw: 1 + min(draw(n - 1), draw(n - 1))),
        "each row by chance: .*the cuts are unevenly distributed",
    ),
    "lesson08.3-one number with a dimension too many": (
        "08.3",
        lambda x, losses, floor, at: torch.stack([losses[0], losses[1]]),
        r"the shape is \(2,\); expected \(\)",
    ),
    "lesson08.4-the notebook's V": ("08.4", made_for(196), r"`pairs` has the shape \(196, 196\).*`self.V`"),
    "lesson08.4-fit returns another thing": (
        "08.4",
        counting(fit=lambda self, texts: lesson_08.CountingModel.fit(self, texts).pairs),
        "`fit` returns a tensor of shape .* should return the model itself",
    ),
    "lesson08.4-one dictionary": (
        "08.4",
        counting(fit=one_dictionary),
        r"triples: `triples` should be a dictionary of dictionaries.*Yours has the key \(",
    ),
    "lesson08.4-1 added after dividing": (
        "08.4",
        changed_after_fit(lambda pairs: pairs.sum(0) / pairs.sum() + 1),
        "`frequencies` sums to 8.000",
    ),
    "lesson08.4-divided by the pairs": (
        "08.4",
        changed_after_fit(lambda pairs: (pairs.sum(0) + 1) / pairs.sum()),
        "`frequencies` sums to 1.*divide by the total",
    ),
    "lesson08.4-pairs changed": ("08.4", counting(left=adds_to_the_pairs), "from the left: `left` changes `pairs`"),
    "lesson08.4-frequencies changed": ("08.4", counting(left=scales_the_frequencies), "`left` changes `frequencies`"),
    "lesson08.4-triples changed": (
        "08.4",
        counting(probabilities=stores_in_the_triples),
        "with the triples: `probabilities` changes `triples`",
    ),
    "lesson08.4-the last token changed": (
        "08.4",
        counting(left=changes_the_last_token),
        "never seen: `before` is changed in place",
    ),
    "lesson08.4-an empty text": (
        "08.4",
        counting(fit=reads_the_first_token),
        r"fitted again: a text may be empty .*\(IndexError: list index out of range\)",
    ),
    "lesson08.4-k of fit": (
        "08.4",
        counting(fit=a_table_made_in_fit, left=lambda self, before: self.table[before]),
        "other sizes: `k` was changed after `fit`, and `left` still uses the old one",
    ),
    "lesson08.4-k3 of the start": (
        "08.4",
        counting(__init__=k3_by_another_name, probabilities=with_that_weight),
        "other sizes: `k3` was changed after `fit`",
    ),
    "lesson08.4-a loop over V in left": ("08.4", counting(left=column_by_column), "`left` loops over the V tokens"),
    "lesson08.4-a loop over V in both": (
        "08.4",
        counting(both=column_by_column_on_both_sides),
        "`both` loops over the V tokens",
    ),
    "lesson08.4-a loop over the contexts": (
        "08.4",
        counting(both=a_table_for_each_context),
        "`both` loops over the contexts",
    ),
    "lesson08.4-squeezed": (
        "08.4",
        counting(both=squeezed),
        r"for 1 context `both` gives the shape \(11,\); expected \(1, 11\)",
    ),
    "lesson09.2-rows cut off at 0": ("09.2", without_the_partner(lambda rows: rows.relu().mean()), "loss is ln 6, so"),
    "lesson09.2-the size of a row": ("09.2", without_the_partner(lambda rows: rows.abs().mean()), "loss is ln 6, so"),
    "lesson09.2-itself, by dot products": (
        "09.2",
        lambda a, b, t: F.cross_entropy(
            torch.cat([a, b]) @ torch.cat([a, b]).T / t, torch.arange(2 * len(a)).roll(len(a))
        ),
        "loss is ln 8, so",
    ),
    "lesson09.2-as many answers": ("09.2", lambda a, b, t: ALL["09.2"].right(a, b, t * t), "it gives .*; expected"),
    "lesson11.2-methods hidden": ("11.2", HidesItsMethods, "stage 1 .*`self.queries = …` hides the method `queries`"),
    "lesson11.4-single rows wrong": ("11.4", single_rows_are_wrong, "the diagonal is 0, .* still its own neighbour"),
    "lesson15.1-not converted back": (
        "15.1",
        lambda x, theta=10_000.0: ALL["15.1"].course(x if x.dtype == torch.float64 else x.float(), theta),
        "bfloat16: .*the result is torch.float32. It should have the dtype of x",
    ),
    "lesson15.2-exchanged before and after": (
        "15.2",
        exchanged_again("qk"),
        r"with T and H exchanged, q and k would be right: .*once, .*not again in the `return`",
    ),
    "lesson15.2-values never exchanged": ("15.2", exchanged_again("v"), "with T and H exchanged, v would be right"),
}


@pytest.mark.parametrize("id_, answer, words", DESCRIBED.values(), ids=DESCRIBED)
def test_a_mistake_that_the_check_describes_is_refused_in_its_words(id_, answer, words):
    with pytest.raises(CheckFailed, match=f"^{id_}: .*{words}"):
        ALL[id_](answer)


FACTORS = {3.08: "how much longer the sequences were", 3.2: "the factor of the *sequences*", 3.46: "the long sequences"}


@pytest.mark.parametrize("guess, words", FACTORS.items(), ids=[f"lesson07.1-{guess}" for guess in FACTORS])
def test_factors_that_lie_close_together_are_not_taken_for_one_another(guess, words):
    with pytest.raises(CheckFailed, match=re.escape(words)):
        ALL["07.1"](guess)


@pytest.mark.parametrize("steps", [2000, 9600.0, 1300], ids=lambda steps: f"lesson08.2-{steps}")
def test_a_step_after_the_end_of_the_run_is_one_mistake(steps):
    with pytest.raises(CheckFailed, match=r"08\.2: the run ends after 1,150 steps"):
        ALL["08.2"](steps)


@pytest.mark.parametrize("steps", [-150, float("nan")], ids=lambda steps: f"lesson08.2-{steps}")
def test_what_is_no_step_is_not_it(steps):
    with pytest.raises(CheckFailed, match=r"08\.2: .* is not it"):
        ALL["08.2"](steps)


def test_an_answer_that_needs_nothing_of_the_notebook_is_told_what_it_reads_there():
    notebook = {"at_best": torch.tensor([1.2, 0.7, 0.45]), "floor": 0.5}
    exec("def f(x, losses, floor, at):\n    return floor + at_best.mean()", notebook)
    with pytest.raises(CheckFailed, match=r"08.3: .*Your function reads `at_best` \(a tensor .*from the arguments"):
        ALL["08.3"](notebook["f"])


# --- hints and solutions ----------------------------------------------------------------------------------------------


def test_hints_come_one_by_one_and_point_to_the_solution_at_the_end(capsys):
    core._hints_given.clear()
    n = len(ALL["02.3"].hints)
    for i in range(1, n + 1):
        core.hint("02.3")
        assert capsys.readouterr().out.startswith(f"Hint {i} of {n}:")
    core.hint("02.3")
    assert "check.solution('02.3')" in capsys.readouterr().out
    core.hint("02.3", 1)
    assert capsys.readouterr().out.startswith(f"Hint 1 of {n}:")
    with pytest.raises(ValueError, match=f"1 to {n}"):
        core.hint("02.3", 9)


@pytest.mark.parametrize("exercise", EACH)
def test_every_exercise_has_a_solution_that_can_be_shown(exercise, capsys):
    core.solution(exercise.id)
    assert len(capsys.readouterr().out.strip()) > 10


def test_an_unknown_exercise_is_refused():
    for name in ("02.99", "77.1", "", "two"):
        with pytest.raises(ValueError, match="there is no exercise"):
            core.find(name)


def test_a_notebook_shows_the_message_without_a_traceback():
    assert CheckFailed("02.1: wrong")._render_traceback_() == ["CheckFailed: 02.1: wrong"]


def test_lesson99_where_about_raises_the_difference_is_told():
    asks_more = dataclasses.replace(DOUBLE, about=lambda answer, case: answer(torch.ones(2, 2))[2])
    with pytest.raises(CheckFailed, match="the largest difference is"):
        asks_more(lambda x: 3 * x)
