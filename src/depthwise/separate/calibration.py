"""Calibration data, as batches that a model can be called with, and its calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DepthwiseError
from ..tracing import tensors
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
                return model(*self.args, **self.kwargs)
        except Reached:
            return None
        # The forward is the user's code, and may raise anything.
        except Exception as error:
            shapes = ", ".join(str(tuple(x.shape)) for x in tensors([self.args, dict(self.kwargs)]))
            raise DepthwiseError(
                f"the model failed on a calibration batch of {shapes or 'no tensors'}: {type(error).__name__}: {error}"
                f"; a tuple is called as model(*batch), a dict as model(**batch); where a batch holds more than the "
                f"model's inputs, such as labels, give adapter=lambda batch: batch[0]"
            ) from error


def run_all(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Call `model` with every batch, for what its hooks see."""
    with together():
        for batch in batches:
            batch.run(model)


def device_of(model: nn.Module) -> torch.device | None:
    return next((parameter.device for parameter in model.parameters()), None)


def batches_of(calibration: Any, adapter: Adapter | None, device: torch.device | None) -> list[Batch]:
    """The batches of a tensor of samples, of one batch (a tuple or a dict), or of any iterable of batches.

    >>> [batch.samples for batch in batches_of(torch.zeros(100, 3, 8, 8), None, None)]
    [64, 36]
    """
    if isinstance(calibration, Tensor):
        parts: Iterable[Any] = calibration.split(BATCH_SIZE) if calibration.ndim and len(calibration) else ()
    elif isinstance(calibration, tuple | Mapping):
        parts = (calibration,)
    elif isinstance(calibration, Iterable) and not isinstance(calibration, str):
        parts = calibration
    else:
        raise DepthwiseError(
            f"calibration is a tensor, a batch or an iterable of batches; got {type(calibration).__name__}"
        )
    batches = [_batch(part, adapter, device) for part in parts]
    if not any(batch.samples for batch in batches):
        raise DepthwiseError(
            "the calibration data are empty; a few hundred unlabelled samples are needed, and an iterator gives its "
            "batches only once"
        )
    return [batch for batch in batches if batch.samples]


def _batch(part: Any, adapter: Adapter | None, device: torch.device | None) -> Batch:
    inputs = part if adapter is None else adapter(part)
    found = list(tensors([inputs] if not isinstance(inputs, Mapping) else dict(inputs)))
    if not found:
        raise DepthwiseError(
            f"a calibration batch is a tensor, or a tuple or dict with tensors; got {type(inputs).__name__}; "
            f"give adapter=, which makes the model's inputs of a batch"
        )
    first = found[0]
    if first.ndim <= 1 and not first.is_floating_point():
        raise DepthwiseError(
            f"the calibration data look like labels: a tensor of {first.dtype} with shape {tuple(first.shape)}; give "
            f"the model's inputs"
        )
    moved = inputs if device is None else _moved(inputs, device)
    samples = len(first) if first.ndim else 1
    if isinstance(moved, Mapping):
        return Batch((), moved, samples)
    return Batch(tuple(moved) if isinstance(moved, tuple | list) else (moved,), {}, samples)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_moved(item, device) for item in value)
    return value
