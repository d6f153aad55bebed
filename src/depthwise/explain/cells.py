"""Volumes as cells: a flat grid for ranks 1 and 2, a block of cubes seen from a corner for rank 3.

Of a long axis only the places around the kernel are drawn, so that a picture is as large for 224 pixels as for 9. All
lengths are multiples of an eighth: they are written without rounding, here and in `cells.js`, line by line the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..page.svg import number
from .values import Axis, Place

CELL = 16
CUBE = 13
# Where one step of depth lands on paper.
SLANT_X, SLANT_Y = 6, 5
# Between places that are no neighbours.
GAP = 10

# What a cell is, and what stands in it.
Cell = Callable[[Place], tuple[str, str]]
SOLID = ("tap", "now", "weight")


@dataclass(frozen=True, slots=True)
class Line:
    """The places of one axis that are drawn, of those from `first` up to `stop`; pixels are from 0 up to `end`."""

    places: tuple[int, ...]
    first: int
    stop: int
    end: int

    @property
    def whole(self) -> bool:
        return len(self.places) == self.stop - self.first

    def starts(self, unit: int) -> list[int]:
        """Where each place begins, and where the last ends."""
        starts, x = [], 0
        for index, place in enumerate(self.places):
            if index and place != self.places[index - 1] + 1:
                x += GAP
            starts.append(x)
            x += unit
        return [*starts, x]


def kept_taps(k: int, most: int) -> tuple[int, ...]:
    """All taps of a short kernel, the first few and the last of a long one."""
    return tuple(range(k)) if k <= most else (*range(max(most - 2, 2)), k - 1)


def kernel_line(axis: Axis, most: int) -> Line:
    return Line(kept_taps(axis.k, most), 0, axis.k, axis.k)


def input_line(axis: Axis, at: int, room: int, most: int) -> Line:
    """Padding and pixels: all, or those around the kernel, or only the pixels under some of its taps."""
    first, stop = -axis.before, axis.n + axis.after
    start = at * axis.s - axis.before
    if stop - first <= room:
        return Line(tuple(range(first, stop)), first, stop, axis.n)
    if axis.reach <= room:
        begin = min(max(start - (room - axis.reach) // 2, first), stop - room)
        return Line(tuple(range(begin, begin + room)), first, stop, axis.n)
    return Line(tuple(start + tap * axis.d for tap in kept_taps(axis.k, most)), first, stop, axis.n)


def output_line(axis: Axis, at: int, room: int) -> Line:
    if axis.out <= room:
        return Line(tuple(range(axis.out)), 0, axis.out, axis.out)
    begin = min(max(at - room // 2, 0), axis.out - room)
    return Line(tuple(range(begin, begin + room)), 0, axis.out, axis.out)


@dataclass(frozen=True, slots=True)
class Cells:
    """A grid or a block over three lines: depth, height, width."""

    z: Line
    y: Line
    x: Line
    solid: bool

    @property
    def unit(self) -> int:
        return CUBE if self.solid else CELL

    @property
    def rise(self) -> int:
        """How much higher the back is than the front."""
        return SLANT_Y * len(self.z.places) if self.solid else 0

    @property
    def width(self) -> int:
        return self.x.starts(self.unit)[-1] + (SLANT_X * len(self.z.places) if self.solid else 0)

    @property
    def height(self) -> int:
        return self.y.starts(self.unit)[-1] + self.rise

    def draw(self, x: float, y: float, kind: str, attributes: str, cell: Cell) -> str:
        """The cells with their corner at (x, y); `cell` says what each is: "" for one that is not drawn."""
        drawn = self._cubes(cell) if self.solid else self._squares(cell)
        solid = " solid" if self.solid else ""
        return f'<g class="{kind}{solid}" transform="translate({number(x)} {number(y)})"{attributes}>{drawn}</g>'

    def _squares(self, cell: Cell) -> str:
        paths: dict[str, str] = {}
        texts, columns, rows = "", self.x.starts(CELL), self.y.starts(CELL)
        for row, y in zip(rows, self.y.places, strict=False):
            for column, x in zip(columns, self.x.places, strict=False):
                what, content = cell((self.z.places[0], y, x))
                paths[what] = paths.get(what, "") + f"M{column} {row}h{CELL}v{CELL}h-{CELL}z"
                texts += written(column + CELL / 2, row + 11.5, content)
        # What is at work lies above its neighbours' edges.
        ordered = sorted(paths.items(), key=lambda item: item[0].split()[0] in SOLID)
        squares = "".join(f'<path class="{what}" d="{path}"/>' for what, path in ordered)
        return squares + texts + self._breaks(columns, rows)

    def _breaks(self, columns: Sequence[int], rows: Sequence[int]) -> str:
        """Dots where an axis leaves places out, and where it goes on."""
        wide, high = columns[-1], rows[-1]
        dots = "".join(
            f'<text class="more" x="{number(at)}" y="{number(high / 2 + 3)}">⋯</text>'
            for at in _left_out(self.x, columns)
        )
        return dots + "".join(
            f'<text class="more" x="{number(wide * 3 / 4)}" y="{number(at + 3)}">⋮</text>'
            for at in _left_out(self.y, rows)
        )

    def _cubes(self, cell: Cell) -> str:
        columns, rows = self.x.starts(CUBE), self.y.starts(CUBE)
        layers: list[str] = []
        for depth, z in enumerate(self.z.places):
            right, down = SLANT_X * depth, self.rise - SLANT_Y * depth
            in_front, layer = not any(layers), ""
            # What lies to the left and below is hidden by what lies to the right and above it.
            for row, y in reversed(list(zip(rows, self.y.places, strict=False))):
                for column, x in zip(columns, self.x.places, strict=False):
                    what, content = cell((z, y, x))
                    if what:
                        layer += (_cube if what in SOLID else _face)(column + right, row + down, what)
                        layer += written(column + right + CUBE / 2, row + down + 9.5, content) if in_front else ""
            layers.append(layer)
        return self._frame(columns, rows) + "".join(reversed(layers))

    def _frame(self, columns: Sequence[int], rows: Sequence[int]) -> str:
        """The edges of the block; those of the pixels inside the padding drawn through, the padding's dashed."""
        lines = (self.z, self.y, self.x)
        spans = [(0, len(line.places)) for line in lines]
        inner = [
            (sum(place < 0 for place in line.places), sum(place < line.end for place in line.places)) for line in lines
        ]
        dashed = f'<path class="rim" d="{self._box(spans, columns, rows)}"/>' if spans != inner else ""
        seen = all(start < stop for start, stop in inner)
        return dashed + (f'<path class="frame" d="{self._box(inner, columns, rows)}"/>' if seen else "")

    def _box(self, spans: Sequence[tuple[int, int]], columns: Sequence[int], rows: Sequence[int]) -> str:
        (z0, z1), (y0, y1), (x0, x1) = spans
        left, right, top, bottom = columns[x0], columns[x1], rows[y0] + self.rise, rows[y1] + self.rise
        a, b = (SLANT_X * z0, SLANT_Y * z0), (SLANT_X * z1, SLANT_Y * z1)
        sides = "".join(
            f"M{left + dx} {top - dy}H{right + dx}V{bottom - dy}H{left + dx}z"
            for dx, dy in ((a[0], a[1]), (b[0], b[1]))
        )
        return sides + "".join(
            f"M{px + a[0]} {py - a[1]}L{px + b[0]} {py - b[1]}" for px in (left, right) for py in (top, bottom)
        )


