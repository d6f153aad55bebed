"""The small vocabulary in which the emitters write LLVM's IR: integers, pointers, vectors, loops.

Phi nodes and branches live only here. Python's operators stand for instructions; an `int` or a `float` beside them is a
constant in the code, and integers that are constants are worked out here.

IR is written as text, as LLVM's reference has it (https://llvm.org/docs/LangRef.html): llvmlite.ir makes objects of
instructions and of types, which takes several times as long.
"""

from __future__ import annotations

import ctypes
import operator
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from ..machine import FLOAT_BYTES
from .module import Module

Case = TypeVar("Case")


class Block:
    """A function being written. Its slots, cells of 8 bytes, are pointers and numbers that the caller fills."""

    def __init__(self, module: Module, name: str, parameters: Sequence[str], slots: Sequence[str]) -> None:
        self.module = module
        self._head = name, ", ".join(parameters)
        self._slots = {name: index for index, name in enumerate(slots)}
        # Slots are read once, in a block of their own before everything else.
        self._entry: dict[str, list[str]] = {}
        self._constants: dict[tuple[str, str, int], Vec] = {}
        self._lines: list[str] = []
        self._names = 0
        self._label = ""
        self._begin("start")

    def close(self, linkage: Literal["", "internal "] = "") -> None:
        """End the function, and leave it in its module."""
        (name, parameters), slots = self._head, [line for lines in self._entry.values() for line in lines]
        head = [f"define {linkage}void @{name}({parameters}) {{", "entry:", *slots, "  br label %start"]
        self.module.functions.append("\n".join([*head, *self._lines, "  ret void", "}"]))

    def write(self, instruction: str) -> None:
        self._lines.append(f"  {instruction}")

    def value(self, instruction: str) -> str:
        """The name of what an instruction results in."""
        name = self._new_name()
        self._lines.append(f"  {name} = {instruction}")
        return name

    def _new_name(self) -> str:
        self._names += 1
        return f"%v{self._names}"

    def _new_label(self, name: str) -> str:
        self._names += 1
        return f"{name}{self._names}"

    def _begin(self, label: str) -> None:
        self._lines.append(f"{label}:")
        self._label = label

    def _go(self, label: str) -> None:
        self.write(f"br label %{label}")

    def argument(self, name: str) -> Int:
        return Int(self, f"%{name}")

    def number(self, name: str) -> Int:
        """The integer in the slot of this name."""
        return Int(self, self._slot(name, "i64"))

    def pointer(self, name: str) -> Ptr:
        """The pointer to float32 in the slot of this name."""
        return Ptr(self, self._slot(name, "ptr"))

    def runtime(self, name: str) -> str:
        """The function in the slot of this name."""
        return self._slot(name, "ptr")

    def _slot(self, name: str, kind: str) -> str:
        value, cell = f"%slot.{name}", f"%cell.{name}"
        if name not in self._entry:
            self._entry[name] = [
                f"  {cell} = getelementptr ptr, ptr %frame, i64 {self._slots[name]}",
                f"  {value} = load {kind}, ptr {cell}",
            ]
        return value

    def whole(self, value: int | Int) -> Int:
        return value if isinstance(value, Int) else Int(self, value)

    def zeros(self, lanes: int) -> Ptr:
        """A constant row of zeros to read from."""
        return Ptr(self, self.module.constant(f"zeros{lanes}", f"[{lanes} x float]", "zeroinitializer"))

    @contextmanager
    def loop(
        self, start: int | Int, stop: int | Int, step: int | Int = 1, carried: Sequence[Vec] = ()
    ) -> Iterator[Loop]:
        """`for index in range(start, stop, step)`; `carried` vectors go from turn to turn.

        The body replaces `.values`; they are the last turn's once the loop is left, or `carried` where there was none.
        """
        before = self._label
        head, body, after = (self._new_label(name) for name in ("head", "body", "after"))
        index = Int(self, self._new_name())
        heads = [vector.like(self._new_name()) for vector in carried]
        self._go(head)
        self._begin(head)
        # Phi nodes are written once it is known what comes from the end of the body.
        phis = len(self._lines)
        self._lines += [""] * (1 + len(heads))
        self.write(f"br i1 {(index < stop).value}, label %{body}, label %{after}")
        self._begin(body)
        loop = Loop(index, list(heads))
        yield loop
        numbers: list[tuple[Int | Vec, Int | Vec, Int | Vec]] = [(index, self.whole(start), index + step)]
        vectors = zip(heads, carried, loop.values, strict=True)
        for line, (phi, first, following) in enumerate([*numbers, *vectors], phis):
            cases = f"[ {first.value}, %{before} ], [ {following.value}, %{self._label} ]"
            self._lines[line] = f"  {phi.value} = phi {phi.kind} {cases}"
        self._go(head)
        self._begin(after)
        loop.values = heads

    @contextmanager
    def when(self, condition: Bool) -> Iterator[None]:
        with self.either(condition) as (yes, no):
            with yes:
                yield
            with no:
                pass

    @contextmanager
    def either(self, condition: Bool) -> Iterator[tuple[Any, Any]]:
        """Two blocks, of which one runs: `with e.either(condition) as (yes, no)`, then `with yes:` and `with no:`."""
        yes, no, after = (self._new_label(name) for name in ("yes", "no", "after"))
        self.write(f"br i1 {condition.value}, label %{yes}, label %{no}")

        @contextmanager
        def branch(label: str) -> Iterator[None]:
            self._begin(label)
            yield
            self._go(after)

        yield branch(yes), branch(no)
        self._begin(after)

    def choose(self, cases: Sequence[tuple[Bool, Case]], otherwise: Case, write: Callable[[Case], None]) -> None:
        """`write` a block for each case, of which one runs: that of the first condition that holds, or `otherwise`."""
        if not cases:
            write(otherwise)
            return
        (condition, case), *rest = cases
        with self.either(condition) as (yes, no):
            with yes:
                write(case)
            with no:
                self.choose(rest, otherwise, write)

    def gather(self, base: Ptr, offsets: Sequence[Int]) -> Vec:
        """The numbers at `offsets` from `base`, one per lane."""
        kind, vector = _vector(len(offsets)), "poison"
        for lane, offset in enumerate(offsets):
            vector = self.value(f"insertelement {kind} {vector}, float {(base + offset).load_one()}, i32 {lane}")
        return Vec(self, vector, len(offsets))

    def splat(self, pointer: Ptr, lanes: int) -> Vec:
        """The number at `pointer` in every lane."""
        return self.every(pointer.load_one(), lanes)

    def every(self, number: str, lanes: int) -> Vec:
        """A float32 in every lane."""
        kind = _vector(lanes)
        one = self.value(f"insertelement {kind} poison, float {number}, i32 0")
        every = f"shufflevector {kind} {one}, {kind} poison, <{lanes} x i32> zeroinitializer"
        return Vec(self, self.value(every), lanes)

    def constant(self, value: float, lanes: int) -> Vec:
        """`value` in every lane."""
        key = self._label, repr(value), lanes
        if key not in self._constants:
            # Behind an address that LLVM knows nothing of: it would read constants once, ahead of every loop, and keep
            # the sums of the loops inside in memory rather than in the registers that they then lack.
            number = self.module.constant(f"number{value!r}", "float", _hexadecimal(value))
            self._constants[key] = self.splat(Ptr(self, number).anew(), lanes)
        return self._constants[key]


