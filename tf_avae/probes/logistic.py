"""Heads of one layer: logistic regression."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy

from tf_avae.backend import Lazy
from tf_avae.errors import InputError
from tf_avae.probes.probe import (
    MOST_ITERATIONS,
    Fitted,
    Given,
    Probe,
    accuracy,
    checked,
    one_scale,
    probe_of,
    solve,
    split,
)

linear_model, preprocessing = (
    Lazy(f"sklearn.{name}") for name in ("linear_model", "preprocessing")
)

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse regularisation strengths C that are tried: loss = C sum(cross-entropy) + |W|^2/2."""

MARGIN_WEIGHTS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 1e4)
"""Values of C times the number of examples that are tried for the largest radius."""

# Largest entry of the gradient of the mean loss, in nats: to choose C by, and of the probe.
_SEARCH_TOLERANCE, _TOLERANCE = 1e-4, 1e-5


def fit_linear(
    embeddings: np.ndarray,
    labels: np.ndarray,
    seed: int = 0,
    *,
    strengths: Sequence[float] = STRENGTHS,
) -> Fitted:
    """Multinomial logistic regression by L-BFGS, to convergence, in float64, each dimension of the
    embeddings standardised.

    The C with the best accuracy on a held-out sixth of the examples is taken, the smallest where
    several are; the probe is then fitted to all examples.

    Args:
        embeddings: [N, D].
        labels: [N] class numbers, at least 0; two classes or more, each at least twice. Numbers may
            be missing between them: the logits have a column for each class that there is, in
            ascending order, which `Probe.classes` gives.
        seed: of the held-out part.
        strengths: values of C, above 0.

    Raises:
        InputError: embeddings that are not finite, labels that are no class numbers, or a class
            without two examples.
    """
    given = checked(embeddings, labels, seed)
    return _fit_logistic(
        given, strengths, preprocessing.StandardScaler().fit, "held_out_accuracy", accuracy
    )


def fit_margin(
    embeddings: np.ndarray,
    labels: np.ndarray,
    seed: int = 0,
    *,
    weights: Sequence[float] = MARGIN_WEIGHTS,
) -> Fitted:
    """Multinomial logistic regression as by `fit_linear`, for embeddings that will be moved.

    All dimensions have one scale, the root of their mean variance: a standardised dimension that
    hardly varies counts as much as any, and an attack moves it as far. The C is the one with the
    largest `latent_radius` on the held-out sixth, so no attack is looked at: the mean over classes
    of the mean over their examples, where no example counts for more than half of the mean
    distance between class means. Uncapped, or with a mean over all examples, a head that always
    predicts the commonest class would have the largest.

    Args:
        weights: values of C times the number of examples, above 0.

    Other arguments, errors: those of `fit_linear`.
    """
    given = checked(embeddings, labels, seed)
    strengths = [weight / len(given.columns) for weight in weights]
    most = distance_between_classes(given.embeddings, given.columns) / 2

    def radius(probe: Probe, embeddings: np.ndarray, labels: np.ndarray) -> float:
        capped = np.minimum(latent_radius(probe, embeddings, labels), most)
        return float(np.mean([capped[labels == label].mean() for label in np.unique(labels)]))

    return _fit_logistic(given, strengths, one_scale, "held_out_radius", radius)


def distance_between_classes(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """The mean Euclidean distance between the mean embeddings of two classes; 0 of one class.

    It is the unit of shifts of embeddings: without it, an encoder of small embeddings would seem
    robust. Embeddings are [N, D], labels [N].
    """
    means = [embeddings[labels == label].mean(0) for label in np.unique(labels)]
    return float(scipy.spatial.distance.pdist(means).mean()) if len(means) > 1 else 0.0


def latent_radius(probe: Probe, embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How far an embedding can move, by Euclidean distance and whatever the direction, before a
    linear probe predicts another class: min over j of (l_y - l_j) / |w_y - w_j|.

    Args:
        probe: of one layer.
        embeddings: [N, D].
        labels: [N] class numbers.

    Returns:
        [N], at least 0; 0 where the class is wrong already, or does not depend on the embedding.

    Raises:
        InputError: labels that the probe was not fitted to.
    """
    labels = probe.columns(labels)
    ((kernel, bias),) = probe.layers
    kernel = kernel.astype(np.float64) / probe.scale[:, np.newaxis]
    logits = (embeddings - probe.mean) @ kernel + bias
    differences = kernel.T[:, np.newaxis] - kernel.T
    distance = np.linalg.norm(differences, axis=-1)[labels]
    margin = np.take_along_axis(logits, labels[:, np.newaxis], axis=1) - logits
    radius = np.divide(margin, distance, out=np.zeros_like(margin), where=distance > 0)
    radius[np.arange(len(labels)), labels] = np.inf
    return np.maximum(radius.min(axis=1), 0.0)


def _fit_logistic(
    given: Given,
    strengths: Sequence[float],
    scaler_of: Callable[[np.ndarray], Any],
    note: str,
    merit: Callable[[Probe, np.ndarray, np.ndarray], float],
) -> Fitted:
    """The logistic regression of largest merit on the held-out part, fitted to all."""
    embeddings, columns, classes, seed = given
    if not len(strengths) or not all(0 < strength < np.inf for strength in strengths):
        raise InputError(
            f"strengths of the regularisation to try are {list(strengths)}; give at least one "
            "finite number, all of them above 0"
        )
    fit, held_out = split(columns, seed)
    scaler = scaler_of(embeddings[fit])
    x = scaler.transform(embeddings[fit])
    merits = {}
    # From the strongest regularisation on, each from the solution before: they are unique.
    model = linear_model.LogisticRegression(
        tol=_SEARCH_TOLERANCE, max_iter=MOST_ITERATIONS, warm_start=True
    )
    for strength in sorted(strengths):
        solve(model.set_params(C=strength), x, columns[fit])
        probe = _logisticprobe_of(scaler, model)
        merits[strength] = merit(probe, embeddings[held_out], columns[held_out])
    best = max(merits, key=lambda strength: (merits[strength], -strength))
    scaler = scaler_of(embeddings)
    model.set_params(C=best, tol=_TOLERANCE)
    converged = solve(model, scaler.transform(embeddings), columns)
    notes = {
        "regularisation": best,
        note: [[s, m] for s, m in merits.items()],
        "converged": converged,
        "iterations": int(model.n_iter_.max()),
    }
    return Fitted(_logisticprobe_of(scaler, model, classes), notes)


def _logisticprobe_of(scaler: Any, model: Any, classes: np.ndarray | None = None) -> Probe:
    return probe_of(scaler, [(model.coef_.T, model.intercept_)], classes)
