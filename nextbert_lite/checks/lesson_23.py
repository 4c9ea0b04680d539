"""The checks of lesson 23, The clinic.

A patient is a `Repair`: an exercise whose answer is a function or a class, with further questions (`asks`) for a wrong
answer that is none of the usual ones. The build is judged by `Specimen`s, small models with one disease each.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nextbert_lite.checks.core import (
    SEEDS,
    Build,
    CheckFailed,
    Exercise,
    Fault,
    Mistake,
    Prediction,
    Stage,
    blank,
    find,
    hint,
    mine,
    nothing_written,
    run,
    same,
    solution,
)
from nextbert_lite.training.loop import evaluating

__all__ = [
    "DISEASES",
    "Battery",
    "Specimen",
    "accumulation",
    "attention",
    "battery",
    "contrastive",
    "corruption",
    "decay_groups",
    "double_softmax",
    "drawing",
    "embeddings",
    "epochs_of_masks",
    "evaluation",
    "healed",
    "hint",
    "layer",
    "masked_loss",
    "mine",
    "padding_mask",
    "pooling",
    "solution",
    "tied",
    "two_losses",
    "words",
]

ARTICLE = "an article on BERT's successors, its section on RoBERTa in PyTorch, quoted in lesson 01"


def healed(exercise_id: str) -> Any:
    """Return the course's repaired program of a patient such as "23.4"."""
    return find(exercise_id).right


# --- 23.1 the build: a battery of tests -------------------------------------------------------------------------------

# disease -> (the test that is there for it, what the check calls such a model)
DISEASES = {
    "dropout never off": ("repeats", "one whose dropout stays on in eval mode"),
    "noise in the weights": ("repeats", "one that adds noise at each call"),
    "table of C rows": ("fits", "one whose position table has as many rows as the model is wide"),
    "text cut at C": ("fits", "one that cuts texts at its width"),
    "mask ignored": ("padding", "one that ignores the mask"),
    "mask inverted": ("padding", "one that takes True for padding"),
    "mask in layer 1 only": ("padding", "one that passes the mask to its first layer only"),
    "mask added as a number": ("padding", "one that adds the mask, 0 or 1, to the scores"),
    "mask from the ids": ("padding", "one that takes every id but 0 for real, whatever the mask says"),
    "softmax over queries": ("padding", "one whose softmax runs over the queries"),
    "batch first": ("rows", "one that reads (B, T, C) as (T, B, C): words attend to the other texts"),
    "norm over the batch": ("rows", "one that normalises over the texts of the batch"),
    "row 0's vector": ("rows", "one that adds the first text's mean to every text"),
    "causal": ("context", "one that sees the words to the left only"),
    "anticausal": ("context", "one that sees the words to the right only"),
    "neighbours only": ("context", "one that sees the next word on each side only"),
    "no attention": ("context", "one without attention"),
    "no positions": ("order", "one without positions"),
    "positions clamped": ("order", "one that gives all words from place C on the same position"),
    "positions modulo C": ("order", "one that counts its positions modulo the width"),
    "loss of all tokens": ("loss", "one whose loss counts the tokens that were not selected"),
    "mean, then weights": ("loss", "one that takes the mean first and weights it afterwards"),
    "mean of means": ("loss", "one that takes the mean of each text's mean"),
    "labels shifted": ("loss", "one that compares a position with the next one's label"),
    "summed loss": ("loss", "one whose loss is a sum"),
    "layer without gradient": ("gradients", "one that stops the gradient below its last layer"),
    "layer never called": ("gradients", "one that has a feed-forward network and never calls it"),
    "zero gradient": ("gradients", "one that multiplies a layer's output by 0"),
    "softmax twice": ("overfits", "one that gives probabilities where the loss takes logits"),
    "cosines as logits": ("overfits", "one whose logits are cosines, between -1 and 1"),
}
TESTS = tuple(dict.fromkeys(test for test, _ in DISEASES.values()))


class Block(nn.Module):
    """A post-norm encoder layer with the disease of its model; mask: (B, T) -> allowed (B, 1, 1, T)."""

    def __init__(self, C: int, H: int, disease: str | None):
        super().__init__()
        self.H, self.disease = H, disease
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.ffn = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C))

    def attend(self, x, mask):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.H, C // self.H).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / math.sqrt(C // self.H)  # (B, H, T, T)
        allowed = mask[:, None, None, :].expand(B, 1, T, T)
        near = torch.arange(T)[:, None] - torch.arange(T)  # (T, T): query - key
        allowed = {
            "causal": allowed & (near >= 0),
            "anticausal": allowed & (near <= 0),
            "neighbours only": allowed & (near.abs() <= 1),
            **{f"unseen from {n}": allowed & (torch.arange(T) % 3 != n) for n in range(3)},
        }.get(self.disease, allowed)
        if self.disease == "mask added as a number":
            weights = (scores + mask[:, None, None, :].float()).softmax(-1)
        else:
            dim = -2 if self.disease == "softmax over queries" else -1
            weights = scores.masked_fill(~allowed, -1e9).softmax(dim)
        return self.out((weights @ v).transpose(1, 2).reshape(B, T, C))

    def forward(self, x, mask):
        if self.disease == "batch first":
            attended = self.attend(x.transpose(0, 1), mask.T | True).transpose(0, 1)
        else:
            attended = self.attend(x, mask)
        x = self.norm1(x + (0 if self.disease == "no attention" else 1) * attended)
        if self.disease == "layer never called":
            return self.norm2(x)
        return self.norm2(x + (0 if self.disease == "zero gradient" else 1) * self.ffn(x))


class Specimen(nn.Module):
    """A masked language model of two layers that is healthy, or has one of `DISEASES`."""

    def __init__(self, V: int, max_len: int, disease: str | None = None, C: int = 8, H: int = 2, dropout: float = 0.1):
        super().__init__()
        self.disease, self.C = disease, C
        few = disease in ("table of C rows", "positions clamped", "positions modulo C")
        self.tokens, self.positions = nn.Embedding(V, C), nn.Embedding(C if few else max_len, C)
        self.norm, self.dropout = nn.LayerNorm(C), nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(C, H, disease if disease not in ("layer never called", "zero gradient") or last else None)
            for last in (False, True)
        )
        self.bias = nn.Parameter(torch.zeros(V))

    def forward(self, ids, mask):
        """ids: (B, T), mask: (B, T), True = real -> logits (B, T, V)"""
        disease = self.disease
        if disease == "text cut at C":
            ids, mask = ids[:, : self.C], mask[:, : self.C]
        mask = {"mask ignored": mask | True, "mask inverted": ~mask, "mask from the ids": ids != 0}.get(disease, mask)
        t = torch.arange(ids.shape[1])
        t = {"positions clamped": t.clamp(max=self.C - 1), "positions modulo C": t % self.C}.get(disease, t)
        t = t.flip(0) if disease == "counted from the end" else t
        x = self.tokens(ids) + (0 if disease == "no positions" else 1) * self.positions(t)
        if disease == "norm over the batch":
            x = (x - x.mean(0)) / (x.std(0, correction=0) + 0.1)
        if disease == "row 0's vector":
            x = x + x[:1].mean(1, keepdim=True)
        if disease == "noise in the weights":
            x = x + 0.1 * torch.randn_like(x)
        x = self.norm(x)
        x = F.dropout(x, 0.1) if disease == "dropout never off" else self.dropout(x)
        for number, block in enumerate(self.blocks):
            if disease == "layer without gradient" and number == 1:
                x = x.detach()
            x = block(x, mask | (disease == "mask in layer 1 only" and number == 1))
        if disease == "cosines as logits":
            return F.normalize(x, dim=-1) @ F.normalize(self.tokens.weight, dim=-1).T + self.bias / 1000
        logits = F.linear(x, self.tokens.weight, self.bias)
        return logits.softmax(-1) if disease == "softmax twice" else logits

    def loss(self, ids, labels, mask):
        """labels: (B, T), -100 where a token was not selected -> the mean loss of the selected tokens"""
        logits, disease = self(ids, mask), self.disease
        if disease == "labels shifted":
            logits, labels = logits[:, :-1], labels[:, 1:]
        selected = labels != -100
        each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        if disease == "mean of means":
            return (each.sum(1) / selected.sum(1).clamp(min=1)).mean()
        if disease == "mean, then weights":
            known = torch.where(selected, labels, ids)
            mean = F.cross_entropy(logits.flatten(0, 1), known.flatten())
            return (mean * selected).sum() / selected.sum()
        if disease == "loss of all tokens":
            return each.mean()
        return each.sum() if disease == "summed loss" else each.sum() / selected.sum()


class Battery:
    """Nine questions to a masked language model; the answer of each is True for a healthy one."""

    def __init__(self, V, max_len):
        self.V, self.max_len = V, max_len

    def texts(self, B, T):
        return torch.randint(1, self.V, (B, T))

    def logits(self, model, ids, mask=None):
        with evaluating(model), torch.no_grad():
            return model(ids, torch.ones_like(ids, dtype=torch.bool) if mask is None else mask)

    def batch(self):
        ids, labels = self.texts(3, 6), torch.full((3, 6), -100)
        for row, places in enumerate([[0], [1, 4], [0, 2, 3, 5]]):
            labels[row, places] = ids[row, places]
        ids[labels != -100] = 1  # [MASK]
        return ids, labels, torch.ones_like(ids, dtype=torch.bool)

    def repeats(self, model):
        ids = self.texts(2, 6)
        return torch.allclose(self.logits(model, ids), self.logits(model, ids), atol=1e-4)

    def fits(self, model):
        try:
            return self.logits(model, self.texts(2, self.max_len)).shape == (2, self.max_len, self.V)
        except (IndexError, RuntimeError):
            return False

    def padding(self, model):
        ids, lengths = self.texts(3, 8), [8, 5, 2]
        padded = self.logits(model, ids, torch.arange(8) < torch.tensor(lengths)[:, None])
        alone = [self.logits(model, ids[i : i + 1, :n])[0] for i, n in enumerate(lengths)]
        return all(torch.allclose(padded[i, :n], alone[i], atol=1e-4) for i, n in enumerate(lengths))

    def rows(self, model):
        ids, results = self.texts(4, 6), []
        for i in range(4):
            other = self.texts(4, 6)
            other[i] = ids[i]
            results.append(torch.allclose(self.logits(model, ids)[i], self.logits(model, other)[i], atol=1e-4))
        return all(results)

    def context(self, model):
        ids = self.texts(1, 8)
        before = self.logits(model, ids)[0]
        for t in range(8):
            changed = ids.clone()
            changed[0, t] = ids[0, t] % (self.V - 1) + 1  # another word
            moved = (self.logits(model, changed)[0] - before).abs().amax(-1)
            if not (moved > 1e-4).all():
                return False
        return True

    def order(self, model):
        T = self.max_len
        pairs = [(i, j) for i in range(T) for j in range(i)]
        places = torch.arange(T).repeat(len(pairs), 1)  # (pairs, T), in each row two places exchanged
        for row, (i, j) in enumerate(pairs):
            places[row, i], places[row, j] = j, i
        ids = torch.randperm(self.V - 1)[:T] + 1 if self.V > T else self.texts(1, T)[0]
        moved = self.logits(model, ids[places]) - self.logits(model, ids[None])[0][places]  # (pairs, T, V)
        return bool((moved.abs().amax((1, 2)) > 1e-4).all())

    def loss(self, model):
        ids, labels, mask = self.batch()
        logits, selected = self.logits(model, ids, mask), labels != -100
        by_hand = -logits.log_softmax(-1)[selected].gather(1, labels[selected][:, None]).mean()
        with evaluating(model), torch.no_grad():
            return torch.allclose(model.loss(ids, labels, mask), by_hand, atol=1e-4)

    def gradients(self, model):
        model = copy.deepcopy(model).eval()
        model.zero_grad()
        model.loss(*self.batch()).backward()
        return all(p.grad is not None and (p.grad != 0).any().item() for p in model.parameters())

    def overfits(self, model):
        model, batch = copy.deepcopy(model).eval(), self.batch()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        start = model.loss(*batch).item()
        for _ in range(50):
            optimizer.zero_grad()
            loss = model.loss(*batch)
            loss.backward()
            optimizer.step()
        return loss.item() < start / 10


SIZES = ((20, 13, 8), (27, 18, 12))  # V, max_len, C
HEALTHY = {"a healthy model": {}, "a healthy model without dropout": {"dropout": 0.0}}


def watched(model: Specimen) -> list[tuple[bool, str]]:
    """Return a list that grows with each call of the model or of a copy: whether dropout was on, and the texts."""
    calls = []

    def note(called, arguments, named):
        calls.append((called.dropout.training and called.dropout.p > 0, str([*arguments, *named.values()][:1])))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return calls


def examined(test: str) -> Callable:
    """Return the run of a stage: a test of the answer meets healthy models and those with a disease it is there for."""

    def verdicts(answer, generator):
        shared = (test, "logits", "texts", "batch", "__init__")
        if answer is not Battery and all(getattr(answer, n, None) is getattr(Battery, n) for n in shared):
            return True  # a usual mistake of another test: this one is the course's
        V, max_len, C = SIZES[int(torch.randint(2, (), generator=generator))]
        sick = {said: {"disease": name} for name, (of, said) in DISEASES.items() if of == test}
        if test == "padding":
            sick["one that counts its positions from the end, padding included"] = {"disease": "counted from the end"}
        for n in range(3) if test == "context" else ():
            sick[f"one that never looks at the words at the places {n}, {n + 3}, {n + 6}, …"] = {
                "disease": f"unseen from {n}"
            }
        accused, survived, awake, batches = [], [], False, 1
        for said, options in (HEALTHY | sick).items():
            model = Specimen(V, max_len, C=C, **options).train()
            model.norm.eval()  # a part that came in eval mode
            for p in model.parameters() if model.disease == "layer never called" else ():
                p.grad = torch.ones_like(p)  # what an earlier backward pass left
            before, modes, calls = (
                copy.deepcopy(model.state_dict()),
                [p.training for p in model.modules()],
                watched(model),
            )
            try:
                found = getattr(answer(V, max_len), test)(model)
            except Exception as error:  # noqa: BLE001 - a learner's code may raise anything
                raise Fault(f"for {said} your `{test}` raised {type(error).__name__}: {error}.") from None
            found = found.item() if isinstance(found, torch.Tensor) and found.numel() == 1 else found
            if found is None or found not in (True, False):
                more = ": is it still blank, or is a `return` missing?" if found is None else "."
                raise Fault(f"`{test}` should give True or False; yours gives {found!r:.60}{more}")
            if any(not torch.equal(before[name], value) for name, value in model.state_dict().items()):
                raise Fault(
                    f"your `{test}` changed the weights of the model it examines. Work on `copy.deepcopy(model)`."
                )
            after = [part.training for part in model.modules()]
            if not any(after):
                raise Fault(
                    f"your `{test}` leaves the model in eval mode. `with evaluating(model):` gives its mode back."
                )
            if after != modes:
                raise Fault(
                    f"your `{test}` leaves a part of the model in another mode: one came in eval mode, the others in "
                    "training mode. `model.train()` puts all into training mode; give each its own mode back."
                )
            awake, batches = awake or any(on for on, _ in calls), max(batches, len({ids for _, ids in calls}))
            if awake and test == "overfits":
                raise Fault("your `overfits` trains with dropout. Put the copy into eval mode; it learns there, too.")
            if found and said in sick:
                survived.append(said)
            if not found and said not in sick:
                accused.append(said)
        if accused and awake and test != "fits":
            raise Fault(f"your `{test}` says False of a healthy model: it calls it in training mode, with dropout.")
        if accused or survived:
            parts = [f"your `{test}` says False of {' and of '.join(accused)}."] if accused else []
            parts += (
                [f"{'It also' if accused else f'your `{test}`'} says True of {'; of '.join(survived)}."]
                if survived
                else []
            )
            if not accused and test == "context" and all("the places" in said for said in survived):
                parts += ["Change a word at *each* place of the text, one place after the other."]
            if accused and test == "overfits":
                parts += [
                    "It trains on one batch, as it should. Is the gradient set to zero before each step?"
                    if batches == 1
                    else "It trains on several batches."
                ]
            raise Fault(" ".join(parts))
        return True

    return verdicts


def stages() -> tuple[Stage, ...]:
    return tuple(Stage(test, examined(test)) for test in TESTS)


def without_eval(self, model, ids, mask=None):
    with torch.no_grad():
        return model(ids, torch.ones_like(ids, dtype=torch.bool) if mask is None else mask)


def leaves_eval(self, model, ids, mask=None):
    with torch.no_grad():
        return model.eval()(ids, torch.ones_like(ids, dtype=torch.bool) if mask is None else mask)


def fits_without_try(self, model):
    return self.logits(model, self.texts(2, self.max_len)).shape == (2, self.max_len, self.V)


def fits_short(self, model):
    return self.logits(model, self.texts(2, 6)).shape == (2, 6, self.V)


