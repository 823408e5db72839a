"""A served encoder for Beam's RunInference."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from tf_avae.backend import tf
from tf_avae.certificates import float32_radii
from tf_avae.errors import InputError
from tf_avae.graphs.saved_models import SavedModel, listed
from tf_avae.image_files.decoding import fault
from tf_avae.types import OUTPUTS

SIGNATURE = "embed_bytes"
"""The signature of an export that takes image files, as the server's clients use it."""

CERTIFY = "certify_bytes"
"""The signature that bounds the embeddings too, of exports that have it."""

ENDS = ("lower", "upper")
"""What that signature gives besides the embedding: [N, D] float32 each."""

Prediction = dict[str, np.ndarray] | str
"""The outputs of one file, by name; or the reason for its refusal."""

_HEAVY = 2**22  # bytes of a file from which on it counts as several


class Encoder(ModelHandler[bytes, Prediction, SavedModel]):
    """Embeds image files in batches; a refused file does not spoil the others of its batch.

    Args:
        path: of the SavedModel, on every worker.
        checksum: of it; a worker with another model at the path fails.
        trust: whether to open a graph that may do more than compute.
        batch_size: files at once. A file of more than 4 MiB counts as several, so that a batch
            holds at most as many bytes as files of 4 MiB, or one larger file.
        certify: radius within which the embeddings are bounded too; None: they are not.
    """

    def __init__(
        self,
        path: Path,
        checksum: str,
        batch_size: int,
        *,
        trust: bool = False,
        certify: float | None = None,
    ):
        super().__init__(
            min_batch_size=batch_size,
            max_batch_size=batch_size,
            element_size_fn=partial(weight, most=batch_size),
        )
        self._path = path
        self._checksum = checksum
        self._trust = trust
        self._certify = certify

    def load_model(self) -> SavedModel:
        saved = SavedModel(self._path, trust=self._trust)
        if saved.checksum != self._checksum:
            raise InputError(
                f"{self._path} is another model on this worker than where the job was started; "
                "give all of them the same"
            )
        return saved

    def run_inference(
        self,
        batch: Sequence[bytes],
        model: SavedModel,
        inference_args: dict[str, Any] | None = None,
    ) -> list[Prediction]:
        found = embed(model, batch, self._certify)
        _passed(len(batch))
        return found

    def get_num_bytes(self, batch: Sequence[bytes]) -> int:
        return sum(map(len, batch))

    def get_metrics_namespace(self) -> str:
        return "serving.bulk"


def weight(element: tuple[str, bytes], most: int) -> int:
    """The weight of a named file in a batch, from 1 to `most`."""
    return min(most, 1 + len(element[1]) // _HEAVY)


def embed(
    model: SavedModel, files: Sequence[bytes], certify: float | None = None
) -> list[Prediction]:
    """The outputs of each file, with the ends of its box if there is a radius, or the reason for
    its refusal.

    A refused batch is computed again by halves, as in the local server: a bad file among N costs at
    most 2 log2(N) more runs.
    """
    try:
        content = tf.constant(files, tf.string)
        outputs = model.call(SIGNATURE, image_bytes=content)
        if certify is not None:
            radii = tf.fill([len(files)], tf.constant(float32_radii(certify)))
            # Its embedding too, which is the one in the box, to the bit.
            outputs = {**outputs, **model.call(CERTIFY, image_bytes=content, epsilon=radii)}
    except tf.errors.InvalidArgumentError as error:
        if len(files) == 1:
            return [fault(error)]
        half = len(files) // 2
        return embed(model, files[:half], certify) + embed(model, files[half:], certify)
    names = [name for name in (*OUTPUTS, *ENDS) if name in outputs]
    arrays = [outputs[name].numpy() for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*arrays, strict=True)]


def check(model: SavedModel, certify: float | None = None) -> tuple[str, ...]:
    """The outputs of a model; raises `InputError` unless it has the signature, and where there is a
    radius, certificates."""
    given, taken = model.outputs(SIGNATURE), set(model.inputs(SIGNATURE))
    if "embedding" not in given or taken != {"image_bytes"}:
        raise InputError(
            f"{SIGNATURE} of {model.path} takes {listed(taken)} and gives {listed(given)}; it must "
            "take image_bytes and give embedding, as exports of serving.export do"
        )
    there = tuple(name for name in OUTPUTS if name in given)
    if certify is None:
        return there
    float32_radii(certify)
    if CERTIFY not in model:
        raise InputError(
            f"{model.path} was exported without certificates; export it again with this version "
            "(python -m serving.export), which says why if its encoder has none, or leave out "
            "--certify"
        )
    return (*there, *ENDS)


def _ignore(count: int) -> None:
    """Used in a worker in a process of its own."""


_passed: Callable[[int], None] = _ignore


def watch(update: Callable[[int], None]) -> None:
    """Calls `update` with the number of files done in this process, from one thread at a time:
    Beam's direct runner reports no progress."""
    global _passed
    lock, total = threading.Lock(), 0

    def add(count: int) -> None:
        nonlocal total
        with lock:
            total += count
            update(total)

    _passed = add


def abandon() -> None:
    """Makes the work in this process fail at its next batch."""

    def stop(count: int) -> None:
        raise RuntimeError("the job was stopped")

    global _passed
    _passed = stop
