"""`embed`: unit vectors in the order of the texts, whatever their lengths, and clear errors."""

import math
import shutil

import pytest
import torch
import torch.nn.functional as F

from nextbert_lite import embed
from nextbert_lite.core.contrastive import SentenceEncoder, pool
from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.training.batches import pad
from nextbert_lite.training.tokenizer import train_bpe
from nextbert_lite.use import checkpoints, embedding

TEXTS = ["sort a list", "a", "the mean of all the numbers", "sort", "read a file", "close the file"]
LONG = "the mean of all the numbers in the file and then the mean of the list and of all the files"
MAX_LEN = 16


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe([*TEXTS, LONG] * 5, 300)


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    config = EncoderConfig(
        tokenizer.vocab_size, width=16, layers=2, heads=2, ffn_width=32, max_len=MAX_LEN, dropout=0.5, init_std="fan_in"
    )
    return SentenceEncoder(Encoder(config))


def by_hand(model, rows):
    """Each row's vector, one at a time, of length 1."""
    model.eval()
    with torch.no_grad():
        return F.normalize(torch.cat([model(*pad([row])) for row in rows]), dim=-1)


def test_there_is_one_vector_of_length_one_a_text_in_the_order_of_the_texts(model, tokenizer):
    found = embed(TEXTS, (model, tokenizer), batch_size=2)
    assert found.shape == (len(TEXTS), 16) and found.dtype == torch.float32 and found.device.type == "cpu"
    torch.testing.assert_close(found, by_hand(model, tokenizer.encode_batch(TEXTS)), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(TEXTS)))


def test_texts_of_like_length_share_a_batch(model, tokenizer):
    shapes = []
    model.encoder.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    lengths = [len(row) for row in tokenizer.encode_batch([TEXTS[1], TEXTS[2]])]
    embed([TEXTS[1], TEXTS[2]] * 2, (model, tokenizer), batch_size=2)
    assert lengths[0] < lengths[1] and shapes == [(2, lengths[0]), (2, lengths[1])]


def test_a_masked_language_model_is_mean_pooled(model, tokenizer):
    language_model = MaskedLanguageModel(model.encoder).eval()
    ids, mask = pad(tokenizer.encode_batch(TEXTS))
    with torch.no_grad():
        right = F.normalize(pool(model.encoder(ids, mask), mask, "mean"), dim=-1)
    torch.testing.assert_close(embed(TEXTS, (language_model, tokenizer)), right, rtol=0, atol=1e-6)


