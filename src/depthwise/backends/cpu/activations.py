"""An activation alone for autograd, on kernels of ours: what it was given is kept, as torch keeps it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import calls
from ..eager import activate
from ..formats import same_strides
from ..problem import Activation
from ..tensors import are_plain
from .launch import compiles, machine
from .lower.activations import ActivationProblem, backward_program, forward_program
from .run import leases, threads
from .run.bound import Bound


class Activated:
    """An activation of so many elements, and its derivative.

    No numbers of a call are in it.
    """

    def __init__(self, problem: ActivationProblem, forward: Bound, backward: Bound) -> None:
        self.problem, self._forward, self._backward = problem, forward, backward

    def run(self, x: Tensor) -> Tensor:
        """x: dense; the result lies as it does."""
        out: Tensor = _Activation.apply(x, self)  # type: ignore[no-untyped-call]
        return out

    def forward(self, x: Tensor) -> Tensor:
        out = leases.new_image(tuple(x.shape), x.stride())
        self._forward.run({"x": x.data_ptr(), "out": out.data_ptr()})
        return out

    def backward(self, x: Tensor, dy: Tensor) -> Tensor:
        if not are_plain(x, dy) or not self._is_as_planned(x) or x.shape != dy.shape:
            return _by_torch(x, dy, self.problem.activation)
        if dy.is_neg() or not same_strides(x.shape, x.stride(), dy.stride()):
            dy = torch.empty_like(x).copy_(dy)
        dx = leases.new_image(tuple(x.shape), x.stride())
        self._backward.run({"x": dy.data_ptr(), "operand_0": x.data_ptr(), "out": dx.data_ptr()})
        return dx

    def _is_as_planned(self, x: Tensor) -> bool:
        """Hooks on what autograd saves may give back another tensor."""
        return x.numel() == self.problem.elements and is_dense(x) and not x.is_neg()


def activated(x: Tensor, activation: Activation) -> Activated | None:
    """What runs an activation of as many elements as dense `x` has; None where the code for it could not be made."""
    problem = ActivationProblem(x.numel(), activation)

    def make() -> Activated | None:
        programs = [make(problem, machine(), threads.team_size()) for make in (forward_program, backward_program)]
        if not all(map(compiles, programs)):
            return None
        return Activated(problem, *(Bound(program, 0.001 + 4e-8 * problem.elements) for program in programs))

    return calls.bound(("activation", problem, threads.team_size()), make)


def is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activated: Activated) -> Tensor:
        ctx.save_for_backward(x)
        ctx.activated = activated
        return activated.forward(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.activated.backward(x, dy), None


def _by_torch(x: Tensor, dy: Tensor, activation: Activation) -> Tensor:
    """The same gradient by torch's operators, which have derivatives of their own."""
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        given = x.view_as(x)
        (dx,) = torch.autograd.grad(activate(given, activation), given, dy, create_graph=further)
    return dx
