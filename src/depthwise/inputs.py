"""The inputs of a traced model, without numbers: made of sizes or of examples, by position or by keyword."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex, TypeGuard

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from .errors import DepthwiseError, said, shown
from .geometry import check_countable, positive

# Sizes or example inputs, for each argument by position or by keyword. An example may hold its tensors in lists, tuples
# and dicts.
InputSize = Sequence[Any] | Tensor | Mapping[str, Any]


def tensors(value: object) -> Iterator[Tensor]:
    """Every strided tensor in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        if value.layout is torch.strided and not value.is_nested:
            yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))


def replaced(value: Any, new: Callable[[Tensor], Tensor]) -> Any:
    """The same lists, tuples and dicts with another tensor for each."""
    if isinstance(value, Tensor):
        return new(value)
    if isinstance(value, list | tuple):
        items = [replaced(item, new) for item in value]
        # A tuple of named fields takes them one by one.
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, Mapping):
        return {key: replaced(item, new) for key, item in value.items()}
    return value


class Fakes:
    """A tensor without data for every tensor with data, always the same one."""

    def __init__(self, fake_mode: FakeTensorMode) -> None:
        self.fake_mode = fake_mode
        # The tensor itself is kept too, so that no other gets its id.
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        if id(tensor) not in self._known:
            self._known[id(tensor)] = tensor, self._new(tensor)
        return self._known[id(tensor)][1]

    def _new(self, tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return self.fake_mode.from_tensor(tensor)
        # A forward makes its own tensors on the CPU, and those do not mix with tensors on the meta device.
        with self.fake_mode:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=_device(tensor))


class Inputs(NamedTuple):
    """What the model is called with; `sizes` are those that inputs were made of, without their batch."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    sizes: tuple[tuple[int, ...], ...]


def inputs_of(model: nn.Module, input_size: InputSize, fakes: Fakes) -> Inputs:
    named = isinstance(input_size, Mapping)
    given = _by_name(input_size) if isinstance(input_size, Mapping) else dict(enumerate(_by_position(input_size)))
    examples = any(_is_example(item) for item in given.values())
    floating = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), None)
    dtype = torch.get_default_dtype() if floating is None else floating.dtype
    device = torch.device("cpu") if floating is None else _device(floating)
    made, sizes = {}, []
    for key, item in given.items():
        if _is_example(item):
            made[key] = _faked(item, fakes)
        elif _is_size(item):
            size = tuple(positive(n, "input_size") for n in item)
            sizes.append(size)
            check_countable("the input", *size)
            with fakes.fake_mode:
                made[key] = torch.empty((1, *size), dtype=dtype, device=device)
        # What stands beside example inputs is one of them, such as None or a number.
        elif named or examples:
            made[key] = item
        else:
            raise _not_a_size(input_size)
    args, kwargs = ((), made) if named else (tuple(made.values()), {})
    return Inputs(args, {str(key): value for key, value in kwargs.items()}, tuple(sizes))


def _faked(example: Any, fakes: Fakes) -> Any:
    # Quantised and nested tensors have no fake ones.
    try:
        return replaced(example, fakes)
    except Exception as error:
        raise DepthwiseError(f"an example input cannot be traced without its numbers: {said(error)}") from error


def _by_position(input_size: Any) -> Sequence[Any]:
    if _is_example(input_size) and (isinstance(input_size, Tensor) or not isinstance(input_size, list | tuple)):
        return (input_size,)
    if _is_size(input_size):
        return (input_size,)
    if isinstance(input_size, Sequence) and not isinstance(input_size, str) and input_size:
        if not any(map(_is_example, input_size)) and any(isinstance(item, SupportsIndex) for item in input_size):
            # One size with something wrong in it.
            for n in input_size:
                positive(n, "input_size")
        return input_size
    raise _not_a_size(input_size)


def _by_name(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    if not inputs or not all(isinstance(name, str) for name in inputs):
        raise DepthwiseError(f"a dict of inputs has the model's keywords as its keys; got {shown(list(inputs))}")
    return inputs


def _is_example(item: object) -> bool:
    return next(tensors(item), None) is not None or isinstance(item, Tensor)


def _is_size(item: object) -> TypeGuard[Sequence[int]]:
    return (
        isinstance(item, Sequence)
        and not isinstance(item, str)
        and len(item) > 0
        and all(isinstance(n, SupportsIndex) and not isinstance(n, Tensor) for n in item)
    )


def _not_a_size(input_size: object) -> DepthwiseError:
    return DepthwiseError(
        f"input_size is (channels, *spatial), a tuple of such sizes, an example tensor or a tuple of example "
        f"tensors, or a dict of them by keyword; got {shown(input_size)}"
    )


def _device(tensor: Tensor) -> torch.device:
    return torch.device("cpu") if tensor.is_meta else tensor.device
