"""JSON by the rules of TensorFlow Serving's parser."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from serving.bodies.compressed import Buffer
from serving.bodies.refusals import Refused

_SHOWN = 256  # characters of a value in an error
# Names of numbers, and strings, in which they are no numbers.
_NAMES = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|(-?)(?:Infinity|Inf|NaN)', re.DOTALL)
_LIST = re.compile(
    r'\{\s*(?:"signature_name"\s*:\s*"([^"\\]*)"\s*,\s*)?"(instances|inputs)"\s*:\s*\[\s*'
)
_NAME = re.compile("-?(Inf|NaN)")


def text_of(body: Buffer) -> str:
    """A body as text; raises `Refused` if it is empty or not UTF-8."""
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
    """The JSON object in a request's text, without anything after it; raises `Refused` if there is
    none."""
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
    """The signature's name, "instances" or "inputs", and the first item of that list; None if the
    text is not written in the order that most programs use."""
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
    # Python's parser does not know Inf, -Inf and -NaN. All such names become one that it knows, of
    # the same length, so that the offsets in errors are right.
    numbers: list[float] = []

    def known(match: re.Match) -> str:
        if match[0].startswith('"'):
            return match[0]
        size = math.nan if match[0].endswith("NaN") else math.inf
        numbers.append(-size if match[1] else size)
        return (" " * len(match[1]) + "NaN").ljust(len(match[0]))

    return _decoder(iter(numbers)).raw_decode(_NAMES.sub(known, text))[0]


def _decoder(numbers: Iterator[float] | None = None) -> json.JSONDecoder:
    """A parser that takes the first of repeated keys, and from `numbers` for names of numbers."""
    return json.JSONDecoder(
        object_pairs_hook=lambda pairs: dict(reversed(pairs)),
        parse_constant=None if numbers is None else lambda _: next(numbers),
    )


def shown(value: Any) -> str:
    """The beginning of a value as JSON; the rest is not written."""
    text = ""
    for part in json.JSONEncoder().iterencode(value):
        text += part[:_SHOWN]
        if len(text) >= _SHOWN:
            break
    return text[:_SHOWN]
