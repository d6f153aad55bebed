"""A product with numbers of each channel of each image, as squeeze-excite has it, goes into the pointwise convolution.

conv(x · gate, weight)      becomes      gated(x, gate, weight)

where nothing else reads the product: the image is not read and written once more.
"""

from __future__ import annotations

from ..graph import Node, Value
from ..network import Network, Rewriting
from ..operators import FORMATS
from .layout import MOVING
from .separable import is_pointwise

CONV = ("weight", "bias", "groups", "residual", "activation")


def fuse_gates(network: Network) -> Network:
    """Give pointwise convolutions the product before them."""
    rewriting = Rewriting(network)
    for node in rewriting.each():
        if node.operator != "conv" or not is_pointwise(node, rewriting):
            continue
        product = rewriting.maker(node["input"])
        if product is None or product.operator != "mul" or rewriting.uses(product.name) != 1:
            continue
        found = _image_and_gate(product, rewriting)
        if found is not None:
            image, gate = found
            arguments = (("input", image), ("gate", gate), *((key, node[key]) for key in CONV))
            rewriting.put(Node(node.name, "gated", arguments, node.source))
    return rewriting.done()


def _image_and_gate(product: Node, rewriting: Rewriting) -> tuple[Value, Value] | None:
    """The operands, where one is an image that lies channels-last and the other a number for each channel of it."""
    for image, gate in ((product["self"], product["other"]), (product["other"], product["self"])):
        maker = rewriting.maker(image)
        if maker is None or maker.operator in MOVING or "." in maker.operator or rewriting.maker(gate) is None:
            continue
        shapes = list(zip(rewriting.shapes(image.name), rewriting.shapes(gate.name), strict=True))
        if shapes and all(
            one is not None and len(one) in FORMATS and other == (*one[:2], *(1,) * (len(one) - 2))
            for one, other in shapes
        ):
            return image, gate
    return None
