"""The checks of lesson 11, Geometry and clusters."""

import math

import torch
import torch.nn.functional as F

from nextbert_lite.checks.core import (
    Build,
    Exercise,
    Fault,
    Mistake,
    Prediction,
    Stage,
    describe,
    hint,
    mine,
    solution,
    untouched,
)

__all__ = ["hint", "k_means", "leave_one_out", "mine", "proportion_right", "solution", "two_poles", "whitening"]


def cosines_of(x):
    unit = F.normalize(x, dim=-1)
    return unit @ unit.T


# --- 11.1 two poles ---------------------------------------------------------------------------------------------------

two_poles = Prediction(
    id="11.1",
    right=math.log((1 + math.exp(-8)) / 2),
    tolerance=0.0001,
    mistakes=(
        Mistake(
            "the far pairs dropped",
            math.log(0.5),
            "that is ln 0.5: you dropped the far pairs. They are small, e^(−8) each, but half of all pairs are "
            "far, and the "
            "fourth decimal shows them.",
            "a fresh reader of this lesson: ln 0.5 differs from the answer by 0.0003",
        ),
        Mistake(
            "the mean of the exponents",
            -4.0,
            "−4 is about what an even spread has, and also the mean of the exponents, 0 and −8. The formula "
            "averages the "
            "e-powers first and takes the logarithm after: close pairs count far more than far ones.",
            "log and mean exchanged, section 2",
        ),
        Mistake(
            "no logarithm",
            (1 + math.exp(-8)) / 2,
            "that is the mean of the e-powers. Uniformity is its logarithm.",
            "the log forgotten, section 2",
        ),
        Mistake(
            "collapsed",
            0.0,
            "0 is what one single heap has. Half of the pairs have opposite ends here.",
            "the value of a collapsed space, section 2",
        ),
        Mistake(
            "distance for squared distance",
            math.log((1 + math.exp(-4)) / 2),
            "opposite vectors have the distance 2, and the formula takes its square: 4, times −2.",
            "the square forgotten, section 2",
        ),
        Mistake(
            "neither square nor factor",
            math.log((1 + math.exp(-2)) / 2),
            "you took e to the power of minus the distance. The exponent is −2 times the *squared* distance: −2 · 4.",
            "the square and the factor t = 2 forgotten, section 2",
        ),
        Mistake(
            "the sign",
            -math.log((1 + math.exp(-8)) / 2),
            "the number is right, but not its sign: the mean of the e-powers is below 1, so its logarithm is negative.",
            "a fresh reader of this lesson: minus the logarithm, as in a loss",
        ),
        Mistake(
            "base ten",
            math.log10((1 + math.exp(-8)) / 2),
            "that is the logarithm to base 10. The formula uses the natural one, `math.log`.",
            "natural and common logarithm mixed up",
        ),
    ),
    hints=(
        "Two kinds of pairs, half and half: the same pole, distance 0, and opposite poles, distance 2.",
        "Squared distances 0 and 4; e^(−2 · 0) = 1 and e^(−2 · 4).",
        "`math.log((1 + math.exp(-8)) / 2)`",
    ),
    praise="Anisotropy 0, and yet far from the −4 of an even spread: the mean cosine does not see heaps.",
)

# --- 11.2 the build: Whitening ----------------------------------------------------------------------------------------


class Whitening:
    """The course's: each side at mean zero, and the covariance of both together the identity."""

    def __init__(self, keep=1e-4):
        self.keep = keep

    def fit(self, queries, texts):
        self.mean_of_queries, self.mean_of_texts = queries.mean(0), texts.mean(0)  # (C,) each
        centred = torch.cat([queries - self.mean_of_queries, texts - self.mean_of_texts])  # (N + M, C)
        variances, axes = torch.linalg.eigh(centred.T @ centred / len(centred))  # (C,) and (C, C)
        kept = variances > self.keep * variances.max()
        self.matrix = axes[:, kept] / variances[kept].sqrt()  # (C, K)
        return self

    def queries(self, x):
        return (x - self.mean_of_queries) @ self.matrix

    def texts(self, x):
        return (x - self.mean_of_texts) @ self.matrix


def two_sides(generator, N=40, M=25, C=4, dtype=torch.float32, variances=None):
    """Queries (N, C) and texts (M, C) with other means and, along turned axes, unequal variances."""
    variances = torch.linspace(0.5, 3, C) if variances is None else torch.tensor(variances)
    turn, _ = torch.linalg.qr(torch.randn(C, C, generator=generator, dtype=torch.float64))
    sides = []
    for n, mean, spread in ((N, 1.0, 1.2), (M, -2.0, 0.9)):
        x = torch.randn(n, C, generator=generator, dtype=torch.float64) * variances.sqrt()
        x[:, ::2] *= spread  # the two sides vary in different ways
        sides.append((x @ turn + mean * torch.arange(1, C + 1)).to(dtype))
    return sides


def fitted(answer, queries, texts, **options):
    """Return the learner's object after `fit`; Fault where it changes what it is given or is not returned."""
    it = answer(**options)
    result = untouched(it.fit, queries, texts)
    if result is not it:
        raise Fault(f"`fit` should return the object itself, `return self`; it returns {describe(result)}.")
    for name in ("queries", "texts"):
        if not callable(getattr(it, name)):
            raise Fault(f"`self.{name} = …` hides the method `{name}` behind a value: give the attribute another name.")
    return it


def both(it, queries, texts):
    return untouched(it.queries, queries), untouched(it.texts, texts)


def alike(*parts):
    """Inner products of all vectors: the same for every order and sign of the axes; and how many axes there are."""
    x = torch.cat(parts)
    return f"{x.shape[-1]} directions", x @ x.T


def whitened_shapes(answer, generator):
    queries, texts = two_sides(generator)
    out = both(fitted(answer, queries, texts), queries[:3], texts[:2])
    return tuple(f"a result of shape {tuple(y.shape)} and {y.dtype}" for y in out)


def whitened_means(answer, generator):
    queries, texts = two_sides(generator)
    a, b = both(fitted(answer, queries, texts), queries, texts)
    return a.mean(0).norm(), b.mean(0).norm()


def whitened_covariance(answer, generator):
    queries, texts = two_sides(generator)
    y = torch.cat(both(fitted(answer, queries, texts), queries, texts))
    return y.T @ y / len(y)


