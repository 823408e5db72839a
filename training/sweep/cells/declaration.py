"""A sweep is data: cells, each a command with a folder of its own, and what each needs."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tf_avae.config import Config
from tf_avae.objectives import OBJECTIVES
from tf_avae.records import NUMBER, damaged, read_record
from tf_avae.registry import Registry
from tf_avae.runs.run import holds_run

OPTIONS = "options.json"
"""The file in a cell's folder with its options."""

AGAIN = "take it away, and the same sweep makes it again"
"""What to do about a result that is damaged."""


@dataclass(frozen=True)
class Cell:
    """A piece of work that is done once.

    Attributes:
        name: also that of its folder.
        kind: name of a row of `KINDS`.
        options: of that kind, JSON values.
        needs: cells that must be done before, by name.
        cost: about how long it takes, compared with other cells of its kind.
    """

    name: str
    kind: str
    options: dict[str, Any]
    needs: tuple[str, ...] = ()
    cost: float = 1.0


class Measured(NamedTuple):
    """How long work took, or would take.

    Attributes:
        kind: of the cells whose work it is.
        options: of such a cell.
        seconds: the time.
        cost: as of a cell.
    """

    kind: str
    options: dict[str, Any]
    seconds: float
    cost: float


@dataclass(frozen=True)
class Kind:
    """What a cell can be.

    Attributes:
        name: the row's name.
        summary: what it does.
        output: what it makes, for the cells that need it: a path in its folder; None where that is
            the option "path".
        result: what is there once the cell is done, in the same way.
        words: (cell, its folder, the outputs of what it needs) to the arguments of Python that
            begin it, or go on with it where it was stopped; None where there is nothing to do.
        tells: (cell, its folder) to the times it measured of other cells' work, once it is done.
    """

    name: str
    summary: str
    output: str | None
    result: str | None
    words: Callable[[Cell, Path, list[Path]], list[str]] | None
    tells: Callable[[Cell, Path], list[Measured]] = lambda cell, folder: []


@dataclass(frozen=True)
class Declaration:
    """What a sweep consists of. It decides everything that is made, and is kept in the folder.

    Attributes:
        sweep: the kind of sweep.
        settings: what its table has to know, JSON values.
        cells: each after those that it needs.

    Raises:
        ValueError: two cells of one name, or one that needs what does not come before it.
    """

    sweep: str
    settings: dict[str, Any]
    cells: tuple[Cell, ...] = ()

    def __post_init__(self) -> None:
        known: set[str] = set()
        for cell in self.cells:
            if cell.name in known or not set(cell.needs) <= known:
                raise ValueError(f"cell {cell.name!r} is there twice, or before what it needs")
            known.add(cell.name)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        cells = {cell.name: asdict(cell) | {"needs": list(cell.needs)} for cell in self.cells}
        return {"sweep": self.sweep, "settings": self.settings, "cells": cells}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Declaration":
        """The declaration of such values.

        Raises:
            KeyError, TypeError, ValueError: they are not those of a declaration.
        """
        cells = (Cell(**c | {"needs": tuple(c["needs"])}) for c in values["cells"].values())
        return cls(values["sweep"], values["settings"], tuple(cells))


def difference(mine: Any, theirs: Any, where: str = "") -> str | None:
    """Where two JSON values first differ, in words; None where they are the same. A field of
    `Config` that one of them has not, because it is older, is at its default."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        defaults = Config().to_dict()
        for key in [*mine, *(key for key in theirs if key not in mine)]:
            below = f"{where}.{key}" if where else key
            if key not in theirs and key in defaults and mine[key] == defaults[key]:
                continue
            if key not in theirs:
                return f"{below} is new"
            if key not in mine:
                return f"{below} is gone"
            found = difference(mine[key], theirs[key], below)
            if found:
                return found
        return None
    return None if mine == theirs else f"{where} is {mine!r} (was {theirs!r})"


def flags(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line; those that are None or False are left out."""
    words = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, list | tuple):
            words += [flag, *map(str, value)]
        elif value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words.append(f"{flag}={value}")
    return words


# ---------------------------------------------------------------------- kinds

# What each makes in its folder.
_RUN, _EVALUATION, _TIMING = "run", "evaluation", "timing.json"


def fit_cell(name: str, config: Config, init_from: str | None = None) -> Cell:
    """A run of `training.fit`.

    Args:
        name: the cell's.
        config: resolved.
        init_from: the cell whose networks it starts from.
    """
    needs = (init_from,) if init_from else ()
    return Cell(name, "fit", config.to_dict(), needs, config.steps * _passes(config))


