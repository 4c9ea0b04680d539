"""The checks of lesson 00, Start here."""

import math

import torch
import torch.nn.functional as F

from nextbert_lite.checks.core import Exercise, Mistake, Prediction, hint, solution

__all__ = ["broadcast", "cross_entropy", "dot_products", "hint", "row_means", "solution", "train"]

row_means = Exercise(
    id="00.1",
    right=lambda x: x.mean(-1),
    inputs=lambda generator: (torch.randn(4, 4, generator=generator),),
    mistakes=(
        Mistake(
            "of the columns",
            lambda x: x.mean(0),
            "these are the means of the columns: dim=0 is the one that disappears. To average within each row, the "
            "columns must disappear: dim=-1 (or dim=1).",
            "https://github.com/jadore801120/attention-is-all-you-need-pytorch/issues/52 (dim 0 and the last confused)",
        ),
        Mistake(
            "of everything",
            lambda x: x.mean(),
            "this is one number, the mean of the whole matrix. Say which dimension to average over: dim=-1.",
            "a mean over everything where one per row was meant, as in https://github.com/d2l-ai/d2l-en/issues/2582",
        ),
        Mistake(
            "the dimension kept",
            lambda x: x.mean(-1, keepdim=True),
            "the numbers are right, the shape is (4, 1): keepdim=True keeps the averaged dimension. Here it should go.",
            "a keepdim copied from where broadcasting needs it",
        ),
        Mistake(
            "sums",
            lambda x: x.sum(-1),
            "these are the rows' sums. Divide by the number of columns, or use .mean.",
            "sum and mean confused, as where SimCLR's code returns the sum of both directions",
        ),
    ),
    hints=("`x.mean(dim=...)` averages over one dimension, which disappears.", "The last dimension is dim=-1."),
    praise="This is all there is to it: write, check, go on.",
    also=lambda generator: (torch.randn(2, 5, generator=generator),),
    other_ways=(
        lambda x: x.sum(1) / x.shape[1],
        lambda x: torch.stack([row.mean() for row in x]),
    ),
)

broadcast = Prediction(
    id="00.2",
    right=(8, 3, 5),
    mistakes=(
        Mistake(
            "aligned from the left",
            (8, 3),
            "shapes are compared from the right: 5 with 1, then 1 with 3, then 8 with nothing.",
            "shapes that fit by accident; compare exercise 02.5",
        ),
        Mistake(
            "no stretching",
            (8, 1, 5),
            "a dimension of size 1 stretches to the other's size, in either tensor: 1 against 3 gives 3.",
            "a dimension of size 1 overlooked; compare exercise 02.5",
        ),
        Mistake(
            "the last one lost",
            (8, 3, 1),
            "the first two are right. In the last place 5 meets 1, and the 1 stretches to 5.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "joined",
            (8, 1, 5, 3, 1),
            "that would be an outer product. `*` multiplies entry by entry and stretches dimensions of size 1.",
            "a first reading of 'all combinations'",
        ),
    ),
    hints=(
        "Write the two shapes under each other, aligned at the right; a missing dimension counts as 1.",
        "8 1 5 over _ 3 1. In each column the larger one wins, if the other is 1.",
    ),
    praise="Masks of attention are stretched like this in every lesson.",
)

