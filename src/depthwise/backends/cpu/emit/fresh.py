"""Weights as kernels read them, from torch's: a stage of the program whose next one reads them.

    for o in blocks of `lanes` filters:                                                 (FreshWeightsKernel)
        for tap in range(taps):
            packed[tap, o] = weight[o, tap], or from the last tap on            (denormal numbers are zeros)
        bias[o] = the same of the bias, or 0

    for group in range(groups):                                                         (FreshPanelsKernel)
        for panel in panels of `vectors` vectors of a group's outputs:          (the last has what is left)
            for term in range(terms):
                for o in panel:
                    packed[group][panel][term, o] = weight[group, o, term], or weight[group, term, o]
        bias[group, o] = the same of the bias, or 0

The last block, and a group's last vector, overlap those before. Domain: lanes <= filters, or a group's outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan.fresh import FreshPanelsPlan, FreshPlan
from .boxes import planes_to_pixels
from .ir import Block, Int, Ptr, Vec, least, select
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


@dataclass(frozen=True)
class FreshPanelsKernel(OnePlanKernel):
    """Tasks: vectors of output channels."""

    kind = "pw_fresh_weights_f32"
    pointers = ("weight", "bias", "pointwise_weight", "pointwise_bias")
    numbers = ()
    writes = ("pointwise_weight", "pointwise_bias")

    plan: FreshPanelsPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k = self.plan
        vectors = k.groups * k.group_vectors
        full, rest = k.group_vectors // k.vectors * k.vectors, k.group_vectors % k.vectors
        with e.loop(thread * vectors // threads, (thread + 1) * vectors // threads) as each:
            group, vector = each.index // k.group_vectors, each.index % k.group_vectors
            o = least(vector * k.lanes, k.group_outputs - k.lanes)
            packed = e.pointer("pointwise_weight") + group * (k.group_vectors * k.lanes * k.terms)
            panel = vector // k.vectors * (k.vectors * k.lanes * k.terms)
            with e.either(vector < full) as (whole, last):
                with whole:
                    self._vector(e, group, o, packed + (panel + vector % k.vectors * k.lanes), k.vectors)
                with last:
                    self._vector(e, group, o, packed + (panel + vector % k.vectors * k.lanes), max(rest, 1))
            at = group * k.group_outputs + o
            bias = (e.pointer("bias") + at if k.bias else e.zeros(k.lanes)).load(k.lanes)
            (e.pointer("pointwise_bias") + each.index * k.lanes).store(_without_denormals(e, bias))

    def _vector(self, e: Block, group: Int, o: Int, packed: Ptr, vectors: int) -> None:
        """The terms of `lanes` output channels from `o` on, into a panel of so many vectors."""
        k = self.plan
        width = vectors * k.lanes
        own = e.pointer("weight") + group * (k.group_outputs * k.terms)
        if k.turned:
            with e.loop(0, k.terms) as term:
                weights = (own + (term.index * k.group_outputs + o)).load(k.lanes)
                (packed + term.index * width).store(_without_denormals(e, weights))
            return
        rows = [own + (o + lane) * k.terms for lane in range(k.lanes)]
        planes_to_pixels(e, rows, e.whole(k.terms), packed, width, lambda weights: _without_denormals(e, weights))


def _without_denormals(e: Block, vector: Vec) -> Vec:
    return select(vector.magnitude().below(_LEAST_NORMAL), e.zeros(vector.lanes).load(vector.lanes), vector)
