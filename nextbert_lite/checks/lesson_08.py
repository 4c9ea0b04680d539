"""The checks of lesson 08, Larger models, more data."""

import copy
import math
from collections import Counter, defaultdict, namedtuple
from itertools import pairwise

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from nextbert_lite.checks.core import (
    Build,
    Exercise,
    Fault,
    Mistake,
    Prediction,
    Stage,
    comparable,
    describe,
    hint,
    mine,
    solution,
    untouched,
)

__all__ = ["best_step", "counting", "extrapolate", "hint", "mine", "solution", "training_work"]


# --- 08.1 what training costs -----------------------------------------------------------------------------------------


def a_shape(generator):
    layers, quarter, T, V = (int(torch.randint(2, 9, (), generator=generator)) for _ in range(4))
    rate = 0.1 + 0.4 * float(torch.rand((), generator=generator))
    return layers, 16 * quarter, 10 * T, 100 * V + 7, rate


def counted(layers, C, T, V, rate, passes=3, square=24, scores=4, dense=2, table=2, lookup=0):
    layer = square * C**2 + scores * T * C
    head = dense * C**2 + table * V * C
    return passes * (layers * layer + rate * head + lookup * V * C)


training_work = Exercise(
    id="08.1",
    right=counted,
    inputs=a_shape,
    reads=lambda operations: torch.as_tensor(operations, dtype=torch.float64),
    mistakes=(
        Mistake(
            "forward only",
            lambda *shape: counted(*shape, passes=1),
            "this is the forward pass alone. In the backward pass each product Y = XW needs two more: one for the "
            "gradient of X and one for that of W. That makes three in all.",
            "https://github.com/karpathy/nanoGPT/issues/322 (2N for the forward pass, 6N for training)",
        ),
        Mistake(
            "back counted once",
            lambda *shape: counted(*shape, passes=2),
            "the backward pass costs twice the forward pass, not once: one product for the gradient of X and one for "
            "that of W. That makes three in all.",
            "https://github.com/AI-Hypercomputer/torchprime/pull/49 (where the factor 3 comes from)",
        ),
        Mistake(
            "head on all tokens",
            lambda layers, C, T, V, rate: counted(layers, C, T, V, 1.0),
            "the head runs on all tokens here. It is needed for the selected ones only: `rate * head`.",
            "transformers' BertForMaskedLM runs its head on all positions, google-research/bert on the selected ones",
        ),
        Mistake(
            "head in each layer",
            lambda layers, C, T, V, rate: layers * counted(1, C, T, V, rate),
            "you multiply the head by the number of layers too. There is one head, behind the last layer.",
            "brackets: layers * (layer + rate * head)",
        ),
        Mistake(
            "multiply-add as one",
            lambda *shape: counted(*shape) / 2,
            "this is half: you count a multiplication and the addition after it as one operation. The lesson counts "
            "both (24 C² = 2 · 12 C²); many tools do not, and say FLOPs all the same.",
            "https://github.com/facebookresearch/fvcore/issues/69",
        ),
        Mistake(
            "half the attention",
            lambda *shape: counted(*shape, scores=2),
            "2 T C is one of attention's two products: the scores. The blend of the values is another 2 T C.",
            "https://github.com/karpathy/nanoGPT/issues/456",
        ),
        Mistake(
            "no attention",
            lambda *shape: counted(*shape, scores=0),
            "the term 4 T C is missing: scores and blends are products too, without weights of their own. The rule "
            "6ND, 'six operations for each weight', leaves them out.",
            "https://github.com/karpathy/nanoGPT/issues/322",
        ),
        Mistake(
            "dense layer forgotten",
            lambda *shape: counted(*shape, dense=0),
            "the head has a C × C matrix before it meets the words: 2 C² more for each selected token.",
            "BERT's head is dense, activation, norm, then the tied table (google-research/bert): easily taken for the "
            "table alone",
        ),
        Mistake(
            "look-up as a product",
            lambda *shape: counted(*shape, lookup=2),
            "you count 2 V C for the embedding of each token as well. Looking up a row multiplies nothing.",
            "https://github.com/pytorch/torchtitan/pull/280, https://github.com/huggingface/trl/pull/5698",
        ),
        Mistake(
            "the whole text",
            lambda layers, C, T, V, rate: T * counted(layers, C, T, V, rate),
            "this is the work for a whole text of T tokens. The exercise asks for *one* token on average: T enters in "
            "the term 4 T C alone, because one token is compared with all T.",
            "https://github.com/karpathy/nanoGPT/issues/322 (operations for a token and for a sequence)",
        ),
        Mistake(
            "head without a backward pass",
            lambda layers, C, T, V, rate: counted(layers, C, T, V, 0.0) + counted(0, C, T, V, rate, passes=1),
            "the layers are right. The head is counted in the forward pass alone: it has a backward pass too.",
            "brackets: 3 * layers * layer + rate * head",
        ),
        Mistake(
            "no head",
            lambda layers, C, T, V, rate: counted(layers, C, T, V, 0.0),
            "the head is missing: a proportion `rate` of the tokens goes through it, too.",
            "the layers of lesson 04 alone",
        ),
        Mistake(
            "multiplications alone in the head",
            lambda *shape: counted(*shape, dense=1, table=1),
            "the layers are right. In the head you count the multiplications alone: each has an addition, so a product "
            "of a vector with an m × n matrix is 2 m n operations.",
            "the number of weights taken for the number of operations",
        ),
        Mistake(
            "dense layer on all tokens",
            lambda layers, C, T, V, rate: counted(layers, C, T, V, rate, dense=0) + 3 * 2 * C**2,
            "the C × C matrix of the head is applied to all tokens. Only the selected ones go through the head, so "
            "`rate` belongs to both of its products.",
            "brackets: dense + rate * table",
        ),
        Mistake(
            "rate on everything",
            lambda layers, C, T, V, rate: rate * counted(layers, C, T, V, 1.0),
            "`rate` multiplies the layers too. All tokens go through the layers, and only the selected ones through "
            "the head.",
            "brackets: rate * (layers + head)",
        ),
        Mistake(
            "6ND with the table",
            lambda layers, C, T, V, rate: 6 * (layers * 12 * C**2 + V * C),
            "this is the rule 6ND, with the embedding table among the N weights. It leaves out the products of "
            "attention and compares *every* token with the table: count the products instead.",
            "arXiv:2001.08361: 6N operations for each token",
        ),
        Mistake(
            "6ND without the table",
            lambda layers, C, T, V, rate: 6 * layers * 12 * C**2,
            "this is the rule 6ND for the weights of the layers. It leaves out the products of attention and the head.",
            "arXiv:2001.08361: 6N operations for each token",
        ),
        Mistake(
            "T squared",
            lambda layers, C, T, V, rate: counted(layers, C, T * T, V, rate),
            "the term of attention has a T too many. *One* token is compared with T others: 4 T C.",
            "the T² of a whole text carried over to one token",
        ),
        Mistake(
            "four times forward",
            lambda *shape: counted(*shape, passes=4),
            "this is four times the forward pass. Forward once and backward twice as much make three.",
            "two products each, in both directions",
        ),
        Mistake(
            "five times forward",
            lambda *shape: counted(*shape, passes=5),
            "this is five times the forward pass. The backward pass costs twice the forward pass, not four times: two "
            "products of the same size for each one.",
            "a multiplication and an addition counted once more",
        ),
        Mistake(
            "always 15 %",
            lambda layers, C, T, V, rate: counted(layers, C, T, V, 0.15),
            "you take 15 % of the tokens whatever `rate` is: use the argument.",
            "BERT's proportion written into the function",
        ),
    ),
    hints=(
        "The forward pass for one token: all layers, and a proportion `rate` of a head: 2 C² for its matrix, 2 V C for "
        "the comparison with V words.",
        "The backward pass makes two products for each one of the forward pass, so training costs three times as much.",
        "`3 * (layers * (24 * C**2 + 4 * T * C) + rate * (2 * C**2 + 2 * V * C))`",
    ),
    praise="Three times the forward pass, and the head only where it is needed.",
    other_ways=(
        lambda L, C, T, V, r: 6 * (L * (12 * C * C + 2 * T * C) + r * C * (C + V)),
        lambda L, C, T, V, r: sum(3 * (24 * C**2 + 4 * T * C) for _ in range(L)) + 3 * r * (2 * C**2 + 2 * V * C),
    ),
)