def one_alone(answer, generator):
    queries, texts = two_sides(generator)
    it = fitted(answer, queries, texts)
    return alike(*both(it, queries[:1], texts[4:5]))


def new_texts(answer, generator):
    (queries, texts), (new_queries, new) = two_sides(generator), two_sides(generator, 5, 6)
    return alike(*both(fitted(answer, queries, texts), new_queries, new))


UNEVEN = [0.0003, 0.008, 0.04, 0.1, 0.3, 0.9, 7.0, 7.5, 8.0]  # each wrong limit falls into another gap


def empty_direction(answer, generator):
    queries, texts = two_sides(generator, 600, 400, 9, variances=UNEVEN)
    out = [*alike(*both(fitted(answer, queries, texts, keep=0.06), queries[:4], texts[:4]))]  # the limit is near 0.5
    for scale in (1.0, 0.001):  # the limit is relative to the largest variance
        queries, texts = (scale * torch.cat([x, x[:, :1] - x[:, 1:2]], 1) for x in two_sides(generator))
        it = fitted(answer, queries, texts)
        out += alike(*both(it, queries[:4], texts[:4]))
    return tuple(out)


def whitened_other_sizes(answer, generator):
    out = []
    for N, M, C, keep in ((12, 30, 3, 1e-4), (30, 30, 6, 0.0), (300, 200, 6, 0.06)):
        uneven = [0.01, 0.08, 0.48, 2.4, 3.2, 4.0] if keep == 0.06 else None  # the limit is at 0.24
        queries, texts = two_sides(generator, N, M, C, variances=uneven)
        out += alike(*both(fitted(answer, queries, texts, keep=keep), queries[:7], texts[:5]))
    return tuple(out)


def whitened_double(answer, generator):
    queries, texts = two_sides(generator, dtype=torch.float64)
    a, b = both(fitted(answer, queries, texts), queries[:3], texts[:3])
    return f"{a.dtype} and {b.dtype}", *alike(a, b)


class WrongWhitening(Whitening):
    """Whitening as a learner may write it; its switches are the mistakes."""

    mean, of, divided, power, limit, at_call, turned, back = "each", "both", "n", 0.5, "relative", None, False, "self"

    def fit(self, queries, texts):
        a, b = queries.mean(0), texts.mean(0)
        if self.mean == "all":
            a = b = torch.cat([queries, texts]).mean(0)
        if self.mean == "texts":
            a = b
        if self.mean == "queries":
            b = a
        if self.mean == "exchanged":
            a, b = b, a
        self.mean_of_queries, self.mean_of_texts = a, b
        x, y = queries - queries.mean(0), texts - texts.mean(0)
        if self.of == "raw":
            x, y = queries, texts
        if self.of == "mean of the texts":
            x, y = queries - texts.mean(0), y
        if self.of == "mean of the queries":
            x, y = x, texts - queries.mean(0)
        if self.of == "one mean":
            x, y = (side - torch.cat([queries, texts]).mean(0) for side in (queries, texts))
        rows = {"texts": y, "queries": x}.get(self.of, torch.cat([x, y]))
        covariance = (
            rows.T
            @ rows
            / {
                "n": len(rows),
                "n - 1": len(rows) - 1,
                "nothing": 1,
                "queries": len(x),
                "texts": len(y),
            }[self.divided]
        )
        if self.of == "half each":
            covariance = (x.T @ x / len(x) + y.T @ y / len(y)) / 2
        variances, axes = torch.linalg.eigh(covariance)
        keep = 1e-4 if self.limit == "fixed" else self.keep
        kept = {
            "absolute": variances > keep,
            "deviations": variances.clamp_min(0).sqrt() > keep * variances.max().sqrt(),
            "none": variances > -torch.inf,
            "total": variances > keep * variances.sum(),
            "mean": variances > keep * variances.mean(),
        }.get(self.limit, variances > keep * variances.max())
        axes = axes.T if self.turned is True else axes
        self.matrix = axes[:, kept] / (variances[kept].abs() ** self.power)
        if self.turned == "back":
            self.matrix = self.matrix @ axes[:, kept].T
        if self.turned == "not":
            self.matrix = torch.diag(1 / covariance.diagonal().sqrt())
        if self.turned == "nothing":
            self.matrix = torch.eye(queries.shape[1], dtype=queries.dtype)
        return self if self.back == "self" else None

    def queries(self, x):
        return (x - (x.mean(0) if self.at_call else self.mean_of_queries)) @ self.matrix

    def texts(self, x):
        return (x - (x.mean(0) if self.at_call else self.mean_of_texts)) @ self.matrix


class EachItsOwn(Whitening):
    """Wrong: each side whitened by a covariance of its own."""

    def fit(self, queries, texts):
        self.sides = [Whitening(self.keep).fit(side, side) for side in (queries, texts)]
        return self

    def queries(self, x):
        return self.sides[0].queries(x)

    def texts(self, x):
        return self.sides[1].texts(x)


class UnitLength(Whitening):
    """Wrong: the whitened vectors made length 1."""

    def queries(self, x):
        return F.normalize(super().queries(x), dim=-1)

    def texts(self, x):
        return F.normalize(super().texts(x), dim=-1)


def wrong_whitening(**switches):
    return type("Whitening", (WrongWhitening,), switches)


class BySvd:
    """Another way: the singular values of the centred rows."""

    def __init__(self, keep=1e-4):
        self.keep = keep

    def fit(self, queries, texts):
        self.means = [queries.mean(0), texts.mean(0)]
        rows = torch.vstack([side - mean for side, mean in zip((queries, texts), self.means, strict=True)])
        _, s, v = torch.linalg.svd(rows, full_matrices=False)
        variances = s**2 / len(rows)
        K = int((variances > self.keep * variances[0]).sum())
        self.turn, self.deviations = v[:K].T, variances[:K] ** 0.5
        return self

    def queries(self, x):
        return x @ self.turn / self.deviations - self.means[0] @ self.turn / self.deviations

    def texts(self, x):
        return (x - self.means[1]) @ self.turn / self.deviations


