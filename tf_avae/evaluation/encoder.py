"""What is evaluated: an encoder as a few callables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tf_avae.backend import keras, tf
from tf_avae.distributions import Posterior
from tf_avae.evaluation.consistency import Decode
from tf_avae.types import Images, ImageShape, Tensor

Batches = Iterable[tuple[Images, Mapping[str, Tensor]]]
"""Pairs (images [B, H, W, C] float32 in [0, 1], {task: labels [B]}); iterated anew each time."""


@dataclass(frozen=True)
class Encoder:
    """What is evaluated. All callables compute in float32 and in inference mode, and are
    differentiable unless `gradients` says otherwise.

    Attributes:
        name: what it is called in tables.
        embed: images [B, H, W, C] in [0, 1] to embeddings [B, D]: what heads see.
        posterior: images to q(z|x), whose mean is the embedding; needed for distances between
            posteriors, the bound and self-consistency.
        decode: latents [B, D] to images; needed for reconstructions and self-consistency.
        image_shape: (H, W, C) that it takes, where that is known.
        observation_variance: v of p(x|z), for the bound on the likelihood.
        rho: the coupling it was trained with.
        network: gives its layers, for bounds: a Keras model of images to embeddings [B, D] alone.
        gradients: whether TensorFlow has a gradient of what the callables compute. Without, all
            that searches along gradients is left out.
        notes: where it comes from, for the result.
    """

    name: str
    embed: Callable[[Images], Tensor]
    posterior: Callable[[Images], Posterior] | None = None
    decode: Decode | None = None
    image_shape: ImageShape | None = None
    observation_variance: float | None = None
    rho: float | None = None
    network: Callable[[], keras.Model] | None = None
    gradients: bool = True
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def lacks_model(self) -> str | None:
        """What it has not of posterior and decoder, in words; None if it has both."""
        pairs = (("posterior", self.posterior), ("decoder", self.decode))
        missing = [word for word, there in pairs if not there]
        return f"no {' and no '.join(missing)}" if missing else None

    def encode(self, images: Images) -> Posterior:
        """The posterior, or the embedding with variance 0 where there is none."""
        if self.posterior is not None:
            return self.posterior(images)
        mean = self.embed(images)
        return Posterior(mean, tf.zeros_like(mean))
