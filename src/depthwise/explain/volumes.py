"""The volumes and kernels of one geometry as solids on shared scales.

Ranks 1 and 2: the front face is height x width (height 1 for rank 1), the channels lie one behind the other.
Rank 3: each channel is a block of depth x height x width, and the blocks stand one behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..geometry import Geometry
from .scale import Scale
from .solids import Border, Slice, Solid, Window
from .svg import WHITE, mixed

# Three channels are told apart by colour (the palette of Okabe and Ito), the others are grey; what sums over channels
# is purple (Tol's muted palette).
HUES = ("#0072b2", "#e69f00", "#009e73")
REST = "#9aa3af"
MIXED = "#aa4499"
SHOWN = len(HUES)

# Per rank: room for the longest side of a face, and the shortest pixel.
FACE_ROOM = {1: 150.0, 2: 98.0, 3: 90.0}
LEAST_PIXEL = {1: 7.0, 2: 6.0, 3: 6.0}
CHANNEL_ROOM = 130.0
LEAST_CHANNEL = 12.0
# Slices thinner than this are drawn as one.
THINNEST_SLICE = 4.0
# Zeros around an input that is not drawn in proportion.
RIM = 6.0
# Rank 3: how much shorter depth is drawn than height and width, and the space between two channels.
FORESHORTENED = 0.6
APART = 12.0


@dataclass(frozen=True, slots=True)
class Volumes:
    """Makes the inputs, kernels and outputs of `g`, all on one scale for pixels and one for channels."""

    g: Geometry
    pixels: Scale
    channels: Scale

    @classmethod
    def of(cls, g: Geometry) -> Volumes:
        padded = [n + sum(pads) for n, pads in zip(g.input_size[1:], g.padding, strict=True)]
        pixels = Scale.fitting(
            max(*padded, *g.out_spatial),
            room=FACE_ROOM[g.rank],
            least_unit=LEAST_PIXEL[g.rank],
            most_unit=14,
            exact_until=max(window_size(g)),
        )
        most = max(g.in_channels, g.depthwise_channels, g.output_size[0])
        # A colour photograph's three channels are always drawn in proportion.
        channels = Scale.fitting(
            most, room=CHANNEL_ROOM, least_unit=LEAST_CHANNEL, most_unit=14, exact_until=min(SHOWN, most)
        )
        return cls(g, pixels, channels)

    def input(self, *, window: bool = False) -> Solid:
        colors = hues(range(min(self.g.in_channels, SHOWN)))
        return self._input(self.g.in_channels, colors, window=window)

    def input_channel(self, channel: int) -> Solid:
        return self._input(1, hues([channel]), window=True)

    def middle(self, *, window: bool = False) -> Solid:
        colors = self._copied(range(min(self.g.in_channels, SHOWN)))
        return self._output(self.g.depthwise_channels, colors, REST, window=window)

    def middle_channel(self, channel: int) -> Solid:
        return self._output(self.g.depth_multiplier, self._copied([channel]), hue(channel), window=True)

    def output(self, *, window: bool = False) -> Solid:
        count = self.g.output_size[0]
        return self._output(count, [MIXED] * min(count, SHOWN), MIXED, window=window)

    def dense_kernel(self) -> Solid:
        colors = hues(range(min(self.g.in_channels, SHOWN)))
        return self._solid((self.g.in_channels, *self.g.kernel_size), colors, REST, strong=True)

    def depthwise_kernel(self, channel: int, copy: int) -> Solid:
        return self._solid((1, *self.g.kernel_size), [hue(channel, copy)], REST, strong=True)

    def pointwise_kernel(self) -> Solid:
        colors = self._copied(range(min(self.g.in_channels, SHOWN)))
        return self._solid((self.g.depthwise_channels, *(1,) * self.g.rank), colors, REST, strong=True)

    def _input(self, count: int, colors: Sequence[str], *, window: bool) -> Solid:
        size = (count, *self.g.input_size[1:])
        if not window:
            return self._solid(size, colors, REST)
        return self._solid(size, colors, REST, window=self._kernel_window(), border=self._border())

    def _output(self, count: int, colors: Sequence[str], rest: str, *, window: bool) -> Solid:
        return self._solid((count, *self.g.out_spatial), colors, rest, window=self._pixel() if window else None)

    def _solid(
        self,
        size: Sequence[int],
        colors: Sequence[str],
        rest: str,
        *,
        window: Window | None = None,
        border: Border = (0.0, 0.0, 0.0, 0.0),
        strong: bool = False,
    ) -> Solid:
        count, *spatial = size
        rows, columns = plane(spatial)
        volumetric = self.g.rank == 3
        slices = self._blocks(colors, spatial[0]) if volumetric else self._sheets(count, colors, rest)
        return Solid(
            label=volume(size),
            width=self.pixels(columns),
            height=self.pixels(rows),
            slices=slices,
            cells=(columns, rows),
            window=window,
            border=border,
            gap=APART if volumetric else 0.0,
            strong=strong,
            goes_on=volumetric and count > len(slices),
        )

    def _sheets(self, count: int, colors: Sequence[str], rest: str) -> tuple[Slice, ...]:
        """Coloured channels in front, as thick as their number asks for, then all others."""
        shown = self.channels(len(colors))
        others = count - len(colors)
        behind = self.channels(count) - shown
        lines = others if self.channels.exact else 1
        return tuple(
            [Slice(shown / len(colors), color) for color in colors]
            + ([Slice(behind / lines, rest)] * lines if others else [])
        )

    def _blocks(self, colors: Sequence[str], depth: int) -> tuple[Slice, ...]:
        thickness = FORESHORTENED * self.pixels(depth)
        return tuple(Slice(thickness, color, layers=depth) for color in colors[:SHOWN])

    def _copied(self, channels: Sequence[int]) -> list[str]:
        """One colour per filter of these channels; one per channel where the filters' slices would be too thin."""
        copies = self.g.depth_multiplier
        count = copies * len(channels)
        if self.g.rank < 3 and self.channels(count) < THINNEST_SLICE * count:
            return hues(channels)
        return [hue(channel, copy) for channel in channels for copy in range(copies)]

    def _kernel_window(self) -> Window:
        """Where the kernel lies for the first row's last output pixel: at the corner that shows three faces."""
        g, (_, top, right, _) = self.g, self._border()
        rows, columns = plane(g.input_size[1:])
        reach_y, reach_x = plane(window_size(g))
        wide, high = self.pixels(reach_x), self.pixels(reach_y)
        end = (g.out_spatial[-1] - 1) * g.stride[-1] - g.padding[-1][0] + reach_x
        x = self.pixels(columns) + (right if end > columns else 0.0)
        if self.pixels.exact:
            x = self.pixels.unit * end
        depth = self.pixels(window_size(g)[0]) - self.pixels.unit * g.padding[0][0] if g.rank == 3 else None
        return Window(
            x=(x - wide, x),
            y=(-top, min(high - top, self.pixels(rows))) if g.rank == 1 else (-top, high - top),
            cells=plane(g.kernel_size)[::-1],
            gaps=plane(g.dilation)[::-1],
            thickness=None if depth is None else FORESHORTENED * max(depth, self.pixels.unit),
        )

    def _pixel(self) -> Window:
        columns = self.g.out_spatial[-1]
        wide, one = self.pixels(columns), self.pixels(1)
        return Window(
            (wide - one, wide), (0.0, one), (1, 1), thickness=FORESHORTENED * one if self.g.rank == 3 else None
        )

    def _border(self) -> Border:
        """How wide the zeros around a face are: left, top, right, bottom."""
        vertical, horizontal = ((0, 0), *self.g.padding)[-2:]
        left, right, top, bottom = (self._rim(count) for count in (*horizontal, *vertical))
        return left, top, right, bottom

    def _rim(self, count: int) -> float:
        return self.pixels.unit * count if self.pixels.exact else RIM * (count > 0)


def window_size(g: Geometry) -> tuple[int, ...]:
    """Pixels from a kernel's first tap to its last, per spatial dimension."""
    return tuple(d * (k - 1) + 1 for k, d in zip(g.kernel_size, g.dilation, strict=True))


def plane(spatial: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a face."""
    rows, columns = (1, *spatial)[-2:]
    return rows, columns


def volume(size: Sequence[int]) -> str:
    """The size as it is written in the figure, channels last.

    >>> volume((3, 7, 7))
    '7 × 7 × 3'
    """
    return " × ".join(str(side) for side in (*size[1:], size[0]))


def hue(channel: int, copy: int = 0) -> str:
    """The colour of a channel; every second filter of a channel is lighter."""
    return mixed(HUES[channel], WHITE, 0.45 * (copy % 2))


def hues(channels: Sequence[int]) -> list[str]:
    return [hue(channel) for channel in channels]
