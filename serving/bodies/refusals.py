"""The error for a body that is not taken."""


class Refused(Exception):
    """A body that is not read, or a reply that is not written.

    Args:
        message: what the client is told.
        code: the name of a gRPC code.
    """

    def __init__(self, message: str, code: str = "INVALID_ARGUMENT"):
        super().__init__(message)
        self.message = message
        self.code = code
