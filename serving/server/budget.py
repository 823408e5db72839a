"""How much work may be under way: bytes a request, bytes of all together, large ones one by one.

A request is counted by its shapes: what its tensors take once they are filled, and what the outputs
it asks for take by the signature. So 46 bytes that say 28,000 images count as 28,000 images, and
are refused before any of them exists.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from serving.server.status import Code, StatusError

LARGEST_REQUEST = 2**27
"""Bytes of one request."""
MOST_UNDER_WAY = 2**29
"""Bytes of all requests that are being answered, those that wait included."""
LARGE = 2**23
"""Bytes from which a request is large: only one of those is computed at a time, where requests are
not merged, so that small ones do not wait for them."""


class Budget:
    """Counts what is under way. Used from one event loop."""

    def __init__(self) -> None:
        self._held = 0
        self.large = asyncio.Semaphore(1)

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Counts a request of so many bytes while the block runs.

        Raises:
            StatusError: it is too large, or too much is under way.
        """
        if size > LARGEST_REQUEST:
            raise StatusError(
                Code.RESOURCE_EXHAUSTED,
                f"The request takes {size} bytes with its outputs, by their shapes; at most "
                f"{LARGEST_REQUEST} are allowed: send fewer rows at a time",
            )
        if self._held + size > MOST_UNDER_WAY:
            raise StatusError(
                Code.RESOURCE_EXHAUSTED,
                f"The request takes {size} bytes with its outputs, by their shapes, beside "
                f"{self._held} of the requests under way; at most {MOST_UNDER_WAY} are allowed "
                "together: try again later, or send fewer rows at a time",
            )
        self._held += size
        try:
            yield
        finally:
            self._held -= size
