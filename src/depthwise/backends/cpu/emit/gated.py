"""Pointwise convolutions of images, each with numbers of its own for its channels: squeeze-excite.

    for n in images:                                                                                   (GatedKernel)
        for panel in panels:
            gated[c, j] = weight[panel, c, j] · gate[n, c]
            for m in tiles of pixels of n:
                out[m] = activation(bias + sum over c of x[m, c] · gated[c] + residual[m])       (pointwise.py)

    for n in images:                                                                                  (ScaledKernel)
        out[m] = (bias + sum over c of x[m, c] · weight[c]) · scale[n] + shift[n]

The product of image and factors is nowhere: x · gate · weight is summed as x · (gate · weight). The second is the
gradient of such an input, the means' gradient added to it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

from ..plan.pointwise import PointwisePlan
from .ir import Block, Int
from .kernel import OnePlanKernel
from .pointwise import Affine, Band, Gate, next_tile, write_product
from .product import POINTERS

NUMBERS = ("batch", "image_pixels", "bands", "panel_chunks")


@dataclass(frozen=True)
class ImagesKernel(OnePlanKernel):
    """Tasks: images x chunks of panels x chunks of an image's pixels."""

    plan: PointwisePlan

    @abstractmethod
    def own(self, e: Block, band: Band, image: Int, thread: Int) -> Band:
        """The band of an image with what is the image's own."""

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k = self.plan
        pixels, bands, chunks = e.number("image_pixels"), e.number("bands"), e.number("panel_chunks")
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
                next_tile(e, k, begin),
            )
            panels = chunk * k.panels // chunks, (chunk + 1) * k.panels // chunks
            write_product(e, k, self.own(e, band, image, thread), panels)


@dataclass(frozen=True)
class GatedKernel(ImagesKernel):
    """Domain: panels are the outer loop."""

    kind = "gated_f32"
    pointers = ("x", "gate", *POINTERS, "scratch")
    numbers = (*NUMBERS, "scratch_elements")

    def own(self, e: Block, band: Band, image: Int, thread: Int) -> Band:
        scratch = e.pointer("scratch") + thread * e.number("scratch_elements")
        return replace(band, gate=Gate(e.pointer("gate") + image * self.plan.in_channels, scratch))


@dataclass(frozen=True)
class ScaledKernel(ImagesKernel):
    kind = "scaled_f32"
    pointers = ("x", "scale", "shift", *POINTERS)
    numbers = NUMBERS

    def own(self, e: Block, band: Band, image: Int, _: Int) -> Band:
        scale, shift = (e.pointer(name) + image * self.plan.out_channels for name in ("scale", "shift"))
        return replace(band, affine=Affine(scale, shift))
