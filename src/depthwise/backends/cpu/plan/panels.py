"""A pointwise convolution in a stage of its own: panels of weights, and bands of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ....geometry import Geometry
from ..machine import Machine
from .cut import Cut
from .tuning import tuning_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Panels(Cut):
    """Chunks of panels are dealt out, and in each every band.

    panel_chunks: of the panels of weights
    bands:        runs of neighbouring pixels
    tile_pixels:  the most that one has, which the register tile is chosen for
    """

    panel_chunks: int
    bands: int
    tile_pixels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePanels(Panels):
    """Images are dealt out, and in each chunks of panels and bands of its pixels.

    image_pixels: of one
    """

    image_pixels: int


def images_cut(g: Geometry, machine: Machine, threads: int, images: int, panel_elements: int) -> ImagePanels:
    """panel_elements: of each thread's own, for a panel of weights"""
    pixels = prod(g.out_spatial)
    each = panels_cut(g, machine, threads if images % threads else 1, pixels)
    return ImagePanels(
        threads=threads,
        scratch_elements=panel_elements,
        panel_chunks=each.panel_chunks,
        bands=each.bands,
        tile_pixels=each.tile_pixels,
        image_pixels=pixels,
    )


def panels_cut(g: Geometry, machine: Machine, threads: int, pixels: int) -> Panels:
    count = -(-g.output_size[0] // (2 * machine.vector_lanes))
    # By panels each thread reads its own weights only; by pixels its own pixels only, and the shares are more even.
    are_few = pixels <= tuning_of(machine).panel_pixels * g.output_size[0]
    panel_chunks = threads if are_few and (count % threads == 0 or count >= 8 * threads) else 1
    bands = 1 if panel_chunks > 1 else min(threads, pixels)
    return Panels(threads=threads, panel_chunks=panel_chunks, bands=bands, tile_pixels=-(-pixels // bands))
