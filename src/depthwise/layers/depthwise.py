"""`DepthwiseConv1d`, `2d` and `3d`: torch's grouped convolutions, with every padding and our backends behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ClassVar, ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.conv import _ConvNd

from .. import functional
from ..errors import DepthwiseError
from ..geometry import (
    AXES,
    IntOrTuple,
    Padding,
    check_countable,
    fixed_padding,
    padding_pairs,
    per_axis,
    positive,
    torch_padding,
    without_causal,
)

P = ParamSpec("P")


def _by_keyword(init: Callable[P, None]) -> Callable[P, None]:
    """A constructor that says what to write to whoever gives it nn.Conv2d's arguments in nn.Conv2d's order."""

    @wraps(init)
    def checked(*args: P.args, **given: P.kwargs) -> None:
        layer, *positional = args
        is_torchs = len(positional) > 2 or (len(positional) == 2 and "kernel_size" in given)
        if is_torchs or "out_channels" in given or "groups" in given:
            raise DepthwiseError(_what_to_write(type(layer).__name__, positional, given))
        init(*args, **given)

    return checked


def _what_to_write(name: str, positional: list[Any], given: dict[str, Any]) -> str:
    order = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    torchs = dict(zip(order, positional, strict=False)) | given
    options = {key: value for key, value in torchs.items() if key not in order[:3] and key != "groups"}
    channels, filters = torchs.get("in_channels"), torchs.get("out_channels")
    if isinstance(channels, int) and isinstance(filters, int) and channels > 0 and filters > channels:
        options["depth_multiplier"] = filters // channels
    first = "".join(f", {key}={value!r}" for key, value in options.items())
    readings = f"for nn.Conv2d's order write {name}({channels!r}, {torchs.get('kernel_size', '...')!r}{first})"
    if len(positional) > 2 and given.keys().isdisjoint(("groups", "out_channels")):
        rest = zip(order[3:], positional[2:], strict=False)
        second = "".join(f", {key}={value!r}" for key, value in [*rest, *given.items()])
        readings += f"; for a kernel of {positional[1]!r} write {name}({positional[0]!r}, {positional[1]!r}{second})"
    return (
        f"{name} takes in_channels, kernel_size and all else by keyword: it has no out_channels, which are in_channels "
        f"* depth_multiplier, and no groups; {readings}"
    )


class _DepthwiseConv(_ConvNd):
    """What the three ranks share; each is also torch's own convolution of its rank."""

    rank: ClassVar[int]

    @_by_keyword
    def __init__(
        self,
        in_channels: int,
        kernel_size: IntOrTuple,
        *,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        dilation: IntOrTuple = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        depth_multiplier: int = 1,
    ) -> None:
        channels = positive(in_channels, "in_channels")
        filters = channels * positive(depth_multiplier, "depth_multiplier")
        kernel_size = per_axis(kernel_size, self.rank, "kernel_size")
        stride = per_axis(stride, self.rank, "stride")
        dilation = per_axis(dilation, self.rank, "dilation")
        padding = without_causal(padding, kernel_size, dilation)
        settled = torch_padding(padding, stride)
        check_countable("the weight", filters, *kernel_size)
        conv: Any = super()
        conv.__init__(
            channels,
            filters,
            kernel_size,
            stride,
            # torch's constructor knows neither pairs nor a strided "same".
            0 if settled is None else settled,
            dilation,
            channels,
            is_true(bias, "bias"),
            *checked_options(padding_mode, device, dtype),
        )
        if settled is None:
            self.padding = fixed_padding(padding, self.rank)  # type: ignore[assignment]

    @property
    def depth_multiplier(self) -> int:
        return self.out_channels // self.in_channels

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  as torch's convolutions call it
        given: Any = input
        if type(given) is Proxy:
            return as_leaf(self, given)  # type: ignore[no-any-return]
        return self._conv_forward(input, *weight_and_bias(self))

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, padding = pad_input(x, self)
        window = (self.stride, padding, self.dilation)
        return functional.depthwise_conv(self.rank, x, weight, bias, *window, self.in_channels)

    def to_torch(self) -> _ConvNd:
        """Torch's own convolution with the same parameters, for tools that know no subclass, such as torch.ao.

        Raises DepthwiseError where torch has no such padding.
        """
        padding = torch_padding(without_causal(self.padding, self.kernel_size, self.dilation), self.stride)
        if padding is None:
            raise DepthwiseError(
                f"torch's convolution has no padding={self.padding!r} with stride={self.stride}; pad the input yourself"
            )
        kind: Any = next(base for base in type(self).__mro__ if base.__module__ == nn.Conv1d.__module__)
        conv: _ConvNd = kind(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            padding,
            self.dilation,
            self.in_channels,
            self.bias is not None,
            self.padding_mode,
            "meta",
        )
        conv.weight, conv.bias = self.weight, self.bias
        return conv.train(self.training)

    def extra_repr(self) -> str:
        return call_arguments(self, [self.in_channels], self.bias is not None)


