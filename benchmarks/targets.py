"""The rows of the issue "The CPU backend", section "How fast": what is asked for, and whether a run reached it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from depthwise.bench.rows import Row, mean

from .cases import ALONE, CASES, IN_CACHE, ODD

Status = Literal["reached", "missed", "incomplete", "not measured"]


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the table.

    value:      what is asked of a case, in a layout; None where it has none
    least_mean: of the geometric mean, by threads
    least_each: of every case, by threads; `exceptions` by name of the case and threads
    """

    what: str
    networks: tuple[str, ...]
    layout: str
    value: Callable[[Row, str], float | None]
    least_mean: dict[int, float]
    least_each: dict[int, float] = field(default_factory=dict)
    exceptions: dict[tuple[str, int], float] = field(default_factory=dict)

    def least(self, name: str, threads: int) -> float:
        """What a case of this name must reach; 0 where nothing is asked of each."""
        return self.exceptions.get((name, threads), self.least_each.get(threads, 0.0))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run reached of a target on so many threads; the worst is the case furthest below what it must reach."""

    target: Target
    threads: int
    status: Status
    reached: float | None
    worst: tuple[str, float] | None
    measured: int
    asked: int


BOTH = (1, 2)


def _both(least: float) -> dict[int, float]:
    return dict.fromkeys(BOTH, least)


TARGETS = (
    Target(
        "MobileNetV1 blocks, share of the FMA peak",
        ("MobileNetV1",),
        "channels_last",
        Row.peak_fraction,
        {1: 0.93, 2: 0.90},
        {1: 0.90, 2: 0.85},
        {("3x3 1024→1024 @7x7", 1): 0.88},
    ),
    Target(
        "depthwise + projection of MobileNetV2, V3-Large and Xception, share of the bound with padded lanes",
        ("MobileNetV2", "MobileNetV3-Large", "Xception"),
        "channels_last",
        Row.bound_fraction,
        _both(0.85),
    ),
    Target(
        "promise kept, MobileNetV1 blocks",
        ("MobileNetV1",),
        "channels_last",
        Row.promise_kept,
        _both(1.3),
        _both(1.0),
    ),
    Target(
        "depthwise alone against torch's best of both layouts",
        (ALONE,),
        "channels_last",
        Row.speedup,
        _both(2.5),
        _both(1.0),
    ),
    Target(
        "depthwise alone in cache, share of min(FMA peak, loads, stores)",
        (IN_CACHE,),
        "channels_last",
        Row.bound_fraction,
        _both(0.70),
    ),
    Target(
        "depthwise alone on contiguous input against torch's best of both layouts",
        (ALONE,),
        "contiguous",
        Row.speedup,
        _both(2.0),
        _both(1.0),
    ),
    Target(
        "odd channels, windows and sizes, share of the bound with padded lanes and bytes beyond L2",
        (ODD,),
        "channels_last",
        Row.bound_fraction,
        _both(0.75),
    ),
)


def verdicts(rows: Iterable[Row], targets: Sequence[Target] = TARGETS) -> list[Verdict]:
    """Of each target, on each number of threads that it names and the rows have."""
    by_case = {(row.case.network, row.case.name, row.threads): row for row in rows}
    measured = {row.threads for row in by_case.values()}
    return [_verdict(target, count, by_case) for target in targets for count in target.least_mean if count in measured]


def _verdict(target: Target, threads: int, by_case: dict[tuple[str, str, int], Row]) -> Verdict:
    keys = [(network, case.name, threads) for network in target.networks for case in CASES[network]]
    rows = [by_case[key] for key in keys if key in by_case]
    values = {row.case.name: target.value(row, target.layout) for row in rows}
    known = {name: value for name, value in values.items() if value is not None}
    failed = any(row.failure_of_ours(target.layout) for row in rows)
    # A case without a value has no part in the mean: the target is incomplete or, where ours failed, missed.
    reached = mean(known.values())
    worst = min(known.items(), key=lambda item: item[1] - target.least(item[0], threads), default=None)
    below = any(value < target.least(name, threads) for name, value in known.items())
    status: Status
    if failed or below:
        status = "missed"
    elif reached is None:
        status = "not measured"
    elif len(known) < len(keys):
        status = "incomplete"
    else:
        status = "reached" if reached >= target.least_mean[threads] else "missed"
    return Verdict(target, threads, status, reached, worst, len(known), len(keys))
