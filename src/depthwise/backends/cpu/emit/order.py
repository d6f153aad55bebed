"""Orders of a vector's lanes that are known only when the code runs: rows of a constant table.

An ordered vector is [vector[lane] for lane in order].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .ir import Block, Int, Vec

# What x86 does this with, by lanes.
_X86 = {4: "llvm.x86.avx.vpermilvar.ps", 8: "llvm.x86.avx2.permps", 16: "llvm.x86.avx512.permvar.sf.512"}


@dataclass(frozen=True, slots=True)
class Order:
    """A lane of a vector for each lane of the ordered one; `value` is the name of these numbers in the code."""

    block: Block
    value: str
    lanes: int

    @property
    def kind(self) -> str:
        return f"<{self.lanes} x i32>"

    def shifted(self, lanes: Int) -> Order:
        """The same, all so many lanes further on."""
        value = self.block.value
        one = value(f"insertelement {self.kind} poison, i32 {value(f'trunc i64 {lanes.value} to i32')}, i32 0")
        every = value(f"shufflevector {self.kind} {one}, {self.kind} poison, {self.kind} zeroinitializer")
        return Order(self.block, value(f"add {self.kind} {self.value}, {every}"), self.lanes)

    def applied(self, vector: Vec) -> Vec:
        """The vector in this order."""
        module, value = self.block.module, self.block.value
        if module.isa == "neon":
            return self._by_bytes(vector)
        function = module.intrinsic(_X86[self.lanes], vector.kind, (vector.kind, self.kind))
        operands = f"{vector.kind} {vector.value}, {self.kind} {self.value}"
        return vector.like(value(f"call {vector.kind} {function}({operands})"))

    def _by_bytes(self, vector: Vec) -> Vec:
        value, kind = self.block.value, "<16 x i8>"
        function = self.block.module.intrinsic("llvm.aarch64.neon.tbl1.v16i8", kind, (kind, kind))
        four, each = (f"<{', '.join([f'i32 {number}'] * self.lanes)}>" for number in (0x04040404, 0x03020100))
        places = value(f"add {self.kind} {value(f'mul {self.kind} {self.value}, {four}')}, {each}")
        order = value(f"bitcast {self.kind} {places} to {kind}")
        source = value(f"bitcast {vector.kind} {vector.value} to {kind}")
        found = value(f"call {kind} {function}({kind} {source}, {kind} {order})")
        return vector.like(value(f"bitcast {kind} {found} to {vector.kind}"))


def order_of(e: Block, name: str, rows: Sequence[Sequence[int]], index: Int) -> Order:
    """The order that row `index` of a constant table says."""
    lanes = len(rows[0])
    numbers = ", ".join(f"i32 {lane}" for row in rows for lane in row)
    table = e.module.constant(f"{name}x{lanes}", f"[{len(rows) * lanes} x i32]", f"[{numbers}]")
    place = e.value(f"getelementptr i32, ptr {table}, i64 {(index * lanes).value}")
    return Order(e, e.value(f"load <{lanes} x i32>, ptr {place}, align 4"), lanes)
