"""What is compared: the same masked language model three times, with the same weights, on the same batches."""

from __future__ import annotations

import copy
import dataclasses
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel, MLMHead
from nextbert_lite.core.masking import IGNORE, mask_tokens
from nextbert_lite.corpora.python_docs import load_docs
from nextbert_lite.training.batches import MLMBatches, pad, seeded
from nextbert_lite.training.loop import adamw, fit
from nextbert_lite.training.tokenizer import Tokenizer, train_bpe

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from oracles import huggingface, torch_names

Batch = dict[str, Tensor]  # ids, labels, mask: (B, T)


def configuration(C: int = 256, layers: int = 4, V: int = 8000, T: int = 256, dropout: float = 0.0) -> EncoderConfig:
    """Return a RoBERTa of this size, with heads of width 64 but two of them at least, in our own configuration."""
    return EncoderConfig(
        vocab_size=V,
        width=C,
        layers=layers,
        heads=max(2, C // 64),
        ffn_width=4 * C,
        max_len=T,
        dropout=dropout,
        eps=1e-5,
        token_types=1,
        position_offset=1,  # Hugging Face counts positions from pad_id + 1
    )


class Arm(NamedTuple):
    """A model, and how its users call it."""

    model: nn.Module
    loss: Callable[[Batch], Tensor]
    logits: Callable[[Batch], Tensor]  # (B, T, V)
    hidden: Callable[[Batch], Tensor]  # (B, T, C)


class TorchMLM(nn.Module):
    """The model as people write it on torch's own encoder: the head runs on all positions, the loss ignores most."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        c = config
        self.embedding = Encoder(dataclasses.replace(c, layers=0))  # token, position and type embeddings, their norm
        layer = nn.TransformerEncoderLayer(
            c.width, c.heads, c.ffn_width, c.dropout, activation="gelu", layer_norm_eps=c.eps, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, c.layers)
        self.head = MLMHead(self.embedding)

    def hidden(self, batch: Batch) -> Tensor:
        return self.encoder(self.embedding.embed(batch["ids"]), src_key_padding_mask=~batch["mask"])

    def logits(self, batch: Batch) -> Tensor:
        return self.head(self.hidden(batch), self.embedding.tokens.weight)

    def loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy(self.logits(batch).flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORE)


def torch_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename our model's tensors into TorchMLM's."""

    def translate(name: str) -> str:
        if name.startswith("encoder.layers."):
            return torch_names(name)
        return name.replace("encoder.", "embedding.", 1) if name.startswith("encoder.") else name

    return {translate(name): tensor for name, tensor in tensors.items()}


def our_arm(ours: MaskedLanguageModel) -> Arm:
    return Arm(
        ours,
        lambda batch: ours.loss(**batch),
        lambda batch: ours(batch["ids"], batch["mask"]),
        lambda batch: ours.encoder(batch["ids"], batch["mask"]),
    )


def huggingface_model(ours: MaskedLanguageModel, attention: str = "sdpa") -> nn.Module:
    """Return RobertaForMaskedLM with our weights and our dropout."""
    theirs = huggingface(ours)
    theirs.set_attn_implementation(attention)
    for part in theirs.modules():
        if isinstance(part, nn.Dropout):
            part.p = ours.encoder.config.dropout
    return theirs


def huggingface_arm(ours: MaskedLanguageModel, attention: str) -> Arm:
    theirs = huggingface_model(ours, attention)
    return Arm(
        theirs,
        lambda batch: theirs(batch["ids"], attention_mask=batch["mask"].long(), labels=batch["labels"]).loss,
        lambda batch: theirs(batch["ids"], attention_mask=batch["mask"].long()).logits,
        lambda batch: theirs.roberta(batch["ids"], attention_mask=batch["mask"].long()).last_hidden_state,
    )


def torch_arm(ours: MaskedLanguageModel) -> Arm:
    theirs = TorchMLM(ours.encoder.config).to(ours.head.bias.dtype)
    theirs.load_state_dict(torch_state(ours.state_dict()))
    return Arm(theirs, theirs.loss, theirs.logits, theirs.hidden)


MAKE = {
    "nextbert_lite": our_arm,
    "Hugging Face, sdpa": lambda ours: huggingface_arm(ours, "sdpa"),
    "Hugging Face, eager": lambda ours: huggingface_arm(ours, "eager"),
    "nn.TransformerEncoder": torch_arm,
}
OURS, TORCH = "nextbert_lite", "nn.TransformerEncoder"
HUGGINGFACE = ("Hugging Face, sdpa", "Hugging Face, eager")


def make_arms(config: EncoderConfig, names: Sequence[str] = tuple(MAKE), seed: int = 0) -> dict[str, Arm]:
    """Return the arms of these names, all with the same weights, in training mode."""
    torch.manual_seed(seed)
    ours = MaskedLanguageModel(Encoder(config))
    arms = {name: MAKE[name](ours) for name in names}
    for arm in arms.values():
        arm.model.train()
    return arms


def check_same(arms: dict[str, Arm], batch: Batch) -> float:
    """Return the batch's loss; AssertionError when an arm computes another loss or other logits than ours.

    Without this no time could be compared. Without dropout: in evaluation mode.
    """
    models = {name: arm.model.eval() for name, arm in arms.items()}
    first = next(iter(arms.values()))
    loss = first.loss(batch).detach()
    with torch.inference_mode():
        logits = first.logits(batch)[batch["mask"]]
    for name, arm in arms.items():
        torch.testing.assert_close(
            arm.loss(batch).detach(), loss, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: loss. {text}"
        )
        with torch.inference_mode():
            torch.testing.assert_close(
                arm.logits(batch)[batch["mask"]],
                logits,
                rtol=1e-3,
                atol=1e-3,
                msg=lambda text, name=name: f"{name}: logits. {text}",
            )
    for model in models.values():
        model.train()
    return float(loss)


def training_step(arm: Arm) -> Callable[[Batch], float]:
    """Return forward, backward and optimizer as one function. All arms have the same: torch's AdamW, fused."""
    optimizer = adamw(arm.model, lr=1e-4)

    def step(batch: Batch) -> float:
        loss = arm.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


# --- batches --------------------------------------------------------------------------------------------------------


@functools.lru_cache
def documentation(V: int) -> tuple[list[str], Tokenizer]:
    """Return the training texts of the documentation corpus, shuffled once, and a tokenizer of V entries."""
    texts = [d.text for d in load_docs().train]
    tokenizer = train_bpe(texts, V)
    return [texts[i] for i in torch.randperm(len(texts), generator=seeded(0)).tolist()], tokenizer


def encoded(V: int, T: int, n: int) -> tuple[list[list[int]], Tokenizer]:
    """Return n texts of the documentation, cut at T tokens, and their tokenizer."""
    texts, tokenizer = documentation(V)
    return tokenizer.encode_batch(texts[:n], max_len=T), tokenizer


def padded_batches(sequences: Sequence[list[int]], tokenizer: Tokenizer, B: int, n: int) -> list[Batch]:
    """Return n batches in the order of the texts, each padded to its longest: what a plain data loader gives."""
    batches = []
    for number in range(n):
        ids, mask = pad(sequences[number * B : (number + 1) * B], tokenizer.pad_id)
        corrupted, labels = mask_tokens(ids, tokenizer, generator=seeded(1, number))
        batches.append({"ids": corrupted, "labels": labels, "mask": mask})
    return batches


def random_batch(V: int, B: int, T: int, share: float = 0.15, device: str | torch.device = "cpu") -> Batch:
    """Return a batch without padding, of random ids, with this share of the positions selected."""
    generator = seeded(2, B, T)
    ids = torch.randint(5, V, (B, T), generator=generator)
    labels = ids.masked_fill(torch.rand(B, T, generator=generator) >= share, IGNORE)
    batch = {"ids": ids, "labels": labels, "mask": torch.ones(B, T, dtype=torch.bool)}
    return {name: tensor.to(device) for name, tensor in batch.items()}


# --- end to end: one epoch over the texts ---------------------------------------------------------------------------


def our_epoch(ours: MaskedLanguageModel, sequences: Sequence[list[int]], tokenizer: Tokenizer, B: int) -> float:
    """Train a copy of the model on each text once, with `MLMBatches` and `fit`; return the seconds."""
    model = copy.deepcopy(ours)
    start = time.perf_counter()
    batches = MLMBatches(sequences, tokenizer, B)
    fit(model, batches, len(batches), lr=5e-5, warmup=0, device="cpu", progress=False)
    return time.perf_counter() - start


def trainer_epoch(ours: MaskedLanguageModel, sequences: Sequence[list[int]], tokenizer: Tokenizer, B: int) -> float:
    """Train Hugging Face's model on each text once, with its Trainer and its collator; return the seconds.

    Trainer's own defaults but for the batch size; nothing is logged or saved. Only `train()` is timed, not the making
    of the Trainer. As in transformers' example run_mlm.py the texts carry their special tokens' mask.
    """
    from transformers import (
        DataCollatorForLanguageModeling,
        PreTrainedTokenizerFast,
        PrinterCallback,
        Trainer,
        TrainingArguments,
    )

    words = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    special = set(tokenizer.special_ids)
    rows = [
        {"input_ids": s, "attention_mask": [1] * len(s), "special_tokens_mask": [int(i in special) for i in s]}
        for s in sequences
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            huggingface_model(ours),
            TrainingArguments(
                folder,
                per_device_train_batch_size=B,
                num_train_epochs=1,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                dataloader_pin_memory=False,  # it means nothing without a GPU, and warns
            ),
            data_collator=DataCollatorForLanguageModeling(words),
            train_dataset=rows,
        )
        trainer.remove_callback(PrinterCallback)
        start = time.perf_counter()
        trainer.train()
        return time.perf_counter() - start
