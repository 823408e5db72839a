"""Predict on signatures of all kinds: what a batching session makes of them, and which types pass.

The server merges requests, as `prepare` configures it.
"""

import concurrent.futures
import re

import numpy as np
import pytest
import tensorflow as tf

from tests.conformance.kinds import ECHOED, LABELS
from tests.conformance.prepare import KINDS
from tests.conformance.rows import Code, arrays, assert_text, refused, request, tensor

pytestmark = pytest.mark.conformance

X = np.array([1, 2], np.float32)
NO_INPUT = "Batching Run() must have at least one input tensor"
NOT_BY_ROW = (
    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of "
    "the input tensors"
)


def asked(signature="", outputs=(), **inputs):
    return request(f'name: "{KINDS}" signature_name: "{signature}"', outputs, **inputs)


PAIR = {"n": np.array([[1, 2], [3, 4]], np.int32), "s": np.array(["a", "b"])}
REFUSED = {
    "no inputs": (asked("nothing"), Code.INVALID_ARGUMENT, NO_INPUT),
    "initialiser": (asked("__saved_model_init_op"), Code.INVALID_ARGUMENT, NO_INPUT),
    "an input where there is none": (
        asked("nothing", x=X), Code.INVALID_ARGUMENT,
        "input size does not match signature: 1!=0 len({x}) != len({}). Sent extra: {x}. "
        "Missing but required: {}.",
    ),
    "a scalar": (
        asked(x=np.float32(1)), Code.INVALID_ARGUMENT,
        "Batching Run() input tensors must have at least one dimension",
    ),
    "rows of different numbers": (
        asked("two", **PAIR | {"s": np.array(["a"])}), Code.INVALID_ARGUMENT,
        "Batching Run() input tensors must have equal 0th-dimension size",
    ),
    "a constant output": (asked("labels", x=X), Code.FAILED_PRECONDITION, NOT_BY_ROW),
    "a scalar output": (
        asked("scalar", x=X), Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions"
    ),
    "one of two inputs": (
        asked("two", n=PAIR["n"]), Code.INVALID_ARGUMENT,
        "input size does not match signature: 1!=2 len({n}) != len({n,s}). Sent extra: {}. "
        "Missing but required: {s}.",
    ),
    "one of two by another name": (
        asked("two", n=PAIR["n"], z=PAIR["s"]), Code.INVALID_ARGUMENT,
        re.compile(r"Signature input alias: s\(feed name: two_s:0\) not found in request"),
    ),
    "a string for a number": (
        asked(x=tensor('dtype: DT_STRING tensor_shape { dim { size: 1 } } string_val: "any"')),
        Code.INVALID_ARGUMENT, None,
    ),
    "unknown rank": (
        asked(x=tensor("dtype: DT_FLOAT tensor_shape { unknown_rank: true } float_val: 1")),
        Code.INVALID_ARGUMENT, "tensor parsing error: x",
    ),
    "a negative dimension": (
        asked(x=tensor("dtype: DT_FLOAT tensor_shape { dim { size: -1 } } float_val: 1")),
        Code.INVALID_ARGUMENT, "tensor parsing error: x",
    ),
    "more than a number can count": (
        asked(x=tensor("dtype: DT_FLOAT tensor_shape { dim { size: 4294967296 } "
                       "dim { size: 4294967296 } } float_val: 1")),
        Code.INVALID_ARGUMENT, "tensor parsing error: x",
    ),
    "few bytes that say much": (
        asked(x=tensor("dtype: DT_FLOAT tensor_shape { dim { size: 1000000000 } } float_val: 1")),
        Code.INVALID_ARGUMENT,
        "Task size 1000000000 is larger than maximum input batch size 8",
    ),
    "a long name": (
        asked("s" * 5000, x=X), Code.FAILED_PRECONDITION,
        ('Serving signature key "' + "s" * 5000)[:1024] + "...TRUNCATED",
    ),
    "a filter over two signatures": (
        asked("two", ["y"], **PAIR), Code.INVALID_ARGUMENT,
        "output tensor alias not found in signature: y Outputs expected to be in the set "
        "{n,s,s_bytes}.",
    ),
    "unknown before repeated": (
        asked("two", ["y", "n", "n"], **PAIR), Code.INVALID_ARGUMENT,
        re.compile("output tensor alias not found in signature: y "),
    ),
    "a tensor that does not parse before a filter": (
        asked("", ["z"], x=tensor("dtype: DT_FLOAT tensor_shape { dim { size: -1 } }")),
        Code.INVALID_ARGUMENT, "tensor parsing error: x",
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", REFUSED)
def test_refused(target, row):
    made, code, text = REFUSED[row]
    found, details = refused(target.prediction.Predict, made)
    assert found == code, details
    assert_text(details, text)


def test_outputs_that_follow_the_rows_are_answered(target):
    """Of signatures that have others too, by a filter."""
    for signature in ("labels", "scalar"):
        reply = target.prediction.Predict(asked(signature, ["y"], x=X))
        assert set(reply.outputs) == {"y"}
        np.testing.assert_array_equal(arrays(reply)["y"], 2 * X)
    reply = arrays(target.prediction.Predict(asked("two", **PAIR)))
    np.testing.assert_array_equal(reply["n"], 2 * PAIR["n"])
    assert reply["s"].tolist() == reply["s_bytes"].tolist() == [b"a", b"b"]
    reply = target.prediction.Predict(asked("two", ["s", "n"], **PAIR))
    assert set(reply.outputs) == {"s", "n"}


def test_a_number_of_rows_that_fits_by_chance_is_no_number_of_rows(target):
    """Two requests at once, that have as many rows as there are labels, padding included."""
    made = asked("labels", x=np.zeros(2, np.float32))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: refused(target.prediction.Predict, made), range(24)))
    assert set(found) == {(Code.FAILED_PRECONDITION, NOT_BY_ROW)}
    assert len(LABELS) not in (1, 4, 8)  # no batch has as many rows: TensorFlow Serving's sizes


