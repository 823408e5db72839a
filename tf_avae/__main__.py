"""One front door: `tf-avae fit --algo avae` is `python -m training.fit --algo avae`, and so on."""

import runpy
import sys
from typing import NamedTuple

from tf_avae import __version__
from tf_avae.console.commands import USAGE_ERROR, called, exit_code
from tf_avae.console.printing import answer, note
from tf_avae.registry import unknown


class Command(NamedTuple):
    """A command.

    Attributes:
        module: what `python -m` runs.
        summary: for `--help`.
        words: what stands before the user's own words.
    """

    module: str
    summary: str
    words: tuple[str, ...] = ()


COMMANDS = {
    "fit": Command("training.fit", "train a model"),
    "robustify": Command("training.robustify", "make an encoder that you have robust"),
    "evaluate": Command("training.evaluate", "measure how robust encoders are"),
    "compare": Command("training.compare", "draw what one attack does to encoders"),
    "demo": Command("training.demo", "open a page on which you attack digits that you draw"),
    "leaderboard": Command("training.leaderboard", "put evaluations into one table"),
    "classify": Command("training.classify", "train a head on a frozen encoder"),
    "sweep": Command("training.sweep", "run many trainings and evaluations"),
    "theory": Command("training.theory", "measure and draw the solvable cases"),
    "export": Command("serving.export", "publish a run as a version of a served model"),
    "serve": Command("serving.server", "serve exports as TensorFlow Serving does"),
    "embed": Command("serving.client", "embed image files through a server", ("embed",)),
    "bulk": Command("serving.bulk", "embed many files into Parquet, on Apache Beam"),
}
"""Named by modules, which are imported when they run: the package does not know them."""

_USAGE = "usage: tf-avae COMMAND ...\n\n{}\n\ntf-avae COMMAND --help says more; tf-avae --version"


def main() -> int:
    """Runs the command that the process was given; returns the exit code."""
    return exit_code(_run)


def _run() -> int:
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        answer(_USAGE.format("\n".join(f"  {n:13}{c.summary}" for n, c in COMMANDS.items())))
        return 0
    if name == "--version":
        answer(f"tf-avae {__version__}")
        return 0
    if name not in COMMANDS:
        note(f"error: {unknown('command', name, list(COMMANDS))}; see tf-avae --help")
        return USAGE_ERROR
    command = COMMANDS[name]
    sys.argv[1:] = [*command.words, *words]
    with called(f"tf-avae {name}"):
        runpy.run_module(command.module, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
