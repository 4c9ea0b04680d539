"""A second look at what a search found: a cross-encoder reads the query and a text together. See lesson 21."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextbert_lite.core.contrastive import pool
from nextbert_lite.core.either import encoder_of
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.training.batches import pad
from nextbert_lite.training.loop import evaluating
from nextbert_lite.training.tokenizer import Tokenizer
from nextbert_lite.use import checkpoints
from nextbert_lite.use.search import Hit, SearchIndex, fuse
from nextbert_lite.validate import check_count, check_texts

QUERY = 32  # tokens of a query that are read
DEPTH = 20  # hits of the first search that are read again
WEIGHT = 0.8  # the first search's share in the new order, chosen on validation (lesson 21)


def match_keys(tokenizer: Tokenizer) -> list[int]:
    """Return a number for each token: equal for tokens that differ in capitals or in the space before them alone.

    White space, and bytes that are no character by themselves, match nothing but themselves.
    """
    known: dict[str | int, int] = {}
    tokens = enumerate(tokenizer.tokens(range(tokenizer.vocab_size)))
    words = (i if "\ufffd" in t or not t.strip() else t.strip().lower() for i, t in tokens)
    return [known.setdefault(word, len(known)) for word in words]


def join(query: list[int], text: list[int], keys: list[int], max_len: int) -> tuple[list[int], list[int]]:
    """Return "[CLS] query [SEP] text [SEP]" as ids and token types, at most max_len of each (35 or more).

    query, text: ids, each with its own [CLS] and [SEP]. Of the query the first 32 tokens are kept, of the text what
    then has room. Types: 0 the query's part, 1 the text's; 2 and 3 where a token's key occurs on the other side too.
    """
    cls, *words, sep = query
    words = words[:QUERY]
    body = text[1:-1][: max_len - 3 - len(words)]
    asked, there = {keys[i] for i in words}, {keys[i] for i in body}
    types = [0, *(2 * (keys[i] in there) for i in words), 0, *(1 + 2 * (keys[i] in asked) for i in body), 1]
    return [cls, *words, sep, *body, sep], types


class CrossEncoder(nn.Module):
    """An encoder of query and text together (Nogueira and Cho 2019, arXiv:1901.04085), with one score as its output.

    encoder: one with four token types, see `join`.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder
        self.out = nn.Linear(encoder.config.width, 1)
        encoder.initialise(self.out)

    def forward(self, ids: Tensor, types: Tensor, mask: Tensor) -> Tensor:
        """ids, types, mask: (B, T), mask True = a real token -> one score a row, (B,)."""
        return self.out(pool(self.encoder(ids, mask, types), mask))[:, 0]

    def loss(self, ids: Tensor, types: Tensor, mask: Tensor, right: Tensor) -> Tensor:
        """Return the mean cross-entropy of finding the right text, in nats. right: (Q,), its number among the B / Q."""
        return F.cross_entropy(self(ids, types, mask).view(len(right), -1), right)

    def scores(self, rows: Sequence[tuple[list[int], list[int]]], batch_size: int = 32) -> Tensor:
        """Return the score of each row (ids, types) that `join` made, (N,), rows of like length together."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
        found = torch.zeros(len(rows), dtype=self.out.weight.dtype)
        device = self.out.weight.device
        with torch.no_grad(), evaluating(self):
            for some in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
                ids, mask = pad([rows[i][0] for i in some], self.encoder.config.pad_id)
                types, _ = pad([rows[i][1] for i in some])
                found[some] = self(ids.to(device), types.to(device), mask.to(device)).to(found)
        return found


class Reranker:
    """A cross-encoder with its tokenizer: `Reranker.load().order("invert a matrix", texts)`."""

    def __init__(self, model: CrossEncoder, tokenizer: Tokenizer):
        self.model, self.tokenizer, self.keys = model, tokenizer, match_keys(tokenizer)

    @classmethod
    def load(cls, name: str | Path = "docs-rerank") -> Reranker:
        """Read a checkpoint by its name or folder. Raises as `load`, and ValueError for another kind of model."""
        card, weights, tokenizer = checkpoints.read(name)
        if not card.get("reranker"):
            raise ValueError(f"{name} is no reranker: it has not learned to score a query and a text together.")
        with checkpoints.fitting(name):
            model = CrossEncoder(encoder_of(card["config"]))
            model.load_state_dict(weights)
        return cls(model.eval(), tokenizer)

    def scores(self, query: str, texts: Sequence[str]) -> Tensor:
        """Return how well each text answers the query, (N,): only the differences have a meaning."""
        texts = check_texts(texts)
        different = list(dict.fromkeys(texts))  # equal texts get equal scores, to the last digit
        (asked,), rows = (self.tokenizer.encode_batch(check_texts(some)) for some in ([query], different))
        T = self.model.encoder.config.max_len
        found = dict(zip(different, self.model.scores([join(asked, row, self.keys, T) for row in rows]), strict=True))
        return torch.stack([found[text] for text in texts])

    def order(self, query: str, texts: Sequence[str], first: Tensor, weight: float = WEIGHT) -> list[int]:
        """Return the numbers of the texts, the best first; among equals the first search's order stays.

        first: (N,), the first search's scores, highest first. weight: their share, beside the cross-encoder's; both as
        z-scores among these texts.
        """
        mixed = fuse(torch.as_tensor(first)[None], self.scores(query, texts)[None], weight)[0]
        return mixed.argsort(descending=True, stable=True).tolist()


def reranked(
    index: SearchIndex, query: str, k: int = 5, library: str | None = None, reranker: Reranker | None = None
) -> list[Hit]:
    """Return the k best of the index's first hits (20, or k if that is more) in the cross-encoder's order.

    A hit keeps the first search's scores. Raises as `SearchIndex.search`.
    """
    hits = index.search(query, max(check_count("k", k), DEPTH), library)
    reranker = reranker or Reranker.load()
    first = torch.tensor([hit.score for hit in hits])
    return [hits[i] for i in reranker.order(query, [hit.document.text for hit in hits], first)[:k]]
