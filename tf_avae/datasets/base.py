"""What every data set offers, and the seeded order in which training examples come."""

from typing import NamedTuple, Protocol

from tf_avae.backend import tf
from tf_avae.errors import InputError
from tf_avae.types import ImageShape, Tensor


class Part(NamedTuple):
    """Which rows of each batch to make: the part of one of several workers, in order."""

    number: int = 0
    of: int = 1


WHOLE = Part()
"""All rows."""


class ImageData(Protocol):
    """A data set of labelled images. The labels are for evaluation; no objective sees them.

    Batches are pairs (images [B, H, W, C] float32 in [0, 1], {label: int32 [B]}).

    Attributes:
        name: the data set's name.
        image_shape: (H, W, C).
        labels: number of classes of each label.
        tasks: the labels that an evaluation predicts by default.
        class_names: what the classes of each label are called, in order.
        train_size: number of training images.
        held_out_size: number of held-out images.
        checksums: digests of the files that were read, for the run's provenance.
    """

    @property
    def name(self) -> str: ...
    @property
    def image_shape(self) -> ImageShape: ...
    @property
    def labels(self) -> dict[str, int]: ...
    @property
    def tasks(self) -> tuple[str, ...]: ...
    @property
    def class_names(self) -> dict[str, tuple[str, ...]]: ...
    @property
    def train_size(self) -> int: ...
    @property
    def held_out_size(self) -> int: ...
    @property
    def checksums(self) -> dict[str, str]: ...

    def train(
        self, batch_size: int, *, seed: int, start: int = 0, part: Part = WHOLE
    ) -> "tf.data.Dataset":
        """An endless stream of full batches, from batch number `start` on.

        Batch number n is a function of (seed, n) alone, so a stream that starts at n continues
        one that stopped before n to the bit. Of a part no other row is fetched or decoded; the
        parts of a batch put together are the batch.
        """
        ...

    def train_images(self, batch_size: int) -> "tf.data.Dataset":
        """The training images once, in the order of the files, for fitting probes."""
        ...

    def held_out(self, batch_size: int) -> "tf.data.Dataset":
        """The test images (or those of the validation part) once, in the order of the files."""
        ...


def shuffled_positions(
    size: int, batch_size: int, number: Tensor, seed: int, stream: int, part: Part = WHOLE
) -> tuple[Tensor, Tensor]:
    """Which examples batch `number` of an endless stream holds.

    Each epoch is a permutation of its own; batches run on from one epoch into the next, so that
    every example is seen once an epoch whatever the batch size.

    Args:
        size: number of examples.
        batch_size: B.
        number: batch number, scalar int64, at least 0.
        seed: the run's seed.
        stream: tells uses of the same seed apart.
        part: which rows of the batch; their number must divide.

    Returns:
        (epoch, index), int64 [B / part.of] each.
    """
    rows = batch_size // part.of
    first = number * batch_size + part.number * rows
    position = first + tf.range(rows, dtype=tf.int64)
    epoch = position // size
    return epoch, keyed_permutation(position % size, size, (seed, epoch, stream))


def keyed_permutation(index: Tensor, size: int, key: tuple[int | Tensor, ...]) -> Tensor:
    """Where each index lands in the pseudorandom permutation of range(size) that the key selects.

    Args:
        index: int64 [B], in [0, size).
        size: number of elements.
        key: three integers, each an int or an int64 tensor [B].

    Returns:
        int64 [B], in [0, size).
    """
    # tf.random.experimental.index_shuffle takes one seed for the whole batch only: given one a
    # row (a batch that runs into the next epoch) it pads the wrong axis and fails. The op it
    # wraps takes them.
    ones = tf.ones_like(index)
    seeds = tf.stack([tf.cast(part, tf.int64) * ones for part in key], axis=1)
    return tf.raw_ops.RandomIndexShuffle(
        index=index, seed=seeds, max_index=tf.constant(size - 1, tf.int64), rounds=8
    )


def check_validation(validation: int, size: int) -> None:
    """Raises `InputError` where no training image would be left."""
    if not 0 <= validation < size:
        raise InputError(
            f"validation is {validation}; it must be at least 0 and below the "
            f"{size} training images"
        )
