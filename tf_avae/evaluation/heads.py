"""The sections that look through heads: accuracy as images are and under attack, and the checks."""

import itertools
from functools import partial
from typing import Any

import numpy as np

from tf_avae.attacks import BALLS
from tf_avae.attacks.balls import knows
from tf_avae.evaluation import statistics
from tf_avae.evaluation.checks import CHECKS, Case, run_checks
from tf_avae.evaluation.evaluated import EvaluatedEncoder
from tf_avae.evaluation.neighbours import agreement, nearest
from tf_avae.evaluation.part_store import Part
from tf_avae.evaluation.section import Piece


def probes(evaluated: EvaluatedEncoder) -> dict[str, Any]:
    """How well each head, and the nearest neighbours, tell the labels of all test images."""
    found: dict[str, Any] = {}
    for task, of_task in evaluated.tasks.items():
        labels = of_task.labels
        counts = np.bincount(labels)
        majority = float(counts.max() / len(labels))
        found[task] = {"classes": int((counts > 0).sum()), "majority": majority}
        for head in evaluated.settings.heads:
            right = evaluated.nominal(task, head)
            found[task][head] = {
                "nominal": statistics.proportion(right),
                "balanced": statistics.balanced_accuracy(labels, right),
                "roc_auc": statistics.class_areas(labels, evaluated.logits(task, head)),
                **evaluated.fitted(task, head).notes,
            }

    def neighbours() -> Part:
        embeddings, train_labels = evaluated.train_embeddings
        evaluated.say("finding the nearest training images")
        near = nearest(embeddings, evaluated.posterior.mean, evaluated.settings.neighbours)
        values = {}
        for task, of_task in evaluated.tasks.items():
            truth = of_task.classes[of_task.labels]
            right, share = agreement(near[of_task.at], train_labels[task], truth)
            values[task] = {
                "neighbours": evaluated.settings.neighbours,
                "accuracy": statistics.proportion(right),
                "precision": statistics.mean(share),
            }
        return Part(values, {})

    if evaluated.settings.neighbours > evaluated.train_size:
        return found  # `evaluate` says why
    settings = {"neighbours": evaluated.settings.neighbours}
    for task, values in evaluated.part("neighbours", settings, neighbours).values.items():
        found[task]["retrieval"] = values
    return found


def robustness(evaluated: EvaluatedEncoder) -> dict[str, Any]:
    """The worst case over the budget for each task, head and radius."""
    rows, settings = [], evaluated.settings
    asked = itertools.product(evaluated.tasks, settings.heads, sorted(settings.epsilons))
    for task, head, epsilon in asked:
        outcomes = evaluated.outcomes(task, head, epsilon)
        labels = evaluated.tasks[task].labels[: len(outcomes.clean)]
        rows.append({
            "task": task, "head": head, "epsilon": epsilon,
            "nominal": statistics.proportion(outcomes.clean),
            "accuracy": statistics.proportion(outcomes.survived),
            "balanced": statistics.balanced_accuracy(labels, outcomes.survived),
            "trials": list(outcomes.trials),
            "accuracy_after": outcomes.accuracy_after().tolist(),
            "outcomes": outcomes.compact(),
        })  # fmt: skip
    return {"rows": rows}


def attacks(evaluated: EvaluatedEncoder) -> list[Piece]:
    """The attacks through heads, in batches."""
    return [
        Piece(
            (evaluated.encoder.name, task, head, epsilon, among),
            partial(evaluated.outcomes_of, task, head, epsilon, among),
        )
        for task, head in itertools.product(evaluated.tasks, evaluated.settings.heads)
        for epsilon in sorted(evaluated.settings.epsilons)
        for among in evaluated.batches(task, head)
    ]


def telling_epsilon(evaluated: EvaluatedEncoder, task: str, head: str) -> float:
    """The radius at which about half of the nominal accuracy is left: there attacks of different
    strength differ most."""
    found = {e: evaluated.outcomes(task, head, e) for e in evaluated.settings.epsilons}
    half = next(iter(found.values())).clean.mean() / 2
    return min(sorted(found), key=lambda e: abs(found[e].survived.mean() - half))


def checks(evaluated: EvaluatedEncoder) -> dict[str, Any]:
    """What the checks find for each task and head."""
    groups = [
        _checks_of(evaluated, task, head)
        for task in evaluated.tasks
        for head in evaluated.settings.heads
    ]
    left_out = [c.name for c in CHECKS.values() if not knows(c.balls, evaluated.settings.norm)]
    return {"groups": groups, "left_out": left_out}


def _checks_of(evaluated: EvaluatedEncoder, task: str, head: str) -> dict[str, Any]:
    """What the checks find for a task and a head."""
    settings = evaluated.settings
    epsilon = telling_epsilon(evaluated, task, head)
    outcomes = {e: evaluated.outcomes(task, head, e) for e in settings.epsilons}
    curve = {e: float(found.survived.mean()) for e, found in outcomes.items()}
    curve[0.0] = float(outcomes[epsilon].clean.mean())
    labels = evaluated.tasks[task].labels
    count = min(settings.free_images, len(outcomes[epsilon].clean))
    images, of_images = evaluated.attacked(task, count)
    case = Case(
        embed=evaluated.encoder.embed,
        classify=evaluated.classify(task, head),
        images=images,
        labels=of_images,
        reported=outcomes[epsilon].first(count),
        epsilon=epsilon,
        budget=evaluated.budget,
        curve=curve,
        majority=float(np.bincount(labels).max() / len(labels)),
        nominal=evaluated.nominal(task, head),
        converged=evaluated.fitted(task, head).notes["converged"],
        seed=settings.seed,
        ball=BALLS[settings.norm],
        batch_size=settings.batch_size,
        graphs=evaluated.graphs,
    )

    def make() -> Part:
        tell = lambda name: evaluated.say(f"checks of {task}, {head}: {name}")  # noqa: E731
        return Part({"checks": run_checks(case, tell)}, {})

    key = {
        "task": task, "head": head, "epsilon": epsilon, "curve": sorted(curve.items()),
        "images": len(images), "budget": settings.budget,
    }  # fmt: skip
    found = evaluated.part("checks", key, make).values["checks"]
    return {
        "task": task, "head": head, "epsilon": epsilon, "images": len(images), "checks": found
    }  # fmt: skip
