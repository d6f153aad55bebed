"""The steps of the demo: a trained network separated, and fine-tuned for an epoch; the weights alone beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..separate import Separation, distill, separate_
from .data import IMAGE_SIZE, SEED, Digits
from .network import TRAIN_BATCH, accuracy
from .results import Accuracies


@dataclass(frozen=True, slots=True)
class Separated:
    """A network separated within one budget and fine-tuned, and how well it did on the way there."""

    network: nn.Module
    report: Separation
    accuracies: Accuracies


def separated(
    dense: nn.Module,
    digits: Digits,
    budget: float,
    calibration: int,
    on_layer: Callable[[str, int, int], object] = lambda *_: None,
    on_step: Callable[[], object] = lambda: None,
) -> Separated:
    """Separate a copy of `dense` on the first `calibration` digits, without labels, and distill it for one epoch."""

    def tested(network: nn.Module) -> float:
        return accuracy(network, digits.test_images, digits.test_labels)

    plain = deepcopy(dense)
    separate_(plain, budget=budget, input_size=IMAGE_SIZE)
    network = deepcopy(dense)
    report = separate_(network, digits.train_images[:calibration], budget=budget, on_step=on_layer)
    fitted, normed = tested(with_statistics_of(dense, network)), tested(network)
    distill(network, dense, Batches(digits.train_images, on_step), progress=False)
    return Separated(network, report, Accuracies(tested(plain), fitted, normed, tested(network)))


def with_statistics_of(dense: nn.Module, network: nn.Module) -> nn.Module:
    """A copy of `network` whose batch norms normalise as those of `dense` do."""
    copy = deepcopy(network)
    for name, norm in copy.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            for buffer, value in dense.get_submodule(name).named_buffers():
                norm.get_buffer(buffer).copy_(value)
    return copy


class Batches:
    """All images once, in batches, in an order of its own; `on_step` is called when one is done."""

    def __init__(self, images: Tensor, on_step: Callable[[], object]) -> None:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
        self.parts = images[order].split(TRAIN_BATCH)
        self.on_step = on_step

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Tensor]:
        for part in self.parts:
            yield part
            self.on_step()
