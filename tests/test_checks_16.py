"""Lesson 16: what its checks say of wrong answers that no named mistake fits, and further right answers."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exercises import ALL, edited

from nextbert_lite.checks import lesson_16
from nextbert_lite.checks.core import CheckFailed


def replaced_tokens(code):
    """Return lesson 16's model with other methods, as a learner may write them."""
    names = {"torch": torch, "F": F, "Base": lesson_16.ReplacedTokenModel}
    exec("class Mine(Base):\n" + "\n".join(f"    {line}" for line in code.strip().splitlines()), names)
    return names["Mine"]


def corrupting(selected="self.ordinary(ids) & (torch.rand(ids.shape) < self.rate)", drawn="", loss=""):
    """Return lesson 16's model whose `corrupt` has these lines."""
    return replaced_tokens(f"""
def corrupt(self, ids, mask):
    selected = {selected}
    masked = ids.masked_fill(selected, self.tokenizer.mask_id)
    logits = self.generator(masked, mask)
    at, seen = logits[selected], ids.clone()
    seen[selected] = {drawn or "torch.multinomial(at.detach().softmax(-1), 1)[:, 0]"}
    loss = {loss or 'F.cross_entropy(at, ids[selected], reduction="sum") / max(1, len(at))'}
    return seen, seen != ids, loss
""")


RANK = "torch.rand(ids.shape).masked_fill(~self.ordinary(ids), 2.0).argsort(1).argsort(1)"


TEN = "at.topk(10).indices.gather(1, torch.multinomial(at.topk(10).values.softmax(-1), 1))[:, 0]"


PARTS_16 = {
    "a fixed number in each text": (
        corrupting(f"({RANK} < (self.rate * self.ordinary(ids).sum(1, keepdim=True)).round()) & self.ordinary(ids)"),
        "the selection: each text, or each batch, has the same number",
    ),
    "the ten likeliest words": (corrupting(drawn=TEN), "the draw: 14 of 24 equally likely words never come up"),
    "Gaussian noise": (
        corrupting(drawn="(at + torch.randn_like(at)).argmax(-1)"),
        "the draw: .* drawn in .*it should be −log",
    ),
    "a softmax over the tokens": (
        corrupting(drawn="torch.multinomial(at.detach().softmax(0), 1)[:, 0]"),
        "labels: where the generator is certain of a word, others come up",
    ),
    "the loss of the model": (
        corrupting(loss="self.generator.loss(masked, ids, mask)"),
        r"`generator.loss` is called. .*logits alone",
    ),
    "another loss": (corrupting(loss="at.square().mean()"), "of half of the tokens the generator's loss is"),
    "the tokenizer's other names": (
        replaced_tokens("def ordinary(self, ids):\n    return ids != self.tokenizer.cls_id"),
        "you read `tokenizer.cls_id`. Of the tokenizer use `special_ids` and `mask_id` alone",
    ),
    "the generator's encoder": (
        replaced_tokens("def forward(self, ids, mask=None):\n    return self.generator.encoder(ids, mask)[..., 0]"),
        "`generator.encoder` is read",
    ),
    "the generator in the loss": (
        replaced_tokens("def loss(self, ids, mask):\n    return self.generator(ids, mask).mean()"),
        "`loss` calls the generator. `self.corrupt` does that",
    ),
    "an attribute of corrupt in the loss": (
        replaced_tokens("def loss(self, ids, mask):\n    return self.corrupt(ids, mask)[2] + self.chosen.sum()"),
        "`loss` reads `self.chosen`, which `__init__` does not set",
    ),
}


@pytest.mark.parametrize("answer, words", PARTS_16.values(), ids=[f"lesson16.1-{name}" for name in PARTS_16])
def test_lesson_16_says_what_is_wrong_with_an_answer_that_draws_in_its_own_way(answer, words):
    with pytest.raises(CheckFailed, match=f"^16.1: stage . of 9, .*{words}"):
        ALL["16.1"](answer)


TWO_CALLS = """
def corrupt(self, ids, mask):
    selected = self.ordinary(ids) & (torch.rand(ids.shape) < self.rate)
    masked = torch.where(selected, self.tokenizer.mask_id, ids)
    with torch.no_grad():
        drawn = torch.distributions.Categorical(logits=self.generator(masked, mask)).sample()
    seen = torch.where(selected, drawn, ids)
    each = F.cross_entropy(self.generator(masked, mask).mT, ids, reduction="none")
    return seen, seen != ids, (each * selected).sum() / selected.sum().clamp(min=1)
"""


