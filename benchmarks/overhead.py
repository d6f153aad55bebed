"""`python -m benchmarks.overhead`: what calls cost beside their kernels, which have next to nothing to compute here.

    for call in calls through the door, of a compiled program, training forwards:
        time what a user calls, what is in it, and in that, in turn; the least times
        what the one takes more than the other is one part of the call

"Planning and binding" is everything from a call's arguments to the bound call that runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from depthwise import functional
from depthwise.backends import calls, weights
from depthwise.backends.cpu import autograd, operators
from depthwise.backends.weights import NO_PRINTS, identities_of

CALLS, ROUNDS = 200, 60
PARTS = ("Dynamo's guards", "torch's dispatch", "planning and binding", "autograd's node", "packing", "kernels")
WINDOW = ([1, 1], [1, 1, 1, 1], [1, 1])

Nothing = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Nested:
    """A call, and by each part's name what still runs where all parts before it are left out."""

    name: str
    parts: dict[str, Nothing]
    before: Nothing = lambda: None


def nested(x: Tensor) -> list[Nested]:
    """What is measured; each has run, so that all is compiled and kept."""
    return [*_depthwise(x), *_separable(x), *_trained(x)]


def _depthwise(x: Tensor) -> list[Nested]:
    tensors = torch.randn(x.shape[1], 1, 3, 3), None
    door = partial(functional.depthwise_conv2d, x, tensors[0], None, 1, 1)
    found = [Nested("depthwise, door", _plain(door, tensors, x))]
    tensors = tensors[0].clone(), None
    inner = partial(operators._depthwise, x, *tensors, *WINDOW)
    node = partial(torch.ops.depthwise.cpu_depthwise_conv.default, x, *tensors, *WINDOW)
    whole = _compiled(functional.depthwise_conv2d, x, tensors[0], None, 1, 1)
    guarded: dict[str, Nothing] = {"Dynamo's guards": whole, "torch's dispatch": node}
    return [*found, Nested("depthwise, compiled", guarded | _plain(inner, tensors, x))]


def _separable(x: Tensor) -> list[Nested]:
    channels = x.shape[1]
    first, last = torch.randn(channels, 1, 3, 3), torch.randn(channels, channels, 1, 1)
    door = partial(functional.separable_conv2d, x, first, last, None, None, 1, 1)
    found = [Nested("separable, door", _plain(door, (first, None, last, None), x))]
    first, last = first.clone(), last.clone()
    arguments = x, first, last, None, None, None, *WINDOW, 1, None, 0.0, None, 0.0
    inner = partial(operators._separable, *arguments)
    node = partial(torch.ops.depthwise.cpu_separable_conv.default, *arguments)
    whole = _compiled(functional.separable_conv2d, x, first, last, None, None, 1, 1)
    guarded: dict[str, Nothing] = {"Dynamo's guards": whole, "torch's dispatch": node}
    return [*found, Nested("separable, compiled", guarded | _plain(inner, (first, None, last, None), x))]


def _trained(x: Tensor) -> list[Nested]:
    """Forwards that autograd records, and one of a compiled step, before which an optimizer changed the weights."""
    channels = x.shape[1]
    first = torch.randn(channels, 1, 3, 3, requires_grad=True)
    last = torch.randn(channels, channels, 1, 1, requires_grad=True)
    alone = partial(functional.depthwise_conv2d, x, first, None, 1, 1)
    pointwise = partial(functional.pointwise_conv, 2, x, last, None)
    both = partial(functional.separable_conv2d, x, first, last, None, None, 1, 1)
    found = [
        Nested("depthwise, training", _recorded(alone, (first, None), x)),
        Nested("pointwise, training", _recorded(pointwise, (last, None), x)),
    ]
    pair = first, None, last, None
    both()
    parts: Any = _run_recorded(pair, x).func.__self__._parts  # type: ignore[attr-defined]
    convolutions = [part._known[1] for part in parts]

    def nodes() -> Tensor:
        record = autograd._recorded
        weights.gradients_asked(pair)
        return record(record(x, first, None, convolutions[0]), last, None, convolutions[1])

    found.append(Nested("separable, training", {"planning and binding": both, "autograd's node": nodes}))
    changed = first.detach().clone().requires_grad_()
    inner = partial(operators._depthwise, x, changed, None, *WINDOW)

    def change() -> None:
        with torch.no_grad():
            changed.mul_(1.0)

    with torch.no_grad():
        for _ in range(3):
            inner()
            change()
        key = identities_of((changed, None))
        own: Any = next(known.kept[0][0] for (ids, _), known in calls._recorded.items() if ids == key)
    fresh = own._fresh(changed, None)

    def packing() -> object:
        return own._bound.run(x, None, own._fresh(changed, None), NO_PRINTS.address)

    kernels = partial(own._bound.run, x, None, fresh, NO_PRINTS.address)
    inside: dict[str, Nothing] = {"planning and binding": inner, "packing": packing, "kernels": kernels}
    return [*found, Nested("depthwise, compiled training", inside, change)]


