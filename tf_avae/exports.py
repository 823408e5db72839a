"""A trained model as a SavedModel that TensorFlow Serving serves: signatures, warm-up, provenance.

Versions of a model are folders `BASE/<integer>`; a reader of BASE sees a version whole or not at
all. A version is published only after its graph was loaded again, has answered every warm-up
request, and has given the model's own numbers.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tf_avae.config import read_json
from tf_avae.encoders import weights_checksum
from tf_avae.errors import InputError
from tf_avae.evaluation import table
from tf_avae.files import absolute, sync_folder, write_json
from tf_avae.image_bytes import decode_images
from tf_avae.model import AVAE
from tf_avae.networks import float32_compute
from tf_avae.provenance import provenance, session
from tf_avae.runs import Run, load_trained
from tf_avae.saved_models import SavedModel
from tf_avae.types import Images, Latents, Tensor

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of images that a server computes at once, and that warm-up makes it ready for: the
`allowed_batch_sizes` of its batching file."""

SIGNATURES = ("serving_default", "embed_bytes", "decode")
PROVENANCE = "assets.extra/provenance.json"
WARM_UP = "assets.extra/tf_serving_warmup_requests"

_LARGEST = 2**63 - 1  # version that a server reads
_MARGIN = 1e-3  # how far a pixel may lie outside [0, 1]: what resizing and rounding may do
_FOLDER, _FILE = 0o755, 0o644  # a server run by another user reads them, whatever the umask
_SAME = 1e-5  # largest difference, over the largest value where that is above 1


class Served(tf.Module):
    """A model's networks and its three signatures, as functions of named tensors.

    All compute in float32, whatever the precision of training.

    Args:
        model: its weights are shared, not copied.
    """

    def __init__(self, model: AVAE):
        super().__init__(name="served")
        self._model_variables = [v.value for v in (*model.encoder.weights, *model.decoder.weights)]
        height, width, channels = model.image_shape

        def embed(image: Images) -> dict[str, Tensor]:
            with tf.control_dependencies([_check_pixels(image)]):
                return model(tf.identity(image))

        def embed_bytes(image_bytes: Tensor) -> dict[str, Tensor]:
            return model(decode_images(image_bytes, model.image_shape))

        def decode(latent: Latents) -> dict[str, Tensor]:
            with float32_compute(model.decoder):
                return {"image": model.decode(latent)}

        inputs = {
            embed: tf.TensorSpec([None, height, width, channels], tf.float32, "image"),
            embed_bytes: tf.TensorSpec([None], tf.string, "image_bytes"),
            decode: tf.TensorSpec([None, model.latent_dim], tf.float32, "latent"),
        }
        functions = (
            tf.function(function, input_signature=[spec]) for function, spec in inputs.items()
        )
        self.functions = dict(zip(SIGNATURES, functions, strict=True))


def _check_pixels(image: Images) -> tf.Operation:
    """Refuses pixels that are not numbers in [0, 1]: most of all those in [0, 255]."""
    inside = (image >= -_MARGIN) & (image <= 1 + _MARGIN)  # false for what is not a number
    return tf.debugging.Assert(
        tf.reduce_all(inside),
        ["image must hold finite numbers in [0, 1]; least, greatest and number of those that are "
         "not finite:", tf.reduce_min(image), tf.reduce_max(image),
         tf.math.count_nonzero(~tf.math.is_finite(image))],
    )  # fmt: skip


def export_run(
    run: str | Path,
    base: str | Path,
    *,
    version: int | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    evaluation: str | Path | None = None,
) -> Path:
    """Publishes a run's model as a new version.

    Args:
        run: a run's directory.
        base: the model's folder, which holds its versions; its name is the model's.
        version: from 1 to 2^63 - 1; one more than the largest there unless given.
        batch_sizes: what the server is warmed up for; its batching file's `allowed_batch_sizes`.
        evaluation: `results.json` of an evaluation of this run; its figures go into the provenance.

    Returns:
        The folder of the version.

    Raises:
        InputError: there is no trained run, the version exists, the evaluation is of other weights.
    """
    if version is not None and not 1 <= version <= _LARGEST:
        raise InputError(f"version is {version}; it must be at least 1 and at most {_LARGEST}")
    if not batch_sizes or min(batch_sizes) < 1:
        raise InputError(f"batch sizes are {list(batch_sizes)}; each must be at least 1")
    base = absolute(base)
    model = load_trained(run)
    notes = _notes(Run.open(run), model, evaluation)
    if base.exists() and not base.is_dir():
        raise InputError(f"{base} is a file; give the folder that holds the model's versions")
    made = [folder for folder in (base, *base.parents) if not folder.exists()]
    base.mkdir(parents=True, exist_ok=True)
    for folder in made:
        folder.chmod(_FOLDER)
    _number(base, version)  # what cannot be published is not worth the wait
    # Servers read only folders whose names are integers.
    draft = Path(tempfile.mkdtemp(prefix=".tmp-", dir=base))
    try:
        _write(model, draft, base.name, batch_sizes)
        write_json(draft / PROVENANCE, notes)
        _verify(model, draft)
        return _publish(draft, base, version)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(model: AVAE, folder: Path, name: str, batch_sizes: Sequence[int]) -> None:
    served = Served(model)
    tf.saved_model.save(
        served,
        str(folder),
        signatures=dict(served.functions),
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )
    (folder / WARM_UP).parent.mkdir()
    with tf.io.TFRecordWriter(str(folder / WARM_UP)) as records:
        for signature in SIGNATURES:
            for size in sorted(set(batch_sizes)):
                request = warm_up_request(model, name, signature, size)
                log = prediction_log_pb2.PredictionLog()
                log.predict_log.request.CopyFrom(request)
                records.write(log.SerializeToString())


