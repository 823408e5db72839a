"""REST bodies and JSON: what is read, what is refused and how soon, what is written."""

import contextlib
import gzip
import io
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.bodies import compressed, parsing, reading, values, worker, writing
from serving.bodies.refusals import Refused
from serving.bodies.values import Input
from tests.test_imports import imported

FLOATS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0),
    elements=st.floats(width=32),
)


def info(dtype, shape=None):
    return Input({"float32": "float", "object": "string"}.get(dtype, dtype), dtype, shape)


ONE = {"x": info("float32")}
TWO = {"n": info("int32"), "x": info("float32")}
INT64 = {"x": info("int64")}
STRING = {"x": info("object")}
IMAGE = {"x": info("float32", (-1, 2, 2))}


def filled(document, inputs):
    return reading.fill(parsing.parse(json.dumps(document)), inputs)


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
        ({"instances": ["a", {"b64": "AP8"}]}, STRING, {"x": [b"a", b"\0\xff"]}),
        ({"inputs": {"b64": "AP8="}}, STRING, {"x": b"\0\xff"}),
        ({"inputs": {"b64": "AP\n8=\n"}}, STRING, {"x": b"\0\xff"}),
        ({"inputs": [True, False]}, {"x": info("bool")}, {"x": [True, False]}),
        ({"instances": [True, False]}, {"x": info("bool")}, {"x": [True, False]}),
        ({"inputs": [2**63 - 1, -(2**63)]}, INT64, {"x": [2**63 - 1, -(2**63)]}),
        ({"instances": [{"x": 1.5, "n": 2}, {"n": 3, "x": 4}]}, TWO, {"x": [1.5, 4], "n": [2, 3]}),
        ({"instances": [[[1, 2], [3, 4]]] * 2}, IMAGE, {"x": [[[1, 2], [3, 4]]] * 2}),
        ({"inputs": [[[1, 2], [3, 4]]] * 2}, IMAGE, {"x": [[[1, 2], [3, 4]]] * 2}),
        ({"instances": [2**64, 0.5]}, ONE, {"x": [2.0**64, 0.5]}),
        ({"instances": [["a", "b"], ["c", "d"]]}, STRING, {"x": [[b"a", b"b"], [b"c", b"d"]]}),
    ],
)
def test_both_forms(document, inputs, expected):
    form, found = filled(document, inputs)
    assert form == ("predictions" if "instances" in document else "outputs")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == np.dtype(inputs[name].dtype)


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
        ({"inputs": ["\ud800"]}, STRING, "is not of expected type: string"),
        ({"inputs": [{"b64": "AP8=="}]}, STRING, "Unable to base64 decode"),
        ({"instances": [[1, None]]}, ONE, "JSON Value: null Type: Null"),
        ({"instances": [{"y": 1}]}, ONE, "does not have named input: y"),
        ({"instances": {"x": 1}}, ONE, "Expecting 'instances' to be an list/array"),
        ({"inputs": [1.5]}, {"x": info("int32")}, "Type: Number is not of expected type: int32"),
        ({"inputs": [2**31]}, {"x": info("int32")}, "is not of expected type: int32"),
        ({"inputs": [1]}, {"x": info("bool")}, "is not of expected type: bool"),
        ({"inputs": [1]}, STRING, "is not of expected type: string"),
        ({"inputs": [{"b64": "a"}]}, STRING, "Unable to base64 decode"),
        ({"inputs": [{"b64": 1}]}, STRING, "for base64 data"),
        ({"inputs": [2**63]}, INT64, "is not of expected type: int64"),
        ({"inputs": [1, True]}, INT64, "Value: true Type: True is not of expected type: int64"),
        ({"inputs": [1]}, {"x": info("")}, "is not of expected type"),
        ({"instances": [1, 2]}, IMAGE, r"element: 0 .*Expecting shape \[2,2\] but got: \[\]"),
        ({"instances": [[1, 2]]}, IMAGE, r"element: 0 .*Expecting shape \[2,2\] but got: \[2\]"),
        ({"instances": [[[1, 2], [3, 4]], 5]}, IMAGE, "element: 1 .*tensor size: 4 but got: 1"),
        ({"inputs": [[1, 2], [3, 4]]}, IMAGE, r"Expecting shape \[\?,2,2\] but got: \[2,2\]"),
        ({"instances": [["a"]]}, IMAGE, 'Value: "a" Type: String'),  # said first, as there
        (
            {"instances": [2] * 10**6, "inputs": [1]},
            ONE,
            "expecting only one of",
        ),
    ],
)
def test_forms_that_do_not_fit(document, inputs, words):
    with pytest.raises(Refused, match=words):
        filled(document, inputs)


def test_parsing_stops_where_the_document_ends():
    assert parsing.parse('{"a": NaN} rubbish').keys() == {"a"}
    assert parsing.parse('{"a": 1, "a": 2}') == {"a": 1}  # as there


