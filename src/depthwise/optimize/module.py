"""The module that `optimize` gives: it runs the network, tells what runs where, and writes itself to a file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from ..backends.forks import Lock
from ..backends.packs import Packs
from ..backends.tensors import address_of
from ..errors import DepthwiseError
from .again import MOST_KNOWN, Again, again, laid_out
from .capture import Call, capture
from .file import from_bytes, load, save, to_bytes
from .graph import Batch, Tree, Value
from .network import Network, Shape
from .operators import DTYPES, is_channels_last
from .passes import apply_passes
from .planning import Plan, at_batch, is_batched, plan
from .profile import Profile, profile
from .report import NetworkReport, report

# Sizes of inputs that plans are kept for, and those that a network was captured for anew, which bring weights of their
# own; the oldest go first.
MOST_PLANS = 16
MOST_CAPTURES = 4


class Source:
    """What a network was captured from, kept where other sizes need another capture."""

    def __init__(self, model: nn.Module, call: Call, without: tuple[str, ...]) -> None:
        self.model = model
        self.call = call
        self.without = without

    def network(self, tensors: tuple[Tensor, ...]) -> Network:
        found, _ = apply_passes(capture(self.model, Call(tensors, self.call.takes)), self.without)
        return found


class Optimized(nn.Module):
    """A frozen network for inference: what `optimize` and `load_optimized` give.

    It takes and gives what the model did, in float32 on the CPU, for any batch; it has no parameters and no modes.
    """

    def __init__(self, network: Network, saved: dict[str, int], source: Source | None = None) -> None:
        super().__init__()
        # What another capture may need is the model's too.
        own = source is None
        self._network = network = network.copied() if own else network
        self._saved = saved
        self._source = source
        self._lock = Lock()
        self._packs = Packs(gives_up=own)
        self._first = plan(network, network.sizes, _batch_of(network, network.sizes), self._packs)
        self._plans: dict[tuple[Any, ...], Plan] = {self._key(network.sizes): self._first}
        self._known: tuple[Again, ...] = ()
        self.training = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        may_repeat = not kwargs and not torch.compiler.is_compiling()
        for known in self._known if may_repeat else ():
            done = known.run(args)
            if done is not None:
                return done[0]
        tensors = self._tensors(args, kwargs)
        batch = self._batch(tensors)
        if batch < self._network.least:
            return self._by_model(tensors, batch)
        found = self._plan(tensors, batch)
        autocast = torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()
        with torch.no_grad(), autocast:
            values = found.run(tensors, batch)
            lasts = _lasts(found.network, tensors)
            results = _results(found, values, tensors, batch, lasts)
        new = again(found, args, batch, values, lasts) if may_repeat else None
        if new is not None:
            self._known = (new, *self._known[: MOST_KNOWN - 1])
        return results

    def _by_model(self, tensors: tuple[Tensor, ...], batch: int) -> Any:
        """What the model itself gives for a batch that is smaller than those it was captured for."""
        if self._source is None:
            raise DepthwiseError(
                f"the network is one for batches of {self._network.least} images or more, and got {batch}; a network "
                f"from a file has no model for smaller ones"
            )
        args, kwargs = Call(tensors, self._source.call.takes).tree(tensors)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            found = self._source.model(*args, **kwargs)
        # A view of an input is no result.
        return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, found)

    @property
    def report(self) -> NetworkReport:
        """What runs where, and why, for inputs of the example's sizes."""
        with self._packs.weights():
            return report(self._first, self._saved)

    def profile(self, *args: Any, seconds: float = 1.0, **kwargs: Any) -> Profile:
        """What each node of the network takes with these arguments, each run alone, about so long in all."""
        tensors = self._tensors(args, kwargs)
        batch, least = self._batch(tensors), self._network.least
        if batch < least:
            raise DepthwiseError(
                f"batches below {least} run on the model as it is, of which no node can be timed; got {batch}"
            )
        found = self._plan(tensors, batch)
        with found.packs.weights(), torch.no_grad():
            alone = plan(found.network, self._shapes(tensors), max(batch, 1), found.packs, node_by_node=True)
            return profile(alone, tensors, batch, seconds)

    def save(self, path: str | Path) -> None:
        """Write the network to one safetensors file, which `load_optimized` reads; kernels are made where it runs."""
        with self._packs.weights():
            save(path, self._network, self._saved)

    def train(self, mode: bool = True) -> Optimized:  # noqa: ARG002  nn.Module's own signature
        """The module itself: it is frozen, and computes the same in either mode."""
        return self

    def extra_repr(self) -> str:
        return self.report.summary

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        with self._packs.weights():
            return _of_bytes, (to_bytes(self._network, self._saved),)

    def _tensors(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, ...]:
        """The tensors of a call, checked against those that the network was captured with."""
        if torch._C._get_tracing_state() is not None:
            raise DepthwiseError(
                "torch.jit.trace cannot see into an optimized network: save() keeps it, or trace the model itself"
            )
        specs = self._network.graph.inputs
        found: dict[str, Tensor] = {}
        _match(self._network.graph.takes, (args, kwargs), "the input", found)
        tensors = tuple(found[spec.name] for spec in specs)
        for spec, x in zip(specs, tensors, strict=True):
            if x.device.type != "cpu":
                raise DepthwiseError(f"{spec.name} is on {x.device}; an optimized network runs on the CPU: call .cpu()")
            if x.dtype is not DTYPES[spec.dtype]:
                raise DepthwiseError(
                    f"{spec.name} has dtype {x.dtype}; the network was captured with torch.{spec.dtype}"
                )
            if x.requires_grad and torch.is_grad_enabled():
                raise DepthwiseError(
                    f"{spec.name} requires a gradient, and an optimized network is frozen and has none; give "
                    f"{spec.name}.detach(), call it under torch.no_grad(), or train the model it was made from"
                )
            rank = len(spec.shape)
            if x.dim() != rank or (rank > 1 and not self._network.is_sized and x.shape[1] != spec.shape[1]):
                expected = ", ".join(map(str, (*spec.shape[:2], *("any",) * (rank - 2))))
                raise DepthwiseError(f"{spec.name} must be ({expected}); got the shape {tuple(x.shape)}")
        return tensors

    def _batch(self, tensors: tuple[Tensor, ...]) -> int:
        found = [
            x.shape[0] for spec, x in zip(self._network.graph.inputs, tensors, strict=True) if is_batched(spec.shape)
        ]
        if len(set(found)) > 1:
            raise DepthwiseError(f"the inputs are of different batches: {', '.join(map(str, found))}")
        return found[0] if found else self._network.batch or 1

    def _shapes(self, tensors: tuple[Tensor, ...]) -> dict[str, Shape]:
        return {spec.name: tuple(x.shape) for spec, x in zip(self._network.graph.inputs, tensors, strict=True)}

    def _key(self, shapes: dict[str, Shape]) -> tuple[Any, ...]:
        """What a plan is kept by: all sizes of the inputs but the batch, where that may be any."""
        specs, is_any = self._network.graph.inputs, self._network.batch is None
        return tuple(shapes[spec.name][1 if is_any and is_batched(spec.shape) else 0 :] for spec in specs)

    def _plan(self, tensors: tuple[Tensor, ...], batch: int) -> Plan:
        """The plan for inputs of these sizes."""
        key = self._key(self._shapes(tensors))
        found = self._plans.get(key)
        if found is not None:
            return found
        with self._lock.mine:
            if key not in self._plans:
                most = MOST_CAPTURES if self._network.is_sized else MOST_PLANS
                while len(self._plans) >= most:
                    # The example's is there for the report anyway.
                    del self._plans[next(key for key, kept in self._plans.items() if kept is not self._first)]
                self._plans[key] = self._planned(tensors, batch)
            return self._plans[key]

    def _planned(self, tensors: tuple[Tensor, ...], batch: int) -> Plan:
        network, shapes = self._network, self._shapes(tensors)
        if network.is_sized and not _fits(network, shapes):
            network = self._recaptured(tensors)
            return plan(network, network.sizes, _batch_of(network, network.sizes), Packs())
        batch = network.batch or max(batch, 1)
        return plan(network, at_batch(network, shapes, batch), batch, self._packs)

    def _recaptured(self, tensors: tuple[Tensor, ...]) -> Network:
        sizes = ", ".join(str(shape) for shape in self._network.sizes.values())
        given = ", ".join(str(tuple(x.shape)) for x in tensors)
        if self._source is None:
            raise DepthwiseError(
                f"sizes are baked into this network: it takes {sizes}{self._any_batch()}, and got {given}; a network "
                f"from a file has no model to capture again: optimize the model with an example of that size"
            )
        if any(0 in x.shape for x in tensors):
            raise DepthwiseError(
                f"sizes are baked into this network: it takes {sizes}, and got {given}, which is empty"
            )
        return self._source.network(tensors)

    def _any_batch(self) -> str:
        return "" if self._network.batch is not None else " of any batch"