whitening = Build(
    id="11.2",
    course=Whitening,
    stages=(
        Stage("shapes", whitened_shapes),
        Stage("both means", whitened_means),
        Stage("the covariance", whitened_covariance),
        Stage("one text alone", one_alone),
        Stage("new texts", new_texts),
        Stage("small and empty directions", empty_direction),
        Stage("other sizes", whitened_other_sizes),
        Stage("float64", whitened_double),
    ),
    mistakes=(
        Mistake(
            "fit returns nothing",
            wrong_whitening(back="none"),
            "`fit` should return the object itself, `return self`; it returns None (NoneType).",
            "scikit-learn's convention for estimators, which the text asks for",
        ),
        Mistake(
            "one mean for both sides",
            wrong_whitening(mean="all"),
            "you subtract the mean of all vectors from both sides. Queries and texts have different means, so "
            "each side "
            "keeps an offset: subtract from each its own.",
            "the first edition of this lesson; the modality gap of Liang et al. 2022 (arXiv:2203.02053)",
        ),
        Mistake(
            "one mean for both sides, in the covariance too",
            wrong_whitening(mean="all", of="one mean"),
            "you centre all vectors on one mean, as for a single set. Queries and texts have different means, so each "
            "side keeps an offset, which the covariance then counts as variance: subtract from each side its own mean.",
            "the usual whitening of one set of vectors, Su et al. 2021",
        ),
        Mistake(
            "the mean of the texts for both, in the covariance too",
            wrong_whitening(mean="texts", of="mean of the texts"),
            "you subtract the mean of the texts from the queries too, and the offset then counts as variance. Each "
            "side has a mean of its own.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the mean of the queries for both, in the covariance too",
            wrong_whitening(mean="queries", of="mean of the queries"),
            "you subtract the mean of the queries from the texts too, and the offset then counts as variance. Each "
            "side has a mean of its own.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the mean of the queries for both",
            wrong_whitening(mean="queries"),
            "you subtract the mean of the queries from the texts too. Each side has a mean of its own.",
            "a fresh reader of this lesson: one line of `queries` copied into `texts`",
        ),
        Mistake(
            "unit length",
            UnitLength,
            "you make the whitened vectors length 1. The text asks for the whitened vectors themselves: cosines "
            "normalise later, and the lengths belong to the covariance.",
            "a fresh reader of this lesson: the vectors are compared by cosine in the end",
        ),
        Mistake(
            "the mean of the texts for both",
            wrong_whitening(mean="texts"),
            "you subtract the mean of the texts from the queries too. Each side has a mean of its own.",
            "the first edition of this lesson, which fitted on bodies alone",
        ),
        Mistake(
            "the two means exchanged",
            wrong_whitening(mean="exchanged"),
            "the two means are exchanged: `queries` subtracts that of the texts, and `texts` that of the queries.",
            "a slip between two tensors of one shape",
        ),
        Mistake(
            "divided by the variance",
            wrong_whitening(power=1.0),
            "both means are right, but you divide by the variance. After that the directions that varied least vary "
            "most: divide by its square root, the standard deviation.",
            "https://github.com/Salma-El-Alaoui/Blind-Source-Separation/issues/2",
        ),
        Mistake(
            "times the standard deviation",
            wrong_whitening(power=-0.5),
            "you multiply each axis by its standard deviation. That makes the large directions larger: divide by it.",
            "a fresh reader of this lesson: `*` for `/`",
        ),
        Mistake(
            "only centred",
            wrong_whitening(turned="nothing"),
            "both means are right, and nothing else happens yet. Step 2: the covariance of the centred rows, its "
            "eigenvectors, and the division of each axis by its standard deviation.",
            "step 1 of this exercise",
        ),
        Mistake(
            "features, not axes",
            wrong_whitening(turned="not"),
            "you divide each *feature* by its standard deviation. The features still vary together: turn the vectors "
            "onto the eigenvectors first.",
            "standardisation (scikit-learn's StandardScaler) taken for whitening",
        ),
        Mistake(
            "only turned",
            wrong_whitening(power=0.0),
            "the vectors are centred and turned onto the axes, but not divided by anything, so all distances are as "
            "before. Divide each axis by its standard deviation.",
            "https://github.com/facebookresearch/faiss/issues/559 (power 0: no whitening)",
        ),
        Mistake(
            "the covariance of the texts alone",
            wrong_whitening(of="texts"),
            "the covariance comes from the texts alone. Take the centred rows of both sides, one below the other.",
            "the first edition of this lesson, which fitted on bodies alone",
        ),
        Mistake(
            "the covariance of the queries alone",
            wrong_whitening(of="queries"),
            "the covariance comes from the queries alone. Take the centred rows of both sides, one below the other.",
            "half of the rows forgotten",
        ),
        Mistake(
            "not centred before the covariance",
            wrong_whitening(of="raw"),
            "the covariance needs the *centred* vectors. Without that, the means themselves become the largest "
            "direction.",
            "https://github.com/keras-team/keras/issues/7792",
        ),
        Mistake(
            "one mean in the covariance",
            wrong_whitening(of="one mean"),
            "for the covariance you subtract the mean of all rows, so the offset between the two sides counts as "
            "variance. Subtract from each side its own mean there too.",
            "the mean of the concatenated rows; torch.cov and numpy.cov do so with `cat([queries, texts])`",
        ),
        Mistake(
            "each side counts half",
            wrong_whitening(of="half each"),
            "you take the mean of the two sides' covariances. Here each row counts the same, and the sides have "
            "different numbers of rows: put the N + M rows below each other, then one product.",
            "two covariances averaged without their numbers of rows",
        ),
        Mistake(
            "divided by one less",
            wrong_whitening(divided="n - 1"),
            "you divide by N + M − 1, as torch.cov does unless told otherwise. The text asks for N + M.",
            "torch.cov's default, correction=1",
        ),
        Mistake(
            "divided by the queries alone",
            wrong_whitening(divided="queries"),
            "you divide by the number of queries, N. There are N + M rows below each other: divide by N + M.",
            "a fresh reader of this lesson: `len(queries)` for the length of both",
        ),
        Mistake(
            "divided by the texts alone",
            wrong_whitening(divided="texts"),
            "you divide by the number of texts, M. There are N + M rows below each other: divide by N + M.",
            "`len(texts)` for the length of both",
        ),
        Mistake(
            "a covariance for each side",
            EachItsOwn,
            "each side is whitened with a covariance of its own, so queries and texts end on different axes and their "
            "cosines mean nothing. Take one covariance of all N + M centred rows.",
            "a fresh reader of this lesson: two whitenings in place of one",
        ),
        Mistake(
            "not divided by the number of rows",
            wrong_whitening(divided="nothing"),
            "the product of the centred rows is not divided by their number, so every result shrinks by √(N + M).",
            "a sum of squares taken for a variance",
        ),
        Mistake(
            "rows for columns",
            wrong_whitening(turned=True),
            "`torch.linalg.eigh` returns the eigenvectors as the *columns* of its second result. You read its rows.",
            "numpy.linalg.eigh and torch.linalg.eigh have columns; scikit-learn's components_ are rows",
        ),
        Mistake(
            "the mean at the call",
            wrong_whitening(at_call=True),
            "`queries` and `texts` subtract the mean of what they are given. One text minus its own mean is "
            "nothing, and "
            "a text's vector would depend on the others asked with it: keep the means in `fit`.",
            "https://github.com/YahooArchive/crow/issues/8",
        ),
        Mistake(
            "nothing dropped",
            wrong_whitening(limit="none"),
            "all directions come back. The result should have K columns, one for each direction whose variance "
            "is larger "
            "than `keep` times the largest. (`eigh` returns the variances in rising order: the largest is the last.)",
            "the last feature that a layer norm leaves without variance, section 3",
        ),
        Mistake(
            "turned back",
            wrong_whitening(turned="back"),
            "the small directions no longer count, but the result still has C columns: with zeros in their place, or "
            "after a product with Eᵀ that turns it back (ZCA whitening). It should have K columns, one for each "
            "direction that is kept.",
            "ZCA whitening, common for images",
        ),
        Mistake(
            "an absolute limit",
            wrong_whitening(limit="absolute"),
            "`keep` is compared with the variance itself. It is a proportion of the *largest* variance, so that the "
            "unit of the vectors does not matter.",
            "numpy.linalg.matrix_rank's tolerance is relative for the same reason",
        ),
        Mistake(
            "the limit on deviations",
            wrong_whitening(limit="deviations"),
            "you compare standard deviations with `keep` times the largest. The text compares variances.",
            "singular values taken for variances",
        ),
        Mistake(
            "of the sum",
            wrong_whitening(limit="total"),
            "you compare with `keep` times the *sum* of the variances. The text compares with the largest one.",
            "the proportion of explained variance of PCA",
        ),
        Mistake(
            "of the mean",
            wrong_whitening(limit="mean"),
            "you compare with `keep` times the *mean* of the variances. The text compares with the largest one.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "keep is not used",
            wrong_whitening(limit="fixed"),
            "`keep` has no effect: you always use 1e-4. Keep the argument in `__init__`, `self.keep = keep`.",
            "an argument accepted and forgotten",
        ),
    ),
    hints=(
        "Step 1: in `fit`, `queries.mean(0)` and `texts.mean(0)`; the two methods subtract them. The check then "
        "stops at "
        "stage 3.",
        "Step 2: `centred = torch.cat([queries - …, texts - …])`, of shape (N + M, C), and its covariance "
        "`centred.T @ centred / len(centred)`.",
        "`variances, axes = torch.linalg.eigh(covariance)`; the axes are columns, so `axes / variances.sqrt()` divides "
        "each axis by its standard deviation. The methods multiply by this matrix.",
        "Step 3: `kept = variances > self.keep * variances.max()`, and use `axes[:, kept]` and `variances[kept]`.",
    ),
    praise="One query or a thousand, on either side: each gets the same vector.",
    other_ways=(BySvd, wrong_whitening()),
)

