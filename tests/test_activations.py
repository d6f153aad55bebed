"""The table of activations: each row's module computes what its function does, as it is set there and no other way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from depthwise.activations import ACTIVATIONS


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_module_and_function_are_one(name: str) -> None:
    row, x = ACTIVATIONS[name], torch.linspace(-9, 9, 301)
    module = row.module()
    assert row.is_computed_by(module)
    slope = 0.0 if row.slope is None else getattr(module, row.slope_attribute)
    assert row.slope in (None, slope)
    assert torch.equal(row.function(x, slope), module(x))


@pytest.mark.parametrize(("name", "module"), [("gelu", nn.GELU("tanh"))])
def test_other_settings_are_another_activation(name: str, module: nn.Module) -> None:
    assert not ACTIVATIONS[name].is_computed_by(module)


def test_a_bound_that_was_moved_is_seen() -> None:
    module = nn.ReLU6()
    module.max_val = 5.0
    assert not ACTIVATIONS["relu6"].is_computed_by(module)
