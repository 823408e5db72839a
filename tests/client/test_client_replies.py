"""Replies of every kind make sense, or are a BadReply before they take memory."""

import concurrent.futures
import time
import tracemalloc

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import predict_pb2

from serving import protocol
from serving.client import BadReply, messages, plans, tensors
from tests.client.predictable import images

MOST = 64 << 20  # bytes, as by default


@pytest.fixture
def says(connect):
    """Both clients, each before a server that answers everything with the same bytes."""
    servers = []

    def answer(content, **options):
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))

        class Handler(grpc.GenericRpcHandler):
            def service(self, details):
                return grpc.unary_unary_rpc_method_handler(lambda request, context: content)

        server.add_generic_rpc_handlers((Handler(),))
        port = server.add_insecure_port("localhost:0")
        server.start()
        servers.append(server)
        return connect(f"localhost:{port}", **options)

    yield answer
    for server in servers:
        server.stop(0).wait(10)


def predicted(shape, version=3, name="encoder", variance=(1, 4), **fields):
    """A reply to one image whose embedding is said to have a shape; the rest is right unless
    given."""
    reply = predict_pb2.PredictResponse()
    reply.model_spec.name, reply.model_spec.version.value = name, version
    for output, sides in (("embedding", shape), ("variance", variance), ("inconsistency", [1])):
        tensor = reply.outputs[output]
        tensor.dtype = 1
        for side in sides:
            tensor.tensor_shape.dim.add(size=side)
        tensor.float_val.append(0.5)
    for field, value in fields.items():
        getattr(reply.outputs["embedding"], field).extend(value)
    return reply.SerializeToString()


