"""A published checkpoint in the course's own encoders: BERT (MiniLM is one), RoBERTa, DistilBERT, ModernBERT, EuroBERT.

    published = load_pretrained("a/folder")
    vectors = embed(["sort a list"], published)

What they cannot express is refused by name, and so is every tensor that is missing or left over: nothing is half
loaded. Weights are read from safetensors only; no pickle is opened and no code of a checkpoint runs.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from torch import Tensor, nn

from nextbert_lite.core.either import encoder_of
from nextbert_lite.core.encoder import ACTIVATIONS, Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel, UntiedHead
from nextbert_lite.core.modern import GATES, ModernConfig, ModernEncoder
from nextbert_lite.files import check_readable, json_of, share_dir
from nextbert_lite.training.tokenizer import ROLES, Tokenizer

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
TOKENIZER_FILES = (TOKENIZER, "vocab.txt", "vocab.json", "merges.txt")
ADDED_FILES = (TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json")
SENTENCE_FILES = ("sentence_bert_config.json", "config_sentence_transformers.json")
POOLING_FILES = ("modules.json", "1_Pooling/config.json")
FILES = (CONFIG, WEIGHTS, *TOKENIZER_FILES, *ADDED_FILES, *SENTENCE_FILES, *POOLING_FILES)


class Published(NamedTuple):
    """What `load_pretrained` gives: models in eval mode, on the CPU."""

    encoder: Encoder | ModernEncoder
    tokenizer: Tokenizer
    mlm: MaskedLanguageModel | None  # the same encoder with its head, where one is stored
    pooling: str | None  # "mean" or "cls", where the folder is one of sentence-transformers


class Family(NamedTuple):
    """How one family names what we have; see data/published.toml."""

    prefix: str
    fields: dict[str, str]
    modules: dict[str, tuple[str, ...]]
    decoder: str
    specials: tuple[str, ...]
    tokenizer: str
    only: dict[str, object]
    defaults: dict[str, object]


def _families() -> dict[str, Family]:
    """Return the families of data/published.toml by their model_type."""
    told = tomllib.loads((share_dir("data") / "published.toml").read_text(encoding="utf-8"))
    for table in told.values():
        modules = {
            ours: (names,) if isinstance(names, str) else tuple(names) for ours, names in table["modules"].items()
        }
        table |= {"modules": modules, "specials": tuple(table["specials"])}
    return {name: Family(**table) for name, table in told.items()}


FAMILIES = _families()
BERT, ROBERTA = FAMILIES["bert"], FAMILIES["roberta"]
AS_STORED = ("PreTrainedTokenizer", "TokenizersBackend", "XLMRobertaTokenizer")  # tokenizer.json says all of these
OTHER_WORDS = {"word_tokenizer_type": "basic", "subword_tokenizer_type": "wordpiece"}  # BertJapaneseTokenizer's
OUR_ACTIVATION = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
OUR_POOLING = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "mean": "mean", "cls": "cls"}
LAYERS = {"full_attention": "theta", "sliding_attention": "local_theta"}  # what a modern config.json calls its layers
ONLY_SENTENCES = {  # config_sentence_transformers.json: what can be obeyed, and what is said of all else
    "default_prompt_name": (None, "no prompt can be added."),
    "truncate_dim": (None, "vectors cannot be cut here. Write null there if you want the whole ones."),
    "similarity_fn_name": (
        "cosine",
        "`embed` gives vectors of length 1, for cosines. Write 'cosine' if you want these.",
    ),
    "model_type": ("SentenceTransformer", "only a SentenceTransformer can be read."),
}
LEFT_OUT = (  # tensors that are knowingly not read: the pooler, next-sentence prediction, the numbers 0, 1, 2, …
    "pooler.dense.weight",
    "pooler.dense.bias",
    "cls.seq_relationship.weight",
    "cls.seq_relationship.bias",
    "embeddings.position_ids",
)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_pretrained(source: str | Path, *, download: bool = False) -> Published:
    """Return the encoder, tokenizer, MLM head and pooling of a published checkpoint, as far as it has them.

    source: a folder with config.json, a tokenizer and model.safetensors; or, with download=True, a name on
    huggingface.co. Weights become float32; where float64 is stored they stay float64. The pooler and the head of
    next-sentence prediction are not read (`LEFT_OUT`). In a folder of sentence-transformers the encoder's max_len is
    max_seq_length, and the positions beyond it are left out too (all-MiniLM-L6-v2: 256 of 512 stay).
    Raises FileNotFoundError for a folder or file that is not there, ConnectionError for a failed download, ValueError
    for files that are damaged, do not belong together, or hold what this encoder cannot express.
    """
    folder = find_folder(source, download)
    check_fetched(folder)
    settings = read_json(folder / CONFIG, dict)
    family = read_family(settings, folder / CONFIG)
    tokenizer = read_tokenizer(folder, family, settings)
    config = read_config(settings, family, tokenizer, folder / CONFIG)
    pooling, max_len = read_sentence_files(folder, tokenizer)
    tensors = read_weights(folder / WEIGHTS)
    encoder, mlm = build(config, family, tensors, settings, folder / WEIGHTS)
    if max_len is not None and max_len < config.max_len:
        shorten(encoder, max_len)
    return Published(encoder.eval(), tokenizer, mlm and mlm.eval(), pooling)


def find_folder(source: str | Path, download: bool) -> Path:
    """Return the folder of a checkpoint; fetch it from huggingface.co if that was asked for."""
    name = str(source)
    if Path(source).is_dir():
        return Path(source)
    if Path(source).exists() or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):
        raise FileNotFoundError(f"there is no folder {name}: give the one that holds {CONFIG} and {WEIGHTS}.")
    if not download:
        raise FileNotFoundError(
            f"there is no folder {name!r}. If it is a name on huggingface.co, load_pretrained({name!r}, download=True) "
            "fetches it; nothing is fetched unless you ask."
        )
    from huggingface_hub import snapshot_download  # only who asks for a download needs it

    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"{name!r} could not be fetched from huggingface.co. Look at the name and at the network, or give the path "
            f"of a folder. The reason: {' '.join(str(error).split())}"
        ) from error


def check_fetched(folder: Path) -> None:
    """Raise ValueError for a file that Git LFS has left out: a few lines stand in its place."""
    for path in (folder / name for name in FILES):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(40).startswith(b"version https://git-lfs"):
                    raise ValueError(f"{path} is only Git LFS's pointer to the file. Run `git lfs pull` in {folder}.")


def read_json(path: Path, kind: type) -> dict | list:
    """Return what a JSON file holds, an object (dict) or a list."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. A checkpoint needs {CONFIG}, a tokenizer and {WEIGHTS}.")
    try:
        content = json_of(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file ({error}). Copy it again.") from None
    if not isinstance(content, kind):
        raise ValueError(f"{path} holds a {type(content).__name__} of JSON, not a {kind.__name__}. Copy it again.")
    return content


def read_settings(folder: Path, *names: str) -> dict:
    """Return what those of the JSON files say that are there."""
    settings = {}
    for name in names:
        settings |= read_json(folder / name, dict) if (folder / name).is_file() else {}
    return settings


def read_family(settings: dict, path: Path) -> Family:
    """Return the family that config.json names, if its switches can be expressed here."""
    model_type = settings.get("model_type")
    if model_type not in FAMILIES:
        raise ValueError(f"{path}: model_type is {model_type!r}; this encoder can be one of {', '.join(FAMILIES)}.")
    family = FAMILIES[model_type]
    for field, only in family.only.items():
        if settings.get(field, only) != only:
            raise ValueError(f"{path}: {field} is {settings[field]!r}; this encoder can express only {only!r}.")
    return family


def read_config(settings: dict, family: Family, tokenizer: Tokenizer, path: Path) -> EncoderConfig | ModernConfig:
    """Return config.json as a configuration of one of our encoders."""
    fields = family.fields
    missing = [theirs for ours, theirs in fields.items() if theirs not in settings and ours not in family.defaults]
    if missing:
        raise ValueError(f"{path} does not say {', '.join(missing)}. Copy it again from where the model comes from.")
    values = family.defaults | {ours: settings[theirs] for ours, theirs in fields.items() if theirs in settings}
    function, known = ("gate", {name: name for name in GATES}) if "gate" in fields else ("activation", OUR_ACTIVATION)
    width = values["width"]
    if values[function] not in known:
        raise ValueError(
            f"{path}: {fields[function]} is {values[function]!r}; this encoder can express only {', '.join(known)}."
        )
    if settings.get("embedding_size", width) != width:
        raise ValueError(
            f"{path}: embedding_size is {settings['embedding_size']} and {fields['width']} {width}; this encoder's "
            "embeddings have the width of its layers."
        )
    pad_id = tokenizer.pad_id
    if family is ROBERTA and settings.get("pad_token_id", 1) != pad_id:  # its positions depend on it
        raise ValueError(
            f"{path}: pad_token_id is {settings.get('pad_token_id', 1)}, but the tokenizer beside it pads with "
            f"{pad_id}. They are not of one model."
        )
    values |= {function: known[values[function]], "pad_id": pad_id}
    try:
        if function == "gate":
            values |= read_rotation(settings, values, path)
        if family is ROBERTA:  # positions count from pad_id + 1
            values |= {"position_offset": pad_id + 1, "max_len": values["max_len"] - (pad_id + 1)}
        config = (ModernConfig if function == "gate" else EncoderConfig)(**values)
    except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise ValueError(f"{path} describes no encoder: {error}") from None
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"{path}: vocab_size is {config.vocab_size}, but the tokenizer beside it has {tokenizer.vocab_size} ids. "
            "They are not of one model."
        )
    return config


