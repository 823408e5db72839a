"""The charts of a report."""

import math
import textwrap
from typing import Any

from tf_avae import plots
from tf_avae.evaluation import table
from tf_avae.evaluation.detection import KNOWING, PGD
from tf_avae.plots import BLUE, GREEN, GREY, ORANGE, PINK, plain, tidy, title

_STYLES = [
    (color, marker, dash)
    for dash in ("-", "--", ":")
    for color, marker in ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PINK, "D"), (GREY, "v"))
]

_LABEL = 48  # characters of a label in one line under a chart


def accuracy(results: dict[str, Any], task: str) -> plots.Figure:
    """Accuracy of the first head for a task against the radius: under attack and, dashed, what of
    it is verified; between the two nothing is known."""
    head = results["settings"]["heads"][0]
    radius = "ε, pixel values" if results["settings"]["norm"] == "linf" else "ε"
    figure, axes = _axes(f"{task}: accuracy under attack", radius, "accuracy, %")
    for number, encoder in enumerate(results["encoders"]):
        if "robustness" not in encoder:
            continue
        rows = encoder["robustness"]["rows"]
        rows = [row for row in rows if (row["task"], row["head"]) == (task, head)]
        estimates = [rows[0]["nominal"], *(row["accuracy"] for row in rows)]
        x = [0.0, *(row["epsilon"] for row in rows)]
        _line(axes, number, x, estimates, encoder["name"], 100.0)
        proved = [
            table.verified(encoder["certified"], task, head, epsilon)
            if "certified" in encoder
            else None
            for epsilon in x[1:]
        ]
        if all(proved):
            lower = [rows[0]["nominal"], *(row["verified"] for row in proved if row)]
            _between(axes, number, x, lower, estimates)
    if "probes" in results["settings"]["sections"]:
        majority = 100 * results["encoders"][0]["probes"][task]["majority"]
        axes.axhline(majority, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate("commonest class", (1, majority), xycoords=("axes fraction", "data"),
                      xytext=(0, 1), textcoords="offset points",
                      ha="right", va="bottom", fontsize=8, color=GREY)  # fmt: skip
    axes.set_ylim(-3, 103)
    return _with_legend(figure, axes)


def shift(results: dict[str, Any]) -> plots.Figure:
    """How far the first distance's attack moves the mean, against the radius."""
    task = results["settings"]["tasks"][0]
    radii = sorted(results["settings"]["epsilons"])
    figure, axes = _radial_axes(radii, f"shift of the mean, by {task}", "distances between classes")
    for number, encoder in enumerate(results["encoders"]):
        if "representation" not in encoder:
            continue
        rows = [r for r in encoder["representation"]["rows"] if not r["targeted"]]
        rows = [r for r in rows if r["distance"] == rows[0]["distance"]]
        rows = [r for r in rows if r["tasks"][task]["shift"]]
        if rows:
            estimates = [r["tasks"][task]["shift"] for r in rows]
            name = f"{encoder['name']}, {rows[0]['distance']}"
            _line(axes, number, _places(number, radii), estimates, name, 1.0)
    _from_zero(axes)
    return _with_legend(figure, axes)


def drift(encoders: list[dict[str, Any]], start: str, words: str) -> plots.Figure:
    """Squared distance from the start along the chain, and what the coupling allows, dotted."""
    figure, axes = _axes(f"drift along the chain, {words}", "turns", "|z_t − z_0|² / D")
    axes.locator_params(axis="x", integer=True)
    for number, encoder in enumerate(encoders):
        found = encoder["consistency"][start]
        turns = list(range(1, len(found["drift_sampled"]) + 1))
        _line(axes, number, turns, found["drift_sampled"], encoder["name"], 1.0)
        if found["expected"]:
            color = _STYLES[number % len(_STYLES)][0]
            axes.plot(turns, found["expected"], ":", color=color, linewidth=1)
    _from_zero(axes)
    return _with_legend(figure, axes)


def turns(encoders: list[dict[str, Any]]) -> plots.Figure:
    """W2^2 between the posteriors of a turn and the next."""
    figure, axes = _axes("W2² from turn to turn", "turn", "W2²")
    axes.locator_params(axis="x", integer=True)
    for number, encoder in enumerate(encoders):
        moved = encoder["consistency"]["data"]["w2"]
        _line(axes, number, list(range(2, len(moved) + 2)), moved, encoder["name"], 1.0)
    axes.set_yscale("log")
    return _with_legend(figure, axes)


def unseen(encoders: list[dict[str, Any]], task: str) -> plots.Figure:
    """Share of images broken and not flagged against the radius: by PGD, and dashed by attackers
    who know of the score."""
    figure, axes = _against_attackers(
        encoders, task, f"{task}: broken and not flagged", "images, %", "undetected", 100.0
    )
    axes.set_ylim(-3, 103)
    return _with_legend(figure, axes)


def told(encoders: list[dict[str, Any]], task: str) -> plots.Figure:
    """Area under the ROC curve against the radius: of PGD, and dashed of the best of the
    attackers who know of the score."""
    figure, axes = _against_attackers(
        encoders, task, f"{task}: attacks told by inconsistency", "ROC AUC", "auc", 1.0
    )
    axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_ylim(-0.03, 1.03)
    return _with_legend(figure, axes)


def _against_attackers(
    encoders: list[dict[str, Any]], task: str, heading: str, y: str, key: str, unit: float
) -> tuple[plots.Figure, plots.Axes]:
    """What detection found against the radius: of PGD and, dashed, of those who know."""
    rows = encoders[0]["detection"]["rows"]
    radii = [row["epsilon"] for row in rows if row["task"] == task]
    figure, axes = _radial_axes(radii, heading, y)
    for number, encoder in enumerate(encoders):
        for attack, dash in ((PGD, "-"), (KNOWING, "--")):
            estimates = [table.told(encoder["detection"], task, e)[attack][key] for e in radii]
            name = encoder["name"] if attack == PGD else ""
            _line(axes, number, _places(number, radii), estimates, name, unit, dash)
    return figure, axes


def usage(encoders: list[dict[str, Any]]) -> plots.Figure:
    """KL to the prior of each latent, largest first."""
    figure, axes = _axes("information in each latent", "latent, by KL", "KL to the prior, nats")
    axes.locator_params(axis="x", integer=True)
    for number, encoder in enumerate(encoders):
        color, _, dash = _STYLES[number % len(_STYLES)]
        values = encoder["latents"]["kl"]
        at = range(1, len(values) + 1)
        axes.plot(at, values, dash, color=color, label=_label(encoder["name"]))
    _from_zero(axes)
    return _with_legend(figure, axes)


def _axes(heading: str, x: str, y: str) -> tuple[plots.Figure, plots.Axes]:
    # As wide as a phone, so that no word is made smaller there; the page gives the background.
    figure = plots.new_figure(4.0, 2.8)
    axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    title(axes, heading)
    tidy(axes, x, y)
    return figure, axes


def _radial_axes(radii: list[float], heading: str, y: str) -> tuple[plots.Figure, plots.Axes]:
    """Axes for `_places`."""
    if len(radii) > 1:
        figure, axes = _axes(heading, "ε", y)
        axes.set_xlim(0, 1.03 * max(radii))
    else:
        figure, axes = _axes(heading, "".join(f"ε = {radius:g}" for radius in radii), y)
        axes.set_xticks([])
    return figure, axes


def _places(number: int, radii: list[float]) -> list[float]:
    """Where an encoder's figures stand: at the radii; of one radius, side by side with others'."""
    return radii if len(radii) > 1 else [float(number)] * len(radii)


def _from_zero(axes: plots.Axes) -> None:
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])


