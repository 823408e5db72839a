"""The figures of the page on probabilistic PCA."""

from typing import Any

import numpy as np

from tf_avae.plots import BLUE, GREEN, GREY, ORANGE, Axes, Figure, new_figure, tidy, title

_STYLES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, ":"))


def figures(numbers: dict[str, Any]) -> dict[str, Figure]:
    """The page's figures by name."""
    return {
        "bias": _bias_figure(numbers["bias"]),
        "trained": _trained_figure(numbers["trained"], numbers["settings"]["observation_variance"]),
        "chain": _chain_figure(numbers["chain"]),
    }


def _bias_figure(curves: list[dict[str, Any]]) -> Figure:
    columns = (
        ("avae", "analytic", 0.0, "avae"),
        ("avae", "sampled", 0.0, "avae, sampled coupling"),
        ("se", "analytic", 0.0, "se, ε = 0"),
        ("se", "analytic", 1.0, "se, attack moves by √v"),
        ("se_avae", "analytic", 1.0, "se_avae, same attack"),
        ("avae_ss", "analytic", 0.0, "avae_ss"),
    )
    panels = (
        ("bias", "KL to the exact posterior,\nnats per latent"),
        ("variance_ratio", "posterior variance\nover the exact one, s/s*"),
        ("signal_ratio", "signal of the decoder\nover that of the data, w²/λ"),
    )
    figure = new_figure(13.0, 6.6)
    axes = figure.subplots(len(panels), len(columns), sharex=True, sharey="row")
    for column, (*which_list, label) in enumerate(columns):
        which = tuple(which_list)
        for row, (key, y_label) in enumerate(panels):
            panel = axes[row, column]
            drawn = [c for c in curves if (c["objective"], c["coupling"], c["reach"]) == which]
            for (colour, dashes), curve in zip(_STYLES, drawn, strict=True):
                ratio = curve["signal_to_noise"]
                _draw_curve(panel, curve, key, colour, dashes, f"λ/v = {ratio:g}")
            panel.set_xscale("log")
            panel.set_yscale("log")
            if row:
                panel.axhline(1.0, color=GREY, lw=0.7)
            tidy(panel, "1 − ρ" if row == len(panels) - 1 else "", "" if column else y_label)
            if not row:
                title(panel, label)
    axes[0, 0].set_xlim(1.1, 0.0028)
    axes[0, 0].set_ylim(1e-4, 20.0)
    axes[0, 0].legend(fontsize=8, frameon=False, handlelength=2.6)
    return figure


def _draw_curve(
    panel: Axes, curve: dict[str, Any], key: str, colour: str, dashes: str, label: str
) -> None:
    """A curve over 1 - rho, faint where tiny weights do not grow."""
    points = [
        (1.0 - rho, value, grows)
        for rho, value, grows in zip(curve["rho"], curve[key], curve["grows"], strict=True)
        if value is not None
    ]
    x, y, grows = zip(*points, strict=True)
    until = sum(grows)
    panel.plot(x[:until], y[:until], dashes, color=colour, lw=1.6, label=label)
    panel.plot(x[max(until - 1, 0) :], y[max(until - 1, 0) :], dashes, color=colour, lw=0.8,
               alpha=0.6)  # fmt: skip


