"""The MLM head scores selected positions only, and nothing is lost by it."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from oracles import BERT, EXACT, FLOAT32, ROBERTA, batch, config, few, huggingface, huggingface_names, perturbed
from torch.testing import assert_close

from nextbert_lite.core.encoder import Encoder
from nextbert_lite.core.heads import MaskedLanguageModel

DTYPES = [(torch.float64, EXACT), FLOAT32]


def mlm(dtype=torch.float64, **kind):
    return perturbed(MaskedLanguageModel(Encoder(config(**kind)))).to(dtype)


def corrupted(lengths, rate=0.4, seed=0, **options):
    """Random texts, and labels at a share of their tokens."""
    ids, mask = batch(lengths, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    selected = (torch.rand(ids.shape, generator=generator) < rate) & mask
    labels = torch.randint(5, 40, ids.shape, generator=generator).masked_fill(~selected, -100)
    return ids, labels, mask


def full_loss(model, ids, labels, mask):
    """The plain way: logits of every position, cross-entropy that leaves out -100."""
    logits = model(ids, mask)
    logits.retain_grad()
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100), logits


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("lengths", [[7, 7], [7, 4, 1], [12]], ids=str)
def test_the_loss_on_selected_positions_is_the_full_heads_with_the_same_gradients(lengths, dtype, tolerance):
    model = mlm(dtype)
    ids, labels, mask = corrupted(lengths)
    loss = model.loss(ids, labels, mask)
    full, _ = full_loss(model, ids, labels, mask)
    assert_close(loss, full, **tolerance)
    ours, theirs = gradients(model, loss), gradients(model, full)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert_close(ours[name], theirs[name], **tolerance)


@few
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), rate=st.floats(0.1, 1), seed=st.integers(0, 10**6))
def test_unselected_logits_get_exactly_no_gradient(lengths, rate, seed):
    model = mlm()
    ids, labels, mask = corrupted(lengths, rate, seed)
    labels[0, 0] = 5  # at least one
    loss, logits = full_loss(model, ids, labels, mask)
    loss.backward()
    assert (logits.grad[labels == -100] == 0).all()
    assert (logits.grad[labels != -100] != 0).any(-1).all()
    assert_close(model.loss(ids, labels, mask), loss, **EXACT)


@pytest.mark.parametrize("kind", [BERT, ROBERTA], ids=["BERT", "RoBERTa"])
def test_loss_and_all_gradients_equal_transformers(kind):
    model = mlm(**kind)
    theirs = huggingface(model)
    ids, labels, mask = corrupted([7, 4, 1], pad_id=model.encoder.config.pad_id)
    loss = model.loss(ids, labels, mask)
    expected = theirs(ids, attention_mask=mask, labels=labels).loss
    assert_close(loss, expected, **EXACT)
    gradients(model, loss)
    expected.backward()
    mine = huggingface_names(model, of=lambda parameter: parameter.grad)
    for name, parameter in theirs.named_parameters():
        assert_close(mine[name], parameter.grad, **EXACT)


def test_the_comparison_of_losses_catches_a_mean_over_all_tokens():
    model = mlm()
    ids, labels, mask = corrupted([7, 4, 1])
    share = (labels != -100).sum() / mask.sum()
    with pytest.raises(AssertionError, match="not close"):
        assert_close(model.loss(ids, labels, mask) * share, full_loss(model, ids, labels, mask)[0], **EXACT)


def test_a_batch_without_a_selected_token_has_loss_zero_and_finite_gradients():
    model = mlm()
    ids, mask = batch([7, 4, 1])
    loss = model.loss(ids, torch.full_like(ids, -100), mask)
    assert loss.item() == 0
    for gradient in gradients(model, loss).values():
        assert not gradient.any() and gradient.isfinite().all()


def test_the_output_matrix_is_the_embedding_itself():
    model = mlm()
    assert sum("tokens.weight" in name for name in model.state_dict()) == 1
    assert not any(p.shape == (40, 16) for name, p in model.head.named_parameters())
    ids, _ = batch([4])
    before = model(ids)
    with torch.no_grad():
        model.encoder.tokens.weight[39] += 1  # a word that may or may not stand in the text
    assert (model(ids) - before)[..., 39].abs().max() > 0


def test_labels_of_another_shape_are_refused():
    ids, mask = batch([4, 2])
    with pytest.raises(ValueError, match=r"labels have the shape \(2, 3\), ids \(2, 4\); they must agree"):
        mlm().loss(ids, torch.full((2, 3), -100), mask)
