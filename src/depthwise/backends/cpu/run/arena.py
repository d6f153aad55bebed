"""Where buffers lie that live only in some stages of a program, and which stages must wait for the ones before.

    for buffer in buffers, the largest first:
        offset[buffer] = the lowest place where nothing lies that lives at the same time
    for stage in stages:
        waits[stage] = a stage since the last wait wrote what it reads, or read or wrote what it writes

Buffers that never live at once share memory; who writes there waits for those who read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

# Elements of a cache line: no two threads write to one for different buffers.
LINE_ELEMENTS = 16


@dataclass(frozen=True, slots=True)
class Life:
    """The elements of a buffer, and the first and the last stage that use it."""

    elements: int
    first: int
    last: int

    def meets(self, other: Life) -> bool:
        return self.first <= other.last and other.first <= self.last


def lives(uses: Sequence[Sequence[str]], elements: Mapping[str, int]) -> dict[str, Life]:
    """When each buffer lives.

    uses: of each stage, the buffers that it uses
    """
    found: dict[str, Life] = {}
    for stage, names in enumerate(uses):
        for name in names:
            if name in elements:
                found[name] = Life(elements[name], found[name].first if name in found else stage, stage)
    return found


def places(buffers: Mapping[str, Life]) -> tuple[dict[str, int], int]:
    """Where each buffer begins, in elements, and how many there are in all."""
    found: dict[str, int] = {}
    used = 0
    for name in sorted(buffers, key=lambda name: (-buffers[name].elements, buffers[name].first)):
        life = buffers[name]
        taken = sorted(
            (found[other], found[other] + _whole(buffers[other].elements))
            for other in found
            if buffers[other].meets(life)
        )
        begin = 0
        for start, stop in taken:
            if begin + life.elements <= start:
                break
            begin = max(begin, stop)
        found[name] = begin
        used = max(used, begin + _whole(life.elements))
    return found, used


def _whole(elements: int) -> int:
    """The same in whole lines."""
    return -(-elements // LINE_ELEMENTS) * LINE_ELEMENTS


@dataclass(frozen=True, slots=True)
class Region:
    """Elements [start, stop) of the program's own memory, or a buffer elsewhere, by its name.

    piece: of rows of so many elements, the first and the one after the last of each; None: all
    """

    buffer: str | None
    start: int = 0
    stop: int = 0
    piece: tuple[int, int, int] | None = None

    def meets(self, other: Region) -> bool:
        if self._is_beside(other):
            return False
        if self.buffer is not None or other.buffer is not None:
            return self.buffer == other.buffer
        return self.start < other.stop and other.start < self.stop

    def _is_beside(self, other: Region) -> bool:
        """Whether these are different pieces of the rows of one buffer."""
        if self.piece is None or other.piece is None or replace(self, piece=None) != replace(other, piece=None):
            return False
        (step, first, last), (other_step, other_first, other_last) = self.piece, other.piece
        return step == other_step and (last <= other_first or other_last <= first)


@dataclass(frozen=True, slots=True)
class Access:
    """What a stage touches, and how many threads it has; what one thread alone touches in both needs no wait."""

    team: int
    reads: tuple[Region, ...]
    writes: tuple[Region, ...]

    def needs(self, before: Access) -> bool:
        """Whether it must wait until `before` has ended."""
        if self.team == before.team == 1:
            return False
        after_write = any(a.meets(b) for b in before.writes for a in (*self.reads, *self.writes))
        return after_write or any(a.meets(b) for b in before.reads for a in self.writes)


def waits(accesses: Sequence[Access]) -> tuple[bool, ...]:
    """Whether each stage waits until all before it have ended."""
    found: list[bool] = []
    since: list[Access] = []
    for access in accesses:
        found.append(any(access.needs(before) for before in since))
        since = [access] if found[-1] else [*since, access]
    return tuple(found)
