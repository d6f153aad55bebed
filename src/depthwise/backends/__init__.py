"""The registry of backends: who can run a convolution, who was chosen, and why the others were not.

A kernel exists only through its backend's row in `BACKENDS`. Automatic choice takes the first row that does not
refuse; a backend asked for by name that refuses is an error, never a silent fallback.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from ..errors import DepthwiseError
from .base import Backend
from .calls import circumstances
from .cpu import Cpu
from .eager import EAGER
from .problem import Problem

__all__ = [
    "BACKENDS",
    "CPU",
    "EAGER",
    "Choice",
    "asked_backend",
    "backend",
    "choose",
    "is_observed",
    "observed_choices",
]

CPU = Cpu()
BACKENDS: tuple[Backend, ...] = (CPU, EAGER)


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend that runs a call, and the reason of each one before it that refused."""

    problem: Problem
    backend: Backend
    refusals: tuple[tuple[str, str], ...]

    @property
    def reason(self) -> str:
        if not self.refusals:
            return self.backend.summary
        return "; ".join(f"{name} refuses: {why}" for name, why in self.refusals)

    @property
    def kernel(self) -> str | None:
        """The name of what runs the call, where the backend has names."""
        return self.backend.kernel(self.problem)


@contextmanager
def backend(name: str | None) -> Iterator[None]:
    """Run the convolutions inside with the backend of this name; None restores the automatic choice.

    A call that the named backend refuses raises. The environment variable DEPTHWISE_BACKEND does the same for a whole
    process; `backend` holds for its own thread alone, and not inside a function that is compiled. A program traced
    inside (torch.compile) keeps the choice made while tracing.

    >>> with backend("eager"):
    ...     asked_backend()
    'eager'
    """
    asked = "auto" if name is None else _known(name, "backend(...)")
    token = circumstances.set(circumstances.get()._replace(asked=asked))
    try:
        yield
    finally:
        circumstances.reset(token)


def asked_backend() -> str | None:
    """The name given to `backend` or in DEPTHWISE_BACKEND; None where the choice is automatic."""
    name = circumstances.get().asked
    if name is None:
        name = read_environment()
    return None if name == "auto" else name


@cache
def read_environment() -> str:
    """The name in DEPTHWISE_BACKEND, or "auto"."""
    # Read once: a look into the environment costs as much as a short kernel's start.
    name = os.environ.get("DEPTHWISE_BACKEND") or "auto"
    return name if name == "auto" else _known(name, "DEPTHWISE_BACKEND")


def choose(problem: Problem) -> Choice:
    """The backend that runs `problem`: the one asked for, or else the first that does not refuse."""
    asked = asked_backend()
    refusals: list[tuple[str, str]] = []
    for candidate in BACKENDS:
        if asked not in (None, candidate.name):
            continue
        why = candidate.refusal(problem)
        if why is None:
            choice = Choice(problem, candidate, tuple(refusals))
            observe = circumstances.get().observe
            if observe is not None:
                observe(choice)
            return choice
        refusals.append((candidate.name, why))
    raise DepthwiseError(f"the backend {asked!r} was asked for and refuses: {refusals[-1][1]}; ask for another or none")


def is_observed() -> bool:
    """Whether someone is told of each choice, so that none may be skipped."""
    return circumstances.get().observe is not None


@contextmanager
def observed_choices(observe: Callable[[Choice], object]) -> Iterator[None]:
    """Call `observe` with the choice of every call made inside."""
    token = circumstances.set(circumstances.get()._replace(observe=observe))
    try:
        yield
    finally:
        circumstances.reset(token)


def _known(name: str, source: str) -> str:
    names = [candidate.name for candidate in BACKENDS]
    if name not in names:
        raise DepthwiseError(f"{source} names the backend {name!r}; here there are: {', '.join(names)}")
    return name
