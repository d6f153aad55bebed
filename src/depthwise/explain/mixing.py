"""The panels of convolutions whose kernels span all channels: the dense one and the pointwise one."""

from __future__ import annotations

from dataclasses import dataclass

from .arithmetic import Step, all_of, plural
from .layout import (
    ARROW,
    CAPTION,
    HEADING,
    MARGIN,
    NEAR,
    Columns,
    Panel,
    caption,
    convolved,
    end_widths,
    heading,
    priced_arrow,
    sides,
)
from .solids import Solid
from .svg import INK, tag
from .volumes import Volumes, volume

SIGN = 46.0
# Kernels drawn of many, and the room they share.
COPIES = 3
SHELF_ROOM = 240.0
# Where the kernels' middle is, as a share of the figure's width, unless the first volume needs the space.
SHELF_CENTER = 0.385


@dataclass(frozen=True, slots=True)
class Shelf:
    """Equal kernels side by side like books, the first few of many."""

    kernel: Solid
    count: int

    @property
    def copies(self) -> int:
        return min(self.count, COPIES)

    @property
    def step(self) -> float:
        free = SHELF_ROOM - self.kernel.extent[0]
        return max(min(self.kernel.width + 14, free / 2), 12.0)

    @property
    def extent(self) -> tuple[float, float]:
        wide, high = self.kernel.extent
        more = 30.0 if self.count > self.copies else 0.0
        return max(wide + self.step * (self.copies - 1), self._dots + more), high

    def draw(self, x: float, y: float) -> str:
        """The kernels from x to the right, centred on y."""
        wide, high = self.kernel.extent
        # From left to right, because the neighbour to the right stands nearer to the reader.
        drawn = "".join(self.kernel.draw((x + wide / 2 + self.step * i, y)) for i in range(self.copies))
        if self.count > self.copies:
            foot = y + high / 2 - 2
            drawn += "".join(tag("circle", cx=x + self._dots + 9 * i, cy=foot, r=2, fill=INK) for i in (1, 2, 3))
        return drawn

    @property
    def _dots(self) -> float:
        return self.step * (self.copies - 1) + self.kernel.width


def least_width(volumes: Volumes) -> float:
    """What the widest of these panels needs."""
    kernels = (volumes.dense_kernel(), volumes.pointwise_kernel())
    shelf = max(Shelf(kernel, COPIES + 1).extent[0] for kernel in kernels)
    return 2 * MARGIN + sum(end_widths(volumes)) + SIGN + shelf + ARROW + 2 * NEAR


def dense_panel(volumes: Volumes, step: Step, columns: Columns) -> Panel:
    whole = all_of(volumes.g.in_channels)
    each = "each spanning" if step.kernels > 1 else "spanning"
    title = f"Dense convolution: {plural(step.kernels, 'kernel')}, {each} {whole}"
    sentence = f"Each kernel takes the weighted sum of the strong block ({whole}): one pixel of its own output channel."
    first, last = volumes.input(window=True), volumes.output(window=True)
    return _panel(first, volumes.dense_kernel(), last, step, columns, heading(title, sentence, columns.width))


def pointwise_panel(volumes: Volumes, step: Step, columns: Columns) -> Panel:
    whole = all_of(volumes.g.depthwise_channels)
    title = f"Separable, step 2, pointwise: mixing the channels with {plural(step.kernels, 'kernel')} of a single pixel"
    sentence = f"Each kernel takes the weighted sum of {whole} at one pixel: one pixel of its own output channel."
    first, last = volumes.middle(window=True), volumes.output(window=True)
    return _panel(first, volumes.pointwise_kernel(), last, step, columns, heading(title, sentence, columns.width))


def _panel(first: Solid, kernel: Solid, last: Solid, step: Step, columns: Columns, head: str) -> Panel:
    shelf = Shelf(kernel, step.kernels)
    wide, high = shelf.extent
    tallest = max(first.extent[1], last.extent[1], high)
    y, label = HEADING + tallest / 2, HEADING + tallest + 24
    left = sides(first, columns.first)[1]
    start = max(left + SIGN, SHELF_CENTER * columns.width - wide / 2)
    end = sides(last, columns.last)[0] - NEAR
    parts = [
        head,
        first.draw((columns.first, y)),
        convolved((left + start) / 2, y),
        shelf.draw(start, y),
        priced_arrow(start + wide + NEAR, end, y, step.formula, f"= {step.cost.multiplications:,} multiplications"),
        last.draw((columns.last, y)),
        caption((columns.first, label), volume(step.input_size), "input" if step.name == "dense" else "after step 1"),
        caption((start + wide / 2, label), volume(step.kernel_size), plural(step.kernels, "kernel")),
        caption((columns.last, label), volume(step.output_size), "output"),
    ]
    return Panel("".join(parts), HEADING + tallest + CAPTION)
