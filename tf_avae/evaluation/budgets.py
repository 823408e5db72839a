"""How hard an evaluation tries: attacks on a classifier, and budgets of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tf_avae.attacks import (
    BALLS,
    Ball,
    apgd,
    cross_entropy,
    margin,
    pgd,
    square,
    targeted_logit_ratio,
)
from tf_avae.attacks.classification import split_label
from tf_avae.backend import tf
from tf_avae.registry import Registry
from tf_avae.types import ImageLoss, Images, Tensor

Classifier = Callable[[Images], Tensor]
"""Images [B, H, W, C] float32 in [0, 1] to logits [B, K] float32, K known to the graph;
differentiable, in inference mode, computed in float32. Whatever stands between an image and its
logits is attacked with it."""


class Setting(NamedTuple):
    """What a trial works with.

    Attributes:
        classify: the classifier.
        epsilon: radius, in units of pixel values.
        ball: a row of `BALLS`.
    """

    classify: Classifier
    epsilon: float
    ball: Ball


Target = Callable[[Setting, Images, Tensor, Tensor], ImageLoss]
"""(setting, images [B, H, W, C], labels [B], number of the trial) to what a search climbs.

Whatever that is, the point of largest margin is kept, so no misclassification is lost."""

Search = Callable[[Setting, ImageLoss, Images, Tensor], Images]
"""(setting, loss, images [B, H, W, C], seed [2]) to attacked images."""


@dataclass(frozen=True)
class Trial:
    """A search and how often it is made.

    Attributes:
        name: the attack's name in results.
        target: what a search climbs.
        search: one search.
        times: number of classes to how many searches, numbered from 0, differ from one another; 0
            where it is not defined, or another trial does the same better.
        cost: of one search of one example, in gradient steps (about); for estimates of time.
        balls: names of the balls it knows.
    """

    name: str
    target: Target
    search: Search
    times: Callable[[int], int]
    cost: float
    balls: tuple[str, ...] = tuple(BALLS)


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

    def plan(self, classes: int, ball: str) -> list[Planned]:
        """The searches that it makes, in order.

        Args:
            classes: columns of the classifier's logits.
            ball: name of a row of `BALLS`; trials that do not know it are left out.
        """
        return [
            Planned(trial, number)
            for trial in self.trials
            if ball in trial.balls
            for number in range(trial.times(classes))
        ]


def _cross_entropy(on: Setting, images: Images, labels: Tensor, number: Tensor) -> ImageLoss:
    def loss(x: Images) -> tuple[Tensor, Tensor]:
        logits = on.classify(x)
        return cross_entropy(logits, labels), margin(logits, labels)

    return loss


def _margin(on: Setting, images: Images, labels: Tensor, number: Tensor) -> ImageLoss:
    return lambda x: margin(on.classify(x), labels)


def _next_class(on: Setting, images: Images, labels: Tensor, number: Tensor) -> ImageLoss:
    """The ratio towards the class that comes n-th after the label's in the clean logits."""
    _, others = split_label(on.classify(images), labels)
    targets = tf.argsort(others, direction="DESCENDING")[:, number]

    def loss(x: Images) -> tuple[Tensor, Tensor]:
        logits = on.classify(x)
        return targeted_logit_ratio(logits, labels, targets), margin(logits, labels)

    return loss


def _pgd(steps: int, random_start: bool = True) -> Search:
    return lambda on, loss, images, seed: pgd(
        loss, images, epsilon=on.epsilon, steps=steps, seed=seed, ball=on.ball,
        random_start=random_start,
    )  # fmt: skip


def _apgd(steps: int) -> Search:
    return lambda on, loss, images, seed: apgd(
        loss, images, epsilon=on.epsilon, steps=steps, seed=seed, ball=on.ball
    )


def _square(queries: int) -> Search:
    return lambda on, loss, images, seed: square(
        loss, images, epsilon=on.epsilon, queries=queries, seed=seed
    )


def _noise(on: Setting, loss: ImageLoss, images: Images, seed: Tensor) -> Images:
    """A random point of the ball: where a step of no length starts and ends."""
    return pgd(loss, images, epsilon=on.epsilon, steps=1, seed=seed, ball=on.ball, step_size=0.0)


def pgd_trial(steps: int, restarts: int = 1) -> Trial:
    """PGD on the cross-entropy from random starts."""
    return Trial(
        f"pgd-{steps}", _cross_entropy, _pgd(steps), times=lambda classes: restarts, cost=steps
    )


def still_trial(steps: int) -> Trial:
    """PGD on the cross-entropy from the image itself: all that it finds, the gradient shows."""
    search = _pgd(steps, random_start=False)
    return Trial(f"pgd-{steps}-still", _cross_entropy, search, times=lambda classes: 1, cost=steps)


def single_step_trial() -> Trial:
    """One step of the ball's radius from the image itself (the fast gradient sign method)."""

    def search(on: Setting, loss: ImageLoss, images: Images, seed: Tensor) -> Images:
        return pgd(
            loss, images, epsilon=on.epsilon, steps=1, seed=seed, ball=on.ball,
            step_size=on.epsilon, random_start=False,
        )  # fmt: skip

    return Trial("single-step", _cross_entropy, search, times=lambda classes: 1, cost=1)


def noise_trial(draws: int) -> Trial:
    """Random points of the ball."""
    return Trial("noise", _cross_entropy, _noise, times=lambda classes: draws, cost=1)


def square_trial(queries: int) -> Trial:
    """The Square attack on the margin."""
    # A query is a forward pass: about a third of a gradient step.
    return Trial(
        "square", _margin, _square(queries), times=lambda classes: 1, cost=queries / 3,
        balls=("linf",),
    )  # fmt: skip


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
    Budget(
        "strong",
        "1,000 images: the paper's PGD, Auto-PGD on cross-entropy and towards each of 9 classes, "
        "or on the margin where there are 2 or 3 (100 steps), Square (5,000 queries)",
        (
            pgd_trial(40, 10),
            Trial("apgd-ce", _cross_entropy, _apgd(100), times=lambda classes: 1, cost=100),
            Trial("apgd-t", _next_class, _apgd(100), cost=100,
                  times=lambda classes: min(classes - 1, 9) if classes >= 4 else 0),
            # Like the ratio that needs four classes, the margin is blind to the logits' scale.
            Trial("apgd-margin", _margin, _apgd(100), cost=100,
                  times=lambda classes: int(classes < 4)),
            square_trial(5000),
        ),
        images=1000,
        queries=5000,
    ),
)  # fmt: skip
