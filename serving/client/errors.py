"""The errors of a client: one family."""

import json

import grpc


class ServingError(Exception):
    """A call failed.

    Attributes:
        code: the gRPC status code; None if no server was asked, its reply was wrong, or the client
            was closed.
        details: the server's whole message; empty if there is none.
    """

    def __init__(self, message: str, code: grpc.StatusCode | None = None, details: str = ""):
        super().__init__(message)
        self.code = code
        self.details = details


class InvalidRequest(ServingError, ValueError):
    """The client or the server refused the request, and would refuse it again: change it."""


class NotFound(ServingError):
    """The server has no such model or version. The message names what the server lists: TensorFlow
    Serving lists the versions of a model, but not its models."""


class Unavailable(ServingError):
    """There is no server, or it is too busy, also after the retries: ask later."""


class DeadlineExceeded(ServingError):
    """Time ran out. The server may have done the work."""


class BadReply(ServingError):
    """The reply is not an encoder's: it is another model, or another server."""


class VersionChanged(ServingError):
    """The model changed during the call, and results of two versions do not mix: call again."""


_MOST_TOLD = 2000  # characters

_KINDS = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,  # by a server that stops: none is left to ask
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}
_REMEDIES = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: "; if a message is too large, use a smaller batch_size or "
    "a larger max_message_mb",
    grpc.StatusCode.DEADLINE_EXCEEDED: "; allow it more time",
    grpc.StatusCode.CANCELLED: "; the server may be about to stop; ask again",
    grpc.StatusCode.UNAVAILABLE: "; check the address, TLS and whether the server runs",
}


SERVED = "served-models-bin"
"""Of an error's trailing metadata, from the local server: names of its models, a JSON list."""


def _models(error: grpc.RpcError) -> str:
    """The models that an error names, in words."""
    for key, value in error.trailing_metadata() or ():
        if key == SERVED:
            try:
                names = [" ".join(str(name).split()) for name in json.loads(value)]
            except (ValueError, TypeError, RecursionError):
                return ""
            return f"; its models: {', '.join(names) or 'none yet'}"[:_MOST_TOLD]
    return ""


def of_rpc(error: grpc.RpcError, address: str) -> ServingError:
    """The error for a call to `address` that failed in grpc or grpc.aio."""
    code, details = error.code(), error.details() or ""
    words = " ".join(details.split()) or "no reason given"
    message = f"{address}: {code.name}: {words}{_REMEDIES.get(code, '')}{_models(error)}"
    return _KINDS.get(code, ServingError)(message, code, details)
