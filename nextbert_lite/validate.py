"""Checks of what is passed in. Each is one call in the code that a lesson builds, so that the idea stays in view."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor


def check_mask(mask: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    """Return the mask if it is boolean and fits scores of this shape (..., T, S); else say what to do.

    True means *may be attended to*. The mask needs as many dimensions as the scores, each of size 1 or the scores':
    torch would broadcast a (B, T) mask over (T, T) in silence as soon as B = T.
    Raises TypeError for another dtype, ValueError for another shape.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(
            f"the mask is {kind}; it must be a torch.bool tensor in which True means 'may be attended to'. "
            "Of a mask with 1 for real and 0 for padding make `mask.bool()`; of torch's key_padding_mask, where True "
            "means padding, make `~mask`."
        )
    fits = mask.ndim == len(shape) and all(m in (1, s) for m, s in zip(mask.shape, shape, strict=True))
    if not fits:
        hint, more = "", len(shape) - 2  # dimensions of size 1 that a mask of two lacks
        if mask.ndim == 2 and more in (1, 2):
            hint = (
                f" A padding mask (B, T) becomes `mask[:, {'None, ' * more}:]`, a mask (T, T) of who may look at whom "
                f"becomes `mask[{', '.join(['None'] * more)}]`."
            )
        raise ValueError(
            f"a mask of shape {tuple(mask.shape)} does not fit scores of shape {tuple(shape)}: it needs "
            f"{len(shape)} dimensions, each of size 1 or the scores' own.{hint}"
        )
    return mask


def check_attention(x: Tensor, mask: Tensor | None, H: int, weight: Tensor) -> Tensor | None:
    """Return the mask, checked, if x is (B, T, C) of the width and the dtype of the weight (…, C); else say why not."""
    C, kind = weight.shape[-1], x.dtype if isinstance(x, Tensor) else type(x).__name__
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[2] != C:
        shape = f"the shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"no shape: it is of type {kind}"
        hint = " One text becomes a batch of one by `x[None]`." if isinstance(x, Tensor) and x.ndim == 2 else ""
        raise ValueError(f"x has {shape}; expected a tensor (B, T, C) with C = {C}.{hint}")
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"x is {kind} and the weights are {weight.dtype}: `x.to({weight.dtype})`, or `module.to(...)`.")
    return check_mask(mask, (len(x), H, x.shape[1], x.shape[1]))


def check_types(types: Tensor | None, ids: Tensor, count: int) -> Tensor:
    """Return token types (B, T), 0 to count - 1, zeros for None; else say what is wrong."""
    if types is None:
        return torch.zeros_like(ids)
    if not count:
        raise ValueError(
            "token_types were given, but this model has none: leave them out (an EncoderConfig sets them)."
        )
    whole = isinstance(types, Tensor) and types.dtype in (torch.int64, torch.int32) and types.shape == ids.shape
    if not whole or types.min() < 0 or types.max() >= count:
        shape = tuple(ids.shape)
        raise ValueError(f"token_types must be whole numbers from 0 to {count - 1} (torch.int64) of the shape {shape}.")
    return types


def check_masking(ids: Tensor, tokenizer: object, rate: float) -> None:
    """Raise ValueError (TypeError for another kind) unless these ids can be masked at this rate."""
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
        raise ValueError(f"rate is {rate}; it must be greater than 0 and at most 1 (BERT and RoBERTa: 0.15).")
    check_tokenizer(tokenizer)
    check_ids(torch.atleast_2d(ids) if isinstance(ids, Tensor) else ids, tokenizer.vocab_size, None)


def check_targets(labels: Tensor, ids: Tensor, vocab_size: int) -> None:
    """Raise ValueError (TypeError for another kind) unless labels (B, T) are words of the vocabulary, or -100."""
    if isinstance(labels, Tensor) and labels.shape != ids.shape:
        raise ValueError(f"labels have the shape {tuple(labels.shape)}, ids {tuple(ids.shape)}; they must agree.")
    check_labels(labels, ids.shape, vocab_size)


def check_gap_filler(model: object, use: str) -> None:
    """Raise TypeError, which ends with `use`, unless the model has a head that fills gaps; a learner's own may, too."""
    if not hasattr(getattr(model, "head", None), "bias"):
        raise TypeError(f"the model is {type(model).__name__}; {use}.")


def check_logits(logits: Tensor) -> Tensor:
    """Return logits (..., V); ValueError for NaN, +inf or no possible token. -inf forbids one token."""
    if not logits.amax(-1).isfinite().all():
        raise ValueError("the model gives NaN: its weights hold NaN or an infinity. Load it or train it anew.")
    return logits


