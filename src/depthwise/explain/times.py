"""What was measured of a layer on this machine, for the page and the command line to show."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import wrap

from .arithmetic import LINE


@dataclass(frozen=True, slots=True)
class Measured:
    """One way to do the layer's work: the median of its samples and their quartiles, in its faster layout."""

    name: str
    layout: str
    seconds: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Times:
    """The dense convolution and the separable ones, timed in turn.

    layer:             what was measured
    how, machine:      with which threads; on what, when
    multiplications:   dense and separable
    """

    layer: str
    how: str
    machine: str
    multiplications: tuple[int, int]
    dense: Measured
    separable: tuple[Measured, ...]

    @property
    def promised(self) -> str:
        return f"{self.multiplications[0] / self.multiplications[1]:.2f}×"

    def speedup(self, way: Measured) -> float:
        return self.dense.seconds / way.seconds

    def kept(self, way: Measured) -> float:
        """The measured speed-up over the promised one."""
        return self.speedup(way) * self.multiplications[1] / self.multiplications[0]

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Name, microseconds with quartiles, speed-up and promise kept of each way."""
        dense = (self._name(self.dense), _microseconds(self.dense), "", "")
        others = [
            (self._name(way), _microseconds(way), f"{self.speedup(way):.2f}×", f"{self.kept(way):.2f}")
            for way in self.separable
        ]
        return [dense, *others]

    def lines(self) -> list[str]:
        """The same as text."""
        cells = [
            (name, f"{time} us", speedup, f"kept {kept}" if kept else "") for name, time, speedup, kept in self.rows()
        ]
        widths = [max(len(row[column]) for row in cells) for column in range(4)]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
        return [f"promised: {self.promised}", *table, *wrap(self.how, LINE), self.machine]

    def to_dict(self) -> dict[str, object]:
        ways = {
            way.name: {"layout": way.layout, "seconds": way.seconds, "lower": way.lower, "upper": way.upper}
            for way in (self.dense, *self.separable)
        }
        return {"layer": self.layer, "how": self.how, "machine": self.machine, "ways": ways}

    def _name(self, way: Measured) -> str:
        return f"{way.name}, {way.layout}"


def _microseconds(way: Measured) -> str:
    return f"{1e6 * way.seconds:,.1f} ({1e6 * way.lower:,.1f}–{1e6 * way.upper:,.1f})"
