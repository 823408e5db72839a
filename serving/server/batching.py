"""Requests that arrive together are computed together, with a bounded queue.

The rules are those of TensorFlow Serving's BatchingSession: a queue of its own for each version and
signature, batches closed when full or when their time is up, a bound on the batches that wait,
padding up to an allowed size by repeating a row, and all threads shared.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from serving.server import metrics
from serving.server.budget import LARGE, LARGEST_REQUEST, Budget
from serving.server.parameters import Parameters
from serving.server.status import Code, StatusError, invalid, of_exception

Arrays = list[np.ndarray]
Shapes = Sequence[tuple[int, ...]]
Run = Callable[[Arrays], Arrays]
"""Computes outputs from inputs, in a thread."""


SCALAR = "Batched output tensor has 0 dimensions"
NOT_BY_ROW = (
    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of "
    "the input tensors"
)


class Scheduler:
    """The threads that all queues share, and the budget of all requests under way.

    Args:
        parameters: of the queues; None: each request is computed alone, as it comes.
        threads: for requests that are not merged.
        largest: bytes of one request.
    """

    def __init__(self, parameters: Parameters | None, threads: int, largest: int = LARGEST_REQUEST):
        self.parameters = parameters
        self.budget = Budget(largest)
        count = parameters.threads if parameters else threads
        self._slots = asyncio.Semaphore(count)
        self._pool: Executor = ThreadPoolExecutor(count, "compute")

    def queue(self, run: Run) -> "Queue | Alone":
        """A new queue for one signature and set of outputs of one version."""
        if self.parameters is None:
            return Alone(run, self._pool, self.budget)
        return Queue(run, self.parameters, self._slots, self._pool)

    def close(self) -> None:
        """Begins nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Alone:
    """Computes each request alone, as it comes; large ones one after the other."""

    def __init__(self, run: Run, pool: Executor, budget: Budget):
        self._run = run
        self._pool = pool
        self._budget = budget

    def admit(self, shapes: Shapes) -> None:
        """Takes inputs of any shapes."""

    async def submit(self, arrays: Arrays, size: int = 0) -> Arrays:
        """The outputs for the inputs of one request of `size` bytes; raises `StatusError` if the
        graph refuses it."""
        loop, large = asyncio.get_running_loop(), self._budget.large

        def done(_: Future) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended with the server
                loop.call_soon_threadsafe(large.release)

        if size > LARGE:
            await large.acquire()
        try:
            future = self._pool.submit(self._run, arrays)
        except BaseException:
            if size > LARGE:
                large.release()
            raise
        if size > LARGE:
            # The work goes on if the caller is gone, and the next large request waits for it.
            future.add_done_callback(done)
        try:
            return await asyncio.wrap_future(future)
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
    """Merges the requests to one signature of one version, which `run` computes on the pool's
    threads as slots are free. For one event loop."""

    def __init__(self, run: Run, parameters: Parameters, slots: asyncio.Semaphore, pool: Executor):
        self._run = run
        self._sizes: set[int] = set()  # two numbers of rows that came back as such
        self._parameters = parameters
        self._slots = slots
        self._pool = pool
        self._batches: deque[_Batch] = deque()
        self._worker: asyncio.Task | None = None
        self._running: set[asyncio.Task] = set()

    def admit(self, shapes: Shapes) -> None:
        """Raises `StatusError` if inputs of these shapes have no rows to merge, or too many."""
        rows, most = _rows(shapes), self._parameters.max_batch_size
        if rows > most:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {most}")

    async def submit(self, arrays: Arrays, _: int = 0) -> Arrays:
        """The outputs for the inputs of one request, computed with others; raises `StatusError` if
        it is too large, the queue is full, or the graph refuses it."""
        shapes = [array.shape for array in arrays]
        self.admit(shapes)
        rows, largest = _rows(shapes), self._parameters.largest
        metrics.input_batch_size.observe(rows)
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
            # If the graph refuses one request, the others are still answered (not so in TensorFlow
            # Serving). Halves find it in few more runs.
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
        padding = self._parameters.padded(rows) - rows if rows else 0  # no row to repeat
        inputs = []
        for position in range(len(tasks[0].arrays)):
            parts = [task.arrays[position] for task in tasks]
            if padding:
                parts += [tasks[-1].arrays[position][:1]] * padding
            inputs.append(parts[0] if len(parts) == 1 else np.concatenate(parts))
        metrics.processed_batch_size.observe(rows + padding)
        metrics.wrapped_run_count.inc()
        outputs = self._by_row(inputs, rows + padding)
        if rows + padding > tasks[0].rows and len(self._sizes) < 2:
            # An output whose length does not depend on the rows may fit one size, not two.
            self._by_row(tasks[0].arrays, tasks[0].rows)
        ends = np.cumsum([task.rows for task in tasks])
        return [
            [output[end - task.rows : end] for output in outputs]
            for task, end in zip(tasks, ends, strict=True)
        ]

    def _by_row(self, inputs: Arrays, rows: int) -> Arrays:
        """Outputs that have as many rows as the inputs."""
        outputs = self._run(inputs)
        for output in outputs:
            if output.ndim == 0:
                raise StatusError(Code.FAILED_PRECONDITION, SCALAR)
            if len(output) != rows:
                raise StatusError(Code.FAILED_PRECONDITION, NOT_BY_ROW)
        if len(self._sizes) < 2:
            self._sizes.add(rows)
        return outputs


def _rows(shapes: Shapes) -> int:
    if not shapes:
        raise invalid("Batching Run() must have at least one input tensor")
    if not all(shapes):
        raise invalid("Batching Run() input tensors must have at least one dimension")
    sizes = {shape[0] for shape in shapes}
    if len(sizes) != 1:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()
