"""Where attacks start, how their steps go on, and what better starts find."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tf_avae import BALLS, InputError
from tf_avae.attacks import SCHEDULES, STARTS, pgd, square
from tf_avae.attacks.balls import knows
from tf_avae.attacks.domain import Domain
from tf_avae.attacks.starts import flat

IMAGES = arrays.arrays(
    np.float32, st.tuples(st.just(3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)),
    elements=st.floats(0, 1, width=32),
)  # fmt: skip


def point(name, images, epsilon, seed=0, ball="linf"):
    start = flat(seed) if name == "flat number" else STARTS[name]
    domain = Domain(tf.constant(images), BALLS[ball], epsilon)
    return start.point(domain, tf.constant([0, seed])).numpy()


@given(IMAGES, st.floats(0, 1), st.sampled_from([*STARTS, "flat number"]), st.integers(0, 7),
       st.sampled_from(list(BALLS)))  # fmt: skip
@settings(max_examples=60)
def test_starts_lie_in_the_ball_and_in_the_bounds(images, epsilon, name, seed, ball):
    if name in STARTS and not knows(STARTS[name].balls, ball):
        return
    found = point(name, images, epsilon, seed, ball)
    change = (found - images).astype(np.float64).reshape(3, -1)
    size = np.abs(change).max(1) if ball == "linf" else np.linalg.norm(change, axis=1)
    assert found.shape == images.shape and found.min() >= 0 and found.max() <= 1
    assert size.max() <= epsilon * (1 + 1e-5) + 1e-6


BLACK, GREY = np.zeros((4, 28, 28, 3), np.float32), np.full((4, 28, 28, 3), 0.5, np.float32)


def test_on_black_uniform_noise_in_the_ball_leaves_half_of_the_values_and_in_the_box_none():
    """What is below 0 is clipped. Of 9,408 values half is 4,704, with standard deviation 48.5."""
    assert abs(np.sum(point("ball", BLACK, 0.1) == 0) - 4704) < 4 * 48.5
    box = point("box", BLACK, 0.1)
    assert np.sum(box == 0) < 10
    # Uniform on [0, 0.1]: mean 0.05, standard deviation 0.0289.
    assert box.mean() == pytest.approx(0.05, abs=4 * 0.0289 / np.sqrt(box.size))
    # Near a bound it is uniform in what is left: on [0, 0.13] around 0.03.
    near = point("box", BLACK + np.float32(0.03), 0.1)
    assert near.mean() == pytest.approx(0.065, abs=4 * 0.0375 / np.sqrt(near.size))


@pytest.mark.parametrize(
    ("name", "parts"), [("flat", 1), ("blocks", 49), ("stripes", 28), ("corner", 784)]
)
def test_patterns_have_a_sign_for_each_of_their_parts(name, parts):
    signs = np.round((point(name, GREY, 0.1) - 0.5) / 0.1)
    assert set(np.unique(signs)) == {-1, 1}
    tiled = signs.reshape(4, 7, 4, 7, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    constant = {
        "flat": np.ptp(signs, axis=(1, 2)), "stripes": np.ptp(signs, axis=1),
        "blocks": np.ptp(tiled, axis=(3, 4)), "corner": np.zeros(1),
    }[name]  # fmt: skip
    assert not constant.any()
    # Signs are drawn for each image, part and channel: k of n up, n (p = 1/2).
    drawn = 12 * parts
    ups = np.mean(signs > 0) * drawn
    assert abs(ups - drawn / 2) <= 4 * np.sqrt(drawn) / 2
    assert (point(name, GREY, 0.1, 1) != point(name, GREY, 0.1, 2)).any()


def test_mixed_starts_are_of_four_kinds_in_equal_parts():
    count = 400
    found = point("mixed", np.full((count, 14, 14, 3), 0.5, np.float32), 0.1) - 0.5
    up = np.isclose(found, 0.1).all((1, 2, 3))
    flat_ = np.isclose(np.ptp(found, axis=(1, 2)), 0).all(1) & ~up
    tiled = found.reshape(count, 7, 2, 7, 2, 3)
    blocks = np.isclose(np.ptp(tiled, axis=(2, 4)), 0).all((1, 2, 3)) & ~up & ~flat_
    box = ~np.isclose(np.abs(found), 0.1, atol=1e-6).all((1, 2, 3))
    parts = np.array([box, flat_ | up, blocks]).sum(1)
    assert parts.sum() == count  # each is one of them
    # A quarter each; a flat start too is brighter in all channels once in eight.
    assert (np.abs(parts - [100, 200, 100]) < 4 * np.sqrt(count / 4)).all()
    assert abs(up.sum() - 112.5) < 4 * np.sqrt(112.5)
    assert (point("mixed", GREY, 0.1, 1) != point("mixed", GREY, 0.1, 2)).any()


def test_flat_starts_are_all_ways_to_shift_channels():
    found = {tuple(np.sign(point("flat number", GREY, 0.1, n) - 0.5)[0, 0, 0]) for n in range(8)}
    assert len(found) == 8
    np.testing.assert_array_equal(point("flat number", GREY, 0.1, 0), point("brighter", GREY, 0.1))
    np.testing.assert_array_equal(point("flat number", GREY, 0.1, 7), point("darker", GREY, 0.1))
    np.testing.assert_allclose(point("brighter", GREY, 0.1), 0.6, atol=1e-6)


def test_a_pattern_in_the_euclidean_ball_has_the_length_of_the_radius():
    change = point("flat", GREY, 0.3, ball="l2") - GREY
    np.testing.assert_allclose(np.linalg.norm(change.reshape(4, -1), axis=1), 0.3, rtol=1e-5)


def test_decaying_steps_go_from_the_radius_to_nothing():
    """A constant gradient, within a wide ball: the way is the sum of ε (1 - k/n), ε (n + 1)/2."""
    where = []

    def loss(x):
        where.append(float(x[0, 0, 0, 0]))
        return tf.reduce_sum(x, [1, 2, 3])

    pgd(loss, np.zeros((1, 1, 1, 1), np.float32), epsilon=1.0, steps=4, seed=0, step_size=0.1,
        schedule="decaying", start="image")  # fmt: skip
    np.testing.assert_allclose(np.diff(where[:5]), [0.1, 0.075, 0.05, 0.025], atol=1e-6)
    assert SCHEDULES["fixed"].first(0.1, 40) == pytest.approx(2.5 * 0.1 / 40)


def dead_on_black(x):
    """A detector of brightness that is off below 0.05: no gradient on black."""
    return tf.reduce_sum(tf.nn.relu(x - 0.05), [1, 2, 3])


def test_a_dead_unit_hides_the_way_from_the_image_and_not_from_brighter():
    def climbed(start):
        found = pgd(dead_on_black, BLACK, epsilon=0.1, steps=5, seed=0, start=start)
        return dead_on_black(found).numpy()

    assert not climbed("image").any()
    exact = 0.05 * 28 * 28 * 3
    np.testing.assert_allclose(climbed("brighter"), exact, rtol=1e-4)
    assert climbed("ball").max() < 0.6 * exact  # noise above 0.05 alone has a gradient


def test_a_given_point_is_where_a_search_begins():
    begin = np.full_like(GREY, 0.55)
    found = square(
        lambda x: -tf.reduce_sum(tf.abs(x - 0.55), [1, 2, 3]), GREY, epsilon=0.1, queries=5, seed=0,
        start=begin,
    )  # fmt: skip
    np.testing.assert_allclose(found, begin, atol=1e-6)
    far = pgd(dead_on_black, BLACK, epsilon=0.1, steps=1, seed=0, step_size=0.0, start=begin)
    np.testing.assert_allclose(far, 0.1, atol=1e-6)  # brought into the ball


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "brigther"}, "did you mean 'brighter'"),
        ({"start": "box", "ball": "l2"}, "start 'box' is for the norm linf, and this is l2"),
        ({"start": BLACK + 2}, "must be finite and in"),
        ({"start": BLACK[:1]}, "start has shape"),
        ({"schedule": "slow"}, "unknown schedule 'slow'"),
        ({"restarts": 2, "start": "brighter"}, "the same each time"),
    ],
)
def test_bad_starts_are_named(change, message):
    with pytest.raises(InputError, match=message):
        pgd(dead_on_black, BLACK, **{"epsilon": 0.1, "steps": 1, "seed": 0} | change)


def test_a_first_window_must_cover_a_part():
    with pytest.raises(InputError, match="first_part is 0"):
        square(dead_on_black, BLACK, epsilon=0.1, queries=1, seed=0, first_part=0)
