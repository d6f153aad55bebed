"""`separate_` and `separated_like`: a trained dense network becomes depthwise separable, in place.

    1. survey: which convolutions have cheaper forms, in the order they run
    2. options: what each form of each layer would lose, that layer alone, and how much of it reaches the output
    3. choice: one form for each layer, under one budget or one greatest error
    4. fits, in the order they run: inputs from what is already separated, outputs from the original
    5. batch-norm statistics moved by what changed

All of it happens on a copy; the model is touched when nothing can fail any more.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import replace
from math import isfinite, sqrt
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..errors import DepthwiseError, said
from ..geometry import positive
from .arriving import Original
from .budget import check_budget, predicted
from .building import built, replace_
from .calibration import Adapter, Batch, batches_of, device_of
from .checks import check_callable, check_fits, check_model
from .choosing import Goal, OnStep, menus_of
from .effective import as_plain
from .evaluation import Evaluate, value_of
from .hooks import hooked
from .processes import from_first, together
from .progress import shown_steps
from .report import Evaluated, LayerSeparation, Separation, option_of
from .selection import Chosen, Where, chosen_by
from .student import Student, student_of
from .survey import Candidate, Left, survey
from .trial import counted, enough
from .whole import Rest, elsewhere

DEFAULT_BUDGET = 0.5
# Of the network's multiplications: layers with a choice that are less are not worth an error.
WORTH = 0.1
# How often forms are chosen anew where what came of them is beyond max_error.
TRIES = 6


def separate_(
    model: nn.Module,
    calibration: Any = None,
    *,
    budget: float | None = None,
    max_error: float | None = None,
    where: Where | None = None,
    adapter: Adapter | None = None,
    input_size: Sequence[int] | Sequence[Sequence[int]] | None = None,
    evaluate: Evaluate | None = None,
    evaluate_at: Sequence[float] = (),
    on_step: OnStep = lambda *_: None,
    progress: bool = True,
) -> Separation:
    """Make the dense convolutions of a trained network depthwise separable, in place, and say what it cost.

    calibration: unlabelled samples, a few hundred: a tensor of them, a dict of keyword arguments, or an iterable of
                 batches, such as a DataLoader; of a batch that is a tuple or a list the first element is the input, and
                 labels are left out; several inputs are a tuple in its place. None takes the weights alone: plain SVD
    budget:      share of the dense multiplications, over the layers with a cheaper form; 0.5 where nothing is given
    max_error:   or: the greatest relative error of the network's output on the calibration data, measured; without
                 such data, of each layer's kernel
    where:       which layers may change, all where not given: a name, of a layer or of a module with layers, a pattern
                 such as "features.*", a list of those, or where(name, convolution)
    adapter:     makes the input of any other batch, such as lambda batch: batch["image"]
    input_size:  (channels, *spatial), or one for each input, to count multiplications where there is no calibration
    evaluate:    evaluate(network) gives a number, higher is better, such as an accuracy; its values for the dense and
                 the separated network stand in the report
    evaluate_at: budgets at which it is called too, each for a separated copy that is then dropped
    on_step:     called with what was done, how many of it, and of how many
    progress:    bars on a terminal or in a notebook

    The model is in evaluation mode. Layers become SeparableConv*, or the blueprint block of `depthwise.blocks` where
    pointwise first is better. Where samples are few, a fit to most of them is tried on the others first; where it is
    worse there than the weights alone, those are used, and a warning says so. With `torch.distributed` initialised each
    process gives its part of the data. The model is unchanged, bit for bit, where an error is raised.

    >>> from depthwise import separate_
    >>> model = nn.Sequential(nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()).eval()
    >>> report = separate_(model, torch.randn(32, 8, 9, 9), budget=0.3)
    >>> report.share <= 0.3, type(model[0]).__name__
    (True, 'SeparableConv2d')
    """
    if budget is not None and max_error is not None:
        raise DepthwiseError("give either budget= or max_error=, not both")
    by_default = budget is None and max_error is None
    if max_error is not None:
        check_budget(max_error, "max_error")
    elif budget is None:
        budget = DEFAULT_BUDGET
    if budget is not None:
        check_budget(budget)
    if not isinstance(evaluate_at, Sequence):
        raise DepthwiseError(f"evaluate_at is a list of budgets; got {evaluate_at!r:.80}")
    at = tuple(check_budget(each, "evaluate_at") for each in evaluate_at)
    if at and evaluate is None:
        raise DepthwiseError("evaluate_at= says where to call evaluate=, which is not given")
    for name, given in (("adapter", adapter), ("evaluate", evaluate), ("on_step", on_step)):
        if given is not None:
            check_callable(given, name)
    check_model(model)
    # Inside of inference mode tensors have no versions, and what is made cannot be trained.
    with torch.inference_mode(mode=False), torch.no_grad(), _own_random_state(model):
        with together():
            chosen = None if where is None else chosen_by(model, where)
            batches = None if calibration is None else batches_of(calibration, adapter, device_of(model))
        with shown_steps(on_step, shown=progress) as steps:
            return _separated(
                model, batches, Goal(budget, max_error, by_default=by_default), chosen, input_size, evaluate, at, steps
            )


def separated_like(model: nn.Module, report: Separation) -> nn.Module:
    """A copy of the dense `model` with the structure of the separated one, weights not yet set.

    A separated network's state dict, saved with its report beside it, loads into the result.

    >>> from depthwise import separate_, separated_like
    >>> model = nn.Sequential(nn.Conv2d(8, 16, 3)).eval()
    >>> report = separate_(model)
    >>> separated_like(nn.Sequential(nn.Conv2d(8, 16, 3)), report).load_state_dict(model.state_dict())
    <All keys matched successfully>
    """
    if not isinstance(model, nn.Module):
        raise DepthwiseError(f"separated_like takes a torch.nn.Module; got {type(model).__name__}")
    if not isinstance(report, Separation):
        raise DepthwiseError(
            f"separated_like takes the report that separate_ gave, or Separation.load(path); got "
            f"{type(report).__name__}"
        )
    with torch.inference_mode(mode=False), _own_random_state(model):
        copy, read = deepcopy(model), as_plain(model)
        for layer in report.separated:
            try:
                conv = read.get_submodule(layer.name)
            except AttributeError:
                raise DepthwiseError(f"the report separates {layer.name}, and the model has no such module") from None
            if not isinstance(conv, _ConvNd) or conv.transposed:
                raise DepthwiseError(
                    f"the report separates {layer.name}, a dense convolution; the model has {type(conv).__name__} there"
                )
            check_fits(conv, layer)
            replace_(copy, layer.name, built(conv, layer.form))
    return copy


def _separated(
    model: nn.Module,
    batches: list[Batch] | None,
    goal: Goal,
    where: Chosen | None,
    input_size: Sequence[int] | Sequence[Sequence[int]] | None,
    evaluate: Evaluate | None,
    evaluate_at: tuple[float, ...],
    on_step: OnStep,
) -> Separation:
    example = batches[0] if batches is not None else None if input_size is None else _zeros(model, input_size)
    network = as_plain(model)
    candidates, left = survey(network, example, where)
    samples = 0 if batches is None else counted(batches, device_of(model))
    rest = from_first(elsewhere(network, example, {candidate.name for candidate in candidates}))
    candidates, left, remarks = _worth_it(candidates, left, rest, goal)
    fitting = batches
    if batches is not None:
        fitting, few = enough(network, candidates, batches, samples, goal, on_step)
        remarks += few
    menus = menus_of(network, candidates, fitting, on_step)

    def separated(goal: Goal) -> tuple[Student, float | None]:
        student = student_of(network, candidates, menus, fitting, goal, on_step)
        return student, None if batches is None else _output_error(network, student, batches)

    before = None if evaluate is None else value_of(model, evaluate)
    student, output_error = _within(goal, separated) if fitting is not None else separated(goal)
    after = None if evaluate is None else value_of(student.network, evaluate)
    evaluated = []
    if evaluate is not None:
        for budget in evaluate_at:
            other, error = separated(Goal(budget, None))
            spent = sum(layer.multiplications_after for layer in other.layers)
            evaluated.append(Evaluated(budget, spent, error, value_of(other.network, evaluate)))
    for remark in remarks:
        warnings.warn(remark, stacklevel=3)
    _transplant_(model, student)
    stay = [LayerSeparation(each.name, each.dense, each.dense.multiplications, reason=each.reason) for each in left]
    places = {name: place for place, (name, _) in enumerate(model.named_modules())}
    return Separation(
        layers=tuple(sorted([*student.layers, *stay], key=lambda layer: places[layer.name])),
        per="output position" if example is None else "sample",
        budget=goal.budget,
        max_error=goal.max_error,
        output_error=output_error,
        samples=samples,
        remarks=remarks,
        elsewhere=rest,
        value_before=before,
        value_after=after,
        evaluated=tuple(evaluated),
    )


def _within(goal: Goal, separated: Callable[[Goal], tuple[Student, float | None]]) -> tuple[Student, float | None]:
    """What `separated` gives for a goal, tried again, more carefully each time, while it is beyond its `max_error`."""
    student, error = separated(goal)
    for _ in range(TRIES):
        if goal.max_error is None or error is None or error <= goal.max_error:
            return student, error
        expected = predicted([option_of(layer) for layer in student.layers])
        # A twentieth more than what came of the prediction, so that it comes to an end.
        factor = 1.05 * error / expected if expected > 0 else 2 * goal.factor
        goal = replace(goal, factor=max(factor, 1.05 * goal.factor))
        student, error = separated(goal)
    return (student, error) if error is None or error <= (goal.max_error or 1.0) else separated(Goal(1.0, None))


def _worth_it(
    candidates: list[Candidate], left: list[Left], rest: tuple[Rest, ...] | None, goal: Goal
) -> tuple[list[Candidate], list[Left], tuple[str, ...]]:
    """The candidates, or none of them where they are too little of the network and no budget was asked for."""
    dense = sum(candidate.dense.multiplications for candidate in candidates)
    whole = dense + sum(each.multiplications for each in rest or ())
    if rest is None or not candidates or dense >= WORTH * whole:
        return candidates, left, ()
    words = f"the layers with a choice are {100 * dense / whole:.1f} of 100 multiplications of the network"
    if not goal.by_default:
        return candidates, left, (f"{words}: there is little to gain",)
    reason = "there is nothing to gain in them"
    stay = [Left(candidate.name, candidate.dense, reason) for candidate in candidates]
    return [], [*left, *stay], (f"{words}: {reason}, and they stay as they are; budget= separates them all the same",)


def _output_error(model: nn.Module, student: Student, batches: Sequence[Batch]) -> float:
    """The relative error of the network's output; raises where a separated layer is not called, or gives NaN."""
    called: set[str] = set()
    with ExitStack() as stack:
        for name in student.separated:
            stack.enter_context(hooked(student.network.get_submodule(name), lambda *_, name=name: called.add(name)))
        error = Original(model, batches).error_of(lambda batch: batch.run(student.network))
    missing = [name for name in student.separated if name not in called]
    if missing:
        raise DepthwiseError(
            f"the model does not call the separable layer that stands at {missing[0]}: it keeps the dense convolution "
            f"somewhere else too, such as in a list; leave it out with where="
        )
    if not isfinite(error):
        raise DepthwiseError("the separated network's output is not finite on the calibration data")
    return sqrt(error)


