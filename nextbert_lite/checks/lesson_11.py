"""The checks of lesson 11, Geometry and clusters."""

import itertools
import math

import torch
import torch.nn.functional as F

from nextbert_lite.checks.core import Exercise, Mistake, Prediction, hint, solution

__all__ = ["hint", "leave_one_out", "mean_cosine", "share_right", "solution", "two_poles", "whitened"]

# --- 11.1 anisotropy --------------------------------------------------------------------------------------------------


def vectors_in_a_cone(generator):
    x = torch.randn(6, 4, generator=generator) + 0.4
    return (x * torch.linspace(0.5, 3, 6)[:, None],)  # of different lengths


def cosines_of(x):
    unit = F.normalize(x, dim=-1)
    return unit @ unit.T


def off_diagonal(matrix):
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


def mean_cosine_right(x):
    return off_diagonal(cosines_of(x)).mean()


def mean_of_dots(x):
    return off_diagonal(x @ x.T).mean()


mean_cosine = Exercise(
    id="11.1",
    right=mean_cosine_right,
    inputs=vectors_in_a_cone,
    also=lambda generator: (torch.randn(9, 3, generator=generator),),
    mistakes=(
        Mistake(
            "the diagonal counted",
            lambda x: cosines_of(x).mean(),
            "you average the whole matrix, diagonal and all: each text's cosine with itself, always 1, is counted too. "
            "With few texts that alone looks like a cone. Only pairs of different texts count.",
            "https://github.com/OryxProject/oryx/pull/60 (self-similarity in a mean of cosines)",
        ),
        Mistake(
            "the diagonal out of the sum only",
            lambda x: (cosines_of(x).sum() - len(x)) / len(x) ** 2,
            "the diagonal is out of the sum, but you still divide by N²: N (N − 1) pairs are left.",
            "https://github.com/OryxProject/oryx/pull/60, half repaired",
        ),
        Mistake(
            "not normalised",
            mean_of_dots,
            "these are dot products, not cosines: long vectors count more, and the result may exceed 1. Divide each "
            "vector by its length first: F.normalize(x, dim=-1).",
            "https://github.com/facebookresearch/faiss/issues/1119 (inner products of 267 in place of cosines)",
        ),
        Mistake(
            "normalised along the wrong axis",
            lambda x: off_diagonal(F.normalize(x, dim=0) @ F.normalize(x, dim=0).T).mean(),
            "you normalised each feature over the texts, dim=0. A cosine needs each text's vector, a row, at length 1: "
            "dim=-1.",
            "https://github.com/alireza-nasiri/SoundCLR/issues/4",
        ),
    ),
    hints=(
        "Make all rows length 1, `F.normalize(x, dim=-1)`; then `unit @ unit.T` holds all cosines.",
        "Take the diagonal out of the sum, and divide by the number of pairs that are left: N (N − 1).",
        "`(cosines.sum() - cosines.diagonal().sum()) / (len(x) * (len(x) - 1))`",
    ),
    praise="Pairs of different texts only, each vector at length 1.",
    other_ways=(
        lambda x: ((n := len(x)) * F.normalize(x, dim=-1).mean(0).square().sum() - 1) / (n - 1),
        lambda x: torch.stack([F.cosine_similarity(a, b, dim=0) for a, b in itertools.permutations(x, 2)]).mean(),
    ),
)

# --- 11.2 two poles ---------------------------------------------------------------------------------------------------

