"""`nextbert-lite pretrain`: from a corpus to a checkpoint with its card. Lesson 06 shows what happens inside."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import torch

from nextbert_lite.core.either import encoder_of
from nextbert_lite.core.encoder import PRESETS, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.core.modern import MODERN_PRESETS, ModernConfig
from nextbert_lite.corpora import streams
from nextbert_lite.corpora.bayes import compare
from nextbert_lite.corpora.harvest import SPLITS
from nextbert_lite.corpora.python_docs import load_docs, text_hash
from nextbert_lite.corpora.shards import HUB, is_stream, text_files
from nextbert_lite.corpora.toy_world import ToyWorld
from nextbert_lite.course import runs
from nextbert_lite.course.skills import skills
from nextbert_lite.files import file_hash, read_text, say
from nextbert_lite.training.batches import LEAST, MLMBatches, fresh_batches, pieces, pieces_of_each
from nextbert_lite.training.device import pick_device
from nextbert_lite.training.distributed import check_shares, first_rank, join, on_each, on_first, place
from nextbert_lite.training.loop import MakeBatch, fit, held_out_loss, steps_in
from nextbert_lite.training.tokenizer import SPECIALS, Tokenizer, train_bpe
from nextbert_lite.use import checkpoints
from nextbert_lite.validate import check_count

HELD_OUT_RATE, HELD_OUT_SEED = 0.15, 1_000_003
SAMPLE = 8  # batches of the quick figure that a test computes again
LEARNING_RATES = {"tiny": 3e-3, "small": 1e-3, "base": 3e-4}
CONFIGS = dict.fromkeys(PRESETS, EncoderConfig) | dict.fromkeys(MODERN_PRESETS, ModernConfig)


@dataclass
class Corpus:
    """What is trained on and what is held out, as batches. Steps beyond `test_batches` repeat."""

    name: str
    tokenizer: Tokenizer
    fingerprint: dict
    training: Callable[[int, float, int], MakeBatch]  # (batch size, masking rate, seed) -> batches
    validation: MakeBatch  # for the curve
    test: MakeBatch  # for the card's figures, read once
    test_batches: int
    about: str  # one line for people
    train_hashes: list[str] = field(default_factory=list)
    short: int = 0  # texts that are too short to learn from
    pieces: int = 0  # what the others are cut into


def toy_corpus(max_len: int) -> Corpus:
    """Return the toy world: fresh sentences at every step, and 10,000 of another seed as test."""
    world = ToyWorld()
    longest = int(world.lengths.max()) + 2
    if max_len < longest:
        raise ValueError(f"max_len is {max_len}; the toy world's sentences have up to {longest} tokens.")
    tokenizer = world.tokenizer()
    return Corpus(
        name="toy",
        tokenizer=tokenizer,
        fingerprint={"sha256": file_hash(world.path)},
        training=lambda batch, rate, seed: fresh_batches(world.sample_ids, tokenizer, batch, rate, seed),
        validation=fresh_batches(world.sample_ids, tokenizer, 250, HELD_OUT_RATE, HELD_OUT_SEED + 1),
        test=fresh_batches(world.sample_ids, tokenizer, 250, HELD_OUT_RATE, HELD_OUT_SEED),
        test_batches=40,
        about=f"the toy world: {len(world.frames)} frames, {len(world.words)} words, a new sentence every time",
    )


def docs_corpus(max_len: int, vocab_size: int, tokenizer: Tokenizer | None = None) -> Corpus:
    """Return the documentation of the installed packages, in its own splits."""
    docs = load_docs()
    tokenizer = tokenizer or train_bpe((d.text for d in docs.train), vocab_size)
    corpus = text_corpus(*([d.text for d in docs.split(name)] for name in SPLITS), max_len, tokenizer)
    corpus.name, corpus.fingerprint, corpus.train_hashes = "docs", docs.fingerprint, docs.hashes("train")
    return corpus


def file_corpus(
    path: Path, max_len: int, vocab_size: int, tokenizer: Tokenizer | None = None, lines: bool = False
) -> Corpus:
    """Return the paragraphs of a text file, or of all .txt files of a folder; by a hash two in ten are held out.

    lines: each line is a text. Raises OSError with the name of a file or folder that may not be read.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"there is no corpus {str(path)!r}: give toy, docs, a text file, or a folder of .txt files."
        )
    files = text_files(path) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} has no .txt file.")
    parting = r"\n" if lines else r"\n\s*\n"
    read = [text.strip() for file in files for text in re.split(parting, read_text(file)) if text.strip()]
    hashes = {text: text_hash(text) for text in read}  # in order; a repeated text must not be in two parts
    validation, test = ([text for text in hashes if int(hashes[text], 16) % 10 == k] for k in (0, 1))
    train = [text for text in hashes if int(hashes[text], 16) % 10 > 1]
    if len(train) < 20 or not validation or not test:
        found = "lines" if lines else "paragraphs (blank lines part them)"
        hint = "" if lines else " If each line is a text of its own, say --lines (in Python lines=True)."
        raise ValueError(f"{path} has {len(hashes)} different {found}; a corpus needs some hundreds.{hint}")
    corpus = text_corpus(train, validation, test, max_len, tokenizer or train_bpe(train, vocab_size))
    corpus.name, corpus.train_hashes = "file", [hashes[text] for text in train]
    corpus.fingerprint = {"sha256": sha256("".join(sorted(hashes.values())).encode()).hexdigest()}
    corpus.about = (
        f"read {len(read):,} {'lines' if lines else 'paragraphs'} in {len(files):,} file{'s'[: len(files) > 1]}; left "
        f"out {len(read) - len(hashes):,} repeated and {corpus.short:,} shorter than {LEAST} tokens; cut the others "
        f"into {corpus.pieces:,} pieces: {corpus.about}"
    )
    return corpus


