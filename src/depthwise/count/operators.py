"""What each of torch's operators costs: one table of formulas, keyed by the operator's name.

Conventions, for an operator with n outputs unless said otherwise (multiplications / additions):

    convolution, matrix product   one multiplication and one addition per MAC, less one addition per output; a bias
                                  adds one back; transposed: MACs are inputs x kernel area x out_channels / groups
    attention                     both products; per score: 1 for the scale, softmax, 0 / 1 for a mask
    batch norm                    1 / 1: scale and shift are folded
    layer, group, instance norm   3 / 4: mean 0 / 1, variance 1 / 2 (subtract, square, add), normalise 1 / 0,
                                  affine 1 / 1; without weight 2, without bias 3; roots and per-group divisions are not
                                  counted. RMS norm, taken apart by torch or not: 3 / 1;
                                  weight norm, per weight: 2 / 1
    relu, relu6, clamp, tanh      0 / 0       leaky_relu, prelu   1 / 0       sigmoid, silu, hardsigmoid, elu   1 / 1
    hardswish                     2 / 1       gelu                3 / 1, tanh form 6 / 2
    softmax                       1 / 2 (subtract the maximum, add up, divide); log_softmax 0 / 3
    add, sub, mul, div            0 / 1, 0 / 1, 1 / 0, 1 / 0; a scale that is not 1 (alpha) one multiplication more
    sum, mean                     inputs - outputs additions; mean 1 / 0 per output more; var: 1 / 3 per input
    avg pooling                   1 / (window - 1); max pooling 0 / 0
    upsampling                    nearest 0 / 0; linear 2^d / (2^d - 1); bicubic 16 / 15
    copies, padding, indexing     0 / 0, bytes only; views are free

Subtractions are additions, divisions are multiplications; comparisons and transcendental functions count nothing. MACs
are those of convolutions, matrix products and attention alone.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from math import prod

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from ..inputs import tensors
from ..layers.depthwise import DEPTHWISE
from ..tracing import OperatorCall, storage
from .formulas import (
    Formula,
    adaptive_average_pooling,
    attention,
    average_pooling,
    batch_norm,
    convolution,
    gelu,
    lstm,
    matrix_product,
    mean,
    own_statistics,
    per_input,
    per_output,
    power,
    rms_norm,
    scaled_sum,
    sum_cost,
    uses_own_statistics,
)


@dataclass(frozen=True, slots=True)
class Operator:
    """One row of the table: what a call is called, and its arithmetic."""

    kind: str
    arithmetic: Formula


def operator_of(call: OperatorCall) -> Operator | None:
    """The table's row for a call, in place or not; None where the operator is not known."""
    return OPERATORS.get(call.base_name)


def is_free(call: OperatorCall) -> bool:
    """Whether a call only looks at memory in another way, or only reserves it."""
    if call.operator.is_view or call.base_name in FREE:
        return True
    inputs, outputs = list(tensors((call.args, call.kwargs))), list(tensors(call.output))
    seen = {storage(tensor) for tensor in inputs}
    in_place = any(output is tensor for output in outputs for tensor in inputs)
    return bool(outputs) and not in_place and all(storage(output) in seen for output in outputs)


def reads(call: OperatorCall) -> list[Tensor]:
    """The distinct tensors a call reads."""
    args = call.args[1:] if call.base_name in OVERWRITES else call.args
    return _distinct(tensors((args, {key: value for key, value in call.kwargs.items() if key != "out"})))


def writes(call: OperatorCall) -> list[Tensor]:
    """The distinct tensors a call writes; what an operator returns for its backward pass alone is left out."""
    outputs = _distinct(tensors(call.output))
    return outputs[:1] if call.base_name in ONE_RESULT else outputs


def bytes_moved(call: OperatorCall) -> int:
    """Bytes of what a call reads and writes, each tensor once; of a lookup's table, the rows it takes."""
    written = sum(_bytes(tensor) for tensor in writes(call))
    if call.base_name not in LOOKUPS:
        return written + sum(_bytes(tensor) for tensor in reads(call))
    table, *indices = reads(call)
    return written + min(_bytes(table), written) + sum(_bytes(tensor) for tensor in indices)


def elements(tensor: Tensor) -> int:
    """Numbers a tensor holds in memory: a broadcast dimension counts once."""
    return prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size)


