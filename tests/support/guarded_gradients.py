"""Gradients in memory in which a kernel that reads or writes beside a buffer dies; see guarded.py.

python -m tests.support.guarded_gradients some       # a third of the cases
python -m tests.support.guarded_gradients all        # the named cases, and a hundred drawn ones
python -m tests.support.guarded_gradients planted    # one whose rows are said to be longer than they are: it must die
"""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from dataclasses import replace
from itertools import product
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from depthwise.backends import calls
from depthwise.backends.cpu import gradients
from depthwise.backends.cpu.emit.ir import Block
from depthwise.backends.cpu.run import memory
from depthwise.geometry import geometry
from tests.backends.cpu.test_gradients import NAMED, Case, drawn, tensors_of
from tests.backends.cpu.test_pointwise_gradients import SIZES, last
from tests.support.cases import small_integers
from tests.support.guarded import SIDES, Guarded, Side

ALL = (True, True, True)


def check(side: Side, operation: Any, gradient: Tensor, x: Tensor, weight: Tensor, g: Any) -> None:
    guarded = Guarded(side)

    def scratch(size: int) -> memory.Buffer:
        floats = guarded.floats(-(-size // 4))
        return memory.Buffer(size, floats.data_ptr(), floats)

    bound: OrderedDict[Any, Any] = OrderedDict()
    with (
        torch.no_grad(),
        patch.object(calls, "_bound", bound),
        patch.object(memory, "new_result", lambda size, stride, _: guarded.empty_strided(size, stride)),
        patch.object(memory, "scratch", scratch),
        patch.object(memory, "zeros", lambda count: guarded.place(torch.zeros(max(1, count)))),
    ):
        found = operation(guarded.place(gradient), guarded.place(x), guarded.place(weight), g, ALL)
    if any(tensor.isnan().any() for tensor in found):
        raise SystemExit(f"{g}: not all of a gradient was written")


def check_depthwise(case: Case, side: Side) -> None:
    # What is no slice and not expanded is read as it lies.
    layout = case.layout.partition("_")[0].replace("expanded", "planar")
    case = replace(case, gradient_layout=layout, layout=layout if case.layout == "expanded" else case.layout)
    check(side, gradients.plain_gradients, *tensors_of(case, small_integers(0)), case.geometry)


def main(what: str) -> None:
    torch.set_num_threads(1)
    if what == "planted":
        # The code must be made here.
        os.environ["DEPTHWISE_CACHE_DIR"] = "off"
        right = Block.number
        with patch.object(Block, "number", lambda e, name: right(e, name) + int(name == "in_x")):
            check_depthwise(NAMED["3x3"], "after")
        return
    named, sizes = [*NAMED.values()], SIZES
    cases = [*named, *map(drawn, range(100))]
    if what == "some":
        cases, sizes = named[::3], sizes[::3]
    for case, side in product(cases, SIDES):
        check_depthwise(case, side)
    for (batch, channels, outputs, groups, spatial), side in product(sizes, SIDES):
        draw, g = small_integers(0), geometry((channels, *spatial), 1, out_channels=outputs, groups=groups)
        gradient, x = last(draw((batch, outputs, *spatial))), last(draw((batch, channels, *spatial)))
        weight = draw((outputs, channels // groups, *(1,) * len(spatial)))
        check(side, gradients.plain_gradients, gradient, x, weight, g)


if __name__ == "__main__":
    main(*sys.argv[1:])
