"""What plans of all kinds go by: sizes in lanes, pixels and bytes."""

from __future__ import annotations

from dataclasses import replace
from math import gcd, prod

from ....geometry import Geometry
from ...base import Activation
from ..machine import FLOAT_BYTES, Machine

# Of a window or an image: z y x, with extent 1 for those that a rank lacks.
Axes = tuple[int, int, int]

# A longer one is as good, unless the input is longer still.
MOST_STRIDE = 1 << 20
# Of float32 in a cache line.
LINE_ELEMENTS = 16


def pointwise_bytes(g: Geometry) -> int:
    """Of the weights of the pointwise step."""
    return FLOAT_BYTES * g.depthwise_channels // g.groups * g.output_size[0]


def weights_stay(g: Geometry, machine: Machine) -> bool:
    """Whether the weights of the pointwise step stay in L2 beside what is multiplied with them."""
    return pointwise_bytes(g) <= machine.l2_bytes // 2


def fetches_next(g: Geometry, machine: Machine) -> bool:
    """Whether the pointwise step of one band fetches the next one's input: all that lies between its ends."""
    windows = zip(g.kernel_size, g.stride, g.dilation, strict=True)
    sees_all = all(seen(*axis) == axis[1] for axis in windows)
    return g.out_channels is not None and g.rank == 2 and weights_stay(g, machine) and sees_all


def seen(kernel: int, stride: int, dilation: int) -> int:
    """How many of `stride` neighbouring inputs windows see: those whose place, modulo the stride, a tap has too."""
    return min(kernel, stride // gcd(stride, dilation))


def lanes_below(channels: int, most: int) -> int:
    """Lanes of the widest vector, of at most `most`, that `channels` fill at least once."""
    return min(most, 1 << (channels.bit_length() - 1))


def unaliased(channels: int) -> int:
    """Elements from pixel to pixel of a scratch row, so that neighbours do not fall into one set of the L1 cache."""
    return channels + 16 if channels % 256 == 0 else channels


def three(numbers: tuple[int, ...], missing: int) -> Axes:
    """One number per axis z y x."""
    z, y, x = (*(missing,) * (3 - len(numbers)), *numbers)
    return z, y, x


def window_of(g: Geometry) -> tuple[Axes, Axes, Axes]:
    """Kernel, stride and dilation in three dimensions."""
    return three(g.kernel_size, 1), three(g.stride, 1), three(g.dilation, 1)


def columns_done(width: int, choices: tuple[int, ...]) -> int:
    """Columns that are done, some of them twice, where a row is cut into tiles of one choice."""
    return min(-(-width // columns) * columns for columns in choices if columns <= width)


def seen_outside(g: Geometry) -> tuple[int, int]:
    """How many columns before and after a row of the image its first and its last output see."""
    before, reach = g.padding[-1][0], (g.kernel_size[-1] - 1) * g.dilation[-1]
    last = (g.out_spatial[-1] - 1) * g.stride[-1] + reach - before
    return before, max(0, last - (g.input_size[-1] - 1))


def moved_bytes(g: Geometry, batch: int) -> int:
    """Of input and result."""
    return FLOAT_BYTES * batch * (prod(g.input_size) + prod(g.output_size))


def least_steps(g: Geometry) -> Geometry:
    """The same convolution without strides and dilations beyond all sizes, which would not fit into the code."""
    padded = (size + before + after for size, (before, after) in zip(g.input_size[1:], g.padding, strict=True))
    stride = tuple(min(s, max(size, MOST_STRIDE)) for s, size in zip(g.stride, padded, strict=True))
    dilation = tuple(1 if k == 1 else d for k, d in zip(g.kernel_size, g.dilation, strict=True))
    return replace(g, stride=stride, dilation=dilation)


def joined(g: Geometry, strides: tuple[int, ...]) -> tuple[Geometry, tuple[int, ...]]:
    """The same convolution of an input with these strides, rows that follow one another in memory as one long row.

    Where windows are one pixel along both axes, so that no row ends anywhere.
    """
    sizes, steps, last = list(g.input_size), list(strides), g.rank

    def is_free(axis: int) -> bool:
        return (g.kernel_size[axis - 1], g.stride[axis - 1], g.padding[axis - 1]) == (1, 1, (0, 0))

    for axis in range(last - 1, 0, -1):
        # Sizes begin with the channels, strides with the batch.
        if not (is_free(last) and is_free(axis)) or steps[axis + 1] != sizes[last] * steps[last + 1]:
            break
        sizes[axis], sizes[last] = 1, sizes[axis] * sizes[last]
    return replace(g, input_size=tuple(sizes)), tuple(steps)


def activation_name(activation: Activation) -> str:
    return "linear" if activation is None else f"{activation[0]}{activation[1]!r}"
