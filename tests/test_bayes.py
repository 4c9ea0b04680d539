"""The perfect model: equal to brute force over all sentences and all corruptions, and below every other model."""

import itertools
import math

import numpy as np
import pytest
import torch

from nextbert_lite import ToyWorld
from nextbert_lite.core.masking import IGNORE, mask_tokens
from nextbert_lite.corpora import bayes
from nextbert_lite.corpora.bayes import (
    KINDS,
    Beside,
    PerfectModel,
    compare,
    floor,
    influence,
    posterior,
    ratio,
    replaced,
    same_frame,
)
from nextbert_lite.training.tokenizer import SPECIALS

SMALL = """
[probabilities]
number = { singular = 0.7, plural = 0.3 }
attractor = { none = 0.5, singular = 0.5, plural = 0.0 }
front = { attractor = 0.4, place = 0.25 }
ending = { place = 0.8, pronoun = 0.2 }
[templates.active]
probability = 0.3
text = "{front} {who} {near} {verb} {whom} {end}"
[templates.passive]
probability = 0.3
text = "{whom} {near} {be} {participle} {who} {end}"
[templates.object_cleft]
probability = 0.4
text = "it {whom} {who} {near} {verb} {end}"
[pieces]
near = "near {attractor}"
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
    with pytest.warns(UserWarning, match="finds the subject"):
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


def by_enumeration(sentences, y, t, rate, V, sees, told):
    """P(x_t | y, t selected), a list of V numbers, by Bayes' rule over whole sentences."""
    joint = [0.0] * V
    for x, p in sentences.items():
        if (told and len(x) != len(y)) or len(x) <= t:
            continue
        places = {"both": range(len(y)), "left": range(t), "right": range(t, len(y))}[sees]
        for u in places:
            if u != t:
                p *= chance(y[u], x[u], rate, V)
        joint[x[t]] += p * chance(y[t], x[t], rate, V, selected=True)
    return [value / sum(joint) for value in joint]


@pytest.mark.parametrize(("sees", "told"), [("both", True), ("left", True), ("left", False), ("right", True)])
@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_the_perfect_model_equals_brute_force_over_all_sentences(small, rate, sees, told):
    sentences, V = all_sentences(small), len(small.words)
    assert sum(sentences.values()) == pytest.approx(1, abs=1e-12)
    ids, _ = small.sample_ids(60, seed=3)
    corrupted, _ = mask_tokens(ids, small.tokenizer(), rate, torch.Generator().manual_seed(1))
    found = PerfectModel(small, rate, sees, told)(corrupted)
    for row, predicted in zip(corrupted, found, strict=True):
        length = int((row == SPECIALS.index("[SEP]")).nonzero()[0]) - 1
        y = [V if i == MASK else i - FIRST for i in row[1 : 1 + length].tolist()]
        for t in range(length):
            expected = torch.tensor(by_enumeration(sentences, y, t, rate, V, sees, told), dtype=torch.float64)
            torch.testing.assert_close(predicted[1 + t, FIRST:], expected, rtol=0, atol=1e-12)


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
    assert floor(world, 800, sees="left", length=False)[0] > left[0] + left[1]  # the length gives something away
    assert floor(small, 800)[0] < both[0]  # an edited grammar has a floor of its own


# --- the other exact answers: against sums over every sentence --------------------------------------------------------

CLOSE = dict(rtol=0, atol=1e-12)


def sentences_of(ids):
    """Rows of ids as lists of word indices, V or above never: for clean sentences."""
    return [[i - FIRST for i in row.tolist() if i >= FIRST] for row in ids]


def some_hidden(mask, seed, rate=0.4):
    """Hide each word with probability `rate`; [CLS] and [SEP] stay."""
    inner = mask.clone()
    inner[:, 0] = False
    inner[torch.arange(len(mask)), mask.sum(1) - 1] = False
    return inner & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) < rate)