def load_optimized(path: str | Path) -> Optimized:
    """The network that `Optimized.save` wrote; kernels are made here. Nothing in the file is executed.

    Raises DepthwiseError where the file is not one, is damaged, or was written by a newer version.
    """
    return Optimized(*load(path))


def _of_bytes(content: bytes) -> Optimized:
    return Optimized(*from_bytes(content))


def _lasts(network: Network, tensors: tuple[Tensor, ...]) -> list[bool]:
    """Of the results in turn, whether torch would give them channels-last."""
    last = _is_last(tensors)
    return list(network.gives_last) if last == network.takes_last else [last] * len(network.gives_last)


def _results(
    found: Plan, values: dict[str, Any], tensors: tuple[Tensor, ...], batch: int, lasts: Sequence[bool]
) -> Any:
    """What the network returns, each image in the order of bytes that torch would give it.

    No result lies in memory of an input, a weight or another result: whoever writes into one changes that alone.
    """
    formats, taken = iter(lasts), {address_of(x) for x in tensors}

    def result(leaf: Any) -> Any:
        if isinstance(leaf, Batch):
            return leaf.multiple * batch
        if not isinstance(leaf, Value):
            return leaf
        value = laid_out(values[leaf.name], next(formats))
        address = address_of(value)
        if address is not None and (address in taken or address in found.weight_addresses):
            value = value.clone()
            address = address_of(value)
        taken.add(address)
        return value

    gives = found.network.graph.gives
    return gives.mapped(result) if isinstance(gives, Tree) else result(gives)


