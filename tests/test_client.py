"""The client against a server of the official classes, over real sockets."""

import asyncio
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving import protocol
from serving.client import (
    AsyncEmbeddingClient,
    BadReply,
    DeadlineExceeded,
    EmbeddingClient,
    InvalidRequest,
    NotFound,
    ServingError,
    Unavailable,
    VersionChanged,
    VersionStatus,
    plans,
    tensors,
)
from serving.client.__main__ import _Progress, main
from tests.certificates import make_certificates

AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE
LOADING = get_model_status_pb2.ModelVersionStatus.LOADING
END = get_model_status_pb2.ModelVersionStatus.END
QUEUE_FULL = "The batch scheduling queue to which this task was submitted is full"


class Server(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """TensorFlow Serving, as far as a client can tell, with an encoder that is easy to foresee.

    The embedding of an image is its corner pixel, the version and 0, 0; of a file, its length, the
    version and 0, 0. Files that begin with "bad" are refused.
    """

    def __init__(self, *, credentials=None, port=0):
        self.versions = [3]
        self.states = [(3, AVAILABLE, "")]
        self.labels = {}
        self.compact = True  # float_val without repetitions, as the real one; else tensor_content
        self.failures = []  # (code, words) of the next calls of any kind
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
            [(name, tensor)] = request.inputs.items()
            expected = {"serving_default": "image", "embed_bytes": "image_bytes"}
            signature = request.model_spec.signature_name
            assert name == expected.get(signature, "latent")
            values = tf.make_ndarray(tensor)
            if signature == "decode":
                self._put(reply, "image", np.tile(values[:, None, :, None], (1, 2, 1, 3)))
            else:
                if signature == "embed_bytes":
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
                self._put(reply, "variance", np.ones_like(mean))
                self._put(reply, "inconsistency", 10 * corner)
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


@pytest.fixture
def server():
    found = Server()
    yield found
    found.stop()


@pytest.fixture(params=[EmbeddingClient, Waited], ids=["sync", "async"])
def connect(request):
    """Makes clients of either kind."""
    made = []

    def make(server, **options):
        client = request.param(getattr(server, "address", server), **options)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


def images(count, side=2):
    """Images whose corners count up."""
    made = np.zeros((count, side, side, 3), np.float32)
    made[:, 0, 0, 0] = np.arange(count) / 128
    return made


def assert_all(found, corners, version=3):
    """These are the embeddings of images with such corners, by one version."""
    corners = np.asarray(corners, np.float32)
    assert len(found) == len(corners)
    assert {a.dtype for a in (found.mean, found.variance, found.inconsistency)} == {np.dtype("f4")}
    assert found.version == version
    np.testing.assert_array_equal(found.mean[:, 0], corners)
    np.testing.assert_array_equal(found.mean[:, 1], version)
    np.testing.assert_array_equal(found.mean[:, 2:], 0)
    np.testing.assert_array_equal(found.variance, np.ones_like(found.mean))
    np.testing.assert_array_equal(found.inconsistency, 10 * corners)


# Embedding.


@pytest.mark.parametrize("compact", [True, False])
def test_embeds_floats_and_bytes(connect, server, compact):
    server.compact = compact
    client = connect(server)
    assert_all(client.embed(images(5)), np.arange(5) / 128)
    assert_all(client.embed(images(5).astype(np.float64)), np.arange(5) / 128)
    pixels = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1) * 80
    assert_all(client.embed(pixels), pixels.ravel().astype(np.float32) / np.float32(255))
    [first, *_] = server.asked
    assert (first.model_spec.name, first.model_spec.signature_name) == (
        "encoder",
        "serving_default",
    )
    assert first.inputs["image"].tensor_content and not first.inputs["image"].float_val


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((0, 2, 2, 3)), "N is 0"),
        (np.zeros((2, 2, 3)), r"shape \[2, 2, 3\]; it must be \[N, H, W, C\]"),
        (np.zeros((1, 2, 2, 3), np.int64), "int64; they must be float or uint8"),
        (np.zeros((1, 2, 2, 3), bool), "bool"),
        (np.array([["a"]]), "<U1"),
        ([np.zeros((2, 2, 3)), np.zeros((3, 2, 3))], "make no array"),
    ],
)
def test_arrays_that_cannot_be_sent_are_refused_here(connect, server, value, words):
    with pytest.raises(InvalidRequest, match=words) as found:
        connect(server).embed(value)
    assert found.value.code is None and not server.asked


