"""What encoders take pixels as, and the layer that makes it of images in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tf_avae.backend import keras
from tf_avae.errors import InputError
from tf_avae.registry import Registry


@dataclass(frozen=True)
class Pixels:
    """What an encoder takes pixels as.

    Attributes:
        name: the row's name.
        summary: for `--help`.
        of: images in [0, 255], a new array [N, H, W, C], to what it takes; affine in each pixel.
    """

    name: str
    summary: str
    of: Callable[[np.ndarray], Any]


def _keras(mode: str) -> Callable[[np.ndarray], Any]:
    def of(images: np.ndarray) -> Any:
        preprocess = keras.applications.imagenet_utils.preprocess_input
        return preprocess(images, data_format="channels_last", mode=mode)

    return of


PIXELS: Registry[Pixels] = Registry(
    "kind of pixels",
    Pixels("unit", "from 0 to 1", lambda images: images / 255.0),
    Pixels("bytes", "from 0 to 255", lambda images: images),
    Pixels("tf", "from -1 to 1 (Keras' mode tf)", _keras("tf")),
    Pixels("torch", "standardised by ImageNet's channels (Keras' mode torch)", _keras("torch")),
    Pixels("caffe", "BGR less ImageNet's means (Keras' mode caffe)", _keras("caffe")),
)


def as_pixels(images: Any, channels: int, of: Callable[[np.ndarray], Any], name: str | Path) -> Any:
    """Images in [0, 1] as the network takes them: a convolution of one pixel, which is not
    trained."""
    probe = np.zeros((channels + 1, 1, 1, channels), np.float32)
    probe[np.arange(1, channels + 1), 0, 0, np.arange(channels)] = 255.0
    try:
        offset, *rows = np.asarray(of(probe), np.float64).reshape(channels + 1, channels)
    except ValueError as error:
        raise InputError(
            f"{name} takes pixels of 3 channels, and these images have {channels}; give images in "
            "colour, or another --pixels"
        ) from error
    matrix = np.array(rows) - offset
    if np.array_equal(matrix, np.eye(channels)) and not offset.any():
        return images
    layer = keras.layers.Conv2D(channels, 1, name="pixels", dtype="float32", trainable=False)
    found = layer(images)
    layer.set_weights([matrix[np.newaxis, np.newaxis], offset])
    return found
