"""Train the cross-encoder docs-rerank from docs-contrastive, and write it with its card into data/checkpoints.

    python tools/reranker.py --steps 1000

Ctrl-C ends the training after the running step; the model is written, and its card says so.

Its queries are the summaries of the training split, its right texts their bodies. The wrong ones are drawn from the
first hundred that BM25 and the encoder find for the summary, without near-duplicates of the right body (lesson 21).
"""

import argparse
import datetime
from pathlib import Path

import torch

from nextbert_lite import Bm25, Encoder, EncoderConfig, embed, fit, load, load_docs, mrr, pad, seeded
from nextbert_lite.corpora.harvest import near_pairs, tfidf
from nextbert_lite.training.batches import Batches
from nextbert_lite.use import checkpoints
from nextbert_lite.use.rerank import CrossEncoder, Reranker, join, match_keys
from nextbert_lite.use.search import fuse

ROOT = Path(__file__).resolve().parent.parent
START, FIRST, QUERIES, NEGATIVES, TOKENS, RATE = "docs-contrastive", 20, 16, 3, 96, 5e-4
HARD = 100  # of these first bodies the wrong ones are drawn
BM25_SHARE = 0.4  # of the first search, chosen on validation among its own bodies
SAMPLE, BODIES = 100, 500  # of the card's figures: validation queries, and the bodies that they search


def hard_negatives(summaries, bodies, model):
    """Return for each summary the numbers of wrong bodies that a search ranks high, (Q, HARD)."""
    keys = embed(bodies, model, long="cut")
    near = torch.zeros(len(bodies), len(bodies), dtype=torch.bool)
    vectors = tfidf(bodies)
    for a, b in near_pairs(vectors, vectors):
        near[a, b] = True
    near.fill_diagonal_(True)
    bm25, found = Bm25(bodies), []
    for some in torch.arange(len(summaries)).split(500):
        queries = [summaries[i] for i in some.tolist()]
        first = fuse(bm25.scores(queries), embed(queries, model, long="cut") @ keys.T, BM25_SHARE)
        found.append(first.masked_fill(near[some], -torch.inf).topk(HARD).indices)
    return torch.cat(found)


class Candidates(Batches):
    """Batches of queries, each with its right text and some of its hard negatives."""

    def __init__(self, queries, texts, negatives, keys, seed):
        super().__init__(len(queries), QUERIES, seed, whole=True)
        self.queries, self.texts, self.negatives, self.keys = queries, texts, negatives, keys

    def __call__(self, step):
        generator, rows = seeded(self.seed, step, 21), []
        for q in self.rows_of(step):
            some = self.negatives[q][torch.randperm(HARD, generator=generator)[:NEGATIVES]]
            rows += [join(self.queries[q], self.texts[i], self.keys, TOKENS) for i in (q, *some.tolist())]
        (ids, mask), (types, _) = (pad(list(side)) for side in zip(*rows, strict=True))
        return {"ids": ids, "types": types, "mask": mask, "right": torch.zeros(QUERIES, dtype=torch.long)}


def measured(reranker, pairs, model):
    """Return the MRR of the first search among bodies of the pairs, and that of the cross-encoder on its top 20."""
    drawn = torch.randperm(len(pairs), generator=seeded(0, 12))[:BODIES].tolist()  # the pairs are sorted by name
    queries, bodies = map(list, zip(*[pairs[i] for i in drawn], strict=True))
    cosine = embed(queries[:SAMPLE], model, long="cut") @ embed(bodies, model, long="cut").T
    first = fuse(Bm25(bodies).scores(queries[:SAMPLE]), cosine, BM25_SHARE)
    found, right = {"first": [], "reranked": []}, []
    for i, row in enumerate(first):
        top = row.topk(FIRST).indices
        where = (top == i).nonzero()
        if len(where):  # else neither finds it
            new = torch.empty(FIRST)
            new[reranker.order(queries[i], [bodies[j] for j in top], row[top])] = -torch.arange(FIRST).float()
            found["first"].append(row[top])
            found["reranked"].append(new)
            right.append(int(where))
    share = len(right) / SAMPLE
    return {name: round(share * mrr(torch.stack(rows), torch.tensor(right)), 4) for name, rows in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=RATE)
    parser.add_argument("--go-on", action="store_true", help="from the weights that are there, with another order")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "checkpoints" / "docs-rerank")
    options = parser.parse_args()
    docs, (start, tokenizer) = load_docs(), load(START)
    summaries, bodies = map(list, zip(*docs.pairs("train"), strict=True))
    negatives = hard_negatives(summaries, bodies, (start, tokenizer))

    torch.manual_seed(options.seed)
    model = CrossEncoder(Encoder(EncoderConfig(**start.encoder.config.to_dict() | {"token_types": 4})))
    model.encoder.load_state_dict(start.encoder.state_dict(), strict=False)  # all but the types
    earlier = {}
    if options.go_on:
        model.load_state_dict(Reranker.load(options.out).model.state_dict())
        earlier = {"earlier": checkpoints.read_card(options.out)["training"]}
    texts, queries = (tokenizer.encode_batch(some) for some in (bodies, summaries))
    batches = Candidates(queries, texts, negatives, match_keys(tokenizer), options.seed)
    history = fit(
        model,
        batches,
        options.steps,
        lr=options.lr,
        warmup=min(30, options.steps // 8),
        seed=options.seed,
        mixed_precision=True,
    )
    model = checkpoints.rounded(model.cpu())
    corpus = {"name": "docs", "about": f"{len(docs.train):,} texts of documentation", "fingerprint": docs.fingerprint}
    note = {"note": f"Stopped at step {history.steps}; its rate was to fall to 0 at step {options.steps}."}
    corpus["pairs"] = f"{len(summaries):,} summaries, each with its body and {NEGATIVES} of {HARD} hard negatives"
    card = {
        "name": options.out.resolve().name,
        "made": datetime.date.today().isoformat(),
        "versions": checkpoints.versions(),
        "reranker": True,
        "corpus": corpus | {"train_hashes": docs.hashes("train")},
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": {
            "start": START,
            "steps": history.steps,
            "queries": QUERIES,
            "negatives": NEGATIVES,
            "max_len": TOKENS,
            "lr": options.lr,
            "seed": options.seed,
            "bf16": True,
            "seconds": round(history.seconds),
            "tokens_seen": sum(history.tokens),
            "curve": [round(sum(history.loss[i : i + 50]) / 50, 4) for i in range(0, history.steps - 49, 50)],
            **(note if history.interrupted else {}),
            **earlier,
        },
        "held_out": measured(Reranker(model, tokenizer), docs.pairs("validation"), (start, tokenizer))
        | {"pairs": SAMPLE, "split": "validation"},
    }
    checkpoints.save(options.out, model, tokenizer, card)
    print(f"loss {card['training']['curve']}; validation MRR {card['held_out']}. Wrote {options.out}.")


if __name__ == "__main__":
    main()
