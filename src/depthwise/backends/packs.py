"""What a backend makes of a network's weights, which hold no memory of their own meanwhile.

    with packs.weights():       all weights are there: to be packed, planned with, or saved
        packs.add(key, pack, [(weight, what the pack has of it), ...])
                                from here on those are away that a pack holds to the bit

A weight that is away is a tensor of no numbers: whoever reads it gets torch's error, never other numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .cpu.apart import apart
from .forks import Lock

# Of smaller ones little would be won.
LEAST_BYTES = 1 << 14


class _Packed:
    """A weight, and what a pack has of it."""

    def __init__(self, weight: Tensor, numbers: Callable[[], Tensor]) -> None:
        self.weight = weight
        self._numbers = numbers
        self._size, self._stride = weight.shape, weight.stride()
        self._is_same = weight.untyped_storage().nbytes() >= LEAST_BYTES and _same_bits(numbers(), weight)

    @property
    def is_away(self) -> bool:
        return self._is_same and not self.weight.numel()

    def give_up(self) -> None:
        """Let go of the weight's memory, where it is there and can be made again."""
        if self._is_same and not self.is_away:
            self.weight.data = self.weight.new_empty(0)

    def take_back(self) -> None:
        if self.is_away:
            self.weight.data = self.weight.new_empty_strided(self._size, self._stride).copy_(self._numbers())


class Packs:
    """Of a network's weights, whatever sizes and batches they are packed for; may be asked from any thread.

    gives_up: whether its weights are nobody else's, and may be away
    """

    def __init__(self, *, gives_up: bool = False) -> None:
        self._gives_up, self._stays = gives_up, not gives_up
        self._packs: dict[Hashable, Any] = {}
        self._packed: list[_Packed] = []
        self._kept: list[Tensor] = []
        self._inside = 0
        self._lock = Lock()
        # Of the threads that give up and take back: these go on where whoever waits for them is interrupted.
        self._moving = Lock()

    def find(self, key: Hashable) -> Any:
        """What was added so, or None."""
        return self._packs.get(key)

    def add(self, key: Hashable, pack: Any, numbers: Iterable[tuple[Tensor, Callable[[], Tensor]]]) -> Any:
        """What is kept under this key: another's, where two threads both packed."""
        found = self._packs.setdefault(key, pack)
        if found is pack:
            self._packed += [_Packed(weight, made) for weight, made in numbers]
        return found

    def keep(self, weights: Iterable[Tensor]) -> None:
        """Let these be there always: others than packs are read from them."""
        self._kept += weights

    @contextmanager
    def weights(self) -> Iterator[None]:
        """All weights are there meanwhile."""
        with self._lock.mine:
            self._inside += 1
            try:
                self._take_back()
                yield
            finally:
                self._inside -= 1
                if not self._inside and self._gives_up:
                    self._give_up()

    def stay(self) -> None:
        """Let all weights be there from now on."""
        if not self._stays:
            with self._lock.mine:
                self._gives_up = False
                self._take_back()
                self._stays = True

    def _take_back(self) -> None:
        # On a thread where no mode of the caller's sees it. There too if nothing seems away: one that gives up may have
        # been left by a caller that was interrupted. Callers never hold what these threads wait for.
        if not self._stays:
            apart(self._restore)

    def _restore(self) -> None:
        with self._moving.mine:
            for packed in self._packed:
                packed.take_back()

    def _give_up(self) -> None:
        apart(self._release)

    def _release(self) -> None:
        with self._moving.mine:
            if self._inside or not self._gives_up:
                return
            kept = set(map(id, self._kept))
            for packed in self._packed:
                if id(packed.weight) not in kept:
                    packed.give_up()


def _same_bits(one: Tensor, other: Tensor) -> bool:
    # As whole numbers: zeros have signs, and NaN is no number's equal.
    return torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))
