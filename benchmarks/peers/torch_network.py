"""An encoder and its probe, as benchmarks/network_file.py writes them, in PyTorch."""

import importlib.metadata
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from .batches import Attack, over

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Kept(NamedTuple):
    """What the file holds.

    Attributes:
        network: images [B, C, H, W] in [0, 1] to logits [B, K]; in inference mode, its weights
            without gradients, on `DEVICE`.
        images: [N, C, H, W] float32.
        labels: [N] int64.
        logits: [N, K], of the network that was written.
        difference: the largest between its logits and those of the rebuilt one.
    """

    network: nn.Module
    images: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    difference: float


def load(path: str) -> Kept:
    """The network, rebuilt, and the images.

    Raises:
        ValueError: a layer of an unknown kind, or logits that differ from those of the network
            that was written by more than a thousandth of the largest of them.
    """
    arrays = np.load(path)
    network = nn.Sequential(*_modules(json.loads(str(arrays["layers"])), arrays))
    network.eval().requires_grad_(False).to(DEVICE)
    images = np.ascontiguousarray(arrays["images"].transpose(0, 3, 1, 2))
    logits = network(torch.from_numpy(images).to(DEVICE)).cpu().numpy()
    difference = float(np.abs(logits - arrays["logits"]).max())
    if difference > 1e-3 * np.abs(arrays["logits"]).max():
        raise ValueError(f"the rebuilt network's logits differ by {difference:.1e}")
    labels = arrays["labels"].astype(np.int64)
    return Kept(network, images, labels, arrays["logits"], difference)


def about(*libraries: str) -> str:
    """Versions of what is installed under these names, threads and device."""
    names = (*libraries, torch.__name__)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    return f"{', '.join(versions)}, {torch.get_num_threads()} threads, {DEVICE}"


def attacks(
    settings: dict[str, Any], make: Callable[[Kept, int], Attack]
) -> dict[str, Callable[[int], np.ndarray]]:
    """A case for each batch size.

    Args:
        settings: those of `benchmarks.attack`.
        make: (network and images, batch size) to the attack of a batch.
    """
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    kept = load(settings["network"])
    return {
        str(size): over(kept.images, kept.labels, size, make(kept, size))
        for size in settings["batch_sizes"]
    }


def on_tensors(attack: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Attack:
    """An attack of arrays from one of tensors on `DEVICE`."""
    return lambda images, labels: (
        attack(torch.from_numpy(images).to(DEVICE), torch.from_numpy(labels).to(DEVICE))
        .detach()
        .cpu()
        .numpy()
    )


def _modules(layers: list[dict[str, Any]], arrays: Any) -> list[nn.Module]:
    made: list[nn.Module] = []
    flattened = None  # (H, W, C), where the next kernel's rows are in that order
    for number, layer in enumerate(layers):
        weights = {
            name.split(".")[1]: torch.from_numpy(arrays[name])
            for name in arrays.files
            if name.startswith(f"{number}.")
        }
        kind = layer["kind"]
        if kind == "flatten":
            flattened = layer["shape"]
            made.append(nn.Flatten())
        elif kind == "dense":
            kernel = weights["kernel"]
            if flattened:
                kernel = kernel.reshape(*flattened, -1).permute(2, 0, 1, 3).flatten(0, 2)
                flattened = None
            made.append(_filled(nn.Linear(*kernel.shape), weight=kernel.T, bias=weights["bias"]))
        elif kind == "convolution":
            made += _convolution(layer, weights)
        elif kind == "batch_norm":
            norm = nn.BatchNorm2d(len(weights["gamma"]), eps=layer["epsilon"])
            made.append(
                _filled(
                    norm,
                    weight=weights["gamma"], bias=weights["beta"],
                    running_mean=weights["mean"], running_var=weights["variance"],
                )
            )  # fmt: skip
        elif kind == "standardise":
            made.append(_Standardise(weights["mean"], weights["scale"]))
        elif kind == "leaky_relu":
            made.append(nn.LeakyReLU(layer["slope"]))
        elif kind in _ACTIVATIONS:
            made.append(_ACTIVATIONS[kind]())
        else:
            raise ValueError(f"layer {number} is of the kind {kind!r}, which is not known here")
    return made


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "elu": nn.ELU, "gelu": nn.GELU, "hard_sigmoid": nn.Hardsigmoid,
    "mish": nn.Mish, "relu6": nn.ReLU6, "selu": nn.SELU, "sigmoid": nn.Sigmoid, "silu": nn.SiLU,
    "softplus": nn.Softplus, "softsign": nn.Softsign, "tanh": nn.Tanh,
}  # fmt: skip
"""By the names that benchmarks/network_file.py gives them."""


class _Standardise(nn.Module):
    """(x - mean) / scale."""

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.scale


def _convolution(layer: dict[str, Any], weights: dict[str, torch.Tensor]) -> list[nn.Module]:
    """A convolution padded as TensorFlow pads "same": the odd pixel goes below and to the right."""
    kernel, stride = weights["kernel"].permute(3, 2, 0, 1), layer["stride"]
    pads = []
    for side, size in zip(layer["shape"][:2], kernel.shape[2:], strict=True):
        total = max((-(-side // stride) - 1) * stride + size - side, 0)
        pads.append((total // 2, total - total // 2))
    (top, bottom), (left, right) = pads
    even = top == bottom and left == right
    convolution = nn.Conv2d(
        kernel.shape[1], kernel.shape[0], tuple(kernel.shape[2:]), stride,
        padding=(top, left) if even else 0, bias="bias" in weights,
    )  # fmt: skip
    _filled(convolution, weight=kernel, **{k: v for k, v in weights.items() if k == "bias"})
    return [convolution] if even else [nn.ZeroPad2d((left, right, top, bottom)), convolution]


def _filled(module: nn.Module, **values: torch.Tensor) -> nn.Module:
    module.load_state_dict({n: v.contiguous() for n, v in values.items()}, strict=False)
    return module
