"""The client for programs of asyncio."""

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, Self, cast

import grpc
import grpc.aio

from serving.client.base import BaseClient, Clock
from serving.client.errors import ServingError
from serving.client.plans import Ask, Pause, Plan, Step, T, advance, explained
from serving.client.sync import EmbeddingClient

P = ParamSpec("P")

_GRACE = 5.0
"""Seconds that another loop has for closing the channel."""


def _awaited(
    call: Callable[Concatenate[EmbeddingClient, P], T],
) -> Callable[Concatenate["AsyncEmbeddingClient", P], Awaitable[T]]:
    """The same call. It returns what `_run` returns, which is a coroutine here."""
    return cast(Any, call)


class AsyncEmbeddingClient(BaseClient):
    """`EmbeddingClient` for asyncio: the same calls, each of them awaited.

    It may be made anywhere. The first call opens the channel in the running event loop. The channel
    belongs to that loop until the loop is closed; then the next call opens another. A call from a
    second loop while the first is not closed is refused: make a client for each loop. Threads
    beside the loop make the requests and read the files.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._opening = threading.Lock()  # two loops may begin at once
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    embed = _awaited(EmbeddingClient.embed)
    embed_bytes = _awaited(EmbeddingClient.embed_bytes)
    embed_files = _awaited(EmbeddingClient.embed_files)
    certify = _awaited(EmbeddingClient.certify)
    certify_bytes = _awaited(EmbeddingClient.certify_bytes)
    certify_files = _awaited(EmbeddingClient.certify_files)
    classify = _awaited(EmbeddingClient.classify)
    classify_bytes = _awaited(EmbeddingClient.classify_bytes)
    classify_files = _awaited(EmbeddingClient.classify_files)
    decode = _awaited(EmbeddingClient.decode)
    status = _awaited(EmbeddingClient.status)
    metadata = _awaited(EmbeddingClient.metadata)
    wait_until_ready = _awaited(EmbeddingClient.wait_until_ready)

    async def close(self) -> None:
        """Ends the connection, and with an error the calls under way."""
        self._closed = True
        channel, loop = self._channel, self._loop
        if channel is None or loop is None or loop.is_closed():
            return  # a channel ends with its loop
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
                self._channel, self._loop = self._open(grpc.aio), here
        if self._loop is not here:
            raise ServingError(
                f"{self._address}: this client belongs to the event loop that it was first used "
                "in, which is not closed; make another client for this loop"
            )
        return self._channel

    async def _run(self, plan: Plan[T], timeout: float | None = None) -> T:
        self._connected()
        clock, plan = self._clock(timeout), explained(self._target, plan)
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
