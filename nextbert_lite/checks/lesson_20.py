"""The checks of lesson 20, Many devices."""

import copy
import functools
import numbers as numbers_

import torch
import torch.distributed
import torch.nn.functional as F

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
    unchanged,
)
from nextbert_lite.checks.ranks import on_threads
from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.core.masking import IGNORE
from nextbert_lite.training.batches import seeded

__all__ = [
    "bytes_on_device",
    "gathered",
    "hint",
    "mine",
    "parallel",
    "rows",
    "solution",
    "token_weight",
]


# --- 20.1 predict: what one token counts for --------------------------------------------------------------------------

VOTES = {  # a guess on the way to the answer -> what it is
    0.0: "The empty rank spoils nothing here: its loss is 0, and so is its gradient. (With a plain "
    "`F.cross_entropy(..., ignore_index=-100)` it would be 0/0, not a number, on every rank after the sum.)",
    1 / 160: "That is 1/8 times 1/20. Divide one by the other.",
    0.25: "1/4 is the vote of the rank. Its two tokens share it, 1/8 each; divide that by 1/20, what each should have.",
    0.5: "1/2 is the token's weight in the mean of its rank. That mean is one of four, and then comes the "
    "comparison with 1/20, the weight on one device.",
    0.1: "2 of 20 is the proportion of the tokens that the rank has. What proportion of the *vote* does it have?",
    5.0: "That is the average number of tokens on a rank, or 1/4 over 1/20: the vote of the whole rank. Two "
    "tokens share it.",
    20.0: "That is the number of all tokens; the weight on one device is one over it.",
    2.0: "That is the number of tokens on the rank, or a comparison with four ranks. Compare (1/2) / 4 with 1/20.",
    1.25: "1/4 times 5, or half of the right one: is a factor of two lost? The token has (1/2) / 4, on one "
    "device 1/20.",
    0.625: "That is a quarter of the right answer: do you divide by the four ranks twice?",
    3.0: "That is 6 / 2: how much more it counts than a token of the second rank. Compare it with 1/20, one device.",
    1 / 6: "That is 2/12, the first rank's tokens upside down. Compare (1/2) / 4 with 1/20, the weight on one device.",
    7.5: "That is three times the right answer: do the ranks with tokens multiply anything? DDP adds up and "
    "divides by 4.",
    12.0: "That is the number of tokens on the first rank. Compare (1/2) / 4 with 1/20.",
    4.0: "That is the number of ranks, by which DDP divides the sum.",
    6.0: "That is the number of tokens on the second rank, or a comparison with the first. Compare (1/2) / 4 "
    "with 1/20.",
    40.0: "You multiply by the four ranks, and DDP divides by them.",
    8.0: "1/8 is the token's weight in DDP's gradient; its inverse is 8. Divide 1/8 by the weight on one device, 1/20.",
    5 / 6: "That is the factor of a token of the second rank, or a rank of 6; the third has 2.",
    5 / 12: "That is the factor of a token on the first rank, the one with 12. The third has 2.",
    1.5: "That is how much *more* it counts, minus the 1 of one device. How many times as much is asked for.",
    250.0: "That is in per cent. How many times as much is it?",
    torch.inf: "The fourth rank has no token to divide by. The question is about the third.",
    5 / 3: "Five thirds is 20/12, one over the first rank's proportion of the tokens. The third rank has 2 of 20.",
}


def about_weight(guess):
    """Return what a wrong weight is, or in which direction it is wrong."""
    value = float(guess)
    for known, text in VOTES.items():
        if value == known or abs(value - known) < min(0.01, 0.1 * known):
            return text
    if value < 1:
        return "The rank has fewer tokens than the average of 5, so its tokens count for more than on one device."
    if value < 2.5:
        return (
            "It is more. A token has 1 / (tokens of its rank) of the rank's vote, and each of the *four* ranks has 1/4."
        )
    return "It is less. A token has 1 / (tokens of its rank) of the rank's vote, and the rank has 1/4 of all."


token_weight = Prediction(
    id="20.1",
    right=2.5,
    tolerance=0.01,
    mistakes=(
        Mistake(
            "all tokens alike",
            1.0,
            "that would be one mean over all 20 tokens. DDP takes a mean on each rank first, and then a mean of the "
            "four gradients.",
            "https://github.com/huggingface/transformers/issues/34242: DDP token averaging",
        ),
        Mistake(
            "the empty rank left out",
            10 / 3,
            "that divides by the three ranks that selected something. DDP divides by the number of ranks, whatever "
            "they hold; the empty rank's gradient of zero is counted as a quarter of the vote.",
            "https://github.com/orgs/MLSysDev/discussions/53: a rank with no valid targets still gets its vote",
        ),
        Mistake(
            "the sum over ranks",
            10.0,
            "that is the sum of the ranks' gradients. DDP divides the sum by the number of ranks.",
            "https://github.com/neuralmagic/sparseml/pull/135: gradients that are world size times too large",
        ),
        Mistake(
            "the other way round",
            0.4,
            "the other way round: a token on a rank with few selected tokens counts for *more*, because its rank's "
            "mean is over few.",
            "a ratio read upside down",
        ),
        Mistake(
            "the weight itself",
            0.125,
            "1/8 is the weight of the token in the gradient that DDP makes. Divide it by the weight that it should "
            "have, 1/20.",
            "the first half of the computation",
        ),
        Mistake(
            "the fair weight",
            0.05,
            "1/20 is the weight that each token should have. What weight does DDP give it, and what is the ratio?",
            "the denominator of the question",
        ),
        Mistake(
            "compared with the first rank",
            6.0,
            "that is how much more it counts than a token of the first rank. Compare it with 1/20, the weight in one "
            "mean over all 20.",
            "a ratio of two ranks",
        ),
    ),
    hints=(
        "What weight does a token have in the mean of its own rank?",
        "The gradients of the four ranks are added up and divided by 4.",
        "(1/2) / 4 = 1/8, and it should be 1/20.",
    ),
    praise="A token's weight depends on who else is on its rank.",
    about=about_weight,
)


# --- 20.2 the build: data parallelism by hand -------------------------------------------------------------------------


def parallel_backward(model, parts, dist):
    """model: the same on all ranks; parts: this rank's batches -> the loss of all tokens; the gradients are in place"""
    model.zero_grad()
    counts = [int((part["labels"] != IGNORE).sum()) for part in parts]
    total = torch.tensor(sum(counts))
    dist.all_reduce(total)
    loss = 0.0
    for part, count in zip(parts, counts, strict=True):
        share = model.loss(**part) * count / max(1, int(total))
        share.backward()
        loss = loss + share.detach()
    dist.all_reduce(loss)
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
    return float(loss)


@functools.lru_cache(maxsize=8)
def skeleton(width, layers):
    """Return a small masked model; making one takes longer than going through it."""
    sizes = dict(width=width, layers=layers, heads=2, ffn_width=2 * width, max_len=8)
    return MaskedLanguageModel(Encoder(EncoderConfig(20, **sizes))).double().eval()


def a_model(generator, width=8, layers=1):
    """Return a small masked model in float64 with random weights."""
    model = copy.deepcopy(skeleton(width, layers))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).double() * 0.5
    return model


def a_part(generator, counts, T=8):
    """Return a batch whose row i has counts[i] selected tokens and some padding."""
    B = len(counts)
    ids = torch.randint(5, 20, (B, T), generator=generator)
    labels = torch.full((B, T), IGNORE)
    lengths = torch.randint(5, T + 1, (B,), generator=generator).clamp(min=max(counts))
    for row, count in enumerate(counts):
        places = torch.randperm(int(lengths[row]), generator=generator)[:count]
        labels[row, places] = torch.randint(5, 20, (count,), generator=generator)
    mask = torch.arange(T) < lengths[:, None]
    return {"ids": ids, "labels": labels, "mask": mask}  # the mask alone says what is padding


def gradients_of(model):
    """Return all gradients in one row; zeros where there is none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])


def on_ranks(answer, model, parts, look=None):
    """Run an answer on as many ranks as there are lists of parts; return each rank's loss and gradients, two each."""
    models, before = [model, *(copy.deepcopy(model) for _ in parts[1:])], flat(model)
    for other in models[1:]:
        for copied, theirs in zip(other.parameters(), model.parameters(), strict=True):
            copied.grad = None if theirs.grad is None else theirs.grad.clone()  # which deepcopy leaves behind
    kept, lists = copy.deepcopy(parts), [list(map(id, of_rank)) for of_rank in parts]
    frozen = [not p.requires_grad for p in model.parameters()]

    def work(dist):
        rank = dist.get_rank()
        loss = told(answer, models[rank], parts[rank], dist)
        if {p.data_ptr() for p in models[rank].parameters()} & set(dist.sent):
            raise Fault(
                "you all-reduce the *weights*, which are equal on all ranks already. Send the gradients: "
                "`dist.all_reduce(p.grad)`."
            )
        if look is not None:
            look(rank, dist)
        return loss

    losses = on_threads(len(parts), work)
    for rank, loss in enumerate(losses):
        if loss is None:
            raise Fault(f"on rank {rank} it returns nothing; return the loss of all selected tokens, a number.")
        if isinstance(loss, torch.Tensor) and loss.numel() == 1:
            loss = float(loss)
        if isinstance(loss, bool) or not isinstance(loss, numbers_.Real):
            raise Fault(f"it returns {describe(loss)}; return the loss of all selected tokens, a number.")
        if [n for n, p in models[rank].named_parameters() if p.requires_grad and p.grad is None]:
            raise Fault(
                f"on rank {rank} there are parameters without a gradient afterwards: `p.grad` is None. Zeros are asked "
                "for where no token is selected anywhere: is there a `return` before `backward()`?"
            )
        if frozen != [not p.requires_grad for p in models[rank].parameters()]:
            raise Fault("`requires_grad` of a parameter has changed. Leave frozen parameters frozen.")
        if [p for p in models[rank].parameters() if not p.requires_grad and p.grad is not None]:
            raise Fault(
                "a frozen parameter has a gradient now, even if it is zeros: an optimizer with weight decay would move "
                "it. Leave its `.grad` at None."
            )
        if not torch.equal(before, flat(models[rank])):
            raise Fault("the weights have changed: only the gradients are asked for, the optimizer comes later.")
    if [list(map(id, of_rank)) for of_rank in parts] != lists:
        raise Fault(
            f"the list `parts` is changed in place: it had {len(lists[0])} batches and has {len(parts[0])} afterwards, "
            "or the same in another order. Go through it with a loop."
        )
    if not unchanged(kept, parts):
        raise Fault("the batches are changed in place: whoever called it finds theirs changed.")
    found = torch.cat(
        [gradients_of(one) for one in models]
    )  # of all ranks: what one of them has is no mistake by itself
    return found, torch.cat([found, torch.tensor([float(loss) for loss in losses], dtype=torch.float64)])


NO_GROUP = (
    "you call `torch.distributed` itself, and here no process group exists. Use the argument `dist`: in the check it "
    "connects threads, in a process it is torch.distributed."
)


