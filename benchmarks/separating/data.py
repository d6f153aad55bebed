"""Fashion-MNIST as Debian's package dataset-fashion-mnist lays it down; nothing is downloaded."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from depthwise import DepthwiseError

FOLDER = Path("/usr/share/datasets/fashion-mnist")
IMAGE_SIZE = (1, 28, 28)

# Of the 60,000 training images.
MEAN, DEVIATION = 0.286, 0.353


@dataclass(frozen=True, slots=True)
class Fashion:
    """Normalised images (n, 1, 28, 28), channels last, and labels (n,) from 0 to 9."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def calibration(self, seed: int, size: int) -> Tensor:
        """Unlabelled images to calibrate with, drawn from those to train with."""
        drawn = torch.randperm(len(self.train_images), generator=torch.Generator().manual_seed(1000 + seed))
        return self.train_images[drawn[:size]]


def load_fashion(folder: Path | None = None) -> Fashion:
    """All of it; `folder`, or the environment variable FASHION_MNIST, holds the four files where Debian's does not."""
    folder = folder or Path(os.environ.get("FASHION_MNIST", FOLDER))
    if not (folder / "train-images-idx3-ubyte.gz").exists():
        raise DepthwiseError(
            f"{folder} has no Fashion-MNIST: apt-get install dataset-fashion-mnist, or set FASHION_MNIST to the "
            "folder of its four .gz files"
        )

    def images(part: str) -> Tensor:
        pixels = _bytes(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, *IMAGE_SIZE).float()
        return ((pixels / 255 - MEAN) / DEVIATION).contiguous(memory_format=torch.channels_last)

    def labels(part: str) -> Tensor:
        return _bytes(folder / f"{part}-labels-idx1-ubyte.gz", 8).long()

    return Fashion(images("train"), labels("train"), images("t10k"), labels("t10k"))


def _bytes(path: Path, header: int) -> Tensor:
    return torch.from_numpy(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header).copy())