# --- 08.2 predict the best step ---------------------------------------------------------------------------------------

RUN = 1150.0  # steps


class OfTheRun(Prediction):
    """The prediction of a step: all that lies clearly behind the end of the run is one mistake."""

    def matches(self, guess, value):
        if not isinstance(value, float) or value <= RUN + self.tolerance:
            return super().matches(guess, value)
        return comparable(guess, value) and float(guess) > RUN + self.tolerance


best_step = OfTheRun(
    id="08.2",
    right=150.0,
    tolerance=75.0,
    mistakes=(
        Mistake(
            "the end",
            RUN,
            "training loss is least at the end, and this asks for the excess on *new* sentences. A batch has 64 of the "
            "100 sentences: how often has the model seen each of them by then?",
            "the loss of the training data taken for that of the language",
        ),
        Mistake(
            "the middle",
            575.0,
            "by the middle of the run the model has seen each sentence 368 times. It began to learn them by heart long "
            "before.",
            "a guess without an estimate",
        ),
        Mistake(
            "one epoch",
            2,
            "after two steps the model has seen each sentence about once, but so far it has learned almost nothing: "
            "the learning rate is still in its warm-up. Repeats are useful for a while.",
            "the rule of a single epoch of large language models, carried over",
        ),
        Mistake(
            "four epochs",
            6,
            "four epochs are six steps here, and the warm-up alone has a hundred. The rule of four epochs (Muennighoff "
            "et al. 2023) says how long a repeat is worth as much as new text, not when the loss begins to rise.",
            "arXiv:2305.16264: a finding on billions of tokens, carried over",
        ),
        Mistake(
            "within the warm-up",
            70.0,
            "too early: the warm-up alone has a hundred steps, and while the learning rate is still small the model "
            "learns little, neither the language nor the 100 sentences.",
            "an estimate from the number of epochs, without the learning rate",
        ),
        Mistake(
            "a quarter of the run",
            300.0,
            "too late: by step 300 the model has seen each of the 100 sentences 192 times, and the excess has been "
            "rising for a while.",
            "a guess without an estimate",
        ),
        Mistake(
            "before the middle",
            450.0,
            "much too late: by step 450 the model has seen each of the 100 sentences 288 times, and the excess began "
            "to rise long before.",
            "a guess without an estimate",
        ),
        Mistake(
            "after the end",
            9600.0,
            "the run ends after 1,150 steps: give a step between 0 and 1,150, not a number of sentences.",
            "150 steps of 64 sentences, in sentences",
        ),
    ),
    hints=(
        "A step reads 64 sentences. How often has the model seen each of the 100 sentences when the warm-up of 100 "
        "steps ends?",
        "The excess begins to rise soon after the warm-up.",
    ),
    praise="About a hundred epochs; after that the model learns the 100 sentences, and no longer the language.",
)

# --- 08.3 find the bug: a line through the loss, not through the excess -----------------------------------------------


def a_power_law(generator):
    floor, a, b = (0.3 + float(torch.rand((), generator=generator)) for _ in range(3))
    x = torch.tensor([100.0, 200.0, 400.0, 800.0], dtype=torch.float64)
    noise = (0.1 * torch.randn(4, generator=generator, dtype=torch.float64)).exp()
    return x, floor + 20 * a * x**-b * noise, floor, 2000.0


def fewer_points(generator):
    x, losses, floor, _ = a_power_law(generator)
    return x[1:], losses[1:], floor, 3000.0


def through(x, y, at):
    """Return the value at `at` of the least-squares line through the points."""
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return y.mean() + slope * (at - x.mean())


def right_extrapolation(x, losses, floor, at):
    return floor + through(x.log(), (losses - floor).log(), math.log(at)).exp()


def from_the_ends(x, losses, floor, at):
    return right_extrapolation(x[[0, -1]], losses[[0, -1]], floor, at)


def parts_of(x, losses, floor):
    """Return the logarithms of x and of the excess, and the slope of the line through them."""
    log_x, log_y = x.log(), (losses - floor).log()
    slope = ((log_x - log_x.mean()) * (log_y - log_y.mean())).sum() / ((log_x - log_x.mean()) ** 2).sum()
    return log_x, log_y, slope


def at_the_mean_of_x(x, losses, floor, at):
    _, log_y, slope = parts_of(x, losses, floor)
    return floor + (log_y.mean() + slope * math.log(at / x.mean())).exp()


def through_the_last_point(x, losses, floor, at):
    log_x, log_y, slope = parts_of(x, losses, floor)
    return floor + (log_y[-1] + slope * (math.log(at) - log_x[-1])).exp()


