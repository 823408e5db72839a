"""One version of a model: its state, and the queues of its requests."""

import asyncio
import enum
import time
from pathlib import Path

from serving.server import metrics
from serving.server.batching import Alone, Arrays, Queue, Scheduler
from serving.server.servable import Call, Servable
from serving.server.status import StatusError

MUCH = 2**20
"""Bytes from which a thread reads and writes tensors, so that other requests are answered."""
_MOST_QUEUES = 64  # of a version


class State(enum.IntEnum):
    """States of a version, with the protocol's numbers."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


class Version:
    """One version of a model, from when it is found."""

    def __init__(self, model: str, number: int, path: Path):
        self.model = model
        self.number = number
        self.path = path
        self.state = State.START
        self.error: StatusError | None = None
        self.servable: Servable | None = None
        self.queues: dict[tuple[str, tuple[str, ...]], Queue | Alone] = {}
        self.users = 0
        self.unused = asyncio.Event()

    async def run(self, call: Call, scheduler: Scheduler) -> Arrays:
        """The outputs of a call of this version's servable, in the order of the call; raises
        `StatusError` if it is too large, too much is under way, or the graph refuses it."""
        queue = self._queue(call, scheduler)
        queue.admit(call.shapes)
        with scheduler.budget.hold(call.size):
            much = call.size > MUCH
            inputs = await asyncio.to_thread(call.arrays) if much else call.arrays()
            arrays = await queue.submit(inputs, call.size)
        found = dict(zip(sorted(call.outputs), arrays, strict=True))
        return [found[alias] for alias in call.outputs]

    def _queue(self, call: Call, scheduler: Scheduler) -> Queue | Alone:
        servable, name, outputs = self.servable, call.signature, tuple(sorted(call.outputs))
        assert servable is not None
        if (name, outputs) in self.queues:
            return self.queues[name, outputs]

        # What it holds on to must not be this request's images.
        def run(arrays: Arrays) -> Arrays:
            start = time.perf_counter()
            found = servable.run(name, outputs, arrays)
            latency = 1e6 * (time.perf_counter() - start)
            metrics.runtime_latency.labels(self.model, "Predict", "TF1").observe(latency)
            return found

        if len(self.queues) >= _MOST_QUEUES:  # requests choose among outputs: no end of choices
            del self.queues[next(iter(self.queues))]
        self.queues[name, outputs] = scheduler.queue(run)
        return self.queues[name, outputs]
