"""Squeeze-excites as layers of a chain, alone or within the pointwise convolution behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch

from ....geometry import Geometry, geometry
from ...formats import Strides
from ...pixels import Elementwise, Term
from ...problem import Activation, Problem
from ..machine import Machine
from ..run.program import Program
from . import activations, gates
from .activations import ActivationProblem
from .elementwise import lower_elementwise
from .fresh import packing_itself
from .gates import GateProblem
from .gradients import lower_gated_gradient, pointwise_input_problem
from .links import ConvNorm, Link, Made, Part, buffers_of, convolution, gradients, known, of_convolution
from .pointwise import scaled_program

# Pixels of an image, for each output channel: what an image's sums are, for each input channel a number for each output
# channel, is written and read again; what that spares is ten passes over the image.
FEWEST_PIXELS = 1 / 3


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
        of, (batch, channels, *_) = buffers_of(number), self.size
        rows = (
            ("means", channels),
            *(("hidden", self.squeezed), ("active", self.squeezed)),
            *(("expanded", channels), ("factors", channels)),
        )
        small = (Made(of(name), (batch, n, 1, 1), (n, 1, n, n)) for name, n in rows)
        return *small, Made(of("out"), *self.reads)

    def forward(self, number: int, source: str) -> Iterator[Part]:
        yield from self.factors(number, source)
        of = buffers_of(number)
        named = {"x": source, "operand_0": of("factors"), "out": of("out")}
        yield (lambda *on: gates.product_program(self.gate, *on)), named

    def factors(self, number: int, source: str) -> Iterator[Part]:
        """What the image is multiplied by."""
        of, (reduce, expand) = buffers_of(number), self._rows
        first, last = self._activated
        yield (lambda *on: gates.means_program(self.gate, *on)), {"x": source, "out": of("means")}
        yield convolution(reduce, bias=True), of_convolution(number, of("means"), of("hidden"), "reduce_")
        yield (lambda *on: activations.forward_program(first, *on)), {"x": of("hidden"), "out": of("active")}
        yield convolution(expand, bias=True), of_convolution(number, of("active"), of("expanded"), "expand_")
        yield (lambda *on: activations.forward_program(last, *on)), {"x": of("expanded"), "out": of("factors")}

    def backward(self, number: int, source: str, dy: str, dx: str | None, *, weights: bool) -> Iterator[Part]:
        of = buffers_of(number)
        if dx is None:
            raise RuntimeError("a squeeze-excite is no chain's first link")
        named = {"x": source, "dy": dy, "factors": of("factors"), "dx": dx, "factors_gradient": of("factors_gradient")}
        yield (lambda *on: gates.gradient_program(self.gate, *on)), named
        yield from self.to_the_means(number, weights=weights)
        named = {"x": dx, "operand_0": of("pixels_gradient"), "out": dx}
        yield (lambda *on: gates.sum_program(self.gate, *on)), named

    def to_the_means(self, number: int, *, weights: bool) -> Iterator[Part]:
        """From the factors' gradients those of the parameters, and of each pixel by way of the means."""
        of, (reduce, expand) = buffers_of(number), self._rows
        first, last = self._activated
        yield _derivative(last, of("factors_gradient"), of("expanded"), of("expanded_gradient"))
        tensors = of("active"), of("expanded_gradient"), of("active_gradient")
        yield from gradients(expand, number, tensors, "expand_", bias=True, weights=weights)
        yield _derivative(first, of("active_gradient"), of("hidden"), of("hidden_gradient"))
        tensors = of("means"), of("hidden_gradient"), of("means_gradient")
        yield from gradients(reduce, number, tensors, "reduce_", bias=True, weights=weights)
        share = Elementwise(1, 1, prod(self.size[:2]), (Term("div", value=self.gate.pixels),))
        named = {"x": of("means_gradient"), "out": of("pixels_gradient")}
        yield (lambda *on: lower_elementwise(share, *on).program), named

    @property
    def _activated(self) -> tuple[ActivationProblem, ActivationProblem]:
        batch, channels, *_ = self.size
        first, last = self.activations
        return ActivationProblem(batch * self.squeezed, first), ActivationProblem(batch * channels, last)

    def between(self, number: int) -> dict[str, int]:
        of, (batch, channels, *_) = buffers_of(number), self.size
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
        of = buffers_of(number)
        yield from self.excite.factors(number, source)
        gated = replace(self.last.convolution, gated=True)
        named = of_convolution(number, source, of("image")) | {"gate": of("factors")}
        yield convolution(gated, bias=False), named
        yield self.last.normalized(number)

    def backward(self, number: int, source: str, dy: str, dx: str | None, *, weights: bool) -> Iterator[Part]:
        of, problem = buffers_of(number), self.last.convolution
        g, batch, given = problem.geometry, problem.batch, of("image_gradient")
        if dx is None:
            raise RuntimeError("a squeeze-excite is no chain's first link")
        yield self.last.to_the_image(number, dy)
        same = {name: of(name) for name in ("weight", "factors", "weight_gradient", "factors_gradient")}
        yield (lambda *on: lower_gated_gradient(g, batch, *on)), {"x": source, "gradient": given} | same
        yield from self.excite.to_the_means(number, weights=weights)
        turned = pointwise_input_problem(g, batch, known(problem.result)).geometry

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


def _row_problem(batch: int, channels: int, outputs: int) -> Problem:
    g: Geometry = geometry((channels, 1, 1), 1, out_channels=outputs)
    strides, result = (channels, 1, channels, channels), (outputs, 1, outputs, outputs)
    return Problem("pointwise", g, torch.float32, "cpu", batch, strides, result)


def _derivative(problem: ActivationProblem, dy: str, given: str, dx: str) -> Part:
    return (lambda *on: activations.backward_program(problem, *on)), {"x": dy, "operand_0": given, "out": dx}
