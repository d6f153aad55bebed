"""Gradients of convolutions of plain tensors, computed by generated code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from ...geometry import Geometry
from .. import calls
from ..base import PointwiseTensors
from ..formats import LAST
from ..problem import Problem
from ..tensors import are_plain
from .launch import compiles, fresh, machine, most_seconds_of
from .lower.decision import dense_strides
from .lower.gradients import (
    InputGradient,
    PointwiseGradient,
    WeightGradient,
    is_turned,
    lower_input_gradient,
    lower_pointwise_gradient,
    lower_weight_gradient,
)
from .machine import Machine
from .plan.sizes import least_steps
from .run import memory, threads
from .run.bound import Bound
from .run.program import Program

_FLOAT32 = torch.float32
_settled = lru_cache(maxsize=4096)(least_steps)
Asked = TypeVar("Asked", InputGradient, WeightGradient, PointwiseGradient)


Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def plain_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, g: Geometry, wanted: tuple[bool, ...]
) -> Gradients | None:
    """Those of input, weight and bias that are wanted; None where PyTorch's operators are to compute them."""
    gradients = depthwise_gradients if g.out_channels is None else pointwise_gradients
    return gradients(gradient, x, weight, g, wanted)


def depthwise_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, g: Geometry, wanted: tuple[bool, ...]
) -> Gradients | None:
    """The same of a depthwise convolution."""
    if not (gradient.numel() and are_plain(gradient, x, weight) and _fit(gradient, x, weight, g)):
        return None
    gradient, x, weight, g = gradient.resolve_neg(), x.resolve_neg(), weight.resolve_neg().contiguous(), _settled(g)
    dx = dw = db = None
    if wanted[0]:
        dx = _input_gradient(gradient, x, weight, g)
        if dx is None:
            return None
    if wanted[1] or wanted[2]:
        found = _weight_gradient(gradient, x, weight, g, bias=wanted[2])
        if found is None:
            return None
        dw, db = found
    return dx, dw if wanted[1] else None, db


def pointwise_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, g: Geometry, wanted: tuple[bool, ...]
) -> Gradients | None:
    """The same of a pointwise convolution, of images whose pixels are dense."""
    if not (gradient.numel() and are_plain(gradient, x, weight) and _fit(gradient, x, weight, g) and _is_dense(x)):
        return None
    gradient, x, weight = _channels_last(gradient.resolve_neg()), x.resolve_neg(), weight.resolve_neg().contiguous()
    dx = dw = db = None
    if wanted[0]:
        dx = _pointwise_input_gradient(gradient, x, weight, g)
        if dx is None:
            return None
    if wanted[1] or wanted[2]:
        asked = PointwiseGradient(g, len(x), wanted[2])
        found = _sums(asked, lower_pointwise_gradient, g, (gradient, x, weight), bias=wanted[2])
        if found is None:
            return None
        dw, db = found
    return dx, dw if wanted[1] else None, db


def _pointwise_input_gradient(gradient: Tensor, x: Tensor, weight: Tensor, g: Geometry) -> Tensor | None:
    """A pointwise convolution of the gradient, with each group's weights the other way round."""
    turned = replace(g, input_size=(len(weight), *g.input_size[1:]), out_channels=g.in_channels)
    problem = Problem(
        "pointwise", turned, _FLOAT32, "cpu", len(x), gradient.stride(), dense_strides(g, channels_last=True)
    )
    ready = fresh(PointwiseTensors(weight), problem, turned=True)
    return None if ready is None else ready.run(gradient, None)


