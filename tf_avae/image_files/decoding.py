"""Image files to images inside a graph, with nothing decoded before its size is known.

Served models and data sets of files share this decoding, so that an encoder gets the images that it
was trained on. The content, not the name, decides the format: PNG, JPEG, WebP or BMP; others are
turned into these by `converting`. Pixels differ from those of other decoders, such as Pillow's, by
at most one level.
"""

import re

from tf_avae.backend import tf
from tf_avae.colours import WHITE, levels
from tf_avae.image_files import headers as image_headers
from tf_avae.image_files.exif import jpeg_segment, orientation, png_chunk, turned, webp_chunk
from tf_avae.image_files.file_bytes import numbers
from tf_avae.image_files.fitting import FITS, STRETCH
from tf_avae.types import Images, ImageShape, Tensor

DECODING = 2
"""Number of the way in which files become pixels: another one where some file gives other pixels.

1: transparency and orientation dropped, JPEG by the fast inexact transform.
"""

MOST_PIXELS = 2**24
"""Files of more pixels (4096 x 4096) are refused by their header: a few kilobytes can decompress to
more than 50 MB."""

MOST_SCANS = 100
"""JPEGs of more scans are refused: each scan, of as few as 33 bytes, goes over all pixels again.
Encoders write about ten."""

_AT_ONCE = 2  # decoded in parallel, which bounds the memory that a batch of large files takes
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as JPEG and Pillow make grey
_BLENDED = 2**18  # pixels at once, which bounds the memory that this takes


def decode_images(
    files: Tensor, image_shape: ImageShape, background: str = WHITE, fit: str = STRETCH
) -> Images:
    """Decodes and resizes a batch of files.

    Args:
        files: string [N], each a whole file.
        image_shape: (H, W, C), with C 1 or 3.
        background, fit: as `decode_pixels` takes them.

    Returns:
        [N, H, W, C] float32 in [0, 1], in steps of 1/255.

    Raises:
        InputError, tf.errors.InvalidArgumentError: as `decode_pixels`.
    """
    pixels = tf.map_fn(
        lambda file: decode_pixels(file, image_shape, background, fit),
        files,
        fn_output_signature=tf.TensorSpec(image_shape, tf.uint8),
        parallel_iterations=_AT_ONCE,
    )
    # In 64 bits: TensorFlow makes a product of a division by a number in some graphs and not in
    # others, and in 32 bits the two differ in the last bit.
    return tf.cast(tf.cast(pixels, tf.float64) / 255.0, tf.float32)


def decode_pixels(
    file: Tensor, image_shape: ImageShape, background: str = WHITE, fit: str = STRETCH
) -> Tensor:
    """Decodes and resizes one file.

    Transparent pictures are laid on a colour. The orientation that a camera notes in EXIF is
    followed. How a file of other proportions becomes an image is a row of `FITS`; where it is
    shrunk, all its pixels count (bilinear, antialiased). Grey files become colour and colour files
    grey as the shape asks; of 16 bits a channel the upper 8 are kept.

    Args:
        file: string [], a whole file.
        image_shape: (H, W, C), with C 1 or 3.
        background: the colour under transparency, and around a padded picture, as
            `tf_avae.colours.colour` takes it.
        fit: name of a row of `FITS`.

    Returns:
        uint8 [H, W, C].

    Raises:
        InputError: `background` is no colour, `fit` no row.
        tf.errors.InvalidArgumentError: the file is of another kind, damaged, animated, or has more
            than `MOST_PIXELS` pixels or `MOST_SCANS` scans; `fault` gives the reason in a line.
    """
    height, width, channels = image_shape
    colour = tf.constant(levels(background), tf.uint8)
    head, kinds = numbers(file, 0, image_headers.HEAD), image_headers.kinds(file)
    with tf.control_dependencies([_check(file, head, kinds)]):
        file = tf.identity(file)
    pixels, exif = tf.switch_case(
        tf.argmax(kinds, output_type=tf.int32),
        [
            lambda: (_laid_on(colour, _png_pixels(file, head)), png_chunk(file, b"eXIf")),
            lambda: (decode_jpeg(file), jpeg_segment(file, 0xE1, b"Exif\0\0")),
            lambda: (_laid_on(colour, _other_pixels(file)), _webp_exif(file, head)),
            lambda: (_laid_on(colour, _bmp_pixels(file, head)), tf.constant(b"")),
        ],
    )
    pixels.set_shape([None, None, 3])
    # Turned before it is resized, so that it is to the bit what it would be, turned beforehand.
    upright = turned(pixels, orientation(exif))
    resized = FITS[fit].resize(upright, (height, width), colour)
    if channels == 1:
        red, green, blue = tf.split(resized, 3, axis=2)
        resized = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)


def decode_jpeg(file: Tensor) -> Tensor:
    """The pixels of a JPEG as they are stored, uint8 [H, W, 3].

    By the exact transform, as other decoders do it: TensorFlow's default is a fast one, which is up
    to 14 levels off.
    """
    return tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE")


