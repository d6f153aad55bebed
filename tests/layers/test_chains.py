"""Chains of layers as one node of autograd's, beside the same layers one by one and beside torch's own."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthwise import backend, chains
from depthwise.backends import calls
from depthwise.backends.cpu import chains as cpu_chains
from depthwise.backends.cpu import machine
from depthwise.backends.cpu.lower import excites
from depthwise.backends.cpu.lower.links import ConvNorm
from depthwise.backends.cpu.run import arena, program
from depthwise.backends.cpu.run.program import Stage
from depthwise.bench.peaks import torch_threads
from depthwise.blocks import SqueezeExcite
from depthwise.layers import DepthwiseConv2d, DepthwiseConv3d, turns
from depthwise.layers.turns import in_turn
from tests.layers.test_turns import image, nodes

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")


def pointwise(inputs: int, outputs: int, **settings: Any) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 1, **({"bias": False} | settings))


def block(
    channels: int = 12, wide: int = 40, act: Callable[[], nn.Module] = nn.ReLU6, **window: Any
) -> list[nn.Module]:
    """An inverted residual's convolutions and norms."""
    return [
        *(pointwise(channels, wide), nn.BatchNorm2d(wide), act()),
        *(DepthwiseConv2d(wide, 3, bias=False, **({"padding": 1} | window)), nn.BatchNorm2d(wide), act()),
        *(pointwise(wide, channels), nn.BatchNorm2d(channels)),
    ]


CHAINS: dict[str, Callable[[], list[nn.Module]]] = {
    "inverted residual": block,
    "strided": lambda: block(stride=2),
    "dilated": lambda: block(dilation=2, padding=2, act=nn.SiLU),
    "same at a stride": lambda: block(stride=2, padding="same"),
    "odd channels": lambda: block(5, 19, nn.Hardswish),
    "multiplier": lambda: [
        *(DepthwiseConv2d(12, 3, depth_multiplier=3, bias=False), nn.BatchNorm2d(36), nn.GELU()),
        *(pointwise(36, 8, groups=4), nn.BatchNorm2d(8), nn.ELU(0.5)),
    ],
    "biases, and no parameters": lambda: [
        *(DepthwiseConv2d(12, 5, padding=2), nn.BatchNorm2d(12, affine=False), nn.LeakyReLU(0.1)),
        *(pointwise(12, 24, bias=True), nn.BatchNorm2d(24, track_running_stats=False)),
    ],
    "windows of one pixel": lambda: [
        *(DepthwiseConv2d(12, 1, depth_multiplier=2), nn.BatchNorm2d(24), nn.SiLU()),
        *(pointwise(24, 6, groups=6), nn.BatchNorm2d(6), nn.ReLU()),
    ],
    "one": lambda: [pointwise(12, 24), nn.BatchNorm2d(24), nn.Sigmoid()],
}


