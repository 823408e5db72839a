"""CelebA's images as they are trained on: cropped once, kept beside the files, mapped into memory.

A store is a folder of arrays and of `source.json`, which names the files that it was made from. It
appears whole or not at all, is made anew when one of those files changes, and is used without them
when they are gone.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from tf_avae.config import read_json
from tf_avae.console.printing import note
from tf_avae.console.progress import Counter
from tf_avae.datasets.celeb_a.files import (
    IMAGES,
    OFFICIAL_BYTES,
    OFFICIAL_SHA256,
    SPLITS,
    Source,
    Stream,
)
from tf_avae.datasets.celeb_a.images import CROP, SHAPE, cropped
from tf_avae.datasets.celeb_a.tasks import ATTRIBUTES
from tf_avae.errors import InputError
from tf_avae.files import exclusive, sync_folder, write_json
from tf_avae.records import NUMBER, damaged, read_record

NAME = "celeb_a-64x64"
"""Of the folder."""

_MADE = {"version": 1, "crop": CROP, "shape": list(SHAPE)}
"""How a store is made; one with another record is made anew."""

_REMEDY = "delete that folder, and it is made again from the files"


class Store(NamedTuple):
    """A store that was read.

    Attributes:
        images: uint8 [N, 64, 64, 3] by split, mapped into memory.
        attributes: bool [N, 40] by split.
        checksums: SHA-256 of the files it was made from, by name.
    """

    images: dict[str, np.ndarray]
    attributes: dict[str, np.ndarray]
    checksums: dict[str, str]


def open_store(home: Path, source: Source | None) -> Store | None:
    """The store in a folder, made if need be; none where there is neither a store nor a source.

    Args:
        home: where the store is or is to be.
        source: what it is of.

    Raises:
        InputError: the source's files are missing or damaged, or the folder cannot be written.
    """
    folder = home / NAME
    if _is_current(folder, source):
        return _read(folder)
    if source is None:
        return None
    _check_writable(home)
    wait = lambda: note(f"another process is preparing {folder}; waiting for it")  # noqa: E731
    with exclusive(home / f".{NAME}.lock", wait):
        # Another process may have made it meanwhile.
        if not _is_current(folder, source):
            _make(folder, source)
        return _read(folder)


def _check_writable(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write {home}: {error.strerror or error}; the images are cropped once and kept "
            "there: make it writable, or link the files into a folder that is"
        ) from error


def _record(folder: Path) -> dict[str, Any] | None:
    """The store's own record; None where there is no store, or one that was made in another way."""
    file = folder / "source.json"
    if not file.exists() or read_record(file, {}, _REMEDY).get("made") != _MADE:
        return None
    return read_record(file, {"files": {str: {"state": [NUMBER], "sha256": str}}}, _REMEDY)


def _is_current(folder: Path, source: Source | None) -> bool:
    """Whether there is a store and the files it was made from are as they were, or gone."""
    record = _record(folder)
    if record is None:
        return False
    files = [path for path in source.files if path.exists()] if source else []
    known = record["files"]
    if any(path.name not in known for path in files):
        return False
    touched = [path for path in files if known[path.name]["state"] != _state(path)]
    if any(known[path.name]["state"][0] != path.stat().st_size for path in touched):
        return False
    # Of the same size but another time, as after copying: the content decides.
    if touched:
        if any(known[path.name]["sha256"] != _sha256(path) for path in touched):
            return False
        for path in touched:
            known[path.name]["state"] = _state(path)
        # Where it cannot be noted, the next to come looks again.
        with contextlib.suppress(OSError):
            write_json(folder / "source.json", record)
    return True


def _state(path: Path) -> list[int]:
    """Size and time of change, by which an unchanged file is known without reading it."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _sha256(path: Path, counter: Counter | None = None, before: int = 0) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**22):
            digest.update(piece)
            if counter:
                counter.update(before + file.tell())
    return digest.hexdigest()


def _make(folder: Path, source: Source) -> None:
    stream = source.read()
    states, checksums = [_state(path) for path in source.files], _checksums(source)
    count = sum(stream.counts.values())
    needed, free = count * int(np.prod(SHAPE)), shutil.disk_usage(folder.parent).free
    if needed > free:
        raise InputError(
            f"{folder.parent} has {free:,} bytes free and the prepared images take {needed:,}; "
            "make space, or link the files into a folder that has it"
        )
    half = folder.with_name(f"{NAME}.incomplete")
    shutil.rmtree(half, ignore_errors=True)  # of a process that was killed
    half.mkdir()
    try:
        _write_arrays(half, stream, Counter(f"images prepared in {folder}", count))
        files = {
            name: {"state": state, "sha256": digest}
            for (name, digest), state in zip(checksums.items(), states, strict=True)
        }
        write_json(half / "source.json", {"made": _MADE, "files": files})
        if folder.exists():
            shutil.rmtree(folder)
        half.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _checksums(source: Source) -> dict[str, str]:
    """The digests of the files by name; an archive of the official size must have its digest."""
    sizes = [path.stat().st_size for path in source.files]
    counter, checksums = Counter("bytes of the files checked", sum(sizes)), {}
    for number, path in enumerate(source.files):
        checksums[path.name] = _sha256(path, counter, sum(sizes[:number]))
    for path, size in zip(source.files, sizes, strict=True):
        if path.name == IMAGES and size != OFFICIAL_BYTES:
            note(
                f"note: {path} holds {size:,} bytes, CelebA's own {OFFICIAL_BYTES:,}: it is another"
                " archive and taken as it is"
            )
        elif path.name == IMAGES and checksums[IMAGES] != OFFICIAL_SHA256:
            raise InputError(
                f"{path} is altered (SHA-256 {checksums[IMAGES]}, official {OFFICIAL_SHA256}); "
                "download it again"
            )
    return checksums


def _write_arrays(folder: Path, stream: Stream, counter: Counter) -> None:
    done = 0
    for split in SPLITS:
        count = stream.counts[split]
        with (
            _array(folder / f"{split}-images.npy", (count, *SHAPE), np.uint8) as images,
            _array(folder / f"{split}-attributes.npy", (count, len(ATTRIBUTES)), bool) as present,
        ):
            for pixels, attributes in cropped(stream.records(split)):
                images.write(pixels.tobytes())
                present.write(attributes.tobytes())
                done += len(pixels)
                counter.update(done)


@contextlib.contextmanager
def _array(path: Path, shape: tuple[int, ...], dtype: Any) -> Iterator[IO[bytes]]:
    """A .npy file that is written piece by piece: one mapped into memory would fill it."""
    with path.open("wb") as file:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        yield file
        file.flush()
        os.fsync(file.fileno())


def _read(folder: Path) -> Store:
    try:
        files = read_json(folder / "source.json")["files"]
        return Store(
            {split: np.load(folder / f"{split}-images.npy", mmap_mode="r") for split in SPLITS},
            {split: np.load(folder / f"{split}-attributes.npy") for split in SPLITS},
            {name: known["sha256"] for name, known in files.items()},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(folder, str(error), _REMEDY) from error
