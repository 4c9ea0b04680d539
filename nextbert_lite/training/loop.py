"""One training loop for all of the course: `fit`. Lesson 00 shows its ten-line core."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from nextbert_lite.core.encoder import EncoderConfig
from nextbert_lite.core.masking import IGNORE
from nextbert_lite.core.modern import ModernConfig
from nextbert_lite.files import read_safetensors, write_safetensors
from nextbert_lite.training import distributed
from nextbert_lite.training.device import pick_device
from nextbert_lite.training.distributed import Parallel, check_loss
from nextbert_lite.validate import check_count

MakeBatch = Callable[[int], dict[str, Tensor]]  # a step -> its batch, such as `Batches`
BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.98), 0.01, 1.0  # RoBERTa's betas; BERT's decay and clipping
OF_LOSS = ("pooling", "temperature", "symmetric")  # settings of a `SentenceEncoder`; older checkpoints do not tell them


@dataclass
class History:
    """What happened in training: one entry a step, and the evaluations."""

    loss: list[float] = field(default_factory=list)  # nats
    lr: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)  # real ones, without padding
    evaluations: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def steps(self) -> int:
        """Steps done so far."""
        return len(self.loss)


def fit(
    model: nn.Module,
    batches: MakeBatch,
    steps: int,
    *,
    lr: float = 1e-3,
    warmup: int = 100,
    seed: int | None = 0,
    device: str | torch.device | None = None,
    mixed_precision: bool | None = None,
    evaluate: Callable[[], dict[str, float]] | None = None,
    evaluate_every: int = 100,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    stop_after: float = math.inf,
    progress: bool = True,
    accumulate: int = 1,
    shard: bool = False,
) -> History:
    """Train the model in place: step s minimises `model.loss(**batches(s))`. Return the history.

    AdamW with linear warm-up and decay; no weight decay on biases and norms; gradients clipped at norm 1.
    mixed_precision: run the products in bfloat16. None does so on an NVIDIA GPU; True on the CPU too, which pays where
    the processor has such products (AVX-512 BF16, AMX).
    seed: of the dropout masks; None leaves torch's generator alone.
    evaluate: called every `evaluate_every` steps and at the end, in eval mode; its numbers go into the history.
    checkpoint: a file, written every `checkpoint_every` steps and at the end. If it is there, training goes on from
    it, bit for bit as if it had never stopped (on the same device); other settings than its own are a ValueError.
    stop_after: seconds after which training stops as if it had been interrupted.
    Ctrl-C (or Jupyter's stop button) ends after the running step: the model keeps its weights, the history says
    `interrupted`. A second one stops at once.
    accumulate: cut each batch into so many parts, one forward and backward pass each: a part's memory, the batch's
    gradient. It is the batch's own if the loss is a mean over rows, or over the `labels` that are not -100.
    Started by torchrun, the ranks share each batch and end with the weights that one device would have, but for
    rounding and the dropout masks, which each rank draws for itself. Every rank evaluates; the first one writes. shard:
    each rank keeps only a part of weights, gradients and optimizer (FSDP2), and writes its part of the checkpoint.
    A loss or gradient that is not finite raises FloatingPointError and leaves the weights of the last good step.
    """
    check_count("steps", steps)
    check_count("warmup", warmup, least=0)
    check_count("seed", 0 if seed is None else seed, least=0)
    check_count("evaluate_every", evaluate_every)
    check_count("checkpoint_every", checkpoint_every)
    check_count("accumulate", accumulate)
    if not 0 < lr < math.inf or not stop_after >= 0:
        raise ValueError(f"lr is {lr}, stop_after {stop_after}; lr must be finite and more than 0, the other not below")
    if mixed_precision not in (None, True, False):
        raise ValueError(f"mixed_precision is {mixed_precision!r}; it must be True, False or None.")
    if not isinstance(model, nn.Module) or not callable(getattr(model, "loss", None)) or not callable(batches):
        raise TypeError("fit needs a model with a method `loss` and batches to call with a step, such as MLMBatches.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("nothing of this model learns: all its parameters are frozen (requires_grad is False).")
    several = distributed.join()  # has torchrun started other processes too?
    device = pick_device(device)
    model.to(device).train()
    parallel = Parallel(model, device, accumulate, shard, seed) if several or accumulate > 1 else None
    if parallel is not None and hasattr(batches, "batch_size"):
        distributed.check_shares(batches.batch_size, accumulate)
    trained = model if parallel is None else parallel.trained  # the model, or its sharded copy
    fill = (lambda model: None) if parallel is None else parallel.fill  # puts sharded weights into the model
    optimizer = adamw(trained, lr)
    optimizer.zero_grad()  # gradients that an earlier run left behind must not count
    history = History()
    settings = dict(steps=steps, lr=lr, warmup=warmup)
    bfloat16 = device.type == "cuda" if mixed_precision is None else mixed_precision
    settings |= dict(seed=seed, mixed_precision=bfloat16)
    config = getattr(getattr(model, "encoder", model), "config", None)
    if isinstance(config, EncoderConfig | ModernConfig):  # another number of heads, say, has weights of the same shapes
        settings |= config.to_dict()
    settings |= {name: getattr(model, name) for name in OF_LOSS if hasattr(model, name)}
    if checkpoint is not None and Path(checkpoint).exists():
        history = load_checkpoint(checkpoint, trained, optimizer, settings)
    elif seed is not None:
        torch.manual_seed(seed)

    start, before, saved = time.perf_counter(), history.seconds, history.steps
    history.interrupted = False
    quiet = not progress or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")  # tqdm's notebook bar ignores it
    quiet |= several and parallel.rank > 0
    bar = tqdm(total=steps, initial=history.steps, unit="step", disable=quiet)
    with bar, hold_interrupt() as interrupted, distributed.together() if several else contextlib.nullcontext():
        while history.steps < steps and not history.interrupted:
            step = history.steps
            batch = batches(step)
            if not isinstance(batch, Mapping) or not all(isinstance(part, Tensor) for part in batch.values()):
                raise TypeError(f"the batch of step {step} is no dict of tensors, the arguments of `model.loss`.")
            if not batch or any(tensor.numel() == 0 for tensor in batch.values()):
                raise ValueError(f"the batch of step {step} is empty: leave out empty batches.")
            masks = [tensor for name, tensor in batch.items() if name == "mask" or name.endswith("_mask")]
            real_tokens = sum(int(m.sum()) for m in masks) if masks else next(iter(batch.values())).numel()
            rate = lr * linear_schedule(step, steps, warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate

            if parallel is None:
                batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
                with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                    loss = check_loss(model.loss(**batch))
                loss.backward()
            else:
                loss = parallel.backward(batch, step, bfloat16)
            norm = nn.utils.clip_grad_norm_(trained.parameters(), CLIP)
            stop = interrupted() or (time.perf_counter() - start >= stop_after and step + 1 < steps)
            if parallel is None:
                loss_value, norm_value = torch.stack([loss.detach().float(), norm.float()]).tolist()
            else:
                loss_value, norm_value, stop = parallel.agree(loss, norm, stop, step)
            if not math.isfinite(loss_value + norm_value):
                fill(model)
                raise FloatingPointError(explain_non_finite(model, step, rate, loss_value, norm_value))
            optimizer.step()
            optimizer.zero_grad()

            history.loss.append(loss_value)
            history.lr.append(rate)
            history.tokens.append(real_tokens)
            history.seconds = before + time.perf_counter() - start
            history.interrupted = stop
            done = history.steps == steps or history.interrupted
            if evaluate is not None and (done or history.steps % evaluate_every == 0):
                fill(model)
                random_state = rng_states(device)  # an evaluation must not change the training that follows
                with evaluating(model), torch.no_grad():
                    found = evaluate() or {}
                    if not isinstance(found, Mapping):
                        raise TypeError(f"`evaluate` gave {found!r:.60}; it must give a dict of numbers.")
                    plain = {name: value.item() if hasattr(value, "item") else value for name, value in found.items()}
                    history.evaluations.append({"step": history.steps, **plain})
                set_rng_states(random_state)
            if checkpoint is not None and (done or history.steps - saved >= checkpoint_every):
                save_checkpoint(checkpoint, trained, optimizer, settings, history, parallel)
                saved = history.steps
            speed = sum(history.tokens[-50:]) / len(history.tokens[-50:]) * history.steps / max(history.seconds, 1e-9)
            bar.set_postfix_str(f"loss {loss_value:.3f}, {speed:,.0f} tokens/s", refresh=False)
            bar.update()
        fill(model)
    model.eval()
    return history


def adamw(model: nn.Module, lr: float) -> torch.optim.AdamW:
    """Return a fused AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) that decays matrices only.

    Biases and layer norms, the parameters with one dimension, are not decayed, as in BERT.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=BETAS, fused=True)


