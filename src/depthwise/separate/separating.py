"""`separate_` and `separated_like`: a trained dense network becomes depthwise separable, in place.

    1. survey: which convolutions have cheaper forms, in the order they run
    2. options: what each form of each layer would lose, that layer alone, and how much of it reaches the output
    3. choice: one form for each layer, under one budget or one greatest error
    4. fits, in the order they run: inputs from what is already separated, outputs from the original
    5. batch-norm statistics moved by what changed

All of it happens on a copy; the model is touched when nothing can fail any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import replace
from math import isfinite, prod, sqrt
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..errors import DepthwiseError
from ..geometry import positive
from .arriving import error_at_output
from .budget import Menu, check_budget
from .building import built, replace_
from .calibration import Adapter, Batch, batches_of, device_of
from .checks import check_model
from .choosing import OnStep, bias_of, choice, menus_of
from .fitting import fit, kernel_of, put_, start
from .gathering import evidence_between
from .hooks import hooked
from .norms import move_, reestimate_
from .options import Option
from .processes import add_up_, together
from .report import LayerSeparation, Separation
from .survey import Candidate, Where, norm_of, survey

DEFAULT_BUDGET = 0.5


def separate_(
    model: nn.Module,
    calibration: Any = None,
    *,
    budget: float | None = None,
    max_error: float | None = None,
    where: Where | None = None,
    adapter: Adapter | None = None,
    input_size: Sequence[int] | Sequence[Sequence[int]] | None = None,
    on_step: OnStep = lambda *_: None,
) -> Separation:
    """Make the dense convolutions of a trained network depthwise separable, in place, and say what it cost.

    calibration: unlabelled samples, a few hundred: a tensor of them, one batch (a tuple is called as model(*batch), a
                 dict as model(**batch)), or any iterable of batches; None takes the weights alone: plain SVD
    budget:      share of the dense multiplications, over the layers with a cheaper form; 0.5 where nothing is given
    max_error:   or: the greatest relative error of each layer's output, that layer separated alone; errors add up on
                 the way to the network's output, which `output_error` of the report tells
    where:       where(name, convolution) says which layers may change; all where not given
    adapter:     makes of each batch what the model is called with, such as lambda batch: batch[0]
    input_size:  (channels, *spatial), or one for each input, to count multiplications where there is no calibration
    on_step:     called with what was done, how many of it, and of how many

    The model is in evaluation mode. Layers become SeparableConv*, or the blueprint block of `depthwise.blocks` where
    pointwise first is better. With `torch.distributed` initialised each process gives its part of the data. The model
    is unchanged, bit for bit, where an error is raised.

    >>> from depthwise import separate_
    >>> model = nn.Sequential(nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()).eval()
    >>> report = separate_(model, torch.randn(32, 8, 9, 9), budget=0.3)
    >>> report.share <= 0.3, type(model[0]).__name__
    (True, 'SeparableConv2d')
    """
    if budget is not None and max_error is not None:
        raise DepthwiseError("give either budget= or max_error=, not both")
    if max_error is not None:
        check_budget(max_error, "max_error")
    elif budget is None:
        budget = DEFAULT_BUDGET
    if budget is not None:
        check_budget(budget)
    check_model(model)
    with together():
        batches = None if calibration is None else batches_of(calibration, adapter, device_of(model))
    # Inside of it tensors have no versions, and what is made cannot be trained.
    with torch.inference_mode(mode=False), _own_random_state(model):
        return _separated(model, batches, budget, max_error, where, input_size, on_step)


def separated_like(model: nn.Module, report: Separation) -> nn.Module:
    """A copy of the dense `model` with the structure of the separated one, weights not yet set.

    A separated network's state dict, saved with its report beside it, loads into the result.

    >>> from depthwise import separate_, separated_like
    >>> model = nn.Sequential(nn.Conv2d(8, 16, 3)).eval()
    >>> report = separate_(model)
    >>> separated_like(nn.Sequential(nn.Conv2d(8, 16, 3)), report).load_state_dict(model.state_dict())
    <All keys matched successfully>
    """
    copy = deepcopy(model)
    with _own_random_state(model):
        for layer in report.separated:
            try:
                conv = copy.get_submodule(layer.name)
            except AttributeError:
                raise DepthwiseError(f"the report separates {layer.name}, and the model has no such module") from None
            if not isinstance(conv, _ConvNd) or conv.transposed:
                raise DepthwiseError(
                    f"the report separates {layer.name}, a dense convolution; the model has {type(conv).__name__} there"
                )
            replace_(copy, layer.name, built(conv, layer.form))
    return copy


def _separated(
    model: nn.Module,
    batches: list[Batch] | None,
    budget: float | None,
    max_error: float | None,
    where: Where | None,
    input_size: Sequence[int] | Sequence[Sequence[int]] | None,
    on_step: OnStep,
) -> Separation:
    example = batches[0] if batches is not None else None if input_size is None else _zeros(model, input_size)
    candidates, left = survey(model, example, where)
    menus = menus_of(model, candidates, batches, on_step)
    taken = choice(menus, budget, max_error)
    why_dense = "the budget has room for it" if budget is not None else f"no form is within max_error={max_error}"
    student = deepcopy(model)
    done = []
    for candidate, menu, option in zip(candidates, menus, taken, strict=True):
        done.append(_one_(model, student, candidate, menu, option, batches, why_dense))
        on_step("separate", len(done), len(candidates))
    separated = [layer.name for layer in done if layer.separated]
    output_error = None
    if batches is not None:
        reestimate_(model, student, batches)
        output_error = _output_error(model, student, batches, separated)
    _transplant_(model, student, separated)
    stay = [LayerSeparation(each.name, each.dense, each.dense.multiplications, reason=each.reason) for each in left]
    places = {name: place for place, (name, _) in enumerate(model.named_modules())}
    return Separation(
        layers=tuple(sorted([*done, *stay], key=lambda layer: places[layer.name])),
        per="output position" if example is None else "sample",
        budget=budget,
        max_error=max_error,
        output_error=output_error,
        samples=0 if batches is None else _total(sum(batch.samples for batch in batches), model),
    )


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


def _output_error(model: nn.Module, student: nn.Module, batches: Sequence[Batch], separated: list[str]) -> float:
    """The relative error of the network's output; raises where a separated layer is not called, or gives NaN."""
    called: set[str] = set()
    with ExitStack() as stack:
        for name in separated:
            stack.enter_context(hooked(student.get_submodule(name), lambda *_, name=name: called.add(name)))
        error = error_at_output(model, lambda batch: batch.run(student), batches)
    missing = [name for name in separated if name not in called]
    if missing:
        raise DepthwiseError(
            f"the model does not call the separable layer that stands at {missing[0]}: it keeps the dense convolution "
            f"somewhere else too, such as in a list; leave it out with where="
        )
    if not isfinite(error):
        raise DepthwiseError("the separated network's output is not finite on the calibration data")
    return sqrt(error)


