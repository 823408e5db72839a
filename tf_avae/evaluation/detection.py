"""Can its inconsistency tell that an image was tampered with?

The score is W2^2(q(z|x), q(z|g(mu(x)))), the model's output `inconsistency`. It is measured under
attackers who do not know of the detector and under attackers who do, as Carlini & Wagner (2017),
"Adversarial Examples Are Not Easily Detected", ask for.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tf_avae.attacks import BALLS, Ball, cross_entropy, margin
from tf_avae.backend import tf
from tf_avae.errors import InputError
from tf_avae.evaluation import statistics
from tf_avae.evaluation.batches import compiled, image_spec, in_batches
from tf_avae.evaluation.budgets import BUDGETS
from tf_avae.evaluation.encoder import Encoder
from tf_avae.evaluation.evaluated import EvaluatedEncoder, Work
from tf_avae.evaluation.inputs import TestImages
from tf_avae.evaluation.part_store import Part
from tf_avae.evaluation.robustness import (
    Stand,
    check_batch_size,
    check_epsilon,
    clean_logits,
)
from tf_avae.evaluation.settings import Settings
from tf_avae.evaluation.tasks import Task
from tf_avae.evaluation.trial_graphs import TrialGraphs
from tf_avae.evaluation.trials import (
    Classifier,
    Examples,
    Extent,
    Setting,
    Trial,
    best_trial,
    flat_trial,
    noise_trial,
    pgd_trial,
    still_trial,
)
from tf_avae.inputs import image_array, label_array
from tf_avae.types import ImageLoss, Images, PerExample, Tensor

WEIGHTS = (0.01, 0.1, 1.0, 10.0)
"""λ: how much an attacker who knows of the score cares for it, beside the classification."""

FALSE_ALARMS = 0.05
"""Of so many images that nobody attacked, the score is above the threshold."""

NOISE, PGD, KNOWING = "noise", "pgd", "knowing"
"""Names of attacks in results: a random point of the ball, the plain attack, and for each image the
best of all attacks: that which breaks it with the least score."""

_LEAST_IMAGES = 40  # half of them give the threshold: one of twenty is 5 %
_TINY = 1e-6  # of the median score: below that, all scores are the same to an attacker

Score = Callable[[Images], PerExample]
"""Images [B, H, W, C] to a score [B], float32, at least 0, large where something is wrong;
differentiable."""


class Attacked(NamedTuple):
    """What an attack made of images.

    Attributes:
        wrong: whether each is misclassified, [N] bool.
        score: of each, [N].
        margin: of each, [N]: max_(k != label) z_k - z_label.
        points: the images themselves, [N, H, W, C].
    """

    wrong: np.ndarray
    score: np.ndarray
    margin: np.ndarray
    points: np.ndarray


def knowing_trial(steps: int, score: Score, unit: float, warm: bool = False) -> Trial:
    """PGD that keeps the score small: of all misclassified points on the way that of least score.

    It starts at the image itself, where the score is a usual one: the way back to that from a
    random start is longer than the steps reach. A warm one starts where the attacks that do not
    look at the score ended: where the image itself has no gradient, it finds more.

    Search number i < len(WEIGHTS) climbs cross-entropy - λ_i log(score/unit + 1e-6): the logarithm
    because scores differ by orders of magnitude from image to image. The last climbs the
    cross-entropy where a point is classified correctly, and -log(score/unit + 1e-6) elsewhere.

    Args:
        steps: of each search.
        score: what must not be noticed.
        unit: a usual score, above 0.
        warm: whether it starts at the best point known.
    """

    def target(on: Setting, examples: Examples) -> ImageLoss:
        labels, number = examples.labels, examples.number
        weight = tf.gather(tf.constant([*WEIGHTS, 0.0]), number)

        def loss(x: Images) -> tuple[Tensor, Tensor]:
            logits = on.classify(x)
            ahead, entropy = margin(logits, labels), cross_entropy(logits, labels)
            oddness = tf.math.log(score(x) / unit + _TINY)
            last = tf.where(ahead > 0, -oddness, entropy)
            climbed = tf.where(number < len(WEIGHTS), entropy - weight * oddness, last)
            # Any misclassification is better than none: exp(-oddness) is above 0.
            return climbed, tf.where(ahead > 0, tf.exp(-oddness), ahead)

        return loss

    # A step goes through the encoder twice and through the decoder: about three gradient steps.
    base = best_trial(steps) if warm else still_trial(steps)
    return replace(
        base, name=f"knowing-{steps}", target=target, times=lambda extent: len(WEIGHTS) + 1,
        cost=3 * steps,
    )  # fmt: skip


def detect(
    classify: Classifier,
    score: Score,
    images: np.ndarray,
    labels: np.ndarray,
    others: np.ndarray,
    *,
    epsilon: float,
    steps: int,
    seed: int = 0,
    ball: Ball | str = BALLS["linf"],
    batch_size: int = 500,
    progress: Callable[[Stand], None] = lambda stand: None,
    graphs: TrialGraphs | None = None,
) -> list[dict[str, Any]]:
    """How well a score tells attacked images from images that nobody attacked.

    Args:
        classify: the classifier.
        score: meant to be large for an attacked image.
        images: attacked, [N, H, W, C] float32 in [0, 1].
        labels: columns of the logits, [N] integers in [0, K).
        others: scores of M other images, which nobody attacked, [M].
        epsilon: radius in units of pixel values.
        steps: of PGD.
        seed: of the starts.
        ball: a row of `BALLS`, or its name.
        batch_size: images attacked at once.
        progress: called before each attack, and at the end.
        graphs: those that earlier calls made.

    Returns:
        for each attack (`NOISE`, `PGD`, "λ 0.01" and so on, "least score", `KNOWING`) "attack"; of
        all its images against the others "auc", and "flagged", the share above the threshold that
        5 % of the others exceed; "success", the share of images that are classified correctly as
        they are and not after the attack; "undetected", the share for which that is so and that
        are not flagged; "auc_success", that of the successful ones alone (None if there are none);
        and "median" of the score.

    Raises:
        InputError: images, labels, logits or numbers that do not fit, no other images, or a score
            that is not finite.

    Warns:
        where the classifier gives probabilities in the place of logits.
    """
    images, others = image_array(images), np.asarray(others)
    labels = label_array(labels, count=len(images))
    ball = BALLS.row(ball)
    check_epsilon(epsilon, ball)
    check_batch_size(batch_size)
    if others.ndim != 1 or not len(others):
        raise InputError(f"others have shape {others.shape}; they must be scores [M], at least one")
    threshold = threshold_of(others)
    logits = clean_logits(classify, images, labels, batch_size)
    right = logits.argmax(1) == labels
    unit = float(np.median(others)) or 1.0
    extent = Extent(logits.shape[1], images.shape[3])
    searches = _searches(steps, score, unit, extent)
    left = sum(trial.cost for _, trial, _ in searches) * len(images)
    work, graphs = 0.0, graphs or TrialGraphs()
    scored = compiled(image_spec(images.shape[1:]))(score)
    found: dict[str, Attacked] = {}
    for name, trial, number in searches:
        progress(Stand(name, int(right.sum()), work, left - work))
        run = graphs.of(trial, classify, epsilon, ball, images.shape[1:])
        best = found[PGD].points if PGD in found else images
        made = _attacked(run, scored, images, labels, best, number, seed, batch_size)
        if name in found:
            made = _best([found[name], made], by_score=name != PGD)
        found[name] = made
        work += trial.cost * len(images)
    found[KNOWING] = _best([found[name] for name in found if name != NOISE], by_score=True)
    progress(Stand(KNOWING, int(right.sum()), work, 0.0))
    return [_row(name, made, right, threshold, others) for name, made in found.items()]


def _row(
    name: str, attacked: Attacked, right: np.ndarray, threshold: float, others: np.ndarray
) -> dict[str, Any]:
    """The figures of an attack."""
    flagged, success = attacked.score > threshold, right & attacked.wrong
    of_success = attacked.score[success]
    return {
        "attack": name,
        "auc": statistics.area(attacked.score, others),
        "auc_success": statistics.area(of_success, others) if len(of_success) else None,
        "flagged": statistics.proportion(flagged),
        "success": statistics.proportion(success),
        "undetected": statistics.proportion(success & ~flagged),
        "median": float(np.median(attacked.score)),
    }


def _searches(
    steps: int, score: Score, unit: float, extent: Extent
) -> list[tuple[str, Trial, int]]:
    """The attacks: name, trial and number of the search. Of several with one name the best counts,
    image by image."""
    plain, flat = pgd_trial(steps), flat_trial(steps)
    knowing, warm = (knowing_trial(steps, score, unit, warm) for warm in (False, True))
    names = (*(f"λ {weight:g}" for weight in WEIGHTS), "least score")
    return [
        # No steps: at its pace, which is that of building a graph, nothing can be foretold.
        (NOISE, replace(noise_trial(1), cost=0), 0),
        (PGD, plain, 0),
        *((PGD, flat, number) for number in range(flat.times(extent))),
        *((name, knowing, number) for number, name in enumerate(names)),
        (names[-1], warm, len(names) - 1),
    ]


def _attacked(
    run: Callable, score: Callable, images: np.ndarray, labels: np.ndarray, best: np.ndarray,
    number: int, seed: int, batch_size: int,
) -> Attacked:  # fmt: skip
    def look(x: Images, y: Tensor, best: Images, seed: Tensor) -> tuple[Tensor, ...]:
        found, logits = run(Examples(x, y, best, tf.constant(number), seed))
        return logits, score(found), margin(logits, y), found

    logits, scores, margins, points = in_batches(
        look, images, labels.astype(np.int32), best, batch_size=batch_size, seed=seed
    )
    return Attacked(logits.argmax(1) != labels, _finite(scores), margins, points)


def _best(found: list[Attacked], by_score: bool) -> Attacked:
    """Of each image the attack that breaks it, with the least score, or else with the largest
    margin; where none does, the one of largest margin, or the first."""
    wrong = np.stack([attacked.wrong for attacked in found])
    if by_score:
        scores = np.stack([attacked.score for attacked in found])
        best = np.where(wrong, scores, np.inf).argmin(0)
    else:
        margins = np.stack([attacked.margin for attacked in found])
        best = np.where(wrong, np.inf, margins).argmax(0)
    at = np.arange(len(best))
    return Attacked(*(np.stack(column)[best, at] for column in zip(*found, strict=True)))


def threshold_of(others: np.ndarray) -> float:
    """The score that 5 % of images that nobody attacked exceed; an image above it is flagged."""
    return float(np.quantile(_finite(others), 1 - FALSE_ALARMS))


def _finite(scores: np.ndarray) -> np.ndarray:
    if not np.isfinite(scores).all():
        raise InputError(
            "the inconsistency is not finite for all images, as they are or under attack; mend the "
            "encoder or the decoder, or leave the section detection out"
        )
    return scores


# ---------------------------------------------------------------------- the section


def lacks(encoder: Encoder, test: TestImages) -> str | None:
    """What this section needs and does not have, in words; None if it has all."""
    if len(test.images) < _LEAST_IMAGES:
        return f"fewer than {_LEAST_IMAGES} test images"
    return encoder.lacks_model


def _count(settings: Settings, test: TestImages) -> int:
    """How many images are attacked: at most half of them, for the others give the threshold."""
    return min(settings.free_images, len(test.images) // 2)


def planned_detection(
    encoder: Encoder, test: TestImages, tasks: Mapping[str, Task], settings: Settings
) -> dict[Work, float]:
    """The gradient steps of one image that the section takes, by part."""
    if "detection" not in settings.sections or lacks(encoder, test):
        return {}
    count, channels = _count(settings, test), test.images.shape[3]

    def cost(task: Task) -> float:
        extent = Extent(len(task.classes), channels)
        searches = _searches(BUDGETS[settings.budget].steps, tf.zeros_like, 1.0, extent)
        return sum(trial.cost for _, trial, _ in searches)

    return {
        _work(encoder, name, epsilon): cost(task) * len(task.among(count).at)
        for name, task in tasks.items()
        for epsilon in settings.epsilons
    }


def _work(encoder: Encoder, task: str, epsilon: float) -> Work:
    return encoder.name, "detection", task, epsilon


def detection(evaluated: EvaluatedEncoder) -> dict[str, Any]:
    """What the first head's attackers achieve, seen and unseen, for each task and radius."""
    settings, encoder, head = evaluated.settings, evaluated.encoder, evaluated.settings.heads[0]
    images, count = evaluated.test.images, _count(settings, evaluated.test)

    def look() -> Part:
        evaluated.say("inconsistency of the test images")
        return Part({}, {"scores": evaluated.of_images(evaluated.inconsistency, images)})

    scores = evaluated.part("inconsistency", {}, look).arrays["scores"]
    others = scores[count:]
    threshold = threshold_of(others)
    rows = []
    for task, of_task in evaluated.tasks.items():
        told = of_task.among(count)
        for epsilon in sorted(settings.epsilons) if len(told.at) else ():

            def attack(task: str = task, told: Task = told, epsilon: float = epsilon) -> Part:
                what = f"telling attacks on the {head} probe of {task}, ε {epsilon:g}"
                found = detect(
                    evaluated.classify(task, head), evaluated.inconsistency,
                    told.first(count, images), told.labels, others, epsilon=epsilon,
                    steps=evaluated.budget.steps, seed=settings.seed, ball=BALLS[settings.norm],
                    batch_size=settings.batch_size,
                    progress=lambda stand: evaluated.say(f"{what}: {stand.trial}", stand),
                    graphs=evaluated.graphs,
                )  # fmt: skip
                return Part({"attacks": found}, {})

            key = {
                "task": task, "head": head, "epsilon": epsilon, "images": len(told.at),
                "steps": evaluated.budget.steps, "weights": WEIGHTS,
            }  # fmt: skip
            made = evaluated.part("detection", key, attack, _work(encoder, task, epsilon))
            rows.append({"task": task, "epsilon": epsilon, **made.values})
    return {
        "head": head,
        "images": count,
        "others": len(others),
        "threshold": threshold,
        "false_alarms": statistics.proportion(scores[:count] > threshold),
        "rows": rows,
    }
