"""What can go wrong between a client and a server: one family of errors."""

import json

import grpc


class ServingError(Exception):
    """A call that came to nothing.

    Attributes:
        code: the gRPC status code; None where no server was asked, its reply was wrong, or the
            client was closed.
        details: the server's own words, whole; empty where there are none.
    """

    def __init__(self, message: str, code: grpc.StatusCode | None = None, details: str = ""):
        super().__init__(message)
        self.code = code
        self.details = details


class InvalidRequest(ServingError, ValueError):
    """The same request would be refused again: change it. Refused here or by the server."""


class NotFound(ServingError):
    """The server has no such model or version; the message says which there are, as far as the
    server tells. TensorFlow Serving tells the versions of a model, but not which models it has."""


class Unavailable(ServingError):
    """No server, or one that is too busy, and not for want of trying: ask later."""


class DeadlineExceeded(ServingError):
    """Time ran out. What was asked for may have been done."""


class BadReply(ServingError):
    """The reply is not what an encoder's server sends: another model, or another server."""


class VersionChanged(ServingError):
    """The model changed during the call, and the versions' answers do not mix: call again."""


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
    """What an error tells of the models that there are."""
    for key, value in error.trailing_metadata() or ():
        if key == SERVED:
            try:
                names = [" ".join(str(name).split()) for name in json.loads(value)]
            except (ValueError, TypeError, RecursionError):
                return ""
            return f"; its models: {', '.join(names) or 'none yet'}"[:_MOST_TOLD]
    return ""


def of_rpc(error: grpc.RpcError, address: str) -> ServingError:
    """The error that a failed call stands for.

    Args:
        error: as grpc or grpc.aio raises it.
        address: of the server, for the message.
    """
    code, details = error.code(), error.details() or ""
    words = " ".join(details.split()) or "no reason given"
    message = f"{address}: {code.name}: {words}{_REMEDIES.get(code, '')}{_models(error)}"
    return _KINDS.get(code, ServingError)(message, code, details)
