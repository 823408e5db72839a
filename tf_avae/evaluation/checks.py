"""Checks that tell a robust encoder from a broken evaluation.

Each is a row: what must be so if the robustness figures mean what they say, after Carlini et al.
(2019), "On Evaluating Adversarial Robustness", and Athalye et al. (2018), "Obfuscated Gradients
Give a False Sense of Security". They attack the first images again, in ways that must be weaker,
or that must not be stronger, than the attacks whose outcome is reported.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tf_avae.attacks import BALLS, Ball, cross_entropy
from tf_avae.backend import tf
from tf_avae.evaluation.batches import compiled, image_spec, in_batches
from tf_avae.evaluation.budgets import (
    Budget,
    Classifier,
    Trial,
    noise_trial,
    pgd_trial,
    single_step_trial,
    square_trial,
    still_trial,
)
from tf_avae.evaluation.robustness import Outcomes, worst_case
from tf_avae.registry import Registry
from tf_avae.types import Images, PerExample, Tensor

TOLERANCE = 0.02
"""How far an accuracy may lie on the wrong side: two points. One search is not exhaustive, and
on a few hundred images two points are a handful of them."""

_NOISE_DRAWS = 10
_MORE_STEPS, _MORE_RESTARTS = 4, 5


@dataclass(frozen=True)
class Case:
    """What the checks of one task look at.

    Attributes:
        embed: images [B, H, W, C] to embeddings [B, D].
        classify: embeddings' classifier over images.
        images, labels: the examples attacked again, [N, H, W, C] and [N].
        epsilon: the radius at which they are.
        budget: the evaluation's; its number of PGD steps counts.
        curve: accuracy by radius on all attacked examples, from radius 0 on.
        majority: share of the commonest class among the test labels.
        nominal: accuracy of each test example as it is, bool [M].
        converged: whether the probe's solver converged.
        seed: of the attacks.
        ball: a row of `BALLS`.
        batch_size: examples attacked at once.
    """

    embed: Callable[[Images], Tensor]
    classify: Classifier
    images: np.ndarray
    labels: np.ndarray
    epsilon: float
    budget: Budget
    curve: dict[float, float]
    majority: float
    nominal: np.ndarray
    converged: bool
    seed: int = 0
    ball: Ball = BALLS["linf"]
    batch_size: int = 500

    def attacked(self, *trials: Trial, epsilon: float | None = None) -> Outcomes:
        """The outcomes of trials on the case's examples."""
        return worst_case(
            self.classify, self.images, self.labels,
            epsilon=self.epsilon if epsilon is None else epsilon,
            budget=Budget("check", "", trials), seed=self.seed, ball=self.ball,
            batch_size=self.batch_size,
        )  # fmt: skip

    def accuracy(self, *trials: Trial, epsilon: float | None = None) -> float:
        """The accuracy under trials."""
        return float(self.attacked(*trials, epsilon=epsilon).survived.mean())

    @cached_property
    def white_box(self) -> Outcomes:
        """PGD from one start, and from as many more as the check of restarts asks for."""
        return self.attacked(pgd_trial(self.budget.steps, 1 + _MORE_RESTARTS))

    @property
    def one_start(self) -> float:
        """Accuracy under PGD from one start."""
        return float(self.white_box.accuracy_after()[1])


class Finding(NamedTuple):
    """What a check found.

    Attributes:
        passed: whether the figures can be trusted so far.
        found: the figures looked at, in words.
    """

    passed: bool
    found: str


