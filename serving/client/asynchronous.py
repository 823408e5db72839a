"""The client for programs of asyncio."""

import asyncio
import itertools
import os
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


class AsyncEmbeddingClient(BaseClient):
    """As `EmbeddingClient`, call for call, but each is awaited.

    It is made, used and closed where one event loop runs. Requests are put together, and files
    read, in threads beside the loop.
    """

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
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def _open(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None,
        options: list[tuple[str, Any]],
    ) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(address, options)
        return grpc.aio.secure_channel(address, credentials, options)

    async def _run(self, plan: Plan[T], timeout: float | None = None) -> T:
        clock = self._clock(timeout)
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

    def _send(self, ask: Ask, timeout: float | None) -> Any:
        try:
            return self._method(ask)(ask.request, timeout=timeout)
        except grpc.aio.UsageError as error:  # the channel is closed
            raise self._error() from error
