"""Convolutions of torch's that go through the backends: depthwise and pointwise ones."""

from __future__ import annotations

from math import prod
from typing import Any

import torch.nn.functional as F
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin

from ..functional import depthwise_conv
from ..layers.conversion import CONVOLUTIONS
from ..layers.depthwise import DEPTHWISE, weight_and_bias
from ..layers.pointwise import is_padded, is_real, pointwise
from ..modules import computes_as
from .classes import Forward, Kind, MakeForward

_ONES = (1, (1,), (1, 1), (1, 1, 1))


def depthwise_forward(kind: Any) -> Forward:
    rank = _rank_of(kind)
    none = (0,) * rank

    def forward(self: Any, input: Any) -> Any:  # noqa: A002  as torch's convolutions call it
        weight, bias = weight_and_bias(self)
        stride, padding = self.stride, self.padding
        if not is_real(self, input, weight, rank) or weight.shape[1] != 1:
            return kind.forward(self, input)
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode), none  # noqa: A001
        elif not _is_padding_of_torch(padding, stride):
            return kind.forward(self, input)
        return depthwise_conv(rank, input, weight, bias, stride, padding, self.dilation, self.groups)

    return forward


def pointwise_forward(kind: Any) -> Forward:
    rank = _rank_of(kind)

    def forward(self: Any, input: Any) -> Any:  # noqa: A002  as torch's convolutions call it
        out = pointwise(self, rank, input)
        return kind.forward(self, input) if out is None else out

    return forward


def _rank_of(kind: Kind) -> int:
    return next(rank for rank, base in CONVOLUTIONS.items() if issubclass(kind, base))


# Asked at each call: a module's attributes may be set after it was accelerated.


def _is_padding_of_torch(padding: Any, stride: Any) -> bool:
    """Whether torch takes this padding; there are more in this package."""
    if type(padding) is not tuple:
        return padding == "valid" or type(padding) is int or (padding == "same" and stride in _ONES)
    for before in padding:  # noqa: SIM110  called for each call of a layer
        if type(before) is not int:
            return False
    return True


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
    if conv.stride not in _ONES or is_padded(conv):
        return "is pointwise with a stride or padding"
    return "pointwise", pointwise_forward
