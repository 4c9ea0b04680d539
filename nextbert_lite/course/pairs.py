"""`nextbert-lite pairs`: from texts that belong together to a sentence encoder. Lessons 09 to 12 show the inside.

The pairs are a CSV file of two columns, such as a question and its answer, or "docs": the documentation on this
machine, whose summaries and bodies belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from nextbert_lite.core.contrastive import SentenceEncoder
from nextbert_lite.corpora.python_docs import DocsCorpus, load_docs, near_duplicates, text_hash
from nextbert_lite.course import runs
from nextbert_lite.course.tables import read_columns
from nextbert_lite.files import file_hash, say
from nextbert_lite.training.batches import PairBatches, pair_batch, seeded
from nextbert_lite.training.device import pick_device
from nextbert_lite.training.distributed import check_shares, join, on_first
from nextbert_lite.training.loop import MakeBatch, fit, steps_in
from nextbert_lite.training.tokenizer import Tokenizer, cut
from nextbert_lite.use import checkpoints
from nextbert_lite.use.embedding import embed
from nextbert_lite.use.finetuning import with_dropout
from nextbert_lite.use.search import PLAIN, Bm25, mrr
from nextbert_lite.validate import check_count, check_texts

Pair = tuple[str, str]
LEAST = 20  # pairs: some to learn from, some held out
SAMPLE = 100  # pairs of the quick figure that a test computes again
CHECKPOINT_EVERY = 100  # steps
CHUNK = 16  # texts that are encoded at a time, texts of like length together
CUTS = 0.3  # of the pairs in a batch of "docs": a span and what surrounds it


@dataclass
class PairCorpus:
    """What is trained on and what is held out."""

    name: str
    about: str  # one line for people
    fingerprint: dict
    train: int  # pairs
    kinds: str  # what pairs they are
    batches: Callable[[int, int, int], MakeBatch]  # (batch size, tokens of a text, seed) -> batches
    validation: list[Pair]  # for the curve
    test: list[Pair]  # for the card's figures, read once
    train_hashes: list[str]
    further: dict = field(default_factory=dict)  # what else of the training data the card tells


# --- pairs of one's own -----------------------------------------------------------------------------------------------


def read_pairs(path: str | Path, columns: Sequence[str] = (), separator: str = ",") -> list[Pair]:
    """Return the pairs of a CSV file with a header line: the two columns of that name, or the only two that it has.

    Raises FileNotFoundError, or ValueError with the line for an empty side, a missing value written as "nan", a row
    with too many or too few fields, and for a file without two columns.
    """
    columns, pairs = read_columns(path, columns, wanted=2, separator=separator)
    for number, pair in enumerate(pairs):
        for name, text in zip(columns, pair, strict=True):
            if text.strip().lower() == "nan":
                raise ValueError(
                    f"{path}: the {name} of pair {number} is {text.strip()!r}, which programs write for a missing "
                    "value. Fill it in, or delete the row."
                )
    return [(a, b) for a, b in pairs]


def own_pairs(pairs: Sequence[Pair], tokenizer: Tokenizer) -> PairCorpus:
    """Return pairs as a corpus: by their hashes one in ten is for validation, one for test; equal texts stay together.

    Raises TypeError or ValueError for what is no list of pairs of texts, and for too few different ones.
    """
    if isinstance(pairs, str) or any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
        raise ValueError("the pairs must be a list of (text, text): each a pair of texts that belong together.")
    sides = [check_texts(side) for side in zip(*pairs, strict=True)] if len(pairs) else []
    given = len(pairs)
    pairs = list(dict.fromkeys(zip(*sides, strict=True)))
    left_out = f"; {given - len(pairs):,} repeated ones are left out" if given > len(pairs) else ""
    groups: dict[str, list[Pair]] = {}
    for pair, group in zip(pairs, groups_of(pairs), strict=True):
        groups.setdefault(group, []).append(pair)
    validation, test, train = parts = [], [], []
    for group in sorted(groups, key=text_hash):
        part = next((held for held in (validation, test) if len(held) < max(2, len(pairs) // 10)), train)
        part += groups[group]
    if len(pairs) < LEAST or min(map(len, parts)) < 2:
        raise ValueError(
            f"there are {len(pairs)} different pairs, of which {len(train)} would be trained on, {len(validation)} "
            f"and {len(test)} held out (pairs that share a text stay together). At least {LEAST} pairs and two in each "
            "part are needed; some hundreds are a start."
        )
    ids = dict(zip(texts := [t for pair in train for t in pair], tokenizer.encode_batch(texts), strict=True))

    def batches(batch_size: int, max_len: int, seed: int) -> MakeBatch:
        long = sum(len(row) > max_len for row in ids.values())
        if long:
            say(f"  {long:,} of {len(ids):,} training texts exceed {max_len} tokens: only their beginning is read.")
        if batch_size > len(train):
            say(f"  A batch has {len(train):,} pairs, all that there are, and not {batch_size:,}.")
        encoded = [(cut(ids[a], max_len), cut(ids[b], max_len)) for a, b in train]
        return PairBatches(encoded, tokenizer, min(batch_size, len(train)), seed)

    hashes = sorted(text_hash(f"{a}\n{b}") for a, b in pairs)
    return PairCorpus(
        name="pairs",
        about=f"{len(train):,} pairs, and {len(test):,} as test{left_out}",
        fingerprint={"sha256": sha256("".join(hashes).encode()).hexdigest()},
        train=len(train),
        kinds="as given",
        batches=batches,
        validation=validation,
        test=test,
        train_hashes=sorted({text_hash(text) for text in ids}),
    )


def groups_of(pairs: Sequence[Pair]) -> list[str]:
    """Return for each pair a text that stands for its group: pairs that share a text, by a chain too, share it."""
    first: dict[str, str] = {}

    def root(text: str) -> str:
        while first.setdefault(text, text) != text:
            text = first[text]
        return text

    for a, b in pairs:
        one, other = sorted((root(a), root(b)))
        first[other] = one
    return [root(a) for a, _ in pairs]


# --- the documentation ------------------------------------------------------------------------------------------------


def docs_pairs(docs: DocsCorpus, more: DocsCorpus, tokenizer: Tokenizer) -> PairCorpus:
    """Return the documentation's pairs as a corpus. more: further documents to train on, see `load_docs`."""
    held = (*docs.validation, *docs.test)
    near = [
        near_duplicates([d.text for d in more.train], [d.text for d in held]),
        near_duplicates([d.body for d in more.train], [d.body for d in held]),
    ]
    kept = tuple(d for d, *like in zip(more.train, *near, strict=True) if not any(like))
    training = DocsCorpus((*docs.train, *kept), (), (), {})
    pairs = len(training.pairs("train"))
    return PairCorpus(
        name="docs",
        about=f"{len(docs.train):,} texts of documentation and {len(kept):,} of further packages",
        fingerprint=docs.fingerprint,
        train=pairs,
        kinds=f"{1 - CUTS:.0%} a summary and its body ({pairs:,}), {CUTS:.0%} some words and what is around; no names",
        batches=lambda batch_size, max_len, seed: DocsPairs(training, tokenizer, batch_size, max_len, seed),
        validation=docs.pairs("validation"),
        test=docs.pairs("test"),
        train_hashes=training.hashes("train"),
        further={"more": more.fingerprint},
    )


