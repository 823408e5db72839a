"""What the pages of sweeps share, Markdown."""

from collections.abc import Iterable
from typing import Any

from tf_avae.config import ATTACK, MODEL, OBJECTIVE, OPTIMISATION, Config, fields_of
from tf_avae.console.progress import duration
from training.sweep.models import Values
from training.sweep.seeds import half_width

NONE = "–"
"""The cell of what is not there."""


class Notes:
    """Reasons for what is missing, numbered in the order in which they come up."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def missing(self, reason: str) -> str:
        """The cell that refers to a reason."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return f"{NONE} [{self.reasons.index(reason) + 1}]"

    def section(self) -> list[str]:
        """The part of a page that lists them; empty where there are none."""
        if not self.reasons:
            return []
        listed = "\n".join(f"- [{n}] {reason}" for n, reason in enumerate(self.reasons, 1))
        return ["## What is missing", listed]


def table(rows: list[list[str]]) -> str:
    """A table whose first row is its head; columns are padded, so that it reads well in a terminal
    too."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(c.ljust(w) if i == 0 else c.rjust(w)
                          for i, (c, w) in enumerate(zip(row, widths, strict=True))) + " |"
        for row in rows
    ]  # fmt: skip
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


def worded(estimate: Values | None, digits: int = 2, sign: str = "") -> str:
    """The cell of an estimate: its value and half of its interval, where it has one.

    Args:
        estimate: of `over_seeds` or `paired`; None where there is none.
        digits: after the point.
        sign: "+" for that of a difference.
    """
    if estimate is None:
        return NONE
    half = half_width(estimate)
    shown = f"{estimate['value']:{sign}.{digits}f}"
    return shown if half is None else f"{shown} ± {half:.{digits}f}"


def time_taken(seconds: float) -> str:
    """The cell of a time."""
    return duration(seconds) if seconds else NONE


def shared_options(configs: list[Values | None], but: Iterable[str] = (), of: str = "all") -> str:
    """The options that all models share and that are not the defaults, but for some; what says
    only where and how often something is written is left out too.

    Args:
        configs: of each model; None where it is not known.
        but: fields of `Config` that the page has elsewhere.
        of: whose they are, in words.
    """
    default: dict[str, Any] = Config().to_dict()
    groups = (MODEL, OBJECTIVE, ATTACK, OPTIMISATION)
    # A run may be older than an option.
    whole = [config and default | config for config in configs]
    first = whole[0] or {}
    shared = {
        name: first.get(name)
        for name in (name for group in groups for name in fields_of(group))
        if name not in but and all(c and c[name] == first[name] for c in whole)
    }
    other = [f"{name} {value}" for name, value in shared.items() if value != default[name]]
    return f"Options of {of} that are not the defaults: {', '.join(other) or 'none'}."


def provenance(values: Values) -> str:
    """Where figures come from: command, commit, versions, machine and data."""
    found = values["provenance"]
    versions = ", ".join(f"{name} {v}" for name, v in found["versions"].items() if v)
    lines = [
        f"- command: `{found['command']}`",
        f"- commit: {found['commit'] or 'not known'}",
        f"- versions: {versions}",
        f"- machine: {found['platform']}, {found['processors']} processors",
    ]
    if values["data"]:
        sums = ", ".join(f"{name} {digest}" for name, digest in values["data"]["checksums"].items())
        lines.append(f"- data: {values['data']['name']}; {sums}")
    return "\n".join(lines)