def test_the_vector_of_a_long_text_that_is_cut_is_that_of_its_beginning(model, tokenizer):
    [ids] = tokenizer.encode_batch([LONG])
    beginning = [*ids[: MAX_LEN - 1], ids[-1]]
    found = embed([TEXTS[0], LONG], (model, tokenizer), long="cut")
    torch.testing.assert_close(found[1:], by_hand(model, [beginning]), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[:1], embed(TEXTS[:1], (model, tokenizer)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("repeats", [1, 2, 7])
def test_the_vector_of_a_long_text_in_windows_is_the_mean_of_its_windows(model, tokenizer, repeats):
    [ids] = tokenizer.encode_batch([LONG * repeats])
    windows = embedding.parts_of(ids, MAX_LEN, "windows", 0)
    assert [i for window in windows for i in window[1:-1]] == ids[1:-1]  # consecutive, and no token is lost
    lengths = [len(window) for window in windows]
    assert len(windows) == math.ceil((len(ids) - 2) / (MAX_LEN - 2)) > 1  # as few as can be
    assert max(lengths) <= MAX_LEN and max(lengths) - min(lengths) <= 1
    assert all(window[0] == ids[0] and window[-1] == ids[-1] for window in windows)
    right = F.normalize(by_hand(model, windows).mean(0), dim=-1)
    found = embed([TEXTS[0], LONG * repeats, TEXTS[1]], (model, tokenizer), long="windows", batch_size=3)
    torch.testing.assert_close(found[1], right, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[[0, 2]], embed(TEXTS[:2], (model, tokenizer)), rtol=0, atol=1e-6)


def test_the_longest_text_that_fits_is_neither_cut_nor_refused(model, tokenizer):
    text = next(LONG[:n] for n in range(len(LONG), 0, -1) if len(tokenizer.encode(LONG[:n])) == MAX_LEN)
    found = [embed([text], (model, tokenizer), long=long) for long in embedding.LONG]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_dropout_is_off_and_each_part_of_the_model_is_left_in_its_mode(model, tokenizer):
    model.train()
    model.encoder.layers[0].eval()  # a frozen layer
    before = [module.training for module in model.modules()]
    assert torch.equal(embed(TEXTS, (model, tokenizer)), embed(TEXTS, (model, tokenizer)))
    assert [module.training for module in model.modules()] == before
    with pytest.raises(ValueError, match="not finite"):
        model.encoder.norm.weight.data.fill_(torch.nan)
        embed(TEXTS, (model, tokenizer))
    assert [module.training for module in model.modules()] == before


def test_an_error_inside_the_model_leaves_its_modes_as_they_were(model):
    other = train_bpe([*TEXTS, LONG] * 5 + ["quite another vocabulary, with ids that this model lacks"] * 5, 400)
    before = [module.training for module in model.train().modules()]
    with pytest.raises(ValueError, match="outside this model's vocabulary"):
        embed(["quite another vocabulary, with ids that this model lacks"], (model, other), long="cut")
    assert [module.training for module in model.modules()] == before


def test_a_masked_language_model_is_left_in_its_mode_too(model, tokenizer):
    language_model = MaskedLanguageModel(model.encoder).eval()
    embed(TEXTS, (language_model, tokenizer))
    assert not any(module.training for module in language_model.modules())


def test_no_gradient_is_kept(model, tokenizer):
    assert not embed(TEXTS, (model, tokenizer)).requires_grad
    assert torch.is_grad_enabled()


def test_bfloat16_gives_nearly_the_same_vectors(model, tokenizer):
    """bfloat16 keeps 8 bits: a product of two numbers is off by at most 2⁻⁷ of it."""
    exact, fast = (embed(TEXTS, (model, tokenizer), precision=kind) for kind in ("float32", "bfloat16"))
    assert fast.dtype == torch.float32 and not torch.equal(fast, exact)
    torch.testing.assert_close(fast, exact, rtol=0, atol=0.03)


def test_a_model_in_float64_gives_float32(model, tokenizer):
    right = embed(TEXTS, (model, tokenizer))
    found = embed(TEXTS, (model.double(), tokenizer))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, right, rtol=0, atol=1e-5)


# --- what is refused --------------------------------------------------------------------------------------------------


REFUSED = {
    "one text": ("sort a list", {}, TypeError, "put a single text into a list"),
    "no text": ([], {}, ValueError, "the list of texts is empty"),
    "an empty text": (["sort", ""], {}, ValueError, "text 1 is empty: leave it out"),
    "a blank text": (["sort", " \n"], {}, ValueError, "text 1 is empty: leave it out"),
    "a number": (["sort", 3], {}, TypeError, "text 1 is int"),
    "a long text": (["a", "sort", LONG], {}, ValueError, r'text 2 has 23 tokens; .* 16\. .*long="cut".*long="windows"'),
    "another way": (["sort"], {"long": "split"}, ValueError, "long is 'split'; choose one of error, cut, windows"),
    "batches of 0": (["sort"], {"batch_size": 0}, ValueError, "batch_size is 0"),
    "a precision there is not": (
        ["sort"],
        {"precision": "int8"},
        ValueError,
        "precision is 'int8'; choose one of float32",
    ),
    "no such device": (["sort"], {"device": "abacus"}, ValueError, "there is no device 'abacus' here"),
    "no such model": (["sort"], {"model": "gpt-9"}, FileNotFoundError, "there is no checkpoint 'gpt-9'"),
}


@pytest.mark.parametrize(("texts", "options", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_wrong_arguments_are_named(model, tokenizer, texts, options, error, words):
    with pytest.raises(error, match=words):
        embed(texts, **{"model": (model, tokenizer), **options})


def test_the_text_whose_vector_is_not_finite_is_named(model, tokenizer):
    only = (set(tokenizer.encode(TEXTS[4])) - {i for n in range(4) for i in tokenizer.encode(TEXTS[n])}).pop()
    model.encoder.tokens.weight.data[only] = torch.inf
    with pytest.raises(ValueError, match="not finite: row 4 has"):
        embed(TEXTS, (model, tokenizer), batch_size=1)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch):
    """The folders of the checkpoints that were loaded."""
    folders, real = [], checkpoints.load
    monkeypatch.setattr(checkpoints, "load", lambda folder: folders.append(folder) or real(folder))
    embedding._load.cache_clear()
    yield folders
    embedding._load.cache_clear()


def test_a_checkpoint_by_its_name_is_loaded_once(loads):
    first = embed(TEXTS, "docs-small")
    torch.testing.assert_close(embed(TEXTS, "docs-small", device="cpu"), first, rtol=0, atol=1e-4)
    assert len(loads) == 1
    torch.testing.assert_close(first, embed(TEXTS, checkpoints.load("docs-small")), rtol=0, atol=1e-4)


def test_a_checkpoint_that_changed_on_the_disk_is_loaded_anew(loads, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(checkpoints.find("docs-small"), folder)
    first = embed(TEXTS, folder)
    for path in checkpoints.find("toy-small").iterdir():
        shutil.copy(path, folder)
    second = embed(TEXTS, str(folder))
    assert len(loads) == 2 and first.shape != second.shape


def test_a_sentence_encoders_checkpoint_gives_the_vectors_of_the_model_that_was_saved(model, tokenizer, tmp_path):
    checkpoints.rounded(model)
    model.pooling = "first-last"
    checkpoints.save(tmp_path, model, tokenizer, {"name": "mine", "corpus": {"name": "text"}})
    found = embed(TEXTS, tmp_path, device="cpu")
    torch.testing.assert_close(found, embed(TEXTS, (model, tokenizer)), rtol=0, atol=1e-6)
    model.pooling = "mean"
    assert (found - embed(TEXTS, (model, tokenizer))).abs().max() > 0.01
