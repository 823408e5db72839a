"""Resting points of the five objectives in the linear case, against the real model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_avae import ARCHITECTURES, AVAE, COUPLINGS, OBJECTIVES, InputError
from tf_avae.runs.plan import copy_networks
from tf_avae.theory.linear import _ROWS, Attack, grows, resting_point
from tf_avae.theory.ppca import PPCA
from training.theory.linear import LinearTask

CASES = [
    *((name, "analytic") for name in OBJECTIVES),
    *((name, "sampled") for name in ("avae", "se_avae", "avae_ss")),
]


def gradients(task, made, batches=30, batch=4000):
    """Means and standard errors over batches of the bound's gradient to a, log s and w."""
    u = task.directions.astype(np.float32)
    mean, variance = made.encoder.get_layer("mean"), made.encoder.get_layer("variance")
    variables = [mean.kernel, variance.log_variance, *made.decoder.trainable_variables[:1]]

    @tf.function
    def gradient(x, seed):
        with tf.GradientTape() as tape:
            bound = tf.reduce_mean(made.terms(x, seed=seed, training=True)["bound"])
        return tape.gradient(bound, variables)

    rows = []
    for i in range(batches):
        if made.objective.encodes == "generated":
            x = made.generate(batch, seed=tf.constant([3, i]))
        else:
            x = task.images(batch, tf.constant([2, i]))
        to_kernel, to_log_variance, *to_decoder = gradient(x, tf.constant([1, i]))
        row = [np.sum(u * to_kernel, 0), np.asarray(to_log_variance)]
        rows.append(row + [np.sum(u * np.transpose(g), 0) for g in to_decoder])
    rows = np.array(rows)
    return rows.mean(0), rows.std(0) / np.sqrt(batches)


@pytest.mark.parametrize(("name", "coupling"), CASES)
def test_the_models_expected_gradient_is_zero_there_and_not_elsewhere(name, coupling):
    """The real model, its objective, its attack: nothing of the derivation is used here."""
    task = LinearTask((18.0, 4.0), coupling=coupling)
    made = task.model(name)
    trains_decoder = "decoder" in made.objective.trains
    point = task.resting_point(name, frozen=None if trains_decoder else np.array([0.2, 0.1]))
    task.set_weights(made, point)
    mean, error = gradients(task, made)
    assert np.abs(mean / error).max() < 4.5
    for part in ("encoder", "variance", "decoder")[: 3 if trains_decoder else 2]:
        task.set_weights(made, point._replace(**{part: 1.1 * getattr(point, part)}))
        mean, error = gradients(task, made)
        assert np.abs(mean / error).max() > 6


@pytest.mark.parametrize(
    "name",
    # The gradient of all is tested above.
    [pytest.param(n, marks=[pytest.mark.long] * (n != "vae")) for n in OBJECTIVES],
)
def test_training_gets_there_from_random_weights(name):
    task, frozen = LinearTask((8.0,)), None
    made, first = task.model(name), OBJECTIVES[name].starts_from
    if first:
        before = task.model(first)
        task.train(before, steps=3000)
        copy_networks(before, made)
        frozen = task.read_weights(made)[0].decoder
    task.train(made, steps=3000)
    found, _ = task.read_weights(made)
    point = task.resting_point(name, frozen=frozen)
    for part in ("encoder", "variance") if first else ("encoder", "variance", "decoder"):
        np.testing.assert_allclose(getattr(found, part), getattr(point, part), rtol=0.02)


def test_trained_vae_has_the_exact_posterior_of_any_ppca():
    """Dense weights, several latents: mean map, variances and the data's own projection."""
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(6, 3)) * [1.6, 1.0, 0.6]
    source = PPCA(weights.astype(np.float32), 0.25, rng.normal(size=6))
    made = AVAE(
        objective=OBJECTIVES["vae"],
        architecture=ARCHITECTURES["linear"],
        image_shape=(2, 3, 1),
        latent_dim=3,
        observation_variance=0.25,
    )
    steps = 6000

    def draw(step):
        x = source.sample(256, tf.stack([7, tf.cast(step, tf.int32)]))
        return tf.reshape(x, [256, 2, 3, 1])

    rate = keras.optimizers.schedules.CosineDecay(0.01, steps, alpha=1e-3)
    made.compile(keras.optimizers.Adam(rate), steps_per_execution=10)
    made.fit(tf.data.Dataset.range(steps).map(draw), shuffle=False, verbose=0)
    kernel, bias = made.encoder.get_layer("mean").get_weights()
    variance = np.exp(made.encoder.get_layer("variance").get_weights()[0])
    loading, offset = made.decoder.get_weights()
    exact = PPCA(loading.T.astype(float), 0.25, offset)
    gain = exact.posterior.gain.numpy()
    assert np.linalg.norm(kernel.T - gain) < 0.02 * np.linalg.norm(gain)
    np.testing.assert_allclose(bias, exact.posterior.offset, atol=0.03)
    # The diagonal that fits best; v M^-1 itself where the latents have found the axes.
    np.testing.assert_allclose(variance, 1 / (1 + (loading**2).sum(1) / 0.25), rtol=0.03)
    np.testing.assert_allclose(exact.covariance, source.covariance, atol=0.15)
    np.testing.assert_allclose(kernel @ loading, np.transpose(source.projection), atol=0.03)


