"""Certified accuracy: the share of images of which bounds prove that no attack can break them.

An attack gives an upper bound of the accuracy in the worst case, a proof a lower one.
"""

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from tf_avae.errors import InputError, ProofContradicted, first_few
from tf_avae.evaluation import statistics
from tf_avae.evaluation.batches import in_batches
from tf_avae.evaluation.encoder import Encoder
from tf_avae.evaluation.evaluated import EvaluatedEncoder, Work, batches
from tf_avae.evaluation.part_store import Part
from tf_avae.evaluation.proofs import PROOFS
from tf_avae.evaluation.robustness import Stand
from tf_avae.evaluation.section import Piece
from tf_avae.evaluation.settings import Settings
from tf_avae.evaluation.tasks import Task
from tf_avae.types import Images, PerExample, Tensor

SECTION = "certified"
_BALL = "linf"


def lacks(evaluated: EvaluatedEncoder) -> str | None:
    """What is missing for proofs, in words; None if nothing."""
    norm = evaluated.settings.norm
    if norm != _BALL:
        return f"no bounds: they are of the ball {_BALL}, and the norm is {norm}"
    try:
        evaluated.prover  # noqa: B018 - it is made, or it says why not
    except InputError as error:
        return str(error)
    return None


def planned_certified(
    encoder: Encoder, tasks: Mapping[str, Task], settings: Settings
) -> dict[Work, float]:
    """The gradient steps of one image that the section takes at most, by part."""
    if SECTION not in settings.sections or settings.norm != _BALL or encoder.network is None:
        return {}
    proof = PROOFS[settings.certify]

    return {
        _work(encoder, name, head, epsilon, among): len(among)
        * sum(proof.costs(len(task.classes)).values())
        for name, task in tasks.items()
        for head in settings.heads
        for epsilon in settings.epsilons
        for among in batches(head, settings, len(task.at))
    }


def _work(encoder: Encoder, *of: Any) -> Work:
    return (SECTION, encoder.name), *of


def certified(evaluated: EvaluatedEncoder) -> dict[str, Any]:
    """The share of images verified, for each task, head and radius.

    Raises:
        ProofContradicted: an attack broke an image that is verified.
    """
    settings = evaluated.settings
    attacked = "robustness" in settings.sections
    rows = []
    for task, of_task in evaluated.tasks.items():
        for head in settings.heads:
            leads = {e: lead(evaluated, task, head, e) for e in sorted(settings.epsilons)}
            if attacked:
                _must_agree(evaluated, task, head, leads)
            for epsilon, at_least in leads.items():
                labels, verified = of_task.labels[: len(at_least)], at_least > 0
                right = evaluated.nominal(task, head)[: len(at_least)]
                row = {
                    "task": task, "head": head, "epsilon": epsilon,
                    "verified": statistics.proportion(verified),
                    "balanced": statistics.balanced_accuracy(labels, verified),
                    "outcomes": "".join(np.where(verified, "v", np.where(right, "?", "x"))),
                }  # fmt: skip
                if attacked:
                    survived = evaluated.outcomes(task, head, epsilon).survived
                    row["unbroken"] = statistics.proportion(survived)
                rows.append(row)
    return {"bounds": settings.certify, "outward": settings.outward, "rows": rows}


def proofs(evaluated: EvaluatedEncoder) -> list[Piece]:
    """The proofs through heads, in batches."""
    return [
        Piece(
            _work(evaluated.encoder, task, head, epsilon, of),
            partial(_lead, evaluated, task, head, epsilon, of),
        )
        for task, head in itertools.product(evaluated.tasks, evaluated.settings.heads)
        for epsilon in sorted(evaluated.settings.epsilons)
        for of in evaluated.batches(task, head)
    ]


def lead(evaluated: EvaluatedEncoder, task: str, head: str, epsilon: float) -> np.ndarray:
    """What the logit of an image's label exceeds all others by, at least, wherever in the ball: of
    the images that are attacked through a head, [N]. -inf where an image is wrong as it is."""
    parts = (_lead(evaluated, task, head, epsilon, of) for of in evaluated.batches(task, head))
    return np.concatenate(list(parts))


