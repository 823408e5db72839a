"""JSON in tensors and tensors in JSON: what is read as what, how it is written, what is refused."""

import json
import math
import re

import pytest

from tests.conformance.prepare import KINDS
from tests.conformance.rows import assert_text

pytestmark = pytest.mark.conformance

PATH = f"/v1/models/{KINDS}:predict"
INSTANCE = '{"n": [1, 2], "s": "a"}'


def predict(target, body, signature=""):
    """Status and document of a call; its body as text, since some of it is no JSON of Python's."""
    if signature:
        body = f'{{"signature_name": "{signature}", ' + body[1:]
    status, reply = target.http(PATH, body)
    return status, json.loads(reply)


@pytest.mark.parametrize(
    ("signature", "body", "expected"),
    [
        ("", '{"instances": [2.0, 3.0, 4.0]}', [3.0, 3.5, 4.0]),
        ("", '{"instances": [[1.0, 2.0], [3.0, 4.0]]}', [[2.5, 3.0], [3.5, 4.0]]),
        ("", '{"inputs": [2.0, 3.0, 4.0]}', [3.0, 3.5, 4.0]),
        ("", '{"inputs": {"x": [2.0]}}', [3.0]),
        ("serving_default", '{"instances": [3.0, 4.0]}', [3.5, 4.0]),
        # Whole numbers and decimals may be mixed, and need not be exact.
        ("", '{"instances": [1, 2.0, 3, 0.0]}', [2.5, 3.0, 3.5, 2.0]),
        ("double", '{"instances": [1.0, 2, 0.662]}', [1.0, 2.0, 0.662]),
        ("", '{"instances": [1435774380]}', [717887168.0]),
        ("", '{"instances": [1435774380.0]}', [717887168.0]),
        # Numbers that a float cannot hold become infinite, or zero.
        ("", '{"instances": [1.7976931348623157e308, -1.7976931348623157e308]}',
         [math.inf, -math.inf]),
        ("", '{"instances": [2.2250738585072014e-308]}', [2.0]),
        ("", '{"instances": [Infinity, -Infinity]}', [math.inf, -math.inf]),
        ("int", '{"instances": [[1, 2], [3, 4], [5, 6]]}', [[1, 2], [3, 4], [5, 6]]),
        ("long", '{"instances": [9223372036854775807, -9223372036854775808]}',
         [2**63 - 1, -(2**63)]),
        ("truth", '{"instances": [true, false]}', [True, False]),
        ("byte", '{"instances": [0, 255]}', [0, 255]),
        ("text", '{"instances": ["a", "\\u00e4"]}', ["a", "ä"]),
        ("text", '{"instances": [{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}]}', ["hello", "world"]),
        ("text", '{"instances": [[{"b64": "aGVsbG8="}], [{"b64": "d29ybGQ="}]]}',
         [["hello"], ["world"]]),
        ("text", '{"instances": [{"x": [[{"b64": "aGVsbG8="}], [{"b64": "d29ybGQ="}]]}]}',
         [[["hello"], ["world"]]]),
        # What follows the document, and keys that nobody knows, do not count.
        ("", '{"instances": [2]}X', [3.0]),
        ("", '{"instances": [2], "more": [[]]}', [3.0]),
    ],
)  # fmt: skip
def test_values(target, signature, body, expected):
    status, reply = predict(target, body, signature)
    assert status == 200, reply
    (found,) = reply.values()
    assert found == expected and type(found[0]) is type(expected[0])
    assert set(reply) == {"outputs" if '"inputs"' in body else "predictions"}


def test_several_inputs_and_outputs_and_bytes(target):
    """Outputs whose names end in `_bytes` are written in base64."""
    rows = f'{{"instances": [{INSTANCE}, {{"s": "b", "n": [3, 4]}}]}}'
    status, reply = predict(target, rows, "two")
    assert status == 200, reply
    assert reply["predictions"] == [
        {"n": [2, 4], "s": "a", "s_bytes": {"b64": "YQ=="}},
        {"n": [6, 8], "s": "b", "s_bytes": {"b64": "Yg=="}},
    ]
    status, reply = predict(target, '{"inputs": {"n": [[1, 2]], "s": ["a"], "z": 1}}', "two")
    assert status == 200, reply
    assert reply["outputs"] == {"n": [[2, 4]], "s": ["a"], "s_bytes": [{"b64": "YQ=="}]}


