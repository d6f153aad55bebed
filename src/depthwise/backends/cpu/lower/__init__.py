"""A problem becomes stages: the one table of which operations have kernels, a file for each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...problem import Operation, Problem
from ..machine import Machine
from .decision import Decision
from .dense import lower_dense
from .pointwise import lower_pointwise
from .separable import lower_separable

LOWERINGS: Mapping[Operation, Callable[[Problem, Machine, int], Decision]] = {
    "depthwise": lower_separable,
    "separable": lower_separable,
    "pointwise": lower_pointwise,
    "dense": lower_dense,
}


def lower(problem: Problem, machine: Machine, threads: int) -> Decision:
    """The stages of a problem.

    threads: as many as there are; fewer are used where there is little to do
    """
    return LOWERINGS[problem.operation](problem, machine, threads)