def stream_corpus(
    corpus: str,
    max_len: int,
    vocab_size: int,
    tokenizer: Tokenizer | None = None,
    lines: bool = False,
    column: str | None = None,
    pack: bool = False,
    drop_repeated: bool = False,
    workers: int = 0,
) -> Corpus:
    """Return text, JSONL and Parquet files, or a public data set, as a corpus that never lies in memory as a whole.

    Started by torchrun, the ranks share the reading and the tokenizing.
    Raises OSError for what cannot be read, RuntimeError, which says what to install, for a missing library.
    """
    source = streams.open_source(corpus, column or "text", lines)
    fingerprint = source.scan() | {"modulus": source.modulus}  # 2 in so many texts are held out
    learn, *held = streams.sample(source)
    if not all([learn, *held]):
        raise ValueError(
            f"{corpus} has too few different texts to hold some out: a corpus needs some hundreds. If each line of a "
            "text file is a text of its own, say --lines (in Python lines=True)."
        )
    tokenizer = tokenizer or train_bpe(learn, vocab_size)
    parts = [pieces(texts, tokenizer, max_len) for texts in held]
    if not all(parts):
        raise ValueError(f"the held-out texts are too short: pieces of at least {LEAST} tokens are needed.")
    validation, test = (MLMBatches(part, tokenizer, 64, HELD_OUT_RATE, HELD_OUT_SEED, copies=1) for part in parts)
    if "texts" in fingerprint:
        about = f"{fingerprint['texts']:,} texts in {len(source.paths):,} files, {fingerprint['repeated']:,} repeated"
        about += " and left out" if drop_repeated and fingerprint["repeated"] else ""
    else:
        about = f"the data set {source.name} in {source.shards:,} parts"
    rank, ranks = place()
    options = dict(pack=pack, drop=drop_repeated, workers=workers, rank=rank, ranks=ranks, on_each=on_each)
    return Corpus(
        name="stream",
        tokenizer=tokenizer,
        fingerprint=fingerprint,
        training=lambda batch, rate, seed: streams.StreamBatches(
            source, tokenizer, max_len, batch, rate, seed, **options
        ),
        validation=validation,
        test=test,
        test_batches=len(test),
        about=f"{about}; 2 in {source.modulus} held out by hash, {len(held[1]):,} of them read as test",
    )


