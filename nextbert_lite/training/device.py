"""The choice of device, in one place."""

from __future__ import annotations

import torch

from nextbert_lite.files import launched


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """Return the named device, or the best there is: an NVIDIA GPU, Apple's (not for several ranks), else the CPU.

    Raises ValueError, which lists what this machine has, for a device that it lacks or that does not exist.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available() and not launched():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if name is None:
        return torch.device(available[0])
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in available:
        raise ValueError(f"there is no device {str(name)!r} here. This machine has: {', '.join(available)}.")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise ValueError(f"there is no {device}: this machine has {torch.cuda.device_count()} CUDA devices, from 0.")
    return device
