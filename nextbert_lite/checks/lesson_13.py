"""The checks of lesson 13, Fine-tuning."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

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
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2))


def a_model(generator):
    return (Small().eval(),)


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
            "the encoder is in eval mode, but its weights still get a gradient: eval() turns dropout off and freezes "
            "nothing. `requires_grad_(False)` freezes.",
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
        self.calls = []

    def loss(self, mark, size):
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
    model, batches = Toy(generator), Marks(generator, n)
    if left:
        model.w.grad = torch.full_like(model.w, 5.0)
    given = iter(losses or [])

    def held_out_loss():
        if look is not None:
            look(model)
        return next(given)

    if losses is None:
        result = answer(model, batches, steps, lr)
    elif patience is None:
        result = answer(model, batches, steps, lr, held_out_loss)
    else:
        result = answer(model, batches, steps, lr, held_out_loss, patience=patience)
    if not isinstance(result, list):
        raise Fault(f"the result is of type {type(result).__name__}; expected a list of the held-out losses.")
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
    """The weights and the buffer that are left: of the second of seven epochs, whose loss comes again in the fourth.

    The sixth is better than the one before it, and no better than the best.
    """
    losses = [2.0, 1.0, 1.5, 1.0, 1.6, 1.2, 1.3]
    model, _, result = trained(answer, generator, 3, 21, losses=losses, patience=9)
    return model.weights(), model.seen, torch.tensor(result)


def patient(answer, generator):
    """How many steps were made, and the losses: two patterns, the second with worse epochs that are not in a row."""
    rows = []
    for losses, patience in ((3.0, 2.0, 2.5, 2.4, 2.2, 2.1, 1.0), 3), ((5.0, 6.0, 4.0, 5.0, 3.0, 4.0, 2.0, 3.0), 2):
        model, _, result = trained(answer, generator, 2, 2 * len(losses), losses=list(losses), patience=patience)
        rows += [torch.tensor([len(model.calls)]), torch.tensor(result)]
    return tuple(rows)


def other_lengths(answer, generator):
    """Five batches an epoch, thirteen steps, another rate, patience 1; and an end in the middle of an epoch."""
    model, _, result = trained(answer, generator, 5, 13, lr=0.03, losses=[1.0, 0.5, 9.0], patience=1)
    other, _, more = trained(answer, generator, 5, 38, lr=0.01, losses=[1.0, 2.0, 3.0, 0.5, 3.0], patience=1)
    return model.weights(), torch.tensor(result), other.weights(), torch.tensor(more), torch.tensor(len(other.calls))


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
        optimizer, losses, best, worse = adamw(model, lr), [], None, 0
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
            before = min(losses[:-1] if better_than == "best" else losses[-2:-1], default=math.inf)
            if losses[-1] < before or (ties and losses[-1] == before):
                worse = 0
                state = model.state_dict() if buffers else dict(model.named_parameters())
                best = {name: t.detach().clone() if keeps == "copies" else t for name, t in state.items()}
            else:
                worse += 1
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
            "the model has the weights of the last epoch, not of the best one. Either what you kept is never loaded "
            "into this `model` (or only where training stops early), or it is no copy: `state_dict()` returns the "
            "tensors themselves, and training goes on changing them. Use `copy.deepcopy`, or `clone` each tensor.",
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
    sizes = torch.tensor([layer.in_features, layer.out_features])
    return sizes, torch.tensor(layer(torch.randn(2, 5, 6, generator=generator)).shape)


def lora_frozen(answer, generator):
    """Which parameters learn; whether weight and bias are the layer's own; whether they have kept their values."""
    linear = a_linear(generator)
    before = copy.deepcopy(linear.state_dict())
    layer = answer(linear, 3, 6)
    parts = named(layer)
    learns = [parts[name].requires_grad for name in ("weight", "bias", "A", "B")]
    kept = [torch.equal(before[name], linear.state_dict()[name]) for name in before]
    own = [parts[name].data_ptr() == getattr(linear, name).data_ptr() for name in before]
    return torch.tensor(learns), torch.tensor(kept), torch.tensor(own)


def lora_start(answer, generator):
    """The output before any training, and what A and B start from: on a wide layer, where a spread can be measured."""
    linear, layer = adapted(answer, generator, rank=40, alpha=80, filled=False, C_in=400, C_out=30)
    x = torch.randn(7, 400, generator=generator)
    A, B = named(layer)["A"].detach(), named(layer)["B"].detach()
    spread = A.std().item() * 20  # 1 where the deviation is 1/√400; 16,000 numbers, so it is known to 0.6 %
    if not B.any() and A.any() and not 0.9 < spread < 1.1:
        raise Fault(f"the standard deviation of A is about {A.std().item():.2g} here; expected 1/√in_features = 0.05.")
    if not B.any() and A.any() and not 2 < A.abs().max().item() * 20 < 9:  # a uniform one has no value above 1.74
        raise Fault("A has the right standard deviation, but no normal distribution: use `torch.randn`.")
    return layer(x) - linear(x), torch.tensor([bool(A.any()), bool(B.any())])


