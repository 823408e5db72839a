"""Attacks against known optima, and the sets they must stay in."""

import functools

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis.extra.numpy import arrays

from tf_avae.attacks import (
    BALLS,
    apgd,
    cross_entropy,
    logit_ratio,
    margin,
    pgd,
    square,
    targeted_logit_ratio,
)
from tf_avae.attacks.apgd import _AutoStep, checkpoints
from tf_avae.attacks.ascent import ascend
from tf_avae.attacks.domain import Domain
from tf_avae.attacks.pgd import steps_uphill
from tf_avae.attacks.square import window_sides
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


# In the L2 ball, each step of the ball's radius halves what is not along the slope.
LONG_STEPS = functools.partial(pgd, step_size=0.1)


def searches():
    """Each attack with a budget that grows with its number of steps."""
    yield "pgd", lambda loss, x, **how: pgd(loss, x, step_size=how["epsilon"] / 3, **how)
    yield "apgd", apgd

    def by_square(loss, x, *, steps, ball, **how):
        return square(loss, x, queries=steps, **how)

    yield "square", by_square


@pytest.mark.parametrize(("name", "search"), searches())
@hypothesis.given(
    image=arrays(np.float32, (2, 3, 4, 2), elements=st.floats(0, 1, width=32)),
    slope=arrays(np.float32, (3, 4, 2), elements=st.floats(-100, 100, width=32)),
    epsilon=st.floats(0, 1.5),
    steps=st.integers(1, 6),
    seed=st.integers(0, 2**31 - 1),
    ball=st.sampled_from(sorted(BALLS)),
)
@hypothesis.settings(max_examples=40)
def test_any_attack_on_anything_stays_in_its_ball_and_in_the_bounds(
    name, search, image, slope, epsilon, steps, seed, ball
):
    ball = "linf" if name == "square" else ball
    seed = tf.constant([seed, 1], tf.int32)

    def loss(x):
        return tf.reduce_sum(tf.sin(7.0 * x) * slope, axis=[1, 2, 3])

    how = {"epsilon": epsilon, "seed": seed, "ball": BALLS[ball]}
    found = search(loss, image, steps=steps, **how).numpy()
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1
    assert NORMS[ball](found - image).max() <= epsilon * (1 + 1e-5) + 1e-6


@pytest.mark.parametrize("ball", BALLS)
@hypothesis.given(
    slope=arrays(np.float32, (3, 4, 2), elements=st.floats(-100, 100, width=32)),
    epsilon=st.floats(0.001, 1.0),
    steps=st.integers(1, 6),
    more=st.integers(1, 6),
    restarts=st.integers(1, 3),
)
@hypothesis.settings(max_examples=25)
def test_more_steps_or_restarts_of_pgd_are_never_weaker(
    ball, slope, epsilon, steps, more, restarts
):
    """With the same length of step the longer search makes the shorter one's steps first."""

    def loss(x):
        return tf.reduce_sum(tf.sin(7.0 * x) * slope, axis=[1, 2, 3])

    how = {"epsilon": epsilon, "step_size": epsilon / 3, "seed": SEED, "ball": BALLS[ball]}
    images = ANYWHERE[:2, :3, :4, :2]
    weak, longer, wider = (
        loss(pgd(loss, images, steps=steps + s, restarts=1 + r, **how)).numpy()
        for s, r in ((0, 0), (more, 0), (0, restarts))
    )
    slack = 1e-5 * (1 + np.abs(weak))
    assert (longer >= weak - slack).all() and (wider >= weak - slack).all()


@pytest.mark.parametrize("search", [functools.partial(pgd, step_size=0.01), apgd])
@pytest.mark.parametrize("name", BALLS)
def test_the_top_of_a_quadratic_is_found_inside_and_at_the_edge(name, search):
    """The point of the ball nearest to a target: the target itself, or the projection on it."""

    @tf.function
    def attack(target):
        return search(
            lambda x: -tf.reduce_sum((x - target) ** 2, axis=[1, 2, 3]),
            MIDDLE[:1], epsilon=0.05, steps=150, seed=SEED, ball=BALLS[name],
        )  # fmt: skip

    inside = MIDDLE[:1] + 0.03 * np.sign(SLOPE) / (1.0 if name == "linf" else 8.0)
    beyond = MIDDLE[:1] + 0.3 * SLOPE
    for target in (inside, beyond):
        found = attack(tf.constant(target))
        nearest = BALLS[name].project(tf.constant(target - MIDDLE[:1]), 0.05)
        np.testing.assert_allclose(found, MIDDLE[:1] + nearest, atol=0.011)


