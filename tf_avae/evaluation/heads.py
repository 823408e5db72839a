"""The sections that look through heads: accuracy as images are and under attack, and the checks."""

from typing import Any

import numpy as np

from tf_avae.attacks import BALLS
from tf_avae.evaluation import statistics
from tf_avae.evaluation.checks import CHECKS, Case, run_checks
from tf_avae.evaluation.parts import Part
from tf_avae.evaluation.subject import Subject
from tf_avae.neighbours import Neighbours


def probes(subject: Subject) -> dict[str, Any]:
    """How well each head, and the nearest neighbours, tell the labels of all test images."""
    found: dict[str, Any] = {}
    for task, of_task in subject.tasks.items():
        labels = of_task.labels
        counts = np.bincount(labels)
        found[task] = {
            "classes": int((counts > 0).sum()),
            "majority": float(counts.max() / len(labels)),
        }
        for head in subject.settings.heads:
            right = subject.nominal(task, head)
            found[task][head] = {
                "nominal": statistics.proportion(right),
                "balanced": statistics.balanced_accuracy(labels, right),
                "roc_auc": statistics.class_areas(labels, subject.logits(task, head)),
                **subject.fitted(task, head).notes,
            }

    def neighbours() -> Part:
        embeddings, train_labels = subject.train_embeddings
        subject.say("finding the nearest training images")
        index = Neighbours(embeddings, train_labels, subject.settings.neighbours)
        near = index.find(subject.posterior.mean)
        values = {}
        for task, of_task in subject.tasks.items():
            truth = of_task.classes[of_task.labels]
            right, share = index.agreement(near[of_task.at], task, truth)
            values[task] = {
                "neighbours": subject.settings.neighbours,
                "accuracy": statistics.proportion(right),
                "precision": statistics.mean(share),
            }
        return Part(values, {})

    if subject.settings.neighbours > subject.train_size:
        return found  # `evaluate` says why
    settings = {"neighbours": subject.settings.neighbours}
    for task, values in subject.part("neighbours", settings, neighbours).values.items():
        found[task]["retrieval"] = values
    return found


def robustness(subject: Subject) -> dict[str, Any]:
    """The worst case over the budget for each task, head and radius."""
    rows = []
    for task in subject.tasks:
        for head in subject.settings.heads:
            for epsilon in sorted(subject.settings.epsilons):
                outcomes = subject.outcomes(task, head, epsilon)
                labels = subject.tasks[task].labels[: len(outcomes.clean)]
                rows.append(
                    {
                        "task": task,
                        "head": head,
                        "epsilon": epsilon,
                        "nominal": statistics.proportion(outcomes.clean),
                        "accuracy": statistics.proportion(outcomes.survived),
                        "balanced": statistics.balanced_accuracy(labels, outcomes.survived),
                        "trials": list(outcomes.trials),
                        "accuracy_after": outcomes.accuracy_after().tolist(),
                        "outcomes": outcomes.compact(),
                    }
                )
    return {"rows": rows}


def telling_epsilon(subject: Subject, task: str, head: str) -> float:
    """The radius at which about half of the nominal accuracy is left: there attacks of different
    strength differ most."""
    found = {e: subject.outcomes(task, head, e) for e in subject.settings.epsilons}
    half = next(iter(found.values())).clean.mean() / 2
    return min(sorted(found), key=lambda e: abs(found[e].survived.mean() - half))


def checks(subject: Subject) -> dict[str, Any]:
    """What the checks find for each task and head."""
    groups = [
        _checks_of(subject, task, head) for task in subject.tasks for head in subject.settings.heads
    ]
    left_out = [c.name for c in CHECKS.values() if subject.settings.norm not in c.balls]
    return {"groups": groups, "left_out": left_out}


def _checks_of(subject: Subject, task: str, head: str) -> dict[str, Any]:
    """What the checks find for a task and a head."""
    settings = subject.settings
    epsilon = telling_epsilon(subject, task, head)
    outcomes = {e: subject.outcomes(task, head, e) for e in settings.epsilons}
    curve = {e: float(found.survived.mean()) for e, found in outcomes.items()}
    curve[0.0] = float(outcomes[epsilon].clean.mean())
    labels = subject.tasks[task].labels
    images, of_images = subject.attacked(task, settings.free_images)
    case = Case(
        embed=subject.encoder.embed,
        classify=subject.classify(task, head),
        images=images,
        labels=of_images,
        epsilon=epsilon,
        budget=subject.budget,
        curve=curve,
        majority=float(np.bincount(labels).max() / len(labels)),
        nominal=subject.nominal(task, head),
        converged=subject.fitted(task, head).notes["converged"],
        seed=settings.seed,
        ball=BALLS[settings.norm],
        batch_size=settings.batch_size,
    )

    def make() -> Part:
        tell = lambda name: subject.say(f"checks of {task}, {head}: {name}")  # noqa: E731
        return Part({"checks": run_checks(case, tell)}, {})

    key = {
        "task": task, "head": head, "epsilon": epsilon, "curve": sorted(curve.items()),
        "images": len(images), "budget": settings.budget,
    }  # fmt: skip
    found = subject.part("checks", key, make).values["checks"]
    return {
        "task": task, "head": head, "epsilon": epsilon, "images": len(images), "checks": found
    }  # fmt: skip