# --- 11.3 ties --------------------------------------------------------------------------------------------------------


def cosines_with_ties(generator):
    right = torch.rand(20, generator=generator, dtype=torch.float64)
    wrong = torch.rand(20, generator=generator, dtype=torch.float64)
    right[0], wrong[0], right[1], wrong[1], right[2], wrong[2] = 0.9, 0.1, 0.8, 0.2, 0.1, 0.7  # not one half by chance
    right[3], wrong[3] = 0.6, 0.2
    right[14:] = wrong[14:] + 0.1
    wrong[4:8] = right[4:8]  # exact ties
    wrong[8:12] = right[8:12] + 1e-9  # rounding, against; so many of each that no two mistakes give one number
    wrong[12:14] = right[12:14] - 1e-9  # rounding, for
    right[14], right[15], right[16] = 0.95, 0.85, 0.75
    wrong[14:17] = right[14:17] - torch.tensor([4e-6, 5e-6, 6e-6])  # no ties: more than a millionth, by little
    return right, wrong


def only_ties(generator):
    right, _ = cosines_with_ties(generator)
    return right[:13], right[:13].clone()


def tie(right, wrong):
    return (right - wrong).abs() < 1e-6


def proportion_right_right(right, wrong):
    ties = tie(right, wrong)
    return ((right > wrong) & ~ties).float().mean() + 0.5 * ties.float().mean()


def share_by_isclose(right, wrong):
    ties = torch.isclose(right, wrong, atol=1e-6)
    return ((right > wrong) & ~ties).float().mean() + 0.5 * ties.float().mean()


