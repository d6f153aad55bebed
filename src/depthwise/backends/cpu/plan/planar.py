"""A pointwise convolution of planes: vectors are pixels, and every result goes where its plane lies."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ....geometry import Geometry
from ...base import Activation
from ..machine import FLOAT_BYTES, Machine
from .cut import Cut
from .product import Grouped
from .sizes import activation_name, moved_bytes
from .tuning import tuning_of

# Vectors of a tile; of few output channels more, so that there are sums enough side by side.
VECTORS, VECTORS_OF_FEW = 2, 4
# Multiply-adds that take as long as a number's way from pixels to its plane: of a result, and in scratch memory.
MACS_TO_PLANES, MACS_TO_SCRATCH = 8, 2
# Times the size of L2 that the depthwise result is at most, unless the result is much more.
MOST_BETWEEN = 4


@dataclass(frozen=True, slots=True)
class PlanarPlan(Grouped):
    """(out_channels, in_channels) x (in_channels, pixels) in each group.

    lanes, vectors, rows: register tiles are of at most `rows` output channels x `vectors` vectors of `lanes` pixels
    """

    rows: int

    @property
    def name(self) -> str:
        residual = "_residual" if self.residual else ""
        size = f"n{self.out_channels}k{self.in_channels}g{self.groups}"
        return f"{size}_{activation_name(self.activation)}{residual}_r{self.rows}x{self.vectors}v{self.lanes}"

    @property
    def packing(self) -> tuple[object, ...]:
        return ("rows",)

    @property
    def tiles(self) -> tuple[tuple[int, int, int], ...]:
        """Of a group's outputs, as few as there can be, of even heights: runs of (first, rows, how many)."""
        count = -(-self.group_outputs // self.rows)
        height, taller = divmod(self.group_outputs, count)
        runs = (0, height + 1, taller), (taller * (height + 1), height, count - taller)
        return tuple(run for run in runs if run[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanarBands(Cut):
    """Images are dealt out, and in each bands of its pixels.

    image_pixels: of one
    bands:        runs of an image's neighbouring pixels, whose inputs stay in L2 while all outputs are computed
    fetch_out:    1 where the place of the results is fetched ahead, or 0
    """

    image_pixels: int
    bands: int
    fetch_out: int


def planar_plan(g: Geometry, activation: Activation, machine: Machine, *, residual: bool) -> PlanarPlan:
    outputs = g.output_size[0] // g.groups
    # Their sums, a row of vectors and a weight fit the registers.
    are_few = outputs <= VECTORS_OF_FEW and (outputs + 1) * VECTORS_OF_FEW < machine.vector_registers
    return PlanarPlan(
        in_channels=g.depthwise_channels,
        out_channels=g.output_size[0],
        groups=g.groups,
        activation=activation,
        residual=residual,
        lanes=machine.vector_lanes,
        vectors=VECTORS_OF_FEW if are_few else VECTORS,
        rows=outputs if are_few else tuning_of(machine).tiles[VECTORS][0][0],
    )


def planar_cut(g: Geometry, batch: int, machine: Machine, threads: int, plan: PlanarPlan) -> PlanarBands:
    pixels, tile = prod(g.out_spatial), plan.lanes * plan.vectors
    target = max(8 * tile, machine.l2_bytes // 2 // (FLOAT_BYTES * g.depthwise_channels))
    tiles = -(-pixels // tile)
    fewest = min(tiles, max(-(-pixels // target), -(-threads // batch)))
    bands = next((n for n in range(fewest, tiles + 1) if n * batch % threads == 0), fewest)
    is_far = moved_bytes(g, batch) > machine.l2_bytes
    return PlanarBands(threads=threads, image_pixels=pixels, bands=bands, fetch_out=int(is_far))


def runs_planar(g: Geometry, batch: int, machine: Machine, *, is_direct: bool) -> bool:
    """Whether the pointwise step of a contiguous result is computed of planes.

    is_direct: the depthwise result comes in planes; else it is transposed, as the result would be
    """
    lanes, pixels = machine.vector_lanes, prod(g.out_spatial)
    between = FLOAT_BYTES * batch * g.depthwise_channels * pixels
    if between > MOST_BETWEEN * machine.l2_bytes and g.output_size[0] < 2 * g.depthwise_channels:
        return False
    done = -(-pixels // lanes) * lanes
    in_vain = (done / pixels - 1) * g.depthwise_channels / g.groups
    transposed = 0 if is_direct else MACS_TO_SCRATCH * g.depthwise_channels / g.output_size[0]
    return pixels >= lanes and in_vain + transposed <= MACS_TO_PLANES
