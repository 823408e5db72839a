"""The local server as a process: TLS, health, reflection, versions under load, an orderly end."""

import asyncio
import concurrent.futures
import contextlib
import os
import shutil
import socket
import threading
import time
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.client import EmbeddingClient, NotFound, ServingError
from serving.server import __main__ as server
from serving.server import flags, grpc_api
from serving.server.batching import Scheduler
from serving.server.core import Core
from serving.server.manager import Options
from serving.server.servable import Servable
from serving.server.status import StatusError
from serving.server.version import State
from tests import test_container
from tests.certificates import make_certificates
from tests.conformance.prepare import prepare, untrained_run
from tests.serving_process import DEADLINE, Server, http
from tf_avae.graphs.saved_models import SavedModel
from tf_avae.saved.contract import WARM_UP
from tf_avae.saved.exports import export_run

MODEL, SHAPE = "encoder", (28, 28, 3)


def images(count):
    return np.random.default_rng(0).uniform(size=(count, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with one version of a model."""
    folder = tmp_path_factory.mktemp("served")
    run = untrained_run(folder / "run")
    export_run(run, folder / MODEL, batch_sizes=(1, 8))
    return folder / MODEL


def configs(base, name=MODEL):
    config = model_server_config_pb2.ModelConfig(
        name=name, base_path=str(base), model_platform="tensorflow"
    )
    return model_server_config_pb2.ModelConfigList(config=[config])


@asynccontextmanager
async def core_on(base, as_content=False, **options):
    """What answers, without a port."""
    options = Options(**{"poll": 0, "retries": 0} | options)
    core = Core(Scheduler(None, 2), options, as_content, lambda: None)
    try:
        with contextlib.suppress(StatusError):
            await core.manager.configure(configs(base))
        yield core
    finally:
        await core.manager.close()


@pytest.mark.parametrize("as_content", [False, True])
def test_each_output_is_the_saved_models(base, as_content):
    x = images(8)
    expected = SavedModel(base).call("serving_default", image=tf.constant(x))
    request = predict_pb2.PredictRequest(output_filter=["variance", "embedding", "inconsistency"])
    request.model_spec.name = MODEL
    request.inputs["image"].CopyFrom(tf.make_tensor_proto(x))

    async def run():
        async with core_on(base, as_content) as core:
            whole = await core.predict(request)
            del request.output_filter[:]
            return whole, await core.predict(request)

    for reply in asyncio.run(run()):
        assert set(reply.outputs) == set(expected)
        for name, value in expected.items():
            assert bool(reply.outputs[name].tensor_content) == as_content
            found = tf.make_ndarray(reply.outputs[name])
            np.testing.assert_allclose(found, value, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("warm_up", [True, False])
def test_warm_up_is_replayed_and_decides(base, tmp_path, warm_up, monkeypatch):
    ran = []
    run = Servable.run
    monkeypatch.setattr(Servable, "run", lambda *call: ran.append(call) or run(*call))

    async def state(folder):
        async with core_on(folder, warm_up=warm_up, warm_up_iterations=2) as core:
            (version,) = core.manager.models[MODEL].versions.values()
            return version.state, version.error

    assert asyncio.run(state(base))[0] == State.AVAILABLE
    assert len(ran) == (2 * 5 * 2 if warm_up else 0)  # times, signatures, batch sizes
    shutil.copytree(base, tmp_path / MODEL)
    request = predict_pb2.PredictRequest(model_spec={"name": MODEL, "signature_name": "gone"})
    record = prediction_log_pb2.PredictionLog(predict_log={"request": request})
    with tf.io.TFRecordWriter(str(tmp_path / MODEL / "1" / WARM_UP)) as records:
        records.write(record.SerializeToString())
    found, error = asyncio.run(state(tmp_path / MODEL))
    assert found == (State.END if warm_up else State.AVAILABLE)
    assert not warm_up or 'signature key "gone" not found' in error.message


def test_a_folder_without_a_model_is_not_found(tmp_path):
    (tmp_path / "1").mkdir()

    async def run():
        async with core_on(tmp_path) as core:
            return core.manager.models[MODEL].versions[1].error

    error = asyncio.run(run())
    assert error.code == grpc.StatusCode.NOT_FOUND and "SavedModel" in error.message


def test_what_a_client_gave_up_is_given_up_and_those_who_watch_are_let_go():
    """Deadlines end a request in the server too; a stop does not wait for health's watchers."""

    class Slow:
        given_up = False

        async def predict(self, request):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.given_up = True
                raise

        metadata = status = reload = None

    async def run():
        core, health = Slow(), grpc_api.Health()
        await health.say(False)
        asked = grpc_api.server(core, health, {})
        port = asked.add_insecure_port("127.0.0.1:0")
        await asked.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            said = [(await watch.read()).status]
            await health.say(True)
            said.append((await watch.read()).status)
            predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await predict(b"", timeout=0.2)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            await asyncio.sleep(0.2)
            start = time.monotonic()
            await health.stop()
            await asked.stop(30)
            return core.given_up, said, time.monotonic() - start

    given_up, said, seconds = asyncio.run(run())
    assert given_up and seconds < 10
    status = health_pb2.HealthCheckResponse
    assert said == [status.NOT_SERVING, status.SERVING]


@pytest.fixture(scope="module")
def running(base, certificates, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    tls = folder / "tls.txt"
    fields = {"server_key": "server.key", "server_cert": "server.pem", "custom_ca": "ca.pem"}
    text = "".join(
        f'{name}: "{(certificates / file).read_text()}"\n'.replace("\n", "\\n")[:-2] + "\n"
        for name, file in fields.items()
    )
    tls.write_text(text + "client_verify: true\n")
    with Server(
        folder, "--model_name", MODEL, "--model_base_path", base, "--enable_batching=true",
        "--ssl_config_file", tls, "--max_num_load_retries=0",
        "--grpc_channel_arguments=grpc.max_receive_message_length=1000000",
        "--flush_filesystem_caches=false",
    ) as running:  # fmt: skip
        running.base = base
        running.files = {
            "tls_ca": certificates / "ca.pem",
            "tls_cert": certificates / "client.pem",
            "tls_key": certificates / "client.key",
        }
        yield running


def connect(running, **options):
    address = running.grpc.replace("127.0.0.1", "localhost")  # the certificate's name
    return EmbeddingClient(address, MODEL, **running.files | options)


def channel(running):
    credentials = grpc.ssl_channel_credentials(
        *(running.files[name].read_bytes() for name in ("tls_ca", "tls_key", "tls_cert"))
    )  # fmt: skip
    address = running.grpc.replace("127.0.0.1", "localhost")
    return grpc.secure_channel(address, credentials, DEADLINE)


def test_only_clients_with_a_certificate_are_served(running):
    with connect(running) as client:
        assert client.embed(images(3)).embedding.shape == (3, 8)
    anonymous = connect(running, tls_cert=None, tls_key=None, timeout=5)
    with anonymous, pytest.raises(ServingError):
        anonymous.embed(images(1))
    plain = EmbeddingClient(running.grpc, MODEL, timeout=5)
    with plain, pytest.raises(ServingError):
        plain.embed(images(1))


def test_what_is_not_found_names_the_models(running):
    """Beside TensorFlow Serving's own words, which stay as they are."""
    with connect(running) as client:
        client.wait_until_ready(60)
    address = running.grpc.replace("127.0.0.1", "localhost")
    with (
        EmbeddingClient(address, "nobody", **running.files) as client,
        pytest.raises(NotFound, match=f"; its models: {MODEL}; is 'nobody' the model's") as caught,
    ):
        client.embed(images(1))
    assert caught.value.details == "Servable not found for request: Latest(nobody)"
    with (
        connect(running, version=9) as client,
        pytest.raises(NotFound, match=f"of '{MODEL}' there is: version 1 AVAILABLE"),
    ):
        client.embed(images(1))


def test_health_and_reflection(running):
    with channel(running) as secure:
        health = health_pb2_grpc.HealthStub(secure)
        for service in ("", "tensorflow.serving.PredictionService", "ModelService"):
            reply = health.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(secure)
        (reply,) = stub.ServerReflectionInfo(iter([asked]))
        names = {service.name for service in reply.list_services_response.service}
        assert {"tensorflow.serving.PredictionService", "grpc.health.v1.Health"} <= names
        asked = reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="tensorflow.serving.PredictionService"
        )
        (reply,) = stub.ServerReflectionInfo(iter([asked]))
        assert reply.file_descriptor_response.file_descriptor_proto
        classify = secure.unary_unary("/tensorflow.serving.PredictionService/Classify")
        with pytest.raises(grpc.RpcError) as caught:
            classify(b"")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_message_over_the_limit_is_refused(running):
    with connect(running, batch_size=200) as client:
        with pytest.raises(ServingError, match="larger than max") as caught:
            client.embed(images(200))
        assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(client.embed(images(50)).embedding) == 50


@pytest.mark.long
def test_versions_come_and_go_under_load_and_the_end_is_orderly(base, tmp_path):
    """No request fails while versions are added, one of them broken, and removed; those under way
    when the server is told to stop are answered, or were turned away before they were begun."""
    folder, stop, seen = tmp_path / MODEL, threading.Event(), set()
    shutil.copytree(base / "1", folder / "1")

    def publish(version, spoil=False):
        draft = folder / f".tmp-{version}"
        shutil.copytree(base / "1", draft)
        if spoil:
            (draft / "saved_model.pb").write_bytes(b"\xff" * 100)
        draft.rename(folder / str(version))
        ended = "END" if spoil else "AVAILABLE"
        running.wait_for(rf"encoder version {version}: {ended}$")

    def ask(_):
        count = 0
        with EmbeddingClient(running.grpc, MODEL) as client:
            expected = client.embed(images(4)).embedding
            while not stop.wait(0.02):  # the versions that are loaded need the cores too
                found = client.embed(images(4))
                np.testing.assert_allclose(found.embedding, expected, rtol=1e-4, atol=1e-5)
                seen.add(found.version)
                count += 1
        return count

    # The config file is read again and again too.
    text = (
        'model_config_list { config { name: "%s" base_path: "%s" model_platform: "tensorflow" } }'
    )
    (tmp_path / "models.txt").write_text(text % (MODEL, folder))
    with (
        Server(
            tmp_path,
            f"--model_config_file={tmp_path / 'models.txt'}",
            "--enable_batching",
            "--model_config_file_poll_wait_seconds=1",
            "--max_num_load_retries=0",
        ) as running,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        counts = [pool.submit(ask, n) for n in range(4)]
        try:
            publish(2)
            running.wait_for("encoder version 1: END$")
            publish(3, spoil=True)
            publish(4)
            running.wait_for("encoder version 2: END$")
            shutil.rmtree(folder / "4")
            shutil.rmtree(folder / "3")
            running.wait_for("encoder version 4: END$")  # back to 2
            time.sleep(0.2)
        finally:
            stop.set()
        assert all(count.result() > 5 for count in counts)
        assert {1, 2, 4} <= seen and 3 not in seen
        status, page = http(running.rest, f"/v1/models/{MODEL}/versions/3")
        assert status == 200 and '"END"' in page and '"error_code": "OK"' not in page

        (tmp_path / "models.txt").write_text("broken")
        running.wait_for("the model config stays as it was")
        (tmp_path / "models.txt").write_text(text % ("renamed", folder))
        running.wait_for("renamed version 2: AVAILABLE$")
        running.wait_for("encoder version 2: END$")
        with EmbeddingClient(running.grpc, "renamed") as client:
            client.embed(images(1))
            answers = [pool.submit(client.embed, images(50)) for _ in range(8)]
            time.sleep(0.01)
            assert running.stop() == 0
            codes = {answer.exception() and answer.exception().code for answer in answers}
        assert None in codes and codes <= {None, grpc.StatusCode.UNAVAILABLE}
        assert "stopped" in running.log.read_text()


def test_takes_the_containers_flags_and_configs():
    given = flags.parser().parse_args(test_container.dockerfile_flags(str(test_container.CONFIGS)))
    flags.check(given)
    (model,) = flags.read_models(given).config
    assert model.name == MODEL and given.enable_batching and given.port == 8500
    assert flags.read_metrics_path(given.monitoring_config_file) == flags.METRICS_PATH
    ours = {"host", "demo", "trust", "plugin", "max_request_mib"}
    assert set(vars(given)) - ours == test_container.KNOWN_FLAGS


BAD = {
    "": ["--model_base_path", "--model_config_file", "empty"],
    "--model_base_path {tmp}/none": ["none is not a folder", "serving.export"],
    "--model_base_path {tmp} --port 70000": ["--port is 70000", "65535"],
    "--model_base_path {tmp} --port 0": ["--port is 0"],
    "--model_base_path {tmp} --max_request_mib 0": ["--max_request_mib is 0", "1 to 2000"],
    "--model_base_path s3://bucket/m": ["--model_base_path: File system scheme 's3'", "copy"],
    "--model_base_path {tmp} --port 8500 --rest_api_port 8500": ["--rest_api_port is 8500"],
    "--model_base_path {tmp} --batching_parameters_file x": ["without --enable_batching"],
    "--model_base_path {tmp} --enable_batching=maybe": ["'maybe' is neither true nor false"],
    "--model_base_path {tmp} --enable_batching --batching_parameters_file {tmp}/none": [
        "cannot read", "No such file",
    ],
    "--model_base_path {tmp} --enable_batching --batching_parameters_file {tmp}/bad.txt": [
        "bad.txt is not a BatchingParameters in text format", "no_such_field",
    ],
    "--model_base_path {tmp} --enable_batching --batching_parameters_file {tmp}/sizes.txt": [
        "last entry was 4; expected 8",
    ],
    "--model_config_file {tmp}/bad.txt": ["bad.txt is not a ModelServerConfig"],
    "--model_config_file {tmp}/empty.txt": ["has no model_config_list"],
    "--model_config_file {tmp}/twice.txt --port {free}": ["list model a multiple times"],
    "--model_config_file {tmp}/label.txt --port {free}": ["assign label to version 1 of model a"],
    "--model_base_path {tmp} --ssl_config_file {tmp}/empty.txt": ["has no server_key"],
    "--model_base_path {tmp} --ssl_config_file {tmp}/key.txt": ["cannot be used", "PEM"],
    "--model_base_path {tmp} --ssl_config_file {tmp}/verify.txt": ["no custom_ca"],
    "--model_base_path {tmp} --monitoring_config_file {tmp}/bad.txt --port {free}": [
        "bad.txt is not a MonitoringConfig",
    ],
    "--model_base_path {tmp} --grpc_channel_arguments a": ["must be key=value"],
    "--model_base_path {tmp} --grpc_channel_arguments a=99999999999": ["must be of 32 bits"],
    "--model_base_path {tmp} --mixed_precision=bfloat16": ["--mixed_precision is not supported"],
    "--model_base_path {tmp} --tensorflow_intra_op_parallelism=-3": ["is -3", "at least 0"],
    "--model_base_path {tmp} --max_num_load_retries -1": ["--max_num_load_retries is -1"],
    "--model_base_path {tmp} --port {busy}": ["cannot listen on", "in use", "--port"],
    "--model_base_path {tmp} --port {free} --rest_api_port {busy}": [
        "for REST", "Address already in use", "--rest_api_port",
    ],
    "--model_base_path {tmp} --prot 1": ["--prot", "--help"],
}  # fmt: skip


@pytest.fixture
def texts(tmp_path):
    listed = 'config { name: "a" base_path: "/a" model_platform: "tensorflow"'
    for name, text in {
        "bad.txt": "no_such_field: 1",
        "empty.txt": "",
        "sizes.txt": "max_batch_size { value: 8 } allowed_batch_sizes: 4",
        "twice.txt": f"model_config_list {{ {listed} }} {listed} }} }}",
        "label.txt": f'model_config_list {{ {listed} version_labels {{ key: "x" value: 1 }} }} }}',
        "key.txt": 'server_key: "-----BEGIN" server_cert: "nothing"',
        "verify.txt": 'server_key: "a" server_cert: "b" client_verify: true',
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("line", BAD)
def test_bad_flags_end_in_one_line(texts, capsys, line):
    with socket.socket() as busy, socket.socket() as free:
        for one in (busy, free):
            one.bind(("127.0.0.1", 0))
        busy.listen()
        ports = {"busy": busy.getsockname()[1], "free": free.getsockname()[1]}
        free.close()
        try:
            code = server.main(line.format(tmp=texts, **ports).split())
        except SystemExit as stop:
            code = stop.code
    said = capsys.readouterr().err.splitlines()
    errors = [text for text in said if text.startswith("error: ")]
    assert code == 2 and len(errors) == 1 and "Traceback" not in "".join(said)
    for word in BAD[line]:
        assert word in errors[0]


def test_an_unreadable_key(texts, monkeypatch, capsys):
    """A file whose permissions keep the server out (root reads all, so the refusal is made up)."""
    monkeypatch.setattr(flags.Path, "read_text", _refused)
    arguments = ["--model_base_path", str(texts), "--ssl_config_file", str(texts / "key.txt")]
    assert server.main(arguments) == 2
    assert "Permission denied" in capsys.readouterr().err


def _refused(*_, **__):
    raise PermissionError(13, os.strerror(13))


def test_prepared_flags_are_the_containers(tmp_path):
    given = {flag.split("=")[0].removeprefix("--") for flag in prepare(tmp_path, "/conformance")}
    assert given <= test_container.KNOWN_FLAGS
    assert "/conformance/models/encoder" in (tmp_path / "models.txt").read_text()