def fits_if_it_runs(self, model):
    try:
        self.logits(model, self.texts(2, self.max_len))
    except Exception:  # noqa: BLE001 - as a learner writes it
        return False
    return True


def padding_of_zeros(self, model):
    ids, lengths = self.texts(3, 8), [8, 5, 2]
    mask = torch.arange(8) < torch.tensor(lengths)[:, None]
    padded = self.logits(model, ids * mask, mask)
    alone = [self.logits(model, ids[i : i + 1, :n])[0] for i, n in enumerate(lengths)]
    return all(torch.allclose(padded[i, :n], alone[i], atol=1e-4) for i, n in enumerate(lengths))


def padding_compared_too(self, model):
    ids, other = self.texts(3, 8), self.texts(3, 8)
    mask = torch.arange(8) < torch.tensor([8, 5, 2])[:, None]
    a, b = self.logits(model, ids, mask), self.logits(model, torch.where(mask, ids, other), mask)
    return torch.allclose(a, b, atol=1e-4)


def padding_words_changed(self, model):
    ids, other = self.texts(3, 8), self.texts(3, 8)
    mask = torch.arange(8) < torch.tensor([8, 5, 2])[:, None]
    a, b = self.logits(model, ids, mask), self.logits(model, torch.where(mask, ids, other), mask)
    return torch.allclose(a[mask], b[mask], atol=1e-4)


def padding_changes_something(self, model):
    ids, mask = self.texts(3, 8), torch.arange(8) < torch.tensor([8, 5, 2])[:, None]
    a, b = self.logits(model, ids, mask), self.logits(model, ids)
    return not torch.allclose(a[mask], b[mask], atol=1e-4)


def rows_permuted(self, model):
    ids, order = self.texts(4, 6), torch.tensor([2, 0, 3, 1])
    return torch.allclose(self.logits(model, ids[order]), self.logits(model, ids)[order], atol=1e-4)


def rows_all_compared(self, model):
    ids = self.texts(4, 6)
    other = torch.cat([ids[:1], self.texts(3, 6)])
    return torch.allclose(self.logits(model, ids), self.logits(model, other), atol=1e-4)


def rows_first_kept(self, model):
    ids = self.texts(4, 6)
    other = torch.cat([ids[:1], self.texts(3, 6)])
    return torch.allclose(self.logits(model, ids)[0], self.logits(model, other)[0], atol=1e-4)


def moved_by(self, model, place):
    ids = self.texts(1, 8)
    changed = ids.clone()
    changed[0, place] = ids[0, place] % (self.V - 1) + 1
    return (self.logits(model, changed)[0] - self.logits(model, ids)[0]).abs().amax(-1)


def context_of_first(self, model):
    return bool((moved_by(self, model, 0) > 1e-4).all())


def context_of_last(self, model):
    return bool((moved_by(self, model, 7) > 1e-4).all())


def context_any(self, model):
    return all(bool((moved_by(self, model, t) > 1e-4).any()) for t in range(8))


def context_of_neighbours(self, model):
    return all(bool((moved_by(self, model, t)[[t - 1, t + 1]] > 1e-4).all()) for t in range(1, 7))


def order_short(self, model):
    ids = torch.randperm(self.V - 1)[:6][None] + 1
    places = torch.tensor([1, 0, 2, 3, 4, 5])
    return not torch.allclose(self.logits(model, ids[:, places]), self.logits(model, ids)[:, places], atol=1e-4)


def order_not_put_back(self, model):
    ids = self.texts(1, self.max_len)
    return not torch.allclose(self.logits(model, ids.flip(1)), self.logits(model, ids), atol=1e-4)


def order_last_two(self, model):
    T = self.max_len
    ids = torch.randperm(self.V - 1)[:T][None] + 1
    places = torch.tensor([*range(T - 2), T - 1, T - 2])
    return not torch.allclose(self.logits(model, ids[:, places]), self.logits(model, ids)[:, places], atol=1e-4)


def loss_by_hand(self, model, ids, labels):
    mask = torch.ones_like(ids, dtype=torch.bool)
    by_hand = F.cross_entropy(self.logits(model, ids, mask).flatten(0, 1), labels.flatten())
    with evaluating(model), torch.no_grad():
        return torch.allclose(model.loss(ids, labels, mask), by_hand, atol=1e-4)


def loss_all_selected(self, model):
    ids = self.texts(3, 6)
    return loss_by_hand(self, model, ids, ids.clone())


def loss_one_a_row(self, model):
    ids = self.texts(3, 6)
    labels = torch.full((3, 6), -100)
    labels[:, 2] = ids[:, 2]
    return loss_by_hand(self, model, ids, labels)


def loss_of_texts(self, model):
    ids, labels, mask = self.batch()
    by_hand = sum(F.cross_entropy(*row) for row in zip(self.logits(model, ids, mask), labels, strict=True)) / 3
    with evaluating(model), torch.no_grad():
        return torch.allclose(model.loss(ids, labels, mask), by_hand, atol=1e-4)


def loss_is_finite(self, model):
    with evaluating(model), torch.no_grad():
        return bool(model.loss(*self.batch()).isfinite())


def loss_at_the_start(self, model):
    with evaluating(model), torch.no_grad():
        return bool(model.loss(*self.batch()) < 4 * math.log(self.V))


def gradients_not_none(self, model):
    model = copy.deepcopy(model).eval()
    model.loss(*self.batch()).backward()
    return all(p.grad is not None for p in model.parameters())


def gradients_of_before(self, model):
    with evaluating(model):
        model.loss(*self.batch()).backward()
    return all(p.grad is not None and bool((p.grad != 0).any()) for p in model.parameters())


def gradients_of_tokens(self, model):
    model = copy.deepcopy(model).eval()
    model.loss(*self.batch()).backward()
    return bool((next(model.parameters()).grad != 0).any())


def gradients_all_nonzero(self, model):
    model = copy.deepcopy(model).eval()
    model.loss(*self.batch()).backward()
    return all(p.grad is not None and (p.grad != 0).all().item() for p in model.parameters())


def fall(self, model, batches, factor=0.1):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    start = model.loss(*batches(0)).item()
    for step in range(50):
        optimizer.zero_grad()
        loss = model.loss(*batches(step))
        loss.backward()
        optimizer.step()
    return loss.item() < factor * start


def overfits_the_model_itself(self, model):
    batch = self.batch()
    with evaluating(model):
        return fall(self, model, lambda step: batch)


def overfits_at_all(self, model):
    batch = self.batch()
    return fall(self, copy.deepcopy(model).eval(), lambda step: batch, factor=1)


def overfits_fresh_batches(self, model):
    return fall(self, copy.deepcopy(model).eval(), lambda step: self.batch())


def instead(**methods) -> type:
    return type("Battery", (Battery,), methods)


def in_one_batch(self, model):
    """Another way: the padding of one text, exchanged for other words and for none at all."""
    ids, mask = self.texts(2, 9), torch.arange(9) < torch.tensor([[4], [9]])
    padded, short = self.logits(model, ids, mask)[0, :4], self.logits(model, ids[:1, :4])[0]
    return bool((padded - short).abs().max() < 1e-3) and padding_words_changed(self, model)


def another_order(self, model):
    T = self.max_len
    ids = self.texts(1, 1).expand(1, T)  # one word over and over: only its position can tell its places apart
    logits = self.logits(model, ids)[0]
    return bool((torch.cdist(logits, logits) + torch.eye(T) > 1e-4).all())


def with_hooks(self, model):
    model = copy.deepcopy(model).eval()
    parameters = list(model.parameters())
    grads = torch.autograd.grad(model.loss(*self.batch()), parameters, allow_unused=True)
    return not any(g is None or g.abs().sum() == 0 for g in grads)


battery = Build(
    id="23.1",
    course=Battery,
    stages=stages(),
    mistakes=(
        Mistake(
            "dropout left on",
            instead(logits=without_eval),
            "you call the model as it comes, in training mode: dropout makes two calls differ for a healthy model "
            "too. Put it into eval mode, `with evaluating(model):`. `torch.no_grad()` does not turn dropout off.",
            "https://github.com/huggingface/transformers/issues/432",
        ),
        Mistake(
            "left in eval mode",
            instead(logits=leaves_eval),
            "your test leaves the model in eval mode, and the training that goes on afterwards has no dropout. "
            "`with evaluating(model):` gives each part its own mode back.",
            "https://github.com/huggingface/transformers/issues/432, and what the repair forgets",
        ),
        Mistake(
            "exception not caught",
            instead(fits=fits_without_try),
            "a model whose table is too short raises an IndexError, and your test raises it too. Catch it: for `fits` "
            "an exception is an answer, False.",
            "https://github.com/huggingface/sentence-transformers/issues/1600",
        ),
        Mistake(
            "short text",
            instead(fits=fits_short),
            "your text is short. A table with too few rows raises at the length max_len only: ask with a full-length "
            "text.",
            ARTICLE,
        ),
        Mistake(
            "runs, so it fits",
            instead(fits=fits_if_it_runs),
            "to run is not enough: a model that cuts its texts runs too, and gives fewer positions than it was given. "
            "Compare the shape with (B, max_len, V).",
            "a repair of the IndexError that cuts the text, https://github.com/allenai/longformer/issues/187",
        ),
        Mistake(
            "padding of zeros",
            instead(padding=padding_of_zeros),
            "your padding holds the id 0. A model that looks at the ids, and never at the mask, passes; in RoBERTa "
            "the padding has the id 1. Leave other words where the mask is False.",
            "https://github.com/huggingface/transformers/issues/34528",
        ),
        Mistake(
            "padding compared too",
            instead(padding=padding_compared_too),
            "you compare the vectors at the padding as well. What a model gives there is used by nobody and may "
            "change: compare the real positions, where the mask is True.",
            "https://github.com/Biohub/esm/issues/299",
        ),
        Mistake(
            "the mask does something",
            instead(padding=padding_changes_something),
            "you ask whether the mask changes anything. A wrong mask does that too. Ask for equality: a text beside "
            "longer ones must get the numbers that it gets alone.",
            "https://github.com/jadore801120/attention-is-all-you-need-pytorch/issues/148",
        ),
        Mistake(
            "padding exchanged only",
            instead(padding=padding_words_changed),
            "you exchange the words behind the mask only. A model that counts its positions from the end, padding "
            "included, passes. Compare with the text alone, unpadded.",
            "a test of which words stand behind the mask, and not of how many",
        ),
        Mistake(
            "rows permuted",
            instead(rows=rows_permuted),
            "you permute the texts of the batch, and a model whose words attend to the other texts gives permuted "
            "results too: attention does not care about the order of what it reads. Give a text *other* neighbours.",
            "https://github.com/Exorust/TorchLeet/issues/5",
        ),
        Mistake(
            "changed rows compared",
            instead(rows=rows_all_compared),
            "you compare the rows that you changed. Their logits must change; compare the row that you kept.",
            "a test that compares whole tensors",
        ),
        Mistake(
            "only row 0 kept",
            instead(rows=rows_first_kept),
            "you always keep the first text of the batch, and what leaks out of the first one stays unseen. Keep "
            "another one too.",
            "a mask or a mean that is taken from row 0",
        ),
        Mistake(
            "only the first word",
            instead(context=context_of_first),
            "you change the first word only: a model that reads from left to right passes. Change a word at each "
            "place.",
            "a decoder's mask in an encoder, and a test that looks at one side",
        ),
        Mistake(
            "only the last word",
            instead(context=context_of_last),
            "you change the last word only: a model that reads from right to left passes. Change a word at each place.",
            "a decoder's mask in an encoder, and a test that looks at one side",
        ),
        Mistake(
            "anything moves",
            instead(context=context_any),
            "you ask whether *anything* moves. The changed word's own logits always do. Every position must move.",
            "`any` in place of `all`",
        ),
        Mistake(
            "neighbours only",
            instead(context=context_of_neighbours),
            "you look at the neighbours of the changed word. Attention has no distance: every position must move.",
            "a test of a window of one",
        ),
        Mistake(
            "short order",
            instead(order=order_short),
            "you exchange words at the beginning of the text only, or many at once. A model that gives late words an "
            "earlier word's position passes. Take the length max_len, exchange two places, and try every pair.",
            "https://github.com/snel-repo/neural-data-transformers/issues/1 (an index too large for its table)",
        ),
        Mistake(
            "order not put back",
            instead(order=order_not_put_back),
            "without positions the logits of a reversed text are reversed, so they *differ* from those of the text. "
            "Put the logits back into the text's order before you compare.",
            "the proof of permutation equivariance in lesson 02, half done",
        ),
        Mistake(
            "the last two",
            instead(order=order_last_two),
            "you exchange one pair of places. Two places that share a position can lie anywhere, C places apart if "
            "positions are counted modulo C: try every pair.",
            "a repair of the IndexError that counts modulo the table's rows",
        ),
        Mistake(
            "all selected",
            instead(loss=loss_all_selected),
            "every token of your batch is selected, so that a loss over all tokens is right. Leave most labels at "
            "-100.",
            "https://github.com/CyberZHG/keras-bert/issues/188",
        ),
        Mistake(
            "one a row",
            instead(loss=loss_one_a_row),
            "each text of your batch has equally many selected tokens, and then the mean of the texts' means is the "
            "mean over the tokens. Select 1, 2 and 4.",
            "https://github.com/huggingface/transformers/issues/24725",
        ),
        Mistake(
            "texts by hand",
            instead(loss=loss_of_texts),
            "what you compute by hand is the mean of each text's mean. Take the selected tokens of the whole batch "
            "together, and divide by their number.",
            "https://github.com/huggingface/transformers/issues/24725",
        ),
        Mistake(
            "a finite loss",
            instead(loss=loss_is_finite),
            "a wrong loss is finite too. Compute it by hand from `model(ids, mask)` and compare.",
            "a test for NaN",
        ),
        Mistake(
            "loss at the start",
            instead(loss=loss_at_the_start),
            "a loss near ln V at the start is a good sign and no proof: a loss over all tokens starts there too. "
            "Compute it by hand from `model(ids, mask)` and compare.",
            "lesson 05's rule for the start, taken for a test",
        ),
        Mistake(
            "not None",
            instead(gradients=gradients_not_none),
            "a gradient that is there may be zero everywhere: what is multiplied by 0 has one. Ask for a number that "
            "is not 0.",
            "`p.grad is not None` as a test",
        ),
        Mistake(
            "gradients of before",
            instead(gradients=gradients_of_before),
            "the gradients of an earlier backward pass are still there, and you take them for this one's. Call "
            "`zero_grad()` first, on a copy or on the model.",
            "gradients add up until they are set to zero: torch's documentation of Tensor.backward",
        ),
        Mistake(
            "one parameter",
            instead(gradients=gradients_of_tokens),
            "you look at one parameter, and the embedding gets a gradient by the output too. Look at every parameter.",
            "a look at the first parameter",
        ),
        Mistake(
            "all nonzero",
            instead(gradients=gradients_all_nonzero),
            "you ask for a gradient in every *number*. The rows of positions beyond the text get none, and that is "
            "right. One number of a tensor that is not 0 will do.",
            "`all` in place of `any`",
        ),
        Mistake(
            "trains the patient",
            instead(overfits=overfits_the_model_itself),
            "your test trained the model that it was to examine. Train a copy: `copy.deepcopy(model)`.",
            "a test with a side effect",
        ),
        Mistake(
            "falls at all",
            instead(overfits=overfits_at_all),
            "you ask whether the loss falls. It falls for many sick models; it must fall to (nearly) nothing, below a "
            "tenth of its start.",
            "https://github.com/ariecattan/SciCo/issues/2",
        ),
        Mistake(
            "fresh batches",
            instead(overfits=overfits_fresh_batches),
            "you draw a new batch at each step. Random texts cannot be predicted, so a healthy model fails. Train on "
            "*one* batch, drawn once.",
            "overfitting one batch, without the one batch",
        ),
    ),
    hints=(
        "Write two helpers first, as methods: one that draws random ids from 1 to V - 1, `torch.randint(1, self.V, "
        "(B, T))`, "
        "and one that gives the logits in eval mode, `with evaluating(model), torch.no_grad(): return model(ids, "
        "mask)`.",
        "`padding`: three texts of lengths 8, 5 and 2 in one batch, then each alone, `ids[i : i + 1, :n]`. `rows`: "
        "another batch with the same row i. `torch.allclose(a, b, atol=1e-4)` compares.",
        "`context`: `(after - before).abs().amax(-1) > 1e-4` says for each position whether its logits moved. `order`: "
        "`places = torch.arange(T)`, exchange two of its entries, compare `logits(ids[:, places])` with "
        "`logits(ids)[:, places]`.",
        "`loss`: `F.cross_entropy(logits[labels != -100], labels[labels != -100])`, in eval mode on both sides. "
        "`gradients` and `overfits` work on `copy.deepcopy(model).eval()`.",
    ),
    praise="None of the thirty sick models got past it, and no healthy one was accused.",
    other_ways=(instead(padding=in_one_batch, order=another_order, gradients=with_hooks),),
)


