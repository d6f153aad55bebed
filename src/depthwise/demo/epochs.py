"""What an epoch of training takes, after `accelerate_` and on PyTorch's operators: reckoned from a few steps in turn.

for network in dense, separable:          a training
for network in separable:                 a distillation from the dense one
    for way in accelerate_, PyTorch's:    in both layouts
        one step that is not timed
in turn, round after round: a step of each
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ..accelerate import accelerate_
from ..backends import backend
from ..measure.turns import Call, Key, take_single_turns
from ..separate import distill
from .data import SEED, Digits
from .network import TRAIN_BATCH, optimizer_of, step_, steps_of
from .results import Epoch
from .timing import LAYOUTS

ACCELERATED, PYTORCHS = "accelerate_", "PyTorch's"
# No round begins after so many seconds.
LIMIT_SECONDS = 10.0


def epochs(
    networks: Mapping[str, nn.Module], digits: Digits, rounds: int, teacher: nn.Module | None = None
) -> dict[str, Epoch]:
    """Seconds by name: of training each network or, where a teacher is given, of distilling it from that one."""
    images, labels = digits.train_images[:TRAIN_BATCH], digits.train_labels[:TRAIN_BATCH]
    calls: dict[Key, Call] = {}
    # Nothing random that a training draws is anyone else's.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for name, network in networks.items():
            for way in (ACCELERATED, PYTORCHS):
                for layout in LAYOUTS:
                    step = _step(network, teacher, images, labels, layout, accelerated=way == ACCELERATED)
                    calls[name, f"{way} {layout}"] = step
                    step()
        samples = take_single_turns(calls, rounds, LIMIT_SECONDS)
    steps = steps_of(digits, 1)
    found = {key: steps * median(taken) for key, taken in samples.items()}
    return {
        name: Epoch(*(min(found[name, f"{way} {layout}"] for layout in LAYOUTS) for way in (ACCELERATED, PYTORCHS)))
        for name in networks
    }


def _step(
    network: nn.Module, teacher: nn.Module | None, images: Tensor, labels: Tensor, layout: str, *, accelerated: bool
) -> Callable[[], None]:
    """A step on copies of the networks, always with the same images."""
    x = images.contiguous(memory_format=LAYOUTS[layout])
    student = _own(network, layout, accelerated=accelerated)
    if teacher is None:
        optimizer = optimizer_of(student)

        def step() -> None:
            step_(student.train(), optimizer, x, labels)
    else:
        source = _own(teacher, layout, accelerated=accelerated)

        def step() -> None:
            distill(student, source, [x], progress=False)

    return step if accelerated else _by_torch(step)


def _own(network: nn.Module, layout: str, *, accelerated: bool) -> Any:
    # torch's annotation of Module.to leaves memory_format out.
    own = deepcopy(network).to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    if accelerated:
        accelerate_(own)
    return own


def _by_torch(step: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        with backend("eager"):
            step()

    return call
