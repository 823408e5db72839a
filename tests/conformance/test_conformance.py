"""TensorFlow Serving's answers, row by row: codes and texts."""

import base64
import concurrent.futures
import json
import re

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)

from tests.conformance.prepare import LABELS, LARGEST_BATCH, MODEL, VERSIONS

pytestmark = pytest.mark.conformance

Code = grpc.StatusCode
SHAPE, LATENT = (28, 28, 3), 8


def images(count, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, *SHAPE)).astype(np.float32)


def png(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, SHAPE).astype(np.uint8)
    return tf.io.encode_png(pixels).numpy(), pixels


def request(spec=f'name: "{MODEL}"', outputs=(), **inputs):
    """A PredictRequest; its model spec in text format, None: without."""
    made = predict_pb2.PredictRequest(output_filter=outputs)
    if spec is not None:
        made.model_spec.SetInParent()
        text_format.Parse(spec, made.model_spec)
    for name, value in inputs.items():
        is_proto = isinstance(value, tensor_pb2.TensorProto)
        made.inputs[name].CopyFrom(value if is_proto else tf.make_tensor_proto(value))
    return made


def tensor(text):
    return text_format.Parse(text, tensor_pb2.TensorProto())


def refused(call, asked):
    with pytest.raises(grpc.RpcError) as caught:
        call(asked, timeout=60)
    return caught.value.code(), caught.value.details()


