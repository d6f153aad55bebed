"""Convolutions that autograd records: forward here, backward here too, or by PyTorch's operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from ...geometry import Geometry
from .. import calls
from ..base import DepthwiseTensors, Norm, PointwiseTensors, SeparableTensors, Weights
from ..calls import Prepared
from ..eager import after, by_parts, convolved, is_even, padded, parts_of, pointwise
from ..formats import LAST
from ..problem import Problem, problem_of
from ..tensors import dispatch_modes
from ..weights import NO_PRINTS, gradients_asked

# Layouts of gradients, and sets of those wanted, that one convolution is known for.
_MOST_BACKWARD = 8


def run_recorded(x: Tensor, weights: Weights, problem: Problem) -> Tensor:
    """The convolution of such tensors, for autograd; part by part, as what lies between is needed for the gradients."""
    if isinstance(weights, SeparableTensors):
        return by_parts(*_parts_of(problem), x, weights)
    if isinstance(weights, DepthwiseTensors):
        return _recorded(x, weights.weight, weights.bias, _convolution_of(problem))
    if weights.activation is None:
        return _recorded(x, weights.weight, weights.bias, _convolution_of(problem), weights.residual)
    alone = replace(problem, activations=(None, None), residual=None)
    y = _recorded(x, weights.weight, weights.bias, _convolution_of(alone))
    return after(y, None, weights.activation, weights.residual)


def _parts_of(problem: Problem) -> tuple[_Part, _Part]:
    alone, last = parts_of(problem.geometry)
    return _Part(DepthwiseTensors, alone), _Part(PointwiseTensors, last)


class _Part:
    """One convolution of a separable one, for weights that stay alike and inputs that lie as the last one did."""

    def __init__(self, kind: type[DepthwiseTensors | PointwiseTensors], g: Geometry) -> None:
        self._kind, self._geometry = kind, g
        self._known: tuple[tuple[int, ...], _Convolution | None] = (), None

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        strides, convolution = self._known
        if x.stride() != strides:
            problem = problem_of(x, self._kind(weight, bias), self._geometry)
            convolution = _convolution_of(problem) if problem.operation == "depthwise" or is_last(problem) else None
            self._known = x.stride(), convolution
        if convolution is None:
            return pointwise(x, weight, bias, self._geometry)
        return _recorded(x, weight, bias, convolution)


class _Parts:
    """A separable convolution that autograd records, bound; its weights as they are stand in the place of a pack."""

    def __init__(self, weights: SeparableTensors, problem: Problem) -> None:
        self._activations, self._parts = weights.activations, _parts_of(problem)
        self._eps = [None if norm is None else norm.eps for norm in weights.norms]

    def run(self, x: Tensor, residual: Tensor | None, pack: Any, prints: int) -> Tensor | None:  # noqa: ARG002
        for tensor in (x, residual, *pack):
            if tensor is not None and not tensor.data_ptr():
                return None
        gradients_asked(pack)
        (depthwise, pointwise), (first, last) = self._parts, self._activations
        norms: list[Norm | None] = [None, None]
        if len(pack) > 4:
            each = iter(pack[4:])
            norms = [None if eps is None else _norm(*islice(each, 5), eps=eps) for eps in self._eps]
        y = after(depthwise(x, *pack[:2]), norms[0], first)
        return after(pointwise(y, *pack[2:4]), norms[1], last, residual)


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


def recorded(weights: Weights, problem: Problem) -> Prepared | None:
    """What runs a call that autograd records, and calls like it; None where no part of it is one convolution alone."""
    if isinstance(weights, SeparableTensors):
        return Prepared(_Parts(weights, problem), weights.weights, recorded=True)
    is_alone = isinstance(weights, DepthwiseTensors) or (weights.residual is None and weights.activation is None)
    return Prepared(_convolution_of(problem), weights.weights, recorded=True) if is_alone else None


def _norm(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, _: Tensor | None, *, eps: float
) -> Norm:
    return Norm(mean, var, weight, bias, eps)


def _convolution_of(problem: Problem) -> _Convolution:
    return calls.bound(("recorded", problem), lambda: _Convolution(problem))


class _Convolution:
    """A depthwise or pointwise convolution that autograd records, and what computes its gradients, as they come.

    Programs pack the weights; nothing of these is kept.
    """

    def __init__(self, problem: Problem) -> None:
        from . import gradients, launch
        from .pack import Fresh

        self._problem, self._geometry = problem, problem.geometry
        self._kind = DepthwiseTensors if problem.operation == "depthwise" else PointwiseTensors
        self._bind, self._steps, self._fresh = launch.bound_afresh, gradients.plain_steps, Fresh
        # By the number of threads, and whether there is a bias.
        self._forward: dict[tuple[int, bool], Any] = {}
        # The latest first: threads, which gradients are wanted, torch's guard, and what computes them.
        self._backward: tuple[tuple[int, tuple[bool, ...], Callable[..., bool], Any], ...] = ()

    def run(self, x: Tensor, residual: Tensor | None, pack: Any, prints: int) -> Tensor | None:  # noqa: ARG002
        weight, bias = pack
        if not (x.data_ptr() and weight.data_ptr() and (bias is None or bias.data_ptr())):
            # Freed memory, or nothing to compute: torch has words for it.
            return None
        gradients_asked(pack)
        return _recorded(x, weight, bias, self)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        key = torch.get_num_threads(), bias is not None
        bound = self._forward.get(key)
        if bound is None:
            bound = self._forward[key] = self._bind(self._problem, turned=False, bias=key[1])
        out = None if bound is None else bound.run(x, residual, self._fresh(weight, bias), NO_PRINTS.address)
        return (
            after(convolved(x, self._kind(weight, bias), self._geometry), None, None, residual) if out is None else out
        )

    def backward(
        self, gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: list[int] | None, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        asked, found = torch.get_num_threads(), None
        if not (is_compiling() or torch.is_grad_enabled() or dispatch_modes() or forward_ad._current_level >= 0):
            for threads, needed, reads, steps in self._backward:
                if threads == asked and needed == wanted and reads(gradient, x, weight):
                    if not (gradient.data_ptr() and x.data_ptr() and weight.data_ptr()):
                        break
                    return steps.run(gradient, gradient, x, weight)  # type: ignore[no-any-return]
        known = self._steps(gradient, x, weight, self._geometry, wanted)
        if known is not None:
            steps, laid = known
            found = steps.run(*laid)
            given = gradient, gradient, x, weight
            if found is not None and all(one is other for one, other in zip(laid, given, strict=True)):
                entry = asked, wanted, calls.guard(gradient, x, weight), steps
                self._backward = (entry, *self._backward[: _MOST_BACKWARD - 1])
        return found or _torch_gradients(gradient, x, weight, bias_sizes, self._geometry, wanted)


class _Recorded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, convolution: _Convolution, residual: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.convolution, ctx.bias_sizes = convolution, None if bias is None else list(bias.shape)
        return convolution.forward(x, weight, bias, residual)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        found = ctx.convolution.backward(gradient, x, weight, ctx.bias_sizes, ctx.needs_input_grad[:3])
        return (*found, None, gradient if ctx.needs_input_grad[4] else None)


def _recorded(
    x: Tensor, weight: Tensor, bias: Tensor | None, convolution: _Convolution, residual: Tensor | None = None
) -> Tensor:
    out: Tensor = _Recorded.apply(x, weight, bias, convolution, residual)  # type: ignore[no-untyped-call]
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
