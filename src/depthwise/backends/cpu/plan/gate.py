"""How the gradients of images times factors of each image's own are cut."""

from __future__ import annotations

from dataclasses import dataclass

from .cut import Cut


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeImages(Cut):
    """Images are dealt out.

    pixels: of each
    """

    images: int
    pixels: int
