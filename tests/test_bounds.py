"""Bounds: nothing leaves them, and where a formula is known they are equal to it."""

import itertools
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.bounds_check import bounds_of, tiny
from tf_avae import ARCHITECTURES, pgd
from tf_avae.backend.layers import ConstantVariance
from tf_avae.bounds import Bounds, Box, ball, lead
from tf_avae.errors import InputError

L = keras.layers

# -------------------------------------------------------------------- networks of any kind

MONOTONE = (
    "relu leaky_relu celu elu exponential hard_sigmoid hard_tanh log_sigmoid relu6 selu sigmoid "
    "softplus softsign tanh linear"
).split()


def _convolution(x, rng, **options):
    return L.Conv2D(3, 3, strides=int(rng.integers(1, 3)), **options)(x)


def _merged(kind):
    def merge(x, rng):
        return kind()([x, L.Conv2D(x.shape[-1], 3, padding="same", activation="relu")(x)])

    return merge


def _nested(x, rng):
    inner = keras.Input(x.shape[1:])
    part = L.BatchNormalization()(L.ReLU()(L.Conv2D(2, 1)(inner)))
    return keras.Model(inner, part)(x)


def _chained(x, rng):
    part = keras.Sequential()
    for layer in (L.DepthwiseConv2D(2, depth_multiplier=2), L.BatchNormalization(), L.ELU(1.5)):
        part.add(layer)
    return part(L.ZeroPadding2D(1)(x))


def _twice(x, rng):
    same = L.Conv2D(x.shape[-1], 3, padding="same", activation="leaky_relu")
    return keras.ops.relu(x + same(same(x)))


BLOCKS = {
    "same": lambda x, rng: _convolution(x, rng, padding="same"),
    "valid": lambda x, rng: _convolution(L.ZeroPadding2D(1)(x), rng, use_bias=False),
    "depthwise": lambda x, rng: L.DepthwiseConv2D(3, strides=2, padding="same")(x),
    "dense": lambda x, rng: L.Dense(3)(x),
    "norm": lambda x, rng: L.BatchNormalization(scale=bool(rng.integers(2)))(x),
    "rescaling": lambda x, rng: L.Rescaling(float(rng.normal()), float(rng.normal()))(x),
    "max": lambda x, rng: L.MaxPooling2D(2, strides=1, padding="same")(x),
    "average": lambda x, rng: L.AveragePooling2D(3, strides=2, padding="same")(x),
    "resized": lambda x, rng: L.Cropping2D(((0, 1), (1, 0)))(L.UpSampling2D(2)(x)),
    "turned": lambda x, rng: L.Permute((2, 1, 3))(L.Reshape((x.shape[1], -1, 1))(x)),
    "add": _merged(L.Add),
    "mean": _merged(L.Average),
    "subtract": _merged(L.Subtract),
    "concatenate": _merged(L.Concatenate),
    "maximum": _merged(L.Maximum),
    "minimum": _merged(L.Minimum),
    "broadcast": lambda x, rng: L.Add()([x, L.Dense(x.shape[-1])(L.GlobalMaxPooling2D()(x))]),
    "residual": lambda x, rng: x + L.DepthwiseConv2D(3, padding="same")(x),
    "twice": _twice,
    "nested": _nested,
    "chained": _chained,
    "relu": lambda x, rng: L.ReLU(negative_slope=0.1)(x),
    "cut": lambda x, rng: L.ReLU(max_value=1.5, negative_slope=0.5, threshold=0.25)(x),
    "steep": lambda x, rng: L.LeakyReLU(1.5)(x),
    "activation": lambda x, rng: L.Activation(str(rng.choice(MONOTONE)))(x),
}  # fmt: skip

PLANS = st.tuples(
    st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=4),
    st.integers(0, 2**16),
    st.sampled_from([0.0, 0.02, 0.3]),
)


def drawn(blocks, rng):
    """A network of such blocks with an embedding [B, 3], all its weights at random."""
    images = x = keras.Input((5, 4, 2))
    for name in blocks:
        x = BLOCKS[name](x, rng)
    pooled = (L.Flatten, L.GlobalAveragePooling2D)[rng.integers(2)]()(x)
    hidden = L.Dense(6, activation=str(rng.choice(MONOTONE[:2])))(pooled)
    model = keras.Model(images, {"embedding": L.Dense(3)(hidden)})
    for weight in model.weights:
        value = rng.normal(0, 1 / np.sqrt(max(1, np.prod(weight.shape[:-1]))), weight.shape)
        weight.assign(rng.uniform(0.3, 2, weight.shape) if "variance" in weight.path else value)
    return model


def in_float64(model):
    """The same network in float64."""

    def clone(layer):
        of_layers = {"dtype": "float64"} if isinstance(layer, L.Layer) else {}
        return type(layer).from_config({**layer.get_config(), **of_layers})

    twin = keras.models.clone_model(model, clone_function=clone, recursive=True)
    twin.set_weights(model.get_weights())
    return twin


