"""Reading SavedModels: signatures as plain functions, and clear words where one is missing."""

import hashlib
from pathlib import Path
from typing import Any

import tensorflow as tf

from tf_avae.errors import InputError
from tf_avae.files import absolute
from tf_avae.types import Tensor


class SavedModel:
    """A SavedModel folder, or the newest version below a folder of numbered versions.

    Attributes:
        path: the folder that holds saved_model.pb.

    Raises:
        InputError: there is no SavedModel, or it is damaged.
    """

    def __init__(self, path: str | Path):
        self.path = _version(absolute(path))
        try:
            self._loaded = tf.saved_model.load(str(self.path))
        except Exception as error:  # TensorFlow raises many kinds over a damaged file
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{self.path} is damaged ({reason}); export it again") from error

    def inputs(self, signature: str) -> dict[str, tf.TensorSpec]:
        """The named inputs of a signature.

        Raises:
            InputError: there is no such signature.
        """
        return self._function(signature).structured_input_signature[1]

    def outputs(self, signature: str) -> set[str]:
        """The names of a signature's outputs."""
        return set(self._function(signature).structured_outputs)

    def __contains__(self, signature: str) -> bool:
        return signature in self._loaded.signatures

    def call(self, signature: str, **inputs: Tensor) -> dict[str, Tensor]:
        """The outputs of a signature, by name; differentiable."""
        return self._function(signature)(**inputs)

    def _function(self, signature: str) -> Any:
        if signature not in self:
            known = ", ".join(sorted(self._loaded.signatures)) or "none"
            raise InputError(
                f"{self.path} has no signature {signature!r}; it has: {known}; export it with one"
            )
        return self._loaded.signatures[signature]

    @property
    def checksum(self) -> str:
        """SHA-256 over the graph and the variables."""
        files = [self.path / "saved_model.pb", *sorted((self.path / "variables").glob("*"))]
        digest = hashlib.sha256()
        for file in files:
            digest.update(file.read_bytes())
        return digest.hexdigest()


def holds_saved_model(path: Path) -> bool:
    """Whether a folder is a SavedModel, or one of numbered versions."""
    return path.is_dir() and _newest(path) is not None


def _version(path: Path) -> Path:
    found = _newest(path) if path.is_dir() else None
    if found is None:
        raise InputError(
            f"{path} holds no SavedModel: neither saved_model.pb nor a numbered version with one"
        )
    return found


def _newest(path: Path) -> Path | None:
    if (path / "saved_model.pb").is_file():
        return path
    versions = [p.parent for p in path.glob("*/saved_model.pb") if p.parent.name.isdigit()]
    return max(versions, key=lambda version: int(version.name), default=None)
