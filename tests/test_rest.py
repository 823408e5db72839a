"""The REST side by itself, in front of a core that does what a test wants."""

import asyncio
import gzip
import json
import threading
from contextlib import asynccontextmanager

import numpy as np
import pytest
import tensorflow as tf
from aiohttp.test_utils import BaseTestServer, TestClient
from tensorflow.core.protobuf import meta_graph_pb2

from serving.bodies.refusals import Refused
from serving.server import conversions, metrics, rest, uploads, workers
from serving.server.servable import Call
from serving.server.status import Code, StatusError

PREDICT, BODY = "/v1/models/of_no_config:predict", b'{"instances": [1, 2]}'


class Core:
    """Answers with what it was asked, or as `does` says."""

    def __init__(self):
        tensor = meta_graph_pb2.TensorInfo(dtype=tf.float32.as_datatype_enum)
        signature = meta_graph_pb2.SignatureDef(inputs={"x": tensor}, outputs={"y": tensor})
        self.signatures = {"serving_default": signature}
        self.manager = self
        self.servable = self
        self.does = self.echo

    def using(self, spec):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    async def compute(self, request):
        call = Call("serving_default", {}, ("y",), {}, (), 0)
        return 1, call, [await self.does(request)]

    async def echo(self, request):
        return tf.make_ndarray(request.inputs["x"])

    def refuse(self, error):
        async def does(request):
            raise error

        self.does = does


class Served(BaseTestServer):
    """A server of ours, for aiohttp's client for tests."""

    def __init__(self, server):
        super().__init__()
        self.served = server

    async def _make_runner(self, **_):
        return rest.Runner(self.served, 5)


@asynccontextmanager
async def asking(core, **options):
    """A client of a server with this core."""
    options = {"timeout": None, "metrics_path": "/metrics", "cors": False} | options
    async with TestClient(Served(rest.Server(core, **options))) as client:
        yield client


def ask(core, *requests, timeout=None, **options):
    """Status and body of each request, (method, path, keywords)."""

    async def run():
        async with asking(core, timeout=timeout, **options) as client:
            found = []
            for method, path, *keywords in requests:
                async with client.request(method, path, **dict(*keywords)) as reply:
                    found.append((reply.status, await reply.text(), reply.headers))
            return found

    return asyncio.run(run())


def refused(core, *request, **options):
    ((status, text, _),) = ask(core, request, **options)
    return status, json.loads(text)["error"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.INVALID_ARGUMENT, 400), (Code.FAILED_PRECONDITION, 400), (Code.NOT_FOUND, 404),
        (Code.RESOURCE_EXHAUSTED, 429), (Code.UNAVAILABLE, 503), (Code.DEADLINE_EXCEEDED, 504),
        (Code.UNIMPLEMENTED, 501), (Code.INTERNAL, 500), (Code.UNKNOWN, 500),
    ],
)  # fmt: skip
def test_codes(code, status):
    core = Core()
    core.refuse(StatusError(code, "words"))
    assert refused(core, "POST", PREDICT, {"data": BODY}) == (status, "words")


def test_what_nobody_foresaw_is_an_answer_too():
    core = Core()
    core.refuse(ZeroDivisionError("by 0"))
    expected = 500, "ZeroDivisionError: by 0"
    assert refused(core, "POST", PREDICT, {"data": BODY}) == expected


def test_timeout():
    core = Core()
    core.does = lambda request: asyncio.sleep(60)
    before = counted("DEADLINE_EXCEEDED")
    found = refused(core, "POST", PREDICT, {"data": BODY}, timeout=0.05)
    assert found == (504, "Run() timeout exceeded")
    assert counted("DEADLINE_EXCEEDED") == before + 1


def counted(code):
    sample = metrics.REGISTRY.get_sample_value(
        ":tensorflow:serving:request_count_total",
        {"model_name": "", "status": code},  # no config names it
    )
    return sample or 0


