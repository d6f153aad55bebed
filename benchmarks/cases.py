"""Everything that is measured: layers by network, and lists that show one thing each."""

from __future__ import annotations

from functools import partial

from depthwise.bench.cases import Case, layer

from .networks import NETWORKS

ALONE, IN_CACHE, KERNELS, SMALLEST = "depthwise alone", "in cache", "kernel sizes", "smallest call"


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

LISTS: dict[str, tuple[Case, ...]] = {
    ALONE: _kinds(ALONE, _SIZES) + _kinds(ALONE, _SIZES, batch=8),
    IN_CACHE: _kinds(IN_CACHE, _SMALL_SIZES),
    KERNELS: tuple(layer(KERNELS, (128, 28, 28), size) for size in range(3, 32, 2)),
    # What a call costs where there is nothing to compute.
    SMALLEST: (layer(SMALLEST, (16, 4, 4), 3), layer(SMALLEST, (16, 4, 4), 3, out=16, act="relu6", out_act="relu6")),
}

CASES: dict[str, tuple[Case, ...]] = NETWORKS | LISTS