REFUSED = {
    "no input to fill": ("nothing", '{"instances": [1]}',
                         "Failed to get input map for signature: nothing"),
    "no input in columns": ("nothing", '{"inputs": {}}',
                            "Failed to get input map for signature: nothing"),
    "the initialiser": ("__saved_model_init_op", '{"instances": [1]}',
                        "Failed to get input map for signature: __saved_model_init_op"),
    "no input before no key": ("nothing", '{"x": 1}',
                               "Failed to get input map for signature: nothing"),
    "a size of its own": ("int", '{"instances": [[1, 2], [3, 4], [5, 6, 7]]}',
                          re.compile(".*Expecting tensor size: 2 but got: 3")),
    "a shape of its own": ("int", '{"instances": [[1, 2], [3, 4], [[5, 6]]]}',
                           re.compile(r".*Expecting shape \[2\] but got: \[1,2\]")),
    "a list among values": ("int", '{"instances": [1, [1]]}',
                            re.compile(r".*Expecting shape \[\] but got: \[1\]")),
    "words among numbers": ("int", '{"instances": [[1, 2], ["a", "b"]]}',
                            re.compile('.*Value: "a" Type: String is not of expected type: int32')),
    "decimals for whole numbers": ("int", '{"instances": [1.0]}',
                                   re.compile(".*Type: Number is not of expected type: int32")),
    "more than a whole number": ("int", '{"instances": [2147483648]}',
                                 re.compile(".*Type: Number is not of expected type: int32")),
    "nothing for a number": ("", '{"instances": [null]}',
                             re.compile(".*Value: null Type: Null is not of expected type: float")),
    "an object for a number": ("", '{"inputs": {"x": [{"b64": "YQ=="}]}}',
                               re.compile(".*Type: Object is not of expected type: float")),
    "numbers for truth": ("truth", '{"instances": [1]}',
                          re.compile(".*Value: 1 Type: Number is not of expected type: bool")),
    "a number for text": ("text", '{"instances": [1]}',
                          re.compile(".*Type: Number is not of expected type: string")),
    "two keys in base64": ("text", '{"inputs": {"x": [{"b64": "YQ==", "c": 1}]}}',
                           re.compile(".*not formatted correctly for base64 data", re.S)),
    "deeper than the first": ("", '{"inputs": [1, [2]]}',
                              "Encountered list at unexpected level: 1 expected < 1"),
    "less deep than the first": ("", '{"inputs": [[1], 2]}',
                                 "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. "
                                 "Expected at level: 2"),
    "a list for two inputs": ("two", '{"instances": [[1, 2]]}',
                              re.compile("instances is a plain list, but expecting list of objects "
                                         "as multiple input tensors required")),
    "a column for two inputs": ("two", '{"inputs": [[1, 2]]}',
                                re.compile("inputs is a plain value/list, but expecting an object "
                                           "as multiple input tensors required")),
    "one of two columns": ("two", '{"inputs": {"n": [[1, 2]]}}',
                           "Missing named input: s in 'inputs' object."),
    "one of two inputs": ("two", '{"instances": [{"n": [1, 2]}]}',
                          re.compile("Failed to process element: 0 of 'instances' list. JSON "
                                     "object: .* keys must be equal to: n,s", re.S)),
    "a list among objects": ("two", f'{{"instances": [{INSTANCE}, [1]]}}',
                             "Expecting object but got list at item 1 of input list"),
    "an object among lists": ("text", '{"instances": [["a"], {"x": ["b"]}]}',
                              "Expecting value/list but got object at item 1 of input list"),
    "which element and key": ("two", f'{{"instances": [{INSTANCE}, {{"n": ["a"], "s": "b"}}]}}',
                              re.compile("Failed to process element: 1 key: n of 'instances' list. "
                                         "Error: INVALID_ARGUMENT: .*not of expected type")),
    "instances that are no list": ("", '{"instances": 1}',
                                   re.compile(".*Expecting 'instances' to be an list/array", re.S)),
    "a constant output": ("labels", '{"instances": [1, 2]}',
                          re.compile("Batched output tensor's 0th dimension does not equal")),
    "a scalar output": ("scalar", '{"inputs": [1, 2]}',
                        "Batched output tensor has 0 dimensions"),
    "a scalar input": ("", '{"inputs": 1.0}',
                       "Batching Run() input tensors must have at least one dimension"),
    "no method for it": ("", "instances = [1, 2]", re.compile("JSON Parse error: ")),
}  # fmt: skip


@pytest.mark.parametrize("row", REFUSED)
def test_refused(target, row):
    signature, body, text = REFUSED[row]
    status, reply = predict(target, body, "" if body[0] != "{" else signature)
    assert status == 400, reply
    assert_text(reply["error"], text)
