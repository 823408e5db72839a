"""Heads with one hidden layer."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from tf_avae.backend import Lazy, keras, tf
from tf_avae.errors import InputError
from tf_avae.probes.probe import (
    Fitted,
    Probe,
    accuracy,
    checked,
    held_out_size,
    one_scale,
    probe_of,
    solve,
    split,
)

neural_network = Lazy("sklearn.neural_network")
preprocessing = Lazy("sklearn.preprocessing")

RADII = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
"""How far `fit_interval` tries to let an embedding move in each dimension, as a share of the root
of the dimensions' mean variance."""

MOST_LOST = 0.015
"""The held-out balanced accuracy that `fit_interval` gives away for a larger radius, at most."""

_UNITS, _BATCH = 256, 256
_MLP_EPOCHS, _MLP_PATIENCE = 50, 4
# Epochs without a radius, and then from each to the next; steps of an epoch at least.
_EPOCHS, _LEAST_STEPS = 4, 25


def fit_mlp(embeddings: np.ndarray, labels: np.ndarray, seed: int = 0) -> Fitted:
    """One hidden layer of 256 ReLUs, by Adam, stopped early on a held-out sixth of the examples.

    Args, errors: those of `fit_linear`; `seed` is also that of weights and order.
    """
    given = checked(embeddings, labels, seed)
    scaler = preprocessing.StandardScaler().fit(given.embeddings)
    held_out, count = held_out_size(given.columns), len(given.columns)
    model = neural_network.MLPClassifier(
        (_UNITS,),
        batch_size=min(_BATCH, count - held_out),
        early_stopping=True,
        validation_fraction=held_out / count,
        n_iter_no_change=_MLP_PATIENCE,
        max_iter=_MLP_EPOCHS,
        random_state=given.seed,
    )
    x = scaler.transform(given.embeddings).astype(np.float32)
    converged = solve(model, x, given.columns, _MLP_EPOCHS)
    layers = list(zip(model.coefs_, model.intercepts_, strict=True))
    best = float(max(model.validation_scores_))
    notes = {"epochs": int(model.n_iter_), "held_out_accuracy": best, "converged": converged}
    return Fitted(probe_of(scaler, layers, given.classes), notes)


def fit_interval(
    embeddings: np.ndarray,
    labels: np.ndarray,
    seed: int = 0,
    *,
    radii: Sequence[float] = RADII,
    most_lost: float = MOST_LOST,
) -> Fitted:
    """One hidden layer of 256 ReLUs, by Adam, for embeddings that will be moved and whose classes
    are to be proven.

    The loss is the mean of two cross-entropies, of the logits and of the worst that they can be
    while each dimension of an embedding moves by up to a radius: by interval bounds (Gowal et al.,
    arXiv 1810.12715) the lowest of the label and the highest of the others. The radius is 0 first
    and grows from one of `radii` to the next, until the balanced accuracy on a held-out sixth of
    the examples is more than `most_lost` below the best so far; the head of the radius before is
    taken. (Where one class is rare, plain accuracy would not notice that it is given up.) No attack
    is looked at, and no encoder.

    Args:
        radii: ascending, above 0; all dimensions have one scale, the root of their mean variance,
            and radii are shares of it.
        most_lost: in [0, 1].

    Other arguments, errors: those of `fit_mlp`.
    """
    from tf_avae.probes.bounded import BoundedHead  # Keras, which help does without

    if not (len(radii) and all(0 < a < b for a, b in itertools.pairwise((*radii, np.inf)))):
        raise InputError(f"radii are {list(radii)}; give at least one, ascending, above 0, finite")
    if not 0 <= most_lost <= 1:
        raise InputError(f"most_lost is {most_lost}; it must be a share, from 0 to 1")
    given = checked(embeddings, labels, seed)
    fit, held_out = split(given.columns, given.seed)
    seen = given.embeddings[held_out], given.columns[held_out]
    scaler = one_scale(given.embeddings[fit])
    head = BoundedHead(given.embeddings.shape[1], _UNITS, len(given.classes), given.seed)
    x = tf.constant(scaler.transform(given.embeddings[fit]), tf.float32)
    y = tf.constant(given.columns[fit], tf.int32)
    steps = max(_LEAST_STEPS, math.ceil(len(fit) / _BATCH))
    # NumPy's: TensorFlow's own shuffle depends on the program's seed too.
    order = np.random.default_rng(given.seed)
    tried: list[tuple[float, float]] = []
    for before, radius in itertools.pairwise((0.0, 0.0, *radii)):
        rise = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda number, _, start=before, end=radius: head.radius.assign(
                start + (end - start) * (number + 1) / _EPOCHS
            )
        )
        count = _EPOCHS * steps * _BATCH
        passes = [order.permutation(len(fit)) for _ in range(math.ceil(count / len(fit)))]
        at = tf.data.Dataset.from_tensor_slices(np.concatenate(passes)[:count])
        batches = at.batch(_BATCH).map(lambda at: (tf.gather(x, at), tf.gather(y, at)))
        head.fit(
            batches, epochs=_EPOCHS, steps_per_epoch=steps, shuffle=False, verbose=0,
            callbacks=[rise],
        )  # fmt: skip
        layers = [layer.get_weights() for layer in head.layers]
        now = probe_of(scaler, layers, given.classes)
        tried.append((float(radius), _balanced(now._replace(numbers=None), *seen)))
        if tried[-1][1] < max(share for _, share in tried) - most_lost:
            break
        probe, chosen = now, float(radius)
    notes = {"radius": chosen, "held_out_balanced_accuracy": tried, "converged": True}
    return Fitted(probe, notes)


def _balanced(probe: Probe, embeddings: np.ndarray, columns: np.ndarray) -> float:
    """The mean over classes of the accuracy on their examples."""
    of = (columns == column for column in np.unique(columns))
    return float(np.mean([accuracy(probe, embeddings[at], columns[at]) for at in of]))