def test_what_does_not_fit_a_batch_is_split_and_comes_back_in_order(connect, server):
    server.before = lambda count: time.sleep(0.1 if count % 3 == 1 else 0)
    found = connect(server, batch_size=4, concurrency=3).embed(images(42))
    assert_all(found, np.arange(42) / 128)
    assert sorted(r.inputs["image"].tensor_shape.dim[0].size for r in server.asked) == [2] + 10 * [
        4
    ]
    assert 1 < server.most_at_once <= 3


def test_requests_keep_to_the_message_size(connect, server):
    client = connect(server, max_message_mb=1)
    assert_all(client.embed(images(5, side=200)), np.arange(5) / 128)  # 0.46 MiB each
    sizes = sorted(len(request.inputs["image"].tensor_content) for request in server.asked)
    assert sizes == [480_000, 960_000, 960_000]
    with pytest.raises(ServingError, match=r"larger than max.*smaller batch_size") as found:
        client.embed(images(1, side=400))
    assert found.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_large_replies_are_taken(connect, server):
    server.compact = False
    latents = np.random.default_rng(0).uniform(size=(4, 70_000)).astype(np.float32)
    found = connect(server).decode(latents)  # 6.7 MB
    np.testing.assert_array_equal(found, np.tile(latents[:, None, :, None], (1, 2, 1, 3)))


@pytest.mark.parametrize("compact", [True, False])
def test_decodes(connect, server, compact):
    server.compact = compact
    latents = np.arange(15, dtype=np.float64).reshape(5, 3)
    found = connect(server, batch_size=2).decode(latents)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.tile(latents[:, None, :, None], (1, 2, 1, 3)))
    with pytest.raises(InvalidRequest, match=r"\[N, D\]"):
        connect(server).decode(latents[0])


def test_parts_are_cut_by_number_and_by_size():
    assert plans.split([1] * 5, 2, 100) == [range(2), range(2, 4), range(4, 5)]
    assert plans.split([5, 5, 9, 30, 1], 4, 10) == [
        range(2),
        range(2, 3),
        range(3, 4),
        range(4, 5),
    ]


# Files.


@pytest.fixture
def files(tmp_path):
    """Paths of files of 1, 2, ... bytes."""
    paths = [tmp_path / f"{index}.png" for index in range(1, 8)]
    for index, path in enumerate(paths, start=1):
        path.write_bytes(b"x" * index)
    return paths


def test_embeds_encoded_images(connect, server, files):
    client = connect(server, batch_size=3, concurrency=1)
    told = []
    found = client.embed_files(map(str, files), lambda *counts: told.append(counts))
    assert_all(found, range(1, 8))
    assert told == [(3, 7), (6, 7), (7, 7)]
    assert_all(client.embed_bytes([path.read_bytes() for path in files]), range(1, 8))


@pytest.mark.parametrize(
    ("value", "words"),
    [([], "N is 0"), ("a.png", "image 0 is str"), (b"x", "image 0 is int"), (["a"], "give a list")],
)
def test_what_is_not_bytes_is_refused(connect, server, value, words):
    with pytest.raises(InvalidRequest, match=words):
        connect(server).embed_bytes(value)


def test_files_that_cannot_be_read_are_named_before_any_is_sent(connect, server, files):
    client = connect(server, batch_size=1)
    with pytest.raises(InvalidRequest, match=r"cannot read .*9\.png: No such file") as found:
        client.embed_files([*files, files[0].with_name("9.png")])
    assert isinstance(found.value, ValueError) and not server.asked
    with pytest.raises(InvalidRequest, match=r"cannot read .*: Is a directory"):
        client.embed_files([files[0].parent])
    with pytest.raises(InvalidRequest, match="one path"):
        client.embed_files(str(files[0]))


def test_the_files_that_the_server_refuses_are_named(connect, server, files):
    files[4].write_bytes(b"bad")
    files[5].write_bytes(b"bad too")
    client = connect(server, batch_size=3)
    with pytest.raises(InvalidRequest) as found:
        client.embed_files(files)
    assert str(files[4]) in str(found.value) and str(files[5]) in str(found.value)
    assert str(files[3]) not in str(found.value)
    assert "Unknown format. [[{{node x}}]]" in str(found.value)
    assert found.value.details == "Unknown format.\n\t [[{{node x}}]]"
    with pytest.raises(InvalidRequest, match="image 1: "):
        client.embed_bytes([b"good", b"bad"])


