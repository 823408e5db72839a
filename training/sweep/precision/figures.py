"""The figures of the precision study that a sweep has."""

from typing import Any

from tf_avae.records import damage_told
from tf_avae.runs.run import read_result
from training.sweep.cells.declaration import AGAIN
from training.sweep.cells.folder import SweepFolder
from training.sweep.models import (
    BOUND,
    INCONSISTENCY,
    NATS,
    PERCENT,
    Values,
    accuracy,
    at_radius,
    common_data,
    evaluated,
    known,
    made_by,
    step_times,
)
from training.sweep.precision.study import BASELINE, HEAD, PRECISIONS, model, timed
from training.sweep.seeds import by_seed, over_seeds, paired


def measures(tasks: list[str], radii: list[float]) -> list[Values]:
    """What is compared: each figure's name and unit; accuracies have the task and the radius too,
    which is 0 for the nominal one."""
    accuracies = [
        {"name": f"{task}, {at_radius(epsilon)}", "unit": PERCENT, "task": task, "epsilon": epsilon}
        for task in tasks
        for epsilon in (0.0, *sorted(radii))
    ]
    return [{"name": BOUND, "unit": NATS}, *accuracies, {"name": INCONSISTENCY, "unit": ""}]


def collect(sweep: SweepFolder) -> Values:
    """All of the study, JSON values: figures of each model, over seeds, and their differences from
    float32 with the same seed; why others are missing; where everything comes from."""
    settings = sweep.declaration.settings
    seeds = range(settings["seeds"])
    models: dict[str, Values] = {}
    asked: list[Values] = measures([], [])
    for algo in settings["algos"]:
        for precision in PRECISIONS:
            for seed in seeds:
                name = model(algo, precision, seed)
                found, results = known(sweep, name)
                found |= {"algo": algo, "precision": precision, "seed": seed}
                if results:
                    tasks, radii = (results["settings"][key] for key in ("tasks", "epsilons"))
                    asked = measures(tasks, radii)
                    with damage_told(sweep.result(evaluated(name)), AGAIN):
                        found["figures"] = _figures(sweep, name, asked, results["encoders"][0])
                models[name] = found
    first = sweep.cells[evaluated(model(settings["algos"][0], BASELINE, 0))].options
    return {
        "settings": settings,
        "evaluation": first,
        "data": common_data(models),
        "measures": asked,
        "models": models,
        "comparison": {
            algo: {p: _compared(models, asked, algo, p, seeds) for p in PRECISIONS}
            for algo in settings["algos"]
        },
        "time": {algo: step_times(sweep, timed(algo), BASELINE) for algo in settings["algos"]},
        "provenance": made_by(),
    }


def _figures(sweep: SweepFolder, name: str, asked: list[Values], record: Values) -> Values:
    """The figures of a model by name, in their units."""
    found = {
        BOUND: read_result(sweep.result(name))["held_out"]["bound"],
        INCONSISTENCY: record["consistency"]["inconsistency"]["value"],
    }
    for measure in asked:
        if "task" in measure:
            found[measure["name"]] = accuracy(record, measure["task"], HEAD, measure["epsilon"])
    return found


def _compared(
    models: dict[str, Values], asked: list[Values], algo: str, precision: str, seeds: range
) -> dict[str, Any]:
    """Each figure over seeds, and how it differs from that in float32 with the same seed."""

    def of(name: str, which: str) -> dict[int, float]:
        return by_seed([models[model(algo, which, seed)] for seed in seeds], name)

    names = [measure["name"] for measure in asked]
    return {
        "over_seeds": {name: over_seeds(of(name, precision)) for name in names},
        "difference": {
            name: None if precision == BASELINE else paired(of(name, precision), of(name, BASELINE))
            for name in names
        },
    }
