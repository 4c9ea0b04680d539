"""Several processes train one model and get one device's numbers: data parallel (DDP) or sharded (FSDP2).

`torchrun --nproc-per-node 2 -m nextbert_lite pretrain …` starts the processes, called ranks, and `fit` notices. Every
rank draws the same batch, which depends on the step alone, and keeps its own rows of it. Its loss is weighted by its
number of selected tokens (or of rows), so that the sum is the mean over the whole batch, not a mean of means.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import glob
import os
import re
import shutil
import signal
import threading
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nextbert_lite.core.masking import IGNORE
from nextbert_lite.files import file_hash, launched, make_folder
from nextbert_lite.training.batches import seeded

Found = TypeVar("Found")
TROUBLE = (OSError, ValueError, ArithmeticError, RuntimeError, MemoryError)  # what the command tells in one line
LOST = (
    "a rank has ended, so training ends on all of them; its own message, if it left one, says why. The same command "
    "goes on from the last checkpoint."
)
_store: dist.Store | None = None  # what torchrun keeps for all ranks; it outlives them


def join() -> bool:
    """Join the other ranks, the first time; return whether there are any."""
    global _store
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size() > 1
    if not launched():
        return False
    gpu = torch.cuda.is_available()
    if gpu and int(os.environ.get("LOCAL_RANK", 0)) < torch.cuda.device_count():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))  # from now on "cuda" is this rank's own GPU
    _store, rank, size = next(dist.rendezvous("env://"))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", store=_store, rank=rank, world_size=size)
    atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())
    return True


def on_first(act: Callable[[], Found]) -> Found:
    """Return on every rank what `act` gives on the first one, where alone it runs; raise everywhere what it raises."""
    return on_each(lambda: act() if first_rank() else None)[0]


def on_each(act: Callable[[], Found]) -> list[Found]:
    """Return on every rank what `act` gives on each of them, in their order; raise everywhere what it raises on one."""
    if not join():
        return [act()]
    try:
        mine = act(), None
    except TROUBLE as error:
        mine = None, error
    told: list = [None] * dist.get_world_size()
    with together():
        dist.all_gather_object(told, mine)
    told[dist.get_rank()] = mine  # itself, not a copy of it
    for _, error in told:
        if error is not None:
            raise error
    return [found for found, _ in told]


def place() -> tuple[int, int]:
    """Return this process's rank and how many there are; (0, 1) where it is alone."""
    return (dist.get_rank(), dist.get_world_size()) if join() else (0, 1)


def first_rank() -> bool:
    """Return whether this process is the first rank, or the only one."""
    return place()[0] == 0


def first_to_say() -> bool:
    """Return whether this rank is the first with something to say of an error: one sentence is enough for all."""
    if _store is None:
        return os.environ.get("RANK", "0") == "0"
    try:
        return _store.add("said", 1) == 1
    except RuntimeError:  # kept by a rank that is gone
        return True


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Turn the loss of another rank, seen by a broken connection or by torchrun's SIGTERM, into one sentence."""

    def ended(signum, frame):
        raise RuntimeError(LOST)

    main = threading.current_thread() is threading.main_thread()  # only it receives signals
    previous = signal.signal(signal.SIGTERM, ended) if main else None
    try:
        yield
    except RuntimeError as error:
        if re.search("gloo|NCCL|Connection (closed|reset)", str(error)):
            raise RuntimeError(LOST) from error
        raise
    finally:
        if main:
            signal.signal(signal.SIGTERM, previous)


def check_shares(rows: int, accumulate: int) -> None:
    """Raise ValueError unless a batch of so many rows can be cut into equal parts, `accumulate` for each rank."""
    ranks = dist.get_world_size() if join() else 1
    if ranks * accumulate > 1 and rows % (ranks * accumulate):
        parts = f"{ranks} ranks" + (f", {accumulate} parts each" if accumulate > 1 else "")
        near = rows + -rows % (ranks * accumulate)
        raise ValueError(f"a batch of {rows} cannot be shared equally by {parts}; take one of {near}, for example.")


class _Gather(torch.autograd.Function):
    """Rows of this rank -> the rows of all ranks. Backward: the sum of all ranks' gradients, this rank's own rows."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        found = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(found, rows.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


class _Loss(nn.Module):
    """`model.loss` as a forward pass, because DDP and FSDP2 see nothing else.

    Of a batch of pairs, `model.encode` gives the vectors of all ranks: each rank's loss is that of the whole batch.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        if "positive_ids" not in batch or not join():
            return self.model.loss(**batch)
        own = self.model.encode
        self.model.encode = lambda *given: _Gather.apply(own(*given))
        try:
            return self.model.loss(**batch)
        finally:
            del self.model.encode  # the class's own again


