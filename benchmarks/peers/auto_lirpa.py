"""Bounds of auto_LiRPA (Xu et al., arXiv 2002.12920), by the authors of CROWN-IBP."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from auto_LiRPA import BoundedModule, BoundedTensor
from auto_LiRPA.perturbations import PerturbationLpNorm
from torch import nn

from . import torch_network


def about() -> str:
    """Versions and threads."""
    return torch_network.about("auto_LiRPA")


def bounds(kept: torch_network.Kept, head: np.ndarray, epsilon: float) -> dict[str, np.ndarray]:
    """What `benchmarks.bounds_check` asks ours for, by the same names.

    Args:
        kept: a network whose last two modules are a probe's: the embedding is bounded.
        head: functions of the embedding, [D, K].
        epsilon: radius of the L-infinity ball, within [0, 1].
    """
    images = torch.from_numpy(kept.images).to(torch_network.DEVICE)
    rows = torch.from_numpy(head.T.copy()).to(images).expand(len(images), -1, -1)
    layers = nn.Sequential(*_evenly_padded(kept.network[:-2])).eval()
    network = BoundedModule(layers, images, device=torch_network.DEVICE)
    ends = {"x_L": (images - epsilon).clamp(0, 1), "x_U": (images + epsilon).clamp(0, 1)}
    at = (BoundedTensor(images, PerturbationLpNorm(norm=np.inf, **ends)),)
    lower, upper = network.compute_bounds(x=at, method="IBP")
    found = {"lower": lower, "upper": upper}
    for name, method in (("folded", "IBP"), ("crown_ibp", "CROWN-IBP")):
        found[name], _ = network.compute_bounds(x=at, C=rows, method=method, bound_upper=False)
    return {name: value.detach().cpu().numpy() for name, value in found.items()}


def _evenly_padded(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The same layers, where a convolution's padding differs from side to side with zeros in its
    kernel in the place of a layer that pads: auto_LiRPA 0.7.1 fails at those of PyTorch 2.13."""
    odd = None
    for module in modules:
        if isinstance(module, nn.ZeroPad2d):
            odd = module.padding
        elif odd is not None and isinstance(module, nn.Conv2d):
            left, right, top, bottom = odd
            kernel = nn.functional.pad(module.weight, (right - left, 0, bottom - top, 0))
            even = nn.Conv2d(
                module.in_channels, module.out_channels, tuple(kernel.shape[2:]), module.stride,
                padding=(bottom, right), bias=module.bias is not None, device=kernel.device,
            )  # fmt: skip
            even.weight.data = kernel.data
            if module.bias is not None and even.bias is not None:
                even.bias.data = module.bias.data
            odd = None
            yield even.requires_grad_(False)
        else:
            yield module
