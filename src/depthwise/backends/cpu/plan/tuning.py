"""What plans go by, as data: one row for each kind of machine.

Numbers were found by measuring; benchmarks/tuning.md says how, when and on what, and benchmarks/tuning.py repeats it.
A row is found by what a machine is (`Machine.kind`), never by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf

from ..machine import Machine

# Taps of a kernel, at most, for planes read as they lie: vectors of columns.
MOST_DIRECT = 27


@dataclass(frozen=True, slots=True)
class Tuning:
    """One row.

    A depthwise tile of pixels:
    few_taps:  columns of a tile for kernels of few taps
    many_taps: for kernels of many, whose chains of multiply-adds need more sums side by side: choices, the widest first
    patch_lanes: lanes, at most, of two columns whose windows share nothing, so that what lies beyond L2 is read in its
               order; 0 where that is not worth it
    patch_strides: of patches of planes, whose rows are added up in the lanes of their taps
    fewest_columns: of the tiles that divide a row evenly
    dilated_columns: of tiles whose columns lie a dilation apart; from 4 on, at most a sixth more is computed
    columns_to_planes: of a sequence whose results are transposed in registers: whole squares of vectors

    A depthwise tile of planes:
    direct_shares: by the most taps, for strides 1 and 2, the least share of lanes that columns must fill for planes to
                   be read as they lie; else pixels in boxes take less time
    skipping_share: the same of strided windows that leave columns out, which would come to boxes too
    direct_rows:   rows of a tile by the most taps
    gathered_taps: of a kernel, at most, whose vectors are put together from three and more
    gathered_columns: of such a kernel, and of one whose vectors are put together from two
    paired_rows:   rows of a tile of two planes, which share input planes

    A pointwise tile:
    tiles:         heights by vectors of a tile, most often the first heights, for few pixels the last; rows · vectors
                   sums, one panel row of vectors and one splat must fit the registers
    lanes_in_vain: of the lanes of wide vectors, done twice, that narrow ones are worth where these are as fast
    pixels_in_vain: of the pixels, done twice, that the tiles of the last heights are worth
    most_fetched_lines: of the next band's input, for each input channel

    How work is cut:
    serial_macs:   below so many multiply-adds one thread is done before a team has started
    far_strip_rows: rows of a strip from and to beyond L2, so few that memory is walked almost in order
    far_planes:    planes of as many times the size of L2 come from memory, and are worth fetching ahead
    fetched_blocks: blocks of filters whose sums take as long as it takes to fetch a line from beyond L2
    fewest_pixels, fewest_pixels_far: a band of no more is not worth reading all weights for; far: from beyond L2
    two_stages:    the time of two stages, beside even shares: what one thread computed comes to others from its caches
    uneven:        bands of two sizes lose so much of the time, times the share of the rarer size
    expanded_share: an expansion's result of more times the size of L2 is better kept there, row by row
    panel_pixels:  of a pointwise stage, pixels for each output channel, at most, for threads to share panels of weights
    l2_sets:       that lines fall into, few of them where they are a power of two apart; 1: they are spread anyhow
    least_balance: a wave of tasks that leaves threads idle for more than the rest of this share is cut otherwise
    """

    few_taps: tuple[int, ...]
    many_taps: tuple[tuple[int, ...], ...]
    columns_to_planes: int
    direct_shares: Mapping[int, tuple[float, float]]
    tiles: Mapping[int, tuple[tuple[int, ...], ...]]
    fewest_columns: int = 3
    patch_lanes: int = 0
    patch_strides: tuple[int, ...] = ()
    dilated_columns: tuple[int, ...] = (6, 5, 4)
    direct_rows: Mapping[int, int] = field(default_factory=lambda: {25: 4, MOST_DIRECT: 7})
    skipping_share: float = inf
    gathered_taps: int = 9
    gathered_columns: int = MOST_DIRECT
    paired_rows: int = 4
    lanes_in_vain: float = 0.1
    pixels_in_vain: float = 0.1
    most_fetched_lines: int = 2
    serial_macs: int = 100_000
    far_strip_rows: int = 4
    far_planes: int = 8
    fetched_blocks: int = 16
    fewest_pixels: int = 24
    fewest_pixels_far: int = 56
    two_stages: float = 1.06
    uneven: float = 0.1
    expanded_share: float = 2.0
    panel_pixels: float = inf
    l2_sets: int = 1
    least_balance: float = 0.95


_WIDE = Tuning(
    few_taps=(7,),
    many_taps=((14, 7), (7,)),
    columns_to_planes=16,
    patch_strides=(8, 16),
    direct_shares={4: (0.6, 0.6), 9: (0.6, 0.7), 25: (0.85, 0.95), MOST_DIRECT: (0.7, 0.8)},
    tiles={
        1: ((14, 13, 12), (5, 4)),
        2: ((14, 13, 12), (5, 4)),
        3: ((9, 8, 7), (5, 4)),
        5: ((5, 4),),
    },
)

ROWS: dict[str, Tuning] = {
    "avx512": replace(
        _WIDE,
        direct_shares={9: (0.5, 0.5), 16: (0.5, 0.7), 25: (0.5, 0.8), MOST_DIRECT: (0.7, 0.6)},
        skipping_share=0.6,
        gathered_taps=25,
        gathered_columns=7,
        patch_lanes=64,
        panel_pixels=0.25,
        l2_sets=2048,
    ),
    "avx512 in halves": replace(_WIDE, far_planes=16),
    "avx2": Tuning(
        few_taps=(6,),
        many_taps=((6,), (5,)),
        columns_to_planes=8,
        patch_strides=(8,),
        direct_shares={9: (0.6, 0.85), 25: (inf, inf), MOST_DIRECT: (0.95, inf)},
        tiles={1: ((6, 5), (5, 4)), 2: ((6, 5), (5, 4))},
    ),
    "neon": Tuning(
        few_taps=(7,),
        many_taps=((14, 7), (7,)),
        columns_to_planes=8,
        direct_shares={9: (0.6, 0.7), 25: (0.85, 0.95), MOST_DIRECT: (0.7, 0.8)},
        tiles={1: ((12, 11, 10), (5, 4)), 2: ((12, 11, 10), (5, 4))},
    ),
}


def tuning_of(machine: Machine) -> Tuning:
    return ROWS[machine.kind]
