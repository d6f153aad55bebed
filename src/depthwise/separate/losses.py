"""What a student is trained to lower: how far its outputs are from the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..errors import DepthwiseError

Loss = Callable[[Any, Any], Tensor]


def auto(given: Any, wanted: Any, temperature: float) -> Tensor:
    """The sum over all floating-point outputs: the divergence of class logits, the relative squares of all others.

    Class logits have shape (batch, classes) with at least two classes; a softmax over one would be 1 whatever it is of.
    """
    terms = [
        divergence(own, theirs, temperature) if _is_logits(theirs) else relative_squares(own, theirs)
        for own, theirs in pairs(given, wanted)
    ]
    if not terms:
        raise DepthwiseError(
            f"the networks give {type(wanted).__name__} without a floating-point tensor to match; distill networks "
            f"that give tensors, alone or in tuples, lists or dicts, or give loss="
        )
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def divergence(given: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """The mean over samples of KL(softmax(wanted / T), softmax(given / T)) · T²; classes are the second dimension.

    >>> import torch
    >>> x = torch.tensor([[1.0, 2.0]])
    >>> float(divergence(x, x, 2.0))
    0.0
    """
    own, theirs = ((x.float() / temperature).log_softmax(1) for x in (given, wanted))
    return F.kl_div(own, theirs, reduction="batchmean", log_target=True) * temperature**2


def relative_error(given: Tensor, wanted: Tensor) -> Tensor:
    """The squared error over the energy of what is wanted."""
    return (given.float() - wanted.float()).square().sum() / wanted.float().square().sum().clamp_min(1e-12)


def relative_squares(given: Tensor, wanted: Tensor) -> Tensor:
    """The mean square of what is missed, of the variance of what is wanted; of its square where that is constant.

    >>> import torch
    >>> float(relative_squares(torch.zeros(2, 1), torch.tensor([[1.0], [3.0]])))
    5.0
    """
    theirs = wanted.float()
    scale = theirs.var(correction=0)
    square = theirs.square().mean()
    scale = scale.where(scale > 1e-10 * square, square)
    return (given.float() - theirs).square().mean() / scale.where(scale > 0, scale.new_ones(()))


def pairs(given: Any, wanted: Any, place: str = "the output") -> Iterator[tuple[Tensor, Tensor]]:
    """Every floating-point tensor of two outputs of one structure: the student's, the teacher's."""
    if isinstance(wanted, Tensor) and isinstance(given, Tensor):
        if given.shape != wanted.shape:
            raise DepthwiseError(
                f"{place} is of shape {tuple(given.shape)} by the student and {tuple(wanted.shape)} by the teacher"
            )
        if wanted.is_floating_point() and wanted.numel():
            yield given, wanted
    elif isinstance(wanted, Mapping) and isinstance(given, Mapping) and given.keys() == wanted.keys():
        for key in wanted:
            yield from pairs(given[key], wanted[key], f"{place}[{key!r}]")
    elif isinstance(wanted, tuple | list) and isinstance(given, tuple | list) and len(given) == len(wanted):
        for number, (own, theirs) in enumerate(zip(given, wanted, strict=True)):
            yield from pairs(own, theirs, f"{place}[{number}]")
    elif type(given) is not type(wanted) or isinstance(wanted, Mapping | tuple | list):
        raise DepthwiseError(f"{place} is another by the student, {_kind(given)}, than by the teacher, {_kind(wanted)}")


def _kind(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, Mapping):
        return f"{kind} of {', '.join(map(str, value))}"
    return f"{kind} of {len(value)}" if isinstance(value, tuple | list) else kind


def _is_logits(wanted: Tensor) -> bool:
    return wanted.dim() == 2 and wanted.shape[1] > 1