@dataclass
class Loop:
    index: Int
    values: list[Vec]


@dataclass(frozen=True, slots=True)
class Bool:
    """A truth value, or one of each lane."""

    block: Block
    value: str
    kind: str = "i1"

    def __and__(self, other: Bool) -> Bool:
        return Bool(self.block, self.block.value(f"and {self.kind} {self.value}, {other.value}"))

    def __or__(self, other: Bool) -> Bool:
        return Bool(self.block, self.block.value(f"or {self.kind} {self.value}, {other.value}"))

    def pick(self, yes: int | Int, no: int | Int) -> Int:
        return select(self, self.block.whole(yes), self.block.whole(no))


class Int:
    """A 64-bit integer; `value` is its name in the code, or the number itself where that is known."""

    __slots__ = ("block", "value")
    kind: ClassVar[str] = "i64"

    def __init__(self, block: Block, value: str | int) -> None:
        self.block = block
        self.value = value

    def like(self, value: str) -> Int:
        return Int(self.block, value)

    def _with(self, instruction: str, fold: Callable[[int, int], int], other: int | Int) -> Int:
        """What an instruction, with `{}` for self and for another, makes of both: `fold` where both are known."""
        left, right = self.value, other.value if isinstance(other, Int) else other
        if isinstance(left, int) and isinstance(right, int):
            return Int(self.block, fold(left, right))
        return self.like(self.block.value(instruction.format(left, right)))

    def __add__(self, other: int | Int) -> Int:
        if self.value == 0:
            return self.block.whole(other)
        return self if _is(other, 0) else self._with("add i64 {}, {}", operator.add, other)

    def __radd__(self, other: int) -> Int:
        return self + other

    def __sub__(self, other: int | Int) -> Int:
        return self if _is(other, 0) else self._with("sub i64 {}, {}", operator.sub, other)

    def __rsub__(self, other: int) -> Int:
        return self.block.whole(other) - self

    def __mul__(self, other: int | Int) -> Int:
        if self.value == 1 or _is(other, 0):
            return self.block.whole(other)
        return self if self.value == 0 or _is(other, 1) else self._with("mul i64 {}, {}", operator.mul, other)

    def __rmul__(self, other: int) -> Int:
        return self * other

    def __floordiv__(self, other: int | Int) -> Int:
        """Quotient of numbers that are not negative."""
        return self if _is(other, 1) else self._with("udiv i64 {}, {}", operator.floordiv, other)

    def __mod__(self, other: int | Int) -> Int:
        """Remainder of numbers that are not negative."""
        return self._with("urem i64 {}, {}", operator.mod, other)

    def _compared(self, relation: str, other: int | Int) -> Bool:
        return Bool(self.block, self.block.value(f"icmp {relation} i64 {self.value}, {self.block.whole(other).value}"))

    def __lt__(self, other: int | Int) -> Bool:
        return self._compared("slt", other)

    def __le__(self, other: int | Int) -> Bool:
        return self._compared("sle", other)

    def __gt__(self, other: int | Int) -> Bool:
        return self._compared("sgt", other)

    def __ge__(self, other: int | Int) -> Bool:
        return self._compared("sge", other)

    def equals(self, other: int | Int) -> Bool:
        return self._compared("eq", other)

    def is_index_of(self, length: Int) -> Bool:
        """0 <= self < length, in one comparison."""
        return self._compared("ult", length)


