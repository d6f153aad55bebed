"""Calls seen before: the short way from a functional form to the code that runs it.

A call is like an earlier one where the same weights come, unchanged, with an input of the same sizes and strides and
the same settings. Weights are known by identity, version counter, address and layout; the version counts every change
that torch sees. Changes that it does not see, through numpy or `.data`, need `repack_`. Those made in inference mode
have no version and are compared with a copy.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Hashable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, get_num_threads, is_grad_enabled, nn
from torch._C import _len_torch_dispatch_stack as _dispatch_modes
from torch._C._dynamo.guards import TensorGuards
from torch.autograd import forward_ad

from .base import Runner

# Settings that a set of weights is kept with, the oldest go first, and inputs for each, those longest out of use do.
_MOST_SETTINGS = 16
_MOST_INPUTS = 64

Tensors = Sequence[Tensor | None]
# The identities of the tensors, then those of the window's arguments, then what else tells a call, by value. The caller
# writes it as one tuple: a quarter of a microsecond, half of what it takes by map.
Key = tuple[Hashable, ...]

_known: dict[tuple[int, ...], Remembered] = {}
_settings: dict[Key, Settings] = {}


class Remembered:
    """A set of weights as it was when something was made of it; `packs` is the backends' own."""

    __slots__ = ("_addresses", "_layouts", "_references", "_storages", "_versions", "keys", "packs")

    def __init__(self, tensors: Tensors) -> None:
        key = tuple(map(id, tensors))
        present = [tensor for tensor in tensors if tensor is not None]
        self._references = [weakref.ref(tensor, lambda _: _forget(key)) for tensor in present]
        self._versions = [None if tensor is None or tensor.is_inference() else tensor._version for tensor in tensors]
        self._addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        self._layouts = [None if tensor is None else (tensor.shape, tensor.stride()) for tensor in tensors]
        # Held, so that no other numbers come to lie at these addresses: `.data = ...` leaves the version as it is.
        self._storages = [tensor.untyped_storage() for tensor in present]
        self.packs: dict[Hashable, Any] = {}
        self.keys: list[Key] = []

    def is_as_it_was(self, tensors: Tensors) -> bool:
        """Whether these, which are the same tensors, hold what they held, in the same layout."""
        layouts = [None if tensor is None else (tensor.shape, tensor.stride()) for tensor in tensors]
        return layouts == self._layouts and self.is_current(tensors)

    def is_current(self, tensors: Tensors) -> bool:
        """The same but for the layout, which `.data = ...` may change alone: `find` has guards for it."""
        for tensor, version, address in zip(tensors, self._versions, self._addresses):  # noqa: B905  slower when strict
            if tensor is not None and (tensor._version != version or tensor.data_ptr() != address):
                return False
        return True


class Compared(Remembered):
    """Weights of which some have no version: they are compared with copies.

    1024 to 1024 channels take 0.1 ms to compare, 1.4 ms to pack (AMD EPYC, Zen 4, 1 thread, 2026-11-28).
    """

    __slots__ = ("_copies",)

    def __init__(self, tensors: Tensors) -> None:
        super().__init__(tensors)
        self._copies = [tensor.clone() if _has_no_version(tensor) else None for tensor in tensors]

    def is_current(self, tensors: Tensors) -> bool:
        for tensor, version, address, copy in zip(tensors, self._versions, self._addresses, self._copies, strict=True):
            if tensor is None:
                continue
            is_same = tensor._version == version if copy is None else _same(tensor, copy)
            if tensor.data_ptr() != address or not is_same:
                return False
        return True


class Kept(NamedTuple):
    """What ran a call, and what input, weights and residual of one like it must be.

    reads, adds: of the input with all weights, and of the residual: torch's own guards, which tell the type, dtype,
                 sizes, strides and dispatch keys of a tensor, and with these every mode and transform of the calling
                 thread but the modes of a tracer and forward gradients
    """

    runner: Runner
    threads: int
    reads: Callable[..., bool]
    adds: Callable[[Tensor | None], bool] | None


class Settings:
    """Weights with one window and all else that a call says beside its input.

    window: held, since the identities in the key are its own as long as it lives
    kept:   the latest first
    """

    __slots__ = ("kept", "present", "weights", "window")

    def __init__(self, weights: Remembered, tensors: Tensors, window: tuple[object, ...]) -> None:
        self.weights = weights
        self.present = _present(tensors)
        self.window = window
        self.kept: tuple[Kept, ...] = ()


def remembered(tensors: Tensors) -> Remembered:
    """What is kept of these weights as they are now."""
    key = tuple(map(id, tensors))
    found = _known.get(key)
    # `.data = ...` may make a tensor one without a version.
    kind = Compared if any(map(_has_no_version, tensors)) else Remembered
    if type(found) is not kind or not found.is_as_it_was(tensors):
        _forget(key)
        found = _known[key] = kind(tensors)
    return found


def find(key: Key, x: Tensor, residual: Tensor | None, tensors: Tensors, window: tuple[object, ...]) -> Runner | None:
    """What ran a call like this one; the key tells whether there is a residual."""
    try:
        settings = _settings.get(key) or _made_anew(key, tensors, window)
    except TypeError:  # a list has no hash
        return None
    if settings is None:
        return None
    threads, present = get_num_threads(), settings.present(tensors)
    for kept in settings.kept:
        if kept.threads == threads and kept.reads(x, *present) and (kept.adds is None or kept.adds(residual)):
            break
    else:
        return None
    if (
        _dispatch_modes()
        or forward_ad._current_level >= 0
        or (is_grad_enabled() and needs_gradient(x, residual, tensors))
    ):
        return None
    if not settings.weights.is_current(tensors):
        return None
    if kept is not settings.kept[0]:
        settings.kept = (kept, *(other for other in settings.kept if other is not kept))
    return kept.runner


