"""Convolutions of torch's that go through the backends: depthwise and pointwise ones."""

from __future__ import annotations

from math import prod
from typing import Any

from torch.fx import Proxy
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin

from ..functional import depthwise_conv, pointwise_conv
from ..layers.conversion import CONVOLUTIONS
from ..layers.depthwise import DEPTHWISE, pad_input, weight_and_bias
from ..modules import computes_as
from .classes import Forward, Kind, MakeForward


def depthwise_forward(kind: Any) -> Forward:
    def forward(self: _ConvNd, input: Any) -> Any:  # noqa: A002  as torch's convolutions call it
        if type(input) is Proxy:
            return kind.forward(self, input)
        x, padding = pad_input(input, self)
        rank, (weight, bias) = len(self.kernel_size), weight_and_bias(self)
        return depthwise_conv(rank, x, weight, bias, self.stride, padding, self.dilation, self.in_channels)

    return forward


def pointwise_forward(kind: Any) -> Forward:
    def forward(self: _ConvNd, input: Any) -> Any:  # noqa: A002  as torch's convolutions call it
        if type(input) is Proxy:
            return kind.forward(self, input)
        return pointwise_conv(len(self.kernel_size), input, *weight_and_bias(self), self.groups)

    return forward


def convolution_forward(conv: _ConvNd, kind: Kind) -> tuple[str, MakeForward] | str:
    """What a convolution of the class `kind` is, with what makes its forward, or why it stays as it is."""
    if isinstance(conv, (*DEPTHWISE.values(),)):
        return "is a layer of ours already"
    if isinstance(conv, LazyModuleMixin):
        return "is lazy; call the model once before"
    if conv.transposed:
        return "is transposed"
    if computes_as(kind, *CONVOLUTIONS.values()) is None:
        return f"is a {kind.__name__}, with a forward of its own"
    if "forward" in conv.__dict__ or "_conv_forward" in conv.__dict__:
        return "has a forward of its own"
    if conv.groups == conv.in_channels > 1:
        return "depthwise", depthwise_forward
    if prod(conv.kernel_size) > 1:
        return "is dense: separate_ makes it separable" if conv.groups == 1 else "is a convolution in groups"
    if prod(conv.stride) > 1 or _is_padded(conv):
        return "is pointwise with a stride or padding"
    return "pointwise", pointwise_forward


def _is_padded(conv: _ConvNd) -> bool:
    # A window of one pixel needs no padding for "same".
    return not isinstance(conv.padding, str) and any(conv.padding)