def test_a_file_is_not_accused_of_what_is_wrong_with_all(connect, server, files):
    with pytest.raises(InvalidRequest, match="Unrecognized servable version label: x") as found:
        connect(server, label="x").embed_files(files)
    assert ".png" not in str(found.value)
    server.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "Task size 7 is larger than 4")]
    with pytest.raises(InvalidRequest, match="Task size") as found:
        connect(server).embed_files(files)
    assert ".png" not in str(found.value)


# Versions.


def test_asks_for_the_version_or_label_that_is_wanted(connect, server):
    server.versions, server.labels = [1, 3, 4], {"stable": 1}
    assert connect(server).embed(images(1)).version == 4
    assert connect(server, version=3).embed(images(1)).version == 3
    assert connect(server, label="stable").embed(images(1)).version == 1
    with pytest.raises(NotFound, match=r"Specific\(encoder, 9\)"):
        connect(server, version=9).embed(images(1))
    with pytest.raises(InvalidRequest, match="leave one out"):
        connect(server, version=3, label="stable")
    for wrong in ("3", 2**63):
        with pytest.raises(InvalidRequest, match="cannot be sent"):
            connect(server, version=wrong)


@pytest.mark.parametrize("at", [2, 5])
def test_a_call_never_mixes_versions(connect, server, at):
    def swap(count):
        if count == at:
            server.versions = [3, 4]

    server.before = swap
    told = []
    client = connect(server, batch_size=2, concurrency=1)
    assert_all(client.embed(images(10)), np.arange(10) / 128, version=4)
    again = server.asked[5:]
    assert len(again) == at - 1
    assert all(request.model_spec.version.value == 4 for request in again)
    server.versions = [4]
    del server.asked[:]
    server.before = lambda count: setattr(server, "versions", [5]) if count == 2 else None
    found = client.embed_bytes([b"x", b"xx", b"xxx"])
    assert_all(found, [1, 2, 3], version=5)
    assert told == []


def test_progress_does_not_count_twice_what_is_asked_again(connect, server, files):
    server.before = lambda count: setattr(server, "versions", [4]) if count == 3 else None
    told = []
    connect(server, batch_size=3, concurrency=1).embed_files(files, lambda *n: told.append(n))
    assert told == [(3, 7), (6, 7), (7, 7), (4, 7), (7, 7)]


def test_a_version_that_goes_again_is_an_error(connect, server):
    def swap(count):
        server.versions = {2: [4], 3: [3]}.get(count, server.versions)

    server.before = swap
    with pytest.raises(VersionChanged, match="changed to version 4") as found:
        connect(server, batch_size=1, concurrency=1).embed(images(3))
    assert "call again" in str(found.value)


def test_a_server_that_does_not_keep_to_a_version_is_an_error(connect, server):
    server.versions, versions = [3, 4], iter([3, 4, 5])
    server.edit = lambda reply: setattr(reply.model_spec.version, "value", next(versions))
    with pytest.raises(VersionChanged, match="did not keep to it"):
        connect(server, batch_size=1, concurrency=1).embed(images(2))


# Errors.


@pytest.mark.parametrize("mebibytes", [0, 3])
def test_tries_again_where_the_server_is_unavailable(connect, server, mebibytes):
    server.failures = [(grpc.StatusCode.UNAVAILABLE, QUEUE_FULL)] * 2
    side = 500 if mebibytes else 2
    client = connect(server)
    assert_all(client.embed(images(1, side)), [0])
    assert len(server.asked) == 3
    assert server.asked[0] == server.asked[2]
    # As gRPC's servers end what reaches them while they close.
    server.failures = [(grpc.StatusCode.CANCELLED, "CANCELLED")]
    assert_all(client.embed(images(1, side)), [0])
    assert len(server.asked) == 5
    if mebibytes:
        # What the client sets for this is needed.
        server.failures = [(grpc.StatusCode.UNAVAILABLE, QUEUE_FULL)] * 2
        small = connect(server, channel_options=[("grpc.per_rpc_retry_buffer_size", 1 << 18)])
        with pytest.raises(Unavailable, match=QUEUE_FULL):
            small.embed(images(1, side))


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_gives_up_after_five_attempts(connect, server, code):
    server.failures = [(code, QUEUE_FULL)] * 9
    with pytest.raises(Unavailable, match=QUEUE_FULL):
        connect(server).embed(images(1))
    assert len(server.asked) == 5


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", InvalidRequest),
        ("FAILED_PRECONDITION", InvalidRequest),
        ("NOT_FOUND", NotFound),
        ("INTERNAL", ServingError),
        ("RESOURCE_EXHAUSTED", ServingError),
    ],
)
def test_other_errors_come_at_once_with_the_servers_words(connect, server, code, kind):
    server.failures = [(grpc.StatusCode[code], "the server's\n words")]
    with pytest.raises(ServingError) as found:
        connect(server).embed(images(1))
    assert type(found.value) is kind
    assert found.value.code is grpc.StatusCode[code]
    assert found.value.details == "the server's\n words"
    assert f"{server.address}: {code}: the server's words" in str(found.value)
    assert len(server.asked) == 1


