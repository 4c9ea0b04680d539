"""Attention is torch's, to the last digits; its mask means one thing and says so."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from oracles import EXACT, FLOAT32, few, perturbed, torch_attention
from torch.testing import assert_close

from nextbert_lite.core.attention import MultiHeadAttention, scaled_dot_product_attention

DTYPES = [(torch.float64, EXACT), FLOAT32]


def qkv(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True) for _ in range(3)]


def random_mask(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.6


def compare_with_torch(tensors, mask, tolerance, planted=lambda mask: mask):
    """Outputs and gradients of ours and torch's; `planted` spoils our mask."""
    ours, weights = scaled_dot_product_attention(*tensors, planted(mask))
    theirs = F.scaled_dot_product_attention(*tensors, attn_mask=mask)
    assert_close(ours, theirs, **tolerance)
    towards = torch.randn(ours.shape, generator=torch.Generator().manual_seed(9), dtype=ours.dtype)
    for a, b in zip(
        torch.autograd.grad((ours * towards).sum(), tensors),
        torch.autograd.grad((theirs * towards).sum(), tensors),
        strict=True,
    ):
        assert a.isfinite().all()
        assert_close(a, b, **tolerance)
    return ours, weights


# --- scaled_dot_product_attention -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 8), (3, 5, 8), (2, 4, 7, 16)])
def test_without_a_mask_it_equals_torchs(shape, dtype, tolerance):
    compare_with_torch(qkv(*shape, dtype=dtype), None, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("mask_shape", [(2, 4, 5, 5), (2, 1, 1, 5), (1, 1, 5, 5), (2, 4, 5, 1)])
def test_with_a_mask_it_equals_torchs(mask_shape, dtype, tolerance):
    compare_with_torch(qkv(2, 4, 5, 8, dtype=dtype), random_mask(*mask_shape), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_a_row_that_may_attend_to_nothing_gives_zeros_here_and_in_torch(dtype, tolerance):
    mask = random_mask(2, 1, 5, 5)
    mask[0, 0, 2] = False  # one token looks at nobody
    mask[1] = False  # a text of padding only
    output, weights = compare_with_torch(qkv(2, 4, 5, 8, dtype=dtype), mask, tolerance)
    nobody = ~mask.any(-1).expand(2, 4, 5)
    assert not output[nobody].any() and not weights[nobody].any()
    assert_close(weights.sum(-1), (~nobody).to(dtype))


def test_queries_and_keys_may_differ_in_number_and_values_in_width():
    q, k, v = qkv(2, 3, 8)[0], qkv(2, 6, 8)[1], qkv(2, 6, 5)[2]
    output, weights = scaled_dot_product_attention(q, k, v)
    assert output.shape == (2, 3, 5) and weights.shape == (2, 3, 6)
    assert_close(output, F.scaled_dot_product_attention(q, k, v), **EXACT)


@few
@given(seed=st.integers(0, 10**6), T=st.integers(1, 7), S=st.integers(1, 7), density=st.floats(0, 1))
def test_weights_are_shares_and_fall_on_allowed_keys_only(seed, T, S, density):
    generator = torch.Generator().manual_seed(seed)
    q = 5 * torch.randn(2, T, 4, generator=generator, dtype=torch.float64)
    k = 5 * torch.randn(2, S, 4, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, T, S, generator=generator) < density
    output, weights = scaled_dot_product_attention(q, k, k, mask)
    assert output.isfinite().all() and (weights >= 0).all()
    assert not weights[~mask].any()
    assert_close(weights.sum(-1), mask.any(-1).double(), **EXACT)


def test_huge_scores_do_not_overflow():
    q, k, v = (1e4 * t for t in qkv(3, 5, 8, dtype=torch.float32))
    output, weights = scaled_dot_product_attention(q, k, v)
    assert output.isfinite().all() and weights.isfinite().all()


@pytest.mark.parametrize(
    ("mistake", "planted"),
    [
        ("an inverted mask", lambda mask: ~mask),
        ("no mask", lambda mask: None),
        ("queries and keys exchanged", lambda mask: mask.transpose(-2, -1)),
    ],
)
def test_the_comparison_with_torch_catches(mistake, planted):
    mask = random_mask(2, 1, 5, 5) | torch.eye(5, dtype=torch.bool)
    with pytest.raises(AssertionError, match="not close"):
        compare_with_torch(qkv(2, 4, 5, 8), mask, EXACT, planted)


def test_the_comparison_with_torch_catches_a_missing_root(monkeypatch):
    monkeypatch.setattr(math, "sqrt", lambda D: D)
    with pytest.raises(AssertionError, match="not close"):
        compare_with_torch(qkv(2, 4, 5, 8), None, EXACT)


def test_dropout_zeroes_that_share_of_the_weights_and_scales_up_the_rest():
    torch.manual_seed(0)
    ones = torch.ones(200, 200, dtype=torch.float64)
    mixed, weights = scaled_dot_product_attention(ones, ones, torch.eye(200, dtype=torch.float64), dropout=0.25)
    assert_close(weights, ones / 200)  # the weights that are returned are those before dropout
    assert set(mixed.mul(200).round(decimals=9).unique().tolist()) == {0.0, round(1 / 0.75, 9)}
    assert abs(float((mixed == 0).double().mean()) - 0.25) < 0.02


# --- MultiHeadAttention -----------------------------------------------------------------------------------------------


def padding(lengths, T):
    return torch.arange(T) < torch.tensor(lengths)[:, None]


def compare_with_multihead(ours, x, real, tolerance, return_weights, planted=lambda mask: mask):
    """Outputs at real tokens, weights, and gradients of input and parameters, of ours and of nn.MultiheadAttention."""
    theirs = torch_attention(ours)
    mask = None if real is None else planted(real[:, None, None, :])
    output, weights = ours(x, mask, return_weights)
    expected, expected_weights = theirs(
        x, x, x, key_padding_mask=None if real is None else ~real, average_attn_weights=False
    )
    valid = torch.ones(x.shape[:2], dtype=torch.bool) if real is None else real
    assert_close(output[valid], expected[valid], **tolerance)
    if return_weights:
        assert_close(weights.transpose(1, 2)[valid], expected_weights.transpose(1, 2)[valid], **tolerance)
    else:
        assert weights is None
    towards = torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=x.dtype)
    mine = torch.autograd.grad((output * towards)[valid].sum(), [x, *ours.parameters()])
    other = torch.autograd.grad((expected * towards)[valid].sum(), [x, *theirs.parameters()])
    for a, b in zip(mine, other, strict=True):
        assert_close(a, b, **tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("return_weights", [True, False], ids=["open", "fused"])
@pytest.mark.parametrize("lengths", [None, [6, 4, 1]], ids=["full", "padded"])
def test_heads_equal_torchs_with_copied_weights(lengths, return_weights, dtype, tolerance):
    ours = perturbed(MultiHeadAttention(16, 4)).to(dtype)
    x = qkv(3, 6, 16, dtype=dtype)[0]
    real = None if lengths is None else padding(lengths, 6)
    compare_with_multihead(ours, x, real, tolerance, return_weights)


@pytest.mark.parametrize("H", [1, 2, 16])
def test_any_number_of_heads_equals_torchs(H):
    compare_with_multihead(perturbed(MultiHeadAttention(16, H)), qkv(2, 5, 16)[0], padding([5, 3], 5), EXACT, True)


@pytest.mark.parametrize("return_weights", [True, False], ids=["open", "fused"])
def test_the_comparison_of_heads_catches_a_missing_padding_mask(return_weights):
    ours, x = perturbed(MultiHeadAttention(16, 4)), qkv(3, 6, 16)[0]
    with pytest.raises(AssertionError, match="not close"):
        compare_with_multihead(ours, x, padding([6, 4, 1], 6), EXACT, return_weights, planted=lambda mask: None)


@few
@given(seed=st.integers(0, 10**6), T=st.integers(1, 6), density=st.floats(0, 1), per_head=st.booleans())
def test_the_open_and_the_fused_path_are_one_function(seed, T, density, per_head):
    ours = perturbed(MultiHeadAttention(8, 2), seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, T, 8, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, 2 if per_head else 1, T, T, generator=generator) < density  # rows may be all False
    opened, weights = ours(x, mask, return_weights=True)
    fused, nothing = ours(x, mask)
    assert nothing is None and weights.shape == (2, 2, T, T)
    assert opened.isfinite().all()
    assert_close(opened, fused, **EXACT)


@pytest.mark.parametrize("return_weights", [True, False], ids=["open", "fused"])
def test_a_text_of_padding_only_gives_finite_zeros_and_finite_gradients(return_weights):
    ours, x = perturbed(MultiHeadAttention(16, 4)), qkv(2, 5, 16)[0]
    output, _ = ours(x, padding([5, 0], 5)[:, None, None, :], return_weights)
    assert_close(output[1], ours.out.bias.expand(5, 16))  # the heads give zeros, so only the bias is left
    output.sum().backward()
    assert x.grad.isfinite().all() and not x.grad[1].any()
    assert all(p.grad.isfinite().all() for p in ours.parameters())


@few
@given(seed=st.integers(0, 10**6), T=st.integers(1, 8))
def test_permuted_tokens_give_permuted_outputs(seed, T):
    ours = perturbed(MultiHeadAttention(8, 2), seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, T, 8, generator=generator, dtype=torch.float64)
    order = torch.randperm(T, generator=generator)
    assert_close(ours(x[:, order])[0], ours(x)[0][:, order], **EXACT)


def test_dropout_acts_in_training_only_on_both_paths():
    ours, x = MultiHeadAttention(16, 4, dropout=0.5), torch.randn(2, 5, 16)
    for return_weights in (True, False):
        ours.train()
        assert not torch.equal(ours(x, None, return_weights)[0], ours(x, None, return_weights)[0])
        ours.eval()
        assert torch.equal(ours(x, None, return_weights)[0], ours(x, None, return_weights)[0])


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.uint8, "list"], ids=str)
def test_a_mask_that_is_not_boolean_is_refused(kind):
    x, mask = torch.zeros(2, 5, 16), [[True, False]] if kind == "list" else torch.ones(2, 5, 5, dtype=kind)
    for call in (lambda: scaled_dot_product_attention(x, x, x, mask), lambda: MultiHeadAttention(16, 4)(x, mask)):
        with pytest.raises(TypeError, match=rf"the mask is {kind};.*torch\.bool.*may be attended to.*mask\.bool\(\)"):
            call()


