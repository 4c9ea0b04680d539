"""The checks of lesson 19, How far it scales."""

import copy
import math
import numbers
from itertools import product

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from nextbert_lite.checks.core import (
    OTHER_SIZES,
    Build,
    Exercise,
    Fault,
    Mistake,
    Prediction,
    Stage,
    describe,
    hint,
    mine,
    run,
    solution,
    untouched,
)
from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel

__all__ = ["hint", "last_exponent", "law_fit", "mine", "mu_parametrisation", "sizes", "solution", "training_rows"]


# --- 19.1 two ways to count a model -----------------------------------------------------------------------------------


def sizes_of(model):
    """model: a MaskedLanguageModel -> the number of all its parameters, and of those that a token is multiplied with"""
    every = sum(p.numel() for p in model.parameters())
    tables = sum(p.numel() for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters())
    return every, every - tables - model.head.bias.numel()


def a_model(generator, width=None, layers=None, heads=2, **more):
    """Return a small masked model with drawn sizes and seeded weights, biases and gains included."""

    def drawn(least, most):
        return int(torch.randint(least, most, (1,), generator=generator))

    width = 8 * drawn(1, 4) if width is None else width
    layers = drawn(1, 4) if layers is None else layers
    sizes = dict(width=width, layers=layers, heads=heads, ffn_width=drawn(2, 5) * width, max_len=drawn(9, 15))
    model = MaskedLanguageModel(Encoder(EncoderConfig(drawn(20, 40), **sizes, init_std="fan_in", **more)))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5
    return model


def part_sizes(model):
    """What may have been forgotten, or counted where it should not be: name -> how many parameters."""
    size = {name: p.numel() for name, p in model.named_parameters()}
    tables = {f"`{name}`": n for name, n in size.items() if name.split(".")[1] in ("tokens", "positions", "types")}
    vectors = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 1 and name != "head.bias")
    parts = tables | {
        "the tables of words and positions": sum(list(tables.values())[:2]),
        "the tables of positions and token types": sum(list(tables.values())[1:]),
        "all tables": sum(tables.values()),
        "all tables and the head's bias": sum(tables.values()) + size["head.bias"],
        "`head.bias`": size["head.bias"],
        "twice `head.bias`": 2 * size["head.bias"],
        "`head.dense`": size["head.dense.weight"] + size["head.dense.bias"],
        "the head without its bias over words": sum(n for k, n in size.items() if k[:5] == "head.") - size["head.bias"],
        "the whole head": sum(n for k, n in size.items() if k.startswith("head.")),
        "all biases and norms but `head.bias`": vectors,
        "all biases and norms": vectors + size["head.bias"],
        "all norms": sum(n for k, n in size.items() if "norm" in k),
        "all biases": sum(n for k, n in size.items() if k.endswith("bias")),
        "all biases but `head.bias`": sum(n for k, n in size.items() if k.endswith("bias") and k != "head.bias"),
        "`head.bias` minus `head.dense.bias`": abs(size["head.bias"] - size["head.dense.bias"]),
        "the layers": sum(n for k, n in size.items() if ".layers." in k),
    }
    return parts


def which_count(answer, case):
    """Say which of the two numbers is wrong, and what has as many parameters as it has too many or too few."""
    (model,) = case
    right, found = sizes_of(model), run(answer, case)
    if not isinstance(found, tuple | list) or len(found) != 2:
        return None
    said = []
    if found[0] == sum(p.numel() for module in model.modules() for p in module.parameters()):
        return (
            "parameters are counted several times: `model.modules()` gives the whole, its parts and *their* parts, and "
            "`parameters()` of each has all that is within it. `model.parameters()` gives each once."
        )
    if found[0] == len(list(model.parameters())):
        return "you count the tensors. Each has many parameters: `p.numel()` says how many."
    for which, yours, known in zip(("first", "second"), found, right, strict=True):
        if isinstance(yours, bool) or not isinstance(yours, numbers.Number) or yours == known:
            continue
        if int(yours) != yours:
            return f"the {which} number is {yours}; expected a whole number, the number of parameters itself."
        gap = yours - known
        as_many = [name for name, n in part_sizes(model).items() if n == abs(gap)]
        also = f", as many as in {as_many[0]}" if as_many else ""
        said.append(f"the {which} number is {abs(gap):,} too {'large' if gap > 0 else 'small'}{also}")
    only = " Only the tables and `head.bias` are left out of the second." if "second number" in "".join(said) else ""
    return f"{'; '.join(said)}.{only}" if said else None


def wherever_it_stands(answer, case):
    """Return a sentence if a table within a layer stays in, or parameters that are frozen are not counted."""
    (model,) = case
    model.encoder.norm.requires_grad_(False)
    if tuple(answer(model)) != sizes_of(model):
        return "parameters without a gradient (`requires_grad` False) are not counted. They are parameters as well."
    model.head.norm.table = nn.Embedding(3, model.encoder.config.width)
    if tuple(answer(model)) != sizes_of(model):
        return (
            "another model may have a table elsewhere, within a layer or the head, and yours leaves it in. "
            "`model.modules()` gives the parts at every depth: ask each whether it is an `nn.Embedding`."
        )
    return None


sizes = Exercise(
    id="19.1",
    limit=wherever_it_stands,
    right=sizes_of,
    inputs=lambda generator: (a_model(generator, token_types=2),),
    also=lambda generator: (a_model(generator, width=32, layers=0),),
    about=which_count,
    mistakes=(
        Mistake(
            "the position table left in",
            lambda model: (
                sum(p.numel() for p in model.parameters()),
                sum(p.numel() for p in model.parameters())
                - model.encoder.tokens.weight.numel()
                - model.head.bias.numel(),
            ),
            "the second number still has tables that are looked up. A row of the table of positions (or of types) is "
            "added and multiplies nothing, just as a row of the table of words: leave out every `nn.Embedding`.",
            "https://github.com/karpathy/nanoGPT/blob/master/model.py: get_num_params subtracts the positions, and the "
            "table of words stays because the output layer uses it",
        ),
        Mistake(
            "the tied table counted twice",
            lambda model: (
                sum(p.numel() for p in model.parameters()) + model.encoder.tokens.weight.numel(),
                sizes_of(model)[1],
            ),
            "the first number counts the table of words twice. The head uses the same table as the input (they are "
            "tied), so it is one parameter: `model.parameters()` gives it once.",
            "Pearce and Song 2024 (arXiv:2406.12907): counts with and without embeddings between two famous laws",
        ),
        Mistake(
            "only the layers",
            lambda model: (
                sum(p.numel() for p in model.parameters()),
                sum(p.numel() for p in model.encoder.layers.parameters()),
            ),
            "the second number has the layers only. The norm behind the embeddings and the head's `dense` and norm "
            "work on every token too, or on every selected one: only tables and the head's bias over words are left "
            "out.",
            "the 12 L C² of Kaplan et al. 2020 (arXiv:2001.08361, section 2.1), which leaves out what is small there",
        ),
        Mistake(
            "without the tables in both",
            lambda model: (sizes_of(model)[1], sizes_of(model)[1]),
            "the first number is of *all* parameters, tables included; the second leaves them out. Return both.",
            "one count where the text asks for two",
        ),
        Mistake(
            "the table of types left in",
            lambda model: (
                sum(p.numel() for p in model.parameters()),
                sizes_of(model)[1] + model.encoder.types.weight.numel(),
            ),
            "a model may have a table of token types too, and yours leaves out words and positions only. Find every "
            "`nn.Embedding` in `model.modules()`.",
            "two tables called by their names",
        ),
        Mistake(
            "in the other order",
            lambda model: sizes_of(model)[::-1],
            "the two numbers are right and come in the other order: all parameters first.",
            "return inside, every",
        ),
        Mistake(
            "what is left out counted",
            lambda model: (
                sum(p.numel() for p in model.parameters()),
                sum(p.numel() for p in model.parameters()) - sizes_of(model)[1],
            ),
            "the second number counts the tables and the head's bias. Asked for is what is *left* without them.",
            "the complement",
        ),
        Mistake(
            "the whole head left out",
            lambda model: (
                sum(p.numel() for p in model.parameters()),
                sizes_of(model)[1] - sum(p.numel() for p in model.head.parameters()) + model.head.bias.numel(),
            ),
            "the second number lacks the whole head. Only its bias over the words is left out: `head.dense` and "
            "`head.norm` are inside.",
            "model.encoder.parameters() for what is inside",
        ),
        Mistake(
            "the encoder alone",
            lambda model: (
                sum(p.numel() for p in model.encoder.parameters()),
                sizes_of(model)[1] - sum(p.numel() for p in model.head.parameters()) + model.head.bias.numel(),
            ),
            "both numbers are those of the encoder alone. The head has parameters as well: go through `model`, not "
            "`model.encoder`.",
            "model.encoder for the model",
        ),
        Mistake(
            "matrices only",
            lambda model: (
                sum(p.numel() for p in model.parameters()),
                sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)),
            ),
            "the second number has the matrices of the linear layers only. Their biases and the norms are inside too.",
            "the weights of a diagram, without its biases",
        ),
        Mistake(
            "the head's bias left in",
            lambda model: (sizes_of(model)[0], sizes_of(model)[1] + model.head.bias.numel()),
            "the head's bias, one number for each word of the vocabulary, is left in. It grows with the vocabulary and "
            "not with the model: leave it out as well.",
            "the vocabulary counted into a model's size",
        ),
    ),
    hints=(
        "`model.parameters()` gives each parameter once, shared ones too.",
        "Go through `model.modules()` and find those that are `nn.Embedding`.",
        "all − parameters of the tables − `model.head.bias.numel()`.",
    ),
    praise="Two counts of one model. Which one a law uses must be written beside it.",
    other_ways=(
        lambda model: (
            sum(p.numel() for p in model.parameters()),
            sum(
                p.numel()
                for name, p in model.named_parameters()
                if not isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Embedding) and name != "head.bias"
            ),
        ),
    ),
)


# --- 19.2 the build: a law --------------------------------------------------------------------------------------------


