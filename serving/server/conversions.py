"""REST bodies to tensors and back: in a thread if that is quick, else in a process."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorflow_serving.apis import predict_pb2

from serving.bodies import reading, writing
from serving.bodies.compressed import Buffer, TooLarge, unpacked
from serving.server import tensors
from serving.server.uploads import LARGEST
from serving.server.workers import Lane
from tf_avae.backend import tf

_IN_THREAD = 2**16  # bytes of a body whose parsing, some milliseconds, may hold up the others
_QUICK = 2**22  # bytes of a body that is read in a tenth of a second
_WRITTEN_IN_THREAD = 10_000  # values of a reply
_QUICKLY_WRITTEN = 100_000
_VALUE = 40  # bytes of JSON that are read in the time in which a value is written


class Conversions:
    """Reads bodies and writes replies.

    Slow jobs have processes of their own, with low priority, so that quick jobs do not wait for
    them: a few bytes that unpack to many delay only other such requests.
    """

    def __init__(self) -> None:
        count = max(1, (os.cpu_count() or 1) // 2)
        self._quick = Lane(count, niceness=0)
        self._slow = Lane(count, niceness=5)

    async def read(
        self, body: Buffer, encoding: str, signatures: Mapping[str, Any] | None
    ) -> reading.Document:
        """The document in a body; see `serving.bodies.reading.read`. `signatures` are name to
        SignatureDef, or None if there is no such model. Raises `Refused`."""
        inputs = signatures and {name: _inputs(one) for name, one in signatures.items()}
        lane = self._quick
        try:
            body, encoding = await asyncio.to_thread(unpacked, body, encoding, _QUICK), ""
        except TooLarge:
            lane = self._slow
        if lane is self._quick and len(body) <= _IN_THREAD:
            return await asyncio.to_thread(reading.read, body, "", LARGEST, inputs)
        job = (body, encoding, LARGEST, inputs)
        return await lane.perform("read", job, LARGEST if encoding else len(body))

    async def write(self, outputs: Mapping[str, np.ndarray], form: str) -> bytes:
        """A reply's body; see `serving.bodies.writing.reply`. Raises `Refused`."""
        values = sum(array.size for array in outputs.values())
        strings = sum(_length(array) for array in outputs.values())
        if values <= _WRITTEN_IN_THREAD and strings <= _IN_THREAD:
            return await asyncio.to_thread(writing.reply, outputs, form)
        quick = values <= _QUICKLY_WRITTEN and strings <= _QUICK
        lane = self._quick if quick else self._slow
        return await lane.perform("write", (outputs, form), _VALUE * values + strings)

    def close(self) -> None:
        """Ends all that is under way."""
        self._quick.close()
        self._slow.close()


def _length(array: np.ndarray) -> int:
    """Bytes of strings."""
    return sum(map(len, array.flat)) if array.dtype.kind == "O" else 0


def fill(
    request: predict_pb2.PredictRequest, arrays: Mapping[str, np.ndarray], signature: Any
) -> None:
    """Gives a request its inputs."""
    for alias, array in arrays.items():
        dtype = tf.as_dtype(signature.inputs[alias].dtype)
        array = array.astype(dtype.as_numpy_dtype, copy=False)
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(array, dtype, array.shape))


def _inputs(signature: Any) -> dict[str, reading.Input]:
    """The inputs of a signature."""
    return {
        alias: reading.Input(tensors.type_name(info.dtype), _numpy_name(info.dtype), shape(info))
        for alias, info in signature.inputs.items()
    }


def _numpy_name(number: int) -> str:
    """The numpy type for JSON values of a tensor's type; empty if there is none."""
    dtype = tf.as_dtype(number)
    if dtype == tf.string:
        return "object"
    if dtype.is_floating and dtype.name not in ("float16", "float32", "float64"):
        return "float32"  # and shorter floats, which numpy alone does not know, from that
    known = dtype.is_floating or dtype.is_integer or dtype.is_bool
    return dtype.name if known and hasattr(np, dtype.name) else ""


def shape(info: Any) -> tuple[int, ...] | None:
    """A tensor's shape, -1 for any size; None for any shape."""
    if not info.HasField("tensor_shape") or info.tensor_shape.unknown_rank:
        return None
    return tuple(dimension.size for dimension in info.tensor_shape.dim)
