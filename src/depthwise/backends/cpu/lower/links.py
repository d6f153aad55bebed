"""Layers of a chain as what its program is made of: what each makes, and its stages forward and backward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

from ...formats import Strides
from ...problem import Problem
from ..emit.norm_forward import STATISTICS
from ..machine import Machine
from ..plan.sizes import least_steps
from ..run.program import Program
from . import lower, norms
from .fresh import packing_itself
from .gradients import (
    InputGradient,
    PointwiseGradient,
    WeightGradient,
    lower_input_gradient,
    lower_pointwise_gradient,
    lower_weight_gradient,
    pointwise_input_problem,
)
from .norms import NormProblem

# What makes a program for a machine and so many threads, and what its buffers are called in the chain.
Part = tuple[Callable[[Machine, int], Program], dict[str, str]]


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor that a link makes: its buffer, how large it is and how it lies."""

    buffer: str
    size: tuple[int, ...]
    strides: Strides


class Link(ABC):
    """A layer of channels-last images: pure numbers.

    parameters: what they are called; the gradient of each is NAME_gradient
    layers:     how many it is
    """

    parameters: ClassVar[tuple[str, ...]]
    layers: ClassVar[int] = 1

    @property
    @abstractmethod
    def label(self) -> str:
        """What it is called where time is told."""

    @property
    @abstractmethod
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Of the parameters."""

    @property
    @abstractmethod
    def reads(self) -> tuple[tuple[int, ...], Strides]:
        """Size and strides of its input."""

    @abstractmethod
    def made(self, number: int) -> tuple[Made, ...]:
        """What the forward pass makes and gradients are made of; the result comes last."""

    @abstractmethod
    def forward(self, number: int, source: str) -> Iterator[Part]:
        """source: the buffer that is read; `residual` is added where there is one"""

    @abstractmethod
    def backward(self, number: int, source: str, dy: str, dx: str | None, *, weights: bool) -> Iterator[Part]:
        """The gradients of its input, at `dx` where that is wanted, and of parameters.

        weights: those of convolutions too
        """

    @abstractmethod
    def between(self, number: int) -> dict[str, int]:
        """The gradients between its parts, and their elements."""


@dataclass(frozen=True, slots=True)
class ConvNorm(Link):
    """A depthwise or pointwise convolution, and the batch norm behind it with its activation.

    bias: the convolution has one
    """

    parameters = ("weight", "bias", "scale", "shift")

    convolution: Problem
    norm: NormProblem
    bias: bool

    @property
    def label(self) -> str:
        g = self.convolution.geometry
        window = "" if self.convolution.operation == "pointwise" else f" {'x'.join(map(str, g.kernel_size))}"
        return f"{self.convolution.operation}{window} {g.in_channels} to {g.output_size[0]}"

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        g = self.convolution.geometry
        in_group = g.in_channels // g.groups if self.convolution.operation == "pointwise" else 1
        filters = g.output_size[0]
        return (filters, in_group, *g.kernel_size), (filters,), (filters,), (filters,)

    @property
    def reads(self) -> tuple[tuple[int, ...], Strides]:
        problem = self.convolution
        return (problem.batch, *problem.geometry.input_size), known(problem.strides)

    def made(self, number: int) -> tuple[Made, ...]:
        size, strides = self.convolution.output_size, known(self.convolution.result)
        of = buffers_of(number)
        return (
            Made(of("image"), size, strides),
            Made(of("statistics"), (STATISTICS, size[1]), (size[1], 1)),
            Made(of("out"), size, strides),
        )

    def forward(self, number: int, source: str) -> Iterator[Part]:
        yield convolution(self.convolution, bias=self.bias), of_convolution(number, source, buffers_of(number)("image"))
        yield self.normalized(number)

    def normalized(self, number: int) -> Part:
        """What comes of the convolution's image."""
        of = buffers_of(number)
        named = {"x": of("image"), "weight": of("scale"), "bias": of("shift"), "residual": "residual"}
        same = {name: of(name) for name in ("statistics", "running_mean", "running_var", "out")}
        return (lambda *on: norms.forward_program(self.norm, *on)), named | same

    def backward(self, number: int, source: str, dy: str, dx: str | None, *, weights: bool) -> Iterator[Part]:
        yield self.to_the_image(number, dy)
        tensors = source, buffers_of(number)("image_gradient"), dx
        yield from gradients(self.convolution, number, tensors, "", self.bias, weights)

    def to_the_image(self, number: int, dy: str) -> Part:
        """The gradients of the convolution's image and of the norm's parameters."""
        of = buffers_of(number)
        # The gradient of what is added is that of the sum.
        norm = replace(self.norm, residual=False)
        named = {"x": of("image"), "dy": dy, "bias": of("shift"), "dx": of("image_gradient")}
        sums = {"weight_gradient": of("scale_gradient"), "bias_gradient": of("shift_gradient")}
        same = {"statistics": of("statistics")}
        return (lambda *on: norms.backward_program(norm, *on, input_gradient=True)), named | sums | same

    def between(self, number: int) -> dict[str, int]:
        return {buffers_of(number)("image_gradient"): prod(self.convolution.output_size)}


def buffer_of(number: int, name: str) -> str:
    return f"{name}{number}"


def buffers_of(number: int) -> Callable[[str], str]:
    return lambda name: buffer_of(number, name)


def known(strides: Strides | None) -> Strides:
    if strides is None:
        raise RuntimeError("a chain is planned for images whose strides are known")
    return strides


def convolution(problem: Problem, *, bias: bool) -> Callable[[Machine, int], Program]:
    def make(machine: Machine, threads: int) -> Program:
        program = lower(problem, machine, threads).program
        return packing_itself(program, problem.geometry, machine, turned=False, bias=bias)

    return make


def of_convolution(number: int, source: str, out: str, prefix: str = "") -> dict[str, str]:
    of = buffers_of(number)
    return {"x": source, "weight": of(f"{prefix}weight"), "bias": of(f"{prefix}bias"), "out": out}


def gradients(
    problem: Problem, number: int, tensors: tuple[str, str, str | None], prefix: str, bias: bool, weights: bool
) -> Iterator[Part]:
    """Those of a convolution; tensors: what it read, the gradient of its result, and where that of its input goes."""
    of, (source, dy, dx) = buffers_of(number), tensors
    if dx is not None:
        named = {"x": dy, "weight": of(f"{prefix}weight"), "out": dx}
        yield (lambda *on: _input_gradient(problem, *on)), named
    if weights:
        sums = {name: of(f"{prefix}{name}") for name in ("weight_gradient", "bias_gradient")}
        yield (lambda *on: _weight_gradient(problem, bias, *on)), {"x": source, "gradient": dy} | sums


def _input_gradient(problem: Problem, machine: Machine, threads: int) -> Program:
    g, batch, strides = least_steps(problem.geometry), problem.batch, known(problem.result)
    if problem.operation == "pointwise":
        turned = pointwise_input_problem(g, batch, strides)
        return packing_itself(
            lower(turned, machine, threads).program, turned.geometry, machine, turned=True, bias=False
        )
    return lower_input_gradient(InputGradient(g, batch, strides, planar=False), machine, threads)


def _weight_gradient(problem: Problem, bias: bool, machine: Machine, threads: int) -> Program:
    g, batch, strides = least_steps(problem.geometry), problem.batch, known(problem.strides)
    if problem.operation == "pointwise":
        return lower_pointwise_gradient(PointwiseGradient(g, batch, bias), machine, threads)
    return lower_weight_gradient(WeightGradient(g, batch, strides, planar=False, bias=bias), machine, threads)
