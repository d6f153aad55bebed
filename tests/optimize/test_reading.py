"""In-place operators are made plain where nothing sees the difference, and refused where something may."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise import DepthwiseError, optimize
from tests.support.networks import Calls
from tests.support.whole import difference

X = torch.randn(2, 4, 6, 6)


def _twice(x: Tensor) -> Tensor:
    y = x * 2
    y.relu_()
    y.add_(1)
    return y + torch.relu_(y - 1.5)


def _written_then_read_by_its_old_name(x: Tensor) -> tuple[Tensor, Tensor]:
    y = x * 2
    z = y.mul_(3)
    return y + 1, z


def _of_the_same_tensor(x: Tensor) -> Tensor:
    y = x * 2
    same = F.dropout(y, 0.5, training=False)
    same.relu_()
    return y


def _of_a_view_that_is_read_no_more(x: Tensor) -> Tensor:
    y = (x * 2).view(2, -1)
    return y.sigmoid_()


def _of_what_a_view_shows_before(x: Tensor) -> Tensor:
    y = x * 2
    total = y.flatten(1).sum(1)
    return y.relu_().sum((1, 2, 3)) + total


def _of_a_copy(x: Tensor) -> Tensor:
    y = x * 2
    y.clone().relu_()
    return y


def _of_half(x: Tensor) -> Tensor:
    first, second = (x * 2).split(2, dim=1)
    return torch.cat([first.add(0).relu_(), second], 1)


def _with_another_tensor(x: Tensor) -> Tensor:
    y = x * 2
    y += x.mean((2, 3), keepdim=True)
    y *= y
    return y.clamp_(max=1.0)


def _leaky(x: Tensor) -> Tensor:
    return F.hardswish(F.leaky_relu(x * 2, 0.3, inplace=True), inplace=True)


@pytest.mark.parametrize(
    "function",
    [
        _twice,
        _written_then_read_by_its_old_name,
        _of_the_same_tensor,
        _of_a_view_that_is_read_no_more,
        _of_what_a_view_shows_before,
        _of_a_copy,
        _of_half,
        _with_another_tensor,
        _leaky,
    ],
    ids=lambda function: function.__name__,
)
def test_made_plain(function: Callable[[Tensor], object]) -> None:
    model = Calls(function)
    found = optimize(model, X[:1])
    before = X.clone()
    assert difference(found, model, X) <= 1
    assert torch.equal(X, before)
    assert not [node.operator for node in found._network.graph.nodes if node.operator.endswith("_")]


def _read_behind_a_view(x: Tensor) -> Tensor:
    y = x * 2
    y[:, :2].relu_()
    return y


def _view_read_behind(x: Tensor) -> Tensor:
    y = x * 2
    rows = y.view(2, -1)
    y.relu_()
    return rows


def _through_a_reshape(x: Tensor) -> Tensor:
    y = (x * 2).transpose(1, 2)
    rows = y.reshape(2, -1)
    rows.relu_()
    return y


def _through_an_operator_without_a_rule(x: Tensor) -> Tensor:
    y = x * 2
    z = y.movedim(1, 2)
    z.relu_()
    return y


def _assigned(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 0] = 0
    return y


def _written_again_behind(x: Tensor) -> Tensor:
    y = x * 2
    rows = y.view(2, -1)
    y.relu_()
    return rows.add_(1)


@pytest.mark.parametrize(
    "function",
    [
        _read_behind_a_view,
        _view_read_behind,
        _through_a_reshape,
        _through_an_operator_without_a_rule,
        _assigned,
        _written_again_behind,
    ],
    ids=lambda function: function.__name__,
)
def test_refused_where_another_may_see_it(function: Callable[[Tensor], object]) -> None:
    with pytest.raises(DepthwiseError, match="wrote into memory that may be the same; write the result into a new"):
        optimize(Calls(function), X)


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x * self.calls


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.ReLU(inplace=True), "aten.relu_.default writes into input_0, one of the model's inputs"),
        (Calls(lambda x: x.view(2, -1).relu_() if len(x) == 2 else x.view(len(x), -1).relu_()), "into input_0, one of"),
        (Counts(), "writes into calls, one of its weights or buffers"),
        (Calls(lambda x: (x * 2).unsqueeze_(1)), "changes the sizes of a tensor in place"),
        (Calls(lambda x: (x * 2).mul_(x.double())), "writes numbers of one dtype into a tensor of another"),
        (Calls(lambda x: torch.mul(x, 2, out=torch.empty_like(x))), "writes into its arguments, and no plain operator"),
        (
            Calls(lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4), training=True)),
            "normalises with the statistics of the batch and updates its own",
        ),
        (Calls(lambda x: x * torch.tensor(1j)), None),
    ],
)
def test_other_refusals(model: nn.Module, message: str | None) -> None:
    if message is None:
        assert optimize(model, X)(X).dtype is torch.complex64
        return
    with pytest.raises(DepthwiseError, match=message):
        optimize(model, X)


def test_norms_without_statistics_stay_with_torch() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    found = optimize(model, X)
    assert [layer.operator for layer in found.report.layers if layer.operator != "layout"] == ["conv", "batch_norm"]
    assert difference(found, model, X) <= 1


def test_random_numbers_are_drawn_anew() -> None:
    model = Calls(lambda x: x + torch.rand(3, 1, 1, 1)[:1])
    found = optimize(model, X)
    assert not torch.equal(found(X), found(X))
    torch.manual_seed(7)
    first = found(X)
    torch.manual_seed(7)
    assert torch.equal(model(X), first)
