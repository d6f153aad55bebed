"""Ranges of addresses that are free: the smallest that is large enough is taken, neighbours become one."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple


class Range(NamedTuple):
    """`size` bytes from `start` on.

    number: the less, the later the last of it was freed
    """

    size: int
    number: int
    start: int

    @property
    def stop(self) -> int:
        return self.start + self.size


class Ranges:
    """Free ranges, none of which touches another."""

    def __init__(self) -> None:
        self.size = 0
        # By size; of one size the latest, which may be in cache, first.
        self._all: list[Range] = []
        self._by_start: dict[int, Range] = {}
        self._by_stop: dict[int, Range] = {}

    def add(self, start: int, stop: int, number: int) -> None:
        """What lies between becomes free."""
        before, after = self._by_stop.get(start), self._by_start.get(stop)
        for neighbour in (before, after):
            if neighbour is not None:
                self._remove(neighbour)
                number = min(number, neighbour.number)
                start, stop = min(start, neighbour.start), max(stop, neighbour.stop)
        self._insert(Range(stop - start, number, start))

    def take(self, size: int) -> int | None:
        """Where so many bytes begin, which are free no more; None where no range is large enough."""
        index = bisect_left(self._all, (size,))
        if index == len(self._all):
            return None
        found = self._all[index]
        self.take_out(found, found.start, found.start + size)
        return found.start

    def take_out(self, found: Range, start: int, stop: int) -> None:
        """A part of a range is free no more."""
        self._remove(found)
        for first, last in ((found.start, start), (stop, found.stop)):
            if first < last:
                self._insert(Range(last - first, found.number, first))

    def by_age(self) -> list[Range]:
        """What was free the longest first."""
        return sorted(self._all, key=lambda each: -each.number)

    def _insert(self, each: Range) -> None:
        insort(self._all, each)
        self._by_start[each.start] = self._by_stop[each.stop] = each
        self.size += each.size

    def _remove(self, each: Range) -> None:
        del self._all[bisect_left(self._all, each)], self._by_start[each.start], self._by_stop[each.stop]
        self.size -= each.size