def fitting(sentences, words, visible):
    """The sentences that have these words at the visible places, with their probabilities."""
    same = lambda x: len(x) == len(words) and all(x[t] == words[t] for t in visible)  # noqa: E731
    return {x: p for x, p in sentences.items() if same(x)}


def spread(found, t, V):
    """The distribution of the word at t among these sentences."""
    joint = [0.0] * V
    for x, p in found.items():
        joint[x[t]] += p
    return torch.tensor(joint, dtype=torch.float64) / sum(joint)


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_the_posterior_under_any_hidden_words_equals_a_sum_over_all_sentences(small, rate):
    sentences, V = all_sentences(small), len(small.words)
    ids, mask = small.sample_ids(40, seed=11)
    hidden = some_hidden(mask, seed=int(10 * rate), rate=rate)
    found = posterior(small, ids, hidden)
    for words, covered, row in zip(sentences_of(ids), hidden, found, strict=True):
        visible = [t for t in range(len(words)) if not covered[1 + t]]
        for t in range(len(words)):
            expected = spread(fitting(sentences, words, [u for u in visible if u != t]), t, V)
            torch.testing.assert_close(row[1 + t, FIRST:], expected, **CLOSE)
    masked = ids.masked_fill(hidden, MASK)
    assert torch.equal(posterior(small, masked), found)  # [MASK] in ids hides as well


def test_the_influence_of_a_word_equals_the_divergence_of_two_posteriors(small):
    sentences, V = all_sentences(small), len(small.words)
    ids, mask = small.sample_ids(40, seed=12)
    hidden = some_hidden(mask, seed=3, rate=0.2)
    gap = torch.tensor([1 + i % (int(n) - 2) for i, n in enumerate(mask.sum(1))])
    found = influence(small, ids, gap, hidden)
    for words, covered, place, row in zip(sentences_of(ids), hidden, gap.tolist(), found, strict=True):
        t = place - 1
        visible = [u for u in range(len(words)) if u != t and not covered[1 + u]]
        before = spread(fitting(sentences, words, visible), t, V)
        expected = torch.zeros(len(row), dtype=torch.float64)
        for u in visible:
            after = spread(fitting(sentences, words, [v for v in visible if v != u]), t, V)
            expected[1 + u] = torch.special.xlogy(before, before / after.clamp(min=1e-300)).sum()
        torch.testing.assert_close(row, expected, **CLOSE)


@pytest.mark.parametrize("by", ["nothing", "place", "word"])
def test_the_best_discriminator_equals_a_sum_over_all_originals(small, by):
    sentences, V, T = all_sentences(small), len(small.words), small.emissions.shape[1]
    rate, draw = 0.3, torch.Generator().manual_seed(4)
    q = torch.rand({"nothing": (V,), "place": (T, V), "word": (V, V)}[by], generator=draw, dtype=torch.float64)
    q = q / q.sum(-1, keepdim=True)
    ids, mask = small.sample_ids(40, seed=13)
    chosen = some_hidden(mask, seed=5, rate=rate)
    if by == "word":
        drawn = torch.multinomial(q[(ids - FIRST).clamp(min=0).flatten()], 1, generator=draw).view(ids.shape) + FIRST
        ids = torch.where(chosen, drawn, ids)
    else:
        drawn = torch.multinomial(q.expand(T, V), len(ids), replacement=True, generator=draw).T + FIRST
        ids[:, 1 : 1 + T] = torch.where(chosen[:, 1 : 1 + T], drawn, ids[:, 1 : 1 + T])
    table = q.expand(T, V) if by != "word" else None
    found = replaced(small, ids, rate, q)
    for y, row in zip(sentences_of(ids), found, strict=True):
        total, was = 0.0, [0.0] * len(y)
        for x, p in sentences.items():
            if len(x) != len(y):
                continue
            seen = [
                (1 - rate) * (a == b) + rate * float(q[a, b] if by == "word" else table[t, b])
                for t, (a, b) in enumerate(zip(x, y, strict=True))
            ]
            p *= math.prod(seen)
            total += p
            for t, (a, b) in enumerate(zip(x, y, strict=True)):
                if a != b and p > 0:  # then it must have been replaced
                    was[t] += p
        torch.testing.assert_close(row[1 : 1 + len(y)], torch.tensor(was, dtype=torch.float64) / total, **CLOSE)
    assert (found[ids < FIRST] == 0).all()


