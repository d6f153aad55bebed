"""Fine-tuning against the dense network: a plain loop, here to be read, used, or copied and changed.

Knowledge distillation on the outputs (Hinton, Vinyals, Dean, arXiv 1503.02531), with the outputs of single layers
matched too where wanted. Under `torchrun`, with `torch.distributed` initialised, gradients are averaged over all
processes, each with its own part of the data, in equally many batches; after an epoch so are the norms' statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DepthwiseError, said
from ..geometry import positive
from .calibration import Adapter, Batch, batch_of, device_of, drawn, loader_of
from .checks import check_callable, check_number, check_pair
from .hooks import hooked
from .losses import Loss, auto, relative_error
from .progress import shown_count
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
    loss: Literal["auto"] | Loss = "auto",
    temperature: float = 4.0,
    layers: str | Sequence[str] = (),
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

    loader:        batches, gone through once an epoch: a tensor, a tuple or list of the input and its labels, or a dict
                   of keyword arguments; several inputs are a tuple in the input's place; a tensor or a dict instead of
                   a loader is one batch
    adapter:       makes the input of any other batch, such as lambda batch: batch["image"]
    loss:          "auto", or a callable that gives a scalar of the student's output and the teacher's; "auto" is the
                   Kullback-Leibler divergence for class logits (batch, classes) and the mean square relative to the
                   variance of the teacher's for all else, dicts and tuples term by term
    temperature:   of both softmaxes; the divergence counts its square
    layers:        names of modules in both whose outputs are matched too: relative squared error, `layer_weight` each
    labels_weight: of the cross-entropy with the labels, beside the loss
    optimizer:     AdamW at `lr`, falling to 0 along a cosine where the loader has a length; one that is given keeps
                   its rates
    autocast:      torch.bfloat16 or torch.float16 for mixed precision, float16 with a scaled loss
    checkpoint:    a file that the first process saves every epoch to, and all take up from where it exists
    on_epoch:      called with the number of epochs done and the last one's mean loss
    progress:      a bar on a terminal or in a notebook

    >>> from depthwise import SeparableConv2d, distill
    >>> student = nn.Sequential(SeparableConv2d(3, 4, 3), nn.Flatten())
    >>> teacher = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    >>> distill(student, teacher, [torch.randn(8, 3, 3, 3)], progress=False).steps
    1
    """
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    epochs = positive(epochs, "epochs")
    _check(lr, loss, temperature, layer_weight, labels_weight, optimizer, adapter, autocast, on_epoch)
    check_pair(student, teacher, layers, optimizer)
    batches = loader_of(loader, "loader")
    # In inference mode nothing can be trained.
    with torch.inference_mode(mode=False), torch.enable_grad():
        run = Training(student, optimizer, lr, epochs, batches, autocast)
        losses = run.resumed(checkpoint)
        if iter(batches) is batches and epochs - len(losses) > 1:
            raise DepthwiseError(
                f"the loader is an iterator, which gives its batches only once, and epochs={epochs} goes through them "
                f"{epochs - len(losses)} times; give a list or a DataLoader"
            )
        match = _Match(student, teacher, loss, temperature, layers, layer_weight, labels_weight, autocast)
        teacher_modes = {module: module.training for module in teacher.modules()}
        teacher.eval()
        try:
            with shown_count("distill", run.total, shown=progress) as advance:
                advance(run.steps)
                for epoch in range(len(losses), epochs):
                    student.train()
                    run.shuffle(epoch)
                    total = count = 0.0
                    for part in drawn(run.batches, "the loader"):
                        batch = batch_of(part, adapter, device_of(student), "training")
                        missed = match(batch, _labels(part))
                        run.step(missed)
                        total, count = total + float(missed.detach()), count + 1
                        advance(1)
                    if not count:
                        raise DepthwiseError("the loader gave no batches; an iterator gives its own only once")
                    losses.append(total / count)
                    run.average_buffers()
                    run.save(checkpoint, losses)
                    on_epoch(epoch + 1, losses[-1])
        finally:
            for module, mode in teacher_modes.items():
                module.training = mode
            student.eval()
    return Distillation(tuple(losses), run.steps)


