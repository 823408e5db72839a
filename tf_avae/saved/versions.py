"""Versions of a served model: drafted, warmed up, verified, and published atomically.

Versions of a model are folders `BASE/<integer>`. A version is published only after its graph was
loaded again, has answered every warm-up request, and has given the numbers of its model.
"""

# ruff: noqa: E402 (a missing package is reported before it is imported)
import contextlib
import errno
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from tf_avae.backend import need, tf

need({"tensorflow_serving": "tensorflow-serving-api"})  # isort: split

from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tf_avae.errors import InputError, reason
from tf_avae.files import (
    absolute,
    clear_drafts,
    drafting,
    for_tensorflow,
    shown,
    sync_folder,
    write_json,
)
from tf_avae.graphs.saved_models import PROVENANCE, SAVED_MODEL, SavedModel
from tf_avae.provenance import published
from tf_avae.saved.contract import BATCH_SIZES, WARM_UP
from tf_avae.saved.formats import FORMATS, Content
from tf_avae.types import ImageShape, Tensor

_LARGEST = 2**63 - 1  # version that a server reads
_FOLDER, _FILE = 0o755, 0o644  # a server run by another user reads them, whatever the umask
_SAME = 1e-5  # largest difference, over the largest value where that is above 1


class Trial(NamedTuple):
    """The name of a signature, its inputs, and the outputs that it must give, by name."""

    signature: str
    given: Mapping[str, Tensor]
    expected: Mapping[str, Tensor]


Signature: TypeAlias = (
    "tuple[Callable[..., dict[str, Tensor]], tf.TensorSpec]"
    " | tuple[Callable[..., dict[str, Tensor]], tf.TensorSpec, tf.TensorSpec]"
)
"""A function, and what it takes."""


