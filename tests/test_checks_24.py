"""Lesson 24: what its checks say of wrong answers that no named mistake fits, and further right answers."""

import pytest
from exercises import ALL, edited

from nextbert_lite.checks import lesson_24
from nextbert_lite.checks.core import CheckFailed

GUESSES_24 = {
    0.0: "positive and finite",
    -1: "positive and finite",
    0.3: "too small by a factor of 45.92",
    10.2: "too small by a factor of 1.35",
    11: "too small by a factor of 1.25",
    137.7: "a power of ten",
}


@pytest.mark.parametrize("guess, words", GUESSES_24.items(), ids=lambda value: f"lesson24.3-{value}")
def test_lesson_24_takes_no_number_of_years_for_a_mistake_that_is_not_near(guess, words):
    with pytest.raises(CheckFailed, match=f"^24.3: {guess} is not it. .*{words}"):
        ALL["24.3"](guess)


@pytest.mark.parametrize("guess", [pytest.param(guess, id=f"lesson24.3-{guess}") for guess in (13.4, 14, 14.2)])
def test_half_a_year_more_or_less_is_right(guess, capsys):
    ALL["24.3"](guess)
    assert "is right" in capsys.readouterr().out


@pytest.mark.parametrize("guess", [pytest.param(9.18, id="lesson24.3-8 C² a layer")])
def test_eight_squares_a_layer_are_told_both_ways_to_count_them(guess):
    with pytest.raises(CheckFailed, match=r"^24.3: .*four matrices are missing, or one of the feed-forward"):
        ALL["24.3"](guess)


PARITY_24 = {
    "one number for all": (
        ("(2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1)", "torch.ones(size).double()"),
        "stage 3 .*all numbers of a parameter are the same",
    ),
    "weights seen by one": (("module.load_state_dict(weights, strict=False)", "pass"), "stage 1 .*different weights"),
    "one module alone": (("in pair:\n        module.to", "in pair[:1] * 2:\n        module.to"), "stage 1|stage 2"),
    "frozen": ((".requires_grad_(True)", ""), "stage 6 .*frozen"),
    "a tensor": (("float(worst)", "worst"), "stage 1 .*expected a float"),
    "a missing gradient skipped": (
        ("zip(*sides, strict=True)]", "zip(*sides, strict=True) if a.any() and b.any()]"),
        "stage 6 .*only one of the two modules has a gradient",
    ),
    "names in part": (("if sizes[0] != sizes[1]:", "if set(sizes[0]) - set(sizes[1]):"), "stage 7"),
}


@pytest.mark.parametrize("change, words", PARITY_24.values(), ids=[f"lesson24.1-{name}" for name in PARITY_24])
def test_lesson_24_says_what_is_wrong_with_a_parity_test(change, words):
    with pytest.raises(CheckFailed, match=f"^24.1: {words}"):
        ALL["24.1"](edited(lesson_24.by_backward, change))


RESUMABLE_24 = {
    "the rate is not saved": (('"rate": rate}', "}"), "stage 3 .*save its state_dict"),
    "one step late": (("(step + 1) % every", "step % every"), "stage 2 .*after 1 step, not after 5"),
    "in the working folder": (('path.with_suffix(".new")', 'Path(path.stem + ".24.new")'), "stage 8 .*another folder"),
    "without the warm-up": ((', "w": warmup}', "}"), "stage 7 .*other warmup"),
    "a str alone": (("= Path(path), steps", "= Path(path + ''), steps"), "stage 2 .*a str or a Path.*raises TypeError"),
    "the old one first": (
        ('new = path.with_suffix(".new")', 'new = path.with_suffix(".new"); path.unlink(missing_ok=True)'),
        "stage 8 .*deleted before",
    ),
    "a copy": (("new.replace(path)", "path.write_bytes(new.read_bytes())"), "stage 2 .*leaves others behind: run.new"),
}


@pytest.mark.parametrize("change, words", RESUMABLE_24.values(), ids=[f"lesson24.4-{name}" for name in RESUMABLE_24])
def test_lesson_24_says_what_is_wrong_with_a_resumable_run(change, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckFailed, match=f"^24.4: {words}"):
        ALL["24.4"](edited(lesson_24.with_a_scheduler, change))
