"""What is served, and the end of calls: of one, and of what is under way beside it."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from serving.client import (
    AsyncEmbeddingClient,
    DeadlineExceeded,
    NotFound,
    ServingError,
    VersionStatus,
)
from tests.client.predictable import AVAILABLE, END, LOADING, Server, assert_all, images, until

# What is served.


def test_says_what_is_served(connect, server):
    server.states = [(2, END, "no\nassets"), (3, AVAILABLE, ""), (4, LOADING, "")]
    assert connect(server).status() == [
        VersionStatus(4, "LOADING", ""),
        VersionStatus(3, "AVAILABLE", ""),
        VersionStatus(2, "END", "no assets"),
    ]
    assert connect(server, version=3).status() == [VersionStatus(3, "AVAILABLE", "")]
    with pytest.raises(NotFound):
        connect(server, model="other").status()
    found = connect(server).metadata()
    assert found.version == 3
    default = found.signatures["serving_default"]
    assert str(default.inputs["image"]) == "float32 [N, 12, 12, 3]"
    assert default.inputs["image"].shape == (None, 12, 12, 3)
    assert default.outputs["embedding"].shape is None
    assert found.signatures["embed_bytes"].inputs["image_bytes"].dtype == "string"


def test_waits_until_a_version_is_available(connect, server):
    server.states = []
    steps = [[(3, LOADING, "")], [(3, AVAILABLE, "")], [(4, LOADING, ""), (3, AVAILABLE, "")]]

    def later():
        for step in steps:
            time.sleep(0.3)
            server.states = step

    thread = threading.Thread(target=later)
    thread.start()
    assert connect(server).wait_until_ready(10) == 3
    assert connect(server).wait_until_ready(10) == 3
    thread.join()
    with pytest.raises(DeadlineExceeded, match=r"after 0.5 s; last seen: version 4 LOADING"):
        server.versions = [3, 4]
        connect(server, version=4).wait_until_ready(0.5)


def test_waits_for_a_server_that_is_not_there_yet(connect):
    first = Server()
    port = first.port
    first.stop()
    with pytest.raises(DeadlineExceeded, match=r"last seen: .*UNAVAILABLE"):
        connect(f"localhost:{port}").wait_until_ready(0.5)
    client, found = connect(f"localhost:{port}"), []
    timer = threading.Timer(1, lambda: found.append(Server(port=port)))
    timer.start()
    assert client.wait_until_ready(20) == 3
    found[0].stop()


# What is under way ends with the call.


def test_the_first_error_ends_the_other_requests(connect, server):
    release, ended = threading.Event(), threading.Event()

    def hold(count):
        if count == 1:
            release.wait(10)
        else:
            server.failures = [(grpc.StatusCode.INTERNAL, "broken")]

    server.before = hold
    server.ended = lambda count: ended.set() if count == 1 else None
    with pytest.raises(ServingError, match="broken"):
        connect(server, batch_size=1, concurrency=2).embed(images(9))
    assert ended.wait(5)  # while its handler still waits
    assert len(server.asked) <= 3
    release.set()


def test_cancelling_a_call_ends_its_requests(server):
    release, ended = threading.Event(), threading.Event()
    server.before = lambda count: release.wait(10)

    async def cancelled():
        async with AsyncEmbeddingClient(server.address) as client:
            task = asyncio.create_task(client.embed(images(1)))
            await asyncio.to_thread(until, lambda: server.asked)
            server.ended = lambda count: ended.set()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(ended.wait, 5)

    asyncio.run(cancelled())
    release.set()


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_closing_the_client_ends_its_calls(connect, server, parts):
    release = threading.Event()
    server.before = lambda count: release.wait(10)
    client = connect(server, batch_size=1, concurrency=2)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(client.embed, images(parts))
        until(lambda: len(server.asked) >= min(parts, 2))
        client.close()
        with pytest.raises(ServingError, match="the client is closed"):
            call.result(5)
    release.set()


def test_closing_the_client_ends_its_waiting(connect, server):
    server.states = [(3, LOADING, "")]
    client = connect(server)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(client.wait_until_ready, 30)
        until(lambda: server.looked)
        client.close()
        with pytest.raises(ServingError, match="the client is closed"):
            call.result(5)


def test_a_closed_client_says_so(connect, server, files):
    client = connect(server)
    assert_all(client.embed(images(1)), [0])
    for _ in range(2):
        client.close()
    for call in (
        lambda: client.embed(images(3)),
        lambda: client.embed_files(files),
        client.status,
        client.metadata,
        client.wait_until_ready,
    ):
        with pytest.raises(ServingError, match="the client is closed") as found:
            call()
        assert found.value.code is None
    assert len(server.asked) == 1