# --- the patients -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repair(Exercise):
    """A program to repair: `use(answer, *case)` gives what is compared. Of a wrong answer that is none of the usual
    ones, each of `asks` may say what is still wrong: outcome, right outcome -> a sentence or None. `look` may call the
    answer again: answer, case -> a sentence or None."""

    use: Callable[..., Any] = lambda answer, *case: answer(*case)
    asks: tuple[Callable[[Any, Any], str | None], ...] = ()
    look: Callable[[Callable, tuple], str | None] = lambda answer, case: None

    def run(self, function: Callable, case: tuple) -> Any:
        return run(lambda *arguments: self.use(function, *arguments), case)

    def check(self, answer: Callable) -> None:
        if isinstance(answer, type) and nothing_written(answer):
            return blank(self.id)
        try:
            super().check(answer)
        except CheckFailed as failed:
            if "For a hint" in str(failed):
                cases = [self.inputs(torch.Generator().manual_seed(seed)) for seed in SEEDS]
                with torch.random.fork_rng(devices=[]):
                    all_of_them = [(self.run(answer, case), self.run(self.right, case)) for case in cases]
                    wrong = [number for number, pair in enumerate(all_of_them) if not same(*pair)]
                    first = wrong[0] if wrong else 0
                    looked = run(lambda: self.look(answer, copy.deepcopy(cases[first])), ())
                yours, right = all_of_them[first]
                asked = [] if isinstance(yours, Exception) else [*(ask(yours, right) for ask in self.asks)]
                for sentence in () if isinstance(yours, Fault) else (*asked, looked, factor(all_of_them)):
                    if isinstance(sentence, str):
                        raise CheckFailed(f"{self.id}: {sentence} For a hint: check.hint('{self.id}').") from None
            raise


def factor(both: list[tuple[Any, Any]]) -> str | None:
    """Return a sentence where the outcomes are the right ones times one number, other than 1."""
    if not all(isinstance(t, torch.Tensor | int | float) and numbers(t).numel() == numbers(r).numel() for t, r in both):
        return None
    yours, right = (torch.cat([numbers(outcomes[i]).flatten() for outcomes in both]) for i in (0, 1))
    by = (yours @ right / (right @ right)).item()
    if not abs(by) > 1e-6 or not torch.allclose(yours, by * right, rtol=1e-4):
        return None
    return f"your result is {by:.4g} times the right one, everywhere: look at what you divide or multiply by."


def numbers(outcome: Any) -> torch.Tensor:
    return torch.as_tensor(outcome).detach().double()


# --- 23.3 a position table of C rows ----------------------------------------------------------------------------------


class Embeddings(nn.Module):
    """Token + position embeddings for texts of up to max_len tokens."""

    table, place, cut, caught = staticmethod(lambda V, C, max_len: max_len), None, False, False

    def __init__(self, V, C, max_len):
        super().__init__()
        self.tokens = nn.Embedding(V, C)
        self.positions = nn.Embedding(self.table(V, C, max_len), C)

    def forward(self, ids):
        ids = ids[:, : self.positions.num_embeddings] if self.cut else ids
        t = torch.arange(ids.shape[1])
        rows = self.positions.num_embeddings
        t = {"clamp": t.clamp(max=rows - 1), "modulo": t % rows}.get(self.place, t)
        try:
            return self.tokens(ids) + self.positions(t)
        except IndexError:
            if self.caught:
                return self.tokens(ids)
            raise


def of_rows(table=lambda V, C, max_len: C, **switches):
    return type("Embeddings", (Embeddings,), {"table": staticmethod(table), **switches})


class SlicedTable(nn.Module):
    def __init__(self, V, C, max_len):
        super().__init__()
        self.positions = nn.Embedding(max_len, C)
        self.tokens = nn.Embedding(V, C)

    def forward(self, ids):
        return self.tokens.weight[ids] + self.positions.weight[: ids.shape[1]]


def rows_used(answer, V, C, max_len):
    """Return the table's rows, the longest text that runs, and the row that each of its places gets (-1: none)."""
    torch.manual_seed(0)
    module = answer(V, C, max_len)
    tokens, positions = getattr(module, "tokens", None), getattr(module, "positions", None)
    if not isinstance(tokens, nn.Embedding) or not isinstance(positions, nn.Embedding):
        raise Fault("keep the names `tokens` and `positions`, and make both nn.Embedding.")
    nn.init.normal_(tokens.weight), nn.init.normal_(positions.weight)
    longest, ids = 0, torch.randint(V, (2, max_len))
    for T in range(1, max_len + 1):
        try:
            out = module(ids[:, :T])
        except IndexError:
            break
        except RuntimeError as error:
            raise Fault(
                f"a text of {T} tokens raises: {error}. Any length up to max_len, {max_len}, should run."
            ) from None
        longest = T
    if not longest:
        raise Fault(
            "a text of one token raises an IndexError. Its row is that of its *place*, 0, whatever the word is."
        )
    if not isinstance(out, torch.Tensor) or out.ndim != 3 or len(out) != 2:
        raise Fault("forward gives (B, T, C): one vector for each token.")
    rest = (out - tokens(ids[:, : out.shape[1]])).double()
    far, row = torch.cdist(rest, positions.weight.double(), compute_mode="donot_use_mm_for_euclid_dist").min(-1)
    row = torch.where(far < 1e-3, row, -1)
    for t in (row[0] != row[1]).nonzero()[:1, 0].tolist():
        raise Fault(
            f"place {t} gets row {row[0, t]} in one text and row {row[1, t]} in the next. The row depends on the "
            "place alone, not on the word and not on which text it is."
        )
    return positions.num_embeddings, longest, row[1]


def places_and_rows(yours, right):
    if yours[0] != right[0]:
        return f"the table has {yours[0]} rows where max_len is {right[0]}. Places run from 0 to max_len - 1."
    if yours[1] != right[1]:
        return f"the longest text that runs has {yours[1]} tokens, and max_len is {right[1]}."
    wrong = [(t, row) for t, row in enumerate(yours[2].tolist()) if row != t][:1]
    return "".join(f"place {t} gets {'no row' if row < 0 else f'row {row}'} of the table." for t, row in wrong) or None


embeddings = Repair(
    id="23.3",
    right=Embeddings,
    use=rows_used,
    inputs=lambda generator: (97, 8, int(torch.randint(20, 40, (), generator=generator))),
    also=lambda generator: (50, 24, 11),
    mistakes=(
        Mistake(
            "the patient",
            of_rows(),
            "a text longer than the model is wide still raises an IndexError: the table has C rows. How many "
            "positions there are has nothing to do with the width.",
            ARTICLE,
        ),
        Mistake(
            "the text cut",
            of_rows(cut=True),
            "you cut the text at C tokens. The error is gone, and so is the rest of the text. Give the table "
            "max_len rows.",
            "https://github.com/allenai/longformer/issues/187",
        ),
        Mistake(
            "clamped",
            of_rows(place="clamp"),
            "all words behind place C share one position now: the model cannot tell their order. Give the table "
            "max_len "
            "rows.",
            "https://github.com/snel-repo/neural-data-transformers/issues/1 (an index too large for its table)",
        ),
        Mistake(
            "modulo",
            of_rows(place="modulo"),
            "position C is position 0 again: two words C places apart cannot be told apart. Give the table max_len "
            "rows.",
            "https://github.com/snel-repo/neural-data-transformers/issues/1 (an index too large for its table)",
        ),
        Mistake(
            "caught",
            of_rows(caught=True),
            "you caught the exception, and long texts get no positions at all. Give the table max_len rows.",
            "try and except around an IndexError",
        ),
        Mistake(
            "V rows",
            of_rows(lambda V, C, max_len: V),
            "the table has V rows. That runs while the vocabulary is larger than the longest text, and trains as many "
            "rows too many: positions are counted up to max_len.",
            "the other number at hand, nn.Embedding(vocab_size, hidden_size) written twice",
        ),
        Mistake(
            "512 rows",
            of_rows(lambda V, C, max_len: 512),
            "the table has 512 rows whatever max_len is. Take the argument.",
            "BERT's number, https://github.com/huggingface/sentence-transformers/issues/1600",
        ),
        Mistake(
            "one too few",
            of_rows(lambda V, C, max_len: max_len - 1),
            "the table has max_len - 1 rows, so the longest text still raises. Positions run from 0 to max_len - 1: "
            "max_len of them.",
            "https://github.com/bentrevett/pytorch-seq2seq/issues/89 (index 100 of a table of 99)",
        ),
    ),
    asks=(places_and_rows,),
    hints=("Which of V, C and max_len says how many positions there are?", "`nn.Embedding(max_len, C)`."),
    praise="The table has a row for each place of the longest text, and no place shares one.",
    other_ways=(SlicedTable,),
)


# --- 23.4 nn.TransformerEncoderLayer as it comes ----------------------------------------------------------------------


def bert_layer(C, H):
    return nn.TransformerEncoderLayer(C, H, 4 * C, dropout=0.0, activation="gelu", batch_first=True)


class Around(nn.Module):
    """A layer that reads (T, B, C), with something done before and after it."""

    def __init__(self, C, H, before, after):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(C, H, 4 * C, dropout=0.0, activation="gelu")
        self.before, self.after = before, after

    def forward(self, x):
        B, T, C = x.shape
        return self.after(self.layer(self.before(x, B, T, C)), B, T, C)


def around(before, after):
    return lambda C, H: Around(C, H, before, after)


class Wrapped(nn.Module):
    """A layer that reads (B, T, C), under a name of the learner's own."""

    def __init__(self, C, H):
        super().__init__()
        self.postnorm_layer = bert_layer(C, H)

    def forward(self, x):
        return self.postnorm_layer(x)


def layered(answer, C, H):
    """Return what a layer with seeded weights gives for three texts, and for the last of them alone."""
    module = answer(C, H)
    if not isinstance(module, nn.Module):
        raise Fault("return the layer, an nn.Module that is called with x.")
    generator = torch.Generator().manual_seed(1)
    norms = {id(p) for part in module.modules() if isinstance(part, nn.LayerNorm) for p in part.parameters()}
    for _, p in sorted(module.named_parameters(), key=lambda pair: pair[0].removeprefix("layer.")):
        p.data = torch.randn(p.shape, generator=generator) * p.shape[-1] ** -0.5 + (id(p) in norms)
    x = torch.randn(3, 5, C, generator=generator)
    torch.manual_seed(0)
    module.train()  # what is hidden in eval mode comes back in training
    return module(x), module(x[2:])


layer = Repair(
    id="23.4",
    right=bert_layer,
    use=layered,
    inputs=lambda generator: (16, 4),
    also=lambda generator: (24, 3),
    mistakes=(
        Mistake(
            "the patient",
            lambda C, H: nn.TransformerEncoderLayer(C, H),
            "nothing is repaired: the first dimension is still taken for the words. See the defaults in "
            "`help(nn.TransformerEncoderLayer)`; there are four to change.",
            "https://github.com/Exorust/TorchLeet/issues/5",
        ),
        Mistake(
            "batch_first alone",
            lambda C, H: nn.TransformerEncoderLayer(C, H, batch_first=True),
            "the texts no longer mix. But the layer still has 2048 hidden features, ReLU and a dropout of 0.1, torch's "
            "defaults: it is not BERT's layer.",
            "https://github.com/Exorust/TorchLeet/issues/5, whose repair this is",
        ),
        Mistake(
            "ReLU",
            lambda C, H: nn.TransformerEncoderLayer(C, H, 4 * C, dropout=0.0, batch_first=True),
            "the activation function is ReLU, torch's default. BERT's is GELU.",
            "torch's documentation: activation=relu",
        ),
        Mistake(
            "2048",
            lambda C, H: nn.TransformerEncoderLayer(C, H, dropout=0.0, activation="gelu", batch_first=True),
            "the feed-forward network has 2048 hidden features, torch's default. BERT has 4C.",
            "torch's documentation: dim_feedforward=2048",
        ),
        Mistake(
            "dropout",
            lambda C, H: nn.TransformerEncoderLayer(C, H, 4 * C, activation="gelu", batch_first=True),
            "dropout is still 0.1, torch's default; the text asks for none. `eval()` turns it off until you train.",
            "torch's documentation: dropout=0.1",
        ),
        Mistake(
            "batch first not",
            lambda C, H: nn.TransformerEncoderLayer(C, H, 4 * C, dropout=0.0, activation="gelu"),
            "the layer still reads (T, B, C): a word attends to the words at its place in the *other* texts. Set "
            "`batch_first` or exchange the dimensions, not both: twice is not at all.",
            "https://github.com/IBM/TabFormer/pull/14",
        ),
        Mistake(
            "transposed once",
            around(lambda x, B, T, C: x.transpose(0, 1), lambda y, B, T, C: y),
            "you transpose the input and not the output: (T, B, C) comes back.",
            "https://github.com/mlfoundations/open_clip/issues/1037",
        ),
        Mistake(
            "reshaped",
            around(lambda x, B, T, C: x.reshape(T, B, C), lambda y, B, T, C: y.reshape(B, T, C)),
            "`reshape` keeps the numbers in their order and gives them other names: words of different texts land in "
            "one column. Exchanging two dimensions is `transpose(0, 1)`.",
            "https://github.com/raoyongming/DenseCLIP/issues/55 and the like: permute or reshape",
        ),
        Mistake(
            "pre-norm",
            lambda C, H: nn.TransformerEncoderLayer(C, H, 4 * C, 0.0, "gelu", batch_first=True, norm_first=True),
            "`norm_first=True` makes it a pre-norm layer; BERT's is post-norm, torch's default.",
            "https://github.com/harvardnlp/annotated-transformer/issues/1",
        ),
    ),
    asks=(
        lambda yours, right: (
            "the third text gets other numbers alone than in the batch: the texts still mix."
            if yours[0].shape == right[0].shape and not torch.allclose(yours[0][2:], yours[1], atol=1e-4)
            else None
        ),
    ),
    hints=(
        "`help(nn.TransformerEncoderLayer)`: what are dim_feedforward, dropout, activation and batch_first when you "
        "say "
        "nothing?",
        '`batch_first=True`, `activation="gelu"`, `dim_feedforward=4 * C`, `dropout=0.0`.',
    ),
    praise="A text no longer depends on its neighbours in the batch, and the layer is BERT's, not torch's default.",
    other_ways=(
        around(lambda x, B, T, C: x.transpose(0, 1), lambda y, B, T, C: y.transpose(0, 1)),
        lambda C, H: nn.TransformerEncoderLayer(C, H, 4 * C, 0, F.gelu, batch_first=True),
        Wrapped,
    ),
)


# --- 23.5 a contrastive module that raises for every shape ------------------------------------------------------------


def contrast(anchors, positives, negatives, temperature):
    keys = F.normalize(torch.cat([positives, negatives]), dim=-1)
    return F.cross_entropy(F.normalize(anchors, dim=-1) @ keys.T / temperature, torch.arange(len(anchors)))


def vectors_as_logits(anchors, positives, negatives, temperature):
    logits = torch.cat([anchors, positives, negatives]) / temperature
    logits = logits - logits.mean(0)
    labels = torch.zeros(len(logits) - 1, dtype=torch.long)
    labels[0] = 1
    loss = F.cross_entropy(logits[0], labels)
    for i, logit in enumerate(logits[1:]):
        labels[i] = 0
        loss = loss + F.cross_entropy(logit, labels)
    return loss


def labels_that_fit(anchors, positives, negatives, temperature):
    logits = torch.cat([anchors, positives, negatives]) / temperature
    logits = logits - logits.mean(0)
    labels = torch.zeros(len(logits), dtype=torch.long)
    labels[0] = 1
    return F.cross_entropy(logits, labels)


def caught_contrast(anchors, positives, negatives, temperature):
    try:
        return vectors_as_logits(anchors, positives, negatives, temperature)
    except ValueError:
        return torch.tensor(0.0)


def contrast_with(normalised=True, tau=True, labels="own", centred=False, leaves=False, own_negative=False, mean="log"):
    def contrast(anchors, positives, negatives, temperature):
        B = len(anchors)
        norm = (lambda x: F.normalize(x, dim=-1)) if normalised else (lambda x: x)
        scores = norm(anchors) @ norm(torch.cat([positives, negatives])).T
        if own_negative:
            own = (norm(anchors) * norm(positives)).sum(-1, keepdim=True)
            scores = torch.cat([own, norm(anchors) @ norm(negatives).T], 1)
            return F.cross_entropy(scores / temperature, torch.zeros(B, dtype=torch.long))
        scores = scores / temperature if tau else scores
        scores = scores - scores.mean(0) if centred else scores
        right = torch.arange(B) if labels == "own" else torch.zeros(B, dtype=torch.long)
        if leaves:
            others = scores.masked_fill(F.pad(torch.eye(B, dtype=torch.bool), (0, len(negatives))), -torch.inf)
            return (others.logsumexp(1) - scores[:, :B].diagonal()).mean()
        if mean == "probabilities":
            return -scores.softmax(1)[:, :B].diagonal().mean().log()
        return F.cross_entropy(scores, right)

    return contrast


