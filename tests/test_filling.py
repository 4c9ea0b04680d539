"""`fill_mask`, the likeliest words for each gap, and `write`, all gaps drawn, whatever mode the model is in."""

import pytest
import torch
from oracles import config, perturbed, words

from nextbert_lite.core.diffusion import ORDERS
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.use.filling import fill_mask, write


@pytest.fixture
def reader():
    """A model for 35 words, w0 to w34, and their tokenizer."""
    return perturbed(MaskedLanguageModel(Encoder(config(dropout=0.5)))).float(), words(35)


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w1 w2", r"no \[MASK\] in the text 'w1 w2': write one"),
        ("[MASK]" + " w1" * 11, "14 tokens is longer than this model's max_len of 12"),
    ],
    ids=["no gap", "too long"],
)
def test_a_text_that_cannot_be_filled_is_refused_and_the_models_mode_kept(reader, text, message):
    reader[0].train()
    with pytest.raises(ValueError, match=message):
        fill_mask(*reader, text)
    assert reader[0].training


def test_rows_of_the_table_that_are_no_token_are_not_proposed(reader):
    model, _ = reader
    [answers] = fill_mask(model, words(20), "w1 [MASK]", k=1000)
    assert len(answers) == 25 and sum(p for _, p in answers) < 1
    for seed in range(5):
        assert len(write(model, words(20), "w1 [MASK] [MASK]", seed=seed).split()) == 3


# --- write ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_write_fills_every_gap_and_keeps_the_other_words(reader, order):
    text = write(*reader, "w1 [MASK] w2 [MASK] [MASK]", order=order, seed=4)
    written = text.split()
    assert len(written) == 5 and (written[0], written[2]) == ("w1", "w2") and "[" not in text


def test_write_is_the_same_for_the_same_seed_in_either_mode_and_keeps_the_mode(reader):
    model, tokenizer = reader
    model.train()
    texts = [write(model, tokenizer, " ".join(["[MASK]"] * 8), seed=seed) for seed in (1, 1, 2)]
    assert model.training and texts[0] == texts[1] != texts[2]
    model.eval()
    assert write(model, tokenizer, " ".join(["[MASK]"] * 8), seed=1) == texts[0]


def test_write_never_draws_a_special_token(reader):
    with torch.no_grad():
        reader[0].head.bias[:5] = 20  # the likeliest by far
    for seed in range(5):
        assert len(write(*reader, "[MASK] [MASK]", seed=seed).split()) == 2  # decoding leaves special tokens out


def test_a_low_temperature_writes_the_likeliest_word(reader):
    assert write(*reader, "w1 [MASK]", temperature=1e-3) == f"w1 {fill_mask(*reader, 'w1 [MASK]', k=1)[0][0][0]}"


def test_write_in_fewer_steps_asks_the_model_once_a_step(reader):
    model, calls = reader[0], []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    write(*reader, "[MASK] [MASK] [MASK] [MASK] [MASK]", steps=2)
    handle.remove()
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("w1 w2", {}, r"there is no \[MASK\] in the text 'w1 w2': write one"),
        ("w1 [MASK]", {"steps": 0}, "steps is 0; it must be a whole number of at least 1"),
        ("w1 [MASK]", {"steps": 2}, "steps is 2, and the text has 1 gaps: each step writes one at least"),
        ("w1 [MASK]", {"order": "best"}, "order is 'best'; choose one of random, left, surest, drawn"),
        ("w1 [MASK]", {"temperature": -1.0}, "temperature is -1.0; it must be a number greater than 0"),
        ("w1 [MASK]", {"seed": -1}, "a seed is -1; it must be a whole number"),
        ("[MASK]" + " w1" * 11, {}, "14 tokens is longer than this model's max_len of 12"),
    ],
    ids=["no gap", "0 steps", "more steps than gaps", "order", "temperature", "seed", "too long"],
)
def test_what_cannot_be_written_is_refused(reader, text, options, message):
    with pytest.raises(ValueError, match=message):
        write(*reader, text, **options)


def test_a_model_without_numbers_writes_nothing(reader):
    torch.nn.init.constant_(reader[0].head.bias, float("nan"))
    with pytest.raises(ValueError, match="the model gives NaN: its weights hold NaN or an infinity"):
        write(*reader, "w1 [MASK]")


def test_a_token_that_the_model_forbids_is_never_written(reader):
    model, tokenizer = reader
    with torch.no_grad():
        model.head.bias[5:] = -torch.inf
        model.head.bias[[9, 11]] = 0.0
    for seed in range(5):
        written = write(model, tokenizer, "[MASK] [MASK]", seed=seed).split()
        assert {tokenizer.id(word) for word in written} <= {9, 11}


def test_what_is_no_masked_language_model_is_refused(reader):
    with pytest.raises(TypeError, match="the model is Encoder; words are put into gaps by a MaskedLanguageModel"):
        write(reader[0].encoder, reader[1], "w1 [MASK]")
    with pytest.raises(TypeError, match="Were two arguments exchanged"):
        write(reader[1], reader[0], "w1 [MASK]")
