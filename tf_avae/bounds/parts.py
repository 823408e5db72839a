"""What a layer does to a box: every layer that has bounds, as linear and monotone parts.

The parts compute in float32 with the layers' own weights, in inference mode: `layer.call`, unlike
the layer, does not cast to what its policy computes in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tf_avae.backend import keras, tf
from tf_avae.errors import InputError
from tf_avae.types import Tensor


@dataclass(frozen=True)
class Linear:
    """y = apply(x) + constant.

    Attributes:
        apply: inputs to what is linear in them.
        magnitude: the same with the absolute values of all weights; `apply` where none is below 0.
        constant: what is added, broadcast to the output; None where nothing is.
        size: the absolute values of what the constant was made of; its own unless given.
        terms: how many numbers of each input at most a number of the output is the sum of; and
            how many of the output a number of an input goes into. 0 where nothing is added.
    """

    apply: Callable[..., Tensor]
    magnitude: Callable[..., Tensor]
    constant: Callable[[], Tensor] | None = None
    size: Callable[[], Tensor] | None = None
    terms: int = 0


@dataclass(frozen=True)
class Monotone:
    """y = apply(x), which falls in no number of x.

    Attributes:
        apply: inputs to the output.
        slope: it is max(slope x, x), slope in [0, 1); None where it is something else.
        size: float32 has it right to 8 units in the last place of |y| + size; None where it has
            no rounding.
    """

    apply: Callable[..., Tensor]
    slope: float | None = None
    size: float | None = 0.0


Part = Linear | Monotone


def parts_of(layer: Any) -> list[Part]:
    """The parts of a layer or operation, in order; the first takes its inputs.

    Raises:
        InputError: there are no bounds for it; it is named.
    """
    known = None if "call" in vars(layer) else _layers().get(type(layer))
    if known is None and not isinstance(layer, keras.layers.Layer):
        kind = type(layer)  # of an expression, such as x + y
        if kind.__module__.startswith("keras.src.ops."):  # anybody may name a class so
            known = _OPERATIONS.get(kind.__name__)
    if known is None:
        raise _refused(layer, "is of a kind", [kind.__name__ for kind in _layers()])
    if getattr(layer, "quantization_mode", None):
        raise _refused(layer, f"is quantised to {layer.quantization_mode}", ["float32"])
    parts = known(layer)
    activation = getattr(layer, "activation", None)
    return parts if activation is None else [*parts, *_activation(layer, activation)]


def _refused(layer: Any, what: str, known: Iterable[str]) -> InputError:
    return InputError(
        f"no bounds: layer {layer.name!r} ({type(layer).__name__}) {what} whose bounds are not "
        f"known; known are: {', '.join(known)}"
    )


def _same(x: Tensor) -> Tensor:
    return x


def _kernel(layer: Any, product: Callable[[Tensor, Tensor], Tensor], terms: int = 0) -> list[Part]:
    """A layer that sums products with a kernel, whose last axes are inputs and outputs."""
    bias = layer.bias if layer.use_bias else None
    shape = [1, -1, 1, 1] if getattr(layer, "data_format", None) == "channels_first" else [-1]
    return [
        Linear(
            apply=lambda x: product(x, _value(layer.kernel)),
            magnitude=lambda x: product(x, tf.abs(_value(layer.kernel))),
            constant=None if bias is None else lambda: tf.reshape(_value(bias), shape),
            terms=terms or int(np.prod(layer.kernel.shape[:-2])) * max(layer.kernel.shape[-2:]),
        )
    ]


def _value(variable: Any) -> Tensor:
    return tf.cast(tf.convert_to_tensor(variable), tf.float32)


def _depthwise(layer: Any) -> list[Part]:
    def product(x: Tensor, kernel: Tensor) -> Tensor:
        return keras.ops.depthwise_conv(
            x, kernel, strides=layer.strides, padding=layer.padding,
            dilation_rate=layer.dilation_rate, data_format=layer.data_format,
        )  # fmt: skip

    height, width, _, multiplier = layer.kernel.shape
    return _kernel(layer, product, height * width * multiplier)


def _scaled(
    scale: Callable[[], Tensor],
    constant: Callable[[], Tensor],
    size: Callable[[], Tensor] | None = None,
    terms: int = 6,  # roundings of the scale, not sums
) -> list[Part]:
    """A layer that multiplies and adds, number by number."""

    # Functions with names: of two lambdas on a line, AutoGraph cannot tell which is which.
    def apply(x: Tensor) -> Tensor:
        return x * scale()

    def magnitude(x: Tensor) -> Tensor:
        return x * tf.abs(scale())

    return [Linear(apply, magnitude, constant, size, terms)]


def _batch_norm(layer: Any) -> list[Part]:
    def shaped(value: Tensor) -> Tensor:
        axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
        rank = layer.input_spec.ndim
        return tf.reshape(value, [-1 if side == axis % rank else 1 for side in range(rank)])

    def scale() -> Tensor:
        gamma = _value(layer.gamma) if layer.scale else 1.0
        return gamma / tf.sqrt(_value(layer.moving_variance) + layer.epsilon)

    def beta() -> Tensor:
        return _value(layer.beta) if layer.center else tf.zeros([])

    def mean() -> Tensor:
        return _value(layer.moving_mean) * scale()

    return _scaled(
        lambda: shaped(scale()),
        lambda: shaped(beta() - mean()),
        lambda: shaped(tf.abs(beta()) + tf.abs(mean())),
    )


def _normalization(layer: Any) -> list[Part]:
    if layer.invert:
        raise _refused(layer, "is inverted, of a kind", ["Normalization"])

    def scale() -> Tensor:
        return 1.0 / tf.maximum(tf.sqrt(_value(layer.variance)), keras.config.epsilon())

    def shift() -> Tensor:
        return _value(layer.mean) * scale()

    return _scaled(scale, lambda: -shift())


def _rescaling(layer: Any) -> list[Part]:
    scale, offset = (np.asarray(value, np.float32) for value in (layer.scale, layer.offset))
    return _scaled(lambda: tf.constant(scale), lambda: tf.constant(offset), terms=2)


def _constant_variance(layer: Any) -> list[Part]:
    def nothing(x: Tensor) -> Tensor:
        return tf.zeros([tf.shape(x)[0], layer.latent_dim])

    return [Linear(nothing, nothing, constant=lambda: tf.exp(_value(layer.log_variance)), terms=4)]


def _positive(apply: Callable[..., Tensor], terms: int = 0) -> list[Part]:
    """A linear layer that adds up its inputs with no weight below 0."""
    return [Linear(apply, apply, terms=terms)]


def _call(layer: Any) -> list[Part]:
    return _positive(layer.call)


def _pooling(layer: Any) -> list[Part]:
    return _positive(layer.call, int(np.prod(layer.pool_size)))


def _one(layer: Any) -> list[Part]:
    """A layer whose terms follow from the sizes of its input and output."""
    return _positive(layer.call, 1)


def _up_sampling(layer: Any) -> list[Part]:
    if layer.interpolation != "nearest":
        raise _refused(layer, f"has the interpolation {layer.interpolation}", ["nearest"])
    return _one(layer)


# The layers' own calls: they also say what becomes of inputs of different ranks.
def _concatenate(layer: Any) -> list[Part]:
    if layer.axis == 0:
        raise _refused(layer, "joins examples, of a kind", ["an axis from 1 on, or from the end"])
    return _positive(lambda *x: layer.call(list(x)))


def _sum(layer: Any) -> list[Part]:
    return _positive(lambda *x: layer.call(list(x)), 1)


def _subtract(layer: Any) -> list[Part]:
    return [Linear(lambda x, y: layer.call([x, y]), lambda x, y: layer.call([x, -y]), terms=1)]


def _extreme(layer: Any) -> list[Part]:
    return [Monotone(lambda *x: layer.call(list(x)), size=None)]


def _monotone(layer: Any) -> list[Part]:
    return [Monotone(layer.call, size=None)]


def _nothing(layer: Any) -> list[Part]:
    return _positive(_same)


def _relu(layer: Any) -> list[Part]:
    low, cut = float(layer.negative_slope), float(layer.threshold)  # at least 0, by Keras
    plain = cut == 0 and layer.max_value is None and low < 1
    return [Monotone(layer.call, slope=low if plain else None)]


def _leaky_relu(layer: Any) -> list[Part]:
    slope = float(layer.negative_slope)
    return [Monotone(layer.call, slope=slope if slope < 1 else None)]


def _elu(layer: Any) -> list[Part]:
    if layer.alpha < 0:
        raise _refused(layer, f"has alpha {layer.alpha:g}", ["at least 0"])
    return [Monotone(layer.call, size=float(layer.alpha))]


def _activation(layer: Any, function: Callable[[Tensor], Tensor]) -> list[Part]:
    if function is keras.activations.linear:
        return []
    name = getattr(function, "__name__", repr(function))
    # A function of the same name that is not Keras' may do anything.
    if getattr(keras.activations, name, None) is not function or name not in _SLOPES:
        raise _refused(layer, f"has the activation {name}", ["linear", *_SLOPES])
    return [Monotone(function, slope=_SLOPES[name], size=_SIZES.get(name, 0.0))]


_SLOPES: dict[str, float | None] = {
    "relu": 0.0,
    "leaky_relu": 0.2,  # Keras' default, and what the name alone stands for
    **dict.fromkeys(
        "celu elu exponential hard_sigmoid hard_tanh log_sigmoid relu6 selu sigmoid softplus "
        "softsign tanh".split()
    ),
}
"""The monotone activations by Keras' names, and their slopes below 0 where they are of the form
max(slope x, x)."""

_SIZES: dict[str, float | None] = {"relu": None, "elu": 1.0, "selu": 2.0}
"""Sizes where they are not 0: TensorFlow has the last two of exp(x) - 1."""


@functools.cache
def _layers() -> dict[type, Callable[[Any], list[Part]]]:
    """The parts by kind of layer; made when they are needed, since they import Keras."""
    from tf_avae.backend.layers import ConstantVariance

    kinds = keras.layers
    return {
        kinds.Dense: lambda layer: _kernel(layer, keras.ops.matmul),
        kinds.Conv2D: lambda layer: _kernel(layer, layer.convolution_op),
        kinds.DepthwiseConv2D: _depthwise,
        kinds.BatchNormalization: _batch_norm,
        kinds.Normalization: _normalization,
        kinds.Rescaling: _rescaling,
        ConstantVariance: _constant_variance,
        **dict.fromkeys(
            (kinds.Flatten, kinds.Reshape, kinds.Permute, kinds.ZeroPadding2D, kinds.Cropping2D),
            _call,
        ),
        kinds.UpSampling2D: _up_sampling,
        kinds.AveragePooling2D: _pooling,
        kinds.GlobalAveragePooling2D: _one,
        **dict.fromkeys((kinds.MaxPooling2D, kinds.GlobalMaxPooling2D), _monotone),
        **dict.fromkeys((kinds.Add, kinds.Average), _sum),
        kinds.Subtract: _subtract,
        kinds.Concatenate: _concatenate,
        **dict.fromkeys((kinds.Maximum, kinds.Minimum), _extreme),
        kinds.Activation: lambda layer: [],
        kinds.ReLU: _relu,
        kinds.LeakyReLU: _leaky_relu,
        kinds.ELU: _elu,
        **dict.fromkeys(
            (kinds.Identity, kinds.Dropout, kinds.SpatialDropout2D, kinds.GaussianDropout,
             kinds.GaussianNoise, kinds.AlphaDropout, kinds.ActivityRegularization),
            _nothing,
        ),
    }  # fmt: skip


_OPERATIONS: dict[str, Callable[[Any], list[Part]]] = {
    "Add": lambda operation: _positive(operation.call, 1),
    "Relu": lambda operation: [Monotone(operation.call, slope=0.0, size=None)],
}
"""Operations of `keras.ops` on Keras tensors, by the names of their classes."""
