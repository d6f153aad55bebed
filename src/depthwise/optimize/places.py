"""The tensors of a program that is read, and which of them may be over the same memory."""

from __future__ import annotations

from ..errors import DepthwiseError
from .graph import Value

_OWNERS = {"input": "one of the model's inputs", "weight": "one of its weights or buffers"}


class Place:
    """One tensor of the program: the value that it holds now, and the others that may be over the same memory.

    owner: "input" or "weight" where the memory is not the forward's own; stale: who changed it behind its back
    """

    def __init__(self, value: Value, owner: str = "") -> None:
        self.value = value
        self.owner = owner
        self.stale = ""
        self.sharing = {self}

    def joins(self, other: Place) -> None:
        if other.sharing is not self.sharing:
            self.sharing |= other.sharing
            for place in other.sharing:
                place.sharing = self.sharing

    def read(self, where: str) -> Value:
        if self.stale:
            raise DepthwiseError(
                f"{where} reads {self.value} after {self.stale} wrote into memory that may be the same; write the "
                f"result into a new tensor there, without the underscore, or clone one of the two before"
            )
        return self.value

    def write(self, value: Value, where: str) -> None:
        for place in self.sharing:
            if place.owner:
                raise DepthwiseError(
                    f"{where} writes into {place.value}, {_OWNERS[place.owner]}, which an optimized network leaves as "
                    f"they are; write the result into a new tensor there, without the underscore"
                )
            if place is not self:
                place.stale = where
        self.value = value
