"""Published ModernBERT and EuroBERT in the modern encoder: transformers' own numbers, and a refusal by name."""

import json
import shutil

import pytest
import torch
from oracles import EXACT, exact_rotation, largest_difference, perturbed
from safetensors.torch import load_file
from test_pretrained import (
    BERT,
    TEXTS,
    assert_same,
    change_config,
    change_tensors,
    random_batch,
    refuse,
    sentence_files,
    sentence_modules,
)
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from nextbert_lite import ModernEncoder, SentenceEncoder, embed, fill_mask, load
from nextbert_lite.core.heads import UntiedHead
from nextbert_lite.use import checkpoints
from nextbert_lite.use.pretrained import load_pretrained

MODERNBERT = BERT | {"num_hidden_layers": 5, "local_attention": 16, "max_position_embeddings": 512}
EUROBERT = BERT | {"num_hidden_layers": 3, "num_key_value_heads": 2}
KINDS = {
    "ModernBERT": ("ModernBertForMaskedLM", MODERNBERT),
    "ModernBERT's encoder": ("ModernBertModel", MODERNBERT),
    "ModernBERT, other numbers": (
        "ModernBertForMaskedLM",
        MODERNBERT
        | {"hidden_activation": "silu", "global_attn_every_n_layers": 2, "norm_eps": 1e-3, "local_attention": 7}
        | {"classifier_bias": True, "decoder_bias": False},
    ),
    "EuroBERT": ("EuroBertForMaskedLM", EUROBERT),
    "EuroBERT's encoder": ("EuroBertModel", EUROBERT | {"num_key_value_heads": None, "rms_norm_eps": 1e-3}),
    "EuroBERT, GeGLU": (
        "EuroBertForMaskedLM",
        EUROBERT | {"hidden_act": "gelu", "rope_parameters": {"rope_type": "default", "rope_theta": 250_000.0}},
    ),
}
SPECIALS = {
    "modern": {r: f"[{r.upper()}]" for r in ("unk", "cls", "sep", "pad", "mask")},
    "euro": {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>", "mask": "<|mask|>", "pad": "<|pad|>"},
}


def transformers_tokenizer(kind):
    """Bytes in pairs, as both families have them; the specials come last, and EuroBERT has none for the unknown."""
    from transformers import PreTrainedTokenizerFast

    specials, backend = SPECIALS[kind], Backend(models.BPE())
    if kind == "modern":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXTS[:2] * 3, trainer)
    backend.add_tokens([AddedToken("    ", normalized=True)])  # ModernBERT has some of these
    flags = {token: {"lstrip": role == "mask"} for role, token in specials.items()}
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False, **f) for t, f in flags.items()])
    first, last = (specials[r] for r in (("cls", "sep") if kind == "modern" else ("bos", "eos")))
    ends = [(token, backend.token_to_id(token)) for token in (first, last)]
    backend.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{f"{role}_token": t for role, t in specials.items()})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A function from kind to (model, folder): each is made once, and saved by transformers."""
    import transformers

    made = {}

    def get(kind):
        if kind not in made:
            name, settings = KINDS[kind]
            tokenizer = transformers_tokenizer("euro" if name.startswith("Euro") else "modern")
            config_class = getattr(transformers, name.partition("For")[0].removesuffix("Model") + "Config")
            ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": tokenizer.pad_token_id}
            config = config_class(vocab_size=len(tokenizer) + 9, **ids, **settings, attn_implementation="sdpa")
            model = perturbed(getattr(transformers, name)(config))
            with torch.no_grad():
                for part_name, part in model.named_parameters():
                    if part_name.endswith("norm.weight"):  # EuroBERT's are no LayerNorm
                        part.copy_(part + (part.mean() < 0.5))
            folder = tmp_path_factory.mktemp("published")
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[kind] = model, folder
        return made[kind]

    return get


@pytest.fixture
def copy(saved, tmp_path):
    """A function that copies a saved folder: change what you like in it."""
    return lambda kind: shutil.copytree(saved(kind)[1], tmp_path / str(len(list(tmp_path.iterdir()))))


# --- the same numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[1], [5], [130], [512, 130, 5, 1]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_and_logits_are_transformers_own(saved, kind, lengths, monkeypatch):
    exact_rotation(monkeypatch)
    theirs, folder = saved(kind)
    ours = load_pretrained(folder)
    assert isinstance(ours.encoder, ModernEncoder) and {p.dtype for p in ours.encoder.parameters()} == {torch.float64}
    ids, mask = random_batch(ours.encoder.config, lengths, 260)
    with torch.no_grad():
        expected = theirs.base_model(ids, attention_mask=mask.long()).last_hidden_state
        torch.testing.assert_close(ours.encoder(ids, mask)[mask], expected[mask], **EXACT)
        assert (ours.mlm is not None) == ("For" in KINDS[kind][0])
        if ours.mlm is not None:
            assert ours.mlm.encoder is ours.encoder
            logits = theirs(ids, attention_mask=mask.long()).logits
            torch.testing.assert_close(ours.mlm(ids, mask)[mask], logits[mask], **EXACT)


@pytest.mark.parametrize("kind", ["ModernBERT", "EuroBERT"])
def test_in_float32_they_are_so_as_transformers_runs_and_gaps_are_filled(copy, kind):
    from transformers import AutoModelForMaskedLM

    folder = copy(kind)
    change_tensors(folder, lambda tensors: tensors.update({n: t.float() for n, t in tensors.items()}))
    change_config(folder, dtype="float32")
    theirs, ours = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="sdpa"), load_pretrained(folder)
    ids, mask = random_batch(ours.encoder.config, [500, 40], 260)
    with torch.no_grad():
        difference = largest_difference(ours.mlm(ids, mask)[mask], theirs(ids, attention_mask=mask.long()).logits[mask])
    assert difference < 1e-5
    text = f"sort {ours.tokenizer.specials['mask']} list"
    ids = torch.tensor([ours.tokenizer.encode(text, allow_specials=True)])
    with torch.no_grad():
        [expected] = theirs(ids).logits[0, ids[0] == ours.tokenizer.mask_id].softmax(-1)
    [found] = fill_mask(ours.mlm, ours.tokenizer, text, k=1000)
    assert len(found) == ours.tokenizer.vocab_size == len(expected) - 9  # rows of the table that are no token
    assert found[0][1] == pytest.approx(float(expected[:-9].max()), abs=1e-6)


@pytest.mark.parametrize("kind", ["ModernBERT", "EuroBERT"])
def test_ids_are_those_of_transformers(saved, kind):
    from transformers import AutoTokenizer

    ours, theirs = load_pretrained(saved(kind)[1]).tokenizer, AutoTokenizer.from_pretrained(saved(kind)[1])
    texts = [
        *TEXTS,
        f"a {theirs.mask_token} b  {theirs.mask_token}",
        f"{theirs.pad_token} x",
        "a\u0301 \u00e1",
        "    four",
    ]
    assert ours.encode_batch(texts, allow_specials=True) == [theirs(text).input_ids for text in texts]
    assert ours.special_ids == tuple(sorted(theirs.all_special_ids)) and ours.vocab_size == len(theirs)
    assert (ours.pad_id, ours.unk_id, ours.mask_id) == (theirs.pad_token_id, theirs.unk_token_id, theirs.mask_token_id)
    assert ours.decode(ours.encode(TEXTS[2])) == TEXTS[2]
    again = type(ours).from_json(ours.to_json())
    assert again.encode_batch(texts) == ours.encode_batch(texts) and again.special_ids == ours.special_ids


@pytest.mark.parametrize("kind", ["ModernBERT", "EuroBERT"])
def test_what_is_loaded_can_be_saved_as_a_checkpoint_and_trained(saved, kind, tmp_path):
    ours = load_pretrained(saved(kind)[1])
    model = checkpoints.rounded(ours.mlm.float())
    checkpoints.save(tmp_path, model, ours.tokenizer, {"name": "mine"})
    again, tokenizer = load(tmp_path)
    assert tokenizer.unk_id == ours.tokenizer.unk_id and isinstance(again.head, UntiedHead) == (kind == "EuroBERT")
    ids, mask = random_batch(again.encoder.config, [9, 4], 260)
    assert torch.equal(again(ids, mask), model(ids, mask))
    model.loss(ids[:1], ids[:1].clone()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


# --- the forms of config.json -----------------------------------------------------------------------------------------

OLD = {"global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0, "global_attn_every_n_layers": 3}


@pytest.mark.parametrize("form", ["of 2024", "silent", "the same theta"])
def test_the_form_of_2024_is_read_as_todays(copy, saved, form):
    folder = copy("ModernBERT")
    told = json.loads((folder / "config.json").read_text())
    assert {"layer_types", "rope_parameters"} <= told.keys() and not OLD.keys() & told.keys()
    change_config(folder, layer_types=..., rope_parameters=..., **(OLD if form != "silent" else {}))
    if form == "the same theta":
        change_config(folder, local_rope_theta=None)
        config = load_pretrained(folder).encoder.config
        assert (config.theta, config.local_theta) == (160_000.0, None)
    else:
        assert_same(load_pretrained(folder), load_pretrained(saved("ModernBERT")[1]))


def test_eurobert_as_it_was_published_is_read(copy, saved):
    folder = copy("EuroBERT, GeGLU")
    change_config(folder, rope_parameters=..., rope_theta=250_000, rope_scaling=None, head_dim=..., mlp_bias=...)
    assert_same(load_pretrained(folder), load_pretrained(saved("EuroBERT, GeGLU")[1]))


def test_zeros_in_the_place_of_biases_are_nothing_and_others_are_refused(copy, saved):
    for kind, name in (("ModernBERT", "layers.1.attn.Wqkv.bias"), ("EuroBERT", "layers.1.self_attn.k_proj.bias")):
        folder = copy(kind)
        change_tensors(folder, lambda tensors, n=name: tensors.update({f"model.{n}": torch.zeros(16)}))
        assert_same(load_pretrained(folder), load_pretrained(saved(kind)[1]))
        change_tensors(folder, lambda tensors, n=name: tensors[f"model.{n}"].__setitem__(3, 0.5))
        refuse(folder, rf"model\.{name}, which is not zero: this encoder's layers have no biases")


def test_todays_biases_of_norms_are_read_where_they_are_zero(copy, saved):
    """As `export` writes the head's: norm_bias is one switch for all norms."""
    folder = copy("ModernBERT")
    biases = [n.removesuffix("weight") + "bias" for n in load_file(folder / "model.safetensors") if "norm.weight" in n]
    change_tensors(folder, lambda tensors: tensors.update({name: torch.zeros(16) for name in biases}))
    change_tensors(folder, lambda tensors: tensors.update({"head.norm.bias": torch.ones(16)}))
    change_config(folder, norm_bias=True)
    assert torch.equal(load_pretrained(folder).mlm.head.norm.bias.float(), torch.ones(16))


