"""What a tensor is: whether its numbers lie in plain memory of this process, and whether something listens to calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..errors import DepthwiseError

Tensors = Sequence[Tensor | None]

# How many dispatch modes there are around a call.
dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack

_PLAIN_TYPES = (Tensor, nn.Parameter)


def why_not_memory(tensor: Tensor) -> str | None:
    """What a tensor is instead of dense memory of this process, a subclass, another layout or device; or None.

    Raises DepthwiseError where it should be, but its storage was freed or cut short: some of torch's own operators
    would read what is not there.
    """
    if is_foreign(tensor):
        return f"a {type(tensor).__name__}"
    keys = torch._C._dispatch_keys(tensor)
    if keys.raw_repr() not in _plain_keys():
        return f"a tensor of {keys}"
    if not tensor.numel():
        return None
    last = tensor.storage_offset() + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    if not tensor.data_ptr() or tensor.untyped_storage().nbytes() < (last + 1) * tensor.itemsize:
        raise DepthwiseError("has no memory behind it: its storage was freed, or is too small for its shape")
    return None


def address_of(tensor: Tensor) -> int | None:
    """Where the memory begins that a tensor lies in; None where it has none of its own, or none that is dense."""
    if is_foreign(tensor) or torch._C._dispatch_keys(tensor).raw_repr() not in _plain_keys() or not tensor.numel():
        return None
    return tensor.untyped_storage().data_ptr()


def is_foreign(tensor: Tensor) -> bool:
    """Whether a tensor is of a type that torch dispatches on: a tracer's, or somebody's subclass."""
    return type(tensor) not in _PLAIN_TYPES


def is_listened_to() -> bool:
    """Whether something sees or rewrites operators: a mode, a tracer, a transform, a tangent, autocast."""
    return bool(
        dispatch_modes()
        or forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
        or torch._C._is_any_autocast_enabled()
    )


def are_plain(*tensors: Tensor) -> bool:
    """Whether generated code may read these, float32 all, and nobody records or rewrites what is done with them."""
    # Compiled autograd traces backward passes.
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or is_listened_to():
        return False
    return all(tensor.dtype == torch.float32 and why_not_memory(tensor) is None for tensor in tensors)


def needs_gradient(tensors: Tensors) -> bool:
    """Whether autograd would record a call of these."""
    if not torch.is_grad_enabled():
        return False
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


def is_autocasting(x: Tensor) -> bool:
    """Whether autocast is on where `x` is; it knows nothing of the meta device."""
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def dtype_of(x: Tensor) -> torch.dtype:
    """The dtype that a convolution of `x` runs in; autocast leaves float64 alone."""
    return torch.get_autocast_dtype(x.device.type) if is_autocasting(x) and x.dtype != torch.float64 else x.dtype


@cache
def _plain_keys() -> frozenset[int]:
    """The dispatch keys of dense tensors on the CPU: ordinary ones, those of inference mode, and views that negate."""
    # Whoever asks first may be in inference mode.
    # By its place, for Dynamo takes it by no name.
    with torch.inference_mode(False):  # noqa: FBT003
        ordinary = torch.empty(1, device="cpu")
        tensors = [ordinary, ordinary._neg_view()]
    with torch.inference_mode():
        made_there = torch.empty(1, device="cpu")
        tensors += [made_there, made_there._neg_view()]
    return frozenset(torch._C._dispatch_keys(tensor).raw_repr() for tensor in tensors)
