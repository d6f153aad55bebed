"""Calls seen before: the short way from a functional form to the code that runs it.

A call is like an earlier one where the same weights come, unchanged, with an input of the same sizes and strides and
the same settings. Weights are known by identity, version counter and address; the version counts every change that
torch sees. Changes that it does not see, through numpy or `.data`, need `repack_`.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._C._dynamo.guards import TensorGuards

from .base import Runner

# Calls of one layer that are kept, and of these, inputs of one shape that differ otherwise; the oldest go first.
_MOST_RUNNERS = 64
_MOST_ALIKE = 4

Tensors = Sequence[Tensor | None]
_known: dict[tuple[int, ...], Remembered] = {}


class Remembered:
    """A set of weights as it was when something was made of it; `packs` is the backends' own."""

    __slots__ = ("_states", "_storages", "packs", "runners")

    def __init__(self, tensors: Tensors) -> None:
        key = tuple(map(id, tensors))

        def forget(_: object) -> None:
            _known.pop(key, None)

        self._states = [(weakref.ref(t, forget), t._version, t.data_ptr()) for t in tensors if t is not None]
        # Held, so that no other numbers come to lie at these addresses: `.data = ...` leaves the version as it is.
        self._storages = [t.untyped_storage() for t in tensors if t is not None]
        self.packs: dict[Hashable, Any] = {}
        self.runners: dict[Hashable, tuple[Kept, ...]] = {}

    def is_current(self) -> bool:
        """Whether the weights, known by their identities, are as they were."""
        for reference, version, address in self._states:
            tensor = reference()
            if tensor is None or tensor._version != version or tensor.data_ptr() != address:
                return False
        return True


class Kept(NamedTuple):
    """What ran a call, and what the input of one like it must be.

    guards: torch's own, which tell the type, dtype, sizes, strides and dispatch keys of a tensor, and with these every
            mode and transform of the calling thread but the modes of a tracer
    window: held, since the identities in the key are its own as long as it lives
    """

    runner: Runner
    guards: TensorGuards
    window: tuple[object, ...]


def remembered(tensors: Tensors) -> Remembered | None:
    """What is kept of these weights as they are now; None where they have no version (inference tensors)."""
    if any(tensor is not None and tensor.is_inference() for tensor in tensors):
        return None
    key = tuple(map(id, tensors))
    found = _known.get(key)
    if found is None or not found.is_current():
        found = _known[key] = Remembered(tensors)
    return found


def find(
    x: Tensor, residual: Tensor | None, tensors: Tensors, window: tuple[object, ...], values: Hashable
) -> Runner | None:
    """What ran a call like this one."""
    found = _known.get(tuple(map(id, tensors)))
    if found is None or type(x) is not Tensor:
        return None
    try:
        kept = found.runners.get(_call_key(x, residual, tuple(map(id, window)), values))
        if kept is None and _is_made_anew(window):
            kept = found.runners.get(_call_key(x, residual, window, values))
    except TypeError:  # a list has no hash
        return None
    for like in kept or ():
        if (
            like.guards.check(x)
            and not torch._C._len_torch_dispatch_stack()
            and not needs_gradient(x, residual, tensors)
            and found.is_current()
        ):
            return like.runner
    return None


def keep(
    x: Tensor, residual: Tensor | None, tensors: Tensors, window: tuple[object, ...], values: Hashable, runner: Runner
) -> None:
    """Let `find` give `runner` for calls like this one."""
    found = remembered(tensors)
    try:
        hash((window, values))
    except TypeError:  # a list may change
        return
    if found is not None:
        keys = [_call_key(x, residual, tuple(map(id, window)), values)]
        if _is_made_anew(window):
            keys.append(_call_key(x, residual, window, values))
        while len(found.runners) > _MOST_RUNNERS - len(keys):
            found.runners.pop(next(iter(found.runners)), None)
        # torch's annotation leaves the tensors out.
        make_guards: Any = TensorGuards
        guards = make_guards(x, dynamic_dims_sizes=[list(x.shape)], dynamic_dims_strides=[list(x.stride())])
        for key in keys:
            others = found.runners.get(key, ())[: _MOST_ALIKE - 1]
            found.runners[key] = (Kept(runner, guards, window), *others)


def repack_(model: nn.Module | None = None) -> int:
    """Forget what was made of a model's weights, or of all, after a change that torch does not see; how many were kept.

    Needed after writing to a weight through numpy or `.data`: `weight.data.mul_(2)`. Optimizer steps,
    `load_state_dict`, `copy_` and `.data = ...` are seen.
    """
    if model is None:
        forgotten = len(_known)
        _known.clear()
        return forgotten
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    keys = [key for key in list(_known) if own.intersection(key)]
    for key in keys:
        _known.pop(key, None)
    return len(keys)


def is_plain(x: Tensor) -> bool:
    """Whether `x` holds its numbers as they are: no fake, subclass or negated view, no transform, mode or tracer."""
    return (
        type(x) is Tensor
        and not x.is_neg()
        and torch._C._functorch.peek_interpreter_stack() is None
        and not torch._C._len_torch_dispatch_stack()
        and torch._C._get_tracing_state() is None
        and not torch._C._is_any_autocast_enabled()
    )


def needs_gradient(x: Tensor, residual: Tensor | None, tensors: Tensors) -> bool:
    """Whether autograd would record a call."""
    if not torch.is_grad_enabled():
        return False
    return any(tensor is not None and tensor.requires_grad for tensor in (x, residual, *tensors))


def is_plain_window(value: object) -> bool:
    """Whether a window's argument can be told by its value: True and 1.0 would pass for 1, and a list has no hash."""
    return type(value) in (int, str) or (isinstance(value, tuple) and all(map(is_plain_window, value)))


def _is_made_anew(window: tuple[object, ...]) -> bool:
    """Whether a call like this one may come with other objects: small numbers are the same ones, tuples need not be."""
    return any(isinstance(value, tuple) for value in window) and is_plain_window(window)


def _call_key(x: Tensor, residual: Tensor | None, window: tuple[object, ...], values: Hashable) -> Hashable:
    """`window`: the identities of its arguments, looked at first, or its arguments."""
    added = None if residual is None else (type(residual), residual.shape, residual.dtype, residual.is_cpu)
    return x.shape, added, torch.get_num_threads(), window, values
