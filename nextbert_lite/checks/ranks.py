"""Several ranks for lesson 20: as threads of one process, which take no time to start, or as processes of their own.

What a rank runs is a function of one argument, `dist`: torch.distributed itself in a process, a `Rank` in a thread.
"""

from __future__ import annotations

import ast
import dis
import importlib
import inspect
import linecache
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from nextbert_lite.checks.core import Fault, describe

PATIENCE = 240  # seconds until processes that do not end are killed
LEFT = (
    "a rank waits in `{}` for another that has already returned: processes would wait for ever. Every rank has to call "
    "it equally often and in the same order, also a rank without a selected token."
)


class LeftAlone(Fault):
    """A rank waits for one that has ended."""


class Meeting:
    """Where the threads of one run meet: the n-th thing that a rank gives meets the n-th of each other rank."""

    def __init__(self, size: int):
        self.size, self.changed, self.given = size, threading.Condition(), {}
        self.ended: set[int] = set()

    def meet(self, rank: int, number: int, name: str, thing: Tensor) -> list[Tensor]:
        """Give a tensor, wait for the other ranks, and return all of them in the order of the ranks."""
        with self.changed:
            there = self.given.setdefault(number, {})
            there[rank] = name, thing.detach().clone()
            self.changed.notify_all()
            self.changed.wait_for(lambda: len(there) == self.size or self.ended - there.keys(), timeout=PATIENCE)
            if len(there) < self.size:
                raise LeftAlone(LEFT.format(name))
        names = {name for name, _ in there.values()}
        kinds = {(tuple(tensor.shape), tensor.dtype) for _, tensor in there.values()}
        if len(names) > 1 or len(kinds) > 1:
            shown = " and ".join(sorted(f"{kind[0]} {kind[1]}" for kind in kinds))
            raise Fault(
                f"the ranks meet with different things: {' and '.join(sorted(names))} of {shown}. Every rank has to "
                "make the same calls in the same order, with tensors of the same shape and dtype. Does a rank "
                "without a "
                "selected token skip a call, or `backward()`?"
            )
        return [there[rank][1] for rank in range(self.size)]

    def end(self, rank: int) -> None:
        with self.changed:
            self.ended.add(rank)
            self.changed.notify_all()


class Rank:
    """What stands for torch.distributed in a thread: the same names, and the same manners where they matter."""

    ReduceOp = torch.distributed.ReduceOp

    def __init__(self, rank: int, meeting: Meeting):
        self._rank, self._meeting = rank, meeting
        self.calls: list[tuple[str, int]] = []  # what it was called for, and with how many numbers
        self.sent: list[int] = []  # where they lie

    def get_rank(self) -> int:
        return self._rank

    def get_world_size(self) -> int:
        return self._meeting.size

    def all_reduce(self, tensor: Tensor, op: Any = torch.distributed.ReduceOp.SUM) -> None:
        """Put the sum over all ranks into the tensor. It returns nothing, and autograd does not see it."""
        if op != torch.distributed.ReduceOp.SUM:
            raise Fault("this stand-in of `all_reduce` knows the sum only.")
        found = self._meet("all_reduce", tensor)
        tensor.data.copy_(torch.stack(found).sum(0))

    def all_gather(self, into: list[Tensor], tensor: Tensor) -> None:
        """Put each rank's tensor into the list's tensors, in the order of the ranks; autograd does not see it."""
        if not isinstance(into, list) or len(into) != self._meeting.size:
            raise Fault(
                f"`all_gather(list, tensor)` fills a list that has one tensor for each of the {self._meeting.size} "
                f"ranks; it is given {describe(into)}. Make it before: `[torch.empty_like(tensor) for _ in "
                "range(size)]`."
            )
        if len({place.data_ptr() for place in into}) < len(into) and tensor.numel():
            raise Fault(
                "all places of the list for `all_gather` are one tensor, so each rank's rows overwrite those of the "
                "rank before: `[empty] * size` repeats a reference. `[torch.empty_like(tensor) for _ in range(size)]`."
            )
        for place, found in zip(into, self._meet("all_gather", tensor), strict=True):
            if place.dtype != found.dtype or place.shape != found.shape:
                raise Fault(
                    f"`all_gather` is to put {describe(found)} into {describe(place)}: the list's tensors need the "
                    "shape and dtype of what is gathered, `torch.empty_like(tensor)`."
                )
            place.data.copy_(found)

    def _meet(self, name: str, tensor: Tensor) -> list[Tensor]:
        if not isinstance(tensor, Tensor):
            told = (
                "you give it None. A parameter has no `p.grad` if it is frozen, or if this rank skipped its batches: "
                "let each rank go through the same lines, and leave the frozen ones out."
                if tensor is None
                else f"you give it {describe(tensor)}. Make a tensor, `x = torch.tensor(...)`, and read the sum there."
            )
            raise Fault(f"`{name}` takes a tensor; {told}")
        if not tensor.is_contiguous():
            raise Fault(
                f"`{name}`: tensors must be contiguous, says torch too. Give it `x.contiguous()`, or for a gradient "
                "that you change `gradient.clone(memory_format=torch.contiguous_format)`."
            )
        self.calls.append((name, tensor.numel()))
        self.sent.append(tensor.data_ptr())
        return self._meeting.meet(self._rank, len(self.calls), name, tensor)


