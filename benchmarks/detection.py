"""What inconsistency tells of attacks: the table and the picture of docs/detection.md.

They are made of what `python -m training.evaluate RUN ... --section detection` wrote.
"""

import argparse
import sys
from itertools import product
from pathlib import Path
from typing import Any

from tf_avae.config import read_json
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import answer
from tf_avae.errors import InputError
from tf_avae.evaluation import charts, table
from tf_avae.evaluation.detection import KNOWING, NOISE, PGD
from tf_avae.files import write_bytes
from tf_avae.plots import rendered

_HEADS = ("encoder", "ε", "noise: ROC AUC", "flagged", "PGD: ROC AUC", "flagged", "broken",
          "and not flagged", "knowing: ROC AUC", "broken", "and not flagged")  # fmt: skip


def markdown(results: dict[str, Any]) -> str:
    """A row for each encoder, task and radius, and how many images are flagged that nobody
    attacked. The tasks are named where there are several."""
    tasks = results["settings"]["tasks"]
    lines = [f"| {' | '.join(_HEADS)} |", "|---|" + "--:|" * (len(_HEADS) - 1)]
    alarms = []
    for encoder in results["encoders"]:
        found = encoder["detection"]
        for task, epsilon in product(tasks, sorted(results["settings"]["epsilons"])):
            attacks = table.told(found, task, epsilon)
            noise, plain, knowing = (attacks[name] for name in (NOISE, PGD, KNOWING))
            cells = [
                f"`{encoder['name']}`" + f", {task}" * (len(tasks) > 1), f"{epsilon:g}",
                *(_area(noise["auc"]), _share(noise["flagged"])),
                *(_area(plain["auc"]), _share(plain["flagged"])),
                *(_share(plain["success"]), f"**{_share(plain['undetected'])}**"),
                _area(knowing["auc"]),
                *(_share(knowing["success"]), f"**{_share(knowing['undetected'])}**"),
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        alarms.append(f"`{encoder['name']}` {table.percent(found['false_alarms']).line}")
    first = results["encoders"][0]["detection"]
    return "\n".join(
        [
            *lines,
            "",
            f"Of the {first['images']:,} attacked images as they are, flagged, in percent: "
            f"{'; '.join(alarms)}.",
        ]
    )


def _share(estimate: dict[str, Any]) -> str:
    return f"{table.percent(estimate).text} %"


def _area(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.2f}"


def main(argv: list[str] | None = None) -> int:
    """Prints the table, and draws the picture where asked."""
    parser = Parser(
        prog="python -m benchmarks.detection", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--from", dest="source", type=Path, required=True, help="a results.json")
    parser.add_argument(
        "--picture", type=Path, help="where to write the chart of the first task, as PNG"
    )
    return run_command(lambda: parser, argv, _main)


def _main(given: argparse.Namespace) -> int:
    results = read_json(given.source)
    for encoder in results.get("encoders", ()):
        if "detection" in encoder.get("left_out", ()):
            why = encoder["left_out"]["detection"]
            raise InputError(f"{given.source}: detection of {encoder['name']} was left out ({why})")
    try:
        text = markdown(results)
        chart = charts.unseen(results["encoders"], results["settings"]["tasks"][0])
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{given.source} has no results of an evaluation with --section detection ({error!r})"
        ) from error
    answer(text)
    if given.picture:
        write_bytes(given.picture, rendered(chart, "png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