class DocsPairs:
    """The batches of "docs": two kinds of pairs, drawn from the training split only.

    A summary and a part of its body; a few words cut out of a text and what surrounds them. A batch depends on the seed
    and the step alone.
    """

    def __init__(self, docs: DocsCorpus, tokenizer: Tokenizer, batch_size: int, max_len: int, seed: int):
        self.tokenizer, self.max_len, self.seed = tokenizer, max_len, seed
        summaries, bodies = zip(*docs.pairs("train"), strict=True)
        self.pairs = list(zip(self.words(summaries), self.words(bodies), strict=True))
        self.long = [text for text in self.words([d.text for d in docs.train]) if len(text) >= 24]
        self.cuts = round(batch_size * CUTS)
        self.rest = batch_size - self.cuts

    def words(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text without [CLS] and [SEP]."""
        return [ids[1:-1] for ids in self.tokenizer.encode_batch(texts)]

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Return what `pair_batch` makes of the step's pairs."""
        generator = seeded(self.seed, step)
        found = []
        for row in torch.randperm(len(self.pairs), generator=generator)[: self.rest].tolist():
            found.append((self.pairs[row][0], self.part(self.pairs[row][1], generator)))
        for row in torch.randperm(len(self.long), generator=generator)[: self.cuts].tolist():
            found.append(self.cut_out(self.long[row], generator))
        return pair_batch([(self.closed(a), self.closed(b)) for a, b in found], self.tokenizer.pad_id)

    def closed(self, words: list[int]) -> tuple[int, ...]:
        """Return a text's words as one input: cut to the length, between [CLS] and [SEP]."""
        return (self.tokenizer.cls_id, *words[: self.max_len - 2], self.tokenizer.sep_id)

    def part(self, words: list[int], generator: torch.Generator) -> list[int]:
        """Return the beginning of a text, or, every third time, a later part of a long one."""
        room = len(words) - (self.max_len - 2)
        if room <= 0 or torch.rand(1, generator=generator) > 1 / 3:
            return words
        return words[int(torch.randint(room + 1, (1,), generator=generator)) :]

    def cut_out(self, words: list[int], generator: torch.Generator) -> tuple[list[int], list[int]]:
        """Return a span of 6 to 23 tokens and what surrounds it; one time in three the span stays in its place."""
        n = int(torch.randint(6, 24, (1,), generator=generator))
        start = int(torch.randint(len(words) - n + 1, (1,), generator=generator))
        stays = torch.rand(1, generator=generator) < 1 / 3
        around = words if stays else [*words[:start], *words[start + n :]]
        left = max(0, start - int(torch.randint(self.max_len - 2, (1,), generator=generator)))
        return words[start : start + n], around[min(left, max(0, len(around) - self.max_len + 2)) :]


# --- training ---------------------------------------------------------------------------------------------------------


def train_pairs(
    pairs: str | Path | Sequence[Pair],
    out: str | Path,
    *,
    columns: Sequence[str] = (),
    separator: str = ",",
    start: str | Path = "docs-small",
    minutes: float | None = None,
    steps: int | None = None,
    batch: int = 64,
    lr: float = 6e-4,
    temperature: float = 0.05,
    pooling: str = "mean",
    max_len: int | None = None,
    seed: int = 0,
    device: str | None = None,
    bf16: bool | None = None,
    replace: bool = False,
    shard: bool = False,
) -> dict | None:
    """Train a sentence encoder on pairs of texts, write it into `out`, and return its card, or None if interrupted.

    pairs: the path of a CSV file of two columns (see `read_pairs`), "docs", or a list of (text, text). start: the
    checkpoint to begin with, masked model or sentence encoder. Give minutes, which are turned into steps by a trial, or
    steps. max_len: tokens of a text in training, by default what the encoder reads. The card has the mean reciprocal
    rank on test pairs before and after training, and that of BM25, plain and tuned. The same call goes on from an
    unfinished run. On several ranks each pair's negatives are all other pairs of the batch, whichever rank holds them.
    Raises as `pretrain` does.
    """
    out = Path(out)
    join()
    runs.check_length(minutes, steps)
    check_count("batch", batch, least=2)
    check_count("seed", seed, least=0)
    named = str(pairs) if isinstance(pairs, str | Path) else f"{len(pairs)} pairs"
    options = dict(data=named, columns=list(columns), start=str(start), minutes=minutes, batch=batch, lr=lr)
    options |= dict(separator=None if separator == "," else separator)  # older runs have none
    options |= dict(temperature=temperature, pooling=pooling, max_len=max_len, seed=seed, bf16=bf16)
    chosen = pick_device(device)
    run = on_first(lambda: runs.unfinished(out, options | ({} if steps is None else {"steps": steps}), replace))
    origin, tokenizer = checkpoints.load(start)
    longest = origin.encoder.config.max_len
    began_with = checkpoints.find(start)
    if out.resolve() == began_with.resolve():
        raise ValueError(f"{out} is the start, which a run that is stopped needs again: name another folder.")
    if max_len is not None and not 3 <= check_count("max_len", max_len) <= longest:
        raise ValueError(f"max_len is {max_len}; it must be from 3 to {longest}, what {start} reads.")

    say(f"Reading the pairs of {named} …", flush=True)
    if pairs == "docs":
        source = docs_pairs(load_docs(), load_docs(more=True), tokenizer)
    else:
        mine = read_pairs(pairs, columns, separator) if isinstance(pairs, str | Path) else pairs
        source = own_pairs(mine, tokenizer)
    say(f"  {source.about}")
    trained_on, began_with = source.fingerprint | source.further, file_hash(began_with / checkpoints.CARD)
    if run:
        if run["fingerprint"].pop("start", began_with) != began_with:  # older runs do not tell
            raise ValueError(
                f"{start} has changed since the run in {out} began; delete {out / runs.RUN} to start anew."
            )
        runs.check_corpus(out, run, trained_on)

    torch.manual_seed(seed)
    encoder = with_dropout(origin.encoder, 0.1)
    model = SentenceEncoder(encoder, pooling, temperature, symmetric=True, chunk=CHUNK).to(chosen)
    batches = source.batches(batch, max_len or longest, seed)
    check_shares(len(batches(0)["ids"]), 1)
    if run:
        steps = run["steps"]
        say(f"Going on with the unfinished run in {out}.")
    else:
        timed = None if steps else steps_in(model, batches, 60 * minutes, shard=shard)
        steps = on_first(lambda: steps or timed)
        plan = dict(options=options, steps=steps, fingerprint=trained_on | {"start": began_with})
        on_first(lambda: runs.begin(out, plan))
    before = SentenceEncoder(origin.encoder, pooling)
    figures = {"pairs": len(source.test), "mrr_before": round(reciprocal(before, tokenizer, source.test), 4)}
    say(
        f"Test MRR among {len(source.test)} texts before training {figures['mrr_before']:.3f}. Training on {chosen}, "
        f"{steps:,} steps. Ctrl-C stops; the same command goes on."
    )
    history = fit(
        model,
        batches,
        steps,
        lr=lr,
        warmup=min(50, steps // 10),
        seed=seed,
        device=chosen,
        mixed_precision=bf16,
        evaluate=lambda: {"validation_mrr": round(reciprocal(model, tokenizer, source.validation), 4)},
        evaluate_every=max(1, steps // 6),
        checkpoint=out / runs.TRAINING,
        checkpoint_every=CHECKPOINT_EVERY,
        shard=shard,
    )
    if history.interrupted:
        say(f"Stopped at step {history.steps:,} of {steps:,}. The same command goes on from there.")
        return None

    encoder.config = origin.encoder.config  # trained; nothing is dropped now
    model = checkpoints.rounded(model)
    corpus = dict(name=source.name, about=source.about, pairs=source.kinds, fingerprint=source.fingerprint)
    corpus |= source.further | {"train_hashes": source.train_hashes}
    told = {key: value for key, value in options.items() if key not in ("minutes", "columns", "separator")}

    def finish() -> dict:
        after = {
            "mrr": round(reciprocal(model, tokenizer, source.test), 4),
            "bm25_mrr": round(lexical(source.test, **PLAIN), 4),
            "tuned_bm25_mrr": round(lexical(source.test), 4),
            "sample_mrr": round(reciprocal(model, tokenizer, source.test[:SAMPLE]), 4),
            "sample_pairs": min(SAMPLE, len(source.test)),
        }
        return runs.finish(out, model, tokenizer, corpus, told, history, figures | after)

    card = on_first(finish)
    figures = card["held_out"]
    say(
        f"Test MRR {figures['mrr_before']:.3f} -> {figures['mrr']:.3f} among {figures['pairs']} texts. "
        f"BM25 {figures['bm25_mrr']:.3f}, tuned {figures['tuned_bm25_mrr']:.3f}. Wrote {out}."
    )
    return card


def reciprocal(model: SentenceEncoder, tokenizer: Tokenizer, pairs: Sequence[Pair]) -> float:
    """Return the mean reciprocal rank of each pair's second text among all second texts, by cosine."""
    queries, texts = (embed(list(side), (model, tokenizer), long="windows") for side in zip(*pairs, strict=True))
    return mrr(queries @ texts.T)


def lexical(pairs: Sequence[Pair], **options: bool | float) -> float:
    """Return the same by BM25, with its options; 0.0 where the texts hold no word that it could compare."""
    queries, texts = zip(*pairs, strict=True)
    try:
        return mrr(Bm25(texts, **options).scores(queries))
    except ValueError:
        return 0.0
