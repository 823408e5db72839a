"""The page of the precision study, Markdown: figures, differences, and what they say."""

from collections.abc import Iterator
from typing import NamedTuple

from tf_avae.evaluation.budgets import BUDGETS
from training.sweep.models import PERCENT, Values
from training.sweep.pages import Notes, provenance, shared_options, table, time_taken, worded
from training.sweep.precision.study import BASELINE, PRECISIONS
from training.sweep.seeds import CONFIDENCE, differs, half_width

MARK = "*"
OTHERS = tuple(name for name in PRECISIONS if name != BASELINE)


class Difference(NamedTuple):
    """A figure's mean difference from float32.

    Attributes:
        algo: the objective.
        precision: that of the training.
        measure: the figure's name and unit.
        estimate: of the difference, in that unit.
    """

    algo: str
    precision: str
    measure: Values
    estimate: Values

    @property
    def words(self) -> str:
        """All of it."""
        shown, unit = worded(self.estimate, sign="+"), _UNITS.get(self.measure["unit"], "")
        return f"`{self.algo}`, {self.precision}: {self.measure['name']} {shown}{unit}"


_UNITS = {PERCENT: " points", "nats": " nats"}


def page(values: Values) -> str:
    """The study, Markdown; tables read well in a terminal too."""
    notes = Notes()
    parts = [
        "# Does the precision of training change what is learnt?",
        f"**{verdict(values)}**",
        _what(values),
        "![Accuracy against the radius under each precision, and the difference from float32 with "
        "the same seed, with intervals over seeds](precision.png)",
        f"## Differences from {BASELINE}",
        f"Mean over seeds of the difference from {BASELINE} with the same seed, ± half of the 95 % "
        f"interval by Student's t. `{MARK}`: larger than its interval reaches.",
        _differences(values),
        "## Figures",
        "Mean over seeds, ± half of the 95 % interval by Student's t; accuracies in percent, the "
        "bound in nats.",
        _figures(values),
        "## Time",
        f"Time of a training step over that in {BASELINE}, timed in turn in one process: median, "
        "least and most of the rounds' ratios. It is of the machine named below, and of no other.",
        _times(values, notes),
        "## The models",
        _models(values, notes),
        shared_options([m["config"] for m in values["models"].values()], but=("pretrain_steps",)),
        *notes.section(),
        "## Provenance",
        provenance(values),
    ]
    return "\n\n".join(parts) + "\n"


def differences(values: Values) -> Iterator[Difference]:
    """All differences that there are."""
    for algo, compared in values["comparison"].items():
        for precision in OTHERS:
            for measure in values["measures"]:
                estimate = compared[precision]["difference"][measure["name"]]
                if estimate is not None:
                    yield Difference(algo, precision, measure, estimate)


def verdict(values: Values) -> str:
    """What the figures say, in a sentence or two."""
    models = values["models"].values()
    missing = sum(model["missing"] is not None for model in models)
    if missing:
        return f"No verdict: {missing} of {len(models)} models are missing (see below)."
    found = list(differences(values))
    seeds = values["settings"]["seeds"]
    widest = max(half_width(d.estimate) or 0.0 for d in found if d.measure["unit"] == PERCENT)
    unseen = (
        f"Over {seeds} seeds the intervals of accuracies reach up to ± {widest:.1f} points: "
        "smaller differences may be there."
    )
    apart = [d for d in found if differs(d.estimate)]
    if not apart:
        return (
            f"No difference from {BASELINE} is larger than its interval reaches, of {len(found)}. "
            f"{unseen}"
        )
    listed = "; ".join(d.words for d in apart)
    return (
        f"{len(apart)} of {len(found)} differences from {BASELINE} are larger than their "
        f"intervals reach, where chance alone makes about {(1 - CONFIDENCE) * len(found):.1f}: "
        f"{listed}. {unseen}"
    )


def _what(values: Values) -> str:
    evaluation, data = values["evaluation"], values["data"]
    budget = BUDGETS[evaluation["budget"]]
    counted = f"nominal accuracy on {data['test_images']:,} test images, " if data else ""
    return (
        "The same training (seed, first weights, order of images, colours and noise) under each of "
        f"{', '.join(PRECISIONS)}. Weights, densities and the attacks of training are float32 "
        "under each, and all encoders are evaluated in float32: by a linear head on posterior "
        f"means, {counted}under attack on the first {evaluation['images']:,}; budget "
        f"{budget.name} ({budget.summary}), {evaluation['norm']}."
    )


def _differences(values: Values) -> str:
    columns = [(algo, p) for algo in values["comparison"] for p in OTHERS]
    rows = [["", *(f"{algo}, {p}" for algo, p in columns)]]
    for measure in values["measures"]:
        row = [_label(measure)]
        for algo, p in columns:
            estimate = values["comparison"][algo][p]["difference"][measure["name"]]
            row.append(
                worded(estimate, sign="+") + (MARK if estimate and differs(estimate) else "")
            )
        rows.append(row)
    return table(rows)


def _figures(values: Values) -> str:
    columns = [(algo, p) for algo in values["comparison"] for p in PRECISIONS]
    rows = [["", *(f"{algo}, {p}" for algo, p in columns)]]
    for measure in values["measures"]:
        found = [values["comparison"][a][p]["over_seeds"][measure["name"]] for a, p in columns]
        rows.append([_label(measure), *map(worded, found)])
    return table(rows)


def _label(measure: Values) -> str:
    return ", ".join(word for word in (measure["name"], measure["unit"]) if word)


def _times(values: Values, notes: Notes) -> str:
    rows = [["objective", *OTHERS]]
    for algo, time in values["time"].items():
        if time["missing"] is not None:
            rows.append([algo, *([notes.missing(time["missing"])] * len(OTHERS))])
            continue
        factors = [time["factors"][p] for p in OTHERS]
        rows.append(
            [algo, *(f"{f['value']:.2f} ({f['low']:.2f}–{f['high']:.2f})" for f in factors)]
        )
    return table(rows)


def _models(values: Values, notes: Notes) -> str:
    rows = [["model", "trained in", "evaluated in"]]
    for name, model in values["models"].items():
        seconds = model["seconds"]
        trained = time_taken(seconds["trained_in"])
        rows.append([
            name, trained,
            time_taken(seconds["evaluated_in"])
            if model["missing"] is None
            else notes.missing(model["missing"]),
        ])  # fmt: skip
    return table(rows)
