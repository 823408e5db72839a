"""Heads on frozen embeddings: what they are, and what all of them are fitted by.

The encoder is fixed; a head sees embeddings and labels of the training split alone. What is chosen
is chosen on a held-out part of the training split.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tf_avae.backend import Lazy, tf
from tf_avae.errors import InputError, first_few
from tf_avae.inputs import label_array, seed_of
from tf_avae.types import Latents, Tensor

exceptions, model_selection, preprocessing = (
    Lazy(f"sklearn.{name}") for name in ("exceptions", "model_selection", "preprocessing")
)
threadpoolctl = Lazy("threadpoolctl")

LEAST_EXAMPLES = 2
"""Of a class that a head is fitted to: one to fit, and one to hold out."""

_HELD_OUT = 1 / 6
MOST_ITERATIONS = 5000
"""Of a solver."""


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


class Given(NamedTuple):
    """What a head is fitted to."""

    embeddings: np.ndarray  # [N, D] float64
    columns: np.ndarray  # of the labels, [N] in [0, K)
    classes: np.ndarray  # the class number of each column, [K]
    seed: int


def checked(embeddings: np.ndarray, labels: np.ndarray, seed: int) -> Given:
    """What a head is fitted to, or an `InputError` that says why none can be."""
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
    return Given(embeddings, columns, classes, int(seed_of(seed)[0]))


def held_out_size(columns: np.ndarray) -> int:
    """A sixth of the examples, and at least as many as there are classes."""
    return max(int(columns.max()) + 1, round(_HELD_OUT * len(columns)))


def split(columns: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the examples that are fitted, and of those held out."""
    size = held_out_size(columns)
    splits = model_selection.StratifiedShuffleSplit(1, test_size=size, random_state=seed)
    return next(splits.split(np.zeros((len(columns), 1)), columns))


def accuracy(probe: Probe, embeddings: np.ndarray, labels: np.ndarray) -> float:
    """The share of embeddings [N, D] whose logits are largest in the column that is their label
    [N]."""
    predicted = np.asarray(probe(tf.constant(embeddings, tf.float32))).argmax(1)
    return float(np.mean(predicted == labels))


def one_scale(embeddings: np.ndarray) -> Any:
    """Takes away the mean, and divides by the root of the mean variance of the dimensions."""
    scaler = preprocessing.StandardScaler().fit(embeddings)
    scaler.scale_ = np.full_like(scaler.scale_, np.sqrt(scaler.var_.mean()) or 1.0)
    return scaler


def solve(model: Any, x: np.ndarray, y: np.ndarray, most: int = MOST_ITERATIONS) -> bool:
    """Fits, and returns whether the solver ended before its most iterations."""
    # Threads of BLAS that wait for a core spin: beside other work a fit takes many times as long,
    # and with one it does not depend on how many cores there are.
    with (
        warnings.catch_warnings(action="ignore", category=exceptions.ConvergenceWarning),
        threadpoolctl.threadpool_limits(1),
    ):
        model.fit(x, y)
    return bool(np.max(model.n_iter_) < most)


def probe_of(
    scaler: Any,
    layers: Sequence[tuple[np.ndarray, np.ndarray]],
    classes: np.ndarray | None = None,
) -> Probe:
    """The probe of what scikit-learn's scaler and (kernel, bias) of each layer compute."""

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
