"""Encoders under a budget, put together from the results of evaluations."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tf_avae.attacks import BALLS
from tf_avae.config import OUTPUT, Config, fields_of
from tf_avae.errors import InputError
from tf_avae.evaluation.results import read_results
from tf_avae.evaluation.robustness import TRIAL_LETTERS
from tf_avae.evaluation.statistics import proportion
from tf_avae.provenance import published
from tf_avae.records import NUMBER, damage_told, damaged, mismatch

Values = dict[str, Any]
"""JSON values."""

REMEDY = (
    "give the results.json of `python -m training.evaluate ENCODER --budget strong --section "
    "probes robustness checks latents`, of this version"
)

_ESTIMATE = {"value": NUMBER, "low": NUMBER, "high": NUMBER, "count": int}
_RECORD = {
    "name": str,
    "sha256": str,
    "probes": {str: {"classes": int}},
    "robustness": {
        "rows": [{"task": str, "head": str, "epsilon": NUMBER, "nominal": _ESTIMATE,
                  "accuracy": _ESTIMATE, "trials": [str], "outcomes": str}],
    },
}  # fmt: skip
_MAY_HAVE = {
    "config": {"seed": int},
    "step": int,
    "trained_at_commit": (str, type(None)),
    "latents": {"latents": int},
    "checks": {
        "groups": [
            {"task": str, "head": str, "checks": [{"name": str, "passed": bool, "found": str}]}
        ]
    },
}
_SHARED = {
    "settings": {"budget": str, "norm": str, "free_images": int},
    "data": {"name": str, "test_images": int},
    "provenance": {"commit": (str, type(None))},
}
_DATA = ("name", "validation", "test_images", "checksums")
_NOT_OF_TRAINING = frozenset({"seed", "data_dir", *fields_of(OUTPUT)})
_START = "init_from"


class Given(NamedTuple):
    """A file, and what the encoders in it are called; None for as it calls them."""

    path: Path
    name: str | None = None


@dataclass
class Training:
    """What is known of an encoder under a budget, through a head.

    Attributes:
        name: what its files call it.
        told: what the command line calls it.
        budget: name of the budget.
        norm: name of the ball.
        sha256: of its weights.
        config: that it was trained with; None where its files do not say.
        step: of training; None likewise.
        nominal: by task, the accuracy on all test images.
        robust: by task and radius, the row of its results, whose accuracy is counted again.
        classes: by task, columns of the logits.
        test_images: by task, how many there are.
        channels: of an image; None where its file does not say.
        checks: groups of honesty checks.
        latents: the section of that name; None where it was not measured.
        free_images: on how many images checks are made, at most.
        origin: by file, as it was given, commits of training and of evaluation.
    """

    name: str
    told: str | None
    budget: str
    norm: str
    sha256: str
    config: Values | None
    step: int | None
    nominal: dict[str, Values] = field(default_factory=dict)
    robust: dict[tuple[str, float], Values] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    test_images: dict[str, int] = field(default_factory=dict)
    channels: int | None = None
    checks: list[Values] = field(default_factory=list)
    latents: Values | None = None
    free_images: int = 0
    origin: dict[str, Values] = field(default_factory=dict)

    @property
    def seed(self) -> int | None:
        """Of training; None where it is not known."""
        return None if self.config is None else self.config["seed"]

    def setting(self) -> Any:
        """What trainings have in common that differ in their seed alone."""
        if self.config is None:
            return self.sha256
        return sorted((k, repr(v)) for k, v in of_training(self.config).items()), self.step


def of_training(config: Values) -> Values:
    """The options that decide the outcome of a training, but for its seed. A run may be older than
    an option, which then has its default."""
    whole = Config().to_dict() | config
    return {name: value for name, value in whole.items() if name not in _NOT_OF_TRAINING}


def differing(one: Training, other: Training) -> list[str]:
    """In which options two trainings with configs differ by more than their seed; what they
    started from aside, which may differ as their seeds do."""
    mine, theirs = (of_training(t.config or {}) | {"step": t.step} for t in (one, other))
    return [n for n in {**mine, **theirs} if n != _START and mine.get(n) != theirs.get(n)]


def read_trainings(given: Iterable[Given], head: str) -> tuple[list[Training], Values]:
    """The trainings that files are about, and the data that all of them are measured on.

    Several files may be about one encoder: of other tasks or radii.

    Args:
        given: results of evaluations.
        head: the probe whose figures are read.

    Raises:
        InputError: a file that is no evaluation, is damaged or of an older version; two that are
            of different data or norms, or that measure the same.
    """
    found: dict[tuple[str, str], Training] = {}
    first: tuple[Path, Values] | None = None
    for file in given:
        results = read_results(file.path, REMEDY)
        shared = {name: results["data"].get(name) for name in _DATA}
        shared["norm"] = results["settings"].get("norm")
        first = first or (file.path, shared)
        differ = [name for name, value in shared.items() if value != first[1][name]]
        if differ:
            raise InputError(
                f"{first[0]} and {file.path} differ in {', '.join(differ)}, so their figures make "
                "no table; make a leaderboard of each"
            )
        with damage_told(file.path, REMEDY):
            for training in _of_file(file, results, head):
                known = found.setdefault((training.sha256, training.budget), training)
                if known is not training:
                    _add(known, training)
    if first is None:
        raise InputError("no file is given; " + REMEDY)
    return list(found.values()), first[1]


def _of_file(file: Given, results: Values, head: str) -> Iterator[Training]:
    """A training for each encoder of a file."""
    settings, data = results["settings"], results["data"]
    _check(file.path, results, _SHARED)
    if settings["norm"] not in BALLS:
        raise damaged(file.path, f"settings.norm is {settings['norm']!r}", REMEDY)
    if "image_shape" in data:
        _check(file.path, results, {"data": {"image_shape": [int]}})
    for number, record in enumerate(results["encoders"]):
        shape = _RECORD | {key: of for key, of in _MAY_HAVE.items() if key in record}
        _check(file.path, record, shape, f"encoders[{number}]")
        json.dumps(record, allow_nan=False)  # others may have written what is no JSON
        training = Training(
            record["name"], file.name, settings["budget"], settings["norm"], record["sha256"],
            published(record.get("config")), record.get("step"), latents=record.get("latents"),
            free_images=settings["free_images"],
        )  # fmt: skip
        rows = [row for row in record["robustness"]["rows"] if row["head"] == head]
        if not rows:
            heads = sorted({row["head"] for row in record["robustness"]["rows"]})
            raise InputError(
                f"{file.path} has no figures of {record['name']} through the head {head!r}; leave "
                f"the file out, or give --head: {', '.join(heads) or 'none is there'}"
            )
        for row in rows:
            task = row["task"]
            probes = record["probes"][task]
            row = row | {"accuracy": _counted(file.path, row), "file": str(file.path)}
            if (task, row["epsilon"]) in training.robust:
                what = f"{record['name']} has {task} at ε {row['epsilon']:g} twice"
                raise damaged(file.path, what, REMEDY)
            training.robust[task, row["epsilon"]] = row
            training.nominal[task] = probes[head]["nominal"]
            _check(file.path, training.nominal[task], _ESTIMATE, f"probes.{task}.{head}.nominal")
            training.classes[task] = len(data.get("classes", {}).get(task, ())) or probes["classes"]
            training.test_images[task] = data.get("measured", {}).get(task, data["test_images"])
        training.channels = data.get("image_shape", [None])[-1]
        groups = record.get("checks", {"groups": []})["groups"]
        training.checks = [group for group in groups if group["head"] == head]
        training.origin[str(file.path)] = {
            "trained_at_commit": record.get("trained_at_commit"),
            "evaluated_at_commit": results["provenance"]["commit"],
        }
        yield training


def _check(path: Path, value: Any, shape: Values, where: str = "") -> None:
    """Raises `InputError` where a value of a file does not have a shape."""
    wrong = mismatch(value, shape, where)
    if wrong:
        raise damaged(path, wrong, REMEDY)


def _counted(path: Path, row: Values) -> Values:
    """The robust accuracy of a row, counted from the letters of its images.

    Raises:
        InputError: the row says otherwise.
    """
    if not (0 < row["epsilon"] < math.inf):
        raise damaged(path, f"epsilon of {row['task']} is {row['epsilon']:g}", REMEDY)
    letters = np.array(list(row["outcomes"]))
    known = {*".x", *TRIAL_LETTERS[: len(row["trials"])]}
    odd = sorted(set(letters) - known)
    if odd or not len(letters):
        what = f"are not all known: {''.join(odd)!r}" if odd else "are none"
        raise damaged(path, f"outcomes of {row['task']} at ε {row['epsilon']:g} {what}", REMEDY)
    counted = {"nominal": proportion(letters != "x"), "accuracy": proportion(letters == ".")}
    for name, found in counted.items():
        said = row[name]
        if said["count"] != found["count"] or not math.isclose(said["value"], found["value"]):
            raise damaged(
                path,
                f"{name} of {row['task']} at ε {row['epsilon']:g} is {said['value']:g} of "
                f"{said['count']:,}, and the outcomes of its images give {found['value']:g} of "
                f"{found['count']:,}",
                REMEDY,
            )
    return counted["accuracy"]


def _add(known: Training, more: Training) -> None:
    """Adds what another file has of the same encoder.

    Raises:
        InputError: both measure the same, or are given different names.
    """
    for key in known.robust.keys() & more.robust.keys():
        raise InputError(
            f"{known.robust[key]['file']} and {more.robust[key]['file']} both measure {key[0]} at "
            f"ε {key[1]:g} of the same weights ({known.sha256[:12]}, {known.name} and "
            f"{more.name}); give one of them: they are no two seeds"
        )
    if known.told != more.told:
        raise InputError(
            f"{', '.join(known.origin)} and {', '.join(more.origin)} are of the same weights and "
            "are given different names; give them the same NAME=FILE"
        )
    for name in ("nominal", "robust", "classes", "test_images", "origin"):
        getattr(known, name).update(getattr(more, name))
    known.checks += more.checks
    known.latents = known.latents or more.latents
