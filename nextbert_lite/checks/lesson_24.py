"""The checks of lesson 24, Your own BERT."""

import copy
import importlib
import io
import math
import os
import sys
import tempfile
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from nextbert_lite.checks.core import (
    Build,
    Fault,
    Mistake,
    Prediction,
    Stage,
    comparable,
    describe,
    hint,
    mine,
    solution,
)
from nextbert_lite.checks.lesson_06 import pretrain
from nextbert_lite.core import attention as core_attention
from nextbert_lite.core import encoder as core_encoder
from nextbert_lite.core import heads as core_heads
from nextbert_lite.core.masking import IGNORE
from nextbert_lite.course import assemble, progress, workspace
from nextbert_lite.files import share_dir
from nextbert_lite.training.loop import linear_schedule

__all__ = [
    "PARTS",
    "broken_parts",
    "hint",
    "mine",
    "my_package",
    "package",
    "parity_test",
    "resumable_run",
    "run_file",
    "solution",
    "under_our_names",
    "years_of_training",
]


# --- the learner's own package ----------------------------------------------------------------------------------------

NEEDED = (
    "scaled_dot_product_attention MultiHeadAttention EncoderLayer Encoder mask_tokens MaskedLanguageModel pretrain "
    "info_nce_loss SentenceEncoder BM25 paired_bootstrap train_with_early_stopping load_bert"
).split()
_kept: list[tempfile.TemporaryDirectory] = []  # vanish when the kernel stops