def contrast_by_rows(anchors, positives, negatives, temperature):
    keys, losses = torch.cat([positives, negatives]), []
    for i, anchor in enumerate(anchors):
        scores = F.cosine_similarity(anchor[None], keys) / temperature
        losses.append(torch.logsumexp(scores, 0) - scores[i])
    return torch.stack(losses).mean()


def three_sets(generator, B=5, N=3, C=6):
    return *(
        torch.randn(n, C, generator=generator) * (1 + torch.rand(n, 1, generator=generator)) for n in (B, B, N)
    ), 0.4


def compared(answer, case):
    """Return what a contrastive loss takes for scores or for the right answer, if that is not what it should be."""
    (anchors, positives, negatives, temperature), loss = case, answer(*case)
    for i, name in enumerate(("anchors", "positives", "negatives")):
        longer = case[i] * (1 + torch.arange(len(case[i])))[:, None]
        if not torch.allclose(answer(*case[:i], longer, *case[i + 1 :]), loss, atol=1e-5):
            return (
                f"the lengths of the {name} count, and a cosine has none. Divide each vector by its own length, dim=-1."
            )
    if torch.allclose(loss, answer(anchors, positives, -negatives, temperature)):
        return "`negatives` has no effect: with other vectors in it your loss is the same."
    if torch.allclose(loss, contrast(anchors, positives, negatives, 1 / temperature)):
        return "you multiply by the temperature; the cosines should be divided by it."
    if torch.allclose(loss, answer(positives, anchors, negatives, temperature)):
        return "anchors and positives can be exchanged in your loss. Only the anchors choose, each among all positives."
    keys = torch.cat([positives, negatives])
    chosen = [
        keys.index_put((torch.tensor(j),), anchors[0]).split([len(positives), len(negatives)]) for j in range(len(keys))
    ]
    best = min(range(len(keys)), key=lambda j: answer(anchors, *chosen[j], temperature).item())
    if best >= len(positives):
        return f"your labels take negative {best - len(positives)} for anchor 0's right answer: they fit another order."
    scores = F.normalize(anchors, dim=-1) @ F.normalize(keys, dim=-1).T / temperature
    if torch.allclose(loss, F.cross_entropy(scores.softmax(1), torch.arange(len(anchors)))):
        return "your softmax comes before that of the cross-entropy, which takes the scores themselves."
    return None


contrastive = Repair(
    id="23.5",
    right=contrast,
    inputs=three_sets,
    also=lambda generator: three_sets(generator, 2, 7, 4),
    mistakes=(
        Mistake(
            "the patient",
            vectors_as_logits,
            "it still raises. One vector of C numbers is given to the cross-entropy with a list of labels. But do not "
            "mend the labels: a vector's features are no scores. Compare the vectors first.",
            "an article on BERT's successors, its section on contrastive learning in PyTorch",
        ),
        Mistake(
            "labels that fit",
            labels_that_fit,
            "it no longer raises, and it is no contrastive loss: the features of each vector are taken for class "
            "scores, "
            "and no two vectors are ever compared. The scores are cosines of anchors with positives and negatives.",
            "the smallest repair that runs; see https://github.com/sthalles/SimCLR/issues/16 for the same question",
        ),
        Mistake(
            "caught",
            caught_contrast,
            "you caught the exception: the loss is always 0, and nothing will be learned.",
            "try and except around a ValueError",
        ),
        Mistake(
            "labels 0",
            contrast_with(labels="zeros"),
            "every anchor's label is 0, so the first positive is right for all. That holds where each anchor's own "
            "positive stands in column 0; in your table it stands in column i.",
            "https://github.com/sthalles/SimCLR/issues/29; https://github.com/ZhaozwTD/KPE/issues/2, the question",
        ),
        Mistake(
            "not normalised",
            contrast_with(normalised=False),
            "the scores are dot products: the lengths of the vectors count. Cosines were asked for.",
            "lesson 09's most frequent mistake",
        ),
        Mistake(
            "centred",
            contrast_with(centred=True),
            "you kept the patient's subtraction of the mean over the batch. A softmax ignores a number that is taken "
            "from "
            "a whole row; yours differs from column to column and changes the loss.",
            "an article on BERT's successors, its section on contrastive learning in PyTorch",
        ),
        Mistake(
            "without temperature",
            contrast_with(tau=False),
            "the temperature has no effect: divide the cosines by it.",
            "an argument that is not used",
        ),
        Mistake(
            "the positive left out",
            contrast_with(leaves=True),
            "the positive is missing from the denominator: the loss can fall below 0. The formula's `k ≠ i` leaves "
            "out a "
            "view itself, not its partner.",
            "https://github.com/Lightning-Universe/lightning-bolts/issues/252, where this is proposed and refused",
        ),
        Mistake(
            "no in-batch negatives",
            contrast_with(own_negative=True),
            "each anchor meets its own positive and the given negatives. The other anchors' positives were asked for "
            "as "
            "wrong answers too.",
            "a list of negatives for each anchor, as where hard negatives are mined, without the batch",
        ),
        Mistake(
            "log of the mean",
            contrast_with(mean="probabilities"),
            "you take the log of the mean probability. The loss is the mean of the logs.",
            "https://github.com/mpatacchiola/self-supervised-relational-reasoning/issues/3",
        ),
    ),
    asks=(
        lambda yours, right: "the loss is not one number." if numbers(yours).numel() != 1 else None,
        lambda yours, right: (
            "the loss is the sum over the anchors; the mean was asked for."
            if torch.allclose(numbers(yours), 5 * numbers(right))
            else None
        ),
    ),
    look=compared,
    hints=(
        "What are the classes of this cross-entropy? B + N texts: the positives and the negatives. What is the score "
        "of "
        "one? A cosine divided by the temperature. So the table is (B, B + N).",
        "`keys = torch.cat([positives, negatives])`, then `F.normalize(anchors, dim=-1) @ F.normalize(keys, "
        "dim=-1).T`.",
        "The right answer of anchor i is in column i: `torch.arange(len(anchors))`.",
    ),
    praise="Vectors are compared with vectors, and the right answer of row i is column i.",
    other_ways=(contrast_by_rows,),
)


# --- 23.6 a padding mask as src_mask ----------------------------------------------------------------------------------


def real_only(layer, x, mask):
    return layer(x, src_key_padding_mask=~mask)


def layer_and_batch(generator, B=5, T=5, C=8):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(1000, (), generator=generator)))
        layer = nn.TransformerEncoderLayer(C, 2, 4 * C, 0.0, "gelu", batch_first=True)
    lengths = torch.tensor([4, T, 2, 3, 4, 2])[:B]
    return layer, torch.randn(B, T, C, generator=generator), torch.arange(T) < lengths[:, None]


def encoded(answer, layer, x, mask):
    """Return the vectors of the real tokens; those of the padding are used by nobody."""
    result = answer(layer, x, mask)
    if not isinstance(result, torch.Tensor) or result.shape != x.shape:
        raise Fault(f"the result must have the shape of x, {tuple(x.shape)}.")
    return result[mask]


def tiled(layer, x, mask):
    H, (B, T) = layer.self_attn.num_heads, mask.shape
    return layer(x, src_mask=(~mask)[:, None, :].expand(B, T, T).repeat(H, 1, 1))


def interleaved(layer, x, mask):
    H, (B, T) = layer.self_attn.num_heads, mask.shape
    return layer(x, src_mask=(~mask)[:, None, :].expand(B, T, T).repeat_interleave(H, 0))


def caught_mask(layer, x, mask):
    try:
        return layer(x, mask)
    except RuntimeError:
        return layer(x)


padding_mask = Repair(
    id="23.6",
    right=real_only,
    use=encoded,
    inputs=layer_and_batch,
    also=lambda generator: layer_and_batch(generator, 3, 6),
    mistakes=(
        Mistake(
            "the patient",
            lambda layer, x, mask: layer(x, mask),
            "the second argument is `src_mask`, who may look at whom, (T, T): row 0 of your mask says what word 0 of "
            "*every* text may not see. Which words are padding is `src_key_padding_mask`.",
            ARTICLE,
        ),
        Mistake(
            "turned, still src_mask",
            lambda layer, x, mask: layer(x, ~mask),
            "True now means the same as in torch, but the mask is still `src_mask`: row 0 of it rules word 0 of every "
            "text. It runs because B equals T here.",
            "https://github.com/pytorch/pytorch/issues/39439",
        ),
        Mistake(
            "not turned",
            lambda layer, x, mask: layer(x, src_key_padding_mask=mask),
            "it is the right argument with the wrong sign. For torch True means *padding*; our True means *real*. Now "
            "the words see nothing but padding.",
            "https://github.com/jadore801120/attention-is-all-you-need-pytorch/issues/148",
        ),
        Mistake(
            "as numbers",
            lambda layer, x, mask: layer(x, src_key_padding_mask=(~mask).float()),
            "a mask of floats is *added* to the scores: the padding gets 1 more, not -inf. Give a boolean mask.",
            "https://github.com/mlverse/torch/pull/1208",
        ),
        Mistake(
            "as numbers, not turned",
            lambda layer, x, mask: layer(x, src_key_padding_mask=mask.float()),
            "a mask of floats is *added* to the scores: a real word gets 1 more, and nothing is hidden. Give a boolean "
            "mask, True at the padding.",
            "https://github.com/mlverse/torch/pull/1208",
        ),
        Mistake(
            "zeros in x",
            lambda layer, x, mask: layer(x * mask[..., None]),
            "zero vectors are words too: their keys are the bias, and the softmax gives them weight. Hide them with "
            "`src_key_padding_mask`.",
            "https://github.com/huggingface/transformers/issues/17463",
        ),
        Mistake(
            "no mask",
            lambda layer, x, mask: layer(x),
            "no padding is hidden: every real word attends to it. Hide it as keys, the *columns* of a (T, T) mask, and "
            "before the softmax.",
            "the warning that goes away with its argument",
        ),
        Mistake(
            "the first text's",
            lambda layer, x, mask: layer(x, src_key_padding_mask=~mask[:1].expand_as(mask)),
            "every text gets the padding of the first one.",
            "a mask (T,) for the whole batch",
        ),
        Mistake(
            "tiled",
            tiled,
            "torch counts B·H masks with the heads *inside* a text: text 0 head 0, text 0 head 1, …; yours go text 0, "
            "text "
            "1, …, and the heads of a text get another text's mask. `repeat_interleave` puts them right; "
            "`src_key_padding_mask` needs none of this.",
            "https://github.com/pytorch/pytorch/issues/99304 (the shape N·num_heads)",
        ),
    ),
    asks=(
        lambda yours, right: (
            "some vectors are NaN: a word that may see nothing has a softmax over nothing."
            if yours.isnan().any()
            else None
        ),
    ),
    hints=(
        "`help(nn.TransformerEncoderLayer.forward)`: which argument is (T, T) and which is (B, T)?",
        "And what does True mean there? Our True means *may be attended to*; `~mask`.",
    ),
    praise="The right argument, the right sign, and it holds where B is not T.",
    other_ways=(
        interleaved,
        lambda layer, x, mask: layer(x, src_key_padding_mask=torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)),
        lambda layer, x, mask: torch.cat(
            [F.pad(layer(x[i : i + 1, : int(n)]), (0, 0, 0, x.shape[1] - int(n))) for i, n in enumerate(mask.sum(1))]
        ),
    ),
)


# --- 23.7 the mean that counts padding --------------------------------------------------------------------------------


def mean_of_real(hidden, mask):
    weights = mask[:, :, None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def hidden_and_mask(generator, B=4, T=7, C=5):
    lengths = torch.tensor([T, 3, 5, 2])[:B]
    hidden = torch.randn(B, T, C, generator=generator) + 1
    hidden[1, 1] = 0  # a real token whose vector is zero
    return hidden, torch.arange(T) < lengths[:, None]


def pooled(answer, hidden, mask):
    """Return the answer's mean, if one that is right keeps the dtype of hidden in half precision too."""
    found = answer(hidden, mask)
    if same(found, mean_of_real(hidden, mask)) and (dtype := answer(hidden.half(), mask).dtype) != torch.float16:
        raise Fault(
            f"the mean is right, but where hidden is float16 yours is {dtype}, because the mask or the divisor has a "
            "dtype of its own. The result should have the dtype of hidden, whichever that is."
        )
    return found


def averaged(answer, case):
    """Return which vectors a mean takes in, or what it divides by, if that is not what it should be."""
    (hidden, mask), found = case, run(answer, case)
    if isinstance(found, RuntimeError) and "must match" in str(found):
        return f"{found}. One divisor a text has to be (B, 1) to divide (B, C): `keepdim=True`."
    if found.shape == mask.shape:
        return "you average over the features and get (B, T): the mean is over the words, dim=1."
    if torch.allclose(found, found[:1].expand_as(found)):
        return "all texts get the same vector: your mean runs over the texts, too."
    if not torch.allclose(found, answer(hidden.masked_fill(~mask[..., None], 0), mask)):
        return "the padding's vectors are still in your sum: other numbers there change the result."
    ratio = found / mean_of_real(hidden, mask)
    if torch.allclose(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-3):
        return (
            "the sums are right and the divisor is not: your vectors are the means times "
            f"{', '.join(f'{r:.2f}' for r in ratio[:, 0].tolist())}. Divide each text by its own number of real tokens."
        )
    return None


pooling = Repair(
    id="23.7",
    right=mean_of_real,
    use=pooled,
    inputs=hidden_and_mask,
    also=lambda generator: tuple(
        t.double() if t.is_floating_point() else t for t in hidden_and_mask(generator, 3, 9, 2)
    ),
    mistakes=(
        Mistake(
            "the patient",
            lambda hidden, mask: hidden.mean(1),
            "the padding's vectors still count: a text's vector depends on the longest text of its batch.",
            "https://github.com/huggingface/transformers/issues/17463",
        ),
        Mistake(
            "divided by T",
            lambda hidden, mask: (hidden * mask[:, :, None]).mean(1),
            "the padding adds nothing to the sum, but you divide by T, padding included: short texts get short "
            "vectors.",
            "https://github.com/dhlee347/pytorchic-bert/issues/24, the same with a loss",
        ),
        Mistake(
            "normalised",
            lambda hidden, mask: F.normalize((hidden * mask[:, :, None]).mean(1), dim=-1),
            "dividing by the length hides the wrong divisor. Cosines are right now, and the mean, which was asked for, "
            "is not.",
            "a wrong divisor behind F.normalize",
        ),
        Mistake(
            "a sum",
            lambda hidden, mask: (hidden * mask[:, :, None]).sum(1),
            "that is the sum of the real vectors; divide by their number.",
            "half of the formula",
        ),
        Mistake(
            "over the whole batch",
            lambda hidden, mask: (hidden * mask[:, :, None]).sum(1) / mask.sum() * len(mask),
            "you divide every text by the mean number of tokens in the batch. Each text has its own number.",
            "`mask.sum()` without a dimension",
        ),
        Mistake(
            "not zero",
            lambda hidden, mask: (
                (hidden * mask[:, :, None]).sum(1) / (hidden * mask[:, :, None] != 0).any(-1).sum(1, keepdim=True)
            ),
            "you count the vectors that are not zero. A real token's vector may be zero; count the mask.",
            "padding recognised by its value",
        ),
        Mistake(
            "inverted",
            lambda hidden, mask: (hidden * ~mask[:, :, None]).sum(1) / (~mask).sum(1, keepdim=True).clamp(min=1),
            "that is the mean of the padding.",
            "https://github.com/lucidrains/performer-pytorch/issues/89, the question which value is the padding",
        ),
        Mistake(
            "the first vector",
            lambda hidden, mask: hidden[:, 0],
            "that is the first token's vector. It does not depend on the padding, and it is not the mean.",
            "another pooling instead of the repair",
        ),
        Mistake(
            "shortest",
            lambda hidden, mask: hidden[:, : int(mask.sum(1).min())].mean(1),
            "you cut every text at the shortest one's length.",
            "truncation as a cure for padding",
        ),
    ),
    look=averaged,
    hints=(
        "The sum of the real vectors, divided by the number of *real* vectors of the text.",
        "`mask.sum(1, keepdim=True)`.",
    ),
    praise="A text's vector no longer knows what else was in the batch.",
    other_ways=(
        lambda hidden, mask: torch.stack([h[m].mean(0) for h, m in zip(hidden, mask, strict=True)]),
        lambda hidden, mask: hidden.masked_fill(~mask[..., None], torch.nan).nanmean(1),
    ),
)


# --- 23.8 find the bug: a softmax that was right in three dimensions --------------------------------------------------


def attend(q, k, v, mask):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(~mask, -1e9).softmax(-1) @ v


def attend_with(change):
    def attend(q, k, v, mask):
        return change(q @ k.mT / math.sqrt(q.shape[-1]), mask) @ v

    return attend


def heads_and_mask(generator, B=3, H=2, T=6, D=4):
    q, k, v = torch.randn(3, B, H, T, D, generator=generator)
    return q, k, v + 1, (torch.arange(T) < torch.tensor([T, 3, 4])[:B, None])[:, None, None, :]


def masked(scores, mask, dim):
    return scores.masked_fill(~mask, -1e9).softmax(dim)


def attended(answer, case):
    """Return how an attention scales its scores, or which words it lets through, if that is not right."""
    (q, k, v, mask), found = case, answer(*case)
    T, D = q.shape[-2:]
    for by, said in ((D**0.5, "not divided"), (D**-0.5, "divided by D"), ((D / T) ** 0.5, "divided by √T")):
        if torch.allclose(found, attend(q * by, k, v, mask), atol=1e-5):
            return f"the scores are {said}. Divide them by the root of D, the last dimension of q."
    if not torch.allclose(found, answer(q, k, v.masked_fill(~mask.mT, 0), mask), atol=1e-5):
        return "the value of a padded word reaches the result: hide it as a *key*, the last dimension of the scores."
    real = mask[:, 0, 0, :]
    if torch.allclose(found.transpose(1, 2)[real], attend(*case).transpose(1, 2)[real], atol=1e-5):
        return (
            "the real words are right. A padded word gets an average of the real words' values as well, and not yours."
        )
    return None


attention = Repair(
    id="23.8",
    right=attend,
    inputs=heads_and_mask,
    also=lambda generator: heads_and_mask(generator, 2, 3, 5, 8),
    mistakes=(
        Mistake(
            "the patient",
            attend_with(lambda scores, mask: masked(scores, mask, 2)),
            "nothing is repaired: with four dimensions `dim=2` are the queries. Each *column* of weights sums to 1.",
            "https://github.com/FudanNLP/fastNLP/issues/254",
        ),
        Mistake(
            "over the heads",
            attend_with(lambda scores, mask: masked(scores, mask, 1)),
            "`dim=1` are the heads: each word's weights must sum to 1 over the keys.",
            "https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/146",
        ),
        Mistake(
            "over the batch",
            attend_with(lambda scores, mask: masked(scores, mask, 0)),
            "`dim=0` are the texts: each word's weights must sum to 1 over the keys.",
            "https://github.com/PetrochukM/PyTorch-NLP/issues/2",
        ),
        Mistake(
            "divided afterwards",
            attend_with(lambda scores, mask: (w := masked(scores, mask, 2)) / w.sum(-1, keepdim=True)),
            "the rows sum to 1 now because you divide them, but the weights are still those of a softmax over the "
            "queries: "
            "the padding has weight, too. The symptom is hidden.",
            "a repair of the sum in place of the softmax",
        ),
        Mistake(
            "mask afterwards",
            attend_with(lambda scores, mask: scores.softmax(-1) * mask),
            "the mask comes behind the softmax: the rows of texts with padding no longer sum to 1. Hide before it.",
            "lesson 02's named mistake",
        ),
        Mistake(
            "without the mask",
            attend_with(lambda scores, mask: scores.softmax(-1)),
            "the softmax is right and the mask is gone: the padding gets weight.",
            "a repair that loses a line",
        ),
        Mistake(
            "mask inverted",
            attend_with(lambda scores, mask: masked(scores, ~mask, -1)),
            "the mask is turned: True means *may be attended to*.",
            "https://github.com/lucidrains/x-transformers/issues/164",
        ),
        Mistake(
            "transposed",
            attend_with(lambda scores, mask: masked(scores, mask, 2).mT),
            "you transposed the weights: the rows sum to 1, but now a key decides who looks at it.",
            "a transpose until the sums fit",
        ),
    ),
    asks=(lambda yours, right: "the result's shape is not v's." if yours.shape != right.shape else None,),
    look=attended,
    hints=(
        "Print `weights.sum(-1)` and `weights.sum(-2)`. Which of them should be 1?",
        "Count the dimensions of `scores` from the right: the keys are the last one, whatever comes before.",
    ),
    praise="`dim=-1` is right with three dimensions and with four.",
    other_ways=(
        lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask),
        lambda q, k, v, mask: (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf).softmax(dim=3) @ v,
    ),
)


