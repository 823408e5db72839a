"""Estimates with their uncertainty."""

import math
from typing import Any

import numpy as np
import scipy

_Z = 1.959963984540054  # the normal's 97.5 % point


def proportion(hits: np.ndarray) -> dict[str, Any]:
    """A share and its 95 % interval (Wilson, 1927), from one bool per example, [N]."""
    found = scipy.stats.binomtest(int(np.sum(hits)), len(hits))
    low, high = map(float, found.proportion_ci(method="wilson"))
    return {"value": float(found.statistic), "low": low, "high": high, "count": len(hits)}


def mean(values: np.ndarray) -> dict[str, Any]:
    """A mean and its 95 % interval by the normal approximation, from one number per example; all
    None where the numbers are not finite (a divergence that overflowed)."""
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        return {"value": None, "low": None, "high": None, "count": len(values)}
    centre = float(values.mean())
    half = _Z * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"value": centre, "low": centre - half, "high": centre + half, "count": len(values)}


def balanced_accuracy(labels: np.ndarray, right: np.ndarray) -> float:
    """The mean over the classes present of the share of a class that is classified correctly:
    what always the commonest class is answered to has 1/classes.

    Args:
        labels: the classes, [N] integers, at least 0.
        right: whether each example is classified correctly, [N] bool.
    """
    from sklearn.metrics import recall_score

    answers = np.where(right, labels, -1)
    present = np.unique(labels)
    return float(recall_score(labels, answers, labels=present, average="macro", zero_division=0))


def class_areas(labels: np.ndarray, logits: np.ndarray) -> dict[str, Any] | None:
    """The area under the ROC curve of a classifier: for two classes that of the difference of the
    logits; for more the mean over the classes present of each against the rest, by log p/(1 - p).
    None where all examples are of one class.

    Args:
        labels: the classes, [N] integers in [0, K).
        logits: [N, K], K at least 2, finite.

    Returns:
        as `area`; more than two classes have no interval ("low" and "high" are None).
    """
    from sklearn.metrics import roc_auc_score

    logits, present = np.asarray(logits, np.float64), np.unique(labels)
    if len(present) < 2:
        return None
    classes = logits.shape[1]
    if classes == 2:
        scores = logits[:, 1] - logits[:, 0]
        return area(scores[labels == 1], scores[labels == 0])
    # Not the probabilities: near 1 they are all alike in floating point.
    odds = {
        k: logits[:, k] - scipy.special.logsumexp(np.delete(logits, k, axis=1), axis=1)
        for k in present
    }
    value = float(np.mean([roc_auc_score(labels == k, odds[k]) for k in present]))
    return {"value": value, "low": None, "high": None, "count": len(labels)}


def area(positive: np.ndarray, negative: np.ndarray) -> dict[str, Any]:
    """The area under the ROC curve of a score and its 95 % interval: the probability that a
    positive example scores above a negative one, plus half that of a tie.

    The interval is DeLong's (1988) normal approximation, for independent examples; where the score
    separates them without error that says nothing, and "low" and "high" are None.

    Args:
        positive: scores of the examples that should score high, [M], M at least 1.
        negative: of the others, [N], N at least 1.
    """
    from sklearn.metrics import roc_auc_score

    count, others = len(positive), len(negative)
    scores = np.concatenate([positive, negative]).astype(np.float64)
    value = float(roc_auc_score(np.arange(count + others) < count, scores))
    # Ranks among all, less those among one's own kind, count the others below (Sun & Xu, 2014).
    ranks = scipy.stats.rankdata(scores)
    above = (ranks[:count] - scipy.stats.rankdata(positive)) / others
    below = 1 - (ranks[count:] - scipy.stats.rankdata(negative)) / count
    spread = sum(part.var(ddof=1) / len(part) for part in (above, below) if len(part) > 1)
    half = _Z * math.sqrt(spread)
    low, high = (max(value - half, 0.0), min(value + half, 1.0)) if half > 0 else (None, None)
    return {"value": value, "low": low, "high": high, "count": count + others}