# ---------------------------------------------------------------------- closed forms


def test_there_is_a_row_for_every_objective_and_coupling():
    assert _ROWS.keys() == OBJECTIVES.keys()
    for name, row in _ROWS.items():
        assert row.pieces.keys() == COUPLINGS.keys()
        assert row.trains_decoder == ("decoder" in OBJECTIVES[name].trains)


def test_vae_rests_at_the_exact_posterior():
    ratios = np.array([0.1, 1.0, 30.0])
    point = resting_point("vae", ratios * 0.7, observation_variance=0.7, start=0.3)
    np.testing.assert_allclose(point.decoder**2, ratios * 0.7, rtol=1e-8)
    np.testing.assert_allclose(point.encoder, point.exact_encoder, rtol=1e-8)
    np.testing.assert_allclose(point.variance, point.exact_variance, rtol=1e-8)
    np.testing.assert_allclose(point.code_variance, 1.0, rtol=1e-8)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.975])
def test_variances_in_closed_form(rho):
    """s of `avae` and `se`, solved by hand for s."""
    ratios, noise = np.array([2.0, 16.0]), 1 - rho**2
    avae = resting_point("avae", ratios, rho=rho)
    np.testing.assert_allclose(avae.variance, 1 / (avae.decoder**2 / 2 + 1 / noise), rtol=1e-10)
    se = resting_point("se", ratios, rho=rho)
    k, gamma = se.decoder**2 / 2 + 1 / noise, rho / noise
    np.testing.assert_allclose(se.variance, k / (k**2 - gamma**2), rtol=1e-10)


def test_se_without_an_attack_becomes_exact_as_rho_goes_to_1():
    ratios = np.array([2.0, 10.0])
    wide, tight, tighter = (resting_point("se", ratios, rho=r).bias for r in (0.9, 0.99, 0.999))
    assert (tight < 0.1 * wide).all()
    assert (tighter < 0.1 * tight).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_only_ratios_matter(name):
    attack, v = Attack(0.3, 2), 1e-3
    one = resting_point(name, 5.0, rho=0.9, attack=attack)
    scaled = Attack(0.3 * np.sqrt(v), 2)
    two = resting_point(name, 5.0 * v, rho=0.9, attack=scaled, observation_variance=v)
    assert two.contraction == pytest.approx(float(one.contraction), rel=1e-8)
    assert two.variance == pytest.approx(float(one.variance), rel=1e-8)
    assert two.bias == pytest.approx(float(one.bias), rel=1e-6)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_eq_34_taken_literally_collapses(coupling):
    """Without the reconstruction nothing is left of the code, whatever the signal; a sampled
    coupling leaves about 1 - rho^2 of it."""
    point = resting_point(
        "avae_ss", [4.0, 64.0], rho=0.95, coupling=coupling, reconstruction_weight=0.0
    )
    limit = {"analytic": 1e-6, "sampled": 1.5 * (1 - 0.95**2)}[coupling]
    assert (point.contraction < limit).all()
    kept = resting_point("avae_ss", [4.0, 64.0], rho=0.95, coupling=coupling)
    assert (kept.contraction > 4 * limit).all()


