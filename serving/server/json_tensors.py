"""Between JSON and tensors: the row and column forms of the REST API, by its rules there.

A list of numbers goes through numpy in one call; only what that does not take whole is walked
value by value, which finds the words for what is wrong with it.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import predict_pb2

from serving.server import tensors
from serving.server.status import Code, StatusError, invalid

Inputs = Mapping[str, meta_graph_pb2.TensorInfo]
_SHOWN = 256  # characters of a value in an error
_MOST_DIMENSIONS = 63  # a numpy array has 64, one of them for the batch
# Of keys that are repeated, the first counts.
_DECODER = json.JSONDecoder(object_pairs_hook=lambda pairs: dict(reversed(pairs)))


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body; what follows it is ignored.

    Raises:
        StatusError: it is not JSON, or no object.
    """
    try:
        text = body.decode("utf-8-sig").lstrip(" \t\r\n")
        if not text:
            raise invalid("JSON Parse error: The document is empty")
        document, _ = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {error.msg} at offset: {error.pos}") from error
    except UnicodeDecodeError as error:
        raise invalid(
            f"JSON Parse error: Invalid encoding in string. at offset: {error.start}"
        ) from error
    except (RecursionError, ValueError) as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_shown(document)} Is not object")
    return document


def fill(request: predict_pb2.PredictRequest, document: dict[str, Any], inputs: Inputs) -> str:
    """Fills a request's inputs.

    Args:
        request: gets the tensors.
        document: from `parse`.
        inputs: of the signature that the document names.

    Returns:
        The form that the reply must have: "predictions" or "outputs".

    Raises:
        StatusError: keys are missing or values do not fit.
    """
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {_shown(document)} Not formatted correctly expecting only one of "
            "'inputs' or 'instances' keys to exist "
        )
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise invalid(
                f"JSON Value: {_shown(document)} Expecting 'instances' to be an list/array"
            )
        if not instances:
            raise invalid(f"JSON Value: {_shown(document)} No values in 'instances' array")
        arrays, form = _rows(instances, inputs), "predictions"
    elif "inputs" in document:
        arrays, form = _columns(document["inputs"], inputs), "outputs"
    else:
        raise invalid("Missing 'inputs' or 'instances' key")
    for alias, array in arrays.items():
        dtype = tf.as_dtype(inputs[alias].dtype)
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(array, dtype, array.shape))
    return form


def signature_name(document: dict[str, Any]) -> str:
    """The signature that a document names; empty where it names none."""
    name = document.get("signature_name", "")
    if not isinstance(name, str) or not _is_text(name):
        raise invalid(
            f"JSON Value: {_shown(document)} not formatted correctly. 'signature_name' key must be "
            "a string value."
        )
    return name


def _rows(instances: list, inputs: Inputs) -> dict[str, np.ndarray]:
    """Row form: one value, or one object of values, for each example."""
    if len(inputs) > 1 and not isinstance(instances[0], dict):
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    named = _is_object(instances[0])
    columns: dict[str, list[np.ndarray]] = {}
    for number, element in enumerate(instances):
        where = f"Failed to process element: {number}"
        if named != _is_object(element):
            raise invalid(
                f"Expecting object but got list at item {number} of input list"
                if named
                else f"Expecting value/list but got object at item {number} of input list"
            )
        items = element.items() if named else [(next(iter(inputs)), element)]
        for alias, value in items:
            try:
                _add(columns.setdefault(alias, []), alias, value, inputs)
            except StatusError as error:
                key = f" key: {alias}" if named else ""
                raise invalid(
                    f"{where}{key} of 'instances' list. Error: {error.code.name}: {error.message}"
                ) from error
        if named and element.keys() != set(inputs):
            raise invalid(
                f"{where} of 'instances' list. JSON object: {_shown(element)} keys must be equal "
                f"to: {','.join(sorted(inputs))}"
            )
    return {alias: np.stack(values) for alias, values in columns.items()}