def test_no_server(connect):
    with pytest.raises(Unavailable, match=r"check the address"):
        connect("localhost:1").status()


@pytest.mark.parametrize("which", ["timeout", "request_timeout"])
def test_a_deadline_is_kept(connect, server, which):
    release = threading.Event()
    server.before = lambda count: release.wait(10) if count > 2 else None
    start = time.monotonic()
    client = connect(server, batch_size=1, concurrency=1, **{which: 0.5})
    with pytest.raises(DeadlineExceeded, match="allow"):
        client.embed(images(9))
    assert 0.4 < time.monotonic() - start < 4
    assert len(server.asked) == 3
    release.set()


def test_the_deadline_is_of_the_whole_call(connect, server):
    server.before = lambda count: time.sleep(0.1)
    client = connect(server, batch_size=1, concurrency=1, timeout=0.55)
    with pytest.raises(DeadlineExceeded):
        client.embed(images(20))
    assert len(server.asked) < 9


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda reply: reply.outputs.pop("variance"), "no output 'variance'; it has: embedding, "),
        (lambda reply: reply.model_spec.ClearField("version"), "which version"),
        (lambda r: r.outputs["embedding"].CopyFrom(r.outputs["inconsistency"]), "2 dimensions"),
        (lambda r: r.outputs["variance"].CopyFrom(tf.make_tensor_proto([[1.0]] * 2)), "variances"),
        (lambda r: r.outputs["variance"].CopyFrom(tf.make_tensor_proto([[1, 2]] * 2)), "int32"),
        (lambda r: r.outputs["embedding"].CopyFrom(tf.make_tensor_proto([[1.0]])), "of 2"),
    ],
)
def test_replies_that_make_no_sense(connect, server, edit, words):
    server.edit = edit
    with pytest.raises(BadReply, match=words):
        connect(server).embed(images(2))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("batch_size", 0, "at least 1"),
        ("concurrency", -1, "at least 1"),
        ("max_message_mb", 2048, "at most 2047"),
        ("timeout", 0, "above 0"),
        ("request_timeout", float("nan"), "above 0"),
    ],
)
def test_options_that_cannot_be_used(connect, option, value, words):
    with pytest.raises(InvalidRequest, match=f"{option} is {value}; .*{words}"):
        connect("localhost:1", **{option: value})


# Tensors.


@pytest.mark.parametrize(
    "values",
    [
        np.float32([[1, 2, 3], [4, 5, 6]]),
        np.float32([[1, 2, 2], [2, 2, 2]]),
        np.zeros((2, 3), np.float32),
        np.full((2, 2), np.nan, np.float32),
        np.float64([1.5, -2]),
        np.int32([1, 2]),
        np.int64([2**40]),
        np.zeros((0, 4), np.float32),
        np.float32(3),
        np.array([b"a", b"bc"], object),
    ],
    ids=str,
)
@pytest.mark.parametrize("as_list", [True, False])
def test_reads_what_tensorflow_writes(values, as_list):
    made = tf.make_tensor_proto(values)
    if as_list and values.dtype.kind == "f" and values.dtype.itemsize == 4:
        made.ClearField("tensor_content")
        made.float_val[:] = values.ravel().tolist()
    found = tensors.to_array(protocol.TensorProto.FromString(made.SerializeToString()))
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


