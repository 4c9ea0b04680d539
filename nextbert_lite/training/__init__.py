"""What the lessons show: tokenizer, batches, the training loop, the device."""

from importlib import import_module


def __getattr__(name: str):
    """Find `fit` and the like here too: in the first edition the loop was this module."""
    return getattr(import_module("nextbert_lite.training.loop"), name)
