"""Layers one after another as one program forward and one backward: convolutions with batch norms, squeeze-excites.

The stages are those of each part alone, so the numbers are the same; a gradient between two parts is memory of the
program's own. A buffer of a link is called by its number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from typing import ClassVar

import torch

from ....geometry import Geometry, geometry
from ...formats import Strides
from ...pixels import Elementwise, Term
from ...problem import Activation, Problem
from ..emit.norm_forward import STATISTICS
from ..machine import Machine
from ..plan.sizes import least_steps
from ..run.program import Program, Stage
from . import activations, gates, lower, norms
from .activations import ActivationProblem
from .elementwise import lower_elementwise
from .fresh import packing_itself
from .gates import GateProblem
from .gradients import (
    InputGradient,
    PointwiseGradient,
    WeightGradient,
    lower_gated_gradient,
    lower_input_gradient,
    lower_pointwise_gradient,
    lower_weight_gradient,
    pointwise_input_problem,
)
from .norms import NormProblem
from .pointwise import scaled_program

# Of an image, for each output channel of a gated convolution: for each input channel the sums of an image are a number
# for each output channel, written and read again, and what they spare is ten passes over the image.
FEWEST_PIXELS = 1 / 3

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
        return (problem.batch, *problem.geometry.input_size), _known(problem.strides)

    def made(self, number: int) -> tuple[Made, ...]:
        size, strides = self.convolution.output_size, _known(self.convolution.result)
        of = _named(number)
        return (
            Made(of("image"), size, strides),
            Made(of("statistics"), (STATISTICS, size[1]), (size[1], 1)),
            Made(of("out"), size, strides),
        )

    def forward(self, number: int, source: str) -> Iterator[Part]:
        yield _convolution(self.convolution, bias=self.bias), _of_convolution(number, source, _named(number)("image"))
        yield self.normalized(number)

    def normalized(self, number: int) -> Part:
        """What comes of the convolution's image."""
        of = _named(number)
        named = {"x": of("image"), "weight": of("scale"), "bias": of("shift"), "residual": "residual"}
        same = {name: of(name) for name in ("statistics", "running_mean", "running_var", "out")}
        return (lambda *on: norms.forward_program(self.norm, *on)), named | same

    def backward(self, number: int, source: str, dy: str, dx: str | None, *, weights: bool) -> Iterator[Part]:
        yield self.to_the_image(number, dy)
        tensors = source, _named(number)("image_gradient"), dx
        yield from _gradients(self.convolution, number, tensors, "", self.bias, weights)

    def to_the_image(self, number: int, dy: str) -> Part:
        """The gradients of the convolution's image and of the norm's parameters."""
        of = _named(number)
        # The gradient of what is added is that of the sum.
        norm = replace(self.norm, residual=False)
        named = {"x": of("image"), "dy": dy, "bias": of("shift"), "dx": of("image_gradient")}
        sums = {"weight_gradient": of("scale_gradient"), "bias_gradient": of("shift_gradient")}
        same = {"statistics": of("statistics")}
        return (lambda *on: norms.backward_program(norm, *on, input_gradient=True)), named | sums | same

    def between(self, number: int) -> dict[str, int]:
        return {_named(number)("image_gradient"): prod(self.convolution.output_size)}


