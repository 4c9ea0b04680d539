"""Lesson 10: what its checks say of wrong answers that no named mistake fits, and further right answers."""

import pytest
import torch
from exercises import ALL

from nextbert_lite.checks import lesson_10
from nextbert_lite.checks.core import CheckFailed


def _by_forward(self, ids, mask, positive_ids, positive_mask, same=None, negative_ids=None, negative_mask=None):
    hard = None if negative_ids is None else self(negative_ids, negative_mask)
    a, b = self(ids, mask), self(positive_ids, positive_mask)
    return lesson_10.info_nce_loss(a, b, self.temperature, self.symmetric, hard, same)


def _refusing(wrong):
    """Return a SentenceEncoder that refuses the settings for which `wrong` holds, and no others."""

    class SentenceEncoder(lesson_10.WrongEncoder):
        trusts = True

        def __init__(self, encoder, pooling="mean", temperature=0.05, symmetric=False, chunk=None, cache=False):
            if pooling not in lesson_10.POOLINGS or wrong(temperature, chunk) or (cache and not chunk):
                raise ValueError("settings")
            super().__init__(encoder, pooling, temperature, symmetric, chunk or None, cache)

    return SentenceEncoder


def _doubles_in_half(hidden, mask):
    mean = lesson_10.right_mean(hidden, mask)
    return mean.double() if hidden.dtype == torch.bfloat16 else mean


UNNAMED_10 = {
    "10.1-float64 of halves": (lesson_10.means_by(_doubles_in_half), "of bfloat16 vectors, torch.float64"),
    "10.2-within chunks": (
        lambda f, n, size: torch.cat([f(rows)[rows.argsort()] for rows in n.argsort().split(size)]),
        "each chunk is in order, but the whole is not",
    ),
    "10.2-backwards": (
        lambda f, n, size: lesson_10.right_chunks(f, n, size).flip(0),
        r"come back as \[8, 7, 6, 5, 4, 3, 2, 1, 0\]: row i should hold",
    ),
    "10.3-forward in the loss": (lesson_10.wrong(loss=_by_forward), "`loss` gives the encoder 6 texts at once"),
    "10.3-another name": (
        lesson_10.wrong(temperature=property(lambda self: None, lambda self, value: None)),
        "`self.temperature` is not the temperature",
    ),
    "10.3-chunk 0": (_refusing(lambda t, chunk: t <= 0 or (chunk and chunk < 1)), "no ValueError for chunk=0. In an"),
    "10.3-below 0": (
        _refusing(lambda t, chunk: t == 0 or chunk == 0),
        "no ValueError for chunk=-1, temperature=-1",
    ),
}


@pytest.mark.parametrize(
    "name, answer, words", [pytest.param(n[:4], *v, id=f"lesson{n}") for n, v in UNNAMED_10.items()]
)
def test_lesson_10_says_what_is_wrong_where_no_mistake_fits(name, answer, words):
    with pytest.raises(CheckFailed, match=f"(?s)^{name}: .*{words}"):
        ALL[name](answer)


@pytest.mark.parametrize("guess", [pytest.param(guess, id=f"lesson10.5-{guess}") for guess in (0.77, 0.767)])
def test_lesson_10_takes_a_loss_that_is_right_to_two_decimals(guess, capsys):
    ALL["10.5"](guess)
    assert "is right" in capsys.readouterr().out
