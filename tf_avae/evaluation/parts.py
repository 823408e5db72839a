"""Finished parts of an evaluation, kept on disk, so that a stopped one goes on where it was."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tf_avae.files import replacing


class Part(NamedTuple):
    """What a finished part found.

    Attributes:
        values: JSON values.
        arrays: by name.
    """

    values: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Parts:
    """Parts by name and by everything that decides their outcome.

    Args:
        folder: where they are kept; None keeps them in this process only.
        identity: what decides the outcome of all of them (encoder, data, seed, source).
    """

    def __init__(self, folder: Path | None, identity: dict[str, Any]):
        self._folder = folder
        self._identity = identity
        self._known: dict[str, Part] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def find(self, name: str, settings: dict[str, Any]) -> Part | None:
        """A part that was finished before, with the same identity and settings."""
        file = self._file(name, settings)
        if file not in self._known and self._folder is not None:
            part = _read(self._folder, file)
            if part is not None:
                self._known[file] = part
        return self._known.get(file)

    def keep(self, name: str, settings: dict[str, Any], part: Part) -> None:
        """Keeps a part."""
        file = self._file(name, settings)
        self._known[file] = part
        if self._folder is not None:
            with replacing(self._folder / file) as temporary:
                arrays: dict[str, Any] = part.arrays | {
                    _VALUES: np.array(json.dumps(part.values)),
                    _NAME: np.array(file),
                }
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


_VALUES, _NAME = "_values", "_name"


def _read(folder: Path, name: str) -> Part | None:
    """A part from disk; None where it is missing, damaged, or another one under this name, so that
    it is made again."""
    try:
        with np.load(folder / name, allow_pickle=False) as file:
            arrays = {array: file[array] for array in file.files}
        same = str(arrays.pop(_NAME)) == name
        return Part(json.loads(str(arrays.pop(_VALUES))), arrays) if same else None
    except Exception:  # whatever a damaged file makes numpy raise
        return None
