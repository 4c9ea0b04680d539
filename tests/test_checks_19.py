"""Lesson 19: what its checks say of wrong answers that no named mistake fits, and further right answers."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from exercises import ALL
from scipy.optimize import minimize

from nextbert_lite.checks import lesson_19
from nextbert_lite.checks.core import CheckFailed


def sizes_plus(first=lambda model: 0, second=lambda model: 0):
    def answer(model):
        every, inside = lesson_19.sizes_of(model)
        return every + first(model), inside + second(model)

    return answer


def numel(*names):
    return lambda model: sum(p.numel() for name, p in model.named_parameters() if name in names)


COUNTS_19 = {
    "the position table": (sizes_plus(second=numel("encoder.positions.weight")), "too large, as many as in `enc"),
    "no head.dense": (
        sizes_plus(second=lambda model: -numel("head.dense.weight", "head.dense.bias")(model)),
        "second number is .* too small, as many as in `head.dense`",
    ),
    "no head.bias in the first": (sizes_plus(first=lambda model: -numel("head.bias")(model)), "as many as in `head.b"),
    "millions": (lambda m: (lesson_19.sizes_of(m)[0] / 1e6, 1.0), "expected a whole number"),
    "no biases": (
        sizes_plus(second=lambda m: -sum(p.numel() for n, p in m.named_parameters() if n.endswith("bias"))),
        "as many as in all biases. Only the tables and `head.bias` are left out",
    ),
    "several times": (
        lambda m: (sum(p.numel() for part in m.modules() for p in part.parameters()), 1),
        "are counted several times: `model.modules.* gives the whole",
    ),
    "tensors": (lambda m: (len(list(m.parameters())), 1), "you count the tensors"),
    "tables of the encoder alone": (
        lambda m: (
            sum(p.numel() for p in m.parameters()),
            sum(p.numel() for p in m.parameters())
            - sum(
                p.numel()
                for part in m.encoder.children()
                if isinstance(part, torch.nn.Embedding)
                for p in part.parameters()
            )
            - m.head.bias.numel(),
        ),
        "another model may have a table elsewhere",
    ),
    "what is trained": (
        lambda m: tuple(
            n - sum(p.numel() for p in m.parameters() if not p.requires_grad) for n in lesson_19.sizes_of(m)
        ),
        "are not counted. They are parameters as well",
    ),
    "no norms": (
        sizes_plus(second=lambda m: -sum(p.numel() for n, p in m.named_parameters() if "norm" in n)),
        "as many as in all norms",
    ),
}


@pytest.mark.parametrize("answer, words", COUNTS_19.values(), ids=[f"lesson19.1-{name}" for name in COUNTS_19])
def test_a_wrong_count_is_told_what_has_as_many_parameters(answer, words):
    with pytest.raises(CheckFailed, match=f"^19.1: .*{words}"):
        ALL["19.1"](answer)


def fitted(change=lambda five: five, before=lambda *three: three):
    """Return the course's fit_law with its results, or what it is given, changed."""

    def answer(N, D, losses, floor=None, delta=0.01):
        return change(lesson_19.fit_law(*before(N, D, losses), floor=floor, delta=delta))

    return answer


def dropped_constant(N, D, losses, floor=None, delta=0.01):
    found = lesson_19.wrong_fit(floor="added")(N, D, losses, floor, delta)
    return found if floor is None else (floor, *found[1:])


def halfway(N, D, losses, floor=None, delta=0.01):
    E, A, alpha, B, beta = lesson_19.fit_law(N, D, losses, floor=floor, delta=delta)
    noise = 0 if len(np.asarray(N)) != 20 else 0.02
    return E, A, alpha + noise, B, beta


def way_back(way):
    """Return a fit whose A and B come from `way` of exp(a) at the centre, the exponent, and the logarithms."""

    def answer(N, D, losses, floor=None, delta=0.01):
        E, A, alpha, B, beta = lesson_19.fit_law(N, D, losses, floor=floor, delta=delta)
        x, y = np.log(np.asarray(N)), np.log(np.asarray(D))
        more = way.__code__.co_argcount == 4
        A = way(A * math.exp(-alpha * x.mean()), alpha, x, *[y] * more)
        return E, float(A), alpha, float(way(B * math.exp(-beta * y.mean()), beta, y, *[x] * more)), beta

    return answer


