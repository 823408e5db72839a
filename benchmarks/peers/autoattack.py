"""The original AutoAttack, version "standard", in the L-infinity ball, through torchattacks.

Croce and Hein (arXiv 2003.01690): Auto-PGD on the cross-entropy, Auto-PGD on the targeted ratio of
logit differences, targeted FAB, and Square with 5,000 queries, in this order, each on the images
that those before it left. The first three make 100 steps from one start, the targeted ones towards
each of 9 classes.

Why torchattacks: its four attacks are the authors' code with other names, and it is the only one of
three libraries that has all four.

- Of torchattacks' own class `AutoAttack` the attacks make 10 steps in the place of 100 (its issue
  196), its Square stretches the schedule of the original over the queries, and the targets are all
  classes. So the four attacks are made here one by one, with the original's settings.
- `AutoAttack` of the Adversarial Robustness Toolbox has DeepFool in the place of FAB, and no
  targeted ratio.
- foolbox has neither Auto-PGD nor FAB nor Square.

What an attack says of itself is not believed: see `inside`, and the network is asked again.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torchattacks

from . import torch_network
from .batches import inside

_STEPS, _QUERIES, _TARGETS = 100, 5000, 9
_SUSPECT = 0.002
"""The original calls an evaluation unreliable where Square lowers the accuracy by more."""


class Attempt(NamedTuple):
    """What one attack did to the images that were left.

    Attributes:
        name: the original's name of it.
        settings: what it was given.
        attacked: positions of the images that it was given, [M].
        points: what it returned, [M, C, H, W].
        breaks: which of these count: inside of ball and bounds, and misclassified, [M] bool.
        outside: how many were not inside.
        seconds: what it took.
    """

    name: str
    settings: dict[str, Any]
    attacked: np.ndarray
    points: np.ndarray
    breaks: np.ndarray
    outside: int
    seconds: float


def standard(
    kept: torch_network.Kept, epsilon: float, *, seed: int = 0, batch_size: int = 250
) -> Iterator[Attempt]:
    """Attacks the images that are right, until one attack breaks them.

    With fewer than four classes the targeted ratio is not defined; that attack is left out.

    Args:
        kept: network, images and labels.
        epsilon: radius.
        seed: of each attack.
        batch_size: images attacked at once; 250 in the original.
    """
    left = np.flatnonzero(kept.logits.argmax(1) == kept.labels)
    for name, make, settings in _attacks(kept.logits.shape[1]):
        shared = {"norm": "Linf", "eps": epsilon, "seed": seed}
        search = torch_network.on_tensors(make(kept.network, **shared, **settings))
        start, points = time.perf_counter(), kept.images[left]
        for first in range(0, len(left), batch_size):
            among = slice(first, first + batch_size)
            points[among] = search(points[among], kept.labels[left[among]])
        seconds = time.perf_counter() - start
        within = inside(points, kept.images[left], epsilon)
        breaks = within & (_predicted(kept.network, points, batch_size) != kept.labels[left])
        yield Attempt(name, settings, left, points, breaks, int(np.sum(~within)), seconds)
        left = left[~breaks]


def suspect(attempts: list[Attempt], count: int) -> bool:
    """Whether the original would call the evaluation of so many images unreliable: an attack
    without gradients broke what those with gradients had left."""
    return sum(a.breaks.sum() for a in attempts if a.name == "square") / count > _SUSPECT


def about() -> str:
    """Versions, threads and device."""
    return torch_network.about("torchattacks")


def _attacks(classes: int) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Name, class and settings of each attack."""
    once = {"n_restarts": 1}
    steps = {**once, "steps": _STEPS}
    targeted = {**steps, "n_classes": min(_TARGETS + 1, classes)}
    yield "apgd-ce", torchattacks.APGD, {**steps, "loss": "ce", "rho": 0.75}
    if classes >= 4:
        yield "apgd-t", torchattacks.APGDT, {**targeted, "rho": 0.75}
    yield "fab-t", torchattacks.FAB, {**targeted, "multi_targeted": True}
    yield "square", torchattacks.Square, {**once, "n_queries": _QUERIES, "resc_schedule": False}


def _predicted(network: torch.nn.Module, images: np.ndarray, batch_size: int) -> np.ndarray:
    """The class of each image, [N]."""
    parts = [np.zeros(0, np.int64)]
    for first in range(0, len(images), batch_size):
        batch = torch.from_numpy(images[first : first + batch_size]).to(torch_network.DEVICE)
        parts.append(network(batch).argmax(1).cpu().numpy())
    return np.concatenate(parts)
