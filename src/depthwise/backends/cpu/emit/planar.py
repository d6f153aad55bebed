"""Pointwise convolution of planes: a matrix product in each group, whose vectors are neighbouring pixels.

    for n in images:
        for band in bands of an image's pixels:
            for o in tiles of `rows` output channels:
                for m in tiles of `vectors` vectors of the band's pixels:
                    sum[i, j] = bias[o + i]
                    for c in range(group_inputs):
                        sum[i, j] += input[n, c, m + j] · splat(weight[o + i, c])
                    out[n, o + i, m + j] = activation(sum[i, j] + residual[n, o + i, m + j])

Planes are read and written as they lie. After a band's whole tiles come single vectors, the last of which overlaps the
one before it. Domain: lanes <= pixels of an image.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan.planar import PlanarPlan
from .activations import activated
from .ir import Block, Int, Ptr, Vec, ceil_div, least
from .kernel import OnePlanKernel
from .product import POINTERS, add_products


@dataclass(frozen=True)
class PlanarPointwiseKernel(OnePlanKernel):
    """Tasks: images, and in each every band."""

    kind = "pw_f32"
    pointers = ("x", *POINTERS)
    numbers = ("batch", "x_n", "x_c", "image_pixels", "bands", "fetch_out")

    plan: PlanarPlan

    @property
    def label(self) -> str:
        return f"{super().label}_of_planes"

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k, bands, pixels = self.plan, e.number("bands"), e.number("image_pixels")
        tasks, tiles = e.number("batch") * bands, ceil_div(pixels, k.vectors * k.lanes)
        with e.loop(thread * tasks // threads, (thread + 1) * tasks // threads) as task:
            n, band = task.index // bands, task.index % bands
            start, stop = (least(at * tiles // bands * (k.vectors * k.lanes), pixels) for at in (band, band + 1))
            for first, rows, count in k.tiles:
                with e.loop(0, k.groups) as group, e.loop(0, count) as tile:
                    o = group.index * k.group_outputs + (tile.index * rows + first)
                    outputs = _outputs(e, k, (n, group.index, o), rows)
                    _write_pixels(e, k, outputs, start, stop)


@dataclass(frozen=True, slots=True)
class _Outputs:
    """A tile's output channels: `rows` planes of the result, and what they are made of.

    inputs: plane 0 of the group
    weight: of the first output; `bias` too
    place:  of its plane, in elements, in result and residual
    """

    rows: int
    inputs: Ptr
    weight: Ptr
    bias: Ptr
    place: Int


def _outputs(e: Block, k: PlanarPlan, place: tuple[Int, Int, Int], rows: int) -> _Outputs:
    n, group, o = place
    return _Outputs(
        rows=rows,
        inputs=e.pointer("x") + (n * e.number("x_n") + group * k.group_inputs * e.number("x_c")),
        weight=e.pointer("pointwise_weight") + o * k.group_inputs,
        bias=e.pointer("pointwise_bias") + o,
        place=(n * k.out_channels + o) * e.number("image_pixels"),
    )


def _write_pixels(e: Block, k: PlanarPlan, outputs: _Outputs, start: Int, stop: Int) -> None:
    """The pixels [start, stop) of a tile's planes."""
    whole = (stop - start) // (k.vectors * k.lanes) * (k.vectors * k.lanes)
    with e.loop(start, start + whole, k.vectors * k.lanes) as m:
        _write_tile(e, k, outputs, m.index, k.vectors)
    with e.loop(start + whole, stop, k.lanes) as m:
        _write_tile(e, k, outputs, least(m.index, e.number("image_pixels") - k.lanes), 1)


def _write_tile(e: Block, k: PlanarPlan, outputs: _Outputs, m: Int, vectors: int) -> None:
    place, pixels = outputs.place + m, e.number("image_pixels")
    results = [e.pointer("out") + (place + i * pixels) for i in range(outputs.rows)]
    if vectors == k.vectors:
        with e.when(e.number("fetch_out") > 0):
            for result in results:
                for j in range(vectors):
                    (result + (vectors + j) * k.lanes).prefetch(2)
    sums = [e.splat(outputs.bias + i, k.lanes) for i in range(outputs.rows) for _ in range(vectors)]

    def add(c: Int, sums: list[Vec]) -> list[Vec]:
        first = outputs.inputs + (c * e.number("x_c") + m)
        columns = [(first + j * k.lanes).load(k.lanes) for j in range(vectors)]
        for i in range(outputs.rows):
            weight = e.splat(outputs.weight + (c + i * k.group_inputs), k.lanes)
            for j, column in enumerate(columns):
                sums[i * vectors + j] = column.fma(weight, sums[i * vectors + j])
        return sums

    sums = add_products(e, k.group_inputs, sums, add)
    for i, result in enumerate(results):
        for j in range(vectors):
            value = sums[i * vectors + j]
            if k.residual:
                value = value + (e.pointer("residual") + (place + i * pixels + j * k.lanes)).load(k.lanes)
            (result + j * k.lanes).store(activated(value, k.activation))
