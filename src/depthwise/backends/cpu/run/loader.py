"""An object file of ours to addresses, without LLVM.

    pages = memory for all sections that have a place in memory
    for section in these:                  copy it there, at a multiple of its alignment
    for place, symbol in relocations:      write the distance from the place to the symbol
    pages: no longer writable, executable

Only what LLVM writes for our kernels under Linux on x86-64 is known: code and constants, which name each other by their
distance. Of everything else `loaded` says that it is not for it, and LLVM links that. A file that names what is not in
it was cut short, or written over.
Format: System V ABI, "Object Files", and its supplement for AMD64, "Relocation".
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from .code import Code
from .executable import protect

_HEADER = b"\x7fELF\x02\x01"
_RELOCATABLE, _X86_64 = 1, 62
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
# Kinds of sections, and the flags of those that have a place in memory and of those that are written to.
_PROGRAM, _SYMBOLS, _RELOCATIONS, _UNWINDING = 1, 2, 4, 0x70000001
_ALLOCATED, _WRITABLE = 2, 1
_FUNCTION = 2
# Kinds of relocations, all of 32 bits: a distance, and one to a function, which is the same within a module.
_DISTANCES = (2, 4)
_INT32 = struct.Struct("<i")


class DamagedError(Exception):
    """An object file names bytes, sections or symbols that are not in it."""


class Loaded(Code):
    """Machine code in pages of its own, which go with this object.

    functions: the address of each
    """

    def __init__(self, pages: mmap.mmap, functions: dict[str, int]) -> None:
        self._pages = pages
        self._functions = functions

    def find(self, symbol: str) -> int:
        return self._functions.get(symbol, 0)


@dataclass(frozen=True, slots=True)
class _Section:
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_bytes: int

    @property
    def is_placed(self) -> bool:
        return bool(self.flags & _ALLOCATED) and self.kind != _UNWINDING

    @property
    def is_constant(self) -> bool:
        """Whether it is in the file as it will be in memory."""
        return self.kind == _PROGRAM and not self.flags & _WRITABLE

    def content(self, file: bytes) -> bytes:
        found = file[self.offset : self.offset + self.size]
        if len(found) < self.size:
            raise DamagedError(f"the object file is damaged: a section of {self.size} bytes has {len(found)}")
        return found


def loaded(file: bytes) -> Loaded | None:
    """The code of an object file; None where that has anything that is not known here. Raises DamagedError."""
    try:
        return _loaded(file)
    except (struct.error, IndexError, ValueError) as error:
        raise DamagedError(f"the object file is damaged: {error}") from error


def _loaded(file: bytes) -> Loaded | None:
    if sys.platform != "linux" or not file.startswith(_HEADER) or struct.unpack_from("<HH", file, 16) != (1, _X86_64):
        return None
    sections = _sections(file)
    symbols = [section for section in sections if section.kind == _SYMBOLS]
    placed = {number: section for number, section in enumerate(sections) if section.is_placed}
    if len(symbols) != 1 or not all(section.is_constant for section in placed.values()):
        return None
    places, size = _places(placed)
    content = bytearray(size)
    for number, section in placed.items():
        content[places[number] : places[number] + section.size] = section.content(file)
    table = list(_SYMBOL.iter_unpack(symbols[0].content(file)))
    for section in sections:
        if section.kind == _RELOCATIONS and section.info in placed:
            for at, information, addend in _RELOCATION.iter_unpack(section.content(file)):
                _, _, _, home, value, _ = table[information >> 32]
                if information & 0xFFFFFFFF not in _DISTANCES or home not in places:
                    return None
                place = places[section.info] + at
                _INT32.pack_into(content, place, places[home] + value + addend - place)
    names = sections[symbols[0].link].content(file)
    functions = dict(_functions(table, names, places))
    return _mapped(bytes(content), functions)


def _sections(file: bytes) -> list[_Section]:
    (start,) = struct.unpack_from("<Q", file, 40)
    (count,) = struct.unpack_from("<H", file, 60)
    return [_Section(*_SECTION.unpack_from(file, start + number * _SECTION.size)) for number in range(count)]


def _places(placed: dict[int, _Section]) -> tuple[dict[int, int], int]:
    """Where each section begins, and where the last one ends."""
    places, end = {}, 0
    for number, section in placed.items():
        alignment = max(section.alignment, 1)
        places[number] = -(-end // alignment) * alignment
        end = places[number] + section.size
    return places, end


def _functions(table: list[tuple[int, ...]], names: bytes, places: dict[int, int]) -> Iterator[tuple[str, int]]:
    for name, information, _, home, value, _ in table:
        if information & 0xF == _FUNCTION and home in places:
            yield names[name : names.index(b"\0", name)].decode(), places[home] + value


def _mapped(content: bytes, functions: dict[str, int]) -> Loaded | None:
    """The code where it can run; None where the system refuses."""
    pages = mmap.mmap(-1, max(len(content), 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages[: len(content)] = content
    if protect(pages):
        return None
    # The view goes at once: pages that something looks at cannot be given back.
    start = _address(pages)
    return Loaded(pages, {name: start + offset for name, offset in functions.items()})


def _address(pages: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(pages))
