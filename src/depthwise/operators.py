"""Hand a checked call to the chosen backend, or put one node for it into a program that torch compiles.

The nodes are `torch.ops.depthwise.depthwise_conv` and `separable_conv`. They are composite: when the program is lowered
they become what the chosen backend does, so that autograd, autocast and fake tensors need nothing of their own: aten's
convolutions, or the CPU backend's operators, `cpu_depthwise_conv` and `cpu_separable_conv`. An exported program holds
none of these: plain aten convolutions stand in it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .backends import EAGER, choose, is_observed, recall
from .backends.base import Backend, Call, DepthwiseTensors, Runner, SeparableTensors, Weights, norm_of
from .backends.cpu import depthwise_gradients, run_depthwise, run_separable
from .backends.formats import memory_format_of
from .cost import convolution_cost
from .geometry import Geometry


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    """The depthwise convolution of `x`, (batch, *g.input_size)."""
    if not _becomes_a_node():
        return _chosen(x, DepthwiseTensors(weight, bias), g).depthwise(x, weight, bias, g)
    out: Tensor = torch.ops.depthwise.depthwise_conv.default(x, weight, bias, *g.window)
    return out


def separable(x: Tensor, tensors: SeparableTensors, g: Geometry) -> Tensor:
    """The separable convolution of `x`, (batch, *g.input_size)."""
    if not _becomes_a_node():
        return _chosen(x, tensors, g).separable(x, tensors, g)
    out: Tensor = torch.ops.depthwise.separable_conv.default(x, *tensors.arguments(g))
    return out


def runner(x: Tensor, weights: Weights, g: Geometry) -> Runner | None:
    """What runs `x`, and may run calls like it; None where each must be looked at anew."""
    if torch.compiler.is_compiling() or is_observed() or not recall.is_plain(x):
        return None
    if recall.needs_gradient(x, weights.residual, weights.weights):
        return None
    return _chosen(x, weights, g).runner(x, weights, g)


def _becomes_a_node() -> bool:
    return torch.compiler.is_compiling() and not _exporting()


def _exporting() -> bool:
    # What torch.compiler.is_exporting() returns, which torch 2.11 takes to be true wherever it compiles.
    exporting = torch.compiler._is_exporting_flag
    return exporting or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def _chosen(x: Tensor, weights: Weights, g: Geometry) -> Backend:
    # A transform of torch.func rewrites operators that it knows.
    if _exporting() or torch._C._functorch.peek_interpreter_stack() is not None:
        return EAGER
    return choose(_call(x, weights, g)).backend


def _call(x: Tensor, weights: Weights, g: Geometry) -> Call:
    # To look at the strides of a traced size would pin it.
    pinning = torch.compiler.is_compiling()
    return Call(
        weights.operation,
        g,
        _dtype(x),
        x.device.type,
        batch=x.shape[0],
        strides=x.stride(),
        memory_format=torch.contiguous_format if pinning else memory_format_of(x, *weights.filters),
        activations=weights.activations,
        residual=weights.residual is not None,
        differentiable=recall.needs_gradient(x, weights.residual, weights.weights),
        traced=type(x) is not Tensor and not isinstance(x, torch.nn.Parameter),
    )


def is_autocasting(x: Tensor) -> bool:
    """Whether autocast is on where `x` is; it knows nothing of the meta device."""
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def _dtype(x: Tensor) -> torch.dtype:
    """The dtype that the convolution runs in; autocast leaves float64 alone."""
    return torch.get_autocast_dtype(x.device.type) if is_autocasting(x) and x.dtype != torch.float64 else x.dtype


# Each operator comes twice: as written into a traced program, where it becomes what the chosen backend does, and as the
# CPU backend's own, which stays one node.
_DEPTHWISE = "Tensor x, Tensor weight, Tensor? bias, int[] stride, SymInt[] padding, int[] dilation"
_SEPARABLE = (
    "Tensor x, Tensor depthwise_weight, Tensor pointwise_weight, Tensor? depthwise_bias, Tensor? pointwise_bias, "
    "Tensor? residual, int[] stride, SymInt[] padding, int[] dilation, int groups, str? depthwise_activation, "
    "float depthwise_slope, str? pointwise_activation, float pointwise_slope, Tensor[]? depthwise_norm=None, "
    "float depthwise_eps=0.0, Tensor[]? pointwise_norm=None, float pointwise_eps=0.0"
)
_LIBRARY = torch.library.Library("depthwise", "DEF")
for _prefix in ("", "cpu_"):
    _LIBRARY.define(f"{_prefix}depthwise_conv({_DEPTHWISE}) -> Tensor")
    _LIBRARY.define(f"{_prefix}separable_conv({_SEPARABLE}) -> Tensor")


def _depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, *window: Any) -> Tensor:
    _register_flop_formulas()
    g = _geometry(x, weight, *window)
    backend = _chosen(x, DepthwiseTensors(weight, bias), g)
    run = backend.depthwise if recall.is_plain(x) else backend.traced_depthwise
    return run(x, weight, bias, g)


def _separable_conv(x: Tensor, *arguments: Any) -> Tensor:
    _register_flop_formulas()
    tensors, g = _of_arguments(x, *arguments)
    backend = _chosen(x, tensors, g)
    run = backend.separable if recall.is_plain(x) else backend.traced_separable
    return run(x, tensors, g)


# functorch finds no composite kernel written in Python by itself, and would loop over the batch.
for _key in ("CompositeImplicitAutograd", "FuncTorchBatchedDecomposition"):
    _LIBRARY.impl("depthwise_conv", _depthwise_conv, _key)
    _LIBRARY.impl("separable_conv", _separable_conv, _key)


def _of_arguments(
    x: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    depthwise_activation: str | None,
    depthwise_slope: float,
    pointwise_activation: str | None,
    pointwise_slope: float,
    depthwise_norm: Sequence[Tensor] | None = None,
    depthwise_eps: float = 0.0,
    pointwise_norm: Sequence[Tensor] | None = None,
    pointwise_eps: float = 0.0,
) -> tuple[SeparableTensors, Geometry]:
    """The inverse of SeparableTensors.arguments."""
    tensors = SeparableTensors(
        depthwise_weight,
        pointwise_weight,
        depthwise_bias,
        pointwise_bias,
        (depthwise_activation, depthwise_slope) if depthwise_activation else None,
        (pointwise_activation, pointwise_slope) if pointwise_activation else None,
        residual,
        norm_of(depthwise_norm, depthwise_eps),
        norm_of(pointwise_norm, pointwise_eps),
    )
    return tensors, _geometry(x, depthwise_weight, stride, padding, dilation, pointwise_weight.shape[0], groups)


def _geometry(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out_channels: int | None = None,
    groups: int = 1,
) -> Geometry:
    return Geometry(
        input_size=tuple(x.shape[1:]),
        kernel_size=tuple(weight.shape[2:]),
        stride=tuple(stride),
        padding=tuple(zip(padding[::2], padding[1::2], strict=True)),
        dilation=tuple(dilation),
        depth_multiplier=weight.shape[0] // x.shape[1],
        out_channels=out_channels,
        groups=groups,
    )


def _cpu_depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, *window: Any) -> Tensor:
    return run_depthwise(x, weight, bias, _geometry(x, weight, *window))


def _cpu_separable(x: Tensor, *arguments: Any) -> Tensor:
    return run_separable(x, *_of_arguments(x, *arguments))


def _fake_depthwise(x: Tensor, weight: Tensor, _: Tensor | None, *window: Any) -> Tensor:
    return _fake_result(x, _geometry(x, weight, *window), weight)


def _fake_separable(x: Tensor, *arguments: Any) -> Tensor:
    tensors, g = _of_arguments(x, *arguments)
    return _fake_result(x, g, *tensors.filters)


def _fake_result(x: Tensor, g: Geometry, *filters: Tensor) -> Tensor:
    size = (x.shape[0], *g.output_size)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x, *filters))


_LIBRARY.impl("cpu_depthwise_conv", _cpu_depthwise, "CPU")
_LIBRARY.impl("cpu_separable_conv", _cpu_separable, "CPU")
torch.library.register_fake("depthwise::cpu_depthwise_conv", _fake_depthwise, lib=_LIBRARY)
torch.library.register_fake("depthwise::cpu_separable_conv", _fake_separable, lib=_LIBRARY)


def _keep_depthwise(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001  torch's signature
    x, weight, bias, *window = inputs
    ctx.save_for_backward(x, weight)
    ctx.g, ctx.bias_sizes = _geometry(x, weight, *window), None if bias is None else list(bias.shape)


def _depthwise_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    found = depthwise_gradients(gradient, x, weight, ctx.bias_sizes, ctx.g, tuple(ctx.needs_input_grad[:3]))
    return (*found, None, None, None)


torch.library.register_autograd(
    "depthwise::cpu_depthwise_conv", _depthwise_backward, setup_context=_keep_depthwise, lib=_LIBRARY
)


def _keep_separable(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001  torch's signature
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
    ctx.inputs = [None if isinstance(value, Tensor) else value for value in inputs]
    ctx.is_tensor = [isinstance(value, Tensor) for value in inputs]


def _separable_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Compute what lies between the parts again, and differentiate that."""
    saved = iter(ctx.saved_tensors)
    inputs = [next(saved) if is_tensor else value for is_tensor, value in zip(ctx.is_tensor, ctx.inputs, strict=True)]
    wanted = [index for index, needed in enumerate(ctx.needs_input_grad) if needed and ctx.is_tensor[index]]
    with torch.enable_grad():
        for index in wanted:
            inputs[index] = inputs[index].detach().requires_grad_()
        out = EAGER.separable(inputs[0], *_of_arguments(*inputs))
        found = torch.autograd.grad(out, [inputs[index] for index in wanted], gradient)
    gradients = dict(zip(wanted, found, strict=True))
    # Arguments left to their defaults are among the inputs, and have no place in the result.
    return tuple(gradients.get(index) for index in range(len(ctx.needs_input_grad)))


