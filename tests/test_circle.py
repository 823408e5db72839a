"""The discrete circle: its sums against enumeration, its optima, and what Fig. 8 claims."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tf_avae.errors import InputError
from tf_avae.theory.circle import (
    CIRCLE_OBJECTIVES,
    Circle,
    Tables,
    figures_of_merit,
    joints,
    log_von_mises,
    neighbour_variation,
    terms,
    three_bumps,
    train,
)

SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2)))


def small():
    """Seven points, five latents, random tables."""
    rng = np.random.default_rng(4)
    data = rng.uniform(size=7) * [1, 0, 1, 1, 0, 1, 1]
    circle = Circle(data / data.sum(), 5, observation_width=0.4, coupling_width=0.3)
    return circle, Tables(
        rng.uniform(0, 6.28, 5), rng.uniform(0, 6.28, 7), rng.uniform(-1.5, 0.5, 7)
    )


def von_mises(points, location, width):
    weights = [np.exp(np.cos(2 * np.pi * i / points - location) / width) for i in range(points)]
    return [weight / sum(weights) for weight in weights]


def enumerated(circle, tables):
    """Every bound by plain loops over x, z, x~ and z', straight from the definitions."""
    n, k = len(circle.data), circle.latents
    p = [von_mises(n, g, circle.observation_width) for g in tables.decoder_location]
    widths = np.exp(tables.encoder_log_width)
    q = [von_mises(k, m, s) for m, s in zip(tables.encoder_location, widths, strict=True)]
    couple = [von_mises(k, z, circle.coupling_width) for z in 2 * np.pi * np.arange(k) / k]
    log, total = np.log, dict.fromkeys(CIRCLE_OBJECTIVES, 0.0)
    for x, z in itertools.product(range(n), range(k)):
        weight = circle.data[x] * q[x][z]
        elbo = log(p[z][x]) + log(1 / k) - log(q[x][z])
        for name in total:
            total[name] += weight * elbo
        for other, after in itertools.product(range(n), range(k)):
            path = weight * p[z][other] * q[other][after]
            total["avae"] += path * (log(couple[z][after]) - log(q[other][after]))
            for again in range(k):
                value = log(couple[again][after]) - log(q[other][after])
                total["avae_analytic"] += path * q[x][again] * value
    for x in range(n):
        worst = min(
            sum(
                q[x][z] * q[other][after] * (log(couple[z][after]) - log(q[other][after]))
                for z, after in itertools.product(range(k), range(k))
            )
            for other in {(x + step) % n for step in (-2, -1, 0, 1, 2)}
        )
        total["se"] += circle.data[x] * worst
    return total


def test_bounds_are_those_of_direct_enumeration():
    circle, tables = small()
    for name, expected in enumerated(circle, tables).items():
        found = terms(circle, CIRCLE_OBJECTIVES[name], tables)
        assert float(found["bound"]) == pytest.approx(expected, rel=1e-12), name
        parts = sum(float(v) for k, v in found.items() if k not in ("bound", "kl"))
        assert float(found["bound"]) == pytest.approx(parts - float(found["kl"]), rel=1e-12)


def test_what_the_vae_misses_is_the_divergence_from_the_exact_posterior():
    """E log p(x) = bound + E KL(q(z|x) || p(z|x))."""
    circle, tables = small()
    panels = joints(circle, tables)
    q = np.exp(circle.log_encoder(tables))
    exact = panels.decoder_prior / panels.marginal[:, np.newaxis]
    gap = circle.data @ (q * np.log(q / exact)).sum(1)
    bound = float(terms(circle, CIRCLE_OBJECTIVES["vae"], tables)["bound"])
    assert circle.data @ np.log(panels.marginal) == pytest.approx(bound + gap, rel=1e-12)


