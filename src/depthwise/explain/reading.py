"""How an input's size is read: channels come first, and whoever wrote them last is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import DepthwiseError
from ..geometry import Geometry

# A last number of no more than this, with larger ones before it, looks like channels.
FEW_CHANNELS = 4


def as_read(size: Sequence[int], read: Callable[[Sequence[int]], Geometry]) -> tuple[Geometry, str]:
    """The geometry of `size`, and a note where its last number looks like the channels.

    As it stands, channels first, wherever that is possible; else turned, where that is.
    """
    turned = channels_last(size)
    if turned is None:
        return read(size), ""
    written, other = "x".join(map(str, size)), "x".join(map(str, turned))
    try:
        g = read(size)
    except DepthwiseError as error:
        try:
            g = read(turned)
        except DepthwiseError:
            raise error from None
        return g, f"note: {written} has no output with channels first; it was read as {other}"
    channels, *spatial = size
    pixels = "×".join(map(str, spatial))
    read_as = f"{channels} channels of {pixels}, channels first"
    return g, f"note: {written} was read as {read_as}; for {turned[0]} channels write {other}"


def channels_last(size: Sequence[int]) -> tuple[int, ...] | None:
    """The size with its last number first, where that looks like the channels.

    >>> channels_last((7, 7, 3)), channels_last((3, 7, 7)), channels_last((64, 3))
    ((3, 7, 7), None, None)
    """
    if not isinstance(size, Sequence) or len(size) not in (3, 4) or not all(isinstance(n, int) for n in size):
        return None
    *others, last = size
    return (last, *others) if 0 < last <= FEW_CHANNELS < min(others) else None
