"""A program ready to run on whatever memory it is given: what is left for a call is the addresses of its buffers."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

from ..machine import FLOAT_BYTES
from . import leases, memory, threads
from .program import ZEROS, Program, Table

# Of a program whose weights nobody changes: the driver compares no words.
_NO_PRINTS = ctypes.c_int64(0)


class Bound:
    """A program bound to buffers that stay where they are; the others are told at each call.

    fixed:        addresses of these buffers; their memory is the caller's to hold
    most_seconds: what it takes at most, on a slow machine and a team that has its cores to itself
    trains:       it is part of a training step, whose memory its own is of
    title:        what torch's profiler calls it; "": the program's
    """

    def __init__(
        self,
        program: Program,
        most_seconds: float,
        fixed: Mapping[str, int] | None = None,
        *,
        trains: bool = False,
        title: str = "",
    ) -> None:
        self._table = table = Table(program)
        self._threads, self._pace = program.team, threads.Pace(most_seconds)
        self._title = title or program.title
        own, elements = program.arena
        self._bytes = elements * FLOAT_BYTES
        self._scratch = leases.scratch if trains else memory.scratch
        self._places = {
            name: [(place, table.shifts.get(place, 0)) for place in found] for name, found in table.places.items()
        }
        self._inner = [
            (place, FLOAT_BYTES * begin + shift) for name, begin in own.items() for place, shift in self._places[name]
        ]
        # Held here, as the table holds its address.
        self._zeros = memory.zeros(program.zeros)
        for buffer, address in {ZEROS: self._zeros.data_ptr(), **(fixed or {})}.items():
            table.fill(buffer, address)
        # Cells that no call is using, with the scratch memory that they point to; a call on another thread has others.
        self._spare: list[tuple[Any, int, int]] = []

    def run(self, addresses: Mapping[str, int]) -> None:
        """Run the program on the buffers at these addresses."""
        try:
            cells, address, scratch = self._spare.pop()
        except IndexError:
            (cells, address), scratch = self._table.copy(), 0
        for buffer, at in addresses.items():
            for place, shift in self._places.get(buffer, ()):
                cells[place] = at + shift
        # Held until the call is over: a large one is nobody else's.
        held = self._scratch(self._bytes) if self._bytes else None
        if held is not None and held.address != scratch:
            scratch = held.address
            for place, begin in self._inner:
                cells[place] = scratch + begin
        prints = ctypes.addressof(_NO_PRINTS)
        table, team, pace = self._table, self._threads, self._pace
        threads.launch(table.serial, table.parallel, address, prints, team, pace, self._title)
        del held
        self._spare.append((cells, address, scratch))
