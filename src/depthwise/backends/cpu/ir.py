"""The small vocabulary in which the emitters write: integers, pointers, vectors, loops.

Phi nodes and branches live only here, and nothing else imports llvmlite.ir. Python's operators stand for instructions;
an `int` or a `float` beside them is a constant in the code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from llvmlite import ir

from .machine import FLOAT_BYTES

I64 = ir.IntType(64)
I32 = ir.IntType(32)
F32 = ir.FloatType()
POINTER = ir.PointerType()


Case = TypeVar("Case")


class Block:
    """A function being written. Its slots, cells of 8 bytes, are pointers and numbers that the caller fills."""

    def __init__(self, module: ir.Module, function: ir.Function, slots: Sequence[str]) -> None:
        self.module = module
        self.function = function
        self.slots = {name: index for index, name in enumerate(slots)}
        # Slots are read once, in a block of their own before everything else.
        self._entry = ir.IRBuilder(function.append_basic_block("entry"))
        self._read: dict[str, Any] = {}
        self._constants: dict[tuple[ir.Block, str, int], Vec] = {}
        self.builder = ir.IRBuilder(function.append_basic_block("start"))

    def close(self) -> None:
        """End the function."""
        self.builder.ret_void()
        self._entry.branch(self.function.basic_blocks[1])

    def argument(self, index: int) -> Int:
        return Int(self, self.function.args[index])

    def number(self, name: str) -> Int:
        """The integer in the slot of this name."""
        return Int(self, self._slot(name, I64))

    def pointer(self, name: str) -> Ptr:
        """The pointer to float32 in the slot of this name."""
        return Ptr(self, self._slot(name, POINTER))

    def call_runtime(self, name: str, result: ir.Type, *arguments: Any) -> Any:
        """What the function in the slot of this name returns."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.builder.call(self._slot(name, kind.as_pointer()), arguments)

    def _slot(self, name: str, kind: ir.Type) -> Any:
        value = self._read.get(name)
        if value is None:
            index = ir.Constant(I64, self.slots[name])
            cell = self._entry.gep(self.function.args[0], [index], source_etype=POINTER)
            value = self._read[name] = self._entry.load(cell, typ=kind)
        return value

    def whole(self, value: int | Int) -> Int:
        return value if isinstance(value, Int) else Int(self, ir.Constant(I64, value))

    def zeros(self, lanes: int) -> Ptr:
        """A constant row of zeros to read from."""
        name = f"zeros{lanes}"
        if name not in self.module.globals:
            zeros = ir.GlobalVariable(self.module, ir.ArrayType(F32, lanes), name)
            zeros.initializer = ir.Constant(ir.ArrayType(F32, lanes), None)
            zeros.global_constant = True
            zeros.linkage = "private"
        return Ptr(self, self.module.globals[name])

    @contextmanager
    def loop(
        self, start: int | Int, stop: int | Int, step: int | Int = 1, carried: Sequence[Vec] = ()
    ) -> Iterator[Loop]:
        """`for index in range(start, stop, step)`; `carried` vectors go from turn to turn.

        The body replaces `.values`; they are the last turn's once the loop is left, or `carried` where there was none.
        """
        b = self.builder
        before = b.block
        start, stop = self.whole(start), self.whole(stop)
        head, body, after = (self.function.append_basic_block(name) for name in ("head", "body", "after"))
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(I64)
        phis = [b.phi(vector.value.type) for vector in carried]
        index.add_incoming(start.value, before)
        for phi, vector in zip(phis, carried, strict=True):
            phi.add_incoming(vector.value, before)
        b.cbranch(b.icmp_signed("<", index, stop.value), body, after)
        b.position_at_end(body)
        heads = [Vec(self, phi) for phi in phis]
        loop = Loop(Int(self, index), list(heads))
        yield loop
        index.add_incoming((loop.index + step).value, b.block)
        for phi, value in zip(phis, loop.values, strict=True):
            phi.add_incoming(value.value, b.block)
        b.branch(head)
        b.position_at_end(after)
        loop.values = heads

    @contextmanager
    def when(self, condition: Bool) -> Iterator[None]:
        with self.builder.if_then(condition.value):
            yield

    @contextmanager
    def either(self, condition: Bool) -> Iterator[tuple[Any, Any]]:
        """Two blocks, of which one runs: `with e.either(condition) as (yes, no)`, then `with yes:` and `with no:`."""
        with self.builder.if_else(condition.value) as branches:
            yield branches

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
        vector = ir.Constant(_vector(len(offsets)), ir.Undefined)
        for lane, offset in enumerate(offsets):
            scalar = self.builder.load((base + offset).value, typ=F32, align=FLOAT_BYTES)
            vector = self.builder.insert_element(vector, scalar, ir.Constant(I32, lane))
        return Vec(self, vector)

    def splat(self, pointer: Ptr, lanes: int) -> Vec:
        """The number at `pointer` in every lane."""
        return Vec(self, _splat(self.builder, self.builder.load(pointer.value, typ=F32, align=FLOAT_BYTES), lanes))

    def constant(self, value: float, lanes: int) -> Vec:
        """`value` in every lane."""
        key = self.builder.block, repr(value), lanes
        if key not in self._constants:
            # Behind an address that LLVM knows nothing of: it would read constants once, ahead of every loop, and keep
            # the sums of the loops inside in memory rather than in the registers that they then lack.
            hidden = ir.FunctionType(POINTER, [POINTER])
            address = self.builder.asm(hidden, "", "=r,0", [self._number(float(value))], side_effect=True)
            self._constants[key] = self.splat(Ptr(self, address), lanes)
        return self._constants[key]

    def _number(self, value: float) -> ir.GlobalVariable:
        name = f"number{value!r}"
        found = self.module.globals.get(name)
        if found is None:
            found = ir.GlobalVariable(self.module, F32, name)
            found.initializer = ir.Constant(F32, value)
            found.global_constant = True
            found.linkage = "private"
        return found


