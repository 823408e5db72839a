"""Many runs and evaluations as one piece of work: `python -m training.sweep SWEEP`."""

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tf_avae import plots
from tf_avae.console.commands import Parser, run_command, words
from tf_avae.console.printing import answer, say
from tf_avae.console.progress import duration
from tf_avae.errors import InputError
from tf_avae.files import absolute, shown, write_json, write_text
from tf_avae.registry import Registry, unknown
from training.signals import Interrupted, StopSignals
from training.sweep import models
from training.sweep.cells.declaration import Cell, Declaration
from training.sweep.cells.engine import run_cells
from training.sweep.cells.folder import DONE, RUNNING, SweepFolder
from training.sweep.cells.places import add_place_options, check_place, place_of
from training.sweep.cells.screen import estimate
from training.sweep.colormnist import chart as colormnist_chart
from training.sweep.colormnist import figures as colormnist_figures
from training.sweep.colormnist import known as colormnist_known
from training.sweep.colormnist import page as colormnist_page
from training.sweep.colormnist import study as colormnist
from training.sweep.precision import chart as precision_chart
from training.sweep.precision import figures as precision_figures
from training.sweep.precision import page as precision_page
from training.sweep.precision import study as precision
from training.sweep.table3 import chart as table3_chart
from training.sweep.table3 import figures as table3_figures
from training.sweep.table3 import page as table3_page
from training.sweep.table3 import study as table3

FAILED_CELLS = 1
"""Exit code where a cell failed."""


@dataclass(frozen=True)
class Sweep:
    """A kind of sweep.

    Attributes:
        name: the row's name.
        summary: for `--help`.
        add_options: adds its flags.
        place: the default folder, for `--help`.
        folder: its flags to the name of the default folder in sweeps.
        declare: its flags and folder to its cells; writes nothing.
        check: checks its input before anything is written; raises `InputError`.
        collect: the figures of the cells that are done, JSON values.
        page: the table of such values, Markdown.
        picture: the same as a picture, which the page shows as NAME.png.
        prepare: makes what its cells share, once.
    """

    name: str
    summary: str
    place: str
    add_options: Callable[[Parser], None]
    folder: Callable[[argparse.Namespace], str]
    declare: Callable[[argparse.Namespace, Path], Declaration]
    check: Callable[[SweepFolder], None]
    collect: Callable[[SweepFolder], dict[str, Any]]
    page: Callable[[dict[str, Any]], str]
    picture: Callable[[dict[str, Any]], plots.Figure]
    prepare: Callable[[SweepFolder], None] = lambda sweep: None


SWEEPS: Registry[Sweep] = Registry(
    "sweep",
    Sweep(
        "table3",
        "the paper's Table 3: six models on CelebA, 17 tasks, beside the paper's figures",
        place="sweeps/table3-SCALE",
        add_options=table3.add_options,
        folder=lambda options: f"table3-{options.scale}",
        declare=table3.declare,
        check=table3.check_data,
        prepare=table3.prepare,
        collect=table3_figures.collect,
        page=table3_page.page,
        picture=table3_chart.chart,
    ),
    Sweep(
        "precision",
        "the same training in float32, bfloat16 and float16, on ColorMNIST, over seeds",
        place="sweeps/precision-ARCH",
        add_options=precision.add_options,
        folder=precision.default_folder,
        declare=precision.declare,
        check=models.check_data,
        collect=precision_figures.collect,
        page=precision_page.page,
        picture=precision_chart.chart,
    ),
    Sweep(
        "colormnist",
        "the objectives and their settings side by side on ColorMNIST, over seeds",
        place="sweeps/colormnist-GRID",
        add_options=colormnist.add_options,
        folder=lambda options: f"colormnist-{options.grid}",
        declare=colormnist.declare,
        check=colormnist_known.check,
        collect=colormnist_figures.collect,
        page=colormnist_page.page,
        picture=colormnist_chart.chart,
    ),
)


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="python -m training.sweep",
        description="Trains and evaluates many models as one piece of work. Stopped or killed at "
        "any point, the same command goes on; begun several times, the processes share the work.",
    )
    kinds = made.add_subparsers(dest="sweep", required=True, metavar="SWEEP")
    for sweep in SWEEPS.values():
        one = kinds.add_parser(sweep.name, help=sweep.summary, description=sweep.summary)
        where = one.add_argument_group("the sweep")
        where.add_argument("--out", metavar="DIR", help=f"its folder [{sweep.place}]")
        where.add_argument(
            "--only", nargs="+", metavar="CELL", help="these cells and what they need [all]"
        )
        where.add_argument(
            "--dry-run", action="store_true", help="list the cells and how far they are; no work"
        )
        where.add_argument(
            "--table",
            action="store_true",
            help="print the table of what there is in --out, as it was declared; no work",
        )
        add_place_options(one)
        sweep.add_options(one)
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return run_command(parser, argv, _sweep)


