"""The headers of image files, read before anything is decoded."""

from typing import NamedTuple

from tf_avae.backend import tf
from tf_avae.image_files.exif import jpeg_segment
from tf_avae.image_files.file_bytes import are, cut, length, number, starts
from tf_avae.types import Tensor

HEAD = 70
"""Bytes that hold the header of each format but JPEG."""

MOST_COUNTED = 1000
"""Scans are counted up to this number, to save time and memory."""

FAULTS = (
    "none",
    "a WebP of several pictures; save one of them",
    "a WebP that is cut short",
    "a BMP that is compressed, or has fewer than 24 bits a pixel and is not grey; save it as PNG",
    "a CMYK JPEG that does not say how its inks are stored, as Adobe's do; save it as RGB",
)
"""What TensorFlow's decoders take and get wrong, or read in part without a word."""

CONVERTED = {
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
"""How files begin that `tf_avae.image_files.converting` turns into PNGs, and no graph reads."""

SOUND = 0
_ANIMATED, _CUT_SHORT, _UNUSUAL_BMP, _UNSURE_CMYK = range(1, 5)

# The header chunk must be the first, as the standard has it: decoders go past unknown chunks before
# it, so the size would be read from the wrong place.
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff"
_GREYS = bytes(value for level in range(256) for value in (level, level, level, 0))
_RGB_MASKS = bytes.fromhex("0000ff00 00ff0000 ff000000")
_OPACITY_MASKS = (bytes(4), bytes.fromhex("000000ff"))  # none, and what the decoder takes it for
_PLAIN, _MASKED = 0, 3  # how the pixels of a BMP are packed
_WITH_OPACITY = 56  # bytes of a BMP's header that has a fourth mask


class Header(NamedTuple):
    """What the header of a file gives."""

    sides: Tensor  # height and width, int64 [2]
    scans: Tensor  # passes over all pixels, int64
    fault: Tensor  # which of `FAULTS`, int32


def kinds(file: Tensor) -> Tensor:
    """Whether a file is a PNG, a JPEG, a WebP, a BMP: bool [4]."""
    is_webp = starts(file, b"RIFF") & tf.equal(cut(file, 8, 4), b"WEBP")
    is_png = starts(file, _PNG) & (length(file) >= 24)
    return tf.stack([is_png, starts(file, _JPEG), is_webp, starts(file, b"BM")])


def is_converted(file: Tensor) -> Tensor:
    """Whether a file is of a kind of `CONVERTED`."""
    return tf.reduce_any([starts(file, mark) for marks in CONVERTED.values() for mark in marks])


def png(head: Tensor) -> Header:
    """The header chunk of a PNG, of which `head` is the first bytes, int64 [HEAD]; so below."""
    sides = [number(head[at : at + 4], big_endian=True) for at in (20, 16)]
    return _header(sides, tf.constant(SOUND))


def jpeg(file: Tensor) -> Header:
    """The header of a JPEG, and the number of its scans.

    All that looks like the start of a scan is counted, up to `MOST_COUNTED`. A start is FF DA and a
    length of two bytes, which is at most 14 or no decoder takes it. Three bytes are looked for:
    chance makes them once in 16 MB of metadata or of a film behind the image.
    """
    height, width, channels = tf.unstack(tf.image.extract_jpeg_shape(file, output_type=tf.int64))
    parts = tf.strings.split(file, b"\xff\xda\0", maxsplit=MOST_COUNTED)
    # Without Adobe's segment some decoders take the inks for inverted and some do not.
    unsure = tf.cond(
        tf.equal(channels, 4),
        lambda: tf.equal(jpeg_segment(file, 0xEE, b"Adobe"), b""),
        lambda: tf.constant(False),
    )
    fault = tf.where(unsure, _UNSURE_CMYK, SOUND)
    return Header(tf.stack([height, width]), tf.size(parts, tf.int64) - 1, fault)


def webp(file: Tensor, head: Tensor) -> Header:
    """The first chunk of a WebP; the sides are 0 where it is of no known kind.

    The sides of an extended file are those of its canvas: the decoder refuses another size in it.
    """
    # RFC 9649: 14 bits each in VP8 and (less 1) in VP8L, 24 bits each (less 1) in VP8X.
    lossless = number(head[21:25])
    chunks = {
        b"VP8 ": [number(head[at : at + 2]) % 2**14 for at in (28, 26)],
        b"VP8L": [lossless // 2**14 % 2**14 + 1, lossless % 2**14 + 1],
        b"VP8X": [number(head[at : at + 3]) + 1 for at in (27, 24)],
    }
    sides = tf.add_n([
        tf.stack(sides) * tf.cast(are(head[12:16], name), tf.int64)
        for name, sides in chunks.items()
    ])  # fmt: skip
    whole = length(file) >= 8 + number(head[4:8])
    fault = tf.where(_webp_flag(head, 2), _ANIMATED, tf.where(whole, SOUND, _CUT_SHORT))
    return _header(tf.unstack(sides), fault)


def webp_has_exif(head: Tensor) -> Tensor:
    """Whether the header of a WebP announces a chunk EXIF."""
    return _webp_flag(head, 8)


def _webp_flag(head: Tensor, flag: int) -> Tensor:
    return are(head[12:16], b"VP8X") & tf.equal(head[20] // flag % 2, 1)


def bmp(file: Tensor, head: Tensor) -> Header:
    """The header of a BMP; a height below 0 means that the first row is the top one."""
    height = number(head[22:26])
    size, bits = number(head[14:18]), number(head[28:30])
    packing, colours = number(head[30:34]), number(head[46:50])
    plain = tf.equal(packing, _PLAIN)
    opacity = tf.stack([are(head[66:70], mask) for mask in _OPACITY_MASKS])
    usual_masks = (
        tf.equal(packing, _MASKED)
        & are(head[54:66], _RGB_MASKS)
        & (tf.reduce_any(opacity) | (size < _WITH_OPACITY))
    )
    grey = tf.equal(cut(file, 14 + size, len(_GREYS)), _GREYS)
    grey &= tf.equal(colours, 0) | tf.equal(colours, 256)
    usual = (
        (tf.equal(bits, 24) & plain)
        | (tf.equal(bits, 32) & (plain | usual_masks))
        | (tf.equal(bits, 8) & plain & grey)
    )
    fault = tf.where((size >= 40) & usual, SOUND, _UNUSUAL_BMP)
    return _header([tf.minimum(height, 2**32 - height), number(head[18:22])], fault)


def bmp_has_opacity(head: Tensor) -> Tensor:
    """Whether the fourth byte of a pixel is opacity: only where the header has a mask for it.

    Without one it may be anything, often 0, and no decoder looks at it.
    """
    masked = tf.equal(number(head[30:34]), _MASKED) & (number(head[14:18]) >= _WITH_OPACITY)
    return masked & are(head[66:70], _OPACITY_MASKS[1])


def _header(sides: list[Tensor], fault: Tensor) -> Header:
    return Header(tf.stack(sides), tf.constant(1, tf.int64), fault)
