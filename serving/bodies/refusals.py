"""The error for a body that is refused."""


class Refused(Exception):
    """A body is not read, or a reply not written: the message and the name of a gRPC code."""

    def __init__(self, message: str, code: str = "INVALID_ARGUMENT"):
        super().__init__(message)
        self.message = message
        self.code = code
