"""Padding and output sizes against torch's own convolutions and TensorFlow's published rule."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from depthwise import DepthwiseError
from depthwise.geometry import finite, geometry, padding_pairs, per_axis, torch_padding

sizes, small = st.integers(1, 40), st.integers(1, 5)


@given(n=sizes, k=small, s=small, d=small)
def test_same_gives_ceil_n_over_s_outputs(n: int, k: int, s: int, d: int) -> None:
    g = geometry((1, n), k, s, "same", d)
    assert g.out_spatial == (ceil(n / s),)
    before, after = g.padding[0]
    assert after - before in (0, 1)


@pytest.mark.parametrize(
    ("n", "k", "s", "d", "expected"),
    [
        # tf.nn.conv2d, padding="SAME": total = max((ceil(n / s) - 1)·s + d(k - 1) + 1 - n, 0), the odd one after
        (224, 3, 2, 1, (0, 1)),
        (225, 3, 2, 1, (1, 1)),
        (224, 7, 2, 1, (2, 3)),
        (7, 2, 1, 1, (0, 1)),
        (10, 1, 3, 1, (0, 0)),
        (9, 3, 5, 1, (0, 0)),
        (11, 3, 2, 3, (3, 3)),
    ],
)
def test_same_is_tensorflows_rule(n: int, k: int, s: int, d: int, expected: tuple[int, int]) -> None:
    assert padding_pairs("same", (n,), (k,), (s,), (d,)) == (expected,)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(n=sizes, k=small, d=small)
def test_same_at_stride_one_is_torchs(n: int, k: int, d: int) -> None:
    x = torch.arange(float(n)).reshape(1, 1, n)
    weight = torch.arange(1.0, k + 1).reshape(1, 1, k)
    (pair,) = padding_pairs("same", (n,), (k,), (1,), (d,))
    ours = nn.functional.conv1d(nn.functional.pad(x, pair), weight, dilation=d)
    assert torch.equal(ours, nn.functional.conv1d(x, weight, padding="same", dilation=d))


@given(n=sizes, k=small, s=small, d=small, p=st.integers(0, 6))
def test_out_spatial_is_torchs(n: int, k: int, s: int, d: int, p: int) -> None:
    if n + 2 * p < d * (k - 1) + 1:
        return
    expected = nn.functional.conv1d(torch.zeros(1, 1, n), torch.zeros(1, 1, k), None, s, p, d).shape[2:]
    assert geometry((1, n), k, s, p, d).out_spatial == tuple(expected)


def test_pairs_and_tuples_settle_alike() -> None:
    settled = ((1, 1), (2, 2))
    for padding in ((1, 2), [1, 2], ((1, 1), (2, 2)), [[1, 1], [2, 2]]):
        assert geometry((3, 9, 9), 3, padding=padding).padding == settled


def test_channels() -> None:
    g = geometry((4, 9, 9), (3, 5), depth_multiplier=2, out_channels=6, groups=2)
    assert (g.rank, g.in_channels, g.kernel_area, g.depthwise_size, g.output_size) == (2, 4, 15, (8, 7, 5), (6, 7, 5))
    assert geometry((4, 9), 3, depth_multiplier=2).output_size == (8, 7)


def test_torch_padding_says_where_torch_has_none() -> None:
    assert torch_padding("same", (1, 1)) == "same"
    assert torch_padding("same", (2, 1)) is None
    assert torch_padding(((1, 1), (2, 2)), (2, 2)) == (1, 2)
    assert torch_padding(((1, 0),), (1,)) is None
    assert torch_padding("valid", (2,)) == (0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 9}, "kernel covers 9 pixels along the height .* padded input's 7 .* output would be empty"),
        ({"dilation": (1, 4)}, "kernel covers 9 pixels along the width .*kernel_size 3, dilation 4"),
        ({"padding": "full"}, "padding is an int, a tuple, .* 'valid', 'same' or 'causal'; got 'full'"),
        ({"padding": (1, 2, 3)}, r"padding is one int, or 2 for a 2-d convolution; got \(1, 2, 3\)"),
        ({"padding": ((1, 2),)}, r"padding as pairs needs one \(before, after\) per spatial dimension, 2 here"),
        ({"padding": ((1, 2), 3)}, "padding as pairs"),
        ({"padding": ((1, 2), (1, 2, 3))}, "padding as pairs"),
        ({"padding": -1}, "padding must be at least 0; got -1"),
        ({"padding": 0.5}, "padding must be an integer; got 0.5"),
        ({"kernel_size": 0}, "kernel_size must be at least 1; got 0"),
        ({"kernel_size": 3.0}, "kernel_size must be an integer; got 3.0"),
        ({"kernel_size": (3, 3, 3)}, r"kernel_size is one int, or 2 for a 2-d convolution; got \(3, 3, 3\)"),
        ({"stride": 0}, "stride must be at least 1; got 0"),
        ({"stride": True}, "stride must be an integer; got True"),
        ({"dilation": -2}, "dilation must be at least 1; got -2"),
        ({"depth_multiplier": 0}, "depth_multiplier must be at least 1; got 0"),
        ({"depth_multiplier": 1.5}, "depth_multiplier must be an integer; got 1.5"),
        ({"out_channels": 0}, "out_channels must be at least 1; got 0"),
        ({"groups": 2}, "in_channels=3 is not divisible by groups=2"),
        ({"groups": 3, "out_channels": 4}, "out_channels=4 is not divisible by groups=3"),
        ({"input_size": (3,)}, r"input_size is \(channels, \*spatial\) .* got \(3,\)"),
        ({"kernel_size": torch.tensor(3.5)}, "kernel_size must be an integer; got tensor"),
        ({"stride": np.array([1, 1])}, r"stride must be an integer; got array"),
        ({"padding": np.array([1, 1])}, r"padding must be an integer; got array"),
        ({"input_size": (3, 7), "padding": (2, 0)}, r"got \(2, 0\); for one axis write \(\(2, 0\),\)"),
        ({"padding": b"ab"}, "padding must be an integer; got b'ab'"),
        (
            {"stride": 2**63},
            "stride must be at most 9223372036854775807, the largest 64-bit integer; got 9223372036854775808",
        ),
        ({"input_size": 7}, "1, 2 or 3 spatial dimensions; got 7"),
        ({"input_size": (3, 1, 1, 1, 1)}, "1, 2 or 3 spatial dimensions"),
        ({"input_size": (0, 7, 7)}, "channels of the input must be at least 1; got 0"),
        ({"input_size": (3, 0, 7)}, "the input's height must be at least 1; got 0"),
        ({"input_size": (3, 7, 7.5)}, "the input's width must be an integer; got 7.5"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    valid: dict[str, Any] = {"input_size": (3, 7, 7), "kernel_size": 3}
    with pytest.raises(DepthwiseError, match=message):
        geometry(**(valid | arguments))


def test_per_axis_takes_a_single_element_for_all() -> None:
    assert per_axis([3], 3, "stride") == (3, 3, 3)


def test_numpys_integers_become_pythons() -> None:
    g = geometry((np.int64(3), 7, np.int32(7)), np.int64(3), padding=np.int64(1), out_channels=np.int64(8))  # type: ignore[arg-type]
    assert {type(n) for n in (*g.input_size, *g.kernel_size, *g.padding[0], *g.output_size)} == {int}


def test_a_tensors_number_is_read_once() -> None:
    one = torch.tensor(1)
    g = geometry((3, 7, 7), 3, padding=one)  # type: ignore[arg-type]
    one.fill_(5)
    assert g.padding == ((1, 1), (1, 1))


@pytest.mark.parametrize("value", [True, None, "1", float("nan"), float("inf"), 10**400, 1j, torch.tensor(1.0)])
def test_finite_errors(value: object) -> None:
    with pytest.raises(DepthwiseError, match="slope must be a finite number; got"):
        finite(value, "slope")
    assert finite(np.float32(0.5), "slope") == 0.5