def _label(name: str) -> str:
    return plain(textwrap.fill(name, _LABEL))


def _with_legend(figure: plots.Figure, axes: plots.Axes) -> plots.Figure:
    labels = axes.get_legend_handles_labels()[1]
    columns = 2 if all(len(label) < _LABEL // 2 for label in labels) else 1
    lines = sum(1 + label.count("\n") for label in labels) / columns
    figure.set_figheight(figure.get_figheight() + 0.17 * lines)
    plots.legend_below(figure, columns)
    return figure


def _between(axes: plots.Axes, number: int, x: list, lower: list[dict], upper: list[dict]) -> None:
    """Two estimates, in percent, between which the truth is; the lower one dashed and hollow."""
    color, marker, _ = _STYLES[number % len(_STYLES)]
    low, high = ([100 * e["value"] for e in estimates] for estimates in (lower, upper))
    # Hatched, for intervals are filled.
    axes.fill_between(
        x, low, high, facecolor="none", edgecolor=color, alpha=0.45, linewidth=0, hatch="////"
    )
    axes.plot(x, low, "--", color=color, marker=marker, markersize=5, markerfacecolor="none")


def _line(
    axes: plots.Axes, number: int, x: list, estimates: list[dict], name: str, unit: float,
    dash: str | None = None,
) -> None:  # fmt: skip
    """Estimates and their intervals; without a name, hollow and not in the legend."""
    color, marker, usual = _STYLES[number % len(_STYLES)]
    values, low, high = (
        [math.nan if e[key] is None else unit * e[key] for e in estimates]
        for key in ("value", "low", "high")
    )
    if len(x) > 1:
        axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    else:  # a band would have no width
        axes.vlines(x, low, high, color=color)
    face: dict[str, Any] = {"label": _label(name)} if name else {"markerfacecolor": "none"}
    axes.plot(x, values, dash or usual, color=color, marker=marker, markersize=5, **face)