def linear_schedule(step: int, steps: int, warmup: int) -> float:
    """Return the fraction of the learning rate at a step: up from 1/warmup to 1, then down to 0 after the last step."""
    return min((step + 1) / max(1, warmup), (steps - step) / max(1, steps - warmup), 1.0)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode for a while; each of its parts gets its own mode back, also after an error."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def held_out_loss(model: nn.Module, batches: MakeBatch, n: int) -> float:
    """Return the mean MLM loss in nats over all selected tokens of the first n batches, in eval mode."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    with evaluating(model):
        for step in range(n):
            batch = {name: tensor.to(device) for name, tensor in batches(step).items()}
            selected = int((batch["labels"] != IGNORE).sum())
            total, count = total + float(model.loss(**batch)) * selected, count + selected
    if count == 0:
        raise ValueError("no token was selected in these batches, so there is no loss: take more batches.")
    return total / count


def steps_in(model: nn.Module, batches: MakeBatch, seconds: float, **how) -> int:
    """Return how many training steps fit into the time, measured on a copy of the model. how: arguments of `fit`."""
    trial = copy.deepcopy(model)
    device = next(model.parameters()).device
    how |= dict(device=device, seed=None, progress=False)
    first = fit(trial, batches, 2, **how)  # the first steps pay for start-up
    start = time.perf_counter()
    if first.interrupted or fit(trial, batches, 6, **how).interrupted:
        raise KeyboardInterrupt
    return max(10, int(seconds / ((time.perf_counter() - start) / 6)))


@contextlib.contextmanager
def hold_interrupt() -> Iterator[Callable[[], bool]]:
    """Let the running step finish after the first Ctrl-C; the value says whether there was one."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # only the main thread receives signals
        return
    previous = signal.getsignal(signal.SIGINT)

    def remember(signum, frame):
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    signal.signal(signal.SIGINT, remember)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, previous)


