"""The checks of lesson 13, Fine-tuning."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from nextbert_lite.checks import core
from nextbert_lite.checks.core import (
    Build,
    Exercise,
    Fault,
    Mistake,
    Prediction,
    Stage,
    hint,
    mine,
    named,
    solution,
    untouched,
)
from nextbert_lite.training.loop import adamw, linear_schedule
from nextbert_lite.use.finetuning import calibration_error as package_error
from nextbert_lite.use.finetuning import fit_temperature

__all__ = [
    "calibrated",
    "first_piece_labels",
    "hint",
    "lora_linear",
    "mine",
    "solution",
    "start_training",
    "temperature_of_two",
    "train_with_early_stopping",
]

# --- 13.1 freeze ------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """An encoder with dropout inside, and a head."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4)))
        self.encoder.scale = nn.Parameter(torch.ones(4))  # a parameter of its own, beside those of its parts
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2))


def a_model(generator):
    return (Small().train(generator.initial_seed() % 2 == 1),)  # in eval mode or in training mode


def state_of(model):
    """Return, for encoder and head: are all its parts in training mode, is any; is all of it to be trained, is any."""
    if not isinstance(model, Small):
        return torch.tensor([False])  # not the model
    rows = []
    for part in (model.encoder, model.head):
        modes = [m.training for m in part.modules()]
        wanted = [p.requires_grad for p in part.parameters()]
        rows += [all(modes), any(modes), all(wanted), any(wanted)]
    return torch.tensor(rows)


def about_freezing(answer, case):
    """Say which part is in the wrong mode, or which weights should be trained or frozen."""
    for came in (False, True):
        model = core.run(answer, (case[0].train(came),))
        if model is None or isinstance(model, Exception):
            return None
        if not isinstance(model, Small):
            return f"your function returns an object of type {type(model).__name__}; expected the whole model."
        for name, part, trains in (("encoder", model.encoder, False), ("head", model.head, True)):
            modes = [module.training for module in part.modules()]
            if (not trains) in modes:
                which = f"the {name} is" if len(set(modes)) == 1 else f"some parts of the {name} are"
                came, found, expected = ("training" if mode else "eval" for mode in (came, not trains, trains))
                return f"where the model comes in {came} mode, {which} in {found} mode; expected {expected} mode."
            wrong = [f"`{n}`" for n, p in part.named_parameters() if p.requires_grad != trains]
            if wrong:
                return f"these weights of the {name} are {'frozen' if trains else 'not frozen'}: {', '.join(wrong)}."
    return None


def same_model(answer, case):
    if answer(*case) is not case[0]:
        return "your function returns a copy, and the model it was given is as before. Change `model` itself."
    return None


def starts(train=True, encoder_eval=True, freeze="encoder", last_train=False, head_train=False):
    """Return a right or wrong `start_training`."""

    def start(model):
        model.train(train)
        if head_train:
            model.head.train()
        if freeze == "encoder":
            model.encoder.requires_grad_(False)
        elif freeze == "all":
            model.requires_grad_(False)
        if encoder_eval == "outside":
            model.encoder.training = False
        elif encoder_eval:
            model.encoder.eval()
        if last_train:
            model.train()
        return model

    return start


def freezing_by_loops(model):
    for parameter in model.encoder.parameters():
        parameter.requires_grad = False
    for part, mode in ((model, True), (model.encoder, False)):
        part.train(mode)
    return model


start_training = Exercise(
    id="13.1",
    right=starts(),
    inputs=a_model,
    reads=state_of,
    mistakes=(
        Mistake(
            "dropout left on",
            starts(encoder_eval=False),
            "the encoder's weights are frozen, but it is in training mode: its dropout is on, and the same text gets "
            "another vector each time. `model.encoder.eval()`, after `model.train()`, turns that off.",
            "https://github.com/nickgkan/butd_detr/issues/8",
        ),
        Mistake(
            "the flag of the encoder alone",
            starts(encoder_eval="outside"),
            "`model.encoder.training = False` changes the encoder's own flag and no other: the dropout inside it has a "
            "flag of its own and stays on. `model.encoder.eval()` goes through all parts.",
            "the attribute set in place of the call",
        ),
        Mistake(
            "eval taken for frozen",
            starts(freeze=None),
            "the encoder is in eval mode, but its weights still get a gradient. eval() turns dropout off and freezes "
            "nothing; `encoder.requires_grad = False` gives the module an attribute that its weights know nothing of; "
            "`torch.no_grad()` ends with its block. Call `encoder.requires_grad_(False)`.",
            "https://github.com/alexrich021/3dvnet/issues/11",
        ),
        Mistake(
            "the head frozen too",
            starts(freeze="all"),
            "nothing is left to train: `requires_grad_(False)` on the whole model froze the head as well.",
            "https://github.com/pytorch/pytorch/issues/8582 (freezing a part of a model)",
        ),
        Mistake(
            "all in eval mode",
            starts(train=False),
            "the head is in eval mode, so its own dropout is off while it learns. First `model.train()`, then the "
            "encoder alone into eval mode.",
            "https://github.com/pytorch/audio/issues/1995 (which part is to be in which mode)",
        ),
        Mistake(
            "nothing frozen",
            starts(freeze=None, encoder_eval=False),
            "that is fine-tuning: the encoder is in training mode and its weights get a gradient.",
            "https://github.com/ialhashim/DenseDepth/issues/89",
        ),
    ),
    hints=(
        "Two different things: no gradient into the weights, and no dropout. Each has its own call.",
        "`model.train()` first; it sets all parts to training mode, the encoder too.",
        "`model.train(); model.encoder.requires_grad_(False); model.encoder.eval(); return model`",
    ),
    praise="No gradient and no dropout in the encoder, both in the head.",
    limit=same_model,
    about=about_freezing,
    other_ways=(freezing_by_loops,),
)

# --- 13.2 the build: a training loop with early stopping -------------------------------------------------------------
# The models are two numbers, so that a whole training takes a millisecond. They write down in which mode and with which
# batch they were called.


class Toy(nn.Module):
    """Two weights, a bias, and a number that training itself changes; `loss` is far from the mark of its batch.

    The bias has one dimension, so `adamw` puts it into a second group.
    """

    def __init__(self, generator):
        super().__init__()
        self.w = nn.Parameter(torch.randn(2, 1, generator=generator))
        self.b = nn.Parameter(torch.randn(2, generator=generator))
        self.register_buffer("seen", torch.zeros(1))
        self.calls, self.loads = [], []

    def load_state_dict(self, state_dict, *arguments, **options):
        """Load, and write down whether the state is the model's own tensors, no copy of them."""
        own = self.w.data_ptr()
        result = super().load_state_dict(state_dict, *arguments, **options)
        self.loads.append("w" in state_dict and state_dict["w"].data_ptr() == own)
        return result

    def loss(self, mark, size=None):
        if size is None:
            raise Fault("`model.loss` gets the dict itself. Its entries are the arguments: `model.loss(**batch)`.")
        if self.training and not torch.is_grad_enabled():
            raise Fault("gradients are off at a training step: leave them off in `with torch.no_grad():` alone.")
        self.calls.append((self.training, float(mark[0])))
        if self.training:
            self.seen += 1
        return (size * (self.w[:, 0] + self.b - mark) ** 2).mean()

    def weights(self):
        return torch.stack([self.w[:, 0], self.b]).detach()


class Marks:
    """The batches: a step's mark and the size of its loss, another one at each step."""

    def __init__(self, generator, n, steps=40):
        self.n = n
        self.marks = 3 * torch.randn(steps, 2, generator=generator)
        self.sizes = torch.logspace(-2, 1, steps)[torch.randperm(steps, generator=generator)]  # small and large ones

    def __len__(self):
        return self.n

    def __call__(self, step):
        return {"mark": self.marks[step].clone(), "size": self.sizes[step].clone()}


