"""One kind of model for `embed` and `fine_tune`: each form of it gives the same numbers, and anything else is named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from test_pretrained import BERT, perturbed, sentence_files, transformers_tokenizer

from nextbert_lite import Encoder, ModernConfig, ModernEncoder, SentenceEncoder, embed, fine_tune, load, load_pretrained
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.use import checkpoints
from nextbert_lite.use.parts import read_parts

TEXTS = ["sort a list", "the mean of all", "return the numbers", "along an axis"] * 3
WORDS = ["sort list in place", "numbers along an axis", "the mean of all", "return a list", "a", "place", "all", "axis"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small BERT in float32 that is pooled by its first token."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("published")
    tokenizer = transformers_tokenizer("bert")
    model = perturbed(BertModel(BertConfig(vocab_size=len(tokenizer), **BERT))).float()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sentence_files(folder, max_len=32)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    return folder


@pytest.fixture(scope="module")
def forms(folder, tmp_path_factory):
    """The same model in each form: pooled by its first token, and those of which nobody says how they are pooled."""
    published = load_pretrained(folder)
    model, tokenizer = SentenceEncoder(published.encoder, "cls").eval(), published.tokenizer
    own = tmp_path_factory.mktemp("own")
    checkpoints.save(own, model, tokenizer, {"name": "own"}, half=False)
    cls = [folder, str(folder), published, (model, tokenizer), own, str(own), load(own)]
    mlm = MaskedLanguageModel(published.encoder).eval()
    return {"cls": cls, "mean": [published._replace(pooling=None), (published.encoder, tokenizer), (mlm, tokenizer)]}


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_each_form_embeds_alike(forms, folder, pooling):
    published = load_pretrained(folder)
    with torch.no_grad():
        rows = [published.encoder(torch.tensor([ids]))[0] for ids in published.tokenizer.encode_batch(TEXTS)]
    expected = torch.stack([hidden[0] if pooling == "cls" else hidden.mean(0) for hidden in rows])
    for form in forms[pooling]:
        vectors = embed(TEXTS, form, device="cpu")
        torch.testing.assert_close(vectors, torch.nn.functional.normalize(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_each_form_is_fine_tuned_alike(forms, pooling):
    made = [
        fine_tune(WORDS, ["one", "other"] * 4, start=form, epochs=1, report=None, seed=3) for form in forms[pooling]
    ]
    for classifier in made:
        assert classifier.model.head.pooling == pooling and classifier.max_len == 32
        assert torch.equal(classifier.probabilities(TEXTS), made[0].probabilities(TEXTS))


def test_a_published_folder_that_changed_on_the_disk_is_read_anew(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    before = embed(TEXTS, copy)
    assert torch.equal(embed(TEXTS, copy), before)
    (copy / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean", "changed": True}))
    assert not torch.allclose(embed(TEXTS, copy), before)


def test_a_published_folder_is_refused_with_its_own_message(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    save_file({"bert.x": torch.zeros(1)}, copy / "model.safetensors")
    for use in (lambda: embed(TEXTS, copy), lambda: fine_tune(WORDS, ["one", "other"] * 4, start=copy)):
        with pytest.raises(ValueError, match="holds 0 layers"):
            use()


@pytest.mark.parametrize("use", [embed, lambda texts, model: fine_tune(WORDS, ["one", "other"] * 4, start=model)])
def test_what_is_no_model_is_named(forms, use):
    model, tokenizer = forms["cls"][3]
    assert isinstance(model.encoder, Encoder)
    for wrong, message in [
        (
            model,
            "a SentenceEncoder is no model with its tokenizer; expected a checkpoint's name, a folder, what `load`",
        ),
        (None, "a NoneType is no model"),
        ((model,), "a tuple of 1 is no model"),
        ((tokenizer, model), "the other way round"),
        ((model, None), r"\(a SentenceEncoder, a NoneType\) is no model"),
        ((torch.nn.Linear(2, 2), tokenizer), r"\(a Linear, a Tokenizer\) is no model"),
    ]:
        with pytest.raises(TypeError, match=message):
            use(TEXTS, wrong)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint 'nothing'"):
        use(TEXTS, "nothing")
    assert read_parts((model, tokenizer)).model is model


class Mine(torch.nn.Module):
    """What a learner may have built: another class with the same methods, and other names inside."""

    def __init__(self, config):
        super().__init__()
        self.config, self.inside = config, Encoder(config)

    def forward(self, ids, mask=None):
        return self.inside(ids, mask)

    def initialise(self, module):
        self.inside.initialise(module)


def test_a_learners_own_encoder_is_taken_and_fine_tuned_as_their_class(forms):
    encoder, tokenizer = forms["mean"][1]
    mine = Mine(encoder.config).eval()
    mine.inside.load_state_dict(encoder.state_dict())
    assert torch.equal(embed(TEXTS, (mine, tokenizer)), embed(TEXTS, (encoder, tokenizer)))
    classifier = fine_tune(WORDS, ["one", "other"] * 4, start=(mine, tokenizer), epochs=1, report=None)
    assert isinstance(classifier.model.encoder, Mine)


def test_a_modern_encoder_is_embedded_saved_loaded_and_fine_tuned_as_any_other(forms, tmp_path):
    tokenizer = forms["mean"][1][1]
    torch.manual_seed(0)
    config = ModernConfig(tokenizer.vocab_size, width=16, ffn_width=24, max_len=32, window=2, pad_id=tokenizer.pad_id)
    model = SentenceEncoder(ModernEncoder(config), "first-last").eval()
    checkpoints.save(tmp_path / "own", model, tokenizer, {"name": "own"}, half=False)
    again = load(tmp_path / "own")
    assert again.model.encoder.config == config and again.model.pooling == "first-last"
    assert torch.equal(embed(TEXTS, tmp_path / "own", device="cpu"), embed(TEXTS, (model, tokenizer)))
    classifier = fine_tune(WORDS, ["one", "other"] * 4, start=again, epochs=1, report=None)
    classifier.save(tmp_path / "classifier")
    loaded = type(classifier).load(tmp_path / "classifier")
    assert isinstance(loaded.model.encoder, ModernEncoder) and loaded.model.encoder.config.dropout == 0.1
    assert torch.equal(loaded.probabilities(TEXTS), classifier.probabilities(TEXTS))
