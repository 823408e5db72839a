"""Tensors as the client reads them."""

import numpy as np
import pytest
import tensorflow as tf

from serving import protocol
from serving.client import BadReply, tensors


@pytest.mark.parametrize(
    "values",
    [
        np.float32([[1, 2, 3], [4, 5, 6]]),
        np.float32([[1, 2, 2], [2, 2, 2]]),
        np.zeros((2, 3), np.float32),
        np.full((2, 2), np.nan, np.float32),
        np.float64([1.5, -2]),
        np.zeros((0, 4), np.float32),
        np.float32(3),
    ],
    ids=str,
)
@pytest.mark.parametrize("as_list", [True, False])
def test_reads_what_tensorflow_writes(values, as_list):
    made = tf.make_tensor_proto(values)
    if as_list and values.dtype.kind == "f" and values.dtype.itemsize == 4:
        made.ClearField("tensor_content")
        made.float_val[:] = values.ravel().tolist()
    found = tensors.to_array(protocol.TensorProto.FromString(made.SerializeToString()))
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


def test_a_short_list_repeats_its_last_element():
    for given, expected in (([1.0, 2.0], [1, 2, 2, 2]), ([], [0, 0, 0, 0]), ([7.0], [7] * 4)):
        tensor = protocol.TensorProto(dtype=1, float_val=given)
        tensor.tensor_shape.dim.add(size=2)
        tensor.tensor_shape.dim.add(size=2)
        np.testing.assert_array_equal(tensors.to_array(tensor).ravel(), np.float32(expected))


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": 1, "float_val": [1, 2]},
        {"dtype": 1, "tensor_content": b"12"},
        {"dtype": 14, "tensor_content": b"12"},
        {"dtype": 3, "int_val": [1]},
        {"dtype": 7, "string_val": [b"1"]},
        {"dtype": 1, "tensor_shape": {"dim": [{"size": -1}]}},
    ],
)
def test_damaged_tensors(tensor):
    with pytest.raises(BadReply):
        tensors.to_array(protocol.TensorProto(**tensor))