def points_of(box, rng, worst):
    """Points of a box of images, [N, B, ...]: ends, corners, any, and those given."""
    low, high = (np.asarray(end) for end in box)
    corners = np.where(rng.integers(2, size=(8, *low.shape)), low, high)
    shares = rng.uniform(size=(8, *low.shape)).astype(np.float32)
    inner = np.clip(low + shares * (high - low), low, high)
    return np.concatenate([[low, high], corners, inner, np.clip(worst, low, high)])


def attacked(model, images, epsilon, rows):
    """What is smallest of each function of the embedding that PGD finds, [K, B, ...]."""
    count, many = len(rows), np.repeat(images[None], len(rows), 0).reshape(-1, *images.shape[1:])
    of = tf.repeat(tf.constant(rows), len(images), axis=0)
    found = pgd(
        lambda x: -tf.reduce_sum(of * model(x, training=False)["embedding"], axis=1),
        many, epsilon=epsilon, steps=4, seed=0, step_size=epsilon,
    )  # fmt: skip
    return found.numpy().reshape(count, *images.shape)


def outside(box, values):
    """How far values [N, B, ...] are out of a box, at most."""
    low, high = (np.asarray(end, np.float64) for end in box)
    return max((low - values).max(), (values - high).max())


@settings(max_examples=10, derandomize=True)
@given(PLANS)
def test_nothing_leaves_the_bounds_of_any_network(plan):
    blocks, seed, epsilon = plan
    rng = np.random.default_rng(seed)
    model = drawn(blocks, rng)
    bounds, images = Bounds(model), rng.uniform(size=(2, 5, 4, 2)).astype(np.float32)
    rows, constant = rng.normal(size=(3, 3)).astype(np.float32), rng.normal(size=3)
    relaxations = (0, 1, 2, 99)
    box = ball(images, epsilon)
    worst = attacked(model, images, epsilon, rows) if epsilon else images[None]
    points = points_of(box, rng, worst)
    flat = points.reshape(-1, *images.shape[1:])
    for outward in (False, True):
        found = bounds(box, outward=outward)["embedding"]
        # As real numbers they hold; float32 is off by some roundings of the largest.
        allowed = 0.0 if outward else 1e-5 * max(1.0, float(tf.reduce_max(found.magnitude)))
        least = [
            bounds.least(box, rows, constant, relaxed=relaxed, outward=outward).numpy()
            for relaxed in (relaxations if outward else (0, 99))
        ]
        for network in (model, in_float64(model)):
            values = network(flat, training=False)["embedding"].numpy()
            values = values.reshape(*points.shape[:2], 3).astype(np.float64)
            assert outside(found, values) <= allowed
            functions = (values @ rows.T.astype(np.float64) + constant).min(0)
            for of_relaxed in least:
                assert (of_relaxed - functions).max() <= 4 * allowed
        box_alone = tf.matmul(found.center, rows, transpose_b=True) + constant.astype(np.float32)
        box_alone -= tf.matmul(found.radius, np.abs(rows), transpose_b=True)
        if not outward:
            assert (box_alone - least[0]).numpy().max() <= 4 * allowed


def test_a_grid_of_all_points_stays_inside_and_reaches_the_ends_of_monotone_networks():
    rng = np.random.default_rng(3)
    images = keras.Input((2, 2, 1))
    hidden = L.Dense(4, activation="relu")(L.Flatten()(images))
    hidden = L.Dense(3, activation="tanh")(hidden)
    model = keras.Model(images, L.Dense(2)(hidden))
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    image = rng.uniform(size=(1, 2, 2, 1)).astype(np.float32)
    box = ball(image, 0.2, outward=True)
    sides = np.linspace(box.lower.numpy().ravel(), box.upper.numpy().ravel(), 9).T
    grid = np.array(list(itertools.product(*sides)), np.float32).reshape(-1, 2, 2, 1)
    bounds = Bounds(model)
    assert outside(bounds(box, outward=True), model(grid).numpy()[:, None]) <= 0
    rows = np.float32([[1, -1], [1, 1]])
    smallest = (model(grid).numpy() @ rows.T).min(0)
    for relaxed in (0, 1, 2):
        least = bounds.least(box, rows, output=None, relaxed=relaxed, outward=True)
        assert (least.numpy()[0] <= smallest).all()
    # With no weight below 0 the least and the largest image give the least and the largest output.
    for weight in model.weights:
        weight.assign(np.abs(weight.numpy()))
    found = bounds(box)
    np.testing.assert_allclose(found.lower[0], model(grid).numpy().min(0), rtol=1e-5)
    np.testing.assert_allclose(found.upper[0], model(grid).numpy().max(0), rtol=1e-5)


# -------------------------------------------------------------------- formulas