proportion_right = Exercise(
    id="11.3",
    right=proportion_right_right,
    inputs=cosines_with_ties,
    also=only_ties,
    reads=lambda share: torch.as_tensor(share).float(),
    mistakes=(
        Mistake(
            "ties count as wrong",
            lambda right, wrong: ((right > wrong) & ~tie(right, wrong)).float().mean(),
            "a tie counts as wrong here: a bag of words, which cannot tell the two apart, would get 0 %, as if it were "
            "always misled. A tie counts one half.",
            "https://github.com/snap-stanford/ogb/issues/406",
        ),
        Mistake(
            "ties count as right",
            lambda right, wrong: ((right > wrong) | tie(right, wrong)).float().mean(),
            "a tie counts as right here: whoever gives everything the same score passes with 100 %. A tie counts one "
            "half.",
            "https://github.com/embeddings-benchmark/mteb/issues/5092",
        ),
        Mistake(
            "no tolerance",
            lambda right, wrong: (right > wrong).float().mean() + 0.5 * (right == wrong).float().mean(),
            "only cosines that are equal to the last bit are a tie here. The same words summed in another order differ "
            "by rounding, and then chance decides. Differences below a millionth are a tie.",
            "https://github.com/pytorch/pytorch/issues/39134 (the same numbers in another order)",
        ),
        Mistake(
            "isclose's own tolerance",
            share_by_isclose,
            "your ties are wider than a millionth: `isclose` and `allclose` add rtol · |value|, 1e-5 unless you say "
            "otherwise, to atol. Give `rtol=0`, or compare the difference itself: `(right - wrong).abs() < 1e-6`.",
            "torch.isclose's documentation: |input - other| <= atol + rtol · |other|",
        ),
        Mistake(
            "rounding decides",
            lambda right, wrong: (right > wrong).float().mean(),
            "a plain `>`: exact ties count as wrong, and where the two differ by rounding only, the last digit "
            "decides. A difference below a millionth is a tie, and a tie counts one half.",
            "https://github.com/snap-stanford/ogb/issues/406",
        ),
        Mistake(
            "rounding decides, and equals are right",
            lambda right, wrong: (right >= wrong).float().mean(),
            "a plain `>=`: exact ties count as right, so giving everything the same score passes, and where the two "
            "differ by rounding only, the last digit decides. A difference below a millionth counts one half.",
            "https://github.com/embeddings-benchmark/mteb/issues/5092",
        ),
        Mistake(
            "ties left out",
            lambda right, wrong: (right > wrong)[~tie(right, wrong)].float().mean(),
            "you leave the ties out and count among the rest. A model without an opinion would have no score at all: a "
            "tie counts one half, and all questions count.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "a tie and a half",
            lambda right, wrong: (right > wrong).float().mean() + 0.5 * tie(right, wrong).float().mean(),
            "a tie whose first cosine is larger by rounding counts one and a half: it is right and a tie. Count "
            "as right "
            "only what is no tie.",
            "a fresh reader of this lesson: `& ~tie` forgotten",
        ),
        Mistake(
            "no absolute value",
            lambda right, wrong: torch.where(right - wrong < 1e-6, 0.5, 1.0).mean(),
            "every wrong answer counts one half: `right - wrong < 1e-6` holds for all negative differences too. A "
            "tie is "
            "`(right - wrong).abs() < 1e-6`.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "a number of questions",
            lambda right, wrong: proportion_right_right(right, wrong) * len(right),
            "you return the number of questions that are right. The exercise asks for the proportion: divide by N.",
            "a fresh reader of this lesson: `sum` for `mean`",
        ),
        Mistake(
            "one comparison of two means",
            lambda right, wrong: (right.mean() > wrong.mean()).float(),
            "you compare the two means, one comparison in all. Compare the two cosines of each question, and "
            "then count.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the wrong way round",
            lambda right, wrong: proportion_right_right(wrong, right),
            "the wrong way round: the *paraphrase*, the first argument, should have the larger cosine.",
            "https://github.com/facebookresearch/faiss/issues/95 (similarity or distance?)",
        ),
    ),
    hints=(
        "`difference = right - wrong`. Three cases: clearly above 0, clearly below, and a tie.",
        "`tie = difference.abs() < 1e-6`; right are those with `(difference > 0) & ~tie`.",
        "`((difference > 0) & ~tie).float().mean() + 0.5 * tie.float().mean()`",
    ),
    praise="No opinion, half a point.",
    other_ways=(
        lambda right, wrong: (
            sum(0.5 if abs(a - b) < 1e-6 else float(a > b) for a, b in zip(right, wrong, strict=True)) / len(right)
        ),
        lambda right, wrong: torch.where((d := right - wrong).abs() < 1e-6, 0.5, (d > 0).double()).mean(),
    ),
)

# --- 11.4 find the bug: leave one out ---------------------------------------------------------------------------------


def labelled_vectors(generator):
    labels = torch.arange(60) % 3
    middle = 2 * torch.rand(3, 5, generator=generator)
    x = (middle[labels] + 0.6 * torch.randn(60, 5, generator=generator)).abs()
    x[0] = -x[0]  # at more than a right angle to all others
    labels[0] = labels[30] = 3  # and not the only one of its label: it is no repair to count single rows as wrong
    labels[1] = 4  # the only one
    return x * torch.linspace(0.2, 4, 60)[:, None], labels


def nearest_label(scores, labels):
    return (labels[scores.argmax(1)] == labels).float().mean()


def leave_one_out_right(x, labels):
    return nearest_label(cosines_of(x).fill_diagonal_(-torch.inf), labels)


def zeros_on_the_diagonal(x, labels):
    return nearest_label(cosines_of(x).fill_diagonal_(0.0), labels)


def dots_without_self(x, labels):
    return nearest_label((x @ x.T).fill_diagonal_(-torch.inf), labels)


def farthest(x, labels):
    return nearest_label((-cosines_of(x)).fill_diagonal_(-torch.inf), labels)


def without_the_column(x, labels):
    """Wrong: each row's own cosine is taken out, so the later columns move to the left."""
    N = len(x)
    return nearest_label(cosines_of(x)[~torch.eye(N, dtype=torch.bool)].view(N, N - 1), labels)


def without_singles(x, labels):
    hits = labels[cosines_of(x).fill_diagonal_(-torch.inf).argmax(1)] == labels
    return hits[torch.bincount(labels)[labels] > 1].float().mean()


def second_of_the_others(x, labels):
    second = cosines_of(x).fill_diagonal_(-torch.inf).topk(2).indices[:, 1]
    return (labels[second] == labels).float().mean()


def opposite_rows(answer, case):
    x, labels = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1])
    if float(answer(x, labels)) != 0:
        return (
            "with two opposite rows of different labels it does not give 0: their cosine is −1, so a diagonal of −1 is "
            "no smaller than it. Fill in -torch.inf."
        )
    return None


