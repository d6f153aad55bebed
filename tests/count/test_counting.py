"""Counts: the worked example by hand, two other counters on eleven networks, and what the result can do."""

from __future__ import annotations

import json
import time
import warnings

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from depthwise.cost import Cost
from depthwise.count import Count, Row, count

from ..support.networks import Calls, timm_model

with warnings.catch_warnings():
    # fvcore scripts functions of its own with torch.jit, which is deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from fvcore.nn import FlopCountAnalysis

NETWORKS = (
    "mobilenetv1_100",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "efficientnet_b0",
    "convnext_tiny",
    "resnet18",
    "ghostnetv2_100",
    "xception41",
    "regnetx_002",
    "vit_tiny_patch16_224",
    "mixer_s32_224",
)
# The other networks take any image.
IMAGE = {"vit_tiny_patch16_224": (3, 224, 224), "mixer_s32_224": (3, 224, 224)}


def kinds(result: Count) -> list[tuple[str, str]]:
    return [(row.name, row.kind) for row in result.rows]


def test_the_worked_example() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3, bias=False), nn.Conv2d(3, 128, 1, bias=False))
    result = count(model, (3, 7, 7))
    # 75 outputs of 9 products, 3,200 of 3; float32: inputs + weights + outputs.
    depthwise = Cost(675, 675, 600, 27, 4 * (147 + 27 + 75))
    pointwise = Cost(9600, 9600, 6400, 384, 4 * (75 + 384 + 3200))
    dense = Cost(86400, 86400, 83200, 3456, 4 * (147 + 3456 + 3200))
    assert result.rows == (
        Row("0", "depthwise convolution", depthwise, Cost(), (3, 5, 5)),
        Row("1", "pointwise convolution", pointwise, dense, (128, 5, 5)),
    )
    assert result.total == depthwise + pointwise
    assert result.dense == dense
    assert result.unknown == ()
    assert result.rows[1].arithmetic_intensity == 19200 / (4 * 3659)


def test_the_dense_example() -> None:
    result = count(nn.Conv2d(3, 128, 3), (3, 7, 7))
    cost = Cost(86400, 86400, 86400, 3584, 4 * (147 + 3584 + 3200))
    assert result.rows == (Row("", "convolution", cost, None, (128, 5, 5)),)
    assert result.total == result.dense == cost


@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_torch(name: str) -> None:
    model, size = timm_model(name), IMAGE.get(name, (3, 128, 128))
    result = count(model, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty((1, *size), device="meta"))
    assert 2 * result.total.macs == counter.get_total_flops()
    assert result.unknown == ()


@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_fvcore(name: str) -> None:
    # fvcore counts one per MAC. It does not know fused attention; its norms and poolings are conventions of its own.
    model, size = timm_model(name).to_empty(device="cpu"), IMAGE.get(name, (3, 64, 64))
    for tensor in model.state_dict().values():
        tensor.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analysis = FlopCountAnalysis(model, torch.zeros(1, *size))
        analysis.unsupported_ops_warnings(False).tracer_warnings("none")
        theirs = analysis.by_operator()
    result = count(model, size)
    attention = sum(row.cost.macs for row in result.rows if row.kind == "attention")
    assert result.total.macs - attention == theirs["conv"] + theirs["linear"]
    assert (attention > 0) == name.startswith("vit")
    assert set(theirs) <= {"conv", "linear", "batch_norm", "layer_norm", "adaptive_avg_pool2d", "upsample_nearest2d"}


@pytest.mark.parametrize(("name", "millions"), [("mobilenetv1_100", 569), ("mobilenetv2_100", 300), ("resnet18", 1814)])
def test_agrees_with_the_papers(name: str, millions: int) -> None:
    # MobileNets, arXiv 1704.04861, table 8; MobileNetV2, arXiv 1801.04381, table 4; ResNet-18 as torchvision prints it.
    assert abs(count(timm_model(name), (3, 224, 224)).total.macs / 1e6 - millions) < 1


def test_a_module_counts_once_per_call_and_its_parameters_once() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1)
    result = count(nn.Sequential(conv, nn.ReLU(), conv), (8, 6, 6))
    assert kinds(result) == [("0", "convolution"), ("1", "relu"), ("0", "convolution")]
    assert result.rows[0].cost == result.rows[2].cost
    assert result.rows[0].cost.parameters == result.total.parameters == 584


def test_tied_weights_are_the_models_once() -> None:
    first, second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    second.weight = first.weight
    result = count(nn.Sequential(first, second), (8,))
    assert [row.cost.parameters for row in result.rows] == [64, 64]
    assert result.total.parameters == 64


def test_functional_calls_belong_to_the_module_that_makes_them() -> None:
    inner = Calls(lambda x: torch.relu(x) + x)
    model = Calls(lambda x, block: torch.sigmoid(block(x)), block=inner)
    assert kinds(count(model, (4, 5, 5))) == [("block", "relu"), ("block", "add"), ("", "sigmoid")]


def test_functional_convolution_with_weights_that_are_not_parameters() -> None:
    weight = torch.ones(8, 4, 3, 3)
    result = count(Calls(lambda x: nn.functional.conv2d(x, weight)), (4, 5, 5))
    assert result.rows[0].cost == Cost(2592, 2592, 2592 - 72, 0, 4 * (100 + 288 + 72))
    assert result.total.parameters == 0


