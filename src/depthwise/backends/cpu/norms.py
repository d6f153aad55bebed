"""A batch norm in training mode with its activation, on kernels of ours: what autograd records of it.

The result and its gradients are torch's within rounding: the derivative of the activation is computed from what the
activation was given, which is computed again from the input rather than kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from .. import calls
from ..eager import activate
from ..formats import LAST, same_strides
from ..problem import Activation
from ..tensors import are_plain, dispatch_modes
from .emit.norm_forward import STATISTICS
from .launch import compiles, machine
from .lower.norms import NormProblem, backward_program, forward_program
from .machine import FLOAT_BYTES
from .run import leases, memory, threads
from .run.bound import Bound
from .run.program import Program

_FLOAT32 = torch.float32
_DIMENSIONS = {rank + 2: form for rank, form in LAST.items()}
# Layouts of gradients, and sets of those wanted, that one norm is known for.
_MOST_BACKWARD = 8


class Norm:
    """A batch norm with the batch's statistics and its activation: its programs, and what they were seen to read.

    No numbers of a call are in it.
    """

    def __init__(self, problem: NormProblem, bound: Bound) -> None:
        self.problem, self._bound = problem, bound
        # What stands for a weight or a bias that there is none of.
        self._ones, self._zeros = (filled(problem.channels, value) for value in (1.0, 0.0))
        # The latest first: of gradients that lie alike.
        self._backward: tuple[_Backward, ...] = ()

    def run(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None = None,
        running: tuple[Tensor, Tensor] | None = None,
        counted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The result, and the statistics of the batch: rows of its mean, its inverse deviation, and two more.

        x:        dense float32, channels-last or contiguous as the problem says, as are the others where they are there
        residual: is added before the activation
        running:  mean and variance, which move to the batch's; None where the problem has no momentum
        counted:  how many batches there were, one more afterwards
        """
        if counted is not None:
            counted.add_(1)
        out: tuple[Tensor, Tensor] = NormActivation.apply(x, weight, bias, residual, self, running)  # type: ignore[no-untyped-call]
        return out

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        running: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        statistics = memory.new_result((STATISTICS, self.problem.channels), (self.problem.channels, 1), _FLOAT32)
        out = _like(x)
        addresses = {
            "x": x.data_ptr(),
            "weight": (self._ones if weight is None else weight).data_ptr(),
            "bias": (self._zeros if bias is None else bias).data_ptr(),
            "statistics": statistics.data_ptr(),
            "out": out.data_ptr(),
        }
        if residual is not None:
            addresses["residual"] = residual.data_ptr()
        if running is not None:
            # As torch moves them, their versions stay: backward through an earlier evaluation is no error.
            addresses["running_mean"], addresses["running_var"] = map(Tensor.data_ptr, running)
        self._bound.run(addresses)
        return out, statistics

    def backward(self, saved: Sequence[Tensor | None], dy: Tensor, wanted: tuple[bool, ...]) -> list[Tensor | None]:
        """The gradients that are wanted of x, weight, bias and residual, which were saved before the statistics."""
        bound = self._known_to_read(saved, dy, wanted)
        if bound is None:
            dy = _laid_out(dy, self.problem)
            bound = self._known_to_read(saved, dy, wanted) or self._looked_at(saved, dy, wanted)
        if bound is None:
            return _by_torch(saved, dy, self.problem, wanted)
        x, _, bias, residual, statistics = saved
        if x is None or statistics is None:
            raise RuntimeError("what a batch norm saved is not there")
        dweight, dbias = (memory.new_result((self.problem.channels,), (1,), _FLOAT32) for _ in range(2))
        addresses = {
            "x": x.data_ptr(),
            "dy": dy.data_ptr(),
            "bias": (self._zeros if bias is None else bias).data_ptr(),
            "statistics": statistics.data_ptr(),
            "weight_gradient": dweight.data_ptr(),
            "bias_gradient": dbias.data_ptr(),
        }
        dx = dresidual = None
        if wanted[0] or wanted[3]:
            dx = _like(x)
            addresses["dx"] = dx.data_ptr()
            if residual is not None:
                dresidual = _like(x)
                addresses |= {"residual": residual.data_ptr(), "dresidual": dresidual.data_ptr()}
        elif residual is not None:
            addresses["residual"] = residual.data_ptr()
        bound.run(addresses)
        found = (dx, dweight, dbias, dresidual)
        return [each if needed else None for each, needed in zip(found, wanted, strict=True)]

    def _known_to_read(self, saved: Sequence[Tensor | None], dy: Tensor, wanted: tuple[bool, ...]) -> Bound | None:
        """The program that read tensors like these, where nobody records or rewrites what is done."""
        if is_compiling() or torch.is_grad_enabled() or dispatch_modes() or forward_ad._current_level >= 0:
            return None
        tensors = [dy, *(tensor for tensor in saved if tensor is not None)]
        key = torch.get_num_threads(), wanted, len(tensors)
        for known in self._backward:
            if known.key == key and known.reads(*tensors):
                # Freed memory is looked at anew.
                return known.bound if all(map(Tensor.data_ptr, tensors)) else None
        return None

    def _looked_at(self, saved: Sequence[Tensor | None], dy: Tensor, wanted: tuple[bool, ...]) -> Bound | None:
        """The program for these; None where torch's operators are to compute the gradients."""
        if not _is_as_planned(self.problem, saved, dy):
            return None
        bound = _bound(_whole_backward if wanted[0] or wanted[3] else _sums_alone, self.problem)
        if bound is None:
            return None
        tensors = [dy, *(tensor for tensor in saved if tensor is not None)]
        known = _Backward((torch.get_num_threads(), wanted, len(tensors)), calls.guard(*tensors), bound)
        self._backward = (known, *self._backward[: _MOST_BACKWARD - 1])
        return bound


