"""Planted faults in the passes: each must show, or the checks would let such a fault by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise import DepthwiseError
from depthwise.folding import scale_and_shift_of
from depthwise.optimize import frozen
from depthwise.optimize.graph import Node, Value
from depthwise.optimize.network import Network, Rewriting
from depthwise.optimize.passes import PASSES, activations, branches, gates, norms, padding, separable
from tests.support.networks import Calls
from tests.support.whole import difference, randomised


def conv(inputs: int, outputs: int, kernel: int, **window: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, bias=False, **window)  # type: ignore[arg-type]


def model() -> nn.Module:
    """A network that needs every pass: a padded stem, branches, a shared layer, a residual, a separable block."""
    parts = {
        "stem": conv(4, 8, 3, stride=2),
        "stem_norm": nn.BatchNorm2d(8),
        "three": nn.Sequential(conv(8, 8, 3, padding=1), nn.BatchNorm2d(8)),
        "one": nn.Sequential(conv(8, 8, 1), nn.BatchNorm2d(8)),
        "norm": nn.BatchNorm2d(8),
        "shared": conv(8, 8, 3, padding=1),
        "first_norm": nn.BatchNorm2d(8),
        "second_norm": nn.BatchNorm2d(8),
        "depthwise": nn.Sequential(conv(8, 8, 3, padding=2, dilation=2, groups=8), nn.BatchNorm2d(8)),
        "pointwise": nn.Sequential(conv(8, 8, 1), nn.BatchNorm2d(8)),
        "late": conv(8, 8, 3, padding=1),
        "excite": conv(8, 8, 1),
        "project": conv(8, 8, 1),
        "read_twice": conv(8, 8, 1),
        "late_norm": nn.BatchNorm2d(8),
    }

    def forward(x: Tensor, **p: Any) -> tuple[Tensor, Tensor]:
        x = F.relu(p["stem_norm"](p["stem"](F.pad(x, (0, 1, 2, 0)))))
        x = F.silu(p["three"](x) - p["one"](x) + p["norm"](x))
        x = p["second_norm"](p["shared"](F.relu(p["first_norm"](p["shared"](x)))))
        x = F.relu6(p["pointwise"](F.hardswish(p["depthwise"](x))) + x)
        x = F.relu(p["late"](x)) + x
        x = p["project"](x * torch.sigmoid(p["excite"](x.mean((2, 3), keepdim=True)))) + x
        twice = p["read_twice"](x)
        return p["late_norm"](twice) * 2, twice

    torch.manual_seed(1)
    return randomised(Calls(forward, **parts))


def worst() -> float:
    network = model()
    found = frozen.optimize(network, torch.zeros(1, 4, 13, 12))
    return difference(found, network, torch.randn(2, 4, 13, 12))


def test_without_a_fault_all_is_well() -> None:
    network = model()
    found = frozen.optimize(network, torch.zeros(1, 4, 13, 12))
    assert difference(found, network, torch.randn(2, 4, 13, 12)) <= 1
    saved = dict(found.report.saved)
    assert all(saved[name] for name in ("norms", "padding", "branches", "activations", "separable", "layout", "gates"))


def residual_dropped(patch: pytest.MonkeyPatch) -> None:
    whole = activations._with_residual
    dropped = lambda node, r: (found := whole(node, r)) and found.changed(residual=None)  # noqa: E731
    patch.setattr(activations, "_with_residual", dropped)


def another_activation(patch: pytest.MonkeyPatch) -> None:
    whole = activations.activation_of
    patch.setattr(activations, "activation_of", lambda node: whole(node) and ("relu", 0.0))


def residual_before_the_activation(patch: pytest.MonkeyPatch) -> None:
    def fused(node: Node, rewriting: Rewriting) -> Node | None:
        conv = activations._alone(node, "self", rewriting)
        return conv and activations._at(node, conv.changed(residual=node["other"]))

    patch.setattr(activations, "_with_residual", fused)


def scale_twice(patch: pytest.MonkeyPatch) -> None:
    whole = scale_and_shift_of
    patch.setattr(norms, "scale_and_shift_of", lambda *given: (whole(*given)[0] ** 2, whole(*given)[1]))


def shift_forgotten(patch: pytest.MonkeyPatch) -> None:
    whole = scale_and_shift_of
    patch.setattr(norms, "scale_and_shift_of", lambda *given: (whole(*given)[0], whole(*given)[1] * 0))


def eps_forgotten(patch: pytest.MonkeyPatch) -> None:
    whole = scale_and_shift_of
    patch.setattr(norms, "scale_and_shift_of", lambda m, v, w, b, _: whole(m, v, w, b, 1e-3))


def shared_convolution_folded_once(patch: pytest.MonkeyPatch) -> None:
    whole = Rewriting.weight
    patch.setattr(Rewriting, "weight", lambda self, key, make, hint: whole(self, key[:2], make, hint))


def weights_scaled_in_place(patch: pytest.MonkeyPatch) -> None:
    whole = Rewriting.weight

    def weight(self: Rewriting, key: Any, make: Callable[[], Tensor], hint: str) -> Any:
        found = whole(self, key, make, hint)
        if key[0] == "weight" and isinstance(key[1], type(found)):
            self.weights[key[1].name] = self.weights[found.name]
        return found

    patch.setattr(Rewriting, "weight", weight)


def norm_in_the_wrong_branch(patch: pytest.MonkeyPatch) -> None:
    whole = branches._branch

    def branch(argument: Any, rewriting: Rewriting) -> Any:
        found = whole(argument, rewriting)
        return replace(found, scale=found.scale.flip(0)) if found is not None and found.scale.dim() else found

    patch.setattr(branches, "_branch", branch)


def kernel_in_the_corner(patch: pytest.MonkeyPatch) -> None:
    whole = branches._place
    patch.setattr(branches, "_place", lambda *given: (found := whole(*given)) and tuple(0 for _ in found))


def difference_added(patch: pytest.MonkeyPatch) -> None:
    whole = branches._merged
    patch.setattr(branches, "_merged", lambda node, _, rewriting: whole(node, 1, rewriting))


def padding_the_other_way(patch: pytest.MonkeyPatch) -> None:
    whole = padding._around
    patch.setattr(padding, "_around", lambda *given: (found := whole(*given)) and tuple((b, a) for a, b in found))


def padding_of_the_other_axis(patch: pytest.MonkeyPatch) -> None:
    whole = padding._around
    patch.setattr(padding, "_around", lambda *given: (found := whole(*given)) and tuple(reversed(found)))


def middle_activation_lost(patch: pytest.MonkeyPatch) -> None:
    whole = separable._joined
    patch.setattr(separable, "_joined", lambda *given: whole(*given).changed(depthwise_activation=None))


def dilation_lost(patch: pytest.MonkeyPatch) -> None:
    whole = separable._joined

    def joined(first: Node, last: Node) -> Node:
        return whole(first, last).changed(dilation=(1, 1), padding=((1, 1), (1, 1)))

    patch.setattr(separable, "_joined", joined)


def gate_forgotten(patch: pytest.MonkeyPatch) -> None:
    def fuse(network: Network) -> Network:
        rewriting = Rewriting(network)
        for node in rewriting.each():
            found = node.operator == "mul" and gates._image_and_gate(node, rewriting)
            if found:
                rewriting.skip(node, found[0].name)
        return rewriting.done()

    patch.setitem(PASSES, "gates", fuse)


def gated_by_its_mean(patch: pytest.MonkeyPatch) -> None:
    whole = gates._image_and_gate

    def other(product: Node, rewriting: Rewriting) -> Any:
        found = whole(product, rewriting)
        mean = next(node.name for node in rewriting.nodes.values() if node.operator == "mean")
        return found and (found[0], Value(mean))

    patch.setattr(gates, "_image_and_gate", other)


def residual_of_a_gate_dropped(patch: pytest.MonkeyPatch) -> None:
    whole = gates.fuse_gates

    def fuse(network: Network) -> Network:
        graph = (found := whole(network)).graph
        nodes = (node.changed(residual=None) if node.operator == "gated" else node for node in graph.nodes)
        return replace(found, graph=replace(graph, nodes=tuple(nodes)))

    patch.setitem(PASSES, "gates", fuse)


def factor_ignored(patch: pytest.MonkeyPatch) -> None:
    def drop(network: Network) -> Network:
        rewriting = Rewriting(network)
        for node in rewriting.each():
            if node.operator == "mul":
                rewriting.skip(node, node["self"].name)
        return rewriting.done()

    patch.setitem(PASSES, "identities", drop)


@pytest.mark.parametrize(
    "plant",
    [
        residual_dropped,
        another_activation,
        residual_before_the_activation,
        scale_twice,
        shift_forgotten,
        eps_forgotten,
        shared_convolution_folded_once,
        weights_scaled_in_place,
        norm_in_the_wrong_branch,
        kernel_in_the_corner,
        difference_added,
        padding_the_other_way,
        padding_of_the_other_axis,
        middle_activation_lost,
        dilation_lost,
        gate_forgotten,
        gated_by_its_mean,
        residual_of_a_gate_dropped,
        factor_ignored,
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_fault_shows(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    try:
        error = worst()
    # Sizes that are no longer right show too.
    except (AssertionError, DepthwiseError):
        return
    assert not error <= 1