ASKED = {
    "embed": lambda client: client.embed(images(1)),
    "embed_bytes": lambda client: client.embed_bytes([b"x"]),
    "classify": lambda client: client.classify(images(1)),
    "decode": lambda client: client.decode(np.zeros((1, 4), np.float32)),
    "status": lambda client: client.status(),
    "metadata": lambda client: client.metadata(),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_is_no_message_is_a_bad_reply(says, name):
    with pytest.raises(BadReply, match="no message of TensorFlow Serving's") as found:
        ASKED[name](says(b"\xff\xff<html>"))
    assert found.value.code is None


@pytest.mark.parametrize(
    "shape",
    [
        [1, 0, 2**63 - 1], [1, 2**33], [1, 2**26], [2**62, 2**62], [1] * 100, [1, 0], [0, 4],
        [1, -1], [], [1], [1, 2**62], [2, 4], [1, 2**24 + 1],
    ],
    ids=str,
)  # fmt: skip
def test_shapes_that_cannot_be_are_refused_before_memory_is_taken(says, shape):
    client, start = says(predicted(shape)), time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(BadReply):
            client.embed(images(1))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < 30


def test_a_reply_may_be_as_large_as_a_message_and_no_larger(says):
    """Whatever its outputs are; what is left out of it counts."""
    content = predicted([1, 200_000])
    with pytest.raises(BadReply, match="variances"):
        says(content, max_message_mb=1).embed(images(1))  # 0.8 MB: read, and then of another shape
    with pytest.raises(BadReply, match=r"at most 1,048,576 bytes .* larger max_message_mb"):
        says(predicted([1, 300_000]), max_message_mb=1).embed(images(1))
    # The embeddings alone fill it; what is named is the limit, not what is left of it.
    words = r"\[1, 262144\], beside 1,048,576 bytes of others; at most 1,048,576 bytes of a reply"
    with pytest.raises(BadReply, match=words):
        says(predicted([1, 2**18], variance=[1, 2**18]), max_message_mb=1).embed(images(1))


@pytest.mark.parametrize(
    ("options", "reply", "words"),
    [
        ({"version": 7}, {"version": 99}, "of version 99; version 7 was asked for"),
        ({}, {"name": "other"}, "of the model 'other'; 'encoder' was asked for"),
    ],
)
def test_a_reply_of_another_version_or_model(says, options, reply, words):
    with pytest.raises(BadReply, match=words):
        says(predicted([1, 4], **reply), **options).embed(images(1))


def test_a_classifier_may_give_its_certified_radius():
    reply = protocol.PredictResponse()
    reply.model_spec.version.value = 3
    for name in ("logits", "probabilities", "embedding"):
        tensors.write(reply.outputs[name], np.eye(2))
    tensors.write(reply.outputs["certified_radius"], np.array([0, 0.5]))
    found = messages.join([messages.classifications(reply, 2, MOST)] * 2)
    np.testing.assert_array_equal(found.certified_radius, [0, 0.5, 0, 0.5])
    del reply.outputs["certified_radius"]
    assert messages.classifications(reply, 2, MOST).certified_radius is None
    tensors.write(reply.outputs["certified_radius"], np.eye(2))
    with pytest.raises(BadReply, match="'certified_radius' is float32"):
        messages.classifications(reply, 2, MOST)


def test_a_status_of_another_version(says):
    reply = protocol.GetModelStatusResponse()
    reply.model_version_status.add(version=99, state=30)
    client = says(reply.SerializeToString(), version=7)
    for ask in (client.status, client.wait_until_ready):
        with pytest.raises(BadReply, match="of version 99; version 7 was"):
            ask()


def test_signatures_that_are_damaged(says):
    reply = protocol.GetModelMetadataResponse()
    reply.model_spec.version.value = 3
    packed = reply.metadata["signature_def"]
    packed.type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    packed.value = b"\xff\xff"
    with pytest.raises(BadReply, match="signatures are damaged"):
        says(reply.SerializeToString()).metadata()


def test_parts_that_do_not_go_together(connect, server):
    """Replies to one call whose embeddings have other numbers of dimensions."""
    server.edit = lambda reply: [
        reply.outputs[name].tensor_shape.dim[1].__setattr__("size", 2 + len(server.asked))
        for name in ("embedding", "variance")
    ]
    client = connect(server, batch_size=1, concurrency=1)
    server.compact = True
    with pytest.raises(BadReply, match="differ in the shape of 'embedding'"):
        client.embed(images(3))


sides = st.one_of(st.integers(-2, 5), st.sampled_from([2**24, 2**31, 2**33, 2**62, 2**63 - 1]))


@settings(max_examples=200)
@given(
    shapes=st.lists(st.lists(sides, max_size=12), min_size=3, max_size=3),
    dtype=st.integers(0, 24),
    content=st.binary(max_size=40),
    floats=st.lists(st.floats(width=32), max_size=6),
    unknown=st.booleans(),
)
def test_any_reply_is_read_or_bad(shapes, dtype, content, floats, unknown):
    reply = protocol.PredictResponse()
    reply.model_spec.version.value = 3
    for name, shape in zip(("embedding", "variance", "inconsistency"), shapes, strict=True):
        tensor = reply.outputs[name]
        tensor.dtype, tensor.tensor_content = dtype, content
        tensor.float_val.extend(floats)
        tensor.tensor_shape.unknown_rank = unknown
        for side in shape:
            tensor.tensor_shape.dim.add(size=side)
        try:
            array = tensors.to_array(tensor, MOST)
        except BadReply:
            continue
        assert array.shape == tuple(shape) and array.nbytes <= MOST
    try:
        found = messages.embeddings(reply, 3, MOST)
    except BadReply:
        return
    assert found.embedding.shape == found.variance.shape == (3, shapes[0][1])
    assert found.inconsistency.shape == (3,)


@settings(max_examples=300)
@given(content=st.binary(max_size=200), at=st.integers(0, 400), damage=st.binary(max_size=8))
def test_any_bytes_are_read_or_bad(content, at, damage):
    """Arbitrary bytes, and a good reply with some of its bytes changed."""
    target = plans.Target(messages.model_spec("encoder", None, None), 64, MOST)
    good = predicted([1, 4])
    for found in (content, good[:at] + damage + good[at + len(damage) :]):
        for plan in (
            plans.of_images(target, plans.EMBED, images(1)),
            plans.of_images(target, plans.CLASSIFY, images(1)),
            plans.of_images(target, plans.CERTIFY, images(1), 0.1),
            plans.decode(target, np.zeros((1, 4), np.float32)),
            plans.status(target),
            plans.metadata(target),
        ):
            step, _ = plans.advance(plan)
            (ask,) = step.asks
            try:
                step.take(0, ask, found)
            except BadReply:
                continue