torch.library.register_autograd(
    "depthwise::cpu_separable_conv", _separable_backward, setup_context=_keep_separable, lib=_LIBRARY
)


def depthwise_flops(x: Sequence[int], weight: Sequence[int], *_: object, out_shape: Sequence[int], **__: object) -> int:
    """FLOPs, 2 x MACs, from shapes: what torch.utils.flop_counter asks of an operator."""
    return 2 * x[0] * _macs(x[1], out_shape[1:], weight[2:], groups=x[1])


def separable_flops(
    x: Sequence[int],
    weight: Sequence[int],
    pointwise: Sequence[int],
    *_: object,
    out_shape: Sequence[int],
    **__: object,
) -> int:
    """FLOPs, 2 x MACs, of both steps."""
    middle = (weight[0], *out_shape[2:])
    groups = weight[0] // pointwise[1]
    depthwise_macs = _macs(x[1], middle, weight[2:], groups=x[1])
    return 2 * x[0] * (depthwise_macs + _macs(weight[0], out_shape[1:], pointwise[2:], groups))


def _macs(in_channels: int, out_size: Sequence[int], kernel_size: Sequence[int], groups: int) -> int:
    return convolution_cost(in_channels, tuple(out_size), tuple(kernel_size), groups).macs


@cache
def _register_flop_formulas() -> None:
    """Before a program can hold one of the operators, and no sooner: where there is triton, the module loads it."""
    from torch.utils.flop_counter import register_flop_formula

    operators = torch.ops.depthwise
    register_flop_formula([operators.depthwise_conv, operators.cpu_depthwise_conv])(depthwise_flops)
    register_flop_formula([operators.separable_conv, operators.cpu_separable_conv])(separable_flops)


if "torch.utils.flop_counter" in sys.modules:
    _register_flop_formulas()
