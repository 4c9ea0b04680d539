"""The perfect model: equal to brute force over all sentences and all corruptions, and below every other model."""

import itertools
import math

import numpy as np
import pytest
import torch

from nextbert_lite import ToyWorld
from nextbert_lite.core.masking import IGNORE, mask_tokens
from nextbert_lite.corpora import bayes
from nextbert_lite.corpora.bayes import KINDS, Gap, PerfectModel, compare, floor, ratio
from nextbert_lite.training.tokenizer import SPECIALS

SMALL = """
[probabilities]
number = { singular = 0.7, plural = 0.3 }
attractor = { none = 0.5, singular = 0.5, plural = 0.0 }
ending = { place = 0.8, pronoun = 0.2 }
[templates.active]
probability = 0.6
text = "{who} {near} {verb} {whom} {end}"
[templates.passive]
probability = 0.4
text = "{whom} {near} {be} {participle} {who} {end}"
[pieces]
near = "{attractor}"
place = "{place}"
pronoun = "{pronoun} {reason}"
[words]
be = { singular = "is", plural = "are" }
pronoun = { singular = "she", plural = "they" }
reasons = ["smiled"]
[topics.kitchen]
group_a = [{ singular = "cook", plural = "cooks" }]
group_b = [{ singular = "guest", plural = "guests" }]
things = [{ singular = "oven", plural = "ovens" }]
verbs = [{ singular = "feeds", plural = "feed", participle = "fed" }]
places = ["kitchen", "cellar"]
[topics.farm]
group_a = [{ singular = "rider", plural = "riders" }]
group_b = [{ singular = "hunter", plural = "hunters" }]
things = [{ singular = "fence", plural = "fences" }]
verbs = [{ singular = "pays", plural = "pay", participle = "paid" }]
places = ["barn"]
"""
MASK, FIRST = SPECIALS.index("[MASK]"), len(SPECIALS)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("grammar") / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return ToyWorld(path)


@pytest.fixture(scope="module")
def perfect(world):
    return PerfectModel(world)


def all_sentences(world):
    """Return every sentence as word indices -> its probability, by walking through every frame's tables."""
    sentences = {}
    for f, p in enumerate(world.frame_probabilities.tolist()):
        tables = [world.emissions[f, t].nonzero()[:, 0].tolist() for t in range(int(world.lengths[f]))]
        for words in itertools.product(*tables):
            q = p * math.prod(float(world.emissions[f, t, w]) for t, w in enumerate(words))
            sentences[words] = sentences.get(words, 0.0) + q
    return sentences


def chance(y, x, rate, V, selected=None):
    """P(y | x) of one token, V standing for [MASK]; selected: None if it is not known."""
    if y == V:
        return 0.8 if selected else 0.8 * rate
    if selected:
        return 0.1 / V + 0.1 * (y == x)
    return (1 - rate) * (y == x) + rate * (0.1 / V + 0.1 * (y == x))


def by_enumeration(sentences, y, t, rate, V, sees):
    """P(x_t | y, t selected), a list of V numbers, by Bayes' rule over whole sentences."""
    joint = [0.0] * V
    for x, p in sentences.items():
        if (sees != "left" and len(x) != len(y)) or len(x) <= t:
            continue
        places = {"both": range(len(y)), "left": range(t), "right": range(t, len(y))}[sees]
        for u in places:
            if u != t:
                p *= chance(y[u], x[u], rate, V)
        joint[x[t]] += p * chance(y[t], x[t], rate, V, selected=True)
    return [value / sum(joint) for value in joint]


