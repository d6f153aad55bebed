"""`SeparableConvTranspose1d`, `2d` and `3d`: a transposed depthwise convolution, then a pointwise one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from .. import functional
from ..errors import DepthwiseError
from ..geometry import IntOrTuple, check_countable, per_axis, positive
from .conversion import pointwise_convolution
from .depthwise import as_leaf, checked_options, is_true
from .separable import MakeModule, made

TRANSPOSED: Mapping[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class _SeparableConvTranspose(nn.Module):
    """What the three ranks share."""

    rank: ClassVar[int]
    parts: ClassVar[tuple[str, ...]] = (
        "depthwise",
        "depthwise_norm",
        "depthwise_activation",
        "pointwise",
        "pointwise_norm",
        "pointwise_activation",
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: IntOrTuple = 0,
        output_padding: IntOrTuple = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrTuple = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        depth_multiplier: int = 1,
        depthwise_norm: MakeModule | None = None,
        depthwise_activation: MakeModule | None = None,
        pointwise_norm: MakeModule | None = None,
        pointwise_activation: MakeModule | None = None,
    ) -> None:
        super().__init__()
        rank = self.rank
        self.in_channels = positive(in_channels, "in_channels")
        self.out_channels = positive(out_channels, "out_channels")
        self.groups = positive(groups, "groups")
        self.depth_multiplier = positive(depth_multiplier, "depth_multiplier")
        self.kernel_size = per_axis(kernel_size, rank, "kernel_size")
        self.stride = per_axis(stride, rank, "stride")
        self.dilation = per_axis(dilation, rank, "dilation")
        self.padding = per_axis(padding, rank, "padding", least=0)
        self.output_padding = per_axis(output_padding, rank, "output_padding", least=0)
        if any(o >= max(s, d) for o, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True)):
            raise DepthwiseError(
                f"output_padding must be smaller than the stride or the dilation; got {self.output_padding} with "
                f"stride={self.stride}, dilation={self.dilation}"
            )
        mode, device, dtype = checked_options(padding_mode, device, dtype)
        if mode != "zeros":
            raise DepthwiseError(f"a transposed convolution pads with zeros alone; got padding_mode={mode!r}")
        bias, inner = is_true(bias, "bias"), self.in_channels * self.depth_multiplier
        check_countable("the weight", inner, *self.kernel_size)
        to: Any = {"device": device, "dtype": dtype}
        self.depthwise = TRANSPOSED[rank](
            self.in_channels,
            inner,
            self.kernel_size,
            self.stride,
            self.padding,
            self.output_padding,
            self.in_channels,
            # One before the pointwise bias would be it over again, unless an activation stands between.
            bias and depthwise_norm is None and depthwise_activation is not None,
            self.dilation,
            **to,
        )
        self.depthwise_norm = made("depthwise_norm", depthwise_norm, inner, **to)
        self.depthwise_activation = made("depthwise_activation", depthwise_activation, **to)
        self.pointwise = pointwise_convolution(rank, inner, self.out_channels, self.groups, bias=bias, **to)
        self.pointwise_norm = made("pointwise_norm", pointwise_norm, self.out_channels, **to)
        self.pointwise_activation = made("pointwise_activation", pointwise_activation, **to)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002  torch's name
        given: Any = input
        if type(given) is Proxy:
            return as_leaf(self, given)  # type: ignore[no-any-return]
        x, unbatched = functional.batched(input, self.rank, self.in_channels)
        out: Tensor = self.depthwise(x, output_size)
        for name in self.parts[1:]:
            module = getattr(self, name)
            out = out if module is None else module(out)
        return out.squeeze(0) if unbatched else out


class SeparableConvTranspose1d(_SeparableConvTranspose):
    """`SeparableConvTranspose2d` for sequences, (batch, channels, length)."""

    rank = 1


class SeparableConvTranspose2d(_SeparableConvTranspose):
    """A transposed depthwise convolution, then a pointwise one: nn.ConvTranspose2d's arguments in its order.

    x:           (batch, in_channels, height, width), or without the batch
    out:         (batch, out_channels, out_height, out_width), nn.ConvTranspose2d's sizes
    groups:      of the pointwise convolution, as of the dense one that the layer replaces
    output_size: of the call, as nn.ConvTranspose2d takes it

    Runs on PyTorch's own operators. State dict: depthwise.weight, pointwise.weight, pointwise.bias.

    >>> SeparableConvTranspose2d(64, 32, 4, stride=2, padding=1)(torch.ones(1, 64, 7, 7)).shape
    torch.Size([1, 32, 14, 14])
    """

    rank = 2


class SeparableConvTranspose3d(_SeparableConvTranspose):
    """`SeparableConvTranspose2d` for volumes, (batch, channels, depth, height, width)."""

    rank = 3
