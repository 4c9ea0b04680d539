"""The perfect masked language model of the toy world, how far another model is from it, and other exact answers.

A corrupted sentence y leaves many possible originals. Bayes' rule weighs them, summed over all frames z:

    P(x_t = w | y, t selected)  ∝  Σ_z P(z) · Π_{u≠t} P(y_u | z) · P(w | z, t) · P(y_t | w, selected)

where a token that one knows nothing about went through the whole corruption, and the token at t through its second half
(80 % [MASK], 10 % a random word, 10 % kept), because only selected tokens are asked for. No model can have a lower
expected loss than this predictor: its loss is the floor. Lesson 06 holds a trained model beside it. The other answers
(`posterior`, `influence`, `replaced`, `same_frame`) are the same sum with other factors.

Shapes: B sentences, F frames, T words of the longest sentence, L = T + 2 tokens, V words, S selected tokens. A
sentence shows its length, so frames of another length are out at once: n words, G frames of that length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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

    sees: "both" contexts, "left" only, or "right" only; each sees the token at its own position, and each is told how
    long the sentence is. length: False for "left" takes that away, which is what a model with a causal mask sees.
    """

    def __init__(self, world: ToyWorld, rate: float = 0.15, sees: str = "both", length: bool = True):
        if not 0 < rate <= 1:
            raise ValueError(f"rate is {rate}; it must be greater than 0 and at most 1.")
        if sees not in SEES:
            raise ValueError(f"sees is {sees!r}; choose one of {', '.join(SEES)}.")
        if not length and sees != "left":
            raise ValueError(f'"{sees}" sees the end of the sentence, so the length is known; only "left" can lack it.')
        self.world, self.rate, self.sees, self.length = world, rate, sees, length
        emissions = world.emissions.permute(1, 2, 0)  # (T, V, F)
        T, V, F = emissions.shape
        # P(y_u | z, u): (T, V + 1, F), y_u one of V words, then [MASK]; 0 behind the end
        seen = torch.full((T, V + 1, F), MASKED * rate, dtype=torch.float64)
        seen[:, :V] = (1 - rate + KEPT * rate) * emissions + RANDOM * rate / V
        seen *= (torch.arange(T)[:, None] < world.lengths)[:, None]
        self._log_seen = seen.log()
        self._log_frames = world.frame_probabilities.log()

    def __call__(self, ids: Tensor) -> Tensor:
        """ids: (B, L), corrupted -> P(original token | what is seen, this token selected), (B, L, 5 + V), float64.

        A row of a word sums to 1; the rows of [CLS], [SEP] and padding are 0. Raises ValueError for what is no
        corrupted sentence of this world.
        """
        V = len(self.world.words)
        result = torch.zeros(*ids.shape, FIRST_WORD + V, dtype=torch.float64)
        for rows, symbols, frames in _by_length(self.world, _symbols(self.world, ids)):
            n = symbols.shape[1]
            frames = frames if self.length else slice(None)
            logs = self._log_seen[:n, :, frames][torch.arange(n), symbols]  # (B, n, G)
            evidence = {"both": _others, "left": _before, "right": _behind}[self.sees](logs)
            prior = _words(self.world, self._log_frames[frames] + evidence, frames)  # (B, n, V)
            is_word = (symbols < V)[..., None]  # P(y_t | w, selected): as [MASK], the same for all w
            own = torch.full_like(prior, MASKED).masked_fill(is_word, RANDOM / V)
            own.scatter_add_(2, symbols.clamp(max=V - 1)[..., None], KEPT * is_word.double())
            joint = prior * own
            result[rows, 1 : 1 + n, FIRST_WORD:] = joint / joint.sum(-1, keepdim=True)
        return result

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


# --- other exact answers ----------------------------------------------------------------------------------------------


