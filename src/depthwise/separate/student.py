"""A copy of a network with a form chosen and fitted for every layer: the original stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from math import isnan, prod

from torch import nn

from .arriving import Original
from .budget import Menu
from .building import built, replace_
from .calibration import Batch
from .choosing import Goal, OnStep, bias_of
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
    model: nn.Module,
    candidates: Sequence[Candidate],
    menus: Sequence[Menu],
    batches: Sequence[Batch] | None,
    goal: Goal,
    on_step: OnStep,
) -> Student:
    """Forms chosen and fitted, and norms moved; by the weights alone where there are no batches."""
    taken = goal.choose(menus)
    network = deepcopy(model)
    done: list[LayerSeparation] = []
    for candidate, menu, option in zip(candidates, menus, taken, strict=True):
        done.append(_one_(model, network, candidate, menu, option, batches, goal.why_dense))
        on_step("separate", len(done), len(candidates))
    if batches is not None and any(layer.separated for layer in done):
        network = _better_norms(model, network, batches)
    return Student(network, tuple(done))


def _better_norms(model: nn.Module, network: nn.Module, batches: Sequence[Batch]) -> nn.Module:
    """`network`, or a copy whose norms all are estimated anew where that is nearer to `model` on the data.

    The norms right after separated layers have moved with them; those further on are moved here too, with more noise.
    """
    original = Original(model, batches)
    copy = deepcopy(network)
    reestimate_(model, copy, batches)
    anew, moved = (original.error_of(partial(Batch.run, model=each)) for each in (copy, network))
    return copy if anew < moved or isnan(moved) else network


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