def written(x: float, y: float, content: str) -> str:
    """What stands in a cell, smaller the longer it is."""
    if not content:
        return ""
    length = f' class="l{min(len(content), 5)}"' if len(content) > 2 else ""
    return f'<text x="{number(x)}" y="{number(y)}"{length}>{content}</text>'


def _left_out(line: Line, starts: Sequence[int]) -> Iterator[float]:
    if line.places[0] > line.first:
        yield -6
    for index in range(1, len(line.places)):
        if line.places[index] != line.places[index - 1] + 1:
            yield starts[index] - GAP / 2
    if line.places[-1] < line.stop - 1:
        yield starts[-1] + 6


def _face(x: int, y: int, what: str) -> str:
    return f'<path class="{what}" d="M{x} {y}h{CUBE}v{CUBE}h-{CUBE}z"/>'


def _cube(x: int, y: int, what: str) -> str:
    return (
        f'<path class="{what} top" d="M{x} {y}l{SLANT_X} -{SLANT_Y}h{CUBE}l-{SLANT_X} {SLANT_Y}z"/>'
        f'<path class="{what} side" d="M{x + CUBE} {y}l{SLANT_X} -{SLANT_Y}v{CUBE}l-{SLANT_X} {SLANT_Y}z"/>'
        + _face(x, y, what)
    )
