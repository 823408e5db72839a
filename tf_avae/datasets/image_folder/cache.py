"""Picture files as arrays: decoded once, in parallel, and kept in a cache where they fit.

The cache is a folder of this user's, never that of the pictures. It holds one entry for each folder
of pictures, size, background and fit: the pixels, a footer with digests of the files and the names
of those that could not be read, and a checksum. An entry that was changed is made anew.
"""

import errno
import functools
import hashlib
import json
import os
import shutil
import stat
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from tf_avae.backend import tf
from tf_avae.colours import WHITE, colour
from tf_avae.console.printing import note
from tf_avae.console.progress import Counter
from tf_avae.errors import InputError
from tf_avae.files import cache_folder, clear_drafts, exclusive, replacing
from tf_avae.image_files.converting import readable
from tf_avae.image_files.decoding import DECODING, decode_pixels, fault
from tf_avae.image_files.fitting import FITS, STRETCH

MOST_BYTES = 2**28
"""Larger files are not read: 16 million pixels take 134 MB at the most, uncompressed."""

SPARE = 2**30
"""Bytes of the cache's disk that stay free; pictures that would leave less are not kept."""

_FORMAT = 3  # of entries; part of their key
_MAGIC = b"tf_avae pictures"
_LENGTH, _CHECKSUM = 8, 4  # bytes of the footer's length and of the checksum, before the magic
_AT_ONCE = 2**20  # bytes read at a time
_LASTING = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR)
"""Errors that make a file unreadable until it is mended; other errors of a disk may pass."""

_PROCESSORS = len(os.sched_getaffinity(0))
_AHEAD = 4  # pictures under way for each processor
_KEPT = 40  # letters of a folder's name in that of its entry


class PictureFile(NamedTuple):
    """A file that may be a picture, and the state by which a change is noticed.

    Attributes:
        path: relative to the folder of pictures, with "/" between its parts.
        state: size in bytes, and the times (ns) of the last changes of content and of the entry.
    """

    path: str
    state: tuple[int, int, int]


def state_of(path: Path | os.DirEntry) -> tuple[int, int, int]:
    """The state of a file, as `PictureFile` has it; -1 where there is none."""
    try:
        about = path.stat()
    except OSError:  # a link to nothing, or in a circle
        return -1, -1, -1
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns


class Pictures(NamedTuple):
    """The pictures of a folder, as arrays.

    Attributes:
        paths: of the files that could be read, in the order given.
        fetch: positions among them, int64 [B], to pixels, uint8 [B, N, N, 3].
        unreadable: reasons by path, of the others.
        checksum: MD5 over the paths and contents of the files that could be read, and how they were
            decoded, in words.
    """

    paths: list[str]
    fetch: Callable[[np.ndarray], np.ndarray]
    unreadable: dict[str, str]
    checksum: str


class _How(NamedTuple):
    """How files become pixels."""

    side: int
    background: str
    fit: str

    def beside_stretch(self, lead: str) -> str:
        """The fit in a name; none for the one that there was before there were others."""
        return "" if self.fit == STRETCH else lead + self.fit


class _Entry(NamedTuple):
    """An entry of the cache: the pixels, if they fit, and the footer's values."""

    pixels: np.ndarray | None
    unreadable: dict[str, str]
    checksum: str


class _Decoded(NamedTuple):
    """Pixels, uint8 [N, N, 3], and the MD5 of the file."""

    pixels: np.ndarray
    checksum: bytes


_Outcome = _Decoded | str
"""Of a file: its pixels, or why it has none."""


