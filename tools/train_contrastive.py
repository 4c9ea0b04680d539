"""Train data/checkpoints/docs-contrastive: docs-small becomes a sentence encoder for the documentation.

    python tools/train_contrastive.py --bf16 --out data/checkpoints/docs-contrastive

A batch holds three kinds of pairs, drawn from the training split only: a summary and a part of its body; a few words
cut out of a text and what surrounds them; the words of a name and its text. Ctrl-C stops; the same command goes on.
Validation decides nothing but what the curve in the card shows; the test split is read once, at the end.
"""

import argparse
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from nextbert_lite import checkpoints
from nextbert_lite.batching import seeded
from nextbert_lite.contrastive import SentenceEncoder, pair_batch
from nextbert_lite.corpora.python_docs import load_docs
from nextbert_lite.embedding import embed
from nextbert_lite.encoder import Encoder
from nextbert_lite.search import mrr
from nextbert_lite.training import fit

TRAINING = "training.safetensors"


class DocsPairs:
    """The batches: call it with a step, get that step's pairs. They depend on the seed and the step alone."""

    def __init__(self, docs, tokenizer, batch_size, max_len, cuts, names, seed):
        self.tokenizer, self.max_len, self.seed = tokenizer, max_len, seed
        summaries, bodies = zip(*docs.pairs("train"), strict=True)
        self.pairs = list(zip(self.words(summaries), self.words(bodies), strict=True))
        texts = self.words(d.text for d in docs.train)
        self.names = list(zip(self.words(spoken(d.name) for d in docs.train), texts, strict=True))
        self.long = [text for text in texts if len(text) >= 24]
        self.cuts, self.named = round(batch_size * cuts), round(batch_size * names)
        self.rest = batch_size - self.cuts - self.named

    def words(self, texts):
        """Return the ids of each text without [CLS] and [SEP]."""
        return [ids[1:-1] for ids in self.tokenizer.encode_batch(list(texts))]

    def __call__(self, step):
        """Return ids and mask of both sides, and `same`."""
        generator = seeded(self.seed, step)
        found = []
        for source, n in ((self.pairs, self.rest), (self.names, self.named)):
            for row in torch.randperm(len(source), generator=generator)[:n].tolist():
                found.append((source[row][0], self.part(source[row][1], generator)))
        for row in torch.randperm(len(self.long), generator=generator)[: self.cuts].tolist():
            found.append(self.cut_out(self.long[row], generator))
        return pair_batch([(self.closed(a), self.closed(b)) for a, b in found], self.tokenizer.pad_id)

    def closed(self, words):
        """Return a text's words as one input: cut to the length, between [CLS] and [SEP]."""
        return (self.tokenizer.cls_id, *words[: self.max_len - 2], self.tokenizer.sep_id)

    def part(self, words, generator):
        """Return the beginning of a text, or, every third time, a later part of a long one."""
        room = len(words) - (self.max_len - 2)
        if room <= 0 or torch.rand(1, generator=generator) > 1 / 3:
            return words
        return words[int(torch.randint(room + 1, (1,), generator=generator)) :]

    def cut_out(self, words, generator):
        """Return a span of 6 to 23 tokens and what surrounds it; one time in three the span stays in its place."""
        n = int(torch.randint(6, 24, (1,), generator=generator))
        start = int(torch.randint(len(words) - n + 1, (1,), generator=generator))
        stays = torch.rand(1, generator=generator) < 1 / 3
        around = words if stays else [*words[:start], *words[start + n :]]
        left = max(0, start - int(torch.randint(self.max_len - 2, (1,), generator=generator)))
        return words[start : start + n], around[min(left, max(0, len(around) - self.max_len + 2)) :]


def spoken(name):
    """Return a name as words: torch.nn.Linear becomes "torch nn Linear"."""
    return name.replace(".", " ").replace("_", " ").strip()


def scores(model, tokenizer, pairs):
    """Return the cosines of all summaries (rows) and all bodies (columns)."""
    summaries, bodies = zip(*pairs, strict=True)
    queries, keys = (embed(list(texts), (model, tokenizer), long="windows") for texts in (summaries, bodies))
    return queries @ keys.T


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", default="docs-small", help="the masked model to start from")
    parser.add_argument("--steps", type=int, default=1550)
    parser.add_argument("--batch", type=int, default=160)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--temperature", type=float, default=0.05)
    parser.add_argument("--pooling", default="mean")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--max-len", type=int, default=128, help="tokens of a text in training")
    parser.add_argument("--cuts", type=float, default=0.3, help="share of pairs that are a span and what surrounds it")
    parser.add_argument("--names", type=float, default=0.1, help="share of pairs that are a name and its text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", default=None, help="products in bfloat16 on the CPU too")
    parser.add_argument("--validate-every", type=int, default=250)
    parser.add_argument("--pilot", action="store_true", help="show the curve on validation, write nothing")
    options = parser.parse_args()

    docs = load_docs()
    start, tokenizer = checkpoints.load(options.start)
    torch.manual_seed(options.seed)
    encoder = Encoder(replace(start.encoder.config, dropout=options.dropout))
    encoder.load_state_dict(start.encoder.state_dict())
    model = SentenceEncoder(encoder, options.pooling, options.temperature, symmetric=True, chunk=16)
    batches = DocsPairs(docs, tokenizer, options.batch, options.max_len, options.cuts, options.names, options.seed)

    def evaluate():
        value = round(mrr(scores(model, tokenizer, docs.pairs("validation"))), 4)
        print(f"  validation MRR {value:.3f}", flush=True)
        return {"validation_mrr": value}

    evaluate()
    history = fit(
        model,
        batches,
        options.steps,
        lr=options.lr,
        warmup=min(50, options.steps // 10),
        seed=options.seed,
        mixed_precision=options.bf16,
        evaluate=evaluate,
        evaluate_every=options.validate_every,
        checkpoint=None if options.pilot else options.out / TRAINING,
        checkpoint_every=100,
    )
    if options.pilot:
        print(f"loss of the last 20 steps {sum(history.loss[-20:]) / 20:.3f}, {history.seconds:.0f} s")
        return 0
    if history.interrupted:
        print(f"Stopped at step {history.steps:,} of {options.steps:,}. The same command goes on from there.")
        return 130

    encoder.config = replace(encoder.config, dropout=start.encoder.config.dropout)  # trained; nothing is dropped now
    model = checkpoints.rounded(model)
    test = docs.pairs("test")
    card = {
        "name": options.out.resolve().name,
        "made": date.today().isoformat(),
        "versions": checkpoints.versions(),
        "corpus": {
            "name": "docs",
            "about": f"{len(docs.train):,} texts of documentation",
            "fingerprint": docs.fingerprint,
        },
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": {
            **{k: v for k, v in vars(options).items() if k not in ("out", "pilot", "validate_every")},
            "tokens_seen": sum(history.tokens),
            "seconds": round(history.seconds),
            "device": next(model.parameters()).device.type,
            "curve": history.evaluations,
        },
        "held_out": {
            "mrr": round(mrr(scores(model, tokenizer, test)), 4),
            "pairs": len(test),
            "sample_mrr": round(mrr(scores(model, tokenizer, test[:100])), 4),
            "sample_pairs": 100,
        },
    }
    card["corpus"]["train_hashes"] = docs.hashes("train")
    checkpoints.save(options.out, model, tokenizer, card)
    (options.out / TRAINING).unlink(missing_ok=True)
    print(f"Held-out MRR {card['held_out']['mrr']:.3f} among {len(test)} bodies. Wrote {options.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