def test_gradients_stop_where_the_objective_says():
    """Of what `avae` adds, nothing reaches the decoder: x~ is given."""
    circle, tables = small()
    variables = [tf.Variable(table) for table in tables]
    for name in ("avae", "avae_analytic"):
        with tf.GradientTape() as tape:
            found = terms(circle, CIRCLE_OBJECTIVES[name], Tables(*variables))
            added = found["coupling"] + found["entropy"]
        to_decoder, to_encoder, _ = tape.gradient(added, variables)
        assert to_decoder is None
        assert np.abs(to_encoder).max() > 1e-3


@pytest.mark.parametrize("width", [1e-4, 1e-3, 1.0, 1e6])
def test_von_mises_is_normalised_and_exact_for_any_width(width):
    angles = 2 * np.pi * np.arange(64) / 64
    log_p = log_von_mises(angles, angles[:3], np.float64(width)).numpy()
    assert np.isfinite(log_p).all()
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1.0, rtol=1e-12)
    ratio = log_p[0, 32] - log_p[0, 16]
    assert ratio == pytest.approx(-1 / width, rel=1e-9)


def test_joints_are_distributions():
    circle, tables = small()
    for panel in joints(circle, tables):
        assert panel.min() >= 0
        assert panel.sum() == pytest.approx(1.0)


def test_variation_is_total_variation():
    circle, tables = small()
    q = np.exp(circle.log_encoder(tables))
    found = neighbour_variation(circle, tables)
    # The largest difference of probability over all sets of latents.
    sets = np.array(list(itertools.product([0, 1], repeat=circle.latents)))
    for x in range(len(q)):
        difference = q[x] - q[(x + 1) % len(q)]
        assert found[x] == pytest.approx(np.abs(sets @ difference).max())


def test_self_consistency_is_a_probability_of_paths():
    circle, tables = small()
    p, q = np.exp(circle.log_decoder(tables)), np.exp(circle.log_encoder(tables))
    total = 0.0
    for x, z, other, after in itertools.product(range(7), range(5), range(7), range(5)):
        if (after - z) % 5 in (0, 1, 4):
            total += circle.data[x] * q[x, z] * p[z, other] * q[other, after]
    assert figures_of_merit(circle, tables)["self_consistency"] == pytest.approx(total)


# ---------------------------------------------------------------------- trained


