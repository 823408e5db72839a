"""Probabilistic PCA: the linear autoencoding VAE in closed form (App. B).

z ~ N(0, I), x = W z + mean + noise of variance v. With M = W^T W + v I:

    exact posterior    q(z|x) = N(M^-1 W^T (x - mean), v M^-1)
    kernel on images   x' | x ~ N(P x, v (P + I)),            P = W M^-1 W^T
    kernel on latents  z' | z ~ N(J z, v (J + I) M^-1),       J = M^-1 W^T W

(P and J act on deviations from the mean.) Everything is computed from the singular values of W:
in their basis P and J are the shrinkages t = s^2/(s^2 + v) and v M^-1 is 1 - t = v/(s^2 + v), so
no digits are lost as v goes to 0, and v = 0 is the limit itself: P the projection onto the span of
W, the posterior a point where W has full rank, and the prior in directions that W maps to 0.
"""

from typing import NamedTuple

import numpy as np

from tf_avae.backend import tf, tfp
from tf_avae.distributions import symmetric_sqrt
from tf_avae.errors import InputError
from tf_avae.types import Tensor


class AffineGaussian(NamedTuple):
    """p(y|x) = N(gain x + offset, covariance); an encoder, a decoder or a Markov kernel.

    Attributes:
        gain: [..., m, n].
        offset: [..., m].
        covariance: [..., m, m], symmetric and positive semi-definite.
    """

    gain: Tensor
    offset: Tensor
    covariance: Tensor

    def mean(self, x: Tensor) -> Tensor:
        """E[y|x]: x [..., n] to [..., m]."""
        return tf.linalg.matvec(self.gain, x) + self.offset

    def sample(self, x: Tensor, seed: Tensor) -> Tensor:
        """One y for each x: [..., n] to [..., m]; seed is a stateless seed, int32 [2]."""
        mean = self.mean(x)
        noise = tf.random.stateless_normal(tf.shape(mean), seed=seed, dtype=mean.dtype)
        return mean + tf.linalg.matvec(symmetric_sqrt(self.covariance), noise)

    def marginal(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [..., m] and covariance [..., m, m] of y for x ~ N(mean, covariance)."""
        carried = tf.linalg.matmul(self.gain @ covariance, self.gain, transpose_b=True)
        return self.mean(mean), carried + self.covariance

    def then(self, after: "AffineGaussian") -> "AffineGaussian":
        """p(w|x) of `after` applied to this one's y."""
        offset, covariance = after.marginal(self.offset, self.covariance)
        return AffineGaussian(after.gain @ self.gain, offset, covariance)


class PPCA:
    """A probabilistic PCA, or a batch of them.

    All results have the dtype of `weights`; use float64 for checks.

    Args:
        weights: W, [..., n, D], n pixels and D latents, of any rank; float32 or float64.
        observation_variance: v, at least 0, a number or [...]; 0 is the limit v -> 0, where
            singular values that are no more than rounding count as 0.
        mean: of x, [n] or [..., n]; 0 unless given.

    Raises:
        InputError: weights that are no matrix, a value that is not finite, a v that is negative,
            or shapes that do not fit.
    """

    def __init__(
        self, weights: Tensor, observation_variance: Tensor | float, mean: Tensor | None = None
    ):
        self.weights = tf.convert_to_tensor(weights)
        shape, dtype = self.weights.shape, self.weights.dtype
        if shape.rank is None or shape.rank < 2 or dtype not in (tf.float32, tf.float64):
            raise InputError(
                f"weights have shape {shape} and dtype {dtype.name}; they must be a float32 or "
                "float64 matrix [..., pixels, latents]"
            )
        batch, (pixels, latents) = tuple(shape[:-2]), shape[-2:]
        if not np.isfinite(self.weights).all():
            raise InputError("weights hold a value that is not finite; every entry must be")
        self.observation_variance = _fit("observation_variance", observation_variance, batch, dtype)
        if (np.asarray(self.observation_variance) < 0).any():
            raise InputError(
                f"observation_variance is {observation_variance}; it must be at least 0 (the limit)"
            )
        self.data_mean = _fit("mean", 0.0 if mean is None else mean, (*batch, pixels), dtype)
        if mean is not None and np.shape(mean)[-1:] != (pixels,):
            raise InputError(f"mean has shape {np.shape(mean)}; its last axis must be {pixels}")

        # Rows of zeros, so that all D right singular vectors come out where D > n.
        rows = max(latents - pixels, 0)
        padded = tf.pad(self.weights, [[0, 0]] * (shape.rank - 2) + [[0, rows], [0, 0]])
        scales, left, self._right = tf.linalg.svd(padded)
        self._left = left[..., :pixels, :]
        noise = self.observation_variance[..., tf.newaxis]
        # The limit needs the rank: singular values that are rounding are zero, as in
        # numpy.linalg.matrix_rank.
        rounding = np.finfo(dtype.as_numpy_dtype).eps * max(pixels, latents)
        largest = tf.reduce_max(scales, axis=-1, keepdims=True)
        shown = scales > tf.where(noise > 0, 0.0, rounding * largest)
        scales = tf.where(shown, scales, 1.0)
        # s/(s^2 + v) and v/(s^2 + v) without squares, which underflow and overflow.
        share = noise / scales
        zero = tf.zeros_like(scales)
        self._gains = tf.where(shown, 1.0 / (scales + share), zero)
        self._shrinkages = tf.where(shown, scales / (scales + share), zero)
        self._rest = tf.where(shown, share / (scales + share), 1.0)

    # ------------------------------------------------------------------ the model

    @property
    def covariance(self) -> Tensor:
        """C = W W^T + v I of the model marginal p(x) = N(mean, C), [..., n, n]."""
        return tf.linalg.matmul(self.weights, self.weights, transpose_b=True) + self._noise()

    @property
    def decoder(self) -> AffineGaussian:
        """p(x|z) = N(W z + mean, v I)."""
        return AffineGaussian(self.weights, self.data_mean, self._noise())

    @property
    def posterior(self) -> AffineGaussian:
        """The exact q(z|x) = N(M^-1 W^T (x - mean), v M^-1)."""
        gain = _outer(self._right, self._gains, self._left)
        return AffineGaussian(gain, -tf.linalg.matvec(gain, self.data_mean), self._in_z(self._rest))

    def sample(self, count: int, seed: Tensor) -> Tensor:
        """`count` images of the model marginal, [count, ..., n]; seed is int32 [2]."""
        seeds = tf.random.experimental.stateless_split(seed, 2)
        batch = tf.concat([[count], tf.shape(self.weights)[:-2]], 0)
        latents = tf.concat([batch, tf.shape(self.weights)[-1:]], 0)
        z = tf.random.stateless_normal(latents, seed=seeds[0], dtype=self.weights.dtype)
        return self.decoder.sample(z, seeds[1])

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), [...] in nats, for x [..., n]; what the bound of `vae` can reach at most.

        Raises:
            InputError: v is 0, where x has no density.
        """
        if (np.asarray(self.observation_variance) == 0).any():
            raise InputError("observation_variance is 0, so x has no density; it must be above 0")
        scale = tf.linalg.cholesky(self.covariance)
        return tfp.distributions.MultivariateNormalTriL(self.data_mean, scale).log_prob(x)

    # ------------------------------------------------------------------ the chain

    @property
    def projection(self) -> Tensor:
        """P = W M^-1 W^T, [..., n, n]; at v = 0 the orthogonal projection onto the span of W."""
        return _outer(self._left, self._shrinkages, self._left)

    @property
    def contraction(self) -> Tensor:
        """J = M^-1 W^T W, [..., D, D]; at v = 0 the identity where W has full rank."""
        return self._in_z(self._shrinkages)

    @property
    def image_kernel(self) -> AffineGaussian:
        """x -> z -> x': N(P x, v (P + I)). Symmetric with p(x): it keeps it (Props. 2.2, 2.3)."""
        offset = self.data_mean - tf.linalg.matvec(self.projection, self.data_mean)
        v = self.observation_variance[..., tf.newaxis, tf.newaxis]
        return AffineGaussian(self.projection, offset, v * self.projection + self._noise())

    @property
    def latent_kernel(self) -> AffineGaussian:
        """z -> x -> z': N(J z, v (J + I) M^-1). It keeps p(z) (Prop. 3.1)."""
        spread = (1.0 + self._shrinkages) * self._rest
        zero = tf.zeros_like(self.weights[..., 0, :])
        return AffineGaussian(self.contraction, zero, self._in_z(spread))

    def perturbed(self, delta: Tensor) -> AffineGaussian:
        """The exact encoder with M^-1 W^T + delta for its gain; delta is [..., D, n]."""
        exact = self.posterior
        offset = exact.offset - tf.linalg.matvec(delta, self.data_mean)
        return AffineGaussian(exact.gain + delta, offset, exact.covariance)

    def spectrum(self, delta: Tensor) -> Tensor:
        """What one step of the chain with `perturbed(delta)` multiplies, [..., D] complex.

        The chain's mean deviation is multiplied by P + W delta. Its eigenvalues that are not 0
        are those of the D x D matrix J + delta W; as v -> 0 they are 1 + the eigenvalues of
        W delta. The chain drifts away where one is larger than 1 in absolute value, and the
        deviation along it is multiplied by that number at each step.
        """
        return tf.linalg.eigvals(self.contraction + delta @ self.weights)

    def _noise(self) -> Tensor:
        """v I, [..., n, n]."""
        pixels = self.weights.shape[-2]
        v = self.observation_variance[..., tf.newaxis, tf.newaxis]
        return v * tf.eye(pixels, dtype=self.weights.dtype)

    def _in_z(self, values: Tensor) -> Tensor:
        """A symmetric matrix on latents from its eigenvalues, [..., D, D]."""
        return _outer(self._right, values, self._right)


def _fit(name: str, value: Tensor | float, shape: tuple, dtype: "tf.DType") -> Tensor:
    """A finite value as a tensor of this shape."""
    array = np.asarray(value, dtype.as_numpy_dtype)
    if not np.isfinite(array).all():
        raise InputError(f"{name} is {value}; it must be finite")
    try:
        return tf.constant(np.broadcast_to(array, shape))
    except ValueError as error:
        raise InputError(f"{name} has shape {array.shape}; it must fit {shape}") from error


def _outer(left: Tensor, values: Tensor, right: Tensor) -> Tensor:
    """left diag(values) right^T."""
    return tf.linalg.matmul(left * values[..., tf.newaxis, :], right, transpose_b=True)
