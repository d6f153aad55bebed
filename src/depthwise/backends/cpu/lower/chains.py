"""Layers one after another as one program forward and one backward: convolutions with batch norms, squeeze-excites.

The stages are those of each part alone, so the numbers are the same, but where a squeeze-excite's factors go into the
weights behind it. A gradient between two parts is memory of the program's own. Buffers are called by a layer's number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from math import prod

from ..machine import Machine
from ..run.program import Program, Stage
from .links import Link, Part


def numbered(links: Sequence[Link]) -> list[tuple[int, Link]]:
    """Each with the number of its last layer."""
    return [*zip((n - 1 for n in accumulate(link.layers for link in links)), links, strict=True)]


def forward_program(links: Sequence[Link], machine: Machine, threads: int) -> Program:
    """Buffers: x, residual, running_mean and running_var of norms, parameters, and all that is made."""
    stages, source = _Stages(machine, threads), "x"
    for number, link in numbered(links):
        stages.add(link.forward(number, source))
        source = link.made(number)[-1].buffer
    return stages.program({})


def backward_program(
    links: Sequence[Link], machine: Machine, threads: int, *, input_gradient: bool, weights: bool
) -> Program:
    """Buffers: x, dy, dx, parameters and their gradients, and all that was made.

    weights: gradients of convolutions' weights and biases, too; those of norms are always there
    """
    stages, between, dy = _Stages(machine, threads), dict[str, int](), "dy"
    order = numbered(links)
    for place in reversed(range(len(order))):
        number, link = order[place]
        source, dx = "x", "dx" if input_gradient else None
        if place:
            earlier, before = order[place - 1]
            made = before.made(earlier)[-1]
            source, dx = made.buffer, f"{made.buffer}_gradient"
            between[dx] = prod(made.size)
        between |= link.between(number)
        stages.add(link.backward(number, source, dy, dx, weights=weights))
        dy = dx or ""
    return stages.program(between)


class _Stages:
    """Those of programs one after another, each with memory of its own."""

    def __init__(self, machine: Machine, threads: int) -> None:
        self._on = machine, threads
        self._stages: list[Stage] = []
        self._between: dict[str, int] = {}
        self._count = 0

    def add(self, parts: Iterator[Part]) -> None:
        for make, buffers in parts:
            program = make(*self._on)
            own = {name: f"#{self._count}.{name}" for name, _ in program.between}
            self._between |= {own[name]: elements for name, elements in program.between}
            self._stages += [stage.renamed(own | buffers) for stage in program.stages]
            self._count += 1

    def program(self, between: Mapping[str, int]) -> Program:
        used = {buffer for stage in self._stages for buffer in stage.pointers.values()}
        known = self._between | {name: n for name, n in between.items() if name in used}
        return Program(tuple(self._stages), tuple(known.items()))
