"""Padding and length buckets: nothing is lost, little is padded."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import few

from nextbert_lite.training.batches import length_buckets, pad, seeded

sequences = st.lists(st.lists(st.integers(1, 1000), min_size=1, max_size=9), min_size=1, max_size=6)


@few
@given(sequences, st.sampled_from([0, 1, -100]))
def test_padding_adds_on_the_right_and_the_mask_says_where(rows, pad_id):
    ids, mask = pad(rows, pad_id)
    T = max(map(len, rows))
    assert ids.shape == mask.shape == (len(rows), T) and ids.dtype == torch.int64 and mask.dtype == torch.bool
    for row, real, given_row in zip(ids, mask, rows, strict=True):
        assert row.tolist() == given_row + [pad_id] * (T - len(given_row))
        assert real.tolist() == [True] * len(given_row) + [False] * (T - len(given_row))


@few
@given(sequences)
def test_tensors_are_padded_like_lists(rows):
    for a, b in zip(pad([torch.tensor(row) for row in rows]), pad(rows), strict=True):
        assert torch.equal(a, b)


def test_the_mask_is_true_at_a_real_token_that_has_the_padding_id():
    assert pad([[5, 0], [5]], 0)[1].tolist() == [[True, True], [True, False]]


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="the batch is empty: give at least one sequence"):
        pad([])


@pytest.mark.parametrize("rows", [[[5], [], [6]], [torch.tensor([5]), torch.tensor([], dtype=torch.int64)]])
def test_an_empty_sequence_is_named(rows):
    with pytest.raises(ValueError, match="sequence 1 of the batch is empty: leave it out"):
        pad(rows)


@few
@given(
    lengths=st.lists(st.integers(1, 99), max_size=120),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 10**6),
)
def test_buckets_hold_each_text_once_in_batches_of_the_size(lengths, batch_size, seed):
    batches = length_buckets(lengths, batch_size, seeded(seed))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert sorted(map(len, batches), reverse=True)[:-1] == [batch_size] * (len(batches) - 1)
    assert len(batches) == -(-len(lengths) // batch_size)


def padded(lengths, batches):
    """Places that hold padding."""
    return sum(len(batch) * max(lengths[i] for i in batch) - sum(lengths[i] for i in batch) for batch in batches)


def test_buckets_pad_far_less_than_random_order():
    lengths = torch.randint(3, 128, (5000,), generator=seeded(1)).tolist()
    order = torch.randperm(5000, generator=seeded(2)).tolist()
    random = [order[i : i + 32] for i in range(0, 5000, 32)]
    assert padded(lengths, length_buckets(lengths, 32, seeded(3))) < 0.1 * padded(lengths, random)


def test_the_order_of_batches_does_not_follow_their_length():
    lengths = list(range(1, 1001))
    first = [lengths[batch[0]] for batch in length_buckets(lengths, 10, seeded(0))]
    assert first != sorted(first) and first != sorted(first, reverse=True)


def test_the_generator_decides_the_buckets():
    lengths = list(range(1, 101))
    assert length_buckets(lengths, 8, seeded(1)) == length_buckets(lengths, 8, seeded(1))
    assert length_buckets(lengths, 8, seeded(1)) != length_buckets(lengths, 8, seeded(2))


@pytest.mark.parametrize("batch_size", [0, -4])
def test_a_batch_size_below_one_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}; it must be a whole number of at least 1"):
        length_buckets([1, 2], batch_size)


def test_seeded_depends_on_every_number_and_on_their_order():
    keys = [(a, b, c) for a in range(4) for b in range(4) for c in range(4)]
    draws = {torch.randint(2**62, (), generator=seeded(*key)).item() for key in keys}
    assert len(draws) == len(keys)
    assert torch.equal(torch.rand(3, generator=seeded(4, 5)), torch.rand(3, generator=seeded(4, 5)))
