"""The demo from the first line to the last: the example, one training, two separations, one table, one page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from ..count import Count, count
from ..doctor import machine_report, model_report
from ..files import check_writable
from ..measure.turns import Effort
from ..optimize.frozen import optimize
from . import report
from .data import IMAGE_SIZE, Digits, check_extra, load_digits
from .epochs import epochs
from .example import arithmetic, example
from .multiplications import by_layer
from .network import OnEager, accuracy, dense_twin, steps_of, trained
from .results import DemoResult, DenseResult, Epoch, SeparableResult, Timing
from .separation import Separated, separated
from .table import console_table
from .timing import time_networks

BATCH_SIZES = (1, 64)
BUDGETS = (0.3, 0.15)


@dataclass(frozen=True, slots=True)
class Settings:
    """How much to do; sizes of None mean every digit."""

    train_size: int | None
    test_size: int | None
    epochs: int
    calibration_size: int
    effort: Effort
    training_rounds: int


FULL = Settings(None, None, 5, 256, Effort(rounds=50, sample_seconds=0.03, limit_seconds=20), 5)
QUICK = Settings(256, 128, 1, 64, Effort(rounds=2, sample_seconds=0.002, limit_seconds=1), 1)


def run(console: Console, report_path: Path, *, quick: bool = False) -> DemoResult:
    """Train, separate, compare, print a table and write a page; `quick` takes every step, on too few digits."""
    check_extra()
    check_writable(report_path)
    settings = QUICK if quick else FULL
    console.print(*arithmetic(example()), sep="\n", highlight=False)
    console.print()
    digits = load_digits().first(settings.train_size, settings.test_size)
    with _progress(console) as progress:
        steps = steps_of(digits, settings.epochs)
        dense = trained(digits, settings.epochs, _bar(progress, "train the dense network", steps))
        found = {budget: _separate(dense, digits, budget, settings, progress) for budget in BUDGETS}
        timings = _time(dense, found, digits, settings, progress)
        training = _time_training(dense, found, digits, settings, progress)
    result = _result(dense, found, timings, training, digits, settings, report_path)
    report.write(result, report_path)
    console.print()
    console.print(console_table(result))
    console.print(f"The page with the pictures: {report_path}", highlight=False, soft_wrap=True)
    return result


def _separate(dense: nn.Module, digits: Digits, budget: float, settings: Settings, progress: Progress) -> Separated:
    layers = progress.add_task(f"separate it, budget {budget:.0%}", total=None)

    def on_layer(what: str, done: int, total: int) -> None:
        # Each layer is weighed, and then separated.
        progress.update(layers, completed=done + (total if what == "separate" else 0), total=2 * total)

    on_step = _bar(progress, "distill it for one epoch", steps_of(digits, 1))
    return separated(dense, digits, budget, settings.calibration_size, on_layer, on_step)


def _time(
    dense: nn.Module, found: Mapping[float, Separated], digits: Digits, settings: Settings, progress: Progress
) -> dict[int, dict[str, Timing]]:
    """Timings by batch size and network."""
    example = digits.test_images[:1]
    networks: dict[str, nn.Module] = {"dense": dense, "dense, optimized": optimize(dense, example)}
    references = dict.fromkeys(networks, dense)
    for budget, each in found.items():
        # The separable network must compute what its dense twin computes: another way to the same numbers.
        twin = dense_twin(each.network)
        ways = {
            _optimized(budget): optimize(each.network, example),
            _ours(budget): each.network,
            _eager(budget): OnEager(each.network),
        }
        networks |= ways
        references |= dict.fromkeys(ways, twin)
    timings = {}
    for size in BATCH_SIZES:
        bar = _bar(progress, f"time all in turn, batch {size}", settings.effort.rounds)
        timings[size] = time_networks(networks, references, digits.test_images[:size], settings.effort, bar)
    return timings


def _time_training(
    dense: nn.Module, found: Mapping[float, Separated], digits: Digits, settings: Settings, progress: Progress
) -> tuple[dict[str, Epoch], dict[str, Epoch]]:
    """Seconds of an epoch by network: of training it, and of distilling it."""
    bar = _bar(progress, "time a few steps of training", 2)
    separable = {_ours(budget): each.network for budget, each in found.items()}
    trained = epochs({"dense": dense, **separable}, digits, settings.training_rounds)
    bar()
    distilled = epochs(separable, digits, settings.training_rounds, teacher=dense)
    bar()
    return trained, distilled


def _result(
    dense: nn.Module,
    found: Mapping[float, Separated],
    timings: Mapping[int, Mapping[str, Timing]],
    training: tuple[Mapping[str, Epoch], Mapping[str, Epoch]],
    digits: Digits,
    settings: Settings,
    report_path: Path,
) -> DemoResult:
    def timed(name: str) -> dict[int, Timing]:
        return {size: timings[size][name] for size in BATCH_SIZES}

    def separable(budget: float, each: Separated, dense_count: Count) -> SeparableResult:
        counted = count(each.network, IMAGE_SIZE)
        return SeparableResult(
            budget=budget,
            report=each.report,
            accuracies=each.accuracies,
            parameters=counted.total.parameters,
            multiplications=counted.total.multiplications,
            layers=by_layer(dense, dense_count, counted),
            optimized=timed(_optimized(budget)),
            timings=timed(_ours(budget)),
            eager=timed(_eager(budget)),
            training=training[0][_ours(budget)],
            distilling=training[1][_ours(budget)],
        )

    counted = count(dense, IMAGE_SIZE)
    return DemoResult(
        dense=DenseResult(
            accuracy=accuracy(dense, digits.test_images, digits.test_labels),
            parameters=counted.total.parameters,
            multiplications=counted.total.multiplications,
            timings=timed("dense"),
            optimized=timed("dense, optimized"),
            training=training[0]["dense"],
        ),
        separable=tuple(separable(budget, each, counted) for budget, each in found.items()),
        machine=machine_report(),
        ran_on=_ran_on([each.network for each in found.values()]),
        date=datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        train_size=len(digits.train_labels),
        calibration_size=min(settings.calibration_size, len(digits.train_labels)),
        test_size=len(digits.test_labels),
        epochs=settings.epochs,
        report_path=report_path,
    )


def _ran_on(networks: list[nn.Module]) -> tuple[str, ...]:
    """Why what ran the separable layers did; convolutions that stay dense are not asked about."""
    rows = [row for network in networks for row in model_report(network, IMAGE_SIZE) if row.backend != "torch"]
    return tuple(dict.fromkeys(row.reason for row in rows))


def _ours(budget: float) -> str:
    return f"separable, budget {budget:.0%}"


def _optimized(budget: float) -> str:
    return f"{_ours(budget)}, optimized"


def _eager(budget: float) -> str:
    return f"{_ours(budget)}, on PyTorch's operators"


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def _bar(progress: Progress, description: str, total: int) -> Callable[[], None]:
    """A call that moves a new bar on by one."""
    task = progress.add_task(description, total=total)
    return lambda: progress.advance(task)
