"""Processes that read large bodies and write large replies, so that other requests do not wait.

A process does one job at a time. It is ended if its request ends: the client is gone, the time is
up, or the server stops. A process is started when there is a job and none is free.
"""

import asyncio
import contextlib
import heapq
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from serving.bodies import worker
from serving.bodies.refusals import Refused

MEMORY = 3 * 2**29  # bytes that a process may take: 128 MiB of JSON numbers of ten digits fit
_KEPT = 2**27  # bytes: a process that has more after a job is ended
_PIPE = 2**18  # bytes: each time one is full, the thread that writes to it waits for its turn
_SPEED = 2**23  # bytes of JSON that a process reads in a second, or more
_ROOT = Path(__file__).parent.parent.parent


class Lane:
    """Processes for `count` jobs at once, and the jobs that wait.

    Of two jobs that came about the same time, the smaller goes first. So large jobs delay few
    others, and only a job that comes within the time that a large one takes can overtake it. The
    processes have a niceness of 0 to 19 and may take `memory` bytes each.
    """

    def __init__(self, count: int, *, niceness: int, memory: int = MEMORY):
        self._limits = niceness, memory
        self._free = count
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._asked = 0
        self._threads = ThreadPoolExecutor(count, "worker")
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()

    async def perform(self, job: str, arguments: Sequence[Any], size: int = 0) -> Any:
        """A process's answer to a job of `serving.bodies.worker` with at most `size` bytes of JSON;
        raises `Refused` if the body or the reply is refused."""
        loop = asyncio.get_running_loop()
        async with self._turn(size):
            process = self._idle.pop() if self._idle else _Process(*self._limits)
            self._busy.add(process)
            try:
                answer, resident = await loop.run_in_executor(
                    self._threads, process.exchange, job, arguments
                )
            except (OSError, EOFError) as error:
                self._end(process)
                raise Refused(
                    f"The process that was to {job} it was ended", "UNAVAILABLE"
                ) from error
            except BaseException:  # its request has ended
                self._end(process)
                raise
            finally:
                self._busy.discard(process)
            if resident <= _KEPT:
                self._idle.append(process)
            else:
                self._end(process)
        if isinstance(answer, Refused):
            raise answer
        return answer

    @asynccontextmanager
    async def _turn(self, size: int) -> AsyncIterator[None]:
        """Waits for a free process; it is taken while the block runs."""
        loop = asyncio.get_running_loop()
        if self._free:
            self._free -= 1
        else:
            self._asked += 1
            turn = loop.create_future()
            heapq.heappush(self._waiting, (loop.time() + size / _SPEED, self._asked, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # it came at the same moment
                    self._next()
                raise
        try:
            yield
        finally:
            self._next()

    def _next(self) -> None:
        while self._waiting:
            *_, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def close(self) -> None:
        """Ends the processes, busy or not."""
        for process in (*self._idle, *self._busy):
            self._end(process)
        self._idle.clear()

    def _end(self, process: "_Process") -> None:
        process.kill()
        self._threads.submit(process.wait)  # it takes a moment to free much memory


class _Process:
    """A process of `serving.bodies.worker`."""

    def __init__(self, niceness: int, memory: int):
        paths = [str(_ROOT), *(str(Path(path).absolute()) for path in sys.path)]
        # It multiplies no matrices, and each thread that could would count as its memory.
        settings = {"PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", worker.__name__, str(niceness), str(memory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | settings,
            pipesize=_PIPE,
        )  # fmt: skip

    def exchange(self, job: str, arguments: Sequence[Any]) -> tuple[Any, int]:
        """The answer to a job and the process's memory in bytes, waited for in a thread; raises
        `OSError` or `EOFError` if the process has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        worker.send(self._process.stdin, (job, arguments))
        return worker.receive(self._process.stdout)

    def kill(self) -> None:
        """Begins its end; a thread that waits for its answer continues after that."""
        self._process.kill()

    def wait(self) -> None:
        """Waits until it has ended, in a thread."""
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what it did not read
                pipe.close()
