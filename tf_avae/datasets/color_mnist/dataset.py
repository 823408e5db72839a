"""ColorMNIST (App. F): each digit in one of seven colours, with two labels, digit and colour.

The colours are the non-empty subsets of the RGB channels. The colour of a training image is a
stateless function of (seed, epoch, index), that of a held-out image of its index alone: no global
random state, so a run is reproducible and a resumed run goes on with the same colours.
"""

from pathlib import Path

import numpy as np

from tf_avae.backend import tf
from tf_avae.datasets.base import ImageData, check_validation, keyed_permutation
from tf_avae.datasets.color_mnist.idx import Split, load_split
from tf_avae.datasets.indexed import IndexedImages, Maker
from tf_avae.errors import InputError
from tf_avae.files import absolute
from tf_avae.types import Images, Tensor

COLORS = ("red", "green", "yellow", "blue", "magenta", "cyan", "white")
"""Names of the classes of the label "color", in order."""

CHANNELS = np.array([[code >> bit & 1 for bit in range(3)] for code in range(1, 8)], np.float32)
"""Which of the channels R, G and B each colour lights, [7, 3]: the bits of 1 to 7, red lowest."""

_COLOR = 1  # stream of the training seed; 0 is that of the order
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


def training_color(index: Tensor, seed: int, epoch: Tensor) -> Tensor:
    """The colours of training images in an epoch of a run, int64 [B]."""
    return color_of(index, (seed, epoch, _COLOR))


def held_out_color(index: Tensor) -> Tensor:
    """The colours of test images (or of the validation part's), int64 [B]."""
    return color_of(index, _HELD_OUT_KEY)


def colorize(gray: Tensor, color: Tensor) -> Images:
    """Grey levels uint8 [B, H, W] in the colours [B], to float32 [B, H, W, 3] in [0, 1]."""
    light = tf.gather(tf.constant(CHANNELS / 255.0), color)
    return tf.cast(gray, tf.float32)[..., tf.newaxis] * light[:, tf.newaxis, tf.newaxis, :]


class ColorMNIST(IndexedImages):
    """ColorMNIST over the `Split`s of idx files."""

    def _maker(self, split: Split, seed: int) -> Maker:
        gray, digits = tf.constant(split.images), tf.constant(split.labels.astype(np.int32))

        def batch(epoch: Tensor, index: Tensor) -> tuple[Images, dict[str, Tensor]]:
            held_out = split is self.held_out_split
            color = held_out_color(index) if held_out else training_color(index, seed, epoch)
            labels = {"digit": tf.gather(digits, index), "color": tf.cast(color, tf.int32)}
            return colorize(tf.gather(gray, index), color), labels

        return batch


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
    check_validation(validation, train.size)
    if validation:
        kept = train.size - validation
        test = Split(train.images[kept:], train.labels[kept:], train.checksums)
        train = Split(train.images[:kept], train.labels[:kept], train.checksums)
    height, width = train.images.shape[1:]
    classes = {"digit": tuple(map(str, range(int(train.labels.max()) + 1))), "color": COLORS}
    checksums = train.checksums | test.checksums
    return ColorMNIST(
        "color_mnist", (height, width, 3), train, test, classes, tuple(classes), checksums
    )
