"""The plan of what is done to each number alone, and how such work is cut."""

from __future__ import annotations

from dataclasses import dataclass

from ...pixels import OF_ROWS, Term
from ..machine import Machine
from .constants import Plan
from .cut import Cut
from .sizes import activation_name, lanes_below

# Fewer numbers are done before a team has met at a barrier.
FEWEST_SHARED = 1 << 14


@dataclass(frozen=True, slots=True)
class ElementwisePlan(Plan):
    """The constants of a loop over numbers.

    lanes:    of a vector
    channels: of a row, where a term has numbers for images or channels; else 0: rows do not matter
    """

    terms: tuple[Term, ...]
    lanes: int
    channels: int

    @property
    def name(self) -> str:
        rows = f"c{self.channels}_" if self.channels else ""
        return f"{rows}v{self.lanes}_{'_'.join(map(term_name, self.terms))}"


def term_name(term: Term) -> str:
    if term.operation == "activation":
        return activation_name(term.activation)
    if term.operation == "derivative":
        return f"derivative.{activation_name(term.activation)}.{term.operand}"
    return f"{term.operation}.{term.operand if term.reads else repr(term.value)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Elements(Cut):
    """Numbers are dealt out by cache lines."""

    elements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRows(Cut):
    """Rows are dealt out.

    all_rows:   of all images
    image_rows: of each
    """

    all_rows: int
    image_rows: int


def elementwise_plan(terms: tuple[Term, ...], channels: int, elements: int, machine: Machine) -> ElementwisePlan:
    by_rows = any(term.operand in OF_ROWS for term in terms)
    lanes = lanes_below(channels if by_rows else elements, machine.vector_lanes)
    return ElementwisePlan(terms, lanes, channels if by_rows else 0)


def shared_by(elements: int, tasks: int, threads: int) -> int:
    """Threads, of those there are, that are worth waiting for."""
    return min(threads, tasks) if elements >= FEWEST_SHARED else 1
