"""Requests that arrive together are computed together, with a bounded queue.

The rules are those of TensorFlow Serving's BatchingSession: a queue of its own for each version and
signature, batches closed when full or when their time is up, a bound on the batches that wait,
padding up to an allowed size by repeating a row, and all threads shared.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.server import metrics
from serving.server.status import Code, StatusError, invalid, of_exception
from tf_avae.errors import InputError

Arrays = list[np.ndarray]
Run = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Parameters:
    """How requests are merged; the defaults are TensorFlow Serving's.

    Attributes:
        max_batch_size: rows of a batch at the most.
        timeout: seconds that an open batch waits for more.
        max_enqueued_batches: batches that may wait in a queue.
        threads: batches that are computed at once.
        allowed: sizes that batches are padded to; empty: any.
        largest: rows that are computed at once at the most; larger requests are split
            (`max_execution_batch_size`, with `enable_large_batch_splitting`).
    """

    max_batch_size: int = 1000
    timeout: float = 0.0
    max_enqueued_batches: int = 10
    threads: int = 2
    allowed: tuple[int, ...] = ()
    largest: int = 0  # max_batch_size

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_enqueued_batches", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        object.__setattr__(self, "largest", self.largest or self.max_batch_size)
        if self.largest > self.max_batch_size:
            raise InputError(
                f"max_execution_batch_size is {self.largest}; it must be at most max_batch_size, "
                f"{self.max_batch_size}"
            )
        if self.timeout < 0:
            raise InputError("batch_timeout_micros is below 0; it must be at least 0")
        if list(self.allowed) != sorted(set(self.allowed)):
            raise InputError("allowed_batch_sizes entries must be monotonically increasing")
        if self.allowed and self.allowed[-1] != self.largest:
            name = (
                "max_batch_size"
                if self.largest == self.max_batch_size
                else ("max_execution_batch_size")
            )
            raise InputError(
                f"Last entry in allowed_batch_sizes must match {name}; last entry was "
                f"{self.allowed[-1]}; expected {self.largest}"
            )

    @classmethod
    def of_proto(cls, proto: Any, threads: int) -> "Parameters":
        """From a batching file.

        Args:
            proto: the file's `BatchingParameters`.
            threads: where the file does not say.
        """

        def value(name: str, default: int) -> int:
            return int(getattr(proto, name).value) if proto.HasField(name) else default

        splits = value("enable_large_batch_splitting", 0)
        return cls(
            max_batch_size=value("max_batch_size", cls.max_batch_size),
            timeout=value("batch_timeout_micros", 0) / 1e6,
            max_enqueued_batches=value("max_enqueued_batches", cls.max_enqueued_batches),
            threads=value("num_batch_threads", threads),
            allowed=tuple(proto.allowed_batch_sizes),
            largest=value("max_execution_batch_size", 0) if splits else 0,
        )

    def padded(self, rows: int) -> int:
        """The smallest allowed size that holds so many rows."""
        return next((size for size in self.allowed if size >= rows), rows)


class Scheduler:
    """The threads that all queues share.

    Args:
        parameters: of the queues it makes; None: requests are computed as they come, each alone.
        threads: for requests that are not merged.
    """

    def __init__(self, parameters: Parameters | None, threads: int):
        self.parameters = parameters
        count = parameters.threads if parameters else threads
        self._slots = asyncio.Semaphore(count)
        self._pool: Executor = ThreadPoolExecutor(count, "compute")

    def queue(self, run: Run) -> "Queue | Alone":
        """A new queue for one signature and set of outputs of one version."""
        if self.parameters is None:
            return Alone(run, self._pool)
        return Queue(run, self.parameters, self._slots, self._pool)

    def close(self) -> None:
        """Begins nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Alone:
    """Computes requests as they come, each by itself.

    Args:
        run: computes, in a thread.
        pool: the threads.
    """

    def __init__(self, run: Run, pool: Executor):
        self._run = run
        self._pool = pool

    async def submit(self, arrays: Arrays) -> Arrays:
        """The outputs for one request's inputs."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, arrays)
        except Exception as error:
            raise of_exception(error) from error


@dataclass(eq=False)
class _Task:
    arrays: Arrays
    rows: int
    result: asyncio.Future
    entered: float = field(default_factory=time.monotonic)


class _Batch:
    def __init__(self) -> None:
        self.tasks: list[_Task] = []
        self.rows = 0
        self.opened = time.monotonic()
        self.full = asyncio.Event()


class Queue:
    """Merges the requests to one signature of one version. Used from one event loop.

    Args:
        run: computes a merged batch, in a thread.
        parameters: how to merge.
        slots: of the threads.
        pool: the threads.
    """

    def __init__(self, run: Run, parameters: Parameters, slots: asyncio.Semaphore, pool: Executor):
        self._run = run
        self._parameters = parameters
        self._slots = slots
        self._pool = pool
        self._batches: deque[_Batch] = deque()
        self._worker: asyncio.Task | None = None
        self._running: set[asyncio.Task] = set()

    async def submit(self, arrays: Arrays) -> Arrays:
        """The outputs for one request's inputs, computed with those of others.

        Raises:
            StatusError: the request is too large, the queue is full, or the graph refuses it.
        """
        rows, most = _rows(arrays), self._parameters.max_batch_size
        metrics.input_batch_size.observe(rows)
        if rows > most:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {most}")
        largest = self._parameters.largest
        if rows <= largest:
            return await self._enqueue(arrays, rows)
        pieces = [
            self._enqueue([a[start : start + largest] for a in arrays], min(largest, rows - start))
            for start in range(0, rows, largest)
        ]
        outputs = await asyncio.gather(*pieces)
        return [np.concatenate(parts) for parts in zip(*outputs, strict=True)]

    async def _enqueue(self, arrays: Arrays, rows: int) -> Arrays:
        batch = self._open_batch(rows)
        task = _Task(arrays, rows, asyncio.get_running_loop().create_future())
        batch.tasks.append(task)
        batch.rows += rows
        if batch.rows >= self._parameters.largest:
            batch.full.set()
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await task.result

    def _open_batch(self, rows: int) -> _Batch:
        """The batch that takes so many more rows."""
        last = self._batches[-1] if self._batches else None
        if last and last.rows + rows <= self._parameters.largest:
            return last
        if len(self._batches) >= self._parameters.max_enqueued_batches:
            raise StatusError(
                Code.UNAVAILABLE,
                "The batch scheduling queue to which this task was submitted is full",
            )
        if last:
            last.full.set()
        self._batches.append(_Batch())
        return self._batches[-1]

    async def _work(self) -> None:
        """Hands batches to threads, the oldest first, until none is left."""
        while self._batches:
            batch = self._batches[0]
            left = batch.opened + self._parameters.timeout - time.monotonic()
            if left > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(batch.full.wait(), left)
            await self._slots.acquire()  # it may fill further in the meantime
            self._batches.popleft()
            execution = asyncio.create_task(self._execute(batch.tasks))
            self._running.add(execution)
            execution.add_done_callback(self._running.discard)
        self._worker = None

    async def _execute(self, tasks: list[_Task]) -> None:
        try:
            tasks = [task for task in tasks if not task.result.done()]  # whose deadline is not past
            for task in tasks:
                metrics.queuing_latency.observe(1e6 * (time.monotonic() - task.entered))
            if tasks:
                await self._compute(tasks)
        finally:
            self._slots.release()

    async def _compute(self, tasks: list[_Task]) -> None:
        loop = asyncio.get_running_loop()
        try:
            outputs = await loop.run_in_executor(self._pool, self._merged, tasks)
        except Exception as error:
            if len(tasks) == 1:
                if not tasks[0].result.done():
                    tasks[0].result.set_exception(of_exception(error))
                return
            # One request that the graph refuses must not cost the others their answer. (In
            # TensorFlow Serving it does.) Halves, so that it costs few more runs.
            half = len(tasks) // 2
            for part in (tasks[:half], tasks[half:]):
                waiting = [task for task in part if not task.result.done()]
                if waiting:
                    await self._compute(waiting)
            return
        for task, output in zip(tasks, outputs, strict=True):
            if not task.result.done():
                task.result.set_result(output)

    def _merged(self, tasks: list[_Task]) -> list[Arrays]:
        """Runs tasks as one batch, in a thread."""
        rows = sum(task.rows for task in tasks)
        padding = self._parameters.padded(rows) - rows
        inputs = []
        for position in range(len(tasks[0].arrays)):
            parts = [task.arrays[position] for task in tasks]
            if padding and rows:
                parts += [tasks[-1].arrays[position][:1]] * padding
            inputs.append(parts[0] if len(parts) == 1 else np.concatenate(parts))
        metrics.processed_batch_size.observe(rows + padding)
        metrics.wrapped_run_count.inc()
        outputs = self._run(inputs)
        ends = np.cumsum([task.rows for task in tasks])
        for output in outputs:
            if output.ndim == 0:
                raise StatusError(
                    Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions"
                )
        return [
            [output[end - task.rows : end] for output in outputs]
            for task, end in zip(tasks, ends, strict=True)
        ]


def _rows(arrays: Arrays) -> int:
    if any(array.ndim == 0 for array in arrays):
        raise invalid("Batching Run() input tensors must have at least one dimension")
    sizes = {len(array) for array in arrays}
    if len(sizes) != 1:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()
