"""Dense counterparts: which convolutions make a pair, and what stands for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from depthwise import SeparableConv2d
from depthwise.cost import Cost
from depthwise.count import Count, Row, count

from ..support.networks import Calls, InvertedResidual


def depthwise(channels: int, kernel_size: int = 3, multiplier: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        channels, channels * multiplier, kernel_size, padding=kernel_size // 2, groups=channels, bias=False
    )


def pointwise(channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 1, bias=False)


def row(result: Count, name: str) -> Row:
    return next(row for row in result.rows if row.name == name)


def test_mobilenet_v1_block() -> None:
    block = nn.Sequential(
        depthwise(8), nn.BatchNorm2d(8), nn.ReLU6(), pointwise(8, 16), nn.BatchNorm2d(16), nn.ReLU6(inplace=True)
    )
    result = count(block, (8, 10, 10))
    dense = count(
        nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()), (8, 10, 10)
    )
    assert row(result, "0").dense == Cost()
    assert row(result, "3").dense == dense.rows[0].cost
    # Norm and activation between the two have no dense counterpart and count as they are.
    between = [row(result, "1"), row(result, "2")]
    assert [r.dense for r in between] == [None, None]
    assert result.dense.macs == dense.total.macs
    assert result.dense.parameters == dense.total.parameters + 16
    expected = dense.total.multiplications + sum(r.cost.multiplications for r in between)
    assert result.dense.multiplications == expected


@pytest.mark.parametrize("squeeze", [0, 4])
def test_inverted_residual(squeeze: int) -> None:
    result = count(InvertedResidual(8, 48, squeeze), (8, 10, 10))
    assert row(result, "expand.0").dense is None
    assert row(result, "depthwise.0").dense == Cost()
    projected = row(result, "project.0")
    assert projected.dense is not None
    assert projected.dense.macs == 100 * 48 * 9 * 8
    # The gate's convolutions are pointwise, but read the channels' means.
    assert [r.dense for r in result.rows if r.name.startswith("squeeze")] == [None] * 6 * bool(squeeze)
    assert result.dense.parameters - result.total.parameters == 48 * 9 * 8 - 48 * 9 - 48 * 8


def test_squeeze_excite_on_a_single_pixel() -> None:
    result = count(InvertedResidual(8, 48, 4), (8, 1, 1))
    assert row(result, "project.0").dense is not None


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_rank(rank: int) -> None:
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]
    size = (4, *[7, 6, 5][:rank])
    model = nn.Sequential(conv(4, 8, 3, groups=4), nn.Hardswish(), conv(8, 5, 1))
    result, dense = count(model, size), count(conv(4, 5, 3), size)
    assert [r.kind for r in result.rows] == ["depthwise convolution", "hardswish", "pointwise convolution"]
    assert result.rows[2].dense == dense.total


def test_strided_with_multiplier_and_batch() -> None:
    model = nn.Sequential(nn.Conv2d(4, 12, 5, stride=2, padding=2, groups=4), nn.Conv2d(12, 6, 1))
    x = torch.zeros(3, 4, 9, 8)
    assert count(model, x).dense == count(nn.Conv2d(4, 6, 5, stride=2, padding=2), x).total


def test_transposed_pair() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(4, 4, 3, stride=2, groups=4), nn.Conv2d(4, 6, 1))
    assert count(model, (4, 5, 5)).dense == count(nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5)).total


def test_grouped_alone() -> None:
    result = count(nn.Conv2d(8, 12, 3, groups=4), (8, 9, 9))
    assert result.rows[0].kind == "grouped convolution"
    assert result.rows[0].dense == result.dense == count(nn.Conv2d(8, 12, 3), (8, 9, 9)).total


def test_depthwise_alone() -> None:
    result = count(depthwise(8), (8, 9, 9))
    assert result.rows[0].dense == result.dense == count(nn.Conv2d(8, 8, 3, padding=1, bias=False), (8, 9, 9)).total


def through(function: object) -> Row:
    """The pointwise row of a model in which `function` stands between the two."""

    def forward(x: Tensor, depthwise: nn.Module, pointwise: nn.Module) -> Tensor:
        return pointwise(function(depthwise(x)))  # type: ignore[operator, no-any-return]

    return row(count(Calls(forward, depthwise=depthwise(8), pointwise=pointwise(8, 4)), (8, 6, 6)), "pointwise")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        lambda x: x * torch.sigmoid(x),
        lambda x: x * nn.functional.relu6(x + 3) / 6,
        lambda x: x * torch.ones(8, 1, 1) + torch.ones(8, 1, 1),
        lambda x: x * torch.ones(1, 1, 6, 6),
        lambda x: x.relu_().mul_(2),
        lambda x: nn.functional.layer_norm(x, (8, 6, 6)),
        lambda x: nn.functional.group_norm(x, 2),
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: torch.zeros(1, 8, 6, 6).copy_(x),
    ],
)
def test_what_keeps_a_pair_together(function: object) -> None:
    found = through(function).dense
    assert found is not None
    assert found.macs == 36 * 8 * 9 * 4


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + torch.ones(1, 8, 6, 6),
        lambda x: x.add_(torch.ones(1, 8, 6, 6)),
        lambda x: torch.cat([x[:, :4], x[:, 4:]], 1),
        lambda x: nn.functional.avg_pool2d(x, 3, 1, 1),
        lambda x: x.mean((2, 3), keepdim=True),
        lambda x: x.softmax(1),
        lambda x: x.flatten(2).relu().view(1, 8, 6, 6),
        lambda x: torch.zeros(1, 8, 6, 6).copy_(x).zero_(),
    ],
)
def test_what_parts_a_pair(function: object) -> None:
    assert through(function).dense is None


def test_a_depthwise_output_read_by_two() -> None:
    def forward(x: Tensor, depthwise: nn.Module, left: nn.Module, right: nn.Module) -> tuple[Tensor, Tensor]:
        between = depthwise(x)
        return left(between), right(torch.relu(between))

    model = Calls(forward, depthwise=depthwise(8), left=pointwise(8, 4), right=pointwise(8, 6))
    result = count(model, (8, 5, 5))
    assert result.dense.macs == 25 * 8 * 9 * (4 + 6)
    assert result.dense.parameters == 8 * 9 * (4 + 6)


def test_a_pair_called_twice_has_its_parameters_once() -> None:
    pair = nn.Sequential(depthwise(8), pointwise(8, 8))
    result = count(nn.Sequential(pair, pair), (8, 5, 5))
    assert result.dense.macs == 2 * 25 * 8 * 9 * 8
    assert result.dense.parameters == 8 * 9 * 8


def test_the_second_of_two_depthwise_convolutions_makes_the_pair() -> None:
    result = count(nn.Sequential(depthwise(8, 3), depthwise(8, 5), pointwise(8, 4)), (8, 6, 6))
    macs = [None if r.dense is None else r.dense.macs for r in result.rows]
    assert macs == [36 * 8 * 9 * 8, 0, 36 * 8 * 25 * 4]


@pytest.mark.parametrize(
    ("layer", "dense"),
    [
        (SeparableConv2d(8, 16, 3, groups=2, bias=False), nn.Conv2d(8, 16, 3, groups=2, bias=False)),
        (SeparableConv2d(1, 8, 3, bias=False), nn.Conv2d(1, 8, 3, bias=False)),
        (SeparableConv2d(3, 8, 5, 2, "same", depth_multiplier=2), nn.Conv2d(3, 8, 5, 2, padding=2)),
    ],
)
def test_the_dense_cost_of_a_layer_is_that_of_the_convolution_it_replaces(layer: nn.Module, dense: nn.Conv2d) -> None:
    size = (dense.in_channels, 10, 10)
    ours, theirs = count(layer, size).dense, count(dense, size).total
    assert (ours.multiplications, ours.additions, ours.parameters) == (
        theirs.multiplications,
        theirs.additions,
        theirs.parameters,
    )
