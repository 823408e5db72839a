"""The answers to requests, whether they come by gRPC or REST."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)

from serving.server import metrics, tensors
from serving.server.batching import Arrays, Scheduler
from serving.server.manager import Manager, Options
from serving.server.servable import Call
from serving.server.status import Code, StatusError, invalid, number
from serving.server.version import MUCH, Version

Answer = TypeVar("Answer")


async def recorded(name: str, api: str, entrypoint: str, answer: Awaitable[Answer]) -> Answer:
    """An answer, counted and timed under a model's name."""
    start, code = time.perf_counter(), Code.OK
    try:
        return await answer
    except StatusError as error:
        code = error.code
        raise
    except asyncio.CancelledError:
        code = Code.CANCELLED
        raise
    except Exception:
        code = Code.INTERNAL
        raise
    finally:
        label = metrics.label(name)
        metrics.request_count.labels(label, code.name).inc()
        if code is Code.OK:
            latency = 1e6 * (time.perf_counter() - start)
            metrics.request_latency.labels(label, api, entrypoint).observe(latency)


class Core:
    """The four calls of the protocol.

    `as_content` makes replies hold raw bytes instead of typed values; `changed` is called after
    every change of a version's state.
    """

    def __init__(
        self, scheduler: Scheduler, options: Options, as_content: bool, changed: Callable[[], None]
    ):
        self.manager = Manager(options, scheduler, changed)
        self._scheduler = scheduler
        self._as_content = as_content

    async def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        """Runs a signature; raises `StatusError` if the request is refused."""
        version, call, outputs = await self.compute(request)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.signature_name = call.signature
        response.model_spec.version.value = version

        def write() -> None:
            for alias, output in zip(call.outputs, outputs, strict=True):
                kind = call.dtypes[alias]
                tensor = tensors.to_proto(output, as_content=self._as_content, dtype=kind)
                response.outputs[alias].CopyFrom(tensor)

        if sum(output.nbytes for output in outputs) > MUCH:
            await asyncio.to_thread(write)
        else:
            write()
        return response

    async def compute(self, request: predict_pb2.PredictRequest) -> tuple[int, Call, Arrays]:
        """The answer of `predict` as arrays: the version's number, the call, and its outputs in the
        order of the call; raises `StatusError` if the request is refused."""
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        with self.manager.using(request.model_spec) as version:
            assert version.servable is not None
            call = version.servable.prepare(request)
            return version.number, call, await version.run(call, self._scheduler)

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """The signatures of a version."""
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        with self.manager.using(request.model_spec) as version:
            assert version.servable is not None
            signatures = get_model_metadata_pb2.SignatureDefMap(
                signature_def=version.servable.signatures
            )
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = version.model
            response.model_spec.version.value = version.number
            response.metadata["signature_def"].Pack(signatures)
        return response

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The states of all versions of a model, or of one; labels are ignored."""
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        spec = request.model_spec
        model = self.manager.models.get(spec.name)
        versions = model.versions if model else {}
        if spec.HasField("version"):
            if spec.version.value not in versions:
                raise StatusError(
                    Code.NOT_FOUND,
                    f"Could not find version {spec.version.value} of model {spec.name}",
                )
            shown = [versions[spec.version.value]]
        else:
            shown = [versions[value] for value in sorted(versions, reverse=True)]
        if not shown:
            raise StatusError(Code.NOT_FOUND, f"Could not find any versions of model {spec.name}")
        return get_model_status_pb2.GetModelStatusResponse(
            model_version_status=[_status(version) for version in shown]
        )

    async def reload(
        self, request: model_management_pb2.ReloadConfigRequest
    ) -> model_management_pb2.ReloadConfigResponse:
        """Makes the models of a config those that are served."""
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
                "ModelConfigList is currently supported"
            )
        await self.manager.configure(request.config.model_config_list)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        return response


def _status(version: Version) -> get_model_status_pb2.ModelVersionStatus:
    found = get_model_status_pb2.ModelVersionStatus(
        version=version.number, state=int(version.state)
    )
    found.status.SetInParent()
    if version.error is not None:
        found.status.error_code = number(version.error.code)
        found.status.error_message = version.error.message
    return found