@pytest.mark.parametrize("search", [LONG_STEPS, apgd])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", BALLS)
def test_linear_map_is_pushed_to_the_known_corner(name, compiled, search):
    def attack(images):
        return search(linear, images, epsilon=0.1, steps=20, seed=SEED, ball=BALLS[name])

    found = (tf.function(attack) if compiled else attack)(tf.constant(MIDDLE)).numpy()
    corner = {"linf": np.sign(SLOPE), "l2": SLOPE / np.sqrt((SLOPE**2).sum())}[name]
    np.testing.assert_allclose(found, MIDDLE + 0.1 * corner, atol=1e-4 if name == "l2" else 1e-6)


@pytest.mark.parametrize("name", BALLS)
@pytest.mark.parametrize("loss", [linear, rough])
@pytest.mark.parametrize("search", [pgd, functools.partial(pgd, step_size=10.0), apgd])
def test_result_is_in_the_ball_and_in_the_bounds(name, loss, search):
    found = search(loss, ANYWHERE, epsilon=0.3, steps=7, seed=SEED, ball=BALLS[name]).numpy()
    assert found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1
    assert NORMS[name](found - ANYWHERE).max() <= 0.3 * (1 + 1e-6)
    assert (found != ANYWHERE).any()


@pytest.mark.parametrize("search", [pgd, apgd])
def test_a_ball_is_named_and_numbers_may_be_numpys(search):
    found = search(rough, ANYWHERE, epsilon=np.float64(0.25), steps=np.uint8(3), seed=0, ball="l2")
    right = search(rough, ANYWHERE, epsilon=0.25, steps=3, seed=0, ball=BALLS["l2"])
    np.testing.assert_array_equal(found, right)
    with pytest.raises(InputError, match=r"unknown norm 'linff' .did you mean 'linf'"):
        search(rough, ANYWHERE, epsilon=0.25, steps=3, seed=0, ball="linff")


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

    found = pgd(peak, MIDDLE, epsilon=0.3, steps=1, step_size=0.08, start="image", seed=SEED)
    # One step from 0.5 lands on 0.58, three times as far from the top as the start.
    np.testing.assert_array_equal(found, MIDDLE)


@pytest.mark.parametrize("search", [functools.partial(pgd, step_size=0.03), apgd])
def test_more_restarts_are_never_weaker(search):
    def value(restarts):
        how = {"epsilon": 0.2, "steps": 5, "seed": SEED, "restarts": restarts}
        return rough(search(rough, ANYWHERE, **how)).numpy()

    one, two, eight = value(1), value(2), value(8)
    assert (two >= one).all() and (eight >= two).all()
    assert (eight > one).any()


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


@pytest.mark.parametrize("search", [pgd, apgd])
def test_examples_do_not_depend_on_their_neighbours(search):
    how = {"epsilon": 0.2, "steps": 12, "seed": SEED, "start": "image"}
    together = search(rough, ANYWHERE, **how)
    alone = tf.concat([search(rough, ANYWHERE[i : i + 1], **how) for i in range(6)], 0)
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_random_start_leaves_a_point_without_gradient():
    """The squared distance to the image has none at the image."""

    def distance(x):
        return tf.reduce_sum(tf.square(x - MIDDLE), axis=[1, 2, 3])

    stuck = pgd(distance, MIDDLE, epsilon=0.1, steps=5, seed=SEED, start="image")
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
        lambda x: tf.reduce_sum(network(x), 1),
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


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "search",
    [
        functools.partial(pgd, steps=3),
        functools.partial(apgd, steps=3),
        functools.partial(square, queries=3),
    ],
)
def test_a_broken_loss_does_not_pass_for_a_robust_one(search, compiled):
    """A network whose output is not a number off the image itself: the attack says so."""

    def broken(x):
        off = tf.reduce_any(x != MIDDLE, axis=[1, 2, 3])
        return tf.where(off, np.nan, 0.0)

    def attack(images):
        return search(broken, images, epsilon=0.1, seed=SEED)

    found = (tf.function(attack) if compiled else attack)(tf.constant(MIDDLE))
    assert np.isnan(broken(found)).all()


