"""What is known of weights: what was made of them, and whether they still hold what it was made of.

A set of weights is found by the identities of its tensors. That it is as it was is seen from versions, which count
every change that torch sees, addresses, layouts, and, where torch saw nothing (`.data`, numpy, fused optimizers), from
prints: a handful of words of each tensor, spread over it, which whoever reads the numbers compares before it computes.
Tensors that have no version, and those that a gradient was asked of and that may be updated unseen, are compared whole.

Nothing here holds a tensor, its memory, or a weak reference to it: `torch.utils.swap_tensors` refuses tensors that have
one. A tensor is known by the dictionary of its attributes, which is no other's as long as it is held; its memory by a
weak reference to the storage, whose end lets go of all that was made of it.
"""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import cache, lru_cache
from itertools import chain, islice
from math import prod
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..errors import DepthwiseError
from .forks import Lock
from .tensors import Tensors

# Of a tensor; one of no more words is printed whole.
MOST_WORDS = 16
# Words looked at for some that are not zero: zeros do not show that all weights were scaled.
_MOST_LOOKED_AT = 256
_GOLDEN = (5**0.5 - 1) / 2
_WORD_BYTES = 4
# Of one set of weights, the oldest go first: for other tiles, other layouts, other settings.
_MOST_PACKS = 16
# Tensors known before those that are gone are looked for; twice as many as were left, from then on.
_FEWEST_SWEPT = 1024

Identities = tuple[int, ...]


class Known:
    """One tensor: who it is, the sets kept that have it, and its version when a gradient of it was asked for."""

    __slots__ = ("asked", "sets", "token")

    def __init__(self, token: dict[str, Any]) -> None:
        self.token = token
        self.sets: set[Identities] = set()
        self.asked: int | None = None


_tensors: dict[int, Known] = {}
# What is kept of weights by their identities, whatever became of them.
sets: dict[Identities, Snapshot] = {}
_lock = Lock()
_sweep_at = _FEWEST_SWEPT


class Snapshot:
    """A set of weights as it was when something was made of it.

    packs: what backends made, by their own keys
    calls: settings that calls with these weights had; see calls.py
    """

    __slots__ = ("_layouts", "_present", "_storages", "calls", "packs", "prints")

    def __init__(self, tensors: Tensors) -> None:
        identities = identities_of(tensors)
        # Of those that are there, by their places, the token, the version and the address: what each call looks at.
        self._present = [
            (place, _known(tensor).token, None if tensor.is_inference() else tensor._version, tensor.data_ptr())
            for place, tensor in enumerate(tensors)
            if tensor is not None
        ]
        self._layouts = [None if tensor is None else (tensor.shape, tensor.stride()) for tensor in tensors]
        storages = {tensor.untyped_storage() for tensor in tensors if tensor is not None}
        self._storages = [weakref.ref(storage, lambda _: forget(identities)) for storage in storages]
        self.prints = Prints(tensors)
        self.packs: dict[Hashable, Any] = {}
        self.calls: dict[Hashable, Any] = {}

    def packed(self, key: Hashable, tensors: Tensors, make: Callable[[], Any]) -> Any | None:
        """The pack of this key, made where there is none; None where the tensors changed meanwhile."""
        found = self.packs.get(key)
        if found is not None:
            return found
        if not self.is_as_it_was(tensors):
            return None
        found = make()
        # Whatever was written while it was made shows in a version or in the prints.
        if not self.is_as_it_was(tensors):
            return None
        self.packs[key] = found
        for oldest in [*islice(self.packs, len(self.packs) - _MOST_PACKS)] if len(self.packs) > _MOST_PACKS else ():
            self.packs.pop(oldest, None)
        return found

    def is_as_it_was(self, tensors: Tensors) -> bool:
        """Whether these, which have the identities of those of before, hold what they held, in the same layout."""
        layouts = [None if tensor is None else (tensor.shape, tensor.stride()) for tensor in tensors]
        return layouts == self._layouts and self.is_current(tensors) and self.prints.are_there()

    def is_current(self, tensors: Tensors) -> bool:
        """The same but for layouts, which guards tell, and prints, which are compared where numbers are read."""
        for place, token, version, address in self._present:
            tensor: Any = tensors[place]
            if tensor._version != version or tensor.data_ptr() != address or tensor.__dict__ is not token:
                return False
        return True


