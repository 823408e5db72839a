"""The REST API: TensorFlow Serving's paths, codes and texts, and the metrics' page.

No work whose cost grows with a request runs on the event loop. Threads read small bodies; processes
read large ones and write replies of many values (`workers`).
"""

import asyncio
import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any
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

from serving.bodies.refusals import Refused
from serving.server import conversions, metrics
from serving.server.core import Core, recorded
from serving.server.status import HTTP, Code, StatusError, invalid
from serving.server.uploads import Uploads

log = logging.getLogger(__name__)

_VERSION = r"(?:(?:/versions/(?P<version>[0-9]+))|(?:/labels/(?P<label>[^/:]+)))?"
_POST = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<method>classify|regress|predict)", re.IGNORECASE
)
_GET = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?P<metadata>/metadata)?", re.I)
_IDLE = 75.0  # seconds that a connection may last without a whole head of a request
_LINGER = 1.0  # seconds in which data that comes after an early refusal is dropped
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
_MOST_VALUES = 2**24  # of a reply: about 200 MB of JSON
_PIECE = 2**18  # bytes that are taken from the system, or handed to it, at a time
_TAKEN = 120.0  # seconds in which a client must take a reply


class Server(web.Server):
    """The HTTP server.

    Args:
        core: answers the requests.
        timeout: seconds for a request, once it has arrived; None: any time.
        metrics_path: of the metrics' page; None: no page.
        cors: whether scripts of other sites may ask (`--rest_api_enable_cors_support`).
    """

    def __init__(self, core: Core, *, timeout: float | None, metrics_path: str | None, cors: bool):
        # A client that goes away takes its request with it.
        super().__init__(self._answer, handler_cancellation=True)
        self.uploads = Uploads()
        self.conversions = conversions.Conversions()
        self._core = core
        self._timeout = timeout
        self._metrics_path = metrics_path
        self._headers = _CORS if cors else {}

    def __call__(self) -> web.RequestHandler:
        """The handler of one connection."""
        return _Connection(
            self, loop=asyncio.get_running_loop(), auto_decompress=False,
            keepalive_timeout=_IDLE, lingering_time=_LINGER, read_bufsize=_PIECE,
        )  # fmt: skip

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.raw_path_qs  # with the query, which none of the paths has
        if self._metrics_path and path == self._metrics_path:
            page = await asyncio.to_thread(metrics.page)
            return web.Response(body=page, content_type="text/plain")
        if not path.lower().startswith("/v1/"):
            return web.Response(status=404, text="Not Found")
        body: bytes
        try:
            status, body = 200, await self._process(request, path)
        except StatusError as error:
            status, body = HTTP.get(error.code, 500), _error(error.message)
        except ConnectionError:
            status, body = HTTP[Code.CANCELLED], b""  # the client is gone
        except Exception as error:
            log.exception("%s %s", request.method, path)
            status, body = 500, _error(f"{type(error).__name__}: {error}")
        return await _sent(request, status, body, self._headers)

    async def _process(self, request: web.BaseRequest, path: str) -> bytes:
        """The body of the reply."""
        if request.method == "OPTIONS":
            if not re.match("https?://", request.headers.get("Origin", "")):
                raise StatusError(
                    Code.FAILED_PRECONDITION, "Origin header is missing in CORS preflight"
                )
            return b""
        pattern = {"POST": _POST, "GET": _GET}.get(request.method)
        match = pattern.fullmatch(path) if pattern else None
        method = match["method"] if match and request.method == "POST" else ""
        name = unquote(match["name"] or "") if match else ""
        if match is not None and method == "predict":
            async with self.uploads.body(request) as body:
                encoding = request.headers.get("Content-Encoding", "")
                answer = self._in_time(match, body, encoding)
                return await recorded(name, method, "REST", answer)
        answer = self._without_body(request.method, path, match, method)
        return await recorded(name, method, "REST", answer)

    async def _without_body(
        self, verb: str, path: str, match: re.Match | None, method: str
    ) -> bytes:
        """The reply to a request without a body; if there is one, it is not read."""
        # The pattern ignores the case, but a method must be in lower case.
        if match is None or (method and method not in ("classify", "regress")):
            raise invalid(f"Malformed request: {verb} {path}")
        spec = _spec(match)
        if method:
            raise StatusError(
                Code.UNIMPLEMENTED, f"{method} is not served here, only predict; use the container"
            )
        if not spec.name:
            raise invalid("Missing model name in request.")
        if match["metadata"] == "/metadata":
            return _metadata(self._core, spec).encode()
        asked = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        return _json(self._core.status(asked)).encode()

    async def _in_time(self, match: re.Match, body: bytearray, encoding: str) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._predict(_spec(match), body, encoding)
        except TimeoutError as error:
            raise StatusError(Code.DEADLINE_EXCEEDED, "Run() timeout exceeded") from error
        except Refused as error:
            raise StatusError(Code[error.code], error.message) from error

    async def _predict(self, spec: model_pb2.ModelSpec, body: bytearray, encoding: str) -> bytes:
        signatures: Mapping[str, Any] | None = None
        missing: StatusError | None = None
        try:
            with self._core.manager.using(spec) as version:
                assert version.servable is not None
                signatures = version.servable.signatures
        except StatusError as error:
            missing = error  # errors of the body come first
        document = await self.conversions.read(body, encoding, signatures)
        if signatures is None:
            assert missing is not None
            raise missing
        signature = signatures[document.signature or "serving_default"]
        rows = max((len(a) for a in document.arrays.values() if a.ndim), default=1)
        expected = {
            alias: [rows if n < 0 and not axis else max(n, 1) for axis, n in enumerate(sizes)]
            for alias, info in signature.outputs.items()
            if (sizes := conversions.shape(info)) is not None
        }
        _check_values(expected)
        request = predict_pb2.PredictRequest(model_spec=spec)
        request.model_spec.signature_name = document.signature
        await asyncio.to_thread(conversions.fill, request, document.arrays, signature)
        _, call, found = await self._core.compute(request)
        outputs = dict(sorted(zip(call.outputs, found, strict=True)))
        _check_values({alias: array.shape for alias, array in outputs.items()})
        return await self.conversions.write(outputs, document.form)

    def close(self) -> None:
        """Ends the work that is under way."""
        self.conversions.close()