def my_package(folder: str | Path = ".") -> ModuleType:
    """Return the package my_bert that belongs to a folder of notebooks, and say in a line or two whose it is.

    One that lies there is taken as it is. In a learner's workspace without one it is collected there; anywhere else,
    and where the learner's cannot be imported, the course's own is, in a folder that vanishes with the kernel.
    """
    folder = Path(folder).resolve()
    copies = [path.name for path in workspace.find_lessons() if (folder / path.name).is_file()]
    if (folder / assemble.PACKAGE / "__init__.py").is_file():
        package = of_learner(folder, copies)
    elif copies and folder != share_dir("notebooks").resolve():
        print(
            "Collecting your builds from the notebooks in this folder. Each lesson that you solved takes some seconds."
        )
        try:
            list(assemble.assemble(folder))
            package = of_learner(folder, copies)
        except (ValueError, OSError) as error:
            print(f"They cannot be collected ({error}), so the course's own parts run here.")
            package = None
    else:
        print("This folder is no workspace, so all parts of this my_bert are the course's.")
        package = None
    if package is None:
        _kept.append(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        blank = Path(_kept[-1].name)
        workspace.prepare(blank)
        list(assemble.assemble(blank))
        package = imported(blank)
    parts = progress.parts({})
    print(f"my_bert: {len(package.YOURS)} of {len(parts)} parts are yours.")
    return package


def of_learner(folder: Path, copies: list[str]) -> ModuleType | None:
    """Return the learner's my_bert; None, with a line that says why, if it lacks something or cannot be imported."""
    home = folder / assemble.PACKAGE
    try:
        package = imported(folder)
    except Exception as error:  # noqa: BLE001 - it is the learner's package: whatever it raises is told
        print(f"Your my_bert cannot be imported ({type(error).__name__}: {error}), so the course's own parts run here.")
        return None
    lacking = [name for name in NEEDED if not hasattr(package, name)]
    if lacking:
        print(
            f"Your my_bert lacks {', '.join(lacking)}, so the course's own parts run here. Renew it: nextbert-lite "
            f"assemble ."
        )
        return None
    edited = sorted(path.name for path in home.glob("[!.]*.py") if not assemble.is_ours(path))
    if edited:
        print(
            f"You edited {', '.join(edited)}: whose a part is, is only known as of the last `nextbert-lite assemble .`"
        )
    made = (home / "__init__.py").stat().st_mtime
    if any((folder / name).stat().st_mtime > made for name in copies if not name.startswith("24_")):
        print(
            "A notebook here is newer than my_bert. To renew it, in a terminal in this folder: nextbert-lite assemble ."
        )
    return package


def imported(folder: Path) -> ModuleType:
    """Return the package my_bert of this folder, imported anew."""
    for name in [name for name in sys.modules if name.split(".")[0] == assemble.PACKAGE]:
        del sys.modules[name]
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(assemble.PACKAGE)
    finally:
        sys.path.remove(str(folder))


def run_file(package: ModuleType, seed: int, function: Callable) -> Path:
    """Return where a run is kept: beside my_bert if the learner's own function writes it; else where it vanishes.

    The course's function and a learner's may save a run in other forms, and must not meet with one file.
    """
    name = f"my_bert_run_{seed}.pt"
    if function is not resumable_run.course:
        return Path(package.__file__).resolve().parent.parent / name
    _kept.append(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
    return Path(_kept[-1].name) / name


def under_our_names(theirs: nn.Module, names: dict[str, str], call: Callable) -> nn.Module:
    """Return a module that has another library's parameters under our names and computes call(theirs, *inputs)."""
    return Renamed([theirs], names, call)


class Renamed(nn.Module):
    """Another library's module, its parameters shared under our dotted names; in a list, so that it has none itself."""

    def __init__(self, theirs, names, call):
        super().__init__()
        self.theirs, self.call, self.names = theirs, call, names
        for ours, other in names.items():
            *path, last = ours.split(".")
            place = self
            for name in path:
                if not hasattr(place, name):
                    place.add_module(name, nn.Module())
                place = getattr(place, name)
            place.register_parameter(last, theirs[0].get_parameter(other))

    def forward(self, *inputs):
        # what stands under our names now: functional_call puts other tensors there
        weights = {f"part.{other}": attrgetter(ours)(self) for ours, other in self.names.items()}
        return torch.func.functional_call(Called(self.theirs[0], self.call), weights, inputs)


class Called(nn.Module):
    """A module whose forward calls a function of its part."""

    def __init__(self, part, call):
        super().__init__()
        self.part, self.call = part, call

    def forward(self, *inputs):
        return self.call(self.part, *inputs)


# --- 24.1 the build: a parity test ------------------------------------------------------------------------------------


def largest_difference(own, reference, inputs, generator):
    """own, reference: modules, inputs: a tuple, for both -> how far results and gradients differ at most, a float"""
    pair = [copy.deepcopy(module).double().eval() for module in (own, reference)]
    mine, theirs = (dict(module.named_parameters()) for module in pair)
    if {n: p.shape for n, p in mine.items()} != {n: p.shape for n, p in theirs.items()}:
        return math.inf
    for name, p in mine.items():
        p.data.copy_(torch.randn(p.shape, generator=generator) * p.shape[-1] ** -0.5)
        theirs[name].data.copy_(p)
        p.requires_grad_(), theirs[name].requires_grad_()  # frozen ones, too
    found, slope = [], None
    for module, parameters in zip(pair, (mine, theirs), strict=True):
        given = [x.double().requires_grad_() if x.is_floating_point() else x for x in copy.deepcopy(inputs)]
        result = module(*given)
        if slope is None:
            slope = torch.randn(result.shape, generator=generator)
        if result.shape != slope.shape:
            return math.inf
        wanted = [*(parameters[name] for name in mine), *(x for x in given if x.is_floating_point())]
        scalar = (result * slope).sum() + sum(0 * x.sum() for x in wanted)  # what has no gradient gets 0
        found.append([result, *torch.autograd.grad(scalar, wanted)])
    worst = max(
        (a - b).abs().max().item() if (a - b).isfinite().all() else math.inf for a, b in zip(*found, strict=True)
    )
    return worst


class Part(nn.Module):
    """A small layer with all that a parity test may overlook; `kind` is what is wrong with it."""

    def __init__(self, kind="", dropout=0.0, order=1):
        super().__init__()
        parts = {
            "linear": nn.Linear(4, 4),
            "norm1": nn.LayerNorm(4),
            "norm2": nn.LayerNorm(4),
            "out": nn.Linear(4, 4),
        }
        for name in list(parts)[::order]:
            self.add_module(name, parts[name])
        if kind == "another part":
            self.further = nn.Linear(2, 2)
        self.kind, self.dropout = kind, nn.Dropout(dropout)

    def forward(self, x, ids):
        first, second = (self.norm2, self.norm1) if self.kind == "norms" else (self.norm1, self.norm2)
        inner = self.linear(self.dropout(first(x)))
        if self.kind == "bias":
            inner = inner - self.linear.bias
        if self.kind == "branch":
            inner = inner.detach()
        if self.kind == "matrix":
            inner = F.linear(first(x), self.linear.weight.detach(), self.linear.bias)
        if self.kind == "vector":
            inner = F.linear(first(x), self.linear.weight, self.linear.bias.detach())
        if self.kind == "input":
            x = x.detach()
        hidden = F.gelu(inner, approximate="tanh" if self.kind == "gelu" else "none")
        y = second(x + hidden)
        if self.kind == "affine":
            y = (F.layer_norm(x + hidden, (4,)) + self.norm2.bias) * self.norm2.weight
        if "softmax" in self.kind:
            return (y.detach() if self.kind == "behind a softmax" else y).softmax(-1)
        if self.kind in (
            "branch",
            "matrix",
            "vector",
            "input",
            "norms",
            "affine",
            "bias",
            "gelu",
        ) or self.kind.startswith("plain"):
            y = y + self.out(y)
        if self.kind == "shape":
            return y[:1]
        if self.kind == "nan":
            return y.masked_fill(ids[..., None] == 0, torch.nan)
        return y


class Shifted(nn.Module):
    """A linear layer whose result is off by a known amount, everywhere or at one number."""

    def __init__(self, by=0.0, everywhere=True, steeper=0.0):
        super().__init__()
        self.linear, self.by, self.everywhere, self.steeper = nn.Linear(4, 4), by, everywhere, steeper

    def forward(self, x, ids):
        y = self.linear(x)
        y = y + self.steeper * (y - y.detach())  # the same result, a larger gradient
        off = torch.zeros_like(y)
        off.view(-1)[:: 1 if self.everywhere else y.numel()] = self.by
        return y + off


class Seen(nn.Module):
    """A module without inputs of floats that notes the weights with which it is called."""

    calls: ClassVar[list] = []  # of the class, so that copies share it

    def __init__(self):
        super().__init__()
        self.table, self.norm, self.linear = nn.Embedding(5, 64), nn.LayerNorm(64), nn.Linear(64, 4)

    def forward(self, ids):
        parts = ((part, getattr(self, part)) for part in ("table", "norm", "linear"))
        tensors = ((f"{part}.{kind}", getattr(m, kind, None)) for part, m in parts for kind in ("weight", "bias"))
        Seen.calls.append({name: t.detach().clone() for name, t in tensors if t is not None})
        return self.linear(self.norm(self.table(ids)))


class Plain(Part):
    """The right layer that the faulty ones of some kinds are compared with."""

    def __init__(self, **more):
        super().__init__("plain", **more)


def inputs_of(generator):
    return torch.randn(2, 3, 4, generator=generator), torch.tensor([[2, 1, 0], [3, 0, 0]])


def outcome(answer, own, reference, generator, what, inputs=None):
    """Return what the answer gives, as a float; Fault, in words, if it is none or an exception."""
    try:
        found = answer(own, reference, inputs_of(generator) if inputs is None else inputs, generator)
    except Exception as error:
        raise Fault(f"with {what} your function raises {type(error).__name__}: {error}") from error
    if found is None:
        raise Fault("your function returns None: is a `return` missing at its end?")
    if not isinstance(found, float):
        raise Fault(f"expected a float; yours is {describe(found)}. `.item()` makes one of a tensor.")
    return found


def false_alarms(answer, generator, cases):
    """Fault where equal modules are said to differ."""
    for (own, reference), what in cases:
        found = outcome(answer, own, reference, generator, what)
        if not found <= 1e-10:
            raise Fault(f"{what}: they compute the same, so the difference must be 0 up to rounding in float64.")
    return True


def let_pass(answer, generator, cases):
    """Fault with the faulty modules in which no difference was found."""
    missed = [what for own, reference, what in cases if not outcome(answer, own, reference, generator, what) > 1e-6]
    if missed:
        raise Fault(f"it finds no difference in {'; nor in '.join(missed)}.")
    return True


def weights_seen(answer, generator, seed):
    """Return the weights with which the answer calls two equal modules, those that they were made with, its result."""
    pair, Seen.calls[:] = (Seen(), Seen()), []
    made = [dict(module.named_parameters()) for module in pair]
    made = [{name: p.detach().clone() for name, p in one.items()} for one in made]
    torch.manual_seed(seed)
    found = outcome(answer, *pair, generator, "two equal modules", (torch.tensor([[2, 1, 0], [3, 0, 0]]),))
    if len(Seen.calls) < 2:
        raise Fault("your function does not call both modules.")
    return Seen.calls[0], Seen.calls[-1], made, found


def equal_modules(answer, generator):
    one, other, _, found = weights_seen(answer, generator, 3)
    if any(not torch.equal(one[name], other[name]) for name in one):
        raise Fault("the two modules are called with different weights.")
    if not found <= 1e-10:
        raise Fault("two equal modules with equal weights, without inputs of floats, must not differ.")
    return false_alarms(
        answer,
        generator,
        [
            ((Part(), Part()), "two modules of one class, each with its own first weights"),
            ((Part(), Part(order=-1)), "two modules with the same names, registered in another order"),
        ],
    )


def known_differences(answer, generator):
    cases = [(0.25, True), (-0.5, True), (0.75, False)]
    found = [outcome(answer, Shifted(*case), Shifted(), generator, "a known difference") for case in cases]
    return torch.tensor(found, dtype=torch.float64)


def all_weights(answer, generator):
    (first, _, made, _), (again, *_) = (weights_seen(answer, torch.Generator().manual_seed(8), seed) for seed in (1, 2))
    kept = [name for name, t in first.items() if any(torch.equal(t.float(), module[name]) for module in made)]
    if len(kept) == len(first):
        raise Fault("no weight is drawn.")
    if kept:
        raise Fault(f"these parameters keep the values that they were made with: {', '.join(kept)}.")
    if first["linear.weight"].double().std() < 1e-6:
        raise Fault("all numbers of a parameter are the same: draw each of them.")
    if any(not torch.equal(t, again[name]) for name, t in first.items()):
        raise Fault("with equal generators, two calls draw other weights.")
    if torch.equal(first["linear.weight"], weights_seen(answer, generator, 1)[0]["linear.weight"]):
        raise Fault("with another generator, the same weights are drawn.")
    size = first["linear.weight"].double().square().mean().sqrt().item()
    if not 0.4 < 8 * size < 2.5:
        raise Fault(
            f"a weight of the shape (4, 64) is drawn with the size {size:.2g}; expected about 1/√64 = 0.125, from the "
            f"last dimension."
        )
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        modules, g = (Part("norms"), Plain()), torch.Generator().manual_seed(8)
        torch.manual_seed(seed + 2)
        drawn.append(outcome(answer, *modules, g, "two modules that differ"))
    if abs(drawn[0] - drawn[1]) > 1e-10:
        raise Fault(
            "with equal generators, two calls give different results: some random number does not come from "
            "`generator`. Which one?"
        )
    return let_pass(
        answer,
        generator,
        [
            (Part("norms"), Plain(), "a layer whose two norms are exchanged"),
            (Part("bias"), Plain(), "a layer that leaves a bias out"),
            (Part("affine"), Plain(), "a norm that adds its bias before it multiplies by its weight"),
        ],
    )


def precision(answer, generator):
    found = outcome(answer, Shifted(3e-9), Shifted(), generator, "a small difference")
    if not 2.9e-9 < found < 3.1e-9:
        raise Fault(
            "every number of one module is too large by 3e-9, and your function does not give that. In float32 the "
            "rounding "
            "alone is larger."
        )
    return true_gelu(answer, generator)


def true_gelu(answer, generator):
    return let_pass(answer, generator, [(Part("gelu"), Plain(), "a layer with the tanh formula of GELU")])


def without_dropout(answer, generator):
    pair = (Part(dropout=0.5).train(), Part(dropout=0.5).train())
    return false_alarms(answer, generator, [(pair, "two equal modules in training mode, with dropout")])


def frozen(module):
    """Return the module with its first weight frozen."""
    module.linear.weight.requires_grad_(False)
    return module


def gradients(answer, generator):
    let_pass(
        answer,
        generator,
        [
            (Part("branch"), Plain(), "a layer with a branch that no gradient goes through"),
            (Part("matrix"), Plain(), "a layer whose matrix gets no gradient"),
            (Part("vector"), Plain(), "a layer whose bias gets no gradient"),
            (Part("behind a softmax"), Part("softmax"), "a layer that ends in a softmax and gets no gradient"),
            (Part("input"), Plain(), "a layer that gives its input too small a gradient"),
        ],
    )
    if outcome(answer, Shifted(1e-3, steeper=100.0), Shifted(), generator, "two differences") < 0.1:
        raise Fault(
            "where results differ by 0.001 and gradients by much more, your function does not give the larger of them."
        )
    false_alarms(
        answer,
        generator,
        [
            (
                (frozen(Plain()), frozen(Plain())),
                "two equal layers with a frozen weight (on a copy, `requires_grad_()` makes it an ordinary one)",
            )
        ],
    )
    cases = [(frozen(Part("matrix")), frozen(Plain()), "a layer whose frozen matrix would get no gradient")]
    return let_pass(answer, generator, cases)


def not_comparable(answer, generator):
    cases = [
        (Part("nan"), Part(), "a result with nan"),
        (Part("nan"), Part("nan"), "two results with nan"),
        (Part("shape"), Part(), "results of the shapes (1, 3, 4) and (2, 3, 4)"),
        (Part("another part"), Part(), "a module that has one more part"),
        (Part(), Part("another part"), "a reference that has one more part"),
    ]
    missed = [what for own, ref, what in cases if outcome(answer, own, ref, generator, what) != math.inf]
    if missed:
        raise Fault(f"it does not return math.inf for {'; nor for '.join(missed)}.")
    narrow, wide = Part(), Part()
    narrow.inside, wide.inside = nn.Linear(2, 3), nn.Linear(2, 5)
    if outcome(answer, narrow, wide, generator, "parameters of the shapes (3, 2) and (5, 2)") != math.inf:
        raise Fault("it does not return math.inf for parameters of the shapes (3, 2) and (5, 2).")
    return True


def nothing_changed(answer, generator):
    x, ids = inputs_of(generator)
    own, reference, inputs = Part().train(), Part().eval(), (x.double(), ids)
    weights = [{n: p.clone() for n, p in m.named_parameters()} for m in (own, reference)]
    given = [x.clone() for x in inputs]
    answer(own, reference, inputs, generator)
    for module, before, name in zip((own, reference), weights, ("own", "reference"), strict=True):
        now = dict(module.named_parameters())
        if any(p.dtype != torch.float32 or not torch.equal(p, before[n]) for n, p in now.items()):
            raise Fault(f"the weights of `{name}` are changed: whoever tests a trained model finds it destroyed.")
        if any(p.grad is not None for p in now.values()):
            raise Fault(f"gradients are left behind in `{name}`: the next training step would add to them.")
    if not own.training or reference.training:
        raise Fault("a module was put into another mode (train or eval) and left there. Work on copies.")
    if any(x.requires_grad for x in inputs):
        raise Fault("an input of float64 requires a gradient afterwards.")
    if any(x.dtype != y.dtype or not torch.equal(x, y) for x, y in zip(inputs, given, strict=True)):
        raise Fault("the inputs are changed in place.")
    return True


# Mistakes: the test with one part exchanged.


def comparison(
    copies=True,
    weights="the same for both",
    dtype=torch.float64,
    evaluates=True,
    of="all",
    scalar="weighted",
    measure=lambda a, b: (a - b).abs().max().item(),
    nan_is=math.inf,
    shapes=True,
    names=True,
    inputs_are="copies",
    random="the generator's",
    slopes="one",
    scale=lambda shape: shape[-1] ** -0.5,
    thaws=True,
    missing="0",
):
    """Return a parity test; each switch is a part that a learner may write otherwise."""

    def largest_difference(own, reference, inputs, generator):
        pair = [copy.deepcopy(m) if copies else m for m in (own, reference)]
        for module in pair:
            module.to(dtype).train(not evaluates and module.training)
        mine, theirs = (dict(m.named_parameters()) for m in pair)
        if names and {n: p.shape for n, p in mine.items()} != {n: p.shape for n, p in theirs.items()}:
            return math.inf
        with torch.no_grad():
            if weights == "by their order":
                theirs = dict(zip(mine, theirs.values(), strict=False))
            for name in mine if names else [n for n in mine if n in theirs]:
                source = {"global": None, "its own": torch.Generator().manual_seed(0)}.get(random, generator)
                drawn = torch.randn(mine[name].shape, generator=source) * scale(mine[name].shape)
                if weights in ("the same for both", "by their order") or (weights == "matrices" and drawn.ndim > 1):
                    mine[name].copy_(drawn)
                if weights != "each its own":
                    theirs[name].copy_(mine[name])
        found, slope = [], None
        for p in (*mine.values(), *theirs.values()) if thaws else ():
            p.requires_grad_()
        shared = [x.to(dtype).requires_grad_() if x.is_floating_point() else x for x in copy.deepcopy(inputs)]
        for module, parameters in zip(pair, (mine, theirs), strict=True):
            mine_too = inputs if inputs_are == "converted" else copy.deepcopy(inputs)
            given = [x.to(dtype).requires_grad_() if x.is_floating_point() else x for x in mine_too]
            given = shared if inputs_are == "shared" else given
            result = module(*given)
            source = None if random == "slopes" else generator
            slope = torch.randn(result.shape, generator=source) if slope is None or slopes == "two" else slope
            if shapes and result.shape != slope.shape:
                return math.inf
            wanted = [parameters[n] for n in mine if n in parameters] if of != "inputs" else []
            wanted = [p for p in wanted if p.ndim > 1] if of == "matrices" else wanted
            wanted += [x for x in given if x.is_floating_point()] if of != "parameters" else []
            total = (result * (slope if scalar == "weighted" else 1)).sum()
            total = total.square() if scalar == "squared" else total
            if inputs_are == "shared":
                (total + sum(0 * x.sum() for x in wanted)).backward()
            wanted = [x for x in wanted if x.requires_grad]
            grads = [x.grad for x in wanted]
            if inputs_are != "shared":
                zero = torch.zeros((), requires_grad=True) if missing == "skipped" else sum(0 * x.sum() for x in wanted)
                grads = torch.autograd.grad(total + zero, wanted, allow_unused=missing == "skipped")
            grads = [g if g is None else g.clone() for g in grads]
            found.append([*([] if of == "gradients" else [result]), *(grads if of != "results" else ())])
        worst = 0.0
        for a, b in zip(*found, strict=False):
            one = 0.0 if a is None or b is None else measure(a, b)
            worst = max(worst, one if math.isfinite(one) else nan_is)
            if of == "results, else gradients" and 1e-12 < worst < math.inf:
                return worst
        return worst

    return largest_difference


def by_state(own, reference, inputs, generator):
    """Another way: one state dict for both, and a functional call."""
    own, reference = copy.deepcopy(own).double().eval(), copy.deepcopy(reference).double().eval()
    shapes = [{n: p.shape for n, p in m.named_parameters()} for m in (own, reference)]
    if shapes[0] != shapes[1]:
        return math.inf
    state = {n: torch.randn(shape, generator=generator).double() / shape[-1] ** 0.5 for n, shape in shapes[0].items()}
    results, gradient = [], []
    for module in (own, reference):
        leaves = {n: t.clone().requires_grad_() for n, t in state.items()}
        xs = tuple(x.detach().clone().double().requires_grad_() if x.is_floating_point() else x for x in inputs)
        results.append(torch.func.functional_call(module, leaves, xs))
        if results[-1].shape != results[0].shape:
            return math.inf
        slope = torch.linspace(-1, 2, results[-1].numel()).double().view(results[-1].shape).sin()
        if results[-1].requires_grad:
            (results[-1] * slope).sum().backward()
        every = [*leaves.values(), *(x for x in xs if x.is_floating_point())]
        gradient.append([torch.zeros_like(x) if x.grad is None else x.grad for x in every])
    pairs = [tuple(results), *zip(*gradient, strict=True)]
    if not all(bool(t.isfinite().all()) for pair in pairs for t in pair):
        return math.inf
    return max((a - b).abs().max().item() for a, b in pairs)


def by_backward(own, reference, inputs, generator):
    """Another way: modules in one list, `.grad` after backward(), what is not finite found in the differences."""
    pair = copy.deepcopy([own, reference])
    sizes = [{name: tuple(p.shape) for name, p in module.named_parameters()} for module in pair]
    if sizes[0] != sizes[1]:
        return float("inf")
    weights = {
        name: (2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1) * (3 / size[-1]) ** 0.5
        for name, size in sorted(sizes[0].items())
    }
    factors, sides = None, []
    for module in pair:
        module.to(torch.float64).eval().requires_grad_(True)
        module.zero_grad()
        module.load_state_dict(weights, strict=False)
        given = [x.detach().clone() for x in inputs]
        given = [x.to(torch.float64).requires_grad_() if x.dtype.is_floating_point else x for x in given]
        result = module(*given)
        if factors is None:
            factors = torch.rand(result.shape, generator=generator, dtype=torch.float64) + 0.5
        if result.shape != factors.shape:
            return float("inf")
        if result.requires_grad:
            result.mul(factors).sum().backward()
        leaves = [dict(module.named_parameters())[name] for name in weights]
        leaves += [x for x in given if x.requires_grad]
        sides.append([result.detach(), *(torch.zeros_like(x) if x.grad is None else x.grad for x in leaves)])
    worst = torch.stack([(a - b).abs().max() for a, b in zip(*sides, strict=True)]).max()
    return float("inf") if worst.isnan() else float(worst)


parity_test = Build(
    id="24.1",
    course=largest_difference,
    stages=(
        Stage("equal modules", equal_modules),
        Stage("known differences", known_differences),
        Stage("all weights", all_weights),
        Stage("precision", precision),
        Stage("dropout", without_dropout),
        Stage("gradients", gradients),
        Stage("what cannot be compared", not_comparable),
        Stage("nothing changed", nothing_changed),
    ),
    mistakes=(
        Mistake(
            "each its own weights",
            comparison(weights="each its own"),
            "the two modules keep different weights, so equal ones differ too. Draw each parameter once, and copy it "
            "into both.",
            "a converted model compared with unconverted weights",
        ),
        Mistake(
            "two slopes",
            comparison(slopes="two"),
            "both modules have the same weights, and equal ones differ all the same. Are the random factors of the "
            "gradients drawn once for each module? Draw them once, for both.",
            "torch.randn inside of the function that is called for each module",
        ),
        Mistake(
            "shared inputs",
            comparison(inputs_are="shared"),
            "equal modules differ as soon as an input has a gradient: backward() *adds* to `.grad`, and both modules "
            "were given the same tensor. Copy the inputs for each module.",
            "one list of inputs, two calls of backward()",
        ),
        Mistake(
            "by their order",
            comparison(weights="by their order"),
            "the parameters are paired by their order. Two classes may define the same parts in another order: pair "
            "them by "
            "name.",
            "zip(own.parameters(), reference.parameters()), the usual one-liner",
        ),
        Mistake(
            "the mean",
            comparison(measure=lambda a, b: (a - b).abs().mean().item()),
            "you take the mean of the differences. One wrong row in a thousand hardly moves a mean; take the largest.",
            "mean in place of max: a mean absolute error as a parity test",
        ),
        Mistake(
            "no absolute value",
            comparison(measure=lambda a, b: (a - b).max().item()),
            "you take the largest difference without its absolute value, so a result that is too small never counts.",
            "(a - b).max(), where abs() was forgotten",
        ),
        Mistake(
            "the sum",
            comparison(measure=lambda a, b: (a - b).abs().sum().item()),
            "you add the differences up, so a larger batch looks worse. Take the largest.",
            "an L1 norm taken for the largest difference",
        ),
        Mistake(
            "the norm",
            comparison(measure=lambda a, b: (a - b).norm().item()),
            "you take the Euclidean norm of the differences, which grows with the number of values. Take the largest.",
            "torch.dist or torch.linalg.norm",
        ),
        Mistake(
            "the root of the mean square",
            comparison(measure=lambda a, b: (a - b).square().mean().sqrt().item()),
            "you take the root of the mean square. It hides one wrong number among many right ones; take the largest.",
            "a mean squared error as a parity test",
        ),
        Mistake(
            "relative",
            comparison(measure=lambda a, b: ((a - b).abs() / (b.abs() + 1e-12)).max().item()),
            "you divide the difference by the value. The text asks for the absolute difference; near a value of 0, a "
            "relative "
            "one is rounding and nothing else.",
            "rtol without atol",
        ),
        Mistake(
            "weights as they are",
            comparison(weights="as they are"),
            "no weight is drawn. As they are made, these norms have weights 1 and biases 0, and a norm that adds its "
            "bias before it multiplies gives the same results and gradients as a right one. Draw every parameter, "
            "norms and biases too.",
            "weights copied from one module to the other right after they were made",
        ),
        Mistake(
            "matrices only",
            comparison(weights="matrices"),
            "vectors are not drawn: norms and biases keep the values that they are made with, a norm 1 and 0, and "
            "with these a norm that adds its bias before it multiplies cannot be told from a right one.",
            "initialisation by `if p.ndim > 1`, as for weight decay",
        ),
        Mistake(
            "global random numbers",
            comparison(random="global"),
            "the weights come from torch's global random numbers, so a difference that was found once cannot be found "
            "again. Draw from `generator`: torch.randn(shape, generator=generator).",
            "randn_like, which knows no generator, or nn.init.normal_",
        ),
        Mistake(
            "global factors",
            comparison(random="slopes"),
            "with equal generators, two calls give different results. The weights are the same in both, so the random "
            "factors of the gradients do not come from `generator`.",
            "randn_like(result) for the factors",
        ),
        Mistake(
            "a generator of its own",
            comparison(random="its own"),
            "your function makes its own generator: with another `generator` it draws the same weights again, and a "
            "second test tests nothing new. Draw from the one that it is given.",
            "a fixed seed inside of a test",
        ),
        Mistake(
            "no scale",
            comparison(scale=lambda shape: 1.0),
            "the weights are as large as 1 whatever their shape. About 1/√(last dimension) is asked for: with larger "
            "ones the results grow from layer to layer, and a softmax gets one-sided and hides what differs.",
            "torch.randn(p.shape), and nothing else",
        ),
        Mistake(
            "too small",
            comparison(scale=lambda shape: 1.0 / shape[-1]),
            "you divide by the last dimension, not by its root: the weights are too small, and with them the "
            "differences.",
            "the root forgotten",
        ),
        Mistake(
            "float32",
            comparison(dtype=torch.float32),
            "you compute in float32, whose rounding hides differences of 1e-8. `.double()` turns a module and an input "
            "to float64.",
            "parity at 1e-5 in float32, as most conversion scripts do it",
        ),
        Mistake(
            "training mode",
            comparison(evaluates=False),
            "dropout is on, so even equal modules differ: put both into eval mode.",
            "a converted model in training mode",
        ),
        Mistake(
            "results only",
            comparison(of="results"),
            "you compare results and no gradients. A layer that gives the right numbers and learns nothing passes.",
            "parity tests of forward passes only",
        ),
        Mistake(
            "gradients only",
            comparison(of="gradients"),
            "you compare gradients and no results. A constant that is added to every number has no gradient: compare "
            "the "
            "results, too.",
            "torch.autograd.gradcheck taken for a test of the result",
        ),
        Mistake(
            "gradients where results agree",
            comparison(of="results, else gradients"),
            "you look at the gradients only where the results agree. The largest of *all* differences is asked for: a "
            "small one in a result may hide a large one in a gradient.",
            "an early return as soon as something differs",
        ),
        Mistake(
            "a plain sum",
            comparison(scalar="plain"),
            "your gradients are those of the plain sum of the results. Behind a softmax that sum is always 1, so its "
            "gradients are "
            "0, right or wrong. Weigh the results with random numbers.",
            "y.sum().backward() as the standard test of gradients",
        ),
        Mistake(
            "parameters only",
            comparison(of="parameters"),
            "you compare the gradients of the parameters and not those of the inputs. What the layer passes on to the "
            "layers "
            "below it is the input's gradient.",
            "for p in own.parameters(): p.grad, and nothing else",
        ),
        Mistake(
            "frozen ones skipped",
            comparison(thaws=False),
            "a frozen parameter is left out of the gradients. A module is tested as it will be trained one day: call "
            "requires_grad_() on the parameters of your copies.",
            "[p for p in module.parameters() if p.requires_grad]",
        ),
        Mistake(
            "a missing one skipped",
            comparison(missing="skipped"),
            "where only one of the two modules has a gradient, your function does not compare. A gradient that is None "
            "counts as 0, and the other module's differs from 0.",
            "if p.grad is None or q.grad is None: continue",
        ),
        Mistake(
            "matrices' gradients",
            comparison(of="matrices"),
            "the gradients of vectors, the biases and norms, are not compared. A bias that does not learn passes.",
            "[p for name, p in named_parameters() if name.endswith('weight')]",
        ),
        Mistake(
            "inputs only",
            comparison(of="inputs"),
            "you compare the gradients of the inputs and not those of the parameters.",
            "torch.autograd.grad(y, x), and nothing else",
        ),
        Mistake(
            "nan passes",
            comparison(nan_is=0.0),
            "nan is taken for no difference: every comparison with nan is False, so `nan > 1e-10` is too. Return "
            "math.inf "
            "where anything is not finite.",
            "max() over values with nan; assert not difference > 1e-10",
        ),
        Mistake(
            "broadcast",
            comparison(shapes=False),
            "results of different shapes are subtracted: torch broadcasts (1, 3, 4) to (2, 3, 4) without a word. "
            "Compare the "
            "shapes first.",
            "a loss or a test of (B, 1) against (B,), broadcast to (B, B)",
        ),
        Mistake(
            "what both have",
            comparison(names=False),
            "a part that only one module has is skipped. Then the modules are not the same: return math.inf.",
            "load_state_dict(strict=False)",
        ),
        Mistake(
            "no copies",
            comparison(copies=False),
            "the weights of `own` are changed: whoever tests a trained model finds it destroyed. Work on copies: "
            "copy.deepcopy.",
            "a test that draws weights into the model that it was given",
        ),
        Mistake(
            "converted inputs",
            comparison(inputs_are="converted"),
            "an input of float64 requires a gradient afterwards: `x.double()` is no copy where x is float64 already. "
            "Use x.detach().clone().double().",
            ".double() or .to(dtype) taken for a copy",
        ),
    ),
    hints=(
        "Copies first: `copy.deepcopy(own).double().eval()`. Then `dict(module.named_parameters())` of both.",
        "Draw under `torch.no_grad()`: `p.copy_(torch.randn(p.shape, generator=generator) * p.shape[-1] ** -0.5)`, "
        "and copy p "
        "into the other module's parameter of that name.",
        "A scalar for the gradients: `(result * slope).sum()`, with the same random `slope` for both modules.",
        "`torch.autograd.grad(scalar, wanted)` gives all gradients and leaves none behind. Where something may have "
        "no gradient, "
        "add `0 * x.sum()` for each x that is wanted.",
        "`(a - b).isfinite().all()` is False where one of them is nan or infinite.",
    ),
    praise="This is a test that can fail. It is what the course's own parts were held to.",
    other_ways=(by_state, by_backward),
)


# --- 24.2 find the bug: five packages, one fault in each --------------------------------------------------------------

PARTS = ("scaled_dot_product_attention", "MultiHeadAttention", "EncoderLayer", "Encoder", "MaskedLanguageModel")


def package(letter: str) -> SimpleNamespace:
    """Return package A, B, C, D or E: five parts, each made of the package's own, and one of them is wrong."""

    def attention(q, k, v, mask=None, dropout=0.0):
        if letter == "E":
            q = q / q.shape[-1] ** 0.5  # divided by D in the end
        return core_attention.scaled_dot_product_attention(q, k, v, mask, dropout)

    class MultiHeadAttention(core_attention.MultiHeadAttention):
        def forward(self, x, mask=None, return_weights=False):
            B, T, C = x.shape
            q, k, v = self.qkv(x).view(B, T, 3, self.H, C // self.H).permute(2, 0, 3, 1, 4)
            if return_weights:
                heads, weights = attention(q, k, v, mask)
            else:
                heads, weights = F.scaled_dot_product_attention(q, k, v, mask), None
            heads = heads.mT if letter == "A" else heads.transpose(1, 2)  # A: (B, H, D, T) is taken for (B, T, H, D)
            return self.out(heads.reshape(B, T, C)), weights

    class EncoderLayer(core_encoder.EncoderLayer):
        def __init__(self, config):
            super().__init__(config)
            self.attention = MultiHeadAttention(config.width, config.heads, config.dropout)

        def forward(self, x, mask=None, return_weights=False):
            if letter == "B" and not self.pre:
                attended, weights = self.attention(x, mask, return_weights)
                x = self.norm2(x + self.dropout(attended))
                return self.norm1(x + self.dropout(self.feed_forward(x))), weights
            return super().forward(x, mask, return_weights)

    class Encoder(core_encoder.Encoder):
        def __init__(self, config):
            super().__init__(config)
            self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))

        def forward(self, ids, mask=None, token_types=None, return_inside=False):
            if letter == "D":
                mask = torch.ones_like(ids, dtype=torch.bool)
            return super().forward(ids, mask, token_types, return_inside)

    class MaskedLanguageModel(core_heads.MaskedLanguageModel):
        def loss(self, ids, labels, mask=None):
            loss = super().loss(ids, labels, mask)
            return loss * (labels != IGNORE).sum() / labels.numel() if letter == "C" else loss

    parts = (attention, MultiHeadAttention, EncoderLayer, Encoder, MaskedLanguageModel)
    return SimpleNamespace(**dict(zip(PARTS, parts, strict=True)))


FAULTS = dict(zip("EABDC", PARTS, strict=True))
FAULTS = {letter: FAULTS[letter] for letter in "ABCDE"}


def about_faults(guess):
    """Say which letters are wrong, and in which way."""
    if set(guess) != set(FAULTS):
        return f"The keys are the letters {', '.join(FAULTS)}; yours are {', '.join(map(str, guess)) or 'none'}."
    unknown = [name for name in guess.values() if name not in PARTS]
    if unknown:
        return f"{unknown[0]!r} is none of the five names: {', '.join(PARTS)}."
    said = []
    for letter, name in guess.items():
        if PARTS.index(name) > PARTS.index(FAULTS[letter]):
            said.append(f"{letter}: {name} may well give other numbers, but look at what it is made of")
        elif name != FAULTS[letter]:
            said.append(f"{letter}: {name} is right there")
    return f"{'; '.join(said)}."


broken_parts = Prediction(
    id="24.2",
    right=FAULTS,
    mistakes=(
        Mistake(
            "the whole",
            {
                "A": "MaskedLanguageModel",
                "B": "MaskedLanguageModel",
                "C": "MaskedLanguageModel",
                "D": "MaskedLanguageModel",
            }
            | {"E": "MaskedLanguageModel"},
            "the model differs wherever something in it does. Ask of each package for the *innermost* part that "
            "differs: what is "
            "made of a faulty part differs too.",
            "blaming the part where the difference was noticed",
        ),
        Mistake(
            "one row further out",
            {"A": "EncoderLayer", "B": "Encoder", "C": "MaskedLanguageModel", "D": "MaskedLanguageModel"}
            | {"E": "MultiHeadAttention"},
            "each time you name what *contains* the faulty part. It differs because of what it is made of.",
            "blaming the part where the difference was noticed",
        ),
    ),
    hints=(
        "Which parts does a package's Encoder consist of? If the layer is wrong, the encoder differs as well.",
        "For one package: `for name, pair in pairs_of(check.package('A')).items(): print(name, "
        "largest_difference(*pair, seeded(0)))`.",
        "Name the first part, in the order of the table, that differs.",
    ),
    praise="The innermost part that differs is the one to repair.",
    about=about_faults,
)


# --- 24.3 predict: the price of the real thing ------------------------------------------------------------------------

LAYERS = 12 * (12 * 768**2 + 13 * 768)  # numbers in the layers of BERT-base
TOKENS = 256 * (900_000 * 128 + 100_000 * 512)
YEAR = 365.25 * 24 * 3600
YEARS = 6 * LAYERS * TOKENS / 50e9 / YEAR


def years_off(guess):
    """Say how far a wrong number of years is off."""
    guess = float(guess)
    if not 0 < guess < math.inf:
        return "The number of years is positive and finite."
    factor = max(guess / YEARS, YEARS / guess)
    tens = math.log10(factor)
    power = " (a power of ten: look at the units)" if tens > 0.9 and abs(tens - round(tens)) < 0.01 else ""
    return f"It is too {'small' if guess < YEARS else 'large'} by a factor of {factor:.2f}{power}."


class Years(Prediction):
    """A prediction whose mistakes must be met within 1 %, and not within the tolerance of the right answer."""

    def matches(self, guess, value):
        if value is self.right or not comparable(guess, value):
            return super().matches(guess, value)
        return abs(float(guess) - value) <= 0.01 * value


years_of_training = Years(
    id="24.3",
    right=YEARS,
    tolerance=0.5,
    mistakes=(
        Mistake(
            "a third",
            YEARS / 3,
            "that is a third. Either you counted the forward pass alone, 2 operations for each weight and token, where "
            "the backward pass takes twice as much again (6 in all, lesson 08); or attention's four matrices without "
            "the feed-forward network.",
            "2ND for inference taken for the 6ND of training; 4 C² taken for a layer",
        ),
        Mistake(
            "two thirds",
            YEARS * 2 / 3,
            "that is two thirds, as with 8 C² numbers a layer: either attention's four matrices are missing, or one of "
            "the feed-forward network's two. (Or you counted the backward pass without the forward pass.)",
            "8 C² taken for a layer; 4 operations, for the backward pass",
        ),
        Mistake(
            "half",
            YEARS / 2,
            "that is half. Is the feed-forward network as wide as the layer in your count? It is four times as wide: 8 "
            "C² numbers, and 12 C² with attention's. (Or you took 3 operations, without the multiply-and-add's two.)",
            "two matrices of 768 by 768 for the feed-forward network",
        ),
        Mistake(
            "a sixth",
            YEARS / 6,
            "that is a sixth: one operation for each number and token, where 6 are asked for (lesson 08).",
            "N times D, without the 6",
        ),
        Mistake(
            "twice",
            YEARS * 2,
            "that is twice as much. BERT-base has 12 layers (BERT-large has 24), and 6 operations for each number "
            "and token contain both multiplications and additions.",
            "24 layers; multiply-and-add counted twice over",
        ),
        Mistake(
            "four matrices a head",
            YEARS * 56 / 12,
            "you counted four matrices of C by C for each of the 12 heads. Heads share them: each has C/12 columns.",
            "768 by 768 for each head",
        ),
        Mistake(
            "one matrix in attention",
            YEARS * 9 / 12,
            "that is 9 C² numbers a layer. Attention has four matrices (queries, keys, values, output), not one.",
            "attention taken for one matrix",
        ),
        Mistake(
            "no output matrix",
            YEARS * 11 / 12,
            "that is 11 C² numbers a layer: attention's output matrix is missing, the fourth one.",
            "queries, keys and values alone",
        ),
        Mistake(
            "one layer",
            YEARS / 12,
            "that is one layer. BERT-base has 12.",
            "the count of a layer taken for that of the model",
        ),
        Mistake(
            "the long steps left out",
            6 * LAYERS * 256 * 900_000 * 128 / 50e9 / YEAR,
            "you left out the 100,000 steps with 512 tokens. They are a tenth of the steps and almost a third of the "
            "tokens.",
            "the first sentence of the recipe alone",
        ),
        Mistake(
            "the short steps left out",
            6 * LAYERS * 256 * 100_000 * 512 / 50e9 / YEAR,
            "you left out the 900,000 steps with 128 tokens.",
            "the second phase alone",
        ),
        Mistake(
            "exchanged",
            6 * LAYERS * 256 * (900_000 * 512 + 100_000 * 128) / 50e9 / YEAR,
            "you exchanged the two lengths: nine steps in ten have 128 tokens, and one has 512.",
            "the order of two pairs of numbers",
        ),
        Mistake(
            "the mean of both lengths",
            6 * LAYERS * 256 * 1_000_000 * 320 / 50e9 / YEAR,
            "you took 320 tokens, the mean of the two lengths. Nine steps in ten have 128, so weigh them.",
            "an unweighted mean",
        ),
        Mistake(
            "no length",
            6 * LAYERS * 256 * 1_000_000 / 50e9 / YEAR,
            "the length is missing: a step reads 256 sequences of 128 or 512 tokens each.",
            "sequences taken for tokens",
        ),
        Mistake(
            "one sentence a step",
            YEARS / 256,
            "the batch is missing: each step reads 256 sequences.",
            "steps × length, without the batch",
        ),
        Mistake(
            "512 tokens always",
            6 * LAYERS * 256 * 1_000_000 * 512 / 50e9 / YEAR,
            "you took 512 tokens in all steps. Nine steps in ten have 128.",
            "the maximum length taken for the length",
        ),
        Mistake(
            "128 tokens always",
            6 * LAYERS * 256 * 1_000_000 * 128 / 50e9 / YEAR,
            "you took 128 tokens in all steps. One step in ten has 512, and these tokens are almost a third of all.",
            "the usual length taken for all",
        ),
        Mistake(
            "days",
            YEARS * 365.25,
            "that is the number of days. Years are asked for.",
            "days taken for years",
        ),
        Mistake("months", YEARS * 12, "that is the number of months. Years are asked for.", "months taken for years"),
        Mistake(
            "minutes",
            YEARS * YEAR / 60,
            "that is the number of minutes. Years are asked for.",
            "minutes taken for years",
        ),
        Mistake(
            "seconds", YEARS * YEAR, "that is the number of seconds. Years are asked for.", "seconds taken for years"
        ),
        Mistake(
            "hours", YEARS * 365.25 * 24, "that is the number of hours. Years are asked for.", "hours taken for years"
        ),
        Mistake(
            "with the tables",
            YEARS * 110 / (LAYERS / 1e6),
            "you counted all 110 million parameters. The tables of words and positions are looked up, not multiplied: "
            "count those in the layers.",
            "6ND with the N of the abstract",
        ),
    ),
    hints=(
        "How many tokens are read in all? 256 × (900,000 × 128 + 100,000 × 512).",
        "A layer has 12 C² + 13 C numbers: 4 C² + 4 C in attention, 8 C² + 5 C in the feed-forward network, 4 C in "
        "two norms.",
        "Operations: 6 × numbers × tokens. Divide by 50e9, and by the seconds of a year.",
    ),
    praise="A number that nobody waits for. This is what hardware, and a smaller question, are for.",
    about=years_off,
)


# --- 24.4 the build: a run that can be interrupted --------------------------------------------------------------------


def pretrain_resumable(model, batches, steps, lr, warmup, path, every=100, stop=None):
    """As lesson 06's `pretrain`, saved to the file `path` on the way; goes on where the file ends -> all losses."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    plan, losses = [steps, lr, warmup], []
    if os.path.exists(path):
        saved = torch.load(path, weights_only=True)
        if saved["plan"] != plan:
            raise ValueError(f"{path} belongs to another run: steps, lr, warmup are {saved['plan']}, not {plan}")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["random"])
        losses = saved["losses"]
    optimizer.zero_grad()
    model.train()
    end = steps if stop is None else min(stop, steps)
    for step in range(len(losses), end):
        factor = min((step + 1) / max(1, warmup), (steps - step) / max(1, steps - warmup), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr * factor
        loss = model.loss(**batches(step))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if len(losses) % every == 0 or len(losses) == end:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses, "plan": plan}
            torch.save(state | {"random": torch.get_rng_state()}, f"{path}.part")
            os.replace(f"{path}.part", path)  # whole or not at all
    model.eval()
    return losses


class Little(nn.Module):
    """A model of two layers, with dropout if asked; it learns to give back its input."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.first, self.second, self.dropout = nn.Linear(3, 5), nn.Linear(5, 3), nn.Dropout(dropout)

    def loss(self, x):
        return (self.second(self.dropout(self.first(x).tanh())) - x).square().mean()


PLAN = {"steps": 12, "lr": 0.05, "warmup": 4}


class Runs:
    """Runs of an answer in a folder of its own, from the same first weights, and what batches each asked for."""

    def __init__(self, answer, generator, folder, dropout=0.0):
        self.answer, self.path, self.asked = answer, os.path.join(folder, "run.pt"), []
        self.x = torch.randn(40, 4, 3, generator=generator)
        self.seed = int(torch.randint(10_000, (), generator=generator))
        self.model = self.new(dropout)

    def new(self, dropout=0.0):
        torch.manual_seed(self.seed)
        return Little(dropout)

    def batches(self, step):
        if step == self.breaks:
            raise KeyboardInterrupt
        self.asked.append(step)
        return {"x": self.x[step]}

    def go(self, model, every=4, stop=None, breaks=None, **changes):
        """Return the answer's losses, and None where it was interrupted; what it asked for is in `asked`."""
        self.breaks, self.asked = breaks, []
        plan = PLAN | changes
        try:
            return self.answer(
                model, self.batches, plan["steps"], plan["lr"], plan["warmup"], self.path, every=every, stop=stop
            )
        except KeyboardInterrupt:
            return None

    def straight(self, dropout=0.0):
        """Return lesson 06's losses and weights for the same run, without an interruption."""
        model, self.breaks = self.new(dropout), None
        losses = pretrain(model, self.batches, PLAN["steps"], PLAN["lr"], PLAN["warmup"])
        return losses, weights_of(model)


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def in_folder(stage):
    """Give a stage a folder that vanishes; none of its exceptions is a surprise."""

    def run(answer, generator):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            return stage(answer, generator, folder)

    return run


def listed(losses):
    """Return losses as a tensor; Fault where they are no list of floats."""
    if losses is None:
        raise Fault("your function returns None: it must return the list of all losses.")
    if not isinstance(losses, list) or not all(isinstance(loss, float) for loss in losses):
        raise Fault(f"expected a list with one float for each step; yours is {describe(losses)}.")
    return torch.tensor(losses, dtype=torch.float64)


@in_folder
def without_interruption(answer, generator, folder):
    runs = Runs(answer, generator, folder)
    right_losses, right = runs.straight()
    losses = listed(runs.go(runs.model))
    if len(losses) == len(right_losses) and not torch.equal(weights_of(runs.model), right):
        raise Fault(
            "without any interruption, the weights are not those of lesson 06's `pretrain` bit for bit. Start from "
            "that loop, "
            "and leave it as it is."
        )
    return losses, runs.asked, runs.model.training


@in_folder
def when_saved(answer, generator, folder):
    """What the file holds at each step: how many of its steps a second run need not do."""
    runs, seen = Runs(answer, generator, folder), []
    ask = runs.batches

    def batches(step):
        seen.append(os.path.exists(runs.path))
        return ask(step)

    runs.batches = batches
    runs.go(runs.model, every=5)
    rest = sorted(name for name in os.listdir(folder) if name != "run.pt")
    if not os.path.exists(runs.path):
        raise Fault("after the run there is no file at `path`.")
    if rest:
        raise Fault(f"beside the file at `path`, the run leaves others behind: {', '.join(rest)}.")
    try:
        torch.load(runs.path, weights_only=True)
    except Exception as error:
        raise Fault("torch.load(path, weights_only=True) does not read your file.") from error
    first = seen.index(True) if True in seen else None
    if first not in (5, None):
        raise Fault(
            f"with every=5 the first save comes after {first} step{'s' * (first != 1)}, not after 5. When the step "
            f"with the number `step` is done, `step + 1` steps are."
        )
    os.remove(runs.path)
    runs.path = Path(runs.path)
    try:
        runs.go(runs.new(), every=5)
    except Exception as error:
        raise Fault(
            f"`path` may be a str or a Path: with a str your function runs, with a Path it raises "
            f"{type(error).__name__}: {error}. Turn it into one of the two first."
        ) from error
    return seen


@in_folder
def going_on(answer, generator, folder):
    """Stopped after 7 of 12 steps, and on with a new model."""
    runs = Runs(answer, generator, folder)
    _, right = runs.straight()
    first = listed(runs.go(runs.model, stop=7))
    torch.manual_seed(99)
    other = Little()
    losses = listed(runs.go(other))
    if runs.asked == list(range(7, 12)) and len(losses) == 12 and not torch.equal(weights_of(other), right):
        return len(first), losses, runs.asked, "other weights", weights_of(other)
    return len(first), losses, runs.asked, "the same weights", right


@in_folder
def random_numbers(answer, generator, folder):
    """As before, with dropout, and with other random numbers drawn in between."""
    runs = Runs(answer, generator, folder, dropout=0.5)
    _, right = runs.straight(0.5)
    runs.model = runs.new(0.5)
    runs.go(runs.model)
    if not torch.equal(weights_of(runs.model), right):
        raise Fault("with dropout, already an uninterrupted run ends with other weights than lesson 06's `pretrain`.")
    os.remove(runs.path)
    runs.model = runs.new(0.5)
    runs.go(runs.model, stop=6)
    torch.manual_seed(5)
    other = Little(0.5)
    runs.go(other)
    if not torch.equal(weights_of(other), right):
        raise Fault(
            "with dropout, the resumed run ends with other weights than the uninterrupted one. Which random numbers "
            "does it draw "
            "after the interruption?"
        )
    return True


@in_folder
def interrupted(answer, generator, folder):
    """The stop button in step 10, saved every 4 steps; then on."""
    runs = Runs(answer, generator, folder, dropout=0.5)
    _, right = runs.straight(0.5)
    runs.model = runs.new(0.5)
    runs.go(runs.model, every=4, breaks=10)
    if not os.path.exists(runs.path):
        raise Fault("interrupted in step 10 with every=4, and there is no file: save after 4 and after 8 steps.")
    other = Little(0.5)
    losses = listed(runs.go(other, every=4))
    found = runs.asked, len(losses), bool(torch.equal(weights_of(other), right))
    if found != ([8, 9, 10, 11], 12, True):
        return found
    os.remove(runs.path)
    runs.model = runs.new(0.5)
    runs.go(runs.model, every=4, stop=7)
    runs.go(Little(0.5), every=4, breaks=10)
    try:
        runs.go(other, every=5)
    except ValueError as error:
        raise Fault("a file is refused because it was written with another `every`.") from error
    if runs.asked[:1] == [7]:
        raise Fault("stopped after 7 steps, resumed with every=4, interrupted in step 10: there is no save after 8.")
    return *found, runs.asked, bool(torch.equal(weights_of(other), right))


@in_folder
def finished(answer, generator, folder):
    """A run that is done, asked once more; a stop that was passed long ago; a stop behind the end."""
    runs = Runs(answer, generator, folder)
    new = weights_of(runs.model)
    nothing = runs.go(runs.model, stop=0)
    if runs.asked or nothing != [] or not torch.equal(weights_of(runs.model), new):
        raise Fault("asked to stop after 0 steps, your function does some, or does not return an empty list.")
    losses = runs.go(runs.model, stop=8)
    before = weights_of(runs.model)
    other = Little()
    again = listed(runs.go(other, stop=5))
    asked = list(runs.asked)
    if len(again) == 8 and not torch.equal(weights_of(other), before):
        raise Fault(
            "asked for no more steps than the file has, the model must get the file's weights, and it does not."
        )
    if other.training:
        raise Fault("asked for no more steps than the file has, your function returns the model in training mode.")
    last = Little()
    try:
        runs.go(last, stop=100)
    except (Fault, ValueError):
        raise
    except Exception as error:
        raise Fault("`stop=100` asks for steps behind the end of the plan, which has 12.") from error
    done = list(runs.asked)
    every = listed(runs.go(Little()))
    return listed(losses), again, asked, done, every, list(runs.asked), other.training


@in_folder
def another_plan(answer, generator, folder):
    """The file of a run with another number of steps, rate or warm-up."""
    runs = Runs(answer, generator, folder)
    runs.go(runs.model, stop=4)
    for changes in ({"steps": 20}, {"lr": 0.01}, {"warmup": 2}):
        model = runs.new()
        before, content = weights_of(model), Path(runs.path).read_bytes()
        try:
            runs.go(model, **changes)
        except ValueError:
            if not torch.equal(weights_of(model), before):
                raise Fault("the ValueError for another plan comes after the model was changed. Look first.") from None
            if Path(runs.path).read_bytes() != content:
                raise Fault("the ValueError for another plan comes after the file was overwritten.") from None
        except Exception as error:
            raise Fault(
                f"for other {next(iter(changes))}, expected a ValueError; it is a {type(error).__name__}."
            ) from error
        else:
            raise Fault(f"the file belongs to a run with other {next(iter(changes))}, and no ValueError is raised.")
    return True


@in_folder
def whole_files(answer, generator, folder):
    """The disk is full in the middle of the second save."""
    runs, real, saves = Runs(answer, generator, folder), torch.save, []

    def save(what, where, *more, **options):
        name = where if isinstance(where, str | os.PathLike) else getattr(where, "name", None)
        if isinstance(name, str | os.PathLike) and not os.path.samefile(os.path.dirname(os.path.abspath(name)), folder):
            raise Fault("the new file is written into another folder than that of `path`.")
        saves.append(where)
        if len(saves) != 2:
            return real(what, where, *more, **options)
        if hasattr(where, "write"):
            where.write(b"half")
        else:
            Path(where).write_bytes(b"half")
        raise OSError("No space left on device")

    torch.save = save
    try:
        runs.go(runs.model, every=4)
    except OSError:
        pass
    finally:
        torch.save = real
    if len(saves) < 2:
        return "saved once"
    if not os.path.exists(runs.path):
        raise Fault("when the disk is full in the middle of the second save, the first file is gone already.")
    try:
        losses = listed(runs.go(Little(), every=4))
    except Fault:
        raise
    except Exception as error:
        raise Fault(
            f"when the disk is full in the middle of the second save, nothing can be read any more "
            f"({type(error).__name__}): "
            "the first file is lost as well. Write beside it, and then `os.replace`."
        ) from error
    return len(losses), runs.asked


# Mistakes: the function with one part exchanged.


def resumable(
    keeps=("model", "optimizer", "random", "losses"),
    schedule="the plan's",
    batches_from="where it ends",
    saves="on the way",
    at_end=True,
    checks_plan=True,
    whole=True,
    leaves=False,
    ends_in_eval=True,
    returns="all",
    counts="done",
    saved_before_the_step=False,
    stops=True,
    looks_late=False,
    counts_every="from the beginning",
    first_save="after every",
    pickles=False,
    beside=True,
    deletes=False,
    bounded=True,
    early=False,
    plan_of="steps, lr, warmup",
):
    """Return a resumable training; each switch is a part that a learner may write otherwise."""

    def pretrain_resumable(model, batches, steps, lr, warmup, path, every=100, stop=None):
        parameters = list(model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.01},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)
        plan, losses, done = [steps, lr, warmup] + [every] * (plan_of == "every, too"), [], 0
        if os.path.exists(path):
            saved = torch.load(path, weights_only=not pickles)
            if looks_late:
                model.load_state_dict(saved["model"])
            if checks_plan and saved["plan"] != plan:
                raise ValueError("another run")
            model.load_state_dict(saved["model"].state_dict() if pickles else saved["model"])
            if "optimizer" in keeps or keeps == "a seed a step":
                optimizer.load_state_dict(saved["optimizer"])
            if "random" in keeps:
                torch.set_rng_state(saved["random"])
            losses, done = saved["losses"], saved["done"]
        old = len(losses)
        optimizer.zero_grad()
        model.train()
        start = max(0, done - 1) if counts == "one too few" else done + (counts == "one too many" and done > 0)
        end = steps if stop is None or not stops else min(stop + (start if stops == "from here" else 0), steps)
        end = end if bounded or stop is None else stop
        end = steps if stop == 0 and stops == "if it is true" else end
        if early and done >= end:
            return losses
        if schedule == "anew":
            end = max(end, start)
        for step in range(start, end):
            s, total = (step - start, end - start) if schedule == "anew" else (step, steps)
            s, total = s - start * (schedule == "of this piece"), end if schedule == "to the stop" else total
            s = s - start * (schedule == "of this piece after a step" and step > start)
            factor = min((s + 1) / max(1, warmup), (total - s) / max(1, total - warmup), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            if keeps == "a seed a step":
                torch.manual_seed(step)
            loss = model.loss(**batches(step if batches_from == "where it ends" else step - start))
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            before = copy.deepcopy(model.state_dict()) if saved_before_the_step else None
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            since = step + (first_save == "after every") - start * (counts_every == "from here")
            now = (since % every == 0 and saves == "on the way") or (at_end and step + 1 == end)
            if now:
                state = {
                    "model": model if pickles else before or model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "losses": losses,
                    "plan": plan,
                    "done": step + 1,
                    "random": torch.get_rng_state(),
                }
                where = f"{path}.part" if whole else path
                if not beside:
                    where = os.path.join(tempfile.gettempdir(), f"{os.getpid()}.part")
                if deletes and os.path.exists(path):
                    os.remove(path)
                torch.save(state, where)
                if leaves:
                    torch.save(state, f"{path}.{step + 1}")
                if whole:
                    os.replace(where, path)
        if ends_in_eval:
            model.eval()
        return losses[old:] if returns == "new" else losses

    return pretrain_resumable


def with_files_of_its_own(model, batches, steps, lr, warmup, path, every=100, stop=None):
    """Another way: torch's scheduler, pathlib, bytes written by hand."""
    path = Path(path)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, 0.98),
        fused=True,
    )
    state = {"losses": [], "steps": steps, "lr": lr, "warmup": warmup}
    if path.is_file():
        with path.open("rb") as file:
            found = torch.load(file, weights_only=True)
        for name, value in (("steps", steps), ("lr", lr), ("warmup", warmup)):
            if found[name] != value:
                raise ValueError(f"{path}: {name} is {found[name]} there")
        state = found
        model.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["adam"])
        torch.set_rng_state(state["rng"])

    def save():
        state.update(weights=model.state_dict(), adam=optimizer.state_dict(), rng=torch.get_rng_state())
        memory = io.BytesIO()
        torch.save(state, memory)
        beside = path.with_name(path.name + ".new")
        beside.write_bytes(memory.getvalue())
        beside.replace(path)

    last = min(steps, steps if stop is None else stop)
    model.train()
    while len(state["losses"]) < last:
        step = len(state["losses"])
        for group in optimizer.param_groups:
            group["lr"] = lr * linear_schedule(step, steps, warmup)
        optimizer.zero_grad()
        loss = model.loss(**batches(step))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        state["losses"].append(float(loss.detach()))
        if (step + 1) % every == 0 or step + 1 == last:
            save()
    model.eval()
    return state["losses"]


