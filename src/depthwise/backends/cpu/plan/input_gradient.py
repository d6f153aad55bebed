"""The gradient of a strided depthwise convolution's input: which taps reach a pixel, and how pixels are cut."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod

from ....geometry import Geometry
from ..machine import FLOAT_BYTES, Machine
from .cut import Cut, segments_of
from .filters import PixelFilters
from .sizes import Axes, lanes_below, moved_bytes, three, window_of

# Of a tile: about so many columns, and of longer rows of taps so many at a time.
_COLUMNS = 6
_TAPS = 8
# Columns of longer strides are done one by one.
_MOST_STRIDE = 4


@dataclass(frozen=True, slots=True)
class Phase:
    """The taps that reach the places of one phase, (place + padding) % stride: first, first + step, ...

    outputs: the output that the first reaches from is (place + padding) // stride + `offset`; that of the next, `back`
             before it
    """

    first: int
    step: int
    offset: int
    back: int


def phase_of(phase: int, kernel: int, stride: int, dilation: int) -> Phase | None:
    """None where no tap reaches."""
    common = gcd(stride, dilation)
    if phase % common:
        return None
    step, back = stride // common, dilation // common
    first = next(tap for tap in range(step) if (tap * dilation - phase) % stride == 0)
    return Phase(first, step, (phase - first * dilation) // stride, back) if first < kernel else None


@dataclass(frozen=True, slots=True)
class InputGradientPlan(PixelFilters):
    """The constants of a loop nest over pixels of the input; what it reads are gradients, of `channels` filters.

    units:  outputs whose stride a tile of columns covers; 0: columns are done one by one
    taps:   of a row of the kernel, at a time
    fetches: the next tile is asked for meanwhile
    """

    units: int
    taps: int
    fetches: bool

    @property
    def name(self) -> str:
        layout = "planar" if self.planar else f"p{self.pixel_stride or 0}"
        return f"{self.window_name}_v{self.lanes}u{self.units}t{self.taps}{'f' * self.fetches}_{layout}"

    def phases(self, axis: int) -> list[Phase | None]:
        """By (place + padding) % stride."""
        return [
            phase_of(phase, self.kernel[axis], self.stride[axis], self.dilation[axis])
            for phase in range(self.stride[axis])
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputBoxes(Cut):
    """Boxes of the input's pixels are dealt out, of planes with each block of filters.

    z_bands, boxes, segments, box_pixels: as those of Boxes, of the input
    in_scratch: elements of the gradients that a box of planes needs
    """

    z_bands: int
    boxes: int
    segments: int
    box_pixels: int
    in_scratch: int


def input_gradient_plan(
    g: Geometry, batch: int, machine: Machine, *, planar: bool, pixel_stride: int | None
) -> InputGradientPlan:
    kernel, stride, dilation = window_of(g)
    whole = kernel[2] <= _TAPS + 1
    return InputGradientPlan(
        rank=g.rank,
        channels=g.depthwise_channels,
        multiplier=1,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        activation=None,
        lanes=lanes_below(g.depthwise_channels, machine.vector_lanes),
        planar=planar,
        pixel_stride=pixel_stride,
        units=max(1, _COLUMNS // stride[2]) if stride[2] <= _MOST_STRIDE else 0,
        taps=kernel[2] if whole else -(-_TAPS // stride[2]) * stride[2],
        fetches=not planar and moved_bytes(g, batch) > machine.l2_bytes,
    )


def input_boxes(g: Geometry, batch: int, machine: Machine, threads: int, *, planar: bool) -> InputBoxes:
    depth, height, width = three(g.input_size[1:], 1)
    lanes = lanes_below(g.depthwise_channels, machine.vector_lanes)
    # Of planes a box and the gradients under it stay in L2; pixels are dealt out row by row.
    target = max(56, machine.l2_bytes // 8 // (FLOAT_BYTES * lanes))
    segments = segments_of(width, batch * depth * height, threads, target)
    bands = min(height, -(-height * width // target)) if planar and segments == 1 else height
    z_bands = depth if bands * segments > 1 or not planar else min(depth, -(-depth * height * width // target))
    planes, rows, columns = -(-depth // z_bands), -(-height // bands), -(-width // segments)
    pixels = planes * rows * columns
    in_scratch = _reaching(g, (planes, rows, columns)) * lanes if planar else 0
    return InputBoxes(
        threads=threads,
        scratch_elements=in_scratch + pixels * lanes if planar else 0,
        z_bands=z_bands,
        boxes=bands * segments,
        segments=segments,
        box_pixels=pixels,
        in_scratch=in_scratch,
    )


def _reaching(g: Geometry, places: Axes) -> int:
    """The most outputs that reach a box of so many places."""
    sizes, kernel = three(g.out_spatial, 1), three(g.kernel_size, 1)
    stride, dilation = three(g.stride, 1), three(g.dilation, 1)
    windows = zip(sizes, places, kernel, stride, dilation, strict=True)
    return prod(min(size, (n - 1 + (k - 1) * d) // s + 2) for size, n, k, s, d in windows)
