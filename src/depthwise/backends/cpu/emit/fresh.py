"""Depthwise weights as kernels read them, from torch's: a stage of the program whose next one reads them.

    for o in blocks of `lanes` filters:
        for tap in range(taps):
            packed[tap, o] = weight[o, tap], or from the last tap on            (denormal numbers are zeros)
        bias[o] = the same of the bias, or 0

The last block overlaps the one before it. Domain: lanes <= filters.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan.fresh import FreshPlan
from .ir import Block, Int, Vec, least, select
from .kernel import OnePlanKernel

# Of float32.
_LEAST_NORMAL = 2.0**-126


@dataclass(frozen=True)
class FreshWeightsKernel(OnePlanKernel):
    """Tasks: blocks of filters."""

    kind = "dw_fresh_weights_f32"
    pointers = ("weight", "bias", "depthwise_weight", "depthwise_bias")
    numbers = ()
    writes = ("depthwise_weight", "depthwise_bias")

    plan: FreshPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k = self.plan
        blocks = -(-k.filters // k.lanes)
        with e.loop(thread * blocks // threads, (thread + 1) * blocks // threads) as block:
            o = least(block.index * k.lanes, k.filters - k.lanes)
            with e.loop(0, k.taps) as tap:
                source = (k.taps - 1) - tap.index if k.turned else tap.index
                places = [e.whole(lane * k.taps) for lane in range(k.lanes)]
                weights = e.gather(e.pointer("weight") + (o * k.taps + source), places)
                (e.pointer("depthwise_weight") + (tap.index * k.tap_stride + o)).store(_without_denormals(e, weights))
            bias = (e.pointer("bias") + o if k.bias else e.zeros(k.lanes)).load(k.lanes)
            (e.pointer("depthwise_bias") + o).store(_without_denormals(e, bias))


def _without_denormals(e: Block, vector: Vec) -> Vec:
    return select(vector.magnitude().below(_LEAST_NORMAL), e.zeros(vector.lanes).load(vector.lanes), vector)
