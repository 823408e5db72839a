"""One version of a model: its graph in a session of its own, run as TensorFlow Serving runs it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving.server import tensors
from serving.server.status import Code, StatusError, invalid
from tf_avae.operations import check_saved_model

_WARM_UP = Path("assets.extra") / "tf_serving_warmup_requests"
_MOST_WARM_UP_RECORDS = 1000


@dataclass(frozen=True)
class Call:
    """What a request asks of a version.

    Attributes:
        signature: the signature's name.
        inputs: input alias to values.
        outputs: output aliases, in the order in which they are wanted.
    """

    signature: str
    inputs: dict[str, np.ndarray]
    outputs: tuple[str, ...]


class Servable:
    """A loaded SavedModel.

    Args:
        path: the version's folder.
        config: of the session.
        trust: whether to load it where its graph may do more than compute.

    Raises:
        InputError: it may do more than compute.
        tf.errors.OpError, OSError, ValueError: it cannot be loaded.
    """

    def __init__(self, path: Path, config: tf.compat.v1.ConfigProto, *, trust: bool = False):
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
            self._callables: dict[tuple[str, tuple[str, ...]], tuple] = {}
            for name, signature in self.signatures.items():
                if signature.inputs:  # not the one that only initialises
                    self._callable(name, tuple(sorted(signature.outputs)))
        except BaseException:
            self._session.close()
            raise

    def prepare(self, request: predict_pb2.PredictRequest) -> Call:
        """What a request asks, checked as TensorFlow Serving checks it.

        Raises:
            StatusError: the signature, an input or an output does not exist, or does not parse.
        """
        name = request.model_spec.signature_name or "serving_default"
        if name not in self.signatures:
            raise StatusError(
                Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
            )
        signature = self.signatures[name]
        _check_count(request.inputs, signature.inputs)
        inputs = {}
        for alias in sorted(signature.inputs):
            info = signature.inputs[alias]
            if alias not in request.inputs:
                raise invalid(
                    f"Signature input alias: {alias}(feed name: {info.name}) not found in request. "
                    f"Inputs expected to be in the set {_set(signature.inputs)}."
                )
            inputs[alias] = tensors.to_array(request.inputs[alias], alias)
        for alias in request.output_filter:
            if alias not in signature.outputs:
                raise invalid(
                    f"output tensor alias not found in signature: {alias} Outputs expected to be "
                    f"in the set {_set(signature.outputs)}."
                )
        outputs = tuple(request.output_filter) or tuple(sorted(signature.outputs))
        for position, alias in enumerate(outputs):
            if alias in outputs[:position]:
                raise invalid(f"duplicate output tensor alias: {alias}")
        for position, alias in enumerate(inputs):
            wanted, given = signature.inputs[alias].dtype, request.inputs[alias].dtype
            if wanted != given:
                raise invalid(
                    f"Expects arg[{position}] to be {tensors.type_name(wanted)} but "
                    f"{tensors.type_name(given)} is provided"
                )
        return Call(name, inputs, outputs)

    def run(self, call: Call) -> dict[str, np.ndarray]:
        """The outputs of a call, by alias. Several threads may run at once.

        Raises:
            tf.errors.OpError, ValueError: the graph refuses its inputs.
        """
        function, aliases = self._callable(call.signature, call.outputs)
        return dict(zip(call.outputs, function(*(call.inputs[a] for a in aliases)), strict=True))

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
                self.run(call)

    def close(self) -> None:
        """Frees the session; nothing may run any more."""
        self._callables.clear()
        self._session.close()

    def _callable(self, name: str, outputs: tuple[str, ...]) -> tuple:
        key = (name, outputs)
        if key not in self._callables:
            signature = self.signatures[name]
            aliases = sorted(signature.inputs)
            function = self._session.make_callable(
                [signature.outputs[alias].name for alias in outputs],
                feed_list=[signature.inputs[alias].name for alias in aliases],
            )
            self._callables[key] = (function, aliases)
        return self._callables[key]


def _check_count(given: Mapping, wanted: Mapping) -> None:
    if len(given) != len(wanted):
        raise invalid(
            f"input size does not match signature: {len(given)}!={len(wanted)} "
            f"len({_set(given)}) != len({_set(wanted)}). "
            f"Sent extra: {_set(set(given) - set(wanted))}. "
            f"Missing but required: {_set(set(wanted) - set(given))}."
        )


def _set(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