dot_products = Exercise(
    id="00.3",
    right=lambda a, b: a @ b.T,
    inputs=lambda generator: (torch.randn(4, 4, generator=generator), torch.randn(4, 4, generator=generator)),
    mistakes=(
        Mistake(
            "entry by entry",
            lambda a, b: a * b,
            "`*` multiplies entry by entry. The dot product of two rows multiplies *and adds up*: use @.",
            "* and @ confused, the commonest question on matrix products",
        ),
        Mistake(
            "not transposed",
            lambda a, b: a @ b,
            "a @ b takes b's *columns*. The rows of b are the columns of b.T.",
            "https://github.com/cneuralnetwork/solving-ml-papers/issues/1 (operands of the score product confused)",
        ),
        Mistake(
            "the other way round",
            lambda a, b: b @ a.T,
            "this is the transpose of the answer: entry (i, j) should belong to row i of a and row j of b.",
            "the transposed score matrix",
        ),
        Mistake(
            "columns with columns",
            lambda a, b: a.T @ b,
            "these are the dot products of the columns. Transpose the second one, not the first.",
            "the transposed score matrix",
        ),
        Mistake(
            "only the pairs",
            lambda a, b: (a * b).sum(-1),
            "this is row i with row i only. All pairs are wanted, a matrix.",
            "pairs in place of all pairs, as happens with in-batch negatives",
        ),
    ),
    hints=(
        "`a @ b` takes the dot products of a's rows with b's columns.",
        "The rows of b become columns by `b.T`.",
    ),
    praise="Attention starts with exactly this product.",
    also=lambda generator: (torch.randn(2, 5, generator=generator), torch.randn(3, 5, generator=generator)),
    other_ways=(
        lambda a, b: torch.einsum("id,jd->ij", a, b),
        lambda a, b: (a[:, None] * b[None]).sum(-1),
    ),
)


def logits_and_labels(generator):
    return 2 * torch.randn(6, 5, generator=generator), torch.randint(5, (6,), generator=generator)


def picked(logits, labels):
    """Return the log-probability of each row's label."""
    return logits.log_softmax(-1)[torch.arange(len(labels)), labels]


cross_entropy = Exercise(
    id="00.4",
    right=lambda logits, labels: F.cross_entropy(logits, labels),
    inputs=logits_and_labels,
    also=lambda generator: (torch.randn(4, 7, generator=generator), torch.randint(7, (4,), generator=generator)),
    mistakes=(
        Mistake(
            "softmax twice",
            lambda logits, labels: F.cross_entropy(logits.softmax(-1), labels),
            "softmax is applied twice: F.cross_entropy (or log_softmax) does it itself. The loss still falls in "
            "training, only slowly and never near 0, which is why this bug lives long.",
            "nn.CrossEntropyLoss's documentation: the input is unnormalised logits",
        ),
        Mistake(
            "no minus",
            lambda logits, labels: picked(logits, labels).mean(),
            "the sign is missing: log-probabilities are negative, the loss is minus their mean.",
            "the definition read without its minus",
        ),
        Mistake(
            "the sum",
            lambda logits, labels: -picked(logits, labels).sum(),
            "this is the sum over the batch. The mean does not depend on how large the batch is.",
            "sum and mean confused, as where SimCLR's code returns the sum of both directions",
        ),
        Mistake(
            "no mean",
            lambda logits, labels: -picked(logits, labels),
            "this is the loss of each example. The loss of a batch is one number, their mean.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "softmax over the batch",
            lambda logits, labels: -logits.log_softmax(0)[torch.arange(len(labels)), labels].mean(),
            "the softmax runs over the examples (dim 0). It must run over the V words, the last dimension.",
            "a fresh reader of this lesson; https://github.com/PetrochukM/PyTorch-NLP/issues/2",
        ),
        Mistake(
            "in bits",
            lambda logits, labels: -picked(logits, labels).mean() / math.log(2),
            "right, but in bits (log to base 2). This course counts in nats, with the natural logarithm.",
            "bits and nats confused, as with bits per byte in lesson 07",
        ),
        Mistake(
            "no logarithm",
            lambda logits, labels: -picked(logits, labels).exp().mean(),
            "this is minus the mean probability. Take the logarithm of each probability before the mean.",
            "a probability where a log-probability is wanted",
        ),
        Mistake(
            "the log of the mean",
            lambda logits, labels: -picked(logits, labels).exp().mean().log(),
            "you take the logarithm of the mean probability. It is the other way round: the mean of the logarithms.",
            "the mean taken too early, as in https://github.com/d2l-ai/d2l-en/issues/2582",
        ),
        Mistake(
            "all classes",
            lambda logits, labels: -logits.log_softmax(-1).mean(),
            "this averages over all classes. Only the log-probability of each row's label counts: index with "
            "[torch.arange(len(labels)), labels].",
            "labels forgotten in the indexing",
        ),
    ),
    hints=(
        "Turn the logits into log-probabilities: `logits.log_softmax(-1)`, one row for each example.",
        "From row i take the entry labels[i]: `log_probabilities[torch.arange(len(labels)), labels]`.",
        "The loss is minus the mean of what you took.",
    ),
    praise="This loss, in nats, is what every model of the course minimises.",
    other_ways=(
        lambda logits, labels: -logits.softmax(1).gather(1, labels[:, None]).log().mean(),
        lambda logits, labels: sum(-row.log_softmax(0)[i] for row, i in zip(logits, labels, strict=True)) / len(labels),
        lambda logits, labels: (logits.logsumexp(-1) - logits[torch.arange(len(labels)), labels]).mean().item(),
    ),
)


