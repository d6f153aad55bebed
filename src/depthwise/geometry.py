"""Padding, output size and channels of a convolution: the only shape arithmetic in the project.

Sizes are plain ints, or torch's SymInt while a program is traced: no size is hashed, printed or compared here
unless the comparison decides whether the call is an error.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, prod
from numbers import Real
from typing import Any, SupportsIndex, TypeGuard, cast

from .errors import DepthwiseError, shown

IntOrTuple = int | Sequence[int]
Pairs = tuple[tuple[int, int], ...]
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]

# What torch counts with, and what it can count of one tensor.
MOST = 2**63 - 1

AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shape of one convolution: a depthwise one, or a separable one where `out_channels` is given.

    in_channels, input_size:   what comes in; `input_size` is (in_channels, *spatial)
    kernel_size, stride, dilation: one int per spatial dimension
    padding:                   (before, after) per spatial dimension, zeros
    depth_multiplier:          filters per input channel
    out_channels, groups:      of the pointwise convolution; None for a depthwise convolution alone
    """

    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    depth_multiplier: int = 1
    out_channels: int | None = None
    groups: int = 1

    @property
    def rank(self) -> int:
        return len(self.kernel_size)

    @property
    def in_channels(self) -> int:
        return self.input_size[0]

    @property
    def depthwise_channels(self) -> int:
        return self.in_channels * self.depth_multiplier

    @property
    def kernel_area(self) -> int:
        return prod(self.kernel_size)

    @property
    def window(self) -> tuple[list[int], list[int], list[int]]:
        """stride, padding, dilation as an operator takes them: padding before, after, before, ..."""
        return list(self.stride), [amount for pair in self.padding for amount in pair], list(self.dilation)

    @property
    def out_spatial(self) -> tuple[int, ...]:
        return out_spatial(self.input_size[1:], self.kernel_size, self.stride, self.padding, self.dilation)

    @property
    def depthwise_size(self) -> tuple[int, ...]:
        """(channels, *spatial) after the depthwise step."""
        return (self.depthwise_channels, *self.out_spatial)

    @property
    def output_size(self) -> tuple[int, ...]:
        """(channels, *spatial) of the result."""
        return (self.depthwise_channels if self.out_channels is None else self.out_channels, *self.out_spatial)


def geometry(
    input_size: Sequence[int],
    kernel_size: IntOrTuple,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    *,
    depth_multiplier: int = 1,
    out_channels: int | None = None,
    groups: int = 1,
) -> Geometry:
    """Check a convolution's sizes and settle its padding.

    >>> geometry((3, 7, 7), 3, out_channels=128).output_size
    (128, 5, 5)
    >>> geometry((3, 224, 224), 3, stride=2, padding="same").padding
    ((0, 1), (0, 1))
    """
    if not _is_sequence(input_size) or len(input_size) - 1 not in AXES:
        raise DepthwiseError(f"input_size is (channels, *spatial) with 1, 2 or 3 spatial dimensions; got {input_size}")
    rank = len(input_size) - 1
    channels = _at_least(input_size[0], 1, "channels of the input")
    spatial = [_at_least(n, 1, f"the input's {axis}") for axis, n in zip(AXES[rank], input_size[1:], strict=True)]
    kernel_size = per_axis(kernel_size, rank, "kernel_size")
    stride = per_axis(stride, rank, "stride")
    dilation = per_axis(dilation, rank, "dilation")
    if out_channels is not None:
        out_channels = positive(out_channels, "out_channels")
    g = Geometry(
        (channels, *spatial),
        kernel_size,
        stride,
        padding_pairs(padding, spatial, kernel_size, stride, dilation),
        dilation,
        positive(depth_multiplier, "depth_multiplier"),
        out_channels,
        positive(groups, "groups"),
    )
    check_groups(channels, out_channels, g.groups)
    for axis, size, k, d, (before, after) in zip(AXES[rank], spatial, kernel_size, dilation, g.padding, strict=True):
        if size + before + after < d * (k - 1) + 1:
            raise DepthwiseError(
                f"the kernel covers {d * (k - 1) + 1} pixels along the {axis} (kernel_size {k}, dilation {d}), more "
                f"than the padded input's {size + before + after} (input {size}, padding {before} before and {after} "
                f"after): the output would be empty; use more padding, a smaller kernel or a larger input"
            )
    return g