NAMED = f'name: "{MODEL}"'
ONE = images(1)
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
    "no image file": (
        request(NAMED + ' signature_name: "embed_bytes"', image_bytes=[b"GIF89a"]),
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
    if isinstance(text, str):
        assert details == text
    elif text is not None:
        assert text.match(details), details
    # The server lives on.
    assert target.prediction.Predict(request(image=ONE)).outputs


def arrays(reply):
    return {name: tf.make_ndarray(value) for name, value in reply.outputs.items()}


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


def test_rest_and_grpc_agree(target):
    x = images(8)
    expected = arrays(target.prediction.Predict(request(image=x)))
    path = f"/v1/models/{MODEL}:predict"
    status, body = target.http(path, json.dumps({"inputs": x.tolist()}))
    assert status == 200, body
    for name, column in json.loads(body)["outputs"].items():
        np.testing.assert_allclose(column, expected[name], rtol=1e-6, atol=1e-6)
    rows = [{"image": image.tolist()} for image in x]
    for instances in (x.tolist(), rows):
        status, body = target.http(path, json.dumps({"instances": instances}))
        assert status == 200, body
        for name in expected:
            row = [prediction[name] for prediction in json.loads(body)["predictions"]]
            np.testing.assert_allclose(row, expected[name], rtol=1e-6, atol=1e-6)


def test_a_single_output_loses_its_name(target):
    z = np.zeros((2, LATENT)).tolist()
    path = f"/v1/models/{MODEL}/versions/1:predict"
    for form, reply in (("instances", "predictions"), ("inputs", "outputs")):
        status, body = target.http(path, json.dumps({"signature_name": "decode", form: z}))
        assert status == 200, body
        assert np.shape(json.loads(body)[reply]) == (2, *SHAPE)


def test_rest_takes_files_in_base64(target):
    file, _ = png()
    value = {"b64": base64.b64encode(file).decode()}
    found = []
    for instances in ([value, value], [{"image_bytes": value}] * 2):
        body = json.dumps({"signature_name": "embed_bytes", "instances": instances})
        status, reply = target.http(f"/v1/models/{MODEL}/labels/stable:predict", body)
        assert status == 200, reply
        found.append(json.loads(reply)["predictions"])
    assert found[0] == found[1] and len(found[0]) == 2


PREDICT = f"/v1/models/{MODEL}:predict"
NO_FILE = json.dumps({"signature_name": "embed_bytes", "instances": [{"b64": "AAAA"}]})
REST_ROWS = {
    "a query": ("POST", PREDICT + "?x=1", "{}", 400, f"Malformed request: POST {PREDICT}?x=1"),
    "no such path": ("GET", "/v1/p", None, 400, "Malformed request: GET /v1/p"),
    "no method": ("POST", f"/v1/models/{MODEL}", "{}", 400,
                  f"Malformed request: POST /v1/models/{MODEL}"),
    "another verb": ("PUT", PREDICT, "{}", 400, f"Malformed request: PUT {PREDICT}"),
    "no model": ("GET", "/v1/models", None, 400, "Missing model name in request."),
    "unknown model": ("GET", "/v1/models/nobody", None, 404,
                      "Could not find any versions of model nobody"),
    "unknown version": ("GET", f"/v1/models/{MODEL}/versions/3", None, 404,
                        f"Could not find version 3 of model {MODEL}"),
    "no key": ("POST", PREDICT, "{}", 400, "Missing 'inputs' or 'instances' key"),
    "empty body": ("POST", PREDICT, "", 400, "JSON Parse error: The document is empty"),
    "no JSON": ("POST", PREDICT, "{", 400, re.compile("JSON Parse error: ")),
    "deep JSON": ("POST", PREDICT, '{"instances": ' + "[" * 100_000, 400,
                  re.compile("JSON Parse error: ")),
    "a list": ("POST", PREDICT, "[1]", 400, re.compile(r"JSON Value: \[1\] Is not object")),
    "no instances": ("POST", PREDICT, '{"instances": []}', 400,
                     re.compile("JSON Value: .*No values in 'instances' array", re.S)),
    "both forms": ("POST", PREDICT, '{"instances": [1], "inputs": [1]}', 400,
                   re.compile("JSON Value: .*expecting only one of 'inputs' or 'instances'", re.S)),
    "signature no name": ("POST", PREDICT, '{"signature_name": 1, "instances": [1]}', 400,
                          re.compile(".*'signature_name' key must be a string value", re.S)),
    "unknown signature": ("POST", PREDICT, '{"signature_name": "s", "instances": [1]}', 400,
                          'Serving signature name: "s" not found in signature def'),
    "unknown name": ("POST", PREDICT, '{"instances": [{"picture": 1}]}', 400,
                     re.compile(".*JSON object: does not have named input: picture")),
    "words for numbers": ("POST", PREDICT, '{"instances": ["a"]}', 400,
                          re.compile('.*Value: "a" Type: String is not of expected type: float')),
    "truth for a number": ("POST", PREDICT, '{"instances": [[true, 1]]}', 400,
                           re.compile(".*Value: true Type: True is not of expected type: float")),
    "ragged": ("POST", PREDICT, '{"inputs": [[1, 2], [1]]}', 400,
               "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    "missing column": ("POST", PREDICT, '{"inputs": {"picture": [1]}}', 400,
                       "Missing named input: image in 'inputs' object."),
    "wrong shape": ("POST", PREDICT, '{"instances": [[1, 2], [1, 2]]}', 400, None),
    "not base64": ("POST", PREDICT, NO_FILE.replace("AAAA", "%"), 400,
                   re.compile(".*Unable to base64 decode")),
    "no image file": ("POST", PREDICT, NO_FILE, 400, re.compile(".*neither PNG nor JPEG")),
    "predict unknown": ("POST", "/v1/models/nobody:predict", '{"instances": [1]}', 404,
                        "Servable not found for request: Latest(nobody)"),
    "predict unknown label": ("POST", f"/v1/models/{MODEL}/labels/x:predict", '{"instances": [1]}',
                              400, "Unrecognized servable version label: x"),
    "metadata unknown": ("GET", "/v1/models/nobody/metadata", None, 404,
                         "Servable not found for request: Latest(nobody)"),
}  # fmt: skip


@pytest.mark.parametrize("row", REST_ROWS)
def test_refused_rest_calls(target, row):
    method, path, body, code, text = REST_ROWS[row]
    status, reply = target.http(path, body, method)
    assert status == code, reply
    error = json.loads(reply)["error"]
    if isinstance(text, str):
        assert error == text
    elif text is not None:
        assert text.match(error), error


def test_rest_paths_do_not_mind_case_and_escapes(target):
    for path in (f"/V1/MODELS/{MODEL}", "/v1/models/%65ncoder"):
        status, body = target.http(path)
        assert status == 200 and "AVAILABLE" in body


def status_of(target, spec):
    asked = get_model_status_pb2.GetModelStatusRequest()
    text_format.Parse(spec, asked.model_spec)
    return target.models.GetModelStatus(asked)


def test_status(target):
    found = status_of(target, NAMED).model_version_status
    assert {s.version: s.state for s in found} == dict.fromkeys(VERSIONS, 30)
    assert all(s.status.error_code == 0 for s in found)
    # Labels do not count.
    assert status_of(target, NAMED + ' version_label: "stable"').model_version_status == found
    only = status_of(target, NAMED + " version { value: 1 }").model_version_status
    assert [s.version for s in only] == [1]
    status, body = target.http(f"/v1/models/{MODEL}/labels/stable")
    rest = json.loads(body)["model_version_status"]
    assert status == 200 and [s["version"] for s in rest] == [str(s.version) for s in found]
    assert rest[0]["state"] == "AVAILABLE"
    assert rest[0]["status"] == {"error_code": "OK", "error_message": ""}


@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        ('name: "nobody"', Code.NOT_FOUND, "Could not find any versions of model nobody"),
        (NAMED + " version { value: 3 }", Code.NOT_FOUND,
         f"Could not find version 3 of model {MODEL}"),
    ],
)  # fmt: skip
def test_status_of_what_is_not_there(target, spec, code, text):
    asked = get_model_status_pb2.GetModelStatusRequest()
    text_format.Parse(spec, asked.model_spec)
    assert refused(target.models.GetModelStatus, asked) == (code, text)
    assert refused(target.models.GetModelStatus, get_model_status_pb2.GetModelStatusRequest()) == (
        Code.INVALID_ARGUMENT,
        "Missing ModelSpec",
    )


