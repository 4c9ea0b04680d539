"""The checks of lesson 00, Start here."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

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
    solution,
    unchanged,
)

__all__ = [
    "broadcast",
    "cross_entropy",
    "descend",
    "dot_products",
    "hint",
    "mine",
    "row_means",
    "solution",
    "training_loop",
]

row_means = Exercise(
    id="00.1",
    right=lambda x: x.mean(-1),
    inputs=lambda generator: (torch.randn(4, 5, generator=generator),),
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
        Mistake(
            "divided by the number of rows",
            lambda x: x.sum(-1) / len(x),
            "you divide each row's sum by the number of *rows*. A row of x, (B, T), holds T numbers, so divide by the "
            "number of columns.",
            "len(x) is the size of the first dimension; a fresh reader of this lesson",
        ),
    ),
    hints=("`x.mean(dim=...)` averages over one dimension, which disappears.", "The last dimension is dim=-1."),
    praise="That is how it works: write, check, go on.",
    also=lambda generator: (torch.randn(2, 3, generator=generator),),
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
            "not broadcast",
            (8, 1, 5),
            "a dimension of size 1 is repeated to the other's size (broadcast), in either tensor: 1 against 3 gives 3.",
            "a dimension of size 1 overlooked; compare exercise 02.5",
        ),
        Mistake(
            "the first one lost",
            (3, 5),
            "the last two are right. The first tensor has one dimension more, 8, and the result keeps it.",
            "the shorter shape taken for the result's; a fresh reader of this lesson",
        ),
        Mistake(
            "the middle one lost",
            (8, 5),
            "a dimension of size 1 does not vanish: it is repeated to the other's size, here 3.",
            "1 read as nothing; a fresh reader of this lesson",
        ),
        Mistake(
            "the last one lost",
            (8, 3, 1),
            "the first two are right. In the last dimension 5 meets 1, and the 1 is repeated to 5.",
            "a fresh reader of this lesson",
        ),
        Mistake(
            "joined",
            (8, 1, 5, 3, 1),
            "that would be an outer product. `*` multiplies entry by entry and repeats dimensions of size 1.",
            "a first reading of 'all combinations'",
        ),
    ),
    hints=(
        "Write one shape below the other, aligned at the right; a missing dimension counts as 1.",
        "8 1 5 over _ 3 1. In each column the larger one wins, if the other is 1.",
    ),
    praise="Attention masks are broadcast like this in every lesson.",
)

dot_products = Exercise(
    id="00.3",
    right=lambda a, b: a @ b.T,
    inputs=lambda generator: (torch.randn(4, 4, generator=generator), torch.randn(4, 4, generator=generator)),
    mistakes=(
        Mistake(
            "not added up",
            lambda a, b: a[:, None] * b,
            "the entries of each two rows are multiplied, but not added up. Sum over the last dimension, or use @.",
            "broadcasting without the sum; a fresh reader of this lesson",
        ),
        Mistake(
            "cosines",
            lambda a, b: F.normalize(a, dim=1) @ F.normalize(b, dim=1).T,
            "these are cosines: the rows were divided by their lengths. The dot product is not.",
            "similarity and dot product confused; a fresh reader of this lesson",
        ),
        Mistake(
            "the mean in place of the sum",
            lambda a, b: (a[:, None] * b).mean(-1),
            "this is the mean of the products. The dot product is their sum.",
            "a fresh reader of this lesson",
        ),
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


def finite_far_apart(answer, case):
    """Return a sentence if the loss is lost where the logits are far apart, as after softmax and log in two steps."""
    logits, labels = case
    if math.isfinite(float(torch.as_tensor(answer(1000 * logits, labels)))):
        return None
    return (
        "where the logits are far apart, your loss is not finite: softmax rounds a very small probability to 0, and "
        "the logarithm of 0 is −∞. Take both in one step, with log_softmax."
    )


cross_entropy = Exercise(
    id="00.4",
    right=lambda logits, labels: F.cross_entropy(logits, labels),
    inputs=logits_and_labels,
    also=lambda generator: (torch.randn(4, 7, generator=generator), torch.randint(7, (4,), generator=generator)),
    limit=finite_far_apart,
    mistakes=(
        Mistake(
            "every label in every row",
            lambda logits, labels: -logits.log_softmax(-1)[:, labels].mean(),
            "`[:, labels]` takes *all* labels from each row, B × B entries. Pair the rows with their labels: "
            "`[torch.arange(len(labels)), labels]`.",
            "numpy's indexing: a slice and an array are not paired; a fresh reader of this lesson",
        ),
        Mistake(
            "the logits themselves",
            lambda logits, labels: -logits[torch.arange(len(labels)), labels].mean(),
            "these are the logits of the labels. A logit is not yet a log-probability: log_softmax comes first.",
            "F.nll_loss on logits; a fresh reader of this lesson",
        ),
        Mistake(
            "a mean over all V entries",
            lambda logits, labels: -picked(logits, labels).mean() / logits.shape[1],
            "you divide by B · V. With one-hot labels all but B of the entries are 0: divide their sum by B.",
            ".mean() of one-hot times log-probabilities; a fresh reader of this lesson",
        ),
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
        lambda logits, labels: -logits.log_softmax(1).gather(1, labels[:, None]).mean(),
        lambda logits, labels: sum(-row.log_softmax(0)[i] for row, i in zip(logits, labels, strict=True)) / len(labels),
        lambda logits, labels: (logits.logsumexp(-1) - logits[torch.arange(len(labels)), labels]).mean().item(),
    ),
)


def regression(generator):
    x = torch.randn(20, 3, generator=generator)
    return torch.zeros(3), x, x @ torch.tensor([1.0, -2.0, 0.5]), 0.1, 5


def descent(keep=0.0, sign=-1.0, reduce=torch.mean):
    """Return gradient descent on the squared error that keeps this part of the old gradient at each step."""

    def run(w, x, y, lr, steps):
        w, gradient = w.clone().requires_grad_(), torch.zeros_like(w)
        for _ in range(steps):
            gradient = keep * gradient + torch.autograd.grad(reduce((x @ w - y) ** 2), w)[0]
            w = (w + sign * lr * gradient).detach().requires_grad_()
        return w.detach()

    return run


def descend_by_hand(w, x, y, lr, steps):
    for _ in range(steps):
        w = w - lr * 2 * x.T @ (x @ w - y) / len(x)
    return w


def descend_with_set_to_none(w, x, y, lr, steps):
    w = torch.nn.Parameter(w.clone())
    for _ in range(steps):
        F.mse_loss(x @ w, y).backward()
        with torch.no_grad():
            w -= lr * w.grad
        w.grad = None
    return w.detach()


def another_regression(generator):
    x = torch.randn(12, 2, generator=generator)
    return torch.ones(2), x, x @ torch.tensor([0.5, 1.0]), 0.05, 3


def without_gradient(answer, case):
    """Return a sentence if the tensor that comes back still takes part in torch's record."""
    if not answer(*case).requires_grad:
        return None
    return (
        "the tensor that you return still has requires_grad=True. Return it without gradient, `w.detach()`: what is "
        "computed with it later should not be recorded."
    )