two_poles = Prediction(
    id="11.2",
    right=math.log((1 + math.exp(-8)) / 2),
    tolerance=0.005,
    mistakes=(
        Mistake(
            "the mean of the exponents",
            -4.0,
            "you averaged the exponents, 0 and −8. The formula averages the e-powers first and takes the logarithm "
            "after: close pairs count far more than far ones, and that is its purpose.",
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

# --- 11.3 find the bug: whitening -------------------------------------------------------------------------------------


def train_and_test(generator):
    mix = torch.randn(4, 4, generator=generator) + torch.diag(torch.tensor([3.0, 2.0, 2.0, 2.0]))
    train = torch.randn(60, 4, generator=generator) @ mix + torch.tensor([2.0, -1.0, 0.5, 3.0])
    x = torch.randn(7, 4, generator=generator) @ mix + torch.tensor([1.0, 0.0, 2.0, 3.0])
    return train, x


def one_query(generator):
    train, x = train_and_test(generator)
    return train, x[:1]


def eigen(centred):
    return torch.linalg.eigh(centred.T @ centred / len(centred))


def whitening(mean_of, covariance_of, power=-0.5):
    """Return a right or wrong `whitened`: the mean and the centred vectors to take the axes from, as functions."""

    def whiten(train, x):
        mean = mean_of(train, x)
        variances, directions = eigen(covariance_of(train, x))
        return (x - mean) @ directions * variances.clamp_min(1e-12) ** power

    return whiten


def train_mean(train, x):
    return train.mean(0)


def test_mean(train, x):
    return x.mean(0)


def centred_train(train, x):
    return train - train.mean(0)


def centred_test(train, x):
    return x - x.mean(0)


def both(train, x):
    return torch.cat([train, x])


def whitened_by_svd(train, x):
    mean = train.mean(0)
    _, s, v = torch.linalg.svd(train - mean, full_matrices=False)
    return (x - mean) @ v.T / s * len(train) ** 0.5


whitened = Exercise(
    id="11.3",
    right=whitening(train_mean, centred_train),
    inputs=train_and_test,
    reads=lambda out: out @ out.T,  # axes may be turned or mirrored: what counts is how the vectors lie
    also=one_query,
    mistakes=(
        Mistake(
            "the bugs as they were",
            whitening(test_mean, centred_test, -1.0),
            "both bugs are still there. From which vectors come the mean and the axes, and what remains of a single "
            "query minus its own mean? And what is the standard deviation, if λ is the variance?",
            "https://github.com/YahooArchive/crow/issues/8 and https://github.com/facebookresearch/faiss/issues/559",
        ),
        Mistake(
            "fitted on the test",
            whitening(test_mean, centred_test),
            "mean and axes still come from x, the texts that are tested. So the result for a text depends on which "
            "others are asked with it, and one query alone becomes 0 / 0, which is NaN. Fit both on `train`.",
            "https://github.com/YahooArchive/crow/issues/8",
        ),
        Mistake(
            "divided by the variance",
            whitening(train_mean, centred_train, -1.0),
            "fitted on the right texts, but divided by the variance. After that the directions that varied least vary "
            "most. Divide by its square root.",
            "https://github.com/Salma-El-Alaoui/Blind-Source-Separation/issues/2",
        ),
        Mistake(
            "only turned",
            whitening(train_mean, centred_train, 0.0),
            "the vectors are centred and turned, but not divided by anything: all cosines of the centred vectors are "
            "as before. Divide by the standard deviations.",
            "https://github.com/facebookresearch/faiss/issues/559 (power 0: no whitening)",
        ),
        Mistake(
            "the mean of the test",
            whitening(test_mean, centred_train),
            "the axes come from `train`, but the mean still comes from x: one query alone minus itself is zero. "
            "Subtract the mean of `train`.",
            "https://github.com/YahooArchive/crow/issues/8, half repaired",
        ),
        Mistake(
            "the axes of the test",
            whitening(train_mean, centred_test),
            "the mean comes from `train`, but the axes and variances still come from x. Take both from `train`.",
            "https://github.com/YahooArchive/crow/issues/8, half repaired",
        ),
        Mistake(
            "train without its mean",
            whitening(train_mean, lambda train, x: train),
            "the covariance needs the *centred* training vectors. Without that the mean itself becomes the largest "
            "direction.",
            "https://github.com/keras-team/keras/issues/7792",
        ),
        Mistake(
            "train and test together",
            whitening(
                lambda train, x: both(train, x).mean(0), lambda train, x: both(train, x) - both(train, x).mean(0)
            ),
            "you fit on training and test texts together. The test texts must have no part in it.",
            "https://github.com/YahooArchive/crow/issues/8 (may a part of the test data be used?)",
        ),
    ),
    hints=(
        "One text, x of shape (1, C): what is x − x.mean(0)?",
        "Mean, covariance and axes come from `train`; only the last line uses x.",
        "`(x - mean) @ directions / variances.sqrt()`, with `mean = train.mean(0)` and the axes of `train - mean`.",
    ),
    praise="Fitted on the training texts: one query or a thousand, each gets the same vector.",
    other_ways=(
        lambda train, x: (x - train.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(train.T.cov(correction=0))).T,
        whitened_by_svd,
    ),
)

# --- 11.4 ties --------------------------------------------------------------------------------------------------------


def cosines_with_ties(generator):
    right = torch.rand(20, generator=generator, dtype=torch.float64)
    wrong = torch.rand(20, generator=generator, dtype=torch.float64)
    right[0], wrong[0], right[1], wrong[1], right[2], wrong[2] = 0.9, 0.1, 0.8, 0.2, 0.1, 0.7  # not one half by chance
    right[3], wrong[3] = 0.6, 0.2
    right[14:] = wrong[14:] + 0.1
    wrong[4:9] = right[4:9]  # exact ties
    wrong[9:12] = right[9:12] + 1e-9  # rounding, against
    wrong[12:14] = right[12:14] - 1e-9  # rounding, for
    right[14], right[15], right[16] = 0.95, 0.85, 0.75
    wrong[14:17] = right[14:17] - torch.tensor([4e-6, 5e-6, 6e-6])  # no ties: more than a millionth, by little
    return right, wrong


def only_ties(generator):
    right, _ = cosines_with_ties(generator)
    return right[:13], right[:13].clone()


def tie(right, wrong):
    return (right - wrong).abs() < 1e-6


def share_right_right(right, wrong):
    ties = tie(right, wrong)
    return ((right > wrong) & ~ties).float().mean() + 0.5 * ties.float().mean()


def share_by_isclose(right, wrong):
    ties = torch.isclose(right, wrong, atol=1e-6)
    return ((right > wrong) & ~ties).float().mean() + 0.5 * ties.float().mean()


share_right = Exercise(
    id="11.4",
    right=share_right_right,
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
            "the wrong way round",
            lambda right, wrong: share_right_right(wrong, right),
            "the wrong way round: the *paraphrase*, the first argument, shall have the larger cosine.",
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

# --- 11.5 leave one out -----------------------------------------------------------------------------------------------


def labelled_vectors(generator):
    labels = torch.arange(60) % 3
    middle = 2 * torch.rand(3, 5, generator=generator)
    x = (middle[labels] + 0.6 * torch.randn(60, 5, generator=generator)).abs()
    x[0], labels[0] = -x[0], 3  # at more than a right angle to all others, and the only one of its kind
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


leave_one_out = Exercise(
    id="11.5",
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
            "the diagonal is 0 now, but 0 is still larger than a negative cosine: a row that is at more than a right "
            "angle to all others is still its own neighbour. Fill in -torch.inf.",
            "`fill_diagonal_(0)` in https://github.com/Lightning-AI/pytorch-lightning/pull/3349",
        ),
        Mistake(
            "not by cosine",
            dots_without_self,
            "you compare dot products: long vectors are everybody's neighbours. Make the rows length 1 first.",
            "https://github.com/facebookresearch/faiss/issues/1119 (inner products in place of cosines)",
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
