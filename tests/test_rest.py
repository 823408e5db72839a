"""The REST side by itself, in front of a core that does what a test wants."""

import asyncio
import gzip
import json

import aiohttp
import numpy as np
import pytest
import tensorflow as tf
from aiohttp.test_utils import TestClient, TestServer
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import predict_pb2

from serving.server import metrics, rest
from serving.server.status import Code, StatusError

PREDICT, BODY = "/v1/models/m:predict", b'{"instances": [1, 2]}'


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

    async def predict(self, request):
        return await self.does(request)

    async def echo(self, request):
        return predict_pb2.PredictResponse(outputs={"y": request.inputs["x"]})

    def refuse(self, error):
        async def does(request):
            raise error

        self.does = does


def ask(core, *requests, timeout=None, **options):
    """Status and body of each request, (method, path, keywords)."""

    async def run():
        application = rest.application(
            core, timeout=timeout, **{"metrics_path": "/metrics", "cors": False} | options
        )
        async with TestClient(TestServer(application)) as client:
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
    monkeypatch.setattr(rest, "_LARGEST_BODY", 10**6)
    bomb = gzip.compress(bytes(10**7))
    assert len(bomb) < 20_000
    status, error = refused(Core(), "POST", PREDICT, {"data": bomb} | gzipped)
    assert status == 429 and "larger than max (1000000 bytes)" in error


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
    "path", ["/v1/models/m:PREDICT", "/v1/models/m:predict?x=1", "/v1/models/m/predict"]
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
    numbers = np.random.default_rng(0).uniform(size=400_000).tolist()
    slow = json.dumps({"inputs": [*numbers, None]}).encode()  # walked value by value

    async def run():
        application = rest.application(Core(), timeout=None, metrics_path="/metrics", cors=False)
        async with TestClient(TestServer(application)) as client:
            first = asyncio.create_task(client.post(PREDICT, data=slow))
            await asyncio.sleep(0.05)
            answered = 0
            while not first.done():
                async with client.get("/metrics") as reply:
                    assert reply.status == 200
                answered += 1
            return answered, (await first).status

    answered, status = asyncio.run(run())
    assert status == 400 and answered >= 3


def test_a_client_that_goes_away_is_no_error(caplog):
    async def run():
        application = rest.application(Core(), timeout=None, metrics_path=None, cors=False)
        async with TestServer(application) as server:
            _, writer = await asyncio.open_connection(server.host, server.port)
            head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: m\r\nContent-Length: 99\r\n\r\n{"
            writer.write(head)
            await writer.drain()
            writer.close()
            await asyncio.sleep(0.1)
            async with (
                aiohttp.ClientSession() as session,
                session.post(server.make_url(PREDICT), data=BODY) as reply,
            ):
                assert reply.status == 200

    asyncio.run(run())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