def fit_law(N, D, losses, floor=None, delta=0.01):
    """N, D, losses: (n,), floor: a number or None -> E, A, α, B, β of L = E + A / N^α + B / D^β, five floats"""
    x, y = np.log(np.asarray(N, float)), np.log(np.asarray(D, float))
    losses = np.asarray(losses, float)
    target = np.log(losses - (0 if floor is None else floor))
    x0, y0 = x.mean(), y.mean()

    def objective(p):
        terms = [p[0] - p[1] * (x - x0), p[2] - p[3] * (y - y0)]
        terms += [np.full_like(x, p[4])] if floor is None else []
        logs = np.logaddexp.reduce(terms)
        off = logs - target
        huber = np.where(np.abs(off) < delta, off**2 / 2, delta * (np.abs(off) - delta / 2))
        pull = np.clip(off, -delta, delta) * np.exp(terms - logs)  # (terms, n): how each term moves the objective
        gradient = [pull[0].sum(), -pull[0] @ (x - x0), pull[1].sum(), -pull[1] @ (y - y0)]
        gradient += [pull[2].sum()] if floor is None else []
        return huber.sum() / delta**2, np.array(gradient) / delta**2

    best = None
    for alpha, beta in product((0.2, 1.0), repeat=2):
        for share in (0.3, 0.9) if floor is None else (0,):
            left = np.log(np.median(np.exp(target)) - share * np.exp(target.min()))
            start = [left - np.log(2), alpha, left - np.log(2), beta]
            start += [np.log(share) + target.min()] if floor is None else []
            found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-13})
            best = found if best is None or found.fun < best.fun else best
    a, alpha, b, beta = best.x[:4]
    E = np.exp(best.x[4]) if floor is None else floor
    return float(E), float(np.exp(a + alpha * x0)), float(alpha), float(np.exp(b + beta * y0)), float(beta)


def law(p, N, D):
    E, A, alpha, B, beta = p
    return E + A / N**alpha + B / D**beta


def a_grid(n_sizes=4, n_data=4):
    N = 1000.0 * 4.0 ** torch.arange(n_sizes, dtype=torch.float64)
    D = 100.0 * 2.0 ** torch.arange(n_data, dtype=torch.float64)
    return N.repeat_interleave(n_data), D.repeat(n_sizes)


def five(result):
    """Return the five numbers; Fault for anything else."""
    if not isinstance(result, tuple | list) or len(result) != 5:
        shown = "one array" if isinstance(result, np.ndarray) else describe(result)
        raise Fault(f"it returns {shown}; expected five floats, `return E, A, alpha, B, beta`.")
    try:
        return tuple(float(value + 0) for value in result)
    except (TypeError, ValueError):
        raise Fault("the five results are not numbers; return floats.") from None


def rounded(values, digits=2):
    """Return numbers with this many digits behind the first, as a tensor: optimisers differ in the rest."""
    found = [value if not math.isfinite(value) or value == 0 else float(f"{value:.{digits - 1}e}") for value in values]
    return torch.tensor(found, dtype=torch.float64)


LAWS = ((1.2, 60.0, 0.6, 9.0, 0.4), (0.5, 9.0, 0.3, 400.0, 1.2), (2.5, 400.0, 0.8, 30.0, 0.7))
NAMES = ("N", "D", "losses")


def one_of(generator):
    return LAWS[int(torch.randint(len(LAWS), (1,), generator=generator))]


def the_kind(answer, generator):
    """One seed gives tensors, one arrays, one lists."""
    N, D = a_grid()
    kind = ("tensors", "arrays", "lists")[generator.initial_seed() % 3]
    turn = {"tensors": lambda v: v, "arrays": lambda v: v.numpy(), "lists": lambda v: v.tolist()}[kind]
    result = taken(kind, answer, *(turn(v) for v in (N, D, law(LAWS[0], N, D))))
    if not all(math.isfinite(value) for value in five(result)):
        raise Fault(f"the results are {five(result)}; all five should be finite.")
    return True


def taken(kind, answer, *given, **floor):
    """Return what a fit gives for tensors, arrays or lists; Fault if it does not take or keep them."""
    try:
        return untouched(lambda *three: answer(*three, **floor), *given, names=NAMES)
    except (Fault, NotImplementedError):
        raise
    except Exception as error:
        if kind == "tensors":
            raise
        raise Fault(
            f"with {kind}{' and a floor' if floor else ''} your code raises {type(error).__name__}: {error}. N, D and "
            "losses may be tensors, arrays or lists: turn each into an array first, `np.asarray(N, float)`."
        ) from None


def posed(s, N, D, losses, floor, delta):
    """Return what a fit with the mistakes s minimises over p = (a, α, b, β and perhaps e), and what belongs to it."""
    N, D, L = (np.asarray(v, float) for v in (N, D, losses))
    if s["exchange"]:
        N, D = D, N
    x, y = (np.log10(N), np.log10(D)) if s["base"] else (np.log(N), np.log(D))
    x0, y0 = x.mean(), y.mean()
    known = floor is not None and not (s["floor"] == "if floor" and floor == 0)
    free = not known or s["floor"] in ("free", "added")
    left = L - (floor if known and s["floor"] in (None, "added", "if floor") else 0)
    target = np.log10(left) if s["base"] == "all" else np.log(left)
    delta = s["delta"] or delta

    def objective(p):
        terms = [p[0] - p[1] * (x - x0), p[2] - p[1 if s["one"] else 3] * (y - y0)]
        if free:
            terms.append(np.full_like(x, p[4]))
        elif s["floor"] == "fixed":
            terms.append(np.full_like(x, np.log(floor)))
        logs = np.logaddexp.reduce(terms)
        at = np.exp(np.clip(logs, -50, 50))
        per = left if s["space"] == "relative" else 1
        off = (at - left) / per if s["space"] else logs - target
        size, small = np.abs(off), (off if s["loss"] == "no abs" else np.abs(off)) < delta
        line, slope = delta * (size - delta / 2), delta * np.sign(off)
        pieces = {  # up to δ and beyond it, and the slopes of both
            "shift": (off**2 / 2, delta * (size - delta), off, slope),
            "no shift": (off**2 / 2, delta * size, off, slope),
            "no factor": (off**2 / 2, size - delta / 2, off, np.sign(off)),
            "no half": (off**2, delta * size, 2 * off, slope),
            "no half below": (off**2, line, 2 * off, slope),
            "exchanged": (line, off**2 / 2, slope, off),
            "squares": (off**2 / 2, off**2 / 2, off, off),
            "absolute": (delta * size, delta * size, slope, slope),
        }.get(s["loss"], (off**2 / 2, line, off, slope))
        each, slope = np.where(small, *pieces[:2]), np.where(small, *pieces[2:])
        pull = slope * (at / per if s["space"] else 1) * np.exp(np.array(terms) - logs)
        gradient = [pull[0].sum(), -pull[0] @ (x - x0), pull[1].sum(), -pull[1] @ (y - y0)]
        if s["one"]:
            gradient[1:4:2] = gradient[1] + gradient[3], 0.0
        gradient += [pull[2].sum()] if free else []
        return each.sum() / delta**2, np.array(gradient) / delta**2

    return objective, left, free, known, x0, y0


def no_mistake(**switches):
    return dict.fromkeys("floor space loss scale gives exchange base centre delta one".split()) | switches


JUMPS = "no shift", "no factor", "no half below"
# what else may have been minimised: switches of `wrong_fit` and what is said; the same sentences are named mistakes
OTHER_OBJECTIVES = {
    "squares": dict(loss="squares"),
    "squares without logarithms": dict(loss="squares", space=True),
    "absolute": dict(loss="absolute"),
    "shift": dict(loss="shift"),
    **{kind: dict(loss=kind) for kind in (*JUMPS, "no half", "exchanged", "no abs")},
    "relative": dict(space="relative"),
    "one": dict(one=True),
    "0.001": dict(delta=0.001),
    "0.01": dict(delta=0.01),
    "space": dict(space=True),
    "base": dict(base="all"),
    "ignored": dict(floor="ignored"),
    "fixed": dict(floor="fixed"),
    "free": dict(floor="free"),
    "if floor": dict(floor="if floor"),
}
_least = {}


def what_was_minimised(p, N, D, losses, floor, delta, among=OTHER_OBJECTIVES):
    """Return the name of the objective among the usual wrong ones that is nearly least at these five numbers, and much
    nearer than at the right ones; or None."""
    key = ("right", *torch.as_tensor(losses).tolist(), floor, delta)
    if key not in _least:
        _least[key] = fit_law(N, D, losses, floor, delta)
    found = {}
    for name in among:
        s = no_mistake(**OTHER_OBJECTIVES[name])
        if (
            s["delta"] == delta
            or (s["floor"] and floor is None)
            or ((name == "if floor") != (floor == 0) and s["floor"])
        ):
            continue
        objective, _, free, _, x0, y0 = posed(s, N, D, losses, floor, delta)
        key = (name, *torch.as_tensor(losses).tolist(), floor, delta)
        if key not in _least:
            _least[key] = wrong_fit(**OTHER_OBJECTIVES[name]).least(N, D, losses, floor, delta)
        values = []
        for E, A, alpha, B, beta in (p, _least["right", *key[1:]]):
            e = E - floor if s["floor"] == "added" else E
            with np.errstate(all="ignore"):
                at = [np.log(A) - alpha * x0, alpha, np.log(B) - beta * y0, beta] + ([np.log(e)] if free else [])
                values.append(float(objective(np.array(at, float))[0]) if min(A, B) > 0 and e >= 0 else math.inf)
        if values[0] - _least[key] < (values[1] - _least[key]) / 10:
            found[name] = (values[0] + 1e-2) / (_least[key] + 1e-2)
    found = {name: round(max(ratio, 1.0), 3) for name, ratio in found.items() if ratio < 1.02}
    return min(found, key=found.get) if found else None


def sentence_of(name):
    """Return what is said of one of the other objectives: the message of the mistake that minimises it."""
    name = "shift" if name in JUMPS else name  # all pieces that do not meet have one sentence
    return next(m.message for m in law_fit.mistakes if m.wrong.switches == OTHER_OBJECTIVES[name])


