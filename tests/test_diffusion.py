"""Masked diffusion: the two forms of the bound, the sampler's steps, orders and draws."""

import itertools
import math

import pytest
import torch
from oracles import EXACT, batch, config, perturbed, words

from nextbert_lite.core.diffusion import ORDERS, diffusion_loss, fill_gaps, hide_words
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.corpora.bayes import PerfectModel
from nextbert_lite.corpora.toy_world import COURSE_SENTENCE, ToyWorld

TOKENIZER = words(35)  # ids 0 to 39
MASK = TOKENIZER.mask_id


@pytest.fixture(scope="module")
def model():
    return perturbed(MaskedLanguageModel(Encoder(config())))


@pytest.fixture(scope="module")
def texts():
    ids, _ = batch([7, 4, 9])
    return ids


def seeded(number=0):
    return torch.Generator().manual_seed(number)


def test_without_rates_each_number_of_hidden_words_is_equally_likely_and_never_a_special_token():
    ids = torch.tensor([[2, *range(5, 10), 3, 0]] * 6000)
    hidden = hide_words(ids, TOKENIZER, generator=seeded())
    assert not hidden[:, [0, 6, 7]].any()
    counts = hidden.sum(1).bincount(minlength=6)
    assert counts[0] == 0 and (counts[1:] - 1200).abs().max() < 5 * math.sqrt(1200)
    assert (hidden.sum(0)[1:6] - 3600).abs().max() < 5 * math.sqrt(6000 / 4)


def test_with_rates_each_word_is_hidden_by_a_draw_of_its_own():
    ids = torch.tensor([[2, *range(5, 10), 3]] * 6000)
    rates = torch.tensor([0.2, 0.7]).repeat(3000)
    hidden = hide_words(ids, TOKENIZER, rates, seeded())[:, 1:6].double()
    for rate, rows in ((0.2, hidden[::2]), (0.7, hidden[1::2])):
        assert (rows.mean(0) - rate).abs().max() < 5 * math.sqrt(rate * (1 - rate) / 3000)
        together = (rows[:, 0] * rows[:, 1]).mean()
        assert abs(together - rate**2) < 5 * math.sqrt(rate**2 / 3000)


def test_the_mean_over_all_masks_is_the_mean_over_all_orders(model):
    ids = torch.tensor([[2, 7, 8, 9, 3]])
    places = (1, 2, 3)
    by_order = 0.0
    for order in itertools.permutations(places):
        seen = ids.masked_fill(torch.tensor([[False, True, True, True, False]]), MASK)
        for t in order:
            by_order -= model(seen)[0, t].log_softmax(-1)[ids[0, t]] / 6
            seen[0, t] = ids[0, t]
    by_mask = 0.0
    for k in (1, 2, 3):
        sets = list(itertools.combinations(places, k))
        for chosen in sets:
            hidden = torch.zeros(1, 5, dtype=torch.bool)
            hidden[0, list(chosen)] = True
            by_mask += 3 * diffusion_loss(model, ids, hidden, TOKENIZER) / len(sets) / 3
    torch.testing.assert_close(by_mask, by_order, **EXACT)


def test_rates_weigh_a_texts_losses_by_one_over_its_rate(model, texts):
    rates = torch.tensor([0.5, 0.25, 0.8], dtype=torch.float64)
    hidden = hide_words(texts, TOKENIZER, rates.float(), seeded(3))
    log_p = model(texts.masked_fill(hidden, MASK)).log_softmax(-1)
    total = sum(
        -log_p[b, t, texts[b, t]] / rates[b] for b, t in hidden.nonzero().tolist()
    )  # both forms divide by all words
    torch.testing.assert_close(
        diffusion_loss(model, texts, hidden, TOKENIZER, rates), total / (texts >= 5).sum(), **EXACT
    )


