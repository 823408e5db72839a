"""The errors of requests: a code and TensorFlow Serving's message."""

from grpc import StatusCode as Code

from tf_avae.backend import tf

_BY_NUMBER = {code.value[0]: code for code in Code}

HTTP = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}
"""HTTP status of each code; 500 for the others."""


class StatusError(Exception):
    """A refused request: the gRPC code and the message for the client."""

    def __init__(self, code: Code, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> StatusError:
    """The error for a request that is not well formed."""
    return StatusError(Code.INVALID_ARGUMENT, message)


def of_exception(error: Exception) -> StatusError:
    """The error for an exception. TensorFlow's codes are gRPC's."""
    if isinstance(error, StatusError):
        return error
    if isinstance(error, tf.errors.OpError):
        message = error.message.removeprefix("Graph execution error:").split("\nOriginal stack")[0]
        return StatusError(_BY_NUMBER.get(error.error_code, Code.UNKNOWN), message.strip())
    if isinstance(error, OSError):  # by the loader, for a folder without a SavedModel
        return StatusError(Code.NOT_FOUND, str(error))
    if isinstance(error, ValueError):  # a session's own check of what it is fed
        return invalid(str(error))
    return StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}")


def number(code: Code) -> int:
    """The number of a code, which TensorFlow's `error.Code` shares."""
    return int(code.value[0])