def read_rotation(settings: dict, values: dict, path: Path) -> dict:
    """Return theta and the layers' windows as our fields, from config.json in its form of 2024 or in today's."""
    count, ropes = values["layers"], settings.get("rope_parameters") or {}
    by_kind = (
        {kind: ropes.get(kind) or {} for kind in LAYERS} if set(LAYERS) & ropes.keys() else {"full_attention": ropes}
    )
    for rope in (*by_kind.values(), settings.get("rope_scaling") or {}):
        usual = {
            "rope_type": "default",
            "type": "default",
            "partial_rotary_factor": 1.0,
            "rope_theta": rope.get("rope_theta"),
        }
        if odd := [f"{field} {value!r}" for field, value in rope.items() if usual.get(field) != value is not None]:
            raise ValueError(f"its rotation has {', '.join(odd)}, and this encoder only a theta")
    found = {LAYERS[kind]: rope["rope_theta"] for kind, rope in by_kind.items() if "rope_theta" in rope}
    if settings.get("head_dim") not in (None, values["width"] // values["heads"]):
        raise ValueError(f"head_dim is {settings['head_dim']}, and here each of the heads has width / heads features")
    if "window" not in values:
        return found | {"kv_heads": values["kv_heads"] or None}
    every = settings.get("global_attn_every_n_layers", 3)
    kinds = settings.get("layer_types") or [("sliding" if i % every else "full") + "_attention" for i in range(count)]
    is_full = [kind == "full_attention" for kind in kinds]
    every = next((i for i in range(1, count) if is_full[i : i + 1] == [True]), max(1, count))
    if is_full != [i % every == 0 for i in range(count)] or not set(kinds) <= LAYERS.keys():
        raise ValueError(f"its layer_types are {kinds}, and here the layers 0, n, 2n, … are full, the others sliding")
    return found | {"global_every": every, "window": values["window"] // 2}


def read_tokenizer(folder: Path, family: Family, settings: dict) -> Tokenizer:
    """Return the tokenizer of a folder, as transformers reads it.

    A family's own tokenizer takes only its words from tokenizer.json, vocab.txt, or vocab.json and merges.txt; how it
    reads (lower case, accents, …) stands in tokenizer_config.json. The classes `AS_STORED` are tokenizer.json.
    """
    told = read_settings(folder, TOKENIZER_CONFIG)
    if "added_tokens_decoder" not in told:  # of older folders
        told |= read_settings(folder, "special_tokens_map.json")
    name = str(told.get("tokenizer_class") or settings.get("tokenizer_class") or family.tokenizer).removesuffix("Fast")
    own = next((f for f in FAMILIES.values() if f.tokenizer == name), None)
    if own is None and name not in AS_STORED:
        known = ", ".join(dict.fromkeys([*(f.tokenizer for f in FAMILIES.values()), *AS_STORED]))
        raise ValueError(f"{folder}: its tokenizer_class is {name}, which cannot be read here; only {known} can.")
    for field, usual in OTHER_WORDS.items():
        if told.get(field) not in (None, usual):
            raise ValueError(f"{folder / TOKENIZER_CONFIG}: {field} is {told[field]!r}; only {usual!r} can be read.")
    found = find_words(folder, name, own)
    stored = read_json(found, dict) if found.name == TOKENIZER else {}
    usual = (own or (ROBERTA if name == "XLMRobertaTokenizer" else family)).specials
    named = {role: told.get(f"{role}_token") or token for role, token in zip(ROLES, usual, strict=True)}
    named = {role: token for role, token in named.items() if token}  # EuroBERT's bytes need no token for the unknown
    specials = {role: token["content"] if isinstance(token, dict) else token for role, token in named.items()}
    if specials["pad"] == specials["sep"]:
        raise ValueError(
            f"{folder}: pad_token is {specials['pad']}, which also ends each text, so padding cannot be told from it. "
            f"Name another special token of {found.name} as pad_token in {TOKENIZER_CONFIG}, such as <|pad|>. No layer "
            "looks at padding, so any token will do that no text holds."
        )
    try:
        words = told_words(folder, told, stored, set(specials.values()))
        if own is None:
            backend = Backend.from_file(str(found))
            check_ends(backend, [specials["cls"], specials["sep"]] if family.tokenizer.endswith("Fast") else [])
        else:
            check_kind(stored, own)
            backend = (byte_pairs if own is ROBERTA else word_pieces)(found, told, stored, words, specials)
        add_words(backend, words)
        flags = {"mask": {"lstrip": True}} if own is ROBERTA else {}  # <mask> takes the space before it along
        for role, token in named.items():
            add_special(backend, flags.get(role, {}) | (token if isinstance(token, dict) else {"content": token}))
        for token in extra_specials(told):
            backend.add_special_tokens([] if is_added(backend, token) else [AddedToken(token, special=True)])
        return Tokenizer(backend, specials)
    except Exception as error:  # the tokenizers library has no class of its own for this
        raise ValueError(f"{found} gives no tokenizer: {error}") from error


def check_ends(backend: Backend, ends: list[str]) -> None:
    """Raise ValueError unless a tokenizer puts these two tokens around a text, as `Tokenizer` does."""
    text = backend.encode("a", add_special_tokens=False).tokens
    whole = backend.encode("a").tokens
    if ends and whole != [ends[0], *text, ends[1]]:
        raise ValueError(f"of the text 'a' it makes {whole}; a text here starts with {ends[0]} and ends with {ends[1]}")


def find_words(folder: Path, name: str, own: Family | None) -> Path:
    """Return tokenizer.json, or the file of words that this class of tokenizers has beside it."""
    files = () if own is None else ("vocab.json", "merges.txt") if own is ROBERTA else ("vocab.txt",)
    if (folder / TOKENIZER).is_file():
        return folder / TOKENIZER
    missing = [file for file in files if not (folder / file).is_file()]
    if missing or not files:
        expected = " or ".join([TOKENIZER, *([" and ".join(files)] if files else [])])
        raise FileNotFoundError(
            f"{folder} has no tokenizer: a {name} needs {expected}; missing: {', '.join([TOKENIZER, *missing])}. Copy "
            "it from where the model comes from."
        )
    return folder / files[0]


def check_kind(stored: dict, own: Family) -> None:
    """Raise ValueError where tokenizer.json holds another tokenizer than its class."""
    usual = ("BPE", None, "ByteLevel") if own is ROBERTA else ("WordPiece", "BertNormalizer", "BertPreTokenizer")
    parts = [stored.get(part) or {} for part in ("model", "normalizer", "pre_tokenizer")] if stored else []
    for part, kind in zip(parts, usual, strict=bool(parts)):
        if part and part.get("type", kind) != kind:
            raise ValueError(
                f"it has a {part['type']}, a {own.tokenizer} {kind or 'nothing there'}. If {TOKENIZER} is right, write "
                f"PreTrainedTokenizerFast as tokenizer_class in {TOKENIZER_CONFIG}."
            )


def told_words(folder: Path, told: dict, stored: dict, specials: set[str]) -> dict[int, AddedToken]:
    """Return the words that were added to a vocabulary, by their ids, from the three files that may hold them."""
    listed_words = [(word["id"], word) for word in stored.get("added_tokens", [])]
    specials = specials | set(extra_specials(told))
    for word, i in read_settings(folder, "added_tokens.json").items():
        listed_words.append((i, {"content": word, "normalized": word not in specials}))
    listed_words += told.get("added_tokens_decoder", {}).items()
    words: dict[int, AddedToken] = {}
    for i, word in listed_words:
        flags = {k: v for k, v in word.items() if k in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        flags["special"] = flags.get("special", False) or word["content"] in specials
        if int(i) in words and words[int(i)].content != word["content"]:
            raise ValueError(f"{words[int(i)].content!r} and {word['content']!r} are both to have the id {i}")
        words[int(i)] = AddedToken(word["content"], **flags)
    return words


def extra_specials(told: dict) -> list[str]:
    """Return the special tokens beside the five."""
    fields = [told.get(f"{kind}_special_tokens") or [] for kind in ("additional", "extra")]
    tokens = [token for field in fields for token in (field.values() if isinstance(field, dict) else field)]
    return [token["content"] if isinstance(token, dict) else token for token in tokens]


def is_added(backend: Backend, token: str) -> bool:
    """Say whether a token was added to the vocabulary or marked in it."""
    return any(added.content == token for added in backend.get_added_tokens_decoder().values())


def add_words(backend: Backend, words: dict[int, AddedToken]) -> None:
    """Add words to a tokenizer; ValueError for one that gets another id than it was told."""
    for i, word in sorted(words.items()):
        if repr(backend.get_added_tokens_decoder().get(i)) != repr(word):
            backend.add_tokens([word])
        if backend.token_to_id(word.content) != i:
            raise ValueError(
                f"the added word {word.content!r} is to have the id {i}, but here it has "
                f"{backend.token_to_id(word.content)}. The files are not of one model, or one is missing"
            )


def add_special(backend: Backend, told: dict) -> None:
    """Make a word of the vocabulary special, unless it was added with its own flags."""
    token = told["content"]
    if backend.token_to_id(token) is not None and not is_added(backend, token):
        flags = {k: told[k] for k in ("single_word", "lstrip", "rstrip") if k in told}
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False, **flags)])


