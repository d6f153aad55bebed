"""Calls like one before: what was looked at then is not looked at again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends import CPU, asked_backend
from ..backends.calls import guard
from ..backends.tensors import address_of, is_listened_to
from .graph import Batch, Leaf, Tree, Value
from .operators import FORMATS
from .planning import Plan
from .whole import Call, Whole

# Kinds of calls that a network knows, the latest first.
MOST_KNOWN = 4


class Again:
    """A network that is one program, bound for arguments like these; its results are tensors that the program writes.

    order: of the arguments that the program reads; names: of what it gives
    lasts: of the network's results, by name, whether they lie channels-last
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        call: Call,
        order: Sequence[int],
        names: Sequence[str],
        gives: Leaf,
        lasts: Mapping[str, bool],
        batch: int,
    ) -> None:
        self._call, self._order, self._names, self._gives, self._batch = call, order, names, gives, batch
        self._lasts = lasts
        self._threads, self._count, self._is_alike = torch.get_num_threads(), len(tensors), guard(*tensors)
        # From where a tensor begins to where it ends.
        self._bytes = [
            x.itemsize * (1 + sum((size - 1) * step for size, step in zip(x.shape, x.stride(), strict=True)))
            for x in tensors
        ]

    def run(self, args: Sequence[Any]) -> tuple[Any] | None:
        """What the network gives; None where the arguments, or what is around the call, are to be looked at."""
        # For tensors without strides torch's guards end the process.
        if len(args) != self._count or any(isinstance(x, Tensor) and x.is_nested for x in args):
            return None
        if not self._is_alike(*args) or torch.get_num_threads() != self._threads:
            return None
        if not _is_plain_call():
            return None
        for x, count in zip(args, self._bytes, strict=True):
            if not x.data_ptr() or x.untyped_storage().nbytes() < x.itemsize * x.storage_offset() + count:
                return None
        made = dict(zip(self._names, self._call.computed([args[number] for number in self._order]), strict=True))

        def result(leaf: Any) -> Any:
            if isinstance(leaf, Batch):
                return leaf.multiple * self._batch
            return laid_out(made[leaf.name], self._lasts[leaf.name]) if isinstance(leaf, Value) else leaf

        gives = self._gives
        return (gives.mapped(result) if isinstance(gives, Tree) else result(gives),)


def again(
    found: Plan, args: Sequence[Any], batch: int, values: Mapping[str, Any], lasts: Sequence[bool]
) -> Again | None:
    """How such a call is made again; None where more is to be done for it than to run one program.

    args:   positional arguments of a call, which had none by name
    values: what the plan gave for it
    lasts:  of the results in turn, whether they lie channels-last
    """
    # A gradient is asked for, or not, at each call.
    if len(found.programs) != 1 or not batch or not _is_plain_call() or any(x.requires_grad for x in args):
        return None
    graph, (program,), (segment,) = found.network.graph, found.programs, found.segments
    names, taken = list(graph.returned()), graph.takes.items[0]
    # Arguments are tensors, none within another; results are the program's own.
    places = {
        item.name: n for n, item in enumerate(taken.items if isinstance(taken, Tree) else ()) if isinstance(item, Value)
    }
    if len(places) != len(args) or not isinstance(program, Whole) or not set(names) <= set(segment.gives):
        return None
    # Results in memory of their own, which are cloned nowhere.
    addresses = [address_of(tensor) for tensor in (*args, *(values[name] for name in names))]
    if len(set(addresses)) < len(addresses) or found.weight_addresses & set(addresses):
        return None
    order = [places[name] for name in segment.reads]
    call = program.call(batch)
    if call is None or not call.reads([args[number] for number in order]):
        return None
    return Again(args, call, order, segment.gives, graph.gives, dict(zip(names, lasts, strict=True)), batch)


def _is_plain_call() -> bool:
    """Whether nothing sees or rewrites the call, and our kernels are to run it."""
    return not is_listened_to() and asked_backend() in (None, CPU.name)


def laid_out(value: Tensor, last: bool) -> Tensor:
    """An image channels-last, or contiguous; anything else as it lies."""
    if value.dim() in FORMATS:
        return value.contiguous(memory_format=FORMATS[value.dim()] if last else torch.contiguous_format)
    return value