def through_the_origin(x, losses, floor, at):
    log_x, log_y, _ = parts_of(x, losses, floor)
    return floor + ((log_x * log_y).sum() / (log_x**2).sum() * math.log(at)).exp()


extrapolate = Exercise(
    id="08.3",
    right=right_extrapolation,
    inputs=a_power_law,
    also=fewer_points,
    reads=lambda loss: loss.reshape(()) if isinstance(loss, torch.Tensor) and loss.numel() == 1 else loss,
    closed=True,
    mistakes=(
        Mistake(
            "the bug as it was",
            lambda x, losses, floor, at: through(x.log(), losses.log(), math.log(at)).exp(),
            "the bug is still there: the line goes through the logarithm of the *loss*, so it falls to 0 in the end, "
            "through the floor. What shrinks to 0 is the excess: take (losses - floor).log(), and add the floor again.",
            "arXiv:2302.09049: a power law of the loss, extrapolated literally, says that language has entropy 0",
        ),
        Mistake(
            "floor not added",
            lambda x, losses, floor, at: through(x.log(), (losses - floor).log(), math.log(at)).exp(),
            "this is the excess at that point. The loss is the excess plus the floor.",
            "the floor subtracted before the fit and forgotten after it",
        ),
        Mistake(
            "only one axis logarithmic",
            lambda x, losses, floor, at: floor + through(x, (losses - floor).log(), at).exp(),
            "x is not logarithmic: this fits excess = a · exp(-b x), which vanishes far too fast. A power law needs "
            "the logarithm of both.",
            "exponential and power law confused: semilogy in place of loglog",
        ),
        Mistake(
            "a line through the excess itself",
            lambda x, losses, floor, at: through(x, losses, at),
            "this is a straight line in x and loss without logarithms: far out it goes below 0.",
            "linear regression on the raw points",
        ),
        Mistake(
            "the first and the last point",
            from_the_ends,
            "your line goes through the first and the last point only. With noise in them it is a worse guess than the "
            "least-squares line through all.",
            "a slope read off a picture by its two ends",
        ),
        Mistake(
            "10 and e mixed",
            lambda x, losses, floor, at: floor + through(x.log10(), (losses - floor).log10(), math.log10(at)).exp(),
            "log10 on the way in, exp on the way out: exp undoes log, 10 ** undoes log10.",
            "numpy and torch call the natural logarithm log, calculators log10",
        ),
        Mistake(
            "cut off at the floor",
            lambda x, losses, floor, at: through(x.log(), losses.log(), math.log(at)).exp().clamp(min=floor),
            "you cut the result off at the floor, but the line still goes through the logarithm of the *loss*. "
            "Before it "
            "is cut off it comes too low, too. What shrinks to 0 is the excess: fit that.",
            "the first repair of a prediction below the floor that comes to mind",
        ),
        Mistake(
            "floor only added",
            lambda x, losses, floor, at: floor + through(x.log(), losses.log(), math.log(at)).exp(),
            "you add the floor to a line that was fitted to the whole loss. Subtract it *before* the logarithm.",
            "half of the repair",
        ),
        Mistake(
            "no exp",
            lambda x, losses, floor, at: floor + through(x.log(), (losses - floor).log(), math.log(at)),
            "the line gives the *logarithm* of the excess: take exp of it before you add the floor.",
            "a logarithm that is not undone",
        ),
        Mistake(
            "logarithm of the mean",
            at_the_mean_of_x,
            "the line goes through the mean of the logarithms, `x.log().mean()`. You use the logarithm of the mean, "
            "which "
            "is larger.",
            "log and mean exchanged",
        ),
        Mistake(
            "logarithms subtracted",
            lambda x, losses, floor, at: floor + through(x.log(), (losses / floor).log(), math.log(at)).exp(),
            "log(loss) - log(floor) is the logarithm of a *ratio*. The excess is a difference: (losses - floor).log().",
            "the rules of logarithms mixed up",
        ),
        Mistake(
            "sign of the exponent",
            lambda x, losses, floor, at: floor + through(x.log(), (losses - floor).log(), -math.log(at)).exp(),
            "the excess grows with x here: the sign of the exponent is wrong. `fit_power` returns b for n ** -b.",
            "a * at ** b with the b of `fit_power`",
        ),
        Mistake(
            "no intercept",
            through_the_origin,
            "your line goes through the origin. It has an intercept too, log a: use the means of both logarithms.",
            "a slope without centring",
        ),
        Mistake(
            "the excess itself over log x",
            lambda x, losses, floor, at: through(x.log(), losses, math.log(at)),
            "only x is logarithmic, so the excess is a straight line and goes below 0. A power law needs the logarithm "
            "of both.",
            "exponential and power law confused: semilogx in place of loglog",
        ),
        Mistake(
            "through the last point",
            through_the_last_point,
            "the slope is right, but your line goes through the last point. The least-squares line goes through the "
            "point of the means.",
            "the point next to the goal taken as the start",
        ),
        Mistake(
            "the last three points",
            lambda x, losses, floor, at: right_extrapolation(x[-3:], losses[-3:], floor, at),
            "your line goes through the last three points only: use all of them.",
            "the early points taken for untypical",
        ),
        Mistake(
            "the last two points",
            lambda x, losses, floor, at: right_extrapolation(x[-2:], losses[-2:], floor, at),
            "your line goes through the last two points only. With noise in them it is a worse guess than the "
            "least-squares line through all.",
            "a slope read off the end of a curve",
        ),
    ),
    hints=(
        "Where does the curve go for x → ∞? A line in the logarithm of y goes to y = 0.",
        "Which quantity goes to 0? Fit that one.",
        "`log_y = (losses - floor).log()`, and `floor + torch.exp(…)` at the end.",
    ),
    praise="The excess follows the line, the loss stops at the floor.",
    other_ways=(
        lambda x, losses, floor, at: right_extrapolation(x, losses, floor, at).reshape(1),
        lambda x, y, f, at: f + np.exp(np.polyval(np.polyfit(x.log().numpy(), (y - f).log().numpy(), 1), math.log(at))),
        lambda x, y, f, at: float(
            f + 10 ** np.polyval(np.polyfit(x.log10().numpy(), (y - f).log10().numpy(), 1), math.log10(at))
        ),
    ),
)

# --- the build: CountingModel -----------------------------------------------------------------------------------------


