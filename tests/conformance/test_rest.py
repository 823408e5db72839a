"""The REST API, row by row: paths, forms, codes and texts."""

import base64
import json
import re
import urllib.parse

import numpy as np
import pytest

from tests.conformance.prepare import KINDS, MODEL, ODD_LABEL
from tests.conformance.rows import (
    LATENT,
    SHAPE,
    arrays,
    assert_text,
    images,
    png,
    request,
)

pytestmark = pytest.mark.conformance


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
    "POST without a path": ("POST", "/v1/foo", "{}", 400, "Malformed request: POST /v1/foo"),
    "POST without a model": ("POST", "/v1/models", "{}", 400, "Malformed request: POST /v1/models"),
    "a name of two parts": ("GET", "/v1/models/debug/name", None, 400,
                            "Malformed request: GET /v1/models/debug/name"),
    "a method by GET": ("GET", PREDICT, None, 400, f"Malformed request: GET {PREDICT}"),
    "version for versions": ("POST", f"/v1/models/{MODEL}/version/1:predict", "{}", 400,
                             f"Malformed request: POST /v1/models/{MODEL}/version/1:predict"),
    "label for labels": ("POST", f"/v1/models/{MODEL}/label/stable:predict", "{}", 400,
                         f"Malformed request: POST /v1/models/{MODEL}/label/stable:predict"),
    "a word for a version": ("POST", f"/v1/models/{MODEL}/versions/one:predict", "{}", 400,
                             f"Malformed request: POST /v1/models/{MODEL}/versions/one:predict"),
    "a negative version": ("GET", f"/v1/models/{MODEL}/versions/-1", None, 400,
                           f"Malformed request: GET /v1/models/{MODEL}/versions/-1"),
    "version and label": ("POST", f"/v1/models/{MODEL}/versions/1/labels/stable:predict", "{}", 400,
                          re.compile("Malformed request: POST ")),
    "metadata by POST": ("POST", f"/v1/models/{MODEL}/metadata", "{}", 400,
                         f"Malformed request: POST /v1/models/{MODEL}/metadata"),
    "metadata of no model": ("GET", "/v1/models/metadata/metadata", None, 404,
                             "Servable not found for request: Latest(metadata)"),
    "a version of 64 bits": ("POST", f"/v1/models/{MODEL}/versions/{2**64 - 1}:predict", "{}", 400,
                             f"Failed to convert version: {2**64 - 1} to numeric."),
    "just too much": ("GET", f"/v1/models/{MODEL}/versions/{2**63}", None, 400,
                      f"Failed to convert version: {2**63} to numeric."),
    "zeros before too much": ("GET", f"/v1/models/{MODEL}/versions/{2**63:029}", None, 400,
                              f"Failed to convert version: {2**63:029} to numeric."),
    "thousands of digits": ("GET", f"/v1/models/{MODEL}/versions/{'9' * 5000}", None, 400,
                            re.compile("Failed to convert version: 9+ to numeric.")),
    "a version before the body": ("POST", f"/v1/models/{MODEL}/versions/{2**63}:predict", "{", 400,
                                  re.compile("Failed to convert version")),
    "the largest version": ("GET", f"/v1/models/{MODEL}/versions/{2**63 - 1}", None, 404,
                            f"Could not find version {2**63 - 1} of model {MODEL}"),
    "predict an unknown version": ("POST", f"/v1/models/{MODEL}/versions/3:predict",
                                   '{"instances": [1]}', 404,
                                   f"Servable not found for request: Specific({MODEL}, 3)"),
    "metadata of an unknown version": ("GET", f"/v1/models/{MODEL}/versions/3/metadata", None, 404,
                                       f"Servable not found for request: Specific({MODEL}, 3)"),
    "metadata of an unknown label": ("GET", f"/v1/models/{MODEL}/labels/x/metadata", None, 400,
                                     "Unrecognized servable version label: x"),
    "an escaped name": ("GET", "/v1/models/a%21%23%24%25%26%27%28%29%2A%2B%2C%2F%3A%3B%3D%3F%40",
                        None, 404, "Could not find any versions of model a!#$%&'()*+,/:;=?@"),
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
    assert_text(error, text)


def test_rest_paths_do_not_mind_case_and_escapes(target):
    for path in (f"/V1/MODELS/{MODEL}", "/v1/models/%65ncoder"):
        status, body = target.http(path)
        assert status == 200 and "AVAILABLE" in body


def test_labels_and_versions_are_read_from_the_path(target):
    """Escaped, and with zeros before them; a status has all versions whatever the label."""
    label = urllib.parse.quote(ODD_LABEL, safe="")
    status, body = target.http(f"/v1/models/{MODEL}/labels/{label}/metadata")
    assert status == 200 and json.loads(body)["model_spec"]["version"] == "1"
    status, body = target.http(f"/v1/models/{MODEL}/versions/{'0' * 30}2/metadata")
    assert status == 200 and json.loads(body)["model_spec"]["version"] == "2"
    status, body = target.http(f"/v1/models/{KINDS}")  # its folder is 00000123
    assert status == 200
    assert json.loads(body) == {
        "model_version_status": [
            {
                "version": "123",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }
