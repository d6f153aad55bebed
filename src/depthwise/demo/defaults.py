"""The demo's network and samples, for `depthwise separate` where it is given none."""

from __future__ import annotations

from torch import Tensor, nn

from .data import check_extra, load_digits
from .network import trained
from .run import FULL


def dense_network() -> nn.Module:
    """The demo's dense network, trained on its digits: about half a minute on two cores."""
    check_extra()
    return trained(load_digits().first(FULL.train_size), FULL.epochs)


def samples() -> Tensor:
    """The digits that the demo calibrates with, unlabelled: (digits, 1, 28, 28)."""
    check_extra()
    return load_digits().train_images[: FULL.calibration_size]