class CountingModel:
    """Predicts a hidden token from its two neighbours, by counting what stood beside them in the training texts."""

    def __init__(self, V, k=100.0, k3=10.0):
        self.V, self.k, self.k3 = V, k, k3

    def fit(self, texts):
        """texts: lists of token ids, each in 0 … V - 1 -> this model; what an earlier `fit` counted is gone."""
        keys = [i * self.V + j for text in texts for i, j in pairwise(text)]
        counts = torch.bincount(torch.tensor(keys, dtype=torch.long), minlength=self.V**2)
        self.pairs = counts.view(self.V, self.V).float()
        self.triples = defaultdict(Counter)
        for text in texts:
            for i, j, l in zip(text, text[1:], text[2:], strict=False):
                self.triples[i, l][j] += 1
        after = self.pairs.sum(0) + 1
        self.frequencies = after / after.sum()
        return self

    def left(self, before):
        """before: (n,) -> P(j | before): (n, V)"""
        seen = self.pairs[before]
        return (seen + self.k * self.frequencies) / (seen.sum(1, keepdim=True) + self.k)

    def both(self, before, after):
        """before, after: (n,) -> P(j | before, after) if the language were a chain of pairs: (n, V)"""
        seen = self.pairs[:, after].T + self.k * self.frequencies[after][:, None]
        right = seen / (self.pairs.sum(1) + self.k)  # P(after | j)
        product = self.left(before) * right
        return product / product.sum(1, keepdim=True)

    def probabilities(self, before, after):
        """before, after: (n,) -> P(j | before, after), with the triples: (n, V)"""
        mixed = self.k3 * self.both(before, after)
        for row, key in zip(mixed, zip(before.tolist(), after.tolist(), strict=True), strict=True):
            if key in self.triples:
                counts = self.triples[key]
                row[list(counts)] += torch.tensor(list(counts.values()), dtype=row.dtype)
        return mixed / mixed.sum(1, keepdim=True)


WORDS = 7  # token 6 is never drawn, token 5 is only ever the last of a text


def some_texts(generator, V=WORDS, n=6):
    """Texts of 3 to 9 tokens in which pairs and triples repeat; borders between texts matter."""
    lengths = torch.randint(3, 10, (n,), generator=generator).tolist()
    texts = [torch.randint(V - 2, (length,), generator=generator).tolist() for length in lengths]
    return [[*text, V - 2] for text in texts] + [texts[0]]


def contexts(generator, V=WORDS, n=WORDS):
    return tuple(torch.randint(V - 2, (n,), generator=generator) for _ in range(2))


def fitted(answer, generator, V=WORDS, k=2.5, k3=1.5):
    return answer(V, k, k3).fit(some_texts(generator, V))


def spelled(triples, V):
    """Return a table of triples as a tensor, [i, l, j], whatever kind of dictionaries it has."""
    table = torch.zeros(V, V, V)
    fault = "`triples` should be a dictionary of dictionaries: triples[i, l] is a dictionary, {j: count}"
    if not isinstance(triples, dict):
        raise Fault(f"{fault}; yours is {describe(triples)}.")
    for key, counts in triples.items():
        if not isinstance(key, tuple) or len(key) != 2:
            raise Fault(f"{fault}. Yours has the key {key!r}.")
        if not isinstance(counts, dict):
            raise Fault(f"{fault}. Yours holds {describe(counts)} at {key!r}.")
        for j, n in counts.items():
            table[int(key[0]), int(key[1]), int(j)] += float(n)
    return table


def asked(model, method, *tokens):
    """Return what a method gives for these tokens; Fault if it changes them or what was counted, or for its shape."""
    before = model.pairs.clone(), model.frequencies.clone(), spelled(model.triples, model.V)
    found = untouched(getattr(model, method), *tokens)
    after = model.pairs, model.frequencies, spelled(model.triples, model.V)
    for name, old, new in zip(("pairs", "frequencies", "triples"), before, after, strict=True):
        if not torch.equal(old, new):
            how = "`x = x + y` makes a new tensor, `x += y` changes the one that is stored."
            how = "Store nothing in its dictionaries." if name == "triples" else how
            raise Fault(f"`{method}` changes `{name}`: asking should leave what was counted as it is. {how}")
    wanted = (len(tokens[0]), model.V)
    if isinstance(found, torch.Tensor) and tuple(found.shape) != wanted:
        contexts_asked = "1 context" if wanted[0] == 1 else f"{wanted[0]} contexts"
        raise Fault(f"for {contexts_asked} `{method}` gives the shape {tuple(found.shape)}; expected {wanted}.")
    return found


def pairs_counted(answer, generator):
    model = answer(WORDS, 2.5, 1.5)
    result = untouched(model.fit, some_texts(generator))
    if result is not model:
        raise Fault(f"`fit` returns {describe(result)}; it should return the model itself, `return self`.")
    shape = tuple(model.pairs.shape) if isinstance(model.pairs, torch.Tensor) else None
    if shape is not None and shape != (WORDS, WORDS):
        raise Fault(
            f"`pairs` has the shape {shape}; expected (V, V), here {WORDS, WORDS}. V is the number that the model was "
            "made with, `self.V`: not the V of the notebook, and not the number of tokens that happen to come up."
        )
    return model.pairs


def triples_counted(answer, generator):
    return spelled(fitted(answer, generator).triples, WORDS)


FromTheLeft = namedtuple("FromTheLeft", "frequencies left left_of_a_token_that_nothing_came_after")


def from_the_left(answer, generator):
    model = fitted(answer, generator)
    total = float(model.frequencies.sum()) if isinstance(model.frequencies, torch.Tensor) else 1.0
    if abs(total - 1) > 1e-3:
        raise Fault(
            f"`frequencies` sums to {total:.3f}, not to 1: add 1 to each column sum first, then divide by the total of "
            "what you have."
        )
    frequencies = model.frequencies.clone()
    before, _ = contexts(generator)
    return FromTheLeft(frequencies, asked(model, "left", before), asked(model, "left", torch.tensor([WORDS - 2])))


def from_both_sides(answer, generator):
    return asked(fitted(answer, generator), "both", *contexts(generator))


def with_triples(answer, generator):
    return asked(fitted(answer, generator), "probabilities", *contexts(generator))


NeverSeen = namedtuple("NeverSeen", "left both probabilities triples")