def lora_update(answer, generator):
    """The output with A and B filled, for one text and for a batch."""
    _, layer = adapted(answer, generator)
    x = torch.randn(2, 5, 6, generator=generator)
    return untouched(layer, x), layer(x[0, 0])


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
    same = torch.tensor([torch.equal(before[0][name], t) for name, t in layer.state_dict().items()])
    places = {t.data_ptr() for t in layer.state_dict().values()}
    shared = torch.tensor([t.data_ptr() in places for t in merged.state_dict().values()])
    return merged(x).detach(), same, layer(x).detach(), layer.merged()(x).detach(), linear(x).detach(), shared


def lora_sizes(answer, generator):
    """Another rank and alpha, other widths, no bias: the output and the merged layer."""
    found = []
    for rank, alpha, C_in, C_out, bias in ((1, 4, 5, 9, False), (5, 2, 12, 3, True), (8, 16, 8, 8, True)):
        _, layer = adapted(answer, generator, rank, alpha, C_in=C_in, C_out=C_out, bias=bias)
        x = torch.randn(2, C_in, generator=generator)
        found += [layer(x).detach(), layer.merged()(x).detach(), torch.tensor(layer.merged().bias is None)]
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

    start, frozen, copies, divided, always, path, detached, twice = (
        "B zero",
        "right",
        False,
        True,
        None,
        "right",
        "",
        False,
    )
    in_place, merge, loses_bias, shares_bias, typed, spread = False, "right", False, False, True, None

    def __init__(self, linear, rank=8, alpha=16):
        nn.Linear.__init__(self, linear.in_features, linear.out_features, linear.bias is not None)
        if self.copies:
            self.load_state_dict(linear.state_dict())
            self.to(linear.weight)
        else:
            self.weight, self.bias = linear.weight, linear.bias
        self.requires_grad_(self.frozen == "nothing")
        if self.frozen == "weight alone" and self.bias is not None:
            self.bias.requires_grad_(True)
        scale = {True: alpha / rank, False: float(alpha), "turned": rank / alpha}[self.divided]
        self.scale = self.always or scale
        std = self.spread or linear.in_features**-0.5
        A = torch.zeros(rank, linear.in_features) if "A zero" in self.start else torch.randn(rank, linear.in_features)
        B = torch.zeros(linear.out_features, rank) if "B zero" in self.start else torch.randn(linear.out_features, rank)
        dtype = linear.weight.dtype if self.typed else torch.float32
        self.A, self.B = nn.Parameter((A * std).to(dtype)), nn.Parameter((B * std).to(dtype))

    def forward(self, x):
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.detached != "base"):
            base = F.linear(x, self.weight, self.bias)
        if self.path == "none":
            return base
        update = (x.detach() if self.detached == "x" else x) @ self.A.T @ self.B.T
        if self.path == "all scaled":
            return self.scale * (base + update)
        if self.twice and self.bias is not None:
            update = update + self.bias
        return base + self.scale * update

    @torch.no_grad()
    def merged(self):
        if self.in_place:
            self.weight += self.scale * self.B @ self.A
            linear = nn.Linear(self.in_features, self.out_features, self.bias is not None)
            linear.load_state_dict({k: v for k, v in self.state_dict().items() if k in ("weight", "bias")})
            return linear
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None and not self.loses_bias)
        linear = linear.to(self.weight)
        scale = 1.0 if self.merge == "no scale" else self.scale
        linear.weight.copy_(self.weight + (0 if self.merge == "no update" else scale * self.B @ self.A))
        if self.shares_bias:
            linear.bias = self.bias
        elif linear.bias is not None:
            linear.bias.copy_(self.bias)
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
            "the bias learns",
            wrong(frozen="weight alone"),
            "the weight is frozen, but the bias still gets a gradient. The text asks for both to be frozen.",
            "bias='lora_only' and bias='none' are two settings of peft",
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
            "both are random",
            wrong(start="random"),
            "A and B both start at random, so the new layer does not begin as the old one: its output is changed "
            "before the first step. B starts at zero.",
            "https://datascience.stackexchange.com/questions/123229",
        ),
        Mistake(
            "the bias twice",
            wrong(twice=True),
            "the bias is added twice, once with the weight and once with the update. The update has none.",
            "two nn.Linear layers with their default bias",
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
            "rank / alpha",
            wrong(divided="turned"),
            "the update is multiplied by rank / alpha. Turn the fraction over.",
            "the fraction written from memory",
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
            "merged in place",
            wrong(in_place=True),
            "`merged()` changes the layer itself: its weight has the update now, and its forward pass adds it again. "
            "Make a new nn.Linear.",
            "merge_weights in microsoft/LoRA, which has to remember whether it has merged",
        ),
        Mistake(
            "merged without the scale",
            wrong(merge="no scale"),
            "the merged weight has B A without the factor alpha / rank.",
            "the factor stands in forward only",
        ),
        Mistake(
            "merged without the update",
            wrong(merge="no update"),
            "the merged layer is the old one: add scale · B A to its weight.",
            "a copy of the weight alone",
        ),
        Mistake(
            "merged without the bias",
            wrong(loses_bias=True),
            "the merged layer has no bias, or not the layer's.",
            "nn.Linear(..., bias=False) for the merged layer",
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
        Mistake(
            "another spread",
            wrong(spread=1.0),
            "the standard deviation of A is about 1 here; expected 1/√in_features = 0.05.",
            "torch.randn without a factor",
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
    first = int(torch.randint(4, (1,), generator=generator))
    return pieces, [1 + (first + 3 * i) % 4 for i in range(len(lengths))], 2, 3


def other_words(generator):
    """Empty words at both ends, other special tokens."""
    pieces, labels, _, _ = words_in_pieces(generator, longest=3)
    return [[], *pieces[1:3], []], labels[:4], 7, 9


def pieces_labelled(which="first", special=-100, rest=-100, specials=True, shifted=False, skip=True):
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
                chosen = which == "all" or i == (0 if which == "first" else len(word) - 1)
                found.append(k if chosen else rest)
        if specials:
            ids, found = [*ids, sep_id], [*found, special]
        return ids, [*found[1:], special] if shifted else found

    return label


def plain_lists(outcome):
    if not isinstance(outcome, tuple | list) or len(outcome) != 2:
        raise TypeError("expected a pair: the ids and their labels, two lists.")
    return tuple([int(value) for value in part] for part in outcome)


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
    other_ways=(labels_by_sums,),
)

# --- 13.5 predict: a temperature --------------------------------------------------------------------------------------

temperature_of_two = Prediction(
    id="13.5",
    right=1 / (1 + math.exp(-1)),
    tolerance=0.004,
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
    sets = []
    for scale in (5.0, 3.0):
        logits = scale * torch.randn(80, 3, generator=generator)
        noisy = logits / scale + 0.8 * torch.randn(80, 3, generator=generator)
        sets += [logits, noisy.argmax(-1)]
    return tuple(sets)


def small_test(generator):
    validation, labels, test, test_labels = two_sets(generator)
    return validation, labels, test[:1], test_labels[:1]


def calibrating(fitted_on="validation", divide="logits", power=1, fits="logits"):
    """Return a right or wrong `calibrated`."""

    def error(validation, validation_labels, test, test_labels):
        both = torch.cat([validation, test]), torch.cat([validation_labels, test_labels])
        sets = {"validation": (validation, validation_labels), "test": (test, test_labels), "both": both}
        fit_on, fit_labels = sets[fitted_on]
        t = fit_temperature(fit_on.softmax(-1) if fits == "probabilities" else fit_on, fit_labels) ** power
        p = {
            "logits": (test / t).softmax(-1),
            "probabilities": (test.softmax(-1) / t).softmax(-1),
            "probabilities, once": test.softmax(-1) / t,
        }[divide]
        return package_error(p, test_labels)

    return error


def calibrated_by_search(validation, validation_labels, test, test_labels):
    t = fit_temperature(validation, validation_labels)
    return package_error(F.softmax(test * (1 / t), dim=1), test_labels)


calibrated = Exercise(
    id="13.6",
    right=calibrating(),
    inputs=two_sets,
    also=small_test,
    reads=lambda value: torch.as_tensor(value).float(),
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
            "the second softmax is gone, but probabilities divided by t no longer sum to 1. Divide the *logits*, then "
            "take the softmax.",
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
    ),
    hints=(
        "Where do the two arguments of `fit_temperature` come from? They judge as well.",
        "softmax(logits / T), once.",
        "`t = fit_temperature(validation, validation_labels)`, then `(test / t).softmax(-1)`.",
    ),
    praise="Chosen on validation, judged on the test.",
    other_ways=(calibrated_by_search,),
)
