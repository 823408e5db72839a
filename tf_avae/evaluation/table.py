"""The figures of an evaluation as rows of a table: a row a figure, a column an encoder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tf_avae.probes import HEADS

Record = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A figure.

    Attributes:
        text: as shown.
        interval: its 95 % interval, as shown; empty where there is none.
    """

    text: str
    interval: str = ""

    @property
    def line(self) -> str:
        """Both in one."""
        return f"{self.text} [{self.interval}]" if self.interval else self.text


NONE = Cell("–")


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        group: the heading it stands under.
        label: what it is.
        cells: one for each encoder.
    """

    group: str
    label: str
    cells: list[Cell]


def rows(results: dict[str, Any]) -> list[Row]:
    """The table in the form of the paper's Table 3, turned: tasks and radii down, encoders across.

    Args:
        results: of an `Evaluation`.
    """
    encoders = results["encoders"]
    budget = results["settings"]["budget"]
    made: list[Row] = []

    def add(group: str, label: str, section: str, read: Callable[[Record], Cell]) -> None:
        """A row; an encoder that lacks a section says why in `left_out`."""
        cells = [read(e[section]) if section in e else NONE for e in encoders]
        if any(cell is not NONE for cell in cells):
            made.append(Row(group, label, cells))

    for task in results["settings"]["tasks"]:
        described = encoders[0]["probes"][task]
        group = f"{task}, accuracy % (commonest class {100 * described['majority']:.1f})"
        for head in HEADS:
            add(group, f"{head}, nominal", "probes", lambda p: percent(p[task][head]["nominal"]))  # noqa: B023
            radii = sorted(results["settings"]["epsilons"])
            attack = attacked(encoders[0]["robustness"], task, head, radii[0])
            count = attack["nominal"]["count"]
            if count < results["data"]["test_images"]:
                # Below stand the first images alone, so their nominal accuracy stands above.
                add(group, f"{head}, nominal, first {count:,}", "robustness",
                    lambda r: percent(attacked(r, task, head, radii[0])["nominal"]))  # noqa: B023  # fmt: skip
            for epsilon in radii:
                where = (task, head, epsilon)
                add(group, f"{head}, {budget}, ε {epsilon:g}", "robustness",
                    lambda r: percent(attacked(r, *where)["accuracy"]))  # noqa: B023  # fmt: skip
        count = described["retrieval"]["neighbours"]
        add(group, f"{count} nearest neighbours", "probes",
            lambda p: percent(p[task]["retrieval"]["accuracy"]))  # noqa: B023  # fmt: skip

    def beside(label: str, section: str, read: Callable[[Record], Cell]) -> None:
        add("beside it", label, section, read)

    beside("checks passed", "checks", lambda c: Cell(passed(c)))
    beside("active units", "latents", _active_units)
    beside("effective dimension", "latents", lambda v: Cell(f"{v['effective_dimension']:.1f}"))
    for label, convention in (("MSE: |x − g(μ(x))|²", "sum"), ("MSE, per pixel value", "mean")):
        beside(label, "reconstruction", lambda r: number(r["mean_code"][convention]))  # noqa: B023
    beside("log p(x) at least, nats", "likelihood", lambda v: number(v["importance_weighted"]))
    beside("FID", "fid", lambda v: Cell(f"{v['value']:.2f}"))
    beside("inconsistency W2²", "consistency", lambda v: number(v["inconsistency"]))
    beside("time factor", "time_factor", lambda v: Cell(f"{v['value']:.2f}"))
    return made


def _active_units(latents: Record) -> Cell:
    if "active_units" not in latents:
        return NONE
    return Cell(f"{latents['active_units']} of {latents['latents']}")


def attacked(robustness: Record, task: str, head: str, epsilon: float) -> Record:
    """The row of an encoder's robustness for a task, a head and a radius."""
    return next(
        row
        for row in robustness["rows"]
        if (row["task"], row["head"], row["epsilon"]) == (task, head, epsilon)
    )


def passed(checks: Record) -> str:
    """How many of the checks passed, of how many."""
    found = [check["passed"] for group in checks["groups"] for check in group["checks"]]
    return f"{sum(found)} of {len(found)}"


def percent(estimate: Record) -> Cell:
    """A share in percent."""
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return Cell(f"{value:.1f}", f"{low:.1f}, {high:.1f}")


def number(estimate: Record) -> Cell:
    """A mean to four digits."""
    if estimate["value"] is None:
        return Cell("not finite")
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    return Cell(f"{value:.4g}", f"{low:.4g}, {high:.4g}")


def text(results: dict[str, Any]) -> str:
    """The table for a terminal."""
    names = [encoder["name"] for encoder in results["encoders"]]
    table = rows(results)
    label = max(len(row.label) for row in table) + 2
    widths = [
        max(len(name), *(len(row.cells[i].line) for row in table)) for i, name in enumerate(names)
    ]
    heads = "  ".join(name.rjust(width) for name, width in zip(names, widths, strict=True))
    lines = [" " * (label + 2) + heads]
    group = ""
    for row in table:
        if row.group != group:
            group = row.group
            lines.append(group)
        cells = (c.line.rjust(width) for c, width in zip(row.cells, widths, strict=True))
        lines.append("  " + row.label.ljust(label) + "  ".join(cells))
    return "\n".join(lines)
