"""Objectives and their settings side by side on ColorMNIST: a grid of models, over seeds."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from tf_avae.config import ATTACK, MODEL, OBJECTIVE, OPTIMISATION
from tf_avae.console.commands import Parser
from tf_avae.errors import InputError
from tf_avae.evaluation import BUDGETS
from tf_avae.objectives import OBJECTIVES
from training.options import add_choice, add_config_options, given_options
from training.sweep.cells.declaration import Cell, Declaration, evaluate_cell, fit_cell, timing_cell
from training.sweep.cells.folder import SweepFolder
from training.sweep.colormnist.grids import GRIDS, Attacks, Grid, Model, models
from training.sweep.models import Values, check_evaluation, open_fields

TIMING = "timing"
"""The cell that times a training step of each objective's own model."""

_AXES: dict[str, type] = {"arch": str, "rho": float, "rho_se": float, "epsilon": float}
_HELP = {
    "arch": "architectures",
    "rho": "values of rho",
    "rho_se": "values of rho_se",
    "epsilon": "radii of the attack in training",
}
_OPEN = open_fields(
    (MODEL, OBJECTIVE, ATTACK, OPTIMISATION), but=(*_AXES, "seed", "pretrain_steps")
)
_ROUNDS, _SECONDS = 9, 2.0


def add_options(parser: Parser) -> None:
    """Adds the flags of the sweep."""
    what = parser.add_argument_group("the grid")
    add_choice(what, "--grid", GRIDS, "objectives", "which models")
    what.add_argument(
        "--algo", nargs="+", dest="algos", default=[], metavar="NAME",
        help=f"of {', '.join(OBJECTIVES)} [the grid's]",
    )  # fmt: skip
    for name, kind in _AXES.items():
        what.add_argument(
            f"--{name.replace('_', '-')}", nargs="+", type=kind, dest=f"axis_{name}", default=[],
            metavar="X" if kind is float else "NAME",
            help=f"{_HELP[name]}, each with each model [the grid's]",
        )  # fmt: skip
    what.add_argument(
        "--seeds", type=int, metavar="N", help="trainings of each, with seeds from 0 on [the "
        f"grid's: {', '.join(f'{g.name} {g.seeds}' for g in GRIDS.values())}]",
    )  # fmt: skip
    what.add_argument(
        "--budget", nargs="+", default=[], metavar="NAME",
        help=f"how hard to attack in the evaluation, of {', '.join(BUDGETS)} [the grid's]",
    )  # fmt: skip
    what.add_argument(
        "--radii", type=float, nargs="+", default=[], metavar="X",
        help="of the attacks in the evaluation, in pixel values from 0 to 1 [the grid's]; "
        "--epsilon is that of training",
    )  # fmt: skip
    what.add_argument(
        "--images", type=int, metavar="N", help="test images to attack, at most [the grid's]"
    )
    add_config_options(parser, _OPEN)


def declare(arguments: argparse.Namespace, folder: Path) -> Declaration:
    """The sweep of given options.

    Raises:
        InputError: options that cannot be used.
    """
    grid = GRIDS[arguments.grid]
    seeds = grid.seeds if arguments.seeds is None else arguments.seeds
    if seeds < 1:
        raise InputError(f"seeds is {seeds}; it must be at least 1")
    axes = {name: tuple(found) for name in _AXES if (found := getattr(arguments, f"axis_{name}"))}
    _check_once(arguments.algos, arguments.budget, *axes.values())
    # With one value it is what all models have, and makes none differ.
    given = given_options(arguments) | {n: v[0] for n, v in axes.items() if len(v) == 1}
    axes = {name: values for name, values in axes.items() if len(values) > 1}
    made = models(grid, given, axes, tuple(arguments.algos))
    flags = _flags(arguments, grid)
    first, *others = flags
    runs = [(trained(model.name, seed), model, seed) for seed in range(seeds) for model in made]
    cells: list[Cell] = [_timing(made)]
    # Seed by seed, so that what is there first can be compared already.
    for name, model, seed in runs:
        source = trained(model.starts_from, seed) if model.starts_from else None
        cells.append(fit_cell(name, replace(model.config, seed=seed), source))
        cells.append(evaluate_cell(attacked_by(name, first), name, flags[first]))
    for name, _, _ in runs:
        cells += [evaluate_cell(attacked_by(name, b), name, flags[b]) for b in others]
    return Declaration(
        "colormnist",
        {
            "grid": grid.name,
            "seeds": seeds,
            "budgets": list(flags),
            "heads": list(grid.heads),
            "models": [
                {"name": m.name, "algo": m.algo, "differs": m.differs, "starts_from": m.starts_from}
                for m in made
            ],
        },
        tuple(cells),
    )


def trained(model: str, seed: int) -> str:
    """The cell that trains a model with a seed."""
    return f"{model}-s{seed}"


def attacked_by(name: str, budget: str) -> str:
    """The cell that evaluates a trained model under a budget."""
    return f"{name}-{budget}"


def evaluations(sweep: SweepFolder) -> dict[str, Values]:
    """The flags of `training.evaluate` under each budget of a sweep, the same for each model, and
    the searches of which this version's budget of that name consists."""
    settings = sweep.declaration.settings
    any_run = trained(settings["models"][0]["name"], 0)
    return {
        b: sweep.cells[attacked_by(any_run, b)].options | {"searches": BUDGETS[b].searches}
        for b in settings["budgets"]
    }


def _check_once(*lists: Any) -> None:
    for values in lists:
        for value in values:
            if list(values).count(value) > 1:
                raise InputError(f"{value} is given twice; name each once")


def _timing(made: list[Model]) -> Cell:
    """Of each objective's first model, in turn: a time factor compares steps of one process."""
    first: dict[str, Model] = {}
    for model in made:
        first.setdefault(model.algo, model)
    return timing_cell(
        TIMING, {m.name: m.config for m in first.values()}, rounds=_ROUNDS, seconds=_SECONDS
    )


def _flags(arguments: argparse.Namespace, grid: Grid) -> dict[str, Values]:
    """The flags of `training.evaluate` under each budget, the same for each model."""
    of_grid, most = {row.budget: row for row in grid.attacks}, arguments.images
    made: dict[str, Values] = {}
    for budget in arguments.budget or of_grid:
        row = of_grid.get(budget) or Attacks(budget, BUDGETS[budget].images)
        found: Values = {
            "head": grid.heads[:1] if made else grid.heads,
            "section": ("robustness",) if made else grid.sections,
            "budget": budget,
            "epsilon": tuple(arguments.radii or row.radii or grid.radii),
            "validation": grid.common.get("validation", 0),
        }
        images = row.images
        if most is not None:
            images = min(most, images or most)
        if images is not None:
            found["images"] = images
        if grid.tasks:
            found["task"] = grid.tasks
        if "certified" in found["section"]:
            found["certify"] = grid.certify
        check_evaluation(found)
        made[budget] = found
    return made
