"""Encoders from disk, as callables: a run, a SavedModel, a Keras model or an ONNX file."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tf_avae import plugins
from tf_avae.backend import keras, tf
from tf_avae.backend.float32 import Float32View
from tf_avae.config import read_json
from tf_avae.distributions import Posterior
from tf_avae.errors import InputError
from tf_avae.evaluation.encoder import Encoder
from tf_avae.graphs.saved_models import (
    PROVENANCE,
    SavedModel,
    files_checksum,
    holds_saved_model,
    listed,
    load_keras_model,
    newest_version,
    saved_model_files,
)
from tf_avae.networks import OLD_NAME
from tf_avae.records import damaged, mismatch
from tf_avae.runs.run import Run, holds_run, load_trained
from tf_avae.saved.contract import ONNX
from tf_avae.saved.formats import OnnxFile
from tf_avae.saved.shipped import located
from tf_avae.types import Images, ImageShape, Latents, Tensor

OF_FILES = ("background", "fit")
"""The notes of an encoder that say how image files become images, where they are known: the
arguments of `decode_pixels` of the same names."""

_ANY_SIDE = 64  # where a model takes images of any size


def open_encoder(path: str | Path, name: str | None = None, *, trust: bool = False) -> Encoder:
    """The encoder at a path.

    Args:
        path: a run's directory; a SavedModel (or a folder of numbered versions of one) whose
            signature `serving_default` takes `image` and gives `embedding` and perhaps `variance`,
            and whose signature `decode`, if there is one, takes `latent` and gives `image`; or a
            `.keras` file of a model whose output is the embedding, or a dict with "embedding" and
            perhaps "variance"; or an `.onnx` file (or a folder of an export's versions of one) with
            one input and such outputs, which has no gradients; or the name of a row of `SHIPPED`.
        name: what it is called; the last part of the path unless given.
        trust: whether to open a SavedModel or a Keras model that may do more than compute.

    Raises:
        InputError: there is no such thing at the path, it has no weights yet, or not these inputs
            and outputs, or it may do more than compute.

    Warns:
        FutureWarning: a Keras model calls its embedding "mean", as those of before did.
    """
    path = located(path)
    name = name or (path.stem if path.is_file() else path.name)
    return _kind(path).open(path, name, trust)


def locate(path: str | Path) -> tuple[Path, str]:
    """Where the encoder at a path is, the newest version where there are several, and the SHA-256
    of the files that decide its embeddings.

    Raises:
        InputError: there is no such thing at the path, or it has no weights yet.
    """
    path = located(path)
    kind = _kind(path)
    path = kind.newest(path)
    return path, files_checksum(kind.files(path))


def _of_run(path: Path, name: str, trust: bool) -> Encoder:
    run, model = Run.open(path), load_trained(path)

    def posterior(images: Images) -> Posterior:
        return model.encode(images, float32=True)

    def decode(latents: Latents) -> Images:
        return model.decode(latents, float32=True)

    whole = model.decoder is not None
    notes = {
        "kind": "run",
        "config": run.config.to_dict(),
        **{name: getattr(run.config, name) for name in OF_FILES},
        "step": int(model.step.numpy()),
        "complete": run.result() is not None,
        "sha256": weights_checksum(model),
        "trained_at_commit": read_json(path / "provenance.json").get("commit"),
        **_plugins(run.provenance()["sessions"]),
    }
    return Encoder(
        name,
        embed=lambda images: posterior(images).mean,
        posterior=posterior if whole or "variance" in model.encoder.output else None,
        decode=decode if whole else None,
        image_shape=model.image_shape,
        observation_variance=model.hyperparameters.observation_variance if whole else None,
        rho=model.hyperparameters.rho if "rho" in model.objective.uses else None,
        network=lambda: _embedding_alone(model.encoder, "embedding"),
        notes=notes,
    )


def _of_saved_model(path: Path, name: str, trust: bool) -> Encoder:
    from tf_avae.saved.frozen import as_layer, embedding_signature
    from tf_avae.saved.layers import keras_encoder

    saved = SavedModel(path, trust=trust)
    function = embedding_signature(saved)
    known = function.structured_outputs
    # Without the other outputs an attack's gradient takes a fraction of the time.
    wanted = [o for o in ("embedding", "variance") if o in known]
    encoder = as_layer(function, wanted, name="encoder")
    # An evaluation has looked at its images; a decoder of Gaussian data decodes to any number.
    encoder.bounds = (-math.inf, math.inf)

    def posterior(images: Images) -> Posterior:
        found = encoder(images)
        return Posterior(found["embedding"], found["variance"])

    decodes = (
        "decode" in saved
        and set(saved.inputs("decode")) == {"latent"}
        and "image" in saved.outputs("decode")
    )
    return Encoder(
        name,
        embed=lambda images: encoder(images)["embedding"],
        posterior=posterior if "variance" in known else None,
        decode=(lambda z: saved.call("decode", latent=z)["image"]) if decodes else None,
        image_shape=_shape((None, *encoder.image_shape), saved.path),
        network=lambda: _embedding_alone(keras_encoder(saved.path, trust=trust), "embedding"),
        notes={"kind": "SavedModel", "sha256": saved.checksum, **_trained_as(saved.path)},
    )


def _trained_as(path: Path) -> dict[str, Any]:
    """What an exported encoder notes of its training: config, plugins, how it read files."""
    if not (path / PROVENANCE).is_file():
        return {}
    record = read_json(path / PROVENANCE)
    config = record.get("config")
    wrong = None if config is None else mismatch(config, {"dataset": str}, "config")
    if wrong:
        raise damaged(path / PROVENANCE, wrong, "export it again")
    of_files = {name: record.get(name) or (config or {}).get(name) for name in OF_FILES}
    noted = {name: value for name, value in {"config": config, **of_files}.items() if value}
    return noted | _plugins((record.get("trained") or {}).get("sessions") or ())


def _plugins(sessions: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The plugins that sessions of training note, if any."""
    found = plugins.of(sessions)
    return {"plugins": found} if found else {}


def _of_keras_model(path: Path, name: str, trust: bool) -> Encoder:
    model = load_keras_model(path, trust=trust)
    shape = _shape(getattr(model, "input_shape", None), path)
    run = Float32View(model)
    # Found by a call: the kinds of Keras models describe their outputs differently.
    sides = shape or (_ANY_SIDE, _ANY_SIDE, model.input_shape[3] or 3)
    output = run(tf.zeros((1, *sides)))
    keys = set(output) if isinstance(output, dict) else set()
    key = "embedding" if "embedding" in keys else OLD_NAME
    if (keys and key not in keys) or isinstance(output, list | tuple):
        given = listed(keys) if keys else f"{len(output)} outputs"
        raise InputError(f"{path} gives {given}; an encoder gives embedding, or one tensor")
    if keys and key == OLD_NAME:
        warnings.warn(
            f"{path} calls its embedding 'mean', which the next release does not read; save it "
            "again: keras.Model(m.input, {'embedding': m.output['mean'], 'variance': "
            "m.output['variance']}).save(...)",
            FutureWarning,
            stacklevel=3,
        )

    def posterior(images: Images) -> Posterior:
        found = run(images)
        return Posterior(found[key], found["variance"])

    return Encoder(
        name,
        embed=lambda images: run(images)[key] if keys else run(images),
        posterior=posterior if "variance" in keys else None,
        image_shape=shape,
        network=lambda: _embedding_alone(model, key),
        notes={"kind": "Keras model", "sha256": weights_checksum(model)},
    )


def _of_onnx(path: Path, name: str, trust: bool) -> Encoder:
    file = OnnxFile(path)
    # ONNX Runtime names a side that is free.
    shape = _shape([side if isinstance(side, int) else None for side in file.shape], path)
    key = "embedding" if "embedding" in file.outputs else next(iter(file.outputs))
    if key != "embedding" and len(file.outputs) > 1:
        raise InputError(
            f"{path} gives {listed(file.outputs)}; an encoder gives embedding, or one tensor"
        )

    size = file.outputs[key][-1] if file.outputs[key] else None

    def found(images: Images, *names: str) -> list[Tensor]:
        def run(array: np.ndarray) -> list[np.ndarray]:
            outputs = file(array)
            return [outputs[each] for each in names]

        # Also within a graph; TensorFlow has no gradient of it.
        found = tf.numpy_function(run, [images], [tf.float32] * len(names), stateful=False)
        found = tf.nest.flatten(found)  # of one there is no list
        for each in found:
            each.set_shape((images.shape[0], size if isinstance(size, int) else None))
        return found

    return Encoder(
        name,
        embed=lambda images: found(images, key)[0],
        posterior=(
            (lambda images: Posterior(*found(images, key, "variance")))
            if "variance" in file.outputs
            else None
        ),
        image_shape=shape,
        gradients=False,
        notes={"kind": "ONNX", "sha256": files_checksum([path]), **_trained_as(path.parent)},
    )


def _newest_onnx(path: Path) -> Path:
    return path if path.is_file() else newest_version(path, ONNX) / ONNX


def _embedding_alone(network: keras.Model, key: str) -> keras.Model:
    """The network without what its other outputs need; the network where it has one output, or is
    of a kind whose layers are not known."""
    outputs = getattr(network, "output", None)
    return keras.Model(network.inputs, outputs[key]) if isinstance(outputs, dict) else network


def _files_of_run(path: Path) -> list[Path]:
    run = Run.open(path)
    files = [run.model_path] if run.model_path.is_file() else run.checkpoint_paths()[:1]
    if not files:
        raise InputError(f"{path} has no weights yet; let it train first")
    return [path / "config.json", *files]


class _Kind(NamedTuple):
    """Something that an encoder may be on disk."""

    is_at: Callable[[Path], bool]
    open: Callable[[Path, str, bool], Encoder]  # path, name, trust
    files: Callable[[Path], list[Path]]  # those that decide its embeddings
    newest: Callable[[Path], Path] = lambda path: path  # of several in a folder


_KINDS = (
    _Kind(holds_run, _of_run, _files_of_run),
    _Kind(holds_saved_model, _of_saved_model, saved_model_files, newest_version),
    _Kind(lambda p: p.is_file() and p.suffix == ".keras", _of_keras_model, lambda p: [p]),
    _Kind(
        lambda p: p.suffix == ".onnx" if p.is_file() else holds_saved_model(p, ONNX),
        lambda p, name, trust: _of_onnx(_newest_onnx(p), name, trust),
        lambda p: [p],
        _newest_onnx,
    ),
)


def _kind(path: Path) -> _Kind:
    for kind in _KINDS:
        if kind.is_at(path):
            return kind
    raise InputError(
        f"{path} is neither a run (config.json), a SavedModel (saved_model.pb), a Keras model "
        "(.keras) nor an ONNX file (.onnx)"
    )


def weights_checksum(model: keras.Model) -> str:
    """SHA-256 over the weights' bytes."""
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _shape(shape: Any, path: Path) -> ImageShape | None:
    """(H, W, C) of an input [None, H, W, C]; None where a side is free."""
    if not isinstance(shape, tuple | list) or len(shape) != 4:
        raise InputError(f"{path} takes inputs of shape {shape}; an encoder takes [N, H, W, C]")
    return None if None in shape[1:] else (shape[1], shape[2], shape[3])