class Compared(Snapshot):
    """Weights of which some may change unseen: those are compared with copies."""

    __slots__ = ("_copies",)

    def __init__(self, tensors: Tensors) -> None:
        super().__init__(tensors)
        self._copies = [tensor.detach().clone() if _may_change_unseen(tensor) else None for tensor in tensors]

    def is_current(self, tensors: Tensors) -> bool:
        for place, token, version, address in self._present:
            tensor: Any = tensors[place]
            copy = self._copies[place]
            if tensor.data_ptr() != address or tensor.__dict__ is not token:
                return False
            if not (_same(tensor, copy) if copy is not None else tensor._version == version):
                return False
        return True


class Prints:
    """Words of tensors as they were, in a table for generated code: how many, then of each its address and itself."""

    __slots__ = ("_table", "address")

    def __init__(self, tensors: Tensors = ()) -> None:
        pairs = [pair for tensor in tensors if tensor is not None for pair in _words_of(tensor)]
        self._table = (ctypes.c_int64 * (1 + 2 * len(pairs)))(len(pairs), *chain(*pairs))
        self.address = ctypes.addressof(self._table)

    def are_there(self) -> bool:
        """Whether those words still lie at those addresses, whose memory the caller knows to exist."""
        addresses, words = self._table[1::2], self._table[2::2]
        return all(ctypes.c_uint32.from_address(at).value == word for at, word in zip(addresses, words, strict=True))


NO_PRINTS = Prints()


def identities_of(tensors: Tensors) -> Identities:
    return tuple(map(id, tensors))


def snapshot(tensors: Tensors) -> Snapshot:
    """What is kept of these weights as they are now."""
    identities = identities_of(tensors)
    with _lock.mine:
        found = sets.get(identities)
        kind = Compared if any(map(_may_change_unseen, tensors)) else Snapshot
        if type(found) is not kind or not found.is_as_it_was(tensors):
            forget(identities)
            found = sets[identities] = kind(tensors)
            for tensor in tensors:
                if tensor is not None:
                    _known(tensor).sets.add(identities)
            if any(tensor is not None and tensor.requires_grad for tensor in tensors):
                _watch_optimizers()
    return found


def gradients_asked(tensors: Tensors) -> None:
    """Note that these may be updated soon, by what moves no version; nothing that was made of them stays."""
    with _lock.mine:
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad and not tensor.is_inference():
                known = _known(tensor)
                known.asked = tensor._version
                for identities in tuple(known.sets):
                    forget(identities)


def forget(identities: Identities) -> None:
    """Nothing is kept of the weights of these identities."""
    if identities not in sets:
        return
    with _lock.mine:
        if sets.pop(identities, None) is not None:
            for identity in identities:
                known = _tensors.get(identity)
                if known is not None:
                    known.sets.discard(identities)


