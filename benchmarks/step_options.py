"""What each option does to the time of a training step.

`python -m benchmarks.step_options --algo vae se` times training steps as they are, and with one
thing changed, in turn in one process, and prints a Markdown table: how many times as fast each
change makes a step, the median of the rounds with the least and the most. `--json FILE` keeps what
it was made from, `--from FILE` makes it again.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import pairing
from tf_avae.backend import keras
from tf_avae.config import Config
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import note
from tf_avae.datasets import DATASETS
from tf_avae.model import AVAE
from tf_avae.networks import ARCHITECTURES
from tf_avae.objectives import OBJECTIVES
from tf_avae.registry import Registry
from tf_avae.runs.plan import build_model, resolve
from tf_avae.types import ImageShape
from training.rates import fit_steps, paired_rates
from training.signals import deterministic

_AS_IS = "as it is"


@dataclass(frozen=True)
class StepOption:
    """One change.

    Attributes:
        name: the row's name.
        summary: what is changed, for the table.
        build: a resolved config and the images' shape to the compiled model.
    """

    name: str
    summary: str
    build: Callable[[Config, ImageShape], AVAE]


def _precision(name: str) -> Callable[[Config, ImageShape], AVAE]:
    return lambda config, shape: build_model(replace(config, precision=name), shape)


def _compiled(optimizer: Callable[[float], Any] | None = None, **how: Any) -> Callable:
    """The model, compiled anew with an optimiser or otherwise."""

    def build(config: Config, shape: ImageShape) -> AVAE:
        model = build_model(config, shape)
        made = optimizer(config.learning_rate) if optimizer else model.optimizer
        model.compile(made, **{"steps_per_execution": config.steps_per_execution} | how)
        return model

    return build


STEP_OPTIONS: Registry[StepOption] = Registry(
    "option",
    StepOption("keras_adam", "Keras' own Adam", _compiled(keras.optimizers.Adam)),
    StepOption("xla", "the whole step compiled by XLA", _compiled(jit_compile=True)),
    StepOption("single", "one step an execution", _compiled(steps_per_execution=1)),
    StepOption("ten", "ten steps an execution", _compiled(steps_per_execution=10)),
    StepOption("bfloat16", "`mixed_bfloat16`", _precision("mixed_bfloat16")),
    StepOption("float16", "`mixed_float16`", _precision("mixed_float16")),
)


@deterministic()  # as training.fit
def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All options on all objectives."""
    pairing.check_options(given)
    data = DATASETS["color_mnist"].open()
    rows = []
    for algo in given.algo:
        config = resolve(Config(algo=algo, arch=given.arch, jit="off"))
        batches = data.train(config.batch_size, seed=0)
        timed = {_AS_IS: fit_steps(build_model(config, data.image_shape), batches)}
        for name in given.option:
            note(f"{algo}: compiling {name}")
            timed[name] = fit_steps(STEP_OPTIONS[name].build(config, data.image_shape), batches)
        note(f"{algo}: {given.rounds} rounds")
        rates = paired_rates(timed, rounds=given.rounds, seconds=given.seconds)
        rows += [
            {"algo": algo, "option": name, "times_as_fast": pairing.ratios(rates, name, _AS_IS)}
            | {"steps_per_second": statistics.median(rates[_AS_IS])}
            for name in given.option
        ]
    settings = {"arch": given.arch, "rounds": given.rounds, "seconds": given.seconds}
    return {"settings": settings, "device": pairing.device(), "rows": rows}


def markdown(found: dict[str, Any]) -> str:
    """A row for each option, a column for each objective."""
    algos = list(dict.fromkeys(row["algo"] for row in found["rows"]))
    cells = {(r["option"], r["algo"]): pairing.shown(r["times_as_fast"]) for r in found["rows"]}
    names = dict.fromkeys(row["option"] for row in found["rows"])
    lines = [[STEP_OPTIONS[name].summary, *(cells[name, algo] for algo in algos)] for name in names]
    settings = found["settings"]
    head = f"`{settings['arch']}`; {found['device']}; rounds: {settings['rounds']}."
    heads = ["times as fast with", *(f"`{algo}`" for algo in algos)]
    return f"{head}\n\n{pairing.rows_of(heads, lines)}"


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    summary = (__doc__ or "").split("\n")[0]
    parser = Parser(prog="python -m benchmarks.step_options", description=summary)
    parser.add_argument("--arch", default="mlp", choices=list(ARCHITECTURES), help="[mlp]")
    parser.add_argument("--algo", nargs="+", choices=list(OBJECTIVES), default=["vae", "se"])
    parser.add_argument(
        "--option", nargs="+", choices=list(STEP_OPTIONS), default=list(STEP_OPTIONS)
    )
    pairing.add_options(parser, 5, 1.0)
    return run_command(
        lambda: parser, argv, lambda given: pairing.report(given, lambda: measure(given), markdown)
    )


if __name__ == "__main__":
    sys.exit(main())
