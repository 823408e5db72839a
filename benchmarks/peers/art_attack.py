"""PGD of the Adversarial Robustness Toolbox, from one start and from several."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier

from . import torch_network
from .batches import Attack


def classifier(kept: torch_network.Kept) -> PyTorchClassifier:
    """The network as that library wants it."""
    return PyTorchClassifier(
        kept.network, torch.nn.CrossEntropyLoss(), kept.images.shape[1:], kept.logits.shape[1],
        clip_values=(0, 1), device_type="gpu" if torch_network.DEVICE == "cuda" else "cpu",
    )  # fmt: skip


def prepare(settings: dict[str, Any]) -> dict[str, Callable[[int], np.ndarray]]:
    """A case for each batch size, and "worst_case": all images, all restarts."""

    def pgd(kept: torch_network.Kept, size: int, restarts: int = 1) -> Attack:
        attack = ProjectedGradientDescent(
            classifier(kept), norm=np.inf, eps=settings["epsilon"],
            eps_step=settings["step_size"], max_iter=settings["pgd_steps"],
            num_random_init=restarts, batch_size=size, verbose=False,
        )  # fmt: skip
        return attack.generate

    cases = torch_network.attacks(settings, pgd)
    if settings["worst_case"]:
        kept = torch_network.load(settings["worst_case"])
        search = pgd(kept, len(kept.images), settings["restarts"])
        cases["worst_case"] = lambda steps: search(kept.images, kept.labels)
    return cases


def about() -> str:
    """Versions, threads and device."""
    return torch_network.about("adversarial-robustness-toolbox")
