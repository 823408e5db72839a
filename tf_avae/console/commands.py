"""The common parts of the command lines: a parser with short errors, exit codes, signal handlers.

A command may also be called from Python, in a thread or a notebook, and restores what it changes.
"""

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any, NoReturn

from tf_avae import backend, plugins
from tf_avae.console.printing import answer, note
from tf_avae.errors import InputError, ProofContradicted, TrainingDiverged

_WORDS: ContextVar[list[str] | None] = ContextVar("command", default=None)
_PROGRAM: ContextVar[str | None] = ContextVar("program", default=None)

USAGE_ERROR = 2
"""Exit code for input that cannot be used."""


class _Lines(argparse.HelpFormatter):
    """Help whose line breaks are kept, each line wrapped by itself."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        split = super()._split_lines
        return [short for line in text.splitlines() for short in split(line, width)]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the flag that imports plugins.

    Args:
        plugins: whether the command has rows of registries to look up.
        rest: whether what the parser does not know is for another; it is in the arguments' `rest`.
        kwargs: those of `argparse.ArgumentParser`.
    """

    def __init__(self, *, plugins: bool = True, rest: bool = False, **kwargs: Any):
        super().__init__(**kwargs, allow_abbrev=False, formatter_class=_Lines)
        self._rest = rest
        self.prog = _PROGRAM.get() or self.prog
        if plugins:
            self.add_argument(
                "--plugin", action="append", default=[], metavar="MODULE",
                help="import a module, or a file NAME.py, that registers rows of your own: "
                "objectives, architectures, data sets ...; may be given several times [none]",
            )  # fmt: skip

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments that words of a command line give."""
        if not self._rest:
            return self.parse_args(words)
        given, rest = self.parse_known_args(words)
        given.rest = rest
        return given

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"error: {message}; see {self.prog} --help\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        (answer if file is sys.stdout else note)(message, end="")


def run_command(
    parser: Callable[[], Parser],
    argv: Sequence[str] | None,
    command: Callable[[argparse.Namespace], int],
    *,
    with_plugins: bool = True,
) -> int:
    """Runs a command line and returns the exit code.

    Args:
        parser: makes the parser, once the plugins are imported: its choices may be theirs. Its
            program is the words that begin the command.
        argv: the words after that; those of the process unless given.
        command: the arguments to the exit code.
        with_plugins: whether to import them.
    """
    given = sys.argv[1:] if argv is None else list(argv)

    def run() -> int:
        if with_plugins:
            import_plugins(given)
        # What plugins import is theirs, and so is a program's own process that calls a command.
        backend.for_a_command = argv is None
        made = parser()
        token = _WORDS.set([*made.prog.split(), *given])
        try:
            return command(made.read(given))
        finally:
            _WORDS.reset(token)

    return exit_code(run)


def import_plugins(given: Sequence[str]) -> None:
    """Imports the plugins that are installed, and those that the words of a command name.

    Raises:
        InputError: one cannot be imported.
    """
    plugins.load_installed()
    flag = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    flag.add_argument("--plugin", action="append", default=[])
    with contextlib.suppress(argparse.ArgumentError):  # which the command's own parser reports
        for name in flag.parse_known_args(given)[0].plugin:
            plugins.load(name)


@contextmanager
def called(program: str) -> Iterator[None]:
    """Parsers made within the block are of a program of this name."""
    token = _PROGRAM.set(program)
    try:
        yield
    finally:
        _PROGRAM.reset(token)


def words() -> list[str]:
    """The command line that this thread runs, for a shell; that of the process where none is."""
    known = _WORDS.get()
    if known is not None:
        return known
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if module is None:
        return ["python", *sys.argv]
    return ["python", "-m", module.name.removesuffix(".__main__"), *sys.argv[1:]]


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
        note(f"error: {error}")
        return USAGE_ERROR
    except (TrainingDiverged, ProofContradicted) as error:
        note(f"\nstopped: {error}")
        return 1
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        remedy = "check the path, its permissions and the space on its disk"
        note(f"error: cannot use{place}: {error.strerror or error}; {remedy}")
        return USAGE_ERROR
    except KeyboardInterrupt:  # where signals are not noted
        note("\nstopped")
        return 130


@contextmanager
def handling(handlers: Mapping[int, Any]) -> Iterator[None]:
    """Handles signals within the block, and puts back what handled them before.

    Outside of the main thread there is nothing to do: Python handles signals in that alone.

    Args:
        handlers: of each signal, as `signal.signal` takes them.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for signum, handler in handlers.items():
            # What another language has put there cannot be put back.
            if signal.getsignal(signum) is not None:
                before[signum] = signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """Makes SIGTERM an exception within the block, so that unfinished work is cleaned up; the exit
    code is the shell's, 143."""

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signum)

    with handling({signal.SIGTERM: stop}):
        yield