def least(a: Int, b: int | Int) -> Int:
    return _extreme("smin", min, a, b)


def greatest(a: Int, b: int | Int) -> Int:
    return _extreme("smax", max, a, b)


def _extreme(name: str, fold: Callable[[int, int], int], a: Int, b: int | Int) -> Int:
    function = a.block.module.intrinsic(f"llvm.{name}.i64", "i64", ("i64", "i64"))
    return a._with(f"call i64 {function}(i64 {{}}, i64 {{}})", fold, b)


def ceil_div(a: Int, b: int | Int) -> Int:
    """ceil(a / b) for a >= 0, b > 0."""
    return (a + (b - 1)) // b


Value = TypeVar("Value", "Int", "Ptr", "Vec")


def select(condition: Bool, yes: Value, no: Value) -> Value:
    value = f"select {condition.kind} {condition.value}, {yes.kind} {yes.value}, {no.kind} {no.value}"
    return yes.like(yes.block.value(value))


class Ptr:
    """A pointer to float32; offsets are in elements."""

    __slots__ = ("block", "value")
    kind: ClassVar[str] = "ptr"

    def __init__(self, block: Block, value: str) -> None:
        self.block = block
        self.value = value

    def like(self, value: str) -> Ptr:
        return Ptr(self.block, value)

    def __add__(self, elements: int | Int) -> Ptr:
        if _is(elements, 0):
            return self
        offset = elements.value if isinstance(elements, Int) else elements
        return self.like(self.block.value(f"getelementptr float, ptr {self.value}, i64 {offset}"))

    def __sub__(self, elements: Int) -> Ptr:
        return self + (0 - elements)

    def anew(self) -> Ptr:
        """The same address, of which LLVM knows nothing: what was read there before is read again, and not kept."""
        return self.like(self.block.value(f'call ptr asm sideeffect "", "=r,0"(ptr {self.value})'))

    def load(self, lanes: int) -> Vec:
        value = self.block.value(f"load {_vector(lanes)}, ptr {self.value}, align {FLOAT_BYTES}")
        return Vec(self.block, value, lanes)

    def load_one(self) -> str:
        """The number here, to be put into a vector."""
        return self.block.value(f"load float, ptr {self.value}, align {FLOAT_BYTES}")

    def load_where(self, inside: Sequence[bool]) -> Vec:
        """A lane for each of `inside`: where that is true what lies there, which alone is read, and else zero."""
        lanes = len(inside)
        if all(inside):
            return self.load(lanes)
        kind, mask = _vector(lanes), f"<{lanes} x i1>"
        load = self.block.module.intrinsic(f"llvm.masked.load.v{lanes}f32.p0", kind, ("ptr", "i32", mask, kind))
        lanes_inside = ", ".join(f"i1 {int(is_inside)}" for is_inside in inside)
        arguments = f"ptr {self.value}, i32 {FLOAT_BYTES}, {mask} <{lanes_inside}>, {kind} zeroinitializer"
        return Vec(self.block, self.block.value(f"call {kind} {load}({arguments})"), lanes)

    def prefetch(self, level: Literal[1, 2]) -> None:
        """Ask for the cache line at this address, which may lie anywhere, to come to L1 or L2."""
        prefetch = self.block.module.intrinsic("llvm.prefetch.p0", "void", ("ptr", "i32", "i32", "i32"))
        for_reading, locality, of_data = 0, 4 - level, 1
        self.block.write(f"call void {prefetch}(ptr {self.value}, i32 {for_reading}, i32 {locality}, i32 {of_data})")

    def store(self, vector: Vec) -> None:
        self.block.write(f"store {vector.kind} {vector.value}, ptr {self.value}, align {FLOAT_BYTES}")


