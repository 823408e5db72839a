"""The terms against values at 50 digits, Monte Carlo, identities and a numeric maximiser."""

import decimal
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf

from tf_avae import distributions as d

CASES = json.loads((Path(__file__).parent / "data/terms.json").read_text())["cases"]


def posterior(mean, variance, dtype=tf.float64):
    return d.Posterior(tf.constant(mean, dtype), tf.constant(variance, dtype))


def random_posteriors(seed, dtype=tf.float64, shape=(5, 3)):
    rng = np.random.default_rng(seed)
    return [
        posterior(rng.normal(size=shape), np.exp(rng.normal(size=shape)), dtype) for _ in range(2)
    ]


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 3e-6)])
@pytest.mark.parametrize("number", range(len(CASES)))
def test_terms_equal_the_reference_values(number, dtype, tolerance):
    case = CASES[number]
    q = posterior([case["mean"]], [case["variance"]], dtype)
    other = posterior([case["mean2"]], [case["variance2"]], dtype)
    rho, v = case["rho"], case["observation_variance"]
    z = tf.constant([case["z"]], dtype)
    x, g = (tf.constant([case[name]], dtype)[:, None, None] for name in ("x", "g"))
    joint = d.joint(q, other, rho)
    computed = {
        "rec": d.reconstruction(x, g, v),
        "kl_prior": d.kl_to_prior(q),
        "entropy": d.entropy(q),
        "couple": d.couple(q, other, rho),
        "couple_sampled": d.couple_sampled(z, other, rho),
        "joint_log_prior": joint.log_prior,
        "joint_entropy": joint.entropy,
        "w2_squared": d.w2_squared(q, other),
        "psi": joint.covariance,
    }
    assert computed.keys() == case["expected"].keys()
    # 0.999999 itself is not a double: its rounding is seen in whatever is divided by 1 - rho^2.
    tolerance += 2**-53 / (1 - rho)
    for name, value in computed.items():
        assert value.dtype == dtype
        np.testing.assert_allclose(
            value.numpy()[0],
            case["expected"][name],
            rtol=tolerance,
            atol=tolerance * (1 if name == "psi" else 10),
            err_msg=name,
        )


def test_couplings_and_joint_are_their_monte_carlo_expectations():
    q, other = random_posteriors(1, shape=(1, 3))
    n, rho = 400_000, 0.8
    rng = np.random.default_rng(2)
    s, t = q.stddev.numpy(), other.stddev.numpy()
    z = q.mean + s * rng.normal(size=(n, 3))
    z2 = other.mean + t * rng.normal(size=(n, 3))

    def log_kernel(b, a):
        noise = 1 - rho**2
        return (-0.5 * np.log(2 * np.pi * noise) - (b - rho * a) ** 2 / (2 * noise)).sum(-1)

    def log_normal(a):
        return (-0.5 * np.log(2 * np.pi) - a**2 / 2).sum(-1)

    def agrees(exact, sample):
        error = sample.std() / math.sqrt(len(sample))
        assert abs(float(exact) - sample.mean()) < 4 * error

    z, z2 = np.asarray(z), np.asarray(z2)
    agrees(d.couple(q, other, rho)[0], log_kernel(z2, z))
    agrees(d.couple_sampled(tf.constant(z[:1]), other, rho)[0], log_kernel(z2, z[:1]))
    agrees(d.couple(q, other, rho)[0], d.couple_sampled(tf.constant(z), other, rho).numpy())
    # The joint: correlated samples with the covariance that is claimed.
    joint = d.joint(q, other, rho)
    psi = joint.covariance.numpy()[0]
    noise = rng.normal(size=(n, 3))
    conditional = psi / s**2 * (z - q.mean.numpy()) + np.sqrt(t**2 - psi**2 / s**2) * noise
    z2 = other.mean.numpy() + conditional
    agrees(joint.log_prior[0], log_normal(z) + log_kernel(z2, z))
    log_q = -0.5 * np.log(2 * np.pi * s**2) - (z - q.mean.numpy()) ** 2 / (2 * s**2)
    residual = t**2 - psi**2 / s**2
    log_q2 = -0.5 * np.log(2 * np.pi * residual) - noise**2 / 2
    agrees(joint.entropy[0], -(log_q + log_q2).sum(-1))


