"""One run of the benchmarks: its rows, and where, when and on what they were measured."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from depthwise.bench.roofline import Peaks
from depthwise.bench.rows import Row
from depthwise.doctor import MachineReport
from depthwise.measure.turns import Effort

from .peers import Absent

ROOT = Path(__file__).parents[1]
PACKAGES = ("depthwise", "torch", "llvmlite", "numpy", "onnxruntime", "openvino")


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit of the working tree; `dirty` where tracked files differ from it."""

    sha: str
    dirty: bool

    def __str__(self) -> str:
        return self.sha[:7] + (" with changes" if self.dirty else "")


@dataclass(frozen=True, slots=True)
class Suite:
    """A whole run; `peaks` by number of threads."""

    rows: tuple[Row, ...]
    peaks: tuple[Peaks, ...]
    absent: tuple[Absent, ...]
    machine: MachineReport
    versions: dict[str, str]
    commit: Commit
    date: str
    effort: Effort

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, strings, lists and dicts, ready for JSON."""
        return {
            "date": self.date,
            "commit": asdict(self.commit),
            "machine": self.machine.to_dict(),
            "versions": self.versions,
            "effort": asdict(self.effort),
            "peaks": [asdict(peaks) for peaks in self.peaks],
            "absent": [asdict(peer) for peer in self.absent],
            "rows": [row.to_dict() for row in self.rows],
        }

    def write(self, folder: Path, kind: str = "") -> Path:
        """Write the run as JSON, named by its kind, day and commit."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{kind}{self.date[:10]}-{self.commit.sha[:7]}.json"
        path.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def versions() -> dict[str, str]:
    """Of every package that takes part, where it is installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit(folder: Path = ROOT) -> Commit:
    """The working tree's commit; "unknown" outside a repository."""
    git = shutil.which("git")
    if git is None:
        return Commit("unknown", dirty=False)

    def answer(*words: str) -> str:
        done = subprocess.run([git, "-C", str(folder), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    sha = answer("rev-parse", "HEAD")
    return Commit(sha or "unknown", dirty=bool(sha and answer("status", "--porcelain", "--untracked-files=no")))
