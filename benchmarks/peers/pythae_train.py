"""Training steps of pythae's VAE, with this project's MLP."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import nn

from .torch_network import DEVICE
from .torch_network import about as _about


def _stack(sizes: list[int]) -> nn.Sequential:
    """Dense layers, a ReLU after each."""
    return nn.Sequential(*(m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())))


class _Encoder(BaseEncoder):
    def __init__(self, pixels: int, units: list[int], latents: int):
        super().__init__()
        self.body = _stack([pixels, *units])
        self.mean = nn.Linear(units[-1], latents)
        self.log_variance = nn.Linear(units[-1], latents)

    def forward(self, x: torch.Tensor) -> ModelOutput:
        features = self.body(x.flatten(1))
        return ModelOutput(
            embedding=self.mean(features), log_covariance=self.log_variance(features)
        )


class _Decoder(BaseDecoder):
    def __init__(self, pixels: int, units: list[int], latents: int):
        super().__init__()
        self.body = _stack([latents, *units])
        self.image = nn.Linear(units[-1], pixels)

    def forward(self, z: torch.Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.image(self.body(z))))


def prepare(settings: dict[str, Any]) -> dict[str, Callable[[int], np.ndarray]]:
    """The case "vae": forward, backward and Adam, as pythae's trainer makes a step.

    Minus its loss lacks the constant of p(x|z) = N(g(z), I); it is added to what is returned.
    """
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    batches = torch.from_numpy(np.load(settings["batches"])).to(DEVICE)
    pixels = batches[0, 0].numel()
    units, latents = settings["units"], settings["latent_dim"]
    shape = tuple(batches.shape[2:])
    model = VAE(
        VAEConfig(input_dim=shape, latent_dim=latents, reconstruction_loss="mse"),
        encoder=_Encoder(pixels, units, latents),
        decoder=_Decoder(pixels, units, latents),
    ).to(DEVICE)  # fmt: skip
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), settings["learning_rate"])
    stream = _endless(batches)

    def run(steps: int) -> np.ndarray:
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = model({"data": next(stream)}).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return -torch.stack(losses).cpu().numpy() - 0.5 * pixels * np.log(2 * np.pi)

    return {"vae": run}


def _endless(batches: torch.Tensor) -> Iterator[torch.Tensor]:
    while True:
        yield from batches


def about() -> str:
    """Versions, threads and device."""
    return _about("pythae")
