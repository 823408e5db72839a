"""A server of the official classes whose embeddings are easy to foresee, and what tests share."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.client import AsyncEmbeddingClient

AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE
LOADING = get_model_status_pb2.ModelVersionStatus.LOADING
END = get_model_status_pb2.ModelVersionStatus.END


class Server(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """TensorFlow Serving, as far as a client can tell, with an encoder that is easy to foresee.

    The embedding of an image is its corner pixel, the version and 0, 0; of a file, its length, the
    version and 0, 0. Files that begin with "bad" are refused. Boxes reach as far as the radius.
    """

    def __init__(self, *, credentials=None, port=0):
        self.versions = [3]
        self.states = [(3, AVAILABLE, "")]
        self.labels = {}
        self.certifies = True  # as exports of old do not
        self.compact = True  # float_val without repetitions, as the real one; else tensor_content
        self.failures = []  # (code, words) of the next calls of any kind
        self.told = ()  # trailing metadata where something is not found
        self.asked = []  # the Predict requests
        self.looked = 0  # times that GetModelStatus was asked
        self.before = lambda count: None  # called as each Predict comes in, with its number
        self.edit = lambda reply: None  # does something to each reply of Predict
        self.ended = lambda count: None  # called as each Predict ends for the client
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        self._server = grpc.server(
            ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)]
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(self, self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(self, self._server)
        address = f"localhost:{port}"
        if credentials:
            self.port = self._server.add_secure_port(address, credentials)
        else:
            self.port = self._server.add_insecure_port(address)
        self.address = f"localhost:{self.port}"
        self._server.start()

    def stop(self):
        assert self._server.stop(0).wait(30)

    def Predict(self, request, context):
        with self._lock:
            self.asked.append(request)
            count = len(self.asked)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        context.add_callback(lambda: self.ended(count))
        try:
            self.before(count)
            version = self._version(request.model_spec, context)
            reply = predict_pb2.PredictResponse(model_spec=request.model_spec)
            reply.model_spec.version.value = version
            given = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
            signature = request.model_spec.signature_name
            radius = given.pop("epsilon", None)
            assert (radius is not None) == signature.startswith("certify")
            if radius is not None and not self.certifies:
                words = f'Serving signature key "{signature}" not found.'
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, words)
            [(name, values)] = given.items()
            expected = dict.fromkeys(("embed_bytes", "certify_bytes"), "image_bytes")
            expected |= dict.fromkeys(("serving_default", "certify"), "image")
            assert name == expected.get(signature, "latent")
            if signature == "decode":
                self._put(reply, "image", np.tile(values[:, None, :, None], (1, 2, 1, 3)))
            else:
                if name == "image_bytes":
                    if any(value.startswith(b"bad") for value in values):
                        context.abort(
                            grpc.StatusCode.INVALID_ARGUMENT, "Unknown format.\n\t [[{{node x}}]]"
                        )
                    corner = np.array([len(value) for value in values], np.float32)
                else:
                    assert values.dtype == np.float32
                    corner = values[:, 0, 0, 0]
                mean = np.zeros((len(values), 4), np.float32)
                mean[:, 0], mean[:, 1] = corner, version
                self._put(reply, "embedding", mean)
                if radius is None:
                    self._put(reply, "variance", np.ones_like(mean))
                    self._put(reply, "inconsistency", 10 * corner)
                else:
                    assert radius.shape == corner.shape and radius.dtype == np.float32
                    self._put(reply, "lower", mean - radius[:, None])
                    self._put(reply, "upper", mean + radius[:, None])
            self.edit(reply)
            return reply
        finally:
            with self._lock:
                self._at_once -= 1

    def GetModelMetadata(self, request, context):
        assert list(request.metadata_field) == ["signature_def"]
        reply = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=request.model_spec)
        reply.model_spec.version.value = self._version(request.model_spec, context)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        signature = signatures.signature_def["serving_default"]
        image = signature.inputs["image"]
        image.dtype = types_pb2.DT_FLOAT
        for size in (-1, 12, 12, 3):
            image.tensor_shape.dim.add(size=size)
        signature.outputs["embedding"].dtype = types_pb2.DT_FLOAT
        signature.outputs["embedding"].tensor_shape.unknown_rank = True
        signatures.signature_def["__saved_model_init_op"].outputs[
            "__saved_model_init_op"
        ].name = "N"
        signatures.signature_def["embed_bytes"].inputs["image_bytes"].dtype = types_pb2.DT_STRING
        reply.metadata["signature_def"].Pack(signatures)
        return reply

    def GetModelStatus(self, request, context):
        self.looked += 1
        reply = get_model_status_pb2.GetModelStatusResponse()
        asked = request.model_spec.version.value if request.model_spec.HasField("version") else None
        for version, state, words in self.states:
            if asked in (None, version):
                status = reply.model_version_status.add(version=version, state=state)
                status.status.error_message = words
        self._version(request.model_spec, context, found=bool(reply.model_version_status))
        return reply

    def _version(self, spec, context, found=True):
        with self._lock:
            failure = self.failures.pop(0) if self.failures else None
        if failure:
            context.abort(*failure)
        name = spec.name
        if spec.HasField("version_label") and spec.version_label not in self.labels:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Unrecognized servable version label: {spec.version_label}",
            )
        version = max(self.versions)
        if spec.HasField("version_label"):
            version = self.labels[spec.version_label]
        if spec.HasField("version"):
            version = spec.version.value
        if name != "encoder" or version not in self.versions or not found:
            context.set_trailing_metadata(self.told)
            context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"Servable not found for request: Specific({name}, {version})",
            )
        return version

    def _put(self, reply, name, values):
        proto = reply.outputs[name]
        proto.CopyFrom(tf.make_tensor_proto(values, tf.float32))
        if self.compact:
            flat = values.ravel()
            distinct = np.flatnonzero(flat != flat[-1])
            proto.ClearField("tensor_content")
            del proto.float_val[:]
            proto.float_val.extend(flat[: distinct[-1] + 2 if len(distinct) else 1])


class Waited:
    """The asynchronous client, each call of it waited for."""

    def __init__(self, *args, **options):
        self._loop = asyncio.new_event_loop()

        async def make():
            return AsyncEmbeddingClient(*args, **options)

        self._client = self._loop.run_until_complete(make())

    def __getattr__(self, name):
        method = getattr(self._client, name)

        def wait(*args, **options):
            if self._loop.is_running():  # for another thread
                made = method(*args, **options)
                return asyncio.run_coroutine_threadsafe(made, self._loop).result(10)
            return self._loop.run_until_complete(method(*args, **options))

        return wait


def until(condition):
    """Waits for it, but not for ever."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def images(count, side=2):
    """Images whose corners count up."""
    made = np.zeros((count, side, side, 3), np.float32)
    made[:, 0, 0, 0] = np.arange(count) / 128
    return made


def assert_all(found, corners, version=3):
    """These are the embeddings of images with such corners, by one version."""
    corners = np.asarray(corners, np.float32)
    assert len(found) == len(corners)
    assert {a.dtype for a in (found.embedding, found.variance, found.inconsistency)} == {
        np.dtype("f4")
    }
    assert found.version == version
    np.testing.assert_array_equal(found.embedding[:, 0], corners)
    np.testing.assert_array_equal(found.embedding[:, 1], version)
    np.testing.assert_array_equal(found.embedding[:, 2:], 0)
    np.testing.assert_array_equal(found.variance, np.ones_like(found.embedding))
    np.testing.assert_array_equal(found.inconsistency, 10 * corners)
