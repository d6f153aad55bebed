"""Convolutions to test with: a space of geometries for hypothesis, their tensors, and the two checkers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from depthwise import reference
from depthwise.geometry import Padding, geometry

CHANNELS_LAST = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.to(memory_format=CHANNELS_LAST[x.dim() - 2]),
    "sliced": lambda x: torch.cat([x, x + 1], dim=1)[:, : x.shape[1]],
    "strided": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
}


@dataclass(frozen=True)
class Case:
    """One separable convolution; its depthwise step alone serves the depthwise tests."""

    batch: int
    in_channels: int
    depth_multiplier: int
    out_channels: int
    groups: int
    spatial: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding
    dilation: tuple[int, ...]
    layout: str
    bias: bool

    @property
    def rank(self) -> int:
        return len(self.spatial)

    @property
    def window(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}

    def tensors(self, draw: Callable[[tuple[int, ...]], Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """(x, depthwise weight, pointwise weight, pointwise bias), each of `draw`(shape), x in the case's layout."""
        filters = self.in_channels * self.depth_multiplier
        x = LAYOUTS[self.layout](draw((self.batch, self.in_channels, *self.spatial)))
        depthwise = draw((filters, 1, *self.kernel_size))
        pointwise = draw((self.out_channels, filters // self.groups, *(1,) * self.rank))
        return x, depthwise, pointwise, draw((self.out_channels,)) if self.bias else None


@st.composite
def cases(draw: st.DrawFn, max_rank: int = 3, max_size: int = 12) -> Case:
    rank = draw(st.integers(1, max_rank))
    axes = range(rank)
    groups = draw(st.integers(1, 3))
    kernel = tuple(draw(st.integers(1, 5)) for _ in axes)
    dilation = tuple(draw(st.integers(1, 3)) for _ in axes)
    covered = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding: Padding = draw(
        st.one_of(
            st.sampled_from(["same", "valid"]),
            st.integers(0, 4),
            st.tuples(*(st.integers(0, 4) for _ in axes)),
            st.tuples(*(st.tuples(st.integers(0, 4), st.integers(0, 4)) for _ in axes)),
        )
    )
    # Every size fits the kernel unpadded; smaller inputs come from subtracting what the padding adds.
    slack = 2 * padding if isinstance(padding, int) else 0
    spatial = tuple(draw(st.integers(max(1, c - slack), max(c, max_size))) for c in covered)
    return Case(
        batch=draw(st.integers(0, 2)),
        in_channels=groups * draw(st.integers(1, 3)),
        depth_multiplier=draw(st.integers(1, 3)),
        out_channels=groups * draw(st.integers(1, 3)),
        groups=groups,
        spatial=spatial,
        kernel_size=kernel,
        stride=tuple(draw(st.integers(1, 3)) for _ in axes),
        padding=padding,
        dilation=dilation,
        layout=draw(st.sampled_from(sorted(LAYOUTS))),
        bias=draw(st.booleans()),
    )


def small_integers(seed: int) -> Callable[[tuple[int, ...]], Tensor]:
    """Draws of integers in [-4, 4] as float32: all sums here stay below 2^24, so that any order gives the same bits."""
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randint(-4, 5, shape, generator=generator).float()


def normals(seed: int, dtype: torch.dtype = torch.float32) -> Callable[[tuple[int, ...]], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def assert_bit_equal(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} is not {tuple(expected.shape)}"
    assert actual.dtype == expected.dtype, f"{actual.dtype} is not {expected.dtype}"
    assert torch.equal(actual, expected), f"{int((actual != expected).sum())} of {actual.numel()} elements differ"


def assert_within_bound(actual: Tensor, case: Case, *tensors: Tensor | None) -> None:
    """Check `actual` against float64, element by element: |err| <= 2·n·eps·(|P|·(|D| * |x|) + |b|).

    n is the number of terms: kernel area + channels summed over + 1 for the bias.
    """
    wide = [None if tensor is None else tensor.double() for tensor in tensors]
    expected = separable_reference(case, *wide)
    magnitude = separable_reference(case, *(None if tensor is None else tensor.abs() for tensor in wide))
    g = geometry((case.in_channels, *case.spatial), case.kernel_size, **case.window)
    terms = g.kernel_area + case.in_channels * case.depth_multiplier // case.groups + 1
    bound = 2 * terms * torch.finfo(actual.dtype).eps * magnitude
    assert actual.shape == expected.shape
    assert bool(((actual.double() - expected).abs() <= bound).all()), f"{case}: beyond the rounding bound"


def separable_reference(
    case: Case,
    x: Tensor | None,
    depthwise: Tensor | None,
    pointwise: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    assert x is not None
    assert depthwise is not None
    assert pointwise is not None
    return reference.separable_conv(x, depthwise, pointwise, None, bias, groups=case.groups, **case.window)
