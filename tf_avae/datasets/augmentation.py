"""Training images changed at random, by Keras' own layers: rows of `AUGMENTATIONS`.

What becomes of an image is a function of (seed, number of the batch, place in the global batch): a
stream that goes on goes on to the bit, and several workers make the batch that one would make.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tf_avae.backend import keras, tf
from tf_avae.datasets.base import WHOLE, Part
from tf_avae.registry import Registry
from tf_avae.types import Images, Tensor

_STREAM = 3  # of the training seed; those below are the data sets' own
_LAST = "channels_last"


@dataclass(frozen=True)
class Augmentation:
    """A random change of an image.

    Attributes:
        name: the row's name.
        summary: what it does, for `--help` and the docs.
        layers: number of channels to new layers of Keras, applied in order, that take images
            [B, H, W, C] in [0, 1] to such, and draw from their attribute `generator`, as those that
            Keras calls Random... do.
    """

    name: str
    summary: str
    layers: Callable[[int], list["keras.Layer"]]


def _flip(channels: int) -> list["keras.Layer"]:
    return [keras.layers.RandomFlip("horizontal", data_format=_LAST, dtype="float32")]


def _crop(channels: int) -> list["keras.Layer"]:
    # By whole pixels: between them an image would be blurred.
    shift = keras.layers.RandomTranslation(
        _SHIFT, _SHIFT, "reflect", "nearest", data_format=_LAST, dtype="float32"
    )
    return [shift]


def _colour(channels: int) -> list["keras.Layer"]:
    kinds, how = keras.layers, {"value_range": (0.0, 1.0), "dtype": "float32", "data_format": _LAST}
    made = [kinds.RandomBrightness(_LIGHT, **how), kinds.RandomContrast(_LIGHT, **how)]
    # Grey has no saturation. A half leaves it as it is; these ends are two thirds and one and a
    # half of it.
    return made + [kinds.RandomSaturation((0.4, 0.6), **how)] * (channels == 3)


_SHIFT, _LIGHT = 0.125, 0.2

AUGMENTATIONS: Registry[Augmentation] = Registry(
    "augmentation",
    Augmentation("flip", "mirrored left to right, every other image", _flip),
    Augmentation("crop", "shifted by up to an eighth each way, the edge mirrored outwards", _crop),
    Augmentation("colour", "up to a fifth brighter or darker, of more or less contrast; up to half "
                 "as much again or a third less saturated", _colour),
)  # fmt: skip


def augmented(
    batches: "tf.data.Dataset",
    names: Iterable[str],
    *,
    seed: int,
    batch_size: int,
    start: int = 0,
    part: Part = WHOLE,
) -> "tf.data.Dataset":
    """A stream of training images, changed at random.

    Args:
        batches: images [B / part.of, H, W, C] float32 in [0, 1], as `ImageData.train` makes them of
            the same batch size, start and part, without the labels.
        names: of rows of `AUGMENTATIONS`, applied in this order.
        seed: the run's.
        batch_size: B.
        start: number of the first batch.
        part: which rows of each batch these are.

    Returns:
        Images of the same shapes, in [0, 1].

    Raises:
        InputError: there is no such row.
    """
    from tf_avae.backend.keyed import Keyed

    shape = batches.element_spec.shape
    layers = [layer for name in names for layer in AUGMENTATIONS[name].layers(shape[-1])]
    if not layers:
        return batches
    for layer in layers:
        layer.generator = Keyed()
    rows = batch_size // part.of
    fold_in = tf.random.experimental.stateless_fold_in

    def change(at: Tensor, image: Tensor) -> Images:
        number, place = start + at // rows, part.number * rows + at % rows
        key = fold_in(fold_in(tf.constant([seed, _STREAM], tf.int32), number), place)
        changed = image[tf.newaxis]
        for order, layer in enumerate(layers):
            layer.generator.set(fold_in(key, order))
            changed = layer(changed, training=True)
        return tf.ensure_shape(tf.clip_by_value(changed[0], 0.0, 1.0), shape[1:])

    # One by one: Keras draws for a batch from one seed, and so for each of its rows by their
    # number.
    images = batches.unbatch().enumerate()
    changed = images.map(change, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return changed.batch(rows, drop_remainder=True).prefetch(2)
