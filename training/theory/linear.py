"""The real model, with the linear architecture, on data of a known probabilistic PCA."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy

from tf_avae.backend import keras, tf
from tf_avae.theory.linear import Attack, Component, resting_point
from tf_avae.theory.ppca import PPCA
from tf_avae.types import Images, Tensor

if TYPE_CHECKING:
    from tf_avae.model import AVAE

_BATCH, _LEARNING_RATE = 256, 0.03
_START = 0.01  # codes of random weights start near the prior


@dataclass(frozen=True)
class LinearTask:
    """A known pPCA whose latents show on `pixels` pixels each, all of them evenly, and how to
    train on it. On such data the L-infinity attack has a closed form too.

    Attributes:
        signal_to_noise: l/v of each principal component.
        observation_variance: v. Pixels lie around 0.5 with variance v (1 + signal_to_noise/pixels),
            which must keep them in [0, 1], where attacks stay.
        pixels: of each latent.
        epsilon: radius of the attack.
        rho: both couplings.
        coupling: name of a row of `COUPLINGS`.
        penalty_weight: of the objectives that have one.
    """

    signal_to_noise: tuple[float, ...]
    observation_variance: float = 0.0025
    pixels: int = 4
    epsilon: float = 0.025
    rho: float = 0.9
    coupling: str = "analytic"
    penalty_weight: float = 0.5

    @property
    def latents(self) -> int:
        """How many principal components there are."""
        return len(self.signal_to_noise)

    @property
    def directions(self) -> np.ndarray:
        """u_d, the unit vectors of the principal components, [pixels * latents, latents]."""
        blocks = np.kron(np.eye(self.latents), np.ones((self.pixels, 1)))
        return blocks / np.sqrt(self.pixels)

    @cached_property
    def ppca(self) -> PPCA:
        """The pPCA that the images come from; float32."""
        scales = np.sqrt(np.array(self.signal_to_noise) * self.observation_variance)
        weights = (self.directions * scales).astype(np.float32)
        with tf.init_scope():  # a constant, wherever it is asked for first
            return PPCA(weights, self.observation_variance, np.full(len(weights), 0.5))

    def images(self, count: int, seed: Tensor) -> Images:
        """Fresh images, [count, latents, pixels, 1] float32; seed is int32 [2]."""
        return tf.reshape(self.ppca.sample(count, seed), [count, self.latents, self.pixels, 1])

    def model(self, objective: str, seed: int = 0) -> "AVAE":
        """A linear model with random weights."""
        from tf_avae.model import AVAE

        return AVAE(
            objective=objective,
            architecture="linear",
            image_shape=(self.latents, self.pixels, 1),
            latent_dim=self.latents,
            observation_variance=self.observation_variance,
            rho=self.rho,
            rho_se=self.rho,
            coupling=self.coupling,
            penalty_weight=self.penalty_weight,
            epsilon=self.epsilon,
            seed=seed,
        )

    def train(
        self, model: "AVAE", steps: int, seed: int = 0, callbacks: list | None = None
    ) -> None:
        """Trains a model on batches of fresh images.

        The encoder's weights are about 1/sqrt(v), the decoder's sqrt(v): the steps of LAMB are
        relative to the size of each layer's weights, Adam's are not.
        """
        # Of a plain number, the schedule would compute in Keras' floatx.
        rate = keras.optimizers.schedules.CosineDecay(np.float32(_LEARNING_RATE), steps, alpha=1e-3)
        model.compile(keras.optimizers.Lamb(rate), steps_per_execution=10)
        numbers = tf.data.Dataset.range(steps, output_type=tf.int32)
        batches = numbers.map(
            lambda step: self.images(_BATCH, tf.stack([seed, step])), num_parallel_calls=2
        )
        model.fit(batches.prefetch(8), shuffle=False, verbose=0, callbacks=callbacks)

    def resting_point(
        self, objective: str, *, frozen: np.ndarray | None = None, random_start: bool = True
    ) -> Component:
        """Where training on this task comes to rest, a number for each component.

        Args:
            objective: name of a row of `OBJECTIVES`.
            frozen: the decoder's w of each component, where it is not trained.
            random_start: PGD from one random start, as in training; otherwise the worst case.
        """
        signal = np.array(self.signal_to_noise) * self.observation_variance
        return resting_point(
            objective,
            signal if frozen is None else frozen**2,
            observation_variance=self.observation_variance,
            rho=self.rho,
            rho_se=self.rho,
            coupling=self.coupling,
            penalty_weight=self.penalty_weight,
            attack=Attack(self.epsilon, self.pixels, random_start),
            start=_START,
        )

    def set_weights(self, model: "AVAE", at: Component) -> None:
        """Puts a model at a point: encoder a u^T (x - 0.5), variance s, decoder w z u + 0.5."""
        u = self.directions
        encoder, variance = (model.encoder.get_layer(name) for name in ("mean", "variance"))
        encoder.set_weights([u * at.encoder, -0.5 * at.encoder * u.sum(0)])
        variance.set_weights([np.log(at.variance)])
        model.decoder.set_weights([(u * at.decoder).T, np.full(len(u), 0.5)])

    def read_weights(self, model: "AVAE") -> tuple[Component, np.ndarray]:
        """The components of a trained model, and what part of the decoder lies outside of each.

        Latents come in any order and with any sign; components and latents are paired so that they
        have most of one another.
        """
        weights = model.encoder.get_layer("mean").get_weights()[0]
        log_variance = model.encoder.get_layer("variance").get_weights()[0]
        decoder = model.decoder.get_weights()[0]
        along = decoder @ self.directions
        latent = scipy.optimize.linear_sum_assignment(np.abs(along).T, maximize=True)[1]
        w = along[latent, np.arange(self.latents)]
        sizes = np.linalg.norm(decoder[latent], axis=1)
        encoder = np.einsum("nd,nd->d", weights[:, latent], self.directions)
        found = Component(
            encoder=encoder * np.sign(w),
            variance=np.exp(log_variance[latent]),
            decoder=np.abs(w),
            data_variance=(np.array(self.signal_to_noise) + 1) * self.observation_variance,
            observation_variance=self.observation_variance,
        )
        return found, np.sqrt(np.maximum(1 - (w / sizes) ** 2, 0.0))
