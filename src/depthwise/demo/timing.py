"""Timing networks against each other: outputs are checked first, then every candidate is timed in turn.

for network, layout in networks, layouts:
check its output
in turn, round after round:
time each
of each network, its layout with the lower median
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from statistics import median, quantiles

import torch
from torch import Tensor, nn

from ..errors import DepthwiseError
from ..measure.turns import Call, Effort, Key, take_turns
from .results import Timing

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

# Of the largest output; float32 sums in another order differ by some 1e-6.
TOLERANCE = 1e-4


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


def _call(model: nn.Module, images: Tensor, layout: str) -> Call:
    memory_format = LAYOUTS[layout]
    # torch's annotation of Module.to leaves memory_format out.
    laid_out = deepcopy(model).eval().to(memory_format=memory_format)  # type: ignore[call-overload]
    batch = images.contiguous(memory_format=memory_format)
    return lambda: laid_out(batch)


def _faster(name: str, samples: Mapping[Key, list[float]], batch_size: int) -> Timing:
    layout = min(LAYOUTS, key=lambda layout: median(samples[name, layout]))
    milliseconds = [1000 * seconds / batch_size for seconds in samples[name, layout]]
    lower, middle, upper = quantiles(milliseconds, n=4, method="inclusive")
    return Timing(middle, lower, upper, len(milliseconds), layout)