class Parallel:
    """How `fit` trains on several ranks, or in several parts of a batch: what differs from one forward and backward.

    trained: the module whose parameters the optimizer updates: the model, or its sharded copy. With `shard` each rank
    keeps a part of all weights, gradients and optimizer states (ZeRO, Rajbhandari et al. 2020, arXiv:1910.02054); the
    model gets the weights back by `fill`, so that any code can evaluate it.
    """

    def __init__(self, model: nn.Module, device: torch.device, accumulate: int, shard: bool, seed: int | None):
        self.size, self.rank = (dist.get_world_size(), dist.get_rank()) if join() else (1, 0)
        self.device, self.accumulate = device, accumulate
        self.seed = torch.initial_seed() if seed is None else seed
        self.sharded = shard and self.size > 1
        self.trained = model
        self.loss: nn.Module = _Loss(model)
        if self.sharded:
            self.shard()
        elif self.size > 1:
            self.loss = nn.parallel.DistributedDataParallel(self.loss)  # gives all the first one's weights
        if (
            self.size > 1
            and device.type == "cuda"
            and int(os.environ.get("LOCAL_RANK", 0)) >= torch.cuda.device_count()
        ):
            raise ValueError(
                f"there are more ranks on this machine than its {torch.cuda.device_count()} GPUs: start fewer."
            )
        self.first = True

    def shard(self) -> None:
        """Put a copy in the place of the model, each of its layers and the rest cut into as many parts as ranks."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.trained = copy.deepcopy(self.trained)
        for tensor in chain(self.trained.parameters(), self.trained.buffers()):
            dist.broadcast(tensor.detach(), src=0)
        self.loss = _Loss(self.trained)
        mesh = init_device_mesh(self.device.type, (self.size,))
        for layers in [module for module in self.trained.modules() if isinstance(module, nn.ModuleList)]:
            for layer in layers:
                fully_shard(layer, mesh=mesh)
        fully_shard(self.loss, mesh=mesh)

    @torch.no_grad()
    def fill(self, model: nn.Module) -> None:
        """Copy the sharded weights into the model, whole; all ranks do it together."""
        if self.sharded:
            sides = (chain(m.parameters(), m.buffers()) for m in (model, self.trained))
            for mine, part in zip(*sides, strict=True):
                mine.copy_(part.full_tensor() if hasattr(part, "full_tensor") else part)

    def shares(self, batch: dict[str, Tensor]) -> list[tuple[dict[str, Tensor], float]]:
        """Return this rank's parts of a batch, each with the weight of its loss.

        The mean over ranks of the weighted sums is the loss of the whole batch. Where there are fewer rows than parts,
        some part is the first row with weight 0: every rank goes through as many passes as the others.
        """
        rows, labels = len(next(iter(batch.values()))), batch.get("labels")
        if "positive_ids" in batch:
            if self.accumulate > 1:
                raise ValueError(
                    "pairs are each other's negatives, so accumulate must be 1: see SentenceEncoder's cache."
                )
            texts = {name: tensor for name, tensor in batch.items() if name != "same"}
            for tensor in texts.values():
                check_shares(len(tensor), 1)
            return [(batch | {name: t.chunk(self.size)[self.rank] for name, t in texts.items()}, 1.0)]
        counted = torch.ones(rows) if labels is None else labels != IGNORE
        of_rows = [name for name, tensor in batch.items() if tensor.ndim and len(tensor) == rows]
        cuts = torch.arange(rows).tensor_split(self.size * self.accumulate)
        found = []
        for cut in cuts[self.rank * self.accumulate :][: self.accumulate]:
            weight = float(counted[cut].sum()) * self.size / max(1.0, float(counted.sum()))
            kept = slice(int(cut[0]), int(cut[-1]) + 1) if len(cut) else slice(0, 1)
            found.append((batch | {name: batch[name][kept] for name in of_rows}, weight))
        return found

    def backward(self, batch: dict[str, Tensor], step: int, bfloat16: bool) -> Tensor:
        """Put the gradients of the batch's loss in place; return this rank's loss, of which the mean is the batch's.

        Dropout is drawn from the seed, the step and the rank: a run goes on exactly without other random states.
        """
        parts = self.shares(batch)
        self.drawn = checksum(batch) if self.size > 1 else 0
        if self.first and isinstance(self.loss, nn.parallel.DistributedDataParallel):
            # DDP lays its buckets anew after a first pass, and a sum of three depends on the place in a bucket: after a
            # pass that does not count, a resumed run adds in the order of one that never stopped
            self.passes(parts[:1], step, bfloat16)
            unused = [name for name, p in self.trained.named_parameters() if p.requires_grad and p.grad is None]
            if unused:
                raise ValueError(
                    f"{unused[0]} has no part in the loss: freeze it (`requires_grad_(False)`) for several ranks."
                )
            self.trained.zero_grad()
        self.first = False
        return self.passes(parts, step, bfloat16)

    def passes(self, parts: list[tuple[dict[str, Tensor], float]], step: int, bfloat16: bool) -> Tensor:
        """Go forward and backward through each part; the ranks' gradients are averaged after the last one."""
        if self.size > 1:
            torch.manual_seed(seeded(self.seed, step, self.rank).initial_seed())
        total = torch.zeros((), device=self.device)
        for number, (part, weight) in enumerate(parts, start=1):
            part = {name: tensor.to(self.device, non_blocking=True) for name, tensor in part.items()}
            wait = isinstance(self.loss, nn.parallel.DistributedDataParallel) and number < len(parts)
            with (
                self.loss.no_sync() if wait else contextlib.nullcontext(),
                torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16),
            ):
                loss = check_loss(self.loss(part))
            (loss * weight).backward()
            total = total + loss.detach() * weight
        return total

    def agree(self, loss: Tensor, norm: Tensor, stop: bool, step: int) -> tuple[float, float, bool]:
        """Return the loss of the whole batch, the gradient's norm, and whether any rank was asked to stop.

        Raises ValueError where the ranks drew different batches.
        """
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        mine = torch.tensor([float(loss), float(norm), stop, self.drawn], dtype=torch.float64, device=self.device)
        told = [mine]
        if self.size > 1:
            dist.all_gather(told := [torch.empty_like(mine) for _ in range(self.size)], mine)
        losses, norms, stops, drawn = torch.stack(told).T.tolist()
        if len(set(drawn)) > 1:
            raise ValueError(f"the ranks drew different batches at step {step}: a batch must depend on the step alone.")
        return sum(losses) / self.size, norms[0], any(stops)