def kind_of(call: OperatorCall, learned: Container[StorageWeakRef]) -> str:
    """What a known call is called in a table; `learned` are the storages of parameters."""
    kind = OPERATORS[call.base_name].kind
    if kind == "convolution":
        return _convolution_kind(call)
    if kind == "matmul" and any(storage(tensor) in learned for tensor in reads(call)):
        return "linear"
    # torch runs an instance norm as a batch norm; over a batch of one they are the same.
    if kind == "batch norm" and uses_own_statistics(call) and len(call.args[0]) == 1:
        return "instance norm"
    return "relu6" if kind == "hardtanh" and call.args[1:] == (0, 6) else kind


def _convolution_kind(call: OperatorCall) -> str:
    x, weight, *_ = call.args
    transposed, groups = call.args[6], call.args[8]
    form = "transposed convolution" if transposed else "convolution"
    # One channel is dense and depthwise at once; in a layer of ours it is meant.
    if groups == x.shape[1] and (groups > 1 or isinstance(call.module, tuple(DEPTHWISE.values()))):
        return f"depthwise {form}"
    if groups > 1:
        return f"grouped {form}"
    return "pointwise convolution" if prod(weight.shape[2:]) == 1 and not transposed else form


def _bytes(tensor: Tensor) -> int:
    return elements(tensor) * tensor.element_size()


def _distinct(found: Iterable[Tensor]) -> list[Tensor]:
    views = {(storage(x), x.storage_offset(), tuple(x.shape), x.stride()): x for x in found}
    return list(views.values())


# The table.


def _each(multiplications: int, additions: int, names: str) -> dict[str, Operator]:
    formula = per_output(multiplications, additions)
    return {name: Operator(name.strip("_").replace("_", " "), formula) for name in names.split()}


def _kind(kind: str, formula: Formula, names: str) -> dict[str, Operator]:
    return {name: Operator(kind, formula) for name in names.split()}


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


