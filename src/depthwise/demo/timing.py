"""Timing networks against each other: outputs are checked first, then every candidate is timed in turn.

    for round in rounds:
        for network, layout in candidates:        # A B C D A B C D ...
            call it once, then time as many calls as fill a sample
    each network: the layout with the lower median

Taking turns spreads whatever else the machine does over all candidates alike. The call that is not timed finds in the
caches what the candidate before it left there, always the same one; its cost would be counted against the wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

import torch
from torch import Tensor, nn

from ..errors import DepthwiseError
from .results import Timing

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

# Of the largest output; float32 sums in another order differ by some 1e-6.
TOLERANCE = 1e-4

Call = Callable[[], Tensor]
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: rounds of samples, each sample filled with calls, no new round after the limit."""

    rounds: int
    sample_seconds: float
    limit_seconds: float


def check_outputs(name: str, actual: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest expected output; raises where it is too large."""
    if actual.shape != expected.shape:
        raise DepthwiseError(
            f"the {name} network's output has shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
        )
    error = ((actual.double() - expected).abs().max() / expected.abs().max()).item()
    # So written, a NaN fails too.
    if not error <= TOLERANCE:
        raise DepthwiseError(
            f"the {name} network's output is off by {error:.1e} of its largest value, more than {TOLERANCE:.0e}; "
            "a wrong network is not timed"
        )
    return error


def time_networks(
    networks: Mapping[str, nn.Module],
    references: Mapping[str, nn.Module],
    images: Tensor,
    effort: Effort,
    on_round: Callable[[], object] = lambda: None,
) -> dict[str, Timing]:
    """Time each network on one batch of images, in its faster layout, once its output equals its reference's.

    references: what each network must compute, by name; they run in float64
    """
    # Copies made in inference mode would have no versions, and be compared at each call.
    calls = {(name, layout): _call(networks[name], images, layout) for name in networks for layout in LAYOUTS}
    with torch.inference_mode():
        expected = {name: deepcopy(model).double()(images.double()) for name, model in references.items()}
        for (name, layout), call in calls.items():
            check_outputs(f"{name} ({layout})", call(), expected[name])
        samples = take_turns(calls, effort, on_round)
    return {name: _faster(name, samples, len(images)) for name in networks}


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


def _call(model: nn.Module, images: Tensor, layout: str) -> Call:
    memory_format = LAYOUTS[layout]
    # torch's annotation of Module.to leaves memory_format out.
    laid_out = deepcopy(model).eval().to(memory_format=memory_format)  # type: ignore[call-overload]
    batch = images.contiguous(memory_format=memory_format)
    return lambda: laid_out(batch)


def _warm_seconds(call: Call) -> float:
    return min(_seconds(call, 1) for _ in range(5))


def _seconds(call: Call, repeats: int) -> float:
    start = perf_counter()
    for _ in range(repeats):
        call()
    return (perf_counter() - start) / repeats


def _faster(name: str, samples: Mapping[Key, list[float]], batch_size: int) -> Timing:
    layout = min(LAYOUTS, key=lambda layout: median(samples[name, layout]))
    milliseconds = [1000 * seconds / batch_size for seconds in samples[name, layout]]
    lower, middle, upper = quantiles(milliseconds, n=4, method="inclusive")
    return Timing(middle, lower, upper, len(milliseconds), layout)
