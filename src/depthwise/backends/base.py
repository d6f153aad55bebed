"""What a backend is asked, and what it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..geometry import Geometry

Operation = Literal["depthwise", "separable"]
Activation = tuple[str, float] | None  # a name of `eager.ACTIVATIONS` and its slope
Runner = Callable[[Tensor, Tensor | None], Tensor]  # of an input and a residual like those it was made for


@dataclass(frozen=True, slots=True)
class Call:
    """One convolution as a backend is asked for it: everything but the numbers.

    batch, strides: of the input, strides in elements; None where nothing is known of its layout
    memory_format:  of the result
    differentiable: a gradient of the result may be asked for
    traced:         the call is being written into a program
    """

    operation: Operation
    geometry: Geometry
    dtype: torch.dtype
    device: str
    batch: int = 1
    strides: tuple[int, ...] | None = None
    memory_format: torch.memory_format = torch.contiguous_format
    activations: tuple[Activation, Activation] = (None, None)
    residual: bool = False
    differentiable: bool = False
    traced: bool = False


class Norm(NamedTuple):
    """A batch norm in eval mode; weight and bias are both there or both absent.

    num_batches_tracked: shows by its version that training changed the statistics, whose own versions stay
    """

    running_mean: Tensor
    running_var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    num_batches_tracked: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.running_mean, self.running_var, self.weight, self.bias, self.num_batches_tracked


@dataclass(frozen=True, slots=True)
class DepthwiseTensors:
    """What a depthwise convolution reads beside its input; it answers what `SeparableTensors` does."""

    operation: ClassVar[Operation] = "depthwise"
    activations: ClassVar[tuple[Activation, Activation]] = (None, None)
    norms: ClassVar[tuple[None, None]] = (None, None)
    residual: ClassVar[None] = None

    weight: Tensor
    bias: Tensor | None = None

    @property
    def filters(self) -> tuple[Tensor, ...]:
        return (self.weight,)

    @property
    def weights(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.bias


@dataclass(frozen=True, slots=True)
class SeparableTensors:
    """What a separable convolution reads beside its input."""

    operation: ClassVar[Operation] = "separable"

    depthwise_weight: Tensor
    pointwise_weight: Tensor
    depthwise_bias: Tensor | None = None
    pointwise_bias: Tensor | None = None
    depthwise_activation: Activation = None
    pointwise_activation: Activation = None
    residual: Tensor | None = None
    depthwise_norm: Norm | None = None
    pointwise_norm: Norm | None = None

    def arguments(self, g: Geometry) -> list[Any]:
        """These tensors and `g` in the order of the operator `separable_conv`."""
        return [
            *(self.depthwise_weight, self.pointwise_weight, self.depthwise_bias, self.pointwise_bias, self.residual),
            *(*g.window, g.groups),
            *(self.depthwise_activation or (None, 0.0)),
            *(self.pointwise_activation or (None, 0.0)),
            *_norm_arguments(self.depthwise_norm),
            *_norm_arguments(self.pointwise_norm),
        ]

    @property
    def activations(self) -> tuple[Activation, Activation]:
        return self.depthwise_activation, self.pointwise_activation

    @property
    def norms(self) -> tuple[Norm | None, Norm | None]:
        return self.depthwise_norm, self.pointwise_norm

    @property
    def filters(self) -> tuple[Tensor, ...]:
        """The weights of the convolutions themselves."""
        return self.depthwise_weight, self.pointwise_weight

    @property
    def weights(self) -> tuple[Tensor | None, ...]:
        """Every tensor that stays from call to call."""
        own = self.depthwise_weight, self.depthwise_bias, self.pointwise_weight, self.pointwise_bias
        norms = (norm.tensors for norm in self.norms if norm is not None)
        return tuple(chain(own, *norms))


def norm_of(tensors: Sequence[Tensor] | None, eps: float) -> Norm | None:
    """The inverse of a norm's part of `SeparableTensors.arguments`."""
    if not tensors:
        return None
    mean, var, *rest = tensors
    tracked = rest.pop() if len(rest) % 2 else None
    weight, bias = rest or (None, None)
    return Norm(mean, var, weight, bias, eps, tracked)


def _norm_arguments(norm: Norm | None) -> tuple[list[Tensor] | None, float]:
    return (None, 0.0) if norm is None else ([tensor for tensor in norm.tensors if tensor is not None], norm.eps)


Weights = DepthwiseTensors | SeparableTensors


class Backend(ABC):
    """One way to run the convolutions."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def refusal(self, call: Call) -> str | None:
        """Why this backend does not run `call`, or None where it does."""

    @abstractmethod
    def depthwise(self, x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
        """The depthwise convolution of `x`, (batch, *g.input_size)."""

    @abstractmethod
    def separable(self, x: Tensor, tensors: SeparableTensors, g: Geometry) -> Tensor:
        """The separable convolution of `x`, (batch, *g.input_size), with its norms, activations and residual."""

    def details(self) -> tuple[str, ...]:
        """What else there is to know of it on this machine, a line each."""
        return ()

    def kernel(self, call: Call) -> str | None:  # noqa: ARG002  most have no names for what they run
        """The name of what would run `call`."""
        return None

    def runner(
        self,
        x: Tensor,  # noqa: ARG002
        weights: Weights,  # noqa: ARG002
        g: Geometry,  # noqa: ARG002
    ) -> Runner | None:
        """What runs calls like this one, without asking again, while the weights stay as they are; None: ask."""
        return None

    def traced_depthwise(self, x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
        """`depthwise` written into a program that is being traced."""
        return self.depthwise(x, weight, bias, g)

    def traced_separable(self, x: Tensor, tensors: SeparableTensors, g: Geometry) -> Tensor:
        """`separable` written into a program that is being traced."""
        return self.separable(x, tensors, g)
