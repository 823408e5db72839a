"""How hard an evaluation tries: budgets of attacks."""

from dataclasses import dataclass
from typing import NamedTuple

from tf_avae.attacks.balls import knows
from tf_avae.evaluation.trials import (
    Extent,
    Trial,
    apgd_trial,
    class_trial,
    flat_trial,
    margin_trial,
    pgd_trial,
    square_trial,
    warm_trial,
)
from tf_avae.registry import Registry


class Planned(NamedTuple):
    """A search that a budget makes.

    Attributes:
        trial: of what kind.
        number: which of the trial's searches.
    """

    trial: Trial
    number: int

    @property
    def name(self) -> str:
        """What results call it, such as "pgd-40/3"."""
        return f"{self.trial.name}/{self.number}"


@dataclass(frozen=True)
class Budget:
    """How hard an evaluation tries.

    Attributes:
        name: the row's name.
        summary: what it is, for `--help` and the docs.
        trials: in this order, the cheapest first.
        images: how many test images it attacks unless told otherwise; None for all.
        steps: of PGD where a search is made outside of these trials: on the representation, and
            for the checks.
        queries: of the attack without gradients among the checks.
    """

    name: str
    summary: str
    trials: tuple[Trial, ...]
    images: int | None = None
    steps: int = 40
    queries: int = 1000

    @property
    def searches(self) -> list[str]:
        """The names of its trials: figures of others under the same name cannot be compared."""
        return [trial.name for trial in self.trials]

    def plan(self, extent: Extent, ball: str) -> list[Planned]:
        """The searches that it makes, in order.

        Args:
            extent: what decides how many there are.
            ball: name of a row of `BALLS`; trials that do not know it are left out.
        """
        return [
            Planned(trial, number)
            for trial in self.trials
            if knows(trial.balls, ball)
            for number in range(trial.times(extent))
        ]

    def cost(self, extent: Extent, ball: str) -> float:
        """Gradient steps an example where none is broken."""
        return sum(trial.cost * trial.nearest for trial, _ in self.plan(extent, ball))


BUDGETS: Registry[Budget] = Registry(
    "budget",
    Budget(
        "smoke", "PGD, 10 steps, one start, 200 images: to see that all runs", (pgd_trial(10),),
        images=200, steps=10,
    ),
    Budget("paper", "PGD, 40 steps, 10 random starts, all images (App. F)", (pgd_trial(40, 10),)),
    Budget(
        "paper-celeba", "PGD, 20 steps, 10 random starts, all images (App. F, CelebA)",
        (pgd_trial(20, 10),), steps=20,
    ),
    # Composed by measurement: `python -m benchmarks.budgets`.
    Budget(
        "strong",
        "1,000 images: PGD from each channel shifted by ±ε (20 steps, up to 8 starts), Auto-PGD "
        "towards the 3 next classes, or on the margin where there are 2 or 3 (100 steps), and 16 "
        "rounds of Square and PGD from the best points",
        (flat_trial(20), class_trial(100, 3), margin_trial(100), warm_trial(16, nearest=0.25)),
        images=1000,
    ),
    Budget(
        "exhaustive",
        "500 images, for the last word: more of what `strong` consists of, and besides the "
        "paper's PGD, Auto-PGD on the cross-entropy and towards each of 9 classes, and Square "
        "(5,000 queries)",
        (
            flat_trial(40),
            pgd_trial(40, 10),
            apgd_trial(100),
            class_trial(100, 9),
            margin_trial(100),
            square_trial(5000),
            warm_trial(24, nearest=0.5),
        ),
        images=500,
        queries=5000,
    ),
)  # fmt: skip
