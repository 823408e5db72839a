"""A sweep is data: cells, each a command with a folder of its own, and what each needs."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tf_avae.registry import Registry
from tf_avae.runs import holds_run

OPTIONS = "options.json"
"""The file in a cell's folder with its options."""


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


@dataclass(frozen=True)
class Kind:
    """What a cell can be.

    Attributes:
        name: the row's name.
        summary: what it does.
        output: (cell, its folder) to what it makes: a path for the cells that need it.
        result: (cell, its folder) to the file that is there once the cell is done.
        words: (cell, its folder, the outputs of what it needs) to the arguments of Python that
            begin it, or go on with it where it was stopped; None where there is nothing to do.
    """

    name: str
    summary: str
    output: Callable[[Cell, Path], Path]
    result: Callable[[Cell, Path], Path]
    words: Callable[[Cell, Path, list[Path]], list[str]] | None


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
    cells: tuple[Cell, ...] = field(default=())

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
    """Where two JSON values first differ, in words; None where they are the same."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in [*mine, *(key for key in theirs if key not in mine)]:
            below = f"{where}.{key}" if where else key
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
    """Options as words of a command line; those that are None are left out."""
    words = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, list | tuple):
            words += [flag, *map(str, value)]
        elif value is not None:
            words.append(f"{flag}={value}")
    return words


# ---------------------------------------------------------------------- kinds


def fit_cell(name: str, config: dict[str, Any], cost: float, init_from: str | None = None) -> Cell:
    """A run of `training.fit`.

    Args:
        name: the cell's.
        config: fields of `Config` and their values, all of them.
        cost: compared with other runs.
        init_from: the cell whose networks it starts from.
    """
    return Cell(name, "fit", config, (init_from,) if init_from else (), cost)


def _run_folder(cell: Cell, folder: Path) -> Path:
    return folder / "run"


def _fit_words(cell: Cell, folder: Path, needs: list[Path]) -> list[str]:
    run = _run_folder(cell, folder)
    words = ["-m", "training.fit", f"--run-dir={run}"]
    if holds_run(run):
        return [*words, "--resume"]
    return [*words, f"--config={folder / OPTIONS}", *(f"--init-from={path}" for path in needs)]


def taken_cell(name: str, path: str) -> Cell:
    """A model that there is already: a run, a SavedModel or a Keras file."""
    return Cell(name, "taken", {"path": path}, cost=0.0)


def _taken_path(cell: Cell, folder: Path) -> Path:
    return Path(cell.options["path"])


def evaluate_cell(name: str, of: str, options: dict[str, Any]) -> Cell:
    """An evaluation by `training.evaluate` of what a cell made.

    Args:
        name: the cell's.
        of: the cell that is evaluated; the encoder is called so.
        options: flags of the command, by name.
    """
    return Cell(name, "evaluate", options, (of,))


def _evaluation_folder(cell: Cell, folder: Path) -> Path:
    return folder / "evaluation"


def _evaluate_words(cell: Cell, folder: Path, needs: list[Path]) -> list[str]:
    named = [f"{name}={path}" for name, path in zip(cell.needs, needs, strict=True)]
    out = f"--out={_evaluation_folder(cell, folder)}"
    return ["-m", "training.evaluate", *named, out, *flags(cell.options)]


KINDS: Registry[Kind] = Registry(
    "kind of cell",
    Kind(
        "fit",
        "a run of training.fit",
        output=_run_folder,
        result=lambda cell, folder: _run_folder(cell, folder) / "result.json",
        words=_fit_words,
    ),
    Kind(
        "evaluate",
        "an evaluation by training.evaluate",
        output=_evaluation_folder,
        result=lambda cell, folder: _evaluation_folder(cell, folder) / "results.json",
        words=_evaluate_words,
    ),
    Kind(
        "taken",
        "a model that there is already",
        output=_taken_path,
        result=_taken_path,
        words=None,
    ),
)
