"""The idx files of MNIST and of the sets that come in its format (Fashion-MNIST, KMNIST ...)."""

import functools
import gzip
import hashlib
import importlib.resources
import lzma
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tf_avae.errors import InputError

_MD5_OF_MNIST = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""The published files, uncompressed."""

_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,  # a fifth smaller: the images that ship
}
"""What a file's name may end in, and how it is read."""

_PREFIXES = {"train": "train", "test": "t10k"}


class Split(NamedTuple):
    """One split of a labelled grey-level set.

    Attributes:
        images: uint8 [N, H, W].
        labels: uint8 [N].
        checksums: MD5 of each uncompressed file, by name.
    """

    images: np.ndarray
    labels: np.ndarray
    checksums: dict[str, str]

    @property
    def size(self) -> int:
        return len(self.images)


@functools.cache
def load_split(split: str, directory: Path | None = None) -> Split:
    """Reads the split "train" or "test".

    Args:
        split: which of the two.
        directory: folder of the four idx files, plain, gzipped or as xz; None for the MNIST that
            ships with the package, whose checksums are verified.

    Raises:
        InputError: a file is missing, cut short, damaged or of another kind.
    """
    prefix = _PREFIXES[split]
    checksums: dict[str, str] = {}
    images = _read_array(directory, f"{prefix}-images-idx3-ubyte", 3, checksums)
    labels = _read_array(directory, f"{prefix}-labels-idx1-ubyte", 1, checksums)
    if len(images) != len(labels):
        raise InputError(
            f"{_place(directory)} has {len(images)} {split} images and {len(labels)} labels; "
            "they must be as many: take both files from one set"
        )
    if len(images) == 0:
        raise InputError(f"{_place(directory)} has no {split} images; at least 1 is needed")
    return Split(images, labels, checksums)


def _place(directory: Path | None) -> str:
    return str(directory) if directory else "the MNIST of this package"


def _read_array(
    directory: Path | None, name: str, dimensions: int, checksums: dict[str, str]
) -> np.ndarray:
    content = _read_bytes(directory, name)
    checksums[name] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if directory is None and checksums[name] != _MD5_OF_MNIST[name]:
        raise InputError(
            f"{name} of this package is altered (MD5 {checksums[name]}, published "
            f"{_MD5_OF_MNIST[name]}); install the package again"
        )
    path = f"{_place(directory)}: {name}"
    header = 4 + 4 * dimensions
    # Two zero bytes, 8 for unsigned bytes, the number of dimensions, then each as big-endian int32.
    if len(content) < header or content[:4] != bytes((0, 0, 8, dimensions)):
        raise InputError(
            f"{path} is not an idx file of unsigned bytes in {dimensions} dimensions "
            f"(it starts with {content[:4].hex() or 'nothing'}); download it again"
        )
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise InputError(
            f"{path} holds {len(content)} bytes; its header asks for {expected}: "
            "it is cut short or altered; download it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_bytes(directory: Path | None, name: str) -> bytes:
    """The uncompressed bytes of NAME, NAME.gz or NAME.xz, the first that is there."""
    place = directory or importlib.resources.files("tf_avae.datasets.color_mnist") / "mnist"
    files = {place / f"{name}{suffix}": unpack for suffix, unpack in _UNPACK.items()}
    path = next((path for path in files if path.is_file()), place / name)
    remedy = "download it again" if directory else "install the package again"
    try:
        return files[path](path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"{_place(directory)} has neither {name} nor {name}.gz or .xz; it must hold the four "
            f"idx files {', '.join(_MD5_OF_MNIST)}: {remedy}"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise InputError(f"{path} is cut short or altered ({error}); {remedy}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
