"""What a loader gives, as batches that a model can be called with, and its calls.

A batch means the same wherever data are taken: a tensor is the input; of a tuple or a list the first element is, and
the second, where there is one, the labels; a dict holds keyword arguments. Several inputs are a tuple in the input's
place. As the outermost argument a tensor or a dict is one batch, and anything else a loader of batches.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from ..errors import DepthwiseError, said
from ..inputs import tensors
from .processes import together

# Samples of a calibration tensor that go through the model together.
BATCH_SIZE = 64

Adapter = Callable[[Any], Any]


class Reached(BaseException):
    """Raised by a hook where all that a forward is run for has been seen; no `except Exception` of a model stops it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a model is called with, and the number of samples in it."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    samples: int

    def run(self, model: nn.Module) -> Any:
        """The model's output without gradients; None where a hook stops it."""
        try:
            with torch.no_grad():
                return self.call(model, "the model", "calibration")
        except Reached:
            return None

    def call(self, model: nn.Module, who: str, use: str) -> Any:
        """The output of `model`; what it raises is told as `who` failing on a batch for `use`."""
        try:
            return model(*self.args, **self.kwargs)
        except DepthwiseError:
            raise
        # The forward is the user's code, and may raise anything.
        except Exception as error:
            shapes = ", ".join(str(tuple(x.shape)) for x in tensors([self.args, dict(self.kwargs)]))
            raise DepthwiseError(
                f"{who} failed on a {use} batch of {shapes or 'no tensors'}: {said(error)}; of a "
                f"tuple or a list the first element is the input, and several inputs are a tuple in its place; a dict "
                f"is called as model(**batch); adapter= makes the input of any other batch, such as lambda batch: "
                f"batch['image']"
            ) from error

    def part(self, samples: Sequence[int]) -> Batch:
        """Some of the samples; what is no tensor of as many stays as it is."""
        chosen = torch.tensor(samples, dtype=torch.long, device="cpu")

        def cut(value: Any) -> Any:
            is_samples = isinstance(value, Tensor) and value.ndim > 0 and len(value) == self.samples
            return value[chosen.to(value.device)] if is_samples else value

        return Batch(_mapped(cut, self.args), _mapped(cut, self.kwargs), len(samples))


