"""Self-consistency: what becomes of a latent in turns around the autoencoder, z -> g(z) -> z'."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tf_avae.backend import tf
from tf_avae.distributions import Posterior, w2_squared
from tf_avae.evaluation import statistics
from tf_avae.evaluation.batches import compiled, in_batches, seed_spec
from tf_avae.evaluation.representation import Encode
from tf_avae.types import Images, Latents, Tensor

Decode = Callable[[Latents], Images]
"""Latents [B, D] to the mean g(z) of p(x|z), [B, H, W, C], in inference mode and float32."""


def inconsistency(encode: Encode, decode: Decode, images: Images) -> Tensor:
    """W2^2(q(z|x), q(z|g(mu(x)))), [B]: how far an image is from what the model would encode if it
    had generated it."""
    q = encode(images)
    return w2_squared(q, encode(decode(q.mean)))


class Turn(NamedTuple):
    """One turn of the chain.

    Attributes:
        posterior: q(z|g(z_t)).
        latent: z_(t+1), [B, D].
    """

    posterior: Posterior
    latent: Latents


def chain(
    encode: Encode, decode: Decode, start: Latents, steps: int, *, seed: Tensor | None = None
) -> list[Turn]:
    """The chain from z_0 on: z_(t+1) is a sample of q(z|g(z_t)), or its mean without a seed.

    Args:
        encode, decode: the networks.
        start: z_0, [B, D].
        steps: turns, at least 1.
        seed: of the samples, an int32 tensor of shape [2].
    """
    turns: list[Turn] = []
    z = start
    for step in range(steps):
        q = encode(decode(z))
        fold = None if seed is None else tf.random.experimental.stateless_fold_in(seed, step)
        z = q.mean if fold is None else q.sample(fold)
        turns.append(Turn(q, z))
    return turns


def drift(
    encode: Encode,
    decode: Decode,
    start: np.ndarray,
    *,
    steps: int,
    rho: float | None,
    seed: int,
    batch_size: int = 500,
) -> dict[str, Any]:
    """How far the chain goes from where it began, against what the coupling allows.

    With z' ~ N(rho z, (1 - rho^2) I) at each turn, E|z_t - z_0|^2 is
    (1 - rho^t)^2 |z_0|^2 + (1 - rho^(2t)) D. A self-consistent encoder stays at or below that.

    Args:
        encode, decode: the networks.
        start: z_0, [N, D].
        steps: turns, at least 2.
        rho: the coupling that the encoder was trained with, where it is known.
        seed: of the samples.
        batch_size: chains at once.

    Returns:
        lists with an estimate for each turn 1, 2 ...: "drift_sampled" and "drift_mean", the
        squared distance |z_t - z_0|^2 / D, following samples and following means; "w2", the
        squared 2-Wasserstein distance between the posteriors of a turn and the next, following
        means, from turn 1 to 2 on; and "expected", the formula's mean, or None.
    """
    latents = start.shape[1]

    @compiled(tf.TensorSpec([None, latents]), seed_spec())
    def run(z: Latents, seed: Tensor) -> tuple:
        """Squared distances from the start by turn, and W2^2 from turn to turn, [B, turns] each."""
        means, samples = chain(encode, decode, z, steps), chain(encode, decode, z, steps, seed=seed)
        from_start = [
            tf.stack([tf.reduce_mean((turn.latent - z) ** 2, axis=1) for turn in turns], axis=1)
            for turns in (means, samples)
        ]
        q = [turn.posterior for turn in means]
        moved = [w2_squared(a, b) for a, b in itertools.pairwise(q)]
        return (*from_start, tf.stack(moved, axis=1))

    on_means, on_samples, moved = in_batches(run, start, batch_size=batch_size, seed=seed)
    expected = None
    if rho is not None:
        squares = (start**2).sum(1)
        turns = np.arange(1, steps + 1)
        expected = [
            float(((1 - rho**t) ** 2 * squares / latents + (1 - rho ** (2 * t))).mean())
            for t in turns
        ]
    return {
        "drift_mean": [statistics.mean(v) for v in on_means.T],
        "drift_sampled": [statistics.mean(v) for v in on_samples.T],
        "w2": [statistics.mean(v) for v in moved.T],
        "expected": expected,
    }
