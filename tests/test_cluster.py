"""Sweeps on a Ray cluster of several nodes on this machine, which Ray's own test harness makes."""

import argparse
import signal
import sys
import threading
from pathlib import Path

import kubernetes_validate
import pytest
import ray
import yaml
from ray.cluster_utils import Cluster
from scripted_cells import Signals, alive, count, declared, script, starts, steps, wait_for
from test_resume import assert_same

from tf_avae.config import Config
from tf_avae.errors import InputError
from tf_avae.runs.plan import resolve
from training.signals import Interrupted
from training.sweep import __main__ as command
from training.sweep.cells import cluster as tasks
from training.sweep.cells import engine, folder
from training.sweep.cells.declaration import Declaration, fit_cell
from training.sweep.cells.folder import SweepFolder
from training.sweep.cells.places import check_place, place_of


def do_scripted(*given):
    """A task as it is, in a process that knows scripted cells."""
    from scripted_cells import SCRIPTED

    from tf_avae.registry import Registry
    from training.sweep.cells import cluster, folder

    folder.KINDS = Registry("kind of cell", SCRIPTED)
    return cluster._do(*given)


@pytest.fixture
def scripted(monkeypatch):
    """Cells are scripts, here and on the nodes."""
    from scripted_cells import SCRIPTED

    from tf_avae.registry import Registry

    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    monkeypatch.setattr(folder, "KINDS", Registry("kind of cell", SCRIPTED))
    monkeypatch.setattr(tasks, "_do", do_scripted)


