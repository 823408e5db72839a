"""A JSON value as the tensor of an input.

numpy converts numbers in one call. Only values that it does not take are walked one by one, which
also finds the message for an error. A value that cannot have the signature's shape is refused
before it becomes a tensor.
"""

import base64
import binascii
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from serving.bodies.parsing import shown
from serving.bodies.refusals import Refused

Shape = tuple[int, ...]

_MOST_DIMENSIONS = 63  # a numpy array has 64, one of them for the batch
_WALKED = 10_000  # values of what has the wrong shape: the first of another type is named instead


class Input(NamedTuple):
    """An input of a signature.

    Attributes:
        name: of its type, in TensorFlow's C++: "float".
        dtype: numpy's name of what is made for it: "object" for byte strings; empty: no JSON value
            is of its type.
        shape: -1 is any size; None: any shape.
    """

    name: str
    dtype: str
    shape: Shape | None

    @property
    def row(self) -> Shape | None:
        """The shape of one example."""
        return self.shape[1:] if self.shape else None


def to_array(value: Any, info: Input) -> np.ndarray:
    """A JSON value as the tensor of an input; raises `Refused` for unequal lists, values of another
    type or another shape."""
    kind, shape = Kind(info), shape_of(value)
    if not fits(shape, info.shape):
        look_for_words(value, shape, kind)
        raise Refused(f"Expecting shape {shape_text(info.shape)} but got: {shape_text(shape)}")
    return filled(value, shape, kind)


def filled(value: Any, shape: Shape, kind: "Kind") -> np.ndarray:
    """A value of a shape (of `shape_of`) as a tensor."""
    if isinstance(value, list):
        array = numbers(value, kind)
        if array is not None:
            return array
    found: list[Any] = []
    walk(value, 0, shape, kind, found, itertools.repeat(None))
    return made(found, shape, kind)


def made(found: list, shape: Shape, kind: "Kind") -> np.ndarray:
    """The tensor of values that `walk` found."""
    try:
        return np.array(found, kind.numpy).reshape(shape)
    except OverflowError as error:
        raise Refused(f"JSON Value: a number is too large for {kind.name}") from error


def numbers(value: list, kind: "Kind") -> np.ndarray | None:
    """A list of numbers as an array; None if numpy does not take all of them as such."""
    if not kind.number:
        return None
    try:
        array = np.array(value)
    except (ValueError, OverflowError):
        return None
    types = "iuf" if kind.floating else "iu"
    if array.dtype.kind not in types or array.ndim > _MOST_DIMENSIONS or _has_truth_values(value):
        return None
    if not kind.floating and array.size and not kind.low <= array.min() <= array.max() <= kind.high:
        return None
    return array.astype(kind.numpy)


def _has_truth_values(value: list) -> bool:
    """Whether a list that numpy made numbers of holds booleans, which it converts too."""
    while value and isinstance(value[0], list):
        value = [item for row in value for item in row]
    return bool in set(map(type, value))


class Kind:
    """The type of an input, and whether a JSON value is of it. Plain attributes are fast: each
    value is checked."""

    def __init__(self, info: Input):
        kind = np.dtype(info.dtype or "float32")
        self.name = info.name
        self.string = info.dtype == "object"
        self.truth = info.dtype == "bool"
        self.floating = bool(info.dtype) and kind.kind == "f"
        whole = np.iinfo(kind) if kind.kind in "iu" else None
        self.low: int = int(whole.min) if whole else 1
        self.high: int = int(whole.max) if whole else 0
        self.number = self.floating or whole is not None
        self.numpy = kind

    def fits(self, value: Any) -> bool:
        """Whether a value that is no list is of this type."""
        if isinstance(value, bool):
            return self.truth
        if isinstance(value, str):
            return self.string and is_text(value)
        if isinstance(value, int):
            return self.floating or self.low <= value <= self.high
        return isinstance(value, float) and self.floating


def shape_of(value: Any) -> Shape:
    """The shape of lists of lists, by the first of each."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    if len(shape) > _MOST_DIMENSIONS:
        raise Refused(f"Encountered lists at {len(shape)} levels; there must be at most 63")
    return tuple(shape)


def fits(shape: Shape, wanted: Shape | None) -> bool:
    """Whether a shape is the wanted one."""
    if wanted is None:
        return True
    return len(shape) == len(wanted) and all(
        size in (-1, given) for given, size in zip(shape, wanted, strict=True)
    )


def look_for_words(value: Any, shape: Shape, kind: Kind) -> None:
    """Raises `Refused` if one of a value's first elements does not fit, whatever its shape."""
    found: list[Any] = []
    with contextlib.suppress(StopIteration):
        walk(value, 0, shape, kind, found, itertools.repeat(None, _WALKED))


def walk(
    value: Any, level: int, shape: Shape, kind: Kind, found: list, steps: Iterator[None]
) -> None:
    """Appends to `found` the elements of a value that is `level` lists deep in a shape; raises
    `Refused` for one that does not fit.

    Each list and element takes one of the steps; `StopIteration` is raised when there are no more.
    """
    next(steps)
    if not isinstance(value, list):
        if level != len(shape):
            raise Refused(
                f"JSON Value: {shown(value)} found at incorrect level: {level + 1} in the JSON "
                f"DOM. Expected at level: {len(shape)}"
            )
        if kind.string and isinstance(value, dict):
            found.append(_decoded(value))
        elif kind.fits(value):
            found.append(value.encode() if kind.string else value)
        else:
            raise Refused(
                f"JSON Value: {shown(value)} Type: {_type(value)} is not of expected type: "
                f"{kind.name}"
            )
        return
    if level >= len(shape):
        raise Refused(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise Refused(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: "
            f"{shape[level]}"
        )
    for item in value:
        walk(item, level + 1, shape, kind, found, steps)


def _decoded(value: dict) -> bytes:
    if not _is_bytes(value):
        raise Refused(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split())  # the command `base64` breaks it into lines
    missing = -len(text) % 4 if "=" not in text else 0  # padding is optional
    try:
        return base64.b64decode(text + "=" * missing, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused("Unable to base64 decode") from error


def is_text(value: str) -> bool:
    """Whether a string has no half of a surrogate pair."""
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_bytes(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def is_object(value: Any) -> bool:
    """Whether a value names tensors: an object, but not one that stands for bytes."""
    return isinstance(value, dict) and not _is_bytes(value)


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    names = {dict: "Object", list: "Array", str: "String", type(None): "Null"}
    return names.get(type(value), "Number")


def shape_text(shape: Sequence[int] | None) -> str:
    """A shape for an error."""
    return "[" + ",".join("?" if size < 0 else str(size) for size in shape or ()) + "]"