def _add(column: list[np.ndarray], alias: str, value: Any, inputs: Inputs) -> None:
    if alias not in inputs:
        raise invalid(f"JSON object: does not have named input: {alias}")
    array = to_array(value, inputs[alias].dtype)
    if column and column[0].size != array.size:
        raise invalid(f"Expecting tensor size: {column[0].size} but got: {array.size}")
    if column and column[0].shape != array.shape:
        raise invalid(f"Expecting shape {_shape(column[0])} but got: {_shape(array)}")
    column.append(array)


def _columns(value: Any, inputs: Inputs) -> dict[str, np.ndarray]:
    """Column form: one value, or an object of values, for all examples."""
    if not _is_object(value):
        if len(inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        value = {next(iter(inputs)): value}
    for alias in inputs:
        if alias not in value:
            raise invalid(f"Missing named input: {alias} in 'inputs' object.")
    return {alias: to_array(value[alias], info.dtype) for alias, info in inputs.items()}


def to_array(value: Any, dtype: int) -> np.ndarray:
    """A JSON value as a tensor of a type.

    Raises:
        StatusError: lists of different lengths or depths, or values of another type.
    """
    kind = _Kind(dtype)
    if kind.floating and isinstance(value, list):
        try:
            array = np.array(value)
        except (ValueError, OverflowError):
            array = np.array(None)
        plain = array.dtype.kind in "if" and array.ndim <= _MOST_DIMENSIONS
        if plain and not _has_truth_values(value):
            return array.astype(kind.numpy)
    shape = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    if len(shape) > _MOST_DIMENSIONS:
        raise invalid(f"Encountered lists at {len(shape)} levels; there must be at most 63")
    found: list[Any] = []
    _walk(value, 0, shape, kind, found)
    try:
        return np.array(found, kind.numpy).reshape(shape)
    except OverflowError as error:
        raise invalid(f"JSON Value: a number is too large for {kind.name}") from error


def _has_truth_values(value: list) -> bool:
    """Whether a list that numpy took for numbers holds booleans, which it takes for numbers too."""
    while value and isinstance(value[0], list):
        value = [item for row in value for item in row]
    return bool in set(map(type, value))


class _Kind:
    """A type of tensors, and which JSON values are of it; asked once a value, so in plain
    attributes."""

    def __init__(self, dtype: int):
        kind = tf.as_dtype(dtype)
        self.name = tensors.type_name(dtype)
        self.string = kind == tf.string
        self.truth = kind == tf.bool
        self.floating = kind.is_floating
        self.low: int = kind.min if kind.is_integer else 1
        self.high: int = kind.max if kind.is_integer else 0
        self.numpy = object if self.string else kind.as_numpy_dtype

    def fits(self, value: Any) -> bool:
        """Whether a value that is no list is of this type."""
        if isinstance(value, bool):
            return self.truth
        if isinstance(value, str):
            return self.string and _is_text(value)
        if isinstance(value, int):
            return self.floating or self.low <= value <= self.high
        return isinstance(value, float) and self.floating


def _walk(value: Any, level: int, shape: list[int], kind: _Kind, found: list) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {_shown(value)} found at incorrect level: {level + 1} in the JSON "
                f"DOM. Expected at level: {len(shape)}"
            )
        if kind.string and isinstance(value, dict):
            found.append(_decoded(value))
        elif kind.fits(value):
            found.append(value.encode() if kind.string else value)
        else:
            raise invalid(
                f"JSON Value: {_shown(value)} Type: {_type(value)} is not of expected type: "
                f"{kind.name}"
            )
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: "
            f"{shape[level]}"
        )
    for item in value:
        _walk(item, level + 1, shape, kind, found)


