"""The document in a request's body: the row and column forms of the REST API."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.bodies import values
from serving.bodies.compressed import Buffer, unpacked
from serving.bodies.parsing import first_of, parse, shown, text_of
from serving.bodies.refusals import Refused
from serving.bodies.values import Input, Kind, Shape, is_object, is_text

_LONG = 2**16  # characters of a document whose beginning is looked at before it is parsed

Inputs = Mapping[str, Input]


@dataclass(frozen=True)
class Document:
    """The content of a body.

    Attributes:
        signature: its name; empty: none is given.
        form: of the reply: "predictions" or "outputs".
        arrays: input alias to values.
    """

    signature: str
    form: str = ""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def read(
    body: Buffer, encoding: str, limit: int, signatures: Mapping[str, Inputs] | None
) -> Document:
    """The document in a request's body, of an encoding and at most `limit` bytes as in `unpacked`.

    `signatures` are name to inputs; None: there is no such model, and only the signature is read.
    Raises `Refused` if the body does not unpack, is no JSON object, or does not fit its signature.
    """
    text = text_of(unpacked(body, encoding, limit))
    if signatures is not None and len(text) > _LONG:
        _refuse_first(text, signatures)
    document = parse(text)
    signature = signature_name(document)
    if signatures is None:
        return Document(signature)
    name = signature or "serving_default"
    if name not in signatures:
        raise Refused(f'Serving signature name: "{name}" not found in signature def')
    if not signatures[name]:
        raise Refused(f"Failed to get input map for signature: {signature or 'DEFAULT'}")
    form, arrays = fill(document, signatures[name])
    return Document(signature, form, arrays)


def _refuse_first(text: str, signatures: Mapping[str, Inputs]) -> None:
    """Raises `Refused` if the first item of a list does not fit, before the others are parsed."""
    name, key, first = first_of(text) or ("", "", None)
    inputs = signatures.get(name or "serving_default")
    if not key or not inputs:
        return
    if key == "instances":
        fill({key: [first]}, inputs)
    elif len(inputs) == 1:
        (info,) = inputs.values()
        shape = values.shape_of(first)
        if not values.fits(shape, info.row):
            values.look_for_words(first, shape, Kind(info))
            got = values.shape_text((-1, *shape))
            raise Refused(f"Expecting shape {values.shape_text(info.shape)} but got: {got}")


def signature_name(document: dict[str, Any]) -> str:
    """The signature that a document names; empty if none."""
    name = document.get("signature_name", "")
    if not isinstance(name, str) or not is_text(name):
        raise Refused(
            f"JSON Value: {shown(document)} not formatted correctly. 'signature_name' key must be "
            "a string value."
        )
    return name


def fill(document: dict[str, Any], inputs: Inputs) -> tuple[str, dict[str, np.ndarray]]:
    """The form of the reply, and the values of the signature's inputs by alias; raises `Refused` if
    keys are missing or values do not fit."""
    if "instances" in document and "inputs" in document:
        raise Refused(
            f"JSON Value: {shown(document)} Not formatted correctly expecting only one of "
            "'inputs' or 'instances' keys to exist "
        )
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise Refused(
                f"JSON Value: {shown(document)} Expecting 'instances' to be an list/array"
            )
        if not instances:
            raise Refused(f"JSON Value: {shown(document)} No values in 'instances' array")
        return "predictions", _rows(instances, inputs)
    if "inputs" in document:
        return "outputs", _columns(document["inputs"], inputs)
    raise Refused("Missing 'inputs' or 'instances' key")


def _rows(instances: list, inputs: Inputs) -> dict[str, np.ndarray]:
    """Row form: one value, or one object of values, for each example."""
    if len(inputs) > 1 and not isinstance(instances[0], dict):
        raise Refused(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    named = is_object(instances[0])
    columns = {alias: _Column(info) for alias, info in inputs.items()}
    for number, element in enumerate(instances):
        if number == 1:  # the first fits; try all at once, then one by one to find the error
            whole = _whole(instances, named, columns)
            if whole is not None:
                return whole
        where = f"Failed to process element: {number}"
        if named != is_object(element):
            raise Refused(
                f"Expecting object but got list at item {number} of input list"
                if named
                else f"Expecting value/list but got object at item {number} of input list"
            )
        items = element.items() if named else [(next(iter(inputs)), element)]
        for alias, value in items:
            try:
                if alias not in columns:
                    raise Refused(f"JSON object: does not have named input: {alias}")
                columns[alias].add(value)
            except Refused as error:
                key = f" key: {alias}" if named else ""
                raise Refused(
                    f"{where}{key} of 'instances' list. Error: {error.code}: {error.message}"
                ) from error
        if named and element.keys() != set(inputs):
            raise Refused(
                f"{where} of 'instances' list. JSON object: {shown(element)} keys must be equal "
                f"to: {','.join(sorted(inputs))}"
            )
    return {alias: column.stacked() for alias, column in columns.items()}


class _Column:
    """The values of one input, example by example."""

    def __init__(self, info: Input):
        self.kind = Kind(info)
        self.shape: Shape | None = None  # of each example, from the first
        self._row = info.row
        self._found: list[Any] = []

    def add(self, value: Any) -> None:
        """Takes one example's value."""
        shape = values.shape_of(value)
        wanted = self._row if self.shape is None else self.shape
        if not values.fits(shape, wanted):
            values.look_for_words(value, shape, self.kind)
            if self.shape is not None and math.prod(shape) != math.prod(self.shape):
                raise Refused(
                    f"Expecting tensor size: {math.prod(self.shape)} but got: {math.prod(shape)}"
                )
            raise Refused(
                f"Expecting shape {values.shape_text(wanted)} but got: {values.shape_text(shape)}"
            )
        self.shape = shape
        self._found.append(values.filled(value, shape, self.kind) if shape else self._one(value))

    def whole(self, examples: list) -> np.ndarray | None:
        """All examples' values at once; None if one does not fit."""
        array = values.numbers(examples, self.kind)
        return None if array is None or array.shape[1:] != self.shape else array

    def stacked(self) -> np.ndarray:
        """The values of all examples."""
        if self.shape:
            return np.stack(self._found)
        return values.made(self._found, (len(self._found),), self.kind)

    def _one(self, value: Any) -> Any:
        found: list[Any] = []
        values.walk(value, 0, (), self.kind, found, itertools.repeat(None))
        return found[0]


def _whole(instances: list, named: bool, columns: dict[str, _Column]) -> dict | None:
    """All rows at once; None if one does not fit or is not of numbers."""
    found = {}
    keys = columns.keys()
    if named and not all(is_object(row) and row.keys() == keys for row in instances):
        return None
    for alias, column in columns.items():
        array = column.whole([row[alias] for row in instances] if named else instances)
        if array is None:
            return None
        found[alias] = array
    return found


def _columns(value: Any, inputs: Inputs) -> dict[str, np.ndarray]:
    """Column form: one value, or an object of values, for all examples."""
    if not is_object(value):
        if len(inputs) > 1:
            raise Refused(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        value = {next(iter(inputs)): value}
    for alias in inputs:
        if alias not in value:
            raise Refused(f"Missing named input: {alias} in 'inputs' object.")
    return {alias: values.to_array(value[alias], info) for alias, info in inputs.items()}
