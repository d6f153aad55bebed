"""How wide vectors of channels are."""

from __future__ import annotations

from ....geometry import Geometry
from ..machine import Machine
from .sizes import lanes_below
from .tuning import tuning_of


def lanes_for(channels: int, machine: Machine) -> int:
    """Lanes of the widest vectors that the channels fill, or of narrow ones that are as fast and waste fewer."""
    lanes, narrow = (lanes_below(channels, most) for most in (machine.vector_lanes, machine.narrow_lanes))
    worth = (1 - tuning_of(machine).lanes_in_vain) * _whole(channels, lanes)
    return narrow if _whole(channels, narrow) <= worth else lanes


def pixel_lanes(g: Geometry, machine: Machine) -> int:
    """Of a depthwise convolution of pixels."""
    if g.rank > 1 and g.depth_multiplier == 1:
        return lanes_for(g.depthwise_channels, machine)
    return lanes_below(g.depthwise_channels, machine.vector_lanes)


def _whole(channels: int, lanes: int) -> int:
    """Channels, some of them twice, in whole vectors."""
    return -(-channels // lanes) * lanes