def with_momentum(w, x, y, lr, steps):
    velocity = torch.zeros_like(w)
    for _ in range(steps):
        velocity = 0.9 * velocity + 2 * x.T @ (x @ w - y) / len(y)
        w = w - lr * velocity
    return w


descend = Exercise(
    id="00.5",
    right=descent(),
    inputs=regression,
    also=another_regression,
    limit=without_gradient,
    mistakes=(
        Mistake(
            "momentum",
            with_momentum,
            "these are steps with momentum 0.9. The text asks for plain gradient descent, without momentum.",
            "momentum=0.9, the usual second argument of torch.optim.SGD; a fresh reader of this lesson",
        ),
        Mistake(
            "half the gradient",
            lambda w, x, y, lr, steps: descent()(w, x, y, lr / 2, steps),
            "each step is half as long as it should be: the derivative of a square, e², is 2e.",
            "the 2 forgotten in a gradient by hand; a fresh reader of this lesson",
        ),
        Mistake(
            "the bug as it was",
            descent(keep=1.0),
            "the bug is still there: backward *adds* to .grad, so each step takes all earlier gradients once more. "
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
            descent(sign=1.0),
            "the loss goes up: the step must go against the gradient, w - lr * gradient.",
            "the sign of the update, when written by hand",
        ),
        Mistake(
            "one step only",
            lambda w, x, y, lr, steps: descent()(w, x, y, lr, 1),
            "only one step was taken: is the `return` inside the loop?",
            "a return that is indented too far",
        ),
        Mistake(
            "the sum",
            descent(reduce=torch.sum),
            "the loss is the sum of the squared errors, so the steps are 20 times too long. Keep the mean.",
            "sum and mean confused",
        ),
    ),
    hints=(
        "Print w.grad after the first and after the second backward. Is the second one only the second?",
        "backward *adds* to w.grad. `optimizer.zero_grad()` clears it: where does it belong?",
    ),
    praise="zero_grad, backward, step: the order of every training loop.",
    other_ways=(
        descend_by_hand,
        descend_with_set_to_none,
    ),
)


