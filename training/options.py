"""From the table of options in `tf_avae.config` to a command line and back."""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from tf_avae import config
from tf_avae.commands import Parser
from tf_avae.config import Config
from tf_avae.registry import Registry


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
