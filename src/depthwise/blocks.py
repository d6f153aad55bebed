"""Compositions of separable convolutions found in papers, each citing its own; trained weights are not included."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from .errors import DepthwiseError
from .geometry import IntOrTuple, Padding, check_groups, per_axis, positive, torch_padding
from .layers import DepthwiseConv2d, SeparableConv2d
from .layers.conversion import CONVOLUTIONS
from .layers.depthwise import DEPTHWISE
from .layers.separable import MakeModule, made


class MobileNetV1Block(nn.Module):
    """Depthwise 3x3, batch norm, ReLU6, pointwise, batch norm, ReLU6.

    MobileNets, arXiv 1704.04861, figure 3, with the ReLU6 of its published weights.

    x:   (batch, in_channels, height, width)
    out: (batch, out_channels, ceil(height / stride), ceil(width / stride))

    >>> MobileNetV1Block(32, 64, stride=2)(torch.ones(2, 32, 8, 8)).shape
    torch.Size([2, 64, 4, 4])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, device: Any = None, dtype: Any = None):
        super().__init__()
        self.separable = SeparableConv2d(
            in_channels,
            out_channels,
            3,
            stride,
            padding=1,
            bias=False,
            device=device,
            dtype=dtype,
            depthwise_norm=nn.BatchNorm2d,
            depthwise_activation=nn.ReLU6,
            pointwise_norm=nn.BatchNorm2d,
            pointwise_activation=nn.ReLU6,
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.separable(x)
        return out


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate computed from the means of all channels.

    Squeeze-and-Excitation Networks, arXiv 1709.01507, with the hard sigmoid of MobileNetV3, arXiv 1905.02244.

    x, out: (batch, channels, height, width)
    """

    def __init__(
        self,
        channels: int,
        squeeze_channels: int,
        activation: MakeModule = nn.ReLU,
        gate: MakeModule = nn.Hardsigmoid,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        positive(squeeze_channels, "squeeze_channels")
        self.reduce = nn.Conv2d(channels, squeeze_channels, 1, device=device, dtype=dtype)
        self.activation = activation()
        self.expand = nn.Conv2d(squeeze_channels, channels, 1, device=device, dtype=dtype)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)
        scale: Tensor = self.gate(self.expand(self.activation(self.reduce(means))))
        return x * scale


class InvertedResidual(nn.Module):
    """Pointwise expansion, depthwise, linear pointwise projection; the input is added where the shapes agree.

    MobileNetV2, arXiv 1801.04381, figure 3; with `squeeze_channels` and nn.Hardswish MobileNetV3's block,
    arXiv 1905.02244, figure 4.

    x:   (batch, in_channels, height, width)
    out: (batch, out_channels, ceil(height / stride), ceil(width / stride))

    >>> InvertedResidual(16, 24, stride=2)(torch.ones(2, 16, 8, 8)).shape
    torch.Size([2, 24, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple = 3,
        stride: IntOrTuple = 1,
        expansion: float = 6,
        squeeze_channels: int | None = None,
        activation: MakeModule = nn.ReLU6,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        to: Any = {"device": device, "dtype": dtype}
        hidden = positive(round(in_channels * expansion), "in_channels * expansion")
        kernel_size = per_axis(kernel_size, 2, "kernel_size")
        self.adds_input = per_axis(stride, 2, "stride") == (1, 1) and in_channels == out_channels
        self.expand: nn.Module | None = None
        if hidden != in_channels:
            self.expand = nn.Sequential(
                nn.Conv2d(in_channels, hidden, 1, bias=False, **to), nn.BatchNorm2d(hidden, **to), activation()
            )

        def middle() -> nn.Module:
            if squeeze_channels is None:
                return activation()
            return nn.Sequential(activation(), SqueezeExcite(hidden, squeeze_channels, **to))

        self.separable = SeparableConv2d(
            hidden,
            out_channels,
            kernel_size,
            stride,
            padding=tuple(k // 2 for k in kernel_size),
            bias=False,
            depthwise_norm=nn.BatchNorm2d,
            depthwise_activation=middle,
            pointwise_norm=nn.BatchNorm2d,
            **to,
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.separable(x if self.expand is None else self.expand(x))
        return x + y if self.adds_input else y


class _BlueprintConv(nn.Module):
    """What the three ranks share: BSConv-U, arXiv 2003.13549."""

    rank: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        pointwise_norm: MakeModule | None = None,
    ):
        super().__init__()
        to: Any = {"device": device, "dtype": dtype}
        check_groups(in_channels, out_channels, positive(groups, "groups"))
        self.pointwise = CONVOLUTIONS[self.rank](in_channels, out_channels, 1, groups=groups, bias=False, **to)
        self.pointwise_norm = made("pointwise_norm", pointwise_norm, out_channels, **to)
        self.depthwise = DEPTHWISE[self.rank](
            out_channels, kernel_size, stride, padding, dilation, bias, padding_mode, **to
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.pointwise(x)
        if self.pointwise_norm is not None:
            y = self.pointwise_norm(y)
        out: Tensor = self.depthwise(y)
        return out

    def to_dense(self) -> _ConvNd:
        """The dense convolution that computes exactly what this block does; an error where a norm stands between.

        >>> block = BlueprintConv2d(3, 8, 3, padding=1)
        >>> x = torch.randn(1, 3, 7, 7)
        >>> torch.allclose(block.to_dense()(x), block(x), atol=1e-5)
        True
        """
        first, last = self.pointwise, self.depthwise
        if self.pointwise_norm is not None:
            raise DepthwiseError(
                "a norm between pointwise and depthwise shifts all but the padding, so the block is no single "
                "convolution; make it without pointwise_norm"
            )
        settled = torch_padding(last.padding, last.stride)
        if settled is None:
            raise DepthwiseError(
                f"torch's dense convolution has no padding={last.padding!r} with stride={last.stride}; "
                "pad the input yourself and use padding=0"
            )
        dense: _ConvNd = CONVOLUTIONS[self.rank](
            first.in_channels,
            first.out_channels,
            last.kernel_size,
            last.stride,
            settled,
            last.dilation,
            first.groups,
            last.bias is not None,
            last.padding_mode,
            first.weight.device,
            first.weight.dtype,
        )
        with torch.no_grad():
            dense.weight.copy_(first.weight.double() * last.weight.double())
            if dense.bias is not None and last.bias is not None:
                dense.bias.copy_(last.bias)
        return dense.train(self.training)


class BlueprintConv1d(_BlueprintConv):
    """`BlueprintConv2d` (arXiv 2003.13549) for sequences, (batch, channels, length)."""

    rank = 1


class BlueprintConv2d(_BlueprintConv):
    """A pointwise convolution, then a depthwise one: every filter is a scaled copy of its channel's blueprint.

    BSConv-U, arXiv 2003.13549, equation 5. The bias is the depthwise convolution's: one before it would not reach the
    zero padding alike.

    x:   (batch, in_channels, height, width)
    out: (batch, out_channels, out_height, out_width)

    >>> BlueprintConv2d(3, 128, 3, padding=1)(torch.ones(1, 3, 7, 7)).shape
    torch.Size([1, 128, 7, 7])
    """

    rank = 2


class BlueprintConv3d(_BlueprintConv):
    """`BlueprintConv2d` (arXiv 2003.13549) for volumes, (batch, channels, depth, height, width)."""

    rank = 3


class XceptionBlock(nn.Module):
    """ReLU, separable 3x3, batch norm, `repeats` times, around a shortcut; nothing between depthwise and pointwise.

    Xception, arXiv 1610.02357, figure 5. A strided block ends in a 3x3 max pooling; where the shape changes, the
    shortcut is a strided pointwise convolution with batch norm.

    x:   (batch, in_channels, height, width)
    out: (batch, out_channels, ceil(height / stride), ceil(width / stride))

    >>> XceptionBlock(64, 128, stride=2, repeats=2)(torch.ones(2, 64, 8, 8)).shape
    torch.Size([2, 128, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        repeats: int = 3,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        to: Any = {"device": device, "dtype": dtype}
        steps: list[nn.Module] = []
        for index in range(positive(repeats, "repeats")):
            channels = out_channels if index else in_channels
            separable = SeparableConv2d(
                channels, out_channels, 3, padding=1, bias=False, pointwise_norm=nn.BatchNorm2d, **to
            )
            # Not in place: the first ReLU would change the block's input under the shortcut.
            steps += [nn.ReLU(), separable]
        if stride > 1:
            steps.append(nn.MaxPool2d(3, stride, padding=1))
        self.body = nn.Sequential(*steps)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False, **to), nn.BatchNorm2d(out_channels, **to)
            )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, layer norm over channels, pointwise to four times the width, GELU, pointwise back, scaled, added.

    A ConvNet for the 2020s, arXiv 2201.03545, figure 4; the two pointwise convolutions are linear layers, channels
    last. Stochastic depth is left to the caller.

    x, out: (batch, channels, height, width)

    >>> ConvNeXtBlock(32)(torch.ones(2, 32, 8, 8)).shape
    torch.Size([2, 32, 8, 8])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 7,
        expansion: int = 4,
        layer_scale: float = 1e-6,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        to: Any = {"device": device, "dtype": dtype}
        self.depthwise = DepthwiseConv2d(channels, kernel_size, padding=kernel_size // 2, **to)
        self.norm = nn.LayerNorm(channels, eps=1e-6, **to)
        self.expand = nn.Linear(channels, expansion * channels, **to)
        self.activation = nn.GELU()
        self.project = nn.Linear(expansion * channels, channels, **to)
        self.scale = nn.Parameter(torch.full((channels,), layer_scale, **to))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.project(self.activation(self.expand(y)))
        out: Tensor = x + y.permute(0, 3, 1, 2)
        return out
