"""PNG and JPEG files to images inside a graph, with nothing decoded before its size is known."""

import tensorflow as tf

from tf_avae.types import Images, ImageShape, Tensor

MOST_PIXELS = 2**24
"""Files of more pixels (4096 x 4096) are refused by their header: they would decompress to more
than 50 MB each, from a few kilobytes if somebody wants it so."""

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_AT_ONCE = 2  # decoded in parallel, which bounds the memory that a batch of large files takes


def decode_images(files: Tensor, image_shape: ImageShape) -> Images:
    """Decodes and resizes a batch of files.

    A file of other proportions is stretched, not cropped; where it is shrunk, all its pixels count
    (bilinear, antialiased). Grey files become colour and colour files grey as the shape asks;
    transparency is dropped.

    Args:
        files: string [N], each a whole PNG or JPEG file.
        image_shape: (H, W, C), with C 1 or 3.

    Returns:
        [N, H, W, C] float32 in [0, 1].

    Raises:
        tf.errors.InvalidArgumentError: a file is of another kind, damaged, or has more than
            `MOST_PIXELS` pixels.
    """
    height, width, channels = image_shape

    def decode(file: Tensor) -> Tensor:
        with tf.control_dependencies([_check(file)]):
            file = tf.identity(file)
        pixels = tf.io.decode_image(file, channels=channels, expand_animations=False)
        pixels.set_shape([None, None, channels])
        resized = tf.image.resize(tf.cast(pixels, tf.float32), (height, width), antialias=True)
        return tf.clip_by_value(resized / 255.0, 0.0, 1.0)

    return tf.map_fn(
        decode,
        files,
        fn_output_signature=tf.TensorSpec(image_shape, tf.float32),
        parallel_iterations=_AT_ONCE,
    )


def _check(file: Tensor) -> tf.Operation:
    """Refuses what is neither PNG nor JPEG, and what is too large."""
    is_png = _starts(file, _PNG) & (tf.strings.length(file) >= 24)
    is_jpeg = _starts(file, _JPEG)
    known = tf.debugging.Assert(
        is_png | is_jpeg,
        [
            "image_bytes holds a file that is neither PNG nor JPEG; its bytes:",
            tf.strings.length(file),
        ],
    )
    with tf.control_dependencies([known]):
        sides = tf.cond(is_png, lambda: _png_sides(file), lambda: _jpeg_sides(file))
    # A product of 64 bits: two sides of 2^31 do not come out small.
    return tf.debugging.Assert(
        (tf.reduce_prod(sides) <= MOST_PIXELS) & tf.reduce_all(sides > 0),
        [f"image_bytes holds an image whose height and width are not above 0 with a product of at "
         f"most {MOST_PIXELS} pixels; they are:", sides],
    )  # fmt: skip


def _starts(file: Tensor, magic: bytes) -> Tensor:
    return tf.equal(tf.strings.substr(file, 0, len(magic)), magic)


def _png_sides(file: Tensor) -> Tensor:
    """Height and width, int64 [2], from the header chunk, which every PNG begins with."""
    header = tf.strings.substr(file, 16, 8)
    width_height = tf.io.decode_raw(header, tf.int32, little_endian=False)
    return tf.cast(tf.reverse(width_height, [0]), tf.int64)


def _jpeg_sides(file: Tensor) -> Tensor:
    """Height and width, int64 [2]; reads no further than the header."""
    return tf.image.extract_jpeg_shape(file, output_type=tf.int64)[:2]
