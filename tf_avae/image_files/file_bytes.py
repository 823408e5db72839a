"""Bytes of a file, read inside a graph; a position past its end is no error."""

from tf_avae.backend import tf
from tf_avae.types import Tensor


def starts(text: Tensor, mark: bytes) -> Tensor:
    """Whether a text begins with a mark."""
    return tf.equal(tf.strings.substr(text, 0, len(mark)), mark)


def length(text: Tensor) -> Tensor:
    """Number of bytes, int64 [], as the numbers of a header are."""
    return tf.cast(tf.strings.length(text), tf.int64)


def cut(text: Tensor, start: Tensor | int, count: Tensor | int) -> Tensor:
    """So many bytes from a position; fewer, or none, where there are no more."""
    start, count = tf.cast(start, tf.int64), tf.cast(count, tf.int64)
    return tf.strings.substr(text, tf.minimum(start, length(text)), count)


def numbers(text: Tensor, start: Tensor | int, count: int) -> Tensor:
    """So many bytes from a position, int64 [count]; zeros follow the text."""
    values = tf.io.decode_raw(cut(text, start, count), tf.uint8, fixed_length=count)
    return tf.cast(values, tf.int64)


def number(values: Tensor, *, big_endian: bool = False) -> Tensor:
    """The unsigned integer that bytes [..., N] are, int64 [...]."""
    places = range(values.shape[-1])
    weights = [256**place for place in (reversed(places) if big_endian else places)]
    return tf.reduce_sum(values * tf.constant(weights, tf.int64), -1)


def are(values: Tensor, text: bytes) -> Tensor:
    """Whether bytes [N], as numbers, are those of a text."""
    return tf.reduce_all(tf.equal(values, tf.constant(list(text), tf.int64)))