def rope(kind, **told):
    usual = {name: {"rope_type": "default", "rope_theta": 1e4} for name in ("full_attention", "sliding_attention")}
    return {"rope_parameters": usual | {kind: usual[kind] | told}}


def layers(pattern):
    return {
        "layer_types": [{"F": "full_attention", "s": "sliding_attention", "c": "chunked"}[kind] for kind in pattern]
    }


NO = "describes no encoder: "
CONFIGURATIONS = {
    "another activation": (
        "ModernBERT",
        {"hidden_activation": "relu"},
        "hidden_activation is 'relu'; .* only gelu, silu",
    ),
    "and the head's": (
        "ModernBERT",
        {"classifier_activation": "relu"},
        "classifier_activation is 'relu'; .*only 'gelu'",
    ),
    "local first": ("ModernBERT", layers("sFssF"), f"{NO}its layer_types are .*and here the layers 0, n, 2n"),
    "no rhythm": ("ModernBERT", layers("FsFFs"), f"{NO}its layer_types are"),
    "a third kind": ("ModernBERT", layers("FccFc"), f"{NO}its layer_types are .*chunked"),
    "too few kinds": ("ModernBERT", layers("Fss"), f"{NO}its layer_types are"),
    "yarn": (
        "ModernBERT",
        rope("full_attention", rope_type="yarn", factor=4.0),
        "has rope_type 'yarn', factor 4.0, and",
    ),
    "half turned": (
        "ModernBERT",
        rope("sliding_attention", partial_rotary_factor=0.5),
        "has partial_rotary_factor 0.5",
    ),
    "scaled of old": ("EuroBERT", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "has type 'linear', factor 2.0"),
    "a theta of 0": ("ModernBERT", rope("full_attention", rope_theta=0), f"{NO}theta is 0; it must be"),
    "no window": ("ModernBERT", {"local_attention": 1}, f"{NO}window is 0; it must be a whole number of at least 1"),
    "never global": ("ModernBERT", {"layer_types": ..., "global_attn_every_n_layers": 0}, NO),
    "3 heads": ("ModernBERT", {"num_attention_heads": 3}, f"{NO}heads is 3 at width 16"),
    "wide heads": ("EuroBERT", {"head_dim": 8}, f"{NO}head_dim is 8, and here"),
    "3 kv heads": ("EuroBERT", {"num_key_value_heads": 3}, f"{NO}kv_heads is 3; it must divide heads, 4"),
    "other kv heads": ("EuroBERT", {"num_key_value_heads": 1}, r"k_proj\.weight has the shape \[8, 16\]; .*\[4, 16\]"),
    "a decoder": ("EuroBERT", {"is_decoder": True}, "is_decoder is True"),
    "tied": (
        "EuroBERT",
        {"tie_word_embeddings": True},
        "tie_word_embeddings is True; this encoder can express only Fal",
    ),
    "untied": ("ModernBERT", {"tie_word_embeddings": False}, r"decoder\.weight is not tied"),
    "a layer too few": ("ModernBERT", {"num_hidden_layers": 4} | layers("FssF"), "of 4 layers by its .*holds 5 layers"),
    "ModernBERT as BERT": ("ModernBERT", {"model_type": "bert"}, "config.json does not say|lacks|holds"),
    "EuroBERT as ModernBERT": ("EuroBERT", {"model_type": "modernbert"}, "gives no tokenizer: of the text"),
    "deberta": ("ModernBERT", {"model_type": "deberta-v2"}, "one of bert, roberta, distilbert, modernbert, eurobert"),
}


