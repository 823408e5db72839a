"""Status, metadata, reload and metrics."""

import json
import re

import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
)

from tests.conformance.prepare import KINDS, MODEL, VERSIONS
from tests.conformance.rows import NAMED, ONE, SHAPE, Code, refused, request
from tf_avae.saved.contract import CERTIFY_SIGNATURES, SIGNATURES

pytestmark = pytest.mark.conformance


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
    assert {*SIGNATURES, *CERTIFY_SIGNATURES} <= set(signatures.signature_def)
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


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ('name: "new" base_path: "new" model_platform: "torch"',
         "Expected model new to have an absolute path or URI; got base_path()=new"),
        ('name: "new" base_path: "" model_platform: "tensorflow"',
         "Expected model new to have an absolute path or URI; got base_path()="),
    ],
)  # fmt: skip
def test_configs_with_relative_paths(target, config, text):
    """They are refused before anything of them counts."""
    asked = model_management_pb2.ReloadConfigRequest()
    for name in (MODEL, KINDS):
        asked.config.model_config_list.config.add(
            name=name, base_path=f"/{name}", model_platform="tensorflow"
        )
    text_format.Parse(config, asked.config.model_config_list.config.add())
    found = refused(target.models.HandleReloadConfigRequest, asked)
    assert found == (Code.INVALID_ARGUMENT, text)
    assert len(status_of(target, NAMED).model_version_status) == len(VERSIONS)


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


def test_metrics(target):
    target.prediction.Predict(request(image=ONE))
    refused(target.prediction.Predict, request('name: "nobody"', image=ONE))
    status, page = target.http("/monitoring/prometheus/metrics")
    assert status == 200
    assert "# TYPE :tensorflow:serving:request_count counter" in page
    counts = re.findall(r"^:tensorflow:serving:request_count\{(.*)\} ([\d.]+)$", page, re.M)
    known = {labels: float(count) for labels, count in counts}
    assert known[f'model_name="{MODEL}",status="OK"'] >= 1
    # Under that name or, where nobody's names are kept, under none.
    assert sum(n for labels, n in known.items() if labels.endswith('status="NOT_FOUND"')) >= 1
    for name in ("request_latency", "runtime_latency"):
        assert f"# TYPE :tensorflow:serving:{name} histogram" in page
        samples = re.findall(rf"^:tensorflow:serving:{name}_bucket\{{(.*)\}}", page, re.M)
        assert any(f'model_name="{MODEL}"' in labels for labels in samples)
    assert ":tensorflow:serving:batching_session:queuing_latency_count" in page