def trained(answer, generator, n, steps, lr=0.1, losses=None, patience=None, look=None, left=False):
    """Return model, batches and result of a training; losses: what `held_out_loss` gives, epoch by epoch."""
    model, batches = Toy(generator).eval(), Marks(generator, n)
    if left:
        model.w.grad = torch.full_like(model.w, 5.0)
    given = list(losses or [])

    def held_out_loss():
        if look is not None:
            look(model)
        if not given:
            raise Fault("`held_out_loss` is called more often than there are full epochs. Call it once after each.")
        return given.pop(0)

    if losses is None:
        try:
            result = answer(model, batches, steps, lr)
        except (TypeError, AttributeError) as error:
            if "NoneType" not in str(error):
                raise
            told = f"where `held_out_loss` is None, your code raised {type(error).__name__}: {str(error).rstrip('.')}."
            raise Fault(f"{told} Then there is nothing to ask and no best epoch to load.") from None
    elif patience is None:
        result = answer(model, batches, steps, lr, held_out_loss)
    else:
        result = answer(model, batches, steps, lr, held_out_loss, patience=patience)
    if not isinstance(result, list):
        raise Fault(f"the result is of type {type(result).__name__}; expected a list of the held-out losses.")
    if any(isinstance(one, torch.Tensor) for one in result):
        raise Fault("the list holds tensors; expected numbers: `float(…)` makes one of a tensor.")
    return model, batches, [float(one) for one in result]


def one_step(answer, generator):
    """One batch an epoch, one step, nothing held out."""
    model, _, result = trained(answer, generator, 1, 1)
    return model.weights(), torch.tensor(result), torch.tensor(model.training)


def which_batches(answer, generator):
    """Which batches were asked for, in which order: three an epoch, seven steps."""
    model, batches, _ = trained(answer, generator, 3, 7)
    marks = batches.marks[:, 0].tolist()
    return torch.tensor([marks.index(mark) if mark in marks else -1 for _, mark in model.calls])


def several_steps(answer, generator):
    """The weights after twenty steps whose gradients are small and large."""
    model, _, _ = trained(answer, generator, 4, 20)
    return model.weights()


def left_over(answer, generator):
    """The weights where gradients of an earlier use are left at the start."""
    model, _, _ = trained(answer, generator, 4, 20, left=True)
    return model.weights()


def modes(answer, generator):
    """In which mode the model is at each step, when it is asked, and at the end; whether it is asked with a graph."""
    asked = []

    def look(model):
        asked.append((model.training, torch.is_grad_enabled()))

    model, _, _ = trained(answer, generator, 2, 6, losses=[3.0, 2.0, 1.0], look=look)
    if len(asked) != 3:
        raise Fault(f"`held_out_loss` was called {len(asked)} times in 3 epochs; expected once after each.")
    at_steps = [training for training, _ in model.calls]
    return torch.tensor(at_steps), torch.tensor(asked), torch.tensor(model.training)


def best_epoch(answer, generator):
    """The weights and the buffer that are left: of the second of eight epochs, whose loss comes again in the fourth.

    The seventh is better than the one before it, and no better than the best, which is 0.
    """
    asked, losses = [], [1.0, 0.0, 0.5, 0.0, 0.6, 0.7, 0.65, 0.8]
    options = {"losses": losses, "look": lambda model: asked.append(model.weights())}
    model, _, result = trained(answer, generator, 3, 24, patience=9, **options)
    if len(asked) == 8 and torch.equal(model.weights(), asked[-1]):
        what_is_loaded(answer, model, options, asked)
    return model.weights(), model.seen, torch.tensor(result)


def what_is_loaded(answer, model, options, asked):
    """Raise a Fault that says why a model has the weights of the last epoch, where that can be seen."""
    last = "the model has the weights of the last epoch, not of the best one:"
    if any(model.loads):
        raise Fault(
            f"{last} what you load is no copy. `state_dict()` returns the model's own tensors, which training goes on "
            "changing; `dict(…)` or `.copy()` of it copies names alone. Use `copy.deepcopy`, or `clone` each tensor."
        )
    if model.loads:
        raise Fault(
            f"{last} your copy was made after the last. Copy only after an epoch that is better than all before."
        )
    asked.clear()
    stopped, _, _ = trained(answer, torch.Generator().manual_seed(5), 3, 24, patience=2, **options)
    if len(asked) < 8 and torch.equal(stopped.weights(), asked[1]):
        raise Fault(f"{last} those you load only where training stops early. Load them after the loop, in any case.")


def patient(answer, generator):
    """How many steps, the losses and the weights: two patterns, the second with worse epochs that are not in a row."""
    rows = []
    for losses, patience in ((3.0, 2.0, 2.5, 2.4, 2.2, 2.1, 1.0), 3), ((5.0, 6.0, 4.0, 5.0, 3.0, 4.0, 2.0, 3.0), 2):
        model, _, result = trained(answer, generator, 2, 2 * len(losses), losses=list(losses), patience=patience)
        rows += [torch.tensor([len(model.calls)]), torch.tensor(result), model.weights()]
    return tuple(rows)


def other_lengths(answer, generator):
    """Five batches an epoch, thirteen steps, another rate, patience 1; and an end in the middle of an epoch."""
    model, _, result = trained(answer, generator, 5, 13, lr=0.03, losses=[1.0, 0.99, 9.0], patience=1)
    other, _, more = trained(answer, generator, 5, 38, lr=0.01, losses=[1.0, 2.0, 3.0, 0.5, 3.0], patience=1)
    ends = torch.tensor([len(other.calls), model.training, other.training])
    return model.weights(), torch.tensor(result), other.weights(), torch.tensor(more), ends


def seen_of(answer, **options):
    """Return the model, the list, when the held-out loss was asked for, and of each step what its optimizer saw.

    That is the optimizer itself, its groups' settings and rates, the gradients, and the weights after the step.
    """
    rows, asked = [], []

    def after(optimizer, *arguments):
        groups = optimizer.param_groups
        weights = [p for group in groups for p in group["params"]]
        settings = [(group["weight_decay"], group["betas"]) for group in groups]
        gradients = torch.cat([p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in weights])
        state = torch.cat([p.detach().flatten() for p in weights])
        rows.append((optimizer, settings, [group["lr"] for group in groups], gradients.clone(), state))

    watch = register_optimizer_step_post_hook(after)
    try:
        model, batches, result = trained(
            answer, torch.Generator().manual_seed(5), look=lambda model: asked.append(len(rows)), **options
        )
    finally:
        watch.remove()
    return model, batches, result, asked, rows


def about_loop(answer, stage):
    """Say at which step a loop leaves the right one: in one without held-out texts, in four with them."""
    for options in (
        {"n": 4, "steps": 20},
        {"n": 3, "steps": 24, "losses": [1.0, 0.0, 0.5, 0.0, 0.6, 0.7, 0.65, 0.8], "patience": 9},
        {"n": 2, "steps": 16, "losses": [5.0, 6.0, 4.0, 5.0, 3.0, 4.0, 2.0, 3.0], "patience": 2},
        {"n": 2, "steps": 14, "losses": [3.0, 2.0, 2.5, 2.4, 2.2, 2.1, 1.0], "patience": 3},
        {"n": 5, "steps": 13, "losses": [1.0, 0.99, 9.0], "patience": 1},
    ):
        said = first_difference(seen_of(answer, **options), seen_of(right_loop, **options), **options)
        if said:
            return said
    return None