@pytest.mark.parametrize("depth", [64, 65, 300, 900, 100_000])
@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_deep_lists_are_read_or_refused(depth, key):
    body = json.dumps({key: 0}).replace("0", "[" * depth + "1" + "]" * depth)
    refusal = pytest.raises(Refused) if depth > 64 else contextlib.suppress(Refused)
    with refusal:  # and nothing else is raised
        reading.fill(parsing.parse(body), ONE)


NAMES = {
    "Inf": np.inf, "-Inf": -np.inf, "Infinity": np.inf, "-Infinity": -np.inf, "NaN": np.nan,
    "-NaN": np.nan,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_for_numbers_are_those_of_rapidjson(name):
    found = parsing.parse(f'{{"Inf": "-Inf \\" NaN", "x": [1, {name}, NaN, -Inf,Inf]}}')
    assert found["Inf"] == '-Inf " NaN'
    np.testing.assert_array_equal(found["x"], [1, NAMES[name], np.nan, -np.inf, np.inf])


@pytest.mark.parametrize(
    ("text", "offset"),
    [("[Inf, x]", 6), ("[Infinit]", 4), ("[inf]", 1), ("[--Inf]", 1), ("[nan]", 1), ("[+Inf]", 1)],
)
def test_other_names_are_refused_where_they_stand(text, offset):
    with pytest.raises(Refused, match=rf"JSON Parse error: .* at offset: {offset + 5}$"):
        parsing.parse(f'{{"x":{text}}}')


class Counted(list):
    """A list that tells how often its items are looked at one by one."""

    looked = 0

    def __iter__(self):
        for item in super().__iter__():
            Counted.looked += 1
            yield item


@pytest.mark.parametrize(
    ("head", "parsed"),
    [
        ('{"instances": [', False),
        ('\ufeff {"signature_name": "serving_default", "instances":[ ', False),
        ('{"instances": [[[1, 2], [3, 4]], ', True),  # the first row fits
        ('{"other": 1, "instances": [', True),
        ('{"inputs": [', False),
    ],
)
def test_rows_after_one_that_does_not_fit_are_not_parsed(head, parsed, monkeypatch):
    whole = []
    monkeypatch.setattr(reading, "parse", lambda text: whole.append(text) or parsing.parse(text))
    body = (head + "1, " * 30_000 + "1]}").encode()
    with pytest.raises(Refused, match="Expecting"):
        reading.read(body, "", 10**6, {"serving_default": IMAGE})
    assert bool(whole) == parsed


@pytest.mark.parametrize(
    "tail", ['], "signature_name": "other"}', '], "signature\\u005fname": "other"}']
)
def test_the_signature_may_be_named_after_the_rows(tail):
    found = reading.read(
        b'{"instances": [1, 2' + b" " * 70_000 + tail.encode(),
        "",
        10**6,
        {"serving_default": IMAGE, "other": ONE},
    )
    assert found.signature == "other" and found.arrays["x"].tolist() == [1, 2]


@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_what_cannot_fit_is_refused_at_its_beginning(key, monkeypatch):
    """However long it is; and numpy is not asked."""
    monkeypatch.setattr(values, "numbers", None)
    Counted.looked = 0
    with pytest.raises(Refused, match="Expecting shape"):
        reading.fill({key: Counted([1.0] * 10**6)}, IMAGE)
    assert Counted.looked <= 10_001


def test_numbers_are_taken_together_not_one_by_one(monkeypatch):
    """As one array, whether they are rows of one number or of many."""
    made = []
    numbers = values.numbers
    monkeypatch.setattr(values, "numbers", lambda *a: made.append(0) or numbers(*a))
    found = reading.fill({"instances": [0.5] * 10**5}, {"x": info("float32", (-1,))})[1]["x"]
    assert found.shape == (10**5,) and len(made) == 1
    rows = [{"x": [1, 2], "n": 3}] * 1000
    found = reading.fill({"instances": rows}, TWO)[1]
    assert found["x"].shape == (1000, 2) and found["n"].shape == (1000,) and len(made) < 6


def test_only_as_much_of_a_value_is_shown_as_errors_hold():
    assert parsing.shown({"a": [1] * 10**6, "b": 2}).startswith('{"a": [1, 1')
    assert len(parsing.shown(["a" * 10**6])) == 256


class Unwritten(dict):
    """A JSON object that costs what it holds, or its depth, where it is written out."""

    def __repr__(self):
        raise AssertionError("it was written out")


def test_the_type_of_a_value_is_told_without_writing_all_of_it():
    with pytest.raises(Refused, match="is not of expected type: float"):
        reading.fill({"inputs": [Unwritten(k=1)]}, ONE)
    for depth in range(900, 1000):  # to beyond what the parser takes, from wherever it is called
        body = '{"inputs": [' + '{"k":' * depth + "1" + "}" * depth + "]}"
        with pytest.raises(Refused):
            reading.fill(parsing.parse(body), ONE)


def gzipped(size, **options):
    machine = zlib.compressobj(wbits=31, **options)
    return machine.compress(bytes(size)) + machine.flush()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZIP", lambda body: gzip.compress(body[:7]) + gzip.compress(body[7:])),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body)[2:-4]),  # without its header
        ("identity", bytes),
        ("", bytes),
    ],
)
def test_bodies_are_unpacked(encoding, pack):
    body = np.random.default_rng(0).bytes(100_000)
    assert compressed.unpacked(pack(body), encoding, len(body)) == body
    with pytest.raises(compressed.TooLarge):
        compressed.unpacked(pack(body), encoding, len(body) - 1)


