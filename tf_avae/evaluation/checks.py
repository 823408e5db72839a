"""Checks that tell a robust encoder from a broken evaluation.

Each is a row: what must be so if the robustness figures mean what they say, after Carlini et al.
(2019), "On Evaluating Adversarial Robustness", and Athalye et al. (2018), "Obfuscated Gradients
Give a False Sense of Security". They attack the first images again, in ways that must be weaker,
or that must not be stronger, than the attacks whose outcome is reported. What a check finds is one
sentence: its rule, and the numbers that it was held to.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tf_avae.attacks import BALLS, STARTS, Ball, Start, cross_entropy
from tf_avae.attacks.balls import knows
from tf_avae.attacks.domain import Domain
from tf_avae.backend import tf
from tf_avae.evaluation.batches import compiled, image_spec, in_batches, seed_spec
from tf_avae.evaluation.budgets import Budget
from tf_avae.evaluation.robustness import Outcomes, worst_case
from tf_avae.evaluation.trial_graphs import TrialGraphs
from tf_avae.evaluation.trials import (
    Classifier,
    Trial,
    flat_trial,
    noise_trial,
    pgd_trial,
    single_step_trial,
    square_trial,
    still_trial,
)
from tf_avae.registry import Registry
from tf_avae.types import Images, Tensor

TOLERANCE = 0.02
"""How far an accuracy may lie on the wrong side: two points. One search is not exhaustive, and
on a few hundred images two points are a handful of them."""

_POINTS = round(100 * TOLERANCE)
_SAME, _NO_GRADIENT, _DEAD = 1e-3, 0.01, 0.05
_NOISE_DRAWS = 10
_MORE_STEPS, _MORE_RESTARTS = 4, 5


@dataclass(frozen=True)
class Case:
    """What the checks of one task look at.

    Attributes:
        embed: images [B, H, W, C] to embeddings [B, D].
        classify: embeddings' classifier over images.
        images, labels: the examples attacked again, [N, H, W, C] and [N].
        reported: what the evaluation's budget made of these examples at this radius.
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
    reported: Outcomes
    epsilon: float
    budget: Budget
    curve: dict[float, float]
    majority: float
    nominal: np.ndarray
    converged: bool
    seed: int = 0
    ball: Ball = BALLS["linf"]
    batch_size: int = 500
    graphs: TrialGraphs = field(default_factory=TrialGraphs)

    def attacked(self, *trials: Trial, epsilon: float | None = None) -> Outcomes:
        """The outcomes of trials on the case's examples."""
        return worst_case(
            self.classify, self.images, self.labels,
            epsilon=self.epsilon if epsilon is None else epsilon,
            budget=Budget("check", "", trials), seed=self.seed, ball=self.ball,
            batch_size=self.batch_size, graphs=self.graphs,
        )  # fmt: skip

    def beyond(self, trial: Trial) -> tuple[int, int]:
        """How many of the examples that stand in the report a trial breaks, from their best points
        where it starts there; and how many examples there are."""
        found = worst_case(
            self.classify, self.images, self.labels, epsilon=self.epsilon,
            budget=Budget("check", "", (trial,)), seed=self.seed, ball=self.ball,
            batch_size=self.batch_size, graphs=self.graphs,
            earlier=self.reported._replace(trials=()),
        )  # fmt: skip
        return int(np.sum(self.reported.survived & ~found.survived)), len(self.images)

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
        balls: names of the balls it can be made in; every ball where empty.
    """

    name: str
    must: str
    why: str
    look: Callable[[Case], Finding]
    balls: tuple[str, ...] = ()


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
    return Finding(
        change < _SAME,
        f"between calls an embedding changes by {change:.1e} of its spread; less than {_SAME:g} is "
        "rounding",
    )


def _above_chance(case: Case) -> Finding:
    count, right = len(case.nominal), int(np.sum(case.nominal))
    errors = 3 * np.sqrt(case.majority * (1 - case.majority) / count)
    least = case.majority + errors
    above = right / count > least
    told = "above it" if above else "too few images to tell"
    if right / count <= case.majority:
        told = "no better than chance"
    return Finding(
        above,
        f"{right:,} of {count:,} right, {_percent(right / count)}; chance "
        f"{_percent(case.majority)} + 3 standard errors = {_percent(least)}: {told}",
    )


def _converged(case: Case) -> Finding:
    return Finding(case.converged, "it did" if case.converged else "it stopped at its limit")


def _slopes(case: Case, start: Start | str) -> np.ndarray:
    """The absolute gradient of the cross-entropy at a start, [N, H, W, C]."""
    start = STARTS.row(start)

    @compiled(image_spec(case.images.shape[1:]), tf.TensorSpec([None], tf.int32), seed_spec())
    def of_batch(images: Images, labels: Tensor, seed: Tensor) -> Images:
        x = start.point(Domain(images, case.ball, case.epsilon), seed)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = cross_entropy(case.classify(x), labels)
        return tf.abs(tape.gradient(loss, x, unconnected_gradients="zero"))

    labels = case.labels.astype(np.int32)
    return in_batches(
        of_batch, case.images, labels, batch_size=case.batch_size, seed=case.seed
    )  # fmt: skip


def _gradients(case: Case) -> Finding:
    zero = int(np.sum(~(_slopes(case, "image").max(axis=(1, 2, 3)) > 0)))
    share = zero / len(case.images)
    return Finding(
        share <= _NO_GRADIENT,
        f"zero everywhere at {zero} of {len(case.images)} images, {_percent(share)}; at most "
        f"{_percent(_NO_GRADIENT)} may be",
    )


def _dead_pixels(case: Case) -> Finding:
    here = _slopes(case, "image") == 0
    there = (_slopes(case, "brighter") > 0) | (_slopes(case, "darker") > 0)
    share = float(np.mean(here & there))
    return Finding(
        share <= _DEAD,
        f"{_percent(share)} of the pixel values have a gradient at x ± ε and exactly none at x; at "
        f"most {_percent(_DEAD)} may",
    )


def _iterative(case: Case) -> Finding:
    return _no_more(case, case.accuracy(single_step_trial()), "one step")


def _noise(case: Case) -> Finding:
    noise = case.accuracy(noise_trial(_NOISE_DRAWS))
    return _no_more(case, noise, f"the best of {_NOISE_DRAWS} random points")


def _no_more(case: Case, weak: float, name: str) -> Finding:
    """PGD must not leave more than a weak attack, but for the tolerance."""
    return Finding(
        case.one_start <= weak + TOLERANCE,
        f"PGD leaves {_percent(case.one_start)}, {name} {_percent(weak)}; PGD may leave "
        f"{_POINTS} points more",
    )


def _falls(case: Case) -> Finding:
    curve = sorted(case.curve.items())
    rises = [b - a for (_, a), (_, b) in itertools.pairwise(curve)]
    found = ", ".join(f"{_percent(value)} at ε {radius:g}" for radius, value in curve)
    return Finding(
        max(rises, default=0.0) <= TOLERANCE,
        f"{found}; from one to the next it may rise by {_POINTS} points",
    )


def _reaches_chance(case: Case) -> Finding:
    # The whole cube of pixel values lies in the ball. Not from random points of it: there even
    # noise is misclassified.
    most = 1.0 if case.ball.name == "linf" else float(np.sqrt(np.prod(case.images.shape[1:])))
    accuracy = case.accuracy(still_trial(2 * case.budget.steps), epsilon=most)
    clean = float(np.mean(case.nominal[: len(case.images)]))
    # Where one class is nearly all, chance says little.
    limit = "chance" if case.majority < clean / 2 else "half of the nominal accuracy"
    most_left = min(case.majority, clean / 2)
    return Finding(
        accuracy <= most_left,
        f"PGD leaves {_percent(accuracy)} at ε {most:g}; it may leave {limit}, "
        f"{_percent(most_left)}",
    )


def _more_steps(case: Case) -> Finding:
    more = case.accuracy(pgd_trial(_MORE_STEPS * case.budget.steps))
    return Finding(
        more >= case.one_start - TOLERANCE,
        f"PGD leaves {_percent(case.one_start)} after {case.budget.steps} steps and "
        f"{_percent(more)} after {_MORE_STEPS * case.budget.steps}; it may leave {_POINTS} points "
        "less",
    )


def _more_restarts(case: Case) -> Finding:
    after = case.white_box.accuracy_after()
    return Finding(
        after[-1] >= after[1] - 2 * TOLERANCE,
        f"PGD leaves {_percent(after[1])} from one start and {_percent(after[-1])} from "
        f"{len(after) - 1}; it may leave {2 * _POINTS} points less",
    )


def _flat_start(case: Case) -> Finding:
    return _beyond(case, flat_trial(case.budget.steps), "PGD from x ± ε")


def _gradient_free(case: Case) -> Finding:
    queries = case.budget.queries
    return _beyond(case, square_trial(queries, warm=True), f"Square ({queries:,} queries)")


def _beyond(case: Case, trial: Trial, name: str) -> Finding:
    """A trial must break hardly any example that the report says stands."""
    broken, count = case.beyond(trial)
    return Finding(
        broken <= TOLERANCE * count,
        f"{name} breaks {broken} of {count} images that stand in the report, "
        f"{_percent(broken / count)}; it may break {_percent(TOLERANCE)}",
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
        "dead-pixels", "next to no pixel has a gradient near by and none at the image",
        "there attacks from the image, and from uniform noise that is clipped away, never move it: "
        "their figures are too high", _dead_pixels,
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
        "flat-start", "PGD from whole channels shifted by ε breaks next to nothing more",
        "the evaluation's starts miss what others find: the reported accuracy is too high",
        _flat_start,
    ),
    Check(
        "gradient-free",
        "an attack without gradients, from the best points known, breaks next to nothing more",
        "gradients are masked: the reported accuracy is too high", _gradient_free, balls=("linf",),
    ),
)  # fmt: skip


def run_checks(
    case: Case, progress: Callable[[str], None] = lambda check: None
) -> list[dict[str, Any]]:
    """What each check finds, in their order: "name", "passed" and "found"."""
    findings = []
    for check in CHECKS.values():
        if knows(check.balls, case.ball.name):
            progress(check.name)
            passed, found = check.look(case)
            findings.append({"name": check.name, "passed": bool(passed), "found": found})
    return findings