def first_difference(yours, right, n, steps, losses=None, patience=None):
    """Return a sentence on the first thing that one training does otherwise than the other, both as `seen_of` gives."""
    (model, batches, result, asked, rows), (_, _, wanted, when, known) = yours, right
    if not model.calls:
        return "the model that you were given is not trained: `model.loss` was never called on it. Make no copy of it."
    if len(rows) != len(model.calls):
        return f"the optimizer makes {len(rows)} steps for {len(model.calls)} calls of `model.loss`; expected one each."
    for s, ((optimizer, settings, rates, gradients, _), row) in enumerate(zip(rows, known, strict=False)):
        if model.calls[s][1] != float(batches.marks[s, 0]):
            number = batches.marks[:, 0].tolist().index(model.calls[s][1])
            return f"step number {s}, counted from 0, takes batch {number}; expected `batches({s})`."
        if not model.calls[s][0]:
            return f"in step {s} the model is in eval mode. Call `model.train()` before it."
        if optimizer is not rows[0][0]:
            return f"step {s} has a new optimizer, which has forgotten its running means. Make one before the loop."
        if settings != row[1]:
            return "the optimizer is not that of `adamw(model, lr)`: other groups, weight decay or betas."
        other = [r for r in rates if not math.isclose(r, row[2][0], rel_tol=1e-6, abs_tol=1e-12)]
        if other:
            return (
                f"in step {s} of {steps}, with lr = 0.1, the learning rate is {other[0]:.4g}; expected {row[2][0]:.4g} "
                f"by lr * linear_schedule({s}, {steps}, {steps // 10}). Set it before the optimizer's step."
            )
        if not gradients.any():
            return "the gradients are zero when the optimizer makes its step: they are cleared after `backward`."
        if not torch.allclose(gradients, row[3], rtol=1e-3, atol=1e-5):
            return (
                f"in step {s} the gradients have the norm {gradients.norm():.3g} when the optimizer makes its step; "
                f"expected {row[3].norm():.3g}, by `clip_grad_norm_` over all parameters together, to norm 1."
            )
    given = f"with {n} batches an epoch, steps={steps}"
    given += "" if losses is None else f", patience={patience} and the held-out losses {losses}"
    if asked != when[: len(asked)]:
        return f"{given}, `held_out_loss` is called after {asked} steps; expected after {when}, the ends of the epochs."
    if len(rows) != len(known):
        return f"{given}, your loop makes {len(rows)} steps; expected {len(known)}."
    if result != wanted:
        return f"{given}, your list is {[round(one, 4) for one in result]}; expected {wanted}."
    ends, states = [], [Toy(torch.Generator().manual_seed(5)).weights().flatten(), *(row[4] for row in rows)]
    for one in (model, right[0]):
        equal = (k for k, state in enumerate(states) if torch.allclose(state, one.weights().flatten(), atol=1e-5))
        ends.append(next((f"after {k} steps" for k in equal), "of none of the steps"))
    if ends[0] != ends[1]:
        which = "" if losses is None else ", of the best epoch"
        return f"{given}, the model ends with the weights {ends[0]}; expected those {ends[1]}{which}."
    return f"{given}, the model ends in training mode; expected eval mode." if model.training else None