def test_any_rank_and_requests_of_different_shapes(target):
    for shape in ((1,), (2, 3), (1, 2, 2), (2, 0)):
        x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        np.testing.assert_array_equal(arrays(target.prediction.Predict(asked(x=x)))["y"], x / 2 + 2)


FIELDS = {
    "truth": "bool_val", "byte": "int_val", "short": "int_val", "int": "int_val",
    "long": "int64_val", "half": "half_val", "double": "double_val", "text": "string_val",
    "complex": "scomplex_val",
}  # fmt: skip


@pytest.mark.parametrize("name", ECHOED)
def test_types_come_back_in_their_own_fields(target, name):
    kind = ECHOED[name]
    values = [b"a", b"", b"c"] if kind == tf.string else [1, 0, 3]
    sent = tf.make_tensor_proto(np.array(values).astype(kind.as_numpy_dtype), kind)
    found = target.prediction.Predict(asked(name, x=sent)).outputs["y"]
    assert found.dtype == kind.as_datatype_enum
    assert not found.tensor_content
    assert len(getattr(found, FIELDS[name])) == (6 if name == "complex" else 3)
    np.testing.assert_array_equal(tf.make_ndarray(found), tf.make_ndarray(sent))


def test_values_beyond_the_shape_do_not_count_and_none_are_zeros(target):
    head = "dtype: DT_FLOAT tensor_shape { dim { size: 2 } } "
    for values, expected in (
        ("float_val: [2, 4, 6]", [3, 4]),
        ("float_val: 4", [4, 4]),
        ("", [2, 2]),
    ):
        reply = target.prediction.Predict(asked(x=tensor(head + values)))
        np.testing.assert_array_equal(arrays(reply)["y"], expected)
