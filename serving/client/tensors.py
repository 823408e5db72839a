"""From arrays to TensorProtos and back, without a loop over elements."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.client.errors import BadReply
from serving.protocol import DataType

# Each dtype that is read: numpy's, little-endian, and the field that may hold the elements.
_DTYPES = {DataType.DT_FLOAT: ("<f4", "float_val"), DataType.DT_DOUBLE: ("<f8", "double_val")}

_DIMENSIONS = 8


def write(tensor: Any, values: np.ndarray | Sequence[bytes]) -> None:
    """Fills an empty TensorProto: float32 of any shape, or string [N] from N byte strings."""
    if isinstance(values, np.ndarray):
        tensor.dtype = DataType.DT_FLOAT
        tensor.tensor_content = values.astype("<f4", copy=False).tobytes()
        shape = values.shape
    else:
        tensor.dtype = DataType.DT_STRING
        tensor.string_val.extend(values)
        shape = (len(values),)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)


def shape_of(tensor: Any) -> tuple[int, ...]:
    """The shape in a TensorProto."""
    return tuple(dim.size for dim in tensor.tensor_shape.dim)


def to_array(tensor: Any, most_bytes: int = 1 << 31, before: int = 0) -> np.ndarray:
    """The elements of a TensorProto of floats, of which a few bytes may mean many millions.

    `most_bytes` is the limit for all arrays of a reply, and `before` what the earlier ones take.

    Raises:
        BadReply: another dtype, a shape that its elements do not fit, an array that is too large or
            has more than 8 dimensions.
    """
    if tensor.dtype not in _DTYPES:
        raise BadReply(f"a tensor of {dtype_name(tensor.dtype)}; a reply holds floats")
    dtype, field = _DTYPES[tensor.dtype]
    shape, item = shape_of(tensor), np.dtype(dtype).itemsize
    if tensor.tensor_shape.unknown_rank or min(shape, default=0) < 0 or len(shape) > _DIMENSIONS:
        raise BadReply(f"a tensor came with the shape {list(shape[: _DIMENSIONS + 1])}")
    # An empty array counts too: numpy refuses sides whose product is too large.
    if before + item * math.prod(max(1, side) for side in shape) > most_bytes:
        beside = f", beside {before:,} bytes of others" if before else ""
        raise BadReply(
            f"a tensor is said to have the shape {list(shape)}{beside}; at most {most_bytes:,} "
            "bytes of a reply are read; give a larger max_message_mb if it is right"
        )
    size = math.prod(shape)
    content, values = tensor.tensor_content, getattr(tensor, field)
    if content:
        if len(content) != size * item:
            raise BadReply(f"a tensor of shape {list(shape)} came with {len(content)} bytes")
        return np.frombuffer(content, dtype).reshape(shape)
    if len(values) > size:
        raise BadReply(f"a tensor of shape {list(shape)} came with {len(values)} elements")
    found = np.empty(size, dtype)
    found[: len(values)] = values
    # The protocol leaves out repetitions of the last element, and all of them where it is 0.
    found[len(values) :] = values[-1] if len(values) else 0
    return found.reshape(shape)


def dtype_name(number: int) -> str:
    """TensorFlow's name of a DataType, such as float32."""
    if number not in DataType.values():
        return f"dtype {number}"
    name = DataType.Name(number).removeprefix("DT_").lower()
    return {"float": "float32", "double": "float64", "half": "float16"}.get(name, name)