leave_one_out = Exercise(
    id="11.4",
    limit=opposite_rows,
    right=leave_one_out_right,
    inputs=labelled_vectors,
    also=lambda generator: tuple(part[5:26] for part in labelled_vectors(generator)),
    reads=lambda share: torch.as_tensor(share).float(),
    mistakes=(
        Mistake(
            "itself",
            lambda x, labels: nearest_label(cosines_of(x), labels),
            "100 %, whatever the vectors: the nearest row to each row is itself. Take the diagonal out before you look "
            "for the largest.",
            "https://github.com/scikit-learn/scikit-learn/issues/8076",
        ),
        Mistake(
            "a diagonal of zeros",
            zeros_on_the_diagonal,
            "the diagonal is 0, and 0 is larger than a negative cosine: a row at more than a right angle to all "
            "others is still its own neighbour, also where others have its label. Fill in -torch.inf.",
            "`fill_diagonal_(0)` in https://github.com/Lightning-AI/pytorch-lightning/pull/3349",
        ),
        Mistake(
            "not by cosine",
            dots_without_self,
            "you compare dot products: long vectors are everybody's neighbours. Make the rows length 1 first.",
            "https://github.com/facebookresearch/faiss/issues/1119 (inner products in place of cosines)",
        ),
        Mistake(
            "distances of rows of any length",
            lambda x, labels: nearest_label(-torch.cdist(x, x).fill_diagonal_(torch.inf), labels),
            "you compare distances of the rows as they are, so their lengths decide. The text asks for the "
            "cosine: make "
            "the rows length 1 first.",
            "a fresh reader of this lesson: torch.cdist without F.normalize",
        ),
        Mistake(
            "a column less",
            without_the_column,
            "each row's own cosine is taken out, so the columns behind it move one to the left and `argmax` points to "
            "the wrong label. Keep the matrix square and fill its diagonal with -torch.inf.",
            "a fresh reader of this lesson: `cosines[~torch.eye(N).bool()].view(N, N - 1)`",
        ),
        Mistake(
            "single rows left out",
            without_singles,
            "you leave out rows that are the only one of their label. They can never be right, but they count.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "the sign dropped",
            lambda x, labels: nearest_label(cosines_of(x).abs().fill_diagonal_(-torch.inf), labels),
            "you compare absolute values: a row that points the opposite way counts as near. Leave the sign.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "centred inside",
            lambda x, labels: leave_one_out_right(x - x.mean(0), labels),
            "you centre the rows. Somebody centred the vectors *before* this function, and it should take the rows as "
            "they come.",
            "a fresh reader of this lesson: the text tells of centring",
        ),
        Mistake(
            "the second of the others",
            second_of_the_others,
            "that is the second nearest of the others: the diagonal is out already, so the first place is the answer.",
            "a fresh reader of this lesson: `topk(2)` after `fill_diagonal_`",
        ),
        Mistake(
            "a number of rows",
            lambda x, labels: leave_one_out_right(x, labels) * len(x),
            "you return the number of rows that are right. The exercise asks for the proportion: divide by N.",
            "a fresh reader of this lesson: `sum` for `mean`",
        ),
        Mistake(
            "the farthest",
            farthest,
            "that is the *farthest* row. A cosine is large where two vectors are near; a distance is small.",
            "https://github.com/facebookresearch/faiss/issues/95 (similarity or distance?)",
        ),
    ),
    hints=(
        "All cosines: `unit @ unit.T` with `unit = F.normalize(x, dim=-1)`.",
        "`cosines.fill_diagonal_(-torch.inf)` keeps a row from being its own neighbour; then `argmax(1)`.",
        "`(labels[cosines.argmax(1)] == labels).float().mean()`",
    ),
    praise="Each text judged by the others, never by itself.",
    other_ways=(
        lambda x, y: (y[F.cosine_similarity(x[:, None], x, dim=-1).topk(2).indices[:, 1]] == y).double().mean(),
        lambda x, y: (
            sum(
                y[max((j for j in range(len(x)) if j != i), key=lambda j: F.cosine_similarity(x[i], x[j], dim=0))]
                == y[i]
                for i in range(len(x))
            )
            / len(x)
        ),
    ),
)


# --- 11.5 the build: k-means ------------------------------------------------------------------------------------------


def lloyd(x, centres, steps=100):
    labels = None
    for _ in range(steps):
        nearest = torch.cdist(x, centres).argmin(1)  # (N,)
        if labels is not None and torch.equal(nearest, labels):
            break
        labels = nearest
        members = F.one_hot(labels, len(centres)).to(x.dtype)  # (N, K)
        counts = members.sum(0)[:, None]  # (K, 1)
        centres = torch.where(counts > 0, members.T @ x / counts.clamp(min=1), centres)
    return labels, centres


lloyd.__name__ = "k_means"


def heaps(generator, N=30, K=3, C=4, dtype=torch.float32):
    """Rows (N, C) around K middles, of which some overlap, and K of the rows to start from."""
    middles = 2 * torch.randn(K, C, generator=generator, dtype=dtype)
    x = middles[torch.arange(N) % K] + torch.randn(N, C, generator=generator, dtype=dtype) + 1
    return x, x[torch.randperm(N, generator=generator)[:K]].clone()


def grouped(answer, *arguments):
    result = untouched(answer, *arguments)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Fault(f"expected a pair, `return labels, centres`; yours is {describe(result)}.")
    return tuple(result)


def group_shapes(answer, generator):
    labels, centres = grouped(answer, *heaps(generator))
    parts = (("labels", labels), ("centres", centres))
    return tuple(f"{n} are {describe(t) if isinstance(t, torch.Tensor) else type(t).__name__}" for n, t in parts)


def one_step(answer, generator):
    return grouped(answer, *heaps(generator), 1)


def two_steps(answer, generator):
    return grouped(answer, *far_start(generator), 2)


def far_start(generator, N=40, C=4):
    """Rows along a line and three starts at one end of it: the groups change for many steps."""
    along = torch.rand(N, 1, generator=generator).sort(0).values * 20
    x = along * torch.linspace(1, 0.5, C) + 0.3 * torch.randn(N, C, generator=generator)
    return x, x[:3].clone()


def to_the_end(answer, generator):
    x, centres = far_start(generator)
    points = [13, 4, 16, 6, 16, 12, 5, 2, 9, 14, 4, 16, 2, 11, 5, 7, 17, 1, 13, 17, 1, 12, 17, 9]
    same_sizes = (
        torch.tensor(points).view(12, 2).float()
    )  # its second step has groups of the same sizes, with other rows
    return (
        grouped(answer, x, centres),
        grouped(answer, x / 10_000, centres / 10_000),  # whether it is done does not depend on the unit
        grouped(answer, same_sizes, torch.tensor([[5.0, 2.0], [16.0, 12.0]])),
    )