SAID = {  # what an exception says -> what it means here
    "process group": NO_GROUP,
    "NoneType": "Something is None here. `all_reduce` and `all_gather` return nothing, they work in place: "
    "`dist.all_reduce(x)` stands on a line of its own. And a `p.grad` is None before the first backward pass, for a "
    "frozen parameter, and on a rank that skipped its batches.",
    "is invalid for input of size": "Is a size fixed in your code? Take it from the argument's `shape`.",
    "Sizes of tensors must match": "Batches may differ in length, so `torch.cat` cannot glue them; go forward and "
    "backward with one after the other.",
    "only for scalar outputs": "`backward()` starts from one number. Is a count or a weight a tensor of several, by "
    "`sum(1)` for `sum()`?",
    "does not require grad": "`backward()` finds nothing to go back through: is the loss made a number (`item()`), "
    "detached, or computed under `no_grad`?",
    "can only save variables": "`save_for_backward` takes tensors alone; keep anything else as an attribute, "
    "`ctx.dist = dist`.",
    "MaskedLanguageModel.": "The loss is `model.loss(ids, labels, mask)`, or `model.loss(**part)`; the model's call "
    "gives scores.",
    "ward() takes": "The first argument of a Function's `forward` and `backward` is `ctx`; those of `.apply` follow.",
    "Legacy autograd": "No object of the class is made: call the class's `.apply(rows)`.",
    "no attribute 'children'": "Your class is an `nn.Module`. Derive it from `torch.autograd.Function`.",
    "Rank": "`dist` has get_rank(), get_world_size(), all_reduce(tensor) and all_gather(list, tensor), and no more.",
}


def told(answer, *arguments):
    """Return answer(*arguments); say in a Fault what a usual exception means here."""
    try:
        return answer(*arguments)
    except (AttributeError, TypeError, RuntimeError, ValueError) as error:
        for words, meaning in SAID.items():
            if words in str(error):
                said = "" if meaning is NO_GROUP else f"{str(error).splitlines()[0].rstrip('.')}. "
                raise Fault(said + meaning) from None
        raise


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def one_rank(answer, generator):
    return on_ranks(answer, a_model(generator), [[a_part(generator, (1, 3, 2))]])


def several_parts(answer, generator):
    return on_ranks(
        answer, a_model(generator), [[a_part(generator, c, T) for c, T in (((1, 1), 8), ((4, 3, 2), 7), ((3,), 6))]]
    )


def two_alike(answer, generator):
    return on_ranks(answer, a_model(generator), [[a_part(generator, (2, 3))], [a_part(generator, (4, 1))]])


def two_unlike(answer, generator):
    parts = [[a_part(generator, c) for c in of_rank] for of_rank in (((1, 0), (2, 1)), ((4, 4), (3, 5)))]
    return on_ranks(answer, a_model(generator), parts)


def one_without(answer, generator):
    return on_ranks(answer, a_model(generator), [[a_part(generator, (3, 2))], [a_part(generator, (0, 0))]])


ZERO_BY_ZERO = (
    "without a selected token anywhere you divide by zero, and every weight becomes not-a-number in the next step. "
    "Divide by `max(1, total)`, also where you divide gradients at the end."
)


def none_anywhere(answer, generator):
    found = on_ranks(answer, a_model(generator), [[a_part(generator, (0, 0))], [a_part(generator, (0,))]])
    if not torch.isfinite(found[1]).all():
        raise Fault(ZERO_BY_ZERO)
    return found


def what_is_sent(answer, generator):
    """Each gradient goes once over the line, and a few numbers more; the model is in float64, and the sum is as
    exact."""
    model, sent = a_model(generator), {}
    parts = [[a_part(generator, c) for c in of_rank] for of_rank in (((1, 2), (2, 1), (1,)), ((4, 1), (3, 4), (2,)))]
    right = on_ranks(parallel_backward, copy.deepcopy(model), copy.deepcopy(parts))[0]
    result = on_ranks(answer, model, parts, lambda rank, dist: sent.update({rank: list(dist.calls)}))
    if seven_digits(result[0], right):
        raise Fault(
            "the gradients are right to about seven digits, and the model is in float64. Somewhere a number is "
            "float32: a quotient of two tensors of whole numbers is (divide numbers, `int(count) / int(total)`, or a "
            "total in float64), and so are gradients that are sent as `.float()`."
        )
    numbers = sum(n for _, n in sent[0])
    size = sum(p.numel() for p in model.parameters())
    if numbers > size + 50:
        raise Fault(
            f"the gradients are right, but a rank sends {numbers / size:.1f} times as many numbers as there are "
            "gradients. Send each once, after the last part."
        )
    return result


def seven_digits(found, right):
    """Whether numbers are right, but not in float64."""
    return 1e-11 < (found.double() - right).norm() / right.norm() < 1e-4


def with_history(answer, generator):
    """There are gradients of an earlier step, and some parameters are frozen."""
    model = a_model(generator)
    model.encoder.positions.weight.requires_grad_(False)
    batch = a_part(generator, (2, 2))
    model.loss(**batch).backward()
    return on_ranks(answer, model, [[a_part(generator, (2, 3))], [a_part(generator, (4, 2))]])


CASES = {  # stage -> the numbers of selected tokens: of each rank, part and row
    "one rank": (((1, 3, 2),),),
    "several parts": (((1, 1), (4, 3, 2), (3,)),),
    "two ranks with the same number of tokens": (((2, 3),), ((4, 1),)),
    "a rank without a selected token": (((3, 2),), ((0, 0),)),
}


def about_parallel(answer, stage):
    """Return which weighted sum of the parts' gradients an answer gives, or what its loss is."""
    generator, counts = torch.Generator().manual_seed(20), CASES.get(stage.name, (((1, 0), (2, 1)), ((4, 4), (3, 5))))
    model, parts = a_model(generator), [[a_part(generator, c) for c in of_rank] for of_rank in counts]
    found = on_ranks(answer, copy.deepcopy(model), copy.deepcopy(parts))[1]
    size, every = len(parts), [part for of_rank in parts for part in of_rank]
    given, losses = found[:-size].view(size, -1), found[-size:]
    n = torch.tensor([float((part["labels"] != IGNORE).sum()) for part in every], dtype=torch.float64)
    means, gradients = [], []
    for part in every:
        model.zero_grad()
        mean = model.loss(**part)
        mean.backward()
        means.append(float(mean.detach()))
        gradients.append(gradients_of(model))
    means, gradients, some = torch.tensor(means, dtype=torch.float64), torch.stack(gradients), n > 0
    right, own = n / n.sum(), torch.arange(len(every)) // len(parts[0])
    target = right @ gradients
    close = [bool((one - target).norm() < 1e-4 * target.norm()) for one in given]
    if all(close):
        return about_loss(losses, means, n, own)
    if any(close):
        has = ", ".join(str(rank) for rank in range(size) if close[rank])
        return (
            f"only rank {has} has the right gradient. Each rank needs the sum: what you do with it, do on every rank."
        )
    weights = torch.linalg.lstsq(gradients[some].T, given.T).solution.T  # [rank, part with tokens]
    rest = (weights @ gradients[some] - given).norm(dim=1) / given.norm(dim=1).clamp(min=1e-12)
    if rest.max() > 1e-4:
        if (given[0] - target).norm() < 0.05 * target.norm():
            return (
                "the gradients are nearly right, to two or three digits: are they sent or kept in a shorter format, "
                "such as bfloat16?"
            )
        if said := about_parameters(model, given[0], target):
            return said
        if not given.any():
            return "all gradients are zero: is `backward()` called, and are they cleared after it?"
        return (
            "the gradients are no weighted sum of the parts' gradients. Does something else than the sum of "
            "`loss * weight` go through `backward()`?"
        )
    if abs(given[0].norm() - 1) < 1e-4 < abs(target.norm() - 1):
        return "the gradient has the length 1: is it clipped or normalised? Leave it as it is; clipping comes later."
    ignored = torch.tensor([float((part["labels"] == IGNORE).sum()) for part in every], dtype=torch.float64)
    return about_weights(weights, right[some], n[some], own[some], len(parts[0]), ignored[some])


def about_parameters(model, given, target):
    """Return which parameters' gradients are wrong where some are right, or the bound at which all are cut off."""
    wrong, first = [], 0
    for name, p in model.named_parameters():
        part = slice(first, first := first + p.numel())
        if not torch.allclose(given[part], target[part], rtol=1e-4, atol=1e-9):
            wrong.append(name)
    off = ~torch.isclose(given, target, rtol=1e-4, atol=1e-9)
    bound = given[off].abs()
    if (
        len(bound) > 1
        and bound[0] > 0
        and torch.allclose(bound, bound[0].expand_as(bound))
        and (target[off].abs() > bound[0]).all()
    ):
        return f"gradients larger than {bound[0]:.3g} are cut off there. Leave them as they are; clipping comes later."
    if wrong == [name for name, _ in model.named_parameters()][1:]:
        return (
            "the gradient of the first parameter alone is right. Is one flat tensor cut up, and does its start move on?"
        )
    if wrong and len(wrong) < sum(1 for _ in model.parameters()):
        return (
            f"the gradients of {', '.join(wrong[:3])}{' …' if len(wrong) > 3 else ''} are wrong, the others are right."
        )
    return None


