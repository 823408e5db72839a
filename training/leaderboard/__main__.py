"""A leaderboard of evaluations: `python -m training.leaderboard FILE ...`."""

import argparse
import sys
from pathlib import Path

from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import answer, say
from tf_avae.errors import InputError
from tf_avae.evaluation.inputs import check_names
from tf_avae.files import absolute, shown, write_json, write_text
from tf_avae.probes import PROTOCOL_HEADS
from tf_avae.provenance import session
from training.leaderboard import page
from training.leaderboard.entries import leaderboard
from training.leaderboard.rules import RULES
from training.leaderboard.trainings import Given, read_trainings


def parser() -> Parser:
    """The command line."""
    rules = "\n".join(f"- {rule.name}: {rule.must}" for rule in RULES.values())
    made = Parser(
        prog="python -m training.leaderboard",
        description="Puts encoders that were evaluated on the same images into one table, sorted "
        "by robust accuracy. Those that do not meet the rules of admission are listed apart, with "
        "the reasons. Trainings that differ in their seed alone are one row.",
    )
    made.add_argument(
        "file", nargs="+", metavar="[NAME=]FILE",
        help="a results.json of training.evaluate. Several may be about one encoder, of other "
        "tasks or radii, or hold several encoders. What has the same NAME is one row: seeds of one "
        f"training, which files without a config do not tell\nrules:\n{rules}",
    )  # fmt: skip
    made.add_argument(
        "--task", nargs="+", metavar="NAME", help="labels; it is sorted by the first [all shared]"
    )
    made.add_argument(
        "--epsilon", type=float, nargs="+", metavar="X",
        help="radii; it is sorted by the first [all shared]",
    )  # fmt: skip
    made.add_argument(
        "--head", default=PROTOCOL_HEADS[0], metavar="NAME", help=f"probe [{PROTOCOL_HEADS[0]}]"
    )
    made.add_argument("--page", type=Path, metavar="FILE", help="where to write a page, Markdown")
    made.add_argument("--json", type=Path, metavar="FILE", help="where to write JSON")
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return run_command(parser, argv, _main)


def given_file(words: str) -> Given:
    """The file and the name in [NAME=]FILE."""
    name, separator, path = words.partition("=")
    if not separator or absolute(words).exists():
        return Given(Path(words))
    check_names([name])
    return Given(Path(path), name)


def _main(arguments: argparse.Namespace) -> int:
    given = [given_file(words) for words in arguments.file]
    for flag, path in (("--page", arguments.page), ("--json", arguments.json)):
        if path and absolute(path) in {absolute(file.path) for file in given}:
            raise InputError(f"{flag} is {path}, which is one of the files read; give another")
    trainings, data = read_trainings(given, arguments.head)
    board = leaderboard(trainings, data, arguments.head, arguments.task, arguments.epsilon)
    command = session()["command"]
    made, values = page.page(board, command), page.values(board, command)
    if arguments.page:
        write_text(absolute(arguments.page), made)
    if arguments.json:
        write_json(absolute(arguments.json), values)
    answer(page.tables(board))
    for kind, path in (("page", arguments.page), ("JSON", arguments.json)):
        if path:
            say(f"{kind}: {shown(absolute(path))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