def _plain(inner: Nothing, tensors: Sequence[Tensor | None], x: Tensor) -> dict[str, Nothing]:
    """Parts of a call that nobody records, from planning on."""
    with torch.no_grad():
        inner(), inner()
    snapshot = weights.sets[identities_of(tensors)]
    kept = next(iter(snapshot.calls.values())).kept[0]
    return {
        "planning and binding": inner,
        "kernels": partial(kept.bound.run, x, None, kept.pack, snapshot.prints.address),
    }


def _recorded(inner: Nothing, tensors: tuple[Tensor, None], x: Tensor) -> dict[str, Nothing]:
    inner()
    run = _run_recorded(tensors, x)
    convolution: Any = run.func.__self__  # type: ignore[attr-defined]
    bound = next(iter(convolution._forward.values()))
    fresh = convolution._fresh(*tensors)
    return {
        "planning and binding": inner,
        "autograd's node": run,
        "packing": partial(convolution.forward, x, *tensors),
        "kernels": partial(bound.run, x, None, fresh, NO_PRINTS.address),
    }


def _run_recorded(tensors: tuple[Tensor | None, ...], x: Tensor) -> Nothing:
    key = identities_of(tensors)
    bound = next(known.kept[0][0] for (identities, _), known in calls._recorded.items() if identities == key)
    return partial(bound.run, x, None, tensors, NO_PRINTS.address)


def _compiled(function: Callable[..., Tensor], *arguments: object) -> Nothing:
    """A call of the same in a program that is compiled: without a C++ compiler, which changes nothing for one node."""
    torch._dynamo.reset()
    program = torch.compile(function, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        program(*arguments), program(*arguments)
    return partial(program, *arguments)


def measured(call: Nested, *, rounds: int = ROUNDS, count: int = CALLS) -> dict[str, float]:
    """Microseconds of each part, and of the whole; parts that are not apart are in the last."""
    functions = [call.before, *call.parts.values()]
    least = [float("inf")] * len(functions)
    with torch.set_grad_enabled("training" in call.name and "compiled" not in call.name):
        for _ in range(rounds):
            for at, function in enumerate(functions):
                before = call.before if at else lambda: None
                start = perf_counter()
                for _ in range(count):
                    before()
                    function()
                least[at] = min(least[at], perf_counter() - start)
    times = [1e6 * (taken - least[0]) / count for taken in least[1:]]
    shares = [taken - inner for taken, inner in zip(times, [*times[1:], 0.0], strict=True)]
    return {"whole": times[0]} | dict(zip(call.parts, shares, strict=True))


def table(rows: dict[str, dict[str, float]]) -> Table:
    found = Table("call, microseconds", "whole", *PARTS)
    for name, parts in rows.items():
        found.add_row(name, *(f"{parts[part]:.1f}" if part in parts else "" for part in ("whole", *PARTS)))
    return found


def main() -> None:
    torch.set_num_threads(1)
    x = torch.randn(1, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    Console(width=140).print(table({call.name: measured(call) for call in nested(x)}))


if __name__ == "__main__":
    main()
