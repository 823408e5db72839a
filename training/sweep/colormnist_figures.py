"""The figures of a grid on ColorMNIST, as far as a sweep has them."""

import itertools
import json
from typing import Any

from tf_avae.config import read_json
from tf_avae.evaluation.table import failed
from training.sweep.colormnist import TIMING, attacked_by, trained
from training.sweep.colormnist_claims import CLAIMS, judged
from training.sweep.folder import SweepFolder
from training.sweep.grids import GRIDS
from training.sweep.models import (
    BOUND,
    INCONSISTENCY,
    NATS,
    PERCENT,
    Values,
    accuracy,
    common_data,
    known,
    made_by,
    why_missing,
)
from training.sweep.seeds import by_seed, over_seeds, paired
from training.timing import time_factor

RISE = "its rise in the last fifth"
MSE, LIKELIHOOD = "MSE: ‖x − g(μ(x))‖²", "log p(x) at least"
UNITS, DIMENSION, CHECKS = "active units", "effective dimension", "honesty checks failed"

BESIDE: dict[str, str] = {
    MSE: "", BOUND: NATS, RISE: NATS, LIKELIHOOD: NATS, INCONSISTENCY: "", UNITS: "",
    DIMENSION: "", CHECKS: "",
}  # fmt: skip
"""The figures beside accuracies, and their units; those that a grid does not measure are left
out."""


def accuracy_name(task: str, head: str, budget: str, epsilon: float) -> str:
    """The name of an accuracy; the nominal one's where the radius is 0."""
    return f"{task}, {head}, " + (f"{budget}, ε {epsilon:g}" if epsilon else "nominal")


def collect(sweep: SweepFolder) -> Values:
    """All of a grid, JSON values: figures of each training, over seeds, and how each model differs
    from its objective's own; why others are missing; where everything comes from."""
    settings = sweep.declaration.settings
    seeds, budgets = range(settings["seeds"]), settings["budgets"]
    models: dict[str, Values] = {}
    trainings: dict[str, Values] = {}
    accuracies: dict[str, Values] = {}
    for row in settings["models"]:
        found = [_training(sweep, row["name"], seed, budgets, accuracies) for seed in seeds]
        trainings |= {trained(row["name"], seed): one for seed, one in enumerate(found)}
        config = sweep.cells[trained(row["name"], 0)].options
        own = GRIDS[settings["grid"]].own.get(row["algo"], {})
        models[row["name"]] = {
            **row,
            # Options of the command line come before what the grid has for the objective.
            "own": {name: value for name, value in own.items() if config[name] == value},
            "config": config,
            "trainings": found,
        }
    for model in models.values():
        plain = next((m for m in models.values() if _is_own(m, model)), None)
        figures = _by_name(model)
        base = _by_name(plain) if plain is not None and plain is not model else {}
        model["over_seeds"] = {name: over_seeds(of) for name, of in figures.items()}
        model["difference"] = {
            name: paired(of, base[name]) for name, of in figures.items() if name in base
        }
    asked = [*accuracies.values(), *({"name": n, "unit": u} for n, u in BESIDE.items())]
    there = {name for model in models.values() for name in model["over_seeds"]}
    values: Values = {
        "settings": {key: settings[key] for key in ("grid", "seeds", "budgets", "heads")},
        "evaluation": {
            budget: sweep.cells[attacked_by(trained(next(iter(models)), 0), budget)].options
            for budget in budgets
        },
        "data": common_data(trainings),
        "measures": [measure for measure in asked if measure["name"] in there],
        "models": models,
        "time": _time(sweep),
        "provenance": made_by(),
    }
    return values | {"claims": [judged(claim, values) for claim in CLAIMS]}


def _is_own(model: Values, of: Values) -> bool:
    return model["algo"] == of["algo"] and not model["differs"]


def _by_name(model: Values) -> dict[str, dict[int, float]]:
    """Figures of a model: name to those of each seed that has it."""
    names = dict.fromkeys(name for t in model["trainings"] for name in t["figures"])
    found = {name: by_seed(model["trainings"], name) for name in names}
    return {name: of for name, of in found.items() if of}


def _training(
    sweep: SweepFolder, model: str, seed: int, budgets: list[str], accuracies: dict[str, Values]
) -> Values:
    """What is known of a training; notes the accuracies that there are."""
    name = trained(model, seed)
    kept, figures = {}, _of_run(sweep, name) if sweep.done(name) else {}
    missing: dict[str, str] = {}
    for budget in budgets:
        found, results = known(sweep, name, attacked_by(name, budget))
        kept[budget] = found["seconds"]["evaluated_in"]
        if budget == budgets[0]:
            common = found
        if results is None:
            missing[budget] = found["missing"]
            continue
        record = results["encoders"][0]
        figures |= _beside(record)
        radii = [*((0.0,) if "probes" in record else ()), *sorted(results["settings"]["epsilons"])]
        asked = (results["settings"][what] for what in ("tasks", "heads"))
        for task, head, epsilon in itertools.product(*asked, radii):
            where = {"task": task, "head": head, "budget": budget, "epsilon": epsilon}
            label = accuracy_name(**where)
            accuracies[label] = {"name": label, "unit": PERCENT, **where}
            figures[label] = accuracy(record, task, head, epsilon)
    keys = ("data", "sha256", "trained_at_commit", "evaluated_by")
    return {
        "name": name,
        "missing": missing.get(budgets[0]),
        "not_measured": missing,
        "seconds": {"trained_in": common["seconds"]["trained_in"], "evaluated_in": kept},
        "figures": figures,
        **{key: common[key] for key in keys if key in common},
    }


def _of_run(sweep: SweepFolder, name: str) -> dict[str, float | None]:
    """The bound on the held-out images, and how much of it the last fifth of training brought."""
    result = sweep.result(name)
    lines = (result.parent / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == "held_out"]
    last = {row["step"]: row["bound"] for row in rows if row["stage"] == rows[-1]["stage"]}
    end = max(last, default=0)
    rise = last[end] - last[end * 4 // 5] if end and not end % 5 and end * 4 // 5 in last else None
    return {BOUND: read_json(result)["held_out"]["bound"], RISE: rise}


def _beside(record: Values) -> dict[str, float | None]:
    """Figures beside accuracies, of those sections that were measured."""
    found: dict[str, Any] = {}
    if "reconstruction" in record:
        found[MSE] = record["reconstruction"]["mean_code"]["sum"]["value"]
    if "likelihood" in record:
        found[LIKELIHOOD] = record["likelihood"]["importance_weighted"]["value"]
    if "consistency" in record:
        found[INCONSISTENCY] = record["consistency"]["inconsistency"]["value"]
    if "latents" in record:
        found[UNITS] = record["latents"]["active_units"]
        found[DIMENSION] = record["latents"]["effective_dimension"]
    if "checks" in record:
        found[CHECKS] = len(failed(record["checks"]))
    return found


def _time(sweep: SweepFolder) -> Values:
    """Rates of steps, and the time that a step takes over one of the `vae`'s."""
    if not sweep.done(TIMING):
        return {"missing": why_missing(sweep, TIMING)}
    found = read_json(sweep.result(TIMING))
    rates = found["rates"]
    baseline = "vae" if "vae" in rates else next(iter(rates))
    factors = {name: time_factor(rates, name, baseline) for name in rates}
    return {
        "missing": None, "rates": rates, "baseline": baseline, "factors": factors,
        "timed_by": found["provenance"],
    }  # fmt: skip
