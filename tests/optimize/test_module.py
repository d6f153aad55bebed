"""The module that `optimize` gives: every way to call it, and what it refuses."""

from __future__ import annotations

import copy
import gc
import pickle
import signal
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import depthwise
from depthwise import DepthwiseError, SeparableConv2d, load_optimized, optimize
from depthwise.optimize import module
from depthwise.optimize.frozen import optimized
from depthwise.optimize.module import MOST_CAPTURES, MOST_PLANS, Optimized
from tests.support.networks import Calls, InvertedResidual
from tests.support.whole import difference, randomised


def block() -> nn.Module:
    return randomised(
        nn.Sequential(InvertedResidual(8, 16, squeeze=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    )


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, Optimized]:
    torch.manual_seed(0)
    model = block()
    return model, optimize(model, torch.zeros(1, 8, 12, 12))


Pair = tuple[nn.Module, Optimized]


@pytest.mark.parametrize("sizes", [(1, 8, 12, 12), (7, 8, 12, 12), (0, 8, 12, 12), (2, 8, 9, 31), (1, 8, 1, 1)])
def test_any_batch_and_any_size(pair: Pair, sizes: tuple[int, ...]) -> None:
    model, found = pair
    assert difference(found, model, torch.randn(sizes)) <= 1


def test_every_layout_of_the_input(pair: Pair) -> None:
    model, found = pair
    x = torch.randn(2, 8, 12, 12)
    for given in (
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(2, 3),
        torch.randn(4, 16, 24, 24)[::2, ::2, ::2, ::2],
    ):
        assert difference(found, model, given) <= 1


def test_results_lie_as_torch_gives_them() -> None:
    model = randomised(nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU()))
    turned = Calls(lambda x, conv: conv(x).permute(0, 2, 3, 1), conv=model)
    for network in (model, turned):
        found = optimize(network, torch.zeros(1, 4, 8, 8))
        for x in (torch.randn(2, 4, 9, 8), torch.randn(2, 4, 9, 8).contiguous(memory_format=torch.channels_last)):
            with torch.no_grad():
                expected = network(x)
            if network is model:
                assert found(x).stride() == expected.stride()
            assert found(x).shape == expected.shape
    contiguous = torch.zeros(1, 4, 8, 8)
    last = optimize(model, contiguous.contiguous(memory_format=torch.channels_last))
    assert last(torch.zeros(2, 4, 8, 8)).is_contiguous()


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_with_and_without_gradients(pair: Pair, context: Callable[[], Any]) -> None:
    model, found = pair
    x = torch.randn(2, 8, 12, 12)
    expected = model(x).detach()
    with context():
        result = found(x)
    assert not result.requires_grad
    assert (result - expected).abs().max() < 1e-4


def test_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = block()
        found = optimize(model, torch.zeros(1, 8, 12, 12))
        assert difference(found, model, torch.randn(2, 8, 12, 12)) <= 1
    weight = torch.ones(5, requires_grad=True)
    (found(torch.randn(2, 8, 12, 12)) * weight).sum().backward()
    assert weight.grad is not None


