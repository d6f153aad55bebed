"""The gradients of gated images, run directly in chosen memory and on chosen machines."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from depthwise.backends.cpu.lower.gates import GateProblem, gradient_program
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.run.bound import Bound
from tests.support.cases import small_integers
from tests.support.kernels import HEAP, Memory

# Fewer than are summed at once, as many, and more, even and odd.
PIXELS = (2, 63, 64, 65, 131)
# Below, equal to, a multiple of and above the lanes of every machine, and of four vectors.
CHANNELS = (1, 3, 8, 17, 31, 64, 71, 129)


def check_gate_gradients(
    target: Machine,
    memory: Memory = HEAP,
    *,
    channels: Iterable[int] = CHANNELS,
    pixels: Iterable[int] = PIXELS,
    team: int = 1,
) -> None:
    """Small integers, whose products and sums are exact."""
    for problem in [GateProblem(3, each, wide) for wide in channels for each in pixels]:
        size, row = (3, problem.pixels, problem.channels), (3, problem.channels)
        draw = small_integers(problem.channels)
        x, dy, factors = draw(size), draw(size), draw(row)
        tensors = {name: memory.place(one) for name, one in (("x", x), ("dy", dy), ("factors", factors))}
        tensors |= {"dx": memory.place(x).fill_(float("nan"))}
        tensors |= {"factors_gradient": memory.place(factors).fill_(float("nan"))}
        Bound(gradient_program(problem, target, team), 1.0).run({name: t.data_ptr() for name, t in tensors.items()})
        assert torch.equal(tensors["dx"], dy * factors[:, None]), f"dx of {problem}: elements differ"
        expected = (dy * x).sum(1)
        assert torch.equal(tensors["factors_gradient"], expected), f"factors of {problem}: elements differ"
