"""Does the precision of training change what is learnt? The same trainings under each."""

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

from tf_avae.config import ATTACK, MODEL, OBJECTIVE, OPTIMISATION, Config, option
from tf_avae.console.commands import Parser
from tf_avae.datasets import DATASETS
from tf_avae.errors import InputError
from tf_avae.evaluation import BUDGETS
from tf_avae.objectives import OBJECTIVES
from tf_avae.runs.plan import resolve
from training.options import add_config_options, given_options
from training.sweep.cells.declaration import Cell, Declaration, evaluate_cell, fit_cell, timing_cell
from training.sweep.models import Values, check_evaluation, evaluated, open_fields

DATASET = "color_mnist"
BASELINE = "float32"
PRECISIONS = option("precision").choices

SECTIONS = ("probes", "robustness", "consistency")
HEAD = "linear"

_ALGOS = ("vae", "se_avae")
_SEEDS, _STEPS, _IMAGES, _RADII = 3, 2_000, 1_000, (0.02, 0.05, 0.1)
_ROUNDS, _SECONDS = 9, 2.0

_OPEN = open_fields(
    (MODEL, OBJECTIVE, ATTACK, OPTIMISATION), but=("precision", "steps", "pretrain_steps", "seed")
)
"""The fields of `Config` that are left open, beside those that have flags of their own here."""


def add_options(parser: Parser) -> None:
    """Adds the flags of the sweep."""
    what = parser.add_argument_group("the study")
    what.add_argument(
        "--algo", nargs="+", dest="algos", default=list(_ALGOS), metavar="NAME",
        help=f"objectives, of {', '.join(OBJECTIVES)} [{' '.join(_ALGOS)}]",
    )  # fmt: skip
    what.add_argument(
        "--seeds", type=int, default=_SEEDS, metavar="N",
        help=f"trainings of each, with seeds from 0 on [{_SEEDS}]",
    )  # fmt: skip
    what.add_argument(
        "--steps", type=int, default=_STEPS, metavar="N",
        help=f"optimiser steps of each [{_STEPS}, for 2 cores; training.fit's {Config().steps}]",
    )  # fmt: skip
    what.add_argument(
        "--budget", default="paper", metavar="{" + ",".join(BUDGETS) + "}",
        help="how hard to attack in the evaluation [paper]",
    )  # fmt: skip
    what.add_argument(
        "--radii", type=float, nargs="+", default=list(_RADII), metavar="X",
        help="of the attacks in the evaluation, in pixel values from 0 to 1 "
        f"[{' '.join(map(str, _RADII))}]; --epsilon is that of training",
    )  # fmt: skip
    what.add_argument(
        "--images",
        type=int,
        default=_IMAGES,
        metavar="N",
        help=f"test images to attack [{_IMAGES}]",
    )
    add_config_options(parser, _OPEN)


def default_folder(arguments: argparse.Namespace) -> str:
    """The name of the sweep's default folder."""
    return f"precision-{given_options(arguments).get('arch', DATASETS[DATASET].architecture)}"


def declare(arguments: argparse.Namespace, folder: Path) -> Declaration:
    """The sweep of given options.

    Raises:
        InputError: options that cannot be used.
    """
    if arguments.seeds < 2:
        raise InputError(
            f"seeds is {arguments.seeds}; an interval over seeds needs at least 2 of them"
        )
    for name in arguments.algos:
        if arguments.algos.count(name) > 1:
            raise InputError(f"--algo has {name} twice; name each objective once")
    given = {**given_options(arguments), "dataset": DATASET}
    configs = {algo: resolve(Config.from_dict({**given, "algo": algo})) for algo in arguments.algos}
    first = next(iter(configs.values()))
    flags = _evaluation(arguments, first)
    timings = [
        timing_cell(
            timed(algo),
            {name: replace(config, precision=name) for name in PRECISIONS},
            rounds=_ROUNDS,
            seconds=_SECONDS,
        )
        for algo, config in configs.items()
    ]
    models: list[Cell] = []
    # Seed by seed, so that what is there first can be compared already.
    for seed, (algo, config), precision in itertools.product(
        range(arguments.seeds), configs.items(), PRECISIONS
    ):
        name = model(algo, precision, seed)
        models += [
            fit_cell(name, replace(config, precision=precision, seed=seed)),
            evaluate_cell(evaluated(name), name, flags),
        ]
    return Declaration(
        "precision",
        {"algos": list(configs), "seeds": arguments.seeds, "data_dir": first.data_dir},
        (*timings, *models),
    )


def model(algo: str, precision: str, seed: int) -> str:
    """The cell that trains a model."""
    return f"{algo}-{precision}-{seed}"


def timed(algo: str) -> str:
    """The cell that times an objective's steps under each precision."""
    return f"{algo}-timing"


def _evaluation(arguments: argparse.Namespace, config: Config) -> Values:
    """The flags of `training.evaluate`, the same for each model; the data are those of the run."""
    found: Values = {
        "head": (HEAD,),
        "section": SECTIONS,
        "budget": arguments.budget,
        "epsilon": tuple(arguments.radii),
        "norm": config.pgd_norm,
        "images": arguments.images,
    }
    check_evaluation(found)
    return found
