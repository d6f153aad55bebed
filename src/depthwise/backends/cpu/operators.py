"""The backend's operators, `cpu_depthwise_conv` and `cpu_separable_conv`, in programs that torch compiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ...geometry import Geometry
from .. import calls
from ..base import DepthwiseTensors, Weights, norm_of
from ..calls import Prepared, Setting
from ..eager import convolved
from ..formats import suggested_format
from ..problem import Operation, problem_of
from ..schema import DEPTHWISE, SEPARABLE, of_depthwise, of_separable
from ..tensors import Tensors, is_foreign
from ..weights import Identities, forget, gradients_asked, identities_of
from .autograd import gradients_of
from .plain import afresh, has_versions, run_plain

_LIBRARY = torch.library.Library("depthwise", "FRAGMENT")
_LIBRARY.define(f"cpu_depthwise_conv({DEPTHWISE}) -> Tensor")
_LIBRARY.define(f"cpu_separable_conv({SEPARABLE}) -> Tensor")
# Of input, weight and bias, those that are wanted; empty ones in the place of the others.
_LIBRARY.define(
    "cpu_depthwise_conv_backward(Tensor gradient, Tensor x, Tensor weight, int[] stride, SymInt[] padding, "
    "int[] dilation, bool[] wanted) -> (Tensor, Tensor, Tensor)"
)
OPERATORS: Mapping[Operation, Any] = {
    "depthwise": torch.ops.depthwise.cpu_depthwise_conv,
    "separable": torch.ops.depthwise.cpu_separable_conv,
}

# Of the operator of separable convolutions, between window and norms: groups, two activations, their slopes.
_SETTINGS = 5


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> Tensor:
    tensors, window = (weight, bias), tuple(map(tuple, arguments))
    identities, setting = (id(weight), id(bias)), (*window, "depthwise in a program")
    out = calls.found(identities, setting, x, None, tensors, window)
    if out is None and weight.requires_grad:
        out = calls.found_recorded(identities, setting, x, tensors)
        if out is not None:
            # Of weights as they were.
            forget(identities)
    return _computed(setting, x, window, *of_depthwise(x, weight, bias, *window)) if out is None else out


def _separable(
    x: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *values: Any,
) -> Tensor:
    tensors: Tensors = depthwise_weight, depthwise_bias, pointwise_weight, pointwise_bias
    # One by one: by map it would take a tenth of a microsecond more.
    identities: Identities = id(depthwise_weight), id(depthwise_bias), id(pointwise_weight), id(pointwise_bias)
    window = tuple(stride), tuple(padding), tuple(dilation)
    setting = (*window, "separable in a program", residual is None, *values)
    if len(values) > _SETTINGS:
        norms = [*map(norm_of, values[_SETTINGS::2], values[_SETTINGS + 1 :: 2])]
        tensors = (*tensors, *chain.from_iterable(norm.tensors for norm in norms if norm))
        identities = identities_of(tensors)
        setting = (*setting[: _SETTINGS - len(values)], *(norm and norm.eps for norm in norms))
    out = calls.found(identities, setting, x, residual, tensors, window)
    if out is not None:
        return out
    filters, biases = (depthwise_weight, pointwise_weight), (depthwise_bias, pointwise_bias)
    return _computed(setting, x, window, *of_separable(x, *filters, *biases, residual, *window, *values))


def _computed(setting: Setting, x: Tensor, window: tuple[Any, ...], weights: Weights, g: Geometry) -> Tensor:
    """The result of a call that was not seen before, or whose weights changed; what ran it is kept."""
    problem = problem_of(x, weights, g, in_program=True)
    if problem.foreign:
        return convolved(x, weights, g)

    def keep(ready: Prepared) -> None:
        calls.keep(setting, x, weights.residual, weights.weights, window, ready)

    if isinstance(weights, DepthwiseTensors) and weights.weight.requires_grad and has_versions(weights):
        keep(afresh(weights, problem))
    return run_plain(x, weights, problem, keep)


def _fake_depthwise(x: Tensor, *arguments: Any) -> Tensor:
    return _fake(x, *of_depthwise(x, *arguments))


def _fake_separable(x: Tensor, *arguments: Any) -> Tensor:
    return _fake(x, *of_separable(x, *arguments))


def _fake(x: Tensor, weights: Weights, g: Geometry) -> Tensor:
    size = (x.shape[0], *g.output_size)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=suggested_format(x, *weights.filters))


_LIBRARY.impl("cpu_depthwise_conv", _depthwise, "CPU")
_LIBRARY.impl("cpu_separable_conv", _separable, "CPU")
torch.library.register_fake("depthwise::cpu_depthwise_conv", _fake_depthwise, lib=_LIBRARY)
torch.library.register_fake("depthwise::cpu_separable_conv", _fake_separable, lib=_LIBRARY)


def _keep_depthwise(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001  torch's signature
    weights, ctx.g = of_depthwise(*inputs)
    gradients_asked(weights.weights)
    ctx.save_for_backward(inputs[0], weights.weight)
    ctx.bias_sizes = None if weights.bias is None else list(weights.bias.shape)


def _depthwise_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    (x, weight), wanted = ctx.saved_tensors, tuple(ctx.needs_input_grad[:3])
    found: tuple[Tensor | None, ...]
    if torch.compiler.is_compiling() and is_foreign(gradient):
        node = torch.ops.depthwise.cpu_depthwise_conv_backward.default
        found = node(gradient, x, weight, *ctx.g.window, list(wanted))
        found = tuple(tensor if is_wanted else None for tensor, is_wanted in zip(found, wanted, strict=True))
    else:
        found = gradients_of(gradient, x, weight, ctx.bias_sizes, ctx.g, wanted)
    return (*found, None, None, None)


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, wanted: Sequence[bool]
) -> tuple[Tensor, ...]:
    g = of_depthwise(x, weight, None, stride, padding, dilation)[1]
    found = gradients_of(gradient, x, weight, [len(weight)], g, tuple(wanted))
    fakes = _fake_gradients(gradient, x, weight, stride, padding, dilation, wanted)
    return tuple(fake if own is None else _laid_as(own, fake) for own, fake in zip(found, fakes, strict=True))


def _fake_gradients(gradient: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *_, wanted = rest
    dx = torch.empty_like(x, memory_format=suggested_format(x)) if wanted[0] else x.new_empty(0)
    dw = weight.new_empty(weight.shape) if wanted[1] else x.new_empty(0)
    return dx, dw, gradient.new_empty(weight.shape[0] if wanted[2] else 0)


def _laid_as(tensor: Tensor, other: Tensor) -> Tensor:
    return tensor if tensor.stride() == other.stride() else other.copy_(tensor)


_LIBRARY.impl("cpu_depthwise_conv_backward", _gradients, "CPU")
torch.library.register_fake("depthwise::cpu_depthwise_conv_backward", _fake_gradients, lib=_LIBRARY)
torch.library.register_autograd(
    "depthwise::cpu_depthwise_conv", _depthwise_backward, setup_context=_keep_depthwise, lib=_LIBRARY
)


def _keep_separable(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001  torch's signature
    gradients_asked(of_separable(*inputs)[0].weights)
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
    ctx.inputs = [None if isinstance(value, Tensor) else value for value in inputs]
    ctx.is_tensor = [isinstance(value, Tensor) for value in inputs]


def _separable_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Compute what lies between the parts again, and differentiate that."""
    saved = iter(ctx.saved_tensors)
    inputs = [next(saved) if is_tensor else value for is_tensor, value in zip(ctx.is_tensor, ctx.inputs, strict=True)]
    wanted = [index for index, needed in enumerate(ctx.needs_input_grad) if needed and ctx.is_tensor[index]]
    # What was computed in float32 is so again, also where only the backward pass is in autocast.
    with torch.enable_grad(), torch.autocast(gradient.device.type, enabled=False):
        for index in wanted:
            inputs[index] = inputs[index].view_as(inputs[index])
        out = convolved(inputs[0], *of_separable(*inputs))
        found = torch.autograd.grad(out, [inputs[index] for index in wanted], gradient)
    gradients = dict(zip(wanted, found, strict=True))
    # Arguments left to their defaults are among the inputs, and have no place in the result.
    return tuple(gradients.get(index) for index in range(len(ctx.needs_input_grad)))


torch.library.register_autograd(
    "depthwise::cpu_separable_conv", _separable_backward, setup_context=_keep_separable, lib=_LIBRARY
)
