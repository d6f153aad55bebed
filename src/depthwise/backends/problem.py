"""What is asked of a backend: one convolution as pure numbers, planned once and known by value, whoever asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from ..errors import DepthwiseError
from ..geometry import Geometry
from .formats import LAST, Strides, suggested_strides, torch_strides
from .tensors import dtype_of, is_foreign, needs_gradient, why_not_memory

if TYPE_CHECKING:
    from .base import Weights

Operation = Literal["depthwise", "separable", "pointwise", "dense"]
Activation = tuple[str, float] | None  # a name of `activations.ACTIVATIONS` and its slope


@dataclass(frozen=True, slots=True)
class Problem:
    """One convolution: everything but the numbers in its tensors.

    batch, strides: of the input; strides None where nothing is known of its layout
    result:         the strides of the result; None: contiguous
    residual:       the strides of what is added to it, or None
    differentiable: a gradient of the result may be asked for
    traced:         the call is being written into a program
    foreign:        which tensor is no plain memory of this process, and what it is instead, or None
    gated:          a pointwise convolution's input is first multiplied by a number for each channel of each image: gate
    summed:         beside its result a depthwise convolution leaves the sums of each row of it: sums
    in_place:       buffers that its result may lie in
    """

    in_place: ClassVar[tuple[str, ...]] = ()

    operation: Operation
    geometry: Geometry
    dtype: torch.dtype
    device: str
    batch: int = 1
    strides: Strides | None = None
    result: Strides | None = None
    activations: tuple[Activation, Activation] = (None, None)
    residual: Strides | None = None
    differentiable: bool = False
    traced: bool = False
    foreign: str | None = None
    gated: bool = False
    summed: bool = False

    @property
    def output_size(self) -> tuple[int, ...]:
        """The shape of the result, its batch included."""
        return self.batch, *self.geometry.output_size

    @property
    def memory_format(self) -> torch.memory_format:
        """That of the result; where its strides say both, as the input lies."""
        last = LAST.get(self.geometry.rank)
        if self.result is None or last is None:
            return torch.contiguous_format
        out = torch.empty_strided(self.output_size, self.result, device="meta")
        is_last = self.strides is not None and self.strides[1] == 1 and out.is_contiguous(memory_format=last)
        return last if is_last or not out.is_contiguous() else torch.contiguous_format


def problem_of(x: Tensor, weights: Weights, g: Geometry, *, in_program: bool = False) -> Problem:
    """What `x`, (batch, *g.input_size), and these weights ask.

    in_program: the result must lie as the program took it to lie that this is a part of
    """
    residual, traced = weights.residual, is_foreign(x)
    tensors = {"x": x, **weights.named, "residual": residual}
    foreign = None if traced or _is_written_down() else _foreign(tensors)
    return Problem(
        weights.operation,
        g,
        dtype_of(x),
        x.device.type,
        batch=x.shape[0],
        strides=None if foreign else x.stride(),
        result=_result(x, weights, g, by_torch=not (traced or foreign or in_program)),
        activations=weights.activations,
        residual=None if residual is None or foreign else residual.stride(),
        differentiable=needs_gradient(tuple(tensors.values())),
        traced=traced,
        foreign=foreign,
    )


def _is_written_down() -> bool:
    """Whether a program is made of the calls, so that a look at a size or a stride would pin it."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def _foreign(tensors: Mapping[str, Tensor | None]) -> str | None:
    found = None
    for name, tensor in tensors.items():
        try:
            why = None if tensor is None else why_not_memory(tensor)
        except DepthwiseError as error:
            raise DepthwiseError(f"{name} {error}") from None
        if why is not None and found is None:
            found = f"{name} is {why}"
    return found


def _result(x: Tensor, weights: Weights, g: Geometry, *, by_torch: bool) -> Strides | None:
    if _is_written_down():
        return None
    if by_torch:
        return torch_strides(x, weights.filters, g, weights.residual)
    try:
        return suggested_strides((x.shape[0], *g.output_size), x, *weights.filters)
    except TypeError:  # symbolic sizes have no hash
        return None