@pytest.mark.parametrize("sees", ["both", "left", "right"])
@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_the_posterior_equals_brute_force_over_all_sentences(small, rate, sees):
    sentences, V = all_sentences(small), len(small.words)
    assert sum(sentences.values()) == pytest.approx(1, abs=1e-12)
    ids, _ = small.sample_ids(60, seed=3)
    corrupted, _ = mask_tokens(ids, small.tokenizer(), rate, torch.Generator().manual_seed(1))
    found = PerfectModel(small, rate, sees)(corrupted)
    for row, predicted in zip(corrupted, found, strict=True):
        length = int((row == SPECIALS.index("[SEP]")).nonzero()[0]) - 1
        y = [V if i == MASK else i - FIRST for i in row[1 : 1 + length].tolist()]
        for t in range(length):
            expected = torch.tensor(by_enumeration(sentences, y, t, rate, V, sees), dtype=torch.float64)
            torch.testing.assert_close(predicted[1 + t, FIRST:], expected, rtol=0, atol=1e-9)


def test_the_floor_equals_the_exact_expected_loss_within_sampling_error(small):
    """Every sentence of four words and every corruption of it, beside the estimate by sampling."""
    rate, V = 0.15, len(small.words)
    sentences = {x: p for x, p in all_sentences(small).items() if len(x) == 4}
    x, p = np.array(list(sentences)), np.array(list(sentences.values()))  # (S, 4), (S,)
    unknown, selected = (
        np.array([[chance(b, a, rate, V, known) for a in range(V)] for b in range(V + 1)]) for known in (None, True)
    )
    total = count = 0.0
    for t in range(4):
        first, second, third, fourth = ((selected if u == t else unknown)[:, x[:, u]] for u in range(4))  # (V + 1, S)
        begins = (first[:, None] * second).reshape(-1, len(x))  # all that can be seen of the first two words, and S
        ends = (third[:, None] * fourth * p * rate).reshape(-1, len(x))
        of_word = np.stack([begins[:, x[:, t] == w] @ ends[:, x[:, t] == w].T for w in np.unique(x[:, t])])
        total -= (of_word * np.log(of_word / of_word.sum(0))).sum()
        count += of_word.sum()
    exact = total / count
    assert count == pytest.approx(4 * rate * p.sum())  # nothing was left out

    keep = [i for i, n in enumerate(small.lengths.tolist()) if n == 4]
    frames, words = small._draw(20_000, np.random.default_rng(5), [i in keep for i in range(len(small.frames))])
    ids = torch.zeros(len(frames), 6, dtype=torch.int64)
    ids[:, 0], ids[:, 5] = SPECIALS.index("[CLS]"), SPECIALS.index("[SEP]")
    ids[:, 1:5] = torch.from_numpy(words[:, :4]) + FIRST
    corrupted, labels = mask_tokens(ids, small.tokenizer(), rate, torch.Generator().manual_seed(2))
    losses = PerfectModel(small, rate).losses(corrupted, labels)
    mean, error = ratio(losses, (labels != IGNORE).nonzero()[:, 0], len(ids))
    assert abs(mean - exact) < 4 * error < 0.03  # false alarms: 1 in 16,000


def test_more_context_never_hurts_the_perfect_model(world, small):
    both, left, right = (floor(world, 800, sees=sees) for sees in ("both", "left", "right"))
    assert left[0] - both[0] > 5 * (left[1] + both[1])
    assert right[0] - both[0] > 5 * (right[1] + both[1])
    assert floor(small, 800)[0] < both[0]  # an edited grammar has a floor of its own


def logits_of(model):
    return lambda ids, mask: model(ids).clamp(min=1e-12).log()


def test_no_other_distribution_is_below_the_floor(world, perfect):
    """Cheaper predictors, each a valid model, stay above: the paired gap is positive beyond sampling error."""
    for other in (PerfectModel(world, sees="left"), PerfectModel(world, sees="right"), PerfectModel(world, rate=0.6)):
        gap = compare(logits_of(other), world, n=800, perfect=perfect)
        assert gap.gap > 3 * gap.standard_error > 0
    own = compare(logits_of(perfect), world, n=200)
    assert abs(own.gap) < 1e-9 and own.loss == pytest.approx(own.floor)


