"""`explain`: one number for each word of a text with one [MASK]."""

import pytest
import torch
from oracles import config, perturbed, words

import nextbert_lite
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.corpora.bayes import influence
from nextbert_lite.corpora.toy_world import ToyWorld
from nextbert_lite.training.tokenizer import train_bpe
from nextbert_lite.use.checkpoints import load
from nextbert_lite.use.explain import METHODS, explain

TEXT = "w1 w2 [MASK] w3"


@pytest.fixture
def reader():
    """A model for 35 words, w0 to w34, and their tokenizer."""
    return perturbed(MaskedLanguageModel(Encoder(config(dropout=0.5)))).float(), words(35)


def distribution(model, tokenizer, text):
    ids = torch.tensor([tokenizer.encode(text, allow_specials=True)])
    with torch.no_grad():
        return model(ids)[0, ids[0].tolist().index(tokenizer.mask_id)].double().softmax(-1)


def test_explain_is_a_common_name():
    assert nextbert_lite.explain is explain


def test_occlusion_is_how_far_the_guess_moves_when_a_word_is_hidden(reader):
    model, tokenizer = reader
    model.eval()
    found = explain(model, tokenizer, TEXT)
    assert [word for word, _ in found] == TEXT.split()
    before = distribution(model, tokenizer, TEXT)
    for place, word in ((0, "w1"), (1, "w2"), (3, "w3")):
        ids = torch.tensor([tokenizer.encode(TEXT, allow_specials=True)])
        ids[0, place + 1] = tokenizer.mask_id
        with torch.no_grad():
            after = model(ids)[0, 3].double().softmax(-1)
        assert found[place] == (word, pytest.approx((before * (before / after).log()).sum().item(), abs=1e-6))


def test_the_gradient_is_that_of_the_likeliest_words_log_probability_at_the_embeddings(reader):
    model, tokenizer = reader
    model.eval()
    ids = torch.tensor([tokenizer.encode(TEXT, allow_specials=True)])

    def best(vectors):
        handle = model.encoder.tokens.register_forward_hook(lambda *call: vectors)
        value = model(ids)[0, 3].log_softmax(-1).max()
        handle.remove()
        return value

    vectors, step = model.encoder.tokens(ids).detach(), 1e-3
    slopes = torch.zeros_like(vectors[0, 1])
    for feature in range(len(slopes)):
        moved = torch.zeros_like(vectors)
        moved[0, 1, feature] = step
        with torch.no_grad():
            slopes[feature] = (best(vectors + moved) - best(vectors - moved)) / (2 * step)
    assert explain(model, tokenizer, TEXT, "gradient")[0][1] == pytest.approx(slopes.norm().item(), rel=0.02)


def test_attention_is_the_last_layers_mean_weight_from_the_gap(reader):
    model, tokenizer = reader
    model.eval()
    ids = torch.tensor([tokenizer.encode(TEXT, allow_specials=True)])
    with torch.no_grad():
        weights = model.encoder(ids, return_inside=True)[1].weights[-1][0, :, 3].mean(0)
    found = [score for _, score in explain(model, tokenizer, TEXT, "attention")]
    assert found == pytest.approx([weights[1].item(), weights[2].item(), 0.0, weights[4].item()])


@pytest.mark.parametrize("method", METHODS)
def test_the_gap_explains_nothing_and_no_score_is_below_zero(reader, method):
    found = explain(*reader, TEXT, method)
    assert found[2] == ("[MASK]", 0.0)
    assert all(score >= 0 for _, score in found) and sum(score for _, score in found) > 0


@pytest.mark.parametrize("method", METHODS)
def test_explain_leaves_the_models_mode_its_gradients_and_its_hooks_as_they_were(reader, method):
    model, _ = reader
    model.train()  # dropout must not touch the scores
    assert explain(*reader, TEXT, method) == explain(*reader, TEXT, method)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("frozen", [True, False])
def test_the_gradient_needs_no_parameter_that_learns(reader, frozen):
    model, _ = reader
    expected = explain(*reader, TEXT, "gradient")
    model.requires_grad_(not frozen)
    with torch.no_grad():
        assert explain(*reader, TEXT, "gradient") == expected


def test_a_word_of_several_tokens_gets_one_score():
    tokenizer = train_bpe(["return the sum of all elements, or zero."] * 3, 400)
    model = perturbed(MaskedLanguageModel(Encoder(config(vocab_size=tokenizer.vocab_size, max_len=60)))).float()
    text = "return the [MASK] of  all elements, or zeros."
    pieces = tokenizer.tokens(tokenizer.encode(text, allow_specials=True))
    assert " the" in pieces and len(pieces) > len(text.split()) + 2  # a token may begin with the space before its word
    for method in METHODS:
        found = explain(model, tokenizer, text, method)
        assert [word for word, _ in found] == text.split()
        assert all((score > 0) == (word != "[MASK]") for word, score in found)


def test_the_shipped_model_finds_the_subject_as_the_world_does():
    world, (model, tokenizer) = ToyWorld(), load("toy-small")
    text = "near the ovens the cook [MASK] the waiters in the kitchen"
    ids = torch.tensor([tokenizer.encode(text, allow_specials=True)])
    truth = influence(world, ids, torch.tensor([6]))[0, 1:-1]
    found = torch.tensor([score for _, score in explain(model, tokenizer, text)])
    assert text.split()[int(truth.argmax())] == text.split()[int(found.argmax())] == "cook"
    assert found.max() == pytest.approx(truth.max().item(), abs=0.4)


@pytest.mark.parametrize(
    ("text", "method", "message"),
    [
        ("w1 w2", "occlusion", r"the text has 0 \[MASK\]; write one"),
        ("[MASK] w1 [MASK]", "occlusion", r"the text has 2 \[MASK\]; write one"),
        (TEXT, "lime", "method is 'lime'; choose one of occlusion, gradient, attention"),
        ("[MASK]" + " w1" * 11, "occlusion", "14 tokens is longer than this model's max_len of 12"),
    ],
    ids=["no gap", "two gaps", "another method", "too long"],
)
def test_what_cannot_be_explained_is_refused_and_the_models_mode_kept(reader, text, method, message):
    reader[0].train()
    with pytest.raises(ValueError, match=message):
        explain(*reader, text, method)
    assert reader[0].training


def test_occlusion_takes_a_head_that_rules_tokens_out(reader):
    model, tokenizer = reader
    expected = explain(model, tokenizer, TEXT)
    never = torch.zeros(len(model.head.bias))
    never[7] = -torch.inf  # an id that the head never gives
    model.head.register_forward_hook(lambda module, inputs, logits: logits + never)
    found = explain(model, tokenizer, TEXT)
    assert [score > 0 for _, score in found] == [score > 0 for _, score in expected]


def test_another_model_is_refused(reader):
    with pytest.raises(TypeError, match="the model is Encoder; explain needs a MaskedLanguageModel"):
        explain(reader[0].encoder, reader[1], TEXT)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_gives_nan_is_refused(reader, method):
    model, _ = reader
    model.encoder.layers[0].attention.qkv.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="the model gives NaN"):
        explain(*reader, TEXT, method)
    assert not any(module._forward_hooks for module in model.modules())