def _passes(config: Config) -> float:
    """About how many passes through a network a step makes on its batch."""
    objective = OBJECTIVES[config.algo]
    attack = (config.pgd_steps or 0) if objective.attack else 0
    return float(2 + len(objective.auxiliaries) + attack)


def _fit_words(cell: Cell, folder: Path, needs: list[Path]) -> list[str]:
    run = folder / _RUN
    words = ["-m", "training.fit", f"--run-dir={run}"]
    if holds_run(run):
        return [*words, "--resume"]
    return [*words, f"--config={folder / OPTIONS}", *(f"--init-from={path}" for path in needs)]


def taken_cell(name: str, path: str) -> Cell:
    """A model that there is already: a run, a SavedModel or a Keras file."""
    return Cell(name, "taken", {"path": path}, cost=0.0)


def evaluate_cell(name: str, of: str, options: dict[str, Any]) -> Cell:
    """An evaluation by `training.evaluate` of what a cell made.

    Args:
        name: the cell's.
        of: the cell that is evaluated; the encoder is called so.
        options: flags of the command, by name.
    """
    return Cell(name, "evaluate", options, (of,))


def _evaluate_words(cell: Cell, folder: Path, needs: list[Path]) -> list[str]:
    named = [f"{name}={path}" for name, path in zip(cell.needs, needs, strict=True)]
    return _evaluation(folder, named, cell.options)


def _evaluation(folder: Path, encoders: list[str], options: Mapping[str, Any]) -> list[str]:
    out = f"--out={folder / _EVALUATION}"
    return ["-m", "training.evaluate", *encoders, out, *flags(options)]


def shard_cell(name: str, encoders: list[str], options: dict[str, Any], *needs: str) -> Cell:
    """A shard of an evaluation by `training.evaluate`.

    Args:
        name: the cell's.
        encoders: as the command takes them.
        options: flags of the command, by name; "shard" among them.
        needs: cells that must be done before.
    """
    return Cell(name, "shard", {"encoders": encoders, "flags": options}, needs)


def _shard_words(cell: Cell, folder: Path, needs: list[Path]) -> list[str]:
    return _evaluation(folder, cell.options["encoders"], cell.options["flags"])


def timing_cell(name: str, configs: dict[str, Config], rounds: int, seconds: float) -> Cell:
    """Rates of training steps, timed in turn by `training.sweep.timing`.

    Args:
        name: the cell's.
        configs: resolved, by name; of one data set and batch size.
        rounds: how often each is timed.
        seconds: about how long each timing takes.
    """
    values = {key: config.to_dict() for key, config in configs.items()}
    return Cell(name, "timing", {"configs": values, "rounds": rounds, "seconds": seconds})


def _timing_words(cell: Cell, folder: Path, needs: list[Path]) -> list[str]:
    return ["-m", "training.sweep.timing", str(folder / OPTIONS), f"--out={folder / _TIMING}"]


def read_timing(path: Path) -> dict[str, Any]:
    """The rates of steps by name, as "rates", and, as "provenance", where they come from.

    Raises:
        InputError: the file is missing or damaged.
    """
    found = read_record(path, {"rates": {str: [NUMBER]}}, AGAIN)
    if not all(found["rates"].values()):
        raise damaged(path, "it has no rates", AGAIN)
    return found


def _told_by_timing(cell: Cell, folder: Path) -> list[Measured]:
    rates = read_timing(folder / _TIMING)["rates"]
    return [
        Measured("fit", config, 1 / statistics.median(rates[name]), _passes(Config(**config)))
        for name, config in cell.options["configs"].items()
    ]


KINDS: Registry[Kind] = Registry(
    "kind of cell",
    Kind(
        "fit", "a run of training.fit", output=_RUN, result=f"{_RUN}/result.json", words=_fit_words
    ),
    Kind(
        "evaluate", "an evaluation by training.evaluate",
        output=_EVALUATION, result=f"{_EVALUATION}/results.json", words=_evaluate_words,
    ),
    Kind(
        "shard", "a shard of an evaluation",
        output=_EVALUATION, result=f"{_EVALUATION}/shard.json", words=_shard_words,
    ),
    Kind(
        "timing", "rates of training steps, timed in turn",
        output=_TIMING, result=_TIMING, words=_timing_words, tells=_told_by_timing,
    ),
    Kind("taken", "a model that there is already", output=None, result=None, words=None),
)  # fmt: skip
