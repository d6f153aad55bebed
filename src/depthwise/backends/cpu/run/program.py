"""Programs: stages that run one after another, each a kernel at work on a frame of its own.

A program is a value: it knows its buffers by name, not where they lie. `Table` is what the driver walks; the addresses
of buffers are filled into it at each call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..emit.kernel import SYMBOL, Kernel
from ..machine import FLOAT_BYTES, Machine
from ..plan.cut import Cut
from ..plan.dense import DensePlan
from ..plan.planar import PlanarPlan
from ..plan.pointwise import PointwisePlan
from ..plan.view import View
from . import jit, threads
from .arena import Access, Region, lives, places, waits
from .driver import HEADER, ROW, driver

# Buffers that are no tensors: zeros to read, and memory that ends with the stage, a piece for each thread.
ZEROS, SCRATCH = "zeros", "scratch"
# Where nothing is.
NOWHERE = "nothing"
# Stages that a title still names.
MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class Stage:
    """A kernel, the numbers of its frame, and the buffers that its pointers mean.

    buffers: (pointer of the kernel, buffer of the program); a pointer left out means the buffer of its own name
    zeros:   elements that the kernel may read of the buffer ZEROS
    piece:   of the rows of its result, of so many elements, the first that it writes and the one after the last
    offsets: (pointer of the kernel, elements from the start of its buffer), where that is not 0
    """

    kernel: Kernel
    view: View
    cut: Cut
    buffers: tuple[tuple[str, str], ...] = ()
    zeros: int = 0
    piece: tuple[int, int, int] | None = None
    offsets: tuple[tuple[str, int], ...] = ()

    @property
    def team(self) -> int:
        return self.cut.threads

    @property
    def pointers(self) -> dict[str, str]:
        """The buffer that each pointer of the kernel means."""
        return {name: name for name in self.kernel.pointers} | dict(self.buffers)

    def numbers(self, **of_program: int) -> list[int]:
        """In the order of the kernel's; some are the program's."""
        known = self.view.numbers | self.cut.numbers | of_program
        return [known[name] for name in self.kernel.numbers]

    def renamed(self, names: Mapping[str, str]) -> Stage:
        """The same with its buffers called so; those of no name here are nowhere."""
        known = {ZEROS: ZEROS, SCRATCH: SCRATCH} | dict(names)
        found = {pointer: known.get(buffer, NOWHERE) for pointer, buffer in self.pointers.items()}
        return replace(self, buffers=tuple(found.items()))


@dataclass(frozen=True)
class Program:
    """Stages, and memory between them.

    between: buffers that live in the program's own memory, and their elements; those that no stage uses at the same
             time share it
    """

    stages: tuple[Stage, ...]
    between: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        return " + ".join(kernel.name for kernel in self.kernels)

    @property
    def title(self) -> str:
        """What torch's profiler calls it: the kernels of a layer, and of a network how many."""
        return f"depthwise: {self.name if len(self.stages) <= MOST_NAMED else f'{len(self.stages)} stages'}"

    @property
    def machine(self) -> Machine:
        return self.kernels[0].machine

    @property
    def team(self) -> int:
        return max(stage.team for stage in self.stages)

    @property
    def pointwise(self) -> PointwisePlan | PlanarPlan | DensePlan | None:
        """What pointwise or dense weights are packed for."""
        plans = (plan for kernel in self.kernels for plan in kernel.plans)
        return next((plan for plan in plans if isinstance(plan, PointwisePlan | PlanarPlan | DensePlan)), None)

    @property
    def packing(self) -> tuple[object, ...]:
        """What the order of packed weights goes by."""
        return tuple(plan.packing for kernel in self.kernels for plan in kernel.plans)

    @property
    def zeros(self) -> int:
        return max(stage.zeros for stage in self.stages)

    @property
    def scratch_elements(self) -> int:
        """Of each thread's own memory, at the same place in all stages."""
        return max(stage.cut.scratch_elements for stage in self.stages)

    @property
    def arena(self) -> tuple[dict[str, int], int]:
        """Where each buffer of the program's own begins, in elements, and how many there are in all."""
        found, used = places(lives([[*stage.pointers.values()] for stage in self.stages], dict(self.between)))
        scratch = self.team * self.scratch_elements
        return found | ({SCRATCH: used} if scratch else {}), used + scratch

    @property
    def waits(self) -> tuple[bool, ...]:
        """Whether each stage begins when all before it have ended: a barrier of the team."""
        own = self.arena[0]
        return waits([self._access(stage, own) for stage in self.stages])

    def _access(self, stage: Stage, own: Mapping[str, int]) -> Access:
        """What a stage reads and writes, its threads' own memory aside."""
        elements = dict(self.between)

        def region(buffer: str) -> Region:
            start = own.get(buffer)
            return Region(buffer) if start is None else Region(None, start, start + elements[buffer])

        shared = {pointer: region(buffer) for pointer, buffer in stage.pointers.items() if buffer != SCRATCH}
        written = tuple(replace(shared[pointer], piece=stage.piece) for pointer in stage.kernel.writes)
        read = tuple(region for pointer, region in shared.items() if pointer not in stage.kernel.writes)
        return Access(stage.team, read, written)

    def ir(self) -> str:
        """Of all kernels, a module for each."""
        return "\n".join(kernel.ir() for kernel in self.kernels)

    def assembly(self) -> str:
        return "\n".join(jit.assembly(kernel.ir(), kernel.machine) for kernel in self.kernels)

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        return tuple(stage.kernel for stage in self.stages)

    @property
    def codes(self) -> tuple[jit.Code, ...]:
        """Of the driver, then of each stage's kernel: compiled, or found."""
        # Not a cached_property: that of Python 3.11 has one lock for all objects, held while one compiles.
        return driver(self.machine), *map(code_of, self.kernels)


