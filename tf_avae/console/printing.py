"""What commands print: text reaches any stream, whatever its encoding, and work outlives whoever
reads it."""

import os
import sys
from typing import Any, TextIO


def say(text: str, end: str = "\n") -> None:
    """A line for the user, beside what a command makes: where it cannot be written, the command
    goes on (`| head`)."""
    try:
        _put(sys.stdout, text, end)
    except OSError as error:
        _give_up(sys.stdout, error)


def answer(text: str, end: str = "\n") -> None:
    """What a command was asked for, where that is text.

    Raises:
        OSError: it cannot be written. A reader who has gone has all that was wanted.
    """
    try:
        _put(sys.stdout, text, end)
    except OSError as error:
        _give_up(sys.stdout, error)
        if not isinstance(error, BrokenPipeError):
            raise OSError(error.errno, error.strerror or str(error), "standard output") from error


def note(text: str, end: str = "\n") -> None:
    """A line for whoever is watching, apart from what a program prints as its result."""
    try:
        _put(sys.stderr, text, end)
    except OSError as error:
        _give_up(sys.stderr, error)


def _put(stream: TextIO | None, text: str, end: str) -> None:
    if stream is None:  # as it is where a process starts with the descriptor closed
        return
    text, encoding = text + end, getattr(stream, "encoding", None)
    if encoding:
        try:
            text.encode(encoding, stream.errors or "strict")
        except UnicodeEncodeError:
            # Also file names that are no text, which Python holds as characters of no encoding.
            text = text.encode(encoding, "backslashreplace").decode(encoding)
    stream.write(text)
    stream.flush()


def _give_up(stream: Any, error: OSError) -> None:
    """Lets what is still written to a stream of the process go nowhere: Python would try it again
    as it exits, and end with 120."""
    if stream is sys.stdout and not isinstance(error, BrokenPipeError):
        note(f"note: standard output cannot be written: {error.strerror or error}")
    if stream in (sys.__stdout__, sys.__stderr__):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
