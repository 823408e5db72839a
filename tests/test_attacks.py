"""PGD against known optima, and the sets it must stay in."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_avae.attacks import BALLS, pgd
from tf_avae.errors import InputError

SEED = tf.constant([1, 2])
RNG = np.random.default_rng(0)
SLOPE = RNG.normal(size=(4, 5, 3)).astype(np.float32)
MIDDLE = np.full((6, 4, 5, 3), 0.5, np.float32)
ANYWHERE = RNG.uniform(size=(6, 4, 5, 3)).astype(np.float32)
NORMS = {
    "linf": lambda d: np.abs(d).reshape(len(d), -1).max(1),
    "l2": lambda d: np.sqrt((d.astype(np.float64) ** 2).reshape(len(d), -1).sum(1)),
}


def linear(x):
    return tf.einsum("bhwc,hwc->b", x, SLOPE)


def rough(x):
    """Many local maxima."""
    return tf.reduce_sum(tf.sin(25.0 * x + SLOPE) * SLOPE, axis=[1, 2, 3])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", BALLS)
def test_linear_map_is_pushed_to_the_known_corner(name, compiled):
    def attack(images):
        # In the L2 ball, each step of the ball's radius halves what is not along the slope.
        return pgd(
            linear, images, epsilon=0.1, steps=20, step_size=0.1, seed=SEED, ball=BALLS[name]
        )

    found = (tf.function(attack) if compiled else attack)(tf.constant(MIDDLE)).numpy()
    corner = {"linf": np.sign(SLOPE), "l2": SLOPE / np.sqrt((SLOPE**2).sum())}[name]
    np.testing.assert_allclose(found, MIDDLE + 0.1 * corner, atol=1e-4 if name == "l2" else 1e-6)


@pytest.mark.parametrize("name", BALLS)
@pytest.mark.parametrize("loss", [linear, rough])
@pytest.mark.parametrize("step_size", [None, 10.0])
def test_result_is_in_the_ball_and_in_the_bounds(name, loss, step_size):
    found = pgd(
        loss, ANYWHERE, epsilon=0.3, steps=7, seed=SEED, ball=BALLS[name], step_size=step_size
    ).numpy()
    assert found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1
    assert NORMS[name](found - ANYWHERE).max() <= 0.3 * (1 + 1e-6)
    assert (found != ANYWHERE).any()


def test_other_bounds_are_kept():
    found = pgd(linear, MIDDLE * 0, epsilon=3.0, steps=5, seed=SEED, bounds=(-1.0, 2.0)).numpy()
    np.testing.assert_array_equal(found, np.broadcast_to(np.where(SLOPE > 0, 2, -1), found.shape))


@pytest.mark.parametrize("name", BALLS)
def test_no_radius_gives_the_image_itself(name):
    found = pgd(rough, ANYWHERE, epsilon=0.0, steps=3, seed=SEED, ball=BALLS[name], step_size=0.1)
    np.testing.assert_array_equal(found, ANYWHERE)


def test_best_iterate_is_kept_not_the_last():
    """Steps four times as long as the way to the top jump from side to side."""

    def peak(x):
        return -tf.reduce_sum(tf.abs(x - 0.52), axis=[1, 2, 3])

    found = pgd(peak, MIDDLE, epsilon=0.3, steps=1, step_size=0.08, random_start=False, seed=SEED)
    # One step from 0.5 lands on 0.58, three times as far from the top as the start.
    np.testing.assert_array_equal(found, MIDDLE)


def test_value_is_at_least_that_of_every_prefix_and_every_start():
    """More steps and more restarts of the same attack cannot do worse: the best is kept."""

    def value(**how):
        return rough(pgd(rough, ANYWHERE, epsilon=0.2, step_size=0.03, seed=SEED, **how)).numpy()

    values = [value(steps=steps) for steps in (1, 3, 9)]
    assert (values[1] >= values[0]).all() and (values[2] >= values[1]).all()
    more = [value(steps=3, restarts=restarts) for restarts in (1, 2, 8)]
    np.testing.assert_array_equal(more[0], values[1])
    assert (more[1] >= more[0]).all() and (more[2] >= more[1]).all()
    assert (more[2] > more[0]).any()


def test_examples_do_not_depend_on_their_neighbours():
    how = {"epsilon": 0.2, "steps": 5, "seed": SEED, "random_start": False}
    together = pgd(rough, ANYWHERE, **how)
    alone = tf.concat([pgd(rough, ANYWHERE[i : i + 1], **how) for i in range(6)], 0)
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_random_start_leaves_a_point_without_gradient():
    """The squared distance to the image has none at the image."""

    def distance(x):
        return tf.reduce_sum(tf.square(x - MIDDLE), axis=[1, 2, 3])

    stuck = pgd(distance, MIDDLE, epsilon=0.1, steps=5, seed=SEED, random_start=False)
    np.testing.assert_array_equal(stuck, MIDDLE)
    found = pgd(distance, MIDDLE, epsilon=0.1, steps=5, seed=SEED)
    np.testing.assert_allclose(np.abs(found - MIDDLE), 0.1, atol=1e-6)


def test_seed_decides_the_start():
    def attack(seed):
        return pgd(rough, ANYWHERE, epsilon=0.2, steps=2, seed=tf.constant(seed)).numpy()

    np.testing.assert_array_equal(attack([1, 2]), attack([1, 2]))
    assert (attack([1, 2]) != attack([1, 3])).any()


@pytest.mark.parametrize("name", BALLS)
def test_starts_are_uniform_in_the_ball(name):
    shape = (4000, 1, 1, 3)
    start = BALLS[name].start(tf.constant(shape), SEED).numpy()
    radius = NORMS[name](start)
    assert radius.max() <= 1 + 1e-6
    # Uniform in a ball of n dimensions: radius^n is uniform, the mean is the centre.
    np.testing.assert_allclose(
        np.quantile(radius**3, [0.1, 0.25, 0.5, 0.75, 0.9]), [0.1, 0.25, 0.5, 0.75, 0.9], atol=0.03
    )
    np.testing.assert_allclose(start.mean(0), 0, atol=0.05)


def test_l2_direction_survives_tiny_gradients():
    gradient = tf.constant(SLOPE[None] * 1e-30)
    direction = BALLS["l2"].direction(gradient).numpy()
    np.testing.assert_allclose(NORMS["l2"](direction), 1, rtol=1e-6)
    assert not BALLS["l2"].direction(tf.zeros((1, 2, 2, 1))).numpy().any()


@pytest.mark.parametrize("name", BALLS)
def test_norm_and_projection_agree_with_numpy(name):
    delta = RNG.normal(size=(5, 4, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(BALLS[name].norm(delta), NORMS[name](delta), rtol=1e-5)
    projected = BALLS[name].project(delta, 0.7).numpy()
    np.testing.assert_allclose(NORMS[name](projected), 0.7, rtol=1e-5)
    inside = delta * 1e-3
    np.testing.assert_array_equal(BALLS[name].project(inside, 0.7), inside)


def test_moving_statistics_stay_as_they_are():
    network = keras.Sequential(
        [keras.Input((4, 5, 3)), keras.layers.BatchNormalization(), keras.layers.Flatten()]
    )
    before = [w.numpy() for w in network.weights]
    pgd(
        lambda x: tf.reduce_sum(network(x, training=False), 1),
        ANYWHERE, epsilon=0.1, steps=3, seed=SEED,
    )  # fmt: skip
    for a, b in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_gradient_flows_through_the_attack():
    images = tf.constant(ANYWHERE)
    with tf.GradientTape() as tape:
        tape.watch(images)
        found = pgd(linear, images, epsilon=0.1, steps=2, seed=SEED)
    assert tape.gradient(found, images) is None


def test_a_broken_loss_does_not_pass_for_a_robust_one():
    """A network whose output is not a number off the image itself: the attack says so."""

    def broken(x):
        off = tf.reduce_any(x != MIDDLE, axis=[1, 2, 3])
        return tf.where(off, np.nan, 0.0)

    found = pgd(broken, MIDDLE, epsilon=0.1, steps=3, seed=SEED)
    assert np.isnan(broken(found)).all()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"epsilon": -0.1}, "epsilon is -0.1"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"steps": 0}, "steps is 0"),
        ({"step_size": -1.0}, "step_size is -1.0"),
        ({"restarts": 0}, "restarts is 0"),
        ({"restarts": 2, "random_start": False}, "without a random start"),
        ({"bounds": (1.0, 0.0)}, "bounds are"),
    ],
)
def test_bad_numbers_are_named(bad, words):
    with pytest.raises(InputError, match=words):
        pgd(linear, MIDDLE, **({"epsilon": 0.1, "steps": 2, "seed": SEED} | bad))


def test_what_is_not_float32_per_example_is_refused():
    how = {"epsilon": 0.1, "steps": 2, "seed": SEED}
    with pytest.raises(ValueError, match="float16"):
        pgd(linear, MIDDLE.astype(np.float16), **how)
    with pytest.raises(ValueError, match="one float32 number per example"):
        pgd(tf.reduce_sum, MIDDLE, **how)