def holds_E(of_losses):
    """Return a fit that holds E where no floor is given."""

    def answer(N, D, losses, floor=None, delta=0.01):
        E = float(of_losses(np.asarray(losses))) if floor is None else floor
        if floor is not None or E == 0:
            return lesson_19.fit_law(N, D, losses, floor=E, delta=delta)
        given = lesson_19.no_mistake(floor="fixed"), N, D, losses, E, delta
        objective, *_, x, y = lesson_19.posed(*given)
        found = minimize(objective, [0.0, 0.5, 0.0, 0.5], jac=True, method="L-BFGS-B", options={"ftol": 1e-13})
        a, alpha, b, beta = map(float, found.x)
        return E, math.exp(a + alpha * x), alpha, math.exp(b + beta * y), beta

    return answer


FITS_19 = {
    "tensors only": (
        fitted(before=lambda N, D, L: (N.log().exp(), D, L)),
        "with (arrays|lists) your code raises Attri",
    ),
    "an array": (fitted(np.array), "it returns one array; expected five floats"),
    "A, α, B, β, E": (fitted(lambda five: (*five[1:], five[0])), "the five numbers come in another order"),
    "half of A": (fitted(lambda five: (five[0], five[1] / 2, *five[2:])), "Right: E, α, B, β. Wrong: A is .* expected"),
    "a line from δ²": (lesson_19.wrong_fit(loss="no shift"), "pieces of your loss do not meet"),
    "a square without its half": (lesson_19.wrong_fit(loss="no half below"), "pieces of your loss do not meet"),
    "a line without δ": (lesson_19.wrong_fit(loss="no factor"), "pieces of your loss do not meet|jump at δ"),
    "E not out of its logarithm": (
        fitted(lambda five: (math.log(five[0]), *five[1:])),
        "for E you return its logarithm",
    ),
    "log2": (
        fitted(lambda f: (f[0], f[1], f[2] * math.log(2), f[3], f[4] * math.log(2))),
        "0.693 times the right ones, which is ln 2",
    ),
    "A and B logarithms": (
        way_back(lambda at, k, logs: math.log(at) + k * logs.mean()),
        "for each of A and B you return its logarithm",
    ),
    "a and b": (way_back(lambda at, k, logs: math.log(at)), "you return what was fitted: both"),
    "added after exp": (way_back(lambda at, k, logs: at + k * logs.mean()), "add before you take exp"),
    "no exponent": (way_back(lambda at, k, logs: at * math.exp(logs.mean())), "the exponent is missing"),
    "the mean of N": (way_back(lambda at, k, logs: at * np.exp(logs).mean() ** k), "take the mean of the logarithms"),
    "the other mean": (
        way_back(lambda at, k, logs, other: at * math.exp(k * other.mean())),
        "the .other. variable's mean",
    ),
    "B by the other mean": (
        lambda N, D, L, floor=None, delta=0.01: (
            *lesson_19.fit_law(N, D, L, floor, delta)[:3],
            *way_back(lambda at, k, logs, other: at * math.exp(k * other.mean()))(N, D, L, floor, delta)[3:],
        ),
        "for B you return a number moved by the .other.",
    ),
    "rounded": (fitted(lambda five: tuple(round(v, 2) for v in five)), "they are rounded. Return them with all digits"),
    "strings": (fitted(lambda five: tuple(f"{v:.9f}" for v in five)), "not numbers; return floats"),
    "δ halved": (
        lambda N, D, L, floor=None, delta=0.01: lesson_19.fit_law(N, D, L, floor, delta / 2),
        "times the least there is: either the optimiser stopped early or something else",
    ),
    "stopped early": (fitted(lambda f: (0.99 * f[0], *f[1:])), "off by up to .*stopped before it arrived"),
    "runs away": (fitted(lambda five: (0.0, 0.0, -1e84, 0.0, -1e85)), "run away to infinity, .* the absolute value"),
    "a bound": (
        fitted(lambda five: (*five[:4], min(five[4], 1.0) if five[0] < 1 else five[4])),
        "β is exactly 1, as if",
    ),
    "E held": (holds_E(lambda losses: 0.9 * losses.min()), "the best ones for that E. Is E fixed, or held by a bound"),
    "0 for None": (holds_E(lambda losses: 0.0), "Is 0 your default of `floor`"),
    "lists have no minus": (
        lambda N, D, L, floor=None, delta=0.01: lesson_19.fit_law(
            N, D, L if floor is None else L - floor + floor, floor, delta
        ),
        "with lists and a floor your code raises TypeError",
    ),
    "a list sorted": (
        lambda N, D, L, floor=None, delta=0.01: (
            lesson_19.fit_law(N, D, L, floor, delta),
            isinstance(L, list) and L.sort(),
        )[0],
        "`losses` is changed in place",
    ),
    "all but exact": (fitted(lambda five: (five[0] * 1.03, *five[1:])), "off by up to .*stopped before it arrived"),
    "a constant dropped": (dropped_constant, "you fit a further constant beside it, and drop it"),
    "not the least": (halfway, "times the least there is: either the optimiser stopped early"),
    "a negative A": (fitted(lambda five: (five[0], -five[1], *five[2:])), "Wrong: A is -"),
}


