"""What the processes of `torch.distributed` do together; each of these does nothing where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed
from torch import Tensor

from ..errors import DepthwiseError

T = TypeVar("T")


def several() -> bool:
    """Whether `torch.distributed` is initialised."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def add_up_(*sums: Tensor) -> None:
    """Each of the sums becomes that over all processes."""
    if several():
        for each in sums:
            torch.distributed.all_reduce(each)


def from_first(value: T) -> T:
    """The first process's value, in every process."""
    if not several():
        return value
    held = [value]
    torch.distributed.broadcast_object_list(held)
    return held[0]


@contextmanager
def together() -> Iterator[None]:
    """What fails in one process fails in all of them: none waits for sums that another will not add to."""
    if not several():
        yield
        return
    try:
        yield
    except Exception as error:
        _told(str(error))
        raise
    for rank, message in enumerate(_told(None)):
        if message is not None:
            raise DepthwiseError(f"process {rank} failed: {message}")


def _told(message: str | None) -> list[str | None]:
    """Every process's message."""
    messages: list[str | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(messages, message)
    return messages