def test_a_short_list_repeats_its_last_element():
    for given, expected in (([1.0, 2.0], [1, 2, 2, 2]), ([], [0, 0, 0, 0]), ([7.0], [7] * 4)):
        tensor = protocol.TensorProto(dtype=1, float_val=given)
        tensor.tensor_shape.dim.add(size=2)
        tensor.tensor_shape.dim.add(size=2)
        np.testing.assert_array_equal(tensors.to_array(tensor).ravel(), np.float32(expected))


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": 1, "float_val": [1, 2]},
        {"dtype": 1, "tensor_content": b"12"},
        {"dtype": 14, "tensor_content": b"12"},
        {"dtype": 1, "tensor_shape": {"dim": [{"size": -1}]}},
    ],
)
def test_damaged_tensors(tensor):
    with pytest.raises(BadReply):
        tensors.to_array(protocol.TensorProto(**tensor))


# TLS.


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=[False, True], ids=["tls", "mutual"])
def secure(request, certificates):
    """A server that speaks TLS, and whether it wants to see the client's certificate."""
    pair = [(certificates / f"server.{kind}").read_bytes() for kind in ("key", "pem")]
    ca = (certificates / "ca.pem").read_bytes()
    credentials = grpc.ssl_server_credentials([pair], ca, require_client_auth=request.param)
    found = Server(credentials=credentials)
    yield found, request.param
    found.stop()


def test_tls(connect, secure, certificates):
    server, mutual = secure
    own = {"tls_cert": certificates / "client.pem", "tls_key": str(certificates / "client.key")}
    ca = certificates / "ca.pem"
    assert_all(connect(server, tls_ca=ca, **own).embed(images(1)), [0])
    contents = {name: path.read_bytes() for name, path in own.items() if name == "tls_cert"}
    contents["tls_key"] = (certificates / "client.key").read_bytes()
    assert_all(connect(server, tls_ca=ca.read_bytes(), **contents).embed(images(1)), [0])
    if mutual:
        with pytest.raises(Unavailable):
            connect(server, tls_ca=ca).status()
    else:
        assert_all(connect(server, tls_ca=ca).embed(images(1)), [0])
    for others in (certificates / "other.pem", None):
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
            connect(server, tls=True, tls_ca=others, **own).status()
    with pytest.raises(Unavailable, match="check the address, TLS"):
        connect(server).status()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tls_ca": "nowhere.pem"}, "tls_ca nowhere.pem cannot be used: No such file"),
        ({"tls_ca": b"no certificate"}, "tls_ca cannot be used"),
        ({"tls_ca": b"\xff"}, "tls_ca cannot be used"),
        ({"tls_ca": "client.key"}, "tls_ca client.key cannot be used"),
        ({"tls_cert": "client.pem"}, "one is missing"),
        ({"tls_cert": "client.pem", "tls_key": "client.pem"}, "no private key"),
        ({"tls_cert": "client.pem", "tls_key": "other.key"}, "is not that of"),
    ],
)
def test_tls_files_that_cannot_be_used(connect, certificates, monkeypatch, options, words):
    monkeypatch.chdir(certificates)
    with pytest.raises(InvalidRequest, match=words):
        connect("localhost:1", **options)


# What is served.


def test_says_what_is_served(connect, server):
    server.states = [(2, END, "no\nassets"), (3, AVAILABLE, ""), (4, LOADING, "")]
    assert connect(server).status() == [
        VersionStatus(4, "LOADING", ""),
        VersionStatus(3, "AVAILABLE", ""),
        VersionStatus(2, "END", "no assets"),
    ]
    assert connect(server, version=3).status() == [VersionStatus(3, "AVAILABLE", "")]
    with pytest.raises(NotFound):
        connect(server, model="other").status()
    found = connect(server).metadata()
    assert found.version == 3
    default = found.signatures["serving_default"]
    assert str(default.inputs["image"]) == "float32 [N, 12, 12, 3]"
    assert default.inputs["image"].shape == (None, 12, 12, 3)
    assert default.outputs["embedding"].shape is None
    assert found.signatures["embed_bytes"].inputs["image_bytes"].dtype == "string"


def test_waits_until_a_version_is_available(connect, server):
    server.states = []
    steps = [[(3, LOADING, "")], [(3, AVAILABLE, "")], [(4, LOADING, ""), (3, AVAILABLE, "")]]

    def later():
        for step in steps:
            time.sleep(0.3)
            server.states = step

    thread = threading.Thread(target=later)
    thread.start()
    assert connect(server).wait_until_ready(10) == 3
    assert connect(server).wait_until_ready(10) == 3
    thread.join()
    with pytest.raises(DeadlineExceeded, match=r"after 0.5 s; last seen: version 4 LOADING"):
        server.versions = [3, 4]
        connect(server, version=4).wait_until_ready(0.5)


