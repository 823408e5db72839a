"""Converts the table of options in `tf_avae.config` to a command line and back."""

import argparse
import dataclasses
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from tf_avae import config
from tf_avae.config import DATA, Config, fields_of
from tf_avae.console.commands import Parser
from tf_avae.console.printing import say
from tf_avae.datasets import DATASETS, ImageData, open_data
from tf_avae.errors import InputError
from tf_avae.evaluation import Encoder
from tf_avae.files import absolute
from tf_avae.provenance import ELSEWHERE
from tf_avae.registry import Registry
from tf_avae.runs.plan import ROWS


def number(word: str) -> float:
    """A number, also as a fraction: 4/255."""
    try:
        return float(Fraction(word)) if "/" in word else float(word)
    except ZeroDivisionError as error:
        raise ValueError(word) from error


number.__name__ = "float"  # argparse says "invalid float value"

_TYPES: dict[type, Any] = {float: number}


def add_config_options(
    parser: Parser, names: Iterable[str] | None = None, *,
    rows: Mapping[str, Registry[Any]] = ROWS, defaults: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Adds a flag for each field of `Config`, grouped, with its default and the source of that.

    Args:
        parser: gets the flags; those that are not given leave no attribute behind.
        names: of the fields; all unless given.
        rows: the registries that fields name rows of.
        defaults: this command's own, to be shown in the place of the usual ones.
    """
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        if names is not None and field.name not in names:
            continue
        option = config.option(field.name)
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        choices = list(rows.get(field.name, option.choices))
        default = f"{option.default or _word(field.default)}; {option.source}"
        if defaults and field.name in defaults:
            default = _word(defaults[field.name])
        text = f"{option.help} [{default}]"
        if field.name in rows:
            text += f"\n{listed(rows[field.name])}"
        groups[option.group].add_argument(
            f"--{field.name.replace('_', '-')}",
            dest=field.name,
            type=_TYPES.get(config.field_type(field.name), config.field_type(field.name)),
            default=argparse.SUPPRESS,
            metavar=_one_of(choices) if choices else _metavar(field.name),
            **({"nargs": "+"} if option.several else {}),
            help=text.replace("%", "%%"),
        )


def add_choice(
    parser: Parser | argparse._ArgumentGroup, flag: str, rows: Registry, default: str | None,
    text: str,
) -> None:  # fmt: skip
    """Adds a flag that takes the name of one row of a registry; `--help` lists them. Without a
    default the text says what holds."""
    shown = f"{text}{f' [{default}]' if default else ''}\n{listed(rows)}"
    parser.add_argument(flag, default=default, metavar=_one_of(rows), help=shown)


def listed(registry: Registry) -> str:
    """The rows of a registry, for `--help`."""
    return "\n".join(f"- {name}: {row.summary}" for name, row in registry.items())


def _one_of(names: Iterable[str]) -> str:
    return "{" + ",".join(names) + "}"


def _metavar(name: str) -> str:
    kind = config.field_type(name)
    return config.option(name).metavar or {int: "N", float: "X"}.get(kind, "PATH")


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Config` that were given on the command line."""
    names = {field.name for field in dataclasses.fields(Config)}
    return {
        name: " ".join(value) if config.option(name).several else value
        for name, value in vars(arguments).items()
        if name in names
    }


def add_data_options(parser: Parser) -> None:
    """Adds the flags that select the data of an evaluation."""
    add_config_options(parser, fields_of(DATA))


def data_config(arguments: argparse.Namespace, encoders: Iterable[Encoder]) -> Config:
    """The data to evaluate encoders on: as given, otherwise those they were trained on.

    Images that were held out for validation in training count as training images again, unless
    `--validation` says otherwise.

    Raises:
        InputError: they were trained on different data, and what was given does not decide.
    """
    given = {n: v for n, v in given_options(arguments).items() if n in fields_of(DATA)}
    trained_on = [encoder.notes["config"] for encoder in encoders if "config" in encoder.notes]
    sources = [
        {name: source[name] for name in fields_of(DATA) if name in source and name != "validation"}
        for source in trained_on
        if given.get("dataset", source["dataset"]) == source["dataset"]
    ]
    _name_folders_alike(sources)
    configs = {Config.from_dict(source | given) for source in sources or [{}]}
    if len(configs) > 1:
        one, other, *_ = sorted(configs, key=lambda c: str(c.to_dict()))
        differing = one.differences(other)
        listed = ", ".join(f"{name} {a} and {b}" for name, (a, b) in differing.items())
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in differing)
        raise InputError(
            f"the encoders were trained on different data ({listed}); say which to try them on "
            f"with {flags}"
        )
    config = configs.pop()
    DATASETS.find(config.dataset, {p for e in encoders for p in e.notes.get("plugins", ())})
    if config.data_dir is not None and config.data_dir.startswith(ELSEWHERE):
        raise InputError(
            f"the encoder does not say where {config.data_dir} is; give the folder with --data-dir"
        )
    return config


def _name_folders_alike(sources: list[dict[str, Any]]) -> None:
    """Runs name a folder whole, and exports as seen from where they were made, or by its last part
    alone."""
    known = [s["data_dir"] for s in sources if s.get("data_dir")]
    whole = {str(absolute(path)) for path in known if not path.startswith(ELSEWHERE)}
    for source in sources:
        path = source.get("data_dir")
        if path and path.startswith(ELSEWHERE):
            same = [other for other in whole if Path(other).name == Path(path).name]
            source["data_dir"] = same[0] if len(same) == 1 else path
        elif path:
            source["data_dir"] = str(absolute(path))


def open_given(
    arguments: argparse.Namespace, encoders: Iterable[Encoder]
) -> tuple[ImageData, dict[str, Any]]:
    """The data to evaluate encoders on, and their record for a result; reports the options that
    they do not read.

    Raises:
        InputError: as `data_config`, or the files are missing or damaged.
    """
    config = data_config(arguments, encoders)
    for line in unused_data_options(given_options(arguments), config.dataset):
        say(line)
    data = open_data(config)
    said = {"name": config.dataset, "validation": config.validation, "checksums": data.checksums}
    return data, said


def unused_data_options(given: Iterable[str], dataset: str) -> list[str]:
    """A line for each data option that was given and that the data set does not read."""
    unread = set(fields_of(DATA)) - {"dataset", *DATASETS[dataset].options}
    return [
        f"note: --{name.replace('_', '-')} has no effect on {dataset}"
        for name in sorted(unread & set(given))
    ]
