"""Whole networks to test with: statistics that are not trivial, and what an optimized one must agree with."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from .networks import timm_model

# Larger images where 64 pixels are too few, or where the size belongs to the network.
SIZES = {
    "swin_tiny_patch4_window7_224": 224,
    "coatnet_0_rw_224": 224,
    "levit_128": 224,
    "levit_conv_128s": 224,
    "efficientformerv2_s0": 224,
    "inception_v3": 96,
    # What is smaller is pooled up to 7x7.
    "vgg11_bn": 224,
}


def real_model(name: str, seed: int = 0) -> nn.Module:
    """One of timm's networks with random weights and statistics, in evaluation mode."""
    timm_model("resnet18")  # which brings the operators that timm asks for
    import timm

    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(name)
    return randomised(model, seed)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The same model in evaluation mode, its norms with numbers that a wrong fold cannot hide in."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.uniform_(low, high, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                assert module.running_var is not None
                uniform(module.running_mean, -0.3, 0.3)
                uniform(module.running_var, 0.5, 1.5)
            if (
                isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.GroupNorm)
                and module.weight is not None
            ):
                uniform(module.weight, 0.6, 1.4)
                if module.bias is not None:
                    uniform(module.bias, -0.3, 0.3)
        # Layer scales start so small that what they scale does not show.
        for name, parameter in model.named_parameters():
            if "gamma" in name or "layer_scale" in name:
                uniform(parameter, 0.2, 0.8)
    return model.eval()


def tensors_of(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def difference(optimized: nn.Module, model: nn.Module, *inputs: Any) -> float:
    """The largest difference to float64, of the largest it may have: twice PyTorch's own, or a few roundings."""
    with torch.no_grad():
        expected = model(*inputs)
        exact = deepcopy(model).double()(*pytree.tree_map(_doubled, inputs))
        found = optimized(*inputs)
    assert pytree.tree_structure(found) == pytree.tree_structure(expected)
    worst = 0.0
    for ours, eager, double in zip(tensors_of(found), tensors_of(expected), tensors_of(exact), strict=True):
        assert ours.shape == eager.shape
        assert ours.dtype == eager.dtype
        if ours.numel() == 0:
            continue
        allowed = 2 * (eager - double).abs().max() + 1e-6 * double.abs().max() + 1e-30
        error = ((ours - double).abs().max() / allowed).item()
        worst = max(worst, error if error == error else float("inf"))
    return worst


def _doubled(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
