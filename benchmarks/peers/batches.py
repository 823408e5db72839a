"""An attack on the same images again and again, a batch a step."""

from collections.abc import Callable

import numpy as np

Attack = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(images [B, ...], labels [B]) to attacked images [B, ...]."""


def over(
    images: np.ndarray, labels: np.ndarray, size: int, attack: Attack
) -> Callable[[int], np.ndarray]:
    """A case: attacks so many batches, and returns the images as the last attacks left them.

    Args:
        images: [N, ...]; the batch after the last begins again with the first of them.
        labels: [N].
        size: B, at most N.
        attack: of one batch.
    """
    found = images.copy()

    def run(steps: int) -> np.ndarray:
        for step in range(steps):
            among = np.arange(step * size, (step + 1) * size) % len(images)
            found[among] = attack(images[among], labels[among])
        return found

    return run


def inside(found: np.ndarray, images: np.ndarray, epsilon: float) -> np.ndarray:
    """Whether each attacked image is in the L-infinity ball around its image and within [0, 1].

    A rounding error of 1e-6 is allowed to the radius. What is not a number is outside.

    Args:
        found, images: [N, ...].
        epsilon: radius.

    Returns:
        [N] bool.
    """
    near = (np.abs(found - images) <= epsilon + 1e-6) & (found >= 0) & (found <= 1)
    return near.reshape(len(images), -1).all(1)
