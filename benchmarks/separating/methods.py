"""How a dense network becomes cheap: `separate_`, and what it is compared with at the same budget."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from depthwise import DepthwiseError, separate_, separated_like
from depthwise.separate import Separation

from .data import IMAGE_SIZE

OURS, SVD, RANDOM, BLUEPRINT, CP = "separate_", "plain SVD", "random weights", "BSConv", "CP"
CP_SWEEPS = 100

Made = tuple[nn.Module, float]


def ours(dense: nn.Module, samples: Tensor, budget: float, seed: int) -> Made:
    """`separate_` on the samples."""
    network = deepcopy(dense)
    return network, separate_(network, samples, budget=budget).share


def svd(dense: nn.Module, samples: Tensor, budget: float, seed: int) -> Made:
    """The weights' slices truncated (arXiv 1808.05517), their ranks chosen by the weights' errors."""
    network = deepcopy(dense)
    return network, _by_weights(network, budget).share


def random_weights(dense: nn.Module, samples: Tensor, budget: float, seed: int) -> Made:
    """The form that `separate_` gives, its separable layers with new weights: what is done without it."""
    report = separate_(deepcopy(dense), samples, budget=budget)
    torch.manual_seed(seed)
    return _drawn(dense, report), report.share


def blueprint(dense: nn.Module, samples: Tensor, budget: float, seed: int) -> Made:
    """BSConv-U (arXiv 2003.13549), new weights, in as few layers as the budget asks for; the others stay as trained."""
    report = _by_weights(deepcopy(dense), 1.0)
    dense_forms = {layer.name: layer.options[0].form for layer in report.touchable}
    forms = dict(dense_forms)
    savings = [
        (layer.options[0].form.multiplications - option.form.multiplications, layer.name, option.form)
        for layer in report.touchable
        for option in layer.options
        if option.form.order == "pointwise first"
    ]
    whole = report.multiplications_before
    spent = whole
    order = sorted(savings, key=lambda each: each[:2])
    for saving, name, form in reversed(order):
        if spent > budget * whole:
            forms[name] = form
            spent -= saving
    # What the last ones saved too much is given back.
    for saving, name, _ in order:
        if forms[name] is not dense_forms[name] and spent + saving <= budget * whole:
            forms[name] = dense_forms[name]
            spent += saving
    if spent > budget * whole:
        raise DepthwiseError(f"all layers as blueprint blocks are {spent / whole:.3f} of the multiplications")
    layers = tuple(replace(layer, form=forms.get(layer.name, layer.form)) for layer in report.layers)
    torch.manual_seed(seed)
    return _drawn(dense, replace(report, layers=layers)), spent / whole


def cp(dense: nn.Module, samples: Tensor, budget: float, seed: int) -> Made:
    """CP decomposition of each kernel into four factors (arXiv 1412.6553) by tensorly, the same share of every layer.

    A layer of one input channel stays, and the others make up for it.
    """
    if find_spec("tensorly") is None:
        raise DepthwiseError("CP decomposition needs tensorly: pip install tensorly")
    network = deepcopy(dense)
    report = _by_weights(deepcopy(dense), 1.0)
    touchable = {layer.name: layer.multiplications_before for layer in report.touchable}
    kept = sum(cost for name, cost in touchable.items() if _conv(network, name).in_channels == 1)
    whole = sum(touchable.values())
    share = (budget * whole - kept) / (whole - kept)
    spent = float(kept)
    for name, before in touchable.items():
        conv = _conv(network, name)
        if conv.in_channels > 1:
            rank = int(share / _rank_share(conv))
            network.set_submodule(name, _decomposed(conv, rank, seed))
            spent += before * rank * _rank_share(conv)
    return network.to(memory_format=torch.channels_last), spent / whole  # type: ignore[call-overload]


METHODS: dict[str, Callable[[nn.Module, Tensor, float, int], Made]] = {
    OURS: ours,
    SVD: svd,
    RANDOM: random_weights,
    BLUEPRINT: blueprint,
    CP: cp,
}


def _by_weights(network: nn.Module, budget: float) -> Separation:
    return separate_(network, budget=budget, input_size=IMAGE_SIZE)


def _drawn(dense: nn.Module, report: Separation) -> nn.Module:
    network: Any = separated_like(dense, report)
    laid_out: nn.Module = network.to(memory_format=torch.channels_last)
    return laid_out.eval()


def _conv(network: nn.Module, name: str) -> nn.Conv2d:
    conv = network.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    return conv


def _rank_share(conv: nn.Conv2d) -> float:
    """Multiplications of one rank, of the dense layer's."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    one = stride**2 * conv.in_channels + stride * kernel + kernel + conv.out_channels
    return one / (conv.in_channels * conv.out_channels * kernel**2)


def _decomposed(conv: nn.Conv2d, rank: int, seed: int) -> nn.Sequential:
    """Pointwise, a column and a row for each of `rank` channels, pointwise."""
    parafac = import_module("tensorly.decomposition").parafac
    weight = conv.weight.detach().double().numpy()
    weights, factors = parafac(weight, rank, n_iter_max=CP_SWEEPS, init="random", tol=1e-7, random_state=seed)
    outs, ins, rows, columns = (torch.from_numpy(factor).float() for factor in factors)
    outs = outs * torch.from_numpy(weights).float()
    k, s, p = conv.kernel_size[0], conv.stride[0], conv.kernel_size[0] // 2
    layers = nn.Sequential(
        nn.Conv2d(conv.in_channels, rank, 1, bias=False),
        nn.Conv2d(rank, rank, (k, 1), (s, 1), (p, 0), groups=rank, bias=False),
        nn.Conv2d(rank, rank, (1, k), (1, s), (0, p), groups=rank, bias=False),
        nn.Conv2d(rank, conv.out_channels, 1, bias=False),
    )
    kernels = (ins.T[:, :, None, None], rows.T[:, None, :, None], columns.T[:, None, None, :], outs[:, :, None, None])
    with torch.no_grad():
        for layer, kernel in zip(layers.children(), kernels, strict=True):
            layer.get_parameter("weight").copy_(kernel)
    return layers