def fault(error: "tf.errors.InvalidArgumentError") -> str:
    """Why `decode_pixels`, called as a function of its own, refused a file."""
    lines = error.message.splitlines()
    # The line before the name of the op that raised it; other lines tell where the op was made.
    named = [n for n, line in enumerate(lines) if line.startswith("\t [[")]
    line = re.sub(r"\{\{[^}]*\}\}\s*", "", lines[named[0] - 1] if named else lines[-1])
    line = line.removeprefix("assertion failed: ").replace("] [", " ").strip("[]")
    return line.removeprefix("image_bytes holds ")


def _check(file: Tensor, head: Tensor, kinds: Tensor) -> "tf.Operation":
    """Refuses files of an unknown format, files that are too large, and files that TensorFlow would
    misread."""
    read = tf.debugging.Assert(
        ~image_headers.is_converted(file),
        ["image_bytes holds a GIF or TIFF, which no served model reads; send one picture as PNG"],
    )
    known = tf.debugging.Assert(
        tf.reduce_any(kinds),
        [
            "image_bytes holds a file that is neither PNG nor JPEG, WebP or BMP; its bytes:",
            tf.strings.length(file),
        ],
    )
    with tf.control_dependencies([read, known]):
        sides, scans, found = tf.switch_case(
            tf.argmax(kinds, output_type=tf.int32),
            [
                lambda: image_headers.png(head),
                lambda: image_headers.jpeg(file),
                lambda: image_headers.webp(file, head),
                lambda: image_headers.bmp(file, head),
            ],
        )
    few_scans = tf.debugging.Assert(
        scans <= MOST_SCANS,
        [f"image_bytes holds a JPEG of more than {MOST_SCANS} scans; counted, up to "
         f"{image_headers.MOST_COUNTED}:", scans],
    )  # fmt: skip
    # A product of 64 bits: two sides of 2^31 do not come out small.
    few_pixels = tf.debugging.Assert(
        (tf.reduce_prod(sides) <= MOST_PIXELS) & tf.reduce_all(sides > 0),
        [f"image_bytes holds an image whose height and width are not above 0 with a product of at "
         f"most {MOST_PIXELS} pixels; they are:", sides],
    )  # fmt: skip
    no_fault = tf.debugging.Assert(
        tf.equal(found, image_headers.SOUND),
        ["image_bytes holds", tf.gather(tf.constant(image_headers.FAULTS), found)],
    )
    return tf.group(few_scans, few_pixels, no_fault)


def _png_pixels(file: Tensor, head: Tensor) -> Tensor:
    """Pixels, uint8 [H, W, 3], or [H, W, 4] where the file has opacity."""
    colour_type = head[25]
    # Opacity is in each pixel, or in the chunk tRNS: for levels of a palette, or of one colour.
    opacity = (colour_type >= 4) | tf.not_equal(png_chunk(file, b"tRNS", before=b"IDAT"), b"")
    return tf.cond(
        opacity,
        lambda: tf.io.decode_png(file, channels=4),
        lambda: tf.io.decode_png(file, channels=3),
    )


def _other_pixels(file: Tensor) -> Tensor:
    """Pixels of a WebP or BMP, uint8 [H, W, 1, 3 or 4]."""
    return tf.io.decode_image(file, expand_animations=False)


def _bmp_pixels(file: Tensor, head: Tensor) -> Tensor:
    pixels = _other_pixels(file)
    opacity = image_headers.bmp_has_opacity(head)
    return tf.cond(opacity, lambda: pixels, lambda: pixels[:, :, :3])


def _webp_exif(file: Tensor, head: Tensor) -> Tensor:
    has_exif = image_headers.webp_has_exif(head)
    return tf.cond(has_exif, lambda: webp_chunk(file, b"EXIF"), lambda: tf.constant(b""))


def _laid_on(colour: Tensor, pixels: Tensor) -> Tensor:
    """Pixels, uint8 [H, W, 1, 3 or 4], on a colour, uint8 [3]: uint8 [H, W, 3].

    The fourth channel is opacity. This comes before resizing, which would mix the hidden colours of
    transparent pixels into those that are seen.
    """
    height, width = tf.unstack(tf.shape(pixels)[:2])

    def blended() -> Tensor:
        flat = tf.reshape(pixels, (height * width, 4))

        def goes_on(at: Tensor, done: "tf.TensorArray") -> Tensor:
            return at < height * width

        def blend(at: Tensor, done: "tf.TensorArray") -> "tuple[Tensor, tf.TensorArray]":
            part = tf.cast(flat[at : at + _BLENDED], tf.uint16)  # 255 * 255 + 127 is the most
            opacity, colours = part[:, 3:], part[:, :3]
            mixed = colours * opacity + tf.cast(colour, tf.uint16) * (255 - opacity)
            seen = tf.cast((mixed + 127) // 255, tf.uint8)
            return at + _BLENDED, done.write(at // _BLENDED, seen)

        done = tf.TensorArray(
            tf.uint8, 0, dynamic_size=True, infer_shape=False, element_shape=(None, 3)
        )
        done = tf.while_loop(goes_on, blend, (0, done), parallel_iterations=1)[1]
        return tf.reshape(done.concat(), (height, width, 3))

    return tf.cond(
        tf.equal(tf.shape(pixels)[2], 4),
        blended,
        lambda: tf.broadcast_to(pixels, (height, width, 3)),
    )
