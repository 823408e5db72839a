"""ColorMNIST (App. F): each digit in one of seven colours, with two labels, digit and colour.

The colours are the non-empty subsets of the RGB channels. The colour of a training image is a
stateless function of (seed, epoch, index), that of a held-out image of its index alone: no global
random state, so a run is reproducible and a resumed run goes on with the same colours.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tf_avae.backend import tf
from tf_avae.datasets.base import (
    WHOLE,
    ImageData,
    Part,
    check_validation,
    keyed_permutation,
    shuffled_positions,
)
from tf_avae.datasets.color_mnist.idx import Split, load_split
from tf_avae.errors import InputError
from tf_avae.files import absolute
from tf_avae.types import Images, ImageShape, Tensor

COLORS = ("red", "green", "yellow", "blue", "magenta", "cyan", "white")
"""Names of the classes of the label "color", in order."""

CHANNELS = np.array([[code >> bit & 1 for bit in range(3)] for code in range(1, 8)], np.float32)
"""Which of the channels R, G and B each colour lights, [7, 3]: the bits of 1 to 7, red lowest."""

_ORDER, _COLOR = 0, 1  # streams of the training seed
_HELD_OUT_KEY = (0, 0, 2)
_SPREAD = 7 * 2**40


def color_of(index: Tensor, key: tuple[int | Tensor, ...]) -> Tensor:
    """The colours of images, int64 [B] in [0, 7).

    A keyed permutation of range(7 * 2^40), taken modulo 7: uniform, and independent between keys.

    Args:
        index: positions in the split's file, int64 [B].
        key: three integers, each an int or an int64 tensor [B].
    """
    return keyed_permutation(index, _SPREAD, key) % len(COLORS)


def training_color(index: Tensor, *, seed: int, epoch: Tensor) -> Tensor:
    """The colours of training images in an epoch of a run, int64 [B]."""
    return color_of(index, (seed, epoch, _COLOR))


def held_out_color(index: Tensor) -> Tensor:
    """The colours of test images (or of the validation part's), int64 [B]."""
    return color_of(index, _HELD_OUT_KEY)


def colorize(gray: Tensor, color: Tensor) -> Images:
    """Grey levels uint8 [B, H, W] in the colours [B], to float32 [B, H, W, 3] in [0, 1]."""
    light = tf.gather(tf.constant(CHANNELS / 255.0), color)
    return tf.cast(gray, tf.float32)[..., tf.newaxis] * light[:, tf.newaxis, tf.newaxis, :]


@dataclass(frozen=True)
class ColorMNIST:
    """ColorMNIST over idx files; see `ImageData` for what it offers."""

    train_split: Split
    held_out_split: Split
    name: str = "color_mnist"

    @property
    def image_shape(self) -> ImageShape:
        height, width = self.train_split.images.shape[1:]
        return height, width, 3

    @property
    def labels(self) -> dict[str, int]:
        return {name: len(classes) for name, classes in self.class_names.items()}

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.labels)

    @property
    def class_names(self) -> dict[str, tuple[str, ...]]:
        digits = range(int(self.train_split.labels.max()) + 1)
        return {"digit": tuple(map(str, digits)), "color": COLORS}

    @property
    def train_size(self) -> int:
        return len(self.train_split.images)

    @property
    def held_out_size(self) -> int:
        return len(self.held_out_split.images)

    @property
    def checksums(self) -> dict[str, str]:
        return self.train_split.checksums | self.held_out_split.checksums

    def train(
        self, batch_size: int, *, seed: int, start: int = 0, part: Part = WHOLE
    ) -> "tf.data.Dataset":
        gray, digits = _tensors(self.train_split)

        def batch(number: Tensor) -> tuple[Images, dict[str, Tensor]]:
            epoch, index = shuffled_positions(
                self.train_size, batch_size, number, seed, _ORDER, part
            )
            color = training_color(index, seed=seed, epoch=epoch)
            return _batch(gray, digits, index, color)

        numbers = tf.data.Dataset.counter(start)
        return numbers.map(batch, num_parallel_calls=2, deterministic=True).prefetch(4)

    def train_images(self, batch_size: int) -> "tf.data.Dataset":
        return _in_order(
            self.train_split,
            batch_size,
            lambda index: training_color(index, seed=0, epoch=tf.zeros_like(index)),
        )

    def held_out(self, batch_size: int) -> "tf.data.Dataset":
        return _in_order(self.held_out_split, batch_size, held_out_color)


def _tensors(split: Split) -> tuple[Tensor, Tensor]:
    return tf.constant(split.images), tf.constant(split.labels.astype(np.int32))


def _batch(
    gray: Tensor, digits: Tensor, index: Tensor, color: Tensor
) -> tuple[Images, dict[str, Tensor]]:
    labels = {"digit": tf.gather(digits, index), "color": tf.cast(color, tf.int32)}
    return colorize(tf.gather(gray, index), color), labels


def _in_order(split: Split, batch_size: int, color) -> "tf.data.Dataset":
    gray, digits = _tensors(split)
    indices = tf.data.Dataset.range(len(split.images)).batch(batch_size)
    return indices.map(lambda index: _batch(gray, digits, index, color(index))).prefetch(2)


def open_color_mnist(data_dir: str | Path | None = None, validation: int = 0) -> ImageData:
    """ColorMNIST from the packaged MNIST, or from another set of idx files.

    Args:
        data_dir: folder of four idx files under MNIST's names, plain or gzipped.
        validation: the last so many training images are the held-out ones, instead of the
            test images, and are not trained on.

    Raises:
        InputError: missing, damaged or unfitting files, or no training image left.
    """
    directory = absolute(data_dir) if data_dir is not None else None
    if directory and not directory.is_dir():
        raise InputError(f"{directory} is not a folder; it must hold four idx files")
    train, test = load_split("train", directory), load_split("test", directory)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise InputError(
            f"{directory}: training images are {train.images.shape[1:]}, test images "
            f"{test.images.shape[1:]}; take all four files from one set"
        )
    check_validation(validation, len(train.images))
    if validation:
        kept = len(train.images) - validation
        held_out = Split(train.images[kept:], train.labels[kept:], train.checksums)
        train = Split(train.images[:kept], train.labels[:kept], train.checksums)
        return ColorMNIST(train, held_out)
    return ColorMNIST(train, test)