def test_tiny_weights_grow_where_the_formula_says():
    """The rule worked out by hand for `se`, and what becomes of tiny weights."""
    rho, attack = 0.9, Attack(1.0)
    ratios = np.array([0.5, 1.0, 1.5, 2.0, 2.1, 2.3, 2.5, 4.0, 8.0])
    c = ratios + 1
    by_hand = c**2 * (1 - rho**2) > 2 * (1 - rho) * (c + np.sqrt(2 * c / np.pi)) + 1
    np.testing.assert_array_equal(grows("se", ratios, rho=rho, attack=attack), by_hand)
    assert by_hand.any() and not by_hand.all()
    for ratio, grown in zip(ratios, by_hand, strict=True):
        found = resting_point("se", ratio, rho=rho, attack=attack, start=1e-3)
        assert (found.contraction > 1e-2) == grown, ratio


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize(("reach", "ratio"), [(2.0, 1.0), (3.0, 2.0), (3.0, 0.5), (5.0, 4.0)])
def test_tiny_weights_of_se_avae_do_as_told(coupling, reach, ratio):
    options = {"rho": 0.9, "rho_se": 0.9, "coupling": coupling, "attack": Attack(reach)}
    found = resting_point("se_avae", ratio, start=1e-4, **options)
    assert (found.contraction > 1e-3) == grows("se_avae", ratio, **options)


def test_avae_never_collapses():
    assert grows("vae", [1e-3, 1.0]).all() and grows("avae", [1e-3, 1.0], rho=0.99).all()
    with pytest.raises(InputError, match="does not train the decoder"):
        grows("avae_ss", 1.0)


def test_collapse_and_a_component_that_keeps_its_weights_can_both_attract():
    """Between the two thresholds the start decides."""
    options = {"rho": 0.9, "attack": Attack(1.0)}
    assert not grows("se", 2.1, **options)
    assert resting_point("se", 2.1, **options).contraction > 0.3
    assert resting_point("se", 2.1, start=1e-3, **options).contraction < 1e-6


def test_the_real_model_collapses_where_tiny_weights_do_not_grow():
    task = LinearTask((4.0,), rho=0.975)
    assert task.resting_point("se").contraction < 1e-6
    made = task.model("se")
    task.train(made, steps=2000)
    found, _ = task.read_weights(made)
    assert np.abs(found.contraction) < 0.01
    np.testing.assert_allclose(found.variance, 1.0, atol=0.01)


def test_alignment_of_a_random_start_against_monte_carlo():
    rng = np.random.default_rng(0)
    count = 400_000
    for rho, pixels in ((0.5, 1), (0.9, 4), (0.975, 2)):
        attack = Attack(0.05, pixels, random_start=True)
        y = 0.1 * rng.normal(size=count)
        nu = rng.uniform(-0.05, 0.05, (count, pixels)).sum(1) / np.sqrt(pixels)
        products = np.sign((1 - rho) * y + nu) * y
        error = products.std() / np.sqrt(count)
        assert attack.alignment(np.array(0.01), rho) == pytest.approx(
            products.mean(), abs=4.5 * error
        )
        assert attack.alignment(np.array(0.01), rho) < Attack(0.05, pixels).alignment(0.01, rho)


@pytest.mark.parametrize("pixels", [1, 2, 7, 20, 60])
def test_alignment_in_the_limits(pixels):
    """As epsilon -> 0 the start decides nothing; as rho -> 1 it decides all, and E[tau y] goes to
    2 (1 - rho) c times the density of the start's share at 0."""
    tiny = Attack(1e-4, pixels, random_start=True).alignment(0.5, 0.5)
    assert tiny == pytest.approx(np.sqrt(2 * 0.5 / np.pi), rel=1e-4)
    rng = np.random.default_rng(0)
    starts = rng.uniform(-1, 1, (1_000_000, pixels)).sum(1) / np.sqrt(pixels)
    density = np.mean(np.abs(starts) < 0.05) / 0.1
    found = Attack(1.0, pixels, random_start=True).alignment(0.5, 1 - 1e-7)
    assert found == pytest.approx(2e-7 * 0.5 * density, rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "gan"}, "unknown objective 'gan'"),
        ({"coupling": "tight"}, "unknown coupling 'tight'"),
        ({"signal": 0.0}, "signal is 0.0"),
        ({"rho": 1.0}, "rho is 1.0"),
        ({"observation_variance": 0.0}, "observation_variance is 0.0"),
        ({"start": 0.0}, "start is 0.0"),
        ({"reconstruction_weight": -1.0}, "reconstruction_weight is -1.0"),
        ({"objective": "vae", "signal": 1e-6, "start": 0.5}, "did not settle"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(InputError, match=message):
        resting_point(**({"objective": "se", "signal": 1.0} | options))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0,), "epsilon is -1.0"),
        ((np.inf,), "epsilon is inf"),
        ((1.0, 0), "pixels is 0"),
        ((1.0, 1.5), "pixels is 1.5"),
    ],
)
def test_bad_attacks_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        Attack(*arguments)