BY_PROBABILITIES = """
def loss(self, ids, mask):
    seen, replaced, loss = self.corrupt(ids, mask)
    p, asked = self(seen, mask).sigmoid(), self.ordinary(ids)
    return loss + self.weight * F.binary_cross_entropy(p[asked], replaced[asked].float())
"""


@pytest.mark.parametrize(
    "code", [TWO_CALLS, BY_PROBABILITIES], ids=["lesson16.1-two calls of the generator", "lesson16.1-probabilities"]
)
def test_lesson_16_takes_further_right_answers(code, capsys):
    ALL["16.1"](replaced_tokens(code))
    assert "✓ 16.1 is right in all 9 stages" in capsys.readouterr().out


@pytest.mark.parametrize(
    "guess",
    [2 / 33, Fraction(2, 33), np.float32(2 / 33), np.float64(0.061), torch.tensor(2 / 33), 0.0606],
    ids=lambda guess: f"lesson16.2-{type(guess).__name__}-{guess}",
)
def test_a_number_is_right_whatever_its_type(guess, capsys):
    ALL["16.2"](guess)
    assert "✓ 16.2 is right" in capsys.readouterr().out


GUESSES_16 = {
    6.06: "A percentage is divided by 100",
    -0.06: "A probability lies between 0 and 1",
    float("nan"): "A probability lies between 0 and 1",
    1 / 10: "cannot be above the probability of",
    2 / 36: "It is close, but not by another rounding",
    1 / 12: "It is too large",
    1 / 50: "It is too small",
}


@pytest.mark.parametrize("guess, words", GUESSES_16.items(), ids=lambda value: f"lesson16.2-{value}")
def test_lesson_16_says_what_is_true_of_any_wrong_probability(guess, words):
    with pytest.raises(CheckFailed, match=f"^16.2: {guess} is not it. .*{words}.* For a hint"):
        ALL["16.2"](guess)


def gumbel(u):
    return -torch.log(-torch.log(u))


@pytest.mark.parametrize(
    "answer, words",
    [
        (lambda x, u, t: (x / t + gumbel(torch.rand_like(u))).argmax(-1), "two calls with the same arguments"),
        (lambda x, u, t: (x / t).argmin(-1), "the words do not depend on `uniform`"),
        (lambda x, u, t: (x / t - torch.log(-torch.log(u + 1e-2) + 1e-2)).argmax(-1), "the largest difference is"),
        (lambda x, u, t: x + y, "your code raised NameError"),  # noqa: F821
    ],
    ids=[f"lesson16.3-{name}" for name in ("own numbers", "no numbers", "a large constant", "an error")],
)
def test_lesson_16_says_what_is_wrong_with_a_draw(answer, words):
    with pytest.raises(CheckFailed, match=f"^16.3: {words}"):
        ALL["16.3"](answer)


def test_a_small_constant_within_the_logarithms_of_lesson_16_is_right(capsys):
    ALL["16.3"](lambda x, u, t: (x / t - torch.log(-torch.log(u + 1e-9) + 1e-9)).argmax(-1))
    assert "✓ 16.3 is right" in capsys.readouterr().out


ATTENTIONS_16 = {
    "the mask turned, with −∞": ("fill(~mask", "fill(mask", "the mask: the mask is the wrong way round"),
    "a cast": ("scores = (q", "scores = (q.float().double()", "the mask: the result is right to seven digits only"),
    "no biases": (
        "nn.Linear(C, C), nn.Linear(C, C)\n        self.out = nn.Linear(C, C)",
        "(nn.Linear(C, C, bias=False) for _ in range(2))\n        self.out = nn.Linear(C, C, bias=False)",
        "lacks place_key.bias, .*leave out `bias=False`",
    ),
    "weights of all heads": (
        "C)), weights",
        "C)), weights.mean(1)",
        "the weights have lost the dimension of the heads",
    ),
    "three results": ("C)), weights", "C)), weights, q", "expected two results, .*yours is a tuple of 3"),
    "values detached": ("(weights @ v)", "(weights.detach() @ v.detach())", "gradients: no gradient reaches"),
}


@pytest.mark.parametrize(
    "old, new, words", ATTENTIONS_16.values(), ids=[f"lesson16.4-{name}" for name in ATTENTIONS_16]
)
def test_lesson_16_says_what_is_wrong_with_an_attention(old, new, words):
    with pytest.raises(CheckFailed, match=f"^16.4: stage . of 8, .*{words}"):
        ALL["16.4"](edited(lesson_16.DisentangledAttention, (old, new)))
