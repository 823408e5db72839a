"""Measures and draws a solvable case: `python -m training.theory ppca --out DIR`."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tf_avae import plots
from tf_avae.backend import without_warnings
from tf_avae.config import check
from tf_avae.console.commands import Parser, run_command
from tf_avae.console.printing import say
from tf_avae.errors import InputError
from tf_avae.files import absolute, write_json, write_text
from tf_avae.provenance import provenance
from tf_avae.registry import Registry
from training.evaluate import writable_folder
from training.options import listed
from training.theory import circle, ppca, ppca_figures


class Case(NamedTuple):
    """A solvable case: what is measured, what is drawn, what is said."""

    name: str
    summary: str
    steps: int
    measure: Callable[[int, int], dict[str, Any]]
    figures: Callable[[dict[str, Any]], dict[str, plots.Figure]]
    page_values: Callable[[dict[str, Any]], dict[str, Any]]


CASES: Registry[Case] = Registry(
    "case",
    Case(
        "ppca", "probabilistic PCA (App. B)", steps=ppca.STEPS, measure=ppca.measure,
        figures=ppca_figures.figures, page_values=ppca.page_values,
    ),
    Case(
        "circle", "the discrete circle (App. D, Fig. 8)", steps=circle.STEPS,
        measure=circle.measure, figures=circle.figures, page_values=circle.page_values,
    ),
)  # fmt: skip

_LEAST_STEPS, _MOST_STEPS = 10, 10_000_000


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="python -m training.theory",
        description="Measures one of the paper's two solvable cases and writes its numbers "
        "(CASE.json), its figures (CASE-NAME.png and .svg) and a page that explains them "
        "(CASE.md). Files of those names are replaced, others left as they are.",
    )
    made.add_argument("case", metavar="{" + ",".join(CASES) + "}", help=listed(CASES))
    made.add_argument("--out", required=True, metavar="DIR", help="where to write; is made")
    defaults = ", ".join(f"{case.name} {case.steps}" for case in CASES.values())
    made.add_argument("--steps", type=int, metavar="N", help=f"of each training [{defaults}]")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of the first training [0]")
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    return run_command(parser, argv, _run)


def _run(arguments: argparse.Namespace) -> int:
    case = CASES[arguments.case]
    steps = case.steps if arguments.steps is None else arguments.steps
    if not _LEAST_STEPS <= steps <= _MOST_STEPS or steps % 10:
        raise InputError(
            f"steps is {steps}; it must be a multiple of 10 from {_LEAST_STEPS} to {_MOST_STEPS:,}"
        )
    check(seed=arguments.seed)
    if not arguments.out:
        raise InputError("--out is empty; give the folder to write to, such as theory")
    files = (f"{case.name}.json", f"{case.name}.md")
    folder = writable_folder(absolute(arguments.out), files)
    with without_warnings():  # each training is a graph of its own, which TensorFlow warns of
        numbers = case.measure(steps, arguments.seed)
    write(case, {**provenance(), **numbers}, folder)
    say(f"written: {folder / case.name}.md")
    return 0


def write(case: Case, numbers: dict[str, Any], folder: Path) -> None:
    """Writes the numbers of a case, its figures and its page."""
    write_json(folder / f"{case.name}.json", numbers)
    for name, figure in case.figures(numbers).items():
        plots.save(figure, folder, f"{case.name}-{name}")
    write_text(folder / f"{case.name}.md", page(case, numbers))


def page(case: Case, numbers: dict[str, Any]) -> str:
    """The page of a case, Markdown: its text with the numbers filled in."""
    text = Path(__file__).with_name(f"{case.name}.md").read_text(encoding="utf-8")
    return text.format_map(case.page_values(numbers))


if __name__ == "__main__":
    sys.exit(main())
