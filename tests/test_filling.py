"""`fill_mask`: the likeliest words for each gap, whatever mode the model is in."""

import pytest
import torch
from oracles import config, perturbed, words

from nextbert_lite.core.encoder import Encoder
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.use.filling import fill_mask


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
