"""Image files to images inside a graph, with nothing decoded before its size is known.

Served models and data sets of files read them by this one function, so that an encoder is asked
about the images that it was trained on. Formats are told apart by content, not by name: PNG, JPEG,
WebP and BMP.
"""

import re

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
_HEAD = 66  # bytes that hold each format's size, but for JPEG's
_COUNTED = 1000  # scans, at most: the rest of such a file is not worth the time and memory
_AT_ONCE = 2  # decoded in parallel, which bounds the memory that a batch of large files takes

# What TensorFlow's decoders take and get wrong, or read in part without a word.
_FAULTS = (
    "none",
    "a WebP of several pictures; save one of them",
    "a WebP that is cut short",
    "a BMP that is compressed, or has fewer than 24 bits a pixel and is not grey; save it as PNG",
)
_SOUND, _ANIMATED, _CUT_SHORT, _UNUSUAL_BMP = range(4)
_GREYS = bytes(value for level in range(256) for value in (level, level, level, 0))
_RGB_MASKS = bytes.fromhex("0000ff00 00ff0000 ff000000")


def decode_images(files: Tensor, image_shape: ImageShape) -> Images:
    """Decodes and resizes a batch of files.

    Args:
        files: string [N], each a whole file.
        image_shape: (H, W, C), with C 1 or 3.

    Returns:
        [N, H, W, C] float32 in [0, 1], in steps of 1/255.

    Raises:
        tf.errors.InvalidArgumentError: as `decode_pixels`.
    """
    pixels = tf.map_fn(
        lambda file: decode_pixels(file, image_shape),
        files,
        fn_output_signature=tf.TensorSpec(image_shape, tf.uint8),
        parallel_iterations=_AT_ONCE,
    )
    return tf.cast(pixels, tf.float32) / 255.0


def decode_pixels(file: Tensor, image_shape: ImageShape) -> Tensor:
    """Decodes and resizes one file.

    A file of other proportions is stretched, not cropped; where it is shrunk, all its pixels count
    (bilinear, antialiased). Grey files become colour and colour files grey as the shape asks; of 16
    bits a channel the upper 8 are kept. Transparency is dropped, and so is the orientation that a
    camera notes in EXIF: pixels are taken as they are stored.

    Args:
        file: string [], a whole file.
        image_shape: (H, W, C), with C 1 or 3.

    Returns:
        uint8 [H, W, C].

    Raises:
        tf.errors.InvalidArgumentError: the file is of another kind, damaged, animated, or has more
            than `MOST_PIXELS` pixels or `MOST_SCANS` scans; `fault` says it in a line.
    """
    height, width, channels = image_shape
    head = _head(file)
    is_png = _starts(file, _PNG) & (tf.strings.length(file) >= 24)
    is_jpeg = _starts(file, _JPEG)
    is_webp = _starts(file, b"RIFF") & tf.equal(tf.strings.substr(head, 8, 4), b"WEBP")
    kinds = tf.stack([is_png, is_jpeg, is_webp, _starts(file, b"BM")])
    with tf.control_dependencies([_check(file, head, kinds)]):
        file = tf.identity(file)
    # TensorFlow's decoders of PNG and JPEG turn colour into grey and back, the others do not.
    pixels = tf.cond(
        is_png | is_jpeg,
        lambda: tf.io.decode_image(file, channels=channels, expand_animations=False),
        lambda: _with_channels(tf.io.decode_image(file, expand_animations=False), channels),
    )
    pixels.set_shape([None, None, channels])
    resized = tf.image.resize(pixels, (height, width), antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)


def fault(error: tf.errors.InvalidArgumentError) -> str:
    """What `decode_pixels`, called as a function of its own, found wrong with a file."""
    lines = error.message.splitlines()
    # The line before the name of the op that it comes from; others say where that was made.
    named = [n for n, line in enumerate(lines) if line.startswith("\t [[")]
    line = re.sub(r"\{\{[^}]*\}\}\s*", "", lines[named[0] - 1] if named else lines[-1])
    line = line.removeprefix("assertion failed: ").replace("] [", " ").strip("[]")
    return line.removeprefix("image_bytes holds ")


def _with_channels(pixels: Tensor, channels: int) -> Tensor:
    """Pixels with 1, 3 or 4 channels, of which the fourth is transparency, with 1 or 3."""
    pixels = tf.cond(
        tf.shape(pixels)[2] < 3,
        lambda: tf.image.grayscale_to_rgb(pixels[:, :, :1]),
        lambda: pixels[:, :, :3],
    )
    return pixels if channels == 3 else tf.image.rgb_to_grayscale(pixels)


