"""Finished parts of an evaluation, kept on disk, so that a stopped one goes on where it was."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tf_avae.errors import InputError
from tf_avae.files import clear_drafts, replacing


class Part(NamedTuple):
    """What a finished part found.

    Attributes:
        values: JSON values.
        arrays: by name.
    """

    values: dict[str, Any]
    arrays: dict[str, np.ndarray]


class PartStore:
    """Parts by name and by everything that decides their outcome.

    Args:
        folder: where they are kept; None keeps them in this process only. Parts of another source
            are removed from it, and drafts that killed processes left.
        identity: what decides the outcome of all of them (encoder, data, seed, source).

    Attributes:
        closed: whether every part must be there.
    """

    def __init__(self, folder: Path | None, identity: dict[str, Any]):
        self.closed = False
        self._folder = folder
        self._identity = identity
        self._source = str(identity.get("source"))
        self._known: dict[str, Part] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            clear_drafts(folder, ".npz")
            for file in folder.glob("[!.]*.npz"):  # no drafts: other processes are at them
                if _source(file) not in (None, self._source):
                    file.unlink(missing_ok=True)

    def find(self, name: str, settings: dict[str, Any]) -> Part | None:
        """A part that was finished before, with the same identity and settings.

        Raises:
            InputError: it is not there, and the store is closed.
        """
        file = self._file(name, settings)
        if file not in self._known and self._folder is not None:
            part = _read(self._folder / file)
            if part is not None:
                self._known[file] = part
        if self.closed and file not in self._known:
            raise InputError(
                f"{self._folder} has no {file}, though all shards are done: it was taken away, or "
                "made where the encoder computes other numbers, by another processor or release; "
                "give an empty --parts, machines that are alike, or no shards"
            )
        return self._known.get(file)

    def keep(self, name: str, settings: dict[str, Any], part: Part) -> None:
        """Keeps a part."""
        file = self._file(name, settings)
        self._known[file] = part
        if self._folder is not None:
            with replacing(self._folder / file) as temporary:
                own = {_NAME: file, _SOURCE: self._source}
                own[_VALUES] = json.dumps(part.values)
                arrays: dict[str, Any] = part.arrays | {k: np.array(v) for k, v in own.items()}
                np.savez(temporary, **arrays)

    def drop(self, name: str, settings: dict[str, Any]) -> None:
        """Forgets a part, if there is one."""
        file = self._file(name, settings)
        self._known.pop(file, None)
        if self._folder is not None:
            (self._folder / file).unlink(missing_ok=True)

    def _file(self, name: str, settings: dict[str, Any]) -> str:
        text = json.dumps([self._identity, settings], sort_keys=True)
        return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.npz"


_VALUES, _NAME, _SOURCE = "_values", "_name", "_source"


def _read(path: Path) -> Part | None:
    """A part from disk; None where it is missing, damaged or another than its name says, so that
    it is made again."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        del arrays[_SOURCE]
        name, values = (str(arrays.pop(key)) for key in (_NAME, _VALUES))
        return Part(json.loads(values), arrays) if name == path.name else None
    except Exception:  # whatever a damaged file makes numpy raise
        return None


def _source(path: Path) -> str | None:
    """The source that a part on disk was made by; None where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return str(file[_SOURCE])
    except Exception:  # as above
        return None