def test_kl_and_entropy_are_their_monte_carlo_expectations():
    q, _ = random_posteriors(3, shape=(1, 3))
    z = q.mean + q.stddev * np.random.default_rng(4).normal(size=(400_000, 3))
    log_q = q.distribution.log_prob(z).numpy()
    log_p = (-0.5 * np.log(2 * np.pi) - z.numpy() ** 2 / 2).sum(-1)
    for exact, sample in ((d.entropy(q), -log_q), (d.kl_to_prior(q), log_q - log_p)):
        assert abs(float(exact[0]) - sample.mean()) < 4 * sample.std() / math.sqrt(len(sample))


def test_samples_have_the_standard_deviation_not_the_variance():
    q = posterior(np.zeros((20_000, 3)), np.tile([4.0, 0.01, 1.0], (20_000, 1)), tf.float32)
    z = q.sample(tf.constant([3, 5])).numpy()
    np.testing.assert_allclose(z.std(axis=0), [2.0, 0.1, 1.0], rtol=0.02)
    np.testing.assert_allclose(z.mean(axis=0) / [2.0, 0.1, 1.0], 0, atol=4 / math.sqrt(20_000))


def test_prior_samples_are_standard_normal():
    z = d.prior_sample(50_000, 2, tf.constant([1, 2])).numpy()
    np.testing.assert_allclose(np.cov(z.T), np.eye(2), atol=0.03)


# ---------------------------------------------------------------- identities


def test_without_coupling_the_pair_is_independent():
    q, other = random_posteriors(5)
    np.testing.assert_allclose(
        d.couple(q, other, 0.0) + d.entropy(other), -d.kl_to_prior(other), rtol=1e-12
    )
    joint = d.joint(q, other, 0.0)
    np.testing.assert_allclose(
        joint.log_prior + joint.entropy, -d.kl_to_prior(q) - d.kl_to_prior(other), rtol=1e-12
    )
    assert not joint.covariance.numpy().any()


@pytest.mark.parametrize("rho", [0.3, 0.975])
def test_joint_bound_is_tighter_than_the_factorised_one(rho):
    """q~ with psi = 0 gives -KL(q||p) + couple + H: the optimum cannot be below."""
    q, other = random_posteriors(6, shape=(50, 3))
    joint = d.joint(q, other, rho)
    factorised = -d.kl_to_prior(q) + d.couple(q, other, rho) + d.entropy(other)
    assert ((joint.log_prior + joint.entropy - factorised).numpy() > 0).all()


def test_joint_is_symmetric():
    q, other = random_posteriors(7)
    a, b = d.joint(q, other, 0.9), d.joint(other, q, 0.9)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-13)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.975, 0.9999])
@pytest.mark.parametrize("variances", [(0.5, 2.0), (1e-3, 3.0), (0.01, 0.02)])
def test_psi_maximises_the_bound(rho, variances):
    a, b = variances
    psi = (
        d.joint(posterior([[0.0]], [[a]]), posterior([[0.0]], [[b]]), rho).covariance.numpy().item()
    )

    def bound(p):
        return rho * p / (1 - rho**2) + 0.5 * math.log(a * b - p**2)

    low, high = 0.0, math.sqrt(a * b) * (1 - 1e-15)
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(200):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if bound(left) > bound(right) else (left, high)
    assert psi == pytest.approx((low + high) / 2, rel=1e-6, abs=1e-7 * math.sqrt(a * b))


def test_w2_of_diagonal_and_full_covariances_agree_in_any_rotation():
    q, other = random_posteriors(8)
    rotation = np.linalg.qr(np.random.default_rng(9).normal(size=(3, 3)))[0]

    def full(p):
        return p.mean @ rotation.T, rotation @ tf.linalg.diag(p.variance) @ rotation.T

    np.testing.assert_allclose(
        d.w2_squared_full(*full(q), *full(other)), d.w2_squared(q, other), rtol=1e-10
    )


