"""A bounded sample of patches, where a layer's moments would need too much memory: rows instead of sums.

With `torch.distributed` every process keeps rows of its own; what is computed of them is added up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .depthwise_first import DepthwiseFirst, refit_mixing
from .processes import add_up_
from .quadratic import share

STEPS, BATCH, LEARNING_RATE = 300, 512, 0.02


class Sample:
    """Rows of patches and targets, in float32, at most `rows` of them, and the error of kernels on them.

    patches: (groups, rows, channels * area)
    targets: (groups, rows, group_outputs)
    """

    def __init__(self, groups: int, patch: int, group_outputs: int, rows: int, area: int, device: torch.device) -> None:
        self.patches = torch.empty(groups, rows, patch, dtype=torch.float32, device=device)
        self.targets = torch.empty(groups, rows, group_outputs, dtype=torch.float32, device=device)
        self.count = 0
        self.area = area

    def add(self, patches: Tensor, targets: Tensor) -> None:
        """Take in more rows, as `Moments.add` does, until there is room for no more."""
        taken = min(patches.shape[1], self.patches.shape[1] - self.count)
        self.patches[:, self.count : self.count + taken] = patches[:, :taken]
        self.targets[:, self.count : self.count + taken] = targets[:, :taken]
        self.count += taken

    def settle_(self, weights: Tensor, *, free_mean: bool) -> None:
        """Be done with adding: what `quadratic_` does for moments, on the rows."""
        self.weights = weights
        self.patches, self.targets = self.patches[:, : self.count], self.targets[:, : self.count]
        total = torch.tensor([float(self.count)], dtype=torch.float64, device=weights.device)
        self.patch_mean, self.target_mean = self.patches.sum(1).double(), self.targets.sum(1).double()
        add_up_(total, self.patch_mean, self.target_mean)
        self.total = float(total)
        self.patch_mean /= self.total
        self.target_mean /= self.total
        if free_mean:
            self.patches -= self.patch_mean.float().unsqueeze(1)
            self.targets -= self.target_mean.float().unsqueeze(1)
        self.energy = self.targets.double().square().sum(1) / self.total
        add_up_(self.energy)

    def normal_equations(self, filters: Tensor) -> tuple[Tensor, Tensor]:
        """As `Evidence` has it, for filters (groups, channels, multiplier, area)."""
        filtered = _filtered(self.patches, filters.float()).double()
        normal, wanted = filtered.mT @ filtered / self.total, filtered.mT @ self.targets.double() / self.total
        add_up_(normal, wanted)
        return normal, wanted

    def of_outputs(self, kernel: Tensor) -> Tensor:
        """The error of each output, unweighted: (groups, group_outputs)."""
        missed = self.targets - self.patches @ kernel.float().mT
        error = missed.double().square().sum(1) / self.total
        add_up_(error)
        return error

    def error(self, kernel: Tensor) -> float:
        """The share of the targets' energy that `kernel` (groups, group_outputs, patch) misses."""
        return share((self.weights * self.of_outputs(kernel)).sum(), float((self.weights * self.energy).sum()))

    def variance(self, kernel: Tensor) -> Tensor:
        """Mean square of what a kernel gives: (groups, group_outputs)."""
        square = (self.patches @ kernel.float().mT).double().square().sum(1) / self.total
        add_up_(square)
        return square


def refit(sample: Sample, factors: DepthwiseFirst) -> DepthwiseFirst:
    """Filters and mixing together, by steps of Adam on parts of the rows; never worse than `factors`."""
    best = refit_mixing(sample, factors)
    filters, mixing = (part.float().clone().requires_grad_() for part in (best.filters, best.mixing))
    rates = [LEARNING_RATE * float(part.detach().square().mean().sqrt()) for part in (filters, mixing)]
    groups = [{"params": [part], "lr": rate} for part, rate in zip((filters, mixing), rates, strict=True)]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    weights = (sample.weights / (sample.weights * sample.energy).sum().clamp_min(1e-300)).float().unsqueeze(1)
    draw = torch.Generator("cpu").manual_seed(0)
    for _ in range(STEPS):
        rows = torch.randint(max(sample.count, 1), (min(BATCH, sample.count),), generator=draw, device="cpu")
        with torch.enable_grad():
            given = _filtered(sample.patches[:, rows], filters) @ mixing.flatten(2).mT
            loss = (weights * (sample.targets[:, rows] - given).square()).sum() / max(len(rows), 1)
            optimizer.zero_grad()
            loss.backward()
        add_up_(*(part.grad for part in (filters, mixing) if part.grad is not None))
        optimizer.step()
        schedule.step()
    moved = refit_mixing(sample, DepthwiseFirst(filters.detach().double(), mixing.detach().double()))
    return min(moved, best, factors, key=lambda each: sample.error(each.kernel))


def _filtered(patches: Tensor, filters: Tensor) -> Tensor:
    """Patches (groups, rows, channels * area) through each channel's filters: (groups, rows, channels * multiplier)."""
    channels, area = filters.shape[1], filters.shape[3]
    by_channel = patches.unflatten(2, (channels, area)).transpose(1, 2)
    rows: Tensor = (by_channel @ filters.mT).transpose(1, 2).flatten(2)
    return rows
