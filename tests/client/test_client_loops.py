"""The asynchronous client wherever it is made and used: it works, or says why at once."""

import asyncio
import threading

import numpy as np
import pytest

from serving.client import AsyncEmbeddingClient, ServingError
from tests.client.predictable import assert_all, images

SECONDS = 20  # at most: each of these once hung for ever


@pytest.fixture
def elsewhere():
    """An event loop that runs in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def bounded(work):
    return asyncio.run(asyncio.wait_for(work, SECONDS))


def there(loop, work):
    return asyncio.run_coroutine_threadsafe(work, loop).result(SECONDS)


def made_in_a_thread(address):
    made = []
    thread = threading.Thread(target=lambda: made.append(AsyncEmbeddingClient(address)))
    thread.start()
    thread.join()
    return made[0]


def made_in_a_loop_that_is_closed(address):
    async def make():
        return AsyncEmbeddingClient(address)

    return asyncio.run(make())


def made_beside_a_default_loop(address):
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return AsyncEmbeddingClient(address)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


@pytest.mark.parametrize(
    "make",
    [
        AsyncEmbeddingClient,
        made_in_a_thread,
        made_in_a_loop_that_is_closed,
        made_beside_a_default_loop,
    ],
)
def test_may_be_made_anywhere_and_used_in_one_loop_after_the_other(make, server, elsewhere):
    client = make(server.address)
    for _ in range(3):
        assert_all(bounded(client.embed(images(3))), np.arange(3) / 128)
        assert bounded(client.wait_until_ready(SECONDS)) == 3
    assert_all(there(elsewhere, client.embed(images(2))), np.arange(2) / 128)
    there(elsewhere, client.close())


def test_a_second_loop_is_refused_at_once_while_the_first_is_there(server, elsewhere):
    first, second = AsyncEmbeddingClient(server.address), AsyncEmbeddingClient(server.address)
    assert_all(there(elsewhere, first.embed(images(2))), np.arange(2) / 128)
    with pytest.raises(ServingError, match="make another client for this loop"):
        bounded(first.embed(images(2)))

    async def many(client):
        return await asyncio.gather(*(client.embed(images(2)) for _ in range(8)))

    running = asyncio.run_coroutine_threadsafe(many(first), elsewhere)
    assert len(bounded(many(second))) == len(running.result(SECONDS)) == 8


def test_may_be_closed_from_anywhere(server, elsewhere):
    unused = AsyncEmbeddingClient(server.address)
    bounded(unused.close())
    bounded(unused.close())
    used = AsyncEmbeddingClient(server.address)
    there(elsewhere, used.embed(images(1)))
    bounded(used.close())  # while its loop runs in another thread
    for client in (unused, used):
        with pytest.raises(ServingError, match="the client is closed"):
            there(elsewhere, client.embed(images(1)))
    ended = AsyncEmbeddingClient(server.address)
    bounded(ended.embed(images(1)))
    bounded(ended.close())


def test_two_threads_begin_at_once(server):
    """Each with a loop of its own: one is served, the other served or refused, neither waits."""
    client, results = AsyncEmbeddingClient(server.address), []
    begin = threading.Barrier(2)

    def work():
        begin.wait(SECONDS)
        try:
            results.append(len(bounded(client.embed(images(2)))))
        except ServingError as error:
            results.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * SECONDS)
    assert len(results) == 2 and 2 in results


@pytest.mark.parametrize("seconds", [float("inf"), 1e300, 1e10])
@pytest.mark.parametrize("name", ["timeout", "request_timeout"])
def test_a_long_time_is_no_deadline(connect, server, name, seconds):
    assert_all(connect(server, **{name: seconds}).embed(images(1)), [0])
