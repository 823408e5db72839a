"""The limits of work under way: bytes of a request, bytes of all requests, one large one at a time.

A request is counted by the shapes of its inputs, and of its outputs in the signature. So 46 bytes
that mean 28,000 images count as 28,000 images, and are refused before any of them exists.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from serving.server.status import Code, StatusError

LARGEST_REQUEST = 2**25
"""Default limit of one request in bytes. A convolutional network takes some 25 times as many while
it computes."""
TOGETHER = 8
"""Requests of the largest size that may be under way, those that wait included."""
LARGE = 2**22
"""Bytes of a large request. If requests are not merged, only one large one is computed at a time,
so that small ones do not wait for them."""


class Budget:
    """Counts the bytes of requests under way, each of at most `largest`. For one event loop."""

    def __init__(self, largest: int = LARGEST_REQUEST):
        self.largest = largest
        self.large = asyncio.Semaphore(1)  # held by the large request that is computed
        self._held = 0

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Counts a request of so many bytes while the block runs; raises `StatusError` if that is
        too much, alone or with the others."""
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