def _check(file: Tensor, head: Tensor, kinds: Tensor) -> tf.Operation:
    """Refuses what is of no kind, what is too large or too much work, and what would be misread."""
    known = tf.debugging.Assert(
        tf.reduce_any(kinds),
        [
            "image_bytes holds a file that is neither PNG nor JPEG, WebP or BMP; its bytes:",
            tf.strings.length(file),
        ],
    )
    with tf.control_dependencies([known]):
        numbers = tf.cast(tf.io.decode_raw(head, tf.uint8, fixed_length=_HEAD), tf.int64)
        one, sound = tf.constant(1, tf.int64), tf.constant(_SOUND)
        sides, scans, found = tf.switch_case(
            tf.argmax(kinds, output_type=tf.int32),
            [
                lambda: (_png_sides(numbers), one, sound),
                lambda: (_jpeg_sides(file), _jpeg_scans(file), sound),
                lambda: (_webp_sides(head, numbers), one, _webp_fault(file, head, numbers)),
                lambda: (_bmp_sides(numbers), one, _bmp_fault(file, head, numbers)),
            ],
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
    no_fault = tf.debugging.Assert(
        tf.equal(found, _SOUND), ["image_bytes holds", tf.gather(tf.constant(_FAULTS), found)]
    )
    return tf.group(few_scans, few_pixels, no_fault)


def _starts(file: Tensor, magic: bytes) -> Tensor:
    return tf.equal(tf.strings.substr(file, 0, len(magic)), magic)


def _head(file: Tensor) -> Tensor:
    """The first bytes of a file; zeros follow one that is shorter."""
    padded = tf.strings.join([tf.strings.substr(file, 0, _HEAD), bytes(_HEAD)])
    return tf.strings.substr(padded, 0, _HEAD)


def _length(file: Tensor) -> Tensor:
    """Number of bytes, in the 64 bits that what a header says needs too."""
    return tf.cast(tf.strings.length(file), tf.int64)


def _number(numbers: Tensor, start: int, count: int, *, big_endian: bool = False) -> Tensor:
    """The unsigned integer in bytes `start` to `start + count`, int64."""
    shifts = range(count - 1, -1, -1) if big_endian else range(count)
    weights = tf.constant([256**shift for shift in shifts], tf.int64)
    return tf.reduce_sum(numbers[start : start + count] * weights)


def _png_sides(numbers: Tensor) -> Tensor:
    """Height and width, int64 [2], from the header chunk, which every PNG begins with."""
    return tf.stack([_number(numbers, at, 4, big_endian=True) for at in (20, 16)])


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


def _webp_sides(head: Tensor, numbers: Tensor) -> Tensor:
    """Height and width, int64 [2], from the first chunk; 0 where it is of no known kind.

    Of an extended file these are the canvas's: the decoder refuses a picture of another size in it.
    """
    # RFC 9649: 14 bits each in VP8 and (less 1) in VP8L, 24 bits each (less 1) in VP8X.
    lossless = _number(numbers, 21, 4)
    chunks = {
        b"VP8 ": [_number(numbers, at, 2) % 2**14 for at in (28, 26)],
        b"VP8L": [lossless // 2**14 % 2**14 + 1, lossless % 2**14 + 1],
        b"VP8X": [_number(numbers, at, 3) + 1 for at in (27, 24)],
    }
    kind = tf.strings.substr(head, 12, 4)
    return tf.add_n([
        tf.stack(sides) * tf.cast(tf.equal(kind, name), tf.int64) for name, sides in chunks.items()
    ])  # fmt: skip


def _webp_fault(file: Tensor, head: Tensor, numbers: Tensor) -> Tensor:
    extended = tf.equal(tf.strings.substr(head, 12, 4), b"VP8X")
    animated = extended & tf.equal(numbers[20] // 2 % 2, 1)
    whole = _length(file) >= 8 + _number(numbers, 4, 4)
    return tf.where(animated, _ANIMATED, tf.where(whole, _SOUND, _CUT_SHORT))


def _bmp_sides(numbers: Tensor) -> Tensor:
    """Height and width, int64 [2]; a height below 0 says that the first row is the top one."""
    height = _number(numbers, 22, 4)
    return tf.stack([tf.minimum(height, 2**32 - height), _number(numbers, 18, 4)])


def _bmp_fault(file: Tensor, head: Tensor, numbers: Tensor) -> Tensor:
    header, bits = _number(numbers, 14, 4), _number(numbers, 28, 2)
    packing, colours = _number(numbers, 30, 4), _number(numbers, 46, 4)
    plain = tf.equal(packing, 0)
    usual_masks = tf.equal(packing, 3) & tf.equal(tf.strings.substr(head, 54, 12), _RGB_MASKS)
    start = tf.minimum(14 + header, _length(file))
    palette = tf.strings.substr(file, start, tf.constant(len(_GREYS), tf.int64))
    grey = tf.equal(palette, _GREYS) & (tf.equal(colours, 0) | tf.equal(colours, 256))
    usual = (
        (tf.equal(bits, 24) & plain)
        | (tf.equal(bits, 32) & (plain | usual_masks))
        | (tf.equal(bits, 8) & plain & grey)
    )
    return tf.where((header >= 40) & usual, _SOUND, _UNUSUAL_BMP)
