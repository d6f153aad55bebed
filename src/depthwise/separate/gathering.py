"""A layer's evidence from calibration batches: its moments, or a sample where those would not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from .. import functional
from ..errors import DepthwiseError
from ..folding import scale_and_shift
from .calibration import Batch, Reached, run_all
from .hooks import hooked
from .moments import CHUNK_BYTES, LIMIT_BYTES, Moments, moments_bytes
from .patches import PLACES, outputs, patches
from .processes import together
from .quadratic import Quadratic, quadratic_
from .sample import Sample
from .survey import Candidate, norm_of

AnyEvidence = Quadratic | Sample


class Gathering:
    """Takes in a layer's inputs and the outputs that are wanted of it, of so many `images` in this process."""

    def __init__(self, conv: _ConvNd, images: int) -> None:
        self.conv = conv
        self.area = prod(conv.kernel_size)
        self.most = PLACES
        patch, group_outputs = conv.in_channels // conv.groups * self.area, conv.out_channels // conv.groups
        self.sums: Moments | Sample
        if moments_bytes(conv) <= LIMIT_BYTES:
            self.sums = Moments.zeros(conv.groups, patch, group_outputs, conv.weight.device)
        else:
            # Half of the memory: what is computed of the rows takes as much again.
            rows = max(1, LIMIT_BYTES // 2 // (4 * conv.groups * (patch + group_outputs)))
            images = max(1, images)
            rows = min(rows, images * PLACES)
            self.sums = Sample(conv.groups, patch, group_outputs, rows, self.area, conv.weight.device)
            self.most = max(1, rows // images)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in an input of the layer and the output wanted of it, a few images at a time."""
        rank = len(self.conv.kernel_size)
        x, y = (functional.batched(tensor.detach(), rank)[0] for tensor in (x, y))
        row_bytes = 8 * self.conv.in_channels * self.area
        images = max(1, CHUNK_BYTES // (row_bytes * min(self.most, max(1, prod(y.shape[2:])))))
        for few, wanted in zip(x.split(images), y.split(images), strict=True):
            self.sums.add(patches(few, self.conv, self.most), outputs(wanted, self.conv, self.most))

    def evidence(self, model: nn.Module, candidate: Candidate) -> AnyEvidence:
        """What was taken in, over all processes, as the error of kernels; `model` has the norm that follows."""
        weights = output_weights(model, candidate)
        if isinstance(self.sums, Sample):
            self.sums.settle_(weights, free_mean=candidate.free_mean)
            found: AnyEvidence = self.sums
            known = self.sums.patches
        else:
            self.sums.reduce_()
            found = quadratic_(self.sums, self.area, weights, free_mean=candidate.free_mean)
            known = found.gram.diagonal(dim1=1, dim2=2)
        if not bool(found.energy.isfinite().all() and known.isfinite().all()):
            raise DepthwiseError(
                f"{candidate.name} got or gave numbers that are not finite on the calibration data; look for NaN in "
                f"the data, or for an overflow before this layer"
            )
        return found


def output_weights(model: nn.Module, candidate: Candidate) -> Tensor:
    """What an error of each output counts: the square of the scale of the norm after it, (groups, group_outputs)."""
    norm = norm_of(model, candidate)
    conv = candidate.conv
    weights = torch.ones(conv.out_channels, dtype=torch.float64, device=conv.weight.device)
    if norm is not None:
        scale = scale_and_shift(norm)[0].detach().square()
        if bool(scale.isfinite().all()) and float(scale.sum()) > 0:
            weights = scale
    return weights.reshape(conv.groups, -1)


def own_evidence(
    model: nn.Module, candidates: Sequence[Candidate], batches: Sequence[Batch]
) -> Iterator[tuple[Candidate, AnyEvidence]]:
    """Each candidate's evidence from the model as it is; as many at a time as fit in memory."""
    for few in _fitting(candidates):
        gatherings = [_gathering(candidate, batches) for candidate in few]
        with ExitStack() as stack:
            for candidate, gathering in zip(few, gatherings, strict=True):
                stack.enter_context(hooked(candidate.conv, lambda _, args, y, g=gathering: g.add(args[0], y)))
            run_all(model, batches)
        found = [gathering.evidence(model, each) for each, gathering in zip(few, gatherings, strict=True)]
        del gatherings
        # What was used is let go before more is gathered.
        for candidate in few:
            yield candidate, found.pop(0)


def evidence_between(
    model: nn.Module, student: nn.Module, candidate: Candidate, batches: Sequence[Batch]
) -> AnyEvidence:
    """A candidate's evidence with inputs from `student` and outputs from `model`."""
    gathering = _gathering(candidate, batches)
    copy = student.get_submodule(candidate.name)
    with together():
        for batch in batches:
            wanted = _calls(model, candidate.conv, batch, candidate.calls, inputs=False)
            given = _calls(student, copy, batch, candidate.calls, inputs=True)
            if len(wanted) != len(given):
                raise DepthwiseError(
                    f"{candidate.name} is called {len(wanted)} times by the dense network and {len(given)} times by "
                    f"the separated one on the same batch; leave it out with where="
                )
            for x, y in zip(given, wanted, strict=True):
                gathering.add(x, y)
    return gathering.evidence(model, candidate)


def _gathering(candidate: Candidate, batches: Sequence[Batch]) -> Gathering:
    return Gathering(candidate.conv, candidate.calls * sum(batch.samples for batch in batches))


def _calls(model: nn.Module, module: nn.Module, batch: Batch, calls: int, *, inputs: bool) -> list[Tensor]:
    """What `module` gets, or gives, in a forward of `model`, which ends there where that is the only call."""
    found: list[Tensor] = []

    def seen(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        found.append((args[0] if inputs else output).detach())
        if calls == 1:
            raise Reached
        # What follows may change it in place.
        found[-1] = found[-1].clone()

    with hooked(module, seen):
        batch.run(model)
    return found


def _fitting(candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    """Runs of candidates whose moments fit in memory together."""
    few: list[Candidate] = []
    held = 0
    for candidate in candidates:
        needed = min(moments_bytes(candidate.conv), LIMIT_BYTES)
        if few and held + needed > LIMIT_BYTES:
            yield few
            few, held = [], 0
        few.append(candidate)
        held += needed
    if few:
        yield few
