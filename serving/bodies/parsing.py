"""JSON, as TensorFlow Serving's parser takes it."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from serving.bodies.compressed import Buffer
from serving.bodies.refusals import Refused

_SHOWN = 256  # characters of a value in an error
# Names that stand for numbers, and strings, in which they do not.
_NAMES = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|(-?)(?:Infinity|Inf|NaN)', re.DOTALL)
_LIST = re.compile(
    r'\{\s*(?:"signature_name"\s*:\s*"([^"\\]*)"\s*,\s*)?"(instances|inputs)"\s*:\s*\[\s*'
)
_NAME = re.compile("-?(Inf|NaN)")


def text_of(body: Buffer) -> str:
    """A body as text.

    Raises:
        Refused: it is empty, or not UTF-8.
    """
    try:
        text = str(body, "utf-8-sig").lstrip(" \t\r\n")
    except UnicodeDecodeError as error:
        raise Refused(
            f"JSON Parse error: Invalid encoding in string. at offset: {error.start}"
        ) from error
    if not text:
        raise Refused("JSON Parse error: The document is empty")
    return text


def parse(text: str) -> dict[str, Any]:
    """The JSON object in a request's text; what follows it is ignored.

    Raises:
        Refused: it is not JSON, or no object.
    """
    try:
        document = _decoded_json(text)
    except json.JSONDecodeError as error:
        raise Refused(f"JSON Parse error: {error.msg} at offset: {error.pos}") from error
    except (RecursionError, ValueError) as error:
        raise Refused(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise Refused(f"JSON Value: {shown(document)} Is not object")
    return document


def first_of(text: str) -> tuple[str, str, Any] | None:
    """The signature's name, "instances" or "inputs", and the first item of that list, without the
    rest of it; None where that is not as plain to see as in what most programs write."""
    start = _LIST.match(text)
    if start is None or "\\" in text or text.find('"signature_name"', start.end()) >= 0:
        return None
    try:
        return start[1] or "", start[2], _decoder().raw_decode(text, start.end())[0]
    except (ValueError, RecursionError):
        return None


def _decoded_json(text: str) -> Any:
    try:
        return _decoder().raw_decode(text)[0]
    except json.JSONDecodeError as error:
        if not _NAME.match(text, error.pos):
            raise
    # Inf, -Inf and -NaN, which Python's parser does not know. All such names become one that it
    # knows, of the same length, so that it says where an error is.
    numbers: list[float] = []

    def known(match: re.Match) -> str:
        if match[0].startswith('"'):
            return match[0]
        size = math.nan if match[0].endswith("NaN") else math.inf
        numbers.append(-size if match[1] else size)
        return (" " * len(match[1]) + "NaN").ljust(len(match[0]))

    return _decoder(iter(numbers)).raw_decode(_NAMES.sub(known, text))[0]


def _decoder(numbers: Iterator[float] | None = None) -> json.JSONDecoder:
    """A parser for which the first of keys that are repeated counts.

    Args:
        numbers: that the names for numbers stand for, in order.
    """
    return json.JSONDecoder(
        object_pairs_hook=lambda pairs: dict(reversed(pairs)),
        parse_constant=None if numbers is None else lambda _: next(numbers),
    )


def shown(value: Any) -> str:
    """The beginning of a value as JSON; only as much of it is written as is shown."""
    text = ""
    for part in json.JSONEncoder().iterencode(value):
        text += part[:_SHOWN]
        if len(text) >= _SHOWN:
            break
    return text[:_SHOWN]
