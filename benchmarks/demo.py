"""How long the demo takes from a question to its answer.

`python -m benchmarks.demo` asks for each digit at each ε of a few what the page asks for when a
slider is dragged, and prints a Markdown table: the median of the seconds until the answer is there,
attacks, proofs and pictures of both encoders, with the least and the most. `--json FILE` keeps what
the table was made from, `--from FILE` makes it again.
"""

import argparse
import sys
import time
from typing import Any

from benchmarks import pairing
from tf_avae.console.commands import Parser, run_command
from training.rates import spread

_EPSILONS = (0.02, 0.1, 0.2, 0.3)


def measure() -> dict[str, Any]:
    """Seconds of each answer, by ε."""
    from training.demo.digits import picked
    from training.demo.page import answer
    from training.demo.readers import FIRST
    from training.demo.ready import ready

    readers, split = ready()
    seconds: dict[str, list[float]] = {}
    for epsilon in _EPSILONS:
        for digit in range(10):
            start = time.perf_counter()
            answer(readers, picked(split, digit, 0), "white", epsilon, FIRST)
            seconds.setdefault(f"{epsilon:g}", []).append(time.perf_counter() - start)
    return {"seconds": seconds, "device": pairing.device()}


def markdown(found: dict[str, Any]) -> str:
    """A row for each ε."""
    rows = [[epsilon, pairing.shown(spread(of))] for epsilon, of in found["seconds"].items()]
    head = f"Digits: 10; {found['device']}."
    return f"{head}\n\n{pairing.rows_of(['ε', 'seconds to the answer'], rows)}"


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parser = Parser(prog="python -m benchmarks.demo", description=(__doc__ or "").split("\n")[0])
    pairing.add_files(parser)
    return run_command(lambda: parser, argv, _report)


def _report(given: argparse.Namespace) -> int:
    return pairing.report(given, measure, markdown)


if __name__ == "__main__":
    sys.exit(main())