def test_a_padding_mask_is_not_stretched_over_the_scores_even_where_B_equals_T():
    x = torch.randn(5, 5, 16)  # B = T: torch would broadcast (B, T) as (T, T) in silence
    real = padding([5, 4, 3, 2, 1], 5)
    with pytest.raises(ValueError, match=r"shape \(5, 5\) does not fit.*\(5, 4, 5, 5\).*`mask\[:, None, None, :\]`"):
        MultiHeadAttention(16, 4)(x, real)
    with pytest.raises(ValueError, match=r"shape \(5, 5\) does not fit.*\(5, 5, 5\).*`mask\[:, None, :\]`"):
        scaled_dot_product_attention(x, x, x, real)


@pytest.mark.parametrize("shape", [(5,), (2, 1, 5), (2, 1, 1, 4), (3, 1, 1, 5), (2, 3, 5, 5), (1, 2, 1, 1, 5)])
def test_a_mask_of_another_shape_is_refused_with_both_shapes(shape):
    mask = torch.ones(shape, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"does not fit scores of shape \(2, 4, 5, 5\)") as caught:
        MultiHeadAttention(16, 4)(torch.randn(2, 5, 16), mask)
    assert str(tuple(shape)) in str(caught.value)


@pytest.mark.parametrize(("C", "H"), [(16, 3), (16, 0), (16, 32), (10, 4)])
def test_heads_that_do_not_divide_the_width_are_refused_and_those_that_do_are_named(C, H):
    with pytest.raises(ValueError, match=rf"{H} heads do not divide the width {C}.*\[1, 2, .*{C}\]"):
        MultiHeadAttention(C, H)