def empty_group(answer, generator):
    x, centres = heaps(generator)
    centres[1] = 500.0  # so far away that no row comes
    line = torch.tensor([7.0, 10, 26, 13, 29, 8, 12])[
        :, None
    ]  # here the last centre moves first and loses its rows later
    four = torch.tensor([0.0, 1, 10, 11])[:, None]  # in the first step all rows go to centre 0
    return (
        grouped(answer, x, centres),
        grouped(answer, line, torch.tensor([[35.0], [-11], [28]])),
        grouped(answer, four, torch.tensor([[9.0], [14]])),
    )


def equal_distances(answer, generator):
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0], [6.0, 0.0]])  # rows 1 and 2 lie in the middle of two centres
    centres = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 0.0]])
    return grouped(answer, x, centres, 1)


def group_other_sizes(answer, generator):
    cases = (heaps(generator, 21, 5, 3), heaps(generator, 9, 1, 2), heaps(generator, 8, 8, 6))
    return tuple(grouped(answer, *case) for case in cases)


def group_double(answer, generator):
    labels, centres = grouped(answer, *heaps(generator, dtype=torch.float64))
    return f"centres of {centres.dtype}", labels, centres


def wrong_k_means(
    assign="near", move="mean", empty="stays", runs="steps", gives="together", K=None, kind=None, stop="labels"
):
    """Return k-means as a learner may write it; the arguments are the mistakes."""

    def k_means(x, centres, steps=100):
        start = centres
        labels = torch.zeros(len(x), dtype=torch.int64) if "zeros" in stop else None
        for _ in range({"steps": steps, "one": 1, "always": 100, "more": steps + 1}[runs]):
            distances = torch.cdist(x, centres, p=1.0 if assign == "L1" else 2.0)
            if assign in ("dot", "cosine"):
                distances = -(F.normalize(x, dim=-1) @ F.normalize(centres, dim=-1).T)
                distances = distances if assign == "cosine" else -x @ centres.T
            if assign == "far":
                distances = -distances
            if assign == "last":
                nearest = len(centres) - 1 - distances.flip(1).argmin(1)
            else:
                nearest = distances[:, :K].argmin(1)
            last, labels, new = labels, nearest, []
            if stop in ("labels", "zeros") and last is not None and torch.equal(nearest, last):
                break
            for k, centre in enumerate(centres):
                rows = x[labels == k]
                if not len(rows) and empty == "stays":
                    new.append(centre)
                elif not len(rows) and empty == "start":
                    new.append(start[k])
                elif not len(rows) and empty == "zero":
                    new.append(torch.zeros_like(centre))
                elif not len(rows) and empty == "a row":
                    new.append(x[torch.cdist(x, centres).min(1).values.argmax()])
                else:
                    means = {"mean": rows.mean, "unit": rows.mean, "sum": rows.sum}
                    means |= {"median": lambda d, r=rows: r.median(d)[0], "of all": lambda d, r=rows: r.sum(d) / len(x)}
                    new.append(means[move](0))
            before, centres = centres, torch.stack(new)
            if move == "unit":
                centres = F.normalize(centres, dim=-1)
            if stop == "still" and (centres - before).norm() < 0.01:
                break
            if stop == "zeros, after the move" and torch.equal(nearest, last):
                break
            sizes = [torch.bincount(part, minlength=len(centres)) for part in (labels, last) if part is not None]
            if stop == "sizes" and len(sizes) == 2 and torch.equal(*sizes):
                break
        if gives == "next labels":
            labels = torch.cdist(x, centres).argmin(1)
        return labels if kind is None else labels.to(kind), before if gives == "centres before" else centres

    return k_means


def dropped_empty(x, centres, steps=100):
    """Groups without rows vanish."""
    for _ in range(steps):
        labels = torch.cdist(x, centres).argmin(1)
        centres = torch.stack([x[labels == k].mean(0) for k in labels.unique()])
    return labels, centres


def by_lists(x, centres, steps=100):
    """Another way: a row after the other."""
    labels = [-1] * len(x)
    centres = centres.clone()
    for _ in range(steps):
        new = [min(range(len(centres)), key=lambda k: float((row - centres[k]).square().sum())) for row in x]
        if new == labels:
            break
        labels = new
        for k in range(len(centres)):
            rows = [row for row, label in zip(x, labels, strict=True) if label == k]
            if rows:
                centres[k] = torch.stack(rows).mean(0)
    return torch.tensor(labels), centres