@pytest.fixture(scope="module")
def hidden_layer():
    """A network of one hidden layer, its bounds, a box of images near 0 and 1, and all as numpy."""
    rng = np.random.default_rng(1)
    images = keras.Input((3, 3, 2))
    hidden = L.Dense(12, activation="relu")(L.Flatten()(images))
    model = keras.Model(images, {"embedding": L.Dense(4)(hidden)})
    weights = [rng.normal(0, 0.5, w.shape).astype(np.float32) for w in model.weights]
    model.set_weights(weights)
    x = rng.uniform(size=(5, 3, 3, 2)).astype(np.float32)
    low, high = np.clip(x - 0.1, 0, 1), np.clip(x + 0.1, 0, 1)
    low, high = (end.reshape(5, 18).astype(np.float64) for end in (low, high))
    rows = rng.normal(size=(5, 3, 4)).astype(np.float32)
    return Bounds(model), ball(x, 0.1), low, high, weights, rows


def affine(low, high, kernel, bias):
    """The interval of an affine layer: its middle, and what the weights' sizes make of half of the
    width."""
    middle, half = (low + high) / 2 @ kernel + bias, (high - low) / 2 @ np.abs(kernel)
    return middle - half, middle + half


def test_intervals_are_those_of_the_formula(hidden_layer):
    bounds, box, low, high, (w1, b1, w2, b2), _ = hidden_layer
    low, high = (np.maximum(end, 0) for end in affine(low, high, w1, b1))
    low, high = affine(low, high, w2, b2)
    found = bounds(box)["embedding"]
    np.testing.assert_allclose(found.lower, low, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.upper, high, rtol=1e-5, atol=1e-5)


def folded(rows, low, high, constant):
    """The least of functions [B, K, N] of numbers in a box [B, N]."""
    positive, negative = np.maximum(rows, 0), np.minimum(rows, 0)
    return (
        np.einsum("bkn,bn->bk", positive, low) + np.einsum("bkn,bn->bk", negative, high) + constant
    )


def crown(rows, low, high, w1, b1, pre_low, pre_high, constant):
    """CROWN of one hidden layer: lines below and above each unit (arXiv 1811.00866, section 3.2),
    the lower of the slope that leaves the smaller area."""
    crossing = (pre_low < 0) & (pre_high > 0)
    above = np.where(crossing, pre_high / (pre_high - pre_low), pre_high > 0)
    offset = np.where(crossing, -above * pre_low, 0)
    below = np.where(crossing, pre_high > -pre_low, pre_high > 0)
    positive, negative = np.maximum(rows, 0), np.minimum(rows, 0)
    slopes = positive * below[:, None] + negative * above[:, None]
    constant = constant + np.einsum("bkn,bn->bk", negative, offset) + slopes @ b1
    return folded(slopes @ w1.T, low, high, constant)


