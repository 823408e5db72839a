"""The versions of models: found in folders, loaded, warmed up, made current and unloaded, without
dropping a request.

The event loop changes all state; threads load and close.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorflow_serving.apis import model_pb2

from serving.server import metrics
from serving.server.batching import Scheduler
from serving.server.model_configs import (
    ModelConfig,
    ModelConfigList,
    check,
    folder_of,
    versions_in,
    wanted_of,
)
from serving.server.servable import Servable
from serving.server.status import Code, StatusError, invalid, of_exception
from serving.server.version import State, Version
from tf_avae.backend import tf
from tf_avae.errors import InputError

log = logging.getLogger(__name__)

_MOST_REMOVED = 100  # models that are no longer configured, and whose history is kept


@dataclass(frozen=True)
class Options:
    """How versions are loaded; the defaults are TensorFlow Serving's.

    Attributes:
        poll: seconds between looks at the folders; 0: only one look.
        retries: times that loading is tried again after it failed.
        retry_interval: seconds between those.
        threads: versions loaded at once.
        warm_up: whether to replay a version's warm-up requests.
        warm_up_iterations: how often each of them.
        labels_for_unavailable: whether a new label may name a version that is not available.
        session: of each version.
        trust: whether to load versions whose graphs may do more than compute.
    """

    poll: float = 1.0
    retries: int = 5
    retry_interval: float = 60.0
    threads: int = 1
    warm_up: bool = True
    warm_up_iterations: int = 1
    labels_for_unavailable: bool = False
    session: Any = field(default_factory=tf.compat.v1.ConfigProto)
    trust: bool = False


class Model:
    """A model's folder and the versions seen there so far."""

    def __init__(self, config: ModelConfig):
        self.config = config
        self.versions: dict[int, Version] = {}
        self.aspired: dict[int, Path] = {}
        self.configured = True
        self.trouble = ""
        self.labels: dict[str, int] = dict(config.version_labels)

    @property
    def name(self) -> str:
        return self.config.name

    def available(self) -> list[int]:
        """The versions that are available, smallest first."""
        return sorted(n for n, v in self.versions.items() if v.state == State.AVAILABLE)

    def settled(self) -> bool:
        """Whether a version is available, or all have failed.

        A version that ended without an error was unloaded as unwanted, and is loaded again.
        """
        versions = [self.versions[n] for n in self.aspired]
        failed = [v.state == State.END and v.error is not None for v in versions]
        return bool(self.available()) or all(failed)


