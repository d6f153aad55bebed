"""What a machine can do, what a case asks of it, and the least time that takes.

Four limits, each a time; a case cannot be faster than the longest:

    arithmetic   2 · multiply-adds ÷ the FMA peak. Separable: of channels rounded up to whole vectors, padding counted
                 as data, as everywhere in this package. Depthwise alone: of the taps inside the input only, for a
                 kernel need not multiply the padding, and where it is larger than the image most taps are that
    loads        each input element once for each kernel row that it is used in (kernel_size less its last dimension)
    stores       each output element once
    beyond L2    input, weights, residual and output, once, where they are more than the second-level caches of all
                 threads hold: at the rate at which what lies just beyond them is copied

Loads and stores are those of a depthwise convolution alone, against the machine's own rates in its first-level cache;
where these are not known, one vector loaded for each vector multiply-add and one stored for every two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from ..cost import convolution_cost, separable_cost
from ..geometry import Geometry
from .cases import Case

ITEM_BYTES = 4


@dataclass(frozen=True, slots=True)
class Peaks:
    """What this many threads of the machine do at most; None where it is not known, and `reason` says why.

    fma_gflops:   float32 multiply-adds in registers, two FLOPs each
    load_gbytes, store_gbytes: to and from the first-level cache
    memory_gbytes: copying between large tensors, read and written bytes together
    vector_lanes:  of the narrowest vectors that reach the FMA peak
    l2_bytes, beyond_gbytes: what their second-level caches hold, and copying between tensors of four times as much, as
                   memory_gbytes
    """

    threads: int
    fma_gflops: float | None
    load_gbytes: float | None
    store_gbytes: float | None
    memory_gbytes: float
    vector_lanes: int
    reason: str | None = None
    l2_bytes: int = 0
    beyond_gbytes: float | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """What a case asks for, its whole batch: one FLOP is a multiplication or an addition of a multiply-add.

    flops:       padding counted as data
    least_flops: those that the arithmetic limit counts
    bytes_moved: input, weights, residual and output, each once; nothing between the steps
    load_bytes, store_bytes: of the loads and stores limits; 0 for a separable convolution
    """

    flops: int
    least_flops: int
    bytes_moved: int
    load_bytes: int
    store_bytes: int

    @property
    def arithmetic_intensity(self) -> float:
        """FLOPs per byte moved."""
        return self.flops / self.bytes_moved


def work_of(case: Case, vector_lanes: int) -> Work:
    g = case.geometry
    moved = case.batch * ITEM_BYTES * (prod(g.input_size) + prod(g.output_size) * (1 + case.residual))
    if case.operation == "separable":
        cost = separable_cost(g, bias=True).separable
        weights = ITEM_BYTES * (cost.parameters + g.depthwise_channels * case.has_depthwise_bias)
        macs, least_macs, loads, stores = cost.macs, _padded_macs(g, vector_lanes), 0, 0
    else:
        depthwise = convolution_cost(g.in_channels, g.depthwise_size, g.kernel_size, g.in_channels, bias=True)
        weights = ITEM_BYTES * depthwise.parameters
        macs, least_macs = depthwise.macs, g.depthwise_channels * prod(_taps_inside(g))
        loads, stores = ITEM_BYTES * g.in_channels * _elements_loaded(g), ITEM_BYTES * prod(g.output_size)
    flops, least_flops = (2 * case.batch * count for count in (macs, least_macs))
    return Work(flops, least_flops, moved + weights, case.batch * loads, case.batch * stores)


def least_seconds(work: Work, peaks: Peaks) -> tuple[float, str] | None:
    """The bound of a case's time, and which limit it is; None where the peak is not known."""
    if peaks.fma_gflops is None:
        return None
    # One vector loaded for each vector multiply-add: as many numbers of 4 bytes as there are pairs of FLOPs.
    loads = peaks.load_gbytes or ITEM_BYTES / 2 * peaks.fma_gflops
    stores = peaks.store_gbytes or ITEM_BYTES / 4 * peaks.fma_gflops
    limits = [
        (work.least_flops / peaks.fma_gflops / 1e9, "arithmetic"),
        (work.load_bytes / loads / 1e9, "loads"),
        (work.store_bytes / stores / 1e9, "stores"),
    ]
    if peaks.beyond_gbytes is not None and work.bytes_moved > peaks.l2_bytes:
        limits.append((work.bytes_moved / peaks.beyond_gbytes / 1e9, "beyond L2"))
    return max(limits)


def _padded_macs(g: Geometry, vector_lanes: int) -> int:
    """Multiply-adds of a separable convolution in whole vectors of channels; the pointwise sums keep their length.

    A grouped pointwise convolution fills the vectors of each group.
    """
    filters = _whole(g.depthwise_channels, vector_lanes)
    outputs = g.groups * _whole(g.output_size[0] // g.groups, vector_lanes)
    depthwise = convolution_cost(filters, (filters, *g.out_spatial), g.kernel_size, filters)
    return depthwise.macs + separable_cost(replace(g, out_channels=outputs)).pointwise.macs


def _taps_inside(g: Geometry) -> list[int]:
    """How many pairs of an output and a tap read inside the input, axis by axis."""
    return [sum(map(len, _read(g, axis))) for axis in range(g.rank)]


def _elements_loaded(g: Geometry) -> int:
    """Input elements of one channel, each as often as there are kernel rows that use it."""
    return prod(_taps_inside(g)[:-1]) * _distinct(_read(g, g.rank - 1))


def _read(g: Geometry, axis: int) -> list[range]:
    """Of each tap along an axis, the inputs that it reads inside the image, one for each output."""
    n, s, d, padding = g.input_size[1 + axis], g.stride[axis], g.dilation[axis], g.padding[axis][0]
    firsts = [tap * d - padding for tap in range(g.kernel_size[axis])]
    ends = [min(n, first + g.out_spatial[axis] * s) for first in firsts]
    return [range(max(first, first % s), end, s) for first, end in zip(firsts, ends, strict=True)]


def _distinct(ranges: list[range]) -> int:
    """How many numbers are in at least one of some ranges of the same step."""
    count, last = 0, dict[int, int]()
    for each in sorted(ranges, key=lambda each: each.start):
        phase = each.start % each.step
        new = each[max(0, (last.get(phase, each.start) - each.start) // each.step) :]
        count += len(new)
        if new:
            last[phase] = new[-1] + each.step
    return count


def _whole(channels: int, vector_lanes: int) -> int:
    return -(-channels // vector_lanes) * vector_lanes