def looping(
    schedule="linear",
    clip=True,
    zero=True,
    zero_first=True,
    batch="step",
    train="each",
    asks="eval",
    keeps="copies",
    ties=False,
    stop="row",
    restores=True,
    ends_in_eval=True,
    buffers=True,
    fixed=None,
    groups="all",
    better_than="best",
):
    """Return a right or wrong `train_with_early_stopping`; the arguments are what may go wrong."""

    def train_with_early_stopping(model, batches, steps, lr, held_out_loss=None, patience=3):
        patience = fixed or patience
        optimizer, losses, best, worse, lowest = adamw(model, lr), [], None, 0, None
        if zero_first:
            optimizer.zero_grad()
        if train == "once":
            model.train()
        for step in range(steps):
            if train == "each":
                model.train()
            rate = {
                "linear": linear_schedule(step, steps, steps // 10),
                "none": 1.0,
                "epochs": linear_schedule(step // len(batches), max(1, steps // len(batches)), 0),
                "no warm-up": linear_schedule(step, steps, 0),
            }[schedule]
            for group in optimizer.param_groups[: None if groups == "all" else 1]:
                group["lr"] = lr * rate
            loss = model.loss(**batches({"step": step, "in epoch": step % len(batches), "first": 0}[batch]))
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if zero:
                optimizer.zero_grad()
            if held_out_loss is None or (step + 1) % len(batches):
                continue
            if asks == "eval":
                model.eval()
            with torch.set_grad_enabled(asks == "graph"):
                if asks == "graph":
                    model.eval()
                losses.append(held_out_loss())
            before = min(losses[-2:-1] if better_than == "before" else losses[:-1], default=math.inf)
            if better_than == "falsy":
                before = lowest or math.inf
            if losses[-1] < before or (ties and losses[-1] == before):
                worse, lowest = 0, losses[-1]
                state = model.state_dict() if buffers else dict(model.named_parameters())
                best = {name: t.detach().clone() if keeps == "copies" else t for name, t in state.items()}
            else:
                worse += 1
                if restores == "worse":
                    model.load_state_dict(best)
            if stop == "row" and worse == patience:
                break
            if stop == "first" and worse:
                break
            if stop == "late" and worse > patience:
                break
            if stop == "total" and sum(b >= min(losses[: i + 1]) for i, b in enumerate(losses[1:])) >= patience:
                break
        if best is not None and restores:
            model.load_state_dict(best, strict=buffers)
        if ends_in_eval:
            model.eval()
        return losses

    return train_with_early_stopping


def by_epochs(model, batches, steps, lr, held_out_loss=None, patience=3):
    """Another way: epochs outside, steps inside, a deep copy of the state."""
    optimizer = adamw(model, lr)
    losses, best, step = [], 0, 0
    kept = None
    while step < steps:
        model.train()
        for _ in range(min(len(batches), steps - step)):
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = lr * linear_schedule(step, steps, steps // 10)
            model.loss(**batches(step)).backward()
            torch.nn.utils.clip_grad_norm_(list(model.parameters()), max_norm=1)
            optimizer.step()
            step += 1
        if held_out_loss is not None and step % len(batches) == 0:
            model.eval()
            with torch.no_grad():
                losses.append(float(held_out_loss()))
            if losses[-1] < losses[best] or len(losses) == 1:
                best, kept = len(losses) - 1, copy.deepcopy(model.state_dict())
            if len(losses) - 1 - best >= patience:
                break
    if kept:
        model.load_state_dict(kept)
    model.eval()
    return losses


right_loop = looping()

train_with_early_stopping = Build(
    id="13.2",
    course=right_loop,
    stages=(
        Stage("one step", one_step),
        Stage("the batches", which_batches),
        Stage("twenty steps", several_steps),
        Stage("gradients left over", left_over),
        Stage("modes", modes),
        Stage("the best epoch", best_epoch),
        Stage("patience", patient),
        Stage("other sizes", other_lengths),
    ),
    mistakes=(
        Mistake(
            "left in training mode",
            looping(ends_in_eval=False),
            "the model is still in training mode when your function returns, so it would predict with dropout. Call "
            "`model.eval()` at the end, with held-out texts or without.",
            "a model that predicts with dropout",
        ),
        Mistake(
            "the same batches in each epoch",
            looping(batch="in epoch"),
            "each epoch asks for the batches 0, 1, 2 … again. `batches(step)` draws a new order for each epoch, if it "
            "is told the step from the beginning of training: go on counting.",
            "a loop `for i in range(len(batches))` inside the loop over epochs",
        ),
        Mistake(
            "the first batch alone",
            looping(batch="first"),
            "every step takes batch 0. Ask for `batches(step)`.",
            "overfitting a single batch, the usual test of a loop, left in",
        ),
        Mistake(
            "a constant rate",
            looping(schedule="none"),
            "the learning rate stays the same. At step s it is `lr * linear_schedule(s, steps, steps // 10)`, set in "
            "each of `optimizer.param_groups` before the step.",
            "the schedule forgotten; see also https://github.com/huggingface/transformers/issues/24725",
        ),
        Mistake(
            "the rate of the first group",
            looping(groups="first"),
            "the learning rate is set in `optimizer.param_groups[0]` alone. `adamw` makes two groups, matrices and the "
            "rest, so biases and layer norms keep the full rate: set it in a loop over the groups.",
            "optimizer.param_groups[0]['lr'] = …, from code with a single group",
        ),
        Mistake(
            "no warm-up",
            looping(schedule="no warm-up"),
            "the rate falls linearly from the first step. It should rise first: warm-up is a tenth of the steps, "
            "`steps // 10`.",
            "warmup=0 is the default of many schedulers",
        ),
        Mistake(
            "a schedule of epochs",
            looping(schedule="epochs"),
            "the learning rate changes once an epoch. Here it changes at each step.",
            "scheduler.step() in the outer loop, as torch's documentation has it for other schedules",
        ),
        Mistake(
            "no clipping",
            looping(clip=False),
            "the gradients are not clipped. Between `backward` and the optimizer's step: "
            "`nn.utils.clip_grad_norm_(model.parameters(), 1.0)`.",
            "a step of the loop forgotten; BERT clips at norm 1",
        ),
        Mistake(
            "gradients add up",
            looping(zero=False),
            "the gradients are never cleared, so each step uses the sum of all gradients so far. "
            "`optimizer.zero_grad()` once a step.",
            "https://github.com/pytorch/examples and every tutorial: the line that is forgotten most",
        ),
        Mistake(
            "old gradients at the start",
            looping(zero_first=False),
            "gradients that an earlier use of the model left behind count in your first step. Clear them before "
            "`backward`, or once before the loop.",
            "zero_grad after the step only; seen in this course's own fit",
        ),
        Mistake(
            "eval mode after the first epoch",
            looping(train="once"),
            "`model.train()` is called once, so after the first look at the held-out texts the model goes on learning "
            "in eval mode, without dropout. Call it again after each look.",
            "https://github.com/nickgkan/butd_detr/issues/8 and the like",
        ),
        Mistake(
            "never in training mode",
            looping(train="never"),
            "`model.train()` is never called, so a model that comes in eval mode learns without dropout. Call it "
            "before each step.",
            "from_pretrained returns a model in eval mode",
        ),
        Mistake(
            "asked in training mode",
            looping(asks="training"),
            "`held_out_loss` is called while the model is in training mode: dropout is on, and the loss is noisy and "
            "too high. `model.eval()` before it.",
            "https://github.com/pytorch/audio/issues/1995 (which part is to be in which mode)",
        ),
        Mistake(
            "asked with a graph",
            looping(asks="graph"),
            "`held_out_loss` is called with gradients on, so torch keeps a graph of all held-out texts for a backward "
            "pass that never comes. `with torch.no_grad():`.",
            "memory that grows in evaluation; torch's FAQ on memory",
        ),
        Mistake(
            "the last epoch kept",
            looping(restores=False),
            "the model has the weights of the last epoch, not of the best one. Keep a copy of those of the best, "
            "and load it into this `model` at the end: `model.load_state_dict(…)`.",
            "restore_best_weights=False is the default of Keras' EarlyStopping; torch's tutorial on saving warns of it",
        ),
        Mistake(
            "better than the epoch before",
            looping(better_than="before"),
            "you compare an epoch with the one before it. The best epoch is the one that is lower than *all* before, "
            "so keep the lowest loss so far and compare with that.",
            "previous_loss in place of best_loss",
        ),
        Mistake(
            "a loss of 0 taken for none",
            looping(better_than="falsy"),
            "where the best loss is 0.0, the next epoch counts as better: Python takes 0.0 for false in `if not best`. "
            "Begin with `math.inf`, or ask `best is None`.",
            "if not best_loss or loss < best_loss",
        ),
        Mistake(
            "a tie counts as better",
            looping(ties=True),
            "of two epochs with the same loss you keep the later one. Only a lower loss is better; the earlier epoch "
            "stays.",
            "<= in place of <",
        ),
        Mistake(
            "parameters without buffers",
            looping(buffers=False),
            "the parameters of the best epoch come back, but not the model's buffers (running means of a batch norm, "
            "say). Keep all of `model.state_dict()`.",
            "a copy of model.parameters() in place of the state",
        ),
        Mistake(
            "no patience",
            looping(stop="first"),
            "training stops after the first epoch that is not better. It should go on until `patience` such epochs "
            "came in a row.",
            "patience taken for a switch; patience=0 in Keras",
        ),
        Mistake(
            "one epoch too many",
            looping(stop="late"),
            "you wait one epoch too long: with patience 3, training stops after the third epoch in a row without a "
            "lower loss.",
            "> in place of >=",
        ),
        Mistake(
            "all worse epochs counted",
            looping(stop="total"),
            "you count all epochs that were not better. Only those since the best epoch count: a lower loss sets the "
            "count back to zero.",
            "a counter that is never reset",
        ),
        Mistake(
            "back to the best at each worse epoch",
            looping(restores="worse"),
            "after a worse epoch you load the best weights, and training starts from them again. It goes on from where "
            "it is; load the best weights once, at the end.",
            "load_state_dict in the branch that counts the worse epochs",
        ),
        Mistake(
            "never stops",
            looping(stop="never"),
            "training never stops early: after `patience` epochs in a row without a lower loss, leave the loop.",
            "the best weights kept, the stop forgotten",
        ),
        Mistake(
            "patience 3",
            looping(fixed=3),
            "right for patience 3, but other numbers have no effect. Use the argument.",
            "a number of the text in place of an argument",
        ),
    ),
    hints=(
        "First without held-out texts: `optimizer = adamw(model, lr)`, then for each step: the rate, "
        "`model.loss(**batches(step))`, `backward`, clip, step, `zero_grad`. The check then passes four stages.",
        "An epoch ends when `(step + 1) % len(batches) == 0`. There: `model.eval()`, `with torch.no_grad():`, append "
        "`held_out_loss()` to a list; `model.train()` at the top of each step.",
        "The best epoch so far is `losses.index(min(losses))`: the first of equal ones. If it is the newest, keep "
        "`copy.deepcopy(model.state_dict())`.",
        "Stop when `len(losses) - 1 - best >= patience`. Behind the loop: load what you kept, if anything; "
        "`model.eval()`; return the list.",
    ),
    praise="It makes the same steps as the course's `fit`, and keeps the best epoch.",
    about=about_loop,
    other_ways=(by_epochs,),
)

# --- 13.3 the build: LoRALinear ---------------------------------------------------------------------------------------


def a_linear(generator, C_in=6, C_out=4, bias=True, dtype=torch.float32):
    linear = nn.Linear(C_in, C_out, bias=bias)
    for parameter in linear.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return linear.to(dtype)


def adapted(answer, generator, rank=3, alpha=6, filled=True, **sizes):
    """Return the linear layer and the learner's layer on it, with random A and B where it is to be `filled`."""
    linear = a_linear(generator, **sizes)
    layer = answer(linear, rank, alpha)
    parts = named(layer)
    shapes = {"A": (rank, linear.in_features), "B": (linear.out_features, rank)}
    for name, shape in shapes.items():
        if name not in parts:
            raise Fault(f"the layer has no parameter `{name}`; it has {', '.join(parts) or 'none'}.")
        if tuple(parts[name].shape) != shape:
            raise Fault(f"{name} has the shape {tuple(parts[name].shape)}; expected {shape}.")
        if filled:
            parts[name].data = torch.randn(shape, generator=generator).to(parts[name].dtype)
    return linear, layer


def lora_parts(answer, generator):
    """The names and shapes of the parameters, and that it is an nn.Linear."""
    _, layer = adapted(answer, generator, filled=False)
    if not isinstance(layer, nn.Linear):
        raise Fault("the layer is no `nn.Linear`: begin with `class LoRALinear(nn.Linear)`.")
    names = sorted(named(layer))
    if names != ["A", "B", "bias", "weight"]:
        raise Fault(f"its parameters are {', '.join(names)}; expected A, B, bias and weight.")
    if (layer.in_features, layer.out_features) != (6, 4):
        raise Fault(
            f"`in_features` is {layer.in_features} and `out_features` {layer.out_features}; expected 6 and 4, those of "
            "the given layer. They are the first two arguments of `super().__init__`, in this order."
        )
    x = torch.randn(2, 5, 6, generator=generator)
    y = core.run(layer, (x,))
    if isinstance(y, RuntimeError) and not isinstance(core.run(layer, (x[0],)), Exception):
        raise Fault(f"`forward` works for x of shape (5, 6) and not for (2, 5, 6): {y}. `x @ W.T` takes both.")
    return torch.tensor(y.shape) if isinstance(y, torch.Tensor) else y


def factor_of(update, unscaled):
    """Return the number that `unscaled` is multiplied by in `update`, to two decimals; None if there is none."""
    factor = (update * unscaled).sum() / unscaled.square().sum()
    return round(factor.item(), 2) + 0.0 if torch.allclose(update, factor * unscaled, rtol=1e-3, atol=1e-3) else None


def lora_frozen(answer, generator):
    """Which parameters learn; whether weight and bias are the layer's own; whether they have kept their values."""
    linear = a_linear(generator)
    before = copy.deepcopy(linear.state_dict())
    layer = answer(linear, 3, 6)
    parts = named(layer)
    kept = [torch.equal(before[name], linear.state_dict()[name]) for name in before]
    for name, value in before.items():
        if all(kept) and not torch.equal(parts[name], value):
            raise Fault(f"the layer's `{name}` has other numbers than that of the given layer: take over that object.")
    learns = [name for name in before if parts[name].requires_grad]
    if learns:
        raise Fault(f"{' and '.join(learns)} can still learn. The text asks for weight and bias to be frozen.")
    frozen = [name for name in "AB" if not parts[name].requires_grad]
    if frozen:
        raise Fault(f"{' and '.join(frozen)} cannot learn: freeze the layer before you make A and B, not after it.")
    for name in before:
        given = getattr(linear, name)
        if parts[name] is not given and parts[name].data_ptr() == given.data_ptr():
            raise Fault(
                f"`{name}` is a new Parameter around the given one, which is not frozen. Take over the object itself."
            )
    own = [parts[name] is getattr(linear, name) for name in before]
    if any(own) and not all(own):
        raise Fault(f"the {'bias' if own[0] else 'weight'} is a copy. Take over the given layer's own object.")
    return torch.tensor(kept), torch.tensor(own)


def lora_start(answer, generator):
    """The output before any training, and what A and B start from: on a wide layer, where a spread can be measured."""
    linear, layer = adapted(answer, generator, rank=40, alpha=80, filled=False, C_in=400, C_out=30)
    x = torch.randn(7, 400, generator=generator)
    A, B = named(layer)["A"].detach(), named(layer)["B"].detach()
    if A.any() and B.any():
        raise Fault("neither A nor B starts at zero, so the layer does not begin as the old one. B starts at zero.")
    if A.any() and A.min() >= 0:
        raise Fault("no number of A is negative: `torch.rand` draws from 0 to 1, `torch.randn` normal numbers.")
    spread = A.std().item() * 20  # 1 where the deviation is 1/√400; 16,000 numbers, so it is known to 0.6 %
    if not B.any() and A.any() and not 0.9 < spread < 1.1:
        raise Fault(f"the standard deviation of A is about {A.std().item():.2g} here; expected 1/√in_features = 0.05.")
    if not B.any() and A.any() and not 2 < A.abs().max().item() * 20 < 9:  # a uniform one has no value above 1.74
        raise Fault("A has the right standard deviation, but no normal distribution: use `torch.randn`.")
    y, old = untouched(layer, x, names=("x",)), linear(x)
    if not B.any() and not y.any():
        raise Fault("B is zero and so is the output: the old layer's output is missing, to which the update is added.")
    times = factor_of(y - old, linear.bias.expand_as(y))
    if not B.any() and times:
        raise Fault(f"the bias is in the output {1 + times:.3g} times; expected once.")
    return y - old, torch.tensor([bool(A.any()), bool(B.any())])


def lora_update(answer, generator):
    """The output with A and B filled, for one text and for a batch, in training mode and in eval mode."""
    linear, layer = adapted(answer, generator)
    parts, x = named(layer), torch.randn(2, 5, 6, generator=generator)
    y, old = untouched(layer, x, names=("x",)), linear(x)
    factor = factor_of(y - old, x @ parts["A"].T @ parts["B"].T)
    if factor == 0 and y.requires_grad:
        raise Fault("A and B have changed, and the output has not: multiply them in `forward`, not in `__init__`.")
    if factor not in (None, 2):
        raise Fault(f"the update is multiplied by {factor:g}; expected alpha / rank = 6 / 3 = 2.")
    if not torch.allclose(layer.eval()(x), y, atol=1e-5):
        raise Fault("in eval mode the output is another one. The update belongs to the output in both modes.")
    return y, layer(x[0, 0])


def lora_gradients(answer, generator):
    """The gradients of A, B and the input; the weight has none."""
    _, layer = adapted(answer, generator)
    x = torch.randn(4, 6, generator=generator, requires_grad=True)
    layer(x).square().sum().backward()
    got = [named(layer)[name].grad for name in ("A", "B")]
    if any(grad is None for grad in got) or x.grad is None:
        raise Fault("A, B or the input gets no gradient: something of the forward pass is outside the graph.")
    return (*got, x.grad, torch.tensor(layer.weight.grad is None))


def lora_merged(answer, generator):
    """The merged layer's outputs are those of the layer, which has not changed; merged a second time it is the same."""
    linear, layer = adapted(answer, generator)
    x = torch.randn(3, 6, generator=generator)
    before = copy.deepcopy(layer.state_dict()), layer(x).detach()
    merged = layer.merged()
    if type(merged) is not nn.Linear:
        raise Fault(f"`merged()` gives a {type(merged).__name__}; expected a plain nn.Linear.")
    changed = [name for name, t in layer.state_dict().items() if not torch.equal(before[0][name], t)]
    changed += [] if torch.allclose(layer(x), before[1]) else ["the output"]
    if changed:
        raise Fault(f"`merged()` changes {' and '.join(changed)} of the layer itself. Change the new nn.Linear alone.")
    update = named(layer)["B"] @ named(layer)["A"]
    if merged.weight.shape == update.shape:
        factor = factor_of(merged.weight - linear.weight, update)
        if factor not in (None, 2):
            raise Fault(f"the merged weight is W {factor:+g} · B A; expected W + alpha / rank · B A, here W + 2 · B A.")
    if merged.bias is None or not torch.equal(merged.bias, linear.bias):
        raise Fault("the merged layer has no bias, or another than the layer's. Copy its values.")
    places = {t.data_ptr() for t in layer.state_dict().values()}
    shared = torch.tensor([t.data_ptr() in places for t in merged.state_dict().values()])
    return merged(x).detach(), layer(x).detach(), layer.merged()(x).detach(), linear(x).detach(), shared


def lora_sizes(answer, generator):
    """Another rank and alpha, other widths, no bias: the output and the merged layer."""
    found = []
    for rank, alpha, C_in, C_out, bias in ((1, 4, 5, 9, False), (5, 2, 12, 3, True), (8, 16, 8, 8, True)):
        try:
            _, layer = adapted(answer, generator, rank, alpha, C_in=C_in, C_out=C_out, bias=bias)
            merged = layer.merged()
        except (AttributeError, TypeError) as error:
            if bias:
                raise
            raise Fault(f"the given layer has no bias, it is None. There your code raised: {error}.") from None
        for name, one in (("layer", layer), ("merged one", merged)):
            if not bias and one.bias is not None:
                raise Fault(
                    f"the given layer has no bias, and your {name} has: nn.Linear makes one unless told not to."
                )
        x = torch.randn(2, C_in, generator=generator)
        found += [layer(x).detach(), merged(x).detach(), torch.tensor(merged.bias is None)]
    return tuple(found)


def lora_double(answer, generator):
    """In float64: dtypes of A, B, output and merged weight."""
    linear = a_linear(generator, dtype=torch.float64)
    layer = answer(linear, 3, 6)
    parts = named(layer)
    if any(parts[name].dtype != torch.float64 for name in "AB"):
        raise Fault("the given layer is in float64, and A or B is not: make them in the dtype of `linear.weight`.")
    parts["B"].data = torch.randn(parts["B"].shape, generator=generator, dtype=torch.float64)
    x = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    return (layer(x) - layer.merged()(x)).abs().max() < 1e-12, layer.merged().weight.dtype == torch.float64


class LoRALinear(nn.Linear):
    """A linear layer whose weight is frozen, with a trained update of low rank beside it (Hu et al. 2021)."""

    def __init__(self, linear, rank=8, alpha=16):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        self.requires_grad_(False)
        self.scale = alpha / rank
        A = torch.randn(rank, linear.in_features) / linear.in_features**0.5
        self.A = nn.Parameter(A.to(linear.weight))
        self.B = nn.Parameter(torch.zeros(linear.out_features, rank).to(linear.weight))

    def forward(self, x):
        """x: (..., in) -> (..., out)"""
        return super().forward(x) + self.scale * (x @ self.A.T @ self.B.T)

    @torch.no_grad()
    def merged(self):
        """Return a plain nn.Linear that gives the same outputs."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None).to(self.weight)
        linear.weight.copy_(self.weight + self.scale * self.B @ self.A)
        if self.bias is not None:
            linear.bias.copy_(self.bias)
        return linear


class Wrong(LoRALinear):
    """LoRALinear as a learner may write it; its switches are the mistakes."""

    start, frozen, copies, divided, always, path, detached = "B zero", "right", False, True, None, "right", ""
    shares_bias = False

    def __init__(self, linear, rank=8, alpha=16):
        nn.Linear.__init__(self, linear.in_features, linear.out_features, linear.bias is not None)
        if self.copies:
            self.load_state_dict(linear.state_dict())
            self.to(linear.weight)
        else:
            self.weight, self.bias = linear.weight, linear.bias
        self.requires_grad_(self.frozen == "nothing")
        scale = {True: alpha / rank, False: float(alpha), "whole": alpha // rank}[self.divided]
        self.scale = self.always or scale
        std = linear.in_features**-0.5
        A = torch.zeros(rank, linear.in_features) if "A zero" in self.start else torch.randn(rank, linear.in_features)
        B = torch.zeros(linear.out_features, rank) if "B zero" in self.start else torch.randn(linear.out_features, rank)
        self.A, self.B = (nn.Parameter((t * std).to(linear.weight)) for t in (A, B))

    def forward(self, x):
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.detached != "base"):
            base = F.linear(x, self.weight, self.bias)
        if self.path == "none":
            return base
        update = (x.detach() if self.detached == "x" else x) @ self.A.T @ self.B.T
        if self.path == "all scaled":
            return self.scale * (base + update)
        return base + self.scale * update

    def merged(self):
        linear = super().merged()
        if self.shares_bias:
            linear.bias = self.bias
        return linear


def wrong(**switches):
    return type("LoRALinear", (Wrong,), switches)


class WithProducts(nn.Linear):
    """Another way: the update's products by F.linear, the merge by a deep copy of the layer."""

    def __init__(self, linear, rank=8, alpha=16):
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None)
        self.rank, self.alpha = rank, alpha
        self.weight = linear.weight
        self.weight.requires_grad = False
        if linear.bias is not None:
            self.bias = linear.bias
            self.bias.requires_grad = False
        w = linear.weight
        self.A = nn.Parameter(torch.empty(rank, self.in_features, dtype=w.dtype, device=w.device))
        nn.init.normal_(self.A, std=self.in_features**-0.5)
        self.B = nn.Parameter(w.new_zeros(self.out_features, rank))

    def forward(self, x):
        y = F.linear(F.linear(x, self.A), self.B)
        return F.linear(x, self.weight, self.bias) + y * self.alpha / self.rank

    def merged(self):
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        layer.weight = nn.Parameter(
            (self.weight + torch.einsum("or,ri->oi", self.B, self.A) * self.alpha / self.rank).detach()
        )
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.detach().clone())
        return layer


lora_linear = Build(
    id="13.3",
    course=LoRALinear,
    stages=(
        Stage("parts and shapes", lora_parts),
        Stage("frozen", lora_frozen),
        Stage("the start", lora_start),
        Stage("the update", lora_update),
        Stage("gradients", lora_gradients),
        Stage("merged", lora_merged),
        Stage("other sizes", lora_sizes),
        Stage("float64", lora_double),
    ),
    mistakes=(
        Mistake(
            "nothing frozen",
            wrong(frozen="nothing"),
            "weight and bias still get a gradient: that is full fine-tuning with an update beside it. "
            "`requires_grad_(False)` on both; A and B, made afterwards, learn.",
            "a LoRA layer without the freeze; peft's get_peft_model does it for all of a model",
        ),
        Mistake(
            "a copy of the weight",
            wrong(copies=True),
            "weight and bias are copies. The layer should hold the given layer's own parameters: with copies every "
            "adapter needs the memory of a whole model.",
            "load_state_dict or deepcopy in __init__",
        ),
        Mistake(
            "both are zero",
            wrong(start="A zero, B zero"),
            "A and B both start at zero. Then the gradient of A, which is multiplied by B, is zero, and so is that of "
            "B, which is multiplied by A: nothing ever moves. Only B starts at zero.",
            "https://datascience.stackexchange.com/questions/123229 (what would go wrong if both are zero?)",
        ),
        Mistake(
            "A is zero",
            wrong(start="A zero"),
            "A starts at zero and B at random. The layer also begins as the old one, but the text, like the paper, has "
            "it the other way round: A random, B zero.",
            "https://aweers.de/blog/2025/lora-init (both ways compared)",
        ),
        Mistake(
            "all of it scaled",
            wrong(path="all scaled"),
            "the old output is multiplied by alpha / rank too. Only the update is.",
            "brackets in the wrong place",
        ),
        Mistake(
            "no update",
            wrong(path="none"),
            "A and B have no effect on the output. Add `self.scale * (x @ self.A.T @ self.B.T)`.",
            "the first half of the build",
        ),
        Mistake(
            "not scaled",
            wrong(always=1.0),
            "the update is not multiplied by alpha / rank.",
            "Hu et al. 2021, section 4.1, the sentence after equation (3)",
        ),
        Mistake(
            "alpha alone",
            wrong(divided=False),
            "the update is multiplied by alpha. It should be alpha / rank, so that a larger rank does not make larger "
            "steps.",
            "Hu et al. 2021, section 4.1, the sentence after equation (3)",
        ),
        Mistake(
            "a whole number",
            wrong(divided="whole"),
            "`alpha // rank` is a whole number, and 0 where the rank is larger than alpha. The text asks for the "
            "fraction: alpha / rank.",
            "// in place of /",
        ),
        Mistake(
            "the frozen path outside the graph",
            wrong(detached="base"),
            "the frozen part is computed without a graph, so the layers below get a wrong gradient. Frozen means that "
            "the *weight* gets none; the gradient must still pass through to x.",
            "no_grad taken for frozen",
        ),
        Mistake(
            "the input detached",
            wrong(detached="x"),
            "the input of the update is detached: A and B learn, but the layers below miss a part of their gradient.",
            "a detach that is meant to save memory",
        ),
        Mistake(
            "the bias shared",
            wrong(shares_bias=True),
            "the merged layer has the very bias of the LoRA layer: it is still frozen, and whoever changes one changes "
            "both. Copy its values: `new.bias.copy_(self.bias)` under `torch.no_grad()`.",
            "new.bias = self.bias",
        ),
        Mistake(
            "the factor two",
            wrong(always=2.0),
            "the factor is always 2, right for rank 8 with alpha 16 and for rank 3 with alpha 6. Use the arguments: "
            "alpha / rank.",
            "a number of the text in place of the arguments",
        ),
    ),
    hints=(
        "`super().__init__(linear.in_features, linear.out_features, linear.bias is not None)`, then "
        "`self.weight, self.bias = linear.weight, linear.bias`, `self.requires_grad_(False)`; A and B come after it.",
        "`self.A = nn.Parameter(…)` of the shape (rank, in), normal numbers / √in; `self.B` zeros of (out, rank); both "
        "`.to(linear.weight)`, which gives them its dtype.",
        "forward: `super().forward(x) + self.scale * (x @ self.A.T @ self.B.T)`, with `self.scale = alpha / rank`.",
        "merged: under `torch.no_grad()` a new `nn.Linear(…).to(self.weight)`, then `linear.weight.copy_(self.weight + "
        "self.scale * self.B @ self.A)`, and the bias if there is one.",
    ),
    praise="Few numbers learn, and after the merge nothing is left of them but a changed weight.",
    other_ways=(WithProducts, wrong()),
)

# --- 13.4 a label for a word of several pieces ------------------------------------------------------------------------


def words_in_pieces(generator, longest=4):
    """Words of all lengths, one of them without a piece; neighbours have different labels, so that a shift is seen."""
    lengths = [1, 3, *torch.randint(1, longest + 1, (6,), generator=generator).tolist(), 2]
    lengths[4] = 0
    pieces = [torch.randint(10, 90, (n,), generator=generator).tolist() for n in lengths]
    pieces[1][2] = pieces[1][0]  # the same piece twice in a word
    first = int(torch.randint(4, (1,), generator=generator))
    return pieces, [(first + 3 * i) % 4 for i in range(len(lengths))], 2, 3


def other_words(generator):
    """Empty words at both ends, other special tokens."""
    pieces, labels, _, _ = words_in_pieces(generator, longest=3)
    return [[], *pieces[1:3], []], labels[:4], 7, 9


def pieces_labelled(which="first", special=-100, rest=-100, specials=True, shifted=False, skip=True, zero=0):
    """Return a right or wrong `first_piece_labels`."""

    def label(pieces, labels, cls_id, sep_id):
        ids, found = ([cls_id], [special]) if specials else ([], [])
        if skip == "words alone":  # the words go, their labels stay
            pieces = [word for word in pieces if word]
            labels = labels[: len(pieces)]
        for word, k in zip(pieces, labels, strict=True):
            if not word and not skip:
                found.append(k)
            for i, piece in enumerate(word):
                ids.append(piece)
                chosen = {"first": i == 0, "last": i == len(word) - 1, "all": True, "by id": piece == word[0]}[which]
                found.append((k or zero) if chosen else rest)
        if specials:
            ids, found = [*ids, sep_id], [*found, special]
        return ids, [*found[1:], special] if shifted else found

    return label


def plain_lists(outcome):
    if not isinstance(outcome, tuple | list) or len(outcome) != 2:
        raise Fault(f"expected a pair: the ids and their labels, two lists. Yours is {core.describe(outcome)}.")
    for name, part in zip(("ids", "labels"), outcome, strict=True):
        wrong = [value for value in part if not core.comparable(value, 0)] if isinstance(part, list) else [part]
        if wrong:
            raise Fault(f"the {name} should be one list of whole numbers; there is {core.describe(wrong[0])}.")
    return tuple([int(value) for value in part] for part in outcome)


def about_pieces(answer, case):
    """Say at which place the ids or the labels go wrong, and what belongs there."""
    pieces, labels, cls_id, sep_id = case
    ids, expected = pieces_labelled()(*case)
    found = core.run(answer, case)
    if isinstance(found, Exception):
        full = [i for i, word in enumerate(pieces) if word]
        rest = [pieces[i] for i in full], [labels[i] for i in full], cls_id, sep_id
        if isinstance(core.run(answer, rest), Exception):
            return None
        return f"your code raised {type(found).__name__} at a word without any piece: it gives no id and no label."
    found = core.run(plain_lists, (found,))
    if isinstance(found, Exception):
        return None
    if found == (expected, ids):
        return "the labels come first. Expected the ids first: `return ids, labels`."
    count = f" You return {len(found[1])} labels for {len(found[0])} ids; each id needs one, [CLS] and [SEP] too."
    count = "" if len(found[1]) == len(found[0]) else count
    what = [f"piece {i + 1} of word {w + 1}" for w, word in enumerate(pieces) for i in range(len(word))]
    what = ["[CLS]", *what, "[SEP]"]
    for name, yours, right in (("ids", found[0], ids), ("labels", found[1], expected)):
        at = next((i for i, pair in enumerate(zip(yours, right, strict=False)) if pair[0] != pair[1]), len(yours))
        if at < len(right):
            given = yours[at] if at < len(yours) else "nothing"
            return (
                f"the first difference of the {name} is at {what[at]}: there is {given}; expected {right[at]}.{count}"
            )
        if len(yours) > len(right):
            return f"you return {len(yours)} {name} for {len(right)} tokens: something comes after [SEP]."
    return None


def labels_by_sums(pieces, labels, cls_id, sep_id):
    ids = [cls_id, *(piece for word in pieces for piece in word), sep_id]
    found = [-100]
    for word, k in zip(pieces, labels, strict=True):
        found += ([k] + [-100] * (len(word) - 1))[: len(word)]
    return ids, [*found, -100]


first_piece_labels = Exercise(
    id="13.4",
    right=pieces_labelled(),
    inputs=words_in_pieces,
    also=other_words,
    reads=plain_lists,
    mistakes=(
        Mistake(
            "each piece labelled",
            pieces_labelled("all"),
            "each piece of a word has the word's label: a word of five pieces then counts five times, in the loss and "
            "in the accuracy. Label the first piece; the others get -100.",
            "label_all_tokens in Hugging Face's script for token classification",
        ),
        Mistake(
            "the last piece",
            pieces_labelled("last"),
            "the last piece of each word has the label. The text asks for the first.",
            "word_ids read from behind",
        ),
        Mistake(
            "class 0 for the rest",
            pieces_labelled(rest=0),
            "the other pieces have the label 0, which is a class. No label is -100.",
            "https://github.com/kaiyinzhou/BERT-NER/issues/3",
        ),
        Mistake(
            "class 0 for the special tokens",
            pieces_labelled(special=0),
            "[CLS] and [SEP] have the label 0, which is a class. No label is -100.",
            "https://github.com/kaiyinzhou/BERT-NER/issues/3",
        ),
        Mistake(
            "class 0 for all of these",
            pieces_labelled(special=0, rest=0),
            "[CLS], [SEP] and the later pieces have the label 0, which is a class. No label is -100.",
            "https://github.com/kaiyinzhou/BERT-NER/issues/3",
        ),
        Mistake(
            "no special tokens",
            pieces_labelled(specials=False),
            "[CLS] and [SEP] are missing, and the encoder was trained with them.",
            "add_special_tokens=False",
        ),
        Mistake(
            "a label for an empty word",
            pieces_labelled(skip=False),
            "a word without any piece still gives a label, so there are more labels than ids, and all that follow come "
            "one token too late. Such a word gives nothing: `[-100] * (n - 1)` is empty for n = 0, `[label]` is not.",
            "[label] + [-100] * (len(word) - 1) for each word",
        ),
        Mistake(
            "empty words out, their labels in",
            pieces_labelled(skip="words alone"),
            "you leave out a word without pieces but not its label, so each word behind it has the label of the one "
            "before. Pair words and labels first, then leave out both.",
            "a filter before zip",
        ),
        Mistake(
            "class 0 left out",
            pieces_labelled(zero=-100),
            "words of the class 0 have -100: Python takes 0 for false in `if label` or `label or -100`. Class 0 is a "
            "class like the others.",
            "label or -100",
        ),
        Mistake(
            "found by its id",
            pieces_labelled("by id"),
            "a later piece with the same id as its word's first piece has a label too. Go by the piece's position in "
            "the word, not by its id: `word.index(piece)` and `piece == word[0]` cannot tell the two apart.",
            "word.index(piece) == 0",
        ),
        Mistake(
            "shifted by one",
            pieces_labelled(shifted=True),
            "each label stands one token too early: [CLS] comes first and needs a -100 of its own.",
            "labels without a place for [CLS]",
        ),
    ),
    hints=(
        "Two lists that grow together: begin with `[cls_id]` and `[-100]`.",
        "For a word of n pieces: its ids, and `[label] + [-100] * (n - 1)`; nothing for a word without a piece.",
        "`for word, label in zip(pieces, labels): …`; at the end `sep_id` and -100.",
    ),
    praise="One label a word, however the tokenizer cuts it.",
    about=about_pieces,
    other_ways=(labels_by_sums,),
)

# --- 13.5 predict: a temperature --------------------------------------------------------------------------------------


def about_a_probability(guess):
    """Say where a probability of the larger logit, at a temperature above 1, can lie."""
    if not 0 <= float(guess) <= 1:
        return "A probability is a number from 0 to 1; 88 % is 0.88."
    if float(guess) < 0.5:
        return "Below one half the other class would be the answer, and a temperature changes no answer."
    if float(guess) > 0.88:
        return "That is surer than before, and a temperature above 1 makes the model less sure."
    return "It does lie between 0.5 and 0.88, as it should. Look at each step: divide, exponentials, their sum."


temperature_of_two = Prediction(
    id="13.5",
    right=1 / (1 + math.exp(-1)),
    tolerance=0.005,
    about=about_a_probability,
    mistakes=(
        Mistake(
            "the probability divided",
            1 / (1 + math.exp(-2)) / 2,
            "you divided the probability by 2. Then the two would no longer sum to 1. The *logits* are divided.",
            "https://github.com/gpleiss/temperature_scaling (the README: logits, not probabilities)",
        ),
        Mistake(
            "temperature one",
            1 / (1 + math.exp(-2)),
            "that is the probability before: temperature 1.",
            "softmax without a temperature, section 9",
        ),
        Mistake(
            "multiplied",
            1 / (1 + math.exp(-4)),
            "you multiplied the logits by 2. A temperature above 1 divides: the model gets less sure.",
            "logits times T in place of logits / T, section 9",
        ),
        Mistake(
            "the root of the probability",
            (1 + math.exp(-2)) ** -0.5,
            "you took the square root of the probability. Dividing the logits by 2 does that to *both* probabilities, "
            "but then they no longer sum to 1: divide by their sum.",
            "p^(1/T) without the normalisation",
        ),
        Mistake(
            "the other class",
            1 / (1 + math.exp(1)),
            "that is the probability of the second class, whose logit is 1. The question is about the first.",
            "the last entry of the softmax read off",
        ),
        Mistake(
            "no exponential",
            3 / (3 + 1),
            "you divided the logit by the sum of the logits. A softmax takes the exponential of each first.",
            "logits taken for counts: T would then change nothing",
        ),
        Mistake(
            "a quarter of the difference",
            1 / (1 + math.exp(-0.5)),
            "your two logits differ by 0.5 after the division. Divide each of them by 2, and once.",
            "3 / 2 beside 1, or a division by T twice",
        ),
        Mistake(
            "a logit",
            1.5,
            "that is the first logit divided by 2. The softmax of both comes after it.",
            "the first half of the formula",
        ),
        Mistake(
            "softmax of the probabilities",
            1 / (1 + math.exp(1 - 2 / (1 + math.exp(-2)))),
            "you took a softmax of the two probabilities. Take it of the logits, each divided by 2.",
            "https://github.com/runame/laplace-redux/pull/1 (softmax applied twice)",
        ),
        Mistake(
            "softmax twice",
            1 / (1 + math.exp(-(2 / (1 + math.exp(-2)) - 1) / 2)),
            "you divided the probabilities by 2 and took a softmax of them. There is one softmax, of logits / T.",
            "https://github.com/runame/laplace-redux/pull/1 (softmax applied twice)",
        ),
    ),
    hints=(
        "Divide both logits by the temperature: 1.5 and 0.5.",
        "Only their difference counts: e^1.5 / (e^1.5 + e^0.5) = 1 / (1 + e^−1).",
        "`1 / (1 + math.exp(-1))`",
    ),
    praise="Less sure, and the same answer: the larger logit stays the larger one.",
)

# --- 13.6 find the bug: a temperature from the test -------------------------------------------------------------------


def two_sets(generator):
    sets, sure = [], 1.0 if generator.initial_seed() % 2 else 8.0  # where the logits are small, T is below 1
    for scale in (5.0, 3.0):
        logits = scale * torch.randn(80, 3, generator=generator)
        noisy = logits / scale + 0.8 * torch.randn(80, 3, generator=generator)
        sets += [logits / sure, noisy.argmax(-1)]
    return tuple(sets)


def small_test(generator):
    validation, labels, test, test_labels = two_sets(generator)
    return validation, labels, test[:1], test_labels[:1]


def calibrating(fitted_on="validation", divide="logits", power=1, fits="logits", judged_on="test", least=0.0):
    """Return a right or wrong `calibrated`."""

    def error(validation, validation_labels, test, test_labels):
        both = torch.cat([validation, test]), torch.cat([validation_labels, test_labels])
        sets = {"validation": (validation, validation_labels), "test": (test, test_labels), "both": both}
        fit_on, fit_labels = sets[fitted_on]
        t = fit_temperature(fit_on.softmax(-1) if fits == "probabilities" else fit_on, fit_labels) ** power
        t, (test, test_labels) = max(t, least), sets[judged_on]
        p = {
            "logits": (test / t).softmax(-1),
            "probabilities": (test.softmax(-1) / t).softmax(-1),
            "probabilities, once": test.softmax(-1) / t,
        }[divide]
        return package_error(p, test_labels)

    return error


def one_number(value):
    if isinstance(value, tuple | list):
        raise Fault(f"your function returns {len(value)} results; expected one, the ECE on the test set.")
    return torch.as_tensor(value).float()


def about_calibration(answer, case):
    """Say which of the two sets has no influence on the result."""
    validation, validation_labels, test, test_labels = case
    cases = case, (validation, (validation_labels + 1) % 3, *case[2:]), (*case[:2], test.flip(0), test_labels)
    results = [core.run(lambda *arguments: float(one_number(answer(*arguments))), one) for one in cases]
    if isinstance(results[0], float) and results[0] == results[1]:
        return "the validation labels have no influence on your result. They choose the temperature."
    if isinstance(results[0], float) and results[0] == results[2]:
        return "the test logits have no influence on your result. The ECE is that of the test set."
    return None


def calibrated_by_search(validation, validation_labels, test, test_labels):
    t = fit_temperature(validation, validation_labels)
    return package_error(F.softmax(test * (1 / t), dim=1), test_labels)


calibrated = Exercise(
    id="13.6",
    right=calibrating(),
    inputs=two_sets,
    also=small_test,
    reads=one_number,
    about=about_calibration,
    mistakes=(
        Mistake(
            "the bugs as they were",
            calibrating("test", "probabilities"),
            "both bugs are still there. Which entries may choose the temperature, if the test entries are to judge it? "
            "And what does a temperature divide?",
            "https://github.com/gpleiss/temperature_scaling/issues/37 and https://github.com/runame/laplace-redux/pull/1",
        ),
        Mistake(
            "fitted on the test",
            calibrating("test"),
            "the temperature is still chosen on the test entries, and on them it looks better than it is. Choose it on "
            "the validation entries.",
            "https://github.com/gpleiss/temperature_scaling/issues/37 (which set may choose T)",
        ),
        Mistake(
            "softmax twice",
            calibrating("validation", "probabilities"),
            "the right entries, but you divide probabilities, and a second softmax flattens them. Divide the logits, "
            "then take one softmax.",
            "https://github.com/runame/laplace-redux/pull/1",
        ),
        Mistake(
            "probabilities divided",
            calibrating("validation", "probabilities, once"),
            "`calibration_error` expects probabilities, rows that sum to 1, and gets something else. Divide the "
            "*logits* by t, then take the softmax over the classes, once and as the last step.",
            "the outer softmax taken away in place of the inner one",
        ),
        Mistake(
            "fitted on probabilities",
            calibrating(fits="probabilities"),
            "`fit_temperature` gets probabilities, and it takes a softmax itself: give it the logits of the validation "
            "entries, as they are.",
            "https://github.com/runame/laplace-redux/pull/1 (softmax applied twice)",
        ),
        Mistake(
            "both sets together",
            calibrating("both"),
            "validation and test entries together chose the temperature. The test entries must have no part in it.",
            "https://github.com/gpleiss/temperature_scaling/issues/37",
        ),
        Mistake(
            "multiplied",
            calibrating("validation", "logits", -1),
            "you multiply the logits by the temperature. `fit_temperature` returns what to *divide* by.",
            "logits times T in place of logits / T, section 9",
        ),
        Mistake(
            "the sets exchanged",
            calibrating("test", judged_on="validation"),
            "the test entries choose the temperature and the validation entries judge it. It is the other way round.",
            "the order of four arguments",
        ),
        Mistake(
            "never below 1",
            calibrating(least=1.0),
            "you keep the temperature at 1 or above. Where a model is not sure enough, the best T lies below 1: take "
            "the one that `fit_temperature` finds.",
            "the floor of the package's fine_tune, which has few held-out texts",
        ),
    ),
    hints=(
        "Where do the two arguments of `fit_temperature` come from? They judge as well.",
        "softmax(logits / T), once.",
        "`t = fit_temperature(validation, validation_labels)`, then `(test / t).softmax(-1)`.",
    ),
    praise="Chosen on validation, judged on the test.",
    other_ways=(calibrated_by_search,),
)
