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


@pytest.mark.parametrize(
    "bad",
    [
        proto([2], tensor_content=b"abc"),
        proto([-1], float_val=[1]),
        proto([2], float_val=[1, 2, 3]),
        proto([1], dtype=0, float_val=[1]),
        proto([1], dtype=99, float_val=[1]),
        proto([2**40, 2**40], float_val=[1]),
        proto([2**31], float_val=[1]),  # 8 GiB out of one number
        proto([3000], dtype=7, string_val=[b"a" * 10**6]),  # 3 GB out of a megabyte
        tensor_pb2.TensorProto(dtype=1, tensor_shape={"unknown_rank": True}),
    ],
)
def test_inconsistent_tensors_are_refused(bad):
    with pytest.raises(StatusError, match="tensor parsing error: a"):
        tensors.to_array(bad, "a")