def on_the_law(found, p, N, D, losses, floor=None):
    """Return the numbers found, rounded, where they are those of the law; Fault, which says what is wrong, else."""
    near = [math.isclose(a, b, rel_tol=0.02, abs_tol=1e-3) for a, b in zip(found, p, strict=True)]
    if torch.equal(rounded(found), rounded(p)):
        return rounded(found)
    E, A, alpha, B, beta = p
    if np.allclose(found, (E, B, beta, A, alpha), rtol=0.02):
        raise Fault("A and α stand where B and β belong.")
    if not all(near) and np.allclose(sorted(found), sorted(p), rtol=0.02):
        raise Fault("the five numbers are right and come in another order.")
    other = what_was_minimised(found, N, D, losses, floor, 0.01, ("base", "ignored", "one"))
    if other is not None:
        raise Fault(sentence_of(other))
    if said := in_its_place(found, p, N, D):
        raise Fault(said)
    symbols = "E A α B β".split()
    right = [symbol for symbol, good in zip(symbols, near, strict=True) if good]
    wrong = [f"{s} is {v:.2g}, expected {r:g}" for s, v, r, g in zip(symbols, found, p, near, strict=True) if not g]
    wrong = wrong or [f"{s} is {v:.4g}, expected {r:g}" for s, v, r in zip(symbols, found, p, strict=True)]
    off = math.nan
    if min(found[1], found[3]) > 0 and found[0] >= 0:
        off = float((law(found, N, D) / losses).log().abs().max())
    said = f"these points lie on a law exactly. Right: {', '.join(right) or 'none'}. Wrong: {'; '.join(wrong)}."
    if off > 0.005 and "E" in wrong[0] and floor is None and held(found, N, D, losses):
        raise Fault(
            f"E is {found[0]:.3g}, expected {p[0]:g}, and your other four numbers are the best ones for that E. "
            + ("Is 0 your default of `floor`? None means that E is fitted." if found[0] < 1e-6 else FIXED_E)
        )
    for symbol, value in zip(symbols[2::2], found[2::2], strict=True):
        if symbol not in right and abs(value - round(value)) < 1e-9 < abs(value) < 9:
            raise Fault(
                f"{said} {symbol} is exactly {value:g}, as if a bound held it. An exponent may be larger than 1."
            )
    if set(right) >= {"E", "α", "β"} and not all(near):
        raise Fault(f"{said} The exponents are right, so what is missing is the way back from centred logarithms.")
    if math.isfinite(off) and off < 0.2:
        raise Fault(f"{said} Your law is off by up to {off:.2%}: the optimiser stopped before it arrived. {JUMP}")
    raise Fault(said)


JUMP = "(Or does the loss that you minimise jump at δ? Both pieces of Huber's are δ² / 2 there.)"
FIXED_E = f"Is E fixed, or held by a bound? It is fitted like the others: minimise over e = ln E as well. {JUMP}"


def held(found, N, D, losses):
    """Whether these are the best numbers there are for their E: then E was not fitted."""
    E, A, alpha, B, beta = (max(value, 1e-30) for value in found)
    objective, _, _, _, x0, y0 = posed(no_mistake(floor="fixed"), N, D, losses, E, 0.01)
    value = objective(np.array([math.log(A) - alpha * x0, alpha, math.log(B) - beta * y0, beta]))[0] + 1e-2
    return value < 1.02 * (wrong_fit(floor="fixed").least(N, D, losses, E, 0.01) + 1e-2)


def in_its_place(found, p, N, D):
    """Return what stands in the place of E, A or B, a logarithm or a wrong way back, or what the exponents are off
    by."""
    E, A, alpha, B, beta = p
    if np.allclose(found, (math.log(E), *p[1:]), rtol=0.02):
        return "for E you return its logarithm, e. Return E = exp(e)."
    if max(map(abs, found)) > 1e9:
        return (
            "your numbers run away to infinity, so what you minimise has no least value. In Huber's straight part, "
            "δ(|off| − δ / 2), the absolute value keeps a law far below a run from being a gain."
        )
    factors = found[2] / alpha, found[4] / beta
    if math.isclose(*factors, rel_tol=0.01) and math.isclose(found[0], E, rel_tol=0.01) and abs(factors[0] - 1) > 0.02:
        two = (
            ", which is ln 2: N and D went through log2" if math.isclose(factors[0], math.log(2), rel_tol=0.01) else ""
        )
        return f"both exponents are {factors[0]:.3g} times the right ones{two}. Use natural logarithms everywhere."
    (x, N_mean), (y, D_mean) = ((float(np.log(v).mean()), float(v.mean())) for v in (N.numpy(), D.numpy()))
    two_terms = (A, alpha, x, y, N_mean), (B, beta, y, x, D_mean)
    ways = {
        "its logarithm: take exp of it": lambda at, k, own, other, mean: math.log(at) + k * own,
        "what was fitted: both the way back and exp are missing": lambda at, k, own, other, mean: math.log(at),
        "exp(…) plus exponent · mean: add before you take exp": lambda at, k, own, other, mean: at + k * own,
        "exp(… + mean): the exponent is missing, add exponent · mean": lambda at, k, own, other, mean: (
            at * math.exp(own)
        ),
        "a number moved by the *other* variable's mean": lambda at, k, own, other, mean: at * math.exp(k * other),
        "a number moved by the mean itself: take the mean of the logarithms": lambda at, k, own, other, mean: (
            at * mean**k
        ),
    }
    for said, way in ways.items():
        a, b = (way(right * math.exp(-k * own), k, own, other, mean) for right, k, own, other, mean in two_terms)
        for where, both in {"each of A and B": (a, b), "A": (a, B), "B": (A, b)}.items():
            if np.allclose(found, (E, both[0], alpha, both[1], beta), rtol=0.01) and not np.allclose(
                both, (A, B), 0.02
            ):
                return f"the exponents are right, and for {where} you return {said}."
    return None


def exact(answer, generator):
    (N, D), p = a_grid(), one_of(generator)
    return on_the_law(five(answer(N, D, law(p, N, D))), p, N, D, law(p, N, D))


def with_floor(answer, generator):
    (N, D), p = a_grid(), one_of(generator)
    losses = law(p, N, D)
    found = five(untouched(lambda *three: answer(*three, floor=p[0]), N, D, losses.clone(), names=NAMES))
    taken("lists", answer, N.tolist(), D.tolist(), losses.tolist(), floor=p[0])
    return on_the_law(found, p, N, D, losses, p[0])


def a_false_floor(answer, generator):
    """The floor that is given is not quite the one of the points: it must be taken as it is, 0 too."""
    N, D = a_grid()
    p = one_of(generator)
    floors = (0.9 * p[0], 0.0) if generator.initial_seed() % 3 == 0 else (0.9 * p[0],)
    return tuple(judged(answer, N, D, law(p, N, D), floor, 0.01) for floor in floors)


_fitted = {}


def judged(answer, N, D, losses, floor, delta):
    """Return 1 where an answer's fit is as good as the course's by the text's objective; Fault, which says why,
    else."""

    def objective(p):
        E, A, _, B, _ = p
        if min(A, B) < 0 or E < 0:
            return math.inf
        logs = (law((0 if floor is not None else E, *p[1:]), N, D)).log()
        off = (logs - (losses - (floor or 0)).log()).abs()
        return float(torch.where(off < delta, off**2 / 2, delta * (off - delta / 2)).sum())

    given = {} if floor is None else {"floor": floor}
    given |= {} if delta == 0.01 else {"delta": delta}
    found = five(answer(N, D, losses, **given))
    key = (*losses.tolist(), floor, delta)
    if key not in _fitted:
        _fitted[key] = objective(fit_law(N, D, losses, floor=floor, delta=delta))
    ours, theirs = _fitted[key], objective(found)
    with_that = f"δ = {delta}" if floor is None else f"δ = {delta} and the floor {floor:g}"
    if theirs > 1.005 * ours + 1e-9 or not math.isfinite(theirs):
        added = wrong_fit(floor="added")(N, D, losses, floor, delta) if floor and abs(found[0] - floor) < 1e-6 else None
        if added is not None and np.allclose(found[1:], added[1:], rtol=0.03):
            raise Fault("with a floor given you fit a further constant beside it, and drop it. Four unknowns are left.")
        other = what_was_minimised(found, N, D, losses, floor, delta)
        if other is not None:
            raise Fault(sentence_of(other))
        if all(value == round(value, 3) for value in found):
            raise Fault(f"with {with_that} your numbers are {found}: they are rounded. Return them with all digits.")
        if not math.isfinite(theirs):
            raise Fault(
                f"with {with_that} you return {rounded(found).tolist()}, which is no law: E, A and B are not negative."
            )
        raise Fault(
            f"with {with_that} the sum of Huber's losses at your five numbers is {theirs / ours:.3g} times the least "
            f"there "
            "is: either the optimiser stopped early or something else was minimised."
        )
    if floor is not None and abs(found[0] - floor) > 1e-6:
        raise Fault(f"with the floor {floor:g} given the first result is {found[0]:.4g}. Return the floor itself as E.")
    return 1.0


def outliers(answer, generator):
    """Two of 16 runs went wrong: their losses are a third too high. Huber's loss hardly notices them."""
    (N, D), p = a_grid(), one_of(generator)
    losses = law(p, N, D)
    losses[[3, 9]] *= 1.35
    return judged(answer, N, D, losses, None, 0.01)


def noisy(answer, generator, n=4, floor=False):
    N, D = a_grid(n, 5)
    p = one_of(generator)
    losses = p[0] + (law(p, N, D) - p[0]) * (0.08 * torch.randn(len(N), generator=generator)).exp().double()
    return tuple(judged(answer, N, D, losses, p[0] if floor else None, delta) for delta in (0.01, 0.1))


def known_and_noisy(answer, generator):
    return noisy(answer, generator, floor=True)


def other_points(answer, generator):
    """Fewer points in no order, in float32; another unit of the loss changes E, A and B and no exponent."""
    N, D = a_grid(3, 4)
    order = torch.randperm(len(N), generator=generator)
    N, D, p = N[order], D[order], LAWS[0]
    losses = law(p, N, D)
    plain = five(untouched(answer, N.float(), D.float(), losses.clone(), names=NAMES))
    larger = five(answer(N, D, 2 * losses))
    twice = (2 * p[0], 2 * p[1], p[2], 2 * p[3], p[4])
    return on_the_law(plain, p, N, D, losses), on_the_law(larger, twice, N, D, 2 * losses)


