"""Colours by name or by number, for the background of transparent pictures."""

import re

from tf_avae.errors import InputError

NAMED = {"black": "#000000", "grey": "#808080", "white": "#ffffff"}
"""Names of colours, and their numbers."""

WHITE = NAMED["white"]


def colour(text: str) -> str:
    """The one way to write a colour: # and six small hexadecimal digits.

    Args:
        text: a name of `NAMED`, or # and six hexadecimal digits; small and capital letters alike.

    Raises:
        InputError: it is neither.
    """
    lower = text.lower()
    found = NAMED.get(lower, lower)
    if not re.fullmatch(r"#[0-9a-f]{6}", found, re.ASCII):
        names = ", ".join(NAMED)
        raise InputError(
            f"background is {text!r}; it must be {names}, or # and six hexadecimal digits of red, "
            "green and blue, such as #ffffff"
        )
    return found


def levels(text: str) -> tuple[int, int, int]:
    """Red, green and blue, each from 0 to 255.

    Raises:
        InputError: as `colour`.
    """
    red, green, blue = bytes.fromhex(colour(text)[1:])
    return red, green, blue