class Served(tf.Module):
    """What is served: signatures as functions of named tensors, and the variables they read. It is
    the `Content` of a SavedModel.

    Args:
        variables: all that the functions read.
        signatures: name to a function, and what it takes; the batch dimensions are None.
        image_shape: (H, W, C), of the images in warm-up requests.
        trials: what the signatures must answer; made when the graph is verified.
        left_out: signatures that there might have been, by name, and why they are not there.
    """

    file = SAVED_MODEL

    def __init__(
        self,
        variables: "Iterable[tf.Variable]",
        signatures: "Mapping[str, Signature]",
        image_shape: ImageShape,
        trials: Callable[[], Iterable[Trial]],
        left_out: Mapping[str, str] | None = None,
    ):
        super().__init__(name="served")
        self._model_variables = list(variables)
        self._image_shape = tuple(image_shape)
        self.trials = trials
        self.left_out = dict(left_out or {})
        self.functions = {
            name: tf.function(function, input_signature=specs)
            for name, (function, *specs) in signatures.items()
        }

    def fill(self, folder: Path, name: str, batch_sizes: Sequence[int]) -> None:
        """As `Content` says; with warm-up requests of these sizes."""
        _write(self, folder, name, batch_sizes)
        _verify(self, folder)

    def warm_up_request(self, name: str, signature: str, size: int) -> predict_pb2.PredictRequest:
        """A request of `size` grey images, files of them, latents at the prior's mean, or radii
        of 0."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = name
        request.model_spec.signature_name = signature
        for spec in self.functions[signature].input_signature:
            # One value that stands for all of a tensor: the file would be megabytes otherwise.
            shape = (size, *(self._image_shape if spec.shape.rank == 4 else spec.shape[1:]))
            value = tf.make_tensor_proto(self._warm_up_value(spec), spec.dtype, shape)
            request.inputs[spec.name].CopyFrom(value)
        return request

    def _warm_up_value(self, spec: "tf.TensorSpec") -> float | bytes:
        if spec.dtype == tf.string:
            grey = tf.fill(self._image_shape, tf.cast(128, tf.uint8))
            return tf.io.encode_png(grey).numpy()
        return 0.5 if spec.shape.rank == 4 else 0.0


def check_target(
    base: str | Path,
    version: int | None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    file: str = SAVED_MODEL,
) -> Path:
    """The model's folder, checked before the work of an export.

    Args:
        base, version, batch_sizes: as `publish` takes them.
        file: what versions of the format are known by.

    Raises:
        InputError: it is not, the version is taken or out of range, or there are versions of
            another format: what reads the folder takes the newest.
    """
    if version is not None and not 1 <= version <= _LARGEST:
        raise InputError(f"version is {version}; it must be at least 1 and at most {_LARGEST}")
    if not batch_sizes or min(batch_sizes) < 1:
        raise InputError(f"batch sizes are {list(batch_sizes)}; each must be at least 1")
    base = absolute(base)
    if base.exists() and not base.is_dir():
        raise InputError(f"{base} is a file; give the folder that holds the model's versions")
    if base.exists():
        _number(base, version)
    for other in FORMATS.values():
        if other.file != file and any(base.glob(f"*/{other.file}")):
            raise InputError(
                f"{base} holds versions in the format {other.name}, and what reads it would take "
                "this one for a newer of those; give another folder"
            )
    there = next(folder for folder in (base, *base.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"{there} cannot be written; give another folder for the model's versions")
    return base


def publish(
    content: Content,
    base: str | Path,
    notes: Mapping[str, Any],
    *,
    version: int | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Path:
    """Publishes a new version.

    Args:
        content: what it holds: `Served`, or a file for another runtime.
        base: the model's folder, which holds its versions; its name is the model's.
        notes: where it comes from, and what is known of it.
        version: from 1 to 2^63 - 1; one more than the largest there unless given.
        batch_sizes: what the server is warmed up for, its batching file's `allowed_batch_sizes`;
            and what a file is tried with.

    Returns:
        The folder of the version.

    Raises:
        InputError: the version exists, or the folder is none, or of another format.
        RuntimeError: the graph gives other numbers than what it was made from.
    """
    base = check_target(base, version, batch_sizes, content.file)
    made = [folder for folder in (base, *base.parents) if not folder.exists()]
    base.mkdir(parents=True, exist_ok=True)
    for folder in made:
        folder.chmod(_FOLDER)
    clear_drafts(base, "")  # of exports that were killed
    try:
        # Servers read only folders whose names are integers.
        with drafting(base) as draft:
            try:
                content.fill(draft, base.name, batch_sizes)
                (draft / PROVENANCE).parent.mkdir(exist_ok=True)
                write_json(draft / PROVENANCE, published(dict(notes)))
            except tf.errors.OpError as error:  # of a full disk, for one
                why = re.sub(r"{{.*?}}|\[Op:.*?\]", "", reason(error)).rpartition("; ")[2].strip()
                raise OSError(errno.EIO, why, str(base)) from error
            return _publish(draft, base, version)
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # others may have written there
                folder.rmdir()
        raise


def _write(served: Served, folder: Path, name: str, batch_sizes: Sequence[int]) -> None:
    tf.saved_model.save(
        served,
        for_tensorflow(folder),
        signatures=dict(served.functions),
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )
    (folder / WARM_UP).parent.mkdir()
    with tf.io.TFRecordWriter(for_tensorflow(folder / WARM_UP)) as records:
        for signature in served.functions:
            for size in sorted(set(batch_sizes)):
                log = prediction_log_pb2.PredictionLog()
                log.predict_log.request.CopyFrom(served.warm_up_request(name, signature, size))
                records.write(log.SerializeToString())


def serve_command(folder: Path) -> str:
    """The command that serves what was published as a version, for a shell."""
    base = folder.parent
    flags = (f"--model_name={base.name}", f"--model_base_path={shown(base)}")
    return shlex.join(["python", "-m", "serving.server", *flags, "--rest_api_port=8501"])


def warm_up_requests(folder: Path) -> list[predict_pb2.PredictRequest]:
    """The requests in a version's warm-up file."""
    logs = tf.data.TFRecordDataset(for_tensorflow(folder / WARM_UP)).as_numpy_iterator()
    return [prediction_log_pb2.PredictionLog.FromString(log).predict_log.request for log in logs]


def _verify(served: Served, folder: Path) -> None:
    """Raises unless the graph answers each warm-up request and agrees with what it is made from."""
    saved = SavedModel(folder, trust=True)  # it was written here, from what is in memory
    for request in warm_up_requests(folder):
        inputs = {name: tf.constant(tf.make_ndarray(t)) for name, t in request.inputs.items()}
        saved.call(request.model_spec.signature_name, **inputs)
    for signature, given, expected in served.trials():
        found = saved.call(signature, **given)
        for name, value in expected.items():
            most = _SAME * max(1.0, float(tf.reduce_max(tf.abs(value))))
            off = float(tf.reduce_max(tf.abs(value - found[name])))
            if not off <= most:
                raise RuntimeError(
                    f"the exported graph's {name} differs from the model's by {off:g}, more than "
                    f"{most:g}; nothing was published"
                )


def _publish(draft: Path, base: Path, version: int | None) -> Path:
    """Gives a finished draft its number, which no other process can take then."""
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
    """The number of the next version: the one asked for, or one more than the largest."""
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
