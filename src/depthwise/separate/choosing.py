"""What each form of each layer would lose, how much of that reaches the output, and which form is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DepthwiseError
from .arriving import error_at_output
from .budget import Menu, allocate, within_error
from .calibration import Batch
from .fitting import Factors, kernel_of, options, refit_mixing, start, weight_options
from .gathering import AnyEvidence, own_evidence
from .hooks import hooked
from .options import Option
from .survey import Candidate

# A relative error below this may be that of float32 alone.
ROUNDING = 1e-4

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
    for done, (candidate, evidence) in enumerate(own_evidence(model, candidates, batches), start=1):
        forms = tuple(options(candidate.conv, candidate.forms, evidence))
        # Half-way along, where the error is neither rounding nor everything.
        plain = [option for option in forms if option.error > ROUNDING] or forms
        middle = plain[len(plain) // 2]
        factors = refit_mixing(
            evidence, start(kernel_of(candidate.conv), middle.form, prod(candidate.conv.kernel_size))
        )
        reached = _arriving(model, candidate, factors, evidence, batches)
        sensitivity = reached / middle.error**2 if middle.error > ROUNDING else 1.0
        found.append(Menu(candidate.name, (Option(candidate.dense, 0.0), *forms), sensitivity))
        on_step("weigh", done, len(candidates))
    return found


@dataclass(frozen=True, slots=True)
class Goal:
    """What forms are chosen by: one budget for all layers, or the greatest error of each.

    by_default: whether nobody asked for it
    """

    budget: float | None
    max_error: float | None
    by_default: bool = False

    @property
    def why_dense(self) -> str:
        """Why a layer with a choice stays as it is."""
        return (
            "the budget has room for it" if self.max_error is None else f"no form is within max_error={self.max_error}"
        )

    def choose(self, menus: Sequence[Menu]) -> list[Option]:
        """One option of each menu."""
        if self.max_error is not None:
            return [within_error(menu, self.max_error) for menu in menus]
        return allocate(menus, 1.0 if self.budget is None else self.budget)


def bias_of(candidate: Candidate, kernel: Tensor, evidence: AnyEvidence) -> Tensor:
    """What brings the mean of a kernel's outputs to that of the targets: (out_channels,); 0 where it is not free."""
    if not candidate.free_mean:
        return torch.zeros_like(evidence.target_mean).flatten()
    return (evidence.target_mean - (kernel @ evidence.patch_mean.unsqueeze(2)).squeeze(2)).flatten()


def _arriving(
    model: nn.Module, candidate: Candidate, factors: Factors, evidence: AnyEvidence, batches: Sequence[Batch]
) -> float:
    """The squared relative error of the network's output where one layer computes with `factors`."""
    conv = candidate.conv
    kernel = factors.kernel
    weight = kernel.reshape(conv.weight.shape).to(conv.weight.dtype)
    bias = bias_of(candidate, kernel, evidence).to(conv.weight.dtype)

    def separated(_: nn.Module, args: tuple[Any, ...], __: Tensor) -> Tensor:
        out: Tensor = conv._conv_forward(args[0], weight, bias)
        return out

    def run(batch: Batch) -> Any:
        with hooked(conv, separated):
            return batch.run(model)

    error = error_at_output(model, run, batches)
    if not isfinite(error):
        raise DepthwiseError(
            f"the network's output on the calibration data is not finite, or is not where {candidate.name} is separated"
            f"; look for NaN in the data, or leave that layer out with where="
        )
    return error
