"""Batches lose nothing and pad little; each is a function of the seed and the step alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import few, words

from nextbert_lite.core.masking import IGNORE
from nextbert_lite.training.batches import (
    LabelledBatches,
    MLMBatches,
    PairBatches,
    join_pair,
    length_buckets,
    pad,
    same_texts,
    seeded,
)

TOKENIZER = words(200)
FIRST = len(TOKENIZER.special_ids)
ids_of_texts = st.lists(st.lists(st.integers(1, 1000), min_size=1, max_size=9), min_size=1, max_size=6)


# --- padding ----------------------------------------------------------------------------------------------------------


@few
@given(ids_of_texts, st.sampled_from([0, 1, -100]))
def test_padding_adds_on_the_right_and_the_mask_says_where(rows, pad_id):
    ids, mask = pad(rows, pad_id)
    T = max(map(len, rows))
    assert ids.shape == mask.shape == (len(rows), T) and ids.dtype == torch.int64 and mask.dtype == torch.bool
    for row, real, given_row in zip(ids, mask, rows, strict=True):
        assert row.tolist() == given_row + [pad_id] * (T - len(given_row))
        assert real.tolist() == [True] * len(given_row) + [False] * (T - len(given_row))


@few
@given(ids_of_texts)
def test_tensors_are_padded_like_lists(rows):
    for a, b in zip(pad([torch.tensor(row) for row in rows]), pad(rows), strict=True):
        assert torch.equal(a, b)


def test_the_mask_is_true_at_a_real_token_that_has_the_padding_id():
    assert pad([[5, 0], [5]], 0)[1].tolist() == [[True, True], [True, False]]


# --- length buckets ---------------------------------------------------------------------------------------------------


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


def test_seeded_depends_on_every_number_and_on_their_order():
    keys = [(a, b, c) for a in range(4) for b in range(4) for c in range(4)]
    draws = {torch.randint(2**62, (), generator=seeded(*key)).item() for key in keys}
    assert len(draws) == len(keys)
    assert torch.equal(torch.rand(3, generator=seeded(4, 5)), torch.rand(3, generator=seeded(4, 5)))


# --- MLMBatches -------------------------------------------------------------------------------------------------------


def texts(n=23, seed=0):
    lengths = torch.randint(1, 12, (n,), generator=seeded(seed)).tolist()
    return [
        [TOKENIZER.cls_id, *torch.randint(FIRST, TOKENIZER.vocab_size, (k,), generator=seeded(i)).tolist(), 3]
        for i, k in enumerate(lengths)
    ]


def restored(batch):
    """The texts of a batch as they were before masking, each with which of its tokens were selected and what became."""
    original = torch.where(batch["labels"] != IGNORE, batch["labels"], batch["ids"])
    return {
        tuple(row[real].tolist()): (ids[real].tolist(), labels[real].tolist())
        for row, ids, labels, real in zip(original, batch["ids"], batch["labels"], batch["mask"], strict=True)
    }


def epoch(batches, number):
    seen = {}
    for step in range(number * len(batches), (number + 1) * len(batches)):
        new = restored(batches(step))
        assert not new.keys() & seen.keys()
        seen |= new
    return seen


def test_each_epoch_holds_each_text_once():
    sequences = texts()
    batches = MLMBatches(sequences, TOKENIZER, batch_size=4)
    assert len(batches) == 6
    for number in range(3):
        assert epoch(batches, number).keys() == set(map(tuple, sequences))


def test_padding_has_no_label_and_is_not_attended_to():
    batches = MLMBatches(texts(), TOKENIZER, batch_size=4, rate=1.0)
    for step in range(12):
        batch = batches(step)
        assert torch.equal(batch["mask"], batch["ids"] != TOKENIZER.pad_id)
        assert (batch["labels"][~batch["mask"]] == IGNORE).all()
        assert (batch["labels"] != IGNORE).sum() == batch["mask"].sum() - 2 * len(batch["ids"])  # all but [CLS], [SEP]


def test_dynamic_masks_differ_from_epoch_to_epoch():
    batches = MLMBatches(texts(), TOKENIZER, batch_size=4, rate=0.5)
    first, second, third = (epoch(batches, number) for number in range(3))
    assert first != second and second != third and first != third


def test_one_static_copy_repeats_its_masks_in_every_epoch():
    batches = MLMBatches(texts(), TOKENIZER, batch_size=4, rate=0.5, copies=1)
    assert epoch(batches, 0) == epoch(batches, 1) == epoch(batches, 5)
    order = [batches(step)["ids"].tolist() for step in range(12)]
    assert order[:6] != order[6:]  # the same masks in another order


def test_ten_static_copies_go_round():
    batches = MLMBatches(texts(), TOKENIZER, batch_size=4, rate=0.5, copies=10)
    epochs = [epoch(batches, number) for number in range(21)]
    assert all(epochs[i] == epochs[i + 10] for i in range(11))
    assert all(epochs[i] != epochs[j] for i in range(10) for j in range(i))


def test_static_and_dynamic_masking_begin_with_the_same_masks():
    dynamic, static = (MLMBatches(texts(), TOKENIZER, batch_size=4, copies=copies) for copies in (None, 1))
    assert epoch(dynamic, 0) == epoch(static, 0)


# --- LabelledBatches --------------------------------------------------------------------------------------------------


def numbered(n):
    """n texts of different lengths; text i starts with the id 10 + i and has the label i % 3."""
    return [[10 + i] + [5] * (i % 4) for i in range(n)], [i % 3 for i in range(n)]


def test_each_text_comes_once_an_epoch_with_its_own_label():
    texts, labels = numbered(11)
    batches = LabelledBatches(texts, labels, TOKENIZER, batch_size=4)
    assert len(batches) == 3
    for epoch in range(3):
        seen = []
        for step in range(3 * epoch, 3 * epoch + 3):
            found = batches(step)
            for ids, mask, label in zip(found["ids"], found["mask"], found["labels"], strict=True):
                number = int(ids[0]) - 10
                assert ids[mask].tolist() == texts[number] and int(label) == number % 3
                seen.append(number)
        assert sorted(seen) == list(range(11))


def test_labels_of_tokens_are_padded_with_no_label():
    texts, _ = numbered(4)
    labels = [[IGNORE] + [1] * (len(text) - 1) for text in texts]
    found = LabelledBatches(texts, labels, TOKENIZER, 4)(0)
    assert found["labels"].shape == found["ids"].shape
    assert (found["labels"][~found["mask"]] == IGNORE).all() and (found["labels"][:, 0] == IGNORE).all()
    assert (found["labels"][:, 1:][found["mask"][:, 1:]] == 1).all()


# --- PairBatches ------------------------------------------------------------------------------------------------------


def counting_pairs(n=23):
    """Pairs of ids of different lengths, all different."""
    return [([2, *range(5, 6 + i % 7), 5 + i, 3], [2, 5 + i, *range(20, 21 + i % 3), 3]) for i in range(n)]


def pair_batches(pairs=None, size=4, seed=0):
    return PairBatches(counting_pairs() if pairs is None else pairs, TOKENIZER, size, seed)


def texts_of(b):
    """The pairs of a batch as tuples of ids without padding."""
    columns = [
        [tuple(row[real].tolist()) for row, real in zip(b[ids], b[mask], strict=True)]
        for ids, mask in (("ids", "mask"), ("positive_ids", "positive_mask"))
    ]
    return list(zip(*columns, strict=True))


def test_batches_are_full_and_an_epoch_uses_a_pair_at_most_once():
    pairs = {(tuple(a), tuple(b)) for a, b in counting_pairs()}
    batches = pair_batches()
    assert len(batches) == 23 // 4
    epochs = []
    for epoch in range(4):
        seen = [p for step in range(5 * epoch, 5 * (epoch + 1)) for p in texts_of(batches(step))]
        assert len(seen) == len(set(seen)) == 20 and set(seen) <= pairs
        epochs.append(seen)
    assert len({frozenset(seen) for seen in epochs}) > 1  # other pairs are left out the next time
    assert epochs[0] != epochs[1]


def test_a_batch_says_which_pairs_share_a_text():
    pairs = [([2, 5 + i % 3, 3], [2, 20 + i // 3, 3]) for i in range(6)]  # each anchor twice, each positive three times
    b = pair_batches(pairs, 6)(0)
    anchors, positives = zip(*texts_of(b), strict=True)
    assert torch.equal(b["same"], same_texts(anchors, positives)) and int(b["same"].sum()) == 6 * (1 + 1 + 2)
    assert torch.equal(b["mask"], b["ids"] != 0) and torch.equal(b["positive_mask"], b["positive_ids"] != 0)


# --- pairs that share a text, pairs in one text -----------------------------------------------------------------------


@few
@given(texts=st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("cdefg")), min_size=1, max_size=6))
def test_pairs_that_share_a_text_are_the_same(texts):
    expected = [[bool({*one} & {*other}) for other in texts] for one in texts]
    assert same_texts(*zip(*texts, strict=True)).tolist() == expected


def test_texts_may_be_anything_that_can_be_hashed():
    expected = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]]).bool()
    for make in (str, lambda n: (n, n), lambda n: frozenset([n]), float):
        same = same_texts([make(1), make(2), make(3)], [make(4), make(5), make(4)])
        assert same.dtype == torch.bool and torch.equal(same, expected)


def test_a_pair_is_one_sequence_with_one_cls_and_two_sep():
    tokenizer = words(9)
    a, b = tokenizer.encode("w1 w2"), tokenizer.encode("w3")
    assert tokenizer.tokens(join_pair(a, b)) == ["[CLS]", "w1", "w2", "[SEP]", "w3", "[SEP]"]


# --- all kinds --------------------------------------------------------------------------------------------------------

KINDS = {
    "masked anew": lambda seed: MLMBatches(texts(), TOKENIZER, 4, seed=seed),
    "masked once": lambda seed: MLMBatches(texts(), TOKENIZER, 4, seed=seed, copies=1),
    "three masked copies": lambda seed: MLMBatches(texts(), TOKENIZER, 4, seed=seed, copies=3),
    "labelled": lambda seed: LabelledBatches(*numbered(23), TOKENIZER, 4, seed),
    "pairs": lambda seed: pair_batches(seed=seed),
}


@pytest.mark.parametrize("new", KINDS.values(), ids=KINDS)
def test_a_batch_is_a_function_of_seed_and_step_alone(new):
    forwards, backwards = new(4), new(4)
    expected = [forwards(step) for step in range(20)]
    torch.manual_seed(123)  # torch's own generator plays no part
    for step in reversed(range(20)):
        for batches in (backwards, forwards, new(4)):
            again = batches(step)
            assert again.keys() == expected[step].keys()
            assert all(torch.equal(again[name], expected[step][name]) for name in again)
    for other in (new(5)(0), expected[len(forwards)]):  # another seed, another epoch
        assert not torch.equal(other["ids"], expected[0]["ids"])


def test_labelled_batches_put_texts_of_like_length_together_and_each_comes_once_an_epoch():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 30, (200,), generator=generator).tolist()
    texts = [[2, *[5] * (n - 2), 3] for n in lengths]
    batches = LabelledBatches(texts, list(range(200)), TOKENIZER, 16)
    for epoch in range(2):
        found = [batches(epoch * len(batches) + i) for i in range(len(batches))]
        assert sorted(torch.cat([batch["labels"] for batch in found]).tolist()) == list(range(200))
        for batch in found:
            assert batch["mask"].sum(1).tolist() == [lengths[i] for i in batch["labels"].tolist()]
        padding = sum(int((~batch["mask"]).sum()) for batch in found)
        assert padding < 0.1 * sum(lengths)
    assert [b["labels"].tolist() for b in found] != [batches(i)["labels"].tolist() for i in range(len(batches))]


# --- what is refused --------------------------------------------------------------------------------------------------


def mlm_batches(sequences=((5, 6),), **options):
    return MLMBatches(sequences, TOKENIZER, **options)


def labelled(sequences, labels, size=4):
    return LabelledBatches(sequences, labels, TOKENIZER, size)


EMPTY, A, B = torch.tensor([], dtype=torch.int64), [2, 5, 3], [2, 6, 3]
NO_PAIR = r"a pair is \(anchor, positive\), each a list of ids"
ENDS = r"start with \[CLS\] and end with \[SEP\]"
REFUSED = {
    "pad: no text": (lambda: pad([]), ValueError, "the batch is empty: give at least one sequence"),
    "pad: an empty text": (lambda: pad([[5], [], [6]]), ValueError, "sequence 1 of the batch is empty: leave it out"),
    "pad: an empty tensor": (lambda: pad([torch.tensor([5]), EMPTY]), ValueError, "sequence 1 of the batch is empty"),
    "buckets of 0": (lambda: length_buckets([1], 0), ValueError, "batch_size is 0; it must be a whole number"),
    "buckets of -4": (lambda: length_buckets([1], -4), ValueError, "batch_size is -4; it must be a whole number"),
    "masked: no text": (lambda: mlm_batches([]), ValueError, "give at least one sequence of token ids"),
    "masked: an empty text": (lambda: mlm_batches([[5, 6], []]), ValueError, "sequence 1 of the batch is empty"),
    "masked: 0 copies": (lambda: mlm_batches(copies=0), ValueError, "copies .None for dynamic masking. is 0"),
    "masked: batches of 0": (lambda: mlm_batches(batch_size=0), ValueError, "batch_size is 0"),
    "masked: a rate of 2": (lambda: mlm_batches(rate=2)(0), ValueError, "rate is 2"),
    "labelled: no text": (lambda: labelled([], []), ValueError, "0 texts and 0 labels; give as many, and at least one"),
    "labelled: a label too many": (lambda: labelled([A], [0, 1]), ValueError, "there are 1 texts and 2 labels"),
    "labelled: batches of 0": (lambda: labelled([A], [0], 0), ValueError, "batch_size is 0; it must be a whole number"),
    "labelled: tokens without": (lambda: labelled([A, B], [A, [1, 1]]), ValueError, "2 labels; give one label an id"),
    "pairs: none": (lambda: pair_batches([]), ValueError, "there are 0 pairs, fewer than a batch of 4"),
    "pairs: fewer than a batch": (lambda: pair_batches([(A, B)], 2), ValueError, "1 pairs, fewer than a batch of 2"),
    "pairs: batches of 1": (lambda: pair_batches(size=1), ValueError, "at least 2: the others are the negatives"),
    "pairs: batches of 0": (lambda: pair_batches(size=0), ValueError, "batch_size is 0; it must be at least 2"),
    "pairs: batches of -3": (lambda: pair_batches(size=-3), ValueError, "batch_size is -3; it must be at least 2"),
    "pairs: an empty positive": (
        lambda: pair_batches([(A, B), (A, [])], 2),
        ValueError,
        "the positive of pair 1 .*is empty: leave",
    ),
    "pairs: an empty anchor": (
        lambda: pair_batches([([], B), (A, B)], 2),
        ValueError,
        "the anchor of pair 0 of the batch is empty",
    ),
    "pairs: one text": (lambda: pair_batches([(A, B), (A,)], 2), ValueError, f"pair 1 has 1 texts; {NO_PAIR}"),
    "pairs: three texts": (lambda: pair_batches([(A, B, A), (A, B)], 2), ValueError, f"pair 0 has 3 texts; {NO_PAIR}"),
    "pairs: not encoded": (
        lambda: pair_batches([("w1", "w2")] * 2, 2),
        TypeError,
        "the anchor of pair 0 is 'w1'; .*encode",
    ),
    "same: a positive too few": (lambda: same_texts("abc", "ab"), ValueError, "3 anchors and 2 positives; .*same"),
    "same: positives too many": (lambda: same_texts("a", "abc"), ValueError, "there are 1 anchors and 3 positives"),
    "same: no anchor": (lambda: same_texts("", "a"), ValueError, "there are 0 anchors and 1 positives"),
    "join: no [CLS]": (lambda: join_pair(A, [7, 3]), ValueError, ENDS),
    "join: no [SEP]": (lambda: join_pair([2, 7], A), ValueError, ENDS),
    "join: nothing": (lambda: join_pair(A, []), ValueError, ENDS),
    "join: [SEP] alone": (lambda: join_pair([3], [2, 3]), ValueError, ENDS),
}


@pytest.mark.parametrize(("call", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_batch_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
