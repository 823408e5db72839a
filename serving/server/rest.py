"""The REST API: TensorFlow Serving's paths, codes and texts, and the metrics' page."""

import asyncio
import json
import re
from urllib.parse import unquote

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from serving.server import json_tensors, metrics, tensors
from serving.server.core import Core, recorded
from serving.server.status import HTTP, Code, StatusError, invalid

_VERSION = r"(?:(?:/versions/(?P<version>\d+))|(?:/labels/(?P<label>[^/:]+)))?"
_POST = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<method>classify|regress|predict)", re.IGNORECASE
)
_GET = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?P<metadata>/metadata)?", re.I)
_LARGEST_VERSION = 2**63 - 1
_LARGEST_BODY = 2**31 - 1
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


def application(
    core: Core, *, timeout: float, metrics_path: str | None, cors: bool
) -> web.Application:
    """The server's HTTP side.

    Args:
        core: answers.
        timeout: seconds for a request.
        metrics_path: of the metrics' page; None: there is none.
        cors: whether other sites' scripts may ask (`--rest_api_enable_cors_support`).
    """

    async def answer(request: web.Request) -> web.Response:
        path = request.rel_url.raw_path
        if metrics_path and path == metrics_path:
            return web.Response(body=metrics.page(), content_type="text/plain")
        if not path.lower().startswith("/v1/"):
            return web.Response(status=404, text="Not Found")
        try:
            if request.method == "OPTIONS":
                if not re.match("https?://", request.headers.get("Origin", "")):
                    raise StatusError(
                        Code.FAILED_PRECONDITION, "Origin header is missing in CORS preflight"
                    )
                text = ""
            else:
                async with asyncio.timeout(timeout):
                    text = await _process(core, request, path)
            status = 200
        except TimeoutError:
            status, text = HTTP[Code.DEADLINE_EXCEEDED], _error("Run() timeout exceeded")
        except StatusError as error:
            status, text = HTTP.get(error.code, 500), _error(error.message)
        return web.Response(
            status=status,
            text=text,
            content_type="application/json",
            headers=_CORS if cors else None,
        )

    made = web.Application(client_max_size=_LARGEST_BODY)
    made.router.add_route("*", "/{path:.*}", answer)
    return made


async def _process(core: Core, request: web.Request, path: str) -> str:
    pattern = {"POST": _POST, "GET": _GET}.get(request.method)
    match = pattern.fullmatch(path) if pattern else None
    name = unquote(match["name"] or "") if match else ""
    method = match["method"].lower() if match and request.method == "POST" else ""
    return await recorded(name, method, "REST", _answer(core, request, path, match))


async def _answer(core: Core, request: web.Request, path: str, match: re.Match | None) -> str:
    if match is None:
        raise invalid(f"Malformed request: {request.method} {path}")
    spec = _spec(match)
    if request.method == "POST":
        return await _predict(core, spec, match["method"].lower(), await request.read())
    if not spec.name:
        raise invalid("Missing model name in request.")
    if match["metadata"]:
        return _metadata(core, spec)
    return _json(core.status(get_model_status_pb2.GetModelStatusRequest(model_spec=spec)))


def _spec(match: re.Match) -> model_pb2.ModelSpec:
    """What a path names."""
    spec = model_pb2.ModelSpec(name=unquote(match["name"] or ""))
    if match["version"]:
        if int(match["version"][:20]) > _LARGEST_VERSION:
            raise invalid(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(match["version"])
    if match["label"]:
        spec.version_label = unquote(match["label"])
    return spec


async def _predict(core: Core, spec: model_pb2.ModelSpec, method: str, body: bytes) -> str:
    if method != "predict":
        raise StatusError(
            Code.UNIMPLEMENTED, f"{method} is not served here, only predict; use the container"
        )
    request = predict_pb2.PredictRequest(model_spec=spec)
    document = json_tensors.parse(body)
    request.model_spec.signature_name = json_tensors.signature_name(document)
    with core.manager.using(request.model_spec) as version:
        assert version.servable is not None
        name = request.model_spec.signature_name or "serving_default"
        if name not in version.servable.signatures:
            raise invalid(f'Serving signature name: "{name}" not found in signature def')
        form = json_tensors.fill(request, document, version.servable.signatures[name].inputs)
    response = await core.predict(request)
    outputs = {
        alias: tensors.to_array(response.outputs[alias], alias)
        for alias in sorted(response.outputs)
    }
    return json_tensors.reply(outputs, form)


def _metadata(core: Core, spec: model_pb2.ModelSpec) -> str:
    response = core.metadata(
        get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=["signature_def"]
        )
    )
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    model_spec = _json(response.model_spec, preserving_proto_field_name=True)
    metadata = _json(signatures, preserving_proto_field_name=True)
    return f'{{\n"model_spec":{model_spec},\n"metadata": {{"signature_def": {metadata}}}\n}}\n'


def _json(message: Message, **options: bool) -> str:
    return json_format.MessageToJson(message, always_print_fields_with_no_presence=True, **options)


def _error(message: str) -> str:
    return json.dumps({"error": message}, indent=4)
