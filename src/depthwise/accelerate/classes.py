"""Classes of accelerated modules: each a subclass of the module's own class that changes nothing but its forward.

A module stays the object that it is, and everything in it: only its class becomes another one, made once for each.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ..errors import DepthwiseError
from ..modules import STANDS_FOR

Kind = type[nn.Module]
Forward = Callable[..., Any]
# What makes the forward of a class out of the class that it stands for.
MakeForward = Callable[[Any], Forward]
# Modules of other libraries by the file and the name of their class: what each becomes, and what makes its forward.
Known = Mapping[tuple[str, str], tuple[str, MakeForward]]

# Each as long as there is a module of it: a class of a user's is not kept for good.
_made: WeakValueDictionary[tuple[Kind, MakeForward], Kind] = WeakValueDictionary()


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
        made = _made[kind, make_forward] = _subclass(f"Accelerated{kind.__name__}", (kind,), content)
    return made


def _subclass(name: str, bases: tuple[type, ...], content: dict[str, Any]) -> Kind:
    try:
        return type(name, bases, content)
    except TypeError as error:
        raise DepthwiseError(f"{bases[0].__name__} takes no subclass, and no module was changed: {error}") from error


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


def plain_class(module: nn.Module) -> Kind:
    """The class of a module as it was before any of ours stood for it."""
    ours = ours_in(type(module))
    return own_class(module) if ours is None else original_of(ours)


def replace_classes_(changes: list[tuple[nn.Module, Kind, Kind]]) -> None:
    """Give each module the class that has the second kind where its own has the first: all, or after an error none."""
    made = [(module, _replaced(type(module), old, new)) for module, old, new in changes]
    for module, kind in made:
        # What a class of the user's does when an attribute is set is not asked.
        object.__setattr__(module, "__class__", kind)


def _replaced(kind: Kind, old: Kind, new: Kind) -> Kind:
    if kind is old:
        return new
    # Of a wrapper's class, which no other module may have: torch takes from it what it put there.
    bases = tuple(_replaced(base, old, new) if issubclass(base, old) else base for base in kind.__bases__)
    content = {name: value for name, value in kind.__dict__.items() if name not in ("__dict__", "__weakref__")}
    return _subclass(kind.__name__, bases, content)


def _reduced(module: nn.Module, protocol: Any) -> Any:
    """How a module is copied and pickled: its class by what it stands for, since it has no place of its own."""
    kind = type(module)
    ours = ours_in(kind)
    if ours is None:
        raise TypeError(f"{kind.__name__} is none of the classes made here")
    # Before protocol 2 a class is told in another way.
    reduced = super(ours, module).__reduce_ex__(max(2, protocol))
    if isinstance(reduced, str) or kind is not ours or reduced[0] not in _NEW:
        return reduced
    _, *arguments = reduced[1]
    return (made_anew, (*ours.__dict__[STANDS_FOR], reduced[0], *arguments), *reduced[2:])


_NEW: tuple[Any, ...] = (copyreg.__newobj__, copyreg.__newobj_ex__)  # type: ignore[attr-defined]


def made_anew(kind: Kind, make_forward: MakeForward, make: Any, *arguments: Any) -> nn.Module:
    """A module of the class that stands for `kind`, without anything in it.

    make, arguments: what copyreg makes an object by, and what it is told after the class
    """
    made: nn.Module = make(class_of(kind, make_forward), *arguments)
    return made