@pytest.mark.parametrize("answer, words", FITS_19.values(), ids=[f"lesson19.2-{name}" for name in FITS_19])
def test_a_fit_is_told_what_is_wrong_with_its_numbers(answer, words):
    with pytest.raises(CheckFailed, match=f"^19.2: stage . of 8, .*{words}"):
        ALL["19.2"](answer)


@pytest.mark.parametrize(
    "answer",
    [fitted(list), fitted(lambda five: tuple(np.float64(v) for v in five)), fitted(lambda f: (f[0] + 1e-9, *f[1:]))],
    ids=["lesson19.2-a list", "lesson19.2-numpy's floats", "lesson19.2-rounding"],
)
def test_further_right_fits_pass(answer, capsys):
    ALL["19.2"](answer)
    assert "✓ 19.2 is right in all 8 stages" in capsys.readouterr().out


def test_a_fit_that_stops_a_little_early_is_right_also_where_its_digits_differ():
    """Two bad runs: no law is exact there, so the objective is compared and not digits."""
    N, D = lesson_19.a_grid()
    for p in lesson_19.LAWS:
        losses = lesson_19.law(p, N, D)
        losses[[3, 9]] *= 1.35
        E, A, alpha, B, beta = lesson_19.fit_law(N, D, losses)
        near = (E, A, alpha, B * 1.0001, beta)
        assert lesson_19.judged(lambda *three, near=near: near, N, D, losses, None, 0.01) == 1.0


GUESSES_19 = {
    0.25: "have a β of 0.50, and the last ones a much larger",
    0.7: "have a β of 0.50, and the last ones a much larger",
    0.1: "larger than the 0.50 of the best checkpoints, not smaller",
    0.8: "right, and β grows by more",
    2.0: "right, and that is too steep",
    115.0: "no percentage",
    -0.5: "a .positive. β",
    float("inf"): "Give a finite number",
}


@pytest.mark.parametrize("guess, words", GUESSES_19.items(), ids=lambda value: f"lesson19.3-{value}")
def test_what_is_said_of_a_wrong_exponent_is_true_of_it(guess, words):
    with pytest.raises(CheckFailed, match=f"^19.3: .*{words}"):
        ALL["19.3"](guess)


def parametrised(change):
    """Return the course's mup with its groups, or the model, changed after it; change returns the groups."""
    return lambda model, base: change(model, lesson_19.mup(model, base), base)


def each_in(groups, **more):
    return [{"params": group["params"], "scale": group["scale"]} | more for group in groups]


def in_place_on_a_leaf(model, groups, base):
    model.encoder.tokens.weight *= 2
    return groups


def frozen_bias(model, groups, base):
    model.head.bias.requires_grad_(False)
    return groups


def larger_bias(model, groups, base):
    model.head.dense.bias.data += 1
    return groups


