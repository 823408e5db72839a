"""Probabilistic PCA against brute-force Gaussian algebra, its limits, and its chain."""

import numpy as np
import pytest
import tensorflow as tf

from tf_avae import distributions as d
from tf_avae.errors import InputError
from tf_avae.theory.ppca import PPCA

SHAPES = [(5, 3), (3, 5), (4, 4), (6, 1)]
SEED = tf.constant([3, 0])


def example(pixels, latents, batch=(2,)):
    rng = np.random.default_rng(pixels + 10 * latents)
    weights = rng.normal(size=(*batch, pixels, latents))
    return weights, rng.uniform(0.1, 1.0, batch), rng.normal(size=(*batch, pixels))


def conditional(joint, mean, given, wanted):
    """Gain, offset and covariance of `wanted` given `given` from a joint Gaussian."""
    gain = joint[np.ix_(wanted, given)] @ np.linalg.inv(joint[np.ix_(given, given)])
    covariance = joint[np.ix_(wanted, wanted)] - gain @ joint[np.ix_(given, wanted)]
    return gain, mean[wanted] - gain @ mean[given], covariance


def joint_of_chain(weights, v, mean):
    """Mean and covariance of (z, x, z', x'): two images of one latent pair are drawn as
    z -> x -> z' -> x', every step by conditioning of the joint of (z, x)."""
    n, k = weights.shape
    z, x = np.arange(k), np.arange(k, k + n)
    pair = np.block(
        [[np.eye(k), weights.T], [weights, weights @ weights.T + v * np.eye(n)]]
    )  # fmt: skip
    means = np.concatenate([np.zeros(k), mean])
    gain, offset, covariance = conditional(pair, means, x, z)
    # (z, x, z'): z' = gain x + offset + noise; then x' = W z' + mean + noise.
    step = np.zeros((k, k + n))
    step[:, x] = gain
    three = np.block([[pair, pair @ step.T], [step @ pair, step @ pair @ step.T + covariance]])
    means = np.concatenate([means, step @ means + offset])
    last = np.zeros((n, 2 * k + n))
    last[:, k + n :] = weights
    four = np.block(
        [[three, three @ last.T], [last @ three, last @ three @ last.T + v * np.eye(n)]]
    )
    return np.concatenate([means, last @ means + mean]), four


@pytest.mark.parametrize(("pixels", "latents"), SHAPES)
def test_posterior_and_kernels_are_those_of_the_joint_gaussian(pixels, latents):
    weights, v, mean = example(pixels, latents)
    model = PPCA(weights, v, mean)
    z, x = np.arange(latents), latents + np.arange(pixels)
    z2, x2 = z + latents + pixels, x + latents + pixels
    for i in range(2):
        means, joint = joint_of_chain(weights[i], v[i], mean[i])
        for ours, given, wanted in (
            (model.posterior, x, z),
            (model.decoder, z, x),
            (model.image_kernel, x, x2),
            (model.latent_kernel, z, z2),
        ):
            expected = conditional(joint, means, given, wanted)
            for part, value in zip(ours, expected, strict=True):
                np.testing.assert_allclose(part[i], value, atol=1e-12)


@pytest.mark.parametrize(("pixels", "latents"), SHAPES)
def test_closed_forms_are_the_papers(pixels, latents):
    weights, v, mean = example(pixels, latents, batch=())
    model = PPCA(weights, v, mean)
    inverse = np.linalg.inv(weights.T @ weights + v * np.eye(latents))
    p, j = weights @ inverse @ weights.T, inverse @ weights.T @ weights
    np.testing.assert_allclose(model.projection, p, atol=1e-13)
    np.testing.assert_allclose(model.contraction, j, atol=1e-13)
    np.testing.assert_allclose(model.image_kernel.covariance, v * (p + np.eye(pixels)), atol=1e-13)
    np.testing.assert_allclose(
        model.latent_kernel.covariance, v * (j + np.eye(latents)) @ inverse, atol=1e-13
    )


@pytest.mark.parametrize(("pixels", "latents"), SHAPES)
def test_exact_encoder_keeps_both_marginals(pixels, latents):
    """Propositions 2.2, 2.3 and 3.1."""
    weights, v, mean = example(pixels, latents)
    model = PPCA(weights, v, mean)
    mean_x, covariance_x = model.image_kernel.marginal(model.data_mean, model.covariance)
    np.testing.assert_allclose(mean_x, mean, atol=1e-12)
    np.testing.assert_allclose(covariance_x, model.covariance, atol=1e-12)
    prior = tf.eye(latents, batch_shape=[2], dtype=tf.float64)
    mean_z, covariance_z = model.latent_kernel.marginal(tf.zeros([2, latents], tf.float64), prior)
    np.testing.assert_allclose(mean_z, np.zeros([2, latents]), atol=1e-12)
    np.testing.assert_allclose(covariance_z, prior, atol=1e-12)
    cross = (model.projection @ model.covariance).numpy()
    np.testing.assert_allclose(cross, np.swapaxes(cross, -1, -2), atol=1e-12)


