"""Training on several devices: the strategies of `tf.distribute`, and the team of workers.

A strategy is no part of a run: it decides where a step is computed, not what it computes. So a run
may go on under another one, or on another number of replicas.
"""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tf_avae.backend import tf
from tf_avae.config import Config
from tf_avae.datasets.base import Part
from tf_avae.errors import InputError
from tf_avae.registry import Registry
from tf_avae.runs import checkpoints

if TYPE_CHECKING:
    from tf_avae.model import AVAE

WORKER_LOST = 75
"""Exit code of a worker that ends because another one is gone: starting all of them again helps
(`EX_TEMPFAIL` of sysexits.h)."""

T = TypeVar("T")


@dataclass(frozen=True)
class Strategy:
    """A way to train on several devices.

    Attributes:
        name: the row's name.
        summary: for `--help` and the docs.
        make: prints notes for the user and returns the strategy of `tf.distribute`.
            TensorFlow must not have been used before.
    """

    name: str
    summary: str
    make: Callable[[Say], tf.distribute.Strategy]


Say = Callable[[str], None]
"""Shows the user a line."""


def _mirrored(say: Say) -> tf.distribute.Strategy:
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    devices = tuple(device.name for device in tf.config.list_logical_devices(kind))
    if len(devices) == 1:
        say(
            f"note: there is one device here, {devices[0]}: mirrored trains on it alone. "
            "--virtual-devices splits a CPU, to try several"
        )
    return _mirror(devices)


