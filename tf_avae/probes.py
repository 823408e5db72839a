"""Heads on frozen embeddings: linear and one-hidden-layer classifiers.

The encoder is fixed; a head sees embeddings and labels of the training split alone. Regularisation
is chosen on a held-out part of the training split.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy

from tf_avae.backend import Lazy, tf
from tf_avae.errors import InputError, first_few
from tf_avae.inputs import label_array, seed_of
from tf_avae.registry import Registry
from tf_avae.types import Latents, Tensor

exceptions, linear_model, model_selection, neural_network, preprocessing = (
    Lazy(f"sklearn.{name}")
    for name in ("exceptions", "linear_model", "model_selection", "neural_network", "preprocessing")
)
threadpoolctl = Lazy("threadpoolctl")

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse regularisation strengths C that are tried: loss = C sum(cross-entropy) + |W|^2/2."""

MARGIN_WEIGHTS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 1e4)
"""Values of C times the number of examples that are tried for the largest radius."""

LEAST_EXAMPLES = 2
"""Of a class that a head is fitted to: one to fit, and one to hold out."""

_HELD_OUT = 1 / 6
_MOST_ITERATIONS = 5000
# Largest entry of the gradient of the mean loss, in nats: to choose C by, and of the probe.
_SEARCH_TOLERANCE, _TOLERANCE = 1e-4, 1e-5
_MLP_UNITS, _MLP_BATCH, _MLP_EPOCHS, _MLP_PATIENCE = 256, 256, 50, 4


class Probe(NamedTuple):
    """A classifier of embeddings: standardise, dense layers, ReLU between them.

    Attributes:
        mean, scale: of the training embeddings, [D] float32.
        layers: (kernel [in, out], bias [out]) of each dense layer, float32.
        numbers: the class number of each column of the logits, [K], ascending; None where they
            are 0 to K - 1.
    """

    mean: np.ndarray
    scale: np.ndarray
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    numbers: np.ndarray | None = None

    def __call__(self, embedding: Latents) -> Tensor:
        """Embeddings [B, D] to logits [B, K] float32, differentiable."""
        x = (embedding - self.mean) / self.scale
        for number, (kernel, bias) in enumerate(self.layers):
            x = tf.linalg.matmul(tf.nn.relu(x) if number else x, kernel) + bias
        return x

    @property
    def classes(self) -> np.ndarray:
        """The class number of each column of the logits, [K], ascending."""
        return np.arange(len(self.layers[-1][1])) if self.numbers is None else self.numbers

    def columns(self, labels: Any) -> np.ndarray:
        """Class numbers [N] to columns of the logits [N]: what losses and attacks take.

        Raises:
            InputError: no class numbers, or one that the head was not fitted to.
        """
        labels = label_array(labels)
        unknown = np.setdiff1d(labels, self.classes)
        if len(unknown):
            raise InputError(
                f"labels hold the classes {first_few(unknown)}, which the head was not fitted to "
                f"(its classes are {first_few(self.classes)}); leave those examples out"
            )
        return np.searchsorted(self.classes, labels)


class Fitted(NamedTuple):
    """A probe and how it came about.

    Attributes:
        probe: the head.
        notes: what was chosen, by which held-out figures, and whether the solver converged.
    """

    probe: Probe
    notes: dict[str, Any]


