"""Trained models. A checkpoint is a folder: model.safetensors, tokenizer.json, and card.json, its story."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nextbert_lite import __version__
from nextbert_lite.core.contrastive import SentenceEncoder
from nextbert_lite.core.either import encoder_of
from nextbert_lite.core.heads import MaskedLanguageModel, UntiedHead
from nextbert_lite.corpora.harvest import Document, installed_versions
from nextbert_lite.corpora.python_docs import DocsCorpus, near_duplicates, text_hash
from nextbert_lite.files import (
    file_hash,
    json_of,
    read_safetensors,
    say,
    settle,
    share_dir,
    write_safetensors,
    write_text,
    writing_folder,
)
from nextbert_lite.training.tokenizer import Tokenizer

FORMAT = 2  # 1 knew no classifiers
WEIGHTS, TOKENIZER, CARD = "model.safetensors", "tokenizer.json", "card.json"


class Checkpoint(NamedTuple):
    """What `load` gives: `model, tokenizer = load("docs-small")`."""

    model: MaskedLanguageModel | SentenceEncoder
    tokenizer: Tokenizer


def find(name: str | Path) -> Path:
    """Return the folder of a checkpoint: a shipped one by its name, or your own by its path."""
    shipped = share_dir("data") / "checkpoints"
    is_name = str(name) == Path(name).name  # and not ./name
    folder = shipped / name if is_name and (shipped / name / CARD).is_file() else Path(name)
    if folder.resolve() != Path(name).resolve() and (Path(name) / CARD).is_file():
        raise ValueError(f"{name!s} is a shipped checkpoint and a folder here: give ./{name} for yours.")
    settle(folder, CARD)
    if not (folder / CARD).is_file():
        names = ", ".join(sorted(path.parent.name for path in shipped.glob(f"*/{CARD}"))) or "none"
        unfinished = (
            " There is an unfinished run: repeat its command to go on." if (folder / "run.json").exists() else ""
        )
        raise FileNotFoundError(
            f"there is no checkpoint {str(name)!r}.{unfinished} Shipped: {names}. `nextbert-lite pretrain` makes one."
        )
    return folder


def read_card(name: str | Path, file: str = CARD) -> dict:
    """Return a checkpoint's card: configuration, corpus, training, versions, held-out loss.

    Raises FileNotFoundError for no checkpoint, ValueError for a card that is damaged or of a newer format.
    """
    path = (find(name) if file == CARD else Path(name)) / file
    try:
        card = json_of(path.read_text(encoding="utf-8"))
        newer, _, sealed = card["format"] > FORMAT, card["files"].items(), card.pop("sha256", None)
        if not newer and sealed != seal(card) and not (sealed is None and card["format"] == 1):
            raise ValueError("its text is not what was written")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged, or no card of a checkpoint ({error}). Make the checkpoint anew."
        ) from None
    if newer:
        raise ValueError(
            f"{path} has the format {card['format']}; this version reads up to {FORMAT}. Update the course."
        )
    return card


def read(name: str | Path, file: str = CARD) -> tuple[dict, dict[str, Tensor], Tokenizer]:
    """Return the card, the weights in float32 and the tokenizer of a checkpoint.

    Raises as `read_card`, and ValueError for a file that is missing or is not the one that the card describes.
    """
    card = read_card(name, file)
    folder = find(name) if file == CARD else Path(name)
    for part, digest in card["files"].items():
        if not (folder / part).is_file() or digest != file_hash(folder / part):
            raise ValueError(
                f"{folder / part} is missing, damaged, or not the one that {file} describes. Copy the whole folder "
                "again, or make the checkpoint anew."
            )
    weights = {name: tensor.float() for name, tensor in read_safetensors(folder / WEIGHTS)[0].items()}
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"{folder / WEIGHTS}: {broken[0]} holds NaN or an infinity. Make the checkpoint anew.")
    if not isinstance(card.get("config"), dict) or not 0 <= card["config"].get("layers", -1) <= len(weights):
        raise ValueError(f"the weights in {name} do not fit the configuration in its card.")
    if card["config"].get("init_std", 0) is None:  # older cards' word for it
        card["config"]["init_std"] = "fan_in"
    return card, weights, Tokenizer.load(folder / TOKENIZER)


def load(name: str | Path) -> Checkpoint:
    """Return model (float32, in eval mode, on the CPU) and tokenizer of a checkpoint, by its name or its folder.

    The model is a `MaskedLanguageModel`, or a `SentenceEncoder` where the card names a pooling. A corpus that differs
    from the one it was trained on is told in one printed line. Raises FileNotFoundError for no
    checkpoint, ValueError for files that are damaged or do not belong together, and for a classifier.
    """
    card, weights, tokenizer = read(name)
    if "labels" in card:
        raise ValueError(f"{name} holds a classifier: `Classifier.load({str(name)!r})` reads it.")
    if card.get("reranker"):
        raise ValueError(f"{name} holds a reranker: `Reranker.load({str(name)!r})` reads it.")
    with fitting(name):
        encoder = encoder_of(card["config"])
        model = SentenceEncoder(encoder, card["pooling"]) if "pooling" in card else MaskedLanguageModel(encoder)
        if "head.weight" in weights:
            model.head = UntiedHead(encoder)
        model.load_state_dict(weights)
    if line := corpus_difference(card):
        say(line)
    return Checkpoint(model.eval(), tokenizer)


@contextmanager
def fitting(name: str | Path) -> Iterator[None]:
    """Turn the errors of building a model from a card into one sentence."""
    try:
        yield
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the weights in {name} do not fit the configuration in its card: {reason}") from None


def versions() -> dict[str, str]:
    """Return what a card says of the packages that made a checkpoint."""
    return {"nextbert-lite": __version__, **{p: version(p).split("+")[0] for p in ("torch", "tokenizers")}}


def corpus_difference(card: dict) -> str | None:
    """Return None, or one line on how the corpus on this machine differs from the checkpoint's."""
    corpus = card.get("corpus", {"name": "none"})
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
    if card["corpus"].get("name") == "stream":
        raise ValueError(f"{card['name']} was trained on a stream: which texts it saw was not written down.")
    trained = set(card["corpus"]["train_hashes"])
    documents = [d for d in documents if text_hash(d) not in trained]
    seen = [d.text for d in corpus.documents if text_hash(d) in trained]
    near = near_duplicates([d.text for d in documents], seen)
    return [d for d, is_near in zip(documents, near, strict=True) if not is_near]