def test_compressed_bodies_are_read_up_to_a_size(monkeypatch):
    gzipped = {"headers": {"Content-Encoding": "gzip"}}
    ((status, text, _),) = ask(Core(), ("POST", PREDICT, {"data": gzip.compress(BODY)} | gzipped))
    assert (status, json.loads(text)) == (200, {"predictions": [1.0, 2.0]})
    status, error = refused(Core(), "POST", PREDICT, {"data": b"not gzip"} | gzipped)
    assert status == 400
    monkeypatch.setattr(conversions, "LARGEST", 10**7)
    bomb = gzip.compress(bytes(10**8))
    assert len(bomb) < 200_000
    status, error = refused(Core(), "POST", PREDICT, {"data": bomb} | gzipped)
    assert status == 429 and "larger than max (10000000 bytes)" in error


def test_cors():
    origin = {"headers": {"Origin": "https://a.example"}}
    preflight = ("OPTIONS", PREDICT, origin)
    ((status, _, headers),) = ask(Core(), preflight, cors=True)
    assert status == 200 and headers["Access-Control-Allow-Origin"] == "*"
    ((_, _, headers),) = ask(Core(), preflight)
    assert "Access-Control-Allow-Origin" not in headers
    status, error = refused(Core(), "OPTIONS", PREDICT)
    assert status == 400 and "Origin header is missing" in error


@pytest.mark.parametrize(
    "path", ["/v1/models/m:PREDICT", "/v1/models/of_no_config:predict?x=1", "/v1/models/m/predict"]
)
def test_paths_are_matched_whole_and_methods_by_case(path):
    found = refused(Core(), "POST", path, {"data": BODY})
    assert found == (400, f"Malformed request: POST {path}")


def test_methods_that_are_not_served():
    for method in ("classify", "regress"):
        status, error = refused(Core(), "POST", f"/v1/models/m:{method}", {"data": BODY})
        assert status == 501 and "only predict" in error


def test_other_paths_and_the_metrics_page():
    found = ask(Core(), ("GET", "/"), ("GET", "/metrics"))
    assert found[0][0] == 404
    assert found[1][0] == 200 and "request_count" in found[1][1]
    assert ask(Core(), ("GET", "/metrics"), metrics_path=None)[0][0] == 404


def test_a_long_document_does_not_keep_others_waiting():
    """While it is read, another request is answered."""
    numbers = np.random.default_rng(0).uniform(size=50_000).tolist()
    slow = json.dumps({"inputs": [*numbers, None]}).encode()  # walked value by value

    async def run():
        async with asking(Core()) as client:
            first = asyncio.create_task(client.post(PREDICT, data=slow))
            await asyncio.sleep(0.05)
            answered = 0
            while not first.done():
                async with client.get("/metrics") as reply:
                    assert reply.status == 200
                answered += 1
            return answered, (await first).status

    answered, status = asyncio.run(run())
    assert status == 400 and answered >= 1


HEAD = b"POST /v1/models/of_no_config:predict HTTP/1.1\r\nHost: m\r\n%s\r\n"
HALF = HEAD % b"Content-Length: 99\r\n" + b"{"


