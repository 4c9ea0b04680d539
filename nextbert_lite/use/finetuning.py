"""Your own labelled texts: fine-tune a shipped encoder on them, predict, save. Lesson 13 uses it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextbert_lite.core.classify import TextClassifier
from nextbert_lite.core.contrastive import SentenceEncoder
from nextbert_lite.core.either import encoder_of
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.files import say
from nextbert_lite.training.batches import LabelledBatches, by_length, seeded
from nextbert_lite.training.device import pick_device
from nextbert_lite.training.loop import evaluating, fit
from nextbert_lite.training.tokenizer import Tokenizer
from nextbert_lite.use import checkpoints
from nextbert_lite.use.embedding import LONG, parts_of
from nextbert_lite.use.parts import Model, read_parts
from nextbert_lite.validate import check_count, check_predictions, check_temperature, check_texts, check_tokenizer

OLD_CARD = "classifier.json"  # what the card was called in format 1
DROPOUT, PATIENCE = 0.1, 3  # in fine-tuning; epochs without a better held-out loss
LEAST = 4  # texts that each label needs: some to learn from, at least one held out


# --- calibration ------------------------------------------------------------------------------------------------------


def calibration_bins(probabilities: Tensor, labels: Tensor, bins: int = 10) -> Tensor:
    """Return for each bin of confidence the proportion of texts, their mean confidence and accuracy, (bins, 3).

    probabilities: (N, K), labels: (N,). Confidence is the largest probability; a bin holds (i/bins, (i + 1)/bins].
    """
    check_predictions(probabilities, labels, probabilities=True)
    check_count("bins", bins)
    confidence, guess = probabilities.max(-1)
    right = (guess == labels).to(confidence.dtype)
    number = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count, sure, correct = (
        torch.zeros(bins, dtype=confidence.dtype).index_add(0, number, x)
        for x in (torch.ones_like(right), confidence, right)
    )
    return torch.stack([count / len(labels), sure / count.clamp(min=1), correct / count.clamp(min=1)], 1)


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 10) -> float:
    """Return the expected calibration error: the mean distance of confidence and accuracy, bin by bin, 0 is best.

    Guo et al. 2017 (arXiv:1706.04599, equation 3).
    """
    share, confidence, accuracy = calibration_bins(probabilities, labels, bins).T
    return (share * (confidence - accuracy).abs()).sum().item()


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the T from 0.05 to 20 for which softmax(logits / T) has the least cross-entropy with the labels.

    logits: (N, K), of texts that the model was not trained on, and that no result is reported on. Guo et al. 2017,
    section 4.2. With b = 1/T the loss is convex: its slope, the mean of (expected - right) logits, is bisected.
    """
    z = check_predictions(logits, labels).double()
    right = z.gather(1, labels[:, None])[:, 0]
    least, most = 1 / 20, 1 / 0.05
    for _ in range(60):
        b = (least + most) / 2
        slope = (((b * z).softmax(-1) * z).sum(-1) - right).mean()
        least, most = (b, most) if slope <= 0 else (least, b)  # 0: so sure that rounding hides the slope
    return 2 / (least + most)


# --- fine-tuning ------------------------------------------------------------------------------------------------------


class _Enough(Exception):
    """The held-out loss has not improved for some epochs."""


