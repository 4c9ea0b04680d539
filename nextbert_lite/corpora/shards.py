"""The texts of a corpus that is larger than memory, a small span at a time: of files, or of a public data set.

`streams.StreamBatches` makes batches of them. Its worker processes import this module, so it does without torch.
"""

from __future__ import annotations

import glob
import json
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from tokenizers import Tokenizer as Backend
from tqdm import tqdm

from nextbert_lite.files import cache_dir, decoded, write_text

SPAN = 1 << 20  # bytes of a file that are read and tokenized at once
LONGEST = 32 << 20  # bytes; a longer text is refused, for it has to fit into memory
ROWS = 20_000  # of a Parquet file at once, or fewer: 4 MB
SPANS = 16  # of a window: the texts that are shuffled together
TEXT, JSON, PARQUET = (".txt",), (".jsonl", ".ndjson", ".json"), (".parquet",)
PACKED = (".gz", ".zst", ".bz2", ".xz", ".zip")
HUB = "hub:"  # before a public data set's name: hub:owner/name or hub:owner/name:configuration
FEW = 20_000  # texts; of fewer, two in ten are held out, else two in a hundred
SAMPLED = 64  # spans, from all over the files, of which some texts teach the tokenizer
PER_SHARD = 4_000_000  # characters that are read of a public data set's shard for the same
PARTS = 64  # temporary files, each with the hashes of a part of all texts
NEEDED = "{} needs the package `{}`: pip install 'nextbert-lite[stream]'."


def text_files(folder: str | Path, endings: tuple[str, ...] = TEXT) -> list[Path]:
    """Return all files with these endings, in any case, in a folder and those below it, also behind a link to a folder.

    OSError for a folder that may not be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    found, seen = [], {os.path.realpath(folder)}  # a link may lead to a folder above it
    for place, below, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = {name: os.path.realpath(os.path.join(place, name)) for name in below}
        below[:] = [name for name in below if real[name] not in seen]
        seen |= set(real.values())
        found += [Path(place, name) for name in names]
    return sorted(file for file in found if file.suffix.lower() in endings)


def is_stream(corpus: str) -> bool:
    """Return whether a corpus can only be streamed: a data set's name, a pattern, JSONL or Parquet."""
    if Path(corpus).is_dir():
        return not text_files(corpus) and bool(text_files(corpus, JSON[:2] + PARQUET))
    if Path(corpus).exists():
        return Path(corpus).suffix.lower() in JSON[:2] + PARQUET
    return corpus.startswith(HUB) or glob.has_magic(corpus)


def hashes_of(texts: Iterable[str]) -> np.ndarray:
    """Return `text_hash` of each text as a number, (n,) of uint64."""
    return np.array([int.from_bytes(sha256(text.encode()).digest()[:8]) for text in texts], np.uint64)


def kept(texts: Iterable[str]) -> list[str]:
    """Return what is left of texts as a corpus gives them: stripped, no blank one, and only whole characters."""
    whole = (text.encode("utf-8", "replace").decode().strip() for text in texts)
    return [text for text in whole if text]


def spread(n: int, most: int) -> list[int]:
    """Return numbers below n at equal distances, at most so many."""
    return np.unique(np.linspace(0, n - 1, most).astype(int)).tolist()


