"""Which layers are meant: by a callable, by name, by pattern, or by a list of names and patterns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..errors import DepthwiseError, said

Where = Callable[[str, nn.Module], object] | str | re.Pattern[str] | Iterable[str | re.Pattern[str]]
Chosen = Callable[[str, nn.Module], bool]


def chosen_by(model: nn.Module, where: Where, argument: str = "where=") -> Chosen:
    """Whether a convolution of `model` is one that `where` means; what means none of them is an error.

    A name means a layer or all within a module, a pattern what it matches as a whole: `*`, `?` and `[...]` as in a
    shell, dots included, or a compiled regular expression.

    >>> model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    >>> chosen = chosen_by(model, ["0", "*2"])
    >>> [chosen(name, model.get_submodule(name)) for name in ("0.0", "1", "2")]
    [True, False, True]
    """
    convolutions = {name: module for name, module in model.named_modules() if isinstance(module, _ConvNd)}
    found: set[str] = set()
    if callable(where):
        found |= {name for name, module in convolutions.items() if _answer(where, name, module, argument)}
        if convolutions and not found:
            raise DepthwiseError(f"{argument} means none of the {len(convolutions)} convolutions of the model")
    else:
        for each in _listed(where, argument):
            meant = {name for name in convolutions if _means(each, name)}
            if not meant:
                text = each if isinstance(each, str) else each.pattern
                known = ", ".join(list(convolutions)[:8]) + (", ..." if len(convolutions) > 8 else "")
                raise DepthwiseError(f"{argument} {text!r} means no convolution of the model, which has: {known}")
            found |= meant
    return lambda name, _: name in found


def _listed(where: object, argument: str) -> list[str | re.Pattern[str]]:
    if isinstance(where, str | re.Pattern):
        return [where]
    found = list(where) if isinstance(where, Iterable) else []
    if not found or not all(isinstance(each, str | re.Pattern) for each in found):
        raise DepthwiseError(
            f"{argument} is a callable of name and module, a name, a pattern, or a list of those; got {where!r:.80}"
        )
    return found


def _means(each: str | re.Pattern[str], name: str) -> bool:
    if isinstance(each, re.Pattern):
        return each.fullmatch(name) is not None
    return name == each or name.startswith(f"{each}.") or fnmatchcase(name, each)


def _answer(where: Callable[[str, nn.Module], object], name: str, module: nn.Module, argument: str) -> bool:
    try:
        return bool(where(name, module))
    except DepthwiseError:
        raise
    # The callable is the user's code, and may raise anything.
    except Exception as error:
        raise DepthwiseError(f"{argument} failed on {name}: {said(error)}") from error
