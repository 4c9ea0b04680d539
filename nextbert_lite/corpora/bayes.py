"""The perfect masked language model of the toy world, and how far another model is from it.

A corrupted sentence y leaves many possible originals. Bayes' rule weighs them, summed over all frames z:

    P(x_t = w | y, t selected)  ∝  Σ_z P(z) · Π_{u≠t} P(y_u | z) · P(w | z, t) · P(y_t | w, selected)

where a token that one knows nothing about went through the whole corruption, and the token at t through its second half
(80 % [MASK], 10 % a random word, 10 % kept), because only selected tokens are asked for. No model can have a lower
expected loss than this predictor: its loss is the floor. Lesson 06 holds a trained model beside it.

Shapes: B sentences, F frames, T words of the longest sentence, L = T + 2 tokens, V words, S selected tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nextbert_lite.core.masking import IGNORE, mask_tokens
from nextbert_lite.corpora.toy_world import NO_WORD, ToyWorld
from nextbert_lite.training.batches import seeded
from nextbert_lite.training.loop import evaluating
from nextbert_lite.training.tokenizer import CLS, MASK, PAD, SEP, SPECIALS

MASKED, RANDOM, KEPT = 0.8, 0.1, 0.1  # what `mask_tokens` does to a selected token
KINDS = ("masked", "kept", "replaced")
SEES = ("both", "left", "right")
FIRST_WORD = len(SPECIALS)


class PerfectModel:
    """The Bayes-optimal MLM predictor of a toy world, for tokens selected with probability `rate`.

    sees: "both" contexts; "left" only, what a model with a causal mask sees; or "right" only. Each sees the token at
    its own position. "right" sees where the sentence ends, "left" does not.
    """

    def __init__(self, world: ToyWorld, rate: float = 0.15, sees: str = "both"):
        if not 0 < rate <= 1:
            raise ValueError(f"rate is {rate}; it must be greater than 0 and at most 1.")
        if sees not in SEES:
            raise ValueError(f"sees is {sees!r}; choose one of {', '.join(SEES)}.")
        self.world, self.rate, self.sees = world, rate, sees
        F, T, V = world.emissions.shape
        inside = (torch.arange(T)[:, None] < world.lengths).double()  # (T, F)
        emissions = world.emissions.permute(1, 2, 0)  # (T, V, F)
        # P(y_u | z, u): (T, V + 2, F), y_u one of V words, then [MASK], then "behind the end"
        seen = torch.empty(T, V + 2, F, dtype=torch.float64)
        seen[:, :V] = (1 - rate + KEPT * rate) * emissions + RANDOM * rate / V * inside[:, None]
        seen[:, V] = MASKED * rate * inside
        seen[:, NO_WORD] = 1 - inside
        self._log_seen = seen.log()
        self._log_frames = world.frame_probabilities.log()

    def log_frames(self, ids: Tensor) -> Tensor:
        """Return log P(z) + log P(the tokens that t may use | z) for each t: (B, T, F), not normalised.

        ids: (B, L), corrupted sentences between [CLS] and [SEP], padded behind.
        """
        symbols = self._symbols(ids)
        T = symbols.shape[1]
        logs = self._log_seen[torch.arange(T), symbols]  # (B, T, F)
        left, right = _before(logs), _before(logs.flip(1)).flip(1)
        # both: from the two sides, for a sum over all places less the own one would be -inf less -inf
        evidence = {"both": left + right, "left": left, "right": right}[self.sees]
        return self._log_frames + evidence

    def __call__(self, ids: Tensor) -> Tensor:
        """ids: (B, L), corrupted -> P(original token | what is seen, this token selected), (B, L, 5 + V), float64.

        A row of a word sums to 1; the rows of [CLS], [SEP] and padding are 0. Raises ValueError for what is no
        corrupted sentence of this world.
        """
        T, V = self.world.emissions.shape[1:]
        symbols = self._symbols(ids)
        logs = self.log_frames(ids)  # (B, T, F)
        frames = (logs - logs.amax(-1, keepdim=True).nan_to_num(neginf=0.0)).exp()
        prior = torch.einsum("btf,ftv->btv", frames, self.world.emissions)  # (B, T, V), not normalised
        is_word = ((symbols >= 0) & (symbols < V))[..., None]  # P(y_t | w, selected): as [MASK], the same for all w
        own = torch.full_like(prior, MASKED).masked_fill(is_word, RANDOM / V)
        own.scatter_add_(2, symbols[..., None] * is_word, KEPT * is_word.double())
        joint = prior * own
        total = joint.sum(-1, keepdim=True)
        is_token = symbols != NO_WORD
        if (total[..., 0] == 0)[is_token].any():
            row = int(((total[..., 0] == 0) & is_token).any(1).nonzero()[0])
            raise ValueError(
                f"text {row} is no corrupted sentence of {self.world.path.name}: no sentence has its length "
                f"({int(is_token[row].sum())} words)."
            )
        result = torch.zeros(*ids.shape, FIRST_WORD + V, dtype=torch.float64)
        result[:, 1 : 1 + T, FIRST_WORD:] = (joint / total.clamp(min=1e-300))[:, : ids.shape[1] - 1]
        return result * ((ids >= FIRST_WORD) | (ids == SPECIALS.index(MASK)))[..., None]

    def losses(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Return -log P(label) of each selected token, in nats: (S,), float64, in the order of `labels != -100`."""
        selected = labels != IGNORE
        return -self(ids)[selected].gather(1, labels[selected][:, None])[:, 0].log()

    def gap(self, text: str, position: int | None = None) -> dict[str, float]:
        """Return the right distribution for the one [MASK] of a text, or for the word at `position` from 0.

        word -> probability, likeliest first, impossible words left out.
        """
        tokens = text.split()
        if position is None:
            if tokens.count(MASK) != 1:
                raise ValueError(f"the text has {tokens.count(MASK)} {MASK}; write one, or give a position.")
            position = tokens.index(MASK)
        if not 0 <= position < len(tokens):
            raise ValueError(f"position is {position}; the text has the words 0 to {len(tokens) - 1}.")
        unknown = [token for token in tokens if token != MASK and token not in self.world.words]
        if unknown:
            raise ValueError(f"'{unknown[0]}' is no word of this world; its words are in ToyWorld.words.")
        ids = self.world.tokenizer().encode(text, allow_specials=True)
        row = self(torch.tensor([ids]))[0, 1 + position, FIRST_WORD:]
        order = row.argsort(descending=True)
        return {self.world.words[v]: float(row[v]) for v in order.tolist() if row[v] > 0}

    def _symbols(self, ids: Tensor) -> Tensor:
        """Return which row of the table each of the T places has: (B, T), a word, V for [MASK], or NO_WORD."""
        T, V = self.world.emissions.shape[1:]
        cls, sep, mask = map(SPECIALS.index, (CLS, SEP, MASK))
        if ids.ndim != 2 or ids.shape[1] > T + 2 or int(ids.max()) >= FIRST_WORD + V:
            raise ValueError(
                f"ids have the shape {tuple(ids.shape)} and the largest id {int(ids.max())}; expected (B, L) with "
                f"L at most {T + 2} and ids below {FIRST_WORD + V}."
            )
        is_token = (ids >= FIRST_WORD) | (ids == mask)
        ends = (ids == sep).int().argmax(1)
        expected = (torch.arange(ids.shape[1]) > 0) & (torch.arange(ids.shape[1]) < ends[:, None])
        wrong = (is_token != expected).any(1) | (ids[:, 0] != cls) | ((ids == sep).sum(1) != 1)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(f"text {row} is not {CLS}, words or {MASK}, {SEP}, then {PAD} only: {ids[row].tolist()}.")
        symbols = torch.full((len(ids), T), NO_WORD)
        inner = torch.where(ids == mask, V, ids - FIRST_WORD)[:, 1 : 1 + T]
        symbols[:, : inner.shape[1]] = torch.where(is_token[:, 1 : 1 + T], inner, NO_WORD)
        return symbols


