"""An encoder with a probe as plain arrays, for other libraries to rebuild."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from tf_avae.backend import keras
from tf_avae.errors import InputError
from tf_avae.probes import Probe

_Part = tuple[dict[str, Any], dict[str, Any]]
"""What a layer is, and its weights by name."""

ACTIVATIONS = (
    "relu elu gelu hard_sigmoid mish relu6 selu sigmoid silu softplus softsign tanh".split()
)
"""Those that are rebuilt elsewhere, by Keras' names."""


def arrays_of(encoder: keras.Model, probe: Probe) -> dict[str, np.ndarray]:
    """The network from images to logits, for `np.savez`.

    "layers" is a JSON list of the layers in order; the weights of the n-th are "n.NAME". Kinds, and
    what they have beside their weights, all laid out as Keras does:

    - flatten: "shape", (H, W, C), of what it flattens.
    - dense: kernel [in, out], bias.
    - convolution: kernel [h, w, in, out], bias where there is one; "stride", "shape" as above.
      Padded as "same".
    - batch_norm, in inference mode: gamma, beta, mean, variance; "epsilon".
    - a name of `ACTIVATIONS`; leaky_relu: "slope".
    - standardise: mean, scale; the first layer of the probe.

    Raises:
        InputError: a layer of another kind, or with another option; it is named.
    """
    parts = [part for layer in encoder.layers if layer.name != "variance" for part in _of(layer)]
    parts.append(({"kind": "standardise"}, {"mean": probe.mean, "scale": probe.scale}))
    for number, (kernel, bias) in enumerate(probe.layers):
        parts += [({"kind": "relu"}, {})] if number else []
        parts.append(({"kind": "dense"}, {"kernel": kernel, "bias": bias}))
    arrays = {"layers": np.array(json.dumps([layer for layer, _ in parts]))}
    for number, (_, weights) in enumerate(parts):
        arrays |= {f"{number}.{name}": np.asarray(value) for name, value in weights.items()}
    return arrays


def probe_of(arrays: Any) -> Probe:
    """The probe of such arrays."""
    kinds = [layer["kind"] for layer in json.loads(str(arrays["layers"]))]
    first = kinds.index("standardise")
    mean, scale = (arrays[f"{first}.{name}"] for name in ("mean", "scale"))
    layers = tuple(
        (arrays[f"{number}.kernel"], arrays[f"{number}.bias"])
        for number, kind in enumerate(kinds)
        if number > first and kind == "dense"
    )
    return Probe(mean, scale, layers)


def _of(layer: keras.layers.Layer) -> Iterator[_Part]:
    if type(layer) not in _KINDS:
        raise _refused(layer, "is of a kind", [kind.__name__ for kind in _KINDS])
    yield from _KINDS[type(layer)](layer)
    activation = getattr(layer, "activation", None)
    if activation not in (None, keras.activations.linear):
        name = keras.activations.serialize(activation)
        if name not in ACTIVATIONS:
            raise _refused(layer, f"has the activation {name}", ACTIVATIONS)
        yield {"kind": name}, {}


def _refused(layer: keras.layers.Layer, what: str, known: Iterable[str]) -> InputError:
    return InputError(
        f"layer {layer.name!r} ({type(layer).__name__}) {what} that is not rebuilt elsewhere; "
        f"known are: {', '.join(known)}"
    )


def _only(layer: Any, **options: Any) -> None:
    """Raises `InputError` unless these options of a layer have these values."""
    for name, value in options.items():
        if getattr(layer, name) != value:
            raise _refused(layer, f"has {name} {getattr(layer, name)}", [str(value)])


def _dense(layer: Any) -> list[_Part]:
    _only(layer, use_bias=True)
    return [({"kind": "dense"}, {"kernel": layer.kernel, "bias": layer.bias})]


def _flatten(layer: Any) -> list[_Part]:
    shape = layer.input.shape[1:]
    return [({"kind": "flatten", "shape": shape}, {})] if len(shape) > 1 else []


def _convolution(layer: Any) -> list[_Part]:
    _only(
        layer, padding="same", groups=1, dilation_rate=(1, 1), data_format="channels_last",
        strides=layer.strides[:1] * 2,
    )  # fmt: skip
    bias = {"bias": layer.bias} if layer.use_bias else {}
    spec = {"kind": "convolution", "stride": layer.strides[0], "shape": layer.input.shape[1:]}
    return [(spec, {"kernel": layer.kernel, **bias})]


def _batch_norm(layer: Any) -> list[_Part]:
    _only(layer, center=True, scale=True)
    weights = {"mean": layer.moving_mean, "variance": layer.moving_variance}
    weights |= {"gamma": layer.gamma, "beta": layer.beta}
    return [({"kind": "batch_norm", "epsilon": layer.epsilon}, weights)]


def _relu(layer: Any) -> list[_Part]:
    _only(layer, max_value=None, threshold=0.0)
    slope = float(layer.negative_slope)
    return [({"kind": "leaky_relu", "slope": slope} if slope else {"kind": "relu"}, {})]


_KINDS: dict[type, Callable[[Any], list[_Part]]] = {
    keras.layers.InputLayer: lambda layer: [],
    keras.layers.Flatten: _flatten,
    keras.layers.Dense: _dense,
    keras.layers.Conv2D: _convolution,
    keras.layers.BatchNormalization: _batch_norm,
    keras.layers.Activation: lambda layer: [],
    keras.layers.ReLU: _relu,
    keras.layers.LeakyReLU: lambda layer: [
        ({"kind": "leaky_relu", "slope": float(layer.negative_slope)}, {})
    ],
}