def trained(modules: list[nn.Module], x: Tensor, added: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
    """A result, and gradients of all that is its, statistics and numbers of batches."""
    x = x.clone().requires_grad_()
    others = [] if added is None else [added.clone().requires_grad_()]
    for module in modules:
        module.zero_grad()
    out = in_turn(modules, x, *others)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    (out * weights.contiguous(memory_format=torch.preserve_format)).sum().backward()
    found = [x, *others, *(each for module in modules for each in module.parameters())]
    grads = [each.grad for each in found]
    assert all(grad is not None for grad in grads)
    return out, [*(grad.clone() for grad in grads if grad is not None), *(b for m in modules for b in m.buffers())]


def one_by_one(
    monkeypatch: pytest.MonkeyPatch, modules: list[nn.Module], x: Tensor, added: Tensor | None = None
) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(turns, "chained", lambda *_: None)
        out, found = trained(copy.deepcopy(modules), x, added)
    assert "_Chain" not in nodes(out)
    return out, found


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CHAINS)
def test_bit_for_bit_what_its_layers_are_one_by_one(name: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = CHAINS[name]()
    x = image(3, modules[0].in_channels, 11, 9)  # type: ignore[arg-type]
    with torch_threads(threads):
        expected = one_by_one(monkeypatch, modules, x)
        # The first call plans, the second one finds what was planned.
        for _ in range(2):
            out, found = trained(copy.deepcopy(modules), x)
            assert nodes(out).split().count("_ChainBackward") == 1
            assert "NormActivation" not in nodes(out)
            assert torch.equal(out, expected[0])
            assert out.stride() == expected[0].stride()
            assert all(map(torch.equal, found, expected[1]))


def test_of_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    modules: list[nn.Module] = [DepthwiseConv3d(6, 3, padding=1), nn.BatchNorm3d(6), nn.SiLU()]
    x = torch.randn(2, 6, 5, 6, 7).contiguous(memory_format=torch.channels_last_3d)
    expected, (out, found) = one_by_one(monkeypatch, modules, x), trained(copy.deepcopy(modules), x)
    assert "_Chain" in nodes(out)
    assert torch.equal(out, expected[0])
    assert all(map(torch.equal, found, expected[1]))


@pytest.mark.parametrize("own", [True, False])
def test_what_is_added_to_the_last_norm(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    modules, x = block(), image(3, 12, 11, 9)
    added = x if own else image(3, 12, 11, 9)
    expected, (out, found) = one_by_one(monkeypatch, modules, x, added), trained(copy.deepcopy(modules), x, added)
    assert "AddBackward" not in nodes(out)
    assert torch.equal(out, expected[0])
    assert all(map(torch.equal, found, expected[1]))


def test_what_is_added_behind_an_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    modules, x = [*block(), nn.ReLU()], image(3, 12, 11, 9)
    expected, (out, found) = one_by_one(monkeypatch, modules, x, x), trained(copy.deepcopy(modules), x, x)
    assert nodes(out).split().count("_ChainBackward") == 1
    assert torch.equal(out, expected[0])
    assert all(map(torch.equal, found, expected[1]))


def test_norms_with_parameters_after_norms_without(monkeypatch: pytest.MonkeyPatch) -> None:
    x = image(3, 12, 11, 9)
    for affine in (True, False, True):
        modules = [pointwise(12, 24), nn.BatchNorm2d(24, affine=affine), nn.ReLU()]
        expected, (out, found) = one_by_one(monkeypatch, modules, x), trained(copy.deepcopy(modules), x)
        assert torch.equal(out, expected[0])
        assert all(map(torch.equal, found, expected[1]))


def excited() -> list[nn.Module]:
    return [*block()[:6], SqueezeExcite(40, 10, gate=nn.Sigmoid), *block()[6:]]


def apart(patch: pytest.MonkeyPatch) -> None:
    """Squeeze-excites and the convolutions behind them by themselves."""
    patch.setattr(excites, "FEWEST_PIXELS", inf)
    patch.setattr(chains, "_seen", calls.Seen())


@pytest.mark.parametrize("gates", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_squeeze_excite_within(gates: bool, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not gates:
        apart(monkeypatch)
    modules, x = excited(), image(3, 12, 11, 9)
    with torch_threads(threads):
        out, found = trained(copy.deepcopy(modules), x)
    assert nodes(out).split().count("_ChainBackward") == 1
    exact = [copy.deepcopy(module).double() for module in modules]
    expected, best = trained(exact, x.double())
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-4)
    scale = max(float(grad.double().norm()) for grad in best)
    assert max(float((a.double() - b.double()).norm()) for a, b in zip(found, best, strict=True)) < 1e-6 * scale


def test_any_number_of_threads_gives_a_squeeze_excites_bits() -> None:
    modules, x = excited(), image(5, 12, 11, 9)
    results = []
    for threads in (1, 2, 3):
        with torch_threads(threads):
            results.append(trained(copy.deepcopy(modules), x))
    for out, found in results[1:]:
        assert torch.equal(out, results[0][0])
        assert all(map(torch.equal, found, results[0][1]))


@pytest.mark.parametrize(
    ("last", "height", "is_one"),
    [
        (pointwise(40, 12), 2, True),
        (pointwise(40, 12), 1, False),
        (pointwise(40, 12, bias=True), 4, False),
        (pointwise(40, 12, groups=2), 4, False),
        (DepthwiseConv2d(40, 3, padding=1, bias=False), 4, False),
    ],
    ids=["many pixels", "few", "a bias", "groups", "depthwise"],
)
def test_factors_go_into_the_weights_behind(
    last: Any, height: int, is_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the convolution behind is pointwise and the image large enough; numbers are what they are apart."""
    outputs = last.weight.shape[0]
    modules, x = [*block()[:3], SqueezeExcite(40, 10), last, nn.BatchNorm2d(outputs)], image(2, 12, height, 3)
    made: list[Any] = []
    monkeypatch.setattr(cpu_chains, "joined", lambda links: made.append(excites.joined(links)) or made[-1])  # type: ignore[func-returns-value]
    out, found = trained(copy.deepcopy(modules), x)
    assert [isinstance(link, excites.GatedConvNorm) for link in made[0]].count(True) == is_one
    with monkeypatch.context() as patch:
        apart(patch)
        expected, theirs = trained(copy.deepcopy(modules), x)
    torch.testing.assert_close(out, expected)
    scale = max(float(grad.double().norm()) for grad in theirs)
    assert max(float((a.double() - b.double()).norm()) for a, b in zip(found, theirs, strict=True)) < 1e-5 * scale


@pytest.mark.parametrize("make", [block, excited])
def test_gradients_of_gradients(make: Callable[[], list[nn.Module]]) -> None:
    modules, x = make(), image(2, 12, 5, 6)
    found = []
    for name in (None, "eager"):
        own, given = copy.deepcopy(modules), x.clone().requires_grad_()
        with backend(name) if name else torch.enable_grad():
            out = in_turn(own, given)
            weights = torch.linspace(-1, 1, out.numel()).view_as(out)
            (first,) = torch.autograd.grad((out * weights).sum(), given, create_graph=True)
            (first * weights.sin()).sum().backward()
        # On what is added last a gradient does not depend.
        grads = [(p, p.grad) for p in (given, *(p for module in own for p in module.parameters()))]
        found.append([torch.zeros_like(p) if grad is None else grad for p, grad in grads])
    scale = max(float(each.abs().max()) for each in found[1])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4 * scale, rtol=1e-3)


def test_gradients_that_are_asked_for_alone() -> None:
    modules, x = block(), image(3, 12, 11, 9).requires_grad_()
    out = in_turn(modules, x)
    (alone,) = torch.autograd.grad(out.square().sum(), x, retain_graph=True)
    filters: Any = modules[3].weight
    (weight,) = torch.autograd.grad(out.square().sum(), filters, retain_graph=True)
    out.square().sum().backward()
    assert torch.equal(alone, x.grad)  # type: ignore[arg-type]
    assert torch.equal(weight, filters.grad)
    first = in_turn(modules, x.detach())
    first.square().sum().backward()
    assert "_Chain" in nodes(first)


def test_a_gradient_that_lies_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    modules, x = block(), image(3, 12, 11, 9)
    found = []
    for chain in (True, False):
        with monkeypatch.context() as patch:
            if not chain:
                patch.setattr(turns, "chained", lambda *_: None)
            own, given = copy.deepcopy(modules), x.clone().requires_grad_()
            in_turn(own, given).mean().backward()
            found.append([given.grad, *(p.grad for module in own for p in module.parameters())])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_what_hooks_give_back_is_looked_at_anew() -> None:
    modules, x = block(), image(3, 12, 11, 9)
    _, expected = trained(copy.deepcopy(modules), x)

    def apart(tensor: Tensor) -> Tensor:
        wide = torch.zeros(*tensor.shape, 2)
        wide[..., 0] = tensor
        return wide[..., 0]

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, apart):
        _, found = trained(copy.deepcopy(modules), x)
    scale = max(float(each.abs().max()) for each in expected)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5 * scale, rtol=1e-4)


def test_a_hook_that_gives_back_less_is_no_read_beside_it() -> None:
    modules, x = block(), image(3, 12, 11, 9)
    shape = modules[0].weight.shape

    def less(tensor: Tensor) -> Tensor:
        return tensor[:1] if tensor.shape == shape else tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, less):
        out = in_turn(modules, x)
        assert "_Chain" in nodes(out)
        with pytest.raises(RuntimeError):
            out.sum().backward()


def changed(change: Callable[[list[Any]], object]) -> list[nn.Module]:
    modules = block()
    change(modules)
    return modules


@pytest.mark.parametrize(
    "modules",
    [
        changed(lambda m: m[3].weight.requires_grad_(requires_grad=False)),
        changed(lambda m: m[4].bias.requires_grad_(requires_grad=False)),
        changed(lambda m: [m[i].eval() for i in (1, 4, 7)]),
        changed(lambda m: [m[i].__dict__.update(momentum=None) for i in (1, 4, 7)]),
        changed(lambda m: [m[i].register_forward_hook(lambda *_: None) for i in (0, 3, 6)]),
        changed(lambda m: [m[i].__dict__.update(padding_mode="reflect") for i in (0, 3, 6)]),
        2 * [pointwise(12, 12), nn.BatchNorm2d(12), nn.SiLU()],
    ],
    ids=["a filter", "a norm", "eval", "momentum", "hooks", "padding", "twice the same"],
)
def test_what_stays_part_by_part(modules: list[nn.Module]) -> None:
    x = image(3, 12, 11, 9)
    out = in_turn(copy.deepcopy(modules), x)
    with backend("eager"):
        expected = in_turn(copy.deepcopy(modules), x)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    out.square().sum().backward()
    convolutions = nodes(out).split().count("_RecordedBackward") + nodes(out).count("ConvolutionBackward")
    # Of all of them no node stands for the whole.
    assert convolutions > 0


@pytest.mark.parametrize("kind", ["contiguous", "float64", "no gradient", "eager", "autocast"])
def test_calls_that_stay_part_by_part(kind: str) -> None:
    modules, x = block(), image(3, 12, 11, 9)
    if kind == "float64":
        modules, x = [module.double() for module in modules], x.double()
    given = x.contiguous() if kind == "contiguous" else x
    around: Any = {
        "no gradient": torch.no_grad,
        "eager": lambda: backend("eager"),
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    }.get(kind, torch.enable_grad)
    if kind in ("no gradient", "eager", "autocast"):
        # What ran before does not run now.
        assert "_Chain" in nodes(in_turn(modules, given))
    with around():
        assert "_Chain" not in nodes(in_turn(modules, given))


def test_a_backward_pass_in_autocast_is_in_float32() -> None:
    modules, x = excited(), image(3, 12, 11, 9).requires_grad_()
    out = in_turn(modules, x)
    expected = torch.autograd.grad(out.square().sum(), x, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(out.square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "modules", [block(), [nn.BatchNorm2d(12), nn.GELU()], [pointwise(12, 12)]], ids=["chain", "norm", "convolution"]
)
def test_many_gradients_of_one_result_at_once(modules: list[nn.Module]) -> None:
    x = image(3, 12, 11, 9).requires_grad_()
    out, weights = in_turn(modules, x), torch.randn(2, 3, 12, 11, 9)

    def gradient(weight: Tensor) -> Tensor:
        return torch.autograd.grad(out, x, weight, retain_graph=True)[0]

    found, expected = torch.func.vmap(gradient)(weights), torch.stack([*map(gradient, weights)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("first", [[], [pointwise(4, 4)]], ids=["norm", "chain"])
def test_nested_tensors_after_others_are_an_error(first: list[nn.Module]) -> None:
    modules = [*first, nn.BatchNorm2d(4)]
    in_turn(modules, image(2, 4, 5, 6))
    with pytest.raises((NotImplementedError, RuntimeError)):
        in_turn(modules, torch.nested.nested_tensor([torch.randn(4, 5, 6), torch.randn(4, 5, 6)]))


@pytest.mark.parametrize("modules", [[pointwise(4, 4), nn.BatchNorm3d(4)], [nn.Conv3d(4, 4, 1), nn.BatchNorm2d(4)]])
def test_norms_of_another_rank_are_torchs_error(modules: list[nn.Module]) -> None:
    rank = modules[0].weight.dim()  # type: ignore[operator]
    x = torch.randn(2, 4, *(5,) * (rank - 2))
    x = x.contiguous(memory_format=torch.channels_last if rank == 4 else torch.channels_last_3d)
    with pytest.raises(ValueError, match=f"got {rank}D input"):
        in_turn(modules, x)


def test_one_pixel_is_torchs_error() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        in_turn(block(), image(1, 12, 1, 1))


def test_what_the_profiler_calls_them() -> None:
    modules, x = excited(), image(3, 12, 11, 9)
    with torch.profiler.profile() as profile:
        trained(modules, x)
    names = {event.key for event in profile.key_averages()}
    title = (
        "depthwise: pointwise 12 to 40, depthwise 3x3 40 to 40, squeeze-excite 40, pointwise 40 to 12, with batch norms"
    )
    assert {title, f"{title}, backward"} <= names


def test_no_tensor_is_kept() -> None:
    modules, x = block(), image(3, 12, 11, 9)
    out, _ = trained(modules, x)
    kept = weakref.ref(out)
    del out
    assert kept() is None


def weights_of_another(patch: pytest.MonkeyPatch) -> None:
    whole = ConvNorm.backward

    def backward(link: Any, number: int, source: str, dy: str, dx: str | None, *, weights: bool) -> Any:
        return whole(link, number, "out1" if source == "out0" else source, dy, dx, weights=weights)

    patch.setattr(ConvNorm, "backward", backward)


def statistics_of_another(patch: pytest.MonkeyPatch) -> None:
    whole = Stage.renamed

    def renamed(stage: Stage, names: Any) -> Stage:
        found = whole(stage, names)
        changed = {"statistics1": "statistics0"}
        return replace(found, buffers=tuple((a, changed.get(b, b)) for a, b in found.buffers))

    patch.setattr(Stage, "renamed", renamed)


def factors_of_no_gradient(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(excites.SqueezeExcite, "to_the_means", lambda *_, **__: iter(()))


def factors_not_activated(patch: pytest.MonkeyPatch) -> None:
    whole = Stage.renamed

    def renamed(stage: Stage, names: Any) -> Stage:
        found = whole(stage, names)
        changed = {"gate": "expanded3", "scale": "expanded3"}
        return replace(found, buffers=tuple((a, changed.get(a, b)) for a, b in found.buffers))

    patch.setattr(Stage, "renamed", renamed)


def gradients_in_one_place(patch: pytest.MonkeyPatch) -> None:
    whole = arena.places
    # All lie at the start of a memory as large as before.
    patch.setattr(program, "places", lambda buffers: (dict.fromkeys(whole(buffers)[0], 0), whole(buffers)[1]))


def nothing_added(patch: pytest.MonkeyPatch) -> None:
    whole = cpu_chains._Chain.backward

    def backward(ctx: Any, dy: Tensor) -> Any:
        first, second, dx, _, *others = whole(ctx, dy)
        return first, second, dx, None, *others

    patch.setattr(cpu_chains._Chain, "backward", staticmethod(backward))


@pytest.mark.parametrize("mutant", [factors_of_no_gradient, factors_not_activated], ids=lambda each: each.__name__)
def test_mutants_of_squeeze_excites_are_seen(
    mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "bound", lambda _, bind: bind())
    monkeypatch.setattr(chains, "_seen", calls.Seen())
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        test_a_squeeze_excite_within(True, 1, monkeypatch)


@pytest.mark.parametrize(
    "mutant",
    [weights_of_another, statistics_of_another, gradients_in_one_place, nothing_added],
    ids=lambda each: each.__name__,
)
def test_mutants_are_seen(mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    modules, x, added = block(12, 12, nn.SiLU), image(3, 12, 11, 7), image(3, 12, 11, 7)
    expected = one_by_one(monkeypatch, modules, x, added)
    # Nothing that was planned before is found, and nothing of this afterwards.
    monkeypatch.setattr(calls, "bound", lambda _, bind: bind())
    monkeypatch.setattr(chains, "_seen", calls.Seen())
    mutant(monkeypatch)
    try:
        _, found = trained(copy.deepcopy(modules), x, added)
    except AssertionError:
        return
    assert not all(map(torch.equal, found, expected[1]))