class Classifier:
    """A fine-tuned model with its tokenizer and the names of its labels. `fine_tune` makes one.

    model, tokenizer, labels: in the order of the logits; temperature: what the logits are divided by; max_len: where a
    text is cut; history: for each epoch loss, accuracy and macro-F1 on the held-out texts; long: as in `fine_tune`.
    """

    def __init__(
        self,
        model: TextClassifier,
        tokenizer: Tokenizer,
        labels: Sequence[str],
        temperature: float = 1.0,
        max_len: int | None = None,
        history: Sequence[dict[str, float]] = (),
        long: str = "cut",
    ):
        check_tokenizer(tokenizer)
        if not isinstance(model, TextClassifier) or len(labels) != model.head.classes:
            raise ValueError(f"expected a TextClassifier with a class for each of the {len(labels)} labels.")
        self.model, self.tokenizer, self.labels = model.eval(), tokenizer, tuple(labels)
        self.temperature, self.history = check_temperature(temperature), list(history)
        longest = model.encoder.config.max_len
        self.max_len, self.long = longest if max_len is None else check_count("max_len", max_len, least=3), long
        if len({*self.labels}) < len(self.labels) or not all(isinstance(label, str) for label in self.labels):
            raise ValueError(f"the labels are {self.labels!r:.60}; expected names (str), each once.")
        if self.max_len > longest or long not in LONG:
            raise ValueError(f"max_len is {max_len}, long {long!r}; expected at most {longest}, and one of {LONG}.")

    def probabilities(self, texts: Sequence[str], report: Callable[[str], object] | None = say) -> Tensor:
        """Return one row a text with the probability of each label, (N, K), in the order of `labels`."""
        parts = _parts(texts, self.tokenizer, self.max_len, self.long, report)
        logits = class_logits(self.model, [ids for of_text in parts for ids in of_text], self.tokenizer.pad_id)
        return (_of_texts(logits, parts) / self.temperature).softmax(-1)

    def predict(self, texts: Sequence[str], report: Callable[[str], object] | None = say) -> list[tuple[str, float]]:
        """Return for each text the likeliest label and its probability.

        report: gets a line when texts are cut; None for silence. Raises as `embed` for what is no list of texts.
        """
        best = self.probabilities(texts, report).max(-1)
        return [(self.labels[k], p) for k, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint of three files into a folder, weights in float32; OSError when that fails.

        An older classifier there is replaced; FileExistsError for a folder that holds another model.
        """
        with suppress(FileNotFoundError, ValueError):  # nothing is there, or nothing that can be read
            if "labels" not in checkpoints.read_card(folder):
                raise FileExistsError(f"{folder} holds a model that is no classifier: name another folder.")
        card = {
            "name": Path(folder).resolve().name,
            "labels": list(self.labels),
            "temperature": self.temperature,
            "max_len": self.max_len,
            "pooling": self.model.head.pooling,
            "long": self.long,
            "history": self.history,
            "versions": checkpoints.versions(),
        }
        checkpoints.save(folder, self.model, self.tokenizer, card, half=False)

    @classmethod
    def load(cls, folder: str | Path) -> Classifier:
        """Read what `save` wrote. Raises FileNotFoundError, or ValueError for files that are damaged or of no use."""
        file = next((name for name in (checkpoints.CARD, OLD_CARD) if (Path(folder) / name).is_file()), None)
        if file is None:
            raise FileNotFoundError(
                f"there is no classifier in {folder}: {checkpoints.CARD} is missing. `Classifier.save` writes one."
            )
        card, weights, tokenizer = checkpoints.read(Path(folder), file)
        if "labels" not in card:
            raise ValueError(f"{folder} holds no classifier but a model without labels: `load` reads it.")
        with checkpoints.fitting(folder):
            model = TextClassifier(encoder_of(card["config"]), len(card["labels"]), card["pooling"])
            model.load_state_dict(weights)
            told = {
                name: card[name] for name in ("labels", "temperature", "max_len", "history", "long") if name in card
            }
            return cls(model, tokenizer, **told)


class _Probe(nn.Sequential):
    """What is trained of a frozen classifier: its head's layers, on vectors (B, C) that the encoder computed once."""

    def loss(self, vectors: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self(vectors), labels)


def fine_tune(
    texts: Sequence[str],
    labels: Sequence[str | int | float],
    start: Model = "docs-contrastive",
    *,
    epochs: int = 20,
    lr: float = 5e-4,
    batch_size: int = 16,
    held_out: float = 0.2,
    max_len: int | None = None,
    long: str = "cut",
    frozen: bool = False,
    seed: int = 0,
    report: Callable[[str], object] | None = say,
) -> Classifier:
    """Train a classifier of texts and return it with the weights of its best epoch.

    labels: one a text; numbers, of torch and NumPy too, become their digits. start: a model as `embed`
    takes it; it stays as it is. A share `held_out` of the texts of each label is kept apart (equal texts on
    the same side): training stops when the loss there has not improved for three epochs. The temperature is chosen on
    the held-out texts as well, but at least 1: a few texts that are all right are no reason to be surer. max_len: cut
    texts there, by default at the model's own. long: as in `embed`; each of the "windows" is trained on, and a text has
    the mean of their vectors (the head is linear, so that is the mean of their logits). frozen: train the head only, on
    vectors that are computed once. report: gets a line now and then; None for silence.
    Raises ValueError for lists that do not fit, empty texts, empty or missing labels, one label only, too few texts of
    a label; TypeError for what is no list of texts, or no label.
    """
    tell = report or (lambda line: None)
    if epochs < 1 or epochs % 1 or not 0 < held_out < 1:
        raise ValueError(f"epochs is {epochs}, held_out {held_out}; expected at least 1, and a number between 0 and 1.")
    texts, labels = check_texts(texts), _plain(labels)
    names = _check_rows(texts, labels)
    source, tokenizer = read_parts(start)
    longest = source.encoder.config.max_len
    if max_len is not None and not 3 <= check_count("max_len", max_len) <= longest:
        raise ValueError(f"max_len is {max_len}; it must be from 3 to {longest}, what this model reads.")
    if torn := _torn(texts, labels):
        tell(
            f"{len(torn)} of the texts stand there with different labels, such as {torn[0][:60]!r}: no model can get "
            "all of them right."
        )
    parts = _parts(texts, tokenizer, max_len or longest, long, report)
    y = torch.tensor([names.index(label) for label in labels])
    train, test = _split(texts, labels, held_out, seed)

    torch.manual_seed(seed)
    pooling = "cls" if source.pooling == "cls" else "mean"
    model = TextClassifier(with_dropout(source.encoder, DROPOUT), len(names), pooling, DROPOUT, frozen)
    device = next(model.to(pick_device()).parameters()).device
    given, asked = ([part for i in some for part in parts[i]] for some in (train, test))
    classes = [int(y[i]) for i in train for _ in parts[i]]
    batches = make = LabelledBatches(given, classes, tokenizer, batch_size, seed)
    learner: nn.Module = model
    if frozen:
        learner, encoder = _Probe(model.head.dropout, model.head.out), SentenceEncoder(model.encoder, pooling)
        given, asked = (class_logits(encoder, some, tokenizer.pad_id) for some in (given, asked))

        def make(step: int) -> dict[str, Tensor]:
            rows = batches.rows_of(step)
            return {"vectors": given[rows], "labels": torch.tensor(classes)[rows]}

    best, history = {}, []

    def evaluate() -> dict[str, float]:
        of_parts = learner(asked.to(device)).float().cpu() if frozen else class_logits(model, asked, tokenizer.pad_id)
        logits = _of_texts(of_parts, [parts[i] for i in test])
        loss = F.cross_entropy(logits, y[test]).item()
        guesses = logits.argmax(-1)
        accuracy, f1 = (guesses == y[test]).float().mean().item(), macro_f1(guesses, y[test], len(names))
        history.append({"epoch": len(history) + 1, "loss": loss, "accuracy": accuracy, "macro_f1": f1})
        if loss <= min(entry["loss"] for entry in history):
            best.update(epoch=len(history), logits=logits)
            best["weights"] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if len(history) - best["epoch"] >= PATIENCE:
            raise _Enough
        return {}

    steps = epochs * len(batches)
    try:
        epoch = len(batches)
        fit(learner, make, steps, lr=lr, warmup=epoch, seed=seed, evaluate=evaluate, evaluate_every=epoch)
    except _Enough:
        pass
    model.load_state_dict(best["weights"])
    temperature = max(1.0, fit_temperature(best["logits"], y[test]))
    common = max(names, key=labels.count)
    always = sum(labels[i] == common for i in test) / len(test)
    accuracy, f1 = (history[best["epoch"] - 1][figure] for figure in ("accuracy", "macro_f1"))
    tell(
        f"{len(texts)} texts, {len(names)} labels: {len(train)} to train, {len(test)} held out. Best of {len(history)} "
        f"epochs: {best['epoch']}, accuracy {accuracy:.2f} on the held-out texts (always {common!r}: {always:.2f}), "
        f"macro-F1 {f1:.2f}. The epoch was chosen on them, so new texts may do a little worse."
    )
    if report is not None:
        words, known = words_alone(texts, labels, train, test), known_words(texts, tokenizer)
        better = " Words alone do better here: take them, or a start that knows such texts." if words > accuracy else ""
        tell(f"Words alone (TF-IDF and logistic regression, on the same texts) have accuracy {words:.2f}.{better}")
        tell(f"{known:.0%} of your words are tokens of the start, so its corpus knew them; the others come in pieces.")
    return Classifier(model.cpu(), tokenizer, names, temperature, max_len, history, long)


def macro_f1(guesses: Tensor, labels: Tensor, classes: int) -> float:
    """Return the mean over the classes of F1: each class counts alike, and one that is never guessed right counts 0."""
    from sklearn.metrics import f1_score  # here, as below: who only predicts need not wait for it

    return float(f1_score(labels, guesses, labels=range(classes), average="macro", zero_division=0))


def words_alone(texts: Sequence[str], labels: Sequence[str], train: Sequence[int], test: Sequence[int]) -> float:
    """Return what logistic regression on TF-IDF of one and two words gets right of the test, trained on the rest."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    tfidf = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    x, x_test = tfidf.fit_transform(texts[i] for i in train), tfidf.transform(texts[i] for i in test)
    y, y_test = ([labels[i] for i in some] for some in (train, test))
    return max(LogisticRegression(C=C, max_iter=2000).fit(x, y).score(x_test, y_test) for C in (1, 10))


def known_words(texts: Sequence[str], tokenizer: Tokenizer) -> float:
    """Return the proportion of the texts' words, each as often as it occurs, that are one token and not unknown."""
    counts = Counter(word for text in texts for word in re.findall(r"\w+", text))
    ids = tokenizer.encode_batch([f" {word}" for word in counts])
    known = [n for n, row in zip(counts.values(), ids, strict=True) if len(row) == 3 and row[1] != tokenizer.unk_id]
    return sum(known) / max(1, counts.total())


def with_dropout(encoder: Encoder, dropout: float) -> Encoder:
    """Return a copy of an encoder that has this dropout in training. The shipped encoders have none."""
    copy = type(encoder)(dataclasses.replace(encoder.config, dropout=dropout))  # a learner's own class too
    copy.load_state_dict(encoder.state_dict())
    return copy


@torch.no_grad()
def class_logits(model: nn.Module, sequences: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """Return the logits (N, K) of texts given as token ids, on the CPU, in eval mode; texts of like length together."""
    device = next(model.parameters()).device
    with evaluating(model):
        return by_length(sequences, pad_id, lambda *batch: model(*(x.to(device) for x in batch)).float().cpu())


def _plain(labels: Sequence[str | int | float]) -> list[str]:
    """Return each label as a str, of a number its digits; an error with its place for one that is missing or none."""
    if isinstance(labels, str):
        raise TypeError("expected a list of labels, one a text; this is one str.")
    plain = []
    for number, label in enumerate(labels):
        if hasattr(label, "item") and len(getattr(label, "shape", ())) == 0:  # a number of torch or NumPy
            label = label.item()
        if label is None or str(label).strip().lower() in ("nan", "<na>", "nat"):
            raise ValueError(f"the label of text {number} is missing ({label}): fill it in, or leave the text out.")
        if not isinstance(label, str | int | float):
            raise TypeError(
                f"the label of text {number} is {type(label).__name__}; each label must be a str or a number."
            )
        if not str(label).strip():
            raise ValueError(f"the label of text {number} is empty: fill it in, or leave the text out.")
        plain.append(str(label).strip())
    return plain


def _check_rows(texts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return the names of the labels in order; ValueError for texts and labels that nothing can be learned from."""
    if len(texts) != len(labels):
        raise ValueError(f"there are {len(texts)} texts and {len(labels)} labels; each text needs its own.")
    counts = Counter(labels)
    if len(counts) < 2:
        raise ValueError(
            f"all {len(labels)} texts have the label {labels[0]!r}: with one label there is nothing to learn."
        )
    different = Counter(
        label for _, label in {(text.strip(), label) for text, label in zip(texts, labels, strict=True)}
    )
    few = [f"{label!r} has {n}" for label, n in sorted(different.items()) if n < LEAST]
    if few:
        raise ValueError(
            f"each label needs at least {LEAST} different texts: {', '.join(few)}. Add texts, or merge or drop labels."
        )
    return sorted(counts)


def _torn(texts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return the texts that occur with more than one label."""
    found = Counter(
        text for text, _ in dict.fromkeys((t.strip(), label) for t, label in zip(texts, labels, strict=True))
    )
    return [text for text, different in found.items() if different > 1]


def _parts(
    texts: Sequence[str], tokenizer: Tokenizer, max_len: int, long: str, report: Callable[[str], object] | None
) -> list[list[list[int]]]:
    """Return the parts of each text as token ids: its windows, or its beginning, and report how much was cut."""
    whole = tokenizer.encode_batch(check_texts(texts))
    rest = [len(ids) - max_len for ids in whole if len(ids) > max_len]
    if rest and long == "cut" and report is not None:
        report(
            f"{len(rest)} of {len(whole)} texts are longer than {max_len} tokens: only their beginning is read. "
            f'{sum(rest) / sum(map(len, whole)):.0%} of all tokens are left out; long="windows" reads them.'
        )
    return [parts_of(ids, max_len, long, number) for number, ids in enumerate(whole)]


def _of_texts(rows: Tensor, parts: Sequence[Sequence]) -> Tensor:
    """Return the mean row of each text's parts, (N, K)."""
    return torch.stack([part.mean(0) for part in rows.split([len(of_text) for of_text in parts])])


def _split(texts: Sequence[str], labels: Sequence[str], held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the numbers of the texts to train on and to hold out: the share of each label, equal texts together."""
    groups: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        groups.setdefault(text.strip(), []).append(number)
    firsts: dict[str, list[int]] = {}  # label -> one text of each group
    for group in groups.values():
        firsts.setdefault(labels[group[0]], []).append(group[0])
    test: list[int] = []
    for label in sorted(firsts):
        numbers = firsts[label]
        order = torch.randperm(len(numbers), generator=seeded(seed, len(test))).tolist()
        count = min(max(1, math.floor(held_out * len(numbers) + 0.5)), len(numbers) - 1)
        test += [n for i in order[:count] for n in groups[texts[numbers[i]].strip()]]
    kept = set(test)
    return [n for n in range(len(texts)) if n not in kept], sorted(test)
