"""Figures say what they show, to everyone; the same figure is the same file."""

import base64

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from oracles import drawn

from nextbert_lite.views import attention as views
from nextbert_lite.views import plots

TOKENS = ["the", "key", "is", "here"]
ALT = "A row of numbers that rises from left to right."


@pytest.fixture(autouse=True)
def no_open_figures():
    with plt.rc_context():  # the course's style stays on after a figure
        yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    """What was displayed."""
    calls = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: calls.append((data, options)))
    return calls


def weights(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def line(title="The line rises steadily"):
    fig, ax = plots.figure()
    ax.plot([1, 2, 3], label="a line")
    ax.set(title=title, xlabel="step", ylabel="nats")
    return fig


FIGURES = {
    "line": line,
    "map": lambda: plots.attention_map(weights(4, 4), TOKENS, title="Each token looks at itself"),
    "heads": lambda: plots.attention_heads(weights(3, 4, 4), TOKENS, title="Three heads look at different tokens"),
    "layers": lambda: plots.attention_heads(weights(2, 3, 4, 4), TOKENS, title="Two layers of three heads each"),
    "arcs": lambda: plots.attention_from(weights(4), TOKENS, 1, title="The key looks at others"),
    "loss": lambda: plots.loss_curve([3, 2, 1.5], title="The loss falls quickly", reference={"floor": 1.0}),
}


@pytest.mark.parametrize("kind", sorted(FIGURES))
def test_every_figure_can_be_shown_with_its_alternative_text(kind, shown):
    fig = FIGURES[kind]()
    plots.show(fig, alt=ALT)
    ((data, options),) = shown
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"] == ALT
    assert options == {"raw": True, "metadata": {"image/png": {"alt": ALT}}}
    assert not plt.fignum_exists(fig.number)  # closed, so that a notebook does not show it twice


@pytest.mark.parametrize("kind", sorted(FIGURES))
def test_the_same_figure_gives_the_same_bytes(kind):
    first = FIGURES[kind]()
    content = plots.png(first)
    assert plots.png(first) == content  # drawn again
    assert plots.png(FIGURES[kind]()) == content  # made again
    assert b"matplotlib" not in content.lower()  # no version, no date


HOSTILE = ["$x$", r"\$5", "half \ud800", "_a_{b}$"]
DRAWN = {"$x$", r"\$5", "half ?", "_a_{b}$"}
PRICE = "Both $x^2$ and _y_ cost $5"
WITH_DOLLARS = {
    "map": lambda: plots.attention_map(weights(4, 4), HOSTILE, title=PRICE),
    "keys": lambda: plots.attention_map(weights(1, 4), ["a"], HOSTILE, title=PRICE),
    "heads": lambda: plots.attention_heads(weights(3, 4, 4), HOSTILE, title=PRICE),
    "layers": lambda: plots.attention_heads(weights(2, 3, 4, 4), HOSTILE, title=PRICE),
    "arcs": lambda: plots.attention_from(torch.tensor([0.9, 0.1, 0, 0]), HOSTILE, 2, title=PRICE),
}


@pytest.mark.parametrize("kind", WITH_DOLLARS)
def test_tokens_and_titles_are_drawn_character_by_character(kind):
    fig = WITH_DOLLARS[kind]()
    assert {*DRAWN, PRICE} <= drawn(fig)
    plots.png(fig)


def test_the_names_of_reference_lines_are_drawn_character_by_character():
    fig = plots.loss_curve([3, 2], title=PRICE, reference={"_a $x$ \ud800": 1.0, "$\\ln V$": 2.0})
    assert {PRICE, "_a $x$ ?: 1.00", r"$\ln V$: 2.00"} <= drawn(fig)


def test_every_reference_line_is_drawn_however_many_there_are():
    fig = plots.loss_curve([2.0, 1.0], title="It falls fast", reference={f"line {i}": i for i in range(5)})
    assert {f"line {i}: {i}.00" for i in range(5)} <= drawn(fig)


def test_what_is_no_figure_is_told_in_words(shown):
    view = views.AttentionExplorer(TOKENS, weights(4, 4), title="Who looks at whom")
    for given, name in ((view, "AttentionExplorer"), (line().axes[0], "Axes")):
        with pytest.raises(
            TypeError, match=f"expected a figure, not {name}: of axes give `ax.figure`; a view is shown"
        ):
            plots.show(given, alt=ALT)
    with pytest.raises(ValueError, match="alt is None; write a sentence"):
        plots.show(line(), alt=None)
    assert not shown


def test_another_figure_gives_other_bytes():
    assert plots.png(line()) != plots.png(line("The line falls steadily"))


def test_a_figure_does_not_depend_on_the_readers_own_style(monkeypatch):
    expected = plots.png(line())
    with plt.rc_context({"axes.titlelocation": "center", "savefig.dpi": 300, "image.cmap": "jet"}):
        again = plots.png(line())
    assert again == expected


RISES, FINDING, SENTENCE = (
    "The line rises",
    "a title that states what it shows, in three words",
    "alt is .*write a sentence",
)


@pytest.mark.parametrize(
    ("title", "alt", "message"),
    [
        ("", ALT, FINDING),
        ("Loss", ALT, FINDING),
        ("The loss", ALT, FINDING),
        (RISES, "", SENTENCE),
        (RISES, "A plot", SENTENCE),
        (RISES, "loss over training steps", SENTENCE),
    ],
)
def test_a_figure_needs_a_finding_for_a_title_and_a_sentence_for_those_who_cannot_see_it(title, alt, message, shown):
    with pytest.raises(ValueError, match=message):
        plots.show(line(title), alt=alt)
    assert not shown


def test_the_title_may_stand_above_all_panels(shown):
    fig, _ = plots.figure(1, 2)
    fig.suptitle("Both panels are empty")
    plots.show(fig, alt=ALT)
    assert shown


@pytest.mark.parametrize("where", ["the axes", "the figure"])
def test_a_title_that_is_cut_off_is_refused(where, shown):
    fig, ax = plots.figure(size=(3, 2))
    long = "A finding that takes many more words than a small figure has room for"
    (ax.set_title if where == "the axes" else fig.suptitle)(long)
    with pytest.raises(ValueError, match="is cut off: shorten it"):
        plots.show(fig, alt="A figure whose title has no room, in a test.")
    fig, ax = plots.figure(size=(3, 2))
    (ax.set_title if where == "the axes" else fig.suptitle)("A finding that takes\nits two lines")
    plots.show(fig, alt="A figure whose title has room, in a test.")


def test_a_title_that_runs_into_the_next_is_refused(shown):
    fig, (left, right) = plots.figure(1, 2, size=(5, 2))
    left.set_title("This title is longer than its own panel")
    right.set_title("So it runs into this one")
    with pytest.raises(ValueError, match="runs into the title 'This title is longer"):
        plots.show(fig, alt="Two panels whose titles meet, in a test.")


def test_alternative_text_cannot_be_forgotten():
    with pytest.raises(TypeError, match="alt"):
        plots.show(line())


# --- attention maps ---------------------------------------------------------------------------------------------------


def test_a_map_has_a_row_for_each_query_and_a_column_for_each_key():
    values = weights(2, 3)
    fig = plots.attention_map(values, ["who", "looks"], ["at", "whom", "here"], title="Two tokens look at three")
    ax = fig.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["who", "looks"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["at", "whom", "here"]
    assert np.allclose(ax.images[0].get_array(), values)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("looks at (key)", "looks from (query)")
    assert [text.get_text() for text in ax.texts] == [f"{w:.2f}" for w in values.flatten().tolist()]


def test_a_map_of_many_tokens_prints_no_numbers_unless_asked():
    tokens = [f"w{i}" for i in range(13)]
    assert not plots.attention_map(weights(13, 13), tokens).axes[0].texts
    assert plots.attention_map(weights(13, 13), tokens, numbers=True).axes[0].texts


def test_a_map_can_be_drawn_into_given_axes_and_from_weights_with_gradients():
    fig, ax = plots.figure()
    assert plots.attention_map(weights(4, 4).requires_grad_(), TOKENS, ax=ax) is fig


W = weights(4, 4)
LABELS, FINITE = r"shape \(4, 4\) need .*labels, not \({}, {}\)", "values that are not finite"
ONE_HEAD, H_HEADS = r"expected one head's weights .*weights\[b, h\]", r"with 4 tokens; expected \(H, T, T\)"
REFUSED = {
    "map: 3 labels": (plots.attention_map, W, (TOKENS[:3],), LABELS.format(3, 3)),
    "map: 5 labels": (plots.attention_map, W, (["w"] * 5,), LABELS.format(5, 5)),
    "map: no labels": (plots.attention_map, W, ([],), LABELS.format(0, 0)),
    "map: 3 labels of keys": (plots.attention_map, W, (TOKENS, TOKENS[:3]), LABELS.format(4, 3)),
    "arcs: 3 weights": (plots.attention_from, weights(3), (TOKENS, 1), "3 weights, 4 tokens, query 1: expected T, T"),
    "arcs: 5 weights": (plots.attention_from, weights(5), (TOKENS, 1), "5 weights, 4 tokens, query 1: expected T, T"),
    "arcs: no such query": (plots.attention_from, weights(4), (TOKENS, 4), "query 4: expected T, T and 0 to T - 1"),
    "arcs: query -1": (plots.attention_from, weights(4), (TOKENS, -1), "query -1: expected T, T and 0 to T - 1"),
}
for shape in [(4,), (3, 4, 4), (1, 3, 4, 4)]:
    REFUSED[f"map: {shape}"] = plots.attention_map, weights(*shape), (TOKENS,), ONE_HEAD
for shape in [(4, 4), (3, 4, 5), (3, 5, 5), (1, 2, 3, 4, 4)]:
    REFUSED[f"heads: {shape}"] = plots.attention_heads, weights(*shape), (TOKENS,), H_HEADS
for bad in (torch.nan, torch.inf):
    spoilt = weights(2, 3, 4, 4).index_fill(-1, torch.tensor([2]), bad)
    REFUSED[f"map: {bad}"] = plots.attention_map, spoilt[0, 0], (TOKENS,), FINITE
    REFUSED[f"heads: {bad}"] = plots.attention_heads, spoilt[0], (TOKENS,), FINITE
    REFUSED[f"layers: {bad}"] = plots.attention_heads, spoilt, (TOKENS,), FINITE
    REFUSED[f"arcs: {bad}"] = plots.attention_from, spoilt[0, 0, 0], (TOKENS, 1), FINITE


@pytest.mark.parametrize(("draw", "values", "more", "message"), REFUSED.values(), ids=REFUSED)
def test_weights_that_cannot_be_drawn_are_refused_with_what_to_do(draw, values, more, message):
    with pytest.raises(ValueError, match=message):
        draw(values, *more)


def test_arcs_go_to_the_other_tokens_and_leave_out_weights_of_nothing():
    (ax,) = plots.attention_from(torch.tensor([0.3, 0.2, 0.499, 0.001]), TOKENS, 1, title="The key looks ahead").axes
    assert len(ax.lines) == 2
    assert {text.get_text() for text in ax.texts} == {"0.30", "0.50", "the", "key\n(0.20 on itself)", "is", "here"}


# --- loss curves ------------------------------------------------------------------------------------------------------


def test_a_loss_curve_shows_each_step_its_mean_and_the_references():
    losses = [4.0, 3.0, 2.0, 1.0]
    (ax,) = plots.loss_curve(losses, title="The loss falls", smooth=2, reference={"floor": 0.5}).axes
    each, mean, floor = ax.lines
    assert each.get_ydata().tolist() == losses and each.get_xdata().tolist() == [1, 2, 3, 4]
    assert mean.get_ydata().tolist() == [3.5, 2.5, 1.5] and mean.get_xdata().tolist() == [1.5, 2.5, 3.5]  # mid-window
    assert floor.get_ydata()[0] == 0.5
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["each step", "mean of 2 steps", "floor: 0.50"]


@pytest.mark.parametrize("n", [1, 2])
def test_a_short_run_has_a_loss_curve_too(n):
    assert plots.png(plots.loss_curve([3.0] * n, title="One step only"))


def test_a_history_without_a_step_is_refused():
    with pytest.raises(ValueError, match="there is no loss to draw: the history has no step"):
        plots.loss_curve([], title="Nothing")
