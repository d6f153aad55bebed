"""Random calls by seed: any rank, window, stride, dilation, multiplier and size, depthwise alone and separable.

    for number in range(count):
        draw a call, until it has a pixel to compute and is short enough to be measured often

Sizes are drawn by their logarithms, so that small calls and large ones, few channels and many are as frequent.
"""

from __future__ import annotations

from math import prod
from random import Random

from depthwise.bench.cases import Case
from depthwise.errors import DepthwiseError
from depthwise.geometry import Geometry, geometry

# Of a call: multiply-adds of both steps, and of them the depthwise one's; input and result together.
MOST_MACS, MOST_DEPTHWISE_MACS, MOST_BYTES = 200_000_000, 110_000_000, 33 << 20
MOST_CHANNELS = 2048
# By rank; 16 and 31 are patches and large kernels.
KERNELS = {1: (1, 3, 4, 7, 15, 31, 87), 2: (1, 2, 3, 3, 3, 4, 5, 5, 7, 8, 11, 13, 16, 21, 31), 3: (1, 2, 3, 3, 5, 7)}


def drawn(count: int, seed: int) -> tuple[Case, ...]:
    """`count` calls; the same for the same seed, and the first ones the same for any count."""
    random = Random(seed)
    return tuple(_case(random, f"random calls, seed {seed}") for _ in range(count))


def _case(random: Random, name: str) -> Case:
    while True:
        batch = random.choice((1, 1, 1, 2, 4, 16))
        try:
            g = _geometry(random, batch)
        except DepthwiseError:
            # A window larger than the padded image.
            continue
        case = Case(name, g, batch)
        if g.out_channels is not None:
            after = random.choice((None, "relu")), random.choice((None, "relu6"))
            case = Case(name, g, batch, *after, residual=random.random() < 0.2)
        if _is_short(g, batch):
            return case


def _geometry(random: Random, batch: int) -> Geometry:
    rank = random.choice((1, 2, 2, 2, 3))
    channels = _log_uniform(random, 1, MOST_CHANNELS)
    if channels > 8 and random.random() < 0.6:
        # As most networks have them.
        channels = channels // 8 * 8
    side = max(1.0, 2 ** random.uniform(10, 22) / channels / batch) ** (1 / rank)
    spatial = tuple(max(1, round(side * 2 ** random.uniform(-1, 1))) for _ in range(rank))
    kernel = _alike_or_not(random, rank, KERNELS[rank], 0.75)
    stride = kernel if random.random() < 0.1 else _alike_or_not(random, rank, (1, 1, 1, 1, 2, 2, 3, 4), 0.85)
    dilation = _alike_or_not(random, rank, (1, 1, 1, 1, 1, 2, 3, 6), 0.85)
    reach = tuple((n - 1) * d for n, d in zip(kernel, dilation, strict=True))
    padding = random.choice(
        (
            *[tuple(far // 2 for far in reach)] * 4,
            (0,) * rank,
            tuple(random.randint(0, far) for far in reach),
        )
    )
    multiplier = random.choice((*(1,) * 6, 2, 3, 4, random.choice((5, 6, 7, 8, 12))))
    out = _log_uniform(random, 1, MOST_CHANNELS) if random.random() < 0.4 else None
    return geometry(
        (channels, *spatial), kernel, stride, padding, dilation, depth_multiplier=multiplier, out_channels=out
    )


def _log_uniform(random: Random, least: int, most: int) -> int:
    return min(most, int(least * (most / least + 1) ** random.random()))


def _alike_or_not(random: Random, rank: int, choices: tuple[int, ...], alike: float) -> tuple[int, ...]:
    """A number for each axis, all the same where chance, `alike` of the time, says so."""
    if random.random() < alike:
        return (random.choice(choices),) * rank
    return tuple(random.choice(choices) for _ in range(rank))


def _is_short(g: Geometry, batch: int) -> bool:
    results = batch * prod(g.out_spatial) * g.depthwise_channels
    depthwise_macs = results * g.kernel_area
    moved = 4 * batch * (prod(g.input_size) + prod(g.output_size))
    all_macs = depthwise_macs + results * (g.out_channels or 0)
    return depthwise_macs <= MOST_DEPTHWISE_MACS and all_macs <= MOST_MACS and moved <= MOST_BYTES