class Manager:
    """Loads and unloads versions as the folders and the config want them, and calls `changed` after
    every change of a state."""

    def __init__(self, options: Options, scheduler: Scheduler, changed: Callable[[], None]):
        self.models: dict[str, Model] = {}
        self.options = options
        self._scheduler = scheduler
        self._changed = changed
        self._tasks: dict[Version, asyncio.Task] = {}
        self._pool = ThreadPoolExecutor(max(1, options.threads), "load")
        self._event = asyncio.Event()

    # ------------------------------------------------------------------ asking

    @contextmanager
    def using(self, spec: model_pb2.ModelSpec) -> Iterator[Version]:
        """The version that a request asks for, kept loaded while the block runs; raises
        `StatusError` if the model, version or label is missing or not available."""
        version = self._find(spec)
        version.users += 1
        try:
            yield version
        finally:
            version.users -= 1
            if not version.users:
                version.unused.set()

    def _find(self, spec: model_pb2.ModelSpec) -> Version:
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        model = self.models.get(spec.name)
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            labels = model.labels if model else {}
            if spec.version_label not in labels:
                raise invalid(f"Unrecognized servable version label: {spec.version_label}")
            wanted = labels[spec.version_label]
        elif choice == "version":
            wanted = spec.version.value
        else:
            wanted = max(model.available(), default=-1) if model else -1
        version = model.versions.get(wanted) if model else None
        if version is None or version.state != State.AVAILABLE:
            asked = f"Specific({spec.name}, {wanted})" if choice else f"Latest({spec.name})"
            raise StatusError(Code.NOT_FOUND, f"Servable not found for request: {asked}")
        return version

    def ready(self) -> bool:
        """Whether every model has an available version."""
        models = [model for model in self.models.values() if model.configured]
        return bool(models) and all(model.available() for model in models)

    # ------------------------------------------------------------------ config

    async def configure(self, configs: ModelConfigList) -> None:
        """Makes these the models, and waits until the new ones are available or have failed.

        Raises:
            StatusError: the config is not valid (then nothing changes), or a new model failed.
        """
        self._check(configs)
        before = {name for name, model in self.models.items() if model.configured}
        for name in before - {config.name for config in configs.config}:
            self.models[name].configured = False
            self.models[name].labels = {}
        for config in configs.config:
            model = self.models.setdefault(config.name, Model(config))
            model.config, model.configured = config, True
            metrics.know_model(config.name)
            model.labels = dict(config.version_labels)
        self.scan()
        added = [self.models[c.name] for c in configs.config if c.name not in before]
        while not all(model.settled() for model in added):
            self._event.clear()
            await self._event.wait()
        failed = [model for model in added if model.aspired and not model.available()]
        if failed:
            reasons = ", ".join(
                f"{{name: {version.model} version: {version.number}}} due to error: {version.error}"
                for model in failed
                for version in model.versions.values()
                if version.error
            )
            raise StatusError(
                Code.UNKNOWN, f"{len(failed)} model(s) did not become available: {{{reasons}}}"
            )

    def _check(self, configs: ModelConfigList) -> None:
        check(configs)
        for config in configs.config:
            model = self.models.get(config.name)
            for label, version in config.version_labels.items():
                new = model is None or model.labels.get(label, version) == version
                if new and self.options.labels_for_unavailable:
                    continue
                if model is None or version not in model.available():
                    raise StatusError(
                        Code.FAILED_PRECONDITION,
                        f"Request to assign label to version {version} of model {config.name}, "
                        "which is not currently available for inference",
                    )

    # ------------------------------------------------------------------ folders

    async def poll(self) -> None:
        """Looks at the folders again and again."""
        while self.options.poll > 0:
            await asyncio.sleep(self.options.poll)
            try:
                self.scan()
            except Exception:  # the next look may succeed
                log.exception("could not look for versions")

    def scan(self) -> None:
        """Looks at the folders once, and begins to load and unload."""
        for model in self.models.values():
            if model.configured:
                self._look(model)
            else:
                model.aspired = {}
            self._step(model)
        self._forget()
        self._event.set()
        self._changed()

    def _look(self, model: Model) -> None:
        base = folder_of(model.config.base_path)
        try:
            found = versions_in(base)
        except (OSError, ValueError) as error:
            self._warn(model, f"could not read {base}: {error}")
            return  # what is loaded stays
        wanted = wanted_of(model.config, sorted(found))
        self._warn(model, "" if wanted else f"no versions of {model.name} under {base}")
        for value in wanted:
            known = model.versions.get(value)
            # One that could not be loaded is not tried again until it went away and came back.
            again = value not in model.aspired
            if known is None or (known.state == State.END and again):
                model.versions[value] = Version(model.name, value, found[value])
        model.aspired = {value: found[value] for value in wanted}

    def _warn(self, model: Model, trouble: str) -> None:
        """Logs once what is wrong with a folder."""
        if trouble and trouble != model.trouble:
            log.warning(trouble)
        model.trouble = trouble

    def _step(self, model: Model) -> None:
        """Loads new versions, and unloads unwanted ones once a wanted one is available: TensorFlow
        Serving's AvailabilityPreservingPolicy."""
        for value in sorted(model.aspired, reverse=True):
            version = model.versions[value]
            if version.state == State.END and version.error is None:
                # It was unloaded, and is wanted again.
                version = model.versions[value] = Version(model.name, value, model.aspired[value])
            if version.state == State.START and version not in self._tasks:
                self._begin(model, version, self._load)
        serving = model.available()
        unwanted = [value for value in serving if value not in model.aspired]
        replaced = not model.aspired or any(value in model.aspired for value in serving)
        for value in unwanted:
            if replaced or (len(unwanted) > 1 and value != unwanted[-1]):
                version = model.versions[value]
                self._set(version, State.UNLOADING)
                self._begin(model, version, self._unload)

    def _forget(self) -> None:
        """Drops the oldest of the models that are gone."""
        gone = [
            name for name, model in self.models.items()
            if not model.configured and {v.state for v in model.versions.values()} <= {State.END}
        ]  # fmt: skip
        for name in gone[: max(0, len(gone) - _MOST_REMOVED)]:
            del self.models[name]
            metrics.forget_model(name)

    def _begin(
        self, model: Model, version: Version, work: Callable[[Model, Version], Awaitable[None]]
    ) -> None:
        async def run() -> None:
            try:
                await work(model, version)
            finally:
                del self._tasks[version]
            self._step(model)

        self._tasks[version] = asyncio.create_task(run())

    async def _load(self, model: Model, version: Version) -> None:
        self._set(version, State.LOADING)
        loop = asyncio.get_running_loop()
        for trial in range(self.options.retries + 1):
            try:
                version.servable = await loop.run_in_executor(self._pool, self._open, version.path)
            except Exception as error:
                version.error = of_exception(error)
                log.error("%s version %s cannot be loaded: %s", version.model, version.number,
                          version.error)  # fmt: skip
                if isinstance(error, InputError):
                    break  # another try would find the same
            else:
                version.error = None
                self._set(version, State.AVAILABLE)
                return
            if trial < self.options.retries:
                until = loop.time() + self.options.retry_interval
                while version.number in model.aspired and loop.time() < until:
                    await asyncio.sleep(min(0.1, self.options.retry_interval))
            if version.number not in model.aspired:
                break
        self._set(version, State.END)

    def _open(self, path: Path) -> Servable:
        """Loads and warms up a version, in a thread."""
        servable = Servable(path, self.options.session, trust=self.options.trust)
        if self.options.warm_up:
            start, outcome = time.perf_counter(), "OK"
            try:
                servable.warm_up(path, self.options.warm_up_iterations)
            except BaseException as error:
                outcome = type(error).__name__
                servable.close()
                raise
            finally:
                latency = 1e6 * (time.perf_counter() - start)
                metrics.warm_up_latency.labels(str(path), outcome).observe(latency)
        return servable

    async def _unload(self, _: Model, version: Version) -> None:
        """Waits for the requests under way, then frees the version."""
        while version.users:
            version.unused.clear()
            await version.unused.wait()
        servable, version.servable = version.servable, None
        version.queues.clear()
        if servable is not None:
            await asyncio.get_running_loop().run_in_executor(self._pool, servable.close)
        metrics.forget_path(str(version.path))
        self._set(version, State.END)

    def _set(self, version: Version, state: State) -> None:
        version.state = state
        log.info("%s version %s: %s", version.model, version.number, state.name)
        self._event.set()
        self._changed()

    async def close(self) -> None:
        """Stops loading, and unloads everything; no request may be under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A load that hangs in its file system must not keep the server from ending.
        self._pool.shutdown(wait=False, cancel_futures=True)
        for model in self.models.values():
            for version in model.versions.values():
                if version.servable is not None:
                    version.servable.close()
