"""Tensors to and from the wire and JSON, against TensorFlow and the json module."""

import contextlib
import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import predict_pb2

from serving.server import json_tensors, tensors
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


def info(dtype):
    return meta_graph_pb2.TensorInfo(dtype=dtype.as_datatype_enum)


ONE = {"x": info(tf.float32)}
TWO = {"n": info(tf.int32), "x": info(tf.float32)}


def filled(document, inputs):
    request = predict_pb2.PredictRequest()
    form = json_tensors.fill(request, json_tensors.parse(json.dumps(document).encode()), inputs)
    return form, {name: tf.make_ndarray(value) for name, value in request.inputs.items()}


@pytest.mark.parametrize(
    ("document", "inputs", "expected"),
    [
        ({"instances": [1, 2.5]}, ONE, {"x": [1, 2.5]}),
        ({"instances": [[[1], [2]]]}, ONE, {"x": [[[1], [2]]]}),
        ({"instances": [{"x": [1, 2]}, {"x": [3, 4]}]}, ONE, {"x": [[1, 2], [3, 4]]}),
        ({"inputs": [[1, 2]]}, ONE, {"x": [[1, 2]]}),
        ({"inputs": {"x": 7}}, ONE, {"x": 7}),
        ({"instances": [{"x": 1, "n": 2}]}, TWO, {"x": [1], "n": [2]}),
        ({"inputs": {"x": [[1]], "n": [2, 3]}}, TWO, {"x": [[1]], "n": [2, 3]}),
        ({"instances": ["a", {"b64": "AP8"}]}, {"x": info(tf.string)}, {"x": [b"a", b"\0\xff"]}),
        ({"inputs": {"b64": "AP8="}}, {"x": info(tf.string)}, {"x": b"\0\xff"}),
        ({"inputs": {"b64": "AP\n8=\n"}}, {"x": info(tf.string)}, {"x": b"\0\xff"}),
        ({"inputs": [True, False]}, {"x": info(tf.bool)}, {"x": [True, False]}),
    ],
)
def test_both_forms(document, inputs, expected):
    form, found = filled(document, inputs)
    assert form == ("predictions" if "instances" in document else "outputs")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == tf.as_dtype(inputs[name].dtype).as_numpy_dtype


@pytest.mark.parametrize(
    ("document", "inputs", "words"),
    [
        ({"instances": [1]}, TWO, "instances is a plain list, but expecting list of objects"),
        ({"inputs": [1]}, TWO, "inputs is a plain value/list, but expecting an object"),
        ({"inputs": {"x": 1}}, TWO, "Missing named input: n in 'inputs' object."),
        ({"instances": [{"x": 1}]}, TWO, "keys must be equal to: n,x"),
        ({"instances": [{"x": 1}, 2]}, ONE, "Expecting object but got list at item 1"),
        ({"instances": [2, {"x": 1}]}, ONE, "Expecting value/list but got object at item 1"),
        ({"instances": [[1], [1, 2]]}, ONE, "element: 1 .*Expecting tensor size: 1 but got: 2"),
        ({"instances": [[[1, 2]], [[1], [2]]]}, ONE, r"Expecting shape \[1,2\] but got: \[2,1\]"),
        ({"instances": [[1, [2]]]}, ONE, "Encountered list at unexpected level: 1 expected < 1"),
        ({"instances": [[[1], 2]]}, ONE, "found at incorrect level: 2"),
        ({"instances": ["a"]}, ONE, 'Value: "a" Type: String is not of expected type: float$'),
        ({"instances": [10**400]}, ONE, "a number is too large for float"),
        ({"inputs": ["\ud800"]}, {"x": info(tf.string)}, "is not of expected type: string"),
        ({"inputs": [{"b64": "AP8=="}]}, {"x": info(tf.string)}, "Unable to base64 decode"),
        ({"instances": [[1, None]]}, ONE, "JSON Value: null Type: Null"),
        ({"instances": [{"y": 1}]}, ONE, "does not have named input: y"),
        ({"instances": {"x": 1}}, ONE, "Expecting 'instances' to be an list/array"),
        ({"inputs": [1.5]}, {"x": info(tf.int32)}, "Type: Number is not of expected type: int32"),
        ({"inputs": [2**31]}, {"x": info(tf.int32)}, "is not of expected type: int32"),
        ({"inputs": [1]}, {"x": info(tf.bool)}, "is not of expected type: bool"),
        ({"inputs": [1]}, {"x": info(tf.string)}, "is not of expected type: string"),
        ({"inputs": [{"b64": "a"}]}, {"x": info(tf.string)}, "Unable to base64 decode"),
        ({"inputs": [{"b64": 1}]}, {"x": info(tf.string)}, "for base64 data"),
    ],
)
def test_forms_that_do_not_fit(document, inputs, words):
    with pytest.raises(StatusError, match=words):
        filled(document, inputs)


def test_parsing_stops_where_the_document_ends():
    assert json_tensors.parse(b' {"a": NaN} rubbish').keys() == {"a"}
    assert json_tensors.parse(b'{"a": 1, "a": 2}') == {"a": 1}  # as there


@pytest.mark.parametrize("depth", [64, 65, 300, 900, 100_000])
@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_deep_lists_are_read_or_refused(depth, key):
    body = json.dumps({key: 0}).replace("0", "[" * depth + "1" + "]" * depth).encode()
    refusal = pytest.raises(StatusError) if depth > 64 else contextlib.suppress(StatusError)
    with refusal:  # and nothing else is raised
        json_tensors.fill(predict_pb2.PredictRequest(), json_tensors.parse(body), ONE)


def test_signature_names_are_text():
    assert json_tensors.signature_name({"signature_name": "ü"}) == "ü"
    for bad in (1, "\ud800"):
        with pytest.raises(StatusError, match="must be a string value"):
            json_tensors.signature_name({"signature_name": bad})


@given(FLOATS)
def test_numbers_survive_json(array):
    text = json_tensors.reply({"x": array}, "outputs")
    found = np.array(json.loads(text)["outputs"], np.float32)
    np.testing.assert_array_equal(found.reshape(array.shape), array)


def test_numbers_are_written_as_there():
    x = np.array([0.2, 1, 9e6, 3e-5, 16777216, 1 / 3, np.nan, -np.inf], np.float32)
    assert json_tensors.reply({"x": x}, "outputs").split(": ")[1].strip("\n}") == (
        "[0.2, 1.0, 9e+06, 3e-05, 16777216.0, 0.333333343, NaN, -Infinity]"
    )


def test_rows_need_as_many_of_each_output():
    with pytest.raises(StatusError, match="has no shape information"):
        json_tensors.reply({"x": np.float32(1)}, "predictions")
    with pytest.raises(StatusError, match="y has inconsistent batch size: 2 expecting: 1"):
        json_tensors.reply({"x": np.zeros(1), "y": np.zeros(2)}, "predictions")
    both = json_tensors.reply(
        {"x": np.zeros((2, 1)), "y_bytes": np.array([b"a", b"b"])}, "predictions"
    )
    assert json.loads(both)["predictions"] == [
        {"x": [0.0], "y_bytes": {"b64": "YQ=="}}, {"x": [0.0], "y_bytes": {"b64": "Yg=="}},
    ]  # fmt: skip
