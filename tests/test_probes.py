"""Heads on embeddings against scikit-learn's own pipelines, and against known answers."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tf_avae.errors import InputError
from tf_avae.probes import HEADS, STRENGTHS, Neighbours, fit_linear, fit_mlp

RNG = np.random.default_rng(0)


def clouds(count=600, classes=4, spread=1.5):
    """Overlapping Gaussians in 5 dimensions of very different scales."""
    labels = np.arange(count) % classes
    centres = RNG.normal(size=(classes, 5)) * 2
    x = centres[labels] + RNG.normal(size=(count, 5)) * spread
    return x * [1, 100, 0.01, 1, 1] + [0, 1e3, 0, 5, 0], labels


X, Y = clouds()
NEW = clouds()[0]


def pipeline(strength):
    model = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000)
    return make_pipeline(StandardScaler(), model)


@pytest.mark.parametrize("classes", [2, 4])
def test_linear_probe_is_scikit_learns_of_the_chosen_strength(classes):
    keep = classes > Y
    fitted = fit_linear(X[keep], Y[keep], seed=3)
    reference = pipeline(fitted.notes["regularisation"]).fit(X[keep], Y[keep])
    probability = tf.nn.softmax(fitted.probe(tf.constant(NEW, tf.float32))).numpy()
    np.testing.assert_allclose(probability, reference.predict_proba(NEW), atol=2e-4)
    assert fitted.notes["converged"]


def test_strength_is_the_best_on_the_held_out_sixth_the_smallest_of_equals():
    fitted = fit_linear(X, Y, seed=3)
    fit, held_out = next(
        StratifiedShuffleSplit(1, test_size=100, random_state=3).split(np.zeros((600, 1)), Y)
    )
    accuracy = {
        c: pipeline(c).fit(X[fit], Y[fit]).score(X[held_out], Y[held_out]) for c in STRENGTHS
    }
    found = dict(fitted.notes["held_out_accuracy"])
    assert found == pytest.approx(accuracy, abs=0.0101)  # one of the hundred
    assert len(set(found.values())) > 1
    best = max(found.values())
    assert fitted.notes["regularisation"] == min(c for c in STRENGTHS if found[c] == best)


def test_strength_is_not_chosen_on_what_it_is_fitted_to():
    """Labels at random: the weakest regularisation fits the training part best by far."""
    x, y = RNG.normal(size=(600, 400)), RNG.integers(0, 2, 600)
    notes = fit_linear(x, y).notes
    assert pipeline(STRENGTHS[-1]).fit(x, y).score(x, y) > 0.95
    assert max(accuracy for _, accuracy in notes["held_out_accuracy"]) < 0.7


def test_mlp_solves_what_no_line_can():
    x = RNG.uniform(-1, 1, (1500, 2))
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    new = RNG.uniform(-1, 1, (500, 2)).astype(np.float32)
    truth = new[:, 0] * new[:, 1] > 0
    scores = {
        name: np.mean(head.fit(x, y, 0).probe(new).numpy().argmax(1) == truth)
        for name, head in HEADS.items()
    }
    assert scores["linear"] < 0.7 and scores["mlp"] > 0.93


def test_mlp_is_a_function_of_its_seed():
    one, again, other = (fit_mlp(X, Y, s).probe(NEW[:5]).numpy() for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)


@pytest.mark.parametrize("name", HEADS)
def test_a_gradient_flows_through_a_head(name):
    probe = HEADS[name].fit(X, Y, 0).probe
    at = tf.constant(NEW[:3], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(at)
        value = tf.reduce_sum(probe(at)[:, 0])
    slope = tape.gradient(value, at).numpy()
    step = np.float32([1e-2, 1, 1e-4, 1e-2, 1e-2])  # in proportion to the scales
    for axis in range(5):
        move = np.eye(5, dtype=np.float32)[axis] * step
        rise = (probe(at + move)[:, 0] - probe(at - move)[:, 0]) / (2 * step[axis])
        np.testing.assert_allclose(slope[:, axis], rise, rtol=0.1, atol=0.02 * np.abs(rise).max())


def test_an_embedding_that_does_not_vary_is_no_error():
    x = X.copy()
    x[:, 1] = 3.0
    assert np.isfinite(fit_linear(x, Y).probe(tf.constant(x[:9], tf.float32))).all()
    constant = np.ones((60, 3))
    logits = fit_linear(constant, np.arange(60) % 3).probe(tf.ones((2, 3))).numpy()
    np.testing.assert_allclose(logits[0], logits[0].mean(), atol=1e-3)


def test_neighbours_vote_as_scikit_learns_do():
    x, y = X / [1, 100, 0.01, 1, 1], Y
    queries, truth = NEW / [1, 100, 0.01, 1, 1], Y
    index = Neighbours(x, {"task": y}, 7)
    right, share = index.agreement(index.find(queries), "task", truth)
    reference = KNeighborsClassifier(7, algorithm="brute").fit(x, y)
    np.testing.assert_array_equal(right, reference.predict(queries) == truth)
    np.testing.assert_allclose(share, reference.predict_proba(queries)[np.arange(600), truth])


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X * np.nan, Y, "not all finite"),
        (X, Y[:-1], r"\[N, D\] and \[N\]"),
        (X, np.zeros_like(Y), "2 classes"),
        (X, np.where(np.arange(600) == 0, 9, Y), "each with 2 examples"),
    ],
)
@pytest.mark.parametrize("name", HEADS)
def test_bad_embeddings_are_named(name, x, y, words):
    with pytest.raises(InputError, match=words):
        HEADS[name].fit(x, y, 0)


def test_more_neighbours_than_images_are_refused():
    with pytest.raises(InputError, match="neighbours is 601"):
        Neighbours(X, {"task": Y}, 601)