def checksum(batch: dict[str, Tensor]) -> int:
    """Return a number by which two batches can be told apart."""
    content = (tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in batch.values())
    return zlib.crc32(b"".join(part.numpy() for part in content))


def check_loss(loss: Tensor) -> Tensor:
    """Return a loss that can be minimised; else say what it must be."""
    if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
        raise TypeError("`model.loss` must give a mean with its graph, a tensor of shape (); no item, no detach.")
    return loss


# --- sharded checkpoints: each rank writes its own part (torch.distributed.checkpoint) --------------------------------


def write_shards(path: Path, tensors: dict[str, Tensor], step: int) -> dict:
    """Write sharded tensors into a folder beside `path`, each rank its part; return its name and its files' hashes."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    folder = path.with_name(f"{path.name}.shards-{step}")
    on_first(lambda: (make_folder(path.parent), shutil.rmtree(folder, ignore_errors=True)))  # of a run that was killed
    try:
        dcp.save(tensors, checkpoint_id=folder)
    except CheckpointException as error:
        raise OSError(f"could not write {folder}: {error}. The older checkpoint is as it was.") from error
    return {"folder": folder.name, "files": {file.name: file_hash(file) for file in sorted(folder.iterdir())}}


def drop_shards(path: Path, keep: str | None = None) -> None:
    """Delete the folders of shards beside `path` but one: those of older checkpoints, and what a kill left."""
    for folder in path.parent.glob(f"{glob.escape(path.name)}.shards-*"):
        if folder.name != keep:
            shutil.rmtree(folder, ignore_errors=True)


def read_shards(path: Path, told: dict) -> dict[str, Tensor]:
    """Return the tensors of such a folder, whole, on any number of ranks; ValueError when a file of it is damaged."""
    import torch.distributed.checkpoint as dcp

    folder = path.with_name(told["folder"])
    for name, digest in told["files"].items():
        if not (folder / name).is_file() or file_hash(folder / name) != digest:
            raise ValueError(f"{folder / name} is missing or damaged.")
    reader = dcp.FileSystemReader(folder)
    stored = reader.read_metadata().state_dict_metadata
    tensors = {name: torch.empty(told.size, dtype=told.properties.dtype) for name, told in stored.items()}
    dcp.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())
    return tensors


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor as this rank keeps `like`: on its device, and its part of it where that is sharded."""
    tensor = tensor.to(like.device)
    if not hasattr(like, "placements") or tensor.shape != like.shape:  # the optimizer's count of steps is for all
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
