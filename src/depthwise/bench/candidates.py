"""One case on so many threads: every candidate through the gate, then all that passed in turn.

    for every candidate and layout:                   ours, the peers, the dense convolution
        check its output against float64, or keep the reason
    measure the FMA peak
    for round in rounds:
        for every candidate and layout that passed:   A B C D A B C D ...
            call it once, then time as many calls as fill a sample
    measure the FMA peak again

The peak is the higher of the two: whatever else the machine does can only lower it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..backends import Choice, observed_choices
from ..errors import DepthwiseError
from ..measure.turns import Effort, Key, take_turns
from .calls import Build, Call, ours, torch_dense, torch_parts
from .cases import LAYOUTS, Case, Tensors, tensors_of
from .gate import Expected, expected_of, fault
from .peaks import refreshed, torch_threads
from .roofline import Peaks, least_seconds, work_of
from .rows import DENSE, OURS, TORCH, Failure, Row, Spread, Timing

# A dense convolution of more is not timed: it would take longer than everything else of its case.
DENSE_FLOPS = 8e9


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to do a case's work: `build` makes a call of a case, its tensors, a layout and a number of threads.

    is_dense: it does the dense convolution's work, and is neither held against the gate nor asked for elsewhere
    """

    name: str
    build: Callable[[Case, Tensors, str, int], Call]
    layouts: tuple[str, ...] = LAYOUTS
    is_dense: bool = False


def _in_process(build: Build) -> Callable[[Case, Tensors, str, int], Call]:
    """A candidate that uses as many threads as torch is set to."""
    return lambda case, tensors, layout, _: build(case, tensors, layout)


STANDARD = (
    Candidate(OURS, _in_process(ours)),
    Candidate(TORCH, _in_process(torch_parts)),
    Candidate(DENSE, _in_process(torch_dense), is_dense=True),
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A case with its tensors and its right output: the same for every number of threads."""

    case: Case
    tensors: Tensors
    expected: Expected


def prepared(case: Case) -> Prepared:
    # On one thread: float64 takes PyTorch's slow path, whose many small parallel regions wait for each other.
    with torch_threads(1), torch.no_grad():
        tensors = tensors_of(case)
        return Prepared(case, tensors, expected_of(case, tensors))


def measure(task: Prepared, candidates: Sequence[Candidate], peaks: Peaks, effort: Effort) -> Row:
    """The row of one case on `peaks.threads` threads."""
    calls: dict[Key, Call] = {}
    failures = []
    seen: list[Choice] = []
    with torch_threads(peaks.threads), torch.inference_mode():
        # A call like an earlier one is not chosen for again, so the first ones are looked at.
        with observed_choices(seen.append):
            for candidate, layout in _taking_part(task.case, candidates):
                passed = _passed(candidate, task, layout, peaks.threads)
                if isinstance(passed, str):
                    failures.append(Failure(candidate.name, layout, passed))
                else:
                    calls[candidate.name, layout] = passed
        before = refreshed(peaks)
        samples = take_turns(calls, effort, lambda: None)
        after = refreshed(peaks)
    return _row(task.case, samples, failures, seen, max(before, after, key=lambda peak: peak.fma_gflops or 0))


def _row(
    case: Case, samples: Mapping[Key, list[float]], failures: Sequence[Failure], seen: Sequence[Choice], peaks: Peaks
) -> Row:
    work = work_of(case, peaks.vector_lanes)
    least = least_seconds(work, peaks)
    kernels = (choice.backend.kernel(choice.problem) for choice in seen)
    return Row(
        case=case,
        threads=peaks.threads,
        ran_on="; ".join(dict.fromkeys(map(_ran_on, seen))),
        kernels=tuple(dict.fromkeys(kernel for kernel in kernels if kernel is not None)),
        timings=tuple(Timing(name, layout, Spread.of(taken)) for (name, layout), taken in samples.items()),
        failures=tuple(failures),
        work=work,
        fma_gflops=peaks.fma_gflops,
        least_seconds=None if least is None else least[0],
        limit=None if least is None else least[1],
    )


def _ran_on(choice: Choice) -> str:
    refusals = "".join(f"; {name} refuses: {why}" for name, why in choice.refusals)
    return choice.backend.name + refusals


def _taking_part(case: Case, candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, str]]:
    """Every candidate that can do the case's work, in each of its layouts."""
    for candidate in candidates:
        if not candidate.is_dense or has_dense(case):
            yield from ((candidate, layout) for layout in candidate.layouts)


def _passed(candidate: Candidate, task: Prepared, layout: str, threads: int) -> Call | str:
    """The candidate's call, or why it is not timed."""
    try:
        call = candidate.build(task.case, task.tensors, layout, threads)
        output = call()
    except (DepthwiseError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    if candidate.is_dense:
        return call
    return fault(output, task.expected) or call


def has_dense(case: Case) -> bool:
    """Whether the dense convolution that the case stands for is timed: it is there, and not too long."""
    return case.operation == "separable" and 2 * case.batch * case.cost.dense.macs <= DENSE_FLOPS