def queries_detached(model, groups, base):
    C = model.encoder.config.width
    for layer in model.encoder.layers:
        layer.attention.qkv.register_forward_hook(
            lambda _, given, out: torch.cat([out[..., :C].detach(), out[..., C:]], -1)
        )
    return groups


def values_scaled(model, groups, base):
    C = model.encoder.config.width
    for layer in model.encoder.layers:
        layer.attention.qkv.register_forward_hook(
            lambda _, given, out: torch.cat([out[..., : 2 * C], out[..., 2 * C :] * (base / C) ** 0.5], -1)
        )
    return groups


def replaced_tables(model, base):
    """The tables become new parameters, and the groups hold these."""
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.weight = torch.nn.Parameter(module.weight.detach().clone())
    return lesson_19.mup(model, base)


MUPS_19 = {
    "lr for scale": (lambda m, g, base: [{"params": x["params"], "lr": 1.0} for x in g], "`lr` is set anew in every"),
    "tuples": (lambda m, g, base: [(x["params"], x["scale"]) for x in g], "with a tuple of 2 in it"),
    "names": (lambda m, g, base: [x | {"params": ["head.bias"]} for x in g], "expected the parameters themselves"),
    "a tensor as scale": (lambda m, g, base: each_in(g, scale=torch.ones(())), "`scale` is .*; expected a float"),
    "one parameter": (lambda m, g, base: each_in(g, params=m.head.bias), "`params` should be a list"),
    "a leaf": (in_place_on_a_leaf, "Do it within `with torch.no_grad"),
    "frozen": (frozen_bias, "head.bias no longer requires a gradient"),
    "a bias changed": (larger_bias, "you changed head.dense.bias"),
    "a scale of its own": (
        lambda m, g, base: [{"params": g[0]["params"], "scale": 0.3}, g[1]],
        "scales that are not right: matrices of the layers: 0.3, expected 0.5",
    ),
    "values scaled": (values_scaled, "the weights of attention are right, and its output is not"),
    "queries detached": (queries_detached, "no gradient reaches the queries' part of encoder.layers.0"),
}


@pytest.mark.parametrize("change, words", MUPS_19.values(), ids=[f"lesson19.4-{name}" for name in MUPS_19])
def test_a_parametrisation_is_told_what_is_wrong_with_it(change, words):
    with pytest.raises(CheckFailed, match=f"^19.4: stage . of 8, .*{words}"):
        ALL["19.4"](parametrised(change))


@pytest.mark.parametrize(
    "answer",
    [
        replaced_tables,
        parametrised(lambda m, g, base: [x | {"params": iter(x["params"])} for x in g]),
        parametrised(lambda m, g, base: tuple(each_in(g, weight_decay=0.0))),
        parametrised(lambda m, g, base: [x | {"scale": Fraction(x["scale"])} for x in g]),
    ],
    ids=[f"lesson19.4-{name}" for name in ("new parameters", "an iterator", "a tuple of groups", "a fraction")],
)
def test_further_right_parametrisations_pass(answer, capsys):
    ALL["19.4"](answer)
    assert "✓ 19.4 is right in all 8 stages" in capsys.readouterr().out


ROWS_19 = {
    "indexes": (lambda keep: keep.nonzero()[:, 0], "return one True or False for each row"),
    "a list": (lambda keep: keep.tolist(), "yours is a list of 40; return one True or False"),
    "numbers": (lambda keep: keep.long(), "torch.int64; return one True or False for each row"),
    "one row too few": (
        lambda keep: keep & (keep.cumsum(0) > 1),
        "is dropped, and no held-out row has the same tokens",
    ),
    "all": (lambda keep: keep | True, "row .* (is itself held out|is a copy of row)"),
}


@pytest.mark.parametrize("turn, words", ROWS_19.values(), ids=[f"lesson19.5-{name}" for name in ROWS_19])
def test_rows_are_told_which_kind_is_wanted_or_which_row_is_wrong(turn, words):
    with pytest.raises(CheckFailed, match=f"^19.5: .*{words}"):
        ALL["19.5"](lambda ids, held: turn(lesson_19.training_rows_of(ids, held)))
