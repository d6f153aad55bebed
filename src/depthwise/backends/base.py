"""What a backend is asked, and what it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..geometry import Geometry

Operation = Literal["depthwise", "separable"]
Activation = tuple[str, float] | None  # a name of `eager.ACTIVATIONS` and its slope


@dataclass(frozen=True, slots=True)
class Call:
    """One convolution as a backend is asked for it: everything but the numbers."""

    operation: Operation
    geometry: Geometry
    dtype: torch.dtype
    device: str


@dataclass(frozen=True, slots=True)
class SeparableTensors:
    """What a separable convolution reads beside its input."""

    depthwise_weight: Tensor
    pointwise_weight: Tensor
    depthwise_bias: Tensor | None = None
    pointwise_bias: Tensor | None = None
    depthwise_activation: Activation = None
    pointwise_activation: Activation = None
    residual: Tensor | None = None


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
        """The separable convolution of `x`, (batch, *g.input_size), with its activations and residual."""
