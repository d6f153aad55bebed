"""What each operator costs, against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise.cost import Cost
from depthwise.count import Count, count
from depthwise.count.operators import OPERATORS
from depthwise.inputs import InputSize

from ..support.networks import Calls

SIZE = (8, 6, 6)
N = 8 * 6 * 6


def arithmetic(cost: Cost) -> tuple[int, int, int]:
    return cost.macs, cost.multiplications, cost.additions


def only(function: Callable[..., Any] | nn.Module, input_size: InputSize) -> Cost:
    result = counted(function, input_size)
    assert len(result.rows) == 1, [row.kind for row in result.rows]
    return result.rows[0].cost


def counted(function: Callable[..., Any] | nn.Module, input_size: InputSize) -> Count:
    result = count(function if isinstance(function, nn.Module) else Calls(function), input_size)
    assert result.unknown == ()
    return result


@pytest.mark.parametrize(
    ("module", "multiplications", "additions"),
    [
        (nn.ReLU(), 0, 0),
        (nn.ReLU(inplace=True), 0, 0),
        (nn.ReLU6(), 0, 0),
        (nn.Hardtanh(), 0, 0),
        (nn.Tanh(), 0, 0),
        (nn.Threshold(0, 1), 0, 0),
        (nn.Hardshrink(), 0, 0),
        (nn.LeakyReLU(), 1, 0),
        (nn.PReLU(), 1, 0),
        (nn.Softshrink(), 0, 1),
        (nn.LogSigmoid(), 0, 1),
        (nn.Sigmoid(), 1, 1),
        (nn.SiLU(), 1, 1),
        (nn.Hardsigmoid(), 1, 1),
        (nn.ELU(), 1, 1),
        (nn.SELU(), 1, 1),
        (nn.CELU(), 1, 1),
        (nn.Hardswish(), 2, 1),
        (nn.Mish(), 2, 1),
        (nn.Softplus(), 2, 1),
        (nn.GELU(), 3, 1),
        (nn.GELU(approximate="tanh"), 6, 2),
        (nn.Softmax(1), 1, 2),
        (nn.LogSoftmax(1), 0, 3),
        (nn.BatchNorm2d(8), 1, 1),
        (nn.BatchNorm2d(8, affine=False), 1, 1),
        (nn.InstanceNorm2d(8), 2, 3),
        (nn.GroupNorm(2, 8), 3, 4),
        (nn.LayerNorm(SIZE), 3, 4),
        (nn.LayerNorm(SIZE, bias=False), 3, 3),
        (nn.LayerNorm(SIZE, elementwise_affine=False), 2, 3),
    ],
    ids=repr,
)
def test_per_element(module: nn.Module, multiplications: int, additions: int) -> None:
    cost = only(module, SIZE)
    assert arithmetic(cost) == (0, multiplications * N, additions * N)
    buffers = sum(buffer.numel() for buffer in module.buffers() if buffer.is_floating_point())
    assert cost.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert cost.bytes_moved == 4 * (2 * N + cost.parameters + buffers)


@pytest.mark.parametrize(
    ("function", "multiplications", "additions"),
    [
        (lambda x: x + 1, 0, N),
        (lambda x: 1 - x, 0, N),
        (lambda x: torch.add(x, x, alpha=2), N, N),
        (lambda x: x / 3, N, 0),
        (lambda x: x**2, N, 0),
        (lambda x: x**3, 2 * N, 0),
        (lambda x: x**0.5, 0, 0),
        (lambda x: 2**x, 0, 0),
        (lambda x: torch.addcmul(x, x, x), N, N),
        (lambda x: torch.lerp(x, x, 0.5), N, 2 * N),
        (lambda x: F.glu(x, 1), N, N // 2),
        (lambda x: x.clamp(0, 6), 0, 0),
        (lambda x: x > 0, 0, 0),
        (torch.exp, 0, 0),
        (torch.sum, 0, N - 1),
        (torch.mean, 1, N - 1),
        (lambda x: x.mean((2, 3)), 8, N - 8),
        (lambda x: x.var(1), N, 3 * N),
        (lambda x: x.norm(dim=1), N, N),
        (lambda x: x.cumsum(1), 0, N),
        (lambda x: x.max(1), 0, 0),
        (lambda x: F.avg_pool2d(x, 2), N // 4, N // 4 * 3),
        (lambda x: F.avg_pool2d(x, (3, 1), 1), 8 * 24, 8 * 24 * 2),
        (lambda x: F.max_pool2d(x, 2), 0, 0),
        # Output i covers the inputs floor(6i / 4) to ceil(6(i + 1) / 4): 2 + 2 + 2 + 2 of them.
        (lambda x: F.adaptive_avg_pool2d(x, 4), 8 * 16, 8 * (64 - 16)),
        (lambda x: F.adaptive_avg_pool2d(x, 1), 8, N - 8),
        (lambda x: F.interpolate(x, scale_factor=2), 0, 0),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), 16 * N, 12 * N),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), 64 * N, 60 * N),
        (lambda x: F.interpolate(x[0], scale_factor=2, mode="linear"), 4 * N, 2 * N),
        (lambda x: F.interpolate(x[None], scale_factor=2, mode="trilinear"), 64 * N, 56 * N),
    ],
)
def test_functions(function: Callable[[Tensor], object], multiplications: int, additions: int) -> None:
    assert arithmetic(only(function, SIZE)) == (0, multiplications, additions)


@pytest.mark.parametrize(
    ("function", "numbers"),
    [
        (lambda x: torch.cat([x, x]), 3 * N),
        (lambda x: F.pad(x, (1, 1)), N + N // 6 * 8),
        (lambda x: x.transpose(1, 2).contiguous(), 2 * N),
        (lambda x: x.expand(4, -1, -1, -1).clone(), 5 * N),
        (lambda x: x * x, 2 * N),
        (torch.zeros_like, N),
        (lambda x: x.fill_(1), N),
        (lambda x: F.pixel_shuffle(x, 2), 2 * N),
        (lambda x: F.max_pool2d(x, 2), N + N // 4),
        # Two of eight channels are read and written; the two indices have 8 bytes each.
        (lambda x: x.index_select(1, torch.arange(2)), 2 * N // 4 + 4),
        (lambda x: x[:, [1, 2]], 2 * N // 4 + 4),
    ],
)
def test_bytes(function: Callable[[Tensor], object], numbers: int) -> None:
    assert counted(function, SIZE).rows[-1].cost.bytes_moved == 4 * numbers


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.view(-1),
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x[:, 1:],
        lambda x: x.chunk(2, 1),
        lambda x: x.flatten(),
        lambda x: x.contiguous(),
        lambda x: x.transpose_(1, 2),
        lambda x: x.detach(),
        torch.empty_like,
        lambda x: F.dropout(x, training=False),
    ],
)
def test_views_are_free(function: Callable[[Tensor], object]) -> None:
    assert count(Calls(function), SIZE).rows == ()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions_of_every_rank(rank: int) -> None:
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]
    cost = only(conv(4, 6, 3, groups=2, stride=2), (4, *[9, 7, 5][:rank]))
    outputs = 6 * [4, 12, 24][rank - 1]
    macs = outputs * 2 * 3**rank
    assert cost == Cost(
        macs, macs, macs, 6 * (2 * 3**rank + 1), 4 * (4 * [9, 63, 315][rank - 1] + 6 * (2 * 3**rank + 1) + outputs)
    )


@pytest.mark.parametrize(
    ("conv", "kind", "macs"),
    [
        (nn.ConvTranspose1d(4, 6, 3), "transposed convolution", 5 * 4 * 6 * 3),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), "transposed convolution", 25 * 4 * 6 * 9),
        (nn.ConvTranspose2d(4, 8, 3, groups=2), "grouped transposed convolution", 25 * 4 * 4 * 9),
        (nn.ConvTranspose2d(4, 4, 3, groups=4), "depthwise transposed convolution", 25 * 4 * 9),
        (nn.ConvTranspose3d(4, 6, 1), "transposed convolution", 125 * 24),
    ],
)
def test_transposed_convolutions(conv: nn.Module, kind: str, macs: int) -> None:
    weight = conv.get_parameter("weight")
    result = counted(conv, (4, *[5] * (weight.ndim - 2)))
    row = result.rows[0]
    outputs = torch.Size(row.output_size).numel()
    assert row.kind == kind
    # Products fall on outputs; the first one on each is no addition, the bias is one.
    assert arithmetic(row.cost) == (macs, macs, macs - outputs + outputs)


@pytest.mark.parametrize(
    ("conv", "kind"),
    [
        (nn.Conv2d(1, 4, 3), "convolution"),
        (nn.Conv2d(4, 4, 1), "pointwise convolution"),
        (nn.Conv2d(4, 4, 1, groups=2), "grouped convolution"),
        (nn.Conv2d(4, 8, 3, groups=4), "depthwise convolution"),
        (nn.Conv2d(4, 4, 1, groups=4), "depthwise convolution"),
    ],
)
def test_kinds_of_convolutions(conv: nn.Conv2d, kind: str) -> None:
    assert counted(conv, (conv.in_channels, 5, 5)).rows[0].kind == kind


@pytest.mark.parametrize(
    ("function", "sizes", "macs"),
    [
        (lambda a, b: a @ b, ((4, 5), (5, 6)), 4 * 5 * 6),
        (lambda a, b: a[0] @ b[0], ((4, 5), (5, 6)), 4 * 5 * 6),
        (lambda a, b: a[0] @ b[0], ((4, 5), (5,)), 4 * 5),
        (lambda a, b: a[0] @ b[0], ((5,), (5,)), 5),
        (lambda a, b: torch.einsum("bchw,bcd->bdhw", a, b), ((3, 4, 5), (3, 7)), 3 * 20 * 7),
    ],
)
def test_matrix_products(function: Callable[..., Any], sizes: tuple[tuple[int, ...], ...], macs: int) -> None:
    assert counted(function, sizes).total.macs == macs


def test_products_with_something_added() -> None:
    sizes = ((4, 6), (4, 5), (5, 6))
    assert arithmetic(only(torch.baddbmm, sizes)) == (120, 120, 120)
    assert arithmetic(only(lambda c, a, b: torch.addmm(c[0], a[0], b[0]), sizes)) == (120, 120, 120)
    assert arithmetic(only(lambda c, a, b: torch.addmv(c[0, :, 0], a[0], b[0, :, 0]), sizes)) == (20, 20, 20)


def test_linear_is_told_from_matmul() -> None:
    assert [row.kind for row in counted(nn.Linear(8, 3), (8,)).rows] == ["linear"]
    assert [row.kind for row in counted(lambda x: x @ x.mT, (8, 8)).rows] == ["matmul"]
    weight = nn.Bilinear(4, 4, 2)
    assert count(weight, ((4,), (4,))).unknown == (("aten._trilinear", 1),)


@pytest.mark.parametrize("masked", [False, True])
def test_attention(masked: bool) -> None:
    mask = torch.zeros(5, 7) if masked else None
    result = counted(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask), ((2, 5, 8), (2, 7, 8), (2, 7, 8))
    )
    scores, macs = 2 * 5 * 7, 2 * 5 * 7 * 16
    cost = result.rows[-1].cost
    assert result.rows[-1].kind == "attention"
    # Both products; then scale, divide and, per score, subtract the maximum, add up, add the mask.
    additions = macs - scores - 2 * 5 * 8 + (2 + masked) * scores
    assert arithmetic(cost) == (macs, macs + 2 * scores, additions)
    assert cost.bytes_moved == 4 * (80 + 112 + 112 + 80 + 35 * masked)


def test_multi_head_attention_self_and_cross() -> None:
    attention = nn.MultiheadAttention(16, 4, batch_first=True)
    fused = count(Calls(lambda x, attention: attention(x, x, x, need_weights=False)[0], attention=attention), (5, 16))
    spelled = count(Calls(lambda x, attention: attention(x, x, x)[0], attention=attention), (5, 16))
    # Four projections of 5 x 16 x 16, and two products of 4 heads, 5 x 5 scores and 4 channels.
    assert fused.total.macs == spelled.total.macs == 4 * 5 * 256 + 2 * 4 * 25 * 4
    assert "attention" in [row.kind for row in fused.rows]
    assert "softmax" in [row.kind for row in spelled.rows]
    assert fused.unknown == spelled.unknown == ()


def test_transformer_layer_is_taken_apart() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    result = counted(layer, (5, 16))
    assert result.total.macs == 4 * 5 * 256 + 2 * 4 * 25 * 4 + 2 * 5 * 16 * 32
    assert sum(row.cost.parameters for row in result.rows) == result.total.parameters


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_recurrent_layers(kind: Callable[..., nn.Module], gates: int, bidirectional: bool) -> None:
    layer = kind(8, 6, batch_first=True, bidirectional=bidirectional)
    result = counted(layer, (5, 8))
    assert result.total.macs == (1 + bidirectional) * 5 * gates * 6 * (8 + 6)
    # Each weight is read, whether the layer is one operator or one per time step.
    read = {(row.kind, row.cost.parameters) for row in result.rows if row.cost.parameters}
    expected = {("lstm", 24 * 16)} if kind is nn.LSTM else {("linear", gates * 54), ("linear", gates * 42)}
    assert read == expected


def test_lstm_by_hand() -> None:
    result = counted(nn.LSTM(8, 6, batch_first=True), (5, 8))
    lstm = next(row.cost for row in result.rows if row.kind == "lstm")
    cell = counted(nn.LSTMCell(8, 6), (8,)).total
    # The same arithmetic as torch's cell taken apart, five times.
    assert arithmetic(lstm) == (5 * cell.macs, 5 * cell.multiplications, 5 * cell.additions)


def test_rms_norm_taken_apart() -> None:
    result = counted(nn.RMSNorm(6), SIZE)
    rows = N // 6
    # Squares, normalised, scaled: 3 per element; a mean and an epsilon per row.
    assert arithmetic(result.total) == (0, 3 * N + rows, N - rows + rows)


def test_inference_mode_makes_no_difference() -> None:
    layers = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    inside = Calls(torch.inference_mode()(lambda x, layers: layers(x)), layers=layers)
    outside = Calls(lambda x, layers: layers(x), layers=layers)
    assert count(inside, SIZE) == count(outside, SIZE)


def test_the_table_names_operators_that_exist() -> None:
    known = {name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    # Some came or went between versions of torch; a misspelt row would be in no version.
    assert set(OPERATORS) - known <= {"_scaled_dot_product_fused_attention_overrideable", "_fused_rms_norm"}


def test_kinds_are_words() -> None:
    assert [row.kind for row in OPERATORS.values() if row.kind != row.kind.strip() or "__" in row.kind] == []
