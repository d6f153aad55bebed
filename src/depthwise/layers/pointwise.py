"""Pointwise convolutions of torch's, through the backends."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from ..functional import pointwise_conv
from ..modules import computes_as, is_watched
from .conversion import CONVOLUTIONS
from .depthwise import weight_and_bias


def pointwise(conv: _ConvNd, rank: int, x: Any) -> Tensor | None:
    """What a convolution of torch's makes of `x`; None where it is not pointwise, or torch's own forward is to run.

    All is asked at each call: attributes may be set at any time.
    """
    weight, bias = weight_and_bias(conv)
    one = (1,) * rank
    if not is_real(conv, x, weight, rank) or weight.shape[2:] != one or conv.stride != one or is_padded(conv):
        return None
    return pointwise_conv(rank, x, weight, bias, conv.groups)


def called(module: Any, x: Tensor) -> Any:
    """What a module makes of `x`, whose pointwise convolution goes through the backends where nothing sees its call."""
    if isinstance(module, _ConvNd) and not is_watched(module.__dict__):
        kind = computes_as(type(module), *CONVOLUTIONS.values())
        out = None if kind is None else pointwise(module, _RANKS[kind], x)
        if out is not None:
            return out
    return module(x)


_RANKS = {kind: rank for rank, kind in CONVOLUTIONS.items()}


def is_real(conv: _ConvNd, x: Any, weight: Tensor, rank: int) -> bool:
    """Whether torch's convolution would be called with these, of real numbers."""
    if "_conv_forward" in conv.__dict__ or not isinstance(x, Tensor) or weight.dim() != rank + 2:
        return False
    return x.is_floating_point()


def is_padded(conv: Any) -> bool:
    """Whether a convolution whose window is one pixel pads its input."""
    if conv.padding_mode != "zeros":
        return any(conv._reversed_padding_repeated_twice)
    padding = conv.padding
    # A window of one pixel needs no padding for "same".
    return any(padding) if type(padding) is tuple else padding not in ("same", "valid", 0)
