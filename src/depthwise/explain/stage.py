"""A layer at one of its output pixels, and what all scenes draw alike; `stage.js` has the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..geometry import Geometry
from ..page.svg import number
from .arithmetic import signed
from .cells import Cell, Cells, Line, input_line, kernel_line, output_line
from .values import Axis, Place, Values

# A scene is as wide as a phone.
WIDTH = 448
MARGIN = 8
# Channels and filters drawn of many.
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture: its height, its markup, and what it shows in a sentence."""

    height: float
    content: str
    label: str


@dataclass(frozen=True, slots=True)
class Stage:
    """A layer at one of its output pixels, `at` in the order of memory, with one of its first filters at work."""

    values: Values
    at: int
    filter: int = 0

    @classmethod
    def of(cls, g: Geometry) -> Stage:
        """At the pixel in the middle."""
        values = Values(g)
        z, y, x = values.axes
        return cls(values, z.out // 2 * y.out * x.out + y.out // 2 * x.out + x.out // 2)

    @property
    def g(self) -> Geometry:
        return self.values.g

    @property
    def solid(self) -> bool:
        return self.g.rank == 3

    @property
    def place(self) -> Place:
        _, y, x = self.values.axes
        return self.at // (y.out * x.out), self.at // x.out % y.out, self.at % x.out

    def index(self, place: Place) -> int:
        _, y, x = self.values.axes
        return (place[0] * y.out + place[1]) * x.out + place[2]

    def input_cells(self) -> Cells:
        rooms, most = ((5, 6, 6), 3) if self.solid else ((1, 9, 9), 5)
        sides = zip(self.values.axes, self.place, rooms, strict=True)
        return _cells([input_line(axis, at, room, most) for axis, at, room in sides], self.solid)

    def kernel_cells(self, most: int) -> Cells:
        return _cells([kernel_line(axis, 3 if self.solid else most) for axis in self.values.axes], self.solid)

    def output_cells(self) -> Cells:
        rooms = (4, 5, 5) if self.solid else (1, 6, 6)
        sides = zip(self.values.axes, self.place, rooms, strict=True)
        return _cells([output_line(axis, at, room) for axis, at, room in sides], self.solid)

    def one_cell(self) -> Cells:
        return _cells([kernel_line(Axis(1, 1, 1, 0, 0, 1, 1), 1)] * 3, self.solid)


def lane(g: Geometry, j: int) -> str:
    """The name of a channel after the depthwise step; a letter where its input channel has several kernels."""
    c, m = divmod(j, g.depth_multiplier)
    return f"channel {c + 1}" if g.depth_multiplier == 1 else f"channel {c + 1}{chr(97 + m)}"


def hue(g: Geometry, j: int) -> str:
    c, m = divmod(j, g.depth_multiplier)
    return f"c{c} light" if m % 2 else f"c{c}"


def term(name: str) -> str:
    return f' data-term="{name}"'


def weights(weight: Callable[[Place], int]) -> Cell:
    return lambda tap: ("weight", signed(weight(tap)))


def text(x: float, y: float, content: str, kind: str) -> str:
    return f'<text class="{kind}" x="{number(x)}" y="{number(y)}">{content}</text>'


def _cells(lines: Sequence[Line], solid: bool) -> Cells:
    z, y, x = lines
    return Cells(z, y, x, solid)
