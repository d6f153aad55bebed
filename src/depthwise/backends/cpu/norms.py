"""A batch norm in training mode with its activation, on kernels of ours: what autograd records of it.

The result and its gradients are torch's within rounding: the derivative of the activation is computed from what the
activation was given, which is computed again from the input rather than kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..eager import activate
from ..problem import Activation
from .emit.norm_backward import BIAS, GRADIENTS, WEIGHT
from .emit.norm_forward import MEAN, STATISTICS, UNBIASED
from .launch import machine
from .lower.norms import NormProblem, backward_program, forward_program
from .machine import FLOAT_BYTES
from .run import memory, threads
from .run.bound import Bound
from .run.program import Program

# Bound programs, those longest out of use go first.
_MOST_BOUND = 1024
_FLOAT32 = torch.float32


def norm_activation(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: Activation,
    running: tuple[Tensor, Tensor] | None = None,
    momentum: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The result, and the statistics of the batch: rows of its mean, its inverse deviation, and two more.

    x:        dense channels-last pixels in float32, as are the others where they are there
    residual: is added before the activation
    running:  mean and variance, which move by `momentum` to the batch's
    """
    problem = NormProblem(x.numel() // x.shape[1], x.shape[1], eps, activation, residual is not None)
    out: tuple[Tensor, Tensor] = _NormActivation.apply(x, weight, bias, residual, problem, running, momentum)  # type: ignore[no-untyped-call]
    return out


class _NormActivation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        problem: NormProblem,
        running: tuple[Tensor, Tensor] | None,
        momentum: float,
    ) -> tuple[Tensor, Tensor]:
        statistics = memory.new_result((STATISTICS, problem.channels), (problem.channels, 1), _FLOAT32)
        out = _like(x)
        tensors = {"x": x, "bias": bias, "weight": weight, "residual": residual, "out": out, "statistics": statistics}
        _run(forward_program, problem, tensors)
        if running is not None:
            # Here: what a checkpoint computes again ends where the last tensor is saved.
            for kept, row in zip(running, (MEAN, UNBIASED), strict=True):
                kept.lerp_(statistics[row], momentum)
        ctx.save_for_backward(x, weight, bias, residual, statistics)
        ctx.problem = problem
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)
        return out, statistics

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 7
        x, weight, bias, residual, statistics = ctx.saved_tensors
        problem, wanted = ctx.problem, ctx.needs_input_grad[:4]
        if torch.is_grad_enabled() or not _lies_as(dy, x):
            return (*_by_torch(x, weight, bias, residual, dy, problem, wanted), None, None, None)
        gradients = memory.new_result((GRADIENTS, problem.channels), (problem.channels, 1), _FLOAT32)
        dx = _like(x) if wanted[0] or wanted[3] else None
        dresidual = _like(x) if problem.residual and dx is not None else None
        given = {"x": x, "dy": dy, "bias": bias, "residual": residual, "statistics": statistics}
        made = {"gradients": gradients, "dx": dx, "dresidual": dresidual}
        program = _sums_alone if dx is None else _whole_backward
        _run(program, problem, {**given, **made})
        found = (dx, gradients[WEIGHT], gradients[BIAS], dresidual)
        return (*(each if needed else None for each, needed in zip(found, wanted, strict=True)), None, None, None)


def _like(x: Tensor) -> Tensor:
    out = memory.new_result(tuple(x.shape), x.stride(), _FLOAT32)
    size = x.numel() * FLOAT_BYTES
    if size >= memory.LEAST_HUGE_BYTES:
        memory.ask_for_huge_pages(out, size)
    return out


def _lies_as(dy: Tensor, x: Tensor) -> bool:
    """Whether a gradient is plain memory, pixel by pixel as the input is."""
    is_plain = type(dy) is Tensor and dy.dtype == _FLOAT32 and dy.device.type == "cpu" and not dy.is_neg()
    sizes = zip(x.shape, dy.stride(), x.stride(), strict=True) if is_plain else ()
    return is_plain and all(n == 1 or one == other for n, one, other in sizes)


def _by_torch(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    dy: Tensor,
    problem: NormProblem,
    wanted: tuple[bool, ...],
) -> list[Tensor | None]:
    """The same gradients by torch's operators, which have derivatives of their own."""
    further = torch.is_grad_enabled()
    inputs = [x, weight, bias, residual]
    with torch.enable_grad():
        # Where no further derivative is asked for, what led to the inputs is none of the graph's.
        given = [
            each if further or each is None else each.detach().requires_grad_(needed)
            for each, needed in zip(inputs, wanted, strict=True)
        ]
        first, scale, shift, added = given
        y = F.batch_norm(first if first is not None else x, None, None, scale, shift, training=True, eps=problem.eps)
        out = activate(y if added is None else y + added, problem.activation)
        asked = [each for each, needed in zip(given, wanted, strict=True) if needed and each is not None]
        found = iter(torch.autograd.grad(out, asked, dy, create_graph=further))
    return [next(found) if needed else None for needed in wanted]


Lowered = Callable[..., Program]


def _whole_backward(problem: NormProblem, target: Any, team: int) -> Program:
    return backward_program(problem, target, team, input_gradient=True)


def _sums_alone(problem: NormProblem, target: Any, team: int) -> Program:
    return backward_program(problem, target, team, input_gradient=False)


def _run(lowered: Lowered, problem: NormProblem, tensors: Mapping[str, Tensor | None]) -> None:
    addresses = {name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None}
    for name, fill in (("weight", 1.0), ("bias", 0.0)):
        if tensors.get(name) is None:
            addresses[name] = _filled(problem.channels, fill).data_ptr()
    _bound(lowered, problem, threads.team_size()).run(addresses)


@lru_cache(maxsize=_MOST_BOUND)
def _bound(lowered: Lowered, problem: NormProblem, team: int) -> Bound:
    return Bound(lowered(problem, machine(), team), 0.001 + 8 * FLOAT_BYTES * problem.pixels * problem.channels / 1e9)


@lru_cache(maxsize=64)
def _filled(channels: int, value: float) -> Tensor:
    """What stands for a weight or a bias that there is none of."""
    return torch.full((channels,), value, dtype=_FLOAT32, device=memory.CPU)
