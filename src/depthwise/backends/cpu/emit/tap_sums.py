"""Sums of a tile of taps over one plane of a box, in registers: along rows, or down a few columns.

    for y in rows, x in tiles of columns:                     (taps of one row, or of some)
        for ky kx in tile:
            sum[ky, kx] += gradient[y, x] · input[iy, ix]

    for x in tiles of columns, y in rows:                     (taps of all rows: a strip)
        load the rows iy that the output row before did not see
        for ky kx in tile:
            sum[ky, kx] += gradient[y, x] · input[iy, ix]

Rows and columns outside the image are left out by the loops' bounds; tiles of columns that some taps have outside look
at each input, and rows that some have outside read zeros. Rows and columns of outputs that share inputs are a dilation
apart. Domain: any window, any multiplier; lanes <= filters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from ..plan.weight_gradient import COLUMNS, WeightGradientPlan
from .boxes import Box
from .depthwise import Rows
from .inputs import Inputs
from .ir import Block, Int, Ptr, Vec, ceil_div, greatest, least, select


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of taps, from row ky and column kx on, over a plane of a box.

    rows:      of inputs, by the box's first row of outputs
    inputs:    how those of each block of filters are read
    gradients: of the plane's first pixel, for each block; those of the next are `distance` elements further on
    """

    box: Box
    ky: Int
    kx: Int
    rows: Rows
    inputs: Sequence[Inputs]
    gradients: Sequence[Ptr]
    distance: int

    @property
    def height(self) -> Int:
        return self.box.y_stop - self.box.y_start

    @property
    def width(self) -> Int:
        return self.box.x_stop - self.box.x_start

    def input_rows(self, e: Block, k: WeightGradientPlan, y: Int, taps: Iterable[int]) -> Iterator[Ptr]:
        """Column 0 under rows of taps, for row y of the box; one outside the image reads zeros."""
        for tap in taps:
            below = y * k.stride[1] + (self.ky + tap) * k.dilation[1]
            pointer = self.rows.tap + below * self.rows.y_stride
            if k.tap_rows > 1:
                pointer = select((self.rows.y + below).is_index_of(e.number("in_y")), pointer, e.pointer("zeros"))
            yield pointer


def write_plane(e: Block, k: WeightGradientPlan, tile: Tile, sums: list[Vec]) -> list[Vec]:
    """`sums` plus the products of a plane of the box."""
    return (_go_down if k.goes_down else _go_along)(e, k, tile, sums)


def _go_along(e: Block, k: WeightGradientPlan, tile: Tile, sums: list[Vec]) -> list[Vec]:
    first, last, columns = e.whole(0), tile.height, _columns(e, k, tile)
    # Of one row of taps those outside are left out here, else each by itself.
    if k.tap_rows == 1:
        start = tile.box.y_start
        first, last = (y - start for y in outputs_inside(e, k, 1, tile.ky, (start, tile.box.y_stop)))
    with e.loop(first, last, carried=sums) as y:
        inputs = list(tile.input_rows(e, k, y.index, range(k.tap_rows)))
        row = y.index * tile.width * tile.distance
        for begin, end, count, checked in _tiles(*columns):
            with e.loop(begin, end, count, carried=y.values) as x:
                own = _columns_of(e, k, tile, x.index, count, checked=checked)
                x.values = own.by_inputs(inputs, row, x.values)
            y.values = x.values
    return y.values


def _go_down(e: Block, k: WeightGradientPlan, tile: Tile, sums: list[Vec]) -> list[Vec]:
    columns = _columns(e, k, tile)
    with e.loop(0, least(tile.width, k.columns_apart), carried=sums) as phase:
        turns = [ceil_div(greatest(column - phase.index, 0), k.columns_apart) for column in columns]
        for begin, end, count, checked in _tiles(*turns):
            with e.loop(begin, end, count, carried=phase.values) as turn:
                x = phase.index + turn.index * k.columns_apart
                own = _columns_of(e, k, tile, x, count, checked=checked)
                with e.loop(0, least(tile.height, k.rows_apart), carried=turn.values) as first:
                    first.values = _write_strip(e, k, tile, own, first.index, first.values)
                turn.values = first.values
            phase.values = turn.values
    return phase.values