def run_all(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Call `model` with every batch, for what its hooks see."""
    with together():
        for batch in batches:
            batch.run(model)


def device_of(model: nn.Module) -> torch.device | None:
    return next((parameter.device for parameter in model.parameters()), None)


def loader_of(data: Any, name: str) -> Iterable[Any]:
    """What gives the batches of `data`, an argument called `name`."""
    if isinstance(data, Tensor | Mapping):
        return [data]
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise DepthwiseError(
            f"{name} is a data set, {type(data).__name__}, which gives single samples; wrap it in a "
            f"torch.utils.data.DataLoader"
        )
    if isinstance(data, tuple | list) and all(isinstance(each, Tensor) for each in data):
        dimensions = [each.dim() for each in data]
        if len({*dimensions}) > 1:
            raise DepthwiseError(
                f"some of {name} look like labels: tensors of {' and '.join(map(str, dimensions[:3]))} dimensions; "
                f"inputs with their labels are a tuple inside a list of batches, [(x, y)]"
            )
    if isinstance(data, Iterable) and not isinstance(data, str | bytes):
        return data
    raise DepthwiseError(f"{name} is a tensor, a batch or an iterable of batches; got {type(data).__name__}")


def drawn(loader: Iterable[Any], name: str) -> Iterator[Any]:
    """What `loader` gives; an error of its own is told, with how far it came."""
    number = 0
    try:
        for part in loader:
            number += 1
            yield part
    except DepthwiseError:
        raise
    # A loader is the user's code, and may raise anything.
    except Exception as error:
        raise DepthwiseError(f"{name} failed after {number} batches: {said(error)}") from error


def batches_of(calibration: Any, adapter: Adapter | None, device: torch.device | None) -> list[Batch]:
    """The batches to calibrate with; labels are dropped, and a warning says so once.

    >>> [batch.samples for batch in batches_of(torch.zeros(100, 3, 8, 8), None, None)]
    [64, 36]
    """
    batches, dropped = [], 0
    for part in drawn(loader_of(calibration, "calibration"), "calibration"):
        batches.append(batch_of(part, adapter, device, "calibration"))
        if adapter is None and isinstance(part, tuple | list):
            dropped = max(dropped, len(part) - 1)
    if dropped:
        warnings.warn(
            f"of each calibration batch the first element is the input, and {dropped} more, such as labels, are left "
            f"out; several inputs are a tuple in the first one's place",
            stacklevel=3,
        )
    if not any(batch.samples for batch in batches):
        raise DepthwiseError(
            "the calibration data are empty; a few hundred unlabelled samples are needed, and an iterator gives its "
            "batches only once"
        )
    if isinstance(calibration, Tensor) and adapter is None:
        # One batch, in pieces that fit in memory.
        batches = [Batch((few,), {}, len(few)) for few in batches[0].args[0].split(BATCH_SIZE)]
    return [batch for batch in batches if batch.samples]


def held_out(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Three of four samples, and the fourth ones; of fewer than eight every other one, and the others."""
    parts: tuple[list[Batch], list[Batch]] = ([], [])
    period = 4 if sum(batch.samples for batch in batches) >= 8 else 2
    before = 0
    for batch in batches:
        held = [sample for sample in range(batch.samples) if (before + sample) % period == period - 1]
        kept = [sample for sample in range(batch.samples) if sample not in held]
        for part, samples in zip(parts, (kept, held), strict=True):
            if samples:
                part.append(batch.part(samples))
        before += batch.samples
    return parts


def batch_of(part: Any, adapter: Adapter | None, device: torch.device | None, use: str) -> Batch:
    """What a loader gave, for calibration or training, as what a model is called with."""
    if adapter is not None:
        inputs = _adapted(part, adapter, use)
    else:
        inputs = part[0] if isinstance(part, tuple | list) and part else part
    moved = _mapped(lambda value: _usable(value, device), inputs)
    found = list(tensors(moved))
    if not found:
        raise DepthwiseError(
            f"a {use} batch is a tensor, or a tuple or dict with tensors; got {type(inputs).__name__}; give adapter=, "
            f"which makes the model's input of a batch"
        )
    first = found[0]
    if first.ndim <= 1 and not first.is_floating_point():
        raise DepthwiseError(
            f"the {use} data look like labels: a tensor of {first.dtype} with shape {tuple(first.shape)}; give the "
            f"model's inputs; inputs with their labels are a tuple inside a list of batches, [(x, y)]"
        )
    if any(x.is_floating_point() and bool(x.isnan().any()) for x in found):
        raise DepthwiseError(f"a {use} batch holds NaN; leave such samples out")
    samples = len(first) if first.ndim else 1
    if isinstance(moved, dict):
        return Batch((), moved, samples)
    return Batch(moved if isinstance(moved, tuple) else (moved,), {}, samples)


def _adapted(part: Any, adapter: Adapter, use: str) -> Any:
    try:
        return adapter(part)
    except DepthwiseError:
        raise
    # The adapter is the user's code, and may raise anything.
    except Exception as error:
        raise DepthwiseError(f"adapter= failed on a {use} batch: {said(error)}") from error


def _usable(value: Any, device: torch.device | None) -> Any:
    """A tensor on the model's device; one of inference mode could not be part of a training, and is copied."""
    if not isinstance(value, Tensor):
        return value
    moved = value if device is None else value.to(device)
    return moved.clone() if moved.is_inference() else moved


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """`change` of everything in nested dicts, tuples and lists."""
    if isinstance(value, Mapping):
        return {key: _mapped(change, item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_mapped(change, item) for item in value)
    return change(value)
