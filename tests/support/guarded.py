"""Memory in which a kernel that reads or writes beside a buffer dies: the pages around each one cannot be touched.

python -m tests.support.guarded ISA tails      # some of the tails, each buffer flush with one page, then the other
python -m tests.support.guarded ISA all        # all of them
python -m tests.support.guarded ISA series     # a network's block in one program, each buffer in memory of its own
python -m tests.support.guarded ISA norms      # batch norms in training mode
python -m tests.support.guarded ISA gates      # gradients of gated images
python -m tests.support.guarded ISA fresh      # pointwise weights packed by generated code
python -m tests.support.guarded ISA dense      # dense convolutions and poolings
python -m tests.support.guarded ISA excited    # sums beside depthwise results, gates within pointwise convolutions
python -m tests.support.guarded ISA images     # resized images, norms over groups, factors by pixel
python -m tests.support.guarded ISA network    # a whole network likewise
python -m tests.support.guarded ISA planted    # kernels told wrong numbers or pointers, each of which must die
python -m tests.support.guarded ISA in_x       # one of these, in this process itself

Several names in a row are checked one after the other.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Literal
from unittest.mock import patch

import torch
from torch import Tensor

from depthwise.backends.cpu.lower.norms import NormProblem
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.run import threads
from depthwise.backends.cpu.run.driver import HEADER, ROW
from depthwise.backends.pixels import AveragePool, MaxPool
from depthwise.geometry import pool_geometry
from tests.support import convolutions
from tests.support.cases import small_integers
from tests.support.excited import GATED, SUMMED, check_gated, check_summed
from tests.support.expanded import check_expanded, tried
from tests.support.fresh import SIZES, check_fresh
from tests.support.gates import check_gate_gradients, check_gated_convolution
from tests.support.kernels import (
    HERE,
    NAN,
    TAILS,
    Input,
    Layer,
    Memory,
    geometry_of,
    in_turn,
    inputs_of,
    numbers_of,
    program_of,
    run,
)
from tests.support.norms import assert_exact
from tests.support.pixels import check_bilinear, check_group_norm, check_pixel_factors, check_rearranged, check_totals
from tests.support.series import check_beside, check_example, check_network, run_problem

Side = Literal["before", "after"]
SIDES: tuple[Side, Side] = ("before", "after")
PAGE = mmap.PAGESIZE
FLOAT_BYTES = 4

_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Guarded(Memory):
    """Buffers whose first byte follows, or whose last byte precedes, a page that cannot be touched."""

    def __init__(self, side: Side) -> None:
        self.side = side

    def floats(self, count: int) -> Tensor:
        if not count:
            return torch.empty(0)
        size = FLOAT_BYTES * count
        pages = -(-size // PAGE)
        # The tensor holds the mapping, which ends with it.
        memory = mmap.mmap(-1, (pages + 2) * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for address in (start, start + (pages + 1) * PAGE):
            if _mprotect(address, PAGE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        offset = PAGE if self.side == "before" else (pages + 1) * PAGE - size
        return torch.frombuffer(memory, dtype=torch.float32, count=count, offset=offset).fill_(NAN)


def check(layer: Layer, given: Input, target: Machine, side: Side) -> None:
    """Run small integers through guarded buffers; every element of the result must be written."""
    numbers = numbers_of(layer, given, small_integers(0))
    if given.layout.endswith("expanded"):
        numbers = replace(numbers, x=numbers.x[:1].expand_as(numbers.x))
    if run(layer, given, numbers, target, Guarded(side)).isnan().any():
        raise SystemExit(f"{layer}, {given}: not all of the result was written")


def check_tails(machine: Machine, count: int, *, every: bool) -> None:
    """`count` inputs in each layout for the layers of the tails; unless `every`, for half of them, machines in turn."""
    for layers, layouts in TAILS.values():
        for layer, target in [(layer, machine) for layer in layers] if every else in_turn(layers[::2]):
            if target == machine:
                for given, side in product(inputs_of(layer, count, layouts), SIDES):
                    check(layer, given, target, side)


def check_norms(machine: Machine) -> None:
    """Batch norms forward and backward, every buffer guarded, whose results are exact."""
    for channels, pixels, side in product((1, 3, 8, 17, 33), (2, 32, 64), SIDES):
        for activation in (None, ("relu6", 0.0)):
            problem = NormProblem(pixels, channels, 3.0, activation, residual=True)
            # By columns, by chunks, and by planes.
            assert_exact(problem, machine, 1, Guarded(side))
            assert_exact(problem, replace(machine, l2_bytes=0), 1, Guarded(side))
            assert_exact(replace(problem, plane=pixels // 2), machine, 1, Guarded(side))


def check_gates(machine: Machine) -> None:
    """Gradients of gated images, and gated convolutions, every buffer guarded."""
    for side in SIDES:
        check_gate_gradients(machine, Guarded(side), channels=(1, 7, 16, 71), pixels=(2, 65))
        check_gated_convolution(replace(machine, l2_bytes=0), Guarded(side))


def check_fresh_weights(machine: Machine) -> None:
    """Pointwise weights packed by generated code, every buffer guarded."""
    for size, side, turned in product(SIZES, SIDES, (False, True)):
        check_fresh(*size, machine, Guarded(side), turned=turned, bias=True)


def check_dense(target: Machine, wider: int = 0) -> None:
    """Dense convolutions and poolings of guarded buffers, told that images are `wider` than they are."""
    for (layer, given), side in product([*convolutions.tried(1)][::4], SIDES):
        program = convolutions.program_of(layer, given, target)
        (stage,) = program.stages
        z, y, x = stage.view.sizes
        program = replace(program, stages=(replace(stage, view=replace(stage.view, sizes=(z, y, x + wider))),))
        numbers = convolutions.numbers_of(layer, given)
        if convolutions.run_numbers(program, numbers, geometry_of(layer, given), Guarded(side)).isnan().any():
            raise SystemExit(f"{layer}, {given}: not all of the result was written")
    for channels, side in product((1, 7, 9, 70), SIDES):
        g = pool_geometry((channels, 6, 7), (3, 2), (2, 1), (1, 1), (1, 2), ceil_mode=True)
        image = small_integers(0)((2, 6, 7, channels))
        for problem in (MaxPool(2, g), AveragePool(2, g, None, ((1, 1), (1, 1)))):
            if (
                run_problem(problem, {"x": image}, (2, *g.out_spatial, channels), target, 2, Guarded(side))
                .isnan()
                .any()
            ):
                raise SystemExit(f"{problem}: not all of the result was written")


_IMAGE = Input(1, (5, 9), 1)
_PLANES = replace(_IMAGE, layout="planar")
_DEPTHWISE, _FUSED = Layer(17, (3, 3)), Layer(17, (3, 3), out_channels=33, residual=True)
# A slot and what is added to it: elements where it is a pointer. Each makes a kernel reach just beside a buffer.
PLANTED: dict[str, tuple[Layer, Input, str, int]] = {
    "in_x": (_DEPTHWISE, _IMAGE, "in_x", 1),
    "in_y": (_DEPTHWISE, _IMAGE, "in_y", 1),
    "out_x": (_DEPTHWISE, replace(_IMAGE, spatial=(1, 9)), "out_x", 1),
    "pixels": (_FUSED, replace(_IMAGE, threads=2), "pixels", 1),
    "pixels of bands": (_FUSED, replace(_IMAGE, threads=2, small_cache=True), "pixels", 1),
    "in_x of planes": (_DEPTHWISE, _PLANES, "in_x", 1),
    "out_y of planes": (_DEPTHWISE, _PLANES, "out_y", 1),
    **{
        f"{slot} {shift:+} of {kind}": (layer, given, slot, shift)
        for kind, layer, given, slots in (
            ("pixels", _DEPTHWISE, _IMAGE, ("x",)),
            ("planes", _DEPTHWISE, _PLANES, ("x", "depthwise_weight", "depthwise_bias", "out")),
            ("blocks", _FUSED, _IMAGE, ("pointwise_weight", "pointwise_bias", "residual", "out", "scratch")),
        )
        for slot in slots
        for shift in (-1, 1)
    },
}


Entry = Callable[[int, int], int]


def cell(table: int, index: int) -> ctypes.c_int64:
    return ctypes.c_int64.from_address(table + 8 * index)


def run_planted(name: str, target: Machine) -> None:
    layer, given, slot, change = PLANTED[name]
    launch, kernels = threads.launch, program_of(layer, given, target).kernels

    def told_wrong(serial: Entry, parallel: Entry, table: int, prints: int, team: int, *_: object) -> int:
        index, kernel = next((i, kernel) for i, kernel in enumerate(kernels) if slot in kernel.slots)
        frame = cell(table, len(HEADER) + len(ROW) * index + ROW.index("frame")).value
        told = cell(table, frame + kernel.slots.index(slot))
        told.value += change * (FLOAT_BYTES if slot in kernel.pointers else 1)
        return launch(serial, parallel, table, prints, team)

    with patch.object(threads, "launch", told_wrong):
        check(layer, given, target, "before" if change < 0 else "after")


def survivors(target: Machine) -> list[str]:
    """The planted errors that a process of its own lives through."""
    alive = []
    for name, (layer, given, _, _) in PLANTED.items():
        check(layer, given, target, "after")
        child = os.fork()
        if child == 0:
            try:
                run_planted(name, target)
            finally:
                os._exit(0)
        if os.waitpid(child, 0)[1] != signal.SIGSEGV:
            alive.append(name)
    return alive


def check_series(target: Machine) -> None:
    for team, side in product((1, 2), SIDES):
        check_example(target, team, Guarded(side), apart=True)
        check_beside(target, team, Guarded(side), apart=True)


def check_whole_network(target: Machine) -> None:
    for team, side in product((1, 2), SIDES):
        check_network(target, team, Guarded(side))


def check_expansions(target: Machine) -> None:
    for (case, team, bands), side in product([*tried()][::4], SIDES):
        check_expanded(case, target, team, bands, Guarded(side))


def check_excited(target: Machine) -> None:
    for side in SIDES:
        for summed in SUMMED:
            check_summed(summed, target, 2, Guarded(side))
        for gated in GATED:
            check_gated(gated, target, 2, Guarded(side))


def check_planted(target: Machine) -> None:
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    alive = survivors(target)
    sys.exit(f"lived through: {', '.join(alive)}" if alive else 0)


def check_pixels(target: Machine) -> None:
    """Resized images, norms over groups, factors by pixel, sums, numbers at other places."""
    checks = check_bilinear, check_group_norm, check_pixel_factors, check_totals, check_rearranged
    for check, side in product(checks, SIDES):
        check(target, Guarded(side))


CHECKS: dict[str, Callable[[Machine], None]] = {
    "tails": lambda target: check_tails(target, 4, every=False),
    "all": lambda target: check_tails(target, 20, every=True),
    "series": check_series,
    "network": check_whole_network,
    "norms": check_norms,
    "gates": check_gates,
    "fresh": check_fresh_weights,
    "dense": check_dense,
    "images": check_pixels,
    "dense told wrong": lambda target: check_dense(target, wider=1),
    "excited": check_excited,
    "expanded": check_expansions,
    "planted": check_planted,
}


def main(isa: str, *names: str) -> None:
    torch.set_num_threads(1)
    target = next(machine for machine in HERE if machine.isa == isa)
    for what in names:
        if what in PLANTED:
            run_planted(what, target)
        else:
            CHECKS[what](target)


if __name__ == "__main__":
    main(*sys.argv[1:])
