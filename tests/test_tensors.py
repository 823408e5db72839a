"""Tensors to and from the wire, against TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tensorflow.core.framework import tensor_pb2

from serving.server import tensors
from serving.server.status import StatusError

FLOATS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0),
    elements=st.floats(width=32),
)


@given(FLOATS, st.booleans())
def test_a_tensor_is_what_tensorflow_reads(array, as_content):
    proto = tensors.to_proto(array, as_content=as_content)
    assert bool(proto.tensor_content) == (as_content and array.size > 0)
    np.testing.assert_array_equal(tf.make_ndarray(proto), array)
    np.testing.assert_array_equal(tensors.to_array(proto, "a"), array)


@pytest.mark.parametrize("array", [np.array([[1, 2]]), np.array([b"a", b""], object), np.bool_(1)])
def test_other_types_pass(array):
    found = tensors.to_array(tensors.to_proto(np.asarray(array), as_content=False), "a")
    np.testing.assert_array_equal(found, array)


def proto(shape, **fields):
    made = tensor_pb2.TensorProto(**{"dtype": 1} | fields)
    for size in shape:
        made.tensor_shape.dim.add(size=size)
    return made


def fields(name, count):
    """So many values of a type, as a TensorProto's fields."""
    kind = tf.as_dtype(name)
    number = kind.as_datatype_enum
    if not count:
        return {"dtype": number}
    values = [b"a", b"b\0", b""] if kind == tf.string else [1, 0, 1]
    made = tf.make_tensor_proto(np.array(values[:count]).astype(kind.as_numpy_dtype), kind)
    return {"dtype": number, **typed(made)}


def typed(made):
    """The typed field of a tensor, whatever it holds its values in."""
    array = tf.make_ndarray(made)
    found = tensors.to_proto(array, as_content=False, dtype=made.dtype)
    return {f.name: v for f, v in found.ListFields() if f.name.endswith("_val")}


TYPES = [
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16",
    "bfloat16", "float32", "float64", "complex64", "complex128", "string", "qint8", "quint16",
    "qint32", "int4", "float8_e5m2",
]  # fmt: skip


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("name", TYPES)
def test_typed_values_are_what_tensorflow_reads(name, count):
    """The last value is repeated where they are too few, and nothing is read beyond the shape."""
    made = proto([2, 1], **fields(name, count))
    if name == "float8_e5m2" and count == 1:
        pytest.skip("TensorFlow reads beyond the only byte")
    expected = tf.io.parse_tensor(made.SerializeToString(), tf.as_dtype(name)).numpy()
    found = tensors.to_array(made, "a")
    assert found.shape == (2, 1) and found.dtype == tf.as_dtype(name).as_numpy_dtype
    found = found.astype(expected.dtype)  # numpy has no quantized types
    np.testing.assert_array_equal(found, expected)
    size = 2 * tf.as_dtype(name).size
    if name == "string":
        size = 16 + sum(len(value) for value in expected.ravel())
    assert tensors.measure(made, "a") == ((2, 1), size)
    for as_content in (False, True):
        sent = tensors.to_proto(found, as_content=as_content, dtype=made.dtype)
        assert bool(sent.tensor_content) == (as_content and name != "string")
        got = tf.io.parse_tensor(sent.SerializeToString(), tf.as_dtype(name)).numpy()
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("made", "size"),
    [
        (proto([28_000, 28, 28, 3], float_val=[0.5]), 263_424_000),
        (proto([2**31], float_val=[1]), 2**33),
        (proto([2**31], float_val=[1, 2]), 2**33),
        (proto([2**31]), 2**33),
        (proto([3000], dtype=7, string_val=[b"a" * 10**6]), 3000 * 10**6 + 24_000),
    ],
)
def test_few_bytes_that_say_much_are_measured_and_not_filled(made, size):
    assert tensors.measure(made, "a")[1] == size


@pytest.mark.parametrize(
    "bad",
    [
        proto([2], tensor_content=b"abc"),
        proto([-1], float_val=[1]),
        proto([1], dtype=0, float_val=[1]),
        proto([1], dtype=99, float_val=[1]),
        proto([1], dtype=101, float_val=[1]),  # a reference
        proto([1], dtype=20),  # a resource
        proto([1], dtype=21),  # a variant
        proto([1], dtype=3, tensor_content=b"abc"),
        proto([2**40, 2**40], float_val=[1]),
        tensor_pb2.TensorProto(dtype=1, tensor_shape={"unknown_rank": True}),
    ],
)
def test_inconsistent_tensors_are_refused(bad):
    for read in (tensors.measure, tensors.to_array):
        with pytest.raises(StatusError, match="tensor parsing error: a"):
            read(bad, "a")
