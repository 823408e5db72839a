"""Predict over gRPC, row by row: codes and texts."""

import concurrent.futures
import re

import grpc
import numpy as np
import pytest

from tests.conformance.prepare import LABELS, LARGEST_BATCH, MODEL, VERSIONS
from tests.conformance.rows import (
    LATENT,
    NAMED,
    ONE,
    SHAPE,
    Code,
    arrays,
    assert_text,
    images,
    png,
    refused,
    request,
    tensor,
)

pytestmark = pytest.mark.conformance

PREDICT_ROWS = {
    "no model spec": (request(None, image=ONE), Code.INVALID_ARGUMENT, "Missing ModelSpec"),
    "no name": (request("", image=ONE), Code.INVALID_ARGUMENT, "ModelSpec has no name specified."),
    "unknown model": (
        request('name: "nobody"', image=ONE),
        Code.NOT_FOUND, "Servable not found for request: Latest(nobody)",
    ),
    "unknown version": (
        request(NAMED + " version { value: 3 }", image=ONE),
        Code.NOT_FOUND, f"Servable not found for request: Specific({MODEL}, 3)",
    ),
    "version of an unknown model": (
        request('name: "nobody" version { value: 1 }', image=ONE),
        Code.NOT_FOUND, "Servable not found for request: Specific(nobody, 1)",
    ),
    "unknown label": (
        request(NAMED + ' version_label: "x"', image=ONE),
        Code.INVALID_ARGUMENT, "Unrecognized servable version label: x",
    ),
    "unknown signature": (
        request(NAMED + ' signature_name: "s"', image=ONE),
        Code.FAILED_PRECONDITION, 'Serving signature key "s" not found.',
    ),
    "too few inputs": (
        request(), Code.INVALID_ARGUMENT,
        "input size does not match signature: 0!=1 len({}) != len({image}). "
        "Sent extra: {}. Missing but required: {image}.",
    ),
    "too many inputs": (
        request(image=ONE, z=ONE), Code.INVALID_ARGUMENT,
        "input size does not match signature: 2!=1 len({image,z}) != len({image}). "
        "Sent extra: {z}. Missing but required: {}.",
    ),
    "wrong input name": (
        request(picture=ONE), Code.INVALID_ARGUMENT,
        re.compile(r"Signature input alias: image\(feed name: .*\) not found in request"),
    ),
    "content of another length": (
        request(image=tensor("dtype: DT_FLOAT tensor_shape { dim { size: 2 } } "
                             'tensor_content: "abcd"')),
        Code.INVALID_ARGUMENT, "tensor parsing error: image",
    ),
    "no dtype": (
        request(image=tensor("tensor_shape { dim { size: 1 } } float_val: 1")),
        Code.INVALID_ARGUMENT, "tensor parsing error: image",
    ),
    "wrong dtype": (request(image=np.zeros((1, *SHAPE), np.int32)), Code.INVALID_ARGUMENT, None),
    "float64": (request(image=np.zeros((1, *SHAPE))), Code.INVALID_ARGUMENT, None),
    "wrong channels": (request(image=images(1)[..., :1]), Code.INVALID_ARGUMENT, None),
    "wrong size": (request(image=images(1)[:, :20]), Code.INVALID_ARGUMENT, None),
    "no batch dimension": (request(image=images(1)[0]), Code.INVALID_ARGUMENT, None),
    "scalar": (request(image=np.float32(0)), Code.INVALID_ARGUMENT, None),
    "unknown output": (
        request(outputs=["x"], image=ONE), Code.INVALID_ARGUMENT,
        "output tensor alias not found in signature: x Outputs expected to be in the set "
        "{embedding,inconsistency,variance}.",
    ),
    "repeated output": (
        request(outputs=["variance", "variance"], image=ONE),
        Code.INVALID_ARGUMENT, "duplicate output tensor alias: variance",
    ),
    "more than a batch": (
        request(image=images(LARGEST_BATCH + 1)), Code.INVALID_ARGUMENT,
        f"Task size {LARGEST_BATCH + 1} is larger than maximum input batch size {LARGEST_BATCH}",
    ),
    # The graph's own words.
    "pixels above 1": (
        request(image=255 * ONE), Code.INVALID_ARGUMENT, re.compile(r".*finite numbers in \[0, 1\]")
    ),
    "pixels that are no numbers": (
        request(image=np.full((1, *SHAPE), np.nan, np.float32)),
        Code.INVALID_ARGUMENT, re.compile(r".*finite numbers in \[0, 1\].*\[2352\]"),
    ),
    "a radius below 0": (
        request(NAMED + ' signature_name: "certify"', image=ONE, epsilon=np.float32([-1])),
        Code.INVALID_ARGUMENT, re.compile(r".*numbers of at least 0, one an image.*\[-1\]"),
    ),
    "no image file": (
        request(NAMED + ' signature_name: "embed_bytes"', image_bytes=[b"%PDF-1.7"]),
        Code.INVALID_ARGUMENT, re.compile(r".*neither PNG nor JPEG"),
    ),
    "empty file": (
        request(NAMED + ' signature_name: "embed_bytes"', image_bytes=[b""]),
        Code.INVALID_ARGUMENT, re.compile(r".*neither PNG nor JPEG"),
    ),
    "bomb": (
        request(NAMED + ' signature_name: "embed_bytes"',
                image_bytes=[png()[0][:16] + b"\0\0\xff\xff" * 2 + png()[0][24:]]),
        Code.INVALID_ARGUMENT, re.compile(r".*at most 16777216 pixels.*\[65535 65535\]"),
    ),
    "damaged file": (
        request(NAMED + ' signature_name: "embed_bytes"', image_bytes=[png()[0][:200]]),
        Code.INVALID_ARGUMENT, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", PREDICT_ROWS)
def test_refused_predictions(target, row):
    asked, code, text = PREDICT_ROWS[row]
    found, details = refused(target.prediction.Predict, asked)
    assert found == code, details
    assert_text(details, text)
    # The server lives on.
    assert target.prediction.Predict(request(image=ONE)).outputs


def test_reply_names_model_signature_and_version(target):
    reply = target.prediction.Predict(request(image=ONE))
    assert reply.model_spec.name == MODEL
    assert reply.model_spec.signature_name == "serving_default"
    assert reply.model_spec.version.value == max(VERSIONS)  # the latest, unless one is asked for
    shapes = {name: array.shape for name, array in arrays(reply).items()}
    assert shapes == {"embedding": (1, LATENT), "variance": (1, LATENT), "inconsistency": (1,)}
    for version in VERSIONS:
        spec = f"{NAMED} version {{ value: {version} }}"
        reply = target.prediction.Predict(request(spec, image=ONE))
        assert reply.model_spec.version.value == version
    for label, version in LABELS.items():
        reply = target.prediction.Predict(request(f'{NAMED} version_label: "{label}"', image=ONE))
        assert reply.model_spec.version.value == version


def test_each_image_is_certified_within_its_own_radius(target):
    spec, radii = NAMED + ' signature_name: "certify"', np.float32([0, 0.01, 0.02])
    found = arrays(target.prediction.Predict(request(spec, image=images(3), epsilon=radii)))
    assert {array.shape for array in found.values()} == {(3, LATENT)}
    assert (found["lower"] <= found["embedding"]).all()
    assert (found["embedding"] <= found["upper"]).all()
    one = request(spec, image=images(3)[1:2], epsilon=radii[1:2])
    for name, value in arrays(target.prediction.Predict(one)).items():
        np.testing.assert_allclose(value, found[name][1:2], rtol=1e-4, atol=1e-5)


def test_output_filter(target):
    reply = target.prediction.Predict(request(outputs=["inconsistency"], image=images(3)))
    assert set(reply.outputs) == {"inconsistency"}
    everything = arrays(target.prediction.Predict(request(image=images(3))))
    np.testing.assert_allclose(
        arrays(reply)["inconsistency"], everything["inconsistency"], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_any_number_of_images_up_to_a_batch(target, count):
    found = arrays(target.prediction.Predict(request(image=images(8)[:count])))
    expected = arrays(target.prediction.Predict(request(image=images(8))))
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name][:count], rtol=1e-4, atol=2e-6)


def test_values_in_few_floats_fill_a_tensor(target):
    shape = " ".join(f"dim {{ size: {size} }}" for size in (1, *SHAPE))
    grey = tensor(f"dtype: DT_FLOAT tensor_shape {{ {shape} }} float_val: 0.5")
    found = arrays(target.prediction.Predict(request(image=grey)))
    expected = arrays(
        target.prediction.Predict(request(image=np.full((1, *SHAPE), 0.5, np.float32)))
    )
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_files_are_decoded_there(target):
    file, pixels = png()
    spec = NAMED + ' signature_name: "embed_bytes"'
    found = arrays(target.prediction.Predict(request(spec, image_bytes=[file])))
    expected = arrays(
        target.prediction.Predict(request(image=(pixels[None] / 255).astype(np.float32)))
    )
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=2e-6)


def test_queue_is_bounded(target):
    """More than the queue holds at once: some are refused, in these words; none waits for ever."""
    asked = request(image=images(LARGEST_BATCH))

    def ask(_):
        try:
            target.prediction.Predict(asked, timeout=60)
        except grpc.RpcError as error:
            return error.code(), error.details()
        return Code.OK, ""

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        found = list(pool.map(ask, range(512)))
    # Newer releases go on to say how full.
    full = "The batch scheduling queue to which this task was submitted is full"
    assert {(code, text[: len(full)]) for code, text in found} == {
        (Code.OK, ""), (Code.UNAVAILABLE, full),
    }  # fmt: skip
    assert target.prediction.Predict(request(image=ONE)).outputs


def test_malformed_protobuf(target):
    call = target.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff", timeout=60)
    assert caught.value.code() == Code.INTERNAL
    assert target.prediction.Predict(request(image=ONE)).outputs
