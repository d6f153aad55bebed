"""The arithmetic of torch's operators, as formulas of one call; `operators` says which operator has which."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from torch import Tensor

from ..cost import Cost, products_cost
from ..inputs import tensors
from ..tracing import OperatorCall

Formula = Callable[[OperatorCall], Cost]


def per_output(multiplications: int, additions: int) -> Formula:
    def formula(call: OperatorCall) -> Cost:
        n = call.result.numel()
        return Cost(multiplications=multiplications * n, additions=additions * n)

    return formula


def per_input(multiplications: int, additions: int) -> Formula:
    def formula(call: OperatorCall) -> Cost:
        n = call.args[0].numel()
        return Cost(multiplications=multiplications * n, additions=additions * n)

    return formula


def scaled_sum(call: OperatorCall) -> Cost:
    n = call.result.numel()
    alpha = call.args[2] if len(call.args) > 2 else call.kwargs.get("alpha", 1)
    return Cost(multiplications=n * (alpha != 1), additions=n)


def power(call: OperatorCall) -> Cost:
    exponent = call.args[1]
    if isinstance(exponent, Tensor) or exponent not in (-1, 2, 3):
        return Cost()
    return per_output(2 if exponent == 3 else 1, 0)(call)


def gelu(call: OperatorCall) -> Cost:
    return per_output(6, 2)(call) if call.kwargs.get("approximate") == "tanh" else per_output(3, 1)(call)


def sum_cost(call: OperatorCall) -> Cost:
    return Cost(additions=call.args[0].numel() - call.result.numel())


def mean(call: OperatorCall) -> Cost:
    return sum_cost(call) + Cost(multiplications=call.result.numel())


def own_statistics(weight: int, bias: int) -> Formula:
    """A norm by the mean and variance of its input; `weight` and `bias` say where they stand among the arguments."""

    def formula(call: OperatorCall) -> Cost:
        affine = [call.args[at] is not None for at in (weight, bias)]
        return per_output(2 + affine[0], 3 + affine[1])(call)

    return formula


def batch_norm(call: OperatorCall) -> Cost:
    return own_statistics(1, 2)(call) if uses_own_statistics(call) else per_output(1, 1)(call)


def uses_own_statistics(call: OperatorCall) -> bool:
    """Whether a batch norm takes mean and variance from its input."""
    if call.base_name in ("_native_batch_norm_legit_no_training", "_batch_norm_no_update"):
        return False
    return next((argument for argument in call.args if isinstance(argument, bool)), True)


def rms_norm(call: OperatorCall) -> Cost:
    return per_output(2 + (call.args[2] is not None), 1)(call)


def convolution(call: OperatorCall) -> Cost:
    x, weight, bias, *_ = call.args
    transposed = call.args[6]
    out = call.result.numel()
    macs = (x.numel() if transposed else out) * prod(weight.shape[1:])
    return Cost(macs, macs, max(macs - out, 0) + out * (bias is not None))


def matrix_product(left: int) -> Formula:
    """A product whose left matrix or vector is argument `left`; what stands before it is added to the result."""

    def formula(call: OperatorCall) -> Cost:
        return products_cost(call.result.numel(), call.args[left].shape[-1], bias=left > 0)

    return formula


def attention(call: OperatorCall) -> Cost:
    query, key, value = call.args[:3]
    rows, columns = query.shape[:-1].numel(), key.shape[-2]
    scores = rows * columns
    masked = any(True for _ in tensors((call.args[3:], call.kwargs)))
    softmax = Cost(multiplications=2 * scores, additions=(2 + masked) * scores)
    products = products_cost(scores, query.shape[-1], bias=False)
    return products + softmax + products_cost(rows * value.shape[-1], columns, bias=False)


def lstm(call: OperatorCall) -> Cost:
    x, weight_input, weight_hidden = call.args[:3]
    steps = x.shape[:-1].numel()
    gates, hidden = weight_hidden.shape
    bias = bool(call.args[12])
    from_input = products_cost(steps * gates, weight_input.shape[1], bias=bias)
    from_hidden = products_cost(steps * gates, hidden, bias=bias)
    # The two sums are added; three sigmoids; cell = forget·cell + input·candidate; output·tanh(cell).
    state = Cost(multiplications=6 * steps * hidden, additions=steps * gates + 4 * steps * hidden)
    return from_input + from_hidden + state


def average_pooling(call: OperatorCall) -> Cost:
    rank = int(call.base_name[-2])
    window = prod(call.args[1]) if len(call.args[1]) == rank else call.args[1][0] ** rank
    return per_output(1, window - 1)(call)


def adaptive_average_pooling(call: OperatorCall) -> Cost:
    out, rank = call.result, int(call.base_name[-2])
    sizes = zip(call.args[0].shape[-rank:], out.shape[-rank:], strict=True)
    # Output i covers the inputs from floor(i·n / m) up to ceil((i + 1)·n / m).
    taps = prod(sum(-(-(i + 1) * n // m) - i * n // m for i in range(m)) for n, m in sizes)
    return Cost(multiplications=out.numel(), additions=out.shape[:-rank].numel() * taps - out.numel())
