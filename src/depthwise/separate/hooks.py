"""Hooks on modules for as long as a forward is watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """`hook` called after each forward of `module`: with the module, its arguments and its output."""

    def positional(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        return hook(module, (*args, *kwargs.values()), output)

    handle = module.register_forward_hook(positional, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def hooked_before(module: nn.Module, hook: Callable[..., None]) -> Iterator[None]:
    """`hook` called before each forward of `module`: with the module and its arguments."""

    def positional(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hook(module, (*args, *kwargs.values()))

    handle = module.register_forward_pre_hook(positional, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
