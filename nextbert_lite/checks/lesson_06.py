"""The checks of lesson 06, Pretrain a tiny BERT."""

import copy
import math

import torch
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
    reads_of,
    solution,
)
from nextbert_lite.core.encoder import Encoder, EncoderConfig
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.training.loop import fit, linear_schedule

__all__ = ["fill_in", "floors", "head_replaced", "hint", "loss_of_all", "mine", "solution", "training_loop"]


# --- 06.1 the right distribution for a masked token -------------------------------------------------------------------


def frames_and_evidence(generator):
    """Three frames, unequally likely, two seen tokens, five words."""
    prior = torch.tensor([0.6, 0.3, 0.1])[torch.randperm(3, generator=generator)]
    evidence = torch.rand(3, 2, generator=generator) + 0.05
    tables = torch.rand(3, 5, generator=generator)
    return prior, evidence, tables / tables.sum(1, keepdim=True)


def more_evidence(generator):
    prior, evidence, tables = (torch.rand(*size, generator=generator) + 0.05 for size in ((4,), (4, 3), (4, 6)))
    return prior / prior.sum(), evidence, tables / tables.sum(1, keepdim=True)


def right_gap(prior, evidence, tables):
    joint = prior * evidence.prod(1)
    return joint @ tables / joint.sum()


def best_frame_only(prior, evidence, tables):
    return tables[(prior * evidence.prod(1)).argmax()]


def evidence_added(prior, evidence, tables):
    joint = prior * evidence.sum(1)
    return joint @ tables / joint.sum()


def prior_of_each_word(prior, evidence, tables):
    each = prior[:, None] * evidence
    weights = (each / each.sum(0)).prod(1)
    return weights @ tables / weights.sum()


fill_in = Exercise(
    id="06.1",
    right=right_gap,
    inputs=frames_and_evidence,
    also=more_evidence,
    mistakes=(
        Mistake(
            "no prior",
            lambda prior, evidence, tables: right_gap(torch.ones_like(prior), evidence, tables),
            "the prior P(z) is missing: all frames count as equally likely before anything is seen. A frame that is "
            "six times as common needs a sixth of the evidence.",
            "https://github.com/cardmagic/classifier/issues/4 (a Bayes classifier without its prior)",
        ),
        Mistake(
            "no evidence",
            lambda prior, evidence, tables: prior @ tables,
            "the evidence is missing: this is what one would guess without seeing any other word.",
            "https://github.com/LedgerInvesting/bayesblend/pull/34 (prior weights in place of posterior ones)",
        ),
        Mistake(
            "not normalised",
            lambda prior, evidence, tables: prior * evidence.prod(1) @ tables,
            "the numbers do not sum to 1: they are P(the word is w *and* what is seen). Divide by the sum over all "
            "frames, which is P(what is seen).",
            "https://github.com/tskit-dev/tsdate/pull/232, https://github.com/horenbergerb/BernoulliDiffusion/issues/28",
        ),
        Mistake(
            "the best frame only",
            best_frame_only,
            "you take the one likeliest frame and forget the others. The others keep some probability, and the best "
            "prediction is the mixture: sum over all frames.",
            "https://github.com/jolideco/jolideco/issues/10 (the argmax of a mixture in place of the weighted sum)",
        ),
        Mistake(
            "evidence added",
            evidence_added,
            "you add what the tokens say. Given the frame they are independent, so their probabilities multiply: "
            "evidence.prod(1). (Their *logarithms* would be added.)",
            "https://github.com/tmills/uhhmm/issues/8 (evidence comes in by multiplication)",
        ),
        Mistake(
            "the prior of each word",
            prior_of_each_word,
            "you use Bayes' rule for each seen word and multiply the answers, so the prior counts once for each word. "
            "It counts once: prior times the product of the evidence.",
            "posteriors multiplied in place of likelihoods; a fresh reader of this lesson",
        ),
        Mistake(
            "softmax of the result",
            lambda prior, evidence, tables: (prior * evidence.prod(1) @ tables).softmax(-1),
            "the result sums to 1 because you took its softmax, which is for logits. These are probabilities already: "
            "divide by their sum.",
            "softmax as the habit that makes things sum to 1; a fresh reader of this lesson",
        ),
        Mistake(
            "softmax of the weights",
            lambda prior, evidence, tables: (prior * evidence.prod(1)).softmax(0) @ tables,
            "you took the softmax of prior times evidence. Softmax is for logarithms: divide these products by their "
            "sum.",
            "softmax as the habit that makes things sum to 1; a fresh reader of this lesson",
        ),
    ),
    hints=(
        "How well does a frame explain what is seen? Prior times the product of its row of the evidence: (F,).",
        "`weights = prior * evidence.prod(1)`, then divide by their sum.",
        "Mix the rows of the tables with these weights: `weights @ tables`.",
    ),
    praise="Weigh the frames, mix their tables. The floor is this, for every token.",
    other_ways=(
        lambda p, e, t: ((p.log() + e.log().sum(1)).softmax(0)[:, None] * t).sum(0),
        lambda p, e, t: (w := torch.einsum("f,fv->v", p * e.log().sum(1).exp(), t)) / w.sum(),
    ),
)


# --- 06.2 the build: the training loop --------------------------------------------------------------------------------