def test_w2_of_full_covariances_is_the_cost_of_the_optimal_map():
    """For zero means the optimal map is x -> A x with A = S^-1/2 (S^1/2 T S^1/2)^1/2 S^-1/2."""
    rng = np.random.default_rng(10)
    s, t = ((m := rng.normal(size=(3, 3))) @ m.T + np.eye(3) for _ in range(2))

    def root(m):
        values, vectors = np.linalg.eigh(m)
        return vectors * np.sqrt(values) @ vectors.T

    half = root(s)
    transport = np.linalg.inv(half) @ root(half @ t @ half) @ np.linalg.inv(half)
    np.testing.assert_allclose(transport @ s @ transport.T, t, rtol=1e-9)
    difference = np.eye(3) - transport
    cost = np.trace(difference @ s @ difference.T)
    zero = tf.zeros(3, tf.float64)
    np.testing.assert_allclose(d.w2_squared_full(zero, s, zero, t), cost, rtol=1e-10)


def test_w2_of_full_covariances_agrees_with_scipys_matrix_root():
    rng = np.random.default_rng(12)
    for size in (1, 4, 9):
        s, t = ((m := rng.normal(size=(size, size))) @ m.T for _ in range(2))
        a, b = rng.normal(size=(2, size))
        root = scipy.linalg.sqrtm(t)
        cross = scipy.linalg.sqrtm(root @ s @ root).real
        expected = ((a - b) ** 2).sum() + np.trace(s + t - 2 * cross)
        np.testing.assert_allclose(d.w2_squared_full(a, s, b, t), expected, rtol=1e-8)


def test_w2_is_a_squared_distance():
    q, other = random_posteriors(11)
    third, _ = random_posteriors(12)
    np.testing.assert_array_equal(d.w2_squared(q, q), 0)
    np.testing.assert_allclose(d.w2_squared(q, other), d.w2_squared(other, q))
    distance = [tf.sqrt(d.w2_squared(*pair)) for pair in ((q, other), (other, third), (q, third))]
    assert (distance[2] <= distance[0] + distance[1]).numpy().all()


# ---------------------------------------------------------------- stability

EXTREMES = list(
    itertools.product((1e-12, 1e-6, 1.0, 1e4), (1e-12, 1e-6, 1.0, 1e4), (0.0, 1e-9, 0.5, 0.999999))
)


def exact_joint(m, a, m2, b, rho):
    """log prior + entropy in one dimension, by the printed formulas at 80 digits."""
    with decimal.localcontext(prec=80):
        one, two = decimal.Decimal(1), decimal.Decimal(2)
        pi = decimal.Decimal(
            "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899"
        )
        noise = one - rho * rho
        gamma = rho / noise
        root = (one + 4 * gamma * gamma * a * b).sqrt()
        psi = (root - one) / (two * gamma) if rho else decimal.Decimal(0)
        prior = -(two * pi).ln() - noise.ln() / two
        prior -= (a + b + m * m + m2 * m2 - two * rho * (psi + m * m2)) / (two * noise)
        return prior + ((two * pi).ln() * two + two + (a * b - psi * psi).ln()) / two


@pytest.mark.parametrize(("a", "b", "rho"), EXTREMES)
def test_joint_and_its_gradient_lose_no_digits(a, b, rho):
    inputs = [0.3, a, -0.7, b]
    exact = [decimal.Decimal(value) for value in (*inputs, rho)]
    with decimal.localcontext(prec=80):
        value = exact_joint(*exact)
        slopes = []
        for position in range(4):
            step = abs(exact[position]) * decimal.Decimal("1e-25")
            up, down = list(exact), list(exact)
            up[position] += step
            down[position] -= step
            slopes.append(float((exact_joint(*up) - exact_joint(*down)) / (2 * step)))
    for dtype, tolerance in ((tf.float64, 1e-12), (tf.float32, 5e-6)):
        mean, variance, mean2, variance2 = (tf.constant([[x]], dtype) for x in inputs)
        variables = (mean, variance, mean2, variance2)
        with tf.GradientTape() as tape:
            tape.watch(variables)
            joint = d.joint(d.Posterior(mean, variance), d.Posterior(mean2, variance2), rho)
            total = joint.log_prior + joint.entropy
        assert total.numpy().item() == pytest.approx(
            float(value), rel=tolerance, abs=10 * tolerance
        )
        gradients = tape.gradient(total, variables)
        # A slope may be the difference of two parts of order 1/variance (that of a mean, of 1).
        for gradient, slope, scale in zip(gradients, slopes, (1, a, 1, b), strict=True):
            near = pytest.approx(slope, rel=100 * tolerance, abs=100 * tolerance / scale)
            assert gradient.numpy().item() == near
