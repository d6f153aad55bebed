"""Training steps of whole networks, after `accelerate_` and in PyTorch's ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...accelerate import accelerate_
from ...errors import DepthwiseError
from ...measure.turns import Call, Key, take_single_turns
from ..cases import laid_out
from ..rows import OURS, TORCH
from .rows import LAYOUTS, STEPS, TrainingRow, row_of
from .sides import through_compiler

# Of the first loss.
TOLERANCE = 1e-3
FULL_ROUNDS, QUICK_ROUNDS = 7, 1
SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Step:
    """A network of timm's, and what is asked of it: PyTorch's time over ours."""

    network: str
    batch: int
    pixels: int
    least: float

    @property
    def name(self) -> str:
        return f"{self.network}, batch {self.batch}, {self.pixels}x{self.pixels}"


NETWORKS = (
    Step("mobilenetv1_100", 8, 224, 2.0),
    Step("mobilenetv2_100", 8, 224, 2.0),
    Step("mobilenetv3_large_100", 8, 224, 2.0),
    Step("efficientnet_b0", 8, 224, 2.0),
    Step("convnext_tiny", 8, 224, 1.3),
    # What federated clients train.
    Step("mobilenetv2_100", 32, 32, 1.5),
    Step("mobilenetv3_large_100", 32, 32, 1.5),
)
Build = Callable[[str], nn.Module]


def rows(
    build: Build, *, compiled: bool, quick: bool = False, steps: Sequence[Step] = NETWORKS
) -> Iterator[TrainingRow]:
    """build: makes a network by its name in timm"""
    for step in steps:
        yield network(step, build, compiled=compiled, rounds=QUICK_ROUNDS if quick else FULL_ROUNDS)


def network(step: Step, build: Build, *, compiled: bool, rounds: int) -> TrainingRow:
    if compiled:
        torch.compiler.reset()
    torch.manual_seed(0)
    model = build(step.network)
    x = torch.randn(step.batch, 3, step.pixels, step.pixels)
    calls: dict[Key, Call] = {(OURS, LAYOUTS[0]): training_step(model, x, LAYOUTS[0], accelerated=True)}
    for layout in LAYOUTS:
        calls[TORCH, layout] = training_step(model, x, layout)
        if compiled:
            calls[TORCH, f"{layout}, compiled"] = training_step(model, x, layout, compiled=True)
    first = {key: call() for key, call in calls.items()}
    expected = first[TORCH, LAYOUTS[0]]
    for (who, _), loss in first.items():
        # So written, a NaN fails too.
        if not abs(loss - expected) <= TOLERANCE * abs(expected):
            raise DepthwiseError(f"{step.name}: the first loss of {who} is {loss}, not {expected}; it is not timed")
    samples = take_single_turns(calls, rounds, SECONDS)
    return row_of(STEPS, step.name, torch.get_num_threads(), samples, step.least)


def training_step(
    model: nn.Module, x: Tensor, layout: str, *, accelerated: bool = False, compiled: bool = False
) -> Callable[[], float]:
    """A step of SGD with momentum on a copy of the model, all on the same images; it gives the loss."""
    own = deepcopy(model).train()
    if layout == "channels_last":
        own.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if accelerated:
        accelerate_(own)
    optimizer = torch.optim.SGD(own.parameters(), lr=0.01, momentum=0.9)
    images, labels = laid_out(x, layout), torch.arange(len(x)) % 10
    forward = through_compiler(own) if compiled else own

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