def keep(
    key: Key, x: Tensor, residual: Tensor | None, tensors: Tensors, window: tuple[object, ...], runner: Runner
) -> None:
    """Let `find` give `runner` for calls like this one."""
    weights = _known.get(tuple(map(id, tensors)))
    try:
        hash((key, window))
    except TypeError:  # a list may change
        return
    # Where they changed meanwhile the runner is of the old ones.
    if weights is None or not weights.is_as_it_was(tensors):
        return
    settings = _settings.get(key) or _made_anew(key, tensors, window)
    if settings is None or settings.weights is not weights:
        settings = Settings(weights, tensors, window)
        by_value = _by_value(key, tensors, window)
        new = [key] if by_value is None else [key, by_value]
        weights.keys += new
        for known in weights.keys[:-_MOST_SETTINGS]:
            _settings.pop(known, None)
        del weights.keys[:-_MOST_SETTINGS]
        _settings.update(dict.fromkeys(new, settings))
    adds = None if residual is None else _guard(residual)
    reads = _guard(x, *settings.present(tensors))
    settings.kept = (Kept(runner, get_num_threads(), reads, adds), *settings.kept[: _MOST_INPUTS - 1])


def repack_(model: nn.Module | None = None) -> int:
    """Forget what was made of a model's weights, or of all, after a change that torch does not see; how many were kept.

    Needed after writing to a weight through numpy or `.data`: `weight.data.mul_(2)`. Optimizer steps,
    `load_state_dict`, `copy_` and `.data = ...` are seen.
    """
    if model is None:
        forgotten = len(_known)
        _known.clear()
        _settings.clear()
        return forgotten
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    keys = [key for key in list(_known) if own.intersection(key)]
    for key in keys:
        _forget(key)
    return len(keys)


def is_plain(x: Tensor) -> bool:
    """Whether `x` holds its numbers and no more: no fake, subclass, negated view, mode, tracer or tangent."""
    return (
        type(x) is Tensor
        and not x.is_neg()
        and forward_ad._current_level < 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and not _dispatch_modes()
        and torch._C._get_tracing_state() is None
        and not torch._C._is_any_autocast_enabled()
    )


def needs_gradient(x: Tensor, residual: Tensor | None, tensors: Tensors) -> bool:
    """Whether autograd would record a call."""
    if not is_grad_enabled():
        return False
    return any(tensor is not None and tensor.requires_grad for tensor in (x, residual, *tensors))


def _same(tensor: Tensor, copy: Tensor) -> bool:
    """Whether two tensors of one size hold the same bits, or else equal numbers."""
    if _compare is None or tensor.stride() != copy.stride() or tensor.is_neg():
        return torch.equal(tensor, copy)
    return _compare(tensor.data_ptr(), copy.data_ptr(), tensor.nbytes) == 0


def _has_no_version(tensor: Tensor | None) -> TypeGuard[Tensor]:
    return tensor is not None and tensor.is_inference()


def _memcmp() -> Callable[[int, int, int], int] | None:
    """That of the C library, where it has this name: a quarter of the time of `torch.equal` (the same machine)."""
    if os.name != "posix":
        return None
    compare = ctypes.CDLL(None).memcmp
    compare.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return compare


_compare = _memcmp()


def is_plain_window(value: object) -> bool:
    """Whether a window's argument can be told by its value: True and 1.0 would pass for 1, and a list has no hash."""
    return type(value) in (int, str) or (isinstance(value, tuple) and all(map(is_plain_window, value)))


def _forget(tensors: tuple[int, ...]) -> None:
    """Nothing is kept of the weights of these identities."""
    weights = _known.pop(tensors, None)
    for key in () if weights is None else weights.keys:
        _settings.pop(key, None)


def _by_value(key: Key, tensors: Tensors, window: tuple[object, ...]) -> Key | None:
    """The key by the window's values, where equal ones may be other objects: small numbers are not, tuples may be."""
    if not any(isinstance(value, tuple) for value in window) or not is_plain_window(window):
        return None
    return (*key[: len(tensors)], *window, *key[len(tensors) + len(window) :])


def _made_anew(key: Key, tensors: Tensors, window: tuple[object, ...]) -> Settings | None:
    """Settings kept of a call whose window had equal arguments."""
    by_value = _by_value(key, tensors, window)
    return None if by_value is None else _settings.get(by_value)


def _present(tensors: Tensors) -> Callable[[Tensors], Sequence[Tensor]]:
    """What takes from tensors like these each that is there, once: torch's guards want no other."""
    first = {id(tensor): i for i, tensor in reversed([*enumerate(tensors)]) if tensor is not None}
    places = sorted(first.values())
    return itemgetter(*places) if len(places) > 1 else itemgetter(slice(places[0], places[0] + 1))


def _guard(*tensors: Tensor) -> Callable[..., bool]:
    # torch's annotation leaves the tensors out.
    make: Any = TensorGuards
    sizes, strides = [list(tensor.shape) for tensor in tensors], [list(tensor.stride()) for tensor in tensors]
    return make(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides).check  # type: ignore[no-any-return]
