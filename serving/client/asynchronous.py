"""The client for programs of asyncio."""

import asyncio
import itertools
import os
import threading
from collections.abc import Iterable
from typing import Any, Self, cast

import grpc
import grpc.aio
import numpy as np

from serving.client import plans
from serving.client.base import BaseClient, Clock
from serving.client.errors import ServingError
from serving.client.messages import Classifications, Embeddings, Metadata, VersionStatus
from serving.client.plans import Ask, Pause, Plan, Progress, Step, T, advance

_GRACE = 5.0
"""Seconds that another loop has for closing the channel."""


class AsyncEmbeddingClient(BaseClient):
    """As `EmbeddingClient`, call for call, but each is awaited.

    It may be made anywhere. Its channel is opened at the first call, in the event loop that runs
    then, and belongs to that loop until the loop is closed; the next one opens another. A call
    from a second loop while the first may still run is refused: each loop has a client of its own.
    Requests are put together, and files read, in threads beside the loop.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._opening = threading.Lock()  # two loops may begin at once
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def embed(self, images: Any) -> Embeddings:
        """As `EmbeddingClient.embed`."""
        return await self._run(plans.of_images(self._target, plans.EMBED, images))

    async def embed_bytes(self, images: Iterable[bytes]) -> Embeddings:
        """As `EmbeddingClient.embed_bytes`."""
        return await self._run(plans.of_bytes(self._target, plans.EMBED, images))

    async def embed_files(
        self, paths: Iterable[str | os.PathLike[str]], progress: Progress | None = None
    ) -> Embeddings:
        """As `EmbeddingClient.embed_files`."""
        return await self._run(plans.of_files(self._target, plans.EMBED, paths, progress))

    async def classify(self, images: Any) -> Classifications:
        """As `EmbeddingClient.classify`."""
        return await self._run(plans.of_images(self._target, plans.CLASSIFY, images))

    async def classify_bytes(self, images: Iterable[bytes]) -> Classifications:
        """As `EmbeddingClient.classify_bytes`."""
        return await self._run(plans.of_bytes(self._target, plans.CLASSIFY, images))

    async def classify_files(
        self, paths: Iterable[str | os.PathLike[str]], progress: Progress | None = None
    ) -> Classifications:
        """As `EmbeddingClient.classify_files`."""
        return await self._run(plans.of_files(self._target, plans.CLASSIFY, paths, progress))

    async def decode(self, latents: Any) -> np.ndarray:
        """As `EmbeddingClient.decode`."""
        return await self._run(plans.decode(self._target, latents))

    async def status(self) -> list[VersionStatus]:
        """As `EmbeddingClient.status`."""
        return await self._run(plans.status(self._target))

    async def metadata(self) -> Metadata:
        """As `EmbeddingClient.metadata`."""
        return await self._run(plans.metadata(self._target))

    async def wait_until_ready(self, timeout: float = 60.0) -> int:
        """As `EmbeddingClient.wait_until_ready`."""
        return await self._run(plans.wait_until_ready(self._target, timeout), timeout)

    async def close(self) -> None:
        """Ends the connection, and with an error the calls under way."""
        self._closed = True
        channel, loop = self._channel, self._loop
        if channel is None or loop is None or loop.is_closed():
            return  # what belonged to the loop has ended with it
        if loop is asyncio.get_running_loop():
            await channel.close()
        elif loop.is_running():
            closing = asyncio.run_coroutine_threadsafe(channel.close(), loop)
            # That loop may stop before it gets to it.
            await asyncio.wait([asyncio.wrap_future(closing)], timeout=_GRACE)
        else:
            self._channel = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def _connected(self) -> grpc.aio.Channel:
        if self._closed:
            raise self._error()
        here = asyncio.get_running_loop()
        with self._opening:
            if self._channel is None or self._loop is None or self._loop.is_closed():
                self._channel, self._loop = self._open(), here
        if self._loop is not here:
            raise ServingError(
                f"{self._address}: this client belongs to the event loop that it was first used "
                "in, which is not closed; make another client for this loop"
            )
        return self._channel

    def _open(self) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._address, self._options)
        return grpc.aio.secure_channel(self._address, self._credentials, self._options)

    async def _run(self, plan: Plan[T], timeout: float | None = None) -> T:
        self._connected()
        clock, plan = self._clock(timeout), plans.explained(self._target, plan)
        step, result = await asyncio.to_thread(advance, plan)
        while step is not None:
            error = None
            try:
                await self._do(step, clock)
            except ServingError as caught:
                error = caught
            step, result = await asyncio.to_thread(advance, plan, error)
        return cast(T, result)

    async def _do(self, step: Step, clock: Clock) -> None:
        if isinstance(step, Pause):
            await asyncio.sleep(clock.pause(step.seconds))
            return
        ended: asyncio.Queue[Any] = asyncio.Queue()
        waiting: dict[Any, tuple[int, Ask]] = {}

        async def finish() -> None:
            call = await ended.get()
            step.last, ask = waiting.pop(call)
            if self._closed and call.cancelled():
                # To wait for it would raise CancelledError, as if it were the caller's task.
                raise self._error()
            step.take(step.last, ask, await call)

        try:
            for place in itertools.count():
                ask = await asyncio.to_thread(next, step.asks, None)
                if ask is None:
                    break
                if len(waiting) == self._concurrency:
                    await finish()
                call = self._send(ask, clock.left())
                waiting[call] = (place, ask)
                call.add_done_callback(ended.put_nowait)
            while waiting:
                await finish()
        except grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            for call in waiting:
                call.cancel()

    def _send(self, ask: Ask, timeout: float) -> Any:
        try:
            return self._method(ask)(ask.request, timeout=timeout)
        except grpc.aio.UsageError as error:  # the channel is closed
            raise self._error() from error
