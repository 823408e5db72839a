"""Encoders and decoders: the architectures of App. F, and a linear one for probabilistic PCA.

A network is a plain functional Keras model made of Keras' own layers (the linear encoder's
constant variance aside). An encoder maps images [B, H, W, C] to {"embedding": [B, D],
"variance": [B, D]}, mean and variance of q(z|x); a decoder maps latents [B, D] to the mean g(z) of
p(x|z), [B, H, W, C]. Their outputs are float32 under every precision policy. Distributions are
built outside of them.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tf_avae.backend import keras, replicas
from tf_avae.config import check, option
from tf_avae.errors import InputError
from tf_avae.inputs import UNIT
from tf_avae.registry import Registry
from tf_avae.types import ImageShape, Tensor

OLD_NAME = "mean"
"""What an encoder's output "embedding" was called before; to be read for one release."""


@dataclass(frozen=True)
class Convolution:
    """One convolution (or its transpose) of a stack."""

    channels: int
    stride: int
    batch_norm: bool


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

    def check(self, image_shape: ImageShape) -> None:
        """Raises `InputError` where images of this shape do not fit."""
        height, width, _ = image_shape
        fits = all(side % self.divisor == 0 and side >= self.smallest for side in (height, width))
        if not fits:
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
        features = _flat(self.encoder_body(images, build), build)
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


class Build:
    """What the bodies need to know, and initialisers that differ from layer to layer.

    Args:
        image_shape: (H, W, C).
        policy: dtype policy of the hidden layers.
        seed: seed of the initial weights.
        activation: name of the activation of hidden layers.
    """

    def __init__(self, image_shape: ImageShape, policy: str, seed: int, activation: str = "relu"):
        self.image_shape = image_shape
        self.policy = policy
        self.activation = activation
        self._seeds = np.random.default_rng(seed)

    def initializer(self) -> keras.initializers.Initializer:
        """A truncated normal of variance 1/fan-in, the default of the authors' library."""
        return keras.initializers.LecunNormal(seed=int(self._seeds.integers(2**31)))


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


def _flat(x: Tensor, build: Build) -> Tensor:
    return keras.layers.Flatten(data_format="channels_last", dtype=build.policy)(x)


def _dense_stack(x: Tensor, build: Build, units: tuple[int, ...]) -> Tensor:
    for count in units:
        x = keras.layers.Dense(
            count,
            activation=build.activation,
            dtype=build.policy,
            kernel_initializer=build.initializer(),
        )(x)
    return x


def _convolution_stack(
    x: Tensor,
    build: Build,
    kind: type[keras.layers.Layer],
    kernel: int,
    stack: tuple[Convolution, ...],
) -> Tensor:
    for convolution in stack:
        x = kind(
            convolution.channels,
            kernel,
            strides=convolution.stride,
            padding="same",
            data_format="channels_last",
            use_bias=not convolution.batch_norm,
            dtype=build.policy,
            kernel_initializer=build.initializer(),
        )(x)
        if convolution.batch_norm:
            # Over replicas the statistics are those of the global batch. By another formula, so
            # a model for one device keeps to the plain one.
            together = replicas.count() > 1
            x = keras.layers.BatchNormalization(dtype=build.policy, synchronized=together)(x)
        x = keras.layers.Activation(build.activation, dtype=build.policy)(x)
    return x


def _dense_output(x: Tensor, build: Build) -> Tensor:
    """A dense layer onto the pixels, in float32."""
    size = int(np.prod(build.image_shape))
    x = keras.layers.Dense(size, dtype="float32", kernel_initializer=build.initializer())(x)
    return keras.layers.Reshape(build.image_shape, dtype="float32")(x)


