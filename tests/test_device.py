"""The choice of device: the best there is, or the one that was named, or a sentence."""

import pytest
import torch

from nextbert_lite.training.device import pick_device


@pytest.fixture
def machine(monkeypatch):
    """A machine that has what it is told to have."""

    def has(cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return has


def test_the_best_device_is_taken(machine):
    for found, best in (({}, "cpu"), ({"mps": True}, "mps"), ({"cuda": 1}, "cuda"), ({"cuda": 2, "mps": True}, "cuda")):
        machine(**found)
        assert pick_device() == torch.device(best)


def test_a_named_device_is_taken_by_name_or_object(machine):
    machine(cuda=2)
    for name in ("cpu", "cuda", "cuda:1", torch.device("cuda", 0)):
        assert pick_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("here", "name", "words"),
    [
        *(
            ({}, name, rf"there is no device '{name}' here\. This machine has: cpu\.")
            for name in ("tpu", "gpu", "cuda", "cuda:0", "mps", "meta", "", "CPU", torch.device("cuda"))
        ),
        ({"cuda": 1, "mps": True}, "xpu", "This machine has: cuda, mps, cpu"),
        ({"cuda": 2}, "cuda:2", "there is no cuda:2: this machine has 2 CUDA devices, from 0"),
    ],
)
def test_a_device_that_is_not_here_is_refused_and_those_here_are_named(machine, here, name, words):
    machine(**here)
    with pytest.raises(ValueError, match=words):
        pick_device(name)
