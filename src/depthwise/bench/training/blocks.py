"""MobileNetV1's blocks with their batch norms, forward and backward, beside dense convolutions: the promise kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from ...blocks import MobileNetV1Block
from ...measure.promise import promise_kept
from ...measure.turns import Effort, take_turns
from ..cases import MOBILENET_V1, Case
from ..rows import DENSE
from .rows import BLOCKS, TrainingRow, fastest, row_of
from .sides import both_ways, ways_of

BATCH = 4


def rows(effort: Effort, *, compiled: bool) -> Iterator[TrainingRow]:
    for case in MOBILENET_V1:
        yield block(case, effort, compiled=compiled)


def block(case: Case, effort: Effort, *, compiled: bool) -> TrainingRow:
    """One block; the dense convolution with its norm and activation in PyTorch's fastest way."""
    g = case.geometry
    torch.manual_seed(0)
    ours = MobileNetV1Block(g.in_channels, g.output_size[0], g.stride[0]).train()
    x = torch.randn(BATCH, *g.input_size)
    calls = both_ways(case.name, ours, _by_torch(ours), x, compiled=compiled)
    gradient = torch.randn(BATCH, *g.output_size)
    dense = ways_of(_dense(case), x, gradient, compiled=compiled)
    samples = take_turns(calls | {(DENSE, way): call for way, call in dense}, effort, lambda: None)
    row = row_of(BLOCKS, case.name, torch.get_num_threads(), samples)
    counted = case.cost.dense.multiplications, case.cost.separable.multiplications
    kept, torchs = (promise_kept(fastest(samples, DENSE)[1], time, *counted) for time in (row.ours, row.torch))
    return replace(row, share=kept, torch_share=torchs)


def _by_torch(block: MobileNetV1Block) -> nn.Module:
    """The same block of PyTorch's modules, with the same weights."""
    own = block.separable
    c, g = own.depthwise, own.depthwise.groups
    first = nn.Conv2d(c.in_channels, c.out_channels, 3, c.stride[0], 1, groups=g, bias=False)
    last = nn.Conv2d(c.out_channels, own.pointwise.out_channels, 1, bias=False)
    first.load_state_dict(own.depthwise.state_dict())
    last.load_state_dict(own.pointwise.state_dict())
    norms = [nn.BatchNorm2d(conv.out_channels) for conv in (first, last)]
    return nn.Sequential(first, norms[0], nn.ReLU6(), last, norms[1], nn.ReLU6()).train()


def _dense(case: Case) -> nn.Module:
    g = case.geometry
    conv = nn.Conv2d(g.in_channels, g.output_size[0], 3, g.stride[0], 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(g.output_size[0]), nn.ReLU6()).train()
