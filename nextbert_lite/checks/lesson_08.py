"""The checks of lesson 08, Larger models, more data."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from nextbert_lite.checks.core import Exercise, Mistake, Prediction, hint, solution

__all__ = ["best_width", "bigram", "extrapolate", "hint", "solution", "training_work"]


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
            "the way up only",
            lambda *shape: counted(*shape, passes=1),
            "this is the way up alone. Each product Y = XW needs two more on the way back: for the gradient of X, and "
            "for that of W. Three times in all.",
            "https://github.com/karpathy/nanoGPT/issues/322 (2N for the way up, 6N for training)",
        ),
        Mistake(
            "back counted once",
            lambda *shape: counted(*shape, passes=2),
            "the way back costs twice the way up, not once: one product for the gradient of X and one for that of W. "
            "That makes three times in all.",
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
            "'6 operations for each weight' leaves them out.",
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
    ),
    hints=(
        "The way up for one token: all layers, and a share `rate` of a head.",
        "The way back costs twice the way up.",
        "`3 * (layers * (24 * C**2 + 4 * T * C) + rate * (2 * C**2 + 2 * V * C))`",
    ),
    praise="Three times the way up, and the head only where it is needed.",
    other_ways=(
        lambda L, C, T, V, r: 6 * (L * (12 * C * C + 2 * T * C) + r * C * (C + V)),
        lambda L, C, T, V, r: sum(3 * (24 * C**2 + 4 * T * C) for _ in range(L)) + 3 * r * (2 * C**2 + 2 * V * C),
    ),
)

# --- 08.2 predict the best width --------------------------------------------------------------------------------------

best_width = Prediction(
    id="08.2",
    right=32,
    mistakes=(
        Mistake(
            "the largest",
            128,
            "128 gets the fewest steps, a quarter of those of width 64. At this budget it is steps that are missing, "
            "not weights: it has hardly begun.",
            "Hoffmann et al. 2022, abstract: large models of the time were undertrained because only size was scaled",
        ),
        Mistake(
            "the usual one",
            64,
            "64 is the course's usual width, and it was not chosen for this budget. Width 32 takes nearly four times "
            "as many steps for the same cost, and at this budget that counts for more.",
            "the package's preset 'tiny': a default taken for an optimum",
        ),
    ),
    hints=("Look at the number of steps that each gets.", "Is a world of 179 words too much for width 32?"),
    praise="Steps are what is missing at this budget, and the smallest gets most of them.",
)

# --- 08.3 find the bug: a line through the loss, not through the excess -----------------------------------------------


def a_power_law(generator):
    floor, a, b = (0.3 + float(torch.rand((), generator=generator)) for _ in range(3))
    x = torch.tensor([100.0, 200.0, 400.0, 800.0], dtype=torch.float64)
    noise = (0.1 * torch.randn(4, generator=generator, dtype=torch.float64)).exp()
    return x, floor + 20 * a * x**-b * noise, floor, 5000.0


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


extrapolate = Exercise(
    id="08.3",
    right=right_extrapolation,
    inputs=a_power_law,
    also=fewer_points,
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
    ),
    hints=(
        "Where does the curve go for x → ∞? A line in the logarithm of y goes to y = 0.",
        "Which quantity goes to 0? Fit that one.",
        "`log_y = (losses - floor).log()`, and `floor + torch.exp(…)` at the end.",
    ),
    praise="The excess follows the line, the loss stops at the floor.",
    other_ways=(
        lambda x, y, f, at: f + np.exp(np.polyval(np.polyfit(x.log().numpy(), (y - f).log().numpy(), 1), math.log(at))),
        lambda x, y, f, at: float(
            f + 10 ** np.polyval(np.polyfit(x.log10().numpy(), (y - f).log10().numpy(), 1), math.log10(at))
        ),
    ),
)

# --- 08.4 an interpolated bigram --------------------------------------------------------------------------------------


def table_of_pairs(generator):
    counts = torch.randint(0, 6, (5, 5), generator=generator) * (torch.rand(5, 5, generator=generator) < 0.7)
    counts[3] = 0  # a token that nothing came after
    counts[:, 1] = 0  # a token that never came
    counts[0, 2] += 1
    return counts.float(), 1.0 + 4 * float(torch.rand((), generator=generator))


def smaller_table(generator):
    counts, k = table_of_pairs(generator)
    return counts[1:, 1:], k + 1


def interpolated(counts, k, after=0, added=1.0, before=1):
    frequencies = counts.sum(after) + added
    frequencies = frequencies / frequencies.sum()
    return (counts + k * frequencies) / (counts.sum(before, keepdim=True) + k)


def by_pairs_alone(counts, k):
    return counts / counts.sum(1, keepdim=True)


def k_in_each_cell(counts, k):
    return (counts + k) / (counts.sum(1, keepdim=True) + k * len(counts))


def k_in_each_cell_once_below(counts, k):
    return (counts + k) / (counts.sum(1, keepdim=True) + k)


def raw_counts_mixed(counts, k):
    after = counts.sum(0) + 1
    return (counts + k * after) / (counts.sum(1, keepdim=True) + k)


bigram = Exercise(
    id="08.4",
    right=interpolated,
    inputs=table_of_pairs,
    also=smaller_table,
    mistakes=(
        Mistake(
            "pairs alone",
            by_pairs_alone,
            "the frequencies are not mixed in: pairs that did not come up get probability 0, and a token that nothing "
            "came after gives 0 / 0 = NaN.",
            "https://github.com/nltk/nltk/issues/2332",
        ),
        Mistake(
            "rows do not sum to 1",
            raw_counts_mixed,
            "you mix in counts, not frequencies: the rows sum to more than 1. Divide counts.sum(0) + 1 by its sum.",
            "https://github.com/nltk/nltk/issues/367: P = 2.625, https://github.com/uclnlp/stat-nlp-book/issues/23",
        ),
        Mistake(
            "k in each cell, k below",
            k_in_each_cell_once_below,
            "you add k to each cell but only k to the row's sum, so the rows do not sum to 1. It is k *times the "
            "frequencies* that is added; those sum to 1, and k below is right.",
            "https://github.com/nltk/nltk/issues/380: a probability of 3.03",
        ),
        Mistake(
            "add-k",
            k_in_each_cell,
            "this is add-k smoothing: the further pairs are shared out *equally*. Share k of them out by frequency, "
            "so that an unseen pair with a frequent token is likelier than one with a rare one.",
            "NLTK's Lidstone estimator, where an interpolation was wanted (https://github.com/nltk/nltk/issues/380)",
        ),
        Mistake(
            "frequencies of the token before",
            lambda counts, k: interpolated(counts, k, after=1),
            "the frequencies are of the tokens that come *before*: you summed the rows. counts.sum(0) sums over i and "
            "leaves j.",
            "the two axes of a table of pairs exchanged",
        ),
        Mistake(
            "columns sum to 1",
            lambda counts, k: (
                (counts + k * ((counts.sum(1, keepdim=True) + 1) / (counts.sum() + len(counts)))) / (counts.sum(0) + k)
            ),
            "the columns sum to 1, not the rows: this is P(i | j), what came before j.",
            "the two axes of a table of pairs exchanged, everywhere",
        ),
        Mistake(
            "keepdim forgotten",
            lambda counts, k: (counts + k * ((counts.sum(0) + 1) / (counts.sum() + len(counts)))) / (counts.sum(1) + k),
            "the rows' sums have the shape (V,), and torch lines them up with the columns. Keep the dimension: "
            "counts.sum(1, keepdim=True).",
            "broadcasting, as in exercise 02.1",
        ),
        Mistake(
            "nothing added to the frequencies",
            lambda counts, k: interpolated(counts, k, added=0.0),
            "a token that never came has frequency 0 and is never predicted: add 1 to each count before you divide.",
            "https://github.com/nltk/nltk/issues/602 (what is left for unseen events)",
        ),
    ),
    hints=(
        "How often each token came after another: counts.sum(0). Add 1, divide by the sum: the frequencies u.",
        "The numerator is the table plus k u; the row of u is added to each row.",
        "`(counts + k * u) / (counts.sum(1, keepdim=True) + k)`",
    ),
    praise="Each row sums to 1, and no pair is impossible.",
    other_ways=(
        lambda c, k: torch.stack([(row + k * (c.sum(0) + 1) / (c.sum() + len(c))) / (row.sum() + k) for row in c]),
        lambda c, k: (
            (1 - (w := k / (c.sum(1, keepdim=True) + k))) * c / c.sum(1, keepdim=True).clamp(min=1)
            + w * F.normalize(c.sum(0) + 1, p=1, dim=0)
        ),
    ),
)
