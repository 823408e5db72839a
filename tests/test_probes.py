"""Heads on embeddings against scikit-learn's own pipelines, and against known answers."""

import itertools
import json
import types

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from tf_avae.errors import InputError
from tf_avae.evaluation.neighbours import agreement, nearest
from tf_avae.probes import (
    HEADS,
    MARGIN_WEIGHTS,
    STRENGTHS,
    Probe,
    fit_interval,
    fit_linear,
    fit_margin,
    fit_mlp,
    latent_radius,
)
from tf_avae.probes.probe import solve

RNG = np.random.default_rng(0)


def clouds(count=600, classes=4, spread=1.5):
    """Overlapping Gaussians in 5 dimensions of very different scales."""
    labels = np.arange(count) % classes
    centres = RNG.normal(size=(classes, 5)) * 2
    x = centres[labels] + RNG.normal(size=(count, 5)) * spread
    return x * [1, 100, 0.01, 1, 1] + [0, 1e3, 0, 5, 0], labels


X, Y = clouds()
NEW = clouds()[0]
MILD = np.array([1, 0.03, 10, 1, 1])
"""Brings the scales of the clouds to within a factor of 30."""


def pipeline(strength, scaler=None):
    model = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000)
    return make_pipeline(scaler or StandardScaler(), model)


def one_scale(x):
    """Divides by one number: the root of the mean variance of the columns of x."""
    scale = np.sqrt(np.mean([np.var(column) for column in x.T]))
    return FunctionTransformer(lambda z: z / scale)


