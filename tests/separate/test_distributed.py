"""Two processes, each with half of the data, give what one gives with all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import process

ROOT = Path(__file__).parents[2]


def results(folder: Path, world: int = 2) -> list[dict[str, Any]]:
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-m", "tests.support.process", str(folder)]
    running = [
        subprocess.Popen(
            [*program, str(rank), str(world)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(world)
    ]
    for one in running:
        _, errors = one.communicate(timeout=120)
        assert one.returncode == 0, errors
    return [torch.load(folder / f"{rank}of{world}.pt", weights_only=True) for rank in range(world)]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    process.main(tmp_path, 0, 1)
    alone = torch.load(tmp_path / "0of1.pt", weights_only=True)
    one, two = results(tmp_path)
    assert one["report"]["samples"] == alone["report"]["samples"] == 64
    assert [layer["form"] for layer in one["report"]["layers"]] == [
        layer["form"] for layer in alone["report"]["layers"]
    ]
    assert one["report"]["output_error"] == pytest.approx(alone["report"]["output_error"], rel=1e-6)
    for name, value in alone["separated"].items():
        torch.testing.assert_close(one["separated"][name], value, rtol=1e-5, atol=1e-6)
        assert torch.equal(one["separated"][name], two["separated"][name]), name
    for name, value in one["tuned"].items():
        torch.testing.assert_close(two["tuned"][name], value, rtol=0, atol=0)
    assert any(not torch.equal(one["tuned"][name], one["separated"][name]) for name in one["tuned"])
    # An error in one process reaches the other, which else would wait for it.
    here, there = (torch.load(tmp_path / f"errors{rank}.pt") for rank in range(2))
    assert there[0].startswith("the calibration data are empty")
    assert there[1].startswith("the model failed on a calibration batch of (8, 4, 12, 12)")
    assert here == [f"process 1 failed: {told}" for told in there]
    gradients = [torch.load(tmp_path / f"gradients{rank}.pt") for rank in range(2)]
    assert any("pointwise" in name for name in gradients[0])
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=0, atol=0)
