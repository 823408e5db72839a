"""Tensors to JSON: the replies of the REST API, with numbers in its format."""

import base64
import json
from collections.abc import Iterator, Mapping

import numpy as np

from serving.bodies.refusals import Refused

_AT_ONCE = 2**16  # values that are written at a time
_SPECIAL = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def reply(outputs: Mapping[str, np.ndarray], form: str) -> bytes:
    """A reply's body: an entry for each example in the form "predictions", for each output in the
    form "outputs". A single output has no name there.

    Raises:
        Refused: outputs that are not one for each example, in the first form; or a type without
            JSON values.
    """
    if form == "outputs":
        columns = {alias: _written(array, alias) for alias, array in outputs.items()}
        only = next(iter(columns.values())) if len(columns) == 1 else None
        return ('{\n    "outputs": ' + (only or _object(columns)) + "\n}").encode()
    size = -1
    for alias, array in outputs.items():
        if array.ndim == 0:
            raise Refused(f"Tensor name: {alias} has no shape information ")
        if size not in (-1, len(array)):
            raise Refused(
                f"Tensor name: {alias} has inconsistent batch size: {len(array)} expecting: {size}"
            )
        size = len(array)
    rows = zip(*(_rows(array, alias) for alias, array in outputs.items()), strict=True)
    if len(outputs) == 1:
        texts = ", ".join(row for (row,) in rows)
    else:
        texts = ", ".join(_object(dict(zip(outputs, row, strict=True))) for row in rows)
    return ('{\n    "predictions": [' + texts + "\n    ]\n}").encode()


def _object(values: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in values.items()) + "}"


def _written(array: np.ndarray, alias: str) -> str:
    """A tensor as JSON."""
    if array.ndim == 0:
        return _texts(array.ravel(), alias)[0]
    return "[" + ", ".join(_rows(array, alias)) + "]"


def _rows(array: np.ndarray, alias: str) -> Iterator[str]:
    """The JSON of each of a tensor's rows."""
    shape = array.shape[1:]
    step = max(1, _AT_ONCE // max(1, int(np.prod(shape))))
    for start in range(0, len(array), step):
        block = array[start : start + step]
        yield from _nested(_texts(block.ravel(), alias), len(block), shape)


def _nested(texts: list[str], rows: int, shape: tuple[int, ...]) -> list[str]:
    """The JSON of rows of a shape, from the texts of all their values."""
    sizes = (rows, *shape)
    for axis in range(len(shape), 0, -1):
        size, lists = sizes[axis], int(np.prod(sizes[:axis]))
        texts = ["[" + ", ".join(texts[n * size : n * size + size]) + "]" for n in range(lists)]
    return texts


def _texts(values: np.ndarray, alias: str) -> list[str]:
    if values.dtype.kind == "f":
        return _decimals(values)
    if values.dtype.kind in "OS":
        as_bytes = alias.endswith("_bytes")
        return [_text(value, as_bytes) for value in values]
    if values.dtype.kind in "iub":
        return [json.dumps(value) for value in values.tolist()]
    raise Refused(f"Failed to write JSON value for tensor type: {values.dtype}")


def _text(value: bytes | str, as_bytes: bool) -> str:
    value = value.encode() if isinstance(value, str) else value
    if as_bytes:
        return json.dumps({"b64": base64.b64encode(value).decode()})
    return json.dumps(value.decode("utf-8", "replace"))


def _decimals(values: np.ndarray) -> list[str]:
    """Numbers with six digits if they read back the same, else with as many as the type needs."""
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
