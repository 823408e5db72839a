"""Attacks on a classifier: what a search climbs, where it begins, and how often it is made."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tf_avae.attacks import (
    Ball,
    Start,
    apgd,
    cross_entropy,
    margin,
    pgd,
    square,
    targeted_logit_ratio,
)
from tf_avae.attacks.classification import split_label
from tf_avae.attacks.starts import flat, given
from tf_avae.backend import tf
from tf_avae.types import ImageLoss, Images, Tensor

Classifier = Callable[[Images], Tensor]
"""Images [B, H, W, C] float32 in [0, 1] to logits [B, K] float32, K known to the graph;
differentiable, in inference mode, computed in float32. Whatever stands between an image and its
logits is attacked with it."""


class Setting(NamedTuple):
    """What a trial works with.

    Attributes:
        classify: the classifier.
        epsilon: radius, in units of pixel values; a number or a scalar tensor.
        ball: a row of `BALLS`.
    """

    classify: Classifier
    epsilon: Tensor
    ball: Ball


class Examples(NamedTuple):
    """The examples that a trial attacks, and what is known of them.

    Attributes:
        images: as they are, [B, H, W, C].
        labels: columns of the logits, [B].
        best: the points of largest margin that earlier trials found, as `images`; the images
            themselves for the first trial.
        number: of the search among the trial's, int32.
        seed: of its random numbers, a stateless seed [2].
    """

    images: Images
    labels: Tensor
    best: Images
    number: Tensor
    seed: Tensor


Target = Callable[[Setting, Examples], ImageLoss]
"""What a search climbs. Whatever that is, the point of largest margin is kept, so no
misclassification is lost."""

Search = Callable[[Setting, ImageLoss, Examples], Images]
"""To attacked images."""


class Extent(NamedTuple):
    """What decides how many searches of a trial differ from one another.

    Attributes:
        classes: number of columns of the logits.
        channels: of an image.
    """

    classes: int
    channels: int


@dataclass(frozen=True)
class Trial:
    """A search and how often it is made.

    Attributes:
        name: the attack's name in results.
        target: what a search climbs.
        search: one search.
        times: `Extent` to how many searches, numbered from 0; 0 where it is not defined, or another
            trial does the same better.
        cost: of one search of one example, in gradient steps (about); for estimates of time.
        balls: names of the balls it knows; every ball where empty.
        nearest: the share of the standing examples that it attacks: those whose best points have
            the largest margins, so that they are nearest to being broken.
    """

    name: str
    target: Target
    search: Search
    times: Callable[[Extent], int]
    cost: float
    balls: tuple[str, ...] = ()
    nearest: float = 1.0


def _cross_entropy(on: Setting, examples: Examples) -> ImageLoss:
    def loss(x: Images) -> tuple[Tensor, Tensor]:
        logits = on.classify(x)
        return cross_entropy(logits, examples.labels), margin(logits, examples.labels)

    return loss


def _margin(on: Setting, examples: Examples) -> ImageLoss:
    return lambda x: margin(on.classify(x), examples.labels)


def _next_class(on: Setting, examples: Examples) -> ImageLoss:
    """The ratio towards the class that comes n-th after the label's in the clean logits."""
    _, others = split_label(on.classify(examples.images), examples.labels)
    targets = tf.argsort(others, direction="DESCENDING")[:, examples.number]

    def loss(x: Images) -> tuple[Tensor, Tensor]:
        logits = on.classify(x)
        ratio = targeted_logit_ratio(logits, examples.labels, targets)
        return ratio, margin(logits, examples.labels)

    return loss


def _pgd(
    steps: int, start: Callable[[Examples], Start | str] = lambda examples: "ball",
    schedule: str = "fixed", first: float | None = None,
) -> Search:  # fmt: skip
    """PGD; `first` is the length of its first step in radii, the schedule's unless given."""

    def search(on: Setting, loss: ImageLoss, examples: Examples) -> Images:
        return pgd(
            loss, examples.images, epsilon=on.epsilon, steps=steps, seed=examples.seed,
            ball=on.ball, start=start(examples), schedule=schedule,
            step_size=None if first is None else first * on.epsilon,
        )  # fmt: skip

    return search


def _apgd(steps: int) -> Search:
    return lambda on, loss, examples: apgd(
        loss, examples.images, epsilon=on.epsilon, steps=steps, seed=examples.seed, ball=on.ball
    )


def _square(queries: int, warm: bool = False) -> Search:
    return lambda on, loss, examples: square(
        loss, examples.images, epsilon=on.epsilon, queries=queries, seed=examples.seed,
        start=given(examples.best) if warm else "stripes",
    )  # fmt: skip


