"""Two processes that train an accelerated model together lose what one does on the same whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import parallel

ROOT = Path(__file__).parents[2]


def results(folder: Path, world: int = 2) -> list[dict[str, Any]]:
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    program = [sys.executable, "-m", "tests.support.parallel", str(folder)]
    running = [
        subprocess.Popen(
            [*program, str(rank), str(world)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(world)
    ]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    return [torch.load(folder / f"{rank}of{world}.pt", weights_only=True) for rank in range(world)]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_wrappers_made_before_and_after(tmp_path: Path) -> None:
    parallel.main(tmp_path, 0, 1)
    alone = torch.load(tmp_path / "0of1.pt", weights_only=True)
    found, other = results(tmp_path)
    whole = torch.tensor(alone["whole"])
    for order in ("before", "after"):
        for wrapper in ("data_parallel", "sharded"):
            torch.testing.assert_close(found[f"{wrapper} of network {order}"], whole, rtol=1e-4, atol=1e-5)
        # Statistics are each process's own: as without accelerate_, whose losses these are.
        own = found["data_parallel of normed never"]
        torch.testing.assert_close(found[f"data_parallel of normed {order}"], own, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(value, other[name]) for name, value in found.items())