def _lead(
    evaluated: EvaluatedEncoder, task: str, head: str, epsilon: float, batch: range
) -> np.ndarray:
    """The same of one batch alone."""
    settings = evaluated.settings
    costs = PROOFS[settings.certify].costs(len(evaluated.tasks[task].classes))
    found = np.full(len(batch), -np.inf, np.float32)
    for number, relaxed in enumerate(costs):
        key = {
            "task": task, "head": head, "epsilon": epsilon, "images": [batch.start, batch.stop],
            "relaxed": relaxed, "outward": settings.outward, "layers": evaluated.prover.digest,
        }  # fmt: skip
        bounds = list(costs.items())[number:]
        make = partial(_tried, evaluated, task, head, epsilon, batch, found, bounds)
        work = _work(evaluated.encoder, task, head, epsilon, batch)
        found = evaluated.part(SECTION, key, make, work).arrays["lead"]
    return found


def _tried(
    evaluated: EvaluatedEncoder, task: str, head: str, epsilon: float, batch: range,
    before: np.ndarray, costs: list[tuple[int, float]],
) -> Part:  # fmt: skip
    """The first of some bounds, tried on what those before it left undecided."""
    settings, ((relaxed, cost), *later) = evaluated.settings, costs
    images, labels = evaluated.attacked(task, batch.stop, batch.start)
    right = evaluated.nominal(task, head)[batch.start : batch.stop]
    among = np.flatnonzero(right & (before <= 0))
    found = before.copy()
    if not len(among):
        return Part({}, {"lead": found})
    probe = evaluated.fitted(task, head).probe
    least = evaluated.prover.least(probe, relaxed, settings.outward)
    # Relaxations hold as many gradients of an image at once as there are other classes.
    size = max(1, settings.batch_size // (len(probe.classes) - 1 if relaxed else 1))
    which = f", images {batch.start + 1:,} to {batch.stop:,}"
    what, done = f"verifying through the {head} probe of {task}, ε {epsilon:g}{which}", 0

    def tell() -> None:
        left = cost * (len(among) - done) + sum(c for _, c in later) * len(among)
        stand = Stand(settings.certify, len(among) - done, cost * done, left)
        evaluated.say(f"{what}: {done:,} of {len(among):,}", stand)

    def of_batch(images: Images, labels: Tensor) -> PerExample:
        nonlocal done
        tell()
        done += len(images)
        return least(images, labels, epsilon)

    columns = labels[among].astype(np.int32)
    bounds = in_batches(of_batch, images[among], columns, batch_size=size)
    tell()
    found[among] = np.maximum(found[among], bounds)
    return Part({}, {"lead": found})


def _must_agree(
    evaluated: EvaluatedEncoder, task: str, head: str, leads: Mapping[float, np.ndarray]
) -> None:
    """Raises `ProofContradicted` where an attack broke what is verified."""
    for epsilon, at_least in leads.items():
        for nearer in (e for e in leads if e <= epsilon):
            outcomes = evaluated.outcomes(task, head, nearer)
            wrong = np.flatnonzero((at_least > 0) & (outcomes.broken_by >= 0))
            if len(wrong):
                first = wrong[0]
                numbers = first_few(evaluated.tasks[task].at[wrong])
                rounding = "" if evaluated.settings.outward else (
                    "; if the numbers are as small as roundings, bounds rounded outward (--outward)"
                    " do not make this mistake"
                )  # fmt: skip
                raise ProofContradicted(
                    f"{evaluated.encoder.name}, {head} probe of {task}: test images {numbers} are "
                    f"verified at ε {epsilon:g} and were broken at ε {nearer:g} by "
                    f"{outcomes.trials[outcomes.broken_by[first]]}; the bounds or the attack are "
                    f"wrong, so no figure of either is given (the first image's logit leads by "
                    f"{at_least[first]:.3g} at least, and trails by {outcomes.margin[first]:.3g})"
                    f"{rounding}"
                )
