"""Volumes drawn as blocks in oblique projection: x right, y down, z away from the reader (up and right on paper)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from .svg import INK, WHITE, Point, lines, mixed, number, points, tag, words

# Where one pixel of depth lands on paper.
SLANT_X, SLANT_Y = 0.78, 0.5

# Cells closer together than this get no grid.
CLOSEST_GRID = 3.6

Span = tuple[float, float]
# Left, top, right, bottom.
Border = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Block:
    """An axis-aligned block, as spans of x, y and z; drawn as its front, its top and its right side."""

    x: Span
    y: Span
    z: Span

    def faces(self) -> dict[str, tuple[Point, Point, Point, Point]]:
        (x0, x1), (y0, y1), (z0, z1) = self.x, self.y, self.z
        return {
            "top": (on_paper(x0, y0, z0), on_paper(x0, y0, z1), on_paper(x1, y0, z1), on_paper(x1, y0, z0)),
            "side": (on_paper(x1, y0, z0), on_paper(x1, y0, z1), on_paper(x1, y1, z1), on_paper(x1, y1, z0)),
            "front": (on_paper(x0, y0, z0), on_paper(x1, y0, z0), on_paper(x1, y1, z0), on_paper(x0, y1, z0)),
        }


def on_paper(x: float, y: float, z: float) -> Point:
    return x + SLANT_X * z, y - SLANT_Y * z


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a solid that one kernel sees, or the pixel it makes: spans of x and y from the front's corner."""

    x: Span
    y: Span
    cells: tuple[int, int]  # columns, rows
    gaps: tuple[int, int] = (1, 1)  # dilation: pixels from tap to tap
    thickness: float | None = None  # None: as deep as the slice


@dataclass(frozen=True, slots=True)
class Slice:
    """Some channels of one colour, `thickness` deep on paper."""

    thickness: float
    color: str
    layers: int = 1