def posterior(world: ToyWorld, ids: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Return P(the word at t | the visible words elsewhere), (B, L, 5 + V), float64; the sentence's length is known.

    ids: (B, L), true sentences between [CLS] and [SEP]. hidden: (B, L), True = hidden; so is each [MASK]. Rows of
    [CLS], [SEP] and padding are 0. Raises ValueError for visible words that no sentence has together.
    """
    result = torch.zeros(*ids.shape, FIRST_WORD + len(world.words), dtype=torch.float64)
    for rows, symbols, frames in _by_length(world, _symbols(world, ids, hidden)):
        logs = _visible(world, symbols, frames)
        joint = _words(world, world.frame_probabilities[frames].log() + _others(logs), frames)
        result[rows, 1 : 1 + symbols.shape[1], FIRST_WORD:] = joint / joint.sum(-1, keepdim=True)
    return result


def influence(world: ToyWorld, ids: Tensor, gap: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Return how far the posterior at the gap moves when one more word is hidden, (B, L): KL(before || after), nats.

    gap: (B,), the place in ids that is asked for; it is hidden. ids, hidden: as in `posterior`. 0 for what is hidden
    already, and for what is no word. Raises ValueError as `posterior` does, and for a gap that is no word.
    """
    gap = torch.as_tensor(gap).expand(len(ids))
    symbols, at_gap = _symbols(world, ids, hidden), gap - 1
    if ((at_gap < 0) | (at_gap >= (symbols != NO_WORD).sum(1))).any():
        raise ValueError(f"gap is {gap.tolist()}; it must be the place of a word in each row, from 1.")
    symbols[torch.arange(len(ids)), at_gap] = len(world.words)
    result = torch.zeros(ids.shape, dtype=torch.float64)
    for rows, some, frames in _by_length(world, symbols):
        n, log_frames = some.shape[1], world.frame_probabilities[frames].log()
        for t in at_gap[rows].unique().tolist():
            here = at_gap[rows] == t
            logs = _visible(world, some[here], frames)
            each = torch.cat([logs.sum(1, keepdim=True), _others(logs)], dim=1)  # all words, then without each
            joint = _scaled(log_frames + each) @ world.emissions[frames, t]  # (B, 1 + n, V)
            before, after = (joint / joint.sum(-1, keepdim=True)).split([1, n], dim=1)
            change = torch.special.xlogy(before, before) - torch.special.xlogy(before, after)
            result[rows[here], 1 : 1 + n] = change.sum(-1).clamp(min=0) * (some[here] < len(world.words))
    return result


def replaced(world: ToyWorld, ids: Tensor, rate: float, generator: Tensor) -> Tensor:
    """Return P(the word at t was replaced | all words), (B, L): the best discriminator that there can be.

    Each word was selected with probability `rate`, and then drawn from generator, which looks at no other word: (V,),
    (T, V) for each place, or (V, V) for each word that it replaces. A draw that gives the word itself replaces nothing
    (ELECTRA, Clark et al. 2020, arXiv:2003.10555).
    """
    V, T = len(world.words), world.emissions.shape[1]
    q = torch.as_tensor(generator, dtype=torch.float64)
    of_word = q.shape == (V, V)
    q = q if of_word else q.expand(T, V)
    if not 0 < rate < 1 or (q < 0).any() or not torch.allclose(q.sum(1), torch.ones(len(q), dtype=q.dtype)):
        raise ValueError(f"rate is {rate}, between 0 and 1 expected; generator: probabilities of the {V} words.")
    result = torch.zeros(ids.shape, dtype=torch.float64)
    for rows, symbols, frames in _by_length(world, _symbols(world, ids)):
        if (symbols == V).any():
            raise ValueError(f"a text has {MASK}: the discriminator reads words only.")
        n = symbols.shape[1]
        e = _emitted(world, symbols, frames)
        if of_word:
            drawn = rate * (world.emissions[frames, :n] @ q).permute(1, 2, 0)[torch.arange(n), symbols]
            itself = rate * q.diagonal()[symbols][..., None] * e
        else:
            drawn = rate * q[torch.arange(n), symbols][..., None]
            itself = drawn * e
        seen = (1 - rate) * e + drawn
        others = _scaled(world.frame_probabilities[frames].log() + _others(seen.log()))
        result[rows, 1 : 1 + n] = (others * (drawn - itself)).sum(-1) / (others * seen).sum(-1)
    return result


def same_frame(world: ToyWorld, a: Tensor, b: Tensor) -> Tensor:
    """Return log P(a, b drawn from one frame) / (P(a) P(b)), (A, B): the optimal score of a contrastive loss.

    a: (A, L), b: (B, L), sentences whose hidden words are [MASK]. -inf where no frame says both. InfoNCE is at its
    least for this score and any constant added to a row (van den Oord et al. 2018, arXiv:1807.03748, equation 5).
    """
    of_a, of_b = (_frames_given(world, ids) for ids in (a, b))
    return (of_a / world.frame_probabilities @ of_b.T).log()


def _frames_given(world: ToyWorld, ids: Tensor) -> Tensor:
    """Return P(z | the visible words), (B, F)."""
    result = torch.zeros(len(ids), len(world.frames), dtype=torch.float64)
    for rows, symbols, frames in _by_length(world, _symbols(world, ids)):
        joint = _scaled(world.frame_probabilities[frames].log() + _visible(world, symbols, frames).sum(1))
        result[rows[:, None], frames] = joint / joint.sum(-1, keepdim=True)
    return result


# --- parts of the sums ------------------------------------------------------------------------------------------------


def _symbols(world: ToyWorld, ids: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Return what each of the T places shows: (B, T), a word, V for [MASK] or hidden, or NO_WORD."""
    T, V = world.emissions.shape[1:]
    cls, sep, mask = map(SPECIALS.index, (CLS, SEP, MASK))
    if ids.ndim != 2 or ids.shape[1] > T + 2 or int(ids.max()) >= FIRST_WORD + V:
        raise ValueError(
            f"ids have the shape {tuple(ids.shape)} and the largest id {int(ids.max())}; expected (B, L) with "
            f"L at most {T + 2} and ids below {FIRST_WORD + V}."
        )
    if hidden is not None and (hidden.shape != ids.shape or hidden.dtype != torch.bool):
        raise ValueError(f"hidden has the shape {tuple(hidden.shape)}, {hidden.dtype}; expected booleans like ids.")
    is_token = (ids >= FIRST_WORD) | (ids == mask)
    ends = (ids == sep).int().argmax(1)
    expected = (torch.arange(ids.shape[1]) > 0) & (torch.arange(ids.shape[1]) < ends[:, None])
    wrong = (is_token != expected).any(1) | (ids[:, 0] != cls) | ((ids == sep).sum(1) != 1)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(f"text {row} is not {CLS}, words or {MASK}, {SEP}, then {PAD} only: {ids[row].tolist()}.")
    symbols = torch.full((len(ids), T), NO_WORD)
    covered = (ids == mask) if hidden is None else (ids == mask) | hidden
    inner = torch.where(covered, V, ids - FIRST_WORD)[:, 1 : 1 + T]
    symbols[:, : inner.shape[1]] = torch.where(is_token[:, 1 : 1 + T], inner, NO_WORD)
    return symbols


def _by_length(world: ToyWorld, symbols: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Give the rows of each length, (B,), their symbols, (B, n), and the frames of that length, (G,)."""
    lengths = (symbols != NO_WORD).sum(1)
    for n in lengths.unique().tolist():
        rows, frames = (lengths == n).nonzero()[:, 0], (world.lengths == n).nonzero()[:, 0]
        if len(frames) == 0:
            raise ValueError(
                f"text {int(rows[0])} is no corrupted sentence of {world.path.name}: no sentence has its length "
                f"({n} words)."
            )
        for some in rows.split(250):  # bounds the memory
            yield some, symbols[some, :n], frames


def _visible(world: ToyWorld, symbols: Tensor, frames: Tensor) -> Tensor:
    """Return log P(what a place shows | z): (B, n, G), 0 where it is hidden."""
    V = len(world.words)
    logs = _emitted(world, symbols.clamp(max=V - 1), frames).log().masked_fill((symbols == V)[..., None], 0.0)
    if impossible := (logs.sum(1) == -torch.inf).all(-1).nonzero()[:, 0].tolist():
        words = [world.words[v] if v < V else MASK for v in symbols[impossible[0]].tolist()]
        raise ValueError(f"no sentence of {world.path.name} has these words in these places: {' '.join(words)}.")
    return logs


def _emitted(world: ToyWorld, words: Tensor, frames: Tensor) -> Tensor:
    """Return P(the word of a place | z), (B, n) -> (B, n, G)."""
    n = words.shape[1]
    return world.emissions[frames, :n].permute(1, 2, 0)[torch.arange(n), words]


def _words(world: ToyWorld, log_frames: Tensor, frames: Tensor | slice) -> Tensor:
    """Sum the frames out: (B, n, G) -> (B, n, V), each row up to a factor."""
    n = log_frames.shape[1]
    return torch.einsum("btf,ftv->btv", _scaled(log_frames), world.emissions[frames, :n])


def _scaled(logs: Tensor) -> Tensor:
    """Return exp of the logs, each row with 1 as its largest."""
    return (logs - logs.amax(-1, keepdim=True)).exp()


def _before(logs: Tensor) -> Tensor:
    """Return for each t the sum over the places before it, (B, n, G); -inf stays -inf."""
    return torch.cat([torch.zeros_like(logs[:, :1]), logs[:, :-1].cumsum(1)], dim=1)


def _behind(logs: Tensor) -> Tensor:
    """Return for each t the sum over the places behind it."""
    return _before(logs.flip(1)).flip(1)


def _others(logs: Tensor) -> Tensor:
    """Return for each t the sum over the other places, from both sides: the whole less one may be -inf less -inf."""
    return _before(logs) + _behind(logs)


# --- beside a trained model -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beside:
    """A model beside the perfect one, on the same corrupted tokens; all in nats per selected token.

    excess = loss - floor, paired; standard_error is the excess's, floor_error the floor's, over sentences.
    kinds: "masked", "kept", "replaced" -> (proportion of the selected tokens, loss, floor).
    """

    loss: float
    floor: float
    excess: float
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
) -> Beside:
    """Return the model's loss, the floor, and the paired excess on n fresh sentences.

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
    excess, error = ratio(ours - theirs, rows, n)
    floor, floor_error = ratio(theirs, rows, n)
    return Beside(floor + excess, floor, excess, error, floor_error, by_kind)


def floor(
    world: ToyWorld,
    n: int = 10_000,
    rate: float = 0.15,
    seed: int = 1_000_003,
    sees: str = "both",
    length: bool = True,
) -> tuple[float, float]:
    """Return the least expected MLM loss that any model can have, in nats per selected token, and its standard error.

    A mean over n sentences; sees, length: see `PerfectModel`.
    """
    perfect = PerfectModel(world, rate, sees, length)
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
