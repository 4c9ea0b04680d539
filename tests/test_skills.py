"""What the card of toy-small tells of it: agreement by construction, and the head that looks at the subject."""

import copy

import pytest
import torch

from nextbert_lite import ToyWorld, load
from nextbert_lite.course.skills import answers, by_construction, looks_at_subject, named, skills, without_head
from nextbert_lite.use.checkpoints import read_card

FALSE_ALARM = "each share is of at least 20 questions, and the model was right in every one of some thousand"


@pytest.fixture(scope="module")
def toy():
    return load("toy-small")


@pytest.fixture(scope="module")
def questions(world):
    return [q for q in world.agreement_test(1500, seed=77) if q.misleading]


def test_the_shipped_model_agrees_in_every_trained_construction(toy, questions):
    right = by_construction(questions, answers(*toy, questions).double())
    assert len(right) == 15 and min(right.values()) >= 0.99, FALSE_ALARM


def test_in_a_construction_that_it_never_saw_it_is_far_worse(toy, world):
    unseen = ToyWorld(held_out=True).agreement_test(600, seed=77)
    right = by_construction(unseen, answers(*toy, unseen).double())
    assert max(right.values()) < 0.95


def test_the_heads_weights_are_those_that_the_encoder_gives(toy, questions):
    model, tokenizer = toy
    few = questions[:7]
    found = looks_at_subject(model, tokenizer, few)
    assert found.shape == (7, 2, 4)
    for q, row in zip(few, found, strict=True):
        shown = ["[MASK]" if i == q.position else word for i, word in enumerate(q.sentence.words)]
        ids = torch.tensor([tokenizer.encode(" ".join(shown), allow_specials=True)])
        with torch.no_grad():
            _, inside = model.encoder(ids, return_inside=True)
        subject = 1 + q.sentence.position(q.sentence.subject)
        expected = torch.stack([weights[0, :, 1 + q.position, subject] for weights in inside.weights])
        torch.testing.assert_close(row.float(), expected, rtol=0, atol=1e-5)


def test_the_subjects_head_reads_the_subject_in_each_construction_and_agreement_needs_it(toy, questions):
    told = read_card("toy-small")["held_out"]["skills"]["subject_head"]
    layer, head = told["layer"] - 1, told["head"] - 1
    weights = by_construction(questions, looks_at_subject(*toy, questions)[:, layer, head])
    assert min(weights.values()) > 0.5
    right = answers(without_head(toy.model, layer, head), toy.tokenizer, questions).double().mean()
    assert right < 0.8
    assert abs(right - told["agreement_without"]["all"]) < 0.1  # 5 standard errors of 0.018


def test_a_head_is_taken_from_a_copy(toy):
    before = copy.deepcopy(toy.model.state_dict())
    changed = without_head(toy.model, 1, 2)
    assert all(torch.equal(before[name], tensor) for name, tensor in toy.model.state_dict().items())
    weight = changed.encoder.layers[1].attention.out.weight
    assert (weight[:, 32:48] == 0).all() and (weight[:, :32] != 0).any() and (weight[:, 48:] != 0).any()


def test_a_card_tells_of_every_construction_and_of_each_part(toy, world):
    told = skills(toy.model, toy.tokenizer, world, n=400)
    assert set(told) == {"agreement", "held_out", "subject_head"}
    assert set(told["subject_head"]["weight"]) | {"all"} == set(told["agreement"])
    assert told["agreement"]["all"] == 1.0
    assert told["subject_head"]["agreement_without"]["all"] < told["subject_head"]["agreement_without_another"]


def test_three_seeds_are_in_the_shipped_card():
    held_out = read_card("toy-small")["held_out"]
    for figures in (held_out, *held_out["other_seeds"].values()):
        assert figures["gap_to_floor"] <= 0.03
        assert min(figures["skills"]["agreement"].values()) >= 0.99
    assert len(held_out["other_seeds"]) == 2


def test_a_question_is_named_by_construction_and_attractor(world):
    names = {named(q) for q in world.agreement_test(2000, seed=3)}
    assert {"active", "cleft, person", "fronted passive, thing", "object cleft"} <= names and len(names) == 18
