"""The operators of a graph: which of aten's each is, what arguments it takes, and how torch runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch._ops import OpOverload

from ..backends.base import Activation
from ..backends.eager import CONVOLUTIONS, activate
from ..errors import DepthwiseError
from ..geometry import Pairs
from .graph import Argument, Batch, Node, Value

# The operators that this package has rules for, and the overload of aten's that each is.
KNOWN = {
    "adaptive_avg_pool2d": "adaptive_avg_pool2d.default",
    "add": "add.Tensor",
    "addcmul": "addcmul.default",
    "alias": "alias.default",
    "avg_pool2d": "avg_pool2d.default",
    "batch_norm": "batch_norm.default",
    "cat": "cat.default",
    "chunk": "chunk.default",
    "clone": "clone.default",
    "contiguous": "contiguous.default",
    "detach": "detach.default",
    "div": "div.Tensor",
    "dropout": "dropout.default",
    "elu": "elu.default",
    "expand": "expand.default",
    "expand_as": "expand_as.default",
    "flatten": "flatten.using_ints",
    "gelu": "gelu.default",
    "group_norm": "group_norm.default",
    "hardsigmoid": "hardsigmoid.default",
    "hardswish": "hardswish.default",
    "hardtanh": "hardtanh.default",
    "index": "index.Tensor",
    "layer_norm": "layer_norm.default",
    "leaky_relu": "leaky_relu.default",
    "lift_fresh_copy": "lift_fresh_copy.default",
    "linalg_vector_norm": "linalg_vector_norm.default",
    "linear": "linear.default",
    "max_pool2d": "max_pool2d.default",
    "mean": "mean.dim",
    "mul": "mul.Tensor",
    "pad": "pad.default",
    "permute": "permute.default",
    "relu": "relu.default",
    "relu6": "relu6.default",
    "reshape": "reshape.default",
    "reshape_as": "reshape_as.default",
    "rsub": "rsub.Scalar",
    "select": "select.int",
    "sigmoid": "sigmoid.default",
    "silu": "silu.default",
    "slice": "slice.Tensor",
    "softmax": "softmax.int",
    "split": "split.Tensor",
    "split_with_sizes": "split_with_sizes.default",
    "squeeze": "squeeze.dim",
    "stack": "stack.default",
    "sub": "sub.Tensor",
    "sum": "sum.dim_IntList",
    "tanh": "tanh.default",
    "transpose": "transpose.int",
    "unbind": "unbind.int",
    "unflatten": "unflatten.int",
    "unsqueeze": "unsqueeze.default",
    "upsample_bilinear2d": "upsample_bilinear2d.vec",
    "upsample_nearest2d": "upsample_nearest2d.vec",
}
NAMES = {overload: name for name, overload in KNOWN.items()}

# What a fold or a fusion makes, and what export writes without an operator of aten's: arguments and their kinds.
OWN = {
    "getitem": {"self": "value", "index": "int"},
    "affine": {"input": "value", "scale": "value", "shift": "value"},
    "layout": {"self": "value", "channels_last": "bool"},
    "conv": {
        "input": "value",
        "weight": "value",
        "bias": "Optional[value]",
        "stride": "steps",
        "padding": "pairs",
        "dilation": "steps",
        "groups": "step",
        "residual": "Optional[value]",
        "activation": "activation",
    },
    "gated": {
        "input": "value",
        "gate": "value",
        "weight": "value",
        "bias": "Optional[value]",
        "groups": "step",
        "residual": "Optional[value]",
        "activation": "activation",
    },
    "separable": {
        "input": "value",
        "depthwise_weight": "value",
        "depthwise_bias": "Optional[value]",
        "pointwise_weight": "value",
        "pointwise_bias": "Optional[value]",
        "stride": "steps",
        "padding": "pairs",
        "dilation": "steps",
        "groups": "step",
        "depthwise_activation": "activation",
        "residual": "Optional[value]",
        "activation": "activation",
    },
}

DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("float32", "float64", "float16", "bfloat16", "bool", "uint8", "int8", "int16", "int32", "int64"),
        *("complex64", "complex128"),
    )
}
CONSTANTS: dict[str, Any] = {
    **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
    "torch.strided": torch.strided,
    "torch.contiguous_format": torch.contiguous_format,
    "torch.preserve_format": torch.preserve_format,
    "torch.channels_last": torch.channels_last,
    "torch.channels_last_3d": torch.channels_last_3d,
}


# The channels-last order of bytes of images and volumes, by their number of dimensions.
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_channels_last(x: Tensor) -> bool:
    """Whether an image lies channels-last, and not contiguous as well."""
    if is_batchedtensor(x):
        # One of torch.func.vmap's has no such format.
        return False
    return x.dim() in FORMATS and x.is_contiguous(memory_format=FORMATS[x.dim()]) and not x.is_contiguous()


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@cache
def overload_of(operator: str) -> OpOverload:
    """The operator of torch's by this name: one of KNOWN, or "aten.roll.default" with its namespace and overload."""
    path = f"aten.{KNOWN[operator]}" if operator in KNOWN else operator
    try:
        namespace, packet, overload = path.split(".")
        found: OpOverload = getattr(getattr(getattr(torch.ops, namespace), packet), overload)
    except (ValueError, AttributeError) as error:
        raise DepthwiseError(f"torch {torch.__version__} has no operator {operator[:80]!r}") from error
    return found