# --- 00.6 the build: a training loop ----------------------------------------------------------------------------------


def train(model, batches, steps, lr):
    """Train the model in place: step s is one of SGD on `model.loss(**batches(s))`. Return the losses, as floats."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    model.train()
    for step in range(steps):
        loss = model.loss(**batches(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


class Line(nn.Module):
    """The mean squared error of a line. It writes down in which mode it is asked for its loss."""

    def __init__(self, generator, dropout=0.0):
        super().__init__()
        self.linear, self.dropout, self.modes = nn.Linear(3, 1), nn.Dropout(dropout), []
        for p in self.linear.parameters():
            p.data = torch.randn(p.shape, generator=generator)

    def loss(self, x, y):
        self.modes.append((self.training, self.dropout.training))
        return ((self.linear(self.dropout(x))[:, 0] - y) ** 2).mean()

    def all(self):
        """Return what the model knows, in one row: its weights and bias."""
        return torch.cat([p.detach().flatten() for p in self.linear.parameters()])


class Given:
    """The batches that a check gives, the same one at each step or another each time. It writes down the steps."""

    def __init__(self, generator, always_the_same=True):
        self.made = [
            {"x": torch.randn(6, 3, generator=generator), "y": torch.randn(6, generator=generator)} for _ in range(8)
        ]
        self.before, self.same, self.asked = copy.deepcopy(self.made), always_the_same, []

    def __call__(self, step):
        self.asked.append(step)
        return self.made[0 if self.same else step % len(self.made)]

    def check_unchanged(self):
        if not unchanged(self.before, self.made):
            raise Fault("a batch is changed in place: whoever made it finds it changed. Only read it.")


LR = 0.1  # that of the lesson's own example


def numbers(losses):
    """Return the losses as a tensor (steps,), whether they are floats or tensors."""
    return torch.cat([torch.zeros(0), *(torch.as_tensor(loss).detach().reshape(1) for loss in losses)])


def kind_of_result(answer, generator):
    losses = answer(Line(generator), Given(generator), 3, LR)
    if losses is None:
        raise Fault("your function returns None: it must return the losses, a list with one float for each step.")
    if not isinstance(losses, list):
        raise Fault(f"expected a list with the loss of each step; yours is {describe(losses)}.")
    if len(losses) != 3:
        raise Fault(f"for 3 steps your list holds {len(losses)} numbers; expected one for each step.")
    kinds = sorted({type(loss).__name__ for loss in losses})
    if kinds != ["float"]:
        raise Fault(f"the list holds values of type {', '.join(kinds)}; expected Python floats: `loss.item()`.")
    return tuple(kinds)


def one_step(answer, generator):
    model = Line(generator)
    losses = answer(model, Given(generator), 1, LR)
    return numbers(losses), model.all()


def several_steps(answer, generator):
    model = Line(generator)
    losses = answer(model, Given(generator), 5, LR)
    return numbers(losses), model.all()


def old_gradients(answer, generator):
    """Each parameter comes with a gradient that somebody else's backward() left behind."""
    model = Line(generator)
    for p in model.linear.parameters():
        p.grad = torch.ones_like(p)
    losses = answer(model, Given(generator), 3, LR)
    return numbers(losses), model.all()


