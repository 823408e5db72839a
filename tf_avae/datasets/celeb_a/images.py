"""From CelebA's aligned photographs to 64x64: the crop, the resize, and what cannot be cropped."""

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tf_avae.backend import tf
from tf_avae.datasets.celeb_a.files import Record
from tf_avae.errors import InputError, reason
from tf_avae.image_files.decoding import decode_jpeg
from tf_avae.types import ImageShape, Tensor

HEIGHT, WIDTH = 218, 178
"""Of the official aligned photographs."""

CROP = 148
"""Side of the square that is kept, in the middle of the photograph: rows 35 to 182 and columns 15
to 162, which is most of the head and little background."""

SHAPE: ImageShape = (64, 64, 3)

_AT_ONCE = 4  # images decoded in parallel
_CHUNK = 128  # images in memory


def cropped(records: Iterable[Record]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The images of a stream, a few at a time: uint8 [N, 64, 64, 3], and attributes, bool [N, 40].

    Raises:
        InputError: one is no JPEG image, is damaged or is of another size, by its name.
    """
    iterator = iter(records)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        files = [record.jpeg for record in chunk]
        try:
            images = crop(tf.constant(files)).numpy()
        except tf.errors.InvalidArgumentError:
            for record in chunk:
                _check(record)
            raise
        yield images, np.stack([record.attributes for record in chunk])


def crop(jpegs: Tensor) -> Tensor:
    """The middle `CROP` by `CROP` pixels, shrunk to 64x64 so that all of them count (bilinear,
    antialiased) and rounded: uint8 [N, 64, 64, 3].

    Args:
        jpegs: string [N], each a JPEG file of `HEIGHT` by `WIDTH`.
    """
    return _compiled()(jpegs)


@functools.cache
def _compiled() -> Any:
    """`crop` as one graph."""
    return tf.function(
        lambda jpegs: tf.map_fn(
            _crop_one,
            jpegs,
            fn_output_signature=tf.TensorSpec(SHAPE, tf.uint8),
            parallel_iterations=_AT_ONCE,
        ),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )


def _crop_one(jpeg: Tensor) -> Tensor:
    # The size is read from the header, before anything is decoded.
    fits = tf.debugging.assert_equal(tf.io.extract_jpeg_shape(jpeg)[:2], (HEIGHT, WIDTH))
    with tf.control_dependencies([fits]):
        pixels = decode_jpeg(jpeg)
    top, left = (HEIGHT - CROP) // 2, (WIDTH - CROP) // 2
    square = tf.cast(pixels[top : top + CROP, left : left + CROP], tf.float32)
    return tf.cast(tf.round(tf.image.resize(square, SHAPE[:2], antialias=True)), tf.uint8)


def _check(record: Record) -> None:
    """Raises the `InputError` for an image that cannot be cropped."""
    if not record.jpeg.startswith(b"\xff\xd8\xff"):
        start = record.jpeg[:8].hex() or "nothing"
        raise InputError(
            f"{record.name} is no JPEG image (it starts with {start}); take the archive anew"
        )
    try:
        height, width = tf.io.extract_jpeg_shape(record.jpeg)[:2].numpy().tolist()
        if (height, width) == (HEIGHT, WIDTH):
            crop(tf.constant([record.jpeg]))
    except tf.errors.InvalidArgumentError as error:
        raise InputError(
            f"{record.name} is a damaged JPEG image ({reason(error)}); take the archive anew"
        ) from error
    if (height, width) != (HEIGHT, WIDTH):
        raise InputError(
            f"{record.name} is {width} pixels wide and {height} high; CelebA's aligned images are "
            f"{WIDTH}x{HEIGHT}: take the archive of aligned and cropped JPEG images"
        )
