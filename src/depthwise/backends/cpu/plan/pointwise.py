"""The plan of a pointwise kernel: tiles, their order, what is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from ....geometry import Geometry
from ...base import Activation
from ..machine import Machine
from .product import Product, heights_for, vectors_of
from .sizes import LINE_ELEMENTS, activation_name, weights_stay
from .tuning import Tuning, tuning_of


@dataclass(frozen=True, slots=True)
class PointwisePlan(Product):
    """The constants of a pointwise loop nest: (pixels, in_channels) x (in_channels, out_channels) in each group.

    heights: register tiles are of so many pixels, the most first
    pixels_first: tiles of pixels are the outer loop, panels of weights the inner one
    fetched_lines: of the input that comes next, for each input channel of a panel, where pixels come first; 0: none
    pixel_stride: elements from one pixel to the next of what is multiplied
    result_stride: the same of the result, where other numbers lie between its pixels; else 0
    """

    heights: tuple[int, ...]
    pixels_first: bool
    fetched_lines: int
    pixel_stride: int
    result_stride: int = 0

    @property
    def out_stride(self) -> int:
        return self.result_stride or self.out_channels

    @property
    def name(self) -> str:
        order = "f" if self.pixels_first else ""
        tile = f"m{self.heights[0]}to{self.heights[-1]}x{self.vectors}v{self.lanes}{order}"
        residual = "_residual" if self.residual else ""
        memory = f"a{self.fetched_lines}p{self.pixel_stride}{f'o{self.result_stride}' if self.result_stride else ''}"
        size = f"n{self.out_channels}k{self.in_channels}g{self.groups}"
        return f"{size}_{activation_name(self.activation)}{residual}_{tile}{memory}"


def pointwise_plan(
    g: Geometry, activation: Activation, machine: Machine, *, residual: bool, pixels: int, pixel_stride: int
) -> PointwisePlan:
    """The plan for tiles of a band of `pixels` pixels, `pixel_stride` elements apart."""
    lanes, vectors, count = vectors_of(g, machine)
    tuning = tuning_of(machine)
    heights = heights_for(pixels, vectors, machine)
    return PointwisePlan(
        in_channels=g.depthwise_channels,
        out_channels=g.output_size[0],
        groups=g.groups,
        activation=activation,
        residual=residual,
        lanes=lanes,
        vectors=vectors,
        heights=heights,
        pixels_first=weights_stay(g, machine),
        fetched_lines=_fetched_lines(g, heights[0], ceil(count / vectors), tuning) if weights_stay(g, machine) else 0,
        pixel_stride=pixel_stride,
    )


def usual_heights(g: Geometry, machine: Machine) -> tuple[int, ...]:
    """Of tiles where there are pixels enough."""
    return tuning_of(machine).tiles[vectors_of(g, machine)[1]][0]


def _fetched_lines(g: Geometry, rows: int, panels: int, tuning: Tuning) -> int:
    """Lines for each input channel of a panel that bring a tile's share of the next band's input, or the most of it."""
    lines = rows * g.in_channels * prod(g.stride) / LINE_ELEMENTS
    return min(tuning.most_fetched_lines, ceil(lines / (g.depthwise_channels * panels)))