def test_autocast_lowers_nothing(pair: Pair) -> None:
    _, found = pair
    x = torch.randn(2, 8, 12, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = found(x)
    assert inside.dtype is torch.float32
    assert torch.equal(inside, found(x))


def test_within_what_torch_compiles(pair: Pair) -> None:
    model, fast = pair
    x = torch.randn(2, 8, 12, 12)
    torch.compiler.reset()
    around = torch.compile(nn.Sequential(nn.Identity(), fast, nn.ReLU()), backend="eager")
    with torch.no_grad(), warnings.catch_warnings():
        # Of functions that remember, which Dynamo looks through.
        warnings.simplefilter("ignore", UserWarning)
        expected = model(x).relu()
        for _ in range(2):
            torch.testing.assert_close(around(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_tracers_and_transforms(pair: Pair) -> None:
    model, fast = pair
    x = torch.randn(2, 1, 8, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(fast)(x)[0], model(x[0]), atol=1e-4, rtol=1e-4)
        with pytest.raises(DepthwiseError, match="cannot see into an optimized network"):
            torch.jit.trace(fast, x[0])


def test_another_backend_by_name(pair: Pair) -> None:
    model, found = pair
    with depthwise.backend("eager"):
        assert difference(found, model, torch.randn(2, 8, 12, 12)) <= 1


class Many(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.separable = SeparableConv2d(4, 6, 3, padding=1)

    def forward(self, images: dict[str, Tensor], factor: float, *, other: list[Tensor]) -> Any:
        y = self.separable(images["left"] + images["right"]) * factor
        return {"features": [y, F.relu(y)], "sums": (y.sum((2, 3)), other[0] * 2), "factor": factor, "none": None}


def test_dicts_tuples_lists_and_numbers() -> None:
    model = Many().eval()
    images = {name: torch.randn(1, 4, 7, 7) for name in ("left", "right")}
    found = optimize(model, {"images": images, "factor": 2.0, "other": [torch.zeros(1, 3)]})
    given = {
        "images": {n: torch.randn(3, 4, 9, 8) for n in ("left", "right")},
        "factor": 2.0,
        "other": [torch.ones(3, 3)],
    }
    expected, result = model(**given), found(**given)
    assert list(result) == ["features", "sums", "factor", "none"]
    assert isinstance(result["features"], list)
    assert isinstance(result["sums"], tuple)
    assert (result["factor"], result["none"]) == (2.0, None)
    for ours, theirs in zip(
        (*result["features"], *result["sums"]), (*expected["features"], *expected["sums"]), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    positional = optimize(nn.Bilinear(3, 4, 5), (torch.zeros(1, 3), torch.zeros(1, 4)))
    assert positional(torch.zeros(6, 3), torch.zeros(6, 4)).shape == (6, 5)


def test_sizes_may_be_results() -> None:
    found = optimize(Calls(lambda x: {"rows": x.shape[0] * 2, "y": x.relu(), "columns": x.shape[1]}), torch.zeros(1, 3))
    result = found(torch.ones(4, 3))
    assert (result["rows"], result["columns"], result["y"].sum().item()) == (8, 3, 12)


def test_an_input_may_be_a_result() -> None:
    found = optimize(nn.Identity(), torch.zeros(1, 3))
    assert torch.equal(found(torch.ones(2, 3)), torch.ones(2, 3))
    assert found.report.summary == "no convolutions; all 0 operators run by torch"


def test_a_constant_may_be_a_result() -> None:
    layer = nn.Linear(2, 2)
    model = Calls(lambda x, layer: (x, layer.weight), layer=layer)
    _, weight = optimize(model, torch.zeros(1, 3))(torch.zeros(1, 3))
    assert torch.equal(weight, layer.weight)


def test_a_model_with_nothing_for_the_kernels_works_and_says_so() -> None:
    model = nn.Sequential(nn.Tanh(), nn.Softplus(), nn.Tanh()).eval()
    found = optimize(model, torch.zeros(1, 4))
    assert difference(found, model, torch.randn(3, 4)) <= 1
    assert "no convolutions; all 3 operators run by torch" in str(found.report)


def test_float64_models_are_run_by_torch() -> None:
    model = block().double()
    found = optimize(model, torch.zeros(1, 8, 12, 12, dtype=torch.float64))
    x = torch.randn(2, 8, 12, 12, dtype=torch.float64)
    torch.testing.assert_close(found(x), model(x).detach())
    assert found.report.convolutions[0] == 0
    assert "torch.float64 is not supported" in str(found.report)


def fixed() -> nn.Module:
    return randomised(
        nn.Sequential(
            SeparableConv2d(4, 4, 3, padding=1), Calls(lambda x: F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:]))
        )
    )


def test_a_size_that_is_baked_in_is_captured_again_and_kept() -> None:
    model = fixed()
    found = optimize(model, torch.zeros(1, 4, 8, 8))
    assert found.report.is_sized
    for size in range(8, 8 + 2 * MOST_CAPTURES, 2):
        for _ in range(2):
            assert difference(found, model, torch.randn(2, 4, size, size + 2)) <= 1
    assert len(found._plans) == MOST_CAPTURES
    assert difference(found, model, torch.randn(0, 4, 8, 8)) <= 1
    with pytest.raises(DepthwiseError, match=r"it takes \(2, 4, 8, 8\), and got \(1, 4, 0, 8\), which is empty"):
        found(torch.zeros(1, 4, 0, 8))


def test_a_batch_that_is_baked_in_is_captured_again() -> None:
    model = Calls(lambda x: x * (x.shape[0] + 1))
    found = optimize(model, torch.zeros(3, 4))
    assert found.report.batch == 3
    assert "the batch is fixed to 3: other of mul in the model depends on the batch" in str(found.report)
    assert difference(found, model, torch.randn(3, 4)) <= 1
    assert difference(found, model, torch.randn(5, 4)) <= 1


def test_plans_are_bounded(pair: Pair) -> None:
    _, found = pair
    for width in range(3, 3 + 2 * MOST_PLANS):
        found(torch.zeros(1, 8, 3, width))
    assert len(found._plans) == MOST_PLANS


def test_many_threads_at_once(pair: Pair) -> None:
    model, found = pair
    inputs = [torch.randn(1 + n % 3, 8, 10 + n % 2, 12) for n in range(8)]
    expected = [model(x).detach() for x in inputs]
    worst = [0.0] * len(inputs)
    barrier = threading.Barrier(len(inputs))

    def work(n: int) -> None:
        barrier.wait()
        for _ in range(20):
            worst[n] = max(worst[n], (found(inputs[n]) - expected[n]).abs().max().item())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(worst) < 1e-4


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="signals")
def test_a_handler_that_calls_what_is_being_planned(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    model, fast = pair[0], optimize(pair[0], torch.zeros(1, 8, 12, 12))
    x = torch.randn(1, 8, 10, 11)
    inside: list[Any] = []
    own: Any = vars(module)["plan"]

    def interrupted(*args: Any) -> Any:
        if not inside:
            signal.raise_signal(signal.SIGUSR1)
        return own(*args)

    monkeypatch.setattr(module, "plan", interrupted)

    def handler(*_: object) -> None:
        inside.append(None)
        inside.append(fast(x))

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        y = fast(x)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert torch.equal(y, inside[1])
    assert torch.allclose(y, model.eval()(x), atol=1e-5)


def test_the_result_owns_its_weights() -> None:
    model = block()
    x = torch.randn(2, 8, 12, 12)
    found = optimize(model, x)
    before = found(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(found(x), before)
    assert list(found.parameters()) == []
    seen = weakref.ref(model)
    del model
    gc.collect()
    assert seen() is None


def test_tied_weights_are_stored_once() -> None:
    first, second = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
    second.weight = first.weight
    model = nn.Sequential(first, nn.Tanh(), second)
    assert optimize(model, torch.zeros(1, 64)).report.weight_bytes == 4 * 64 * 64


def test_copies_and_pickles(pair: Pair) -> None:
    _, found = pair
    x = torch.randn(2, 8, 12, 12)
    for other in (copy.deepcopy(found), pickle.loads(pickle.dumps(found)), copy.copy(found)):
        assert torch.equal(other(x), found(x))
        assert str(other.report) == str(found.report)


def test_modes_and_printing(pair: Pair) -> None:
    _, found = pair
    assert found.train() is found
    assert not found.training
    assert found.eval()(torch.zeros(1, 8, 12, 12)).shape == (1, 5)
    assert repr(found) == "Optimized(5 of 5 convolutions on our kernels, 1 segment)"


def test_the_profile_tells_each_nodes_time(pair: Pair) -> None:
    _, found = pair
    profile = found.profile(torch.randn(2, 8, 12, 12), seconds=0.01)
    assert len(profile.timings) == len(found.report.layers)
    assert all(timing.seconds > 0 for timing in profile.timings)
    assert profile.batch == 2


@pytest.mark.parametrize("images", [1, 2])
def test_batches_smaller_than_what_is_sliced_off(images: int, tmp_path: Path) -> None:
    """The forward reads how many images it has sliced off: both captures have the same number, smaller batches none."""

    def forward(x: Tensor) -> Tensor:
        first = x.relu()[:images]
        return first.reshape(first.shape[0], 27).repeat(2, 1)

    model = Calls(forward).eval()
    found = optimize(model, torch.zeros(1, 3, 3, 3))
    for batch in (0, 1, 2, 3):
        x = torch.randn(batch, 3, 3, 3)
        assert torch.equal(found(x), model(x))
    assert f"batches below {images} run on the model as it is, which does something else for them" in str(found.report)
    assert found.profile(x, seconds=0).batch == 3
    with pytest.raises(DepthwiseError, match=f"batches below {images} run on the model as it is, of which no node"):
        found.profile(x[: images - 1], seconds=0)
    found.save(tmp_path / "model.safetensors")
    read = load_optimized(tmp_path / "model.safetensors")
    x = torch.randn(images, 3, 3, 3)
    assert torch.equal(read(x), model(x))
    with pytest.raises(DepthwiseError, match=rf"batches of {images} images or more, and got {images - 1}; a network"):
        read(x[1:])


def test_results_of_small_batches_are_no_views() -> None:
    model = Calls(lambda x: x[:2].reshape(-1, 3)).eval()
    found, x = optimize(model, torch.zeros(1, 3)), torch.zeros(1, 3)
    found(x).fill_(1.0)
    assert torch.equal(x, torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, r"the input\[0\]: expected 1 arguments as in the example; got 0"),
        ((torch.zeros(1, 8, 12, 12),) * 2, {}, "expected 1 arguments as in the example; got 2"),
        ((torch.zeros(1, 8, 12, 12),), {"y": 1}, "expected nothing by name; got y"),
        (([1.0],), {}, r"the input\[0\]\[0\]: expected a tensor, input_0; got list"),
        ((torch.zeros(1, 7, 12, 12),), {}, r"input_0 must be \(batch, 8, any, any\); got the shape \(1, 7, 12, 12\)"),
        ((torch.zeros(8, 12, 12),), {}, r"input_0 must be \(batch, 8, any, any\); got the shape \(8, 12, 12\)"),
        ((torch.zeros(1, 8, 12, 12).double(),), {}, "has dtype torch.float64; the network was captured with torch"),
        ((torch.zeros(1, 8, 12, 12, device="meta"),), {}, "input_0 is on meta; an optimized network runs on the CPU"),
        ((torch.zeros(1, 8, 12, 12, requires_grad=True),), {}, "input_0 requires a gradient, and an optimized network"),
        ((torch.zeros(1, 8, 0, 12),), {}, "the sizes do not fit"),
    ],
)  # fmt: skip
def test_calls_that_do_not_fit(pair: Pair, args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    _, found = pair
    with pytest.raises(DepthwiseError, match=message):
        found(*args, **kwargs)


def test_a_gradient_is_not_asked_for_under_no_grad(pair: Pair) -> None:
    _, found = pair
    with torch.no_grad():
        assert found(torch.zeros(1, 8, 12, 12, requires_grad=True)).shape == (1, 5)


def test_other_numbers_than_the_examples() -> None:
    found = optimize(
        Many().eval(),
        {
            "images": {"left": torch.zeros(1, 4, 7, 7), "right": torch.zeros(1, 4, 7, 7)},
            "factor": 2.0,
            "other": [torch.zeros(1, 3)],
        },
    )
    x = torch.zeros(2, 4, 7, 7)
    with pytest.raises(DepthwiseError, match=r"captured with 2.0 here; got 3.0: optimize it anew"):
        found(images={"left": x, "right": x}, factor=3.0, other=[torch.zeros(2, 3)])
    with pytest.raises(DepthwiseError, match="expected left, right by name; got left"):
        found(images={"left": x}, factor=2.0, other=[torch.zeros(2, 3)])
    with pytest.raises(DepthwiseError, match="expected 1 arguments as in the example; got a Tensor"):
        found(images={"left": x, "right": x}, factor=2.0, other=x)
    with pytest.raises(DepthwiseError, match="the inputs are of different batches: 2, 2, 4"):
        found(images={"left": x, "right": x}, factor=2.0, other=[torch.zeros(4, 3)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, "float32"])
def test_other_precisions_are_refused(dtype: Any) -> None:
    with pytest.raises(DepthwiseError, match=r"dtype must be None or torch.float32; got"):
        optimize(nn.Identity(), torch.zeros(1), dtype=dtype)


def test_float32_may_be_said() -> None:
    assert optimize(nn.ReLU(), torch.zeros(1, 2), dtype=torch.float32)(-torch.ones(1, 2)).sum() == 0


def test_other_refusals() -> None:
    with pytest.raises(DepthwiseError, match=r"example_inputs is a tensor, a tuple of positional .* got int"):
        optimize(nn.Identity(), 3)
    with pytest.raises(DepthwiseError, match=r"expected a torch.nn.Module, got int"):
        optimize(3, torch.zeros(1))  # type: ignore[arg-type]
    with pytest.raises(DepthwiseError, match="there is no pass speed; known: identities, constants, norms"):
        optimized(nn.Identity(), torch.zeros(1), without=("speed",))


def large() -> nn.Module:
    """One whose weights are worth giving up."""
    return randomised(
        nn.Sequential(
            *(nn.Conv2d(3, 48, 3, stride=2, padding=1), nn.ReLU(), InvertedResidual(48, 256, squeeze=4)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 300)),
        )
    )


def away(found: Optimized) -> list[str]:
    """The weights that hold no memory."""
    return [spec.name for spec in found._network.graph.weights if not found._network.weights[spec.name].numel()]


def spent(found: Optimized, x: Tensor) -> Optimized:
    """The module after a call, some of its weights given up."""
    found(x)
    assert away(found)
    return found


@pytest.mark.parametrize("made_in", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("called_in", [torch.no_grad, torch.inference_mode])
def test_weights_that_packs_hold_are_there_when_they_are_wanted(
    tmp_path: Path, made_in: Callable[[], Any], called_in: Callable[[], Any]
) -> None:
    model, x = large(), torch.randn(1, 3, 24, 24)
    with made_in():
        optimize(model, x).save(tmp_path / "net.safetensors")
        made = optimize(model, x), load_optimized(tmp_path / "net.safetensors")
    with called_in():
        for found in made:
            spent(found, x).save(tmp_path / "again.safetensors")
            before, after = (load_file(tmp_path / f"{name}.safetensors") for name in ("net", "again"))
            assert before.keys() == after.keys()
            assert all(torch.equal(before[name], weight) for name, weight in after.items())
            expected = found(x)
            for other in (load_optimized(tmp_path / "again.safetensors"), copy.deepcopy(found)):
                assert torch.equal(spent(other, x)(x), expected)
            for sizes in ((2, 3, 24, 24), (1, 3, 57, 40), (5, 3, 8, 8)):
                assert difference(found, model, torch.randn(sizes)) <= 1
                assert away(found)
            found.profile(x, seconds=0.0)
            assert "segment" in str(found.report)
            assert away(found)
            # PyTorch's operators read them, from then on.
            assert found(x[:0]).shape == (0, 300)
            assert not away(found)
            assert difference(found, model, x) <= 1


def test_weights_come_back_as_tensors_of_no_mode() -> None:
    model, x = large(), torch.randn(2, 3, 24, 24)
    found = spent(optimize(model, x), x)
    with FlopCounterMode(display=False):
        counted = found(x)
    assert not away(found)
    assert all(type(weight) is Tensor for weight in found._network.weights.values())
    torch.testing.assert_close(counted, found(x))


def test_the_models_own_weights_are_not_given_up() -> None:
    model, x = large(), torch.randn(1, 3, 24, 24)
    before = copy.deepcopy(model.state_dict())
    spent(optimize(model, x), x)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    shared = torch.randn(300, 48)
    turned = Calls(lambda x: F.linear(x, shared))
    expected = shared.clone()
    found = optimize(turned, torch.randn(2, 48))
    spent(found, torch.randn(2, 48))
    assert torch.equal(shared, expected)
