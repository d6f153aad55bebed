"""Which convolutions of a model can be separated, in the order they run, and why the others stay."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..layers.conversion import CONVOLUTIONS
from ..modules import computes_as
from .calibration import Batch
from .moments import LIMIT_BYTES, moments_bytes
from .options import Form, Positions, cheaper_forms, dense_form
from .processes import from_first, together
from .selection import Chosen
from .watching import Seen, watched


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A convolution with separable forms that are cheaper.

    norm: name of the batch norm that alone takes its output, and nothing else's; None where there is none
    """

    name: str
    conv: _ConvNd
    dense: Form
    forms: tuple[Form, ...]
    calls: int
    norm: str | None

    @property
    def free_mean(self) -> bool:
        """Whether the mean of its outputs is taken care of: by its bias, or by the norm."""
        return self.conv.bias is not None or self.norm is not None


@dataclass(frozen=True, slots=True)
class Left:
    """A convolution that stays as it is, and why."""

    name: str
    dense: Form
    reason: str


def survey(model: nn.Module, batch: Batch | None, where: Chosen | None) -> tuple[list[Candidate], list[Left]]:
    """Candidates in the order they run, and the convolutions that stay; without a batch, one output position each.

    What the first process's batch shows counts for all processes: their sizes may differ.
    """
    with together():
        shown = None if batch is None else (watched(model, batch), batch.samples)
    seen, samples = from_first(shown) or (None, 1)
    names = {name: module for name, module in model.named_modules() if isinstance(module, _ConvNd)}
    order = {name: place for place, name in enumerate(seen or names)}
    used = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    candidates, left = [], []
    for name, conv in sorted(names.items(), key=lambda item: order.get(item[0], len(order))):
        found = _assumed(conv) if seen is None else seen.get(name, Seen())
        positions = Positions(outputs=-(-found.outputs // samples), inputs=-(-found.inputs // samples))
        dense, forms = dense_form(conv, positions), tuple(cheaper_forms(conv, positions))
        useful = forms
        if batch is not None and moments_bytes(conv) > LIMIT_BYTES:
            # The mirror is fitted to moments only, and a sample of patches stands in for them.
            useful = tuple(form for form in forms if form.order != "pointwise first")
        reason = _reason(name, conv, where, used) or _no_use(found, forms, useful)
        if reason is not None:
            left.append(Left(name, dense, reason))
        else:
            norm = found.norms[0] if found.norms and found.calls == 1 else None
            candidates.append(Candidate(name, conv, dense, useful, found.calls, norm))
    return candidates, left


def _reason(name: str, conv: _ConvNd, where: Chosen | None, used: Counter[int]) -> str | None:
    """Why a convolution stays whatever it costs."""
    if where is not None and not where(name, conv):
        return "excluded by where="
    if 1 < conv.in_channels == conv.groups and not conv.transposed:
        return "already depthwise"
    if conv.transposed:
        return "transposed convolutions are not separated"
    if computes_as(type(conv), *CONVOLUTIONS.values()) is None:
        return f"is a {type(conv).__name__}, not torch's own convolution"
    if prod(conv.kernel_size) == 1:
        return "its kernel is a single pixel"
    if not conv.weight.is_floating_point():
        return f"its weights are {conv.weight.dtype}"
    if _hooked(conv):
        return "it has hooks, or a forward of its own, which separable parts would not run"
    for name, parameter in conv.named_parameters():
        if used[id(parameter)] > 1:
            return f"it shares its {name} with another module"
    return None


def _no_use(found: Seen, forms: tuple[Form, ...], useful: tuple[Form, ...]) -> str | None:
    if found.calls == 0:
        return "the calibration data never reach it"
    if not forms:
        return "no separable form is cheaper"
    return None if useful else "no separable form is cheaper that a sample of its patches can be fitted to"


def _hooked(module: nn.Module) -> bool:
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
        module._state_dict_hooks,
        module._state_dict_pre_hooks,
        module._load_state_dict_pre_hooks,
    )
    return any(hooks) or "forward" in module.__dict__ or "_conv_forward" in module.__dict__


def _assumed(conv: _ConvNd) -> Seen:
    return Seen(calls=1, outputs=1, inputs=prod(conv.stride))


def norm_of(model: nn.Module, candidate: Candidate) -> _BatchNorm | None:
    """The batch norm that takes a candidate's output, in `model` or in a copy of it."""
    if candidate.norm is None:
        return None
    norm = model.get_submodule(candidate.norm)
    assert isinstance(norm, _BatchNorm)  # noqa: S101
    return norm