def _warm(queries: int, steps: int) -> Search:
    """A short Square from the best point, then PGD from there at half and a quarter of ε."""

    def search(on: Setting, loss: ImageLoss, examples: Examples) -> Images:
        found = square(
            loss, examples.images, epsilon=on.epsilon, queries=queries, seed=examples.seed,
            start=given(examples.best),
        )  # fmt: skip
        for first in (0.5, 0.25):
            found = pgd(
                loss, examples.images, epsilon=on.epsilon, steps=steps, seed=examples.seed,
                ball=on.ball, start=given(found), schedule="decaying",
                step_size=first * on.epsilon,
            )  # fmt: skip
        return found

    return search


@functools.cache
def pgd_trial(steps: int, restarts: int = 1) -> Trial:
    """PGD on the cross-entropy from random starts."""
    return Trial(
        f"pgd-{steps}", _cross_entropy, _pgd(steps), times=lambda extent: restarts, cost=steps
    )


@functools.cache
def still_trial(steps: int) -> Trial:
    """PGD on the cross-entropy from the image itself: all that it finds, the gradient shows."""
    search = _pgd(steps, lambda examples: "image")
    return Trial(f"pgd-{steps}-still", _cross_entropy, search, times=lambda extent: 1, cost=steps)


@functools.cache
def best_trial(steps: int) -> Trial:
    """PGD on the cross-entropy from the best point known."""
    search = _pgd(steps, lambda examples: given(examples.best), "decaying", first=0.5)
    return Trial(f"pgd-{steps}-best", _cross_entropy, search, times=lambda extent: 1, cost=steps)


@functools.cache
def flat_trial(steps: int, most: int = 8) -> Trial:
    """PGD on the cross-entropy from whole channels shifted by ±ε, in each of the 2^C ways: first
    x + ε. Steps go from ε to 0."""
    search = _pgd(steps, lambda examples: flat(examples.number), "decaying")
    return Trial(
        f"pgd-{steps}-flat", _cross_entropy, search,
        times=lambda extent: min(2**extent.channels, most), cost=steps,
    )  # fmt: skip


@functools.cache
def warm_trial(rounds: int, nearest: float, queries: int = 300, steps: int = 20) -> Trial:
    """Rounds of search from the best point that is known of each of the examples nearest to being
    broken."""
    return Trial(
        "warm", _margin, _warm(queries, steps), times=lambda extent: rounds,
        cost=queries / 3 + 2 * steps, balls=("linf",), nearest=nearest,
    )  # fmt: skip


@functools.cache
def apgd_trial(steps: int) -> Trial:
    """Auto-PGD on the cross-entropy."""
    return Trial("apgd-ce", _cross_entropy, _apgd(steps), times=lambda extent: 1, cost=steps)


@functools.cache
def class_trial(steps: int, most: int) -> Trial:
    """Auto-PGD on the targeted logit ratio towards the classes that come first after the label's,
    so many at most; it needs four classes."""
    return Trial(
        "apgd-t", _next_class, _apgd(steps), cost=steps,
        times=lambda extent: min(extent.classes - 1, most) if extent.classes >= 4 else 0,
    )  # fmt: skip


@functools.cache
def margin_trial(steps: int) -> Trial:
    """Auto-PGD on the margin where there are fewer than four classes: like the ratio that needs
    four, it is blind to the logits' scale."""
    return Trial(
        "apgd-margin", _margin, _apgd(steps), cost=steps,
        times=lambda extent: int(extent.classes < 4),
    )  # fmt: skip


@functools.cache
def single_step_trial() -> Trial:
    """One step of the ball's radius from the image itself (the fast gradient sign method)."""
    search = _pgd(1, lambda examples: "image", first=1.0)
    return Trial("single-step", _cross_entropy, search, times=lambda extent: 1, cost=1)


@functools.cache
def noise_trial(draws: int) -> Trial:
    """Random points of the ball: where a step of no length starts and ends."""
    search = _pgd(1, first=0.0)
    return Trial("noise", _cross_entropy, search, times=lambda extent: draws, cost=1)


@functools.cache
def square_trial(queries: int, warm: bool = False) -> Trial:
    """The Square attack on the margin: from stripes, or from the best points known."""
    # A query is a forward pass: about a third of a gradient step.
    return Trial(
        "square-warm" if warm else "square", _margin, _square(queries, warm),
        times=lambda extent: 1, cost=queries / 3, balls=("linf",),
    )  # fmt: skip
