"""Vectors of which only the first lanes are in memory, as many as the code learns when it runs."""

from __future__ import annotations

from ..machine import FLOAT_BYTES
from .ir import Int, Ptr, Vec


def load_first(place: Ptr, count: Int, lanes: int) -> Vec:
    """`count` numbers, which alone are read, and zeros in the other lanes."""
    e, kind, mask = place.block, f"<{lanes} x float>", f"<{lanes} x i1>"
    load = e.module.intrinsic(f"llvm.masked.load.v{lanes}f32.p0", kind, ("ptr", "i32", mask, kind))
    arguments = f"ptr {place.value}, i32 {FLOAT_BYTES}, {mask} {_below(count, lanes)}, {kind} zeroinitializer"
    return Vec(e, e.value(f"call {kind} {load}({arguments})"), lanes)


def store_first(place: Ptr, count: Int, vector: Vec) -> None:
    """The first `count` lanes of a vector."""
    e, lanes, kind, mask = place.block, vector.lanes, vector.kind, f"<{vector.lanes} x i1>"
    store = e.module.intrinsic(f"llvm.masked.store.v{lanes}f32.p0", "void", (kind, "ptr", "i32", mask))
    arguments = f"{kind} {vector.value}, ptr {place.value}, i32 {FLOAT_BYTES}, {mask} {_below(count, lanes)}"
    e.write(f"call void {store}({arguments})")


def _below(count: Int, lanes: int) -> str:
    """A truth value for each lane, whether its number is less than `count`."""
    kind, value = f"<{lanes} x i64>", count.block.value
    one = value(f"insertelement {kind} poison, i64 {count.value}, i32 0")
    every = value(f"shufflevector {kind} {one}, {kind} poison, <{lanes} x i32> zeroinitializer")
    return value(f"icmp sgt {kind} {every}, <{', '.join(f'i64 {lane}' for lane in range(lanes))}>")
