"""Count what a network costs, operator by operator, without running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from ..cost import Cost
from ..inputs import InputSize, tensors
from ..tracing import OperatorCall, storage, trace
from .dense import DenseCosts
from .gradients import backward_costs
from .operators import DERIVED, WHOLE, bytes_moved, elements, is_free, kind_of, operator_of, reads
from .result import Count, Row


def count(model: nn.Module, input_size: InputSize, *, backward: bool = False) -> Count:
    """Count a model's cost for one sample, in evaluation mode, without running its arithmetic.

    input_size: (channels, *spatial), a tuple of such sizes for several inputs, or example inputs: a tensor or a tuple
                of tensors, counted as given, with their batch; a dict of sizes or examples is keyword arguments
    backward:   count what the gradients of a training step multiply too

    The model is left as it was. Functional calls count as modules do, a module counts once per call.

    >>> separable = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3, bias=False), nn.Conv2d(3, 128, 1, bias=False))
    >>> cost = count(separable, (3, 7, 7))
    >>> [(row.name, row.kind, row.cost.multiplications) for row in cost.rows]
    [('0', 'depthwise convolution', 675), ('1', 'pointwise convolution', 9600)]
    >>> cost.total.multiplications, cost.dense.multiplications
    (10275, 86400)
    """
    traced = trace(model, input_size, whole=WHOLE)
    calls = [call for call in traced.operators if not is_free(call)]
    learned = _with_derived(traced.learned, calls)
    costs = [_cost(call, learned) for call in calls]
    dense = DenseCosts(learned)
    for number, call in enumerate(calls):
        dense.follow(number, call)
    gradients: Sequence[Cost | None] = backward_costs(calls, traced.trainable) if backward else [None] * len(calls)
    rows = tuple(
        Row(call.path, _kind(call, learned), cost, dense.of(number), _output_size(call, traced.batch_size), gradient)
        for number, (call, cost, gradient) in enumerate(zip(calls, costs, gradients, strict=True))
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    unknown = Counter(call.name for call in calls if operator_of(call) is None)
    return Count(
        rows,
        total=replace(_sum(costs), parameters=parameters),
        dense=replace(
            _sum([row.cost if row.dense is None else row.dense for row in rows]),
            parameters=parameters + dense.parameters(costs),
        ),
        unknown=tuple(unknown.items()),
        backward=_sum([cost for cost in gradients if cost is not None]) if backward else None,
    )


def _with_derived(learned: frozenset[StorageWeakRef], calls: list[OperatorCall]) -> frozenset[StorageWeakRef]:
    """The storages of parameters, and of what casts and weight norms made of them."""
    derived = set(learned)
    for call in calls:
        operands = reads(call)
        if call.base_name in DERIVED and operands and storage(operands[0]) in derived:
            derived.add(storage(call.result))
    return frozenset(derived)


def _cost(call: OperatorCall, learned: frozenset[StorageWeakRef]) -> Cost:
    known = operator_of(call)
    arithmetic = Cost() if known is None else known.arithmetic(call)
    parameters = sum(elements(tensor) for tensor in reads(call) if storage(tensor) in learned)
    return replace(arithmetic, parameters=parameters, bytes_moved=bytes_moved(call))


def _kind(call: OperatorCall, learned: frozenset[StorageWeakRef]) -> str:
    return call.name if operator_of(call) is None else kind_of(call, learned)


def _output_size(call: OperatorCall, batch_size: int) -> tuple[int, ...]:
    shape = next((tuple(tensor.shape) for tensor in tensors(call.output)), ())
    return shape[1:] if shape[:1] == (batch_size,) else shape


def _sum(costs: list[Cost]) -> Cost:
    return sum(costs, Cost())
