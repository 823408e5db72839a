"""Boxes of embeddings over real sockets."""

import grpc
import numpy as np
import pytest

from serving.client import BadReply, InvalidRequest
from tests.client.predictable import images


def assert_boxes(found, corners, radii):
    assert len(found) == len(corners) and found.version == 3
    np.testing.assert_array_equal(found.embedding[:, 0], np.asarray(corners, np.float32))
    reach = np.asarray(radii, np.float32).reshape(-1, 1)
    np.testing.assert_array_equal(found.lower, found.embedding - reach)
    np.testing.assert_array_equal(found.upper, found.embedding + reach)


def test_certifies_images_within_one_radius_or_each_within_its_own(connect, server, files):
    client = connect(server, batch_size=3, concurrency=2)
    assert_boxes(client.certify(images(8), 0.125), np.arange(8) / 128, 0.125)
    radii = np.arange(8) / 8
    assert_boxes(client.certify(images(8), radii), np.arange(8) / 128, radii)
    assert (
        sorted(len(r.inputs["epsilon"].tensor_content) // 4 for r in server.asked)
        == [2, 2] + [3] * 4
    )
    assert_boxes(client.certify_bytes([b"x", b"xyz"], [0, 1]), [1, 3], [0, 1])
    done = []
    found = client.certify_files(files, 0.5, lambda *so_far: done.append(so_far))
    assert_boxes(found, range(1, 8), 0.5)
    assert done[-1] == (7, 7)
    assert {r.model_spec.signature_name for r in server.asked} == {"certify", "certify_bytes"}
    files[2].write_bytes(b"bad")
    with pytest.raises(InvalidRequest, match=r"3\.png: .*Unknown format"):
        client.certify_files(files, 0.5)


def test_a_radius_that_float32_rounds_down_is_sent_rounded_up(connect, server):
    asked = np.random.default_rng(0).uniform(size=50)
    found = connect(server).certify(images(50), asked)
    sent = found.upper[:, 2].astype(np.float64)
    assert (sent >= asked).all() and (sent < asked + 1e-7).all()
    assert (asked.astype(np.float32) < asked).any()


@pytest.mark.parametrize(
    ("epsilon", "words"),
    [
        (-0.1, r"epsilon is -0.1; it must be a finite number of at least 0"),
        ([0.1, np.nan], "epsilon is nan"),
        (np.inf, "epsilon is inf"),
        (1e39, r"epsilon is 1e\+39"),
        ([0.1] * 3, r"of shape \[3\]; give a number, or one for each of the 2 images"),
        ([[0.1], [0.1]], r"of shape \[2, 1\]"),
        ([[0.1], 0.1], "epsilon is object"),
        ("much", "epsilon is <U4"),
        (None, "epsilon is object"),
    ],
)
def test_radii_that_cannot_be_sent_are_refused_here(connect, server, epsilon, words):
    with pytest.raises(InvalidRequest, match=words) as found:
        connect(server).certify(images(2), epsilon)
    assert found.value.code is None and not server.asked


def test_a_model_without_certificates_is_named_with_the_remedy(connect, server, files):
    server.certifies = False
    client = connect(server)
    for ask in (lambda: client.certify(images(2), 0.1), lambda: client.certify_files(files, 0.1)):
        with pytest.raises(InvalidRequest, match=r"not found\.; .*python -m serving\.exp") as found:
            ask()
        assert found.value.code is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("value", [np.nan, 100.0])
def test_boxes_that_do_not_hold_their_embeddings_are_bad(connect, server, value):
    server.compact = False

    def edit(reply):
        tensor = reply.outputs["lower"]
        lower = np.frombuffer(tensor.tensor_content, "<f4").copy()
        lower[1] = value
        tensor.tensor_content = lower.tobytes()

    server.edit = edit
    with pytest.raises(BadReply, match="1 of 2 boxes do not hold the embedding"):
        connect(server).certify(images(2), 0.1)
