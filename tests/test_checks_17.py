"""Lesson 17: what its checks say of wrong answers that no named mistake fits, and further right answers."""

from pathlib import Path

import pytest
import torch
from exercises import ALL

import nextbert_lite.checks
from nextbert_lite.checks.core import Build, CheckFailed
from nextbert_lite.core.diffusion import hide_words

GUESSES = {25: "from 0 to 1", -1: "from 0 to 1", 0.26: "close", 0.2: "close", 0.375: "too large", 1 / 6: "too small"}


@pytest.mark.parametrize(
    "guess, words", [pytest.param(guess, words, id=f"lesson17.3-{guess:.3f}") for guess, words in GUESSES.items()]
)
def test_a_wrong_proportion_is_told_in_which_way_it_is_wrong(guess, words):
    with pytest.raises(CheckFailed, match=f"is not it. .*{words}"):
        ALL["17.3"](guess)


OF_ANOTHER_KIND = {
    "a column": (lambda words: words[:, None], r"\(4000, 1\) of torch.int64"),
    "floats": (lambda words: words.double(), r"\(4000,\) of torch.float64"),
    "a list": (lambda words: words.tolist(), "list"),
}


@pytest.mark.parametrize(
    "turn, words", OF_ANOTHER_KIND.values(), ids=[f"lesson17.5-{kind}" for kind in OF_ANOTHER_KIND]
)
def test_drawn_words_of_another_kind_are_refused_with_the_kind(turn, words):
    with pytest.raises(CheckFailed, match=f"the result is {words}; expected one word's number a row"):
        ALL["17.5"](lambda logits, seed: turn(ALL["17.5"].right(logits, seed)))


@pytest.mark.parametrize("id_", [pytest.param(id_, id=f"lesson{id_}-float32") for id_ in ("17.1", "17.4")])
def test_a_right_result_passes_in_float32_where_the_text_asks_for_no_dtype(id_, capsys):
    right = ALL[id_].course if isinstance(ALL[id_], Build) else ALL[id_].right
    ALL[id_](lambda *arguments: right(*arguments).float())
    assert "is right" in capsys.readouterr().out


def joint_in_a_table(model, ids, first, second):
    p = model(ids)[0, first].softmax(-1)
    table = torch.zeros(len(p), len(p))  # float32, whatever the model's logits are
    for a in range(len(p)):
        ids[0, first] = a
        table[a] = p[a] * model(ids)[0, second].softmax(-1)
    return table


@pytest.mark.parametrize("answer", [pytest.param(joint_in_a_table, id="lesson17.4-in place")])
def test_a_text_that_is_changed_in_place_is_named_in_float32_too(answer):
    with pytest.raises(CheckFailed, match="the result is right, but your function changes `ids`"):
        ALL["17.4"](answer)


def hides_in_place(model, ids, hidden, tokenizer, rates=None):
    loss = ALL["17.1"].course(model, ids, hidden, tokenizer, rates)
    ids[hidden] = tokenizer.mask_id
    return loss


def fills_in_place(model, ids, *arguments, **more):
    ids[:] = ALL["17.2"].course(model, ids, *arguments, **more)
    return ids


@pytest.mark.parametrize(
    "id_, answer",
    [
        pytest.param("17.1", hides_in_place, id="lesson17.1-in place"),
        pytest.param("17.2", fills_in_place, id="lesson17.2-in place"),
    ],
)
def test_a_text_that_is_changed_in_place_is_named(id_, answer):
    with pytest.raises(CheckFailed, match=r"stage 1 .*: `ids` is changed in place"):
        ALL[id_](answer)


@pytest.fixture(scope="module")
def the_perfect_model():
    """The names of lesson 17's cell that makes its perfect model."""
    source = Path(nextbert_lite.__file__).parent.parent / "notebooks/source/17_writing_with_a_masked_model.py"
    cell = next(cell for cell in source.read_text(encoding="utf-8").split("\n# %%") if "def perfect(" in cell)
    names = {name: getattr(nextbert_lite, name) for name in ("COURSE_SENTENCE", "PerfectModel", "ToyWorld", "load")}
    names["torch"] = torch
    exec(cell.split("\n", 1)[1], names)
    return names


LOSSES = [ALL["17.1"].course, *ALL["17.1"].other_ways]


SAMPLERS = [ALL["17.2"].course, *ALL["17.2"].other_ways]


@pytest.mark.parametrize("loss", [pytest.param(loss, id=f"lesson17.1-{loss.__name__}") for loss in LOSSES])
def test_each_right_loss_is_finite_with_the_lessons_perfect_model(loss, the_perfect_model):
    perfect, tokenizer = the_perfect_model["perfect"], the_perfect_model["tokenizer"]
    ids, _ = the_perfect_model["world"].sample_ids(20, seed=3)
    hidden = hide_words(ids, tokenizer, generator=torch.Generator().manual_seed(0))
    expected = LOSSES[0](perfect, ids, hidden, tokenizer)
    assert torch.isclose(loss(perfect, ids, hidden, tokenizer).double(), expected.double(), rtol=1e-5)


@pytest.mark.parametrize("fill", [pytest.param(fill, id=f"lesson17.2-{fill.__name__}") for fill in SAMPLERS])
def test_each_right_sampler_writes_possible_sentences_with_the_lessons_perfect_model(fill, the_perfect_model):
    tokenizer, world = the_perfect_model["tokenizer"], the_perfect_model["world"]
    ids = torch.tensor([[tokenizer.cls_id, *[tokenizer.mask_id] * 11, tokenizer.sep_id]] * 10)
    texts = fill(the_perfect_model["perfect"], ids, tokenizer, 11, generator=torch.Generator().manual_seed(0))
    assert world.log_probability([tokenizer.decode(row) for row in texts]).isfinite().all()