@pytest.mark.parametrize(("kind", "changes", "message"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_a_configuration_that_cannot_be_expressed_or_does_not_fit_is_refused(copy, kind, changes, message):
    folder = copy(kind)
    change_config(folder, **changes)
    refuse(folder, message)


@pytest.mark.parametrize("kind", ["ModernBERT", "EuroBERT"])
def test_each_missing_tensor_and_each_left_over_is_named(copy, kind):
    folder = copy(kind)
    whole = load_file(folder / "model.safetensors")
    may = {"decoder.bias", "lm_head.weight"}  # a bias that stands for zeros; and a head that is one tensor
    for missing in whole.keys() - may:
        change_tensors(folder, lambda tensors, m=missing: tensors.pop(m))
        refuse(folder, f"lacks {missing.replace('.', '[.]')}, and has left over nothing")
        change_tensors(folder, lambda tensors, m=missing: tensors.update({m: whole[m]}))
    change_tensors(folder, lambda tensors: tensors.update({"classifier.weight": torch.zeros(2, 16)}))
    refuse(folder, r"has left over classifier\.weight\. If these are a classifier's")


# --- tokenizers that cannot be read -----------------------------------------------------------------------------------


def test_a_padding_that_also_ends_a_text_is_refused_and_another_can_be_named(copy):
    folder = copy("EuroBERT")  # as it was first published
    path = folder / "tokenizer_config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"pad_token": "<|end_of_text|>"}))
    refuse(folder, r"pad_token is <\|end_of_text\|>, which also ends each text.*as pad_token in tokenizer_config\.json")
    path.write_text(json.dumps(told | {"pad_token": "<|pad|>"}))
    assert load_pretrained(folder).tokenizer.specials["pad"] == "<|pad|>"


def test_a_tokenizer_that_ends_a_text_otherwise_is_refused(copy):
    folder = copy("EuroBERT")
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    told["post_processor"]["single"].pop()  # as Llama's
    path.write_text(json.dumps(told))
    refuse(
        folder, r"of the text 'a' it makes \['<\|begin_of_text\|>', 'a'\]; a text here starts with .*<\|end_of_text\|>"
    )


# --- folders of sentence-transformers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_folder_of_sentence_transformers_gives_its_vectors(copy, pooling):
    """As gte-modernbert-base (cls) and modernbert-embed-base (mean) are published."""
    from sentence_transformers import SentenceTransformer

    folder = copy("ModernBERT's encoder")
    change_tensors(folder, lambda tensors: tensors.update({n: t.float() for n, t in tensors.items()}))
    change_config(folder, dtype="float32")
    sentence_files(folder, max_len=300)
    kinds = ("Transformer", "Pooling", "Normalize") if pooling == "mean" else ("Transformer", "Pooling")
    listed = [module | {"name": str(module["idx"])} for module in sentence_modules(*kinds)]
    (folder / "modules.json").write_text(json.dumps(listed))
    told = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": pooling == "mean"}
    told |= {"pooling_mode_cls_token": pooling == "cls", "include_prompt": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(told))
    sentences = {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(sentences))
    ours = load_pretrained(folder)
    assert (ours.pooling, ours.encoder.config.max_len, ours.mlm) == (pooling, 300, None)
    texts = [text for text in TEXTS if text.strip() and "[MASK]" not in text] + ["the mean of all numbers " * 10]
    theirs = SentenceTransformer(str(folder), device="cpu")
    expected = torch.from_numpy(theirs.encode(texts, normalize_embeddings=True))
    assert largest_difference(embed(texts, folder, device="cpu"), expected) < 1e-5
    assert largest_difference(embed(texts, (SentenceEncoder(ours.encoder, pooling), ours.tokenizer)), expected) < 1e-5
