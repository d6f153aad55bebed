"""`SeparableConv1d`, `2d` and `3d`: depthwise, then pointwise, with what stands between and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.module import _has_any_global_hook

from .. import functional
from ..backends.base import Norm
from ..backends.weights import gradients_asked
from ..errors import DepthwiseError
from ..folding import BATCH_NORMS
from ..functional import ActivationName
from ..geometry import IntOrTuple, Padding, check_groups, positive
from ..modules import computes_as, is_watched
from .activations import UNKNOWN, activation_name
from .conversion import CONVOLUTIONS, from_dense, pointwise_convolution, to_dense
from .depthwise import (
    DEPTHWISE,
    DepthwiseConv1d,
    as_leaf,
    call_arguments,
    checked_options,
    is_true,
    pad_input,
    weight_and_bias,
)
from .state_dicts import adapt_, point, pointer
from .turns import in_turn

MakeModule = Callable[..., nn.Module]


class _Joined(NamedTuple):
    """All parts of a layer as `functional.separable_conv` takes them; no norms where there are none."""

    depthwise: _ConvNd
    weights: tuple[Tensor, Tensor | None, Tensor, Tensor | None]
    activations: tuple[ActivationName, ActivationName]
    norms: tuple[Norm | None, ...]
    groups: int


class _SeparableConv(nn.Module):
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
    depthwise: _ConvNd
    depthwise_norm: nn.Module | None
    depthwise_activation: nn.Module | None
    pointwise: _ConvNd
    pointwise_norm: nn.Module | None
    pointwise_activation: nn.Module | None

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
        self.in_channels = positive(in_channels, "in_channels")
        self.out_channels = positive(out_channels, "out_channels")
        self.groups = positive(groups, "groups")
        check_groups(self.in_channels, self.out_channels, self.groups)
        self.dense_error: float | None = None
        bias = is_true(bias, "bias")
        _, device, dtype = checked_options(padding_mode, device, dtype)
        # A bias between the two convolutions is the pointwise bias over again, unless an activation stands between.
        depthwise_bias = bias and depthwise_norm is None and depthwise_activation is not None
        self.depthwise = DEPTHWISE[self.rank](
            in_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=depthwise_bias,
            padding_mode=padding_mode,
            device=device,
            dtype=dtype,
            depth_multiplier=depth_multiplier,
        )
        inner = self.depthwise.out_channels
        to: Any = {"device": device, "dtype": dtype}
        self.depthwise_norm = made("depthwise_norm", depthwise_norm, inner, **to)
        self.depthwise_activation = made("depthwise_activation", depthwise_activation, **to)
        self.pointwise = pointwise_convolution(self.rank, inner, self.out_channels, self.groups, bias=bias, **to)
        self.pointwise_norm = made("pointwise_norm", pointwise_norm, self.out_channels, **to)
        self.pointwise_activation = made("pointwise_activation", pointwise_activation, **to)
        self._pointer: str | None = None
        self.register_load_state_dict_post_hook(point)  # type: ignore[no-untyped-call]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both weights so that, nothing between them, outputs vary as those of torch's dense convolution do.

        The depthwise filters keep the variance (He et al., arXiv 1502.01852, gain 1; their fan_in is the kernel area);
        the pointwise ones are drawn as torch draws any convolution's.
        """
        for conv in (self.depthwise, self.pointwise):
            conv.reset_parameters()
        nn.init.kaiming_uniform_(self.depthwise.weight, nonlinearity="linear")

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

    @property
    def depth_multiplier(self) -> int:
        return self.depthwise.out_channels // self.depthwise.in_channels

    def present_parts(self) -> list[tuple[str, nn.Module]]:
        """Name and module of every part that is there, in the order they run."""
        modules = self._modules
        found = [(name, modules.get(name)) for name in self.parts]
        return [(name, module) for name, module in found if module is not None]

    def forward(self, x: Tensor) -> Tensor:
        given: Any = x
        if type(given) is Proxy:
            return as_leaf(self, given)  # type: ignore[no-any-return]
        joined = self._joined()
        if isinstance(joined, str):
            out, unbatched = functional.batched(x, self.rank, self.in_channels)
            if torch.is_grad_enabled() and not torch.compiler.is_compiling():
                # Of parts that run on torch's operators no backend hears.
                gradients_asked((*self.parameters(),))
            out = in_turn((module for _, module in self.present_parts()), out)
            return out.squeeze(0) if unbatched else out
        depthwise, weights, activations, norms, _ = joined
        x, padding = pad_input(x, depthwise)
        window = (depthwise.stride, padding, depthwise.dilation, joined.groups)
        channels = depthwise.in_channels
        return functional.separable_conv(self.rank, x, weights, window, activations, None, norms, channels)

    def parts_reason(self) -> str | None:
        """Why the parts run one by one, or None where one call does what they do.

        They must where anything could see or change what is between them: a norm that is not a batch norm in eval
        mode, a hook, a parametrised or foreign child, an activation that the functional forms do not know.
        """
        joined = self._joined()
        return joined if isinstance(joined, str) else None

    def _joined(self) -> _Joined | str:
        """What one call needs of the parts, or why they run one by one."""
        # At every call, so everything is looked up where modules keep it: by its name each takes 0.6 us.
        modules = self._modules
        depthwise: Any = modules.get("depthwise")
        pointwise: Any = modules.get("pointwise")
        rank = self.rank
        are_usual = type(depthwise) is DEPTHWISE[rank] and type(pointwise) is CONVOLUTIONS[rank]
        foreign = None if are_usual and not _has_window(pointwise, rank) else _foreign_pair(depthwise, pointwise, rank)
        if foreign is not None:
            return foreign
        if _has_any_global_hook():
            return "a hook sees every module"
        for name in self.parts:
            module = modules.get(name)
            if module is not None and is_watched(module.__dict__):
                return f"a hook, or a forward of its own, sees {name}"
        weights = (*weight_and_bias(depthwise), *weight_and_bias(pointwise))
        norms: list[Norm | None] = []
        for name in ("depthwise_norm", "pointwise_norm"):
            module = modules.get(name)
            norm = None if module is None else _norm(module, rank, weights[0].dtype)
            if isinstance(norm, str):
                return f"{name} {norm}"
            norms.append(norm)
        activations: list[ActivationName] = []
        for name in ("depthwise_activation", "pointwise_activation"):
            module = modules.get(name)
            known = None if module is None else activation_name(module)
            if known is UNKNOWN:
                return f"{name} is {module}"
            activations.append(known)
        first, last = activations
        return _Joined(depthwise, weights, (first, last), tuple(norms) if any(norms) else (), pointwise.groups)

    def to_dense(self) -> _ConvNd:
        """The dense convolution, nn.Conv1d, 2d or 3d, that computes exactly what this layer does.

        Batch norms in eval mode are folded in. Raises DepthwiseError where an activation, a norm in training mode, a
        norm of another kind, a strided "same" or uneven padding has no equivalent there.

        >>> layer = SeparableConv2d(3, 128, 3)
        >>> x = torch.randn(1, 3, 7, 7)
        >>> torch.allclose(layer.to_dense()(x), layer(x), atol=1e-5)
        True
        """
        return to_dense(self, SEPARABLE[self.rank])

    @classmethod
    def from_dense(cls, conv: _ConvNd, depth_multiplier: int = 1) -> Self:
        """The separable layer nearest to a dense convolution: a truncated SVD of its kernel per input channel.

        Exact at depth_multiplier = min(out_channels / groups, kernel area), the least Frobenius error below it
        (arXiv 1808.05517); `.dense_error` holds that error relative to the kernel's norm.

        >>> conv = nn.Conv2d(16, 32, 3, padding=1)
        >>> SeparableConv2d.from_dense(conv, depth_multiplier=9).dense_error < 1e-6
        True
        """
        return from_dense(cls, conv, depth_multiplier)

    def extra_repr(self) -> str:
        convolutions: tuple[nn.Module, ...] = (self.depthwise, self.pointwise)
        if not all(isinstance(convolution, _ConvNd) for convolution in convolutions):
            return f"{self.in_channels}, {self.out_channels}"
        has_bias = self.pointwise.bias is not None
        return call_arguments(self, [self.in_channels, self.out_channels], has_bias, groups=self.groups)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Also accept the keys of an nn.Sequential of the same parts, 0.weight, 1.weight, and those of other libraries.

        A depthwise bias, which this layer leaves out where nothing stands between, becomes part of the pointwise bias:
        P·b.
        """
        adapt_(self, state_dict, prefix)
        self._pointer = pointer(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class SeparableConv1d(_SeparableConv):
    """`SeparableConv2d` for sequences, (batch, channels, length)."""

    rank = 1

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs of the next part of a sequence, and the state for the part after it: `DepthwiseConv1d.step`."""
        if not isinstance(self.depthwise, DepthwiseConv1d):
            raise DepthwiseError(f"step needs a DepthwiseConv1d as the depthwise part; got {self.depthwise}")
        y, state = self.depthwise.step(x, state)
        out, unbatched = functional.batched(y, 1)
        for _, module in self.present_parts()[1:]:
            out = module(out)
        return (out.squeeze(0) if unbatched else out), state


