"""Whether a module computes what one of torch's classes does: it is one, or a subclass that changes nothing of it."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

# What a call of torch's convolutions, batch norms, activations and sequences goes through and reads.
_READ = frozenset(
    (
        *("__call__", "_call_impl", "_wrapped_call_impl", "_slow_forward", "forward", "_conv_forward"),
        *("__getattr__", "__getattribute__", "_parameters", "_buffers", "_modules", "training", "weight", "bias"),
        *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
        *("_reversed_padding_repeated_twice", "output_padding", "transposed", "num_features", "process_group"),
        *("running_mean", "running_var", "num_batches_tracked", "track_running_stats", "momentum", "eps", "affine"),
        *("_check_input_dim", "_check_non_zero_input_channels", "inplace", "negative_slope", "alpha", "approximate"),
        *("min_val", "max_val", "__iter__", "_compiled_call_impl"),
    )
)


# In the dictionary of a class that stands for the one it is made of, and computes the same: accelerate/ makes them.
STANDS_FOR = "_depthwise_stands_for"


def computes_as(kind: type[nn.Module], *bases: type[nn.Module]) -> type[nn.Module] | None:
    """The class among `bases` whose calls those of `kind` are: itself, or what it inherits and changes nothing of.

    >>> class Named(nn.Conv2d):
    ...     label = "stem"
    >>> class Padded(nn.Conv2d):
    ...     def forward(self, x):
    ...         return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))
    >>> computes_as(Named, nn.Conv1d, nn.Conv2d), computes_as(Padded, nn.Conv2d)
    (<class 'torch.nn.modules.conv.Conv2d'>, None)
    """
    if kind in bases:
        return kind
    for base in bases:
        if issubclass(kind, base):
            own = (cls.__dict__ for cls in kind.__mro__ if cls not in base.__mro__)
            return base if all(STANDS_FOR in each or _READ.isdisjoint(each) for each in own) else None
    return None


def is_watched(own: dict[str, Any]) -> bool:
    """Whether something sees, or stands for, the calls of a module with these attributes."""
    return bool(
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "forward" in own
        or "_conv_forward" in own
        or own.get("_compiled_call_impl")
    )


def why_foreign(module: nn.Module, *bases: type[nn.Module]) -> str | None:
    """Why `module` may compute something else than a module of one of `bases`, or None where it does not.

    A parametrised module is what it was before, with the tensors that it has now.
    """
    kind = type_before_parametrizations(module)
    if computes_as(kind, *bases) is None:
        return f"a {kind.__name__} computes something else" if issubclass(kind, bases) else f"it is a {kind.__name__}"
    # What was compiled computes the same.
    if is_watched(module.__dict__ | {"_compiled_call_impl": None}):
        return "it has hooks, or a forward of its own; make pruning and the like permanent, and remove the others"
    return None
