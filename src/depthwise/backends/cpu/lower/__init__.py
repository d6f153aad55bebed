"""A problem becomes stages: the one table of which operations have kernels, a file for each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...pixels import PixelProblem
from ...problem import Problem
from ..machine import Machine
from .bilinear import lower_bilinear
from .copy import lower_copy
from .decision import Decision
from .dense import lower_dense
from .elementwise import lower_elementwise
from .group_norm import lower_group_norm
from .mean import lower_mean
from .nearest import lower_nearest
from .pointwise import lower_pointwise
from .pool import lower_pool
from .rearrange import lower_rearrange
from .rows import lower_layer_norm, lower_softmax
from .separable import lower_separable

LOWERINGS: Mapping[str, Callable[[Any, Machine, int], Decision]] = {
    "depthwise": lower_separable,
    "separable": lower_separable,
    "pointwise": lower_pointwise,
    "elementwise": lower_elementwise,
    "mean": lower_mean,
    "copy": lower_copy,
    "rearrange": lower_rearrange,
    "bilinear": lower_bilinear,
    "group_norm": lower_group_norm,
    "nearest": lower_nearest,
    "layer_norm": lower_layer_norm,
    "softmax": lower_softmax,
    "dense": lower_dense,
    "max_pool": lower_pool,
    "average_pool": lower_pool,
}


def lower(problem: Problem | PixelProblem, machine: Machine, threads: int) -> Decision:
    """The stages of a problem.

    threads: as many as there are; fewer are used where there is little to do
    """
    return LOWERINGS[problem.operation](problem, machine, threads)