class SeparableConv2d(_SeparableConv):
    """A depthwise convolution, then a pointwise one: nn.Conv2d's arguments, about 1/9 of a 3x3's multiplications.

    x:       (batch, in_channels, height, width), or without the batch
    out:     (batch, out_channels, out_height, out_width)
    groups:  of the pointwise convolution, as of the dense convolution that the layer replaces
    padding: int, tuple, "valid", "same" (TensorFlow's rule where strided), or (before, after) pairs
    norms, activations: callables that make a module, such as nn.BatchNorm2d (given the channels) and nn.ReLU6

    State dict: depthwise.weight, pointwise.weight, pointwise.bias; an nn.Sequential's of the same parts loads too.
    The bias stands after the pointwise convolution; the depthwise one has its own only where an activation and no norm
    follows it.

    >>> layer = SeparableConv2d(3, 128, 3)
    >>> layer(torch.ones(1, 3, 7, 7)).shape
    torch.Size([1, 128, 5, 5])
    """

    rank = 2


class SeparableConv3d(_SeparableConv):
    """`SeparableConv2d` for volumes, (batch, channels, depth, height, width)."""

    rank = 3


SEPARABLE: Mapping[int, type[_SeparableConv]] = {1: SeparableConv1d, 2: SeparableConv2d, 3: SeparableConv3d}

