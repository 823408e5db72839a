"""The pictures of a job: image files, or records that hold them."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from apache_beam.io.filesystem import CompressionTypes, FileMetadata, FileSystem
from apache_beam.io.filesystems import FileSystems
from google.protobuf.message import DecodeError

from serving.bulk.options import FORMATS
from tf_avae.backend import tf
from tf_avae.datasets.image_folder.cache import MOST_BYTES
from tf_avae.errors import reason


class Found(NamedTuple):
    """A picture, or the reason why there is none.

    Attributes:
        path: of a file; of a record, its file's with "#" and its number, from 0.
        content: a whole image file, of any of the kinds that the model reads.
        fault: why there is none; else empty.
    """

    path: str
    content: bytes
    fault: str = ""


def is_local(path: str) -> bool:
    """Whether a path is on this machine, not on a storage service."""
    return FileSystems.get_scheme(path) is None


def listed(pattern: str) -> Iterator[FileMetadata | Found]:
    """The matches of a pattern of Beam's: files, and reasons why others cannot be read.

    On this machine it omits only folders. Beam's own matching also omits links that lead nowhere,
    links to folders, and folders that may not be read.

    Raises:
        OSError, ValueError: a storage service cannot be asked.
    """
    if not is_local(pattern):
        (found,) = FileSystems.match([pattern])
        yield from found.metadata_list
        return
    for path, fault in _local(pattern + "*" * pattern.endswith("/")):
        try:
            path.encode()
        except UnicodeEncodeError:
            name = os.fsencode(path).decode(errors="backslashreplace")
            yield Found(name, b"", "the name is not UTF-8; rename it")
            continue
        try:
            about = Path(path).stat()
        except OSError as error:
            lost = "a link that leads nowhere: " * Path(path).is_symlink()
            yield Found(path, b"", fault or f"{lost}{error.strerror}")
            continue
        if fault or stat.S_ISDIR(about.st_mode):
            yield Found(path, b"", fault or "a link to a folder; links are not entered")
        else:
            yield FileMetadata(path, about.st_size, about.st_mtime)


def _local(pattern: str) -> Iterator[tuple[str, str]]:
    """The paths on this machine that a pattern matches; folders with why they cannot be read."""
    start = re.split(r"[*?[]", pattern)[0]
    if start == pattern:
        if os.path.lexists(pattern):
            yield pattern, ""
        return
    matches = re.compile(FileSystem.translate_pattern(pattern)).match
    errors: list[OSError] = []
    for folder, folders, files in os.walk(start.rpartition("/")[0] or "/", onerror=errors.append):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in (*files, *links):
            path = os.path.join(folder, name)  # noqa: PTH118
            if matches(path):
                yield path, ""
    for error in errors:
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        if not gone and _may_hold(error.filename, pattern):
            yield error.filename, f"a folder that cannot be read: {error.strerror}"


def _may_hold(folder: str, pattern: str) -> bool:
    """Whether a folder may hold matches of a pattern."""
    depth = folder.count("/") + 1
    parts = pattern.split("/")
    deep = next((at for at, part in enumerate(parts) if "**" in part), len(parts))
    if depth > deep:
        folder, depth = "/".join(folder.split("/")[:deep]), deep
    elif depth >= len(parts):
        return False
    head = FileSystem.translate_pattern("/".join(parts[:depth]))
    return re.match(head, folder) is not None


def read_file(path: str, size: int, feature: str) -> Iterator[Found]:
    """The picture in an image file of `size` bytes on any of Beam's file systems."""
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
    """The pictures in a TFRecord file of `tf.train.Example`s, of which `feature` holds one image
    file as bytes. A path that ends with ".gz" is unpacked."""
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


READERS: dict[str, Callable[[str, int, str], Iterator[Found]]] = dict(
    zip(FORMATS, (read_file, read_records), strict=True)
)
"""The reader of a file, by `--format`."""
