"""What each form of each layer would lose, how much of that reaches the output, and which form is taken."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite, log
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DepthwiseError
from .arriving import Original
from .budget import Menu, allocate, least_budget, predicted, within_error
from .calibration import Batch
from .fitting import options, trial, weight_options
from .gathering import AnyEvidence, own_evidence
from .hooks import hooked
from .options import Form, Option
from .survey import Candidate

# A relative error below this may be that of float32 alone.
ROUNDING = 1e-4
# Halvings of the span of budgets.
SEARCHES = 24

OnStep = Callable[[str, int, int], object]


def menus_of(
    model: nn.Module, candidates: Sequence[Candidate], batches: Sequence[Batch] | None, on_step: OnStep
) -> list[Menu]:
    """The forms of every candidate, each alone in the original network."""
    if batches is None:
        found = []
        for done, candidate in enumerate(candidates, start=1):
            forms = (Option(candidate.dense, 0.0), *weight_options(candidate.conv, candidate.forms))
            found.append(Menu(candidate.name, forms))
            on_step("weigh", done, len(candidates))
        return found
    found = []
    original = Original(model, batches)
    for done, (candidate, evidence) in enumerate(own_evidence(model, candidates, batches), start=1):
        forms = tuple(options(candidate.conv, candidate.forms, evidence))
        # What is less may be rounding.
        told = sorted((option for option in forms if option.error > ROUNDING), key=lambda option: option.error)
        told = told or list(forms)
        measured: dict[Option, float] = {}
        for place in sorted({0, len(told) // 2, len(told) - 1}):
            measured[told[place]] = _arriving(model, candidate, told[place].form, evidence, original)
        known = [(option.error, reached) for option, reached in measured.items() if option.error > ROUNDING]
        weighed = tuple(replace(option, arriving=between(option.error, known)) for option in forms)
        found.append(Menu(candidate.name, (Option(candidate.dense, 0.0, 0.0), *weighed)))
        on_step("weigh", done, len(candidates))
    return found


def between(error: float, known: Sequence[tuple[float, float]]) -> float:
    """What arrives of an error, by a power law between the known pairs of error and what arrives, in rising order.

    >>> round(between(0.2, [(0.1, 0.01), (0.4, 0.16)]), 6)
    0.04
    """
    if error <= 0 or not known:
        return error**2
    if len(known) == 1 or error <= known[0][0]:
        return known[0][1] * (error / known[0][0]) ** 2
    place = min(bisect([each for each, _ in known], error), len(known) - 1)
    (low, reached_low), (high, reached_high) = known[place - 1], known[place]
    if high <= low or reached_low <= 0 or reached_high <= 0:
        return reached_high
    return float(reached_low * (error / low) ** (log(reached_high / reached_low) / log(high / low)))


@dataclass(frozen=True, slots=True)
class Goal:
    """What forms are chosen by: one budget for all layers, or the greatest error of the network's output.

    max_error:  without data, of each layer's kernel
    by_default: whether nobody asked for it
    factor:     what came of an earlier choice, of what was predicted
    """

    budget: float | None
    max_error: float | None
    by_default: bool = False
    factor: float = 1.0

    @property
    def why_dense(self) -> str:
        """Why a layer with a choice stays as it is."""
        if self.max_error is None:
            return "the budget has room for it"
        return f"no form is within max_error={self.max_error}"

    def choose(self, menus: Sequence[Menu]) -> list[Option]:
        """One option of each menu."""
        if self.max_error is None:
            return allocate(menus, 1.0 if self.budget is None else self.budget)
        if all(option.arriving is None for menu in menus for option in menu.options[1:]):
            return [within_error(menu, self.max_error) for menu in menus]
        # The least budget whose predicted error is small enough.
        low, high = least_budget(menus), 1.0
        chosen, best = allocate(menus, low * (1 + 1e-12)), [menu.dense for menu in menus]
        if self.factor * predicted(chosen) <= self.max_error:
            return chosen
        for _ in range(SEARCHES):
            middle = (low + high) / 2
            chosen = allocate(menus, middle)
            if self.factor * predicted(chosen) <= self.max_error:
                high, best = middle, chosen
            else:
                low = middle
        return best


def bias_of(candidate: Candidate, kernel: Tensor, evidence: AnyEvidence) -> Tensor:
    """What brings the mean of a kernel's outputs to that of the targets: (out_channels,); 0 where it is not free."""
    if not candidate.free_mean:
        return torch.zeros_like(evidence.target_mean).flatten()
    return (evidence.target_mean - (kernel @ evidence.patch_mean.unsqueeze(2)).squeeze(2)).flatten()


def _arriving(model: nn.Module, candidate: Candidate, form: Form, evidence: AnyEvidence, original: Original) -> float:
    """The squared relative error of the network's output where one layer has a form, the norm after it moved along."""
    conv = candidate.conv
    kernel = trial(conv, form, evidence).kernel
    if candidate.norm is not None:
        now = evidence.variance(kernel)
        kernel = kernel * (evidence.energy / now).where((evidence.energy > 0) & (now > 0), 1.0).sqrt().unsqueeze(2)
    weight = kernel.reshape(conv.weight.shape).to(conv.weight.dtype)
    bias = bias_of(candidate, kernel, evidence).to(conv.weight.dtype)

    def separated(_: nn.Module, args: tuple[Any, ...], __: Tensor) -> Tensor:
        out: Tensor = conv._conv_forward(args[0], weight, bias)
        return out

    def run(batch: Batch) -> Any:
        with hooked(conv, separated):
            return batch.run(model)

    error = original.error_of(run)
    if not isfinite(error):
        raise DepthwiseError(
            f"the network's output on the calibration data is not finite, or is not where {candidate.name} is separated"
            f"; look for NaN in the data, or leave that layer out with where="
        )
    return error
