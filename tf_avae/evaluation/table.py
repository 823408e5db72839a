"""The figures of an evaluation as rows of a table: a row a figure, a column an encoder."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tf_avae.evaluation.detection import KNOWING, PGD

Record = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A figure.

    Attributes:
        text: as shown.
        interval: its 95 % interval, as shown; empty where there is none.
        beside: a second figure, which the group's heading names; empty where there is none.
    """

    text: str
    interval: str = ""
    beside: str = ""

    @property
    def line(self) -> str:
        """All in one."""
        interval = f" [{self.interval}]" if self.interval else ""
        return self.text + interval + (f" / {self.beside}" if self.beside else "")


NONE = Cell("–")

_SAID = 20  # names of what is left out that a terminal shows


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
    made: list[Row] = []

    def add(group: str, label: str, section: str, read: Callable[[Record], Cell]) -> None:
        """A row; an encoder that lacks a section says why in `left_out`."""
        cells = [read(e[section]) if section in e else NONE for e in encoders]
        if any(cell is not NONE for cell in cells):
            made.append(Row(group, label, cells))

    for task in results["settings"]["tasks"]:
        for head in results["settings"]["heads"]:
            _through_head(results, task, head, partial(add, heading(results, task)))
        near = f"{results['settings']['neighbours']} nearest neighbours"
        add(heading(results, task), near, "probes", partial(_retrieval, task))
    for task in results["settings"]["tasks"]:
        group = f"{task}, attacks told by inconsistency: broken % / broken and not flagged %"
        for epsilon in sorted(results["settings"]["epsilons"]):
            _told(task, epsilon, partial(add, group))
    _beside(partial(add, "beside it"))
    return made


Add = Callable[[str, str, Callable[[Record], Cell]], None]
"""(label, section, how a cell is read from an encoder's section): adds a row to a group."""


def _through_head(results: dict[str, Any], task: str, head: str, add: Add) -> None:
    settings, data = results["settings"], results["data"]
    total = data.get("measured", {}).get(task, data["test_images"])
    radii = sorted(settings["epsilons"])
    add(f"{head}, nominal", "probes", lambda p: accuracy(p[task][head], "nominal"))
    add(f"{head}, nominal, ROC AUC", "probes", lambda p: area(p[task][head]["roc_auc"]))

    def first(robustness: Record) -> Record:
        return attacked(robustness, task, head, radii[0])["nominal"]

    def under(epsilon: float, robustness: Record) -> Cell:
        return accuracy(attacked(robustness, task, head, epsilon), "accuracy")

    def proved(epsilon: float, certified: Record) -> Cell:
        row = verified(certified, task, head, epsilon)
        return accuracy(row, "verified") if row else NONE

    counts = {first(e["robustness"])["count"] for e in results["encoders"] if "robustness" in e}
    for count in counts - {total}:
        # Below stand the first images alone, so their nominal accuracy stands above.
        add(f"{head}, nominal, first {count:,}", "robustness", lambda r: percent(first(r)))
    for epsilon in radii:
        label = f"{head}, {settings['budget']}, ε {epsilon:g}"
        add(label, "robustness", partial(under, epsilon))
        add(f"{head}, verified, ε {epsilon:g}", "certified", partial(proved, epsilon))


def _retrieval(task: str, probes: Record) -> Cell:
    found = probes[task]
    return percent(found["retrieval"]["accuracy"]) if "retrieval" in found else NONE


def _told(task: str, epsilon: float, add: Add) -> None:
    def cell(attack: str, read: Callable[[Record], Cell], detection: Record) -> Cell:
        found = told(detection, task, epsilon)
        return read(found[attack]) if found else NONE

    for attack in (PGD, KNOWING):
        label = f"ε {epsilon:g}, {attack}"
        add(label, "detection", partial(cell, attack, success))
        add(f"{label}, ROC AUC", "detection", partial(cell, attack, lambda a: area(a["auc"])))


def _beside(add: Add) -> None:
    add("checks passed", "checks", lambda c: Cell(passed(c)))
    add("active units", "latents", active_units)
    add("effective dimension", "latents", lambda v: Cell(f"{v['effective_dimension']:.1f}"))
    add("MSE: |x − g(μ(x))|²", "reconstruction", lambda r: number(r["mean_code"]["sum"]))
    add("MSE, per pixel value", "reconstruction", lambda r: number(r["mean_code"]["mean"]))
    add("log p(x) at least, nats", "likelihood", lambda v: number(v["importance_weighted"]))
    add("FID", "fid", lambda v: Cell(f"{v['value']:.2f}"))
    add("inconsistency W2²", "consistency", lambda v: number(v["inconsistency"]))
    add("time factor", "time_factor", lambda v: Cell(f"{v['value']:.2f}"))


