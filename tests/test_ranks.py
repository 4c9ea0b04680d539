"""Lesson 20's ranks, as threads and as processes: they give the same numbers, and they always end."""

import linecache
import threading

import pytest
import torch

from nextbert_lite.checks import ranks
from nextbert_lite.checks.core import Fault
from nextbert_lite.checks.ranks import LEFT, on_processes, on_threads

FACTOR = 3


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


def scaled(dist):
    return FACTOR * (dist.get_rank() + 1)


def work(dist):
    x = torch.full((2,), float(scaled(dist)))
    dist.all_reduce(x)
    everyone = [torch.empty(2) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, Doubled.apply(x + dist.get_rank()))
    return x, torch.cat(everyone)


def test_threads_meet_in_the_order_of_the_ranks():
    for size in (1, 2, 3):
        for x, everyone in on_threads(size, work):
            total = 3.0 * sum(range(1, size + 1))
            assert x.tolist() == [total] * 2
            assert everyone.tolist() == [2 * (total + rank) for rank in range(size) for _ in range(2)]


def test_a_thread_that_is_left_alone_says_so():
    def leaves(dist):
        if dist.get_rank() == 0:
            dist.all_reduce(torch.ones(1))

    with pytest.raises(Fault) as failure:
        on_threads(3, leaves)
    assert str(failure.value) == LEFT.format("all_reduce")


def test_what_one_thread_raises_is_told_and_not_that_others_were_left():
    def raises(dist):
        if dist.get_rank() == 1:
            raise KeyError("its own error")
        dist.all_reduce(torch.ones(1))

    with pytest.raises(KeyError, match="its own error"):
        on_threads(3, raises)


@pytest.mark.parametrize("what", ["shapes", "names", "kinds"])
def test_threads_that_meet_with_different_things_are_told(what):
    def differ(dist):
        first = dist.get_rank() == 0
        if what == "names" and first:
            dist.all_gather([torch.ones(1), torch.ones(1)], torch.ones(1))
        numbers = torch.ones(2 if what == "shapes" and first else 1)
        dist.all_reduce(numbers.double() if what == "kinds" and first else numbers)

    with pytest.raises(Fault, match="the ranks meet with different things"):
        on_threads(2, differ)


def test_processes_give_what_threads_give():
    threads, processes = on_threads(2, work), on_processes(2, work)
    for one, other in zip(threads, processes, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def fails(dist):
    if dist.get_rank() == 0:
        raise KeyError("its own error")
    dist.all_reduce(torch.ones(1))


def test_a_process_that_fails_ends_all():
    with pytest.raises(RuntimeError, match=r"(?s)rank \d failed: .*(its own error|closed by peer|Connection)"):
        on_processes(2, fails)


def test_the_rank_that_is_the_cause_is_reported():
    with pytest.raises(RuntimeError, match=r"(?s)rank 0 failed: .*its own error"):
        on_processes(2, fails)


def test_annotations_default_values_and_decorators_travel_to_processes():
    names = {"torch": torch, "FACTOR": 3, "__name__": "__main__"}
    text = (
        "from torch import Tensor\n@torch.no_grad()\n"
        "def typed(x: Tensor, by=FACTOR, also: int | None = None) -> Tensor:\n    return x * by\n\ndef "
        "typed_work(dist: object):\n    return typed(torch.ones(2))\n"
    )
    name = "<a cell of a notebook>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    exec(compile(text, name, "exec"), names)
    assert [x.tolist() for x in on_processes(2, names["typed_work"])] == [[3.0, 3.0]] * 2


def test_a_thread_that_never_ends_is_told(monkeypatch):
    monkeypatch.setattr(ranks, "PATIENCE", -9.5)
    ended = threading.Event()
    with pytest.raises(Fault, match="never end"):
        on_threads(2, lambda dist: ended.wait(20))
    ended.set()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda dist: dist.all_reduce(None), "you give it None"),
        (lambda dist: dist.all_reduce(5), r"you give it 5 \(int\)"),
        (lambda dist: dist.all_reduce(torch.ones(2, 3).T), "must be contiguous"),
        (lambda dist: dist.all_gather([], torch.ones(2)), "one tensor for each of the 2 ranks"),
        (lambda dist: dist.all_gather([torch.ones(2)] * 2, torch.ones(2)), "are one tensor"),
        (lambda dist: dist.all_gather([torch.ones(2).int(), torch.ones(2)], torch.ones(2)), "shape and dtype"),
    ],
    ids=["nothing", "a number", "a transposed one", "an empty list", "one tensor repeated", "another dtype"],
)
def test_a_wrong_argument_is_told(call, words):
    with pytest.raises(Fault, match=words):
        on_threads(2, call)
