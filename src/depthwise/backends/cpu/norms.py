"""A batch norm in training mode with its activation, on kernels of ours: what autograd records of it.

The result and its gradients are torch's within rounding: the derivative of the activation is computed from what the
activation was given, which is computed again from the input rather than kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import calls
from ..eager import activate
from ..formats import LAST, same_strides
from ..problem import Activation
from ..tensors import are_plain
from .emit.norm_backward import BIAS, GRADIENTS, WEIGHT
from .emit.norm_forward import MEAN, STATISTICS, UNBIASED
from .launch import compiles, machine
from .lower.norms import NormProblem, backward_program, forward_program
from .machine import FLOAT_BYTES
from .run import memory, threads
from .run.bound import Bound
from .run.program import Program

_FLOAT32 = torch.float32
_DIMENSIONS = {rank + 2: form for rank, form in LAST.items()}
# What stands for a weight or a bias that there is none of.
_ABSENT = (("weight", 1.0), ("bias", 0.0))


def norm_activation(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: Activation,
    running: tuple[Tensor, Tensor] | None = None,
    momentum: float = 0.0,
    counted: Tensor | None = None,
) -> tuple[Tensor, Tensor] | None:
    """The result, and the statistics of the batch: rows of its mean, its inverse deviation, and two more.

    x:        dense channels-last pixels in float32, as are the others where they are there
    residual: is added before the activation
    running:  mean and variance, which move by `momentum` to the batch's
    counted:  how many batches there were, one more afterwards

    None, and nothing moved, where the code for it could not be made.
    """
    problem = NormProblem(x.numel() // x.shape[1], x.shape[1], eps, activation, residual is not None)
    bound = _bound(forward_program, problem)
    if bound is None:
        return None
    if counted is not None:
        counted.add_(1)
    asked = _Asked(problem, bound, running, momentum)
    out: tuple[Tensor, Tensor] = _NormActivation.apply(x, weight, bias, residual, asked)  # type: ignore[no-untyped-call]
    return out


class _Asked(NamedTuple):
    """What is asked beside the tensors of the graph."""

    problem: NormProblem
    bound: Bound
    running: tuple[Tensor, Tensor] | None
    momentum: float


class _NormActivation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        asked: _Asked,
    ) -> tuple[Tensor, Tensor]:
        problem, bound, running, momentum = asked
        statistics = memory.new_result((STATISTICS, problem.channels), (problem.channels, 1), _FLOAT32)
        out = _like(x)
        tensors = {"x": x, "bias": bias, "weight": weight, "residual": residual, "out": out, "statistics": statistics}
        _run(bound, problem, tensors)
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
            return (None,) * 5
        # Hooks on what is saved may give back other tensors than they were given.
        saved: Any = [each if each is None else each.float() for each in ctx.saved_tensors]
        x, weight, bias, residual, statistics = saved
        problem, wanted = ctx.problem, ctx.needs_input_grad[:4]
        whole = wanted[0] or wanted[3]
        bound = _bound(_whole_backward if whole else _sums_alone, problem)
        if bound is None or not _is_as_planned(problem, (x, dy, residual), (weight, bias), statistics):
            return (*_by_torch(x, weight, bias, residual, dy, problem, wanted), None)
        gradients = memory.new_result((GRADIENTS, problem.channels), (problem.channels, 1), _FLOAT32)
        dx = _like(x) if whole else None
        dresidual = _like(x) if problem.residual and dx is not None else None
        given = {"x": x, "dy": dy, "bias": bias, "residual": residual, "statistics": statistics}
        made = {"gradients": gradients, "dx": dx, "dresidual": dresidual}
        _run(bound, problem, {**given, **made})
        found = (dx, gradients[WEIGHT], gradients[BIAS], dresidual)
        return (*(each if needed else None for each, needed in zip(found, wanted, strict=True)), None)


def _like(x: Tensor) -> Tensor:
    out = memory.new_result(tuple(x.shape), x.stride(), _FLOAT32)
    size = x.numel() * FLOAT_BYTES
    if size >= memory.LEAST_HUGE_BYTES:
        memory.ask_for_huge_pages(out, size)
    return out


def _is_as_planned(
    problem: NormProblem, images: Sequence[Tensor | None], by_channel: Sequence[Tensor | None], statistics: Tensor
) -> bool:
    """Whether all that a backward program reads is plain memory, and lies as the program reads it."""
    x, *others = (image for image in images if image is not None)
    numbers = [each for each in by_channel if each is not None]
    read = (x, *others, *numbers, statistics)
    if not are_plain(*read) or any(each.is_neg() for each in read):
        return False
    channels = problem.channels
    return (
        x.dim() in _DIMENSIONS
        and x.is_contiguous(memory_format=_DIMENSIONS[x.dim()])
        and (x.shape[1], x.numel()) == (channels, problem.pixels * channels)
        and all(each.shape == x.shape and same_strides(x.shape, each.stride(), x.stride()) for each in others)
        and all(each.shape == (channels,) and each.is_contiguous() for each in numbers)
        and statistics.shape == (STATISTICS, channels)
        and statistics.is_contiguous()
    )


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
        # Where it is, views: one input may lead to another, and that way is autograd's own.
        given = [
            None if each is None else each.view_as(each) if further else each.detach().requires_grad_(needed)
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


def _run(bound: Bound, problem: NormProblem, tensors: Mapping[str, Tensor | None]) -> None:
    # Held until the call is over: others may be kept in the place of these.
    absent = {name: _filled(problem.channels, fill) for name, fill in _ABSENT if tensors.get(name) is None}
    addresses = {name: tensor.data_ptr() for name, tensor in {**tensors, **absent}.items() if tensor is not None}
    bound.run(addresses)


def _bound(lowered: Lowered, problem: NormProblem) -> Bound | None:
    """What runs it, made once for all that ask the same; None where the code for it could not be made."""

    def bind() -> Bound | None:
        program = lowered(problem, machine(), threads.team_size())
        most_seconds = 0.001 + 8 * FLOAT_BYTES * problem.pixels * problem.channels / 1e9
        return Bound(program, most_seconds) if compiles(program) else None

    return calls.bound((lowered, problem, threads.team_size()), bind)


@lru_cache(maxsize=64)
def _filled(channels: int, value: float) -> Tensor:
    return torch.full((channels,), value, dtype=_FLOAT32, device=memory.CPU)
