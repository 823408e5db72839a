"""What goes wrong: servers that fail, options and replies that make no sense, TLS."""

import json
import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf

from serving.client import (
    BadReply,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    ServingError,
    Unavailable,
)
from serving.client.base import _channel_options
from tests.certificates import make_certificates
from tests.client.predictable import AVAILABLE, END, Server, assert_all, images

QUEUE_FULL = "The batch scheduling queue to which this task was submitted is full"


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
    """Whose number is the client's own; the waits between them are a tenth here."""
    config = json.loads(_channel_options(0)["grpc.service_config"])
    for wait in ("initialBackoff", "maxBackoff"):
        policy = config["methodConfig"][0]["retryPolicy"]
        policy[wait] = f"{float(policy[wait].removesuffix('s')) / 10}s"
    sooner = [("grpc.service_config", json.dumps(config))]
    server.failures = [(code, QUEUE_FULL)] * 9
    with pytest.raises(Unavailable, match=QUEUE_FULL):
        connect(server, channel_options=sooner).embed(images(1))
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


@pytest.mark.parametrize(
    ("options", "told", "words"),
    [
        ({"version": 9}, None, "of 'encoder' there is: version 4 END: no assets; version 3 AVAIL"),
        ({"version": 9}, b'["encoder"]', "its models: encoder; of 'encoder' there is: version 4"),
        ({"model": "x"}, b'["a", "encoder"]', "its models: a, encoder; is 'x' the model's name on"),
        ({"model": "x"}, b"[]", "its models: none yet"),
        # As TensorFlow Serving, which tells nothing, or as a server that tells nonsense.
        (
            {"model": "x"},
            None,
            "Specific(x, 3); is 'x' the model's name on the server, in its --mo",
        ),
        ({"model": "x"}, b"\xff", "Specific(x, 3); is 'x'"),
        ({"model": "x"}, b"[" * 100_000, "Specific(x, 3); is 'x'"),
        ({"model": "x"}, b"7", "Specific(x, 3); is 'x'"),
    ],
)
def test_what_is_not_found_names_what_there_is(connect, server, options, told, words):
    server.states = [(3, AVAILABLE, ""), (4, END, "no assets")]
    server.told = () if told is None else (("served-models-bin", told[:4000]),)
    client = connect(server, **options)
    for ask in (lambda: client.embed(images(1)), client.metadata, client.status):
        with pytest.raises(NotFound) as found:
            ask()
        assert words in str(found.value) and "\n" not in str(found.value)
        assert found.value.code is grpc.StatusCode.NOT_FOUND
        assert found.value.details.startswith("Servable not found for request: Specific(")


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
        (lambda r: r.outputs.pop("embedding"), "no output 'embedding'; it has: inconsistency, "),
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


def test_an_encoder_without_a_decoder_gives_fewer_outputs(connect, server):
    def edit(reply):
        for name in ("variance", "inconsistency"):
            reply.outputs.pop(name)

    whole = connect(server).embed(images(5))
    server.edit = edit
    found = connect(server, batch_size=2).embed(images(5))
    assert found.variance is None and found.inconsistency is None
    np.testing.assert_array_equal(found.embedding, whole.embedding)


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
