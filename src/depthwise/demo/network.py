"""The dense network of the demo, its training, and what separated copies of it are checked and timed with."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backends import backend
from ..blocks import BlueprintConv2d
from ..layers import SeparableConv2d
from .data import SEED, Digits

TRAIN_BATCH = 64
LEARNING_RATE = 3e-3


def small_cnn() -> nn.Sequential:
    def conv(in_channels: int, out_channels: int) -> nn.Sequential:
        layer = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(out_channels), nn.ReLU())

    return nn.Sequential(
        conv(1, 32),
        nn.MaxPool2d(2),
        conv(32, 64),
        conv(64, 64),
        nn.MaxPool2d(2),
        conv(64, 128),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128 * 3 * 3, 10),
    )


def trained(digits: Digits, epochs: int, on_step: Callable[[], object] = lambda: None) -> nn.Sequential:
    """A `small_cnn`, trained from one seed; torch's own random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = small_cnn()
        _fit(model, digits, epochs, on_step)
    return model.eval()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)


def step_(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    """One step of a training."""
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def steps_of(digits: Digits, epochs: int) -> int:
    """How many steps a training takes."""
    return epochs * -(-len(digits.train_labels) // TRAIN_BATCH)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of the images whose highest output is their label's."""
    with torch.inference_mode():
        hits = model(images).argmax(1) == labels
    return float(hits.double().mean())


def dense_twin(model: nn.Module) -> nn.Module:
    """A copy that computes the same with each separable layer as the dense convolution it equals."""
    twin = deepcopy(model)
    for name, layer in list(twin.named_modules()):
        if isinstance(layer, SeparableConv2d | BlueprintConv2d):
            twin.set_submodule(name, layer.to_dense())
    return twin


class OnEager(nn.Module):
    """A network on PyTorch's own operators."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with backend("eager"):
            out: Tensor = self.network(x)
        return out


def _fit(model: nn.Module, digits: Digits, epochs: int, on_step: Callable[[], object]) -> None:
    images, labels = digits.train_images, digits.train_labels
    optimizer = optimizer_of(model)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps_of(digits, epochs))
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(TRAIN_BATCH):
            step_(model, optimizer, images[batch], labels[batch])
            schedule.step()
            on_step()
