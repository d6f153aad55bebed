"""Convolutions that autograd records: forward here, backward here too, or by PyTorch's operators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...geometry import Geometry
from ..base import DepthwiseTensors, PointwiseTensors, SeparableTensors, Weights
from ..eager import activate, by_parts, convolved, is_even, padded, pointwise
from ..formats import LAST
from ..problem import Problem, problem_of


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


def run_recorded(x: Tensor, weights: Weights, problem: Problem) -> Tensor:
    """The convolution of such tensors, for autograd; part by part, as what lies between is needed for the gradients."""
    if isinstance(weights, SeparableTensors):
        return by_parts(_depthwise, _pointwise, x, weights, problem.geometry)
    if isinstance(weights, DepthwiseTensors):
        return _recorded(x, weights.weight, weights.bias, problem)
    alone = replace(problem, activations=(None, None), residual=None)
    y = _recorded(x, weights.weight, weights.bias, alone)
    return activate(y if weights.residual is None else y + weights.residual, weights.activation)


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    return _recorded(x, weight, bias, problem_of(x, DepthwiseTensors(weight, bias), g))


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    problem = problem_of(x, PointwiseTensors(weight, bias), g)
    return _recorded(x, weight, bias, problem) if is_last(problem) else pointwise(x, weight, bias, g)


def is_last(problem: Problem, *, or_planar: bool = False) -> bool:
    """Whether input and result of a problem are dense, pixel by pixel, and its residual too.

    or_planar: the input may be dense plane by plane
    """
    last = LAST.get(problem.geometry.rank)
    if last is None or problem.strides is None or problem.result is None:
        return False
    x = torch.empty_strided((problem.batch, *problem.geometry.input_size), problem.strides, device="meta")
    out = torch.empty_strided(problem.output_size, problem.result, device="meta")
    added = problem.result if problem.residual is None else problem.residual
    reads = x.is_contiguous(memory_format=last) or (or_planar and x.is_contiguous())
    return reads and out.is_contiguous(memory_format=last) and added == problem.result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, problem: Problem) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.g, ctx.bias_sizes = problem.geometry, None if bias is None else list(bias.shape)
        kind = DepthwiseTensors if problem.operation == "depthwise" else PointwiseTensors
        return run_plain(x, kind(weight, bias), problem, keeps=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return (*gradients_of(gradient, x, weight, ctx.bias_sizes, ctx.g, ctx.needs_input_grad[:3]), None)


def _recorded(x: Tensor, weight: Tensor, bias: Tensor | None, problem: Problem) -> Tensor:
    out: Tensor = _Convolution.apply(x, weight, bias, problem)  # type: ignore[no-untyped-call]
    return out


def gradients_of(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: list[int] | None, g: Geometry, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of input, weight and bias that are wanted, of a depthwise or a pointwise convolution."""
    from .gradients import plain_gradients

    found = plain_gradients(gradient, x, weight, g, wanted)
    return _torch_gradients(gradient, x, weight, bias_sizes, g, wanted) if found is None else found


def _torch_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: list[int] | None, g: Geometry, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The same by PyTorch's own operator, which has gradients itself."""
    wide, padding = padded(x, g)
    transposed, output_padding = False, [0] * g.rank
    groups = g.in_channels if g.out_channels is None else g.groups
    window = g.stride, padding, g.dilation, transposed, output_padding, groups
    dx, dw, db = torch.ops.aten.convolution_backward(gradient, wide, weight, bias_sizes, *window, wanted)
    if dx is not None and not is_even(g):
        for axis, ((before, _), size) in enumerate(zip(g.padding, x.shape[2:], strict=True)):
            dx = dx.narrow(axis + 2, before, size)
    return dx if wanted[0] else None, dw if wanted[1] else None, db if wanted[2] else None
