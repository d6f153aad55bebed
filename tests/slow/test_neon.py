"""Kernels for 64-bit Arm, run under emulation: Debian's qemu-user and a cross compiler's C library."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from depthwise.backends.cpu import machine
from depthwise.backends.cpu.emit.kernel import SYMBOL, Kernel
from depthwise.backends.cpu.run import jit, threads
from depthwise.backends.cpu.run.driver import HEADER, ROW, driver_ir
from depthwise.backends.cpu.run.program import Program
from tests.support.cases import normals
from tests.support.kernels import (
    HERE,
    NEON_KINDS,
    TAILS,
    Input,
    Layer,
    Memory,
    Numbers,
    assert_same,
    decide,
    exact_example,
    expected_of,
    geometry_of,
    input_tensor,
    inputs_of,
    kind,
    numbers_of,
    run,
    run_decision,
)

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
ABSENT = [name for name in (COMPILER, EMULATOR) if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(ABSENT), reason=f"{' and '.join(ABSENT)} not found: packages gcc-aarch64-linux-gnu, qemu-user"
    ),
]
NEON = machine.neon()
# PyTorch copies one of these first, to where the driver cannot follow; the other holds one image as if it were many.
LEFT_OUT = {"planar_strided", "last_expanded"}

# Runs `serial` on each file in turn: the numbers of cells and of floats, the table's cells, which of them are places
# among the floats, and the floats, which it writes back. Where kernels lie it fills in itself.
DRIVER = (
    f"""
#define HEADER {len(HEADER)}
#define ROW {len(ROW)}
#define STAGES {HEADER.index("stages")}
"""
    + """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int64_t serial(int64_t *table, int64_t *prints);
void kernel0(void), kernel1(void);
void (*kernels[])(void) = {kernel0, kernel1};

int main(int count, char **paths) {
    for (int i = 1; i < count; i++) {
        FILE *file = fopen(paths[i], "r+b");
        int64_t sizes[2];
        if (!file || fread(sizes, 8, 2, file) != 2) return 1;
        int64_t *table = malloc(8 * sizes[0]), *places = malloc(8 * sizes[0]);
        float *floats = malloc(4 * sizes[1]);
        if (fread(table, 8, sizes[0], file) != sizes[0]) return 2;
        if (fread(places, 8, sizes[0], file) != sizes[0]) return 3;
        long start = ftell(file);
        if (fread(floats, 4, sizes[1], file) != sizes[1]) return 4;
        for (int64_t s = 0; s < sizes[0]; s++)
            if (places[s]) table[s] += (intptr_t)floats;
        for (int64_t s = 0; s < table[STAGES]; s++)
            table[HEADER + ROW * s] = (intptr_t)kernels[s];
        int64_t none = 0;
        serial(table, &none);
        fseek(file, start, SEEK_SET);
        if (fwrite(floats, 4, sizes[1], file) != sizes[1] || fclose(file)) return 5;
        free(floats), free(places), free(table);
    }
    return 0;
}
"""
)


class Arena(Memory):
    """All buffers in one, each beside the next but for a NaN."""

    def __init__(self) -> None:
        self.all = torch.full((2**21,), float("nan"))
        self.used = 0

    def floats(self, count: int) -> Tensor:
        start = self.used
        self.used += count + 1
        assert self.used <= self.all.numel()
        return self.all[start : start + count]


class NoCode:
    """In the place of code that this machine cannot load."""

    def address(self, symbol: str) -> int:
        return 0


class Recording:
    """One call as the backend would make it, written to a file instead of run."""

    def __init__(self, layer: Layer, given: Input, numbers: Numbers, path: Path, **told: int) -> None:
        x, self.arena, self.path = input_tensor(layer, given, numbers.x), Arena(), path
        decision = decide(layer, given, x, NEON)
        self.program = decision.program
        kernels = self.program.kernels
        codes = [NoCode()] * (1 + len(kernels))
        count = len(HEADER) + sum(len(ROW) + len(kernel.slots) for kernel in kernels)

        def record(serial: object, parallel: object, address: int, prints: int, team: int, *_: object) -> int:
            self.cells = list((ctypes.c_int64 * count).from_address(address))
            return 0

        with patch.object(threads, "launch", record), patch.object(type(self.program), "codes", codes):
            self.result = run_decision(decision, geometry_of(layer, given), x, numbers, self.arena)
        for name, change in told.items():
            frame = self.cells[len(HEADER) + ROW.index("frame")]
            self.cells[frame + kernels[0].slots.index(name)] += change
        self._write()

    def _write(self) -> None:
        base, size = self.arena.all.data_ptr(), self.arena.used
        places = [int(base <= cell <= base + 4 * size) for cell in self.cells]
        cells = [cell - place * base for cell, place in zip(self.cells, places, strict=True)]
        count = len(cells)
        header = struct.pack(f"<{2 + 2 * count}q", count, size, *cells, *places)
        self.path.write_bytes(header + ctypes.string_at(base, 4 * size))

    def read(self) -> Tensor:
        """The result, once the file was run."""
        size = 4 * self.arena.used
        ctypes.memmove(self.arena.all.data_ptr(), self.path.read_bytes()[-size:], size)
        return self.result


def named(kernel: Kernel, symbol: str) -> str:
    """A kernel's IR, under a symbol of its own."""
    return kernel.ir().replace(f"@{SYMBOL}(", f"@{symbol}(")


