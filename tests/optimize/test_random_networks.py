"""Networks drawn at random: optimized, they give the same numbers, with every pass and with each left out."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

from depthwise.optimize.frozen import optimized
from depthwise.optimize.passes import PASSES
from tests.support.random_networks import networks
from tests.support.whole import difference


@settings(max_examples=16, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.sampled_from((None, *PASSES)), st.integers(1, 3))
def test_drawn_networks_match(drawn: tuple[nn.Module, tuple[int, int, int]], left_out: str | None, batch: int) -> None:
    model, size = drawn
    without = () if left_out is None else (left_out,)
    found = optimized(model, torch.zeros(1, *size), without=without)
    assert difference(found, model, torch.randn(batch, *size)) <= 1