def test_the_perfect_model_meets_the_bound():
    world = ToyWorld()
    perfect = PerfectModel(world, rate=1e-6)
    ids, _ = world.sample_ids(2000, seed=3)
    texts = [world.tokenizer().decode(row) for row in ids]
    n = (ids >= 5).sum(1)
    length = torch.tensor([world.frame_probabilities[world.lengths == k].sum().log() for k in n.tolist()])
    exact = length - world.log_probability(texts)
    hidden = hide_words(ids, world.tokenizer(), generator=seeded())
    bound = diffusion_loss(lambda ids: perfect(ids).log(), ids, hidden, world.tokenizer()) * n.sum() / len(ids)
    assert abs(bound - exact.mean()) < 4 * 8.5 / math.sqrt(2000)  # a sentence's estimate has a deviation of about 8.5


def test_masks_lie_on_the_device_of_the_ids():
    ids = torch.empty(3, 7, dtype=torch.int64, device="meta")  # a device that every machine has
    assert hide_words(ids, TOKENIZER, generator=seeded()).device == ids.device
    assert hide_words(ids, TOKENIZER, torch.ones(3, device="meta"), seeded()).device == ids.device


def test_a_batch_without_a_word_has_no_loss_a_word(model):
    ids = torch.tensor([[2, 3, 0]])
    with pytest.raises(ValueError, match="the batch has no word, special tokens only"):
        diffusion_loss(model, ids, torch.zeros(1, 3, dtype=torch.bool), TOKENIZER, torch.ones(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.ones(3, 9, dtype=torch.bool)}, "a special token is hidden"),
        ({"hidden": torch.zeros(3, 9, dtype=torch.bool)}, "no word of a text is hidden, so it has no n / k"),
        ({"hidden": torch.zeros(3, 9)}, r"hidden must be booleans of the shape \(3, 9\)"),
        ({"rates": torch.tensor([0.5, 0.0, 1.0])}, "rates must be 3 numbers, one a text, greater than 0"),
        ({"rates": torch.tensor([0.5])}, "rates must be 3 numbers"),
    ],
    ids=["specials", "none", "no booleans", "a rate of 0", "one rate"],
)
def test_what_cannot_be_weighed_is_refused(change, message, model):
    ids = torch.tensor([[2, *range(5, 12), 3]] * 3)
    given = {"hidden": hide_words(ids, TOKENIZER, generator=seeded()), "rates": None} | change
    with pytest.raises(ValueError, match=message):
        diffusion_loss(model, ids, given["hidden"], TOKENIZER, given["rates"])


def gaps(*counts):
    T = max(counts)
    return torch.tensor([[2, *[MASK] * g, *[9] * (T - g), 3] for g in counts])


class Watched:
    """A model that remembers what it was shown; word 30 + t has the probability 0.9 at place t."""

    def __init__(self):
        self.seen = []

    def __call__(self, ids):
        self.seen.append(ids.clone())
        logits = torch.zeros(*ids.shape, 40)
        logits[:, torch.arange(ids.shape[1]), 30 + torch.arange(ids.shape[1])] = math.log(9 * 34)
        logits[..., :5] = 9.0  # special tokens are likeliest by far, and never written
        return logits


@pytest.mark.parametrize("order", ORDERS)
def test_all_gaps_are_written_in_equal_steps_and_nothing_else_is_touched(order):
    ids, model = gaps(7, 4, 1), Watched()
    before = ids.clone()
    whole = fill_gaps(model, ids, TOKENIZER, 3, order, generator=seeded())
    assert torch.equal(ids, before) and torch.equal(whole[ids != MASK], ids[ids != MASK])
    assert not torch.isin(whole[ids == MASK], torch.tensor(TOKENIZER.special_ids)).any()
    assert [(seen == MASK).sum(1).tolist() for seen in model.seen] == [[7, 4, 1], [4, 2, 0], [2, 1, 0]]
    for earlier, later in itertools.pairwise([*model.seen, whole]):
        assert torch.equal(earlier[earlier != MASK], later[earlier != MASK])


def test_words_come_as_often_as_their_probability_says_and_the_temperature_divides_the_logits():
    ids = gaps(1).repeat(3000, 1)
    for temperature in (1.0, 2.0):
        whole = fill_gaps(Watched(), ids, TOKENIZER, 1, temperature=temperature, generator=seeded(1))
        odds = (9 * 34) ** (1 / temperature)
        p = odds / (odds + 34)
        assert abs((whole[:, 1] == 31).double().mean() - p) < 5 * math.sqrt(p * (1 - p) / 3000)


