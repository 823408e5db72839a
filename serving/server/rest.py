"""The REST API: TensorFlow Serving's paths, codes and texts, and the metrics' page."""

import asyncio
import json
import logging
import re
from urllib.parse import unquote

from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError
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

log = logging.getLogger(__name__)

_VERSION = r"(?:(?:/versions/(?P<version>[0-9]+))|(?:/labels/(?P<label>[^/:]+)))?"
_POST = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<method>classify|regress|predict)", re.IGNORECASE
)
_GET = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?P<metadata>/metadata)?", re.I)
_LARGEST_BODY = 2**27  # bytes, also of what is compressed
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


def application(
    core: Core, *, timeout: float | None, metrics_path: str | None, cors: bool
) -> web.Application:
    """The server's HTTP side.

    Args:
        core: answers.
        timeout: seconds for a request, once it has arrived; None: any time.
        metrics_path: of the metrics' page; None: there is none.
        cors: whether other sites' scripts may ask (`--rest_api_enable_cors_support`).
    """

    async def answer(request: web.Request) -> web.Response:
        path = request.rel_url.raw_path_qs  # with the query: there is none in these paths
        if metrics_path and path == metrics_path:
            return web.Response(body=metrics.page(), content_type="text/plain")
        if not path.lower().startswith("/v1/"):
            return web.Response(status=404, text="Not Found")
        try:
            text = await _process(core, request, path, timeout)
            status = 200
        except StatusError as error:
            status, text = HTTP.get(error.code, 500), _error(error.message)
        except ConnectionError:
            status, text = HTTP[Code.CANCELLED], ""  # nobody is there to read it
        except Exception as error:
            log.exception("%s %s", request.method, path)
            status, text = 500, _error(f"{type(error).__name__}: {error}")
        return web.Response(
            status=status,
            text=text,
            content_type="application/json",
            headers=_CORS if cors else None,
        )

    made = web.Application(client_max_size=_LARGEST_BODY)
    made.router.add_route("*", "/{path:.*}", answer)
    return made


async def _process(core: Core, request: web.Request, path: str, timeout: float | None) -> str:
    """The body of the reply."""
    if request.method == "OPTIONS":
        if not re.match("https?://", request.headers.get("Origin", "")):
            raise StatusError(
                Code.FAILED_PRECONDITION, "Origin header is missing in CORS preflight"
            )
        return ""
    body = await _body(request)
    pattern = {"POST": _POST, "GET": _GET}.get(request.method)
    match = pattern.fullmatch(path) if pattern else None
    method = match["method"] if match and request.method == "POST" else ""

    async def answer() -> str:
        try:
            async with asyncio.timeout(timeout):
                # Of the method, only the pattern does not mind the case.
                if match is None or (method and method not in ("predict", "classify", "regress")):
                    raise invalid(f"Malformed request: {request.method} {path}")
                spec = _spec(match)
                if method:
                    return await _predict(core, spec, method, body)
                if not spec.name:
                    raise invalid("Missing model name in request.")
                if match["metadata"] == "/metadata":
                    return _metadata(core, spec)
                asked = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
                return _json(core.status(asked))
        except TimeoutError as error:
            raise StatusError(Code.DEADLINE_EXCEEDED, "Run() timeout exceeded") from error

    name = unquote(match["name"] or "") if match else ""
    return await recorded(name, method, "REST", answer())


async def _body(request: web.Request) -> bytes:
    """What was sent, decompressed if it came so.

    Raises:
        StatusError: it is too large, or does not decompress.
    """
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise StatusError(
            Code.RESOURCE_EXHAUSTED, f"Received body larger than max ({_LARGEST_BODY} bytes)"
        ) from error
    except (web.RequestPayloadError, ContentEncodingError) as error:
        raise invalid(f"The body cannot be read: {error}") from error


def _spec(match: re.Match) -> model_pb2.ModelSpec:
    """What a path names."""
    spec = model_pb2.ModelSpec(name=unquote(match["name"] or ""))
    if match["version"]:
        digits = match["version"].lstrip("0") or "0"
        if len(digits) > 19 or int(digits) >= 2**63:
            raise invalid(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(digits)
    if match["label"]:
        spec.version_label = unquote(match["label"])
    return spec


async def _predict(core: Core, spec: model_pb2.ModelSpec, method: str, body: bytes) -> str:
    if method != "predict":
        raise StatusError(
            Code.UNIMPLEMENTED, f"{method} is not served here, only predict; use the container"
        )
    request = predict_pb2.PredictRequest(model_spec=spec)
    # Much JSON takes long to read and to write: in threads, so that others are answered meanwhile.
    document = await asyncio.to_thread(json_tensors.parse, body)
    request.model_spec.signature_name = json_tensors.signature_name(document)
    with core.manager.using(request.model_spec) as version:
        assert version.servable is not None
        name = request.model_spec.signature_name or "serving_default"
        if name not in version.servable.signatures:
            raise invalid(f'Serving signature name: "{name}" not found in signature def')
        inputs = version.servable.signatures[name].inputs
        if not inputs:
            asked = request.model_spec.signature_name or "DEFAULT"
            raise invalid(f"Failed to get input map for signature: {asked}")
        form = await asyncio.to_thread(json_tensors.fill, request, document, inputs)
    response = await core.predict(request)

    def written() -> str:
        outputs = {
            alias: tensors.to_array(response.outputs[alias], alias)
            for alias in sorted(response.outputs)
        }
        return json_tensors.reply(outputs, form)

    return await asyncio.to_thread(written)


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
