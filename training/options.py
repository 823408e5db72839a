"""From the table of options in `tf_avae.config` to a command line and back."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from tf_avae import config
from tf_avae.config import Config
from tf_avae.errors import InputError, TrainingDiverged
from tf_avae.registry import Registry

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


def add_config_options(parser: Parser, registries: Mapping[str, Registry[Any]]) -> None:
    """Adds a flag for each field of `Config`, grouped, with its default and where that is from.

    Args:
        parser: gets the flags; those that are not given leave no attribute behind.
        registries: field name to the registry whose names it takes.
    """
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        option = config.option(field.name)
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        choices = list(registries.get(field.name, option.choices))
        default = option.default or _word(field.default)
        rows: Mapping[str, Any] = registries.get(field.name, {})
        lines = [f"{option.help} [{default}; {option.source}]"]
        lines += [f"- {name}: {row.summary}" for name, row in rows.items()]
        groups[option.group].add_argument(
            f"--{field.name.replace('_', '-')}",
            dest=field.name,
            type=config.field_type(field.name),
            default=argparse.SUPPRESS,
            metavar="{" + ",".join(choices) + "}" if choices else _metavar(field.name),
            help="\n".join(lines).replace("%", "%%"),
        )


def _metavar(name: str) -> str:
    kind = config.field_type(name)
    return {int: "N", float: "X"}.get(kind, "PATH")


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Config` that were given on the command line."""
    names = {field.name for field in dataclasses.fields(Config)}
    return {name: value for name, value in vars(arguments).items() if name in names}
