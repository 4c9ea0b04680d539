"""The contrastive loss and what it trains: a sentence encoder. Lessons 09 to 11 build it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nextbert_lite.core.encoder import Encoder
from nextbert_lite.validate import check_mask, check_pairs, check_temperature, check_vectors

POOLINGS = ("mean", "cls", "first-last")


def info_nce_loss(
    anchors: Tensor,
    positives: Tensor,
    temperature: float = 0.05,
    symmetric: bool = False,
    negatives: Tensor | None = None,
    same: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy of finding each anchor's own positive among all positives, in nats.

    anchors, positives: (B, C), row i of one belongs to row i of the other; scores are cosines / temperature.
    negatives: (N, C), further wrong answers for every anchor. symmetric: the mean with the search from positive to
    anchor. same: boolean (B, B), True at [i, j] where positive j would be right for anchor i too: not a negative.
    van den Oord et al. 2018 (arXiv:1807.03748, equation 4), with in-batch negatives as in SimCSE (arXiv:2104.08821).
    Raises ValueError for a batch of one without negatives, other shapes, vectors that are not finite, temperature <= 0.
    """
    check_pairs(anchors, positives, temperature, negatives, same)
    B = len(anchors)
    keys = positives if negatives is None else torch.cat([positives, negatives])
    scores = F.normalize(anchors, dim=-1) @ F.normalize(keys, dim=-1).T / temperature  # (B, B + N)
    right = torch.arange(B, device=scores.device)
    if same is not None:
        others = same & ~torch.eye(B, dtype=torch.bool, device=same.device)
        scores = scores.masked_fill(F.pad(others, (0, len(keys) - B)), -torch.inf)
    loss = F.cross_entropy(scores, right)
    if symmetric:
        loss = (loss + F.cross_entropy(scores[:, :B].T, right)) / 2
    return loss


def nt_xent_loss(a: Tensor, b: Tensor, temperature: float = 0.5) -> Tensor:
    """Return the loss of SimCLR: each of the 2B views finds its partner among the other 2B - 1, in nats.

    a, b: (B, C), row i of both are two views of one text. Only a view's similarity with itself leaves the denominator;
    the positive stays. Chen et al. 2020 (arXiv:2002.05709, equation 1). Raises ValueError as `info_nce_loss` does.
    """
    check_pairs(a, b, temperature)
    views = F.normalize(torch.cat([a, b]), dim=-1)
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    scores = (views @ views.T / temperature).masked_fill(itself, -torch.inf)  # (2B, 2B)
    partner = torch.arange(len(views), device=views.device).roll(len(a))
    return F.cross_entropy(scores, partner)


def pool(hidden: Tensor, mask: Tensor, how: str = "mean") -> Tensor:
    """Return one vector a text: hidden (B, T, C), mask (B, T), True = a real token -> (B, C).

    how: "mean" over the real tokens, or "cls", the first token's vector.
    """
    if how not in ("mean", "cls"):
        raise ValueError(f'there is no pooling {how!r} of one layer; choose "mean" or "cls".')
    mask = check_mask(mask, hidden.shape[:2]).expand(hidden.shape[:2])
    if how == "cls":
        return hidden[:, 0]
    weights = mask[:, :, None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


def alignment(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared distance of partners on the unit sphere: 0 is best, 2 is what unrelated texts have.

    a, b: (N, C), row i of both belong together. Wang and Isola 2020 (arXiv:2005.10242), equation 2 with alpha = 2.
    """
    a, b = check_vectors(a), check_vectors(b)
    if a.shape != b.shape:
        raise ValueError(f"a has the shape {tuple(a.shape)}, b {tuple(b.shape)}: row i of both must belong together.")
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    return (a - b).square().sum(-1).mean()


def uniformity(x: Tensor, t: float = 2.0) -> Tensor:
    """Return the log of the mean of exp(-t · squared distance) over all pairs: lower is more evenly spread.

    x: (N, C), put on the unit sphere first. Wang and Isola 2020 (arXiv:2005.10242), equation 3.
    """
    if len(x) < 2:
        raise ValueError(f"uniformity needs at least two vectors, got {len(x)}.")
    distances = torch.pdist(F.normalize(check_vectors(x), dim=-1))
    return distances.square().mul(-t).exp().mean().log()


class SentenceEncoder(nn.Module):
    """An encoder and a pooling: token ids in, one vector a text out, trained by the contrastive loss.

    pooling: "mean", "cls", or "first-last", the mean of the embeddings and of the last layer. chunk: encode so many
    texts at a time, texts of like length together, which saves padding. cache: keep no activations of a chunk but
    compute them again in backward, so that memory does not grow with the batch (gradient caching, Gao et al. 2021,
    arXiv:2101.06983).
    """

    def __init__(
        self,
        encoder: Encoder,
        pooling: str = "mean",
        temperature: float = 0.05,
        symmetric: bool = False,
        chunk: int | None = None,
        cache: bool = False,
    ):
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"there is no pooling {pooling!r}; choose one of {', '.join(POOLINGS)}.")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk is {chunk}; it must be at least 1, or None for the whole batch at once.")
        if cache and chunk is None:
            raise ValueError("cache needs a chunk: how many texts are encoded at a time.")
        self.encoder, self.pooling = encoder, pooling
        self.temperature, self.symmetric = check_temperature(temperature), symmetric
        self.chunk, self.cache = chunk, cache

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """ids: (B, T), mask: (B, T), True = may be attended to -> one vector a text, (B, C), of any length."""
        mask = ids != self.encoder.config.pad_id if mask is None else mask
        hidden = self.encoder(ids, mask)
        if self.pooling == "first-last":
            hidden = (self.encoder.embed(ids) + hidden) / 2
        return pool(hidden, mask, "cls" if self.pooling == "cls" else "mean")

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return what `forward` returns, computed chunk by chunk."""
        if self.chunk is None:
            return self(ids, mask)
        lengths = mask.sum(1)
        order = lengths.argsort()
        vectors = []
        for rows in order.split(self.chunk):
            T = int(lengths[rows].max())
            batch = ids[rows, :T], mask[rows, :T]
            again = self.cache and torch.is_grad_enabled()
            vectors.append(checkpoint(self, *batch, use_reentrant=False) if again else self(*batch))
        return torch.cat(vectors)[order.argsort()]

    def loss(
        self,
        ids: Tensor,
        mask: Tensor,
        positive_ids: Tensor,
        positive_mask: Tensor,
        same: Tensor | None = None,
        negative_ids: Tensor | None = None,
        negative_mask: Tensor | None = None,
    ) -> Tensor:
        """Return `info_nce_loss` of a batch of pairs of texts, each (B, T), and of hard negatives (N, T) if given."""
        anchors, positives = self.encode(ids, mask), self.encode(positive_ids, positive_mask)
        negatives = None if negative_ids is None else self.encode(negative_ids, negative_mask)
        return info_nce_loss(anchors, positives, self.temperature, self.symmetric, negatives, same)
