"""A network that was trained keeps what it learned."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from depthwise import distill, separate_
from depthwise.demo.data import IMAGE_SIZE, load_digits
from depthwise.demo.network import accuracy, trained
from depthwise.separate.losses import divergence

pytestmark = pytest.mark.slow


def test_a_trained_network_keeps_its_accuracy() -> None:
    digits = load_digits()
    dense = trained(digits, 4)
    known = accuracy(dense, digits.test_images, digits.test_labels)
    with torch.no_grad():
        expected = dense(digits.test_images)
    for budget, lost in ((0.35, 0.01), (0.2, 0.015), (0.13, 0.03)):
        network, plain = deepcopy(dense), deepcopy(dense)
        report = separate_(network, digits.train_images[:256], budget=budget)
        assert report.share <= budget
        assert accuracy(network, digits.test_images, digits.test_labels) >= known - lost
        separate_(plain, budget=budget, input_size=IMAGE_SIZE)
        with torch.no_grad():
            errors = [float((each(digits.test_images) - expected).norm()) for each in (network, plain)]
        assert errors[0] < 0.5 * errors[1]
    with torch.no_grad():
        before = divergence(network(digits.test_images), expected, 1.0)
    distill(network, dense, digits.train_images.split(64), progress=False)
    with torch.no_grad():
        assert divergence(network(digits.test_images), expected, 1.0) < 0.8 * before
    assert accuracy(network, digits.test_images, digits.test_labels) >= known - 0.015
