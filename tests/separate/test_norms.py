"""Batch-norm statistics after a separation."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from depthwise import DepthwiseError
from depthwise.separate.calibration import batches_of
from depthwise.separate.norms import _statistics, reestimate_
from tests.support.dense import convolutional, images


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def test_an_unchanged_network_keeps_its_statistics_bit_for_bit() -> None:
    model = convolutional()
    copy = deepcopy(model)
    reestimate_(model, copy, batches_of(images(40), None, None))
    for name, value in model.state_dict().items():
        assert torch.equal(value, copy.state_dict()[name]), name


def test_a_scaled_and_shifted_layer_is_undone_by_its_norm() -> None:
    model = convolutional(bias=True)
    copy = deepcopy(model)
    with torch.no_grad():
        copy[3].get_parameter("weight").mul_(3)
        copy[3].get_parameter("bias").add_(1)
    x = images(40)
    assert not torch.allclose(model(x), copy(x), atol=0.1)
    reestimate_(model, copy, batches_of(x, None, None))
    torch.testing.assert_close(copy(x), model(x), rtol=1e-2, atol=1e-2)
    assert torch.equal(norms(copy)[0].running_var, norms(model)[0].running_var)  # type: ignore[arg-type]
    assert not torch.equal(norms(copy)[1].running_var, norms(model)[1].running_var)  # type: ignore[arg-type]


class Activated(nn.BatchNorm2d):
    """A batch norm with the activation inside, as timm has it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


@torch.no_grad()
def test_a_norm_with_a_forward_of_its_own_runs_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Activated(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    x = images(40)
    model[1].momentum = model[3].momentum = None  # type: ignore[assignment]
    model.train()(x)
    model.eval()
    copy = deepcopy(model)
    copy[0].get_parameter("weight").mul_(3)
    before = [norm.running_mean for norm in norms(model)]
    reestimate_(model, copy, batches_of([x], None, None))
    # Scaled and normalised again, what comes after it is what it was; without its activation that would not hold.
    torch.testing.assert_close(norms(copy)[1].running_mean, norms(model)[1].running_mean, rtol=1e-3, atol=1e-4)
    seen = _statistics(model, batches_of([x], None, None))["3"]
    torch.testing.assert_close(seen.mean.float(), norms(model)[1].running_mean, rtol=1e-3, atol=1e-4)
    assert all(norm.running_mean is mean for norm, mean in zip(norms(model), before, strict=True))


def test_statistics_are_given_back_where_a_forward_fails() -> None:
    model = convolutional()
    before = [norm.running_mean for norm in norms(model)]
    with pytest.raises(DepthwiseError, match="the model failed on a calibration batch"):
        _statistics(model, batches_of([images(8), images(8, channels=4)], None, None))
    assert all(norm.running_mean is mean for norm, mean in zip(norms(model), before, strict=True))
    assert not any(norm._forward_pre_hooks for norm in norms(model))


def test_one_value_a_channel_has_no_variance_to_move() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    copy = deepcopy(model)
    with torch.no_grad():
        copy[0].get_parameter("weight").mul_(2)
    reestimate_(model, copy, batches_of([torch.randn(1, 3, 3, 3)], None, None))
    assert torch.equal(norms(copy)[0].running_var, torch.ones(4))  # type: ignore[arg-type]