def test_a_wrong_encoder_does_not_keep_them():
    weights, v, mean = example(5, 3, batch=())
    model = PPCA(weights, v, mean)
    delta = 0.05 * np.random.default_rng(0).normal(size=(3, 5))
    kernel = model.perturbed(delta).then(model.decoder)
    _, covariance = kernel.marginal(model.data_mean, model.covariance)
    assert np.abs(covariance - model.covariance).max() > 1e-2


def test_kernels_are_compositions_of_encoder_and_decoder():
    weights, v, mean = example(5, 3)
    model = PPCA(weights, v, mean)
    for composed, kernel in (
        (model.posterior.then(model.decoder), model.image_kernel),
        (model.decoder.then(model.posterior), model.latent_kernel),
    ):
        for a, b in zip(composed, kernel, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


def test_simulated_chain_keeps_the_model_marginal():
    weights, v, mean = example(4, 2, batch=())
    model = PPCA(weights, v, mean)
    count = 40_000
    x = model.sample(count, SEED)
    for step in range(10):
        x = model.image_kernel.sample(x, tf.constant([3, 1 + step]))
    covariance = model.covariance.numpy()
    spread = np.diag(covariance)
    mean_errors = np.sqrt(spread / count)
    errors = np.sqrt((covariance**2 + np.outer(spread, spread)) / count)
    assert (np.abs(x.numpy().mean(0) - mean) < 4.5 * mean_errors).all()
    assert (np.abs(np.cov(x.numpy().T) - covariance) < 4.5 * errors).all()


# ---------------------------------------------------------------------- limits


@pytest.mark.parametrize(("pixels", "latents"), SHAPES)
def test_limit_is_the_projection(pixels, latents):
    weights, _, mean = example(pixels, latents, batch=())
    model = PPCA(weights, 0.0, mean)
    basis = np.linalg.svd(weights, full_matrices=False)[0][:, : min(pixels, latents)]
    np.testing.assert_allclose(model.projection, basis @ basis.T, atol=1e-12)
    np.testing.assert_allclose(model.posterior.gain, np.linalg.pinv(weights), atol=1e-12)
    # Latents that no image shows keep the prior.
    hidden = np.eye(latents) - np.linalg.pinv(weights) @ weights
    np.testing.assert_allclose(model.posterior.covariance, hidden, atol=1e-12)
    np.testing.assert_allclose(model.latent_kernel.covariance, hidden, atol=1e-12)
    np.testing.assert_allclose(model.image_kernel.covariance, np.zeros((pixels, pixels)), atol=0)
    x = np.random.default_rng(0).normal(size=pixels)
    once = model.image_kernel.mean(x)
    np.testing.assert_allclose(model.image_kernel.mean(once), once, atol=1e-12)


def test_limit_is_approached():
    weights, _, _ = example(5, 3, batch=())
    limit = PPCA(weights, 0.0)
    before = np.inf
    for v in (1e-2, 1e-4, 1e-6, 1e-8):
        distance = np.abs(PPCA(weights, v).projection - limit.projection).max()
        assert distance < 1e-1 * before
        before = distance


def test_no_digits_are_lost_for_a_small_variance():
    w, v = 0.7, 1e-25
    model = PPCA(np.array([[w], [0.0]]), v)
    np.testing.assert_allclose(model.posterior.covariance, [[v / w**2]], rtol=1e-14)
    np.testing.assert_allclose(model.latent_kernel.covariance, [[2 * v / w**2]], rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_no_scale_underflows_or_overflows(scale):
    weights = np.random.default_rng(0).normal(size=(5, 2))
    expected, found = PPCA(weights, 0.0), PPCA(scale * weights, 0.0)
    np.testing.assert_allclose(found.projection, expected.projection, atol=1e-12)
    np.testing.assert_allclose(found.posterior.gain, expected.posterior.gain / scale)
    noisy = PPCA(scale * weights, 0.3)
    # Against signals this far from the noise, everything or nothing is seen.
    limit = expected.projection if scale > 1 else np.zeros((5, 5))
    np.testing.assert_allclose(noisy.projection, limit, atol=1e-12)


def test_small_singular_values_count_where_there_is_noise():
    """diag(1, 1e-17) with v = 1e-40: the second latent is seen all the same."""
    model = PPCA(np.diag([1.0, 1e-17]), 1e-40)
    np.testing.assert_allclose(
        np.diag(model.posterior.covariance), [1e-40, 1e-40 / (1e-34 + 1e-40)], rtol=1e-12
    )


def test_a_column_of_rounding_counts_as_zero():
    weights = np.random.default_rng(0).normal(size=(5, 2))
    twice = np.concatenate([weights, weights[:, :1] * (1 + 1e-16)], axis=1)
    model = PPCA(twice, 0.0)
    assert np.abs(model.posterior.gain).max() < 1e3
    np.testing.assert_allclose(model.projection, PPCA(weights, 0.0).projection, atol=1e-12)


def test_float32_is_float32_and_close():
    weights, v, mean = example(5, 3)
    single = PPCA(weights.astype(np.float32), v, mean)
    for ours, exact in zip(single.image_kernel, PPCA(weights, v, mean).image_kernel, strict=True):
        assert ours.dtype == tf.float32
        np.testing.assert_allclose(ours, exact, atol=1e-5)
    assert single.log_prob(single.sample(4, SEED)).dtype == tf.float32


# ---------------------------------------------------------------------- densities


def test_log_prob_is_that_of_the_gaussian():
    weights, v, mean = example(5, 3)
    model = PPCA(weights, v, mean)
    x = model.sample(7, SEED)
    assert x.shape == (7, 2, 5)
    for i in range(2):
        covariance = weights[i] @ weights[i].T + v[i] * np.eye(5)
        deviation = x[:, i].numpy() - mean[i]
        square = np.einsum("bi,ij,bj->b", deviation, np.linalg.inv(covariance), deviation)
        expected = -0.5 * (square + np.linalg.slogdet(2 * np.pi * covariance)[1])
        np.testing.assert_allclose(model.log_prob(x)[:, i], expected, rtol=1e-12)


def test_bound_of_the_vae_at_the_exact_posterior_is_the_log_evidence():
    """With orthogonal columns the exact posterior is diagonal, so the bound is tight."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 2)))[0]
    weights, v = basis * [1.5, 0.4], 0.2
    model = PPCA(weights, v, rng.normal(size=6))
    x = model.sample(5, SEED)
    q = d.Posterior(
        model.posterior.mean(x),
        tf.broadcast_to(tf.linalg.diag_part(model.posterior.covariance), (5, 2)),
    )
    # E_q log p(x|z) is that at the mean less what the variance of W z takes off.
    at_mean = d.reconstruction(x, model.decoder.mean(q.mean), v)
    spread = np.trace(weights @ model.posterior.covariance.numpy() @ weights.T) / (2 * v)
    np.testing.assert_allclose(at_mean - spread - d.kl_to_prior(q), model.log_prob(x), rtol=1e-12)


# ---------------------------------------------------------------------- drift


def test_chain_of_a_perturbed_encoder_grows_by_the_spectrum():
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(6, 3))
    model = PPCA(weights, 0.1)
    delta = 0.3 * rng.normal(size=(3, 6))
    spectrum = np.sort(np.abs(model.spectrum(delta)))
    full = np.linalg.eigvals(model.projection.numpy() + weights @ delta)
    np.testing.assert_allclose(np.sort(np.abs(full))[-3:], spectrum, rtol=1e-10)
    np.testing.assert_allclose(np.sort(np.abs(full))[:-3], 0.0, atol=1e-10)
    kernel = model.perturbed(delta).then(model.decoder)
    x = tf.constant(rng.normal(size=6))
    lengths = []
    for _ in range(600):
        x = kernel.mean(x)
        lengths.append(np.log(np.linalg.norm(x)))
    # A complex pair turns the mean while it grows, so the rate is that over many steps.
    assert (lengths[-1] - lengths[99]) / 500 == pytest.approx(np.log(spectrum[-1]), abs=3e-3)


def test_spectrum_of_a_small_variance_is_one_plus_that_of_w_delta():
    rng = np.random.default_rng(5)
    weights, delta = rng.normal(size=(6, 3)), 0.3 * rng.normal(size=(3, 6))
    expected = 1 + np.linalg.eigvals(delta @ weights)
    found = PPCA(weights, 1e-12).spectrum(delta).numpy()
    np.testing.assert_allclose(np.sort_complex(found), np.sort_complex(expected), atol=1e-9)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("weights", "v", "message"),
    [
        (np.ones(3), 0.1, "shape"),
        (np.ones((3, 2), int), 0.1, "dtype int64"),
        (np.array([[np.nan]]), 0.1, "not finite"),
        (np.ones((3, 2)), -0.1, "observation_variance is -0.1"),
        (np.ones((3, 2)), np.inf, "observation_variance is inf"),
        (np.ones((3, 2), np.float16), 0.1, "dtype float16"),
        (np.ones((3, 2)), np.ones(3), r"observation_variance has shape \(3,\)"),
    ],
)
def test_bad_input_is_named(weights, v, message):
    with pytest.raises(InputError, match=message):
        PPCA(weights, v)


def test_there_is_no_density_without_noise():
    with pytest.raises(InputError, match="no density"):
        PPCA(np.ones((3, 2)), 0.0).log_prob(np.ones(3))


@pytest.mark.parametrize("mean", [0.5, [0.5], [0.5, 0.5], np.ones((2, 3)), [np.nan] * 3])
def test_a_mean_that_does_not_fit_is_refused(mean):
    with pytest.raises(InputError, match="mean"):
        PPCA(np.ones((3, 2)), 0.1, mean)


def test_a_mean_keeps_its_digits_and_is_shared_by_a_batch():
    model = PPCA(np.ones((2, 3, 1)), np.array([0.1, 0.2]), [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(model.data_mean, [[0.1, 0.2, 0.3]] * 2)
