"""What a layer does to a box: every layer that has bounds, as linear and monotone parts.

The parts compute in float32 with the layers' own weights, in inference mode: `layer.call`, unlike
the layer, does not cast to what its policy computes in.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from tf_avae.backend import keras, tf
from tf_avae.backend.layers import ConstantVariance
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
        terms: how many numbers at most a number of the output is the sum of, or goes into; the
            constant aside.
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
        exact: it has no rounding.
    """

    apply: Callable[..., Tensor]
    slope: float | None = None
    exact: bool = False


Part = Linear | Monotone


def parts_of(layer: Any) -> list[Part]:
    """The parts of a layer or operation, in order; the first takes its inputs.

    Raises:
        InputError: there are no bounds for it; it is named.
    """
    known = _LAYERS.get(type(layer))
    if known is None and not isinstance(layer, keras.layers.Layer):
        known = _OPERATIONS.get(type(layer).__name__)  # of an expression, such as x + y
    if known is None:
        raise _refused(layer, "is of a kind", [kind.__name__ for kind in _LAYERS])
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


def _kernel(layer: Any, product: Callable[[Tensor, Tensor], Tensor]) -> list[Part]:
    """A layer that sums products with a kernel, whose last axes are inputs and outputs."""
    bias = layer.bias if layer.use_bias else None
    shape = [1, -1, 1, 1] if getattr(layer, "data_format", None) == "channels_first" else [-1]
    return [
        Linear(
            apply=lambda x: product(x, _value(layer.kernel)),
            magnitude=lambda x: product(x, tf.abs(_value(layer.kernel))),
            constant=None if bias is None else lambda: tf.reshape(_value(bias), shape),
            terms=int(np.prod(layer.kernel.shape[:-2])) * max(layer.kernel.shape[-2:]),
        )
    ]


def _value(variable: Any) -> Tensor:
    return tf.cast(tf.convert_to_tensor(variable), tf.float32)


def _depthwise(layer: Any) -> list[Part]:
    def product(x: Tensor, kernel: Tensor) -> Tensor:
        return keras.ops.depthwise_conv(
            x, kernel, strides=list(layer.strides), padding=layer.padding,
            dilation_rate=layer.dilation_rate, data_format=layer.data_format,
        )  # fmt: skip

    return _kernel(layer, product)


def _batch_norm(layer: Any) -> list[Part]:
    def shaped(value: Tensor) -> Tensor:
        axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
        rank = len(layer.input.shape)
        return tf.reshape(value, [-1 if side == axis % rank else 1 for side in range(rank)])

    def scale() -> Tensor:
        gamma = _value(layer.gamma) if layer.scale else 1.0
        return gamma / tf.sqrt(_value(layer.moving_variance) + layer.epsilon)

    def beta() -> Tensor:
        return _value(layer.beta) if layer.center else tf.zeros([])

    def mean() -> Tensor:
        return _value(layer.moving_mean) * scale()

    return [
        Linear(
            apply=lambda x: x * shaped(scale()),
            magnitude=lambda x: x * shaped(tf.abs(scale())),
            constant=lambda: shaped(beta() - mean()),
            size=lambda: shaped(tf.abs(beta()) + tf.abs(mean())),
            terms=6,  # roundings of the scale, not sums
        )
    ]


def _normalization(layer: Any) -> list[Part]:
    if layer.invert:
        raise _refused(layer, "is inverted, of a kind", ["Normalization"])

    def scale() -> Tensor:
        return 1.0 / tf.maximum(tf.sqrt(_value(layer.variance)), keras.config.epsilon())

    def shift() -> Tensor:
        return _value(layer.mean) * scale()

    return [
        Linear(
            apply=lambda x: x * scale(),
            magnitude=lambda x: x * scale(),
            constant=lambda: -shift(),
            size=lambda: tf.abs(shift()),
            terms=6,  # roundings of the scale, not sums
        )
    ]


def _rescaling(layer: Any) -> list[Part]:
    scale, offset = (np.asarray(value, np.float32) for value in (layer.scale, layer.offset))
    return [
        Linear(
            apply=lambda x: x * scale,
            magnitude=lambda x: x * np.abs(scale),
            constant=lambda: tf.constant(offset),
            terms=2,
        )
    ]


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


def _global_pooling(layer: Any) -> list[Part]:
    return _positive(layer.call, int(np.prod(layer.input.shape[1:])))


