"""The architectures: those of App. F, ours, and a linear one for probabilistic PCA."""

import math

from tf_avae.backend import keras
from tf_avae.networks.architecture import Architecture
from tf_avae.networks.layers import (
    Build,
    Convolution,
    convolution_decoder,
    convolution_stack,
    dense_output,
    dense_stack,
    flat,
    residual_stack,
)
from tf_avae.registry import Registry
from tf_avae.types import Tensor

_MLP_UNITS = (200, 200, 200, 200)
_CONV_ENCODER = tuple(
    # Normalised between the layers: not after the last.
    Convolution(channels, stride, batch_norm=channels < 512)
    for channels, stride in zip((8, 16, 32, 64, 128, 256, 512), (2, 1, 2, 1, 2, 1, 2), strict=True)
)
_CONV_DECODER = (Convolution(64, 1, batch_norm=True), Convolution(32, 2, batch_norm=True))
_CELEBA_ENCODER = tuple(Convolution(c, 2, batch_norm=True) for c in (128, 256, 512, 1024))
_CELEBA_DECODER = tuple(Convolution(c, 2, batch_norm=True) for c in (512, 256, 128))

_RESNET_STEM, _RESNET_BLOCKS = (Convolution(32, 2, batch_norm=True),), (64, 128, 256)
_RESNET_DECODER = tuple(Convolution(c, 2, batch_norm=True) for c in (128, 64, 32))


def _for_bounds(
    name: str, summary: str, *, channels: int, units: int,
    decoder_units: tuple[int, ...] = _MLP_UNITS, activation: str = "relu", batch_norm: bool = False,
) -> Architecture:  # fmt: skip
    """An architecture of few layers, as bounds need it."""
    stack = tuple(Convolution(c, 2, batch_norm) for c in (channels, 2 * channels))

    def encoder_body(x: Tensor, build: Build) -> Tensor:
        x = convolution_stack(x, build, keras.layers.Conv2D, 4, stack)
        return dense_stack(flat(x, build), build, (units,))

    return Architecture(
        name=name,
        summary=summary,
        encoder_body=encoder_body,
        decoder_body=lambda z, b: dense_output(dense_stack(z, b, decoder_units), b),
        activation=activation,
    )


ARCHITECTURES: Registry[Architecture] = Registry(
    "architecture",
    Architecture(
        name="mlp",
        summary="ColorMNIST MLP of App. F: 4 x 200 dense each way",
        encoder_body=lambda x, b: dense_stack(flat(x, b), b, _MLP_UNITS),
        decoder_body=lambda z, b: dense_output(dense_stack(z, b, _MLP_UNITS), b),
    ),
    Architecture(
        name="conv",
        summary="ColorMNIST convolutional network of App. F: 7 convolutions 3x3, 3 transposed",
        encoder_body=lambda x, b: convolution_stack(x, b, keras.layers.Conv2D, 3, _CONV_ENCODER),
        decoder_body=lambda z, b: convolution_decoder(
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
        encoder_body=lambda x, b: convolution_stack(x, b, keras.layers.Conv2D, 5, _CELEBA_ENCODER),
        decoder_body=lambda z, b: convolution_decoder(
            z, b, shrink=16, start_channels=1024, kernel=5, stack=_CELEBA_DECODER, last_stride=2
        ),
        divisor=16,
        smallest=16,
        pgd_steps=5,
    ),
    Architecture(
        name="resnet",
        summary="pictures of 32 to 128 px: a convolution and 3 residual blocks, 4 transposed",
        encoder_body=lambda x, b: residual_stack(
            convolution_stack(x, b, keras.layers.Conv2D, 3, _RESNET_STEM), b, _RESNET_BLOCKS
        ),
        decoder_body=lambda z, b: convolution_decoder(
            z, b, shrink=16, start_channels=256, kernel=4, stack=_RESNET_DECODER, last_stride=2
        ),
        divisor=16,
        # As above, of the last block.
        smallest=32,
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
        encoder_body=lambda x, b: flat(x, b),
        decoder_body=dense_output,
        output="linear",
        bounds=(-math.inf, math.inf),  # Gaussian data
        constant_variance=True,
    ),
)