def on_threads(size: int, work: Callable[[Any], Any]) -> list:
    """Run `work(dist)` on so many ranks, each a thread; return what each returns, or raise what one of them raises."""
    meeting, found, errors = Meeting(size), [None] * size, []

    def run(rank: int) -> None:
        try:
            found[rank] = work(Rank(rank, meeting))
        except BaseException as error:  # noqa: BLE001 - it is raised below
            errors.append((isinstance(error, LeftAlone), rank, error))
        finally:
            meeting.end(rank)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    latest = time.monotonic() + PATIENCE + 10
    for thread in threads:
        thread.join(max(0.0, latest - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        raise Fault(f"a rank has not ended after {PATIENCE} seconds. Does a loop of yours never end?")
    if errors:
        raise min(errors, key=lambda error: error[:2])[2]  # a rank that was left alone is not the cause
    return found


# --- processes --------------------------------------------------------------------------------------------------------

BEGIN = """from __future__ import annotations
import sys as _sys
import torch as _torch
try:  # default values of functions are needed before the functions
    globals().update(_torch.load(f"{_sys.argv[3]}/data.pt", weights_only=False))
except AttributeError:
    pass  # data of a class that is defined below
"""

SCRIPT = """
import datetime as _datetime, sys as _sys
import torch as _torch
import torch.distributed as _dist

_rank, _size, _folder = int(_sys.argv[1]), int(_sys.argv[2]), _sys.argv[3]
_torch.set_num_threads(1)
globals().update(_torch.load(f"{_folder}/data.pt", weights_only=False))
_store = _dist.FileStore(f"{_folder}/store", _size)
_patience = _datetime.timedelta(seconds=120)
_dist.init_process_group("gloo", store=_store, rank=_rank, world_size=_size, timeout=_patience)
try:
    _torch.save(WORK(_dist), f"{_folder}/result-{_rank}.pt")
finally:
    _dist.destroy_process_group()
"""


def on_processes(size: int, work: Callable[[Any], Any]) -> list:
    """Run `work(torch.distributed)` in so many processes, which gloo connects; return what each returns.

    `work` is a function of a notebook or a module. Its text goes to the processes, with what it uses of the notebook:
    functions and classes as text, imports as imports, anything else as data. RuntimeError if a process fails or does
    not end; no process and no file is left.
    """
    lines: dict[str, str] = {}
    data: dict[str, Any] = {}
    name = collect(work, lines, data)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        script = Path(folder) / "rank.py"
        script.write_text("\n".join([BEGIN, *lines.values(), SCRIPT.replace("WORK", name)]), encoding="utf-8")
        torch.save(data, Path(folder) / "data.pt")
        environment = {k: v for k, v in os.environ.items() if k not in ("MASTER_ADDR", "WORLD_SIZE", "RANK")}
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        running = []
        try:
            for rank in range(size):
                with open(Path(folder) / f"said-{rank}.txt", "w", encoding="utf-8") as said:
                    command = [sys.executable, str(script), str(rank), str(size), folder]
                    running.append(subprocess.Popen(command, stdout=said, stderr=said, env=environment))
            wait_for(running, folder)
        finally:
            for process in running:
                process.kill()
                process.wait()
        return [torch.load(Path(folder) / f"result-{rank}.pt", weights_only=False) for rank in range(size)]


def wait_for(running: list[subprocess.Popen], folder: str) -> None:
    """Wait until all processes have ended; RuntimeError as soon as one fails, or when they take too long."""
    latest = time.monotonic() + PATIENCE
    while any(process.poll() is None for process in running):
        if any(process.poll() not in (None, 0) for process in running) or time.monotonic() > latest:
            break
        time.sleep(0.02)
    latest = min(latest, time.monotonic() + 5)
    while any(process.poll() is None for process in running) and time.monotonic() < latest:
        time.sleep(0.02)  # the rank that was left alone may end before the one that is the cause
    failed = []
    for rank, process in enumerate(running):
        if process.poll() not in (None, 0):
            said = (Path(folder) / f"said-{rank}.txt").read_text(encoding="utf-8", errors="replace").strip()
            left = any(words in said for words in ("closed by peer", "reset by peer"))
            failed.append((left, rank, said))
    if failed:
        _, rank, said = min(failed)
        raise RuntimeError(f"rank {rank} failed: {said[-1500:]}")
    if any(process.poll() is None for process in running):
        raise RuntimeError(f"the ranks had not ended after {PATIENCE} seconds: does each make the same calls?")


def collect(thing: Any, lines: dict[str, str], data: dict[str, Any]) -> str:
    """Add to `lines` the text that makes a function or class, and what it uses before it; return its name."""
    name = thing.__name__
    if importable(thing):
        lines[name] = f"from {thing.__module__} import {name}"
        return name
    if name in lines:
        return name
    lines[name] = ""  # it may use itself
    for used, value in used_by(inspect.unwrap(thing)):
        if isinstance(value, ModuleType):
            lines[used] = f"import {value.__name__} as {used}"
        elif isinstance(value, type) or hasattr(value, "__code__"):
            made = collect(value, lines, data)
            if made != used:
                lines[used] = f"{used} = {made}"
        elif not callable(value) or type(value).__module__ != "builtins":
            data[used] = value
        else:
            lines[used] = f"from {value.__module__} import {value.__name__} as {used}"
    del lines[name]
    lines[name] = text_of(inspect.unwrap(thing))  # behind what it uses
    return name


def importable(thing: Any) -> bool:
    """Whether a function or class can be imported by its name from a module."""
    if thing.__module__ == "__main__" or "<locals>" in thing.__qualname__:
        return False
    try:
        return getattr(importlib.import_module(thing.__module__), thing.__name__, None) is thing
    except ImportError:
        return False


def functions_of(thing: Any) -> list:
    """Return a function, or those of a class."""
    if not isinstance(thing, type):
        return [thing]
    plain = [inspect.unwrap(getattr(f, "__func__", f)) for f in vars(thing).values()]
    return [f for f in plain if hasattr(f, "__code__")]


def used_by(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield name -> value of the notebook's names that a function or class reads."""

    def names(code: CodeType) -> Iterator[str]:
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                yield step.argval
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                yield from names(inner)

    bases = thing.__bases__ if isinstance(thing, type) else ()
    for base in bases:
        if base is not object:
            yield base.__name__, base
    for function in functions_of(thing):
        known = function.__globals__
        for name in dict.fromkeys(names(function.__code__)):
            if name in known and known[name] is not thing:
                yield name, known[name]
    if functions_of(thing):  # a base may be written `torch.autograd.Function`; decorators, default values
        known = functions_of(thing)[0].__globals__
        (tree,) = ast.parse(text_of(thing)).body
        parts = [tree]
        if not isinstance(thing, type):
            parts = [*tree.decorator_list, *tree.args.defaults, *filter(None, tree.args.kw_defaults)]
        nodes = [node for part in parts for node in ast.walk(part)]
        for name in dict.fromkeys(node.id for node in nodes if isinstance(node, ast.Name)):
            if name in known and known[name] is not thing:
                yield name, known[name]


def text_of(thing: Any) -> str:
    """Return the text of a function or class of a notebook's cell or of a file."""
    code = functions_of(thing)[0].__code__
    text = "".join(linecache.getlines(code.co_filename))
    kinds = (ast.FunctionDef, ast.ClassDef)
    for node in ast.parse(text).body:
        if isinstance(node, kinds) and node.name == thing.__name__:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    raise RuntimeError(f"the text of {thing.__name__} is not found: define it in a cell of its own with `def`.")
