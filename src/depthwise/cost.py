"""What one operation costs: pure arithmetic on sizes.

One multiply-add is 1 MAC. Multiplications and additions are counted apart: a sum of n products is n multiplications
and n - 1 additions, a bias one more. Subtractions count as additions, divisions as multiplications; comparisons,
exponentials and other transcendental functions are not counted, the bytes they move are. Padding is counted as if it
were data, as every counter does.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from .geometry import Geometry


@dataclass(frozen=True, slots=True)
class Cost:
    """What one operation, one layer or one network costs, for one sample.

    macs:            multiply-adds of convolutions and matrix products; FLOPs are 2 x macs
    multiplications: all of them, those of norms and activations included
    additions:       all of them
    parameters:      learned numbers it reads
    bytes_moved:     each input, weight and output once
    """

    macs: int = 0
    multiplications: int = 0
    additions: int = 0
    parameters: int = 0
    bytes_moved: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.macs + other.macs,
            self.multiplications + other.multiplications,
            self.additions + other.additions,
            self.parameters + other.parameters,
            self.bytes_moved + other.bytes_moved,
        )

    @property
    def arithmetic_intensity(self) -> float:
        """FLOPs (2 x macs) per byte moved; 0 where nothing moves."""
        return 2 * self.macs / self.bytes_moved if self.bytes_moved else 0.0


def products_cost(sums: int, terms: int, *, bias: bool, parameters: int = 0, bytes_moved: int = 0) -> Cost:
    """Cost of `sums` sums of `terms` products each: what convolutions and matrix products are made of."""
    macs = sums * terms
    return Cost(macs, macs, macs - sums + sums * bias, parameters, bytes_moved)


def convolution_cost(
    in_channels: int,
    out_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    groups: int = 1,
    *,
    bias: bool = False,
    in_spatial: tuple[int, ...] | None = None,
    item_bytes: int = 4,
) -> Cost:
    """Cost of a convolution to `out_size` = (out_channels, *out_spatial).

    `in_spatial`, the input's spatial size, is needed for bytes_moved alone; without it they are 0.

    >>> convolution_cost(3, (128, 5, 5), (3, 3)).multiplications
    86400
    """
    terms = in_channels // groups * prod(kernel_size)
    parameters = out_size[0] * (terms + bias)
    moved = 0
    if in_spatial is not None:
        moved = item_bytes * (in_channels * prod(in_spatial) + parameters + prod(out_size))
    return products_cost(prod(out_size), terms, bias=bias, parameters=parameters, bytes_moved=moved)


@dataclass(frozen=True, slots=True)
class SeparableCost:
    """A separable convolution's cost, step by step, beside the dense convolution of the same shape."""

    dense: Cost
    depthwise: Cost
    pointwise: Cost

    @property
    def separable(self) -> Cost:
        return self.depthwise + self.pointwise

    @property
    def ratio(self) -> float:
        """Multiplications of the separable form per multiplication of the dense one."""
        return self.separable.multiplications / self.dense.multiplications


def separable_cost(g: Geometry, *, bias: bool = False, item_bytes: int = 4) -> SeparableCost:
    """Cost of a separable convolution, of its two steps, and of the dense convolution it stands for.

    The bias, where there is one, is the pointwise step's. The steps' bytes_moved hold the intermediate twice: it is
    written and read again when they run one after the other.

    >>> from depthwise.geometry import geometry
    >>> cost = separable_cost(geometry((3, 7, 7), 3, out_channels=128))
    >>> cost.depthwise.multiplications, cost.pointwise.multiplications, f"{cost.ratio:.1%}"
    (675, 9600, '11.9%')
    """
    spatial, ones = g.input_size[1:], (1,) * g.rank
    return SeparableCost(
        dense=convolution_cost(
            g.in_channels, g.output_size, g.kernel_size, g.groups, bias=bias, in_spatial=spatial, item_bytes=item_bytes
        ),
        depthwise=convolution_cost(
            g.in_channels, g.depthwise_size, g.kernel_size, g.in_channels, in_spatial=spatial, item_bytes=item_bytes
        ),
        pointwise=convolution_cost(
            g.depthwise_channels,
            g.output_size,
            ones,
            g.groups,
            bias=bias,
            in_spatial=g.out_spatial,
            item_bytes=item_bytes,
        ),
    )


def closed_form_ratio(g: Geometry) -> float:
    """depth_multiplier · (groups / out_channels + 1 / kernel area): the share of the dense multiplications.

    MobileNets, arXiv 1704.04861, section 3.1, there for depth multiplier 1 and one group.

    >>> from depthwise.geometry import geometry
    >>> f"{closed_form_ratio(geometry((3, 7, 7), 3, out_channels=128)):.4f}"
    '0.1189'
    """
    return g.depth_multiplier * (g.groups / g.output_size[0] + 1 / g.kernel_area)