def _convolution_decoder(
    latents: Tensor,
    build: Build,
    *,
    shrink: int,
    start_channels: int,
    kernel: int,
    stack: tuple[Convolution, ...],
    last_stride: int,
) -> Tensor:
    """A dense layer onto a map 1/shrink as large, transposed convolutions, a float32 output."""
    height, width, channels = build.image_shape
    start = (height // shrink, width // shrink, start_channels)
    x = _dense_stack(latents, build, (int(np.prod(start)),))
    x = keras.layers.Reshape(start, dtype=build.policy)(x)
    x = _convolution_stack(x, build, keras.layers.Conv2DTranspose, kernel, stack)
    return keras.layers.Conv2DTranspose(
        channels,
        kernel,
        strides=last_stride,
        padding="same",
        data_format="channels_last",
        dtype="float32",
        kernel_initializer=build.initializer(),
    )(x)


_MLP_UNITS = (200, 200, 200, 200)
_CONV_ENCODER = tuple(
    # Normalised between the layers: not after the last.
    Convolution(channels, stride, batch_norm=channels < 512)
    for channels, stride in zip((8, 16, 32, 64, 128, 256, 512), (2, 1, 2, 1, 2, 1, 2), strict=True)
)
_CONV_DECODER = (Convolution(64, 1, batch_norm=True), Convolution(32, 2, batch_norm=True))
_CELEBA_ENCODER = tuple(Convolution(c, 2, batch_norm=True) for c in (128, 256, 512, 1024))
_CELEBA_DECODER = tuple(Convolution(c, 2, batch_norm=True) for c in (512, 256, 128))


def _for_bounds(
    name: str, summary: str, *, channels: int, units: int,
    decoder_units: tuple[int, ...] = _MLP_UNITS, activation: str = "relu", batch_norm: bool = False,
) -> Architecture:  # fmt: skip
    """An architecture of few layers, as bounds need it."""
    stack = tuple(Convolution(c, 2, batch_norm) for c in (channels, 2 * channels))

    def encoder_body(x: Tensor, build: Build) -> Tensor:
        x = _convolution_stack(x, build, keras.layers.Conv2D, 4, stack)
        return _dense_stack(_flat(x, build), build, (units,))

    return Architecture(
        name=name,
        summary=summary,
        encoder_body=encoder_body,
        decoder_body=lambda z, b: _dense_output(_dense_stack(z, b, decoder_units), b),
        activation=activation,
    )


ARCHITECTURES: Registry[Architecture] = Registry(
    "architecture",
    Architecture(
        name="mlp",
        summary="ColorMNIST MLP of App. F: 4 x 200 dense each way",
        encoder_body=lambda x, b: _dense_stack(_flat(x, b), b, _MLP_UNITS),
        decoder_body=lambda z, b: _dense_output(_dense_stack(z, b, _MLP_UNITS), b),
    ),
    Architecture(
        name="conv",
        summary="ColorMNIST convolutional network of App. F: 7 convolutions 3x3, 3 transposed",
        encoder_body=lambda x, b: _convolution_stack(x, b, keras.layers.Conv2D, 3, _CONV_ENCODER),
        decoder_body=lambda z, b: _convolution_decoder(
            z, b, shrink=2, start_channels=64, kernel=3, stack=_CONV_DECODER, last_stride=1
        ),
        divisor=2,
        # On 8x8 images the last convolution would see one pixel; there TensorFlow's bfloat16
        # kernels for CPUs leave the gradient of the other weights uninitialised.
        smallest=10,
    ),
    Architecture(
        name="celeba",
        summary="CelebA network of App. F: 4 convolutions 5x5 of stride 2, 4 transposed",
        encoder_body=lambda x, b: _convolution_stack(x, b, keras.layers.Conv2D, 5, _CELEBA_ENCODER),
        decoder_body=lambda z, b: _convolution_decoder(
            z, b, shrink=16, start_channels=1024, kernel=5, stack=_CELEBA_DECODER, last_stride=2
        ),
        divisor=16,
        smallest=16,
        pgd_steps=5,
    ),
    _for_bounds(
        "shallow",
        "for bounds: 2 convolutions 4x4 of stride 2, dense 200, nothing normalised; "
        "decoder 4 x 200 dense",
        channels=16,
        units=200,
    ),
    _for_bounds(
        "wide", "as shallow, with 2 x as many channels and dense 512", channels=32, units=512
    ),
    _for_bounds(
        "compact",
        "as wide, of half the weights: dense 256, decoder dense 128",
        channels=32,
        units=256,
        decoder_units=(128,),
    ),
    _for_bounds(
        "compact_bn",
        "as compact, both convolutions batch-normalised, decoder 4 x 128 dense; train it with "
        "--batch-norm clean",
        channels=32,
        units=256,
        decoder_units=(128,) * 4,
        batch_norm=True,
    ),
    _for_bounds(
        "leaky",
        "as shallow, with leaky rectifiers, which pass a fifth of what is below 0: no unit is ever "
        "dead",
        channels=16,
        units=200,
        activation="leaky_relu",
    ),
    Architecture(
        name="linear",
        summary="probabilistic PCA of App. B: affine mean each way, one variance per latent",
        encoder_body=lambda x, b: _flat(x, b),
        decoder_body=_dense_output,
        output="linear",
        bounds=(-math.inf, math.inf),  # Gaussian data
        constant_variance=True,
    ),
)