def test_a_second_number_decides_what_is_kept():
    """What is climbed grows with the first pixel; what is kept is best half-way up."""

    def loss(x):
        height = x[:, 0, 0, 0]
        return height, -tf.abs(height - 0.55)

    how = {"epsilon": 0.1, "steps": 10, "step_size": 0.01, "seed": SEED, "start": "image"}
    found = pgd(loss, MIDDLE, **how).numpy()
    np.testing.assert_allclose(found[:, 0, 0, 0], 0.55, atol=1e-6)
    top = pgd(lambda x: loss(x)[0], MIDDLE, **how).numpy()
    np.testing.assert_allclose(top[:, 0, 0, 0], 0.6, atol=1e-6)


# ---------------------------------------------------------------------- Auto-PGD


def test_checkpoints_are_those_of_the_paper():
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(10) == [0, 3, 5, 6, 7, 8, 9, 10]
    assert checkpoints(1) == [0, 1]


def test_auto_pgd_goes_where_algorithm_1_goes():
    """One pixel, worked out by hand: maximise -(x - 0.3)^2 within 0.5 of 0.5, ten steps.

    eta is 1. The steps to x3 improve once in three, fewer than 75 %: back to the best point, which
    is x3, with eta 0.5. Those to x5 improve once in two: back to x5, the best, with eta 0.25. The
    one to x6 does not improve: back again from x6 to x5, with eta 0.125. Nor does the one to x7.
    """
    image = tf.fill([1, 1, 1, 1], 0.5)
    domain = Domain(image, BALLS["linf"], 0.5, (0.0, 1.0))
    rule = _AutoStep(10)
    at, state, visited = image, rule.begin(image, domain), []
    for number in range(8):
        visited.append(float(at[0, 0, 0, 0]))
        value = -tf.square(at[:, 0, 0, 0] - 0.3)
        at, state = rule.step(tf.constant(number), at, value, -2 * (at - 0.3), state, domain)
    expected = [0.5, 0.0, 0.625, 0.3125, 0.0, 0.296875, 0.55859375, 0.390625]
    np.testing.assert_allclose(visited, expected, atol=1e-6)
    assert float(state.size[0]) == 0.0625


@pytest.mark.parametrize("halved", [False, True])
def test_auto_pgd_halves_where_the_best_stands_still(halved):
    """Condition 2: all steps improved, none on the best value, eta was not halved before."""
    image = tf.fill([1, 1, 1, 1], 0.5)
    domain = Domain(image, BALLS["linf"], 0.1, (0.0, 1.0))
    rule, one = _AutoStep(100), tf.ones([1])
    state = rule.begin(image, domain)._replace(
        improved=21 * one, previous_value=0 * one, best_value=5 * one, best_then=5 * one,
        halved=tf.constant([halved]),
    )  # fmt: skip
    domain = Domain(image, BALLS["linf"], 0.1, (0.0, 1.0))
    _, after = rule.step(tf.constant(22), image, one, image, state, domain)
    assert float(after.size[0]) == pytest.approx(0.2 if halved else 0.1)
    assert bool(after.halved[0]) != halved
    assert float(after.improved[0]) == 0


def test_auto_pgd_needs_no_step_size():
    """Where PGD's step is too long or too short, Auto-PGD with as many steps is better."""

    def value(search, **how):
        how = {"epsilon": 0.2, "steps": 40, "seed": SEED} | how
        return rough(search(rough, ANYWHERE, **how)).numpy().mean()

    best = value(apgd)
    assert best > value(pgd, step_size=0.2) + 0.5
    assert best > value(pgd, step_size=0.001) + 0.5


# ---------------------------------------------------------------------- Square


def test_window_follows_the_papers_schedule():
    sides = window_sides(10_000, 28, 28)
    # sqrt(0.8 * 784) = 25.04; the part is halved after queries 10, 50, 200, ...
    expected = {0: 25, 10: 25, 11: 18, 50: 18, 51: 13, 201: 9, 501: 6, 1001: 4, 9999: 1}
    assert {at: int(sides[at]) for at in expected} == expected
    assert (np.diff(sides) <= 0).all()
    # Fewer queries run through the same schedule.
    assert window_sides(100, 28, 28)[[0, 1, 99]].tolist() == [25, 13, 1]


