"""Batches of a corpus that is larger than memory: tokenized ahead by worker processes, shuffled a window at a time."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nextbert_lite.core.masking import mask_tokens
from nextbert_lite.corpora.shards import HUB, Cutting, Files, PublicSet, hashes_of, pool_of, run
from nextbert_lite.files import json_of, write_text
from nextbert_lite.training.batches import LEAST, length_buckets, pad, seeded
from nextbert_lite.training.tokenizer import Tokenizer
from nextbert_lite.validate import check_count, check_tokenizer

SAMPLE, HELD = 20_000_000, 2_000  # characters for the tokenizer; texts in each of the two held-out parts
WORKERLESS = (
    "a worker process has ended. Was there too little memory? A script of your own has to begin under "
    '`if __name__ == "__main__":`; with workers=0 there is none.'
)
REMEMBERED = 200  # windows whose places are kept: a run goes on from the last of them before its step


def open_source(corpus: str, column: str = "text", lines: bool = False) -> Files | PublicSet:
    """Return what a corpus is read from: files, or for "hub:owner/name" a public data set."""
    name = corpus.removeprefix(HUB)
    return Files(corpus, column, lines) if name == corpus else PublicSet(name, column)


def sample(source: Files | PublicSet) -> tuple[list[str], list[str], list[str]]:
    """Return texts from all over a source: some to learn a tokenizer from, and two held-out parts, each text once.

    A text is held out by its hash: the remainder 0 or 1 of its division by `source.modulus` says in which part.
    """
    learn, held = [], ({}, {})
    if source.modulus is None:
        source.scan()
    for number, texts in enumerate(source.sampled(), 1):
        room = SAMPLE // source.samples
        for text, part in zip(texts, (hashes_of(texts) % np.uint64(source.modulus)).tolist(), strict=True):
            if part < 2:
                if len(held[part]) < HELD * number // source.samples:
                    held[part][text] = None
            elif room > 0:
                learn.append(text)
                room -= len(text)
    return learn, *map(list, held)


class StreamBatches:
    """The batches of masked-language-model training on a stream: call it with a step, get that step's batch.

    A batch is a function of the seed and the step alone. The corpus is read a window at a time: spans
    from all over its files, whose rows are shuffled together. `keep` notes in a file where each window begins, so that
    a run goes on at any step without reading what came before.

    pack: rows are max_len tokens long, filled with texts one after another, each ended by [SEP], which may all look at
    one another (RoBERTa's FULL-SENTENCES, arXiv:1907.11692, section 4.2). Otherwise a row is a piece of one text, and
    rows of like length are padded together.
    drop: leave out exact repetitions. workers: processes that tokenize the next window while this one is trained on.
    rank, ranks, on_each: of several ranks that call for the same steps, each reads and tokenizes its part of a window;
    on_each(act) returns what `act` gives on each of them. All get the same batches, and those of one process.
    `waited`: seconds in which the caller waited for batches.
    """

    def __init__(
        self,
        source: Files | PublicSet,
        tokenizer: Tokenizer,
        max_len: int,
        batch_size: int = 64,
        rate: float = 0.15,
        seed: int = 0,
        *,
        pack: bool = False,
        drop: bool = False,
        workers: int = 0,
        rank: int = 0,
        ranks: int = 1,
        on_each: Callable[[Callable[[], list]], list[list]] = lambda act: [act()],
    ):
        check_tokenizer(tokenizer)
        if source.modulus is None:
            source.scan()
        if drop and isinstance(source, PublicSet):
            raise ValueError("a public data set is not read as a whole, so its repetitions are not known: drop none.")
        room = check_count("max_len", max_len, least=LEAST + 2) - 2
        check_count("rank", rank, least=0), check_count("ranks", ranks, least=rank + 1)
        self.source, self.tokenizer, self.rate, self.pack, self.max_len = source, tokenizer, rate, pack, max_len
        self.batch_size, self.seed, self.rank, self.ranks = check_count("batch_size", batch_size), seed, rank, ranks
        self.on_each, self.path, self.waited, self.first, self.end = on_each, None, 0.0, 0, 0
        self.places = [(0, 0, None)]  # number, first step and place of each window
        special = (tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id)
        room = None if pack else room
        self.job = Cutting(source, tokenizer.backend, tokenizer.special_ids, special, room, LEAST, drop)
        self.ahead, self.pool = (None, []), None
        if check_count("workers", workers, least=0):
            self.pool = pool_of(self.job, 1 if isinstance(source, PublicSet) else workers)
            weakref.finalize(self, self.pool.shutdown, wait=False, cancel_futures=True)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Return the batch of a step: ids, labels and mask, each (B, T)."""
        start = time.perf_counter()
        if not self.first <= check_count("step", step, least=0) < self.end:
            self._go_to(step)
        ids, mask = self._rows(step - self.first)
        corrupted, labels = mask_tokens(ids, self.tokenizer, self.rate, seeded(self.seed, 2, 0, step))
        self.waited += time.perf_counter() - start
        return {"ids": corrupted, "labels": labels, "mask": mask}

    def keep(self, path: str | Path, write: bool = True) -> None:
        """Go on from the windows' places in a file, and note those to come in it, if this process is to write."""
        self.path = Path(path) if write else None
        if Path(path).is_file():
            try:
                self.places = [(n, first, place) for n, first, place in json_of(Path(path).read_text("utf-8"))]
            except (ValueError, TypeError):
                raise ValueError(
                    f"{path} is damaged; delete it, and the corpus is read again from the start."
                ) from None
        elif write and len(self.places) > 1:
            self._write()

    def _rows(self, number: int) -> tuple[Tensor, Tensor]:
        """Return ids and mask (B, T) of a batch of the window."""
        if self.pack:
            ids = torch.from_numpy(self.ids[number * self.batch_size : (number + 1) * self.batch_size]).long()
            ids = torch.cat([torch.full((len(ids), 1), self.tokenizer.cls_id), ids], 1)
            return ids, torch.ones_like(ids, dtype=torch.bool)
        rows = [torch.from_numpy(self.ids[self.ends[i] - self.lengths[i] : self.ends[i]]) for i in self.batches[number]]
        return pad(rows, self.tokenizer.pad_id)

    def _go_to(self, step: int) -> None:
        """Read windows from the last known place before a step on, up to the window that has its batch."""
        number, first, place = [entry for entry in self.places if entry[1] <= step][-1]
        while not self.first <= step < self.end:
            place = self._load(number, first, place)
            number, first = number + 1, self.end
            if first == 0 and place[0]:
                raise ValueError("a whole reading of the corpus gave no batch: its texts are too short, or too few.")
            if number > self.places[-1][0]:
                self.places = [self.places[0], *self.places[1:][-REMEMBERED:], (number, first, place)]
                if self.path is not None:
                    self._write()

    def _write(self) -> None:
        write_text(self.path, json.dumps(self.places))

    def _load(self, number: int, first: int, place: list | None) -> list:
        """Make the batches of a window, let the workers begin with the next one, and return its place."""
        try:
            found, after = self._parts(number, place)
        except BaseException:
            self.close()
            raise
        self.ids, self.lengths = (np.concatenate([part[i] for part in found]) for i in (0, 1))
        generator = seeded(self.seed, 1, 0, number)
        self.ends = self.lengths.cumsum()
        if self.pack:
            order = torch.randperm(len(self.ends), generator=generator).tolist()
            text = [self.ids[self.ends[i] - self.lengths[i] : self.ends[i]] for i in order] or [self.ids]
            rows, width = len(self.ids) // (self.max_len - 1), self.max_len - 1
            self.ids = np.concatenate(text)[: rows * width].reshape(rows, width)
            count = -(-rows // self.batch_size)
        else:
            self.batches = length_buckets(self.lengths.tolist(), self.batch_size, generator)
            count = len(self.batches)
        self.first, self.end = first, first + count
        if self.pool is not None:
            self.ahead = number + 1, self._submit(after)
        return after

    def _parts(self, number: int, place: list | None) -> tuple[list[tuple], list]:
        """Return the ids and lengths of a window's tasks, and the place of the next window."""
        expected, submitted = self.ahead
        mine, after = submitted if expected == number else self._submit(place)
        shares = self.on_each(lambda: [task() for task in mine])
        found = [shares[i % self.ranks][i // self.ranks] for i in range(sum(map(len, shares)))]
        return found, found[-1][2] if after is None else after

    def _submit(self, place: list | None) -> tuple[list[Callable], list | None]:
        """Give the workers this rank's tasks of a window; return what answers, and the place of the next if known."""
        tasks, after = self.source.tasks(place, self.seed)
        mine = tasks[self.rank :: self.ranks]
        if self.pool is None:
            return [partial(self.job, task) for task in mine], after
        return [partial(answer, self.pool.submit(run, task)) for task in mine], after

    def close(self) -> None:
        """Stop the workers; after this no batch can be made."""
        self.ahead = None, []
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)


def answer(future: Future) -> tuple:
    """Return a worker's result; RuntimeError, which says what may be wrong, where the worker has ended."""
    try:
        return future.result()
    except BrokenExecutor:
        raise RuntimeError(WORKERLESS) from None
