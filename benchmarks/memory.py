"""The memory of a training step, measured in a process of its own: `python -m benchmarks.memory ARM C LAYERS V T B`.

Prints two numbers of bytes: held when model, optimizer and batch were ready, and the most during three steps.
"""

from __future__ import annotations

import sys

import psutil

from benchmarks.arms import configuration, make_arms, random_batch, training_step
from benchmarks.measure import peak_memory


def main(name: str, *numbers: str) -> None:
    """Run three steps of one arm. The optimizer makes its two moments in the first, so they count as the step's."""
    C, layers, V, T, B = map(int, numbers)
    arm = make_arms(configuration(C, layers, V, T), [name])[name]
    step, batch = training_step(arm), random_batch(V, B, T, share=0.07)
    before = psutil.Process().memory_info().rss
    for _ in range(3):
        step(batch)
    print(before, peak_memory())


if __name__ == "__main__":
    main(*sys.argv[1:])
