"""The contrastive part of what is compared: the same sentence encoder here and in sentence-transformers."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from benchmarks.arms import huggingface_model
from nextbert_lite.core.contrastive import SentenceEncoder
from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.corpora.python_docs import load_docs
from nextbert_lite.training.batches import pad, seeded
from nextbert_lite.training.tokenizer import Tokenizer
from nextbert_lite.use.embedding import embed

Pairs = Sequence[tuple[str, str]]  # (anchor, positive)
OURS, THEIRS = "nextbert_lite", "sentence-transformers"
CACHED = {OURS: "nextbert_lite, gradient cache", THEIRS: "sentence-transformers, gradient cache"}
TEMPERATURE = 0.05
CHUNK = 8  # texts that ours encodes at a time; theirs too, with its cache


class SentenceArm(NamedTuple):
    """A sentence encoder, and how its users call it: from texts, so that each pays for its own tokenizer."""

    model: nn.Module
    loss: Callable[[Pairs], Tensor]
    embed: Callable[[Sequence[str]], Tensor]  # unit vectors, (N, C)


@functools.lru_cache
def documentation_pairs() -> list[tuple[str, str]]:
    """Return the (summary, body) pairs of the training split, shuffled once."""
    pairs = load_docs().pairs("train")
    return [pairs[i] for i in torch.randperm(len(pairs), generator=seeded(0)).tolist()]


def our_sentences(ours: MaskedLanguageModel, tokenizer: Tokenizer, cache: bool = False) -> SentenceArm:
    """Return our encoder, mean-pooled, in chunks of texts of like length."""
    model = SentenceEncoder(copy.deepcopy(ours.encoder), temperature=TEMPERATURE, chunk=CHUNK, cache=cache)
    max_len = ours.encoder.config.max_len

    def loss(pairs: Pairs) -> Tensor:
        columns = (pad(tokenizer.encode_batch(texts, max_len=max_len)) for texts in zip(*pairs, strict=True))
        (ids, mask), (positive_ids, positive_mask) = columns
        return model.loss(ids, mask, positive_ids, positive_mask)

    return SentenceArm(model, loss, lambda texts: embed(texts, (model, tokenizer), long="cut"))


def their_sentences(ours: MaskedLanguageModel, tokenizer: Tokenizer, cache: bool = False) -> SentenceArm:
    """Return sentence-transformers' model with our weights and our tokenizer, and its loss with in-batch negatives."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:  # it reads models from a folder only
        huggingface_model(ours).roberta.save_pretrained(folder)
        fast_tokenizer(tokenizer, ours.encoder.config.max_len).save_pretrained(folder)
        body = Transformer(folder, model_kwargs={"add_pooling_layer": False, "local_files_only": True})
    dropouts = (part for part in body.modules() if isinstance(part, nn.Dropout))
    for part in dropouts:
        part.p = ours.encoder.config.dropout
    pooling = Pooling(ours.encoder.config.width, pooling_mode="mean")
    model = SentenceTransformer(modules=[body, pooling], device="cpu").to(ours.head.bias.dtype)
    if cache:
        objective = losses.CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, mini_batch_size=CHUNK)
    else:
        objective = losses.MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)

    def loss(pairs: Pairs) -> Tensor:
        return objective([model.preprocess(list(texts)) for texts in zip(*pairs, strict=True)], None)

    def vectors(texts: Sequence[str]) -> Tensor:
        options = {"convert_to_tensor": True, "normalize_embeddings": True, "show_progress_bar": False}
        return model.encode(list(texts), **options)

    return SentenceArm(model, loss, vectors)


def fast_tokenizer(tokenizer: Tokenizer, max_len: int):
    """Return our tokenizer as transformers', which adds [CLS] and [SEP] and cuts at max_len."""
    from transformers import PreTrainedTokenizerFast

    backend = Backend.from_str(tokenizer.to_json())
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", tokenizer.cls_id), ("[SEP]", tokenizer.sep_id)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=max_len,
    )


MAKE = {
    OURS: our_sentences,
    THEIRS: their_sentences,
    CACHED[OURS]: lambda ours, tokenizer: our_sentences(ours, tokenizer, cache=True),
    CACHED[THEIRS]: lambda ours, tokenizer: their_sentences(ours, tokenizer, cache=True),
}


def make_sentence_arms(
    config: EncoderConfig, tokenizer: Tokenizer, names: Sequence[str] = tuple(MAKE), seed: int = 0
) -> dict[str, SentenceArm]:
    """Return the arms of these names, all with the same weights, in training mode."""
    torch.manual_seed(seed)
    ours = MaskedLanguageModel(Encoder(config))
    arms = {name: MAKE[name](ours, tokenizer) for name in names}
    for arm in arms.values():
        arm.model.train()
    return arms


def check_same_sentences(arms: dict[str, SentenceArm], pairs: Pairs) -> float:
    """Return the loss of the pairs; AssertionError when an arm computes another loss or other vectors than the first.

    Without dropout: in evaluation mode.
    """
    first = next(iter(arms.values()))
    for arm in arms.values():
        arm.model.eval()
    loss, vectors = first.loss(pairs).detach(), first.embed([body for _, body in pairs])
    for name, arm in arms.items():
        for what, theirs, ours, tolerance in (
            ("loss", arm.loss(pairs).detach(), loss, 1e-4),
            ("vectors", arm.embed([body for _, body in pairs]), vectors, 1e-4),
        ):
            torch.testing.assert_close(
                theirs,
                ours,
                rtol=tolerance,
                atol=tolerance,
                msg=lambda text, name=name, what=what: f"{name}: {what}. {text}",
            )
    for arm in arms.values():
        arm.model.train()
    return float(loss)
