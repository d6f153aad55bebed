"""Problems one after another, as a backend runs them in one call: what each reads and writes, by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from .base import Weights
from .pixels import PixelProblem
from .problem import Problem


@dataclass(frozen=True, slots=True)
class Step:
    """One problem.

    buffers: for each tensor that it reads and writes, by its name there (x, residual, out, ...), the name of a value
    weights: what a convolution reads beside these, its residual left out
    """

    problem: Problem | PixelProblem
    buffers: tuple[tuple[str, str], ...]
    weights: Weights | None = None


@dataclass(frozen=True)
class Series:
    """Steps in the order in which they run.

    takes, gives: values that the caller has memory for, at each call; all others are the program's own
    elements:     of each value that a step writes
    constants:    values that stay: contiguous float32
    """

    steps: tuple[Step, ...]
    takes: frozenset[str]
    gives: frozenset[str]
    elements: Mapping[str, int]
    constants: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a series is once it is planned: kernels one after another, waits of all threads, memory between them."""

    stages: int
    barriers: int
    arena_bytes: int


class Compiled(ABC):
    """A series that a backend is ready to run, from any thread."""

    @abstractmethod
    def run(self, addresses: Mapping[str, int]) -> None:
        """Run it on the memory of what it takes and gives."""
