"""What it costs to give a sweep's cells to processes here, and to a Ray cluster.

`python -m benchmarks.places` does cells that do nothing, so many at once as there are cores, in
both places in turn, and prints a Markdown table: seconds until the first command begins, and
seconds a cell; the median of the rounds, with the least and the most. `--json FILE` keeps what the
table was made from, `--from FILE` makes it again.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import pairing
from tf_avae.console.commands import Parser, run_command
from tf_avae.errors import InputError
from training.rates import spread
from training.signals import StopSignals
from training.sweep.cells.declaration import Cell, Declaration
from training.sweep.cells.engine import run_cells
from training.sweep.cells.folder import SweepFolder
from training.sweep.cells.places import add_place_options, place_of

PLACES: dict[str, list[str]] = {
    "processes here": ["--processes", str(os.cpu_count())],
    "Ray": ["--cluster", "local"],
}
"""Where cells are done, and the flags that say so."""


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Both places, in turn."""
    if given.cells < 2 or given.rounds < 1:
        raise InputError(f"cells is {given.cells} and rounds {given.rounds}; give 2 or more, and 1")
    rows: dict[str, dict[str, list[float]]] = {n: {"first": [], "cell": []} for n in PLACES}
    for _ in range(given.rounds):
        for name, flags in PLACES.items():
            first, each = _timed(given.cells, flags)
            rows[name]["first"].append(first)
            rows[name]["cell"].append(each)
    return {"rows": rows, "cells": given.cells, "rounds": given.rounds, "device": pairing.device()}


def _timed(count: int, flags: list[str]) -> tuple[float, float]:
    """Seconds until the first cell begins, and then a cell.

    Raises:
        InputError: one failed.
    """
    made = Parser(prog="places")
    add_place_options(made)
    # Its command ends at once without a result, which is all that its time depends on.
    cells = [Cell(f"c{number}", "timing", {"configs": {}}) for number in range(count)]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        sweep = SweepFolder.create(Path(folder) / "s", Declaration("none", {}, tuple(cells)))
        started = time.time()
        with place_of(made.parse_args(flags)) as place, StopSignals() as signals:
            outcome = run_cells(sweep, cells, place=place, signals=signals)
        began = [sweep.sessions(cell.name)[0].started for cell in cells]
        ended = [sweep.ended(cell.name) for cell in cells]
    if len(outcome.failed) != count:
        raise InputError(f"of {count} cells without work {count - len(outcome.failed)} ended well")
    return min(began) - started, (max(ended) - min(began)) / count


def markdown(found: dict[str, Any]) -> str:
    """A row for each place."""
    rows = [
        [name, *(pairing.shown(spread(of[key])) for key in ("first", "cell"))]
        for name, of in found["rows"].items()
    ]
    head = f"{found['cells']} cells; {found['device']}; rounds: {found['rounds']}."
    return f"{head}\n\n{pairing.rows_of(['cells in', 'seconds to the first', 'a cell'], rows)}"


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    summary = (__doc__ or "").split("\n")[0]
    parser = Parser(prog="python -m benchmarks.places", description=summary)
    parser.add_argument("--cells", type=int, default=8, metavar="N", help="[8]")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="[3]")
    pairing.add_files(parser)
    return run_command(
        lambda: parser, argv, lambda given: pairing.report(given, lambda: measure(given), markdown)
    )


if __name__ == "__main__":
    sys.exit(main())