def order_of_batches(answer, generator):
    model, batches = Line(generator), Given(generator, always_the_same=False)
    losses = answer(model, batches, 4, LR)
    batches.check_unchanged()
    if batches.asked != [0, 1, 2, 3]:
        asked = ", ".join(map(str, batches.asked))
        raise Fault(f"for 4 steps you call `batches` with {asked}; expected 0, 1, 2, 3, each once.")
    return numbers(losses), model.all()


def frozen_parameters(answer, generator):
    """The bias is frozen, and the model has a parameter that is no part of the loss."""
    model = Line(generator)
    model.unused = nn.Parameter(torch.ones(2))
    model.linear.bias.requires_grad_(False)
    bias = model.linear.bias.detach().clone()
    answer(model, Given(generator), 3, LR)
    if not torch.equal(model.unused.detach(), torch.ones(2)):
        raise Fault("a parameter that is no part of the loss has moved: without a gradient it stays as it is.")
    if model.linear.bias.requires_grad or not torch.equal(model.linear.bias.detach(), bias):
        raise Fault("a frozen parameter has moved or is no longer frozen: its requires_grad is False, leave it alone.")
    return model.all()


def mode(answer, generator):
    """The model comes in eval mode, as from a file, and it has dropout."""
    model = Line(generator, dropout=0.5).eval()
    losses = answer(model, Given(generator), 4, LR)
    if len(set(model.modes)) > 1:
        raise Fault(
            "the model is in train mode at some steps and not at others. Call model.train() before the loop and "
            "model.eval() after it."
        )
    if not model.training:
        for steps, what in ((2, "comes in train mode"), (0, "gets no step (steps is 0)")):
            another = Line(generator)
            answer(another, Given(generator), steps, LR)
            if another.training:
                raise Fault(f"a model that {what} is left in train mode. It is in eval mode afterwards, in every case.")
    return tuple(sorted(set(model.modes))), model.training or model.dropout.training, numbers(losses)


class Scores(nn.Module):
    """Another model, whose batches have other names."""

    def __init__(self, generator):
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.table.weight.data = torch.randn(5, 4, generator=generator)

    def loss(self, ids, labels, scale):
        return scale * F.cross_entropy(self.table(ids), labels)


def other_sizes(answer, generator):
    """Another model, other names, other rates, other numbers of steps, none among them."""
    found = []
    for lr, steps, scale in ((1.0, 7, 1.0), (0.01, 2, 3.0), (0.3, 1, 1.0), (0.3, 0, 1.0)):
        model, asked = Scores(generator), []
        ids, labels = torch.randint(5, (9,), generator=generator), torch.randint(4, (9,), generator=generator)
        batch = {"ids": ids, "labels": labels, "scale": torch.tensor(scale)}

        def batches(step, asked=asked, batch=batch):
            asked.append(step)
            return batch

        losses = answer(model, batches, steps, lr)
        found += [numbers(losses), model.table.weight.detach(), tuple(asked), model.training]
    return tuple(found)


