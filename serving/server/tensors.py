"""Between TensorProto and numpy, by TensorFlow's rules."""

import math

import numpy as np
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.server.status import Code, StatusError, invalid
from tf_avae.backend import tf

_FLOAT_VAL = bytes([5 << 3 | 2])
_FIELDS = {
    "float_val": ("float32",),
    "double_val": ("float64",),
    "half_val": ("float16", "bfloat16"),
    "int_val": (
        "int32", "int16", "int8", "uint16", "uint8", "qint32", "qint16", "qint8", "quint16",
        "quint8", "int4", "uint4", "int2", "uint2",
    ),
    "int64_val": ("int64",),
    "uint32_val": ("uint32",),
    "uint64_val": ("uint64",),
    "scomplex_val": ("complex64",),
    "dcomplex_val": ("complex128",),
    "bool_val": ("bool",),
    "string_val": ("string",),
    "float8_val": ("float8_e5m2", "float8_e4m3fn"),
}  # fmt: skip
_FIELD_OF = {name: field for field, names in _FIELDS.items() for name in names}
"""The field that holds a type's values."""


def measure(tensor: tensor_pb2.TensorProto, alias: str) -> tuple[tuple[int, ...], int]:
    """The shape of a request's tensor and the bytes of its values, before any memory is taken;
    raises `StatusError` if the proto is inconsistent."""
    try:
        kind, shape = _kind(tensor), _shape(tensor)
    except (TypeError, ValueError, KeyError) as error:
        raise invalid(f"tensor parsing error: {alias}") from error
    count = math.prod(shape)
    size = count * kind.size
    if tensor.dtype == types_pb2.DT_STRING:
        values = tensor.string_val
        size = 8 * count + sum(map(len, values[:count]))
        size += max(0, count - len(values)) * len(values[-1]) if values else 0
        if tensor.tensor_content:
            raise invalid(f"tensor parsing error: {alias}")
    elif tensor.tensor_content and len(tensor.tensor_content) != size:
        raise invalid(f"tensor parsing error: {alias}")
    return shape, size


def to_array(tensor: tensor_pb2.TensorProto, alias: str) -> np.ndarray:
    """The values of a tensor; raises `StatusError` if the proto is inconsistent.

    If the proto has fewer values than its shape, the last is repeated; a single one without memory.
    """
    try:
        kind, shape = _kind(tensor), _shape(tensor)
        if tensor.tensor_content:
            return np.frombuffer(tensor.tensor_content, kind.as_numpy_dtype).reshape(shape)
        values, count = _values(tensor, kind), math.prod(shape)
        if not len(values):
            values = np.array([b""], object) if kind == tf.string else np.zeros(1, values.dtype)
        if len(values) == 1 and count:
            return np.broadcast_to(values[0:1].reshape(()), shape)
        if len(values) < count:
            rest = np.broadcast_to(values[-1:], count - len(values))
            values = np.concatenate([values, rest])
        return values[:count].reshape(shape)
    except (TypeError, ValueError, KeyError, OverflowError, MemoryError) as error:
        raise invalid(f"tensor parsing error: {alias}") from error


def _kind(tensor: tensor_pb2.TensorProto) -> "tf.DType":
    kind = tf.as_dtype(tensor.dtype)
    if kind.name not in _FIELD_OF:  # references, resources, variants
        raise TypeError(kind.name)
    return kind


def _shape(tensor: tensor_pb2.TensorProto) -> tuple[int, ...]:
    shape = tuple(dimension.size for dimension in tensor.tensor_shape.dim)
    if tensor.tensor_shape.unknown_rank or min(shape, default=0) < 0 or math.prod(shape) >= 2**63:
        raise ValueError(f"shape {shape}")
    return shape


def _values(tensor: tensor_pb2.TensorProto, kind: "tf.DType") -> np.ndarray:
    """The values given, [number of them]."""
    name = _FIELD_OF[kind.name]
    field = getattr(tensor, name)
    given = tensor_pb2.TensorProto(dtype=tensor.dtype, **{name: field})
    given.tensor_shape.dim.add(size=len(field) // (2 if kind.is_complex else 1))
    return tf.make_ndarray(given)


def type_name(dtype: int) -> str:
    """The name of a type in TensorFlow's C++: float, not float32."""
    name = tf.as_dtype(dtype).name
    return {"float32": "float", "float64": "double", "float16": "half"}.get(name, name)


def to_proto(
    array: np.ndarray, *, as_content: bool, dtype: int | None = None
) -> tensor_pb2.TensorProto:
    """A tensor of an array's values; raises `StatusError` if no proto can hold their type.

    Args:
        array: any numpy array.
        as_content: raw bytes in `tensor_content` instead of typed fields
            (`--enable_serialization_as_tensor_content`).
        dtype: the signature's, for quantized types, which numpy lacks; None: the array's.
    """
    kind = tf.as_dtype(array.dtype)
    if dtype and tf.as_dtype(dtype).is_quantized:
        kind = tf.as_dtype(dtype)
    if kind.name not in _FIELD_OF:
        raise StatusError(Code.UNIMPLEMENTED, f"Outputs of type {kind.name} are not served here")
    tensor = tensor_pb2.TensorProto(dtype=kind.as_datatype_enum)
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if not array.size:
        return tensor
    name = _FIELD_OF[kind.name]
    if as_content and kind != tf.string:
        tensor.tensor_content = np.ascontiguousarray(array).tobytes()
    elif kind == tf.float32:
        # On the wire, the packed field `float_val` (number 5) differs from `tensor_content` (number
        # 4) only by its tag. So no value becomes a Python float.
        content = tensor_pb2.TensorProto(tensor_content=np.ascontiguousarray(array).tobytes())
        tensor.MergeFromString(_FLOAT_VAL + content.SerializeToString()[1:])
    elif name == "float8_val":
        tensor.float8_val = array.tobytes()
    else:
        getattr(tensor, name).extend(_plain(array.ravel(), name))
    return tensor


def _plain(values: np.ndarray, field: str) -> list:
    """The values for a field of a TensorProto."""
    if field == "half_val":
        return values.view(np.uint16).tolist()
    if field in ("scomplex_val", "dcomplex_val"):
        return values.view(values.real.dtype).tolist()
    if field == "string_val":
        return [value.encode() if isinstance(value, str) else value for value in values]
    return values.astype(np.int32).tolist() if field == "int_val" else values.tolist()