def read_pictures(
    folder: Path,
    files: Sequence[PictureFile],
    side: int,
    background: str = WHITE,
    fit: str = STRETCH,
) -> Pictures:
    """Decodes and resizes files, or takes what the cache has of them.

    Where the cache's disk has no room, each batch is decoded when it is asked for: the same pixels,
    again and again.

    Args:
        folder: holds the files.
        files: at least one.
        side: N, to which each picture is resized.
        background, fit: as `decode_pixels` takes them.

    Raises:
        InputError: the cache cannot be written, `background` is no colour, or `fit` no row.
    """
    background = colour(background)
    how = _How(side, background, FITS[fit].name)
    decode = functools.partial(_outcome, how=how)
    place, key = _place(folder, how), _key(folder, files, how)
    room = len(files) * side * side * 3
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        fits = shutil.disk_usage(place).free >= room + SPARE
        look = functools.partial(_open, place / "pixels", key, side, fits)
        entry = look()
        if entry is None:
            wait = lambda: note(f"another process is decoding {folder}; waiting for it")  # noqa: E731
            with exclusive(place / "lock", wait):
                clear_drafts(place, "no suffix")  # of a process that was killed while writing
                entry = look()  # another process may have made it meanwhile
                if entry is None:
                    _make(place / "pixels", key, folder, files, decode, fits)
                    entry = look()
    except OSError as error:
        raise InputError(
            f"cannot keep decoded pictures in {place}: {error.strerror or error}; set "
            "TF_AVAE_CACHE to a folder that can be written"
        ) from error
    if entry is None:
        raise InputError(f"what was written to {place} cannot be read back; set TF_AVAE_CACHE")
    readable = [file for file in files if file.path not in entry.unreadable]
    if entry.pixels is None:
        note(
            f"note: {len(files):,} pictures take {room / 1e6:,.0f} MB, and {place} has no room for "
            f"them beside {SPARE / 1e6:,.0f} MB that stay free: each batch is decoded anew. Set "
            "TF_AVAE_CACHE to a folder on a larger disk to have them decoded once"
        )
        fetch = _decoding(folder, readable, decode)
    else:
        fetch = entry.pixels.__getitem__
    # In words, so that who is refused for it can see what differs.
    checksum = f"{entry.checksum}, decoding {DECODING} on {background}{how.beside_stretch(', ')}"
    return Pictures([file.path for file in readable], fetch, entry.unreadable, checksum)


def _place(folder: Path, how: _How) -> Path:
    mark = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    # Entries on white keep the name that all had, so that those of older versions are replaced.
    ground = "" if how.background == WHITE else how.background
    name = f"{folder.name[:_KEPT]}-{mark}-{how.side}{ground}{how.beside_stretch('-')}"
    return cache_folder() / "pictures" / name


def _key(folder: Path, files: Sequence[PictureFile], how: _How) -> str:
    """Changes with all that decides the pixels, our decoding, TensorFlow's and Pillow's
    included."""
    decoders = f"{_FORMAT} {DECODING} {tf.__version__} {metadata.version('pillow')}"
    digest = hashlib.sha256(f"{decoders} {how}".encode() + b"\0" + os.fsencode(folder))
    for path, state in files:
        digest.update(b"\0" + os.fsencode(path) + f"\0{state}".encode())
    return digest.hexdigest()


def _open(path: Path, key: str, side: int, fits: bool) -> _Entry | None:
    """The entry with this key; None where there is none, or one with pixels can be made.

    All of it is read and checked, so that damaged pixels are never trained on.
    """
    end = _CHECKSUM + _LENGTH + len(_MAGIC)
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - end, 0))
            expected = int.from_bytes(file.read(_CHECKSUM), "big")
            room = size - end - int.from_bytes(file.read(_LENGTH), "big")
            if file.read() != _MAGIC or room < 0:
                return None
            file.seek(room)
            footer = json.loads(file.read(size - end - room))
            if footer.get("key") != key:
                return None
            if _checksum(file, size - end) != expected:
                note(f"note: {path} was damaged on the disk; the pictures are decoded anew")
                path.unlink(missing_ok=True)
                return None
            if fits and not footer["holds_pixels"]:
                return None
            pixels = None
            if footer["holds_pixels"]:
                shape = (footer["count"], side, side, 3)
                # From the open file: another process may put a new entry in this one's place.
                pixels = np.memmap(file, np.uint8, "r", shape=shape) if room else np.zeros(shape)
            return _Entry(pixels, footer["unreadable"], footer["checksum"])
    except (FileNotFoundError, ValueError, RecursionError, AttributeError):
        return None  # there is none, or its footer is no JSON object


