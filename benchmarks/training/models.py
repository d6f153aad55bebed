"""Networks of timm's, by name."""

from __future__ import annotations

from torch import nn

from tests.support.networks import timm_model


def build(network: str) -> nn.Module:
    """With random weights, as they are trained from."""
    timm_model("resnet18")  # which brings the operators that timm asks for
    import timm

    model: nn.Module = timm.create_model(network)
    return model