@dataclass
class Loop:
    index: Int
    values: list[Vec]


@dataclass(frozen=True, slots=True)
class Bool:
    block: Block
    value: Any

    def __and__(self, other: Bool) -> Bool:
        return Bool(self.block, self.block.builder.and_(self.value, other.value))

    def __or__(self, other: Bool) -> Bool:
        return Bool(self.block, self.block.builder.or_(self.value, other.value))

    def pick(self, yes: int | Int, no: int | Int) -> Int:
        return select(self, self.block.whole(yes), self.block.whole(no))


class Int:
    """A 64-bit integer."""

    __slots__ = ("block", "value")

    def __init__(self, block: Block, value: Any) -> None:
        self.block = block
        self.value = value

    def _with(self, operation: str, other: int | Int, *, swapped: bool = False) -> Int:
        left, right = self, self.block.whole(other)
        if swapped:
            left, right = right, left
        return Int(self.block, getattr(self.block.builder, operation)(left.value, right.value))

    def __add__(self, other: int | Int) -> Int:
        return self if _is(other, 0) else self._with("add", other)

    def __radd__(self, other: int) -> Int:
        return self + other

    def __sub__(self, other: int | Int) -> Int:
        return self if _is(other, 0) else self._with("sub", other)

    def __rsub__(self, other: int) -> Int:
        return self._with("sub", other, swapped=True)

    def __mul__(self, other: int | Int) -> Int:
        return self if _is(other, 1) else self._with("mul", other)

    def __rmul__(self, other: int) -> Int:
        return self * other

    def __floordiv__(self, other: int | Int) -> Int:
        """Quotient of numbers that are not negative."""
        return self if _is(other, 1) else self._with("udiv", other)

    def __mod__(self, other: int | Int) -> Int:
        """Remainder of numbers that are not negative."""
        return self._with("urem", other)

    def _compared(self, relation: str, other: int | Int) -> Bool:
        return Bool(self.block, self.block.builder.icmp_signed(relation, self.value, self.block.whole(other).value))

    def __lt__(self, other: int | Int) -> Bool:
        return self._compared("<", other)

    def __le__(self, other: int | Int) -> Bool:
        return self._compared("<=", other)

    def __gt__(self, other: int | Int) -> Bool:
        return self._compared(">", other)

    def __ge__(self, other: int | Int) -> Bool:
        return self._compared(">=", other)

    def equals(self, other: int | Int) -> Bool:
        return self._compared("==", other)

    def is_index_of(self, length: Int) -> Bool:
        """0 <= self < length, in one comparison."""
        return Bool(self.block, self.block.builder.icmp_unsigned("<", self.value, length.value))


def least(a: Int, b: int | Int) -> Int:
    return (a < b).pick(a, b)


def greatest(a: Int, b: int | Int) -> Int:
    return (a > b).pick(a, b)


def ceil_div(a: Int, b: int | Int) -> Int:
    """ceil(a / b) for a >= 0, b > 0."""
    return (a + (b - 1)) // b