def wrong_fit(**switches):
    """Return a fit_law that a learner may write; its switches are the mistakes."""
    s = no_mistake(**switches)

    def arrived(N, D, losses, floor, delta):
        objective, left, free, known, x0, y0 = posed(s, N, D, losses, floor, delta)
        best = None
        for (alpha, beta), share in product([(0.3, 0.3), (1.0, 1.0)], (0.3, 0.9) if free else (0,)):
            middle = np.log(np.median(left) - share * left.min())
            start = [middle - np.log(2), alpha, middle - np.log(2), beta]
            start += [np.log(share) + np.log(left.min())] if free else []
            options = {"maxiter": 5000, "maxfun": 200000, "ftol": 1e-13}
            if s["scale"]:
                small = delta**2 / len(left)
                found = minimize(lambda p, small=small: small * objective(p)[0], start, method="L-BFGS-B", tol=1e-6)
            else:
                found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
            best = found if best is None or found.fun < best.fun else best
        return best, free, known, x0, y0

    def fit(N, D, losses, floor=None, delta=0.01):
        if s["gives"] == "in place" and floor is not None:
            losses -= floor
            losses = losses + floor
        best, free, known, x0, y0 = arrived(N, D, losses, floor, delta)
        a, alpha, b, beta = best.x[:4]
        E = float(np.exp(best.x[4])) if free else floor
        if known and s["floor"] == "added":
            E += floor
        if s["gives"] == "logs":
            return math.log(E), a + alpha * x0, alpha, b + beta * y0, beta
        back = {None: (1, 1), True: (0, 0), "sign": (-1, -1), "B": (1, 0)}[s["centre"]]
        A, B = np.exp(a + back[0] * alpha * x0), np.exp(b + back[1] * beta * y0)
        return {
            None: (E, A, alpha, B, beta),
            "in place": (E, A, alpha, B, beta),
            "signs": (E, A, -alpha, B, -beta),
            "order": (A, B, E, alpha, beta),
            "zero": (0.0 if known else E, A, alpha, B, beta),
        }[s["gives"]]

    fit.least, fit.switches = lambda *given: arrived(*given)[0].fun, switches
    return fit


def fit_by_torch(N, D, losses, floor=None, delta=0.01):
    """The same fit by torch's L-BFGS and autograd, from the starts of a coarse grid."""
    x, y, L = (torch.as_tensor(v).double() for v in (N, D, losses))
    x, y, target = x.log(), y.log(), (L - (floor or 0)).log()
    x0, y0 = x.mean(), y.mean()
    best, least = None, math.inf
    for alpha, beta in ((0.3, 0.3), (1.0, 1.0)):
        for share in (0.5,) if floor is None else (0.0,):
            half = (target.exp().median() - share * target.exp().min()).log() - math.log(2)
            start = [half, alpha, half, beta] + ([math.log(share) + target.min()] if floor is None else [])
            p = torch.tensor([float(v) for v in start], dtype=torch.float64, requires_grad=True)
            options = dict(max_iter=3000, tolerance_grad=1e-10, tolerance_change=1e-14, history_size=20)
            optimizer = torch.optim.LBFGS([p], line_search_fn="strong_wolfe", **options)

            def closure(p=p, optimizer=optimizer):
                optimizer.zero_grad()
                terms = [p[0] - p[1] * (x - x0), p[2] - p[3] * (y - y0)]
                terms += [p[4].expand(len(x))] if floor is None else []
                off = torch.stack(terms).logsumexp(0) - target
                value = nn.functional.huber_loss(off, torch.zeros_like(off), reduction="sum", delta=delta) / delta**2
                value.backward()
                return value

            optimizer.step(closure)
            value = closure().item()
            if value < least:
                best, least = p.detach().clone(), value
    a, alpha, b, beta = best[:4].tolist()
    E = math.exp(best[4]) if floor is None else floor
    return E, math.exp(a + alpha * float(x0)), alpha, math.exp(b + beta * float(y0)), beta


law_fit = Build(
    id="19.2",
    course=fit_law,
    stages=(
        Stage("five numbers", the_kind),
        Stage("an exact law", exact),
        Stage("the floor given", with_floor),
        Stage("the floor kept", a_false_floor),
        Stage("two bad runs", outliers),
        Stage("noise", noisy),
        Stage("noise and a floor", known_and_noisy),
        Stage(OTHER_SIZES, other_points),
    ),
    mistakes=(
        Mistake(
            "the optimiser stops at once",
            wrong_fit(scale=True),
            "your optimiser stops long before the minimum. The Huber losses are tiny numbers (δ² and less), so a rule "
            "such as *stop when the objective changes by less than 1e-6* holds from the start. Divide the sum by δ², "
            "and take smaller tolerances. The published fit of 2022 had this fault.",
            "Besiroglu et al. 2024, arXiv:2404.10102: the optimizer stopped before convergence due to a poor choice of "
            "loss scale",
        ),
        Mistake(
            "logarithms returned",
            wrong_fit(gives="logs"),
            "you return e, a and b, the logarithms in which you fitted. The text asks for E = exp(e), A = exp(a) and "
            "B = exp(b).",
            "Hoffmann et al. 2022, arXiv:2203.15556, appendix D.2 sets E, A, B = exp(e), exp(a), exp(b) after the fit",
        ),
        Mistake(
            "exponents with a minus",
            wrong_fit(gives="signs"),
            "your exponents have the wrong sign. In A / N^α a loss that falls with N has a positive α.",
            "the slope of a line through logarithms taken for the exponent",
        ),
        Mistake(
            "another order",
            wrong_fit(gives="order"),
            "the five numbers come in another order. Return E, A, α, B, β, as the formula is read.",
            "Hoffmann et al. 2022 list A, B, E, α, β",
        ),
        Mistake(
            "N and D exchanged",
            wrong_fit(exchange=True),
            "N and D are exchanged: A and α belong to N, the size of the model; B and β to D, the data.",
            "two arguments of the same shape",
        ),
        Mistake(
            "logarithms to base 10",
            wrong_fit(base=True),
            "your exponents are too large by the factor ln 10: N and D went through log10, and the terms are put "
            "together with exp. Use natural logarithms everywhere.",
            "numpy.log10 beside numpy.exp",
        ),
        Mistake(
            "A and B at the centre",
            wrong_fit(centre=True),
            "the exponents are right, A and B are not: you fitted with centred logarithms, so A is still the term's "
            "value at the mean of ln N. Multiply by exp(α · mean), and B likewise.",
            "centred regressors whose intercept is not moved back",
        ),
        Mistake(
            "the floor not subtracted",
            wrong_fit(floor="ignored"),
            "with a floor given you fit the logarithm of the *whole* loss by two powers. A loss that levels off is "
            "no power: the exponents come out far too small. Fit ln(loss − floor).",
            "lesson 08's exercise 08.3; Kaplan et al. 2020 (arXiv:2001.08361) fit the loss without a floor",
        ),
        Mistake(
            "the floor fitted all the same",
            wrong_fit(floor="free"),
            "the floor is given and you fit an E of your own. With `floor` there are four unknowns, not five, and E "
            "is what was given.",
            "an argument that nothing uses",
        ),
        Mistake(
            "E is 0 when the floor is given",
            wrong_fit(gives="zero"),
            "with a floor given the first result is 0. Return the floor itself as E, so that the five numbers are a "
            "law.",
            "the floor subtracted and not added again",
        ),
        Mistake(
            "the floor inside the logarithm",
            wrong_fit(floor="fixed"),
            "with a floor given you compare ln of the law with ln of the loss, floor included. Near the floor a large "
            "relative error of the excess is then a small one of the loss. Compare ln(A/N^α + B/D^β) with ln(loss − "
            "floor).",
            "the objective of Hoffmann et al. 2022 kept where the floor is known",
        ),
        Mistake(
            "fitted without logarithms",
            wrong_fit(space=True),
            "you compare the loss itself and not its logarithm, so the few runs with a large loss decide. Compare ln "
            "of the law with ln of the loss.",
            "scipy.optimize.curve_fit on the raw losses",
        ),
        Mistake(
            "squares",
            wrong_fit(loss="squares"),
            "the squared error lets two bad runs of sixteen pull the whole law. Huber's loss grows linearly beyond δ."
            " (Or is a δ of your own so large that all is square?)",
            "least squares; Hoffmann et al. 2022 chose Huber's loss against outliers (appendix D.2)",
        ),
        Mistake(
            "δ of your own",
            wrong_fit(delta=0.001),
            "your numbers are the best ones for δ = 0.001, whatever `delta` is. Huber's loss is quadratic up to the "
            "argument `delta`, and not to a δ of your own.",
            "δ = 1e-3 of Hoffmann et al. 2022 written into the code",
        ),
        Mistake(
            "δ of 0.01",
            wrong_fit(delta=0.01),
            "your numbers are the best ones for δ = 0.01, whatever `delta` is. Is the default written into your code "
            "where `delta` belongs?",
            "the default value written into the code, or a function of the notebook that holds its own delta",
        ),
        Mistake(
            "absolute errors",
            wrong_fit(loss="absolute"),
            "you add up |ln(law) − ln(loss)|. Huber's loss is that only beyond δ; up to δ it is a square, off² / 2.",
            "median regression taken for Huber's loss",
        ),
        Mistake(
            "half of δ forgotten",
            wrong_fit(loss="shift"),
            "the two pieces of your loss do not meet, so it jumps at δ. Both of Huber's pieces are δ² / 2 there, with "
            "the same slope: off² / 2 up to δ and δ(|off| − δ / 2) beyond it.",
            "the two pieces of Huber's loss written from memory",
        ),
        Mistake(
            "square without its half",
            wrong_fit(loss="no half"),
            "your two pieces are off² and δ |off|, which meet at δ with different slopes. Huber's loss is off² / 2 up"
            " to δ and δ(|off| − δ / 2) beyond it.",
            "the factors of Huber's loss left out as if they did not matter",
        ),
        Mistake(
            "the pieces exchanged",
            wrong_fit(loss="exchanged"),
            "the two pieces of your loss are exchanged: the square is for |off| up to δ, the straight line for "
            "what is beyond. (`np.where(condition, where true, where false)`.)",
            "np.where with the condition turned round",
        ),
        Mistake(
            "off below δ",
            wrong_fit(loss="no abs"),
            "you ask off < δ, without the absolute value, so a law far *below* a run gets the square, however "
            "far. Ask |off| < δ.",
            "abs forgotten in a condition",
        ),
        Mistake(
            "relative differences",
            wrong_fit(space="relative"),
            "you compare law / loss − 1, the relative difference. Too much and too little by the same factor do "
            "not count alike in it: compare ln(law) with ln(loss).",
            "a per cent error taken for a difference of logarithms",
        ),
        Mistake(
            "one exponent",
            wrong_fit(one=True),
            "both terms have one exponent: the same entry of your vector stands in both. α belongs to N and β to "
            "D: five unknowns.",
            "p[1] copied from one term to the other",
        ),
        Mistake(
            "squares of the losses",
            wrong_fit(loss="squares", space=True),
            "you minimise the squares of law − loss. The text asks for logarithms, ln(law) − ln(loss), and for "
            "Huber's loss.",
            "scipy.optimize.curve_fit with its defaults",
        ),
        Mistake(
            "base 10 in all",
            wrong_fit(base="all"),
            "the losses went through log10 as well, while the terms are put together with exp (or logaddexp). Use "
            "natural logarithms everywhere.",
            "numpy.log10 of everything beside numpy.logaddexp",
        ),
        Mistake(
            "moved the wrong way",
            wrong_fit(centre="sign"),
            "the exponents are right, and A is at the mean of ln N, moved the wrong way: A = exp(a + α · mean), and B"
            " likewise.",
            "the sign of the slope forgotten when centred regressors are undone",
        ),
        Mistake(
            "B left at the centre",
            wrong_fit(centre="B"),
            "the exponents and A are right, and B is still the term's value at the mean of ln D. Multiply it by exp(β"
            " · mean of ln D).",
            "one of two centred regressors moved back",
        ),
        Mistake(
            "a floor of 0 taken for none",
            wrong_fit(floor="if floor"),
            "with floor=0.0 you fit an E all the same. 0 is a floor: ask `floor is not None`, and not `if floor`.",
            "the truth value of 0.0",
        ),
        Mistake(
            "the caller's losses changed",
            wrong_fit(gives="in place"),
            "`losses` is changed in place when a floor is given (`losses -= floor`?): whoever called it finds theirs "
            "changed. Work on a copy.",
            "an array that np.asarray does not copy",
        ),
    ),
    hints=(
        "Write the law in logarithms: each of the terms is exp of a line, so ln of the sum is a logaddexp of lines "
        "(`np.logaddexp.reduce(terms)`): a − α ln N, b − β ln D and, if E is free, the constant e.",
        "Subtract the means of ln N and ln D first: a and α, which else pull at each other, are then nearly "
        "independent. Undo it at the end: A = exp(a + α · mean).",
        "`scipy.optimize.minimize(objective, start, method='L-BFGS-B', options={'maxiter': 5000, 'ftol': 1e-13})`, "
        "for several starts of α, β and e; keep the result with the smallest `fun`. Divide the objective by δ².",
        "For exact convergence return the gradient too, with jac=True: the derivative of Huber's loss is "
        "clip(off, −δ, δ), and that of the logaddexp by each term is exp(term − logs).",
    ),
    praise="It finds a law's numbers where there is a law. Whether there is one, it cannot say.",
    other_ways=(fit_by_torch,),
)