@dataclass(frozen=True, slots=True)
class SqueezeExcite(Link):
    """An image times factors of its channels, made of their means by two pointwise convolutions with biases.

    squeezed:    channels between the two
    activations: after each
    """

    parameters = ("reduce_weight", "reduce_bias", "expand_weight", "expand_bias")

    size: tuple[int, ...]
    squeezed: int
    activations: tuple[Activation, Activation]

    @property
    def label(self) -> str:
        return f"squeeze-excite {self.size[1]}"

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        channels, squeezed = self.size[1], self.squeezed
        return (squeezed, channels, 1, 1), (squeezed,), (channels, squeezed, 1, 1), (channels,)

    @property
    def reads(self) -> tuple[tuple[int, ...], Strides]:
        _, channels, height, width = self.size
        return self.size, (height * width * channels, 1, width * channels, channels)

    @property
    def gate(self) -> GateProblem:
        batch, channels, height, width = self.size
        return GateProblem(batch, height * width, channels)

    @property
    def _rows(self) -> tuple[Problem, Problem]:
        """Both convolutions: of images of one pixel."""
        widths = (self.size[1], self.squeezed), (self.squeezed, self.size[1])
        return tuple(_row_problem(self.size[0], *each) for each in widths)  # type: ignore[return-value]

    def made(self, number: int) -> tuple[Made, ...]:
        of, (batch, channels, *_) = _named(number), self.size
        rows = (
            ("means", channels),
            *(("hidden", self.squeezed), ("active", self.squeezed)),
            *(("expanded", channels), ("factors", channels)),
        )
        small = (Made(of(name), (batch, n, 1, 1), (n, 1, n, n)) for name, n in rows)
        return *small, Made(of("out"), *self.reads)

    def forward(self, number: int, source: str) -> Iterator[Part]:
        yield from self.factors(number, source)
        of = _named(number)
        named = {"x": source, "operand_0": of("factors"), "out": of("out")}
        yield (lambda *on: gates.product_program(self.gate, *on)), named

    def factors(self, number: int, source: str) -> Iterator[Part]:
        """What the image is multiplied by."""
        of, (reduce, expand) = _named(number), self._rows
        first, last = self._activated
        yield (lambda *on: gates.means_program(self.gate, *on)), {"x": source, "out": of("means")}
        yield _convolution(reduce, bias=True), _of_convolution(number, of("means"), of("hidden"), "reduce_")
        yield (lambda *on: activations.forward_program(first, *on)), {"x": of("hidden"), "out": of("active")}
        yield _convolution(expand, bias=True), _of_convolution(number, of("active"), of("expanded"), "expand_")
        yield (lambda *on: activations.forward_program(last, *on)), {"x": of("expanded"), "out": of("factors")}

    def backward(self, number: int, source: str, dy: str, dx: str | None, *, weights: bool) -> Iterator[Part]:
        of = _named(number)
        if dx is None:
            raise RuntimeError("a squeeze-excite is no chain's first link")
        named = {"x": source, "dy": dy, "factors": of("factors"), "dx": dx, "factors_gradient": of("factors_gradient")}
        yield (lambda *on: gates.gradient_program(self.gate, *on)), named
        yield from self.to_the_means(number, weights=weights)
        named = {"x": dx, "operand_0": of("pixels_gradient"), "out": dx}
        yield (lambda *on: gates.sum_program(self.gate, *on)), named

    def to_the_means(self, number: int, *, weights: bool) -> Iterator[Part]:
        """From the factors' gradients those of the parameters, and of each pixel by way of the means."""
        of, (reduce, expand) = _named(number), self._rows
        first, last = self._activated
        yield _derivative(last, of("factors_gradient"), of("expanded"), of("expanded_gradient"))
        tensors = of("active"), of("expanded_gradient"), of("active_gradient")
        yield from _gradients(expand, number, tensors, "expand_", bias=True, weights=weights)
        yield _derivative(first, of("active_gradient"), of("hidden"), of("hidden_gradient"))
        tensors = of("means"), of("hidden_gradient"), of("means_gradient")
        yield from _gradients(reduce, number, tensors, "reduce_", bias=True, weights=weights)
        share = Elementwise(1, 1, prod(self.size[:2]), (Term("div", value=self.gate.pixels),))
        named = {"x": of("means_gradient"), "out": of("pixels_gradient")}
        yield (lambda *on: lower_elementwise(share, *on).program), named

    @property
    def _activated(self) -> tuple[ActivationProblem, ActivationProblem]:
        batch, channels, *_ = self.size
        first, last = self.activations
        return ActivationProblem(batch * self.squeezed, first), ActivationProblem(batch * channels, last)

    def between(self, number: int) -> dict[str, int]:
        of, (batch, channels, *_) = _named(number), self.size
        wide = ("factors_gradient", "expanded_gradient", "means_gradient", "pixels_gradient")
        narrow = ("active_gradient", "hidden_gradient")
        return dict.fromkeys(map(of, wide), batch * channels) | dict.fromkeys(map(of, narrow), batch * self.squeezed)