def never_seen(answer, generator):
    model = fitted(answer, generator)
    size = len(model.triples)
    unseen, seen = torch.tensor([WORDS - 1, 0, WORDS - 2]), torch.tensor([0, WORDS - 1, WORDS - 1])
    found = (
        asked(model, "left", unseen),
        asked(model, "both", unseen, seen),
        asked(model, "probabilities", unseen, seen),
    )
    grown = len(model.triples) - size
    return NeverSeen(*found, f"{grown} entries more after asking" if grown else "no entry more after asking")


FittedAgain = namedtuple("FittedAgain", "probabilities pairs_of_short_texts triples_of_short_texts then_probabilities")


def fitted_again(answer, generator):
    model = fitted(answer, generator)
    texts = some_texts(generator)
    model.fit(copy.deepcopy(texts))
    both = model.probabilities(*contexts(generator))
    try:
        model.fit([[], [3], [1, 2]])  # texts too short for a triple, or a pair
    except Exception as error:  # noqa: BLE001 - a learner's code may raise anything; the fault reports it
        raise Fault(
            "a text may be empty or have one token only, and your `fit` fails on such a text "
            f"({type(error).__name__}: {str(error).rstrip('.')})."
        ) from None
    probabilities = model.probabilities(*contexts(generator))
    return FittedAgain(both, model.pairs, spelled(model.triples, WORDS), probabilities)


