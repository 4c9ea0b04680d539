"""What `export` writes opens in transformers, sentence-transformers and `load_pretrained`, with the same numbers."""

import json

import pytest
import torch
from oracles import batch, exact_rotation, perturbed
from safetensors import safe_open
from test_pretrained import TEXTS, word_pieces

from nextbert_lite import (
    Encoder,
    EncoderConfig,
    MaskedLanguageModel,
    ModernConfig,
    SentenceEncoder,
    TextClassifier,
    Tokenizer,
    embed,
    export,
    load_pretrained,
    train_bpe,
    word_level,
)
from nextbert_lite.core.either import encoder_of
from nextbert_lite.core.heads import UntiedHead
from nextbert_lite.course import cli
from nextbert_lite.use import checkpoints
from nextbert_lite.use.export import FORMATS

SIZES = {"width": 16, "layers": 4, "heads": 4, "ffn_width": 24, "max_len": 64}
ROBERTA = {"pad_id": 1, "position_offset": 2, "token_types": 1}
KINDS = {
    "BERT": EncoderConfig(vocab_size=330, **SIZES),
    "BERT, tanh, types": EncoderConfig(vocab_size=330, **SIZES, activation="gelu_tanh", token_types=2, eps=1e-12),
    "RoBERTa": EncoderConfig(vocab_size=330, **SIZES, **ROBERTA),
    "ModernBERT": ModernConfig(vocab_size=330, **SIZES, window=3, theta=160_000.0, local_theta=10_000.0, eps=1e-3),
    "ModernBERT, global": ModernConfig(vocab_size=330, **SIZES, gate="silu", kv_heads=4),
    "ModernBERT, one theta": ModernConfig(vocab_size=330, **SIZES, window=5, global_every=2, init_std="fan_in"),
}


def encoder(kind):
    return perturbed(encoder_of(KINDS[kind])).float()


def mlm(kind):
    return perturbed(MaskedLanguageModel(encoder(kind))).float()


@pytest.fixture(scope="module")
def tokenizer():
    """A function from kind to a tokenizer whose padding is the configuration's: ours, or a published one's."""
    ours = train_bpe(TEXTS[:2] * 3, 300)
    specials = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
    told = json.loads(ours.to_json())
    order = dict(
        zip(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), ("<s>", "<pad>", "</s>", "<unk>", "<mask>"), strict=True)
    )
    told["added_tokens"] = [token | {"content": order[token["content"]]} for token in told["added_tokens"]]
    told["model"]["vocab"] = {order.get(word, word): i for word, i in told["model"]["vocab"].items()}
    roberta = Tokenizer.from_json(json.dumps(told | {"specials": specials}))
    return lambda kind: roberta if KINDS[kind].pad_id else ours


def inputs(kind):
    return batch([40, 7, 1], vocab_size=300, pad_id=KINDS[kind].pad_id)


# --- transformers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_opens_a_language_model_with_the_same_numbers(
    kind, dtype, tolerance, tokenizer, tmp_path, monkeypatch
):
    from transformers import AutoModelForMaskedLM

    if dtype == torch.float64:
        exact_rotation(monkeypatch)
    model = mlm(kind).to(dtype)
    export(model, tokenizer(kind), tmp_path / "out")
    theirs, told = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids, mask = inputs(kind)
    with torch.no_grad():
        expected, found = model(ids, mask)[mask], theirs.eval()(ids, attention_mask=mask.long()).logits[mask]
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    assert theirs.config.pad_token_id == tokenizer(kind).pad_id and theirs.dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_opens_an_encoder_with_the_same_numbers(kind, tokenizer, tmp_path):
    from transformers import AutoModel

    model = encoder(kind)
    export(SentenceEncoder(model, "first-last"), tokenizer(kind), tmp_path)  # no pooling is written in this format
    theirs, told = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["unexpected_keys"] and all("pooler" in key for key in told["missing_keys"])
    ids, mask = inputs(kind)
    with torch.no_grad():
        expected, found = model(ids, mask)[mask], theirs.eval()(ids, attention_mask=mask.long()).last_hidden_state[mask]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("head", ["half zero", "zero biases", "all drawn"])
