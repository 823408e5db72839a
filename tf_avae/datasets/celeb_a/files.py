"""CelebA's three official files: their checks, and a stream of their images.

Nothing is unpacked, and one image is in memory at a time. The lists and the archive's table of
contents take 0.2 GB for the official files, while they are read.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tf_avae.datasets.celeb_a.tasks import ATTRIBUTES
from tf_avae.errors import InputError, first_few

OFFICIAL = ("img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt")
"""Names of the files."""

IMAGES, ATTRIBUTE_LIST, PARTITION = OFFICIAL

FOLDER = "img_align_celeba/"
"""What the names of images begin with inside `IMAGES`."""

OFFICIAL_BYTES = 1_443_490_838
OFFICIAL_SHA256 = "46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74"
"""Of the official `IMAGES`."""

SPLITS = ("train", "validation", "test")
"""What 0, 1 and 2 in `PARTITION` stand for."""

INSTRUCTIONS = f"put the official files {', '.join(OFFICIAL)} there: docs/celeba.md says how"

_HALF = "an incomplete or mixed set; take all three files from one release"
_AGAIN = "download it again (docs/celeba.md says how)"


class Record(NamedTuple):
    """One image: its name in errors, its file, and bool [40] in the order of `ATTRIBUTES`."""

    name: str
    jpeg: bytes
    attributes: np.ndarray


class Stream(NamedTuple):
    """The images of all splits.

    Attributes:
        counts: number of images by split.
        records: a split's name to its images in order, from one position on and up to another;
            raises `InputError` on one that cannot be read.
    """

    counts: dict[str, int]
    records: Callable[..., Iterator[Record]]


class Source(NamedTuple):
    """The files that images come from, and what checks them without reading images."""

    files: tuple[Path, ...]
    read: Callable[[], Stream]


def official_source(folder: Path) -> Source | None:
    """The official files in a folder; none where none of them is there."""
    files = tuple(folder / name for name in OFFICIAL)
    if not any(path.exists() for path in files):
        return None
    return Source(files, lambda: read_official(folder))


def read_official(folder: Path) -> Stream:
    """Reads the lists and the archive's table of contents.

    Raises:
        InputError: a file is missing, is a web page, is cut short, or does not fit the others.
    """
    missing = [name for name in OFFICIAL if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} lacks {' and '.join(missing)}; {INSTRUCTIONS}")
    for name in OFFICIAL:
        _check_no_page(folder / name)
    names = _read_partition(folder / PARTITION)
    attributes = _read_attributes(folder / ATTRIBUTE_LIST)
    listed = {name for split in names.values() for name in split}
    _check_same(folder / ATTRIBUTE_LIST, attributes, folder / PARTITION, listed)
    archive = _open_archive(folder / IMAGES, listed)

    def records(split: str, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        for name in names[split][start:stop]:
            yield Record(name, _member(archive, name), attributes[name])

    return Stream({split: len(names[split]) for split in SPLITS}, records)


def _check_no_page(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(512)
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise InputError(
            f"{path} is a web page, not the file: such a page comes instead where the download "
            "quota is used up, or asks for a confirmation; docs/celeba.md says how to get the files"
        )


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="ascii", errors="replace").splitlines()


def _read_partition(path: Path) -> dict[str, list[str]]:
    """The names of each split's images."""
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    for number, line in enumerate(_lines(path), 1):
        words = line.split()
        if len(words) != 2:
            raise InputError(
                f"{path}, line {number}, has {len(words)} words ({line[:60]!r}); it must have an "
                f"image's name and 0, 1 or 2; {_AGAIN}"
            )
        name, part = words
        if part not in ("0", "1", "2"):
            raise InputError(
                f"{path}, line {number}, puts {name} into part {part!r}; it must be 0 (train), "
                f"1 (validation) or 2 (test); {_AGAIN}"
            )
        if name in seen:
            raise InputError(f"{path}, line {number}, lists {name} a second time; {_AGAIN}")
        seen.add(name)
        names[SPLITS[int(part)]].append(name)
    for split, inside in names.items():
        if not inside:
            raise InputError(f"{path} has no {split} images; at least 1 is needed; {_AGAIN}")
    return names


def _read_attributes(path: Path) -> dict[str, np.ndarray]:
    """The attributes of each image, bool [40]."""
    lines = _lines(path)
    if len(lines) < 2 or not lines[0].strip().isdigit():
        raise InputError(
            f"{path} starts with {lines[0][:60] if lines else ''!r}; its first line must be the "
            f"number of images, its second the names of the attributes; {_AGAIN}"
        )
    count, rows = int(lines[0]), lines[2:]
    if tuple(lines[1].split()) != ATTRIBUTES:
        raise InputError(
            f"{path}, line 2, names other attributes than CelebA's {len(ATTRIBUTES)}, from "
            f"{ATTRIBUTES[0]} to {ATTRIBUTES[-1]}: {lines[1][:60]!r}; {_AGAIN}"
        )
    if count != len(rows):
        raise InputError(
            f"{path} says that it has {count} images and has the lines of {len(rows)}: it is cut "
            f"short or altered; {_AGAIN}"
        )
    attributes = {}
    for number, line in enumerate(rows, 3):
        name, *words = line.split() or [""]
        if len(words) != len(ATTRIBUTES):
            raise InputError(
                f"{path}, line {number}, has {len(words)} values for {name or 'no image'}; it "
                f"must have {len(ATTRIBUTES)}; {_AGAIN}"
            )
        if bad := set(words) - {"1", "-1"}:
            raise InputError(
                f"{path}, line {number}, has {bad.pop()!r} for {name}; it must be 1 or -1; {_AGAIN}"
            )
        if name in attributes:
            raise InputError(f"{path}, line {number}, lists {name} a second time; {_AGAIN}")
        attributes[name] = np.array([word == "1" for word in words])
    return attributes


def _check_same(one: Path, names: dict[str, np.ndarray], other: Path, listed: set[str]) -> None:
    """Both lists must name the same images."""
    for path, lacking in ((one, listed - names.keys()), (other, names.keys() - listed)):
        if lacking:
            raise InputError(f"{path} has no line for {first_few(sorted(lacking), 1)}: {_HALF}")


def _open_archive(path: Path, listed: set[str]) -> zipfile.ZipFile:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(4)
    if start != b"PK\x03\x04":
        raise InputError(
            f"{path} is no zip archive (it starts with {start.hex() or 'nothing'}); {_AGAIN}"
        )
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{path} holds {size:,} bytes and ends without the archive's table of contents: it is "
            f"cut short or altered (the official one holds {OFFICIAL_BYTES:,}); {_AGAIN}"
        ) from error
    inside = archive.NameToInfo
    lacking = {name for name in listed if FOLDER + name not in inside}
    if len(lacking) == len(listed):
        first = next(iter(inside), "nothing")
        raise InputError(
            f"{path} holds other files ({first} ...) than {FOLDER}{min(listed)} ...: it must be "
            f"CelebA's archive of aligned and cropped JPEG images; {_AGAIN}"
        )
    if lacking:
        raise InputError(
            f"{path} has no image {FOLDER}{first_few(sorted(lacking), 1)}, which the lists "
            f"have: {_HALF}"
        )
    return archive


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(FOLDER + name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InputError(
            f"{archive.filename}: {FOLDER}{name} cannot be read ({error}): the archive is damaged "
            f"there; {_AGAIN}"
        ) from error
