"""Accuracy of a classifier under attack: the worst case of each example over many trials.

The protocol is the paper's, and a stronger one beside it. A trial is one search from one start, or
towards one class. An example that one trial has broken is not attacked again: up to the draw of
random starts the outcome is that of attacking all examples with all trials, at a fraction of the
cost. Of the others the best point is kept, and handed to the next trial, which may go on from it.
"""

import math
import string
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tf_avae.attacks import BALLS, Ball, margin
from tf_avae.backend import tf
from tf_avae.config import typed
from tf_avae.errors import InputError
from tf_avae.evaluation.batches import in_batches
from tf_avae.evaluation.budgets import BUDGETS, Budget
from tf_avae.evaluation.trial_graphs import TrialGraphs
from tf_avae.evaluation.trials import Classifier, Examples, Extent
from tf_avae.inputs import image_array, label_array, seed_of

TRIAL_LETTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase[:23]


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
        attacked: the point that broke it, or else the point of largest margin that was found, or
            the image itself, [N, H, W, C] float32.
        margin: there, [N] float32: max_(k != label) z_k - z_label, above 0 where it is broken.
    """

    clean: np.ndarray
    broken_by: np.ndarray
    trials: tuple[str, ...]
    attacked: np.ndarray
    margin: np.ndarray

    @property
    def survived(self) -> np.ndarray:
        """Correct as it is and under every trial, [N] bool."""
        return self.clean & (self.broken_by < 0)

    def first(self, count: int) -> "Outcomes":
        """The same of the first examples alone."""
        return Outcomes(
            self.clean[:count], self.broken_by[:count], self.trials, self.attacked[:count],
            self.margin[:count],
        )  # fmt: skip

    def compact(self) -> str:
        """A character for each example: "x" wrong as it is, "." unbroken, and for the number of
        the first trial that broke it 0-9, then A-Z, then a-w."""
        letters = np.array(list(TRIAL_LETTERS + "."))
        return "".join(np.where(self.clean, letters[self.broken_by], "x"))

    def accuracy_after(self) -> np.ndarray:
        """Accuracy under no trial, the first, the first two ...: [1 + trials]."""
        broken = [np.sum(self.broken_by == number) for number in range(len(self.trials))]
        return (self.clean.sum() - np.cumsum([0, *broken])) / len(self.clean)


def joined(parts: Sequence[Outcomes]) -> Outcomes:
    """The outcomes of some examples and of others, under the same trials, as those of all."""
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in Outcomes._fields
        if name != "trials"
    }
    return Outcomes(trials=parts[0].trials, **arrays)


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
    graphs: TrialGraphs | None = None,
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
            this call goes on from there. Outcomes of other trials without their names, (), are
            examples that stand and points to begin with.
        after_trial: called with the outcomes so far after each trial.
        graphs: those that earlier calls made; a graph serves all radii.

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
    graphs = graphs or TrialGraphs()
    logits = clean_logits(classify, images, labels, batch_size)
    extent = Extent(logits.shape[1], images.shape[3])
    clean = logits.argmax(1) == labels
    plan = budget.plan(extent, ball.name)
    if not plan:
        raise InputError(
            f"budget {budget.name!r} has no attack on {extent.classes} classes in the ball "
            f"{ball.name}; choose another budget or norm"
        )
    names = tuple(search.name for search in plan)
    found = Outcomes(clean, np.full(len(images), -1), (), images.copy(), _margins(logits, labels))
    if earlier is not None:
        _check_same(earlier, clean, names)
        found = _copy(earlier)
        clean = found.clean
    attacked, broken_by, margins = found.attacked, found.broken_by, found.margin
    done = len(found.trials)
    work = 0.0
    for count, (trial, number) in enumerate(plan[done:], start=done):
        standing = np.flatnonzero(clean & (broken_by < 0))
        nearest = np.argsort(-margins[standing], kind="stable")
        chosen = np.sort(standing[nearest[: math.ceil(trial.nearest * len(standing))]])
        after = sum(t.cost * t.nearest for t, _ in plan[count + 1 :])
        run = graphs.of(trial, classify, epsilon, ball, images.shape[1:])
        for start in range(0, len(chosen), batch_size):
            among = chosen[start : start + batch_size]
            still = int(np.sum(clean & (broken_by < 0)))
            left = trial.cost * (len(chosen) - start) + after * still
            progress(Stand(names[count], still, work, left))
            points, logits = run(
                Examples(
                    tf.constant(images[among]),
                    tf.constant(labels[among], tf.int32),
                    tf.constant(attacked[among]),
                    tf.constant(number),
                    first + [0, count * len(images) + start],
                )
            )
            logits = _checked(logits.numpy())
            broken, reached = logits.argmax(1) != labels[among], _margins(logits, labels[among])
            # A tie of logits may be a misclassification: broken comes before the margin.
            better = broken | (reached > margins[among])
            attacked[among[better]] = points.numpy()[better]
            margins[among[better]] = reached[better]
            broken_by[among[broken]] = count
            work += trial.cost * len(among)
        found = found._replace(trials=names[: count + 1])
        after_trial(_copy(found))
    progress(Stand(names[-1], int(np.sum(clean & (broken_by < 0))), work, 0.0))
    return found


def _copy(found: Outcomes) -> Outcomes:
    """Outcomes that stay when these go on."""
    return Outcomes(
        found.clean, found.broken_by.copy(), found.trials, found.attacked.copy(),
        found.margin.copy(),
    )  # fmt: skip


def _margins(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """max_(k != label) z_k - z_label, [N]."""
    return margin(tf.constant(logits), tf.constant(labels, tf.int32)).numpy()


def _check_same(earlier: Outcomes, clean: np.ndarray, names: tuple[str, ...]) -> None:
    """Raises `InputError` for earlier outcomes that are not of the first trials named."""
    made = len(earlier.trials)
    # Points of other trials, to go on from, come with no trials and with what was right then.
    if earlier.trials != names[:made] or (made and not np.array_equal(earlier.clean, clean)):
        raise InputError(
            f"earlier outcomes are those of another classifier, of other examples or trials "
            f"({', '.join(earlier.trials)}); start anew"
        )


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