def _transplant_(model: nn.Module, student: nn.Module, separated: list[str]) -> None:
    """Make `model` what `student` became: its separated layers, and its norms' statistics."""
    for name in separated:
        replace_(model, name, student.get_submodule(name))
    for name, norm in model.named_modules():
        copy = student.get_submodule(name)
        if isinstance(norm, _BatchNorm) and isinstance(copy, _BatchNorm):
            for own, new in ((norm.running_mean, copy.running_mean), (norm.running_var, copy.running_var)):
                if own is not None and new is not None and not torch.equal(own, new):
                    own.copy_(new)


def _zeros(model: nn.Module, input_size: Any) -> Batch:
    if not isinstance(input_size, Sequence) or not input_size:
        raise DepthwiseError(f"input_size is (channels, *spatial), or a tuple of them; got {input_size!r}")
    sizes = input_size if isinstance(input_size[0], Sequence) else (input_size,)
    floating = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), torch.empty(0))
    zeros = (floating.detach().new_zeros((1, *(positive(n, "input_size") for n in size))) for size in sizes)
    return Batch(tuple(zeros), {}, 1)


def _total(samples: int, model: nn.Module) -> int:
    total = torch.tensor([float(samples)], dtype=torch.float64, device=device_of(model))
    add_up_(total)
    return int(total)


@contextmanager
def _own_random_state(model: nn.Module) -> Iterator[None]:
    """New layers draw their first weights, which are not kept; torch's random state stays as it was."""
    devices = {each.device for each in model.parameters() if each.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        yield
