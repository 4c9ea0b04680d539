"""Trained models. A checkpoint is a folder: model.safetensors, tokenizer.json, and card.json, its story."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from nextbert_lite import __version__
from nextbert_lite.contrastive import SentenceEncoder
from nextbert_lite.corpora.python_docs import DocsCorpus, Document, installed_versions, near_duplicates, text_hash
from nextbert_lite.encoder import Encoder, EncoderConfig
from nextbert_lite.heads import MaskedLanguageModel
from nextbert_lite.paths import share_dir
from nextbert_lite.tokenizer import Tokenizer
from nextbert_lite.training import write_safetensors

FORMAT = 1
WEIGHTS, TOKENIZER, CARD = "model.safetensors", "tokenizer.json", "card.json"


class Pretrained(NamedTuple):
    """What `load` gives: `model, tokenizer = load("docs-small")`."""

    model: MaskedLanguageModel | SentenceEncoder
    tokenizer: Tokenizer


def find(name: str | Path) -> Path:
    """Return the folder of a checkpoint: a shipped one by its name, or your own by its path."""
    shipped = share_dir("data") / "checkpoints"
    folder = shipped / name if (shipped / name / CARD).is_file() else Path(name)
    if not (folder / CARD).is_file():
        names = ", ".join(sorted(path.parent.name for path in shipped.glob(f"*/{CARD}"))) or "none"
        unfinished = (
            " There is an unfinished run: repeat its command to go on." if (folder / "run.json").exists() else ""
        )
        raise FileNotFoundError(
            f"there is no checkpoint {str(name)!r}.{unfinished} Shipped: {names}. `nextbert-lite pretrain` makes one."
        )
    return folder


def read_card(name: str | Path) -> dict:
    """Return a checkpoint's card: configuration, corpus, training, versions, held-out loss.

    Raises FileNotFoundError for no checkpoint, ValueError for a card that is damaged or of a newer format.
    """
    path = find(name) / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        newer = card["format"] > FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no card of a checkpoint ({error}). Make the checkpoint anew.") from None
    if newer:
        raise ValueError(
            f"{path} has the format {card['format']}; this version reads up to {FORMAT}. Update the course."
        )
    return card


def load(name: str | Path) -> Pretrained:
    """Return model (float32, in eval mode, on the CPU) and tokenizer of a checkpoint, by its name or its folder.

    The model is a `MaskedLanguageModel`, or a `SentenceEncoder` where the card names a pooling. A corpus that differs
    from the one it was trained on is told in one printed line. Raises FileNotFoundError for no
    checkpoint, ValueError for files that are damaged or do not belong together.
    """
    folder, card = find(name), read_card(name)
    for file, digest in card["files"].items():
        if not (folder / file).is_file() or digest != file_hash(folder / file):
            raise ValueError(
                f"{folder / file} is missing, damaged, or not the one that {CARD} describes. Copy the whole folder "
                "again, or make the checkpoint anew."
            )
    try:
        encoder = Encoder(EncoderConfig(**card["config"]))
        model = SentenceEncoder(encoder, card["pooling"]) if "pooling" in card else MaskedLanguageModel(encoder)
        weights = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
        model.load_state_dict(weights)
    except (SafetensorError, TypeError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder / WEIGHTS} does not fit the configuration in {CARD}: {reason}") from None
    if line := corpus_difference(card):
        print(line)
    return Pretrained(model.eval(), Tokenizer.load(folder / TOKENIZER))


def versions() -> dict[str, str]:
    """Return what a card says of the packages that made a checkpoint."""
    return {"nextbert-lite": __version__, **{p: version(p).split("+")[0] for p in ("torch", "tokenizers")}}


def corpus_difference(card: dict) -> str | None:
    """Return None, or one line on how the corpus on this machine differs from the checkpoint's."""
    corpus = card["corpus"]
    if corpus["name"] == "docs":
        stored, now = corpus["fingerprint"], installed_versions()
        pairs = {k: [str(v).split("+")[0] for v in (stored.get(k, "none"), now[k])] for k in now}  # 2.13.0+cpu: 2.13.0
        changed = [f"{k} {then} → {today}" for k, (then, today) in pairs.items() if then != today]
        if changed:
            return (
                f"{card['name']} was trained on the documentation of other versions ({', '.join(changed)}): figures "
                "can differ a little. `checkpoints.unseen` leaves out the texts that it saw."
            )
    if corpus["name"] == "toy" and corpus["fingerprint"]["sha256"] != file_hash(share_dir("data") / "toy_world.toml"):
        return f"{card['name']} was trained on another grammar than data/toy_world.toml: train it anew."
    return None


def unseen(card: dict, documents: Sequence[Document], corpus: DocsCorpus) -> list[Document]:
    """Return the documents that the checkpoint did not train on, nor on a near-duplicate of them.

    On the versions that it was trained with, these are all of `corpus.test` but a few at the border of "near", for the
    word weights come from fewer texts here. On others the split can differ.
    """
    trained = set(card["corpus"]["train_hashes"])
    documents = [d for d in documents if text_hash(d) not in trained]
    seen = [d.text for d in corpus.documents if text_hash(d) in trained]
    near = near_duplicates([d.text for d in documents], seen)
    return [d for d, is_near in zip(documents, near, strict=True) if not is_near]


def save(folder: str | Path, model: MaskedLanguageModel | SentenceEncoder, tokenizer: Tokenizer, card: dict) -> dict:
    """Write a checkpoint, weights in float16, and return its card. An older one there stays whole until all is written.

    Raises OSError when something cannot be written.
    """
    folder = Path(folder)
    weights = {name: tensor.half() for name, tensor in model.state_dict().items()}
    parts = {name: folder / f"{name}.part" for name in (WEIGHTS, TOKENIZER, CARD)}
    try:
        write_safetensors(parts[WEIGHTS], weights, {"format": str(FORMAT)})
        write_text(parts[TOKENIZER], tokenizer.to_json())
        files = {name: file_hash(parts[name]) for name in (WEIGHTS, TOKENIZER)}
        kind = {"pooling": model.pooling} if isinstance(model, SentenceEncoder) else {}
        card = {"format": FORMAT, **card, **kind, "config": model.encoder.config.to_dict(), "files": files}
        write_text(parts[CARD], json.dumps(card, indent=1) + "\n")
        for name, part in parts.items():
            os.replace(part, folder / name)
    finally:
        for part in parts.values():
            with suppress(OSError):
                part.unlink(missing_ok=True)
    return card


def write_text(path: Path, text: str) -> None:
    """Write a file beside the old one and put it in its place when it is complete."""
    part = path.with_name(path.name + ".tmp")
    try:
        with open(part, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return sha256(path.read_bytes()).hexdigest()


@torch.no_grad()
def rounded(model: nn.Module) -> nn.Module:
    """Round the weights in place to what float16 can hold, so that what is measured is what is stored."""
    for parameter in model.parameters():
        parameter.copy_(parameter.half())
    return model
