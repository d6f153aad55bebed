"""Compositions of separable convolutions found in papers, each citing its own; trained weights are not included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.conv import _ConvNd

from . import functional
from .errors import DepthwiseError
from .gates import squeeze_excite
from .geometry import IntOrTuple, Padding, finite, per_axis, positive
from .layers import DepthwiseConv2d, SeparableConv2d
from .layers.conversion import check_own_call, dense_like, pair_weights, pointwise_convolution
from .layers.depthwise import DEPTHWISE, checked_options
from .layers.perceptrons import activated, linear, scaled
from .layers.separable import MakeModule, made
from .layers.turns import in_turn
from .modules import why_foreign


class MobileNetV1Block(nn.Module):
    """Depthwise 3x3, batch norm, ReLU6, pointwise, batch norm, ReLU6.

    MobileNets, arXiv 1704.04861, figure 3, with the ReLU6 of its published weights.

    x:   (batch, in_channels, height, width)
    out: (batch, out_channels, ceil(height / stride), ceil(width / stride))

    >>> MobileNetV1Block(32, 64, stride=2)(torch.ones(2, 32, 8, 8)).shape
    torch.Size([2, 64, 4, 4])
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def __init__(
        self, in_channels: int, out_channels: int, stride: IntOrTuple = 1, device: Any = None, dtype: Any = None
    ):
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
        _name_sizes(self, self.separable.in_channels, self.separable.out_channels, 3, stride)

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
        self.channels = positive(channels, "channels")
        self.squeeze_channels = positive(squeeze_channels, "squeeze_channels")
        to = _to(device, dtype)
        self.reduce = pointwise_convolution(2, self.channels, self.squeeze_channels, 1, bias=True, **to)
        self.activation = _made("activation", activation, **to)
        self.expand = pointwise_convolution(2, self.squeeze_channels, self.channels, 1, bias=True, **to)
        self.gate = _made("gate", gate, **to)

    def forward(self, x: Tensor) -> Tensor:
        _check_input(x, 2, self.channels)
        out = squeeze_excite(x, self._scale)
        return x * self._scale(x.mean((-2, -1), keepdim=True)) if out is None else out

    def _scale(self, means: Tensor) -> Tensor:
        scale: Tensor = self.gate(self.expand(self.activation(self.reduce(means))))
        return scale


