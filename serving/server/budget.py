"""How much work may be under way: bytes a request, bytes of all together, large ones one by one.

A request is counted by its shapes: what its tensors take once they are filled, and what the outputs
it asks for take by the signature. So 46 bytes that say 28,000 images count as 28,000 images, and
are refused before any of them exists.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from serving.server.status import Code, StatusError

LARGEST_REQUEST = 2**25
"""Bytes of one request, unless told otherwise. A convolutional network takes some 25 times as many
while it computes."""
TOGETHER = 8
"""Largest requests that may be under way, those that wait included."""
LARGE = 2**22
"""Bytes from which a request is large: only one of those is computed at a time, where requests are
not merged, so that small ones do not wait for them."""


class Budget:
    """Counts what is under way. Used from one event loop.

    Args:
        largest: bytes of one request.

    Attributes:
        large: the turn of those who compute a large request.
    """

    def __init__(self, largest: int = LARGEST_REQUEST):
        self.largest = largest
        self.large = asyncio.Semaphore(1)
        self._held = 0

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Counts a request of so many bytes while the block runs.

        Raises:
            StatusError: it is too large, or too much is under way.
        """
        if size > self.largest:
            raise StatusError(
                Code.RESOURCE_EXHAUSTED,
                f"The request takes {size} bytes with its outputs, by their shapes; at most "
                f"{self.largest} are allowed: send fewer rows at a time, or raise the server's "
                "--max_request_mib",
            )
        most = TOGETHER * self.largest
        if self._held + size > most:
            raise StatusError(
                Code.RESOURCE_EXHAUSTED,
                f"The request takes {size} bytes with its outputs, by their shapes, beside "
                f"{self._held} of the requests under way; at most {most} are allowed together: try "
                "again later, send fewer rows at a time, or raise the server's --max_request_mib",
            )
        self._held += size
        try:
            yield
        finally:
            self._held -= size