# --- 19.3 predict: the exponent of the last checkpoints ---------------------------------------------------------------


def which_slope(guess):
    """Say what is true of a wrong exponent that is none of the usual ones."""
    guess = float(guess)
    if not math.isfinite(guess):
        return "Give a finite number."
    if guess < 0:
        return "The loss falls with the number of sentences, and in B / D^β that is a *positive* β."
    if guess > 10:
        return "β is the exponent itself, of the order of 1, and no percentage."
    if guess > 1.4:
        return (
            f"The direction is right, and that is too steep: with a β of {guess:g} each doubling of the corpus would "
            f"divide this term by {2**guess:.1f}."
        )
    return "The direction is right, and β grows by more: it is more than twice that of the best checkpoints, 0.50."


last_exponent = Prediction(
    id="19.3",
    right=1.15,  # a cell of the lesson fits it to the stored table
    tolerance=0.25,
    about=which_slope,
    mistakes=(
        Mistake(
            "as with the best",
            0.5,
            "the best checkpoints have a β of 0.50, and the last ones a much larger one. By the last step the runs on"
            " 50 "
            "sentences are far worse than their best, and the runs on 400 are at their best: look at the columns "
            "`last` "
            "and `best` of `grid`.",
            "the last checkpoint taken for the best: fits that do not say which was used",
        ),
        Mistake(
            "smaller",
            0.0,
            "β becomes larger than the 0.50 of the best checkpoints, not smaller. Overfitting makes the *small* "
            "corpora "
            "worse, so the loss falls faster with the number of sentences.",
            "overfitting thought of as a loss for all runs alike",
        ),
    ),
    hints=(
        "Which runs are overfitted after 600 steps: those on 50 sentences or those on 400?",
        "If only the left end of a falling line goes up, what happens to its slope?",
        "Print the mean of `last` for each corpus. The excess falls by a half and more with the first two doublings; "
        "β is more than twice that of the best checkpoints.",
    ),
    praise="This exponent measures when you stopped.",
)


# --- 19.4 the build: µP -----------------------------------------------------------------------------------------------


