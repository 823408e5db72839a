"""Accuracy of a classifier under attack: the worst case of each example over many trials.

The protocol is the paper's, and a stronger one beside it. A trial is one search from one start, or
towards one class. An example that one trial has broken is not attacked again: up to the draw of
random starts the outcome is that of attacking all examples with all trials, at a fraction of the
cost.
"""

import string
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tf_avae.attacks import BALLS, Ball
from tf_avae.backend import tf
from tf_avae.config import typed
from tf_avae.errors import InputError
from tf_avae.evaluation.batches import compiled, image_spec, in_batches, seed_spec
from tf_avae.evaluation.budgets import BUDGETS, Budget, Classifier, Setting, Trial
from tf_avae.inputs import image_array, label_array, seed_of
from tf_avae.types import Images, Tensor

_TRIAL_LETTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase[:23]


class Stand(NamedTuple):
    """Where an evaluation is.

    Attributes:
        trial: the trial's name, such as "pgd-40/3".
        unbroken: examples that are right and that no trial has broken yet.
        done: work of this call, in gradient steps of one example.
        left: the same for what is left, at most: as if no more examples were broken.
    """

    trial: str
    unbroken: int
    done: float
    left: float


class Outcomes(NamedTuple):
    """What became of each example.

    Attributes:
        clean: whether it is classified correctly as it is, [N] bool.
        broken_by: number of the first trial that broke it, [N] int; -1 where none did. Examples
            that are wrong as they are have -1 too.
        trials: a name for each number, such as "pgd-40/3".
        attacked: the image that broke it, or the image itself, [N, H, W, C] float32. Not a number
            where an example was broken by earlier trials whose images were not kept.
    """

    clean: np.ndarray
    broken_by: np.ndarray
    trials: tuple[str, ...]
    attacked: np.ndarray

    @property
    def survived(self) -> np.ndarray:
        """Correct as it is and under every trial, [N] bool."""
        return self.clean & (self.broken_by < 0)

    def compact(self) -> str:
        """A character for each example: "x" wrong as it is, "." unbroken, and for the number of
        the first trial that broke it 0-9, then A-Z, then a-w."""
        letters = np.array(list(_TRIAL_LETTERS + "."))
        return "".join(np.where(self.clean, letters[self.broken_by], "x"))

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
    budget: Budget | str,
    seed: int = 0,
    ball: Ball | str = BALLS["linf"],
    batch_size: int = 500,
    progress: Callable[[Stand], None] = lambda stand: None,
    earlier: Outcomes | None = None,
    after_trial: Callable[[Outcomes], None] = lambda so_far: None,
) -> Outcomes:
    """Attacks each example until a trial breaks it.

    Args:
        classify: the classifier.
        images: [N, H, W, C] float32 in [0, 1].
        labels: columns of the logits, [N] integers in [0, K); of a probe that `probe.columns`
            makes of class numbers.
        epsilon: radius in units of pixel values, at least 0; in the L-infinity ball at most 1.
        budget: a row of `BUDGETS`, or its name. Trials that the number of classes or the ball does
            not allow are left out; `Outcomes.trials` says which were made.
        seed: of all random numbers; an integer of at least 0, or a stateless seed.
        ball: a row of `BALLS`, or its name.
        batch_size: examples attacked at once, at least 1. Random starts go by an example's place
            among those left, so another batch size is another draw of them.
        progress: called before each batch, and at the end.
        earlier: the last outcomes that a stopped call with the same arguments gave `after_trial`;
            this call goes on from there.
        after_trial: called with the outcomes so far after each trial.

    Raises:
        InputError: images, labels or numbers that do not fit, a classifier whose logits are not
            finite, or earlier outcomes of other trials.

    Warns:
        where the classifier gives probabilities in the place of logits.
    """
    images = image_array(images)
    labels = label_array(labels, count=len(images))
    budget, ball = BUDGETS.row(budget), BALLS.row(ball)
    check_epsilon(epsilon, ball)
    check_batch_size(batch_size)
    first = seed_of(seed)
    on = Setting(classify, epsilon, ball)
    logits = clean_logits(classify, images, labels, batch_size)
    classes = logits.shape[1]
    clean = logits.argmax(1) == labels
    plan = budget.plan(classes, ball.name)
    names = tuple(search.name for search in plan)
    attacked, broken_by = images.copy(), np.full(len(images), -1)
    done = 0
    if earlier is not None:
        done = _same(earlier, clean, names)
        attacked, broken_by = earlier.attacked.copy(), earlier.broken_by.copy()
    graphs: dict[str, Callable] = {}
    work = 0.0
    for count, (trial, number) in enumerate(plan[done:], start=done):
        unbroken = np.flatnonzero(clean & (broken_by < 0))
        after = sum(t.cost for t, _ in plan[count + 1 :])
        if trial.name not in graphs:
            graphs[trial.name] = compiled_trial(on, trial, images.shape[1:])
        for start in range(0, len(unbroken), batch_size):
            among = unbroken[start : start + batch_size]
            still = int(np.sum(clean & (broken_by < 0)))
            left = trial.cost * (len(unbroken) - start) + after * still
            progress(Stand(names[count], still, work, left))
            found, logits = graphs[trial.name](
                tf.constant(images[among]),
                tf.constant(labels[among], tf.int32),
                tf.constant(number),
                first + [0, count * len(images) + start],
            )
            broken = _checked(logits.numpy()).argmax(1) != labels[among]
            attacked[among[broken]] = found.numpy()[broken]
            broken_by[among[broken]] = count
            work += trial.cost * len(among)
        after_trial(Outcomes(clean, broken_by.copy(), names[: count + 1], attacked.copy()))
    progress(Stand(names[-1], int(np.sum(clean & (broken_by < 0))), work, 0.0))
    return Outcomes(clean, broken_by, names, attacked)