def _before(logs: Tensor) -> Tensor:
    """Return for each t the sum over the places before it, (B, T, F); -inf stays -inf."""
    return torch.cat([torch.zeros_like(logs[:, :1]), logs[:, :-1].cumsum(1)], dim=1)


@dataclass(frozen=True)
class Gap:
    """A model beside the perfect one, on the same corrupted tokens; all in nats per selected token.

    gap = loss - floor, paired; standard_error is the gap's, floor_error the floor's, over sentences.
    kinds: "masked", "kept", "replaced" -> (share of the selected tokens, loss, floor).
    """

    loss: float
    floor: float
    gap: float
    standard_error: float
    floor_error: float
    kinds: dict[str, tuple[float, float, float]]


@torch.no_grad()
def compare(
    model: nn.Module | Callable[[Tensor, Tensor], Tensor],
    world: ToyWorld,
    n: int = 10_000,
    rate: float = 0.15,
    seed: int = 1_000_003,
    perfect: PerfectModel | None = None,
) -> Gap:
    """Return the model's loss, the floor, and the paired gap on n fresh sentences.

    model: called with ids (B, L) and mask (B, L), gives logits (B, L, 5 + V). perfect: whose loss is the floor, the one
    that sees both sides unless given. Below the floor by more than sampling error would be a fault somewhere.
    """
    perfect = PerfectModel(world, rate) if perfect is None else perfect
    device = next(model.parameters()).device if isinstance(model, nn.Module) else torch.device("cpu")
    ours, theirs, rows, kinds = [], [], [], []
    with evaluating(model) if isinstance(model, nn.Module) else nullcontext():
        for corrupted, labels, mask, first in _corrupted(world, n, rate, seed):
            selected = labels != IGNORE
            logits = model(corrupted.to(device), mask.to(device))[selected.to(device)].double().cpu()
            right = labels[selected]
            ours.append(nn.functional.cross_entropy(logits, right, reduction="none"))
            theirs.append(perfect.losses(corrupted, labels))
            rows.append(selected.nonzero()[:, 0] + first)
            seen = corrupted[selected]
            kinds.append(torch.where(seen == SPECIALS.index(MASK), 0, torch.where(seen == right, 1, 2)))
    ours, theirs, rows, kinds = map(torch.cat, (ours, theirs, rows, kinds))
    by_kind = {
        name: ((kinds == k).double().mean().item(), ours[kinds == k].mean().item(), theirs[kinds == k].mean().item())
        for k, name in enumerate(KINDS)
    }
    gap, error = ratio(ours - theirs, rows, n)
    floor, floor_error = ratio(theirs, rows, n)
    return Gap(floor + gap, floor, gap, error, floor_error, by_kind)


