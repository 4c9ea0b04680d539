"""A model of the course as a folder that transformers and sentence-transformers open, and `load_pretrained` too."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save as safetensors
from tokenizers import Tokenizer as Backend
from tokenizers import processors
from torch import Tensor, nn

from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel, MLMHead
from nextbert_lite.core.modern import ModernConfig, ModernEncoder
from nextbert_lite.files import NEW, write_text, writing_folder
from nextbert_lite.training.tokenizer import ROLES, SPECIALS, Tokenizer
from nextbert_lite.use.parts import read_parts
from nextbert_lite.use.pretrained import (
    CONFIG,
    FAMILIES,
    LAYERS,
    OUR_ACTIVATION,
    OUR_POOLING,
    POOLING_FILES,
    SENTENCE_FILES,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
    their_names,
)

FORMATS = ("transformers", "sentence-transformers")
CLASSES = {"bert": "Bert", "roberta": "Roberta", "modernbert": "ModernBert"}


def export(model: nn.Module, tokenizer: Tokenizer, folder: str | Path, format: str = "transformers") -> None:
    """Write a folder that other libraries open with the same numbers: safetensors, config.json, tokenizer.json.

    model: a MaskedLanguageModel, with its head; an Encoder, a ModernEncoder or a SentenceEncoder, without one. format:
    "transformers" for AutoModelForMaskedLM, AutoModel and AutoTokenizer; "sentence-transformers" for the vectors of
    `embed`: no head, but the pooling. A folder is written whole or not at all.
    Raises ValueError, by the name of the field, for what BERT, RoBERTa and ModernBERT cannot express; TypeError for
    another model; FileExistsError for a folder with files in it.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; choose one of {FORMATS}.")
    sentences, _ = read_parts((model, tokenizer))
    encoder, head, texts = sentences.encoder, getattr(model, "head", None), tokenizer_files(tokenizer)
    if not isinstance(encoder, Encoder | ModernEncoder) or not isinstance(head, MLMHead | None):
        raise TypeError(f"a {type(head or encoder).__name__} cannot be exported; the course's encoder and MLMHead can.")
    if format == "sentence-transformers":
        model, head = encoder, None
        texts |= sentence_files(sentences.pooling, encoder.config)
    model = encoder if head is None else model
    family, settings = described(encoder, head)
    names, folder = [WEIGHTS, *texts, CONFIG], Path(folder)  # the last is the seal: without it this is no model
    found = {path.name.removesuffix(NEW) for path in folder.iterdir()} if folder.is_dir() else set()
    if (folder / CONFIG).exists() or found - {name.split("/")[0] for name in names}:
        raise FileExistsError(f"{folder} has files already ({', '.join(sorted(found)[:3])}): name a new folder.")
    tensors = named_tensors(model, family, settings)
    with writing_folder(folder, [name for name in names if "/" not in name]) as parts:
        parts[WEIGHTS].write_bytes(safetensors(tensors, {"format": "pt"}))
        for name, text in texts.items():
            write_text(parts.get(name, folder / name), text)  # one in a folder below goes to its place at once
        write_text(parts[CONFIG], json.dumps(settings, indent=1))


