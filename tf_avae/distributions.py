"""The Gaussian terms that the objectives are made of.

Equation numbers are those of the supplement of "The Autoencoding Variational Autoencoder"
(Cemgil, Ghaisas, Dvijotham, Gowal and Kohli, NeurIPS 2020). Every term is per example, shape [B],
in nats, summed over latent or pixel dimensions, with its constants, so that bounds are comparable
across the coupling rho and the observation variance v. Nothing here is reduced over the batch.

All functions work in the dtype of their inputs (float32 in training, float64 for closed forms);
`rho` and `observation_variance` are Python floats, so that 1 - rho^2 never loses digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from tf_avae.backend import tf, tfp
from tf_avae.backend.replicas import own_rows
from tf_avae.inputs import seed_of
from tf_avae.types import Images, Latents, PerExample, Tensor


class Posterior(NamedTuple):
    """q(z|x) = N(mean, diag(variance)), the encoder's output for a batch of images.

    Attributes:
        mean: mu, shape [B, D]; the "embedding" that encoders give.
        variance: sigma squared (never the standard deviation), shape [B, D], positive.
    """

    mean: Latents
    variance: Latents

    @property
    def stddev(self) -> Latents:
        """sigma, shape [B, D]."""
        return tf.sqrt(self.variance)

    @property
    def distribution(self) -> tfp.distributions.Distribution:
        """The same as a TFP distribution with batch shape [B] and event shape [D]."""
        return tfp.distributions.Independent(tfp.distributions.Normal(self.mean, self.stddev), 1)

    def sample(self, seed: Tensor) -> Latents:
        """One z = mu + sigma * noise for each example, shape [B, D].

        Args:
            seed: an integer, at least 0, or a stateless seed, an int32 tensor of shape [2].
        """
        seed = seed_of(seed)
        noise = own_rows(
            lambda shape: tf.random.stateless_normal(shape, seed=seed, dtype=self.mean.dtype),
            tf.shape(self.mean),
        )
        return noise * self.stddev + self.mean

    def stop_gradient(self) -> Posterior:
        """The same posterior as a constant."""
        return Posterior(tf.stop_gradient(self.mean), tf.stop_gradient(self.variance))


def prior_sample(batch: Tensor, latent_dim: int, seed: Tensor) -> Latents:
    """z ~ p(z) = N(0, I), shape [batch, latent_dim]."""
    return own_rows(
        lambda shape: tf.random.stateless_normal(shape, seed=seed), tf.stack([batch, latent_dim])
    )


def reconstruction(x: Images, decoded: Images, observation_variance: float) -> PerExample:
    """rec(x, z) = log N(x; g(z), v I), with the Gaussian's constant.

    Args:
        x: [B, H, W, C].
        decoded: g(z), as x.
        observation_variance: v > 0.
    """
    likelihood = tfp.distributions.Normal(decoded, math.sqrt(observation_variance))
    return tfp.distributions.Independent(likelihood, x.shape.rank - 1).log_prob(x)


def kl_to_prior(q: Posterior) -> PerExample:
    """KL(q || N(0, I)) = 1/2 sum(sigma^2 + mu^2 - 1 - log sigma^2), at least 0."""
    prior = tfp.distributions.Independent(tfp.distributions.Normal(tf.zeros_like(q.mean), 1.0), 1)
    return tfp.distributions.kl_divergence(q.distribution, prior)


def kl(q: Posterior, other: Posterior) -> PerExample:
    """KL(q || q') = 1/2 sum((mu - mu')^2/sigma'^2 + r - 1 - log r), r = sigma^2/sigma'^2, >= 0."""
    return tfp.distributions.kl_divergence(q.distribution, other.distribution)


def entropy(q: Posterior) -> PerExample:
    """H(q) = 1/2 sum log(2 pi e sigma^2)."""
    return q.distribution.entropy()


def couple(q: Posterior, other: Posterior, rho: float) -> PerExample:
    """E_{q(z) q'(z')} log p_rho(z'|z), the analytic coupling of eq. 13; `other` is q'.

    p_rho(z'|z) = N(rho z, (1 - rho^2) I): the pair is zero-mean Gaussian with unit marginals and
    correlation rho in [0, 1).
    """
    spread = other.variance + rho**2 * q.variance
    return _log_kernel(other.mean, q.mean, rho) - _expected_square(spread, rho)


def couple_sampled(z: Latents, other: Posterior, rho: float) -> PerExample:
    """E_{q'(z')} log p_rho(z'|z) for given z [B, D]; `other` is q', and rho in [0, 1).

    Its mean over z ~ q is `couple`. With the z that was decoded into the image behind `other`, it
    is the bound's own expectation, which the analytic form replaces by that of an independent z.
    """
    return _log_kernel(other.mean, z, rho) - _expected_square(other.variance, rho)


def _log_kernel(z_next: Latents, z: Latents, rho: float) -> PerExample:
    """log p_rho(z_next | z)."""
    kernel = tfp.distributions.Normal(rho * z, math.sqrt(_noise_variance(rho)))
    return tfp.distributions.Independent(kernel, 1).log_prob(z_next)


def _expected_square(variance: Tensor, rho: float) -> PerExample:
    """What a variance of z' - rho z takes off the expected log kernel."""
    return 0.5 * tf.reduce_sum(variance, axis=-1) / _noise_variance(rho)


def _noise_variance(rho: float) -> float:
    """1 - rho^2 without cancellation as rho goes to 1."""
    return (1.0 - rho) * (1.0 + rho)


class PosteriorBox(NamedTuple):
    """All q(z|x) whose means and variances are within these, (lower, upper) of [B, D] each."""

    mean: tuple[Latents, Latents]
    variance: tuple[Latents, Latents]


def worst(
    loss: Callable[[Posterior, Posterior], PerExample], q: Posterior, box: PosteriorBox
) -> Posterior:
    """The posterior of a box at which loss(q, .) is largest, found in closed form.

    Args:
        loss: (q, other) to [B]; a sum over the latents of a convex function of the other's mean
            and one of its variance, as every attack of `OBJECTIVES` is. So it is largest at an end
            of each, latent by latent.
        q: what it is measured from.
        box: where the other is.

    Returns:
        A corner for each latent, [B, D] each; its gradient is that of the corner.
    """

    def of_latents(part: Latents) -> Latents:
        """A latent for an example: each has ends of its own."""
        return tf.reshape(tf.stop_gradient(part), [-1, 1])

    own = Posterior(*map(of_latents, q))

    def worse(ends: tuple[Latents, Latents], name: str) -> Latents:
        # By itself: the other part may be so large that float32 loses this one beside it.
        lower, upper = (loss(own, own._replace(**{name: of_latents(end)})) for end in ends)
        return tf.where(tf.reshape(lower > upper, tf.shape(q.mean)), *ends)

    return Posterior(worse(box.mean, "mean"), worse(box.variance, "variance"))


class Joint(NamedTuple):
    """The Gaussian q~ on (z, z') of App. C.3.1 that makes the bound of `se` tightest.

    Attributes:
        log_prior: E_q~ log p_rho(z', z), eq. 31, shape [B]. (Eq. 29 lacks the squares on the
            means; eq. 31 is right.)
        entropy: H[q~], shape [B].
        covariance: psi, the cross-covariance of z and z' per dimension, shape [B, D].
    """

    log_prior: PerExample
    entropy: PerExample
    covariance: Latents


def joint(q: Posterior, other: Posterior, rho: float) -> Joint:
    """The tighter joint bound of C.3.1, with the optimal cross-covariance, for rho in [0, 1).

    With gamma = rho/(1-rho^2), u = 2 gamma sigma sigma' and r = sqrt(1 + u^2) the optimum is
    psi = sigma sigma' u/(1 + r). Everything below is a sum of terms of one sign, so it is exact
    at rho = 0 and loses no digits for small variances, equal posteriors or rho close to 1:

        sigma^2 + sigma'^2 - 2 rho psi = (sigma - sigma')^2 + 2 (sigma sigma' - rho psi)
        sigma sigma' - rho psi = sigma sigma' (1 + 1/(r + u) + (1 - rho) u)/(1 + r)
        mu^2 + mu'^2 - 2 rho mu mu' = (1 - rho)(mu^2 + mu'^2) + rho (mu - mu')^2
        sigma^2 sigma'^2 - psi^2 = 2 sigma^2 sigma'^2/(1 + r)
    """
    noise = _noise_variance(rho)
    s, t = q.stddev, other.stddev
    u = 2.0 * rho / noise * s * t
    r = tf.sqrt(1.0 + tf.square(u))
    residual = s * t * (1.0 + 1.0 / (r + u) + (1.0 - rho) * u) / (1.0 + r)
    spread = tf.math.squared_difference(s, t) + 2.0 * residual
    means = (1.0 - rho) * (tf.square(q.mean) + tf.square(other.mean))
    means += rho * tf.math.squared_difference(q.mean, other.mean)
    log_prior = -math.log(2.0 * math.pi) - 0.5 * math.log(noise) - (spread + means) / (2.0 * noise)
    joint_entropy = (
        math.log(2.0 * math.pi * math.e)
        + 0.5 * math.log(2.0)
        + tf.math.log(s)
        + tf.math.log(t)
        - 0.5 * tf.math.log1p(r)
    )
    return Joint(
        log_prior=tf.reduce_sum(log_prior, axis=-1),
        entropy=tf.reduce_sum(joint_entropy, axis=-1),
        covariance=s * t * u / (1.0 + r),
    )


def w2_squared(q: Posterior, other: Posterior) -> PerExample:
    """Squared 2-Wasserstein distance of two diagonal Gaussians (App. E).

    sum (mu - mu')^2 + sum (sigma - sigma')^2, at least 0.
    """
    means = tf.math.squared_difference(q.mean, other.mean)
    stddevs = tf.math.squared_difference(q.stddev, other.stddev)
    return tf.reduce_sum(means + stddevs, axis=-1)


def w2_squared_full(
    mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor
) -> PerExample:
    """Squared 2-Wasserstein distance of two Gaussians with full covariances (App. E).

    |mu - mu'|^2 + Tr(S + S' - 2 (S'^(1/2) S S'^(1/2))^(1/2)), at least 0. The last trace is the sum
    of the singular values of S'^(1/2) S^(1/2), and is taken as that: the root of what rounding
    leaves of an eigenvalue 0 would be far from 0.

    Args:
        mean, other_mean: [..., D].
        covariance, other_covariance: [..., D, D], symmetric and positive semi-definite.

    Returns:
        [...].
    """
    roots = symmetric_sqrt(other_covariance) @ symmetric_sqrt(covariance)
    cross = tf.reduce_sum(tf.linalg.svd(roots, compute_uv=False), axis=-1)
    trace = tf.linalg.trace(covariance) + tf.linalg.trace(other_covariance) - 2.0 * cross
    means = tf.reduce_sum(tf.math.squared_difference(mean, other_mean), axis=-1)
    return means + tf.maximum(trace, 0.0)  # below 0 by rounding alone


def symmetric_sqrt(matrix: Tensor) -> Tensor:
    """The positive semi-definite root, [..., D, D]; rounding below zero is taken for zero."""
    values, vectors = tf.linalg.eigh(matrix)
    roots = tf.sqrt(tf.maximum(values, 0.0))
    return tf.einsum("...ij,...j,...kj->...ik", vectors, roots, vectors)