# --- 23.9 the mean before the weights ---------------------------------------------------------------------------------


def weighted(logits, labels, weights):
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    return (each * weights).sum() / weights.sum()


def each_loss(logits, labels):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)


def counted(answer, case):
    """Return which tokens a loss counts, if they are not the selected ones."""
    (logits, labels, weights), found = case, answer(*case)
    B, T, V = logits.shape
    if found.shape == labels.shape:
        return "you return one number for each token. Add them up."
    if found.isnan().any():
        return (
            "your loss is NaN. One text of the batch has no selected token, so its own mean is 0 divided by 0. Add up "
            "over the whole batch, and divide once."
        )
    if torch.allclose(found, weighted(logits.reshape(B, V, T).mT, labels, weights)):
        return "`reshape` to (B, V, T) mixes the words' numbers. To exchange two dimensions is `transpose(1, 2)`."
    if torch.allclose(found, weighted(logits, labels, 1 - weights)):
        return "that is the mean over the tokens that were *not* selected."
    if not torch.allclose(found, answer(torch.where(weights[..., None] > 0, logits, 0.0), labels, weights)):
        return "the logits of tokens that were not selected still change your loss: weight each token's own loss."
    return None


def weighted_logits(generator, B=4, T=6, V=9):
    weights = torch.zeros(B, T)
    weights[0, :1], weights[1, :4], weights[2, 1:3] = 1, 1, 1  # text 3 has no selected token
    labels = torch.randint(V, (B, T), generator=generator)
    labels[1, 0] = 0  # a selected word with the id 0
    return 2 * torch.randn(B, T, V, generator=generator), labels, weights


masked_loss = Repair(
    id="23.9",
    right=weighted,
    inputs=weighted_logits,
    also=lambda generator: weighted_logits(generator, 3, 5, 12),
    mistakes=(
        Mistake(
            "the patient",
            lambda logits, labels, weights: (
                (F.cross_entropy(logits.flatten(0, 1), labels.flatten()) * weights).sum() / weights.sum()
            ),
            "nothing is repaired: the mean over all positions is taken first, and a number times weights, divided by "
            "their "
            "sum, is the number.",
            "https://github.com/d2l-ai/d2l-en/issues/2582",
        ),
        Mistake(
            "mean over all",
            lambda logits, labels, weights: (each_loss(logits, labels) * weights).mean(),
            "the weights count now, but you divide by *all* positions: with few selected tokens the loss is small. "
            "Divide by "
            "the sum of the weights.",
            "https://github.com/dhlee347/pytorchic-bert/issues/24",
        ),
        Mistake(
            "a sum",
            lambda logits, labels, weights: (each_loss(logits, labels) * weights).sum(),
            "that is the sum over the selected tokens; the mean was asked for.",
            "https://github.com/CyberZHG/keras-bert/issues/188",
        ),
        Mistake(
            "mean of means",
            lambda logits, labels, weights: (
                (each_loss(logits, labels) * weights).sum(1) / weights.sum(1).clamp(min=1)
            ).mean(),
            "you take each text's mean, then the mean of those. A token of a text with one selected token counts four "
            "times as much as one of four.",
            "https://github.com/huggingface/transformers/issues/24725",
        ),
        Mistake(
            "weighted logits",
            lambda logits, labels, weights: F.cross_entropy(
                (logits * weights[..., None]).flatten(0, 1), labels.flatten()
            ),
            "you set the logits of the other positions to 0. Equal logits have a loss too, ln V. Weight the losses.",
            "a mask one line too early",
        ),
        Mistake(
            "label 0 ignored",
            lambda logits, labels, weights: F.cross_entropy(
                logits.flatten(0, 1), (labels * weights.long()).flatten(), ignore_index=0
            ),
            "you use the label 0 for *not selected*, and a selected token whose id is 0 is lost. Use -100, which no "
            "word has.",
            "https://github.com/codertimo/BERT-pytorch/issues/49",
        ),
    ),
    look=counted,
    hints=(
        "How many numbers does `F.cross_entropy` give? How many weights are there?",
        '`reduction="none"` gives one number for each position.',
    ),
    praise="First weight each token's loss, then add up, then divide by the sum of the weights.",
    other_ways=(
        lambda logits, labels, weights: F.cross_entropy(logits[weights > 0], labels[weights > 0]),
        lambda logits, labels, weights: F.cross_entropy(
            logits.flatten(0, 1), labels.masked_fill(weights == 0, -100).flatten()
        ),
    ),
)


# --- 23.10 one criterion for two losses -------------------------------------------------------------------------------


def both_losses(pair_logits, is_next, word_logits, word_labels):
    words = F.cross_entropy(word_logits.flatten(0, 1), word_labels.flatten(), ignore_index=0)
    return F.cross_entropy(pair_logits, is_next) + words


def both_with(pairs, words):
    return lambda pair_logits, is_next, word_logits, word_labels: (
        pairs(pair_logits, is_next) + words(word_logits.flatten(0, 1), word_labels.flatten())
    )


def skip_zero(logits, labels):
    return F.cross_entropy(logits, labels, ignore_index=0)


def two_tasks(generator, B=6, T=5, V=8):
    is_next = torch.tensor([0, 1, 1, 0, 1, 0])[:B]
    labels = torch.randint(1, V, (B, T), generator=generator) * (torch.rand(B, T, generator=generator) < 0.4)
    labels[0, 0] = 1
    return torch.randn(B, 2, generator=generator), is_next, torch.randn(B, T, V, generator=generator), labels


def each_task(answer, case):
    """Return what is wrong with the loss of the pairs, and with that of the words, by the gradients."""
    pair_logits, is_next, word_logits, labels = case
    logits, said = (pair_logits.requires_grad_(), word_logits.requires_grad_()), []
    yours, right = (
        torch.autograd.grad(
            f(pair_logits, is_next, word_logits, labels), logits, allow_unused=True, materialize_grads=True
        )
        for f in (answer, both_losses)
    )
    for name, found, wanted, kinds in zip(("pairs", "words"), yours, right, (is_next, labels), strict=True):
        by = ((found * wanted).sum() / (wanted * wanted).sum()).item()
        lost = kinds[((wanted != 0).any(-1)) & (found == 0).all(-1)].unique().tolist()
        if torch.allclose(found, by * wanted, atol=1e-6):
            said += [f"the mean loss of the {name} counts {by:.3g} times"] if abs(by - 1) > 1e-3 else []
        elif lost:
            said.append(f"the {name} with the label {lost[0]} do not count")
        else:
            said.append(f"the loss of the {name} is not that of their labels")
    return f"{', and '.join(said)}. Each of the two is a mean of its own, and both count once." if said else None


two_losses = Repair(
    id="23.10",
    right=both_losses,
    inputs=two_tasks,
    also=lambda generator: two_tasks(generator, 3, 8, 5),
    mistakes=(
        Mistake(
            "the patient",
            both_with(skip_zero, skip_zero),
            "the pairs whose label is 0, *not next*, still count for nothing: say always *next* and the loss is 0. "
            "One loss "
            "may skip the label 0, the other must not.",
            "https://github.com/codertimo/BERT-pytorch/issues/32",
        ),
        Mistake(
            "skipped nowhere",
            both_with(F.cross_entropy, F.cross_entropy),
            "the pairs are right now, but the words' label 0 means *not selected*, and the word loss counts it: the "
            "model "
            "learns to say the word 0.",
            "https://github.com/codertimo/BERT-pytorch/issues/98, where this repair is advised",
        ),
        Mistake(
            "the other way round",
            both_with(skip_zero, F.cross_entropy),
            "the label 0 is skipped for the pairs and counts for the words: it should be the other way round.",
            "https://github.com/codertimo/BERT-pytorch/issues/49",
        ),
        Mistake(
            "labels plus 1",
            both_with(lambda logits, labels: F.cross_entropy(logits, 1 - labels, ignore_index=0), skip_zero),
            "you changed the pairs' labels, 0 for 1 and 1 for 0: now the other half is skipped.",
            "a label moved out of the way",
        ),
        Mistake(
            "mean of both",
            lambda *task: both_losses(*task) / 2,
            "that is the mean of the two losses; BERT adds them.",
            "https://github.com/kaiyinzhou/BERT-NER/issues/69",
        ),
        Mistake(
            "one loss",
            both_with(F.cross_entropy, lambda logits, labels: 0),
            "the word loss is gone; the sum of both was asked for.",
            "a repair that loses a line",
        ),
        Mistake(
            "scored by hand, divided by all",
            both_with(
                F.cross_entropy,
                lambda logits, labels: F.cross_entropy(logits, labels, ignore_index=0, reduction="sum") / len(labels),
            ),
            "the word loss is divided by all positions and not by the selected ones.",
            "https://github.com/dhlee347/pytorchic-bert/issues/24",
        ),
    ),
    look=each_task,
    hints=(
        "Which of the two tasks has a label 0 that means something?",
        "Two calls, one with `ignore_index=0`, one without.",
    ),
    praise="Each loss skips only what has no label in its own task.",
    other_ways=(
        lambda p, n, w, labels: F.nll_loss(p.log_softmax(-1), n) + F.cross_entropy(w[labels > 0], labels[labels > 0]),
        lambda p, n, w, labels: F.cross_entropy(w.mT, labels.masked_fill(labels == 0, -100)) + F.cross_entropy(p, n),
    ),
)


# --- 23.11 the accumulation bug of 2024 -------------------------------------------------------------------------------


def accumulate(model, batches):
    total = sum(int((labels != -100).sum()) for _, labels in batches)
    whole = 0.0
    for ids, labels in batches:
        loss = F.cross_entropy(model(ids).flatten(0, 1), labels.flatten(), reduction="sum") / total
        loss.backward()
        whole += loss.item()
    return whole


def accumulate_by(share, zero=False):
    """share(labels, batches) -> the weight of a micro-batch's mean loss."""

    def accumulate(model, batches):
        whole = 0.0
        for ids, labels in batches:
            if zero:
                model.zero_grad()
            loss = F.cross_entropy(model(ids).flatten(0, 1), labels.flatten()) * share(labels, batches)
            loss.backward()
            whole += loss.item()
        return whole

    return accumulate


def right_loss_only(model, batches):
    accumulate_by(lambda labels, batches: 1 / len(batches))(model, batches)
    with torch.no_grad():
        sums = [F.cross_entropy(model(i).flatten(0, 1), y.flatten(), reduction="sum").item() for i, y in batches]
    return sum(sums) / sum(selected(y) for _, y in batches)


def selected(labels):
    return (labels != -100).sum().item()


def accumulated_in_one(model, batches):
    logits = torch.cat([model(ids).flatten(0, 1) for ids, _ in batches])
    loss = F.cross_entropy(logits, torch.cat([labels.flatten() for _, labels in batches]))
    loss.backward()
    return loss.item()


def divided_afterwards(model, batches):
    before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    total, whole = 0, 0.0
    for ids, labels in batches:
        loss = F.cross_entropy(model(ids).flatten(0, 1), labels.flatten(), reduction="sum")
        loss.backward()
        total, whole = total + selected(labels), whole + loss.item()
    for p, old in zip(model.parameters(), before, strict=True):
        p.grad = p.grad / total if old is None else old + (p.grad - old) / total
    return whole / total


def micro_batches(generator, V=11, C=4, sizes=((2, 9, 12), (3, 4, 1), (2, 5, 4))):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(1000, (), generator=generator)))
        model = nn.Sequential(nn.Embedding(V, C), nn.Linear(C, V)).double()
    batches = []
    for B, T, n in sizes:
        labels = torch.full((B * T,), -100)
        places = torch.randperm(B * T, generator=generator)[:n]
        labels[places] = torch.randint(V, (n,), generator=generator)
        labels[places[1:2]] = 0  # a word like any other
        batches.append((torch.randint(V, (B, T), generator=generator), labels.view(B, T)))
    return model, batches


def loss_and_gradients(answer, model, batches):
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.25)  # what was accumulated before stays
    loss = answer(model, batches)
    if isinstance(loss, torch.Tensor) and loss.requires_grad:
        raise Fault("the loss that you return still holds the graph of every micro-batch. Return a number: `.item()`.")
    loss = loss.item() if isinstance(loss, torch.Tensor) and loss.numel() == 1 else loss
    if not isinstance(loss, float):
        raise Fault("return the loss as one number.")
    if any(p.grad is None for p in model.parameters()):
        raise Fault("the gradients are gone: a parameter has none.")
    return torch.tensor(loss), *(p.grad - 0.25 for p in model.parameters())


def added(yours, right):
    """Return what was added to the gradients in place of the mean's gradient."""
    (loss, found), (mean, wanted) = ((one[0], torch.cat([g.flatten() for g in one[1:]])) for one in (yours, right))
    by, off = (loss / mean).item(), found - wanted
    if not found.any():
        return "nothing is added to the gradients: is `backward` missing?"
    if off.abs().max() > 1e-6 and off.max() - off.min() < 1e-9:
        return (
            "you change what was in the gradients before, by setting them to zero or dividing them. Only add to them."
        )
    if torch.allclose(found, by * wanted) and abs(by - 1) > 1e-4:
        return f"loss and gradient are {by:.3g} times the right ones. Divide by the number of labels that are not -100."
    if torch.allclose(found, wanted):
        return f"the gradient is right. The number that you return is {by:.3g} times the mean over all selected tokens."
    if abs(by - 1) < 1e-4:
        return "the loss is right, the gradient is not: divide each sum by the number of *all* selected tokens."
    return None


