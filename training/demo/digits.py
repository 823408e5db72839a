"""The images that the demo attacks: test digits, and drawings made like them, in a colour."""

from typing import Any

import numpy as np
from PIL import Image

from tf_avae.backend import tf
from tf_avae.datasets.color_mnist.dataset import COLORS, colorize
from tf_avae.datasets.color_mnist.idx import Split
from tf_avae.errors import InputError

SIDE = 28
_BOX = 20  # pixels of MNIST's digits, in the larger of height and width


def picked(split: Split, digit: int, number: int) -> np.ndarray:
    """An image of a digit, grey levels uint8 [28, 28].

    Args:
        split: the images.
        digit: which of the ten.
        number: of the image among those of the digit; after the last comes the first.

    Raises:
        InputError: there is none.
    """
    among = np.flatnonzero(split.labels == digit)
    if not len(among):
        raise InputError(f"there is no image of {digit!r}; pick one of the digits 0 to 9")
    return split.images[among[number % len(among)]]


def drawn(ink: Any) -> np.ndarray:
    """A drawing as MNIST makes an image of a digit, grey levels uint8 [28, 28]: 20 pixels in the
    larger of height and width, its centre of mass in the middle.

    Args:
        ink: [H, W] uint8, how much there is of it; or None.

    Raises:
        InputError: there is none, or hardly any.
    """
    if ink is None or not np.any(ink):
        raise InputError("the drawing is empty; draw a digit, or pick one")
    ink = np.asarray(ink)
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    cut = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    small = np.asarray(
        cut.resize(
            [max(1, round(_BOX * side / max(cut.size))) for side in cut.size],
            Image.Resampling.BOX,
        ),
        np.float64,
    )
    if not small.max():
        raise InputError("the drawing is too faint; draw a digit, or pick one")
    small *= 255.0 / small.max()
    image = np.zeros((SIDE, SIDE), np.uint8)
    height, width = small.shape
    # A box that would reach over the edge is put against it.
    top, left = (
        int(np.clip(round(SIDE / 2 - middle), 0, SIDE - side))
        for middle, side in (
            (small.sum(1) @ np.arange(height) / small.sum(), height),
            (small.sum(0) @ np.arange(width) / small.sum(), width),
        )
    )
    image[top : top + height, left : left + width] = np.round(small)
    return image


def coloured(gray: np.ndarray, colour: str) -> np.ndarray:
    """Grey levels uint8 [28, 28] in a colour, float32 [28, 28, 3] in [0, 1].

    Raises:
        InputError: there is no such colour.
    """
    if colour not in COLORS:
        raise InputError(f"colour is {colour!r}; it must be one of {', '.join(COLORS)}")
    return colorize(gray[np.newaxis], tf.constant([COLORS.index(colour)]))[0].numpy()