def _sweep(arguments: argparse.Namespace) -> int:
    kind = SWEEPS[arguments.sweep]
    check_place(arguments)
    if arguments.out == "":
        raise InputError("--out is empty; give the sweep's folder, such as sweeps/mine")
    path = absolute(arguments.out or Path("sweeps", kind.folder(arguments)))
    if arguments.table:
        sweep = SweepFolder.open(path)
        if sweep.declaration.sweep != kind.name:
            raise InputError(f"{path} holds the sweep {sweep.declaration.sweep}, not {kind.name}")
        answer(kind.page(kind.collect(sweep)), end="")
        return 0
    declaration = kind.declare(arguments, path)
    sweep = SweepFolder.planned(path, declaration)
    cells = _chosen(sweep, arguments.only)
    if arguments.dry_run:
        _list(sweep, cells, arguments.processes or 1)
        return 0
    kind.check(sweep)
    sweep = SweepFolder.create(path, declaration)
    try:
        with place_of(arguments) as place, StopSignals() as signals:
            kind.prepare(sweep)
            signals.check()
            outcome = run_cells(sweep, cells, place=place, signals=signals)
    except Interrupted as stop:
        say(f"stopped. To go on: {_command()}")
        return 128 + stop.signum
    values = kind.collect(sweep)
    page = kind.page(values)
    write_json(path / f"{kind.name}.json", values)
    plots.save(kind.picture(values), path, kind.name)
    write_text(path / f"{kind.name}.md", page)
    say("\n" + page)
    for name in outcome.failed:
        say(f"failed: {name} ({sweep.state(name).reason}); log: {shown(sweep.log(name))}")
    for name in outcome.left:
        say(f"not done: {name}, {sweep.state(name).reason}")
    say(f"table: {shown(path / kind.name)}.md, .json, .png, .svg")
    if outcome.failed or outcome.left:
        say(f"The same command tries again: {_command()}")
        return FAILED_CELLS
    return 0


def _chosen(sweep: SweepFolder, only: list[str] | None) -> list[Cell]:
    """The cells asked for, and what they need."""
    for name in only or ():
        if name not in sweep.cells:
            raise unknown("cell", name, list(sweep.cells))
    return sweep.with_needs(only or list(sweep.cells))


def _list(sweep: SweepFolder, cells: list[Cell], processes: int) -> None:
    """Prints how far each cell is, and how long what is left may take, so many at once."""
    states = {name: sweep.state(name) for name in sweep.cells}
    left = estimate(sweep, cells, states)
    width = max(len(cell.name) for cell in cells)
    done = sum(states[cell.name].name == DONE for cell in cells)
    words = left.words(processes) if done < len(cells) else "nothing left"
    say(f"{shown(sweep.path)}: {done} of {len(cells)} cells done, {words}")
    for cell in cells:
        state = states[cell.name]
        took = duration(state.seconds) if state.seconds else ""
        more = (
            f"about {duration(left.seconds[cell.name])} left" if cell.name in left.seconds else ""
        )
        reason = "" if state.name == RUNNING else state.reason
        line = f"  {cell.name:{width}}  {cell.kind:8}  {state.name:7}  {took:>8}  {more} {reason}"
        say(line.rstrip())


def _command() -> str:
    return shlex.join([shown(sys.executable), *words()[1:]])


if __name__ == "__main__":
    sys.exit(main())