def _up_sampling(layer: Any) -> list[Part]:
    if layer.interpolation != "nearest":
        raise _refused(layer, f"has the interpolation {layer.interpolation}", ["nearest"])
    return _call(layer)


def _add(layer: Any) -> list[Part]:
    return _positive(lambda *x: reduce(operator.add, x), 8)


def _average(layer: Any) -> list[Part]:
    return _positive(lambda *x: reduce(operator.add, x) / len(x), 8)


def _merge(layer: Any) -> list[Part]:
    return _positive(lambda *x: layer.call(list(x)))


def _subtract(layer: Any) -> list[Part]:
    return [Linear(operator.sub, operator.add, terms=2)]


def _extreme(layer: Any) -> list[Part]:
    return [Monotone(lambda *x: layer.call(list(x)), exact=True)]


def _monotone(layer: Any) -> list[Part]:
    return [Monotone(layer.call, exact=True)]


def _nothing(layer: Any) -> list[Part]:
    return _positive(_same)


def _relu(layer: Any) -> list[Part]:
    low, cut = float(layer.negative_slope), float(layer.threshold)
    if low < 0 or cut < 0:
        raise _refused(layer, f"has negative_slope {low:g} and threshold {cut:g}", ["at least 0"])
    plain = cut == 0 and layer.max_value is None and low < 1
    return [Monotone(layer.call, slope=low if plain else None)]


def _leaky_relu(layer: Any) -> list[Part]:
    slope = float(layer.negative_slope)
    if slope < 0:
        raise _refused(layer, f"has negative_slope {slope:g}", ["at least 0"])
    return [Monotone(layer.call, slope=slope if slope < 1 else None)]


def _elu(layer: Any) -> list[Part]:
    if layer.alpha < 0:
        raise _refused(layer, f"has alpha {layer.alpha:g}", ["at least 0"])
    return [Monotone(layer.call)]


def _activation(layer: Any, function: Callable[[Tensor], Tensor]) -> list[Part]:
    if function is keras.activations.linear:
        return []
    name = getattr(function, "__name__", repr(function))
    # A function of the same name that is not Keras' may do anything.
    if getattr(keras.activations, name, None) is not function or name not in _SLOPES:
        raise _refused(layer, f"has the activation {name}", ["linear", *_SLOPES])
    return [Monotone(function, slope=_SLOPES[name], exact=name == "relu")]


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

_L = keras.layers

_LAYERS: dict[type, Callable[[Any], list[Part]]] = {
    _L.Dense: lambda layer: _kernel(layer, keras.ops.matmul),
    _L.Conv2D: lambda layer: _kernel(layer, layer.convolution_op),
    _L.DepthwiseConv2D: _depthwise,
    _L.BatchNormalization: _batch_norm,
    _L.Normalization: _normalization,
    _L.Rescaling: _rescaling,
    ConstantVariance: _constant_variance,
    **dict.fromkeys(
        (_L.Flatten, _L.Reshape, _L.Permute, _L.ZeroPadding2D, _L.Cropping2D), _call
    ),
    _L.UpSampling2D: _up_sampling,
    _L.AveragePooling2D: _pooling,
    _L.GlobalAveragePooling2D: _global_pooling,
    **dict.fromkeys((_L.MaxPooling2D, _L.GlobalMaxPooling2D), _monotone),
    _L.Add: _add,
    _L.Average: _average,
    _L.Subtract: _subtract,
    _L.Concatenate: _merge,
    **dict.fromkeys((_L.Maximum, _L.Minimum), _extreme),
    _L.Activation: lambda layer: [],
    _L.ReLU: _relu,
    _L.LeakyReLU: _leaky_relu,
    _L.ELU: _elu,
    **dict.fromkeys(
        (_L.Identity, _L.Dropout, _L.SpatialDropout2D, _L.GaussianDropout, _L.GaussianNoise,
         _L.AlphaDropout, _L.ActivityRegularization),
        _nothing,
    ),
}  # fmt: skip

_OPERATIONS: dict[str, Callable[[Any], list[Part]]] = {
    "Add": _add,
    "Relu": lambda operation: [Monotone(keras.activations.relu, slope=0.0, exact=True)],
}
"""Operations of `keras.ops` on Keras tensors, by the names of their classes."""