def _transplant_(model: nn.Module, student: Student) -> None:
    """Make `model` what `student` became: its separated layers, and its norms' statistics."""
    for name in student.separated:
        replace_(model, name, student.network.get_submodule(name))
    for name, norm in model.named_modules():
        copy = student.network.get_submodule(name)
        if isinstance(norm, _BatchNorm) and isinstance(copy, _BatchNorm):
            for own, new in ((norm.running_mean, copy.running_mean), (norm.running_var, copy.running_var)):
                if own is not None and new is not None and not torch.equal(own, new):
                    # What was made in inference mode is changed there only.
                    with torch.inference_mode(mode=own.is_inference()):
                        own.copy_(new)


def _zeros(model: nn.Module, input_size: Any) -> Batch:
    if not isinstance(input_size, Sequence) or not input_size or isinstance(input_size, str | bytes):
        raise DepthwiseError(f"input_size is (channels, *spatial), or a tuple of them; got {input_size!r}")
    sizes = input_size if isinstance(input_size[0], Sequence) else (input_size,)
    sizes = [(1, *(positive(n, "input_size") for n in size)) for size in sizes]
    floating = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), torch.empty(0))
    try:
        zeros = tuple(floating.detach().new_zeros(size) for size in sizes)
    # torch says so where memory, or a number of 64 bits, does not suffice.
    except RuntimeError as error:
        raise DepthwiseError(f"input_size={input_size!r} is more than fits in memory: {said(error)}") from error
    return Batch(zeros, {}, 1)


@contextmanager
def _own_random_state(model: nn.Module) -> Iterator[None]:
    """New layers draw their first weights, which are not kept; torch's random state stays as it was."""
    devices = {each.device for each in model.parameters() if each.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        yield
