"""The contrastive losses are those of other libraries; a sentence encoder gives what its parts give, in any chunks."""

import math
import weakref
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import EXACT, FLOAT32, batch, config, few, perturbed, words
from scipy.special import gammaln, ive
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nextbert_lite.core.contrastive import (
    POOLINGS,
    SentenceEncoder,
    alignment,
    info_nce_loss,
    nt_xent_loss,
    pool,
    uniformity,
)
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.corpora.toy_world import ToyWorld
from nextbert_lite.training.batches import PairBatches, same_texts
from nextbert_lite.training.loop import fit

TEMPERATURES = [0.05, 0.5, 1.0]
DTYPES = [(torch.float64, EXACT), FLOAT32]


def vectors(*numbers, C=8, seed=0, dtype=torch.float64):
    """Return one (n, C) tensor of random vectors for each number; their lengths vary."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(n, C, generator=generator, dtype=torch.float64) for n in numbers]
    return [(x * torch.linspace(0.2, 5, len(x))[:, None]).to(dtype) for x in drawn]


def value_and_gradients(loss, *inputs):
    inputs = [x.clone().requires_grad_() for x in inputs]
    value = loss(*inputs)
    return value, *torch.autograd.grad(value, inputs)


def looped(anchors, positives, temperature, negatives=None, same=None):
    """InfoNCE as the paper writes it, with loops: -log of the positive's share of all exponentials."""
    keys = [*positives, *([] if negatives is None else negatives)]
    total = 0.0
    for i, anchor in enumerate(anchors):
        e = [torch.exp(anchor @ key / anchor.norm() / key.norm() / temperature) for key in keys]
        hidden = [j for j in range(len(anchors)) if same is not None and j != i and same[i, j]]
        total = total - torch.log(e[i] / sum(x for j, x in enumerate(e) if j not in hidden))
    return total / len(anchors)


# --- the losses beside other libraries --------------------------------------------------------------------------------


def metric_learning(temperature, symmetric):
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    return SelfSupervisedLoss(NTXentLoss(temperature), symmetric=symmetric)


def sentence_transformers(temperature, symmetric=False):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    both = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"} if symmetric else {}
    theirs = MultipleNegativesRankingLoss(nn.Identity(), scale=1 / temperature, **both)
    return lambda *columns: theirs.compute_loss_from_embeddings(list(columns), None)