def test_the_best_discriminator_is_calibrated(small):
    """Among the words of any believed probability that share was replaced; 6 standard errors: false alarms 1 in 10⁷."""
    rate, V = 0.3, len(small.words)
    q = torch.full((V,), 1 / V, dtype=torch.float64)
    true, mask = small.sample_ids(4000, seed=14)
    chosen = some_hidden(mask, seed=6, rate=rate)
    drawn = torch.randint(V, true.shape, generator=torch.Generator().manual_seed(7)) + FIRST
    ids = torch.where(chosen, drawn, true)
    believed, was = replaced(small, ids, rate, q), ids != true
    for low, high in ((0.0, 0.2), (0.2, 0.8), (0.8, 1.0)):
        here = (ids >= FIRST) & (believed >= low) & (believed <= high)
        p = believed[here]
        assert len(p) > 100 and abs((was[here].double() - p).sum()) < 6 * (p * (1 - p)).sum().sqrt().clamp(min=1)


def test_the_optimal_contrastive_score_equals_a_sum_over_frames_and_sentences(small):
    V, F = len(small.words), len(small.frames)
    each = []  # P(sentence | frame)
    for f in range(F):
        tables = [small.emissions[f, t].nonzero()[:, 0].tolist() for t in range(int(small.lengths[f]))]
        each.append(
            {
                words: math.prod(float(small.emissions[f, t, w]) for t, w in enumerate(words))
                for words in itertools.product(*tables)
            }
        )
    ids, mask = small.sample_ids(24, seed=15)
    ids = ids.masked_fill(some_hidden(mask, seed=8, rate=0.6), MASK)
    words = [
        [V if i == MASK else i - FIRST for i in row[real].tolist()[1:-1]] for row, real in zip(ids, mask, strict=True)
    ]
    of = torch.tensor(
        [[sum(fitting(table, y, [t for t, w in enumerate(y) if w < V]).values()) for table in each] for y in words],
        dtype=torch.float64,
    )  # (24, F), P(visible words | frame)
    prior = small.frame_probabilities
    together = torch.einsum("af,bf,f->ab", of, of, prior)
    expected = (together / (of @ prior)[:, None] / (of @ prior)).log()
    found = same_frame(small, ids, ids)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert found.isinf().any() and (found > 1).any()


def test_no_score_beats_the_optimal_one_at_the_contrastive_loss(small):
    """InfoNCE on 400 fresh batches of 8: to scale the optimal score costs, beyond sampling error."""
    rng = torch.Generator().manual_seed(9)
    first, second = [], []
    for place, store in ((16, first), (17, second)):
        frames, _ = small._draw(3200, np.random.default_rng(1))
        tables = small.emissions[torch.from_numpy(frames)]  # (N, T, V)
        inside = torch.arange(tables.shape[1]) < small.lengths[torch.from_numpy(frames)][:, None]
        tables = torch.where(inside[..., None], tables, torch.ones(()).double())
        words = (
            torch.multinomial(tables.flatten(0, 1), 1, generator=rng.manual_seed(place)).reshape(inside.shape) + FIRST
        )
        ids = torch.zeros(len(frames), tables.shape[1] + 2, dtype=torch.int64)
        ids[:, 0] = SPECIALS.index("[CLS]")
        hide = torch.rand(inside.shape, generator=rng) < 0.6
        ids[:, 1:-1] = torch.where(inside, torch.where(hide, MASK, words), 0)
        ids[torch.arange(len(ids)), 1 + inside.sum(1)] = SPECIALS.index("[SEP]")
        store.append(ids)

    def loss(change):
        per_row = []
        for a, b in zip(first[0].split(8), second[0].split(8), strict=True):
            scores = change(same_frame(small, a, b).clamp(min=-50))
            per_row.append(torch.nn.functional.cross_entropy(scores, torch.arange(8), reduction="none"))
        return torch.cat(per_row)

    best = loss(lambda s: s)
    for change in (lambda s: 0.3 * s, lambda s: 3 * s):
        worse = loss(change) - best
        assert worse.mean() > 3 * worse.std() / math.sqrt(len(worse))