def warm_up_request(
    model: AVAE, name: str, signature: str, size: int
) -> predict_pb2.PredictRequest:
    """A request of `size` grey images, files of them, or latents at the prior's mean."""
    grey = np.full(model.image_shape, 0.5, np.float32)
    file = tf.io.encode_png(tf.image.convert_image_dtype(grey, tf.uint8)).numpy()
    inputs = {
        "serving_default": ("image", np.broadcast_to(grey, (size, *grey.shape))),
        "embed_bytes": ("image_bytes", np.array([file] * size, object)),
        "decode": ("latent", np.zeros((size, model.latent_dim), np.float32)),
    }
    alias, value = inputs[signature]
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return request


def warm_up_requests(folder: Path) -> list[predict_pb2.PredictRequest]:
    """The requests in a version's warm-up file."""
    logs = tf.data.TFRecordDataset(str(folder / WARM_UP)).as_numpy_iterator()
    return [prediction_log_pb2.PredictionLog.FromString(log).predict_log.request for log in logs]


def _verify(model: AVAE, folder: Path) -> None:
    """Raises unless the graph answers each warm-up request and agrees with the model."""
    saved = SavedModel(folder)
    for request in warm_up_requests(folder):
        inputs = {alias: tf.make_ndarray(tensor) for alias, tensor in request.inputs.items()}
        saved.call(request.model_spec.signature_name, **_tensors(inputs))
    images = np.random.default_rng(0).uniform(size=(8, *model.image_shape)).astype(np.float32)
    expected = model(images)
    latents = expected["embedding"]
    found = saved.call("serving_default", image=tf.constant(images))
    for name, value in expected.items():
        _must_agree(name, value, found[name])
    with float32_compute(model.decoder):
        decoded = model.decode(latents)
    _must_agree("image", decoded, saved.call("decode", latent=latents)["image"])


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: tf.constant(array) for name, array in arrays.items()}


def _must_agree(name: str, expected: Tensor, found: Tensor) -> None:
    largest = max(1.0, float(tf.reduce_max(tf.abs(expected))))
    off = float(tf.reduce_max(tf.abs(expected - found)))
    if not off <= _SAME * largest:
        raise RuntimeError(
            f"the exported graph's {name} differs from the model's by {off:g}, more than "
            f"{_SAME * largest:g}; nothing was published"
        )


def _publish(draft: Path, base: Path, version: int | None) -> Path:
    """Gives a finished draft its number, which nobody else can then have."""
    for folder, _, files in os.walk(draft):
        Path(folder).chmod(_FOLDER)
        for name in files:
            with (Path(folder) / name).open("rb") as file:
                os.fchmod(file.fileno(), _FILE)
                os.fsync(file.fileno())
        sync_folder(Path(folder))
    while True:
        target = base / str(_number(base, version))
        try:
            # A folder cannot be renamed onto a file, nor onto a folder that holds something.
            draft.rename(target)
        except OSError:
            if not target.exists():
                raise
        else:
            sync_folder(base)
            return target


def _number(base: Path, version: int | None) -> int:
    """The number of the next version: the one asked for, or one more than the largest.

    Raises:
        InputError: it is taken, or no server would read it.
    """
    # As servers read names: 007 is 7, and what has more than 63 bits is no version. Files count
    # too: they are in the way as folders are.
    names = [path.name for path in base.iterdir()]
    numbers = (int(name) for name in names if name.isascii() and name.isdecimal())
    taken = {number for number in numbers if number <= _LARGEST}
    if version in taken:
        raise InputError(f"version {version} exists in {base}; give another --version, or none")
    number = version or 1 + max(taken, default=0)
    if number > _LARGEST:
        raise InputError(f"{base} holds the largest version there can be; give a --version")
    return number


def _notes(run: Run, model: AVAE, evaluation: str | Path | None) -> dict[str, Any]:
    """Where a version comes from, and what is known of it."""
    trained = read_json(run.path / "provenance.json")
    checksum = weights_checksum(model)
    complete = run.result_path.is_file()
    return {
        "algorithm": model.objective.name,
        "config": run.config.to_dict(),
        "image_shape": list(model.image_shape),
        "step": int(model.step.numpy()),
        "complete": complete,
        "weights_sha256": checksum,
        "held_out": read_json(run.result_path).get("held_out") if complete else None,
        "evaluation": _figures(absolute(evaluation), checksum) if evaluation else None,
        "trained": {key: trained.get(key) for key in ("commit", "versions", "data", "sessions")},
        "exported": {**session(), **provenance()},
    }


def _figures(path: Path, checksum: str) -> list[dict[str, str]]:
    """The rows of an evaluation's table that are about these weights."""
    results = read_json(path)
    try:
        records = [e for e in results["encoders"] if e.get("sha256") == checksum]
        if not records:
            names = ", ".join(str(e.get("name")) for e in results["encoders"])
            raise InputError(
                f"{path} is about other weights ({names}); evaluate this run: "
                "python -m training.evaluate RUN"
            )
        shown = table.rows({**results, "encoders": records[:1]})
        return [
            {"group": row.group, "figure": row.label, "value": row.cells[0].line} for row in shown
        ] + [{"group": "protocol", "figure": "budget", "value": results["settings"]["budget"]}]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no results.json of an evaluation ({error!r})") from error
