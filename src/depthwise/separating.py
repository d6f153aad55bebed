"""The command `depthwise separate`: from a model and its samples by name to separated weights, a report and timings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape as markup
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors.torch import save_model
from torch import nn

from .demo.network import OnEager
from .errors import DepthwiseError
from .files import check_writable, write_text, writing
from .loading import called, load_model, load_object
from .measure.turns import Effort, take_turns
from .separate import Separation, separate_
from .separate.calibration import Batch, batches_of, device_of
from .separate.checks import check_callable
from .separate.page import document
from .separate.progress import steps_on
from .separate.selection import chosen_by

# The model and the samples where none are named.
DEMO = ("depthwise.demo.defaults:dense_network", "depthwise.demo.defaults:samples")

EFFORT = Effort(rounds=20, sample_seconds=0.02, limit_seconds=15)
QUICK = Effort(rounds=2, sample_seconds=0, limit_seconds=0)


@dataclass(frozen=True, slots=True)
class Separated:
    """What the command did; `milliseconds` of one calibration batch, the median, by network.

    batch: samples of the timed batch
    """

    report: Separation
    parameters_before: int
    parameters_after: int
    milliseconds: Mapping[str, float]
    batch: int
    files: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"report": self.report.to_dict(), "files": list(self.files)}

    def first(self) -> list[str]:
        """What is to be known before anything else: that it did not pay."""
        dense, separable = (self.milliseconds[name] for name in ("dense", "separable"))
        if separable <= dense:
            return []
        return [
            f"slower here than the dense network: {separable:.2f} ms for a batch of {self.batch}, {dense:.2f} dense"
        ]

    def lines(self) -> list[str]:
        """Before and after, in sentences."""
        times = ", ".join(f"{name} {value:.2f} ms" for name, value in self.milliseconds.items())
        return [
            f"parameters: {self.parameters_before:,} before, {self.parameters_after:,} after",
            f"a batch of {self.batch}, {torch.get_num_threads()} threads: {times}",
        ]


def run(
    console: Console,
    model_name: str,
    calibration_name: str,
    *,
    budget: float | None,
    max_error: float | None,
    exclude: tuple[str, ...] = (),
    adapter_name: str | None = None,
    out: Path | None = None,
    page: Path | None = None,
    effort: Effort | None = None,
    weights: Path | None = None,
) -> Separated:
    """Load, separate, time, write; progress goes to `console`."""
    _check_files(out, page)
    effort = effort or EFFORT
    with _progress(console) as progress:
        loading = progress.add_task(f"load {model_name}", total=None)
        model = load_model(model_name, weights).eval()
        found = load_object(calibration_name)
        calibration = called(found, calibration_name) if callable(found) else found
        progress.update(loading, completed=1, total=1)
        excluded = chosen_by(model, exclude, "--exclude") if exclude else None
        make_input = None
        if adapter_name is not None:
            make_input = load_object(adapter_name)
            check_callable(make_input, f"--adapter {adapter_name}")
        dense = deepcopy(model)
        with _notes(console):
            batches = batches_of(calibration, make_input, device_of(model))
            report = separate_(
                model,
                [(batch.args,) if batch.args else dict(batch.kwargs) for batch in batches],
                budget=budget,
                max_error=max_error,
                where=None if excluded is None else lambda *layer: not excluded(*layer),
                on_step=steps_on(progress),
                progress=False,
            )
        timed = progress.add_task("time", total=effort.rounds)
        milliseconds = _times(dense, model, batches[0], effort, lambda: progress.advance(timed))
    done = Separated(
        report=report,
        parameters_before=sum(parameter.numel() for parameter in dense.parameters()),
        parameters_after=sum(parameter.numel() for parameter in model.parameters()),
        milliseconds=milliseconds,
        batch=batches[0].samples,
        files=tuple(str(path) for path in (out, out and beside(out), page) if path is not None),
    )
    if out is not None:
        with writing(out):
            _save(model, out)
        report.save(beside(out))
    if page is not None:
        more, first = ("".join(f"<p>{escape(line)}</p>" for line in each) for each in (done.lines(), done.first()))
        write_text(page, document(report, more, first))
    return done


def beside(out: Path) -> Path:
    """Where the report of the weights in `out` goes."""
    return out.with_suffix(".json")


def _times(
    dense: nn.Module, model: nn.Module, batch: Batch, effort: Effort, on_round: Callable[[], object]
) -> dict[str, float]:
    """Milliseconds of the same batch in turn: dense, separable on PyTorch's operators, separable."""
    networks = {"dense": dense, "separable on PyTorch's operators": OnEager(model), "separable": model}

    def call(network: nn.Module) -> Callable[[], Any]:
        return lambda: network(*batch.args, **batch.kwargs)

    with torch.inference_mode():
        samples = take_turns({(name, ""): call(network) for name, network in networks.items()}, effort, on_round)
    return {name: 1000 * median(taken) for (name, _), taken in samples.items()}


@contextmanager
def _notes(console: Console) -> Iterator[None]:
    """What is warned of meanwhile goes to `console`."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    for one in said:
        console.print(f"note: {markup(str(one.message))}", highlight=False, soft_wrap=True)


def _check_files(out: Path | None, page: Path | None) -> None:
    """Raise where something cannot be written, before any work."""
    for path in (out, page):
        if path is not None:
            check_writable(path)
    if out is None:
        return
    if out.suffix not in (".safetensors", ".pt", ".pth"):
        raise DepthwiseError(f"the weights go to a file ending in .safetensors, .pt or .pth; got {out}")
    if page == beside(out):
        raise DepthwiseError(f"{page} is where the report beside the weights goes; give the page another name")
    check_writable(beside(out))


def _save(model: nn.Module, out: Path) -> None:
    if out.suffix == ".safetensors":
        save_model(model, str(out))
    else:
        torch.save(model.state_dict(), out)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)
