"""What goes on, shown on a terminal or in a notebook, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .choosing import OnStep

if TYPE_CHECKING:
    from rich.progress import Progress


def steps_on(progress: Progress) -> OnStep:
    """A bar for each kind of step."""
    bars: dict[str, Any] = {}

    def step(what: str, done: int, total: int) -> None:
        if what not in bars:
            bars[what] = progress.add_task(f"{what} layers", total=total)
        progress.update(bars[what], completed=done)

    return step


@contextmanager
def shown_steps(on_step: OnStep, *, shown: bool) -> Iterator[OnStep]:
    """`on_step`, and bars beside it."""
    with _bars(shown=shown) as progress:
        steps = None if progress is None else steps_on(progress)

        def both(*step: Any) -> None:
            if steps is not None:
                steps(*step)
            on_step(*step)

        yield both


@contextmanager
def shown_count(what: str, total: int | None, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """The call that moves a bar on by so many of `total`."""
    with _bars(shown=shown) as progress:
        task = None if progress is None else progress.add_task(what, total=total)

        def advance(steps: int) -> None:
            if progress is not None and task is not None:
                progress.advance(task, steps)

        yield advance


@contextmanager
def _bars(*, shown: bool) -> Iterator[Progress | None]:
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress
