"""What a backend is asked, and what it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor

from ..geometry import Geometry
from .calls import Prepared
from .problem import Activation as Activation
from .problem import Operation, Problem

if TYPE_CHECKING:
    from .packs import Packs
    from .series import Compiled, Figures, Series


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

    @property
    def named(self) -> dict[str, Tensor | None]:
        return {"weight": self.weight, "bias": self.bias}

    def arguments(self, g: Geometry) -> list[Any]:
        """These tensors and `g` in the order of the operator `depthwise_conv`."""
        return [self.weight, self.bias, *g.window]

    def with_resolved_residual(self) -> DepthwiseTensors:
        return self


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

    def with_resolved_residual(self) -> SeparableTensors:
        """The same, the residual no view that negates."""
        if self.residual is None or not self.residual.is_neg():
            return self
        return replace(self, residual=self.residual.resolve_neg())

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

    @property
    def named(self) -> dict[str, Tensor | None]:
        """The same, by their names in messages."""
        own = ("depthwise_weight", "depthwise_bias", "pointwise_weight", "pointwise_bias")
        named: dict[str, Tensor | None] = {name: getattr(self, name) for name in own}
        for place, norm in zip(("depthwise_norm", "pointwise_norm"), self.norms, strict=True):
            for name in Norm._fields if norm is not None else ():
                if name != "eps":
                    named[f"{place}.{name}"] = getattr(norm, name)
        return named


@dataclass(frozen=True, slots=True)
class PointwiseTensors:
    """What a pointwise convolution alone reads beside its input; its problem's window is one pixel."""

    operation: ClassVar[Operation] = "pointwise"
    norms: ClassVar[tuple[None, None]] = (None, None)

    weight: Tensor
    bias: Tensor | None = None
    activation: Activation = None
    residual: Tensor | None = None

    @property
    def activations(self) -> tuple[Activation, Activation]:
        return None, self.activation

    @property
    def filters(self) -> tuple[Tensor, ...]:
        return (self.weight,)

    @property
    def weights(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.bias

    @property
    def named(self) -> dict[str, Tensor | None]:
        return {"weight": self.weight, "bias": self.bias}

    def with_resolved_residual(self) -> PointwiseTensors:
        """The same, the residual no view that negates."""
        if self.residual is None or not self.residual.is_neg():
            return self
        return replace(self, residual=self.residual.resolve_neg())


class DenseTensors(PointwiseTensors):
    """What a dense convolution reads beside its input, whatever its window."""

    __slots__ = ()
    operation: ClassVar[Operation] = "dense"


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


Weights = DepthwiseTensors | SeparableTensors | PointwiseTensors


class Backend(ABC):
    """One way to run the convolutions."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def refusal(self, problem: Problem) -> str | None:
        """Why this backend does not run `problem`, or None where it does."""

    @abstractmethod
    def run(self, x: Tensor, weights: Weights, problem: Problem) -> Tensor:
        """The convolution of `x`, (batch, *input_size), with its norms, activations and residual."""

    def prepared(self, x: Tensor, weights: Weights, problem: Problem) -> Prepared | None:  # noqa: ARG002
        """What runs calls like this one while the weights stay as they are; None: ask anew each time."""
        return None

    def traced(self, x: Tensor, weights: Weights, problem: Problem) -> Tensor:
        """`run` written into a program that is being traced."""
        return self.run(x, weights, problem)

    @property
    def operators(self) -> Mapping[Operation, Any]:
        """Its own operators in programs that torch compiles; none where `traced` writes torch's."""
        return {}

    def details(self) -> tuple[str, ...]:
        """What else there is to know of it on this machine, a line each."""
        return ()

    def kernel(self, problem: Problem) -> str | None:  # noqa: ARG002  most have no names for what they run
        """The name of what would run `problem`."""
        return None

    def compiled(self, series: Series, packs: Packs) -> Compiled | None:  # noqa: ARG002
        """What runs problems that it does not refuse in one call; None where it cannot.

        packs: what is made of weights, which series of other sizes use too
        """
        return None

    def figures(self, series: Series) -> Figures | None:  # noqa: ARG002
        """What `compiled` would give."""
        return None
