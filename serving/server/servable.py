"""One version of a model: its graph in a session of its own, run as TensorFlow Serving runs it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving.server import tensors
from serving.server.batching import Shapes
from serving.server.status import Code, StatusError, invalid
from tf_avae.backend import tf
from tf_avae.graphs.operations import check_saved_model

_WARM_UP = Path("assets.extra") / "tf_serving_warmup_requests"
_MOST_WARM_UP_RECORDS = 1000
_MOST_CALLABLES = 64  # signatures and sets of their outputs that a graph is prepared for


@dataclass(frozen=True)
class Call:
    """A request, checked against a version's signature.

    Attributes:
        signature: the signature's name.
        inputs: input alias to tensor, as it came.
        outputs: output aliases, in the order in which they are wanted.
        dtypes: output alias to the type that the signature says.
        shapes: of the inputs.
        size: bytes of inputs and outputs, as far as the signature says.
    """

    signature: str
    inputs: Mapping[str, Any]
    outputs: tuple[str, ...]
    dtypes: Mapping[str, int]
    shapes: Shapes
    size: int

    def arrays(self) -> list[np.ndarray]:
        """The inputs' values."""
        return [tensors.to_array(tensor, alias) for alias, tensor in self.inputs.items()]


class Servable:
    """A loaded SavedModel.

    Args:
        path: the version's folder.
        config: of the session.
        trust: whether to load a graph that may do more than compute.

    Raises:
        InputError: it may do more than compute.
        tf.errors.OpError, OSError, ValueError: it cannot be loaded.
    """

    def __init__(self, path: Path, config: "tf.compat.v1.ConfigProto", *, trust: bool = False):
        if not trust:
            check_saved_model(path)
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        try:
            with graph.as_default():
                meta_graph = tf.compat.v1.saved_model.loader.load(
                    self._session, [tf.saved_model.SERVING], str(path)
                )
            self.signatures = dict(meta_graph.signature_def.items())
            self._callables: dict[tuple[str, tuple[str, ...]], Any] = {}
        except BaseException:
            self._session.close()
            raise

    def prepare(self, request: predict_pb2.PredictRequest) -> Call:
        """The call of a request, checked as TensorFlow Serving checks it. No tensor is filled yet.

        Raises:
            StatusError: the signature, an input or an output does not exist, or does not parse.
        """
        name = request.model_spec.signature_name or "serving_default"
        if name not in self.signatures:
            raise StatusError(
                Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
            )
        signature = self.signatures[name]
        given = request.inputs
        _check_count(given, signature)
        inputs, shapes, size = {}, [], 0
        for alias in sorted(signature.inputs):
            _check_dense(alias, signature.inputs[alias])
            if alias in given:
                inputs[alias] = given[alias]
            elif alias in signature.defaults:
                inputs[alias] = signature.defaults[alias]
            else:
                raise invalid(
                    f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) "
                    "not found in request and no default value provided. Inputs expected to be in "
                    f"the request {_set(given)}, or default input alias set: "
                    f"{','.join(sorted(signature.defaults))}"
                )
            shape, takes = tensors.measure(inputs[alias], alias)
            shapes.append(shape)
            size += takes
        used = sorted(set(given) & set(inputs))
        if len(used) != len(given):
            raise invalid(
                f"Inputs contains invalid name. Used request inputs: {','.join(used)}, request "
                f"input: {','.join(sorted(given))}"
            )
        outputs = _outputs(request.output_filter, signature)
        for position, alias in enumerate(inputs):
            wanted, found = signature.inputs[alias].dtype, inputs[alias].dtype
            if wanted != found:
                raise invalid(
                    f"Expects arg[{position}] to be {tensors.type_name(wanted)} but "
                    f"{tensors.type_name(found)} is provided"
                )
        rows = max((shape[0] for shape in shapes if shape), default=1)
        size += sum(_takes(signature.outputs[alias], rows) for alias in outputs)
        dtypes = {alias: signature.outputs[alias].dtype for alias in outputs}
        return Call(name, inputs, outputs, dtypes, shapes, size)

    def run(
        self, name: str, outputs: tuple[str, ...], arrays: list[np.ndarray]
    ) -> list[np.ndarray]:
        """Computes outputs of a signature from arrays, both in the order of their sorted aliases.
        Several threads may run at once.

        Raises:
            StatusError: the signature cannot be run.
            tf.errors.OpError, ValueError: the graph refuses its inputs.
        """
        if (name, outputs) not in self._callables and len(self._callables) >= _MOST_CALLABLES:
            # Each set of outputs that is prepared takes memory that is never freed.
            every = tuple(sorted(self.signatures[name].outputs))
            found = dict(zip(every, self._run(name, every, arrays), strict=True))
            return [found[alias] for alias in outputs]
        return self._run(name, outputs, arrays)

    def _run(
        self, name: str, outputs: tuple[str, ...], arrays: list[np.ndarray]
    ) -> list[np.ndarray]:
        # A scalar is one of numpy's; a string is Python's.
        return [
            np.array(value, object) if isinstance(value, bytes) else np.asarray(value)
            for value in self._callable(name, outputs)(*arrays)
        ]

    def warm_up(self, path: Path, iterations: int) -> None:
        """Replays the requests that came with the version.

        Raises:
            StatusError, tf.errors.OpError: one of them fails, so the version is not fit to serve.
        """
        if not (path / _WARM_UP).is_file():
            return
        records = tf.compat.v1.io.tf_record_iterator(str(path / _WARM_UP))
        for count, record in enumerate(records, 1):
            if count > _MOST_WARM_UP_RECORDS:
                raise invalid(
                    f"Number of warmup records exceeds the maximum ({_MOST_WARM_UP_RECORDS}) at "
                    f"{path / _WARM_UP}"
                )
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if not log.HasField("predict_log"):
                kind = log.WhichOneof("log_type")
                raise StatusError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")
            call = self.prepare(log.predict_log.request)
            for _ in range(iterations):
                self.run(call.signature, tuple(sorted(call.outputs)), call.arrays())

    def close(self) -> None:
        """Frees the session; nothing may run any more."""
        self._callables.clear()
        self._session.close()

    def _callable(self, name: str, outputs: tuple[str, ...]) -> Any:
        key = (name, outputs)
        if key not in self._callables:
            signature = self.signatures[name]
            if not outputs:
                raise invalid("Must specify at least one target to fetch or execute.")
            fetches = [self._fetched(signature.outputs[alias].name) for alias in outputs]
            feeds = [self._fed(info.name) for _, info in sorted(signature.inputs.items())]
            self._callables[key] = self._session.make_callable(fetches, feeds)
        return self._callables[key]

    def _fetched(self, name: str) -> "tf.Tensor":
        tensor = self._tensor(name, f"FetchOutputs node {name}: not found")
        if tensor is None:
            raise invalid(
                f"Tried to fetch data for '{name}', which produces no output.  To run to a node "
                f"but not fetch any data, pass '{name}' as an argument to the 'target_node_names' "
                "argument of the Session::Run API."
            )
        return tensor

    def _fed(self, name: str) -> "tf.Tensor | None":
        return self._tensor(name, f"FeedInputs: unable to find feed output {name}")

    def _tensor(self, name: str, missing: str) -> "tf.Tensor | None":
        """A tensor of the graph; None: its operation has no output."""
        operation, _, number = name.partition(":")
        try:
            outputs = self._session.graph.get_operation_by_name(operation).outputs
            return outputs[int(number or 0)] if outputs else None
        except (KeyError, ValueError, IndexError) as error:  # the signature names what is not there
            raise StatusError(Code.NOT_FOUND, missing) from error