@dataclass(frozen=True)
class Check:
    """One thing that must be so.

    Attributes:
        name: the row's name.
        must: what must be so, for the report.
        why: what it means if it is not.
        look: a case to a finding.
        balls: names of the balls it can be made in.
    """

    name: str
    must: str
    why: str
    look: Callable[[Case], Finding]
    balls: tuple[str, ...] = tuple(BALLS)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _same_answer(case: Case) -> Finding:
    """Asked as one graph, among other images in smaller batches, and without a graph."""
    order = np.random.default_rng(case.seed).permutation(len(case.images))
    shuffled = case.images[order]
    few = max(1, min(case.batch_size, len(order)) // 3)
    embed = compiled(image_spec(case.images.shape[1:]))(case.embed)
    once = in_batches(embed, case.images, batch_size=case.batch_size)[order]
    others = [in_batches(embed, shuffled, batch_size=few), np.asarray(case.embed(shuffled[:few]))]
    # In units of each dimension's own size: a probe standardises them.
    size = once.std(0) + 0.01 * np.abs(once).max(0) + 1e-30
    change = max(float((np.abs(once[: len(other)] - other) / size).max()) for other in others)
    return Finding(change < 1e-3, f"largest relative change between calls {change:.1e}")


def _above_chance(case: Case) -> Finding:
    # Three standard errors of the majority's rate.
    spread = 3 * np.sqrt(case.majority * (1 - case.majority) / len(case.nominal))
    accuracy = float(case.nominal.mean())
    least = case.majority + spread
    return Finding(
        accuracy > least,
        f"nominal {_percent(accuracy)}; must be above {_percent(least)}: commonest class "
        f"{_percent(case.majority)}, three standard errors on {len(case.nominal):,} images "
        f"{100 * spread:.1f} points",
    )


def _converged(case: Case) -> Finding:
    return Finding(case.converged, "it did" if case.converged else "it stopped at its limit")


def _gradients(case: Case) -> Finding:
    @compiled(image_spec(case.images.shape[1:]), tf.TensorSpec([None]))
    def size(x: Images, labels: Tensor) -> PerExample:
        labels = tf.cast(labels, tf.int32)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = cross_entropy(case.classify(x), labels)
        gradient = tape.gradient(loss, x, unconnected_gradients="zero")
        return tf.reduce_max(tf.abs(gradient), [1, 2, 3])

    labels = case.labels.astype(np.float32)
    sizes = in_batches(size, case.images, labels, batch_size=case.batch_size)
    zero = float(np.mean(~(sizes > 0)))
    return Finding(zero <= 0.01, f"zero for {_percent(zero)} of the images")


def _iterative(case: Case) -> Finding:
    single = case.accuracy(single_step_trial())
    return Finding(
        case.one_start <= single + TOLERANCE,
        f"PGD {_percent(case.one_start)}, one step {_percent(single)}",
    )


def _noise(case: Case) -> Finding:
    noise = case.accuracy(noise_trial(_NOISE_DRAWS))
    return Finding(
        case.one_start <= noise + TOLERANCE,
        f"PGD {_percent(case.one_start)}, best of {_NOISE_DRAWS} random points {_percent(noise)}",
    )


def _falls(case: Case) -> Finding:
    curve = sorted(case.curve.items())
    rises = [b - a for (_, a), (_, b) in itertools.pairwise(curve)]
    found = ", ".join(f"ε {radius:g}: {_percent(value)}" for radius, value in curve)
    return Finding(max(rises, default=0.0) <= TOLERANCE, found)


def _reaches_chance(case: Case) -> Finding:
    # The whole cube of pixel values lies in the ball. Not from random points of it: there even
    # noise is misclassified.
    most = 1.0 if case.ball.name == "linf" else float(np.sqrt(np.prod(case.images.shape[1:])))
    accuracy = case.accuracy(still_trial(2 * case.budget.steps), epsilon=most)
    clean = float(np.mean(case.nominal[: len(case.images)]))
    most_left = min(case.majority, clean / 2)  # where one class is nearly all, chance says little
    return Finding(
        accuracy <= most_left,
        f"{_percent(accuracy)} at ε {most:g}; at most {_percent(most_left)} may be left",
    )


def _more_steps(case: Case) -> Finding:
    more = case.accuracy(pgd_trial(_MORE_STEPS * case.budget.steps))
    return Finding(
        more >= case.one_start - TOLERANCE,
        f"{case.budget.steps} steps {_percent(case.one_start)}, "
        f"{_MORE_STEPS * case.budget.steps} steps {_percent(more)}",
    )


def _more_restarts(case: Case) -> Finding:
    after = case.white_box.accuracy_after()
    return Finding(
        after[-1] >= after[1] - 2 * TOLERANCE,
        f"one start {_percent(after[1])}, {len(after) - 1} starts {_percent(after[-1])}",
    )


def _gradient_free(case: Case) -> Finding:
    square = case.attacked(square_trial(case.budget.queries))
    only = float(np.mean(case.white_box.survived & ~square.survived))
    return Finding(
        only <= TOLERANCE,
        f"Square ({case.budget.queries:,} queries) breaks {_percent(only)} that PGD does not",
    )


CHECKS: Registry[Check] = Registry(
    "check",
    Check(
        "deterministic", "an image has the same embedding each time, whatever the batch",
        "attacks against a random answer measure its luck", _same_answer,
    ),
    Check(
        "above-chance",
        "nominal accuracy is above the commonest class's share by three standard errors of it",
        "the head is not told apart from one that always answers the commonest class: there are "
        "too few test images to tell, or the encoder says nothing of the task, or has collapsed "
        "(what is constant cannot be moved)",
        _above_chance,
    ),
    Check(
        "converged", "the probe's solver converged",
        "an unfinished probe is neither the protocol's nor reproducible", _converged,
    ),
    Check(
        "gradients", "the loss has a gradient at nearly all images",
        "gradients are hidden: gradient attacks find nothing whatever there is", _gradients,
    ),
    Check(
        "iterative", "PGD is at least as strong as one step",
        "the steps lead astray: masked gradients, or a wrong step size", _iterative,
    ),
    Check(
        "noise", "PGD is at least as strong as random noise",
        "the gradient says nothing of the loss", _noise,
    ),
    Check(
        "falls", "accuracy does not rise with ε",
        "a larger ball holds the smaller: the attack failed to use it", _falls,
    ),
    Check(
        "reaches-chance",
        "from the image itself, with all images within reach, PGD leaves chance at most",
        "an attack that cannot break even that is broken itself", _reaches_chance,
    ),
    Check(
        "more-steps", "four times the steps change little",
        "PGD had not finished: the reported accuracy is too high", _more_steps,
    ),
    Check(
        "more-restarts", "five more starts change little",
        "each start finds other failures: more would find yet more", _more_restarts,
    ),
    Check(
        "gradient-free", "an attack without gradients breaks next to nothing that PGD does not",
        "gradients are masked: the reported accuracy is too high", _gradient_free,
        balls=("linf",),
    ),
)  # fmt: skip


def run_checks(
    case: Case, progress: Callable[[str], None] = lambda check: None
) -> list[dict[str, Any]]:
    """What each check finds, in their order: "name", "passed" and "found"."""
    findings = []
    for check in CHECKS.values():
        if case.ball.name in check.balls:
            progress(check.name)
            passed, found = check.look(case)
            findings.append({"name": check.name, "passed": bool(passed), "found": found})
    return findings
