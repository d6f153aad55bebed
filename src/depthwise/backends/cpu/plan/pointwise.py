"""The plan of a pointwise kernel: tiles, their order, what is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from ....geometry import Geometry
from ...base import Activation
from ..machine import Machine
from .sizes import LINE_ELEMENTS, activation_name, lanes_below, weights_stay
from .tuning import Tuning, tuning_of


@dataclass(frozen=True, slots=True)
class PointwisePlan:
    """The constants of a pointwise loop nest: (pixels, in_channels) x (in_channels, out_channels) in each group.

    lanes, vectors, heights: register tiles are so many pixels, the most first, x `vectors` vectors of `lanes` channels
    pixels_first: tiles of pixels are the outer loop, panels of weights the inner one
    fetched_lines: of the next band's input, for each input channel of a panel; where pixels come first
    pixel_stride: elements from one pixel to the next of what is multiplied
    """

    in_channels: int
    out_channels: int
    groups: int
    activation: Activation
    residual: bool
    lanes: int
    vectors: int
    heights: tuple[int, ...]
    pixels_first: bool
    fetched_lines: int
    pixel_stride: int

    @property
    def name(self) -> str:
        order = "f" if self.pixels_first else ""
        tile = f"m{self.heights[0]}to{self.heights[-1]}x{self.vectors}v{self.lanes}{order}"
        residual = "_residual" if self.residual else ""
        memory = f"a{self.fetched_lines}p{self.pixel_stride}"
        size = f"n{self.out_channels}k{self.in_channels}g{self.groups}"
        return f"{size}_{activation_name(self.activation)}{residual}_{tile}{memory}"

    @property
    def packing(self) -> tuple[int, ...]:
        """What the order of its packed weights goes by."""
        return self.groups, self.lanes, self.vectors

    @property
    def group_inputs(self) -> int:
        return self.in_channels // self.groups

    @property
    def group_outputs(self) -> int:
        return self.out_channels // self.groups

    @property
    def group_vectors(self) -> int:
        """Vectors of a group; the last overlaps the one before it where channels do not fill it."""
        return -(-self.group_outputs // self.lanes)

    @property
    def full_panels(self) -> int:
        return self.group_vectors // self.vectors

    @property
    def rest_vectors(self) -> int:
        """Vectors of the panel after the full ones, 0 where there is none."""
        return self.group_vectors % self.vectors

    @property
    def panels(self) -> int:
        return self.groups * (self.full_panels + (self.rest_vectors > 0))


def pointwise_plan(
    g: Geometry, activation: Activation, machine: Machine, *, residual: bool, pixels: int, pixel_stride: int
) -> PointwisePlan:
    """The plan for tiles of a band of `pixels` pixels, `pixel_stride` elements apart."""
    lanes, vectors, count = _vectors(g, machine)
    tuning = tuning_of(machine)
    usual, few = tuning.tiles[vectors][0], tuning.tiles[vectors][-1]
    heights = usual if pixels >= usual[-1] and in_vain(pixels, usual) <= tuning.pixels_in_vain * pixels else few
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
    return tuning_of(machine).tiles[_vectors(g, machine)[1]][0]


def _vectors(g: Geometry, machine: Machine) -> tuple[int, int, int]:
    """Lanes of a vector, vectors of a tile and of a group."""
    outputs, tuning = g.output_size[0] // g.groups, tuning_of(machine)
    lanes, narrow = (lanes_below(outputs, most) for most in (machine.vector_lanes, machine.narrow_lanes))
    if _whole(outputs, narrow) <= (1 - tuning.lanes_in_vain) * _whole(outputs, lanes):
        lanes = narrow
    count = -(-outputs // lanes)
    vectors = 2 if count % 2 == 0 else next((n for n in (3, 5) if n in tuning.tiles and count % n == 0), min(count, 2))
    return lanes, vectors, count


def _whole(channels: int, lanes: int) -> int:
    """Channels, some of them twice, in whole vectors."""
    return -(-channels // lanes) * lanes


def _fetched_lines(g: Geometry, rows: int, panels: int, tuning: Tuning) -> int:
    """Lines for each input channel of a panel that bring a tile's share of the next band's input, or the most of it."""
    lines = rows * g.in_channels * prod(g.stride) / LINE_ELEMENTS
    return min(tuning.most_fetched_lines, ceil(lines / (g.depthwise_channels * panels)))


def in_vain(pixels: int, heights: tuple[int, ...]) -> int:
    """Pixels done twice where they are cut into tiles of two neighbouring heights, or of the least one."""
    tiles = -(-pixels // heights[0])
    return 0 if pixels >= tiles * heights[-1] else -(-pixels // heights[-1]) * heights[-1] - pixels
