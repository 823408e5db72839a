"""PGD of torchattacks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torchattacks

from . import torch_network


def prepare(settings: dict[str, Any]) -> dict[str, Callable[[int], np.ndarray]]:
    """A case for each batch size."""
    return torch_network.attacks(
        settings,
        lambda kept, size: torch_network.on_tensors(
            torchattacks.PGD(
                kept.network, eps=settings["epsilon"], alpha=settings["step_size"],
                steps=settings["pgd_steps"], random_start=True,
            )
        ),
    )  # fmt: skip


def about() -> str:
    """Versions, threads and device."""
    return torch_network.about("torchattacks")
