"""What the command lines share: a parser with short errors, and exit codes."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from tf_avae.errors import InputError, TrainingDiverged

USAGE_ERROR = 2
"""Exit code for input that cannot be used."""


class _Lines(argparse.HelpFormatter):
    """Help whose line breaks are kept, each line wrapped by itself."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        split = super()._split_lines
        return [short for line in text.splitlines() for short in split(line, width)]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs, allow_abbrev=False, formatter_class=_Lines)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"error: {message}; see {self.prog} --help\n")


def add_trust(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds the flag that opens models of others whatever is in them."""
    parser.add_argument(
        "--trust", action="store_true",
        help="open SavedModels and Keras models that may do more than compute: their authors may "
        "read and write files as you can [refuse them]",
    )  # fmt: skip


def exit_code(command: Callable[[], int]) -> int:
    """The exit code of a command line: its own, or that of the error it ends with, which is shown
    in a line."""
    try:
        return command()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except TrainingDiverged as error:
        print(f"\nstopped: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        print(
            f"error: cannot use{place}: {error.strerror or error}; check the path, its "
            "permissions and the space on its disk",
            file=sys.stderr,
        )
        return USAGE_ERROR
    except KeyboardInterrupt:  # where signals are not noted
        print("\nstopped", file=sys.stderr)
        return 130


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """Makes SIGTERM an exception within the block, so that what is half done is put away; the exit
    code is the shell's, 143."""

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