@pytest.fixture(scope="module")
def cluster():
    """Its head does no cells."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield made
    made.shutdown()


@pytest.fixture
def nodes(cluster):
    """That cluster; what a test adds to it is gone after the test, whatever it found."""
    before = set(cluster.list_all_nodes())
    yield cluster
    for node in set(cluster.list_all_nodes()) - before:
        cluster.remove_node(node)


def run(sweep, address, signals=None, **options):
    words = {"processes": None, "cluster": address, "cell_cpus": None, "cell_gpus": None} | options
    with place_of(argparse.Namespace(**words)) as place:
        cells = list(sweep.declaration.cells)
        return engine.run_cells(sweep, cells, place=place, signals=signals or Signals())


def test_a_node_killed_in_the_middle_loses_nothing_and_nothing_is_done_twice(
    tmp_path, nodes, scripted
):
    """Its cells go on, from what they saved, on a node that is left."""
    first, _ = (nodes.add_node(num_cpus=2) for _ in range(2))
    made = [script(f"c{n}", steps=9_999, pause=0.05) for n in range(4)]
    made += [script("after", *(cell.name for cell in made)), script("bad", code=3)]
    sweep = SweepFolder.create(tmp_path / "s", declared(*made))

    def kill():
        names = [f"c{n}" for n in range(4)]
        wait_for(lambda: all(count(sweep, name) > 3 for name in names), 180)
        nodes.remove_node(first, allow_graceful=False)
        pids = [int(starts(sweep, name)[0].split()[0]) for name in names]
        wait_for(lambda: sum(map(alive, pids)) == 2, 180)
        (sweep.path / "cells" / "enough").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    assert run(sweep, nodes.address) == (["bad"], [])
    killer.join()
    begun = {cell.name: starts(sweep, cell.name) for cell in made}
    again = [name for name, lines in begun.items() if len(lines) == 2]
    assert len(again) == 2 and {len(lines) for lines in begun.values()} == {1, 2}
    for n in range(4):
        name = f"c{n}"
        # Each step is made once, whichever command made it.
        assert sweep.done(name) and 3 < count(sweep, name) < 9_999
        assert steps(sweep, name) == list(range(count(sweep, name)))
        assert len(sweep.sessions(name)) == len(begun[name])
        assert not any(alive(int(line.split()[0])) for line in begun[name])
    assert sweep.state("bad").reason == "exit code 3: went wrong"


@pytest.mark.long
def test_a_signal_ends_what_runs_and_nothing_more_is_begun(tmp_path, nodes, scripted):
    nodes.add_node(num_cpus=2)
    made = [script(name, steps=9_999, pause=0.05) for name in "abc"]
    sweep = SweepFolder.create(tmp_path / "s", declared(*made))
    signals = Signals()

    def running():
        return [cell.name for cell in made if count(sweep, cell.name) > 2]

    def stop():
        wait_for(lambda: len(running()) == 2, 180)
        signals.received = signal.SIGINT

    threading.Thread(target=stop).start()
    with pytest.raises(Interrupted):
        run(sweep, nodes.address, signals)
    stopped = running()
    for cell in made:
        if cell.name in stopped:
            assert sweep.sessions(cell.name)[-1].code == 143
            assert sweep.state(cell.name).name == "stopped"
            assert sweep.last_line(cell.name) == "saved"
        else:
            assert starts(sweep, cell.name) == []
        for line in starts(sweep, cell.name):
            assert not alive(int(line.split()[0]))


@pytest.mark.parametrize(
    ("gpus", "devices"),
    [
        (0.0, {"CUDA_VISIBLE_DEVICES": "-1"}),
        (0.5, {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}),
        (1.0, {}),
    ],
)
def test_cells_see_the_gpus_that_are_theirs(gpus, devices):
    assert tasks._Cluster(1, gpus)._devices == devices


def test_what_a_node_cannot_do_is_told(tmp_path, nodes, scripted, capsys, monkeypatch):
    nodes.add_node(num_cpus=1)
    sweep = SweepFolder.create(tmp_path / "s", declared(script("a")))
    monkeypatch.setattr(tasks.Path, "cwd", lambda: tmp_path / "elsewhere")
    assert run(sweep, nodes.address) == (["a"], [])
    assert "put the sweep on storage that all nodes share" in capsys.readouterr().out
    monkeypatch.undo()
    with place_of(argparse.Namespace(cluster=nodes.address, cell_cpus=64, cell_gpus=0.5)):
        said = capsys.readouterr().out
    assert "none of the cluster's 2 nodes has 64 cores and 0.5 GPUs" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"processes": 0}, "processes is 0; it must be at least 1"),
        ({"cluster": "auto", "cell_cpus": 0}, "cell_cpus is 0; it must be at least 1"),
        ({"cluster": "auto", "cell_gpus": 1.5}, "cell_gpus is 1.5; it must be a share of one GPU"),
        ({"cluster": "auto", "cell_gpus": float("nan")}, "cell_gpus is nan"),
        ({"cluster": "auto", "processes": 2}, "--cluster has a queue of its own; give one"),
        ({"cell_gpus": 1.0}, "--cell-gpus is of cells on a cluster; give --cluster"),
        ({"cell_cpus": 2}, "--cell-cpus is of cells on a cluster; give --cluster"),
        ({"cluster": ""}, "--cluster is empty"),
    ],
)
def test_flags_of_a_place_are_checked(options, words):
    good = {"processes": None, "cluster": None, "cell_cpus": None, "cell_gpus": None}
    check_place(argparse.Namespace(**good))
    check_place(argparse.Namespace(**good | {"cluster": "auto", "cell_cpus": 2, "cell_gpus": 0.5}))
    with pytest.raises(InputError, match=words):
        check_place(argparse.Namespace(**good | options))


def test_without_a_cluster_there_or_ray_it_says_so(monkeypatch):
    asked = {"cell_cpus": 1, "cell_gpus": 0.0}
    for address in ("127.0.0.1:9", "no-such-host:6379", "127.0.0.1:99999999", "nonsense"):
        with (
            pytest.raises(InputError, match=f"no Ray cluster answers at '{address}'"),
            place_of(argparse.Namespace(cluster=address, **asked)),
        ):
            pass
    monkeypatch.setitem(sys.modules, "training.sweep.cells.cluster", None)
    with (
        pytest.raises(InputError, match=r"pip install 'tf-avae\[ray\]'"),
        place_of(argparse.Namespace(cluster="local", **asked)),
    ):
        pass


def test_a_training_on_the_cluster_is_the_one_here_bit_by_bit(tmp_path, few_digits, nodes):
    nodes.add_node(num_cpus=1)
    config = Config(
        algo="avae", dataset="color_mnist", data_dir=str(few_digits), steps=20, log_every=10,
        latent_dim=4, batch_size=16,
    )  # fmt: skip
    made = Declaration("one", {}, (fit_cell("a", resolve(config)),))
    sweeps = [SweepFolder.create(tmp_path / name, made) for name in ("here", "there")]
    assert run(sweeps[0], None) == run(sweeps[1], nodes.address) == ([], [])
    assert_same(*(sweep.output("a") for sweep in sweeps))


def test_the_sweep_on_kubernetes():
    """KubeRay's own kind has no schema here; its pods are Kubernetes' own."""
    text = (Path(__file__).parent.parent / "training/kubernetes/sweep.yaml").read_text()
    found = {document["kind"]: document for document in yaml.safe_load_all(text)}
    job = found.pop("RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}} | group["template"]
            for group in groups]  # fmt: skip
    assert set(found) == {"NetworkPolicy", "PersistentVolumeClaim"}
    for document in (*found.values(), *pods):
        for version in ("1.28", kubernetes_validate.latest_version()):
            kubernetes_validate.validate(document, version, strict=True)
    assert cluster["rayVersion"] == ray.__version__
    python, *words = job["spec"]["entrypoint"].split()
    assert python == "python" and words[:2] == ["-m", "training.sweep"]
    given = command.parser().parse_args(words[2:])
    check_place(given)
    # Every worker has room for a cell, and the head makes none.
    assert groups[0]["rayStartParams"]["num-cpus"] == "0" and given.cluster == "auto"
    for pod in pods[1:]:
        limits = pod["spec"]["containers"][0]["resources"]["limits"]
        assert int(limits["cpu"]) >= given.cell_cpus
        assert float(limits["nvidia.com/gpu"]) >= given.cell_gpus > 0
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert given.out.startswith(container["volumeMounts"][0]["mountPath"])
