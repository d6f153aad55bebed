"""How long a number of cells is on paper."""

from __future__ import annotations

from dataclasses import dataclass
from math import log


@dataclass(frozen=True, slots=True)
class Scale:
    """Length on paper: `unit` a cell up to `exact_until` cells, beyond it growing as a power below 1.

    Monotone, and the same for every box of a figure: equal sizes are drawn equal and larger ones longer, while a
    kernel of 3 pixels can still be seen beside an image of 224.

    >>> scale = Scale.fitting(224, room=98, least_unit=4.5, most_unit=14, exact_until=3)
    >>> [round(scale(cells), 1) for cells in (1, 3, 112, 224)]
    [4.5, 13.5, 71.3, 98.0]
    """

    unit: float
    exact_until: int
    power: float = 1.0

    @classmethod
    def fitting(cls, largest: int, *, room: float, least_unit: float, most_unit: float, exact_until: int) -> Scale:
        """The scale on which `largest` cells take `room`: exact where a cell stays `least_unit` long."""
        even = min(most_unit, room / largest)
        if even >= least_unit:
            return cls(even, largest)
        # Beyond half the room for the exact part the rest could hardly grow: then a single cell is exact.
        until = exact_until if least_unit * exact_until <= room / 2 else 1
        return cls(least_unit, until, log(room / (least_unit * until)) / log(largest / until))

    @property
    def exact(self) -> bool:
        """Whether every length is in proportion."""
        return self.power == 1.0

    def __call__(self, cells: int) -> float:
        if cells <= self.exact_until:
            return self.unit * cells
        return self.unit * self.exact_until * float((cells / self.exact_until) ** self.power)
