"""What an architecture is: an encoder and a decoder of Keras' own layers.

A network is a plain functional Keras model made of Keras' own layers (the linear encoder's
constant variance aside). An encoder maps images [B, H, W, C] to {"embedding": [B, D],
"variance": [B, D]}, mean and variance of q(z|x); a decoder maps latents [B, D] to the mean g(z) of
p(x|z), [B, H, W, C]. Their outputs are float32 under every precision policy. Distributions are
built outside of them.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tf_avae.backend import keras
from tf_avae.config import check, option
from tf_avae.errors import InputError
from tf_avae.inputs import UNIT
from tf_avae.networks.layers import Build, flat
from tf_avae.types import ImageShape, Tensor

OLD_NAME = "mean"
"""What an encoder's output "embedding" was called before; to be read for one release."""


@dataclass(frozen=True)
class Architecture:
    """An encoder and a decoder for images of any size that fits.

    Attributes:
        name: the row's name.
        summary: what it is, for `--help` and the docs.
        encoder_body: (images, Build) to features, as Keras tensors.
        decoder_body: (latents, Build) to images before the float32 output, as Keras tensors.
        output: name of the activation of the decoder's output.
        activation: name of that of the hidden layers.
        constant_variance: the posterior's variance does not depend on the image.
        divisor: height and width must be multiples of this.
        smallest: height and width must be at least this.
        pgd_steps: iterations of PGD in training (App. F).
        bounds: smallest and largest value of its images, and of what an attack makes of them.
    """

    name: str
    summary: str
    encoder_body: Callable[[Tensor, Build], Tensor]
    decoder_body: Callable[[Tensor, Build], Tensor]
    output: str = "sigmoid"
    activation: str = "relu"
    constant_variance: bool = False
    divisor: int = 1
    smallest: int = 1
    pgd_steps: int = 20
    bounds: tuple[float, float] = UNIT

    def fits(self, height: int, width: int) -> bool:
        """Whether it takes images of these sides."""
        return all(side % self.divisor == 0 and side >= self.smallest for side in (height, width))

    def check(self, image_shape: ImageShape) -> None:
        """Raises `InputError` where images of this shape do not fit."""
        height, width, _ = image_shape
        if not self.fits(height, width):
            raise InputError(
                f"architecture {self.name!r} does not fit images of {height}x{width}: height and "
                f"width must be multiples of {self.divisor} and at least {self.smallest}; choose "
                "another architecture or size"
            )

    def encoder(
        self, image_shape: ImageShape, latent_dim: int, *, policy: str = "float32", seed: int = 0
    ) -> keras.Model:
        """A new encoder: images [B, H, W, C] to {"embedding", "variance"}, [B, D] float32 each."""
        self.check(image_shape)
        build = Build(image_shape, policy, seed, self.activation)
        images = keras.Input(image_shape, name="image", dtype="float32")
        features = flat(self.encoder_body(images, build), build)
        dense = functools.partial(keras.layers.Dense, latent_dim, dtype="float32")
        # The layer keeps the name it had: paths of variables, and get_layer, go by it.
        embedding = dense(kernel_initializer=build.initializer(), name="mean")
        variance: keras.layers.Layer
        if self.constant_variance:
            from tf_avae.backend.layers import ConstantVariance

            variance = ConstantVariance(latent_dim, dtype="float32", name="variance")
        else:
            # The network's last layer is log sigma^2, as in the authors' code.
            variance = dense(
                activation="exponential", kernel_initializer=build.initializer(), name="variance"
            )
        outputs = {"embedding": embedding(features), "variance": variance(features)}
        return keras.Model(images, outputs, name="encoder")

    def decoder(
        self, image_shape: ImageShape, latent_dim: int, *, policy: str = "float32", seed: int = 0
    ) -> keras.Model:
        """A new decoder: latents [B, D] to g(z), [B, H, W, C] float32."""
        self.check(image_shape)
        latents = keras.Input((latent_dim,), name="latent", dtype="float32")
        body = self.decoder_body(latents, Build(image_shape, policy, seed, self.activation))
        images = keras.layers.Activation(self.output, dtype="float32", name="image")(body)
        return keras.Model(latents, images, name="decoder")


def renamed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A network as Keras saves it; an output "mean", as it was called before, is "embedding"."""
    outputs = config["config"]["output_layers"]
    if not isinstance(outputs, dict):  # a decoder's
        return config
    outputs = {"embedding" if name == OLD_NAME else name: at for name, at in outputs.items()}
    return {**config, "config": {**config["config"], "output_layers": outputs}}


def image_shape_of(given: Any) -> ImageShape:
    """(H, W, C) as plain integers.

    Raises:
        InputError: it is no such shape.
    """
    try:
        height, width, channels = (operator.index(side) for side in given)
    except (TypeError, ValueError):
        height = width = channels = 0
    if min(height, width, channels) < 1:
        raise InputError(
            f"image_shape is {given!r}; it must be (height, width, channels), whole numbers of at "
            "least 1"
        )
    return height, width, channels


def policy_of(dtype: Any) -> str:
    """The name of the dtype policy given, or of Keras' default: float32 where that is not one that
    models train in.

    Raises:
        InputError: models do not train in what is given.
    """
    if dtype is not None:
        name = dtype if isinstance(dtype, str) else keras.dtype_policies.get(dtype).name
        return check(precision=name)["precision"]
    default = keras.config.dtype_policy().name
    return default if default in option("precision").choices else "float32"
