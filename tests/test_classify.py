"""The heads for labels count labels only, one a text or one a token; a frozen encoder stays as it was."""

import pytest
import torch
import torch.nn.functional as F
from oracles import EXACT, batch, config, perturbed
from torch.testing import assert_close

from nextbert_lite.core.classify import TextClassifier, TokenClassifier
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.training.loop import fit


def classifier(classes=3, dropout=0.5, **options):
    return perturbed(TextClassifier(Encoder(config(dropout=0.5)), classes, dropout=dropout, **options))


def tagger(classes=3, **options):
    return perturbed(TokenClassifier(Encoder(config(dropout=0.5)), classes, dropout=0.5, **options))


def token_labels(mask, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, mask.shape, generator=generator).masked_fill(~mask, -100)
    labels[:, 0] = -100  # [CLS]
    return labels


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_classification_head_is_a_linear_layer_on_the_pooled_vectors(pooling):
    model = classifier(pooling=pooling)
    ids, mask = batch([7, 4, 1])
    hidden = model.encoder(ids, mask)
    for row, length in enumerate([7, 4, 1]):
        vector = hidden[row, 0] if pooling == "cls" else hidden[row, :length].mean(0)
        expected = model.head.out.weight @ vector + model.head.out.bias
        assert_close(model(ids, mask)[row], expected, **EXACT)
    assert_close(model(ids), model(ids, mask), **EXACT)  # without a mask: what is no padding


def test_padding_never_changes_an_answer():
    ids, mask = batch([7, 4, 1])
    more = F.pad(ids, (0, 3)), F.pad(mask, (0, 3))
    assert_close(classifier()(*more), classifier()(ids, mask), **EXACT)
    assert_close(tagger()(*more)[:, :7][mask], tagger()(ids, mask)[mask], **EXACT)


def test_the_loss_of_a_text_classifier_is_the_mean_cross_entropy_of_the_labelled_texts():
    model = classifier()
    ids, mask = batch([7, 4, 1])
    logits, labels = model(ids, mask), torch.tensor([2, 0, 1])
    assert_close(model.loss(ids, labels, mask), F.cross_entropy(logits, labels), **EXACT)
    labels[1] = -100
    expected = F.cross_entropy(logits[[0, 2]], labels[[0, 2]])
    assert_close(model.loss(ids, labels, mask), expected, **EXACT)


def test_the_loss_of_a_token_classifier_counts_labelled_tokens_only_and_each_the_same():
    model = tagger()
    ids, mask = batch([7, 4, 2])
    labels = token_labels(mask)
    logits = model(ids, mask)
    places = [(b, t) for b, length in enumerate([7, 4, 2]) for t in range(1, length)]
    expected = sum(-logits[b, t].log_softmax(-1)[labels[b, t]] for b, t in places) / len(places)
    assert_close(model.loss(ids, labels, mask), expected, **EXACT)
    more = model.loss(F.pad(ids, (0, 4)), F.pad(labels, (0, 4), value=-100), F.pad(mask, (0, 4)))
    assert_close(more, expected, **EXACT)


@pytest.mark.parametrize("model", [classifier(), tagger()], ids=["text", "token"])
def test_without_any_label_the_loss_is_zero_and_its_gradients_finite(model):
    ids, mask = batch([5, 2])
    labels = torch.full(ids.shape if isinstance(model, TokenClassifier) else (2,), -100)
    loss = model.loss(ids, labels, mask)
    assert loss.item() == 0
    loss.backward()
    assert all(not p.grad.any() and p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("make", [classifier, tagger], ids=["text", "token"])
def test_a_frozen_encoder_stays_in_eval_mode_and_gets_no_gradient_while_its_head_learns(make):
    model = make(frozen=True).train()
    assert not any(part.training for part in model.encoder.modules())
    assert model.head.dropout.training
    ids, mask = batch([5, 3])
    labels = token_labels(mask) if make is tagger else torch.tensor([0, 2])
    before = {name: p.clone() for name, p in model.encoder.named_parameters()}
    fit(
        model,
        lambda step: {"ids": ids, "mask": mask, "labels": labels},
        3,
        lr=0.1,
        warmup=1,
        device="cpu",
        progress=False,
    )
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(torch.equal(p, before[name]) for name, p in model.encoder.named_parameters())
    model.train()
    assert torch.equal(model.encoder(ids, mask), model.encoder(ids, mask))  # no dropout


@pytest.mark.parametrize("make", [classifier, tagger], ids=["text", "token"])
def test_fine_tuning_changes_every_layer(make):
    model = make()
    ids, mask = batch([5, 3])
    labels = token_labels(mask) if make is tagger else torch.tensor([0, 2])
    model.train()
    assert model.encoder.layers[0].dropout.training
    model.loss(ids, labels, mask).backward()
    assert all(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if "qkv.bias" not in name)


def test_a_frozen_model_unfreezes_for_another_one():
    encoder = Encoder(config())
    TextClassifier(encoder, 2, frozen=True)
    TextClassifier(encoder, 2)
    assert all(p.requires_grad for p in encoder.parameters())


# --- what they refuse -------------------------------------------------------------------------------------------------


def loss(model, labels):
    """The loss of two texts of 4 and 2 tokens."""
    ids, mask = batch([4, 2])
    return model.loss(ids, labels, mask)


@pytest.mark.parametrize("classes", [1, 0, -2, 2.0, True])
@pytest.mark.parametrize("model", [TextClassifier, TokenClassifier])
def test_fewer_than_two_classes_are_refused(model, classes):
    with pytest.raises(ValueError, match=f"classes is {classes}; it must be a whole number of at least 2"):
        model(Encoder(config()), classes)


@pytest.mark.parametrize("label", [3, -1, -99])
@pytest.mark.parametrize("make", [classifier, tagger], ids=["text", "token"])
def test_a_label_out_of_range_is_refused(make, label):
    labels = torch.tensor([0, label]) if make is classifier else torch.tensor([[-100, label, 0, 1], [-100] * 4])
    with pytest.raises(ValueError, match=f"a label {label}; with 3 classes the labels are 0 to 2"):
        loss(make(), labels)


@pytest.mark.parametrize(
    ("make", "labels", "error", "words"),
    [
        (classifier, torch.zeros(2, 4).long(), ValueError, r"labels have the shape \(2, 4\); expected \(2,\)"),
        (tagger, torch.tensor([0, 1]), ValueError, r"labels have the shape \(2,\); expected \(2, 4\)"),
        (classifier, torch.tensor([0.0, 1.0]), TypeError, r"labels are torch\.float32; they must be .* torch\.int64"),
        (classifier, [0, 1], TypeError, "labels are list"),
    ],
    ids=["tokens' labels for texts", "texts' labels for tokens", "floats", "a list"],
)
def test_labels_of_another_shape_or_kind_are_refused(make, labels, error, words):
    with pytest.raises(error, match=words):
        loss(make(), labels)