def about_loss(losses, means, n, own):
    """Return what the returned losses are, where the gradients are right."""
    size, right = int(own.max()) + 1, n / n.sum()
    means_of_ranks = torch.stack([means[own == rank].mean() for rank in range(size)])
    last = torch.stack([means[own == rank][-1] for rank in range(size)])
    shares = torch.stack([(right * means)[own == rank].sum() for rank in range(size)])
    last_shares = torch.stack([(right * means)[own == rank][-1] for rank in range(size)])
    in_turn = torch.tensor(0.0)
    for i in range(len(n) // size):
        in_turn = size * in_turn + (right * means)[i :: len(n) // size].sum()
    known = {
        "a mean of means. Weight each part's loss as you did for the gradient": means.mean().expand(size),
        "the mean of this rank's parts, each alike. It should be that of all tokens of all ranks": means_of_ranks,
        "the loss of this rank's last part": last,
        "the last parts' losses, added up over the ranks": last.sum().expand(size),
        "the share of this rank. Add up the shares of all: `dist.all_reduce(loss)`": shares,
        "the share of the last part alone. Add up the parts' shares in the loop": last_shares,
        "the share of the last parts alone. Add up the parts' shares in the loop": last_shares.sum().expand(size),
        "the sum over all tokens. Divide by their number": (n * means).sum().expand(size),
        "the sum over this rank's tokens": torch.stack([(n * means)[own == rank].sum() for rank in range(size)]),
        "the sum of all parts' losses, without weights": means.sum().expand(size),
        "zero. Add up the shares": torch.zeros(size),
        "the mean of the ranks' means. Add up the shares of all tokens": torch.stack(
            [(n * means)[own == rank].sum() / n[own == rank].sum().clamp(min=1) for rank in range(size)]
        )
        .mean()
        .expand(size),
        "the perplexity, e to the power of the mean. Return the mean": shares.sum().exp().expand(size),
        "divided by the number of parts: the shares add up to the mean already": shares.sum().expand(size)
        * size
        / len(n),
        "all-reduced after each part, the sum of the parts before it once more": in_turn.expand(size),
    }
    for text, values in known.items():
        if torch.allclose(losses.double(), values.double(), rtol=1e-4, atol=1e-6):
            return f"the gradients are right; the loss that you *return* is {text}."
    factor = float(losses[0] / shares.sum())
    if all(abs(loss - shares.sum()) < 1e-4 for loss in losses):
        return None  # what is wrong shows elsewhere
    if size > 1 and abs(losses[0] - shares.sum()) < 1e-4:
        return "the gradients are right; the loss that you *return* is right on rank 0 alone. Every rank returns it."
    if abs(factor - 1) < 0.01:
        return "the gradients are right; the loss that you *return* is nearly right: is it rounded?"
    return (
        f"the gradients are right; the loss that you *return* is {factor:.3g} times the mean over all selected tokens."
    )


def about_weights(weights, right, n, own, parts, ignored):
    """Return what weights the parts' mean losses have in each rank's gradient. weights: [rank, part]"""
    firsts, lasts, whole = n[::parts], n[parts - 1 :: parts], n.sum()
    of_ranks = torch.stack([n[own == r].sum() for r in own.unique()])
    factors = {  # why -> how many times too long
        "`model.loss` is a mean already: multiply it by the part's number before you divide by all": 1 / whole,
        "you divide by the numbers of the ranks' last parts only": whole / lasts.sum(),
        "you divide by the numbers of the ranks' first parts only": whole / firsts.sum(),
        "you take the largest rank's number for the number of each rank": whole / of_ranks.max() / len(of_ranks),
        "a part without a selected token is counted as one. Clamp the total, not each number": whole / (whole + 1),
        "something is added up twice, such as the sum of all ranks to a `p.grad` that is in it already": 2.0,
        "you divide by twice the number of selected tokens: are some counted twice": 0.5,
        "a weight is rounded down, perhaps by `//` or `int`": 0.0,
    }
    others = {  # why -> weights
        "each rank's parts have the weights of rank 0's. Take its own numbers": n[torch.arange(len(n)) % parts] / whole,
        "each part has the weight of its rank's first one. Take each part's own number": n[own * parts] / whole,
        "you count the labels that are IGNORE. Count the others, `labels != IGNORE`": ignored / ignored.sum(),
        "you multiply `p.grad` after each part, and with it what the parts before have left there. Weight the loss, "
        "before `backward()`": torch.cat([(n[own == r] / whole).flip(0).cumprod(0).flip(0) for r in own.unique()]),
    }
    others |= {
        f"the gradient of rank {r}'s parts alone is there. Add up all ranks'": right * (own == r) for r in own.unique()
    }

    def alike(a, b):
        return torch.allclose(a, b.expand_as(a), rtol=1e-3, atol=1e-5)

    size = len(weights)
    mine_only = own == torch.arange(size)[:, None]
    shown = ", ".join(f"{round(w, 4) + 0:g}" for w in weights[0].tolist())
    wanted = ", ".join(f"{round(w, 4):g}" for w in right.tolist())
    factor = weights[0] / right
    if size > 1 and alike(weights, weights * mine_only):
        why = "each rank is left with the gradient of its own parts: the others' does not arrive in `p.grad`."
    elif not alike(weights, weights[0]):
        why = "the ranks have different gradients. Each should have the sum over all of them."
    elif alike(factor, factor.mean()):
        known = next((text for text, value in factors.items() if abs(factor.mean() - value) < 1e-4), "")
        why = f"the direction is right, and the gradient is {factor.mean() + 0:.3g} times as long as it should be"
        why += f": {known}." if known else "."
        if factor.mean() < 0:
            why = (
                "the gradient points the other way: a minus sign is too many. The optimizer goes against the gradient."
            )
    elif parts > 1 and alike(weights[:, 1::parts], 0 * right[0]) and len(n) == size * parts:
        why = "only the first part of each rank is used."
    elif known := next((text for text, values in others.items() if alike(weights[0], values)), None):
        why = f"{known}."
    elif alike(weights[0], weights[0].mean()):
        why = "each part has the same weight, whatever its number of selected tokens."
    else:
        why = "the weights of the parts are not their proportions of the selected tokens."
    return (
        f"{why} On rank 0 the mean losses of the parts with {', '.join(f'{k:.0f}' for k in n.tolist())} selected "
        f"tokens have the weights {shown} in the gradient; right are {wanted}."
    )


def other_ranks(answer, generator):
    model = a_model(generator, width=4, layers=2).float()
    counts = (((1, 0, 2), (2, 1)), ((4,), (3, 4)), ((0, 0), (5,)))
    return on_ranks(answer, model, [[a_part(generator, c) for c in of_rank] for of_rank in counts])


def wrong_parallel(**switches):
    """Return a parallel_backward as a learner may write it; its switches are the mistakes."""
    names = "count total divide loss sends again clear early zero outside mask"
    s = dict.fromkeys(names.split()) | switches

    def count_of(part):
        if s["count"] == "mask":
            return int(part["mask"].sum())
        if s["count"] == "rows":
            return len(part["ids"])
        if s["count"] == "labels":
            return part["labels"].numel()
        return int((part["labels"] != IGNORE).sum())

    def backward(model, parts, dist):
        size = dist.get_world_size()
        if s["outside"]:
            size = torch.distributed.get_world_size()
        if s["clear"] != "never":
            model.zero_grad()
        counts = [count_of(part) for part in parts]
        if s["early"] and sum(counts) == 0:
            return 0.0
        total = torch.tensor(sum(counts), dtype=torch.float64)
        if s["total"] != "own":
            dist.all_reduce(total)
        if s["total"] == "mean":
            total = total / size
        if s["zero"] != "divided":
            total = total.clamp(min=1)
        whole = torch.zeros((), dtype=torch.float64)
        for part, count in zip(parts, counts, strict=True):
            if s["clear"] == "each part":
                model.zero_grad()
            loss = model.loss(part["ids"], part["labels"]) if s["mask"] == "left out" else model.loss(**part)
            if s["divide"] == "parts":
                weight = 1 / len(parts)
            elif s["divide"] == "everything":
                weight = 1 / len(parts) / size
            elif s["divide"] == "nothing":
                weight = 1.0
            elif s["divide"] == "sum":
                weight = count
            elif s["divide"] == "parts too":
                weight = count / total / len(parts)
            elif s["divide"] == "last":
                weight = counts[-1] / total
            else:
                weight = count / total
            if s["divide"] == "size too":
                weight = weight / size
            if s["divide"] == "times size":
                weight = weight * size
            share = loss * weight
            if s["loss"] == "reduced first":
                dist.all_reduce(share.data)
            share.backward()
            whole = whole + share.detach()
            if s["again"] == "each part":
                reduce(model, dist, size)
            if s["again"] == "each part, fresh":
                fresh(model, dist)
        if s["again"] == "each part, fresh":
            for p in model.parameters():
                p.grad = p.kept
        if s["loss"] not in ("own", "reduced first"):
            dist.all_reduce(whole)
        if s["loss"] == "mean":
            whole = whole / size
        if s["again"] is None:
            reduce(model, dist, size)
        if s["loss"] == "tensor":
            return [whole]
        return None if s["loss"] == "forgotten" else float(whole)

    def reduce(model, dist, size):
        for p in model.parameters():
            if p.grad is None and s["sends"] != "frozen":
                continue
            if s["sends"] == "nothing":
                continue
            if s["sends"] == "copy":
                dist.all_reduce(p.grad.clone())
            elif s["sends"] == "assigned":
                p.grad = dist.all_reduce(p.grad)
            elif s["sends"] == "first":
                if dist.get_rank() == 0:
                    dist.all_reduce(p.grad)
            elif s["sends"] == "weights":
                dist.all_reduce(p.data)
                p.data /= size
            else:
                dist.all_reduce(p.grad)
            if s["sends"] == "mean":
                p.grad /= size

    def fresh(model, dist):
        """Each part's own gradient, reduced at once and added up."""
        for p in model.parameters():
            if p.grad is None:
                continue
            dist.all_reduce(p.grad)
            p.kept = p.grad if getattr(p, "kept", None) is None else p.kept + p.grad
            p.grad = None

    return backward


def in_one_bucket(model, parts, dist):
    """The gradients of one sum of losses, in one all-reduce."""
    counts = [(part["labels"] != IGNORE).sum() for part in parts]
    total = torch.stack(counts).sum()
    dist.all_reduce(total)
    params = [p for p in model.parameters() if p.requires_grad]
    summed = sum(model.loss(**part) * count for part, count in zip(parts, counts, strict=True))
    found = torch.autograd.grad(summed, params)
    bucket = torch.cat([g.flatten() for g in found] + [summed.detach()[None]])
    dist.all_reduce(bucket)
    bucket /= total.clamp(min=1)
    for p, g in zip(params, bucket[:-1].split([p.numel() for p in params]), strict=True):
        p.grad = g.view_as(p).clone()
    return bucket[-1].item()


def as_ddp_does(model, parts, dist):
    """Weighted by the number of ranks, so that their mean is right, as `nextbert_lite.training.distributed` does."""
    size, model_parameters = dist.get_world_size(), list(model.parameters())
    total = torch.tensor([float((part["labels"] != IGNORE).sum()) for part in parts]).sum()
    dist.all_reduce(total)
    for p in model_parameters:
        p.grad = None
    loss = torch.zeros(1, dtype=torch.float64)
    for part in parts:
        weight = float((part["labels"] != IGNORE).sum()) * size / max(1.0, float(total))
        (model.loss(**part) * weight).backward()
        with torch.no_grad():
            loss += model.loss(**part) * weight
    dist.all_reduce(loss)
    for p in model_parameters:
        if p.requires_grad:
            dist.all_reduce(p.grad)
            p.grad.div_(size)
    return loss.item() / size


parallel = Build(
    id="20.2",
    course=parallel_backward,
    stages=(
        Stage("one rank", one_rank),
        Stage("several parts", several_parts),
        Stage("two ranks with the same number of tokens", two_alike),
        Stage("different numbers", two_unlike),
        Stage("a rank without a selected token", one_without),
        Stage("no selected token anywhere", none_anywhere),
        Stage("what is sent, and how exactly", what_is_sent),
        Stage("old gradients and frozen weights", with_history),
        Stage(OTHER_SIZES, other_ranks),
    ),
    mistakes=(
        Mistake(
            "nothing returned",
            wrong_parallel(loss="forgotten"),
            "the gradients are asked for, and the loss too: return the loss over all selected tokens as a number.",
            "a step that only leaves gradients, as torch's DDP does",
        ),
        Mistake(
            "a list",
            wrong_parallel(loss="tensor"),
            "you return a list. Return one number, the loss over all selected tokens of all ranks.",
            "losses collected in a list",
        ),
        Mistake(
            "the sum of the losses",
            wrong_parallel(divide="sum"),
            "the gradient is that of the *sum* over tokens. Multiply each mean loss by its part's number of selected "
            "tokens, once, and divide by the number of all parts and ranks, this rank's included.",
            "https://github.com/huggingface/transformers/pull/34191: reduction='sum' needs the division by "
            "num_items_in_batch",
        ),
        Mistake(
            "the result of all_reduce",
            wrong_parallel(sends="assigned"),
            "`p.grad` is None afterwards. Either you assign what `all_reduce` returns, which is nothing: it puts the "
            "sum into the tensor that it is given, so `dist.all_reduce(p.grad)` stands on a line of its own. Or the "
            "gradients are cleared at the end, where the optimizer still needs them.",
            "x = x.sort() for a call that works in place and returns nothing",
        ),
        Mistake(
            "torch's own group",
            wrong_parallel(outside=True),
            NO_GROUP,
            "Default process group has not been initialized, torch's most frequent message on this topic",
        ),
        Mistake(
            "a mean of means in time",
            wrong_parallel(divide="parts"),
            "you take the mean of the parts' means. A token of a part with few selected tokens then counts for more. "
            "Weight each part's loss by its number of selected tokens, over the number in all. This is the "
            "accumulation bug of 2024.",
            "https://github.com/huggingface/transformers/pull/34191; https://github.com/huggingface/transformers/issues"
            "/24725 had reported it in 2023",
        ),
        Mistake(
            "the mask left out",
            wrong_parallel(mask="left out"),
            "the loss is computed without the mask. What `mask` calls padding is attended to then: "
            "`model.loss(part['ids'], part['labels'], part['mask'])`.",
            "a padding mask that is derived from ids, where a batch brings its own",
        ),
        Mistake(
            "losses added up",
            wrong_parallel(divide="nothing"),
            "the parts' losses are added as they are. The gradient becomes larger with every part: weight each by its "
            "number of selected tokens over the number in all.",
            "https://torchedup.dev/problems/debug-gradient-accumulation: averages that are summed and never divided",
        ),
        Mistake(
            "divided by the parts as well",
            wrong_parallel(divide="parts too"),
            "you weight by tokens *and* divide by the number of parts. The weights add up to 1 already: divide once.",
            "https://github.com/huggingface/transformers/pull/34373: `loss *= gradient_accumulation_steps` takes a "
            "second division back",
        ),
        Mistake(
            "only the last part",
            wrong_parallel(clear="each part"),
            "only the gradient of the last part is left. Either the gradients are set to zero before each part, which "
            "belongs at the start alone, or `backward()` is called once, after the loop, which has to come for "
            "each part.",
            "`optimizer.zero_grad()` inside the accumulation loop",
        ),
        Mistake(
            "the last part's number",
            wrong_parallel(divide="last"),
            "each part gets the weight of the last one. Take each part's own number of selected tokens.",
            "a variable of the loop read after it has ended",
        ),
        Mistake(
            "real tokens counted",
            wrong_parallel(count="mask"),
            "you count the real tokens of the mask. The loss is a mean over *selected* tokens, those whose label is "
            "not -100: count these.",
            "https://github.com/meta-pytorch/torchtune/pull/1875 had to say which tokens are counted",
        ),
        Mistake(
            "rows counted",
            wrong_parallel(count="rows"),
            "you count rows. The loss is a mean over selected tokens, and a row may hold many of them or none.",
            "https://github.com/huggingface/transformers/issues/24725: one sample of 11 tokens and one of 101",
        ),
        Mistake(
            "all labels counted",
            wrong_parallel(count="labels"),
            "you count all positions, those with the label -100 included. Count `labels != IGNORE`.",
            "labels.numel() for the number of targets",
        ),
        Mistake(
            "gradients not sent",
            wrong_parallel(sends="nothing"),
            "each rank is left with the gradient of its own texts. Either no gradient was sent, or a *copy* of "
            "`p.grad` was (`all_reduce` works in place, so give it `p.grad` itself), or the *loss* was, before "
            "`backward()`: its value is right then, and its gradient is not, because autograd does not see "
            "`all_reduce`.",
            "https://github.com/jingyaogong/minimind/issues/853: gradients that were never all-reduced; "
            "https://github.com/lightly-ai/lightly/issues/1920: all_reduce is not in autograd's graph",
        ),
        Mistake(
            "only the first rank sends",
            wrong_parallel(sends="first"),
            "`all_reduce` is called on the first rank only, and it waits for the others. All ranks have to call it.",
            "`if rank == 0:` around a collective call, torch's documented deadlock",
        ),
        Mistake(
            "divided by the ranks as well",
            wrong_parallel(divide="size too"),
            "you weight by the number of tokens over *all* ranks and divide by the number of ranks too. The weights "
            "add up to 1 over all ranks: add up, and divide once.",
            "https://github.com/huggingface/transformers/pull/34373: with DDP's own division the loss has to be "
            "multiplied by the world size",
        ),
        Mistake(
            "the mean of right shares",
            wrong_parallel(sends="mean"),
            "the shares are right, and their gradients are averaged. Each is a part of one mean, so they are added "
            "up: without the last division, or with a loss multiplied by the number of ranks before it, as DDP needs.",
            "https://github.com/huggingface/transformers/pull/34373, the same division in DDP",
        ),
        Mistake(
            "times the number of ranks",
            wrong_parallel(divide="times size"),
            "the gradient is as many times too large as there are ranks. Either you divide by the number of selected "
            "tokens of *one* rank, its own or the largest (all-reduce the number first), or you all-reduce the "
            "gradients "
            "twice, or you multiply by the number of ranks, which is needed only where DDP divides by it afterwards.",
            "https://github.com/texttron/tevatron/issues/143: `loss * world_size`, to counter an average that was not "
            "there",
        ),
        Mistake(
            "the loss of this rank",
            wrong_parallel(loss="own"),
            "the loss that you return is this rank's share. Add up the shares of all ranks: `dist.all_reduce(loss)`.",
            "https://github.com/karpathy/llm.c/pull/551: a printed loss that was one rank's",
        ),
        Mistake(
            "the mean of the shares",
            wrong_parallel(loss="mean"),
            "the gradients are right, the loss is divided by the number of ranks once too often: the shares add up to "
            "the mean over all tokens.",
            "an all-reduced loss divided as in most training loops",
        ),
        Mistake(
            "a mean of means in space",
            wrong_parallel(total="own", divide=None, sends="mean", loss="mean"),
            "you divide by this rank's number of selected tokens and take the mean over ranks: a mean of means. With "
            "the same number of tokens on each rank it is right, with different numbers it is not. all-reduce the "
            "number first.",
            "https://github.com/huggingface/transformers/issues/34242: DDP token averaging",
        ),
        Mistake(
            "sent after each part",
            wrong_parallel(again="each part"),
            "you all-reduce `p.grad` after each part. From the second part on it holds the sum of all ranks already, "
            "which is then added up once more. Send once, after the last part.",
            "https://github.com/karpathy/build-nanogpt/pull/30: when gradients are synchronised during accumulation",
        ),
        Mistake(
            "a rank leaves early",
            wrong_parallel(early=True),
            "a rank without a selected token returns before the others are done. They wait for it: with processes for "
            "ever. Let it make the same calls as the others, with gradients of zero.",
            "https://github.com/orgs/MLSysDev/discussions/53: what a rank without targets should do",
        ),
        Mistake(
            "zero divided by zero",
            wrong_parallel(zero="divided"),
            ZERO_BY_ZERO,
            "F.cross_entropy of no target, which is not a number",
        ),
        Mistake(
            "sent for each part",
            wrong_parallel(again="each part, fresh"),
            "the gradients are right, but each part sends all of them. Over a slow line that is most of a step. Add up "
            "the parts on the rank and send once.",
            "https://github.com/karpathy/build-nanogpt/pull/30: gradients synchronised at the last step only",
        ),
        Mistake(
            "old gradients kept",
            wrong_parallel(clear="never"),
            "the gradients of an earlier step are still there, and they are added up over the ranks as well. Set them "
            "to None at the start.",
            "a forgotten zero_grad, here multiplied by the number of ranks",
        ),
        Mistake(
            "frozen weights",
            wrong_parallel(sends="frozen"),
            "a frozen parameter has no gradient, and `p.grad` is None there. Leave it out.",
            "AttributeError: 'NoneType' object, where a layer is frozen",
        ),
    ),
    hints=(
        "Which number must all ranks know before the first backward pass? Put it into a tensor and all-reduce it.",
        "(part's mean) × (part's tokens) / (all tokens) are shares of one mean: they are added up over parts and over "
        "ranks, and nothing is divided afterwards.",
        "`backward()` adds to `p.grad`, so the parts add up by themselves. After the last one: `for p in "
        "model.parameters(): dist.all_reduce(p.grad)`, for those that have a gradient.",
        "A part without a selected token has the loss 0 and gradients of zero (lesson 05's loss sees to that). Let it "
        "go through the same lines as the others.",
    ),
    praise="However the texts are dealt out, in time or to devices, the gradient is that of one batch.",
    about=about_parallel,
    other_ways=(in_one_bucket, as_ddp_does),
)


# --- 20.3 find the bug: who reads what --------------------------------------------------------------------------------


def rows_for(n, batch, rank, size, seed, step):
    """n: rows of the corpus, batch: rows a step on all ranks together -> this rank's rows, (batch / size,)"""
    together = torch.randperm(n, generator=seeded(seed, step))[:batch]
    return together.chunk(size)[rank]


def some_rows(generator):
    return 40, 12, 1 + generator.initial_seed() % 3, 4, 5, 7


def other_rows(generator):
    return 23, 8, 0, 1, 1, 7


def as_numbers(result):
    """Return row numbers as a tensor: a list of whole numbers says the same."""
    if isinstance(result, torch.Tensor) and not result.is_floating_point() and result.dtype != torch.bool:
        return result.long()
    whole = isinstance(result, list | tuple) and result and all(isinstance(i, int | numbers_.Integral) for i in result)
    return torch.as_tensor(result) if whole or type(result).__module__ == "numpy" else result


def places(found, order, share):
    """Return a sentence on the places of the draw that the ranks get, if they are evenly spaced on each rank."""
    told = []
    for rows in found:
        if isinstance(rows, Exception) or not len(rows):
            told.append(type(rows).__name__ if isinstance(rows, Exception) else "none")
            continue
        if rows.dtype != torch.int64 or not set(rows.tolist()) <= set(order.tolist()):
            return ""
        there = order.argsort()[rows]
        step = there.diff()
        between = bool((step == 1).all())
        if not between and (len(step) == 1 or (step != step[0]).any()):
            return ""
        told.append(f"{there[0]} to {there[-1]}" if between else f"({', '.join(map(str, there.tolist()))})")
    if set(told) == {"none"}:
        return (
            " The slice lies behind the end of the draw: its beginning depends on the rank alone, from 0 to size − 1."
        )
    right = ", ".join(f"{k * share} to {(k + 1) * share - 1}" for k in range(len(found)))
    return f" The ranks 0 to {len(found) - 1} get the places {', '.join(told)} of the draw; right are {right}."


def about_rows(answer, case):
    """Return what is wrong with row numbers; a distance of two of them means nothing."""
    n, batch, _, size, seed, step = case
    order, share = torch.randperm(n, generator=seeded(seed, step)), batch // size
    together = order[:batch]
    found = [run(lambda r=rank: as_numbers(answer(n, batch, r, size, seed, step)), ()) for rank in range(size)]
    raised = next((rank for rank, of_rank in enumerate(found) if isinstance(of_rank, Exception)), None)
    if raised is not None:
        said = str(found[raised]).splitlines()[0].rstrip(".")
        whole = " `/` gives a float, `batch // size` a whole number." if "slice indices" in said else ""
        whole += " Give the generator by its name, `generator=...`." if "torch._C.Generator" in said else ""
        return (
            f"with n={n}, batch={batch}, size={size} and rank={raised} it raises {type(found[raised]).__name__}: "
            f"{said}.{whole} Cut the first `batch` rows into `size` parts; the rank, from 0 to size − 1, "
            f"chooses one.{places(found, order, share) if raised else ''}"
        )
    if found[0] is None:
        return None
    if not all(isinstance(of_rank, torch.Tensor) and of_rank.ndim == 1 for of_rank in found):
        return f"it returns {describe(found[0])}; expected a tensor of whole numbers, (batch / size,)."
    if found[0].is_floating_point() or found[0].dtype == torch.bool:
        return f"the row numbers are of {found[0].dtype}; whole numbers are expected, which can be used as indices."
    again = [as_numbers(answer(n, batch, rank, size, seed, step)) for rank in range(size)]
    if any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(found, again, strict=True)):
        return "two calls with the same arguments give different rows: draw with `generator=seeded(seed, step)`."
    sizes, every = {len(of_rank) for of_rank in found}, torch.cat(found)
    if sizes != {batch // size}:
        meant = ": `batch` counts the rows of all ranks together" if len(found[0]) == batch else ""
        return (
            f"with batch={batch} and size={size} the ranks get {', '.join(str(len(f)) for f in found)} rows; each "
            f"should get {batch // size}{meant}.{places(found, order, share)}"
        )
    if int(every.max()) >= n or int(every.min()) < 0:
        return f"there are row numbers outside 0 to n − 1: {int(every.max())} with n={n}."
    if sorted(every.tolist()) == sorted(together.tolist()):
        parts = together.chunk(size)
        if all(sorted(a.tolist()) == sorted(b.tolist()) for a, b in zip(found, parts, strict=True)):
            return "each rank has its rows, in another order than that of the draw. Keep the order of `randperm`."
        if every.tolist() == sorted(every.tolist()):
            return "the rows of the batch are sorted before they are dealt out. Keep the order of `randperm`."
        which = [next((k for k, part in enumerate(parts) if torch.equal(part, of_rank)), None) for of_rank in found]
        if None not in which:
            return (
                f"the ranks 0 to {size - 1} get the parts {', '.join(map(str, which))}. Rank 0 gets part 0, and so on."
            )
        has = ", ".join(map(str, order.argsort()[found[0]].tolist()))
        return (
            "together the ranks read the right rows, dealt out differently. Contiguous parts, and rank 0 gets the "
            f"first: the places 0 to {share - 1} of the draw, and not {has}."
        )
    twice = len(every) - len(set(every.tolist()))
    outside = len(set(every.tolist()) - set(together.tolist()))
    if all(torch.equal(found[0], of_rank) for of_rank in found):
        return "all ranks read the same rows: the rank plays no part."
    if torch.equal(every, torch.arange(batch)):
        return f"you return 0 to {batch - 1} in order. Those are places; return the rows that the draw has there."
    if max(every.tolist()) < batch < n and outside:
        return f"all rows are below {batch}, the size of a batch: draw from all n={n} rows, and take the first `batch`."
    drawn_with = {
        "the step times the ranks plus the rank": lambda r: seeded(seed, step * size + r),
        "the step plus the rank": lambda r: seeded(seed, step + r),
        "the seed plus the rank": lambda r: seeded(seed + r, step),
        "the rank": lambda r: seeded(seed, r),
    }
    for text, made in drawn_with.items():
        draws = [torch.randperm(n, generator=made(rank))[:batch] for rank in range(size)]
        if any(torch.equal(every, torch.cat([d.chunk(size)[r * k] for r, d in enumerate(draws)])) for k in (0, 1)):
            return (
                f"the generator depends on {text}, so each rank draws by itself, and the same row may come twice. Draw "
                "with the same generator on each rank, then take different parts."
            )
    draws = {
        "seeded(seed, step)": seeded(seed, step),
        "seeded(seed)": seeded(seed),
        "seeded(seed, 0)": seeded(seed, 0),
        "seeded(seed, step + 1)": seeded(seed, step + 1),
        "seeded(seed, step - 1)": seeded(seed, step - 1),
        "seeded(step)": seeded(step),
        "seeded(seed + step)": seeded(seed + step),
        "seeded(seed * step)": seeded(seed * step),
        "torch.Generator().manual_seed(seed)": torch.Generator().manual_seed(seed),
        "torch.Generator().manual_seed(seed + step)": torch.Generator().manual_seed(seed + step),
        "torch.Generator().manual_seed(step)": torch.Generator().manual_seed(step),
    }
    draws = {f"`{text}`": torch.randperm(n, generator=made) for text, made in draws.items()}
    draws |= {
        "`seeded(seed, step)`, plus 1": order + 1,
        "`seeded(seed, step)`, turned round by `argsort()`": order.argsort(),
    }
    for text, drawn_rows in draws.items():
        if not (drawn_rows == every[0]).any():
            continue
        first = int((drawn_rows == every[0]).nonzero()[0])
        if torch.equal(every, drawn_rows.roll(-first)[:batch]) and (first or text != "`seeded(seed, step)`"):
            from_1 = " Ranks are counted from 0." if first == n - batch // size else ""
            return (
                f"the ranks read the places {first} to {(first + batch - 1) % n} of the draw with {text}; it "
                f"should be the places 0 to {batch - 1} of the draw with `seeded(seed, step)`.{from_1}"
            )
    if any(torch.equal(of_rank, torch.arange(len(of_rank)) + of_rank[0]) for of_rank in found if len(of_rank) > 1):
        return "the rows follow each other, so they are not drawn at random: `torch.randperm(n, generator=...)`."
    if twice and torch.equal(every, torch.randint(n, (batch,), generator=seeded(seed, step))):
        return "you draw with repetition, so a row may come twice in a batch. Take `torch.randperm`."
    if not outside:
        return (
            f"the rows are among the first {batch} of the draw, but {twice} of them come twice and as many never. "
            f"Rank r gets the places r · batch/size to (r + 1) · batch/size.{places(found, order, share)}"
        )
    return (
        f"together the ranks read {outside} rows that are not among the first {batch} of the draw `torch.randperm(n, "
        f"generator=seeded(seed, step))`{f', and {twice} rows twice' if twice else ''}."
        + (places(found, order, share) or " Another generator, or the same with other arguments, draws other rows.")
    )


rows = Exercise(
    id="20.3",
    reads=as_numbers,
    about=about_rows,
    right=rows_for,
    inputs=some_rows,
    also=other_rows,
    closed=True,
    mistakes=(
        Mistake(
            "the same rows on each rank",
            lambda n, batch, rank, size, seed, step: torch.randperm(n, generator=seeded(seed, step))[: batch // size],
            "the rank plays no part: each rank reads the same rows. Together they know what one of them knows. Draw "
            "the batch of all ranks, and take this rank's part of it.",
            "https://github.com/yangkky/distributed_tutorial/issues/5: rows that are visited several times, others "
            "never",
        ),
        Mistake(
            "the whole batch",
            lambda n, batch, rank, size, seed, step: torch.randperm(n, generator=seeded(seed, step))[:batch],
            "each rank gets the whole batch. `batch` is that of all ranks together: cut it into as many parts as "
            "there are ranks.",
            "a batch size a device taken for the batch size",
        ),
        Mistake(
            "a seed for each rank",
            lambda n, batch, rank, size, seed, step: torch.randperm(n, generator=seeded(seed, step, rank))[
                : batch // size
            ],
            "each rank draws with a generator of its own. They may draw the same row in one step, and the batch is not "
            "that of one device. Draw with the same generator everywhere, then take different parts.",
            "torch.manual_seed(seed + rank) before the sampler",
        ),
        Mistake(
            "the seed plus the rank",
            lambda n, batch, rank, size, seed, step: torch.randperm(n, generator=seeded(seed + rank, step))[
                : batch // size
            ],
            "seed + rank gives each rank a draw of its own: the same row may come twice in a step, and rank 1 with "
            "seed 0 repeats rank 0 with seed 1. Draw with the same generator everywhere, then take different parts.",
            "torch.manual_seed(seed + rank) in many training scripts",
        ),
        Mistake(
            "the step plus the rank",
            lambda n, batch, rank, size, seed, step: torch.randperm(n, generator=seeded(seed, step + rank))[
                : batch // size
            ],
            "rank 1 reads at step 5 what rank 0 reads at step 6: each text comes as often as there are ranks. Draw "
            "with the same generator everywhere, then take different parts.",
            "an offset that walks through the same sequence",
        ),
        Mistake(
            "every size-th row",
            lambda n, batch, rank, size, seed, step: torch.randperm(n, generator=seeded(seed, step))[:batch][
                rank::size
            ],
            "you deal the rows out like cards, each rank every `size`-th. That is a right way too, and torch's sampler "
            "does it. The text asks for contiguous parts, rank 0 the first.",
            "torch.utils.data.DistributedSampler takes indices[rank::num_replicas]",
        ),
        Mistake(
            "drawn with repetition",
            lambda n, batch, rank, size, seed, step: torch.randint(n, (batch,), generator=seeded(seed, step)).chunk(
                size
            )[rank],
            "you draw with repetition, so a row may come twice in a batch. Take the first `batch` numbers of "
            "`torch.randperm`.",
            "randint for a sample without repetition",
        ),
        Mistake(
            "the same in each step",
            lambda n, batch, rank, size, seed, step: torch.randperm(n, generator=seeded(seed))[:batch].chunk(size)[
                rank
            ],
            "the step plays no part: every step reads the same rows.",
            "https://github.com/pytorch/pytorch/issues/31771: DistributedSampler gives the same order in each epoch "
            "without set_epoch",
        ),
        Mistake(
            "not shuffled",
            lambda n, batch, rank, size, seed, step: (
                torch.arange(step * batch, (step + 1) * batch).chunk(size)[rank] % n
            ),
            "the rows are not drawn at random. Take the first `batch` numbers of `torch.randperm(n, "
            "generator=seeded(seed, step))`.",
            "shuffle=False",
        ),
        Mistake(
            "parts of the corpus",
            lambda n, batch, rank, size, seed, step: (
                n // size * rank + torch.randperm(n // size, generator=seeded(seed, step))[: batch // size]
            ),
            "each rank draws from its own part of the corpus. No text comes twice, but the batch is not the one that a "
            "single device would read. Draw the batch of all ranks, and take this rank's part.",
            "a corpus cut into one file for each rank",
        ),
        Mistake(
            "the last part first",
            lambda n, batch, rank, size, seed, step: torch.randperm(n, generator=seeded(seed, step))[:batch].chunk(
                size
            )[-1 - rank],
            "the parts are right and dealt out from the end: rank 0 gets the first part.",
            "an index from the wrong side",
        ),
        Mistake(
            "the whole order cut",
            lambda n, batch, rank, size, seed, step: torch.randperm(n, generator=seeded(seed, step)).chunk(size)[rank][
                : batch // size
            ],
            "you cut the order of the whole *corpus* and take the beginning of each part. No row comes twice, but "
            "together they are not the first `batch` rows, which one device reads. Take the batch first, then cut.",
            "the two cuts in the other order",
        ),
        Mistake(
            "one row too many between",
            lambda n, batch, rank, size, seed, step: torch.randperm(n, generator=seeded(seed, step))[
                rank * (batch // size) : (rank + 1) * (batch // size) + 1
            ],
            "your part has one row too many, the first of the next rank. A slice ends before its second number.",
            "an end that is counted in",
        ),
        Mistake(
            "the rank as the step of the seed",
            lambda n, batch, rank, size, seed, step: torch.randperm(n, generator=seeded(step, seed))[:batch].chunk(
                size
            )[rank],
            "the generator is `seeded(step, seed)`; the text says `seeded(seed, step)`, in this order.",
            "two arguments exchanged",
        ),
    ),
    hints=(
        "Print the rows that rank 0 and rank 1 draw in one step.",
        "The draw of the whole batch may not depend on the rank; which part of it a rank keeps must.",
        "`torch.randperm(n, generator=seeded(seed, step))[:batch].chunk(size)[rank]`",
    ),
    praise="All ranks draw alike, and each keeps another part.",
    other_ways=(
        lambda n, batch, rank, size, seed, step: torch.randperm(n, generator=seeded(seed, step))[
            rank * batch // size : (rank + 1) * batch // size
        ],
        lambda n, batch, rank, size, seed, step: torch.randperm(n, generator=seeded(seed, step))[:batch].view(size, -1)[
            rank
        ],
    ),
)


# --- 20.4 the build: negatives of the other ranks ---------------------------------------------------------------------


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, dist):
        ctx.dist = dist
        found = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(found, rows.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        ctx.dist.all_reduce(gradient)
        return gradient.chunk(ctx.dist.get_world_size())[ctx.dist.get_rank()], None


def gather_rows(rows, dist):
    """rows: this rank's, (B, C) -> the rows of all ranks in their order, (ranks · B, C), with gradients"""

    class Gather(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rows):
            found = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
            dist.all_gather(found, rows.contiguous())
            return torch.cat(found)

        @staticmethod
        def backward(ctx, gradient):
            gradient = gradient.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(gradient)
            return gradient.chunk(dist.get_world_size())[dist.get_rank()]

    return Gather.apply(rows)


def gather_on(answer, own, loss_of):
    """Run an answer on ranks that hold own[rank]; loss_of(rank, all rows) gives each rank's loss, or None for none.

    Return the rows that each rank gets, and the gradient of its own.
    """

    def work(dist):
        rank = dist.get_rank()
        rows = own[rank].detach().clone().requires_grad_()
        given = rows * 1  # no leaf, as a model's vectors are not
        kept = given.detach().clone()
        found = told(answer, given, dist)
        if not torch.equal(kept, given):
            raise Fault("the rows are changed in place: whoever called it finds theirs changed.")
        if not isinstance(found, torch.Tensor):
            raise Fault(f"it returns {describe(found)}; expected one tensor with the rows of all ranks.")
        loss = loss_of(rank, found)
        if loss is None:
            return found.detach().clone()
        if not loss.requires_grad:
            raise Fault("the result has no gradient: autograd does not see `all_gather`.")
        told(backward_of, loss)
        if rows.grad is None:
            raise Fault("no gradient arrives at the rows: the result is not connected to them.")
        if not torch.equal(kept, given):
            raise Fault("the rows are changed in place in the backward pass: whoever called it finds theirs changed.")
        return found.detach().clone(), rows.grad

    result = on_threads(len(own), work)
    return tuple(part for one in result for part in (one if isinstance(one, tuple) else (one,)))


WHOLE_GRADIENT = (
    "backward gives a gradient of another shape than this rank's rows. It gets that of *all* rows: return this rank's "
    "part, `gradient.chunk(size)[rank]`."
)


def backward_of(loss):
    """Go backward; say in a Fault what torch's two messages on a Function's backward mean."""
    try:
        loss.backward()
    except RuntimeError as error:
        said = str(error)
        if "invalid gradient" in said:
            raise Fault(f"{WHOLE_GRADIENT} ({said.splitlines()[0].split(' - ')[-1]}.)") from None
        if "incorrect number of gradients" in said:
            raise Fault(
                "`backward` returns one gradient for each argument of `forward` after `ctx`. For `dist`, which has "
                "none, it is None: `return gradient_part, None`. (Without a `return` it gives one None.)"
            ) from None
        if "is a view" in said or "modified by an inplace operation" in said:
            raise Fault(f"something that the gradient needs is changed in place: {said.splitlines()[0]}") from None
        raise


def about_gathered(answer, stage):
    """Return what the rows are, or of which slices and ranks a gradient is the sum."""
    generator, size = torch.Generator().manual_seed(20), 3 if stage.name == OTHER_SIZES else 2
    B, C = 6, 5 if size == 3 else 4
    own = [rows for rows in drawn(generator, size, B, C)]
    right = torch.cat(own)
    if stage.name == OTHER_SIZES:
        own = [rows.T.contiguous().T for rows in own]
    results = gather_on(answer, own, lambda rank, found: None)
    for rank, found in enumerate(results):
        if said := about_places(found, right, rank, size, own):
            return f"on rank {rank} of {size}, with {B} rows each: {said}"
    w = weights_of(generator, size, B, C)
    gradients = gather_on(answer, own, lambda rank, found: (found * w[rank]).sum())[1::2]
    terms = torch.stack([w[s].chunk(size)[k].flatten() for s in range(size) for k in range(size)])
    for rank, gradient in enumerate(gradients):
        if gradient.shape != (B, C):
            return f"the gradient has the shape {tuple(gradient.shape)}; that of the rows is {(B, C)}."
        c = torch.linalg.lstsq(terms.T, gradient.double().flatten()[:, None]).solution[:, 0]
        if (terms.T @ c - gradient.double().flatten()).norm() > 1e-3 * gradient.double().norm().clamp(min=1e-9):
            for which, all_rows in (("sum", w.sum(0)), ("gradient of its own loss", w[rank])):
                near = [int((all_rows - row).norm(dim=1).argmin()) for row in gradient]
                if torch.allclose(gradient, all_rows[near].to(gradient.dtype), rtol=1e-4):
                    return (
                        f"rank {rank}'s gradient has the rows {', '.join(map(str, near))} of the {which}; its own are "
                        f"the rows {rank * B} to {rank * B + B - 1} of the sum, `gradient.chunk(size)[rank]`."
                    )
            return f"rank {rank}'s gradient is no sum of what the ranks' losses have for its rows."
        c = c.view(size, size)  # [whose loss, whose rows]
        target = torch.zeros_like(c)
        target[:, rank] = 1
        if torch.allclose(c, target, atol=1e-4):
            continue
        column, others = c[:, rank], c.clone()
        others[:, rank] = 0
        if others.abs().max() > 1e-4:
            return (
                f"in rank {rank}'s gradient you add up the gradients of *different* rows, also those of other ranks' "
                "rows. Take this rank's slice of the sum, `gradient.chunk(size)[rank]`."
            )
        if torch.allclose(column, column[0].expand(size), atol=1e-4):
            why = {round(1 / B, 4): " You divide by the number of rows.", 0.0: " Zeros stop what comes from the loss."}
            return (
                f"the gradient is {column[0] + 0:.3g} times the sum over the ranks' losses. It should be the sum "
                "itself." + why.get(abs(round(float(column[0]), 4)), "")
            )
        heard = ", ".join(f"{round(value, 4) + 0:g}" for value in column.tolist())
        return (
            f"rank {rank}'s rows get {heard} times the gradients of the losses of the ranks 0 to {size - 1}; expected "
            f"1 each.{heard_of(float(column[rank]), column[torch.arange(size) != rank])}"
        )
    return None


def heard_of(own, others):
    """Return what is wrong if a row hears `own` times of its rank's loss and `others` times of the others'."""
    if others.abs().max() < 1e-4:
        return " The other ranks' losses are not heard: add up all ranks' gradients before you take this rank's part."
    if not torch.allclose(others, torch.ones_like(others), atol=1e-4):
        return ""
    return " Its own rank's loss is left out." if abs(own) < 1e-4 else " The sum contains its own rank's loss already."


def about_places(found, right, rank, size, own):
    """Return what is wrong with the gathered rows, or None."""
    if found.dtype != right.dtype:
        return f"the rows come back as {found.dtype}, and `rows` are {right.dtype}: `torch.empty_like(rows)` keeps it."
    if found.shape != right.shape:
        if found.numel() == right.numel():
            return (
                f"the shape is {tuple(found.shape)}; expected {tuple(right.shape)}, one rank's rows below the other's: "
                "`torch.cat(list)`."
            )
        return f"the shape is {tuple(found.shape)}; expected {tuple(right.shape)}: all rows of all ranks, and no other."
    if torch.allclose(found, right):
        return None
    if torch.allclose(found, F.normalize(right, dim=-1)):
        return "the rows come back with the length 1. Return them as they are; whoever wants cosines normalises."
    for k, rows in enumerate(own):
        if all(torch.allclose(part, rows) for part in found.chunk(size)):
            return f"all parts are the rows of rank {k}. Each rank's own are expected, in the order of the ranks."
    if torch.allclose(found, sum(own).repeat(size, 1)):
        return "each part is the sum of all ranks' rows. Return the rows of each rank, in the order of the ranks."
    factor = (found * right).sum() / right.square().sum()
    if torch.allclose(found, factor * right):
        return f"all rows are {factor:.3g} times what the ranks gave. Return them as they are."
    near = [int((right - row).norm(dim=1).argmin()) for row in found]
    if torch.allclose(found, right[near]):
        turns = (
            " One row of each rank in turn: `torch.cat` keeps a rank's rows together." if near[1] == len(own[0]) else ""
        )
        return f"the rows are those of all ranks, in another order: {near[:8]} … of the right one.{turns}"
    empty = [k for k, part in enumerate(found.chunk(size)) if not part.any()]
    if empty:
        return f"the rows of rank {', '.join(map(str, empty))} are zeros: are they never filled?"
    wrong = [k for k, (a, b) in enumerate(zip(found.chunk(size), own, strict=True)) if not torch.allclose(a, b)]
    return (
        f"the rows of rank {', '.join(map(str, wrong))} are not those that this rank gave. Does "
        "`dist.all_gather(found, rows)` fill the list, and is nothing changed after it?"
    )


def drawn(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def weights_of(generator, size, B, C):
    return drawn(generator, size, size * B, C)


def its_rows(answer, generator):
    return gather_on(answer, list(drawn(generator, 2, 3, 4)), lambda rank, found: None)


def others_gradient(answer, generator):
    """Each rank's loss reads all rows: a row gets something from every rank."""
    own, w = list(drawn(generator, 2, 3, 4)), weights_of(generator, 2, 3, 4)
    result = gather_on(answer, own, lambda rank, found: (found * w[rank]).sum())
    right = (torch.cat(own), w.sum(0)[:3], torch.cat(own), w.sum(0)[3:])
    if any(a.shape == b.shape and seven_digits(a, b) for a, b in zip(result, right, strict=True)):
        raise Fault("right to about seven digits, and `rows` are float64: is something sent in float32?")
    return result


def one_number(answer, generator):
    """The gradient that comes is one number shown many times."""
    own, w = list(drawn(generator, 2, 3, 4)), drawn(generator, 2)
    return gather_on(answer, own, lambda rank, found: found.sum() * w[rank])


def in_columns(answer, generator):
    """The gradient that comes stands in columns."""
    own, w = list(drawn(generator, 2, 3, 4)), drawn(generator, 2, 4, 6)
    return gather_on(answer, own, lambda rank, found: (found.mT * w[rank]).sum())


def gradient_untouched(answer, generator):
    """The gradient that comes belongs to somebody else as well."""
    own, w, seen = list(drawn(generator, 2, 3, 4)), weights_of(generator, 2, 3, 4), {}

    def loss_of(rank, found):
        class Watched(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.view_as(x)

            @staticmethod
            def backward(ctx, gradient):
                seen[rank] = gradient = gradient.clone()
                return gradient

        return (Watched.apply(found) * w[rank]).sum()

    result = gather_on(answer, own, loss_of)
    return *result, seen[0], seen[1]


def contrastive(answer, generator):
    """InfoNCE of the own anchors with everybody's positives."""
    anchors, positives = drawn(generator, 2, 3, 4), list(drawn(generator, 2, 3, 4))

    def loss_of(rank, found):
        scores = F.normalize(anchors[rank], dim=-1) @ F.normalize(found, dim=-1).T / 0.2
        return F.cross_entropy(scores, torch.arange(3) + 3 * rank)

    return gather_on(answer, positives, loss_of)


def three_ranks(answer, generator):
    own, w = list(drawn(generator, 3, 2, 5).float()), weights_of(generator, 3, 2, 5).float()
    columns = [rows.T.contiguous().T for rows in own]  # not contiguous
    result = gather_on(answer, columns, lambda rank, found: (found.square() * w[rank]).sum())
    if result[0].shape != (6, 5):
        return result
    plain = on_threads(3, lambda dist: answer(columns[dist.get_rank()].contiguous(), dist))
    if not all(torch.equal(rows, torch.cat(own)) for rows in plain):
        raise Fault("without gradients, as in an evaluation, each rank should get all rows as well, and it does not.")

    def two(rows, dist):
        return torch.cat([answer(rows, dist), answer(rows[:1], dist)])

    try:
        gather_on(two, columns, lambda rank, found: found.sum())
    except Exception:  # noqa: BLE001 - the learner's code may raise anything
        raise Fault(
            "a second call before the backward pass, with fewer rows, spoils the first: keep what belongs to a call in "
            "`ctx` or in the function, not on the class or outside."
        ) from None
    return result


def wrong_gather(kind):
    """Return a gather_rows as a learner may write it."""

    def gather(rows, dist):
        size, rank = dist.get_world_size(), dist.get_rank()
        found = [torch.empty_like(rows).detach() for _ in range(size)]
        dist.all_gather(found, rows.detach().contiguous())
        if kind == "no gradient":
            return torch.cat(found)
        if kind == "own put back":
            found[rank] = rows
            return torch.cat(found)
        if kind == "own first":
            return torch.cat([rows, *(f for i, f in enumerate(found) if i != rank)])
        if kind == "stacked":
            found[rank] = rows
            return torch.stack(found)
        if kind == "columns":
            found[rank] = rows
            return torch.cat(found, dim=1)
        if kind == "a list":
            found[rank] = rows
            return found
        if kind == "reduced":
            total = rows.clone()
            dist.all_reduce(total)
            return total
        if kind == "repeated":
            return rows.repeat(size, 1)
        if kind == "reversed":
            return torch.cat(found[::-1])
        if kind == "leaf":
            return torch.cat(found).requires_grad_()

        class Function(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return torch.cat(found)

            @staticmethod
            def backward(ctx, gradient):
                if kind == "rank 0's":
                    every = [torch.empty(gradient.shape, dtype=gradient.dtype) for _ in range(size)]
                    dist.all_gather(every, gradient.contiguous())
                    return every[0].chunk(size)[rank]
                if kind == "own slice":
                    return gradient.chunk(size)[rank]
                if kind == "in place":
                    dist.all_reduce(gradient)
                    return gradient.chunk(size)[rank]
                if kind == "in place, contiguous":
                    gradient = gradient.contiguous()
                    dist.all_reduce(gradient)
                    return gradient.chunk(size)[rank]
                if kind == "not contiguous":
                    gradient = gradient.clone()
                    dist.all_reduce(gradient)
                    return gradient.chunk(size)[rank]
                gradient = gradient.clone(memory_format=torch.contiguous_format)
                if kind == "own slice first":
                    gradient = gradient.chunk(size)[rank].clone()
                    dist.all_reduce(gradient)
                    return gradient
                dist.all_reduce(gradient)
                if kind == "first slice":
                    return gradient.chunk(size)[0]
                if kind == "all slices":
                    return torch.stack(gradient.chunk(size)).sum(0)
                if kind == "mean":
                    return gradient.chunk(size)[rank] / size
                if kind == "times ranks":
                    return gradient.chunk(size)[rank] * size
                if kind == "next slice":
                    return gradient.chunk(size)[rank - 1]
                if kind == "two ranks":
                    return gradient.chunk(2)[min(rank, 1)][: len(rows)]
                return gradient  # "the whole"

        return Function.apply(rows)

    return gather


def by_hook(rows, dist):
    """Put the own rows back, and let a hook add up the gradients of all ranks."""
    found = [torch.empty_like(rows).detach() for _ in range(dist.get_world_size())]
    dist.all_gather(found, rows.detach().contiguous())
    found[dist.get_rank()] = rows
    together = torch.cat(found)

    def added_up(gradient):
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient

    if together.requires_grad:
        together.register_hook(added_up)
    return together


def by_a_class(rows, dist):
    return _Gather.apply(rows, dist)


gathered = Build(
    id="20.4",
    course=gather_rows,
    stages=(
        Stage("the rows", its_rows),
        Stage("the gradient", others_gradient),
        Stage("one number for all", one_number),
        Stage("a gradient in columns", in_columns),
        Stage("the gradient that came", gradient_untouched),
        Stage("the contrastive loss", contrastive),
        Stage(OTHER_SIZES, three_ranks),
    ),
    mistakes=(
        Mistake(
            "stacked",
            wrong_gather("stacked"),
            "the rows are stacked, (ranks, B, C). They should be one list of rows, (ranks · B, C): `torch.cat`.",
            "torch.stack for torch.cat",
        ),
        Mistake(
            "side by side",
            wrong_gather("columns"),
            "the ranks' rows stand side by side, so that each row is longer. They come one below the other: "
            "`torch.cat(found)`.",
            "a cat along the other dimension",
        ),
        Mistake(
            "a list",
            wrong_gather("a list"),
            "you return a list of tensors. Put them together: `torch.cat(found)`.",
            "https://github.com/OFA-Sys/Chinese-CLIP/issues/54: what all_gather fills is a list",
        ),
        Mistake(
            "added up",
            wrong_gather("reduced"),
            "you add the ranks' rows up. Each rank should get all rows, one below the other: `dist.all_gather`.",
            "all_reduce for all_gather",
        ),
        Mistake(
            "the own rows repeated",
            wrong_gather("repeated"),
            "you repeat this rank's rows; those of the other ranks come by `dist.all_gather`.",
            "a shape that is right by accident",
        ),
        Mistake(
            "the own rows first",
            wrong_gather("own first"),
            "this rank's rows stand first. Every rank should get the same order, rank 0's rows first: otherwise the "
            "places of the right answers differ from rank to rank.",
            "an order that fits the labels of one rank",
        ),
        Mistake(
            "the last rank first",
            wrong_gather("reversed"),
            "the ranks come in reverse order. Rank 0's rows are the first.",
            "a list read from its end",
        ),
        Mistake(
            "no gradient",
            wrong_gather("no gradient"),
            "nothing flows back: `all_gather` copies numbers, and autograd does not see it. Write an "
            "`autograd.Function` and call it by `.apply(rows)`, or put a gradient back by a hook; no `detach` or "
            "`no_grad` stands around it.",
            "https://github.com/facebookresearch/vissl/issues/474: is the gradient cut off by the gather?",
        ),
        Mistake(
            "a new leaf",
            wrong_gather("leaf"),
            "no gradient reaches the rows. Either the gathered tensor is a new leaf, `requires_grad_()`, where the "
            "gradient stops; or `backward` returns None (is its `return` missing?). Connect it to the rows.",
            "requires_grad = True, to silence an error",
        ),
        Mistake(
            "the whole gradient",
            wrong_gather("the whole"),
            WHOLE_GRADIENT,
            "Function returned an invalid gradient: expected shape",
        ),
        Mistake(
            "the first slice",
            wrong_gather("first slice"),
            "every rank takes the gradient of rank 0's rows. Take the part of *this* rank.",
            "https://github.com/Spijkervet/SimCLR/issues/33: what grads[dist.get_rank()] is for",
        ),
        Mistake(
            "the next rank's slice",
            wrong_gather("next slice"),
            "this rank gets the gradient of another rank's rows.",
            "an index that is off by one",
        ),
        Mistake(
            "the slice before the sum",
            wrong_gather("own slice first"),
            "you cut out this rank's part and add up afterwards, so that the gradients of *different* rows are mixed. "
            "Add up the whole first, then cut.",
            "two lines in the other order, for less to send",
        ),
        Mistake(
            "the mean",
            wrong_gather("mean"),
            "you divide by the number of ranks. The gradient is the sum of all ranks' losses; whoever averages over "
            "ranks afterwards (DDP does) divides there.",
            "https://github.com/facebookresearch/vissl/pull/230: should the gradient be divided by the number of "
            "processes?",
        ),
        Mistake(
            "times the ranks",
            wrong_gather("times ranks"),
            "the gradient is multiplied by the number of ranks. all_reduce has added up all ranks' losses already.",
            "https://github.com/mlfoundations/open_clip/issues/616: a gradient scaled by the number of GPUs",
        ),
        Mistake(
            "the own rows put back",
            wrong_gather("own put back"),
            "a row gets the gradient of its own rank's loss and nothing of the others', although they use it as a "
            "negative. Add up the gradients of all ranks before you take this rank's part; putting the own rows into "
            "the gathered list is not enough.",
            "https://github.com/mlfoundations/open_clip/issues/616: `gathered[dist.get_rank()] = tensor`; "
            "https://github.com/Spijkervet/SimCLR/issues/33: grads[dist.get_rank()] without a sum over ranks",
        ),
        Mistake(
            "the gradient of rank 0's loss",
            wrong_gather("rank 0's"),
            "every rank takes what rank 0's loss has for its rows. Add up what the losses of *all* ranks have.",
            "the first entry of a gathered list, which is the same everywhere",
        ),
        Mistake(
            "in place",
            wrong_gather("in place"),
            "you all-reduce the gradient as it came. It may be one number shown many times, or shared with others: "
            "make a contiguous copy first, `gradient.clone(memory_format=torch.contiguous_format)`.",
            "Tensors must be contiguous, as torch says",
        ),
        Mistake(
            "a copy with gaps",
            wrong_gather("not contiguous"),
            "`clone()` keeps the strides: a gradient that stands in columns is still not contiguous, and all_reduce "
            "refuses it. `gradient.clone(memory_format=torch.contiguous_format)`.",
            "the default memory format of clone",
        ),
        Mistake(
            "in place where it is contiguous",
            wrong_gather("in place, contiguous"),
            "`contiguous()` makes a copy only where one is needed, so you write the sum into a gradient that belongs "
            "to somebody else. Make a copy always: `clone(memory_format=torch.contiguous_format)`.",
            "a copy that is only made where one is needed",
        ),
        Mistake(
            "two ranks",
            wrong_gather("two ranks"),
            "right for two ranks and not for three: take their number from `dist.get_world_size()`.",
            "a 2 in the code",
        ),
    ),
    hints=(
        "`found = [torch.empty_like(rows) for _ in range(dist.get_world_size())]`, then `dist.all_gather(found, "
        "rows.contiguous())` fills the list on every rank.",
        "A class with `forward(ctx, rows)` and `backward(ctx, gradient)`, both static, derived from "
        "`torch.autograd.Function`; it is called by `.apply(rows)`.",
        "In backward each rank holds the gradient that *its* loss has for *all* rows. Which sum does a row need?",
        "Clone the gradient (contiguous), `dist.all_reduce` it, return this rank's chunk.",
    ),
    praise="Now every row hears from each rank that used it.",
    about=about_gathered,
    other_ways=(by_hook, by_a_class),
)


# --- 20.5 what a device keeps -----------------------------------------------------------------------------------------


def kept_bytes(parameters, ranks, weight=2, gradient=2, optimizer=12):
    """bytes a parameter of each kind -> bytes that each rank keeps: of nothing cut, and of the stages 1, 2 and 3"""
    whole = parameters * (weight + gradient + optimizer)
    first = parameters * (weight + gradient + optimizer / ranks)
    second = parameters * (weight + (gradient + optimizer) / ranks)
    return whole, first, second, whole / ranks


def four(result):
    """Return four numbers as a tensor; Fault for anything else."""
    if getattr(result, "shape", None) == (4,):  # a tensor, or an array
        result = result.tolist()
    if isinstance(result, dict) and len(result) == 4:
        result = list(result.values())
    if not isinstance(result, tuple | list) or len(result) != 4:
        raise Fault(f"it returns {describe(result)}; expected four numbers: nothing cut, and the stages 1, 2 and 3.")
    try:
        return torch.tensor([float(value) for value in result], dtype=torch.float64)
    except (TypeError, ValueError):
        raise Fault("the four results are not numbers; return bytes.") from None


def some_sizes(generator):
    return 4200 * int(torch.randint(1, 50, (1,), generator=generator)), 6, 2, 4, 12


def other_sizes(generator):
    return 4320, 4, 4, 4, 8


def cut_by(*divisors):
    """Return a wrong kept_bytes: what the three kinds are divided by in each of the four stages; 0 is the ranks."""

    def wrong(parameters, ranks, weight=2, gradient=2, optimizer=12):
        sizes = (weight, gradient, optimizer)
        return [
            parameters * sum(n / (by or ranks) for n, by in zip(sizes, of_stage, strict=True)) for of_stage in divisors
        ]

    return wrong


NONE, ALL = (1, 1, 1), (0, 0, 0)


def in_fractions(answer, case):
    """Return a sentence if parts that are no whole numbers are rounded."""
    found, right = four(answer(7, 4, 1, 1, 1)), four(kept_bytes(7, 4, 1, 1, 1))
    if torch.allclose(found, right, rtol=1e-6):
        return None
    return "7 parameters on 4 ranks are rounded. A part may be a fraction: divide by `/`, and do not round."


def about_bytes(answer, case):
    """Return what the four numbers are, or the first that is wrong and of what it would be right."""
    parameters, ranks, *sizes = case
    found, right = run(lambda: four(answer(*case)), ()), four(kept_bytes(*case))
    if isinstance(found, Exception):
        return None

    def is_(values):
        return torch.allclose(found, torch.as_tensor(values, dtype=torch.float64), rtol=1e-6)

    whole, of_each = right[0], torch.tensor([float(n) for n in sizes], dtype=torch.float64)
    cut = torch.tensor([(1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 0, 0)], dtype=torch.float64)  # 1: whole on each rank
    known = {
        "the four stages stand in reverse. The first number is that of nothing cut.": right.flip(0),
        "nothing cut comes first, and yours stands last.": right.roll(-1),
        "you keep all but one part of what is cut, 1 − 1 / ranks. Each rank keeps one part, 1 / ranks.": parameters
        * (cut + (1 - cut) * (1 - 1 / ranks))
        @ of_each,
        "those are bytes for each parameter. Multiply by `parameters`.": right / parameters,
        "those are bits, eight times the bytes.": right * 8,
        "those are the bytes of all ranks together. The question is what *each* keeps.": right * ranks,
        "you divide by one less than the number of ranks. There are `ranks` parts.": parameters
        * (cut + (1 - cut) / (ranks - 1))
        @ of_each,
        "you divide by one more than the number of ranks.": parameters * (cut + (1 - cut) / (ranks + 1)) @ of_each,
        "those are the bytes of what is cut alone. What is whole on each rank stays there: add it.": torch.cat(
            [whole[None], parameters * ((1 - cut) / ranks @ of_each)[1:]]
        ),
        "stage 3 counts the weights twice, whole and cut. Each rank keeps its part of them only.": right
        + torch.tensor([0, 0, 0, 1]) * parameters * of_each[0],
        "you cut only whole bytes of a parameter, `//`. Divide with `/`.": torch.tensor(
            [
                parameters * sum(sizes),
                parameters * (sizes[0] + sizes[1] + sizes[2] // ranks),
                parameters * (sizes[0] + (sizes[1] + sizes[2]) // ranks),
                parameters * sum(sizes) // ranks,
            ]
        ),
    }
    for text, values in known.items():
        if is_(values):
            return text
    for unit, name in (
        (1e3, "kilobytes"),
        (1e6, "megabytes"),
        (1e9, "gigabytes"),
        (2**10, "KiB"),
        (2**20, "MiB"),
        (2**30, "GiB"),
    ):
        if is_(right / unit):
            return f"those are {name}. Return bytes."
    for k, name in enumerate(("weight", "gradient", "optimizer")):
        other = list(sizes)
        other[k] = float(found[0]) / parameters - sum(sizes) + sizes[k]
        if is_(four(kept_bytes(parameters, ranks, *other))):
            return f"all four are right for {other[k]:.3g} bytes of `{name}`; the argument says {sizes[k]}."
    for first in (1, 3):
        share = (found[first] - right[0]) / (cut[first] - 1).mul(of_each).sum().abs() / parameters + 1  # of what is cut
        if share > 0 and is_(parameters * (cut + (1 - cut) * share) @ of_each):
            return f"what is cut is divided by {float(1 / share):.4g}; there are {ranks} ranks."
    kinds = ("weights", "gradients", "optimizer's state")
    ways = torch.tensor([[(i >> k) & 1 for k in range(3)] for i in range(8)], dtype=torch.float64)
    names = ("with nothing cut", "in stage 1", "in stage 2", "in stage 3")
    for name, is_whole, value, wanted in zip(names, cut, found, right, strict=True):
        if torch.isclose(value, wanted, rtol=1e-6):
            continue
        should = ", ".join(kind for kind, k in zip(kinds, is_whole, strict=True) if not k) or "nothing"
        of_kinds = (ways + (1 - ways) / ranks) * of_each  # [what is whole, kind]
        for i, one in enumerate(of_kinds):
            if torch.isclose(parameters * one.sum(), value, rtol=1e-6):
                has = ", ".join(kind for kind, k in zip(kinds, ways[i], strict=True) if not k) or "nothing"
                return f"{name}, what is cut should be: {should}. In your number it is: {has}. The rest is whole."
        one = of_kinds[int((is_whole * torch.tensor([1, 2, 4])).sum())]
        for there in ways:
            if torch.isclose(parameters * (one * there).sum(), value, rtol=1e-6):
                out = ", ".join(kind for kind, k in zip(kinds, there, strict=True) if not k)
                return f"{name}, the bytes of {out} are left out. What is cut is still kept, one part on each rank."
        for one in of_kinds:
            for times in ways:
                if torch.isclose((one * (times * parameters + 1 - times)).sum(), value, rtol=1e-6):
                    without = ", ".join(kind for kind, k in zip(kinds, times, strict=True) if not k)
                    return (
                        f"{name}, the bytes of {without} are not multiplied by `parameters`: is a bracket missing in "
                        "`parameters * (… + …)`?"
                    )
        return (
            f"{name}, yours is {float(value):,.1f} for {parameters:,} parameters, {ranks} ranks and {sizes} bytes; "
            f"expected {float(wanted):,.1f}, yours is {float(value / wanted):.3g} times that. What is cut should be: "
            f"{should}."
        )
    return None


bytes_on_device = Exercise(
    id="20.5",
    right=kept_bytes,
    inputs=some_sizes,
    also=other_sizes,
    limit=in_fractions,
    about=about_bytes,
    reads=four,
    closed=True,
    mistakes=(
        Mistake(
            "weights first",
            cut_by(NONE, (0, 1, 1), (0, 0, 1), ALL),
            "the order is the other way round: what no matrix product needs is cut first. Stage 1 cuts the optimizer's "
            "state, stage 2 the gradients too, stage 3 the weights too.",
            "the three kinds in the order of the arguments",
        ),
        Mistake(
            "one kind a stage",
            cut_by(NONE, (1, 1, 0), (1, 0, 1), (0, 1, 1)),
            "each stage keeps the savings of the one before: stage 2 cuts the optimizer's state *and* the gradients, "
            "stage 3 all three.",
            "https://dev.to/lewis_won/data-parallelism-4g3m says *in addition to* at each stage",
        ),
        Mistake(
            "everything from stage 1 on",
            cut_by(NONE, ALL, ALL, ALL),
            "in stage 1 only the optimizer's state is cut; weights and gradients are whole on each rank.",
            "16 bytes a parameter divided by the ranks",
        ),
        Mistake(
            "nothing cut anywhere",
            cut_by(NONE, NONE, NONE, NONE),
            "nothing is divided by the number of ranks: that is plain data parallelism in each stage.",
            "the formula of one device",
        ),
        Mistake(
            "the gradients first",
            cut_by(NONE, (1, 0, 1), (1, 0, 0), ALL),
            "stage 1 cuts the optimizer's state, the largest of the three, and stage 2 the gradients too.",
            "two stages exchanged",
        ),
        Mistake(
            "stages 2 and 3 exchanged",
            cut_by(NONE, (1, 1, 0), (0, 1, 0), ALL),
            "in stage 2 the gradients are cut, not the weights: whole weights are needed in each forward pass.",
            "two stages exchanged",
        ),
        Mistake(
            "never the weights",
            cut_by(NONE, (1, 1, 0), (1, 0, 0), (1, 0, 0)),
            "stage 3 cuts the weights as well; each rank fetches a layer when it needs it.",
            "stage 2 for stage 3",
        ),
        Mistake(
            "of all ranks together",
            lambda parameters, ranks, weight=2, gradient=2, optimizer=12: [
                ranks * n for n in kept_bytes(parameters, ranks, weight, gradient, optimizer)
            ],
            "those are the bytes of all ranks together. The question is what *each* keeps.",
            "a sum over devices",
        ),
        Mistake(
            "multiplied by the ranks",
            lambda parameters, ranks, weight=2, gradient=2, optimizer=12: (
                parameters * (weight + gradient + optimizer),
                parameters * (weight + gradient + optimizer * ranks),
                parameters * (weight + (gradient + optimizer) * ranks),
                parameters * (weight + gradient + optimizer) * ranks,
            ),
            "you multiply by the number of ranks where each keeps one part of so many: divide.",
            "a product for a quotient",
        ),
        Mistake(
            "stage 0 left out",
            lambda parameters, ranks, weight=2, gradient=2, optimizer=12: (
                *kept_bytes(parameters, ranks, weight, gradient, optimizer)[1:],
                parameters * (weight + gradient + optimizer) / ranks,
            ),
            "the first number is that of plain data parallelism, with nothing cut; then come the stages 1, 2 and 3.",
            "stages that are counted from 1",
        ),
        Mistake(
            "the savings",
            lambda parameters, ranks, weight=2, gradient=2, optimizer=12: [
                parameters * (weight + gradient + optimizer) - n
                for n in kept_bytes(parameters, ranks, weight, gradient, optimizer)
            ],
            "those are the bytes that are *saved*. Return what is kept.",
            "a difference for a size",
        ),
        Mistake(
            "whole bytes of a part",
            cut_by(NONE, (1, 1, 0), (1, 0, 0), (0, 0, 1)),
            "in stage 3 the optimizer's state is cut as well, as it was in the stages before.",
            "the last stage written anew",
        ),
        Mistake(
            "bytes fixed",
            lambda parameters, ranks, weight=2, gradient=2, optimizer=12: (
                16 * parameters,
                (4 + 12 / ranks) * parameters,
                (2 + 14 / ranks) * parameters,
                16 * parameters / ranks,
            ),
            "your numbers are those of 2, 2 and 12 bytes, whatever the arguments say. Use `weight`, `gradient` and "
            "`optimizer`.",
            "Rajbhandari et al. 2020, arXiv:1910.02054: 2, 2 and K = 12 for Adam in mixed precision",
        ),
    ),
    hints=(
        "Without any cut each rank keeps everything: parameters × (weight + gradient + optimizer).",
        "Stage 1: the optimizer's bytes are divided by `ranks`; weights and gradients are not.",
        "Stage 3: all three are divided.",
    ),
    praise="The largest part is the one that is easiest to share.",
    other_ways=(
        lambda parameters, ranks, weight=2, gradient=2, optimizer=12: torch.tensor(
            [
                parameters * (w * weight + g * gradient + o * optimizer)
                for w, g, o in ((1, 1, 1), (1, 1, 1 / ranks), (1, 1 / ranks, 1 / ranks), (1 / ranks,) * 3)
            ],
            dtype=torch.float64,
        ),
        lambda parameters, ranks, weight=2, gradient=2, optimizer=12: [
            parameters * weight / (ranks if stage == 3 else 1)
            + parameters * gradient / (ranks if stage > 1 else 1)
            + parameters * optimizer / (ranks if stage else 1)
            for stage in range(4)
        ],
    ),
)
