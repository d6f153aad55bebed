"""The demo from the first line to the last: the example, two trainings, one table, one page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from ..count import count
from ..doctor import machine_report, model_report
from ..errors import DepthwiseError
from ..layers import SeparableConv2d
from . import report
from .data import IMAGE_SIZE, Digits, check_extra, load_digits
from .example import arithmetic, example
from .multiplications import by_layer
from .network import OnEager, accuracy, dense_twin, steps_of, trained
from .results import DemoResult, NetworkResult, Timing
from .table import console_table
from .timing import Effort, time_networks

BATCH_SIZES = (1, 64)
CONV_CLASSES: dict[str, type[nn.Module]] = {"dense": nn.Conv2d, "separable": SeparableConv2d}


@dataclass(frozen=True, slots=True)
class Settings:
    """How much to do; `train_size` None means every digit."""

    train_size: int | None
    epochs: int
    effort: Effort


FULL = Settings(train_size=None, epochs=5, effort=Effort(rounds=50, sample_seconds=0.03, limit_seconds=15))
QUICK = Settings(train_size=256, epochs=1, effort=Effort(rounds=2, sample_seconds=0.002, limit_seconds=1))


def run(console: Console, report_path: Path, *, quick: bool = False) -> DemoResult:
    """Train, compare, print a table and write a page; `quick` takes every step, on too few digits to learn much."""
    check_extra()
    if not report_path.parent.is_dir():
        raise DepthwiseError(f"the report goes to {report_path}, and the folder {report_path.parent} does not exist")
    settings = QUICK if quick else FULL
    console.print(*arithmetic(example()), sep="\n", highlight=False)
    console.print()
    digits = load_digits().first(settings.train_size)
    with _progress(console) as progress:
        networks = _train(digits, settings, progress)
        timings = _time(networks, digits, settings, progress)
    result = _result(networks, timings, digits, settings, report_path)
    report.write(result, report_path)
    console.print()
    console.print(console_table(result))
    console.print(f"The page with the pictures: {report_path}", highlight=False, soft_wrap=True)
    return result


def _train(digits: Digits, settings: Settings, progress: Progress) -> dict[str, nn.Sequential]:
    steps = steps_of(digits, settings.epochs)
    return {
        name: trained(conv_class, digits, settings.epochs, _bar(progress, f"train the {name} network", steps))
        for name, conv_class in CONV_CLASSES.items()
    }


def _time(
    networks: dict[str, nn.Sequential], digits: Digits, settings: Settings, progress: Progress
) -> dict[int, dict[str, Timing]]:
    """Timings by batch size and network."""
    # The separable network must compute what its dense twin computes: another way to the same numbers.
    twin = dense_twin(networks["separable"])
    references = {"dense": networks["dense"], "separable": twin, "eager": twin}
    candidates = networks | {"eager": OnEager(networks["separable"])}
    timings = {}
    for size in BATCH_SIZES:
        bar = _bar(progress, f"time both in turn, batch {size}", settings.effort.rounds)
        timings[size] = time_networks(candidates, references, digits.test_images[:size], settings.effort, bar)
    return timings


def _result(
    networks: dict[str, nn.Sequential],
    timings: dict[int, dict[str, Timing]],
    digits: Digits,
    settings: Settings,
    report_path: Path,
) -> DemoResult:
    counts = {name: count(model, IMAGE_SIZE) for name, model in networks.items()}
    found = {
        name: NetworkResult(
            conv_class=CONV_CLASSES[name].__name__,
            accuracy=accuracy(model, digits.test_images, digits.test_labels),
            parameters=counts[name].total.parameters,
            multiplications=counts[name].total.multiplications,
            timings={size: timings[size][name] for size in BATCH_SIZES},
        )
        for name, model in networks.items()
    }
    return DemoResult(
        dense=found["dense"],
        separable=found["separable"],
        eager={size: timings[size]["eager"] for size in BATCH_SIZES},
        layers=by_layer(networks["dense"], counts["dense"], counts["separable"]),
        machine=machine_report(),
        ran_on=tuple(dict.fromkeys(row.reason for row in model_report(networks["separable"], IMAGE_SIZE))),
        date=datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        train_size=len(digits.train_labels),
        test_size=len(digits.test_labels),
        epochs=settings.epochs,
        report_path=report_path,
    )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def _bar(progress: Progress, description: str, total: int) -> Callable[[], None]:
    """A call that moves a new bar on by one."""
    task = progress.add_task(description, total=total)
    return lambda: progress.advance(task)
