"""Reading models of others: the signatures of SavedModels as plain functions, and Keras files."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tf_avae.backend import keras, tf
from tf_avae.errors import InputError, reason
from tf_avae.files import absolute, for_tensorflow
from tf_avae.graphs.operations import IF_TRUSTED, check_saved_model
from tf_avae.types import Tensor

SAVED_MODEL = "saved_model.pb"
"""The file that a SavedModel is known by."""

PROVENANCE = "assets.extra/provenance.json"
"""The file of an export with its origin."""


class SavedModel:
    """A SavedModel folder, or the newest version below a folder of numbered versions.

    Loading a SavedModel runs code of its graph, and so does calling it.

    Args:
        path: of the folder.
        trust: whether to open it where its graph may do more than compute.

    Attributes:
        path: the folder that holds saved_model.pb.

    Raises:
        InputError: there is no SavedModel, it is damaged, or it is not to be trusted.
    """

    def __init__(self, path: str | Path, *, trust: bool = False):
        self.path = newest_version(absolute(path))
        place = for_tensorflow(self.path)
        try:
            if not trust:
                check_saved_model(self.path)
            self._loaded = tf.saved_model.load(place)
        except InputError:
            raise
        except Exception as error:  # TensorFlow raises many kinds over a damaged file
            raise InputError(
                f"{self.path} is damaged ({reason(error)}); export it again"
            ) from error

    def inputs(self, signature: str) -> "dict[str, tf.TensorSpec]":
        """The named inputs of a signature.

        Raises:
            InputError: there is no such signature.
        """
        return self.function(signature).structured_input_signature[1]

    def outputs(self, signature: str) -> set[str]:
        """The names of a signature's outputs."""
        return set(self.function(signature).structured_outputs)

    def __contains__(self, signature: str) -> bool:
        return signature in self._loaded.signatures

    def call(self, signature: str, **inputs: Tensor) -> dict[str, Tensor]:
        """The outputs of a signature, by name; differentiable."""
        return self.function(signature)(**inputs)

    def function(self, signature: str) -> Any:
        """A signature as a concrete function; it needs the variables that this object holds.

        Raises:
            InputError: there is no such signature.
        """
        if signature not in self:
            known = ", ".join(sorted(self._loaded.signatures)) or "none"
            raise InputError(
                f"{self.path} has no signature {signature!r}; it has: {known}; export it with one"
            )
        return self._loaded.signatures[signature]

    @property
    def checksum(self) -> str:
        """SHA-256 over the graph and the variables."""
        return files_checksum(saved_model_files(self.path))


def saved_model_files(path: Path) -> list[Path]:
    """The graph and the variables of the SavedModel in a folder."""
    return [path / SAVED_MODEL, *sorted((path / "variables").glob("*"))]


def files_checksum(files: Iterable[Path]) -> str:
    """SHA-256 over the contents of files, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def listed(names: Iterable[str]) -> str:
    """Names of inputs or outputs, for an error."""
    return ", ".join(sorted(names)) or "nothing"


def load_keras_model(path: Path, *, trust: bool = False) -> "keras.Model":
    """The model in a `.keras` file, not compiled.

    Args:
        path: of the file.
        trust: whether to open one that holds code of its own, which Keras' safe mode refuses.

    Raises:
        InputError: it is no Keras model, needs code that is not there, or is not to be trusted.
    """
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=not trust)
    except Exception as error:  # Keras raises many kinds over a damaged file
        if "safe_mode=False" in str(error):
            raise InputError(
                f"{path} holds what may do more than compute ({_refused(error)}); {IF_TRUSTED}"
            ) from error
        raise InputError(f"{path} is not a Keras model ({reason(error)})") from error
    if not isinstance(model, keras.Model):
        raise InputError(f"{path} holds a {type(model).__name__}; it must be a Keras model")
    return model


def _refused(error: Exception) -> str:
    """What safe mode refuses, without Keras' own remedy."""
    words = " ".join(str(error).split())
    return words.partition(". ")[0].partition("; if you trust")[0]


def holds_saved_model(path: Path, file: str = SAVED_MODEL) -> bool:
    """Whether a folder is a SavedModel, or one of numbered versions; or another format's, whose
    versions hold this file."""
    return _newest(path, file) is not None


def newest_version(path: Path, file: str = SAVED_MODEL) -> Path:
    """The SavedModel that a folder is, or the newest of its numbered versions; so of other formats.

    Raises:
        InputError: it is neither.
    """
    found = _newest(path, file)
    if found is None:
        raise InputError(
            f"{path} holds no SavedModel: neither {file} nor a numbered version with one"
        )
    return found


def _newest(path: Path, file: str) -> Path | None:
    if (path / file).is_file():
        return path
    versions = [p.parent for p in path.glob(f"*/{file}") if p.parent.name.isdigit()]
    return max(versions, key=lambda version: int(version.name), default=None)