def until_still(x, centres, steps=100):
    """Another way: until no centre moves, with index_add."""
    for _ in range(steps):
        labels = (x[:, None] - centres).square().sum(-1).argmin(1)
        counts = torch.bincount(labels, minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add(0, labels, x)
        new = torch.where(counts > 0, sums / counts, centres)
        if torch.equal(new, centres):
            break
        centres = new
    return labels, centres


k_means = Build(
    id="11.5",
    course=lloyd,
    stages=(
        Stage("a pair", group_shapes),
        Stage("one step", one_step),
        Stage("two steps", two_steps),
        Stage("until nothing changes", to_the_end),
        Stage("a group without rows", empty_group),
        Stage("equal distances", equal_distances),
        Stage("other sizes", group_other_sizes),
        Stage("float64", group_double),
    ),
    mistakes=(
        Mistake(
            "labels as floats",
            wrong_k_means(kind=torch.float32),
            "the labels are floats. They are numbers of centres: whole ones, int64, as `argmin` returns them.",
            "labels kept in a tensor made by torch.zeros(N)",
        ),
        Mistake(
            "groups without rows vanish",
            dropped_empty,
            "a centre without rows is thrown away, so fewer than K centres come back and the numbers of the others "
            "shift. Keep such a centre where it is.",
            "looping over labels.unique() in place of range(K)",
        ),
        Mistake(
            "the farthest",
            wrong_k_means(assign="far"),
            "each row goes to the *farthest* centre: take the smallest distance, `argmin`.",
            "argmax for argmin, which is right for similarities",
        ),
        Mistake(
            "by dot product",
            wrong_k_means(assign="dot"),
            "each row goes to the centre with the largest dot product, so long centres win. Nearest means the smallest "
            "Euclidean distance, ‖x − c‖.",
            "https://github.com/facebookresearch/faiss/issues/1119 (inner products in place of distances)",
        ),
        Mistake(
            "by cosine",
            wrong_k_means(assign="cosine"),
            "each row goes to the centre of the largest cosine. That is *spherical* k-means; the text asks for the "
            "smallest Euclidean distance. (The lesson gives it vectors of length 1.)",
            "spherical k-means, Dhillon and Modha 2001",
        ),
        Mistake(
            "the sum of absolute differences",
            wrong_k_means(assign="L1"),
            "you add up absolute differences, `p=1`. The text asks for the Euclidean distance, `torch.cdist`'s "
            "default.",
            "the distance of k-medians",
        ),
        Mistake(
            "sums for means",
            wrong_k_means(move="sum"),
            "the centre becomes the *sum* of its rows. Divide by their number.",
            "`members.T @ x` without the counts",
        ),
        Mistake(
            "divided by all rows",
            wrong_k_means(move="of all"),
            "the sum of a group's rows is divided by the number of *all* rows. Divide by the number in the group.",
            "a fresh reader of this lesson: `members.T @ x / len(x)`",
        ),
        Mistake(
            "centres of length 1",
            wrong_k_means(move="unit"),
            "the moved centres are made length 1, as in *spherical* k-means. The text asks for the mean as it is.",
            "spherical k-means, Dhillon and Modha 2001",
        ),
        Mistake(
            "a start of its own",
            lambda x, centres, steps=100: lloyd(x, x[: len(centres)], steps),
            "it starts from the first K rows. Start from the `centres` that it is given.",
            "a fresh reader of this lesson: scikit-learn's KMeans chooses the start itself",
        ),
        Mistake(
            "medians",
            wrong_k_means(move="median"),
            "the centre becomes the median of its rows, feature by feature: that is k-medians. Take the mean.",
            "k-medians, where the sum of distances is made small",
        ),
        Mistake(
            "the centres before the move",
            wrong_k_means(gives="centres before"),
            "you return the centres from before the last move. Return those after it: the means of the groups in "
            "`labels`.",
            "assigning, keeping the old centres for a comparison, and returning the wrong name",
        ),
        Mistake(
            "labels of the next step",
            wrong_k_means(gives="next labels"),
            "the centres are right, but the labels are assigned once more after the last move. Return those of "
            "the last "
            "step, of which the centres are the means.",
            "scikit-learn assigns once more, to make predict agree with labels_",
        ),
        Mistake(
            "steps is not used",
            wrong_k_means(runs="always"),
            "your loop goes on after `steps` steps.",
            "a loop `while changed`",
        ),
        Mistake(
            "one step too many",
            wrong_k_means(runs="more"),
            "it makes two steps where `steps` is 1: each pass of the loop is one step, `range(steps)`.",
            "a fresh reader of this lesson: `range(steps + 1)`",
        ),
        Mistake(
            "stops when the centres hardly move",
            wrong_k_means(stop="still"),
            "it stops as soon as the centres hardly move, which depends on the unit of x. The text stops when a step "
            "gives the same labels as the step before.",
            "scikit-learn's `tol`, which it scales by the variance of the data",
        ),
        Mistake(
            "stops at equal sizes",
            wrong_k_means(stop="sizes"),
            "it stops when the groups have the same *sizes* as before. Rows may have changed places: compare "
            "the labels.",
            "a fresh reader of this lesson: torch.bincount compared in place of the labels",
        ),
        Mistake(
            "one step",
            wrong_k_means(runs="one"),
            "one step is right, but no more are made: with the moved centres, assign the rows again.",
            "a return inside the loop",
        ),
        Mistake(
            "the mean of nothing",
            wrong_k_means(empty="nan"),
            "a centre without rows becomes NaN, the mean of nothing. It should stay where it is.",
            "an empty slice's mean, 0 / 0",
        ),
        Mistake(
            "nothing becomes zero",
            wrong_k_means(empty="zero"),
            "a centre without rows moves to zero, and may catch rows there that belong to others. It should stay where "
            "it is.",
            "sums divided by counts.clamp(min=1)",
        ),
        Mistake(
            "back to the start",
            wrong_k_means(empty="start"),
            "a centre that loses its rows goes back to where it *began*. It should stay where the last step left it.",
            "a fresh reader of this lesson: the argument `centres` kept beside the moved ones",
        ),
        Mistake(
            "zeros before the first step",
            wrong_k_means(stop="zeros"),
            "it stops before any centre has moved where the first step gives every row to centre 0: those labels are "
            "compared with zeros that no step has given. The first step has no labels to compare with.",
            "a second reader of this lesson: `labels = torch.zeros(N)` before the loop",
        ),
        Mistake(
            "zeros before the first step, compared after the move",
            wrong_k_means(stop="zeros, after the move"),
            "it stops after one step where that gives every row to centre 0: its labels are compared with zeros that "
            "no step has given. The first step has no labels to compare with.",
            "a second reader of this lesson: `labels = torch.zeros(N)` before the loop",
        ),
        Mistake(
            "a row for an empty group",
            wrong_k_means(empty="a row"),
            "a centre without rows jumps to the row that is farthest from its centre. Many libraries do so, but the "
            "text lets it stay where it is.",
            "scikit-learn relocates empty clusters",
        ),
        Mistake(
            "ties to the last",
            wrong_k_means(assign="last"),
            "a row in the middle of two centres goes to the later one. The text asks for the centre with the "
            "lower number.",
            "`<=` in a loop over the centres",
        ),
        Mistake(
            "three groups",
            wrong_k_means(K=3),
            "only three centres get rows, however many there are: K is `len(centres)`.",
            "a number of the notebook used for an argument",
        ),
    ),
    hints=(
        "One step first. `torch.cdist(x, centres)` holds all distances, (N, K); `argmin(1)` gives the labels.",
        "Then for each k the mean of `x[labels == k]`; collect the means in a list and `torch.stack` them: a new "
        "tensor, "
        "so that the given centres stay as they are. The check then stops at stage 3.",
        "Put the step into `for _ in range(steps)`, and `break` when the new labels are equal to those before.",
        "A centre whose `x[labels == k]` has no rows goes into the list unchanged.",
    ),
    praise="Lloyd's algorithm. It finds groups in anything; whether they mean something is another question.",
    other_ways=(by_lists, until_still, wrong_k_means()),
)
