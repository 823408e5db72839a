"""The container: its scripts do what they say, its files are what TensorFlow Serving reads."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import kubernetes_validate
import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving import protocol
from tests.conformance.prepare import DOCKERFILE
from tests.conformance.prepare import RELEASE as VERSION
from tf_avae.saved.contract import BATCH_SIZES

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "serving/configs"
SCRIPTS = ROOT / "serving/container"
KUBERNETES = ROOT / "serving/kubernetes"

# The names in the flag list of TensorFlow Serving's model_servers/main.cc.
KNOWN_FLAGS = set(
    """
    allow_version_labels_for_unavailable_models batching_parameters_file enable_batching
    enable_grpc_healthcheck_service enable_model_warmup enable_per_model_batching_parameters
    enable_profiler enable_serialization_as_tensor_content enable_signature_method_name_check
    file_system_poll_wait_seconds flush_filesystem_caches grpc_channel_arguments grpc_max_threads
    grpc_socket_path load_retry_interval_micros max_num_load_retries mixed_precision
    model_base_path model_config_file model_config_file_poll_wait_seconds model_name
    monitoring_config_file num_load_threads num_request_iterations_for_warmup
    num_tflite_interpreters_per_pool num_tflite_pools num_unload_threads
    per_process_gpu_memory_fraction platform_config_file port prefer_tflite_model
    remove_unused_fields_from_bundle_metagraph rest_api_enable_cors_support rest_api_num_threads
    rest_api_port rest_api_timeout_in_ms saved_model_tags skip_initialize_tpu ssl_config_file
    tensorflow_inter_op_parallelism tensorflow_intra_op_parallelism
    tensorflow_session_config_file tensorflow_session_parallelism thread_pool_factory_config_file
    use_alts_credentials version xla_cpu_compilation_enabled xla_gpu_compilation_enabled
    """.split()
)


def dockerfile_flags(configs="/etc/serving"):
    """The server's flags in the image's entry point, with config files looked for in `configs`."""
    entry = re.search(r"^ENTRYPOINT (\[.*?\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)[1]
    words = json.loads(entry.replace("\\\n", ""))[1:]
    return [word.replace("=/etc/serving/", f"={configs}/") for word in words]


def documents(path):
    return [d for d in yaml.safe_load_all(path.read_text()) if d]


def manifest(name, kind):
    (found,) = [d for d in documents(KUBERNETES / name) if d["kind"] == kind]
    return found


DEPLOYMENT = manifest("base/deployment.yaml", "Deployment")["spec"]["template"]["spec"]
SERVER = DEPLOYMENT["containers"][0]
COMPOSE = yaml.safe_load((ROOT / "serving/compose.yaml").read_text())


# -- The health check ------------------------------------------------------------------------------

ANSWERS = {
    "ready": (200, "AVAILABLE"),
    "rolled": (200, "END", "AVAILABLE"),
    "loading": (200, "LOADING"),
    "failed": (200, "END"),
    "unknown": (404,),
}


class Status(BaseHTTPRequestHandler):
    """Answers about a model as TensorFlow Serving does, or not at all."""

    def do_GET(self):
        model = self.path.removeprefix("/v1/models/")
        if model in ("silent", "slow"):
            with suppress(OSError):  # the other side gave up, as it should
                while not self.server.ended.wait(0.05):
                    if model == "slow":
                        self.wfile.write(b"H")
            return
        code, *states = ANSWERS[model]
        # A message that quotes what the script looks for must not pass for it.
        status = {"error_code": "OK", "error_message": '{"state": "AVAILABLE"}'}
        answer = {"error": f"Could not find any versions of model {model}"}
        if states:
            answer = {
                "model_version_status": [
                    {"version": str(n), "state": state, "status": status}
                    for n, state in enumerate(states, 1)
                ]
            }
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(answer, indent=1).encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def port():
    with ThreadingHTTPServer(("127.0.0.1", 0), Status) as server:
        server.ended = threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.ended.set()
        server.shutdown()


def health(port, **environment):
    start = time.monotonic()
    done = subprocess.run(
        [SCRIPTS / "healthcheck.sh"],
        env=os.environ | {"HEALTH_PORT": str(port)} | environment,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode in (0, 1)  # Docker reserves the rest
    assert done.stdout.count("\n") == 1
    return done.returncode == 0, done.stdout.strip(), time.monotonic() - start


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ("ready", "healthy: ready"),
        ("rolled ready", "healthy: rolled ready"),
        ("loading", "unhealthy: loading: no version is AVAILABLE"),
        ("failed", "unhealthy: failed: no version is AVAILABLE"),
        ("ready loading", "unhealthy: loading: no version is AVAILABLE"),
        ("ready unknown", "unhealthy: unknown: HTTP/1.0 404 Not Found"),
    ],
)
def test_health_is_the_state_of_each_model(port, models, said):
    healthy, line, _ = health(port, HEALTH_MODELS=models)
    assert line == said
    assert healthy == said.startswith("healthy")


@pytest.mark.parametrize("model", ["silent", "slow"])
def test_the_health_check_never_hangs(port, model):
    healthy, line, seconds = health(port, HEALTH_MODELS=model, HEALTH_SECONDS="0.5")
    assert not healthy
    assert line == f"unhealthy: no answer from 127.0.0.1:{port} within 0.5 s"
    assert seconds < 3


def test_nobody_listening_is_unhealthy(unused_port):
    healthy, line, _ = health(unused_port, HEALTH_MODELS="ready")
    assert not healthy
    assert line == f"unhealthy: nothing listens at 127.0.0.1:{unused_port}"


@pytest.fixture
def unused_port():
    with ThreadingHTTPServer(("127.0.0.1", 0), Status) as server:
        return server.server_address[1]


def test_the_models_are_those_of_the_config_file(port, tmp_path):
    config = tmp_path / "models.txt"
    config.write_text(
        "# name: 'commented'\n"
        "model_config_list { config { name: 'ready' base_path: '/models/a' }\n"
        '  config { base_path: "/models/b" name : "rolled" model_platform: "tensorflow" } }\n'
    )
    assert health(port, HEALTH_CONFIG=str(config))[:2] == (True, "healthy: ready rolled")
    config.write_text("model_config_list { }")
    healthy, line, _ = health(port, HEALTH_CONFIG=str(config))
    assert not healthy
    assert "no model in" in line
    assert not health(port, HEALTH_CONFIG=str(tmp_path / "missing"))[0]


@pytest.mark.parametrize("name", ["models.txt", "models-canary.txt"])
def test_the_health_check_finds_the_model_of_our_configs(port, name):
    ANSWERS["encoder"] = ANSWERS["ready"]
    assert health(port, HEALTH_CONFIG=str(CONFIGS / name))[1] == "healthy: encoder"


# -- Starting and stopping -------------------------------------------------------------------------

STAND_IN = """#!/bin/sh
trap 'echo ended by TERM; exit 143' TERM
echo "$@"
while :; do sleep 0.02; done
"""


@pytest.fixture
def start(tmp_path):
    """Starts serve.sh with a stand-in for the server, once that has shown its arguments."""
    started = []

    def start(server=STAND_IN, drain="0.3", **variables):
        program = tmp_path / "tensorflow_model_server"
        program.write_text(server)
        program.chmod(0o755)
        # Where SIGINT is ignored, as in the background of a shell, a script cannot trap it.
        process = subprocess.Popen(
            ["env", "--default-signal=INT", SCRIPTS / "serve.sh", "--port=1",
             "--model_name=two words"],
            env=os.environ
            | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DRAIN_SECONDS": drain}
            | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "--port=1 --model_name=two words\n"
        return process

    yield start
    for process in started:
        process.stdout.close()
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_the_server_goes_on_for_a_while_when_asked_to_stop(start, name):
    process, before = start(), time.monotonic()
    process.send_signal(signal.Signals[name])
    assert process.communicate(timeout=10)[0] == "ended by TERM\n"
    assert process.returncode == 0
    assert 0.3 <= time.monotonic() - before < 3  # 5 if DRAIN_SECONDS were not heeded


def test_a_signal_right_after_the_start_stops_the_server_too(start, tmp_path):
    # The script, not its server, waits before each command, so that the signal comes before it
    # goes on from the start.
    slow = tmp_path / "slow"
    slow.write_text("trap 'sleep 0.2' DEBUG")
    process = start(BASH_ENV=str(slow))
    process.terminate()
    assert process.communicate(timeout=10)[0] == "ended by TERM\n"
    assert process.returncode == 0


def test_a_second_signal_stops_at_once(start):
    process, before = start(drain="30"), time.monotonic()
    process.terminate()
    time.sleep(0.3)
    process.terminate()
    # Nothing is left that holds its output open.
    assert process.communicate(timeout=10)[0] == ""
    assert process.returncode == 0
    assert time.monotonic() - before < 3


def test_a_server_that_ends_by_itself_gives_its_exit_code(start):
    assert start('#!/bin/bash\necho "$@"\nexit 7\n').wait(10) == 7


# -- The check of the models that are built in -----------------------------------------------------


@pytest.fixture
def check(tmp_path):
    """Runs check_models.sh in front of a server of a certain release of TensorFlow."""

    def check(server="2.21.0"):
        program = tmp_path / "tensorflow_model_server"
        program.write_text(f"#!/bin/bash\necho 'TensorFlow Library: {server}'\n")
        program.chmod(0o755)
        return subprocess.run(
            [SCRIPTS / "check_models.sh", tmp_path / "models"],
            env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return check


def write_graph(folder, writer, git="v2.21.0-rc1-5-ga481b10260d8"):
    graph = SavedModel(saved_model_schema_version=1)
    info = graph.meta_graphs.add().meta_info_def
    info.tensorflow_version, info.tensorflow_git_version = writer, git
    info.stripped_op_list.op.add(name="2.99.0")
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(graph.SerializeToString())


def test_models_that_the_server_can_serve_pass(tmp_path, check):
    write_graph(tmp_path / "models/encoder/1", "2.20.0", "unknown")
    write_graph(tmp_path / "models/encoder/12", "2.21.3")
    done = check()
    assert (done.returncode, done.stderr) == (0, "")
    assert "encoder/1/saved_model.pb: TensorFlow 2.20, the server's 2.21" in done.stdout
    assert "encoder/12/saved_model.pb: TensorFlow 2.21, the server's 2.21" in done.stdout


def test_a_model_newer_than_the_server_is_refused(tmp_path, check):
    write_graph(tmp_path / "models/encoder/1", "2.21.0-rc1")
    done = check(server="2.9.0")
    assert done.returncode == 1
    assert "build with TF_SERVING_VERSION=2.21.0 or above" in done.stderr


def test_a_folder_without_the_model_or_without_versions_is_refused(tmp_path, check):
    (tmp_path / "models").mkdir()
    done = check()
    assert (done.returncode, "python -m serving.export" in done.stderr) == (1, True)
    write_graph(tmp_path / "models/encoder/.tmp-1", "2.20.0")
    done = check()
    assert (done.returncode, "holds no version" in done.stderr) == (1, True)


def test_the_image_is_as_new_as_the_tensorflow_that_exports_here():
    numbers = [tuple(map(int, v.split(".")[:2])) for v in (VERSION, tf.__version__)]
    assert numbers[0] >= numbers[1]
    assert COMPOSE["services"]["encoder"]["build"]["args"]["TF_SERVING_VERSION"] == (
        f"${{TF_SERVING_VERSION:-{VERSION}}}"
    )


# -- Configs and flags -----------------------------------------------------------------------------


def parsed(name, message):
    return text_format.Parse((CONFIGS / name).read_text(), message())


def test_batching_refuses_what_the_warm_up_has_not_seen_and_bounds_the_queue():
    batching = parsed("batching.txt", protocol.BatchingParameters)
    assert list(batching.allowed_batch_sizes) == list(BATCH_SIZES)
    assert batching.max_batch_size.value == BATCH_SIZES[-1] == 64
    assert 0 < batching.batch_timeout_micros.value <= 5000
    assert 0 < batching.max_enqueued_batches.value <= 16
    # gRPC must not run out of threads before the queue is full: that is refused, and retried,
    # differently. The queue holds this many requests of one image, the batches under way some more.
    waiting = batching.max_enqueued_batches.value + batching.num_batch_threads.value
    (threads,) = [f for f in dockerfile_flags() if f.startswith("--grpc_max_threads=")]
    assert int(threads.split("=")[1]) > waiting * batching.max_batch_size.value


def test_models_are_one_encoder():
    for name in ("models.txt", "models-canary.txt"):
        (model,) = parsed(name, ModelServerConfig).model_config_list.config
        assert (model.name, model.base_path) == ("encoder", "/models/encoder")
    assert dict(model.version_labels) == {"stable": 1, "canary": 2}
    assert list(model.model_version_policy.specific.versions) == [1, 2]
    assert "--allow_version_labels_for_unavailable_models" in dockerfile_flags()


def test_monitoring_is_on_and_found_where_it_is_looked_for():
    path = parsed("monitoring.txt", protocol.MonitoringConfig).prometheus_config.path
    (scrape,) = yaml.safe_load((CONFIGS / "prometheus.yaml").read_text())["scrape_configs"]
    assert scrape["metrics_path"] == path
    annotations = manifest("base/deployment.yaml", "Deployment")["spec"]["template"]["metadata"][
        "annotations"
    ]
    assert annotations["prometheus.io/path"] == path


def test_the_tls_template_is_filled_as_documented(tmp_path):
    assert parsed("tls.txt", protocol.SSLConfig).client_verify
    page = (ROOT / "docs/deployment.md").read_text()
    (block,) = [b for b in re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S) if "pem" in b]
    texts = {
        name: f"-----BEGIN {name}-----\nMIIB+/=\nsecond line\n-----END {name}-----\n"
        for name in ("server-key", "server-cert", "client-ca")
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.pem").write_text(text)
    subprocess.run(["bash", "-euc", block], cwd=tmp_path, check=True, timeout=60)
    filled = text_format.Parse((tmp_path / "tls.txt").read_text(), protocol.SSLConfig())
    assert [filled.server_key, filled.server_cert, filled.custom_ca] == list(texts.values())
    assert filled.client_verify
    assert (tmp_path / "tls.txt").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "flags",
    [
        dockerfile_flags(),
        COMPOSE["services"]["encoder"]["command"],
        SERVER["args"],
        [o["value"] for o in documents(KUBERNETES / "tls/deployment.yaml")[0]
         if o["path"].endswith("args/-")],
    ],
    ids=["dockerfile", "compose", "kubernetes", "tls"],
)  # fmt: skip
def test_flags_are_those_of_the_server(flags):
    assert flags
    for flag in flags:
        name, _, value = flag.removeprefix("--").partition("=")
        assert flag.startswith("--")
        assert name in KNOWN_FLAGS
        if value.startswith("/etc/serving/"):
            assert (CONFIGS / Path(value).name).is_file()


# -- Compose and Kubernetes ------------------------------------------------------------------------


def test_compose_opens_ports_on_this_machine_only_and_takes_every_right_away():
    for service in COMPOSE["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
    assert "monitoring" in COMPOSE["services"]["prometheus"]["profiles"]


MANIFESTS = [p for p in sorted(KUBERNETES.rglob("*.yaml")) if "kind: Kustomization" not in
             p.read_text() and not p.read_text().startswith("- op:")]  # fmt: skip


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: str(p.relative_to(KUBERNETES)))
def test_manifests_are_valid(path):
    assert documents(path)
    for document in documents(path):
        for version in ("1.28", kubernetes_validate.latest_version()):
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize(
    "path", sorted(KUBERNETES.glob("*/kustomization.yaml")), ids=lambda p: p.parent.name
)
def test_kustomizations_name_files_that_exist_and_build(path):
    said = yaml.safe_load(path.read_text())
    for name in [*said["resources"], *(p["path"] for p in said.get("patches", []))]:
        assert (path.parent / name).exists()
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl to build it with")
    words = ["kubectl", "kustomize", path.parent]
    built = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert built.returncode == 0, built.stderr
    for document in yaml.safe_load_all(built.stdout):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("base/config.yaml", {n: n for n in ("batching.txt", "models.txt", "monitoring.txt")}),
        ("canary/models.yaml", {"models.txt": "models-canary.txt"}),
    ],
)
def test_config_maps_hold_the_config_files_to_the_byte(name, files):
    data = manifest(name, "ConfigMap")["data"]
    assert data == {key: (CONFIGS / file).read_text() for key, file in files.items()}


def test_the_deployment_is_about_the_image_that_the_dockerfile_makes():
    user, group = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE).groups()
    security = DEPLOYMENT["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"]) == (int(user), int(group))
    assert security["runAsNonRoot"] and SERVER["securityContext"]["readOnlyRootFilesystem"]
    probe = re.search(r"HEALTHCHECK .*?(\[.*?\])", DOCKERFILE, re.DOTALL)[1]
    for name in ("startupProbe", "readinessProbe"):
        assert SERVER[name]["exec"]["command"] == json.loads(probe)
    assert COMPOSE["services"]["encoder"]["healthcheck"]["test"] == ["CMD", *json.loads(probe)]
    ports = {p["name"]: p["containerPort"] for p in SERVER["ports"]}
    flags = dict(f.removeprefix("--").partition("=")[::2] for f in dockerfile_flags())
    assert ports == {"grpc": int(flags["port"]), "http": int(flags["rest_api_port"])}
    mounts = {m["name"]: m["mountPath"] for m in SERVER["volumeMounts"]}
    assert mounts["config"] == str(Path(flags["model_config_file"]).parent)


def test_a_pod_has_the_time_to_stop_in_order():
    drain = int(re.search(r"DRAIN_SECONDS:-(\d+)", (SCRIPTS / "serve.sh").read_text())[1])
    asleep = int(SERVER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert asleep + drain < DEPLOYMENT["terminationGracePeriodSeconds"]
    assert drain < int(COMPOSE["services"]["encoder"]["stop_grace_period"].removesuffix("s"))


# -- The image itself ------------------------------------------------------------------------------

PROGRAMS = "bash cat chmod grep id sed sleep sort tail timeout touch tr".split()
SHOW = f"""#!/bin/bash
if [[ $* == --version ]]; then echo "TensorFlow Library: {VERSION}"; exit; fi
printf '%s\\n' "$@"
echo "user $(id -u):$(id -g)"
touch /etc/serving/new /models/new /models/encoder/1/saved_model.pb 2> /dev/null || echo kept out
cat /etc/serving/models.txt /models/encoder/1/saved_model.pb > /dev/null && echo readable
"""


def stand_in(root):
    """As much of the stock image as the Dockerfile uses, from this machine's own programs."""
    for name in ("usr/bin", "usr/lib", "usr/lib64", "usr/local/bin", "etc", "tmp"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    for name in PROGRAMS:
        shutil.copy(shutil.which(name), root / "usr/bin")
        libraries = subprocess.run(
            ["ldd", shutil.which(name)], capture_output=True, text=True, timeout=60
        )
        for library in re.findall(r"/\S+\.so\S*", libraries.stdout):
            (root / library.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library.lstrip("/"))
    (root / "usr/bin/sh").symlink_to("bash")
    (root / "usr/bin/tensorflow_model_server").write_text(SHOW)
    (root / "usr/bin/tensorflow_model_server").chmod(0o755)


@pytest.fixture
def buildah(tmp_path):
    storage = [
        "--storage-driver",
        "vfs",
        "--root",
        tmp_path / "store",
        "--runroot",
        tmp_path / "run",
    ]

    def buildah(*words, check=True):
        done = subprocess.run(
            ["buildah", *storage, *words],
            env=os.environ | {"BUILDAH_ISOLATION": "chroot"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done

    yield buildah
    buildah("rm", "--all")  # and what it has mounted


@pytest.mark.long
@pytest.mark.skipif(
    not shutil.which("buildah") or os.geteuid() != 0, reason="needs buildah, and to be root"
)
def test_the_dockerfile_builds_and_its_image_runs(buildah, port, tmp_path):
    base = tmp_path / "base"
    stand_in(base / "root")
    (base / "Dockerfile").write_text("FROM scratch\nCOPY root/ /\n")
    buildah("bud", "--tag", f"stand-in:{VERSION}", base)
    context = tmp_path / "context"
    shutil.copytree(ROOT / "serving", context / "serving")
    shutil.copy(ROOT / ".dockerignore", context)
    shutil.copy(ROOT / "Dockerfile", context)
    write_graph(context / "models/encoder/1", VERSION)
    write_graph(context / "models/encoder/.tmp-2", VERSION)
    for path in context.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)  # as under the strictest umask

    build = ["bud", "--format", "docker", "--build-arg", "TF_SERVING_IMAGE=localhost/stand-in"]
    buildah(*build, "--tag", "encoder", context)
    made = buildah("from", "encoder").stdout.strip()
    settings = json.loads(buildah("inspect", made).stdout)["Docker"]["config"]
    assert settings["Healthcheck"]["Test"] == ["CMD", "/usr/local/bin/healthcheck.sh"]
    assert settings["StopSignal"] == "SIGTERM"
    ran = buildah("run", made, "--", *settings["Entrypoint"], "--enable_batching=false").stdout
    expected = [*dockerfile_flags(), "--enable_batching=false"]
    assert ran.splitlines() == [*expected, "user 10001:10001", "kept out", "readable"]

    inside = Path(buildah("mount", made).stdout.strip())
    assert [p.name for p in (inside / "models/encoder").iterdir()] == ["1"]
    assert not (inside / "etc/serving/tls.txt").exists()
    ANSWERS["encoder"] = ANSWERS["ready"]
    health = ["bash", "-c", f"HEALTH_PORT={port} healthcheck.sh"]
    assert buildah("run", made, "--", *health).stdout == "healthy: encoder\n"

    shutil.rmtree(context / "models/encoder")
    write_graph(context / "models/encoder/1", "2.99.0")
    refused = buildah(*build, context, check=False)
    assert refused.returncode != 0
    assert "newer than its server" in refused.stdout + refused.stderr
    # Without models in the image, none are looked at.
    buildah(*build, "--target", "server", context)
