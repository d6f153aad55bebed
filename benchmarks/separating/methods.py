"""How a dense network becomes cheap: `separate_`, and what it is compared with at the same budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from depthwise import DepthwiseError, separate_, separated_like
from depthwise.layers.conversion import arguments_of
from depthwise.separate import Separation
from depthwise.separate.budget import Menu, allocate
from depthwise.separate.building import built
from depthwise.separate.calibration import batches_of
from depthwise.separate.choosing import bias_of
from depthwise.separate.depthwise_first import DepthwiseFirst, refit_mixing
from depthwise.separate.fitting import kernel_of, put_
from depthwise.separate.gathering import own_evidence
from depthwise.separate.options import Form, Option
from depthwise.separate.quadratic import Quadratic
from depthwise.separate.survey import Candidate, survey

from .data import IMAGE_SIZE

OURS, SVD, RANDOM, BLUEPRINT, CP = "separate_", "plain SVD", "random weights", "BSConv", "CP"
BALF, GSVD = "BALF", "GSVD"
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


def balf(dense: nn.Module, samples: Tensor, budget: float, seed: int) -> Made:
    """Whitened SVD with a rank for each layer (BALF, arXiv 2509.25136): k x k into `rank` channels, then pointwise.

    The kernel's SVD in the metric of its patches' second moments has the least error that its rank allows on the
    layer's output; ranks are taken where they buy most of it, each layer's output counting the same.
    """
    found, menus = {}, []
    for candidate, evidence in _evidence(dense, samples):
        conv = candidate.conv
        factors = _whitened(kernel_of(conv)[0], evidence.gram[0])
        energy = float((factors[1] ** 2).sum())
        left = (1 - factors[1].square().cumsum(0) / max(energy, 1e-300)).clamp_min(0).sqrt()
        once = candidate.dense.multiplications // conv.out_channels + candidate.dense.multiplications // (
            conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
        )
        options = [
            Option(Form("dense", rank, rank * once), float(error))
            for rank, error in enumerate(left, start=1)
            if rank * once < candidate.dense.multiplications
        ]
        found[candidate.name] = factors
        menus.append(Menu(candidate.name, (Option(candidate.dense, 0.0), *options)))
    network = deepcopy(dense)
    taken = allocate(menus, budget)
    for menu, option in zip(menus, taken, strict=True):
        if option is not menu.dense:
            low = _low_rank(_conv(network, menu.name), *found[menu.name], option.form.multiplier)
            network.set_submodule(menu.name, low)
    return _laid_out(network), _share(menus, taken)


def gsvd(dense: nn.Module, samples: Tensor, budget: float, seed: int) -> Made:
    """Generalised SVD of each input channel (Depth-wise Decomposition, arXiv 1910.09455), ranks as for plain SVD.

    The filters of a channel are the leading right factors of its slice in the metric of its own patches; the pointwise
    weights are then those of least squares on the layer's outputs over all channels: their inter-channel compensation.
    """
    found, menus = {}, []
    for candidate, evidence in _evidence(dense, samples):
        conv = candidate.conv
        kernel = kernel_of(conv)[0].unflatten(1, (conv.in_channels, -1))
        area = kernel.shape[2]
        options, made = [], {}
        for form in candidate.forms:
            if form.order == "depthwise first":
                filters, mixing = [], []
                for channel in range(conv.in_channels):
                    span = slice(channel * area, (channel + 1) * area)
                    u, s, vh = _whitened(kernel[:, channel], evidence.gram[0, span, span])
                    filters.append(vh[: form.multiplier])
                    mixing.append(u[:, : form.multiplier] * s[: form.multiplier])
                first = DepthwiseFirst(torch.stack(filters).unsqueeze(0), torch.stack(mixing, 1).unsqueeze(0))
                made[form] = refit_mixing(evidence, first)
                options.append(Option(form, evidence.error(made[form].kernel) ** 0.5))
        found[candidate.name] = (candidate, made, evidence)
        menus.append(Menu(candidate.name, (Option(candidate.dense, 0.0), *options)))
    network = deepcopy(dense)
    taken = allocate(menus, budget)
    for menu, option in zip(menus, taken, strict=True):
        if option is not menu.dense:
            candidate, made, evidence = found[menu.name]
            factors = made[option.form]
            layer = built(candidate.conv, option.form)
            put_(layer, factors, bias_of(candidate, factors.kernel, evidence))
            network.set_submodule(menu.name, layer)
    return _laid_out(network), _share(menus, taken)


METHODS: dict[str, Callable[[nn.Module, Tensor, float, int], Made]] = {
    OURS: ours,
    SVD: svd,
    RANDOM: random_weights,
    BLUEPRINT: blueprint,
    CP: cp,
    BALF: balf,
    GSVD: gsvd,
}


def _evidence(dense: nn.Module, samples: Tensor) -> Iterator[tuple[Candidate, Quadratic]]:
    """Every layer with a cheaper form, with the moments of what it reads and gives."""
    with torch.no_grad():
        batches = batches_of(samples, None, None)
        candidates, _ = survey(dense, batches[0], None)
        for candidate, evidence in own_evidence(dense, candidates, batches):
            assert isinstance(evidence, Quadratic)
            yield candidate, evidence


def _whitened(kernel: Tensor, gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SVD of `kernel` (outputs, patch) in the metric of `gram`: u, s, vh with u · s · vh = kernel where patches lie."""
    values, vectors = torch.linalg.eigh(gram)
    kept = values > 1e-10 * values[-1].clamp_min(1e-300)
    roots, axes = values[kept].sqrt(), vectors[:, kept]
    u, s, vh = torch.linalg.svd((kernel @ axes) * roots, full_matrices=False)
    back = (vh / roots) @ axes.mT
    rank = min(kernel.shape)
    # Directions that no patch has are without weight; a rank beyond the others is theirs.
    missing = max(0, rank - len(s))
    u = torch.cat([u, u.new_zeros(len(u), missing)], 1)
    return u, torch.cat([s, s.new_zeros(missing)]), torch.cat([back, back.new_zeros(missing, back.shape[1])])


def _low_rank(conv: nn.Conv2d, u: Tensor, s: Tensor, vh: Tensor, rank: int) -> nn.Sequential:
    kernel_size, stride, padding, dilation = arguments_of(conv)[2:6]
    first = nn.Conv2d(conv.in_channels, rank, kernel_size, stride, padding, dilation, bias=False)
    last = nn.Conv2d(rank, conv.out_channels, 1, bias=conv.bias is not None)
    with torch.no_grad():
        first.weight.copy_((s[:rank, None].sqrt() * vh[:rank]).reshape(first.weight.shape))
        last.weight.copy_((u[:, :rank] * s[:rank].sqrt()).reshape(last.weight.shape))
        if last.bias is not None and conv.bias is not None:
            last.bias.copy_(conv.bias)
    return nn.Sequential(first, last)


def _share(menus: Sequence[Menu], taken: Sequence[Option]) -> float:
    spent = sum(option.form.multiplications for option in taken)
    return spent / sum(menu.dense.form.multiplications for menu in menus)


def _laid_out(network: Any) -> nn.Module:
    laid_out: nn.Module = network.to(memory_format=torch.channels_last)
    return laid_out.eval()


def _by_weights(network: nn.Module, budget: float) -> Separation:
    return separate_(network, budget=budget, input_size=IMAGE_SIZE)


def _drawn(dense: nn.Module, report: Separation) -> nn.Module:
    return _laid_out(separated_like(dense, report))


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