def test_waits_for_a_server_that_is_not_there_yet(connect):
    first = Server()
    port = first.port
    first.stop()
    with pytest.raises(DeadlineExceeded, match=r"last seen: .*UNAVAILABLE"):
        connect(f"localhost:{port}").wait_until_ready(0.5)
    client, found = connect(f"localhost:{port}"), []
    timer = threading.Timer(1, lambda: found.append(Server(port=port)))
    timer.start()
    assert client.wait_until_ready(20) == 3
    found[0].stop()


# What is under way ends with the call.


def test_the_first_error_ends_the_other_requests(connect, server):
    release, ended = threading.Event(), threading.Event()

    def hold(count):
        if count == 1:
            release.wait(10)
        else:
            server.failures = [(grpc.StatusCode.INTERNAL, "broken")]

    server.before = hold
    server.ended = lambda count: ended.set() if count == 1 else None
    with pytest.raises(ServingError, match="broken"):
        connect(server, batch_size=1, concurrency=2).embed(images(9))
    assert ended.wait(5)  # while its handler still waits
    assert len(server.asked) <= 3
    release.set()


def test_cancelling_a_call_ends_its_requests(server):
    release, ended = threading.Event(), threading.Event()
    server.before = lambda count: release.wait(10)

    async def cancelled():
        async with AsyncEmbeddingClient(server.address) as client:
            task = asyncio.create_task(client.embed(images(1)))
            await asyncio.to_thread(until, lambda: server.asked)
            server.ended = lambda count: ended.set()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(ended.wait, 5)

    asyncio.run(cancelled())
    release.set()


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_closing_the_client_ends_its_calls(connect, server, parts):
    release = threading.Event()
    server.before = lambda count: release.wait(10)
    client = connect(server, batch_size=1, concurrency=2)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(client.embed, images(parts))
        until(lambda: len(server.asked) >= min(parts, 2))
        client.close()
        with pytest.raises(ServingError, match="the client is closed"):
            call.result(5)
    release.set()


def test_closing_the_client_ends_its_waiting(connect, server):
    server.states = [(3, LOADING, "")]
    client = connect(server)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(client.wait_until_ready, 30)
        until(lambda: server.looked)
        client.close()
        with pytest.raises(ServingError, match="the client is closed"):
            call.result(5)


def test_a_closed_client_says_so(connect, server, files):
    client = connect(server)
    assert_all(client.embed(images(1)), [0])
    for _ in range(2):
        client.close()
    for call in (
        lambda: client.embed(images(3)),
        lambda: client.embed_files(files),
        client.status,
        client.metadata,
        client.wait_until_ready,
    ):
        with pytest.raises(ServingError, match="the client is closed") as found:
            call()
        assert found.value.code is None
    assert len(server.asked) == 1


# The command line.


def run(capsys, *arguments):
    """Exit code, what was printed, what was complained."""
    try:
        code = main([str(word) for word in arguments])
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_embeds_files_to_a_file(capsys, server, files, tmp_path):
    embed = ("embed", *files, "--address", server.address, "--batch-size", 2, "--out")
    code, text, complaint = run(capsys, *embed, tmp_path / "a.npy")
    assert code == 0 and not complaint
    assert "7 images, 4 dimensions, encoder version 3\n" in text
    assert "inconsistency: median 40, max 70; the largest:\n" in text
    assert re.findall(r"  (\d+)  .*/(\d)\.png", text) == [("70", "7"), ("60", "6"), ("50", "5")]
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy")[:, 0], range(1, 8))
    assert run(capsys, *embed, tmp_path / "a.npz")[0] == 0
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert found["mean"].shape == found["variance"].shape == (7, 4)
        np.testing.assert_array_equal(found["inconsistency"], range(10, 80, 10))
        assert found["version"] == 3
        assert found["paths"].tolist() == [str(file) for file in files]