@dataclass(frozen=True)
class Head:
    """A kind of probe.

    Attributes:
        name: the row's name.
        summary: for `--help` and the docs.
        fit: (embeddings [N, D], labels [N], seed) to a fitted probe.
    """

    name: str
    summary: str
    fit: Callable[[np.ndarray, np.ndarray, int], Fitted]


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
    given = _checked(embeddings, labels, seed)
    return _fit_logistic(
        given, strengths, preprocessing.StandardScaler().fit, "held_out_accuracy", _accuracy
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
    given = _checked(embeddings, labels, seed)
    strengths = [weight / len(given.columns) for weight in weights]
    most = distance_between_classes(given.embeddings, given.columns) / 2

    def radius(probe: Probe, embeddings: np.ndarray, labels: np.ndarray) -> float:
        capped = np.minimum(latent_radius(probe, embeddings, labels), most)
        return float(np.mean([capped[labels == label].mean() for label in np.unique(labels)]))

    return _fit_logistic(given, strengths, _one_scale, "held_out_radius", radius)


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


def fit_mlp(embeddings: np.ndarray, labels: np.ndarray, seed: int = 0) -> Fitted:
    """One hidden layer of 256 ReLUs, by Adam, stopped early on a held-out sixth of the examples.

    Args, errors: those of `fit_linear`; `seed` is also that of weights and order.
    """
    given = _checked(embeddings, labels, seed)
    scaler = preprocessing.StandardScaler().fit(given.embeddings)
    held_out, count = _held_out(given.columns), len(given.columns)
    model = neural_network.MLPClassifier(
        (_MLP_UNITS,),
        batch_size=min(_MLP_BATCH, count - held_out),
        early_stopping=True,
        validation_fraction=held_out / count,
        n_iter_no_change=_MLP_PATIENCE,
        max_iter=_MLP_EPOCHS,
        random_state=given.seed,
    )
    x = scaler.transform(given.embeddings).astype(np.float32)
    converged = _fit(model, x, given.columns, _MLP_EPOCHS)
    layers = list(zip(model.coefs_, model.intercepts_, strict=True))
    best = float(max(model.validation_scores_))
    notes = {"epochs": int(model.n_iter_), "held_out_accuracy": best, "converged": converged}
    return Fitted(_probe(scaler, layers, given.classes), notes)


HEADS: Registry[Head] = Registry(
    "head",
    Head("linear", "logistic regression on standardised embeddings", fit_linear),
    Head("mlp", "one hidden layer of 256 units", fit_mlp),
    Head("margin", "logistic regression for embeddings that will be moved: one scale, regularised "
         "for the distance to the nearest other class", fit_margin),
)  # fmt: skip

PROTOCOL_HEADS = ("linear", "mlp")
"""The heads that an evaluation fits by default."""


class _Given(NamedTuple):
    """What a head is fitted to."""

    embeddings: np.ndarray  # [N, D] float64
    columns: np.ndarray  # of the labels, [N] in [0, K)
    classes: np.ndarray  # the class number of each column, [K]
    seed: int


def _checked(embeddings: np.ndarray, labels: np.ndarray, seed: int) -> _Given:
    try:
        embeddings = np.asarray(embeddings, np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"embeddings are of type {type(embeddings).__name__}, which is no array of numbers; "
            "they must be [N, D]"
        ) from error
    if embeddings.ndim != 2 or not embeddings.size:
        raise InputError(
            f"embeddings have shape {embeddings.shape}; they must be [N, D], at least one"
        )
    labels = label_array(labels, count=len(embeddings))
    if not (np.abs(embeddings) <= np.finfo(np.float32).max).all():
        raise InputError("the embeddings are not all finite in float32; mend the encoder")
    classes, columns, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise InputError(f"all examples are of class {classes[0]}; a probe needs 2 classes or more")
    if counts.min() < LEAST_EXAMPLES:
        lone = first_few(classes[counts < LEAST_EXAMPLES])
        raise InputError(
            f"there is one example each of the classes {lone}; a probe needs 2 classes or more, "
            "each with 2 examples or more, to fit to and to hold out: leave those examples out, or "
            "add others of their classes"
        )
    return _Given(embeddings, columns, classes, int(seed_of(seed)[0]))


def _held_out(columns: np.ndarray) -> int:
    """A sixth of the examples, and at least as many as there are classes."""
    return max(int(columns.max()) + 1, round(_HELD_OUT * len(columns)))


def _split(columns: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the examples that are fitted, and of those held out."""
    size = _held_out(columns)
    splits = model_selection.StratifiedShuffleSplit(1, test_size=size, random_state=seed)
    return next(splits.split(np.zeros((len(columns), 1)), columns))


def _fit_logistic(
    given: _Given,
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
    fit, held_out = _split(columns, seed)
    scaler = scaler_of(embeddings[fit])
    x = scaler.transform(embeddings[fit])
    merits = {}
    # From the strongest regularisation on, each from the solution before: they are unique.
    model = linear_model.LogisticRegression(
        tol=_SEARCH_TOLERANCE, max_iter=_MOST_ITERATIONS, warm_start=True
    )
    for strength in sorted(strengths):
        _fit(model.set_params(C=strength), x, columns[fit])
        probe = _logistic_probe(scaler, model)
        merits[strength] = merit(probe, embeddings[held_out], columns[held_out])
    best = max(merits, key=lambda strength: (merits[strength], -strength))
    scaler = scaler_of(embeddings)
    model.set_params(C=best, tol=_TOLERANCE)
    converged = _fit(model, scaler.transform(embeddings), columns)
    notes = {
        "regularisation": best,
        note: [[s, m] for s, m in merits.items()],
        "converged": converged,
        "iterations": int(model.n_iter_.max()),
    }
    return Fitted(_logistic_probe(scaler, model, classes), notes)


def _accuracy(probe: Probe, embeddings: np.ndarray, labels: np.ndarray) -> float:
    predicted = np.asarray(probe(tf.constant(embeddings, tf.float32))).argmax(1)
    return float(np.mean(predicted == labels))


def _one_scale(embeddings: np.ndarray) -> Any:
    """Takes away the mean, and divides by the root of the mean variance of the dimensions."""
    scaler = preprocessing.StandardScaler().fit(embeddings)
    scaler.scale_ = np.full_like(scaler.scale_, np.sqrt(scaler.var_.mean()) or 1.0)
    return scaler


def _logistic_probe(scaler: Any, model: Any, classes: np.ndarray | None = None) -> Probe:
    return _probe(scaler, [(model.coef_.T, model.intercept_)], classes)


def _fit(model: Any, x: np.ndarray, y: np.ndarray, most: int = _MOST_ITERATIONS) -> bool:
    """Fits, and returns whether the solver ended before its most iterations."""
    # Threads of BLAS that wait for a core spin: beside other work a fit takes many times as long,
    # and with one it does not depend on how many cores there are.
    with (
        warnings.catch_warnings(action="ignore", category=exceptions.ConvergenceWarning),
        threadpoolctl.threadpool_limits(1),
    ):
        model.fit(x, y)
    return bool(np.max(model.n_iter_) < most)


def _probe(
    scaler: Any,
    layers: Sequence[tuple[np.ndarray, np.ndarray]],
    classes: np.ndarray | None = None,
) -> Probe:
    def single(array: np.ndarray) -> np.ndarray:
        return np.asarray(array, np.float32)

    *_, (kernel, bias) = layers
    if kernel.shape[1] == 1:  # two classes: one logit, against 0
        layers = [*layers[:-1], (np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0)))]
    return Probe(
        single(scaler.mean_),
        single(scaler.scale_),
        tuple((single(kernel), single(bias)) for kernel, bias in layers),
        classes,
    )
