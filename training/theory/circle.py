"""The discrete circle: what each objective makes of an encoder where there are no data."""

import time
from typing import Any

import numpy as np

from tf_avae.console.printing import say
from tf_avae.plots import BLUE, GREEN, ORANGE, PINK, Figure, new_figure, tidy, title
from tf_avae.theory.circle import (
    CIRCLE_OBJECTIVES,
    Circle,
    Tables,
    figures_of_merit,
    joints,
    neighbour_variation,
    terms,
    train,
)
from training.sweep.pages import table

STEPS = 4000

_SEEDS = 5
_WIDTHS = (1e-3, 1e-2, 1e-1)
_TIGHT, _WIDE = _WIDTHS[0], _WIDTHS[-1]
_LABELS = {"vae": "VAE", "avae": "AVAE", "avae_analytic": "AVAE, analytic coupling", "se": "SE"}


def measure(steps: int, seed: int) -> dict[str, Any]:
    """All numbers of the page, and the tables that the figures show.

    Args:
        steps: of each training.
        seed: of the first of the trainings that differ in nothing else.
    """
    jobs = [
        (name, width, seed + i)
        for width in _WIDTHS
        for name in CIRCLE_OBJECTIVES
        if width in _widths(name)
        for i in range(_SEEDS)
    ]
    runs: list[dict[str, Any]] = []
    begun = time.monotonic()
    for done, (name, width, start) in enumerate(jobs):
        circle = Circle(coupling_width=width)
        objective = CIRCLE_OBJECTIVES[name]
        tables = train(circle, objective, seed=start, steps=steps)
        shown = start == seed and width in (_TIGHT, _WIDE)
        found = {k: float(v) for k, v in terms(circle, objective, tables).items()}
        runs.append({
            "objective": name, "coupling_width": width, "seed": start, "terms": found,
            "merit": figures_of_merit(circle, tables),
            "tables": [np.asarray(table).tolist() for table in tables] if shown else None,
        })  # fmt: skip
        left = (time.monotonic() - begun) / (done + 1) * (len(jobs) - done - 1)
        say(
            f"circle {done + 1}/{len(jobs)}  {name}, ν {width:g}, seed {start}: "
            f"bound {found['bound']:.2f}  {left:.0f} s left"
        )
    circle = Circle()
    return {
        "settings": {
            "steps": steps,
            "points": len(circle.data),
            "latents": circle.latents,
            "observation_width": circle.observation_width,
            "neighbourhood": circle.neighbourhood,
            "first_seed": seed,
            "seeds": _SEEDS,
            "coupling_widths": list(_WIDTHS),
        },
        "runs": runs,
    }


def _shown(numbers: dict[str, Any], width: float) -> dict[str, Tables]:
    """The tables that the figures show, by objective."""
    return {
        run["objective"]: Tables(*map(np.array, run["tables"]))
        for run in numbers["runs"]
        if run["tables"] is not None and run["coupling_width"] == _width(run["objective"], width)
    }


def _widths(name: str) -> tuple[float, ...]:
    """The coupling widths that an objective is trained with; the VAE has no coupling, so there is
    one VAE for all widths."""
    return (_TIGHT,) if name == "vae" else _WIDTHS


def _width(name: str, width: float) -> float:
    """The coupling width under which an objective's runs are kept."""
    return width if width in _widths(name) else _TIGHT


# ---------------------------------------------------------------------- figures


def figures(numbers: dict[str, Any]) -> dict[str, Figure]:
    """The page's figures by name."""
    fields = ("latents", "observation_width", "neighbourhood")
    circle = Circle(**{name: numbers["settings"][name] for name in fields})
    tight, wide = (_shown(numbers, width) for width in (_TIGHT, _WIDE))
    return {
        "panels": _panels(circle, tight),
        "panels_wide": _panels(circle, wide),
        "variation": _variation(circle, tight),
    }


