"""Second moments of a layer's patches and targets: all that least squares needs, in sums that add up.

Sums over batches, and with `torch.distributed` over processes, are the sums over everything: no activation is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from .processes import add_up_

# Rows that are widened to float64 at a time.
CHUNK_BYTES = 2**25
# Of all moments, or samples of patches in their place, that are gathered at a time.
LIMIT_BYTES = 2**30


@dataclass(slots=True)
class Moments:
    """Running sums over patches u and targets t, per group, in float64.

    gram:    (groups, patch, patch), sum of u u^T
    cross:   (groups, patch, group_outputs), sum of u t^T
    energy:  (groups, group_outputs), sum of t²
    patches: (groups, patch), sum of u
    targets: (groups, group_outputs), sum of t
    count:   (1,), how many
    """

    gram: Tensor
    cross: Tensor
    energy: Tensor
    patches: Tensor
    targets: Tensor
    count: Tensor

    @classmethod
    def zeros(cls, groups: int, patch: int, group_outputs: int, device: torch.device | None = None) -> Moments:
        def sums(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(
            gram=sums(groups, patch, patch),
            cross=sums(groups, patch, group_outputs),
            energy=sums(groups, group_outputs),
            patches=sums(groups, patch),
            targets=sums(groups, group_outputs),
            count=sums(1),
        )

    def add(self, patches: Tensor, targets: Tensor) -> None:
        """Take in more rows.

        patches: (groups, rows, patch)
        targets: (groups, rows, group_outputs)

        >>> moments = Moments.zeros(1, 2, 1)
        >>> moments.add(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[1.0], [1.0]]]))
        >>> moments.gram.tolist(), moments.cross.tolist()
        ([[[10.0, 14.0], [14.0, 20.0]]], [[[4.0], [6.0]]])
        """
        rows = max(1, CHUNK_BYTES // (8 * patches.shape[0] * patches.shape[2]))
        for few, wanted in zip(patches.split(rows, 1), targets.split(rows, 1), strict=True):
            u, t = few.double(), wanted.double()
            self.gram.baddbmm_(u.mT, u)
            self.cross.baddbmm_(u.mT, t)
            self.energy += t.square().sum(1)
            self.patches += u.sum(1)
            self.targets += t.sum(1)
        self.count += patches.shape[1]

    def reduce_(self) -> None:
        """Add up over all processes of `torch.distributed`; nothing where there is one."""
        add_up_(self.gram, self.cross, self.energy, self.patches, self.targets, self.count)


def moments_bytes(conv: _ConvNd) -> int:
    """Memory of a layer's moments."""
    patch = conv.in_channels // conv.groups * prod(conv.kernel_size)
    return 8 * conv.groups * patch * (patch + conv.out_channels // conv.groups)