class Vec:
    """A vector of float32, one lane or more."""

    __slots__ = ("block", "lanes", "value")

    def __init__(self, block: Block, value: str, lanes: int) -> None:
        self.block = block
        self.value = value
        self.lanes = lanes

    @property
    def kind(self) -> str:
        return _vector(self.lanes)

    def like(self, value: str) -> Vec:
        return Vec(self.block, value, self.lanes)

    def _with(self, instruction: str, other: float | Vec) -> Vec:
        right = self._constant_or(other)
        return self.like(self.block.value(f"{instruction} {self.kind} {self.value}, {right.value}"))

    def _constant_or(self, other: float | Vec) -> Vec:
        return other if isinstance(other, Vec) else self.block.constant(other, self.lanes)

    def __add__(self, other: float | Vec) -> Vec:
        return self._with("fadd", other)

    def __sub__(self, other: float | Vec) -> Vec:
        return self._with("fsub", other)

    def __rsub__(self, other: float) -> Vec:
        return self._constant_or(other) - self

    def __mul__(self, other: float | Vec) -> Vec:
        return self._with("fmul", other)

    def __truediv__(self, other: float | Vec) -> Vec:
        return self._with("fdiv", other)

    def __rtruediv__(self, other: float) -> Vec:
        return self._constant_or(other) / self

    def __neg__(self) -> Vec:
        return self.like(self.block.value(f"fneg {self.kind} {self.value}"))

    def fma(self, factor: float | Vec, term: float | Vec) -> Vec:
        """One rounding of self · factor + term."""
        return self._intrinsic("fma", self, self._constant_or(factor), self._constant_or(term))

    def below(self, other: float | Vec) -> Bool:
        """Lane by lane self < other; false where either is NaN."""
        return self._compared("olt", other)

    def above(self, other: float | Vec) -> Bool:
        """Lane by lane self > other; false where either is NaN."""
        return self._compared("ogt", other)

    def _compared(self, relation: str, other: float | Vec) -> Bool:
        return Bool(self.block, self._with(f"fcmp {relation}", other).value, f"<{self.lanes} x i1>")

    def at_least(self, bound: float) -> Vec:
        """The greater of each lane and `bound`; NaN stays NaN."""
        return select(self.below(bound), self._constant_or(bound), self)

    def at_most(self, bound: float) -> Vec:
        """The lesser of each lane and `bound`; NaN stays NaN."""
        return select(self.above(bound), self._constant_or(bound), self)

    def is_nan(self) -> Bool:
        """Of each lane."""
        return self._compared("uno", self)

    def magnitude(self) -> Vec:
        return self._intrinsic("fabs", self)

    def low_bits_as_exponent(self) -> Vec:
        """2^(b - 127) where the nine lowest bits of self hold b in [1, 254]; infinity where they hold 255."""
        value, bits = self.block.value, f"<{self.lanes} x i32>"
        low = value(f"bitcast {self.kind} {self.value} to {bits}")
        shifted = value(f"shl {bits} {low}, {_integers([23] * self.lanes)}")
        return self.like(value(f"bitcast {bits} {shifted} to {self.kind}"))

    def permuted(self, lanes: Sequence[int]) -> Vec:
        """Lane `lanes[l]` of self in lane l."""
        return self.merged(self, lanes)

    def merged(self, other: Vec, lanes: Sequence[int]) -> Vec:
        """Lane `lanes[l]` of self and other joined, in lane l."""
        mask = f"<{len(lanes)} x i32> {_integers(lanes)}"
        value = f"shufflevector {self.kind} {self.value}, {other.kind} {other.value}, {mask}"
        return Vec(self.block, self.block.value(value), len(lanes))

    def _intrinsic(self, name: str, *operands: Vec) -> Vec:
        kind = self.kind
        function = self.block.module.intrinsic(f"llvm.{name}.v{self.lanes}f32", kind, [kind] * len(operands))
        arguments = ", ".join(f"{kind} {operand.value}" for operand in operands)
        return self.like(self.block.value(f"call {kind} {function}({arguments})"))


def _vector(lanes: int) -> str:
    return f"<{lanes} x float>"


def _integers(values: Sequence[int]) -> str:
    return f"<{', '.join(f'i32 {value}' for value in values)}>"


def _hexadecimal(value: float) -> str:
    """A float32 as IR has it: the bits of the same number in float64; what is beyond its range is infinite, as in C."""
    return f"0x{struct.pack('>d', ctypes.c_float(value).value).hex()}"


def _is(value: int | Int, constant: int) -> bool:
    return (value.value if isinstance(value, Int) else value) == constant
