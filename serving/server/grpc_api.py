"""The gRPC API: PredictionService, ModelService, health and reflection."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2,
    predict_pb2,
    prediction_service_pb2,
)

from serving.server.core import Core, recorded
from serving.server.status import StatusError, of_exception

_PREDICTION = prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"].full_name
_MODEL = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
# The last two are the names that TensorFlow Serving uses.
_HEALTH_OF = ("", _PREDICTION, _MODEL, "PredictionService", "ModelService")

_LONGEST_TEXT = 1024  # characters of an error, TensorFlow Serving's limit: trailers are small
_NAMES, _NAME = 20, 100
"""Models that an error names, and characters of each name: metadata is small."""

log = logging.getLogger(__name__)

Method = tuple[type[Message], Callable[[Any], Awaitable[Message]]]
"""The message that a method takes, and the function that answers it."""


def _methods(core: Core) -> dict[str, dict[str, Method]]:
    """Service to method name to method. The others are UNIMPLEMENTED: Classify, Regress and
    MultiInference, for which exported encoders have no signature."""

    async def predict(request: Any) -> Message:
        answer = core.predict(request)
        return await recorded(request.model_spec.name, "Predict", "GRPC", answer)

    async def metadata(request: Any) -> Message:
        return core.metadata(request)

    async def status(request: Any) -> Message:
        return core.status(request)

    return {
        _PREDICTION: {
            "Predict": (predict_pb2.PredictRequest, predict),
            "GetModelMetadata": (get_model_metadata_pb2.GetModelMetadataRequest, metadata),
        },
        _MODEL: {
            "GetModelStatus": (get_model_status_pb2.GetModelStatusRequest, status),
            "HandleReloadConfigRequest": (model_management_pb2.ReloadConfigRequest, core.reload),
        },
    }


def _handler(method: Method, core: Core) -> grpc.RpcMethodHandler:
    kind, answer = method

    async def handle(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
        try:
            reply = await answer(kind.FromString(body))
            return reply.SerializeToString()
        except DecodeError:  # by default, gRPC for Python answers UNKNOWN
            failure = StatusError(grpc.StatusCode.INTERNAL, "Failed to parse the request")
        except Exception as error:
            failure = of_exception(error)
            if not isinstance(error, StatusError):
                log.exception("%s", kind.DESCRIPTOR.name)
        text = failure.message
        if len(text) > _LONGEST_TEXT:
            text = text[:_LONGEST_TEXT] + "...TRUNCATED"
        told = _served(core) if failure.code is grpc.StatusCode.NOT_FOUND else ()
        await context.abort(failure.code, text, told)
        raise AssertionError("abort raises")

    return grpc.unary_unary_rpc_method_handler(handle)


def _served(core: Core) -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata that names the models, for the client's error: TensorFlow Serving's words
    stay as they are, and its protocol has no way to ask for names."""
    names = sorted(name for name, model in core.manager.models.items() if model.configured)
    listed = [name[:_NAME] for name in names[:_NAMES]] + ["..."] * (len(names) > _NAMES)
    return (("served-models-bin", json.dumps(listed).encode()),)


class Health(health.aio.HealthServicer):
    """The health service: SERVING once every model is available, after its warm-up."""

    def __init__(self) -> None:
        super().__init__()
        self._stopping = asyncio.Event()

    async def say(self, serving: bool) -> None:
        """Sets the status of all services."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        for name in _HEALTH_OF:
            await self.set(name, status.SERVING if serving else status.NOT_SERVING)

    async def stop(self) -> None:
        """Sets NOT_SERVING for good, and ends the streams of `Watch`."""
        await self.say(False)
        self._stopping.set()

    async def Watch(self, request: Any, context: grpc.aio.ServicerContext) -> None:
        """The status now and whenever it changes."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait([watching, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
            stopping.cancel()


def server(core: Core, watched: Health, options: dict[str, int | str]) -> grpc.aio.Server:
    """The server of a core and a health service, with gRPC channel arguments and no port yet."""
    # Two servers on one port would each get some of the requests.
    arguments = {"grpc.so_reuseport": 0, "grpc.max_receive_message_length": -1,
                 "grpc.max_send_message_length": -1} | options  # fmt: skip
    made = grpc.aio.server(options=list(arguments.items()))
    for service, methods in _methods(core).items():
        handlers = {name: _handler(method, core) for name, method in methods.items()}
        made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    health_pb2_grpc.add_HealthServicer_to_server(watched, made)
    reflection.enable_server_reflection(
        (_PREDICTION, _MODEL, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
         reflection.SERVICE_NAME), made,
    )  # fmt: skip
    return made
