"""Times training steps of several configs in turn: `python -m training.sweep.timing CONFIGS`."""

import argparse
import sys
from pathlib import Path

from tf_avae.config import Config
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import say
from tf_avae.datasets import open_data
from tf_avae.errors import InputError
from tf_avae.files import write_json
from tf_avae.provenance import provenance
from tf_avae.records import NUMBER, read_record
from tf_avae.runs.plan import build_model, resolve
from training.rates import fit_steps, paired_rates
from training.signals import deterministic


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
    return run_command(parser, argv, _time)


def _time(arguments: argparse.Namespace) -> int:
    shape = {"configs": {str: dict}, "rounds": int, "seconds": NUMBER}
    options = read_record(arguments.options, shape, "give the options.json of a cell")
    for name in shape:
        if not options[name]:
            raise InputError(f"{arguments.options} has no {name}; give the options.json of a cell")
    configs = {name: resolve(Config.from_dict(c)) for name, c in options["configs"].items()}
    first = next(iter(configs.values()))
    data = open_data(first)
    batches = data.train(first.batch_size, seed=first.seed)
    with deterministic():  # as `training.fit`: such forms of ops may be slower
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