@pytest.mark.parametrize(
    ("body", "encoding", "words"),
    [
        (b"not gzip", "gzip", "cannot be read as gzip"),
        (gzipped(1000)[:-1], "gzip", "ends too early"),
        (gzipped(1000) + b"rubbish", "gzip", "cannot be read as gzip"),
        (gzip.compress(b"") * 5000, "gzip", "more than 4096 gzip members"),
        (gzipped(1000), "gzip, gzip", "'gzip, gzip'; it must be gzip, deflate or identity"),
        (b"", "br", "'br'; it must be"),
    ],
)
def test_bodies_that_do_not_unpack(body, encoding, words):
    with pytest.raises(Refused, match=words):
        compressed.unpacked(body, encoding, 10**6)


@pytest.mark.parametrize("members", [1, 20])
def test_no_more_than_the_limit_is_unpacked(members, monkeypatch):
    made = []

    class Machine:
        def __init__(self, bits):
            self._machine = zlib_decompressobj(bits)

        def decompress(self, *arguments):
            made.append(len(piece := self._machine.decompress(*arguments)))
            return piece

        def __getattr__(self, name):
            return getattr(self._machine, name)

    zlib_decompressobj = zlib.decompressobj
    monkeypatch.setattr(compressed.zlib, "decompressobj", Machine)
    with pytest.raises(compressed.TooLarge, match="larger than max"):
        compressed.unpacked(gzipped(10**7) * members, "gzip", 10**6)
    assert sum(made) <= 10**6 + 1


def test_messages_between_processes_hold_what_was_sent():
    sent = {
        "x": np.arange(6, dtype=np.float32).reshape(2, 3),
        "n": np.array(5, np.int64),
        "none": np.zeros((2, 0), np.float64),
        "s": np.array([[b"a", b""], [b"\0", "ü"]], object),
    }
    stream = io.BytesIO()
    worker.send(stream, ("write", (sent, "outputs")))
    stream.seek(0)
    job, (found, form) = worker.receive(stream)
    assert (job, form) == ("write", "outputs") and found.keys() == sent.keys()
    for name, array in sent.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tolist() == array.tolist()
    for left in (b"", stream.getvalue()[:-5]):
        with pytest.raises(EOFError):
            worker.receive(io.BytesIO(left))


def test_bodies_need_numpy_alone():
    """So that their processes start soon and are small."""
    for path in Path(reading.__file__).parent.glob("*.py"):
        for name in imported(path):
            known = name.split(".")[0] in {*sys.stdlib_module_names, "numpy"}
            assert known or name.startswith("serving.bodies"), (path, name)


def test_signature_names_are_text():
    assert reading.signature_name({"signature_name": "ü"}) == "ü"
    for bad in (1, "\ud800"):
        with pytest.raises(Refused, match="must be a string value"):
            reading.signature_name({"signature_name": bad})


@given(FLOATS)
def test_numbers_survive_json(array):
    text = writing.reply({"x": array}, "outputs")
    found = np.array(json.loads(text)["outputs"], np.float32)
    np.testing.assert_array_equal(found.reshape(array.shape), array)


def test_numbers_are_written_as_there():
    x = np.array([0.2, 1, 9e6, 3e-5, 16777216, 1 / 3, np.nan, -np.inf], np.float32)
    assert writing.reply({"x": x}, "outputs").split(b": ")[1].strip(b"\n}") == (
        b"[0.2, 1.0, 9e+06, 3e-05, 16777216.0, 0.333333343, NaN, -Infinity]"
    )


def test_rows_need_as_many_of_each_output():
    with pytest.raises(Refused, match="has no shape information"):
        writing.reply({"x": np.array(1.0)}, "predictions")
    with pytest.raises(Refused, match="y has inconsistent batch size: 2 expecting: 1"):
        writing.reply({"x": np.zeros(1), "y": np.zeros(2)}, "predictions")
    both = writing.reply({"x": np.zeros((2, 1)), "y_bytes": np.array([b"a", b"b"])}, "predictions")
    assert json.loads(both)["predictions"] == [
        {"x": [0.0], "y_bytes": {"b64": "YQ=="}}, {"x": [0.0], "y_bytes": {"b64": "Yg=="}},
    ]  # fmt: skip