@pytest.mark.parametrize("kind", KINDS)
def test_load_pretrained_reads_it_back_bit_for_bit(kind, head, tokenizer, tmp_path):
    model = mlm(kind)
    zeros = {"half zero": ["norm.bias"], "zero biases": ["dense.bias", "norm.bias", "bias"], "all drawn": []}[head]
    with torch.no_grad():
        for name, part in model.head.named_parameters():
            if name in zeros:
                part.zero_()
    export(model, tokenizer(kind), tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    assert told.get("norm_bias", None) in (None, head != "zero biases")
    again = load_pretrained(tmp_path)
    ids, mask = inputs(kind)
    assert torch.equal(again.mlm(ids, mask), model.eval()(ids, mask))
    types = {"encoder.types.weight"} if kind == "BERT" else set()  # a row of zeros, for BERT has types
    state = again.mlm.state_dict()
    assert state.keys() - types == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


# --- tokenizers -------------------------------------------------------------------------------------------------------


def lower_case():
    return Tokenizer(word_pieces(), dict(zip(("pad", "unk", "cls", "sep", "mask"), NAMES, strict=True)))


NAMES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKENIZERS = {
    "bytes": lambda: train_bpe(TEXTS[:2] * 3, 300),
    "words": lambda: word_level("sort the list mean of all numbers".split()),
    "word pieces in lower case": lower_case,
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_are_the_same_in_transformers_and_after_a_second_reading(kind, tmp_path):
    from transformers import AutoTokenizer

    ours = TOKENIZERS[kind]()
    config = EncoderConfig(vocab_size=ours.vocab_size, **SIZES, pad_id=ours.pad_id)
    export(Encoder(config), ours, tmp_path)
    theirs, again = AutoTokenizer.from_pretrained(tmp_path), load_pretrained(tmp_path).tokenizer
    texts = [*TEXTS, "SORT the LIST", "sort [MASK] list", "[CLS] [PAD] [SEP]", "the mean of ALL [MASK]numbers"]
    ids = ours.encode_batch(texts, allow_specials=True)
    assert [theirs(text).input_ids for text in texts] == ids == again.encode_batch(texts, allow_specials=True)
    assert again.encode_batch(texts) == ours.encode_batch(texts) and again.special_ids == ours.special_ids
    special = [theirs.pad_token_id, theirs.unk_token_id, theirs.cls_token_id, theirs.sep_token_id, theirs.mask_token_id]
    assert special == [ours.pad_id, ours.unk_id, ours.cls_id, ours.sep_id, ours.mask_id]
    assert theirs("sort", "list").input_ids == [*ours.encode("sort"), *ours.encode("list")[1:]]


# --- sentence-transformers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", ["BERT", "RoBERTa", "ModernBERT"])
def test_sentence_transformers_gives_the_vectors_of_embed(kind, pooling, tokenizer, tmp_path):
    from sentence_transformers import SentenceTransformer

    model = SentenceEncoder(encoder(kind), pooling).eval()
    export(model, tokenizer(kind), tmp_path, format="sentence-transformers")
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    assert theirs.max_seq_length == 64
    texts = [text for text in TEXTS if text.strip() and "[MASK]" not in text]
    expected = embed(texts, (model, tokenizer(kind)), device="cpu")
    torch.testing.assert_close(torch.from_numpy(theirs.encode(texts)), expected, atol=1e-6, rtol=0)
    again = load_pretrained(tmp_path)
    assert again.pooling == pooling and again.mlm is None and again.encoder.config.max_len == 64
    assert torch.equal(embed(texts, tmp_path, device="cpu"), expected)
    text = "the mean of all numbers " * 30
    cut = embed([text], (model, tokenizer(kind)), long="cut", device="cpu")
    torch.testing.assert_close(torch.from_numpy(theirs.encode([text])), cut, atol=1e-6, rtol=0)


def test_a_language_model_is_pooled_by_its_mean_as_embed_does(tokenizer, tmp_path):
    model = mlm("ModernBERT").eval()
    export(model, tokenizer("ModernBERT"), tmp_path, format="sentence-transformers")
    assert torch.equal(embed(TEXTS[:2], tmp_path, device="cpu"), embed(TEXTS[:2], (model, tokenizer("ModernBERT"))))


# --- what is refused, and what stays ----------------------------------------------------------------------------------

PRE = EncoderConfig(vocab_size=330, **SIZES, norm="pre")
REFUSED = {
    "pre-norm": (PRE, "norm is 'pre', and Bert can express only 'post'. Train .* or keep this one as a checkpoint"),
    "no positions": (EncoderConfig(vocab_size=330, **SIZES, positions="none"), "positions is 'none', and Bert can"),
    "another offset": (
        EncoderConfig(vocab_size=330, **SIZES, position_offset=5),
        "position_offset is 5, and Roberta .* 1",
    ),
    "RMS norm": (ModernConfig(vocab_size=330, **SIZES, norm="rms"), "norm is 'rms', and ModernBert can .*'layer'"),
    "grouped heads": (
        ModernConfig(vocab_size=330, **SIZES, kv_heads=2),
        "kv_heads is 2, and ModernBert can express only 4",
    ),
    "bare embeddings": (
        ModernConfig(vocab_size=330, **SIZES, embedding_norm=False),
        "embedding_norm is False, and Modern",
    ),
}


@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_expressed_is_refused_by_name_and_nothing_is_written(config, message, tokenizer, tmp_path):
    model = encoder_of(config)
    with pytest.raises(ValueError, match=message):
        export(model, tokenizer("BERT"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_robertas_head_has_one_activation_and_other_heads_are_no_mlm_head(tokenizer, tmp_path):
    config = EncoderConfig(vocab_size=330, **SIZES, **ROBERTA, activation="relu")
    with pytest.raises(ValueError, match="activation is 'relu', and Roberta can express only 'gelu'"):
        export(MaskedLanguageModel(Encoder(config)), tokenizer("RoBERTa"), tmp_path / "out")
    export(Encoder(config), tokenizer("RoBERTa"), tmp_path / "encoder")
    untied = mlm("ModernBERT")
    untied.head = UntiedHead(untied.encoder)
    for model, name in ((untied, "UntiedHead"), (TextClassifier(encoder("BERT"), 2), "ClassificationHead")):
        with pytest.raises(TypeError, match=f"a {name} cannot be exported; the course's encoder and MLMHead can"):
            export(model, tokenizer("BERT"), tmp_path / "out")
    with pytest.raises(ValueError, match="pooling is 'first-last', which sentence-transformers has not"):
        export(SentenceEncoder(encoder("BERT"), "first-last"), tokenizer("BERT"), tmp_path / "out", FORMATS[1])
    with pytest.raises(ValueError, match="format is 'onnx'; choose one of"):
        export(encoder("BERT"), tokenizer("BERT"), tmp_path / "out", "onnx")
    with pytest.raises(TypeError, match="expected them the other way round"):
        export(tokenizer("BERT"), encoder("BERT"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_is_written_whole_or_not_at_all(format, tokenizer, tmp_path, monkeypatch):
    def full(tensors, metadata):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("nextbert_lite.use.export.safetensors", full)
        with pytest.raises(OSError, match="No space left"):
            export(encoder("BERT"), tokenizer("BERT"), tmp_path / "out", format)
    assert not list((tmp_path / "out").iterdir())
    export(encoder("BERT"), tokenizer("BERT"), tmp_path / "out", format)
    assert load_pretrained(tmp_path / "out").encoder.config.width == 16
    assert not list((tmp_path / "out").rglob("*.new"))


def test_a_folder_with_files_stays_as_it_is(tokenizer, tmp_path):
    checkpoints.save(tmp_path / "mine", mine := SentenceEncoder(encoder("BERT")), tokenizer("BERT"), {"name": "m"})
    before = {path: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    with pytest.raises(FileExistsError, match=r"has files already \(card\.json, .*: name a new folder"):
        export(mine, tokenizer("BERT"), tmp_path / "mine")
    assert {path: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before
    export(mine, tokenizer("BERT"), tmp_path / "out")
    with pytest.raises(FileExistsError, match="has files already"):
        export(mine, tokenizer("BERT"), tmp_path / "out")


def test_the_weights_are_safetensors_alone_and_the_model_is_not_changed(tokenizer, tmp_path):
    model = mlm("ModernBERT")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export(model, tokenizer("ModernBERT"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_command_exports_a_checkpoint(tokenizer, tmp_path, capsys):
    model = SentenceEncoder(encoder("ModernBERT"), "cls")
    checkpoints.save(tmp_path / "mine", model, tokenizer("ModernBERT"), {"name": "mine"}, half=False)
    arguments = ["export", str(tmp_path / "mine"), str(tmp_path / "out"), "--format", "sentence-transformers"]
    assert cli.main(arguments) == 0 and "SentenceTransformer('" in capsys.readouterr().out
    assert load_pretrained(tmp_path / "out").pooling == "cls"
    assert cli.main(arguments) == 1 and "name a new folder" in capsys.readouterr().err
    assert cli.main([*arguments[:3], "--format", "onnx"]) == 2