def after_the_first_step(model, ids, order):
    """Return the texts as the model sees them in its second call, one word written."""
    shown = []
    fill_gaps(
        lambda ids: shown.append(ids) or model(ids), ids, TOKENIZER, int((ids[0] == MASK).sum()), order, 1.0, seeded()
    )
    return shown[1]


def test_the_surest_place_is_chosen_by_its_distribution_and_not_by_what_was_drawn():
    def model(ids):
        logits = torch.full((*ids.shape, 40), -30.0)
        logits[:, 1, 5:7] = 0.0  # ½, ½
        logits[:, 2, 5:9] = torch.tensor([0.7, 0.1, 0.1, 0.1]).log()
        return logits

    firsts = {}
    for order in ("surest", "drawn"):
        shown = after_the_first_step(model, gaps(2).repeat(2000, 1), order)
        firsts[order] = (shown[:, 2] != MASK).double().mean()
    assert firsts["surest"] == 1 and abs(firsts["drawn"] - 0.7) < 0.05


def test_left_writes_from_the_left_and_random_differs_from_text_to_text():
    left = after_the_first_step(Watched(), gaps(4).repeat(400, 1), "left")
    assert (left[:, 1] != MASK).all() and (left[:, 2:5] == MASK).all()
    first = (after_the_first_step(Watched(), gaps(4).repeat(400, 1), "random")[:, 1:5] != MASK).double().mean(0)
    assert (first - 0.25).abs().max() < 0.11


def test_the_same_generator_writes_the_same_text_and_torchs_own_is_left_alone(model):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, other, third = (fill_gaps(model, gaps(6, 3), TOKENIZER, 4, generator=seeded(s)) for s in (5, 5, 6))
    assert torch.equal(one, other) and not torch.equal(one, third)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("training", [True, False])
def test_it_writes_without_dropout_and_gives_the_mode_back(training):
    noisy = perturbed(MaskedLanguageModel(Encoder(config(dropout=0.5)))).train(training)
    ids = gaps(6)
    whole = fill_gaps(noisy, ids, TOKENIZER, 6, generator=seeded())
    assert noisy.training is training
    assert torch.equal(whole, fill_gaps(noisy.eval(), ids, TOKENIZER, 6, generator=seeded()))


def test_a_model_that_raises_an_error_gets_its_mode_back():
    noisy = MaskedLanguageModel(Encoder(config())).train()
    with pytest.raises(ValueError, match="outside this model's vocabulary"):
        fill_gaps(noisy, gaps(3).masked_fill(gaps(3) == 3, 10**6), TOKENIZER, 3)
    assert noisy.training


def test_the_smallest_temperature_writes_the_likeliest_word():
    def forbids(ids):
        return Watched()(ids).index_fill(-1, torch.tensor([20]), -math.inf)

    whole = fill_gaps(forbids, gaps(4), TOKENIZER, 2, temperature=1e-320, generator=seeded())
    assert whole[0, 1:5].tolist() == [31, 32, 33, 34]


def test_one_word_a_step_the_perfect_model_writes_only_possible_sentences():
    world = ToyWorld()
    perfect = PerfectModel(world, rate=1e-6)
    ids = torch.tensor([world.tokenizer().encode(COURSE_SENTENCE)]).repeat(60, 1)
    ids[:, 1:-1] = MASK
    for order in ORDERS:
        whole = fill_gaps(lambda ids: perfect(ids).log(), ids, world.tokenizer(), 11, order, generator=seeded())
        assert world.log_probability([world.tokenizer().decode(row) for row in whole]).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be a whole number of at least 1"),
        ({"steps": 2, "order": "best"}, "order is 'best'; choose one of random, left, surest, drawn"),
        ({"steps": 2, "temperature": 0.0}, "temperature is 0.0; it must be a number greater than 0"),
        ({"steps": 2, "temperature": "a"}, "temperature is 'a'; it must be a number greater than 0"),
    ],
    ids=["steps", "order", "temperature", "a letter"],
)
def test_what_cannot_be_written_is_refused(options, message, model):
    with pytest.raises(ValueError, match=message):
        fill_gaps(model, gaps(3), TOKENIZER, **options)