@cache
def signature(operator: str) -> dict[str, str]:
    """Kinds of an operator's arguments by name, in order; kinds as torch's schemas write them."""
    if operator in OWN:
        return OWN[operator]
    return {argument.name: str(argument.type) for argument in overload_of(operator)._schema.arguments}


def is_random(operator: str) -> bool:
    """Whether two calls may give different numbers."""
    return operator not in OWN and torch.Tag.nondeterministic_seeded in overload_of(operator).tags


def runner(operator: str) -> Callable[..., Any]:
    """What runs an operator by torch, called with all of its arguments in order."""
    if operator in _OWN_RUNNERS:
        return _OWN_RUNNERS[operator]
    overload = overload_of(operator)
    names = [argument.name for argument in overload._schema.arguments if argument.kwarg_only]
    if not names:
        return overload
    positional = len(overload._schema.arguments) - len(names)

    def run(*arguments: Any) -> Any:
        return overload(*arguments[:positional], **dict(zip(names, arguments[positional:], strict=True)))

    return run


def bound(node: Node) -> Callable[[Callable[[str], Any], int], Any]:
    """What runs a node by torch, given the values it reads, by name, and the batch."""
    run, arguments = runner(node.operator), [plain(argument) for _, argument in node.arguments]

    def call(value: Callable[[str], Any], batch: int) -> Any:
        return run(*[filled(argument, value, batch) for argument in arguments])

    return call


def filled(argument: Argument, value: Callable[[str], Any], batch: int) -> Any:
    """An argument as torch takes it."""
    if isinstance(argument, Value):
        return value(argument.name)
    if isinstance(argument, Batch):
        return argument.multiple * batch
    if isinstance(argument, tuple):
        return [filled(item, value, batch) for item in argument]
    return argument


def plain(argument: Argument) -> Any:
    """The argument with torch's constants in the places of their names."""
    if isinstance(argument, str):
        return CONSTANTS.get(argument, argument)
    return tuple(map(plain, argument)) if isinstance(argument, tuple) else argument


def padded(x: Tensor, padding: Pairs) -> tuple[Tensor, tuple[int, ...]]:
    """Give `x` and the padding left to torch's convolution, which pads both ends alike."""
    if all(before == after for before, after in padding):
        return x, tuple(before for before, _ in padding)
    return F.pad(x, [amount for pair in reversed(padding) for amount in pair]), (0,) * len(padding)


def finished(y: Tensor, residual: Tensor | None, activation: Activation) -> Tensor:
    """`y` with its residual, then its activation."""
    return activate(y if residual is None else y + residual, activation)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    groups: int,
    residual: Tensor | None,
    activation: Activation,
) -> Tensor:
    x, amounts = padded(x, padding)
    y = CONVOLUTIONS[len(stride)](x, weight, bias, stride, amounts, dilation, groups)
    return finished(y, residual, activation)


def gated(
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    residual: Tensor | None,
    activation: Activation,
) -> Tensor:
    """The pointwise convolution of an image times a number for each channel of it."""
    y = CONVOLUTIONS[x.dim() - 2](x * gate, weight, bias, groups=groups)
    return finished(y, residual, activation)


def separable(
    x: Tensor,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_weight: Tensor,
    pointwise_bias: Tensor | None,
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    groups: int,
    depthwise_activation: Activation,
    residual: Tensor | None,
    activation: Activation,
) -> Tensor:
    first = (x, depthwise_weight, depthwise_bias, stride, padding, dilation, x.shape[1])
    y = conv(*first, None, depthwise_activation)
    y = CONVOLUTIONS[len(stride)](y, pointwise_weight, pointwise_bias, groups=groups)
    return finished(y, residual, activation)


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Scale and shift `x`, by one number per channel each."""
    sizes = (-1, *(1,) * (x.dim() - 2))
    return torch.addcmul(shift.view(sizes), x, scale.view(sizes))


def layout(x: Tensor, channels_last: bool) -> Tensor:
    channels_last = channels_last and not is_batchedtensor(x)
    return x.contiguous(memory_format=FORMATS[x.dim()] if channels_last else torch.contiguous_format)


_OWN_RUNNERS: dict[str, Callable[..., Any]] = {
    "getitem": lambda values, index: values[index],
    "affine": affine,
    "layout": layout,
    "conv": conv,
    "gated": gated,
    "separable": separable,
}
