"""Several devices train as one does: two CPU devices of a process, and two processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import numpy as np
import pytest
import yaml

from tests.in_process import run_module
from tf_avae.datasets.base import Part
from tf_avae.datasets.indexed import Indexed, IndexedImages
from tf_avae.objectives import OBJECTIVES
from tf_avae.runs import checkpoints
from training import fit, strategies

ROOT = Path(__file__).parent.parent
# Intervals that divide neither one another nor the steps.
OPTIONS = [
    *("--steps", "12", "--batch-size", "16", "--latent-dim", "4", "--log-every", "5"),
    *("--checkpoint-every", "4", "--eval-every", "7", "--eval-images", "121"),
    *("--ema-momentum", "0.5"),
]
# Sums in another order; Adam's first steps make much of it.
CLOSE = {"rtol": 1e-3, "atol": 1e-5}


def final_state(run):
    return checkpoints.load(max((run / "checkpoints").iterdir()))


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_close(one, other):
    """Two runs that took the same steps: weights, optimiser, what was written of them."""
    a, b = final_state(one), final_state(other)
    assert a.meta["step"] == b.meta["step"]
    for name in a.arrays:
        np.testing.assert_allclose(a.arrays[name], b.arrays[name], **CLOSE, err_msg=name)
    for mine, others in zip(rows(one), rows(other), strict=True):
        assert mine.keys() == others.keys()
        for name, value in mine.items():
            same = value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-4)
            assert others[name] == same, name
    assert {p.name for p in (one / "pictures").iterdir()} == {
        p.name for p in (other / "pictures").iterdir()
    }


def assert_same(one, other):
    a, b = final_state(one), final_state(other)
    for name in a.arrays:
        np.testing.assert_array_equal(a.arrays[name], b.arrays[name], err_msg=name)
    for file in ("metrics.jsonl", "result.json"):
        assert (one / file).read_bytes() == (other / file).read_bytes(), file


# -- Two devices of one process --------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_devices(request, tmp_path_factory, few_digits, small_images):
    """What tests/two_devices.py found, and the folder of the runs that it made."""
    algos = [
        item.callspec.params["algo"]
        for item in request.session.items
        if item.originalname == test_two_replicas_take_the_steps_of_one.__name__
    ]
    folder = tmp_path_factory.mktemp("two-devices")
    np.save(folder / "images.npy", small_images)
    options = [*OPTIONS, "--algo", "vae", "--data-dir", str(few_digits)]
    done = subprocess.run(
        [sys.executable, "tests/two_devices.py", folder, json.dumps(algos), *options],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=560,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, json.loads((folder / "found.json").read_text())


# The terms of the other three are among those of these.
@pytest.mark.parametrize(
    "algo",
    [
        name if name in ("se_avae", "avae_ss") else pytest.param(name, marks=pytest.mark.long)
        for name in OBJECTIVES
    ],
)
def test_two_replicas_take_the_steps_of_one(two_devices, algo):
    """With batch normalisation: `se` in a Euclidean ball, `se_avae` with all passes normalised by
    their own batch, `adversarial_elbo` by the clean one."""
    found = two_devices[1]["steps"][algo]
    for what, terms in found["alone"].items():
        for name, value in terms.items():
            assert found["both"][what][name] == pytest.approx(value, rel=1e-5, abs=1e-4)
    assert 0 < found["apart"] < 1e-3 * found["moved"]


def test_a_term_that_is_not_finite_on_one_replica_is_noted_by_all(two_devices):
    assert two_devices[1]["nonfinite"] == [1, list(OBJECTIVES["vae"].terms)]


def test_a_gradient_that_overflows_on_one_replica_is_skipped_by_all(two_devices):
    found = two_devices[1]["overflow"]
    assert found["scales"] == [found["initial_scale"] / 2] * 2
    assert found["moved"] == 0


def test_a_mirrored_run_is_that_of_one_device(two_devices):
    folder, _ = two_devices
    assert_close(folder / "none", folder / "mirrored")
    said = json.loads((folder / "mirrored/provenance.json").read_text())["sessions"]
    assert [(s["strategy"], s["replicas"]) for s in said] == [("mirrored", 2)]


def test_a_mirrored_run_resumes_to_the_bit(two_devices):
    folder, _ = two_devices
    assert_same(folder / "mirrored", folder / "stopped")


def test_a_run_goes_on_with_another_number_of_replicas(two_devices):
    folder, found = two_devices
    assert found["codes"] == [128 + signal.SIGTERM, 128 + signal.SIGTERM, 0]
    assert_close(folder / "none", folder / "changing")
    said = json.loads((folder / "changing/provenance.json").read_text())["sessions"]
    assert [s["replicas"] for s in said] == [2, 1, 2]


def test_a_batch_that_does_not_divide_is_refused(two_devices):
    code, said = two_devices[1]["odd batch"]
    assert code == 2
    assert "batch_size is 15" in said and "2 replicas" in said and "--batch-size 14 or 16" in said


# -- Input -----------------------------------------------------------------------------------------


def take(dataset, count):
    return [batch for batch, _ in dataset.take(count).as_numpy_iterator()]


def test_parts_of_a_batch_are_the_batch(color_mnist):
    whole = take(color_mnist.train(12, seed=3, start=9998), 3)  # into the second epoch
    parts = [take(color_mnist.train(12, seed=3, start=9998, part=Part(i, 3)), 3) for i in range(3)]
    for batch, *of_parts in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(batch, np.concatenate(of_parts))


def test_a_worker_fetches_its_own_rows_only():
    pixels = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1) * np.ones((1, 2, 2, 1), np.uint8)
    fetched = []

    def fetch(positions):
        fetched.append(len(positions))
        return pixels[positions]

    split = Indexed(fetch, {}, 20)
    data = IndexedImages("numbers", (2, 2, 1), split, split, {}, ())
    (whole,) = take(data.train(8, seed=1), 1)
    fetched.clear()
    (second,) = take(data.train(8, seed=1, part=Part(1, 2)), 1)
    np.testing.assert_array_equal(second, whole[4:])
    assert set(fetched) == {4}


# -- The command line ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "cluster", "said"),
    [
        (["--virtual-devices", "2"], None, "--virtual-devices is for --strategy mirrored"),
        (["--strategy", "mirrored", "--virtual-devices", "0"], None, "must be at least 1"),
        (["--strategy", "mirrored", "--virtual-devices", "2"], None, "comes too late"),
        (["--strategy", "tpu"], None, "invalid choice: 'tpu'"),
        (["--strategy", "multiworker"], None, "TF_CONFIG is not set"),
        (["--strategy", "multiworker"], "{", "TF_CONFIG is {;"),
        (
            ["--strategy", "multiworker"],
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            "must name this process among a cluster of workers",
        ),
        (
            ["--strategy", "multiworker"],
            '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}',
            "must name this process among a cluster of workers",
        ),
    ],
)  # fmt: skip
def test_bad_devices_are_refused_in_a_line(words, cluster, said, monkeypatch, tmp_path):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if cluster:
        monkeypatch.setenv("TF_CONFIG", cluster)
    run = tmp_path / "run"
    code, _, err = run_module("training.fit", "--algo", "vae", "--run-dir", run, *words)
    assert code == 2
    assert said in err and err.count("\n") == 1
    assert not run.exists()


def test_one_command_begins_a_run_and_goes_on_with_it(tmp_path, few_digits):
    words = ["--algo", "vae", *OPTIONS, "--data-dir", few_digits, "--run-dir", tmp_path / "run"]
    assert run_module("training.fit", *words, "--begin-or-resume")[0] == 0
    code, out, _ = run_module("training.fit", *words, "--begin-or-resume")
    assert code == 0 and "this run is complete" in out
    code, _, err = run_module("training.fit", *words, "--begin-or-resume", "--rho", "0.5")
    assert code == 2 and "another config: rho 0.5" in err


def test_a_signal_that_comes_while_workers_agree_is_not_lost(tmp_path, few_digits, monkeypatch):
    agree, asked = strategies.Team.signal, []

    def signal_meanwhile(self, received):
        asked.append(received)
        agreed = agree(self, received)
        if len(asked) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return agreed

    monkeypatch.setattr(strategies.Team, "signal", signal_meanwhile)
    words = ["--algo", "vae", *OPTIONS, "--steps-per-execution", "1", "--data-dir", few_digits]
    run = tmp_path / "run"
    code, _, _ = run_module("training.fit", *words, "--run-dir", run)
    assert code == 128 + signal.SIGTERM
    assert asked == [None, None, None, signal.SIGTERM]
    assert final_state(run).meta["step"] == 4


# -- Two processes ---------------------------------------------------------------------------------


def free_ports(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Workers:
    """Two workers on this machine, started together."""

    def __init__(self, run, few_digits, *more, kill=None, at="0:5", by=signal.SIGKILL):
        addresses = [f"localhost:{port}" for port in free_ports(2)]
        self.logs = [run.parent / f"{run.name}-{index}.log" for index in range(2)]
        self.processes = []
        for index, log in enumerate(self.logs):
            task = {"type": "worker", "index": index}
            cluster = json.dumps({"cluster": {"worker": addresses}, "task": task})
            environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CONFIG": cluster}
            if kill == index:
                environment |= {"KILL_AT": at, "KILL_BY": str(int(by))}
            else:
                environment |= {"KILL_AT": "9:9"}
            words = ["--strategy", "multiworker", "--begin-or-resume", "--run-dir", str(run)]
            words += ["--data-dir", str(few_digits), *more]
            with log.open("a") as file:
                process = subprocess.Popen(
                    [sys.executable, "tests/killed_fit.py", *OPTIONS, *words],
                    cwd=ROOT, env=environment, stdout=file, stderr=file,
                )  # fmt: skip
            self.processes.append(process)

    def wait(self, timeout=240):
        """Their exit codes."""
        end = time.monotonic() + timeout
        try:
            return [p.wait(max(end - time.monotonic(), 0.1)) for p in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def said(self):
        return "\n".join(log.read_text() for log in self.logs)


@pytest.mark.long
def test_two_processes_stop_together_and_one_goes_on(tmp_path, few_digits):
    alone, team = tmp_path / "alone", tmp_path / "team"
    vae = ["--algo", "avae"]
    workers = Workers(team, few_digits, *vae, kill=1, by=signal.SIGTERM)
    more = ["--data-dir", few_digits, "--run-dir"]
    assert run_module("training.fit", *vae, *OPTIONS, *more, alone)[0] == 0
    assert workers.wait() == [128 + signal.SIGTERM] * 2, workers.said()
    assert final_state(team).meta["step"] == 6
    # Once, and by the chief.
    assert workers.logs[0].read_text().count("saved. To go on") == 1
    assert "saved. To go on" not in workers.logs[1].read_text()
    assert run_module("training.fit", *more, team, "--resume")[0] == 0
    assert_close(alone, team)


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1], ids=["chief", "other"])
def test_a_worker_that_is_killed_does_not_lose_the_run(tmp_path, few_digits, victim):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    options = ["--algo", "se", "--pgd-steps", "2"]
    assert Workers(straight, few_digits, *options).wait() == [0, 0]
    workers = Workers(killed, few_digits, *options, kill=victim)
    codes = workers.wait(120)
    assert codes[victim] == -signal.SIGKILL
    # TensorFlow itself aborts where the first worker, which coordinates, is gone.
    assert codes[1 - victim] in (strategies.WORKER_LOST, -signal.SIGABRT), workers.said()
    assert not (killed / "result.json").exists()
    again = Workers(killed, few_digits, *options)
    assert again.wait() == [0, 0], again.said()
    assert "going on with se after step 4" in again.said()
    assert_same(straight, killed)


# -- Kubernetes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifests():
    text = (ROOT / "training/kubernetes/job.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def test_manifests_are_valid(manifests):
    assert set(manifests) == {"Job", "Service", "NetworkPolicy", "PersistentVolumeClaim"}
    for document in manifests.values():
        for version in ("1.28", kubernetes_validate.latest_version()):
            kubernetes_validate.validate(document, version, strict=True)


def test_each_pod_of_the_job_finds_itself_among_the_workers(manifests, monkeypatch):
    job, service = manifests["Job"], manifests["Service"]
    pod = job["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    count = job["spec"]["completions"]
    assert job["spec"]["parallelism"] == count
    environment = {item["name"]: item.get("value") for item in container["env"]}
    for index in range(count):
        text = environment["TF_CONFIG"].replace("$(INDEX)", str(index))
        monkeypatch.setenv("TF_CONFIG", text)
        assert strategies.place() == Part(index, count)
        name, port = json.loads(text)["cluster"]["worker"][index].split(":")
        assert name == f"{job['metadata']['name']}-{index}.{service['metadata']['name']}"
        assert int(port) == container["ports"][0]["containerPort"]
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    for selector in (service["spec"]["selector"], manifests["NetworkPolicy"]["spec"]["podSelector"]
                     ["matchLabels"]):  # fmt: skip
        assert selector.items() <= pod["metadata"]["labels"].items()


def test_the_job_runs_the_command_and_knows_its_exit_codes(manifests):
    spec = manifests["Job"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["command"][1:] == ["-m", "training.fit"]
    given = fit.parser().parse_args(container["args"])
    assert given.strategy == "multiworker" and given.begin_or_resume
    assert given.batch_size % spec["completions"] == 0
    fail, ignore, _ = spec["podFailurePolicy"]["rules"]
    assert fail["onExitCodes"]["values"] == [1, 2]
    stops = [128 + signal.SIGINT, 128 + signal.SIGTERM]
    assert ignore["onExitCodes"]["values"] == [strategies.WORKER_LOST, *stops]