Value = TypeVar("Value", "Int", "Ptr", "Vec")


def select(condition: Bool, yes: Value, no: Value) -> Value:
    return type(yes)(yes.block, yes.block.builder.select(condition.value, yes.value, no.value))


class Ptr:
    """A pointer to float32; offsets are in elements."""

    __slots__ = ("block", "value")

    def __init__(self, block: Block, value: Any) -> None:
        self.block = block
        self.value = value

    def __add__(self, elements: int | Int) -> Ptr:
        if _is(elements, 0):
            return self
        offset = self.block.whole(elements).value
        return Ptr(self.block, self.block.builder.gep(self.value, [offset], source_etype=F32))

    def __sub__(self, elements: Int) -> Ptr:
        return self + (0 - elements)

    def load(self, lanes: int) -> Vec:
        return Vec(self.block, self.block.builder.load(self.value, typ=_vector(lanes), align=FLOAT_BYTES))

    def load_where(self, inside: Sequence[bool]) -> Vec:
        """A lane for each of `inside`: where that is true what lies there, which alone is read, and else zero."""
        lanes = len(inside)
        if all(inside):
            return self.load(lanes)
        name, kind = f"llvm.masked.load.v{lanes}f32.p0", _vector(lanes)
        mask = ir.VectorType(ir.IntType(1), lanes)
        function = self.block.module.globals.get(name)
        if function is None:
            function = ir.Function(self.block.module, ir.FunctionType(kind, [POINTER, I32, mask, kind]), name)
        align, nothing = ir.Constant(I32, FLOAT_BYTES), ir.Constant(kind, None)
        arguments = [self.value, align, ir.Constant(mask, list(inside)), nothing]
        return Vec(self.block, self.block.builder.call(function, arguments))

    def prefetch(self, level: Literal[1, 2]) -> None:
        """Ask for the cache line at this address, which may lie anywhere, to come to L1 or L2."""
        function = self.block.module.globals.get("llvm.prefetch.p0")
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [POINTER, I32, I32, I32])
            function = ir.Function(self.block.module, kind, "llvm.prefetch.p0")
        for_reading, locality, of_data = (ir.Constant(I32, number) for number in (0, 4 - level, 1))
        self.block.builder.call(function, [self.value, for_reading, locality, of_data])

    def store(self, vector: Vec) -> None:
        self.block.builder.store(vector.value, self.value, align=FLOAT_BYTES)


class Vec:
    """A vector of float32, one lane or more."""

    __slots__ = ("block", "value")

    def __init__(self, block: Block, value: Any) -> None:
        self.block = block
        self.value = value

    @property
    def lanes(self) -> int:
        return int(self.value.type.count)

    def _with(self, operation: str, other: float | Vec, *, swapped: bool = False) -> Vec:
        left, right = self, self._like(other)
        if swapped:
            left, right = right, left
        return Vec(self.block, getattr(self.block.builder, operation)(left.value, right.value))

    def _like(self, other: float | Vec) -> Vec:
        return other if isinstance(other, Vec) else self.block.constant(other, self.lanes)

    def __add__(self, other: float | Vec) -> Vec:
        return self._with("fadd", other)

    def __sub__(self, other: float | Vec) -> Vec:
        return self._with("fsub", other)

    def __rsub__(self, other: float) -> Vec:
        return self._with("fsub", other, swapped=True)

    def __mul__(self, other: float | Vec) -> Vec:
        return self._with("fmul", other)

    def __truediv__(self, other: float | Vec) -> Vec:
        return self._with("fdiv", other)

    def __rtruediv__(self, other: float) -> Vec:
        return self._with("fdiv", other, swapped=True)

    def __neg__(self) -> Vec:
        return Vec(self.block, self.block.builder.fneg(self.value))

    def fma(self, factor: float | Vec, term: float | Vec) -> Vec:
        """One rounding of self · factor + term."""
        operands = [self, self._like(factor), self._like(term)]
        return self._intrinsic("fma", *operands)

    def below(self, other: float | Vec) -> Bool:
        """Lane by lane self < other; false where either is NaN."""
        return self._compared("<", other)

    def above(self, other: float | Vec) -> Bool:
        """Lane by lane self > other; false where either is NaN."""
        return self._compared(">", other)

    def _compared(self, relation: Literal["<", ">"], other: float | Vec) -> Bool:
        return Bool(self.block, self.block.builder.fcmp_ordered(relation, self.value, self._like(other).value))

    def at_least(self, bound: float) -> Vec:
        """The greater of each lane and `bound`; NaN stays NaN."""
        return select(self.below(bound), self._like(bound), self)

    def at_most(self, bound: float) -> Vec:
        """The lesser of each lane and `bound`; NaN stays NaN."""
        return select(self.above(bound), self._like(bound), self)

    def magnitude(self) -> Vec:
        return self._intrinsic("fabs", self)

    def low_bits_as_exponent(self) -> Vec:
        """2^(b - 127) where the nine lowest bits of self hold b in [1, 254]; infinity where they hold 255."""
        b, integers = self.block.builder, ir.VectorType(I32, self.lanes)
        shifted = b.shl(b.bitcast(self.value, integers), ir.Constant(integers, [23] * self.lanes))
        return Vec(self.block, b.bitcast(shifted, self.value.type))

    def permuted(self, lanes: Sequence[int]) -> Vec:
        """Lane `lanes[l]` of self in lane l."""
        return self.merged(self, lanes)

    def merged(self, other: Vec, lanes: Sequence[int]) -> Vec:
        """Lane `lanes[l]` of self and other joined, in lane l."""
        mask = ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
        return Vec(self.block, self.block.builder.shuffle_vector(self.value, other.value, mask))

    def _intrinsic(self, name: str, *operands: Vec) -> Vec:
        # llvmlite's own declare_intrinsic knows no vector types.
        full = f"llvm.{name}.v{self.lanes}f32"
        function = self.block.module.globals.get(full)
        if function is None:
            kind = ir.FunctionType(self.value.type, [self.value.type] * len(operands))
            function = ir.Function(self.block.module, kind, full)
        return Vec(self.block, self.block.builder.call(function, [operand.value for operand in operands]))


