"""What every test runs under: one seed, one thread for each worker, hypothesis the same everywhere."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

from depthwise import backends

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=60, database=None)
settings.register_profile(
    "long",
    derandomize=True,
    deadline=None,
    max_examples=600,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
torch.set_num_threads(1)
# Kernels are kept for all workers of one run, and not in the user's own cache; nor is their key the user's own.
if "DEPTHWISE_CACHE_DIR" not in os.environ:
    os.environ["DEPTHWISE_CACHE_DIR"] = tempfile.mkdtemp(prefix="depthwise-kernels-")
    os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="depthwise-state-")


# Begun first, so that no worker is still at one of them when the others have nothing left.
LONGEST = ("test_long_fuzzing", "test_drawn_networks_match", "test_the_tails_stay_inside_their_buffers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.name.startswith(LONGEST))


@pytest.fixture(autouse=True)
def _same_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.manual_seed(0)
    monkeypatch.delenv("DEPTHWISE_BACKEND", raising=False)
    backends.read_environment.cache_clear()
    yield
    torch.set_num_threads(1)