def without_holes(vocabulary: dict[str, int], words: dict[int, AddedToken]) -> dict[str, int]:
    """Return a vocabulary in which each id has a word that can stand in a text, or a name that cannot.

    Of a line that is there twice the last one counts; a blank line at the end counts only below added words.
    """
    kept = [(i, word) for word, i in vocabulary.items() if word or any(added > i for added in words)]
    by_id = dict(kept)
    if len(by_id) < len(kept) or max(by_id) >= 2 * len(by_id) or min(by_id) < 0:
        raise ValueError(f"the ids of its {len(vocabulary)} words repeat or have gaps")
    return {by_id.get(i, f"[no word {i}]"): i for i in range(max(by_id) + 1)}


def word_pieces(
    path: Path, told: dict, stored: dict, words: dict[int, AddedToken], specials: dict[str, str]
) -> Backend:
    """Return BERT's tokenizer, made of its list of words."""
    in_json = path.name == TOKENIZER
    vocabulary = stored["model"]["vocab"] if in_json else models.WordPiece.read_file(str(path))
    backend = Backend(models.WordPiece(without_holes(vocabulary, words), unk_token=specials["unk"]))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=told.get("do_lower_case", True),
        strip_accents=told.get("strip_accents"),
        handle_chinese_chars=told.get("tokenize_chinese_chars", True),
    )
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return backend