def with_a_scheduler(model, batches, steps, lr, warmup, path, every=100, stop=None):
    """Another way: a LambdaLR that is saved, torch.save to a Path beside the file, losses as a tensor."""
    path, last = Path(path), steps if stop is None or stop > steps else stop
    matrices, vectors = ([p for p in model.parameters() if (p.ndim >= 2) == big] for big in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr, (0.9, 0.98), fused=True)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: linear_schedule(step, steps, warmup))
    parts, plan, losses = {"model": model, "adam": optimizer, "rate": rate}, {"n": steps, "lr": lr, "w": warmup}, []
    if path.exists():
        saved = torch.load(path, weights_only=True)
        if saved["plan"] != plan:
            raise ValueError("another plan")
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        losses = saved["losses"].tolist()
        torch.random.set_rng_state(saved["rng"])
    model.train()
    for step in range(len(losses), last):
        optimizer.zero_grad()
        loss = model.loss(**batches(step))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        losses.append(loss.item())
        if step + 1 == last or (step + 1) % every == 0:
            new = path.with_suffix(".new")
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"plan": plan, "losses": torch.tensor(losses), "rng": torch.random.get_rng_state()}
            torch.save(state, new)
            new.replace(path)
    model.eval()
    return losses


resumable_run = Build(
    id="24.4",
    course=pretrain_resumable,
    stages=(
        Stage("without interruption", without_interruption),
        Stage("the file", when_saved),
        Stage("going on", going_on),
        Stage("random numbers", random_numbers),
        Stage("interrupted", interrupted),
        Stage("nothing left to do", finished),
        Stage("another plan", another_plan),
        Stage("whole files", whole_files),
    ),
    mistakes=(
        Mistake(
            "training mode at the end",
            resumable(ends_in_eval=False),
            "the model is in training mode when your function returns. Lesson 06's `pretrain` ends with model.eval().",
            "model.eval() left out when the loop was rewritten",
        ),
        Mistake(
            "never saved on the way",
            resumable(saves="never"),
            "the file is written at the end alone. Then an interruption loses everything: save after each `every` "
            "steps too.",
            "torch.save behind the training loop, the first thing that a tutorial shows",
        ),
        Mistake(
            "a step too early",
            resumable(first_save="at a multiple of the number"),
            "with every=5 the first save comes after 1 step, not after 5. When the step with the number `step` is "
            "done, `step + 1` steps are.",
            "if step % every == 0",
        ),
        Mistake(
            "not saved at the end",
            resumable(at_end=False),
            "the last steps are not saved: 12 is no multiple of 5, and the file ends at step 10 or the stop is lost. "
            "Save at the end, too.",
            "if step % every == 0, and nothing else",
        ),
        Mistake(
            "a file a save",
            resumable(leaves=True),
            "each save leaves another file in the folder. A long run fills the disk: keep the one at `path`.",
            "checkpoint-500, checkpoint-1000, …, as trainers do it without a limit",
        ),
        Mistake(
            "a whole object",
            resumable(pickles=True),
            "your file cannot be read with torch.load(path, weights_only=True): it holds a whole object, whose loading "
            "runs code, and fails when the class has moved. Save `state_dict()`s, tensors, numbers, lists and dicts.",
            "torch.save(model, path), and weights_only=False to read it",
        ),
        Mistake(
            "no stop",
            resumable(stops=False),
            "`stop` is not looked at: asked to stop after 7 steps, the run goes on to the end.",
            "an argument that is forgotten",
        ),
        Mistake(
            "stop from here",
            resumable(stops="from here"),
            "`stop` is taken for a number of further steps. It is a step of the whole run: with 8 steps done, stop=5 "
            "asks for "
            "nothing more.",
            "max_steps read as the steps of this call",
        ),
        Mistake(
            "a stop of 0",
            resumable(stops="if it is true"),
            "asked to stop after 0 steps, your function goes on to the end: 0 is False, so `stop or steps` is `steps`. "
            "Compare with None.",
            "stop or steps; if not stop",
        ),
        Mistake(
            "no optimiser",
            resumable(keeps=("model", "random", "losses")),
            "the optimiser starts anew: Adam's means of the gradients and of their squares are part of the run's "
            "state.",
            "torch.save(model.state_dict()), and nothing else",
        ),
        Mistake(
            "the schedule anew",
            resumable(schedule="anew"),
            "the learning rate begins a new warm-up and a new decay in each piece. It belongs to the step of the "
            "whole plan.",
            "a scheduler made for the remaining steps",
        ),
        Mistake(
            "the schedule to the stop",
            resumable(schedule="to the stop"),
            "the learning rate falls to 0 at `stop`, where it should at the end of the whole plan: its formula has "
            "`steps`, whatever this piece does of them.",
            "the end of the loop taken for the end of the schedule",
        ),
        Mistake(
            "the schedule from here",
            resumable(schedule="of this piece"),
            "the learning rate in the resumed piece is not that of the whole plan: its step is counted from the "
            "beginning of this piece.",
            "a LambdaLR made anew whose last_epoch is not set",
        ),
        Mistake(
            "the scheduler not saved",
            resumable(schedule="of this piece after a step"),
            "the resumed piece does one step at the right learning rate, and then the schedule begins anew. The "
            "optimiser's state holds the last rate; a scheduler counts its steps itself: save its state_dict(), too.",
            "a LambdaLR whose state is not in the file",
        ),
        Mistake(
            "the first batches again",
            resumable(batches_from="the beginning"),
            "the resumed run asks for batches 0, 1, 2 … again. It sees the same texts twice and others never: ask for "
            "the step of "
            "the whole plan.",
            "a data loader that starts from the beginning after a resume",
        ),
        Mistake(
            "a step twice",
            resumable(counts="one too few"),
            "the last saved step is done once more: after n steps the next one has the number n.",
            "range(step, steps) with the number of the last step that was done",
        ),
        Mistake(
            "a step left out",
            resumable(counts="one too many"),
            "after an interruption one step is left out: after n steps the next one has the number n, not n + 1.",
            "range(step + 1, steps) with the number of steps that were done",
        ),
        Mistake(
            "only the new losses",
            resumable(returns="new"),
            "only the losses of this piece are returned. Keep the earlier ones in the file, and return all.",
            "losses = [] in front of the loop",
        ),
        Mistake(
            "weights before the step",
            resumable(saved_before_the_step=True),
            "the file holds the weights *before* the step that it counts as done, so that step is lost. Save after "
            "optimizer.step().",
            "saving at the top of the loop's body",
        ),
        Mistake(
            "no random numbers",
            resumable(keeps=("model", "optimizer", "losses")),
            "dropout draws other random numbers after the interruption. Save torch.get_rng_state() and set it again.",
            "a checkpoint of weights and optimiser",
        ),
        Mistake(
            "a seed a step",
            resumable(keeps="a seed a step"),
            "dropout draws other random numbers than in lesson 06's `pretrain`, even uninterrupted: you set "
            "a seed in the loop. Leave torch's random numbers as they come; save their state, set it after a resume.",
            "torch.manual_seed(step), which resumes well and is another run",
        ),
        Mistake(
            "every counted from here",
            resumable(counts_every="from here"),
            "`every` is counted from the beginning of this piece. Resumed after 7 steps with every=4, the next save "
            "belongs after 8 steps of the whole run, and yours comes after 11.",
            "enumerate() over the steps of this piece",
        ),
        Mistake(
            "every belongs to the plan",
            resumable(plan_of="every, too"),
            "a file is refused because it was written with another `every`. How often a run is saved changes nothing "
            "in it: the plan is steps, lr and warmup.",
            "all arguments of the call compared with those of the file",
        ),
        Mistake(
            "returned early",
            resumable(early=True),
            "asked for no more steps than the file has, your function returns the model in training mode. An early "
            "return must not pass by model.eval().",
            "return as soon as nothing is left to do",
        ),
        Mistake(
            "beyond the end",
            resumable(bounded=False),
            "`stop=100` asks for steps behind the end of the plan, which has 12: take min(stop, steps).",
            "range(done, stop)",
        ),
        Mistake(
            "no look at the plan",
            resumable(checks_plan=False),
            "a file of another plan is taken without a word: the schedule then has a jump that nobody sees. Raise a "
            "ValueError.",
            "a checkpoint found in the folder of an earlier experiment",
        ),
        Mistake(
            "looks too late",
            resumable(looks_late=True),
            "the plan is compared after the weights were loaded: a ValueError must leave the model as it was.",
            "checks behind load_state_dict",
        ),
        Mistake(
            "written in place",
            resumable(whole=False),
            "the new file is written over the old one. If the disk is full or the machine stops in the middle, both "
            "are lost: write "
            "beside it, and then os.replace.",
            "torch.save(state, path)",
        ),
        Mistake(
            "in another folder",
            resumable(beside=False),
            "the new file is written into another folder than that of `path`, perhaps on another disk, and there "
            "os.replace fails. Write it beside the old one: f'{path}.part'.",
            "tempfile.NamedTemporaryFile() without dir=, or a plain name in the working directory",
        ),
        Mistake(
            "deleted first",
            resumable(deletes=True),
            "the old file is deleted before the new one is whole: when the save fails, both are lost, and the run "
            "starts from the beginning. os.replace replaces it in one step.",
            "os.rename, which on Windows refuses an existing name, and an os.remove before it",
        ),
    ),
    hints=(
        "Start from your `pretrain` of lesson 06, and make losses the counter: after n steps, `len(losses)` is n.",
        "What a step depends on: the weights, the optimiser's `state_dict()`, the number of the step, and torch's "
        "random numbers, "
        "`torch.get_rng_state()`.",
        "`torch.load(path, weights_only=True)` reads tensors, numbers, lists and dicts, and runs nothing.",
        "`torch.save(state, f'{path}.part')`, then `os.replace(f'{path}.part', path)`: the file at `path` is always a "
        "whole one.",
    ),
    praise="A run that may be interrupted at any time is a run that you dare to start.",
    other_ways=(with_files_of_its_own, with_a_scheduler),
)
