"""How the work of one stage is cut into tasks: numbers of a call, so that no size is ever compiled in."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, fields
from math import prod

from ....geometry import Geometry
from ..machine import Machine
from .tuning import tuning_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut(ABC):
    """Numbers for the slots of the same names.

    threads: how many the stage's team has
    scratch_elements: of each thread's own memory
    """

    threads: int
    scratch_elements: int = 0

    @property
    def numbers(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def balance(tasks: int, threads: int) -> float:
    """Share of the threads' time that is work where `tasks` equal tasks are dealt out."""
    return tasks / (-(-tasks // threads) * threads)


def segments_of(width: int, rows: int, threads: int, target: int) -> int:
    """Pieces of a row, of `target` pixels or more: one, unless rows are long or few.

    A piece goes alone, without the rows below it, which would share its input.
    """
    wanted = max(width // target, -(-2 * threads // max(1, rows)) if threads > 1 else 1)
    return max(1, min(wanted, width // 32))


def team_of(g: Geometry, batch: int, machine: Machine, threads: int) -> int:
    """Threads, of those there are, that are worth starting."""
    macs = batch * prod(g.out_spatial) * g.depthwise_channels * (g.kernel_area + (g.out_channels or 0))
    return 1 if macs < tuning_of(machine).serial_macs else threads