def test_the_floor_is_split_by_what_was_done_to_the_token(world, perfect):
    gap = compare(logits_of(perfect), world, n=1000, perfect=perfect)
    assert isinstance(gap, Gap) and set(gap.kinds) == set(KINDS)
    shares = [gap.kinds[kind][0] for kind in KINDS]
    assert sum(shares) == pytest.approx(1)
    n = 1000 * 11.0 * 0.15  # about so many selected tokens
    V = len(world.words)
    for share, p in zip(shares, (0.8, 0.1 + 0.1 / V, 0.1 - 0.1 / V), strict=True):
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n)
    assert gap.kinds["kept"][2] < 0.1 < gap.kinds["masked"][2]
    assert gap.floor == pytest.approx(sum(share * least for share, _, least in gap.kinds.values()))


def test_a_gap_gets_its_right_distribution(perfect):
    verbs = perfect.gap("the cook near the ovens [MASK] the waiters in the kitchen")
    assert sum(verbs.values()) == pytest.approx(1)
    assert list(verbs)[:3] == ["praises", "serves", "feeds"] and min(list(verbs.values())[:3]) > 0.33
    assert verbs["praise"] < 1e-3  # the ovens mislead nobody
    slip = perfect.gap("the cook near the ovens praise the waiters in the kitchen", position=5)
    assert list(slip)[:3] == ["praises", "serves", "feeds"]  # "praise" was a replaced token, most probably


@pytest.mark.parametrize("position", [2, 4, 5])
def test_what_stands_at_padding_and_specials_is_zero(world, perfect, position):
    ids, _ = world.sample_ids(20, seed=position)
    table = perfect(ids)
    word = ids >= FIRST
    torch.testing.assert_close(table.sum(-1)[word], torch.ones(int(word.sum()), dtype=torch.float64))
    assert (table[~word] == 0).all()


def reading(*ids):
    return lambda perfect: perfect(torch.tensor([ids]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (reading(2, 7, 7, 3, 0, 0), "no corrupted sentence"),
        (reading(7, 7, 7, 3, 0, 0), r"is not \[CLS\]"),
        (reading(2, 7, 0, 7, 3, 0), r"is not \[CLS\]"),
        (reading(2, 7, 1, 7, 3, 0), r"is not \[CLS\]"),
        (reading(2, *[7] * 20, 3), "expected"),
        (reading(2, 7, 9999, 3), "expected"),
        (lambda perfect: perfect.gap("the cook"), "has 0"),
        (lambda perfect: perfect.gap("[MASK] [MASK] praises"), "has 2"),
        (lambda perfect: perfect.gap("the cook praises", 7), "0 to 2"),
        (lambda perfect: perfect.gap("the astronaut [MASK] the cook"), "'astronaut' is no word"),
        (lambda perfect: PerfectModel(perfect.world, rate=0), "rate"),
        (lambda perfect: PerfectModel(perfect.world, sees="nothing"), "both, left, right"),
        (lambda perfect: ratio(torch.zeros(0), torch.zeros(0, dtype=torch.int64), 3), "no token was selected"),
    ],
)
def test_what_has_no_answer_is_refused(perfect, call, words):
    with pytest.raises(ValueError, match=words):
        call(perfect)


def test_the_standard_error_is_the_spread_of_the_mean_when_tokens_of_a_sentence_go_together():
    """200 samples of 200 sentences of 1 to 4 tokens whose values share a number: the error foretells the spread."""
    rng = np.random.default_rng(0)
    means, errors = [], []
    for _ in range(200):
        sizes = rng.integers(1, 5, 200)
        rows = torch.from_numpy(np.repeat(np.arange(200), sizes))
        shared = torch.from_numpy(rng.normal(2.0, 1.0, 200))
        values = shared[rows] + 0.3 * torch.from_numpy(rng.normal(0.0, 1.0, len(rows)))
        mean, error = ratio(values, rows, 200)
        means.append(mean)
        errors.append(error)
    spread = float(np.std(means))  # itself known to 5 %: 1 / sqrt(2 * 200)
    assert abs(np.mean(errors) / spread - 1) < 0.2  # four standard errors: false alarms 1 in 16,000


def test_the_module_says_what_mask_tokens_does():
    assert (bayes.MASKED, bayes.RANDOM, bayes.KEPT) == (0.8, 0.1, 0.1)