def mup(model, base):
    """Put a fresh masked model into µP; base: the width where rates are tuned -> groups: parameters and their scale"""
    C = model.encoder.config.width
    ratio = C / base
    hidden, rest = [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            matrix = isinstance(module, nn.Linear) and name == "weight"
            (hidden if matrix else rest).append(parameter)
        if isinstance(module, nn.Embedding):
            module.weight.data *= math.sqrt(ratio)  # from 1/√C to 1/√base
    queries = torch.ones(3 * C)
    queries[:C] = ratio**-0.5  # √(D of the base / D), beside the 1/√D that is there
    for layer in model.encoder.layers:
        layer.attention.qkv.register_forward_hook(lambda _, given, out: out * queries.to(out))
    model.head.norm.register_forward_hook(lambda _, given, out: out / ratio)
    return [{"params": hidden, "scale": 1 / ratio}, {"params": rest, "scale": 1.0}]


def in_mup(answer, generator, base=16, **sizes):
    """Return a model, what the answer gave for it, its parameters' names, and its weights before."""
    model = a_model(generator, **{"width": 32, "layers": 2, "heads": 4, "token_types": 2} | sizes)
    before = copy.deepcopy(model.state_dict())
    try:
        groups = answer(model, base)
    except RuntimeError as error:
        if "a leaf Variable that requires grad" not in str(error) and "a view of a leaf" not in str(error):
            raise
        raise Fault(
            "torch refuses to change a parameter in place while it records gradients. Do it within "
            "`with torch.no_grad():`, or change `parameter.data`."
        ) from None
    if not isinstance(groups, list | tuple) or not all(isinstance(g, dict) and "params" in g for g in groups):
        shown = f"{describe(groups)} with {describe(groups[0])} in it" if isinstance(groups, list) and groups else None
        raise Fault(
            f"it returns {shown or describe(groups)}; expected a list of groups, each a dict with `params` and `scale`."
        )
    for group in groups:
        if "scale" not in group:
            also = (
                "" if "lr" not in group else " (`lr` is set anew in every step, to the rate of that step times `scale`)"
            )
            raise Fault(
                f"a group has no `scale`: the number with which the training loop multiplies the learning rate{also}."
            )
        if isinstance(group["scale"], bool | str) or not isinstance(group["scale"], numbers.Real):
            raise Fault(f"a group's `scale` is {describe(group['scale'])}; expected a float.")
        if isinstance(group["params"], Tensor | set | dict | str):
            raise Fault("a group's `params` should be a list of parameters, also where it is one parameter.")
        group["params"] = list(group["params"])
        if not all(isinstance(p, Tensor) for p in group["params"]):
            other = next(p for p in group["params"] if not isinstance(p, Tensor))
            raise Fault(f"`params` holds {describe(other)}; expected the parameters themselves.")
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    if frozen:
        raise Fault(f"{frozen[0]} no longer requires a gradient, so it would never be trained.")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return model, groups, names, before


def the_groups(answer, generator):
    _, groups, names, _ = in_mup(answer, generator)
    given = [id(parameter) for group in groups for parameter in group["params"]]
    unknown = [one for one in given if one not in names]
    if unknown:
        raise Fault(
            "a group has a parameter that is not one of the model's: was a copy made of it, or was it replaced after "
            "the group was made?"
        )
    twice = sorted({names[one] for one in given if given.count(one) > 1})
    if twice:
        tied = " The table of words is one parameter, although the head uses it too." if "tokens" in twice[0] else ""
        raise Fault(f"{twice[0]} is in the groups twice, so the optimiser would move it twice.{tied}")
    missing = [name for key, name in names.items() if key not in given]
    if missing:
        raise Fault(f"no group has {missing[0]}, so it would never be trained. Each parameter is in one group.")
    return True


KINDS = {
    "tables": ("encoder.tokens.weight", "encoder.positions.weight", "encoder.types.weight"),
    "matrices of the layers": ("attention.qkv.weight", "attention.out.weight", "ffn_in.weight", "ffn_out.weight"),
    "the head's matrix": ("head.dense.weight",),
    "biases of linear layers": ("qkv.bias", "out.bias", "ffn_in.bias", "ffn_out.bias", "head.dense.bias"),
    "norms": ("norm.weight", "norm.bias", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"),
    "the head's bias": ("head.bias",),
}


def the_rates(answer, generator, base=16, **sizes):
    """The scale of each kind of parameter, in the order of KINDS; Fault, which says which are wrong."""
    model, groups, names, _ = in_mup(answer, generator, base, **sizes)
    scale = {names[id(p)]: float(group["scale"]) for group in groups for p in group["params"]}
    hidden = base / model.encoder.config.width
    found, faults = [], []
    for kind, ends in KINDS.items():
        right = hidden if "matri" in kind else 1.0
        some = {name: round(value, 6) for name, value in scale.items() if name.endswith(ends)}
        found.append(right if all(math.isclose(v, right, rel_tol=1e-4) for v in some.values()) else math.nan)
        if math.isnan(found[-1]):
            each = dict.fromkeys((".".join(name.split(".")[-2:]), f"{value:g}") for name, value in sorted(some.items()))
            shown = ", ".join(f"{name} {value}" for name, value in each)
            one = f"{next(iter(some.values())):g}" if len(set(some.values())) == 1 else f"several scales ({shown})"
            faults.append(f"{kind}: {one}, expected {right:g}")
    values = {round(v, 4) for v in scale.values()}
    if values == {round(hidden, 4)} and hidden != 1:
        raise Fault(
            "every parameter's rate is multiplied by base / C. Biases, norms and tables keep theirs: nothing adds up "
            "over the "
            "width in them."
        )
    if faults:
        rule = (
            f"base / C is {hidden:g} here, and it is the scale of every hidden matrix, whatever the matrix's own sizes"
        )
        raise Fault(f"scales that are not right: {'; '.join(faults)}. ({rule}; all else has 1.)")
    return torch.tensor(found, dtype=torch.float64)


def the_start(answer, generator, base=16, **sizes):
    """By how much each table was multiplied; Fault for a change of any other kind."""
    model, _, _, before = in_mup(answer, generator, base, **sizes)
    wanted = math.sqrt(model.encoder.config.width / base)
    factors, tables = {}, KINDS["tables"]
    for name, p in model.named_parameters():
        old, new = before[name].double(), p.detach().double()
        if new.shape != old.shape:
            raise Fault(f"{name} has another shape than before.")
        factor = float((old * new).sum() / old.square().sum())
        alike = torch.allclose(new, factor * old, rtol=1e-3, atol=1e-5)
        if name in tables and not alike:
            raise Fault(
                f"the values of {name} were drawn anew, or not all multiplied by one number. Multiply what was drawn."
            )
        if "norm" in name and not (alike and math.isclose(factor, 1, rel_tol=1e-4)):
            raise Fault(
                f"you changed {name}, which is trained: training would undo it. Scale the *output* of "
                f"`model.head.norm`, by "
                "a hook."
            )
        if not alike and "qkv" in name:
            raise Fault(
                f"{name} was changed in part. The queries are scaled in the forward pass, by a hook; a weight that "
                "is scaled would be trained away, and its learning rate stays as it is."
            )
        if name.endswith("bias") and not (alike and math.isclose(factor, 1, rel_tol=1e-4)):
            raise Fault(f"you changed {name}. Only the tables start with other values.")
        if not alike:
            raise Fault(f"{name} was drawn anew, or changed in part. Only the tables start with other values.")
        factors[name] = factor
    found = [factors[name] for name in tables if name in factors]
    matrices = {
        n: f for n, f in factors.items() if n.endswith(KINDS["matrices of the layers"] + KINDS["the head's matrix"])
    }
    changed = [name for name, factor in matrices.items() if not math.isclose(factor, 1, rel_tol=1e-4)]
    if changed:
        raise Fault(
            f"{changed[0]} was multiplied by {matrices[changed[0]]:.3g}. Only the tables start with other values."
        )
    if not all(math.isclose(factor, wanted, rel_tol=1e-3) for factor in found):
        shown = ", ".join(f"{n.split('.')[1]} by {f:.3g}" for n, f in factors.items() if n in tables)
        raise Fault(f"tables multiplied: {shown}; expected √(C / base) = {wanted:.3g} for each.")
    return torch.tensor(found)


def the_attention(answer, generator, **sizes):
    """What attention gives in a layer, with weights that the answer cannot have changed."""
    model, _, _, _ = in_mup(answer, generator, **sizes)
    C, results = model.encoder.config.width, []
    ratio = C / sizes.get("base", 16)
    for number, layer in enumerate(model.encoder.layers, 1):
        attention = layer.attention
        _refill([p for name, p in attention.named_parameters()], generator)
        x = 3 * torch.randn(2, 5, C, generator=generator)
        q, k, v = nn.functional.linear(x, attention.qkv.weight, attention.qkv.bias).split(C, -1)
        with torch.no_grad():
            found = attention(x)[0], attention(x, None, True)[1]
            heads = [each.view(2, 5, attention.H, -1).transpose(1, 2) for each in (q * ratio**-0.5, k, v)]
            right = attention.out(nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(2, 5, C))
        if number > 1 and not torch.allclose(found[0], right, atol=1e-4) and results[0][2]:
            raise Fault(
                f"in the first layer the scores are right, in layer {number} they are not. Each layer of "
                "`model.encoder.layers` needs its hook."
            )
        same_scores = torch.allclose(
            found[1], (heads[0] @ heads[1].mT / heads[0].shape[-1] ** 0.5).softmax(-1), atol=1e-4
        )
        if same_scores and not torch.allclose(found[0], right, atol=1e-4):
            raise Fault(
                "the weights of attention are right, and its output is not: the values, or what comes after them, are "
                "scaled, too. Only the queries are."
            )
        results.append((*found, torch.allclose(found[0], right, atol=1e-4)))
    return results[0][:2]


def _refill(parameters, generator):
    """Fill parameters with 1.5 / √(fan in) times normal numbers."""
    for parameter in parameters:
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 1.5 * parameter.shape[-1] ** -0.5)


def what_it_computes(model, generator):
    """Return a model's logits, its loss, and the size of each parameter's gradient; Fault where one gets none."""
    ids = torch.randint(5, 20, (3, 7), generator=generator)
    labels = torch.where(torch.rand(3, 7, generator=generator) < 0.5, ids, -100)
    labels[0, 0] = ids[0, 0]
    with torch.no_grad():
        logits = model(ids)
    loss = model.loss(ids, labels)
    if not loss.requires_grad:
        raise Fault(
            "no gradient reaches any parameter from the loss: is something detached, or within `torch.no_grad()`?"
        )
    model.zero_grad(set_to_none=True)
    loss.backward()
    for name, p in model.named_parameters():
        parts = (
            {"the queries' part of ": p.grad[: len(p) // 3]} if p.grad is not None and "qkv" in name else {"": p.grad}
        )
        for part, grad in parts.items():
            if grad is None or not grad.any():
                raise Fault(
                    f"in training no gradient reaches {part}{name}: does a hook detach what it returns, or compute it"
                    f" within "
                    "`torch.no_grad()`?"
                )
    sizes = [p.grad.norm() for _, p in model.named_parameters()]
    return logits, loss.detach(), torch.stack(sizes)


def the_logits(answer, generator, **sizes):
    """What a whole model computes, filled with weights that the answer cannot have changed."""
    model, _, _, _ = in_mup(answer, generator, **sizes)
    _refill(list(model.parameters()), generator)
    return what_it_computes(model, generator)


def at_the_base(answer, generator):
    """At the base width µP is the model as it was, with one learning rate."""
    model = a_model(generator, width=16, layers=1)
    same = copy.deepcopy(model)
    groups = answer(model, 16)
    ids = torch.randint(5, 20, (2, 6), generator=generator)
    with torch.no_grad():
        if not torch.allclose(model(ids), same(ids), atol=1e-6):
            raise Fault(
                "at the base width the model gives other logits than before. There C / base is 1: nothing changes."
            )
    return torch.tensor([float(group["scale"]) for group in groups for _ in group["params"]])


def several_models(answer, generator):
    """Three models are made, and used only then: what is done for one must not reach the others."""
    made = []
    for width, base in ((32, 8), (16, 32), (24, 24)):
        model, _, _, _ = in_mup(answer, generator, width=width, base=base)
        _refill(list(model.parameters()), generator)
        made.append(model)
    return tuple(what_it_computes(model, generator)[0] for model in made)


def other_models(answer, generator):
    sizes = dict(width=24, layers=3, base=16, token_types=0)
    rates = the_rates(answer, generator, **sizes)
    start = the_start(answer, generator, **sizes)
    return rates, start, the_logits(answer, generator, **sizes)


def wrong_mup(**switches):
    """Return a mup that a learner may write; its switches are the mistakes."""
    names = "tables vectors hidden head start attention logits base shared"
    s = dict.fromkeys(names.split()) | switches
    latest = {}

    def parametrise(model, base):
        base = s["base"] or base
        C, H = model.encoder.config.width, model.encoder.config.heads
        ratio = C / base
        groups = []
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                scale = 1.0
                if isinstance(module, nn.Linear) and name == "weight":
                    scale = {None: 1 / ratio, "root": ratio**-0.5, "none": 1.0, "up": ratio}.get(s["hidden"])
                    if s["hidden"] == "fan in":
                        scale = base / module.in_features
                    if s["head"] and module is model.head.dense:
                        scale = 1.0
                elif isinstance(module, nn.Embedding) and s["tables"]:
                    scale = 1 / ratio if s["tables"] is True or module is not model.encoder.tokens else 1.0
                elif not isinstance(module, nn.Embedding) and s["vectors"] == "all":
                    scale = 1 / ratio
                elif isinstance(module, nn.Linear) and s["vectors"] == "biases":
                    scale = 1 / ratio
                groups.append({"params": [parameter], "scale": scale})
            if isinstance(module, nn.Embedding):
                start = ratio**0.5
                if s["start"] == "drawn anew":
                    nn.init.normal_(module.weight, std=base**-0.5)
                    continue
                if s["start"] in ("whole", "down"):
                    start = {"whole": ratio, "down": ratio**-0.5}[s["start"]]
                left = s["start"] == "words only" and module is not model.encoder.tokens
                left |= s["start"] == "no types" and module not in (model.encoder.tokens, model.encoder.positions)
                module.weight.data *= 1.0 if left or s["start"] == "as it was" else start
            if isinstance(module, nn.Linear) and s["start"] == "hidden too":
                module.weight.data *= math.sqrt(ratio)
        if s["start"] == "gain":
            model.head.norm.weight.data /= ratio
        factor = torch.ones(3 * C)
        if s["attention"] == "of each head":
            factor.view(H, 3, C // H)[:, 0] = ratio**-0.5
        elif s["attention"] == "weights":
            for layer in model.encoder.layers:
                layer.attention.qkv.weight.data[:C] *= ratio**-0.5
        else:
            some = {"all three": 3 * C, "both": 2 * C, "left": 0}.get(s["attention"], C)
            how = {"no base": (C // H) ** -0.5, "up": ratio**0.5}.get(s["attention"], ratio**-0.5)
            factor[:some] = how
        latest.update(C=C, ratio=ratio)
        layers = model.encoder.layers[:1] if s["attention"] == "first layer" else model.encoder.layers
        for layer in layers:

            def hook(_, given, out):
                if s["shared"]:
                    C, by = latest["C"], latest["ratio"] ** -0.5
                    return torch.cat([out[..., :C] * by, out[..., C:]], -1)
                return (out.detach() if s["attention"] == "detached" else out) * factor

            layer.attention.qkv.register_forward_hook(hook)
        divide = {"root": ratio**0.5, "width": C, "up": 1 / ratio}.get(s["logits"], ratio)
        by = {
            "bias too": model.head,
            "model, bias too": model,
            "encoder's norm": model.encoder.norm,
            "dense": model.head.dense,
        }.get(s["logits"], model.head.norm)
        if s["logits"] == "model":
            bias = model.head.bias
            model.register_forward_hook(lambda _, given, out: (out - bias) / ratio + bias)
        elif s["shared"]:
            by.register_forward_hook(lambda _, given, out: out / latest["ratio"])
        elif s["logits"] == "pre-hook":
            by.register_forward_pre_hook(lambda _, given: (given[0] / ratio,))
        elif s["logits"] == "detached":
            by.register_forward_hook(lambda _, given, out: out.detach() / ratio)
        elif s["logits"] != "left" and s["start"] != "gain":
            by.register_forward_hook(lambda _, given, out: out / divide)
        return groups

    return parametrise


def mup_by_names(model, base):
    """By the names of the parameters, with the multipliers inside the attention's and the head's own forward."""
    config = model.encoder.config
    m = config.width / base
    by_scale = {1.0: [], base / config.width: []}
    for name, p in model.named_parameters():
        hidden = p.ndim == 2 and not name.endswith(("tokens.weight", "positions.weight", "types.weight"))
        by_scale[base / config.width if hidden else 1.0].append(p)
        if p.ndim == 2 and not hidden:
            with torch.no_grad():
                p.mul_(m**0.5)

    def with_less_query(out):
        q, rest = out[..., : config.width], out[..., config.width :]
        return torch.cat([q / m**0.5, rest], dim=-1)

    for layer in model.encoder.layers:
        plain = layer.attention.qkv.forward
        layer.attention.qkv.forward = lambda x, plain=plain: with_less_query(plain(x))
    head = model.head
    head.forward = lambda hidden, embedding: nn.functional.linear(
        head.norm(head.activation(head.dense(hidden))), embedding / m, head.bias
    )
    return [{"params": params, "scale": scale} for scale, params in by_scale.items()]


TABLE_8 = "Yang et al. 2022, arXiv:2203.03466, table 8; "

mu_parametrisation = Build(
    id="19.4",
    course=mup,
    stages=(
        Stage("the groups", the_groups),
        Stage("learning rates", the_rates),
        Stage("the start", the_start),
        Stage("attention", the_attention),
        Stage("logits", the_logits),
        Stage("the base width", at_the_base),
        Stage("several models", several_models),
        Stage(OTHER_SIZES, other_models),
    ),
    mistakes=(
        Mistake(
            "one rate for all",
            wrong_mup(hidden="none"),
            "every parameter has the same learning rate. Adam moves each weight by about the rate, and a hidden unit "
            "adds up C such moves: the rate of hidden matrices is multiplied by base / C.",
            TABLE_8 + "https://github.com/microsoft/mup/blob/main/mup/optim.py divides it by width_mult",
        ),
        Mistake(
            "the root of the ratio",
            wrong_mup(hidden="root"),
            "the rate of hidden matrices falls with √C here. The moves of one step are correlated with the input, so "
            "they add up like C and not like √C: multiply by base / C.",
            "the 1/√(fan in) of the start used for the learning rate too",
        ),
        Mistake(
            "the rate grows",
            wrong_mup(hidden="up"),
            "the rate of hidden matrices *grows* with the width: are C and base exchanged? It is multiplied by base "
            "/ C, which is less than 1 in a wider model.",
            "the width multiplier multiplied where mup's optim.py divides",
        ),
        Mistake(
            "tables like hidden matrices",
            wrong_mup(tables=True),
            "the tables of words and positions get the rate of hidden matrices. A token looks up one row, so nothing "
            "adds up over the width: their rate stays.",
            "https://github.com/microsoft/mup/issues/7: MuAdam leaves what has one infinite dimension at the full rate",
        ),
        Mistake(
            "vectors scaled",
            wrong_mup(vectors="all"),
            "biases and norms get the rate of hidden matrices. They are added or multiplied element by element, "
            "nothing adds up over the width: their rate stays.",
            TABLE_8 + "the column of input weights and all biases has the rate 1",
        ),
        Mistake(
            "biases scaled",
            wrong_mup(vectors="biases"),
            "the biases of linear layers get the rate of their matrices. A bias is added once and sums over nothing: "
            "its rate stays.",
            "all parameters of an nn.Linear put into one group",
        ),
        Mistake(
            "the head's matrix forgotten",
            wrong_mup(head=True),
            "`head.dense` keeps the full rate. It is a matrix from width to width as those of the layers are, "
            "although it stands in the head: multiply its rate by base / C.",
            "the head taken for an output layer as a whole",
        ),
        Mistake(
            "the tables' start left",
            wrong_mup(start="as it was"),
            "the tables start with 1/√C, smaller in a wider model. In µP their size does not depend on the width: "
            "multiply the drawn values by √(C / base).",
            TABLE_8 + "https://github.com/microsoft/mup/blob/main/mup/layer.py rescales by width_mult ** 0.5",
        ),
        Mistake(
            "the table of positions forgotten",
            wrong_mup(start="words only"),
            "only the table of words is rescaled. The table of positions is an input weight as well: multiply it, too.",
            "`model.encoder.tokens` alone",
        ),
        Mistake(
            "the ratio for its root",
            wrong_mup(start="whole"),
            "the tables are multiplied by C / base. They were drawn with 1/√C and should start with 1/√base: the "
            "factor is √(C / base).",
            "a variance taken for a standard deviation",
        ),
        Mistake(
            "all matrices rescaled",
            wrong_mup(start="hidden too"),
            "the hidden matrices are rescaled as well. Their 1/√(fan in) is right at every width; only the tables "
            "change.",
            "https://github.com/microsoft/mup/issues/57: what set_base_shapes rescales is asked there",
        ),
        Mistake(
            "attention left",
            wrong_mup(attention="left"),
            "attention still divides by √D (does your hook return its result?). After training queries and keys are "
            "correlated, and their product grows "
            "like D: in µP it is divided by D. Multiply the queries by √(base / C).",
            "https://github.com/microsoft/mup#basic-usage: 1/d instead of 1/sqrt(d); "
            "https://github.com/datamol-io/graphium/pull/144 lists it as still to do",
        ),
        Mistake(
            "queries, keys and values",
            wrong_mup(attention="all three"),
            "the factor is on queries, keys and values. Scores then get it twice, and the values' sum is scaled too. "
            "Only the first C of the 3C columns, the queries, are multiplied.",
            "a hook that multiplies the output of a fused qkv layer",
        ),
        Mistake(
            "queries and keys",
            wrong_mup(attention="both"),
            "the scores are multiplied by base / C (the queries by that, or queries and keys by its root), beside the "
            "1/√D that is there, so they fall like D^-1.5. "
            "Multiply the queries by √(base / C), and the keys by nothing.",
            "1/d multiplied to scores that were divided by sqrt(d); the factor on queries and keys",
        ),
        Mistake(
            "1/D without the base",
            wrong_mup(attention="no base"),
            "you divide by D exactly, so even at the base width attention changes. µP says how to *change* with the "
            "width: √(base / C) beside the 1/√D that is there (the library's readme writes 8/d for a base of D = 64).",
            "https://github.com/microsoft/mup#basic-usage: 8/d to be backward compatible with 1/sqrt(64)",
        ),
        Mistake(
            "logits left",
            wrong_mup(logits="left"),
            "the logits are not scaled (does your hook return its result, and does no norm come after it?). In a "
            "wider model each is a sum over more features that learn the same thing: "
            "divide by C / base what goes into the product with the table.",
            TABLE_8 + "https://github.com/microsoft/mup/blob/main/mup/layer.py, MuSharedReadout",
        ),
        Mistake(
            "the root on the logits",
            wrong_mup(logits="root"),
            "the logits are divided by √(C / base). That is right for random weights; trained ones are correlated, "
            "and their sum grows like C: divide by C / base.",
            "the start's 1/√(fan in) used for the output",
        ),
        Mistake(
            "the head's bias scaled",
            wrong_mup(logits="bias too"),
            "the head's bias is divided as well. Only the product with the table is a sum over the width: divide the "
            "output of `model.head.norm`, which is what goes into the product.",
            "a hook on the whole head",
        ),
        Mistake(
            "divided by the width",
            wrong_mup(logits="width"),
            "the logits are divided by C, and at the base width they change too. Divide by C / base.",
            "https://github.com/microsoft/mup/issues/7: 'We don't want you to ... divide the output layer by exactly "
            "fanin'",
        ),
        Mistake(
            "everything scaled",
            wrong_mup(tables=True, vectors="all"),
            "every parameter's rate is multiplied by base / C. Biases, norms and tables keep theirs: nothing adds up "
            "over the width in them.",
            "one group with a rate that falls with the width",
        ),
        Mistake(
            "each matrix by its own inputs",
            wrong_mup(hidden="fan in"),
            "the scale is base / (the matrix's own inputs), so `ffn_out`, which has more inputs, learns more slowly "
            "than the others. `base` is a width of the model: every hidden matrix gets base / C, as all its sizes "
            "grow with C.",
            "base / fan in of each matrix, with the base's fan in forgotten",
        ),
        Mistake(
            "positions like hidden matrices",
            wrong_mup(tables="all but words"),
            "only the table of words keeps its rate. The tables of positions and token types are looked up as well, "
            "nothing adds up over the width: their scale is 1.",
            "model.encoder.tokens alone taken for the embedding",
        ),
        Mistake(
            "tables made smaller",
            wrong_mup(start="down"),
            "the tables are multiplied by √(base / C), which makes them still smaller in a wider model. The factor is"
            " upside down: √(C / base).",
            "a factor upside down",
        ),
        Mistake(
            "the table of types forgotten",
            wrong_mup(start="no types"),
            "the tables of words and positions are rescaled, the one of token types is not. A model may have it: go "
            "through `model.modules()` and multiply each `nn.Embedding`.",
            "two tables called by their names",
        ),
        Mistake(
            "tables drawn anew",
            wrong_mup(start="drawn anew"),
            "a table was drawn anew. Multiply what was drawn: at the base width nothing may change.",
            "nn.init.normal_ with the standard deviation of the text",
        ),
        Mistake(
            "the norm's gain changed",
            wrong_mup(start="gain"),
            "you changed the gain of `head.norm`, which is trained. Scale its *output*, by a hook.",
            "a multiplier put into a weight",
        ),
        Mistake(
            "the queries' weights scaled",
            wrong_mup(attention="weights"),
            "you changed rows of `qkv.weight`. The queries are scaled in the forward pass, by a hook; a weight would "
            "be trained away.",
            "a multiplier put into a weight",
        ),
        Mistake(
            "queries made larger",
            wrong_mup(attention="up"),
            "the queries get *larger* in a wider model: the factor is upside down. It is √(base / C), which is less "
            "than 1 there.",
            "a factor upside down",
        ),
        Mistake(
            "the layout of qkv",
            wrong_mup(attention="of each head"),
            "you take the 3C columns to be q, k and v of the first head, then of the second. They are the queries of "
            "*all* heads, then the keys, then the values: the queries are the first C.",
            "GPT-NeoX keeps q, k and v of each head together, BERT's fused layers do not",
        ),
        Mistake(
            "one layer only",
            wrong_mup(attention="first layer"),
            "only the first layer's queries are scaled. Each layer of `model.encoder.layers` needs its hook.",
            "layers[0] in place of a loop",
        ),
        Mistake(
            "logits made larger",
            wrong_mup(logits="up"),
            "the logits get *larger* in a wider model: the factor is upside down. Multiply by base / C.",
            "a factor upside down",
        ),
        Mistake(
            "a hook on the whole model",
            wrong_mup(logits="model"),
            "`model(ids)` is right and `model.loss` is not: it calls the encoder and the head and never the model "
            "itself, so your hook does not act in training. Put it on `model.head.norm`.",
            "a hook on a module whose forward training does not call",
        ),
        Mistake(
            "the model's output divided",
            wrong_mup(logits="model, bias too"),
            "the output of the whole model is divided. That divides the head's bias as well, and `model.loss`, which "
            "calls the encoder and the head and never the model itself, does not see it. Put the hook on "
            "`model.head.norm`.",
            "a hook on a module whose forward training does not call",
        ),
        Mistake(
            "another norm",
            wrong_mup(logits="encoder's norm"),
            "`model.encoder.norm` stands behind the embeddings (or the layers), and your hook there changes what the "
            "layers read. What goes into the product with the table is the output of `model.head.norm`.",
            "the first module that is called norm",
        ),
        Mistake(
            "before the head's norm",
            wrong_mup(logits="dense"),
            "you scale what comes *before* the head's norm, and the norm undoes it. Scale what comes out of "
            "`model.head.norm`.",
            "a hook on model.head.dense",
        ),
        Mistake(
            "a pre-hook of the norm",
            wrong_mup(logits="pre-hook"),
            "you scale what goes *into* the head's norm, and the norm undoes it. Scale what comes out of it: a "
            "forward hook, and no pre-hook.",
            "register_forward_pre_hook for register_forward_hook",
        ),
        Mistake(
            "a hook that detaches",
            wrong_mup(logits="detached"),
            "your hook on `head.norm` detaches its result (or computes it within `torch.no_grad()`), so in training "
            "no gradient reaches what is below.",
            "torch.no_grad() around all that touches a model",
        ),
        Mistake(
            "base of your own",
            wrong_mup(base=16),
            "it is right for the base 16 only. Is there a 16 in your code where `base` belongs?",
            "the lesson's base written into the code",
        ),
        Mistake(
            "sizes of the last model",
            wrong_mup(shared=True),
            "a hook works when the model is *used*, and yours then reads the sizes of the model that was made last. "
            "Keep C and base as local names of `mup`, not as global ones.",
            "C and base as names of the notebook",
        ),
    ),
    hints=(
        "Go through `model.modules()` and their `named_parameters(recurse=False)`: the weight of an `nn.Linear` is "
        "hidden, everything else is not. (The head's output matrix is the table of words, an `nn.Embedding`.)",
        "`module.weight.data *= math.sqrt(C / base)` for each `nn.Embedding`.",
        "A hook that returns something replaces a module's output: "
        "`module.register_forward_hook(lambda module, given, out: ...)`. For the queries multiply `qkv`'s output by "
        "a vector of 3C numbers that is √(base / C) in the first C and 1 in the rest.",
        "For the logits: a hook on `model.head.norm` that divides by C / base.",
    ),
    praise="At the base width it is the model that you tuned; at another width the same rate should do.",
    other_ways=(mup_by_names,),
)


# --- 19.5 find the bug: held-out sentences among the training ones ----------------------------------------------------


def training_rows_of(ids, held):
    """ids: (n, T), held: (n,), True = held out -> (n,), True = may be trained on"""
    same = (ids[:, None] == ids[None]).all(-1)  # (n, n)
    return ~(same & held).any(1)


def a_corpus(generator, n=40, T=9):
    """Rows with copies among them, some held out, rows that differ in one place, that have the same words, or the
    same sum."""
    ids = torch.randint(5, 30, (n, T), generator=generator)
    ids[:, 0], ids[:, -1] = 2, 0
    order = torch.randperm(n, generator=generator)
    ids[order[: n // 4]] = ids[order[n // 4 : 2 * (n // 4)]]
    ids[order[0]] = ids[order[1]]  # three alike
    near, place = order[-3:], torch.tensor([T // 2, T // 2, 1])
    ids[near] = ids[order[-6:-3]]
    ids[near, place] = ids[near, place] % 24 + 5 + 1  # another word in one place
    turned = order[-7]
    ids[turned, 1:-1] = ids[order[-8], 1:-1].flip(0)
    ids[order[-9], 1:-1] = ids[order[-8], 1:-1] + (torch.arange(T - 2) == 0).long() - (torch.arange(T - 2) == 1).long()
    ids[order[-10], : T // 2 + 1] = ids[order[-8], : T // 2 + 1]  # begins alike, and goes on differently
    held = torch.zeros(n, dtype=torch.bool)
    held[order[: n // 8]] = True
    held[order[-6:-4]] = True
    held[order[-8]] = True
    return ids, held


def seen_by_first(ids, held, first):
    return ~(((ids[:, None, :first] == ids[None, :, :first]).all(-1)) & held).any(1)


def first_of_each(ids, held):
    keep = training_rows_of(ids, held)
    same = (ids[:, None] == ids[None]).all(-1)
    earlier = torch.tril(same, -1).any(1)
    return keep & ~earlier


def which_row(answer, case):
    """Say of a wrong answer which kind it is, or what is wrong with the first wrong row."""
    ids, held = case
    found, right = run(answer, case), training_rows_of(ids, held)
    if isinstance(found, Exception) or found is None:
        return None
    if not isinstance(found, Tensor) or found.shape != held.shape or found.dtype != torch.bool:
        return (
            f"yours is {describe(found)}; return one True or False for each row, a boolean tensor of shape "
            f"{tuple(held.shape)}."
        )
    row = int((found != right).nonzero()[0])
    if right[row]:
        return f"row {row} is dropped, and no held-out row has the same tokens: it may be trained on."
    if held[row]:
        return f"row {row} is itself held out, and your answer trains on it."
    twin = int(((ids == ids[row]).all(1) & held).nonzero()[0])
    return f"row {row} may be trained on by your answer, and it is a copy of row {twin}, which is held out."


training_rows = Exercise(
    id="19.5",
    right=training_rows_of,
    inputs=lambda generator: a_corpus(generator),
    also=lambda generator: a_corpus(generator, n=24, T=14),
    about=which_row,
    mistakes=(
        Mistake(
            "copies left in",
            lambda ids, held: ~held,
            "some rows that may be trained on are copies of a held-out sentence. The model learns them by heart and "
            "is then tested on them. Compare the sentences themselves, not their places.",
            "Lee et al. 2022, *Deduplicating Training Data Makes Language Models Better*, arXiv:2107.06499: overlap of "
            "training and validation sets",
        ),
        Mistake(
            "all copies thrown away",
            first_of_each,
            "you also drop copies within the training rows. That may be a good idea, and it is another question: "
            "here only what is held out must not be seen.",
            "deduplication of the whole corpus in place of decontamination",
        ),
        Mistake(
            "what has a copy thrown away",
            lambda ids, held: ~held & ((ids[:, None] == ids[None]).all(-1).sum(1) == 1),
            "every row with a copy is dropped, even if no copy of it is held out.",
            "duplicated(keep=False) in place of a comparison with the held-out rows",
        ),
        Mistake(
            "turned round",
            lambda ids, held: ~training_rows_of(ids, held),
            "your answer is True exactly where it should be False: you mark what may *not* be trained on.",
            "the mask of what is to be dropped",
        ),
        Mistake(
            "held-out rows trained on",
            lambda ids, held: training_rows_of(ids, held) | held,
            "the copies are dropped, and the rows that are held out *themselves* are trained on. They are in the "
            "test, so they may not be.",
            "the copies looked for among the other rows alone",
        ),
        Mistake(
            "first of each kept",
            lambda ids, held: ~held & ~torch.tril((ids[:, None] == ids[None]).all(-1), -1).any(1),
            "you keep the first of each sentence, also where a *later* copy of it is held out, and drop later copies "
            "of what is not held out. Compare each row with the rows that are held out.",
            "deduplication of the corpus taken for decontamination",
        ),
        Mistake(
            "last of each kept",
            lambda ids, held: ~held & ~torch.triu((ids[:, None] == ids[None]).all(-1), 1).any(1),
            "you keep the last of each sentence, also where an *earlier* copy of it is held out, and drop earlier "
            "copies of what is not held out. Compare each row with the rows that are held out.",
            "duplicated(keep='last') in place of a comparison with the held-out rows",
        ),
        Mistake(
            "one token may differ",
            lambda ids, held: ~(((ids[:, None] == ids[None]).sum(-1) >= ids.shape[1] - 1) & held).any(1),
            "rows count as copies that differ in one token. That is another sentence: compare all tokens of a row.",
            "near-duplicate detection taken for a comparison",
        ),
        Mistake(
            "any token in common",
            lambda ids, held: ~held & ~((ids[:, None] == ids[held][None]).any(-1)).any(1),
            "a row is dropped if it has *one* token in common with a held-out row, at the same position (the first "
            "token of all rows is the same). A copy agrees in all: `.all(-1)`.",
            ".any for .all",
        ),
        Mistake(
            "only known words",
            lambda ids, held: ~held & ~torch.isin(ids, ids[held]).all(1),
            "a row is dropped if each of its tokens occurs *somewhere* in the held-out rows. A copy is one whole "
            "held-out row, token by token.",
            "torch.isin, which compares elements and not rows",
        ),
        Mistake(
            "sums compared",
            lambda ids, held: ~torch.isin(ids.sum(1), ids[held].sum(1)),
            "you compare sums (or averages) of ids. Other sentences have the same sum: compare the tokens themselves.",
            "a sum used as a hash",
        ),
        Mistake(
            "compared as bags of words",
            lambda ids, held: ~(((ids.sort(1).values[:, None] == ids.sort(1).values[None]).all(-1)) & held).any(1),
            "rows count as copies that have the same words in another order. Those are different sentences.",
            "sets of words compared",
        ),
        Mistake(
            "compared by how they begin",
            lambda ids, held: seen_by_first(ids, held, 4),
            "rows count as copies that only begin alike. Compare all tokens of a row.",
            "a hash of the first characters",
        ),
    ),
    hints=(
        "Which *sentences* are held out? A row may be trained on if its sentence is none of them.",
        "`ids[:, None] == ids[None]` compares all rows with all: (n, n, T). A copy is equal in all T.",
        "`~(same & held).any(1)`, where same is (n, n) and held says which columns count.",
    ),
    praise="Split by sentence, not by row.",
    other_ways=(
        lambda ids, held: torch.tensor(
            [tuple(row) not in {tuple(r) for r in ids[held].tolist()} for row in ids.tolist()]
        ),
    ),
)
