"""What `embed` and `fine_tune` take as a model, in whatever form it is given: `read_parts`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import nn

from nextbert_lite.core.contrastive import SentenceEncoder
from nextbert_lite.training.tokenizer import Tokenizer
from nextbert_lite.use import checkpoints
from nextbert_lite.use.pretrained import CONFIG, Published, load_pretrained

Model = str | Path | Published | tuple[nn.Module, Tokenizer]
FORMS = (
    "a checkpoint's name, a folder, what `load` or `load_pretrained` gives, or (model, tokenizer) with an Encoder, a "
    "ModernEncoder, a SentenceEncoder or a MaskedLanguageModel"
)


class Parts(NamedTuple):
    """An encoder with its pooling ("mean" where nobody tells), and its tokenizer."""

    model: SentenceEncoder
    tokenizer: Tokenizer


def read_parts(model: Model) -> Parts:
    """Return encoder, pooling and tokenizer of a model in any of its forms. A folder may hold a published checkpoint.

    Raises TypeError for anything else, and as `load` and `load_pretrained` for what cannot be read.
    """
    if isinstance(model, str | Path):
        model = load_pretrained(model) if is_published(model) else checkpoints.load(model)
    if isinstance(model, Published):
        return Parts(SentenceEncoder(model.encoder, model.pooling or "mean"), model.tokenizer)
    if not isinstance(model, tuple | list) or len(model) != 2:
        raise TypeError(f"{kind(model)} is no model with its tokenizer; expected {FORMS}.")
    first, tokenizer = model
    if isinstance(first, Tokenizer) and isinstance(tokenizer, nn.Module):
        raise TypeError("this is (tokenizer, model); expected them the other way round: (model, tokenizer).")
    encoder = first if is_encoder(first) else getattr(first, "encoder", None)
    if not is_encoder(encoder) or not isinstance(tokenizer, Tokenizer):
        raise TypeError(f"({kind(first)}, {kind(tokenizer)}) is no model with its tokenizer; expected {FORMS}.")
    return Parts(first if isinstance(first, SentenceEncoder) else SentenceEncoder(encoder), tokenizer)


def is_encoder(model: object) -> bool:
    """Say whether something is an Encoder, a ModernEncoder, or a learner's own class that is made of their fields."""
    return isinstance(model, nn.Module) and hasattr(getattr(model, "config", None), "max_len")


def is_published(folder: str | Path) -> bool:
    """Say whether a folder holds a published checkpoint, not one of ours."""
    return (Path(folder) / CONFIG).is_file() and not (Path(folder) / checkpoints.CARD).is_file()


def kind(model: object) -> str:
    """Return what something is, for a message."""
    if isinstance(model, tuple | list):
        return f"a {type(model).__name__} of {len(model)}"
    return f"a {type(model).__name__}"
