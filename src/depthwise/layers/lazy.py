"""Layers that learn their in_channels from their first input, or from a state dict, as torch's lazy ones do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter, is_lazy

from .. import functional
from ..errors import DepthwiseError
from ..geometry import IntOrTuple
from .depthwise import DepthwiseConv1d, DepthwiseConv2d, DepthwiseConv3d, _DepthwiseConv
from .separable import SeparableConv1d, SeparableConv2d, SeparableConv3d, _SeparableConv


class _Lazy(LazyModuleMixin):
    """What both kinds share: channels come from the first input or, before that, from a state dict."""

    rank: int

    def initialize_parameters(self, input: Tensor) -> None:  # noqa: A002  torch's name
        batch, _ = functional.batched(input, self.rank)
        self._materialise_(batch.shape[1])

    def _materialise_(self, in_channels: int) -> None:
        raise NotImplementedError


class _LazyDepthwise(_Lazy, _DepthwiseConv):
    def __init__(
        self, kernel_size: IntOrTuple, *, depth_multiplier: int = 1, bias: bool = True, **options: Any
    ) -> None:
        super().__init__(1, kernel_size, depth_multiplier=depth_multiplier, bias=bias, **options)
        self._multiplier = self.out_channels
        self.in_channels = self.out_channels = 0
        to: Any = {"device": self.weight.device, "dtype": self.weight.dtype}
        self.weight = UninitializedParameter(**to)
        if self.bias is not None:
            self.bias = UninitializedParameter(**to)

    @property
    def depth_multiplier(self) -> int:
        return self._multiplier

    def reset_parameters(self) -> None:
        if not is_lazy(self.weight) and self.in_channels:
            super().reset_parameters()

    def _materialise_(self, in_channels: int) -> None:
        was_lazy = is_lazy(self.weight)
        self.in_channels = self.groups = in_channels if was_lazy else self.weight.shape[0] // self._multiplier
        self.out_channels = self.in_channels * self._multiplier
        if not was_lazy:
            return
        weight: Any = self.weight
        bias: Any = self.bias
        with torch.no_grad():
            weight.materialize((self.out_channels, 1, *self.kernel_size))
            if bias is not None:
                bias.materialize((self.out_channels,))
        self.reset_parameters()


class _LazySeparable(_Lazy, _SeparableConv):
    def __init__(self, out_channels: int, kernel_size: IntOrTuple, *args: Any, **options: Any) -> None:
        # The arguments are checked by a layer that is made of them, its channels as few as its groups allow.
        groups = options.get("groups", args[3] if len(args) > 3 else 1)
        super().__init__(groups, out_channels, kernel_size, *args, **options)
        self._arguments = (out_channels, kernel_size, *args), options
        to: Any = {"device": self.depthwise.weight.device, "dtype": self.depthwise.weight.dtype}
        self.in_channels = 0
        self._modules.clear()
        # It stands for all parameters until they are there, and goes where the layer goes.
        standing: Any = UninitializedParameter(**to)
        self.register_parameter("weight", standing)

    def extra_repr(self) -> str:
        return f"0, {self.out_channels}" if "weight" in self._parameters else super().extra_repr()

    def _materialise_(self, in_channels: int) -> None:
        if "weight" not in self._parameters:
            return
        standing: Any = self._parameters.pop("weight")
        arguments, options = self._arguments
        arguments = arguments[:8]
        options = options | {"device": standing.device, "dtype": standing.dtype}
        kind: Any = self.cls_to_become
        made = kind(in_channels, *arguments, **options).train(self.training)
        self.in_channels = made.in_channels
        self._modules.update(made._modules)

    def to_dense(self) -> _ConvNd:
        raise DepthwiseError("a lazy layer has no weights before its first call")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        multiplier = self._arguments[1].get("depth_multiplier", 1)
        for key in ("depthwise.weight", "0.weight"):
            weight = state_dict.get(f"{prefix}{key}")
            if isinstance(weight, Tensor) and weight.dim() == self.rank + 2 and not weight.shape[0] % multiplier:
                self._materialise_(weight.shape[0] // multiplier)
                break
        super()._load_from_state_dict(state_dict, prefix, *rest)


class LazyDepthwiseConv1d(_LazyDepthwise, DepthwiseConv1d):
    """`DepthwiseConv1d` whose in_channels are those of its first input."""

    cls_to_become = DepthwiseConv1d


class LazyDepthwiseConv2d(_LazyDepthwise, DepthwiseConv2d):
    """`DepthwiseConv2d` whose in_channels are those of its first input; it becomes one then.

    >>> layer = LazyDepthwiseConv2d(3, depth_multiplier=2)
    >>> layer(torch.ones(1, 8, 9, 9)).shape
    torch.Size([1, 16, 7, 7])
    >>> layer
    DepthwiseConv2d(8, kernel_size=(3, 3), depth_multiplier=2)
    """

    cls_to_become = DepthwiseConv2d


class LazyDepthwiseConv3d(_LazyDepthwise, DepthwiseConv3d):
    """`DepthwiseConv3d` whose in_channels are those of its first input."""

    cls_to_become = DepthwiseConv3d


class LazySeparableConv1d(_LazySeparable, SeparableConv1d):
    """`SeparableConv1d` whose in_channels are those of its first input."""

    cls_to_become = SeparableConv1d


class LazySeparableConv2d(_LazySeparable, SeparableConv2d):
    """`SeparableConv2d` whose in_channels are those of its first input, or of a state dict; it becomes one then.

    Its parts are made then: like torch's lazy modules it is called once before an optimizer gets its parameters.

    >>> layer = LazySeparableConv2d(128, 3, padding=1)
    >>> layer(torch.ones(1, 3, 7, 7)).shape, layer.in_channels
    (torch.Size([1, 128, 7, 7]), 3)
    """

    cls_to_become = SeparableConv2d


class LazySeparableConv3d(_LazySeparable, SeparableConv3d):
    """`SeparableConv3d` whose in_channels are those of its first input."""

    cls_to_become = SeparableConv3d
