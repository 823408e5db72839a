"""Results of a grid on ColorMNIST that another sweep has: on another machine, or of an earlier day.

A grid may take longer than a machine is there. What a sweep wrote, its `colormnist.json`, is small
and keeps; put into another sweep's folder `known`, it stands there for what that sweep has not
measured. Training is exact, so the same model may be trained again to measure more of it: its
weights have the same checksum, or its figures are refused.
"""

import json
from pathlib import Path

from tf_avae.config import read_json
from tf_avae.errors import InputError
from tf_avae.files import shown
from training.sweep.models import Values

FOLDER = "known"
"""The folder's name."""

_READ = ("settings", "evaluation", "measures", "models", "time")


def read_known(folder: Path) -> list[Values]:
    """The known results in a sweep's folder, by name of their files, which they say as "file".

    Raises:
        InputError: a file that holds no such results.
    """
    found = []
    for path in sorted((folder / FOLDER).glob("*.json")):
        values = read_json(path)
        lacking = [key for key in _READ if key not in values]
        if lacking:
            raise InputError(
                f"{path} holds no results of a grid on ColorMNIST, it has no "
                f"{', '.join(lacking)}: take the file away"
            )
        found.append(values | {"file": shown(path)})
    return found


def check_known(folder: Path, settings: Values, evaluation: Values) -> None:
    """Checks the known results in a sweep's folder before anything is done.

    Args:
        folder: the sweep's.
        settings: the declaration's.
        evaluation: the flags of `training.evaluate` under each budget.

    Raises:
        InputError: they are of another grid, or were attacked in another way.
    """
    for other in read_known(folder):
        _check({"settings": settings, "evaluation": json.loads(json.dumps(evaluation))}, other)


def add_known(values: Values, other: Values, measures: dict[str, Values]) -> None:
    """Adds to a grid's figures those that it lacks and known results have.

    Args:
        values: the grid's, whose "models" and "time" are added to.
        other: known results, of `read_known`.
        measures: by name; those of what is added are added.

    Raises:
        InputError: they are of another grid, were attacked in another way, or are of a model with
            another config or other weights.
    """
    _check(values, other)
    added = False
    for name, model in values["models"].items():
        theirs = other["models"].get(name)
        if theirs is None:
            continue
        if theirs["config"] != model["config"]:
            raise _refused(other, f"its {name} has another config")
        for number, training in enumerate(model["trainings"]):
            if number < len(theirs["trainings"]):
                added |= _add(training, theirs["trainings"][number], other, values)
    if added:
        for measure in other["measures"]:
            if "task" in measure:
                measures.setdefault(measure["name"], measure)
    if values["time"]["missing"] is not None and other["time"]["missing"] is None:
        values["time"] = other["time"]


def _check(values: Values, other: Values) -> None:
    grids = (values["settings"]["grid"], other["settings"]["grid"])
    if grids[0] != grids[1]:
        raise _refused(other, f"it is of the grid {grids[1]}, this of {grids[0]}")
    for budget, flags in values["evaluation"].items():
        theirs = other["evaluation"].get(budget, flags)
        if theirs != flags:
            raise _refused(other, f"under {budget} it was evaluated with {theirs}, not {flags}")


def _refused(other: Values, why: str) -> InputError:
    return InputError(f"{other['file']} does not fit this sweep: {why}; take the file away")


def _add(training: Values, theirs: Values, other: Values, values: Values) -> bool:
    """Adds what a training lacks, in place; returns whether there was something."""
    lacking = training["not_measured"]
    new = [budget for budget in lacking if budget not in theirs["not_measured"]]
    new = [budget for budget in new if budget in other["settings"]["budgets"]]
    if not new:
        return False
    sums = [t.get("sha256") for t in (training, theirs)]
    if None not in sums and sums[0] != sums[1]:
        raise _refused(
            other, f"the weights of its {training['name']} are others (SHA-256 {sums[1]}, here "
            f"{sums[0]}): trained on another kind of processor or by another version"
        )  # fmt: skip
    training["figures"] = theirs["figures"] | training["figures"]
    for budget in new:
        del lacking[budget]
        took = theirs["seconds"]["evaluated_in"][budget]
        training["seconds"]["evaluated_in"][budget] = took
        training.setdefault("elsewhere", {})[budget] = (
            theirs.get("elsewhere", {}).get(budget) or theirs["evaluated_by"]
        )
    training["missing"] = lacking.get(values["settings"]["budgets"][0])
    training["seconds"]["trained_in"] = (
        training["seconds"]["trained_in"] or theirs["seconds"]["trained_in"]
    )
    for key in ("data", "sha256", "trained_at_commit", "evaluated_by"):
        if key in theirs:
            training.setdefault(key, theirs[key])
    return True
