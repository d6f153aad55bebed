"""The cells of the experiment, and a row for each: what is lost without training, and after an epoch of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.suite import commit
from depthwise import distill
from depthwise.doctor import cpu_name

from .data import Fashion
from .methods import BLUEPRINT, CP, METHODS, OURS, RANDOM
from .networks import NETWORKS
from .training import accuracy, augmented, load_dense, outputs, shuffled

BUDGETS = (0.5, 0.35, 0.2)
SEEDS = (0, 1, 2)
# Unlabelled images that are fitted to.
CALIBRATION = 512
DISTILL_BATCH = 256
# Chosen on held-out images: of 5,000 training images, distilled on the others, the VGG-like network at 0.20 gave 96.2 %
# the dense one's class at 1e-3, 96.7 at 3e-3, 95.8 at 1e-2; the ResNet-like one 96.5 and 97.0 at the first two.
DISTILL_RATE = 3e-3
# CP, four factors in a row, does not bear it (1.5 to 12 points lost): at 0.20, 3e-5 gave 96.8 and 94.3 % the dense
# network's class, 3e-4 96.5 and 95.6.
DISTILL_RATES = {CP: 3e-4}


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing to measure; `epochs` of distillation, 0 or 1; `seed` draws the samples, or new weights."""

    network: str
    budget: float
    method: str
    seed: int
    epochs: int


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a cell; accuracies in percent.

    share:        of the dense multiplications, over the layers with a choice
    output_error: of the logits on the test images, relative to the dense network's
    """

    cell: Cell
    share: float
    dense_accuracy: float
    accuracy: float
    output_error: float
    machine: str
    threads: int
    torch: str
    commit: str
    date: str

    @property
    def lost(self) -> float:
        """Points of accuracy."""
        return self.dense_accuracy - self.accuracy


def cells() -> Iterator[Cell]:
    """All of them, the cheap ones first, and one seed of each before the others."""
    for epochs in (0, 1):
        for seed in SEEDS:
            for network in NETWORKS:
                for method in METHODS:
                    # The baselines are run once; those with new weights know nothing without training.
                    if (seed > 0 and method != OURS) or (epochs == 0 and method in (RANDOM, BLUEPRINT)):
                        continue
                    for budget in BUDGETS:
                        yield Cell(network, budget, method, seed, epochs)


def read(path: Path) -> dict[Cell, Row]:
    """The rows that were written."""
    if not path.exists():
        return {}
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [Row(**{**content, "cell": Cell(**content["cell"])}) for content in found]
    return {row.cell: row for row in rows}


def append(row: Row, path: Path) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def measure(cell: Cell, fashion: Fashion, folder: Path) -> Row:
    dense, wanted = _dense(cell.network, fashion, folder)
    torch.manual_seed(cell.seed)
    samples = fashion.calibration(cell.seed, CALIBRATION)
    network, share = METHODS[cell.method](dense, samples, cell.budget, cell.seed)
    if cell.epochs:
        batches = Batches(fashion.train_images)
        distill(
            network,
            dense,
            batches,
            lr=DISTILL_RATES.get(cell.method, DISTILL_RATE),
            autocast=torch.bfloat16,
            progress=False,
        )
    given = outputs(network, fashion.test_images)
    return Row(
        cell=cell,
        share=share,
        dense_accuracy=accuracy(wanted, fashion.test_labels),
        accuracy=accuracy(given, fashion.test_labels),
        output_error=relative_error(given, wanted),
        machine=cpu_name(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        commit=str(commit()),
        date=datetime.now(UTC).date().isoformat(),
    )


@cache
def _dense(name: str, fashion: Fashion, folder: Path) -> tuple[nn.Module, Tensor]:
    """A dense network, and what it gives for the images to test with."""
    dense = load_dense(name, folder)
    return dense, outputs(dense, fashion.test_images)


def output_error(network: nn.Module, dense: nn.Module, images: Tensor) -> float:
    """The norm of the difference of their outputs, of the dense network's."""
    return relative_error(outputs(network, images), outputs(dense, images))


def relative_error(given: Tensor, wanted: Tensor) -> float:
    return float((given.double() - wanted.double()).norm() / wanted.double().norm())


class Batches:
    """All images once, each mirrored or not, without labels."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.batches = shuffled(len(images), 100, DISTILL_BATCH)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        for number, batch in enumerate(self.batches):
            yield augmented(self.images[batch], 1_000_000 + number)
