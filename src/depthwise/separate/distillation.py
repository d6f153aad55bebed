"""Fine-tuning against the dense network: a plain loop, here to be read, used, or copied and changed.

Knowledge distillation on the outputs (Hinton, Vinyals, Dean, arXiv 1503.02531), with the outputs of single layers
matched too where wanted. Under `torchrun`, with `torch.distributed` initialised, gradients are averaged over all
processes, each with its own part of the data, in equally many batches; after an epoch so are the norms' statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from ..errors import DepthwiseError
from .calibration import Adapter
from .processes import add_up_, from_first, several
from .survey import device_of, hooked

OnEpoch = Callable[[int, float], object]


@dataclass(frozen=True, slots=True)
class Distillation:
    """What a fine-tuning did: the mean loss of every epoch, and the steps taken in all."""

    losses: tuple[float, ...]
    steps: int


def distill(
    student: nn.Module,
    teacher: nn.Module,
    loader: Iterable[Any],
    *,
    epochs: int = 1,
    lr: float = 1e-3,
    temperature: float = 4.0,
    layers: Sequence[str] = (),
    layer_weight: float = 1.0,
    labels_weight: float = 0.0,
    optimizer: torch.optim.Optimizer | None = None,
    adapter: Adapter | None = None,
    autocast: torch.dtype | None = None,
    checkpoint: str | Path | None = None,
    on_epoch: OnEpoch = lambda *_: None,
    progress: bool = True,
) -> Distillation:
    """Fine-tune `student`, in place, to give what `teacher` gives; `student` ends in evaluation mode.

    loader:        batches, gone through once an epoch: a tensor, or a tuple whose first item is the input and whose
                   second is the labels
    adapter:       makes (inputs, labels or None) of any other batch
    temperature:   of both softmaxes; their Kullback-Leibler divergence counts its square
    layers:        names of modules in both whose outputs are matched too: relative squared error, `layer_weight` each
    labels_weight: of the cross-entropy with the labels, beside the divergence
    optimizer:     AdamW at `lr`, falling to 0 along a cosine where the loader has a length; one that is given keeps
                   its rates
    autocast:      torch.bfloat16 or torch.float16 for mixed precision, float16 with a scaled loss
    checkpoint:    a file that the first process saves every epoch to, and all take up from where it exists
    on_epoch:      called with the number of epochs done and the last one's mean loss

    >>> from depthwise import SeparableConv2d, distill
    >>> student = nn.Sequential(SeparableConv2d(3, 4, 3), nn.Flatten())
    >>> teacher = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    >>> distill(student, teacher, [torch.randn(8, 3, 3, 3)], progress=False).steps
    1
    """
    _check(student, teacher, layers, epochs)
    run = _Run(student, optimizer, lr, epochs, loader, autocast)
    losses = run.resumed(checkpoint)
    teacher_mode = teacher.training
    teacher.eval()
    try:
        with _bar(run.total, shown=progress) as advance:
            advance(run.steps)
            for epoch in range(len(losses), epochs):
                student.train()
                run.shuffle(epoch)
                total = count = 0.0
                for batch in run.batches:
                    inputs, labels = _inputs(batch, adapter, device_of(student))
                    with _autocast(inputs, autocast):
                        wanted, their_layers = _outputs(teacher, inputs, layers, grad=False)
                        given, own_layers = _outputs(student, inputs, layers, grad=True)
                        loss = divergence(given, wanted, temperature)
                        for own, theirs in zip(own_layers, their_layers, strict=True):
                            loss = loss + layer_weight * relative_error(own, theirs)
                        if labels is not None and labels_weight:
                            loss = loss + labels_weight * F.cross_entropy(given.float(), labels)
                    run.step(loss)
                    total, count = total + float(loss.detach()), count + 1
                    advance(1)
                if not count:
                    raise DepthwiseError("the loader gave no batches; an iterator gives its own only once")
                losses.append(total / count)
                run.average_buffers()
                run.save(checkpoint, losses)
                on_epoch(epoch + 1, losses[-1])
    finally:
        teacher.train(teacher_mode)
        student.eval()
    return Distillation(tuple(losses), run.steps)


def divergence(given: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """The mean over samples of KL(softmax(wanted / T), softmax(given / T)) · T²; classes are the second dimension.

    >>> x = torch.tensor([[1.0, 2.0]])
    >>> float(divergence(x, x, 2.0))
    0.0
    """
    own, theirs = ((x.float() / temperature).log_softmax(1) for x in (given, wanted))
    return F.kl_div(own, theirs, reduction="batchmean", log_target=True) * temperature**2


def relative_error(given: Tensor, wanted: Tensor) -> Tensor:
    """The squared error over the energy of what is wanted."""
    return (given.float() - wanted.float()).square().sum() / wanted.float().square().sum().clamp_min(1e-12)


class _Run:
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
        if path is None or (several() and torch.distributed.get_rank() > 0):
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
        state = from_first(_loaded(path))
        if state is None:
            return []
        if state.keys() != {*self._parts(), "losses", "steps"}:
            raise DepthwiseError(f"{path} is no checkpoint of this fine-tuning: it holds {', '.join(state)}")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.steps = state["steps"]
        return list(state["losses"])


def _loaded(path: str | Path) -> dict[str, Any] | None:
    if (several() and torch.distributed.get_rank() > 0) or not Path(path).exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _length(loader: Iterable[Any]) -> int | None:
    """Batches of an epoch; None where nothing says how many."""
    try:
        return len(loader) if isinstance(loader, Sized) else None
    # A DataLoader over an iterable data set has a length that raises.
    except TypeError:
        return None


def _average_(tensor: Tensor) -> None:
    add_up_(tensor)
    tensor /= torch.distributed.get_world_size()


def _check(student: nn.Module, teacher: nn.Module, layers: Sequence[str], epochs: int) -> None:
    if student is teacher:
        raise DepthwiseError("student and teacher are one module; distill from a copy of the dense network")
    if epochs < 1:
        raise DepthwiseError(f"epochs must be at least 1; got {epochs}")
    for name in layers:
        for network, whose in ((student, "student"), (teacher, "teacher")):
            if name not in dict(network.named_modules()):
                raise DepthwiseError(f"layers= names {name}, and the {whose} has no such module")


def _inputs(batch: Any, adapter: Adapter | None, device: torch.device | None) -> tuple[Tensor, Tensor | None]:
    if adapter is not None:
        inputs, labels = adapter(batch)
    elif isinstance(batch, tuple | list):
        inputs, labels = batch[0], batch[1] if len(batch) > 1 else None
    else:
        inputs, labels = batch, None
    if not isinstance(inputs, Tensor):
        raise DepthwiseError(
            f"a batch is a tensor, or inputs and labels; got {type(batch).__name__}; give adapter=, which makes "
            f"(inputs, labels or None) of a batch"
        )
    return inputs.to(device), None if labels is None else labels.to(device)


def _outputs(network: nn.Module, inputs: Tensor, layers: Sequence[str], *, grad: bool) -> tuple[Tensor, list[Tensor]]:
    """What a network and some of its layers give."""
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(nullcontext() if grad else torch.no_grad())
        for name in layers:
            # What follows may change it in place.
            stack.enter_context(
                hooked(network.get_submodule(name), lambda _, __, out, name=name: found.update({name: out.clone()}))
            )
        output = network(inputs)
    if not isinstance(output, Tensor):
        raise DepthwiseError(f"distill needs a model that gives one tensor; this one gives {type(output).__name__}")
    missing = [name for name in layers if name not in found]
    if missing:
        raise DepthwiseError(f"layers= names {missing[0]}, and the forward does not call it; leave it out")
    return output, [found[name] for name in layers]


def _autocast(inputs: Tensor, dtype: torch.dtype | None) -> Any:
    return nullcontext() if dtype is None else torch.autocast(inputs.device.type, dtype)


@contextmanager
def _bar(total: int | None, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, and the call that moves it on."""
    if not shown:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("distill", total=total)
        yield lambda steps: bar.advance(task, steps)
