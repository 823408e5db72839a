"""Layers in the order of an architecture: stacks of dense layers and convolutions."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from tf_avae.backend import keras, replicas
from tf_avae.types import ImageShape, Tensor


@dataclass(frozen=True)
class Convolution:
    """One convolution (or its transpose) of a stack."""

    channels: int
    stride: int
    batch_norm: bool


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


def flat(x: Tensor, build: Build) -> Tensor:
    """All numbers of each example in a row, [B, F]."""
    return keras.layers.Flatten(data_format="channels_last", dtype=build.policy)(x)


def dense_stack(x: Tensor, build: Build, units: tuple[int, ...]) -> Tensor:
    """Dense layers, each with its activation."""
    for count in units:
        x = keras.layers.Dense(
            count,
            activation=build.activation,
            dtype=build.policy,
            kernel_initializer=build.initializer(),
        )(x)
    return x


def convolution_stack(
    x: Tensor,
    build: Build,
    kind: type[keras.layers.Layer],
    kernel: int,
    stack: tuple[Convolution, ...],
) -> Tensor:
    """Convolutions of one kind, such as `Conv2D`, each with its activation."""
    for convolution in stack:
        x = _active(_convolved(x, build, kind, kernel, convolution), build)
    return x


def _convolved(
    x: Tensor,
    build: Build,
    kind: type[keras.layers.Layer],
    kernel: int,
    convolution: Convolution,
) -> Tensor:
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
        # Over replicas the statistics are those of the global batch. By another formula, so a
        # model for one device keeps to the plain one.
        together = replicas.count() > 1
        x = keras.layers.BatchNormalization(dtype=build.policy, synchronized=together)(x)
    return x


def _active(x: Tensor, build: Build) -> Tensor:
    return keras.layers.Activation(build.activation, dtype=build.policy)(x)


def residual_stack(x: Tensor, build: Build, channels: tuple[int, ...]) -> Tensor:
    """Residual blocks (He et al., arXiv 1512.03385, figure 2), each of half the height and width:
    two convolutions 3x3, and beside them one of 1x1, which makes both of one shape. All are batch
    normalised, so that in inference mode a block is affine but for its two activations."""
    convolved = functools.partial(_convolved, build=build, kind=keras.layers.Conv2D)
    for count in channels:
        half, same = (Convolution(count, stride, batch_norm=True) for stride in (2, 1))
        inner = _active(convolved(x, kernel=3, convolution=half), build)
        inner = convolved(inner, kernel=3, convolution=same)
        beside = convolved(x, kernel=1, convolution=half)
        x = _active(keras.layers.Add(dtype=build.policy)([inner, beside]), build)
    return x


def dense_output(x: Tensor, build: Build) -> Tensor:
    """A dense layer onto the pixels, in float32."""
    size = int(np.prod(build.image_shape))
    x = keras.layers.Dense(size, dtype="float32", kernel_initializer=build.initializer())(x)
    return keras.layers.Reshape(build.image_shape, dtype="float32")(x)


def convolution_decoder(
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
    x = dense_stack(latents, build, (int(np.prod(start)),))
    x = keras.layers.Reshape(start, dtype=build.policy)(x)
    x = convolution_stack(x, build, keras.layers.Conv2DTranspose, kernel, stack)
    return keras.layers.Conv2DTranspose(
        channels,
        kernel,
        strides=last_stride,
        padding="same",
        data_format="channels_last",
        dtype="float32",
        kernel_initializer=build.initializer(),
    )(x)
