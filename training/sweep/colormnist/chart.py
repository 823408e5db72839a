"""The picture of a grid on ColorMNIST: accuracy against the radius, or setting by setting."""

import itertools

from tf_avae import plots
from tf_avae.plots import (
    BLUE,
    GOLD,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    new_figure,
    plain,
    tidy,
    title,
)
from training.sweep.colormnist.grids import GRIDS
from training.sweep.colormnist.measures import accuracies, proven
from training.sweep.colormnist.page import in_order, label, setting
from training.sweep.models import Values, at_radius
from training.sweep.seeds import half_width

_COLORS = {"vae": GREY, "avae": BLUE, "se": GREEN, "se_avae": ORANGE, "avae_ss": PINK,
           "adversarial_elbo": SKY, "certified_elbo": GOLD}  # fmt: skip
_MARKERS = {"vae": "o", "avae": "s", "se": "^", "se_avae": "D", "avae_ss": "v",
            "adversarial_elbo": "P", "certified_elbo": "X"}  # fmt: skip
_BETWEEN = 1.8
"""From the last row of an objective to the next one's first; rows are 1 apart."""
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1, 1, 1)), (0, (8, 3)))


def chart(values: Values) -> plots.Figure:
    """A panel for each task and head: curves, or where one setting at a time differs a row for each
    model."""
    first = values["settings"]["budgets"][0]
    shown = [m for m in (*accuracies(values), *proven(values)) if m["budget"] == first]
    if GRIDS[values["settings"]["grid"]].dots:
        return _dots(values, shown)
    return _curves(values, shown)


def _named(shown: list[Values], what: str) -> list[str]:
    return list(dict.fromkeys(m[what] for m in shown)) or [""]


def _curves(values: Values, shown: list[Values]) -> plots.Figure:
    tasks, heads = _named(shown, "task"), _named(shown, "head")
    figure = new_figure(4.3 * len(tasks), 2.9 * len(heads) + 0.7)
    panels = figure.subplots(len(heads), len(tasks), squeeze=False, sharey=True, sharex=True)
    for (head, task), axes in zip(itertools.product(heads, tasks), panels.flat, strict=True):
        title(axes, _panel(task, head))
        tidy(
            axes, "ε of the attack, in pixel values" if head == heads[-1] else "",
            "accuracy, %" if task == tasks[0] else "",
        )  # fmt: skip
        axes.set_ylim(-3, 103)
        through = [m for m in shown if (m["task"], m["head"]) == (task, head)]
        of, verified = _split(through)
        dashes = {algo: itertools.cycle(_DASHES) for algo in _COLORS}
        for model in in_order(values):
            found = [(m["epsilon"], model["over_seeds"].get(m["name"])) for m in of]
            _curve(axes, model, [(x, e) for x, e in found if e], next(dashes[model["algo"]]))
            _floor(axes, model, verified)
    plots.legend_below(figure, 5, handlelength=3.2)
    return figure


def _panel(task: str, head: str) -> str:
    return f"{task}, {head} head" if head else ""


def _curve(axes: plots.Axes, model: Values, found: list, dash) -> None:
    """A model's mean over seeds, and a band for its interval."""
    if not found:
        return
    color, marker = _COLORS[model["algo"]], _MARKERS[model["algo"]]
    at = [x for x, _ in found]
    mean = [e["value"] for _, e in found]
    axes.plot(
        at, mean, color=color, linestyle=dash, marker=marker, markersize=4, linewidth=1.4,
        label=plain(label(model)),
    )  # fmt: skip
    half = [half_width(e) for _, e in found]
    if None not in half:
        low = [m - h for m, h in zip(mean, half, strict=True)]
        high = [m + h for m, h in zip(mean, half, strict=True)]
        axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)


def _split(measures: list[Values]) -> tuple[list[Values], list[Values]]:
    """Accuracies, and shares of images verified."""
    whole = [[m for m in measures if ("proof" in m) == proof] for proof in (False, True)]
    return whole[0], whole[1]


def _floor(axes: plots.Axes, model: Values, verified: list[Values]) -> None:
    """Hollow marks: what is proven of a model."""
    found = [(m["epsilon"], model["over_seeds"].get(m["name"])) for m in verified]
    there = [(x, e["value"]) for x, e in found if e]
    if there:
        axes.plot(
            *zip(*there, strict=True), color=_COLORS[model["algo"]], linestyle=":", linewidth=0.9,
            marker=_MARKERS[model["algo"]], fillstyle="none", markersize=5,
        )  # fmt: skip


def _dots(values: Values, shown: list[Values]) -> plots.Figure:
    """A row for each model, a mark for each radius: the darker, the larger."""
    groups = list(itertools.product(_named(shown, "task"), _named(shown, "head")))
    models = list(in_order(values))
    figure = new_figure(3.1 * len(groups) + 1.2, 0.17 * len(models) + 1.3)
    panels = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    rows: list[float] = []
    spans: dict[str, tuple[float, float]] = {}
    for algo, of_algo in itertools.groupby(models, key=lambda model: model["algo"]):
        start = rows[-1] + _BETWEEN if rows else 0.0
        rows += [start + number for number, _ in enumerate(of_algo)]
        spans[algo] = start, rows[-1]
    marks = ("o", "s", "D", "^", "v", "P")
    for axes, (task, head) in zip(panels, groups, strict=True):
        title(axes, _panel(task, head))
        tidy(axes, "accuracy, %", "")
        axes.set_xlim(-3, 103)
        axes.grid(axis="x", linewidth=0.4, alpha=0.6)
        of, verified = _split([m for m in shown if (m["task"], m["head"]) == (task, head)])
        radii = [m["epsilon"] for m in of]
        for measure in (*of, *verified):
            count = radii.index(measure["epsilon"])
            shade = 0.25 + 0.75 * count / max(1, len(of) - 1)
            proof = "proof" in measure
            for model, y in zip(models, rows, strict=True):
                estimate, color = model["over_seeds"].get(measure["name"]), _COLORS[model["algo"]]
                if estimate is None:
                    continue
                axes.plot(
                    estimate["value"], y, marks[count % len(marks)], alpha=shade, markersize=4,
                    color=color, clip_on=False, fillstyle="none" if proof else "full",
                )  # fmt: skip
                if not model["differs"]:  # the objective's own, as a line through its variants
                    axes.plot([estimate["value"]] * 2, spans[model["algo"]], color=color,
                              linewidth=0.6, alpha=0.5)  # fmt: skip
            label_of = at_radius(measure["epsilon"]) + ", verified" * proof
            axes.plot([], [], marks[count % len(marks)], color=GREY, alpha=shade,
                      fillstyle="none" if proof else "full", label=label_of)  # fmt: skip
    names = [plain(setting(model) or model["algo"]) for model in models]
    panels[0].set_yticks(rows, names, fontsize=7)
    for tick, model in zip(panels[0].get_yticklabels(), models, strict=True):
        tick.set_color(_COLORS[model["algo"]])
        tick.set_fontweight("normal" if model["differs"] else "bold")
    panels[0].set_ylim(rows[-1] + 0.6, -0.6)
    plots.legend_below(figure, 2 * len(groups))  # as wide as the panels
    return figure