def sixth(labels):
    """Positions of the examples that are fitted and of those held out, with seed 3."""
    splits = StratifiedShuffleSplit(1, test_size=len(labels) // 6, random_state=3)
    return next(splits.split(labels[:, np.newaxis], labels))


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
    fit, held_out = sixth(Y)
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


@pytest.mark.parametrize("classes", [2, 4])
def test_margin_probe_is_scikit_learns_on_embeddings_divided_by_one_number(classes):
    x, y = (X * MILD)[classes > Y], Y[classes > Y]
    fitted = fit_margin(x, y, seed=3)
    reference = pipeline(fitted.notes["regularisation"], one_scale(x)).fit(x, y)
    probability = tf.nn.softmax(fitted.probe(tf.constant(NEW * MILD, tf.float32))).numpy()
    np.testing.assert_allclose(probability, reference.predict_proba(NEW * MILD), atol=2e-4)
    assert fitted.notes["converged"]


def test_margin_is_chosen_for_the_mean_distance_of_held_out_examples_to_another_class():
    rng, y = np.random.default_rng(1), np.arange(600) % 8
    x = 0.6 * rng.normal(size=(8, 16))[y] + rng.normal(size=(600, 16)) * np.linspace(0.3, 2, 16)
    notes = fit_margin(x, y, seed=3).notes
    fit, held_out = sixth(y)
    means = [x[y == k].mean(axis=0) for k in range(8)]
    most = np.mean([np.linalg.norm(a - b) for a, b in itertools.combinations(means, 2)]) / 2
    expected = {}
    for weight in MARGIN_WEIGHTS:
        divide, model = made = pipeline(weight / 600, one_scale(x[fit])).fit(x[fit], y[fit])
        kernel, radii = divide.transform(model.coef_), []
        for logits, label in zip(made.decision_function(x[held_out]), y[held_out], strict=True):
            others = [k for k in range(8) if k != label]
            walls = [
                (logits[label] - logits[k]) / np.linalg.norm(kernel[label] - kernel[k])
                for k in others
            ]
            radii.append(min(most, max(0.0, min(walls))))
        of_classes = [np.mean(np.array(radii)[y[held_out] == k]) for k in range(8)]
        expected[weight / 600] = np.mean(of_classes)
    assert dict(notes["held_out_radius"]) == pytest.approx(expected, rel=0.01)
    assert notes["regularisation"] == max(expected, key=expected.get)
    assert MARGIN_WEIGHTS[0] / 600 < notes["regularisation"] < MARGIN_WEIGHTS[-1] / 600


@pytest.mark.parametrize("classes", [2, 4])
def test_within_its_radius_an_embedding_keeps_its_class_and_not_further(classes):
    def single(*shape):
        return RNG.normal(size=shape).astype(np.float32)

    scale = np.float32([1, 3, 0.3, 1, 2])
    probe = Probe(single(5), scale, ((single(5, classes), single(classes)),))
    at, labels = single(60, 5), RNG.integers(0, classes, 60)
    radius = latent_radius(probe, at, labels)
    right = probe(at).numpy().argmax(1) == labels
    assert 0 < right.sum() < 60
    assert (radius[right] > 0).all() and (radius[~right] == 0).all()
    point = tf.constant(at[:1])
    with tf.GradientTape() as tape:
        tape.watch(point)
        logits = probe(point)[0]
    slopes = tape.jacobian(logits, point).numpy()[:, 0]
    pairs = [slopes[j] - slopes[k] for j in range(classes) for k in range(classes) if j != k]
    directions = np.concatenate([pairs, single(500, 5)])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    def stays(factor):
        moved = at[:, np.newaxis] + factor * radius[:, np.newaxis, np.newaxis] * directions
        said = probe(moved.reshape(-1, 5).astype(np.float32)).numpy().argmax(1)
        return (said.reshape(60, -1) == labels[:, np.newaxis])[right]

    assert stays(0.999).all()
    assert not stays(1.001).all(axis=1).any()
    flat = Probe(probe.mean, scale, ((np.zeros((5, classes), np.float32), single(classes)),))
    assert not latent_radius(flat, at, labels).any()


def test_margin_probe_does_not_depend_on_the_axes_of_the_embedding():
    turn = np.linalg.qr(RNG.normal(size=(5, 5)))[0]

    def logits(fit, change):
        made = fit(change(X * MILD), Y, 3).probe
        return made(tf.constant(change(NEW * MILD), tf.float32)).numpy()

    def turned(x):
        return x @ turn

    def moved(x):
        return 7 * turned(x) + [3, -20, 0, 5, 1]

    np.testing.assert_allclose(logits(fit_margin, moved), logits(fit_margin, np.copy), atol=1e-4)
    change = logits(fit_linear, turned) - logits(fit_linear, np.copy)
    assert np.abs(change).max() > 0.3


@pytest.mark.parametrize("share", [0.1, 0.4, 0.5])
def test_margin_probe_does_not_say_the_commonest_class_of_everything(share):
    """Two Gaussians, four standard deviations apart: two on either side of what tells best."""
    rng = np.random.default_rng(2)
    y = (rng.random(3000) < share).astype(int)
    x = rng.normal(size=(3000, 16))
    x[:, 0] += 7 * y
    right = fit_margin(x, y).probe(tf.constant(x, tf.float32)).numpy().argmax(1) == y
    assert right.mean() > scipy.stats.norm.cdf(2) - 0.03
    assert right[y == 1].mean() > 0.9


def test_margin_probe_leans_less_on_a_dimension_that_hardly_varies():
    """The second dimension tells the classes apart a little better, and is a hundredth as wide."""
    y = np.arange(1200) % 2
    x = (RNG.normal(size=(1200, 2)) + np.outer(y, [2.0, 2.4])) * [1, 0.01]

    def direction(fit):
        made = fit(x, y).probe
        ((kernel, _),) = made.layers
        return (kernel[:, 1] - kernel[:, 0]) / made.scale

    linear, margin = direction(fit_linear), direction(fit_margin)
    assert linear[1] > 50 * linear[0] > 0
    assert abs(margin[1]) < margin[0] and abs(margin[1]) < linear[1] / 50


def test_mlp_solves_what_no_line_can():
    x = RNG.uniform(-1, 1, (1500, 2))
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    new = RNG.uniform(-1, 1, (500, 2)).astype(np.float32)
    truth = new[:, 0] * new[:, 1] > 0
    scores = {
        name: np.mean(head.fit(x, y, 0).probe(new).numpy().argmax(1) == truth)
        for name, head in HEADS.items()
    }
    assert scores["mlp"] > 0.93 and max(scores["linear"], scores["margin"]) < 0.7
    assert scores["interval"] > 0.85


@pytest.mark.parametrize("fit", [fit_mlp, fit_interval])
def test_a_head_of_two_layers_is_a_function_of_its_seed(fit):
    one, again, other = (fit(X, Y, s).probe(NEW[:5]).numpy() for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)


@pytest.mark.parametrize(
    "change",
    [
        lambda: keras.config.set_dtype_policy("mixed_float16"),
        lambda: keras.config.set_floatx("bfloat16"),
        lambda: keras.utils.set_random_seed(7),
    ],
)
def test_interval_head_is_the_same_whatever_kerass_settings(change):
    expected = fit_interval(X, Y, radii=(0.1,)).probe(NEW[:5]).numpy()
    before = keras.config.dtype_policy(), keras.config.floatx()
    try:
        change()
        found = fit_interval(X, Y, radii=(0.1,)).probe(NEW[:5]).numpy()
    finally:
        keras.config.set_dtype_policy(before[0])
        keras.config.set_floatx(before[1])
    np.testing.assert_array_equal(found, expected)


def proven(probe, x, y, reach):
    """Whether intervals, by numpy, prove the class of embeddings that move by up to `reach` in each
    dimension, through a hidden layer."""
    (into, offset), (out, offsets) = (map(np.float64, layer) for layer in probe.layers)
    middle = (x - probe.mean) / probe.scale @ into + offset
    reach = reach / probe.scale @ np.abs(into)
    low, high = np.maximum(middle - reach, 0), np.maximum(middle + reach, 0)
    ahead = out[:, y].T[:, :, np.newaxis] - out  # [N, units, K]: the last layer's rows are folded
    least = np.where(ahead > 0, low[..., np.newaxis], high[..., np.newaxis])
    least = (ahead * least).sum(1) + offsets[y][:, np.newaxis] - offsets
    least[np.arange(len(y)), y] = np.inf
    return least.min(1) > 0


def test_interval_head_proves_what_mlp_does_not():
    centres = np.random.default_rng(3).normal(size=(3, 6))
    y = np.arange(900) % 3
    x = centres[y] + 0.5 * np.random.default_rng(4).normal(size=(900, 6))
    plain, bounded = fit_mlp(x[:600], y[:600]), fit_interval(x[:600], y[:600])
    # All dimensions have one scale, and the radius is a share of it.
    scale = bounded.probe.scale
    assert np.ptp(scale) == 0 and scale[0] == pytest.approx(np.sqrt(x.var(0).mean()), rel=0.05)
    radius = bounded.notes["radius"] * scale
    shares = [proven(of.probe, x[600:], y[600:], radius).mean() for of in (plain, bounded)]
    assert shares[1] > 0.5 and shares[1] > shares[0] + 0.15
    right = [np.mean(of.probe(np.float32(x[600:])).numpy().argmax(1) == y[600:])
             for of in (plain, bounded)]  # fmt: skip
    assert right[1] > right[0] - 0.04


def test_interval_head_takes_the_largest_radius_that_costs_little():
    options = {"radii": (0.1, 1.0, 3.0)}
    strict, lax = (
        fit_interval(X * MILD, Y, most_lost=lost, **options).notes for lost in (0.05, 1.0)
    )
    radii, accuracy = zip(*lax["held_out_balanced_accuracy"], strict=True)
    assert radii == (0.0, 0.1, 1.0, 3.0) and lax["radius"] == 3.0
    assert accuracy[-1] < accuracy[0] - 0.05  # the radius has its price here
    # The stricter one stops where it has lost too much, and takes the one before.
    tried = strict["held_out_balanced_accuracy"]
    assert tried == lax["held_out_balanced_accuracy"][: len(tried)] and len(tried) > 1
    least = max(accuracy[: len(tried)]) - 0.05
    assert accuracy[len(tried) - 1] < least <= min(accuracy[: len(tried) - 1])
    assert strict["radius"] == tried[-2][0]


def test_interval_head_does_not_give_up_a_rare_class():
    """Its share is less than the accuracy that a radius may cost."""
    rng = np.random.default_rng(5)
    y = (np.arange(6000) % 83 == 0).astype(int)
    x = rng.normal(size=(6000, 16))
    x[:, 0] += 7 * y
    fitted = fit_interval(x[:4000], y[:4000], radii=(0.4, 1.6, 6.4))
    seen = dict(fitted.notes["held_out_balanced_accuracy"])
    assert seen[fitted.notes["radius"]] >= max(seen.values()) - 0.015 > min(seen.values())
    rare = x[4000:][y[4000:] == 1].astype(np.float32)
    assert fitted.probe(rare).numpy().argmax(1).mean() > 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"radii": ()}, "give at least one"),
        ({"radii": (0.0, 0.1)}, "above 0"),
        ({"radii": (0.2, 0.1)}, "ascending"),
        ({"radii": (0.1, np.inf)}, "finite"),
        ({"radii": (np.nan,)}, r"radii are \[nan\]"),
        ({"most_lost": -0.1}, "most_lost is -0.1"),
        ({"most_lost": np.nan}, "most_lost is nan"),
    ],
)
def test_radii_that_are_none_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        fit_interval(X, Y, **options)


