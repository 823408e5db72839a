"""What a figure must be to stand in a leaderboard."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tf_avae.attacks.balls import knows
from tf_avae.errors import first_few
from tf_avae.evaluation import BUDGETS, CHECKS, Settings
from tf_avae.evaluation.table import failed
from tf_avae.evaluation.trials import Extent
from tf_avae.registry import Registry
from training.leaderboard.trainings import Training, Values

HARD = ("exhaustive", "strong")
"""Names of the budgets that are hard enough."""

IMAGES = 1000
"""How many images must be attacked."""

FREE_IMAGES = Settings.free_images
"""How many images checks must be made on."""


class Measured(NamedTuple):
    """What all figures of a leaderboard have in common.

    Attributes:
        data: name, checksums and number of test images; the norm.
        head: the probe.
        tasks: labels, in the order of columns.
        epsilons: radii likewise.
    """

    data: Values
    head: str
    tasks: tuple[str, ...]
    epsilons: tuple[float, ...]

    def rows(self, training: Training) -> list[Values]:
        """The rows of a training's results that the table shows."""
        asked = ((task, epsilon) for task in self.tasks for epsilon in self.epsilons)
        return [training.robust[key] for key in asked if key in training.robust]


@dataclass(frozen=True)
class Rule:
    """A rule of admission.

    Attributes:
        name: the row's name.
        must: what must be so.
        why: what is wrong otherwise.
        look: a training and what is measured to what is not as it must be; None where all is.
    """

    name: str
    must: str
    why: str
    look: Callable[[Training, Measured], str | None]


def _budget(training: Training, measured: Measured) -> str | None:
    return None if training.budget in HARD else training.budget


def _trials(training: Training, measured: Measured) -> str | None:
    if training.budget not in BUDGETS:
        return f"this version has no budget {training.budget}"
    if training.channels is None:
        return "the file is of a version that did not say what an image is"
    for row in measured.rows(training):
        extent = Extent(training.classes[row["task"]], training.channels)
        plan = BUDGETS[training.budget].plan(extent, training.norm)
        names = [search.name for search in plan]
        if row["trials"] != names:
            odd = sorted(set(names) ^ set(row["trials"])) or ["their order"]
            return f"{row['task']} at ε {row['epsilon']:g} differs in {first_few(odd, 4)}"
    return None


def _images(training: Training, measured: Measured) -> str | None:
    few = [
        f"{row['task']} at ε {row['epsilon']:g}: {row['accuracy']['count']:,}"
        for row in measured.rows(training)
        if row["accuracy"]["count"] < min(IMAGES, training.test_images[row["task"]])
    ]
    return "; ".join(few) or None


def _complete(training: Training, measured: Measured) -> str | None:
    lacking = [
        f"{task} at ε {epsilon:g}"
        for task in measured.tasks
        for epsilon in measured.epsilons
        if (task, epsilon) not in training.robust
    ]
    return f"no {first_few(lacking)}" if lacking else None


def _checked(training: Training, measured: Measured) -> str | None:
    wanted = {check.name for check in CHECKS.values() if knows(check.balls, training.norm)}
    lacking = []
    for task in measured.tasks:
        made = {c["name"] for g in training.checks if g["task"] == task for c in g["checks"]}
        left = [name for name in CHECKS if name in wanted - made]
        if left:
            lacking.append(f"{task}: {'all' if set(left) == wanted else ', '.join(left)}")
    if lacking:
        return f"not made of {'; of '.join(lacking)}"
    made_on = training.free_images
    return f"on {made_on:,} images" if made_on < FREE_IMAGES else None


def _sound(training: Training, measured: Measured) -> str | None:
    groups = [group for group in training.checks if group["task"] in measured.tasks]
    found = [f"{g['task']}: {c['name']} ({c['found']})" for g, c in failed({"groups": groups})]
    return "; ".join(found) or None


RULES: Registry[Rule] = Registry(
    "rule",
    Rule(
        "budget", f"the budget is {' or '.join(f'`{name}`' for name in HARD)}",
        "PGD alone misses images that other attacks break", _budget,
    ),
    Rule(
        "searches", "the searches made are those that this version's budget of that name makes",
        "figures of another version's budget are those of another attack", _trials,
    ),
    Rule(
        "images", f"{IMAGES:,} test images are attacked, or all where there are fewer",
        "with half as many the interval reaches four points to either side, and chance decides "
        "the order", _images,
    ),
    Rule(
        "complete", "there is a figure for each task and ε of the table",
        "whoever chooses what to show shows the best", _complete,
    ),
    Rule(
        "checked", f"all honesty checks are made of each task, on {FREE_IMAGES} images or more",
        "whether the figures can be trusted is not known", _checked,
    ),
    Rule(
        "sound", "all honesty checks that were made passed",
        "the figure is an upper bound that an outside adversary may well beat", _sound,
    ),
)  # fmt: skip
