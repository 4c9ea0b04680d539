"""The MLM head scores selected positions only, and nothing is lost by it. The heads for labels count labels only."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from oracles import BERT, EXACT, FLOAT32, ROBERTA, batch, config, few, huggingface, huggingface_names, perturbed, words
from torch.testing import assert_close

from nextbert_lite.core.classify import TextClassifier, TokenClassifier
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.training.batches import LabelledBatches, join_pair
from nextbert_lite.training.loop import fit
from nextbert_lite.use.filling import fill_mask

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


# --- fill_mask --------------------------------------------------------------------------------------------------------


@pytest.fixture
def reader():
    """A model for 35 words, w0 to w34, and their tokenizer."""
    return mlm(torch.float32, dropout=0.5), words(35)


def test_fill_mask_gives_for_each_gap_the_likeliest_words_in_order(reader):
    model, tokenizer = reader
    model.train()  # in the middle of training, say: dropout must not touch the answers
    answers = fill_mask(model, tokenizer, "w1 [MASK] w2 [MASK]", k=3)
    model.eval()
    ids = torch.tensor([tokenizer.encode("w1 [MASK] w2 [MASK]", allow_specials=True)])
    expected = model(ids)[0].softmax(-1)[[2, 4]]
    assert len(answers) == 2
    for answer, p in zip(answers, expected, strict=True):
        assert [tokenizer.id(word) for word, _ in answer] == p.argsort(descending=True)[:3].tolist()
        assert [probability for _, probability in answer] == pytest.approx(p.sort(descending=True)[0][:3].tolist())


def test_fill_mask_gives_at_most_the_vocabulary(reader):
    answers = fill_mask(*reader, "[MASK]", k=1000)
    assert len(answers[0]) == 40
    assert sum(p for _, p in answers[0]) == pytest.approx(1)


@pytest.mark.parametrize("training", [True, False])
def test_fill_mask_leaves_the_models_mode_as_it_was(reader, training):
    reader[0].train(training)
    fill_mask(*reader, "w1 [MASK]")
    assert reader[0].training is training


def test_a_text_without_a_gap_is_refused(reader):
    with pytest.raises(ValueError, match=r"no \[MASK\] in the text 'w1 w2': write one"):
        fill_mask(*reader, "w1 w2")


def test_a_text_that_does_not_fit_is_refused_and_the_models_mode_kept(reader):
    reader[0].train()
    with pytest.raises(ValueError, match=r"14 tokens is longer than this model's max_len of 12"):
        fill_mask(*reader, "[MASK]" + " w1" * 11)
    assert reader[0].training


# --- labels: one a text, one a token ----------------------------------------------------------------------------------


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
    steps = lambda step: {"ids": ids, "mask": mask, "labels": labels}  # noqa: E731
    fit(model, steps, 3, lr=0.1, warmup=1, device="cpu", progress=False)
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


@pytest.mark.parametrize("classes", [1, 0, -2, 2.0, True])
def test_fewer_than_two_classes_are_refused(classes):
    for model in (TextClassifier, TokenClassifier):
        with pytest.raises(ValueError, match=f"classes is {classes}; it must be a whole number of at least 2"):
            model(Encoder(config()), classes)


@pytest.mark.parametrize("label", [3, -1, -99])
def test_a_label_out_of_range_is_refused(label):
    ids, mask = batch([4, 2])
    with pytest.raises(ValueError, match=f"a label {label}; with 3 classes the labels are 0 to 2"):
        classifier().loss(ids, torch.tensor([0, label]), mask)
    labels = token_labels(mask)
    labels[0, 1] = label
    with pytest.raises(ValueError, match=f"a label {label}; with 3 classes the labels are 0 to 2"):
        tagger().loss(ids, labels, mask)


def test_labels_of_another_shape_or_kind_are_refused():
    ids, mask = batch([4, 2])
    with pytest.raises(ValueError, match=r"labels have the shape \(2, 4\); expected \(2,\)"):
        classifier().loss(ids, torch.zeros(2, 4, dtype=torch.int64), mask)
    with pytest.raises(ValueError, match=r"labels have the shape \(2,\); expected \(2, 4\)"):
        tagger().loss(ids, torch.tensor([0, 1]), mask)
    with pytest.raises(TypeError, match=r"labels are torch.float32; they must be a tensor of torch.int64"):
        classifier().loss(ids, torch.tensor([0.0, 1.0]), mask)
    with pytest.raises(TypeError, match="labels are list"):
        classifier().loss(ids, [0, 1], mask)


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_a_pair_is_one_sequence_with_one_cls_and_two_sep():
    tokenizer = words(9)
    a, b = tokenizer.encode("w1 w2"), tokenizer.encode("w3")
    assert tokenizer.tokens(join_pair(a, b)) == ["[CLS]", "w1", "w2", "[SEP]", "w3", "[SEP]"]


@pytest.mark.parametrize("a, b", [([2, 7, 3], [7, 3]), ([2, 7], [2, 7, 3]), ([2, 7, 3], []), ([3], [2, 3])], ids=str)
def test_a_pair_of_texts_without_cls_and_sep_is_refused(a, b):
    with pytest.raises(ValueError, match=r"start with \[CLS\] and end with \[SEP\]"):
        join_pair(a, b)


# --- batches ----------------------------------------------------------------------------------------------------------


def numbered(n):
    """n texts of different lengths; text i starts with the id 10 + i and has the label i % 3."""
    return [[10 + i] + [5] * (i % 4) for i in range(n)], [i % 3 for i in range(n)]


def test_each_text_comes_once_an_epoch_with_its_own_label():
    texts, labels = numbered(11)
    batches = LabelledBatches(texts, labels, words(), batch_size=4)
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


def test_a_labelled_batch_depends_on_the_seed_and_the_step_alone():
    texts, labels = numbered(11)
    one, other, third = (LabelledBatches(texts, labels, words(), 4, seed) for seed in (0, 0, 1))
    for step in (5, 0, 7):
        assert torch.equal(one(step)["ids"], other(step)["ids"])
    assert not torch.equal(one(0)["ids"], one(3)["ids"])  # another epoch, another order
    assert not torch.equal(one(0)["ids"][:, 0], third(0)["ids"][:, 0])


def test_labels_of_tokens_are_padded_with_no_label():
    texts, _ = numbered(4)
    labels = [[-100] + [1] * (len(text) - 1) for text in texts]
    found = LabelledBatches(texts, labels, words(), 4)(0)
    assert found["labels"].shape == found["ids"].shape
    assert (found["labels"][~found["mask"]] == -100).all() and (found["labels"][:, 0] == -100).all()
    assert (found["labels"][:, 1:][found["mask"][:, 1:]] == 1).all()


@pytest.mark.parametrize(
    "texts, labels, size, message",
    [
        ([[5]], [0, 1], 4, "there are 1 texts and 2 labels"),
        ([], [], 4, "there are 0 texts and 0 labels; give as many, and at least one"),
        ([[5], [6]], [0, 1], 0, "batch_size is 0; it must be a whole number of at least 1"),
        ([[5, 6], [7]], [[1, 1], [1, 1]], 2, "text 1 has 1 ids and 2 labels; give one label an id"),
    ],
)
def test_texts_and_labels_that_do_not_fit_are_refused(texts, labels, size, message):
    with pytest.raises(ValueError, match=message):
        LabelledBatches(texts, labels, words(), size)