def permuted(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return the numbers below n in an epoch's order."""
    return np.random.default_rng([seed, epoch]).permutation(n)


class Files:
    """The texts of text, JSONL and Parquet files; nothing but their spans is kept in memory.

    corpus: a file, a folder, or a pattern such as "news/**/*.jsonl". column: the field of JSON or the column of Parquet
    that has the text. lines: each line of a text file is a text, not each paragraph.
    `spans`: (n, 4) of the file's number, its row group (Parquet), start and stop, in bytes or rows.
    Raises OSError, with the file, for what cannot be read: an empty file, a missing column, another encoding.
    """

    def __init__(self, corpus: str | Path, column: str = "text", lines: bool = False):
        path, every = str(corpus), TEXT + JSON[:2] + PARQUET
        if os.path.isdir(path):
            found = text_files(path, every)
        else:
            found = [Path(path)] if os.path.exists(path) else map(Path, sorted(glob.glob(path, recursive=True)))
        self.paths, self.column, self.lines = [file for file in found if file.is_file()], column, lines
        if not self.paths:
            raise FileNotFoundError(f"there is no file {path!r}; in a folder these are read: {', '.join(every)}.")
        spans = [(number, *span) for number, file in enumerate(self.paths) for span in self._spans_of(file)]
        self.spans = np.array(spans, np.int64).reshape(-1, 4)
        self._check_filled(np.ones(len(spans)))
        self.samples, self.modulus = len(spread(len(spans), SAMPLED)), None  # the latter, and two more, by `scan`

    def _check_filled(self, counts: Sequence[int]) -> None:
        """Raise OSError for a file that has none of what was counted in each span."""
        empty = np.flatnonzero(np.bincount(self.spans[:, 0], counts, len(self.paths)) == 0)
        if len(empty):
            raise OSError(f"{self.paths[empty[0]]} is empty: a download that failed? Delete it or leave it out.")

    def _spans_of(self, file: Path) -> Iterator[tuple[int, int, int]]:
        """Give (row group, start, stop) of each span of a file."""
        size, ending = file.stat().st_size, file.suffix.lower()
        if ending in PACKED:
            raise OSError(f"{file} is compressed: unpack it, or write its texts as Parquet.")
        if ending in PARQUET:
            yield from self._row_spans(file)
            return
        start, by_line = 0, self.lines or ending in JSON
        with open(file, "rb") as opened:
            while start < size:
                opened.seek(start + SPAN - 1)
                line = opened.readline(LONGEST)  # the rest of one
                while not by_line and line and (line := opened.readline(LONGEST)).strip():
                    line = line if opened.tell() < start + LONGEST else b""  # on to the next blank one
                stop = min(size, opened.tell())
                if stop - start >= LONGEST:
                    hint = "" if by_line else " Is each line a text of its own? Say --lines."
                    raise OSError(f"{file} has a text of more than {LONGEST >> 20} MB, from byte {start} on.{hint}")
                yield 0, start, stop
                start = stop

    def _row_spans(self, file: Path) -> Iterator[tuple[int, int, int]]:
        opened = parquet(file)
        names = opened.schema_arrow.names
        if self.column not in names:
            raise OSError(f"{file} has no column {self.column!r}; it has: {', '.join(names)}. Name one with --column.")
        for number in range(opened.num_row_groups):
            group = opened.metadata.row_group(number)
            columns = [group.column(i) for i in range(group.num_columns)]
            size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema == self.column)
            step = min(ROWS, max(1, group.num_rows * 4 * SPAN // max(1, size)))
            for start in range(0, group.num_rows, step):
                yield number, start, min(start + step, group.num_rows)

    def texts(self, number: int) -> list[str]:
        """Return all texts of a span."""
        file, group, start, stop = map(int, self.spans[number])
        path = self.paths[file]
        if path.suffix.lower() in PARQUET:
            return kept(checked(value, str(path), self.column) for value in self._rows(path, group, start, stop))
        with open(path, "rb") as opened:
            opened.seek(start)
            content = opened.read(stop - start)
        try:
            text = decoded(content, path, start=start)
        except ValueError as error:
            raise OSError(str(error)) from None
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        if path.suffix.lower() in JSON:
            return kept(self._field(path, start, line) for line in text.split("\n") if line.strip())
        return kept(re.split(r"\n" if self.lines else r"\n\s*\n", text))

    def _field(self, path: Path, start: int, line: str) -> str:
        """Return the text of a line of JSON; null is none."""
        where = f"{path}, in the {SPAN >> 10} KB from byte {start} on: {line[:60]!r}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise OSError(f"{where} is no JSON; one object a line is expected.") from None
        if not isinstance(row, dict) or self.column not in row:
            names = ", ".join(row) if isinstance(row, dict) else "no names"
            raise OSError(f"{where} has no {self.column!r}; it has: {names}. Name one with --column.")
        return checked(row[self.column], where, self.column)

    def _rows(self, path: Path, group: int, start: int, stop: int) -> Iterator[object]:
        """Give what is in the column, of rows of a row group, a few at a time."""
        first = 0
        try:
            for rows in parquet(path).iter_batches(64, row_groups=[group], columns=[self.column], use_threads=False):
                inside = rows.slice(max(0, start - first), max(0, stop - max(first, start)))
                yield from inside.column(0).to_pylist()
                first += len(rows)
                if first >= stop:
                    return
        except (ValueError, OSError) as error:  # pyarrow's own errors are of these kinds
            raise OSError(f"{path} is damaged: {error}") from None

    def scan(self) -> dict:
        """Read all texts once: count them, find exact repetitions and any fault before training begins.

        What is found is kept in the folder NEXTBERT_CACHE and serves as long as no file changes. Returns texts,
        repeated, and a sha256 of all of them.
        """
        stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in self.paths]
        key = sha256(json.dumps([stats, self.column, self.lines, SPAN]).encode()).hexdigest()[:16]
        self.repeated, about = (cache_dir() / "streams" / f"{key}.{ending}" for ending in ("repeated", "json"))
        if about.is_file() and self.repeated.is_file():
            found = json.loads(about.read_text(encoding="utf-8"))
        else:
            found = self._scan()
            write_text(about, json.dumps(found))
        self.first = np.cumsum([0, *found.pop("counts")])
        self.modulus = 10 if found["texts"] < FEW else 100
        return found

    def _scan(self) -> dict:
        counts, total, digest = [], 0, sha256()
        self.repeated.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            parts = [stack.enter_context(TemporaryFile()) for _ in range(PARTS)]
            for number in tqdm(range(len(self.spans)), "reading", unit="MB", leave=False, disable=None):
                hashes = hashes_of(self.texts(number))
                rows = np.stack([hashes, np.arange(total, total + len(hashes), dtype=np.uint64)], 1)
                part = hashes % np.uint64(PARTS)
                for p in np.unique(part):
                    rows[part == p].tofile(parts[p])
                counts.append(len(hashes))
                total += len(hashes)
                digest.update(hashes.tobytes())
            self._check_filled(counts)
            marks = np.memmap(self.repeated, bool, "w+", shape=max(1, total))
            for file in parts:
                file.seek(0)
                rows = np.fromfile(file, np.uint64).reshape(-1, 2)
                rows = rows[np.argsort(rows[:, 0], kind="stable")]
                marks[rows[1:, 1][rows[1:, 0] == rows[:-1, 0]]] = True  # all but the first of equal ones
        found = dict(texts=total, repeated=int(marks.sum()), sha256=digest.hexdigest(), counts=counts)
        marks.flush()
        return found

    def sampled(self) -> Iterator[list[str]]:
        """Give the texts of a few spans from all over the corpus."""
        for number in spread(len(self.spans), SAMPLED):
            yield self.texts(number)

    def tasks(self, place: list | None, seed: int) -> tuple[list[int], list | None]:
        """Return the spans of the window at a place, and the place after it; a place is (epoch, window)."""
        epoch, window = place or (0, 0)
        order, stop = permuted(len(self.spans), seed, epoch), (window + 1) * SPANS
        return order[window * SPANS : stop].tolist(), [epoch, window + 1] if stop < len(order) else [epoch + 1, 0]

    def training(self, number: int, drop: bool) -> tuple[list[str], None]:
        """Return a span's texts that are not held out; drop: nor repeated."""
        texts = self.texts(number)
        use = hashes_of(texts) % np.uint64(self.modulus) > 1
        if drop:
            marks = np.memmap(self.repeated, bool, "r")
            use &= ~marks[self.first[number] : self.first[number + 1]]
        return [text for text, good in zip(texts, use, strict=True) if good], None


@dataclass
class Cutting:
    """How the texts of a task become rows of token ids: a call that can be sent to a worker process.

    room: words of a row, or None for whole texts, each with its [SEP]. least: words of the shortest row.
    """

    source: Files | PublicSet
    backend: Backend
    special_ids: tuple[int, ...]
    unk_cls_sep: tuple[int, int, int]
    room: int | None
    least: int
    drop: bool

    def __call__(self, task: int | tuple) -> tuple[np.ndarray, np.ndarray, list | None]:
        """Return all rows behind one another, their lengths, and the place after the task if it tells."""
        texts, place = self.source.training(task, self.drop)
        unk, cls, sep = self.unk_cls_sep
        self.backend.encode_special_tokens = True  # "[MASK]" in a text is text
        special, rows, some, size = set(self.special_ids), [], [], 0
        for number, text in enumerate(texts, 1):
            some.append(text)
            size += len(text)
            if size < SPAN // 4 and number < len(texts):
                continue
            for encoding in self.backend.encode_batch_fast(some, add_special_tokens=False):
                words = [unk if i in special else i for i in encoding.ids]
                parts = [words[i : i + self.room] for i in range(0, len(words), self.room)] if self.room else [words]
                rows += [
                    np.array([cls, *part, sep] if self.room else [*part, sep], np.int32)
                    for part in parts
                    if len(part) >= self.least
                ]
            some, size = [], 0
        return np.concatenate([np.zeros(0, np.int32), *rows]), np.array([len(row) for row in rows], np.int64), place


def pool_of(job: Callable, workers: int) -> ProcessPoolExecutor:
    """Return processes that do one job; `submit(run, task)` gives one of them a task."""
    fresh = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
    return ProcessPoolExecutor(workers, mp_context=fresh, initializer=prepare, initargs=(job,))


def prepare(job: Callable) -> None:
    """Remember a worker's job, and leave Ctrl-C to the process that began it."""
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core a worker


def run(task: object) -> object:
    """Do the worker's job for one task."""
    return _job(task)


class PublicSet:
    """The texts of a public data set's training split, read over the network by `datasets` in streaming mode.

    name: "owner/name" or "owner/name:configuration". It is never read as a whole, so repetitions are not counted.
    Raises OSError for a set that cannot be read.
    """

    def __init__(self, name: str, column: str = "text"):
        self.name, self.column, self.modulus = name, column, 100
        self.shards = open_set(name)[0].num_shards
        self.samples, self.window = len(spread(self.shards, 8)), SPANS * SPAN  # characters of a window
        self.open: dict[str, tuple] = {}  # what the next window goes on with

    def scan(self) -> dict:
        """Return what tells this version of the set from others."""
        return dict(data_set=self.name, version=open_set(self.name)[1])

    def sampled(self) -> Iterator[list[str]]:
        """Give the first texts of a few shards."""
        for shard in spread(self.shards, 8):
            found, room = [], PER_SHARD
            for text in self._texts(self._shard(shard)):
                found.append(text)
                room -= len(text)
                if room < 0:
                    break
            yield kept(found)

    def tasks(self, place: list | None, seed: int) -> tuple[list[tuple], None]:
        """Return the one task of a window; a place is (epoch, shard, the library's own state in it).

        Where the window ends, its own reading tells.
        """
        epoch, number, state = place or (0, 0, None)
        return [(epoch, number, state, permuted(self.shards, seed, epoch).tolist())], None

    def training(self, task: tuple, drop: bool) -> tuple[list[str], list]:
        """Return a window's texts that are not held out, and the place after it."""
        epoch, number, state, order = task
        found, size = [], 0
        shard, texts = self.open.pop(json.dumps(task), None) or self._opened(order[number], state)
        while size < self.window and number < len(order):
            text = next(texts, None)
            if text is None:
                number += 1
                shard, texts = self._opened(order[number]) if number < len(order) else (None, None)
            else:
                found.append(text)
                size += len(text)
        place = [epoch + 1, 0, None] if shard is None else [epoch, number, shard.state_dict()]
        self.open = {} if shard is None else {json.dumps([*place, order]): (shard, texts)}
        found = kept(found)
        use = hashes_of(found) % np.uint64(self.modulus) > 1
        return [text for text, good in zip(found, use, strict=True) if good], place

    def _opened(self, number: int, state: dict | None = None) -> tuple:
        """Return a shard and its texts, from a state on."""
        shard = self._shard(number)
        if state is not None:
            shard.load_state_dict(state)
        return shard, self._texts(shard)

    def _shard(self, number: int):
        return open_set(self.name)[0].shard(self.shards, number)

    def _texts(self, shard) -> Iterator[str]:
        for row in reading(self.name, iter(shard)):
            if self.column not in row:
                raise OSError(f"{self.name} has no {self.column!r}; it has: {', '.join(row)}. Name one with --column.")
            yield checked(row[self.column], self.name, self.column)


@lru_cache(1)
def open_set(name: str) -> tuple:
    """Return the training split of a public data set as an IterableDataset, and its version's hash."""
    try:
        import datasets
        import huggingface_hub
    except ImportError:
        raise RuntimeError(NEEDED.format("A public data set", "datasets")) from None
    datasets.logging.set_verbosity_error()
    huggingface_hub.logging.set_verbosity_error()  # what it tries again is told once, when it gives up

    def opened() -> Iterator[tuple]:
        builder = datasets.load_dataset_builder(*name.split(":", 1))
        yield builder.as_streaming_dataset(split="train"), builder.hash

    return next(reading(name, opened()))


def reading(name: str, rows: Iterator) -> Iterator:
    """Give what is read of a public data set; OSError where the library, the network or the set fails."""
    from datasets.exceptions import DatasetsError

    try:
        yield from rows
    except (OSError, ValueError, DatasetsError) as error:
        raise OSError(
            f"the data set {name!r} cannot be read; is there a network, and is its name right? {error!s:.300}"
        ) from None


def parquet(file: Path):
    """Return an opened Parquet file."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise RuntimeError(NEEDED.format(file, "pyarrow")) from None
    try:
        return pyarrow.parquet.ParquetFile(file, buffer_size=SPAN)
    except ValueError as error:  # pyarrow's own errors are of this kind
        raise OSError(f"{file} is damaged, or no Parquet file: {error}") from None


def checked(text: object, where: str, column: str) -> str:
    """Return a text that was read, "" for none; OSError for anything else."""
    if text is not None and not isinstance(text, str):
        raise OSError(f"{where}: its {column!r} is {type(text).__name__}, no text. Name another with --column.")
    return text or ""