def loop(
    optimizer=torch.optim.SGD,
    zero="before",
    record="item",
    call=None,
    first=0,
    modes=("train", "eval"),
    give=None,
    sign=1,
):
    """Return a training loop as a learner may write it; its switches are the mistakes."""

    def run(model, batches, steps, lr):
        update, losses = optimizer(model.parameters(), lr=lr), []
        if "train" in modes:
            model.train()
        for step in range(first, steps + first):
            loss = call(model, batches, step) if call else model.loss(**batches(step))
            if zero == "before":
                update.zero_grad()
            (sign * loss).backward()
            if zero == "between":
                update.zero_grad()
            update.step()
            if zero == "after":
                update.zero_grad()
            if record == "after":
                loss = model.loss(**batches(step))
            losses.append(loss if record == "tensor" else loss.item())
            if give == "in the loop":
                return losses
        if "eval" in modes:
            model.eval()
        return {"last": losses[-1:], "mean": sum(losses) / max(len(losses), 1)}.get(give, losses)

    return run


def loop_by_hand(update=None, zero="None", parameters=list, modes=True):
    """Return a training loop that takes the step without an optimizer."""

    def step_of(parameter, lr):
        with torch.no_grad():
            if parameter.grad is not None:
                parameter -= lr * parameter.grad

    def run(model, batches, steps, lr):
        losses, own = [], parameters(model.parameters())
        model.train()
        for step in range(steps):
            if zero == "zero_":
                for p in own:
                    p.grad.zero_()
            elif zero == "None":
                model.zero_grad()
            loss = model.loss(**batches(step))
            loss.backward()
            for p in own:
                (update or step_of)(p, lr)
            losses.append(loss.item())
        model.eval()
        return losses

    return run


def without_no_grad(parameter, lr):
    parameter -= lr * parameter.grad


def without_a_look_at_none(parameter, lr):
    with torch.no_grad():
        parameter -= lr * parameter.grad


def by_data(parameter, lr):
    if parameter.grad is not None:
        parameter.data = parameter.data - lr * parameter.grad


def seeded_loop(model, batches, steps, lr):
    torch.manual_seed(0)
    return train(model, batches, steps, lr)


def by_autograd_grad(model, batches, steps, lr):
    losses, own = [], [p for p in model.parameters() if p.requires_grad]
    model.train()
    for step in range(steps):
        loss = model.loss(**batches(step))
        for p, gradient in zip(own, torch.autograd.grad(loss, own, allow_unused=True), strict=True):
            if gradient is not None:
                p.data.sub_(gradient, alpha=lr)
        losses.append(loss.tolist())
    model.eval()
    return losses


def clipped(model, batches, steps, lr):
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=lr), []
    model.train()
    for step in range(steps):
        optimizer.zero_grad()
        loss = model.loss(**batches(step))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


def cleared_at_both_ends(model, batches, steps, lr):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    optimizer.zero_grad(set_to_none=False)
    losses = []
    for step in range(steps):
        model.train(True)
        loss = model.loss(**batches(step))
        losses += [loss.detach().item()]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.train(False)
    return losses


