"""Printing of commands: to streams of any encoding; a stream that closes does not end the work."""

import os
import sys
from typing import Any, TextIO


def say(text: str, end: str = "\n") -> None:
    """Prints a line beside what a command makes: if it cannot be written, the command goes on
    (`| head`)."""
    _put(sys.stdout, text, end)


def note(text: str, end: str = "\n") -> None:
    """Prints a line on the standard error, apart from the result of a program."""
    _put(sys.stderr, text, end)


def answer(text: str, end: str = "\n") -> None:
    """Prints the result of a command.

    Raises:
        OSError: it cannot be written. A closed pipe is no error: its reader has enough.
    """
    error = _put(sys.stdout, text, end)
    if error and not isinstance(error, BrokenPipeError):
        raise OSError(error.errno, error.strerror or str(error), "standard output") from error


def _put(stream: TextIO | None, text: str, end: str) -> OSError | None:
    """Writes a text; returns the error where that is not possible."""
    if stream is None:  # as it is where a process starts with the descriptor closed
        return None
    text, encoding = text + end, getattr(stream, "encoding", None)
    if encoding:
        try:
            text.encode(encoding, stream.errors or "strict")
        except UnicodeEncodeError:
            # Also file names that are no text, which Python holds as characters of no encoding.
            text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        _give_up(stream, error)
        return error
    return None


def _give_up(stream: Any, error: OSError) -> None:
    """Sends later writes to a stream of the process nowhere: Python would try them again as it
    exits, and end with 120."""
    if stream is sys.stdout and not isinstance(error, BrokenPipeError):
        note(f"note: standard output cannot be written: {error.strerror or error}")
    if stream in (sys.__stdout__, sys.__stderr__):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
