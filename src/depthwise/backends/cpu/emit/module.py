"""A module of LLVM's IR: functions, and the constants and declarations that they share."""

from __future__ import annotations

from collections.abc import Sequence


class Module:
    """What functions share: constants, and the intrinsics that they call."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.functions: list[str] = []
        self._globals: dict[str, str] = {}

    def constant(self, name: str, kind: str, value: str) -> str:
        """The address of a constant in memory."""
        self._globals.setdefault(name, f'@"{name}" = private constant {kind} {value}')
        return f'@"{name}"'

    def intrinsic(self, name: str, result: str, parameters: Sequence[str]) -> str:
        self._globals.setdefault(name, f"declare {result} @{name}({', '.join(parameters)})")
        return f"@{name}"

    def __str__(self) -> str:
        return "\n".join([f'source_filename = "{self.name}"', *self._globals.values(), *self.functions, ""])
