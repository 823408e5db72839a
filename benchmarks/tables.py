"""Figures of evaluations side by side, as the Markdown tables of the docs.

They are made of what `python -m training.evaluate` wrote, in one call or in several.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import answer
from tf_avae.errors import InputError
from tf_avae.evaluation import table
from tf_avae.evaluation.results import read_results
from tf_avae.records import damage_told
from training.sweep import pages

_REMEDY = "give the results.json of evaluations"


def joined(files: list[Path]) -> dict[str, Any]:
    """The results of evaluations that measured the same on the same images, as of one.

    Args:
        files: their `results.json`.

    Raises:
        InputError: no such file, or what two of them measured is not the same.
    """
    results = [read_results(file, _REMEDY) for file in files]
    first = results[0]
    for file, other in zip(files, results, strict=True):
        for part in ("settings", "data"):
            differ = [
                name
                for name in {**first[part], **other[part]}
                if first[part].get(name) != other[part].get(name)
            ]
            if differ:
                raise InputError(
                    f"{files[0]} and {file} differ in {part}: {', '.join(differ)}; "
                    "figures stand side by side only where the same was measured"
                )
    return {**first, "encoders": [encoder for other in results for encoder in other["encoders"]]}


def markdown(results: dict[str, Any], names: list[str] | None = None) -> str:
    """A table with a column for each encoder, its groups under headings in bold.

    Args:
        results: of an evaluation, or of several joined.
        names: the columns' heads [the encoders' names].

    Raises:
        InputError: not as many names as encoders.
    """
    encoders = [encoder["name"] for encoder in results["encoders"]]
    names = encoders if names is None else names
    if len(names) != len(encoders):
        raise InputError(f"{len(names)} names for {len(encoders)} encoders: {', '.join(encoders)}")
    lines = [["", *names]]
    group = None
    for row in (*table.rows(results), *table.failed_rows(results)):
        if row.group != group:
            group = row.group
            lines.append([f"**{group}**", *("" for _ in names)])
        lines.append([row.label, *(cell.line for cell in row.cells)])
    return pages.table([[cell.replace("|", r"\|") for cell in line] for line in lines])


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = Parser(prog="python -m benchmarks.tables", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a results.json")
    parser.add_argument("--names", nargs="+", help="of the columns [the encoders' names]")
    return run_command(lambda: parser, argv, _main)


def _main(given: argparse.Namespace) -> int:
    results = joined(given.files)
    files = ", ".join(map(str, given.files))
    with damage_told(files, _REMEDY):
        text = markdown(results, given.names)
    answer(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
