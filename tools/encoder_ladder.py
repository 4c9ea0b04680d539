"""What makes a better sentence encoder at equal hours: data/results/12_ladder.csv.

    python tools/encoder_ladder.py [--minutes 10] [--only NAME …]

Each run starts from docs-small (or from nothing), trains on the documentation without the names of entries for so many
minutes of processor time on one thread, and differs from the first in one thing. The MRR is that of summaries among
bodies: the validation split's, and the first 500 of the test split (lesson 12 draws its 500). Differences are paired
with the first run, text by text, with the 95 % interval of a bootstrap. Above the runs: BM25 as it is tuned, and the
shipped encoder, which has had about ten times as many steps and the names too. The last run has a teacher, MiniLM (the
extra minilm), whose vectors are computed before and not counted.
"""

import argparse
import dataclasses
import os
import sys
import time

os.environ.setdefault("TQDM_DISABLE", "1")

import torch
import torch.nn.functional as F
from results import write

from nextbert_lite import Bm25, Encoder, EncoderConfig, SentenceEncoder, embed, fit, load_docs, minilm_folder
from nextbert_lite.core.contrastive import info_nce_loss
from nextbert_lite.core.encoder import PRESETS
from nextbert_lite.course.pairs import CHUNK, docs_pairs
from nextbert_lite.training.batches import pad, seeded
from nextbert_lite.use import checkpoints
from nextbert_lite.use.finetuning import with_dropout
from nextbert_lite.use.search import paired_bootstrap, reciprocal_ranks

RUNS = {
    "as it is": {},
    "without further packages": {"more": False},
    "batches of 480": {"batch": 480, "cache": True},
    "temperature 0.02": {"temperature": 0.02},
    "hard negatives": {"hard": True},
    "names, last fifth": {"names": True},
    "embeddings in the mean": {"pooling": "first-last"},
    "no masked model before": {"start": "nothing"},
    "width 288, no masked model before": {"start": "wide"},
    "inputs of 256 tokens": {"max_len": 256},
    "taught by MiniLM": {"taught": True},
}
SHIPPED = "docs-contrastive"
TRIAL = 4  # steps that are timed to choose how many fit
SHARP = 0.8  # a negative that BM25 scores above this share of the right body may be right as well: left out


def texts_of(batches, tokenizer):
    """Return all summaries and all bodies of the batches of "docs" as texts."""
    return ([tokenizer.decode(ids) for ids in side] for side in zip(*batches.pairs, strict=True))


def anchors_of(batch):
    """Return each anchor of a batch as `closed` made it."""
    return [tuple(ids[mask].tolist()) for ids, mask in zip(batch["ids"], batch["mask"], strict=True)]


class Hard:
    """The batches of "docs" with one hard negative for each summary: a body that BM25 puts high and that is wrong."""

    def __init__(self, batches, tokenizer):
        self.batches, self.pad_id = batches, tokenizer.pad_id
        summaries, bodies = texts_of(batches, tokenizer)
        self.negative = {}
        bm25 = Bm25(bodies)
        for start in range(0, len(summaries), 512):
            scores = torch.as_tensor(bm25.scores(summaries[start : start + 512]))
            rows = torch.arange(len(scores))
            right = scores[rows, rows + start].clone()
            scores[scores > SHARP * right[:, None]] = -1.0
            for row, best in zip(rows.tolist(), scores.topk(5).indices.tolist(), strict=True):
                self.negative[batches.closed(batches.pairs[row + start][0])] = best

    def __call__(self, step):
        batch, generator = self.batches(step), seeded(self.batches.seed, step, 1)
        found = []
        for anchor in anchors_of(batch):
            choices = self.negative.get(anchor)
            if choices is not None:
                body = choices[int(torch.randint(len(choices), (1,), generator=generator))]
                found.append(self.batches.closed(self.batches.pairs[body][1]))
        negative_ids, negative_mask = pad(found, self.pad_id)
        return batch | {"negative_ids": negative_ids, "negative_mask": negative_mask}


class Named:
    """The batches of "docs", but in the last fifth of the steps a tenth of the pairs are a name and what it names."""

    def __init__(self, batches, docs, steps):
        self.batches, self.steps = batches, steps
        named = [(d.name.replace(".", " ").replace("_", " "), d.text) for d in docs.train]
        self.named = list(zip(*(batches.words(side) for side in zip(*named, strict=True)), strict=True))
        self.pairs = batches.pairs

    def __call__(self, step):
        self.batches.pairs = self.pairs
        if step >= 0.8 * self.steps:
            n = len(self.pairs) // 9
            rows = torch.randperm(len(self.named), generator=seeded(self.batches.seed, step, 2))[:n].tolist()
            self.batches.pairs = [*self.pairs, *(self.named[row] for row in rows)]
        return self.batches(step)


class Taught:
    """The batches of "docs", with a teacher's cosines between their summaries and bodies; of words cut out, none."""

    def __init__(self, batches, tokenizer):
        self.batches = batches
        self.number = {batches.closed(summary): row for row, (summary, _) in enumerate(batches.pairs)}
        sides = texts_of(batches, tokenizer)
        self.summaries, self.bodies = (embed(side, minilm_folder(), long="cut") for side in sides)

    def __call__(self, step):
        batch = self.batches(step)
        numbers = [self.number.get(anchor) for anchor in anchors_of(batch)]
        rows = [row for row, number in enumerate(numbers) if number is not None]
        found = [numbers[row] for row in rows]
        return batch | {"rows": torch.tensor(rows), "cosines": self.summaries[found] @ self.bodies[found].T}


