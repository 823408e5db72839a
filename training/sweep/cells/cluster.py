"""Cells as tasks of a Ray cluster, whose nodes share the sweep's folder.

Ray decides which node does a cell, and begins it anew where a node is lost. The rest is as on one
machine: a task runs the cell's command, which holds the cell's lock and goes on from what is saved.
"""

import contextlib
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from tf_avae import plugins
from tf_avae.console.printing import say
from tf_avae.errors import InputError, reason
from training.sweep.cells.folder import SweepFolder
from training.sweep.cells.work import PAUSE, begin

_RETRIES = 3
"""How often a task is begun anew whose node, or process, was lost."""

_ANSWER = 10.0
"""Seconds within which a cluster answers."""

_SAVING = 60.0
"""Seconds in which a command saves whose task was lost: so long its cell stays locked."""

_SEEN = 60.0
"""Seconds within which what a node wrote is seen on another: caches of network storage."""

_TAKEN_ALONG = ("PYTHONPATH", "TF_", "XLA_", "KERAS_", "OMP_", "OPENBLAS_", "TFDS_")
"""What begins so among the environment's variables decides what commands compute or find."""


def _do(
    path: str, name: str, folder: str, threads: int, flags: list[str], environment: dict[str, str]
) -> bool:
    """A task: does a cell, unless another process has it in work. Whether the cell is done.

    Args:
        path: the sweep's folder.
        name: the cell's.
        folder: in which the sweep was begun; results have commands with paths from there.
        threads, flags, environment: as `begin` takes them.
    """
    if not Path(folder).is_dir() or not Path(path).is_dir():
        raise InputError(
            f"{path} and {folder} are not on the node {ray.util.get_node_ip_address()}; put the "
            "sweep on storage that all nodes share"
        )
    os.chdir(folder)
    sweep = SweepFolder.open(path)
    deadline = time.monotonic() + _SAVING
    how: dict[str, Any] = {"threads": threads, "flags": flags, "environment": environment}
    while (work := begin(sweep, name, **how)) is None:
        if sweep.done(name) or time.monotonic() > deadline:
            return sweep.done(name)
        time.sleep(PAUSE)
    try:
        while not work.over():
            time.sleep(PAUSE)
    except BaseException:  # cancelled, or the node is told to end
        work.stop(signal.SIGTERM)
        raise
    finally:
        work.end()
    return sweep.done(name)


class _Task:
    """A cell that was given to the cluster."""

    def __init__(self, result: Any, sweep: SweepFolder, name: str):
        self._result, self._sweep, self._name = result, sweep, name

    def over(self) -> bool:
        return bool(ray.wait([self._result], timeout=0)[0])

    def stop(self, signum: int) -> None:
        ray.cancel(self._result)

    def end(self) -> str:
        try:
            done = ray.get(self._result)
        except RayTaskError as error:  # what the task itself raised
            return reason(error.cause)
        except RayError as error:
            return reason(error)
        # What another node has written may take a while to be seen here.
        deadline = time.monotonic() + _SEEN
        while done and not self._sweep.done(self._name) and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                list(self._sweep.result(self._name).parent.iterdir())  # asks the server anew
            time.sleep(PAUSE)
        return ""


class _Cluster:
    """A Ray cluster that this process is connected to.

    Args:
        cpus: cores of each cell.
        gpus: GPUs of each cell.

    Attributes:
        at_once: no limit: the cluster has a queue.
        queues: so it is.
    """

    at_once = 10**9
    queues = True

    def __init__(self, cpus: int, gpus: float):
        self._cpus = cpus
        self._do = ray.remote(_do)
        self._options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": _RETRIES}
        # Ray hides GPUs of others from those who have some, and none from those who have none.
        self._devices = {} if gpus else {"CUDA_VISIBLE_DEVICES": "-1"}
        if 0 < gpus < 1:
            self._devices["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"

    def begin(self, sweep: SweepFolder, name: str) -> _Task:
        """As `Place.begin`; whether another process has the cell the task finds out."""
        given = str(sweep.path), name, str(Path.cwd()), self._cpus, plugins.flags(), self._devices
        task = self._do.options(name=name, **self._options).remote(*given)
        return _Task(task, sweep, name)


@contextlib.contextmanager
def cluster(address: str, cpus: int, gpus: float) -> Iterator[_Cluster]:
    """A Ray cluster for a block. Begin it before `StopSignals`: Ray takes SIGTERM for itself.

    Args:
        address: of its head, or "auto", or "local" for one that ends with the block.
        cpus: cores of each cell.
        gpus: GPUs of each cell.

    Raises:
        InputError: nothing answers there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    taken = {name: value for name, value in os.environ.items() if name.startswith(_TAKEN_ALONG)}
    try:
        if re.fullmatch(r"[^/]+:\d+", address):  # of which Ray would wait for minutes
            host, port = address.rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=_ANSWER).close()
        ray.init(
            address=address, runtime_env={"env_vars": taken}, log_to_driver=False,
            logging_level=logging.ERROR,
        )  # fmt: skip
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise InputError(
            f"no Ray cluster answers at {address!r}: {reason(error)}; give the HOST:PORT that "
            "`ray start --head` printed, on one of its nodes, or local"
        ) from error
    try:
        _say_what_waits(cpus, gpus)
        yield _Cluster(cpus, gpus)
    finally:
        ray.shutdown()


def _say_what_waits(cpus: int, gpus: float) -> None:
    """Says where no node is large enough for a cell."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(has.get("CPU", 0) >= cpus and has.get("GPU", 0) >= gpus for has in nodes):
        say(
            f"note: none of the cluster's {len(nodes)} nodes has {cpus} cores and {gpus:g} GPUs; "
            "cells wait until one joins"
        )