class DepthwiseConv1d(_DepthwiseConv, nn.Conv1d):
    """`DepthwiseConv2d` for sequences, (batch, channels, length).

    >>> DepthwiseConv1d(64, 4, padding="causal")
    DepthwiseConv1d(64, kernel_size=(4,), padding=((3, 0),))
    """

    rank = 1

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs of the next part of a sequence, however long, and the state for the part after it.

        x:     (batch, in_channels, length), or without the batch
        state: the inputs that the next outputs still need, (batch, in_channels, dilation * (kernel_size - 1)); None
               before the first part, where zeros stand for them
        out:   the outputs, as long as `x`, and the state

        The layer is causal, padding="causal", and its stride is 1.

        >>> layer, x = DepthwiseConv1d(8, 4, padding="causal"), torch.randn(1, 8, 10)
        >>> first, state = layer.step(x[..., :6])
        >>> second, state = layer.step(x[..., 6:], state)
        >>> torch.allclose(torch.cat((first, second), dim=-1), layer(x), atol=1e-6)
        True
        """
        functional.batched(x, 1, self.in_channels)
        reach = self.dilation[0] * (self.kernel_size[0] - 1)
        if not x.shape[-1]:
            raise DepthwiseError(f"step needs one frame at least; got the shape {tuple(x.shape)}")
        causal = without_causal("causal", self.kernel_size, self.dilation)
        own = padding_pairs(self.padding, x.shape[-1:], self.kernel_size, self.stride, self.dilation)
        if own != causal or self.stride != (1,) or self.padding_mode != "zeros":
            raise DepthwiseError(f"step needs padding='causal', of zeros, and a stride of 1; this is {self}")
        expected = (*x.shape[:-1], reach)
        if state is None:
            state = x.new_zeros(expected)
        elif not isinstance(state, Tensor) or tuple(state.shape) != expected or state.dtype != x.dtype:
            got = f"{tuple(state.shape)} of {state.dtype}" if isinstance(state, Tensor) else repr(state)
            raise DepthwiseError(f"state must have the shape {expected} and x's dtype, {x.dtype}; got {got}")
        whole = torch.cat((state, x), dim=-1)
        out = functional.depthwise_conv(1, whole, *weight_and_bias(self), 1, 0, self.dilation, self.in_channels)
        return out, whole[..., whole.shape[-1] - reach :].clone()


class DepthwiseConv2d(_DepthwiseConv, nn.Conv2d):
    """Convolves each channel with `depth_multiplier` filters of its own.

    x:       (batch, in_channels, height, width), or without the batch
    out:     (batch, in_channels * depth_multiplier, out_height, out_width)
    weight:  (in_channels * depth_multiplier, 1, kernel_height, kernel_width)
    padding: int, tuple, "valid", "same" (TensorFlow's rule where strided), or (before, after) pairs; in 1-d and along
             the depth of 3-d also "causal"

    All after kernel_size goes by keyword: a third number would be a stride here and a kernel in nn.Conv2d.

    A torch.nn.Conv2d with groups=in_channels, initialised as one: its fan_in is the kernel area.

    >>> layer = DepthwiseConv2d(8, 3, stride=2, padding="same", depth_multiplier=2)
    >>> layer(torch.ones(1, 8, 224, 224)).shape
    torch.Size([1, 16, 112, 112])
    """

    rank = 2


class DepthwiseConv3d(_DepthwiseConv, nn.Conv3d):
    """`DepthwiseConv2d` for volumes, (batch, channels, depth, height, width)."""

    rank = 3


def as_leaf(layer: nn.Module, x: Proxy) -> Any:
    """The node that a layer is in a graph of torch.fx.symbolic_trace, as torch's own modules are."""
    tracer: Any = x.tracer
    path = tracer.path_of_module(layer)
    if not path:
        raise DepthwiseError(f"symbolic_trace takes a {type(layer).__name__} as one node of a network; trace that")
    return tracer.create_proxy("call_module", path, (x,), {})


DEPTHWISE: Mapping[int, type[_DepthwiseConv]] = {1: DepthwiseConv1d, 2: DepthwiseConv2d, 3: DepthwiseConv3d}


def weight_and_bias(module: nn.Module) -> tuple[Any, Any]:
    """Both by name, but faster: a parameter that lies where it was registered is found at once, not in 0.6 us."""
    parameters = module._parameters
    if "weight" in parameters and "bias" in parameters:
        return parameters["weight"], parameters["bias"]
    return module.weight, module.bias


def pad_input(x: Tensor, conv: _ConvNd) -> tuple[Tensor, Padding]:
    """`x` padded where the convolution pads with other than zeros, and the padding that is left to do."""
    mode = conv.padding_mode
    if isinstance(mode, str) and mode == "zeros":
        return x, conv.padding
    _check_mode(mode)
    x, unbatched = functional.batched(x, len(conv.kernel_size), conv.in_channels)
    pairs = padding_pairs(conv.padding, x.shape[2:], conv.kernel_size, conv.stride, conv.dilation)
    excess = {"reflect": -1, "circular": 0}.get(mode)
    for axis, size, pair in zip(AXES[len(pairs)], x.shape[2:], pairs, strict=True):
        if excess is not None and max(pair) > size + excess:
            raise DepthwiseError(
                f"padding_mode={mode!r} needs padding of at most {size + excess} along the {axis}, "
                f"of {size}; got {pair}"
            )
    padded = F.pad(x, [amount for pair in reversed(pairs) for amount in pair], mode=mode)
    return (padded.squeeze(0) if unbatched else padded), 0


def call_arguments(layer: Any, channels: list[int], has_bias: bool, groups: int = 1) -> str:
    """The layer's constructor call: what differs from the defaults, and always the kernel size."""
    ones = (1,) * layer.rank
    padding = tuple(layer.padding) if isinstance(layer.padding, list | tuple) else layer.padding
    optional = {
        "stride": (layer.stride, ones),
        "padding": (padding, 0 if padding == 0 else (0,) * layer.rank),
        "dilation": (layer.dilation, ones),
        "groups": (groups, 1),
        "bias": (has_bias, True),
        "padding_mode": (layer.padding_mode, "zeros"),
        "depth_multiplier": (layer.depth_multiplier, 1),
    }
    shown = [f"{name}={value!r}" for name, (value, default) in optional.items() if value != default]
    return ", ".join([*map(str, channels), f"kernel_size={layer.kernel_size}", *shown])


def checked_options(padding_mode: object, device: object, dtype: object) -> tuple[str, torch.device | None, Any]:
    """A constructor's padding_mode, device and dtype, each one that torch knows."""
    _check_mode(padding_mode)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise DepthwiseError(f"dtype must be a floating-point torch.dtype; got {dtype}")
    return str(padding_mode), known_device(device), dtype


def _check_mode(padding_mode: object) -> None:
    modes = ("zeros", "reflect", "replicate", "circular")
    if not isinstance(padding_mode, str) or padding_mode not in modes:
        raise DepthwiseError(f"padding_mode is one of {', '.join(modes)}; got {padding_mode!r}")


def known_device(device: object) -> torch.device | None:
    """`device` as torch's own, None where none is asked for."""
    try:
        return None if device is None else torch.device(device)  # type: ignore[call-overload]
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise DepthwiseError(f"device must be one that torch knows, such as 'cpu'; got {device!r}") from error


def is_true(value: object, name: str) -> bool:
    """A yes or no as torch's constructors take it, None and 0 and 1 among them."""
    if value is None or isinstance(value, bool) or (getattr(value, "shape", ()) == () and value in (0, 1)):
        return bool(value)
    raise DepthwiseError(f"{name} is True or False; got {value!r}")