class Emulator:
    """Programs linked with the driver, and run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        (folder / "driver.c").write_text(DRIVER)
        self._call(COMPILER, "-O1", "-c", folder / "driver.c", "-o", folder / "driver.o")

    def path(self) -> Path:
        """A new file's name."""
        self.count += 1
        return self.folder / f"{self.count}"

    def run(self, program: Program, recordings: list[Recording]) -> None:
        objects, binary = [self.folder / "driver.o"], self.folder / "program"
        # Of one stage, the kernel stands for that of a second one too.
        texts = [named(kernel, f"kernel{i}") for i, kernel in enumerate((*program.kernels, *program.kernels)[:2])]
        for i, text in enumerate((driver_ir(), *texts)):
            objects.append(self.folder / f"{i}.o")
            objects[-1].write_bytes(jit.compile_object(text, NEON))
        self._call(COMPILER, "-static", *objects, "-o", binary)
        self._call(EMULATOR, binary, *(recording.path for recording in recordings))

    @staticmethod
    def _call(*command: str | Path) -> None:
        subprocess.run(command, check=True, timeout=600)


@pytest.fixture
def emulator(tmp_path: Path) -> Emulator:
    return Emulator(tmp_path)


def run_all(emulator: Emulator, calls: list[tuple[Layer, Input, Numbers]]) -> list[Tensor]:
    recordings = [Recording(*call, emulator.path()) for call in calls]
    for name in {recording.program.name for recording in recordings}:
        same = [recording for recording in recordings if recording.program.name == name]
        emulator.run(same[0].program, same)
    return [recording.read() for recording in recordings]


@pytest.mark.parametrize("name", TAILS)
def test_integers_give_the_references_bits(name: str, emulator: Emulator) -> None:
    layers, layouts = TAILS[name]
    for layer in layers:
        calls, expected = [], []
        for given in inputs_of(layer, 4, tuple(layout for layout in layouts if layout not in LEFT_OUT)):
            numbers, exact = exact_example(layer, given)
            calls.append((layer, given, numbers))
            expected.append(exact)
        for (_, given, _), y, exact in zip(calls, run_all(emulator, calls), expected, strict=True):
            assert_same(y, exact, f"{layer}, {given}")


def test_every_emitter_runs() -> None:
    seen = set()
    for layers, layouts in TAILS.values():
        for layer in layers:
            for given in inputs_of(layer, 4, layouts):
                x = input_tensor(layer, given, torch.empty(given.batch, layer.channels, *given.spatial))
                seen.add(kind(decide(layer, given, x, NEON).program))
    assert seen == NEON_KINDS


@pytest.mark.parametrize(
    "activation", [("silu", 0.0), ("gelu", 0.0), ("elu", 1.5), ("hardswish", 0.0), ("relu6", 0.0)], ids=str
)
def test_activations_give_what_this_machine_gives(activation: tuple[str, float], emulator: Emulator) -> None:
    if not HERE:
        pytest.skip("no generator serves this machine")
    layer = Layer(9, (3, 3), out_channels=10, activations=(activation, activation))
    given = Input(2, (6, 7), 1)
    numbers = numbers_of(layer, given, normals(0))
    numbers.x[0, 0, 0, 0] = float("nan")
    (y,) = run_all(emulator, [(layer, given, numbers)])
    torch.testing.assert_close(y, run(layer, given, numbers, HERE[0]), rtol=1e-5, atol=1e-6, equal_nan=True)
    assert torch.equal(y.isnan(), expected_of(layer, given, numbers).isnan())


def test_a_wrong_number_is_seen(emulator: Emulator) -> None:
    layer, given = Layer(9, (3, 3)), Input(1, (5, 9), 1)
    numbers, exact = exact_example(layer, given)
    recording = Recording(layer, given, numbers, emulator.path(), pad_x=1)
    emulator.run(recording.program, [recording])
    with pytest.raises(AssertionError, match="elements differ"):
        assert_same(recording.read(), exact, "planted")
