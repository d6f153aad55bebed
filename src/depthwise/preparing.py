"""Everything that a first call would have to do, done ahead of time."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from .backends import Choice, observed_choices
from .errors import DepthwiseError, said, shown
from .geometry import AXES, positive
from .inputs import replaced, tensors

# One spatial size, (height, width) or (range(...), range(...)), or one number or range for all of its dimensions.
Size = int | range | Sequence[int | range]
Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` did: `print` it for a sentence.

    convolutions: calls in one forward of the model that run on generated kernels
    refused:      the others that went through the backends: why they do not, and how many
    kernels:      names of what runs, over all sizes
    sizes:        spatial sizes the model was run with; the example's own is the first
    seconds:      it took
    """

    convolutions: int
    refused: Mapping[str, int]
    kernels: tuple[str, ...]
    sizes: tuple[tuple[int, ...], ...]
    seconds: float

    def __str__(self) -> str:
        sizes, kernels = len(self.sizes), len(self.kernels)
        done = (
            f"{_counted(self.convolutions, 'convolution')} prepared for {_counted(sizes, 'size')} in "
            f"{self.seconds:.1f} s: {_counted(kernels, 'kernel')}"
        )
        refused = [f"{_counted(n, 'convolution')} on PyTorch's operators: {why}" for why, n in self.refused.items()]
        if not self.convolutions and not self.refused:
            refused = ["no convolution of the model goes through depthwise's backends; its own layers and functions do"]
        return "; ".join([done, *refused] if self.convolutions else ["nothing to prepare", *refused])


def prepare(model: nn.Module, *example_inputs: Any, sizes: Iterable[Size] = ()) -> Prepared:
    """Compile and pack all that a call of `model` with inputs like these needs, so that the first request does not.

    example_inputs: as the model is called with; one dict is keyword arguments
    sizes:          more spatial sizes: 224 or (224, 320), and range(192, 321, 32) or (range(...), 320) for all in them.
                    Inputs of the first image's or sequence's size get each of them

    The model is run twice for each size, in evaluation mode and without gradients. Kernels are kept for every batch,
    weights until they change. Most layers need one kernel for all sizes, some another one where rows or the number of
    pixels ask for other tiles: other sizes than those given may compile at their first call.

    >>> from depthwise import SeparableConv2d
    >>> done = prepare(SeparableConv2d(8, 16, 3).eval(), torch.zeros(1, 8, 9, 9), sizes=[(9, 12), range(16, 49, 16)])
    >>> done.convolutions, done.sizes
    (1, ((9, 9), (9, 12), (16, 16), (32, 32), (48, 48)))
    """
    started = perf_counter()
    _check(model, example_inputs)
    named = len(example_inputs) == 1 and isinstance(example_inputs[0], Mapping)
    inputs: Inputs = ((), dict(example_inputs[0])) if named else (example_inputs, {})
    own = next((tuple(x.shape[2:]) for x in tensors(inputs) if x.dim() > 2), None)
    wanted = list(_each_size(sizes, own))
    first = _choices(model, inputs, None)
    kernels = {choice.kernel: None for choice in first}
    for size in wanted:
        kernels |= {choice.kernel: None for choice in _choices(model, _of_size(inputs, own, size), size)}
    done = Prepared(
        convolutions=sum(choice.kernel is not None for choice in first),
        refused=Counter(_why(choice) for choice in first if choice.kernel is None),
        kernels=tuple(name for name in kernels if name is not None),
        sizes=tuple(dict.fromkeys(size for size in (own, *wanted) if size is not None)),
        seconds=perf_counter() - started,
    )
    if not done.convolutions:
        warnings.warn(str(done), stacklevel=2)
    return done


def _check(model: object, example_inputs: tuple[Any, ...]) -> None:
    if not isinstance(model, nn.Module):
        raise DepthwiseError(f"prepare takes a torch.nn.Module; got {type(model).__name__}")
    if any(module.training for module in model.modules()):
        raise DepthwiseError("prepare runs the model, which would change a model in training mode; call .eval()")
    if not example_inputs:
        raise DepthwiseError("prepare needs example inputs, as the model is called with: prepare(model, x)")
    if next(tensors(example_inputs), None) is None:
        kinds = ", ".join(type(each).__name__ for each in example_inputs)
        raise DepthwiseError(f"prepare needs example inputs, tensors as the model is called with; got {kinds}")


def _choices(model: nn.Module, inputs: Inputs, size: tuple[int, ...] | None) -> list[Choice]:
    """Run the model; what was chosen for each convolution of one forward."""
    chosen: list[Choice] = []
    args, kwargs = inputs
    try:
        with torch.no_grad():
            with observed_choices(chosen.append):
                model(*args, **kwargs)
            # Calls that somebody watches are not kept.
            model(*args, **kwargs)
    except DepthwiseError:
        raise
    # The forward is the user's code, and may raise anything.
    except Exception as error:
        at = f" at the size {'x'.join(map(str, size))}" if size else ""
        shapes = ", ".join(str(tuple(x.shape)) for x in tensors(inputs))
        raise DepthwiseError(f"the model failed{at} on inputs of shape {shapes}: {said(error)}") from error
    return chosen


def _why(choice: Choice) -> str:
    return choice.reason if choice.refusals else f"the backend {choice.backend.name!r} was asked for"


def _each_size(sizes: object, own: tuple[int, ...] | None) -> Iterator[tuple[int, ...]]:
    """Every spatial size that is asked for, checked."""
    if not isinstance(sizes, Iterable) or isinstance(sizes, str | Tensor):
        raise DepthwiseError(f"sizes is a list such as [(224, 224), range(192, 321, 32)]; got {shown(sizes)}")
    for size in sizes:
        if own is None or len(own) not in AXES:
            raise DepthwiseError("sizes need an example input of (batch, channels, *spatial); there is none")
        if isinstance(size, Sequence) and not isinstance(size, range | str):
            if len(size) != len(own):
                raise DepthwiseError(
                    f"a size has {len(own)} spatial dimensions, as the example input; got {shown(size)}"
                )
            yield from product(*(_amounts(amount, size) for amount in size))
        else:
            yield from ((n,) * len(own) for n in _amounts(size, size))


def _amounts(amount: object, size: object) -> Sequence[int]:
    if not isinstance(amount, range):
        return (positive(amount, "a spatial size"),)
    if not amount or min(amount) < 1:
        raise DepthwiseError(f"a range of sizes holds at least one, all of them at least 1; got {shown(size)}")
    return amount


def _of_size(inputs: Inputs, own: tuple[int, ...] | None, size: tuple[int, ...]) -> Inputs:
    """The inputs, those of the example's own size in another one."""
    resized: Inputs = replaced(inputs, lambda x: _resized(x, size) if tuple(x.shape[2:]) == own else x)
    return resized


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """The numbers of `x` over and over, or some of them, in another spatial size and the same order of strides."""
    order = sorted(range(x.dim()), key=x.stride, reverse=True)
    for axis, n in enumerate(size, start=2):
        x = x.index_select(axis, torch.arange(n, device=x.device) % x.shape[axis])
    back = [order.index(axis) for axis in range(x.dim())]
    return x.permute(order).contiguous().permute(back)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
