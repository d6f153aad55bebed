"""Batch-norm statistics after a separation."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from depthwise.separate.calibration import batches_of
from depthwise.separate.norms import reestimate_
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


def test_one_value_a_channel_has_no_variance_to_move() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    copy = deepcopy(model)
    with torch.no_grad():
        copy[0].get_parameter("weight").mul_(2)
    reestimate_(model, copy, batches_of([torch.randn(1, 3, 3, 3)], None, None))
    assert torch.equal(norms(copy)[0].running_var, torch.ones(4))  # type: ignore[arg-type]