def repack_(model: nn.Module | None = None) -> int:
    """Forget what was made of a model's weights, or of all; how many sets of weights were kept.

    Needed only after a change of single elements that torch does not see, through numpy or `.data`:
    `weight.data[0] = 2`. Optimizer steps, fused ones too, `load_state_dict`, `copy_`, and whatever changes most
    elements of a tensor are seen.

    Raises DepthwiseError where `model` is no torch.nn.Module.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise DepthwiseError(f"repack_ takes a torch.nn.Module, or nothing for all; got {type(model).__name__}")
    with _lock.mine:
        keys = [*sets] if model is None else _sets_of((*model.parameters(), *model.buffers()))
        for key in keys:
            forget(key)
    return len(keys)


def _sets_of(tensors: Iterable[Tensor]) -> list[Identities]:
    own = {id(tensor) for tensor in tensors}
    return [key for key in sets if own.intersection(key)]


def _known(tensor: Tensor) -> Known:
    """What is known of this very tensor: another one may have had its identity."""
    known = _tensors.get(id(tensor))
    if known is None or known.token is not tensor.__dict__:
        for identities in () if known is None else tuple(known.sets):
            forget(identities)
        known = _tensors[id(tensor)] = Known(tensor.__dict__)
        if len(_tensors) > _sweep_at:
            _sweep()
    return known


def _sweep() -> None:
    """Let go of tensors that are gone while their memory is not: views of a larger one."""
    global _sweep_at  # noqa: PLW0603
    for identity, known in [*_tensors.items()]:
        # One reference is `known`'s, one the call's, one each snapshot's.
        if sys.getrefcount(known.token) <= 2 + len(known.sets):
            for identities in tuple(known.sets):
                forget(identities)
            del _tensors[identity]
    _sweep_at = max(_FEWEST_SWEPT, 2 * len(_tensors))


def _may_change_unseen(tensor: Tensor | None) -> TypeGuard[Tensor]:
    if tensor is None:
        return False
    if tensor.is_inference():
        return True
    known = _tensors.get(id(tensor)) if tensor.requires_grad else None
    return known is not None and known.asked == tensor._version and known.token is tensor.__dict__


def _words_of(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """Addresses of some words of a tensor, the first and the last among them, and what stands there."""
    base, layout = tensor.data_ptr(), (tensor.shape, tensor.stride(), tensor.itemsize)
    word = ctypes.c_uint32.from_address
    found = [(base + place, word(base + place).value) for place in _places(*layout)]
    zeros = sum(not value for _, value in found[2:])
    if zeros and tensor.nbytes > MOST_WORDS * _WORD_BYTES:
        further = islice(_spread(*layout), MOST_WORDS, _MOST_LOOKED_AT)
        more = ((base + place, word(base + place).value) for place in further)
        others = [*islice((pair for pair in more if pair[1]), zeros)]
        found = [*found[:2], *(pair for pair in found[2:] if pair[1]), *others]
    return iter(found)


@lru_cache(maxsize=1024)
def _places(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Where the usual words of a tensor lie, in bytes from its first element."""
    return tuple(islice(_spread(shape, strides, itemsize), MOST_WORDS))


def _spread(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> Iterator[int]:
    """Where words of a tensor lie: the first, the last, and others by the golden ratio; all of a small one.

    No regular pattern of changes passes between these.
    """
    each, words = itemsize // _WORD_BYTES, prod(shape) * itemsize // _WORD_BYTES
    if itemsize % _WORD_BYTES or not words:
        return
    numbers: Iterable[int] = range(words)
    if words > MOST_WORDS:
        step = int(words * _GOLDEN) | 1
        between = (1 + number * step % (words - 2) for number in range(words - 2))
        numbers = chain((0, words - 1), between)
    for number in numbers:
        element, word = divmod(number, each)
        offset = 0
        for size, stride in zip(reversed(shape), reversed(strides), strict=True):
            element, index = divmod(element, size)
            offset += index * stride
        yield offset * itemsize + word * _WORD_BYTES


def _same(tensor: Tensor, copy: Tensor) -> bool:
    """Whether two tensors of one size hold the same bits, or else equal numbers."""
    if _compare is None or tensor.stride() != copy.stride() or tensor.is_neg():
        return torch.equal(tensor, copy)
    return _compare(tensor.data_ptr(), copy.data_ptr(), tensor.nbytes) == 0


def _memcmp() -> Callable[[int, int, int], int] | None:
    """That of the C library, where it has this name: a quarter of the time of `torch.equal`."""
    if os.name != "posix":
        return None
    compare = ctypes.CDLL(None).memcmp
    compare.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return compare


_compare = _memcmp()


@cache
def _watch_optimizers() -> None:
    """Hear of every step of torch's optimizers from now on: the fused ones move no version."""
    register_optimizer_step_post_hook(_after_step)


@torch._disable_dynamo  # type: ignore[attr-defined]
def _after_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
    with _lock.mine:
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                known = _tensors.get(id(tensor))
                if known is not None and known.token is tensor.__dict__:
                    # What a gradient was asked for has happened.
                    known.asked = None
                    for identities in tuple(known.sets):
                        forget(identities)