def _panels(circle: Circle, shown: dict[str, Tables]) -> Figure:
    """Fig. 8: five panels for each objective."""
    figure = new_figure(12.0, 2.2 * len(shown) + 0.4)
    axes = figure.subplots(len(shown), 5, sharex=True)
    on_data = np.flatnonzero(circle.data > 0)
    for row, (name, tables) in zip(axes, shown.items(), strict=True):
        panels = joints(circle, tables)
        for panel, values in ((row[0], panels.data), (row[4], panels.marginal)):
            panel.fill_between(np.arange(len(values)), values, step="mid", color=BLUE, alpha=0.35)
            panel.step(np.arange(len(values)), values, where="mid", color=BLUE, lw=1)
            panel.set_ylim(0, max(0.1, 1.05 * values.max()))
            tidy(panel, "", "probability")
        for panel, values in zip(row[1:4], panels[1:4], strict=True):
            # The root shows faint parts; white is 0.
            panel.imshow(np.sqrt(values.T), origin="lower", aspect="auto", cmap="Blues",
                         vmin=0.0, vmax=0.15, interpolation="nearest")  # fmt: skip
            tidy(panel, "", "z (grid point)")
            # A bar under the map: where there are data.
            panel.plot(on_data, np.full(len(on_data), 0.8), "s", ms=2.0, color=ORANGE)
        row[0].annotate(_LABELS[name], (0.02, 0.98), xycoords="axes fraction", va="top",
                        fontsize=9, fontweight="bold")  # fmt: skip
    titles = ("data π(x)", "π(x) q(z|x)", "p(x) q(z|x)", "p(x|z) p(z)", "model marginal p(x)")
    for panel, text in zip(axes[0], titles, strict=True):
        title(panel, text)
    for panel in axes[-1]:
        panel.set_xlabel("x (grid point)", fontsize=9)
    return figure


def _variation(circle: Circle, shown: dict[str, Tables]) -> Figure:
    """How much the encoding changes from each point to the next."""
    figure = new_figure(10.5, 1.55 * len(shown) + 0.5)
    axes = figure.subplots(len(shown), 1, sharex=True)
    points = np.arange(len(circle.data))
    colours = (ORANGE, BLUE, GREEN, PINK)
    for panel, colour, (name, tables) in zip(axes, colours, shown.items(), strict=True):
        marginal = joints(circle, tables).marginal
        for start in np.flatnonzero(circle.data > 0):
            panel.axvspan(start - 0.5, start + 0.5, color="#E4E4E4", lw=0)
        panel.bar(points + 0.5, neighbour_variation(circle, tables), width=0.8, color=colour)
        twin = panel.twinx()
        twin.step(points, marginal, where="mid", color="black", lw=1)
        twin.set_ylim(0, max(0.1, 1.05 * marginal.max()))
        twin.set_ylabel("p(x)", fontsize=8)
        twin.tick_params(labelsize=7)
        twin.spines[["top"]].set_visible(False)
        panel.set_ylim(0, 1.02)
        panel.set_xlim(-0.5, len(points) - 0.5)
        tidy(panel, "", "variation")
        title(panel, _LABELS[name])
    axes[-1].set_xlabel(
        "x (grid point); grey: data; bars: total variation between q(z|x) and that of the next "
        "point; line: model marginal",
        fontsize=8.5,
    )
    return figure


# ---------------------------------------------------------------------- the page


def page_values(numbers: dict[str, Any]) -> dict[str, Any]:
    """What the page (circle.md) fills in."""
    means = {
        "vae": _means(numbers, "vae", _TIGHT),
        "tight": _means(numbers, "avae", _TIGHT),
        "wide": _means(numbers, "avae", _WIDE),
        "se": _means(numbers, "se", _TIGHT),
    }
    return {
        **numbers["settings"],
        "neighbours": 2 * numbers["settings"]["neighbourhood"] + 1,
        "tight": _TIGHT,
        "wide": _WIDE,
        "merit_table": merit_table(numbers),
        **{
            f"{where}_{of}": means["vae"][f"variation_{where}"] / means[of][f"variation_{where}"]
            for where in ("off_data", "at_edges")
            for of in ("tight", "wide")
        },
        **{f"{of}_{key}": value for of, found in means.items() for key, value in found.items()},
    }


def _means(numbers: dict[str, Any], name: str, width: float) -> dict[str, float]:
    """Mean over seeds of the terms and of the figures of merit."""
    width = _width(name, width)
    runs = [
        run["terms"] | run["merit"]
        for run in numbers["runs"]
        if (run["objective"], run["coupling_width"]) == (name, width)
    ]
    return {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}


_COLUMNS = {
    "bound": "bound",
    "reconstruction": "rec",
    "kl": "KL",
    "coupling": "couple",
    "entropy": "H",
    "variation_on_data": "variation on data",
    "variation_at_edges": "at edges",
    "variation_off_data": "off data",
    "largest_jump": "largest jump",
    "self_consistency": "self-consistency",
    "codes": "codes used",
    "mismatch": "mismatch",
}


def merit_table(numbers: dict[str, Any]) -> str:
    """Markdown: means over seeds, a row for each objective and coupling width."""
    rows = [["objective", "ν", *_COLUMNS.values()]]
    for name in CIRCLE_OBJECTIVES:
        for width in _widths(name):
            means = _means(numbers, name, width)
            cells = [f"{means[key]:.2f}" if key in means else "" for key in _COLUMNS]
            rows.append([f"`{name}`", "" if name == "vae" else f"{width:g}", *cells])
    return table(rows)
