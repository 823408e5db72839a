"""A process that reads bodies and writes replies, one after another: `python -m
serving.bodies.worker NICENESS BYTES`.

It reads jobs from its standard input and answers on its standard output, both pickled: the name of
one of `JOBS` with its arguments; and the result with the memory of this process.
"""

import gc
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from serving.bodies.reading import read
from serving.bodies.refusals import Refused
from serving.bodies.writing import reply

JOBS: dict[str, Callable[..., Any]] = {"read": read, "write": reply}


def send(stream: IO[bytes], message: Any) -> None:
    """Writes a message; large buffers are not copied."""
    pickle.dump(message, stream, pickle.HIGHEST_PROTOCOL)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Reads a message; raises `EOFError` if the other side has ended."""
    try:
        return pickle.load(stream)
    except pickle.UnpicklingError as error:  # in the middle of one
        raise EOFError(str(error)) from error


def _resident() -> int:
    """The memory of this process in bytes; 0 if unknown."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def main() -> None:
    """Does jobs until its input ends."""
    # A signal to the process group is for the server, which ends this process itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    niceness, memory = map(int, sys.argv[1:])
    gc.disable()  # there are no cycles, and each collection would visit all lists of a document
    os.nice(niceness)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    while True:
        try:
            job, arguments = receive(sys.stdin.buffer)
        except EOFError:
            return
        answer: Any
        try:
            answer = JOBS[job](*arguments)
        except Refused as error:
            answer = Refused(error.message, error.code)
        except MemoryError:
            answer = Refused(
                f"It takes more than {memory} bytes of memory to {job} it; send less at a time",
                "RESOURCE_EXHAUSTED",
            )
        del arguments
        try:
            send(sys.stdout.buffer, (answer, _resident()))
        except BrokenPipeError:
            os._exit(0)


if __name__ == "__main__":
    main()
