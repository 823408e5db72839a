"""Results of a grid on ColorMNIST from another sweep, for grids that take longer than one machine.

A sweep whose folder `known` holds the `colormnist.json` of another one takes from it the figures
that it has not measured. Training is deterministic, so a model that is trained again to measure
more of it has the same weights; otherwise its known figures are refused.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tf_avae.config import read_json
from tf_avae.errors import InputError
from tf_avae.evaluation import BUDGETS
from tf_avae.files import shown
from tf_avae.records import damage_told
from training.sweep.cells.declaration import difference
from training.sweep.cells.folder import KNOWN, SweepFolder
from training.sweep.colormnist.measures import BESIDE, OF_RUN
from training.sweep.colormnist.study import TIMING, evaluations, trained
from training.sweep.models import BOUND, Values, check_data

ORIGIN = ("data", "sha256", "trained_at_commit")
"""What a training's record says of where its figures come from."""

_REMEDY = "take the file away"
_BEFORE = {"strong": ["pgd-40", "apgd-ce", "apgd-t", "apgd-margin", "square"]}
_READ = ("settings", "evaluation", "measures", "models", "time")


def check(sweep: SweepFolder) -> None:
    """Looks at the data and at known results before anything is done.

    Raises:
        InputError: they cannot be used.
    """
    check_data(sweep)
    for other in read_known(sweep.path):
        _check(sweep, other)


def read_known(folder: Path) -> list[Values]:
    """The known results in a sweep's folder, in the order of their files, each named as "file".

    Raises:
        InputError: a file that holds no such results.
    """
    found = []
    for path in sorted((folder / KNOWN).glob("*.json")):
        values = read_json(path)
        lacking = [key for key in _READ if not isinstance(values.get(key), dict | list)]
        if lacking:
            raise InputError(
                f"{path} holds no results of a grid on ColorMNIST, it has no "
                f"{', '.join(lacking)}: {_REMEDY}"
            )
        with damage_told(shown(path), _REMEDY):
            for budget, flags in values["evaluation"].items():
                # Files that do not say are older than the `strong` of today.
                flags.setdefault("searches", _BEFORE.get(budget) or BUDGETS[budget].searches)
        found.append(values | {"file": shown(path)})
    return found


def add_known(values: Values, sweep: SweepFolder, measures: dict[str, Values]) -> None:
    """Adds to a grid's figures those that it lacks and known results have.

    Args:
        values: the grid's, whose "models" and "time" are added to.
        sweep: where they come from.
        measures: by name; gets the measures of the figures that are added.

    Raises:
        InputError: known results are of another grid, were attacked in another way, or are of a
            model with another config, other data or other weights.
    """
    for other in read_known(sweep.path):
        _check(sweep, other)
        with damage_told(other["file"], _REMEDY):
            _join(values, other, measures)
            _join_times(values, other, sweep)


def _join(values: Values, other: Values, measures: dict[str, Values]) -> None:
    for name, model in values["models"].items():
        theirs = other["models"].get(name, {"trainings": []})["trainings"]
        for training, their in zip(model["trainings"], theirs, strict=False):
            new = _new(training, their, other)
            if new:
                _check_same(training, their, other)
            for budget in new:
                _take(training, their, other, budget, measures)
            training["missing"] = training["not_measured"].get(values["settings"]["budgets"][0])


def _new(training: Values, their: Values, other: Values) -> list[str]:
    """The budgets that a training lacks and the known one has been evaluated under."""
    there = [b for b in other["settings"]["budgets"] if b not in their["not_measured"]]
    return [budget for budget in training["not_measured"] if budget in there]


def _check_same(training: Values, their: Values, other: Values) -> None:
    """Refuses figures of another model, or on other data.

    Evaluated models have a checksum of their weights; runs whose bounds are equal to the last bit
    have the same weights too.
    """
    pairs = {
        "SHA-256 of the weights": (training.get("sha256"), their.get("sha256")),
        BOUND: (training["figures"].get(BOUND), their["figures"].get(BOUND)),
        "data": (training.get("data"), their.get("data")),
    }
    for what, (mine, found) in pairs.items():
        if None not in (mine, found) and mine != found:
            raise _refused(
                other, f"of its {training['name']}, {what}: {found}, here {mine}; it was trained "
                "on another kind of processor, by other versions or on other data"
            )  # fmt: skip


def _take(
    training: Values, their: Values, other: Values, budget: str, measures: dict[str, Values]
) -> None:
    """Takes the figures of a budget and notes where they come from; a run that was made here stays
    ours."""
    of_budget = {m["name"]: m for m in other["measures"] if m.get("budget") == budget}
    # The other sections are those of the first budget.
    beside = BESIDE if budget == other["settings"]["budgets"][0] else ()
    taken = [*of_budget, *(name for name in beside if name not in OF_RUN)]
    if BOUND not in training["figures"]:
        taken += OF_RUN
        training["seconds"]["trained_in"] = their["seconds"]["trained_in"]
    figures = {name: their["figures"][name] for name in taken if name in their["figures"]}
    training["figures"] |= figures
    for name, measure in of_budget.items():
        if name in figures:
            measures.setdefault(name, measure)
    del training["not_measured"][budget]
    training["seconds"]["evaluated_in"][budget] = their["seconds"]["evaluated_in"][budget]
    training.setdefault("evaluated_by", {})[budget] = their["evaluated_by"][budget]
    training["elsewhere"] = [*training.get("elsewhere", []), budget]
    for key in ORIGIN:
        if key in their:
            training.setdefault(key, their[key])


def _join_times(values: Values, other: Values, sweep: SweepFolder) -> None:
    """Takes the times of steps where this sweep has none, if they are of the same models."""
    timed = sweep.cells[TIMING].options["configs"]
    if values["time"]["missing"] is None or other["time"]["missing"] is not None:
        return
    if other["time"]["rates"].keys() == timed.keys() <= other["models"].keys():
        values["time"] = other["time"] | {"elsewhere": True}


def _check(sweep: SweepFolder, other: Values) -> None:
    """Refuses known results that are not of this grid, these attacks and these models."""
    with damage_told(other["file"], _REMEDY):
        for where, mine, found in _declared(sweep, other):
            differs = difference(_plain(mine), _plain(found), where)
            if differs:
                raise _refused(other, f"here {differs}")


def _declared(sweep: SweepFolder, other: Values) -> Iterator[tuple[str, Any, Any]]:
    """What must be the same: what it is, how it is here, how there."""
    settings = sweep.declaration.settings
    yield "the grid", settings["grid"], other["settings"]["grid"]
    for budget, flags in evaluations(sweep).items():
        if budget in other["settings"]["budgets"]:
            yield budget, flags, other["evaluation"][budget]
    for name in (row["name"] for row in settings["models"]):
        if name in other["models"]:
            config = sweep.cells[trained(name, 0)].options
            yield name, config, other["models"][name]["config"]


def _plain(value: Any) -> Any:
    """As a file has it; where the data are is no part of what was done."""
    plain = json.loads(json.dumps(value))
    return {k: v for k, v in plain.items() if k != "data_dir"} if isinstance(plain, dict) else plain


def _refused(other: Values, why: str) -> InputError:
    return InputError(
        f"{other['file']} does not fit this sweep: {why}. Take the file away, or give the options "
        "that it was made with"
    )