def check_heads(C: int, H: int) -> None:
    """Raise ValueError unless H heads divide the width C into equal parts."""
    if C < 1 or H < 1 or C % check_count("heads", H):
        near = [h for h in range(1, C + 1) if C % h == 0]
        raise ValueError(
            f"{H} heads do not divide the width {C} into equal parts. Choose the number of heads among {near}."
        )


def check_ids(ids: Tensor, vocab_size: int, max_len: int | None) -> Tensor:
    """Return ids (B, T) if an encoder can read them; else say which is wrong.

    On a GPU this waits for the device once: an id out of range there would otherwise kill the whole process's CUDA.
    """
    if not isinstance(ids, Tensor) or ids.dtype not in (torch.int64, torch.int32):
        kind = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"token ids are {kind}; they must be a tensor of torch.int64. `pad` of lists makes one.")
    if ids.ndim != 2:
        raise ValueError(
            f"token ids have the shape {tuple(ids.shape)}; expected (B, T), a batch of B texts of T tokens. "
            "One text becomes a batch of one by `ids[None]`."
        )
    B, T = ids.shape
    if B == 0 or T == 0:
        raise ValueError(f"the batch is empty: its shape is {(B, T)}. Leave out empty texts and empty batches.")
    if max_len is not None and T > max_len:
        raise ValueError(
            f"a text of {T} tokens is longer than this model's max_len of {max_len}. "
            "Cut it (`tokenizer.encode(text, max_len=...)`), split it, or make a model with a larger max_len."
        )
    low, high = torch.stack(torch.aminmax(ids)).tolist()
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        b, t = (ids == wrong).nonzero()[0].tolist()
        raise ValueError(
            f"token id {wrong} (text {b}, position {t}) is outside this model's vocabulary: 0 to {vocab_size - 1}. "
            "The text was encoded by another tokenizer, or labels were passed in place of ids."
        )
    return ids


def check_padding_mask(mask: Tensor, ids: Tensor, pad_id: int) -> Tensor:
    """Return a boolean mask (B, T) or (B, T, T) if every text keeps something to attend to; else say what is wrong."""
    B, T = ids.shape
    three = isinstance(mask, Tensor) and mask.ndim == 3
    mask = check_mask(mask, (B, T, T) if three else (B, T))
    seen = mask.any(1).expand(B, T) if three else mask.expand(B, T)  # of three dimensions: looked at by any token
    is_pad = ids == pad_id
    empty, inverted = torch.stack([~seen.any(1), (seen == is_pad).all(1) & is_pad.any(1)]).tolist()
    if any(inverted):
        raise ValueError(
            f"the mask of text {inverted.index(True)} is the wrong way round: True at every [PAD] and False at every "
            "word. True means 'may be attended to': pass `ids != pad_id`, or leave the mask out."
        )
    if any(empty):
        raise ValueError(
            f"the mask of text {empty.index(True)} is False everywhere, so nothing may be attended to. "
            "Leave empty texts out of the batch; or, if True means padding in it, pass `~mask`."
        )
    return mask if three else seen