def _write_strip(
    e: Block, k: WeightGradientPlan, tile: Tile, columns: _Columns, first: Int, sums: list[Vec]
) -> list[Vec]:
    """Every row from `first` on; rows of inputs that the next one sees too stay in registers."""
    width, next_row = len(columns.users), tile.width * tile.distance
    kept = [vector for row in tile.input_rows(e, k, first, range(k.kept_rows)) for vector in columns.row(row)]
    with e.loop(first, tile.height, k.rows_apart, carried=[*sums, *kept]) as y:
        new = tile.input_rows(e, k, y.index, range(k.kept_rows, k.tap_rows))
        sums, kept = y.values[: len(sums)], y.values[len(sums) :]
        row = y.index * next_row
        if k.kept_rows:
            rows = [kept[i : i + width] for i in range(0, len(kept), width)]
            rows += [columns.row(start, fetches=True) for start in new]
            sums = columns.by_gradients(rows, row, sums)
            kept = [vector for row in rows[-k.kept_rows :] for vector in row]
        else:
            sums = columns.by_inputs(new, row, sums)
        y.values = [*sums, *kept]
    return y.values[: len(sums)]


def outputs_inside(e: Block, k: WeightGradientPlan, axis: int, tap: Int, outputs: tuple[Int, Int]) -> tuple[Int, Int]:
    """The outputs, of [first, last), whose input under a tap lies inside the image."""
    if axis < 3 - k.rank:
        return outputs
    shift, stride = e.number(f"pad_{'zyx'[axis]}") - tap * k.dilation[axis], k.stride[axis]
    first = least(greatest(outputs[0], ceil_div(greatest(shift, 0), stride)), outputs[1])
    last = ceil_div(greatest(shift + e.number(f"in_{'zyx'[axis]}"), 0), stride)
    return first, greatest(least(outputs[1], last), first)


def _columns(e: Block, k: WeightGradientPlan, tile: Tile) -> tuple[Int, Int, Int, Int]:
    """Columns of the box: where those begin that some taps have inside, that all have, where these end, and those."""
    start, outputs = tile.box.x_start, (tile.box.x_start, tile.box.x_stop)
    left, right = (outputs_inside(e, k, 2, tile.kx + tap, outputs) for tap in (0, k.tap_columns - 1))
    begin, end = right[0], greatest(left[1], right[0])
    first = least(greatest(left[0], begin), end)
    last = least(greatest(right[1], first), end)
    return begin - start, first - start, last - start, end - start


