"""An encoder that somebody has, trained to stay where it was under attack."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from tf_avae.attacks.ascent import Ascent
from tf_avae.backend import keras, tf
from tf_avae.backend.float32 import Float32View
from tf_avae.bounds import ball
from tf_avae.distributions import Posterior, PosteriorBox
from tf_avae.model import AVAE, Met
from tf_avae.networks import Architecture
from tf_avae.objectives import ENCODER, Passes
from tf_avae.registry import Registry
from tf_avae.robustified.objectives import GIVEN, ROBUST
from tf_avae.types import Images, Tensor

ORIGINAL = "original"


@keras.saving.register_keras_serializable("tf_avae")
class Robustified(AVAE):
    """A copy of an encoder that a row of `ROBUST` trains, and the encoder as it was, which stays.

    It trains, reports, attacks, saves and answers as an `AVAE`, but has no decoder: it gives no
    "inconsistency", and "variance" only where the objective trains that. Networks run in inference
    mode in training too: moving statistics and dropout would move embeddings of clean images.

    Args:
        objective: a row of `ROBUST`, or the name of one.
        networks: the encoder as Keras saves it: {"encoder": config}. Its weights, and those of
            `original`, are yet to be set.
        others: as `AVAE`'s, as far as the objective reads them.
    """

    rows: ClassVar[dict[str, Registry[Any]]] = {
        **AVAE.rows, "objective": ROBUST, "architecture": GIVEN,
    }  # fmt: skip
    decoder = None

    def __init__(
        self, *, networks: Mapping[str, Any], architecture: Architecture | str = "given",
        **kwargs: Any,
    ):  # fmt: skip
        super().__init__(networks=networks, architecture=architecture, **kwargs)
        self._float32_original = Float32View(self.original)

    def _make_networks(self, saved: Mapping[str, Any] | None) -> None:
        assert saved
        self.encoder, self.original = (
            # Keras takes the config apart that it is given.
            keras.saving.deserialize_keras_object(copy.deepcopy(saved[ENCODER]))
            for _ in range(2)
        )
        self.gives_variance = "variance" in self.encoder.output

    def _networks(self) -> dict[str, keras.Model]:
        return {ENCODER: self.encoder, ORIGINAL: self.original}

    def start_from(self, encoder: keras.Model) -> None:
        """Takes the weights of an encoder, for the copy and for what it is held to."""
        for network in (self.encoder, self.original):
            network.set_weights(encoder.get_weights())

    def encode(self, images: Images, *, training: bool = False, float32: bool = False) -> Posterior:
        """As `AVAE.encode`, in inference mode; the variance is 0 where the encoder gives none."""
        return _posterior((self._float32_encoder if float32 else self.encoder)(images))

    def encode_original(self, images: Images) -> Posterior:
        """q_0(z|x), as the encoder gave it before, in float32."""
        return _posterior(self._float32_original(images)).stop_gradient()

    @property
    def answers(self) -> tuple[str, ...]:
        return ("embedding", "variance") if self.gives_variance else ("embedding",)

    def outputs(self, images: Images) -> dict[str, Tensor]:
        q = self.encode(images, float32=True)
        return dict(zip(self.answers, q, strict=False))

    def ascent(
        self, images: Images, *, seed: Tensor, q: Posterior | None = None,
        epsilon: Tensor | None = None,
    ) -> Ascent:  # fmt: skip
        """As `AVAE.ascent`: away from q_0(z|x) unless another is given."""
        q = self.encode_original(images) if q is None else q
        return super().ascent(images, seed=seed, q=q, epsilon=epsilon)

    def posterior_box(self, images: Images, epsilon: Tensor) -> PosteriorBox:
        """As `AVAE.posterior_box`; the variance is 0 where the encoder gives none."""
        assert self._bounds
        found = self._bounds(ball(images, epsilon, bounds=self.architecture.bounds))
        mean = found["embedding"]
        if self.gives_variance:
            return PosteriorBox(mean, found["variance"])
        return PosteriorBox(mean, type(mean)(*map(tf.zeros_like, mean)))

    def _passes(
        self, images: Images, *, seed: Tensor, training: bool, float32: bool
    ) -> tuple[Passes, Met | None]:
        def encode(images: Images) -> Posterior:
            return self.encode(images, float32=float32)

        original, q = self.encode_original(images), encode(images)
        met = self._met(images, original, q, seed, encode)
        passes = Passes(images, None, None, q, None, met.found.posterior, q_original=original)
        return passes, met

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "networks": {ENCODER: keras.saving.serialize_keras_object(self.encoder)},
        }


def _posterior(outputs: Mapping[str, Tensor]) -> Posterior:
    mean = outputs["embedding"]
    variance = outputs.get("variance")
    return Posterior(mean, tf.zeros_like(mean) if variance is None else variance)
