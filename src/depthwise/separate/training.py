"""A student in training: its optimizer and schedule, its steps over all processes, its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from ..errors import DepthwiseError, said
from .calibration import device_of
from .checks import is_finite_number
from .processes import add_up_, from_first, several, together


class Training:
    """The student with its optimizer, and how far it has come."""

    def __init__(
        self,
        student: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        lr: float,
        epochs: int,
        loader: Iterable[Any],
        autocast: torch.dtype | None,
    ) -> None:
        self.student = student
        self.batches = loader
        length = _length(loader)
        if length == 0:
            raise DepthwiseError("the loader has no batches: its length is 0")
        self.total = None if length is None else epochs * length
        self.steps = 0
        self.parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self.optimizer = optimizer or torch.optim.AdamW(self.parameters, lr=lr)
        self.schedule = None
        if optimizer is None and self.total is not None:
            self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max(1, self.total))
        device = device_of(student)
        self.scaler = torch.amp.GradScaler("cpu" if device is None else device.type, enabled=autocast is torch.float16)

    def step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self._average()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.schedule is not None:
            self.schedule.step()
        self.steps += 1

    def shuffle(self, epoch: int) -> None:
        """Let a sampler for several processes draw another order each epoch, and the same one when resumed."""
        if isinstance(self.batches, DataLoader) and isinstance(self.batches.sampler, DistributedSampler):
            self.batches.sampler.set_epoch(epoch)

    def _average(self) -> None:
        if not several():
            return
        for parameter in self.parameters:
            # A parameter that a process did not use has no gradient there, and takes part all the same.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            _average_(parameter.grad)

    def average_buffers(self) -> None:
        """One student in all processes: each had its own data for the norms' statistics."""
        for buffer in self.student.buffers():
            if several() and buffer.is_floating_point():
                _average_(buffer)

    def _parts(self) -> dict[str, Any]:
        parts = {"student": self.student, "optimizer": self.optimizer, "scaler": self.scaler}
        return parts if self.schedule is None else {**parts, "schedule": self.schedule}

    def save(self, path: str | Path | None, losses: list[float]) -> None:
        """Write everything that a later run needs; the first process does, and the file is whole or not there."""
        if path is None or _later_process():
            return
        state = {name: part.state_dict() for name, part in self._parts().items()}
        unfinished = Path(f"{path}.unfinished")
        torch.save({**state, "losses": losses, "steps": self.steps}, unfinished)
        unfinished.replace(path)

    def resumed(self, path: str | Path | None) -> list[float]:
        """The losses of the epochs that a checkpoint has behind it; everything else is taken up from there.

        The first process reads it for all: the others may be on machines that do not have the file.
        """
        if path is None:
            return []
        with together():
            own = None if _later_process() else _loaded(path)
        state = from_first(own)
        if state is None:
            return []
        if state.keys() != {*self._parts(), "losses", "steps"}:
            raise DepthwiseError(f"{path} is no checkpoint of this fine-tuning: it holds {', '.join(map(str, state))}")
        losses, steps = state["losses"], state["steps"]
        if not isinstance(losses, list) or not all(map(is_finite_number, losses)) or not isinstance(steps, int):
            raise DepthwiseError(f"{path} is no checkpoint of this fine-tuning: its losses or steps are no numbers")
        for name, part in self._parts().items():
            try:
                part.load_state_dict(state[name])
            # torch and its optimizers say in many ways that a state is another's.
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise DepthwiseError(f"{path} does not fit this fine-tuning: its {name}: {said(error)}") from error
        self.steps = steps
        return list(losses)


def _later_process() -> bool:
    return several() and torch.distributed.get_rank() > 0


def _loaded(path: str | Path) -> dict[str, Any] | None:
    """What the file holds, None where there is none; that one can be written there is tried before any work."""
    try:
        unfinished = Path(f"{path}.unfinished")
        unfinished.touch()
        unfinished.unlink()
        if not Path(path).exists():
            return None
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DepthwiseError(f"checkpoint={str(path)!r} cannot be written or read: {error}") from error
    # torch.load says in many ways that a file is none of its own.
    except (RuntimeError, ValueError, EOFError, KeyError, UnpicklingError) as error:
        raise DepthwiseError(f"{path} is no checkpoint of this fine-tuning: {said(error)}") from error
    if not isinstance(state, dict):
        raise DepthwiseError(f"{path} is no checkpoint of this fine-tuning: it holds a {type(state).__name__}")
    return state


def _length(loader: Iterable[Any]) -> int | None:
    """Batches of an epoch; None where nothing says how many."""
    try:
        return len(loader) if isinstance(loader, Sized) else None
    # A DataLoader over an iterable data set has a length that raises.
    except (TypeError, NotImplementedError):
        return None


def _average_(tensor: Tensor) -> None:
    add_up_(tensor)
    tensor /= torch.distributed.get_world_size()