def _tiles(begin: Int, first: Int, last: Int, end: Int) -> tuple[tuple[Int, Int, int, bool], ...]:
    """Runs of tiles: begin, end, columns of each, and whether some may lie outside [first, last)."""
    left = begin + least(ceil_div(first - begin, COLUMNS), (end - begin) // COLUMNS) * COLUMNS
    inside = left + greatest(last - left, 0) // COLUMNS * COLUMNS
    right = inside + (end - inside) // COLUMNS * COLUMNS
    return (
        (begin, left, COLUMNS, True),
        (left, inside, COLUMNS, False),
        (inside, right, COLUMNS, True),
        (right, end, 1, True),
    )


@dataclass(frozen=True, slots=True)
class _Columns:
    """Some columns of outputs.

    users:  by the place of an input, from the first on, the columns and taps that it is under
    ix:     column of the first input
    inputs, gradients: elements to the first one's, from those of column 0 on
    checked: inputs may lie outside the image, where they are zero
    """

    e: Block
    k: WeightGradientPlan
    tile: Tile
    users: dict[int, list[tuple[int, int]]]
    ix: Int
    inputs: Int
    gradients: Int
    checked: bool

    @property
    def count(self) -> int:
        return 1 + max(i for users in self.users.values() for i, _ in users)

    def by_inputs(self, rows: Iterable[Ptr], row: Int, sums: Sequence[Vec]) -> list[Vec]:
        """`sums` plus products, each input loaded once for all taps that it is under.

        rows: of inputs, by their column 0
        row:  elements to that of gradients
        """
        k, sums, starts = self.k, list(sums), list(rows)
        for v in range(k.vectors):
            gradients = [self._gradient(v, row, i) for i in range(self.count)]
            for ky, start in enumerate(starts):
                # Anew, or LLVM would load those of all rows first, and keep sums in memory.
                pixels = (start + self.inputs).anew()
                for position, users in self.users.items():
                    vector = self._input(v, pixels, position, fetches=ky >= k.kernel[1] - k.stride[1])
                    for i, tap in users:
                        place = k.place(v, i, ky, tap)
                        sums[place] = gradients[i].fma(vector, sums[place])
        return sums

    def by_gradients(self, rows: Sequence[Sequence[Vec]], row: Int, sums: Sequence[Vec]) -> list[Vec]:
        """The same of inputs that are all in registers, one gradient at a time."""
        k, sums = self.k, list(sums)
        places = {user: place for place, users in enumerate(self.users.values()) for user in users}
        for i in range(self.count):
            gradient = self._gradient(0, row, i)
            for (ky, inputs), tap in product(enumerate(rows), range(k.tap_columns)):
                place = k.place(0, i, ky, tap)
                sums[place] = gradient.fma(inputs[places[i, tap]], sums[place])
        return sums

    def row(self, start: Ptr, *, fetches: bool = False) -> list[Vec]:
        """All inputs of a row whose column 0 is there."""
        return [self._input(0, start + self.inputs, position, fetches=fetches) for position in self.users]

    def _gradient(self, vector: int, row: Int, i: int) -> Vec:
        place = self.tile.gradients[vector] + (row + self.gradients) + i * self.k.columns_apart * self.tile.distance
        if self._fetches:
            (place + self._ahead).prefetch(2)
        return place.load(self.k.lanes)

    def _input(self, vector: int, pixels: Ptr, position: int, *, fetches: bool) -> Vec:
        e, k, inputs = self.e, self.k, self.tile.inputs[vector]
        pixel = pixels + inputs.first + position * self.tile.rows.x_stride
        # Each line once: rows and columns that tiles before did not see.
        if self._fetches and fetches and position >= k.kernel[2] - k.stride[2]:
            (pixel + self._ahead).prefetch(2)
        if self.checked:
            pixel = select((self.ix + position).is_index_of(e.number("in_x")), pixel, e.zeros(k.lanes + 1))
        return inputs.load(pixel)

    @property
    def _fetches(self) -> bool:
        return self.k.fetches and (self.k.goes_down or not self.checked)

    @property
    def _ahead(self) -> int:
        """Where the next bundle's vector ends: it may begin in a line that this one ends in."""
        return (self.k.vectors + 1) * self.k.lanes - 1


def _columns_of(e: Block, k: WeightGradientPlan, tile: Tile, x: Int, count: int, *, checked: bool) -> _Columns:
    """Of a box, from its column x on."""
    users: dict[int, list[tuple[int, int]]] = {}
    for i, tap in product(range(count), range(k.tap_columns)):
        users.setdefault(i * k.columns_apart * k.stride[2] + tap * k.dilation[2], []).append((i, tap))
    ix = (tile.box.x_start + x) * k.stride[2] + (tile.kx * k.dilation[2] - e.number("pad_x"))
    return _Columns(e, k, tile, dict(sorted(users.items())), ix, ix * tile.rows.x_stride, x * tile.distance, checked)