def described(encoder: Encoder | ModernEncoder, head: MLMHead | None) -> tuple[str, dict]:
    """Return the family of an encoder and its config.json; ValueError for a field that it cannot express."""
    c, is_modern = encoder.config, isinstance(encoder, ModernEncoder)
    name = "modernbert" if is_modern else "roberta" if c.position_offset else "bert"
    can = {"norm": "layer", "embedding_norm": True} if is_modern else {"norm": "post", "positions": "learned"}
    can |= {"kv_heads": c.heads} if is_modern and c.kv_heads else {}
    if name == "roberta":
        can |= {"position_offset": c.pad_id + 1} | ({"activation": "gelu"} if head else {})
    for field, only in can.items():
        if getattr(c, field) != only:
            raise ValueError(
                f"{field} is {getattr(c, field)!r}, and {CLASSES[name]} can express only {only!r}. Train a model with "
                "that, or keep this one as a checkpoint of the course: checkpoints.save."
            )
    settings = {theirs: getattr(c, ours) for ours, theirs in FAMILIES[name].fields.items()}
    settings |= {"model_type": name, "architectures": [CLASSES[name] + ("ForMaskedLM" if head else "Model")]}
    settings |= {"pad_token_id": c.pad_id, "dtype": str(encoder.tokens.weight.dtype).removeprefix("torch.")}
    if not is_modern:
        settings["hidden_act"] = next(theirs for theirs, ours in OUR_ACTIVATION.items() if ours == c.activation)
        settings |= {"type_vocab_size": max(1, c.token_types), "attention_probs_dropout_prob": c.dropout}
        return name, settings | {"max_position_embeddings": c.max_len + c.position_offset}
    every = c.global_every if c.window else 1
    thetas = {kind: getattr(c, ours) or c.theta for kind, ours in LAYERS.items()}
    settings |= {f"{role}_token_id": None for role in ("bos", "eos", "cls", "sep")}
    settings |= {f"{part}_dropout": c.dropout for part in ("attention", "embedding", "mlp")}
    settings |= {"local_attention": 2 * (c.window or 64), "local_rope_theta": thetas["sliding_attention"]}
    settings |= {"global_attn_every_n_layers": every}  # these are of 2024, the next two of today
    settings["layer_types"] = [("sliding" if i % every else "full") + "_attention" for i in range(c.layers)]
    settings["rope_parameters"] = {kind: {"rope_type": "default", "rope_theta": t} for kind, t in thetas.items()}
    has_biases = head is not None and bool(head.dense.bias.any() or head.norm.bias.any())
    return name, settings | {"norm_bias": has_biases, "classifier_bias": has_biases}


def named_tensors(model: nn.Module, family: str, settings: dict) -> dict[str, Tensor]:
    """Return a model's parameters under transformers' names; zeros for what a family has and we have not."""
    with_head = isinstance(model, MaskedLanguageModel)
    ours = {name if with_head else f"encoder.{name}": tensor for name, tensor in model.state_dict().items()}
    if family != "modernbert" and not model.get_submodule("encoder" if with_head else "").config.token_types:
        ours["encoder.types.weight"] = ours["encoder.tokens.weight"].new_zeros(1, settings["hidden_size"])
    tensors = {}
    for name, tensor in ours.items():
        group = their_names(name, FAMILIES[family], FAMILIES[family].prefix if with_head else "")
        tensors |= dict(zip(group, tensor.chunk(len(group)), strict=True))
    if settings.get("norm_bias"):  # one switch for all norms, where ours has a bias in the head's only
        zeros = ours["encoder.tokens.weight"].new_zeros(settings["hidden_size"])
        tensors = {n[:-6] + "bias": zeros for n in tensors if n.endswith("norm.weight")} | tensors
    elif family == "modernbert":
        tensors = {n: t for n, t in tensors.items() if n not in ("head.dense.bias", "head.norm.bias")}
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, str]:
    """Return tokenizer.json, which puts its two special tokens around a text by itself, and what names the five."""
    backend = Backend.from_str(tokenizer.backend.to_str())
    named = tokenizer.specials or dict(zip(ROLES, SPECIALS, strict=True))
    ends = {named[role]: backend.token_to_id(named[role]) for role in ("cls", "sep")}
    first, last = ends
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {last} $B:1 {last}:1", special_tokens=list(ends.items())
    )
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    told |= {f"{role}_token": token for role, token in named.items()} | {"clean_up_tokenization_spaces": False}
    return {TOKENIZER: backend.to_str(pretty=True), TOKENIZER_CONFIG: json.dumps(told, indent=1, ensure_ascii=False)}


def sentence_files(pooling: str, config: EncoderConfig | ModernConfig) -> dict[str, str]:
    """Return what sentence-transformers has beside: its modules, the pooling, the length and the similarity."""
    if pooling not in OUR_POOLING.values():
        raise ValueError(f"pooling is {pooling!r}, which sentence-transformers has not. Train with 'mean' or 'cls'.")
    home = "sentence_transformers.models."
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"idx": i, "name": str(i), "path": paths[kind], "type": home + kind} for i, kind in enumerate(paths)]
    modes = {name: pooling == ours for name, ours in OUR_POOLING.items() if name.startswith("pooling_mode_")}
    contents = (modules, modes | {"word_embedding_dimension": config.width})
    contents += ({"max_seq_length": config.max_len, "do_lower_case": False}, {"similarity_fn_name": "cosine"})
    names = (*POOLING_FILES, *SENTENCE_FILES)
    return {name: json.dumps(content, indent=1) for name, content in zip(names, contents, strict=True)}
