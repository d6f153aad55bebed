"""The backward pass, against torch's own counter of what a training step runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from depthwise import SeparableConv2d
from depthwise.cost import Cost
from depthwise.count import count

from ..support.networks import Calls, timm_model

# Torch counts the gradient of a grouped convolution's weights as if there were no groups.
NETWORKS = ("resnet18", "mixer_s32_224")


def torchs(model: nn.Module, *inputs: torch.Tensor) -> int:
    """Multiply-adds of one forward and its backward."""
    with FlopCounterMode(display=False) as counter:
        model(*inputs).sum().backward()
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_torch(name: str) -> None:
    model = timm_model(name)
    result = count(model, (3, 224, 224), backward=True)
    assert result.backward is not None
    assert result.total.macs + result.backward.macs == torchs(model, torch.empty(1, 3, 224, 224, device="meta"))


MODELS = {
    "convolutions": nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1)),
    "transposed": nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 6, 3, 2)),
    "in place": nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3)),
    "frozen first": nn.Sequential(nn.Conv2d(3, 8, 3).requires_grad_(False), nn.ReLU(), nn.Conv2d(8, 8, 3)),
    "frozen last": nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3).requires_grad_(False)),
    "weight norm": nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.Conv2d(8, 8, 3)),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_small_models_agree_with_torch(model: nn.Module) -> None:
    result = count(model, (3, 12, 12), backward=True)
    assert result.backward is not None
    assert result.total.macs + result.backward.macs == torchs(model, torch.zeros(1, 3, 12, 12))


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_groups_are_convolutions_side_by_side(kind: type[nn.Conv2d]) -> None:
    grouped = nn.Sequential(nn.Conv2d(3, 8, 1), kind(8, 8, 3, groups=4))
    parts = nn.ModuleList(kind(2, 2, 3) for _ in range(4))

    def side_by_side(x: torch.Tensor, first: nn.Module, parts: nn.ModuleList) -> torch.Tensor:
        return torch.cat([part(each) for part, each in zip(parts, first(x).split(2, 1), strict=True)], 1)

    result = count(grouped, (3, 9, 9), backward=True)
    assert result.backward is not None
    apart = Calls(side_by_side, first=nn.Conv2d(3, 8, 1), parts=parts)
    assert result.total.macs + result.backward.macs == torchs(apart, torch.zeros(1, 3, 9, 9))


def test_a_separable_layer_by_hand() -> None:
    result = count(nn.Sequential(nn.Conv2d(3, 3, 1), SeparableConv2d(3, 128, 3)), (3, 7, 7), backward=True)
    assert [row.backward and row.backward.macs for row in result.rows] == [441, 2 * 675, 2 * 9600]


def test_products_agree_with_torch() -> None:
    first, second = nn.Linear(6, 5), nn.Linear(6, 4, bias=False)
    model = Calls(lambda x, first, second: torch.bmm(first(x).transpose(1, 2), second(x)), first=first, second=second)
    result = count(model, (7, 6), backward=True)
    assert result.backward is not None
    assert result.total.macs + result.backward.macs == torchs(model, torch.zeros(1, 7, 6))


def test_attention_by_hand() -> None:
    project = nn.Linear(8, 24, bias=False)

    def forward(x: torch.Tensor, project: nn.Linear) -> torch.Tensor:
        q, k, v = project(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return nn.functional.scaled_dot_product_attention(q, k, v)

    result = count(Calls(forward, project=project), (5, 8), backward=True)
    (attention,) = (row for row in result.rows if row.kind == "attention")
    # 2 heads, 5 x 5 scores of 4 products: two matrices forward; the scores once more and four matrices backward.
    assert attention.cost.macs == 2 * (2 * 25 * 4)
    assert attention.backward == Cost(5 * 200, 5 * 200, 5 * 200)


def test_an_lstm_is_its_products() -> None:
    result = count(Calls(lambda x, lstm: lstm(x)[0], lstm=nn.LSTM(3, 4, batch_first=True)), (6, 3), backward=True)
    (row,) = (row for row in result.rows if row.kind == "lstm")
    assert row.backward is not None
    assert row.backward.macs == 2 * row.cost.macs


def test_rows_that_need_no_gradient() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3).requires_grad_(False), nn.ReLU(), nn.AvgPool2d(2))
    result = count(model, (3, 9, 9), backward=True)
    assert {row.backward for row in result.rows} == {Cost()}
    assert result.backward == Cost()
    assert count(model, (3, 9, 9)).backward is None