def test_metadata(target):
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = MODEL
    reply = target.prediction.GetModelMetadata(asked)
    assert reply.model_spec.version.value == max(VERSIONS)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert reply.metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "embed_bytes", "decode"} <= set(signatures.signature_def)
    image = signatures.signature_def["serving_default"].inputs["image"]
    assert image.dtype == tf.float32.as_datatype_enum
    assert [d.size for d in image.tensor_shape.dim] == [-1, *SHAPE]
    for path in (f"/v1/models/{MODEL}/metadata", f"/v1/models/{MODEL}/labels/canary/metadata"):
        status, body = target.http(path)
        rest = json.loads(body)
        assert status == 200 and rest["model_spec"]["version"] == "2"
        inputs = rest["metadata"]["signature_def"]["signature_def"]["embed_bytes"]["inputs"]
        assert inputs["image_bytes"]["dtype"] == "DT_STRING"


@pytest.mark.parametrize(
    ("text", "code", "details"),
    [
        (f"model_spec {{ {NAMED} }}", Code.INVALID_ARGUMENT,
         "GetModelMetadataRequest must specify at least one metadata_field"),
        (f'model_spec {{ {NAMED} }} metadata_field: "x"', Code.INVALID_ARGUMENT,
         "Metadata field x is not supported"),
        ('metadata_field: "signature_def"', Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        ('model_spec { name: "nobody" } metadata_field: "signature_def"', Code.NOT_FOUND,
         "Servable not found for request: Latest(nobody)"),
    ],
)  # fmt: skip
def test_refused_metadata(target, text, code, details):
    asked = text_format.Parse(text, get_model_metadata_pb2.GetModelMetadataRequest())
    assert refused(target.prediction.GetModelMetadata, asked) == (code, details)


def test_reload_takes_only_a_list(target):
    asked = model_management_pb2.ReloadConfigRequest()
    assert refused(target.models.HandleReloadConfigRequest, asked) == (
        Code.INVALID_ARGUMENT,
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList "
        "is currently supported",
    )
    asked.config.model_config_list.config.add(name="a", base_path="/a", model_platform="tensorflow")
    asked.config.model_config_list.config.add(name="a", base_path="/a", model_platform="tensorflow")
    assert refused(target.models.HandleReloadConfigRequest, asked) == (
        Code.INVALID_ARGUMENT, "Illegal to list model a multiple times in config list"
    )  # fmt: skip
    assert len(status_of(target, NAMED).model_version_status) == len(VERSIONS)


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


def test_metrics(target):
    target.prediction.Predict(request(image=ONE))
    refused(target.prediction.Predict, request('name: "nobody"', image=ONE))
    status, page = target.http("/monitoring/prometheus/metrics")
    assert status == 200
    assert "# TYPE :tensorflow:serving:request_count counter" in page
    counts = re.findall(r"^:tensorflow:serving:request_count\{(.*)\} ([\d.]+)$", page, re.M)
    known = {labels: float(count) for labels, count in counts}
    assert known[f'model_name="{MODEL}",status="OK"'] >= 1
    assert known['model_name="nobody",status="NOT_FOUND"'] >= 1
    for name in ("request_latency", "runtime_latency"):
        assert f"# TYPE :tensorflow:serving:{name} histogram" in page
        samples = re.findall(rf"^:tensorflow:serving:{name}_bucket\{{(.*)\}}", page, re.M)
        assert any(f'model_name="{MODEL}"' in labels for labels in samples)
    assert ":tensorflow:serving:batching_session:queuing_latency_count" in page