def explain_non_finite(model: nn.Module, step: int, rate: float, loss: float, norm: float) -> str:
    """Return the sentence for a loss or a gradient that is not finite."""
    broken = [name for name, p in model.named_parameters() if not p.isfinite().all()]
    if broken:
        causes = f"the weights were not finite before this step (first: {broken[0]}); start again from good ones"
    else:
        causes = (
            "a learning rate that is too high (try a third of it), no warm-up, inputs that are not finite, or a log or "
            "a division of zero in the loss"
        )
    return (
        f"training stopped at step {step}: the loss is {loss:.4g} and the gradient's norm {norm:.4g}, at learning rate "
        f"{rate:.2g}. Likely causes: {causes}. The model keeps the weights it had before this step."
    )


# --- checkpoints: one safetensors file, no pickle -------------------------------------------------------------------


def rng_states(device: torch.device) -> dict[str, Tensor]:
    states = {"rng.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["rng.cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["rng.mps"] = torch.mps.get_rng_state()
    return states


def set_rng_states(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["rng.cpu"])
    if "rng.cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["rng.cuda"])
    if "rng.mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["rng.mps"])


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: dict,
    history: History,
    parallel: Parallel | None = None,
) -> None:
    """Write weights, optimizer, random state and history as one file. A write that fails leaves the old file whole.

    Of several ranks the first one writes; sharded tensors lie in a folder beside the file, named in it.
    """
    path = Path(path)
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, tensor in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = tensor
    metadata = {"settings": json.dumps(settings), "history": json.dumps(asdict(history))}
    shards = {}
    if parallel is not None and parallel.sharded:
        shards, tensors = distributed.write_shards(path, tensors, history.steps), {}
        metadata["shards"] = json.dumps(shards)
    if parallel is None or parallel.rank == 0:
        write_safetensors(path, tensors | rng_states(next(model.parameters()).device), metadata)
        distributed.drop_shards(path, keep=shards.get("folder"))


def load_checkpoint(path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict) -> History:
    """Put a checkpoint's weights, optimizer and random state in place; return its history.

    Raises ValueError for a file that is no checkpoint, for another model, and for other settings; the model is then
    as it was.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; a checkpoint is a file. Give a name in it, such as run.safetensors.")
    try:
        tensors, metadata = read_safetensors(path)
        if "history" not in metadata:
            raise ValueError(f"{path} is no checkpoint of `fit`.")
        if "shards" in metadata:
            tensors |= distributed.read_shards(Path(path), json.loads(metadata["shards"]))
        stored, history = json.loads(metadata["settings"]), History(**json.loads(metadata["history"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{error} Give another file name, or delete it, to start anew.") from None
    stored = {key: settings[key] for key in OF_LOSS if key in settings} | stored
    changed = {key: (stored.get(key), value) for key, value in settings.items() if stored.get(key) != value}
    if changed:
        list_ = ", ".join(f"{key} was {old}, is now {new}" for key, (old, new) in changed.items())
        raise ValueError(
            f"{path} belongs to a run with other settings: {list_}. Train with the old ones to continue it, or give "
            "another checkpoint file to start anew."
        )
    weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    theirs, ours = ({n: tuple(t.shape) for n, t in state.items()} for state in (weights, model.state_dict()))
    differing = [name for name in theirs | ours if theirs.get(name) != ours.get(name)]
    if differing:  # looked for before loading: torch would fill the parameters that fit, and then complain
        name = differing[0]
        raise ValueError(
            f"{path} holds another model: {len(differing)} parameters differ, first {name} (there "
            f"{theirs.get(name, 'missing')}, here {ours.get(name, 'missing')}). Give another checkpoint file."
        )
    here = model.state_dict()
    model.load_state_dict({name: distributed.placed(tensor, here[name]) for name, tensor in weights.items()})
    for name, parameter in model.named_parameters():
        state = {
            key: distributed.placed(tensors[f"optimizer.{key}.{name}"], parameter)
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"optimizer.{key}.{name}" in tensors
        }
        if state:
            optimizer.state[parameter] = state
    set_rng_states(tensors)
    return history
