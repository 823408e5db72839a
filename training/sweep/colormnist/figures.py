"""The figures of a grid on ColorMNIST, as far as a sweep has them."""

import itertools
from collections.abc import Iterator
from typing import Any

from tf_avae.evaluation.table import attacked, failed
from tf_avae.records import damage_told
from tf_avae.runs.run import read_metrics, read_result
from training.sweep.cells.declaration import AGAIN
from training.sweep.cells.folder import SweepFolder
from training.sweep.colormnist.claims import CLAIMS, judged
from training.sweep.colormnist.grids import GRIDS
from training.sweep.colormnist.known import ORIGIN, add_known
from training.sweep.colormnist.measures import (
    BESIDE,
    CHECKS,
    DIMENSION,
    LIKELIHOOD,
    MSE,
    PER_UNIT,
    RISE,
    UNITS,
    accuracy_measure,
)
from training.sweep.colormnist.study import TIMING, attacked_by, evaluations, trained
from training.sweep.models import (
    BOUND,
    INCONSISTENCY,
    Values,
    accuracy,
    common_data,
    known,
    made_by,
    step_times,
)
from training.sweep.seeds import by_seed, over_seeds, paired


def collect(sweep: SweepFolder) -> Values:
    """All of a grid, JSON values: figures of each training, over seeds, and how each model differs
    from its objective's own; why others are missing; where everything comes from.

    What the sweep lacks comes from its known results (`add_known`).

    Raises:
        InputError: known results of something else, or figures of different data.
    """
    settings = sweep.declaration.settings
    seeds, budgets = range(settings["seeds"]), settings["budgets"]
    models: dict[str, Values] = {}
    measures: dict[str, Values] = {}
    for row in settings["models"]:
        config = sweep.cells[trained(row["name"], 0)].options
        own = GRIDS[settings["grid"]].own.get(row["algo"], {})
        models[row["name"]] = {
            **row,
            # Options of the command line come before what the grid has for the objective.
            "own": {name: value for name, value in own.items() if config[name] == value},
            "config": config,
            "trainings": [_training(sweep, row["name"], seed, budgets, measures) for seed in seeds],
        }
    values: Values = {
        "settings": {key: settings[key] for key in ("grid", "seeds", "budgets", "heads")},
        "evaluation": evaluations(sweep),
        "models": models,
        "time": _time(sweep),
        "provenance": made_by(),
    }
    add_known(values, sweep, measures)
    trainings = [training for model in models.values() for training in model["trainings"]]
    values["data"] = common_data({training["name"]: training for training in trainings})
    for training in trainings:
        training["figures"] |= _derived(training["figures"])
    for model in models.values():
        plain = next((m for m in models.values() if _is_own(m, model)), None)
        figures = _by_name(model)
        base = _by_name(plain) if plain is not None and plain is not model else {}
        model["over_seeds"] = {name: over_seeds(of) for name, of in figures.items()}
        model["difference"] = {
            name: paired(of, base[name]) for name, of in figures.items() if name in base
        }
    by_budget = [m for budget in budgets for m in measures.values() if m["budget"] == budget]
    asked = [*by_budget, *({"name": n, "unit": u} for n, u in BESIDE.items())]
    there = {name for model in models.values() for name in model["over_seeds"]}
    values["measures"] = [measure for measure in asked if measure["name"] in there]
    return values | {"claims": [judged(claim, values) for claim in CLAIMS]}


def _is_own(model: Values, of: Values) -> bool:
    return model["algo"] == of["algo"] and not model["differs"]


def _by_name(model: Values) -> dict[str, dict[int, float]]:
    """Figures of a model: name to those of each seed that has it."""
    names = dict.fromkeys(name for t in model["trainings"] for name in t["figures"])
    found = {name: by_seed(model["trainings"], name) for name in names}
    return {name: of for name, of in found.items() if of}


def _training(
    sweep: SweepFolder, model: str, seed: int, budgets: list[str], measures: dict[str, Values]
) -> Values:
    """What the sweep has of a training; notes the accuracies that there are."""
    name = trained(model, seed)
    figures = _of_run(sweep, name) if sweep.done(name) else {}
    origin: Values = {}
    missing: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for budget in budgets:
        found, results = known(sweep, name, attacked_by(name, budget))
        seconds[budget] = found["seconds"]["evaluated_in"]
        if results is None:
            missing[budget] = found["missing"]
            continue
        origin |= {key: found[key] for key in ORIGIN if key in found}
        origin.setdefault("evaluated_by", {})[budget] = found["evaluated_by"]
        record = results["encoders"][0]
        with damage_told(sweep.result(attacked_by(name, budget)), AGAIN):
            figures |= _beside(record)
            found_shares = _accuracies(record, results["settings"], budget)
            for measure, share in itertools.chain(found_shares, _proven(record, budget)):
                measures[measure["name"]] = measure
                figures[measure["name"]] = share
    return {
        "name": name,
        "missing": missing.get(budgets[0]),
        "not_measured": missing,
        "seconds": {"trained_in": sweep.state(name).seconds, "evaluated_in": seconds},
        "figures": figures,
        **origin,
    }


def _accuracies(record: Values, settings: Values, budget: str) -> Iterator[tuple[Values, float]]:
    """Each accuracy of an evaluation and, where a budget consists of several attacks, what is left
    after each of them but the last."""
    radii = [*((0.0,) if "probes" in record else ()), *sorted(settings["epsilons"])]
    for task, head, epsilon in itertools.product(settings["tasks"], settings["heads"], radii):
        where = (task, head, budget, epsilon)
        if epsilon:
            row = attacked(record["robustness"], task, head, epsilon)
            # An attack may be made several times; the last one of its name counts.
            names = [trial.split("/")[0] for trial in row["trials"]]
            after = dict(zip(names, row["accuracy_after"][1:], strict=True))
            after.pop(names[-1])
            for attack, share in after.items():
                yield accuracy_measure(*where, after=attack), 100 * share
        yield accuracy_measure(*where), accuracy(record, task, head, epsilon)


def _proven(record: Values, budget: str) -> Iterator[tuple[Values, float]]:
    """Each share of images verified of an evaluation."""
    section = record.get("certified", {"rows": []})
    for row in section["rows"]:
        where = (row["task"], row["head"], budget, row["epsilon"])
        measure = accuracy_measure(*where, proof=section["bounds"])
        yield measure, 100 * row["verified"]["value"]


def _derived(figures: Values) -> Values:
    """What follows from other figures: the inconsistency is a sum over latents, of which one that
    collapsed adds nothing."""
    found, units = figures.get(INCONSISTENCY), figures.get(UNITS)
    return {PER_UNIT: found / units} if found is not None and units else {}


def _of_run(sweep: SweepFolder, name: str) -> dict[str, float | None]:
    """The bound on the held-out images, and how much of it the last fifth of training brought."""
    result = sweep.result(name)
    metrics = read_metrics(result.parent / "metrics.jsonl")
    rows = [row for row in metrics if row["split"] == "held_out"]
    last = {row["step"]: row["bound"] for row in rows if row["stage"] == rows[-1]["stage"]}
    end = max(last, default=0)
    rise = last[end] - last[end * 4 // 5] if end and not end % 5 and end * 4 // 5 in last else None
    return {BOUND: read_result(result)["held_out"].get("bound"), RISE: rise}


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
    """Rates of steps, and the time of each over one of the `vae`'s, where that is timed."""
    timed = sweep.cells[TIMING].options["configs"]
    baseline = "vae" if "vae" in timed else next(iter(timed))
    return step_times(sweep, TIMING, baseline) | {"baseline": baseline}