def test_an_answer_of_a_lesson_takes_seconds_not_minutes(world):
    ids, _ = world.sample_ids(200, seed=17)  # a lesson asks 4,000; here only that nothing falls over at full size
    gap = torch.full((200,), 3)
    V = len(world.words)
    assert posterior(world, ids).shape == (200, ids.shape[1], FIRST + V)
    assert (influence(world, ids, gap) >= 0).all() and influence(world, ids, gap).max() > 0.5
    assert ((p := replaced(world, ids, 0.3, torch.full((V,), 1 / V))) >= 0).all() and (p <= 1).all()
    own = same_frame(world, ids, ids)
    parsed = [s.frame for s in world.sample(200, seed=17)]
    expected = -world.frame_probabilities[parsed].log()
    torch.testing.assert_close(own.diagonal(), expected, rtol=0, atol=1e-10)  # no sentence has two frames


def logits_of(model):
    return lambda ids, mask: model(ids).clamp(min=1e-12).log()


def test_no_other_distribution_is_below_the_floor(world, perfect):
    """Cheaper predictors, each a valid model, stay above: the paired gap is positive beyond sampling error."""
    for other in (PerfectModel(world, sees="left"), PerfectModel(world, sees="right"), PerfectModel(world, rate=0.6)):
        found = compare(logits_of(other), world, n=800, perfect=perfect)
        assert found.excess > 3 * found.standard_error > 0
    own = compare(logits_of(perfect), world, n=200)
    assert abs(own.excess) < 1e-9 and own.loss == pytest.approx(own.floor)


def test_the_floor_is_split_by_what_was_done_to_the_token(world, perfect):
    found = compare(logits_of(perfect), world, n=1000, perfect=perfect)
    assert isinstance(found, Beside) and set(found.kinds) == set(KINDS)
    shares = [found.kinds[kind][0] for kind in KINDS]
    assert sum(shares) == pytest.approx(1)
    n = 1000 * 11.0 * 0.15  # about so many selected tokens
    V = len(world.words)
    for share, p in zip(shares, (0.8, 0.1 + 0.1 / V, 0.1 - 0.1 / V), strict=True):
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n)
    assert found.kinds["kept"][2] < 0.1 < found.kinds["masked"][2]
    assert found.floor == pytest.approx(sum(share * least for share, _, least in found.kinds.values()))


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
        (lambda perfect: PerfectModel(perfect.world, length=False), "sees the end of the sentence"),
        (lambda perfect: posterior(perfect.world, torch.tensor([[2, *[7] * 8, 3]])), "has these words in these places"),
        (lambda perfect: posterior(perfect.world, torch.tensor([[2, 7, 3]]), torch.ones(1, 3)), "expected booleans"),
        (lambda perfect: influence(perfect.world, perfect.world.sample_ids(2, 0)[0], torch.tensor([1, 0])), "gap is"),
        (lambda perfect: replaced(perfect.world, torch.tensor([[2, 7, 3]]), 0.3, torch.ones(191)), "probabilities of"),
        (
            lambda perfect: replaced(perfect.world, torch.tensor([[2, *[4] * 8, 3]]), 0.3, torch.full((191,), 1 / 191)),
            "reads words only",
        ),
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