def _decoded(value: dict) -> bytes:
    if not _is_bytes(value):
        raise invalid(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split())  # as `base64` breaks it into lines
    missing = -len(text) % 4 if "=" not in text else 0  # padding may be left out
    try:
        return base64.b64decode(text + "=" * missing, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("Unable to base64 decode") from error


def _is_text(value: str) -> bool:
    """Whether a string has no half of a surrogate pair."""
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_bytes(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not _is_bytes(value)


def _type(value: Any) -> str:
    names = {dict: "Object", list: "Array", str: "String", bool: str(value), type(None): "Null"}
    return names.get(type(value), "Number")


def _shown(value: Any) -> str:
    # A long value is cut, and only as much of a large list is written as can be shown.
    if isinstance(value, list):
        value = value[:_SHOWN]
    return json.dumps(value)[:_SHOWN]


def _shape(array: np.ndarray) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"


# -------------------------------------------------------------------- replies


def reply(outputs: Mapping[str, np.ndarray], form: str) -> str:
    """A reply's body.

    Args:
        outputs: output alias to values.
        form: "predictions": an entry for each example; "outputs": one for each output. A single
            output loses its name.

    Raises:
        StatusError: row form, and outputs that are not one for each example.
    """
    if form == "outputs":
        columns = {alias: _written(array, alias) for alias, array in outputs.items()}
        only = next(iter(columns.values())) if len(columns) == 1 else None
        return '{\n    "outputs": ' + (only or _object(columns)) + "\n}"
    size = -1
    for alias, array in outputs.items():
        if array.ndim == 0:
            raise invalid(f"Tensor name: {alias} has no shape information ")
        if size not in (-1, len(array)):
            raise invalid(
                f"Tensor name: {alias} has inconsistent batch size: {len(array)} expecting: {size}"
            )
        size = len(array)
    rows = [
        {alias: _written(array[row], alias) for alias, array in outputs.items()}
        for row in range(size)
    ]
    single = len(outputs) == 1
    texts = [next(iter(row.values())) if single else _object(row) for row in rows]
    return '{\n    "predictions": [' + ", ".join(texts) + "\n    ]\n}"


def _object(values: dict[str, str]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in values.items()) + "}"


def _written(array: np.ndarray, alias: str) -> str:
    """A tensor as JSON."""
    array = np.asarray(array)
    if array.dtype.kind == "f":
        texts = _decimals(array.ravel())
    elif array.dtype.kind in "OS":
        as_bytes = alias.endswith("_bytes")
        texts = [_text(value, as_bytes) for value in array.ravel()]
    elif array.dtype.kind in "iub":
        texts = [json.dumps(value) for value in array.ravel().tolist()]
    else:
        raise StatusError(
            Code.INVALID_ARGUMENT, f"Failed to write JSON value for tensor type: {array.dtype}"
        )
    return _nested(texts, array.shape)


def _nested(texts: list[str], shape: tuple[int, ...]) -> str:
    if not shape:
        return texts[0]
    for size in shape[:0:-1]:
        texts = [
            "[" + ", ".join(texts[start : start + size]) + "]"
            for start in range(0, len(texts), max(size, 1))
        ]
    return "[" + ", ".join(texts) + "]"


def _text(value: bytes | str, as_bytes: bool) -> str:
    value = value.encode() if isinstance(value, str) else value
    if as_bytes:
        return json.dumps({"b64": base64.b64encode(value).decode()})
    return json.dumps(value.decode("utf-8", "replace"))


def _decimals(values: np.ndarray) -> list[str]:
    """Numbers in as few digits as read back the same: six, or as many as the type needs."""
    digits = 9 if values.dtype.itemsize <= 4 else 17
    numbers = values.tolist()
    short = [f"{number:g}" for number in numbers]
    same = np.array(short, values.dtype) == values
    texts = [
        text if fits else f"{number:.{digits}g}"
        for text, fits, number in zip(short, same, numbers, strict=True)
    ]
    return [
        _SPECIAL.get(text) or (text if set(text) & {".", "e"} else text + ".0") for text in texts
    ]


_SPECIAL = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
