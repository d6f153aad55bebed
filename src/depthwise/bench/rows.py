"""What was measured, and the ratios that follow from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import geometric_mean, quantiles
from typing import Any

from ..measure.promise import promise_kept
from .cases import Case
from .roofline import Work

OURS, TORCH, DENSE = "depthwise", "torch", "dense"


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds of one call: median and quartiles of so many samples."""

    median: float
    lower: float
    upper: float
    samples: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """
        >>> Spread.of([4.0, 1.0, 2.0, 3.0, 5.0])
        Spread(median=3.0, lower=2.0, upper=4.0, samples=5)
        """
        lower, middle, upper = quantiles(seconds, n=4, method="inclusive")
        return cls(middle, lower, upper, len(seconds))


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one candidate takes on tensors in one layout."""

    candidate: str
    layout: str
    seconds: Spread


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a candidate was not timed."""

    candidate: str
    layout: str
    reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """One case on so many threads.

    ran_on:        the backends that ran ours, and why not those before them
    kernels:       the names of what they ran, where it has one
    fma_gflops:    the machine's peak around these timings
    least_seconds: the bound of `roofline.least_seconds`, and `limit`, what it comes from; None without a peak
    """

    case: Case
    threads: int
    ran_on: str
    kernels: tuple[str, ...]
    timings: tuple[Timing, ...]
    failures: tuple[Failure, ...]
    work: Work
    fma_gflops: float | None
    least_seconds: float | None
    limit: str | None

    def timing(self, candidate: str, layout: str) -> Timing | None:
        found = (t for t in self.timings if (t.candidate, t.layout) == (candidate, layout))
        return next(found, None)

    def failure_of_ours(self, layout: str) -> str | None:
        """Why ours was not timed."""
        return next((f.reason for f in self.failures if (f.candidate, f.layout) == (OURS, layout)), None)

    def best(self, candidate: str) -> Timing | None:
        """A candidate's timing in its faster layout."""
        found = [t for t in self.timings if t.candidate == candidate]
        return min(found, key=lambda t: t.seconds.median, default=None)

    def gflops(self, layout: str, candidate: str = OURS) -> float | None:
        timing = self.timing(candidate, layout)
        return None if timing is None else self.work.flops / timing.seconds.median / 1e9

    def peak_fraction(self, layout: str) -> float | None:
        """Ours as a share of the FMA peak; padding counts as data."""
        reached = self.gflops(layout)
        return None if reached is None or self.fma_gflops is None else reached / self.fma_gflops

    def bound_fraction(self, layout: str) -> float | None:
        """The least time as a share of ours."""
        timing = self.timing(OURS, layout)
        return None if timing is None or self.least_seconds is None else self.least_seconds / timing.seconds.median

    def speedup(self, layout: str, peer: str = TORCH) -> float | None:
        """The peer's time, in its faster layout, over ours in this one."""
        timing, best = self.timing(OURS, layout), self.best(peer)
        return None if timing is None or best is None else best.seconds.median / timing.seconds.median

    def promise_kept(self, layout: str) -> float | None:
        timing, dense = self.timing(OURS, layout), self.best(DENSE)
        if timing is None or dense is None:
            return None
        cost = self.case.cost
        return promise_kept(
            dense.seconds.median, timing.seconds.median, cost.dense.multiplications, cost.separable.multiplications
        )

    def to_dict(self) -> dict[str, Any]:
        layouts = dict.fromkeys(timing.layout for timing in self.timings if timing.candidate == OURS)
        ratios = {
            layout: {
                "gflops": self.gflops(layout),
                "peak_fraction": self.peak_fraction(layout),
                "bound_fraction": self.bound_fraction(layout),
                "speedup": self.speedup(layout),
                "promise_kept": self.promise_kept(layout),
            }
            for layout in layouts
        }
        return asdict(self) | {"name": self.case.name, "operation": self.case.operation, "ratios": ratios}


def mean(values: Iterable[float | None]) -> float | None:
    """The geometric mean; None where one is not known, for a mean of the others would hide it.

    >>> mean([1.0, 4.0]), mean([1.0, None])
    (2.0, None)
    """
    every = list(values)
    known = [value for value in every if value is not None]
    return geometric_mean(known) if known and len(known) == len(every) else None
