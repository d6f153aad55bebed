"""Fine-tuning against the dense network: a plain loop, here to be read, used, or copied and changed.

Knowledge distillation on the outputs (Hinton, Vinyals, Dean, arXiv 1503.02531), with the outputs of single layers
matched too where wanted. Under `torchrun`, with `torch.distributed` initialised, gradients are averaged over all
processes, each with its own part of the data, in equally many batches; after an epoch so are the norms' statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DepthwiseError
from .calibration import Adapter, device_of
from .hooks import hooked
from .training import Training

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
    run = Training(student, optimizer, lr, epochs, loader, autocast)
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
