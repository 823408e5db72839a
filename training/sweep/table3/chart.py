"""The picture of Table 3: for each model and task, accuracy as images are and under attack."""

from tf_avae.plots import BLUE, GREY, ORANGE, Figure, legend_below, new_figure, tidy, title
from training.sweep.models import Values

_ACROSS = 3
_INCHES = (3.1, 3.6)
_KINDS = (("nominal", BLUE, "o"), ("attacked", ORANGE, "s"))


def chart(values: Values) -> Figure:
    """A panel for each model: ours filled, the paper's hollow, the commonest class a tick."""
    models, tasks = values["models"], list(values["paper"]["tasks"])
    down = -(-len(models) // _ACROSS)
    figure = new_figure(_ACROSS * _INCHES[0] + 1.0, down * _INCHES[1] + 0.5)
    panels = figure.subplots(down, _ACROSS, sharex=True, sharey=True, squeeze=False).flat
    rows = range(len(tasks))
    for axes, (name, model) in zip(panels, models.items(), strict=True):
        title(axes, name + ("" if model["missing"] is None else ": the paper's alone"))
        tidy(axes, "accuracy, %" if name in list(models)[-_ACROSS:] else "", "")
        if values["majority"]:
            shares = [100 * values["majority"][task] for task in tasks]
            axes.plot(
                shares, rows, "|", color=GREY, markersize=9, label="commonest class, our images"
            )
        for kind, color, marker in _KINDS:
            words = "nominal" if kind == "nominal" else f"ε = {values['paper']['epsilon']:g}"
            theirs = [values["paper"]["tasks"][task][name][kind] for task in tasks]
            axes.plot(theirs, rows, marker, color=color, fillstyle="none", markersize=5,
                      linestyle="none", label=f"the paper's, {words}")  # fmt: skip
            if model["missing"] is None:
                ours = [100 * model["tasks"][task][kind]["value"] for task in tasks]
                axes.plot(ours, rows, marker, color=color, markersize=4, linestyle="none",
                          label=f"ours, {words}")  # fmt: skip
        axes.set_yticks(rows, tasks, fontsize=8)
        axes.set_xlim(-3, 103)
    axes.invert_yaxis()
    legend_below(figure, 5)
    return figure
