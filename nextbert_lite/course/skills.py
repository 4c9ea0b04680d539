"""What a model of the toy world can do and where its heads look, construction by construction: the card of toy-small.

A head that reads a place instead of grammar does so in some constructions and fails in others; a mean would hide it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.corpora.toy_world import Question, ToyWorld
from nextbert_lite.training.batches import pad
from nextbert_lite.training.loop import evaluating
from nextbert_lite.training.tokenizer import Tokenizer

SEED = 1_000_003
CHUNK = 500


def skills(model: MaskedLanguageModel, tokenizer: Tokenizer, world: ToyWorld, n: int = 4000) -> dict:
    """Return the proportion of right verbs by construction, and what the subject's head has to do with it.

    agreement: of n questions, those with a misleading noun before the gap. held_out: all of n / 4 questions in
    constructions that the language never says. subject_head: the head that looks most at the subject from the gap, in
    its worst construction; its mean weight there; agreement without it (its output set to 0), and the least agreement
    without any one other head. Layers and heads count from 1.
    """
    questions = [q for q in world.agreement_test(n, SEED) if q.misleading]
    unseen = ToyWorld(world.path, held_out=True).agreement_test(n // 4, SEED) if world.grammar["held_out"] else []
    right = answers(model, tokenizer, questions)
    weights = by_construction(questions, looks_at_subject(model, tokenizer, questions))  # name -> (layers, heads)
    worst = torch.stack([*weights.values()]).amin(0)
    layer, head = divmod(int(worst.argmax()), worst.shape[1])
    without = answers(without_head(model, layer, head), tokenizer, questions)
    others = [
        answers(without_head(model, i, j), tokenizer, questions).double().mean().item()
        for i in range(worst.shape[0])
        for j in range(worst.shape[1])
        if (i, j) != (layer, head)
    ]
    return {
        "agreement": rounded(by_construction(questions, right.double())) | {"all": share(right)},
        "held_out": rounded(by_construction(unseen, answers(model, tokenizer, unseen).double())) if unseen else {},
        "subject_head": {
            "layer": layer + 1,
            "head": head + 1,
            "weight": rounded({name: table[layer, head] for name, table in weights.items()}),
            "agreement_without": rounded(by_construction(questions, without.double())) | {"all": share(without)},
            "agreement_without_another": round(min(others), 3),
        },
    }


def named(question: Question) -> str:
    """Return the construction and the kind of attractor, as "object cleft, person"."""
    kind = question.sentence.attractor
    return question.sentence.construction + ("" if kind == "none" else f", {kind}")


def by_construction(questions: Sequence[Question], values: Tensor) -> dict[str, Tensor]:
    """Return the mean of the values, (N, …), of each construction, by name."""
    names = [named(q) for q in questions]
    return {name: values[torch.tensor([other == name for other in names])].mean(0) for name in sorted(set(names))}


def covered(questions: Sequence[Question], tokenizer: Tokenizer) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids with [MASK] in the gap, their mask, and where the gap is."""
    ids, mask = pad(tokenizer.encode_batch([q.sentence.text for q in questions]), tokenizer.pad_id)
    gaps = torch.tensor([q.position + 1 for q in questions])
    ids[torch.arange(len(ids)), gaps] = tokenizer.mask_id
    return ids, mask, gaps


@torch.no_grad()
def answers(model: MaskedLanguageModel, tokenizer: Tokenizer, questions: Sequence[Question]) -> Tensor:
    """Return whether the model finds the right word likelier than the wrong one, (N,)."""
    ids, mask, gaps = covered(questions, tokenizer)
    right, wrong = (torch.tensor([tokenizer.id(getattr(q, k)) for q in questions]) for k in ("right", "wrong"))
    found = []
    with evaluating(model):
        for rows in torch.arange(len(ids)).split(CHUNK):
            logits = model(ids[rows], mask[rows])[torch.arange(len(rows)), gaps[rows]]
            found.append(logits.gather(1, right[rows, None]) > logits.gather(1, wrong[rows, None]))
    return torch.cat(found)[:, 0]


@torch.no_grad()
def looks_at_subject(model: MaskedLanguageModel, tokenizer: Tokenizer, questions: Sequence[Question]) -> Tensor:
    """Return the weight from the gap to the subject, of each head: (N, layers, heads)."""
    ids, mask, gaps = covered(questions, tokenizer)
    subjects = torch.tensor([q.sentence.position(q.sentence.subject) + 1 for q in questions])
    found = []
    with evaluating(model):
        for rows in torch.arange(len(ids)).split(CHUNK):
            _, inside = model.encoder(ids[rows], mask[rows], return_inside=True)
            b = torch.arange(len(rows))
            found.append(torch.stack([w[b, :, gaps[rows], subjects[rows]] for w in inside.weights], dim=1))
    return torch.cat(found).double()


def without_head(model: MaskedLanguageModel, layer: int, head: int) -> MaskedLanguageModel:
    """Return a copy whose head (from 0) gives zeros."""
    model = copy.deepcopy(model)
    attention = model.encoder.layers[layer].attention
    D = attention.out.in_features // attention.H
    with torch.no_grad():
        attention.out.weight[:, head * D : (head + 1) * D] = 0
    return model


def share(right: Tensor) -> float:
    return round(right.double().mean().item(), 3)


def rounded(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: round(value.item(), 3) for name, value in values.items()}
