"""PNG and JPEG files to images inside a graph, with nothing decoded before its size is known."""

import tensorflow as tf

from tf_avae.types import Images, ImageShape, Tensor

MOST_PIXELS = 2**24
"""Files of more pixels (4096 x 4096) are refused by their header: they would decompress to more
than 50 MB each, from a few kilobytes if somebody wants it so."""

MOST_SCANS = 100
"""JPEGs of more scans are refused: each goes over all pixels again, for 33 bytes of file if
somebody wants it so. Encoders write about ten."""

# The header chunk must be the first, as the standard has it: decoders go past unknown chunks before
# it, so the size would be read from the wrong place.
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff"
_COUNTED = 1000  # scans, at most: the rest of such a file is not worth the time and memory
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
            `MOST_PIXELS` pixels or `MOST_SCANS` scans.
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
    """Refuses what is neither PNG nor JPEG, and what is too large or too much work."""
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
        sides, scans = tf.cond(
            is_png,
            lambda: (_png_sides(file), tf.constant(1, tf.int64)),
            lambda: (_jpeg_sides(file), _jpeg_scans(file)),
        )
    few_scans = tf.debugging.Assert(
        scans <= MOST_SCANS,
        [f"image_bytes holds a JPEG of more than {MOST_SCANS} scans; counted, up to {_COUNTED}:",
         scans],
    )  # fmt: skip
    # A product of 64 bits: two sides of 2^31 do not come out small.
    few_pixels = tf.debugging.Assert(
        (tf.reduce_prod(sides) <= MOST_PIXELS) & tf.reduce_all(sides > 0),
        [f"image_bytes holds an image whose height and width are not above 0 with a product of at "
         f"most {MOST_PIXELS} pixels; they are:", sides],
    )  # fmt: skip
    return tf.group(few_scans, few_pixels)


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


def _jpeg_scans(file: Tensor) -> Tensor:
    """Number of scans, int64, up to `_COUNTED`: of what looks like the start of one.

    A start is FF DA and a length of two bytes, which is at most 14 or no decoder takes it. With its
    first byte, chance makes one in 16 MB of metadata or of a film behind the image, not in 64 KB.
    """
    parts = tf.strings.split(file, b"\xff\xda\0", maxsplit=_COUNTED)
    return tf.size(parts, tf.int64) - 1