def save(folder: str | Path, model: nn.Module, tokenizer: Tokenizer, card: dict, half: bool = True) -> dict:
    """Write a checkpoint and return its card. An older one there stays whole until all is written.

    model: anything with an `encoder`; what else its kind needs to be built again stands in the card. half: weights in
    float16. Raises OSError when something cannot be written, and for a folder that holds a published model.
    """
    if (Path(folder) / "config.json").exists() and not (Path(folder) / CARD).exists():
        raise FileExistsError(f"{folder} holds a published model, whose weights would be lost: name another folder.")
    weights = {name: tensor.half() if half else tensor for name, tensor in model.state_dict().items()}
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(
            f"{broken[0]} holds NaN, an infinity, or more than float16 can hold (65504): nothing was written."
        )
    with writing_folder(folder, (WEIGHTS, TOKENIZER, CARD)) as parts:
        write_safetensors(parts[WEIGHTS], weights, {"format": str(FORMAT)})
        write_text(parts[TOKENIZER], tokenizer.to_json())
        files = {name: file_hash(parts[name]) for name in (WEIGHTS, TOKENIZER)}
        kind = {"pooling": model.pooling} if isinstance(model, SentenceEncoder) else {}
        card = {"format": FORMAT, **card, **kind, "config": model.encoder.config.to_dict(), "files": files}
        write_text(parts[CARD], json.dumps(card | {"sha256": seal(card)}, indent=1, ensure_ascii=False) + "\n")
    return card


def seal(card: dict) -> str:
    """Return the hash of a card, which stands in it, so that no number of it can change in silence."""
    return sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()


@torch.no_grad()
def rounded(model: nn.Module) -> nn.Module:
    """Round the weights in place to what float16 can hold, so that what is measured is what is stored."""
    for parameter in model.parameters():
        parameter.copy_(parameter.half())
    return model