def code_of(kernel: Kernel) -> jit.Code:
    return jit.load(kernel.name, kernel.machine, kernel.ir)


class Table:
    """The cells of a program that the driver walks, but for the addresses of its buffers.

    serial, parallel: the driver's entries
    places: for each buffer the cells that hold its address
    shifts: of some cells, by how many bytes their address is beyond their buffer's
    """

    def __init__(self, program: Program) -> None:
        self._codes = walker, *kernels = program.codes
        self.serial, self.parallel = (threads.ENTRY(walker.address(name)) for name in ("serial", "parallel"))
        runtime = threads.runtime()
        functions = runtime.addresses if runtime else (0,) * (len(HEADER) - 2)
        rows: list[int] = []
        frames: list[int] = []
        begin = len(HEADER) + len(ROW) * len(program.stages)
        self.places: dict[str, tuple[int, ...]] = {}
        self.shifts: dict[int, int] = {}
        for stage, code, is_behind in zip(program.stages, kernels, program.waits, strict=True):
            place = begin + len(frames)
            rows += [code.address(SYMBOL), place, stage.team, int(is_behind)]
            offsets = dict(stage.offsets)
            for index, (pointer, buffer) in enumerate(stage.pointers.items(), place):
                self.places[buffer] = (*self.places.get(buffer, ()), index)
                if offsets.get(pointer):
                    self.shifts[index] = FLOAT_BYTES * offsets[pointer]
            numbers = stage.numbers(scratch_elements=program.scratch_elements)
            frames += [*(0 for _ in stage.pointers), *numbers]
        cells = [*functions, program.team, len(program.stages), *rows, *frames]
        self._kind = ctypes.c_int64 * len(cells)
        self._cells = self._kind(*cells)

    def fill(self, buffer: str, address: int) -> None:
        """Let every copy made from now on have this buffer."""
        for place in self.places.get(buffer, ()):
            self._cells[place] = address + self.shifts.get(place, 0)

    def copy(self) -> tuple[ctypes.Array[ctypes.c_int64], int]:
        """Cells of a call's own, and their address."""
        cells = self._kind.from_buffer_copy(self._cells)
        return cells, ctypes.addressof(cells)