def test_least_is_the_folding_of_the_formula_and_crown_s(hidden_layer):
    bounds, box, low, high, (w1, b1, w2, b2), rows = hidden_layer
    pre = affine(low, high, w1, b1)
    units, constant = rows @ w2.T, rows @ b2 + 0.5
    expected = folded(units, *(np.maximum(end, 0) for end in pre), constant)
    least = bounds.least(box, rows, 0.5)
    np.testing.assert_allclose(least, expected, rtol=1e-5, atol=1e-5)
    found = bounds(box)["embedding"]
    assert (
        least.numpy() > folded(rows, *(end.numpy() for end in found), 0.5)
    ).all()  # of the box alone

    expected = crown(units, low, high, w1, b1, *pre, constant)
    assert ((pre[0] < 0) & (pre[1] > 0)).mean() > 0.1  # or there is little to relax
    least = bounds.least(box, rows, 0.5, relaxed=1)
    np.testing.assert_allclose(least, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(bounds.least(box, rows, 0.5, relaxed=99), least)


def test_relaxed_bounds_are_exact_where_no_unit_changes_its_sign():
    """Then the network is affine in the box, and a corner is its least."""
    model, images, _ = tiny()
    bounds, box = Bounds(model), ball(images, 1e-4)
    rows = np.float32([[1, 0], [-1, 1]])
    least = bounds.least(box, rows, relaxed=99)
    with tf.GradientTape() as tape:
        x = tf.constant(images)
        tape.watch(x)
        values = tf.matmul(model(x)["embedding"], rows, transpose_b=True)
    slopes = tape.batch_jacobian(values, x).numpy()
    expected = values - 1e-4 * np.abs(slopes).sum((2, 3, 4))
    np.testing.assert_allclose(least, expected, rtol=1e-5, atol=1e-6)
    # Intervals forget that units depend on the same pixels.
    assert (least - bounds.least(box, rows)).numpy().min() > 1e-6


def test_relaxed_bounds_are_no_looser_where_units_are_mostly_below_0(hidden_layer):
    """There the line below is 0, no worse than the interval, and the chord meets its upper end."""
    _, box, low, high, weights, rows = hidden_layer
    w1, b1, w2, b2 = weights
    pre = affine(low, high, w1, b1)
    images = keras.Input((3, 3, 2))
    hidden = L.Dense(12, activation="relu")(L.Flatten()(images))
    model = keras.Model(images, {"embedding": L.Dense(4)(hidden)})
    half = (pre[1] - pre[0]).min(0) / 4
    shift = -((pre[0] + pre[1]) / 2).max(0) - half  # of each unit the middle is below 0
    model.set_weights([w1, (b1 + shift).astype(np.float32), w2, b2])
    lower, upper = affine(low, high, w1, b1 + shift)
    assert (upper <= -lower).all() and (upper > 0).any()
    gained = Bounds(model).least(box, rows, relaxed=1) - Bounds(model).least(box, rows)
    assert gained.numpy().min() > -1e-5 and gained.numpy().mean() > 1e-3


def test_bounds_are_those_of_auto_lirpa():
    """`python -m benchmarks.bounds_check` made the file, on the network that it calls tiny."""
    kept = json.loads((Path(__file__).parent / "data" / "bounds.json").read_text())
    model, images, head = tiny()
    found = bounds_of(model, images, head, kept["epsilon"])
    assert sorted(found) == sorted(kept["bounds"])
    for name, values in kept["bounds"].items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


def affine_residual(rng, low):
    """A residual network without activations, its weights at random from `low` to 1: a stem, a
    block that is normalised and one that is not."""
    images = keras.Input((4, 4, 2))
    x = L.Conv2D(3, 3, padding="same")(images)
    inner = L.BatchNormalization()(L.Conv2D(3, 3, padding="same", use_bias=False)(x))
    x = L.Add()([x, L.Conv2D(3, 3, padding="same")(inner)])
    x = L.Add()([L.Conv2D(4, 3, 2, padding="same")(x), L.Conv2D(4, 1, 2, padding="same")(x)])
    model = keras.Model(images, {"embedding": L.Dense(3)(L.Flatten()(x))})
    for weight in model.weights:
        least = 0.5 if "variance" in weight.path else low
        weight.assign(rng.uniform(least, 1, weight.shape) / 3)
    return model


def corners(model, images, epsilon):
    """The ends of an affine network on a ball: its value, and the sum of its slopes' sizes."""
    with tf.GradientTape() as tape:
        x = tf.constant(images)
        tape.watch(x)
        value = model(x)["embedding"]
    reach = epsilon * np.abs(tape.batch_jacobian(value, x).numpy()).sum((2, 3, 4))
    return value - reach, value + reach


def test_bounds_of_an_affine_residual_network_are_exact():
    """Backward ones whatever the weights: the functions of both ways into an `Add` are added up.
    Intervals forget that both ways see the same pixels: exact where no weight is below 0."""
    rng = np.random.default_rng(3)
    images = rng.uniform(0.3, 0.7, (2, 4, 4, 2)).astype(np.float32)
    box = ball(images, 0.1)
    for low in (-1.0, 0.0):
        model = affine_residual(rng, low)
        lower, upper = corners(model, images, 0.1)
        found = Bounds(model)(box)["embedding"]
        least = Bounds(model).least(box, np.concatenate([np.eye(3), -np.eye(3)]))
        np.testing.assert_allclose(least, np.concatenate([lower, -upper], 1), rtol=1e-4, atol=1e-5)
        if low == 0:
            np.testing.assert_allclose(found.lower, lower, rtol=1e-4)
            np.testing.assert_allclose(found.upper, upper, rtol=1e-4)
        else:
            assert ((found.lower < lower - 1e-3) & (found.upper > upper + 1e-3)).numpy().all()


def test_nothing_leaves_the_bounds_of_the_residual_architecture():
    """Points of the ball and its corners, statistics and weights as training may leave them."""
    rng = np.random.default_rng(4)
    encoder = ARCHITECTURES["resnet"].encoder((32, 32, 3), 2)
    for weight in encoder.weights:
        if "batch_normalization" in weight.path:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    image, epsilon = rng.uniform(size=(1, 32, 32, 3)).astype(np.float32), 0.01
    box = Bounds(encoder)(ball(image, epsilon, outward=True), outward=True)["embedding"]
    moves = rng.uniform(-epsilon, epsilon, (64, 32, 32, 3))
    moves[::2] = epsilon * np.sign(moves[::2])
    seen = encoder(np.clip(image + moves, 0, 1).astype(np.float32))["embedding"].numpy()
    assert outside(box, seen[:, None]) <= 0 and np.ptp(seen, 0).min() > 0


# -------------------------------------------------------------------- rounding


def test_rounding_leaves_plain_bounds_and_not_outward_ones():
    rng = np.random.default_rng(5)
    images = keras.Input((20, 20, 1))
    model = keras.Model(images, {"embedding": L.Dense(64)(L.Flatten()(images))})
    kernel = rng.normal(0, 1e4, (400, 64)).astype(np.float32)
    x = rng.uniform(0.2, 0.8, (1, 20, 20, 1)).astype(np.float32)
    bias = -(x.reshape(1, -1).astype(np.float64) @ kernel)[0]  # what is left is small
    model.set_weights([kernel, bias.astype(np.float32)])
    bounds, box = Bounds(model), ball(x, 1e-6)
    ends = [np.asarray(end, np.float64).ravel() for end in box]
    corners = [np.where(sign * kernel.T > 0, *ends) for sign in (1, -1)]  # of each output
    exact = [(at * kernel.T).sum(1) + bias.astype(np.float32) for at in corners]
    at = np.concatenate(corners).astype(np.float32).reshape(-1, 20, 20, 1)
    rounded = model(at)["embedding"].numpy().astype(np.float64)
    assert outside(bounds(box)["embedding"], np.stack(exact)[:, None]) > 0.01
    for values in (np.stack(exact)[:, None], rounded[:, None]):
        assert outside(bounds(box, outward=True)["embedding"], values) < 0
    rows = np.eye(64, dtype=np.float32)
    assert (bounds.least(box, rows).numpy() > np.min(exact, 0)).any()
    for relaxed in (0, 99):
        least = bounds.least(box, rows, relaxed=relaxed, outward=True).numpy()[0]
        assert (least < np.min(exact, 0)).all() and (least < rounded.min(0)).all()


def test_outward_bounds_allow_for_sums_that_lose_all_small_numbers():
    """Added to 2**24 one by one, ones leave no trace in float32."""
    numbers = keras.Input((400,))
    model = keras.Model(numbers, {"embedding": L.Dense(2, use_bias=False)(numbers)})
    model.set_weights([np.stack([np.ones(400), -np.ones(400)], 1)])
    x = np.ones((1, 400), np.float32)
    x[0, 0] = 2.0**24
    exact = np.array([2.0**24 + 399, -(2.0**24) - 399])
    bounds, box = Bounds(model), Box(x, x)
    values = np.stack([exact[None], model(x)["embedding"].numpy()])
    assert outside(bounds(box, outward=True)["embedding"], values) <= 0
    least = bounds.least(box, np.eye(2), outward=True).numpy()
    assert (least <= values.min(0)).all()


@pytest.mark.parametrize("name", MONOTONE)
def test_activations_are_as_right_as_outward_bounds_take_them_for(name):
    x = np.concatenate([-np.logspace(-9, 1.8, 4000), np.logspace(-9, 1.8, 4000)])
    x = x.astype(np.float32).reshape(-1, 1)
    at = keras.Input((1,))
    bounds = Bounds(keras.Model(at, L.Activation(name)(at)))
    exact = np.asarray(getattr(keras.activations, name)(tf.constant(x, tf.float64)))
    assert outside(bounds(Box(x, x), outward=True), exact) <= 0


def test_a_constant_and_a_sum_are_not_rounded_on_the_way():
    at = keras.Input((2,))
    bounds = Bounds(keras.Model(at, L.ReLU()(at)))
    x = np.float32([[1.0, 1.0]])
    rows = np.float32([[1e8, -1e8], [1e8, 1.0]])
    found = bounds.least(Box(x, x), rows, [1e-3, -1e8], output=None)
    np.testing.assert_allclose(found, [[1e-3, 1.0]], rtol=1e-6)
    assert bounds.least(Box(x, x), rows, -100000000.5, output=None)[0, 1] == 0.5


def test_what_overflows_has_no_bounds():
    images = keras.Input((2,))
    x = L.Rescaling(1e30)(L.Rescaling(1e30)(images))
    hidden = L.Dense(1, activation="relu", use_bias=False)(x)
    model = keras.Model(images, {"embedding": L.Dense(1)(hidden)})
    model.set_weights([np.float32([[1], [-1]]), np.ones((1, 1)), np.ones(1)])
    box = ball(np.ones((1, 2), np.float32), 0.1)  # infinity less infinity
    for relaxed in (0, 1):
        assert not np.isfinite(Bounds(model).least(box, np.float32([[1]]), relaxed=relaxed))


def test_a_lead_is_the_least_difference_from_all_other_logits():
    rng = np.random.default_rng(3)
    layer = L.Normalization(mean=[0.3, -0.2, 4.0], variance=[0.01, 2.0, 0.25])
    at = keras.Input((3,))
    model = keras.Model(at, L.Dense(4)(layer(at)))
    weights, bias = rng.normal(size=(3, 4)).astype(np.float32), np.float32([0.1, 0, -0.1, 0.2])
    model.layers[-1].set_weights([weights, bias])
    images = rng.uniform(size=(5, 3)).astype(np.float32)
    labels, radius = np.int32([0, 1, 2, 3, 0]), np.float32([0.1, 0.1, 0.2])
    box = Box(images - radius, images + radius)
    # Affine, so the least value is in a corner: exact in float64.
    scaled = weights / np.sqrt([0.01, 2.0, 0.25])[:, np.newaxis]
    centers = (images - [0.3, -0.2, 4.0]) @ scaled + bias
    expected = [
        min(
            centers[i, k] - centers[i, j] - np.abs(scaled[:, k] - scaled[:, j]) @ radius
            for j in range(4)
            if j != k
        )
        for i, k in enumerate(labels)
    ]
    found = lead(Bounds(model), box, tf.constant(labels), 4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    outward = lead(Bounds(model), box, tf.constant(labels), 4, outward=True)
    assert (outward.numpy() <= expected).all()


@pytest.mark.parametrize("activation", ["linear", "softsign", "tanh"])
def test_an_end_is_infinite_where_bounds_overflow_and_never_not_a_number(activation):
    model = over(L.Flatten(), L.Dense(1, activation=activation), L.Dense(2, name="last"))
    model.layers[-2].kernel.assign(tf.fill([32, 1], 1e38))
    model.layers[-1].kernel.assign([[1e38, -1e38]])
    for outward in (False, True):
        box = Bounds(model)(ball(np.ones((1, 4, 4, 2), np.float32), 0.5), outward=outward)
        assert not np.isnan(box).any()
        if activation == "linear":
            assert np.isinf(box).all()


def test_a_weight_that_a_processor_takes_for_0_counts():
    """Below the smallest normal number float32 computes with it, or with 0, as the device likes."""
    x = np.float32([[1e30]])
    model = keras.Sequential([keras.Input((1,)), L.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign([[1e-39]])
    box = Bounds(model)(ball(x, 0.0, bounds=(-1e31, 1e31)), outward=True)
    assert np.max(box.lower) < 0 and np.min(box.upper) > 1.0000001e-9


def test_nothing_leads_where_bounds_overflow():
    at = keras.Input((2,))
    hidden = L.Dense(1, activation="relu", use_bias=False)(L.Rescaling(1e30)(L.Rescaling(1e30)(at)))
    model = keras.Model(at, L.Dense(2)(hidden))
    model.set_weights([np.float32([[1], [-1]]), np.ones((1, 2)), np.float32([5, 0])])
    box = ball(np.ones((1, 2), np.float32), 0.1)
    assert lead(Bounds(model), box, tf.constant([0]), 2)[0] == -np.inf


def _nowhere_proven(model, x, epsilon):
    for relaxed, outward, label in itertools.product((0, 1, 10**6), (False, True), (0, 1)):
        box = ball(np.float32(x), epsilon, outward=outward)
        how = {"relaxed": relaxed, "outward": outward}
        yield label, float(lead(Bounds(model), box, tf.constant([label]), 2, **how)[0])


def test_a_pool_makes_no_bounds_of_what_overflowed():
    """TensorFlow's pooling passes over what is not a number on processors."""
    layers = [L.Conv2D(2, 1), L.Conv2D(1, 1), L.MaxPooling2D((1, 2)), L.Flatten(), L.Dense(2)]
    model = keras.Sequential([keras.Input((1, 2, 1)), *layers])
    model.set_weights([
        np.full((1, 1, 1, 2), 3e38), np.float32([0, 3e38]), np.reshape([1, -0.5], (1, 1, 2, 1)),
        np.zeros(1), np.float32([[-1e-37, 1e-37]]), np.float32([0, 40]),
    ])  # fmt: skip
    x = np.full((1, 1, 2, 1), 0.05, np.float32)
    assert model(x).numpy().argmax() == 1
    for _, found in _nowhere_proven(model, x, 1.0):
        assert found == -np.inf


def test_a_chord_may_be_wider_than_numbers_go():
    at = keras.Input((2,))
    hidden = L.Dense(1, activation="relu", use_bias=False)(L.Rescaling(2.0, -1.0)(at))
    model = keras.Model(at, L.Dense(2)(hidden))
    model.set_weights([np.float32([[1.75e38], [0]]), np.float32([[-1e-37, 0]]), np.float32([1, 0])])
    there = model(np.float32([[1.0, 0.5]])).numpy()[0]
    assert there[0] < there[1]
    for label, found in _nowhere_proven(model, [[0.5, 0.5]], 0.5):
        assert found <= (there[0] - there[1] if label == 0 else -1.0)


def test_coefficients_may_be_too_small_for_numbers():
    at = keras.Input((1,))
    x = at
    for _ in range(3):
        x = L.Dense(1, use_bias=False)(x)
    model = keras.Model(at, x)
    model.set_weights([np.float32([[w]]) for w in (1e30, 1e-25, 1e-25)])
    box = ball(np.float32([[0.5]]), 0.4, outward=True)
    rows = np.float32([[1.0], [-1.0]])
    for relaxed in (0, 10**6):
        how = {"output": None, "relaxed": relaxed, "outward": True}
        up, down = Bounds(model).least(box, rows, **how).numpy()[0]
        assert up <= 1e-21 and down <= -9e-21


# -------------------------------------------------------------------- balls


def test_balls_are_within_the_bounds_and_of_one_radius_for_each():
    images = np.float32([0.0, 0.5, 1.0, 1.5]).reshape(4, 1, 1, 1)
    box = ball(images, [0.1, 0.2, 0.3, 0.25])
    np.testing.assert_allclose(tf.squeeze(box.lower), [0, 0.3, 0.7, 1], rtol=1e-6)
    np.testing.assert_allclose(tf.squeeze(box.upper), [0.1, 0.7, 1, 1], rtol=1e-6)
    wide = ball(images.astype(np.float64), 0.1, bounds=(-9, 9), outward=True)
    exact = images.astype(np.float64).ravel()
    assert (np.ravel(wide.lower) < exact - 0.1).all() and (np.ravel(wide.upper) > exact + 0.1).all()
    for epsilon in (-0.1, [0.1, -0.1, 0, 0], float("nan")):
        with pytest.raises(InputError, match=r"epsilon is .*at least 0"):
            ball(images, epsilon)


def test_a_radius_of_0_gives_the_point():
    model, images, _ = tiny()
    box = Bounds(model)(ball(images, 0.0))["embedding"]
    for end in box:
        np.testing.assert_allclose(end, model(images)["embedding"], rtol=1e-5, atol=1e-6)


# -------------------------------------------------------------------- networks that come along


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_encoders_have_bounds_and_under_mixed_precision_the_same(name):
    shape = (max(16, ARCHITECTURES[name].smallest),) * 2 + (1,)
    networks = [
        ARCHITECTURES[name].encoder(shape, 2, policy=policy)
        for policy in ("float32", "mixed_bfloat16")
    ]
    networks[1].set_weights(networks[0].get_weights())
    x = np.random.default_rng(0).uniform(size=(2, *shape)).astype(np.float32)
    box, rows = ball(x, 0.01, outward=True), np.float32([[1, -1]])
    found = [Bounds(network)(box, outward=True) for network in networks]
    assert set(found[0]) == {"embedding", "variance"}
    for output, one in found[0].items():
        assert outside(one, networks[0](x)[output].numpy()[None]) <= 0
        np.testing.assert_array_equal(found[1][output].lower, one.lower)
        np.testing.assert_array_equal(found[1][output].upper, one.upper)
    least = [Bounds(network).least(box, rows, relaxed=1).numpy() for network in networks]
    np.testing.assert_array_equal(*least)


def test_a_graph_takes_batches_of_any_size():
    model, images, head = tiny()
    bounds = Bounds(model)

    @tf.function(input_signature=[tf.TensorSpec([None, *images.shape[1:]]), tf.TensorSpec([])])
    def both(x, epsilon):
        box = ball(x, epsilon)
        return bounds(box)["embedding"], bounds.least(box, head.T, relaxed=99)

    for count in (1, 3):
        box = ball(images[:count], 0.1)
        found, least = both(images[:count], 0.1)
        np.testing.assert_allclose(found.lower, bounds(box)["embedding"].lower, atol=1e-6)
        expected = bounds.least(box, head.T, relaxed=99)
        np.testing.assert_allclose(least, expected, atol=1e-6)


def test_gradients_are_those_of_finite_differences():
    """Of this seed no coefficient, and no middle of a unit's interval, changes its sign on the way:
    there bounds have a kink, and relaxed ones a step."""
    model, images, head = tiny()
    bounds, rng = Bounds(model), np.random.default_rng(2)
    weights = model.trainable_variables
    ways = [tf.constant(rng.normal(size=w.shape), tf.float32) for w in weights]

    def value(relaxed):
        box = ball(images, 0.1)
        if relaxed is None:
            return tf.reduce_sum(bounds(box)["embedding"].radius)
        return tf.reduce_sum(bounds.least(box, head.T, relaxed=relaxed))

    for relaxed in (None, 0, 99):
        with tf.GradientTape() as tape:
            found = value(relaxed)
        slopes = tape.gradient(found, [w.value for w in weights])
        found = sum(
            float(tf.reduce_sum(slope * way))
            for slope, way in zip(slopes, ways, strict=True)
            if slope is not None
        )
        ends = []
        for step in (3e-4, -6e-4):
            for weight, way in zip(weights, ways, strict=True):
                weight.assign_add(step * way)
            ends.append(float(value(relaxed)))
        for weight, way in zip(weights, ways, strict=True):
            weight.assign_add(3e-4 * way)
        assert found == pytest.approx((ends[0] - ends[1]) / 6e-4, rel=0.01)


# -------------------------------------------------------------------- what has none


class Own(L.Layer):
    def call(self, x):
        return -x


class Model(keras.Model):
    def call(self, x, training=None):
        return -super().call(x)


class Written(keras.Model):
    def call(self, x):
        return x


class Relu(keras.Operation):
    def call(self, x):
        return -x

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def over(*layers):
    at = x = keras.Input((4, 4, 2), name="image")
    for layer in layers:
        x = layer(x)
    return keras.Model(at, x, name="network")


def _two_inputs():
    ends = keras.Input((3,)), keras.Input((3,))
    return keras.Model(ends, L.Add()(ends), name="odd")


def _quantised():
    model = over(L.Dense(2, name="odd"))
    model.layers[-1].quantize("int8")
    return model


def _any_size():
    at = keras.Input((None, None, 2))
    return keras.Model(at, L.GlobalAveragePooling2D()(at), name="odd")


def _subclass():
    at = keras.Input((3,))
    return Model(at, L.Dense(2)(at), name="odd")


class Called(keras.Sequential):
    def __call__(self, *arguments, **named):
        return -super().__call__(*arguments, **named)


def _with_a_call_of_its_own(one):
    plain = one.call
    one.call = lambda x, *arguments, **named: -plain(x, *arguments, **named)
    return one


def _difference():
    """b - a, of inputs whose names come in another order."""
    ends = keras.Input((1,), name="b"), keras.Input((1,), name="a")
    return keras.Model(list(ends), L.Subtract()(ends), name="odd")


def _by_names():
    x = keras.Input((1,))
    ends = {"a": L.Rescaling(1.0, 0.0)(x), "b": L.Rescaling(1.0, 10.0)(x)}
    return keras.Model(x, _difference()(ends))


def _of_another_rank():
    inner, x = keras.Input((3, 1)), keras.Input((3,))
    both = L.Flatten()(L.Concatenate()([inner, L.Rescaling(3.0)(inner)]))
    return keras.Model(x, keras.Model(inner, both, name="odd")(x))


REFUSED = {
    "silu": lambda: over(L.Dense(2, activation="silu", name="odd")),
    "gelu": lambda: over(L.Activation("gelu", name="odd")),
    "softmax": lambda: over(L.Dense(2, activation="softmax", name="odd")),
    "softmax layer": lambda: over(L.Softmax(name="odd")),
    "a function of another home": lambda: over(L.Activation(lambda x: -x, name="odd")),
    "own layer": lambda: over(Own(name="odd")),
    "own operation": lambda: over(Relu(name="odd")),
    "falling elu": lambda: over(L.ELU(-1.0, name="odd")),
    "learned slopes": lambda: over(L.PReLU(name="odd")),
    "undone normalisation": lambda: over(
        L.Normalization(mean=0.0, variance=1.0, invert=True, name="odd")
    ),
    "of each example": lambda: over(L.LayerNormalization(name="odd")),
    "interpolation": lambda: over(L.UpSampling2D(interpolation="bilinear", name="odd")),
    "quantised": _quantised,
    "two inputs": _two_inputs,
    "any size": _any_size,
    "subclass of a functional model": _subclass,
    "subclass": lambda: Written(name="odd"),
    "nested subclass": lambda: over(L.Flatten(), Written(name="odd")),
    "subclass with another door": lambda: Called([keras.Input((2,)), L.Dense(2)], name="odd"),
    "model that was changed": lambda: _with_a_call_of_its_own(
        keras.Sequential([keras.Input((2,)), L.Dense(2)], name="odd")
    ),
    "layer that was changed": lambda: over(_with_a_call_of_its_own(L.Dense(2, name="odd"))),
    "inputs by names": _by_names,
    "inputs of another rank": _of_another_rank,
    "joined examples": lambda: over(lambda x: L.Concatenate(axis=0, name="odd")([x, x])),
    "no weights": lambda: keras.Sequential([L.Dense(2)], name="odd"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_bounds_is_refused_by_name(kind):
    with pytest.raises(InputError, match=r"^no bounds: .*'odd'"):
        Bounds(REFUSED[kind]())


def test_inputs_in_the_order_of_a_nested_model_are_told_apart():
    x = keras.Input((1,))
    ends = [L.Rescaling(1.0, 10.0)(x), L.Rescaling(1.0, 0.0)(x)]
    box = Bounds(keras.Model(x, _difference()(ends)))(ball(np.float32([[0.5]]), 0.1))
    np.testing.assert_allclose(np.ravel(box), [9.8, 10.2], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda b, box: b(Box(*(tf.cast(end, tf.float64) for end in box))), "the box is float64"),
        (lambda b, box: b(Box(*(end[:, :2] for end in box))), r"takes .* \[None, 4, 4, 2\]"),
        (lambda b, box: b.least(box, np.eye(2)), "output is 'embedding'; the network has None"),
        (lambda b, box: ball(np.zeros((2, 4, 4, 2), np.uint8), 1), "images are uint8; give pixel"),
        (lambda b, box: ball(box.lower, [0.1, 0.2]), "epsilon has shape .2,., and there are 3"),
    ],
)
def test_boxes_of_something_else_are_refused(call, words):
    box = ball(np.zeros((3, 4, 4, 2), np.float32), 0.1)
    with pytest.raises(InputError, match=words):
        call(Bounds(over(L.Flatten(), L.Dense(2))), box)


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        (lambda x: x * x, "multiply"),
        (lambda x: x + 1.0, "add"),
        (lambda x: x + np.ones(2, np.float32), "add"),
        (lambda x: x - x, "subtract"),
        (lambda x: x[:, :2], "get_item"),
        (lambda x: keras.ops.add(x, True), "add"),
        (lambda x: L.BatchNormalization(name="norm")(x, training=True), "norm"),
        (keras.ops.sin, "sin"),
    ],
)
def test_expressions_without_bounds_are_refused_by_name(expression, name):
    with pytest.raises(InputError, match=f"^no bounds: .*'{name}"):
        Bounds(over(expression))


def test_training_layers_do_nothing_and_a_constant_variance_is_that():
    layers = (L.Dropout(0.5), L.GaussianNoise(1.0), L.Flatten(), ConstantVariance(3))
    model = over(*layers)
    model.layers[-1].log_variance.assign([0.0, 1.0, -1.0])
    images = np.ones((2, 4, 4, 2), np.float32)
    found = Bounds(model)(ball(images, 0.5))
    for end in found:
        np.testing.assert_allclose(end, model(images), rtol=1e-6)
    np.testing.assert_allclose(
        Bounds(model).least(ball(images, 0.5), np.eye(3), output=None), model(images), rtol=1e-6
    )
