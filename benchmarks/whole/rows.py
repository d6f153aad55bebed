"""One network on one number of threads: every engine's time and error, and what was asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import geometric_mean
from typing import Any

from .alone import MOST_COLD_SECONDS, MOST_WARM_SECONDS, Cost
from .engines import OURS

# At batch 1, against the fastest float32 peer.
TARGETS = {
    "mobilenetv1_100": 1.15,
    "mobilenetv2_100": 1.35,
    "mobilenetv3_large_100": 1.4,
    "efficientnet_b0": 1.4,
    "efficientnet_lite0": 1.25,
    "convnext_tiny": 1.1,
    "legacy_xception": 1.05,
}
# None slower, and this in geometric mean.
SECOND_MEAN = 1.25
SECOND = (
    *("mnasnet_100", "mixnet_s", "mobilenetv4_conv_small", "repvit_m1", "ghostnet_100", "mobileone_s0", "regnety_004"),
    "fastvit_t8",
)
# Against PyTorch's best alone.
ORDINARY = ("resnet18", "resnet50", "densenet121")
SIZES = {"legacy_xception": 299}
NETWORKS = (*TARGETS, *SECOND, *ORDINARY)
# Not asked for float32, an engine takes what it likes.
FREE = "as it comes"


@dataclass(frozen=True, slots=True)
class Taken:
    """One engine's time, and its largest difference to float64 as a share of the largest output.

    failure: why it was not timed, or None
    """

    engine: str
    milliseconds: float | None
    error: float | None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A network at a batch and a size; `ran_on`: what our report says of its convolutions.

    cost: of the way to a first result, and memory, each in a process of its own; None where that was left out
    """

    network: str
    batch: int
    size: int
    threads: int
    ran_on: str
    taken: tuple[Taken, ...]
    cost: Cost | None = None

    def milliseconds(self, engine: str) -> float | None:
        return next((one.milliseconds for one in self.taken if one.engine == engine), None)

    @property
    def peer(self) -> Taken | None:
        """The fastest peer that computes in float32; of ordinary networks the fastest of PyTorch's ways."""
        found = [
            one
            for one in self.taken
            if one.milliseconds is not None
            and one.engine != OURS
            and FREE not in one.engine
            and (self.network not in ORDINARY or one.engine.startswith(("eager", "torch.compile")))
        ]
        return min(found, key=lambda one: one.milliseconds or 0.0, default=None)

    @property
    def ratio(self) -> float | None:
        """The peer's time over ours."""
        own, peer = self.milliseconds(OURS), self.peer
        return None if own is None or peer is None or peer.milliseconds is None else peer.milliseconds / own

    @property
    def target(self) -> float:
        return TARGETS.get(self.network, 1.0)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio, "target": self.target}


def second_mean(rows: list[Row], threads: int) -> float | None:
    """Of the second group, at batch 1."""
    found = [row.ratio for row in rows if row.network in SECOND and row.threads == threads and row.batch == 1]
    ratios = [ratio for ratio in found if ratio is not None]
    return geometric_mean(ratios) if ratios else None


def document(rows: list[Row], heading: str, absent: dict[str, str]) -> str:
    """The run as Markdown, the rows furthest from what was asked first."""
    engines = list(dict.fromkeys(one.engine for row in rows for one in row.taken))
    lines = [f"# Whole networks: {heading}", ""]
    lines += [
        "Milliseconds a call, medians in turn; ratio: the fastest float32 peer's time over ours (of ordinary networks "
        "PyTorch's fastest); in parentheses the largest difference to float64, as a share of the largest output.",
        "",
        f"| network | threads | ratio | asked | {' | '.join(engines)} | convolutions |",
        f"|{'---|' * (len(engines) + 5)}",
    ]
    for row in sorted(rows, key=lambda row: (row.ratio or 0.0) / row.target):
        cells = [_cell(row, engine) for engine in engines]
        name = row.network + (f", batch {row.batch}" if row.batch > 1 else "") + f" @{row.size}"
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        lines.append(f"| {name} | {row.threads} | {ratio} | {row.target:.2f} | {' | '.join(cells)} | {row.ran_on} |")
    for threads in sorted({row.threads for row in rows}):
        mean = second_mean(rows, threads)
        if mean is not None:
            lines += ["", f"Second group, {threads} threads: {mean:.2f} in geometric mean, {SECOND_MEAN} asked for."]
    lines += ["", *_costs(rows)]
    lines += ["", *(f"Not measured: {name}, {why}." for name, why in absent.items())]
    return "\n".join(lines).rstrip() + "\n"


def _costs(rows: list[Row]) -> list[str]:
    """What it takes to get there, of the rows that were asked."""
    found = [(row, row.cost) for row in rows if row.cost is not None]
    if not found:
        return []
    lines = [
        f"From a model to its first result, seconds: without a kernel on disk (of mobilenetv2_100 on 2 threads "
        f"{MOST_COLD_SECONDS:g} asked for), and with all ({MOST_WARM_SECONDS:g}). Memory: at most, while it is called "
        "again, beyond the process with its model, MiB; PyTorch's channels-last.",
        "",
        "| network | threads | cold | warm | memory | PyTorch's |",
        "|---|---|---|---|---|---|",
    ]
    for row, one in found:
        memory = [_mebibytes(each.peak_bytes) for each in (one.warm, one.eager)]
        times = f"{one.cold.seconds:.1f} | {one.warm.seconds:.1f}"
        lines.append(f"| {row.network} | {row.threads} | {times} | {' | '.join(memory)} |")
    return lines


def _mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.0f}"


def _cell(row: Row, engine: str) -> str:
    found = next((one for one in row.taken if one.engine == engine), None)
    if found is None or found.milliseconds is None:
        return "-" if found is None else found.failure or "-"
    return f"{found.milliseconds:.2f} ({found.error:.0e})"