@functools.cache
def _mirror(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """One strategy a process: TensorFlow would mix up the collectives of two."""
    return tf.distribute.MirroredStrategy(devices)


def _multiworker(say: Say) -> tf.distribute.Strategy:
    me = place()
    say(f"worker {me.number} of {me.of} (the first is 0): waiting for the others")
    return tf.distribute.MultiWorkerMirroredStrategy()


STRATEGIES: Registry[Strategy] = Registry(
    "strategy",
    Strategy("none", "one device", lambda say: tf.distribute.get_strategy()),
    Strategy("mirrored", "all GPUs of this machine, or its logical CPU devices", _mirrored),
    Strategy(
        "multiworker",
        "a process on each machine, started by the same command; TF_CONFIG says who is who",
        _multiworker,
    ),
)


def place() -> Part:
    """Which worker this process is, by TF_CONFIG.

    Raises:
        InputError: TF_CONFIG is missing, or does not name this process among workers.
    """
    text = os.environ.get("TF_CONFIG")
    example = (
        '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    if not text:
        raise InputError(f"TF_CONFIG is not set; multiworker needs it, such as {example}")
    try:
        said = json.loads(text)
        jobs = {name: list(said["cluster"][name]) for name in said["cluster"]}
        job, index = said["task"]["type"], int(said["task"]["index"])
        others = set(jobs) - {"chief", "worker"}
        if others or job not in jobs or not 0 <= index < len(jobs[job]):
            raise KeyError(job)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"TF_CONFIG is {text}; it must name this process among a cluster of workers, as in "
            f"{example}"
        ) from error
    chiefs = jobs.get("chief", [])
    return Part(index if job == "chief" else len(chiefs) + index, sum(map(len, jobs.values())))


class Team:
    """The processes that train one run together; one of them, the chief, writes it.

    Attributes:
        name: of the strategy.
        strategy: of `tf.distribute`; models are built in its scope.
        place: which worker this process is, and of how many.
    """

    def __init__(self, name: str, virtual_devices: int | None, say: Say):
        """Joins the others; waits for them.

        Args:
            name: a row of `STRATEGIES`.
            virtual_devices: number of devices to split the CPU into, at least 1; None: no split.
            say: shows the user a line.

        Raises:
            InputError: the strategy is not available here.
            tf.errors.OpError: one of `gone()`, if another worker was lost while all were joining.
        """
        self.name = STRATEGIES[name].name
        if virtual_devices is not None:
            _split_cpu(self.name, virtual_devices)
        try:
            self.strategy = STRATEGIES[name].make(say)
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"cannot start strategy {name}: {' '.join(str(error).split())[:300]}; check the "
                "devices and TF_CONFIG, in a new process"
            ) from error
        self.place = place() if name == "multiworker" else Part()
        self._say = say
        self._twin: tuple[AVAE, AVAE] | None = None

    @property
    def is_chief(self) -> bool:
        return self.place.number == 0

    @property
    def replicas(self) -> int:
        return self.strategy.num_replicas_in_sync

    def say(self, text: str) -> None:
        """A line for the user, once."""
        if self.is_chief:
            self._say(text)

    def notes(self) -> dict[str, Any]:
        """The record of this team for provenance."""
        return {"strategy": self.name, "workers": self.place.of, "replicas": self.replicas}

    def check(self, config: Config) -> None:
        """Raises `InputError` unless all replicas can take a run's steps: they get the same number
        of examples, and XLA compiles steps of one alone."""
        batch_size = config.batch_size
        if config.jit == "on" and self.replicas > 1:
            raise InputError(
                f"jit is on and there are {self.replicas} replicas; XLA compiles the steps of one: "
                "give --strategy none, or begin a run with --jit off"
            )
        if batch_size % self.replicas:
            below = batch_size // self.replicas * self.replicas
            near = [str(size) for size in (below, below + self.replicas) if size]
            raise InputError(
                f"batch_size is {batch_size}, the global batch, and there are {self.replicas} "
                f"replicas, which must get as many examples each; give --batch-size "
                f"{' or '.join(near)}, or another number of devices"
            )

    def batches(
        self, make: Callable[[Part], tf.data.Dataset], batch_size: int
    ) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        """Batches for `fit`, of which each worker makes only its own rows.

        Args:
            make: a part to batches of those rows of each global batch, images [rows, H, W, C].
            batch_size: B of the global batch.
        """
        if self.name == "none":
            return make(self.place)
        rows = batch_size // self.replicas

        def of_replicas(context: tf.distribute.InputContext) -> tf.data.Dataset:
            def split(images: tf.Tensor) -> tf.Tensor:
                return tf.reshape(images, (-1, rows, *images.shape[1:]))

            # One element a replica, in order.
            return make(self.place).map(split).unbatch()

        return self.strategy.distribute_datasets_from_function(of_replicas)

    def to_measure(self, model: AVAE) -> AVAE:
        """The model to measure and to draw with: outside of the strategy, so the same numbers under
        every one without the other workers, and with the averages of its weights where the
        optimiser keeps some."""
        from tf_avae.runs.optimizers import averages, use_averages  # imports Keras

        if self.name == "none" and not averages(model):
            return model
        if self._twin is None or self._twin[0] is not model:
            self._twin = model, model.twin()
            self._twin[1].compile()
        twin = self._twin[1]
        twin.set_weights(model.get_weights())
        use_averages(model, twin)
        return twin

    # ------------------------------------------------------------------ agreement

    def first(self, do: Callable[[], T]) -> T:
        """What the chief's `do` returns (which JSON can hold), on every worker; `InputError` too.

        The others wait, and do nothing.
        """
        if self.place.of == 1:
            return do()
        said: dict[str, Any] = {}
        if self.is_chief:
            try:
                said = {"value": do()}
            except InputError as error:
                said = {"error": str(error)}
        said = json.loads(self._from_chief(json.dumps(said).encode()))
        if "error" in said:
            raise InputError(said["error"])
        return said["value"]

    def start_from_chief(self, model: AVAE) -> None:
        """Gives every worker's model the state of the chief's, to the bit."""
        if self.place.of > 1:
            state = checkpoints.model_state(model)
            content = self._from_chief(checkpoints.to_bytes(state, {}) if self.is_chief else b"")
            checkpoints.restore(model, checkpoints.from_bytes(content).arrays)

    def signal(self, received: int | None) -> int | None:
        """The signal that this worker received, or else one that another did: all of them are told
        at the same step."""
        if self.place.of == 1:
            return received
        numbers = (signal.SIGINT, signal.SIGTERM)
        asked = self._total(np.array([received == number for number in numbers], np.int32))
        return received or (int(numbers[asked.argmax()]) if asked.any() else None)

    def _from_chief(self, content: bytes) -> bytes:
        """The chief's bytes, on every worker."""
        if not self.is_chief:
            content = b""
        length = int(self._total(np.array([len(content)], np.int32))[0])
        words = np.zeros(-(-length // 4), np.int32)
        if self.is_chief:
            words = np.frombuffer(content.ljust(4 * len(words), b"\0"), np.int32)
        return self._total(words).tobytes()[:length]

    def _total(self, numbers: np.ndarray) -> np.ndarray:
        """The sum over workers, int32."""
        per_worker = self.replicas // self.place.of

        def of_replica(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
            own = context.replica_id_in_sync_group % per_worker == 0
            return tf.constant(numbers if own else np.zeros_like(numbers))

        values = self.strategy.experimental_distribute_values_from_function(of_replica)
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None).numpy()


def _split_cpu(strategy: str, count: int) -> None:
    if strategy != "mirrored":
        raise InputError(
            f"--virtual-devices is for --strategy mirrored; {strategy} uses one CPU device"
        )
    if count < 1:
        raise InputError(f"--virtual-devices is {count}; it must be at least 1")
    (cpu,) = tf.config.list_physical_devices("CPU")
    try:
        devices = [tf.config.LogicalDeviceConfiguration()] * count
        tf.config.set_logical_device_configuration(cpu, devices)
    except RuntimeError as error:
        raise InputError(
            "--virtual-devices comes too late: this process has used TensorFlow before; start a "
            "new one"
        ) from error


def gone() -> tuple[type[Exception], ...]:
    """The errors that collectives raise when a worker is gone."""
    return (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.FailedPreconditionError,
        tf.errors.InternalError,
    )