def test_gradients_that_are_exactly_zero_are_counted():
    """The first four values of five do not matter below 0.5, where the attack cannot bring them;
    of the second image's none matters."""
    images = tf.constant(np.full((2, 1, 5, 1), 0.25, np.float32))

    def loss(x):
        value = tf.reduce_sum(tf.nn.relu(x[:, 0, :4, 0] - 0.5), 1) + 2.0 * x[:, 0, 4, 0]
        return value * [1.0, 0.0]

    found = ascend(
        loss, images, steps_uphill(0.2, 3), epsilon=0.2, steps=3, seed=SEED, ball=BALLS["linf"],
        restarts=2, start="ball", bounds=(0.0, 1.0), count_zeros=True,
    )  # fmt: skip
    np.testing.assert_allclose(found.zero_gradients, [0.8, 1.0], rtol=1e-6)


def test_square_finds_the_corner_of_a_linear_map():
    @tf.function
    def attack(images):
        return square(linear, images, epsilon=0.1, queries=3000, seed=SEED)

    found = attack(tf.constant(MIDDLE)).numpy()
    np.testing.assert_allclose(linear(found), linear(MIDDLE + 0.1 * np.sign(SLOPE)), rtol=1e-4)


def test_square_stays_in_the_ball_and_never_does_worse():
    before = rough(ANYWHERE).numpy()
    for queries in (1, 10, 100):
        found = square(rough, ANYWHERE, epsilon=0.3, queries=queries, seed=SEED).numpy()
        assert found.min() >= 0 and found.max() <= 1
        assert NORMS["linf"](found - ANYWHERE).max() <= 0.3 * (1 + 1e-6)
        after = rough(found).numpy()
        assert (after >= before).all()
        before = np.maximum(before, after) if queries == 1 else after
    assert (before > rough(ANYWHERE).numpy()).all()


def test_square_needs_no_gradient():
    """A loss in steps, whose gradient is zero everywhere."""

    def stairs(x):
        return tf.floor(20.0 * linear(x)) / 20.0

    stuck = pgd(stairs, MIDDLE, epsilon=0.1, steps=20, seed=SEED, start="image")
    np.testing.assert_array_equal(stuck, MIDDLE)
    attack = tf.function(lambda x: square(stairs, x, epsilon=0.1, queries=500, seed=SEED))
    found = attack(tf.constant(MIDDLE))
    assert (stairs(found) > stairs(MIDDLE) + 0.9 * 0.1 * np.abs(SLOPE).sum()).numpy().all()


@pytest.mark.parametrize("search", [apgd, functools.partial(square, queries=3)])
def test_every_attack_refuses_what_pgd_refuses(search):
    steps = {} if isinstance(search, functools.partial) else {"steps": 2}
    with pytest.raises(InputError, match="epsilon is -1"):
        search(linear, MIDDLE, epsilon=-1.0, seed=SEED, **steps)
    for bounds in ((1.0, 1.0), None, "01", (0.0,), ("a", "b"), (0.0, 0.5, 1.0)):
        with pytest.raises(InputError, match="bounds are"):
            search(linear, MIDDLE, epsilon=0.1, seed=SEED, bounds=bounds, **steps)
    # One number for all examples would be broadcast to each.
    for loss in (tf.reduce_sum, lambda x: tf.reduce_sum(x)[tf.newaxis], lambda x: linear(x)[:-1],
                 lambda x: np.zeros(1, np.float32)):  # fmt: skip
        with pytest.raises(ValueError, match="one float32 number per example"):
            search(loss, MIDDLE, epsilon=0.1, seed=SEED, **steps)
    with pytest.raises(ValueError, match="float16"):
        search(linear, MIDDLE.astype(np.float16), epsilon=0.1, seed=SEED, **steps)


# ---------------------------------------------------------------------- losses on logits

LOGITS = tf.constant([[3.0, 1.0, -2.0, 0.5], [0.0, 4.0, 1.0, 2.0]])
LABELS = tf.constant([0, 2])


