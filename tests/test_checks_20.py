"""Lesson 20: what its checks say of wrong answers that no named mistake fits, and further right answers."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from exercises import ALL, edited, replaced

from nextbert_lite.checks import core, lesson_20
from nextbert_lite.checks.core import CheckFailed, Fault

STEPS_20 = {  # how a learner may write it -> what the check says; several faults have the same numbers
    "a copy of the gradient sent": (dict(sends="copy"), "two ranks .*left with the gradient of its own texts"),
    "the loss sent": (dict(loss="reduced first", sends="nothing"), "two ranks .*left with the gradient of its own"),
    "the own number of tokens": (dict(total="own"), "two ranks .*as many times too large as there are ranks"),
    "the mean number of tokens": (dict(total="mean"), "two ranks .*as many times too large as there are ranks"),
    "means of means everywhere": (dict(divide="everything"), "several parts: you take the mean of the parts' means"),
    "the weights averaged": (dict(sends="weights"), "stage 1 .*all-reduce the .weights."),
}


@pytest.mark.parametrize("switches, words", STEPS_20.values(), ids=[f"lesson20.2-{name}" for name in STEPS_20])
def test_lesson_20_names_further_wrong_steps(switches, words):
    with pytest.raises(CheckFailed, match=words):
        ALL["20.2"](lesson_20.wrong_parallel(**switches))


def optimizer_too(model, parts, dist):
    loss = lesson_20.parallel_backward(model, parts, dist)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return loss


def without_gradients(model, parts, dist):
    loss = lesson_20.parallel_backward(model, parts, dist)
    model.zero_grad()
    return loss


def parts_emptied(model, parts, dist):
    loss = lesson_20.parallel_backward(model, parts, dist)
    parts.clear()
    return loss


@pytest.mark.parametrize(
    "answer, words",
    [
        (optimizer_too, "weights have changed"),
        (without_gradients, "is None afterwards"),
        (parts_emptied, "changed in place"),
    ],
    ids=lambda value: f"lesson20.2-{value.__name__}" if callable(value) else "",
)
def test_lesson_20_says_what_else_a_step_has_changed(answer, words):
    with pytest.raises(CheckFailed, match=f"stage 1 .*{words}"):
        ALL["20.2"](answer)


def weighted_20(weight_of, loss_of=None, after=None):
    """A parallel_backward: weight_of(numbers of this rank's parts, number in all, index of the part, ranks)."""

    def backward(model, parts, dist):
        model.zero_grad()
        counts = [int((part["labels"] != lesson_20.IGNORE).sum()) for part in parts]
        total = torch.tensor(sum(counts))
        dist.all_reduce(total)
        found, means = [], []
        for i, part in enumerate(parts):
            mean = model.loss(**part)
            share = mean * weight_of(counts, max(1, int(total)), i, dist.get_world_size())
            share.backward()
            found.append(share.detach())
            means.append(mean.detach())
        for p in model.parameters():
            if p.grad is not None:
                own = p.grad.clone()
                dist.all_reduce(p.grad)
                p.grad = after(p.grad, own, dist) if after else p.grad
        loss = sum(found) if loss_of is None else loss_of(found, means, counts)
        dist.all_reduce(loss)
        return loss.item()

    return backward


def right_weight(counts, total, i, size):
    return counts[i] / total


def loss_of_this_rank(model, parts, dist):
    lesson_20.parallel_backward(model, parts, dist)
    with torch.no_grad():
        return float(sum(model.loss(**part) for part in parts) / len(parts))


def largest_number(model, parts, dist):
    counts = [int((part["labels"] != lesson_20.IGNORE).sum()) for part in parts]
    every = [torch.zeros(1) for _ in range(dist.get_world_size())]
    dist.all_gather(every, torch.tensor([float(sum(counts))]))
    largest = max(1.0, *(n.item() for n in every), 0.0)
    loss = torch.zeros(1)
    model.zero_grad()
    for part, count in zip(parts, counts, strict=True):
        share = model.loss(**part) * count / largest
        share.backward()
        loss += share.item()
    for p in model.parameters():
        if p.grad is not None:
            dist.all_reduce(p.grad)
    dist.all_reduce(loss)
    return loss.item()


def zeros_for_frozen(model, parts, dist):
    loss = lesson_20.parallel_backward(model, parts, dist)
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    return loss


def assigned_number(model, parts, dist):
    total = dist.all_reduce(torch.tensor(3))
    return total.item()


def empty_parts_skipped(model, parts, dist):
    return lesson_20.parallel_backward(model, [p for p in parts if (p["labels"] != lesson_20.IGNORE).any()], dist)


def glued_parts(model, parts, dist):
    return lesson_20.parallel_backward(model, [{k: torch.cat([p[k] for p in parts]) for k in parts[0]}], dist)


def a_whole_number_sent(model, parts, dist):
    dist.all_reduce(sum(int((part["labels"] != lesson_20.IGNORE).sum()) for part in parts))


def in_bfloat16(grad, own, dist):
    return grad.bfloat16().to(grad.dtype)


def sent_again(grad, own, dist):
    dist.all_reduce(grad)
    return grad


def on_the_first_rank(grad, own, dist):
    return grad if dist.get_rank() == 0 else own


def edited_20(old, new):
    """The course's parallel_backward, with a place of its text replaced."""
    return edited(lesson_20.parallel_backward, (old, new))


def loss_in_turn(model, parts, dist):
    counts, loss = [int((part["labels"] != lesson_20.IGNORE).sum()) for part in parts], torch.zeros(1).double()
    total = torch.tensor(sum(counts))
    dist.all_reduce(total)
    for part, count in zip(parts, counts, strict=True):
        with torch.no_grad():
            loss += model.loss(**part) * count / max(1, int(total))
        dist.all_reduce(loss)
    lesson_20.parallel_backward(model, parts, dist)
    return loss.item()


def rank_0s_numbers(model, parts, dist):
    counts = torch.tensor([int((part["labels"] != lesson_20.IGNORE).sum()) for part in parts])
    every = [torch.zeros_like(counts) for _ in range(dist.get_world_size())]
    dist.all_gather(every, counts)
    return weighted_20(lambda c, n, i, size: int(every[0][i]) / n)(model, parts, dist)


def a_flat_tensor(model, parts, dist):
    loss, p = lesson_20.parallel_backward(model, parts, dist), [p for p in model.parameters() if p.requires_grad]
    flat = torch.cat([one.grad.flatten() for one in p])
    for one in p:
        one.grad = flat[: one.numel()].view_as(one)
    return loss


def last_ranks(model, parts, dist):
    def last(grad, own, dist):
        every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(every, own)
        return every[-1]

    return weighted_20(right_weight, after=last)(model, parts, dist)


def mean_over_ranks(model, parts, dist):
    lesson_20.parallel_backward(model, parts, dist)
    n = sum(int((part["labels"] != lesson_20.IGNORE).sum()) for part in parts)
    with torch.no_grad():
        shares = [model.loss(**p) * int((p["labels"] != lesson_20.IGNORE).sum()) / max(1, n) for p in parts]
    loss = sum(shares) / dist.get_world_size()
    dist.all_reduce(loss)
    return loss.item()


def clipped(model, parts, dist):
    loss = lesson_20.parallel_backward(model, parts, dist)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return loss


NAMED_20 = {  # how a learner may write it -> what the check says of it
    "first part only": (weighted_20(lambda c, n, i, size: float(i == 0)), "only the first part of each rank is used"),
    "weights by root": (
        weighted_20(lambda c, n, i, size: (c[i] / n) ** 0.5),
        "weights of the parts are not their proportions .*have the weights 0.378, 0.8018, 0.4629 .*right are 0.1429",
    ),
    "a minus sign": (weighted_20(lambda c, n, i, size: -c[i] / n), "points the other way"),
    "sent twice": (weighted_20(right_weight, after=sent_again), "stage 3 .*or you all-reduce the gradients twice"),
    "one and a half": (
        weighted_20(lambda c, n, i, size: 1.5 * c[i] / n),
        "direction is right, and the gradient is 1.5 times as long",
    ),
    "one clipped": (
        weighted_20(right_weight, after=lambda g, own, d: g.clamp(-0.1, 0.1)),
        "gradients larger than 0.1 are cut off",
    ),
    "the largest number": (largest_number, "stage 3 .*of .one. rank, its own or the largest"),
    "biases left out": (
        weighted_20(right_weight, after=lambda g, own, d: g * (g.ndim > 1)),
        "stage 1 .*the gradients of .* are wrong, the others are right",
    ),
    "a shorter format": (weighted_20(right_weight, after=in_bfloat16), "to two or three digits"),
    "float32 sent": (weighted_20(right_weight, after=lambda g, own, d: g.float().to(g.dtype)), "about seven digits"),
    "a quotient of tensors": (
        weighted_20(lambda c, n, i, size: torch.tensor(c[i]) / torch.tensor(n)),
        "stage 7 .*a quotient of two tensors of whole numbers is",
    ),
    "the first rank alone": (weighted_20(right_weight, after=on_the_first_rank), "only rank 0 has the right gradient"),
    "the last share": (
        weighted_20(right_weight, lambda found, means, counts: found[-1]),
        "gradients are right; the loss that you .return. is the share of the last part alone",
    ),
    "the last loss": (
        weighted_20(right_weight, lambda found, means, counts: means[-1]),
        "the loss that you .return. is the loss of this rank's last part",
    ),
    "a mean of means returned": (loss_of_this_rank, "the loss that you .return. is a mean of means"),
    "losses added up": (
        weighted_20(right_weight, lambda found, means, counts: sum(means)),
        "the loss that you .return. is the sum of all parts' losses",
    ),
    "half the loss": (
        weighted_20(right_weight, lambda found, means, counts: sum(found) / 2),
        "the loss that you .return. is 0.5 times",
    ),
    "zeros for the frozen": (zeros_for_frozen, "stage 8 .*a frozen parameter has a gradient now"),
    "the result of all_reduce used": (assigned_number, "return nothing, they work in place"),
    "empty parts skipped": (
        empty_parts_skipped,
        "stage 5 .*(skip a call, or .backward|has already returned|without a)",
    ),
    "parts glued": (glued_parts, "stage 2 .*Batches may differ in length"),
    "a number all-reduced": (a_whole_number_sent, "stage 1 .*takes a tensor; you give it 6"),
    "the first part's number": (
        weighted_20(lambda c, n, i, size: c[0] / n),
        "stage 2 .*each part has the weight of its rank's first one",
    ),
    "a mean divided": (weighted_20(lambda c, n, i, size: 1 / n), "stage 1 .*`model.loss` is a mean already"),
    "the last parts' numbers": (weighted_20(lambda c, n, i, size: c[i] / max(1, c[-1])), "ranks' last parts only"),
    "the first parts' numbers": (weighted_20(lambda c, n, i, size: c[i] / max(1, c[0])), "ranks' first parts only"),
    "an empty part as one": (
        edited_20("sum()) for part", "sum().clamp(min=1)) for part"),
        "stage 5 .*counted as one. Clamp the total",
    ),
    "the own number twice": (
        weighted_20(lambda c, n, i, size: c[i] / (n + sum(c))),
        "stage 1 .*are some counted twice",
    ),
    "the last rank's gradient": (last_ranks, "stage 3 .*the gradient of rank 1's parts alone is there"),
    "nothing on other ranks": (
        lambda *a: (
            lesson_20.parallel_backward(*a) if a[2].get_rank() == 0 else lesson_20.parallel_backward(*a) and None
        ),
        "stage 3 .*on rank 1 it returns nothing",
    ),
    "the loss on the first rank": (
        lambda *a: lesson_20.parallel_backward(*a) * (a[2].get_rank() == 0),
        "stage 3 .*right on rank 0 alone",
    ),
    "a rounded loss": (lambda *a: round(lesson_20.parallel_backward(*a), 2), "stage 1 .*is it rounded"),
    "the perplexity": (lambda *a: 2.718281828 ** lesson_20.parallel_backward(*a), "stage 1 .*the perplexity"),
    "the mean of the ranks' means": (mean_over_ranks, "stage 4 .*the mean of the ranks' means"),
    "the batch itself": (lambda model, parts, dist: model.loss(parts[0]), "stage 1 .*`model.loss.*part.`"),
    "a weight rounded": (weighted_20(lambda c, n, i, size: c[i] // n), "stage 2 .*a weight is rounded down"),
    "multiplied twice": (weighted_20(lambda c, n, i, size: c[i] ** 2 / n), "stage 1 .*number of selected tokens, once"),
    "added to the own": (weighted_20(right_weight, after=lambda g, own, d: g + own), "something is added up twice"),
    "a weight for each row": (weighted_20(lambda c, n, i, size: torch.ones(3)), "`backward..` starts from one number"),
    "no graph": (torch.no_grad()(lesson_20.parallel_backward), "finds nothing to go back through"),
    "a barrier": (lambda model, parts, dist: dist.barrier(), "`dist` has get_rank.*, and no more"),
    "the model called": (lambda model, parts, dist: model(**parts[0]), "the model's call gives scores"),
    "all-reduced twice, averaged": (
        weighted_20(right_weight, after=lambda g, own, d: sent_again(g, own, d) / d.get_world_size()),
        "stage 7 .*sends 2.0 times as many numbers",
    ),
    "the loss by parts": (
        weighted_20(right_weight, lambda found, means, counts: sum(found) / len(found)),
        "stage 2 .*.return. is divided by the number of parts",
    ),
    "the loss in turn": (loss_in_turn, "stage 4 .*.return. is all-reduced after each part"),
    "ignored labels counted": (
        edited_20("!= IGNORE", "== IGNORE"),
        "stage 2 .*you count the labels that are IGNORE",
    ),
    "rank 0's numbers": (rank_0s_numbers, "stage 4 .*have the weights of rank 0's"),
    "what is there scaled": (
        edited_20(
            "* count / max(1, int(total))\n        share.backward()",
            "* count / max(1, int(total))\n        (share * max(1, int(total)) / max(1, count)).backward()\n"
            "        [p.grad.mul_(count / max(1, int(total))) for p in model.parameters() if p.requires_grad]",
        ),
        "stage 2 .*you multiply `p.grad` after each part",
    ),
    "a flat tensor": (a_flat_tensor, "stage 1 .*first parameter alone is right"),
    "clipped": (clipped, "stage 1 .*the gradient has the length 1"),
    "parts in reverse": (
        edited_20("model.zero_grad()", "model.zero_grad(); parts.reverse()"),
        "stage 2 .*the same in another order",
    ),
    "set free": (
        edited_20("model.zero_grad()", "model.zero_grad(); model.requires_grad_(True)"),
        "stage 8 .*`requires_grad` of a parameter has changed",
    ),
    "an early return": (
        edited_20("    loss = 0.0", "    if total == 0: return 0.0\n    loss = 0.0"),
        "stage 6 .*is there a `return` before `backward",
    ),
}


@pytest.mark.parametrize("answer, words", NAMED_20.values(), ids=[f"lesson20.2-{name}" for name in NAMED_20])
def test_lesson_20_says_which_sum_a_wrong_gradient_is(answer, words):
    with pytest.raises(CheckFailed, match=words):
        ALL["20.2"](answer)


def gathers_20(turn, back=None):
    """A gather_rows whose rows are turned before, or whose gradient is turned after the sum."""

    def gather(rows, dist):
        size, rank = dist.get_world_size(), dist.get_rank()

        class Rows(torch.autograd.Function):
            @staticmethod
            def forward(ctx, rows):
                found = [torch.empty_like(rows).contiguous() for _ in range(size)]
                dist.all_gather(found, rows.contiguous())
                return torch.cat(found)

            @staticmethod
            def backward(ctx, gradient):
                gradient = gradient.clone(memory_format=torch.contiguous_format)
                dist.all_reduce(gradient)
                return back(gradient, size, rank) if back else gradient.chunk(size)[rank]

        return Rows.apply(turn(rows))

    return gather


def emptied_rows(rows, dist):
    found = lesson_20.gather_rows(rows, dist)
    rows.data.zero_()
    return found


def one_tensor_repeated(rows, dist):
    found = [torch.empty_like(rows)] * dist.get_world_size()
    dist.all_gather(found, rows.detach().contiguous())
    return torch.cat(found)


class OneGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, dist):
        ctx.dist = dist
        return lesson_20.gather_rows(rows, dist)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.chunk(ctx.dist.get_world_size())[ctx.dist.get_rank()]


class AllGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, dist):
        return lesson_20.gather_rows(rows, dist)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def function_20(edit, apply="Rows.apply(rows, dist)"):
    """A gather_rows by a class, with places of its text replaced."""
    code = replaced(inspect.getsource(lesson_20._Gather).replace("_Gather", "Rows"), *edit.items())
    names = dict(vars(lesson_20))
    exec(f"{code}\ndef gather_rows(rows, dist):\n    return {apply}", names)
    return names["gather_rows"]


SLICE = "gradient.chunk(ctx.dist.get_world_size())[ctx.dist.get_rank()]"


SUM = "ctx.dist.all_reduce(gradient)"


def by_loss_20(weight_of):
    """A gather_rows in whose gradient each rank's loss has a weight of its own: weight_of(whose loss, whose rows)."""

    def gather(rows, dist):
        rank, size = dist.get_rank(), dist.get_world_size()

        class Rows(torch.autograd.Function):
            @staticmethod
            def forward(ctx, rows):
                return lesson_20.gather_rows(rows, dist)

            @staticmethod
            def backward(ctx, gradient):
                every = [torch.empty(gradient.shape, dtype=gradient.dtype) for _ in range(size)]
                dist.all_gather(every, gradient.contiguous())
                return sum(weight_of(s, rank) * g for s, g in enumerate(every)).chunk(size)[rank]

        return Rows.apply(rows)

    return gather


GATHERED_20 = {
    "a number on the class": (
        function_20(
            {
                "ctx.dist = dist": "ctx.dist = dist; Rows.b = len(rows)",
                SLICE: "gradient.split(Rows.b)[ctx.dist.get_rank()]",
            }
        ),
        "stage 7 .*a second call before the backward pass",
    ),
    "the gradient in float32": (
        function_20({SUM: "gradient = gradient.float(); " + SUM, SLICE: SLICE + ".double()"}),
        "stage 2 .*right to about seven digits",
    ),
    "the rows in float32": (function_20({"(found)": "(found).float().to(rows.dtype)"}), "right to about seven digits"),
    "no rows in an evaluation": (
        lambda rows, dist: lesson_20.gather_rows(rows, dist) if rows.requires_grad else rows,
        "stage 7 .*without gradients, as in an evaluation",
    ),
    "the gradient of rank 0's loss": (by_loss_20(lambda loss, rank: loss == 0), "takes what rank 0's loss has"),
    "the own loss left out": (
        by_loss_20(lambda loss, rank: loss != rank),
        "get 0, 1 times .*own rank's loss is left out",
    ),
    "the own loss twice": (by_loss_20(lambda loss, rank: 1 + (loss == rank)), "contains its own rank's loss already"),
    "the own loss alone, twice": (
        by_loss_20(lambda loss, rank: 2 * (loss == rank)),
        "other ranks' losses are not heard",
    ),
    "every second row": (
        function_20({SLICE: "gradient[ctx.dist.get_rank() :: ctx.dist.get_world_size()]"}),
        "has the rows 0, 2, 4, 6, 8, 10 of the sum; its own are the rows 0 to 5",
    ),
    "from the rank on": (
        function_20({SLICE: "gradient[ctx.dist.get_rank() :][: len(gradient) // ctx.dist.get_world_size()]"}),
        "rank 1's gradient has the rows 1, 2, 3, 4, 5, 6 of the sum; its own are the rows 6 to 11",
    ),
    "the mean over rows": (
        function_20({SLICE: SLICE + " / (len(gradient) / ctx.dist.get_world_size())"}),
        "You divide by the number of rows",
    ),
    "zeros": (function_20({SLICE: SLICE + " * 0"}), "Zeros stop what comes from the loss"),
    "four rows": (function_20({SLICE: "gradient[:4]"}), "gradient of another shape .*got .4, 4. but expected"),
    "None": (function_20({SLICE: "None"}), "or `backward` returns None"),
    "no return": (function_20({"return " + SLICE + ", None": "pass"}), "Without a `return` it gives one None"),
    "dist saved": (function_20({"ctx.dist = dist": "ctx.save_for_backward(dist)"}), "takes tensors alone"),
    "no ctx": (function_20({"forward(ctx, ": "forward("}), "first argument of a Function's .* is `ctx`"),
    "not applied": (function_20({}, "Rows.apply(rows.detach(), dist)"), "call it by `.apply.rows.`.*no `detach`"),
    "a module": (
        function_20({"torch.autograd.Function": "torch.nn.Module"}),
        "Derive it from `torch.autograd.Function`",
    ),
    "one row of each": (function_20({"torch.cat(found)": "torch.stack(found, 1).flatten(0, 1)"}), "each rank in turn"),
    "not gathered": (
        function_20({"dist.all_gather(found, rows.contiguous())": "[f.zero_().add_(7) for f in found]"}),
        "Does `dist.all_gather.found, rows.` fill the list",
    ),
    "the sum repeated": (
        function_20({"torch.cat(found)": "sum(found).repeat(len(found), 1)"}),
        "part is the sum of all",
    ),
    "rows emptied": (emptied_rows, "stage 1 .*rows are changed in place"),
    "all slices": (lesson_20.wrong_gather("all slices"), "add up the gradients of .different. rows"),
    "one tensor repeated": (one_tensor_repeated, "stage 1 .*are one tensor"),
    "float32": (lambda rows, dist: lesson_20.gather_rows(rows.float(), dist), "come back as torch.float32"),
    "normalised": (gathers_20(lambda rows: F.normalize(rows, dim=-1)), "come back with the length 1"),
    "one gradient": (lambda rows, dist: OneGradient.apply(rows, dist), "one gradient for each argument of .forward"),
    "all gradients": (lambda rows, dist: AllGradients.apply(rows, dist), "gradient of another shape"),
    "a third": (
        gathers_20(lambda rows: rows, lambda g, size, rank: g.chunk(size)[rank] / 3),
        "the gradient is 0.333 times the sum",
    ),
    "a minus sign": (
        gathers_20(lambda rows: rows, lambda g, size, rank: -g.chunk(size)[rank]),
        "the gradient is -1 times the sum",
    ),
    "doubled rows": (gathers_20(lambda rows: 2 * rows), "all rows are 2 times what the ranks gave"),
    "four columns": (gathers_20(lambda rows: rows.reshape(-1, 4)), "Is a size fixed in your code"),
}


@pytest.mark.parametrize("answer, words", GATHERED_20.values(), ids=[f"lesson20.4-{name}" for name in GATHERED_20])
def test_lesson_20_says_what_is_wrong_with_gathered_rows(answer, words):
    with pytest.raises(CheckFailed, match=words):
        ALL["20.4"](answer)


def part_of_20(draw, cut):
    """A rows_for of two steps: which rows are drawn, and which of them this rank gets."""

    def rows_for(n, batch, rank, size, seed, step):
        return cut(draw(n, batch, rank, size, seed, step), batch, rank, size)

    return rows_for


def seeded_draw(n, batch, rank, size, seed, step):
    return torch.randperm(n, generator=lesson_20.seeded(seed, step))


def slice_of(rows, batch, rank, size):
    return rows[:batch].chunk(size)[rank]


ROWS_20 = {
    "sorted": (part_of_20(seeded_draw, lambda *a: slice_of(*a).sort().values), "in another order"),
    "begins at the rank": (
        part_of_20(seeded_draw, lambda rows, batch, rank, size: rows[rank : rank + batch // size]),
        "come twice and as many never",
    ),
    "counted from 1": (
        part_of_20(seeded_draw, lambda rows, batch, rank, size: rows[(rank - 1) * (batch // size) :][: batch // size]),
        "the places 37 to 8 of the draw .*Ranks are counted from 0",
    ),
    "a batch for each rank": (
        part_of_20(seeded_draw, lambda rows, batch, rank, size: rows[rank * batch : (rank + 1) * batch]),
        "the ranks get 12, 12, 12, 4 rows; each should get 3: `batch` counts the rows of all ranks together. The ranks "
        "0 to 3 get the places 0 to 11, 12 to 23, 24 to 35, 36 to 39 of the draw; right are 0 to 2, 3 to 5, 6 to 8, 9 "
        "to 11",
    ),
    "two more on each": (
        part_of_20(seeded_draw, lambda rows, batch, rank, size: rows[rank * 5 : rank * 5 + 5]),
        r"each should get 3\. The ranks",
    ),
    "from the batch": (
        part_of_20(lambda n, batch, *a: seeded_draw(batch, batch, *a), slice_of),
        "all rows are below 12",
    ),
    "no generator": (part_of_20(lambda n, *a: torch.randperm(n), slice_of), "two calls with the same arguments"),
    "400 rows": (part_of_20(lambda n, *a: seeded_draw(400, *a), slice_of), "outside 0 to n"),
    "parts of the wrong number": (
        part_of_20(seeded_draw, lambda rows, batch, rank, size: rows[:batch].chunk(batch // size)[rank]),
        "rank=3 it raises IndexError.*get the places 0 to 3, 4 to 7, 8 to 11, IndexError of the draw",
    ),
    "begins at rank batches": (
        part_of_20(seeded_draw, lambda rows, batch, rank, size: rows[rank * batch :][: batch // size]),
        "get the places 0 to 2, 12 to 14, 24 to 26, 36 to 38 of the draw",
    ),
    "behind the end": (
        part_of_20(seeded_draw, lambda rows, batch, rank, size: rows[7 * batch + rank :][: batch // size]),
        "get 0, 0, 0, 0 rows; .*lies behind the end of the draw",
    ),
    "a float": (
        part_of_20(seeded_draw, lambda rows, batch, rank, size: rows[rank * (batch / size) :]),
        "`batch // size` a whole number",
    ),
    "columns": (
        part_of_20(
            seeded_draw, lambda rows, batch, rank, size: rows[:batch].view(size, -1).T.flatten().chunk(size)[rank]
        ),
        "the places 0 to 2 of the draw, and not 0, 3, 6",
    ),
    "columns of ranks": (
        part_of_20(seeded_draw, lambda rows, batch, rank, size: rows[:batch].view(size, -1)[:, rank]),
        r"get the places .0, 3, 6, 9., .1, 4, 7, 10., .2, 5, 8, 11., IndexError of the draw",
    ),
    "no return": (lambda *a: print(a), "is a `return` missing"),
    "generator by place": (
        lambda n, batch, rank, size, seed, step: torch.randperm(n, lesson_20.seeded(seed, step)),
        "Give the generator by its name",
    ),
    "the last rank gets the rest": (
        part_of_20(
            seeded_draw,
            lambda rows, batch, rank, size: rows[
                rank * (batch // size) : (rank + 1) * (batch // size) * (rank < 3) or 99
            ],
        ),
        "3, 3, 3, 31 rows; .*9 to 39 of the draw",
    ),
    "the places": (
        part_of_20(lambda n, *a: torch.arange(n), slice_of),
        "0 to 11 in order. Those are places",
    ),
    "the rank for the step": (
        lambda n, batch, rank, size, seed, step: lesson_20.rows_for(n, batch, rank, size, seed, rank),
        "the generator depends on the rank",
    ),
    "the next step": (
        lambda n, batch, rank, size, seed, step: lesson_20.rows_for(n, batch, rank, size, seed, step + 1),
        r"the draw with `seeded.seed, step \+ 1.`",
    ),
    "from 1": (part_of_20(seeded_draw, lambda *a: slice_of(*a) + 1), "of the draw with `seeded.seed, step.`, plus 1"),
    "argsort": (part_of_20(seeded_draw, lambda rows, *a: slice_of(rows.argsort(), *a)), "turned round by `argsort"),
    "another library": (
        part_of_20(lambda n, *a: torch.arange(n) * 7 % n, slice_of),
        "Another generator, or the same with other arguments",
    ),
    "one rank": (
        lambda n, batch, rank, size, seed, step: (
            seeded_draw(n, batch, rank, size, seed, step)
            if size == 1
            else lesson_20.rows_for(n, batch, rank, size, seed, step)
        ),
        r"the shape is \(23,\); expected \(8,\)",
    ),
    "a draw kept": (
        lambda n, batch, rank, size, seed, step, kept={}: kept.setdefault(
            step, seeded_draw(n, batch, rank, size, seed, step)
        )[:batch].chunk(size)[rank],
        "right on some inputs, but not for 23",
    ),
    "the step times the ranks": (
        lambda n, batch, rank, size, seed, step: torch.randperm(
            n, generator=lesson_20.seeded(seed, step * size + rank)
        )[: batch // size],
        "the generator depends on the step times the ranks",
    ),
    "a later place": (
        part_of_20(seeded_draw, lambda rows, batch, rank, size: rows[batch : 2 * batch].chunk(size)[rank]),
        "the places 12 to 23 of the draw with .seeded.seed, step.",
    ),
    "another generator": (
        lambda n, batch, rank, size, seed, step: torch.randperm(
            n, generator=torch.Generator().manual_seed(seed + step)
        )[:batch].chunk(size)[rank],
        "the draw with .torch.Generator",
    ),
    "in turn": (
        lambda n, batch, rank, size, seed, step: torch.arange(batch).chunk(size)[rank] + 3,
        "the rows follow each other",
    ),
    "the batch sorted": (
        part_of_20(seeded_draw, lambda rows, batch, *a: slice_of(rows[:batch].sort().values, batch, *a)),
        "the rows of the batch are sorted before",
    ),
    "floats": (part_of_20(seeded_draw, lambda *a: slice_of(*a).float()), "are of torch.float32"),
    "in pairs": (
        part_of_20(seeded_draw, lambda rows, batch, rank, size: rows[:batch].chunk(size)[rank ^ 1]),
        "get the parts 1, 0, 3, 2. Rank 0 gets part 0",
    ),
}


@pytest.mark.parametrize("answer, words", ROWS_20.values(), ids=[f"lesson20.3-{name}" for name in ROWS_20])
def test_lesson_20_says_which_rows_are_wrong(answer, words):
    with pytest.raises(CheckFailed, match=words):
        ALL["20.3"](answer)


def bytes_20(turn, **changed):
    def kept(parameters, ranks, weight=2, gradient=2, optimizer=12):
        return turn(lesson_20.kept_bytes(parameters, ranks, weight, gradient, **{"optimizer": optimizer, **changed}))

    return kept


BYTES_20 = {
    "gigabytes": (bytes_20(lambda four: [n / 1e9 for n in four]), "those are gigabytes"),
    "reversed": (bytes_20(lambda four: four[::-1]), "in reverse"),
    "bits": (bytes_20(lambda four: [8 * n for n in four]), "those are bits"),
    "eight bytes": (bytes_20(lambda four: four, optimizer=8), "right for 8 bytes of .optimizer.; the argument says 12"),
    "a parameter's": (
        lambda parameters, *a, **k: lesson_20.kept_bytes(1, *a, **k),
        "bytes for each parameter",
    ),
    "one rank fewer": (
        lambda parameters, ranks, *a, **k: (
            lesson_20.kept_bytes(parameters, ranks, *a, **k)[0],
            *lesson_20.kept_bytes(parameters, ranks - 1, *a, **k)[1:],
        ),
        "one less than the number of ranks",
    ),
    "three": (bytes_20(lambda four: four[1:]), "expected four numbers"),
    "rounded": (bytes_20(lambda four: [round(n) for n in four]), "7 parameters on 4 ranks are rounded"),
    "nothing cut last": (bytes_20(lambda four: [*four[1:], four[0]]), "nothing cut comes first, and yours stands last"),
    "all but one part": (
        lambda parameters, ranks, *a, **k: lesson_20.kept_bytes(parameters, ranks / (ranks - 1), *a, **k),
        "you keep all but one part of what is cut",
    ),
    "what is cut left out": (
        lambda parameters, ranks, weight=2, gradient=2, optimizer=12: (
            parameters * (weight + gradient + optimizer),
            parameters * (weight + gradient),
            parameters * weight,
            0,
        ),
        "in stage 1, the bytes of optimizer's state are left out",
    ),
    "six times": (bytes_20(lambda four: (6 * four[0], *four[1:])), "with nothing cut, .*yours is 6 times that"),
    "divided by two": (
        lambda parameters, ranks, *a, **k: lesson_20.kept_bytes(parameters, 2, *a, **k),
        "what is cut is divided by 2; there are 6 ranks",
    ),
    "a bracket": (
        lambda parameters, ranks, weight=2, gradient=2, optimizer=12: (
            parameters * (weight + gradient + optimizer),
            parameters * (weight + gradient) + optimizer / ranks,
            parameters * weight + (gradient + optimizer) / ranks,
            parameters * (weight + gradient + optimizer) / ranks,
        ),
        "in stage 1, the bytes of optimizer's state are not multiplied",
    ),
    "one stage": (
        bytes_20(lambda four: (*four[:2], four[3], four[3])),
        "in stage 2, what is cut should be: gradients, optimizer's state. In your number it is: weights, gradients",
    ),
}


@pytest.mark.parametrize("answer, words", BYTES_20.values(), ids=[f"lesson20.5-{name}" for name in BYTES_20])
def test_lesson_20_says_which_bytes_are_wrong(answer, words):
    with pytest.raises((CheckFailed, Fault), match=words):
        ALL["20.5"](answer)


WEIGHTS_20 = {
    0.25: "vote of the rank",
    0.5: "mean of its rank",
    5: "vote of the whole rank",
    0.3: "fewer",
    3: "second rank",
    2.8: "It is less",
    2.2: "It is more",
    0: "The empty rank spoils nothing",
    1 / 160: "1/8 times 1/20",
    1.5: "how much .more. it counts",
    250: "per cent",
    float("inf"): "The fourth rank has no token",
}


@pytest.mark.parametrize("guess", [pytest.param(guess, id=f"lesson20.1-{guess}") for guess in WEIGHTS_20])
def test_lesson_20_says_on_which_way_a_guess_is(guess):
    with pytest.raises(CheckFailed, match=f"is not it. .*{WEIGHTS_20[guess]}"):
        ALL["20.1"](guess)


def in_a_tuple_of_tensors(rows, dist):
    size, rank = dist.get_world_size(), dist.get_rank()

    class Each(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rows):
            found = [torch.empty(rows.shape, dtype=rows.dtype) for _ in range(size)]
            dist.all_gather(found, rows.contiguous())
            return tuple(found)

        @staticmethod
        def backward(ctx, *gradients):
            together = torch.stack(gradients)
            dist.all_reduce(together)
            return together[rank]

    return torch.cat(Each.apply(rows))


@pytest.mark.parametrize(
    "id_, answer",
    [
        pytest.param("20.2", weighted_20(right_weight), id="lesson20.2-in one loop"),
        pytest.param("20.3", lambda *a: lesson_20.rows_for(*a).tolist(), id="lesson20.3-a list"),
        pytest.param("20.3", lambda *a: lesson_20.rows_for(*a).numpy(), id="lesson20.3-an array"),
        pytest.param("20.3", lambda *a: lesson_20.rows_for(*a).int(), id="lesson20.3-int32"),
        pytest.param("20.4", in_a_tuple_of_tensors, id="lesson20.4-a tuple of tensors"),
        pytest.param("20.5", bytes_20(lambda four: torch.tensor(four).numpy()), id="lesson20.5-an array"),
        pytest.param("20.5", bytes_20(lambda four: dict(enumerate(four))), id="lesson20.5-a dict"),
    ],
)
def test_lesson_20_takes_further_right_answers(id_, answer, capsys):
    ALL[id_](answer)
    assert "is right" in capsys.readouterr().out


def test_lesson20_a_class_within_a_function_reads_no_name_of_the_notebook():
    names = {"__name__": "__main__", "torch": torch}
    exec("def build(x):\n    class Inner:\n        def f(self): return x\n    return Inner", names)
    assert "of the notebook" not in core.notebook_names(names["build"])
