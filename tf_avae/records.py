"""JSON files that commands wrote and read back: their types are checked once, at reading.

A shape is a type, a tuple of types (any of them), `[shape]` for a list, `{"key": shape, ...}` for
an object that must have these keys, or `{str: shape}` for one with keys of any name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tf_avae.config import read_json
from tf_avae.errors import InputError

NUMBER = (int, float)

_WORDS = {dict: "an object", list: "a list", str: "a string", int: "an integer", float: "a number",
          bool: "true or false", type(None): "null"}  # fmt: skip


def read_record(path: str | Path, shape: dict, remedy: str) -> dict[str, Any]:
    """The JSON object in a file, which has a shape.

    Args:
        path: the file.
        shape: what is read of it; it may hold more.
        remedy: what to do about a file that is damaged.

    Raises:
        InputError: there is no such file, or it is damaged; with the remedy.
    """
    try:
        values = read_json(path)
    except InputError as error:
        raise InputError(f"{error}; {remedy}") from error
    wrong = mismatch(values, shape)
    if wrong:
        raise damaged(path, wrong, remedy)
    return values


def damaged(path: str | Path, what: str, remedy: str) -> InputError:
    """The error for a file that does not hold what a command wrote."""
    return InputError(f"{path} is damaged: {what}; {remedy}")


@contextmanager
def damage_told(path: str | Path, remedy: str) -> Iterator[None]:
    """Refuses a file, where the block finds that its values lack something, for a shape that is too
    deep to be written down."""
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise damaged(path, repr(error), remedy) from error


def mismatch(value: Any, shape: Any, where: str = "") -> str | None:
    """Where a JSON value does not have a shape, in words; None where it does."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return _not(where, value, dict)
        of_any = shape.get(str)
        pairs = [(key, of_any) for key in value] if of_any is not None else list(shape.items())
        for key, below in pairs:
            if key not in value:
                return f"{where or 'it'} has no {key}"
            found = mismatch(value[key], below, f"{where}.{key}" if where else key)
            if found:
                return found
        return None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _not(where, value, list)
        each = (mismatch(one, shape[0], f"{where}[{n}]") for n, one in enumerate(value))
        return next((words for words in each if words), None)
    kinds = shape if isinstance(shape, tuple) else (shape,)
    if (isinstance(value, bool) and bool not in kinds) or not isinstance(value, kinds):
        return _not(where, value, *kinds)
    return None


def _not(where: str, value: Any, *kinds: type) -> str:
    wanted = " or ".join(_WORDS[kind] for kind in kinds)
    return f"{where or 'it'} is {_WORDS[type(value)]}; it must be {wanted}"