def _is_last(tensors: tuple[Tensor, ...]) -> bool:
    return any(map(is_channels_last, tensors))


def _batch_of(network: Network, shapes: dict[str, Shape]) -> int:
    batched = [shapes[spec.name][0] for spec in network.graph.inputs if is_batched(spec.shape)]
    return batched[0] if batched else network.batch or 1


def _fits(network: Network, shapes: dict[str, Shape]) -> bool:
    skipped = [int(is_batched(spec.shape)) for spec in network.graph.inputs]
    names = [spec.name for spec in network.graph.inputs]
    return all(shapes[name][n:] == network.sizes[name][n:] for name, n in zip(names, skipped, strict=True))


def _match(expected: Any, given: Any, place: str, found: dict[str, Tensor]) -> None:
    """Find the tensor of every value in the tree; raise where the call is not like the captured one."""
    if isinstance(expected, Value):
        if not isinstance(given, Tensor):
            raise DepthwiseError(f"{place}: expected a tensor, {expected.name}; got {type(given).__name__}")
        found[expected.name] = given
    elif isinstance(expected, Tree) and expected.kind == "dict":
        if not isinstance(given, dict) or given.keys() != set(expected.keys):
            got = f"{', '.join(map(str, given))}" if isinstance(given, dict) else type(given).__name__
            raise DepthwiseError(
                f"{place}: expected {', '.join(expected.keys) or 'nothing'} by name; got {got or 'nothing'}"
            )
        for key, item in zip(expected.keys, expected.items, strict=True):
            _match(item, given[key], f"{place}[{key!r}]", found)
    elif isinstance(expected, Tree):
        if not isinstance(given, tuple | list) or len(given) != len(expected.items):
            got = f"{len(given)}" if isinstance(given, tuple | list) else f"a {type(given).__name__}"
            raise DepthwiseError(f"{place}: expected {len(expected.items)} arguments as in the example; got {got}")
        for number, (item, one) in enumerate(zip(expected.items, given, strict=True)):
            _match(item, one, f"{place}[{number}]", found)
    elif type(given) is not type(expected) or given != expected:
        raise DepthwiseError(
            f"{place}: the network was captured with {expected!r} here; got {given!r}: optimize it anew"
        )