def _same(earlier: Outcomes, clean: np.ndarray, names: tuple[str, ...]) -> int:
    """The number of trials made earlier, of those named."""
    made = len(earlier.trials)
    if earlier.trials != names[:made] or not np.array_equal(earlier.clean, clean):
        raise InputError(
            f"earlier outcomes are those of another classifier, of other examples or trials "
            f"({', '.join(earlier.trials)}); start anew"
        )
    return made


def compiled_trial(on: Setting, trial: Trial, shape: tuple) -> Callable:
    """A trial as one graph: images, labels, number and seed to attacked images and logits."""

    @compiled(
        image_spec(shape), tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32), seed_spec()
    )
    def run(images: Images, labels: Tensor, number: Tensor, seed: Tensor) -> tuple[Images, Tensor]:
        found = trial.search(on, trial.target(on, images, labels, number), images, seed)
        return found, on.classify(found)

    return run


def clean_logits(
    classify: Classifier, images: np.ndarray, labels: np.ndarray, batch_size: int
) -> np.ndarray:
    """What a classifier says of images as they are, [N, K].

    Raises:
        InputError: logits that are not to be trusted, or a label that is no column of them.

    Warns:
        where they are probabilities.
    """
    logits = _checked(in_batches(classify, images, batch_size=batch_size))
    if len(logits) != len(images):
        raise InputError(
            f"the classifier gives {len(logits)} rows of logits for {len(images)} images; it must "
            "give one an image, whatever the batch"
        )
    label_array(labels, classes=logits.shape[1])
    if (logits >= 0).all() and np.allclose(logits.sum(axis=1), 1.0, atol=1e-4):
        warnings.warn(
            "the classifier's logits look like probabilities (at least 0, with sum 1): gradients "
            "through them vanish, and the accuracy under attack comes out too high. Give logits, "
            "what goes into the softmax, or tf.math.log of the probabilities",
            stacklevel=3,
        )
    return logits


def _checked(logits: Any) -> np.ndarray:
    """The same logits, where they can be trusted."""
    if not isinstance(logits, np.ndarray):
        raise InputError(
            f"the classifier gives {type(logits).__name__}; it must give a tensor of logits, "
            "[N, classes] float32"
        )
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


def check_batch_size(batch_size: int) -> None:
    """Raises `InputError` for no images at once."""
    if typed("batch_size", batch_size, (int,)) < 1:
        raise InputError(f"batch_size is {batch_size}; it must be at least 1")


def check_epsilon(epsilon: float, ball: Ball) -> None:
    """Raises `InputError` for a radius that makes no sense for images in [0, 1]."""
    epsilon = typed("epsilon", epsilon, (float,))
    most = 1.0 if ball.name == "linf" else 1e6
    if not (np.isfinite(epsilon) and 0 <= epsilon <= most):
        raise InputError(
            f"epsilon is {epsilon}; it must be from 0 to {most:g}, in units of pixel values"
        )
