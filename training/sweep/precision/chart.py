"""The picture of the precision study: accuracy against the radius, and differences."""

from tf_avae.plots import BLUE, GREY, ORANGE, Axes, Figure, legend_below, new_figure, tidy, title
from training.sweep.models import PERCENT, Values
from training.sweep.precision.study import BASELINE, PRECISIONS
from training.sweep.seeds import half_width

_INCHES = (2.9, 2.5)
_STYLES = dict(zip(PRECISIONS, ((GREY, "o"), (BLUE, "s"), (ORANGE, "^")), strict=True))
_APART = 0.18
"""Between the precisions of a radius, whose distances are 1."""


def chart(values: Values) -> Figure:
    """For each objective a row, for each task two panels: accuracy, and its difference from
    float32 with the same seed; intervals are over seeds."""
    measures = [m for m in values["measures"] if m["unit"] == PERCENT]
    tasks = list(dict.fromkeys(m["task"] for m in measures)) or [""]
    algos = list(values["comparison"])
    figure = new_figure(2 * len(tasks) * _INCHES[0], len(algos) * _INCHES[1] + 0.4)
    panels = figure.subplots(len(algos), 2 * len(tasks), squeeze=False, sharex=True)
    for row, algo in zip(panels, algos, strict=True):
        for k, task in enumerate(tasks):
            at = [m for m in measures if m["task"] == task]
            accuracy, difference = row[2 * k : 2 * k + 2]
            title(accuracy, f"{algo}: {task}")
            title(difference, f"{algo}: {task}, less {BASELINE}'s")
            radius = "ε" if algo == algos[-1] else ""
            tidy(accuracy, radius, "accuracy, %")
            tidy(difference, radius, "points")
            accuracy.set_ylim(-3, 103)
            difference.axhline(0.0, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
            for number, precision in enumerate(PRECISIONS):
                found = values["comparison"][algo][precision]
                names = [m["name"] for m in at]
                _intervals(accuracy, number, precision, [found["over_seeds"][n] for n in names])
                if precision != BASELINE:
                    shown = [found["difference"][n] for n in names]
                    _intervals(difference, number, precision, shown)
            radii = [f"{m['epsilon']:g}" for m in at]
            for panel in (accuracy, difference):
                panel.set_xticks(range(len(at)), radii)
    legend_below(figure, len(PRECISIONS))
    return figure


def _intervals(axes: Axes, number: int, precision: str, estimates: list[Values | None]) -> None:
    """Means and their intervals, beside those of the other precisions."""
    color, marker = _STYLES[precision]
    there = [(x, e) for x, e in enumerate(estimates) if e is not None]
    if not there:
        return
    axes.errorbar(
        [x + (number - (len(PRECISIONS) - 1) / 2) * _APART for x, _ in there],
        [e["value"] for _, e in there],
        yerr=[half_width(e) or 0.0 for _, e in there],
        fmt=marker, color=color, markersize=4, linewidth=1, capsize=2, label=precision,
    )  # fmt: skip
