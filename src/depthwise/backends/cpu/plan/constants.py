"""What a kernel is made of: the constants of its loop nests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar


class Plan(ABC):
    """The constants of a loop nest: a dataclass."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    @abstractmethod
    def name(self) -> str:
        """What tells its code from that of other constants."""

    @property
    def packing(self) -> tuple[object, ...]:
        """What the order of its packed weights goes by; nothing, where it has none."""
        return ()