def _vector(lanes: int) -> ir.VectorType:
    return ir.VectorType(F32, lanes)


def _splat(builder: ir.IRBuilder, scalar: Any, lanes: int) -> Any:
    undefined = ir.Constant(_vector(lanes), ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, lanes), None))


def _is(value: int | Int, constant: int) -> bool:
    return not isinstance(value, Int) and value == constant


Stage = Callable[[Block, Int, Int], None]


def write_module(name: str, slots: Sequence[str], stages: Sequence[Stage]) -> str:
    """IR of a program: `serial(slots)` runs the stages one by one, `parallel(slots)` does so in a team of threads.

    Every stage is `void stage(ptr slots, i64 thread, i64 threads)`. The runtime's functions come in the first slots, so
    that a module names no symbol outside it, and after them the number of threads to ask for.
    """
    module = ir.Module(name)
    kind = ir.FunctionType(ir.VoidType(), [POINTER, I64, I64])
    functions = []
    for index, emit in enumerate(stages):
        function = ir.Function(module, kind, f"stage{index}")
        function.linkage = "internal"
        block = Block(module, function, slots)
        emit(block, block.argument(1), block.argument(2))
        block.close()
        functions.append(function)
    _write_serial(module, functions, slots)
    _write_parallel(module, functions, slots)
    return str(module)


RUNTIME_FUNCTIONS = ("omp_get_thread_num", "omp_get_num_threads", "GOMP_barrier", "GOMP_parallel")
RUNTIME_SLOTS = (*RUNTIME_FUNCTIONS, "threads")


def _write_serial(module: ir.Module, stages: Sequence[ir.Function], slots: Sequence[str]) -> None:
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER]), "serial")
    block = Block(module, function, slots)
    for stage in stages:
        block.builder.call(stage, [function.args[0], ir.Constant(I64, 0), ir.Constant(I64, 1)])
    block.close()


def _write_parallel(module: ir.Module, stages: Sequence[ir.Function], slots: Sequence[str]) -> None:
    kind = ir.FunctionType(ir.VoidType(), [POINTER])
    member = ir.Function(module, kind, "member")
    member.linkage = "internal"
    block = Block(module, member, slots)
    b = block.builder
    thread, threads = (b.sext(block.call_runtime(name, I32), I64) for name in RUNTIME_FUNCTIONS[:2])
    for index, stage in enumerate(stages):
        if index:
            block.call_runtime("GOMP_barrier", ir.VoidType())
        b.call(stage, [member.args[0], thread, threads])
    block.close()
    function = ir.Function(module, kind, "parallel")
    block = Block(module, function, slots)
    asked = block.builder.trunc(block.number("threads").value, I32)
    block.call_runtime("GOMP_parallel", ir.VoidType(), member, function.args[0], asked, ir.Constant(I32, 0))
    block.close()