def byte_pairs(path: Path, told: dict, stored: dict, words: dict[int, AddedToken], specials: dict[str, str]) -> Backend:
    """Return RoBERTa's tokenizer, made of its vocabulary and merges."""
    if path.name == TOKENIZER:
        vocabulary, merges = stored["model"]["vocab"], stored["model"]["merges"]
        merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]
    else:
        vocabulary, merges = models.BPE.read_file(str(path), str(path.with_name("merges.txt")))
    backend = Backend(models.BPE(without_holes(vocabulary, words), merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=told.get("add_prefix_space", False))
    backend.decoder = decoders.ByteLevel()
    return backend


def read_sentence_files(folder: Path, tokenizer: Tokenizer) -> tuple[str | None, int | None]:
    """Return pooling and max_seq_length of a folder of sentence-transformers; None and None for any other folder.

    Where such a folder asks for lower case, the tokenizer is made to read so.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None, None
    try:
        found = [(module["type"], module["path"]) for module in read_json(path, list)]
        kinds = [t.rpartition(".")[2] if t.startswith("sentence_transformers.") else t for t, _ in found]
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is no list of modules with type and path. Copy it again.") from None
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or found[0][1]:
        raise ValueError(
            f"{path} lists {kinds}; only Transformer (in no subfolder), Pooling, Normalize can be read, each once and "
            "of sentence-transformers itself."
        )
    paths = {kind: where for kind, (_, where) in zip(kinds, found, strict=True)}
    path = folder / paths["Pooling"] / CONFIG
    told = read_json(path, dict)
    modes = told.get("pooling_mode") or [k for k, v in told.items() if k.startswith("pooling_mode_") and v]
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in OUR_POOLING:
        raise ValueError(f"{path} pools by {modes}; only by mean or cls can be read.")
    for field, (only, otherwise) in ONLY_SENTENCES.items():
        value = read_settings(folder, SENTENCE_FILES[1]).get(field)
        if value not in (None, only) and not (field == "similarity_fn_name" and "Normalize" in paths):
            raise ValueError(f"{folder / SENTENCE_FILES[1]}: {field} is {value!r}; {otherwise}")
    if read_settings(folder, SENTENCE_FILES[0]).get("do_lower_case"):
        steps = [normalizers.Lowercase(), tokenizer.backend.normalizer]
        tokenizer.backend.normalizer = normalizers.Sequence([step for step in steps if step is not None])
    settings = read_settings(folder, TOKENIZER_CONFIG, *SENTENCE_FILES)
    field = "max_seq_length" if settings.get("max_seq_length") is not None else "model_max_length"
    return OUR_POOLING[modes[0]], read_length(folder, field, settings.get(field))


def read_length(folder: Path, field: str, value: object) -> int | None:
    """Return a length in tokens, or None where none is told."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 3 or value % 1 != 0:
        raise ValueError(
            f"{folder}: {field} is {value!r}; expected a whole number of tokens, at least 3, without quotes. Correct "
            f"it in {TOKENIZER_CONFIG if field == 'model_max_length' else SENTENCE_FILES[0]}."
        )
    return int(value)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name. Old files call a norm's weight gamma and its bias beta."""
    if not path.is_file():
        if path.with_name(f"{WEIGHTS}.index.json").is_file():
            raise ValueError(f"the weights in {path.parent} are in several files. Save them as one {WEIGHTS}.")
        pickles = sorted(p.name for p in path.parent.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
        if pickles:
            raise ValueError(
                f"{path.parent} has {pickles[0]} and no {WEIGHTS}. A pickle can run any code when it is opened, so it "
                "is not. If you trust it, convert it: save_pretrained of transformers writes safetensors."
            )
        raise FileNotFoundError(f"{path} is missing. A checkpoint needs {CONFIG}, a tokenizer and {WEIGHTS}.")
    check_readable(path)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, not complete, or no safetensors file ({error}). Copy it again.") from None
    for old, new in (("gamma", "weight"), ("beta", "bias")):
        tensors = {name.replace(f"LayerNorm.{old}", f"LayerNorm.{new}"): tensor for name, tensor in tensors.items()}
    return tensors


def build(
    config: EncoderConfig | ModernConfig, family: Family, tensors: dict[str, Tensor], settings: dict, path: Path
) -> tuple[Encoder | ModernEncoder, MaskedLanguageModel | None]:
    """Return the encoder and, where its head is stored, the language model, made of exactly these tensors."""
    with torch.device("meta"):  # shapes without memory; no random number is drawn
        mlm = MaskedLanguageModel(encoder_of(config))
        if "head.dense" not in family.modules:
            mlm.head = UntiedHead(mlm.encoder)
    if family is ROBERTA:
        mlm.head.activation = ACTIVATIONS["gelu"]  # whatever the layers have
    shapes = {name: list(parameter.shape) for name, parameter in mlm.state_dict().items()}
    names = match(shapes, config, family, tensors, f"{path}, a {settings['model_type']}")
    stored = {tensors[name].dtype for group in names.values() for name in group}
    dtype = torch.float64 if torch.float64 in stored else torch.float32
    state = {ours: join(group, tensors, shapes[ours], path).to(dtype) for ours, group in names.items()}
    if broken := [names[ours][0] for ours, tensor in state.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{path}: {broken[0]} holds NaN or an infinity. Copy it again.")
    if "head.bias" not in names:
        mlm.encoder.load_state_dict({n.removeprefix("encoder."): t for n, t in state.items()}, assign=True)
        return mlm.encoder, None
    tied = (("weight", "encoder.tokens.weight"), ("bias", "head.bias")) if "head.dense" in family.modules else ()
    for part, ours in tied:
        again = tensors.get(f"{family.decoder}.{part}", state[ours])
        if not settings.get("tie_word_embeddings", True) or not torch.equal(again.to(dtype), state[ours]):
            raise ValueError(
                f"{path}: {family.decoder}.{part} is not tied (tie_word_embeddings): it may differ from "
                f"{names[ours][0]}. This head's output matrix is the token embedding, and it has one bias."
            )
    mlm.load_state_dict(state, assign=True)
    return mlm.encoder, mlm


def match(
    shapes: dict[str, list[int]],
    config: EncoderConfig | ModernConfig,
    family: Family,
    tensors: dict[str, Tensor],
    what: str,
) -> dict[str, list[str]]:
    """Return, for each of our parameters, its tensors' names; without the head's where no head is stored."""
    for other in FAMILIES.values():
        foreign = [name for name in tensors if other.prefix != family.prefix and name.startswith(other.prefix)]
        if foreign:
            raise ValueError(f"{what} by its {CONFIG}, holds {foreign[0]}: they are not of one model.")
    layers = {found[1] for name in tensors if (found := re.search(r"\blayers?\.(\d+)\.", name))}
    if len(layers) != config.layers:
        raise ValueError(f"{what} of {config.layers} layers by its {CONFIG}, holds {len(layers)} layers.")
    prefix = family.prefix if any(name.startswith(family.prefix) for name in tensors) else ""
    names = {ours: their_names(ours, family, prefix) for ours in shapes}
    if isinstance(config, ModernConfig):
        even_biases(names, shapes, tensors, what)
    head = {theirs for ours, group in names.items() if ours.startswith("head") for theirs in group}
    decoder = {f"{family.decoder}.{part}" for part in ("weight", "bias")}
    if not (head | decoder) & tensors.keys():
        names = {ours: group for ours, group in names.items() if ours.startswith("encoder")}
    needed = {theirs for group in names.values() for theirs in group}
    missing = sorted(needed - tensors.keys())
    left = sorted(n for n in tensors.keys() - needed - decoder if n.removeprefix(prefix) not in LEFT_OUT)
    if missing or left:
        advice = (
            " If these are a classifier's or another task's head, save the encoder without it: "
            "AutoModel.from_pretrained(folder).save_pretrained(new_folder) of transformers; copy the tokenizer's files."
        )
        raise ValueError(
            f"{what} by its {CONFIG}, lacks {listed(missing)}, and has left over {listed(left)}."
            + (advice if left and not missing else "")
        )
    return names


def even_biases(
    names: dict[str, list[str]], shapes: dict[str, list[int]], tensors: dict[str, Tensor], what: str
) -> None:
    """Add zeros for the biases that a modern head lacks and ours has; drop those of layers that have none here."""
    has_head = any(theirs in tensors for ours, group in names.items() if ours.startswith("head") for theirs in group)
    for ours, group in names.items():
        if ours.startswith("head"):
            if has_head and ours.endswith("bias"):
                tensors.setdefault(group[0], torch.zeros(shapes[ours]))
            continue
        for bias in (theirs.removesuffix("weight") + "bias" for theirs in group):
            if tensors.get(bias, torch.zeros(1)).any():
                raise ValueError(f"{what}, has {bias}, which is not zero: this encoder's layers have no biases.")
            tensors.pop(bias, None)


def their_names(ours: str, family: Family, prefix: str) -> list[str]:
    """Return the names of the tensors that, one below the other, are our parameter."""
    module, _, part = ours.rpartition(".")
    layer = re.search(r"layers\.(\d+)", module)
    key = module.replace(layer[0], "layers.{}") if layer else module
    start = prefix if module.startswith("encoder") else ""
    return [f"{start}{theirs}.{part}".format(*layer.groups() if layer else ()) for theirs in family.modules[key]]


def join(group: list[str], tensors: dict[str, Tensor], shape: list[int], path: Path) -> Tensor:
    """Return the tensors of one parameter one below the other, if each has its shape."""
    first = shape[1] if len(group) == 3 and len(shape) == 2 else shape[0] // len(group)  # of queries: all heads'
    rows = [first, *[(shape[0] - first) // max(1, len(group) - 1)] * (len(group) - 1)]
    for name, count in zip(group, rows, strict=True):
        found, expected = tensors[name], [count, *shape[1:]]
        if list(found.shape) != expected:
            raise ValueError(f"{path}: {name} has the shape {list(found.shape)}; by {CONFIG} it should be {expected}.")
        if found.dtype not in FLOATS:
            raise ValueError(f"{path}: {name} is {found.dtype}; only floats of 16, 32 and 64 bits can be read.")
    return torch.cat([tensors[name] for name in group])


def shorten(encoder: Encoder | ModernEncoder, max_len: int) -> None:
    """Keep the first `max_len` positions of an encoder, in place."""
    encoder.config = dataclasses.replace(encoder.config, max_len=max_len)
    if isinstance(encoder, ModernEncoder):  # has no table of them
        return
    rows = max_len + encoder.config.position_offset
    encoder.positions = nn.Embedding.from_pretrained(encoder.positions.weight[:rows].detach().clone(), freeze=False)


def listed(names: list[str]) -> str:
    """Return the first names of a list, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "") or "nothing"
