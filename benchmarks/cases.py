"""Everything that is measured: layers by network, and lists that show one thing each."""

from __future__ import annotations

from functools import partial

from depthwise.bench.cases import Case, layer

from .networks import NETWORKS

ALONE, IN_CACHE, KERNELS, SMALLEST = "depthwise alone", "in cache", "kernel sizes", "smallest call"
ODD = "odd blocks"


def _kinds(network: str, sizes: dict[str, tuple[int, ...]], batch: int = 1) -> tuple[Case, ...]:
    """Depthwise convolutions alone of every kind, with a bias; `sizes` by kind, those of `image` where not named."""
    kind = partial(layer, network, batch=batch)
    image = sizes["image"]
    return (
        kind(image, 3),
        kind(image, 5),
        kind(sizes.get("7x7", image), 7),
        kind(sizes.get("31x31", image), 31),
        kind(image, 3, stride=2),
        kind(sizes.get("dilated", image), 3, dilation=2),
        kind(sizes.get("dilated", image), 3, dilation=6),
        kind(sizes["multiplier"], 3, multiplier=2),
        kind(sizes["causal"], 4, padding=((3, 0),)),
        kind(sizes["1-d, 31"], 31),
        kind(sizes["1-d, 87"], 87),
        kind(sizes["3-d"], 3),
    )


_SIZES: dict[str, tuple[int, ...]] = {
    "image": (128, 56, 56),
    "7x7": (96, 56, 56),
    "31x31": (128, 32, 32),
    "dilated": (256, 33, 33),
    "multiplier": (64, 56, 56),
    "causal": (1024, 1024),
    "1-d, 31": (256, 1000),
    "1-d, 87": (512, 500),
    "3-d": (64, 8, 28, 28),
}

# Input and output together below 1 MiB, a second-level cache of today.
_SMALL_SIZES: dict[str, tuple[int, ...]] = {
    "image": (128, 28, 28),
    "31x31": (64, 28, 28),
    "multiplier": (64, 28, 28),
    "causal": (512, 200),
    "1-d, 31": (256, 400),
    "1-d, 87": (256, 400),
    "3-d": (64, 8, 14, 14),
}

# Channels that do not fill vectors, windows of 5x5 and 7x7, sizes that tiles do not divide.
_odd = partial(layer, ODD, act="relu6")
ODD_BLOCKS = (
    _odd((20, 113, 113), 3, out=36),
    _odd((24, 57, 57), 5, out=40),
    _odd((44, 75, 75), 5, out=70, stride=2),
    _odd((36, 45, 45), 7, out=52),
    _odd((60, 61, 61), 3, out=20),
    _odd((90, 29, 29), 5, out=60),
    _odd((100, 31, 31), 7, out=100),
    _odd((270, 17, 17), 3, out=90),
    _odd((180, 15, 15), 5, out=108),
    _odd((330, 13, 13), 7, out=200),
)

LISTS: dict[str, tuple[Case, ...]] = {
    ALONE: _kinds(ALONE, _SIZES) + _kinds(ALONE, _SIZES, batch=8),
    IN_CACHE: _kinds(IN_CACHE, _SMALL_SIZES),
    ODD: ODD_BLOCKS,
    KERNELS: tuple(layer(KERNELS, (128, 28, 28), size) for size in range(3, 32, 2)),
    # What a call costs where there is nothing to compute.
    SMALLEST: (layer(SMALLEST, (16, 4, 4), 3), layer(SMALLEST, (16, 4, 4), 3, out=16, act="relu6", out_act="relu6")),
}

CASES: dict[str, tuple[Case, ...]] = NETWORKS | LISTS