def test_unknown_operators_are_listed() -> None:
    model = Calls(lambda x: torch.linalg.inv((torch.fft.fft(x) + torch.fft.fft(x)).real))
    result = count(model, (4, 4))
    assert result.unknown == (("aten._fft_r2c", 2), ("aten.linalg_inv_ex", 1))
    fourier = result.rows[0]
    # 16 float32 in, 16 complex64 out.
    assert (fourier.kind, fourier.cost) == ("aten._fft_r2c", Cost(bytes_moved=16 * 4 + 16 * 8))
    assert "unknown operators, their bytes counted and their arithmetic not: aten._fft_r2c x2" in str(result)


def test_unknown_custom_operators_are_listed() -> None:
    library = torch.library.Library("depthwise_test_count", "FRAGMENT")
    library.define("scale(Tensor x) -> Tensor")
    library.impl("scale", torch.empty_like, "Meta")
    result = count(Calls(torch.ops.depthwise_test_count.scale), (4,))
    assert result.unknown == (("depthwise_test_count.scale", 1),)
    assert result.total == Cost(bytes_moved=32)


def test_several_inputs() -> None:
    model = Calls(lambda x, y: torch.cat([x, y.mean((2, 3), keepdim=True).expand_as(x)], 1))
    result = count(model, ((4, 5, 5), (4, 9, 9)))
    assert kinds(result) == [("", "mean"), ("", "cat")]
    # 324 numbers into 4 means; cat reads 100 and the 4 means, not their 25 copies, and writes 200.
    assert result.rows[0].cost == Cost(0, 4, 320, 0, 4 * 328)
    assert result.rows[1].cost == Cost(bytes_moved=4 * 304)


def test_example_inputs_count_with_their_batch() -> None:
    model = nn.Conv2d(3, 8, 3)
    one, four = count(model, (3, 7, 7)), count(model, torch.zeros(4, 3, 7, 7))
    assert four.total.macs == 4 * one.total.macs
    assert four.total.parameters == one.total.parameters
    assert four.rows[0].output_size == one.rows[0].output_size == (8, 5, 5)
    assert count(model, (torch.zeros(4, 3, 7, 7),)) == four


def test_embedding_reads_the_rows_it_takes() -> None:
    result = count(nn.Embedding(1000, 16), torch.zeros(1, 7, dtype=torch.long))
    # 7 indices of 8 bytes, 7 rows read and written.
    assert result.rows == (Row("", "embedding", Cost(0, 0, 0, 16000, 56 + 2 * 7 * 16 * 4), None, (7, 16)),)


@pytest.mark.parametrize(("dtype", "item_bytes"), [(torch.float16, 2), (torch.bfloat16, 2), (torch.float64, 8)])
def test_bytes_follow_the_dtype(dtype: torch.dtype, item_bytes: int) -> None:
    result = count(nn.Conv2d(3, 8, 3, dtype=dtype), (3, 7, 7))
    assert result.total.bytes_moved == item_bytes * (147 + 224 + 200)


def test_autocast_counts_the_casts_and_still_knows_the_parameters() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = count(nn.Linear(8, 16), (8,))
    assert kinds(result) == [("", "copy"), ("", "copy"), ("", "copy"), ("", "linear")]
    assert result.rows[-1].cost == Cost(128, 128, 128, 144, 2 * (8 + 144 + 16))


def test_weight_norm_keeps_the_convolutions_parameters() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
    result = count(conv, (3, 7, 7))
    assert [(row.kind, row.cost.parameters) for row in result.rows] == [("weight norm", 224), ("convolution", 224)]
    assert result.total.parameters == 232


def test_a_model_on_the_meta_device_runs_no_arithmetic() -> None:
    model = nn.Linear(100_000, 100_000, device="meta")
    count(nn.Linear(1, 1), (1,))
    start = time.perf_counter()
    assert count(model, (100_000,)).total.macs == 10**10
    assert time.perf_counter() - start < 1


def test_a_model_that_would_not_fit_in_memory() -> None:
    model = nn.Sequential(nn.Conv2d(1000, 1000, 3, groups=1000), nn.ReLU(), nn.Conv2d(1000, 10, 1))
    result = count(model, (1000, 10_002, 10_002))
    assert result.rows[0].cost.macs == 9 * 1000 * 10_000**2


def test_dict_survives_json() -> None:
    result = count(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.ReLU()), (4, 6, 6))
    plain = result.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["total"]["macs"] == result.total.macs == 1152
    assert plain["rows"][0]["dense"]["macs"] == plain["dense"]["macs"] == 2304
    assert plain["rows"][1] == {
        "name": "1",
        "kind": "relu",
        "cost": {"macs": 0, "multiplications": 0, "additions": 0, "parameters": 0, "bytes_moved": 512},
        "dense": None,
        "output_size": [4, 4, 4],
        "backward": None,
        "arithmetic_intensity": 0.0,
    }


def test_repr_is_short() -> None:
    assert repr(count(nn.ReLU(), (2, 2))) == (
        "Count(1 rows, Cost(macs=0, multiplications=0, additions=0, parameters=0, bytes_moved=32))"
    )