class _Backward(NamedTuple):
    """What computes gradients of tensors that pass a guard of torch's.

    key: the number of threads, which gradients are wanted, how many tensors there are
    """

    key: tuple[int, tuple[bool, ...], int]
    reads: Callable[..., bool]
    bound: Bound


def norm_of(
    x: Tensor, eps: float, activation: Activation, *, residual: bool, momentum: float | None = None
) -> Norm | None:
    """The batch norm of dense `x`, channels-last or contiguous; None where the code for it could not be made.

    residual: something is added before the activation
    momentum: by which running statistics move to the batch's; None: there are none
    """
    channels = x.shape[1]
    plane = 0 if x.is_contiguous(memory_format=_DIMENSIONS[x.dim()]) else prod(x.shape[2:])
    problem = NormProblem(x.numel() // channels, channels, eps, activation, residual, plane, momentum)

    def make() -> Norm | None:
        bound = _bound(forward_program, problem)
        return None if bound is None else Norm(problem, bound)

    return calls.bound(("norm", problem, threads.team_size()), make)


class NormActivation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        norm: Norm,
        running: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        out, statistics = norm.forward(x, weight, bias, residual, running)
        ctx.save_for_backward(x, weight, bias, residual, statistics)
        ctx.norm = norm
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)
        return out, statistics

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 6
        saved = ctx.saved_tensors
        return (*ctx.norm.backward(saved, dy, ctx.needs_input_grad[:4]), None, None)


def _like(x: Tensor) -> Tensor:
    return leases.new_image(tuple(x.shape), x.stride())


def _laid_out(dy: Tensor, problem: NormProblem) -> Tensor:
    """The same as the problem's tensors lie, where it may be copied: the gradient of a mean is one number, expanded."""
    if dy.dim() not in _DIMENSIONS or not are_plain(dy):
        return dy
    return dy.contiguous(memory_format=_format(dy, problem))


def _format(tensor: Tensor, problem: NormProblem) -> torch.memory_format:
    return torch.contiguous_format if problem.plane else _DIMENSIONS[tensor.dim()]


def _is_as_planned(problem: NormProblem, saved: Sequence[Tensor | None], dy: Tensor) -> bool:
    """Whether all that a backward program reads is plain memory, and lies as the program reads it.

    Hooks on what autograd saves may give back other tensors than they were given.
    """
    x, weight, bias, residual, statistics = saved
    images = [tensor for tensor in (x, dy, residual) if tensor is not None]
    numbers = [tensor for tensor in (weight, bias) if tensor is not None]
    rows = [tensor for tensor in (statistics,) if tensor is not None]
    read = (*images, *numbers, *rows)
    if not are_plain(*read) or any(tensor.is_neg() for tensor in read):
        return False
    first, channels = images[0], problem.channels
    return (
        first.dim() in _DIMENSIONS
        and first.is_contiguous(memory_format=_format(first, problem))
        and problem.plane in (0, prod(first.shape[2:]))
        and (first.shape[1], first.numel()) == (channels, problem.pixels * channels)
        and all(each.shape == first.shape for each in images)
        and all(same_strides(first.shape, each.stride(), first.stride()) for each in images)
        and all(each.shape == (channels,) and each.is_contiguous() for each in numbers)
        and all(each.shape == (STATISTICS, channels) and each.is_contiguous() for each in rows)
    )


def _by_torch(
    saved: Sequence[Tensor | None], dy: Tensor, problem: NormProblem, wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    """The same gradients by torch's operators, which have derivatives of their own."""
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views: one input may lead to another, and that way is autograd's own.
        given: Any = [None if each is None else each.view_as(each) for each in saved[:4]]
        x, weight, bias, residual = (None if each is None else each.float() for each in given)
        y = F.batch_norm(x, None, None, weight, bias, training=True, eps=problem.eps)  # type: ignore[arg-type]
        out = activate(y if residual is None else y + residual, problem.activation)
        asked = [each for each, needed in zip(given, wanted, strict=True) if needed]
        found = iter(torch.autograd.grad(out, asked, dy, create_graph=further))
    return [next(found) if needed else None for needed in wanted]


Lowered = Callable[..., Program]


def _whole_backward(problem: NormProblem, target: Any, team: int) -> Program:
    return backward_program(problem, target, team, input_gradient=True)


def _sums_alone(problem: NormProblem, target: Any, team: int) -> Program:
    return backward_program(problem, target, team, input_gradient=False)


def _bound(lowered: Lowered, problem: NormProblem) -> Bound | None:
    """What runs it, made once for all that ask the same; None where the code for it could not be made."""

    def bind() -> Bound | None:
        program = lowered(problem, machine(), threads.team_size())
        most_seconds = 0.001 + 8 * FLOAT_BYTES * problem.pixels * problem.channels / 1e9
        return Bound(program, most_seconds) if compiles(program) else None

    return calls.bound((lowered, problem, threads.team_size()), bind)


@lru_cache(maxsize=64)
def filled(channels: int, value: float) -> Tensor:
    return torch.full((channels,), value, dtype=_FLOAT32, device=memory.CPU)