def test_losses_on_logits_by_hand():
    np.testing.assert_allclose(margin(LOGITS, LABELS), [1 - 3, 4 - 1])
    np.testing.assert_allclose(
        logit_ratio(LOGITS, LABELS), [-2 / (3 - 0.5), 3 / (4 - 1)], rtol=1e-6
    )
    np.testing.assert_allclose(
        targeted_logit_ratio(LOGITS, LABELS, tf.constant([1, 1])),
        [(1 - 3) / (3 - (0.5 - 2) / 2), (4 - 1) / (4 - (1 + 0) / 2)],
        rtol=1e-6,
    )
    shifted = LOGITS.numpy() - LOGITS.numpy().max(1, keepdims=True)
    expected = np.log(np.exp(shifted).sum(1)) - shifted[[0, 1], [0, 2]]
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), expected, rtol=1e-6)


def test_logit_ratio_does_not_change_with_scale_where_cross_entropy_dies():
    """Logits that are large hide a classifier's gradient from the cross-entropy."""

    def gradient(loss, scale):
        logits = scale * LOGITS[:1]
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(logits, LABELS[:1])
        return scale * tape.gradient(value, logits).numpy()

    assert np.abs(gradient(cross_entropy, 1e3)).max() == 0
    np.testing.assert_allclose(
        gradient(logit_ratio, 1e3), gradient(logit_ratio, 1.0), rtol=1e-4, atol=1e-6
    )


def test_only_the_targeted_loss_breaks_this_classifier():
    """Class 1 is the runner-up and cannot win; class 2 can, and only a loss that asks for it
    looks at the second pixel, on which it depends."""
    image = np.full((1, 1, 2, 1), 0.5, np.float32)

    def logits(x):
        first, second = x[:, 0, 0, 0] - 0.5, x[:, 0, 1, 0] - 0.5
        flat = tf.zeros_like(first)
        return tf.stack([flat, -0.1 + 0.5 * first, -0.3 + 4.0 * second, flat - 3.0], axis=1)

    label = tf.constant([0])

    def breaks(loss):
        how = {"epsilon": 0.1, "steps": 20, "seed": SEED, "start": "image"}
        found = apgd(lambda x: loss(logits(x)), image, **how)
        return float(margin(logits(found), label)[0]) > 0

    assert not breaks(lambda z: margin(z, label))
    assert not breaks(lambda z: logit_ratio(z, label))
    assert not breaks(lambda z: targeted_logit_ratio(z, label, tf.constant([1])))
    assert breaks(lambda z: targeted_logit_ratio(z, label, tf.constant([2])))


def test_losses_say_how_many_classes_they_need():
    two = LOGITS[:, :2]
    with pytest.raises(InputError, match="2 classes; this loss needs at least 3"):
        logit_ratio(two, tf.constant([0, 1]))
    with pytest.raises(InputError, match="at least 4"):
        targeted_logit_ratio(LOGITS[:, :3], LABELS, LABELS)
    np.testing.assert_allclose(margin(two, tf.constant([0, 1])), [-2.0, -4.0])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"epsilon": -0.1}, "epsilon is -0.1"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"epsilon": tf.constant(-0.5)}, "epsilon is .*-0.5"),
        ({"epsilon": tf.constant([0.1])}, "epsilon is .*0.1"),
        ({"epsilon": tf.constant("0.1")}, "epsilon is .*0.1"),
        ({"step_size": tf.constant(True)}, "step_size is .*True"),
        ({"steps": 0}, "steps is 0"),
        ({"step_size": -1.0}, "step_size is -1.0"),
        ({"restarts": 0}, "restarts is 0"),
        ({"restarts": 2, "start": "image"}, "the same each time"),
        ({"bounds": (1.0, 0.0)}, "bounds are"),
    ],
)
def test_bad_numbers_are_named(bad, words):
    with pytest.raises(InputError, match=words):
        pgd(linear, MIDDLE, **({"epsilon": 0.1, "steps": 2, "seed": SEED} | bad))


def test_a_radius_may_be_a_tensor():
    sizes = {"epsilon": 0.1, "step_size": 0.05}
    found = pgd(linear, MIDDLE, steps=2, seed=SEED, **{n: tf.constant(x) for n, x in sizes.items()})
    np.testing.assert_array_equal(found, pgd(linear, MIDDLE, steps=2, seed=SEED, **sizes))


def test_what_is_not_float32_per_example_is_refused():
    how = {"epsilon": 0.1, "steps": 2, "seed": SEED}
    with pytest.raises(ValueError, match="float16"):
        pgd(linear, MIDDLE.astype(np.float16), **how)
    with pytest.raises(ValueError, match="one float32 number per example"):
        pgd(tf.reduce_sum, MIDDLE, **how)
