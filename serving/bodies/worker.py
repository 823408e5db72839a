"""A process that reads bodies and writes replies, one after another: `python -m
serving.bodies.worker NICENESS BYTES`.

It takes jobs from its standard input and answers on its standard output. Each message is two sizes,
a JSON object and raw bytes: the bodies, texts and elements of arrays.
"""

import gc
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from serving.bodies.compressed import Buffer
from serving.bodies.reading import read
from serving.bodies.refusals import Refused
from serving.bodies.values import Input
from serving.bodies.writing import reply

_SIZES = struct.Struct("<QQ")


def send(stream: IO[bytes], head: Mapping[str, Any], parts: Sequence[Buffer] = ()) -> None:
    """Writes a message."""
    text = json.dumps(head).encode()
    stream.write(_SIZES.pack(len(text), sum(len(part) for part in parts)) + text)
    for part in parts:
        stream.write(part)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], memoryview]:
    """Reads a message.

    Raises:
        EOFError: the other side has ended.
    """
    text, size = _SIZES.unpack(_exactly(stream, _SIZES.size))
    return json.loads(_exactly(stream, text)), memoryview(_exactly(stream, size))


def _exactly(stream: IO[bytes], size: int) -> bytes:
    found = stream.read(size)
    if len(found) < size:
        raise EOFError("the other side has ended")
    return found


def pack(arrays: Mapping[str, np.ndarray]) -> tuple[list, list[Buffer]]:
    """Arrays of numbers or of byte strings, as JSON values that describe them, and raw bytes."""
    described: list[list[Any]] = []
    parts: list[Buffer] = []
    for name, array in arrays.items():
        if array.dtype.kind == "O":
            strings = [value.encode() if isinstance(value, str) else value for value in array.flat]
            described.append([name, None, array.shape, [len(value) for value in strings]])
            parts.extend(strings)
        else:
            described.append([name, array.dtype.str, array.shape, array.nbytes])
            parts.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return described, parts


def unpack(described: Iterable, payload: memoryview) -> dict[str, np.ndarray]:
    """The arrays of `pack`."""
    arrays, start = {}, 0
    for name, dtype, shape, size in described:
        if dtype is None:
            array = np.empty(len(size), object)
            for number, length in enumerate(size):
                array[number] = bytes(payload[start : start + length])
                start += length
        else:
            array = np.frombuffer(payload[start : start + size], dtype)
            start += size
        arrays[name] = array.reshape(shape)
    return arrays


def perform(head: dict[str, Any], payload: memoryview) -> tuple[dict[str, Any], Sequence[Buffer]]:
    """Does one job."""
    if head["job"] == "write":
        return {}, [reply(unpack(head["arrays"], payload), head["form"])]
    signatures = head["signatures"]
    if signatures is not None:
        signatures = {
            name: {
                alias: Input(kind, dtype, None if shape is None else tuple(shape))
                for alias, (kind, dtype, shape) in inputs.items()
            }
            for name, inputs in signatures.items()
        }
    found = read(payload, head["encoding"], head["limit"], signatures)
    described, parts = pack(found.arrays)
    return {"signature": found.signature, "form": found.form, "arrays": described}, parts


def _resident() -> int:
    """The memory of this process, in bytes; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def main() -> None:
    """Does jobs until there is no one to ask for them."""
    # A signal to the whole group is the server's: it ends this process when it needs it no more.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    niceness, memory = map(int, sys.argv[1:])
    gc.disable()  # nothing here makes cycles, and it would look at each list of a document again
    os.nice(niceness)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            head, payload = receive(incoming)
        except EOFError:
            return
        parts: Sequence[Buffer] = ()
        try:
            answer, parts = perform(head, payload)
        except Refused as error:
            answer = {"refused": error.message, "code": error.code}
        except MemoryError:
            answer = {
                "refused": f"It takes more than {memory} bytes of memory to {head['job']} it; send "
                "less at a time",
                "code": "RESOURCE_EXHAUSTED",
            }
        del payload
        try:
            send(outgoing, answer | {"resident": _resident()}, parts)
        except BrokenPipeError:
            os._exit(0)


if __name__ == "__main__":
    main()
