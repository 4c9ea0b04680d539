"""Choose what the search uses, on the validation split alone: data/results/12_bm25.csv and 12_weights.csv.

    python tools/search_settings.py

A question is a validation summary, the right answer its body. Pools: the bodies of the validation split; all bodies;
and all bodies with their names before them, which is what `SearchIndex` searches but for the summaries. BM25's words
(stems, identifiers in parts), k1 and b, and the weight beside the vectors of docs-contrastive are those with the best
MRR in the last pool: the defaults of `Bm25` and WEIGHT in nextbert_lite/use/search.py. Run it again after a new
docs-contrastive, and copy the weight.
"""

import sys

import torch
from results import write

from nextbert_lite import embed, load_docs
from nextbert_lite.use.search import CUT, WORD, Bm25, fuse, mrr, paired_bootstrap, reciprocal_ranks

COMMAND = "python tools/search_settings.py"
K1 = (0.4, 0.6, 0.9, 1.2, 1.5, 2.0, 3.0)
B = (0.5, 0.6, 0.75, 0.9, 1.0)


class Questions:
    """The validation split's summaries, and the three pools in which their answers are searched."""

    def __init__(self, docs):
        validation = docs.pairs("validation")
        name_of = {(d.summary, d.body): d.name for d in docs.documents}
        pairs = [*validation, *docs.pairs("test"), *docs.pairs("train")]
        self.asked, self.right = [summary for summary, _ in validation], torch.arange(len(validation))
        self.bodies = [body for _, body in pairs]
        self.pools = {
            "validation": self.bodies[: len(validation)],
            "all": self.bodies,
            "named": [f"{name_of[pair]}\n{pair[1]}" for pair in pairs],
        }

    def bm25(self, words, k1, b):
        """Return the scores in each pool, for words "plain", "stems", "parts" (of identifiers) and so on."""
        options = {"stem": "stems" in words, "split": "whole" in words, "k1": k1, "b": b}
        prepare = in_parts if "parts" in words and "whole" not in words else lambda text: text
        asked = [prepare(text) for text in self.asked]
        return {name: Bm25([prepare(t) for t in pool], **options).scores(asked) for name, pool in self.pools.items()}

    def mrr(self, scores):
        return {f"mrr_{name}": mrr(found, self.right) for name, found in scores.items()}


def in_parts(text):
    """Return the text with each identifier in parts, and not whole."""
    return WORD.sub(lambda found: " ".join(CUT.split(found[0])), text)


def bm25_rows(questions):
    """Return the rows of 12_bm25.csv: the kinds of words at the textbook's k1 and b, and a grid for the best kind."""
    kinds = ("plain", "stems", "parts", "parts and whole", "parts, stems", "parts and whole, stems")
    tried = [(words, 1.5, 0.75) for words in kinds]
    rows = [{"words": w, "k1": k1, "b": b} | questions.mrr(questions.bm25(w, k1, b)) for w, k1, b in tried]
    best = max(rows, key=lambda row: row["mrr_named"])["words"]
    for k1 in K1:
        for b in B:
            if (best, k1, b) not in tried:
                rows.append({"words": best, "k1": k1, "b": b} | questions.mrr(questions.bm25(best, k1, b)))
    return rows


def weight_rows(questions, bm25):
    """Return the rows of 12_weights.csv: the MRR of BM25 and docs-contrastive for each weight, in each pool."""
    asked = embed(questions.asked)
    cosine = asked @ embed(questions.bodies, long="windows").T
    cosines = {"validation": cosine[:, : len(asked)], "all": cosine, "named": cosine}
    rows = []
    for weight in (i / 20 for i in range(21)):
        fused = {pool: fuse(bm25[pool], cosines[pool], weight) for pool in questions.pools}
        rows.append({"weight": weight} | questions.mrr(fused))
    return rows


def main():
    questions = Questions(load_docs())
    rows = bm25_rows(questions)
    write("12_bm25", rows, COMMAND)
    best = max(rows, key=lambda row: row["mrr_named"])
    print("best among all, named: {words}, k1 {k1}, b {b}".format(**best))
    bm25, plain = (questions.bm25(*tried) for tried in ((best["words"], best["k1"], best["b"]), ("plain", 1.5, 0.75)))
    for pool in questions.pools:
        of = [reciprocal_ranks(found[pool], questions.right) for found in (bm25, plain)]
        print("{}: against plain {:+.3f}, 95 % from {:+.3f} to {:+.3f}".format(pool, *paired_bootstrap(*of)))
    rows = weight_rows(questions, bm25)
    write("12_weights", rows, COMMAND)
    for pool in questions.pools:
        best = max(rows, key=lambda row: row[f"mrr_{pool}"])
        print(f"{pool}: weight {best['weight']:.2f}, MRR {best[f'mrr_{pool}']:.4f}")


if __name__ == "__main__":
    sys.exit(main())