def regression(generator):
    x = torch.randn(20, 3, generator=generator)
    return torch.zeros(3), x, x @ torch.tensor([1.0, -2.0, 0.5]), 0.1, 5


def descend(keep=0.0, sign=-1.0, reduce=torch.mean):
    """Return gradient descent on the squared error that keeps this share of the old gradient at each step."""

    def run(w, x, y, lr, steps):
        w, gradient = w.clone().requires_grad_(), torch.zeros_like(w)
        for _ in range(steps):
            gradient = keep * gradient + torch.autograd.grad(reduce((x @ w - y) ** 2), w)[0]
            w = (w + sign * lr * gradient).detach().requires_grad_()
        return w.detach()

    return run


def train_by_hand(w, x, y, lr, steps):
    for _ in range(steps):
        w = w - lr * 2 * x.T @ (x @ w - y) / len(x)
    return w


def train_with_set_to_none(w, x, y, lr, steps):
    w = torch.nn.Parameter(w.clone())
    for _ in range(steps):
        F.mse_loss(x @ w, y).backward()
        with torch.no_grad():
            w -= lr * w.grad
        w.grad = None
    return w


def another_regression(generator):
    x = torch.randn(12, 2, generator=generator)
    return torch.ones(2), x, x @ torch.tensor([0.5, 1.0]), 0.05, 3


train = Exercise(
    id="00.5",
    right=descend(),
    inputs=regression,
    also=another_regression,
    mistakes=(
        Mistake(
            "the bug as it was",
            descend(keep=1.0),
            "the bug is still there: backward *adds* to .grad, so each step also takes all earlier gradients again. "
            "Call optimizer.zero_grad() once in every step, before backward.",
            "https://github.com/wenet-e2e/wekws/pull/73, https://github.com/pytorch/pytorch/issues/47175",
        ),
        Mistake(
            "cleared too early",
            lambda w, x, y, lr, steps: w.clone(),
            "the weights did not move at all: the gradients are cleared between backward and step, or step is never "
            "called. The order is zero_grad, backward, step.",
            "https://github.com/ultralytics/ultralytics/pull/11217",
        ),
        Mistake(
            "uphill",
            descend(sign=1.0),
            "the loss goes up: the step must go against the gradient, w - lr * gradient.",
            "the sign of the update, when written by hand",
        ),
        Mistake(
            "one step only",
            lambda w, x, y, lr, steps: descend()(w, x, y, lr, 1),
            "only one step was taken: is the `return` inside the loop?",
            "a return that is indented too far",
        ),
        Mistake(
            "the sum",
            descend(reduce=torch.sum),
            "the loss is the sum of the squared errors, so the steps are 20 times too long. Keep the mean.",
            "sum and mean confused",
        ),
    ),
    hints=(
        "Print w.grad after the first and after the second backward. Is the second one only the second?",
        "`optimizer.zero_grad()` clears what backward has added up. Where must it stand?",
    ),
    praise="zero_grad, backward, step: the order of every training loop.",
    other_ways=(
        train_by_hand,
        train_with_set_to_none,
    ),
)
