"""A convolution to measure: a row of a network's list, and the tensors it runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor

from ..backends.problem import Operation
from ..cost import SeparableCost, separable_cost
from ..functional import ActivationName
from ..geometry import Geometry, IntOrTuple, Padding, geometry

LAYOUTS = ("channels_last", "contiguous")


@dataclass(frozen=True, slots=True)
class Case:
    """One layer of a network, as its functional form computes it.

    geometry:             separable where it has out_channels, depthwise alone otherwise
    depthwise_activation: between the steps; of a depthwise convolution alone, what follows it
    count:                how often the network has this layer
    """

    network: str
    geometry: Geometry
    batch: int = 1
    depthwise_activation: ActivationName = None
    pointwise_activation: ActivationName = None
    residual: bool = False
    count: int = 1

    @property
    def operation(self) -> Operation:
        return "depthwise" if self.geometry.out_channels is None else "separable"

    @property
    def cost(self) -> SeparableCost:
        """A separable case's cost for one sample, and that of the dense convolution it stands for; biases left out."""
        return separable_cost(self.geometry)

    @property
    def has_depthwise_bias(self) -> bool:
        """Whether the depthwise step has a bias: with nothing between the steps it would be the pointwise one's."""
        return self.operation == "depthwise" or self.depthwise_activation is not None

    @property
    def name(self) -> str:
        """What tells the layer from the others of its network.

        >>> Case("", geometry((32, 112, 112), 3, stride=2, padding=1, out_channels=64), residual=True).name
        '3x3 s2 32→64 @112x112 +residual'
        """
        g = self.geometry
        parts = [
            _per_axis(g.kernel_size, "x"),
            *(["s" + _per_axis(g.stride)] if max(g.stride) > 1 else []),
            *(["d" + _per_axis(g.dilation)] if max(g.dilation) > 1 else []),
            f"{g.in_channels}" if self.operation == "depthwise" else f"{g.in_channels}→{g.out_channels}",
            *([f"multiplier {g.depth_multiplier}"] if g.depth_multiplier > 1 else []),
            "@" + _per_axis(g.input_size[1:], "x"),
            *([f"batch {self.batch}"] if self.batch > 1 else []),
            *(["+residual"] if self.residual else []),
        ]
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Tensors:
    """What a case reads; the pointwise ones are None for a depthwise convolution alone, others None where absent."""

    x: Tensor
    depthwise_weight: Tensor
    depthwise_bias: Tensor | None
    pointwise_weight: Tensor | None
    pointwise_bias: Tensor | None
    residual: Tensor | None

    def each(self, change: Callable[[Tensor], Tensor]) -> Tensors:
        """The same with `change` applied to every tensor."""
        values: dict[str, Tensor | None] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in values.items() if value is not None})

    def laid_out(self, layout: str) -> Tensors:
        """The same with the input and the residual in this layout; weights stay as they are."""
        residual = None if self.residual is None else laid_out(self.residual, layout)
        return replace(self, x=laid_out(self.x, layout), residual=residual)

    def sample(self, number: int) -> Tensors:
        """One sample of the batch, with all weights."""
        one = slice(number, number + 1)
        return replace(self, x=self.x[one], residual=None if self.residual is None else self.residual[one])


def tensors_of(case: Case, seed: int = 0) -> Tensors:
    """Random normal tensors, float32 and contiguous; weights scaled so that outputs are about as large as inputs."""
    g = case.geometry
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    filters, taps = g.depthwise_channels, g.kernel_area
    separable = g.out_channels is not None
    per_sum = filters // g.groups
    return Tensors(
        x=draw(case.batch, *g.input_size),
        depthwise_weight=draw(filters, 1, *g.kernel_size, scale=taps**-0.5),
        depthwise_bias=draw(filters) if case.has_depthwise_bias else None,
        pointwise_weight=draw(g.output_size[0], per_sum, *(1,) * g.rank, scale=per_sum**-0.5) if separable else None,
        pointwise_bias=draw(g.output_size[0]) if separable else None,
        residual=draw(case.batch, *g.output_size) if case.residual else None,
    )


def laid_out(x: Tensor, layout: str) -> Tensor:
    """`x`, (batch, channels, *spatial), with its channels last in memory or its rows; in one dimension too.

    >>> laid_out(torch.ones(1, 8, 4), "channels_last").stride()
    (32, 1, 8)
    """
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if layout == "channels_last" else x.contiguous()


def layer(
    network: str,
    input_size: tuple[int, ...],
    kernel_size: int,
    *,
    out: int | None = None,
    stride: IntOrTuple = 1,
    padding: Padding | None = None,
    dilation: int = 1,
    multiplier: int = 1,
    batch: int = 1,
    act: ActivationName = None,
    out_act: ActivationName = None,
    residual: bool = False,
    count: int = 1,
) -> Case:
    """A case from its numbers; without `padding`, (kernel_size - 1) · dilation / 2 on both ends."""
    if padding is None:
        padding = dilation * (kernel_size - 1) // 2
    g = geometry(input_size, kernel_size, stride, padding, dilation, depth_multiplier=multiplier, out_channels=out)
    return Case(network, g, batch, act, out_act, residual, count)


# MobileNets, arXiv 1704.04861, table 1, at 224: batch norms are folded into the biases.
_v1 = partial(layer, "MobileNetV1", kernel_size=3, act="relu6", out_act="relu6")
MOBILENET_V1 = (
    _v1((32, 112, 112), out=64),
    _v1((64, 112, 112), out=128, stride=2),
    _v1((128, 56, 56), out=128),
    _v1((128, 56, 56), out=256, stride=2),
    _v1((256, 28, 28), out=256),
    _v1((256, 28, 28), out=512, stride=2),
    _v1((512, 14, 14), out=512, count=5),
    _v1((512, 14, 14), out=1024, stride=2),
    _v1((1024, 7, 7), out=1024),
)


def _per_axis(values: tuple[int, ...], joint: str = "") -> str:
    """'2' where all are 2 and no joint is asked for, else each: '1x2x2'."""
    if not joint and len(set(values)) == 1:
        return str(values[0])
    return (joint or "x").join(str(value) for value in values)
