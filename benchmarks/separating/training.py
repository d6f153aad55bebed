"""The dense networks' training, one epoch a call, each epoch kept in a checkpoint that the next goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise import DepthwiseError

from .data import Fashion
from .networks import NETWORKS

EPOCHS = 8
BATCH = 128
LEARNING_RATE = 0.1
# In percent, what a dense network must reach before it is separated.
ENOUGH = 92.5


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(x) for x in images.split(500)])


def accuracy(given: Tensor, labels: Tensor) -> float:
    """In percent."""
    return 100 * float((given.argmax(1) == labels).double().mean())


def shuffled(size: int, seed: int, batch: int = BATCH) -> tuple[Tensor, ...]:
    """Indices of whole batches in an order of their own for each seed."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    parts: tuple[Tensor, ...] = order[: size // batch * batch].split(batch)
    return parts


def augmented(images: Tensor, seed: int) -> Tensor:
    """The images, each mirrored or not."""
    mirrored = torch.rand(len(images), 1, 1, 1, generator=torch.Generator().manual_seed(seed)) < 0.5
    return torch.where(mirrored, images.flip(3), images).contiguous(memory_format=torch.channels_last)


def train_epoch(name: str, fashion: Fashion, folder: Path) -> tuple[int, float]:
    """Train network `name` one epoch on; epochs done, and its test accuracy in percent."""
    state = _state(name, folder)
    done = state["epoch"] if state else 0
    if done >= EPOCHS:
        raise DepthwiseError(f"{name} has its {EPOCHS} epochs; its checkpoint is in {folder}")
    torch.manual_seed(0)
    model: Any = NETWORKS[name]().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = shuffled(len(fashion.train_images), done)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * len(batches))
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
    for part in parts if state else ():
        parts[part].load_state_dict(state[part])
    model.train()
    for number, batch in enumerate(batches):
        images = augmented(fashion.train_images[batch], done * len(batches) + number)
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(images), fashion.train_labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    reached = accuracy(outputs(model.eval(), fashion.test_images), fashion.test_labels)
    whole = {part: value.state_dict() for part, value in parts.items()} | {"epoch": done + 1, "accuracy": reached}
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{name}.unfinished"
    torch.save(whole, unfinished)
    unfinished.replace(folder / f"{name}.pt")
    return done + 1, reached


def epochs_done(name: str, folder: Path) -> int:
    state = _state(name, folder)
    return state["epoch"] if state else 0


def load_dense(name: str, folder: Path) -> nn.Module:
    """The trained network, in evaluation mode, channels last."""
    state = _state(name, folder)
    if not state or state["epoch"] < EPOCHS:
        raise DepthwiseError(f"{name} is not trained yet: python -m benchmarks.separating train")
    if state["accuracy"] < ENOUGH:
        raise DepthwiseError(f"{name} reached {state['accuracy']:.2f} %, less than {ENOUGH} %; nothing is measured")
    model: Any = NETWORKS[name]().eval()
    model.load_state_dict(state["model"])
    network: nn.Module = model.to(memory_format=torch.channels_last)
    return network


def _state(name: str, folder: Path) -> dict[str, Any]:
    path = folder / f"{name}.pt"
    return torch.load(path, weights_only=True) if path.exists() else {}
