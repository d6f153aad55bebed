"""What a model must be to be separated."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from ..errors import DepthwiseError


def check_model(model: object) -> None:
    """Raise where `model` cannot be separated in place, saying what to do."""
    if not isinstance(model, nn.Module):
        raise DepthwiseError(f"separate_ takes a torch.nn.Module; got {type(model).__name__}")
    if isinstance(model, _ConvNd):
        raise DepthwiseError(
            f"the model is itself a convolution, {type(model).__name__}, and cannot become another class in place; put "
            f"it in an nn.Sequential, or use SeparableConv2d.from_dense"
        )
    if any(module.training for module in model.modules()):
        raise DepthwiseError("the model is in training mode, where it changes as it runs; call .eval() first")
    for name, module in model.named_modules():
        _check_module(name or "the model", module)


def _check_module(name: str, module: nn.Module) -> None:
    if isinstance(module, DistributedDataParallel):
        raise DepthwiseError(
            f"{name} is a DistributedDataParallel, which would go on with the parameters that it was made with; "
            f"separate what it wraps, .module, and wrap the result"
        )
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        if tensor is None:
            continue
        if is_lazy(tensor):
            raise DepthwiseError(f"{name} does not know its shape yet; call the model once first")
        if tensor.is_meta:
            raise DepthwiseError(f"{name} is on the meta device and has no weights to separate")
        if isinstance(module, _ConvNd) and not bool(tensor.isfinite().all()):
            raise DepthwiseError(f"the weights of {name} are not finite; nothing can be fitted to them")