@functools.cache
def trained(name, width, seed):
    circle = Circle(coupling_width=width)
    return circle, train(circle, CIRCLE_OBJECTIVES[name], seed=seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_avae_is_smoother_off_the_data_than_the_vae(seed):
    """Fig. 8, for the coupling of the paper and a wide one: where the data end, and beyond."""
    vae = figures_of_merit(*trained("vae", 1e-3, seed))
    assert vae["variation_at_edges"] > 2 * vae["variation_on_data"]
    for width, edges, beyond in ((1e-3, 4.0, 1.5), (1e-1, 2.5, 2.5)):
        avae = figures_of_merit(*trained("avae", width, seed))
        assert vae["variation_at_edges"] > edges * avae["variation_at_edges"]
        assert vae["variation_off_data"] > beyond * avae["variation_off_data"]
    # The wide one has no jump left where the model goes.
    assert avae["largest_jump"] < 0.6 < vae["largest_jump"]


@pytest.mark.parametrize("seed", SEEDS)
def test_avae_is_self_consistent_and_pays_in_codes(seed):
    vae = figures_of_merit(*trained("vae", 1e-3, seed))
    avae = figures_of_merit(*trained("avae", 1e-3, seed))
    assert vae["self_consistency"] < 0.4
    assert avae["self_consistency"] > 0.95
    assert avae["codes"] < 0.25 * vae["codes"]
    assert avae["mismatch"] > 2 * vae["mismatch"]


@pytest.mark.parametrize("width", [1e-3, 1e-1])
def test_avae_off_the_data_is_at_its_known_optimum(width):
    """Where only the model makes x, q maximises E cos(z' - z)/nu + H(q): the von Mises of the mean
    direction m and the width nu/R, R e^(im) the mean of e^(iz) over what made x."""
    circle, tables = trained("avae", width, 0)
    q, p = np.exp(circle.log_encoder(tables)), np.exp(circle.log_decoder(tables))
    pair = np.einsum("x,xz,zy->zy", circle.data, q, p)
    made = pair.sum(0)
    resultant = (pair * np.exp(1j * circle.z)[:, np.newaxis]).sum(0) / made
    there = (circle.data == 0) & (made > 1e-5)
    assert there.sum() > 10
    off = np.exp(1j * tables.encoder_location) * np.conj(resultant)
    assert np.abs(np.angle(off))[there].max() < 1e-2
    widths = np.exp(tables.encoder_log_width) * np.abs(resultant) / width
    np.testing.assert_allclose(widths[there], 1.0, rtol=1e-2)


def test_untouched_points_keep_their_start():
    circle, tables = trained("vae", 1e-3, 0)
    start = circle.start(0)
    off = circle.data == 0
    np.testing.assert_array_equal(tables.encoder_location[off], start.encoder_location[off])
    assert (tables.encoder_location[~off] != start.encoder_location[~off]).all()


def test_se_smooths_the_neighbourhood_of_the_data_and_no_more():
    circle, tables = trained("se", 1e-1, 0)
    start = circle.start(0)
    moved = tables.encoder_location != start.encoder_location
    near = np.zeros(len(circle.data), bool)
    near[circle.neighbours[circle.data > 0]] = True
    assert not moved[(circle.data == 0) & ~near].any()
    assert moved[near & (circle.data == 0)].all()
    inside = near & np.roll(near, -1)
    assert neighbour_variation(circle, tables)[inside].mean() < 0.25
    assert neighbour_variation(circle, tables)[~near].mean() > 0.4


@pytest.mark.parametrize("name", CIRCLE_OBJECTIVES)
def test_training_is_stable_for_a_tight_coupling(name):
    circle = Circle(coupling_width=1e-4)
    tables = train(circle, CIRCLE_OBJECTIVES[name], steps=300)
    assert all(np.isfinite(table).all() for table in tables)
    found = terms(circle, CIRCLE_OBJECTIVES[name], tables)
    assert all(np.isfinite(value) for value in found.values())


def test_training_is_repeatable():
    circle = Circle(coupling_width=1e-2)
    runs = [train(circle, CIRCLE_OBJECTIVES["avae"], seed=5, steps=50) for _ in range(2)]
    for one, two in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": np.ones(8)}, "sum 8.0"),
        ({"data": np.array([0.5, 0.5])}, "at least 4"),
        ({"data": np.array([1.5, -0.5, 0, 0])}, "probabilities"),
        ({"latents": 3}, "latents is 3"),
        ({"latents": 5.5}, "latents is 5.5"),
        ({"neighbourhood": -1}, "neighbourhood is -1"),
        ({"neighbourhood": 1.5}, "neighbourhood is 1.5"),
        ({"neighbourhood": 32}, "neighbourhood is 32"),
        ({"coupling_width": 0.0}, "coupling_width is 0.0"),
        ({"observation_width": np.nan}, "observation_width is nan"),
        ({"observation_width": 1e-320}, "observation_width is 1e-320"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(InputError, match=message):
        Circle(**({"data": three_bumps()} | options))


@pytest.mark.parametrize(
    ("options", "message"), [({"steps": 0}, "steps is 0"), ({"learning_rate": np.nan}, "is nan")]
)
def test_bad_training_is_named(options, message):
    with pytest.raises(InputError, match=message):
        train(Circle(), CIRCLE_OBJECTIVES["vae"], **options)


def test_data_everywhere_has_no_variation_off_the_data():
    circle = Circle(np.full(8, 1 / 8), 5)
    found = figures_of_merit(circle, circle.start(0))
    assert np.isnan(found["variation_off_data"]) and np.isnan(found["largest_jump"])
    assert 0 < found["variation_on_data"] < 1


def test_data_are_a_copy():
    data = three_bumps()
    circle = Circle(data)
    data[:] = 1.0
    assert circle.data.sum() == pytest.approx(1.0)