training_loop = Build(
    id="00.6",
    course=train,
    stages=(
        Stage("the kind of the result", kind_of_result),
        Stage("one step", one_step),
        Stage("several steps", several_steps),
        Stage("gradients left from before", old_gradients),
        Stage("the order of the batches", order_of_batches),
        Stage("frozen and unused parameters", frozen_parameters),
        Stage("train and eval mode", mode),
        Stage(OTHER_SIZES, other_sizes),
    ),
    mistakes=(
        Mistake(
            "one star",
            loop(call=lambda model, batches, step: model.loss(*batches(step))),
            "one star passes on the *names* in the batch, which are texts. Two pass each tensor on by its name: "
            "`model.loss(**batches(step))`.",
            "* and ** confused, Python's commonest question on calls",
        ),
        Mistake(
            "the dict itself",
            loop(call=lambda model, batches, step: model.loss(batches(step))),
            "the whole dict is passed as the first argument. Two stars pass each tensor on by its name: "
            "`model.loss(**batches(step))`.",
            "the stars left out",
        ),
        Mistake(
            "tensors in the list",
            loop(record="tensor"),
            "your list holds tensors. Each one keeps the whole computation of its loss in memory, and a long run fills "
            "the machine. Append the number alone: loss.item().",
            "https://github.com/BatsResearch/labelmodels/issues/4",
        ),
        Mistake(
            "one number",
            loop(give="mean"),
            "your function returns one number. It should return the list of the losses, one for each step.",
            "an average over the epoch, as many loops print it",
        ),
        Mistake(
            "return in the loop",
            loop(give="in the loop"),
            "your list has one loss, whatever the number of steps: is the `return` inside the loop, or the list made "
            "anew in each step?",
            "a return that is indented too far",
        ),
        Mistake(
            "the weights do not move",
            loop(zero="between"),
            "the first loss is right, but the weights did not move. Usual causes: the gradients are cleared between "
            "backward and step; step is never called; `p = p - lr * p.grad` makes a new tensor and leaves the model's "
            "own as it was; or a copy of the model is trained.",
            "https://github.com/ultralytics/ultralytics/pull/11217",
        ),
        Mistake(
            "uphill",
            loop(sign=-1),
            "the step goes uphill: subtract lr times the gradient, do not add it.",
            "the sign of the update, when written by hand",
        ),
        Mistake(
            "gradients clipped",
            clipped,
            "the gradient is cut down to norm 1 before the step. The text asks for parameter − lr · gradient "
            "alone; clipping comes in lesson 06.",
            "clip_grad_norm_, which many loops contain; a fresh reader of this lesson",
        ),
        Mistake(
            "another optimizer",
            loop(optimizer=torch.optim.Adam),
            "the step is Adam's. This loop takes plain SGD's, parameter − lr · gradient; lesson 06 builds one with "
            "AdamW.",
            "Adam, the first choice of most tutorials",
        ),
        Mistake(
            "another optimizer, with decay",
            loop(optimizer=torch.optim.AdamW),
            "the step is AdamW's. This loop takes plain SGD's, parameter − lr · gradient; lesson 06 builds one with "
            "AdamW.",
            "AdamW, the first choice for transformers",
        ),
        Mistake(
            "the loss after the step",
            loop(record="after"),
            "the list holds the loss *after* each step, computed a second time. Record the one from which the gradient "
            "came: it is there already, and costs nothing.",
            "the order of the loop's lines confused",
        ),
        Mistake(
            "no gradient to clear yet",
            loop_by_hand(zero="zero_"),
            "before the first backward, `p.grad` is None, so there is nothing to call zero_() on. Use "
            "model.zero_grad(), or look whether p.grad is None.",
            "torch's documentation of Tensor.grad: None by default, a tensor after the first backward()",
        ),
        Mistake(
            "no gradient at all",
            loop_by_hand(update=without_a_look_at_none),
            "a frozen parameter, or one that is no part of the loss, has no gradient: `p.grad` is None there. Leave "
            "such a parameter as it is.",
            "torch's documentation of Tensor.grad: None for what backward() did not reach",
        ),
        Mistake(
            "torch records the step",
            loop_by_hand(update=without_no_grad),
            "torch records what is done to parameters, and refuses to change them in place while it does. Take the "
            "step inside `with torch.no_grad():`, or use torch.optim.SGD.",
            "the commonest error of a step by hand; torch's notes on autograd, in-place operations on leaf tensors",
        ),
        Mistake(
            "gradients add up",
            loop(zero="never"),
            "the first step is right, the later ones are not: backward *adds* to the gradients, so each step takes all "
            "earlier ones again (exercise 00.5). Clear them in every step, before backward.",
            "https://github.com/wenet-e2e/wekws/pull/73, https://github.com/pytorch/pytorch/issues/47175",
        ),
        Mistake(
            "parameters used up",
            loop_by_hand(parameters=iter),
            "only the first step moves the weights. `model.parameters()` is an iterator: after one walk through it "
            "nothing is left. Make a list of it, or call it anew in each step.",
            "https://github.com/pytorch/pytorch/issues/37350",
        ),
        Mistake(
            "momentum",
            loop(optimizer=lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9)),
            "the first step is right, the later ones are those of SGD with momentum 0.9. Plain SGD has none.",
            "momentum=0.9, copied from other loops",
        ),
        Mistake(
            "cleared after the step only",
            loop(zero="after"),
            "the gradients are cleared after each step, but not before the first: what another backward() had left "
            "there counts once. Clear them before backward, or once before the loop too.",
            "zero_grad at the end of the loop, as in many tutorials: right unless a gradient is there already",
        ),
        Mistake(
            "always the first batch",
            loop(call=lambda model, batches, step: model.loss(**batches(0))),
            "every step takes the batch of step 0. Ask for `batches(step)`.",
            "overfitting one batch, a usual test of a loop, and not undone",
        ),
        Mistake(
            "steps counted from 1",
            loop(first=1),
            "you count the steps from 1. They are 0, 1, …, steps − 1.",
            "off by one: counted as people count",
        ),
        Mistake(
            "each batch twice",
            loop(call=lambda model, batches, step: model.loss(**{name: batches(step)[name] for name in batches(step)})),
            "you call batches(step) twice in a step. A batch may be expensive, or drawn anew at each call: call it "
            "once and keep what it gives.",
            "one call for each argument",
        ),
        Mistake(
            "eval mode while training",
            loop(modes=("eval",)),
            "the model came in eval mode and was trained in it, without dropout. Call model.train() before the loop.",
            "https://github.com/shubhamagarwal92/mmd/issues/14, https://github.com/tk-rusch/coRNN/issues/1",
        ),
        Mistake(
            "left in train mode",
            loop(modes=("train",)),
            "the model is left in train mode: whoever uses it next gets dropout, and another result each time. Call "
            "model.eval() after the loop.",
            "https://github.com/ipolharvard/ethos-ares/issues/20",
        ),
        Mistake(
            "a seed inside",
            seeded_loop,
            "your loop sets torch's seed. Then every run has the same dropout, whatever seed its user has set: leave "
            "the seed to whoever calls it.",
            "a seed for reproducible results, set in the wrong place",
        ),
        Mistake(
            "names of one batch",
            loop(call=lambda model, batches, step: (lambda b: model.loss(b["x"], b["y"]))(batches(step))),
            "you pick x and y from the batch. Another model's batches have other names: pass them all on, "
            "`model.loss(**batch)`.",
            "a loop written for one data set",
        ),
        Mistake(
            "its own learning rate",
            loop(optimizer=lambda parameters, lr: torch.optim.SGD(parameters, lr=LR)),
            "the learning rate is always 0.1. It is an argument, `lr`.",
            "a number of the notebook used for an argument",
        ),
    ),
    hints=(
        "Before the loop: an optimizer, an empty list, `model.train()`. After it: `model.eval()`, return the list.",
        "A step has five parts: the batch and its loss, `zero_grad`, `backward`, `step`, and the loss into the list.",
        "The loss: `loss = model.loss(**batches(step))`. The two stars pass a dict's values on by their names.",
        "`optimizer = torch.optim.SGD(model.parameters(), lr=lr)` leaves frozen and unused parameters alone by itself.",
    ),
    praise="Every model of this course is trained by a loop like yours.",
    other_ways=(loop_by_hand(), loop_by_hand(update=by_data), by_autograd_grad, cleared_at_both_ends),
)