@pytest.mark.parametrize("name", HEADS)
def test_a_gradient_flows_through_a_head(name):
    probe = HEADS[name].fit(X * MILD, Y, 0).probe
    at = tf.constant((NEW * MILD)[:3], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(at)
        value = tf.reduce_sum(probe(at)[:, 0])
    slope = tape.gradient(value, at).numpy()
    step = np.float32([1e-2, 3e-2, 1e-3, 1e-2, 1e-2])  # in proportion to the scales
    for axis in range(5):
        move = np.eye(5, dtype=np.float32)[axis] * step
        rise = (probe(at + move)[:, 0] - probe(at - move)[:, 0]) / (2 * step[axis])
        np.testing.assert_allclose(slope[:, axis], rise, rtol=0.1, atol=0.02 * np.abs(rise).max())


@pytest.mark.parametrize("fit", [fit_linear, fit_margin])
def test_an_embedding_that_does_not_vary_is_no_error(fit):
    x = X.copy()
    x[:, 1] = 3.0
    assert np.isfinite(fit(x, Y).probe(tf.constant(x[:9], tf.float32))).all()
    fitted = fit(np.full((60, 3), 0.1), np.arange(60) % 3)
    logits = fitted.probe(tf.fill((2, 3), 0.1)).numpy()
    np.testing.assert_allclose(logits[0], logits[0].mean(), atol=1e-3)
    json.dumps(fitted.notes, allow_nan=False)


def test_neighbours_vote_as_scikit_learns_do():
    x, y = X / [1, 100, 0.01, 1, 1], Y
    queries, truth = NEW / [1, 100, 0.01, 1, 1], Y
    right, share = agreement(nearest(x, queries, 7), y, truth)
    reference = KNeighborsClassifier(7, algorithm="brute").fit(x, y)
    np.testing.assert_array_equal(right, reference.predict(queries) == truth)
    np.testing.assert_allclose(share, reference.predict_proba(queries)[np.arange(600), truth])


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X * np.nan, Y, "not all finite"),
        (X * 1e300, Y, "not all finite in float32"),
        (X, Y[:-1], r"labels have shape \[599\]; they must be \[N\], 600 of them"),
        (X, np.zeros_like(Y), "2 classes"),
        (X, np.where(np.arange(600) == 0, 9, Y), "each with 2 examples"),
    ],
)
@pytest.mark.parametrize("name", HEADS)
def test_bad_embeddings_are_named(name, x, y, words):
    with pytest.raises(InputError, match=words):
        HEADS[name].fit(x, y, 0)


@pytest.mark.parametrize("strengths", [(), (0.1, -1.0), (0.0,), (np.inf,), (np.nan,)])
def test_strengths_that_are_none_are_refused(strengths):
    for fit, name in ((fit_linear, "strengths"), (fit_margin, "weights")):
        with pytest.raises(InputError, match="strengths of the regularisation"):
            fit(X, Y, **{name: strengths})


def test_a_fit_takes_one_thread_and_leaves_the_others_as_they_were(monkeypatch):
    """Threads that wait for a core spin."""
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads():
        return {pool["num_threads"] for pool in threadpool_info()}

    seen = []
    model = types.SimpleNamespace(fit=lambda x, y: seen.append(threads()), n_iter_=np.array([3]))
    with threadpool_limits(2):
        assert solve(model, np.zeros((2, 1)), np.zeros(2))
        assert seen == [{1}] and threads() == {2}
