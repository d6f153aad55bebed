"""Whether there are samples enough: where they may be few, a fit to most of them is judged on the others.

A fit to few samples follows their accidents, and its error on the same samples does not show it. The plain SVD, which
saw none of them, is the measure: a fit that does worse than it on samples that were held out is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, sqrt

import torch
from torch import nn

from ..errors import DepthwiseError
from .arriving import Original
from .calibration import Batch, held_out
from .choosing import ROUNDING, Goal, OnStep, menus_of
from .patches import PLACES
from .processes import add_up_
from .student import student_of
from .survey import Candidate

# Samples, and output positions for each unknown weight of an output, below which a fit is tried out first.
FEW_SAMPLES, FEW_PLACES = 32, 4
# How much worse than the plain SVD the trial may do: all samples are a third more, and bring as much.
SLACK = 1.1


def counted(batches: Sequence[Batch], device: torch.device | None) -> int:
    """Samples over all processes; one alone is refused."""
    total = torch.tensor([float(sum(batch.samples for batch in batches))], dtype=torch.float64, device=device)
    add_up_(total)
    samples = int(total)
    if samples < 2:
        raise DepthwiseError(
            "one calibration sample says nothing of others: give a few hundred, or None for the weights alone; the "
            "first dimension of a batch counts its samples"
        )
    return samples


def enough(
    model: nn.Module,
    candidates: Sequence[Candidate],
    batches: list[Batch],
    samples: int,
    goal: Goal,
    on_step: OnStep,
) -> tuple[list[Batch] | None, tuple[str, ...]]:
    """The batches to fit to, None where a fit to them is worse than the weights alone, and remarks on that."""
    scarce = scarcest(candidates, samples)
    if not candidates or (samples >= FEW_SAMPLES and scarce is None):
        return batches, ()
    words = f"{samples} calibration samples are few{'' if scarce is None else f': {scarce}'}; give a few hundred"
    warned = (words,) if scarce is not None else ()
    most, other = held_out(batches)
    try:
        fitted, plain = (_held_out_error(model, candidates, data, other, goal, on_step) for data in (most, None))
    # Such as of a model that takes batches of one size only; what is wrong with the data shows again with all of them.
    except DepthwiseError:
        return batches, warned
    if fitted <= max(SLACK * plain, ROUNDING) or isnan(plain):
        return batches, warned
    told = (
        f"after a fit to most of them the others have a relative error of {fitted:.2g} at the network's "
        f"output, and of {plain:.2g} by the weights alone, which are used"
    )
    return None, (f"{words}; {told}",)


def _held_out_error(
    model: nn.Module,
    candidates: Sequence[Candidate],
    batches: Sequence[Batch] | None,
    other: Sequence[Batch],
    goal: Goal,
    on_step: OnStep,
) -> float:
    """The relative error at the output, on `other`, of a network fitted to `batches`."""

    def quieter(what: str, done: int, total: int) -> None:
        on_step(f"try to {what}", done, total)

    menus = menus_of(model, candidates, batches, quieter)
    network = student_of(model, candidates, menus, batches, goal, quieter).network
    return sqrt(Original(model, other).error_of(lambda batch: batch.run(network)))


def scarcest(candidates: Sequence[Candidate], samples: int) -> str | None:
    """The layer with the fewest output positions for each unknown of an output, in words, where they are too few."""
    worst, words = float(FEW_PLACES), None
    for candidate in candidates:
        conv = candidate.conv
        positions = candidate.dense.multiplications // max(1, conv.weight.numel())
        places = samples * min(positions, PLACES * candidate.calls)
        unknowns = conv.in_channels // conv.groups
        if places < worst * unknowns:
            worst = places / unknowns
            words = f"{candidate.name} has {places:,} output positions in them for {unknowns:,} weights of each output"
    return words