@dataclass(frozen=True, slots=True)
class _Match:
    """The loss of a batch: of the outputs, of the layers that are matched too, and of the labels."""

    student: nn.Module
    teacher: nn.Module
    loss: Literal["auto"] | Loss
    temperature: float
    layers: tuple[str, ...]
    layer_weight: float
    labels_weight: float
    autocast: torch.dtype | None

    def __call__(self, batch: Batch, labels: Any) -> Tensor:
        device = device_of(self.student) or torch.device("cpu")
        with nullcontext() if self.autocast is None else torch.autocast(device.type, self.autocast):
            with torch.no_grad():
                wanted, their_layers = _outputs(self.teacher, "the teacher", batch, self.layers)
            given, own_layers = _outputs(self.student, "the student", batch, self.layers)
            total = self._of_outputs(given, wanted)
            for own, theirs in zip(own_layers, their_layers, strict=True):
                total = total + self.layer_weight * relative_error(own, theirs)
            if self.labels_weight:
                total = total + self.labels_weight * _of_labels(given, labels)
        if not total.requires_grad:
            raise DepthwiseError(
                "the loss does not depend on the student's parameters: its forward, or loss=, leaves the gradient out"
            )
        if not bool(total.detach().isfinite()):
            raise DepthwiseError(
                f"the loss is {float(total.detach())}, and a step would spoil the student; look for infinities in the "
                f"batch or in the teacher's output, or lower lr="
            )
        return total

    def _of_outputs(self, given: Any, wanted: Any) -> Tensor:
        if isinstance(self.loss, str):
            return auto(given, wanted, self.temperature)
        found = self.loss(given, wanted)
        if not isinstance(found, Tensor) or found.numel() != 1 or not found.is_floating_point():
            kind = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"type {type(found).__name__}"
            raise DepthwiseError(f"loss= gives a scalar tensor of the student's output and the teacher's; got {kind}")
        return found.reshape(())


def _check(
    lr: object,
    loss: object,
    temperature: object,
    layer_weight: object,
    labels_weight: object,
    optimizer: object,
    adapter: object,
    autocast: object,
    on_epoch: object,
) -> None:
    check_number(lr, "lr", above=0)
    check_number(temperature, "temperature", above=0)
    check_number(layer_weight, "layer_weight")
    check_number(labels_weight, "labels_weight")
    if not callable(loss) and loss != "auto":
        raise DepthwiseError(f"loss is \"auto\", or takes the student's output and the teacher's; got {loss!r}")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise DepthwiseError(f"optimizer is one of torch.optim over the student's parameters; got {optimizer!r}")
    if adapter is not None:
        check_callable(adapter, "adapter")
    check_callable(on_epoch, "on_epoch")
    if autocast not in (None, torch.bfloat16, torch.float16):
        raise DepthwiseError(f"autocast is torch.bfloat16, torch.float16 or None; got {autocast!r}")


def _labels(part: Any) -> Any:
    return part[1] if isinstance(part, tuple | list) and len(part) > 1 else None


def _of_labels(given: Any, labels: Any) -> Tensor:
    """The cross-entropy of class logits with the labels."""
    if not isinstance(labels, Tensor):
        raise DepthwiseError(f"labels_weight= needs batches of inputs and labels, (x, y); got {type(labels).__name__}")
    if not isinstance(given, Tensor) or given.dim() < 2 or given.shape[1] < 2:
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise DepthwiseError(f"labels_weight= needs logits of several classes, (batch, classes); got {shape}")
    try:
        return F.cross_entropy(given.float(), labels.to(given.device))
    # torch says so where labels and logits do not belong together.
    except (RuntimeError, ValueError, IndexError) as error:
        raise DepthwiseError(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype} do not fit logits of {tuple(given.shape)}: "
            f"{said(error)}"
        ) from error


def _outputs(network: nn.Module, who: str, batch: Batch, layers: Sequence[str]) -> tuple[Any, list[Tensor]]:
    """What a network and some of its layers give."""
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        for name in layers:
            # What follows may change it in place.
            stack.enter_context(
                hooked(network.get_submodule(name), lambda _, __, out, name=name: found.update({name: _cloned(out)}))
            )
        output = batch.call(network, who, "training")
    for name in layers:
        if name not in found:
            raise DepthwiseError(f"layers= names {name}, and the forward does not call it; leave it out")
        if not isinstance(found[name], Tensor):
            raise DepthwiseError(
                f"layers= names {name}, which gives {found[name].__name__}, not one tensor; leave it out"
            )
    return output, [found[name] for name in layers]


def _cloned(output: Any) -> Any:
    """A copy of a tensor; of anything else its type."""
    return output.clone() if isinstance(output, Tensor) else type(output)
