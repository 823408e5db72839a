"""What sweeps share whose cells are models: a run of each, and an evaluation of it."""

from collections.abc import Iterable
from typing import Any

from tf_avae.config import Config, fields_of
from tf_avae.datasets import open_data
from tf_avae.errors import InputError
from tf_avae.evaluation import Settings
from tf_avae.evaluation.results import read_results
from tf_avae.evaluation.table import attacked
from tf_avae.networks import ARCHITECTURES
from tf_avae.provenance import provenance, session
from training.rates import time_factor
from training.sweep.cells.declaration import AGAIN, read_timing
from training.sweep.cells.folder import SweepFolder

Values = dict[str, Any]
"""JSON values."""

BOUND, INCONSISTENCY, NATS, PERCENT = "bound, held out", "inconsistency W2²", "nats", "%"
"""Names and units of figures."""

_KEPT = ("step", "sha256", "path", "kind", "trained_at_commit", "left_out")
"""What each model's record says of its origin."""


def open_fields(groups: Iterable[str], but: Iterable[str] = ()) -> tuple[str, ...]:
    """The fields of `Config` that a sweep leaves open: where the data are, and those of groups.

    Args:
        groups: headings of fields.
        but: fields of these that it does not leave open.
    """
    names = ["data_dir", *(name for group in groups for name in fields_of(group))]
    return tuple(name for name in names if name not in set(but))


def evaluated(model: str) -> str:
    """The cell that evaluates a model."""
    return f"{model}-evaluation"


def check_evaluation(flags: Values) -> None:
    """Checks flags of `training.evaluate` before anything is trained.

    Raises:
        InputError: a value out of range or an unknown name.
    """
    names = {"epsilon": "epsilons", "task": "tasks", "head": "heads"}
    fields = ("budget", "epsilon", "norm", "task", "head", "images", "batch_size", "seed")
    Settings(**{names.get(name, name): flags[name] for name in fields if name in flags})


def known(sweep: SweepFolder, model: str, cell: str | None = None) -> tuple[Values, Values | None]:
    """What is known of a model, whatever is measured of it, and the results of its evaluation;
    None where there are none, and "missing" then says why.

    Args:
        sweep: the sweep.
        model: the cell that makes it.
        cell: the one that evaluates it, where it is not `evaluated(model)`.
    """
    cell, made = cell or evaluated(model), sweep.cells[model]
    found: Values = {
        "name": model,
        "missing": None,
        "taken_from": made.options["path"] if made.kind == "taken" else None,
        "config": made.options if made.kind == "fit" else None,
        "seconds": {
            "trained_in": sweep.state(model).seconds, "evaluated_in": sweep.state(cell).seconds,
        },
    }  # fmt: skip
    if not sweep.done(cell):
        return found | {"missing": why_missing(sweep, cell)}, None
    results = read_results(sweep.result(cell), AGAIN)
    record = results["encoders"][0]
    found |= {
        "data": results["data"],
        "results": str(sweep.result(cell).relative_to(sweep.path)),
        "evaluated_by": results["provenance"],
        **{key: record[key] for key in ("config", *_KEPT) if key in record},
    }
    return found, results


def accuracy(record: Values, task: str, head: str, epsilon: float) -> float:
    """An accuracy of an evaluated encoder in percent; the nominal one where the radius is 0."""
    share = (
        attacked(record["robustness"], task, head, epsilon)["accuracy"]
        if epsilon
        else record["probes"][task][head]["nominal"]
    )
    return 100 * share["value"]


def why_missing(sweep: SweepFolder, cell: str) -> str:
    """Why the result of a cell is not there, in words."""
    state = sweep.state(cell)
    return f"{cell} is {state.name} {state.reason}".strip()


def common_data(models: dict[str, Values]) -> Values | None:
    """The data that models were evaluated on; None where there is none yet.

    Raises:
        InputError: they were evaluated on different data.
    """
    there = [model for model in models.values() if model["missing"] is None]
    for model in there:
        if model["data"]["checksums"] != there[0]["data"]["checksums"]:
            raise InputError(
                f"{model['name']} was evaluated on other data than {there[0]['name']}; they make "
                "no table: give them a sweep of their own"
            )
    return there[0]["data"] if there else None


def with_unit(measure: Values) -> str:
    """A measure's name and its unit, if it has one."""
    return ", ".join(filter(None, (measure["name"], measure["unit"])))


def at_radius(epsilon: float) -> str:
    """The radius of an attack in words; "nominal" where it is 0."""
    return f"ε {epsilon:g}" if epsilon else "nominal"


def step_times(sweep: SweepFolder, cell: str, baseline: str) -> Values:
    """Rates of steps, and the time of each step over the baseline's; "missing" says why there are
    none."""
    if not sweep.done(cell):
        return {"missing": why_missing(sweep, cell)}
    found = read_timing(sweep.result(cell))
    rates = found["rates"]
    factors = {name: time_factor(rates, name, baseline) for name in rates}
    return {
        "missing": None, "rates": rates, "factors": factors, "timed_by": found.get("provenance"),
    }  # fmt: skip


def check_data(sweep: SweepFolder) -> None:
    """Opens the data, the same for all models.

    Raises:
        InputError: there are none, or they cannot be used, or do not fit an architecture.
    """
    configs = [Config.from_dict(c.options) for c in sweep.declaration.cells if c.kind == "fit"]
    shape = open_data(configs[0]).image_shape
    for arch in {config.arch for config in configs}:
        ARCHITECTURES[arch].check(shape)


def made_by() -> Values:
    """Where a page comes from."""
    return {"command": session()["command"], **provenance()}
