"""The ways a layer can be computed: dense, depthwise first with a multiplier, pointwise first; and what each costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

from torch.nn.modules.conv import _ConvNd

Order = Literal["dense", "depthwise first", "pointwise first"]


@dataclass(frozen=True, slots=True)
class Form:
    """One way to compute a layer; `multiplications` are those of one sample."""

    order: Order
    multiplier: int
    multiplications: int

    def __str__(self) -> str:
        return f"{self.order}, multiplier {self.multiplier}" if self.order == "depthwise first" else self.order


@dataclass(frozen=True, slots=True)
class Option:
    """A form of a layer, and what it would cost alone: the relative error in the layer's output, norms.

    arriving: the squared relative error at the network's output; None where no data showed it
    """

    form: Form
    error: float
    arriving: float | None = None


@dataclass(frozen=True, slots=True)
class Positions:
    """How often a layer's kernel is applied for one sample, over all its calls, and pixels that it reads."""

    outputs: int
    inputs: int


def dense_form(conv: _ConvNd, positions: Positions) -> Form:
    """The form a layer has.

    >>> from torch import nn
    >>> dense_form(nn.Conv2d(3, 128, 3), Positions(outputs=25, inputs=49)).multiplications
    86400
    """
    terms = conv.in_channels // conv.groups * prod(conv.kernel_size)
    return Form("dense", 1, positions.outputs * conv.out_channels * terms)


def cheaper_forms(conv: _ConvNd, positions: Positions) -> Iterator[Form]:
    """Every separable form with fewer multiplications than the dense one, the cheapest first of each order.

    >>> from torch import nn
    >>> forms = cheaper_forms(nn.Conv2d(3, 128, 3), Positions(outputs=25, inputs=49))
    >>> [(form.order, form.multiplier, form.multiplications) for form in forms][:3]
    [('depthwise first', 1, 10275), ('depthwise first', 2, 20550), ('depthwise first', 3, 30825)]
    """
    dense = dense_form(conv, positions).multiplications
    area = prod(conv.kernel_size)
    mixing = conv.out_channels * conv.in_channels // conv.groups
    once = positions.outputs * (conv.in_channels * area + mixing)
    for multiplier in range(1, 1 + min(conv.out_channels // conv.groups, area)):
        if multiplier * once < dense:
            yield Form("depthwise first", multiplier, multiplier * once)
    blueprint = positions.inputs * mixing + positions.outputs * conv.out_channels * area
    if blueprint < dense:
        yield Form("pointwise first", 1, blueprint)
