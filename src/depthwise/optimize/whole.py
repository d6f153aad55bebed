"""A segment as one program of the CPU backend: bound for each batch that comes, run on the memory of its tensors.

What it reads is read where it lies, if that is as the program has it, else laid out first; what it gives is written
where the results lie. Calls from several threads share nothing but what does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends import CPU, asked_backend
from ..backends.forks import Lock
from ..backends.formats import same_strides
from ..backends.packs import Packs
from ..backends.series import Compiled, Figures, Series
from ..backends.tensors import is_listened_to, why_not_memory
from ..errors import DepthwiseError
from .lowering import Lie, LoweredGraph, fused
from .rules import Shape
from .segments import Program, Segment

# Batches and numbers of threads that a segment is kept bound for, the oldest go first.
MOST_KEPT = 8


class Call:
    """A bound program, how what it reads must lie, and how what it gives does.

    names:   of what it reads; results: the buffers that it writes for the caller, and theirs
    """

    def __init__(
        self,
        compiled: Compiled,
        names: Sequence[str],
        reads: Sequence[Lie],
        results: Sequence[Lie],
        gives: Sequence[Lie],
    ) -> None:
        self._run = compiled.run
        self._reads = [(name, lie.buffer, lie.shape, lie.strides) for name, lie in zip(names, reads, strict=True)]
        self._results = [(lie.buffer, lie.shape, lie.strides) for lie in results]
        self._gives = [(lie.buffer, lie.shape, lie.strides) for lie in gives]

    def reads(self, given: Sequence[Tensor]) -> bool:
        """Whether what it is given is as it was planned."""
        return all(
            x.shape == shape and x.dtype is torch.float32 and _is_plain(name, x)
            for (name, _, shape, _), x in zip(self._reads, given, strict=True)
        )

    def computed(self, given: Sequence[Tensor]) -> list[Tensor]:
        """What it gives for tensors that it reads."""
        tensors: dict[str, Tensor] = {}
        for (_, buffer, shape, strides), x in zip(self._reads, given, strict=True):
            tensors[buffer] = x if x.stride() == strides else _laid(x, shape, strides)
        for buffer, shape, strides in self._results:
            # Named, as the defaults may be others (torch.set_default_dtype).
            tensors[buffer] = torch.empty_strided(shape, strides, dtype=torch.float32, device="cpu")
        self._run({name: tensor.data_ptr() for name, tensor in tensors.items()})
        return [_seen(tensors[buffer], shape, strides) for buffer, shape, strides in self._gives]


def _is_plain(name: str, x: Tensor) -> bool:
    """Whether a value is dense memory of this process, its numbers as they are; raises where its memory is gone."""
    try:
        return why_not_memory(x) is None and not x.is_neg()
    except DepthwiseError as error:
        raise DepthwiseError(f"{name} {error}") from None


class _NoWork(Compiled):
    """A segment whose nodes are other names for what it reads."""

    def run(self, addresses: Mapping[str, int]) -> None: ...


class _Missing:
    """Stands for a call that is not kept; None is one that cannot be made."""


_MISSING = _Missing()


def _laid(x: Tensor, shape: Shape, strides: Shape) -> Tensor:
    return x if same_strides(shape, x.stride(), strides) else x.new_empty_strided(shape, strides).copy_(x)


def _seen(tensor: Tensor, shape: Shape, strides: Shape) -> Tensor:
    """The value that lies in a tensor's memory."""
    return tensor if tensor.shape == shape and tensor.stride() == strides else tensor.as_strided(shape, strides)


class Whole(Program):
    """A segment in one call; on torch's operators where it cannot run so: without images, under modes and transforms.

    at: the network lowered for a batch; packs: of the network's weights
    """

    def __init__(
        self,
        segment: Segment,
        at: Callable[[int], LoweredGraph],
        batch: int,
        otherwise: Program,
        weights: Mapping[str, Tensor],
        packs: Packs,
    ) -> None:
        self._segment = segment
        self._at = at
        self._batch = batch
        self._otherwise = otherwise
        self._weights = weights
        self._packs = packs
        self._kept: dict[tuple[int, int], Call | None] = {}
        self._lock = Lock()

    def run(self, given: Sequence[Any], batch: int) -> Sequence[Any]:
        if batch and not is_listened_to() and asked_backend() in (None, CPU.name):
            call = self.call(batch)
            if call is not None and call.reads(given):
                return call.computed(given)
        self._packs.stay()
        return self._otherwise.run(given, batch)

    def figures(self) -> Figures | None:
        with self._packs.weights():
            series = self._series(self._at(self._batch))
        return CPU.figures(series) if series is not None and series.steps else None

    def call(self, batch: int) -> Call | None:
        """The program bound for a batch and this number of threads; None where there is none."""
        key = batch, torch.get_num_threads()
        found = self._kept.get(key, _MISSING)
        if not isinstance(found, _Missing):
            return found
        with self._lock.mine:
            if key not in self._kept:
                while len(self._kept) >= MOST_KEPT:
                    del self._kept[next(iter(self._kept))]
                with self._packs.weights():
                    self._kept[key] = self._bound(batch)
            return self._kept[key]

    def _bound(self, batch: int) -> Call | None:
        graph, segment = self._at(batch), self._segment
        series = self._series(graph)
        if series is None:
            return None
        self._packs.keep(series.constants.values())
        compiled = CPU.compiled(series, self._packs) if series.steps else _NoWork()
        if compiled is None:
            return None
        reads = tuple(graph.lies[name] for name in segment.reads)
        gives = tuple(graph.lies[name] for name in segment.gives)
        return Call(compiled, segment.reads, reads, tuple(graph.lies[name] for name in sorted(series.gives)), gives)

    def _series(self, graph: LoweredGraph) -> Series | None:
        """The segment's steps; None where one of its nodes has none at this batch."""
        segment = self._segment
        names = [node.name for node in segment.nodes]
        if not all(name in graph.lies for name in (*segment.reads, *segment.gives)):
            return None
        if any(graph.refusals.get(name) is not None for name in names):
            return None
        takes = frozenset(graph.lies[name].buffer for name in segment.reads)
        gives = frozenset(graph.lies[name].buffer for name in segment.gives) - takes
        steps = fused([step for name in names for step in graph.steps[name]], gives)
        used = {buffer for step in steps for _, buffer in step.buffers}
        constants = {name: self._weights[name].contiguous() for name in used & self._weights.keys()}
        return Series(steps, takes, gives, graph.elements, constants)
