"""The charts of a report."""

import math
from typing import Any

from tf_avae import plots
from tf_avae.evaluation import table
from tf_avae.evaluation.detection import KNOWING, PGD
from tf_avae.plots import BLUE, GREEN, GREY, ORANGE, PINK, new_figure, plain, tidy, title

_STYLES = [
    (color, marker, dash)
    for dash in ("-", "--", ":")
    for color, marker in ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PINK, "D"), (GREY, "v"))
]


def accuracy(results: dict[str, Any], task: str) -> plots.Figure:
    """Accuracy of the first head for a task against the radius, under attack."""
    head = results["settings"]["heads"][0]
    radius = "ε, pixel values" if results["settings"]["norm"] == "linf" else "ε"
    figure, axes = _axes(f"{task}: accuracy under attack", radius, "accuracy, %")
    for number, encoder in enumerate(results["encoders"]):
        rows = encoder["robustness"]["rows"]
        rows = [row for row in rows if (row["task"], row["head"]) == (task, head)]
        estimates = [rows[0]["nominal"], *(row["accuracy"] for row in rows)]
        x = [0.0, *(row["epsilon"] for row in rows)]
        _line(axes, number, x, estimates, encoder["name"], 100.0)
    if "probes" in results["settings"]["sections"]:
        majority = 100 * results["encoders"][0]["probes"][task]["majority"]
        axes.axhline(majority, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate("commonest class", (1, majority), xycoords=("axes fraction", "data"),
                      ha="right", va="bottom", fontsize=7, color=GREY)  # fmt: skip
    axes.set_ylim(-3, 103)
    return _with_legend(figure, axes)


def shift(results: dict[str, Any]) -> plots.Figure:
    """How far the first distance's attack moves the mean, against the radius."""
    task = results["settings"]["tasks"][0]
    figure, axes = _axes(f"shift of the mean, in distances between classes of {task}", "ε", "shift")
    for number, encoder in enumerate(results["encoders"]):
        rows = [r for r in encoder["representation"]["rows"] if not r["targeted"]]
        rows = [r for r in rows if r["distance"] == rows[0]["distance"]]
        rows = [r for r in rows if r["tasks"][task]["shift"]]
        if rows:
            estimates = [r["tasks"][task]["shift"] for r in rows]
            name = f"{encoder['name']}, {rows[0]['distance']}"
            _line(axes, number, [r["epsilon"] for r in rows], estimates, name, 1.0)
    axes.set_ylim(bottom=0)
    return _with_legend(figure, axes)


def drift(encoders: list[dict[str, Any]], start: str, words: str) -> plots.Figure:
    """Squared distance from the start along the chain, and what the coupling allows, dotted."""
    figure, axes = _axes(f"drift along the chain, {words}", "turns", "|z_t − z_0|² / D")
    for number, encoder in enumerate(encoders):
        found = encoder["consistency"][start]
        turns = list(range(1, len(found["drift_sampled"]) + 1))
        _line(axes, number, turns, found["drift_sampled"], encoder["name"], 1.0)
        if found["expected"]:
            color = _STYLES[number % len(_STYLES)][0]
            axes.plot(turns, found["expected"], ":", color=color, linewidth=1)
    axes.set_ylim(bottom=0)
    return _with_legend(figure, axes)


def turns(encoders: list[dict[str, Any]]) -> plots.Figure:
    """W2^2 between the posteriors of a turn and the next."""
    figure, axes = _axes("W2² from turn to turn", "turn", "W2²")
    for number, encoder in enumerate(encoders):
        moved = encoder["consistency"]["data"]["w2"]
        _line(axes, number, list(range(2, len(moved) + 2)), moved, encoder["name"], 1.0)
    axes.set_yscale("log")
    return _with_legend(figure, axes)


def unseen(encoders: list[dict[str, Any]], task: str) -> plots.Figure:
    """Share of images broken and not flagged against the radius: by PGD, and dashed by attackers
    who know of the score."""
    figure, axes = _axes(f"{task}: broken and not flagged", "ε", "images, %")
    _attackers(axes, encoders, task, "undetected", 100.0)
    axes.set_ylim(-3, 103)
    return _with_legend(figure, axes)


def told(encoders: list[dict[str, Any]], task: str) -> plots.Figure:
    """Area under the ROC curve against the radius: of PGD, and dashed of the best of the
    attackers who know of the score."""
    figure, axes = _axes(f"{task}: attacks told by inconsistency", "ε", "ROC AUC")
    _attackers(axes, encoders, task, "auc", 1.0)
    axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_ylim(-0.03, 1.03)
    return _with_legend(figure, axes)


def _attackers(
    axes: plots.Axes, encoders: list[dict[str, Any]], task: str, figure: str, scale: float
) -> None:
    """A figure of detection against the radius, of PGD and, dashed, of those who know."""
    for number, encoder in enumerate(encoders):
        found = encoder["detection"]
        radii = [row["epsilon"] for row in found["rows"] if row["task"] == task]
        for attack, dash in ((PGD, "-"), (KNOWING, "--")):
            estimates = [table.told(found, task, epsilon)[attack][figure] for epsilon in radii]
            _line(axes, number, radii, estimates, f"{encoder['name']}, {attack}", scale, dash)


def usage(encoders: list[dict[str, Any]]) -> plots.Figure:
    """KL to the prior of each latent, largest first."""
    figure, axes = _axes("information in each latent", "latent, by KL", "KL to the prior, nats")
    for number, encoder in enumerate(encoders):
        color, _, dash = _STYLES[number % len(_STYLES)]
        values = encoder["latents"]["kl"]
        at = range(1, len(values) + 1)
        axes.plot(at, values, dash, color=color, label=plain(encoder["name"]))
    axes.set_ylim(bottom=0)
    return _with_legend(figure, axes)


def _axes(heading: str, x: str, y: str) -> tuple[plots.Figure, plots.Axes]:
    figure = new_figure(5.2, 3.4)
    axes = figure.add_subplot()
    title(axes, heading)
    tidy(axes, x, y)
    return figure, axes


def _with_legend(figure: plots.Figure, axes: plots.Axes) -> plots.Figure:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)
    return figure


def _line(
    axes: plots.Axes, number: int, x: list, estimates: list[dict], name: str, unit: float,
    dash: str | None = None,
) -> None:  # fmt: skip
    color, marker, usual = _STYLES[number % len(_STYLES)]
    values, low, high = (
        [math.nan if e[key] is None else unit * e[key] for e in estimates]
        for key in ("value", "low", "high")
    )
    axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    axes.plot(x, values, dash or usual, color=color, marker=marker, markersize=4, label=plain(name))