@dataclass(frozen=True, slots=True)
class GatedConvNorm(Link):
    """A squeeze-excite and the pointwise convolution behind it, with its norm: the image between them is nowhere.

    The convolution's weights are multiplied by the factors, image by image, and so are its gradients: those of the
    factors come of the sums that the weights' are made of.
    """

    parameters = (*SqueezeExcite.parameters, *ConvNorm.parameters)
    layers = 2

    excite: SqueezeExcite
    last: ConvNorm

    @property
    def label(self) -> str:
        return f"{self.excite.label}, {self.last.label}"

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        return *self.excite.sizes, *self.last.sizes

    @property
    def reads(self) -> tuple[tuple[int, ...], Strides]:
        return self.excite.reads

    def made(self, number: int) -> tuple[Made, ...]:
        return *self.excite.made(number)[:-1], *self.last.made(number)

    def forward(self, number: int, source: str) -> Iterator[Part]:
        of = _named(number)
        yield from self.excite.factors(number, source)
        gated = replace(self.last.convolution, gated=True)
        named = _of_convolution(number, source, of("image")) | {"gate": of("factors")}
        yield _convolution(gated, bias=False), named
        yield self.last.normalized(number)

    def backward(self, number: int, source: str, dy: str, dx: str | None, *, weights: bool) -> Iterator[Part]:
        of, problem = _named(number), self.last.convolution
        g, batch, given = problem.geometry, problem.batch, of("image_gradient")
        if dx is None:
            raise RuntimeError("a squeeze-excite is no chain's first link")
        yield self.last.to_the_image(number, dy)
        same = {name: of(name) for name in ("weight", "factors", "weight_gradient", "factors_gradient")}
        yield (lambda *on: lower_gated_gradient(g, batch, *on)), {"x": source, "gradient": given} | same
        yield from self.excite.to_the_means(number, weights=weights)
        turned = pointwise_input_problem(g, batch, _known(problem.result)).geometry

        def scaled(machine: Machine, threads: int) -> Program:
            program = scaled_program(turned, batch, machine, threads)
            return packing_itself(program, turned, machine, turned=True, bias=False)

        named = {"x": given, "weight": of("weight"), "scale": of("factors"), "shift": of("pixels_gradient"), "out": dx}
        yield scaled, named

    def between(self, number: int) -> dict[str, int]:
        return self.excite.between(number) | self.last.between(number)


def joined(links: Sequence[Link]) -> tuple[Link, ...]:
    """The same, squeeze-excites with the convolution behind them where that moves less."""
    found: list[Link] = []
    for link in links:
        before = found[-1] if found else None
        if isinstance(before, SqueezeExcite) and isinstance(link, ConvNorm) and _gates(link):
            found[-1] = GatedConvNorm(before, link)
        else:
            found.append(link)
    return tuple(found)


def _gates(link: ConvNorm) -> bool:
    """Whether the factors of the image that it reads are better multiplied into its weights."""
    problem = link.convolution
    g = problem.geometry
    if problem.operation != "pointwise" or g.groups > 1 or link.bias:
        return False
    return prod(g.out_spatial) >= FEWEST_PIXELS * g.output_size[0]


def numbered(links: Sequence[Link]) -> list[tuple[int, Link]]:
    """Each with the number of its last layer."""
    return [*zip((n - 1 for n in accumulate(link.layers for link in links)), links, strict=True)]


def forward_program(links: Sequence[Link], machine: Machine, threads: int) -> Program:
    """Buffers: x, residual, running_mean and running_var of norms, parameters, and all that is made."""
    stages, source = _Stages(machine, threads), "x"
    for number, link in numbered(links):
        stages.add(link.forward(number, source))
        source = link.made(number)[-1].buffer
    return stages.program({})


def backward_program(
    links: Sequence[Link], machine: Machine, threads: int, *, input_gradient: bool, weights: bool
) -> Program:
    """Buffers: x, dy, dx, parameters and their gradients, and all that was made.

    weights: gradients of convolutions' weights and biases, too; those of norms are always there
    """
    stages, between, dy = _Stages(machine, threads), dict[str, int](), "dy"
    order = numbered(links)
    for place in reversed(range(len(order))):
        number, link = order[place]
        source, dx = "x", "dx" if input_gradient else None
        if place:
            earlier, before = order[place - 1]
            made = before.made(earlier)[-1]
            source, dx = made.buffer, f"{made.buffer}_gradient"
            between[dx] = prod(made.size)
        between |= link.between(number)
        stages.add(link.backward(number, source, dy, dx, weights=weights))
        dy = dx or ""
    return stages.program(between)


