"""Squeeze-excite for autograd: the means of images, and their product with factors made of these, on kernels of ours.

What lies between is whoever's. The product gives the gradient of the images, and that of the means is added to it where
it lies: nobody else has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import calls
from ..tensors import are_plain, is_foreign, is_listened_to, why_not_memory
from .launch import compiles, machine
from .lower.gates import GateProblem, gradient_program, means_program, product_program, sum_program
from .machine import FLOAT_BYTES
from .run import leases, memory, threads
from .run.bound import Bound
from .run.program import Program

_LAST = torch.channels_last


class Gate:
    """Both ends of a squeeze-excite on channels-last images of one size.

    No numbers of a call are in it.
    """

    def __init__(self, size: tuple[int, ...], programs: dict[str, Program]) -> None:
        batch, channels, height, width = size
        self._size, self._pixels = size, height * width
        self._strides = height * width * channels, 1, width * channels, channels
        self._row_size = batch, channels, 1, 1
        most_seconds = 0.001 + 8 * FLOAT_BYTES * batch * channels * self._pixels / 1e9
        self._bound = {name: Bound(program, most_seconds) for name, program in programs.items()}

    def squeeze(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The means of each image's channels, (batch, channels, 1, 1), and `x` for `excite`."""
        found: tuple[Tensor, Tensor] = _Squeezed.apply(x, self)  # type: ignore[no-untyped-call]
        return found

    def excite(self, x: Tensor, factors: Tensor) -> Tensor:
        """The product of `x`, as `squeeze` gave it, and factors, (batch, channels, 1, 1)."""
        if (
            is_listened_to()
            or is_foreign(factors)
            or not self._are_rows(factors)
            or why_not_memory(factors) is not None
        ):
            return x * factors
        out: Tensor = _Excited.apply(x, factors, self)  # type: ignore[no-untyped-call]
        return out

    def means(self, x: Tensor) -> Tensor:
        out = self._new_row()
        self._bound["means"].run({"x": x.data_ptr(), "out": out.data_ptr()})
        return out

    def product(self, x: Tensor, factors: Tensor) -> Tensor:
        out = self._new_image()
        addresses = {"x": x.data_ptr(), "operand_0": factors.data_ptr(), "out": out.data_ptr()}
        self._bound["product"].run(addresses)
        return out

    def gradients(self, x: Tensor, dy: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the product's images and factors."""
        if (
            not are_plain(x, dy, factors)
            or dy.shape != x.shape
            or not self._are_images(x)
            or not self._are_rows(factors)
        ):
            return dy * factors, (dy * x).sum((2, 3), keepdim=True)
        # A gradient that was expanded lies otherwise.
        dy = dy.contiguous(memory_format=_LAST).resolve_neg()
        dx, dfactors = self._new_image(), self._new_row()
        tensors = {"x": x, "dy": dy, "factors": factors, "dx": dx, "factors_gradient": dfactors}
        self._bound["gradient"].run({name: tensor.data_ptr() for name, tensor in tensors.items()})
        return dx, dfactors

    def with_means(self, dx: Tensor, dmeans: Tensor) -> Tensor:
        """The gradient of the images by both ways: in the place of `dx`, which `gradients` made, where it may be."""
        each = dmeans / self._pixels
        if not (are_plain(dx, each) and self._are_images(dx) and self._are_rows(each)):
            return dx + each
        self._bound["sum"].run({"x": dx.data_ptr(), "operand_0": each.data_ptr(), "out": dx.data_ptr()})
        return dx

    def of_means(self, dmeans: Tensor) -> Tensor:
        return (dmeans / self._pixels).expand(self._size)

    def _are_images(self, x: Tensor) -> bool:
        return x.shape == self._size and x.is_contiguous(memory_format=_LAST) and not x.is_neg()

    def _are_rows(self, rows: Tensor) -> bool:
        is_dense = rows.is_contiguous(memory_format=_LAST) or rows.is_contiguous()
        return rows.shape == self._row_size and rows.dtype == torch.float32 and is_dense and not rows.is_neg()

    def _new_image(self) -> Tensor:
        return leases.new_image(self._size, self._strides)

    def _new_row(self) -> Tensor:
        return memory.new_result(self._row_size, (self._row_size[1], 1, 1, 1), torch.float32)


def gate_of(x: Tensor) -> Gate | None:
    """What runs a squeeze-excite of dense channels-last `x`; None where the code for it could not be made."""
    size = tuple(x.shape)

    def make() -> Gate | None:
        problem = GateProblem(size[0], size[2] * size[3], size[1])
        lowered: dict[str, Callable[..., Program]] = {
            "means": means_program,
            "product": product_program,
            "gradient": gradient_program,
            "sum": sum_program,
        }
        programs = {name: make(problem, machine(), threads.team_size()) for name, make in lowered.items()}
        return Gate(size, programs) if all(map(compiles, programs.values())) else None

    return calls.bound(("gate", size, threads.team_size()), make)


class _Squeezed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Gate) -> tuple[Tensor, Tensor]:
        ctx.gate = gate
        ctx.set_materialize_grads(False)
        return gate.means(x), x

    @staticmethod
    def backward(ctx: Any, dmeans: Tensor | None, dx: Tensor | None) -> tuple[Tensor | None, None]:
        if dmeans is None or dx is None:
            return dx if dmeans is None else ctx.gate.of_means(dmeans), None
        return ctx.gate.with_means(dx, dmeans), None


class _Excited(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factors: Tensor, gate: Gate) -> Tensor:
        ctx.save_for_backward(x, factors)
        ctx.gate = gate
        return gate.product(x, factors)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, factors = ctx.saved_tensors
        if all(ctx.needs_input_grad[:2]):
            return *ctx.gate.gradients(x, dy, factors), None
        of_images, _, _ = ctx.needs_input_grad
        return (dy * factors, None, None) if of_images else (None, (dy * x).sum((2, 3), keepdim=True), None)