def _checksum(file: BinaryIO, size: int) -> int:
    """CRC-32 of the first bytes of a file: 2 GB/s, and no flipped bit escapes it."""
    file.seek(0)
    found, left = 0, size
    while left and (read := file.read(min(left, _AT_ONCE))):
        found, left = zlib.crc32(read, found), left - len(read)
    return found


def _make(
    path: Path,
    key: str,
    folder: Path,
    files: Sequence[PictureFile],
    decode: Callable[[Path], _Outcome],
    fits: bool,
) -> None:
    """Reads all files, and writes an entry whole or not at all."""
    unreadable = {}
    checksum = hashlib.md5(usedforsecurity=False)
    counter = Counter("decoding pictures", len(files))
    names = [file.path for file in files]
    written = 0
    with (
        replacing(path) as draft,
        draft.open("wb") as out,
        ThreadPoolExecutor(_PROCESSORS) as executor,
    ):
        read = _in_parallel(executor, lambda name: decode(folder / name), names)
        for done, (name, outcome) in enumerate(zip(names, read, strict=True), 1):
            if isinstance(outcome, _Decoded):
                checksum.update(os.fsencode(name) + b"\0" + outcome.checksum)
                if fits:
                    pixels = outcome.pixels.tobytes()
                    written = zlib.crc32(pixels, written)
                    out.write(pixels)
            else:
                unreadable[name] = outcome
            counter.update(done)
        count = len(names) - len(unreadable)
        footer = {"key": key, "holds_pixels": fits, "count": count, "unreadable": unreadable}
        text = json.dumps(footer | {"checksum": checksum.hexdigest()}).encode()
        out.write(text)
        out.write(zlib.crc32(text, written).to_bytes(_CHECKSUM, "big"))
        out.write(len(text).to_bytes(_LENGTH, "big") + _MAGIC)


def _outcome(path: Path, how: _How) -> _Outcome:
    """A file's pixels, or why it has none."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # reading a pipe would never end
            return "not a file"
        if about.st_size > MOST_BYTES:
            return f"{about.st_size:,} bytes; at most {MOST_BYTES:,} are read"
        content = path.read_bytes()
    except OSError as error:
        if error.errno not in _LASTING:
            raise InputError(f"cannot read {path}: {error.strerror or error}; try again") from error
        return error.strerror or str(error)
    if not content:
        return "an empty file"
    try:
        with tf.device("/CPU:0"):
            pixels = _decoder(how)(tf.constant(readable(content))).numpy()
    except InputError as error:
        return str(error)
    except tf.errors.InvalidArgumentError as error:
        return fault(error)
    return _Decoded(pixels, hashlib.md5(content, usedforsecurity=False).digest())


@functools.cache
def _decoder(how: _How) -> "Callable[[tf.Tensor], tf.Tensor]":
    shape = (how.side, how.side, 3)
    return tf.function(
        lambda file: decode_pixels(file, shape, how.background, how.fit),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )


def _in_parallel(
    executor: ThreadPoolExecutor, function: Callable, arguments: Iterable
) -> Iterator[_Outcome]:
    """As `executor.map`, with no more results in memory than are soon taken."""
    waiting: deque[Future] = deque()
    for argument in arguments:
        waiting.append(executor.submit(function, argument))
        if len(waiting) == _AHEAD * _PROCESSORS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _decoding(
    folder: Path, files: list[PictureFile], decode: Callable[[Path], _Outcome]
) -> Callable[[np.ndarray], np.ndarray]:
    """A `fetch` that decodes the pictures of each batch."""
    executor = ThreadPoolExecutor(_PROCESSORS)

    def fetch(index: np.ndarray) -> np.ndarray:
        chosen = [files[position] for position in index]
        read = executor.map(lambda file: decode(folder / file.path), chosen)
        pixels = []
        for file, outcome in zip(chosen, read, strict=True):
            if not isinstance(outcome, _Decoded):
                raise InputError(
                    f"{folder / file.path} could be read when the data were opened and cannot be "
                    f"now: {outcome}; put it back"
                )
            if state_of(folder / file.path) != file.state:
                raise InputError(
                    f"{folder / file.path} was changed since the data were opened; put it back, or "
                    "start again"
                )
            pixels.append(outcome.pixels)
        return np.stack(pixels)

    return fetch