class _Stages:
    """Those of programs one after another, each with memory of its own."""

    def __init__(self, machine: Machine, threads: int) -> None:
        self._on = machine, threads
        self._stages: list[Stage] = []
        self._between: dict[str, int] = {}
        self._count = 0

    def add(self, parts: Iterator[Part]) -> None:
        for make, buffers in parts:
            program = make(*self._on)
            own = {name: f"#{self._count}.{name}" for name, _ in program.between}
            self._between |= {own[name]: elements for name, elements in program.between}
            self._stages += [stage.renamed(own | buffers) for stage in program.stages]
            self._count += 1

    def program(self, between: Mapping[str, int]) -> Program:
        used = {buffer for stage in self._stages for buffer in stage.pointers.values()}
        known = self._between | {name: n for name, n in between.items() if name in used}
        return Program(tuple(self._stages), tuple(known.items()))


def buffer_of(number: int, name: str) -> str:
    return f"{name}{number}"


def _named(number: int) -> Callable[[str], str]:
    return lambda name: buffer_of(number, name)


def _known(strides: Strides | None) -> Strides:
    if strides is None:
        raise RuntimeError("a chain is planned for images whose strides are known")
    return strides


def _row_problem(batch: int, channels: int, outputs: int) -> Problem:
    g: Geometry = geometry((channels, 1, 1), 1, out_channels=outputs)
    strides, result = (channels, 1, channels, channels), (outputs, 1, outputs, outputs)
    return Problem("pointwise", g, torch.float32, "cpu", batch, strides, result)


def _convolution(problem: Problem, *, bias: bool) -> Callable[[Machine, int], Program]:
    def make(machine: Machine, threads: int) -> Program:
        program = lower(problem, machine, threads).program
        return packing_itself(program, problem.geometry, machine, turned=False, bias=bias)

    return make


def _of_convolution(number: int, source: str, out: str, prefix: str = "") -> dict[str, str]:
    of = _named(number)
    return {"x": source, "weight": of(f"{prefix}weight"), "bias": of(f"{prefix}bias"), "out": out}


def _derivative(problem: ActivationProblem, dy: str, given: str, dx: str) -> Part:
    return (lambda *on: activations.backward_program(problem, *on)), {"x": dy, "operand_0": given, "out": dx}


def _gradients(
    problem: Problem, number: int, tensors: tuple[str, str, str | None], prefix: str, bias: bool, weights: bool
) -> Iterator[Part]:
    """Those of a convolution; tensors: what it read, the gradient of its result, and where that of its input goes."""
    of, (source, dy, dx) = _named(number), tensors
    if dx is not None:
        named = {"x": dy, "weight": of(f"{prefix}weight"), "out": dx}
        yield (lambda *on: _input_gradient(problem, *on)), named
    if weights:
        sums = {name: of(f"{prefix}{name}") for name in ("weight_gradient", "bias_gradient")}
        yield (lambda *on: _weight_gradient(problem, bias, *on)), {"x": source, "gradient": dy} | sums


def _input_gradient(problem: Problem, machine: Machine, threads: int) -> Program:
    g, batch, strides = least_steps(problem.geometry), problem.batch, _known(problem.result)
    if problem.operation == "pointwise":
        turned = pointwise_input_problem(g, batch, strides)
        return packing_itself(
            lower(turned, machine, threads).program, turned.geometry, machine, turned=True, bias=False
        )
    return lower_input_gradient(InputGradient(g, batch, strides, planar=False), machine, threads)


def _weight_gradient(problem: Problem, bias: bool, machine: Machine, threads: int) -> Program:
    g, batch, strides = least_steps(problem.geometry), problem.batch, _known(problem.strides)
    if problem.operation == "pointwise":
        return lower_pointwise_gradient(PointwiseGradient(g, batch, bias), machine, threads)
    return lower_weight_gradient(WeightGradient(g, batch, strides, planar=False, bias=bias), machine, threads)
