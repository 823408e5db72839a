"""How a picture of other proportions becomes an image: rows of `FITS`.

All give a picture of the image's own proportions the same pixels, to the bit.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tf_avae.backend import tf
from tf_avae.registry import Registry
from tf_avae.types import Tensor

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class Fit:
    """A way to resize a picture.

    Attributes:
        name: the row's name.
        summary: what it does, for `--help` and the docs.
        resize: (pixels uint8 [h, w, 3], (H, W), background uint8 [3]) to float32 [H, W, 3] from 0
            to 255, with operations of stock TensorFlow alone, which every server has.
    """

    name: str
    summary: str
    resize: Callable[[Tensor, Size, Tensor], Tensor]


def _stretched(pixels: Tensor, size: Size | Tensor, background: Tensor) -> Tensor:
    return tf.image.resize(pixels, size, antialias=True)


def _cropped(pixels: Tensor, size: Size, background: Tensor) -> Tensor:
    sides, wanted = _sides(pixels), tf.constant(size, tf.int64)
    taken = _scaled(wanted, *_ratio(sides, wanted, of_longer=False))
    start = (sides - taken) // 2
    middle = tf.slice(pixels, tf.pad(start, [[0, 1]]), tf.concat([taken, [3]], 0))
    return _stretched(middle, size, background)


def _padded(pixels: Tensor, size: Size, background: Tensor) -> Tensor:
    sides, wanted = _sides(pixels), tf.constant(size, tf.int64)
    longer, image = _ratio(sides, wanted, of_longer=True)
    inner = _scaled(sides, image, longer)
    resized = _stretched(pixels, tf.cast(inner, tf.int32), background)
    before = (wanted - inner) // 2
    around = tf.pad(tf.stack([before, wanted - inner - before], 1), [[0, 1], [0, 0]])
    covered = tf.pad(tf.ones_like(resized, tf.bool), around)
    framed = tf.where(covered, tf.pad(resized, around), tf.cast(background, tf.float32))
    return tf.ensure_shape(framed, (*size, 3))


def _sides(pixels: Tensor) -> Tensor:
    return tf.shape(pixels, tf.int64)[:2]


def _ratio(sides: Tensor, wanted: Tensor, *, of_longer: bool) -> tuple[Tensor, Tensor]:
    """The side of the picture that is longer (or shorter) for the image's proportions, and the
    image's."""
    tall = sides[0] * wanted[1] > sides[1] * wanted[0]
    at = tf.where(tall == of_longer, 0, 1)
    return sides[at], wanted[at]


def _scaled(sides: Tensor, by: Tensor, over: Tensor) -> Tensor:
    """Sides times by / over, rounded half up, at least 1. In whole numbers, which no machine rounds
    in another way."""
    return tf.maximum((2 * sides * by + over) // (2 * over), 1)


STRETCH = "stretch"

FITS: Registry[Fit] = Registry(
    "fit",
    Fit(STRETCH, "all of it, stretched", _stretched),
    Fit("crop", "the middle, as large as the proportions allow", _cropped),
    Fit("pad", "all of it, its proportions kept, on the background colour", _padded),
)
