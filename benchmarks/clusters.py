"""Random calls by what they have in common, losses first.

A call is a case on input of one layout; its ratio is the time of ours over that of PyTorch's operators in their better
layout. It belongs to each cluster that it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from depthwise.bench.cases import LAYOUTS, Case
from depthwise.bench.roofline import work_of
from depthwise.bench.rows import OURS, TORCH, Row
from depthwise.bench.table import percent, threads_text

from .report import LAYOUT_NAMES, failures, how, table
from .suite import Suite

# What is asked for: nowhere more than this many times the time of PyTorch.
MOST = 1.1

HOW = """\
Calls are drawn at random by the seed, and every output is checked against float64 before anything is timed. Then ours
on both layouts and PyTorch's operators on both take turns in one process, in float32; times are medians, of PyTorch the
faster layout. A call that takes more than is asked for is measured again, for longer. The bound is that of
depthwise/bench/roofline.py."""

CLUSTERS: dict[str, Callable[[Case], bool]] = {
    "depthwise alone": lambda case: case.operation == "depthwise",
    "separable": lambda case: case.operation == "separable",
    "sequences": lambda case: case.geometry.rank == 1,
    "images": lambda case: case.geometry.rank == 2,
    "volumes": lambda case: case.geometry.rank == 3,
    "multipliers that are no power of two": lambda case: case.geometry.depth_multiplier.bit_count() > 1,
    "multipliers that are": lambda case: case.geometry.depth_multiplier in (2, 4, 8),
    "strides of 3 and more": lambda case: max(case.geometry.stride) > 2,
    "strides of 2": lambda case: max(case.geometry.stride) == 2,
    "dilated": lambda case: max(case.geometry.dilation) > 1,
    "windows of more rows than columns": lambda case: case.geometry.kernel_size[0] > case.geometry.kernel_size[-1],
    "windows of 50 taps and more": lambda case: case.geometry.kernel_area >= 50,
    "1 to 3 channels": lambda case: case.geometry.in_channels <= 3,
    "768 channels and more": lambda case: case.geometry.in_channels >= 768,
    "8 times as many outputs as inputs": lambda case: (
        (case.geometry.out_channels or 0) >= 8 * case.geometry.in_channels
    ),
    "8 MiB and more": lambda case: work_of(case, 1).bytes_moved >= 8 << 20,
    "rows of fewer than 6 columns": lambda case: case.geometry.out_spatial[-1] < 6,
    "less than 0.1 million multiply-adds": lambda case: work_of(case, 1).flops < 200_000,
}


@dataclass(frozen=True, slots=True)
class Measured:
    """A call; `number` is its place among the draws."""

    number: int
    row: Row
    layout: str
    ratio: float


def calls(rows: Sequence[Row]) -> list[Measured]:
    """Those that were timed."""
    found = []
    for number, row in enumerate(rows):
        for layout in LAYOUTS:
            faster = row.speedup(layout)
            if faster is not None:
                found.append(Measured(number, row, layout, 1 / faster))
    return found


def loses(row: Row) -> bool:
    """Whether ours takes more than is asked for, in either layout."""
    return any(call.ratio > MOST for call in calls([row]))


def document(suite: Suite) -> str:
    """The whole page."""
    threads = sorted({row.threads for row in suite.rows})
    parts = [f"# {suite.rows[0].case.network.capitalize()}; {suite.date}, commit {suite.commit}", failures(suite.rows)]
    for count in threads:
        found = calls([row for row in suite.rows if row.threads == count])
        parts += [_clusters(found, count), _lost(found, count)]
    return "\n\n".join([*parts, how(suite, HOW)]) + "\n"


def _clusters(found: Sequence[Measured], threads: int) -> str:
    def lines() -> Iterable[tuple[str, ...]]:
        kinds = [
            (name, layout, [call for call in found if call.layout == layout and fits(call.row.case)])
            for name, fits in CLUSTERS.items()
            for layout in LAYOUTS
        ]
        present = [(name, layout, own, _share_lost(own)) for name, layout, own in kinds if own]
        for name, layout, own, share in sorted(present, key=lambda kind: -kind[-1]):
            ratios = [call.ratio for call in own]
            cells = f"{median(ratios):.2f}", f"{max(ratios):.2f}", f"{sum(ratio > MOST for ratio in ratios)}"
            yield name, LAYOUT_NAMES[layout], str(len(own)), cells[2], percent(share), *cells[:2]

    title = f"## Clusters, {threads_text(threads)}: {summary(found)}"
    headings = ("calls", "input", "how many", f"over {MOST}", "of them", "ours ÷ torch, median", "worst")
    return f"{title}\n\n{table(headings, lines())}"


def _share_lost(own: Sequence[Measured]) -> float:
    return sum(call.ratio > MOST for call in own) / len(own)


def summary(found: Sequence[Measured]) -> str:
    """How many are over what is asked for."""
    ratios = [call.ratio for call in found]
    over = sum(ratio > MOST for ratio in ratios)
    middle = f", ours ÷ torch {median(ratios):.2f} in the median" if ratios else ""
    return f"{over} of {len(ratios)} calls over {MOST}{middle}"


def _lost(found: Sequence[Measured], threads: int) -> str:
    lost = sorted((call for call in found if call.ratio > MOST), key=lambda call: -call.ratio)
    if not lost:
        return f"No call takes more than {MOST} times PyTorch's time on {threads_text(threads)}."
    lines = [
        (
            str(call.number),
            call.row.case.name,
            ", ".join(f"{before}" for before, _ in call.row.case.geometry.padding),
            LAYOUT_NAMES[call.layout],
            *(_microseconds(call.row, who, call.layout) for who in (OURS, TORCH)),
            f"{call.ratio:.2f}",
            percent(call.row.bound_fraction(call.layout)),
        )
        for call in lost
    ]
    headings = ("number", "call", "padding", "input", "ours, µs", "torch, µs", "ours ÷ torch", "of bound")
    return f"### Over {MOST} times PyTorch's time\n\n{table(headings, lines)}"


def _microseconds(row: Row, who: str, layout: str) -> str:
    timing = row.timing(OURS, layout) if who == OURS else row.best(who)
    return "–" if timing is None else f"{1e6 * timing.seconds.median:.0f}"
