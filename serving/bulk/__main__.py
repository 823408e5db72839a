"""`python -m serving.bulk`: reads the command line, embeds, says what came of it."""

import argparse
import dataclasses
import sys

from serving import bulk
from serving.bulk.options import FORMATS, Job
from tf_avae.console.commands import Parser, add_trust, run_command, sigterm_unwinds
from tf_avae.console.printing import say


def parser() -> Parser:
    """The command line; what it does not know is for Beam."""
    made = Parser(
        prog="python -m serving.bulk",
        description="Embeds image files, or pictures in TFRecords, into Parquet on Apache Beam.",
        epilog="All other options are Beam's: --runner, and those of the runner.",
        rest=True,
    )
    made.add_argument(
        "--model", required=True, metavar="PATH", help="an export, for example models/encoder"
    )
    made.add_argument(
        "--input", required=True, metavar="GLOB",
        help="the files, in quotes: * is any name in a folder, ** at any depth: 'pictures/**'",
    )  # fmt: skip
    made.add_argument("--output", required=True, metavar="DIR", help="a folder, empty or new")
    made.add_argument(
        "--format", choices=FORMATS, default=Job.format,
        help=f"what the files are: images, or TFRecords of tf.train.Example [{Job.format}]",
    )  # fmt: skip
    made.add_argument(
        "--feature", default=Job.feature, metavar="NAME",
        help=f"of a tf.train.Example, which holds the bytes of an image file [{Job.feature}]",
    )  # fmt: skip
    made.add_argument(
        "--batch-size", type=int, default=Job.batch_size, metavar="N",
        help=f"pictures at once [{Job.batch_size}]",
    )  # fmt: skip
    made.add_argument(
        "--shards", type=int, metavar="N", help="Parquet files [as many as the runner makes]"
    )
    made.add_argument(
        "--certify", type=float, metavar="EPS",
        help="write the columns lower and upper too, between which the embedding of every image "
        "within EPS in each pixel value lies [no]",
    )  # fmt: skip
    add_trust(made)
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    with sigterm_unwinds():
        return run_command(parser, argv, _embed)


def _embed(given: argparse.Namespace) -> int:
    bulk.check_installed()
    from serving.bulk import job

    options = job.pipeline_options(given.rest, "python -m serving.bulk")
    names = [field.name for field in dataclasses.fields(Job)]
    made = job.run(Job(**{name: getattr(given, name) for name in names}), options)
    model, files = made["model"], len(made["files"])
    version = "" if model["version"] is None else f" version {model['version']}"
    say(
        f"{made['embedded']:,} embedded by {model['name']}{version}, {made['refused']:,} refused, "
        f"{made['seconds']:.1f} s, {made['images_per_second']:,.0f} images/s"
    )
    say(f"written: {given.output} ({files} Parquet {'file' if files == 1 else 'files'})")
    if made["refused"]:
        say(f"what was refused, and why: {given.output}/{made['refusals']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