def text_corpus(train: list[str], validation: list[str], test: list[str], max_len: int, tokenizer: Tokenizer) -> Corpus:
    """Return texts, cut into pieces, as a corpus."""
    each = [pieces_of_each(texts, tokenizer, max_len) for texts in (train, validation, test)]
    parts = [[piece for found in texts for piece in found] for texts in each]
    if not all(parts):
        raise ValueError(f"the texts are too short to train on: pieces of at least {LEAST} tokens are needed.")
    validation_batches, test_batches = (
        MLMBatches(part, tokenizer, 64, HELD_OUT_RATE, HELD_OUT_SEED, copies=1) for part in parts[1:]
    )
    used = [sum(map(bool, texts)) for texts in each]
    return Corpus(
        name="",
        tokenizer=tokenizer,
        fingerprint={},
        training=lambda batch, rate, seed: MLMBatches(parts[0], tokenizer, batch, rate, seed),
        validation=validation_batches,
        test=test_batches,
        test_batches=len(test_batches),
        about=f"{used[0]:,} texts, {sum(map(len, parts[0])):,} tokens, and {used[2]:,} texts as test",
        short=sum(map(len, each)) - sum(used),
        pieces=sum(map(len, parts)),
    )


def pretrain(
    corpus: str,
    out: str | Path,
    *,
    lines: bool = False,
    preset: str = "tiny",
    changes: dict | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    batch: int = 32,
    lr: float | None = None,
    rate: float = 0.3,
    vocab_size: int = 4096,
    seed: int = 0,
    device: str | None = None,
    bf16: bool | None = None,
    replace: bool = False,
    checkpoint_every: int = 500,
    accumulate: int = 1,
    shard: bool = False,
    stream: bool = False,
    column: str | None = None,
    pack: bool = False,
    drop_repeated: bool = False,
    workers: int = 0,
) -> dict | None:
    """Pretrain a masked language model and write it into the folder `out`; return its card, or None if interrupted.

    corpus: "toy", "docs", or the path of a text file or of a folder of .txt files; lines: each line of them is a text,
    not each paragraph. Give minutes, which are turned into steps by a trial, or steps. The same call goes on from an
    unfinished run, bit for bit.
    preset: one of `CONFIGS`. changes: fields of its EncoderConfig or ModernConfig that differ. bf16: see `fit`'s
    mixed_precision; accumulate, shard: see `fit`. On several ranks, started by torchrun, each must be able to read the
    corpus and `out`; the first one writes.
    stream: read the files while training, a part at a time, and never all into memory; so are read, without a word,
    JSONL and Parquet files (their texts: the `column`, "text" if it is None), a pattern such as "news/*.jsonl", and
    the public data set "hub:owner/name". pack, drop_repeated, workers: see `streams.StreamBatches`; workers other than
    0 need a script that begins under `if __name__ == "__main__"`.
    Raises FileExistsError for a folder that has a model already (unless `replace`) or other files; ValueError for wrong
    arguments, and for an unfinished run with others; OSError for what cannot be read or written.
    """
    out = Path(out)
    join()
    if preset not in CONFIGS:
        raise ValueError(f"there is no preset {preset!r}; choose one of {', '.join(CONFIGS)}.")
    fields = CONFIGS[preset]
    runs.check_length(minutes, steps)
    changes = dict(changes or {})
    unknown = [name for name in changes if name == "vocab_size" or name not in fields.__dataclass_fields__]
    if unknown:
        raise ValueError(f"{unknown[0]} is no field of {fields.__name__} that can be set here.")
    config = fields.preset(preset, len(SPECIALS) + 1, **changes)  # refuses impossible ones before any work
    stream = stream or (corpus not in ("toy", "docs") and is_stream(str(corpus)))
    streaming = dict(stream=stream, column=column, pack=pack, drop_repeated=drop_repeated)
    streaming = {name: value or None for name, value in streaming.items()}  # other runs have none
    if any(streaming.values()) and (not stream or corpus in ("toy", "docs")):
        raise ValueError("stream, column, pack and drop_repeated are for files that are streamed: see the help.")
    if lines and (corpus in ("toy", "docs") or str(corpus).startswith(HUB)):
        raise ValueError(f"lines is for text files of your own; the corpus {corpus} has none. Leave it out.")
    max_len = config.max_len
    if max_len < LEAST + 2:
        raise ValueError(f"max_len is {max_len}; it must be at least {LEAST + 2}.")
    lr = LEARNING_RATES[preset.removeprefix("modern-")] if lr is None else lr
    options = dict(corpus=str(corpus), preset=preset, changes=changes, minutes=minutes, batch=batch, lr=lr, rate=rate)
    options |= dict(lines=lines or None)  # older runs have none
    options |= dict(vocab_size=None if corpus == "toy" else vocab_size, seed=seed, bf16=bf16)
    chosen = pick_device(device)
    check_shares(batch, check_count("accumulate", accumulate))
    known = options | streaming | ({} if steps is None else {"steps": steps})
    run = on_first(lambda: runs.unfinished(out, known, replace))
    options |= {name: value for name, value in streaming.items() if value}
    tokenizer = Tokenizer.from_json(run["tokenizer"]) if run else None

    say(f"Reading the corpus {corpus} …", flush=True)
    if corpus == "toy":
        source = toy_corpus(max_len)
    elif corpus == "docs":
        source = docs_corpus(max_len, vocab_size, tokenizer)
    elif stream:
        source = stream_corpus(str(corpus), max_len, vocab_size, tokenizer, lines, column, pack, drop_repeated, workers)
    else:
        source = file_corpus(Path(corpus), max_len, vocab_size, tokenizer, lines)
    say(f"  {source.about}; {source.tokenizer.vocab_size:,} different tokens")
    if run:
        runs.check_corpus(out, run, source.fingerprint)

    torch.manual_seed(seed)
    config = dataclasses.replace(config, vocab_size=source.tokenizer.vocab_size)
    model = MaskedLanguageModel(encoder_of(config)).to(chosen)
    batches = source.training(batch, rate, seed)
    if run:
        steps = run["steps"]
        say(f"Going on with the unfinished run in {out}.")
    else:
        batches(0)  # refuses an impossible rate or batch size before anything is written
        timed = None if steps else steps_in(model, batches, 60 * minutes, accumulate=accumulate, shard=shard)
        steps = on_first(lambda: steps or timed)
        plan = dict(options=options, steps=steps, fingerprint=source.fingerprint, tokenizer=source.tokenizer.to_json())
        on_first(lambda: runs.begin(out, plan))
    if stream:
        batches.keep(out / runs.PLACES, write=first_rank())
        batches.waited = 0.0  # the first part had to come
    start = time.perf_counter()
    parameters = sum(p.numel() for p in model.parameters())
    say(f"Pretraining {parameters:,} parameters on {chosen}, {steps:,} steps. Ctrl-C stops; the same command goes on.")

    history = fit(
        model,
        batches,
        steps,
        lr=lr,
        warmup=min(200, max(1, steps // 10)),
        seed=seed,
        device=chosen,
        mixed_precision=bf16,
        evaluate=lambda: {"validation_loss": round(held_out_loss(model, source.validation, SAMPLE), 4)},
        evaluate_every=max(1, steps // 20),
        checkpoint=out / runs.TRAINING,
        checkpoint_every=checkpoint_every,
        accumulate=accumulate,
        shard=shard,
    )
    if stream:
        batches.close()
        say(f"The model waited for data in {batches.waited / (time.perf_counter() - start):.1%} of the time.")
    if history.interrupted:
        say(f"Stopped at step {history.steps:,} of {steps:,}. The same command goes on from there.")
        return None

    corpus = dict(name=source.name, about=source.about, fingerprint=source.fingerprint)
    corpus["train_hashes"] = source.train_hashes
    told = {key: value for key, value in options.items() if key not in ("corpus", "lines", "minutes")}

    def finish() -> dict:
        figures = held_out(checkpoints.rounded(model), source)
        return runs.finish(out, model, source.tokenizer, corpus, told, history, figures)

    card = on_first(finish)
    loss = card["held_out"]["loss"]
    say(f"Held-out loss {loss:.3f} nats per selected token. Wrote {out / checkpoints.CARD} and its model.")
    return card


def held_out(model: MaskedLanguageModel, source: Corpus) -> dict:
    """Return the figures of a card: MLM loss in nats per selected token; for the toy world also the excess.

    sample_loss is the loss of the first batches alone, quick to compute again.
    """
    result = {
        "loss": round(held_out_loss(model, source.test, source.test_batches), 4),
        "batches": source.test_batches,
        "sample_loss": round(held_out_loss(model, source.test, SAMPLE), 4),
        "sample_batches": SAMPLE,
        "masking_rate": HELD_OUT_RATE,
        "ln_V": round(math.log(source.tokenizer.vocab_size), 4),
    }
    if source.name == "toy":
        world = ToyWorld()
        beside = compare(model, world, rate=HELD_OUT_RATE, seed=HELD_OUT_SEED)
        result |= {"gap_to_floor": round(beside.excess, 4), "gap_standard_error": round(beside.standard_error, 4)}
        result["skills"] = skills(model, source.tokenizer, world)
    return result
