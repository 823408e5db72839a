"""Between TensorProto and numpy, by TensorFlow's rules."""

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.server.status import invalid

_LARGEST_FILLED = 2**28  # bytes that a few values may be repeated to fill: no bombs
_FLOAT_VAL = bytes([5 << 3 | 2])


def to_array(tensor: tensor_pb2.TensorProto, alias: str) -> np.ndarray:
    """The values of a tensor.

    Raises:
        StatusError: the proto is inconsistent.
    """
    try:
        dtype = tf.as_dtype(tensor.dtype).as_numpy_dtype
        if tensor.tensor_shape.unknown_rank:
            raise ValueError("no shape")
        shape = [dimension.size for dimension in tensor.tensor_shape.dim]
        if min(shape, default=0) < 0:
            raise ValueError("negative dimension")
        if tensor.tensor_content and tensor.dtype != types_pb2.DT_STRING:
            return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
        if _filled(tensor, math.prod(shape), np.dtype(dtype).itemsize) > _LARGEST_FILLED:
            raise ValueError("too large")
        return tf.make_ndarray(tensor)
    except (TypeError, ValueError, KeyError, OverflowError, MemoryError) as error:
        raise invalid(f"tensor parsing error: {alias}") from error


def type_name(dtype: int) -> str:
    """What TensorFlow's C++ calls a type: float, not float32."""
    name = tf.as_dtype(dtype).name
    return {"float32": "float", "float64": "double"}.get(name, name)


def _filled(tensor: tensor_pb2.TensorProto, count: int, size: int) -> int:
    """Bytes of so many values, where the last one given is repeated for those that are not."""
    values = tensor.string_val
    if tensor.dtype != types_pb2.DT_STRING or not values:
        return count * size
    return sum(map(len, values)) + max(0, count - len(values)) * len(values[-1]) + count * size


def to_proto(array: np.ndarray, *, as_content: bool) -> tensor_pb2.TensorProto:
    """A tensor of these values.

    Args:
        array: any numpy array.
        as_content: raw bytes in `tensor_content` instead of typed fields
            (`--enable_serialization_as_tensor_content`).
    """
    if array.dtype != np.float32:
        return tf.make_tensor_proto(array)
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT)
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    content = tensor_pb2.TensorProto(tensor_content=np.ascontiguousarray(array).tobytes())
    if as_content:
        tensor.MergeFrom(content)
    elif array.size:
        # On the wire, the packed field `float_val` (number 5) is `tensor_content` (number 4) but
        # for its tag: so nothing passes through Python's floats.
        tensor.MergeFromString(_FLOAT_VAL + content.SerializeToString()[1:])
    return tensor
