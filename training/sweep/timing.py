"""Times training steps of several configs in turn: `python -m training.sweep.timing CONFIGS`."""

import argparse
import sys
from pathlib import Path

import tensorflow as tf

from tf_avae.commands import Parser, exit_code
from tf_avae.config import Config, read_json
from tf_avae.datasets import open_data
from tf_avae.errors import InputError
from tf_avae.files import write_json
from tf_avae.provenance import provenance
from tf_avae.runs import build_model, resolve
from training.session import say
from training.timing import fit_steps, paired_rates


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="python -m training.sweep.timing",
        description="Times training steps of several configs in turn, in one process, so that the "
        "machine's moods cancel in the ratios of a round. A cell of a sweep.",
    )
    made.add_argument(
        "options", metavar="FILE", help="JSON object: configs by name, rounds, seconds of a timing"
    )
    made.add_argument("--out", required=True, metavar="FILE", help="where the rates are written")
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    arguments = parser().parse_args(argv)
    return exit_code(lambda: _time(arguments))


def _time(arguments: argparse.Namespace) -> int:
    options = read_json(arguments.options)
    for name in ("configs", "rounds", "seconds"):
        if not options.get(name):
            raise InputError(f"{arguments.options} has no {name}; give the options.json of a cell")
    configs = {name: resolve(Config.from_dict(c)) for name, c in options["configs"].items()}
    # As `training.fit` does: deterministic forms of ops may be slower.
    tf.config.experimental.enable_op_determinism()
    first = next(iter(configs.values()))
    data = open_data(first)
    batches = data.train(first.batch_size, seed=first.seed)
    timed = {
        name: fit_steps(build_model(config, data.image_shape), batches)
        for name, config in configs.items()
    }
    say(f"timing {', '.join(timed)} in turn, {options['rounds']} rounds")
    rates = paired_rates(timed, rounds=options["rounds"], seconds=options["seconds"])
    write_json(Path(arguments.out), {"rates": rates, "provenance": provenance()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
