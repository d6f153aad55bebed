"""The registry of backends: who can run a convolution, who was chosen, and why the others were not.

A kernel exists only through its backend's row in `BACKENDS`. Automatic choice takes the first row that does not
refuse; a backend asked for by name that refuses is an error, never a silent fallback.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from ..errors import DepthwiseError
from . import recall
from .base import Backend, Call, Runner
from .cpu import Cpu
from .eager import EAGER
from .recall import Key, Tensors

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
    "recall",
]

CPU = Cpu()
BACKENDS: tuple[Backend, ...] = (CPU, EAGER)


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend that runs a call, and the reason of each one before it that refused."""

    call: Call
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
        return self.backend.kernel(self.call)


_asked: ContextVar[str | None] = ContextVar("depthwise_backend", default=None)
_observer: ContextVar[Callable[[Choice], object] | None] = ContextVar("depthwise_observer", default=None)


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
    token = _asked.set("auto" if name is None else _known(name, "backend(...)"))
    try:
        yield
    finally:
        _asked.reset(token)


def asked_backend() -> str | None:
    """The name given to `backend` or in DEPTHWISE_BACKEND; None where the choice is automatic."""
    name = _asked.get()
    if name is None:
        name = read_environment()
    return None if name == "auto" else name


@cache
def read_environment() -> str:
    """The name in DEPTHWISE_BACKEND, or "auto"."""
    # Read once: a look into the environment costs as much as a short kernel's start.
    name = os.environ.get("DEPTHWISE_BACKEND") or "auto"
    return name if name == "auto" else _known(name, "DEPTHWISE_BACKEND")


def choose(call: Call) -> Choice:
    """The backend that runs `call`: the one asked for, or else the first that does not refuse."""
    asked = asked_backend()
    refusals: list[tuple[str, str]] = []
    for candidate in BACKENDS:
        if asked not in (None, candidate.name):
            continue
        why = candidate.refusal(call)
        if why is None:
            choice = Choice(call, candidate, tuple(refusals))
            observe = _observer.get()
            if observe is not None:
                observe(choice)
            return choice
        refusals.append((candidate.name, why))
    raise DepthwiseError(f"the backend {asked!r} was asked for and refuses: {refusals[-1][1]}; ask for another or none")


def recalled(
    key: Key, x: Tensor, residual: Tensor | None, tensors: Tensors, window: tuple[object, ...]
) -> Runner | None:
    """What ran a call like this one, with the weights as they are; None where the call must be looked at anew.

    key: empty while torch.compile traces; other tracers bring tensors or modes that `find` sees
    """
    if not key or is_observed():
        return None
    asked = _asked.get()
    return recall.find(key if asked is None else (*key, asked), x, residual, tensors, window)


def remember(
    key: Key, x: Tensor, residual: Tensor | None, tensors: Tensors, window: tuple[object, ...], runner: Runner
) -> None:
    """Let `recalled` give `runner` for calls like this one."""
    asked = _asked.get()
    recall.keep(key if asked is None else (*key, asked), x, residual, tensors, window, runner)


def is_observed() -> bool:
    """Whether someone is told of each choice, so that none may be skipped."""
    return _observer.get() is not None


@contextmanager
def observed_choices(observe: Callable[[Choice], object]) -> Iterator[None]:
    """Call `observe` with the choice of every call made inside."""
    token = _observer.set(observe)
    try:
        yield
    finally:
        _observer.reset(token)


def _known(name: str, source: str) -> str:
    names = [candidate.name for candidate in BACKENDS]
    if name not in names:
        raise DepthwiseError(f"{source} names the backend {name!r}; here there are: {', '.join(names)}")
    return name