def _fit(gradient: Tensor, x: Tensor, weight: Tensor, g: Geometry) -> bool:
    """Whether the sizes are those of the convolution: hooks on what autograd saves may give back anything."""
    filters = (g.output_size[0], (g.in_channels if g.out_channels is not None else 1) // g.groups, *g.kernel_size)
    return x.shape[1:] == g.input_size and gradient.shape == (len(x), *g.output_size) and weight.shape == filters


def _bound(asked: Asked, lower: Callable[[Asked, Machine, int], Program], g: Geometry, batch: int) -> Bound | None:
    """What runs a gradient, made once for all that ask the same; None where the code for it could not be made."""

    def bind() -> Bound | None:
        program = lower(asked, machine(), threads.team_size())
        return Bound(program, most_seconds_of(g, batch)) if compiles(program) else None

    return calls.bound((asked, threads.team_size()), bind)


def _input_gradient(gradient: Tensor, x: Tensor, weight: Tensor, g: Geometry) -> Tensor | None:
    if is_turned(g):
        gradient, g = _without_padding(gradient, g)
    # Sequences are written in planes, as the results of convolutions are.
    planar = g.rank == 1 or not _has_channels_last(x)
    gradient = gradient.contiguous() if planar else _channels_last(gradient)
    asked = InputGradient(g, len(x), gradient.stride(), planar)
    bound = _bound(asked, lower_input_gradient, g, len(x))
    if bound is None:
        return None
    dx = memory.new_result(tuple(x.shape), dense_strides(g, channels_last=not planar), _FLOAT32)
    bound.run({"x": gradient.data_ptr(), "weight": weight.data_ptr(), "out": dx.data_ptr()})
    return dx


def _without_padding(gradient: Tensor, g: Geometry) -> tuple[Tensor, Geometry]:
    """The gradient of outputs whose windows reach the input, at stride 1, and what computes these alone."""
    padding = []
    for axis, (k, d, (before, after)) in enumerate(zip(g.kernel_size, g.dilation, g.padding, strict=True), 2):
        reach, count = d * (k - 1), gradient.shape[axis]
        start, stop = max(0, before - reach), count - max(0, after - reach)
        gradient = gradient.narrow(axis, start, stop - start)
        padding.append((min(before, reach), min(after, reach)))
    return gradient, replace(g, padding=tuple(padding))


def _weight_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, g: Geometry, *, bias: bool
) -> tuple[Tensor, Tensor | None] | None:
    planar = not _has_channels_last(x)
    if planar and x.stride(-1) != 1 and x.shape[-1] > 1:
        x = x.contiguous()
    gradient = gradient.contiguous() if planar else _channels_last(gradient)
    asked = WeightGradient(g, len(x), x.stride(), planar, bias)
    return _sums(asked, lower_weight_gradient, g, (gradient, x, weight), bias=bias)


def _sums(
    asked: Asked,
    lower: Callable[[Asked, Machine, int], Program],
    g: Geometry,
    tensors: tuple[Tensor, Tensor, Tensor],
    *,
    bias: bool,
) -> tuple[Tensor, Tensor | None] | None:
    """The gradients of weight and bias."""
    gradient, x, weight = tensors
    bound = _bound(asked, lower, g, len(x))
    if bound is None:
        return None
    size = tuple(weight.shape)
    dw = memory.new_result(size, weight.stride(), _FLOAT32)
    db = memory.new_result(size[:1], (1,), _FLOAT32) if bias else None
    addresses = {"x": x.data_ptr(), "gradient": gradient.data_ptr(), "weight_gradient": dw.data_ptr()}
    bound.run(addresses if db is None else {**addresses, "bias_gradient": db.data_ptr()})
    return dw, db


def _has_channels_last(x: Tensor) -> bool:
    return x.stride(1) == 1 or x.shape[1] == 1


def _channels_last(tensor: Tensor) -> Tensor:
    """The same with channels side by side, and nothing between pixels."""
    if tensor.dim() > 3 and tensor.is_contiguous(memory_format=LAST[tensor.dim() - 2]):
        return tensor
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


def _is_dense(x: Tensor) -> bool:
    """Whether pixels follow one another in memory, and channels in each."""
    return x.movedim(1, -1).is_contiguous()