def test_embeds_the_images_of_a_folder(capsys, server, files, tmp_path):
    files[0].with_name("notes.txt").write_text("no image")
    out = tmp_path / "out" / "a.npy"
    out.parent.mkdir()
    assert run(capsys, "embed", tmp_path, "--address", server.address, "--out", out)[0] == 0
    np.testing.assert_array_equal(np.load(out)[:, 0], range(1, 8))
    code, _, complaint = run(capsys, "embed", out.parent, "--out", out)
    assert code == 2 and "holds no file that ends with one of .png, .jpg, .jpeg" in complaint


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("", 2, ["COMMAND", "--help"]),
        ("embed 1.png", 2, ["--out"]),
        ("embed 1.png --out a.txt", 2, ["a.txt", ".npy or .npz"]),
        ("embed 1.png --out no/a.npy", 2, ["no/a.npy", "no folder"]),
        ("embed 1.png --out folder.npy", 2, ["folder.npy", "cannot be written"]),
        ("embed 9.png --out a.npy", 2, ["9.png: No such file"]),
        ("embed 1.png bad.png --out a.npy", 2, ["bad.png: ", "Unknown format. [[{{node x}}]]"]),
        ("embed 1.png --out a.npy --batch-size 0", 2, ["batch_size is 0"]),
        ("embed 1.png --out a.npy --model other", 2, ["NOT_FOUND", "other"]),
        ("embed 1.png --out a.npy --version 9", 2, ["NOT_FOUND"]),
        ("embed 1.png --out a.npy --version x", 2, ["--version", "'x'"]),
        ("embed 1.png --out a.npy --version 3 --label y", 2, ["leave one out"]),
        ("embed 1.png --out a.npy --label y", 2, ["Unrecognized servable version label: y"]),
        ("embed 1.png --out a.npy --tls-ca no.pem", 2, ["tls_ca no.pem", "No such file"]),
        ("status --address localhost:1", 1, ["UNAVAILABLE", "localhost:1"]),
        ("status --model other", 2, ["NOT_FOUND"]),
        ("status --version 8 --wait 0.1", 1, ["not ready after 0.1 s"]),
        ("metadata --label y", 2, ["Unrecognized"]),
    ],
)
def test_errors_are_one_line(capsys, server, files, monkeypatch, arguments, code, words):
    monkeypatch.chdir(files[0].parent)
    files[0].with_name("bad.png").write_bytes(b"bad")
    files[0].with_name("folder.npy").mkdir()
    before = sorted(files[0].parent.iterdir())
    words_given = arguments.split()
    if words_given and "--address" not in words_given:
        words_given += ["--address", server.address]
    found, text, complaint = run(capsys, *words_given)
    assert found == code and not text
    assert complaint.startswith("error: ") and complaint.count("\n") == 1
    for word in words:
        assert word in complaint
    assert sorted(files[0].parent.iterdir()) == before


def test_shows_what_is_served(capsys, server):
    server.states = [(3, AVAILABLE, ""), (4, END, "no assets")]
    address = ("--address", server.address)
    assert run(capsys, "status", *address, "--wait", 5) == (
        0,
        "version 4 END: no assets\nversion 3 AVAILABLE\n",
        "",
    )
    code, text, _ = run(capsys, "metadata", *address)
    assert code == 0
    assert text.startswith("encoder version 3\nembed_bytes\n  in   image_bytes: string []\n")
    assert "serving_default\n  in   image: float32 [N, 12, 12, 3]\n" in text
    server.states = [(3, LOADING, "")]
    assert run(capsys, "status", *address)[:2] == (1, "version 3 LOADING\n")


@pytest.fixture
def default_sigint():
    """Python's own handler, also where this was started with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c(capsys, server, files, tmp_path, default_sigint, monkeypatch):
    release, begun_in = threading.Event(), []
    method = EmbeddingClient._method

    def noted(self, ask):
        begun_in.append(threading.current_thread())
        return method(self, ask)

    monkeypatch.setattr(EmbeddingClient, "_method", noted)

    def interrupt(count):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        release.wait(1)  # a signal that comes just before a wait is seen after it

    server.before = interrupt
    out = tmp_path / "a.npy"
    code, _, complaint = run(capsys, "embed", files[0], "--address", server.address, "--out", out)
    assert (code, complaint) == (130, "\nstopped\n")
    assert not out.exists()
    release.set()
    # Where the signal interrupts that in the main thread, the channel never closes.
    assert begun_in and threading.main_thread() not in begun_in


def test_says_how_far_it_is(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("serving.client.__main__.time.monotonic", lambda: now[0])
    progress = _Progress()
    for now[0], done in ((1, 100), (5, 500), (6, 600), (10, 2000)):
        progress(done, 20_000)
    assert capsys.readouterr().err == (
        "500/20,000  100.0 images/s  3:15 left\n2,000/20,000  200.0 images/s  1:30 left\n"
    )