def floor(
    world: ToyWorld, n: int = 10_000, rate: float = 0.15, seed: int = 1_000_003, sees: str = "both"
) -> tuple[float, float]:
    """Return the least expected MLM loss that any model can have, in nats per selected token, and its standard error.

    A mean over n sentences; sees: see `PerfectModel`.
    """
    perfect = PerfectModel(world, rate, sees)
    losses, rows = [], []
    for corrupted, labels, _, first in _corrupted(world, n, rate, seed):
        losses.append(perfect.losses(corrupted, labels))
        rows.append((labels != IGNORE).nonzero()[:, 0] + first)
    return ratio(torch.cat(losses), torch.cat(rows), n)


def _corrupted(world: ToyWorld, n: int, rate: float, seed: int, size: int = 250):
    """Give corrupted ids, labels, mask, and the number of the first sentence, in chunks that bound the memory."""
    ids, mask = world.sample_ids(n, seed)
    corrupted, labels = mask_tokens(ids, world.tokenizer(), rate, seeded(seed, 7))
    for first in range(0, n, size):
        part = slice(first, first + size)
        yield corrupted[part], labels[part], mask[part], first


def ratio(values: Tensor, rows: Tensor, n: int) -> tuple[float, float]:
    """Return the mean of all values and its standard error; values of one sentence (row) are not independent.

    The error of a ratio of two means, sum of values over number of values, n sentences.
    """
    if len(values) == 0:
        raise ValueError(f"no token was selected in {n} sentences: take more.")
    mean = values.mean()
    per_row = torch.zeros(n, dtype=torch.float64).index_add_(0, rows, values - mean)
    return mean.item(), math.sqrt(per_row.square().sum()) / len(values)
