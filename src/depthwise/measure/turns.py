"""Times taken in turn.

    for round in rounds:
        for candidate in candidates:        # A B C D A B C D ...
            call it once, then time as many calls as fill a sample

Taking turns spreads whatever else the machine does over all candidates alike. The call that is not timed finds in the
caches what the candidate before it left there, always the same one; its cost would be counted against the wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

Call = Callable[[], Any]
Key = tuple[str, str]
# A call that fills samples by itself, however cold it is.
LONG_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: rounds of samples, each sample filled with calls, no new round after the limit."""

    rounds: int
    sample_seconds: float
    limit_seconds: float


def take_turns(calls: Mapping[Key, Call], effort: Effort, on_round: Callable[[], object]) -> dict[Key, list[float]]:
    """Seconds per call, sample by sample."""
    repeats = {key: max(1, round(effort.sample_seconds / _warm_seconds(call))) for key, call in calls.items()}
    samples: dict[Key, list[float]] = {key: [] for key in calls}
    start = perf_counter()
    for number in range(effort.rounds):
        # Two rounds at least: a spread needs two samples.
        if number >= 2 and perf_counter() - start > effort.limit_seconds:
            break
        for key, call in calls.items():
            call()
            samples[key].append(_seconds(call, repeats[key]))
        on_round()
    return samples


def take_single_turns(calls: Mapping[Key, Call], rounds: int, limit_seconds: float) -> dict[Key, list[float]]:
    """The same of calls so long, and all run before, that a sample is one and none is called in vain."""
    samples: dict[Key, list[float]] = {key: [] for key in calls}
    start = perf_counter()
    for number in range(rounds):
        if number >= 2 and perf_counter() - start > limit_seconds:
            break
        for key, call in calls.items():
            samples[key].append(_seconds(call, 1))
    return samples


def _warm_seconds(call: Call) -> float:
    first = _seconds(call, 1)
    return first if first > LONG_SECONDS else min(first, *(_seconds(call, 1) for _ in range(4)))


def _seconds(call: Call, repeats: int) -> float:
    start = perf_counter()
    for _ in range(repeats):
        call()
    return (perf_counter() - start) / repeats