# Kernel size, stride and padding of a pointwise convolution.
_POINTWISE = {rank: ((1,) * rank, (1,) * rank, (0,) * rank) for rank in SEPARABLE}


def _foreign_pair(depthwise: Any, pointwise: Any, rank: int) -> str | None:
    """What keeps both convolutions from being one call, or None."""
    if computes_as(type(depthwise), DEPTHWISE[rank]) is None:
        return f"depthwise is a {type(depthwise).__name__}"
    if computes_as(type(pointwise), CONVOLUTIONS[rank]) is None:
        return f"pointwise is a {type(pointwise).__name__}"
    return f"pointwise has a window: {pointwise}" if _has_window(pointwise, rank) else None


def _has_window(pointwise: _ConvNd, rank: int) -> bool:
    own = pointwise.__dict__
    return (own["kernel_size"], own["stride"], own["padding"]) != _POINTWISE[rank]


def _norm(module: nn.Module, rank: int, dtype: torch.dtype) -> Norm | str:
    """The numbers of a batch norm, or why it does not fold into a convolution before it with weights of `dtype`."""
    if type(module) not in BATCH_NORMS[rank] and computes_as(type(module), *BATCH_NORMS[rank]) is None:
        return f"is a {type(module).__name__}"
    own = module.__dict__
    buffers, (weight, bias) = own["_buffers"], weight_and_bias(module)
    mean, var = buffers.get("running_mean"), buffers.get("running_var")
    if own["training"] or mean is None or var is None:
        return "normalises with the statistics of the batch"
    if mean.dtype != dtype:
        return f"has statistics in {mean.dtype}"
    if (weight is None) != (bias is None):
        return "has a weight or a bias alone"
    return Norm(mean, var, weight, bias, own["eps"], buffers.get("num_batches_tracked"))


def made(name: str, make: MakeModule | None, *channels: int, device: Any, dtype: Any) -> nn.Module | None:
    """The module that a layer's `make` makes: of the number of channels for a norm, of nothing for an activation."""
    if make is None:
        return None
    example = "nn.BatchNorm2d, given the number of channels" if channels else "nn.ReLU6"
    if isinstance(make, nn.Module) or not callable(make):
        raise DepthwiseError(f"{name} must be a callable that makes a module, such as {example}; got {make!r}")
    try:
        module = make(*channels)
    except TypeError as error:
        given = "the number of channels" if channels else "no arguments"
        raise DepthwiseError(f"{name} is called with {given}, and {make!r} raised TypeError: {error}") from error
    if not isinstance(module, nn.Module):
        raise DepthwiseError(f"{name} must make a torch.nn.Module; {make!r} made {module!r}")
    return module.to(device=device, dtype=dtype)
