"""A report in JSON, field by field: each is of its type and in its range, or an error names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import DepthwiseError
from .checks import MOST, is_finite_number, shown


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one JSON object, which stands at `place` in the report."""

    content: dict[str, Any]
    place: str = ""

    def text(self, name: str, *choices: str) -> str:
        """A string, one of `choices` where there are any."""
        value = self._value(name)
        if not isinstance(value, str) or (choices and value not in choices):
            raise self._wrong(name, " or ".join(map(repr, choices)) or "a string")
        return value

    def whole(self, name: str, least: int) -> int:
        value = self._value(name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
            raise self._wrong(name, f"a whole number from {least}")
        return value

    def number(self, name: str) -> float:
        """A finite number of at least 0."""
        value = self._value(name)
        if not is_finite_number(value) or value < 0:
            raise self._wrong(name, "a finite number of at least 0")
        return float(value)

    def any_number(self, name: str) -> float:
        """A finite number."""
        value = self._value(name)
        if not is_finite_number(value):
            raise self._wrong(name, "a finite number")
        return float(value)

    def number_or_none(self, name: str) -> float | None:
        return None if self._value(name) is None else self.number(name)

    def share_or_none(self, name: str) -> float | None:
        """More than 0 and at most 1."""
        value = self.number_or_none(name)
        if value is not None and not 0 < value <= 1:
            raise self._wrong(name, "a share, more than 0 and at most 1, or null")
        return value

    def object(self, name: str) -> Fields:
        return _object(self._value(name), self._named(name))

    def objects(self, name: str) -> list[Fields]:
        return [_object(item, f"{self._named(name)}[{place}]") for place, item in enumerate(self._list(name))]

    def texts(self, name: str) -> tuple[str, ...]:
        found = self._list(name)
        if not all(isinstance(item, str) for item in found):
            raise self._wrong(name, "a list of strings")
        return tuple(found)

    def has_value(self, name: str) -> bool:
        """Whether a field that may be left out is there."""
        return self.content.get(name) is not None

    def _list(self, name: str) -> list[Any]:
        value = self._value(name)
        if not isinstance(value, list | tuple):
            raise self._wrong(name, "a list")
        return list(value)

    def _value(self, name: str) -> Any:
        if name not in self.content:
            raise DepthwiseError(f"the report of a separation is not whole: {self._named(name)} is missing")
        return self.content[name]

    def _named(self, name: str) -> str:
        return f"{self.place}.{name}" if self.place else name

    def _wrong(self, name: str, expected: str) -> DepthwiseError:
        return wrong(self._named(name), expected, self.content[name])


def _object(value: Any, place: str) -> Fields:
    if not isinstance(value, dict):
        raise wrong(place, "an object", value)
    return Fields(value, place)


def wrong(place: str, expected: str, value: object) -> DepthwiseError:
    """The error that says what stands at `place` and what should."""
    return DepthwiseError(f"{place} of the report is {shown(value)}; expected {expected}")
