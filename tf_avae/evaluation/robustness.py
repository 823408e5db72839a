"""Accuracy of a classifier under attack: the worst case of each example over many trials.

The protocol is the paper's, and a stronger one beside it. A trial is one search from one start, or
towards one class. An example that one trial has broken is not attacked again: up to the draw of
random starts the outcome is that of attacking all examples with all trials, at a fraction of the
cost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

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
from tf_avae.config import check
from tf_avae.errors import InputError
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
        balls: names of the balls it knows.
    """

    name: str
    target: Target
    search: Search
    times: Callable[[int], int]
    balls: tuple[str, ...] = tuple(BALLS)


@dataclass(frozen=True)
class Budget:
    """How hard an evaluation tries.

    Attributes:
        name: the row's name.
        summary: what it is, for `--help` and the docs.
        trials: in this order, the cheapest first.
    """

    name: str
    summary: str
    trials: tuple[Trial, ...]


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


def _pgd(steps: int) -> Search:
    return lambda on, loss, images, seed: pgd(
        loss, images, epsilon=on.epsilon, steps=steps, seed=seed, ball=on.ball
    )


def _apgd(steps: int) -> Search:
    return lambda on, loss, images, seed: apgd(
        loss, images, epsilon=on.epsilon, steps=steps, seed=seed, ball=on.ball
    )


def _square(queries: int) -> Search:
    return lambda on, loss, images, seed: square(
        loss, images, epsilon=on.epsilon, queries=queries, seed=seed
    )


def _pgd_trial(steps: int, restarts: int) -> Trial:
    return Trial(f"pgd-{steps}", _cross_entropy, _pgd(steps), times=lambda classes: restarts)


BUDGETS: Registry[Budget] = Registry(
    "budget",
    Budget("smoke", "PGD, 10 steps, one start: to see that all runs", (_pgd_trial(10, 1),)),
    Budget("paper", "PGD, 40 steps, 10 random starts (App. F)", (_pgd_trial(40, 10),)),
    Budget(
        "paper-celeba", "PGD, 20 steps, 10 random starts (App. F, CelebA)", (_pgd_trial(20, 10),)
    ),
    Budget(
        "strong",
        "the paper's PGD, Auto-PGD on cross-entropy and towards each of 9 classes, or on the "
        "margin where there are 2 or 3 (100 steps), Square (5,000 queries)",
        (
            _pgd_trial(40, 10),
            Trial("apgd-ce", _cross_entropy, _apgd(100), times=lambda classes: 1),
            Trial("apgd-t", _next_class, _apgd(100),
                  times=lambda classes: min(classes - 1, 9) if classes >= 4 else 0),
            # Like the ratio that needs four classes, the margin is blind to the logits' scale.
            Trial("apgd-margin", _margin, _apgd(100), times=lambda classes: int(classes < 4)),
            Trial("square", _margin, _square(5000), times=lambda classes: 1, balls=("linf",)),
        ),
    ),
)  # fmt: skip


class Outcomes(NamedTuple):
    """What became of each example.

    Attributes:
        clean: whether it is classified correctly as it is, [N] bool.
        broken_by: number of the first trial that broke it, [N] int; -1 where none did. Examples
            that are wrong as they are have -1 too.
        trials: a name for each number, such as "pgd-40/3".
        attacked: the image that broke it, or the image itself, [N, H, W, C] float32.
    """

    clean: np.ndarray
    broken_by: np.ndarray
    trials: tuple[str, ...]
    attacked: np.ndarray

    @property
    def survived(self) -> np.ndarray:
        """Correct as it is and under every trial, [N] bool."""
        return self.clean & (self.broken_by < 0)

    def accuracy_after(self) -> np.ndarray:
        """Accuracy under no trial, the first, the first two ...: [1 + trials]."""
        broken = [np.sum(self.broken_by == number) for number in range(len(self.trials))]
        return (self.clean.sum() - np.cumsum([0, *broken])) / len(self.clean)