def _outputs(asked: Iterable[str], signature: Any) -> tuple[str, ...]:
    """The outputs that a request wants, in its order."""
    asked = tuple(asked)
    for position, alias in enumerate(asked):
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be "
                f"in the set {_set(signature.outputs)}."
            )
        if alias in asked[:position]:
            raise invalid(f"duplicate output tensor alias: {alias}")
    for alias in asked or signature.outputs:
        _check_dense(alias, signature.outputs[alias])
    return asked or tuple(sorted(signature.outputs))


def _check_count(given: Mapping, signature: Any) -> None:
    wanted = signature.inputs
    if len(given) > len(wanted) or (len(given) < len(wanted) and not signature.defaults):
        raise invalid(
            f"input size does not match signature: {len(given)}!={len(wanted)} "
            f"len({_set(given)}) != len({_set(wanted)}). "
            f"Sent extra: {_set(set(given) - set(wanted))}. "
            f"Missing but required: {_set(set(wanted) - set(given))}."
        )


def _check_dense(alias: str, info: Any) -> None:
    """Raises for a value of several tensors, which no request can name."""
    if info.WhichOneof("encoding") != "name":
        kind = {"coo_sparse": "sparse"}.get(info.WhichOneof("encoding"), "composite")
        raise invalid(f"The signature has a {kind} tensor, {alias}; only dense ones are served")


def _takes(info: Any, rows: int) -> int:
    """Bytes of an output for so many rows; unknown dimensions count as 1."""
    dims = [dim.size for dim in info.tensor_shape.dim]
    if not info.dtype or not dims:
        return 0
    first = rows if dims[0] < 0 else dims[0]
    return first * math.prod(max(size, 1) for size in dims[1:]) * tf.as_dtype(info.dtype).size


def _set(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
