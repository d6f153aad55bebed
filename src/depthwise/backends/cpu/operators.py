"""The backend's operators, `cpu_depthwise_conv` and `cpu_separable_conv`, in programs that torch compiles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...geometry import Geometry
from ..base import DepthwiseTensors, Weights
from ..eager import convolved, is_even, padded
from ..formats import suggested_format
from ..problem import Problem, problem_of
from ..schema import DEPTHWISE, SEPARABLE, of_depthwise, of_separable
from ..weights import gradients_asked

_LIBRARY = torch.library.Library("depthwise", "FRAGMENT")
_LIBRARY.define(f"cpu_depthwise_conv({DEPTHWISE}) -> Tensor")
_LIBRARY.define(f"cpu_separable_conv({SEPARABLE}) -> Tensor")


def plain_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, g: Geometry, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...] | None:
    """Gradients of tensors that are plain memory; None where PyTorch's operators are to compute them."""
    from .gradients import depthwise_gradients

    return depthwise_gradients(gradient, x, weight, g, wanted)


def run_plain(x: Tensor, weights: Weights, problem: Problem, *, keeps: bool = True) -> Tensor:
    """The convolution of tensors that are plain memory, recorded by no one.

    keeps: what is made of the weights may stay for the next call
    """
    from .launch import prepared

    # Once more where the weights changed between the first look and the second.
    for may_keep in (keeps, False):
        ready = prepared(weights, problem, keeps=may_keep)
        out = None if ready is None else ready.run(x, weights.residual)
        if out is not None or ready is None:
            break
    return convolved(x, weights, problem.geometry) if out is None else out


class _Depthwise(torch.autograd.Function):
    """Forward and backward here."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, problem: Problem) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.g, ctx.bias_sizes = problem.geometry, None if bias is None else list(bias.shape)
        return run_plain(x, DepthwiseTensors(weight, bias), problem, keeps=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return (*depthwise_gradients(gradient, x, weight, ctx.bias_sizes, ctx.g, ctx.needs_input_grad[:3]), None)


def differentiable_depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, problem: Problem) -> Tensor:
    """A depthwise convolution that autograd records."""
    out: Tensor = _Depthwise.apply(x, weight, bias, problem)  # type: ignore[no-untyped-call]
    return out


def depthwise_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: list[int] | None, g: Geometry, wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    """The gradients of input, weight and bias that are wanted."""
    found = plain_gradients(gradient, x, weight, g, wanted)
    return _torch_gradients(gradient, x, weight, bias_sizes, g, wanted) if found is None else [*found]


def _torch_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: list[int] | None, g: Geometry, wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    """The same by PyTorch's own operator, which has gradients itself."""
    wide, padding = padded(x, g)
    transposed, output_padding = False, [0] * g.rank
    window = g.stride, padding, g.dilation, transposed, output_padding, g.in_channels
    dx, dw, db = torch.ops.aten.convolution_backward(gradient, wide, weight, bias_sizes, *window, wanted)
    if dx is not None and not is_even(g):
        for axis, ((before, _), size) in enumerate(zip(g.padding, x.shape[2:], strict=True)):
            dx = dx.narrow(axis + 2, before, size)
    return [dx if wanted[0] else None, dw if wanted[1] else None, db if wanted[2] else None]


def _depthwise(x: Tensor, *arguments: Any) -> Tensor:
    return _run(x, *of_depthwise(x, *arguments))


def _separable(x: Tensor, *arguments: Any) -> Tensor:
    return _run(x, *of_separable(x, *arguments))


def _run(x: Tensor, weights: Weights, g: Geometry) -> Tensor:
    problem = problem_of(x, weights, g, in_program=True)
    return convolved(x, weights, g) if problem.foreign else run_plain(x, weights, problem)


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
    x, weight = ctx.saved_tensors
    found = depthwise_gradients(gradient, x, weight, ctx.bias_sizes, ctx.g, tuple(ctx.needs_input_grad[:3]))
    return (*found, None, None, None)


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
    with torch.enable_grad():
        for index in wanted:
            inputs[index] = inputs[index].detach().requires_grad_()
        out = convolved(inputs[0], *of_separable(*inputs))
        found = torch.autograd.grad(out, [inputs[index] for index in wanted], gradient)
    gradients = dict(zip(wanted, found, strict=True))
    # Arguments left to their defaults are among the inputs, and have no place in the result.
    return tuple(gradients.get(index) for index in range(len(ctx.needs_input_grad)))


torch.library.register_autograd(
    "depthwise::cpu_separable_conv", _separable_backward, setup_context=_keep_separable, lib=_LIBRARY
)