def check_count(name: str, value: int, least: int = 1) -> int:
    """Return a whole number of at least `least`; else say what it is called, what it is and what was expected."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}.")
    return value


def check_texts(texts: Sequence[str], *, blank: bool = False, least: int = 1, whole: bool = False) -> list[str]:
    """Return the texts as a list, each a str, not blank unless allowed, of whole characters if asked; else say which.

    Raises TypeError for one text alone and for what is no text, ValueError for a text or a list that is empty.
    """
    if isinstance(texts, str):
        raise TypeError("expected a list of texts; put a single text into a list: [text].")
    if isinstance(texts, set | frozenset):
        raise TypeError("expected a list of texts; a set has no order: give `sorted(texts)`.")
    texts = list(texts)
    if len(texts) < least:
        raise ValueError("the list of texts is empty: give at least one text.")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {number} is {type(text).__name__}; each text must be a str.")
        if not blank and not text.strip():
            raise ValueError(f"text {number} is empty: leave it out.")
        if whole and re.search("[\ud800-\udfff]", text):
            raise ValueError(
                f"text {number} holds half a surrogate pair, which is no character: {text[:40]!r}. Repair it with "
                "`text.encode('utf-8', 'replace').decode()`."
            )
    return texts


def check_tokenizer(tokenizer: object) -> None:
    """Raise TypeError for what is no tokenizer: two arguments that were exchanged, say."""
    if not hasattr(tokenizer, "pad_id") or not hasattr(tokenizer, "vocab_size"):
        kind = type(tokenizer).__name__
        raise TypeError(f"the tokenizer is {kind}; expected a `Tokenizer`. Were two arguments exchanged?")


def check_sequences(
    sequences: Sequence[Sequence[int] | Tensor], vocab_size: int | None = None, name: str = "sequence"
) -> list[Tensor]:
    """Return texts given as token ids as tensors (T,) of torch.int64; else say which text is wrong.

    Raises TypeError for what are no whole numbers, ValueError for no text, an empty one, and ids out of range.
    """
    rows = []
    for number, ids in enumerate(sequences):
        try:
            row = torch.as_tensor(ids)
        except (TypeError, ValueError, RuntimeError):
            row = torch.tensor(0.0)
        if row.ndim == 1 and not len(row):
            raise ValueError(f"{name} {number} of the batch is empty: leave it out, or encode its text.")
        if row.ndim != 1 or row.is_floating_point() or row.dtype == torch.bool:
            raise TypeError(
                f"{name} {number} is {ids!r:.60}; expected token ids, a list of whole numbers: "
                "`tokenizer.encode_batch(texts)` makes one of each text. Put a single text into a list: [ids]."
            )
        rows.append(row.long())
    if not rows:
        raise ValueError("the batch is empty: give at least one sequence of token ids.")
    low, high = torch.stack(torch.aminmax(torch.cat(rows))).tolist()
    if vocab_size is not None and not 0 <= low <= high < vocab_size:
        raise ValueError(
            f"there is the token id {low if low < 0 else high}; this tokenizer has the ids 0 to {vocab_size - 1}. "
            "Encode the texts with the tokenizer that you pass."
        )
    return rows


def check_rows(x: Tensor, name: str, expected: str) -> Tensor:
    """Return x if it has two dimensions, a row at least, floats, all of them finite; else say what is wrong."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} are {type(x).__name__}; expected a tensor {expected}. `torch.as_tensor(x)` makes one.")
    if x.ndim != 2 or not x.numel():
        raise ValueError(f"{name} have the shape {tuple(x.shape)}; expected {expected}.")
    if not x.is_floating_point():
        raise TypeError(f"{name} are {x.dtype}; they must be vectors of floats. An encoder makes vectors of token ids.")
    finite = x.detach().isfinite().all(1)
    if not finite.all():
        raise ValueError(
            f"{name} are not finite: row {int(finite.int().argmin())} has NaN or an infinity. Look at the text of that "
            "row and at the weights; a learning rate that was too high is the usual cause."
        )
    return x


def check_vectors(x: Tensor, name: str = "the embeddings") -> Tensor:
    """Return vectors (N, C) of which each has a direction; else say which has none: `F.normalize` would not."""
    check_rows(x, name, "(N, C), one vector a text, and at least one text")
    lengths = x.detach().norm(dim=1)
    good = (lengths > 1e-12) & lengths.isfinite()  # the least that it divides by; and what does not overflow
    if not good.all():
        row = int(good.int().argmin())
        raise ValueError(
            f"{name} have a row without a direction: row {row} has the length {float(lengths[row]):.3g}, so all its "
            "cosines would be 0. Leave out a text without tokens; scale vectors that are so small or so large."
        )
    return x


def check_predictions(rows: Tensor, labels: Tensor, probabilities: bool = False) -> Tensor:
    """Return logits or probabilities (N, K) if they and the labels (N,), 0 to K - 1, fit; else say what is wrong."""
    what = "the probabilities" if probabilities else "the logits"
    check_rows(rows, what, "(N, K), a row for each text and a column for each class")
    if (check_labels(labels, rows.shape[:1], rows.shape[1]) < 0).any():
        raise ValueError(f"text {int((labels < 0).int().argmax())} has no label: leave it out of both.")
    if probabilities and ((rows < 0).any() or ((rows.sum(1) - 1).abs() > 1e-3).any()):
        raise ValueError("a row is below 0 or does not sum to 1; logits become probabilities by `logits.softmax(-1)`.")
    return rows


def check_temperature(temperature: float) -> float:
    """Return the temperature if it is a finite number above 0; else say so."""
    if not isinstance(temperature, int | float) or isinstance(temperature, bool) or not 0 < temperature < float("inf"):
        raise ValueError(
            f"temperature is {temperature!r}; it must be a number greater than 0 (SimCSE 0.05, SimCLR 0.5). Scores are "
            "divided by it."
        )
    return temperature