class Student(SentenceEncoder):
    """A sentence encoder that learns the right answers and how sure its teacher is of each other one."""

    def loss(self, ids, mask, positive_ids, positive_mask, same, rows, cosines):
        anchors, positives = self.encode(ids, mask), self.encode(positive_ids, positive_mask)
        right = info_nce_loss(anchors, positives, self.temperature, self.symmetric, same=same)
        scores = F.normalize(anchors[rows], dim=-1) @ F.normalize(positives[rows], dim=-1).T / self.temperature
        both = ((scores, cosines / self.temperature), (scores.T, cosines.T / self.temperature))
        return right + sum(F.cross_entropy(ours, theirs.softmax(-1)) for ours, theirs in both) / 2


def lengthened(encoder, max_len):
    """Return the encoder with more positions: those that it has, over again."""
    found = Encoder(dataclasses.replace(encoder.config, max_len=max_len))
    weights = encoder.state_dict()
    (name,) = (n for n, p in found.named_parameters() if p.shape != weights[n].shape)
    times = -(-max_len // encoder.config.max_len)
    found.load_state_dict(weights | {name: weights[name].repeat(times, 1)[:max_len]})
    return found


def starting(kind):
    """Return an encoder to begin with, with dropout 0.1, and the tokenizer of docs-small."""
    origin, tokenizer = checkpoints.load("docs-small")
    torch.manual_seed(0)
    if kind == "docs-small":
        return with_dropout(origin.encoder, 0.1), tokenizer
    shape = PRESETS["small"] | ({"width": 288, "heads": 6, "ffn_width": 1152} if kind == "wide" else {})
    return Encoder(EncoderConfig(vocab_size=tokenizer.vocab_size, dropout=0.1, **shape)), tokenizer


def trained(docs, further, minutes, *, more=True, batch=160, cache=False, temperature=0.05, hard=False, names=False,
            pooling="mean", start="docs-small", max_len=128, taught=False):  # fmt: skip
    """Return the encoder, its tokenizer, the steps it took and their seconds of processor time."""
    encoder, tokenizer = starting(start)
    if max_len != encoder.config.max_len:
        encoder = lengthened(encoder, max_len)
    source = docs_pairs(docs, further if more else dataclasses.replace(further, train=()), tokenizer)
    batches = source.batches(batch, max_len, 0)
    training = Hard(batches, tokenizer) if hard else Taught(batches, tokenizer) if taught else batches
    kind = Student if taught else SentenceEncoder
    options = dict(pooling=pooling, temperature=temperature, symmetric=True, chunk=CHUNK, cache=cache)
    trial = kind(with_dropout(encoder, 0.1), **options)
    began = time.process_time()
    fit(trial, training, TRIAL, lr=1e-5, warmup=0, mixed_precision=True)
    steps = int(60 * minutes * TRIAL / (time.process_time() - began))
    model = kind(encoder, **options)
    began = time.process_time()
    batches_of = Named(training, docs, steps) if names else training
    fit(model, batches_of, steps, lr=6e-4, warmup=min(50, steps // 10), seed=0, mixed_precision=True)
    return model.eval(), tokenizer, steps, time.process_time() - began


def ranks(pairs, scores):
    """Return each question's reciprocal rank of its own text."""
    return reciprocal_ranks(scores, torch.arange(len(pairs)))


def by_vectors(parts, sides):
    """Return an encoder's reciprocal ranks in each pool."""
    vectors = {pool: [embed(side, parts, long="windows") for side in two] for pool, two in sides.items()}
    return {pool: ranks(a, a @ b.T) for pool, (a, b) in vectors.items()}


def mrr_of(found):
    """Return the columns of the pools' MRR."""
    return {f"mrr_{pool}": values.mean().item() for pool, values in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    docs, further = load_docs(), load_docs(more=True)
    pools = {"validation": docs.pairs("validation"), "test": docs.pairs("test")[:500]}
    sides = {pool: [list(side) for side in zip(*pairs, strict=True)] for pool, pairs in pools.items()}
    first, rows = None, []
    found_by = {
        "BM25, tuned": {pool: ranks(asked, Bm25(texts).scores(asked)) for pool, (asked, texts) in sides.items()}
    }
    found_by[SHIPPED] = by_vectors(checkpoints.load(SHIPPED), sides)
    for name, found in found_by.items():
        rows.append({"run": name, "steps": 0, "seconds": 0} | mrr_of(found))
        print(rows[-1], flush=True)
    for name in dict.fromkeys(["as it is", *arguments.only]):
        model, tokenizer, steps, seconds = trained(docs, further, arguments.minutes, **RUNS[name])
        found = by_vectors((model, tokenizer), sides)
        row = {"run": name, "steps": steps, "seconds": round(seconds)} | mrr_of(found)
        first = first or found
        for pool in pools:
            row |= dict(
                zip(
                    (f"gain_{pool}", f"low_{pool}", f"high_{pool}"),
                    paired_bootstrap(found[pool], first[pool]),
                    strict=True,
                )
            )
        rows.append(row)
        print(row, flush=True)
        command = f"python tools/encoder_ladder.py --minutes {arguments.minutes:g}"
        write("12_ladder", [dict.fromkeys(row) | one for one in rows], command)  # after each run: they take long


if __name__ == "__main__":
    sys.exit(main())
