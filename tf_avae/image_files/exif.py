"""Which way up a camera held a picture: EXIF's orientation, read inside a graph.

Only operations of stock TensorFlow are used, so that every server has them. EXIF is read where each
format keeps it: JPEG in a segment APP1, PNG in the chunk eXIf, WebP in the chunk EXIF. A file whose
orientation cannot be read is taken as it is stored.
"""

from collections.abc import Callable
from typing import NamedTuple

from tf_avae.backend import tf
from tf_avae.image_files.file_bytes import are, cut, length, number, numbers, starts
from tf_avae.types import Tensor

MOST_PARTS = 4096
"""Segments or chunks of a file that are read: at most a tenth of a second of work. Cameras write
about ten."""

_MARK = b"Exif\0\0"  # before EXIF in JPEG; some write it in PNG and WebP too
_TAG = 0x0112
_SHORT, _LONG = 3, 4  # types of a value: two bytes, four bytes
_ENTRY = 12  # bytes of an entry: tag and type of two bytes each, number of values, value
# The bytes of each field of an entry from the last to the first.
_SWAPPED = (1, 0, 3, 2, 7, 6, 5, 4, 11, 10, 9, 8)
_UPRIGHT = 1


def turned(pixels: Tensor, orientation: Tensor) -> Tensor:
    """Pixels [H, W, C] turned upright: [H, W, C], or [W, H, C] for the orientations 5 to 8.

    Args:
        pixels: as stored.
        orientation: int64 [], 1 to 8: the sides of the upright picture on which the first row and
            the first column lie (EXIF 2.32, 4.6.4).
    """

    def turn() -> Tensor:
        on_its_side = orientation >= 5
        upright = tf.cond(on_its_side, lambda: tf.transpose(pixels, (1, 0, 2)), lambda: pixels)
        upside_down = _is_one_of(orientation, 3, 4, 7, 8)
        mirrored = _is_one_of(orientation, 2, 3, 6, 7)
        dims = tf.stack([upside_down, mirrored, tf.constant(False)])
        return tf.raw_ops.Reverse(tensor=upright, dims=dims)

    return tf.cond(tf.equal(orientation, _UPRIGHT), lambda: pixels, turn)


def orientation(exif: Tensor) -> Tensor:
    """The orientation in the first directory of an EXIF block.

    Args:
        exif: string [], with or without its mark; empty where there is none.

    Returns:
        int64 [], 1 to 8; 1 where the block is damaged or has no valid orientation.
    """
    marked = tf.cast(starts(exif, _MARK), tf.int64)
    block = cut(exif, len(_MARK) * marked, length(exif))
    little, big = starts(block, b"II*\0"), starts(block, b"MM\0*")

    def either(values: Tensor) -> Tensor:
        return tf.where(little, number(values), number(values, big_endian=True))

    at = either(numbers(block, 4, 4))
    count = either(numbers(block, at, 2))
    there = tf.maximum(length(block) - at - 2, 0) // _ENTRY  # the count may be larger
    body = cut(block, at + 2, tf.minimum(count, there) * _ENTRY)
    entries = tf.reshape(tf.cast(tf.io.decode_raw(body, tf.uint8), tf.int64), (-1, _ENTRY))
    entries = tf.where(little, entries, tf.gather(entries, _SWAPPED, axis=1))
    kind, value = number(entries[:, 2:4]), entries[:, 8:]
    # A short value stands in the first of its four bytes: when they are swapped, in the last.
    short = tf.where(little, number(value[:, :2]), number(value[:, 2:]))
    is_short, is_long = tf.equal(kind, _SHORT), tf.equal(kind, _LONG)
    chosen = (
        tf.equal(number(entries[:, :2]), _TAG)
        & tf.equal(number(entries[:, 4:8]), 1)
        & (is_short | is_long)
    )
    values = tf.boolean_mask(tf.where(is_short, short, number(value)), chosen)
    upright = tf.constant(_UPRIGHT, tf.int64)
    last = tf.concat([[upright], values], 0)[-1]
    return tf.where((little | big) & (last >= 1) & (last <= 8), last, upright)


class _Part(NamedTuple):
    """A segment or chunk."""

    size: Tensor  # bytes to the next one, int64, at least 1
    found: Tensor  # whether it is the one that is looked for
    last: Tensor  # whether the search ends here
    start: int  # of its content, from its own start
    length: Tensor  # of its content, int64


def jpeg_segment(file: Tensor, marker: int, mark: bytes) -> Tensor:
    """The content of a JPEG's first segment of a marker (0xE0 to 0xEF for applications), before the
    first scan, that begins with a mark of up to six bytes; empty where there is none."""

    def read(part: Tensor) -> _Part:
        kind, size = part[1], number(part[2:4], big_endian=True)
        # As decoders do it: bytes between segments, and those that fill, are gone past. Restarts
        # and starts have no content.
        filler = tf.not_equal(part[0], 0xFF) | tf.equal(kind, 0xFF)
        bare = _is_one_of(kind, 0x00, 0x01) | ((kind >= 0xD0) & (kind <= 0xD8))
        content = tf.where(bare, tf.zeros_like(size), size)
        found = tf.equal(kind, marker) & are(part[4 : 4 + len(mark)], mark)
        last = _is_one_of(kind, 0xD9, 0xDA)  # the end, a scan
        return _Part(
            tf.where(filler, tf.ones_like(size), 2 + content),
            ~filler & found,
            ~filler & last,
            4,
            tf.maximum(content - 2, 0),
        )

    return _content(file, 2, read)


def png_chunk(file: Tensor, name: bytes, before: bytes = b"IEND") -> Tensor:
    """The content of a PNG's first chunk of a name, of four letters; empty where there is none
    before the chunk `before`."""

    def read(part: Tensor) -> _Part:
        size = number(part[:4], big_endian=True)
        return _Part(size + 12, are(part[4:8], name), are(part[4:8], before), 8, size)

    return _content(file, 8, read)


def webp_chunk(file: Tensor, name: bytes) -> Tensor:
    """The content of a WebP's first chunk of a name, of four letters; empty where there is none."""

    def read(part: Tensor) -> _Part:
        size = number(part[4:8])
        return _Part(8 + size + size % 2, are(part[:4], name), tf.constant(False), 8, size)

    return _content(file, 12, read)


def _content(file: Tensor, start: int, read: Callable[[Tensor], _Part]) -> Tensor:
    """The content of the part that is looked for; empty where there is none.

    `start` is where the first part is. `read` takes the first ten bytes of a part, int64 [10]; past
    the end of the file they are zeros.
    """
    end, nothing = length(file), tf.constant(0, tf.int64)

    def goes_on(at: Tensor, start: Tensor, size: Tensor) -> Tensor:
        return at < end

    def look(at: Tensor, start: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        part = read(numbers(file, at, 10))
        return (
            tf.where(part.found | part.last, end, at + part.size),
            tf.where(part.found, at + part.start, start),
            tf.where(part.found, part.length, size),
        )

    places = (tf.constant(start, tf.int64), nothing, nothing)
    _, start_of, size = tf.while_loop(
        goes_on, look, places, maximum_iterations=MOST_PARTS, parallel_iterations=1
    )
    return cut(file, start_of, size)


def _is_one_of(value: Tensor, *of: int) -> Tensor:
    return tf.reduce_any(tf.equal(value, tf.constant(of, tf.int64)))