accumulation = Repair(
    id="23.11",
    right=accumulate,
    use=loss_and_gradients,
    inputs=micro_batches,
    also=lambda generator: micro_batches(generator, 7, 3, ((1, 6, 2), (4, 3, 9))),
    mistakes=(
        Mistake(
            "the patient",
            accumulate_by(lambda labels, batches: 1 / len(batches)),
            "that is still the mean of the micro-batches' means: the one token of the second batch weighs as much as "
            "the "
            "twelve of the first. Weight tokens, not batches.",
            "https://huggingface.co/blog/gradient_accumulation",
        ),
        Mistake(
            "not divided",
            accumulate_by(lambda labels, batches: 1.0),
            "you add the micro-batches' means: twice as many micro-batches, twice the gradient.",
            "https://github.com/huggingface/transformers/issues/37766",
        ),
        Mistake(
            "by texts",
            accumulate_by(lambda labels, batches: len(labels) / sum(len(y) for _, y in batches)),
            "you weight a micro-batch by its number of texts. What is averaged are selected tokens: weight by their "
            "number.",
            "https://github.com/Lightning-AI/pytorch-lightning/issues/2924, whose repair is right for one label a text",
        ),
        Mistake(
            "by all tokens",
            accumulate_by(lambda labels, batches: labels.numel() / sum(y.numel() for _, y in batches)),
            "you weight a micro-batch by all its tokens, with those that have no label. Count the labels that are not "
            "-100.",
            "num_items counted before masking",
        ),
        Mistake(
            "zeroed each time",
            accumulate_by(lambda labels, batches: selected(labels) / sum(selected(y) for _, y in batches), zero=True),
            "the weights are right, but you set the gradients to zero inside: only the last micro-batch is left, and "
            "what was "
            "there before is lost.",
            "https://github.com/bytetriper/RAE/issues/67",
        ),
        Mistake(
            "the loss alone",
            right_loss_only,
            "the number that you return is right, and the gradients are still those of the mean of means: you repaired "
            "the log.",
            "https://github.com/allenai/allennlp/pull/4706 and https://github.com/huggingface/transformers/pull/35207",
        ),
        Mistake(
            "sums",
            lambda model, batches: accumulate_by(lambda labels, batches: float(selected(labels)))(model, batches),
            "you add up the tokens' losses and never divide: the gradient grows with the batch.",
            "https://github.com/huggingface/transformers/issues/24725, its title read to the letter",
        ),
        Mistake(
            "divided twice",
            accumulate_by(
                lambda labels, batches: selected(labels) / sum(selected(y) for _, y in batches) / len(batches)
            ),
            "the tokens are weighted right, and then you divide once more by the number of micro-batches.",
            "https://github.com/huggingface/transformers/pull/35207",
        ),
    ),
    asks=(added,),
    hints=(
        "What would one batch of all the texts divide by? Count that first, over all micro-batches.",
        '`reduction="sum"` in each micro-batch, divided by the number of selected tokens of all of them.',
    ),
    praise="Micro-batches now give the gradient of the one large batch.",
    other_ways=(
        accumulated_in_one,
        divided_afterwards,
        accumulate_by(lambda labels, batches: selected(labels) / sum(selected(y) for _, y in batches)),
    ),
)


# --- 23.12 81, 10, 9 --------------------------------------------------------------------------------------------------


def corrupt(ids, selected, mask_id, V, generator=None):
    draw = torch.rand(ids.shape, generator=generator)
    words = torch.randint(V, ids.shape, generator=generator)
    corrupted = ids.masked_fill(selected & (draw < 0.8), mask_id)
    return torch.where(selected & (draw >= 0.8) & (draw < 0.9), words, corrupted)


def corrupt_by(choose, one_word=False, lowest=0, beyond=0):
    """choose(u, v, w) of three uniform draws -> what becomes [MASK], what a random word."""

    def corrupt(ids, selected, mask_id, V, generator=None):
        u, v, w = torch.rand(3, *ids.shape, generator=generator)
        words = torch.randint(lowest, V + beyond, (1,) if one_word else ids.shape, generator=generator)
        masked, random = choose(u, v, w)
        return torch.where(selected & random, words, ids.masked_fill(selected & masked, mask_id))

    return corrupt


def of_all_tokens(ids, selected, mask_id, V, generator=None):
    return corrupt(ids, torch.ones_like(selected), mask_id, V, generator)


def corrupt_two_draws(ids, selected, mask_id, V, generator=None):
    masked = selected & torch.bernoulli(torch.full(ids.shape, 0.8), generator=generator).bool()
    random = selected & ~masked & torch.bernoulli(torch.full(ids.shape, 0.5), generator=generator).bool()
    result = ids.clone()
    result[masked] = mask_id
    result[random] = torch.randint(V, (int(random.sum()),), generator=generator)
    return result


def without_generator(ids, selected, mask_id, V, generator=None):
    return corrupt(ids, selected, mask_id, V)


def generator_alone(ids, selected, mask_id, V, generator=None):
    return corrupt(ids, selected, mask_id, V, generator or torch.Generator().manual_seed(0))


def corrupt_in_place(ids, selected, mask_id, V, generator=None):
    ids.copy_(corrupt(ids, selected, mask_id, V, generator))
    return ids


def drawn_from(answer, *case):
    """Return where an answer's random numbers come from: from the generator that it is given, or else from torch's."""

    def drawn(seed, generator_seed=None):
        torch.manual_seed(seed)
        generators = [] if generator_seed is None else [torch.Generator().manual_seed(generator_seed)]
        return answer(*copy.deepcopy(case), *generators)

    if not torch.equal(drawn(1, 3), drawn(2, 3)) or torch.equal(drawn(1, 3), drawn(1, 4)):
        return "not from `generator`"
    return "not from torch's own" if torch.equal(drawn(1), drawn(2)) else "from the right one"


def outcomes_of(answer, ids, selected, mask_id, V):
    """Return the per cents of [MASK], other word, same word among the selected tokens, which words, drawn where, and
    whether a random word may be the old one, which is seen where V is 2."""
    torch.manual_seed(int(ids.sum()))
    before = ids.clone()
    result = answer(ids, selected, mask_id, V)
    if not isinstance(result, torch.Tensor) or result.shape != ids.shape or result.dtype != ids.dtype:
        raise Fault("return ids of the shape and dtype of `ids`.")
    if not torch.equal(ids, before):
        raise Fault("you changed `ids`; return new ones.")
    picked, own = result[selected], ids[selected]
    shares = [(picked == mask_id), (picked != mask_id) & (picked != own), picked == own]
    words = picked[shares[1]].unique()
    few = torch.ones(100_000, dtype=torch.long)
    stayed = (answer(few, few > 0, mask_id, 2) == 1).double().mean().item()  # 10 % and half of 10 %
    return (
        torch.tensor([float(round(100 * s.double().mean().item())) for s in shares]),
        bool((result[~selected] == ids[~selected]).all()),
        len(words) > V // 2,
        len(words) > 0 and [words.min().item(), words.max().item()] == [0, V - 1],
        drawn_from(answer, ids[:50], selected[:50], mask_id, V),
        stayed > shares[2].double().mean().item() + 0.02,
    )


def proportions(yours, right):
    found = [int(part) for part in yours[0]]
    if torch.equal(yours[0], right[0]):
        return None
    more = "; 80, 10 and 10 were asked for."
    if found[0] < 2 and found[1] > 80:
        more += " What is set last overwrites the [MASK] of before."
    if found[0] and found[2] > 20 and 0.7 < found[0] / (8 * found[1] + 0.1) < 1.4:
        more += " `selected` says already which tokens are chosen: do not choose again."
    return f"of the selected tokens {found[0]} % became [MASK], {found[1]} % another word, {found[2]} % stayed{more}"


