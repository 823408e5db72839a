"""How well a model explains images: reconstruction error, and a bound on log p(x)."""

import math
from typing import Any

import numpy as np

from tf_avae.backend import tf
from tf_avae.distributions import Posterior, prior_sample, reconstruction
from tf_avae.evaluation import statistics
from tf_avae.evaluation.batches import compiled, image_spec, in_batches, seed_spec
from tf_avae.evaluation.consistency import Decode
from tf_avae.evaluation.representation import Encode
from tf_avae.inputs import image_array, seed_of
from tf_avae.types import Images, PerExample, Tensor

CONVENTIONS = {
    "mean_code": "from the posterior's mean: |x - g(mu(x))|^2",
    "sampled_code": "from one sample of the posterior: |x - g(z)|^2, z ~ q(z|x)",
}
"""Which code is decoded; each is given summed over pixel values, averaged over them, and averaged
on the scale 0 to 255."""


def reconstruction_error(
    encode: Encode, decode: Decode, images: np.ndarray, *, seed: int, batch_size: int
) -> dict[str, Any]:
    """Squared errors of reconstructions, in the conventions in use.

    Returns:
        for each row of `CONVENTIONS`: "sum" over the pixel values of an image, "mean" over them
        (the paper's MSE does not say which), and "mean_255" for values from 0 to 255; each with
        its 95 % interval.

    Raises:
        InputError: they are no images.
    """
    images = image_array(images)

    @compiled(image_spec(images.shape[1:]), seed_spec())
    def errors(x: Images, seed: Tensor) -> dict[str, PerExample]:
        q = encode(x)
        codes = {"mean_code": q.mean, "sampled_code": q.sample(seed)}
        return {
            name: tf.reduce_sum(tf.math.squared_difference(x, decode(z)), axis=[1, 2, 3])
            for name, z in codes.items()
        }

    found = in_batches(errors, images, batch_size=batch_size, seed=seed)
    size = math.prod(images.shape[1:])
    return {
        name: {
            "sum": statistics.mean(values),
            "mean": statistics.mean(values / size),
            "mean_255": statistics.mean(values / size * 255.0**2),
        }
        for name, values in found.items()
    }


def importance_weighted(
    encode: Encode,
    decode: Decode,
    images: Images,
    observation_variance: float,
    *,
    samples: int,
    seed: Tensor,
) -> PerExample:
    """log 1/K sum_k p(x|z_k) p(z_k)/q(z_k|x), z_k ~ q(z|x): in expectation a lower bound of
    log p(x) that grows with K (Burda et al., 2016, eq. 8); exact if q is the posterior.

    Args:
        encode, decode: the networks.
        images: [B, H, W, C].
        observation_variance: v of p(x|z) = N(g(z), v I).
        samples: K, at least 1.
        seed: an integer of at least 0, or a stateless seed, an int32 tensor of shape [2].

    Returns:
        [B], in nats.

    Raises:
        InputError: that is no seed.
    """
    seed = seed_of(seed)
    q = encode(images)
    prior = Posterior(tf.zeros_like(q.mean), tf.ones_like(q.variance)).distribution

    def draw(number: Tensor, total: PerExample) -> tuple:
        z = q.sample(tf.random.experimental.stateless_fold_in(seed, number))
        weight = reconstruction(images, decode(z), observation_variance)
        weight += prior.log_prob(z) - q.distribution.log_prob(z)
        larger = tf.maximum(total, weight)
        return number + 1, larger + tf.math.log(tf.exp(total - larger) + tf.exp(weight - larger))

    first = draw(tf.constant(0), tf.fill(tf.shape(images)[:1], tf.constant(-1e30, q.mean.dtype)))
    _, total = tf.while_loop(lambda number, _: number < samples, draw, first, parallel_iterations=1)
    return total - math.log(samples)


def sampled_images(decode: Decode, latents: int, count: int, *, seed: int, batch_size: int):
    """g(z) for `count` samples of the prior, [count, H, W, C]."""
    z = prior_sample(count, latents, tf.constant([seed, 0], tf.int32)).numpy()
    return in_batches(compiled(tf.TensorSpec([None, latents]))(decode), z, batch_size=batch_size)
