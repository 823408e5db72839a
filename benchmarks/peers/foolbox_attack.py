"""PGD of foolbox."""

from collections.abc import Callable
from typing import Any

import foolbox
import numpy as np

from . import torch_network
from .batches import Attack


def prepare(settings: dict[str, Any]) -> dict[str, Callable[[int], np.ndarray]]:
    """A case for each batch size."""

    def pgd(kept: torch_network.Kept, size: int) -> Attack:
        model = foolbox.PyTorchModel(kept.network, bounds=(0, 1), device=torch_network.DEVICE)
        attack = foolbox.attacks.LinfPGD(
            abs_stepsize=settings["step_size"], steps=settings["pgd_steps"], random_start=True
        )
        return torch_network.on_tensors(
            lambda x, y: attack.run(
                model, x, foolbox.criteria.Misclassification(y), epsilon=settings["epsilon"]
            )
        )

    return torch_network.attacks(settings, pgd)


def about() -> str:
    """Versions, threads and device."""
    return torch_network.about("foolbox")
