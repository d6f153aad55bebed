"""Vectors of float64, for sums in which float32 would lose what counts."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from .ir import Block, Int, Ptr, Vec

# Elements of float32 that one of float64 takes.
CELLS = 2


class Wide(Vec):
    """A vector of float64, one lane or more."""

    __slots__ = ()

    @property
    def kind(self) -> str:
        return f"<{self.lanes} x double>"

    def like(self, value: str) -> Wide:
        return Wide(self.block, value, self.lanes)

    def merged(self, other: Vec, lanes: Sequence[int]) -> Wide:
        found = super().merged(other, lanes)
        return Wide(self.block, found.value, found.lanes)

    def _constant_or(self, other: float | Vec) -> Vec:
        return other if isinstance(other, Vec) else constant(self.block, other, self.lanes)

    def _intrinsic(self, name: str, *operands: Vec) -> Vec:
        kind = self.kind
        function = self.block.module.intrinsic(f"llvm.{name}.v{self.lanes}f64", kind, [kind] * len(operands))
        arguments = ", ".join(f"{kind} {operand.value}" for operand in operands)
        return self.like(self.block.value(f"call {kind} {function}({arguments})"))


def constant(block: Block, value: float, lanes: int) -> Wide:
    """`value` in every lane."""
    bits = struct.pack(">d", value).hex()
    return Wide(block, f"<{', '.join([f'double 0x{bits}'] * lanes)}>", lanes)


def of_bits(bits: Int, lanes: int) -> Wide:
    """The float64 whose bits an integer holds, in every lane."""
    return _splat(bits, "bitcast i64 {} to double", lanes)


def of_count(count: Int, lanes: int) -> Wide:
    """An integer that is not negative, in every lane."""
    return _splat(count, "uitofp i64 {} to double", lanes)


def _splat(number: Int, conversion: str, lanes: int) -> Wide:
    e = number.block
    one, kind = e.value(conversion.format(number.value)), f"<{lanes} x double>"
    first = e.value(f"insertelement {kind} poison, double {one}, i32 0")
    return Wide(e, e.value(f"shufflevector {kind} {first}, {kind} poison, <{lanes} x i32> zeroinitializer"), lanes)


def truncated(number: Vec) -> Int:
    """The integer below one float64 that is not negative."""
    e = number.block
    return Int(e, e.value(f"fptosi double {e.value(f'extractelement {number.kind} {number.value}, i32 0')} to i64"))


def root(vector: Vec) -> Vec:
    """The square root of each lane."""
    return vector._intrinsic("sqrt", vector)


def widened(vector: Vec) -> Wide:
    e = vector.block
    return Wide(e, e.value(f"fpext {vector.kind} {vector.value} to <{vector.lanes} x double>"), vector.lanes)


def narrowed(vector: Vec) -> Vec:
    """Each lane rounded to float32."""
    e = vector.block
    return Vec(e, e.value(f"fptrunc {vector.kind} {vector.value} to <{vector.lanes} x float>"), vector.lanes)


def added_up(vector: Wide) -> Wide:
    """The sum of all lanes, in one: of halves, and of their halves."""
    while vector.lanes > 1:
        half = vector.lanes // 2
        low, high = (vector.merged(vector, range(first, first + half)) for first in (0, half))
        vector = Wide(vector.block, (low + high).value, half)
    return vector


def load_wide(place: Ptr, lanes: int) -> Wide:
    e = place.block
    return Wide(e, e.value(f"load <{lanes} x double>, ptr {place.value}, align 8"), lanes)


def store_wide(place: Ptr, vector: Vec) -> None:
    place.block.write(f"store {vector.kind} {vector.value}, ptr {place.value}, align 8")