class InvertedResidual(nn.Module):
    """Pointwise expansion, depthwise, linear pointwise projection; the input is added where the shapes agree.

    MobileNetV2, arXiv 1801.04381, figure 3; with `squeeze_channels` and nn.Hardswish MobileNetV3's block,
    arXiv 1905.02244, figure 4.

    x:   (batch, in_channels, height, width)
    out: (batch, out_channels, ceil(height / stride), ceil(width / stride))

    >>> InvertedResidual(16, 24, stride=2)(torch.ones(2, 16, 8, 8)).shape
    torch.Size([2, 24, 4, 4])
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

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
        to = _to(device, dtype)
        in_channels, out_channels = positive(in_channels, "in_channels"), positive(out_channels, "out_channels")
        hidden = positive(round(in_channels * finite(expansion, "expansion")), "in_channels * expansion")
        kernel_size, stride = _odd(kernel_size), per_axis(stride, 2, "stride")
        _name_sizes(self, in_channels, out_channels, kernel_size, stride)
        self.adds_input = stride == (1, 1) and in_channels == out_channels
        self.expand: nn.Module | None = None
        if hidden != in_channels:
            self.expand = nn.Sequential(
                pointwise_convolution(2, in_channels, hidden, 1, bias=False, **to),
                nn.BatchNorm2d(hidden, **to),
                _made("activation", activation, **to),
            )

        def middle() -> nn.Module:
            first = _made("activation", activation, **to)
            if squeeze_channels is None:
                return first
            return nn.Sequential(first, SqueezeExcite(hidden, squeeze_channels, **to))

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
        _check_input(x, 2, self.in_channels)
        y: Tensor = self.separable(x if self.expand is None else in_turn((self.expand,), x))
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
        to = _to(device, dtype)
        self.in_channels = positive(in_channels, "in_channels")
        self.out_channels = positive(out_channels, "out_channels")
        self.groups = positive(groups, "groups")
        self.pointwise = pointwise_convolution(
            self.rank, self.in_channels, self.out_channels, self.groups, bias=False, **to
        )
        self.pointwise_norm = made("pointwise_norm", pointwise_norm, self.out_channels, **to)
        self.depthwise = DEPTHWISE[self.rank](
            self.out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=bias,
            padding_mode=padding_mode,
            **to,
        )

    @property
    def kernel_size(self) -> tuple[int, ...]:
        return self.depthwise.kernel_size

    @property
    def stride(self) -> tuple[int, ...]:
        return self.depthwise.stride

    @property
    def padding(self) -> Padding:
        return self.depthwise.padding

    @property
    def dilation(self) -> tuple[int, ...]:
        return self.depthwise.dilation

    @property
    def padding_mode(self) -> str:
        return self.depthwise.padding_mode

    def forward(self, x: Tensor) -> Tensor:
        _check_input(x, self.rank, self.in_channels)
        norm = self.pointwise_norm
        return in_turn((self.pointwise, *(() if norm is None else (norm,)), self.depthwise), x)

    def to_dense(self) -> _ConvNd:
        """The dense convolution that computes exactly what this block does; an error where a norm stands between.

        >>> block = BlueprintConv2d(3, 8, 3, padding=1)
        >>> x = torch.randn(1, 3, 7, 7)
        >>> torch.allclose(block.to_dense()(x), block(x), atol=1e-5)
        True
        """
        check_own_call(self, BLUEPRINT[self.rank])
        if self.pointwise_norm is not None and why_foreign(self.pointwise_norm, nn.Identity):
            raise DepthwiseError(
                "a norm between pointwise and depthwise shifts all but the padding, so the block is no single "
                "convolution; make it without pointwise_norm"
            )
        last, first = pair_weights(self.depthwise, self.pointwise, self.rank)
        if first.bias is not None:
            raise DepthwiseError("a bias before the depthwise convolution does not reach its padding; take it out")
        kernel = first.weight.detach().double() * last.weight.detach().double()
        return dense_like(self, self.depthwise, self.pointwise.groups, kernel, last.bias, first.weight)


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


BLUEPRINT: Mapping[int, type[_BlueprintConv]] = {1: BlueprintConv1d, 2: BlueprintConv2d, 3: BlueprintConv3d}


class XceptionBlock(nn.Module):
    """ReLU, separable 3x3, batch norm, `repeats` times, around a shortcut; nothing between depthwise and pointwise.

    Xception, arXiv 1610.02357, figure 5. A strided block ends in a 3x3 max pooling; where the shape changes, the
    shortcut is a strided pointwise convolution with batch norm.

    x:   (batch, in_channels, height, width)
    out: (batch, out_channels, ceil(height / stride), ceil(width / stride))

    >>> XceptionBlock(64, 128, stride=2, repeats=2)(torch.ones(2, 64, 8, 8)).shape
    torch.Size([2, 128, 4, 4])
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: IntOrTuple = 1,
        repeats: int = 3,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        to = _to(device, dtype)
        in_channels, out_channels = positive(in_channels, "in_channels"), positive(out_channels, "out_channels")
        stride = per_axis(stride, 2, "stride")
        if max(stride) >= 2**31:
            raise DepthwiseError(f"stride must be below 2**31, which torch's pooling takes; got {stride}")
        _name_sizes(self, in_channels, out_channels, 3, stride)
        steps: list[nn.Module] = []
        for index in range(positive(repeats, "repeats")):
            channels = out_channels if index else in_channels
            separable = SeparableConv2d(
                channels, out_channels, 3, padding=1, bias=False, pointwise_norm=nn.BatchNorm2d, **to
            )
            # Not in place: the first ReLU would change the block's input under the shortcut.
            steps += [nn.ReLU(), separable]
        if stride != (1, 1):
            steps.append(nn.MaxPool2d(3, stride, padding=1))
        self.body = nn.Sequential(*steps)
        self.shortcut: nn.Module = nn.Identity()
        if stride != (1, 1) or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, (stride[0], stride[1]), bias=False, **to),
                nn.BatchNorm2d(out_channels, **to),
            )

    def forward(self, x: Tensor) -> Tensor:
        _check_input(x, 2, self.in_channels)
        return in_turn((self.body,), x) + in_turn((self.shortcut,), x)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, layer norm over channels, pointwise to four times the width, GELU, pointwise back, scaled, added.

    A ConvNet for the 2020s, arXiv 2201.03545, figure 4; the two pointwise convolutions are linear layers, channels
    last. Stochastic depth is left to the caller.

    x, out: (batch, channels, height, width)

    >>> ConvNeXtBlock(32)(torch.ones(2, 32, 8, 8)).shape
    torch.Size([2, 32, 8, 8])
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def __init__(
        self,
        channels: int,
        kernel_size: IntOrTuple = 7,
        expansion: int = 4,
        layer_scale: float = 1e-6,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        to = _to(device, dtype)
        channels = positive(channels, "channels")
        width = channels * positive(expansion, "expansion")
        kernel_size = _odd(kernel_size)
        _name_sizes(self, channels, channels, kernel_size, 1)
        self.depthwise = DepthwiseConv2d(channels, kernel_size, padding=tuple(k // 2 for k in kernel_size), **to)
        self.norm = nn.LayerNorm(channels, eps=1e-6, **to)
        self.expand = nn.Linear(channels, width, **to)
        self.activation = nn.GELU()
        self.project = nn.Linear(width, channels, **to)
        self.scale = nn.Parameter(torch.full((channels,), finite(layer_scale, "layer_scale"), **to))

    def forward(self, x: Tensor) -> Tensor:
        _check_input(x, 2, self.in_channels)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        out: Tensor = scaled(self.project, activated(self.activation, linear(self.expand, y)), self.scale, x)
        return out


def _check_input(x: Any, rank: int, in_channels: int) -> None:
    # torch.fx.symbolic_trace goes through a block with no tensor in its hand.
    if type(x) is not Proxy:
        functional.batched(x, rank, in_channels)


def _name_sizes(block: Any, in_channels: int, out_channels: int, kernel_size: IntOrTuple, stride: IntOrTuple) -> None:
    """Give a block the attributes of a convolution that the forwards of others read."""
    block.in_channels, block.out_channels = in_channels, out_channels
    block.kernel_size = per_axis(kernel_size, 2, "kernel_size")
    block.stride = per_axis(stride, 2, "stride")
    block.padding, block.dilation = tuple(k // 2 for k in block.kernel_size), (1, 1)


def _to(device: Any, dtype: Any) -> dict[str, Any]:
    _, device, dtype = checked_options("zeros", device, dtype)
    return {"device": device, "dtype": dtype}


def _made(name: str, make: MakeModule, **to: Any) -> nn.Module:
    module = made(name, make, **to)
    if module is None:
        raise DepthwiseError(f"{name} must be a callable that makes a module, such as nn.Identity for none; got None")
    return module


def _odd(kernel_size: IntOrTuple) -> tuple[int, ...]:
    """A kernel size with a middle, so that k // 2 of padding keeps the size."""
    sizes = per_axis(kernel_size, 2, "kernel_size")
    if any(k % 2 == 0 for k in sizes):
        raise DepthwiseError(f"kernel_size must be odd here, so that the block keeps its input's size; got {sizes}")
    return sizes
