"""Kernels for 64-bit Arm: generated, verified and assembled here; tests/slow/test_neon.py runs them."""

from __future__ import annotations

import pytest

from depthwise.activations import ACTIVATIONS
from depthwise.backends.base import Activation
from depthwise.backends.cpu import machine
from depthwise.backends.cpu.run import jit
from depthwise.backends.cpu.run.program import Program
from tests.support.kernels import NEON_KINDS, Input, Layer, kind, outside_calls, program_of

NEON = machine.neon()
ARM = 183  # EM_AARCH64, the machine in an ELF file's header


def activation(index: int) -> Activation:
    name = sorted(ACTIVATIONS)[index % len(ACTIVATIONS)]
    return name, 0.3 if name in ("leaky_relu", "elu") else 0.0


PROGRAMS = [
    program_of(layer, given, NEON)
    for layer, given in (
        *((Layer(9, (3, 3)), Input(1, (7, 7), 1, layout)) for layout in ("last", "planar", "last_strided")),
        *((Layer(5, (2, 3), multiplier), Input(1, (7, 7))) for multiplier in (2, 3, 4, 8)),
        *((Layer(2, (40,)), Input(1, (99,), layout=layout)) for layout in ("last", "planar")),
        *((Layer(6, (3, 3, 3), stride=2, dilation=(1, 2, 1)), Input(1, (9, 9, 9), 1, "last")),),
        *((Layer(6, (2, 3, 2), 3), Input(1, (5, 5, 5), 1, "planar")),),
        *(
            (Layer(9, (3, 3), out_channels=channels, residual=residual), Input(1, (7, 7), 1, layout, threads))
            for channels, residual in ((3, False), (16, True), (21, True))
            for layout, threads in (("last", 1), ("last", 2), ("planar", 1))
        ),
        # Multiplied as pixels: results of fewer than a vector's lanes, and with a small cache all that is contiguous.
        (Layer(9, (3, 3), out_channels=16), Input(1, (3, 4), 1, "planar")),
        *(
            (Layer(9, size, out_channels=16), Input(1, spatial, 1, layout, threads, small_cache=True))
            for size, spatial, layout in (((3, 3), (7, 7), "planar"), ((9,), (50,), "last_sliced"))
            for threads in (1, 2)
        ),
        *(
            (Layer(8, (3, 3), out_channels=8, activations=(activation(i), activation(i + 1))), Input(1, (7, 7), 1))
            for i in range(len(ACTIVATIONS))
        ),
        (Layer(8, (9,), out_channels=12, groups=2), Input(1, (50,), 4, "last")),
        (Layer(1024, (5, 5)), Input(1, (7, 7), 2)),
        (Layer(3, (5, 7)), Input(1, (9, 20), 2, "planar")),
    )
]


def test_every_emitter_is_among_them() -> None:
    assert {kind(program) for program in PROGRAMS} == NEON_KINDS


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_programs_are_verified_and_assembled_and_need_no_symbol(program: Program) -> None:
    for kernel in program.kernels:
        code = jit.compile_object(kernel.ir(), NEON)
        assert (code[:4], int.from_bytes(code[18:20], "little")) == (b"\x7fELF", ARM)


@pytest.mark.parametrize("program", {kind(program): program for program in PROGRAMS}.values(), ids=kind)
def test_the_assembly_calls_no_function(program: Program) -> None:
    for kernel in program.kernels:
        assembly = jit.assembly(kernel.ir(), NEON)
        assert outside_calls(assembly) == set()
        assert "fmla" in assembly
