"""A copy of a network with a form chosen and fitted for every layer: the original stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import prod

from torch import nn

from .budget import Menu
from .building import built, replace_
from .calibration import Batch
from .choosing import Goal, OnStep, bias_of, menus_of
from .fitting import fit, kernel_of, put_, start
from .gathering import evidence_between
from .norms import move_, reestimate_
from .options import Option
from .report import LayerSeparation
from .survey import Candidate, norm_of


@dataclass(frozen=True, slots=True, eq=False)
class Student:
    """The copy, and a row for every candidate."""

    network: nn.Module
    layers: tuple[LayerSeparation, ...]

    @property
    def separated(self) -> list[str]:
        return [layer.name for layer in self.layers if layer.separated]


def student_of(
    model: nn.Module, candidates: Sequence[Candidate], batches: Sequence[Batch] | None, goal: Goal, on_step: OnStep
) -> Student:
    """Forms weighed, chosen and fitted, and norms moved; by the weights alone where there are no batches."""
    menus = menus_of(model, candidates, batches, on_step)
    taken = goal.choose(menus)
    network = deepcopy(model)
    done: list[LayerSeparation] = []
    for candidate, menu, option in zip(candidates, menus, taken, strict=True):
        done.append(_one_(model, network, candidate, menu, option, batches, goal.why_dense))
        on_step("separate", len(done), len(candidates))
    if batches is not None:
        reestimate_(model, network, batches)
    return Student(network, tuple(done))


def _one_(
    model: nn.Module,
    student: nn.Module,
    candidate: Candidate,
    menu: Menu,
    option: Option,
    batches: Sequence[Batch] | None,
    why_dense: str,
) -> LayerSeparation:
    """Put one layer's chosen form into `student`, which is separated up to there."""
    conv, form = candidate.conv, option.form
    row = LayerSeparation(
        candidate.name,
        form,
        candidate.dense.multiplications,
        option.error,
        options=menu.options,
        sensitivity=menu.sensitivity,
    )
    if form.order == "dense":
        return replace(row, reason=why_dense)
    layer = built(conv, form)
    if batches is None:
        put_(layer, start(kernel_of(conv), form, prod(conv.kernel_size)), conv.bias)
        replace_(student, candidate.name, layer)
        return replace(row, svd_error=option.error)
    evidence = evidence_between(model, student, candidate, batches)
    found = fit(conv, form, evidence)
    kernel = found.factors.kernel
    put_(layer, found.factors, bias_of(candidate, kernel, evidence))
    replace_(student, candidate.name, layer)
    original, norm = norm_of(model, candidate), norm_of(student, candidate)
    if original is not None and norm is not None:
        # What the layers after it see is what they will see in the end.
        wanted = evidence.target_mean.flatten()
        mean = wanted if conv.bias is not None else (kernel @ evidence.patch_mean.unsqueeze(2)).flatten()
        move_(norm, original, wanted, evidence.energy.flatten(), mean, evidence.variance(kernel).flatten())
    return replace(row, cumulative_error=found.error, svd_error=found.svd_error, unseen=found.unseen)
