"""What the backward pass of a training step multiplies: one product more for each operand whose gradient is asked for.

The gradient of an operand of a convolution or a matrix product is a product of the same size: of the other operand with
the gradient of the result. Attention multiplies its scores anew and then four times, where its forward does twice: for
the gradients of values, scores, queries and keys. An LSTM does as its matrix products. Of norms, activations and
everything else nothing is counted. A gradient goes back to trainable parameters and to what was computed from them,
never to the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from ..cost import Cost
from ..inputs import tensors
from ..tracing import OperatorCall, storage
from .operators import PRODUCTS, reads


def backward_costs(calls: Sequence[OperatorCall], trainable: frozenset[StorageWeakRef]) -> list[Cost]:
    """The backward pass of each call; `trainable` are the storages of parameters that learn."""
    needing = set(trainable)
    costs = []
    for call in calls:
        needed = [operand for operand in reads(call) if storage(operand) in needing]
        if needed:
            needing.update(storage(output) for output in tensors(call.output) if output.is_floating_point())
        costs.append(_backward(call, needed) if needed and call.base_name in PRODUCTS else Cost())
    return costs


def _backward(call: OperatorCall, needed: Sequence[Tensor]) -> Cost:
    known = PRODUCTS[call.base_name]
    forward = known.arithmetic(call).macs
    if known.kind == "attention":
        query, key, value = call.args[:3]
        rows, columns = query.shape[:-1].numel(), key.shape[-2]
        # The scores once more; the gradients of values and of the weighed scores; those of queries and of keys.
        macs = rows * columns * (3 * query.shape[-1] + 2 * value.shape[-1])
        return Cost(macs, macs, macs)
    if known.kind == "lstm":
        return Cost(2 * forward, 2 * forward, 2 * forward)
    # A bias, and what is added to a product, come before or after its two factors.
    first = 1 if call.base_name in ("addmm", "baddbmm", "addmv") else 0
    gradients = [factor for factor in call.args[first : first + 2] if any(factor is operand for operand in needed)]
    return sum((_product(forward, factor) for factor in gradients), Cost())


def _product(macs: int, gradient: Tensor) -> Cost:
    return Cost(macs, macs, max(macs - gradient.numel(), 0))