class Runner(web.ServerRunner):
    """Runs a server until it is cleaned up. Then requests under way have `grace` seconds; bodies
    that are still arriving are refused."""

    def __init__(self, server: Server, grace: float):
        super().__init__(server, shutdown_timeout=grace)
        self._ours = server

    async def shutdown(self) -> None:
        """Called once no more connections are taken."""
        self._ours.uploads.stop()

    async def cleanup(self) -> None:
        """Waits for the requests under way, and frees everything."""
        try:
            await super().cleanup()
        finally:
            self._ours.close()


class _Connection(web.RequestHandler):
    """The handler of a connection; its errors are JSON, as those of the API."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The reply to a request that is not HTTP or has too large a head."""
        if status >= 500 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        log.info("%s: no HTTP that is taken: %s", request.remote, message)
        response = _reply(status, _error(f"Malformed request: {message or exc}"), {})
        response.force_close()
        return response


def _reply(status: int, body: bytes, headers: Mapping[str, str]) -> web.Response:
    headers = {"Content-Type": "application/json", **headers}
    return web.Response(status=status, body=body, headers=headers)


async def _sent(
    request: web.BaseRequest, status: int, body: bytes, headers: Mapping[str, str]
) -> web.StreamResponse:
    """A reply; a large one is already sent, piece by piece."""
    if len(body) <= _PIECE:
        return _reply(status, body, headers)
    response = web.StreamResponse(
        status=status, headers={"Content-Type": "application/json", **headers}
    )
    response.content_length = len(body)
    try:
        async with asyncio.timeout(_TAKEN):
            await response.prepare(request)
            for start in range(0, len(body), _PIECE):
                await response.write(body[start : start + _PIECE])
            await response.write_eof()
    except TimeoutError as error:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client does not take its reply") from error
    return response


def _check_values(shapes: Mapping[str, Iterable[int]]) -> None:
    """Raises `StatusError` if an output has too many values for a reply."""
    for alias, shape in shapes.items():
        count = math.prod(shape)
        if count > _MOST_VALUES:
            raise StatusError(
                Code.RESOURCE_EXHAUSTED,
                f"Output {alias} has {count} values, {list(shape)}; a REST reply holds at most "
                f"{_MOST_VALUES} of each. Ask for fewer examples at a time, or over gRPC",
            )


def _spec(match: re.Match) -> model_pb2.ModelSpec:
    """The ModelSpec in a path."""
    spec = model_pb2.ModelSpec(name=unquote(match["name"] or ""))
    if match["version"]:
        digits = match["version"].lstrip("0") or "0"
        if len(digits) > 19 or int(digits) >= 2**63:
            raise invalid(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(digits)
    if match["label"]:
        spec.version_label = unquote(match["label"])
    return spec


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


def _error(message: str) -> bytes:
    return json.dumps({"error": message}, indent=4).encode()