def _trained_figure(trained: dict[str, list[dict[str, float]]], v: float) -> Figure:
    figure = new_figure(11.0, 4.3)
    panels = figure.subplots(1, 3)
    units = {"encoder": np.sqrt(v), "variance": 1.0, "decoder": 1.0 / np.sqrt(v)}
    marks = (
        ("_exact", "_", {"color": GREY, "ms": 13}, "posterior of the data's pPCA"),
        ("_predicted", "o", {"color": ORANGE, "ms": 9, "mfc": "none"}, "resting point"),
        ("", "x", {"color": BLUE, "ms": 6}, "trained"),
    )
    # Components of one objective side by side, a gap between objectives.
    at = [4 * i + j for i, rows in enumerate(trained.values()) for j in range(len(rows))]
    rows = [row for rows in trained.values() for row in rows]
    first = next(iter(trained.values()))
    ratios = ", ".join(f"{row['signal_to_noise']:g}" for row in first)
    for panel, (key, unit) in zip(panels, units.items(), strict=True):
        for suffix, marker, style, label in marks:
            values = [unit * row[key + suffix] for row in rows]
            panel.plot(at, values, marker, mew=1.6, label=label, **style)
        panel.set_ylim(
            0, 1.35 * max(unit * row[key + suffix] for row in rows for suffix, *_ in marks)
        )
        tidy(panel, f"components with λ/v {ratios}, from left to right", "")
        panel.set_xticks([4 * i + 1 for i, _ in enumerate(trained)])
        panel.set_xticklabels(trained, rotation=35, ha="right", rotation_mode="anchor")
    for panel, name in zip(
        panels, ("encoder gain a·√v", "posterior variance s", "decoder w/√v"), strict=True
    ):
        title(panel, name)
    panels[1].legend(fontsize=8, frameon=False, loc="upper center")
    return figure


def _chain_figure(numbers: dict[str, Any]) -> Figure:
    figure = new_figure(11.0, 3.6)
    plane, project, drift = figure.subplots(1, 3)
    _draw_plane(plane, numbers["plane"])
    rows = [row for row in numbers["projection"] if row["v"] > 0]
    for (colour, dashes), key, label in zip(
        _STYLES,
        ("first", "second", "noise"),
        ("first step: distance to the projection", "second step: distance moved",
         "noise of a step"),
        strict=True,
    ):  # fmt: skip
        points = [(row["v"], row[key]) for row in rows]
        project.loglog(*zip(*points, strict=True), dashes, marker="o", ms=3.5, color=colour,
                       label=label)  # fmt: skip
    project.invert_xaxis()
    project.legend(fontsize=7.5, frameon=False, loc="lower left")
    tidy(project, "observation variance v", "distance")
    title(project, "v → 0: one step projects, later ones stay")

    markers = ("o", "s", "^", "D")
    colours = (GREEN, GREY, BLUE, ORANGE)
    for row, marker, colour in zip(numbers["drift"], markers, colours, strict=True):
        steps = np.arange(len(row["simulated"]))
        drift.semilogy(steps, row["closed_form"], color=colour, lw=1.2)
        label = f"{row['size']:g}: {row['largest_eigenvalue']:.3f}"
        drift.semilogy(steps, row["simulated"], marker, color=colour, ms=4, mfc="none", label=label)
    drift.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"], minor=False)
    drift.minorticks_off()
    drift.legend(
        fontsize=7.5, frameon=False, title="size of Δ: largest eigenvalue", title_fontsize=8
    )
    drift.set_xticks(range(0, 21, 5))
    tidy(drift, "steps of the chain", "|mean of x|")
    title(drift, "perturbed encoder: drift at the rate of W∆")
    return figure


def _draw_plane(panel: Axes, plane: dict[str, Any]) -> None:
    """Chains in two pixels: where the exact encoder keeps them, where a perturbed one goes."""
    panel.plot(*np.transpose(plane["samples"]), ".", color="#BBBBBB", ms=3, label="samples of p(x)")
    for name, colour, style in (("exact", BLUE, "o-"), ("perturbed", ORANGE, "s--")):
        path = np.transpose(plane[name])
        panel.plot(*path, style, color=colour, ms=3.5, lw=0.8, label=f"{name} encoder")
    panel.plot(*plane["exact"][0], "*", color="black", ms=9, label="x, the chain's start")
    panel.legend(fontsize=7.5, frameon=False)
    tidy(panel, "pixel 1", "pixel 2")
    title(panel, f"{len(plane['exact']) - 1} steps of x → z → x′, one latent")