@dataclass(frozen=True, slots=True)
class Solid:
    """Slices one behind the other, the first in front, with a `gap` between them; a window in every slice."""

    label: str
    width: float
    height: float
    slices: tuple[Slice, ...]
    cells: tuple[int, int]  # columns, rows
    window: Window | None = None
    # Zeros around the front face: left, top, right, bottom.
    border: Border = (0.0, 0.0, 0.0, 0.0)
    gap: float = 0.0
    strong: bool = False
    goes_on: bool = False
    starts: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        steps = (0.0, *(piece.thickness + self.gap for piece in self.slices))
        object.__setattr__(self, "starts", tuple(accumulate(steps)))

    @property
    def depth(self) -> float:
        return self.starts[-1] - self.gap + (30.0 if self.goes_on else 0.0)

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height on paper, border included."""
        left, top, right, bottom = self.border
        return left + self.width + right + SLANT_X * self.depth, top + self.height + bottom + SLANT_Y * self.depth

    def draw(self, center: Point) -> str:
        """The solid, its extent centred on `center`."""
        wide, high = self.extent
        left, _, _, bottom = self.border
        corner = (center[0] - wide / 2 + left, center[1] + high / 2 - bottom - self.height)
        return self.draw_at(corner)

    def draw_at(self, corner: Point) -> str:
        """The solid, the top left corner of its front face at `corner`."""
        behind = [*self._dots()] if self.goes_on else []
        pieces = [self._slice(index) for index in reversed(range(len(self.slices)))]
        shift = f"translate({number(corner[0])} {number(corner[1])})"
        content = "".join([*behind, *pieces, *self._border()])
        return tag("g", words("title", self.label), content, transform=shift)

    def _slice(self, index: int) -> str:
        piece, z = self.slices[index], self.starts[index]
        span = (z, z + piece.thickness)
        block = Block((0, self.width), (0, self.height), span)
        face = piece.color if self.strong else mixed(piece.color, WHITE, 0.68)
        in_front = index == 0 or self.gap > 0
        drawn = _block(block, face, ("top", "side", "front") if in_front else ("top", "side"))
        drawn += _grid(block, self.cells, piece.layers, front=in_front)
        if self.window:
            drawn += self._window(self.window, piece, span, front=in_front)
        return drawn

    def _window(self, window: Window, piece: Slice, span: Span, *, front: bool) -> str:
        depth = piece.thickness if window.thickness is None else window.thickness
        block = Block(window.x, window.y, (span[0], span[0] + depth))
        names = ["top"] * (window.y[0] <= 0) + ["side"] * (window.x[1] >= self.width - 0.01) + ["front"] * front
        spread = window.gaps != (1, 1)
        drawn = _block(block, mixed(piece.color, WHITE, 0.45) if spread else piece.color, names, width=1.4)
        if spread and front:
            return drawn + _taps(window, span[0], piece.color)
        return drawn + (_grid(block, window.cells, 1, front=True, only=("front",)) if front else "")

    def _border(self) -> Iterator[str]:
        left, top, right, bottom = self.border
        if any(self.border):
            rim = Block((-left, self.width + right), (-top, self.height + bottom), (0, 0)).faces()["front"]
            yield tag("polygon", points=points(rim), fill="none", stroke="#6b7280", stroke_dasharray="3 2.5")

    def _dots(self) -> Iterator[str]:
        for step in (10, 18, 26):
            x, y = on_paper(self.width / 2, self.height / 2, self.starts[-1] - self.gap + step)
            x += self.width / 2
            y -= self.height / 2
            yield tag("circle", cx=x, cy=y, r=2, fill=INK)


def _block(block: Block, color: str, names: Sequence[str], *, width: float = 0.9) -> str:
    shades = {"front": color, "top": mixed(color, WHITE, 0.35), "side": mixed(color, "#000000", 0.14)}
    faces = block.faces()
    return "".join(
        tag(
            "polygon",
            points=points(faces[name]),
            fill=shades[name],
            stroke=INK,
            stroke_width=width,
            stroke_linejoin="round",
        )
        for name in names
    )


def _grid(
    block: Block,
    cells: tuple[int, int],
    layers: int,
    *,
    front: bool,
    only: Sequence[str] = ("top", "side", "front"),
) -> str:
    xs, ys, zs = _marks(block.x, cells[0]), _marks(block.y, cells[1]), _marks(block.z, layers)
    (x0, x1), (y0, y1), (z0, z1) = block.x, block.y, block.z
    segments = []
    if front:
        segments += [(on_paper(x, y0, z0), on_paper(x, y1, z0)) for x in xs]
        segments += [(on_paper(x0, y, z0), on_paper(x1, y, z0)) for y in ys]
    if "top" in only:
        segments += [(on_paper(x, y0, z0), on_paper(x, y0, z1)) for x in xs]
        segments += [(on_paper(x1, y, z0), on_paper(x1, y, z1)) for y in ys]
        segments += [(on_paper(x0, y0, z), on_paper(x1, y0, z)) for z in zs]
        segments += [(on_paper(x1, y0, z), on_paper(x1, y1, z)) for z in zs]
    if not segments:
        return ""
    return tag("path", d=lines(segments), stroke=INK, stroke_width=0.6, stroke_opacity=0.45, fill="none")


def _marks(span: Span, cells: int) -> list[float]:
    """Where the grid lines inside a span are; none where the cells are too small to be told apart."""
    cell = (span[1] - span[0]) / cells
    return [span[0] + cell * index for index in range(1, cells)] if cell >= CLOSEST_GRID else []


def _taps(window: Window, z: float, color: str) -> str:
    """The pixels that a dilated kernel touches, as one path; none where they are too small to be told apart."""
    columns, rows = (_tap_spans(*axis) for axis in zip((window.x, window.y), window.cells, window.gaps, strict=True))
    corners = [
        (on_paper(x0, y0, z), on_paper(x1, y0, z), on_paper(x1, y1, z), on_paper(x0, y1, z))
        for y0, y1 in rows
        for x0, x1 in columns
    ]
    squares = "".join("M" + "L".join(f"{number(x)} {number(y)}" for x, y in corner) + "z" for corner in corners)
    return tag("path", d=squares, fill=color, stroke=INK, stroke_width=0.6) if squares else ""


def _tap_spans(span: Span, taps: int, gap: int) -> list[Span]:
    cell = (span[1] - span[0]) / (gap * (taps - 1) + 1)
    if cell < 2:
        return []
    return [(span[0] + cell * gap * index, span[0] + cell * (gap * index + 1)) for index in range(taps)]
