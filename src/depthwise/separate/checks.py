"""What is taken at the doors of `separate_`, `separated_like` and `distill`: models, numbers, callables."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from math import isfinite, prod
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from ..errors import DepthwiseError

if TYPE_CHECKING:
    from .report import LayerSeparation


# Beyond it no count is one.
MOST = 2**63 - 1


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


def check_pair(
    student: object, teacher: object, layers: Sequence[str], optimizer: torch.optim.Optimizer | None
) -> None:
    """Raise where `student` cannot learn from `teacher`; warn where `optimizer` leaves some of it out."""
    own, theirs = _network(student, "student", layers), _network(teacher, "teacher", layers)
    if own is theirs:
        raise DepthwiseError("student and teacher are one module; distill from a copy of the dense network")
    trained = {name: parameter for name, parameter in own.named_parameters() if parameter.requires_grad}
    if not trained:
        raise DepthwiseError("no parameter of the student requires a gradient; call student.requires_grad_(True)")
    fixed = {id(parameter) for parameter in theirs.parameters()}
    for name, parameter in trained.items():
        if id(parameter) in fixed:
            raise DepthwiseError(
                f"student and teacher share the parameter {name}, and training one would change the other; make the "
                f"student with copy.deepcopy, or freeze what is shared"
            )
        if parameter.is_inference():
            raise DepthwiseError(
                f"the student's {name} was made in inference mode and cannot be trained; take copy.deepcopy of it "
                f"outside"
            )
    if optimizer is not None:
        _check_optimizer(optimizer, trained)


def _network(network: object, whose: str, layers: Sequence[str]) -> nn.Module:
    """A network that can be called and has all of `layers`."""
    if not isinstance(network, nn.Module):
        raise DepthwiseError(f"the {whose} is a torch.nn.Module; got {type(network).__name__}")
    known = dict(network.named_modules())
    for name in layers:
        if name not in known:
            raise DepthwiseError(f"layers= names {name}, and the {whose} has no such module")
    for name, parameter in network.named_parameters():
        if is_lazy(parameter) or parameter.is_meta:
            raise DepthwiseError(f"the {whose} has no weights yet: {name} is lazy, or on the meta device")
    return network


def _check_optimizer(optimizer: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter]) -> None:
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, parameter in trained.items() if id(parameter) not in known]
    words = f"optimizer= leaves out {len(missing)} of the student's {len(trained)} parameters that require a gradient"
    advice = "an optimizer that was made before separate_ does not know the new layers: make it afterwards"
    if len(missing) == len(trained):
        raise DepthwiseError(f"{words}; {advice}")
    if missing:
        warnings.warn(f"{words}, such as {missing[0]}; {advice}", stacklevel=4)


def check_number(value: object, name: str, *, above: float | None = None) -> None:
    """Raise unless `value` is a finite number of at least 0, or of more than `above`."""
    if not is_finite_number(value) or (value < 0 if above is None else value <= above):
        least = "of at least 0" if above is None else f"above {above:g}"
        raise DepthwiseError(f"{name} is a finite number {least}; got {shown(value)}")


def check_callable(value: object, name: str) -> None:
    if not callable(value):
        raise DepthwiseError(f"{name} is something to call; got {value!r}")


def check_fits(conv: _ConvNd, layer: LayerSeparation) -> None:
    """Raise where a report's layer, separated, is none that `conv` can have become."""
    weights, area = conv.weight.numel(), prod(conv.kernel_size)
    most = min(conv.out_channels // conv.groups, area) if layer.order == "depthwise first" else 1
    if layer.multiplier > most:
        raise DepthwiseError(
            f"the report gives {layer.name} the form {layer.form} with multiplier {layer.multiplier}, and this "
            f"convolution has multipliers up to {most}"
        )
    positions, rest = divmod(layer.multiplications_before, max(1, weights))
    if rest:
        raise DepthwiseError(
            f"the report gives {layer.name} {layer.multiplications_before:,} multiplications dense, which is no "
            f"multiple of the {weights:,} weights that it has in this model"
        )
    once = positions * (conv.in_channels * area + conv.out_channels * conv.in_channels // conv.groups)
    if layer.order == "depthwise first" and layer.multiplications_after != layer.multiplier * once:
        raise DepthwiseError(
            f"the report gives {layer.name} {layer.multiplications_after:,} multiplications as {layer.form}, which are "
            f"{layer.multiplier * once:,} in this model"
        )


def shown(value: object) -> str:
    """`value` in a message; Python refuses to write out a number of thousands of digits."""
    return "a number beyond 64 bits" if isinstance(value, int) and abs(value) > MOST else repr(value)[:80]


def is_finite_number(value: object) -> TypeGuard[float]:
    """Whether it is an int or a float, no bool, that a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    # An integer beyond any float.
    except OverflowError:
        return False


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
        if isinstance(module, _ConvNd) and not bool(tensor.detach().isfinite().all()):
            raise DepthwiseError(f"the weights of {name} are not finite; nothing can be fitted to them")