def out_spatial(
    spatial: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Spatial size of a convolution's output: floor((n + before + after - d·(k - 1) - 1) / s) + 1 per dimension."""
    axes = zip(spatial, kernel_size, stride, padding, dilation, strict=True)
    return tuple((n + before + after - d * (k - 1) - 1) // s + 1 for n, k, s, (before, after), d in axes)


def pooled(size: int, kernel: int, stride: int, padding: int, dilation: int = 1, *, ceil_mode: bool = False) -> int:
    """Windows along one dimension; torch drops a last one that would lie in the padding behind."""
    reach = size + 2 * padding - dilation * (kernel - 1) - 1
    count = -(-reach // stride) + 1 if ceil_mode else reach // stride + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    if count < 1:
        raise ValueError(f"a window of {kernel} on {size} pixels")
    return count


def pool_geometry(
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *,
    ceil_mode: bool = False,
) -> Geometry:
    """The windows of a pooling, its padding behind as much as the last of them needs.

    >>> pool_geometry((8, 6, 6), (3, 3), (2, 2), (0, 0), (1, 1), ceil_mode=True).out_spatial
    (3, 3)
    """
    pairs = []
    for size, k, s, p, d in zip(input_size[1:], kernel_size, stride, padding, dilation, strict=True):
        last = (pooled(size, k, s, p, d, ceil_mode=ceil_mode) - 1) * s - p
        pairs.append((p, max(0, last + d * (k - 1) + 1 - size)))
    return Geometry(tuple(input_size), tuple(kernel_size), tuple(stride), tuple(pairs), tuple(dilation))


def padding_pairs(
    padding: Padding, spatial: Sequence[int], kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Pairs:
    """Settle any form of `padding` as (before, after) per spatial dimension.

    "same" follows TensorFlow's rule, strided too: ceil(n / s) outputs, the odd pixel after; at stride 1 it is torch's.

    >>> padding_pairs(((3, 0),), (100,), (4,), (1,), (1,))
    ((3, 0),)
    """
    fixed = fixed_padding(without_causal(padding, kernel_size, dilation), len(kernel_size))
    if not isinstance(fixed, str):
        return fixed
    axes = zip(spatial, kernel_size, stride, dilation, strict=True)
    return tuple(_same(n, k, s, d) for n, k, s, d in axes)


def without_causal(padding: Padding, kernel_size: Sequence[int], dilation: Sequence[int]) -> Padding:
    """`padding`, "causal" as its pairs: d·(k - 1) before the first axis, which is time, and nothing else.

    >>> without_causal("causal", (4,), (2,))
    ((6, 0),)
    """
    if not isinstance(padding, str) or padding != "causal":
        return padding
    if len(kernel_size) not in (1, 3):
        raise DepthwiseError("padding='causal' needs a time axis: the length in 1-d, the depth in 3-d; this is 2-d")
    return ((dilation[0] * (kernel_size[0] - 1), 0), *((0, 0),) * (len(kernel_size) - 1))


def fixed_padding(padding: Padding, rank: int) -> Pairs | str:
    """`padding` as pairs where it does not depend on the input's size, or "same"."""
    if isinstance(padding, str):
        if padding == "same":
            return padding
        if padding == "valid":
            return ((0, 0),) * rank
        raise DepthwiseError(
            f"padding is an int, a tuple, (before, after) pairs, 'valid', 'same' or 'causal'; got {padding!r}"
        )
    amounts = tuple(padding) if _is_sequence(padding) else (padding,) * rank
    if any(map(_is_sequence, amounts)):
        pairs = tuple(tuple(amount) for amount in amounts if _is_sequence(amount) and len(amount) == 2)
        if len(pairs) != rank or len(amounts) != rank:
            raise DepthwiseError(
                f"padding as pairs needs one (before, after) per spatial dimension, {rank} here; got {padding!r}"
            )
        return tuple((_padding(before), _padding(after)) for before, after in pairs)
    if len(amounts) not in (1, rank):
        pair = f"; for one axis write (({amounts[0]}, {amounts[1]}),)" if rank == 1 and len(amounts) == 2 else ""
        raise DepthwiseError(f"padding is one int, or {rank} for a {rank}-d convolution; got {amounts}{pair}")
    return tuple((_padding(p), _padding(p)) for p in amounts) * (rank if len(amounts) == 1 else 1)


def torch_padding(padding: Padding, stride: tuple[int, ...]) -> tuple[int, ...] | str | None:
    """`padding` as torch's own convolutions take it; None where they cannot: uneven pairs and a strided "same"."""
    fixed = fixed_padding(padding, len(stride))
    if isinstance(fixed, str):
        return fixed if all(s == 1 for s in stride) else None
    return tuple(before for before, _ in fixed) if all(before == after for before, after in fixed) else None


def per_axis(value: IntOrTuple, rank: int, name: str, least: int = 1) -> tuple[int, ...]:
    """`value` as one int of at least `least` per spatial dimension."""
    if _is_sequence(value):
        if len(value) not in (1, rank):
            raise DepthwiseError(f"{name} is one int, or {rank} for a {rank}-d convolution; got {tuple(value)}")
        return tuple(positive(v, name, least) for v in value) * (rank if len(value) == 1 else 1)
    return (positive(value, name, least),) * rank


def positive(value: object, name: str, least: int = 1) -> int:
    """`value`, checked to be an int of at least `least`."""
    number = operator.index(_at_least(value, least, name))
    if number > MOST:
        raise DepthwiseError(f"{name} must be at most {MOST}, the largest 64-bit integer; got {shown(number)}")
    return number


def finite(value: object, name: str) -> float:
    """`value`, checked to be a finite number."""
    if type(value) is not bool and isinstance(value, Real):
        try:
            number = float(value)
        except OverflowError:
            number = inf
        if isfinite(number):
            return number
    raise DepthwiseError(f"{name} must be a finite number; got {shown(value)}")


def check_countable(name: str, *sizes: int) -> None:
    """Check that a tensor can have these sizes; symbolic ones, which torch has counted, are left alone."""
    if all(type(size) is int for size in sizes) and prod(sizes) > MOST // 8:
        raise DepthwiseError(f"{name} would have the sizes {sizes}, more elements than a tensor can have")


def check_groups(in_channels: int, out_channels: int | None, groups: int) -> None:
    """Check that the pointwise convolution's groups divide its channels."""
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels is not None and channels % groups:
            raise DepthwiseError(f"{name}={channels} is not divisible by groups={groups}")


def _is_sequence(value: object) -> TypeGuard[Sequence[Any]]:
    # Those of letters and bytes are no numbers.
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _padding(value: object) -> int:
    return _at_least(value, 0, "padding")


def _at_least(value: object, least: int, name: str) -> int:
    number = value if type(value) is int else _number(value, name)
    if number < least:
        raise DepthwiseError(f"{name} must be at least {least}; got {shown(number)}")
    return number


def _number(value: object, name: str) -> int:
    """An int of what stands for one: numpy's and tensors of one element too; a traced size stays symbolic."""
    # An array has __index__ too, and no single value. A symbolic int of torch's has a node.
    if isinstance(value, SupportsIndex) and not isinstance(value, bool) and getattr(value, "shape", ()) == ():
        if getattr(value, "node", None) is not None:
            return cast(int, value)
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise DepthwiseError(f"{name} must be an integer; got {shown(value)}")


def _same(n: int, k: int, s: int, d: int) -> tuple[int, int]:
    # (ceil(n/s) - 1)·s + d(k-1) + 1 - n. Of a symbolic n only the remainder of a sum is asked, which torch's compilers
    # know to be at least 0, and it is compared with nothing where the window is at least as long as the stride.
    total = d * (k - 1) - ((n + s - 1) % s if s > 1 else 0)
    if d * (k - 1) + 1 < s:
        total = max(total, 0)
    return total // 2, total - total // 2
