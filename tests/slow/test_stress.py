"""Long fuzzing, many threads, many sizes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from depthwise import SeparableConv1d, SeparableConv2d, SeparableConv3d, functional

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "suites",
    [
        *("test_functional.py", "layers/test_depthwise.py", "layers/test_separable.py"),
        "test_reference.py test_geometry.py",
    ],
)
def test_long_fuzzing(suites: str) -> None:
    """Of tests whose examples are drawn: hypothesis marks them."""
    paths = [f"tests/{suite}" for suite in suites.split()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "hypothesis", *paths]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"HYPOTHESIS_PROFILE": "long"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:]


def test_eight_threads_give_what_one_gives() -> None:
    layers = [
        SeparableConv1d(4, 6, 3, padding="same"),
        SeparableConv2d(4, 6, 3, 2, "same", depthwise_activation=nn.ReLU),
        SeparableConv3d(4, 6, 3, padding=((1, 0), (0, 1), (1, 1))),
    ]
    inputs = [torch.randn(2, 4, *(9,) * rank) for rank in (1, 2, 3)]
    expected = [layer(x) for layer, x in zip(layers, inputs, strict=True)]

    def work(_: int) -> bool:
        return all(
            torch.equal(layer(x), out)
            for layer, x, out in zip(layers, inputs, expected, strict=True)
            for _ in range(200)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_python_memory_does_not_grow_with_sizes() -> None:
    # float64: oneDNN, which keeps compiled code of its own for each new size of a float32 input, stays out.
    weight, pointwise = torch.randn(2, 1, 3, dtype=torch.float64), torch.randn(4, 2, 1, dtype=torch.float64)

    def call(length: int) -> None:
        with torch.no_grad():
            functional.separable_conv1d(torch.empty(1, 2, length, dtype=torch.float64), weight, pointwise)

    tracemalloc.start()
    try:
        for length in range(10, 6_010):
            call(length)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for length in range(6_010, 20_010):
            call(length)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1024 * 1024
