"""What grouped and separable convolutions would have cost as dense ones.

A depthwise convolution whose output flows through norms, activations, scales and per-channel biases alone into a
pointwise convolution makes a separable pair with it. The pair's dense counterpart has the depthwise's input and kernel
and the pointwise's output, bias and groups. The counterpart of every other grouped convolution has one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from ..cost import Cost
from ..inputs import tensors
from ..tracing import OperatorCall, storage
from .operators import PRODUCTS, TRANSPARENT, kind_of, reads


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """A depthwise convolution's output, however often rescaled: the row that computed it, and its call."""

    row: int
    call: OperatorCall

    @property
    def shape(self) -> torch.Size:
        return self.call.result.shape


@dataclass(frozen=True, slots=True)
class Counterpart:
    """The dense convolution with the input and kernel of row `first` and the output and bias of row `last`."""

    first: int
    last: int
    weights: tuple[StorageWeakRef, StorageWeakRef]
    cost: Cost


class DenseCosts:
    """The dense counterparts in one trace, found by following its calls in order."""

    def __init__(self, learned: frozenset[StorageWeakRef]) -> None:
        self._learned = learned
        self._flows: dict[StorageWeakRef, Flow] = {}
        self._counterparts: dict[int, Counterpart] = {}
        self._paired: set[int] = set()

    def follow(self, row: int, call: OperatorCall) -> None:
        """Take in the next call; `row` is its number."""
        flow = None
        if call.base_name in TRANSPARENT:
            flow = self._passed_on(call)
        elif call.base_name in PRODUCTS:
            flow = self._product(row, call)
        for written in tensors(call.output):
            self._flows.pop(storage(written), None)
        if flow is not None:
            self._flows[storage(call.result)] = flow

    def of(self, row: int) -> Cost | None:
        """A row's dense counterpart; Cost() for a pair's depthwise half, which the pointwise's row stands for."""
        if row in self._paired:
            return Cost()
        return self._counterparts[row].cost if row in self._counterparts else None

    def parameters(self, rows: Sequence[Cost]) -> int:
        """How many more parameters the dense network has; a layer that is called twice has them once."""
        alive = [pair for row, pair in self._counterparts.items() if row not in self._paired]
        used = [pair for pair in alive if self._learned.issuperset(pair.weights)]
        dense = {pair.weights: pair.cost.parameters for pair in used}
        replaced = {pair.weights[0]: rows[pair.first].parameters for pair in used}
        replaced |= {pair.weights[1]: rows[pair.last].parameters for pair in used}
        return sum(dense.values()) - sum(replaced.values())

    def _product(self, row: int, call: OperatorCall) -> Flow | None:
        kind = kind_of(call, self._learned)
        flow = self._flow_of(call.args[0]) if _is_pointwise(call, kind) else None
        if flow is not None:
            self._counterparts[row] = self._counterpart(flow, Flow(row, call), groups=call.args[8])
            self._paired.add(flow.row)
        elif kind.startswith(("depthwise", "grouped")):
            flow = Flow(row, call)
            self._counterparts[row] = self._counterpart(flow, flow, groups=1)
            return flow if kind.startswith("depthwise") else None
        return None

    def _passed_on(self, call: OperatorCall) -> Flow | None:
        """The flow that a norm or an elementwise operator passes on, if it does."""
        operands = reads(call)
        flows = [self._flow_of(operand) for operand in operands]
        flow = next((found for found in flows if found is not None), None)
        if flow is None or call.result.shape != flow.shape:
            return None
        others = [operand for operand, other in zip(operands, flows, strict=True) if other is not flow]
        return flow if all(_is_broadcast(other, flow.shape) for other in others) else None

    def _flow_of(self, tensor: Tensor) -> Flow | None:
        flow = self._flows.get(storage(tensor))
        return flow if flow is not None and tensor.shape == flow.shape else None

    def _counterpart(self, first: Flow, last: Flow, groups: int) -> Counterpart:
        x, weight, *_ = first.call.args
        _, last_weight, bias, *_ = last.call.args
        transposed = first.call.args[6]
        out = last.call.result
        terms = x.shape[1] // groups * prod(weight.shape[2:])
        macs = x.numel() // x.shape[1] * terms * out.shape[1] if transposed else out.numel() * terms
        weights = out.shape[1] * (terms + (bias is not None))
        cost = Cost(
            macs,
            macs,
            max(macs - out.numel(), 0) + out.numel() * (bias is not None),
            weights if storage(last_weight) in self._learned else 0,
            (x.numel() + weights + out.numel()) * x.element_size(),
        )
        return Counterpart(first.row, last.row, (storage(weight), storage(last_weight)), cost)


def _is_pointwise(call: OperatorCall, kind: str) -> bool:
    """Whether a product can be the second half of a pair: a pointwise convolution, in groups or not."""
    return kind in ("pointwise convolution", "grouped convolution") and prod(call.args[1].shape[2:]) == 1


def _is_broadcast(operand: Tensor, shape: torch.Size) -> bool:
    """Whether an operand scales or shifts whole channels or pixels; a residual, one number for each, does not."""
    return operand.numel() < shape.numel() or all(size == 1 for size in operand.shape[2:])
