"""REST bodies that arrive: limits of their sizes, alone and together, and of their time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from serving.bodies.compressed import TooLarge
from serving.server.status import Code, StatusError, invalid

LARGEST = 2**27  # bytes of a body, as it is sent and unpacked
_TOGETHER = 2**30  # bytes of all bodies that are held at once
_ARRIVAL = 120.0  # seconds from a request's head to the end of its body


class Uploads:
    """The bodies in memory."""

    def __init__(self) -> None:
        self._held = 0
        self._arriving: set[asyncio.Timeout] = set()
        self._stopping = False

    @asynccontextmanager
    async def body(self, request: web.BaseRequest) -> AsyncIterator[bytearray]:
        """A request's body as it was sent, counted while the block runs; raises `StatusError` if it
        is too large, alone or with others, too slow or broken, or if the server stops."""
        body = bytearray()
        try:
            await self._receive(request, body)
            yield body
        finally:
            self._held -= len(body)

    def stop(self) -> None:
        """Refuses the bodies that are arriving or arrive later."""
        self._stopping = True
        for arrival in self._arriving:
            arrival.reschedule(asyncio.get_running_loop().time())

    async def _receive(self, request: web.BaseRequest, body: bytearray) -> None:
        try:
            async with asyncio.timeout(_ARRIVAL) as arrival:
                self._arriving.add(arrival)
                try:
                    await self._read(request, body)
                finally:
                    self._arriving.discard(arrival)
        except TimeoutError as error:
            if self._stopping:
                raise _stopping() from error
            raise StatusError(
                Code.DEADLINE_EXCEEDED, f"The body did not arrive within {_ARRIVAL:g} seconds"
            ) from error
        except TooLarge as error:
            raise StatusError(Code.RESOURCE_EXHAUSTED, error.message) from error
        except web.RequestPayloadError as error:
            raise invalid(f"The body cannot be read: {error}") from error

    async def _read(self, request: web.BaseRequest, body: bytearray) -> None:
        if self._stopping:
            raise _stopping()
        if (request.content_length or 0) > LARGEST:
            raise TooLarge(LARGEST)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # what is counted is the reply
        while chunk := await request.content.readany():
            body += chunk
            self._held += len(chunk)
            if len(body) > LARGEST:
                raise TooLarge(LARGEST)
            if self._held > _TOGETHER:
                raise StatusError(
                    Code.UNAVAILABLE,
                    f"The bodies of the requests under way hold {_TOGETHER} bytes; try again later",
                )


def _stopping() -> StatusError:
    return StatusError(Code.UNAVAILABLE, "The server is stopping")