def many_ids(generator, V=1000, n=480_000):
    ids = torch.randint(V, (n // 16, 16), generator=generator)
    return ids, torch.rand(ids.shape, generator=generator) < 0.8, V + 3, V


corruption = Repair(
    id="23.12",
    right=corrupt,
    use=outcomes_of,
    inputs=many_ids,
    also=lambda generator: many_ids(generator, 2000, 400_000),
    mistakes=(
        Mistake(
            "the patient",
            corrupt_by(lambda u, v, w: ((u >= 0.1) & (v >= 0.1), v < 0.1)),
            "the proportions are still 81 : 10 : 9. Two independent draws of 10 % meet in 1 %, and there the random "
            "word "
            "wins. Decide with *one* draw, or draw the second among what is left of the first.",
            "labmlai/annotated_deep_learning_paper_implementations, labml_nn/transformers/mlm",
        ),
        Mistake(
            "kept wins",
            corrupt_by(lambda u, v, w: ((u >= 0.1) & (v >= 0.1), (v < 0.1) & (u >= 0.1))),
            "now the token that stays wins where the two draws meet: 81 : 9 : 10. The draws still meet.",
            "https://github.com/lucidrains/mlm-pytorch/issues/6",
        ),
        Mistake(
            "10 % of the rest",
            corrupt_by(lambda u, v, w: (u < 0.8, (u >= 0.8) & (v < 0.1))),
            "80 : 2 : 18. You replace 10 % of the 20 % that are left. Of those, half become a random word.",
            "https://github.com/huggingface/transformers/issues/32329",
        ),
        Mistake(
            "half of everything",
            corrupt_by(lambda u, v, w: (u < 0.8, v < 0.5)),
            "40 : 50 : 10. The 0.5 is right among the 20 % that are not masked; yours also overwrites [MASK].",
            "https://github.com/huggingface/transformers/issues/1927",
        ),
        Mistake(
            "85, 10, 5",
            corrupt_by(lambda u, v, w: (u < 0.85, (u >= 0.85) & (u < 0.95))),
            "85 : 10 : 5. One draw, good; its limits are 0.8 and 0.9.",
            "limits added up wrongly",
        ),
        Mistake(
            "all masked",
            corrupt_by(lambda u, v, w: (u < 2, u > 2)),
            "every selected token becomes [MASK]: 100 : 0 : 0.",
            "https://github.com/qiaoqiaoLF/MxDNA/issues/10, the question",
        ),
        Mistake(
            "of all tokens",
            of_all_tokens,
            "you corrupt tokens that were not selected, too.",
            "https://github.com/lucidrains/mlm-pytorch/issues/2",
        ),
        Mistake(
            "one word for all",
            corrupt_by(lambda u, v, w: (u < 0.8, (u >= 0.8) & (u < 0.9)), one_word=True),
            "the proportions are right, but you draw one random word for all: draw one for each place.",
            "`torch.randint(V, (1,))` and broadcasting",
        ),
        Mistake(
            "words from 1 to V + 2",
            corrupt_by(lambda u, v, w: (u < 0.8, (u >= 0.8) & (u < 0.9)), lowest=1, beyond=3),
            "the proportions are right, but the random words are not those from 0 to V - 1: `torch.randint(V, shape)` "
            "draws from 0 and never gives V.",
            "`torch.randint`'s upper end taken for its last number",
        ),
        Mistake(
            "generator unused",
            without_generator,
            "the proportions are right, but the `generator` that you are given is not used, or not for every draw: "
            "with the same generator the same ids must come again.",
            "an argument that is not used",
        ),
        Mistake(
            "always the same",
            generator_alone,
            "the proportions are right, but without a generator you draw the same numbers at every call, whatever "
            "torch's own seed is. Pass `generator=generator` on: None means torch's own.",
            "a seed set where there was no generator; patient 23.13 has the same disease",
        ),
        Mistake(
            "in place",
            corrupt_in_place,
            "you changed `ids` itself, so whoever called your function has lost the words. Return new ids.",
            "ids[selected] = mask_id",
        ),
    ),
    asks=(
        proportions,
        lambda yours, right: f"the random numbers are {yours[4]}." if yours[4] != right[4] else None,
        lambda yours, right: (
            None if yours[5] else "your random word is never the old one. It may be: each of the V words is as likely."
        ),
    ),
    hints=(
        "What does the program do where both draws are below 0.1? How often is that?",
        "One `draw = torch.rand(ids.shape)`: below 0.8 [MASK], from 0.8 to 0.9 a random word, the rest stays.",
    ),
    praise="One draw decides, so the three cases cannot meet.",
    other_ways=(corrupt_two_draws,),
)


# --- 23.13 masked once ------------------------------------------------------------------------------------------------


def epochs(rows, corrupt, n):
    return [[corrupt(row) for row in rows] for _ in range(n)]


def masked_once(rows, corrupt, n):
    masked = [corrupt(row) for row in rows]
    return [masked for _ in range(n)]


def same_seed(rows, corrupt, n):
    result = []
    for _ in range(n):
        torch.manual_seed(0)
        result.append([corrupt(row) for row in rows])
    return result


def a_seed_each(rows, corrupt, n):
    result = []
    for epoch in range(n):
        torch.manual_seed(epoch)
        result.append([corrupt(row) for row in rows])
    return result


def masked_again(rows, corrupt, n):
    result = []
    for _ in range(n):
        rows = [corrupt(row) for row in rows]
        result.append(rows)
    return result


def cycled(rows, corrupt, n):
    versions = [[corrupt(row) for row in rows] for _ in range(2)]
    return [versions[i % 2] for i in range(n)]


def shuffled(rows, corrupt, n):
    masked = [corrupt(row) for row in rows]
    return [[masked[i] for i in torch.randperm(len(rows)).tolist()] for _ in range(n)]


def one_for_all(rows, corrupt, n):
    return [[corrupt(rows[0]) for _ in rows] for _ in range(n)]


def by_text(rows, corrupt, n):
    versions = [[corrupt(row) for _ in range(n)] for row in rows]
    return [[text[i] for text in versions] for i in range(n)]


def half_masked(row):
    return row.masked_fill(torch.rand(row.shape) < 0.5, 0)


def masks_seen(answer, rows, corrupt, n):
    """Return how many masks each text met in n epochs, what `corrupt` was given, and whether a second run differs."""
    given = []

    def noted(row):
        given.append(next((i for i, r in enumerate(rows) if torch.equal(r, row)), -1))
        return corrupt(row)

    torch.manual_seed(0)
    result = answer(rows, noted, n)
    other = next(
        (one for one in (result, *(result if hasattr(result, "__len__") else ())) if not hasattr(one, "__len__")), None
    )
    if other is not None:
        raise Fault(
            f"return lists, of {n} epochs and in each of {len(rows)} rows; one of yours is a {type(other).__name__}."
        )
    if len(result) != n or any(len(epoch) != len(rows) for epoch in result):
        raise Fault(f"return a list of {n} epochs, each a list of {len(rows)} rows.")
    torch.manual_seed(1)
    pairs = zip(result, answer(rows, corrupt, n), strict=True)
    repeated = any(torch.equal(e[i], again[i]) for e, again in pairs for i in range(len(rows)))
    own = [all(bool(((e[i] == rows[i]) | (e[i] == 0)).all()) for e in result) for i in range(len(rows))]
    masks = [len({tuple((e[i] == 0).tolist()) for e in result}) for i in range(len(rows))]
    return torch.tensor(masks), all(own), sorted(given), repeated


def told_of_epochs(yours, right):
    if yours[2] != right[2]:
        return f"`corrupt` is called {len(yours[2])} times; once for each text in each epoch is {len(right[2])} times."
    if not yours[1]:
        return "entry i of an epoch is not text i with words hidden. Keep the order of the texts."
    if int(yours[0].max()) == 1:
        return "`corrupt` is called in each epoch, and all epochs are the same: is it one list that you fill again?"
    return None


def rows_and_epochs(generator, n=4, B=3):
    return [torch.randint(1, 90, (40,), generator=generator) for _ in range(B)], half_masked, n


epochs_of_masks = Repair(
    id="23.13",
    right=epochs,
    use=masks_seen,
    inputs=rows_and_epochs,
    also=lambda generator: rows_and_epochs(generator, 5, 2),
    mistakes=(
        Mistake(
            "the patient",
            masked_once,
            "each text still meets one mask, the same in every epoch. Call `corrupt` anew in each.",
            "https://github.com/keras-team/keras-hub/issues/796",
        ),
        Mistake(
            "the same seed",
            same_seed,
            "you call `corrupt` in each epoch and set the same seed before: the same random numbers, the same masks.",
            "a seed set at the beginning of each epoch",
        ),
        Mistake(
            "a seed for each epoch",
            a_seed_each,
            "the epochs differ, but you set a seed: every run of your program meets the same masks, whatever seed its "
            "caller chose. Set none; that is the caller's business.",
            "torch.manual_seed(epoch), for reproducibility",
        ),
        Mistake(
            "masked again",
            masked_again,
            "you corrupt what is corrupted already: after some epochs nothing is left of the text. Keep the originals.",
            "rows = [corrupt(row) for row in rows] in a loop",
        ),
        Mistake(
            "two copies",
            cycled,
            "two masked copies in turn: from the third epoch on the masks repeat. That is BERT's static masking, with "
            "2 "
            "copies in place of 10.",
            "https://github.com/Gen-Verse/dLLM-RL/issues/31",
        ),
        Mistake(
            "shuffled",
            shuffled,
            "you shuffle the texts. Their order changes, and each one's mask stays; and row i is no longer text i.",
            "another order taken for another mask",
        ),
        Mistake(
            "the first text",
            one_for_all,
            "every row is the first text: the loop does not use its row.",
            "a loop over the rows that does not use its variable",
        ),
    ),
    asks=(told_of_epochs,),
    hints=(
        "How often is `corrupt` called? How often should it be?",
        "`[[corrupt(row) for row in rows] for _ in range(n)]`.",
    ),
    praise="Each epoch masks each text anew, from the original.",
    other_ways=(by_text,),
)


# --- 23.14 random numbers that are too coarse -------------------------------------------------------------------------


class Draws(TorchDispatchMode):
    """Notes the dtype of every random number that is drawn, and the one to which a uniform number is converted."""

    kinds = ("rand", "uniform", "exponential", "multinomial", "normal", "bernoulli")

    def __init__(self):
        super().__init__()
        self.dtypes, self.uniform = set(), []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.__name__.split(".")[0].strip("_")
        if name.startswith(self.kinds):
            source = args[0] if name.startswith("multinomial") else result
            self.dtypes.add(str(source.dtype).removeprefix("torch."))
            self.uniform += [result] if name.startswith(("rand", "uniform")) and source.is_floating_point() else []
        elif name in ("detach", "to_copy") and any(args[0] is one for one in self.uniform):
            self.dtypes.add(str(result.dtype).removeprefix("torch."))
            self.uniform.append(result)  # torch.rand hands out a detached one
        return result


def draw(logits):
    u = torch.rand(logits.shape, dtype=torch.float64)
    return (logits.double() - (-u.log()).log()).argmax(-1)


def gumbel(dtype=None, noise=1.0, logits_first=False):
    def draw(logits):
        logits = logits.to(dtype) if dtype and logits_first else logits
        u = torch.rand(logits.shape, dtype=dtype or logits.dtype)
        return (logits - noise * (-u.log()).log()).argmax(-1)

    return draw


def fine_then_coarse(logits):
    u = torch.rand(logits.shape, dtype=torch.float64).float()
    return (logits - (-u.log()).log()).argmax(-1)


def multinomial64(logits):
    return torch.multinomial(logits.double().softmax(-1), 1)[:, 0]


def race(logits):
    waits = torch.empty(logits.shape, dtype=torch.float64).exponential_()
    return (logits.double().softmax(-1) / waits).argmax(-1)


def by_cumulation(logits):
    edges = logits.double().softmax(-1).cumsum(-1)
    u = torch.rand(len(logits), 1, dtype=torch.float64)
    return (u >= edges / edges[:, -1:]).sum(-1)


def tail_drawn(answer, logits):
    """Return whether the unlikely words are drawn as often as they should, the likely ones too, and with what
    numbers."""
    torch.manual_seed(int(logits.shape[0]) + int(logits.shape[1]))
    with Draws() as draws:
        result = answer(logits)
    if not isinstance(result, torch.Tensor) or result.shape != logits.shape[:1] or result.is_floating_point():
        raise Fault("return one id for each row of logits, (N,).")
    if result.dtype != torch.int64:
        raise Fault(f"the ids are {result.dtype}; expected torch.int64.")
    if len(result.unique()) == 1 and draws.dtypes:
        raise Fault("all rows get the same word: draw for each row on its own, (N, V) random numbers.")
    p = logits[0].double().softmax(-1)
    verdicts = []
    for group in (p < p[1], torch.arange(len(p)) == 0):
        expected = p[group].sum().item()
        found = group[result].double().mean().item()
        error = math.sqrt(expected * (1 - expected) / len(logits))
        verdicts.append(
            "too rarely" if found < expected - 6 * error else "too often" if found > expected + 6 * error else "right"
        )
    return *verdicts, ", ".join(sorted(draws.dtypes)) or "none"


def half_logits(generator, n=6000, tail=400, dtype=torch.float16):
    row = torch.cat([torch.tensor([0.0, -1.0]), torch.full((tail,), -9.0)])
    return (row.to(dtype).expand(n, -1).contiguous(),)


def noised(answer, case):
    """Return which noise an answer adds, by what it draws from three likely words."""
    logits = torch.tensor([0.0, -1.0, -2.0]).half().expand(20_000, -1)
    found = answer(logits).bincount(minlength=3) / 20_000
    u = torch.rand(20_000, 3, dtype=torch.float64)
    for said, noise in (
        ("the noise is subtracted: its sign is turned round", (-u.log()).log()),
        ("one logarithm is missing: the noise is -ln u in place of -ln(-ln u)", -u.log()),
    ):
        if (found - (logits + noise).argmax(-1).bincount(minlength=3) / 20_000).abs().max() < 0.015:
            return f"{said}. So likely words come with wrong probabilities, too."
    if (found - torch.tensor([0.6652, 0.2447, 0.0900])).abs().max() < 0.015:
        return "likely words come as they should, rare ones too rarely. What keeps the noise from being large, a clamp?"
    shown = ", ".join(f"{share:.2f}" for share in found.tolist())
    return f"words of the probabilities 0.67, 0.24 and 0.09 are drawn with {shown}. Is the noise -ln(-ln u)?"


drawing = Repair(
    id="23.14",
    right=draw,
    use=tail_drawn,
    inputs=lambda generator: half_logits(generator, 6000 + int(torch.randint(500, (), generator=generator))),
    also=lambda generator: half_logits(generator, 5000, 300, torch.float32),
    mistakes=(
        Mistake(
            "the patient",
            gumbel(),
            "the random numbers still have the dtype of the logits: the largest that float16 can draw is 0.9995, so no "
            "word gets a noise above 7.6. Converting them afterwards leaves them as coarse as they are.",
            "https://arxiv.org/abs/2409.02908",
        ),
        Mistake(
            "float32",
            gumbel(torch.float32, logits_first=True),
            "float32 draws the rare words of this test and cuts off rarer ones: its noise ends at 16.6, and samplers "
            "of "
            "masked diffusion models need more. Draw in float64, where it ends at 36.7.",
            "https://arxiv.org/abs/2409.02908; https://github.com/vllm-project/vllm/pull/43150",
        ),
        Mistake(
            "fine, then coarse",
            fine_then_coarse,
            "you draw in float64 and convert the numbers to float32: what lies close to 1 is rounded to 1, and its "
            "noise is infinite. Keep float64 until the logarithms are taken.",
            "https://github.com/vllm-project/vllm/issues/54843 (the noise converted to float32 behind the flag)",
        ),
        Mistake(
            "the likeliest",
            lambda logits: logits.argmax(-1),
            "that takes the likeliest word and draws nothing.",
            "greedy decoding in place of sampling",
        ),
        Mistake(
            "hotter",
            gumbel(torch.float64, noise=2.0),
            "unlikely words come now, too often: the noise is too large for what it is added to. Add it once, not "
            "doubled, and to the logits, not to probabilities, which are all below 1.",
            "a second mistake that makes up for the first",
        ),
    ),
    asks=(
        lambda yours, right: (
            f"the unlikely words are drawn {yours[0]}: you draw your random numbers in float16, and its few digits "
            "stay few when you convert them afterwards. Draw in float64."
            if yours[0] != "right" and "float16" in yours[2]
            else None
        ),
        lambda yours, right: (
            f"the proportions are right here, but the random numbers are of {yours[2]}: rarer words will be cut off. "
            f"Draw in "
            "float64."
            if yours[2] != right[2] and yours[:2] == right[:2]
            else None
        ),
    ),
    look=noised,
    hints=(
        "Print `torch.rand(10**6, dtype=torch.float16).max()`. Which is the largest noise -log(-log u)?",
        "`u = torch.rand(logits.shape, dtype=torch.float64)`, and `logits.double()`.",
    ),
    praise="The noise now has the digits that rare words need.",
    other_ways=(multinomial64, race, by_cumulation),
)


# --- 23.15 evaluation with dropout ------------------------------------------------------------------------------------


def accuracy(model, ids, labels):
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    with torch.no_grad():
        right = (model(ids).argmax(-1) == labels).float().mean().item()
    for part, mode in modes:
        part.training = mode
    return right


def accuracy_with(before, after=lambda model, was: None, seed=None):
    def accuracy(model, ids, labels):
        was = model.training
        before(model)
        if seed is not None:
            torch.manual_seed(seed)
        with torch.no_grad():
            right = (model(ids).argmax(-1) == labels).float().mean().item()
        after(model, was)
        return right

    return accuracy


def with_a_graph(model, ids, labels):
    with evaluating(model):
        return (model(ids).argmax(-1) == labels).double().mean().item()


def mean_of_many(model, ids, labels):
    with torch.no_grad():
        return sum((model(ids).argmax(-1) == labels).float().mean().item() for _ in range(20)) / 20


def by_evaluating(model, ids, labels):
    with evaluating(model), torch.inference_mode():
        return (model(ids).argmax(-1) == labels).double().mean().item()


def on_a_copy(model, ids, labels):
    with torch.no_grad():
        return (copy.deepcopy(model).eval()(ids).argmax(-1) == labels).double().mean().item()


class Dropped(nn.Module):
    """Dropout that is no nn.Dropout and goes by the mode all the same."""

    def forward(self, x):
        return F.dropout(x, 0.5, self.training)


def dropping_model(generator, V=40, N=200):
    """A model that is right without dropout, in training mode but for its frozen first part."""
    ids = torch.randint(V, (N,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(1000, (), generator=generator)))
        model = nn.Sequential(nn.Embedding(V, 16), nn.Dropout(0.5), nn.Linear(16, 16), Dropped(), nn.Linear(16, 4))
    labels = model.eval()(ids).argmax(-1)
    labels[:20] = (labels[:20] + 1) % 4
    model.train()
    model[1].eval()  # a frozen part that stays in eval mode
    return model, ids, labels


def evaluated(answer, model, ids, labels):
    """Return the accuracy, the parts' modes afterwards, whether eval mode stays, and whether a graph was built."""
    torch.manual_seed(0)
    graphs = []
    model.register_forward_hook(lambda *call: graphs.append(torch.is_grad_enabled()))
    found = answer(model, ids, labels)
    if not torch.is_grad_enabled():  # `run` switches them on again
        raise Fault("gradients stay switched off for whoever called you. `with torch.no_grad():` ends by itself.")
    found = found.item() if isinstance(found, torch.Tensor) and found.numel() == 1 else found
    after = "".join("et"[part.training] for part in model.modules())  # e: eval mode, t: training mode
    model.eval()
    answer(model, ids, labels)
    still = not any(part.training for part in model.modules())
    return torch.tensor(float(found)), after, still, any(graphs)


evaluation = Repair(
    id="23.15",
    right=accuracy,
    use=evaluated,
    inputs=dropping_model,
    also=lambda generator: dropping_model(generator, 25, 90),
    mistakes=(
        Mistake(
            "the patient",
            accuracy_with(lambda model: None),
            "dropout is still on: the model is in training mode, and `torch.no_grad()` has nothing to do with that.",
            "https://github.com/huggingface/transformers/issues/432",
        ),
        Mistake(
            "left in eval mode",
            accuracy_with(lambda model: model.eval()),
            "the accuracy is right. But the model stays in eval mode, and from here on it trains without dropout.",
            "https://github.com/huggingface/transformers/issues/432, after the advice",
        ),
        Mistake(
            "always train",
            accuracy_with(lambda model: model.eval(), lambda model, was: model.train()),
            "`model.train()` puts *everything* into training mode: a part that was frozen in eval mode, and a model "
            "that came "
            "in eval mode. Give each part its own mode back.",
            "`model.train()` at the end of an evaluation, as most tutorials write it",
        ),
        Mistake(
            "the model's mode for all",
            accuracy_with(lambda model: model.eval(), lambda model, was: model.train(was)),
            "`model.train(was)` gives every part the mode of the whole model; the part that was frozen in eval mode "
            "is in "
            "training mode now. Remember each part's own: `model.modules()`.",
            "model.train(mode) is recursive: torch's documentation of nn.Module.train",
        ),
        Mistake(
            "a seed",
            accuracy_with(lambda model: None, seed=1),
            "with a fixed seed the accuracy no longer wavers, and it is still that of a model with half of its "
            "features "
            "missing. The symptom is hidden.",
            "https://github.com/huggingface/transformers/issues/565, where a fixed seed hid another cause",
        ),
        Mistake(
            "mean of many",
            mean_of_many,
            "the mean of many runs with dropout wavers less. It is not the accuracy of the model without dropout.",
            "noise averaged away in place of its cause",
        ),
        Mistake(
            "with a graph",
            with_a_graph,
            "the accuracy is right, but each call builds the graph of a backward pass that never comes. `model.eval()` "
            "does not turn that off; `with torch.no_grad():` does.",
            "eval mode taken for no_grad, the other half of the confusion",
        ),
    ),
    asks=(
        lambda yours, right: (
            f"of the model without dropout the accuracy is {right[0]:g}, a proportion of right answers; yours is "
            f"{yours[0]:g}."
            if abs(yours[0] - right[0]) > 1e-4
            else None
        ),
        lambda yours, right: (
            "the mode of the model itself is not what it was; `model.modules()` begins with it."
            if yours[1][0] != right[1][0]
            else "the modes of the model's parts are not what they were."
            if yours[1:3] != right[1:3]
            else None
        ),
    ),
    hints=(
        "`model.eval()` before, and afterwards each part's mode as it was: `[(part, part.training) for part in "
        "model.modules()]`.",
        "The package has this: `with evaluating(model):`.",
    ),
    praise="Measured without dropout, and the training goes on as it was.",
    other_ways=(by_evaluating, on_a_copy),
)


# --- 23.16 tied, and untied again -------------------------------------------------------------------------------------


class Tied(nn.Module):
    """An embedding and an output layer that share one table."""

    def __init__(self, V, C, std):
        super().__init__()
        self.tokens, self.output = nn.Embedding(V, C), nn.Linear(C, V, bias=False)
        nn.init.normal_(self.tokens.weight, std=std)
        self.output.weight = self.tokens.weight

    def forward(self, ids):
        return self.output(self.tokens(ids))


def tied_by(finish, forward=None):
    """finish(model, std): what is done after the two layers are there."""

    def __init__(self, V, C, std):
        nn.Module.__init__(self)
        self.tokens, self.output = nn.Embedding(V, C), nn.Linear(C, V, bias=False)
        finish(self, std)

    methods = {"__init__": __init__} | ({"forward": forward} if forward else {})
    return type("Tied", (Tied,), methods)


def tie_then_replace(model, std):
    model.output.weight = model.tokens.weight
    model.tokens.weight = nn.Parameter(std * torch.randn(model.tokens.weight.shape))


def copy_once(model, std):
    nn.init.normal_(model.tokens.weight, std=std)
    model.output.weight.data.copy_(model.tokens.weight.data)


def share_data(model, std):
    nn.init.normal_(model.tokens.weight, std=std)
    model.output.weight.data = model.tokens.weight.data


def tie_only(model, std):
    model.output.weight = model.tokens.weight


def freeze_one(model, std):
    copy_once(model, std)
    model.output.weight.requires_grad_(False)


def tie_at_each_call(self, ids):
    self.output.weight = self.tokens.weight
    return self.output(self.tokens(ids))


def with_a_mean(model, std):
    nn.init.normal_(model.tokens.weight, 5.0, std)
    model.output.weight = model.tokens.weight


def tie_first(model, std):
    model.output.weight = model.tokens.weight
    nn.init.normal_(model.tokens.weight, std=std)


def replace_both(model, std):
    model.tokens.weight = model.output.weight = nn.Parameter(std * torch.randn(model.tokens.weight.shape))


def one_table(answer, V, C, std):
    """Return how many tables are trained, whether both are one before and after a step, mean and spread, and whether
    forward gives the scores and passes the gradient to both uses of the table."""
    model = answer(V, C, std)
    if not isinstance(model, nn.Module) or not isinstance(getattr(model, "tokens", None), nn.Embedding):
        raise Fault("keep the names `tokens` and `output`.")
    if getattr(getattr(model, "output", None), "bias", None) is not None:
        raise Fault("`output` has a bias of V numbers; it was asked for without, `bias=False`.")
    count = sum(p.numel() for p in model.parameters() if p.requires_grad) / (V * C)
    is_one, start = model.tokens.weight is model.output.weight, torch.equal(model.tokens.weight, model.output.weight)
    spread = model.tokens.weight.std().item()
    spread = "std" if abs(spread / std - 1) < 0.1 else "1" if abs(spread - 1) < 0.1 else f"{spread:.2g}, not {std}"
    mean = "0" if model.tokens.weight.mean().abs() < 0.1 * model.tokens.weight.std() else "not 0"
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    ids, table = torch.arange(9), model.tokens.weight.detach().clone().requires_grad_()
    scores = model(ids)
    later = model.tokens.weight is model.output.weight
    right = model.tokens.weight[ids] @ model.output.weight.T
    forward = scores.shape == right.shape and torch.allclose(scores, right, atol=1e-5)
    F.cross_entropy(scores, ids + 1).backward()
    F.cross_entropy(table[ids] @ table.T, ids + 1).backward()
    gradient = model.tokens.weight.grad is not None and torch.allclose(model.tokens.weight.grad, table.grad, atol=1e-6)
    optimizer.step()
    same_later = torch.equal(model.tokens.weight, model.output.weight)
    return count, is_one, later, start, same_later, spread, mean, forward, gradient


tied = Repair(
    id="23.16",
    right=Tied,
    use=one_table,
    inputs=lambda generator: (200 + int(torch.randint(20, (), generator=generator)), 50, 0.02),
    also=lambda generator: (300, 40, 0.3),
    mistakes=(
        Mistake(
            "the patient",
            tied_by(tie_then_replace),
            "`self.tokens.weight = nn.Parameter(…)` puts a *new* parameter in place of the shared one: the output "
            "keeps the "
            "old. Initialise in place, or tie last.",
            "https://github.com/PaddlePaddle/PaddleNLP/issues/5557",
        ),
        Mistake(
            "copied",
            tied_by(copy_once),
            "the two tables are equal at the start and part at the first step: a copy is not a tie. Let both layers "
            "hold one "
            "parameter.",
            "https://github.com/dhansmair/flamingo-mini/issues/4",
        ),
        Mistake(
            "data shared",
            tied_by(share_data),
            "the two parameters share their numbers, and they are still two: each has a gradient and an optimizer "
            "state of its "
            "own, and the count is doubled. Assign the parameter, without `.data`.",
            "`.data` in place of the parameter",
        ),
        Mistake(
            "not initialised",
            tied_by(tie_only),
            "they are tied, but the standard deviation is not std: nn.Embedding draws with 1, and so does "
            "`nn.init.normal_(weight, std)`, whose second argument is the mean.",
            "a repair that loses a line; google-research/bert draws with 0.02",
        ),
        Mistake(
            "frozen",
            tied_by(freeze_one),
            "you froze the output's copy. It counts once now, and it never learns: the tables part at the first step.",
            "requires_grad as a way to count right",
        ),
        Mistake(
            "tied at each call",
            tied_by(lambda model, std: nn.init.normal_(model.tokens.weight, std=std), tie_at_each_call),
            "you tie at each call. An optimizer made before the first call holds a table that is thrown away. Tie "
            "once, in "
            "`__init__`.",
            "a tie in `forward`, as if it were a computation",
        ),
        Mistake(
            "another mean",
            tied_by(with_a_mean),
            "the table is shared and the spread is std, but the mean of its numbers is not 0.",
            "a positive start, such as that of a gain",
        ),
        Mistake(
            "scaled",
            tied_by(tie_first, lambda self, ids: self.output(self.tokens(ids) * self.tokens.embedding_dim**0.5)),
            "the table is shared, but forward gives something else than the scores of the tokens' vectors, "
            "`self.output(self.tokens(ids))`.",
            "arXiv:1706.03762, section 3.4, which multiplies its embeddings by the root of the width; BERT does not",
        ),
        Mistake(
            "detached",
            tied_by(tie_first, lambda self, ids: self.output(self.tokens(ids).detach())),
            "the table is shared, but the gradient reaches it through the output only: the tokens' vectors are "
            "detached.",
            "https://github.com/PaddlePaddle/PaddleNLP/issues/5557, the tie kept and one of its uses lost",
        ),
    ),
    asks=(
        lambda yours, right: (
            None
            if yours[1]
            else "`tokens.weight is output.weight` is False after `__init__`: two parameters, whatever forward does."
        ),
        lambda yours, right: f"the mean of the numbers is {yours[6]}; 0 was asked for." if yours[6] != "0" else None,
        lambda yours, right: (
            f"the standard deviation of the table is {yours[5]}. std is not the variance, and not the end of a range."
            if yours[5] != "std"
            else None
        ),
        lambda yours, right: None if yours[7] else "forward does not give `self.output(self.tokens(ids))`.",
    ),
    hints=(
        "What does `self.tokens.weight = …` do to `self.output.weight`?",
        "`nn.init.normal_(self.tokens.weight, std=std)` changes the numbers and keeps the parameter.",
    ),
    praise="One parameter, used twice, counted once.",
    other_ways=(tied_by(tie_first), tied_by(replace_both)),
)


# --- 23.17 groups by name ---------------------------------------------------------------------------------------------


def groups(model, weight_decay):
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def groups_by(kept, decay=lambda weight_decay: weight_decay, lost=lambda name: False):
    """kept(name, parameter): whether it is not decayed."""

    def groups(model, weight_decay):
        named = [(n, p) for n, p in model.named_parameters() if not lost(n)]
        return [
            {"params": [p for n, p in named if not kept(n, p)], "weight_decay": decay(weight_decay)},
            {"params": [p for n, p in named if kept(n, p)], "weight_decay": 0.0},
        ]

    return groups


def groups_by_type(model, weight_decay):
    norms = {id(p) for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    kept = [p for n, p in model.named_parameters() if id(p) in norms or n.endswith("bias")]
    chosen = {id(p) for p in kept}
    return [
        {"params": kept, "weight_decay": 0.0},
        {"params": [p for p in model.parameters() if id(p) not in chosen], "weight_decay": weight_decay},
    ]


class Named(nn.Module):
    """A model whose layer norms have several names, with a tied table, a frozen matrix and misleading names."""

    def __init__(self, V, C):
        super().__init__()
        self.tokens, self.norm1, self.dense = nn.Embedding(V, C), nn.LayerNorm(C), nn.Linear(C, C)
        self.layer_norm, self.out, self.ln_f = nn.LayerNorm(C), nn.Linear(C, V), nn.LayerNorm(V)
        self.attention, self.unbiased = nn.MultiheadAttention(C, 2), nn.Linear(C, C, bias=False)
        self.out.weight = self.tokens.weight
        self.dense.weight.requires_grad_(False)


def decays(answer, model, weight_decay):
    """Return the names of what is decayed, of what is not, and of what is in no group or in two."""
    names = {id(p): n + " (frozen)" * (not p.requires_grad) for n, p in model.named_parameters()}
    found = {True: [], False: []}
    for group in answer(model, weight_decay):
        if not isinstance(group, dict) or group.get("weight_decay") not in (0, weight_decay):
            has = f"one of yours has {group.get('weight_decay')}" if isinstance(group, dict) else "one of yours is none"
            raise Fault(f"each group is a dict with `params` and a `weight_decay`, 0 or {weight_decay}; {has}.")
        strange = [p for p in group["params"] if id(p) not in names]
        if strange:
            raise Fault(f"`params` holds the model's parameters themselves; yours holds a {type(strange[0]).__name__}.")
        found[group["weight_decay"] != 0] += [names[id(p)] for p in group["params"]]
    every = found[True] + found[False]
    trouble = sorted({n for n in names.values() if every.count(n) != 1})
    return sorted(found[True]), sorted(found[False]), {n: every.count(n) for n in trouble}


def those(names, known):
    return ", ".join(n for n in names if n not in known) or "none"


decay_groups = Repair(
    id="23.17",
    right=groups,
    use=decays,
    inputs=lambda generator: (Named(7, 4), 0.01),
    also=lambda generator: (nn.TransformerEncoderLayer(8, 2, 16), 0.1),
    mistakes=(
        Mistake(
            "the patient",
            groups_by(lambda n, p: any(part in n for part in ("bias", "LayerNorm.weight"))),
            "the gains of the norms are still decayed: no norm of these models is called LayerNorm. Go by what a "
            "parameter "
            "*is*, not by its name.",
            "https://github.com/huggingface/transformers/issues/16908",
        ),
        Mistake(
            "another name",
            groups_by(lambda n, p: n.endswith("bias") or "norm" in n.lower()),
            "one more name, and still not all: `ln_f` is a norm too. Go by what a parameter *is*: a gain has one "
            "dimension.",
            "https://github.com/deepspeedai/DeepSpeedExamples/pull/755",
        ),
        Mistake(
            "norms alone",
            groups_by(lambda n, p: p.ndim < 2 and not n.endswith("bias")),
            "the gains are spared now, and the biases are decayed.",
            "https://github.com/mmcdermott/MEDS_EIC_AR/issues/30",
        ),
        Mistake(
            "embeddings spared",
            groups_by(lambda n, p: p.ndim < 2 or "tokens" in n or "in_proj" in n),
            "you spare the embeddings too. BERT decays them; so does the text.",
            "https://github.com/Lightning-AI/lit-llama/issues/254",
        ),
        Mistake(
            "lost",
            groups_by(lambda n, p: p.ndim < 2, lost=lambda n: "norm" in n or "ln_" in n),
            "the norms are in no group: they are not decayed, and they do not learn either.",
            "a filter in place of a group",
        ),
        Mistake(
            "no decay",
            groups_by(lambda n, p: True),
            "nothing is decayed any more, the matrices neither.",
            "a condition that is always true",
        ),
        Mistake(
            "turned",
            groups_by(lambda n, p: p.ndim >= 2),
            "the groups are exchanged: what has one dimension is decayed, and the matrices are not.",
            "a condition turned round",
        ),
    ),
    asks=(
        lambda yours, right: (
            "each parameter should be in one group, once, whether it is tied or frozen. You have "
            f"{', '.join(f'{n} {times} times' for n, times in yours[2].items())}."
            if yours[2]
            else None
        ),
        lambda yours, right: (
            f"decayed that should not be: {those(yours[0], right[0])}; not decayed that should be: "
            f"{those(yours[1], right[1])}."
            if yours != right
            else None
        ),
    ),
    hints=(
        "Print the names of the parameters with one dimension. Is there one that should be decayed?",
        "`p.ndim >= 2` holds for matrices, and for nothing else here.",
    ),
    praise="No name decides any more.",
    other_ways=(groups_by_type,),
)


# --- 23.2 predict: a softmax too many ---------------------------------------------------------------------------------


def about_bound(guess):
    """Return a sentence on a wrong bound: the number of another quantity, or of an impossible size."""
    right, guess = double_softmax.right, float(guess)
    if abs(guess - math.exp(-right)) < 0.01:
        return "That is the probability that the right word gets at best. The loss is -ln of it."
    if min(abs(guess - right / math.log(base)) for base in (2, 10)) < 0.003:
        return "The logarithm is to the base e: `math.log`."
    if abs(guess - right) < 0.1:
        return "You are near: give two digits after the point, rounded."
    if guess > math.log(24):
        return "That is above ln 24, the loss of equal probabilities, and training lowers it. Have you divided by e?"
    return None


double_softmax = Prediction(
    id="23.2",
    right=math.log(1 + 23 / math.e),
    tolerance=0.01,
    mistakes=(
        Mistake(
            "zero",
            0.0,
            "0 is what logits can reach, which may be as large as they like. A probability is at most 1, and here the "
            "probabilities are taken for logits.",
            "https://github.com/nishnik/Deep-Semantic-Similarity-Model-PyTorch/issues/2, where it went unnoticed",
        ),
        Mistake(
            "ln V",
            math.log(24),
            "ln 24 is the loss of equal probabilities, where it starts. The right word's logit can still rise to 1 "
            "while the "
            "others' fall to 0.",
            "the loss at the start taken for the loss at the end",
        ),
        Mistake(
            "one",
            1.0,
            "1 is the largest logit, not the loss. Put the logits 1, 0, 0, … through the softmax, and take -ln of the "
            "first.",
            "half of the computation",
        ),
        Mistake(
            "V others",
            math.log(1 + 24 / math.e),
            "nearly: of the 24 words one is the right one, so 23 have the logit 0.",
            "one word counted twice",
        ),
        Mistake(
            "of -1 and 1",
            math.log(1 + 23 / math.e**2),
            "that is the bound for cosines, from -1 to 1. Probabilities are 0 at least.",
            "the bound of another disease",
        ),
    ),
    hints=(
        "At best the model gives the right word the probability 1 and each other word 0. The cross-entropy takes "
        "these for "
        "logits.",
        "e / (e + 23) is the probability that the second softmax makes of it.",
    ),
    praise="A loss that stops at ln(1 + (V - 1)/e) has met two softmaxes.",
    about=about_bound,
)


# --- 23.18 a page of wrong prose --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Words(Prediction):
    """A page to correct: statement -> True, or the letter of the correction."""

    where: tuple[str, ...] = ()  # of each statement, where it can be looked up

    def __call__(self, page: Any) -> None:
        if not isinstance(page, dict):
            return super().__call__(page)
        page = {n: self.plain(value) for n, value in page.items() if value is not None and value is not ...}
        if not page:
            return blank(self.id)
        if set(page) - set(self.right):
            raise CheckFailed(f"{self.id}: there is no statement {', '.join(map(repr, set(page) - set(self.right)))}.")
        if page == self.right:
            print(f"✓ {self.id} is right. {self.praise}")
            return None
        for mistake in self.mistakes:
            if page == mistake.wrong:
                raise CheckFailed(f"{self.id}: {mistake.message}")
        missing = [n for n in self.right if n not in page]
        wrong = [n for n in self.right if n in page and page[n] != self.right[n]]
        lines = [f"{len(self.right) - len(wrong) - len(missing)} of {len(self.right)} statements are judged rightly."]
        for n in wrong:
            if page[n] is True:
                said = "you let it stand"
            elif page[n] is False:
                said = "you call it false; write the letter of its correction"
            else:
                said = f"{page[n]!r} is not it: true after all, or another correction"
            lines.append(f"{n}: {said}. Look it up in {self.where[n - 1]}.")
        lines += [f"not judged yet: {', '.join(map(str, missing))}."] if missing else []
        raise CheckFailed(f"{self.id}: " + "\n  ".join(lines))

    @staticmethod
    def plain(value: Any) -> Any:
        if isinstance(value, str):
            value = value.strip().lower().strip(".()")
            return {"true": True, "false": False}.get(value, value)
        return value


BERT, ROBERTA = "BERT, arXiv:1810.04805, section 3.1", "RoBERTa, arXiv:1907.11692"
PAGE = {
    1: "d",
    2: "h",
    3: True,
    4: "m",
    5: "b",
    6: "q",
    7: True,
    8: "k",
    9: "f",
    10: "p",
    11: True,
    12: "a",
    13: "n",
    14: True,
    15: "c",
    16: True,
    17: "l",
    18: "i",
}
words = Words(
    id="23.18",
    right=PAGE,
    mistakes=(
        Mistake(
            "all true",
            dict.fromkeys(PAGE, True),
            "you let every statement stand. Most of them are wrong; several are from one article, and it is much "
            "copied.",
            "an article on BERT's successors, read in good faith",
        ),
        Mistake(
            "all false",
            dict.fromkeys(PAGE, False),
            "you call every statement false and correct none. Some are true, and a correction is the letter of what "
            "should "
            "stand there.",
            "the guess that a check must not accept",
        ),
        Mistake(
            "not corrected",
            {n: value is True for n, value in PAGE.items()},
            "true and false are told apart rightly, all eighteen of them. Now write the letter of the correction in "
            "place of "
            "each False.",
            "the first half of the exercise",
        ),
    ),
    hints=(
        "Five of the eighteen are true. Most of the others were lessons: 05 (masking), 07 (RoBERTa), 09 (the "
        "contrastive "
        "loss), and 03 for the heads.",
        "Numbers first: 10 % of the *selected* tokens is how much of all? Then what can be looked up: authors and "
        "arXiv "
        "numbers are at the end of lessons 07 and 09.",
    ),
    praise="Every wrong statement has its correction, and the true ones stand.",
    where=(
        BERT,
        f"{ROBERTA}, sections 2.3 and 4.1",
        f"{ROBERTA}, section 4.2 and Table 2",
        ROBERTA,
        "SimCLR, by its title",
        BERT,
        "SimCSE, arXiv:2104.08821, section 3",
        ROBERTA + ", section 4.2 and Table 2",
        ROBERTA + ", the abstract and section 4",
        "Vaswani et al., arXiv:1706.03762, section 3.2.2",
        "ELECTRA, arXiv:2003.10555, section 2",
        "lesson 05, the loss, or google-research/bert, run_pretraining.py",
        "SimCLR, arXiv:2002.05709, equation 1, or lesson 09",
        "ModernBERT, arXiv:2412.13663, the section on training",
        "ModernBERT, arXiv:2412.13663, the section on attention",
        f"{ROBERTA}'s code in fairseq, or lesson 04",
        f"{ROBERTA}, section 4.1",
        "ELECTRA, arXiv:2003.10555, section 2",
    ),
)