def worst_case(
    classify: Classifier,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    epsilon: float,
    budget: Budget,
    seed: int = 0,
    ball: Ball = BALLS["linf"],
    batch_size: int = 500,
    progress: Callable[[str, int], None] | None = None,
) -> Outcomes:
    """Attacks each example until a trial breaks it.

    Args:
        classify: the classifier.
        images: [N, H, W, C] float32 in [0, 1].
        labels: the classes, [N] integers in [0, K).
        epsilon: radius in units of pixel values, at least 0; in the L-infinity ball at most 1.
        budget: a row of `BUDGETS`. Trials that the number of classes or the ball does not allow
            are left out; `Outcomes.trials` says which were made.
        seed: of all random numbers, at least 0.
        ball: a row of `BALLS`.
        batch_size: examples attacked at once, at least 1. Random starts go by an example's place
            among those left, so another batch size is another draw of them.
        progress: told the name of each trial before it starts, and how many examples are left.

    Raises:
        InputError: images, labels or numbers that do not fit, or a classifier whose logits are
            not finite.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    _check(images, labels, epsilon, ball, seed, batch_size)
    on = Setting(classify, epsilon, ball)
    logits = _in_batches(classify, images, batch_size)
    classes = logits.shape[1]
    if labels.max() >= classes:
        raise InputError(f"labels go up to {labels.max()}, the classifier has {classes} classes")
    clean = logits.argmax(1) == labels
    attacked, broken_by = images.copy(), np.full(len(images), -1)
    plan = [
        (trial, number)
        for trial in budget.trials
        if ball.name in trial.balls
        for number in range(trial.times(classes))
    ]
    for count, (trial, number) in enumerate(plan):
        left = np.flatnonzero(clean & (broken_by < 0))
        if progress is not None:
            progress(f"{trial.name}/{number}", len(left))
        if number == 0:
            run = _compiled(on, trial, images.shape[1:])
        for start in range(0, len(left), batch_size):
            among = left[start : start + batch_size]
            step_seed = tf.constant([seed, count * len(images) + start], tf.int32)
            found, logits = run(images[among], labels[among].astype(np.int32), number, step_seed)
            broken = _checked(logits.numpy()).argmax(1) != labels[among]
            attacked[among[broken]] = found.numpy()[broken]
            broken_by[among[broken]] = count
    names = tuple(f"{trial.name}/{number}" for trial, number in plan)
    return Outcomes(clean, broken_by, names, attacked)


def _compiled(on: Setting, trial: Trial, shape: tuple) -> Callable:
    """A trial as one graph: images, labels, number and seed to attacked images and logits."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *shape], tf.float32),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([2], tf.int32),
        ]
    )
    def run(images: Images, labels: Tensor, number: Tensor, seed: Tensor) -> tuple[Images, Tensor]:
        found = trial.search(on, trial.target(on, images, labels, number), images, seed)
        return found, on.classify(found)

    return run


def _in_batches(classify: Classifier, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Logits of all images, [N, K], checked."""
    parts = [
        np.asarray(classify(tf.constant(images[start : start + batch_size])))
        for start in range(0, len(images), batch_size)
    ]
    return _checked(np.concatenate(parts))


def _checked(logits: np.ndarray) -> np.ndarray:
    """The same logits, where they can be trusted."""
    if logits.ndim != 2 or logits.shape[1] < 2 or logits.dtype != np.float32:
        raise InputError(
            f"logits have shape {logits.shape} and dtype {logits.dtype}; they must be "
            "[N, classes] float32, 2 classes or more"
        )
    if not np.isfinite(logits).all():
        raise InputError(
            "the classifier's logits are not all finite, on the images or under attack; mend it: "
            "its robustness cannot be told"
        )
    return logits


def _check(
    images: np.ndarray, labels: np.ndarray, epsilon: float, ball: Ball, seed: int, batch_size: int
) -> None:
    if images.ndim != 4 or images.dtype != np.float32 or not len(images):
        raise InputError(
            f"images have shape {images.shape} and dtype {images.dtype}; they must be "
            "[N, H, W, C] float32, N at least 1"
        )
    if not (images.min() >= 0 and images.max() <= 1):
        raise InputError(f"images go from {images.min()} to {images.max()}; they must be in [0, 1]")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise InputError(
            f"labels have shape {labels.shape} and dtype {labels.dtype}; they must be "
            f"{len(images)} integers, at least 0"
        )
    most = 1.0 if ball.name == "linf" else np.inf
    if not (np.isfinite(epsilon) and 0 <= epsilon <= most):
        raise InputError(
            f"epsilon is {epsilon}; it must be from 0 to {most:g}, in units of pixel values"
        )
    check(seed=seed)
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; it must be at least 1")