def heading(results: dict[str, Any], task: str) -> str:
    """The heading of a task's rows, with how far a head gets that always says the same."""
    words = f"{task}, accuracy % / balanced accuracy %"
    for encoder in results["encoders"]:
        if "probes" in encoder:  # the same of each: it is the test images'
            return f"{words} (commonest class {100 * encoder['probes'][task]['majority']:.1f})"
    return words


def active_units(latents: Record) -> Cell:
    """How many latents are active, of how many; none where there are no variances to tell by."""
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


def verified(certified: Record, task: str, head: str, epsilon: float) -> Record | None:
    """What of an encoder is verified for a task, a head and a radius; nothing of a head that is not
    linear."""
    rows = certified["rows"]
    wanted = (task, head, epsilon)
    return next((r for r in rows if (r["task"], r["head"], r["epsilon"]) == wanted), None)


def attack_of(trial: str) -> str:
    """The attack that a trial is one of: "pgd-40" of "pgd-40/3"."""
    return trial.partition("/")[0]


def broken_by(row: Record) -> dict[str, int]:
    """How many images each attack of the budget broke that no trial before it had broken.

    Args:
        row: of an encoder's robustness.
    """
    after = row["accuracy_after"]
    found: dict[str, int] = {}
    for trial, before, left in zip(row["trials"], after[:-1], after[1:], strict=True):
        count = round((before - left) * row["accuracy"]["count"])
        found[attack_of(trial)] = found.get(attack_of(trial), 0) + count
    return found


def told(detection: Record, task: str, epsilon: float) -> dict[str, Record]:
    """What an encoder's detection found of each attack, by name, for a task and a radius; nothing
    where none of the images is measured."""
    rows = (r for r in detection["rows"] if (r["task"], r["epsilon"]) == (task, epsilon))
    return {attack["attack"]: attack for row in rows for attack in row["attacks"]}


def passed(checks: Record) -> str:
    """How many of the checks passed, of how many."""
    found = [check["passed"] for group in checks["groups"] for check in group["checks"]]
    return f"{sum(found)} of {len(found)}"


def failed(checks: Record) -> list[tuple[Record, Record]]:
    """The checks that failed, each after the group of task and head that it is of."""
    return [
        (group, check)
        for group in checks["groups"]
        for check in group["checks"]
        if not check["passed"]
    ]


def failed_rows(results: dict[str, Any]) -> list[Row]:
    """Rows of the checks that an encoder failed, with what was found; of the others, whether it
    passed the same check, or whether none was made of it at that radius.

    Args:
        results: of an `Evaluation`.
    """
    made: list[dict[str, Record]] = [
        {
            f"{of['task']}, {of['head']}, ε {of['epsilon']:g}, {check['name']}": check
            for of in (encoder["checks"]["groups"] if "checks" in encoder else ())
            for check in of["checks"]
        }
        for encoder in results["encoders"]
    ]

    def cell(check: Record | None) -> Cell:
        return NONE if check is None else Cell("passed" if check["passed"] else check["found"])

    labels = dict.fromkeys(
        label for of in made for label, check in of.items() if not check["passed"]
    )
    return [Row("failed check", label, [cell(of.get(label)) for of in made]) for label in labels]


def data_left_out(results: dict[str, Any]) -> list[tuple[str, str]]:
    """What of the data is not measured, and why."""
    return list(results.get("data", {}).get("left_out", {}).items())


def left_out(results: dict[str, Any]) -> list[tuple[str, str]]:
    """What of the data is not measured, and which sections of which encoder are not, and why."""
    return data_left_out(results) + [
        (f"{encoder['name']}, {section}", why)
        for encoder in results["encoders"]
        for section, why in encoder.get("left_out", {}).items()
    ]


def percent(estimate: Record | None) -> Cell:
    """A share in percent; none where it is of nothing."""
    if estimate is None:
        return NONE
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return Cell(f"{value:.1f}", f"{low:.1f}, {high:.1f}")


def accuracy(record: Record, key: str) -> Cell:
    """An accuracy in percent, and the balanced one beside it."""
    cell = percent(record[key])
    return Cell(cell.text, cell.interval, f"{100 * record['balanced']:.1f}")


def success(attack: Record) -> Cell:
    """The share of images that an attack breaks, and beside it that which it breaks unseen."""
    cell = percent(attack["success"])
    return Cell(cell.text, cell.interval, f"{100 * attack['undetected']['value']:.1f}")


def area(estimate: Record | None) -> Cell:
    """An area under the ROC curve; none where there is one class only."""
    if estimate is None:
        return NONE
    low, high = estimate["low"], estimate["high"]
    interval = "" if low is None else f"{low:.3f}, {high:.3f}"
    return Cell(f"{estimate['value']:.3f}", interval)


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
    said = [f"left out: {name}: {why}" for name, why in left_out(results)]
    if len(said) > _SAID:
        said[_SAID:] = [f"left out: {len(said) - _SAID:,} more, which results.json names"]
    if not table:
        return "\n".join(["no section that was asked for has a figure for this table", *said])
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
    return "\n".join([*lines, *said])