def compare(ours, theirs, *inputs, tolerance=EXACT):
    """Assert that two losses have the same value and the same gradients."""
    for a, b in zip(value_and_gradients(ours, *inputs), value_and_gradients(theirs, *inputs), strict=True):
        assert_close(a, b, **tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_info_nce_equals_pytorch_metric_learnings(temperature, dtype, tolerance):
    theirs = metric_learning(temperature, symmetric=False)
    compare(lambda a, b: info_nce_loss(a, b, temperature), theirs, *vectors(6, 6, dtype=dtype), tolerance=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_nt_xent_equals_pytorch_metric_learnings(temperature, dtype, tolerance):
    theirs = metric_learning(temperature, symmetric=True)
    compare(lambda a, b: nt_xent_loss(a, b, temperature), theirs, *vectors(6, 6, dtype=dtype), tolerance=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_info_nce_equals_sentence_transformers(temperature, symmetric, dtype, tolerance):
    theirs = sentence_transformers(temperature, symmetric)
    compare(
        lambda a, b: info_nce_loss(a, b, temperature, symmetric),
        theirs,
        *vectors(6, 6, dtype=dtype),
        tolerance=tolerance,
    )


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("columns", [1, 3])
def test_hard_negatives_equal_sentence_transformers(columns, symmetric):
    """There, too, each anchor has the negatives of all, and the way back has none."""
    compare(
        lambda a, b, *n: info_nce_loss(a, b, 0.1, symmetric, negatives=torch.cat(n)),
        sentence_transformers(0.1, symmetric),
        *vectors(6, 6, *[6] * columns),
    )


def test_the_default_is_sentence_transformers_default():
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    theirs = MultipleNegativesRankingLoss(nn.Identity())
    compare(info_nce_loss, lambda a, b: theirs.compute_loss_from_embeddings([a, b], None), *vectors(6, 6))


@pytest.mark.parametrize(
    ("mistake", "wrong"),
    [
        ("the positive taken out of the denominator", lambda a, b: wrong_denominator(a, b)),
        ("no normalisation", lambda a, b: nn.functional.cross_entropy(a @ b.T / 0.5, torch.arange(6))),
        ("times the temperature", lambda a, b: info_nce_loss(a, b, 2.0)),
        ("searched from the positives", lambda a, b: info_nce_loss(b, a, 0.5)),
        ("both directions summed", lambda a, b: 2 * info_nce_loss(a, b, 0.5, symmetric=True)),
        ("NT-Xent", lambda a, b: nt_xent_loss(a, b, 0.5)),
    ],
)
def test_the_comparison_catches(mistake, wrong):
    with pytest.raises(AssertionError, match="not close"):
        compare(wrong, metric_learning(0.5, symmetric=False), *vectors(6, 6))


def wrong_denominator(a, b):
    scores = nn.functional.normalize(a) @ nn.functional.normalize(b).T / 0.5
    others = scores.masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf)
    return (others.logsumexp(1) - scores.diagonal()).mean()


# --- the losses, properties -------------------------------------------------------------------------------------------

batch_sizes = st.integers(2, 7)
seeds = st.integers(0, 10**6)
temperatures = st.floats(0.05, 5)


@few
@given(B=batch_sizes, N=st.integers(0, 4), seed=seeds, temperature=temperatures, share=st.floats(0, 1))
def test_info_nce_equals_its_formula_in_loops(B, N, seed, temperature, share):
    a, b, n = vectors(B, B, N, seed=seed)
    negatives = n if N else None
    same = torch.rand(B, B, generator=torch.Generator().manual_seed(seed)) < share
    loss = info_nce_loss(a, b, temperature, negatives=negatives, same=same)
    assert_close(loss, looped(a, b, temperature, negatives, same), **EXACT)


@few
@given(B=batch_sizes, seed=seeds, temperature=temperatures)
def test_nt_xent_equals_its_formula_in_loops(B, seed, temperature):
    a, b = vectors(B, B, seed=seed)
    views, total = [*a, *b], 0.0
    for i, view in enumerate(views):
        e = [torch.exp(view @ other / view.norm() / other.norm() / temperature) for other in views]
        total = total - torch.log(e[(i + B) % (2 * B)] / (sum(e) - e[i]))
    assert_close(nt_xent_loss(a, b, temperature), total / (2 * B), **EXACT)


@few
@given(B=batch_sizes, seed=seeds, temperature=temperatures)
def test_the_losses_keep_to_their_bounds(B, seed, temperature):
    """Cosines lie between -1 and 1: at best the positive is 2 / temperature above all others, at worst below."""
    a, b = vectors(B, B, C=3, seed=seed)
    gap = 2 / temperature
    for loss, wrong in (
        (info_nce_loss(a, b, temperature), B - 1),
        (info_nce_loss(a, b, temperature, symmetric=True), B - 1),
        (info_nce_loss(a, b, temperature, negatives=a), 2 * B - 1),
        (nt_xent_loss(a, b, temperature), 2 * B - 2),
    ):
        least, most = (math.log1p(wrong * math.exp(sign * gap)) for sign in (-1, 1))
        assert loss >= 0 and least - 1e-12 <= loss <= most + 1e-12


@few
@given(B=batch_sizes, seed=seeds, temperature=temperatures)
def test_vectors_at_right_angles_give_the_logarithm_of_the_number_of_answers(B, seed, temperature):
    frame, _ = torch.linalg.qr(vectors(2 * B, C=2 * B, seed=seed)[0])
    a, b = frame[:B], frame[B:]  # unrelated, as random vectors of high dimension nearly are
    assert_close(info_nce_loss(a, b, temperature).item(), math.log(B), **EXACT)
    assert_close(nt_xent_loss(a, b, temperature).item(), math.log(2 * B - 1), **EXACT)
    found = math.log1p((B - 1) * math.exp(-1 / temperature))  # each is its own positive
    assert_close(info_nce_loss(a, a, temperature).item(), found, **EXACT)


def test_a_collapsed_encoder_has_the_loss_of_guessing():
    """All vectors alike: the bare loss without negatives would be content, this one is not."""
    x = torch.ones(6, 8, dtype=torch.float64)
    assert_close(info_nce_loss(x, x).item(), math.log(6), **EXACT)
    assert_close(nt_xent_loss(x, x).item(), math.log(11), **EXACT)
    assert alignment(x, x) == 0 and uniformity(x) == 0


@few
@given(B=batch_sizes, seed=seeds, symmetric=st.booleans())
def test_the_order_of_the_pairs_the_lengths_of_the_vectors_and_a_rotation_do_not_matter(B, seed, symmetric):
    a, b, n, square = vectors(B, B, 3, 8, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    order, others = torch.randperm(B, generator=generator), torch.randperm(3, generator=generator)
    rotation, _ = torch.linalg.qr(square)
    loss = info_nce_loss(a, b, 0.1, symmetric, n)
    assert_close(info_nce_loss(a[order], b[order], 0.1, symmetric, n[others]), loss, **EXACT)
    assert_close(info_nce_loss(3 * a, b / 7, 0.1, symmetric, 2 * n), loss, **EXACT)
    assert_close(info_nce_loss(a @ rotation, b @ rotation, 0.1, symmetric, n @ rotation), loss, **EXACT)
    both = nt_xent_loss(a, b)
    assert_close(nt_xent_loss(b[order], 4 * a[order]), both, **EXACT)
    exchanged = torch.rand(B, 1, generator=generator) < 0.5  # which of its two views a text calls the first
    assert_close(nt_xent_loss(torch.where(exchanged, a, b), torch.where(exchanged, b, a)), both, **EXACT)


def test_the_order_of_the_positives_alone_matters():
    a, b = vectors(6, 6)
    assert (info_nce_loss(a, b.flip(0)) - info_nce_loss(a, b)).abs() > 0.1
    assert (nt_xent_loss(a, b.flip(0)) - nt_xent_loss(a, b)).abs() > 0.1


@few
@given(B=batch_sizes, seed=seeds, share=st.floats(0, 1))
def test_the_symmetric_loss_is_the_mean_of_both_directions(B, seed, share):
    a, b, n = vectors(B, B, 3, seed=seed)
    same = torch.rand(B, B, generator=torch.Generator().manual_seed(seed)) < share  # not the same both ways
    both = (info_nce_loss(a, b, 0.2, same=same) + info_nce_loss(b, a, 0.2, same=same.T)) / 2
    assert_close(info_nce_loss(a, b, 0.2, symmetric=True, same=same), both, **EXACT)
    assert_close(info_nce_loss(b, a, 0.2, symmetric=True, same=same.T), both, **EXACT)
    with_negatives = (info_nce_loss(a, b, 0.2, negatives=n) + info_nce_loss(b, a, 0.2)) / 2
    assert_close(info_nce_loss(a, b, 0.2, symmetric=True, negatives=n), with_negatives, **EXACT)


def test_one_pair_with_negatives_has_a_loss():
    a, b, n = vectors(1, 1, 3)
    assert_close(info_nce_loss(a, b, 0.5, negatives=n), looped(a, b, 0.5, n), **EXACT)


def test_the_loss_and_its_gradient_stay_finite_at_a_small_temperature():
    a, b = vectors(6, 6, dtype=torch.float32)
    for loss in (info_nce_loss, nt_xent_loss):
        value, *gradients = value_and_gradients(lambda a, b, loss=loss: loss(a, b, 0.001), a, b)
        assert value > 100 and all(g.isfinite().all() for g in gradients)  # e to the power of 1000 is no float32


# --- false negatives --------------------------------------------------------------------------------------------------


def test_two_identical_positives_are_not_each_others_negatives():
    texts = ["a", "b", "c", "d"], ["x", "y", "x", "z"]
    a, b = vectors(4, 4)
    b[2] = b[0]
    same = same_texts(*texts)
    total = 0.0
    for i in range(4):
        kept = [j for j in range(4) if j == i or {i, j} != {0, 2}]  # the loss with that column removed
        total = total + info_nce_loss(a[[i]], b[[i]], 0.1, negatives=b[[j for j in kept if j != i]])
    assert_close(info_nce_loss(a, b, 0.1, same=same), total / 4, **EXACT)
    assert info_nce_loss(a, b, 0.1, same=same) < info_nce_loss(a, b, 0.1)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_masked_negative_gets_no_gradient(symmetric):
    a, b = vectors(4, 4)
    same = torch.zeros(4, 4, dtype=torch.bool)
    same[3, :3] = same[:3, 3] = True  # pair 3 is no wrong answer for anyone, and no one for it
    _, *masked = value_and_gradients(lambda a, b: info_nce_loss(a, b, 0.5, symmetric, same=same), a, b)
    _, *free = value_and_gradients(lambda a, b: info_nce_loss(a, b, 0.5, symmetric), a, b)
    for gradient, unmasked in zip(masked, free, strict=True):
        assert (gradient[3] == 0).all() and (gradient[:3] != 0).any(1).all()
        assert (unmasked[3] != 0).any()
    alone = value_and_gradients(lambda a, b: info_nce_loss(a, b, 0.5, symmetric) * 3 / 4, a[:3], b[:3])
    for gradient, expected in zip(masked, alone[1:], strict=True):
        assert_close(gradient[:3], expected, **EXACT)


def test_when_all_are_the_same_the_loss_and_its_gradient_are_zero():
    same = torch.ones(4, 4, dtype=torch.bool)
    loss, *gradients = value_and_gradients(lambda a, b: info_nce_loss(a, b, symmetric=True, same=same), *vectors(4, 4))
    assert loss == 0 and not any(g.any() for g in gradients)


def test_an_anchors_own_positive_is_never_masked():
    a, b = vectors(4, 4)
    with_diagonal, without = torch.eye(4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    for same in (with_diagonal, without):
        assert torch.equal(info_nce_loss(a, b, same=same), info_nce_loss(a, b))


def test_hard_negatives_stay_where_positives_are_masked():
    a, b, n = vectors(4, 4, 2)
    same = torch.ones(4, 4, dtype=torch.bool)
    expected = torch.stack([info_nce_loss(a[[i]], b[[i]], 0.5, negatives=n) for i in range(4)]).mean()
    assert_close(info_nce_loss(a, b, 0.5, negatives=n, same=same), expected, **EXACT)


# --- pooling, alignment, uniformity -----------------------------------------------------------------------------------

lengths_of_texts = st.lists(st.integers(1, 8), min_size=1, max_size=5)


@few
@given(lengths=lengths_of_texts, seed=seeds, garbage=st.floats(-1e6, 1e6))
def test_the_mean_is_over_real_tokens_and_padding_never_counts(lengths, seed, garbage):
    _, mask = batch(lengths)
    hidden = torch.randn(*mask.shape, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = torch.stack([sum(row[:n]) / n for row, n in zip(hidden, lengths, strict=True)])
    assert_close(pool(hidden, mask), expected, **EXACT)
    filled = hidden.masked_fill(~mask[:, :, None], garbage)
    assert torch.equal(pool(filled, mask), pool(hidden, mask))
    assert torch.equal(pool(filled, mask, "cls"), hidden[:, 0])


@pytest.mark.parametrize("how", ["mean", "cls"])
def test_pooling_equals_sentence_transformers(how):
    from sentence_transformers.sentence_transformer.modules import Pooling

    _, mask = batch([7, 4, 1])
    hidden = torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = Pooling(8, pooling_mode=how)({"token_embeddings": hidden, "attention_mask": mask.long()})
    assert_close(pool(hidden, mask, how), theirs["sentence_embedding"], **EXACT)


def test_one_mask_serves_all_texts():
    hidden = torch.randn(3, 4, 2, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, False]])
    assert torch.equal(pool(hidden, mask), pool(hidden, mask.expand(3, 4)))


@few
@given(N=st.integers(2, 8), seed=seeds, t=st.floats(0.1, 4))
def test_alignment_and_uniformity_equal_their_formulas_in_loops(N, seed, t):
    a, b = vectors(N, N, C=5, seed=seed)
    unit_a, unit_b = ([v / v.norm() for v in x] for x in (a, b))
    aligned = sum((x - y).norm() ** 2 for x, y in zip(unit_a, unit_b, strict=True)) / N
    assert_close(alignment(a, b), aligned, **EXACT)
    pairs = [torch.exp(-t * (unit_a[i] - unit_a[j]).norm() ** 2) for i in range(N) for j in range(i)]
    assert_close(uniformity(a, t), torch.log(sum(pairs) / len(pairs)), **EXACT)


def test_alignment_of_known_pairs():
    x = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    for factor, angle in ((2.0, 0.0), (-2.0, 4.0)):
        assert_close(alignment(x, factor * x).item(), angle)
    assert_close(alignment(x, x.flip(1)).item(), 2.0)  # at right angles


def test_unrelated_pairs_have_the_alignment_two():
    N, C = 4000, 64
    a, b = torch.randn(2, N, C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    standard_error = 2 / math.sqrt(C * N)  # of 2 - 2 cos, whose cosine has the variance 1 / C
    assert abs(alignment(a, b).item() - 2) < 5 * standard_error


@pytest.mark.parametrize("C", [2, 3, 16, 128])
def test_the_uniformity_of_an_even_sphere_is_the_integral(C):
    """E exp(-2t + 2t cos) over the sphere is a Bessel function; for large C it is nearly exp(-2t + 2t² / C)."""
    N, t = 3000, 2.0
    x = torch.randn(N, C, generator=torch.Generator().manual_seed(C), dtype=torch.float64)
    k, order = 2 * t, C / 2 - 1
    # log of Γ(C/2) (2/k)^order I_order(k) exp(-k)
    expected = gammaln(C / 2) + order * math.log(2 / k) + math.log(ive(order, k))
    assert abs(uniformity(x, t).item() - expected) < 0.01
    if C == 128:
        assert abs(expected - (-2 * t + 2 * t * t / C)) < 1e-3


def test_uniformity_of_known_points():
    poles = torch.tensor([[1.0, 0.0], [-3.0, 0.0]])
    assert_close(uniformity(poles).item(), -8.0)  # a squared distance of 4, times t = 2
    assert_close(uniformity(poles, t=0.5).item(), -2.0)
    assert uniformity(torch.ones(5, 3)) == 0


def test_the_gradient_of_uniformity_is_finite_where_two_vectors_are_the_same():
    (x,) = vectors(5)
    x[3] = x[1]
    _, gradient = value_and_gradients(uniformity, x)
    assert gradient.isfinite().all() and gradient.any()


# --- the sentence encoder ---------------------------------------------------------------------------------------------

ENCODERS = {norm: perturbed(Encoder(config(norm=norm))) for norm in ("post", "pre")}


def sentence_encoder(pooling="mean", norm="post", **options):
    return SentenceEncoder(ENCODERS[norm], pooling, **options)


def test_each_pooling_is_what_its_name_says():
    ids, mask = batch([7, 4, 1])
    encoder = ENCODERS["post"]
    with torch.no_grad():
        first, last = encoder.embed(ids), encoder(ids)
        assert_close(sentence_encoder("mean")(ids, mask), pool(last, mask), **EXACT)
        assert_close(sentence_encoder("cls")(ids, mask), last[:, 0], **EXACT)
        expected = (pool(first, mask) + pool(last, mask)) / 2
        assert_close(sentence_encoder("first-last")(ids, mask), expected, **EXACT)


@few
@given(
    pooling=st.sampled_from(POOLINGS),
    norm=st.sampled_from(["post", "pre"]),
    lengths=lengths_of_texts,
    extra=st.integers(0, 4),
    seed=seeds,
    given_mask=st.booleans(),
)
def test_padding_never_changes_a_texts_vector(pooling, norm, lengths, extra, seed, given_mask):
    model = sentence_encoder(pooling, norm)
    ids, mask = (nn.functional.pad(x, (0, extra)) for x in batch(lengths, seed=seed))
    with torch.no_grad():
        together = model(ids, mask) if given_mask else model(ids)
        for row, length in enumerate(lengths):
            assert_close(together[row], model(ids[row : row + 1, :length])[0], **EXACT)


@few
@given(lengths=lengths_of_texts, chunk=st.integers(1, 6), cache=st.booleans(), seed=seeds, grad=st.booleans())
def test_chunks_give_what_the_whole_batch_gives_in_its_order(lengths, chunk, cache, seed, grad):
    ids, mask = batch(lengths, seed=seed)
    with torch.set_grad_enabled(grad):
        parts = sentence_encoder(chunk=chunk, cache=cache).encode(ids, mask)
        assert parts.requires_grad == grad
        assert_close(parts, sentence_encoder()(ids, mask), **EXACT)


def test_a_chunk_holds_texts_of_like_length_and_no_padding_beyond_the_longest(monkeypatch):
    shapes = []

    def watched(ids, mask):
        shapes.append(tuple(ids.shape))
        return Encoder.forward(ENCODERS["post"], ids, mask)

    monkeypatch.setattr(ENCODERS["post"], "forward", watched)
    ids, mask = batch([9, 2, 7, 1, 3])
    sentence_encoder(chunk=2).encode(ids, mask)
    assert shapes == [(2, 2), (2, 7), (1, 9)]


@pytest.mark.parametrize("options", [{}, {"chunk": 2}, {"chunk": 2, "cache": True}], ids=str)
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_of_a_batch_is_info_nce_of_its_vectors(symmetric, options):
    model = sentence_encoder(temperature=0.3, symmetric=symmetric, **options)
    (ids, mask), (positive_ids, positive_mask), (negative_ids, negative_mask) = (
        batch(lengths, seed=seed) for seed, lengths in enumerate([[7, 4, 1], [5, 6, 3], [2, 8]])
    )
    same = torch.zeros(3, 3, dtype=torch.bool)
    same[0, 1] = True
    a, b, n = (model(*x) for x in ((ids, mask), (positive_ids, positive_mask), (negative_ids, negative_mask)))
    for given_same in (None, same):
        loss = model.loss(ids, mask, positive_ids, positive_mask, given_same)
        assert_close(loss, info_nce_loss(a, b, 0.3, symmetric, same=given_same), **EXACT)
        loss = model.loss(ids, mask, positive_ids, positive_mask, given_same, negative_ids, negative_mask)
        assert_close(loss, info_nce_loss(a, b, 0.3, symmetric, n, given_same), **EXACT)


# --- gradient caching -------------------------------------------------------------------------------------------------


def pairs_of(lengths, seed=0):
    """Return a batch of pairs: the arguments of `SentenceEncoder.loss`."""
    ids, mask = batch(lengths, seed=seed)
    positive_ids, positive_mask = batch(lengths[::-1], seed=seed + 1)
    return {"ids": ids, "mask": mask, "positive_ids": positive_ids, "positive_mask": positive_mask}


def trained_once(dropout, lengths, seed=7, **options):
    """Return loss, gradients and torch's random state after one step of a model in training mode."""
    model = SentenceEncoder(perturbed(Encoder(config(dropout=dropout))), **options).train()
    torch.manual_seed(seed)
    loss = model.loss(**pairs_of(lengths))
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}, torch.get_rng_state()


def assert_same_step(one, other):
    assert_close(one[0], other[0], **EXACT)
    assert one[1].keys() == other[1].keys()
    for name in one[1]:
        assert_close(one[1][name], other[1][name], **EXACT)


LENGTHS = [9, 2, 7, 1, 3, 12, 5]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 50])
def test_cached_gradients_are_those_of_the_full_batch(chunk, pooling):
    cached = trained_once(0.0, LENGTHS, pooling=pooling, chunk=chunk, cache=True)
    assert_same_step(cached, trained_once(0.0, LENGTHS, pooling=pooling))
    assert all(gradient.any() for gradient in cached[1].values())


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_with_dropout_cached_gradients_are_those_without_the_cache(chunk, pooling):
    """The masks are drawn again in backward, and must be the same ones."""
    options = {"pooling": pooling, "chunk": chunk}
    cached, plain = (trained_once(0.3, LENGTHS, **options, cache=cache) for cache in (True, False))
    assert_same_step(cached, plain)
    other = trained_once(0.3, LENGTHS, seed=8, **options)
    assert (other[0] - plain[0]).abs() > 1e-6  # dropout is on


def test_with_dropout_one_cached_chunk_is_the_full_batch():
    lengths = [6] * 5  # of one length, so that the full batch draws the same masks
    assert_same_step(trained_once(0.3, lengths, chunk=5, cache=True), trained_once(0.3, lengths))


def test_the_comparison_of_gradients_catches_masks_that_are_drawn_anew(monkeypatch):
    from nextbert_lite.core import contrastive

    original = contrastive.checkpoint
    monkeypatch.setattr(
        contrastive, "checkpoint", lambda *args, **kwargs: original(*args, **kwargs, preserve_rng_state=False)
    )
    with pytest.raises(AssertionError, match="not close"):
        assert_same_step(*(trained_once(0.3, LENGTHS, chunk=2, cache=cache) for cache in (True, False)))


def test_caching_leaves_the_random_state_as_training_without_it_does():
    cached, plain = (trained_once(0.3, LENGTHS, chunk=2, cache=cache) for cache in (True, False))
    assert torch.equal(cached[2], plain[2])


class Memory(TorchDispatchMode):
    """The bytes of all tensors made in its block that are alive, and the most there were at once."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.peak = set(), 0, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self.alive:
                self.alive.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.free, storage._cdata, storage.nbytes())
        return result

    def free(self, key, size):
        self.alive.discard(key)
        self.now -= size


def peak(B, cache, dropout=0.1, T=40, C=16):
    """Return the most bytes that a step of B pairs holds at once, forward and backward."""
    torch.manual_seed(0)
    model = SentenceEncoder(Encoder(config(max_len=T, width=C, dropout=dropout)), chunk=8, cache=cache)
    pairs = pairs_of([T] * B)
    model.loss(**pairs).backward()  # the gradients of the weights are there from now on
    with Memory() as memory:
        model.loss(**pairs).backward()
    return memory.peak


def test_with_the_cache_memory_does_not_grow_with_the_batch():
    """Only ids, masks, vectors and their B × B scores grow, in float32; without the cache all activations do."""
    B, T, C = (32, 64, 128), 40, 16
    cached, plain = ([peak(b, cache, T=T, C=C) for b in B] for cache in (True, False))
    for small, large, b in zip(cached, cached[1:], B[1:], strict=False):
        texts = 2 * (b - b // 2)
        ids, vectors_of_texts, scores = texts * T * 9, texts * C * 4, (b * b - b * b // 4) * 4
        assert large - small <= ids + 8 * vectors_of_texts + 4 * scores
    assert cached[2] < 1.1 * cached[0]
    assert plain[1] > 1.9 * plain[0] and plain[2] > 1.9 * plain[1]  # so the count sees activations
    assert plain[2] > 20 * cached[2]


def test_without_gradients_nothing_is_kept_for_backward(monkeypatch):
    from nextbert_lite.core import contrastive

    monkeypatch.setattr(contrastive, "checkpoint", lambda *_, **__: pytest.fail("there is no backward to prepare"))
    with torch.no_grad():
        sentence_encoder(chunk=2, cache=True).encode(*batch(LENGTHS))


# --- training ---------------------------------------------------------------------------------------------------------


def pair_batches():
    """Batches of four pairs of different lengths."""
    pairs = [([2, *range(5, 6 + i % 7), 5 + i, 3], [2, 5 + i, *range(20, 21 + i % 3), 3]) for i in range(23)]
    return PairBatches(pairs, words(35), 4)


def small_model(**options):
    torch.manual_seed(0)
    return SentenceEncoder(Encoder(config(dropout=0.2)), **options)


def train(model, batches, steps, **options):
    return fit(model, batches, steps, **{"lr": 3e-3, "warmup": 3, "device": "cpu", "progress": False, **options})


def test_a_few_steps_on_the_toy_world_bring_paraphrases_together():
    world = ToyWorld()
    tokenizer = world.tokenizer()
    sentences = [s for s in world.sample(600, seed=0) if world.paraphrases(s)]
    pairs = [[tokenizer.encode(s.text) for s in (sentence, world.paraphrases(sentence)[0])] for sentence in sentences]
    torch.manual_seed(0)
    encoder = Encoder(config(vocab_size=tokenizer.vocab_size, max_len=24, width=32, ffn_width=64))
    model = SentenceEncoder(encoder, temperature=0.1, symmetric=True, chunk=8)
    held_out = PairBatches(pairs[-64:], tokenizer, 64)(0)
    with torch.no_grad():
        before = model.loss(**held_out).item()
    batches = PairBatches(pairs[:-64], tokenizer, 32)
    history = train(model, batches, 60)
    assert sum(history.loss[-5:]) < 0.5 * sum(history.loss[:5])
    assert model.loss(**held_out).item() < 0.6 * before
    b = batches(0)
    assert history.tokens[0] == int(b["mask"].sum() + b["positive_mask"].sum())


@pytest.mark.parametrize("options", [{}, {"chunk": 2, "cache": True}], ids=str)
def test_training_goes_on_from_a_checkpoint_bit_for_bit(options, tmp_path):
    whole, parts = small_model(**options), small_model(**options)
    expected = train(whole, pair_batches(), 8)

    def stopping(step):
        if step == 5:
            raise RuntimeError("the power is gone")
        return pair_batches()(step)

    path = tmp_path / "run.safetensors"
    with pytest.raises(RuntimeError, match="power"):
        train(parts, stopping, 8, checkpoint=path, checkpoint_every=3)
    parts = small_model(**options)
    history = train(parts, pair_batches(), 8, checkpoint=path)
    assert history.loss == expected.loss
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name])


# --- what is refused --------------------------------------------------------------------------------------------------

A, B, N = vectors(4, 4, 3)
IDS, _ = batch([4, 4])
HIDDEN = torch.ones(2, 3, 4)
IMPOSSIBLE = [0, 0.0, -0.1, math.nan, math.inf, True, "0.05", None, torch.tensor(0.1)]
TEMPERATURE = r"temperature is .*; it must be a number greater than 0 \(SimCSE 0\.05"
NO_POOLING = 'there is no pooling {!r} of one layer; choose "mean" or "cls"'
NOT_FINITE = "are not finite: row 2 has NaN.*a learning rate that was too high"


def spoilt(x, value=math.nan):
    """The same vectors, of which number 2 is not finite."""
    return x.index_fill(0, torch.tensor([2]), value)


def bools(*shape):
    return torch.zeros(shape, dtype=torch.bool)


PAIRS = {  # what either loss refuses
    "one pair": (vectors(1, 1), ValueError, "a batch of one has no negatives.*at least two pairs, or give"),
    "fewer positives": ((A, B[:3]), ValueError, r"anchors have the shape \(4, 8\), the positives \(3, 8\); they must"),
    "one positive": ((A, B[:1]), ValueError, r"the anchors have the shape \(4, 8\), the positives \(1, 8\)"),
    "another width": ((A, B[:, :7]), ValueError, r"the anchors have the shape \(4, 8\), the positives \(4, 7\)"),
    "one vector": ((A[0], A[0]), ValueError, r"anchors have the shape \(8,\); expected \(N, C\), one vector a text"),
    "vectors of tokens": ((HIDDEN, HIDDEN), ValueError, r"the anchors have the shape \(2, 3, 4\); expected \(N, C\)"),
    "no pair": ((A[:0], B[:0]), ValueError, r"the anchors have the shape \(0, 8\); .*and at least one text"),
    "lists": (([[1.0, 2.0]],) * 2, TypeError, r"the anchors are list; expected a tensor \(N, C\), .*torch\.as_tensor"),
    "token ids": ((IDS, IDS), TypeError, r"the anchors are torch\.int64; .*An encoder makes vectors of token ids"),
}
for value in (math.nan, math.inf, -math.inf):
    PAIRS[f"an anchor is {value}"] = (spoilt(A, value), B), ValueError, f"the anchors {NOT_FINITE}"
    PAIRS[f"a positive is {value}"] = (A, spoilt(B, value)), ValueError, f"the positives {NOT_FINITE}"
for value in IMPOSSIBLE:
    PAIRS[f"temperature {value!r}"] = (A, B, value), ValueError, TEMPERATURE


@pytest.mark.parametrize("loss", [info_nce_loss, nt_xent_loss])
@pytest.mark.parametrize(("pairs", "error", "message"), PAIRS.values(), ids=PAIRS)
def test_pairs_without_a_loss_are_refused(loss, pairs, error, message):
    with pytest.raises(error, match=message):
        loss(*pairs)


def with_negatives(negatives):
    return info_nce_loss(A, B, negatives=negatives)


def with_same(same):
    return info_nce_loss(A, B, same=same)


def fewer_positives():
    pairs = pairs_of([4, 3, 2])
    return sentence_encoder().loss(**pairs | {name: pairs[name][:2] for name in ("positive_ids", "positive_mask")})


REFUSED = {
    "negatives: NaN": (lambda: with_negatives(spoilt(N)), ValueError, f"the negatives {NOT_FINITE}"),
    "negatives: narrow": (lambda: with_negatives(N[:, :5]), ValueError, "negatives have the width 5, the anchors 8"),
    "negatives: none": (lambda: with_negatives(N[:0]), ValueError, r"negatives have the shape \(0, 8\).*at least one"),
    "same: floats": (lambda: with_same(torch.eye(4)), TypeError, r"`same` is torch\.float32; .*`same_texts` makes one"),
    "same: numbers": (lambda: with_same(torch.eye(4).long()), TypeError, r"`same` is torch\.int64; .*\(B, B\)"),
    "same: a list": (lambda: with_same([[False] * 4] * 4), TypeError, "`same` is list; it must be a torch.bool tensor"),
    "uniformity: NaN": (lambda: uniformity(spoilt(A)), ValueError, f"the embeddings {NOT_FINITE}"),
    "alignment: NaN first": (lambda: alignment(spoilt(A), B), ValueError, f"the embeddings {NOT_FINITE}"),
    "alignment: NaN second": (lambda: alignment(A, spoilt(B)), ValueError, f"the embeddings {NOT_FINITE}"),
    "alignment: a list": (lambda: alignment(A.tolist(), B), TypeError, "the embeddings are list; expected a tensor"),
    "alignment: fewer": (lambda: alignment(A, N), ValueError, r"a has the shape \(4, 8\), b \(3, 8\): row i of both"),
    "uniformity: of one": (lambda: uniformity(A[:1]), ValueError, "uniformity needs at least two vectors, got 1"),
    "pooling: max": (lambda: sentence_encoder("max"), ValueError, "'max'; choose one of mean, cls, first-last"),
    "pool: max": (lambda: pool(HIDDEN, bools(2, 3), "max"), ValueError, NO_POOLING.format("max")),
    "pool: two layers": (lambda: pool(HIDDEN, bools(2, 3), "first-last"), ValueError, NO_POOLING.format("first-last")),
    "chunk: 0": (lambda: sentence_encoder(chunk=0), ValueError, "chunk is 0; it must be at least 1, or None for"),
    "chunk: -1": (lambda: sentence_encoder(chunk=-1), ValueError, "chunk is -1; it must be at least 1, or None"),
    "cache: no chunk": (lambda: sentence_encoder(cache=True), ValueError, "cache needs a chunk: how many texts"),
    "a batch of fewer positives": (fewer_positives, ValueError, r"anchors .* \(3, 16\), the positives \(2, 16\)"),
}
for shape in [(4,), (3, 3), (1, 4), (4, 1), (4, 7)]:
    REFUSED[f"same: {shape}"] = partial(with_same, bools(*shape)), ValueError, r"must be \(B, B\) = \(4, 4\)"
for how in ("mean", "cls"):
    REFUSED[f"{how}: numbers"] = partial(pool, HIDDEN, torch.ones(2, 3).long(), how), TypeError, r"torch\.int64; .*bool"
    for shape in [(2, 4), (3, 2), (3,), (2, 3, 1), (2, 3, 3)]:
        REFUSED[f"{how}: {shape}"] = partial(pool, HIDDEN, bools(*shape), how), ValueError, "does not fit"
for x in IMPOSSIBLE:
    REFUSED[f"temperature: {x!r}"] = partial(sentence_encoder, temperature=x), ValueError, TEMPERATURE


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compared_or_pooled_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("options", [{}, {"chunk": 1}, {"chunk": 2, "cache": True}], ids=str)
def test_empty_and_long_texts_are_refused_in_any_chunk(options):
    model = sentence_encoder(**options)
    ids, mask = batch([4, 3, 2])
    ids[1], mask[1] = 0, False
    with pytest.raises(ValueError, match=r"Leave (out empty texts|empty texts out)"):
        model.encode(ids, mask)
    with pytest.raises(ValueError, match=r"a text of 13 tokens is longer than this model's max_len of 12.*Cut it"):
        model.encode(*batch([4, 13]))