def pretrain(model, batches, steps, lr, warmup):
    """Train the model in place: step s minimises `model.loss(**batches(s))`. Return the losses, a list of floats."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    optimizer.zero_grad()
    losses = []
    model.train()
    for step in range(steps):
        factor = min((step + 1) / max(1, warmup), (steps - step) / max(1, steps - warmup), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr * factor
        loss = model.loss(**batches(step))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


class Watched(nn.Module):
    """A model whose gradient is known: loss(scale) = scale · Σ parameter · slope. It writes down what it sees."""

    def __init__(self, generator, slope=1.0, restart=False):
        super().__init__()
        self.tokens, self.linear = nn.Embedding(3, 2), nn.Linear(2, 3)
        self.norm, self.dropout = nn.LayerNorm(3), nn.Dropout(0.5)
        self.kernel = nn.Parameter(torch.zeros(2, 1, 2))
        self.double()
        self.restart, self.weights, self.modes, self.asked, self.gradients = restart, [], [], [], []
        self.losses = []  # each loss that was computed
        self.done = []  # how many losses were computed before each batch
        self.slopes = {}
        for name, p in self.named_parameters():
            p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            self.slopes[name] = slope * torch.randn(p.shape, generator=generator, dtype=torch.float64)
        self.linear.bias.register_post_accumulate_grad_hook(lambda p: self.gradients.append(p.grad.clone()))

    def batches(self, scales=None):
        """Return a function that gives the batch of a step, and writes down which steps were asked for."""

        def batch(step):
            self.asked.append(step)
            self.done.append(len(self.modes))
            return {"scale": torch.tensor(1.0 if scales is None else scales[step % len(scales)], dtype=torch.float64)}

        return batch

    def loss(self, scale):
        self.modes.append((self.training, self.dropout.training))
        self.weights.append(self.linear.bias.detach().clone())
        if self.restart:
            with torch.no_grad():
                self.linear.bias.zero_()  # a weight of 0 does not decay, so that a step's length is the rate alone
        loss = scale * sum((p * self.slopes[name]).sum() for name, p in self.named_parameters())
        self.losses.append(loss.item())
        return loss

    def all(self):
        """Return all parameters in one row."""
        return torch.cat([p.detach().flatten() for p in self.parameters()])


LR, STEPS, WARMUP = 0.1, 10, 4  # those of the lesson's own cell


def run_on(answer, model, scales=None, lr=LR, steps=STEPS, warmup=WARMUP):
    return answer(model, model.batches(scales), steps, lr, warmup)


def losses_and_batches(answer, generator):
    model = Watched(generator, slope=0.01)
    losses = run_on(answer, model)
    if losses is None:
        raise Fault("your function returns None: it must return the losses, a list with one float for each step.")
    if not isinstance(losses, list):
        raise Fault(f"expected a list with the loss of each step; yours is {describe(losses)}.")
    if losses and isinstance(losses[0], torch.Tensor):
        return "tensors"
    if not model.losses:
        raise Fault("the loss of the model itself is never computed: train the model that you are given, not a copy.")
    if model.asked == list(range(STEPS)):
        if len(model.losses) != STEPS:
            raise Fault(
                f"in {STEPS} steps the loss is computed {len(model.losses)} times. Compute it once a step: a second "
                "time costs a pass through the model, draws new dropout masks, and after optimizer.step() it is the "
                "loss of other weights."
            )
        if model.done != model.asked:
            raise Fault(
                "all batches are fetched before the first step."
                if not any(model.done)
                else "a batch is fetched before the step in front of it is done: call batches(step) within its step."
            )
        if all(isinstance(loss, float) for loss in losses):
            compare_losses(losses, model.losses)
    return len(losses), sorted({type(loss).__name__ for loss in losses}), model.asked


def compare_losses(listed, computed):
    """Fault, in words, if the list does not hold the losses that the model computed."""
    if len(listed) != len(computed):
        raise Fault(f"after {len(computed)} steps the list has {len(listed)} entries: it holds the loss of each step.")
    listed, computed = (torch.tensor(losses, dtype=torch.float64) for losses in (listed, computed))

    def alike(losses):
        return torch.allclose(listed, losses, rtol=1e-6, atol=1e-8)

    if alike(computed):
        return
    totals = computed.cumsum(0)
    if alike(totals):
        raise Fault("the list holds running totals, the sums of all losses so far. Append the loss of the step alone.")
    if alike(totals / torch.arange(1, len(totals) + 1)):
        raise Fault("the list holds running means of all losses so far. Append the loss of the step alone.")
    step = int(((listed - computed).abs() > 1e-8 + 1e-6 * computed.abs()).nonzero()[0])
    raise Fault(
        f"the list does not hold what `model.loss` returned, unrounded and for each step by itself: at step {step} it "
        f"returned {computed[step]:.6f}, and your list has {listed[step]:.6f}."
    )


def left_over(answer, generator):
    """The gradient of each step as backward() leaves it, whether the weights moved, whether gradients remain."""
    model = Watched(generator, slope=0.05)
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.2)  # an earlier run left them behind
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run_on(answer, model)
    still = [name for name, p in model.named_parameters() if bool((p == before[name]).all())]
    if not model.gradients:
        raise Fault(
            "no gradient reached the model: call backward() on model.loss(...) of the model itself, not of a copy."
        )
    remains = any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    if still == ["kernel"]:
        raise Fault(
            "a parameter with three dimensions never moves: it is in neither group. All with two dimensions or more "
            "belong to the first one."
        )
    if 0 < len(still) < len(before):
        raise Fault(
            f"some parameters never move: {', '.join(still)}. Each parameter belongs in one of the two groups: what "
            "is in neither is not trained at all."
        )
    return torch.stack(model.gradients), not still, remains


def schedule(answer, generator, lr=LR, steps=STEPS, warmup=WARMUP):
    """Under a gradient that never changes Adam's step is as long as the learning rate: read the rate from it."""
    return moves(answer, generator, lr, steps, warmup).mean(1)


def moves(answer, generator, lr, steps, warmup):
    """How far each number of the bias moves at each step, in learning rates: (steps, 3)."""
    model = Watched(generator, slope=0.05, restart=True)
    run_on(answer, model, lr=lr, steps=steps, warmup=warmup)
    return torch.stack([*model.weights[1:], model.linear.bias.detach().clone()]).abs() / lr


def about_rates(answer, stage):
    """Say at which step the learning rate is wrong first, and which it is there."""
    runs = {"schedule": [(LR, STEPS, WARMUP)], OTHER_SIZES: SIZES}.get(stage.name, [])
    for lr, steps, warmup in runs:
        found = moves(answer, torch.Generator().manual_seed(0), lr, steps, warmup)
        right = torch.tensor([linear_schedule(s, steps, warmup) for s in range(steps)], dtype=found.dtype)
        if len(found) != steps or not torch.allclose(found, found[:, :1].expand_as(found), atol=1e-4):
            return None  # other steps than Adam's: their length is not the rate
        wrong = ((found[:, 0] - right).abs() > 1e-4).nonzero()
        if len(wrong):
            s = int(wrong[0])
            part = "in the warm-up" if s < warmup else "where the rate falls"
            return (
                f"with lr={lr}, steps={steps} and warmup={warmup}, the first step with a wrong learning rate is step "
                f"{s}, {part}: its rate is {lr * found[s, 0]:.4g}, but lr · f({s}) is {lr * right[s]:.4g}."
            ) + (reads_of(answer) if stage.name == OTHER_SIZES else "")
    return None


