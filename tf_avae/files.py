"""Files that are either there whole or not at all."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tf_avae.errors import InputError, reason


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with its suffix, that becomes `path` if the block ends well.

    The content is on disk before the name changes, so a crash leaves the old file or the new one.
    An `OSError` that names no file names `path`.
    """
    with naming(path):
        handle, temporary = _held(
            lambda: tempfile.mkstemp(prefix=".tmp-", suffix=path.suffix, dir=path.parent)
        )
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)  # mkstemp's files are private
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)


@contextmanager
def drafting(folder: Path) -> Iterator[Path]:
    """A temporary folder in `folder`, that is removed with what it holds unless the block renames
    it."""

    def make() -> tuple[int, str]:
        name = tempfile.mkdtemp(prefix=".tmp-", dir=folder)
        return os.open(name, os.O_RDONLY), name

    handle, draft = _held(make)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.close(handle)


def _held(make: Callable[[], tuple[int, str]]) -> tuple[int, Path]:
    """A draft that was made, locked for as long as its handle is open: `clear_drafts` leaves it."""
    while True:
        handle, name = make()
        with contextlib.suppress(OSError):  # where there are no locks, nothing is cleared either
            fcntl.flock(handle, fcntl.LOCK_EX)
        # Another process may have taken it for one that was left, in the moment before the lock.
        if os.path.exists(name):  # noqa: PTH110
            return handle, Path(name)
        os.close(handle)


def clear_drafts(folder: Path, *suffixes: str) -> None:
    """Removes the drafts in a folder that killed processes left; those in work stay.

    Args:
        folder: where commands write; it need not be there.
        suffixes: of the files that they write there; "" stands for folders.
    """
    for draft in list(folder.glob(".tmp-*")):
        is_folder = draft.is_dir() and not draft.is_symlink()
        suffix = "" if is_folder else draft.suffix or "no suffix"
        if suffix not in suffixes:
            continue
        with contextlib.suppress(OSError):  # in work, gone, or not ours to remove
            handle = os.open(draft, os.O_RDONLY if is_folder else os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(draft) if is_folder else draft.unlink()
            finally:
                os.close(handle)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds this path to an `OSError` of the block that names no file, such as of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        # Libraries raise some without a number, HDF5 for one.
        words = error.strerror or reason(error)
        raise OSError(error.errno or errno.EIO, words, str(path)) from error


@contextmanager
def exclusive(lock: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keeps other processes out of blocks that have the same file for a lock.

    Args:
        lock: is made; its folder must be there.
        waiting: called where another process is inside, before waiting until it is not.
    """
    with lock.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sync_folder(folder: Path) -> None:
    """Puts a folder's entries on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 atomically; bytes of file names that are no text are escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def absolute(path: str | Path) -> Path:
    """The absolute path that a user meant, `~` included.

    Raises:
        InputError: there is no such path on any disk.
    """
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be a path: {error}") from error


def cache_folder() -> Path:
    """Where what can be made again is kept: $TF_AVAE_CACHE, or tf_avae in $XDG_CACHE_HOME or
    ~/.cache. It need not be there.

    Raises:
        InputError: there is no such path on any disk.
    """
    given = os.environ.get("TF_AVAE_CACHE")
    if given:
        return absolute(given)
    return absolute(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "tf_avae"


def for_tensorflow(path: Path) -> str:
    """A path as TensorFlow takes it: as UTF-8, whatever the locale makes of its bytes.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8, and TensorFlow reads and writes no other names; give another"
        ) from error


def shown(path: str | Path) -> str:
    """A path as a user in this folder would write it; never one that reads as an option."""
    path = Path(path)
    text = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    return f"./{text}" if text.startswith("-") else text
