"""Images that are fetched by their position: what data sets of files have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tf_avae.backend import tf
from tf_avae.datasets.base import WHOLE, Part, shuffled_positions
from tf_avae.errors import InputError
from tf_avae.inputs import label_array
from tf_avae.types import Images, ImageShape, Tensor

_ORDER = 0  # stream of the training seed

Maker = Callable[[Tensor, Tensor], tuple[Images, dict[str, Tensor]]]


class Indexed(NamedTuple):
    """One split.

    Attributes:
        fetch: positions, int64 [B], each in [0, size), to pixels, uint8 [B, H, W, C]. It is called
            from several threads at once.
        labels: of each image, int32 [size] by name.
        size: number of images.
    """

    fetch: Callable[[np.ndarray], np.ndarray]
    labels: dict[str, np.ndarray]
    size: int

    def select(self, positions: np.ndarray) -> Indexed:
        """The split of these images, in this order."""
        return Indexed(
            lambda index: self.fetch(positions[index]),
            {name: values[positions] for name, values in self.labels.items()},
            len(positions),
        )


@dataclass(frozen=True)
class IndexedImages:
    """A data set over two splits; see `ImageData` for what it offers.

    Attributes:
        train_split: training images: an `Indexed`, or what the `_maker` of a subclass takes.
        held_out_split: test images, or those of the validation part.
    """

    name: str
    image_shape: ImageShape
    train_split: Any
    held_out_split: Any
    class_names: dict[str, tuple[str, ...]]
    tasks: tuple[str, ...]
    checksums: dict[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> dict[str, int]:
        return {name: len(classes) for name, classes in self.class_names.items()}

    @property
    def train_size(self) -> int:
        return self.train_split.size

    @property
    def held_out_size(self) -> int:
        return self.held_out_split.size

    def train(
        self, batch_size: int, *, seed: int, start: int = 0, part: Part = WHOLE
    ) -> tf.data.Dataset:
        def places(number: Tensor) -> tuple[Tensor, Tensor]:
            return shuffled_positions(self.train_size, batch_size, number, seed, _ORDER, part)

        return self._batches(self.train_split, tf.data.Dataset.counter(start).map(places), seed)

    def train_images(self, batch_size: int) -> tf.data.Dataset:
        return self._in_order(self.train_split, batch_size)

    def held_out(self, batch_size: int) -> tf.data.Dataset:
        return self._in_order(self.held_out_split, batch_size)

    def _in_order(self, split: Any, batch_size: int) -> tf.data.Dataset:
        positions = tf.data.Dataset.range(split.size).batch(batch_size)
        return self._batches(split, positions.map(lambda index: (tf.zeros_like(index), index)), 0)

    def _batches(self, split: Any, places: tf.data.Dataset, seed: int) -> tf.data.Dataset:
        batch = self._maker(split, seed)
        return places.map(batch, num_parallel_calls=2, deterministic=True).prefetch(4)

    def _maker(self, split: Any, seed: int) -> Maker:
        """A function of (epoch, index), int64 [B] each, to the batch of these images of a split."""
        # In one table, [size, labels]: a data set may have dozens, or none.
        rows = np.array(list(split.labels.values()), np.int32).reshape(-1, split.size)
        table = tf.constant(rows.T)

        def batch(epoch: Tensor, index: Tensor) -> tuple[Images, dict[str, Tensor]]:
            pixels = tf.numpy_function(split.fetch, [index], tf.uint8, stateful=False)
            pixels = tf.ensure_shape(pixels, (None, *self.image_shape))
            images = tf.cast(pixels, tf.float32) / 255.0
            # The batch size is known where that of the positions is.
            images.set_shape((index.shape[0], *self.image_shape))
            values = tf.unstack(tf.gather(table, index), axis=1)
            return images, dict(zip(split.labels, values, strict=True))

        return batch


Arrays = tuple[np.ndarray, Mapping[str, np.ndarray]]
"""Images, uint8 [N, H, W, C], and the class numbers of each label, integers [N]."""


def from_arrays(
    name: str,
    train: Arrays,
    held_out: Arrays,
    class_names: Mapping[str, Sequence[str]] | None = None,
) -> IndexedImages:
    """A data set of arrays in memory.

    Args:
        name: the data set's.
        train: the training split.
        held_out: the test split, of images of the same shape and with the same labels.
        class_names: what the classes of each label are called; their numbers unless given.

    Raises:
        InputError: the arrays are not such splits.
    """
    train_split, held_out_split = (_split(name, *arrays) for arrays in (train, held_out))
    names = {
        label: tuple(map(str, range(max(numbers.max(), held_out_split.labels[label].max()) + 1)))
        for label, numbers in train_split.labels.items()
    } | {label: tuple(given) for label, given in (class_names or {}).items()}
    checksums = {
        f"{name} {what}": hashlib.sha256(images.tobytes()).hexdigest()
        for what, (images, _) in (("train", train), ("held out", held_out))
    }
    height, width, channels = train[0].shape[1:]
    return IndexedImages(
        name, (height, width, channels), train_split, held_out_split, names, tuple(names), checksums
    )


def _split(name: str, images: np.ndarray, labels: Mapping[str, np.ndarray]) -> Indexed:
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise InputError(
            f"images of {name} are {images.dtype} of shape {images.shape}; give uint8 [N, H, W, C]"
        )
    checked = {
        label: label_array(numbers, count=len(images), what=f"labels of {label!r}").astype(np.int32)
        for label, numbers in labels.items()
    }
    return Indexed(lambda index: images[index], checked, len(images))