class Calls(TorchFunctionMode):
    """Counts what is called of torch."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.number += 1
        return function(*args, **(kwargs or {}))


def calls(model, method, *tokens):
    """Return how many operations of torch a method makes."""
    with Calls() as counted_calls:
        getattr(model, method)(*tokens)
    return counted_calls.number


def without_loops(answer, generator):
    """Fault if `left` or `both` makes more operations for more contexts, or any method for a larger vocabulary."""
    texts = some_texts(generator, 11)
    few, many = (answer(V, 2.0, 1.0).fit(copy.deepcopy(texts)) for V in (11, 41))
    one = contexts(generator, 11, 3)
    for method in ("left", "both", "probabilities"):
        n = 1 if method == "left" else 2
        if calls(many, method, *one[:n]) > calls(few, method, *one[:n]) + 15:
            raise Fault(
                f"the results are right, but `{method}` loops over the V tokens of the vocabulary: it makes more "
                "operations the larger V is. Index whole rows and columns at once."
            )
        more = [tokens.repeat(10) for tokens in one[:n]]
        if method != "probabilities" and calls(few, method, *more) > calls(few, method, *one[:n]) + 15:
            raise Fault(
                f"the results are right, but `{method}` loops over the contexts. The lesson asks it for many "
                f"thousands: "
                "take all rows or columns at once, `pairs[before]` and `pairs[:, after].T`."
            )


OtherWords = namedtuple("OtherWords", "pairs left both probabilities both_with_a_new_k probabilities_with_a_new_k3")


def other_words(answer, generator):
    texts = some_texts(generator, 11)
    model = answer(11, 0.5, 4.0).fit(copy.deepcopy(texts))
    before, after = contexts(generator, 11, 3)
    before[0], after[0] = texts[0][0], texts[0][2]  # a context that was seen
    for method, tokens in {"left": (before,), "both": (before, after), "probabilities": (before, after)}.items():
        asked(model, method, *(t[:1] for t in tokens))
    old_left, old_both = asked(model, "left", before), asked(model, "both", before, after)
    old = asked(model, "probabilities", before, after)
    model.k = 2.0  # from now on
    for method, was, tokens in (("left", old_left, (before,)), ("both", old_both, (before, after))):
        if torch.allclose(asked(model, method, *tokens), was):
            raise Fault(
                f"`k` was changed after `fit`, and `{method}` still uses the old one: read self.k when you are "
                f"asked, not "
                "in `fit` or `__init__`."
            )
    new_both, between = asked(model, "both", before, after), asked(model, "probabilities", before, after)
    model.k3 = 0.7
    new = asked(model, "probabilities", before, after)
    if torch.allclose(new, between):
        raise Fault(
            "`k3` was changed after `fit`, and `probabilities` still uses the old one: read self.k3 when you are asked."
        )
    without_loops(answer, generator)
    return OtherWords(model.pairs, old_left, old_both, old, new_both, new)


class Wrong(CountingModel):
    """CountingModel as a learner may write it; its switches are the mistakes."""

    borders, turned, once, key, triple_borders, adds_up, silent = True, False, False, "around", True, False, False
    trims, both_ways, triple_once = "nothing", False, False
    of, added, smoothing, keeps, n_of = 0, 1, "frequencies", True, "pairs"
    right, joined, normalised, least = "chain", "product", True, 0
    mixing, weight, divisor, looks = "counts", "k3", "sum", "in"

    def fit(self, texts):
        old = (self.pairs, self.triples) if self.adds_up and hasattr(self, "pairs") else None
        whole = [[token for text in texts for token in text]]
        trimmed = {
            "nothing": texts,
            "ends": [text[1:-1] for text in texts],
            "last": [text[:-1] for text in texts],
        }[self.trims]
        super().fit(trimmed if self.borders else whole)
        if self.once:
            self.pairs = (self.pairs > 0).float()
        if self.turned:
            self.pairs = self.pairs.T.contiguous()
        if self.both_ways:
            self.pairs = self.pairs + self.pairs.T
        if self.key != "around" or not self.triple_borders:
            self.triples = defaultdict(Counter)
            for text in texts if self.triple_borders else whole:
                for i, j, l in zip(text, text[1:], text[2:], strict=False):
                    if self.key == "before":
                        self.triples[i, j][l] += 1
                    elif self.key == "turned":
                        self.triples[l, i][j] += 1
                    else:
                        self.triples[i, l][j] += 1
        if self.triple_once:
            self.triples = {key: dict.fromkeys(counts, 1) for key, counts in self.triples.items()}
        if old:
            self.pairs = self.pairs + old[0]
            for key, counts in old[1].items():
                self.triples[key] += counts
        every = Counter(token for text in texts for token in text)
        self.tokens = torch.tensor([float(every[j]) for j in range(self.V)])
        if self.of == "all":
            after = self.tokens + self.added
        elif self.of == "cells":
            after = (self.pairs + 1).sum(0)
        else:
            after = self.pairs.sum(self.of) + self.added
        self.frequencies = after / after.sum()
        return None if self.silent else self

    def left(self, before):
        seen = self.pairs[before]
        n = seen.sum(1, keepdim=self.keeps)
        if self.n_of == "all":
            n = self.tokens[before][:, None]
        if self.n_of == "kinds":
            n = (seen > 0).sum(1, keepdim=True)
        if self.smoothing == "each":
            return (seen + self.k) / (n + self.k * self.V)
        if self.smoothing == "nothing":
            return seen / n
        if self.smoothing == "no k below":
            return (seen + self.k * self.frequencies) / n
        if self.smoothing == "proportions":
            return n / (n + self.k) * (seen / n) + self.k / (n + self.k) * self.frequencies
        k = 100.0 if self.smoothing == "k written in" else self.k
        found = (seen + k * self.frequencies) / (n + k)
        if self.smoothing in ("uniform", "zeros"):
            found[n[:, 0] == 0] = 1 / self.V if self.smoothing == "uniform" else 0.0
        return found

    def both(self, before, after):
        below = self.pairs.sum(1) + self.k
        if self.right == "turned":  # P(j | after) as if the text ran on from it
            right = CountingModel.left(self, after)
        elif self.right == "backwards":  # P(j comes before `after`)
            seen = self.pairs[:, after].T
            before_it = self.pairs.sum(1) + 1
            right = (seen + self.k * before_it / before_it.sum()) / (seen.sum(1, keepdim=True) + self.k)
        elif self.right == "unsmoothed":
            right = self.pairs[:, after].T / self.pairs.sum(1).clamp(min=self.least)
        elif self.right == "counts":
            right = self.pairs[:, after].T + self.k * self.frequencies[after][:, None]
        elif self.right == "smoothed by j":
            right = (self.pairs[:, after].T + self.k * self.frequencies) / below
        else:
            right = (self.pairs[:, after].T + self.k * self.frequencies[after][:, None]) / below
        left = self.left(before)
        if self.joined == "left unsmoothed":
            left = self.pairs[before] / self.pairs[before].sum(1, keepdim=True).clamp(min=1)
        joint = left + right if self.joined == "sum" else left if self.joined == "left alone" else left * right
        if self.joined == "over frequencies":
            joint = joint / self.frequencies
        total = joint.sum(0 if self.normalised == "columns" else 1, keepdim=True)
        if self.right == "unsmoothed" and self.least:  # somebody who guards one division guards both
            total = total.clamp(min=1e-9)
        return joint / total if self.normalised else joint

    def probabilities(self, before, after):
        weight = {"k3": self.k3, "k": self.k}.get(self.weight, self.weight)
        mixed = weight * self.both(before, after)
        n = torch.zeros(len(mixed), 1)
        for number, key in enumerate(zip(before.tolist(), after.tolist(), strict=True)):
            row = mixed[number]
            if self.looks == "index" or key in self.triples:
                counts = self.triples[key]
                new = torch.tensor(list(counts.values()), dtype=row.dtype)
                n[number] = new.sum()
                if self.mixing == "alone" and counts:
                    row.zero_()
                if self.mixing == "proportions":
                    new = new / new.sum()
                if self.mixing != "none":
                    row[list(counts)] += new
            elif self.mixing == "frequencies":
                row.copy_(self.frequencies)
        if self.divisor == "n":
            return mixed / n.clamp(min=1)
        if self.divisor == "n + k":
            return mixed / (n + self.k)
        if self.divisor == "pairs":
            return mixed / (self.pairs[before, after] + self.k3)[:, None]
        return mixed / mixed.sum(1, keepdim=True) if self.divisor == "sum" else mixed


def wrong(**switches):
    return type("CountingModel", (Wrong,), switches)


class ByLoops:
    """Another way: dictionaries and loops in `fit`, logarithms in `both`, one row after the other at the end."""

    def __init__(self, V, k=100.0, k3=10.0):
        self.V, self.k, self.k3 = V, k, k3

    def fit(self, texts):
        self.pairs, self.triples = torch.zeros(self.V, self.V), {}
        for text in texts:
            for place in range(1, len(text)):
                self.pairs[text[place - 1], text[place]] += 1
            for place in range(1, len(text) - 1):
                counts = self.triples.setdefault((text[place - 1], text[place + 1]), {})
                counts[text[place]] = counts.get(text[place], 0) + 1
        self.frequencies = (self.pairs.sum(0) + 1) / (self.pairs.sum() + self.V)
        return self

    def left(self, before):
        rows = self.pairs.index_select(0, before) + self.k * self.frequencies
        return rows / rows.sum(1, keepdim=True)

    def both(self, before, after):
        every = self.left(torch.arange(self.V))
        return (every[before].log() + every.T[after].log()).softmax(1)

    def probabilities(self, before, after):
        rows = []
        for p, i, l in zip(self.both(before, after), before.tolist(), after.tolist(), strict=True):
            seen = self.triples.get((i, l), {})
            row, total = self.k3 * p, self.k3 + sum(seen.values())
            for j, n in seen.items():
                row[j] += n
            rows.append(row / total)
        return torch.stack(rows)


class ByBins(CountingModel):
    """Another way: `left` as a mixture of proportions, and the whole table made whenever it is asked."""

    def left(self, before):
        return self.table()[before]

    def table(self):
        n = self.pairs.sum(1, keepdim=True)
        held = self.k / (n + self.k)
        return (1 - held) * self.pairs / n.clamp(min=1) + held * self.frequencies

    def both(self, before, after):
        return torch.nn.functional.normalize(self.left(before) * self.table()[:, after].T, p=1, dim=1)


counting = Build(
    id="08.4",
    course=CountingModel,
    stages=(
        Stage("pairs", pairs_counted),
        Stage("triples", triples_counted),
        Stage("from the left", from_the_left),
        Stage("from both sides", from_both_sides),
        Stage("with the triples", with_triples),
        Stage("never seen", never_seen),
        Stage("fitted again", fitted_again),
        Stage("other sizes", other_words),
    ),
    mistakes=(
        Mistake(
            "across the borders",
            wrong(borders=False),
            "the last token of a text and the first of the next one are counted as a pair. They are not neighbours: "
            "count within each text.",
            "the first edition of this lesson made one stream of all texts and had to mend the counts afterwards",
        ),
        Mistake(
            "before and after exchanged",
            wrong(turned=True),
            "`pairs` is transposed: [i, j] should say how often j came right *after* i.",
            "the two axes of a table of pairs exchanged",
        ),
        Mistake(
            "each pair once",
            wrong(once=True),
            "each different pair counts once. If a pair comes up five times, its cell is 5. (`pairs[i, j] += 1` with "
            "tensors of indices adds only once for indices that repeat: use bincount, a loop, or "
            "`index_put_(…, accumulate=True)`.)",
            "numpy's documentation of ufunc.at and torch's of index_put_ (accumulate)",
        ),
        Mistake(
            "fit returns nothing",
            wrong(silent=True),
            "`fit` returns nothing: end it with `return self`, so that you can write `CountingModel(V).fit(texts)`.",
            "a method without return; scikit-learn's fit returns the estimator",
        ),
        Mistake(
            "the third token predicted",
            wrong(key="before"),
            "your triples say which token came after two others, as in a trigram model that writes from left to right. "
            "Here the token in the *middle* is hidden: the key is (token before, token after).",
            "trigram models of the usual kind",
        ),
        Mistake(
            "triples across the borders",
            wrong(triple_borders=False),
            "the pairs stay within their texts, but the triples run from the end of one text into the next.",
            "a second loop over a stream of all texts",
        ),
        Mistake(
            "frequencies of the token before",
            wrong(of=1),
            "the frequencies are those of the tokens that come *before*: you summed the rows. `pairs.sum(0)` sums over "
            "i and leaves j.",
            "the two axes of a table of pairs exchanged",
        ),
        Mistake(
            "frequencies of all tokens",
            wrong(of="all"),
            "your frequencies count the first token of each text too, and nothing comes before it. They are the column "
            "sums of `pairs`: how often a token came *after* another one.",
            "the usual unigram counts: every token of the text",
        ),
        Mistake(
            "nothing added to the frequencies",
            wrong(added=0),
            "a token that never came has frequency 0 and could never be predicted: add 1 to each column sum before you "
            "divide.",
            "https://github.com/nltk/nltk/issues/602 (what is left for unseen events)",
        ),
        Mistake(
            "pairs alone",
            wrong(smoothing="nothing"),
            "the frequencies are not mixed in: pairs that did not come up get probability 0, and a token that nothing "
            "came after gives 0 / 0 = NaN.",
            "https://github.com/nltk/nltk/issues/2332",
        ),
        Mistake(
            "add-k",
            wrong(smoothing="each"),
            "this is add-k smoothing: k is added to each cell, so the probability that is held back is distributed "
            "*equally*. Distribute k by the frequencies: then an unseen pair with a frequent token is likelier than "
            "one "
            "with a rare one.",
            "NLTK's Lidstone estimator, where an interpolation was wanted (https://github.com/nltk/nltk/issues/380)",
        ),
        Mistake(
            "keepdim forgotten",
            wrong(keeps=False),
            "the rows' sums have the shape (n,), and torch lines them up with the columns: the rows do not sum to 1. "
            "Keep the dimension: sum(1, keepdim=True).",
            "broadcasting, as in exercise 02.1",
        ),
        Mistake(
            "the text runs on from the right neighbour",
            wrong(right="turned"),
            "you multiply by P(j | after), as if j came after the right neighbour. It comes before it: the factor is "
            "P(after | j), a column of the table.",
            "the row in place of the column",
        ),
        Mistake(
            "conditioned on the right neighbour",
            wrong(right="backwards"),
            "you multiply P(j | before) by the probability of j *given* the token after it. That counts twice how "
            "frequent j is. By Bayes' rule the factor is P(after | j): divide column `after` by what came after j, "
            "n_j + k.",
            "two predictors multiplied without Bayes' rule (product of experts)",
        ),
        Mistake(
            "the right side not smoothed",
            wrong(right="unsmoothed", least=1),
            "the factor from the right, P(l | j), is not smoothed, so a pair (j, l) that did not come up rules j out, "
            "whatever the left says. Smooth it as in `left`: add k · u_l to the count and k to n_j.",
            "`left` smoothed, the second factor taken straight from the table",
        ),
        Mistake(
            "the right side not smoothed, 0 / 0",
            wrong(right="unsmoothed"),
            "the factor from the right, P(l | j), is not smoothed, so a token j that nothing came after gives 0 / 0 = "
            "NaN. Smooth it as in `left`: add k · u_l to the count and k to n_j.",
            "`left` smoothed, the second factor taken straight from the table",
        ),
        Mistake(
            "counts in place of probabilities",
            wrong(right="counts"),
            "the factor from the right is not divided by n_j + k: it is a count, not P(after | j), and favours "
            "frequent tokens j.",
            "a column taken as it is; the rows of the result are normalised, so it looks right",
        ),
        Mistake(
            "added in place of multiplied",
            wrong(joined="sum"),
            "you add the two probabilities. A token that fits on one side only then still looks good; multiplied, it "
            "must fit on both.",
            "linear interpolation of two language models",
        ),
        Mistake(
            "both sides not normalised",
            wrong(normalised=False),
            "the rows of `both` do not sum to 1: divide each by its sum.",
            "the denominator of Bayes' rule left out",
        ),
        Mistake(
            "triples alone where there are any",
            wrong(mixing="alone"),
            "where a triple was seen, you use the triples alone, so every other token gets probability 0. Mix: counts "
            "plus k3 times `both`.",
            "back-off without discounting (Katz 1987 discounts)",
        ),
        Mistake(
            "proportions in place of counts",
            wrong(mixing="proportions"),
            "you add the *proportions* of the triples, so a context seen once weighs as much as one seen a thousand "
            "times. Add the counts: k3 then says how many further triples `both` is worth.",
            "interpolation with a constant weight",
        ),
        Mistake(
            "the mixture not normalised",
            wrong(divisor=None),
            "the rows of `probabilities` do not sum to 1: divide each by its sum, n + k3.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "asking makes entries",
            wrong(looks="index"),
            "the probabilities are right, but asking for a context that was never seen makes an entry for it: "
            "`defaultdict` stores what you look up. Ask with `.get(key)` or `key in …`.",
            "Python's documentation of defaultdict",
        ),
        Mistake(
            "first and last token left out",
            wrong(trims="ends"),
            "the first and the last token of each text are left out. Each token counts, whatever it is: the lists have "
            "no special tokens here that you would have to remove.",
            "[CLS] and [SEP] stripped",
        ),
        Mistake(
            "the last pair missing",
            wrong(trims="last"),
            "the last pair of each text is missing: a text of n tokens has n - 1 pairs.",
            "a loop that ends one too early",
        ),
        Mistake(
            "both directions",
            wrong(both_ways=True),
            "each pair is counted in both directions. [i, j] counts i directly *before* j, and not the other way "
            "round.",
            "a table of neighbours, as for co-occurrences",
        ),
        Mistake(
            "triples seen or not",
            wrong(triple_once=True),
            "`triples` holds 1 for each triple that came up. It should say how *often* it did.",
            "a set in place of counts",
        ),
        Mistake(
            "the key turned round",
            wrong(key="turned"),
            "the key of `triples` is (token after, token before). It should be (token before, token after).",
            "i and l exchanged",
        ),
        Mistake(
            "1 added to each cell",
            wrong(of="cells"),
            "you add 1 to each cell of `pairs`, so V to each column sum. Add 1 to the *sum*.",
            "(pairs + 1).sum(0) in place of pairs.sum(0) + 1",
        ),
        Mistake(
            "n counts all tokens",
            wrong(n_of="all"),
            "your n_i says how often i came at all. The last token of a text has no follower: n_i is the number of "
            "pairs "
            "after i, the sum of its row.",
            "a Counter of tokens used for n_i",
        ),
        Mistake(
            "n counts different followers",
            wrong(n_of="kinds"),
            "your n_i says how many *different* tokens came after i. It is the number of pairs, the sum of the row.",
            "Witten-Bell smoothing counts so, for another purpose",
        ),
        Mistake(
            "k only above",
            wrong(smoothing="no k below"),
            "the rows of `left` do not sum to 1: k further draws are added above, so divide by n_i + k.",
            "the k in the denominator forgotten",
        ),
        Mistake(
            "k written in",
            wrong(smoothing="k written in"),
            "your `left` uses k = 100 whatever the model's k is: read self.k.",
            "the default of an argument written into a method",
        ),
        Mistake(
            "0 / 0 in a mixture",
            wrong(smoothing="proportions"),
            "pairs_ij / n_i is 0 / 0 for a token that nothing came after, so `left` gives NaN there. Use the formula "
            "of "
            "the text, with *one* division by n_i + k.",
            "interpolation written with proportions",
        ),
        Mistake(
            "uniform where nothing came after",
            wrong(smoothing="uniform"),
            "for a token that nothing came after your `left` gives each token the same probability. The formula "
            "needs no "
            "exception there: it gives the frequencies.",
            "a division by zero guarded by hand",
        ),
        Mistake(
            "zeros where nothing came after",
            wrong(smoothing="zeros"),
            "for a token that nothing came after your `left` gives zeros. The formula needs no exception there: it "
            "gives the frequencies.",
            "a division by zero guarded by hand",
        ),
        Mistake(
            "the right side smoothed by j",
            wrong(right="smoothed by j"),
            "the factor P(l | j) is smoothed with the frequency of j. It is a probability of l, so it is k · u_l.",
            "`frequencies` broadcast along the wrong dimension",
        ),
        Mistake(
            "columns normalised",
            wrong(normalised="columns"),
            "you divide `both` by the sums of its *columns*, over the contexts. Each row should sum to 1: "
            "sum(1, keepdim=True).",
            "the wrong dimension",
        ),
        Mistake(
            "the left factor not smoothed",
            wrong(joined="left unsmoothed"),
            "the factor from the left, P(j | i), is not smoothed in `both`: use `left`.",
            "the table used directly",
        ),
        Mistake(
            "the right neighbour unused",
            wrong(joined="left alone"),
            "`both` gives what `left` gives: the right neighbour has no effect. Multiply by P(after | j).",
            "the second factor forgotten",
        ),
        Mistake(
            "divided by the frequencies",
            wrong(joined="over frequencies"),
            "you divide by the frequency of j as well. That is right for two factors P(j | i) and P(j | l); here the "
            "second is P(l | j), which needs no correction.",
            "a product of experts corrected for its prior",
        ),
        Mistake(
            "no triple has an effect",
            wrong(mixing="none"),
            "the triples have no effect: your result is `both`. If you look them up by the tensors' own entries, you "
            "find none, because a tensor as a key of a dictionary is never equal to an int: use `.tolist()`.",
            "for i, l in zip(before, after)",
        ),
        Mistake(
            "k in place of k3",
            wrong(weight="k"),
            "you mix the triples with k. They are mixed with k3.",
            "two similar names",
        ),
        Mistake(
            "k3 written in",
            wrong(weight=10.0),
            "you mix the triples with 10, whatever the model's k3 is: read self.k3.",
            "the default of an argument written into a method",
        ),
        Mistake(
            "k3 forgotten",
            wrong(weight=1.0),
            "`both` is not multiplied by k3, so it weighs as much as one triple.",
            "a factor forgotten",
        ),
        Mistake(
            "divided by n",
            wrong(divisor="n"),
            "the rows of `probabilities` do not sum to 1: you divide by n_il. k3 was added above, so divide by n_il "
            "+ k3.",
            "the k3 in the denominator forgotten",
        ),
        Mistake(
            "divided by n + k",
            wrong(divisor="n + k"),
            "the rows of `probabilities` do not sum to 1: you divide by n_il + k. The mixture has k3: n_il + k3.",
            "two similar names",
        ),
        Mistake(
            "n from the pairs",
            wrong(divisor="pairs"),
            "the rows of `probabilities` do not sum to 1. Your n_il says how often l came directly after i. It is the "
            "number of triples with i on the left and l on the right.",
            "pairs[before, after] taken for n_il",
        ),
        Mistake(
            "the frequencies where no triple was seen",
            wrong(mixing="frequencies"),
            "for a context that was never seen your result is `frequencies`. It should be `both`.",
            "back-off over two steps at once",
        ),
        Mistake(
            "a second fit adds up",
            wrong(adds_up=True),
            "a second `fit` adds to the counts of the first. Start from zero in `fit`, not in `__init__`.",
            "counts made once, in the constructor",
        ),
    ),
    hints=(
        "Pairs: make one list of the numbers i · V + j over all neighbours of all texts (`itertools.pairwise`); "
        "`torch.bincount(…, minlength=V * V).view(V, V).float()` counts them. An empty list needs `dtype=torch.long`.",
        "Triples: `defaultdict(Counter)`; in each text, `for i, j, l in zip(text, text[1:], text[2:])`, and "
        "`triples[i, l][j] += 1`.",
        "`left`: rows `pairs[before]`, plus k times the frequencies, divided by the rows' sums (keepdim) plus k.",
        "`both`: the column `pairs[:, after].T` plus k times `frequencies[after][:, None]`, divided by "
        "`pairs.sum(1) + k`, is P(after | j) for each j. Multiply by `left(before)`, divide by the rows' sums.",
        "`probabilities`: start from `k3 * both(…)`, add each context's counts to its row, divide by the rows' sums.",
    ),
    praise="A model of a language without a single trained weight.",
    other_ways=(ByLoops, ByBins),
)