def decayed(answer, generator):
    """Without a gradient, only weight decay moves the weights: what is left of each parameter."""
    model = Watched(generator, slope=0.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run_on(answer, model)
    if not bool(model.all().isfinite().all()):
        raise Fault(
            "where all gradients are 0, the weights become nan: the gradient is divided by its length, which is 0 "
            "here. Only a gradient that is longer than 1 is shortened."
        )
    return tuple((p.detach() / before[name]).mean() for name, p in model.named_parameters())


def by_hand(answer, generator):
    """The bias, which does not decay, before each of ten steps with gradients that change their sign and length."""
    model = Watched(generator, slope=0.02)
    run_on(answer, model, scales=[1.0, -0.5, 0.25, 2.0, -1.0])
    return torch.stack(model.weights)


def clipped(answer, generator):
    """Gradients of very different lengths, some longer than 1."""
    model = Watched(generator, slope=1.0)
    run_on(answer, model, scales=[20.0, 0.1, 1.0, 0.02])
    return model.all()


def mode(answer, generator):
    found = []
    for training in (False, True):  # as a model comes from a checkpoint; as a new one comes
        model = Watched(generator, slope=0.05).train(training)
        run_on(answer, model)
        if len({*model.modes}) > 1 or (training and not model.modes[0][0]):
            raise Fault(
                "the model is put into eval mode while it trains, so dropout is off. Call model.eval() after the loop, "
                "not within it."
            )
        found.append((sorted({*model.modes}), model.training, model.dropout.training))
    return found


SIZES = ((0.02, 7, 0), (0.05, 6, 6), (0.3, 3, 5), (0.01, 1, 0), (0.2, 12, 3))  # lr, steps, warmup


def other_sizes(answer, generator):
    """Another rate and length; no warm-up; a warm-up as long as the run, and longer; one step."""
    found = []
    for lr, steps, warmup in SIZES:
        try:
            found.append(schedule(answer, generator, lr, steps, warmup))
        except ZeroDivisionError as error:
            raise Fault(
                f"with steps={steps} and warmup={warmup} your code divides by 0. The formula has max(1, …) below both "
                "lines: max(1, warmup) and max(1, steps - warmup)."
            ) from error
        model = Watched(generator)
        run_on(answer, model, [3.0, 0.1], lr, steps, warmup)
        found.append(model.all())
    return tuple(found)


def bits(answer, generator):
    """A small BERT with dropout, trained by the answer and by `fit` from the same weights and seed."""
    config = EncoderConfig(vocab_size=16, width=8, layers=1, heads=2, ffn_width=16, max_len=8, dropout=0.1)
    torch.manual_seed(int(torch.randint(1000, (), generator=generator)))
    ours = MaskedLanguageModel(Encoder(config))
    theirs = copy.deepcopy(ours)
    ids = torch.randint(5, 16, (6, 4, 8), generator=generator)

    def batches(step):
        labels = torch.where(torch.arange(8) % 2 == step % 2, ids[step], -100)
        return {"ids": ids[step].masked_fill(labels >= 0, 4), "labels": labels, "mask": ids[step] > 0}

    state = torch.get_rng_state()
    fit(theirs, batches, 6, lr=0.01, warmup=2, seed=None, device="cpu", mixed_precision=False, progress=False)
    torch.set_rng_state(state)
    answer(ours, batches, 6, 0.01, 2)
    apart = max((a - b).abs().max().item() for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    if apart > 1e-5:
        raise Fault(
            f"six steps of a small BERT with dropout: a weight differs from `fit`'s by {apart:.2g}. Are random numbers "
            "drawn, or is a seed set, within your loop?"
        )
    if apart > 0:
        raise Fault(
            "six steps of a small BERT: the weights agree with `fit`'s to five digits and more, but not in every bit. "
            "The text above lists what decides the last bits."
        )
    return True


# Mistakes: the loop with one part exchanged.


def decays(rule, rate=0.01):
    """Return the two groups of parameters; rule(name, p) says which decay."""

    def groups(model):
        named = list(model.named_parameters())
        return [
            {"params": [p for name, p in named if rule(name, p)], "weight_decay": rate},
            {"params": [p for name, p in named if not rule(name, p)], "weight_decay": 0.0},
        ]

    return groups


def clip_all(optimizer, model):
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)


def clip_each(optimizer, model):
    for p in model.parameters():
        nn.utils.clip_grad_norm_(p, 1.0)


def clip_groups(optimizer, model):
    for group in optimizer.param_groups:
        nn.utils.clip_grad_norm_(group["params"], 1.0)


def clip_values(optimizer, model):
    nn.utils.clip_grad_value_(model.parameters(), 1.0)


def clip_matrices(optimizer, model):
    nn.utils.clip_grad_norm_([p for p in model.parameters() if p.ndim >= 2], 1.0)


def always_length_one(optimizer, model):
    length = torch.stack([p.grad.norm() for p in model.parameters()]).norm() + 1e-6
    for p in model.parameters():
        p.grad /= length


MATRICES = decays(lambda name, p: p.ndim >= 2)


def loop(
    factor=linear_schedule,
    groups=MATRICES,
    kind=torch.optim.AdamW,
    betas=(0.9, 0.98),
    clip=clip_all,
    clears="after the step",
    clears_first=True,
    sets="before the step",
    train=True,
    ends_in_eval=True,
    ends_as_before=False,
    all_batches_first=False,
    anew=False,
    steps_at_all=True,
    fused=True,
    read=lambda loss: loss.item(),
):
    """Return a training loop; each switch is a part that a learner may write otherwise."""

    def pretrain(model, batches, steps, lr, warmup):
        optimizer = kind(groups(model), lr=lr, betas=betas, fused=fused)
        if clears_first:
            optimizer.zero_grad()
        losses, was = [], model.training
        if train:
            model.train()
        every = [batches(step) for step in range(steps)] if all_batches_first else None
        for step in range(steps):
            if anew:
                optimizer = kind(groups(model), lr=lr, betas=betas, fused=fused)
            if sets in ("before the step", "in the first group"):
                for group in optimizer.param_groups[: 1 if sets == "in the first group" else None]:
                    group["lr"] = lr * factor(step, steps, warmup)
            loss = model.loss(**(every[step] if all_batches_first else batches(step)))
            if clears == "before backward":
                optimizer.zero_grad()
            loss.backward()
            clip(optimizer, model)
            if clears == "before the step":
                optimizer.zero_grad()
            if steps_at_all:
                optimizer.step()
            if clears == "after the step":
                optimizer.zero_grad()
            if sets == "after the step":
                for group in optimizer.param_groups:
                    group["lr"] = lr * factor(step, steps, warmup)
            losses.append(read(loss))
        if clears == "at the end":
            optimizer.zero_grad()
        if ends_in_eval:
            model.train(was) if ends_as_before else model.eval()
        return losses

    return pretrain


def with_a_scheduler(model, batches, steps, lr, warmup):
    """Another way: torch's own scheduler, groups by name, gradients cleared before backward."""
    decay, rest = [], []
    for name, p in model.named_parameters():
        (rest if name.endswith("bias") or "norm" in name else decay).append(p)
    optimizer = torch.optim.AdamW(
        [{"params": decay}, {"params": rest, "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        fused=True,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / warmup, 1.0) if s < warmup else (steps - s) / max(1, steps - warmup),
    )
    losses = []
    model.train()
    for step in range(steps):
        optimizer.zero_grad(set_to_none=False)
        loss = model.loss(**batches(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        scheduler.step()
        losses += [float(loss.detach())]
    model.zero_grad()
    model.train(False)
    return losses


def from_zero(s, steps, warmup):
    return min(s / max(1, warmup), (steps - s) / max(1, steps - warmup), 1.0)


def with_a_jump(s, steps, warmup):
    return (s + 1) / warmup if s < warmup else (steps - s) / steps


def zero_at_the_end(s, steps, warmup):
    return min((s + 1) / max(1, warmup), (steps - 1 - s) / max(1, steps - 1 - warmup), 1.0)


def down_one_step_early(s, steps, warmup):
    return min((s + 1) / max(1, warmup), (steps - 1 - s) / max(1, steps - warmup), 1.0)


def down_from_the_start(s, steps, warmup):
    return min((s + 1) / max(1, warmup), (steps - s) / steps)


def warmup_one_longer(s, steps, warmup):
    return min((s + 1) / (warmup + 1), (steps - s) / max(1, steps - warmup), 1.0)


def piled_up(s, steps, warmup):
    return math.prod(linear_schedule(earlier, steps, warmup) for earlier in range(s + 1))


def cosine(s, steps, warmup):
    down = 0.5 * (1 + math.cos(math.pi * (s - warmup) / max(1, steps - warmup)))
    return (s + 1) / warmup if s < warmup else down


def counted_from_one(model, batches, steps, lr, warmup):
    return pretrain(model, lambda step: batches(step + 1), steps, lr, warmup)


def asked_twice(model, batches, steps, lr, warmup):
    return pretrain(model, lambda step: [batches(step), batches(step)][1], steps, lr, warmup)


ACCUMULATES = (
    "backward() adds to what .grad holds, and nothing sets it back: each step uses the sum of all gradients so far. "
    "Call optimizer.zero_grad() once a step."
)
NO_STEP = (
    "no weight moves: optimizer.step() is missing, or the gradients are cleared between backward() and step(), so that "
    "the optimizer finds none."
)

training_loop = Build(
    id="06.2",
    course=pretrain,
    stages=(
        Stage("losses and batches", losses_and_batches),
        Stage("no gradients left over", left_over),
        Stage("schedule", schedule),
        Stage("groups", decayed),
        Stage("ten steps by hand", by_hand),
        Stage("clipping", clipped),
        Stage("mode", mode),
        Stage(OTHER_SIZES, other_sizes),
        Stage("bit for bit with fit", bits),
    ),
    mistakes=(
        Mistake(
            "tensors in the list",
            loop(read=lambda loss: loss),
            "the list holds tensors. Each keeps the whole graph of its step alive, so memory grows with every step: "
            "append loss.item(), a float.",
            "https://github.com/rballester/tntorch/pull/19, https://github.com/BatsResearch/labelmodels/issues/4",
        ),
        Mistake(
            "nothing decays",
            loop(groups=decays(lambda name, p: False)),
            "no parameter decays. Those with two dimensions or more decay with 0.01.",
            "torch.optim.Adam's default is weight_decay=0; the other way round in AdamW",
        ),
        Mistake(
            "all batches first",
            loop(all_batches_first=True),
            "all batches are fetched before the first step. Call batches(step) within its step: all batches of a long "
            "run would not fit into memory, and this lesson measures the model when a batch is asked for.",
            "a list comprehension over a loader that was meant to be lazy",
        ),
        Mistake(
            "steps from 1",
            counted_from_one,
            "your steps are counted from 1, so the first batch is never asked for. They are 0, 1, …, steps − 1.",
            "range(1, steps + 1), as in a progress display; a fresh reader of this lesson",
        ),
        Mistake(
            "each batch twice",
            asked_twice,
            "you call batches(step) twice in each step. Call it once and keep the batch in a variable.",
            "a batch looked at, and then asked for again; a fresh reader of this lesson",
        ),
        Mistake(
            "gradients accumulate",
            loop(clears="never"),
            ACCUMULATES,
            "https://github.com/meta-pytorch/torchforge/pull/71",
        ),
        Mistake(
            "no zero_grad",
            loop(clears="never", clears_first=False),
            ACCUMULATES + " Do so before the first step too, and after the last one.",
            "https://github.com/pytorch/pytorch/issues/47175",
        ),
        Mistake(
            "zero_grad around the loop",
            loop(clears="at the end"),
            ACCUMULATES + " Before and after the loop is not enough.",
            "cleared once before and once after the loop",
        ),
        Mistake(
            "zero_grad after the loop",
            loop(clears="at the end", clears_first=False),
            ACCUMULATES + " After the loop is not enough.",
            "cleared once at the end",
        ),
        Mistake(
            "cleared before the step",
            loop(clears="before the step"),
            NO_STEP,
            "https://github.com/Tony-Y/pytorch_warmup/issues/12; the line forgotten looks the same",
        ),
        Mistake(
            "no step, and the last gradients stay",
            loop(steps_at_all=False, clears="before backward"),
            NO_STEP + " And the last gradients stay.",
            "the line forgotten, in the order of torch's tutorials",
        ),
        Mistake(
            "the first gradient has old ones in it",
            loop(clears_first=False),
            "the gradients that were there when the training began count in its first step. Clear them before it too.",
            "https://github.com/karpathy/llm.c/pull/548",
        ),
        Mistake(
            "the last gradients stay",
            loop(clears="before backward"),
            "the last step's gradients are still there at the end, and the next backward() would add to them. Clear "
            "them after the last step too.",
            "the order of torch's tutorials: zero_grad, backward, step",
        ),
        Mistake(
            "the rate is set after the step",
            loop(sets="after the step"),
            "each step uses the learning rate of the step before, and the first one the full rate, without any "
            "warm-up. Set the rate before optimizer.step().",
            "https://github.com/NVIDIA-NeMo/Megatron-Bridge/issues/5399 (warm-up that is one step behind)",
        ),
        Mistake(
            "scheduler before optimizer",
            loop(factor=lambda s, steps, warmup: linear_schedule(s + 1, steps, warmup)),
            "each step uses the learning rate of the next one, so the first value of the schedule is skipped and the "
            "last step has the rate 0. Call optimizer.step() first and scheduler.step() after it.",
            "https://github.com/ildoonet/pytorch-gradual-warmup-lr/issues/8 (torch warns of it since 1.1)",
        ),
        Mistake(
            "from zero",
            loop(factor=from_zero),
            "the first learning rate is 0: a whole step is computed and changes nothing, and the warm-up ends one step "
            "late. Steps count from 0, so the first factor is 1 / warmup.",
            "https://github.com/google-research/bert/issues/1293, https://github.com/EleutherAI/gpt-neox/issues/1373",
        ),
        Mistake(
            "never down",
            loop(factor=lambda s, steps, warmup: min((s + 1) / max(1, warmup), 1.0)),
            "the learning rate stays at lr after the warm-up. It must fall to 0, in a straight line: the last, small "
            "steps average out the noise of the batches.",
            "transformers' documentation: get_constant_schedule_with_warmup stands beside the linear one",
        ),
        Mistake(
            "never up",
            loop(factor=lambda s, steps, warmup: (steps - s) / steps),
            "the warm-up is missing: the first step already has the full rate. Section 5 shows what that can do.",
            "Xiong et al. 2020, arXiv:2002.04745, ask whether warm-up is needed",
        ),
        Mistake(
            "a jump",
            loop(factor=with_a_jump),
            "the learning rate jumps where the warm-up ends, because your line down starts at the first step of all. "
            "It must start at lr where the warm-up ends: (steps - s) / (steps - warmup). (Google's BERT jumps there.)",
            "google-research/bert, optimization.py: the decay runs over all steps, the warm-up replaces its beginning",
        ),
        Mistake(
            "zero one step early",
            loop(factor=zero_at_the_end),
            "the last step has the learning rate 0 and does nothing. The line reaches 0 only *after* the last step.",
            "https://github.com/pytorch/torchtitan/pull/1010 (a table of rates that ends with 0.0)",
        ),
        Mistake(
            "down one step early",
            loop(factor=down_one_step_early),
            "your line down runs one step ahead: the first step after the warm-up is already below lr, and the last "
            "has the rate 0. With steps counted from 0, (steps - s) steps are left at step s, this one included.",
            "steps - 1 for the number of the last step; a fresh reader of this lesson",
        ),
        Mistake(
            "down from the start",
            loop(factor=down_from_the_start),
            "your line down starts at the first step of all, so the rate never reaches lr. It must start at lr where "
            "the warm-up ends: (steps - s) / (steps - warmup).",
            "the decay over all steps, and the smaller of the two; a fresh reader of this lesson",
        ),
        Mistake(
            "a warm-up that is one step longer",
            loop(factor=warmup_one_longer),
            "your warm-up divides by warmup + 1, so it takes one step more. Counted from 0, the last of the warm-up's "
            "steps is warmup − 1, and there the factor (s + 1) / warmup is 1.",
            "one added above and below; a fresh reader of this lesson",
        ),
        Mistake(
            "the factors pile up",
            loop(factor=piled_up),
            "you multiply the rate of the step before by the factor, so the factors of all steps pile up. Each step's "
            "rate is lr times its own factor alone: set it from the lr that you were given.",
            'group["lr"] *= factor, or lr = lr * factor, within the loop; a fresh reader of this lesson',
        ),
        Mistake(
            "a cosine",
            loop(factor=cosine),
            "the warm-up is right, but then your rate falls along a cosine. Here it falls in a straight line.",
            "get_cosine_schedule_with_warmup in transformers, a frequent choice; a fresh reader of this lesson",
        ),
        Mistake(
            "constant",
            loop(factor=lambda s, steps, warmup: 1.0),
            "the biases have the learning rate lr at every step. Set the rate before each step, lr times the factor of "
            "this step, and in each of optimizer.param_groups, not in param_groups[0] alone.",
            'a schedule never given to the optimizer; optimizer.param_groups[0]["lr"] = rate, written for one group',
        ),
        Mistake(
            "a new optimizer at each step",
            loop(anew=True),
            "the optimizer is made anew at each step, and forgets its running averages each time. Make it once, before "
            "the loop.",
            "an optimizer made within the loop, or within a function that the loop calls",
        ),
        Mistake(
            "groups swapped",
            loop(groups=decays(lambda name, p: p.ndim < 2)),
            "the two groups are swapped: biases and norms decay, and the matrices do not.",
            "the condition the wrong way round",
        ),
        Mistake(
            "two dimensions exactly",
            loop(groups=decays(lambda name, p: p.ndim == 2)),
            "a parameter with three dimensions does not decay. Those with two dimensions *or more* do: p.ndim >= 2.",
            "true of BERT, false of a model with a convolution",
        ),
        Mistake(
            "the embeddings do not decay",
            loop(groups=decays(lambda name, p: p.ndim >= 2 and "tokens" not in name)),
            "the embeddings do not decay. They are matrices too, and in BERT all matrices decay: choose by p.ndim, not "
            "by name.",
            "minGPT's configure_optimizers puts embeddings with the biases; a fresh reader of this lesson",
        ),
        Mistake(
            "everything decays",
            loop(groups=decays(lambda name, p: True)),
            "biases and norms decay too: they belong in a second group with weight_decay=0.0. (0.01 is AdamW's own "
            "default, so one group for all does this without a word.)",
            "https://github.com/mmcdermott/MEDS_EIC_AR/issues/30, https://github.com/dingo-actual/om/issues/12",
        ),
        Mistake(
            "the norms decay",
            loop(groups=decays(lambda name, p: not name.endswith("bias"))),
            "the biases do not decay, but the weights of the layer norms do. A norm's weight is a vector that starts "
            "at 1: p.ndim < 2 finds it.",
            "https://github.com/CyberZHG/keras-bert/issues/60, https://github.com/huggingface/transformers/issues/4360",
        ),
        Mistake(
            "Adam",
            loop(kind=torch.optim.Adam),
            "this is Adam, whose weight_decay adds a term to the gradient, and Adam then divides by its size: even a "
            "tiny decay makes steps of full length. In AdamW the weights shrink by themselves (decoupled decay).",
            "https://github.com/pytorch/pytorch/issues/48793, https://github.com/pytorch/pytorch/issues/38767",
        ),
        Mistake(
            "Adam's own betas",
            loop(betas=(0.9, 0.999)),
            "the betas are AdamW's defaults, (0.9, 0.999), which BERT used. Here they are RoBERTa's: (0.9, 0.98).",
            "Liu et al. 2019, arXiv:1907.11692, section 3.1, on beta 2",
        ),
        Mistake(
            "not clipped in time",
            loop(clip=lambda optimizer, model: None),
            "the optimizer uses gradients of any length. clip_grad_norm_ must come between backward() and step(): "
            "before backward() there is nothing to shorten, and after step() it is too late.",
            "https://github.com/VGraphRNN/VGRNN/issues/4, https://github.com/awslabs/graphstorm/issues/1366",
        ),
        Mistake(
            "each parameter by itself",
            loop(clip=clip_each),
            "each parameter is clipped by itself, which changes the direction of the gradient. The norm is that of all "
            "parameters together: one call with model.parameters().",
            "https://github.com/clab/dynet/issues/1374, https://github.com/carpedm20/MemN2N-tensorflow/issues/19",
        ),
        Mistake(
            "each group by itself",
            loop(clip=clip_groups),
            "each of the two groups is clipped by itself. The norm is that of all parameters together: one call with "
            "model.parameters().",
            "https://github.com/huggingface/transformers/pull/614 (clipping per group is not global clipping)",
        ),
        Mistake(
            "matrices only",
            loop(clip=clip_matrices),
            "only the matrices are clipped, and only they count in the norm. It is that of all parameters, biases "
            "and norms too: one call with model.parameters().",
            "the first group taken for all; a fresh reader of this lesson",
        ),
        Mistake(
            "always of length 1",
            loop(clip=always_length_one),
            "every gradient is brought to the length 1, the short ones too. Clipping leaves a gradient that is shorter "
            "than 1 as it is.",
            "normalising taken for clipping; a fresh reader of this lesson",
        ),
        Mistake(
            "values clipped",
            loop(clip=clip_values),
            "each number of the gradient is cut at 1 (clip_grad_value_). Clip the norm: clip_grad_norm_.",
            "torch.nn.utils has both functions side by side",
        ),
        Mistake(
            "eval mode while training",
            loop(train=False),
            "the model trains in the mode in which it came, eval mode here, so dropout is off all the time. Call "
            "model.train() before the loop.",
            "https://github.com/tk-rusch/coRNN/issues/1, https://github.com/shubhamagarwal92/mmd/issues/14",
        ),
        Mistake(
            "train mode afterwards",
            loop(ends_in_eval=False),
            "the model is still in train mode at the end: what you measure with it next is measured with dropout. Call "
            "model.eval() after the loop.",
            "https://github.com/IBM/pytorch-seq2seq/issues/33, https://github.com/d2l-ai/d2l-en/issues/1093",
        ),
        Mistake(
            "the mode as it was",
            loop(ends_as_before=True),
            "the model is given back in the mode in which it came. Whatever that was, it must be in eval mode now.",
            "the habit of restoring, good in a function that only measures",
        ),
        Mistake(
            "not fused",
            loop(fused=None),
            "right to five digits and more, and not in every bit. Is it AdamW(…, fused=True)? The fused kernel rounds "
            "in another order than torch's default. If it is: the rate must be a Python float, no float32 tensor, and "
            "the clipping one call of clip_grad_norm_(model.parameters(), 1.0), not by hand.",
            "torch.optim's documentation: for-loop, foreach and fused implementations of one optimizer",
        ),
    ),
    hints=(
        "Before the loop: two lists of parameters, by `p.ndim`; `torch.optim.AdamW([{...}, {...}], lr=lr, "
        "betas=(0.9, 0.98), fused=True)`; `optimizer.zero_grad()`; `model.train()`.",
        "In the loop, in this order: the rate of this step, the loss, backward, clip, step, zero_grad, append.",
        "The rate: `factor = min((step + 1) / max(1, warmup), (steps - step) / max(1, steps - warmup), 1.0)`, and "
        '`group["lr"] = lr * factor` for each group of `optimizer.param_groups`.',
        "`nn.utils.clip_grad_norm_(model.parameters(), 1.0)`; `losses.append(loss.item())`; after the loop "
        "`model.eval()` and `return losses`.",
    ),
    praise="It pretrains the model of this lesson.",
    about=about_rates,
    other_ways=(with_a_scheduler, loop()),
)


# --- 06.3 find the bug: a held-out loss that depends on the batch size ------------------------------------------------


def batches_of_losses(generator):
    """Mean losses of batches and their numbers of selected tokens; one batch has none, and so the loss 0."""
    losses = torch.rand(6, generator=generator) + 0.2
    counts = torch.randint(1, 30, (6,), generator=generator)
    losses[4], counts[4] = 0.0, 0
    return losses, counts


def all_tokens(losses, counts):
    return (losses * counts).sum() / counts.sum()


def one_number(outcome):
    """Return a tensor with one number, of whatever shape and float type, as the right answer's kind."""
    one = isinstance(outcome, torch.Tensor) and outcome.numel() == 1 and outcome.is_floating_point()
    return outcome.float().reshape(()) if one else outcome


loss_of_all = Exercise(
    id="06.3",
    right=all_tokens,
    reads=one_number,
    inputs=batches_of_losses,
    also=lambda generator: (torch.rand(3, generator=generator), torch.tensor([4, 0, 9])),
    mistakes=(
        Mistake(
            "the bug as it was",
            lambda losses, counts: losses.mean(),
            "the bug is still there: a batch with one selected token counts as much as one with thirty, and a batch "
            "without any brings in a loss of 0. Weigh each batch's mean by its number of tokens.",
            "https://github.com/huggingface/transformers/issues/24839, https://github.com/huggingface/transformers/"
            "issues/41898",
        ),
        Mistake(
            "empty batches left out",
            lambda losses, counts: losses[counts > 0].mean(),
            "leaving the empty batches out is half of it. A batch with one selected token still counts as much as one "
            "with thirty.",
            "https://github.com/meta-pytorch/torchtune/pull/1875 (x1/n1 + x2/n2 is not (x1 + x2)/(n1 + n2))",
        ),
        Mistake(
            "divided by the batches",
            lambda losses, counts: (losses * counts).sum() / len(losses),
            "the sum over all tokens is right, but you divide it by the number of batches. Divide by the number of "
            "tokens, counts.sum().",
            "https://github.com/tensorflow/tensorflow/issues/21557 (a loss that is a sum over tokens, or over batches)",
        ),
        Mistake(
            "divided twice",
            lambda losses, counts: losses.sum() / counts.sum(),
            "each loss is a mean already. Multiply it by its count to get that batch's sum before you divide by all.",
            "https://github.com/lucidrains/reformer-pytorch/issues/147 (a loss that is divided again and again)",
        ),
        Mistake(
            "each divided by its count",
            lambda losses, counts: (losses / counts.clamp(min=1)).mean(),
            "you divide each loss by its count, but it is a mean already. Multiply by the count, which gives the sum "
            "of that batch, and divide once, by all tokens.",
            "the mean taken for a sum; a fresh reader of this lesson",
        ),
        Mistake(
            "divided by the batches that are not empty",
            lambda losses, counts: (losses * counts).sum() / (counts > 0).sum(),
            "the sum over all tokens is right, but you divide it by the number of batches that are not empty. Divide "
            "by the number of tokens, counts.sum().",
            "(counts > 0).sum() in place of counts.sum(); a fresh reader of this lesson",
        ),
    ),
    hints=(
        "A mean times its count is a sum. What is the sum of the losses of all tokens of all batches?",
        "Divide it by the number of all tokens.",
    ),
    praise="The same number, however the tokens are cut into batches.",
    other_ways=(
        lambda x, n: x @ n.float() / n.sum(),
        lambda x, n: sum(a * b for a, b in zip(x.tolist(), n.tolist(), strict=True)) / int(n.sum()),
        lambda x, n: (x.double() * n).sum() / n.sum(),
        lambda x, n: (x * n).sum(0, keepdim=True) / n.sum(),
    ),
)


# --- 06.4 predict: what one knows -------------------------------------------------------------------------------------


def about_the_order(guess):
    """Say which name is none of the four or stands twice, else the first pair in the wrong order."""
    names = floors.right
    for name in guess:
        if name not in names:
            return (
                f"{name!r} is none of the four names. Copy them as the text writes them, each in its own quotation "
                "marks; 'left, no length' is one name, with the comma in it."
            )
    if sorted(guess) != sorted(names):
        return "Each of the four names belongs in the tuple once."
    worse, better = next(
        pair for pair in zip(guess, guess[1:], strict=False) if names.index(pair[0]) > names.index(pair[1])
    )
    return (
        f"`{worse}` stands before `{better}`, but `{better}` knows all that `{worse}` knows and more, so its floor is "
        "lower."
    )


floors = Prediction(
    id="06.4",
    about=about_the_order,
    right=("both", "left", "left, no length", "frequencies"),
    mistakes=(
        Mistake(
            "the length does harm",
            ("both", "left, no length", "left", "frequencies"),
            "`both` is lowest and `frequencies` highest, that is right. But the length is something to know: a "
            "predictor that is told it can always ignore it, so its floor cannot be higher with it than without.",
            "models that read from left to right are the common case; this world's floors are measured in section 8",
        ),
        Mistake(
            "highest first",
            ("frequencies", "left, no length", "left", "both"),
            "this is the right order, highest first. Write the lowest first.",
            "the order asked for, read the other way round",
        ),
        Mistake(
            "one side better than both",
            ("left", "both", "left, no length", "frequencies"),
            "`both` sees all that `left` sees, and the right side too. What it sees more it could ignore, so its floor "
            "cannot be higher.",
            "the harder task taken for the better one; a fresh reader of this lesson",
        ),
        Mistake(
            "frequencies better than the left side",
            ("both", "left", "frequencies", "left, no length"),
            "the first two are right. But from the words of the language `left, no length` knows the frequencies too, "
            "and it sees the words to the left on top.",
            "the missing length overrated; a fresh reader of this lesson",
        ),
    ),
    hints=(
        "A predictor that sees more cannot have a higher floor, because it may ignore what it sees.",
        "What does the length of a sentence tell you, if you see only its beginning?",
        "A sentence of eight words has no room for *near the ovens*.",
    ),
    praise="Each predictor knows all that the next one knows, and something more.",
)


# --- 06.5 replace what a head found -----------------------------------------------------------------------------------


def outputs_of_heads(generator):
    H, D = 3, 4
    order = torch.tensor([2, 0, 3, 1])
    return (
        torch.randn(4, 5, H * D, generator=generator),
        H,
        1 + int(torch.randint(0, 2, (), generator=generator)),
        order,
    )


def replaced_in(part, mean=lambda x: x.mean(0), other=lambda x, order: x[order]):
    """Return a function that replaces a part of the features; `part(C, H, h)` gives their index."""

    def replace(joined, H, h, order):
        index = part(joined.shape[-1], H, h)
        results = [joined.clone() for _ in range(3)]
        found = joined[..., index]
        for result, value in zip(results, (0.0, mean(found), other(found, order)), strict=True):
            result[..., index] = value
        return tuple(results)

    return replace


def slice_of(C, H, h):
    D = C // H
    return slice(h * D, (h + 1) * D)


def all_but(C, H, h):
    D = C // H
    return [i for i in range(C) if not h * D <= i < (h + 1) * D]


def overwritten(joined, H, h, order):
    zero, mean, _ = replaced_in(slice_of)(joined, H, h, order)
    resampled, index = joined.clone(), slice_of(joined.shape[-1], H, h)
    for b in range(len(order)):
        resampled[b, :, index] = resampled[order[b], :, index]
    return zero, mean, resampled


def by_unflatten(joined, H, h, order):
    heads = joined.unflatten(-1, (H, -1))  # (B, T, H, D)
    this = (torch.arange(H) == h)[:, None]
    news = torch.zeros_like(heads), heads.mean(0, keepdim=True).expand_as(heads), heads[order]
    return tuple(torch.where(this, new, heads).flatten(-2) for new in news)


head_replaced = Exercise(
    id="06.5",
    right=replaced_in(slice_of),
    inputs=outputs_of_heads,
    also=lambda generator: (torch.randn(3, 2, 10, generator=generator), 2, 0, torch.tensor([1, 2, 0])),
    mistakes=(
        Mistake(
            "every H-th feature",
            replaced_in(lambda C, H, h: slice(h, None, H)),
            "you take every H-th feature, so a bit of each head. The heads lie one after the other, D features each "
            "(lesson 03): head h has h * D to (h + 1) * D.",
            "https://github.com/pytorch/pytorch/issues/111932 (which features belong to which head?)",
        ),
        Mistake(
            "H in place of D",
            replaced_in(lambda C, H, h: slice(h * H, (h + 1) * H)),
            "the slices are H wide. A head is D = C / H features wide.",
            "https://github.com/microsoft/fastformers/issues/12 (number of heads and head width mixed up)",
        ),
        Mistake(
            "counted from 1",
            replaced_in(lambda C, H, h: slice((h - 1) * (C // H), h * (C // H))),
            "you replaced the head before it: the titles of our figures count heads from 1, the code from 0.",
            "plots.attention_heads counts from 1 in its titles",
        ),
        Mistake(
            "all but this one",
            replaced_in(all_but),
            "you kept this head and replaced the others. (In transformers' head_mask a 1 means *keep*.)",
            "https://github.com/huggingface/transformers/issues/1365 (head_mask: 1 is not masked, 0 is masked)",
        ),
        Mistake(
            "one mean for all positions",
            replaced_in(slice_of, mean=lambda x: x.mean((0, 1))),
            "the mean runs over the positions too. Each position has its own mean, over the B sentences: x.mean(0).",
            "both kinds of mean ablation are in use",
        ),
        Mistake(
            "the mean of each sentence",
            replaced_in(slice_of, mean=lambda x: x.mean(1, keepdim=True)),
            "the mean runs over the positions of one sentence. It must run over the B sentences, at each position by "
            "itself: x.mean(0).",
            "(B, T, C) read as (T, B, C)",
        ),
        Mistake(
            "the other way of the order",
            replaced_in(slice_of, other=lambda x, order: x[order.argsort()]),
            "sentence b must get what sentence order[b] had; yours gives sentence b's to sentence order[b]. Index with "
            "it: x[order].",
            "gather and scatter confused",
        ),
        Mistake(
            "no copy",
            replaced_in(slice_of, mean=lambda x: 0 * x.mean(0), other=lambda x, order: 0 * x),
            "all three have zeros in head h: `zero = joined` makes no copy, so setting it to 0 changes `joined`. "
            "Make three copies first, joined.clone().",
            "an assignment taken for a copy",
        ),
        Mistake(
            "order ignored",
            replaced_in(slice_of, other=lambda x, order: x),
            "the third copy still has head h's features of the same sentence: the `order` is not used. x[order] gives "
            "each sentence the features of another.",
            "an argument that is never read",
        ),
        Mistake(
            "everything from the other sentence",
            lambda joined, H, h, order: (*replaced_in(slice_of)(joined, H, h, order)[:2], joined[order]),
            "in the third copy all heads come from the other sentence. Only head h does.",
            "resampling a whole layer in place of one head",
        ),
        Mistake(
            "read after it was overwritten",
            overwritten,
            "the third copy reads from itself: when sentence b takes the features of sentence order[b], some of these "
            "are overwritten already. Read from `joined`.",
            "a loop in place over the sentences; a fresh reader of this lesson",
        ),
        Mistake(
            "the mean of the features",
            replaced_in(slice_of, mean=lambda x: x.mean(-1, keepdim=True)),
            "the mean runs over the head's features, so all D become equal. It must run over the B sentences, for each "
            "position and feature by itself: x.mean(0).",
            "mean(-1), the habit of layer norm; a fresh reader of this lesson",
        ),
        Mistake(
            "another order",
            lambda joined, H, h, order: tuple(replaced_in(slice_of)(joined, H, h, order)[i] for i in (0, 2, 1)),
            "the second and the third copy are exchanged: return zero, mean, resample, in this order.",
            "three results whose order is not kept; a fresh reader of this lesson",
        ),
    ),
    hints=(
        "Head h has the features h·D to (h + 1)·D - 1 of the last dimension, with D = C / H.",
        "Three copies, `joined.clone()`; in each set `[..., h * D : (h + 1) * D]`.",
        "To 0.0; to `joined[..., s].mean(0)`, which is (T, D) and is broadcast over the sentences; to "
        "`joined[order][..., s]`.",
    ),
    praise="Zero, mean and resample ablation: the other heads' outputs stay as they were.",
    other_ways=(by_unflatten,),
)
