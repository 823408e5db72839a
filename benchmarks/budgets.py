"""What each trial of a budget adds and costs, and what others would add after it.

`python -m benchmarks.budgets ENCODER ...` attacks the first test images of ColorMNIST through a
linear probe, for each encoder, with a budget; and then, from what it leaves, with each candidate
alone. What adds nothing to any encoder does not belong into the budget; what adds does.
"""

import argparse
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evaluation import probed
from tf_avae.config import read_json
from tf_avae.console.commands import Parser, add_trust, run_command
from tf_avae.console.printing import answer
from tf_avae.errors import InputError
from tf_avae.evaluation import BUDGETS, Budget, Outcomes, worst_case
from tf_avae.evaluation.robustness import Stand
from tf_avae.evaluation.trial_graphs import TrialGraphs
from tf_avae.evaluation.trials import (
    Extent,
    Trial,
    apgd_trial,
    class_trial,
    flat_trial,
    margin_trial,
    pgd_trial,
    square_trial,
    warm_trial,
)
from tf_avae.files import write_json
from tf_avae.provenance import provenance
from tf_avae.records import damage_told
from training.options import add_choice

BALL = "linf"

BEFORE = Budget(
    "strong before",
    "what `strong` was until it was composed by measurement",
    (pgd_trial(40, 10), apgd_trial(100), class_trial(100, 9), margin_trial(100),
     square_trial(5000)),
)  # fmt: skip

CANDIDATES: tuple[Trial, ...] = (
    pgd_trial(40, 10),
    flat_trial(40),
    apgd_trial(100),
    class_trial(100, 9),
    square_trial(5000, warm=True),
    warm_trial(8, nearest=0.25),
)


Row = dict[str, Any]


def measure(
    encoder: str, task: str, epsilon: float, budget: Budget, count: int, trust: bool
) -> Row:
    """What a budget's trials break of an encoder's first test images, and what each candidate
    would break of those that it leaves.

    Returns:
        "nominal" and "left", numbers of images; "trials" and "candidates", rows of "trial",
        "broken", "steps" (gradient steps over the number of images) and "seconds".
    """
    classify, probe, images, labels = probed(encoder, task, count, trust=trust)
    graphs = TrialGraphs()

    def attacked(trials: tuple[Trial, ...], earlier: Outcomes | None) -> tuple[Outcomes, list[Row]]:
        rows: list[Row] = []
        for trial in trials:
            began = time.perf_counter()
            work: list[float] = []
            found = worst_case(
                classify, images, labels, epsilon=epsilon, budget=Budget("one", "", (trial,)),
                earlier=earlier, graphs=graphs, progress=partial(_note, work),
            )  # fmt: skip
            stood = len(images) if earlier is None else int(earlier.survived.sum())
            rows.append({
                "trial": trial.name,
                "broken": stood - int(found.survived.sum()),
                "steps": max(work) / len(images),
                "seconds": time.perf_counter() - began,
            })  # fmt: skip
            earlier = found._replace(trials=())
        return found, rows

    # A trial that such a classifier does not need is left out.
    extent = Extent(len(probe.classes), images.shape[3])
    made = dict.fromkeys(search.trial for search in budget.plan(extent, BALL))
    found, rows = attacked(tuple(made), None)
    rows[0]["broken"] -= int(np.sum(~found.clean))
    candidates = [attacked((trial,), found._replace(trials=()))[1][0] for trial in CANDIDATES]
    return {
        "encoder": encoder, "task": task, "epsilon": epsilon, "budget": budget.name,
        "images": len(images), "nominal": int(found.clean.sum()), "left": int(found.survived.sum()),
        "trials": rows, "candidates": candidates,
    }  # fmt: skip


def _note(work: list[float], stand: Stand) -> None:
    work.append(stand.done)


def markdown(rows: list[Row]) -> str:
    """A table for each budget: what each trial breaks, in percent of the images, in how many
    gradient steps an image. Seconds are left out: what else the machine did is in them."""
    tables = []
    for budget in dict.fromkeys(row["budget"] for row in rows):
        of = [row for row in rows if row["budget"] == budget]
        made, then = (
            list(dict.fromkeys(trial["trial"] for row in of for trial in row[kind]))
            for kind in ("trials", "candidates")
        )
        heads = [f"`{budget}`", "ε", "images", "right", *(f"`{name}`" for name in made), "left",
                 *(f"then `{name}`" for name in then)]  # fmt: skip
        lines = [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
        for row in of:
            cells = [
                f"`{row['encoder']}`, {row['task']}", f"{row['epsilon']:g}", str(row["images"]),
                _share(row, row["nominal"]), *_cells(row, "trials", made),
                f"{_share(row, row['left'])} in {_steps(row)}", *_cells(row, "candidates", then),
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _cells(row: Row, kind: str, names: list[str]) -> list[str]:
    cells = {
        trial["trial"]: f"{_share(row, trial['broken'])} in {trial['steps']:,.0f}"
        for trial in row[kind]
    }
    return [cells.get(name, "–") for name in names]


def _steps(row: Row) -> str:
    return f"{sum(trial['steps'] for trial in row['trials']):,.0f}"


def _share(row: Row, count: int) -> str:
    return f"{100 * count / row['images']:.1f}"


def lines(row: Row) -> list[str]:
    """A measurement as text."""
    made = [
        f"{row['encoder']}, {row['task']}, ε {row['epsilon']:g}, {row['images']} images: nominal "
        f"{_share(row, row['nominal'])} %, {row['budget']} leaves {_share(row, row['left'])} % "
        f"after {_steps(row)} steps an image"
    ]
    for kind, rows in (("", row["trials"]), ("then ", row["candidates"])):
        made += [
            f"  {kind + trial['trial']:22} breaks {_share(row, trial['broken']):>5} % in "
            f"{trial['steps']:7,.0f} steps an image, {trial['seconds']:6.1f} s"
            for trial in rows
        ]
    return made


def parser() -> Parser:
    """The command line."""
    made = Parser(prog="python -m benchmarks.budgets", description=(__doc__ or "").split("\n")[0])
    made.add_argument("encoder", nargs="*", help="runs, SavedModels, Keras models, or names")
    made.add_argument("--task", nargs="+", default=["digit", "color"], metavar="NAME")
    made.add_argument("--epsilon", type=float, nargs="+", default=[0.1], metavar="X")
    add_choice(made, "--budget", BUDGETS, "strong", "what is measured")
    made.add_argument("--before", action="store_true", help=f"measure {BEFORE.summary} instead")
    made.add_argument("--images", type=int, default=500, metavar="N")
    made.add_argument("--json", type=Path, help="where to write the figures")
    made.add_argument("--from", dest="source", metavar="FILE", help="only print its tables")
    add_trust(made)
    return made


def main(argv: list[str] | None = None) -> int:
    """Prints what was found for each encoder, task and radius; writes it as JSON where asked."""
    return run_command(parser, argv, _main)


def _main(given: argparse.Namespace) -> int:
    if bool(given.encoder) == bool(given.source):
        raise InputError("give encoders, such as colormnist-robust, or --from FILE")
    if given.source:
        kept = read_json(given.source)
        with damage_told(given.source, "measure again"):
            answer(markdown(kept["rows"]))
        return 0
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)  # before the work
    rows, budget = [], BEFORE if given.before else BUDGETS[given.budget]
    for encoder, task, epsilon in product(given.encoder, given.task, given.epsilon):
        rows.append(measure(encoder, task, epsilon, budget, given.images, given.trust))
        for line in lines(rows[-1]):
            answer(line)
        if given.json:
            write_json(given.json, {"rows": rows, **provenance()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
