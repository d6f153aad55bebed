"""Classes of accelerated modules: each a subclass of the module's own class that changes nothing but its forward.

A module stays the object that it is, and everything in it: only its class becomes another one, made once for each.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ..modules import STANDS_FOR

Kind = type[nn.Module]
Forward = Callable[..., Any]
# What makes the forward of a class out of the class that it stands for.
MakeForward = Callable[[Any], Forward]

_made: dict[tuple[Kind, MakeForward], Kind] = {}


def class_of(kind: Kind, make_forward: MakeForward) -> Kind:
    """The class that stands for `kind`."""
    made = _made.get((kind, make_forward))
    if made is None:
        # Of the module that `kind` is in: torch.fx takes layers of torch.nn as leaves.
        content = {
            "__module__": kind.__module__,
            "__doc__": kind.__doc__,
            "__reduce_ex__": _reduced,
            "forward": make_forward(kind),
            STANDS_FOR: (kind, make_forward),
        }
        made = _made[kind, make_forward] = type(f"Accelerated{kind.__name__}", (kind,), content)
    return made


def ours_in(kind: Kind) -> Kind | None:
    """The class of ours that `kind` is, or is made of by a wrapper of torch's; None where there is none."""
    return next((cls for cls in kind.__mro__ if STANDS_FOR in cls.__dict__), None)


def original_of(ours: Kind) -> Kind:
    """The class that one of ours stands for."""
    original: Kind = ours.__dict__[STANDS_FOR][0]
    return original


def own_class(module: nn.Module) -> Kind:
    """The class of a module without what torch put around it: parametrisations, FSDP."""
    kind = type(module)
    if is_parametrized(module):
        kind = kind.__bases__[0]
    index = getattr(kind, "_orig_cls_mro_index", None)
    return kind if index is None else kind.__mro__[index]


def replace_class_(module: nn.Module, old: Kind, new: Kind) -> None:
    """Give a module the class that has `new` where its own has `old`."""
    module.__class__ = _replaced(type(module), old, new)


def _replaced(kind: Kind, old: Kind, new: Kind) -> Kind:
    if kind is old:
        return new
    # Of a wrapper's class, which no other module may have: torch takes from it what it put there.
    bases = tuple(_replaced(base, old, new) if issubclass(base, old) else base for base in kind.__bases__)
    content = {name: value for name, value in kind.__dict__.items() if name not in ("__dict__", "__weakref__")}
    return type(kind.__name__, bases, content)


def _reduced(module: nn.Module, protocol: Any) -> Any:
    """How a module is copied and pickled: its class by what it stands for, since it has no place of its own."""
    kind = type(module)
    ours = ours_in(kind)
    if ours is None:
        raise TypeError(f"{kind.__name__} is none of the classes made here")
    reduced = super(ours, module).__reduce_ex__(protocol)
    if isinstance(reduced, str) or kind is not ours or reduced[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
        return reduced
    return (made_anew, ours.__dict__[STANDS_FOR], *reduced[2:])


def made_anew(kind: Kind, make_forward: MakeForward) -> nn.Module:
    """A module of the class that stands for `kind`, without anything in it."""
    ours = class_of(kind, make_forward)
    return ours.__new__(ours)
