"""Where pictures come from: image files, or records that hold them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from google.protobuf.message import DecodeError

from tf_avae.datasets.picture_cache import MOST_BYTES
from tf_avae.errors import reason


class Found(NamedTuple):
    """What was found where a picture should be.

    Attributes:
        path: of a file; of a record, its file's with "#" and its number, from 0.
        content: a whole image file, of any of the kinds that the model reads.
        fault: why there is none; else empty.
    """

    path: str
    content: bytes
    fault: str = ""


def is_local(path: str) -> bool:
    """Whether a path is one of this machine's, not of a storage service."""
    return FileSystems.get_scheme(path) is None


def read_file(path: str, size: int, feature: str) -> Iterator[Found]:
    """The picture that a file is.

    Args:
        path: on any of Beam's file systems.
        size: of it, in bytes.
        feature: not used: a file has none.
    """
    if size > MOST_BYTES:
        yield Found(path, b"", f"{size:,} bytes; at most {MOST_BYTES:,} are read")
        return
    if not size and is_local(path) and Path(path).exists() and not Path(path).is_file():
        yield Found(path, b"", "not a file")  # reading a pipe would never end
        return
    try:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            content = file.read()
    except OSError as error:
        yield Found(path, b"", error.strerror or reason(error))
    else:
        yield Found(path, content)


def read_records(path: str, size: int, feature: str) -> Iterator[Found]:
    """The pictures in a TFRecord file of `tf.train.Example`s.

    Args:
        path: where TensorFlow reads; compressed with gzip if it ends with ".gz".
        size: not used: records are read one by one.
        feature: of an example, which holds one image file as bytes.
    """
    compression = "GZIP" if path.endswith(".gz") else ""
    records = tf.data.TFRecordDataset(path, compression).as_numpy_iterator()
    number = 0
    try:
        for number, record in enumerate(records):
            yield _of_record(f"{path}#{number}", record, feature)
            number += 1
    except tf.errors.OpError as error:
        yield Found(f"{path}#{number}", b"", f"unreadable from here on: {reason(error)}")


def _of_record(name: str, record: bytes, feature: str) -> Found:
    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError:
        return Found(name, b"", "no tf.train.Example")
    values = features[feature].bytes_list.value if feature in features else []
    if len(values) != 1:
        held = ", ".join(sorted(features)) or "none"
        return Found(name, b"", f"no feature {feature!r} of one bytes value; its features: {held}")
    return Found(name, values[0])


FORMATS: dict[str, Callable[[str, int, str], Iterator[Found]]] = {
    "files": read_file,
    "tfrecord": read_records,
}
"""How a file that the pattern matches is read, by `--format`."""