@asynccontextmanager
async def connected(client, sent):
    """A connection over which something was sent, and what comes back."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(sent)
    await writer.drain()
    try:
        yield reader
    finally:
        writer.close()


def test_a_client_that_goes_away_is_no_error(caplog):
    async def run():
        async with asking(Core()) as client:
            async with connected(client, HALF):
                pass
            await asyncio.sleep(0.1)
            async with client.post(PREDICT, data=BODY) as reply:
                assert reply.status == 200

    asyncio.run(run())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    "head",
    [
        HEAD % (b"X: " + b"a" * 9000 + b"\r\n"),
        HEAD % b"".join(b"X-%d: a\r\n" % n for n in range(200)),
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"rubbish\r\n\r\n",
    ],
)
def test_what_is_not_taken_as_http_is_answered_in_json(head):
    async def run():
        async with asking(Core()) as client, connected(client, head) as reader:
            return await reader.read()

    headers, body = asyncio.run(run()).split(b"\r\n\r\n")
    assert headers.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    assert b"Content-Type: application/json\r\n" in headers + b"\r\n"
    assert json.loads(body)["error"].startswith("Malformed request: ")


def test_replies_say_json_as_there():
    found = ask(Core(), ("POST", PREDICT, {"data": BODY}), ("GET", "/v1/p"), cors=True)
    assert [status for status, _, _ in found] == [200, 400]
    for _, _, headers in found:
        assert headers["Content-Type"] == "application/json"
        assert headers["Access-Control-Allow-Origin"] == "*"


def test_those_who_ask_before_they_send_are_told_to():
    async def run():
        ask_first = HEAD % b"Content-Length: %d\r\nExpect: 100-continue\r\n" % len(BODY)
        async with asking(Core()) as client, connected(client, ask_first) as reader:
            said = await reader.readuntil(b"\r\n\r\n")
            reader._transport.write(BODY)
            return said, await reader.readuntil(b"\r\n")

    said, status = asyncio.run(run())
    assert said == b"HTTP/1.1 100 Continue\r\n\r\n" and status == b"HTTP/1.1 200 OK\r\n"


def test_bodies_that_do_not_arrive_are_given_up(monkeypatch):
    monkeypatch.setattr(uploads, "_ARRIVAL", 0.05)

    async def run():
        async with asking(Core()) as client, connected(client, HALF) as reader:
            return await reader.read()  # until the server closes the connection

    assert b"did not arrive within 0.05 seconds" in asyncio.run(run())


def test_half_heads_are_given_up(monkeypatch):
    monkeypatch.setattr(rest, "_IDLE", 0.05)

    async def run():
        async with asking(Core()) as client, connected(client, HALF[:30]) as reader:
            return await reader.read()

    assert asyncio.run(run()) == b""


def test_a_stop_does_not_wait_for_bodies_on_their_way():
    async def run():
        async with asking(Core()) as client, connected(client, HALF) as reader:
            await asyncio.sleep(0.1)
            await asyncio.wait_for(client.server.runner.cleanup(), 4)  # the grace is 5
            return await reader.read()

    assert b"503" in (reply := asyncio.run(run())) and b"The server is stopping" in reply


def test_bodies_are_bounded_alone_and_together(monkeypatch):
    monkeypatch.setattr(uploads, "LARGEST", 1000)
    status, error = refused(Core(), "POST", PREDICT, {"data": b" " * 1001})
    assert status == 429 and "larger than max (1000 bytes)" in error

    async def pieces():
        for _ in range(11):
            yield b" " * 100

    status, error = refused(Core(), "POST", PREDICT, {"data": pieces()})
    assert status == 429 and "larger than max (1000 bytes)" in error
    monkeypatch.setattr(uploads, "_TOGETHER", 150)

    async def run():
        half = HEAD % b"Content-Length: 999\r\n" + b" " * 100
        async with asking(Core()) as client:
            async with connected(client, half):
                await asyncio.sleep(0.1)
                async with client.post(PREDICT, data=BODY.ljust(100)) as reply:
                    first = reply.status, await reply.text()
            await asyncio.sleep(0.1)
            async with client.post(PREDICT, data=BODY.ljust(100)) as reply:
                return first, reply.status

    (status, error), after = asyncio.run(run())
    assert status == 503 and "hold 150 bytes; try again later" in error and after == 200


@pytest.mark.parametrize("shape", [(-1, 6), None])
def test_large_replies_are_refused_as_outputs_before_the_work_where_that_is_known(
    shape, monkeypatch
):
    monkeypatch.setattr(rest, "_MOST_VALUES", 10)
    core, asked = Core(), []
    output = core.signatures["serving_default"].outputs["y"]
    for size in shape or ():
        output.tensor_shape.dim.add(size=size)

    async def work(request):
        asked.append(request)
        return np.zeros((2, 6), np.float32)

    core.does = work
    status, error = refused(core, "POST", PREDICT, {"data": BODY})
    assert status == 429 and error.startswith("Output y has 12 values, [2, 6]; a REST reply")
    assert len(asked) == (0 if shape else 1)


class Hanging:
    """A process that never answers."""

    made = ()

    def __init__(self, niceness, memory):
        self.ended, self.killed = threading.Event(), False
        self.made.append(self)

    def exchange(self, job, arguments):
        self.ended.wait(30)
        raise EOFError

    def kill(self):
        self.killed = True
        self.ended.set()

    def wait(self):
        pass


LONG = b" " * 100_000 + BODY  # not in a thread


@pytest.mark.parametrize("why", ["gone", "late", "stopping"])
def test_work_ends_with_those_who_wait_for_it(why, monkeypatch):
    monkeypatch.setattr(workers, "_Process", Hanging)
    monkeypatch.setattr(Hanging, "made", [])

    async def run():
        async with asking(Core(), timeout=0.1 if why == "late" else None) as client:
            sent = HEAD % b"Content-Length: %d\r\n" % len(LONG) + LONG
            async with connected(client, sent) as reader:
                while not Hanging.made:
                    await asyncio.sleep(0.01)
                assert not Hanging.made[0].killed
                if why == "late":
                    assert b"Run() timeout exceeded" in await reader.readuntil(b"}")
                if why == "stopping":
                    client.server.served.close()
                    assert b"503" in await reader.readuntil(b"\r\n")
            while not Hanging.made[0].killed:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 20))


def test_smaller_jobs_go_first_but_not_for_ever(monkeypatch):
    done, go = [], threading.Event()

    class Recording(Hanging):
        def exchange(self, job, arguments):
            go.wait(30)
            done.append(job)
            return b"", 0

    monkeypatch.setattr(workers, "_Process", Recording)
    monkeypatch.setattr(Hanging, "made", [])

    async def run():
        lane = workers.Lane(1, niceness=0)
        loop = asyncio.get_running_loop()
        now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: now)  # which is advanced by hand below
        jobs = [asyncio.create_task(lane.perform("first", (), 0))]
        for name, size, later in (("large", 2**27, 0), ("small", 2**20, 1), ("late", 2**20, 60)):
            await asyncio.sleep(0)
            monkeypatch.setattr(loop, "time", lambda later=later: now + later)
            jobs.append(asyncio.create_task(lane.perform(name, (), size)))
        gone = asyncio.create_task(lane.perform("gone", (), 1))
        await asyncio.sleep(0)
        gone.cancel()
        go.set()
        await asyncio.gather(*jobs)
        await asyncio.gather(lane.perform("last", (), 0))
        lane.close()

    asyncio.run(run())
    assert done == ["first", "small", "large", "late", "last"] and len(Hanging.made) == 1


def test_large_bodies_and_replies_go_through_processes():
    """With the very answers of a thread; a process is used again, and replaced when it ended."""
    core, rows = Core(), np.random.default_rng(0).normal(size=(200, 400)).astype(np.float32)
    long = {"data": json.dumps({"instances": rows.tolist()})}
    bad = {"data": json.dumps({"instances": rows.tolist() + [[1]]})}

    async def run():
        async with asking(core) as client:
            quick = client.server.served.conversions._quick
            found, processes = [], []
            for body in (long, bad, long, long):
                async with client.post(PREDICT, **body) as reply:
                    found.append((reply.status, await reply.json()))
                (process,) = quick._idle
                processes.append(process._process)
                if len(found) == 2:
                    process.kill()
                    async with client.post(PREDICT, **long) as reply:
                        found.append((reply.status, await reply.json()))
            return found, processes

    found, processes = asyncio.run(run())
    assert found[0] == found[3] == found[4]
    assert found[0][0] == 200
    np.testing.assert_array_equal(np.array(found[0][1]["predictions"], np.float32), rows)
    assert found[1][0] == 400 and "element: 200 " in found[1][1]["error"]
    assert found[2][0] == 503 and "was ended" in found[2][1]["error"]
    assert processes[0] is processes[1] and processes[2] is processes[3] is not processes[0]
    for process in processes:
        process.wait(10)  # none outlives the server; the kernel takes a moment to end one


def test_a_process_that_needs_too_much_memory_says_so():
    bomb = gzip.compress(b'{"x": [' + b"[]," * 10**7 + b"[]]}")  # lists: 720 MB

    async def run():
        lane = workers.Lane(1, niceness=0, memory=2**28)
        try:
            await lane.perform("read", (bomb, "gzip", 10**8, None))
        finally:
            lane.close()

    with pytest.raises(Refused, match="more than 268435456 bytes of memory to read it") as caught:
        asyncio.run(run())
    assert caught.value.code == "RESOURCE_EXHAUSTED"
