"""Exact checkpoints: everything a model's training depends on, in one file that proves itself.

A checkpoint is the SHA-256 of an npz archive, then that archive. A file that was cut short or
altered therefore cannot be taken for a good one.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tf_avae.backend import keras
from tf_avae.errors import InputError
from tf_avae.files import write_bytes

_META = "meta.json"
_DIGEST_SIZE = hashlib.sha256().digest_size


class Checkpoint(NamedTuple):
    """What a file held.

    Attributes:
        arrays: every variable by section and position.
        meta: the JSON object that was saved beside them.
    """

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


class DamagedCheckpoint(Exception):
    """The file is not a whole checkpoint."""


def save(path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Writes a checkpoint atomically."""
    write_bytes(path, to_bytes(arrays, meta))


def to_bytes(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> bytes:
    """The content of a checkpoint's file."""
    members: dict[str, Any] = {_META: np.frombuffer(json.dumps(meta).encode(), np.uint8)} | arrays
    buffer = io.BytesIO()
    np.savez(buffer, **members)
    content = buffer.getvalue()
    return hashlib.sha256(content).digest() + content


def load(path: Path) -> Checkpoint:
    """Reads a whole checkpoint.

    Raises:
        DamagedCheckpoint: the file is cut short, altered or not a checkpoint.
    """
    try:
        return from_bytes(path.read_bytes())
    except DamagedCheckpoint as error:
        raise DamagedCheckpoint(f"{path.name} {error}") from error


def from_bytes(content: bytes) -> Checkpoint:
    """What `to_bytes` made bytes of.

    Raises:
        DamagedCheckpoint: they are cut short, altered or not a checkpoint's.
    """
    digest, archived = content[:_DIGEST_SIZE], content[_DIGEST_SIZE:]
    if hashlib.sha256(archived).digest() != digest:
        raise DamagedCheckpoint("is cut short or altered")
    with np.load(io.BytesIO(archived), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    meta = json.loads(arrays.pop(_META).tobytes())
    return Checkpoint(arrays, meta)


def model_state(model: keras.Model) -> dict[str, np.ndarray]:
    """Weights (moving statistics and the step among them), optimiser and metrics of a model."""
    return {name: variable.numpy() for name, variable in _variables(model).items()}


def restore(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Puts back what `model_state` took, to the bit.

    Raises:
        InputError: the arrays are of a model of another structure.
    """
    variables = _variables(model)
    mine = {name: tuple(variable.shape) for name, variable in variables.items()}
    theirs = {name: array.shape for name, array in arrays.items()}
    if mine != theirs:
        odd = sorted(mine.items() ^ theirs.items())[0]
        raise InputError(
            f"the checkpoint is of another model: {odd[0]} of shape {odd[1]} stands on one side "
            "only; use the configuration and the package version that wrote it"
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])


def metrics_state(model: keras.Model) -> list[np.ndarray]:
    """The running sums of a model's metrics."""
    return [variable.numpy() for variable in model.metrics_variables]


def restore_metrics(model: keras.Model, state: list[np.ndarray]) -> None:
    """Puts back what `metrics_state` took."""
    for variable, value in zip(model.metrics_variables, state, strict=True):
        variable.assign(value)


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    sections = {
        "weights": model.weights,
        "optimizer": model.optimizer.variables,
        "metrics": model.metrics_variables,
    }
    return {
        # By position: Keras numbers its names anew for each model that a process makes.
        f"{section}-{number:04d}": variable
        for section, variables in sections.items()
        for number, variable in enumerate(variables)
    }
