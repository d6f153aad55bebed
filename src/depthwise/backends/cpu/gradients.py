"""Gradients of convolutions of plain tensors, computed by generated code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ...geometry import Geometry
from .. import calls
from ..formats import LAST
from ..tensors import are_plain
from ..weights import NO_PRINTS
from .launch import bound_afresh, compiles, machine, most_seconds_of
from .lower.decision import dense_strides
from .lower.gradients import (
    InputGradient,
    PointwiseGradient,
    WeightGradient,
    is_turned,
    lower_input_gradient,
    lower_pointwise_gradient,
    lower_weight_gradient,
    pointwise_input_problem,
)
from .machine import Machine
from .pack import Fresh
from .plan.sizes import least_steps
from .run import leases, memory, threads
from .run.bound import Bound
from .run.program import Program

_FLOAT32 = torch.float32
_settled = lru_cache(maxsize=4096)(least_steps)
Asked = TypeVar("Asked", InputGradient, WeightGradient, PointwiseGradient)


Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class Laid(NamedTuple):
    """What steps read: the gradient for that of the input, the same for the sums, the input and the weight."""

    turned: Tensor
    gradient: Tensor
    x: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class Steps:
    """What computes the gradients that are wanted, of tensors that lie as those that it was made for.

    dx:     of (gradient, weight), that of the input; it may find nothing behind a pointer
    sums:   of (gradient, input), those of weight and bias
    weight: that of the weight is wanted
    """

    dx: Callable[[Tensor, Tensor], Tensor | None] | None
    sums: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]] | None
    weight: bool

    def run(self, turned: Tensor, gradient: Tensor, x: Tensor, weight: Tensor) -> Gradients | None:
        """Those of input, weight and bias; None where PyTorch's operators are to compute them."""
        dx = dw = db = None
        if self.dx is not None:
            dx = self.dx(turned, weight)
            if dx is None:
                return None
        if self.sums is not None:
            dw, db = self.sums(gradient, x)
        return dx, dw if self.weight else None, db


Found = tuple[Steps, Laid]


def plain_steps(gradient: Tensor, x: Tensor, weight: Tensor, g: Geometry, wanted: tuple[bool, ...]) -> Found | None:
    """What computes the gradients that are wanted; None where PyTorch's operators do."""
    if not (gradient.numel() and are_plain(gradient, x, weight) and _fit(gradient, x, weight, g)):
        return None
    tensors = gradient.resolve_neg(), x.resolve_neg(), weight.resolve_neg().contiguous()
    return (_depthwise_steps if g.out_channels is None else _pointwise_steps)(*tensors, g, wanted)


def plain_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, g: Geometry, wanted: tuple[bool, ...]
) -> Gradients | None:
    """Those of input, weight and bias that are wanted; None where PyTorch's operators are to compute them."""
    found = plain_steps(gradient, x, weight, g, wanted)
    return None if found is None else found[0].run(*found[1])


def _depthwise_steps(
    gradient: Tensor, x: Tensor, weight: Tensor, g: Geometry, wanted: tuple[bool, ...]
) -> Found | None:
    g, dx, sums, turned = _settled(g), None, None, gradient
    if wanted[0]:
        dx, turned = _input_gradient(gradient, x, g)
        if dx is None:
            return None
    if wanted[1] or wanted[2]:
        planar = not _has_channels_last(x)
        if planar and x.stride(-1) != 1 and x.shape[-1] > 1:
            x = x.contiguous()
        gradient = gradient.contiguous() if planar else _channels_last(gradient)
        asked = WeightGradient(g, len(x), x.stride(), planar, wanted[2])
        sums = _sums(_bound(asked, lower_weight_gradient, g, len(x)), weight, bias=wanted[2])
        if sums is None:
            return None
    return Steps(dx, sums, wanted[1]), Laid(turned, gradient, x, weight)


def _pointwise_steps(
    gradient: Tensor, x: Tensor, weight: Tensor, g: Geometry, wanted: tuple[bool, ...]
) -> Found | None:
    """The same of images whose pixels are dense."""
    if not _is_dense(x):
        return None
    gradient, dx, sums = _channels_last(gradient), None, None
    if wanted[0]:
        dx = _pointwise_input_gradient(gradient, x, g)
        if dx is None:
            return None
    if wanted[1] or wanted[2]:
        asked = PointwiseGradient(g, len(x), wanted[2])
        sums = _sums(_bound(asked, lower_pointwise_gradient, g, len(x)), weight, bias=wanted[2])
        if sums is None:
            return None
    return Steps(dx, sums, wanted[1]), Laid(gradient, gradient, x, weight)


def _pointwise_input_gradient(
    gradient: Tensor, x: Tensor, g: Geometry
) -> Callable[[Tensor, Tensor], Tensor | None] | None:
    """A pointwise convolution of the gradient, with each group's weights the other way round."""
    bound = bound_afresh(pointwise_input_problem(g, len(x), gradient.stride()), turned=True, bias=False)
    if bound is None:
        return None
    return lambda gradient, weight: bound.run(gradient, None, Fresh(weight, None), NO_PRINTS.address)


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


def _input_gradient(
    gradient: Tensor, x: Tensor, g: Geometry
) -> tuple[Callable[[Tensor, Tensor], Tensor] | None, Tensor]:
    """What computes it, None where the code for it could not be made, and the gradient as that reads it."""
    if is_turned(g):
        gradient, g = _without_padding(gradient, g)
    # Sequences are written in planes, as the results of convolutions are.
    planar = g.rank == 1 or not _has_channels_last(x)
    gradient = gradient.contiguous() if planar else _channels_last(gradient)
    bound = _bound(InputGradient(g, len(x), gradient.stride(), planar), lower_input_gradient, g, len(x))
    if bound is None:
        return None, gradient
    size, strides = tuple(x.shape), dense_strides(g, channels_last=not planar)

    def run(gradient: Tensor, weight: Tensor) -> Tensor:
        dx = leases.new_image(size, strides)
        bound.run({"x": gradient.data_ptr(), "weight": weight.data_ptr(), "out": dx.data_ptr()})
        return dx

    return run, gradient


def _without_padding(gradient: Tensor, g: Geometry) -> tuple[Tensor, Geometry]:
    """The gradient of outputs whose windows reach the input, at stride 1, and what computes these alone."""
    padding = []
    for axis, (k, d, (before, after)) in enumerate(zip(g.kernel_size, g.dilation, g.padding, strict=True), 2):
        reach, count = d * (k - 1), gradient.shape[axis]
        start, stop = max(0, before - reach), count - max(0, after - reach)
        if (start, stop) != (0, count):
            gradient = gradient.narrow(axis, start, stop - start)
        padding.append((min(before, reach), min(after, reach)))
    return gradient, replace(g, padding=tuple(padding))


def _sums(
    bound: Bound | None, weight: Tensor, *, bias: bool
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]] | None:
    """What computes the gradients of weight and bias; None where the code for it could not be made."""
    if bound is None:
        return None
    size, strides = tuple(weight.shape), weight.stride()

    def run(gradient: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        dw = leases.new_image(size, strides)
        db = memory.new_result(size[:1], (1,), _FLOAT32) if bias else None
        addresses = {"x": x.data_ptr(), "gradient": gradient.data_ptr(), "weight_gradient": dw.data_ptr()}
        if db is not None:
            addresses["bias_gradient"] = db.data_ptr()
        bound.run(addresses)
        return dw, db

    return run


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
