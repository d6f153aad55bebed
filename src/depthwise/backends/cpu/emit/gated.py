"""Pointwise convolution of images whose channels are first multiplied by factors of each image's own: squeeze-excite.

    for n in images:
        for panel in panels:
            gated[c, j] = weight[panel, c, j] · gate[n, c]
            for m in tiles of pixels of n:
                out[m] = activation(bias + sum over c of x[m, c] · gated[c] + residual[m])       (pointwise.py)

The product of image and factors is nowhere: x · gate · weight is summed as x · (gate · weight).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan.pointwise import PointwisePlan
from .ir import Block, Int
from .kernel import OnePlanKernel
from .pointwise import Band, Gate, write_product
from .product import POINTERS


@dataclass(frozen=True)
class GatedKernel(OnePlanKernel):
    """Tasks: images x chunks of panels x chunks of an image's pixels. Domain: panels are the outer loop."""

    kind = "gated_f32"
    pointers = ("x", "gate", *POINTERS, "scratch")
    numbers = ("batch", "image_pixels", "bands", "panel_chunks", "scratch_elements")

    plan: PointwisePlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k = self.plan
        pixels, bands, chunks = e.number("image_pixels"), e.number("bands"), e.number("panel_chunks")
        scratch = e.pointer("scratch") + thread * e.number("scratch_elements")
        each = bands * chunks
        tasks = e.number("batch") * each
        with e.loop(thread * tasks // threads, (thread + 1) * tasks // threads) as task:
            image, part = task.index // each, task.index % each
            chunk, index = part // bands, part % bands
            first, last = index * pixels // bands, (index + 1) * pixels // bands
            begin = image * pixels + first
            band = Band(
                e.pointer("x") + begin * k.pixel_stride,
                last - first,
                e.pointer("out") + begin * k.out_stride,
                e.pointer("residual") + begin * k.out_channels,
                gate=Gate(e.pointer("gate") + image * k.in_channels, scratch),
            )
            write_product(e, k, band, (chunk * k.panels // chunks, (chunk + 1) * k.panels // chunks))