PRODUCTS = {
    **_kind("convolution", convolution, "convolution _convolution convolution_overrideable"),
    **_kind("matmul", matrix_product(0), "mm bmm mv dot vdot _int_mm _scaled_mm"),
    **_kind("matmul", matrix_product(1), "addmm baddbmm addmv"),
    **_kind("lstm", lstm, "mkldnn_rnn_layer"),
    **_kind(
        "attention",
        attention,
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math_for_mps",
    ),
}
NORMS = {
    **_kind(
        "batch norm",
        batch_norm,
        "_native_batch_norm_legit_no_training _native_batch_norm_legit native_batch_norm cudnn_batch_norm "
        "miopen_batch_norm _batch_norm_with_update _batch_norm_no_update",
    ),
    **_kind("layer norm", own_statistics(2, 3), "native_layer_norm"),
    **_kind("group norm", own_statistics(1, 2), "native_group_norm"),
    **_kind("rms norm", rms_norm, "_fused_rms_norm"),
    **_kind("weight norm", per_input(2, 1), "_weight_norm_interface"),
}
ACTIVATIONS = {
    **_each(0, 0, "relu relu6 clamp clamp_min clamp_max tanh threshold hardshrink"),
    **_each(1, 0, "leaky_relu rrelu_with_noise"),
    **_each(0, 1, "softshrink"),
    **_each(1, 1, "sigmoid silu hardsigmoid elu celu"),
    **_each(2, 1, "hardswish"),
    **_kind("hardtanh", per_output(0, 0), "hardtanh"),
    **_kind("prelu", per_output(1, 0), "_prelu_kernel"),
    **_kind("log sigmoid", per_output(0, 1), "log_sigmoid_forward"),
    **_each(2, 1, "mish softplus"),
    **_kind("gelu", gelu, "gelu"),
}
ARITHMETIC = {
    **_kind("add", scaled_sum, "add"),
    **_kind("sub", scaled_sum, "sub rsub"),
    **_each(1, 0, "mul"),
    **_kind("div", per_output(1, 0), "div"),
    **_kind("addcmul", per_output(1, 1), "addcmul"),
}
COPIES = {
    **_kind("copy", per_output(0, 0), "clone copy _to_copy"),
    **_kind("dropout", per_output(1, 0), "native_dropout"),
}
POOLINGS = {
    **_kind("max pooling", per_output(0, 0), "max_pool2d_with_indices max_pool3d_with_indices"),
    **_kind("max pooling", per_output(0, 0), "adaptive_max_pool2d adaptive_max_pool3d"),
    **_kind("avg pooling", average_pooling, "avg_pool2d avg_pool3d"),
    **_kind("avg pooling", adaptive_average_pooling, "_adaptive_avg_pool2d _adaptive_avg_pool3d"),
}
FILLS = _kind(
    "fill",
    per_output(0, 0),
    "fill zero zeros ones full arange eye linspace scalar_tensor zeros_like ones_like full_like new_zeros new_ones "
    "new_full rand randn randint randperm rand_like randn_like normal uniform bernoulli",
)
LOOKUPS = {
    **_each(0, 0, "embedding gather"),
    **_kind("index", per_output(0, 0), "index _unsafe_index index_select"),
}
REDUCTIONS = {
    **_each(0, 0, "amax amin argmax argmin max min any all median"),
    **_each(0, 0, "topk sort argsort"),
    **_kind("sum", sum_cost, "sum nansum"),
    **_kind("mean", mean, "mean"),
    **_kind("var", per_input(1, 3), "var std var_mean std_mean"),
    **_kind("norm", per_input(1, 1), "linalg_vector_norm norm"),
    **_kind("logsumexp", per_input(0, 2), "logsumexp"),
    **_kind("prod", per_input(1, 0), "prod"),
    **_each(0, 1, "cumsum"),
    **_each(1, 0, "cumprod"),
    **_kind("softmax", per_output(1, 2), "_softmax _safe_softmax"),
    **_kind("log softmax", per_output(0, 3), "_log_softmax"),
}
RESIZES = {
    **_kind("upsampling", per_output(0, 0), "upsample_nearest1d upsample_nearest2d upsample_nearest3d"),
    **_kind("upsampling", per_output(0, 0), "_upsample_nearest_exact1d _upsample_nearest_exact2d"),
    **_kind("upsampling", per_output(0, 0), "_upsample_nearest_exact3d"),
    **_kind("upsampling", per_output(2, 1), "upsample_linear1d"),
    **_kind("upsampling", per_output(4, 3), "upsample_bilinear2d"),
    **_kind("upsampling", per_output(8, 7), "upsample_trilinear3d"),
    **_kind("upsampling", per_output(16, 15), "upsample_bicubic2d"),
    **_kind("pad", per_output(0, 0), "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d"),
    **_kind("pad", per_output(0, 0), "replication_pad1d replication_pad2d replication_pad3d"),
    **_each(0, 0, "cat stack repeat roll flip tril triu pixel_shuffle pixel_unshuffle channel_shuffle im2col"),
    **_each(0, 0, "scatter index_put index_fill index_copy masked_fill slice_scatter select_scatter"),
}
ELEMENTWISE = {
    **_each(0, 0, "eq ne lt le gt ge maximum minimum where isnan isinf isfinite nan_to_num sign abs neg"),
    **_each(0, 0, "logical_and logical_or logical_not __and__ __or__"),
    **_each(0, 0, "bitwise_and bitwise_or bitwise_not floor ceil round trunc exp exp2 log log1p log2 sqrt rsqrt"),
    **_each(0, 0, "sin cos tan atan atan2 erf sinh cosh frac"),
    **_each(1, 0, "reciprocal floor_divide remainder fmod"),
    **_each(0, 1, "expm1"),
    **_each(1, 2, "lerp"),
    **_each(2, 1, "addcdiv glu"),
    **_kind("pow", power, "pow"),
}

# A depthwise convolution's output that went through these alone is still that convolution's.
TRANSPARENT = NORMS | ACTIVATIONS | ARITHMETIC | COPIES
OPERATORS = TRANSPARENT | PRODUCTS | POOLINGS | FILLS | LOOKUPS | REDUCTIONS | RESIZES | ELEMENTWISE
ONE_RESULT = NORMS | PRODUCTS | POOLINGS | ACTIVATIONS | COPIES
OVERWRITES = {*FILLS, "copy"}
# What these make of a parameter stands for that parameter: a cast, a normalised weight.
DERIVED = {*COPIES, "_weight_norm_interface"}
FREE = _names(
    "empty empty_like empty_strided new_empty new_empty_strided lift_fresh lift_fresh_copy detach alias transpose t "
    "squeeze unsqueeze swapaxes swapdims as_strided resize set view reshape _reshape_alias sym_size sym_stride "
    "sym_numel sym_storage_offset is_same_size _local_scalar_dense _linalg_check_errors _assert_async"
)
WHOLE = frozenset(f"aten.{name}" for name in OPERATORS)