def check_pairs(
    anchors: Tensor,
    positives: Tensor,
    temperature: float,
    negatives: Tensor | None = None,
    same: Tensor | None = None,
) -> None:
    """Raise ValueError (TypeError for a mask of another dtype) unless a contrastive loss can be computed of these."""
    check_temperature(temperature)
    check_vectors(anchors, "the anchors")
    check_vectors(positives, "the positives")
    if anchors.shape != positives.shape:
        raise ValueError(
            f"the anchors have the shape {tuple(anchors.shape)}, the positives {tuple(positives.shape)}; they must "
            "agree, for row i of one belongs to row i of the other."
        )
    B, C = anchors.shape
    if negatives is None:
        if B < 2:
            raise ValueError(
                "a batch of one has no negatives, so its loss is 0 whatever the model does: take at least two pairs, "
                "or give `negatives`."
            )
    elif check_vectors(negatives, "the negatives").shape[1] != C:
        raise ValueError(f"the negatives have the width {negatives.shape[1]}, the anchors {C}; they must agree.")
    if same is not None and (not isinstance(same, Tensor) or same.dtype != torch.bool):
        kind = same.dtype if isinstance(same, Tensor) else type(same).__name__
        raise TypeError(f"`same` is {kind}; it must be a torch.bool tensor (B, B), as `same_texts` makes one.")
    if same is not None and same.shape != (B, B):
        raise ValueError(f"`same` has the shape {tuple(same.shape)}; it must be (B, B) = {(B, B)}.")


def check_lists(anchors: Sequence, positives: Sequence) -> None:
    """Raise ValueError unless there are as many positives as anchors."""
    if len(anchors) != len(positives):
        raise ValueError(
            f"there are {len(anchors)} anchors and {len(positives)} positives; give the same number of both."
        )


def check_text_pairs(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], vocab_size: int) -> list[list[Tensor]]:
    """Return the anchors and the positives of pairs as `check_sequences` does; ValueError for what are no pairs."""
    for number, pair in enumerate(pairs):
        if len(pair) != 2:
            raise ValueError(f"pair {number} has {len(pair)} texts; a pair is (anchor, positive), each a list of ids.")
    names = ("the anchor of pair", "the positive of pair")
    return [check_sequences(side, vocab_size, name) for side, name in zip(zip(*pairs, strict=True), names, strict=True)]


def check_classes(classes: int) -> int:
    """Return the number of classes if there are at least two, for with one there is no choice; else say so."""
    return check_count("classes", classes, least=2)


def check_labels(labels: Tensor, shape: tuple[int, ...], classes: int) -> Tensor:
    """Return labels of this shape if each is a class, 0 to classes - 1, or -100 for no label; else say so."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"the labels are {kind}; they must be a tensor of torch.int64, the number of each class.")
    if labels.shape != shape:
        raise ValueError(f"the labels have the shape {tuple(labels.shape)}; expected {tuple(shape)}.")
    wrong = ((labels < 0) | (labels >= classes)) & (labels != -100)
    if wrong.any():
        raise ValueError(
            f"there is a label {int(labels[wrong][0])}; with {classes} classes the labels are 0 to {classes - 1}, or "
            "-100 for what has no label. Count classes from 0, or make the head larger."
        )
    return labels


def check_hidden(ids: Tensor, hidden: Tensor, words: Tensor, rates: Tensor | None) -> None:
    """Raise ValueError unless `hidden` are booleans (B, T) at words only, one in each text, or rates (B,) are given."""
    if not isinstance(hidden, Tensor) or hidden.dtype != torch.bool or hidden.shape != ids.shape:
        raise ValueError(f"hidden must be booleans of the shape {tuple(ids.shape)}, True at the words to be guessed.")
    if not words.any():
        raise ValueError(
            "the batch has no word, special tokens only, so there are no nats a word: leave out empty texts."
        )
    if (hidden & ~words).any():
        raise ValueError("a special token is hidden; hide words only: `hide_words` does.")
    if rates is None and not hidden.any(1).all():
        raise ValueError("no word of a text is hidden, so it has no n / k: hide one at least, or give the rates.")
    if rates is not None and (rates.shape != ids.shape[:1] or not ((rates > 0) & (rates <= 1)).all()):
        raise ValueError(f"rates must be {len(ids)} numbers, one a text, greater than 0 and at most 1.")


def check_writing(steps: int, order: str, temperature: float, orders: Sequence[str]) -> None:
    """Raise ValueError for a number of steps, an order or a temperature with which nothing can be written."""
    check_count("steps", steps)
    if order not in orders:
        raise ValueError(f"order is {order!r}; choose one of {', '.join(orders)}.")
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature!r}; it must be a number greater than 0, and finite.")
