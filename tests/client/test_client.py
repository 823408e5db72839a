"""The client against a server of the official classes, over real sockets: what it embeds."""

import time

import grpc
import numpy as np
import pytest

from serving.client import InvalidRequest, NotFound, ServingError, VersionChanged, plans
from tests.client.predictable import assert_all, images

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
