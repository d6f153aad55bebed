"""Kernels: the code of one stage, named by all that is constant in it, and the frame of slots that it reads.

Each is compiled and kept by itself, so that whatever needs the same one finds it. Its one function is
`void kernel(ptr frame, i64 thread, i64 threads)`: the share of `thread` in the work of a team of `threads`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from ..machine import Machine
from ..plan.constants import Plan
from .ir import Block, Int
from .module import Module

SYMBOL = "kernel"

# Of a frame: how the input lies, and what its windows see.
VIEW = (
    *("x_n", "x_c", "x_z", "x_y", "x_x", "in_z", "in_y", "in_x", "out_z", "out_y", "out_x"),
    *("pad_z", "pad_y", "pad_x"),
    # Elements from one plane of a channel of the result to the next channel's, where it lies in planes.
    "out_c",
)


@dataclass(frozen=True)
class Kernel(ABC):
    """One kind of kernel, at its constants.

    pointers, numbers: the slots of its frame, in this order
    writes: the pointers that it writes to, but for memory of a thread's own
    """

    pointers: ClassVar[tuple[str, ...]]
    numbers: ClassVar[tuple[str, ...]]
    writes: ClassVar[tuple[str, ...]] = ("out",)

    machine: Machine

    @property
    @abstractmethod
    def label(self) -> str:
        """What tells its code from all others for the same machine."""

    @property
    @abstractmethod
    def plans(self) -> tuple[Plan, ...]:
        """The constants of its loop nests."""

    @abstractmethod
    def write(self, e: Block, thread: Int, threads: Int) -> None: ...

    @property
    def name(self) -> str:
        return f"{self.label}__{self.machine.isa}"

    @property
    def slots(self) -> tuple[str, ...]:
        return (*self.pointers, *self.numbers)

    def ir(self) -> str:
        module = Module(self.name, self.machine.isa)
        block = Block(module, SYMBOL, ("ptr %frame", "i64 %thread", "i64 %threads"), self.slots)
        self.write(block, block.argument("thread"), block.argument("threads"))
        block.close()
        return str(module)


@dataclass(frozen=True)
class OnePlanKernel(Kernel):
    """A kernel whose constants are those of one plan."""

    kind: ClassVar[str]

    plan: Plan

    @property
    def label(self) -> str:
        return f"{self.kind}_{self.plan.name}"

    @property
    def plans(self) -> tuple[Plan, ...]:
        return (self.plan,)
